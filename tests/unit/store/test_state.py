from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import SynclineError
from syncline.kinds.images.discover import PAGE_TAGS
from syncline.messages import Batch, DeadLetter, Outgoing
from syncline.model import EVERYTHING, Counts, Outcome, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.steps.discover import CHUNK_RESULTS
from syncline.store.batches import SHARDS, BatchRecord, Progress, _hash, _shard_of
from syncline.store.runs import new_run_id
from syncline.store.state import JOINED_FOR, LOST_AFTER, State, first_batch
from syncline.store.table import pack
from tests.rig.pump import Clock
from tests.rig.run_ids import made_run_id
from tests.rig.stack import new_table

FIRST, SECOND = made_run_id(1), made_run_id(2)

SYNC = "images"
LARGEST_ITEM = 400 * 1024


def begin(state: State, run_id: str = FIRST) -> tuple[Run, Batch]:
    return state.begin_run(SYNC, run_id, Trigger.MANUAL, EVERYTHING)


def end(state: State, batch: Batch, *following: Batch, **counts: int) -> BatchRecord:
    record = state.end_batch(batch, BatchRecord((), tuple(Outgoing(each) for each in following)), Counts(**counts))
    assert record is not None, "the run is not over"
    return record


def result(name: str, **more: str) -> Result:
    return Result("team/app", name, Outcome.MOVED, **more)  # type: ignore[arg-type]


# -- syncs


def test_syncs_are_remembered_by_name(state: State) -> None:
    state.put_sync("b", "{}")
    state.put_sync("a", '{"x": 1}')
    assert state.sync_names() == ["a", "b"]
    assert state.sync_config("a") == '{"x": 1}'
    state.remove_sync("a")
    assert state.sync_names() == ["b"]
    with pytest.raises(SynclineError, match="NO_SUCH_SYNC"):
        state.sync_config("a")


# -- beginning a run


def test_the_same_start_twice_is_one_run(state: State) -> None:
    first, batch = begin(state)
    again, batch_again = begin(state)
    assert (first, batch) == (again, batch_again)
    end(state, batch)
    assert state.finish_run(SYNC, first.id) is not None
    over, _ = begin(state)
    assert (over.id, over.status) == (first.id, RunStatus.DONE)
    assert state.current_run(SYNC) is None


def test_a_second_start_is_refused_and_told_which_run_it_meets(state: State) -> None:
    begin(state, FIRST)
    with pytest.raises(SynclineError, match=f"ALREADY_RUNNING.*{FIRST}") as refused:
        begin(state, SECOND)
    assert not refused.value.retried
    assert [run.id for run in state.runs(SYNC)] == [FIRST]


def test_of_many_starts_at_once_one_begins(state: State) -> None:
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


def test_runs_are_numbered_and_plans_take_no_number(state: State) -> None:
    for number in (1, 2):
        run, batch = begin(state, made_run_id(number))
        assert run.number == number
        end(state, batch)
        state.finish_run(SYNC, run.id)
    plan, _ = state.begin_run(SYNC, made_run_id(3), Trigger.MANUAL, EVERYTHING, plan=True)
    run, _ = begin(state, made_run_id(4))
    assert (plan.plan, run.number) == (True, 3)


@pytest.mark.moto  # the model knows no paths into a map
def test_the_count_of_items_left_out_is_stored_and_may_be_absent(state: State) -> None:
    """A run that was stored before the count existed is read as one that left out nothing."""
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
    # Discover begins the run by its id alone.
    assert begin(state, FIRST) == (run, root)
    assert state.open_batch(root)[0] == run


def test_looks_that_keep_joining_keep_no_run_open_whose_own_work_has_ended(state: State, clock: Clock) -> None:
    """The next full scan waits for its end."""
    _, batch = begin(state)
    end(state, batch, last := batch.child(0))
    names = [made_run_id(3), made_run_id(4)]
    for name in names:
        clock.now += JOINED_FOR / 2 - 1
        assert state.join_run(SYNC, name, Scope.of(["a"])) is not None
    end(state, last)
    clock.now += JOINED_FOR
    assert state.join_run(SYNC, made_run_id(5), Scope.of(["a"])) is None
    with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
        begin(state, made_run_id(6))
    for name in names:
        look = state.join_run(SYNC, name, Scope.of(["a"]))
        assert look is not None, "it is a part of the run"
        end(state, look)
    assert state.finish_run(SYNC, FIRST) is not None
    begin(state, made_run_id(7))


