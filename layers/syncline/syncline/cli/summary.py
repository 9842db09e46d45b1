"""Runs, results and scopes as text, and the exit code of a run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from syncline.cli.context import ALL_WELL, SOME_FAILED
from syncline.cli.output import Cell, Row, Style, count_phrases, digest, duration, number, plural, rough_duration, size
from syncline.escaping import escape
from syncline.kinds.table import KindInfo, kind_info
from syncline.model import LAG_BOUNDS, Counts, Lags, Outcome, Result, Run, RunStatus, Scope, Trigger
from syncline.store.failures import KnownFailure

OUTPUT_VERSION: Final = 1
"""Version of the objects that `report`, `history` and `status` print with ``--json``.

A key that is added keeps it. docs/reference has their schemas, which `python -m scripts.reference` writes.
"""
TRIGGERS: Final = {
    Trigger.SCHEDULE: "by schedule",
    Trigger.WEBHOOK: "by webhook",
    Trigger.EVENT: "by event",
    Trigger.MANUAL: "manually",
    Trigger.RETRY: "as a retry",
    Trigger.START: "at startup",
}
ResultOrFailure = TypeVar("ResultOrFailure", Result, KnownFailure)
OUTCOMES: Final[dict[Outcome, tuple[str, Style]]] = {
    Outcome.FAILED: ("failed", "red"),
    Outcome.KNOWN: ("known failure", "red"),
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
"""The outcomes in the order of a report, with the word and style of each."""
_IN_PLAN: Final = {Outcome.LEFT_OUT: "would leave out"}
_RANK: Final = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}
_ALL: Final = "*"
FOLD: Final = 2
"""The cell of an item's row at which a long row continues on a second line."""
_MODE: Final = "mode:"
_SCOPED: Final = re.compile(r"^(?:key|prefix|event:[^:]*):(?=.)", re.DOTALL)
_NAMED: Final = 5
"""Groups that a line names; the others are counted."""


def exit_code(run: Run) -> int:
    """Return 1 for a run with failures, conflicts or unacknowledged known failures, or one cancelled or lost; else 0."""
    return SOME_FAILED if _is_bad(run.counts) or run.status in (RunStatus.CANCELLED, RunStatus.LOST) else ALL_WELL


def _is_bad(counts: Counts) -> bool:
    return bool(counts.failed or counts.known or counts.conflict)


def counts_text(counts: Counts) -> str:
    """Return the counts of a run as text: ``41 moved (120.4 MiB), 2,310 equal, 3 left out, 1 conflict``."""
    parts = [f"{number(counts.moved)} moved ({size(counts.bytes)})"] if counts.moved else []
    parts += count_phrases(
        (counts.would_move, "would move"),
        (counts.would_remove, "would be removed"),
        (counts.removed, "removed"),
        (counts.skipped, "equal"),
        (counts.left_out, "left out"),
        (counts.extra, "extra"),
        (counts.conflict, "conflict", "conflicts"),
        (counts.failed, "failed"),
    )
    parts += known_words(counts.known, counts.acknowledged)
    parts += count_phrases((counts.cancelled, "cancelled"))
    return ", ".join(parts) or "nothing found"


def known_words(known: int, acknowledged: int) -> list[str]:
    """Return the numbers of known and acknowledged failures as text; an empty list for none."""
    return count_phrases((known, "known failure", "known failures"), (acknowledged, "acknowledged"))


def scope_text(scope: Scope) -> str:
    """Return a scope as one line of text."""
    if scope.groups is None:
        return "everything"
    groups = sorted({_group_name(group) for group in scope.groups})
    more = len(groups) - _NAMED
    return escape(", ".join(groups[:_NAMED])) + (f" and {plural(more, 'other')}" if more > 0 else "")


def _group_name(group: str) -> str:
    """Return the display name of a group: without the prefix that distinguishes keys, prefixes and events."""
    if group.startswith(_MODE):
        return str(json.loads(group.removeprefix(_MODE))[0])
    return _SCOPED.sub("", group, count=1)


def ending_line(run: Run) -> tuple[str, Style]:
    """Return a line on the result of a run that has ended, and its style."""
    took = duration((run.ended or run.started) - run.started)
    counts = run.counts
    match run.status:
        case RunStatus.CANCELLED:
            return f"○ {run.sync}: cancelled after {took}: {counts_text(counts)}", "yellow"
        case RunStatus.LOST:
            return f"✗ {run.sync}: lost: it stopped making progress; {counts_text(counts)}", "red"
        case _ if _is_bad(counts):
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


def source_and_target(config: Mapping[str, Any]) -> str:
    """Return the source and the target of a configuration as text."""
    kind = kind_info(str(config.get("kind")))
    return f"{_endpoint(config, kind.source)} → {_endpoint(config, kind.target)}"


def _endpoint(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the value of the first of `keys` that is set, with the address of its server; "?" if none is."""
    for part, _, key in (key.rpartition(".") for key in keys):
        side = config.get(part) or {} if part else config
        if not (value := side.get(key)):
            continue
        if key == "bucket":
            value = f"s3://{value}/{side.get('prefix') or ''}"
        address = side.get("endpoint") or side.get("url")
        return (value if isinstance(value, str) else ", ".join(value)) + (f" at {address}" if address else "")
    return "?"


def lag_text(lags: Lags, share: float) -> str:
    """Return the bound of a share of lags as text: ``within 2 min``."""
    bound = lags.percentile(share)
    if bound is None or math.isinf(bound):
        return f"after more than {rough_duration(LAG_BOUNDS[-1])}"
    return f"within {duration(bound)}"


def report_order(result: Result) -> tuple[int, str, str]:
    """Sort key of a report: results that need attention first, then by name."""
    return (_RANK[result.outcome], result.group, result.name)


def with_display_groups(kind: KindInfo, items: Iterable[ResultOrFailure]) -> list[ResultOrFailure]:
    """Return results or known failures for display: without their groups if the kind hides groups."""
    if not kind.groups_hidden:
        return list(items)
    return [each if _ALL in (each.group, each.name) else replace(each, group=each.name) for each in items]


def item_name(result: Result) -> str:
    """Return the display name of a result's item."""
    return item_text(result.group, result.name)


def item_text(group: str, name: str) -> str:
    """Return the display name of an item; a scan that failed completely has none."""
    if group == _ALL:
        return "(complete scan)" if name == _ALL else escape(name)
    called = _group_name(group)
    if name == _ALL:
        return escape(f"{called} (all)")
    return escape(name if called == name else f"{group}:{name}")


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
