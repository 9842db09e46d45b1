"""A real Prometheus that has stored pages of metrics from several times, or that scrapes.

with Prometheus(folder, {60.0: first, 120.0: second}) as prometheus:
    prometheus.query("increase(syncline_items_total[1h])", 120.0)
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from tests.standins.nginx import free_ports
from tests.standins.programs import program


class Prometheus:
    """``pages`` are pages in the text format by the time, in Unix seconds, at which they were read.

    ``config`` is the content of its file of configuration.
    """

    def __init__(self, folder: Path, pages: Mapping[float, str], config: str = "global: {}\n") -> None:
        self._folder = folder
        self._pages = pages
        self._text = config
        self._port = free_ports(1)[0]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self._pages:
            self._import()
        config = self._folder / "prometheus.yml"
        config.write_text(self._text)
        command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={self._folder / 'data'}"]
        # The samples of a test are old; the long retention keeps them.
        command += [f"--web.listen-address=127.0.0.1:{self._port}", "--storage.tsdb.retention.time=100y"]
        log = self._stack.enter_context((self._folder / "prometheus.log").open("wb"))
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        end = time.monotonic() + 60
        while not self._is_ready():
            assert process.poll() is None, (self._folder / "prometheus.log").read_text()[-2000:]
            assert time.monotonic() < end, "Prometheus is not ready"
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def query(self, text: str, at: float) -> dict[str, float]:
        """Return the value of an expression at a time for each sync."""
        with self._open(f"/api/v1/query?{urlencode({'query': text, 'time': at})}") as answer:
            result = json.load(answer)["data"]["result"]
        return {each["metric"]["sync"]: float(each["value"][1]) for each in result}

    def get(self, path: str) -> Any:
        """Return the data of a response of the API, such as ``/api/v1/rules``."""
        with self._open(path) as answer:
            return json.load(answer)["data"]

    def _import(self) -> None:
        """Store the pages, sorted by series as OpenMetrics requires."""
        rows = [(line.rpartition(" "), at) for at, page in self._pages.items() for line in _samples(page)]
        rows.sort(key=lambda row: (row[0][0], row[1]))
        text = "".join(f"{series} {value} {at}\n" for (series, _, value), at in rows)
        (self._folder / "samples").write_text(f"{text}# EOF\n")
        command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", "samples", "data"]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError), self._open("/-/ready") as answer:
            return bool(answer.status == 200)
        return False

    def _open(self, path: str) -> urllib.request._UrlopenRet:
        return urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=30)


def _samples(page: str) -> Iterator[str]:
    return (line for line in page.splitlines() if line and not line.startswith("#"))
