"""Transfer: attempts, progress, leases and cancelled runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.messages import Batch, decode
from syncline.model import Item, Outcome, Result, RunStatus, Step
from syncline.steps.engine import MAX_ATTEMPTS, MAX_IDLE
from syncline.steps.transfer import MAX_LEASE_DELAY
from tests.rig.made_up import MADE_UP_RUN, SYNC, Answer, Steps, transfer_of
from tests.rig.pump import Letter
from tests.rig.stack import QUEUES


def copy_of(letter: Letter) -> Letter:
    return Letter(letter.id, letter.url, letter.body, letter.sent, letter.due, copied=True)


def test_a_completed_item_is_verified_and_then_moved(steps: Steps) -> None:
    steps.begin_with(transfer_of("1", "2"))
    steps.pump.run()
    run = steps.latest()
    assert run.status is RunStatus.DONE
    assert (run.counts.moved, run.counts.bytes) == (2, 20)
    assert [item.name for item in steps.kind.proved] == ["1", "2"]


def test_an_item_without_anything_to_do_no_longer_counts_as_queued(steps: Steps) -> None:
    without = {"2": Outcome.LEFT_OUT, "3": Outcome.EXTRA}

    def move(item: Item, _context: StepContext) -> Answer:
        return Result(item.group, item.name, without[item.name]) if item.name in without else Completed(item)

    steps.kind.move = move
    steps.begin_with(transfer_of("1", "2", "3"))
    steps.pump.run()
    counts = steps.latest().counts
    assert (counts.queued, counts.moved, counts.left_out, counts.extra, counts.failed) == (1, 1, 1, 1, 0)


def test_a_failed_item_is_retried_alone_and_the_others_do_not_wait(steps: Steps) -> None:
    failing = iter([True, True])

    def move(item: Item, _context: StepContext) -> Answer:
        if item.name == "2" and next(failing, False):
            return Failure(item, SynclineError("UNREACHABLE", "gone"))
        return Completed(item)

    steps.kind.move = move
    steps.begin_with(transfer_of("1", "2", "3"))
    steps.pump.run()
    assert steps.latest().counts.moved == 3
    assert [item.name for item in steps.kind.moved] == ["1", "2", "3", "2", "2"]
    assert [item.name for item in steps.kind.proved] == ["1", "3", "2"]


@pytest.mark.parametrize(("code", "attempts"), [("SERVER_ERROR", MAX_ATTEMPTS), ("FORBIDDEN", 1)])
def test_a_permanently_failed_item_has_a_dead_letter_with_its_reason(
    steps: Steps, code: CodeName, attempts: int
) -> None:
    steps.kind.move = lambda item, _context: (
        Failure(item, SynclineError(code, "it is so")) if item.name == "2" else Completed(item)
    )
    steps.begin_with(transfer_of("1", "2"))
    steps.pump.run()
    run = steps.latest()
    assert run.status is RunStatus.DONE
    assert (run.counts.moved, run.counts.failed) == (1, 1)
    result = steps.results()["team/app", "2"]
    assert (result.outcome, result.code, result.reason) == (Outcome.FAILED, code, "it is so")
    (dead,) = steps.dead()
    assert [item.name for item in dead.batch.items] == ["2"]
    assert (dead.code, dead.reason) == (code, "it is so")
    assert [item.name for item in steps.kind.moved].count("2") == attempts


def test_attempts_with_progress_do_not_count(steps: Steps) -> None:
    """An item needs many functions, each ended by a failure; another item of its batch makes no progress."""
    error = SynclineError("TIME_SHORT", "the time is over")

    def move(item: Item, _context: StepContext) -> Answer:
        done = int(item.detail.get("done", 0)) + 1
        if item.name == "2" or done % 4 == 0:
            return Failure(replace(item, detail={"done": done}), error)
        if done > 4 * MAX_ATTEMPTS:
            return Completed(item, 10)
        return Failure(replace(item, detail={"done": done}), error, further=True)

    steps.kind.move = move
    steps.begin_with(transfer_of("1", "2"))
    steps.pump.run()
    assert {name: result.code for (_, name), result in steps.results().items()} == {
        "1": "TIME_SHORT",
        "2": "TIME_SHORT",
    }
    attempts = [item.name for item in steps.kind.moved]
    assert (attempts.count("1"), attempts.count("2")) == (4 * MAX_ATTEMPTS, MAX_ATTEMPTS)


def test_a_permanent_failure_is_not_retried_despite_progress(steps: Steps) -> None:
    steps.kind.move = lambda item, _context: Failure(item, SynclineError("FORBIDDEN", "no"), further=True)
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert (len(steps.kind.moved), steps.results()["team/app", "1"].code) == (1, "FORBIDDEN")


def test_retries_wait_as_long_as_the_server_asks(steps: Steps) -> None:
    failing = iter([True])
    error = SynclineError("THROTTLED", "slow down", retry_after=120)
    steps.kind.move = lambda item, _context: Failure(item, error) if next(failing, False) else Completed(item)
    steps.begin_with(transfer_of("1"))
    begun = steps.clock.now
    steps.pump.run()
    assert steps.clock.now - begun >= 120


def test_a_result_of_the_transfer_is_not_verified(steps: Steps) -> None:
    steps.kind.move = lambda item, _context: Result(item.group, item.name, Outcome.CONFLICT, code="TAG_DIFFERS")
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert steps.latest().counts.conflict == 1
    assert steps.kind.proved == []


def test_an_unfinished_item_continues_from_its_progress(steps: Steps) -> None:
    def move(item: Item, _context: StepContext) -> Answer:
        done = int(item.detail.get("done", 0)) + 1
        return Completed(item, 30) if done == 4 else Unfinished(replace(item, detail={"done": done}))

    steps.kind.move = move
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert [item.detail for item in steps.kind.moved] == [{}, {"done": 1}, {"done": 2}, {"done": 3}]
    assert (steps.latest().counts.moved, steps.latest().counts.bytes) == (1, 30)


def test_an_endless_chain_of_messages_fails(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.steps.engine.MAX_HOPS", 5)
    steps.kind.move = lambda item, _context: Unfinished(item)
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert steps.latest().status is RunStatus.DONE
    assert [dead.code for dead in steps.dead()] == ["NO_PROGRESS"]
    assert steps.results()["team/app", "1"].code == "NO_PROGRESS"


@pytest.mark.parametrize("progress", ["same item", "only bytes changed", "stuck"])
def test_an_item_without_progress_fails_soon(steps: Steps, progress: str) -> None:
    def move(item: Item, _context: StepContext) -> Answer:
        sent = len(steps.kind.moved)
        match progress:
            case "same item":
                return Unfinished(item)
            case "only bytes changed":
                return Unfinished(replace(item, detail={"bytes": sent}))
            case _:
                return Unfinished(replace(item, detail={"session": sent}), stuck=True)

    steps.kind.move = move
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.moved) == MAX_IDLE
    assert steps.results()["team/app", "1"].code == "NO_PROGRESS"


def test_progress_of_one_item_is_enough_for_its_batch(steps: Steps) -> None:
    def move(item: Item, _context: StepContext) -> Answer:
        done = int(item.detail.get("done", 0)) + (item.name == "1")
        return (
            Completed(item)
            if done == MAX_IDLE + 3 or len(steps.kind.moved) > 2 * MAX_IDLE + 6
            else Unfinished(replace(item, detail={"done": done}))
        )

    steps.kind.move = move
    steps.begin_with(transfer_of("1", "2"))
    steps.pump.run()
    assert (steps.latest().counts.moved, steps.latest().counts.failed) == (2, 0)


def test_waiting_for_another_writer_does_not_fail(steps: Steps) -> None:
    steps.begin_with(transfer_of("1"))
    end = steps.clock.now + 900
    lease = steps.state.leases.take("made.up/team/app", "another", 900)
    with steps.state.leases.held(lease, lambda: end - steps.clock.now):
        steps.pump.run()
    assert len(steps.pump.delivered) > MAX_IDLE + 2
    assert (steps.latest().counts.moved, steps.latest().counts.failed) == (1, 0)


def test_items_that_wait_do_not_fail(steps: Steps) -> None:
    waits = dict.fromkeys(("move", "prove"), MAX_IDLE + 2)

    def has_waited(step: str) -> bool:
        waits[step] -= 1
        return waits[step] < 0

    steps.kind.move = lambda item, _context: (
        Completed(item, 1) if has_waited("move") else Unfinished(item, waiting=True)
    )
    steps.kind.prove = lambda item, _context: (
        Completed(item, 0) if has_waited("prove") else Unfinished(item, waiting=True)
    )
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert waits == {"move": -1, "prove": -1}
    assert (steps.latest().counts.moved, steps.latest().counts.failed) == (1, 0)


def test_a_verification_without_progress_fails(steps: Steps) -> None:
    steps.kind.prove = lambda item, _context: Unfinished(item)
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.kind.proved) == MAX_IDLE
    assert steps.results()["team/app", "1"].code == "NO_PROGRESS"


def test_one_reference_has_one_writer(steps: Steps) -> None:
    """Another batch of the group, delivered while the first one writes, waits for less than the whole lease."""
    steps.begin(MADE_UP_RUN)
    other = transfer_of("2")
    writing: list[str] = []

    def move(item: Item, _context: StepContext) -> Answer:
        assert not writing, f"{item.name} is written while {writing} is"
        writing.append(item.name)
        if item.name == "1":
            steps.pump.deliver([steps.put(other)])
        writing.remove(item.name)
        return Completed(item)

    steps.kind.move = move
    begun = steps.clock.now
    steps.pump.deliver([steps.put(transfer_of("1"))])
    assert [item.name for item in steps.kind.moved] == ["1"]
    steps.pump.run()
    assert [item.name for item in steps.kind.moved] == ["1", "2"]
    assert steps.clock.now - begun <= MAX_LEASE_DELAY


def test_two_groups_are_written_at_the_same_time(steps: Steps) -> None:
    steps.begin(MADE_UP_RUN)
    other = transfer_of("2", group="another")

    def move(item: Item, _context: StepContext) -> Answer:
        if item.name == "1":
            steps.pump.deliver([steps.put(other)])
            assert [each.name for each in steps.kind.moved] == ["1", "2"]
        return Completed(item)

    steps.kind.move = move
    steps.pump.deliver([steps.put(transfer_of("1"))])
    assert len(steps.kind.moved) == 2


def test_a_message_delivered_again_during_its_work_becomes_visible_later(steps: Steps) -> None:
    letter = steps.begin_with(transfer_of("1"))

    def move(item: Item, _context: StepContext) -> Answer:
        if len(steps.kind.moved) == 1:
            twin = copy_of(letter)
            steps.mail.add(twin)
            steps.pump.deliver([twin])
            assert twin not in steps.mail.waiting()
            (again,) = [each for each in steps.mail.waiting() if each is not letter]
            assert again.body == letter.body
            assert again.due == pytest.approx(steps.clock.now + 15, abs=1)
        return Completed(item)

    steps.kind.move = move
    steps.pump.run()
    assert len(steps.kind.moved) == 1
    assert steps.latest().counts.moved == 1


def test_a_batch_that_ended_before_its_lease_was_taken_releases_it(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin finds the batch open, the first delivery ends it, and then the twin takes the lease."""
    letter = steps.begin_with(transfer_of("1"))
    take_lease = steps.state.leases.take

    def slow_take_lease(_self: object, reference: str, owner: str, seconds: float) -> object:
        monkeypatch.undo()
        steps.pump.deliver([letter])
        return take_lease(reference, owner, seconds)

    monkeypatch.setattr(type(steps.state.leases), "take", slow_take_lease)
    twin = copy_of(letter)
    steps.mail.add(twin)
    steps.pump.deliver([twin])
    assert len(steps.kind.moved) == 2
    steps.state.leases.take("made.up/team/app", "another", 1)
    steps.pump.run()
    assert steps.latest().counts.moved == 1


