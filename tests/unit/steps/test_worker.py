"""The worker: deaths, invalid messages, duplicates, throttling and reports."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Page, StepContext
from syncline.messages import Batch, DeadLetter, QueuedLetter, Start, encode, to_json
from syncline.model import EVERYTHING, Item, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.steps.engine import MAX_DEATHS
from syncline.store.state import REPORTS
from tests.rig.aws_faults import disturb
from tests.rig.made_up import MADE_UP_RUN, SYNC, Answer, MadeUp, Steps, items, transfer_of
from tests.rig.pump import Delivery, Duplicates, KilledError, Letter
from tests.rig.stack import QUEUES

pytestmark = pytest.mark.moto


def die(_item: Item, _context: StepContext) -> Answer:
    raise KilledError


def test_work_fails_after_repeated_deaths_of_its_function(steps: Steps) -> None:
    steps.kind.move = die
    steps.begin_with(transfer_of("1", "2"))
    steps.pump.run()
    run = steps.latest()
    assert (run.status, run.counts.failed) == (RunStatus.DONE, 2)
    assert {dead.code for dead in steps.dead()} == {"STEP_DIED"}
    assert len(steps.kind.moved) == MAX_DEATHS
    assert f"died {MAX_DEATHS} times" in steps.dead()[0].reason


def test_a_run_ends_after_repeated_deaths_of_its_scan(steps: Steps) -> None:
    def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> list[object]:
        raise KilledError

    steps.kind.look = scan  # type: ignore[assignment]
    run = steps.run()
    assert (run.status, run.counts.failed) == (RunStatus.DONE, 1)
    assert [(dead.code, dead.batch.scope) for dead in steps.dead()] == [("STEP_DIED", EVERYTHING)]
    assert steps.state.current_run(SYNC) is None


@pytest.mark.parametrize(
    "body",
    [" ", "{}", "[]", "nonsense", '{"v": "2"}', '{"v": 1, "type": "what"}', '"text"', "1e999", '{"Records": "?"}'],
)
def test_an_invalid_message_is_dropped_counted_and_logged(
    steps: Steps, body: str, caplog: pytest.LogCaptureFixture, counted: list[tuple[str, float]]
) -> None:
    """As a dead letter it would stay forever, because no retry of a sync includes it."""
    steps.put(body)
    steps.pump.run()
    assert steps.mail.dead() == []
    assert steps.state.runs(SYNC) == []
    assert counted == [("MessagesDropped", 1)]
    assert [record.message for record in caplog.records] == ["message dropped"]


@pytest.mark.parametrize("start", [Start("nobody", Trigger.WEBHOOK), Start("nobody", Trigger.EVENT, gathered=True)])
def test_a_start_of_a_sync_that_does_not_exist_is_dropped(steps: Steps, start: Start) -> None:
    def config(name: str) -> Sync:
        raise SynclineError("NO_SUCH_SYNC", name)

    object.__setattr__(steps.gatherer, "config", config)
    steps.put(start)
    steps.pump.run()
    assert steps.mail.dead() == []
    assert steps.state.runs("nobody") == []


@pytest.mark.parametrize("message", [transfer_of("1"), Start(SYNC, Trigger.WEBHOOK, Scope.of(["a"]))])
@pytest.mark.parametrize("version", [0, 2])
def test_a_message_of_another_version_waits_for_the_upgrade(steps: Steps, message: Batch | Start, version: int) -> None:
    """It returns to its queue while a function of the other version may receive it, and then becomes a dead letter."""
    body = json.dumps(to_json(message) | {"v": version, "more": "what a later version says"})
    steps.begin(MADE_UP_RUN)
    letter = steps.put(body, message.step if isinstance(message, Batch) else Step.DISCOVER)
    began, step = steps.clock.now, letter.step
    steps.pump.run()
    assert [letter.body for _, letter in steps.mail.dead()] == [body]
    assert letter.received == QUEUES[step].receives
    assert 300 <= steps.clock.now - began <= 3600
    assert QueuedLetter(step, body, "r").read() is None, "it belongs to no sync before the upgrade"
    assert steps.kind.moved == []


@pytest.mark.parametrize(
    "message",
    [
        Batch("r", SYNC, Step.VERIFY, "b", items("1")),
        DeadLetter(Batch("r", SYNC, Step.TRANSFER, "b", items("1")), "INTERNAL", "why"),
        Start(SYNC, Trigger.MANUAL),
    ],
)
def test_a_message_for_another_step_goes_to_the_dead_letter_queue(
    steps: Steps, message: Batch | DeadLetter | Start
) -> None:
    steps.put(message, Step.TRANSFER)
    steps.pump.run()
    assert [letter.body for _, letter in steps.mail.dead()] == [encode(message)]
    assert steps.state.runs(SYNC) == []


def test_a_batch_of_an_unknown_run_does_nothing(steps: Steps) -> None:
    steps.put(transfer_of("1", run="forgotten"))
    steps.pump.run()
    assert steps.kind.moved == []


def test_a_batch_of_an_ended_run_does_nothing(steps: Steps) -> None:
    steps.begin_with(transfer_of("1"))
    steps.pump.run()
    steps.put(transfer_of("late"))
    steps.pump.run()
    assert [item.name for item in steps.kind.moved] == ["1"]


def test_following_batches_are_sent_again_when_a_message_is_redelivered(steps: Steps) -> None:
    letter = steps.begin_with(transfer_of("1"))
    steps.pump.deliver([letter])
    (verify,) = steps.mail.waiting()
    steps.mail.remove(verify)  # the function died before it was sent
    steps.mail.add(Letter(letter.id, letter.url, letter.body, letter.sent, letter.due))
    steps.pump.run()
    assert len(steps.kind.moved) == 1
    assert steps.latest().counts.moved == 1


def test_messages_of_one_invocation_fail_independently(steps: Steps) -> None:
    steps.begin(MADE_UP_RUN)
    steps.pump.delivery = Delivery(random.Random(1), batches=True)
    failing = iter([True])

    def move(item: Item, _context: StepContext) -> Answer:
        if item.name == "1" and next(failing, False):
            raise ClientError({"Error": {"Code": "InternalServerError"}}, "PutItem")
        return Completed(item)

    steps.kind.move = move
    first, second = steps.put(transfer_of("1")), steps.put(transfer_of("2", group="another"))
    steps.pump.deliver([first, second])
    assert first in steps.mail.waiting()
    assert second not in steps.mail.waiting()
    assert first.due < steps.clock.now + QUEUES[Step.TRANSFER].visibility
    steps.pump.run()
    assert sorted(item.name for item in steps.kind.proved) == ["1", "2"]


def test_a_run_cancelled_before_its_start_is_not_scanned(steps: Steps) -> None:
    steps.begin(MADE_UP_RUN)
    steps.state.cancel_run(SYNC, MADE_UP_RUN)
    steps.kind.look = lambda *_: pytest.fail("nothing is scanned")
    steps.start(run=MADE_UP_RUN)
    steps.pump.run()
    assert steps.latest().status is RunStatus.CANCELLED
    assert steps.state.current_run(SYNC) is None


def test_queued_items_of_a_cancelled_run_are_not_moved(steps: Steps) -> None:
    steps.begin_with(transfer_of("1", "2"))
    steps.state.cancel_run(SYNC, MADE_UP_RUN)
    steps.pump.run()
    run = steps.latest()
    assert (run.status, run.counts.cancelled, run.counts.moved) == (RunStatus.CANCELLED, 2, 0)
    assert steps.kind.moved == []


def test_cancelling_an_ended_run_changes_nothing(steps: Steps) -> None:
    run = steps.run()
    assert steps.state.cancel_run(SYNC, run.id) == run


@pytest.mark.parametrize("step", [Step.TRANSFER, Step.VERIFY])
def test_two_deliveries_at_the_same_time_have_one_effect(steps: Steps, step: Step) -> None:
    """Two functions, in threads, process the same batch concurrently."""
    batch = transfer_of("1", "2", "3") if step is Step.TRANSFER else None
    both = threading.Barrier(2, timeout=20)
    steps.begin(MADE_UP_RUN)
    letter = steps.put(batch or Batch(MADE_UP_RUN, SYNC, Step.VERIFY, "verify", items("1", "2", "3"), hop=1))
    twin = Letter(letter.id, letter.url, letter.body, letter.sent, letter.due, copied=True)
    steps.mail.add(twin)

    def meet(_letter: Letter) -> None:
        both.wait()

    steps.pump.on_delivery = meet
    threads = [
        threading.Thread(target=steps.pump.deliver, args=([each], steps.new_worker(step))) for each in (letter, twin)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps.pump.on_delivery = lambda _letter: None
    steps.pump.run()
    assert steps.state.progress(MADE_UP_RUN).counts.moved == 3
    assert len(list(steps.state.results(MADE_UP_RUN))) == 3


@pytest.mark.parametrize(("seed", "duplicates"), list(enumerate(Duplicates)))
def test_disorder_changes_no_count(steps: Steps, seed: int, duplicates: Duplicates) -> None:
    from syncline.kinds.kind import Failure, Page  # noqa: PLC0415

    rng = random.Random(seed)
    steps.pump.delivery = Delivery(rng, True, duplicates, 600.0, True)
    failures = [SynclineError("UNREACHABLE", "gone")] * 4

    def move(item: Item, _context: StepContext) -> Answer:
        return Failure(item, failures.pop()) if failures and rng.random() < 0.3 else Completed(item, 1)

    steps.kind.move = move
    steps.kind.pages = [Page(f"g{n}", items("1", "2", group=f"g{n}"), equal=n) for n in range(4)]
    run = steps.run()
    assert (run.counts.moved, run.counts.skipped, run.counts.bytes) == (8, 6, 8)
    assert len(steps.results(run)) == 8


@pytest.mark.parametrize(
    ("operation", "code", "times"),
    [
        ("TransactWriteItems", "ProvisionedThroughputExceededException", 1),
        ("TransactWriteItems", "ThrottlingException", 12),
        ("TransactWriteItems", "InternalServerError", 12),
        ("UpdateItem", "ProvisionedThroughputExceededException", 12),
        ("UpdateItem", "ThrottlingException", 1),
        ("BatchGetItem", "ThrottlingException", 12),
    ],
)
def test_throttled_calls_are_retried(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, operation: str, code: str, times: int
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *_: 0.0)
    steps.begin_with(transfer_of("1", "2"))
    fault = disturb(steps.table.meta.client, operation, code=code, times=times)
    steps.pump.run()
    assert fault.left == 0
    run = steps.latest()
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 2, 0)


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
@pytest.mark.parametrize("times", [1, 30])
def test_conflicting_transactions_are_retried(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, reason: str, times: int
) -> None:
    monkeypatch.setattr("syncline.store.table.time.sleep", lambda _: None)
    steps.begin_with(transfer_of("1", "2"))
    left = [times]
    client: Any = steps.table.meta.client
    original_call = client._make_api_call

    def call(operation: str, arguments: object) -> object:
        if operation == "TransactWriteItems" and left[0]:
            left[0] -= 1
            error = {"Error": {"Code": "TransactionCanceledException", "Message": ""}}
            reasons = {"CancellationReasons": [{"Code": "None"}, {"Code": reason}]}
            raise client.exceptions.TransactionCanceledException(error | reasons, operation)
        return original_call(operation, arguments)

    client._make_api_call = call
    steps.pump.run()
    assert left == [0]
    run = steps.latest()
    assert (run.status, run.counts.moved, run.counts.failed) == (RunStatus.DONE, 2, 0)


@dataclass
class ReportingKind(MadeUp):
    """A kind that reports the ends of its runs; the first reports raise ``errors``."""

    errors: list[Exception] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.reported.append(f"{run.id}: {len(list(results))} results, {run.status}")


DENIED = ClientError({"Error": {"Code": "AccessDeniedException"}}, "PutObject")


@pytest.mark.parametrize("error", [DENIED, SynclineError("SERVER_ERROR", "500"), KeyError("status"), OSError("down")])
def test_a_failed_report_is_retried(steps: Steps, error: Exception) -> None:
    steps.kind = kind = ReportingKind(pages=[Page("a", items("1"))], errors=[error, error])
    run = steps.run()
    assert run.status is RunStatus.DONE
    assert kind.reported == [f"{run.id}: 1 results, done"]
    assert steps.dead() == []


def test_a_run_ends_without_a_report_after_a_few_attempts(steps: Steps) -> None:
    steps.kind = kind = ReportingKind(pages=[Page("a", items("1"))], errors=[DENIED] * 100)
    run = steps.run()
    assert (run.status, run.counts.moved, steps.state.current_run(SYNC)) == (RunStatus.DONE, 1, None)
    assert len(kind.errors) == 100 - REPORTS
    assert (kind.reported, steps.dead(), steps.mail.waiting()) == ([], [], [])


def test_a_permanent_error_of_a_report_is_not_retried(steps: Steps) -> None:
    steps.kind = kind = ReportingKind(pages=[Page("a", items("1"))], errors=[SynclineError("UNAUTHORIZED", "401")] * 9)
    assert steps.run().status is RunStatus.DONE
    assert len(kind.errors) == 8


def test_the_next_function_reports_after_a_death(steps: Steps) -> None:
    steps.kind = kind = ReportingKind(pages=[Page("a", items("1"))], errors=[KilledError()])  # type: ignore[list-item]
    run = steps.run()
    assert kind.reported == [f"{run.id}: 1 results, done"]


def test_duplicates_cause_no_second_report(steps: Steps) -> None:
    steps.kind = kind = ReportingKind(pages=[Page("a", items("1", "2"))])
    steps.pump.delivery.duplicates = Duplicates.AT_THE_END
    run = steps.run()
    assert kind.reported == [f"{run.id}: 2 results, done"]
