"""Records of files stay correct when functions crash or run at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syncline.store import files
from syncline.store.files import KEPT, FileRecords
from syncline.store.files_encoding import Row
from syncline.store.table import Database
from tests.rig.pump import Clock
from tests.rig.stack import new_table, table_of_test
from tests.unit.store.stepped import (
    NAMES,
    CrashError,
    SteppedDatabase,
    all_items,
    assert_tidy,
    records_of,
)


def prepare(database: SteppedDatabase, clock: Clock) -> tuple[FileRecords, dict[str, Row]]:
    """Return records with segments and changes in both partitions, and their content."""
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
    """Return the number of database calls of an action on prepared records."""
    with new_table() as table:
        database = SteppedDatabase(table)
        records, _ = prepare(database, clock)
        act(records)
        return len(database.calls)


def compact(records: FileRecords) -> int:
    return records.compact()


@pytest.mark.usefixtures("two_partitions")
class TestConcurrency:
    def check(self, database: SteppedDatabase, clock: Clock, model: dict[str, Row]) -> None:
        """Check that the records equal the model, now and after a compaction, and that no stray items remain."""
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
            with new_table() as table:
                database = SteppedDatabase(table)
                records, model = prepare(database, clock)
                database.crash_in, database.effect = at, effect
                with pytest.raises(CrashError):
                    records.compact()
                self.check(database, clock, model)

    @pytest.mark.parametrize("other", ["compact", "write", "write and compact", "crash"])
    def test_another_function_at_any_call_of_a_compaction_does_no_harm(self, clock: Clock, other: str) -> None:
        for at in range(calls_of(clock, compact)):
            with new_table() as table:
                database = SteppedDatabase(table)
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

    def test_a_compaction_suspended_for_hours_does_no_harm(self, clock: Clock) -> None:
        for at in range(calls_of(clock, compact)):
            with new_table() as table:
                database = SteppedDatabase(table)
                records, model = prepare(database, clock)

                def sleep(now: int, at: int = at, table: Any = database._table) -> None:
                    if now == at:
                        clock.sleep(2 * 3600)
                        assert records_of(Database(table), clock).compact() == len(model)  # noqa: B023

                database.hook = sleep
                records.compact()
                self.check(database, clock, model)

    @pytest.mark.parametrize("crash_in", range(8))
    def test_a_suspended_compaction_continues_after_a_crash_of_another_one(
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

    def test_a_successful_call_that_is_repeated_loses_nothing(
        self, database: SteppedDatabase, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        records, model = prepare(database, clock)
        replace = SteppedDatabase.replace

        def repeated(self: SteppedDatabase, item: dict[str, Any], version: str | None) -> bool:
            assert replace(self, item, version)
            return replace(self, item, version)

        with monkeypatch.context() as patch:
            patch.setattr(SteppedDatabase, "replace", repeated)
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
    def test_a_reader_sees_all_records_during_a_compaction(self, clock: Clock, read: str) -> None:
        def act(records: FileRecords) -> object:
            if read == "scan":
                return list(records.scan())
            return records.count() if read == "count" else records.known([*NAMES, "zz", "zy", "k0105"])[0]

        for at in range(calls_of(clock, act)):
            with new_table() as table:
                database = SteppedDatabase(table)
                records, model = prepare(database, clock)

                def rewrite(now: int, at: int = at, table: Any = database._table) -> None:
                    if now == at:
                        others = records_of(Database(table), clock)
                        others.write(dict(others.scan()))  # every segment is replaced
                        others.compact()

                database.hook = rewrite
                expected = {"scan": sorted(model.items()), "known": model, "count": len(model)}
                assert act(records) == expected[read]


ANY_NAME: Final = st.one_of(st.sampled_from(NAMES), st.text("ab/ä\ud800", min_size=1, max_size=3))
ROWS: Final = st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=3)


class Model(RuleBasedStateMachine):
    """Records behave like a dictionary in spite of crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(files, "SHARDS", 2)
        self.patch.setattr(files, "_IDS", files._Ids())
        self.clock = Clock()
        self.database = SteppedDatabase(table_of_test())
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
