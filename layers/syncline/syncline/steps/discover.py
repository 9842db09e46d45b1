"""Discover: scan source and target, and send on only what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final

from syncline.errors import SynclineError
from syncline.kinds.kind import Auditing, Drilling, Failure, Kind, Page, Planning, StepContext, would_move
from syncline.messages import Batch, Start
from syncline.model import EVERYTHING, Outcome, Run, RunStatus, Scope, Trigger
from syncline.steps.engine import MAX_ATTEMPTS, BatchWork, StepEngine, retry_delay
from syncline.steps.transfer import RESERVED_SECONDS
from syncline.store.leases import Lease
from syncline.store.state import State
from syncline.telemetry import logger

CHUNK_ITEMS: Final = 60
"""Items after which a scan sends on what it has found, so that transfers begin while it continues."""
CHUNK_RESULTS: Final = 400
"""Results, and groups to be scanned again, after which a chunk ends: its record must fit an item of the table."""
CHUNK_SECONDS: Final = 2.0


def begin(state: State, start: Start, run_id: str) -> Batch | None:
    """Return the batch that a start message leads to: the first one of a new run, or a further scan in the current run.

    Return None, and log it, if the sync is paused and nobody asked for this run, or if the current run is a full scan,
    which makes another one needless. Raises ALREADY_RUNNING if
    the scan can neither begin nor join and has to wait. A full scan waits for the end of a partial one: if it were
    dropped, a registry with constant pushes would never get its scheduled scan.
    """
    if start.trigger not in (Trigger.MANUAL, Trigger.RETRY) and state.health(start.sync).paused:
        logger.info("not started: the sync is paused", extra={"sync": start.sync, "trigger": start.trigger.value})
        return None
    if start.run is None and not start.scope.everything and not start.plan:
        joined = state.join_run(start.sync, run_id, start.scope)
        if joined is not None:
            return joined
    try:
        _, batch = state.begin_run(
            start.sync,
            start.run or run_id,
            start.trigger,
            start.scope,
            plan=start.plan,
            audit=start.audit,
            drill=start.drill,
        )
    except SynclineError as error:
        if error.code.name == "ALREADY_RUNNING" and start.scope.everything and _scans_everything(state, start.sync):
            logger.warning("not started", extra={"sync": start.sync, "why": str(error)})
            return None
        raise
    return batch


def _scans_everything(state: State, sync: str) -> bool:
    """Return True if the current run is a full scan with the applied configuration."""
    current = state.current_run(sync)
    if current is None or current.status is not RunStatus.RUNNING or not current.scope.everything:
        return False
    return current.config == state.applied_digest(sync)


def discover(engine: StepEngine, batch: Batch, run: Run, left: Callable[[], float]) -> None:
    """Scan the batch's scope; transfers follow for what differs, and a continuation if the time was short.

    One function at a time works on a scan and its continuations. Raises :class:`LeaseHeldError` if another one does.
    """
    leases = engine.state.leases
    lease = leases.take(f"scan@{batch.origin}", batch.origin, left() + RESERVED_SECONDS)
    with leases.held(lease, lambda: left() + RESERVED_SECONDS):
        _scan(engine, batch, run, left, lease)


def _scan(engine: StepEngine, batch: Batch, run: Run, left: Callable[[], float], lease: Lease) -> None:
    """Scan under a lease, which is released before the scan is tried again."""
    kind = engine.kind(run)
    context = engine.context(run, left, batch.id)
    context.joined, context.scan = batch.id != run.id, batch.scan or run.id
    context.named = is_named(batch.scope, run)
    if run.trigger is Trigger.RETRY:
        context.asked = engine.state.failures.asked(run.sync, run.id)
    work, requests, since = BatchWork(batch), kind.requests(), engine.clock()
    cursor = batch.cursor
    again: list[Failure] = []
    broken: SynclineError | None = None
    try:
        for page in _pages(kind, batch, run, context):
            again += _add(work, page, kind, context)
            cursor = page.cursor
            late = work.queued > 0 and engine.clock() - since > CHUNK_SECONDS
            if late or work.queued >= CHUNK_ITEMS or len(work.results) + len(again) >= CHUNK_RESULTS:
                _scan_again(work, again, engine)
                # The items found bound this chain; hops limit chains that find nothing.
                rest = work.follow(cursor=cursor, attempt=1, hop=work.batch.hop)
                work.requests, requests = kind.requests() - requests, kind.requests()
                if not engine.end(work, held_back=rest):
                    return
                work, since, again = BatchWork(rest), engine.clock(), []
                # As if the rest had arrived as a message, which it does if the function dies now.
                context.work, context.joined = rest.id, True
    except SynclineError as error:
        if cursor == work.batch.cursor or not error.retried:
            engine.state.leases.release(lease)
            engine.fail_all(work.batch, error, kind.requests() - requests)
            return
        broken = error
    _scan_again(work, again, engine)
    if broken is not None:
        # The scan made progress, so it has all attempts again from there on.
        delay = 0.0 if broken.code.name == "TIME_SHORT" else max(broken.retry_after or 0.0, retry_delay(1, engine.rng))
        work.waits = (broken, delay) if delay else work.waits
        work.follow(delay, cursor=cursor, attempt=1)
    elif context.left() <= 0:
        if cursor == work.batch.cursor:
            work.follow(idle=work.batch.idle + 1)
        else:
            work.follow(cursor=cursor, attempt=1)
    work.requests = kind.requests() - requests
    engine.end(work, lease)


def _pages(kind: Kind, batch: Batch, run: Run, context: StepContext) -> Iterator[Page]:
    """Return the pages of a scan, an audit or a restore drill; raises USAGE if the kind has none of these."""
    if run.audit is not None:
        if not isinstance(kind, Auditing):
            raise SynclineError("USAGE", f"{run.sync} is of a kind that cannot be audited")
        return kind.audit(batch.scope, batch.cursor, context, run.audit)
    if run.drill is not None:
        if not isinstance(kind, Drilling):
            raise SynclineError("USAGE", f"{run.sync} is of a kind that has no restore drills")
        return kind.drill(batch.scope, batch.cursor, context, run.drill)
    return kind.discover(batch.scope, batch.cursor, context)


def is_named(scope: Scope, run: Run) -> bool:
    """Return True if a person has named the scope: it is a part of the run's own, and the run is manual or a retry."""
    if scope.groups is None or run.scope.groups is None or run.trigger not in (Trigger.MANUAL, Trigger.RETRY):
        return False
    return set(scope.groups) <= set(run.scope.groups)


