"""``syncline run`` and ``syncline plan``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, Final

from syncline.cli.context import SOME_FAILED, Answer, Context
from syncline.cli.following import begin, follow, interruptible
from syncline.cli.show import about, ago, many, number, size
from syncline.cli.summary import FOLD, as_called, as_dict, ending, exit_code, item_lines, item_name, named, rank
from syncline.errors import SynclineError
from syncline.kinds.table import KindInfo, kind_info
from syncline.model import EVERYTHING, Outcome, Result, Run, Scope, Trigger
from syncline.store.state import LOST_AFTER, State

_SHOWN: Final = 5
"""How many items that did not go well are named at the end of a run; the report names all."""


def run(
    context: Context, name: str, only: Sequence[str] | None, *, wait: bool, allow_removals: int | None = None
) -> Answer:
    """Begin a run. Where one is under way, say so and do nothing.

    With ``wait`` or ``allow_removals`` that is an error, ALREADY_RUNNING: exit code 0 promises that the scan begun by
    this command ended well, or that the removals are allowed. Otherwise all is well, as the sync is at work.
    """
    state = context.target.state
    scope = chosen(state, name, only)
    if allow_removals is not None:
        _check_removals(config_of(state, name))
    try:
        begun = begin(context.target, name, Trigger.MANUAL, scope, allow_removals=allow_removals)
    except SynclineError as error:
        current = state.current_run(name)
        if error.code.name != "ALREADY_RUNNING" or wait or allow_removals is not None or current is None:
            raise
        return _already(context, current)
    allowed = "" if allow_removals is None else f", with up to {many(allow_removals, 'removal')} allowed"
    with interruptible(state, begun):
        context.out.line(f"run {begun.id} of {name} begun{_of(scope)}{allowed}")
    if wait:
        return ended(context, follow(context, begun), started=True)
    context.out.follow_up(context.command(f"status {name} --wait"), "follows it")
    return Answer({"started": True, "run": as_dict(begun)})


def _check_removals(config: str) -> None:
    """Raise USAGE if a sync never removes anything, so that there are no limits to lift."""
    from syncline.config.sync import load_sync  # noqa: PLC0415 - models take long to import

    sync = load_sync(config)
    if "removals" not in type(sync).model_fields:
        what = f"{sync.name} is a sync of {sync.kind}, which never removes anything; leave out --allow-removals"
        raise SynclineError("USAGE", what)
    if getattr(sync, "removals", None) is None:
        what = f"{sync.name} has no `removals` in syncs.yaml, so it removes nothing; set them, then `syncline apply`"
        raise SynclineError("USAGE", what)


def _already(context: Context, current: Run) -> Answer:
    since = ago(current.started, context.now())
    context.out.line(
        f"{current.sync} is running already: run {current.id}, begun {since}; nothing was started", "yellow"
    )
    context.out.follow_up(context.command(f"status {current.sync} --wait"), "follows it")
    return Answer({"started": False, "run": as_dict(current)})


def _of(scope: Scope) -> str:
    return "" if scope.groups is None else f", only {named(scope)}"


def ended(context: Context, run: Run, *, started: bool) -> Answer:
    """Show how a run that was followed ended, and what in it did not go well."""
    out = context.out
    value: dict[str, Any] = {"started": started, "run": as_dict(run)}
    if not run.over:
        out.line(f"✗ {run.sync}: nothing was heard of run {run.id} for {about(LOST_AFTER)}; it is probably lost", "red")
        out.follow_up(context.command(f"cancel {run.sync}"), "gives it up")
        return Answer(value, SOME_FAILED)
    out.line(*ending(run))
    if exit_code(run):
        state = context.target.state
        bad = sorted(as_called(kind_of(state, run.sync), _bad(state, run)), key=rank)
        for result in bad[:_SHOWN]:
            out.line(f"  {item_name(result)}: {result.code}: {result.reason}")
        if len(bad) > _SHOWN:
            out.line(f"  and {many(len(bad) - _SHOWN, 'other')}")
        if run.counts.known:
            out.line("  known failures were reported in full when they first failed and are unchanged since", "dim")
        out.follow_up(context.command(f"report {run.id}"), "shows each item and what to do about it")
    elif run.counts.moved:
        out.follow_up(context.command(f"report {run.id}"), "shows each item with its digests")
    return Answer(value, exit_code(run))


def _bad(state: State, run: Run) -> list[Result]:
    return [result for result in state.results(run.id) if result.outcome in (Outcome.FAILED, Outcome.CONFLICT)]


def plan(context: Context, name: str, only: Sequence[str] | None) -> Answer:
    """Look as a run does, and show what it would move. Moves nothing, so it may go on beside a run."""
    state, out = context.target.state, context.out
    scope = chosen(state, name, only)
    over = follow(context, begin(context.target, name, Trigger.MANUAL, scope, plan=True))
    results = sorted(state.results(over.id), key=rank)
    out.table(item_lines(as_called(kind_of(state, name), results), plan=True), fold=FOLD)
    out.line(*ending(over))
    known = sum(result.moved_bytes for result in results)
    if known:
        # The listings' sizes: layers that the target has already are counted too.
        out.line(f"at most {size(known)} would be sent")
    if over.counts.would_move or over.counts.would_remove:
        out.follow_up(context.command(f"run {name} --wait"), "does this")
    return Answer({"run": as_dict(over), "items": [result.as_dict() for result in results]}, exit_code(over))


def chosen(state: State, name: str, only: Sequence[str] | None) -> Scope:
    """Return the part of a sync that is meant; raises NO_SUCH_SYNC, or USAGE for a part or a sync that cannot be run."""
    config = config_with_runs(state, name)
    if not only:
        return EVERYTHING
    from syncline.config.sync import load_sync  # noqa: PLC0415 - models take long to import

    scope = Scope.of(load_sync(config).groups_of(only))
    if not scope.fits:
        what = f"--only names {number(len(only))} at once, which is more than one scan takes; name fewer, or all by leaving it out"
        raise SynclineError("USAGE", what)
    return scope


def kind_of(state: State, name: str) -> KindInfo:
    """Return the kind of a sync; one without particulars if the sync is not applied (any more)."""
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
    """A sync's configuration (JSON); raises NO_SUCH_SYNC with the name that was probably meant."""
    try:
        return state.sync_config(name)
    except SynclineError as error:
        if error.code.name != "NO_SUCH_SYNC":
            raise
        names = state.sync_names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"there are: {', '.join(names)}" if names else "no sync has been applied"
        hint = f"did you mean {near[0]}?" if near else hint
        raise SynclineError("NO_SUCH_SYNC", f"{error.what}; {hint}") from None
