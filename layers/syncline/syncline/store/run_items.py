"""Runs as items of the table: ``SYNC#<name>`` / ``RUN#<id>``."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Final

from syncline.errors import SynclineError, stored_code
from syncline.model import Counts, Run, RunStatus, Scope, Trigger, Waiting
from syncline.store.table import number

RETENTION: Final = 30 * 24 * 3600
"""Seconds for which runs and their records are kept."""
STALLED: Final = 60.0
"""Seconds without progress after which a run is said to wait."""
_NOTED_AGAIN: Final = 15.0  # seconds: the same reason is not written more often
_LONGEST_WHAT: Final = 500  # characters
_COUNTS: Final = frozenset(field.name for field in fields(Counts))


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
    counts = {name: int(value) for name, value in item.get("counts", {}).items() if name in _COUNTS}
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
        waiting=_waiting(item.get("waiting")),
    )


def next_waiting(run: Run, error: SynclineError, seconds: float, now: float) -> Waiting | None:
    """Return what to note of a run whose work waits for some seconds; None if the same was noted just now."""
    before, since = run.waiting, now
    if before is not None and before.code == error.code.name and now - before.until < STALLED:
        if now - before.at < _NOTED_AGAIN:
            return None
        since = before.since
    return Waiting(error.code.name, error.what[:_LONGEST_WHAT], since, now, now + seconds)


def waiting_item(waiting: Waiting) -> dict[str, Any]:
    """Return the attribute of a run that says why work of it waits."""
    times = {name: number(getattr(waiting, name)) for name in ("since", "at", "until")}
    return asdict(waiting) | times


def _waiting(value: dict[str, Any] | None) -> Waiting | None:
    if value is None:
        return None
    since, at, until = (float(value[name]) for name in ("since", "at", "until"))
    return Waiting(stored_code(value["code"]), str(value["what"]), since, at, until)
