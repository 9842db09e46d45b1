"""``syncline notify test``: a test notification, sent by the function that sends all others."""

from __future__ import annotations

import json
from typing import Any

from syncline.cli.context import ALL_WELL, SOME_FAILED, CommandResult, Context
from syncline.errors import SynclineError


def notify(context: Context, action: str, name: str) -> CommandResult:
    """Send a test notification to each channel of a sync, and print whether each accepted it.

    The function sends it, so its role, its network and its secrets are tested. Raises USAGE, NO_SUCH_SYNC, ENGINE_FAILED.
    """
    if action != "test":
        raise SynclineError("USAGE", f"unknown action {action!r}; the only one is `test`")
    answer = _invoke(context, name)
    if (error := answer.get("error")) is not None:
        raise SynclineError(error["code"], error["what"])
    channels: dict[str, dict[str, str] | None] = answer["channels"]
    for channel, failure in channels.items():
        if failure is None:
            context.out.line(f"✓ {channel}")
        else:
            context.out.line(f"✗ {channel}  {failure['code']}: {failure['what']}")
    failed = any(failure is not None for failure in channels.values())
    if failed:
        again = context.command(f"notify test {name}")
        context.out.line(f"→ correct the cause, or `notify` in syncs.yaml and apply it; then  {again}")
    return CommandResult({"sync": name, "channels": channels}, SOME_FAILED if failed else ALL_WELL)


def _invoke(context: Context, name: str) -> dict[str, Any]:
    """Return the answer of the function `notify` to a request for a test."""
    deployment = context.deployment
    function = deployment.output("DiscoverQueueArn").rpartition(":")[2].removesuffix("-discover") + "-notify"
    response = deployment.client("lambda").invoke(FunctionName=function, Payload=json.dumps({"test": name}))
    body = response["Payload"].read()
    if "FunctionError" in response:
        what = f"the function {function} failed ({body[:500].decode(errors='replace')}); see its log"
        raise SynclineError("ENGINE_FAILED", what)
    answer: dict[str, Any] = json.loads(body)
    return answer
