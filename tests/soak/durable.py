"""State of a stand-in that survives a kill of its process: a dictionary with a journal, and a count of requests."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any


class Durable(dict[str, Any]):
    """A dictionary whose changes :meth:`commit` appends to ``file``, in one write per call.

    A record that a kill truncated is dropped when the file is read: its request was not answered. No value is None.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(read(file))
        self._pending: list[tuple[str, Any]] = []
        self._lock = threading.Lock()
        temporary = file.with_suffix(".new")
        temporary.write_bytes(b"".join(map(pickle.dumps, self.items())))
        temporary.replace(file)
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
    """Return the content that a journal describes, empty if the file does not exist."""
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


class RequestCounter(list[Any]):
    """A list that stores no elements: each ``append`` adds a byte to a file, whose size is the number of requests."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(self, _each: Any) -> None:
        """Count one request."""
        os.write(self._file, b".")
