"""The common part of all steps: each message ends one batch, however often it is delivered.

A step turns a batch into :class:`BatchWork`. :meth:`StepEngine.end` records it in one transaction and then sends the
batches that follow. Work that failed temporarily follows as a batch with a higher attempt and a delay. An item that has
failed permanently becomes a result, and a dead letter with its reason.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from syncline.errors import SynclineError
from syncline.kinds.kind import GRACE_SECONDS, Failure, Kind, RunObserver, StepContext
from syncline.messages import Batch, DeadLetter, Outgoing, Queues, encode
from syncline.model import (
    NO_TRAFFIC,
    Counts,
    Item,
    Outcome,
    Result,
    Run,
    RunStatus,
    Scope,
    Step,
    Traffic,
    Trigger,
    json_bytes,
)
from syncline.steps.results import (
    ALL,
    answer_retry,
    final_counts,
    first_results,
    mark_known,
    record_failures,
    unwritten,
    verified_since,
)
from syncline.store.batches import BatchRecord
from syncline.store.leases import Every, Lease, every
from syncline.store.state import State
from syncline.store.table import AWS_ERRORS
from syncline.telemetry import log_batch_end, log_run_end, logger

MAX_ATTEMPTS: Final = 5
"""Attempts of an item before it is given up."""
MAX_HOPS: Final = 10_000
"""Limit of a chain of messages that follow from one another in a run."""
MAX_IDLE: Final = 10
"""Limit of messages in a row without progress: the scan passes no further name, the transfer sends nothing more."""
MAX_DEATHS: Final = 5
"""Functions that may die with a message before it is given up."""
MAX_ITEM_BYTES: Final = 200_000
"""Limit of an item in bytes: a batch is stored in an item of the table before it is a message."""
_UNQUEUED: Final = frozenset({Outcome.EQUAL, Outcome.LEFT_OUT, Outcome.EXTRA})
"""Outcomes of a transfer after which an item no longer counts as queued: it needed no action."""
_LOGGED: Final = 500
"""Characters of a dead letter that a log line shows."""
_FIRST_DELAY: Final = 4.0
_LONGEST_DELAY: Final = 300.0
_STATUS_INTERVAL: Final = 3.0
"""Seconds between two reads of a run's status."""
REPORT_SECONDS: Final = 20.0
"""Limit for the report of a run's end by its kind."""


@dataclass(slots=True)
class BatchWork:
    """The work of a step on a batch: its results, what follows from it, and counts of items without a result.

    `by` is the working step if that is not the batch's own.
    """

    batch: Batch
    results: list[Result] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    equal: int = 0
    left_out: int = 0
    extra: int = 0
    queued: int = 0
    requests: int = 0
    waits: tuple[SynclineError, float] | None = None
    """The reason why work is tried again, and the delay in seconds."""
    by: Step | None = None

    def follow(self, delay: float = 0, **changes: object) -> Batch:
        """Add a batch that follows from this one, `delay` seconds later; see :meth:`Batch.child`."""
        batch = self.batch.child(len(self.outgoing), **changes)
        self.outgoing.append(Outgoing(batch, round(delay)))
        return batch

    def give_up(self, item: Item, error: SynclineError, group: str | None = None) -> None:
        """Add the result and the dead letter of an item that has failed permanently.

        `group` is the group of a scope that scans it again, its own if None. A plan leaves no dead letter: it moved
        nothing, so there is nothing to retry.
        """
        reason = error.what
        outcome = Outcome.UNREADABLE if self.batch.audit else Outcome.FAILED
        self.results.append(
            Result(item.group, item.name, outcome, item.source, item.target, 0, error.code.name, reason)
        )
        if self.batch.plan:
            return
        scope = self.batch.scope if item.group == ALL else Scope.of((group or item.group,))
        batch = replace(self.batch, items=(item,) if self.batch.items else (), scope=scope)
        self.dead.append(DeadLetter(batch, error.code.name, reason, (item.group, item.name)))

    def fail(self, failures: Sequence[Failure], rng: random.Random, **changes: object) -> None:
        """Try failed items again if their errors are retried and attempts are left; give up the others.

        An attempt that made progress or waited its turn does not count. `changes` apply to the batches that try again.
        """
        again: dict[int, list[Failure]] = {}
        for failure in failures:
            attempt = self.batch.attempt + (not failure.further and failure.error.counts)
            if failure.error.retried and attempt <= MAX_ATTEMPTS:
                again.setdefault(attempt, []).append(failure)
            else:
                self.give_up(failure.item, failure.error)
        for attempt, some in again.items():
            asked = max(failure.error.retry_after or 0.0 for failure in some)
            delay = max(asked, retry_delay(self.batch.attempt, rng))
            self.waits = (some[0].error, delay)
            self.follow(delay, **{"items": tuple(each.item for each in some), "attempt": attempt} | changes)

    def counts(self, results: Sequence[Result]) -> Counts:
        """Return the counts of the batch, given the results that are recorded of it.

        An item whose result is not recorded no longer counts as queued: another scan has recorded it.
        """
        recorded = {(each.group, each.name) for each in results}
        dropped = [each for each in self.results if (each.group, each.name) not in recorded]
        unqueued = 0
        if self.batch.step is not Step.DISCOVER:  # the results of a scan were never queued
            items = {(item.group, item.name) for item in self.batch.items}
            unqueued = sum(each.outcome in _UNQUEUED for each in results)
            unqueued += sum((each.group, each.name) in items for each in dropped)
        counts = Counts.of(
            results,
            equal=self.equal,
            left_out=self.left_out,
            extra=self.extra,
            queued=self.queued - unqueued,
            requests=self.requests,
        )
        return replace(counts, bytes=counts.bytes + sum(each.moved_bytes for each in dropped))


