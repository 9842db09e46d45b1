"""Records of files: packed, compacted, and right whatever crashes or runs at the same time."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from moto import mock_aws

from syncline.errors import SynclineError
from syncline.stores import files
from syncline.stores.files import KEPT, SHARDS, FileRecords, shard_of
from syncline.stores.packing import Row, unpack
from syncline.table import Database
from tests.pump import Clock
from tests.stack import create_table

AWKWARD: Final = ["a", "a/b", "a b", "ä", "a\u0308", "日本/🎈", "n" * 1024, "\x01", "~", "\ud83d", "\ud83d\ude00", "😀"]
NAMES: Final = [*AWKWARD, *(f"k{n:03}" for n in range(60))]


class CrashError(Exception):
    """The process ends here."""


class SteppedDatabase(Database):
    """Calls `hook` before every call, and crashes in the call number `crash_in`, with a part of its effect or all."""

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
        # All at once: a page is read before its first item is yielded.
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
            # DynamoDB may take any of them first.
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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database() -> Iterator[SteppedDatabase]:
    with mock_aws():
        yield SteppedDatabase(create_table())


@pytest.fixture(autouse=True)
def _ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_IDS", files._Ids())


@pytest.fixture
def two_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SHARDS", 2)


def records_of(database: Database, clock: Clock, rows: int = 4) -> FileRecords:
    return FileRecords(database, "one", "ab12", clock.time, in_two, rows)


def in_two(name: str) -> int:
    return shard_of(name) % 2


def all_items(database: Database) -> list[dict[str, Any]]:
    return [dict(item) for item in database._table.scan()["Items"]]


def items_of(database: Database) -> list[tuple[str, str]]:
    """The keys of all items in the table."""
    return [(str(item["pk"]), str(item["sk"])) for item in all_items(database)]


def directory_of(database: Database, pk: str) -> list[Any]:
    item = Database(database._table).get(pk, "D")
    segments: list[Any] = [] if item is None else unpack(item["data"])[0]
    return segments


def assert_tidy(database: Database) -> None:
    """Fail if there is anything but directories and the segments that they name."""
    keys = items_of(database)
    named = {(pk, segment[0]) for pk, sk in keys if sk == "D" for segment in directory_of(database, pk)}
    assert {key for key in keys if key[1] != "D"} == named


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

    def test_a_writer_whose_clock_is_behind_wins_over_what_it_has_read(
        self, database: SteppedDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FileRecords(database, "one", "ab12", lambda: clock.now + 60).write({"a": [1]})
        monkeypatch.setattr(files, "_IDS", files._Ids())  # another process
        behind = FileRecords(database, "one", "ab12", clock.time)
        assert behind.known(["a"]) == ({"a": [1]}, {})
        behind.write({"a": [2]})
        assert behind.known(["a"]) == ({"a": [2]}, {})

    def test_a_row_of_a_file_that_is_gone_is_kept_for_14_days(self, database: SteppedDatabase, clock: Clock) -> None:
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

    def test_a_file_that_comes_back_is_no_longer_gone(self, database: SteppedDatabase, clock: Clock) -> None:
        records = FileRecords(database, "one", "ab12", clock.time)
        records.write({}, {"a": ["kept"], "b": ["kept"]})
        records.compact()
        records.write({"a": [1], "b": None})
        assert records.known(["a", "b"]) == ({"a": [1]}, {})
        records.compact()
        assert records.known(["a", "b"]) == ({"a": [1]}, {})

    def test_clear_deletes_the_records_of_one_target(self, database: SteppedDatabase, clock: Clock) -> None:
        records, other = records_of(database, clock), FileRecords(database, "one", "cd34", clock.time)
        other.write({"a": [1]})
        records.write({name: [1] for name in NAMES})
        records.compact()
        records.write({"b": [1]})
        records.clear()
        assert (list(records.scan()), records.count(), records.known(NAMES)) == ([], 0, ({}, {}))
        assert {sk for pk, sk in items_of(database) if "ab12" in pk} == {"D"}
        assert all("expires" in item for item in all_items(database) if "ab12" in item["pk"] and item["sk"] == "D")
        assert list(other.scan()) == [("a", [1])]
        records.write({"b": [2]})
        assert records.compact() == 1
        item = database.get(f"FILES#one#ab12#{in_two('b'):02}", "D")
        assert item is not None
        assert "expires" not in item

    def test_absent_segments_are_an_error_that_says_what_to_do(self, database: SteppedDatabase, clock: Clock) -> None:
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


def prepare(database: SteppedDatabase, clock: Clock) -> tuple[FileRecords, dict[str, Row]]:
    """Return records with segments in both partitions and changes beside them, and what they hold."""
    records = records_of(database, clock)
    records.write({name: ["old", name] for name in NAMES})
    records.compact()
    changes: dict[str, Row | None] = {"k010": ["new"], "k011": None, "k0105": ["new"], "zz": ["new"], "zy": ["new"]}
    records.write(changes)
    records.write({"k010": ["newer"], "k012": None})
    model: dict[str, Row] = {name: ["old", name] for name in NAMES if name not in {"k011", "k012"}}
    model |= {"k010": ["newer"], "k0105": ["new"], "zz": ["new"], "zy": ["new"]}
    database.restart()
    return records, model


def calls_of(clock: Clock, act: Callable[[FileRecords], object]) -> int:
    """Return the number of calls that an action on prepared records takes."""
    with mock_aws():
        database = SteppedDatabase(create_table())
        records, _ = prepare(database, clock)
        act(records)
        return len(database.calls)


def compact(records: FileRecords) -> int:
    return records.compact()


@pytest.mark.usefixtures("two_partitions")
class TestConcurrency:
    def check(self, database: SteppedDatabase, clock: Clock, model: dict[str, Row]) -> None:
        """Fail if the records are not the model's, now or after a compaction, or if anything is left behind."""
        database.restart()
        records = records_of(database, clock)
        assert dict(records.scan()) == model
        assert records.count() == len(model)
        clock.sleep(2 * 3600)
        assert records.compact() == len(model)
        assert dict(records.scan()) == model
        assert records.known([*NAMES, "zz", "zy", "k0105", "during"])[0] == model
        assert_tidy(database)

    @pytest.mark.parametrize("effect", [0.0, 0.5, 1.0])
    def test_a_compaction_that_crashes_in_any_call_changes_nothing(self, clock: Clock, effect: float) -> None:
        for at in range(calls_of(clock, compact)):
            with mock_aws():
                database = SteppedDatabase(create_table())
                records, model = prepare(database, clock)
                database.crash_in, database.effect = at, effect
                with pytest.raises(CrashError):
                    records.compact()
                self.check(database, clock, model)

    @pytest.mark.parametrize("other", ["compact", "write", "write and compact", "crash"])
    def test_a_compaction_that_is_overtaken_at_any_call(self, clock: Clock, other: str) -> None:
        for at in range(calls_of(clock, compact)):
            with mock_aws():
                database = SteppedDatabase(create_table())
                records, model = prepare(database, clock)
                second = SteppedDatabase(database._table)

                def overtake(now: int, at: int = at, second: SteppedDatabase = second) -> None:
                    if now != at:
                        return
                    others = records_of(second, clock)
                    if "write" in other:
                        others.write({"k010": ["latest"], "during": [1], "k020": None})
                    if "compact" in other:
                        others.compact()
                    if other == "crash":
                        second.crash_in, second.effect = at % 8, 0.5
                        with contextlib.suppress(CrashError):
                            others.compact()

                database.hook = overtake
                records.compact()
                if "write" in other:
                    model |= {"k010": ["latest"], "during": [1]}
                    del model["k020"]
                self.check(database, clock, model)

    def test_a_compaction_that_slept_for_hours_does_no_harm(self, clock: Clock) -> None:
        for at in range(calls_of(clock, compact)):
            with mock_aws():
                database = SteppedDatabase(create_table())
                records, model = prepare(database, clock)

                def sleep(now: int, at: int = at, table: Any = database._table) -> None:
                    if now == at:
                        clock.sleep(2 * 3600)
                        assert records_of(Database(table), clock).compact() == len(model)  # noqa: B023

                database.hook = sleep
                records.compact()
                self.check(database, clock, model)

    @pytest.mark.parametrize("crash_in", range(8))
    def test_a_compaction_that_slept_goes_on_after_a_crash_of_another(
        self, database: SteppedDatabase, clock: Clock, crash_in: int
    ) -> None:
        records, model = prepare(database, clock)
        second = SteppedDatabase(database._table)
        second.crash_in, second.effect = crash_in, 1

        def sleep(now: int) -> None:
            if database.calls[now] == "replace" and not second.calls:
                clock.sleep(2 * 3600)
                with pytest.raises(CrashError):
                    records_of(second, clock).compact()

        database.hook = sleep
        assert records.compact() == len(model)
        self.check(database, clock, model)

    @pytest.mark.parametrize("cleared", [False, True])
    def test_a_repeated_call_that_had_succeeded_loses_nothing(
        self, database: SteppedDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch, cleared: bool
    ) -> None:
        records, model = prepare(database, clock)
        replace = SteppedDatabase.replace

        def repeated(self: SteppedDatabase, item: dict[str, Any], version: str | None) -> bool:
            assert replace(self, item, version)
            return replace(self, item, version)

        with monkeypatch.context() as patch:
            patch.setattr(SteppedDatabase, "replace", repeated)
            if cleared:
                records.clear()
                model = {}
            else:
                assert records.compact() == len(model)
        self.check(database, clock, model)

    def test_a_change_that_is_written_again_after_it_was_merged_is_ignored(
        self, database: SteppedDatabase, clock: Clock
    ) -> None:
        records = records_of(database, clock)
        records.write({"a": [1]})
        late = [item for item in all_items(database) if str(item["sk"]).startswith("C#")]
        records.compact()
        records.write({"a": [2]})
        records.compact()
        database._table.put_item(Item=late[0])
        self.check(database, clock, {"a": [2]})

    @pytest.mark.parametrize("read", ["scan", "known", "count"])
    def test_a_reader_during_compactions(self, clock: Clock, read: str) -> None:
        def act(records: FileRecords) -> object:
            if read == "scan":
                return list(records.scan())
            return records.count() if read == "count" else records.known([*NAMES, "zz", "zy", "k0105"])[0]

        for at in range(calls_of(clock, act)):
            with mock_aws():
                database = SteppedDatabase(create_table())
                records, model = prepare(database, clock)

                def rewrite(now: int, at: int = at, table: Any = database._table) -> None:
                    if now == at:
                        others = records_of(Database(table), clock)
                        others.write(dict(others.scan()))  # every segment is replaced
                        others.compact()

                database.hook = rewrite
                expected = {"scan": sorted(model.items()), "known": model, "count": len(model)}
                assert act(records) == expected[read]

    @pytest.mark.parametrize(("first", "second"), [("compact", "clear"), ("clear", "compact")])
    def test_a_clear_and_a_compaction_at_once_leave_nothing(self, clock: Clock, first: str, second: str) -> None:
        acts = {"compact": FileRecords.compact, "clear": FileRecords.clear}
        for at in range(calls_of(clock, acts[first])):
            with mock_aws():
                database = SteppedDatabase(create_table())
                records, _ = prepare(database, clock)

                def interrupt(now: int, at: int = at, table: Any = database._table) -> None:
                    if now == at:
                        acts[second](records_of(Database(table), clock))

                database.hook = interrupt
                acts[first](records)
                self.check(database, clock, {})