def test_a_writer_without_its_lease_cannot_end_its_batch(steps: Steps) -> None:
    letter = steps.begin_with(transfer_of("1"))

    def move(item: Item, _context: StepContext) -> Answer:
        if len(steps.kind.moved) == 1:  # sleep for longer than the function may run, while another delivery comes
            steps.clock.sleep(QUEUES[Step.TRANSFER].function_timeout + 1)
            twin = copy_of(letter)
            steps.mail.add(twin)
            steps.pump.deliver([twin])
            assert len(steps.kind.moved) == 2
        return Completed(item, 10)

    steps.kind.move = move
    steps.pump.run()
    assert (steps.latest().counts.moved, steps.latest().counts.bytes) == (1, 10)


def test_an_expired_lease_cancels_nothing(steps: Steps) -> None:
    """No item is begun under it, but the run continues with a new lease."""

    def move(item: Item, context: StepContext) -> Answer:
        if len(steps.kind.moved) == 1:
            steps.clock.sleep(QUEUES[Step.TRANSFER].function_timeout + 1)
        return Unfinished(item) if context.halted() else Completed(item)

    steps.kind.move = move
    steps.begin_with(transfer_of("1", "2"))
    steps.pump.run()
    run = steps.latest()
    assert (run.status, run.counts.moved, run.counts.cancelled) == (RunStatus.DONE, 2, 0)


