"""Runs as items of the table: ``SYNC#<name>`` / ``RUN#<id>``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from syncline.model import Counts, Run, RunStatus, Scope, Trigger
from syncline.table import number

RETENTION: Final = 30 * 24 * 3600
"""Seconds for which runs and their records are kept."""


def run_item(run: Run) -> dict[str, Any]:
    """Return the item of a run that has just begun."""
    item: dict[str, Any] = {
        "pk": f"SYNC#{run.sync}",
        "sk": f"RUN#{run.id}",
        "number": run.number,
        "trigger": run.trigger.value,
        "started": number(run.started),
        "status": run.status.value,
        "plan": run.plan,
        "expires": int(run.started) + RETENTION,
    }
    if run.scope.groups is not None:
        item["groups"] = list(run.scope.groups)
    if run.allow_removals is not None:
        item["allow_removals"] = run.allow_removals
    if run.config is not None:
        item["config"] = run.config
    return item


def run_of(item: dict[str, Any]) -> Run:
    """Return the run that an item holds."""
    counts = {f.name: int(item.get("counts", {}).get(f.name, 0)) for f in fields(Counts)}
    return Run(
        id=str(item["sk"]).removeprefix("RUN#"),
        sync=str(item["pk"]).removeprefix("SYNC#"),
        number=int(item["number"]),
        trigger=Trigger(item["trigger"]),
        scope=Scope.of(item.get("groups")),
        started=float(item["started"]),
        status=RunStatus(item["status"]),
        plan=bool(item["plan"]),
        ended=float(item["ended"]) if "ended" in item else None,
        counts=Counts(**counts),
        allow_removals=int(item["allow_removals"]) if "allow_removals" in item else None,
        config=item.get("config"),
    )
