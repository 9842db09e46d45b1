"""Transfer: the one writer of a group, the context of a transfer, and the batches that follow its answers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.messages import Batch, decode
from syncline.model import Item, Outcome, Result, Run, RunStatus, Step
from syncline.steps.transfer import LEASE_POLL_SECONDS, MAX_LEASE_DELAY, RESERVED_SECONDS, transfer
from syncline.store.leases import LeaseHeldError
from tests.rig.made_up import MADE_UP_RUN, SYNC, Answer, Steps, transfer_of

GROUP = "made.up/team/app"
LEFT = 100.0


@pytest.fixture
def run(steps: Steps) -> Run:
    return steps.begin()[0]


def following(steps: Steps) -> list[Batch]:
    found = [decode(letter.body) for letter in steps.mail.waiting()]
    return [each for each in found if isinstance(each, Batch)]


def delay(steps: Steps) -> float:
    (letter,) = steps.mail.waiting()
    return letter.due - steps.clock.now


class TestOneWriter:
    def test_a_transfer_waits_a_few_seconds_for_another_writer(self, steps: Steps, run: Run) -> None:
        other = steps.state.leases.take(GROUP, "another", 60)
        with steps.clock.every(LEASE_POLL_SECONDS / 2, lambda: steps.state.leases.release(other)):
            transfer(steps.engine, transfer_of("1"), run, lambda: LEFT)
        assert [batch.step for batch in following(steps)] == [Step.VERIFY]

    def test_a_transfer_is_sent_again_while_another_writer_continues(self, steps: Steps, run: Run) -> None:
        steps.state.leases.take(GROUP, "another", 300)
        began = steps.clock.now
        batch = transfer_of("1", "2")
        transfer(steps.engine, batch, run, lambda: LEFT)
        assert steps.clock.now - began == pytest.approx(LEASE_POLL_SECONDS)
        (again,) = following(steps)
        assert (again.step, again.items, again.attempt, again.idle) == (Step.TRANSFER, batch.items, 1, 0)
        assert steps.kind.moved == []
        waiting = steps.latest().waiting
        assert waiting is not None
        assert waiting.code == "LEASE_HELD"

    @pytest.mark.parametrize(
        ("hop", "longest"), [(0, 1), (1, 2), (3, 8), (5, MAX_LEASE_DELAY), (9000, MAX_LEASE_DELAY)]
    )
    @pytest.mark.parametrize("share", [0.5, 1.0])
    def test_delays_grow_with_jitter(self, steps: Steps, run: Run, hop: int, longest: float, share: float) -> None:
        class FixedRandom(random.Random):
            def uniform(self, a: float, b: float) -> float:
                return {0.5: a, 1.0: b}[share]

        steps.state.leases.take(GROUP, "another", 300)
        transfer(replace(steps.engine, rng=FixedRandom()), replace(transfer_of("1"), hop=hop), run, lambda: LEFT)
        assert delay(steps) == round(longest * share)

    def test_no_delay_is_longer_than_the_lease(self, steps: Steps, run: Run) -> None:
        steps.state.leases.take(GROUP, "another", LEASE_POLL_SECONDS + 2)
        transfer(steps.engine, replace(transfer_of("1"), hop=9000), run, lambda: LEFT)
        assert delay(steps) == 2

    def test_a_transfer_without_time_does_not_poll(self, steps: Steps, run: Run) -> None:
        steps.state.leases.take(GROUP, "another", 300)
        began = steps.clock.now
        transfer(steps.engine, transfer_of("1"), run, lambda: 0.0)
        assert steps.clock.now == began
        assert len(following(steps)) == 1

    def test_a_transfer_does_not_wait_for_its_own_batch(self, steps: Steps, run: Run) -> None:
        batch = transfer_of("1")
        steps.state.leases.take(GROUP, batch.id, 300)
        began = steps.clock.now
        with pytest.raises(LeaseHeldError):
            transfer(steps.engine, batch, run, lambda: LEFT)
        assert steps.clock.now == began
        assert steps.mail.waiting() == []

    def test_a_commit_that_finds_its_own_lease_is_sent_again(self, steps: Steps, run: Run) -> None:
        """A FIFO queue delivers it again only if its first function is dead."""
        batch = replace(transfer_of("1"), step=Step.COMMIT)
        steps.state.leases.take(GROUP, batch.id, 300)
        transfer(steps.engine, batch, run, lambda: LEFT)
        assert [each.step for each in following(steps)] == [Step.COMMIT]

    def test_a_lease_is_held_while_the_function_runs(self, steps: Steps, run: Run) -> None:
        def move(item: Item, context: StepContext) -> Answer:
            for _ in range(int(LEFT / 20)):
                steps.clock.sleep(20)
                with pytest.raises(LeaseHeldError):
                    steps.state.leases.take(GROUP, "another", 60)
            assert not context.halted()
            return Completed(item)

        steps.kind.move = move
        end = steps.clock.now + LEFT
        transfer(steps.engine, transfer_of("1"), run, lambda: end - steps.clock.now)
        assert [batch.step for batch in following(steps)] == [Step.VERIFY]
        steps.state.leases.take(GROUP, "another", 60)


def test_the_continuations_of_a_transfer_have_the_same_work_id(steps: Steps) -> None:
    names: list[str] = []

    def move(item: Item, context: StepContext) -> Answer:
        names.append(context.work)
        done = int(item.detail.get("done", 0)) + 1
        return Completed(item) if done == 3 else Unfinished(replace(item, detail={"done": done}))

    steps.kind.move = move
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(names) == 3
    assert len(set(names)) == 1
    assert MADE_UP_RUN in names[0]


def test_a_transfer_has_the_time_of_its_function(steps: Steps) -> None:
    left: list[float] = []

    def move(item: Item, context: StepContext) -> Answer:
        left.append(context.left())
        return Completed(item)

    steps.kind.move = move
    run, _ = steps.begin()
    transfer(steps.engine, transfer_of("1"), run, lambda: LEFT)
    assert left == [LEFT]
    assert RESERVED_SECONDS > 0


class TestAnswers:
    def transfer(self, steps: Steps, run: Run, **answers: Answer) -> list[Batch]:
        """Transfer the items `1`, `2`, ... with these answers; return the following batches."""
        steps.kind.move = lambda item, _context: answers[f"item{item.name}"]
        names = [name.removeprefix("item") for name in answers]
        transfer(steps.engine, replace(transfer_of(*names), idle=3), run, lambda: LEFT)
        return following(steps)

    def item(self, name: str, **detail: object) -> Item:
        return replace(transfer_of(name).items[0], detail=detail)

    def test_completed_items_are_verified_with_the_bytes_sent(self, steps: Steps, run: Run) -> None:
        (verify,) = self.transfer(steps, run, item1=Completed(self.item("1", note="x"), 7))
        assert verify.step is Step.VERIFY
        assert [item.detail for item in verify.items] == [{"note": "x", "bytes": 7}]

    def test_only_the_requests_of_the_transfer_are_counted(self, steps: Steps, run: Run) -> None:
        steps.kind.more_requests = 40
        self.transfer(steps, run, item1=Completed(self.item("1")), item2=Completed(self.item("2")))
        assert steps.state.progress(MADE_UP_RUN).counts.requests == 2

    def test_an_item_whose_request_was_ended_continues(self, steps: Steps, run: Run) -> None:
        """The lease expired or the request was ended, but the run continues."""
        error = SynclineError("RUN_CANCELLED", "its request was ended")
        (again,) = self.transfer(steps, run, item1=Failure(self.item("1", session=5), error))
        assert (again.step, again.attempt) == (Step.TRANSFER, 1)
        assert [item.detail for item in again.items] == [{"session": 5}]

    @pytest.mark.parametrize(
        ("later", "idle"),
        [
            (Unfinished(transfer_of("1").items[0]), 4),
            (Unfinished(transfer_of("1").items[0], waiting=True), 0),
            (Unfinished(replace(transfer_of("1").items[0], detail={"bytes": 5})), 4),
            (Unfinished(replace(transfer_of("1").items[0], detail={"session": 5})), 0),
            (Unfinished(replace(transfer_of("1").items[0], detail={"session": 5}), stuck=True), 4),
            (Unfinished(replace(transfer_of("1").items[0], source="sha256:2")), 0),
        ],
    )
    def test_a_batch_without_progress_is_counted_as_idle(
        self, steps: Steps, run: Run, later: Unfinished, idle: int
    ) -> None:
        (again,) = self.transfer(steps, run, item1=later)
        assert (again.idle, again.attempt) == (idle, 1)

    def test_a_failed_item_is_retried_alone(self, steps: Steps, run: Run) -> None:
        failure = Failure(self.item("2", session=5), SynclineError("SERVER_ERROR", "500"))
        found = self.transfer(steps, run, item1=Completed(self.item("1")), item2=failure)
        assert {(each.step, each.attempt, each.items[0].name) for each in found} == {
            (Step.VERIFY, 1, "1"),
            (Step.TRANSFER, 2, "2"),
        }

    @pytest.mark.parametrize("first", [True, False])
    def test_progress_of_one_item_is_enough(self, steps: Steps, run: Run, *, first: bool) -> None:
        further, same = Unfinished(self.item("1", session=5)), Unfinished(self.item("2"))
        answers = {"item1": further, "item2": same} if first else {"item2": same, "item1": further}
        (again,) = self.transfer(steps, run, **answers)
        assert (again.idle, len(again.items)) == (0, 2)

    def test_the_end_of_one_item_is_enough(self, steps: Steps, run: Run) -> None:
        again, verify = self.transfer(steps, run, item1=Completed(self.item("1")), item2=Unfinished(self.item("2")))
        assert (verify.step, again.step, again.idle) == (Step.VERIFY, Step.TRANSFER, 0)
        assert [item.name for item in again.items] == ["2"]

    def test_the_rest_of_a_cancelled_run_is_cancelled(self, steps: Steps, run: Run) -> None:
        def move(item: Item, context: StepContext) -> Answer:
            if item.name == "1":
                steps.state.cancel_run(SYNC, MADE_UP_RUN)
                steps.clock.sleep(4)
                return Completed(item)
            assert context.halted()
            return Unfinished(item) if item.name == "2" else Result(item.group, item.name, Outcome.CONFLICT)

        steps.kind.move = move
        transfer(steps.engine, transfer_of("1", "2", "3"), run, lambda: LEFT)
        assert [batch.step for batch in following(steps)] == [Step.VERIFY]
        counts = steps.state.progress(MADE_UP_RUN).counts
        assert (counts.cancelled, counts.conflict) == (1, 1)
        assert steps.latest().status is RunStatus.CANCELLING
