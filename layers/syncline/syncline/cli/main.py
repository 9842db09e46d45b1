"""The command ``syncline``: its commands, their options, and how every one of them ends.

What a command does is in a module of its own, imported when it runs: ``--help`` waits for nothing.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from syncline import __version__
from syncline.cli import endings
from syncline.cli.artifacts.commands import artifacts
from syncline.cli.context import Answer, Context
from syncline.cli.show import Out, write

_NAME: Final = typer.Argument(metavar="NAME", help="The sync, as syncs.yaml names it.", show_default=False)
_ONLY: Final = typer.Option(
    "--only",
    metavar="REPOSITORY",
    help="Scan only this repository, named as at the source; may be given several times.",
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
    """All commands; wrong use ends like every other error."""

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


def _shared(
    *,
    stack: Annotated[
        str | None,
        typer.Option(
            envvar="SYNCLINE_STACK",
            metavar="NAME",
            help="A stack on AWS, with boto3's usual configuration; without it the engine on this machine.",
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="SYNCLINE_HOME",
            metavar="FOLDER",
            help="Folder with the state of the engine on this machine. Defaults to .syncline in the checkout, or "
            "~/.local/share/syncline outside of one.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> Context:
    """What the options mean that every command takes."""
    return Context(stack or None, home, Out(as_json=as_json))


def command(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Make a command of a function whose first parameter is the :class:`Context`, with the shared options added."""
    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    shared = inspect.signature(_shared, eval_str=True).parameters

    def invoke(**given: Any) -> None:
        context = _shared(**{name: given.pop(name) for name in shared})
        with endings.told(context):
            answer = function(context, **given)
            context.out.value(dict(answer.value))
        raise typer.Exit(answer.code)

    invoke.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
    invoke.__annotations__ = {each.name: each.annotation for each in (*own, *shared.values())}
    app.command(function.__name__, help=function.__doc__)(invoke)
    return function


@command
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


@command
def down(context: Context) -> Answer:
    """Stop that engine; its state is kept."""
    from syncline.cli import commands_engine  # noqa: PLC0415

    return commands_engine.down(context)


@command
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


@command
def plan(context: Context, name: Annotated[str, _NAME], only: Annotated[list[str] | None, _ONLY] = None) -> Answer:
    """Show what a run would move; move nothing."""
    from syncline.cli import commands_run  # noqa: PLC0415

    return commands_run.plan(context, name, only)


@command
def run(
    context: Context,
    name: Annotated[str, _NAME],
    *,
    wait: Annotated[bool, _WAIT] = False,
    only: Annotated[list[str] | None, _ONLY] = None,
    allow_removals: Annotated[int | None, _ALLOW_REMOVALS] = None,
) -> Answer:
    """Start a run of a sync."""
    from syncline.cli import commands_run  # noqa: PLC0415

    return commands_run.run(context, name, only, wait=wait, allow_removals=allow_removals)


@command
def status(
    context: Context,
    name: Annotated[str | None, typer.Argument(help="One sync; all when absent.", metavar="NAME")] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run under way to its end, and exit by it.")] = False,
) -> Answer:
    """Show where the syncs and their runs stand."""
    from syncline.cli import commands_status  # noqa: PLC0415

    return commands_status.status(context, name, wait=wait)


@command
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


@command
def retry(
    context: Context,
    name: Annotated[str, _NAME],
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


@command
def acknowledge(
    context: Context,
    name: Annotated[str, _NAME],
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


@command
def restore(  # noqa: PLR0913 - each is an option
    context: Context,
    name: Annotated[str, _NAME],
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
    from syncline.cli import commands_restore  # noqa: PLC0415

    order = commands_restore.Order(part.strip("/"), to, at, key, overwrite=overwrite)
    return commands_restore.restore(context, name, order)


@command
def cancel(
    context: Context,
    name: Annotated[str, _NAME],
    *,
    wait: Annotated[bool, typer.Option("--wait", hidden=True)] = True,  # noqa: ARG001 - as it does in any case
) -> Answer:
    """End the run of a sync within ten seconds."""
    from syncline.cli import commands_retry  # noqa: PLC0415

    return commands_retry.cancel(context, name)


@command
def check(context: Context, name: Annotated[str, _NAME]) -> Answer:
    """Ask whether all that a sync of files needs answers."""
    from syncline.cli import commands_check  # noqa: PLC0415

    return commands_check.check(context, name)


@command
def state(  # noqa: PLR0913 - each is an argument of the command
    context: Context,
    action: Annotated[str, typer.Argument(help="export, diff or import.", metavar="ACTION")],
    name: Annotated[str, _NAME],
    file: Annotated[
        Path | None, typer.Argument(help="The sheet (CSV): to write, the older one, or to read.", metavar="[FILE]")
    ] = None,
    newer: Annotated[
        Path | None,
        typer.Argument(help="For diff: the newer sheet; the state as it is when absent.", metavar="[NEWER]"),
    ] = None,
    *,
    reports: Annotated[bool, typer.Option("--reports", help="Write to the sync's bucket for reports.")] = False,
) -> Answer:
    """Export, compare or import the state of a sync's files."""
    from syncline.cli import commands_state  # noqa: PLC0415

    return commands_state.state(context, action, name, file, newer, reports=reports)


@command
def secret(
    context: Context,
    action: Annotated[str, typer.Argument(help="set.", metavar="ACTION")],
    name: Annotated[str, typer.Argument(help="NAME or NAME#KEY of a secret, or ssm:/PATH of a parameter.")],
) -> Answer:
    """Store a secret where the functions look for it."""
    from syncline.cli import commands_secret  # noqa: PLC0415

    return commands_secret.secret(context, action, name)


@command
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


app.add_typer(artifacts)


def main() -> None:
    """The entry point of the package's script."""
    app()


if __name__ == "__main__":
    main()
