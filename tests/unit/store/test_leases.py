"""Leases: one holder at a time, in spite of killed or late functions."""

from __future__ import annotations

import time

import pytest

from syncline.errors import SynclineError
from syncline.model import EVERYTHING, Counts, Outcome, Result, Trigger
from syncline.store.batches import BatchRecord
from syncline.store.leases import LONGEST, LeaseHeldError
from syncline.store.state import State
from tests.rig.pump import Clock
from tests.rig.run_ids import made_run_id

RESULTS = (Result("team/app", "1", Outcome.MOVED),)


def test_a_lease_has_one_holder(state: State) -> None:
    lease = state.leases.take("dr/app", "a", 60)
    with pytest.raises(LeaseHeldError) as held:
        state.leases.take("dr/app", "b", 60)
    assert (held.value.same_owner, held.value.retry_after, held.value.retried) == (False, 60, True)
    with pytest.raises(LeaseHeldError) as held:
        state.leases.take("dr/app", "a", 60)
    assert held.value.same_owner
    assert state.leases.take("dr/web", "b", 60).fence == lease.fence


def test_a_lease_expires_and_the_next_has_a_higher_fencing_token(state: State, clock: Clock) -> None:
    first = state.leases.take("dr/app", "a", 60)
    clock.sleep(59.9)
    with pytest.raises(LeaseHeldError) as held:
        state.leases.take("dr/app", "b", 60)
    assert held.value.retry_after == 1.0
    clock.sleep(0.1)
    assert state.leases.take("dr/app", "b", 60).fence > first.fence


def test_a_released_lease_can_be_taken_at_once(state: State) -> None:
    first = state.leases.take("dr/app", "a", 60)
    state.leases.release(first)
    second = state.leases.take("dr/app", "b", 60)
    assert second.fence > first.fence


def test_a_former_holder_does_not_release_the_lease_of_another(state: State, clock: Clock) -> None:
    old = state.leases.take("dr/app", "a", 60)
    clock.sleep(61)
    state.leases.take("dr/app", "b", 60)
    state.leases.release(old)
    with pytest.raises(LeaseHeldError):
        state.leases.take("dr/app", "c", 60)


def test_the_end_of_a_batch_releases_its_lease(state: State) -> None:
    _, root = state.begin_run("images", made_run_id(), Trigger.MANUAL, EVERYTHING)
    lease = state.leases.take("dr/app", root.id, 60)
    state.end_batch(root, BatchRecord(()), Counts(moved=1), lease)
    state.leases.take("dr/app", "b", 60)


def test_a_holder_that_lost_the_lease_cannot_end_the_batch(state: State, clock: Clock) -> None:
    run, root = state.begin_run("images", made_run_id(), Trigger.MANUAL, EVERYTHING)
    lease = state.leases.take("dr/app", root.id, 60)
    clock.sleep(61)
    state.leases.take("dr/app", "b", 60)
    with pytest.raises(SynclineError, match="LEASE_LOST"):
        state.end_batch(root, BatchRecord(RESULTS), Counts(moved=1), lease)
    assert state.open_batch(root)[1] is None
    assert state.progress(run.id).counts == Counts()


def test_the_lease_of_a_batch_that_had_ended_is_released(state: State) -> None:
    _, root = state.begin_run("images", made_run_id(), Trigger.MANUAL, EVERYTHING)
    state.end_batch(root, BatchRecord(()), Counts())
    lease = state.leases.take("dr/app", root.id, 60)
    state.end_batch(root, BatchRecord(RESULTS), Counts(moved=1), lease)
    state.leases.take("dr/app", "b", 60)


@pytest.mark.parametrize(("requested", "seconds"), [(LONGEST - 1, LONGEST - 1), (LONGEST, LONGEST), (900, LONGEST)])
def test_a_lease_has_a_maximum_duration(state: State, clock: Clock, requested: float, seconds: float) -> None:
    lease = state.leases.take("dr/app", "a", requested)
    assert lease.expires == clock.now + seconds
    clock.sleep(10)
    state.leases.renew(lease, requested)
    assert lease.expires == clock.now + seconds
    clock.sleep(seconds - 0.5)
    with pytest.raises(LeaseHeldError) as held:
        state.leases.take("dr/app", "b", 60)
    assert (held.value.same_owner, held.value.retry_after) == (False, 1.0)
    assert f"until {time.strftime('%H:%M:%S', time.gmtime(lease.expires))} UTC" in held.value.what
    clock.sleep(0.5)
    state.leases.take("dr/app", "b", 60)


@pytest.mark.parametrize(("late", "renewed"), [(59.5, True), (60, False), (61, False)])
def test_an_expired_lease_is_not_renewed(state: State, clock: Clock, late: float, renewed: bool) -> None:
    lease = state.leases.take("dr/app", "a", 60)
    clock.sleep(late)
    state.leases.renew(lease, 60)
    assert lease.expires == (clock.now + 60 if renewed else 0)


def test_a_lease_is_renewed_while_its_holder_may_work(state: State, clock: Clock) -> None:
    lease, left = state.leases.take("dr/app", "a", 60), 30.0
    with state.leases.held(lease, lambda: left):
        clock.sleep(20)
        assert lease.expires == clock.now + 30
        left = 0.0
        clock.sleep(29)
        assert lease.expires == clock.now + 1
        clock.sleep(1)
        state.leases.take("dr/app", "b", 60)
        left = 30.0
        clock.sleep(10)
        assert lease.expires == 0
    with pytest.raises(LeaseHeldError):
        state.leases.take("dr/app", "c", 60)


@pytest.mark.parametrize("reference", ["n" * 3000, "\ud83d"])
def test_any_reference_has_a_lease(state: State, reference: str) -> None:
    state.leases.take(reference, "a", 60)
    with pytest.raises(LeaseHeldError):
        state.leases.take(reference, "b", 60)
    state.leases.take(reference + "n", "b", 60)
