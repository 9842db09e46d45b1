"""Verify: only verified items are moved; absent ones are transferred again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from syncline.errors import SynclineError
from syncline.kinds.kind import GRACE_SECONDS, Completed, Failure, StepContext, Unfinished
from syncline.messages import Batch, decode
from syncline.model import EVERYTHING, Item, Outcome, RunStatus, Step, Trigger
from syncline.steps.engine import MAX_ATTEMPTS
from tests.rig.made_up import MADE_UP_RUN, SYNC, Steps, transfer_of

NOT_THERE = SynclineError("NOT_ARRIVED", "it is not there")


def test_a_verified_item_is_moved(steps: Steps) -> None:
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    result = steps.results()["team/app", "1"]
    assert (result.outcome, result.source, result.target) == (Outcome.MOVED, "digest of 1", "digest of 1")


def test_an_absent_item_is_transferred_again(steps: Steps) -> None:
    def verify(item: Item, _context: StepContext) -> Completed | Failure:
        return Failure(item, NOT_THERE) if len(steps.kind.proved) == 1 else Completed(item)

    steps.kind.prove = verify
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.moved) == 2
    assert steps.latest().counts.moved == 1


def test_an_absent_item_is_transferred_again_with_its_detail(steps: Steps) -> None:
    steps.kind.move = lambda item, _context: Completed(replace(item, detail={"run": "1.1"}))
    steps.kind.prove = lambda item, _context: (
        Failure(item, NOT_THERE) if len(steps.kind.proved) == 1 else Completed(item)
    )
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert [item.detail.get("run") for item in steps.kind.moved] == [None, "1.1"]


@pytest.mark.parametrize("error", [NOT_THERE, SynclineError("UNREACHABLE", "gone")])
def test_nothing_of_a_cancelled_run_is_transferred_or_verified_again(steps: Steps, error: SynclineError) -> None:
    def move(item: Item, _context: StepContext) -> Completed:
        steps.state.cancel_run(SYNC, MADE_UP_RUN)
        return Completed(item)

    steps.kind.move = move
    steps.kind.prove = lambda item, _context: Failure(item, error)
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    run = steps.latest()
    assert (run.status, run.counts.cancelled, run.counts.failed) == (RunStatus.CANCELLED, 1, 0)
    assert (len(steps.kind.moved), len(steps.kind.proved)) == (1, 1)


def test_an_unreadable_item_is_verified_again_and_not_transferred(steps: Steps) -> None:
    def verify(item: Item, _context: StepContext) -> Completed | Failure:
        return Failure(item, SynclineError("UNREACHABLE", "gone")) if len(steps.kind.proved) < 3 else Completed(item)

    steps.kind.prove = verify
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.moved) == 1
    assert steps.latest().counts.moved == 1


def test_an_item_that_stays_absent_fails_after_the_attempts_of_both_steps(steps: Steps) -> None:
    steps.kind.prove = lambda item, _context: Failure(item, NOT_THERE)
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.moved) == MAX_ATTEMPTS
    assert steps.latest().status is RunStatus.DONE
    assert [(dead.code, dead.reason) for dead in steps.dead()] == [("NOT_ARRIVED", "it is not there")]


@pytest.mark.parametrize("rounds", [1, 4])
def test_an_unfinished_item_is_verified_later(steps: Steps, rounds: int) -> None:
    def verify(item: Item, _context: StepContext) -> Completed | Unfinished:
        return Unfinished(item) if len(steps.kind.proved) <= rounds else Completed(item)

    steps.kind.prove = verify
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.moved) == 1
    assert steps.latest().counts.moved == 1


def verify_of(*items: Item, **more: Any) -> Batch:
    return Batch(MADE_UP_RUN, SYNC, Step.VERIFY, "batch", items, hop=1, **more)


def one(name: str = "1", source: str | None = "a", target: str | None = "a", **detail: Any) -> Item:
    return Item("team/app", name, source, target, detail=detail)


def following(steps: Steps, batch: Batch) -> Batch:
    """Deliver a batch once; return the only batch that follows."""
    steps.pump.deliver([steps.begin_with(batch)])
    (letter,) = steps.mail.waiting()
    after = decode(letter.body)
    assert isinstance(after, Batch)
    return after


@pytest.mark.parametrize(
    ("item", "outcome", "sent"),
    [
        (one(untouched=True), Outcome.EQUAL, 0),
        (one(), Outcome.MOVED, 0),
        (one(untouched=True, bytes=7), Outcome.MOVED, 7),
        (one(target="b", untouched=True), Outcome.MOVED, 0),
        (one(source=None, target=None, untouched=True), Outcome.REMOVED, 0),
    ],
)
def test_only_an_untouched_item_that_was_equal_is_skipped(
    steps: Steps, item: Item, outcome: Outcome, sent: int
) -> None:
    steps.pump.deliver([steps.begin_with(verify_of(item))])
    result = steps.results()["team/app", "1"]
    assert (result.outcome, result.moved_bytes, result.reason) == (outcome, sent, None)


def test_the_note_of_the_kind_is_the_reason_of_the_result(steps: Steps) -> None:
    steps.kind.prove = lambda item, _context: Completed(item, note="read again")
    steps.pump.deliver([steps.begin_with(verify_of(one()))])
    assert steps.results()["team/app", "1"].reason == "read again"


@pytest.mark.parametrize(
    ("trigger", "asked", "outcome"),
    [
        (Trigger.RETRY, "1", Outcome.EQUAL),
        (Trigger.RETRY, "2", Outcome.MOVED),
        (Trigger.MANUAL, "1", Outcome.MOVED),
    ],
)
def test_a_retry_skips_the_items_of_its_dead_letters_that_were_equal(
    steps: Steps, trigger: Trigger, asked: str, outcome: Outcome
) -> None:
    steps.state.begin_run(SYNC, MADE_UP_RUN, trigger, EVERYTHING, asked=[("team/app", asked)])
    steps.pump.deliver([steps.begin_with(verify_of(one()))])
    assert steps.results()["team/app", "1"].outcome is outcome


@pytest.mark.parametrize(
    ("answers", "names", "idle"),
    [
        ((Unfinished(one("1")), Unfinished(one("2"))), ["1", "2"], 3),
        ((Completed(one("1")), Unfinished(one("2"))), ["2"], 0),
        ((Unfinished(one("1"), waiting=True), Unfinished(one("2"))), ["1", "2"], 0),
    ],
)
def test_a_batch_is_idle_without_progress_of_any_item(
    steps: Steps, answers: tuple[Completed | Unfinished, Completed | Unfinished], names: list[str], idle: int
) -> None:
    steps.kind.prove = lambda item, _context: answers[int(item.name) - 1]
    after = following(steps, verify_of(one("1"), one("2"), idle=2))
    assert ([item.name for item in after.items], after.step, after.idle) == (names, Step.VERIFY, idle)


def test_a_request_ended_with_its_run_is_no_failed_attempt(steps: Steps) -> None:
    steps.kind.prove = lambda item, _context: Failure(item, SynclineError("RUN_CANCELLED", "the run is cancelled"))
    after = following(steps, verify_of(one()))
    assert (after.items, after.attempt, after.idle) == ((one(),), 1, 1)


def test_a_cancelled_run_still_verifies_written_items(steps: Steps) -> None:
    steps.kind.prove = lambda item, _context: Failure(item, NOT_THERE) if item.name == "2" else Completed(item)
    letter = steps.begin_with(verify_of(one("1"), one("2")))
    steps.state.cancel_run(SYNC, MADE_UP_RUN)
    steps.pump.deliver([letter])
    outcomes = {name: result.outcome for (_, name), result in steps.results().items()}
    assert outcomes == {"1": Outcome.MOVED, "2": Outcome.CANCELLED}


def test_a_cancelled_run_has_a_few_seconds_to_verify(steps: Steps) -> None:
    halted = []

    def verify(item: Item, context: StepContext) -> Completed | Unfinished:
        if item.name == "1":
            return Completed(item)
        steps.state.cancel_run(SYNC, MADE_UP_RUN)
        for seconds in (4, GRACE_SECONDS):
            steps.clock.sleep(seconds)
            halted.append(context.halted())
        return Unfinished(item)

    steps.kind.prove = verify
    steps.pump.deliver([steps.begin_with(verify_of(one("1"), one("2")))])
    assert halted == [False, True]
    outcomes = {name: result.outcome for (_, name), result in steps.results().items()}
    assert outcomes == {"1": Outcome.MOVED, "2": Outcome.CANCELLED}


def test_only_the_requests_of_the_batch_are_counted(steps: Steps) -> None:
    steps.kind.more_requests = 5
    steps.pump.deliver([steps.begin_with(verify_of(one()))])
    assert steps.latest().counts.requests == 1
