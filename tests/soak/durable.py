"""What keeps a stand-in's content over a kill of its process: a dictionary with a journal, and a count of requests."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any


class Durable(dict[str, Any]):
    """A dictionary whose changes are appended to ``file`` by :meth:`commit`, all those of one call in one write.

    A record that a kill cut off is dropped when the file is read: its request was not answered. No value is None.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(read(file))
        self._pending: list[tuple[str, Any]] = []
        self._lock = threading.Lock()
        new = file.with_suffix(".new")
        new.write_bytes(b"".join(map(pickle.dumps, self.items())))
        new.replace(file)
        self._journal = os.open(file, os.O_WRONLY | os.O_APPEND)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._pending.append((key, value))

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._pending.append((key, None))

    def pop(self, key: str, *default: Any) -> Any:
        """Remove a key and return its value."""
        if key in self:
            self._pending.append((key, None))
        return super().pop(key, *default)

    def commit(self) -> None:
        """Write the changes since the last call."""
        with self._lock:
            pending, self._pending = self._pending, []
            if pending:
                os.write(self._journal, b"".join(map(pickle.dumps, pending)))


def read(file: Path) -> dict[str, Any]:
    """Return what a journal comes to; nothing where there is none."""
    found: dict[str, Any] = {}
    if not file.exists():
        return found
    with file.open("rb") as journal:
        while True:
            try:
                key, value = pickle.load(journal)
            except (EOFError, pickle.UnpicklingError, ValueError):
                return found
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value


class Tally(list[Any]):
    """A list that keeps nothing: each ``append`` adds a byte to a file, whose size is the number of requests."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(self, _each: Any) -> None:
        """Count one."""
        os.write(self._file, b".")
