"""``syncline report`` and ``syncline acknowledge``: the items of a run, and known failures."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from syncline.cli.commands_run import config_of, config_with_runs, kind_of
from syncline.cli.context import CommandResult, Context
from syncline.cli.output import Cell, Row
from syncline.cli.report_files import csv_report, html_report
from syncline.cli.summary import OUTPUT_VERSION, ending_line, exit_code, item_lines, run_dict
from syncline.errors import CODES, CodeName, SynclineError, code_of
from syncline.model import Outcome, Result, Run
from syncline.run_text import (
    TRIGGERS,
    counts_text,
    item_text,
    report_order,
    scope_text,
    source_and_target,
    with_display_groups,
)
from syncline.store.failures import KnownFailure
from syncline.store.runs import is_run_id
from syncline.store.state import State
from syncline.text import number, plural, relative_time, size

FORMS: Final = ("text", "csv", "html")
_FEW: Final = 20
"""Latest runs to search first for one that is not a plan; also the number of known failures that a report shows."""
_MANY: Final = 1000
_AMBIGUOUS: Final = 3
"""Items that a message names if a name is ambiguous."""


def report(context: Context, what: str | None, *, full: bool, form: str = "text") -> CommandResult:
    """Show the items of a run, failures first; raises NO_SUCH_RUN or NO_SUCH_SYNC, and USAGE for an unknown form."""
    if form not in FORMS:
        raise SynclineError("USAGE", f"there is no format {form!r}; use {', '.join(FORMS)}, or --json")
    state, out = context.deployment.state, context.out
    run = _find_run(state, what)
    if not run.over:
        run = replace(run, counts=state.progress(run.id).counts)
    results = sorted(state.results(run.id), key=report_order)
    kind = kind_of(state, run.sync)
    codes = sorted({result.code for result in results if result.code})
    actions = {code: code_of(code).advice(kind.name) for code in codes}
    others = _other_failures(state, run, results)
    if form == "csv":
        out.lines(csv_report([*results, *_unmet(results, others)]))
    elif form == "html":
        advice = actions | {each.code: code_of(each.code).advice(kind.name) for each in others}
        out.lines(html_report(run, results, others, advice, _endpoints(state, run.sync)))
    elif not out.as_json:
        _show(context, run, results, others, actions, full=full)
    items = [each.as_dict() | {"action": actions.get(each.code) if each.code else None} for each in results]
    known = [failure_dict(each) for each in others]
    value = {"version": OUTPUT_VERSION, "run": run_dict(run), "items": items, "known": known, "actions": actions}
    return CommandResult(value, exit_code(run))


def _endpoints(state: State, name: str) -> str:
    """Return the source and target of a sync as text, or its name if it is not applied."""
    try:
        return f"{name}: {source_and_target(json.loads(state.sync_config(name)))}"
    except SynclineError:
        return name


def explain(context: Context, name: str) -> CommandResult:
    """Show the meaning of a code, and what to do. Raises USAGE with the nearest code for an unknown one."""
    code = next((row for row in CODES.values() if row.name == name.upper()), None)
    if code is None:
        near = difflib.get_close_matches(name.upper(), CODES, n=1)
        hint = f"did you mean {near[0]}?" if near else "`syncline report` shows the codes of a run"
        raise SynclineError("USAGE", f"there is no code {name!r}; {hint}")
    out = context.out
    out.line(f"{code.name}: {code.meaning}", "bold")
    out.line("It is retried automatically." if code.retried else "It is not retried automatically.")
    out.line(f"→ {code.advice()}", "dim")
    for kind, advice in code.by_kind.items():
        out.line(f"→ {kind}: {advice}", "dim")
    value = {"code": code.name, "retried": code.retried, "meaning": code.meaning, "action": code.advice()}
    return CommandResult(value | {"by_kind": dict(code.by_kind)})


def _other_failures(state: State, run: Run, results: Sequence[Result]) -> list[KnownFailure]:
    """Return the known failures of the sync that the run did not check, or that are acknowledged."""
    if not (run.counts.known or run.counts.acknowledged):
        return []
    checked = {(result.group, result.name) for result in results}
    others = [each for each in state.failures.all(run.sync) if each.acknowledged or each.key not in checked]
    return sorted(others, key=lambda each: each.key)


def _unmet(results: Sequence[Result], others: Sequence[KnownFailure]) -> list[Result]:
    """Return the known failures without a result in the run, as results."""
    met = {(result.group, result.name) for result in results}
    known = (each for each in others if each.key not in met)
    return [
        Result(each.group, each.name, Outcome.KNOWN, each.source, None, 0, each.code, each.reason) for each in known
    ]


def _show(  # noqa: PLR0913 - each is a part of the report
    context: Context,
    run: Run,
    results: Sequence[Result],
    others: Sequence[KnownFailure],
    actions: dict[CodeName, str],
    *,
    full: bool,
) -> None:
    out = context.out
    word = "audit" if run.audit is not None else "plan" if run.plan else "run"
    out.line(
        f"{word} {run.id} of {run.sync}, {TRIGGERS[run.trigger]}, started {relative_time(run.started, context.now())}",
        "bold",
    )
    if run.scope.groups is not None:
        out.line(f"only {scope_text(run.scope)}")
    kind = kind_of(context.deployment.state, run.sync)
    out.table(item_lines(with_display_groups(kind, results), full=full, plan=run.plan and run.audit is None))
    if others:
        out.line(f"known failures of {run.sync} that this run did not check, or that are acknowledged:")
        out.table([failure_row(each) for each in with_display_groups(kind, others[:_FEW])], indent=2)
        if len(others) > _FEW:
            out.line(f"  and {plural(len(others) - _FEW, 'other')}; `syncline acknowledge {run.sync}` lists all")
    counts = Counter(result.code for result in results if result.code)
    for code, action in actions.items():
        out.line(f"{code} ({number(counts[code])}): {code_of(code).meaning}")
        out.line(f"→ {action}", "dim")
    if run.over:
        out.line(*ending_line(run))
    else:
        out.line(f"in progress: {counts_text(run.counts)} so far", "cyan")
    sent = f"{size(run.counts.bytes)} sent, " if run.counts.bytes else ""
    out.line(f"{sent}{plural(run.counts.requests, 'request')} to source and target", "dim")
    if run.counts.failed or run.counts.known:
        out.hint(context.command(f"retry {run.sync}"), "to retry failed items")


def _find_run(state: State, what: str | None) -> Run:
    """Return a run by its ID, or the latest run of a sync or of all syncs."""
    if what is None:
        latest = [run for name in state.sync_names() if (run := latest_run(state, name)) is not None]
        if not latest:
            raise SynclineError("NO_SUCH_RUN", "no sync has run yet; start a run with `syncline run NAME`")
        return max(latest, key=lambda run: run.started)
    if is_run_id(what):
        return _run_by_id(state, what)
    config_with_runs(state, what)
    run = latest_run(state, what)
    if run is None:
        raise SynclineError("NO_SUCH_RUN", f"{what} has not run yet; start a run with `syncline run {what}`")
    return run


def _run_by_id(state: State, run_id: str) -> Run:
    for name in state.sync_names():
        try:
            return state.run(name, run_id)
        except SynclineError as error:
            if error.code.name != "NO_SUCH_RUN":
                raise
    raise SynclineError("NO_SUCH_RUN", f"no sync has a run {run_id}")


def latest_run(state: State, name: str) -> Run | None:
    """Return the latest run of a sync that was not a plan, None if there is none."""
    for limit in (_FEW, _MANY):
        runs = state.runs(name, limit)
        found = next((run for run in runs if not run.plan), None)
        if found is not None or len(runs) < limit:
            return found
    return None


def acknowledge(context: Context, name: str, items: Sequence[str], *, undo: bool) -> CommandResult:
    """Acknowledge known failures of a sync or, with ``undo``, revoke that; without items list them.

    Raises NO_SUCH_SYNC, and USAGE for an item that is not a known failure.
    """
    state, out = context.deployment.state, context.out
    config_of(state, name)
    failures = sorted(state.failures.all(name), key=lambda each: each.key)
    if not items:
        if not failures:
            out.line(f"{name} has no known failures")
        out.table([failure_row(each) for each in with_display_groups(kind_of(state, name), failures)])
        return CommandResult({"known": [failure_dict(each) for each in failures]})
    chosen = [_matching_failure(failures, item, name) for item in items]
    for failure in chosen:
        if not state.failures.acknowledge(name, failure, acknowledged=not undo):
            what = f"{item_text(*failure.key)} changed in the meantime; list the known failures with `{context.command(f'acknowledge {name}')}`"
            raise SynclineError("USAGE", what)
        out.line(f"{item_text(*failure.key)}: {failure.code} {'no longer acknowledged' if undo else 'acknowledged'}")
    if not undo:
        out.line(f"{plural(len(chosen), 'failure')} acknowledged until its code or source changes", "dim")
    return CommandResult({"known": [failure_dict(replace(each, acknowledged=not undo)) for each in chosen]})


def failure_row(failure: KnownFailure) -> Row:
    """Return a known failure as a row of a table."""
    word = "acknowledged" if failure.acknowledged else ""
    return (item_text(*failure.key), Cell(failure.code, "dim" if failure.acknowledged else "red"), Cell(word, "dim"))


FAILURE_KEYS: Final = ("group", "name", "code", "source", "reason", "run", "acknowledged")


def failure_dict(failure: KnownFailure) -> dict[str, Any]:
    """Return a known failure for JSON."""
    return {name: getattr(failure, name) for name in FAILURE_KEYS}


def _matching_failure(failures: Sequence[KnownFailure], item: str, sync: str) -> KnownFailure:
    """Return the failure with a group and name as in a report, or with a unique name; raises USAGE."""
    exact = [each for each in failures if item in (item_text(*each.key), ":".join(each.key))]
    found = exact or [each for each in failures if item == each.name]
    if not found:
        what = f"{item} is not a known failure of {sync}; `syncline acknowledge {sync}` lists them"
        raise SynclineError("USAGE", what)
    if len(found) > 1:
        names = " or ".join(item_text(*each.key) for each in found[:_AMBIGUOUS])
        raise SynclineError("USAGE", f"{item} is ambiguous: {names}; write the full name")
    return found[0]
