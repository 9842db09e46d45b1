"""The worker of a function: reads messages, carries them out with a step, and returns to SQS those that failed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.errors import SynclineError
from syncline.messages import Batch, Notification, Outgoing, Start, decode
from syncline.model import Run, RunStatus, Scope, Step
from syncline.steps.discover import begin
from syncline.steps.engine import MAX_DEATHS, StepEngine, step_error
from syncline.steps.events import EventGatherer
from syncline.steps.transfer import RESERVED_SECONDS
from syncline.store.leases import LeaseHeldError
from syncline.store.runs import run_id_of
from syncline.store.table import AWS_ERRORS
from syncline.telemetry import log_dropped_message, logger

StepFunction = Callable[[StepEngine, Batch, Run, Callable[[], float]], None]
_ERRORS: Final = (*AWS_ERRORS, SynclineError)
_AWS_DELAY: Final = 30.0
_RUN_DELAY: Final = 15
_TWIN_DELAY: Final = 15
"""Longest delay in seconds of a message whose work another function is doing."""
_HIDDEN_BEYOND: Final = 60.0
"""Seconds beyond the function's time for which its messages stay invisible."""
_MAX_WAIT: Final = 5.0
"""Seconds for which messages wait behind a slow one before they return to their queue."""


class _NotBegunError(Exception):
    """The message was returned to its queue before its turn."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Carries out the messages of one step."""

    step: Step
    run_step: StepFunction
    engine: StepEngine
    gatherer: EventGatherer

    def handle(self, event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
        """Carry out the messages of an SQS event one after another, and return those that failed.

        The messages stay invisible for a minute longer than the function can live. While one is slow, those behind it
        return to the queue for other functions.
        """
        processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)
        records = [SQSRecord(record) for record in event["Records"]]

        def left() -> float:
            return context.get_remaining_time_in_millis() / 1000 - RESERVED_SECONDS

        self._set_visibility(records, left() + RESERVED_SECONDS + _HIDDEN_BEYOND)
        gathered = self._gather(records)
        waiting = {record.message_id: record for record in records if record.message_id not in gathered}
        sent = set[str]()

        def record_handler(record: SQSRecord) -> None:
            if record.message_id in gathered:
                if (error := gathered[record.message_id]) is not None:
                    self._return([record], _AWS_DELAY, str(error))
                    raise error
            elif waiting.pop(record.message_id, None) is not None:
                self._carry_out(record, left)
            elif record.message_id not in sent:
                raise _NotBegunError

        def release() -> None:
            while waiting:
                with suppress(KeyError, *_ERRORS):  # then it becomes visible later
                    _, record = waiting.popitem()
                    if self._requeue(record):
                        sent.add(record.message_id)

        with self.engine.every(_MAX_WAIT, release) if len(waiting) > 1 else nullcontext():
            answer = process_partial_response(event, record_handler, processor, context)
        return self._finish_runs(records, left) or answer

    def _finish_runs(
        self, records: Sequence[SQSRecord], left: Callable[[], float]
    ) -> PartialItemFailureResponse | None:
        """End the runs that may be over. If that fails, return all messages to the queue and name them in the response."""
        try:
            self.engine.finish_runs(left)
        except _ERRORS as error:
            logger.error("cannot end a run", extra={"why": str(error)})
            self._return(records, _AWS_DELAY, str(error))
            return {"batchItemFailures": [{"itemIdentifier": record.message_id} for record in records]}
        return None

    def _requeue(self, record: SQSRecord) -> bool:
        """Return a message that was not begun to its queue; return True if it was sent as a new message.

        A start message is identified by its ID, and a FIFO queue drops the copy of a message: these become visible again.
        """
        why = "it waited behind a slow message"
        with suppress(SynclineError):
            message = decode(record.body)
            if isinstance(message, Batch) and message.step is self.step and self.step is not Step.COMMIT:
                self._resend(message, message.deaths + _received(record) - 1, 0, why)
                return True
        self._return([record], 0, why)
        return False

    def _gather(self, records: Sequence[SQSRecord]) -> dict[str, Exception | None]:
        """Note all events of sources among the messages at once. Return the error of each message, None if it was noted.

        Messages that no kind can read are not among them.
        """
        if self.step is not Step.DISCOVER:
            return {}
        gathered: list[tuple[SQSRecord, Any]] = []
        for record in records:
            try:
                message = decode(record.body)
                if isinstance(message, Notification):
                    self.gatherer.sources(message.body)
                    gathered.append((record, message.body))
            except SynclineError:
                continue  # it is handled with the other messages
        if not gathered:
            return {}
        try:
            refused = self.gatherer.gather([(record.message_id, body) for record, body in gathered])
        except _ERRORS as error:
            return {record.message_id: error for record, _ in gathered}
        return {record.message_id: None for record, _ in gathered if record.message_id not in refused}

    def _carry_out(self, record: SQSRecord, left: Callable[[], float]) -> None:
        received = _received(record)
        try:
            self._message(record, received, left)
        except _ERRORS as error:
            self._return([record], _AWS_DELAY * received, str(error))
            with suppress(SynclineError):
                message = decode(record.body)
                if isinstance(message, Batch):
                    self.engine.note_waiting(message.sync, message.run, error, _AWS_DELAY * received)
            raise

    def _message(self, record: SQSRecord, received: int, left: Callable[[], float]) -> None:
        try:
            message = decode(record.body)
        except SynclineError as error:
            if error.code.name == "MESSAGE_VERSION":
                raise  # another version may read it from the queue, and SQS keeps it as a dead letter
            log_dropped_message(str(error))
            return
        match message:
            case Start() if self.step is Step.DISCOVER:
                self._start(message, record, received, left)
            case Batch() if message.step is self.step:
                self._batch(message, received, left)
            case Batch() if self.step is Step.DISCOVER and message.step is Step.COMMIT:
                self.engine.queues.send([Outgoing(message)])
            case Notification():
                log_dropped_message("no sync that subscribes to the source of the event can read it")
            case _:
                logger.error("message is for another step", extra={"sync": getattr(message, "sync", None)})
                self.engine.queues.send_dead_letters(self.step, [record.body])

    def _start(self, start: Start, record: SQSRecord, received: int, left: Callable[[], float]) -> None:
        if start.run is None and not self.gatherer.is_applied(start.sync):
            log_dropped_message("the sync to start does not exist", start.sync)
        elif start.event is not None:
            if self.gatherer.gather_for(start.sync, [(record.message_id, start.event)]):
                log_dropped_message("the sync cannot read the event", start.sync)
        elif start.gathered:
            self._start_gathered(start, received, left)
        else:
            sent = int(record.attributes.sent_timestamp or "0") / 1000
            self._scan(start, start.id or _run_id(sent, record.message_id), received, left)

    def _start_gathered(self, start: Start, received: int, left: Callable[[], float]) -> None:
        """Scan the groups that events have named, if it is time and no other function does."""
        claim = self.gatherer.claim(start.sync, left() + RESERVED_SECONDS, start.noted)
        if claim is None:
            logger.info("nothing to scan now", extra={"sync": start.sync})
            return
        scan = replace(start, scope=Scope.of(claim.groups))
        # The ID of the run follows from the claim: repeated for the same claim, it is the same run.
        try:
            made = self._scan(scan, _run_id(claim.at, claim.id), received, left, again=start)
            if made:
                # First the run: if the function died after the claim was deleted, no other would end it.
                self.engine.finish_runs(left)
                self.gatherer.finish(start.sync, claim)
        except Exception:
            self.gatherer.event_store.release(start.sync, claim)
            raise
        if not made:
            self.gatherer.event_store.release(start.sync, claim)

    def _scan(
        self, start: Start, run_id: str, received: int, left: Callable[[], float], *, again: Start | None = None
    ) -> bool:
        """Begin or join a run and scan. Return False if that has to wait; then `again`, or `start`, is sent once more."""
        logger.append_keys(sync=start.sync, run=start.run)
        try:
            batch = begin(self.engine.state, start, run_id)
        except SynclineError as error:
            if error.code.name != "ALREADY_RUNNING":
                raise
            # As a new message: one can be received a few times only, and the run may take longer than that to end.
            logger.info("the scan waits", extra={"why": str(error)})
            self.engine.queues.start(again or replace(start, id=run_id), _RUN_DELAY)
            return False
        if batch is None:
            return True
        if batch.id == batch.run and not batch.plan:  # the first batch of a run, not a scan that joins one
            self.engine.changed(batch.sync)
        self._batch(batch, received, left)
        if start.run is not None or batch.run == run_id:
            return True
        if self.engine.state.run(batch.sync, batch.run).status not in (RunStatus.RUNNING, RunStatus.DONE):
            # The cancellation was not meant for the scope of the scan: a separate run begins for it.
            logger.info("the run that the scan joined was cancelled")
            self.engine.queues.start(again or replace(start, id=run_id), _RUN_DELAY)
            return False
        return True

    def _resend(self, batch: Batch, deaths: int, seconds: float, why: str) -> None:
        """Send a batch as a new message: to receive the old one again would count as a death of its function."""
        logger.info("message is sent again", extra={"seconds": round(seconds), "why": why})
        self.engine.queues.send([Outgoing(replace(batch, deaths=deaths), math.ceil(seconds))])

    def _batch(self, batch: Batch, received: int, left: Callable[[], float]) -> None:
        logger.append_keys(sync=batch.sync, run=batch.run, batch=batch.id)
        engine, deaths = self.engine, batch.deaths + received - 1
        run = engine.run_of(batch)
        if run is None:
            return
        if run.status is RunStatus.CANCELLING and batch.step is not Step.VERIFY:
            engine.cancel(batch)
        elif deaths >= MAX_DEATHS:
            what = f"the function died {deaths} times with this work, or AWS failed; see the log of the function"
            engine.fail_all(batch, SynclineError("STEP_DIED", what))
        else:
            try:
                self.run_step(engine, batch, run, left)
            except LeaseHeldError as held:  # another function is doing this work
                self._resend(batch, deaths, min(_TWIN_DELAY, held.retry_after or 1.0), str(held))
            except AWS_ERRORS:
                raise
            except Exception as error:
                if isinstance(error, SynclineError) and error.code.name == "LEASE_LOST":
                    raise
                engine.fail_all(batch, step_error(error))

    def _return(self, records: Sequence[SQSRecord], seconds: float, why: str) -> None:
        logger.warning("message returns to its queue", extra={"seconds": round(seconds), "why": why})
        self._set_visibility(records, seconds)

    def _set_visibility(self, records: Sequence[SQSRecord], seconds: float) -> None:
        """Make messages visible again after `seconds`. If SQS refuses, their visibility stays as it is."""
        queue = str(records[0].event_source_arn).rpartition(":")[2]
        try:
            self.engine.queues.set_visibility(queue, [record.receipt_handle for record in records], seconds)
        except _ERRORS as error:
            logger.warning("cannot change the visibility of messages", extra={"why": str(error)})


def _received(record: SQSRecord) -> int:
    return int(record.attributes.approximate_receive_count or "1")


def _run_id(at: float, cause: str) -> str:
    """Return the ID of the run that `cause` starts at a time (Unix seconds): the same for the same cause."""
    return run_id_of(at, hashlib.blake2b(cause.encode(), digest_size=5).digest())
