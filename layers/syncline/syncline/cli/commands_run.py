"""``syncline run``, ``syncline plan`` and ``syncline diff``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from syncline.cli.context import ALL_WELL, SOME_FAILED, CommandResult, Context
from syncline.cli.run_progress import follow_run, interruptible
from syncline.cli.summary import ending_line, exit_code, item_lines, item_name, run_dict
from syncline.errors import SynclineError
from syncline.kinds.table import KindInfo, kind_info
from syncline.model import EVERYTHING, Outcome, Result, Run, RunStatus, Scope, Trigger
from syncline.operations import start_run
from syncline.run_text import counts_text, report_order, scope_text, with_display_groups
from syncline.store.state import LOST_AFTER, State
from syncline.text import duration, number, plural, relative_time, rough_duration, size

_SHOWN: Final = 5
"""Failed items named at the end of a run; the report names all."""
_DIFFERENT: Final = frozenset(
    {Outcome.WOULD_MOVE, Outcome.WOULD_REMOVE, Outcome.CONFLICT, Outcome.UNTRUSTED, Outcome.FAILED, Outcome.KNOWN}
)
"""Outcomes of a plan that are differences; items left out and extra ones are not, as for being in sync."""


def run_all(
    context: Context, name: str | None, only: Sequence[str] | None, *, wait: bool, allow_removals: int | None
) -> CommandResult:
    """Start a run of each enabled sync that has runs, unless one is in progress; with ``wait`` follow one after another.

    The exit code is the worst of all. Raises USAGE with a name or an option that belongs to one sync.
    """
    if name is not None or only or allow_removals is not None:
        what = "--all starts complete runs of all syncs; leave out the name, --only and --allow-removals"
        raise SynclineError("USAGE", what)
    state = context.deployment.state
    configs = [json.loads(state.sync_config(each)) for each in state.sync_names()]
    names = [each["name"] for each in configs if each.get("enabled", True) and kind_info(each["kind"]).has_runs]
    if not names:
        raise SynclineError("USAGE", "no enabled sync has runs; apply one with `syncline apply`")
    started = [run(context, each, None, wait=False) for each in names]
    if not wait:
        return CommandResult({"runs": [each.value for each in started]})
    followed = [state.run(each.value["run"]["sync"], each.value["run"]["id"]) for each in started]
    ended = [show_ending(context, follow_run(context, each), started=True) for each in followed]
    return CommandResult({"runs": [each.value for each in ended]}, max(each.code for each in ended))


def run(
    context: Context, name: str | None, only: Sequence[str] | None, *, wait: bool, allow_removals: int | None = None
) -> CommandResult:
    """Start a run, unless one is in progress.

    With ``wait`` or ``allow_removals`` a run in progress is an error, ALREADY_RUNNING: exit code 0 means that the run
    started here succeeded, or that the removals are allowed.
    """
    if name is None:
        raise SynclineError("USAGE", "Missing argument 'NAME'; name a sync, or start runs of all with --all")
    state = context.deployment.state
    scope = scope_of(state, name, only)
    if allow_removals is not None:
        _check_removals(config_of(state, name))
    try:
        begun = start_run(context.deployment, name, Trigger.MANUAL, scope, allow_removals=allow_removals)
    except SynclineError as error:
        current = state.current_run(name)
        if error.code.name != "ALREADY_RUNNING" or wait or allow_removals is not None or current is None:
            raise
        return _already_running(context, current)
    allowed = "" if allow_removals is None else f", with up to {plural(allow_removals, 'removal')} allowed"
    with interruptible(state, begun):
        only_text = "" if scope.everything else f", only {scope_text(scope)}"
        context.out.line(f"run {begun.id} of {name} started{only_text}{allowed}")
    if wait:
        return show_ending(context, follow_run(context, begun), started=True)
    context.out.hint(context.command(f"status {name} --wait"), "to follow it")
    return CommandResult({"started": True, "run": run_dict(begun)})


def pause(context: Context, name: str) -> CommandResult:
    """Pause a sync; raises NO_SUCH_SYNC. A run in progress continues."""
    state, out = context.deployment.state, context.out
    config_with_runs(state, name)
    state.pause(name)
    out.line(f"{name} is paused: its schedule, webhook and events start no runs", "yellow")
    current = state.current_run(name)
    if current is not None:
        out.line(f"run {current.id} is in progress and continues; `{context.command(f'cancel {name}')}` cancels it")
    out.hint(context.command(f"resume {name}"), "to resume it")
    return CommandResult({"name": name, "paused": state.health(name).paused})


def resume(context: Context, name: str) -> CommandResult:
    """Resume a paused sync, and start a run for the changes since; raises NO_SUCH_SYNC."""
    state = context.deployment.state
    config = config_with_runs(state, name)
    if not state.resume(name):
        context.out.line(f"{name} was not paused")
        return CommandResult({"name": name, "resumed": False})
    context.out.line(f"{name} is resumed", "green")
    if not json.loads(config).get("enabled", True):
        context.out.line(
            f"{name} has `enabled: false` in syncs.yaml, so nothing but `syncline run` starts it", "yellow"
        )
        return CommandResult({"name": name, "resumed": True})
    return CommandResult({"name": name, "resumed": True, **run(context, name, None, wait=False).value})


def _check_removals(config: str) -> None:
    """Raise USAGE if a sync never removes anything, so that it has no limits."""
    from syncline.config.sync import load_sync  # noqa: PLC0415 - models take long to import

    sync = load_sync(config)
    if "removals" not in type(sync).model_fields:
        what = f"{sync.name} is a sync of {sync.kind}, which never removes anything; leave out --allow-removals"
        raise SynclineError("USAGE", what)
    if getattr(sync, "removals", None) is None:
        what = f"{sync.name} has no `removals` in syncs.yaml, so it removes nothing; set them, then `syncline apply`"
        raise SynclineError("USAGE", what)


def _already_running(context: Context, current: Run) -> CommandResult:
    running = f"run {current.id}, started {relative_time(current.started, context.now())}"
    context.out.line(f"{current.sync} is already running: {running}; no new run was started", "yellow")
    context.out.hint(context.command(f"status {current.sync} --wait"), "to follow it")
    return CommandResult({"started": False, "run": run_dict(current)})


def show_ending(context: Context, run: Run, *, started: bool) -> CommandResult:
    """Show the result of a run that was followed, and its failed items."""
    out = context.out
    value: dict[str, Any] = {"started": started, "run": run_dict(run)}
    if not run.over:
        silence = f"no progress from run {run.id} for {rough_duration(LOST_AFTER)}"
        out.line(f"✗ {run.sync}: {silence}; it is probably lost", "red")
        out.hint(context.command(f"cancel {run.sync}"), "to end it")
        return CommandResult(value, SOME_FAILED)
    out.line(*ending_line(run))
    if exit_code(run):
        state = context.deployment.state
        failed = [
            each
            for each in state.results(run.id)
            if each.outcome in (Outcome.FAILED, Outcome.CONFLICT, Outcome.UNTRUSTED)
        ]
        bad = sorted(with_display_groups(kind_of(state, run.sync), failed), key=report_order)
        for result in bad[:_SHOWN]:
            out.line(f"  {item_name(result)}: {result.code}: {result.reason}")
        if len(bad) > _SHOWN:
            out.line(f"  and {plural(len(bad) - _SHOWN, 'other')}")
        if run.counts.known:
            out.line("  known failures were reported in full when they first failed and are unchanged since", "dim")
        out.hint(context.command(f"report {run.id}"), "to see each item and what to do about it")
    elif run.counts.moved:
        out.hint(context.command(f"report {run.id}"), "to see each item with its digests")
    return CommandResult(value, exit_code(run))


def plan(context: Context, name: str, only: Sequence[str] | None) -> CommandResult:
    """Scan like a run and show what it would move. Allowed while a run is in progress, as it moves nothing."""
    out = context.out
    over, results = _planned(context, name, only)
    _show_planned(context, name, results)
    out.line(*ending_line(over))
    known = sum(result.moved_bytes for result in results)
    if known:
        # From the listings: includes layers that the target already has.
        out.line(f"at most {size(known)} would be sent")
    if over.counts.would_move or over.counts.would_remove:
        out.hint(context.command(f"run {name} --wait"), "to do this")
    return CommandResult({"run": run_dict(over), "items": [result.as_dict() for result in results]}, exit_code(over))


def diff(context: Context, name: str, only: Sequence[str] | None, *, full: bool) -> CommandResult:
    """Compare source and target now, and show what differs.

    The exit code is 1 if anything differs, as that of the program of this name. The functions compare, as for a plan:
    they have the credentials and the network that a run has, which this machine may lack. An item that could not be
    compared counts as different. Raises RUN_CANCELLED or NO_PROGRESS if the comparison did not end.
    """
    over, results = _planned(context, name, only)
    if over.status is not RunStatus.DONE:
        cancelled = over.status is RunStatus.CANCELLED
        how = "was cancelled" if cancelled else "made no progress"
        raise SynclineError(
            "RUN_CANCELLED" if cancelled else "NO_PROGRESS", f"the comparison of {name} ({over.id}) {how}"
        )
    different = any(result.outcome in _DIFFERENT for result in results)
    _show_planned(context, name, results, full=full)
    counts = replace(over.counts, known=sum(each.outcome is Outcome.KNOWN for each in results), acknowledged=0)
    took = duration((over.ended or over.started) - over.started)
    word = "differs" if different else "no differences"
    mark = "✗" if different else "✓"
    context.out.line(f"{mark} {name}: {word}: {counts_text(counts)}, in {took}", "yellow" if different else "green")
    if over.counts.would_move or over.counts.would_remove:
        context.out.hint(context.command(f"run {name} --wait"), "to make the target agree")
    value = {"different": different, "run": run_dict(over), "items": [each.as_dict() for each in results]}
    return CommandResult(value, SOME_FAILED if different else ALL_WELL)


def _planned(context: Context, name: str, only: Sequence[str] | None) -> tuple[Run, list[Result]]:
    """Plan a run of a sync to its end, and return it with its results in the order of a report."""
    state = context.deployment.state
    scope = scope_of(state, name, only)
    over = follow_run(context, start_run(context.deployment, name, Trigger.MANUAL, scope, plan=True))
    return over, sorted(state.results(over.id), key=report_order)


def _show_planned(context: Context, name: str, results: Sequence[Result], *, full: bool = False) -> None:
    shown = with_display_groups(kind_of(context.deployment.state, name), results)
    context.out.table(item_lines(shown, full=full, plan=True))


def scope_of(state: State, name: str, only: Sequence[str] | None) -> Scope:
    """Return the scope that ``--only`` names; raises NO_SUCH_SYNC, or USAGE for an invalid part or a sync without runs."""
    config = config_with_runs(state, name)
    if not only:
        return EVERYTHING
    from syncline.config.sync import load_sync  # noqa: PLC0415 - models take long to import

    scope = Scope.of(load_sync(config).groups_of(only))
    if not scope.fits:
        what = f"--only names {number(len(only))} parts, more than one scan can cover; name fewer, or leave --only out to scan everything"
        raise SynclineError("USAGE", what)
    return scope


def kind_of(state: State, name: str) -> KindInfo:
    """Return the kind of a sync, an empty description if the sync is not applied."""
    try:
        return kind_info(json.loads(state.sync_config(name))["kind"])
    except SynclineError as error:
        if error.code.name != "NO_SUCH_SYNC":
            raise
        return kind_info("")


def config_with_runs(state: State, name: str) -> str:
    """Return a sync's configuration (JSON); raises NO_SUCH_SYNC, or USAGE if the sync has no runs."""
    config = config_of(state, name)
    kind = kind_info(json.loads(config)["kind"])
    if not kind.has_runs:
        what = f"{name} is a sync of {kind.name}, which has no runs; `syncline status {name}` shows its instances"
        raise SynclineError("USAGE", what)
    return config


def config_of(state: State, name: str) -> str:
    """Return a sync's configuration (JSON); raises NO_SUCH_SYNC with a suggestion."""
    try:
        return state.sync_config(name)
    except SynclineError as error:
        if error.code.name != "NO_SUCH_SYNC":
            raise
        names = state.sync_names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"existing syncs: {', '.join(names)}" if names else "no sync has been applied"
        hint = f"did you mean {near[0]}?" if near else hint
        raise SynclineError("NO_SUCH_SYNC", f"{error.what}; {hint}") from None
