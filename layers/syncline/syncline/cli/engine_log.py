"""The log of the engine on this machine: files of a bounded size and number.

``engine.log`` is the present one, ``engine.log.1`` the one before it, and so on. The engine's process imports this module
without the syncline package.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TextIO

NAME: Final = "engine.log"
_BYTES: Final = 10 << 20
"""Size from which a file is rotated; it is checked every few seconds."""
_KEPT: Final = 9
"""Earlier files that are kept."""
_SECONDS: Final = 5.0


def rotate(home: Path, *, most: int = _BYTES, redirect: bool = False) -> bool:
    """Begin a new file if the present one has `most` bytes, and return True if so. The oldest file is removed.

    With `redirect` stdout and stderr of this process continue in the new file.
    """
    log, new = home / NAME, home / f"{NAME}.new"
    try:
        if log.stat().st_size < most:
            return False
    except FileNotFoundError:
        return False
    with new.open("a") as file:
        if redirect:  # before the files get their new names, so that nothing is written to an earlier file
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    for number in range(_KEPT, 0, -1):
        with suppress(FileNotFoundError):
            _path(home, number - 1).replace(_path(home, number))
    new.replace(log)
    return True


def keep_rotating(home: Path) -> None:
    """Start a thread that rotates the log of this process."""

    def watch() -> None:
        while True:
            time.sleep(_SECONDS)
            with suppress(OSError):  # such as a full disk; the log continues in its file
                rotate(home, redirect=True)

    threading.Thread(target=watch, daemon=True, name="log").start()


def open_files(home: Path, stack: ExitStack) -> list[TextIO]:
    """Open all files, the oldest first; `stack` closes them. A rotation meanwhile hides none of them."""
    files: dict[int, TextIO] = {}
    for number in range(_KEPT + 1):  # a file that gets a larger number meanwhile is found again under it
        with suppress(FileNotFoundError):
            file = stack.enter_context(_path(home, number).open(encoding="utf-8", errors="replace"))
            files.setdefault(os.fstat(file.fileno()).st_ino, file)
    return list(reversed(files.values()))


def _path(home: Path, number: int) -> Path:
    return home / (f"{NAME}.{number}" if number else NAME)
