"""``syncline apply``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from syncline.cli.applying import Applied, differences, put_syncs, remember, stored
from syncline.cli.context import NOT_DONE, Answer, Context
from syncline.cli.following import follow
from syncline.cli.reachability import unreachable
from syncline.cli.secret_checks import check_secrets
from syncline.cli.show import Cell, Row, Style, many
from syncline.config.file import SyncsFile, read_syncs
from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS

if TYPE_CHECKING:
    from syncline.cli.target import Target

_STYLES: Final[dict[str, Style]] = {
    "added": "green",
    "changed": "yellow",
    "unchanged": "dim",
    "kept": "dim",
    "removed": "red",
}
_MASK: Final = "****"


@dataclass(frozen=True, slots=True)
class Order:
    """The options of ``apply``: ``prune`` removes the syncs that are not in the file, ``yes`` without asking.

    With ``offline``, sources and targets are not asked whether they answer.
    """

    prune: bool = False
    dry_run: bool = False
    yes: bool = False
    offline: bool = False


def apply(context: Context, file: Path, order: Order) -> Answer:
    """Check the whole file, then write what differs. Raises CONFIG_INVALID or why a secret cannot be had."""
    read = read_syncs(file)  # what is wrong with it is told without an engine
    target, out = context.target, context.out
    before = stored(target)
    if not order.prune:
        read = read_syncs(file, _readable(before.values()))
    _check_kinds(target, read.syncs.values())
    unsure = check_secrets(target, read.syncs.values())
    if not order.offline:
        unsure += unreachable(read.syncs.values(), target.secrets)
    for warning in (*(problem.text(file.name) for problem in read.warnings), *unsure):
        out.line(f"warning: {warning}", "yellow")
    others = sorted(set(before) - set(read.syncs))
    warnings = _warnings(read, unsure)
    if order.dry_run:
        return _dry_run(context, file, read, order, warnings)
    if others and order.prune and not _agreed(context, file, others, order):
        return Answer({"file": str(file), "syncs": [], "warnings": warnings}, NOT_DONE)
    done = put_syncs(target, read.syncs, prune=order.prune)
    if target.local:
        remember(context.home, target)
    address = target.output("ReceiveUrl")
    _show(context, file, done, address)
    for each in done:
        if each.cancelled:
            follow(context, target.state.run(each.name, each.cancelled))
    return Answer({"file": str(file), "syncs": [_as_dict(each, address) for each in done], "warnings": warnings})


def _check_kinds(target: Target, syncs: Iterable[Sync]) -> None:
    """Raise ENGINE_ABSENT if the functions that are deployed do not know the kind of a sync."""
    known = target.outputs.get("Kinds")
    for sync in syncs:
        if known is not None and sync.kind not in known.split(","):
            remedy = "run `syncline up`, which deploys this version" if target.local else "deploy this version"
            what = f"{sync.name} is a sync of {sync.kind}, which {target.where} does not know; {remedy}"
            raise SynclineError("ENGINE_ABSENT", what)


def _readable(configs: Iterable[str]) -> Iterator[Sync]:
    """Yield applied syncs, but for those that this version cannot read."""
    for config in configs:
        with contextlib.suppress(SynclineError):
            yield load_sync(config)


def _agreed(context: Context, file: Path, others: Sequence[str], order: Order) -> bool:
    """Say which syncs are removed, and ask a person at a terminal whether they shall be."""
    out = context.out
    for name in others:
        out.line(f"{name} is not in {file.name} and is removed; what it copied stays", "yellow")
    if order.yes or not out.asks or out.agrees(f"Remove {many(len(others), 'sync')}?"):
        return True
    out.line("nothing was applied")
    return False


def _dry_run(context: Context, file: Path, read: SyncsFile, order: Order, warnings: Sequence[dict[str, Any]]) -> Answer:
    """Show how applying the file would change each sync."""
    out = context.out
    found = differences(context.target, read.syncs, prune=order.prune)
    out.line(f"{file.name}: {many(len(read.syncs), 'sync')}; nothing was applied", "bold")
    for name, (change, lines) in found.items():
        out.table([(Cell(name, "bold"), Cell(change, _STYLES[change]))], indent=2)
        for line in lines:
            out.line(f"    {line}", "green" if line[0] == "+" else "red" if line[0] == "-" else "dim")
    syncs = [{"name": name, "change": change, "diff": lines} for name, (change, lines) in found.items()]
    return Answer({"file": str(file), "dry_run": True, "syncs": syncs, "warnings": warnings})


def _warnings(read: SyncsFile, unsure: Sequence[str]) -> list[dict[str, Any]]:
    return [*(asdict(problem) for problem in read.warnings), *({"message": warning} for warning in unsure)]


def _show(context: Context, file: Path, done: Sequence[Applied], address: str) -> None:
    out = context.out
    out.line(f"{file.name}: {many(sum(each.sync is not None for each in done), 'sync')}", "bold")
    out.table([_row(each) for each in done], indent=2)
    hooks = [(each.name, webhook(each.sync, address)) for each in done if each.sync and each.sync.webhook]
    if hooks:
        out.line(f"webhooks ({_MASK} stands for the secret):")
        out.table([(name, str(hook)) for name, hook in hooks], indent=2)
    for each in done:
        if each.target_changed:
            out.line(
                f"{each.name}: the target changed; nothing is assumed to be there. The next run compares everything "
                "with the new target. What was copied to the old target stays there.",
                "yellow",
            )
        if each.under_way:
            run = f"run {each.under_way} of {each.name} is in progress and keeps the configuration that it began with"
            end = f", so it goes on with the old target; `{context.command(f'cancel {each.name}')}` ends it"
            out.line(run + (end if each.target_changed else ""))
        if each.cancelled:
            out.line(f"run {each.cancelled} of {each.name} was in progress and is cancelled", "yellow")
    kept = [each.name for each in done if each.change == "kept"]
    if kept:
        out.line(f"not in {file.name} and kept: {', '.join(kept)}; --prune removes what is not in the file", "yellow")
    new = [each for each in done if each.sync is not None and each.change in ("added", "changed")]
    added = next((each.name for each in new if each.sync is not None and KINDS[each.sync.kind].has_runs), None)
    if added:
        out.follow_up(context.command(f"plan {added}"), "shows what a run would move")
    else:
        out.follow_up(context.command("status"), "shows where they stand")


def _row(each: Applied) -> Row:
    sync = each.sync
    if sync is None:
        words = {"deleted": "schedule deleted", "unchanged": "not in the file"}.get(each.schedule, "")
    elif sync.schedule is None:
        words = "no schedule" + (" any more" if each.schedule == "deleted" else "")
    else:
        zone = f" {sync.timezone}" if sync.timezone else ""
        words = f"{sync.schedule}{zone}" + (f", {each.schedule}" if each.schedule != "unchanged" else "")
    off = Cell("disabled", "yellow") if sync is not None and not sync.enabled else ""
    return (Cell(each.name, "bold"), Cell(each.change, _STYLES[each.change]), words, off)


def webhook(sync: Sync | None, address: str) -> str | None:
    """Where a registry sends its notifications, with the secret masked; None without a webhook."""
    if sync is None or sync.webhook is None:
        return None
    return f"{address.rstrip('/')}/hooks/{sync.name}/{_MASK}"


def _as_dict(each: Applied, address: str) -> dict[str, Any]:
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
