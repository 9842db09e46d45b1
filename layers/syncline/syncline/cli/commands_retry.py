"""``syncline retry`` and ``syncline cancel``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from syncline.cli.commands_run import config_of, kind_of, show_ending
from syncline.cli.context import CommandResult, Context
from syncline.cli.run_progress import follow_run
from syncline.cli.summary import ending_line, run_dict
from syncline.errors import SynclineError
from syncline.model import Run, RunStatus
from syncline.operations import (
    SortedLetters,
    delete_verified,
    letters_by_sync,
    read_letters,
    request_report,
    retry_letters,
    sort_letters,
)
from syncline.run_text import item_text, scope_text
from syncline.text import number, plural

if TYPE_CHECKING:
    from syncline.config.sync import Sync

_NAMED: Final = 5
"""Items named in a message."""
_ALL: Final = "*"
"""Selects all dead letters of a sync."""


def retry(context: Context, name: str, *, wait: bool, drop: Sequence[str] = ()) -> CommandResult:
    """Start a run over the items with dead letters, or delete the letters named by ``drop``.

    A letter is deleted once its item is verified: by this command, by ``retry --wait`` after its run, and by ``status``.
    Raises ALREADY_RUNNING, unless work was put back for the run in progress.
    """
    state, queues = context.deployment.state, context.deployment.queues
    from syncline.config.sync import load_sync  # noqa: PLC0415 - `status` imports this module

    try:
        sync = load_sync(config_of(state, name))
    except SynclineError as error:
        if error.code.name == "NO_SUCH_SYNC" and letters_by_sync(queues).get(name):
            return _drop(context, name, drop) if drop else _list(context, name)
        raise
    if drop:
        return _drop(context, name, drop)
    letters, run = retry_letters(context.deployment, sync)
    return _report(context, sync, letters, run, wait=wait)


def _list(context: Context, name: str) -> CommandResult:
    """List the dead letters of a sync that is not applied."""
    out, queues = context.out, context.deployment.queues
    letters = read_letters(queues)
    try:
        found = sort_letters(context.deployment.state, name, letters)
    finally:
        for letter in letters:
            queues.release_letter(letter)
    items = sorted({item_text(*key) for each in (*found.verified, *found.given_up, *found.beyond) for key in each.keys})
    out.line(f"{name} is not applied, so its items cannot be retried; it has dead letters of:", "yellow")
    out.table([(item,) for item in items], indent=2)
    out.hint(context.command(f"retry {name} --drop '*'"), "to delete them")
    return CommandResult({"started": False, "run": None, "letters": {"items": items}})


def _drop(context: Context, name: str, items: Sequence[str]) -> CommandResult:
    """Delete the dead letters of the named items (``*``: all); raises USAGE for an item without one."""
    deployment, out = context.deployment, context.out
    letters = sort_letters(deployment.state, name, read_letters(deployment.queues))
    present = [*letters.verified, *letters.given_up, *letters.beyond]
    if kind_of(deployment.state, name).groups_hidden:
        present = [replace(each, keys=tuple((item, item) for _, item in each.keys)) for each in present]
    wanted = set(items) - {_ALL}
    chosen = [each for each in present if _ALL in items or not wanted.isdisjoint(each.names)]
    missing = sorted(wanted.difference(*(each.names for each in chosen)))
    kept = present if missing else [each for each in present if each not in chosen]
    try:
        if not missing:
            for each in chosen:
                deployment.queues.delete_letter(each.letter)
    finally:
        for letter in (*letters.others, *(each.letter for each in kept), *(letter for letter, _ in letters.stranded)):
            deployment.queues.release_letter(letter)
    if missing:
        names = ", ".join(sorted({item_text(*key) for each in present for key in each.keys})[:_NAMED])
        what = f"{name} has no dead letter of {missing[0]}; it has dead letters of: {names or 'none'}"
        raise SynclineError("USAGE", what)
    out.line(f"{plural(len(chosen), 'dead letter')} of {name} dropped")
    return CommandResult({"started": False, "run": None, "letters": {"dropped": len(chosen)}})


def _report(context: Context, sync: Sync, letters: SortedLetters, run: Run | None, *, wait: bool) -> CommandResult:
    """Report the handling of the letters; with ``wait`` follow the run to its end."""
    out, name, retried = context.out, sync.name, letters.given_up if run is not None else []
    counts: dict[str, Any] = {"retried": len(retried), "resumed": len(letters.stranded)}
    counts |= {"left": len(letters.kept) - len(retried), "verified": len(letters.verified)}
    _report_letters(context, name, letters, run)
    followed = run or (context.deployment.state.current_run(name) if letters.stranded else None)
    if followed is None:
        return CommandResult({"started": False, "run": None, "letters": counts})
    if not wait:
        out.hint(context.command(f"status {name} --wait"), "to follow it")
        return CommandResult({"started": run is not None, "run": run_dict(followed), "letters": counts})
    answer = show_ending(context, follow_run(context, followed), started=run is not None)
    gone = delete_verified(context.deployment, name)
    counts["verified"] += gone
    if run is not None:
        stay = max(0, len(retried) - gone)
        out.line(f"{plural(gone, 'dead letter')} deleted" + (f", {number(stay)} kept" if stay else ""), "dim")
    return CommandResult({**answer.value, "letters": counts}, answer.code)


def _report_letters(context: Context, name: str, letters: SortedLetters, run: Run | None) -> None:
    out = context.out
    if letters.verified:
        out.line(f"{plural(len(letters.verified), 'dead letter')} of {name} deleted: their items are verified")
    if letters.stranded:
        out.line(f"{plural(len(letters.stranded), 'message')} put back into its queue; the run in progress continues")
    count = plural(len(letters.given_up), "dead letter")
    if run is not None:
        out.line(f"run {run.id} of {name} started over {scope_text(letters.scope)} for {count}")
        out.line("each dead letter stays until its item is verified", "dim")
    elif letters.given_up:
        out.line(f"{count} of {name} kept until that run ends", "yellow")
    elif not letters.stranded and not letters.verified:
        out.line(f"{name} has no dead letters to retry")
        out.hint(context.command(f"run {name} --wait"), "to scan everything")
    if letters.beyond:
        more, command = plural(len(letters.beyond), "dead letter"), context.command(f"retry {name}")
        out.line(f"{more} of {name} kept, more than one run can cover; run `{command}` again", "yellow")
    if letters.others:
        out.line(f"{plural(len(letters.others), 'dead letter')} of other syncs kept", "dim")


def cancel(context: Context, name: str) -> CommandResult:
    """Cancel the run in progress and wait until it has ended, ten seconds at most.

    The sync may have been removed meanwhile.
    """
    state, out = context.deployment.state, context.out
    current = state.current_run(name)
    if current is None or current.over:
        config_of(state, name)
        out.line(f"no run of {name} is in progress")
        return CommandResult({"cancelled": False, "run": None})
    run = state.cancel_run(name, current.id)
    if not run.over:
        run = follow_run(context, run)
    if run.status is RunStatus.LOST:
        request_report(context.deployment, run)
        out.line(f"run {run.id} of {name} was lost and has been ended; the sync can run again", "yellow")
    else:
        out.line(*ending_line(run))
    return CommandResult({"cancelled": True, "run": run_dict(run)})
