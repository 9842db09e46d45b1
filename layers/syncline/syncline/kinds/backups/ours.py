"""The record of the files at the target that are ours.

A file is ours while the target has the fingerprint that is recorded for it: we wrote it, or found it equal to the
source. Everything else at the target is foreign. The records are kept by cluster, as the target is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from syncline.kinds.backups.layout import Layout
from syncline.ownership import Windows


class Rows(Protocol):
    """The records of one cluster: see :class:`syncline.store.files.FileRecords`."""

    def known(self, names: Iterable[str]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]: ...

    def scan(self) -> Iterator[tuple[str, list[Any]]]: ...

    def count(self) -> int: ...

    def write(self, changes: Mapping[str, list[Any] | None]) -> object: ...


class Facts(Protocol):
    """See :class:`syncline.store.facts.Facts`."""

    def recall(self, key: str) -> str | None: ...

    def remember(self, key: str, value: str, seconds: float = ...) -> None: ...


@dataclass(frozen=True, slots=True)
class Ours:
    """A file of ours: its fingerprint at the target, and the ETag and the size (bytes) of the object that it is of.

    ``etag`` is "" and ``size`` -1 where they are not known. ``created`` is the time (Unix seconds) at which the file
    appeared at the target; 0 if it was there before, or has explained a rename.
    """

    fingerprint: str
    etag: str = ""
    size: int = -1
    created: int = 0

    def is_at(self, fingerprint: str) -> bool:
        """Return True if a file at the target is the one that is recorded."""
        return self.fingerprint in (fingerprint, content_of(fingerprint))

    @property
    def marks(self) -> tuple[object, ...]:
        """What files of equal content have in common."""
        return marks_of(self.fingerprint, self.etag, self.size)


def content_of(fingerprint: str) -> str:
    """Return a fingerprint without the mode before it.

    Git has one before that of an executable file or a link: whoever changed the mode of our file did not make another.
    """
    return re.sub(r"^1[0-7]{5}:", "", fingerprint)


def marks_of(fingerprint: str | None, etag: str | None, size: int | None) -> tuple[object, ...]:
    """Return what files of equal content have in common, as far as it is known."""
    marks: list[object] = [fingerprint] if fingerprint else []
    return (*marks, (etag, size)) if etag and size is not None and size >= 0 else tuple(marks)


class Ledger:
    """The records of a sync. ``rows`` returns those of a cluster, ``windows`` the removals of a cluster ("" for all).

    ``clock`` returns Unix seconds.
    """

    def __init__(
        self,
        layout: Layout,
        rows: Callable[[str], Rows],
        windows: Callable[[str], Windows],
        facts: Facts,
        clock: Callable[[], float],
    ) -> None:
        self._layout = layout
        self._rows = rows
        self.windows = windows
        self.facts = facts
        self.clock = clock

    def of(self, cluster: str) -> dict[str, Ours]:
        """Return the records of a cluster by key."""
        prefix = self._layout.prefix
        return {prefix + name: Ours(*row) for name, row in self._rows(cluster).scan()}

    def has(self, cluster: str) -> bool:
        """Return True if a cluster has any file of ours."""
        return self._rows(cluster).count() > 0

    def some(self, keys: Iterable[str]) -> dict[str, Ours]:
        """Return the records of keys, as far as they have any."""
        found: dict[str, Ours] = {}
        for cluster, names in self._by_cluster(dict.fromkeys(keys)).items():
            rows, _ = self._rows(cluster).known(names)
            found |= {self._layout.prefix + name: Ours(*row) for name, row in rows.items()}
        return found

    def write(self, changes: Mapping[str, Ours | None]) -> None:
        """Record files by key; None for one that is not ours any more."""
        for cluster, named in self._by_cluster(changes).items():
            self._rows(cluster).write({name: None if ours is None else _row(ours) for name, ours in named.items()})

    def count(self, clusters: Iterable[str]) -> int:
        """Return how many selected files of some clusters are ours."""
        return sum(self._layout.takes(key) for cluster in clusters for key in self.of(cluster))

    def _by_cluster(self, keys: Mapping[str, Ours | None]) -> dict[str, dict[str, Ours | None]]:
        found: dict[str, dict[str, Ours | None]] = defaultdict(dict)
        for key, ours in keys.items():
            cluster = self._layout.cluster_of(key)
            if cluster is not None:
                found[cluster][key.removeprefix(self._layout.prefix)] = ours
        return found


def _row(ours: Ours) -> list[Any]:
    return [ours.fingerprint, ours.etag, ours.size, ours.created]
