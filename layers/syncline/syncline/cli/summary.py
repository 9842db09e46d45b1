"""Runs, results and scopes as text, and the exit code of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

from syncline.cli.context import ALL_WELL, SOME_FAILED
from syncline.cli.output import Cell, Row, Style
from syncline.model import Counts, Lags, Outcome, Result, Run, RunStatus
from syncline.run_text import OUTCOME_WORDS, counts_text, is_bad, item_text
from syncline.text import count_phrases, digest, duration, plural, size

OUTPUT_VERSION: Final = 1
"""Version of the objects that `report`, `history` and `status` print with ``--json``.

A key that is added keeps it. docs/reference has their schemas, which `python -m scripts.reference` writes.
"""
_STYLES: Final[dict[Outcome, Style]] = {
    Outcome.FAILED: "red",
    Outcome.KNOWN: "red",
    Outcome.UNTRUSTED: "red",
    Outcome.CONFLICT: "yellow",
    Outcome.CANCELLED: "yellow",
    Outcome.REMOVED: "",
    Outcome.WOULD_REMOVE: "yellow",
    Outcome.WOULD_MOVE: "cyan",
    Outcome.MOVED: "green",
}
OUTCOMES: Final = {outcome: (word, _STYLES.get(outcome, "dim")) for outcome, word in OUTCOME_WORDS.items()}
"""The outcomes in the order of a report, with the word and style of each."""
_IN_PLAN: Final = {Outcome.LEFT_OUT: "would leave out"}


def exit_code(run: Run) -> int:
    """Return 1 for a run with failures, conflicts, untrusted items or unacknowledged known failures, or one cancelled or lost; else 0."""
    return SOME_FAILED if is_bad(run) or run.status in (RunStatus.CANCELLED, RunStatus.LOST) else ALL_WELL


def ending_line(run: Run) -> tuple[str, Style]:
    """Return a line on the result of a run that has ended, and its style."""
    took = duration((run.ended or run.started) - run.started)
    counts = run.counts
    match run.status:
        case RunStatus.CANCELLED:
            return f"○ {run.sync}: cancelled after {took}: {counts_text(counts)}", "yellow"
        case RunStatus.LOST:
            return f"✗ {run.sync}: lost: it stopped making progress; {counts_text(counts)}", "red"
        case _ if is_bad(run):
            return f"✗ {run.sync}: {counts_text(counts)}, in {took}", "red"
        case _ if counts.moved or counts.removed or counts.would_move or counts.would_remove:
            return f"✓ {run.sync}: {counts_text(counts)}, in {took}", "green"
        case _:
            parts, style = _without_change(counts)
            return f"✓ {run.sync}: {parts}, in {took}", style


def _without_change(counts: Counts) -> tuple[str, Style]:
    """Describe a run that changed nothing and had no failure."""
    left_out, extra = (counts.left_out, "left out"), (counts.extra, "extra")
    others: list[tuple[int, str]] = [extra, (counts.acknowledged, "acknowledged")]
    style: Style = "yellow"
    if counts.skipped:
        what, others, style = f"no differences, {plural(counts.skipped, 'item')} equal", [left_out, *others], "green"
    elif counts.acknowledged:
        what = "no other items found"
    elif counts.left_out:
        # By the selection or by the rule for Secrets; the report has the reason.
        what = f"everything found was left out ({plural(counts.left_out, 'item')})"
    else:
        what = "nothing found: the source has no items that the sync selects"
    return ", ".join([what, *count_phrases(*others)]), style


def run_dict(run: Run) -> dict[str, Any]:
    """Return a run for JSON, with its duration in seconds once it has ended, and the percentiles of its lags."""
    took = None if run.ended is None else round(run.ended - run.started, 3)
    return run.as_dict() | {"over": run.over, "seconds": took, "lag": lag_dict(run.lags)}


def lag_dict(lags: Lags) -> dict[str, float | None]:
    """Return the percentiles of lags in seconds for JSON, which are upper bounds. None: without items, or unbounded."""
    values = {f"p{share:.0%}".removesuffix("%"): lags.percentile(share) for share in (0.5, 0.95, 0.99)}
    return {name: None if value is None or math.isinf(value) else value for name, value in values.items()}


def item_name(result: Result) -> str:
    """Return the display name of a result's item."""
    return item_text(result.group, result.name)


def item_lines(results: Iterable[Result], *, full: bool = False, plan: bool = False) -> Iterator[Row | str]:
    """Yield the lines of a report: a row per item and, below it, the code and reason of a failure.

    The reason of a known failure is included only if ``full``: the run in which it first failed reported it.
    """
    for result in results:
        yield item_row(result, full=full, plan=plan)
        reason = result.reason if full or result.outcome is not Outcome.KNOWN else None
        if result.code or reason:
            yield "  " + ": ".join(filter(None, (result.code, reason)))


def item_row(result: Result, *, full: bool = False, plan: bool = False) -> Row:
    """Return the row of an item: outcome, item, digests, size."""
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
