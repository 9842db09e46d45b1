"""Where blobs are at a target: a blob that another repository has is mounted from there instead of being sent again.

Each process keeps what it learns. Larger blobs are also noted in a memory that all functions share, so that a base
layer common to many repositories crosses the network once, even when all of them are copied at the same time: who
claims it sends it, the others wait a little for it. A place that turns out wrong costs one request.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from syncline.clients.registry.manifest import Descriptor

WORTH_NOTING: Final = 1024 * 1024
"""Bytes from which a blob is worth calls to the shared memory."""
_SLOWEST: Final = 20 * 1024 * 1024
"""Bytes a second at which somebody else's upload is worth waiting for."""
_LONGEST_WAIT: Final = 30.0
_REMEMBERED: Final = 100_000


class Memory(Protocol):
    """What all functions remember together; see :class:`syncline.store.state.State`."""

    def recall(self, key: str) -> str | None: ...

    def remember(self, key: str, value: str) -> None: ...

    def forget(self, key: str) -> None: ...

    def claim(self, key: str, seconds: float) -> bool: ...


class BlobPlaces:
    """The places of blobs, for all targets; safe to use from any number of threads."""

    def __init__(self, memory: Memory, sleep: Callable[[float], None] = time.sleep) -> None:
        self._memory = memory
        self._sleep = sleep
        self._places: dict[str, str] = {}
        self._lock = threading.Lock()

    def find(self, host: str, blob: Descriptor, over: Callable[[], bool]) -> str | None:
        """A repository at ``host`` that has the blob; None where none is known, or the caller is the one to send it.

        Waits for somebody else's upload in proportion to the blob's size, but not when ``over``.
        """
        key = _key(host, blob)
        place = self._places.get(key)
        if place is not None or blob.size < WORTH_NOTING:
            return place
        longest = min(_LONGEST_WAIT, 1 + blob.size / _SLOWEST)
        waited = 0.0
        while (place := self._memory.recall(key)) is None:
            if self._memory.claim(key, longest) or waited >= longest or over():
                return None
            pause = random.uniform(0.1, 0.3)  # noqa: S311 - a pause is no secret
            self._sleep(pause)
            waited += pause
        self._keep(key, place)
        return place

    def note(self, host: str, blob: Descriptor, repository: str, *, sent: bool) -> None:
        """The blob is in ``repository`` at ``host``; ``sent`` if the caller has just put it there."""
        key = _key(host, blob)
        self._keep(key, repository)
        if sent and blob.size >= WORTH_NOTING:
            self._memory.remember(key, repository)

    def forget(self, host: str, blob: Descriptor) -> None:
        """The blob could not be mounted from where it was said to be."""
        key = _key(host, blob)
        with self._lock:
            self._places.pop(key, None)
        if blob.size >= WORTH_NOTING:
            self._memory.forget(key)

    def _keep(self, key: str, repository: str) -> None:
        with self._lock:
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            self._places.setdefault(key, repository)


def _key(host: str, blob: Descriptor) -> str:
    return f"{host}@{blob.digest}"


# Notes about tags at a target, kept for later runs. Losing one costs a scan or a conflict, never a wrong copy.


class Notes:
    """The notes of one target registry."""

    def __init__(self, memory: Memory, host: str) -> None:
        self._memory = memory
        self._host = host

    def note_unverified(self, group: str) -> None:
        """Note that something put into a repository was not verified, so that its images have to be looked through."""
        self._memory.remember(self._unverified(group), "yes")

    def has_unverified(self, group: str) -> bool:
        return self._memory.recall(self._unverified(group)) is not None

    def forget_unverified(self, group: str) -> None:
        self._memory.forget(self._unverified(group))

    def note_outdated(self, group: str, tag: str, digest: str) -> None:
        """Note that a tag moved on at the source while we put `digest` at the target."""
        self._memory.remember(self._outdated(group, tag), digest)

    def outdated(self, group: str, tag: str) -> str | None:
        """Return the digest that we put under a tag and that was outdated by then, None for most tags."""
        return self._memory.recall(self._outdated(group, tag))

    def _unverified(self, group: str) -> str:
        return f"unverified@{self._host}/{group}"

    def _outdated(self, group: str, tag: str) -> str:
        return f"outdated@{self._host}/{group}:{tag}"
