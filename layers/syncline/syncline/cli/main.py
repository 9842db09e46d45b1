"""The command ``syncline``: declarations of its subcommands and options.

Each subcommand is implemented in a separate module, imported when it runs, so that ``--help`` is fast.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from syncline import __version__
from syncline.cli import error_output
from syncline.cli.command import NAME, command
from syncline.cli.context import CommandResult, Context
from syncline.cli.output import write
from syncline.kinds.table import KINDS

_ONLY: Final = typer.Option(
    "--only",
    metavar="PART",
    help=f"Scan only {', '.join(f'{kind.part} ({kind.name})' for kind in KINDS.values() if kind.part)}; repeatable.",
    show_default=False,
)
_ALLOW_REMOVALS: Final = typer.Option(
    "--allow-removals",
    metavar="N",
    min=0,
    help="Allow up to N removals in this run, regardless of the sync's limits.",
    show_default=False,
)


_COLLECT_AFTER: Final = 50_000
"""Objects after which garbage is collected: the default collects some hundred times while modules are imported."""
_FORMER: Final = {"test": "doctor", "--health-check": "doctor", "check": "doctor"}
"""Words that the replaced services and earlier versions have for a command."""


def _flag(name: str, text: str) -> Any:
    """Return an option without a value, with its help."""
    return typer.Option(name, help=text, show_default=False)


class Commands(TyperGroup):
    """All commands. Usage errors are printed like other errors; commands of one kind are imported on first use."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._kinds = {name: kind.name for kind in KINDS.values() for name in kind.commands}
        self.commands.update(dict.fromkeys(self._kinds, TyperCommand(None)))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self._kinds:
            return super().get_command(ctx, cmd_name)
        return get_group(import_module(f"syncline.kinds.{self._kinds[cmd_name]}.cli.main").app).commands[cmd_name]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_FORMER.get(args[0], args[0]), *args[1:]] if args else args)

    def main(self, *args: Any, **extra: Any) -> Any:
        error_output.replace_unencodable()
        with error_output.exit_on_usage_error(as_json="--json" in (extra.get("args") or sys.argv)):
            code = super().main(*args, **extra | {"standalone_mode": False})
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="syncline",
    cls=Commands,
    help="Sync container images, files, backups, artifacts and tokens between systems, and verify every copy.",
    epilog="Exit codes: 0 success, 1 some items failed, conflict or are untrusted, 2 usage or configuration error, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_WAIT: Final = _flag("--wait", "Wait for the run to end, showing progress, and exit with its result.")


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    *,
    version: Annotated[bool, _flag("--version", "Show the version and exit.")] = False,
) -> None:
    if version:
        write(f"syncline {__version__}")
        raise typer.Exit
    error_output.require_command(context)


@command(app, "up", "up --port 0  # on any free port")
def up(
    context: Context,
    *,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on (0 picks a free one). Defaults to the previous port.", min=0, max=65535),
    ] = None,
    foreground: Annotated[
        bool, _flag("--foreground", "Stay in the foreground: print the engine's log, and stop the engine at SIGTERM.")
    ] = False,
) -> CommandResult:
    """Start the engine on this machine."""
    from syncline.cli import commands_engine  # noqa: PLC0415

    return commands_engine.up(context, port, foreground=foreground)


@command(app, "down")
def down(context: Context) -> CommandResult:
    """Stop the engine on this machine and keep its state."""
    from syncline.cli import commands_engine  # noqa: PLC0415

    return commands_engine.down(context)


@command(
    app,
    "apply",
    "apply syncs.yaml --dry-run  # show what would change",
    "apply --prune  # also remove syncs that are not in the file",
)
def apply(  # noqa: PLR0913 - each is an option
    context: Context,
    file: Annotated[Path, typer.Argument(help="File with the syncs.", metavar="FILE")] = Path("syncs.yaml"),
    *,
    prune: Annotated[bool, _flag("--prune", "Remove syncs that are not in the file.")] = False,
    dry_run: Annotated[bool, _flag("--dry-run", "Show what would change, without changing anything.")] = False,
    yes: Annotated[bool, _flag("--yes", "Remove syncs without asking.")] = False,
    offline: Annotated[bool, _flag("--offline", "Do not check that sources and targets can be reached.")] = False,
) -> CommandResult:
    """Check syncs.yaml and apply it."""
    from syncline.cli import commands_apply  # noqa: PLC0415

    options = commands_apply.ApplyOptions(prune=prune, dry_run=dry_run, yes=yes, offline=offline)
    return commands_apply.apply(context, file, options)


