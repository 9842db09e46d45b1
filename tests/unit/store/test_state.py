"""Runs in the table: begun, lost, replaced and cancelled."""

from __future__ import annotations

import threading

import pytest

from syncline.errors import SynclineError
from syncline.model import EVERYTHING, Counts, Run, RunStatus, Scope, Step, Trigger
from syncline.store.batches import BatchRecord
from syncline.store.runs import new_run_id
from syncline.store.state import LOST_AFTER, State, first_batch
from tests.rig.pump import Clock
from tests.rig.run_ids import made_run_id
from tests.unit.store.runs import FIRST, SECOND, SYNC, begin, end


def test_syncs_are_remembered_by_name(state: State) -> None:
    state.put_sync("b", "{}")
    state.put_sync("a", '{"x": 1}')
    assert state.sync_names() == ["a", "b"]
    assert state.sync_config("a") == '{"x": 1}'
    state.remove_sync("a")
    assert state.sync_names() == ["b"]
    with pytest.raises(SynclineError, match="NO_SUCH_SYNC"):
        state.sync_config("a")


def test_a_repeated_start_begins_one_run(state: State) -> None:
    first, batch = begin(state)
    again, batch_again = begin(state)
    assert (first, batch) == (again, batch_again)
    end(state, batch)
    assert state.finish_run(SYNC, first.id) is not None
    ended, _ = begin(state)
    assert (ended.id, ended.status) == (first.id, RunStatus.DONE)
    assert state.current_run(SYNC) is None


def test_a_second_start_is_refused_with_the_id_of_the_current_run(state: State) -> None:
    begin(state, FIRST)
    with pytest.raises(SynclineError, match=f"ALREADY_RUNNING.*{FIRST}") as refused:
        begin(state, SECOND)
    assert not refused.value.retried
    assert [run.id for run in state.runs(SYNC)] == [FIRST]


def test_of_concurrent_starts_only_one_begins_a_run(state: State) -> None:
    outcomes: list[str] = []

    def start(number: int) -> None:
        try:
            outcomes.append(begin(state, made_run_id(number))[0].id)
        except SynclineError as error:
            outcomes.append(error.code.name)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("ALREADY_RUNNING") == 3
    current = state.current_run(SYNC)
    assert current is not None
    assert current.id in outcomes


def test_runs_are_numbered_without_plans(state: State) -> None:
    for number in (1, 2):
        run, batch = begin(state, made_run_id(number))
        assert run.number == number
        end(state, batch)
        state.finish_run(SYNC, run.id)
    plan, _ = state.begin_run(SYNC, made_run_id(3), Trigger.MANUAL, EVERYTHING, plan=True)
    run, _ = begin(state, made_run_id(4))
    assert (plan.plan, run.number) == (True, 3)


@pytest.mark.moto  # the fake table does not support paths into a map
def test_the_count_of_items_left_out_is_stored_and_may_be_absent(state: State) -> None:
    """The count of a run that was stored before the count existed is 0."""
    run, batch = begin(state)
    end(state, batch, left_out=3)
    assert state.progress(run.id).counts.left_out == 3
    ended = state.finish_run(SYNC, run.id)
    assert ended is not None
    assert ended.counts.left_out == 3
    table = state._db._table
    table.update_item(
        Key={"pk": f"SYNC#{SYNC}", "sk": f"RUN#{run.id}"},
        UpdateExpression="REMOVE #counts.#name",
        ExpressionAttributeNames={"#counts": "counts", "#name": "left_out"},
    )
    assert state.run(SYNC, run.id).counts == Counts()


@pytest.mark.parametrize("allowed", [None, 0, 400])
def test_the_removals_allowed_for_a_run_are_stored_with_it(state: State, allowed: int | None) -> None:
    run, root = state.begin_run(SYNC, FIRST, Trigger.MANUAL, EVERYTHING, allow_removals=allowed)
    assert run.allow_removals == allowed
    assert state.run(SYNC, run.id) == run
    # Discover begins the run with its ID only.
    assert begin(state, FIRST) == (run, root)
    assert state.open_batch(root)[0] == run


