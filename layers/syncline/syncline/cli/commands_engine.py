"""``syncline up`` and ``syncline down``: the engine on this machine."""

from __future__ import annotations

from functools import partial
from typing import Any

from syncline.cli.context import APPLIED_FILE, CommandResult, Context
from syncline.cli.deployment import Deployment, deployment_of
from syncline.cli.local_engine import down as stop
from syncline.cli.local_engine import up as start
from syncline.cli.summary import run_dict
from syncline.errors import SynclineError
from syncline.text import plural


def up(context: Context, port: int | None, *, foreground: bool) -> CommandResult:
    """Start the engine, deploy, and restore the applied syncs if the engine has lost them.

    With ``foreground``, return when the engine is stopped. Raises ENGINE_FAILED if it ends otherwise.
    """
    context.refuse_stack("syncline up")
    if not foreground:
        return _up(context, port)
    if context.out.as_json:
        raise SynclineError("USAGE", "--foreground prints the engine's log as it comes; leave out --json")
    from syncline.cli.foreground import run  # noqa: PLC0415 - only services need it

    run(context.home, partial(_up, context, port), say=context.out.line)
    return CommandResult()


def _up(context: Context, port: int | None) -> CommandResult:
    out = context.out
    engine = start(context.home, context.project, port=port, say=out.line)
    deployment = deployment_of(engine, context.home)
    found = _restore_syncs(context, deployment, unclean=engine.unclean)
    out.line(f"the engine is up at {engine.endpoint}; its state is in {context.home}", "green")
    if console := deployment.outputs.get("ConsoleUrl"):
        out.line(f"the status page: {console}")
    if found["runs"]:
        out.hint(context.command("status"), "to see the progress of the runs")
    elif deployment.state.sync_names():
        out.hint(context.command("status"), "to see the state of the syncs")
    else:
        out.hint(context.command("apply"), "to apply syncs.yaml")
    return CommandResult(
        {
            "endpoint": engine.endpoint,
            "console": deployment.outputs.get("ConsoleUrl"),
            "home": str(context.home),
            "unclean": engine.unclean,
            **found,
        }
    )


def _restore_syncs(context: Context, deployment: Deployment, *, unclean: bool) -> dict[str, Any]:
    """Apply the last applied syncs again if the engine lost them, and warn of missing secrets.

    After a kill (``unclean``) the state is some seconds old and events may be lost, so each sync with a schedule is
    scanned.
    """
    found: dict[str, Any] = {"restored": [], "runs": [], "warnings": []}
    if not (context.home / APPLIED_FILE).exists():
        return found
    from syncline.cli.applied_syncs import load_applied, put_syncs, start_runs  # noqa: PLC0415 - models take long
    from syncline.cli.apply_checks import missing_secrets  # noqa: PLC0415

    syncs = load_applied(context.home)
    # The functions now have the environment of this shell.
    found["warnings"] = missing_secrets(deployment, syncs.values())
    for warning in found["warnings"]:
        context.out.line(f"warning: {warning}", "yellow")
    if unclean or not deployment.state.sync_names():
        done = put_syncs(deployment, syncs, prune=True)  # the file has all applied syncs
        restored = [each.name for each in done if each.change != "unchanged"]
        runs = start_runs(deployment, syncs.values())
        found |= {"restored": restored, "runs": [run_dict(run) for run in runs]}
        if restored:
            context.out.line(f"{plural(len(restored), 'sync')} applied again: {', '.join(restored)}", "yellow")
        if runs:
            names = ", ".join(run.sync for run in runs)
            context.out.line(
                f"{plural(len(runs), 'scan')} started, because events may have been lost: {names}", "yellow"
            )
    return found


def down(context: Context) -> CommandResult:
    """Stop the engine and keep its state."""
    context.refuse_stack("syncline down")
    stopped = stop(context.home, say=context.out.line)
    context.out.line("the engine is down; its state is kept" if stopped else f"no engine runs in {context.home}")
    if stopped:
        context.out.hint(context.command("up"), "to start it again")
    return CommandResult({"stopped": stopped, "home": str(context.home)})