@command(app, "init images", "init files backup.yaml", "init images syncs.yaml --example quay-to-dr")
def init(
    context: Context,
    kind: Annotated[str, typer.Argument(help=f"Kind of the sync: {', '.join(KINDS)}.", metavar="KIND")],
    file: Annotated[Path, typer.Argument(help="New file.", metavar="FILE")] = Path("syncs.yaml"),
    *,
    example: Annotated[str | None, typer.Option("--example", help="Name of another example.", metavar="NAME")] = None,
) -> CommandResult:
    """Write a commented syncs.yaml to start from."""
    from syncline.cli import commands_template  # noqa: PLC0415

    return commands_template.init(context, kind, file, example)


@command(app, "validate", "validate staging.yaml")
def validate(
    context: Context,
    file: Annotated[Path, typer.Argument(help="File with the syncs.", metavar="FILE")] = Path("syncs.yaml"),
) -> CommandResult:
    """Check syncs.yaml without an engine."""
    from syncline.cli import commands_apply  # noqa: PLC0415

    return commands_apply.validate(context, file)


@command(app, "delete prod")
def delete(
    context: Context,
    name: Annotated[str, NAME],
    *,
    yes: Annotated[bool, _flag("--yes", "Delete without asking.")] = False,
) -> CommandResult:
    """Delete a sync and its schedule; copied items stay at the target."""
    from syncline.cli import commands_apply  # noqa: PLC0415

    return commands_apply.delete(context, name, yes=yes)


@command(app, "pause prod")
def pause(context: Context, name: Annotated[str, NAME]) -> CommandResult:
    """Pause a sync: its schedule, webhook and events start no runs."""
    from syncline.cli import commands_run  # noqa: PLC0415

    return commands_run.pause(context, name)


@command(app, "resume prod")
def resume(context: Context, name: Annotated[str, NAME]) -> CommandResult:
    """Resume a paused sync, and start a run of it."""
    from syncline.cli import commands_run  # noqa: PLC0415

    return commands_run.resume(context, name)


@command(app, "plan prod", "plan prod --only team/app")
def plan(
    context: Context, name: Annotated[str, NAME], only: Annotated[list[str] | None, _ONLY] = None
) -> CommandResult:
    """Show what a run would move, without moving anything."""
    from syncline.cli import commands_run  # noqa: PLC0415

    return commands_run.plan(context, name, only)


@command(app, "drill cluster-backups", "drill cluster-backups --all")
def drill(
    context: Context,
    name: Annotated[str, NAME],
    *,
    all_items: Annotated[bool, _flag("--all", "Restore everything instead of a sample.")] = False,
    only: Annotated[list[str] | None, _ONLY] = None,
) -> CommandResult:
    """Restore a sample from the target and compare it with the source."""
    from syncline.cli import commands_drill  # noqa: PLC0415

    return commands_drill.drill(context, name, only, all_items=all_items)


@command(app, "diff prod", "diff prod --full --only team/app", "diff prod > /dev/null && echo in agreement")
def diff(
    context: Context,
    name: Annotated[str, NAME],
    *,
    only: Annotated[list[str] | None, _ONLY] = None,
    full: Annotated[bool, _flag("--full", "Show full digests and all reasons.")] = False,
) -> CommandResult:
    """Compare source and target now; exit code 1 if they differ."""
    from syncline.cli import commands_run  # noqa: PLC0415

    return commands_run.diff(context, name, only, full=full)


@command(
    app,
    "audit prod",
    "audit prod --deep --part 3/30  # read a thirtieth of all bytes",
    "audit prod --parts --repair --yes",
    "audit prod --out reports  # JSON, CSV and HTML",
    "audit --check reports/audit-prod-ID.json --key public.pem",
)
def audit(  # noqa: PLR0913 - each is an option
    context: Context,
    name: Annotated[str | None, typer.Argument(help="Name of the sync in syncs.yaml.", metavar="NAME")] = None,
    *,
    parts: Annotated[bool, _flag("--parts", "Check that the target has all parts (layers), with their sizes.")] = False,
    deep: Annotated[bool, _flag("--deep", "Read and hash every byte of the target, too.")] = False,
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            metavar="K/N",
            help="Read only share K of N with --deep; next/N is the one that is due.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[list[str] | None, _ONLY] = None,
    allow_extra: Annotated[bool, _flag("--allow-extra", "Exit with 0 although the target has extra items.")] = False,
    repair: Annotated[bool, _flag("--repair", "Then send again what is missing or damaged.")] = False,
    last: Annotated[bool, _flag("--last", "Show the latest audit instead of starting one.")] = False,
    yes: Annotated[bool, _flag("--yes", "Start without asking.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Write the report to FOLDER.", show_default=False),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="REFERENCE|FILE",
            help="Reference to the private key that signs the report; with --check, the file of the public key.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="REPORT", help="Check the signature of a report.", show_default=False),
    ] = None,
) -> CommandResult:
    """Compare a whole source with a whole target; exit code 1 unless equal."""
    from syncline.cli import commands_audit  # noqa: PLC0415

    if check is not None:
        return commands_audit.check(context, check, key)
    options = commands_audit.AuditOptions(only, parts, deep, part, allow_extra, repair, last, yes, out, key)
    return commands_audit.audit(context, name, options)


