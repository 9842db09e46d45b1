"""Facts that all functions share, and a replacement for them within one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class FactStore(Protocol):
    """A store of facts; see :class:`syncline.store.facts.Facts`. Losing a fact costs time and makes nothing wrong."""

    def recall(self, key: str) -> str | None: ...

    def remember(self, key: str, value: str, seconds: float = ...) -> None: ...

    def forget(self, key: str) -> None: ...

    def claim(self, key: str, seconds: float) -> bool: ...

    def take(self, key: str, owner: str, seconds: float) -> bool: ...


class ProcessFacts:
    """Facts of one process, for commands that have no table."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._facts: dict[str, str] = {}
        self._claims: dict[str, float] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def recall(self, key: str) -> str | None:
        return self._facts.get(key)

    def remember(self, key: str, value: str, seconds: float = 0.0) -> None:
        del seconds  # the process ends before
        with self._lock:
            self._facts[key] = value
            self._claims.pop(key, None)

    def forget(self, key: str) -> None:
        with self._lock:
            self._facts.pop(key, None)

    def claim(self, key: str, seconds: float) -> bool:
        with self._lock:
            now = self._clock()
            if self._claims.get(key, now) > now:
                return False
            self._claims[key] = now + seconds
            return True

    def take(self, key: str, owner: str, seconds: float) -> bool:
        """Return True: a process has one scan at a time."""
        del key, owner, seconds
        return True
