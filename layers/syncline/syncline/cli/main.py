"""The command ``syncline``: its commands, their options, and how every one of them ends.

What a command does is in a module of its own, imported when it runs: ``--help`` waits for nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from syncline import __version__
from syncline.cli import endings
from syncline.cli.command import NAME, command
from syncline.cli.context import Answer, Context
from syncline.cli.show import write
from syncline.kinds.table import KINDS

_ONLY: Final = typer.Option(
    "--only",
    metavar="PART",
    help=f"Scan only {', '.join(f'{kind.part} ({kind.name})' for kind in KINDS.values() if kind.part)}; "
    "may be given several times.",
    show_default=False,
)
_ALLOW_REMOVALS: Final = typer.Option(
    "--allow-removals",
    metavar="N",
    min=0,
    help="Allow up to N removals in this run, whatever the sync's limits.",
    show_default=False,
)
_WAIT: Final = typer.Option("--wait", help="Wait for the end, with progress, and exit by it.", show_default=False)


class Commands(TyperGroup):
    """All commands; wrong use ends like every other error. Those of one kind are imported on first use."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._kinds = {name: kind.name for kind in KINDS.values() for name in kind.commands}
        self.commands.update(dict.fromkeys(self._kinds, TyperCommand(None)))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self._kinds:
            return super().get_command(ctx, cmd_name)
        return get_group(import_module(f"syncline.kinds.{self._kinds[cmd_name]}.cli.main").app).commands[cmd_name]

    def main(self, *args: Any, **extra: Any) -> Any:
        endings.prepare()
        with endings.usage_told(as_json="--json" in (extra.get("args") or sys.argv)):
            code = super().main(*args, **extra | {"standalone_mode": False})
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="syncline",
    cls=Commands,
    help="Sync container images, files, backups, artifacts and tokens between systems, and verify every copy.",
    epilog="Exit codes: 0 all well, 1 some items failed or conflict, 2 wrong use or configuration, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        write(f"syncline {__version__}")
        raise typer.Exit
    endings.ask_for_command(context)


@command(app)
def up(
    context: Context,
    *,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on (0 picks a free one). Defaults to the previous port.", min=0, max=65535),
    ] = None,
) -> Answer:
    """Start the engine on this machine."""
    from syncline.cli import commands_engine  # noqa: PLC0415

    return commands_engine.up(context, port)


@command(app)
def down(context: Context) -> Answer:
    """Stop that engine; its state is kept."""
    from syncline.cli import commands_engine  # noqa: PLC0415

    return commands_engine.down(context)


@command(app)
def apply(  # noqa: PLR0913 - each is an option
    context: Context,
    file: Annotated[Path, typer.Argument(help="The file with the syncs.", metavar="FILE")] = Path("syncs.yaml"),
    *,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the syncs that are not in the file.", show_default=False)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change; change nothing.", show_default=False)
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.", show_default=False)] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask sources and targets whether they answer.", show_default=False)
    ] = False,
) -> Answer:
    """Check syncs.yaml and make the syncs what it says."""
    from syncline.cli import commands_apply  # noqa: PLC0415

    order = commands_apply.Order(prune=prune, dry_run=dry_run, yes=yes, offline=offline)
    return commands_apply.apply(context, file, order)


@command(app)
def plan(context: Context, name: Annotated[str, NAME], only: Annotated[list[str] | None, _ONLY] = None) -> Answer:
    """Show what a run would move; move nothing."""
    from syncline.cli import commands_run  # noqa: PLC0415

    return commands_run.plan(context, name, only)


@command(app)
def run(
    context: Context,
    name: Annotated[str, NAME],
    *,
    wait: Annotated[bool, _WAIT] = False,
    only: Annotated[list[str] | None, _ONLY] = None,
    allow_removals: Annotated[int | None, _ALLOW_REMOVALS] = None,
) -> Answer:
    """Start a run of a sync."""
    from syncline.cli import commands_run  # noqa: PLC0415

    return commands_run.run(context, name, only, wait=wait, allow_removals=allow_removals)


@command(app)
def status(
    context: Context,
    name: Annotated[str | None, typer.Argument(help="One sync; all when absent.", metavar="NAME")] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run under way to its end, and exit by it.")] = False,
) -> Answer:
    """Show where the syncs and their runs stand."""
    from syncline.cli import commands_status  # noqa: PLC0415

    return commands_status.status(context, name, wait=wait)


@command(app)
def report(
    context: Context,
    what: Annotated[
        str | None,
        typer.Argument(
            help="A sync (its latest run) or a run; the latest run of all when absent.", metavar="[NAME|RUN]"
        ),
    ] = None,
    *,
    full: Annotated[bool, typer.Option("--full", help="Show digests in full.")] = False,
) -> Answer:
    """Show each item of a run, and what to do."""
    from syncline.cli import commands_report  # noqa: PLC0415

    return commands_report.report(context, what, full=full)


@command(app)
def retry(
    context: Context,
    name: Annotated[str, NAME],
    *,
    wait: Annotated[bool, _WAIT] = False,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            metavar="ITEM",
            help="Delete the dead letter of this item (* for all) and retry nothing; may be given several times.",
            show_default=False,
        ),
    ] = None,
) -> Answer:
    """Try again what was given up."""
    from syncline.cli import commands_retry  # noqa: PLC0415

    return commands_retry.retry(context, name, wait=wait, drop=drop or [])


@command(app)
def acknowledge(
    context: Context,
    name: Annotated[str, NAME],
    items: Annotated[
        list[str] | None,
        typer.Argument(
            help="Items as a report names them; the known failures are listed when absent.", metavar="[ITEM]..."
        ),
    ] = None,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Count them as failures again.", show_default=False)] = False,
) -> Answer:
    """Accept known failures until they change."""
    from syncline.cli import commands_acknowledge  # noqa: PLC0415

    return commands_acknowledge.acknowledge(context, name, items or [], undo=undo)


@command(app)
def cancel(
    context: Context,
    name: Annotated[str, NAME],
    *,
    wait: Annotated[bool, typer.Option("--wait", hidden=True)] = True,  # noqa: ARG001 - as it does in any case
) -> Answer:
    """End the run of a sync within ten seconds."""
    from syncline.cli import commands_retry  # noqa: PLC0415

    return commands_retry.cancel(context, name)


@command(app)
def secret(
    context: Context,
    action: Annotated[str, typer.Argument(help="set.", metavar="ACTION")],
    name: Annotated[str, typer.Argument(help="NAME or NAME#KEY of a secret, or ssm:/PATH of a parameter.")],
) -> Answer:
    """Store a secret where the functions look for it."""
    from syncline.cli import commands_secret  # noqa: PLC0415

    return commands_secret.secret(context, action, name)


@command(app)
def template(
    context: Context,
    folder: Annotated[
        Path, typer.Argument(help="The folder to write to, new or empty.", metavar="[FOLDER]", show_default=True)
    ] = Path("syncline"),
    *,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an earlier copy, all but its samconfig.toml.", show_default=False),
    ] = False,
) -> Answer:
    """Write the template and all it needs to a folder for sam."""
    from syncline.cli import commands_template  # noqa: PLC0415

    return commands_template.template(context, folder, overwrite=overwrite)


def main() -> None:
    """The entry point of the package's script."""
    app()


if __name__ == "__main__":
    main()
