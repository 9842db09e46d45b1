"""The file manager's stand-in as a measured server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.place import ROOT
from syncline.clients.http.client import Http


class Manager:
    """The file manager's stand-in in a separate process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.url = process.stdout.readline().strip()

    def seen(self) -> dict[str, Any]:
        """Return the server's own figures: requests by operation, peak concurrency, files, bytes received."""
        seen: dict[str, Any] = Http().request("GET", f"{self.url}/_seen").json()
        return seen


@contextmanager
def manager(delay: float) -> Iterator[Manager]:
    """Start the server, which waits ``delay`` seconds before each answer; it ends with the ``with`` block."""
    command = [sys.executable, "-m", "tests.standins.file_manager", str(delay)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Manager(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
