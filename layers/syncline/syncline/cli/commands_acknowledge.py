"""``syncline acknowledge``: known failures that no longer give exit code 1, for as long as they stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from syncline.cli.commands_run import config_of, kind_of
from syncline.cli.context import Answer, Context
from syncline.cli.show import Cell, Row, many
from syncline.cli.summary import as_called, item_of
from syncline.errors import SynclineError
from syncline.store.failures import KnownFailure

_AMBIGUOUS = 3
"""Items that a message names where one of several may be meant."""


def acknowledge(context: Context, name: str, items: Sequence[str], *, undo: bool) -> Answer:
    """Acknowledge known failures of a sync, or take that back; without items list them.

    Raises NO_SUCH_SYNC, and USAGE for an item that is no known failure.
    """
    state, out = context.target.state, context.out
    config_of(state, name)
    failures = sorted(state.failures.all(name), key=lambda each: each.key)
    if not items:
        if not failures:
            out.line(f"{name} has no known failures")
        out.table([known_row(each) for each in as_called(kind_of(state, name), failures)])
        return Answer({"known": [known_dict(each) for each in failures]})
    chosen = [_chosen(failures, item, name) for item in items]
    for failure in chosen:
        if not state.failures.acknowledge(name, failure, acknowledged=not undo):
            what = f"{item_of(*failure.key)} has changed just now; `{context.command(f'acknowledge {name}')}` shows it"
            raise SynclineError("USAGE", what)
        out.line(f"{item_of(*failure.key)}: {failure.code} {'no longer acknowledged' if undo else 'acknowledged'}")
    if not undo:
        they = "it counts" if len(chosen) == 1 else "each counts"
        out.line(f"{many(len(chosen), 'failure')}: {they} again when its code or its source changes", "dim")
    return Answer({"known": [known_dict(replace(each, acknowledged=not undo)) for each in chosen]})


def known_row(failure: KnownFailure) -> Row:
    """Return the row of a table that shows a known failure."""
    word = "acknowledged" if failure.acknowledged else ""
    return (item_of(*failure.key), Cell(failure.code, "dim" if failure.acknowledged else "red"), Cell(word, "dim"))


def known_dict(failure: KnownFailure) -> dict[str, Any]:
    """Return a known failure for JSON."""
    shown = ("group", "name", "code", "source", "reason", "run", "acknowledged")
    return {name: value for name, value in asdict(failure).items() if name in shown}


def _chosen(failures: Sequence[KnownFailure], item: str, sync: str) -> KnownFailure:
    """Return the failure that is meant: by group and name as a report shows them, or by a name that only one has."""
    exact = [each for each in failures if item in (item_of(*each.key), ":".join(each.key))]
    found = exact or [each for each in failures if item == each.name]
    if not found:
        what = f"{item} is not a known failure of {sync}; `syncline acknowledge {sync}` lists them"
        raise SynclineError("USAGE", what)
    if len(found) > 1:
        names = " or ".join(item_of(*each.key) for each in found[:_AMBIGUOUS])
        raise SynclineError("USAGE", f"{item} may be {names}; write it in full")
    return found[0]
