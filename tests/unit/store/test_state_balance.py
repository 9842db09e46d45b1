"""The balance of a run: it ends exactly after its last batch."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.kinds.images.listing import PAGE_TAGS
from syncline.messages import Batch, DeadLetter, Outgoing
from syncline.model import Counts, Outcome, Result, RunStatus, Step
from syncline.steps.discover import CHUNK_RESULTS
from syncline.store.batches import SHARDS, BatchRecord, _hash, _shard_of
from syncline.store.state import State
from syncline.store.table import pack
from tests.rig.pump import Clock
from tests.rig.stack import new_table
from tests.unit.store.runs import SECOND, SYNC, begin, end

LARGEST_ITEM = 400 * 1024


def result(name: str, **more: str) -> Result:
    return Result("team/app", name, Outcome.MOVED, **more)  # type: ignore[arg-type]


def test_a_run_is_ended_once_after_its_last_batch(state: State) -> None:
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


def test_a_second_delivery_does_not_change_the_end_of_a_batch(state: State) -> None:
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

    def one_at_a_time(RequestItems: dict[str, Any]) -> Any:  # noqa: N803 - the name in boto3
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


def test_the_largest_chunk_of_a_scan_fits_an_item_of_the_table() -> None:
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


class Shards:
    """A model of the counters of a run: their values in all shards after each write."""

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
def test_the_balance_of_shards_read_at_different_times_is_zero_only_at_the_end(data: st.DataObject) -> None:
    """Each shard is read at a different time. Batches that end between two reads must not make the run appear ended."""
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
        # The first shard is read first, so no other is read at an earlier moment.
        first = rng.randrange(1, last) if last > 1 else 1
        torn = [shards.moments[rng.randint(first, last)][shard] for shard in range(SHARDS)]
        ended_when_first_was_read = sum(shards.moments[first]) == 0
        whole = [shards.moments[last][shard] for shard in range(SHARDS)]
        assert sum(torn) != 0 or ended_when_first_was_read or torn == whole


@settings(max_examples=8)
@given(order=st.permutations(range(6)), duplicates=st.lists(st.integers(0, 5), max_size=6))
def test_a_run_is_settled_after_its_last_batch_in_any_order_with_duplicates(
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
