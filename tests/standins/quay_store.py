"""The content of the stand-in for Quay: repositories with their states, and tags with their history."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final

STATES: Final = ("NORMAL", "READ_ONLY", "MIRROR", "ORG_MIRROR", "MARKED_FOR_DELETION")


@dataclass(frozen=True, slots=True)
class Tag:
    """``size`` is that of the stored layers, in bytes; None for an index."""

    digest: str
    size: int | None = None
    is_list: bool = False


@dataclass(slots=True)
class _Row:
    """A tag between its push and its move or removal; times are Unix milliseconds."""

    name: str
    tag: Tag
    start: int
    end: int | None = None

    def shown(self) -> dict[str, Any]:
        value: dict[str, Any] = {"name": self.name, "reversion": False, "start_ts": self.start // 1000}
        if self.end is not None:
            value["end_ts"] = self.end // 1000
        value |= {"manifest_digest": self.tag.digest, "is_manifest_list": self.tag.is_list, "size": self.tag.size}
        value["last_modified"] = formatdate(self.start // 1000)
        if self.end is not None:
            value["expiration"] = formatdate(self.end // 1000)
        return value


@dataclass(slots=True)
class Repository:
    """``id`` grows in the order of creation, which is the order of listings."""

    id: int
    name: str
    state: str = "NORMAL"
    public: bool = False
    rows: list[_Row] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return self.name.partition("/")[0]

    def shown(self) -> dict[str, Any]:
        namespace, _, name = self.name.partition("/")
        value = {"namespace": namespace, "name": name, "description": None}
        return {**value, "is_public": self.public, "kind": "image", "state": self.state}

    def alive(self) -> dict[str, _Row]:
        return {row.name: row for row in self.rows if row.end is None}

    def history(self, *, only_active: bool, name: str | None = None) -> list[_Row]:
        """Return the rows as Quay lists them: youngest first, then by name."""
        rows = (r for r in self.rows if (r.end is None or not only_active) and name in (None, r.name))
        return sorted(rows, key=lambda row: (-row.start, row.name))


class Store:
    """All repositories by name. Not thread-safe: concurrent callers hold a lock."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self._ids = itertools.count(1)
        self._last = 0

    def of_namespace(self, namespace: str, start: int, *, public_only: bool) -> Iterator[Repository]:
        """Yield visible repositories from ID ``start`` on, oldest first."""
        for repository in self.repositories.values():  # in order of creation, because ids are never used again
            if repository.id < start or repository.namespace != namespace or repository.state == "MARKED_FOR_DELETION":
                continue
            if repository.public or not public_only:
                yield repository

    def repository(self, name: str) -> Repository:
        """Return the repository of that name, created if necessary."""
        if name not in self.repositories:
            assert "/" in name, f"{name!r} has no namespace"
            self.repositories[name] = Repository(next(self._ids), name)
        return self.repositories[name]

    def put(self, name: str, tags: Mapping[str, Tag]) -> None:
        """Point tags at manifests, as one push of all of them would; previous manifests become history."""
        repository = self.repository(name)
        current = repository.alive()
        now = self._now()
        for tag, value in tags.items():
            row = current.get(tag)
            if row is not None and row.tag == value:
                continue
            if row is not None:
                row.end = now
            repository.rows.append(_Row(tag, value, now))

    def end(self, name: str, tags: Iterable[str]) -> None:
        """Remove tags; they become history."""
        alive = self.repository(name).alive()
        now = self._now()
        for tag in set(tags) & alive.keys():
            alive[tag].end = now

    def _now(self) -> int:
        """Return the time, later than the last one: the order of pushes is the order of listings."""
        self._last = max(self._last + 1, time.time_ns() // 1_000_000)
        return self._last
