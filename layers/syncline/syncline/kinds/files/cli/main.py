"""The commands of `syncline` for files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncline.cli.command import NAME, command, new_app
from syncline.cli.context import CommandResult, Context

app = new_app()


@command(app, "state export customer-files files.csv", "state diff customer-files files.csv  # with the current state")
def state(  # noqa: PLR0913 - each is an argument of the command
    context: Context,
    action: Annotated[str, typer.Argument(help="The action.", metavar="export|diff|import")],
    name: Annotated[str, NAME],
    file: Annotated[
        Path | None,
        typer.Argument(help="The CSV file: to write, to compare with, or to import.", metavar="FILE"),
    ] = None,
    newer: Annotated[
        Path | None,
        typer.Argument(help="For diff: the newer CSV file. Defaults to the current state.", metavar="NEWER"),
    ] = None,
    *,
    reports: Annotated[bool, typer.Option("--reports", help="Write to the sync's bucket for reports.")] = False,
) -> CommandResult:
    """Export, compare or import the state of a sync's files."""
    from syncline.kinds.files.cli import state as command_state  # noqa: PLC0415

    return command_state.state(context, action, name, file, newer, reports=reports)