def test_a_run_whose_own_work_is_lost_gives_way_although_looks_have_joined_it(state: State, clock: Clock) -> None:
    lost, _ = begin(state)  # its message went to the dead-letter queue
    clock.now += JOINED_FOR - 1
    look = state.join_run(SYNC, made_run_id(3), Scope.of(["a"]))
    assert look is not None
    end(state, look)
    clock.now += LOST_AFTER
    begin(state, made_run_id(7))
    assert state.run(SYNC, lost.id).status is RunStatus.LOST


def test_looks_join_a_long_run_whose_own_work_goes_on(state: State, clock: Clock) -> None:
    _, batch = begin(state)
    clock.now += LOST_AFTER
    end(state, batch, batch.child(0))
    assert state.join_run(SYNC, made_run_id(3), Scope.of(["a"])) is not None


def test_a_plan_that_was_lost_is_ended_by_the_next_one_however_many_runs_came_between(
    state: State, clock: Clock
) -> None:
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


# -- lost runs


def test_a_run_nobody_heard_of_for_long_gives_way(state: State, clock: Clock) -> None:
    begin(state, FIRST)
    clock.sleep(LOST_AFTER - 1)
    with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
        begin(state, SECOND)
    clock.sleep(1)
    run, _ = begin(state, SECOND)
    lost = state.run(SYNC, FIRST)
    assert (lost.status, run.status) == (RunStatus.LOST, RunStatus.RUNNING)


def test_each_batch_that_ends_is_a_sign_of_life(state: State, clock: Clock) -> None:
    _, batch = begin(state, FIRST)
    clock.sleep(LOST_AFTER - 1)
    end(state, batch, batch.child(0))
    clock.sleep(LOST_AFTER - 1)
    with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
        begin(state, SECOND)


def test_a_lost_run_that_comes_back_ends_nothing_of_its_successor(state: State, clock: Clock) -> None:
    _, batch = begin(state, FIRST)
    clock.sleep(LOST_AFTER)
    begin(state, SECOND)
    assert state.end_batch(batch, BatchRecord(()), Counts()) is None
    assert state.finish_run(SYNC, FIRST) is None
    current = state.current_run(SYNC)
    assert current is not None
    assert current.id == SECOND


def test_a_run_that_was_forgotten_blocks_nothing(state: State) -> None:
    """Runs expire; one that never ended must not hold its sync for ever."""
    begin(state, FIRST)
    state._db.delete(f"SYNC#{SYNC}", f"RUN#{FIRST}")
    assert state.current_run(SYNC) is None
    assert state.join_run(SYNC, "look", Scope.of(["a"])) is None
    run, _ = begin(state, SECOND)
    assert run.status is RunStatus.RUNNING
    with pytest.raises(SynclineError, match="NO_SUCH_RUN"):
        state.run(SYNC, FIRST)


# -- joining


def test_nothing_to_join(state: State) -> None:
    assert state.join_run(SYNC, "look", Scope.of(["a"])) is None


def test_a_look_does_not_join_the_run_it_began_itself(state: State) -> None:
    run, _ = begin(state)
    assert state.join_run(SYNC, run.id, Scope.of(["a"])) is None


def test_a_look_joins_once_and_the_run_waits_for_it(state: State) -> None:
    run, batch = begin(state)
    look = state.join_run(SYNC, "look", Scope.of(["a"]))
    assert look == Batch(
        run.id, SYNC, Step.DISCOVER, f"look-{FIRST}-look", scope=Scope.of(["a"]), scan=f"look-{FIRST}-look"
    )
    assert state.join_run(SYNC, "look", Scope.of(["a"])) == look
    end(state, batch)
    assert state.finish_run(SYNC, run.id) is None
    end(state, look)
    assert state.finish_run(SYNC, run.id) is not None
    assert state.join_run(SYNC, "look", Scope.of(["a"])) is None


