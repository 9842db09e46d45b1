"""The backup index: parts are read in any order, merged, and bounded in number and size."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from syncline.store import backup_index as manifests
from syncline.store.backup_index import KEPT, PARTS, BackupIndex
from syncline.store.backup_records import FileCount, IndexEntry, LeftOutCode
from syncline.store.table import Database, unpack
from tests.rig.pump import KilledError
from tests.rig.stack import new_table


class Clock:
    now = 1_752_358_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def database() -> Iterator[Database]:
    with new_table() as table:
        yield Database(table)


def rows(database: Database, pk: str) -> list[str]:
    return [str(item["sk"]) for item in database.query(pk)]


def known(*names: str) -> dict[str, IndexEntry]:
    return {name: IndexEntry(f"etag of {name}", "b" * 40) for name in names}


def test_added_objects_are_known(database: Database) -> None:
    store = BackupIndex(database, Clock())
    assert store.entries("place", "east") == {}
    store.add("place", "east", "one", known("a", "b"))
    store.add("place", "east", "one", known("a", "b"))
    store.add("place", "east", "two", {"b": IndexEntry("newer", "")})
    assert store.entries("place", "east") == known("a") | {"b": IndexEntry("newer", "")}
    assert store.entries("place", "west") == store.entries("other", "east") == {}


def test_a_scan_replaces_the_entries_of_a_cluster(database: Database) -> None:
    store = BackupIndex(database, Clock())
    store.add("place", "east", "one", known("a", "b"))
    store.replace("place", "east", known("a"))
    assert store.entries("place", "east") == known("a")
    store.add("place", "east", "two", known("c"))
    assert store.entries("place", "east") == known("a", "c")


def test_many_parts_are_merged(database: Database) -> None:
    store = BackupIndex(database, Clock())
    for number in range(PARTS):
        store.add("place", "east", f"part{number}", known(f"key{number}"))
    (pk,) = {str(item["pk"]) for item in database._table.scan()["Items"]}
    assert len(rows(database, pk)) == PARTS
    everything = store.entries("place", "east")
    assert rows(database, pk) == ["BASE#000000"]
    assert store.entries("place", "east") == everything == known(*(f"key{n}" for n in range(PARTS)))


def test_large_clusters_take_several_items(database: Database) -> None:
    store = BackupIndex(database, Clock())
    many = {f"{n:05}{'k' * 800}": IndexEntry(f"{n:032x}", f"{n:040x}") for n in range(1500)}
    store.replace("place", "east", many)
    assert store.entries("place", "east") == many
    store.replace("place", "east", known("a"))
    assert store.entries("place", "east") == known("a")


def test_entries_in_use_do_not_expire(database: Database) -> None:
    clock = Clock()
    store = BackupIndex(database, clock)
    store.replace("place", "east", known("a"))
    clock.now += KEPT * 0.6
    store.entries("place", "east")
    (item,) = database._table.scan()["Items"]
    assert float(str(item["expires"])) >= clock.now + KEPT - 1


def test_files_are_counted_for_each_branch(database: Database) -> None:
    store = BackupIndex(database, Clock())
    assert store.file_counts("repository#main") == {}
    store.save_file_counts("repository#main", {"east": FileCount("t1", 5), "west": FileCount("t2", 0)})
    store.save_file_counts("repository#b/north", {"north": FileCount("t3", 1)})
    assert store.file_counts("repository#main") == {"east": FileCount("t1", 5), "west": FileCount("t2", 0)}
    assert store.clusters_of("repository") == 3
    store.save_file_counts("repository#main", {"c" * 1000 + str(n): FileCount("t", 1) for n in range(1000)})
    assert 0 < len(store.file_counts("repository#main")) < 1000, "the counts are limited by the size of one item"


def test_objects_that_are_left_out_are_known_with_their_code(database: Database) -> None:
    store = BackupIndex(database, Clock())
    out = {"secret": IndexEntry("etag", "", "SECRET_SUSPECTED"), "large": IndexEntry("etag", "", "TOO_LARGE")}
    store.add("place", "east", "one", out | known("a"))
    assert store.entries("place", "east") == out | known("a")


def test_a_few_new_parts_are_not_merged(database: Database) -> None:
    clock = Clock()
    store = BackupIndex(database, clock)
    for number in range(PARTS - 1):
        store.add("place", "east", f"part{number}", known(f"key{number}"))
    clock.now += KEPT * 0.4
    assert len(store.entries("place", "east")) == PARTS - 1
    (pk,) = {str(item["pk"]) for item in database._table.scan()["Items"]}
    assert len(rows(database, pk)) == PARTS - 1


def test_a_part_that_expires_soon_causes_a_merge(database: Database) -> None:
    clock = Clock()
    store = BackupIndex(database, clock)
    store.add("place", "east", "old", known("a"))
    clock.now += KEPT * 0.6
    store.add("place", "east", "new", known("b"))
    assert store.entries("place", "east") == known("a", "b")
    (item,) = database._table.scan()["Items"]
    assert (item["sk"], item["expires"]) == ("BASE#000000", int(clock.now) + KEPT)


def test_large_parts_are_split_into_items_that_dynamodb_accepts(database: Database) -> None:
    store = BackupIndex(database, Clock())
    rng = random.Random(1)
    many = {rng.randbytes(400).hex(): IndexEntry(rng.randbytes(16).hex(), rng.randbytes(20).hex()) for _ in range(800)}
    store.add("place", "east", "one", many)
    assert store.entries("place", "east") == many
    items = database._table.scan()["Items"]
    assert len(items) == 3, "about 700 KB in portions of 300 KB"
    assert max(len(bytes(item["objects"])) for item in items) < 400_000  # type: ignore[arg-type]
    store.replace("place", "east", many)
    assert {str(item["sk"]) for item in database._table.scan()["Items"]} == {f"BASE#{n:06}" for n in range(3)}


@pytest.mark.parametrize("code", ["", "NOT_FOUND"])
def test_items_are_filled_to_their_limit(
    database: Database, code: LeftOutCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row has 100 bytes here: key, ETag, blob ID and code, and 12 bytes of JSON."""
    monkeypatch.setattr(manifests, "_SIZE", 1000)
    store = BackupIndex(database, Clock())
    objects = {f"{n:040}": IndexEntry("é" * 10, "b" * (28 - len(code)), code) for n in range(25)}
    store.replace("place", "east", objects)
    assert store.entries("place", "east") == objects
    items = sorted(database._table.scan()["Items"], key=lambda item: str(item["sk"]))
    assert [len(unpack(item["objects"])) for item in items] == [10, 10, 5]


