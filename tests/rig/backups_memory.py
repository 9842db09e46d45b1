"""The index and the records of backups, in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from syncline.kinds.backups.ownership import OwnedFiles
from syncline.kinds.backups.paths import Layout
from syncline.kinds.facts import ProcessFacts
from syncline.store.backup_records import FileCount, IndexEntry
from syncline.store.removals import RemovalWindows
from syncline.store.table import Database


class InMemoryIndex:
    """The index of :class:`syncline.kinds.backups.source.Index` in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, IndexEntry]] = {}
        self.counted: dict[str, dict[str, FileCount]] = {}

    def entries(self, source_id: str, cluster: str) -> dict[str, IndexEntry]:
        return dict(self.objects.get((source_id, cluster), {}))

    def add(self, source_id: str, cluster: str, part: str, entries: Mapping[str, IndexEntry]) -> None:
        assert part
        self.objects.setdefault((source_id, cluster), {}).update(entries)

    def replace(self, source_id: str, cluster: str, entries: Mapping[str, IndexEntry]) -> None:
        self.objects[source_id, cluster] = dict(entries)

    def file_counts(self, reference: str) -> dict[str, FileCount]:
        return dict(self.counted.get(reference, {}))

    def save_file_counts(self, reference: str, counts: Mapping[str, FileCount]) -> None:
        self.counted[reference] = dict(counts)


class InMemoryRecords:
    """The records of one cluster."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {}

    def known(self, names: Iterable[str]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        return {name: self.rows[name] for name in names if name in self.rows}, {}

    def scan(self) -> Iterator[tuple[str, list[Any]]]:
        yield from sorted(self.rows.items())

    def count(self) -> int:
        return len(self.rows)

    def write(self, changes: Mapping[str, list[Any] | None]) -> None:
        for name, row in changes.items():
            if row is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = row


class InMemoryTable:
    """The part of the table's interface that the windows of removals use."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()

    def get(self, pk: str, sk: str) -> dict[str, Any] | None:
        return self._items.get((pk, sk))

    def replace(self, item: dict[str, Any], version: str | None) -> bool:
        with self._lock:
            before = self._items.get((item["pk"], item["sk"]))
            if (None if before is None else before["version"]) != version:
                return False
            self._items[item["pk"], item["sk"]] = item
            return True


class Clock:
    """A clock of Unix seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


class InMemoryOwnership(ProcessFacts):
    """Records of owned files, in dictionaries."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self.rows: dict[str, InMemoryRecords] = {}
        self.facts: dict[str, str] = {}
        self._items = InMemoryTable()
        self.clock = clock or Clock()

    def recall(self, key: str) -> str | None:
        return self.facts.get(key)

    def remember(self, key: str, value: str, seconds: float = 0) -> None:
        del seconds
        self.facts[key] = value

    def owned(self, layout: Layout) -> OwnedFiles:
        def rows(cluster: str) -> InMemoryRecords:
            return self.rows.setdefault(cluster, InMemoryRecords())

        def windows(cluster: str) -> RemovalWindows:
            return RemovalWindows(cast("Database", self._items), "sync", self.clock, cluster)

        return OwnedFiles(layout, rows, windows, self, self.clock)
