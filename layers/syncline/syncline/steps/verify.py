"""Verify: ask the target again, and only then call an item moved."""

from __future__ import annotations

from collections.abc import Callable

from syncline.kinds.kind import UNTOUCHED, Completed, Failure, Unfinished
from syncline.messages import Batch
from syncline.model import Item, Outcome, Result, Run, RunStatus, Trigger
from syncline.steps.engine import Engine, Work


def verify(engine: Engine, batch: Batch, run: Run, left: Callable[[], float]) -> None:
    """Verify the batch's items; what did not arrive is transferred again, what could not be asked is asked again.

    That goes for a run that is being cancelled too: what was written is proved, so that the report is true. What then
    is not proved stays as it is.
    """
    kind = engine.kind(run)
    work, before = Work(batch), kind.requests()
    asked = engine.state.failures.asked(run.sync, run.id) if run.trigger is Trigger.RETRY else frozenset()
    later: list[Item] = []
    absent: list[Failure] = []
    failures: list[Failure] = []
    waiting = False
    context = engine.context(run, left, batch.id, verifies=True)
    for answer in kind.verify(batch.items, context):
        match answer:
            case Completed(item, _, note):
                work.results.append(_ended(item, note, asked))
            case Unfinished(item):
                later.append(item)
                waiting |= answer.waiting
            case Failure(error=error) if error.code.name == "NOT_ARRIVED":
                absent.append(answer)
            case Failure(item, error) if error.code.name == "RUN_CANCELLED":
                later.append(item)
            case Failure():
                failures.append(answer)
    if later and context.halted():
        work.results += [Result.cancelled(item) for item in later]
    elif later:
        idle = not waiting and len(later) == len(batch.items)
        work.follow(items=tuple(later), idle=batch.idle + 1 if idle else 0)
    if run.status is RunStatus.CANCELLING:
        work.results += [Result.cancelled(failure.item) for failure in (*absent, *failures)]
    else:
        work.fail(absent, engine.rng, step=kind.moves_by)
        work.fail(failures, engine.rng)
    work.requests = kind.requests() - before
    engine.end(work)


def _ended(item: Item, note: str, asked: frozenset[tuple[str, str]]) -> Result:
    """Return the result of a verified item: skipped if it was sent on although it was equal, by a retry or to be sure."""
    moved_bytes = int(item.detail.get("bytes", 0))
    # Whatever has arrived has a fingerprint: what has none is what the target was to have no more.
    outcome = Outcome.REMOVED if item.source is None else Outcome.MOVED
    as_before = item.source is not None and item.target == item.source and not moved_bytes
    if as_before and (item.detail.get(UNTOUCHED) or (item.group, item.name) in asked):
        outcome = Outcome.SKIPPED
    return Result(item.group, item.name, outcome, item.source, item.source, moved_bytes, reason=note or None)
