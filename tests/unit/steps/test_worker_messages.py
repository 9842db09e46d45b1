"""The worker: the fate of one message, depending on its content and on the end of its step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Page, StepContext
from syncline.messages import Batch, Start, decode, encode, to_json
from syncline.model import EVERYTHING, Item, Outcome, RunStatus, Scope, Step, Trigger
from syncline.steps.engine import MAX_DEATHS
from syncline.steps.events import EventGatherer
from syncline.store.events import EventStore
from syncline.store.state import State
from tests.rig.made_up import MADE_UP_RUN, SYNC, Answer, Steps, items, transfer_of
from tests.rig.pump import Letter
from tests.rig.run_ids import made_run_id
from tests.rig.stack import url

AWS_PAUSE = 30
RUN_PAUSE = 15
TWIN_PAUSE = 15
NEXT = made_run_id(5)
AWS_ERROR = ClientError({"Error": {"Code": "InternalServerError", "Message": "it failed"}}, "PutItem")


def batches(steps: Steps) -> list[tuple[Batch, float]]:
    """Return the batches in the queues, each with the seconds until it becomes visible."""
    found = [(decode(letter.body), letter.due - steps.clock.now) for letter in steps.mail.waiting()]
    return [(each, seconds) for each, seconds in found if isinstance(each, Batch)]


def starts(steps: Steps) -> list[tuple[Start, float]]:
    """Return the start messages in the queues, each with the seconds until it becomes visible."""
    found = [(decode(letter.body), letter.due - steps.clock.now) for letter in steps.mail.waiting()]
    return [(each, seconds) for each, seconds in found if isinstance(each, Start)]


def stamp(seconds: float) -> str:
    """Return the part of a run's ID that contains this time."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime(seconds))


def raising(error: Exception) -> object:
    def fails(*_: object) -> Answer:
        raise error

    return fails


