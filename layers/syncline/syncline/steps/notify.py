"""Notify: read the state of a sync, decide whether a notification is due, and deliver it to each channel.

A message is a hint only. The record of what was notified (:mod:`syncline.store.alerts`) is written before anything is
sent, so that duplicate, late and concurrent messages lead to one notification. Each channel is noted when it has it: one
that fails is tried again without the others. If a function dies after a channel accepted the notification and before
that was noted, the channel gets it twice, with the same ID.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.table import kind_info
from syncline.messages import Hint, Queues, decode
from syncline.model import Outcome, Run
from syncline.run_text import item_text, with_display_groups
from syncline.secrets import redact
from syncline.steps.engine import step_error
from syncline.steps.notices import (
    CONFLICT,
    DRILL_FAILED,
    EXAMPLES,
    FAILING,
    IN_SYNC,
    UNEQUAL,
    UNTRUSTED,
    Beat,
    Condition,
    Example,
    Notice,
    beat_of,
    condition_of,
    decide,
)
from syncline.store.alerts import Alert, Alerts, Delivery
from syncline.store.drills import Proofs
from syncline.store.failures import KnownFailure
from syncline.store.health import Health
from syncline.store.state import State
from syncline.store.table import AWS_ERRORS
from syncline.telemetry import log_dropped_message, log_undelivered, logger

HEARTBEAT: Final = "heartbeat"
MAX_TRIES: Final = 6
"""Attempts to deliver a notification to a channel: within about eight minutes."""
CLAIM_SECONDS: Final = 70.0
"""Seconds for which a function may deliver: longer than it can live."""
_FIRST_DELAY: Final = 15.0
_LONGEST_DELAY: Final = 600.0
_RUNS: Final = 10
_MOST_FAILURES: Final = 10_000
"""Limit of the known failures that are read for a notification."""
_UNEQUAL: Final = frozenset({Outcome.DIFFERENT, Outcome.MISSING, Outcome.EXTRA, Outcome.UNREADABLE, Outcome.FAILED})
_TWIN_DELAY: Final = 3
_TRIES: Final = 5


class Channels(Protocol):
    """Sends to the channels of a sync. Each call ends within seconds, and raises SynclineError or an error of AWS."""

    def send(self, sync: Sync, channel: str, notice: Notice) -> None:
        """Send a notification to one of :attr:`Notify.channels`."""

    def beat(self, sync: Sync, beat: Beat) -> None:
        """Call the URL of the heartbeat."""


def looked_digest(sync: Sync, health: Health, proofs: Proofs) -> str:
    """Return a digest of what a decision depends on, except for the time, the failures and the runs."""
    proven = proofs.audits.run, None if proofs.drill is None else proofs.drill.run
    known = (health, proven, sync.fresh_seconds, sync.enabled, sync.notify and sync.notify.model_dump_json())
    return hashlib.blake2b(repr(known).encode(), digest_size=8).hexdigest()


def is_due(  # noqa: PLR0913, PLR0917 - what is known of a sync
    sync: Sync, health: Health, proofs: Proofs, alert: Alert, beat: Beat | None, now: float
) -> bool:
    """Return True if the function `notify` may have something to do: something has changed, or its time has come."""
    if sync.heartbeat is not None and beat is not None and beat.key != alert.beat and HEARTBEAT not in alert.left:
        return True
    if alert.left and now >= min(each.at for each in alert.left.values()) and now >= alert.claimed:
        return True
    if sync.notify is None or not sync.notify.channels:
        return False
    return alert.looked != looked_digest(sync, health, proofs) or (alert.wake is not None and now >= alert.wake)


@dataclass(frozen=True, slots=True)
class Notifier:
    """The function `notify`. ``clock`` returns Unix seconds, and ``stack`` is the name of the stack in notifications."""

    state: State
    alerts: Alerts
    queues: Queues
    channels: Channels
    clock: Callable[[], float]
    stack: str = ""

    def handle(self, event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
        """Handle the hints of an SQS event one after another, and return those that failed."""
        processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

        def record_handler(record: SQSRecord) -> None:
            try:
                message = decode(record.body)
            except SynclineError as error:
                if error.code.name == "MESSAGE_VERSION":
                    raise
                log_dropped_message(str(error))
                return
            if isinstance(message, Hint):
                logger.append_keys(sync=message.sync)
                self.notify(message.sync)
            else:
                log_dropped_message("the message is no hint")

        return process_partial_response(event, record_handler, processor, context)

    def notify(self, name: str) -> None:
        """Send what is due for a sync. A hint follows if a channel failed, or another function is delivering."""
        try:
            sync = load_sync(self.state.sync_config(name))
        except SynclineError as error:
            logger.info("nothing to notify", extra={"sync": name, "why": str(error)})
            return
        for _ in range(_TRIES):
            alert, now = self.alerts.get(name), self.clock()
            if now < alert.claimed <= now + CLAIM_SECONDS:
                self.queues.hint(name, _TWIN_DELAY)
                return
            after, beat = self._decide(sync, replace(alert, claimed=0.0), now)
            due = [channel for channel, each in after.left.items() if each.at <= now or each.at > now + _LONGEST_DELAY]
            after = replace(after, claimed=now + CLAIM_SECONDS if due else 0.0)
            if after == alert:
                return
            stored = self.alerts.put(name, after)
            if stored is not None:
                if due:
                    self._deliver(sync, stored, due, beat)
                return
        self.queues.hint(name, _TWIN_DELAY)

    def test(self, name: str) -> dict[str, dict[str, str] | None]:
        """Send a test notification to each channel of a sync. Return the error of each, None for one that accepted it.

        Raises NO_SUCH_SYNC, and USAGE for a sync without channels.
        """
        sync, now = load_sync(self.state.sync_config(name)), self.clock()
        if sync.notify is None or not sync.notify.channels:
            raise SynclineError("USAGE", f"{name} has no channels; add `notify` to it in syncs.yaml, and apply that")
        notice = Notice(_id(name, "test", now), "test", name, IN_SYNC, 0.0, now, stack=self.stack)
        errors = dict(self._send(sync, sync.notify.channels, notice, None))
        return {
            channel: None if error is None else {"code": error.code.name, "what": error.what}
            for channel, error in sorted(errors.items())
        }

    # -- what is due

    def _decide(self, sync: Sync, alert: Alert, now: float) -> tuple[Alert, Beat | None]:
        """Return the record with what is due for a sync, and the call of its heartbeat that is due."""
        health = self.state.health(sync.name)
        needs_runs = sync.heartbeat is not None or health.in_sync is False
        runs = [run for run in self.state.runs(sync.name, _RUNS) if not run.plan] if needs_runs else []
        left, beat = dict(alert.left), beat_of(runs) if sync.heartbeat is not None else None
        if beat is None or beat.key == alert.beat:
            left.pop(HEARTBEAT, None)
            beat = None
        else:
            left.setdefault(HEARTBEAT, Delivery())
        rules = sync.notify
        if rules is None or not rules.channels:
            return replace(alert, left={name: each for name, each in left.items() if name == HEARTBEAT}), beat
        left = {name: each for name, each in left.items() if name == HEARTBEAT or name in rules.channels}
        failures = self._failures(sync.name) if health.in_sync is False else []
        last = next((run for run in runs if run.over), None)
        proofs = self.state.proofs(sync.name)
        condition = condition_of(sync, health, last, (each.code for each in failures), now, proofs)
        after, event = decide(replace(alert, left=left), condition, rules, now)
        after = replace(after, looked=looked_digest(sync, health, proofs))
        if event is not None:
            notice = self._notice(sync, event, alert, condition, failures, last, proofs, now)
            deliveries = dict.fromkeys(rules.channels, Delivery())
            after = replace(after, notice=notice.to_json(), left={**deliveries, **_only_beat(left)})
        elif not set(after.left) - {HEARTBEAT}:
            after = replace(after, notice=None)
        return after, beat

    def _failures(self, name: str) -> list[KnownFailure]:
        if not self.state.failures.any(name):
            return []
        return list(itertools.islice(self.state.failures.open(name), _MOST_FAILURES))

    def _notice(  # noqa: PLR0913, PLR0917 - the facts of a notification
        self,
        sync: Sync,
        event: str,
        before: Alert,
        condition: Condition,
        failures: list[KnownFailure],
        last: Run | None,
        proofs: Proofs,
        now: float,
    ) -> Notice:
        examples: Iterable[Example] = ()
        count = 0
        codes: tuple[str, ...] = ()
        if condition.state == FAILING:
            by_code = Counter(each.code for each in failures)
            codes, count = tuple(code for code, _ in by_code.most_common()) or condition.codes, len(failures)
            if len(failures) >= _MOST_FAILURES and last is not None:
                count = max(count, last.counts.failed + last.counts.known)
            # One of each code first.
            firsts = {each.code: each for each in reversed(failures)}.values()
            chosen = [*firsts, *(each for each in failures if each not in firsts)][:EXAMPLES]
            shown = with_display_groups(kind_info(sync.kind), chosen)
            examples = [Example.of(item_text(each.group, each.name), each.code, each.reason) for each in shown]
        elif condition.state in (CONFLICT, UNTRUSTED) and last is not None:
            outcome = Outcome.CONFLICT if condition.state == CONFLICT else Outcome.UNTRUSTED
            count = last.counts.conflict if condition.state == CONFLICT else last.counts.untrusted
            examples = self._examples(sync, last.id, {outcome})
        elif condition.state == UNEQUAL:
            found = proofs.audits.counts
            count = found.different + found.missing + found.extra + found.unreadable + found.failed
            examples = self._examples(sync, proofs.audits.run, _UNEQUAL)
        elif condition.state == DRILL_FAILED and proofs.drill is not None:
            count = proofs.drill.failed
            examples = self._examples(sync, proofs.drill.run, {Outcome.FAILED})
        since = before.since if condition.state == IN_SYNC else condition.since
        return Notice(
            _id(sync.name, event, now),
            event,
            sync.name,
            condition.state,
            min(since, now),
            now,
            count,
            codes,
            tuple(examples),
            self.stack,
        )

    def _examples(self, sync: Sync, run: str, outcomes: Collection[Outcome]) -> list[Example]:
        """Return some items of a run with these outcomes."""
        found = (each for each in self.state.results(run) if each.outcome in outcomes)
        some = with_display_groups(kind_info(sync.kind), itertools.islice(found, EXAMPLES))
        return [
            Example.of(item_text(each.group, each.name), each.code or each.outcome.value, each.reason or "")
            for each in some
        ]

    # -- delivery

    def _deliver(self, sync: Sync, alert: Alert, due: list[str], beat: Beat | None) -> None:
        """Send to all channels at the same time, and note each as soon as it has answered."""
        notice = None if alert.notice is None else Notice.from_json(alert.notice)
        for number, (channel, error) in enumerate(self._send(sync, due, notice, beat), 1):
            after = self._noted(sync, alert, channel, beat, error)
            stored = self.alerts.put(sync.name, replace(after, claimed=0.0) if number == len(due) else after)
            if stored is None:
                logger.warning("another function has taken over the notification", extra={"sync": sync.name})
                return
            alert = stored
        waits = [each.at - self.clock() for channel, each in alert.left.items() if channel in due]
        if waits:
            self.queues.hint(sync.name, max(1, round(min(waits)) + 1))

    def _send(
        self, sync: Sync, channels: Sequence[str], notice: Notice | None, beat: Beat | None
    ) -> Iterator[tuple[str, SynclineError | None]]:
        """Send to channels at the same time. Yield each with its error as soon as it has answered."""
        with ThreadPoolExecutor(len(channels), thread_name_prefix="notify") as pool:
            sending = {pool.submit(self._error_of, sync, channel, notice, beat): channel for channel in channels}
            for done in as_completed(sending):
                yield sending[done], done.result()

    def _noted(self, sync: Sync, alert: Alert, channel: str, beat: Beat | None, error: SynclineError | None) -> Alert:
        """Return the record after an attempt to deliver to a channel."""
        left = dict(alert.left)
        tries = left.pop(channel, Delivery()).tries + 1
        if error is not None and error.retried and tries < MAX_TRIES:
            delay = min(_LONGEST_DELAY, max(error.retry_after or 0.0, _FIRST_DELAY * 2 ** (tries - 1)))
            logger.warning("notification is sent again", extra={"channel": channel, "why": str(error)})
            return replace(alert, left={**left, channel: Delivery(tries, self.clock() + delay)})
        if error is not None:
            log_undelivered(sync.name, channel, str(error))
            alert = replace(alert, given_up=alert.given_up + 1)
        else:
            logger.info("notified", extra={"sync": sync.name, "channel": channel})
        done = replace(alert, left=left, notice=alert.notice if set(left) - {HEARTBEAT} else None)
        return replace(done, beat=beat.key) if channel == HEARTBEAT and beat is not None else done

    def _error_of(self, sync: Sync, channel: str, notice: Notice | None, beat: Beat | None) -> SynclineError | None:
        """Send to a channel; return the error, None if it accepted."""
        try:
            if channel == HEARTBEAT and beat is not None:
                self.channels.beat(sync, beat)
            elif notice is not None:
                self.channels.send(sync, channel, notice)
        except AWS_ERRORS as error:
            return SynclineError("AWS_UNAVAILABLE", redact(f"{type(error).__name__}: {error}"))
        except Exception as error:  # noqa: BLE001 - a defect in one channel must not stop the others
            return step_error(error)
        return None


def _id(sync: str, event: str, at: float) -> str:
    return hashlib.blake2b(f"{sync}/{event}/{at}".encode(), digest_size=16).hexdigest()


def _only_beat(left: Mapping[str, Delivery]) -> dict[str, Delivery]:
    return {name: each for name, each in left.items() if name == HEARTBEAT}
