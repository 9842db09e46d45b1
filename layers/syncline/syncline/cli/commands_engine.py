"""``syncline up`` and ``syncline down``: the engine on this machine."""

from __future__ import annotations

from typing import Any

from syncline.cli.context import REMEMBERED, Answer, Context
from syncline.cli.local_engine import down as stop
from syncline.cli.local_engine import up as start
from syncline.cli.show import many
from syncline.cli.summary import as_dict
from syncline.cli.target import Target, of_engine


def up(context: Context, port: int | None) -> Answer:
    """Start the engine, deploy, and apply again what was applied last if the engine has lost it."""
    context.only_here("syncline up")
    out = context.out
    engine = start(context.home, context.project, port=port, say=out.line)
    target = of_engine(engine, context.home)
    found = _look_after(context, target, unclean=engine.unclean)
    out.line(f"the engine is up at {engine.endpoint}, its state in {context.home}", "green")
    if found["runs"]:
        out.follow_up(context.command("status"), "shows how the runs go")
    elif target.state.sync_names():
        out.follow_up(context.command("status"), "shows where the syncs stand")
    else:
        out.follow_up(context.command("apply"), "makes the syncs what syncs.yaml says")
    return Answer({"endpoint": engine.endpoint, "home": str(context.home), "unclean": engine.unclean, **found})


def _look_after(context: Context, target: Target, *, unclean: bool) -> dict[str, Any]:
    """Apply again the syncs that were applied last, if the engine has lost some, and say which secrets they miss.

    After the engine was ended by force its state is some seconds behind. An event of these seconds may be lost, so a
    scan of each sync with a schedule begins.
    """
    found: dict[str, Any] = {"restored": [], "runs": [], "warnings": []}
    if not (context.home / REMEMBERED).exists():
        return found
    from syncline.cli.applying import begin_scans, put_syncs, remembered  # noqa: PLC0415 - models take long
    from syncline.cli.secret_checks import missing_secrets  # noqa: PLC0415

    syncs = remembered(context.home)
    # The functions have the environment of this very shell, which may not be the one of the time before.
    found["warnings"] = missing_secrets(target, syncs.values())
    for warning in found["warnings"]:
        context.out.line(f"warning: {warning}", "yellow")
    if unclean or not target.state.sync_names():
        done = put_syncs(target, syncs, prune=True)  # all that were applied are among those remembered
        restored = [each.name for each in done if each.change != "unchanged"]
        runs = begin_scans(target, syncs.values())
        found |= {"restored": restored, "runs": [as_dict(run) for run in runs]}
        if restored:
            context.out.line(f"{many(len(restored), 'sync')} applied again: {', '.join(restored)}", "yellow")
        if runs:
            names = ", ".join(run.sync for run in runs)
            context.out.line(f"{many(len(runs), 'scan')} begun, as events may be lost: {names}", "yellow")
    return found


def down(context: Context) -> Answer:
    """Stop the engine; its state is kept."""
    context.only_here("syncline down")
    stopped = stop(context.home, say=context.out.line)
    context.out.line("the engine is down; its state is kept" if stopped else f"no engine runs in {context.home}")
    if stopped:
        context.out.follow_up(context.command("up"), "starts it where it stopped")
    return Answer({"stopped": stopped, "home": str(context.home)})