def test_counts_beyond_the_size_of_one_item_are_left_out(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_SIZE", 1000)
    store = BackupIndex(database, Clock())
    counts = {f"{n:020}{'é' * 10}": FileCount("t", n) for n in range(12)}
    store.save_file_counts("repository#main", counts)
    assert store.file_counts("repository#main") == dict(list(counts.items())[:10])


def test_clusters_of_a_repository_are_counted_once_in_all_branches(database: Database) -> None:
    store = BackupIndex(database, Clock())
    assert store.clusters_of("repository") == 0
    store.save_file_counts("repository#main", {"east": FileCount("t1", 5), "west": FileCount("t2", 0)})
    store.save_file_counts("repository#next", {"east": FileCount("t3", 5)})
    store.save_file_counts("other#main", {"north": FileCount("t4", 1)})
    assert (store.clusters_of("repository"), store.clusters_of("other")) == (2, 1)


def test_counts_replace_earlier_ones_and_expire(database: Database) -> None:
    clock = Clock()
    store = BackupIndex(database, clock)
    store.save_file_counts("repository#main", {"east": FileCount("t1", 5)})
    store.save_file_counts("repository#main", {"west": FileCount("t2", 7)})
    assert store.file_counts("repository#main") == {"west": FileCount("t2", 7)}
    (item,) = database._table.scan()["Items"]
    assert item["expires"] == int(clock.now) + KEPT


def test_a_function_killed_during_a_merge_loses_no_entry(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BackupIndex(database, Clock())
    for number in range(PARTS):
        store.add("place", "east", f"part{number}", known(f"key{number}"))

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(database, "delete", die)
        with pytest.raises(KilledError):
            store.entries("place", "east")
    assert store.entries("place", "east") == known(*(f"key{number}" for number in range(PARTS)))