ANY_NAME: Final = st.one_of(st.sampled_from(NAMES), st.text("ab/ä\ud800", min_size=1, max_size=3))
ROWS: Final = st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=3)


class Model(RuleBasedStateMachine):
    """Records behave as a dictionary does, whatever crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(files, "SHARDS", 2)
        self.patch.setattr(files, "_IDS", files._Ids())
        self.aws = mock_aws()
        self.aws.start()
        self.clock = Clock()
        self.database = SteppedDatabase(create_table())
        self.records = records_of(self.database, self.clock)
        self.files: dict[str, Row] = {}
        self.gone: dict[str, tuple[float, Row]] = {}

    def teardown(self) -> None:
        try:
            self.clock.sleep(2 * 3600)
            assert self.records.compact() == len(self.files)
            assert dict(self.records.scan()) == self.files
            assert_tidy(self.database)
        finally:
            self.aws.stop()
            self.patch.undo()

    @rule(
        changes=st.dictionaries(ANY_NAME, st.none() | ROWS, max_size=8),
        gone=st.dictionaries(ANY_NAME, ROWS, max_size=2),
    )
    def write(self, changes: dict[str, Row | None], gone: dict[str, Row]) -> None:
        self.records.write(changes, gone)
        for name, row in changes.items():
            self.gone.pop(name, None)
            self.files.pop(name, None)
            if row is not None:
                self.files[name] = row
        for name, row in gone.items():
            self.files.pop(name, None)
            self.gone[name] = (int(self.clock.now) + KEPT, row)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.write(dict.fromkeys(data.draw(st.lists(st.sampled_from(sorted(self.files)), max_size=8))), {})

    @rule()
    def compact(self) -> None:
        assert self.records.compact() == len(self.files)

    @rule(at=st.integers(0, 20), effect=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    def crash(self, at: int, effect: float) -> None:
        self.database.restart()
        self.database.crash_in, self.database.effect = at, effect
        with contextlib.suppress(CrashError):
            assert self.records.compact() == len(self.files)
        self.database.restart()

    @rule(seconds=st.sampled_from([0.001, 1800, 7200, KEPT / 2]))
    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    @rule(names=st.lists(ANY_NAME, max_size=10))
    def known(self, names: list[str]) -> None:
        gone = {name: row for name, (until, row) in self.gone.items() if until > self.clock.now}
        assert self.records.known(names) == (
            {name: self.files[name] for name in names if name in self.files},
            {name: gone[name] for name in names if name in gone},
        )

    @rule(after=st.just("") | ANY_NAME, prefix=st.just("") | ANY_NAME)
    def scan(self, after: str, prefix: str) -> None:
        expected = [(name, row) for name, row in sorted(self.files.items()) if name > after and name.startswith(prefix)]
        assert list(self.records.scan(after, prefix)) == expected

    @invariant()
    def count(self) -> None:
        assert self.records.count() == len(self.files)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=20, stateful_step_count=25, deadline=None, print_blob=True)