def retry_delay(attempt: int, rng: random.Random) -> float:
    """Return the seconds to wait after an attempt: doubling, with jitter to spread out what failed together."""
    return float(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.0))


@dataclass(frozen=True, slots=True)
class StepEngine:
    """The state, the queues and the kinds that every step works with, and the end of batches and runs.

    `kind` returns the kind of a run's sync, with the configuration that the run began with. `maybe_over` are the runs, by
    sync and ID, that may be over: nothing followed from a batch, or a batch could not end any more. `over` are those that
    are over and may have to be reported. `every` calls a function at an interval beside the work. `bind` limits the
    requests of a run's kind to a number of seconds, and ends them when a function returns True; the engine calls it
    before each step, because kinds share their connections. `traffic` returns the requests of a sync since the last call.
    `changed` is called with the name of a sync of which a run has begun or ended.
    """

    state: State
    queues: Queues
    kind: Callable[[Run], Kind]
    clock: Callable[[], float]
    rng: random.Random
    sleep: Callable[[float], None] = time.sleep
    maybe_over: set[tuple[str, str]] = field(default_factory=set)
    over: set[tuple[str, str]] = field(default_factory=set)
    every: Every = every
    bind: Callable[[Run, float, Callable[[], bool]], None] = lambda *_: None
    traffic: Callable[[str], Traffic] = lambda _: NO_TRAFFIC
    changed: Callable[[str], None] = lambda _: None

    def run_of(self, batch: Batch) -> Run | None:
        """Return the run of a batch, None if there is nothing to do for the batch.

        That is so if it ended before. Then the batches that follow from it are sent once more, in case they were not.
        """
        run, record = self.state.open_batch(batch)
        if run is not None and run.over:
            self.over.add((batch.sync, batch.run))  # the function that ended it may not have reported that
            if batch.id == batch.run and not batch.plan:  # the command, which ended it, sends this batch
                self.changed(batch.sync)
        if run is None:
            # Runs expire, or the table was lost; a scan finds what is missing.
            logger.warning("batch of an unknown run")
            return None
        if record is not None:
            logger.info("batch had ended before", extra={"batch": batch.id})
            # All batches of a run that is over have ended: sent again, they would only be sent once more.
            self._follow_up(batch, replace(record, outgoing=()) if run.over else record, batch.step, again=True)
            return None
        if run.over:
            logger.info("run is over", extra={"run": run.id, "status": run.status.value})
            return None
        return run

    def context(
        self, run: Run, left: Callable[[], float], work: str, lease: Lease | None = None, *, verifies: bool = False
    ) -> StepContext:
        """Return a context that also ends when the run is cancelled or the lease expires, and bind the requests to it.

        It reads the run's status every few seconds. A step that `verifies` continues in a cancelled run, but its requests
        end a few seconds later.
        """
        checked = self.clock()
        cancelled = None if run.status is RunStatus.RUNNING else checked

        def cancelled_for() -> float:
            """Return the seconds since the run was seen to be cancelled, -1 if it was not."""
            nonlocal checked, cancelled
            now = self.clock()
            if cancelled is None and now - checked > _STATUS_INTERVAL:
                checked = now
                try:
                    seen = self.state.run(run.sync, run.id)
                except AWS_ERRORS as error:
                    logger.warning("the status of the run cannot be read", extra={"why": str(error)})
                else:
                    cancelled = None if seen.status is RunStatus.RUNNING else now
            return -1.0 if cancelled is None else now - cancelled

        def halted() -> bool:
            return cancelled_for() >= 0 or (lease is not None and self.clock() >= lease.expires)

        def overdue() -> bool:
            return cancelled_for() >= GRACE_SECONDS

        self.bind(run, left() + GRACE_SECONDS, overdue if verifies else halted)
        return StepContext(
            left,
            overdue if verifies else halted,
            work,
            allow_removals=run.allow_removals,
            run=run.id,
            plan=run.plan,
            removed=lambda run_id: self.state.progress(run_id).counts.removed,
        )

    def end(self, work: BatchWork, lease: Lease | None = None, *, held_back: Batch | None = None) -> bool:
        """End a batch with its work, and send the batches that follow, except `held_back`.

        Return False if the caller may not continue with the batch that it held back: the batch was delivered twice and
        had ended before, and the batches that followed then are sent instead; or a limit was exceeded, or the run is over.
        """
        by = work.by or work.batch.step
        self._enforce_limits(work)
        results, dead = mark_known(
            self.state.failures,
            work.batch,
            first_results(self.state, work.batch, work.results),
            work.dead,
            self.clock(),
        )
        counts = work.counts(results)
        made = BatchRecord(results, tuple(work.outgoing), dead)
        record = self.state.end_batch(work.batch, made, counts, lease, self.traffic(work.batch.sync))
        if record is None:
            logger.info("run is over", extra={"run": work.batch.run, "batch": work.batch.id})
            self.maybe_over.add((work.batch.sync, work.batch.run))  # or the function that was ending it has died
            return False
        if record is not made:
            self._follow_up(work.batch, record, by, again=True)
            return False
        about = {"step": work.batch.step.value, "batch": work.batch.id, "attempt": work.batch.attempt}
        log_batch_end(about, made.results, counts)
        self._follow_up(work.batch, record, by, held_back)
        if work.waits is not None:
            self.note_waiting(work.batch.sync, work.batch.run, *work.waits)
        return held_back is None or any(each.batch is held_back for each in record.outgoing)

    def note_waiting(self, sync: str, run: str, error: Exception, seconds: float) -> None:
        """Note why work of a run waits, and for how many seconds. Failing to note that does not stop the run."""
        if not isinstance(error, SynclineError):
            error = SynclineError("AWS_UNAVAILABLE", str(error))
        try:
            self.state.note_waiting(self.state.run(sync, run), error, seconds)
        except (*AWS_ERRORS, SynclineError) as failure:
            logger.warning("cannot record why the run waits", extra={"run": run, "why": str(failure)})

    def cancel(self, batch: Batch) -> None:
        """End a batch of a cancelled run without touching its items."""
        work = BatchWork(batch)
        work.results = [Result.cancelled(item) for item in batch.items]
        self.end(work)

    def fail_all(self, batch: Batch, error: SynclineError, requests: int = 0) -> None:
        """End a batch that failed as a whole, after `requests` requests."""
        work = BatchWork(batch, requests=requests)
        if batch.items:
            work.fail([Failure(item, error) for item in batch.items], self.rng)
        elif error.retried and batch.attempt + error.counts <= MAX_ATTEMPTS:
            delay = max(error.retry_after or 0, retry_delay(batch.attempt, self.rng))
            work.waits = (error, delay)
            work.follow(delay, attempt=batch.attempt + error.counts)
        else:
            work.give_up(Item(ALL, ALL), error)
        self.end(work)

    def _follow_up(
        self, batch: Batch, record: BatchRecord, by: Step, held_back: Batch | None = None, *, again: bool = False
    ) -> None:
        """Write the dead letters of a batch that has ended, record the failing items, and send the following batches.

        The letter comes first: if the function dies between the two, an item gets a second letter, but never none.
        """
        failures = self.state.failures
        if again:
            record = unwritten(failures, batch, record, partial(verified_since, self.state, batch))
        for letter, why in self.queues.send_dead_letters(by, [encode(dead) for dead in record.dead]):
            logger.error("dead letter rejected by its queue", extra={"why": why, "letter": letter[:_LOGGED]})
        record_failures(failures, batch, record, self.clock(), again=again)
        refused = self.queues.send(
            each for each in record.outgoing if held_back is None or each.batch.id != held_back.id
        )
        for each, why in refused:
            self._refuse(each, why, by)
        if not record.outgoing:
            self.maybe_over.add((batch.sync, batch.run))

    def _refuse(self, batch: Batch, why: str, by: Step) -> None:
        """End a batch that its queue refuses: send its items one by one, and give up a single one.

        Its letter goes to the dead-letter queue of `by`, the working step: a function may write to no other.
        """
        bare = tuple(replace(item, detail={}) for item in batch.items)
        work = BatchWork(batch if len(bare) > 1 else replace(batch, items=bare), by=by)
        if len(bare) > 1:
            for item in batch.items:
                work.follow(items=(item,))
        else:
            work.give_up(bare[0] if bare else Item(ALL, ALL), SynclineError("MESSAGE_REFUSED", why))
        self.end(work)

    def finish_runs(self, left: Callable[[], float]) -> None:
        """End the runs that may be over since the last call, and report them; see :attr:`maybe_over`.

        A worker calls this once after all its messages. If it dies before, or this raises, they are delivered again and
        it is called again. It raises if a report failed and can be repeated. `left` returns the seconds that the steps
        had left.
        """
        failed: Exception | None = None
        for sync, run_id in sorted(self.maybe_over):
            run = self.state.finish_run(sync, run_id, self._final_counts)
            if run is not None:
                log_run_end(run)
                self.over.add((sync, run_id))
                if not run.plan or run.audit is not None or run.drill is not None:
                    self.changed(sync)
        for sync, run_id in sorted(self.over):
            failed = self._report(sync, run_id, left() + 2 * GRACE_SECONDS) or failed
        self.maybe_over.clear()
        self.over.clear()
        if failed is not None:
            raise failed

    def _final_counts(self, run: Run) -> Counts:
        """Return the counts that a run ends with. A retry has a result for each dead letter that it was begun for."""
        if run.trigger is Trigger.RETRY and run.status is RunStatus.RUNNING:
            gone = answer_retry(self.state.failures, run, self.state.results(run.id))
            if gone:
                run = replace(run, counts=self.state.add_results(run.id, "asked", gone))
        return final_counts(self.state.failures, run, self.state.results(run.id))

    def _report(self, sync: str, run_id: str, seconds: float) -> SynclineError | None:
        """Let the kind of a run that is over report it within `seconds`, if it does. Return an error to be retried, if any.

        The run is over whether its report succeeds or not, so any exception of the kind is logged.
        """
        try:
            run = self.state.run(sync, run_id)
            kind = None if run.plan else self.kind(run)
            if not isinstance(kind, RunObserver) or not self.state.take_report(run):
                return None
            self.bind(run, max(GRACE_SECONDS, min(REPORT_SECONDS, seconds)), lambda: False)
            kind.ended(run, self.state.results(run.id))
            self.state.reported(run)
        except Exception as error:  # noqa: BLE001 - a kind may raise anything
            logger.warning("run not reported", extra={"sync": sync, "run": run_id, "why": str(error)})
            if isinstance(error, SynclineError):
                return error if error.retried else None
            return SynclineError("INTERNAL", f"the end of run {run_id} could not be reported ({type(error).__name__})")
        return None

    def _enforce_limits(self, work: BatchWork) -> None:
        """Give up work that exceeds the limits of a chain of messages, and items that are too large for a message."""
        outgoing, work.outgoing = work.outgoing, []
        for each in outgoing:
            why = _endless(work.batch, each.batch)
            if why is None:
                work.outgoing += _fitting(work, each)
                continue
            for item in each.batch.items or (Item(ALL, ALL),):
                work.give_up(item, SynclineError("NO_PROGRESS", why))


