"""A lease ends with its work, whatever fails; the lease of a dead function ends within a minute."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from syncline.kinds.kind import Completed, StepContext, Unfinished
from syncline.messages import Batch, decode
from syncline.model import Item, RunStatus, Step
from tests.rig.aws_faults import disturb
from tests.rig.made_up import MADE_UP_RUN, Answer, Steps, transfer_of
from tests.rig.pump import KilledError, Letter
from tests.rig.stack import QUEUES

pytestmark = pytest.mark.moto

BOTO_ATTEMPTS = 4
"""Attempts of boto3 for one call."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *_: 0.0)
    monkeypatch.setattr("syncline.store.table.time.sleep", lambda _: None)


def client(steps: Steps) -> Any:
    return steps.table.meta.client


def moved(steps: Steps) -> list[str]:
    return [item.name for item in steps.kind.moved]


def test_a_call_whose_response_was_lost_recognises_its_own_lease(steps: Steps) -> None:
    letter = steps.begin_with(transfer_of("1"))
    fault = disturb(client(steps), "UpdateItem", holding="LEASE#", lose_answer=True)
    steps.pump.deliver([letter])
    assert fault.left == 0
    assert moved(steps) == ["1"]


def test_a_lease_written_by_a_failed_call_is_released(steps: Steps) -> None:
    """All responses are lost until boto3 gives up, except that of the call that releases the lease."""
    letter = steps.begin_with(transfer_of("1"))
    fault = disturb(client(steps), "UpdateItem", holding="ADD #fence", times=BOTO_ATTEMPTS, lose_answer=True)
    steps.pump.deliver([letter])
    assert fault.left == 0
    begun = steps.clock.now
    steps.pump.deliver([steps.put(transfer_of("2"))])
    assert moved(steps) == ["2"]
    assert steps.clock.now == begun


@pytest.mark.parametrize(
    ("code", "times"),
    [("ValidationException", 1), ("InternalServerError", BOTO_ATTEMPTS), ("TransactionCanceledException", 12)],
)
def test_a_batch_that_cannot_be_ended_releases_its_lease(steps: Steps, code: str, times: int) -> None:
    letter = steps.begin_with(transfer_of("1"))
    fault = disturb(client(steps), "TransactWriteItems", holding="BATCH#batch-1", code=code, times=times)
    steps.pump.deliver([letter])
    assert fault.left == 0
    begun = steps.clock.now
    steps.pump.deliver([steps.put(transfer_of("2"))])
    assert moved(steps)[-1] == "2"
    assert steps.clock.now == begun
    steps.pump.run()
    assert steps.clock.now - begun < 120
    assert steps.results()["team/app", "1"].outcome == "moved"


def test_a_child_never_meets_the_lease_of_its_parent(steps: Steps) -> None:
    """The transaction that ends the batch conflicts too often, so the batch fails and is retried."""
    letter = steps.begin_with(transfer_of("1"))
    disturb(client(steps), "TransactWriteItems", holding="LEASE#", code="TransactionCanceledException", times=12)
    steps.pump.deliver([letter])
    (child,) = steps.mail.waiting()
    message = decode(child.body)
    assert isinstance(message, Batch)
    assert message.attempt == 2
    steps.pump.deliver([child])
    assert moved(steps) == ["1", "1"]


def test_a_failed_batch_is_retried_although_its_lease_cannot_be_released(steps: Steps) -> None:
    def move(_item: Item, _context: StepContext) -> Answer:
        disturb(client(steps), "UpdateItem", holding="LEASE#", code="ValidationException")
        raise ZeroDivisionError

    steps.kind.move = move
    steps.pump.deliver([steps.begin_with(transfer_of("1"))])
    (child,) = [decode(letter.body) for letter in steps.mail.waiting()]
    assert isinstance(child, Batch)
    assert child.attempt == 2


