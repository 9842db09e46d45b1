"""What all runs of a sync came to, for counters that only grow: added in the very transaction that ends a run.

One item a sync, ``SYNC#<name>`` / ``TOTALS``. Runs themselves are forgotten after a while; these are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from syncline.store.table import Database, number

BUCKETS: Final = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Seconds: the bounds of the histogram of runs' durations."""
_OUTCOMES: Final = ("moved", "skipped", "left_out", "removed", "extra", "conflict", "failed")
_OVER: Final = len(BUCKETS)


@dataclass(frozen=True, slots=True)
class Totals:
    """``durations`` counts runs by the first of ``BUCKETS`` that they were within, those over all of them last.

    ``seconds`` is the sum of their durations, ``failed`` counts runs with failures, ``items`` results by outcome,
    ``last_success`` is Unix seconds of the last run without failures, 0 if there was none. ``known`` is the number of
    known failures at the end of the latest run; those that are acknowledged are not among them.
    """

    durations: tuple[int, ...]
    seconds: float
    failed: int
    items: Mapping[str, int]
    bytes: int
    last_success: float
    known: int = 0


def addition(
    database: Database, sync: str, seconds: float, counts: Mapping[str, int], succeeded: float | None
) -> dict[str, Any]:
    """What one run adds, as a part of a transaction; ``succeeded`` is when it did, in Unix seconds."""
    seconds = max(0.0, seconds)
    place = next((n for n, bound in enumerate(BUCKETS) if seconds <= bound), _OVER)
    amounts: dict[str, Any] = {f"duration{place}": 1, "seconds": number(seconds)}
    amounts |= {name: counts[name] for name in (*_OUTCOMES, "bytes") if counts[name]}
    if succeeded is None:
        amounts["failedRuns"] = 1
    latest: dict[str, Any] = {"known": counts["known"]}
    latest |= {} if succeeded is None else {"lastSuccess": number(succeeded)}
    expression = "SET " + ", ".join(f"#{name} = :{name}" for name in latest)
    expression += " ADD " + ", ".join(f"#{name} :{name}" for name in amounts)
    return database.update(f"SYNC#{sync}", "TOTALS", expression, amounts | latest)


def totals_of(database: Database, sync: str) -> Totals:
    """What a sync's runs came to."""
    item = database.get(f"SYNC#{sync}", "TOTALS") or {}
    return Totals(
        tuple(int(item.get(f"duration{n}", 0)) for n in range(_OVER + 1)),
        float(item.get("seconds", 0)),
        int(item.get("failedRuns", 0)),
        {outcome: int(item.get(outcome, 0)) for outcome in _OUTCOMES},
        int(item.get("bytes", 0)),
        float(item.get("lastSuccess", 0)),
        int(item.get("known", 0)),
    )