@command(app, "run prod --wait  # follow it, and exit with its result", "run prod --only team/app", "run --all")
def run(  # noqa: PLR0913 - each is an option
    context: Context,
    name: Annotated[str | None, typer.Argument(help="Name of the sync in syncs.yaml.", metavar="NAME")] = None,
    *,
    every: Annotated[bool, _flag("--all", "Start a run of each enabled sync.")] = False,
    wait: Annotated[bool, _WAIT] = False,
    only: Annotated[list[str] | None, _ONLY] = None,
    allow_removals: Annotated[int | None, _ALLOW_REMOVALS] = None,
) -> CommandResult:
    """Start a run of a sync, or of all."""
    from syncline.cli import commands_run  # noqa: PLC0415

    if every:
        return commands_run.run_all(context, name, only, wait=wait, allow_removals=allow_removals)
    return commands_run.run(context, name, only, wait=wait, allow_removals=allow_removals)


@command(app, "status", "status prod", "status --watch")
def status(
    context: Context,
    name: Annotated[str | None, typer.Argument(help="Name of a sync. Defaults to all syncs.", metavar="NAME")] = None,
    *,
    wait: Annotated[bool, _flag("--wait", "Follow the run in progress and exit with its result.")] = False,
    watch: Annotated[bool, _flag("--watch", "Show the state again every two seconds, until Ctrl-C.")] = False,
) -> CommandResult:
    """Show the state of the syncs and their runs."""
    from syncline.cli import commands_status  # noqa: PLC0415

    return commands_status.watch(context, name) if watch else commands_status.status(context, name, wait=wait)


@command(app, "console", "console --stack syncline --port 8080 --no-browser")
def console(
    context: Context,
    *,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port of 127.0.0.1 for a page with signed requests. Defaults to a free one.", min=0, max=65535
        ),
    ] = None,
    no_browser: Annotated[bool, _flag("--no-browser", "Do not open a browser.")] = False,
) -> CommandResult:
    """Open the status page; sign its requests if the stack asks for it."""
    from syncline.cli import commands_console  # noqa: PLC0415

    return commands_console.console(context, port, no_browser=no_browser)


@command(app, "doctor", "doctor prod", "doctor --json")
def doctor(
    context: Context,
    name: Annotated[str | None, typer.Argument(help="Name of a sync. Defaults to all syncs.", metavar="NAME")] = None,
) -> CommandResult:
    """Check all that the syncs need, without changing anything."""
    from syncline.cli import commands_doctor  # noqa: PLC0415

    return commands_doctor.doctor(context, name)


@command(app, "report prod", "report --full --json", "report prod --format html > report.html")
def report(
    context: Context,
    what: Annotated[
        str | None,
        typer.Argument(
            help="A sync (its latest run) or a run ID. Defaults to the latest run of all syncs.", metavar="NAME|RUN"
        ),
    ] = None,
    *,
    full: Annotated[bool, _flag("--full", "Show full digests and all reasons.")] = False,
    form: Annotated[
        str, typer.Option("--format", help="HTML is one file for an auditor.", metavar="text|csv|html")
    ] = "text",
) -> CommandResult:
    """Show each item of a run, and what to do about failures."""
    from syncline.cli import commands_report  # noqa: PLC0415

    return commands_report.report(context, what, full=full, form=form)


@command(app, "history prod", "history prod --limit 100")
def history(
    context: Context,
    name: Annotated[str, NAME],
    *,
    limit: Annotated[int, typer.Option("--limit", help="Largest number of runs.", metavar="N", min=1, max=1000)] = 20,
) -> CommandResult:
    """List the runs of a sync, newest first."""
    from syncline.cli import commands_status  # noqa: PLC0415

    return commands_status.history(context, name, limit)


@command(app, "logs prod --since 30m", "logs prod --follow")
def logs(
    context: Context,
    name: Annotated[str, NAME],
    *,
    since: Annotated[
        str, typer.Option("--since", help="Age of the oldest line, such as 30m or 2d.", metavar="AGE")
    ] = "1h",
    follow: Annotated[bool, _flag("--follow", "Print new lines as they come, until Ctrl-C.")] = False,
) -> CommandResult:
    """Print the log lines of a sync."""
    from syncline.cli import commands_logs  # noqa: PLC0415

    return commands_logs.logs(context, name, since=since, follow=follow)


