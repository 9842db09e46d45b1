"""The workspace of measurements: a temporary folder, and the functions deployed to an engine in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from bench.measure import MeasurementError
from syncline.cli import deploy
from syncline.cli import local_engine as engine
from syncline.cli.aws import LOCAL_CONFIG, local_session
from tests.standins import github
from tests.standins.quay import TOKEN
from tests.standins.rclone import ACCESS, SECRET

ROOT: Final = Path(__file__).resolve().parents[1]

QUAY_TOKEN: Final = "BENCH_QUAY_TOKEN"
GITHUB_TOKEN: Final = "BENCH_GITHUB_TOKEN"

_COMMAND_SECONDS: Final = 1800


def bucket(url: str, name: str) -> dict[str, str | dict[str, str]]:
    """Return the configuration of a bucket on an S3 server of the tests."""
    # The credentials are those of test servers, so the engine's environment may contain them.
    auth = {"access_key": "env:BENCH_S3_ACCESS", "secret_key": "env:BENCH_S3_SECRET"}
    return {"bucket": name, "endpoint": url, "auth": auth}


@dataclass(frozen=True, slots=True)
class CompletedRun:
    """A successful run.

    ``seconds`` is its recorded duration, ``command_seconds`` that of the command that waited for it. ``moved`` and
    ``skipped`` (equal) count items; ``requests`` counts requests to source and target.
    """

    seconds: float
    command_seconds: float
    moved: int
    skipped: int
    requests: int


class Workspace:
    """A temporary folder below ``.build``. The engine starts when the functions are first used."""

    def __init__(self) -> None:
        (ROOT / ".build").mkdir(exist_ok=True)
        self._temporary = tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / ".build")
        self.folder = Path(self._temporary.name)
        self._home = self.folder / "engine"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        engine.down(self._home, say=self.say)
        self._temporary.cleanup()

    def say(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    @cached_property
    def functions(self) -> Functions:
        """The deployed functions; the first call starts their processes."""
        # The engine and the functions inherit these tokens, which are valid for the test servers only.
        os.environ |= {GITHUB_TOKEN: github.TOKEN, QUAY_TOKEN: TOKEN}
        os.environ |= {"BENCH_S3_ACCESS": ACCESS, "BENCH_S3_SECRET": SECRET}
        engine.up(self._home, ROOT, port=0, say=self.say)
        return Functions(self._home)


class Functions:
    """The deployed functions, controlled through the command ``syncline``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._applied = 0

    @property
    def endpoint(self) -> str:
        """The URL of the engine's AWS API."""
        running = engine.describe(self.home)
        assert running is not None
        return running.endpoint

    def apply(self, config: Mapping[str, Any]) -> str:
        """Apply ``config`` as the only sync, under a new name and therefore without state; return the name."""
        self._applied += 1
        name = f"bench-{self._applied}"
        self.apply_all({name: config})
        return name

    def apply_all(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        """Apply these syncs, by name, and remove all others."""
        file = self.home / "syncs.yaml"
        file.write_text(json.dumps({"syncs": configs}))  # JSON is YAML
        self._syncline("apply", str(file), "--prune", "--offline")

    def begin(self, name: str) -> None:
        """Start a run of a sync without waiting for it."""
        self._syncline("run", name)

    def cancel(self, name: str) -> None:
        """Cancel the run in progress of a sync."""
        self._syncline("cancel", name)

    def run(self, name: str) -> CompletedRun:
        """Run a sync to its end. Raises MeasurementError if it has failures."""
        began = time.perf_counter()
        result = self._syncline("run", name, "--wait")
        seconds = time.perf_counter() - began
        run = result["run"]
        counts = run["counts"]
        return CompletedRun(run["seconds"], seconds, counts["moved"], counts["skipped"], counts["requests"])

    def audit(self, name: str, *options: str) -> CompletedRun:
        """Audit a sync. Raises MeasurementError unless source and target are equal."""
        began = time.perf_counter()
        result = self._syncline("audit", name, *options)
        seconds = time.perf_counter() - began
        run = result["run"]
        counts = run["counts"]
        return CompletedRun(run["seconds"], seconds, 0, counts["skipped"], counts["requests"])

    def output(self, name: str) -> str:
        """Return an output of the stack, such as a function URL."""
        running = engine.describe(self.home)
        assert running is not None
        return running.outputs[name]

    def invoke(self, function: str) -> Any:
        """Invoke a function like a schedule; return its response."""
        client = local_session().client("lambda", endpoint_url=self.endpoint, config=LOCAL_CONFIG)
        response = client.invoke(FunctionName=f"{deploy.STACK}-{function}", Payload=b"{}")
        return json.loads(response["Payload"].read())

    def processes(self, function: str) -> list[int]:
        """Return the IDs of a function's processes; none on systems without /proc."""
        argument = f"{self.home}/tmp/ministack-lambda-syncline-{function}-".encode()
        found = []
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if argument in command.read_bytes():
                    found.append(int(command.parent.name))
            except OSError:
                continue  # the process has ended meanwhile
        return found

    def _syncline(self, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "syncline.cli.main", *arguments, "--home", str(self.home), "--json"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SYNCLINE_")}
        done = subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS
        )
        if done.returncode != 0:
            raise MeasurementError(
                f"`syncline {' '.join(arguments)}` failed: {done.stdout.strip()} {done.stderr.strip()}"
            )
        value: dict[str, Any] = json.loads(done.stdout)
        return value
