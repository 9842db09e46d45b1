"""The state of all syncs, read from the table with few calls for many syncs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from syncline.model import Run
from syncline.store.audits import AuditRecord, audit_from
from syncline.store.batches import Progress, progress_keys, progress_of
from syncline.store.drills import Drill, drill_from
from syncline.store.health import Health, health_from
from syncline.store.runs import run_from
from syncline.store.table import Database
from syncline.store.totals import LATEST_RUN, Totals, totals_from

_AT_ONCE: Final = 8
_CALL: Final = 100
"""Items of one BatchGetItem."""
_ROWS: Final = ("CONFIG", "HEALTH", "CURRENT", "TOTALS", "AUDIT", "DRILL")
_FEW: Final = 10

Item = dict[str, Any]
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SyncState:
    """The state of one sync.

    `config` is its configuration as JSON, and `applied` the time at which it was applied in Unix seconds, 0 if unknown.
    `totals` are those of all runs. `current` is the run in progress, with its `progress`; `last` is the latest run that
    has ended and was not a plan. `audits` is what is known of its audits, `drill` the latest restore drill.
    """

    name: str
    config: str
    applied: float
    health: Health
    totals: Totals
    current: Run | None = None
    progress: Progress | None = None
    last: Run | None = None
    audits: AuditRecord = field(default_factory=AuditRecord)
    drill: Drill | None = None


class Overview:
    """Reads the state of syncs."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def read(self, names: Sequence[str] | None = None) -> list[SyncState]:
        """Return the state of the named syncs, or of all; a sync that is not applied is left out."""
        if names is None:
            names = list(self._db.sort_keys("SYNCS", ""))
        rows = self._get([(f"SYNC#{name}", row) for name in names for row in _ROWS])
        names = [name for name in names if (f"SYNC#{name}", "CONFIG") in rows]
        current = {name: run for name in names if (run := _text(rows, name, "CURRENT", "run"))}
        last = {name: run for name in names if (run := _text(rows, name, "TOTALS", LATEST_RUN))}
        keys = [(f"SYNC#{name}", f"RUN#{run}") for runs in (current, last) for name, run in runs.items()]
        runs = self._get([*dict.fromkeys(keys), *(key for run in current.values() for key in progress_keys(run))])
        # The latest run of a sync whose totals an earlier version wrote; without totals no run has ended.
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            without = [name for name in names if name not in last and (f"SYNC#{name}", "TOTALS") in rows]
            older = dict(zip(without, pool.map(self._latest, without), strict=True))

        def run_of(name: str, ids: dict[str, str]) -> Run | None:
            item = runs.get((f"SYNC#{name}", f"RUN#{ids.get(name)}"))
            return None if item is None else run_from(item)

        return [
            _state(name, rows, runs, run_of(name, current), run_of(name, last) or older.get(name)) for name in names
        ]

    def _latest(self, name: str) -> Run | None:
        found = map(run_from, self._db.query(f"SYNC#{name}", "RUN#", newest_first=True, limit=_FEW))
        return next((run for run in found if run.over and not run.plan), None)

    def _get(self, keys: Sequence[_Key]) -> dict[_Key, Item]:
        """Return the items that exist among the keys, read in parallel."""
        calls = [list(keys[at : at + _CALL]) for at in range(0, len(keys), _CALL)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found: Iterable[list[Item]] = pool.map(lambda some: list(self._db.batch_get(some)), calls)
            return {(str(item["pk"]), str(item["sk"])): item for items in found for item in items}


def _text(rows: dict[_Key, Item], name: str, row: str, attribute: str) -> str:
    return str(rows.get((f"SYNC#{name}", row), {}).get(attribute, ""))


def _state(
    name: str, rows: dict[_Key, Item], runs: dict[_Key, Item], current: Run | None, last: Run | None
) -> SyncState:
    config = rows[f"SYNC#{name}", "CONFIG"]
    health = health_from(rows.get((f"SYNC#{name}", "HEALTH"), {}))
    totals = totals_from(rows.get((f"SYNC#{name}", "TOTALS"), {}))
    audits = audit_from(rows.get((f"SYNC#{name}", "AUDIT"), {}))
    drill = drill_from(rows.get((f"SYNC#{name}", "DRILL")))
    applied = float(config.get("at", 0))
    state = SyncState(name, str(config["config"]), applied, health, totals, last=last, audits=audits, drill=drill)
    if current is None:
        return state
    progress = progress_of(runs[key] for key in progress_keys(current.id) if key in runs)
    return replace(state, current=replace(current, counts=progress.counts), progress=progress)