def _add(work: BatchWork, page: Page, kind: Kind, context: StepContext) -> list[Failure]:
    """Add the content of a page. Return the failures of groups that are to be scanned again."""
    if work.batch.scan is None:  # only the scan that a run begins with counts items that need no action
        work.equal += page.equal
        work.left_out += page.left_out
        work.extra += page.extra
    work.results += page.results
    if work.batch.plan:
        planned = kind.planned(page.items, context) if isinstance(kind, Planning) else map(would_move, page.items)
        for result in planned:
            if result.outcome is Outcome.EQUAL:
                work.equal += 1
            else:
                work.results.append(result)
    else:
        for _, members in groupby(page.items, key=lambda item: item.group):
            items = tuple(members)
            for at in range(0, len(items), kind.share):
                # Without the scan's scope: a large one in many batches would exceed a record of the table.
                share = items[at : at + kind.share]
                work.follow(step=kind.moves_by, items=share, scope=EVERYTHING, cursor=None, attempt=1)
            work.queued += len(items)
    again = [
        f
        for f in page.failures
        if f.error.retried and work.batch.attempt + (not f.further and f.error.counts) <= MAX_ATTEMPTS
    ]
    for failure in page.failures:
        if failure not in again:
            work.give_up(failure.item, failure.error, failure.scope)
    return again


def _scan_again(work: BatchWork, failures: Sequence[Failure], engine: StepEngine) -> None:
    """Add one scan of all groups that could not be scanned: a registry that is down would cause one for each.

    A group of which a part was scanned continues separately. The last attempt scans all of it, in case its cursor is
    invalid.
    """
    unread = [each for each in failures if each.cursor is None]
    parts = [[each] for each in failures if each.cursor is not None]
    for some in [unread, *parts] if unread else parts:
        asked = max(f.error.retry_after or 0.0 for f in some)
        scope = Scope.of(f.scope or f.item.group for f in some)
        delay = max(asked, retry_delay(work.batch.attempt, engine.rng))
        work.waits = (some[0].error, delay)
        attempt = work.batch.attempt + any(not each.further and each.error.counts for each in some)
        cursor = some[0].cursor if attempt < MAX_ATTEMPTS else None
        # Separate work, which does not wait for the rest of the scan.
        work.follow(delay, scope=scope, cursor=cursor, attempt=attempt, begun=None)
