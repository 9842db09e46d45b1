"""Events that join a run of files: each file is counted once, despite duplicates, delays and kills."""

from __future__ import annotations

import random
from typing import Final

import pytest

from syncline.messages import Start
from syncline.model import Counts, Outcome, RunStatus, Scope, Step, Trigger
from tests.integration.files.targets import Pair
from tests.rig.pump import Delivery, Duplicates, KillPoint

NEW: Final = ("a", "b", "c")
EQUAL: Final = tuple(f"equal/{number:02}" for number in range(20))
EVENTS: Final = 4


def first_transfer(pair: Pair) -> None:
    """Scan a bucket of three new files and some equal ones; the transfer stays queued."""
    pair.configure(removals={"share": 1.0, "count": 100})
    for key in EQUAL:
        pair.put(key, b"the same on both sides")
    pair.chain.run()
    for key in NEW:
        pair.put(key, key.encode())
    pair.chain.clock.sleep(1)
    pair.chain.start(trigger=Trigger.SCHEDULE)
    pair.chain.pump.deliver(pair.chain.mail.waiting())


def event(pair: Pair, times: int = EVENTS) -> None:
    """Queue scans of the files, as events do."""
    for _ in range(times):
        scope = Scope.of(f"key:{key}" for key in (*NEW, EQUAL[0]))
        pair.chain.queues.start(Start(pair.chain.sync, Trigger.EVENT, scope))


def check(pair: Pair) -> Counts:
    """Check that each file has one outcome, in the second run."""
    run = pair.chain.latest()
    assert (run.number, run.status) == (2, RunStatus.DONE)
    assert not pair.chain.mail.waiting()
    outcomes = {key: each.outcome for key, each in pair.chain.results(run).items()}
    assert outcomes == dict.fromkeys(NEW, Outcome.MOVED)
    counts = run.counts
    assert (counts.queued, counts.moved, counts.skipped, counts.failed) == (3, 3, len(EQUAL), 0)
    return counts


def test_events_during_the_first_transfer(pair: Pair) -> None:
    first_transfer(pair)
    event(pair)
    pair.chain.pump.run()
    check(pair)


def test_events_whose_transfers_come_first(pair: Pair) -> None:
    first_transfer(pair)
    for letter in pair.chain.mail.waiting():
        letter.due += 600
    event(pair)
    pair.chain.pump.run()
    check(pair)


def test_events_between_transfer_and_verify(pair: Pair) -> None:
    first_transfer(pair)
    chain = pair.chain
    while transfers := [letter for letter in chain.mail.waiting() if letter.step is Step.TRANSFER]:
        chain.pump.deliver(transfers[:1])
    assert {letter.step for letter in chain.mail.waiting()} == {Step.VERIFY}
    event(pair)
    chain.pump.run()
    check(pair)


def test_removals_are_counted_once(pair: Pair) -> None:
    first_transfer(pair)
    pair.chain.pump.run()
    for key in NEW:
        del pair.objects[key]
    pair.chain.clock.sleep(1)
    pair.chain.start(trigger=Trigger.SCHEDULE)
    pair.chain.pump.deliver(pair.chain.mail.waiting())
    event(pair)
    pair.chain.pump.run()
    run = pair.chain.latest()
    assert (run.number, run.status) == (3, RunStatus.DONE)
    assert {key: each.outcome for key, each in pair.chain.results(run).items()} == dict.fromkeys(NEW, Outcome.REMOVED)
    assert (run.counts.queued, run.counts.removed, run.counts.skipped) == (3, 3, len(EQUAL))


def test_a_conflict_is_reported_once(pair: Pair) -> None:
    first_transfer(pair)
    pair.theirs("theirs", b"somebody else's")
    pair.put("theirs", b"ours, of another size")
    scope = Scope.of(["key:theirs"])
    for _ in range(EVENTS):
        pair.chain.queues.start(Start(pair.chain.sync, Trigger.EVENT, scope))
    pair.chain.pump.run()
    run = pair.chain.latest()
    assert run.number == 2
    assert pair.chain.results(run)["theirs"].outcome is Outcome.CONFLICT
    assert (run.counts.queued, run.counts.moved, run.counts.conflict) == (4, 3, 1)


@pytest.mark.parametrize("duplicates", [Duplicates.AT_ONCE, Duplicates.LATER, Duplicates.AT_THE_END])
def test_messages_delivered_twice(pair: Pair, duplicates: Duplicates) -> None:
    first_transfer(pair)
    event(pair, 2)
    pair.chain.pump.delivery = Delivery(random.Random(1), True, duplicates)
    pair.chain.pump.run()
    check_all(pair, after=1)


def test_killed_at_any_effect(pair: Pair) -> None:
    chain, runs = pair.chain, 1
    first_transfer(pair)
    for number in range(1, 44, 9):
        event(pair, 2)
        chain.reaper.effects.clear()
        chain.reaper.plan = {(number, KillPoint.AFTER if number % 2 else KillPoint.BEFORE)}
        print(f"killed at effect {number}")
        chain.pump.run()
        check_all(pair, after=runs)
        runs = chain.latest().number
        chain.reaper.plan = set()
        for key in NEW:
            pair.put(key, f"{key} {number}".encode())
        chain.clock.sleep(1)
        chain.start(trigger=Trigger.SCHEDULE)
        chain.pump.deliver(chain.mail.waiting())


def check_all(pair: Pair, after: int) -> None:
    """Check that each file was moved once. An event after the first run starts another run, which finds everything equal."""
    runs = [run for run in pair.chain.state.runs(pair.chain.sync, 200) if run.number > after]
    moved = [key for run in runs for key, each in pair.chain.results(run).items() if each.outcome is Outcome.MOVED]
    assert sorted(moved) == sorted(NEW)
    assert sum(run.counts.queued for run in runs) == sum(run.counts.moved for run in runs) == len(NEW)
