"""``syncline report``: what a run did, item by item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from syncline.cli.commands_acknowledge import known_dict, known_row
from syncline.cli.commands_run import config_with_runs, kind_of
from syncline.cli.context import Answer, Context
from syncline.cli.show import ago, many, number, size
from syncline.cli.summary import FOLD, TRIGGERS, as_called, as_dict, counted, ending, exit_code, item_lines, named, rank
from syncline.errors import CodeName, SynclineError, code_of
from syncline.model import Result, Run
from syncline.store.failures import KnownFailure
from syncline.store.runs import is_run_id
from syncline.store.state import State

_FEW: Final = 20
"""Runs among which the latest one that was no plan is looked for first, and known failures that a report shows."""
_MANY: Final = 1000


def report(context: Context, what: str | None, *, full: bool) -> Answer:
    """Show a run's items, those that need somebody first; raises NO_SUCH_RUN or NO_SUCH_SYNC."""
    state, out = context.target.state, context.out
    run = _found(state, what)
    if not run.over:
        run = _so_far(state, run)
    results = sorted(state.results(run.id), key=rank)
    kind = kind_of(state, run.sync)
    actions = {
        code: code_of(code).advice(kind.name) for code in sorted({result.code for result in results if result.code})
    }
    others = _others(state, run, results)
    if not out.as_json:
        _show(context, run, results, others, actions, full=full)
    items = [_as_dict(result, actions) for result in results] if out.as_json else []
    known = [known_dict(each) for each in others]
    return Answer({"run": as_dict(run), "items": items, "known": known, "actions": actions}, exit_code(run))


def _others(state: State, run: Run, results: Sequence[Result]) -> list[KnownFailure]:
    """Return the known failures of the run's sync that the run has not met, or that are acknowledged."""
    if not (run.counts.known or run.counts.acknowledged):
        return []
    met = {(result.group, result.name) for result in results}
    others = [each for each in state.failures.all(run.sync) if each.acknowledged or each.key not in met]
    return sorted(others, key=lambda each: each.key)


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
    word = "plan" if run.plan else "run"
    out.line(f"{word} {run.id} of {run.sync}, {TRIGGERS[run.trigger]}, begun {ago(run.started, context.now())}", "bold")
    if run.scope.groups is not None:
        out.line(f"only {named(run.scope)}")
    kind = kind_of(context.target.state, run.sync)
    out.table(item_lines(as_called(kind, results), full=full, plan=run.plan), fold=FOLD)
    if others:
        out.line(f"known failures of {run.sync} that this run has not met, or that are acknowledged:")
        out.table([known_row(each) for each in as_called(kind, others[:_FEW])], indent=2)
        if len(others) > _FEW:
            out.line(f"  and {many(len(others) - _FEW, 'other')}; `syncline acknowledge {run.sync}` lists all")
    counts = Counter(result.code for result in results if result.code)
    for code, action in actions.items():
        out.line(f"{code} ({number(counts[code])}): {code_of(code).meaning}")
        out.line(f"→ {action}", "dim")
    if run.over:
        out.line(*ending(run))
    else:
        out.line(f"under way: {counted(run.counts)} so far", "cyan")
    sent = f"{size(run.counts.bytes)} sent, " if run.counts.bytes else ""
    out.line(f"{sent}{many(run.counts.requests, 'request')} to source and target", "dim")
    if run.counts.failed or run.counts.known:
        out.follow_up(context.command(f"retry {run.sync}"), "tries again what has failed")


def _as_dict(result: Result, actions: dict[CodeName, str]) -> dict[str, Any]:
    return result.as_dict() | {"action": actions[result.code] if result.code else None}


def _found(state: State, what: str | None) -> Run:
    """The run that is meant: by its id, or the latest of a sync or of all."""
    if what is None:
        latest = [run for name in state.sync_names() if (run := latest_run(state, name)) is not None]
        if not latest:
            raise SynclineError("NO_SUCH_RUN", "there has been no run yet; `syncline run NAME` starts one")
        return max(latest, key=lambda run: run.started)
    if is_run_id(what):
        return _by_id(state, what)
    config_with_runs(state, what)
    run = latest_run(state, what)
    if run is None:
        raise SynclineError("NO_SUCH_RUN", f"{what} has not run yet; `syncline run {what}` starts a run")
    return run


def _by_id(state: State, run_id: str) -> Run:
    for name in state.sync_names():
        try:
            return state.run(name, run_id)
        except SynclineError as error:
            if error.code.name != "NO_SUCH_RUN":
                raise
    raise SynclineError("NO_SUCH_RUN", f"no sync has a run {run_id}")


def latest_run(state: State, name: str) -> Run | None:
    """A sync's latest run that was no plan, None if there is none."""
    for limit in (_FEW, _MANY):
        runs = state.runs(name, limit)
        found = next((run for run in runs if not run.plan), None)
        if found is not None or len(runs) < limit:
            return found
    return None


def _so_far(state: State, run: Run) -> Run:
    """A run under way with its counters as they stand."""
    return replace(run, counts=state.progress(run.id).counts)
