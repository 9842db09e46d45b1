"""Leases: one holder at a time, whoever dies or comes late."""

from __future__ import annotations

import pytest

from syncline.errors import SynclineError
from syncline.model import EVERYTHING, Counts, Outcome, Result, Trigger
from syncline.state import BatchRecord, LeaseHeldError, State
from tests.pump import Clock

RESULTS = (Result("team/app", "1", Outcome.MOVED),)


def test_a_lease_has_one_holder(state: State) -> None:
    lease = state.take_lease("dr/app", "a", 60)
    with pytest.raises(LeaseHeldError) as held:
        state.take_lease("dr/app", "b", 60)
    assert (held.value.same_owner, held.value.retry_after, held.value.retried) == (False, 60, True)
    with pytest.raises(LeaseHeldError) as held:
        state.take_lease("dr/app", "a", 60)
    assert held.value.same_owner
    assert state.take_lease("dr/web", "b", 60).fence == lease.fence


def test_a_lease_ends_by_itself_and_the_fence_grows(state: State, clock: Clock) -> None:
    first = state.take_lease("dr/app", "a", 60)
    clock.sleep(59.9)
    with pytest.raises(LeaseHeldError) as held:
        state.take_lease("dr/app", "b", 60)
    assert held.value.retry_after == 1.0
    clock.sleep(0.1)
    assert state.take_lease("dr/app", "b", 60).fence > first.fence


def test_a_lease_given_back_can_be_taken_at_once(state: State) -> None:
    first = state.take_lease("dr/app", "a", 60)
    state.drop_lease(first)
    second = state.take_lease("dr/app", "b", 60)
    assert second.fence > first.fence


def test_nobody_gives_back_the_lease_of_another(state: State, clock: Clock) -> None:
    old = state.take_lease("dr/app", "a", 60)
    clock.sleep(61)
    state.take_lease("dr/app", "b", 60)
    state.drop_lease(old)
    with pytest.raises(LeaseHeldError):
        state.take_lease("dr/app", "c", 60)


def test_a_batch_ends_with_its_lease(state: State) -> None:
    _, root = state.begin_run("images", "20261121-101522-3f9c2a7b01", Trigger.HAND, EVERYTHING)
    lease = state.take_lease("dr/app", root.id, 60)
    state.end_batch(root, BatchRecord(()), Counts(moved=1), lease)
    state.take_lease("dr/app", "b", 60)


def test_whoever_lost_the_lease_cannot_end_the_batch(state: State, clock: Clock) -> None:
    run, root = state.begin_run("images", "20261121-101522-3f9c2a7b01", Trigger.HAND, EVERYTHING)
    lease = state.take_lease("dr/app", root.id, 60)
    clock.sleep(61)
    state.take_lease("dr/app", "b", 60)
    with pytest.raises(SynclineError, match="LEASE_LOST"):
        state.end_batch(root, BatchRecord(RESULTS), Counts(moved=1), lease)
    assert state.open_batch(root)[1] is None
    assert state.progress(run.id).counts == Counts()


def test_the_lease_of_a_batch_that_had_ended_is_given_back(state: State) -> None:
    _, root = state.begin_run("images", "20261121-101522-3f9c2a7b01", Trigger.HAND, EVERYTHING)
    state.end_batch(root, BatchRecord(()), Counts())
    lease = state.take_lease("dr/app", root.id, 60)
    state.end_batch(root, BatchRecord(RESULTS), Counts(moved=1), lease)
    state.take_lease("dr/app", "b", 60)
