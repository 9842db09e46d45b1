"""``syncline apply``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from syncline.cli.applying import Applied, put_syncs, remember, stored
from syncline.cli.context import Answer, Context
from syncline.cli.secret_checks import check_secrets
from syncline.cli.show import Cell, Row, Style, many
from syncline.config import Sync
from syncline.config.file import SyncsFile, read_syncs
from syncline.model import RUNLESS

_STYLES: Final[dict[str, Style]] = {"added": "green", "changed": "yellow", "unchanged": "dim", "removed": "red"}
_MASK: Final = "****"


def apply(context: Context, file: Path) -> Answer:
    """Check the whole file, then write what differs. Raises CONFIG_INVALID or why a secret cannot be had."""
    read = read_syncs(file)
    target, out = context.target, context.out
    unsure = check_secrets(target, read.syncs.values())
    for warning in (*(problem.text(file.name) for problem in read.warnings), *unsure):
        out.line(f"warning: {warning}", "yellow")
    for name in sorted(set(stored(target)) - set(read.syncs)):
        out.line(f"{name} is no longer in {file.name} and is removed; what it copied stays", "yellow")
    done = put_syncs(target, read.syncs)
    if target.local:
        remember(context.home, read.syncs.values())
    address = target.output("ReceiveUrl")
    _show(context, file, done, address)
    return Answer(
        {
            "file": str(file),
            "syncs": [_as_dict(each, address) for each in done],
            "warnings": _warnings(read, unsure),
        }
    )


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
            out.line(f"run {each.under_way} of {each.name} is under way and keeps the configuration that it began with")
        if each.cancelled:
            out.line(f"run {each.cancelled} of {each.name} was under way and is cancelled", "yellow")
    new = [each for each in done if each.sync is not None and each.change in ("added", "changed")]
    added = next((each.name for each in new if each.sync is not None and each.sync.kind not in RUNLESS), None)
    if added:
        out.follow_up(context.command(f"plan {added}"), "shows what a run would move")
    else:
        out.follow_up(context.command("status"), "shows where they stand")


def _row(each: Applied) -> Row:
    sync = each.sync
    if sync is None:
        words = "schedule deleted" if each.schedule == "deleted" else ""
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
