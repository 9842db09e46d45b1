"""Duplicated messages: a copy that is delivered while the first is processed does not repeat the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Failure, Page, StepContext
from syncline.messages import Start
from syncline.model import Item, RunStatus, Scope, Step, Trigger
from tests.rig.interleaving import deliver_meanwhile
from tests.rig.made_up import SYNC, Answer, Steps, items, pages, transfer_of
from tests.rig.pump import KilledError, Letter
from tests.rig.run_ids import made_run_id
from tests.rig.stack import QUEUES


def copy_of(steps: Steps, letter: Letter) -> Letter:
    """Add a second message with the same body, as after a send whose response was lost; return it."""
    copy = replace(letter, id=f"{letter.id}-copy")
    steps.mail.add(copy)
    return copy


def scanning(steps: Steps, meanwhile: Callable[[], None]) -> list[Scope]:
    """Call ``meanwhile`` during each scan; return the list to which each scan adds its scope."""
    begun: list[Scope] = []

    def scan(scope: Scope, cursor: str | None, _context: StepContext) -> list[Page]:
        begun.append(scope)
        meanwhile()
        return [page for page in pages(3) if cursor is None or page.cursor > cursor]

    steps.kind.look = scan
    return begun


def test_a_start_delivered_twice_at_once_runs_one_scan(steps: Steps) -> None:
    begun = scanning(steps, lambda: deliver_meanwhile(steps.pump, 5))
    copy_of(steps, steps.start())
    steps.mail.letters[-1].id = steps.mail.letters[0].id  # the same message, delivered twice
    steps.pump.run()
    run = steps.latest()
    assert len(begun) == 1
    assert (run.status, run.counts.queued, run.counts.moved) == (RunStatus.DONE, 3, 3)


def test_a_start_sent_twice_begins_one_run(steps: Steps) -> None:
    begun = scanning(steps, lambda: deliver_meanwhile(steps.pump, 5))
    steps.queues.start(Start(SYNC, Trigger.WEBHOOK, Scope.of(["a"]), id="20260921-141320-00000000aa"))
    copy_of(steps, steps.mail.letters[-1])
    steps.pump.run()
    assert begun == [Scope.of(["a"])]
    (run,) = steps.state.runs(SYNC)
    assert run.id == "20260921-141320-00000000aa"
    assert not steps.state.is_joined(SYNC, run.id)


def test_a_start_that_waits_keeps_its_id(steps: Steps) -> None:
    steps.state.begin_run(SYNC, made_run_id(), Trigger.MANUAL, Scope.of(["a"]))
    letter = steps.start()
    steps.pump.deliver([letter])
    (waiting,) = steps.mail.waiting()
    assert json.loads(waiting.body)["id"].startswith("20260921-")


def test_the_rest_of_a_scan_that_was_sent_twice_runs_once(steps: Steps, small_chunks: None) -> None:  # noqa: ARG001
    """The scan has sent a chunk, so the copy finds its batch ended while the rest is still being scanned."""
    begun: list[str | None] = []

    def scan(_scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
        begun.append(cursor)

        def found() -> Iterator[Page]:
            for number, page in enumerate(page for page in pages(12) if cursor is None or page.cursor > cursor):
                if number == 6:  # after the first chunk
                    deliver_meanwhile(steps.pump, 1)
                    deliver_meanwhile(steps.pump, 3)
                yield page

        return found()

    steps.kind.look = scan
    first = steps.start()
    steps.mail.add(replace(first, due=first.due))
    steps.pump.run()
    run = steps.latest()
    assert begun == [None]
    assert (run.status, run.counts.queued, run.counts.moved) == (RunStatus.DONE, 12, 12)


@pytest.mark.parametrize("step", [Step.DISCOVER, Step.TRANSFER])
def test_a_copy_is_delayed_briefly_and_never_counts_as_a_death(steps: Steps, step: Step) -> None:
    """When the work is done, however long it takes, the copy disappears."""
    done: list[str] = []

    def work(name: str) -> None:
        done.append(name)
        for _ in range(20):
            deliver_meanwhile(steps.pump, 5)
            steps.clock.sleep(10)

    def move(item: Item, _context: StepContext) -> Answer:
        work(item.name)
        return Completed(item, 1)

    if step is Step.DISCOVER:
        scanning(steps, lambda: work("scan"))
        letter = steps.start()
    else:
        steps.kind.move = move
        letter = steps.begin_with(transfer_of("1"))
    copy_of(steps, letter)
    if step is Step.DISCOVER:
        steps.mail.letters[-1].id = letter.id
    steps.pump.deliver([letter])
    assert len(done) == 1
    back = [each for each in steps.mail.waiting() if each.step is step]
    assert len(back) == 1
    assert back[0].due - steps.clock.now <= 20
    steps.pump.run()
    assert len(done) == 1
    assert steps.latest().status is RunStatus.DONE
    assert steps.dead() == []


@pytest.mark.parametrize("deleted", [False, True])
def test_a_redelivered_batch_writes_no_second_dead_letter(steps: Steps, *, deleted: bool) -> None:
    """Its failure has a dead letter already, or a later run has deleted the record because the item succeeded."""
    steps.kind.move = lambda item, _context: Failure(item, SynclineError("FORBIDDEN", "no"))
    letter = steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert len(steps.dead()) == 1
    if deleted:
        steps.run()
        assert steps.state.failures.forgotten(SYNC)
    for _ in range(3):
        copy_of(steps, letter)
        steps.pump.run()
    assert len(steps.dead()) == 1


def test_a_start_of_an_ended_run_does_not_wait_for_another_run(steps: Steps) -> None:
    letter = steps.start("a", run=made_run_id())
    steps.pump.run()
    run = steps.latest()
    assert run.over
    steps.begin(made_run_id(1))
    copy_of(steps, letter)
    steps.pump.deliver([steps.mail.letters[-1]])
    assert steps.mail.waiting() == []
    assert steps.latest().id != run.id


def test_the_copy_repeats_the_scan_of_a_dead_function(steps: Steps) -> None:
    deaths: list[Scope] = []

    def die_once() -> None:
        if len(begun) == 1:
            deaths.append(begun[0])
            raise KilledError

    begun = scanning(steps, die_once)
    copy = copy_of(steps, steps.start())
    copy.id = steps.mail.letters[0].id
    steps.pump.deliver([steps.mail.letters[0]])
    assert len(deaths) == 1
    steps.mail.remove(steps.mail.letters[0])  # only the copy is left
    began = steps.clock.now
    steps.pump.run()
    assert len(begun) == 2
    assert steps.latest().counts.moved == 3
    assert steps.clock.now - began < QUEUES[Step.DISCOVER].function_timeout + 60


def test_the_scan_of_failed_groups_has_its_own_origin(steps: Steps) -> None:
    """So it may run while its parent continues."""
    batch = steps.begin()[1]
    again = batch.child(0, scope=Scope.of(["a"]), begun=None, attempt=2)
    assert again.origin == again.id
    assert batch.child(1, cursor="b").origin == batch.id


def test_two_batches_of_one_group_wait_for_each_other(steps: Steps) -> None:
    def move(item: Item, _context: StepContext) -> Answer:
        deliver_meanwhile(steps.pump, 3)
        return Completed(item, 1)

    steps.kind.move = move
    steps.begin_with(transfer_of("1"))
    steps.put(replace(transfer_of("2"), items=items("2")))
    steps.pump.run()
    assert sorted(item.name for item in steps.kind.moved) == ["1", "2"]
