"""A run in a few words: what it did, how it ended, and the exit code that follows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final, TypeVar

from syncline.cli.context import ALL_WELL, SOME_FAILED
from syncline.cli.show import Cell, Row, Style, digest, duration, many, number, size
from syncline.kinds.table import KindInfo
from syncline.model import Counts, Outcome, Result, Run, RunStatus, Scope, Trigger
from syncline.store.failures import KnownFailure
from syncline.visible import visible

TRIGGERS: Final = {
    Trigger.SCHEDULE: "by schedule",
    Trigger.WEBHOOK: "by webhook",
    Trigger.EVENT: "by event",
    Trigger.MANUAL: "by hand",
    Trigger.RETRY: "as a retry",
    Trigger.START: "after a start",
}
Shown = TypeVar("Shown", Result, KnownFailure)
OUTCOMES: Final[dict[Outcome, tuple[str, Style]]] = {
    Outcome.FAILED: ("failed", "red"),
    Outcome.KNOWN: ("known", "red"),
    Outcome.CONFLICT: ("conflict", "yellow"),
    Outcome.CANCELLED: ("cancelled", "yellow"),
    Outcome.REMOVED: ("removed", ""),
    Outcome.WOULD_REMOVE: ("would remove", "yellow"),
    Outcome.WOULD_MOVE: ("would move", "cyan"),
    Outcome.MOVED: ("moved", "green"),
    Outcome.EXTRA: ("extra", "dim"),
    Outcome.LEFT_OUT: ("left out", "dim"),
    Outcome.EQUAL: ("equal", "dim"),
}
"""In the order in which a report shows them, with the word and the style of each."""
_IN_PLAN: Final = {Outcome.LEFT_OUT: "would leave out"}
_RANK: Final = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}
_WHOLE: Final = "*"
FOLD: Final = 2
"""The cell of an item's row from which on a long row goes on in a second line."""
_MODE: Final = "mode:"
_SCOPED: Final = re.compile(r"^(?:key|prefix|event:[^:]*):(?=.)", re.DOTALL)
_NAMED: Final = 5
"""Groups named on a line; the others are counted."""


def exit_code(run: Run) -> int:
    """Return 0 if the run is over, or still goes on, without a failure, a conflict or an item left behind.

    A known failure is one, unless it is acknowledged.
    """
    return SOME_FAILED if _is_bad(run.counts) or run.status in (RunStatus.CANCELLED, RunStatus.LOST) else ALL_WELL


def _is_bad(counts: Counts) -> bool:
    return bool(counts.failed or counts.known or counts.conflict)


def counted(counts: Counts) -> str:
    """Return the counts of a run in words: ``41 moved (120.4 MiB), 2,310 equal, 3 left out, 1 conflict``."""
    said = []
    if counts.moved:
        said.append(f"{number(counts.moved)} moved ({size(counts.bytes)})")
    if counts.would_move:
        said.append(f"{number(counts.would_move)} would move")
    if counts.would_remove:
        said.append(f"{number(counts.would_remove)} would be removed")
    said += [f"{number(count)} removed" for count in (counts.removed,) if count]
    if counts.skipped:
        said.append(f"{number(counts.skipped)} equal")
    if counts.left_out:
        said.append(f"{number(counts.left_out)} left out")
    if counts.extra:
        said.append(f"{number(counts.extra)} extra")
    if counts.conflict:
        said.append(many(counts.conflict, "conflict"))
    said += [f"{number(counts.failed)} failed"] if counts.failed else []
    said += known_words(counts.known, counts.acknowledged)
    said += [f"{number(counts.cancelled)} left as they were"] if counts.cancelled else []
    return ", ".join(said) or "nothing found"


def known_words(known: int, acknowledged: int) -> list[str]:
    """Return the known failures of a sync in words; nothing if there are none."""
    said = [many(known, "known failure")] if known else []
    return said + ([f"{number(acknowledged)} acknowledged"] if acknowledged else [])


def named(scope: Scope) -> str:
    """Return what a scan covers, on one line."""
    if scope.groups is None:
        return "everything"
    groups = sorted({_group_name(group) for group in scope.groups})
    more = len(groups) - _NAMED
    return visible(", ".join(groups[:_NAMED])) + (f" and {many(more, 'other')}" if more > 0 else "")