def test_the_work_of_a_killed_function_is_done_within_a_minute_of_its_redelivery(steps: Steps) -> None:
    """After `syncline down` and `up`, messages are visible at once. Five receptions are not five deaths."""
    letter = steps.begin_with(transfer_of("1"))
    kills = 4

    def move(item: Item, _context: StepContext) -> Answer:
        if len(steps.kind.moved) <= kills:
            steps.reaper.dead = True
            raise KilledError
        return Completed(item)

    steps.kind.move = move
    for number in range(1, kills + 1):
        begun = steps.clock.now
        steps.pump.run_until(begun + 61)
        assert len(steps.kind.moved) == number
        (letter,) = steps.mail.waiting()
        letter.due = steps.clock.now
    steps.pump.run()
    assert (steps.latest().counts.moved, steps.latest().counts.failed) == (1, 0)


def test_redeliveries_during_the_work_are_no_deaths(steps: Steps) -> None:
    letter = steps.begin_with(transfer_of("1"))

    def move(item: Item, _context: StepContext) -> Answer:
        if len(steps.kind.moved) == 1:
            steps.mail.add(Letter("twin", letter.url, letter.body, letter.sent, letter.due))
            for _ in range(8):
                (twin,) = [each for each in steps.mail.waiting() if each is not letter]
                steps.pump.deliver([twin])
                steps.clock.sleep(5)
        return Completed(item)

    steps.kind.move = move
    steps.pump.run()
    run = steps.latest()
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 1, 0)
    assert moved(steps) == ["1"]


def test_a_function_keeps_its_lease_for_its_whole_time(steps: Steps) -> None:
    other, redelivered = transfer_of("2"), list[float]()

    def move(item: Item, context: StepContext) -> Answer:
        if item.name == "1":
            steps.pump.deliver([steps.put(other)])
            for _ in range(10):
                steps.clock.sleep(20)
                redelivered.append(steps.clock.now)
                assert not context.halted()
                (again,) = [each for each in steps.mail.waiting() if b"2" in each.body.encode() and each is not first]
                steps.pump.deliver([again])
        return Completed(item)

    steps.kind.move = move
    first = steps.begin_with(transfer_of("1"))
    steps.pump.deliver([first])
    assert len(redelivered) == 10
    assert moved(steps) == ["1"]
    steps.pump.run()
    assert moved(steps) == ["1", "2"]


def test_a_short_batch_never_renews_its_lease(steps: Steps) -> None:
    steps.reaper.effects.clear()
    steps.pump.deliver([steps.begin_with(transfer_of("1"))])
    assert steps.reaper.effects.count("UpdateItem") == 1


def test_work_continues_after_a_failed_renewal(steps: Steps) -> None:
    def move(item: Item, context: StepContext) -> Answer:
        disturb(client(steps), "UpdateItem", holding="LEASE#", code="ValidationException")
        steps.clock.sleep(59)
        assert not context.halted()
        steps.clock.sleep(59)
        return Unfinished(item) if context.halted() else Completed(item)

    steps.kind.move = move
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert moved(steps) == ["1"]


def test_nothing_is_written_after_another_function_has_taken_the_lease(steps: Steps) -> None:
    """The renewals of a function fail and another takes the lease, so the first one cannot end its batch."""
    calls = itertools.count()

    def move(item: Item, context: StepContext) -> Answer:
        if next(calls):
            return Completed(item, 10)
        disturb(client(steps), "UpdateItem", holding="LEASE#", code="ValidationException", times=2)
        steps.clock.sleep(59.5)
        with_lease = not context.halted()
        steps.clock.sleep(1)
        assert with_lease
        assert context.halted()
        steps.pump.deliver([steps.put(transfer_of("2"))])
        assert moved(steps) == ["1", "2"]
        steps.clock.sleep(20)
        assert context.halted()
        return Completed(item, 5)

    steps.kind.move = move
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert moved(steps) == ["1", "2", "1"]
    assert steps.state.progress(MADE_UP_RUN).counts.bytes == 20


def test_a_lease_ends_with_the_time_of_its_function(steps: Steps) -> None:
    def move(item: Item, context: StepContext) -> Answer:
        steps.clock.sleep(QUEUES[Step.TRANSFER].function_timeout + 1)
        assert context.halted()
        return Completed(item)

    steps.kind.move = move
    letter = steps.begin_with(transfer_of("1"))
    steps.pump.deliver([letter])
    assert moved(steps) == ["1"]