def _fitting(work: BatchWork, outgoing: Outgoing) -> list[Outgoing]:
    """Give up the items of a batch that are too large for a message; return the batch with the others, if any."""
    items, kept = outgoing.batch.items, list[Item]()
    for item in items:
        size = json_bytes(item.to_json()) if item.detail else 0
        if size <= MAX_ITEM_BYTES:
            kept.append(item)
        else:
            why = f"its state takes {size} bytes, but a message holds {MAX_ITEM_BYTES} at most"
            work.give_up(replace(item, detail={}), SynclineError("MESSAGE_REFUSED", why))
    if len(kept) == len(items):
        return [outgoing]
    return [replace(outgoing, batch=replace(outgoing.batch, items=tuple(kept)))] if kept else []


def _endless(batch: Batch, child: Batch) -> str | None:
    """Return why a chain of messages is taken to be endless, None if it is not."""
    if batch.hop >= MAX_HOPS:
        return f"the work was continued by more than {MAX_HOPS} messages"
    if child.idle < MAX_IDLE:
        return None
    where = f"after {child.cursor}" if child.cursor else "with its items"
    return f"{MAX_IDLE} functions in a row made no progress {where}"


def step_error(error: Exception) -> SynclineError:
    """Return an exception as a SynclineError: INTERNAL if it is unexpected, with its traceback in the log."""
    if isinstance(error, SynclineError):
        return error
    logger.exception("unexpected error")
    return SynclineError("INTERNAL", f"unexpected {type(error).__name__}; the log has the traceback")
