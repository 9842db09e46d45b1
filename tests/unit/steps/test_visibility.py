"""Messages become visible soon after their function was killed, and never wait for a slow message beside them."""

from __future__ import annotations

import random

import pytest

from syncline.kinds.kind import Completed, Page, StepContext
from syncline.messages import Batch, Start
from syncline.model import Item, RunStatus, Scope, Step, Trigger
from tests.rig.made_up import MADE_UP_RUN, SYNC, Answer, Steps, items, transfer_of
from tests.rig.pump import Delivery, KilledError
from tests.rig.stack import EVENTS, QUEUES

MINUTE = 60


def killed(steps: Steps) -> KilledError:
    steps.reaper.dead = True
    return KilledError()


@pytest.mark.parametrize("step", Step)
def test_messages_of_a_killed_function_are_visible_a_minute_after_its_time(steps: Steps, step: Step) -> None:
    def dies(*_: object) -> Answer:
        steps.clock.sleep(3)
        raise killed(steps)

    def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
        steps.clock.sleep(3)
        raise killed(steps)

    steps.kind.move = steps.kind.prove = dies  # type: ignore[assignment]
    steps.kind.look = scan
    _, root = steps.begin(MADE_UP_RUN)
    batches = [Batch(MADE_UP_RUN, SYNC, step, f"b{n}", items("1", group=f"g{n}"), hop=1) for n in range(3)]
    letters = [steps.put(each) for each in ([root] if step is Step.DISCOVER else batches)]
    begun = steps.clock.now
    steps.pump.deliver(letters)
    assert {letter.due - begun for letter in letters} == {QUEUES[step].function_timeout + MINUTE}
    assert QUEUES[step].function_timeout + MINUTE < QUEUES[step].visibility


def test_events_of_a_killed_function_are_visible_a_minute_after_its_time(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery may have a hundred events."""

    def dies(*_: object) -> None:
        raise killed(steps)

    monkeypatch.setattr(type(steps.event_store), "subscribers", dies)
    steps.notify(*(f"g{n}" for n in range(100)))
    letters = steps.mail.letters_in(EVENTS)
    begun = steps.clock.now
    steps.pump.deliver(letters)
    assert {letter.due - begun for letter in letters} == {QUEUES[Step.DISCOVER].function_timeout + MINUTE}


def test_a_message_behind_a_slow_one_goes_back_to_its_queue(steps: Steps) -> None:
    """Another function processes the other messages during the slow one."""
    steps.begin(MADE_UP_RUN)
    slow = steps.put(transfer_of("slow"))
    others = [steps.put(transfer_of(f"quick-{n}", group=f"g{n}")) for n in range(9)]
    begun, done = steps.clock.now, dict[str, float]()

    def move(item: Item, _context: StepContext) -> Answer:
        if item.name == "slow":
            steps.clock.sleep(10)
            again = [each for each in steps.mail.waiting() if each is not slow and each not in others]
            assert all(each.due <= begun + 10 for each in again)
            for each in again:
                steps.pump.deliver([each])
            steps.clock.sleep(200)
        done[item.name] = steps.clock.now
        return Completed(item)

    steps.kind.move = move
    steps.pump.deliver([slow, *others])
    steps.pump.run()
    assert len(done) == 10
    assert max(at for name, at in done.items() if name != "slow") <= begun + 10
    assert [item.name for item in steps.kind.moved].count("quick-3") == 1
    assert steps.state.progress(MADE_UP_RUN).counts.moved == 10


def test_a_message_may_wait_behind_slow_ones_however_often(steps: Steps) -> None:
    """Waiting is neither a death nor idleness."""
    steps.begin(MADE_UP_RUN)

    def move(item: Item, _context: StepContext) -> Answer:
        if item.name.startswith("slow"):
            steps.clock.sleep(280)
        return Completed(item)

    steps.kind.move = move
    steps.put(transfer_of("patient", group="another"))
    for number in range(20):
        slow = steps.put(transfer_of(f"slow-{number}", group=f"g{number}"))
        (patient,) = [each for each in steps.mail.waiting() if "patient" in each.body]
        steps.pump.deliver([slow, patient])
    assert "patient" not in [item.name for item in steps.kind.moved]
    steps.pump.run()
    assert steps.state.progress(MADE_UP_RUN).counts.moved == 21
    assert steps.mail.dead() == []


@pytest.mark.parametrize("step", [Step.DISCOVER, Step.COMMIT])
def test_a_message_that_cannot_be_sent_again_becomes_visible(steps: Steps, step: Step) -> None:
    """A start message is identified by its ID, and a FIFO queue drops a duplicate."""
    steps.begin(MADE_UP_RUN)
    slow = False

    def move(item: Item, _context: StepContext) -> Answer:
        if item.name == "slow":
            steps.clock.sleep(100)
        return Completed(item)

    def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
        nonlocal slow
        if not slow:
            slow = True
            steps.clock.sleep(100)
        return []

    steps.kind.move, steps.kind.look = move, scan
    if step is Step.COMMIT:
        messages = [Batch(MADE_UP_RUN, SYNC, step, name, items(name, group=name), hop=1) for name in ("slow", "quick")]
        first, second = [steps.put(each) for each in messages]
    else:
        first, second = (steps.put(Start(f"sync-{n}", Trigger.SCHEDULE)) for n in range(2))
    begun = steps.clock.now
    steps.pump.deliver([first, second])
    assert first not in steps.mail.waiting()
    assert second in steps.mail.waiting()
    assert second.due <= begun + 10
    steps.pump.run()
    if step is Step.COMMIT:
        assert [item.name for item in steps.kind.moved] == ["slow", "quick"]
    else:
        assert [steps.state.runs(f"sync-{n}")[0].status for n in range(2)] == [RunStatus.DONE] * 2


def test_quick_messages_are_processed_together(steps: Steps) -> None:
    steps.begin(MADE_UP_RUN)
    letters = [steps.put(transfer_of(str(n), group=f"g{n}")) for n in range(10)]
    steps.pump.deliver(letters)
    assert len(steps.kind.moved) == 10
    assert {letter.step for letter in steps.mail.waiting()} == {Step.VERIFY}


def test_an_unreachable_queue_prevents_no_work(steps: Steps) -> None:
    """Neither the shortened visibility nor the return of messages is required."""
    letter = steps.begin_with(transfer_of("1"))
    steps.mail.refuses = {"ChangeMessageVisibilityBatch"}
    steps.pump.deliver([letter])
    assert len(steps.kind.moved) == 1
    steps.pump.run()
    assert steps.latest().counts.moved == 1


def test_disorder_and_slowness_change_no_count(steps: Steps) -> None:
    rng = random.Random(7)
    steps.pump.delivery = Delivery(rng, shuffle=True, batches=True)

    def move(item: Item, _context: StepContext) -> Answer:
        steps.clock.sleep(rng.choice([0, 3, 40]))
        return Completed(item, 1)

    steps.kind.move = move
    steps.kind.prove = move  # type: ignore[assignment]
    steps.kind.pages = [Page(f"g{n:02}", items("1", "2", group=f"g{n:02}")) for n in range(12)]
    run = steps.run()
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 24, 0)
