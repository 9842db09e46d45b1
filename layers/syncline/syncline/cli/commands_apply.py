"""``syncline apply``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from syncline.cli.applied_syncs import (
    AppliedSync,
    applied_configs,
    config_changes,
    delete_sync,
    put_syncs,
    save_applied,
)
from syncline.cli.apply_checks import check_secrets, unreachable
from syncline.cli.commands_run import config_of
from syncline.cli.context import NOT_DONE, CommandResult, Context
from syncline.cli.output import Cell, Row, Style
from syncline.cli.run_progress import follow_run
from syncline.config.file import SyncsFile, read_syncs
from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.text import plural

if TYPE_CHECKING:
    from syncline.cli.deployment import Deployment

_STYLES: Final[dict[str, Style]] = {
    "added": "green",
    "changed": "yellow",
    "unchanged": "dim",
    "kept": "dim",
    "removed": "red",
}
_MASK: Final = "****"


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """The options of ``apply``; see ``syncline apply --help``."""

    prune: bool = False
    dry_run: bool = False
    yes: bool = False
    offline: bool = False


def apply(context: Context, file: Path, options: ApplyOptions) -> CommandResult:
    """Check the complete file, then write the differences. Raises CONFIG_INVALID or the error of a secret."""
    read = read_syncs(file)  # reports problems of the file without an engine
    deployment, out = context.deployment, context.out
    before = applied_configs(deployment)
    if not options.prune:
        read = read_syncs(file, _loadable(before.values()))
    _check_kinds(deployment, read.syncs.values())
    _check_paths(deployment, read.syncs.values())
    unchecked = check_secrets(deployment, read.syncs.values())
    if not options.offline:
        unchecked += unreachable(read.syncs.values(), deployment.secrets)
    for warning in (*(problem.text(file.name) for problem in read.warnings), *unchecked):
        out.line(f"warning: {warning}", "yellow")
    others = sorted(set(before) - set(read.syncs))
    warnings = [*map(asdict, read.warnings), *({"message": warning} for warning in unchecked)]
    if options.dry_run:
        return _dry_run(context, file, read, options, warnings)
    if others and options.prune and not _confirm_removals(context, file, others, options):
        return CommandResult({"file": str(file), "syncs": [], "warnings": warnings}, NOT_DONE)
    done = put_syncs(deployment, read.syncs, prune=options.prune)
    if deployment.local:
        save_applied(context.home, deployment)
    address = deployment.output("ReceiveUrl")
    _show(context, file, done, address)
    for each in done:
        if each.cancelled:
            follow_run(context, deployment.state.run(each.name, each.cancelled))
    return CommandResult({"file": str(file), "syncs": [_as_dict(each, address) for each in done], "warnings": warnings})


def validate(context: Context, file: Path) -> CommandResult:
    """Check a file on its own. Raises CONFIG_INVALID with every problem."""
    read, out = read_syncs(file), context.out
    for warning in read.warnings:
        out.line(f"warning: {warning.text(file.name)}", "yellow")
    out.line(f"{file.name} is valid: {plural(len(read.syncs), 'sync')}", "green")
    out.table([(Cell(sync.name, "bold"), sync.kind, sync.schedule or "no schedule") for sync in read.syncs.values()])
    syncs = [{"name": sync.name, "kind": sync.kind} for sync in read.syncs.values()]
    return CommandResult({"file": str(file), "syncs": syncs, "warnings": [*map(asdict, read.warnings)]})


def delete(context: Context, name: str, *, yes: bool) -> CommandResult:
    """Delete one sync; raises NO_SUCH_SYNC."""
    deployment, out = context.deployment, context.out
    config_of(deployment.state, name)
    out.line(f"{name} and its schedule will be deleted; copied items stay at the target", "yellow")
    if not yes and out.interactive and not out.confirm(f"Delete {name}?"):
        out.line("nothing was deleted")
        return CommandResult({"name": name, "deleted": False}, NOT_DONE)
    cancelled = delete_sync(deployment, name)
    if deployment.local:
        save_applied(context.home, deployment)
    if cancelled:
        out.line(f"run {cancelled} of {name} was in progress and has been cancelled", "yellow")
        follow_run(context, deployment.state.run(name, cancelled))
    out.line(f"{name} is deleted; `syncline apply` of a file that still has it adds it again", "green")
    return CommandResult({"name": name, "deleted": True, "cancelled_run": cancelled})


def _check_kinds(deployment: Deployment, syncs: Iterable[Sync]) -> None:
    """Raise ENGINE_ABSENT if the deployed functions do not support the kind of a sync."""
    known = deployment.outputs.get("Kinds")
    for sync in syncs:
        if known is not None and sync.kind not in known.split(","):
            remedy = "run `syncline up` to deploy this version" if deployment.local else "deploy this version"
            what = f"{deployment.name} does not support {sync.kind}, the kind of {sync.name}; {remedy}"
            raise SynclineError("ENGINE_ABSENT", what)


def _check_paths(deployment: Deployment, syncs: Iterable[Sync]) -> None:
    """Raise CONFIG_INVALID if a sync names a path of this machine, and the functions run elsewhere."""
    for sync in syncs:
        for path in [] if deployment.local else sync.local_paths():
            what = (
                f"{sync.name}.{'.'.join(map(str, path))} is a path, but the functions of {deployment.name} run on AWS"
            )
            raise SynclineError(
                "CONFIG_INVALID", f"{what}; copy with `syncline copy`, or use the engine on this machine"
            )


def _loadable(configs: Iterable[str]) -> Iterator[Sync]:
    """Yield the applied syncs that this version can read."""
    for config in configs:
        with contextlib.suppress(SynclineError):
            yield load_sync(config)


def _confirm_removals(context: Context, file: Path, others: Sequence[str], options: ApplyOptions) -> bool:
    """List the syncs to remove and, at a terminal, ask for confirmation."""
    out = context.out
    for name in others:
        out.line(f"{name} is not in {file.name} and will be removed; copied items stay at the target", "yellow")
    if options.yes or not out.interactive or out.confirm(f"Remove {plural(len(others), 'sync')}?"):
        return True
    out.line("nothing was applied")
    return False


def _dry_run(
    context: Context, file: Path, read: SyncsFile, options: ApplyOptions, warnings: Sequence[dict[str, Any]]
) -> CommandResult:
    """Show the changes that applying the file would make."""
    out = context.out
    found = config_changes(context.deployment, read.syncs, prune=options.prune)
    out.line(f"{file.name}: {plural(len(read.syncs), 'sync')}; nothing was applied", "bold")
    for name, (change, lines) in found.items():
        out.table([(Cell(name, "bold"), Cell(change, _STYLES[change]))], indent=2)
        for line in lines:
            out.line(f"    {line}", "green" if line[0] == "+" else "red" if line[0] == "-" else "dim")
    syncs = [{"name": name, "change": change, "diff": lines} for name, (change, lines) in found.items()]
    return CommandResult({"file": str(file), "dry_run": True, "syncs": syncs, "warnings": warnings})


def _show(context: Context, file: Path, done: Sequence[AppliedSync], address: str) -> None:
    out = context.out
    out.line(f"{file.name}: {plural(sum(each.sync is not None for each in done), 'sync')}", "bold")
    out.table([_row(each) for each in done], indent=2)
    hooks = [(each.name, webhook(each.sync, address)) for each in done if each.sync and each.sync.webhook]
    if hooks:
        out.line(f"webhooks ({_MASK} stands for the secret):")
        out.table([(name, str(hook)) for name, hook in hooks], indent=2)
    for each in done:
        if each.target_changed:
            out.line(
                f"{each.name}: the target changed. The next run compares all items with the new target; "
                "items copied to the old target stay there.",
                "yellow",
            )
        if each.under_way:
            run = f"run {each.under_way} of {each.name} is in progress and keeps its old configuration"
            end = f" and target; `{context.command(f'cancel {each.name}')}` cancels it"
            out.line(run + (end if each.target_changed else ""))
        if each.cancelled:
            out.line(f"run {each.cancelled} of {each.name} was in progress and has been cancelled", "yellow")
    if kept := ", ".join(each.name for each in done if each.change == "kept"):
        out.line(f"not in {file.name}, kept: {kept}; --prune removes syncs that are not in the file", "yellow")
    new = [each.sync for each in done if each.sync is not None and each.change in ("added", "changed")]
    if added := next((sync.name for sync in new if KINDS[sync.kind].has_runs), None):
        out.hint(context.command(f"plan {added}"), "to see what a run would move")
    else:
        out.hint(context.command("status"), "to see the state of the syncs")


def _row(each: AppliedSync) -> Row:
    sync = each.sync
    if sync is None:
        words = {"deleted": "schedule deleted", "unchanged": "not in the file"}.get(each.schedule, "")
    elif sync.schedule is None:
        words = "no schedule" + (", deleted" if each.schedule == "deleted" else "")
    else:
        zone = f" {sync.timezone}" if sync.timezone else ""
        words = f"{sync.schedule}{zone}" + (f", {each.schedule}" if each.schedule != "unchanged" else "")
    off = Cell("disabled", "yellow") if sync is not None and not sync.enabled else ""
    return (Cell(each.name, "bold"), Cell(each.change, _STYLES[each.change]), words, off)


def webhook(sync: Sync | None, address: str) -> str | None:
    """Return the URL for notifications of a registry, with the secret masked; None without a webhook."""
    if sync is None or sync.webhook is None:
        return None
    return f"{address.rstrip('/')}/hooks/{sync.name}/{_MASK}"


def _as_dict(each: AppliedSync, address: str) -> dict[str, Any]:
    sync = each.sync
    return {
        "name": each.name,
        "change": each.change,
        "schedule": sync.schedule if sync else None,
        "schedule_change": each.schedule,
        "enabled": sync.enabled if sync else False,
        "webhook": webhook(sync, address),
        "cancelled_run": each.cancelled,
        "run_under_way": each.under_way,
        "target_changed": each.target_changed,
    }
