"""What is the same for every step: one message in, one batch ended, whatever is delivered twice, late or half-done.

A step turns a batch into :class:`Work`; :meth:`Engine.end` writes it down in one transaction and then sends what
follows. Everything that can fail for a while goes round again as a follow-up with a higher attempt and a delay;
what has failed for good becomes a result, and lies in the dead-letter queue with its reason.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from syncline.errors import SynclineError
from syncline.kinds.kind import GRACE_SECONDS, Failure, Kind, RunObserver, StepContext
from syncline.messages import Batch, Dead, Outgoing, Queues, encode
from syncline.model import Counts, Item, Outcome, Result, Run, RunStatus, Scope, Step, Trigger, json_bytes
from syncline.steps.known import WHOLE, answered, remember, separate_known, settled, undone, verified_since
from syncline.steps.once import first_results
from syncline.store.leases import Every, Lease, every
from syncline.store.state import BatchRecord, State
from syncline.telemetry import batch_ended, logger, run_ended

ATTEMPTS: Final = 5
"""How often an item is tried before it is given up."""
HOPS: Final = 10_000
"""How many messages may follow from one another in a run."""
IDLE: Final = 10
"""How many messages one after another may get no further: no name further in a look, nothing more of any item."""
DEATHS: Final = 5
"""How often a function may die with a message before the message is given up."""
LARGEST_ITEM: Final = 200_000
"""Bytes of an item at most: what follows from a batch is an item of the table before it is a message."""
_UNQUEUED: Final = frozenset({Outcome.SKIPPED, Outcome.LEFT_OUT, Outcome.EXTRA})
"""Outcomes of a transfer after which an item counts as queued no more: there was nothing to do for it."""
_SHOWN: Final = 500
"""Characters of a dead letter that a log line shows."""
_FIRST_PAUSE: Final = 4.0
_LONGEST_PAUSE: Final = 300.0
_CANCEL_LOOK: Final = 3.0
TELLING: Final = 20.0
"""Seconds that a kind has to tell of a run's end, where the function has as many."""


def _unbound(_run: Run, _seconds: float, _halted: Callable[[], bool]) -> None:
    """Bind no requests: the kinds of this engine make none."""


@dataclass(slots=True)
class Work:
    """What a step did with a batch. ``following`` and ``dead`` grow as the step goes along.

    ``by`` is the step at work where that is not the batch's own.
    """

    batch: Batch
    results: list[Result] = field(default_factory=list)
    following: list[Outgoing] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    skipped: int = 0
    left_out: int = 0
    extra: int = 0
    queued: int = 0
    requests: int = 0
    waits: tuple[SynclineError, float] | None = None
    """Why work is tried again, and after how many seconds."""
    by: Step | None = None

    def follow(self, delay: float = 0, **changes: object) -> Batch:
        """Let a batch follow from this one; see :meth:`Batch.child`."""
        batch = self.batch.child(len(self.following), **changes)
        self.following.append(Outgoing(batch, round(delay)))
        return batch

    def give_up(self, item: Item, error: SynclineError, group: str | None = None) -> None:
        """Note that an item has failed for good; ``group`` is that of a scope which scans it again, its own if None.

        A plan leaves no dead letter: it moved nothing, so there is nothing to retry.
        """
        reason = error.what
        self.results.append(
            Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, error.code.name, reason)
        )
        if self.batch.plan:
            return
        scope = self.batch.scope if item.group == WHOLE else Scope.of((group or item.group,))
        batch = replace(self.batch, items=(item,) if self.batch.items else (), scope=scope)
        self.dead.append(Dead(batch, error.code.name, reason, (item.group, item.name)))

    def fail(self, failures: Sequence[Failure], rng: random.Random, **changes: object) -> None:
        """Try the items of failures again, those that may be and have not been too often; give up the others.

        A try that got further does not count. ``changes`` apply to the batches that try again.
        """
        again: dict[int, list[Failure]] = {}
        for failure in failures:
            attempt = self.batch.attempt + (not failure.further)
            if failure.error.retried and attempt <= ATTEMPTS:
                again.setdefault(attempt, []).append(failure)
            else:
                self.give_up(failure.item, failure.error)
        for attempt, some in again.items():
            asked = max(failure.error.retry_after or 0.0 for failure in some)
            delay = max(asked, pause(self.batch.attempt, rng))
            self.waits = (some[0].error, delay)
            self.follow(delay, **{"items": tuple(each.item for each in some), "attempt": attempt} | changes)

    def counts(self, results: Sequence[Result]) -> Counts:
        """Return the counts of the batch with the results that are told of it.

        An item whose result is not told counts as queued no more, for it is told of as the item of another scan.
        """
        told = {(each.group, each.name) for each in results}
        untold = [each for each in self.results if (each.group, each.name) not in told]
        settled = 0
        if self.batch.step is not Step.DISCOVER:  # items that discover settles were never queued
            items = {(item.group, item.name) for item in self.batch.items}
            settled = sum(each.outcome in _UNQUEUED for each in results)
            settled += sum((each.group, each.name) in items for each in untold)
        counts = Counts.of(
            results,
            skipped=self.skipped,
            left_out=self.left_out,
            extra=self.extra,
            queued=self.queued - settled,
            requests=self.requests,
        )
        return replace(counts, bytes=counts.bytes + sum(each.moved_bytes for each in untold))