class TestBatch:
    def test_a_message_is_delayed_longer_after_each_aws_error(self, steps: Steps) -> None:
        letter = steps.begin_with(transfer_of("1"))
        steps.kind.move = raising(AWS_ERROR)  # type: ignore[assignment]
        for received in (1, 2):
            steps.pump.deliver([letter])
            assert letter in steps.mail.waiting()
            assert letter.due == steps.clock.now + AWS_PAUSE * received
            waiting = steps.latest().waiting
            assert waiting is not None
            assert (waiting.code, waiting.until - waiting.at) == ("AWS_UNAVAILABLE", AWS_PAUSE * received)
            steps.clock.sleep(200)
        assert steps.mail.waiting() == [letter]

    def test_a_batch_whose_lease_was_lost_is_redelivered(self, steps: Steps) -> None:
        letter = steps.begin_with(transfer_of("1"))
        steps.kind.move = raising(SynclineError("LEASE_LOST", "another has it"))  # type: ignore[assignment]
        steps.pump.deliver([letter])
        assert letter in steps.mail.waiting()
        assert letter.due == steps.clock.now + AWS_PAUSE

    @pytest.mark.parametrize(
        ("error", "code", "again"),
        [
            (SynclineError("SERVER_ERROR", "500"), "SERVER_ERROR", True),
            (SynclineError("FORBIDDEN", "403"), "FORBIDDEN", False),
            (KeyError("status"), "INTERNAL", True),
        ],
    )
    def test_any_other_error_fails_the_items(self, steps: Steps, error: Exception, code: str, *, again: bool) -> None:
        letter = steps.begin_with(transfer_of("1", "2"))
        steps.kind.move = raising(error)  # type: ignore[assignment]
        steps.pump.deliver([letter])
        assert letter not in steps.mail.waiting()
        assert [batch.attempt for batch, _ in batches(steps)] == ([2] if again else [])
        assert [each.code for each in steps.dead()] == ([] if again else [code] * 2)

    @pytest.mark.parametrize(("deaths", "received", "gone"), [
        (0, MAX_DEATHS, False),
        (0, MAX_DEATHS + 1, True),
        (MAX_DEATHS - 1, 1, False),
        (MAX_DEATHS - 2, 3, True),
    ])  # fmt: skip
    def test_work_fails_after_too_many_deaths(self, steps: Steps, deaths: int, received: int, *, gone: bool) -> None:
        steps.begin()
        letter = steps.put(replace(transfer_of("1", "2"), deaths=deaths))
        letter.received = received - 1
        steps.pump.deliver([letter])
        assert [each.code for each in steps.dead()] == (["STEP_DIED"] * 2 if gone else [])
        assert len(steps.kind.moved) == (0 if gone else 2)

    @pytest.mark.parametrize(("held", "pause"), [(4, 4), (300, TWIN_PAUSE)])
    def test_a_copy_of_a_batch_in_progress_is_delayed_briefly(self, steps: Steps, held: float, pause: float) -> None:
        batch = replace(transfer_of("1"), deaths=1)
        steps.begin()
        letter = steps.put(batch)
        letter.received = 1
        steps.state.leases.take("made.up/team/app", batch.id, held)
        steps.pump.deliver([letter])
        assert letter not in steps.mail.waiting()
        assert batches(steps) == [(replace(batch, deaths=2), pause)]

    @pytest.mark.parametrize("step", [Step.DISCOVER, Step.TRANSFER, Step.VERIFY])
    def test_a_run_that_is_being_cancelled_only_verifies(self, steps: Steps, step: Step) -> None:
        _, root = steps.begin()
        steps.kind.look = raising(AssertionError("nothing is scanned"))  # type: ignore[assignment]
        steps.state.cancel_run(SYNC, MADE_UP_RUN)
        batch = root if step is Step.DISCOVER else replace(transfer_of("1"), step=step)
        steps.pump.deliver([steps.put(batch)])
        assert (steps.kind.moved, len(steps.kind.proved)) == ([], step is Step.VERIFY)
        outcomes = {Step.DISCOVER: [], Step.TRANSFER: [Outcome.CANCELLED], Step.VERIFY: [Outcome.MOVED]}
        assert [each.outcome for each in steps.state.results(MADE_UP_RUN)] == outcomes[step]

    def test_a_delayed_commit_is_moved_to_the_commit_queue(self, steps: Steps) -> None:
        """A FIFO queue cannot delay a single message, so the commit waits in the queue of discover."""
        steps.begin()
        commit = replace(transfer_of("1"), step=Step.COMMIT)
        letter = steps.put(commit, Step.DISCOVER)
        steps.pump.deliver([letter])
        (commit_letter,) = steps.mail.waiting()
        assert (commit_letter.step, decode(commit_letter.body)) == (Step.COMMIT, commit)
        assert steps.kind.moved == []

    @pytest.mark.parametrize("step", [Step.TRANSFER, Step.VERIFY, Step.COMMIT])
    def test_a_message_of_another_step_becomes_a_dead_letter(self, steps: Steps, step: Step) -> None:
        wrong = Step.VERIFY if step is not Step.VERIFY else Step.TRANSFER
        body = encode(replace(transfer_of("1"), step=wrong))
        steps.pump.deliver([steps.put(body, step)])
        assert [(where, letter.body) for where, letter in steps.mail.dead()] == [(step, body)]
        assert steps.mail.waiting() == []


