"""The commands of `syncline` for backups."""

from __future__ import annotations

from typing import Annotated

import typer

from syncline.cli.command import NAME, command, new_app
from syncline.cli.context import Answer, Context

app = new_app()


@command(app)
def restore(  # noqa: PLR0913 - each is an option
    context: Context,
    name: Annotated[str, NAME],
    part: Annotated[str, typer.Argument(help="A cluster, or CLUSTER/NAMESPACE.", metavar="PART")],
    *,
    to: Annotated[str, typer.Option("--to", help="A folder, or s3://BUCKET/PREFIX where the backups come from.")],
    at: Annotated[
        str | None,
        typer.Option("--at", help="As of this commit, by its ID or first digits; the latest when absent."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite files that differ, without asking.", show_default=False)
    ] = False,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="REFERENCE", help="The key of encrypted files, if the sync no longer has it."),
    ] = None,
) -> Answer:
    """Write backups from git back to a folder or bucket."""
    from syncline.kinds.backups.cli import restore as command_restore  # noqa: PLC0415

    order = command_restore.Order(part.strip("/"), to, at, key, overwrite=overwrite)
    return command_restore.restore(context, name, order)
