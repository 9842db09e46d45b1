"""The stand-in for Quay as a separate process, so that a measured program does not share its processor time."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final, Self

from tests.standins.quay import TOKEN

_ROOT: Final = Path(__file__).parents[2]


class QuayProcess:
    """Quay's API in front of the registry at ``registry_url``, whose ``user`` is ``name:password`` or empty.

    It reads the registry's content when it starts; :meth:`refresh` reads it again.
    """

    def __init__(
        self, registry_url: str, *, user: str = "", token: str = TOKEN, webhook: str | None = None, port: int = 0
    ) -> None:
        self._arguments = ["--registry", registry_url, "--user", user, f"--token={token}", "--port", str(port)]
        if webhook is not None:
            self._arguments += ["--webhook", webhook]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> Self:
        """Start it; return when it has read the registry's content and answers."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.standins.quay", *self._arguments],
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()  # empty if it ended
        if not self.url:
            self.stop()
            raise RuntimeError("the stand-in for Quay did not start; what it wrote is above")
        return self

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.communicate()

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process else None

    @property
    def events_url(self) -> str:
        """The address to which the registry behind it sends its notifications."""
        return f"{self.url}/-/events"

    def counts(self, *, reset: bool = False) -> Counter[str]:
        """Return the number of requests by kind; ``reset`` sets them to zero afterwards."""
        counts = Counter(self._control("GET", "counts"))
        if reset:
            self._control("DELETE", "counts")
        return counts

    def refresh(self) -> int:
        """Read the complete content of the registry behind it; return the number of tags."""
        return int(self._control("POST", "refresh")["tags"])

    def send_pushes_to(self, url: str) -> None:
        """Send a notification of every push that the registry reports to ``url``."""
        self._control("POST", "webhook", url.encode())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _control(self, method: str, what: str, body: bytes = b"") -> Any:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=120)
        try:
            connection.request(method, f"/-/{what}", body)
            response = connection.getresponse()
            value = json.loads(response.read())
            assert response.status == 200, value
            return value
        finally:
            connection.close()
