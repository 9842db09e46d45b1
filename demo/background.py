"""Background processes, identified by process ID and start time.

The start time distinguishes a process from a later one with the same ID, so that :func:`stop` ends no other process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

START_LIMIT: Final = 60.0  # seconds
STOP_LIMIT: Final = 90.0  # seconds; an engine saves the content of its registry when it stops

_POLL_EVERY: Final = 0.05


def start(folder: Path, command: list[str], environment: Mapping[str, str], is_ready: Callable[[], bool]) -> None:
    """Start a program with its log and process ID in ``folder``; return when ``is_ready`` returns True.

    Raises RuntimeError with the end of its log if it ends, or is not ready within a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # A separate session, so that Ctrl-C at the terminal does not interrupt the program.
    pid = os.posix_spawn(command[0], command, environment, file_actions=streams, setsid=True)
    remember(folder, pid)
    end = time.monotonic() + START_LIMIT
    while not is_ready():
        if running(folder) is None or time.monotonic() > end:
            stop(folder)
            _reap(pid)
            text = log.read_text("utf-8", "replace").strip()
            raise RuntimeError(f"{folder.name} did not start; {log} ends with: {text[-800:]}")
        time.sleep(_POLL_EVERY)


def remember(folder: Path, pid: int) -> None:
    """Record a process ID for :func:`running` and :func:`stop`."""
    (folder / "pid").write_text(f"{pid} {_started(pid)}\n")


def running(folder: Path) -> int | None:
    """Return the ID of the process of ``folder``, or None if it does not run."""
    try:
        pid, started = (folder / "pid").read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _started(int(pid)) == started else None


def stop(folder: Path) -> bool:
    """Terminate the process of ``folder`` and wait for its end; return False if there was none."""
    pid = running(folder)
    if pid is not None:
        _signal(pid, signal.SIGTERM)
        end = time.monotonic() + STOP_LIMIT
        while running(folder):
            if time.monotonic() > end:
                _signal(pid, signal.SIGKILL)
            _reap(pid)
            time.sleep(_POLL_EVERY)
    (folder / "pid").unlink(missing_ok=True)
    return pid is not None


def _started(pid: int) -> str:
    """Return the start time of a process in clock ticks; empty if it does not exist or is a zombie."""
    try:
        # The name in parentheses may contain anything; the third field follows it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
