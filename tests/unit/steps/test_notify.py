"""The notifier around real steps, state and messages: what is sent for a run, once, and again after a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest

from syncline.config.sync import Sync, model_of
from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import Failure, Page
from syncline.messages import Hint, Queues, decode
from syncline.model import EVERYTHING, Audit, Counts, Item, Outcome, Result, Run, Trigger
from syncline.steps.notices import Beat, Notice, beat_of
from syncline.steps.notify import CLAIM_SECONDS, HEARTBEAT, MAX_TRIES, Notifier, is_due
from syncline.store.alerts import Alerts
from syncline.store.audits import audit_request
from syncline.store.drills import drill_request
from syncline.store.health import expectation_request
from syncline.store.state import CANCELLED_AFTER
from syncline.wiring.functions import hinting
from tests.rig.made_up import SYNC, MadeUp, Steps
from tests.rig.made_up import steps as made_steps

HOUR: Final = 3600.0
TOLD: Final = model_of("images").model_validate(
    {
        "name": SYNC,
        "kind": "images",
        "source": {"registry": "quay.prod.example", "repositories": ["team/app"]},
        "target": {"registry": "quay.dr.example"},
        "fresh_within": "2h",
        "notify": {
            "sns": "arn:aws:sns:eu-central-1:123456789012:syncline-alerts",
            "slack": {"url": "env:SLACK"},
            "reminders": "4h",
        },
        "heartbeat": {"url": "https://hc.example/1"},
    }
)


@dataclass
class Recorded:
    """Channels that record, and fail as often as a test says."""

    sent: list[tuple[str, Notice]] = field(default_factory=list)
    beats: list[Beat] = field(default_factory=list)
    failing: dict[str, list[SynclineError]] = field(default_factory=dict)

    def send(self, sync: Sync, channel: str, notice: Notice) -> None:
        assert sync.name == SYNC
        self._fail(channel)
        self.sent.append((channel, notice))

    def beat(self, sync: Sync, beat: Beat) -> None:
        assert sync.name == SYNC
        self._fail(HEARTBEAT)
        self.beats.append(beat)

    def _fail(self, channel: str) -> None:
        if errors := self.failing.get(channel):
            raise errors.pop(0)

    def events(self, channel: str = "sns") -> list[str]:
        return [notice.event for name, notice in self.sent if name == channel]


@dataclass
class Hints:
    """The queue of hints, as a list of syncs with their delays."""

    sent: list[tuple[str, int]] = field(default_factory=list)

    def hint(self, sync: str, delay: int = 0) -> None:
        self.sent.append((sync, delay))


@dataclass
class World:
    steps: Steps
    channels: Recorded = field(default_factory=Recorded)
    hints: Hints = field(default_factory=Hints)

    @property
    def alerts(self) -> Alerts:
        return Alerts(self.steps.database)

    def notifier(self, alerts: Alerts | None = None) -> Notifier:
        queues: Any = self.hints
        return Notifier(self.steps.state, alerts or self.alerts, queues, self.channels, self.steps.clock.time)

    def run(self, *groups: str) -> None:
        self.steps.run(*groups)
        self.notifier().notify(SYNC)

    def is_due(self) -> bool:
        state, now = self.steps.state, self.steps.clock.now
        beat = beat_of([run for run in state.runs(SYNC) if not run.plan])
        return is_due(TOLD, state.health(SYNC), state.proofs(SYNC), self.alerts.get(SYNC), beat, now)


@pytest.fixture
def world() -> Iterator[World]:
    with made_steps(MadeUp([Page("p", equal=3)])) as made:
        made.state.put_sync(SYNC, TOLD.model_dump_json())
        yield World(made)


def fail_items(world: World, count: int = 3, code: Any = "FORBIDDEN") -> None:
    world.steps.kind.pages = [Page("p", tuple(Item("team/app", f"v{n}") for n in range(count)), equal=3)]
    world.steps.kind.move = lambda item, _context: Failure(item, SynclineError(code, "the robot may not push"))


def heal(world: World) -> None:
    world.steps.kind.pages = [Page("p", equal=3)]


def test_many_items_that_fail_alike_are_one_notification_and_recovery_is_one(world: World) -> None:
    world.run()
    fail_items(world, 150)
    world.run()
    world.run()
    heal(world)
    world.steps.clock.sleep(HOUR)
    world.run()
    world.run()
    for channel in ("sns", "slack"):
        assert world.channels.events(channel) == ["failing", "in sync"]
    failing = world.channels.sent[0][1]
    assert (failing.count, failing.codes, len(failing.examples)) == (150, ("FORBIDDEN",), 3)
    assert failing.examples[0].reason == "the robot may not push"


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.CONFLICT, "TAG_DIFFERS"), (Outcome.UNTRUSTED, "IMAGE_UNTRUSTED")]
)
def test_items_that_were_refused_are_notified_with_examples(world: World, outcome: Outcome, code: CodeName) -> None:
    refused = tuple(Result("team/app", f"v{n}", outcome, "a", "b", 0, code, "why") for n in range(4))
    world.steps.kind.pages = [Page("p", results=refused)]
    world.run()
    ((_, notice), _) = world.channels.sent
    assert (notice.event, notice.count, len(notice.examples)) == (outcome.value, 4, 3)
    assert notice.examples[0].code == code


def test_an_audit_with_differences_is_notified_until_one_has_none(world: World) -> None:
    world.run()
    for number, different in enumerate((2, 3, 0, 0)):
        world.steps.clock.sleep(HOUR)
        world.steps.run()
        note_audit(world, f"9{number}", different)
        assert world.is_due()
        world.notifier().notify(SYNC)
        assert not world.is_due()
    assert world.channels.events() == world.channels.events("slack") == ["unequal", "in sync"]
    notice = world.channels.sent[0][1]
    assert (notice.count, notice.commands) == (2, (f"syncline audit {SYNC} --last", f"syncline audit {SYNC} --repair"))
    assert f"{SYNC} is unequal in an audit: 2 items" in notice.title


def test_a_failed_drill_is_notified_until_one_is_good(world: World) -> None:
    world.run()
    for failed in (1, 0, 1):
        world.steps.clock.sleep(HOUR)
        world.steps.run()
        note_drill(world, failed)
        assert world.is_due()
        world.notifier().notify(SYNC)
        assert not world.is_due()
    assert world.channels.events() == ["drill-failed", "in sync", "drill-failed"]
    assert f"{SYNC} is failing its restore drill: 1 item" in world.channels.sent[0][1].title


def test_an_audit_of_what_the_sync_was_before_does_not_count(world: World) -> None:
    world.run()
    note_audit(world, "90", 2)
    world.steps.clock.sleep(1)
    database = world.steps.database
    database.apply(expectation_request(database, SYNC, world.steps.clock.now, forget=True))
    world.run()
    assert world.channels.sent == []


def note_audit(world: World, name: str, different: int) -> None:
    """Note the end of an audit, as the end of a run does."""
    database, before = world.steps.database, world.steps.state.audits(SYNC)
    now, counts = world.steps.clock.now, Counts(skipped=3, different=different)
    run = Run(name, SYNC, 1, Trigger.MANUAL, EVERYTHING, now, ended=now, plan=True, counts=counts, audit=Audit())
    assert database.apply(audit_request(database, SYNC, before, before.after(run)))


def note_drill(world: World, failed: int) -> None:
    """Note the end of a restore drill, as the end of a run does."""
    database, now = world.steps.database, world.steps.clock.now
    run = Run(f"{now:.0f}", SYNC, 1, Trigger.MANUAL, EVERYTHING, now, plan=True, drill=1.0)
    database.apply(drill_request(database, run, Counts(skipped=3, failed=failed), now))


def test_another_code_is_another_notification(world: World) -> None:
    fail_items(world)
    world.run()
    fail_items(world, code="NOT_FOUND")
    world.run()
    assert world.channels.events() == ["failing", "failing"]


def test_an_acknowledged_failure_is_silent(world: World) -> None:
    fail_items(world)
    world.run()
    for failure in list(world.steps.state.failures.all(SYNC)):
        world.steps.state.failures.acknowledge(SYNC, failure, acknowledged=True)
    world.steps.clock.sleep(5 * HOUR)
    world.notifier().notify(SYNC)
    world.run()
    assert [each for each in world.channels.events() if each != "stale"] == ["failing"]


def test_a_sync_that_never_ran_becomes_stale(world: World) -> None:
    world.notifier().notify(SYNC)
    assert world.channels.sent == []
    world.steps.clock.sleep(2 * HOUR + 60)
    assert world.is_due()
    world.notifier().notify(SYNC)
    assert world.channels.events() == ["stale"]
    assert world.channels.beats == []


def test_duplicate_and_late_hints_send_nothing_more(world: World) -> None:
    fail_items(world)
    world.run()
    for _ in range(5):
        world.notifier().notify(SYNC)
    assert world.channels.events() == ["failing"]
    assert not world.is_due()


def test_a_hint_that_was_lost_is_due_for_the_watch(world: World) -> None:
    fail_items(world)
    assert world.is_due()
    world.notifier().notify(SYNC)
    assert not world.is_due()
    world.steps.run()
    assert world.is_due()


def test_a_reminder_is_due_for_the_watch_at_its_time(world: World) -> None:
    fail_items(world)
    world.run()
    world.steps.clock.sleep(4 * HOUR - 60)
    assert not world.is_due()
    world.steps.clock.sleep(60)
    assert world.is_due()
    world.notifier().notify(SYNC)
    assert world.channels.events() == ["failing", "reminder"]


def test_a_pause_silences_and_drops_what_is_not_delivered(world: World) -> None:
    world.channels.failing["sns"] = [SynclineError("SERVER_ERROR", "503")]
    fail_items(world)
    world.run()
    world.steps.state.pause(SYNC)
    world.steps.clock.sleep(5 * HOUR)
    world.notifier().notify(SYNC)
    assert (world.channels.events(), world.channels.events("slack")) == ([], ["failing"])
    assert not world.is_due()


def test_one_channel_that_fails_neither_delays_nor_repeats_the_others(world: World) -> None:
    world.channels.failing["sns"] = [SynclineError("SERVER_ERROR", "503")] * 2
    fail_items(world)
    world.run()
    assert (world.channels.events(), world.channels.events("slack")) == ([], ["failing"])
    assert world.hints.sent == [(SYNC, 16)]
    world.notifier().notify(SYNC)  # a hint before its time
    assert world.channels.events() == []
    for delay in (16, 31):
        world.steps.clock.sleep(delay)
        assert world.is_due()
        world.notifier().notify(SYNC)
    assert (world.channels.events(), world.channels.events("slack")) == (["failing"], ["failing"])
    assert world.hints.sent == [(SYNC, 16), (SYNC, 31)]
    assert world.alerts.get(SYNC).notice is None


def test_what_cannot_be_delivered_is_counted_and_given_up(world: World, counted: list[tuple[str, float]]) -> None:
    world.channels.failing["sns"] = [SynclineError("UNREACHABLE", "no route")] * 100
    world.channels.failing["slack"] = [SynclineError("NOT_FOUND", "404")]
    fail_items(world)
    world.run()
    assert [name for name, _ in counted if name == "NotificationsFailed"] == ["NotificationsFailed"]  # slack, at once
    for _ in range(MAX_TRIES - 1):
        world.steps.clock.sleep(world.hints.sent[-1][1])
        world.notifier().notify(SYNC)
    assert [name for name, _ in counted if name == "NotificationsFailed"] == ["NotificationsFailed"] * 2
    assert world.alerts.get(SYNC).given_up == 2
    assert len(world.hints.sent) == MAX_TRIES - 1
    assert dict(world.alerts.get(SYNC).left) == {}


def test_a_newer_state_replaces_what_was_not_delivered(world: World) -> None:
    world.channels.failing["sns"] = [SynclineError("SERVER_ERROR", "503")]
    fail_items(world)
    world.run()
    heal(world)
    world.run()
    assert (world.channels.events(), world.channels.events("slack")) == (["in sync"], ["failing", "in sync"])


def test_a_function_that_dies_after_sending_sends_again_with_the_same_id(world: World) -> None:
    fail_items(world)
    world.steps.run()

    class Dying(Alerts):
        writes = 0

        def put(self, sync: str, alert: Any) -> Any:
            self.writes += 1
            if self.writes > 1:
                raise KeyboardInterrupt  # the function is gone
            return super().put(sync, alert)

    with pytest.raises(KeyboardInterrupt):
        world.notifier(Dying(world.steps.database)).notify(SYNC)
    world.notifier().notify(SYNC)  # the first one may still be sending
    assert world.hints.sent == [(SYNC, 3)]
    world.steps.clock.sleep(CLAIM_SECONDS + 1)
    assert world.is_due()
    world.notifier().notify(SYNC)
    ids = [notice.id for name, notice in world.channels.sent if name == "sns"]
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_two_functions_at_the_same_time_send_one_notification(world: World) -> None:
    fail_items(world)
    world.steps.run()
    other = world.notifier()

    class Late(Alerts):
        raced = False

        def put(self, sync: str, alert: Any) -> Any:
            if not self.raced:
                self.raced = True
                other.notify(SYNC)  # it has read the same record
            return super().put(sync, alert)

    world.notifier(Late(world.steps.database)).notify(SYNC)
    assert (world.channels.events(), world.channels.events("slack")) == (["failing"], ["failing"])


def test_a_heartbeat_is_sent_once_for_each_end(world: World) -> None:
    world.channels.failing[HEARTBEAT] = [SynclineError("SERVER_ERROR", "503")]
    world.run()
    assert world.channels.beats == []
    world.steps.clock.sleep(world.hints.sent[-1][1])
    world.notifier().notify(SYNC)
    world.notifier().notify(SYNC)
    fail_items(world)
    world.run()
    world.run("team/app")
    assert [beat.phase for beat in world.channels.beats] == ["success", "fail", "fail"]


def test_a_heartbeat_says_that_a_run_has_started(world: World) -> None:
    world.steps.state.begin_run(SYNC, "20260105-030000-3f9c2a7b01", Trigger.MANUAL, EVERYTHING)
    world.notifier().notify(SYNC)
    assert [beat.phase for beat in world.channels.beats] == ["start"]


def test_a_clock_one_hour_off_does_not_repeat_or_lose_a_state(world: World) -> None:
    fail_items(world)
    world.steps.run()
    ahead = replace(world.notifier(), clock=lambda: world.steps.clock.now + HOUR)
    ahead.notify(SYNC)
    world.notifier().notify(SYNC)
    heal(world)
    world.run()
    assert world.channels.events() == ["failing", "in sync"]
    assert world.channels.sent[-1][1].since <= world.steps.clock.now


def test_a_sync_that_was_removed_sends_nothing(world: World) -> None:
    fail_items(world)
    world.run()
    world.steps.state.remove_sync(SYNC)
    world.notifier().notify(SYNC)
    assert world.channels.events() == ["failing"]
    assert world.alerts.get(SYNC).told == ""


def test_each_run_sends_hints_when_it_begins_and_ends_only_if_the_sync_notifies(world: World) -> None:
    hints = Hints()
    configs = {SYNC: TOLD}
    world.steps.engine = replace(world.steps.engine, changed=hinting(lambda name: configs[name], hints.hint))
    world.steps.run()
    assert hints.sent == [(SYNC, 0)] * 2
    configs[SYNC] = TOLD.model_copy(update={"notify": None, "heartbeat": None})
    world.steps.run()
    assert len(hints.sent) == 2


def test_a_run_that_the_command_ended_sends_a_hint_with_its_report(world: World) -> None:
    hints = Hints()
    steps = world.steps
    steps.engine = replace(steps.engine, changed=hinting(lambda _name: TOLD, hints.hint))
    run, root = steps.begin()
    steps.state.cancel_run(SYNC, run.id)
    steps.clock.sleep(CANCELLED_AFTER)
    assert steps.state.end_cancelled(SYNC, run.id) is not None
    assert hints.sent == []
    steps.put(root)
    steps.pump.run()
    assert hints.sent == [(SYNC, 0)]


def test_a_hint_that_cannot_be_sent_does_not_stop_the_run() -> None:
    def refuse(_name: str) -> None:
        raise SynclineError("AWS_UNAVAILABLE", "no queue")

    hinting(lambda _name: TOLD, refuse)(SYNC)


def test_a_message_that_is_no_hint_is_dropped(world: World, counted: list[tuple[str, float]]) -> None:
    class Context:
        @staticmethod
        def get_remaining_time_in_millis() -> int:
            return 60_000

    context: Any = Context()
    bodies = ["{", json.dumps({"v": 1, "type": "start", "sync": SYNC, "trigger": "manual", "groups": None})]
    records = [
        {"messageId": str(n), "body": body, "receiptHandle": "r", "eventSource": "aws:sqs"}
        for n, body in enumerate(bodies)
    ]
    assert world.notifier().handle({"Records": records}, context) == {"batchItemFailures": []}
    assert [name for name, _ in counted] == ["MessagesDropped"] * 2
    newer = {"messageId": "3", "body": '{"v": 99}', "receiptHandle": "r", "eventSource": "aws:sqs"}
    assert world.notifier().handle({"Records": [newer]}, context)["batchItemFailures"] == [{"itemIdentifier": "3"}]


def test_a_hint_is_the_same_after_its_queue(world: World) -> None:
    queues: Queues = replace(
        world.steps.queues, notify="https://sqs.eu-central-1.amazonaws.com/123456789012/syncline-notify"
    )
    sent: list[Any] = []

    class Sqs:
        exceptions: Any = type("Exceptions", (), {"ClientError": RuntimeError})

        @staticmethod
        def send_message_batch(**asked: Any) -> Any:
            sent.append(asked)
            return {}

    sqs: Any = Sqs()
    replace(queues, sqs=sqs).hint(SYNC, 5)
    (entry,) = sent[0]["Entries"]
    assert decode(entry["MessageBody"]) == Hint(SYNC)
    assert entry["DelaySeconds"] == 5


def test_the_count_is_complete_beyond_the_limit_of_read_failures(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.steps.notify._MOST_FAILURES", 5)
    fail_items(world, 12)
    world.run()
    assert world.channels.sent[0][1].count == 12


def test_a_new_failure_is_notified_beside_more_acknowledged_ones_than_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.steps.notify._MOST_FAILURES", 5)
    fail_items(world, 12)
    world.run()
    for failure in list(world.steps.state.failures.all(SYNC)):
        world.steps.state.failures.acknowledge(SYNC, failure, acknowledged=True)
    world.run()
    fail_items(world, 13)
    world.run()
    assert world.channels.events() == ["failing", "failing"]
    assert (world.channels.sent[-1][1].count, world.channels.sent[-1][1].examples[0].item) == (1, "team/app:v12")


def test_a_record_of_a_newer_version_is_read_without_its_unknown_fields(world: World) -> None:
    world.channels.failing = {"sns": [SynclineError("SERVER_ERROR", "503")]}
    fail_items(world)
    world.run()
    row = world.steps.database.get(f"SYNC#{SYNC}", "ALERT")
    assert row is not None
    alert = json.loads(row["alert"])
    alert["left"]["sns"] |= {"via": "eu"}
    alert["notice"] |= {"severity": 3, "codes": ["NEW_CODE"]}
    alert["notice"]["examples"][0] |= {"size": 7}
    world.steps.database.put({**row, "alert": json.dumps({**alert, "severity": 3})})
    world.steps.clock.sleep(20)
    world.notifier().notify(SYNC)
    assert world.channels.events() == ["failing"]
    assert "NEW_CODE: Use the version of Syncline that reported it." in world.channels.sent[-1][1].text


def test_a_scan_that_failed_completely_is_named_in_words(world: World) -> None:
    def refuse(*_: Any) -> Any:
        raise SynclineError("FORBIDDEN", "the robot may not list")

    world.steps.kind.look = refuse
    world.run()
    assert world.channels.sent[0][1].examples[0].item == "(complete scan)"