def pause(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after the ``attempt``-th try: doubling, with jitter so that those who failed together part."""
    return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1)) * rng.uniform(0.5, 1.0))


@dataclass(frozen=True, slots=True)
class Engine:
    """What every step works with. ``kind`` returns the kind of a run's sync, with the configuration that it began with.

    ``leaves`` are the runs, by sync and id, that may be over: a batch of theirs has ended with nothing following, or could
    not end any more. ``ended`` are those that are over and may have to be reported. ``every`` calls what is done beside
    the work. ``bind`` ends the requests of a run's kind within so many seconds, and once the run is halted; the engine
    calls it before each step, as kinds share their connections.
    """

    state: State
    queues: Queues
    kind: Callable[[Run], Kind]
    clock: Callable[[], float]
    rng: random.Random
    sleep: Callable[[float], None] = time.sleep
    leaves: set[tuple[str, str]] = field(default_factory=set)
    ended: set[tuple[str, str]] = field(default_factory=set)
    every: Every = every
    bind: Callable[[Run, float, Callable[[], bool]], None] = _unbound

    def run_of(self, batch: Batch) -> Run | None:
        """The run a batch belongs to, None if the batch has nothing to do any more.

        That is so when it ended before; then what follows from it is sent once more, in case that was missed.
        """
        run, record = self.state.open_batch(batch)
        if run is not None and run.over:
            self.ended.add((batch.sync, batch.run))  # whoever ended it may not have reported that
        if run is None:
            # The table remembers runs for a time only, or was lost; a look finds whatever is missing.
            logger.warning("batch of a forgotten run")
            return None
        if record is not None:
            logger.info("batch had ended before", extra={"batch": batch.id})
            # Of a run that is over everything has ended: sent again, it would only come back to be sent again.
            self._follow_up(batch, replace(record, following=()) if run.over else record, batch.step, again=True)
            return None
        if run.over:
            logger.info("run is over", extra={"run": run.id, "status": run.status.value})
            return None
        return run

    def context(
        self, run: Run, left: Callable[[], float], work: str, lease: Lease | None = None, *, verifies: bool = False
    ) -> StepContext:
        """Return a context that also ends when the run is cancelled or the lease runs out, and bind the requests to it.

        It reads the run's status every few seconds. A step that ``verifies`` goes on in a cancelled run, but its
        requests end a few seconds later.
        """
        running = run.status is RunStatus.RUNNING
        looked = self.clock()
        cancelled = None if running else looked

        def cancelled_for() -> float:
            """Return the seconds since the run was seen to be cancelled; below zero if it was not."""
            nonlocal looked, cancelled
            now = self.clock()
            if cancelled is None and now - looked > _CANCEL_LOOK:
                looked = now
                try:
                    seen = self.state.run(run.sync, run.id)
                except (ClientError, BotoCoreError) as error:
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

    def end(self, work: Work, lease: Lease | None = None, *, held_back: Batch | None = None) -> bool:
        """End a batch with its work, and send what follows but for ``held_back``.

        False if the caller may not go on with what it held back: the batch had ended before, delivered twice, and what
        followed then is sent instead, or it has gone round too often, or its run is over.
        """
        by = work.by or work.batch.step
        self._bound(work)
        results, dead = separate_known(
            self.state.failures,
            work.batch,
            first_results(self.state, work.batch, work.results),
            work.dead,
            self.clock(),
        )
        counts = work.counts(results)
        made = BatchRecord(results, tuple(work.following), dead)
        record = self.state.end_batch(work.batch, made, counts, lease)
        if record is None:
            logger.info("run is over", extra={"run": work.batch.run, "batch": work.batch.id})
            self.leaves.add((work.batch.sync, work.batch.run))  # or whoever was ending it has died
            return False
        if record is not made:
            self._follow_up(work.batch, record, by, again=True)
            return False
        about = {"step": work.batch.step.value, "batch": work.batch.id, "attempt": work.batch.attempt}
        batch_ended(about, made.results, counts)
        self._follow_up(work.batch, record, by, held_back)
        if work.waits is not None:
            self.waits(work.batch.sync, work.batch.run, *work.waits)
        return held_back is None or any(each.batch is held_back for each in record.following)

    def waits(self, sync: str, run: str, error: Exception, seconds: float) -> None:
        """Note why work of a run waits, and for how long. A run goes on whether that can be noted or not."""
        if not isinstance(error, SynclineError):
            error = SynclineError("AWS_UNAVAILABLE", str(error))
        try:
            self.state.note_waiting(self.state.run(sync, run), error, seconds)
        except (ClientError, BotoCoreError, SynclineError) as failure:
            logger.warning("cannot note why the run waits", extra={"run": run, "why": str(failure)})

    def cancel(self, batch: Batch) -> None:
        """End a batch of a cancelled run: its items are left as they are."""
        work = Work(batch)
        work.results = [Result.cancelled(item) for item in batch.items]
        self.end(work)

    def fail_all(self, batch: Batch, error: SynclineError, requests: int = 0) -> None:
        """End a batch none of whose items could be done; ``requests`` were made to find that out."""
        work = Work(batch, requests=requests)
        if batch.items:
            work.fail([Failure(item, error) for item in batch.items], self.rng)
        elif error.retried and batch.attempt < ATTEMPTS:
            delay = max(error.retry_after or 0, pause(batch.attempt, self.rng))
            work.waits = (error, delay)
            work.follow(delay, attempt=batch.attempt + 1)
        else:
            work.give_up(Item(WHOLE, WHOLE), error)
        self.end(work)

    def give_up_all(self, batch: Batch, error: SynclineError) -> None:
        """End a batch whose items are not tried again."""
        work = Work(batch)
        for item in batch.items or (Item(WHOLE, WHOLE),):
            work.give_up(item, error)
        self.end(work)

    def _follow_up(
        self, batch: Batch, record: BatchRecord, by: Step, held_back: Batch | None = None, *, again: bool = False
    ) -> None:
        """Write the dead letters of a batch that has ended, note which items fail, and send what follows.

        An item that is noted as failing has a letter: if the function dies between the two, it gets a second one.
        """
        failures = self.state.failures
        if again:
            record = undone(failures, batch, record, partial(verified_since, self.state, batch))
        for letter, why in self.queues.bury(by, [encode(dead) for dead in record.dead]):
            logger.error("no dead letter: the queue refuses it", extra={"why": why, "letter": letter[:_SHOWN]})
        remember(failures, batch, record, self.clock(), again=again)
        refused = self.queues.send(
            each for each in record.following if held_back is None or each.batch.id != held_back.id
        )
        for each, why in refused:
            self._refuse(each, why, by)
        if not record.following:
            self.leaves.add((batch.sync, batch.run))

    def _refuse(self, batch: Batch, why: str, by: Step) -> None:
        """End a batch that its queue does not take: its items are sent one by one, and a single one has failed.

        Its letter goes to the dead-letter queue of ``by``, the step at work: a function may write to no other.
        """
        bare = tuple(replace(item, detail={}) for item in batch.items)
        work = Work(batch if len(bare) > 1 else replace(batch, items=bare), by=by)
        if len(bare) > 1:
            for item in batch.items:
                work.follow(items=(item,))
        else:
            work.give_up(bare[0] if bare else Item(WHOLE, WHOLE), SynclineError("MESSAGE_REFUSED", why))
        self.end(work)

    def finish_runs(self, left: Callable[[], float]) -> None:
        """End the runs that may be over, by what happened since the last call; see :attr:`leaves`.

        A worker calls this once for all its messages. If it dies before, or this raises, they are delivered again, and
        so is this. It raises if a report failed and may be made again. ``left`` gives the seconds that its steps had left.
        """
        failed: Exception | None = None
        for sync, run_id in sorted(self.leaves):
            run = self.state.finish_run(sync, run_id, self._settled)
            if run is not None:
                run_ended(run)
                self.ended.add((sync, run_id))
        for sync, run_id in sorted(self.ended):
            failed = self._report(sync, run_id, left() + 2 * GRACE_SECONDS) or failed
        self.leaves.clear()
        self.ended.clear()
        if failed is not None:
            raise failed

    def _settled(self, run: Run) -> Counts:
        """Return the counts that a run ends with. A retry answers for each dead letter that it was begun for."""
        if run.trigger is Trigger.RETRY and run.status is RunStatus.RUNNING:
            gone = answered(self.state.failures, run, self.state.results(run.id))
            if gone:
                run = replace(run, counts=self.state.add_results(run.id, "asked", gone))
        return settled(self.state.failures, run, self.state.results(run.id))

    def _report(self, sync: str, run_id: str, seconds: float) -> SynclineError | None:
        """Let the kind of a run that is over report it within ``seconds``, if it does such; return why that is to be tried again, if so.

        The run is over whether its report succeeds or not, so whatever the kind raises is logged.
        """
        try:
            run = self.state.run(sync, run_id)
            kind = None if run.plan else self.kind(run)
            if not isinstance(kind, RunObserver) or not self.state.take_report(run):
                return None
            self.bind(run, max(GRACE_SECONDS, min(TELLING, seconds)), lambda: False)
            kind.ended(run, self.state.results(run.id))
            self.state.reported(run)
        except Exception as error:  # noqa: BLE001 - a kind may raise anything
            logger.warning("run not reported", extra={"sync": sync, "run": run_id, "why": str(error)})
            if isinstance(error, SynclineError):
                return error if error.retried else None
            return SynclineError("INTERNAL", f"the end of run {run_id} could not be reported ({type(error).__name__})")
        return None

    def _bound(self, work: Work) -> None:
        """Give up what has gone round too often, or without getting anywhere, and items too large for a message."""
        following, work.following = work.following, []
        for each in following:
            why = _endless(work.batch, each.batch)
            if why is None:
                work.following += _fitting(work, each)
                continue
            for item in each.batch.items or (Item(WHOLE, WHOLE),):
                work.give_up(item, SynclineError("NO_PROGRESS", why))


def _fitting(work: Work, outgoing: Outgoing) -> list[Outgoing]:
    """Give up the items of a batch that are too large for a message; return the batch with the others, if any."""
    items, kept = outgoing.batch.items, list[Item]()
    for item in items:
        size = json_bytes(item.to_json()) if item.detail else 0
        if size <= LARGEST_ITEM:
            kept.append(item)
        else:
            why = f"its state takes {size} bytes, a message {LARGEST_ITEM} at most"
            work.give_up(replace(item, detail={}), SynclineError("MESSAGE_REFUSED", why))
    if len(kept) == len(items):
        return [outgoing]
    return [replace(outgoing, batch=replace(outgoing.batch, items=tuple(kept)))] if kept else []


def _endless(batch: Batch, following: Batch) -> str | None:
    """Why what follows from a batch is taken to have no end, if it is."""
    if batch.hop >= HOPS:
        return f"more than {HOPS} messages followed from one another"
    if following.idle < IDLE:
        return None
    where = f"behind {following.cursor}" if following.cursor else "with what it was given"
    return f"{IDLE} functions one after another got no further {where}"


def step_error(error: Exception) -> SynclineError:
    """Any exception as one of ours; what we did not foresee is INTERNAL, with its traceback in the log."""
    if isinstance(error, SynclineError):
        return error
    logger.exception("unforeseen error")
    return SynclineError("INTERNAL", f"{type(error).__name__} in Syncline; the log has the rest")
