"""Verify: read the target again, and only then count an item as moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from syncline.kinds.kind import FOUND_EQUAL, Completed, Failure, Unfinished
from syncline.messages import Batch
from syncline.model import Item, Outcome, Result, Run, RunStatus, Trigger
from syncline.steps.engine import BatchWork, StepEngine
from syncline.store.runs import start_of


def verify(engine: StepEngine, batch: Batch, run: Run, left: Callable[[], float]) -> None:
    """Verify the batch's items; absent ones are transferred again, those that could not be read are verified again.

    Items that were written are verified in a run that is being cancelled, too, so that its report is true. There, what
    cannot be verified is left as it is.
    """
    kind = engine.kind(run)
    work, before = BatchWork(batch), kind.requests()
    asked = engine.state.failures.asked(run.sync, run.id) if run.trigger is Trigger.RETRY else frozenset()
    verified: list[tuple[Item, Result]] = []
    unfinished: list[Item] = []
    absent: list[Failure] = []
    failures: list[Failure] = []
    waiting = False
    context = engine.context(run, left, batch.id, verifies=True)
    for answer in kind.verify(batch.items, context):
        match answer:
            case Completed(item, _, note):
                verified.append((item, _verified(item, note, asked)))
            case Unfinished(item):
                unfinished.append(item)
                waiting |= answer.waiting
            case Failure(error=error) if error.code.name == "NOT_ARRIVED":
                absent.append(answer)
            case Failure(item, error) if error.code.name == "RUN_CANCELLED":
                unfinished.append(item)
            case Failure():
                failures.append(answer)
    work.results += _with_lags(engine, run, batch, verified)
    if unfinished and context.halted():
        work.results += [Result.cancelled(item) for item in unfinished]
    elif unfinished:
        idle = not waiting and len(unfinished) == len(batch.items)
        work.follow(items=tuple(unfinished), idle=batch.idle + 1 if idle else 0)
    if run.status is RunStatus.CANCELLING:
        work.results += [Result.cancelled(failure.item) for failure in (*absent, *failures)]
    else:
        work.fail(absent, engine.rng, step=kind.moves_by)
        work.fail(failures, engine.rng)
    work.requests = kind.requests() - before
    engine.end(work)


def _verified(item: Item, note: str, asked: frozenset[tuple[str, str]]) -> Result:
    """Return the result of a verified item: equal if it was found equal and sent on, by a retry or as a precaution."""
    moved_bytes = int(item.detail.get("bytes", 0))
    # An item without a source fingerprint was to be removed from the target.
    outcome = Outcome.REMOVED if item.source is None else Outcome.MOVED
    is_unchanged = item.source is not None and item.target == item.source and not moved_bytes
    if is_unchanged and (item.detail.get(FOUND_EQUAL) or (item.group, item.name) in asked):
        outcome = Outcome.EQUAL
    return Result(item.group, item.name, outcome, item.source, item.source, moved_bytes, reason=note or None)


def _with_lags(engine: StepEngine, run: Run, batch: Batch, verified: Sequence[tuple[Item, Result]]) -> list[Result]:
    """Return the results with the lag of each item that was moved or removed.

    It counts from the change at the source. Where the source does not tell, it counts from the start of the run, or of
    the scan that joined a run, that first met the difference. A difference from before the latest verification of the
    sync was not seen then, as with an item that was not selected: it counts from that verification.
    """
    now, failures = engine.clock(), engine.state.failures
    met = run.started if batch.scan is None else start_of(batch.scan)  # which begins with the ID of a run of its own
    unknown = [(item.group, item.name) for item, _ in verified if not item.changed]
    failed = failures.find(run.sync, unknown) if unknown and failures.any(run.sync) else {}

    def with_lag(item: Item, result: Result) -> Result:
        if result.outcome is Outcome.EQUAL:
            return result
        known = failed.get((item.group, item.name))
        is_failing = known is not None and known.solved is None and known.run
        first = start_of(known.run) if known is not None and is_failing else met
        since = max(item.changed or first, run.lag_start)
        return replace(result, lag=max(0, round(now - since)))

    return [with_lag(item, result) for item, result in verified]