@command(app, "explain TAG_DIFFERS")
def explain(
    context: Context,
    code: Annotated[str, typer.Argument(help="Code of an error, as in a report.", metavar="CODE")],
) -> CommandResult:
    """Explain the code of an error, and what to do."""
    from syncline.cli import commands_report  # noqa: PLC0415

    return commands_report.explain(context, code)


@command(app, "retry prod --wait", "retry prod --drop team/app:1.0")
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
            help="Delete the dead letter of ITEM (* for all) instead of retrying; repeatable.",
            show_default=False,
        ),
    ] = None,
) -> CommandResult:
    """Retry failed items of a sync."""
    from syncline.cli import commands_retry  # noqa: PLC0415

    return commands_retry.retry(context, name, wait=wait, drop=drop or [])


@command(app, "acknowledge prod  # list the known failures", "acknowledge prod team/app:1.0")
def acknowledge(
    context: Context,
    name: Annotated[str, NAME],
    items: Annotated[
        list[str] | None,
        typer.Argument(help="Items as shown in a report. Without items, list the known failures.", metavar="ITEM"),
    ] = None,
    *,
    undo: Annotated[bool, _flag("--undo", "Count them as failures again.")] = False,
) -> CommandResult:
    """Acknowledge known failures until they change."""
    from syncline.cli import commands_report  # noqa: PLC0415

    return commands_report.acknowledge(context, name, items or [], undo=undo)


@command(app, "cancel prod")
def cancel(
    context: Context,
    name: Annotated[str, NAME],
    *,
    wait: Annotated[bool, typer.Option("--wait", hidden=True)] = True,  # noqa: ARG001 - it always waits
) -> CommandResult:
    """Cancel the run of a sync; takes ten seconds at most."""
    from syncline.cli import commands_retry  # noqa: PLC0415

    return commands_retry.cancel(context, name)


@command(app, "secret set syncline/quay-prod#password < password.txt")
def secret(
    context: Context,
    action: Annotated[str, typer.Argument(help="The action.", metavar="set")],
    name: Annotated[
        str, typer.Argument(help="NAME or NAME#KEY of a secret, or ssm:/PATH of a parameter.", metavar="SECRET")
    ],
) -> CommandResult:
    """Store a secret for the functions."""
    from syncline.cli import commands_secret  # noqa: PLC0415

    return commands_secret.secret(context, action, name)


@command(app, "notify test prod")
def notify(
    context: Context,
    action: Annotated[str, typer.Argument(help="The action.", metavar="test")],
    name: Annotated[str, NAME],
) -> CommandResult:
    """Send a test notification to each channel of a sync."""
    from syncline.cli import commands_notify  # noqa: PLC0415

    return commands_notify.notify(context, action, name)


@command(app, "template deployment")
def template(
    context: Context,
    folder: Annotated[
        Path, typer.Argument(help="New or empty folder to write to.", metavar="FOLDER", show_default=True)
    ] = Path("syncline"),
    *,
    overwrite: Annotated[bool, _flag("--overwrite", "Replace an earlier copy, except its samconfig.toml.")] = False,
) -> CommandResult:
    """Write the template and its parts to a folder, ready for sam."""
    from syncline.cli import commands_template  # noqa: PLC0415

    return commands_template.template(context, folder, overwrite=overwrite)


@command(app, "completion bash > ~/.local/share/bash-completion/completions/syncline")
def completion(
    context: Context,
    shell: Annotated[str, typer.Argument(help="The shell.", metavar="bash|zsh|fish")],
) -> CommandResult:
    """Print a script that completes commands, options and names in a shell."""
    from syncline.cli import commands_completion  # noqa: PLC0415

    return commands_completion.completion(context, shell, get_group(app))


@command(app, "man | man -l -", "man > ~/.local/share/man/man1/syncline.1")
def man(context: Context) -> CommandResult:
    """Print the manual page."""
    from syncline.cli import man_page  # noqa: PLC0415

    return man_page.man(context, get_group(app))


def _hide_slow_modules() -> None:
    """Keep botocore from importing two modules that the engine on this machine does not need, for 70 ms.

    awscrt is for logins and signatures of AWS alone; without pyOpenSSL, urllib3 uses the module ssl.
    """
    if os.environ.get("SYNCLINE_STACK") or any(each.startswith("--stack") for each in sys.argv):
        return
    for name in ("awscrt", "urllib3.contrib.pyopenssl"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # an import of None raises ImportError


def main() -> None:
    """Run the command: the entry point of the package."""
    gc.set_threshold(_COLLECT_AFTER)
    _hide_slow_modules()
    try:
        app()
    finally:
        gc.freeze()  # the collections at the interpreter's exit would take a fifth of a short command's time


if __name__ == "__main__":
    main()
