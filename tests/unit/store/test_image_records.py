"""Records of images: by repository and tag, in few items of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from syncline.kinds.images.records import MOST_HELD, ImageRecord, ProcessRecords, Row, ScanRecords
from syncline.store.image_records import ImageRecords
from syncline.store.table import Database


def records_in(database: Database) -> ImageRecords:
    return ImageRecords(database, "s", "a1b2", lambda: 1_000_000.0)


def test_records_are_read_by_repository_by_tag_and_in_order(database: Database) -> None:
    records = records_in(database)
    rows: dict[tuple[str, str], Row | None] = {
        ("a", "1"): ["d1"],
        ("a-b", "x"): ["d2"],
        ("a/b", "1"): ["d3", 5],
        ("a", "2"): ["d4"],
    }
    records.write(rows)
    assert [(name, tag, row) for name, tag, row in records.scan()] == [(*key, rows[key]) for key in sorted(rows)]
    assert [name for name, _, _ in records.scan("a-b")] == ["a-b", "a/b"]
    assert list(records.of("a")) == [("1", ["d1"]), ("2", ["d4"])]
    assert records.known("a/b", ["1", "2"]) == {"1": ["d3", 5]}
    records.write({("a", "1"): None})
    assert list(records.of("a")) == [("2", ["d4"])]


def test_records_of_another_target_are_apart(database: Database) -> None:
    records_in(database).write({("a", "1"): ["d1"]})
    assert not list(ImageRecords(database, "s", "ffff", lambda: 0.0).scan())


def test_ten_thousand_tags_of_one_repository_take_few_items(database: Database) -> None:
    records = records_in(database)
    digest = "sha256:" + "0123456789abcdef" * 4
    records.write({("team/app", f"v{number:05}"): [digest] for number in range(10_000)})
    found = dict(records.of("team/app"))
    assert len(found) == 10_000
    assert found["v09999"] == [digest]
    assert sum(1 for shard in range(4) for _ in database.query(f"FILES#s#a1b2#{shard:02}")) <= 8


class CountedRecords(ProcessRecords):
    """Records that count their reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def scan(self, first: str = "") -> Iterator[tuple[str, str, Row]]:
        self.reads["scan"] += 1
        return super().scan(first)

    def of(self, repository: str) -> Iterator[tuple[str, Row]]:
        self.reads["of"] += 1
        return super().of(repository)


def test_a_full_scan_reads_all_records_in_one_pass() -> None:
    records = CountedRecords()
    names = [f"team/{number:03}" for number in range(300)]
    records.write({(name, "1"): ["d"] for name in names if not name.endswith("7")})
    scan = ScanRecords(records, full=True, writes=True)
    for name in names[5:]:
        assert scan.of(name).known(["1", "2"]) == ({} if name.endswith("7") else {"1": ImageRecord("d")})
    assert records.reads == {"scan": 1}
    assert scan.of(names[0]).known(["1"]) == {"1": ImageRecord("d")}, "a repository out of order"
    assert records.reads == {"scan": 1, "of": 1}


def test_more_records_of_a_repository_than_are_held_are_read_by_tag() -> None:
    records = CountedRecords()
    records.write({("a", f"{number:06}"): ["d"] for number in range(MOST_HELD + 1)} | {("b", "1"): ["d"]})
    scan = ScanRecords(records, full=True, writes=True)
    known = scan.of("a")
    assert known.held is None
    assert known.known(["000001", "none"]) == {"000001": ImageRecord("d")}
    assert sum(1 for _ in known.all()) == MOST_HELD + 1
    assert scan.of("b").known(["1"]) == {"1": ImageRecord("d")}


@pytest.mark.parametrize("writes", [True, False])
def test_changes_are_written_together_and_never_by_a_plan(writes: bool) -> None:
    records = ProcessRecords()
    scan = ScanRecords(records, full=True, writes=writes)
    scan.learn("a", {"1": ImageRecord("d"), "2": ImageRecord("d", 7)})
    scan.write()
    assert not records.rows, "few changes wait for more"
    scan.write(least=1)
    assert records.rows == ({("a", "1"): ["d"], ("a", "2"): ["d", 7]} if writes else {})


def test_a_row_with_values_of_a_later_version_is_read() -> None:
    assert ImageRecord.of_row(["d", 3, "new"]) == ImageRecord("d", 3)
