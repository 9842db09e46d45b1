"""Facts about a target registry that all functions share: blob locations, and notes about tags.

A blob that another repository of the target has is mounted from there instead of being sent again. Each process keeps
the locations that it learns. Those of larger blobs are also stored in the table, so that a base layer common to many
repositories crosses the network once, even when all of them are copied at the same time: the function that claims it
sends it, the others wait for a limited time. A wrong location costs one request.

Notes are kept for later runs. Losing one costs a scan or a conflict, never a wrong copy.
"""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Callable
from typing import Final

from syncline.clients.registry.manifest import Descriptor
from syncline.kinds.facts import FactStore

WORTH_NOTING: Final = 1024 * 1024
"""Bytes from which on the location of a blob is stored in the table."""
_ASSUMED_RATE: Final = 20 * 1024 * 1024
"""Bytes per second of another function's upload, from which the time to wait for it is computed."""
_LONGEST_WAIT: Final = 30.0
_MOST_LOCATIONS: Final = 100_000
_SHARES: Final = 16
"""Shares of the repositories of a target, by the hash of their names."""


class BlobLocations:
    """The repositories that have blobs, for all targets. Safe to use from any number of threads."""

    def __init__(self, facts: FactStore, sleep: Callable[[float], None] = time.sleep) -> None:
        self._facts = facts
        self._sleep = sleep
        self._locations: dict[str, str] = {}
        self._lock = threading.Lock()

    def find(self, host: str, blob: Descriptor, over: Callable[[], bool]) -> str | None:
        """Return a repository at ``host`` that has the blob, None if none is known or the caller is to send it.

        Waits for another function's upload, in proportion to the blob's size, but not when ``over``.
        """
        key = _key(host, blob)
        repository = self._locations.get(key)
        if repository is not None or blob.size < WORTH_NOTING:
            return repository
        longest = min(_LONGEST_WAIT, 1 + blob.size / _ASSUMED_RATE)
        waited = 0.0
        while (repository := self._facts.recall(key)) is None:
            if self._facts.claim(key, longest) or waited >= longest or over():
                return None
            pause = random.uniform(0.1, 0.3)  # noqa: S311 - a pause is no secret
            self._sleep(pause)
            waited += pause
        self._keep(key, repository)
        return repository

    def note(self, host: str, blob: Descriptor, repository: str, *, sent: bool) -> None:
        """Note that ``repository`` at ``host`` has the blob; ``sent`` if the caller has just sent it there."""
        key = _key(host, blob)
        self._keep(key, repository)
        if sent and blob.size >= WORTH_NOTING:
            self._facts.remember(key, repository)

    def forget(self, host: str, blob: Descriptor) -> None:
        """Forget the location of a blob, which could not be mounted from there."""
        key = _key(host, blob)
        with self._lock:
            self._locations.pop(key, None)
        if blob.size >= WORTH_NOTING:
            self._facts.forget(key)

    def _keep(self, key: str, repository: str) -> None:
        with self._lock:
            if len(self._locations) >= _MOST_LOCATIONS:
                self._locations.clear()
            self._locations.setdefault(key, repository)


def _key(host: str, blob: Descriptor) -> str:
    return f"{host}@{blob.digest}"


class TargetNotes:
    """Notes about the repositories and tags of one target registry."""

    def __init__(self, facts: FactStore, host: str) -> None:
        self.facts = facts
        self._host = host

    def note_unverified(self, group: str) -> None:
        """Note that a copy to a repository was not verified, so that the next scan checks the repository's images."""
        # First the marks of the target and of the share: a note without them would not be found.
        self.facts.remember(self._any, "yes")
        self.facts.remember(self._share(group), "yes")
        self.facts.remember(self._unverified(group), "yes")

    def unverified(self) -> Callable[[str], bool]:
        """Return a function for one scan that tells if a repository has a copy that was not verified.

        The repositories are divided into shares, and only those in a share with such a copy have notes that are read, and
        only if the target has any such copy: most scans read the table once, not once for each repository.
        """
        marks: dict[str, bool] = {}
        lock = threading.Lock()

        def has_unverified(group: str) -> bool:
            share = self._share(group)
            with lock:
                for mark in (self._any, share):
                    if mark not in marks:
                        marks[mark] = marks.get(self._any, True) and self.facts.recall(mark) is not None
            return marks[share] and self.facts.recall(self._unverified(group)) is not None

        return has_unverified

    def forget_unverified(self, group: str) -> None:
        self.facts.forget(self._unverified(group))

    def note_damaged(self, group: str, digest: str) -> None:
        """Note that an audit found other bytes under the digest of a blob than it states."""
        self.facts.remember(self._damaged(group, digest), "yes")

    def is_damaged(self, group: str, digest: str) -> bool:
        """Return True if an audit found a blob damaged, and it was not repaired since."""
        return self.facts.recall(self._damaged(group, digest)) is not None

    def forget_damaged(self, group: str, digest: str) -> None:
        self.facts.forget(self._damaged(group, digest))

    def note_outdated(self, group: str, tag: str, digest: str) -> None:
        """Note that a tag moved on at the source while we copied ``digest`` to the target."""
        self.facts.remember(self._outdated(group, tag), digest)

    def outdated(self, group: str, tag: str) -> str | None:
        """Return the digest that we copied to a tag and that was outdated by then, None for most tags."""
        return self.facts.recall(self._outdated(group, tag))

    @property
    def _any(self) -> str:
        return f"unverified@{self._host}"

    def _share(self, group: str) -> str:
        return f"unverified@{self._host}#{zlib.crc32(group.encode()) % _SHARES}"

    def _unverified(self, group: str) -> str:
        return f"unverified@{self._host}/{group}"

    def _damaged(self, group: str, digest: str) -> str:
        return f"damaged@{self._host}/{group}@{digest}"

    def _outdated(self, group: str, tag: str) -> str:
        return f"outdated@{self._host}/{group}:{tag}"
