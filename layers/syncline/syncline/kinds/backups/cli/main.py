"""The commands of `syncline` for backups."""

from __future__ import annotations

from typing import Annotated

import typer

from syncline.cli.command import NAME, command, new_app
from syncline.cli.context import CommandResult, Context

app = new_app()


@command(
    app,
    "restore cluster-backups production-east/default --to restored",
    "restore cluster-backups production-east --to restored --at 9c0ffee",
)
def restore(  # noqa: PLR0913 - each is an option
    context: Context,
    name: Annotated[str, NAME],
    part: Annotated[str, typer.Argument(help="A cluster, or CLUSTER/NAMESPACE.", metavar="PART")],
    *,
    to: Annotated[str, typer.Option("--to", help="A folder, or s3://BUCKET/PREFIX at the service of the source.")],
    at: Annotated[
        str | None,
        typer.Option("--at", help="Commit to restore from, by its ID or first digits. Defaults to the latest."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite files that differ, without asking.", show_default=False)
    ] = False,
    unsigned: Annotated[
        bool,
        typer.Option(
            "--unsigned", help="Restore a commit without a valid signature of the sync's keys.", show_default=False
        ),
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="REFERENCE", help="Reference to the key of encrypted files, if the sync no longer has it."
        ),
    ] = None,
) -> CommandResult:
    """Restore backups from git to a folder or bucket."""
    from syncline.kinds.backups.cli import restore as implementation  # noqa: PLC0415

    return implementation.restore(
        context, name, part.strip("/"), to, at=at, key=key, overwrite=overwrite, unsigned=unsigned
    )
