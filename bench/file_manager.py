"""The stand-in for the file manager, as a server in a separate process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.workspace import ROOT
from syncline.clients.http.client import Http


class Manager:
    """A running stand-in for the file manager."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.url = process.stdout.readline().strip()

    def counters(self) -> dict[str, Any]:
        """Return the counters of the server: requests by operation, peak concurrency, files, bytes received."""
        counters: dict[str, Any] = Http().request("GET", f"{self.url}/_seen").json()
        return counters


@contextmanager
def manager(delay: float) -> Iterator[Manager]:
    """Run the server, which waits ``delay`` seconds before each response, during the ``with`` block."""
    command = [sys.executable, "-m", "tests.standins.file_manager", str(delay)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Manager(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