def test_a_cancelled_run_verifies_written_items_and_begins_no_others(steps: Steps) -> None:
    def move(item: Item, context: StepContext) -> Answer:
        if context.over:
            return Unfinished(item)
        steps.state.cancel_run(SYNC, MADE_UP_RUN)
        steps.clock.sleep(10)
        return Completed(item)

    steps.kind.move = move
    steps.begin_with(transfer_of("1", "2", "3"))
    steps.pump.run()
    run = steps.latest()
    assert run.status is RunStatus.CANCELLED
    outcomes = {name: result.outcome for (_, name), result in steps.results().items()}
    assert outcomes == {"1": Outcome.MOVED, "2": Outcome.CANCELLED, "3": Outcome.CANCELLED}, (
        "written items are verified"
    )
    assert steps.mail.dead() == []


def test_a_failed_transfer_releases_its_lease(steps: Steps) -> None:
    def move(_item: Item, _context: StepContext) -> Answer:
        raise ZeroDivisionError

    steps.kind.move = move
    letter = steps.begin_with(transfer_of("1"))
    steps.pump.deliver([letter])
    steps.state.leases.take("made.up/team/app", "another", 1)
    (follow,) = [decode(each.body) for each in steps.mail.waiting()]
    assert isinstance(follow, Batch)
    assert follow.attempt == 2
