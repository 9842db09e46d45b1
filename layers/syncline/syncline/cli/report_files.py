"""A report as a CSV table, or as one HTML file without anything from elsewhere, for an auditor."""

from __future__ import annotations

import csv
import html
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Final, TypeVar

from syncline import __version__
from syncline.cli.summary import OUTCOMES
from syncline.errors import CodeName
from syncline.escaping import escape
from syncline.model import Result, Run
from syncline.run_text import TRIGGERS, audit_text, counts_text
from syncline.store.failures import KnownFailure

_Row = TypeVar("_Row")
COLUMNS: Final = ("group", "name", "outcome", "source", "target", "moved_bytes", "lag", "code", "reason")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet would evaluate."""
_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #1c1c1c; background: #fff; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #d0d0d0; }
td { overflow-wrap: anywhere; }
code { font-size: 12px; }
dt { float: left; clear: left; width: 9rem; font-weight: 600; }
dd { margin-left: 9.5rem; }
.failed, .known, .untrusted { color: #a40000; } .conflict { color: #8a5a00; }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #161616; } th, td { border-color: #444; }
.failed, .known, .untrusted { color: #ff8a80; } .conflict { color: #ffd180; } }
"""


def csv_report(results: Iterable[Result]) -> Iterator[str]:
    """Yield the lines of a CSV table (RFC 4180) with a head and a row for each result.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    yield _csv_line(COLUMNS)
    for result in results:
        value = asdict(result) | {"outcome": result.outcome.value}
        yield _csv_line([_cell(value[name]) for name in COLUMNS])


def _csv_line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    text = escape(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def html_report(
    run: Run,
    results: Iterable[Result],
    known: Sequence[KnownFailure],
    actions: Mapping[CodeName, str],
    endpoints: str,
) -> Iterator[str]:
    """Yield the lines of a page with the facts of a run, a row for each result with both full digests, and more failures.

    ``known`` are the known failures of the sync that the run did not check, or that are acknowledged.
    """
    word = "audit" if run.audit is not None else "plan" if run.plan else "run"
    title = f"{word} {run.id} of {run.sync}"
    yield f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>'
    yield f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n</head>\n<body>'
    yield f"<h1>{_text(title)}</h1>\n<dl>"
    facts = {
        "Sync": endpoints,
        "Scope": "everything" if run.scope.groups is None else ", ".join(run.scope.groups),
        "Cause": TRIGGERS[run.trigger],
        "Status": run.status.value,
        "Started": _time(run.started),
        "Ended": _time(run.ended),
        "Items": counts_text(run.counts),
        "Configuration": run.config or "unknown",
        "Written by": f"Syncline {__version__}",
    }
    if run.audit is not None:
        equal = run.over and run.audit.is_equal(run.counts)
        facts |= {"Read": audit_text(run.audit), "Verdict": "equal" if equal else "not equal"}
    for name, value in facts.items():
        yield f"<dt>{name}</dt><dd>{_text(value)}</dd>"
    yield "</dl>"
    yield from _table(_HEADS, ((result, result.outcome.value) for result in results))
    if known:
        yield "<h2>Known failures that this run did not check, or that are acknowledged</h2>"
        yield from _table(_KNOWN_HEADS, ((each, "" if each.acknowledged else "known") for each in known))
    if actions:
        yield "<h2>What to do</h2>\n<dl>"
        for code, action in actions.items():
            yield f"<dt>{_text(code)}</dt><dd>{_text(action)}</dd>"
        yield "</dl>"
    if run.audit is None:
        yield "<p>Items found equal are counted and not listed.</p>"
    yield "</body>\n</html>"


_HEADS: Final[Mapping[str, Callable[[Result], str]]] = {
    "Outcome": lambda result: OUTCOMES[result.outcome][0],
    "Item": lambda result: _text(f"{result.group}:{result.name}"),
    "Source": lambda result: f"<code>{_text(result.source or '')}</code>",
    "Target": lambda result: f"<code>{_text(result.target or '')}</code>",
    "Bytes": lambda result: f"{result.moved_bytes}",
    "Lag in seconds": lambda result: "" if result.lag is None else f"{result.lag}",
    "Reason": lambda result: _text(": ".join(filter(None, (result.code, result.reason)))),
}


_KNOWN_HEADS: Final[Mapping[str, Callable[[KnownFailure], str]]] = {
    "Item": lambda failure: _text(f"{failure.group}:{failure.name}"),
    "Source": lambda failure: f"<code>{_text(failure.source or '')}</code>",
    "Reason": lambda failure: _text(": ".join(filter(None, (failure.code, failure.reason)))),
    "First failed in run": lambda failure: _text(failure.run),
    "Acknowledged": lambda failure: "yes" if failure.acknowledged else "no",
}


def _table(heads: Mapping[str, Callable[[_Row], str]], rows: Iterable[tuple[_Row, str]]) -> Iterator[str]:
    """Yield the lines of a table with a row of a class for each value."""
    yield "<table>\n<thead><tr>" + "".join(f"<th>{each}</th>" for each in heads) + "</tr></thead>\n<tbody>"
    for row, name in rows:
        cells = "".join(f"<td>{show(row)}</td>" for show in heads.values())
        yield f'<tr class="{name}">{cells}</tr>'
    yield "</tbody>\n</table>"


def _text(value: str) -> str:
    return html.escape(escape(value))


def _time(moment: float | None) -> str:
    return "not yet" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
