"""Runs, scopes and items as text, for the command and the status page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from syncline.escaping import escape
from syncline.kinds.table import KindInfo, kind_info
from syncline.model import LAG_BOUNDS, Audit, Counts, Lags, Outcome, Result, Run, Scope, Trigger
from syncline.store.failures import KnownFailure
from syncline.text import count_phrases, duration, number, plural, rough_duration, size

TRIGGERS: Final = {
    Trigger.SCHEDULE: "by schedule",
    Trigger.WEBHOOK: "by webhook",
    Trigger.EVENT: "by event",
    Trigger.MANUAL: "manually",
    Trigger.RETRY: "as a retry",
    Trigger.START: "at startup",
}


ResultOrFailure = TypeVar("ResultOrFailure", Result, KnownFailure)


OUTCOME_WORDS: Final = {
    Outcome.DIFFERENT: "different",
    Outcome.MISSING: "missing",
    Outcome.UNREADABLE: "unreadable",
    Outcome.FAILED: "failed",
    Outcome.KNOWN: "known failure",
    Outcome.UNTRUSTED: "untrusted",
    Outcome.CONFLICT: "conflict",
    Outcome.CANCELLED: "cancelled",
    Outcome.REMOVED: "removed",
    Outcome.WOULD_REMOVE: "would remove",
    Outcome.WOULD_MOVE: "would move",
    Outcome.MOVED: "moved",
    Outcome.EXTRA: "extra",
    Outcome.LEFT_OUT: "left out",
    Outcome.EQUAL: "equal",
}
"""The outcomes in the order of a report, and the word for each."""
_RANK: Final = {outcome: rank for rank, outcome in enumerate(OUTCOME_WORDS)}


_ALL: Final = "*"


_MODE: Final = "mode:"


_SCOPED: Final = re.compile(r"^(?:key|prefix|event:[^:]*):(?=.)", re.DOTALL)


_NAMED: Final = 5
"""Groups that a line names; the others are counted."""


def is_bad(run: Run) -> bool:
    """Return True for a run with failures, conflicts or untrusted items, or for an audit that has not found both sides equal."""
    counts = run.counts
    unequal = run.audit is not None and not run.audit.is_equal(counts)
    return bool(counts.failed or counts.known or counts.conflict or counts.untrusted or unequal)


def counts_text(counts: Counts) -> str:
    """Return the counts of a run as text: ``41 moved (120.4 MiB), 2,310 equal, 3 left out, 1 conflict``."""
    parts = [f"{number(counts.moved)} moved ({size(counts.bytes)})"] if counts.moved else []
    parts += count_phrases(
        (counts.different, "different"),
        (counts.missing, "missing"),
        (counts.unreadable, "unreadable"),
        (counts.would_move, "would move"),
        (counts.would_remove, "would be removed"),
        (counts.removed, "removed"),
        (counts.skipped, "equal"),
        (counts.left_out, "left out"),
        (counts.extra, "extra"),
        (counts.conflict, "conflict", "conflicts"),
        (counts.untrusted, "untrusted"),
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


def audit_text(audit: Audit) -> str:
    """Return what an audit reads as text: ``every byte of part 3 of 30``."""
    if not audit.deep:
        return "fingerprints and parts" if audit.parts else "fingerprints"
    return "every byte" if audit.of == 1 else f"every byte of part {audit.part} of {audit.of}"


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


def item_text(group: str, name: str) -> str:
    """Return the display name of an item; a scan that failed completely has none."""
    if group == _ALL:
        return "(complete scan)" if name == _ALL else escape(name)
    called = _group_name(group)
    if name == _ALL:
        return escape(f"{called} (all)")
    return escape(name if called == name else f"{group}:{name}")