def test_a_look_that_joins_while_the_run_is_being_ended(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """It joins after the shards were read: the run goes on, and the look's own end ends it."""
    run, batch = begin(state)
    end(state, batch)
    looks: list[Batch] = []
    progress = state.progress

    def progress_then_join(self: State, run_id: str) -> Progress:
        seen = progress(run_id)
        monkeypatch.undo()
        look = self.join_run(SYNC, "look", Scope.of(["a"]))
        assert look is not None
        looks.append(look)
        return seen

    monkeypatch.setattr(State, "progress", progress_then_join)
    assert state.finish_run(SYNC, run.id) is None
    assert state.run(SYNC, run.id).status is RunStatus.RUNNING
    end(state, looks[0])
    assert state.finish_run(SYNC, run.id) is not None


def test_a_look_that_comes_again_after_its_run_joins_the_next_one_as_other_work(state: State) -> None:
    """A FIFO queue drops a commit whose id it has seen a while ago, so no two runs may have batches of the same id."""
    run, batch = begin(state)
    look = state.join_run(SYNC, "look", Scope.of(["a"]))
    assert look is not None
    end(state, batch)
    end(state, look)
    assert state.finish_run(SYNC, run.id) is not None
    begin(state, SECOND)
    again = state.join_run(SYNC, "look", Scope.of(["a"]))
    assert again is not None
    assert again.run == SECOND
    assert again.id != look.id
    assert again.child(0).id != look.child(0).id


def test_a_look_that_comes_again_is_the_one_that_joined_whatever_was_applied_since(state: State) -> None:
    """The run waits for it, and would be lost."""
    state.put_sync(SYNC, "first")
    run, batch = begin(state)
    look = state.join_run(SYNC, "look", Scope.of(["a"]))
    assert look is not None
    state.put_sync(SYNC, "second")
    assert state.join_run(SYNC, "look", Scope.of(["a"])) == look
    assert state.join_run(SYNC, "other", Scope.of(["a"])) is None
    end(state, batch)
    end(state, look)
    assert state.finish_run(SYNC, run.id) is not None


def test_no_look_joins_a_run_that_is_being_cancelled(state: State) -> None:
    begin(state)
    state.cancel_run(SYNC, FIRST)
    assert state.join_run(SYNC, "look", Scope.of(["a"])) is None


# -- cancelling


def test_a_cancelled_run_ends_cancelled_when_its_batches_have(state: State) -> None:
    run, batch = begin(state)
    assert state.cancel_run(SYNC, run.id).status is RunStatus.CANCELLING
    assert state.cancel_run(SYNC, run.id).status is RunStatus.CANCELLING
    assert state.finish_run(SYNC, run.id) is None
    end(state, batch)
    ended = state.finish_run(SYNC, run.id)
    assert ended is not None
    assert ended.status is RunStatus.CANCELLED
    assert state.current_run(SYNC) is None


def test_cancelling_a_run_nobody_heard_of_for_long_ends_it(state: State, clock: Clock) -> None:
    begin(state)
    clock.sleep(LOST_AFTER + 1)
    assert state.cancel_run(SYNC, FIRST).status is RunStatus.LOST
    assert state.current_run(SYNC) is None


def test_cancelling_what_is_no_run(state: State) -> None:
    with pytest.raises(SynclineError, match="NO_SUCH_RUN"):
        state.cancel_run(SYNC, "no-run")


# -- ending


def test_a_run_is_over_once_every_batch_has_ended_and_one_caller_ends_it(state: State) -> None:
    run, root = begin(state)
    children = [root.child(number) for number in range(3)]
    end(state, root, *children, skipped=5, queued=3)
    for child in children:
        assert state.finish_run(SYNC, run.id) is None
        end(state, child, moved=1, bytes=10)
    ended = state.finish_run(SYNC, run.id)
    assert ended is not None
    assert ended.counts == Counts(queued=3, moved=3, skipped=5, bytes=30)
    assert ended.status is RunStatus.DONE
    assert state.finish_run(SYNC, run.id) is None


def test_a_batch_ends_once_whatever_a_second_delivery_makes_of_it(state: State) -> None:
    run, root = begin(state)
    first = BatchRecord((result("1"),), (Outgoing(root.child(0)),), ())
    second = BatchRecord((result("1"), result("2")), (), (DeadLetter(root, "INTERNAL", "why"),))
    assert state.end_batch(root, first, Counts(moved=1)) is first
    assert state.end_batch(root, second, Counts(moved=2, failed=7)) == first
    assert state.progress(run.id).counts == Counts(moved=1)
    assert list(state.results(run.id)) == [result("1")]
    assert not state.progress(run.id).settled
    end(state, root.child(0))
    assert state.progress(run.id).settled


def test_an_open_batch_is_read_with_its_run(state: State) -> None:
    run, root = begin(state)
    assert state.open_batch(root) == (run, None)
    record = end(state, root)
    assert state.open_batch(root) == (run, record)
    assert state.open_batch(replace(root, run=SECOND)) == (None, None)


def test_unprocessed_keys_are_read_again(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    run, root = begin(state)
    end(state, root, *[root.child(number) for number in range(8)], skipped=3)
    client = state._db._client
    ask = client.batch_get_item

    def one_at_a_time(RequestItems: dict[str, Any]) -> Any:  # noqa: N803 - boto3 calls it so
        ((table, wanted),) = RequestItems.items()
        one: Any = {table: {**wanted, "Keys": wanted["Keys"][:1]}}
        answer = ask(RequestItems=one)
        rest = wanted["Keys"][1:]
        return {**answer, "UnprocessedKeys": {table: {**wanted, "Keys": rest}} if rest else {}}

    monkeypatch.setattr(client, "batch_get_item", one_at_a_time)
    assert state.progress(run.id).counts == Counts(skipped=3)
    assert not state.progress(run.id).settled


def test_results_of_all_shards_are_found(state: State) -> None:
    run, root = begin(state)
    children = [root.child(number) for number in range(20)]
    assert len({_shard_of(child.id) for child in children}) > SHARDS / 2
    end(state, root, *children)
    for number, child in enumerate(children):
        state.end_batch(child, BatchRecord((result(str(number)),)), Counts(moved=1))
    assert {each.name for each in state.results(run.id)} == {str(number) for number in range(20)}
    assert state.progress(run.id).counts.moved == 20


def test_the_largest_chunk_of_a_look_fits_an_item_of_the_table() -> None:
    rng = random.Random(1)
    names = (f"{rng.randbytes(100).hex()}" for _ in range(CHUNK_RESULTS + PAGE_TAGS))
    results = [
        Result(
            f"{rng.randbytes(60).hex()}/{rng.randbytes(60).hex()}",
            name[:128],
            Outcome.CONFLICT,
            f"sha256:{rng.randbytes(32).hex()}",
            f"sha256:{rng.randbytes(32).hex()}",
            0,
            "TAG_DIFFERS",
            "the target has another image under this tag and is not overwritten",
        ).to_json()
        for name in names
    ]
    assert len(pack(results)) < LARGEST_ITEM * 0.9


# -- the balance


class Shards:
    """The counters of a run in all shards, after each write."""

    def __init__(self, root: Batch) -> None:
        self.moments = [[0] * SHARDS]
        self.open = {root.id}
        self._add(root.id, _hash(root.id))

    def end(self, batch: Batch, following: list[Batch]) -> None:
        self.open.remove(batch.id)
        self.open |= {each.id for each in following}
        self._add(batch.id, sum(_hash(each.id) for each in following) - _hash(batch.id))

    def _add(self, batch_id: str, amount: int) -> None:
        shards = list(self.moments[-1])
        shards[_shard_of(batch_id)] += amount
        self.moments.append(shards)


@settings(max_examples=100)
@given(st.data())
def test_however_the_shards_are_read_the_balance_is_zero_only_at_the_end(data: st.DataObject) -> None:
    """Each shard is read at a moment of its own; what ends between two of these reads must not look like the end."""
    rng = data.draw(st.randoms(use_true_random=False))
    root = Batch(f"run-{rng.random()}", SYNC, Step.DISCOVER, f"root-{rng.random()}")
    shards, waiting, born = Shards(root), [root], 1
    while waiting:
        batch = waiting.pop(rng.randrange(len(waiting)))
        following = [batch.child(number) for number in range(rng.choice((0, 1, 1, 2, 3)) if born < 25 else 0)]
        born += len(following)
        shards.end(batch, following)
        waiting += following
    last = len(shards.moments) - 1
    assert sum(shards.moments[last]) == 0
    for moment in range(1, last):
        assert sum(shards.moments[moment]) != 0
    for _ in range(30):
        # No read comes before the last one began; the first shard's moment is the earliest.
        first = rng.randrange(1, last) if last > 1 else 1
        torn = [shards.moments[rng.randint(first, last)][shard] for shard in range(SHARDS)]
        ended_when_first_was_read = sum(shards.moments[first]) == 0
        whole = [shards.moments[last][shard] for shard in range(SHARDS)]
        assert sum(torn) != 0 or ended_when_first_was_read or torn == whole


@settings(max_examples=8)
@given(order=st.permutations(range(6)), duplicates=st.lists(st.integers(0, 5), max_size=6))
def test_in_any_order_and_doubled_the_run_is_settled_when_the_last_batch_has_ended(
    order: list[int], duplicates: list[int]
) -> None:
    with new_table() as table:
        state = State(table, Clock().time)
        run, root = begin(state)
        children = [root.child(number) for number in range(6)]
        end(state, root, *children)
        for left, number in zip(range(5, -1, -1), order, strict=True):
            end(state, children[number], moved=1)
            for each in duplicates:
                if each in order[: 6 - left]:
                    end(state, children[each], moved=1)
            assert state.progress(run.id).settled == (left == 0)
        assert state.progress(run.id).counts == Counts(moved=6)


def test_the_first_batch_is_a_look_at_the_runs_scope() -> None:
    run = Run(FIRST, SYNC, 1, Trigger.EVENT, Scope.of(["a"]), 0.0, plan=True)
    batch = first_batch(run)
    assert (batch.step, batch.scope, batch.plan, batch.run, batch.hop) == (
        Step.DISCOVER,
        Scope.of(["a"]),
        True,
        run.id,
        0,
    )