class TestStart:
    def test_the_run_id_has_the_time_and_the_id_of_the_message(self, steps: Steps) -> None:
        """A redelivered message is the same run; another message is another run."""
        sent = steps.clock.now
        letter = steps.start("a")
        steps.clock.sleep(3600)
        steps.pump.deliver([letter])
        run = steps.latest()
        steps.mail.letters.clear()
        steps.pump.deliver([Letter(letter.id, letter.url, letter.body, sent, steps.clock.now)])
        assert [each.id for each in steps.state.runs(SYNC)] == [run.id]
        assert run.id.startswith(stamp(sent))
        another = Letter("another", letter.url, letter.body, sent, steps.clock.now)
        steps.pump.deliver([another])
        assert len({each.id for each in steps.state.runs(SYNC) if each.id.startswith(stamp(sent))}) == 2

    def test_a_start_with_an_id_begins_the_run_of_that_id(self, steps: Steps) -> None:
        steps.pump.deliver([steps.put(Start(SYNC, Trigger.WEBHOOK, Scope.of(["a"]), id=NEXT))])
        assert [run.id for run in steps.state.runs(SYNC)] == [NEXT]

    def test_a_start_that_has_to_wait_is_sent_again_with_its_id(self, steps: Steps) -> None:
        steps.state.begin_run(SYNC, MADE_UP_RUN, Trigger.MANUAL, Scope.of(["a"]))
        start = Start(SYNC, Trigger.SCHEDULE, id=NEXT)
        letter = steps.put(start)
        steps.pump.deliver([letter])
        assert letter not in steps.mail.waiting()
        assert starts(steps) == [(start, RUN_PAUSE)]

    def test_a_start_without_an_id_that_has_to_wait_gets_one(self, steps: Steps) -> None:
        steps.state.begin_run(SYNC, MADE_UP_RUN, Trigger.MANUAL, Scope.of(["a"]))
        sent = steps.clock.now
        steps.pump.deliver([steps.put(Start(SYNC, Trigger.SCHEDULE))])
        ((waiting, _),) = starts(steps)
        assert waiting.id is not None
        assert waiting.id.startswith(stamp(sent))

    def test_a_start_is_redelivered_after_an_aws_error(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        letter = steps.put(Start(SYNC, Trigger.SCHEDULE))

        def refuse(*_: object, **__: object) -> None:
            raise SynclineError("AWS_UNAVAILABLE", "the table does not answer")

        monkeypatch.setattr(State, "begin_run", refuse)
        steps.pump.deliver([letter])
        assert letter in steps.mail.waiting()
        assert letter.due == steps.clock.now + AWS_PAUSE

    def test_a_begun_run_is_completed_although_its_sync_was_removed(self, steps: Steps) -> None:
        """The run occupies the sync's name; until it ends, no sync could run under that name."""
        steps.begin()

        def config(name: str) -> Sync:
            raise SynclineError("NO_SUCH_SYNC", name)

        object.__setattr__(steps.gatherer, "config", config)
        steps.pump.deliver([steps.start(run=MADE_UP_RUN)])
        assert steps.latest().status is RunStatus.DONE

    @pytest.mark.parametrize(("status", "again"), [("cancelled", True), ("done", False)])
    def test_a_scan_that_joined_a_cancelled_run_gets_its_own_run(
        self, steps: Steps, status: str, *, again: bool
    ) -> None:
        steps.begin()

        def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
            if status == "cancelled":
                steps.state.cancel_run(SYNC, MADE_UP_RUN)
            return []

        steps.kind.look = scan
        start = Start(SYNC, Trigger.WEBHOOK, Scope.of(["a"]), id=NEXT)
        steps.pump.deliver([steps.put(start)])
        assert starts(steps) == ([(start, RUN_PAUSE)] if again else [])

    def test_a_cancelled_run_is_not_repeated(self, steps: Steps) -> None:
        def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
            steps.state.cancel_run(SYNC, steps.latest().id)
            return []

        steps.kind.look = scan
        steps.pump.deliver([steps.put(Start(SYNC, Trigger.WEBHOOK, Scope.of(["a"]), id=NEXT))])
        assert steps.mail.waiting() == []


class TestEvents:
    @pytest.fixture(autouse=True)
    def _subscribed(self, steps: Steps) -> None:
        steps.event_store.subscribe(SYNC, ["made.up"])

    def note(self, steps: Steps, *groups: str) -> Letter:
        """Note groups; return the start message of their scan."""
        for group in groups:
            noted = steps.event_store.add_note(SYNC, group, [group])
        return steps.put(replace(steps.gatherer.start_message(SYNC), noted=noted))

    def test_notes_become_a_run_that_covers_them(self, steps: Steps) -> None:
        letter = self.note(steps, "a", "b")
        steps.clock.sleep(3600)
        steps.pump.deliver([letter])
        run = steps.latest()
        assert (run.scope, run.trigger, run.status) == (Scope.of(["a", "b"]), Trigger.EVENT, RunStatus.DONE)
        assert run.id.startswith(stamp(steps.clock.now)), "the ID has the time of the claim"
        assert (steps.event_store.notes(SYNC), steps.event_store.current_claim(SYNC)) == ([], None)

    def test_a_start_without_notes_does_nothing(self, steps: Steps) -> None:
        steps.pump.deliver([steps.put(steps.gatherer.start_message(SYNC))])
        assert (steps.mail.letters, steps.state.runs(SYNC)) == ([], [])

    def test_events_beside_unreadable_messages_are_noted(self, steps: Steps, counted: list[tuple[str, float]]) -> None:
        steps.put("nonsense")
        steps.notify("a")
        steps.put('{"what": "is this"}')
        steps.notify("b")
        letters = [replace(letter, url=url(Step.DISCOVER)) for letter in steps.mail.letters]
        steps.mail.letters = list(letters)
        steps.pump.deliver(letters)
        assert [note.groups for note in steps.event_store.notes(SYNC)] == [("a", "b")]
        assert not [letter for letter in letters if letter in steps.mail.waiting()]
        assert counted == [("MessagesDropped", 1)] * 2

    def test_a_message_of_another_version_is_redelivered(self, steps: Steps) -> None:
        letter = steps.put(json.dumps(to_json(Start(SYNC, Trigger.MANUAL)) | {"v": 99}))
        steps.pump.deliver([letter])
        assert letter in steps.mail.waiting()
        assert letter.due == steps.clock.now + AWS_PAUSE

    def test_events_that_cannot_be_noted_are_redelivered(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        def note(*_: object) -> float:
            raise AWS_ERROR

        monkeypatch.setattr(EventStore, "add_note", note)
        steps.notify("a", "b")
        letters = list(steps.mail.letters)
        steps.pump.deliver(letters)
        assert [(letter in steps.mail.waiting(), letter.due - steps.clock.now) for letter in letters] == [
            (True, AWS_PAUSE)
        ] * 2

    def test_an_event_that_its_sync_cannot_read_is_dropped(
        self, steps: Steps, counted: list[tuple[str, float]]
    ) -> None:
        object.__setattr__(steps.kind, "changed_groups", raising(SynclineError("MESSAGE_INVALID", "not like that")))
        steps.notify("a")
        steps.pump.deliver(list(steps.mail.letters))
        assert steps.mail.letters == []
        assert counted == [("MessagesDropped", 1)]

    def test_a_deferred_event_is_noted(self, steps: Steps) -> None:
        deferred = {"source": "made.up", "group": "a"}
        steps.pump.deliver([steps.put(replace(steps.gatherer.start_message(SYNC), event=deferred))])
        assert [note.groups for note in steps.event_store.notes(SYNC)] == [("a",)]
        assert len(starts(steps)) == 1

    @pytest.mark.parametrize("step", [Step.TRANSFER, Step.VERIFY])
    def test_only_discover_notes_events(self, steps: Steps, step: Step) -> None:
        steps.pump.deliver([steps.put(json.dumps({"source": "made.up", "group": "a"}), step)])
        assert steps.event_store.notes(SYNC) == []

    @pytest.mark.parametrize("ended", [True, False])
    def test_a_claim_is_deleted_after_the_end_of_its_run(
        self, steps: Steps, monkeypatch: pytest.MonkeyPatch, *, ended: bool
    ) -> None:
        """If a function died after the deletion of the claim, no function would end the run."""
        seen: list[RunStatus] = []
        finish = EventGatherer.finish

        def finish_then(self: EventGatherer, *arguments: object) -> None:
            seen.append(steps.latest().status)
            if not ended:
                raise AWS_ERROR
            finish(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(EventGatherer, "finish", finish_then)
        letter = self.note(steps, "a")
        steps.pump.deliver([letter])
        assert seen == [RunStatus.DONE]
        assert (letter in steps.mail.waiting()) is not ended
        claim = steps.event_store.current_claim(SYNC)
        assert (claim is None) is ended
        assert claim is None or steps.event_store.resume(SYNC, claim, 60) is not None, "the next function can resume it"

    def test_a_scan_that_has_to_wait_releases_its_claim_and_starts_again(self, steps: Steps) -> None:
        steps.begin()
        steps.state.cancel_run(SYNC, MADE_UP_RUN)
        letter = self.note(steps, "a")
        steps.pump.deliver([letter])
        (again,) = starts(steps)
        assert again == (decode(letter.body), RUN_PAUSE)
        claim = steps.event_store.current_claim(SYNC)
        assert claim is not None
        assert steps.event_store.resume(SYNC, claim, 60) is not None


class TestEnds:
    def test_all_messages_are_redelivered_if_a_run_cannot_be_ended(
        self, steps: Steps, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps.begin()
        letters = [steps.put(transfer_of("1")), steps.put(transfer_of("2", group="other"))]

        def finish(*_: object) -> None:
            raise AWS_ERROR

        steps.kind.move = lambda item, _context: Completed(item)
        steps.engine.maybe_over.add((SYNC, MADE_UP_RUN))
        with monkeypatch.context() as patched:
            patched.setattr(State, "finish_run", finish)
            steps.pump.deliver(letters)
        assert all(letter in steps.mail.waiting() for letter in letters)
        assert [letter.due - steps.clock.now for letter in letters] == [AWS_PAUSE] * 2
        steps.pump.run()
        assert steps.state.progress(MADE_UP_RUN).counts.moved == 2
        assert len(steps.kind.moved) == 2

    def test_a_failed_message_does_not_affect_the_others(self, steps: Steps) -> None:
        steps.begin()
        letters = [steps.put(transfer_of(name, group=name)) for name in "123"]

        def move(item: Item, _context: StepContext) -> Answer:
            if item.name == "2":
                raise AWS_ERROR
            return Completed(item)

        steps.kind.move = move
        steps.pump.deliver(letters)
        assert [letter in steps.mail.waiting() for letter in letters] == [False, True, False]


def test_messages_behind_a_slow_one_keep_their_number_of_deaths(steps: Steps) -> None:
    steps.begin()
    slow, behind = steps.put(transfer_of("slow")), steps.put(replace(transfer_of("2", group="other"), deaths=1))
    behind.received = 2

    resent: list[tuple[int, float]] = []

    def move(item: Item, _context: StepContext) -> Answer:
        steps.clock.sleep(6)
        waiting = [each for each in steps.mail.waiting() if each not in (slow, behind)]
        resent.extend(
            (batch.deaths, each.due - began) for each in waiting if isinstance(batch := decode(each.body), Batch)
        )
        return Completed(item)

    steps.kind.move, began = move, steps.clock.now
    steps.pump.deliver([slow, behind])
    assert resent == [(3, 5)]
    assert [item.name for item in steps.kind.moved] == ["slow"]
    assert slow not in steps.mail.waiting()
    assert behind not in steps.mail.waiting()


def test_a_commit_behind_a_slow_one_becomes_visible_at_once(steps: Steps) -> None:
    """A FIFO queue would drop a duplicate."""
    steps.begin()
    slow, behind = (steps.put(replace(transfer_of(name, group=name), step=Step.COMMIT)) for name in ("slow", "other"))

    def move(item: Item, _context: StepContext) -> Answer:
        steps.clock.sleep(6)
        shown.append(behind.due - began)
        return Completed(item)

    shown: list[float] = []
    steps.kind.move, began = move, steps.clock.now
    steps.pump.deliver([slow, behind])
    assert shown == [5]
    assert behind in steps.mail.waiting()


def test_a_full_scan_does_not_begin_beside_another(steps: Steps) -> None:
    steps.begin()
    scopes: list[Scope] = []

    def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> Iterable[Page]:
        scopes.append(scope)
        return [Page("a", items("1"))]

    steps.kind.look = scan
    steps.pump.deliver([steps.put(Start(SYNC, Trigger.SCHEDULE, EVERYTHING))])
    assert (scopes, steps.mail.waiting()) == ([], [])
