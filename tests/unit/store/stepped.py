"""A database for records of files that can crash in any call, or run other code before it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from syncline.store.files import FileRecords, shard_of
from syncline.store.files_encoding import unpack
from syncline.store.table import Database
from tests.rig.pump import Clock

AWKWARD: Final = ["a", "a/b", "a b", "ä", "a\u0308", "日本/🎈", "n" * 1024, "\x01", "~", "\ud83d", "\ud83d\ude00", "😀"]
NAMES: Final = [*AWKWARD, *(f"k{n:03}" for n in range(60))]


class CrashError(Exception):
    """The end of the process, for example because the function is killed."""


class SteppedDatabase(Database):
    """A database that runs `hook` before every call and crashes in call `crash_in`.

    `effect` is the share of the crashing call that is carried out, from 0 to 1.
    """

    def __init__(self, table: Any) -> None:
        super().__init__(table)
        self.calls: list[str] = []
        self.hook: Callable[[int], None] = lambda _: None
        self.crash_in: int | None = None
        self.effect = 0.0

    def restart(self) -> None:
        self.calls, self.crash_in, self.hook = [], None, lambda _: None

    def _step(self, name: str) -> bool:
        """Count a call, and return True if it is to crash."""
        at = len(self.calls)
        self.calls.append(name)
        self.hook(at)
        return at == self.crash_in

    def get(self, pk: str, sk: str) -> dict[str, Any] | None:
        if self._step("get"):
            raise CrashError
        return super().get(pk, sk)

    def query_until(self, pk: str, last: str) -> Iterator[dict[str, Any]]:
        if self._step("query"):
            raise CrashError
        # Read completely, as a page is before its first item is yielded.
        return iter(list(super().query_until(pk, last)))

    def sort_keys(self, pk: str, prefix: str) -> Iterator[str]:
        if self._step("sort_keys"):
            raise CrashError
        return iter(list(super().sort_keys(pk, prefix)))

    def batch_get(self, keys: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        if self._step("batch_get"):
            raise CrashError
        return iter(list(super().batch_get(keys)))

    def put(self, item: dict[str, Any]) -> None:
        crash = self._step("put")
        if not crash or self.effect > 0.5:
            super().put(item)
        if crash:
            raise CrashError

    def batch_write(self, puts: list[dict[str, Any]], deletes: list[tuple[str, str]]) -> None:
        crash = self._step("batch_write") if puts or deletes else False
        if crash:
            # DynamoDB may carry out any part of them.
            chance = random.Random(self.effect)
            puts = [item for item in puts if chance.random() < self.effect]
            deletes = [key for key in deletes if chance.random() < self.effect]
        super().batch_write(puts, deletes)
        if crash:
            raise CrashError

    def replace(self, item: dict[str, Any], version: str | None) -> bool:
        crash = self._step("replace")
        done = super().replace(item, version) if not crash or self.effect > 0.5 else False
        if crash:
            raise CrashError
        return done


def records_of(database: Database, clock: Clock, rows: int = 4) -> FileRecords:
    return FileRecords(database, "one", "ab12", clock.time, in_two, rows)


def in_two(name: str) -> int:
    return shard_of(name) % 2


def all_items(database: Database) -> list[dict[str, Any]]:
    return [dict(item) for item in database._table.scan()["Items"]]


def items_of(database: Database) -> list[tuple[str, str]]:
    """Return the keys of all items in the table."""
    return [(str(item["pk"]), str(item["sk"])) for item in all_items(database)]


def directory_of(database: Database, pk: str) -> list[Any]:
    item = Database(database._table).get(pk, "D")
    segments: list[Any] = [] if item is None else unpack(item["data"])[0]
    return segments


def assert_tidy(database: Database) -> None:
    """Check that there are only directories and the segments that they name."""
    keys = items_of(database)
    named = {(pk, segment[0]) for pk, sk in keys if sk == "D" for segment in directory_of(database, pk)}
    assert {key for key in keys if key[1] != "D"} == named
