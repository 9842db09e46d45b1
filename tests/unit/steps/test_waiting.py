"""The reason why a run waits: recorded by the steps, cleared by progress, and shown to users."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from syncline.cli.run_progress import state_words
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Failure, StepContext
from syncline.model import EVERYTHING, Counts, Item, Run, RunStatus, Step, Trigger, Waiting
from syncline.progress import waiting_reason
from syncline.secrets import Secrets
from syncline.store.batches import Progress
from syncline.store.table import Database
from syncline.wiring import functions as wiring
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.environments import TransferEnvironment
from tests.rig.made_up import MADE_UP_RUN, SYNC, Answer, Steps, transfer_of
from tests.rig.pump import Letter

SLOW_DOWN = SynclineError("THROTTLED", "registry.example asked to slow down", retry_after=90.0)
RUN = Run("r", SYNC, 1, Trigger.MANUAL, EVERYTHING, started=1000.0)
HELD = Waiting("LEASE_HELD", "made.up/team/app has another writer", since=1010.0, at=1100.0, until=1190.0)


def test_a_retried_transfer_records_its_reason(steps: Steps) -> None:
    seen: list[Waiting | None] = []
    began: list[float] = []

    def move(item: Item, _context: StepContext) -> Answer:
        seen.append(steps.latest().waiting)
        began.append(steps.clock.now)
        return Failure(item, SLOW_DOWN) if len(seen) < 4 else Completed(item)

    steps.kind.move = move
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert seen[0] is None
    noted = [each for each in seen[1:] if each is not None]
    assert [(each.code, each.what) for each in noted] == [("THROTTLED", SLOW_DOWN.what)] * 3
    assert len({each.since for each in noted}) == 1, "it has waited since the first attempt"
    assert [round(each.until - each.at) for each in noted] == [90, 90, 90]
    assert began[0] <= noted[0].since <= noted[0].at < noted[1].at < noted[2].at


def test_a_retried_scan_records_its_reason(steps: Steps) -> None:
    seen: list[Waiting | None] = []

    def scan(_scope: object, _cursor: object, _context: StepContext) -> list[object]:
        seen.append(steps.latest().waiting)
        if len(seen) < 2:
            raise SLOW_DOWN
        return []

    steps.kind.look = scan  # type: ignore[assignment]
    steps.run()
    assert [each and each.code for each in seen] == [None, "THROTTLED"]


def test_waiting_for_a_lease_is_recorded(steps: Steps) -> None:
    steps.state.leases.take("made.up/team/app", "another run", 200.0)
    steps.begin_with(transfer_of("1"))
    seen: list[Waiting | None] = []

    def note(_letter: Letter) -> None:
        seen.append(steps.latest().waiting)

    steps.pump.on_delivery = note
    steps.pump.run()
    codes = [each.code for each in seen if each is not None]
    assert codes
    assert set(codes) == {"LEASE_HELD"}
    assert steps.latest().status is RunStatus.DONE


def test_a_refusal_of_a_queue_is_recorded(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    steps.begin_with(transfer_of("1"))
    refusal = ClientError({"Error": {"Code": "OverLimit", "Message": "too many messages"}}, "SendMessageBatch")
    send, refused = steps.queues.send, list[ClientError]()

    def refuse_once(messages: object) -> None:
        if not refused:
            refused.append(refusal)
            raise refusal
        send(messages)  # type: ignore[arg-type]

    monkeypatch.setattr(type(steps.queues), "send", lambda _self, messages: refuse_once(messages))
    steps.pump.run()
    waiting = steps.latest().waiting
    assert waiting is not None
    assert (waiting.code, "too many messages" in waiting.what) == ("AWS_UNAVAILABLE", True)


def test_a_slow_server_is_recorded(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    http = Http()
    parts = Dependencies(Secrets(pytest.fail, pytest.fail), http, steps.state, Database(steps.table))
    for name in TransferEnvironment.variables():
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr(wiring, "dependencies_of", lambda _: parts)
    monkeypatch.setattr(wiring, "queues_of", lambda *_: steps.queues)
    monkeypatch.setattr(wiring, "kind_builder", lambda _: lambda _: steps.kind)
    engine = wiring.worker.__wrapped__(Step.TRANSFER).engine
    run, _ = steps.begin()
    engine.bind(run, 100.0, lambda: False)
    http.policy.on_slow("registry.example is slow: 3 KiB/s")
    noted = steps.latest()
    texts = state_words(noted, Progress(Counts(), False, 0.0), max(noted.started, time.time()) + 61)
    assert [text.partition(": ")[2] for text in texts] == ["TOO_SLOW: registry.example is slow: 3 KiB/s"]


def test_a_failure_to_record_the_reason_stops_nothing(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ClientError({"Error": {"Code": "Throttling"}}, "UpdateItem")

    monkeypatch.setattr(type(steps.state), "note_waiting", refuse)
    answers = [Failure, None]
    steps.kind.move = lambda item, _: Failure(item, SLOW_DOWN) if answers.pop(0) else Completed(item)
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    assert steps.latest().counts.moved == 1


def test_only_a_counted_item_is_progress(steps: Steps) -> None:
    steps.kind.move = lambda item, _: Failure(item, SLOW_DOWN) if steps.clock.now < 1e12 else Completed(item)
    steps.begin_with(transfer_of("1"))
    advanced = steps.state.progress(MADE_UP_RUN).advanced
    steps.clock.sleep(100.0)
    worker, letter = steps.new_worker(Step.TRANSFER), steps.mail.letters[-1]
    assert worker is not None
    assert letter is not None
    times: list[float] = []
    steps.pump.on_delivery = lambda _letter: times.append(steps.state.progress(MADE_UP_RUN).advanced)
    steps.pump.run()
    assert times[0] == advanced
    assert set(times[1:3]) == {advanced}, "a retry is no progress"
    assert steps.state.progress(MADE_UP_RUN).advanced > advanced, "a failed item is progress"


@pytest.mark.parametrize(
    ("advanced", "now", "since"),
    [
        (0.0, 1100.0, 1010.0),
        (0.0, 1059.0, None),  # less than a minute
        (1050.0, 1111.0, 1050.0),  # since the last progress
        (1101.0, 1300.0, None),  # progress has cleared it
    ],
)
def test_a_run_waits_after_a_minute_without_progress(advanced: float, now: float, since: float | None) -> None:
    waiting = waiting_reason(replace(RUN, waiting=HELD), Progress(Counts(), False, 1100.0, advanced), now)
    assert (waiting and waiting.since) == since


def test_a_run_that_is_over_waits_for_nothing() -> None:
    over = replace(RUN, waiting=HELD, status=RunStatus.DONE)
    assert waiting_reason(over, Progress(Counts(), True, 1100.0), 1300.0) is None


def test_state_words() -> None:
    progress = Progress(Counts(), False, 1100.0)
    assert state_words(RUN, progress, 1200.0) == []
    cancelling = replace(RUN, status=RunStatus.CANCELLING, waiting=HELD)
    texts = state_words(cancelling, progress, 1150.0)
    assert texts[0] == "cancelling"
    what = r"waiting since \d\d:16:50: LEASE_HELD: made.up/team/app has another writer; retrying at \d\d:19:50"
    assert re.fullmatch(what, texts[1])
    assert state_words(replace(RUN, waiting=HELD), progress, 1200.0)[0].endswith("another writer")
