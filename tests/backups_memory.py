"""What backups remember, in a dictionary."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from syncline.kinds.backups.ours import Ledger
from syncline.kinds.backups.paths import Layout
from syncline.store.backup_records import Count, Known
from syncline.store.removals import RemovalWindows
from syncline.store.table import Database


class Kept:
    """The memory of :mod:`syncline.kinds.backups.memory` in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Known]] = {}
        self.counted: dict[str, dict[str, Count]] = {}

    def known(self, place: str, cluster: str) -> dict[str, Known]:
        return dict(self.objects.get((place, cluster), {}))

    def note(self, place: str, cluster: str, part: str, known: Mapping[str, Known]) -> None:
        assert part
        self.objects.setdefault((place, cluster), {}).update(known)

    def settle(self, place: str, cluster: str, known: Mapping[str, Known]) -> None:
        self.objects[place, cluster] = dict(known)

    def counts(self, reference: str) -> dict[str, Count]:
        return dict(self.counted.get(reference, {}))

    def keep_counts(self, reference: str, counts: Mapping[str, Count]) -> None:
        self.counted[reference] = dict(counts)


class KeptRows:
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


class KeptItems:
    """A table as the windows of removals use it."""

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
    """Unix seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


class KeptLedger:
    """What a ledger keeps, in dictionaries."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.rows: dict[str, KeptRows] = {}
        self.facts: dict[str, str] = {}
        self._items = KeptItems()
        self.clock = clock or Clock()

    def recall(self, key: str) -> str | None:
        return self.facts.get(key)

    def remember(self, key: str, value: str, seconds: float = 0) -> None:
        del seconds
        self.facts[key] = value

    def ledger(self, layout: Layout) -> Ledger:
        def rows(cluster: str) -> KeptRows:
            return self.rows.setdefault(cluster, KeptRows())

        def windows(cluster: str) -> RemovalWindows:
            return RemovalWindows(cast("Database", self._items), "sync", self.clock, cluster)

        return Ledger(layout, rows, windows, self, self.clock)
