"""Runs as items of the table (``SYNC#<name>`` / ``RUN#<id>``), and the IDs of runs."""

from __future__ import annotations

import calendar
import random
import re
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Final

from syncline.errors import SynclineError, stored_code
from syncline.model import Audit, Counts, Lags, Run, RunStatus, Scope, Traffic, Trigger, Waiting
from syncline.store.table import number

RETENTION: Final = 30 * 24 * 3600
"""Seconds for which runs and their records are kept."""
STALLED: Final = 60.0
"""Seconds without progress after which a run is reported as waiting."""
_NOTE_INTERVAL: Final = 15.0  # seconds between two notes of the same reason
_LONGEST_WHAT: Final = 500  # characters
_COUNTS: Final = frozenset(field.name for field in fields(Counts))
_RUN_ID: Final = re.compile(r"\d{8}-\d{6}-[0-9a-f]{10}")


def new_run_id(clock: Callable[[], float] = time.time) -> str:
    """Return a new ID of a run. IDs sort by time and read like ``20261121-101522-3f9c2a7b01``."""
    return run_id_of(clock(), random.randbytes(5))  # noqa: S311 - an ID is no secret


def run_id_of(at: float, suffix: bytes) -> str:
    """Return the ID of a run that began `at` (Unix seconds). `suffix` is 5 bytes that distinguish it from others."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(at))}-{suffix.hex()}"


def start_of(run_id: str) -> float:
    """Return the time in Unix seconds at which a run began, by its ID."""
    return float(calendar.timegm(time.strptime(run_id[:15], "%Y%m%d-%H%M%S")))


def is_run_id(text: str) -> bool:
    """Return True if a text has the form of a run ID."""
    return _RUN_ID.fullmatch(text) is not None


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
    if run.lag_start:
        item["lagStart"] = number(run.lag_start)
    if run.scope.groups is not None:
        item["groups"] = list(run.scope.groups)
    audit = None if run.audit is None else run.audit.to_json()
    drill = None if run.drill is None else number(run.drill)
    optional = {"allow_removals": run.allow_removals, "config": run.config, "audit": audit, "drill": drill}
    return item | {name: value for name, value in optional.items() if value is not None}


def run_from(item: dict[str, Any]) -> Run:
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
        lag_start=float(item.get("lagStart", 0)),
        lags=Lags.from_counters(item.get("lags", {})),
        traffic=Traffic.from_counters(item.get("traffic", {})),
        audit=Audit.from_json(item["audit"]) if "audit" in item else None,
        drill=float(item["drill"]) if "drill" in item else None,
    )


def next_waiting(run: Run, error: SynclineError, seconds: float, now: float) -> Waiting | None:
    """Return the note that a run's work waits for some seconds; None if the same was noted just before."""
    previous, since = run.waiting, now
    if previous is not None and previous.code == error.code.name and now - previous.until < STALLED:
        if now - previous.at < _NOTE_INTERVAL:
            return None
        since = previous.since
    return Waiting(error.code.name, error.what[:_LONGEST_WHAT], since, now, now + seconds)


def waiting_item(waiting: Waiting) -> dict[str, Any]:
    """Return the attribute of a run that states why its work waits."""
    times = {name: number(getattr(waiting, name)) for name in ("since", "at", "until")}
    return asdict(waiting) | times


def _waiting(value: dict[str, Any] | None) -> Waiting | None:
    if value is None:
        return None
    since, at, until = (float(value[name]) for name in ("since", "at", "until"))
    return Waiting(stored_code(value["code"]), str(value["what"]), since, at, until)
