from __future__ import annotations

from dataclasses import replace

import pytest

from syncline.errors import SynclineError
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item, Outcome, RunStatus
from syncline.steps.engine import ATTEMPTS
from tests.made_up import MADE_UP_RUN, SYNC, Steps, transfer_of

NOT_THERE = SynclineError("NOT_ARRIVED", "it is not there")


def test_only_what_is_proved_is_moved(steps: Steps) -> None:
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    result = steps.results()["team/app", "1"]
    assert (result.outcome, result.source, result.target) == (Outcome.MOVED, "digest of 1", "digest of 1")


def test_what_did_not_arrive_is_transferred_again(steps: Steps) -> None:
    def prove(item: Item, _pace: Pace) -> Arrived | Failure:
        return Failure(item, NOT_THERE) if len(steps.kind.proved) == 1 else Arrived(item)

    steps.kind.prove = prove
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.moved) == 2
    assert steps.latest().counts.moved == 1


def test_what_did_not_arrive_is_transferred_again_with_its_detail(steps: Steps) -> None:
    steps.kind.move = lambda item, _pace: Arrived(replace(item, detail={"run": "1.1"}))
    steps.kind.prove = lambda item, _pace: Failure(item, NOT_THERE) if len(steps.kind.proved) == 1 else Arrived(item)
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert [item.detail.get("run") for item in steps.kind.moved] == [None, "1.1"]


@pytest.mark.parametrize("error", [NOT_THERE, SynclineError("UNREACHABLE", "gone")])
def test_of_a_cancelled_run_nothing_is_transferred_or_asked_again(steps: Steps, error: SynclineError) -> None:
    def move(item: Item, _pace: Pace) -> Arrived:
        steps.state.cancel_run(SYNC, MADE_UP_RUN)
        return Arrived(item)

    steps.kind.move = move
    steps.kind.prove = lambda item, _pace: Failure(item, error)
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    run = steps.latest()
    assert (run.status, run.counts.cancelled, run.counts.failed) == (RunStatus.CANCELLED, 1, 0)
    assert (len(steps.kind.moved), len(steps.kind.proved)) == (1, 1)


def test_what_cannot_be_asked_is_asked_again_and_not_transferred(steps: Steps) -> None:
    def prove(item: Item, _pace: Pace) -> Arrived | Failure:
        return Failure(item, SynclineError("UNREACHABLE", "gone")) if len(steps.kind.proved) < 3 else Arrived(item)

    steps.kind.prove = prove
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.moved) == 1
    assert steps.latest().counts.moved == 1


def test_what_never_arrives_fails_after_all_attempts_of_both_steps_together(steps: Steps) -> None:
    steps.kind.prove = lambda item, _pace: Failure(item, NOT_THERE)
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.moved) == ATTEMPTS
    assert steps.latest().status is RunStatus.DONE
    assert [(dead.code, dead.reason) for dead in steps.dead()] == [("NOT_ARRIVED", "it is not there")]


@pytest.mark.parametrize("rounds", [1, 4])
def test_what_needs_more_time_is_verified_later(steps: Steps, rounds: int) -> None:
    def prove(item: Item, _pace: Pace) -> Arrived | Later:
        return Later(item) if len(steps.kind.proved) <= rounds else Arrived(item)

    steps.kind.prove = prove
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.moved) == 1
    assert steps.latest().counts.moved == 1
