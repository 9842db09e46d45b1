"""The ends of batches and runs: records of any size, results added without a batch, leases, totals, and reports."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import SynclineError
from syncline.messages import Batch, DeadLetter, Outgoing
from syncline.model import EVERYTHING, Counts, Outcome, Result, Run, RunStatus, Scope, Trigger
from syncline.store.batches import SHARDS, BatchRecord
from syncline.store.runs import RETENTION, is_run_id, new_run_id
from syncline.store.state import LOST_AFTER, REPORTS, State
from syncline.store.totals import BUCKETS
from tests.rig.pump import Clock
from tests.rig.run_ids import made_run_id
from tests.rig.totals import read_totals

SYNC = "images"
RUN, NEXT = made_run_id(1), made_run_id(2)
CONTENTS = ("dead", "results", "following", "content")


def begin(state: State, run_id: str = RUN) -> tuple[Run, Batch]:
    return state.begin_run(SYNC, run_id, Trigger.MANUAL, EVERYTHING)


def end_run(state: State, run_id: str, **counts: int) -> Run:
    """Run one batch with these counts, and end the run."""
    _, batch = begin(state, run_id)
    assert state.end_batch(batch, BatchRecord(()), Counts(**counts)) is not None
    run = state.finish_run(SYNC, run_id)
    assert run is not None
    return run


def moved(*names: str) -> tuple[Result, ...]:
    return tuple(Result("team/app", name, Outcome.MOVED, f"digest of {name}") for name in names)


class TestRecords:
    @pytest.mark.parametrize("item_bytes", [40, 200, 350, 100_000])
    def test_a_stored_record_of_any_size_equals_the_written_one(
        self, state: State, item_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Content larger than an item of the table is stored in parts."""
        monkeypatch.setattr("syncline.store.batches._ITEM_BYTES", item_bytes)
        _, root = begin(state)
        children = tuple(Outgoing(root.child(number), number) for number in range(9))
        letters = tuple(DeadLetter(root, "INTERNAL", f"why {number}", ("g", str(number))) for number in range(2))
        record = BatchRecord(moved(*"abcdefghij"), children, letters)
        assert state.end_batch(root, record, Counts(moved=10)) is record
        assert state.batch_record(RUN, root.id) == record
        assert state.open_batch(root)[1] == record
        assert list(state.results(RUN)) == list(record.results)
        stored: list[Any] = [item.get(name) for item in state._db._table.scan()["Items"] for name in CONTENTS]
        assert 0 < max(len(bytes(each)) for each in stored if not isinstance(each, str | None)) <= item_bytes

    def test_all_items_of_a_run_expire(self, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("syncline.store.batches._ITEM_BYTES", 40)
        now = state._clock()
        run, root = begin(state)
        scan = state.join_run(SYNC, NEXT, Scope.of(["a"]))
        assert scan is not None
        state.end_batch(root, BatchRecord(moved("1", "2", "3")), Counts(moved=3))
        state.add_results(run.id, "more", moved("4"))
        state.begin_run(SYNC, made_run_id(3), Trigger.MANUAL, EVERYTHING, plan=True)
        state._close(RUN)
        items = state._db._table.scan()["Items"]
        kinds = {str(item["sk"]).partition("#")[0] for item in items}
        assert kinds == {"RUN", "PLAN", "CURRENT", "COUNTS", "BATCH", "PART", "JOIN"}
        expiring = [item for item in items if item["sk"] != "CURRENT"]
        assert {item.get("expires") for item in expiring} == {int(now) + RETENTION}


class TestBatch:
    def test_the_end_of_a_batch_releases_its_lease(self, state: State) -> None:
        _, root = begin(state)
        lease = state.leases.take("dr/team/app", root.id, 60)
        assert state.end_batch(root, BatchRecord(()), Counts(), lease) is not None
        assert lease.expires == 0
        state.leases.take("dr/team/app", "another", 60)

    def test_a_batch_does_not_end_with_a_lost_lease(self, state: State, clock: Clock) -> None:
        _, root = begin(state)
        lease = state.leases.take("dr/team/app", root.id, 60)
        clock.sleep(61)
        state.leases.take("dr/team/app", "another", 60)
        with pytest.raises(SynclineError, match=r"LEASE_LOST.*dr/team/app"):
            state.end_batch(root, BatchRecord(moved("1")), Counts(moved=1), lease)
        assert state.batch_record(RUN, root.id) is None
        assert state.progress(RUN).counts == Counts()

    def test_a_second_delivery_releases_its_lease(self, state: State) -> None:
        _, root = begin(state)
        first = BatchRecord(moved("1"))
        state.end_batch(root, first, Counts(moved=1))
        lease = state.leases.take("dr/team/app", root.id, 60)
        assert state.end_batch(root, BatchRecord(()), Counts(), lease) == first
        state.leases.take("dr/team/app", "another", 60)

    def test_the_end_of_a_batch_updates_the_times_of_its_run(self, state: State, clock: Clock) -> None:
        """A run has three times: of any batch, of a batch that counted an item, and of its own work."""
        _, root = begin(state)
        began = clock.now
        scan = state.join_run(SYNC, NEXT, Scope.of(["a"]))
        assert scan is not None
        clock.sleep(10)
        state.end_batch(scan, BatchRecord((), (Outgoing(scan.child(0)),)), Counts(requests=3))
        seen = state.progress(RUN)
        assert (seen.latest - began, seen.advanced, seen.own) == (10, 0, 0)
        clock.sleep(10)
        state.end_batch(scan.child(0), BatchRecord(()), Counts(moved=1, requests=1))
        seen = state.progress(RUN)
        assert (seen.latest - began, seen.advanced - began, seen.own) == (20, 20, 0)
        clock.sleep(10)
        state.end_batch(root, BatchRecord(()), Counts(requests=1))
        seen = state.progress(RUN)
        assert (seen.latest - began, seen.advanced - began, seen.own - began) == (30, 20, 30)
        assert (seen.settled, seen.counts) == (True, Counts(moved=1, requests=5))


class TestAddedResults:
    def test_added_results_are_counted_once_under_each_name(self, state: State) -> None:
        begin(state)
        counts = state.add_results(RUN, "asked", moved("1", "2"))
        assert counts == Counts(moved=2)
        assert state.add_results(RUN, "asked", moved("1", "2")) == counts
        assert state.add_results(RUN, "others", moved("3")).moved == 3
        assert {each.name for each in state.results(RUN)} == {"1", "2", "3"}

    def test_items_that_another_scan_queued_are_subtracted(self, state: State) -> None:
        _, root = begin(state)
        state.end_batch(root, BatchRecord(()), Counts(queued=5))
        assert state.add_results(RUN, "cancelled", (), queued=-2).queued == 3


class TestRun:
    def test_the_items_of_a_retry_are_stored_with_the_run(self, state: State) -> None:
        asked = [("team/app", "1"), ("team/db", "2")]
        state.begin_run(SYNC, RUN, Trigger.RETRY, EVERYTHING, asked=asked)
        assert state.failures.asked(SYNC, RUN) == frozenset(asked)
        assert state.failures.asked(SYNC, NEXT) == frozenset()

    def test_a_run_ends_with_the_counts_that_the_caller_returns(self, state: State) -> None:
        _, root = begin(state)
        state.end_batch(root, BatchRecord(()), Counts(failed=2))
        settled: list[Counts] = []

        def settle(run: Run) -> Counts:
            settled.append(run.counts)
            return Counts(failed=2, known=7)

        run = state.finish_run(SYNC, RUN, settle)
        assert run is not None
        assert settled == [Counts(failed=2)]
        assert run.counts == Counts(failed=2, known=7)
        assert state.run(SYNC, RUN) == run

    def test_a_run_has_the_time_of_its_end(self, state: State, clock: Clock) -> None:
        _, root = begin(state)
        clock.sleep(90)
        state.end_batch(root, BatchRecord(()), Counts())
        run = state.finish_run(SYNC, RUN)
        assert run is not None
        assert run.ended == run.started + 90

    def test_the_latest_runs_are_listed_first_up_to_a_number(self, state: State) -> None:
        for number in range(1, 13):
            end_run(state, made_run_id(number))
        latest = [run.number for run in state.runs(SYNC)]
        assert latest == list(range(12, 2, -1))
        assert [run.number for run in state.runs(SYNC, 2)] == [12, 11]
        assert state.runs("another") == []

    def test_a_report_is_sent_once_with_a_limited_number_of_attempts(self, state: State) -> None:
        first, second = end_run(state, RUN), end_run(state, NEXT)
        assert [state.take_report(first) for _ in range(REPORTS + 1)] == [True] * REPORTS + [False]
        assert state.take_report(second)
        state.reported(second)
        state.reported(second)
        assert not state.take_report(second)

    def test_a_run_in_progress_is_not_reported(self, state: State) -> None:
        run, _ = begin(state)
        assert not state.take_report(run)

    def test_the_shards_of_a_lost_run_are_closed(self, state: State, clock: Clock) -> None:
        """A batch that is still at work adds nothing to the counts of the ended run."""
        _, root = begin(state)
        children = [root.child(number) for number in range(4 * SHARDS)]
        state.end_batch(root, BatchRecord((), tuple(map(Outgoing, children))), Counts(queued=len(children)))
        clock.sleep(LOST_AFTER)
        begin(state, NEXT)
        assert state.run(SYNC, RUN).status is RunStatus.LOST
        assert {state.end_batch(each, BatchRecord(moved("1")), Counts(moved=1)) for each in children} == {None}
        assert state.progress(RUN).counts == state.run(SYNC, RUN).counts == Counts(queued=len(children))


class TestTotals:
    def test_totals_add_up_durations_items_and_failures_of_runs(self, state: State, clock: Clock) -> None:
        begin(state, RUN)
        clock.sleep(BUCKETS[0])
        state.end_batch(begin(state, RUN)[1], BatchRecord(()), Counts(moved=2, skipped=3, bytes=50))
        first = state.finish_run(SYNC, RUN)
        assert first is not None
        clock.sleep(1000)
        end_run(state, NEXT, failed=1, conflict=4)
        totals = read_totals(state._db, SYNC)
        assert totals.durations == (2, *[0] * len(BUCKETS))
        assert (totals.seconds, totals.failed, totals.bytes, totals.known) == (BUCKETS[0], 1, 50, 0)
        assert {name: count for name, count in totals.items.items() if count} == {
            "moved": 2,
            "skipped": 3,
            "failed": 1,
            "conflict": 4,
        }
        assert totals.last_success == first.ended

    @pytest.mark.parametrize("ended", ["cancelled", "failed", "known"])
    def test_only_a_run_without_failures_is_a_success(self, state: State, ended: str) -> None:
        _, root = begin(state)
        if ended == "cancelled":
            state.cancel_run(SYNC, RUN)
        counts = Counts() if ended == "cancelled" else Counts(**{ended: 1})
        state.end_batch(root, BatchRecord(()), counts)
        assert state.finish_run(SYNC, RUN) is not None
        totals = read_totals(state._db, SYNC)
        assert (totals.last_success, totals.failed) == (0, 1)

    def test_a_plan_is_not_counted_in_totals(self, state: State) -> None:
        _, root = state.begin_run(SYNC, RUN, Trigger.MANUAL, EVERYTHING, plan=True)
        state.end_batch(root, BatchRecord(()), Counts(would_move=1))
        assert state.finish_run(SYNC, RUN) is not None
        assert sum(read_totals(state._db, SYNC).durations) == 0
        assert not list(state._db.sort_keys(f"SYNC#{SYNC}", "PLAN#"))


@given(st.floats(0, 2**32))
def test_a_new_run_id_is_recognized(at: float) -> None:
    made = new_run_id(lambda: at)
    assert is_run_id(made)
    assert not is_run_id(made[:-1])
    assert not is_run_id(f"{made}0")
