"""The engine in the foreground: `syncline up --foreground`, for systemd and for containers.

The engine itself is always a daemon. The command stays as its guardian: it tells systemd when the engine is ready, copies
the engine's log to stdout, stops the engine at SIGTERM or Ctrl-C, and fails if the engine ends without being stopped, so
that a service manager starts both again.
"""

from __future__ import annotations

import fcntl
import io
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from syncline.cli.local_engine import describe, down, prepared, runs_after_changes
from syncline.errors import SynclineError

_POLL_SECONDS: Final = 1.0
_CHUNK: Final = 1 << 16

Say = Callable[[str], None]


class EngineLog:
    """The part of the engine's log that is written after this object is made, also in a file that replaces it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        with suppress(FileNotFoundError):
            self._file = path.open("rb")
            self._file.seek(0, os.SEEK_END)

    def copy(self, output: BinaryIO) -> None:
        """Write what is new to ``output``."""
        while True:
            if self._file is None:
                try:
                    self._file = self._path.open("rb")
                except FileNotFoundError:
                    return
            replaced = self._is_replaced(self._file)  # before the last read, so that its end is complete
            while chunk := self._file.read(_CHUNK):
                output.write(chunk)
            output.flush()
            if not replaced:
                return
            self._file.close()
            self._file = None

    def _is_replaced(self, file: BinaryIO) -> bool:
        try:
            return self._path.stat().st_ino != os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            return False  # until the new file exists


def run(home: Path, start: Callable[[], object], *, say: Say) -> None:
    """Start the engine with ``start``, and attend to it until it is stopped.

    Raises ENGINE_FAILED if the engine ends and nobody has stopped it, and if another process attends to it already: each
    would stop the engine of the other.
    """
    with _alone(home):
        _run(home, start, say=say)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the right to attend to the engine in the block; raises ENGINE_FAILED."""
    with prepared(home):
        lock = (home / "foreground.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = f"another `syncline up --foreground` attends to the engine in {home}; stop that one first"
            raise SynclineError("ENGINE_FAILED", what) from None
        yield


def _run(home: Path, start: Callable[[], object], *, say: Say) -> None:
    address = os.environ.pop("NOTIFY_SOCKET", "")  # the functions inherit this environment
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # lines of this command and of the log stay in order
    log = EngineLog(home / "engine.log")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        start()
        _notify(address, "READY=1")
        _attend(home, log)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # stopping takes at most 30 s
        _notify(address, "STOPPING=1")
        down(home, say=say)
        log.copy(sys.stdout.buffer)
        say("the engine is down; its state is kept")


def _attend(home: Path, log: EngineLog) -> None:
    while describe(home) is not None or runs_after_changes(home):
        log.copy(sys.stdout.buffer)
        time.sleep(_POLL_SECONDS)
    log.copy(sys.stdout.buffer)
    if (home / "unsaved").exists():
        raise SynclineError("ENGINE_FAILED", f"the engine was killed; see {home / 'engine.log'}")


def _notify(address: str, state: str) -> None:
    """Tell systemd a state of the service (sd_notify(3)); without an address nobody asked."""
    if address:
        path = f"\0{address[1:]}" if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, suppress(OSError):
            channel.sendto(state.encode(), path)
