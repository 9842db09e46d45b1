"""What is remembered of files, and whose turn it is at a server, in a table of moto's."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from moto import mock_aws

from syncline.stores.files import KEPT, SHARDS, FileRecords, shard_of
from syncline.stores.slots import Slots
from syncline.table import Database
from tests.pump import Clock
from tests.stack import create_table

KEYS = ["a", "a/b", "a b", "ä", "a\u0308", "日本/🎈", "n" * 1024, "\x01", "~", *(f"k{n:03}" for n in range(60))]


@pytest.fixture
def database() -> Iterator[Database]:
    with mock_aws():
        yield Database(create_table())


class TestRecords:
    def test_they_come_in_the_order_of_a_listing(self, database: Database) -> None:
        records = FileRecords(database, "one")
        records.write({key: f"v {key}" for key in KEYS})
        FileRecords(database, "two").write({"other": "x"})
        in_order = sorted(KEYS, key=lambda key: key.encode())
        assert list(records.behind("")) == [(key, f"v {key}") for key in in_order]
        assert [key for key, _ in records.behind("a b")] == in_order[in_order.index("a b") + 1 :]
        assert [key for key, _ in records.behind("", "a")] == [key for key in in_order if key.startswith("a")]
        assert [key for key, _ in records.behind("k010", "k0")] == [f"k{n:03}" for n in range(11, 60)]

    def test_they_are_read_by_key_written_and_deleted(self, database: Database) -> None:
        records = FileRecords(database, "one")
        records.write(dict.fromkeys(KEYS, "1"))
        records.write({"a": "2", "a/b": None, "never": None})
        assert records.get(["a", "a/b", "ä", "absent"]) == {"a": "2", "ä": "1"}
        assert len(records.get([*KEYS, *(f"absent{n}" for n in range(100))])) == len(KEYS) - 1

    def test_what_is_kept_of_a_file_that_is_gone_is_no_file(self, database: Database) -> None:
        clock = Clock()
        records = FileRecords(database, "one", clock.time)
        records.write({"a": "1", "b": "1", "c": "1"})
        records.write({"a": "2", "c": None}, {"b": "kept"})
        assert records.known(["a", "b", "c"]) == ({"a": "2"}, {"b": "kept"})
        assert records.get(["a", "b", "c"]) == {"a": "2"}
        assert list(records.behind("")) == [("a", "2")]
        item = database.get(f"FILES#one#{shard_of('b'):02}", "b")
        assert item is not None
        assert item["expires"] == int(clock.now) + KEPT
        records.write({"b": "again"})
        assert records.known(["b"]) == ({"b": "again"}, {})

    def test_all_partitions_are_used(self) -> None:
        counts = [0] * SHARDS
        for number in range(16_000):
            counts[shard_of(f"folder/{number}")] += 1
        assert min(counts) > 800
        assert max(counts) < 1200


class TestSlots:
    def test_no_more_than_there_are(self, database: Database) -> None:
        clock = Clock()
        slots = Slots(database, clock.time, random.Random(1))
        taken = [slots.take("place", 3, 60) for _ in range(4)]
        assert {slot.number for slot in taken if slot is not None} == {0, 1, 2}
        assert taken[3] is None
        assert slots.take("elsewhere", 1, 60) is not None
        assert taken[1] is not None
        slots.give_back(taken[1])
        again = slots.take("place", 3, 60)
        assert again is not None
        assert again.number == taken[1].number
        slots.give_back(taken[1])  # it is another's by now
        assert slots.take("place", 3, 60) is None

    def test_one_that_was_never_given_back_is_free_in_the_end(self, database: Database) -> None:
        clock = Clock()
        slots = Slots(database, clock.time, random.Random(1))
        assert slots.take("place", 1, 60) is not None
        clock.sleep(59)
        assert slots.take("place", 1, 60) is None
        clock.sleep(1)
        assert slots.take("place", 1, 60) is not None