def test_the_next_plan_ends_a_lost_one_after_any_number_of_runs(state: State, clock: Clock) -> None:
    lost, _ = state.begin_run(SYNC, FIRST, Trigger.MANUAL, EVERYTHING, plan=True)
    for number in range(3, 15):
        _, batch = begin(state, made_run_id(number))
        end(state, batch)
        state.finish_run(SYNC, batch.run)
    clock.now += LOST_AFTER
    plan, _ = state.begin_run(SYNC, made_run_id(20), Trigger.MANUAL, EVERYTHING, plan=True)
    assert (state.run(SYNC, lost.id).status, state.run(SYNC, plan.id).status) == (RunStatus.LOST, RunStatus.RUNNING)


def test_a_plan_runs_beside_a_run_and_ends_alone(state: State) -> None:
    begin(state, FIRST)
    plan, batch = state.begin_run(SYNC, SECOND, Trigger.MANUAL, EVERYTHING, plan=True)
    end(state, batch, would_move=3)
    ended = state.finish_run(SYNC, plan.id)
    assert ended is not None
    assert (ended.status, ended.counts.would_move) == (RunStatus.DONE, 3)
    current = state.current_run(SYNC)
    assert current is not None
    assert current.id == FIRST


def test_run_ids_sort_by_time(clock: Clock) -> None:
    first = new_run_id(clock.time)
    clock.sleep(1)
    assert first < new_run_id(clock.time)


def test_a_run_without_activity_for_long_is_replaced(state: State, clock: Clock) -> None:
    begin(state, FIRST)
    clock.sleep(LOST_AFTER - 1)
    with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
        begin(state, SECOND)
    clock.sleep(1)
    run, _ = begin(state, SECOND)
    lost = state.run(SYNC, FIRST)
    assert (lost.status, run.status) == (RunStatus.LOST, RunStatus.RUNNING)


def test_the_end_of_a_batch_is_activity_of_its_run(state: State, clock: Clock) -> None:
    _, batch = begin(state, FIRST)
    clock.sleep(LOST_AFTER - 1)
    end(state, batch, batch.child(0))
    clock.sleep(LOST_AFTER - 1)
    with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
        begin(state, SECOND)


def test_a_lost_run_that_resumes_does_not_affect_its_successor(state: State, clock: Clock) -> None:
    _, batch = begin(state, FIRST)
    clock.sleep(LOST_AFTER)
    begin(state, SECOND)
    assert state.end_batch(batch, BatchRecord(()), Counts()) is None
    assert state.finish_run(SYNC, FIRST) is None
    current = state.current_run(SYNC)
    assert current is not None
    assert current.id == SECOND


def test_an_expired_run_does_not_block_its_sync(state: State) -> None:
    """A run that never ended must not block its sync for ever."""
    begin(state, FIRST)
    state._db.delete(f"SYNC#{SYNC}", f"RUN#{FIRST}")
    assert state.current_run(SYNC) is None
    assert state.join_run(SYNC, "scan", Scope.of(["a"])) is None
    run, _ = begin(state, SECOND)
    assert run.status is RunStatus.RUNNING
    with pytest.raises(SynclineError, match="NO_SUCH_RUN"):
        state.run(SYNC, FIRST)


def test_a_cancelled_run_ends_after_its_batches(state: State) -> None:
    run, batch = begin(state)
    assert state.cancel_run(SYNC, run.id).status is RunStatus.CANCELLING
    assert state.cancel_run(SYNC, run.id).status is RunStatus.CANCELLING
    assert state.finish_run(SYNC, run.id) is None
    end(state, batch)
    ended = state.finish_run(SYNC, run.id)
    assert ended is not None
    assert ended.status is RunStatus.CANCELLED
    assert state.current_run(SYNC) is None


def test_cancelling_a_run_without_activity_for_long_ends_it(state: State, clock: Clock) -> None:
    begin(state)
    clock.sleep(LOST_AFTER + 1)
    assert state.cancel_run(SYNC, FIRST).status is RunStatus.LOST
    assert state.current_run(SYNC) is None


def test_cancelling_an_unknown_run_raises_an_error(state: State) -> None:
    with pytest.raises(SynclineError, match="NO_SUCH_RUN"):
        state.cancel_run(SYNC, "no-run")


def test_the_first_batch_scans_the_scope_of_the_run() -> None:
    run = Run(FIRST, SYNC, 1, Trigger.EVENT, Scope.of(["a"]), 0.0, plan=True)
    batch = first_batch(run)
    assert (batch.step, batch.scope, batch.plan, batch.run, batch.hop) == (
        Step.DISCOVER,
        Scope.of(["a"]),
        True,
        run.id,
        0,
    )