def _group_name(group: str) -> str:
    """Return a group of a scope as people call it: without the words that tell keys, prefixes and events apart."""
    if group.startswith(_MODE):
        return str(json.loads(group.removeprefix(_MODE))[0])
    return _SCOPED.sub("", group, count=1)


def ending(run: Run) -> tuple[str, Style]:
    """How a run that is over ended, in one line."""
    took = duration((run.ended or run.started) - run.started)
    counts = run.counts
    match run.status:
        case RunStatus.CANCELLED:
            return f"○ {run.sync}: cancelled after {took}: {counted(counts)}", "yellow"
        case RunStatus.LOST:
            return f"✗ {run.sync}: lost: nothing more was heard of it; {counted(counts)}", "red"
        case _ if _is_bad(counts):
            return f"✗ {run.sync}: {counted(counts)}, in {took}", "red"
        case _ if counts.moved or counts.removed or counts.would_move or counts.would_remove:
            return f"✓ {run.sync}: {counted(counts)}, in {took}", "green"
        case _:
            said, style = _without_change(counts)
            return f"✓ {run.sync}: {said}, in {took}", style


def _without_change(counts: Counts) -> tuple[str, Style]:
    """Describe a run that changed nothing and had no failure."""
    extra = f", {number(counts.extra)} extra" if counts.extra else ""
    acknowledged = f", {number(counts.acknowledged)} acknowledged" if counts.acknowledged else ""
    if counts.skipped:
        left_out = f", {number(counts.left_out)} left out" if counts.left_out else ""
        return f"nothing differed, {many(counts.skipped, 'item')} equal{left_out}{extra}{acknowledged}", "green"
    if acknowledged:
        return f"nothing else was found{extra}{acknowledged}", "yellow"
    if counts.left_out:
        # By the selection or by the rule for Secrets; the report says which.
        return f"all that was found was left out ({many(counts.left_out, 'item')}){extra}", "yellow"
    return f"nothing found: the source has nothing that the sync selects{extra}", "yellow"


def as_dict(run: Run) -> dict[str, Any]:
    """The run for JSON, with how long it took (seconds) once it is over."""
    took = None if run.ended is None else round(run.ended - run.started, 3)
    return run.as_dict() | {"over": run.over, "seconds": took}


def rank(result: Result) -> tuple[int, str, str]:
    """Sorts results as a report shows them: what needs somebody first, then by name."""
    return (_RANK[result.outcome], result.group, result.name)


def as_called(kind: KindInfo, items: Iterable[Shown]) -> list[Shown]:
    """Return results or known failures of a kind; where groups are hidden, items have their names alone."""
    if not kind.groups_hidden:
        return list(items)
    return [each if _WHOLE in (each.group, each.name) else replace(each, group=each.name) for each in items]


def item_name(result: Result) -> str:
    """Return the item of a result as people call it."""
    return item_of(result.group, result.name)


def item_of(group: str, name: str) -> str:
    """Return an item as people call it; a scan that failed as a whole has no item."""
    if group == _WHOLE:
        return "(the whole scan)" if name == _WHOLE else visible(name)
    called = _group_name(group)
    if name == _WHOLE:
        return visible(f"{called} (all)")
    return visible(name if called == name else f"{group}:{name}")


def item_lines(results: Iterable[Result], *, full: bool = False, plan: bool = False) -> Iterator[Row | str]:
    """Yield a report's lines: a row for each item and, below it, why it did not go well.

    Why a known failure fails was told in the run in which it first did; here it is told if ``full``.
    """
    for result in results:
        yield item_row(result, full=full, plan=plan)
        reason = result.reason if full or result.outcome is not Outcome.KNOWN else None
        if result.code or reason:
            yield "  " + ": ".join(filter(None, (result.code, reason)))


def item_row(result: Result, *, full: bool = False, plan: bool = False) -> Row:
    """Return the row of an item in a report: outcome, item, digests, size."""
    word, style = OUTCOMES[result.outcome]
    source, target = digest(result.source, full=full), digest(result.target, full=full)
    same = result.source is not None and result.source == result.target
    digests = f"{source} on both sides" if same else f"{source} → {target}"
    if result.source is None and result.target is None:
        digests = ""
    return (
        Cell(_IN_PLAN.get(result.outcome, word) if plan else word, style),
        item_name(result),
        Cell(digests, "dim"),
        Cell(size(result.moved_bytes) if result.moved_bytes else "", right=True),
    )
