"""Totals over all runs of a sync, for counters that only grow. The transaction that ends a run updates them.

There is one item for each sync, ``SYNC#<name>`` / ``TOTALS``. Unlike the items of runs it does not expire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from syncline.model import Lags, Run, Traffic
from syncline.store.table import Database, number

BUCKETS: Final = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Upper bounds in seconds of the histogram of durations."""
LATEST_RUN: Final = "latestRun"
"""The attribute with the ID of the run that ended last and was not a plan."""
_OUTCOMES: Final = ("moved", "skipped", "left_out", "removed", "extra", "conflict", "untrusted", "failed")
_OVER: Final = len(BUCKETS)


@dataclass(frozen=True, slots=True)
class Totals:
    """The totals of a sync.

    `durations` counts runs by the first of :data:`BUCKETS` that they did not exceed; those that exceed all of them come
    last. `seconds` is the sum of the durations, `failed` the number of runs with failures, and `items` the number of
    results by outcome. `last_success` is the end of the last run without failures in Unix seconds, 0 if there was none.
    `known` is the number of known failures at the end of the latest run, without the acknowledged ones.
    """

    durations: tuple[int, ...]
    seconds: float
    failed: int
    items: Mapping[str, int]
    bytes: int
    last_success: float
    known: int = 0
    lags: Lags = field(default_factory=Lags)
    traffic: Traffic = field(default_factory=Traffic)


def totals_update(database: Database, run: Run, ended: float, *, succeeded: bool) -> dict[str, Any]:
    """Return the request that adds a run with its final counts and lags; ``ended`` is in Unix seconds."""
    seconds, counts = max(0.0, ended - run.started), asdict(run.counts)
    bucket = next((n for n, bound in enumerate(BUCKETS) if seconds <= bound), _OVER)
    amounts: dict[str, Any] = {f"duration{bucket}": 1, "seconds": number(seconds)}
    amounts |= {name: counts[name] for name in (*_OUTCOMES, "bytes") if counts[name]}
    amounts |= run.lags.counters | run.traffic.counters
    if not succeeded:
        amounts["failedRuns"] = 1
    latest: dict[str, Any] = {"known": counts["known"], LATEST_RUN: run.id}
    latest |= {"lastSuccess": number(ended)} if succeeded else {}
    expression = "SET " + ", ".join(f"#{name} = :{name}" for name in latest)
    expression += " ADD " + ", ".join(f"#{name} :{name}" for name in amounts)
    return database.update_request(f"SYNC#{run.sync}", "TOTALS", expression, amounts | latest)


def totals_from(item: Mapping[str, Any]) -> Totals:
    """Return the totals in an item of the table."""
    return Totals(
        tuple(int(item.get(f"duration{n}", 0)) for n in range(_OVER + 1)),
        float(item.get("seconds", 0)),
        int(item.get("failedRuns", 0)),
        {outcome: int(item.get(outcome, 0)) for outcome in _OUTCOMES},
        int(item.get("bytes", 0)),
        float(item.get("lastSuccess", 0)),
        int(item.get("known", 0)),
        Lags.from_counters(item),
        Traffic.from_counters(item),
    )
