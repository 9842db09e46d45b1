"""Transfer and commit: bring the items of one group to the target, under a lease on its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from syncline.kinds.kind import Completed, Failure, Kind, StepContext, Unfinished, poll_intervals
from syncline.messages import Batch
from syncline.model import Item, Result, Run, RunStatus, Step
from syncline.steps.engine import Engine, Work
from syncline.store.leases import Lease, LeaseHeldError

ENDING: Final = 15.0
"""Seconds of a function's time kept for writing down where it is."""
WAITING: Final = 20.0
"""Seconds after which a reference with another writer is tried again, at the latest."""
GLANCING: Final = 3.0
"""Seconds for which the function itself waits for a reference: most writers are done by then."""


def transfer(engine: Engine, batch: Batch, run: Run, left: Callable[[], float]) -> None:
    """Transfer the batch's items; a verify follows for what arrived, another transfer for what needs more time.

    Raises :class:`LeaseHeldError` where the same batch is being worked on: it was delivered twice.
    """
    kind = engine.kind(run)
    work = Work(batch)
    try:
        lease = _lease(engine, batch, kind, left)
    except LeaseHeldError as held:
        # A FIFO queue shows a message again only when its first function is dead.
        if held.same_owner and batch.step is not Step.COMMIT:
            raise
        # Its writer is often done long before the lease ends; the longer this goes on, the longer the pauses.
        # Whoever waits its turn is not idle.
        longest = min(WAITING, 2.0 ** min(batch.hop, 10)) * engine.rng.uniform(0.5, 1.0)
        delay = min(held.retry_after or 1.0, longest)
        work.waits = (held, delay)
        work.follow(delay)
        engine.end(work)
        return
    before = kind.requests()
    context = engine.context(run, left, f"{run.id}-{batch.origin}", lease)
    # It is renewed up to the end of the function's time, and no longer: nobody takes it from a writer that is alive.
    with engine.state.leases.held(lease, lambda: 0.0 if context.halted() else left() + ENDING):
        _carry_out(work, kind, context, engine)
        work.requests = kind.requests() - before
        engine.end(work, lease)


def _lease(engine: Engine, batch: Batch, kind: Kind, left: Callable[[], float]) -> Lease:
    """The right to write to the batch's reference, waited for a little where another has it."""
    reference = kind.reference(batch.group)
    for pause in (*poll_intervals(GLANCING), None):
        try:
            return engine.state.leases.take(reference, batch.id, left() + ENDING)
        except LeaseHeldError as held:
            if held.same_owner or pause is None or left() <= 0:
                raise
        engine.sleep(pause)
    raise AssertionError  # the last round returns or raises


def _carry_out(work: Work, kind: Kind, context: StepContext, engine: Engine) -> None:
    arrived: list[Item] = []
    later: list[Item] = []
    failures: list[Failure] = []
    before = {(item.group, item.name): item for item in work.batch.items}
    further = False
    for answer in kind.transfer(work.batch.items, context):
        match answer:
            case Completed(item, moved_bytes):
                arrived.append(replace(item, detail={**item.detail, "bytes": moved_bytes}))
            case Unfinished(item, stuck, waiting):
                later.append(item)
                further = further or waiting or (not stuck and _is_further(item, before[item.group, item.name]))
            case Failure(item, error) if error.code.name == "RUN_CANCELLED":
                later.append(item)
            case Failure():
                failures.append(answer)
            case Result():
                work.results.append(answer)
    if arrived:
        work.follow(step=Step.VERIFY, items=tuple(arrived))
    if later and context.halted() and _is_cancelled(engine, work.batch):
        work.results += [Result.cancelled(item) for item in later]
    elif later:
        idle = not further and len(later) == len(work.batch.items)
        work.follow(items=tuple(later), idle=work.batch.idle + 1 if idle else 0)
    work.fail(failures, engine.rng)


def _is_further(item: Item, before: Item) -> bool:
    """Whether an item stands elsewhere than before. How much was sent for it tells nothing: it may be sent in vain."""
    return replace(item, detail={**item.detail, "bytes": 0}) != replace(before, detail={**before.detail, "bytes": 0})


def _is_cancelled(engine: Engine, batch: Batch) -> bool:
    """Whether it is for the run that nothing may go on, and not for the lease alone."""
    return engine.state.run(batch.sync, batch.run).status is not RunStatus.RUNNING
