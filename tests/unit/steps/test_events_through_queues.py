"""Events through the queues: they are noted once, scanned together, and never lost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from syncline.config.sync import Gathering, Sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Page, StepContext
from syncline.messages import Batch, Start, decode
from syncline.model import Run, RunStatus, Scope, Step, Trigger
from syncline.store.events import EventStore
from syncline.store.state import State
from tests.rig.interleaving import deliver_meanwhile
from tests.rig.made_up import MADE_UP_RUN, SYNC, Steps, items
from tests.rig.pump import Delivery, Duplicates, KilledError, KillPoint
from tests.rig.run_ids import made_run_id
from tests.rig.stack import EVENTS, QUEUES


class MadeUpSync(Sync):
    def gathering(self) -> Gathering:
        return Gathering(quiet=5, longest=20)


@pytest.fixture(autouse=True)
def scanned(steps: Steps) -> list[Scope]:
    """Return the list to which each scan adds its scope."""
    scopes: list[Scope] = []

    def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
        scopes.append(scope)
        return [Page(group, items(group, group=group)) for group in scope.groups or ()]

    steps.kind.look = scan
    steps.event_store.subscribe(SYNC, ["made.up"])
    steps.configs[SYNC] = MadeUpSync(name=SYNC, kind="made-up")
    return scopes


def runs(steps: Steps) -> list[Run]:
    return sorted(steps.state.runs(SYNC, 50), key=lambda run: run.number)


def test_events_in_a_row_become_one_scan(steps: Steps, scanned: list[Scope]) -> None:
    steps.pump.delivery.batches = True
    steps.notify("a", "b", "a", "c")
    steps.pump.run()
    assert scanned == [Scope.of(["a", "b", "c"])]
    (run,) = runs(steps)
    assert (run.trigger, run.status, run.counts.moved) == (Trigger.EVENT, RunStatus.DONE, 3)
    assert steps.event_store.notes(SYNC) == []
    assert steps.event_store.current_claim(SYNC) is None


def test_a_scan_waits_for_a_quiet_time_with_a_limit(steps: Steps, scanned: list[Scope]) -> None:
    began = steps.clock.now
    for number in itertools.count():
        steps.notify(f"k{number}")
        steps.pump.run_until(steps.clock.now + 2)
        if scanned:
            break
    assert 20 <= steps.clock.now - began <= 30
    assert len(scanned[0].groups or ()) > 5


def test_a_fast_clock_loses_no_event(steps: Steps, scanned: list[Scope], monkeypatch: pytest.MonkeyPatch) -> None:
    add_note = EventStore.add_note

    def fast(self: EventStore, *arguments: Any) -> float:
        with monkeypatch.context() as patched:
            patched.setattr(self, "_clock", lambda: steps.clock.now + 3)
            return add_note(self, *arguments)

    monkeypatch.setattr(EventStore, "add_note", fast)
    steps.notify("a")
    steps.pump.run()
    assert scanned == [Scope.of(["a"])]


def test_a_sync_without_a_subscription_gets_no_events(steps: Steps, scanned: list[Scope]) -> None:
    steps.notify("a", source="elsewhere")
    steps.pump.run()
    assert scanned == []
    assert steps.mail.dead() == []


def test_a_disabled_sync_gets_no_events(steps: Steps, scanned: list[Scope]) -> None:
    steps.configs[SYNC] = MadeUpSync(name=SYNC, kind="made-up", enabled=False)
    steps.notify("a")
    steps.pump.run()
    assert scanned == []


def test_an_event_of_no_kind_is_dropped(steps: Steps, scanned: list[Scope]) -> None:
    steps.put('{"Records": "?"}')
    steps.pump.run()
    assert scanned == []
    assert steps.mail.dead() == []


def test_an_event_without_a_subscription_is_counted(
    steps: Steps, scanned: list[Scope], counted: list[tuple[str, float]]
) -> None:
    steps.notify("a", source="elsewhere")
    steps.pump.run()
    assert scanned == []
    assert counted == [("MessagesDropped", 1)]


def test_an_event_that_its_sync_cannot_read_is_dropped_alone(steps: Steps, scanned: list[Scope]) -> None:
    steps.event_store.subscribe("another", ["made.up"])
    hints = steps.kind.changed_groups

    def strict(event: object) -> tuple[str, ...]:
        if isinstance(event, dict) and event["group"] == "b":
            raise SynclineError("MESSAGE_INVALID", "not like that")
        return hints(event)

    object.__setattr__(steps.kind, "changed_groups", strict)
    steps.pump.delivery.batches = True
    steps.notify("a", "b", "c")
    steps.pump.run()
    assert scanned == [Scope.of(["a", "c"])] * 2, "one scan for each sync"
    assert steps.mail.dead() == []


@pytest.fixture
def missing(steps: Steps) -> set[str]:
    """Return the set of syncs whose secret is missing: at first ``another``, one of two subscribers of a source."""
    missing_syncs, original = {"another"}, steps.gatherer.reader
    steps.event_store.subscribe("another", ["made.up"])

    def reader(sync: Sync) -> Callable[[object], tuple[str, ...]]:
        if sync.name in missing_syncs:
            raise SynclineError("SECRET_MISSING", "it is gone")
        return original(sync)

    object.__setattr__(steps.gatherer, "reader", reader)
    return missing_syncs


def test_a_sync_that_cannot_note_events_delays_no_other_and_gets_them_later(
    steps: Steps, scanned: list[Scope], missing: set[str]
) -> None:
    steps.pump.delivery.batches = True
    steps.notify("a", "b")
    steps.pump.run_until(steps.clock.now + 100)
    assert scanned == [Scope.of(["a", "b"])], "once, for the sync that could note them"
    assert not [letter for letter in steps.mail.waiting() if letter.url == EVENTS]
    missing.clear()
    steps.pump.run()
    assert scanned[0] == Scope.of(["a", "b"])
    assert {group for scope in scanned[1:] for group in scope.groups or ()} == {"a", "b"}
    assert {run.sync for run in steps.state.runs("another", 9)} == {"another"}
    assert len(runs(steps)) == 1
    assert steps.mail.dead() == []


def test_events_that_a_sync_can_never_note_become_dead_letters(
    steps: Steps, scanned: list[Scope], missing: set[str]
) -> None:
    steps.notify("a")
    steps.pump.run()
    assert missing
    assert scanned == [Scope.of(["a"])]
    (body,) = (letter.body for _, letter in steps.mail.dead())
    assert decode(body) == Start("another", Trigger.EVENT, gathered=True, event={"source": "made.up", "group": "a"})


def test_an_event_that_is_queued_again_and_cannot_be_read_is_dropped(
    steps: Steps, scanned: list[Scope], missing: set[str]
) -> None:
    steps.notify("a")
    steps.pump.run_until(steps.clock.now + 20)
    assert scanned == [Scope.of(["a"])]

    def strict(_event: object) -> tuple[str, ...]:
        raise SynclineError("MESSAGE_INVALID", "not like that")

    object.__setattr__(steps.kind, "changed_groups", strict)
    missing.clear()
    steps.pump.run()
    assert steps.mail.dead() == []


def test_a_removed_sync_gets_no_events(steps: Steps, scanned: list[Scope]) -> None:
    steps.event_store.subscribe("another", ["made.up"])
    known = steps.gatherer.config

    def config(name: str) -> Sync:
        if name == "another":
            raise SynclineError("NO_SUCH_SYNC", "it is gone")
        return known(name)

    object.__setattr__(steps.gatherer, "config", config)
    steps.notify("a")
    steps.pump.run()
    assert scanned == [Scope.of(["a"])]
    assert steps.mail.dead() == []


def test_groups_that_exceed_one_scan_are_scanned_one_after_another(
    steps: Steps, scanned: list[Scope], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.store.events.LARGEST_SCOPE", 12)
    steps.notify(*"abcdefg")
    steps.pump.run()
    assert sorted(group for scope in scanned for group in scope.groups or ()) == list("abcdefg")
    assert len(scanned) > 1


def test_notes_that_exceed_a_record_are_scanned_one_after_another(steps: Steps, scanned: list[Scope]) -> None:
    def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
        scanned.append(scope)  # without differences, because six hundred groups would take long
        return []

    steps.kind.look = scan
    names = [f"{number:06}{'ä' * 400}" for number in range(600)]
    steps.event_store.add_note(SYNC, "one", names)
    steps.queues.start(steps.gatherer.start_message(SYNC))
    steps.clock.sleep(10)
    steps.pump.run()
    assert [group for scope in scanned for group in scope.groups or ()] == names
    assert all(scope.fits for scope in scanned)
    assert len(scanned) > 1


@pytest.mark.parametrize("seed", range(8))
def test_events_doubled_and_in_any_order_lose_nothing(steps: Steps, scanned: list[Scope], seed: int) -> None:
    doubles = list(Duplicates)[seed % 4]
    steps.pump.delivery = Delivery(random.Random(seed), shuffle=True, duplicates=doubles, late=7, batches=True)
    steps.notify(*"abcdefgh")
    steps.pump.run()
    assert {group for scope in scanned for group in scope.groups or ()} == set("abcdefgh")
    assert all(run.status is RunStatus.DONE for run in runs(steps))
    assert steps.state.current_run(SYNC) is None
    assert steps.event_store.notes(SYNC) == []


def effects(steps: Steps) -> int:
    steps.notify("a", "b")
    steps.pump.run()
    return len(steps.reaper.effects)


@pytest.mark.parametrize("when", [KillPoint.BEFORE, KillPoint.AFTER])
@pytest.mark.parametrize("number", range(1, 16))
def test_a_function_killed_at_any_call_loses_nothing(
    steps: Steps, scanned: list[Scope], number: int, when: KillPoint
) -> None:
    steps.reaper.plan = {(number, when)}
    count = effects(steps)
    assert count >= number, f"there are only {count} calls with an effect"
    assert {group for scope in scanned for group in scope.groups or ()} == {"a", "b"}
    assert all(run.status is RunStatus.DONE for run in runs(steps))
    assert steps.state.current_run(SYNC) is None
    assert steps.event_store.notes(SYNC) == []
    assert steps.event_store.current_claim(SYNC) is None


def test_a_scan_whose_function_dies_is_repeated_under_its_id(steps: Steps, scanned: list[Scope]) -> None:
    steps.notify("a")
    scan = steps.kind.look
    deaths: list[Scope] = []

    def die_once(scope: Scope, cursor: str | None, context: StepContext) -> object:
        assert scan is not None
        if not deaths:
            deaths.append(scope)
            steps.notify("b")  # noted between the death and the second attempt
            raise KilledError
        return scan(scope, cursor, context)

    steps.kind.look = die_once  # type: ignore[assignment]
    steps.pump.run()
    assert deaths == [Scope.of(["a"])]
    assert {group for scope in scanned for group in scope.groups or ()} == {"a", "b"}
    assert all(run.status is RunStatus.DONE for run in runs(steps))
    assert steps.event_store.notes(SYNC) == []


def test_a_claim_is_made_once(steps: Steps) -> None:
    steps.event_store.add_note(SYNC, "1", ["a"])
    notes = steps.event_store.notes(SYNC)
    first = steps.event_store.claim(SYNC, notes, 60)
    assert first is not None
    steps.event_store.add_note(SYNC, "2", ["b"])
    assert steps.event_store.claim(SYNC, steps.event_store.notes(SYNC), 60) is None
    assert steps.event_store.current_claim(SYNC) == first
    assert steps.event_store.resume(SYNC, first, 60) is None
    steps.clock.sleep(60)
    taken = steps.event_store.resume(SYNC, first, 60)
    assert taken is not None
    assert taken.until == first.until + 60
    assert steps.event_store.resume(SYNC, first, 60) is None
    steps.event_store.release(SYNC, first)
    assert steps.event_store.resume(SYNC, first, 60) is None, "a lost claim cannot be released"
    steps.event_store.release(SYNC, taken)
    assert steps.event_store.resume(SYNC, first, 60) is not None
    steps.event_store.finish(SYNC, first)
    assert [note.id for note in steps.event_store.notes(SYNC)] == ["2"]


def test_a_subscription_replaces_the_previous_one(steps: Steps) -> None:
    steps.event_store.subscribe(SYNC, ["one", "two"])
    steps.event_store.subscribe(SYNC, ["two", "three"])
    subscribers = {source: steps.event_store.subscribers(source) for source in ("made.up", "one", "two", "three")}
    assert subscribers == {"made.up": [], "one": [], "two": [SYNC], "three": [SYNC]}
    steps.event_store.subscribe(SYNC, [])
    assert steps.event_store.subscribers("two") == []


def scan_concurrently(steps: Steps) -> list[Scope]:
    """Deliver all visible messages to other functions during each scan; return the list to which scans add scopes."""
    begun: list[Scope] = []

    def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
        begun.append(scope)
        steps.clock.sleep(1)
        deliver_meanwhile(steps.pump, 20)
        return [Page(group, items(group, group=group)) for group in scope.groups or ()]

    steps.kind.look = scan
    return begun


def sent(steps: Steps) -> list[str]:
    """Return the list to which each delivered message of the transfer queue adds its body."""
    bodies: list[str] = []
    steps.pump.on_delivery = lambda letter: bodies.append(letter.body) if letter.step is Step.TRANSFER else None
    return bodies


def test_concurrent_starts_scan_one_claim_once(steps: Steps) -> None:
    """With two notes within half a second, both starts find both notes due."""
    begun, transfers = scan_concurrently(steps), sent(steps)
    steps.notify("a")
    steps.pump.run_until(steps.clock.now + 0.3)
    steps.notify("b")
    steps.pump.run()
    assert begun == [Scope.of(["a", "b"])]
    assert len(transfers) == 2
    assert len(set(transfers)) == 2
    assert (len(runs(steps)), runs(steps)[0].counts.moved) == (1, 2)
    assert steps.event_store.current_claim(SYNC) is None


def test_a_start_delivered_twice_at_once_is_scanned_once(steps: Steps) -> None:
    begun, transfers = scan_concurrently(steps), sent(steps)
    steps.notify("a")
    steps.pump.run_until(steps.clock.now + 4)
    (start,) = steps.mail.waiting()
    steps.mail.add(replace(start, id="the same once more"))
    steps.pump.run()
    assert begun == [Scope.of(["a"])]
    assert len(transfers) == 1


def test_events_during_a_scan_are_scanned_after_it(steps: Steps) -> None:
    begun: list[Scope] = []

    def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
        begun.append(scope)
        if len(begun) == 1:
            steps.notify("b")
            deliver_meanwhile(steps.pump, 5)
            steps.clock.sleep(6)
            deliver_meanwhile(steps.pump, 5)
        return []

    steps.kind.look = scan
    steps.notify("a")
    steps.pump.run()
    assert begun == [Scope.of(["a"]), Scope.of(["b"])]


def test_the_next_start_resumes_the_claim_of_a_dead_function(steps: Steps, scanned: list[Scope]) -> None:
    scan = steps.kind.look
    assert scan is not None

    def die(_scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
        raise KilledError

    steps.kind.look = die
    steps.notify("a")
    steps.pump.run_until(steps.clock.now + 10)
    steps.mail.letters.clear()  # SQS has lost its message
    steps.kind.look = scan
    steps.notify("b")
    steps.pump.run_until(steps.clock.now + 60)
    assert scanned == [], "the function with the claim may still be running"
    steps.clock.sleep(QUEUES[Step.DISCOVER].function_timeout)
    steps.notify("c")
    steps.pump.run()
    assert scanned[0] == Scope.of(["a"])
    assert {group for scope in scanned for group in scope.groups or ()} == {"a", "b", "c"}
    assert steps.event_store.notes(SYNC) == []
    assert steps.event_store.current_claim(SYNC) is None


def test_a_claim_is_released_after_a_temporary_failure(steps: Steps, scanned: list[Scope]) -> None:
    """The next function resumes the claim without waiting until the time of the first is over."""
    failing = iter([True])
    scan = steps.kind.look
    assert scan is not None

    def fail_once(scope: Scope, cursor: str | None, context: StepContext) -> Iterable[Page]:
        if next(failing, False):
            raise ClientError({"Error": {"Code": "InternalServerError"}}, "PutItem")
        return scan(scope, cursor, context)

    steps.kind.look = fail_once
    began = steps.clock.now
    steps.notify("a")
    steps.pump.run()
    assert scanned == [Scope.of(["a"])]
    assert steps.clock.now - began < 60


@pytest.mark.parametrize("trigger", [Trigger.EVENT, Trigger.WEBHOOK])
@pytest.mark.parametrize("when", ["before the scan", "in the scan"])
def test_a_scan_that_joined_a_cancelled_run_is_not_lost(
    steps: Steps, scanned: list[Scope], monkeypatch: pytest.MonkeyPatch, when: str, trigger: Trigger
) -> None:
    steps.begin(MADE_UP_RUN)
    join_run, scan = type(steps.state).join_run, steps.kind.look
    assert scan is not None

    def join(state: State, sync: str, own: str, scope: Scope) -> Batch | None:
        batch = join_run(state, sync, own, scope)
        if batch is not None and when == "before the scan":
            state.cancel_run(SYNC, batch.run)
        return batch

    def cancel_and_scan(scope: Scope, cursor: str | None, context: StepContext) -> Iterable[Page]:
        if context.joined:
            steps.state.cancel_run(SYNC, MADE_UP_RUN)
        return scan(scope, cursor, context)

    monkeypatch.setattr(type(steps.state), "join_run", join)
    if when == "in the scan":
        steps.kind.look = cancel_and_scan
    if trigger is Trigger.EVENT:
        steps.notify("a")
    else:
        steps.queues.start(Start(SYNC, trigger, Scope.of(["a"]), id=made_run_id(1)))
    steps.pump.run()
    first, second = runs(steps)
    assert (first.id, first.status, first.counts.moved) == (MADE_UP_RUN, RunStatus.CANCELLED, 0)
    assert (second.trigger, second.status, second.counts.moved) == (trigger, RunStatus.DONE, 1)
    assert scanned[-1] == Scope.of(["a"])
    assert steps.event_store.notes(SYNC) == []
    assert steps.event_store.current_claim(SYNC) is None
