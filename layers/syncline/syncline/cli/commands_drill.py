"""``syncline drill``: restore items from the target, and compare them with the source."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.cli.commands_run import config_of, kind_of, scope_of
from syncline.cli.context import ALL_WELL, SOME_FAILED, CommandResult, Context
from syncline.cli.run_progress import follow_run
from syncline.cli.summary import item_lines, run_dict
from syncline.errors import SynclineError
from syncline.model import Outcome, RunStatus, Trigger, drill_succeeded
from syncline.operations import start_run
from syncline.run_text import report_order, with_display_groups
from syncline.text import duration, plural

_SHOWN = (Outcome.FAILED, Outcome.KNOWN, Outcome.LEFT_OUT)


def drill(context: Context, name: str, only: Sequence[str] | None, *, all_items: bool) -> CommandResult:
    """Start a restore drill and wait for its end. The exit code is 1 if an item failed, or none was compared.

    Raises USAGE for a sync whose kind has no restore drills, NO_SUCH_SYNC, and RUN_CANCELLED or NO_PROGRESS if the drill
    did not end.
    """
    from syncline.config.sync import DRILL_SHARE, load_sync  # noqa: PLC0415 - models take long to import

    deployment = context.deployment
    sync = load_sync(config_of(deployment.state, name))
    if "drill" not in type(sync).model_fields:
        raise SynclineError("USAGE", f"{name} is a sync of {sync.kind}, which has no restore drills")
    share = 1.0 if all_items else sync.drills.share if sync.drills is not None else DRILL_SHARE
    scope = scope_of(deployment.state, name, only)
    run = follow_run(context, start_run(deployment, name, Trigger.MANUAL, scope, drill=share))
    if run.status is not RunStatus.DONE:
        cancelled = run.status is RunStatus.CANCELLED
        how = "was cancelled" if cancelled else "made no progress"
        raise SynclineError("RUN_CANCELLED" if cancelled else "NO_PROGRESS", f"the drill of {name} ({run.id}) {how}")
    results = sorted(deployment.state.results(run.id), key=report_order)
    shown = with_display_groups(kind_of(deployment.state, name), [each for each in results if each.outcome in _SHOWN])
    context.out.table(item_lines(shown, full=True))
    failed, compared = run.counts.not_restored, run.counts.skipped
    succeeded = drill_succeeded(compared, failed)
    took = duration((run.ended or run.started) - run.started)
    restored = f"{plural(compared, 'item')} restored and equal to the source"
    if succeeded:
        context.out.line(f"✓ {name}: {restored}, in {took}", "green")
    else:
        bad = f"{plural(failed, 'item')} not" if failed else "nothing was compared"
        context.out.line(f"✗ {name}: {restored}, {bad}, in {took}", "red")
        context.out.hint(context.command(f"report {run.id}"), "to see each item and what to do about it")
    value = {"verified": succeeded, "share": share, "run": run_dict(run), "items": [each.as_dict() for each in results]}
    return CommandResult(value, ALL_WELL if succeeded else SOME_FAILED)
