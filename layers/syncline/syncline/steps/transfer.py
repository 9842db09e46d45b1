"""Transfer and commit: write the items of one group to the target, under a lease on its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from syncline.kinds.kind import Completed, Failure, Kind, StepContext, Unfinished, poll_intervals
from syncline.messages import Batch
from syncline.model import Item, Result, Run, RunStatus, Step
from syncline.steps.engine import BatchWork, StepEngine
from syncline.store.leases import Lease, LeaseHeldError

RESERVED_SECONDS: Final = 15.0
"""Seconds of a function's time that are reserved for recording its work."""
MAX_LEASE_DELAY: Final = 20.0
"""Longest delay in seconds before a reference with another writer is tried again."""
LEASE_POLL_SECONDS: Final = 3.0
"""Seconds for which the function itself polls a reference: most writers are done by then."""


def transfer(engine: StepEngine, batch: Batch, run: Run, left: Callable[[], float]) -> None:
    """Transfer the batch's items; a verify follows for completed ones, another transfer for unfinished ones.

    Raises :class:`LeaseHeldError` if another function works on the same batch, which was delivered twice.
    """
    kind = engine.kind(run)
    work = BatchWork(batch)
    try:
        lease = _lease(engine, batch, kind, left)
    except LeaseHeldError as held:
        # A FIFO queue shows a message again only when its first function is dead.
        if held.same_owner and batch.step is not Step.COMMIT:
            raise
        # The writer is often done long before its lease expires; the delays grow with the number of attempts.
        # Waiting for a lease does not count as idle.
        longest = min(MAX_LEASE_DELAY, 2.0 ** min(batch.hop, 10)) * engine.rng.uniform(0.5, 1.0)
        delay = min(held.retry_after or 1.0, longest)
        work.waits = (held, delay)
        work.follow(delay)
        engine.end(work)
        return
    before = kind.requests()
    context = engine.context(run, left, f"{run.id}-{batch.origin}", lease)
    # Renewed up to the end of the function's time, so that no other writer takes it while this one may write.
    with engine.state.leases.held(lease, lambda: 0.0 if context.halted() else left() + RESERVED_SECONDS):
        _carry_out(work, kind, context, engine)
        work.requests = kind.requests() - before
        engine.end(work, lease)


def _lease(engine: StepEngine, batch: Batch, kind: Kind, left: Callable[[], float]) -> Lease:
    """Take the lease on the batch's reference, polling it for a few seconds while another writer has it."""
    reference = kind.reference(batch.group)
    for pause in (*poll_intervals(LEASE_POLL_SECONDS), None):
        try:
            return engine.state.leases.take(reference, batch.id, left() + RESERVED_SECONDS)
        except LeaseHeldError as held:
            if held.same_owner or pause is None or left() <= 0:
                raise
        engine.sleep(pause)
    raise AssertionError  # the last round returns or raises


def _carry_out(work: BatchWork, kind: Kind, context: StepContext, engine: StepEngine) -> None:
    completed: list[Item] = []
    unfinished: list[Item] = []
    failures: list[Failure] = []
    previous = {(item.group, item.name): item for item in work.batch.items}
    has_progress = False
    for answer in kind.transfer(work.batch.items, context):
        match answer:
            case Completed(item, moved_bytes):
                changed = item.changed or previous[item.group, item.name].changed
                completed.append(replace(item, detail={**item.detail, "bytes": moved_bytes}, changed=changed))
            case Unfinished(item, stuck, waiting):
                unfinished.append(item)
                has_progress |= waiting or (not stuck and _has_progress(item, previous[item.group, item.name]))
            case Failure(item, error) if error.code.name == "RUN_CANCELLED":
                unfinished.append(item)
            case Failure():
                failures.append(answer)
            case Result():
                work.results.append(answer)
    if completed:
        work.follow(step=Step.VERIFY, items=tuple(completed))
    if unfinished and context.halted() and _is_cancelled(engine, work.batch):
        work.results += [Result.cancelled(item) for item in unfinished]
    elif unfinished:
        idle = not has_progress and len(unfinished) == len(work.batch.items)
        work.follow(items=tuple(unfinished), idle=work.batch.idle + 1 if idle else 0)
    work.fail(failures, engine.rng)


def _has_progress(item: Item, previous: Item) -> bool:
    """Return True if the position of an item has changed. The bytes sent are ignored: they may be sent in vain."""
    return replace(item, detail={**item.detail, "bytes": 0}) != replace(
        previous, detail={**previous.detail, "bytes": 0}
    )


def _is_cancelled(engine: StepEngine, batch: Batch) -> bool:
    """Return True if the run is over or being cancelled, rather than the lease lost."""
    return engine.state.run(batch.sync, batch.run).status is not RunStatus.RUNNING
