"""Discover: find what differs between source and target, and send only that on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

from syncline.errors import SynclineError
from syncline.kinds.kind import Failure, Kind, Page, Planning, StepContext, would_move
from syncline.messages import Batch, Start
from syncline.model import EVERYTHING, Outcome, Run, RunStatus, Scope, Trigger
from syncline.steps.engine import ATTEMPTS, Engine, Work, pause
from syncline.steps.transfer import ENDING
from syncline.store.leases import Lease
from syncline.store.state import State
from syncline.telemetry import logger

CHUNK_ITEMS: Final = 60
"""Items after which a look sends on what it has found, so that transfers begin while it goes on."""
CHUNK_RESULTS: Final = 400
"""Results, and groups to be looked at again, after which a chunk ends: its record must fit an item of the table."""
CHUNK_SECONDS: Final = 2.0


def begin(state: State, start: Start, run_id: str) -> Batch | None:
    """The batch a start message leads to: a new run's first, or a further look in the run under way.

    None, with a word in the log, where a run under way makes a full look needless: it looks at everything itself.
    Raises ALREADY_RUNNING where the look can neither begin nor join and has to wait: a full one for the end of a look
    at a part, else a registry that is pushed to all the time would have its schedule passed over again and again.
    """
    if start.run is None and not start.scope.everything and not start.plan:
        joined = state.join_run(start.sync, run_id, start.scope)
        if joined is not None:
            return joined
    try:
        _, batch = state.begin_run(start.sync, start.run or run_id, start.trigger, start.scope, plan=start.plan)
    except SynclineError as error:
        if error.code.name == "ALREADY_RUNNING" and start.scope.everything and _scans_everything(state, start.sync):
            logger.warning("not started", extra={"sync": start.sync, "why": str(error)})
            return None
        raise
    return batch


def _scans_everything(state: State, sync: str) -> bool:
    """Return True if the run under way makes another full scan needless: it has the applied configuration, too."""
    current = state.current_run(sync)
    if current is None or current.status is not RunStatus.RUNNING or not current.scope.everything:
        return False
    return current.config == state.applied_digest(sync)


def discover(engine: Engine, batch: Batch, run: Run, left: Callable[[], float]) -> None:
    """Compare within the batch's scope; transfers follow for what differs, and another scan where time was short.

    One function at a time works on a scan and its continuations. Raises :class:`LeaseHeldError` where another one does.
    """
    leases = engine.state.leases
    lease = leases.take(f"scan@{batch.origin}", batch.origin, left() + ENDING)
    with leases.held(lease, lambda: left() + ENDING):
        _scan(engine, batch, run, left, lease)


def _scan(engine: Engine, batch: Batch, run: Run, left: Callable[[], float], lease: Lease) -> None:
    """Scan under a lease, which is given back before the scan is tried again."""
    kind = engine.kind(run)
    context = engine.context(run, left, batch.id)
    context.joined, context.scan = batch.id != run.id, batch.scan or run.id
    context.named = is_named(batch.scope, run)
    if run.trigger is Trigger.RETRY:
        context.asked = engine.state.failures.asked(run.sync, run.id)
    work, requests, since = Work(batch), kind.requests(), engine.clock()
    cursor = batch.cursor
    again: list[Failure] = []
    broken: SynclineError | None = None
    try:
        for page in kind.discover(batch.scope, batch.cursor, context):
            again += _add(work, page, kind, context)
            cursor = page.cursor
            late = work.queued > 0 and engine.clock() - since > CHUNK_SECONDS
            if late or work.queued >= CHUNK_ITEMS or len(work.results) + len(again) >= CHUNK_RESULTS:
                _scan_again(work, again, engine)
                # What was found bounds this chain; hops are for those that find nothing.
                rest = work.follow(cursor=cursor, attempt=1, hop=work.batch.hop)
                work.requests, requests = kind.requests() - requests, kind.requests()
                if not engine.end(work, held_back=rest):
                    return
                work, since, again = Work(rest), engine.clock(), []
                # As if the rest had come by a message, which it does where the function dies now.
                context.work, context.joined = rest.id, True
    except SynclineError as error:
        if cursor == work.batch.cursor or not error.retried:
            engine.state.leases.give_back(lease)
            engine.fail_all(work.batch, error, kind.requests() - requests)
            return
        broken = error
    _scan_again(work, again, engine)
    if broken is not None:
        # The scan got further, so it has all its tries again from there on.
        delay = 0.0 if broken.code.name == "TIME_SHORT" else max(broken.retry_after or 0.0, pause(1, engine.rng))
        work.waits = (broken, delay) if delay else work.waits
        work.follow(delay, cursor=cursor, attempt=1)
    elif context.left() <= 0:
        if cursor == work.batch.cursor:
            work.follow(idle=work.batch.idle + 1)
        else:
            work.follow(cursor=cursor, attempt=1)
    work.requests = kind.requests() - requests
    engine.end(work, lease)


def is_named(scope: Scope, run: Run) -> bool:
    """Return True if a person has named a scan's scope: that of the run, and none that joined it."""
    if scope.groups is None or run.scope.groups is None or run.trigger not in (Trigger.HAND, Trigger.RETRY):
        return False
    return set(scope.groups) <= set(run.scope.groups)


def _add(work: Work, page: Page, kind: Kind, context: StepContext) -> list[Failure]:
    """Add what a page shows; of what could not be looked at, that which is worth another look."""
    if work.batch.scan is None:  # the scan that a run begins with counts what there is nothing to do about
        work.skipped += page.skipped
        work.left_out += page.left_out
        work.extra += page.extra
    work.results += page.results
    if work.batch.plan:
        planned = kind.planned(page.items, context) if isinstance(kind, Planning) else map(would_move, page.items)
        for result in planned:
            if result.outcome is Outcome.SKIPPED:
                work.skipped += 1
            else:
                work.results.append(result)
    else:
        for _, members in groupby(page.items, key=lambda item: item.group):
            items = tuple(members)
            for at in range(0, len(items), kind.share):
                # Without the scan's scope: many batches with a large one are more than a record of the table holds.
                share = items[at : at + kind.share]
                work.follow(step=kind.moves_by, items=share, scope=EVERYTHING, cursor=None, attempt=1)
            work.queued += len(items)
    again = [f for f in page.failures if f.error.retried and work.batch.attempt + (not f.further) <= ATTEMPTS]
    for failure in page.failures:
        if failure not in again:
            work.give_up(failure.item, failure.error, failure.scope)
    return again


def _scan_again(work: Work, failures: Sequence[Failure], engine: Engine) -> None:
    """Let one scan follow of all groups that could not be scanned: a registry that is down would cause one each.

    A group of which a part was scanned goes on by itself. The last try scans all of it, in case its place is lost.
    """
    whole = [each for each in failures if each.cursor is None]
    parts = [[each] for each in failures if each.cursor is not None]
    for some in [whole, *parts] if whole else parts:
        asked = max(f.error.retry_after or 0.0 for f in some)
        scope = Scope.of(f.scope or f.item.group for f in some)
        delay = max(asked, pause(work.batch.attempt, engine.rng))
        work.waits = (some[0].error, delay)
        attempt = work.batch.attempt + (not all(each.further for each in some))
        cursor = some[0].cursor if attempt < ATTEMPTS else None
        # Work of its own, which does not wait for the rest of the scan.
        work.follow(delay, scope=scope, cursor=cursor, attempt=attempt, begun=None)
