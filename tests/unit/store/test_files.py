"""Records of files: packed, compacted, and spread over partitions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import SynclineError
from syncline.store import files
from syncline.store.files import KEPT, SHARDS, FileRecords, shard_of
from tests.rig.pump import Clock
from tests.unit.store.stepped import (
    NAMES,
    SteppedDatabase,
    all_items,
    assert_tidy,
    directory_of,
    in_two,
    items_of,
    records_of,
)


class TestRecords:
    def test_scan_yields_names_in_the_order_of_their_bytes(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, segment_rows=3)
        FileRecords(database, "two", "ab12", clock.time).write({"other": [1]})
        FileRecords(database, "one", "cd34", clock.time).write({"other": [1]})
        in_order = sorted(NAMES, key=lambda name: name.encode(errors="surrogatepass"))
        for compacted in (False, True):
            records.write({name: [name, 1] for name in NAMES})
            if compacted:
                assert records.compact() == len(NAMES)
            assert list(records.scan()) == [(name, [name, 1]) for name in in_order]
            assert [name for name, _ in records.scan("a b")] == in_order[in_order.index("a b") + 1 :]
            assert [name for name, _ in records.scan("", "a")] == [name for name in in_order if name.startswith("a")]
            assert [name for name, _ in records.scan("k010", "k0")] == [f"k{n:03}" for n in range(11, 60)]
            assert list(records.scan("l", "k")) == []
            assert records.known([*NAMES, "absent"]) == ({name: [name, 1] for name in NAMES}, {})
            assert records.count() == len(NAMES)

    def test_a_later_write_wins_within_one_microsecond(self, database: SteppedDatabase, clock: Clock) -> None:
        for number in range(20):
            FileRecords(database, "one", "ab12", clock.time).write({"a": [number]})
        assert FileRecords(database, "one", "ab12", clock.time).known(["a"]) == ({"a": [19]}, {})

    def test_a_writer_with_a_slow_clock_replaces_records_that_it_has_read(
        self, database: SteppedDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FileRecords(database, "one", "ab12", lambda: clock.now + 60).write({"a": [1]})
        monkeypatch.setattr(files, "_IDS", files._Ids())  # another process
        behind = FileRecords(database, "one", "ab12", clock.time)
        assert behind.known(["a"]) == ({"a": [1]}, {})
        behind.write({"a": [2]})
        assert behind.known(["a"]) == ({"a": [2]}, {})

    def test_a_writer_with_a_slow_clock_replaces_the_write_that_it_follows(
        self, database: SteppedDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = FileRecords(database, "one", "ab12", lambda: clock.now + 60).write({"a": [1]})
        monkeypatch.setattr(files, "_IDS", files._Ids())  # another process
        behind = FileRecords(database, "one", "ab12", clock.time)
        behind.write({"a": [2]}, after=written)
        assert behind.known(["a"]) == ({"a": [2]}, {})

    def test_a_write_has_the_time_of_its_clock(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time)
        assert records.write({}) == 0
        assert records.write({"a": [1]}) == int(clock.now * 1_000_000)
        clock.sleep(1)
        assert records.write({}, {"b": [1]}) == int(clock.now * 1_000_000)

    def test_the_later_of_two_writers_wins_without_reading(
        self, database: SteppedDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for turn in range(10):
            monkeypatch.setattr(files, "_IDS", files._Ids())  # a process of its own
            FileRecords(database, "one", "ab12", clock.time).write({"a": [turn]})
            clock.sleep(0.001)
        assert FileRecords(database, "one", "ab12", clock.time).known(["a"]) == ({"a": [9]}, {})

    def test_the_row_of_a_removed_file_is_kept_for_14_days(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time)
        for compacted in (False, True):
            records.write({"a": [1], "b": [1], "c": [1]})
            records.write({"a": [2], "b": [3], "c": None}, {"b": ["kept"]})
            if compacted:
                assert records.compact() == 1
            assert records.known(["a", "b", "c"]) == ({"a": [2]}, {"b": ["kept"]})
            assert list(records.scan()) == [("a", [2])]
            assert records.count() == 1
        clock.sleep(KEPT - 1)
        assert records.known(["b"]) == ({}, {"b": ["kept"]})
        clock.sleep(1)
        assert records.known(["b"]) == ({}, {})
        assert records.compact() == 1
        assert directory_of(database, f"FILES#one#ab12#{shard_of('b'):02}") == []
        assert_tidy(database)

    def test_a_file_that_is_written_again_is_no_longer_removed(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time)
        records.write({}, {"a": ["kept"], "b": ["kept"]})
        records.compact()
        records.write({"a": [1], "b": None})
        assert records.known(["a", "b"]) == ({"a": [1]}, {})
        records.compact()
        assert records.known(["a", "b"]) == ({"a": [1]}, {})

    def test_an_absent_segment_raises_an_error_with_its_partition(
        self, database: SteppedDatabase, clock: Clock
    ) -> None:
        records = records_of(database, clock)
        records.write({"a": [1]})
        records.compact()
        pk = f"FILES#one#ab12#{in_two('a'):02}"
        database.delete(pk, directory_of(database, pk)[0][0])
        for read in (lambda: records.known(["a"]), lambda: list(records.scan())):
            with pytest.raises(SynclineError, match=pk):
                read()


class TestPartitions:
    def test_names_of_1024_bytes_stay_far_below_the_size_of_an_item(
        self, database: SteppedDatabase, clock: Clock
    ) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, lambda _: 0)
        chance = random.Random(1)
        names = [
            "".join(chance.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", k=1024)) for _ in range(2000)
        ]
        records.write({name: [name[:32], 4096] for name in names})
        assert [name for name, _ in records.scan()] == sorted(names)  # more than one page of changes
        records.compact()
        items = all_items(database)
        assert max(len(bytes(item["data"])) for item in items) < 300_000
        assert [name for name, _ in records.scan()] == sorted(names)

    def test_calls_do_not_depend_on_the_number_of_records(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, segment_rows=100)
        names = [f"folder/{n:05}" for n in range(4000)]
        records.write({name: [name] for name in names})
        records.compact()
        database.restart()
        found, _ = records.known(names[::40])
        assert len(found) == 100
        partitions = len({shard_of(name) for name in names[::40]})
        assert database.calls == ["query"] * partitions + ["batch_get"]
        database.restart()
        assert len(list(records.scan())) == 4000
        assert sorted(database.calls) == ["batch_get"] * SHARDS + ["query"] * SHARDS
        database.restart()
        assert records.count() == 4000
        assert records.compact() == 4000
        assert set(database.calls) == {"query"}

    def test_segments_are_read_in_hundreds(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, lambda _: 0, 1)
        rows = {f"{number:03}": [number] for number in range(202)}
        records.write(rows)
        records.compact()
        database.restart()
        assert records.known(rows) == (rows, {})
        assert database.calls == ["query"] + ["batch_get"] * 3

    def test_a_scan_reads_only_the_segments_that_it_needs(
        self, database: SteppedDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, lambda _: 0, 1, 1)
        FileRecords(database, "one", "ab12", clock.time, lambda _: 0).write({f"{n:03}": [n] for n in range(40)})
        database.restart()
        records.compact()
        assert database.calls.count("batch_write") == 12, "four segments per call, then the change and the intent"
        read, batch_get = list[tuple[str, str]](), database.batch_get

        def reading(keys: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
            read.extend(keys)
            return batch_get(keys)

        monkeypatch.setattr(database, "batch_get", reading)
        assert list(records.scan("", "020")) == [("020", [20])]
        assert len(read) == 2, "the segment of the prefix, and the previous one, which may have such names too"

    def test_large_changes_are_merged_soon(
        self, database: SteppedDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "_TIDY_BYTES", 400)
        records = FileRecords(database, "one", "ab12", clock.time, lambda _: 0, 1)
        records.write({f"{number:03}": [0] for number in range(100)})
        records.compact()
        before = directory_of(database, "FILES#one#ab12#00")
        for number in range(90):
            records.write({f"{number:03}": [1]})
            clock.sleep(0.37)
        assert directory_of(database, "FILES#one#ab12#00") != before

    @pytest.mark.usefixtures("two_partitions")
    def test_compaction_keeps_the_segments_without_changes(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, lambda _: 0, 10)
        records.write({f"{n:03}": [0] for n in range(100)})
        records.compact()
        pk = "FILES#one#ab12#00"
        before = directory_of(database, pk)
        records.write({"055": [1], "055x": [1]})
        assert records.compact() == 101
        after = directory_of(database, pk)
        kept = [segment for segment in after if segment in before]
        assert len(kept) == len(before) - 1
        assert before[0] in kept
        assert before[-1] in kept

    @pytest.mark.usefixtures("two_partitions")
    def test_segments_do_not_degrade(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, lambda _: 0, 8)
        chance = random.Random(3)
        model: set[str] = set()
        for turn in range(40):
            add = {f"{chance.randrange(1000):03}" for _ in range(20 if turn < 20 else 2)}
            remove = set(chance.sample(sorted(model), min(len(model), 5 if turn < 20 else 20))) - add
            model = (model | add) - remove
            records.write({**{name: [turn] for name in add}, **dict.fromkeys(remove)})
            assert records.compact() == len(model)
            segments = directory_of(database, "FILES#one#ab12#00")
            assert all(segment[2] <= 8 for segment in segments)
            assert len(segments) <= len(model) / 2 + 1
        assert [name for name, _ in records.scan()] == sorted(model)

    @pytest.mark.usefixtures("two_partitions")
    def test_writers_bound_the_changes_of_a_partition(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, lambda _: 0)
        most = 0
        for number in range(120):
            records.write({f"{number:03}": [number]})
            most = max(most, sum(sk.startswith("C#") for _, sk in items_of(database)))
            clock.sleep(0.37)
        assert 16 < most < 60
        assert records.count() == 120

    def test_only_a_few_writers_read_their_partition(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, lambda _: 0)
        for number in range(160):
            records.write({f"{number:03}": [number]})
            clock.sleep(0.37)
        assert 3 <= database.calls.count("query") <= 20

    def test_writers_do_not_merge_a_few_changes(self, database: SteppedDatabase, clock: Clock) -> None:
        for target in ("aa", "bb", "cc"):
            records = FileRecords(database, "one", target, clock.time, lambda _: 0)
            for number in range(16):
                records.write({f"{number:03}": [number]})
                clock.sleep(0.37)
        assert database.calls.count("query") > 0
        assert {sk[0] for _, sk in items_of(database)} == {"C"}

    def test_changes_are_merged_when_they_are_as_many_as_the_segments(
        self, database: SteppedDatabase, clock: Clock
    ) -> None:
        records = FileRecords(database, "one", "ab12", clock.time, lambda _: 0, 4)
        records.write({f"{number:03}": [0] for number in range(200)})
        records.compact()
        before = directory_of(database, "FILES#one#ab12#00")
        most = 0
        while directory_of(database, "FILES#one#ab12#00") == before:
            records.write({f"{most:03}": [1]})
            most += 1
            clock.sleep(0.37)
        assert len(before) <= most < len(before) + 60

    def test_names_that_differ_in_case_or_form_share_a_partition(self) -> None:
        for one, other in [("Report.PDF", "report.pdf"), ("ä", "a\u0308"), ("Ä", "a\u0308"), ("ǰ", "J\u030c")]:
            assert shard_of(one) == shard_of(other)
        assert shard_of("\u212a") == shard_of("k")
        shard_of("\ud800x\udfff")

    @given(st.text(st.characters(), max_size=20))
    def test_any_name_has_one_partition_whatever_its_form(self, name: str) -> None:
        assert 0 <= shard_of(name) < SHARDS
        assert shard_of(name.upper().lower()) == shard_of(name.upper())

    def test_all_partitions_are_used(self) -> None:
        counts = [0] * SHARDS
        for number in range(16_000):
            counts[shard_of(f"folder/{number}")] += 1
        assert min(counts) > 800
        assert max(counts) < 1200
