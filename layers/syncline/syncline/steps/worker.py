"""From a queue to a step: reads each message, carries it out, and tells SQS which ones to show again."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import BotoCoreError, ClientError

from syncline.errors import SynclineError
from syncline.messages import Batch, Notice, Outgoing, Start, decode
from syncline.model import Run, RunStatus, Step
from syncline.steps.discover import begin
from syncline.steps.engine import DEATHS, Engine, step_error
from syncline.steps.gather import Gatherer, scope_of
from syncline.steps.transfer import ENDING
from syncline.store.leases import LeaseHeldError
from syncline.telemetry import logger, message_dropped

StepFunction = Callable[[Engine, Batch, Run, Callable[[], float]], None]
_AWS_PAUSE: Final = 30.0
_RUN_PAUSE: Final = 15
_TWIN_PAUSE: Final = 15
"""Seconds before a message whose work another function does is seen again, at most."""
_BEYOND: Final = 60.0
"""Seconds beyond the function's time for which its messages stay unseen."""
_WAITING: Final = 5.0
"""Seconds for which messages wait behind a slow one before they go back to their queue."""


class _NotBegunError(Exception):
    """The message was shown again before its turn came."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Carries out one step's messages."""

    step: Step
    run_step: StepFunction
    engine: Engine
    gatherer: Gatherer

    def handle(self, event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
        """Carry out the messages of an SQS event one after another, and return those that failed.

        The messages stay unseen for a minute longer than the function can live. While one is slow, those behind it go
        back to the queue, where another function finds them.
        """
        processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)
        records = [SQSRecord(record) for record in event["Records"]]

        def left() -> float:
            return context.get_remaining_time_in_millis() / 1000 - ENDING

        self._show_again(records, left() + ENDING + _BEYOND)
        notices = self._hear(records)
        waiting = {record.message_id: record for record in records if record.message_id not in notices}
        sent = set[str]()

        def record_handler(record: SQSRecord) -> None:
            if record.message_id in notices:
                if (error := notices[record.message_id]) is not None:
                    self._goes_back([record], _AWS_PAUSE, str(error))
                    raise error
            elif waiting.pop(record.message_id, None) is not None:
                self._one(record, left)
            elif record.message_id not in sent:
                raise _NotBegunError

        def release() -> None:
            while waiting:
                with suppress(KeyError, ClientError, BotoCoreError, SynclineError):  # it comes back, only later
                    _, record = waiting.popitem()
                    if self._sent_anew(record):
                        sent.add(record.message_id)

        with self.engine.every(_WAITING, release) if len(waiting) > 1 else nullcontext():
            answer = process_partial_response(event, record_handler, processor, context)
        return self._finish_runs(records, left) or answer

    def _finish_runs(
        self, records: Sequence[SQSRecord], left: Callable[[], float]
    ) -> PartialItemFailureResponse | None:
        """End the runs that may be over; if that fails, all messages go back, and the answer says so."""
        try:
            self.engine.finish_runs(left)
        except (ClientError, BotoCoreError, SynclineError) as error:
            logger.error("end of a run not settled", extra={"why": str(error)})
            self._goes_back(records, _AWS_PAUSE, str(error))
            return {"batchItemFailures": [{"itemIdentifier": record.message_id} for record in records]}
        return None

    def _sent_anew(self, record: SQSRecord) -> bool:
        """Put a message that was not begun back into its queue; True if it is another message there.

        A start message is known by its id, and a FIFO queue drops the double of a message: these are shown again.
        """
        why = "it waited behind a slow message"
        with suppress(SynclineError):
            message = decode(record.body)
            if isinstance(message, Batch) and message.step is self.step and self.step is not Step.COMMIT:
                self._send_anew(message, message.deaths + _received(record) - 1, 0, why)
                return True
        self._goes_back([record], 0, why)
        return False

    def _hear(self, records: Sequence[SQSRecord]) -> dict[str, Exception | None]:
        """Take in the events of sources among the messages, all at once; by message, what kept them from being noted.

        Those that nobody can read are none of them.
        """
        if self.step is not Step.DISCOVER:
            return {}
        notices: list[tuple[SQSRecord, Any]] = []
        for record in records:
            try:
                message = decode(record.body)
                if isinstance(message, Notice):
                    self.gatherer.sources(message.body)
                    notices.append((record, message.body))
            except SynclineError:
                continue  # it is treated with the other messages
        if not notices:
            return {}
        try:
            refused = self.gatherer.hear([(record.message_id, body) for record, body in notices])
        except (ClientError, BotoCoreError, SynclineError) as error:
            return {record.message_id: error for record, _ in notices}
        return {record.message_id: None for record, _ in notices if record.message_id not in refused}

    def _one(self, record: SQSRecord, left: Callable[[], float]) -> None:
        received = _received(record)
        try:
            self._message(record, received, left)
        except (ClientError, BotoCoreError, SynclineError) as error:
            self._goes_back([record], _AWS_PAUSE * received, str(error))
            self._note_waiting(record, _AWS_PAUSE * received, error)
            raise

    def _message(self, record: SQSRecord, received: int, left: Callable[[], float]) -> None:
        try:
            message = decode(record.body)
        except SynclineError as error:
            if error.code.name == "MESSAGE_VERSION":
                raise  # back to the queue: the other version may take it, and SQS keeps it as a dead letter for later
            message_dropped(str(error))
            return
        match message:
            case Start() if self.step is Step.DISCOVER:
                self._start(message, record, received, left)
            case Batch() if message.step is self.step:
                self._batch(message, received, left)
            case Batch() if self.step is Step.DISCOVER and message.step is Step.COMMIT:
                self.engine.queues.send([Outgoing(message)])
            case Notice():
                message_dropped("an event that no sync which event_sources of its source can read")
            case _:
                logger.error("message is for another step", extra={"sync": getattr(message, "sync", None)})
                self.engine.queues.bury(self.step, [record.body])

    def _start(self, start: Start, record: SQSRecord, received: int, left: Callable[[], float]) -> None:
        if start.run is None and not self.gatherer.knows(start.sync):
            message_dropped("a start of a sync that does not exist", start.sync)
        elif start.heard is not None:
            if self.gatherer.note(start.sync, [(record.message_id, start.heard)]):
                message_dropped("an event that its sync cannot read", start.sync)
        elif start.gathered:
            self._gathered(start, received, left)
        else:
            sent = int(record.attributes.sent_timestamp or "0") / 1000
            self._look(start, start.id or _run_id(sent, record.message_id), received, left)

    def _gathered(self, start: Start, received: int, left: Callable[[], float]) -> None:
        """Scan what events have named, if it is time and no other function does."""
        claim = self.gatherer.due(start.sync, left() + ENDING, start.noted)
        if claim is None:
            logger.info("nothing to scan now", extra={"sync": start.sync})
            return
        look = replace(start, scope=scope_of(claim))
        # The run is named by what it looks at: done again for the same claim, it is the same run.
        try:
            made = self._look(look, _run_id(claim.at, claim.id), received, left, again=start)
            if made:
                # First the run: a function that dies with the claim deleted would leave it open, as nobody comes back.
                self.engine.finish_runs(left)
                self.gatherer.settle(start.sync, claim)
        except Exception:
            self.gatherer.release(start.sync, claim)
            raise
        if not made:
            self.gatherer.release(start.sync, claim)

    def _look(
        self, start: Start, run_id: str, received: int, left: Callable[[], float], *, again: Start | None = None
    ) -> bool:
        """Begin or join a run and look; False if it is to wait, for which ``again`` (or ``start``) is sent anew."""
        logger.append_keys(sync=start.sync, run=start.run)
        try:
            batch = begin(self.engine.state, start, run_id)
        except SynclineError as error:
            if error.code.name != "ALREADY_RUNNING":
                raise
            # Sent anew: a message may be shown a few times only, and the run may take longer than that to end.
            logger.info("the look waits", extra={"why": str(error)})
            self.engine.queues.start(again or replace(start, id=run_id), _RUN_PAUSE)
            return False
        if batch is None:
            return True
        self._batch(batch, received, left)
        if start.run is None and batch.run != run_id and self._is_cut_short(batch):
            # The cancel was not meant for what the scan covers: a run of its own is begun for that.
            logger.info("the run that the scan joined was cancelled")
            self.engine.queues.start(again or replace(start, id=run_id), _RUN_PAUSE)
            return False
        return True

    def _is_cut_short(self, batch: Batch) -> bool:
        return self.engine.state.run(batch.sync, batch.run).status not in (RunStatus.RUNNING, RunStatus.DONE)

    def _send_anew(self, batch: Batch, deaths: int, seconds: float, why: str) -> None:
        """Let a batch come again as a new message, for to be received again would count as a death of its function."""
        logger.info("message is sent anew", extra={"seconds": round(seconds), "why": why})
        self.engine.queues.send([Outgoing(replace(batch, deaths=deaths), math.ceil(seconds))])

    def _batch(self, batch: Batch, received: int, left: Callable[[], float]) -> None:
        logger.append_keys(sync=batch.sync, run=batch.run, batch=batch.id)
        engine, deaths = self.engine, batch.deaths + received - 1
        run = engine.run_of(batch)
        if run is None:
            return
        if run.status is RunStatus.CANCELLING and batch.step is not Step.VERIFY:
            engine.cancel(batch)
        elif deaths >= DEATHS:
            what = f"the function died {deaths} times with this work, or AWS failed it; its log has the reasons"
            engine.give_up_all(batch, SynclineError("STEP_DIED", what))
        else:
            try:
                self.run_step(engine, batch, run, left)
            except LeaseHeldError as held:  # another function does this very work
                self._send_anew(batch, deaths, min(_TWIN_PAUSE, held.retry_after or 1.0), str(held))
            except (ClientError, BotoCoreError):
                raise
            except Exception as error:
                if isinstance(error, SynclineError) and error.code.name == "LEASE_LOST":
                    raise
                engine.fail_all(batch, step_error(error))

    def _note_waiting(self, record: SQSRecord, seconds: float, error: Exception) -> None:
        """Note in the run of a message why its work waits."""
        with suppress(SynclineError):
            message = decode(record.body)
            if isinstance(message, Batch):
                self.engine.waits(message.sync, message.run, error, seconds)

    def _goes_back(self, records: Sequence[SQSRecord], seconds: float, why: str) -> None:
        logger.warning("message goes back to its queue", extra={"seconds": round(seconds), "why": why})
        self._show_again(records, seconds)

    def _show_again(self, records: Sequence[SQSRecord], seconds: float) -> None:
        """Let messages be seen again after `seconds`; if SQS refuses, they stay unseen for as long as before."""
        queue = str(records[0].event_source_arn).rpartition(":")[2]
        try:
            self.engine.queues.show_again(queue, [record.receipt_handle for record in records], seconds)
        except (ClientError, BotoCoreError, SynclineError) as error:
            logger.warning("cannot change when messages are seen again", extra={"why": str(error)})


def _received(record: SQSRecord) -> int:
    return int(record.attributes.approximate_receive_count or "1")


def _run_id(at: float, cause: str) -> str:
    """An id for the run that ``cause`` starts, known since ``at``; the same delivered twice gives the same one."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(at))
    return f"{stamp}-{hashlib.blake2b(cause.encode(), digest_size=5).hexdigest()}"
