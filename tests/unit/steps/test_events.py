"""The gatherer alone: the notes and starts of a delivery of events, and the time when notes are due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from syncline.config.sync import Gathering, Sync
from syncline.errors import CodeName, SynclineError
from syncline.messages import Start, decode
from syncline.model import Trigger
from tests.rig.made_up import SYNC, Steps

QUIET, LONGEST = 5.0, 20.0
SECONDS = 60.0


class MadeUpSync(Sync):
    def gathering(self) -> Gathering:
        return Gathering(quiet=QUIET, longest=LONGEST)


@pytest.fixture(autouse=True)
def _sync(steps: Steps) -> None:
    steps.event_store.subscribe(SYNC, ["made.up"])
    steps.configs[SYNC] = MadeUpSync(name=SYNC, kind="made-up")


def event(group: str, source: str = "made.up", **more: str) -> dict[str, str]:
    return {"source": source, "group": group, **more}


def notes(steps: Steps, sync: str = SYNC) -> list[tuple[str, ...]]:
    return [note.groups for note in steps.event_store.notes(sync)]


def starts(steps: Steps) -> list[tuple[Start, float]]:
    """Return the start messages, each with the seconds until it becomes visible."""
    found = [(decode(letter.body), letter.due - steps.clock.now) for letter in steps.mail.waiting()]
    return [(each, seconds) for each, seconds in found if isinstance(each, Start)]


def refuse(steps: Steps, code: CodeName, *names: str) -> None:
    """Make the readers of these syncs raise an error with this code."""
    original = steps.gatherer.reader

    def reader(sync: Sync) -> Callable[[object], tuple[str, ...]]:
        return refused if sync.name in names else original(sync)

    def refused(_event: object) -> tuple[str, ...]:
        raise SynclineError(code, "it is so")

    object.__setattr__(steps.gatherer, "reader", reader)


class TestGather:
    def test_a_delivery_becomes_one_note_and_one_start_after_the_quiet_time(self, steps: Steps) -> None:
        assert steps.gatherer.gather([("1", event("b")), ("2", event("a")), ("3", event("b"))]) == set()
        assert notes(steps) == [("a", "b")]
        assert starts(steps) == [(Start(SYNC, Trigger.EVENT, gathered=True, noted=steps.clock.now), QUIET)]

    def test_the_same_delivery_again_is_the_same_note(self, steps: Steps) -> None:
        for bodies in ([("1", event("a")), ("2", event("b"))], [("2", event("b")), ("1", event("a"))]):
            steps.gatherer.gather(bodies)
        assert notes(steps) == [("a", "b")]
        steps.clock.sleep(1)
        steps.gatherer.gather([("3", event("a"))])
        assert notes(steps) == [("a", "b"), ("a",)]

    def test_each_sync_gets_the_events_of_its_sources(self, steps: Steps) -> None:
        steps.event_store.subscribe("another", ["made.up", "elsewhere"])
        steps.gatherer.gather([("1", event("a")), ("2", event("b", "elsewhere")), ("3", event("c", "nowhere"))])
        assert (notes(steps), notes(steps, "another")) == ([("a",)], [("a", "b")])
        assert {each.sync for each, _ in starts(steps)} == {SYNC, "another"}

    def test_messages_that_a_sync_cannot_read_are_returned(self, steps: Steps) -> None:
        hints = steps.kind.changed_groups

        def strict(body: Any) -> tuple[str, ...]:
            if "odd" in body:
                raise SynclineError("MESSAGE_INVALID", "not like that")
            return hints(body)

        object.__setattr__(steps.kind, "changed_groups", strict)
        steps.event_store.subscribe("another", ["made.up"])
        bodies = [("1", event("a", odd="yes")), ("2", event("b")), ("3", event("c", odd="yes"))]
        assert steps.gatherer.gather(bodies) == {"1", "3"}
        assert notes(steps) == notes(steps, "another") == [("b",)]

    def test_messages_that_one_of_two_syncs_cannot_read_are_returned(self, steps: Steps) -> None:
        refuse(steps, "MESSAGE_INVALID", "another")
        steps.event_store.subscribe("another", ["made.up"])
        assert steps.gatherer.gather([("1", event("a"))]) == {"1"}
        assert (notes(steps), notes(steps, "another")) == ([("a",)], [])

    def test_only_events_without_a_subscription_are_counted_as_dropped(
        self, steps: Steps, counted: list[tuple[str, float]]
    ) -> None:
        steps.gatherer.gather([("1", event("a"))])
        assert counted == []
        steps.gatherer.gather([("2", event("a", "nowhere")), ("3", event("b"))])
        assert counted == [("MessagesDropped", 1)]

    def test_unreadable_messages_are_not_noted(self, steps: Steps) -> None:
        def odd(_body: object) -> tuple[str, ...]:
            raise SynclineError("MESSAGE_INVALID", "not like that")

        object.__setattr__(steps.kind, "changed_groups", odd)
        assert steps.gatherer.gather([("1", event("a"))]) == {"1"}
        assert (notes(steps), starts(steps)) == ([], [])

    def test_a_message_without_a_source_raises(self, steps: Steps) -> None:
        with pytest.raises(SynclineError, match="MESSAGE_INVALID"):
            steps.gatherer.gather([("1", {"what": "is this"})])

    def test_a_disabled_sync_gets_no_events(self, steps: Steps) -> None:
        steps.configs[SYNC] = MadeUpSync(name=SYNC, kind="made-up", enabled=False)
        assert steps.gatherer.gather([("1", event("a"))]) == set()
        assert (notes(steps), starts(steps)) == ([], [])

    def test_events_that_a_sync_cannot_note_are_queued_again(self, steps: Steps) -> None:
        steps.event_store.subscribe("another", ["made.up"])
        refuse(steps, "SECRET_MISSING", "another")
        assert steps.gatherer.gather([("1", event("a")), ("2", event("b"))]) == set()
        assert (notes(steps), notes(steps, "another")) == ([("a", "b")], [])
        later = [(each.event, seconds) for each, seconds in starts(steps) if each.sync == "another"]
        assert later == [(event("a"), 30), (event("b"), 30)]

    def test_no_event_is_queued_again_for_a_removed_sync(self, steps: Steps) -> None:
        refuse(steps, "NO_SUCH_SYNC", SYNC)
        assert steps.gatherer.gather([("1", event("a"))]) == set()
        assert starts(steps) == []

    @pytest.mark.parametrize("code", ["MESSAGE_REFUSED", "AWS_UNAVAILABLE"])
    def test_an_event_that_no_queue_accepts_is_left_to_the_next_full_scan(
        self, steps: Steps, code: CodeName, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def start(*_: object) -> None:
            raise SynclineError(code, "it is so")

        refuse(steps, "SECRET_MISSING", SYNC)
        monkeypatch.setattr(type(steps.queues), "start", start)
        if code == "MESSAGE_REFUSED":
            assert steps.gatherer.gather([("1", event("a"))]) == set()
        else:
            with pytest.raises(SynclineError, match=code):
                steps.gatherer.gather([("1", event("a"))])

    def test_another_error_is_raised_and_notes_nothing(self, steps: Steps) -> None:
        def fails(_body: object) -> tuple[str, ...]:
            raise SynclineError("SERVER_ERROR", "500")

        object.__setattr__(steps.kind, "changed_groups", fails)
        with pytest.raises(SynclineError, match="SERVER_ERROR"):
            steps.gatherer.gather_for(SYNC, [("1", event("a"))])
        assert notes(steps) == []


class TestDue:
    def due(self, steps: Steps, noted: float | None = None) -> tuple[str, ...] | None:
        claim = steps.gatherer.claim(SYNC, SECONDS, noted)
        return None if claim is None else claim.groups

    def test_without_notes_nothing_is_due(self, steps: Steps) -> None:
        assert self.due(steps) is None

    @pytest.mark.parametrize(("seconds", "is_due"), [(0, False), (QUIET - 0.6, False), (QUIET - 0.5, True)])
    def test_notes_are_due_after_the_quiet_time(self, steps: Steps, seconds: float, *, is_due: bool) -> None:
        steps.event_store.add_note(SYNC, "1", ["a"])
        steps.clock.sleep(seconds)
        assert self.due(steps) == (("a",) if is_due else None)

    @pytest.mark.parametrize(("seconds", "is_due"), [(LONGEST - 0.1, False), (LONGEST, True)])
    def test_continuous_events_are_due_after_the_longest_wait(
        self, steps: Steps, seconds: float, *, is_due: bool
    ) -> None:
        steps.event_store.add_note(SYNC, "1", ["a"])
        steps.clock.sleep(seconds)
        steps.event_store.add_note(SYNC, "2", ["b"])
        assert self.due(steps) == (("a", "b") if is_due else None)

    def test_the_start_of_the_latest_note_finds_the_notes_due(self, steps: Steps) -> None:
        first = steps.event_store.add_note(SYNC, "1", ["a"])
        steps.clock.sleep(1)
        second = steps.event_store.add_note(SYNC, "2", ["b"])
        assert self.due(steps, first) is None
        assert self.due(steps, second) == ("a", "b")

    def test_a_released_claim_is_resumed_at_once(self, steps: Steps) -> None:
        noted = steps.event_store.add_note(SYNC, "1", ["a"])
        claim = steps.gatherer.claim(SYNC, SECONDS, noted)
        assert claim is not None
        assert claim.until == steps.clock.now + SECONDS
        steps.event_store.add_note(SYNC, "2", ["b"])
        steps.clock.sleep(LONGEST)
        assert self.due(steps) is None, "another function scans"
        steps.event_store.release(SYNC, claim)
        assert steps.gatherer.claim(SYNC, SECONDS) == replace(claim, until=steps.clock.now + SECONDS)


class TestFinish:
    def finish_claim(self, steps: Steps, *more: str) -> None:
        noted = steps.event_store.add_note(SYNC, "1", ["a"])
        claim = steps.gatherer.claim(SYNC, SECONDS, noted)
        assert claim is not None
        for group in more:
            steps.event_store.add_note(SYNC, group, [group])
        steps.gatherer.finish(SYNC, claim)
        assert steps.event_store.current_claim(SYNC) is None
        assert notes(steps) == [(group,) for group in more]

    def test_without_new_notes_nothing_follows(self, steps: Steps) -> None:
        self.finish_claim(steps)
        assert starts(steps) == []

    @pytest.mark.parametrize(("quiet", "delay"), [(QUIET, QUIET), (0.2, 1)])
    def test_events_noted_during_the_scan_are_scanned_after_a_quiet_time(
        self, steps: Steps, quiet: float, delay: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(MadeUpSync, "gathering", lambda _: Gathering(quiet=quiet, longest=LONGEST))
        self.finish_claim(steps, "b")
        assert starts(steps) == [(Start(SYNC, Trigger.EVENT, gathered=True), delay)]


@pytest.mark.parametrize(("code", "applied"), [(None, True), ("NO_SUCH_SYNC", False), ("CONFIG_INVALID", True)])
def test_a_sync_is_applied_unless_its_name_is_unknown(steps: Steps, code: CodeName | None, *, applied: bool) -> None:
    def config(name: str) -> Sync:
        if code is not None:
            raise SynclineError(code, name)
        return steps.configs[name]

    object.__setattr__(steps.gatherer, "config", config)
    assert steps.gatherer.is_applied(SYNC) is applied
