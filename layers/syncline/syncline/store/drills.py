"""The latest restore drill of everything of a sync in the table: ``SYNC#<name>`` / ``DRILL``. It does not expire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.model import Counts, Run, drill_succeeded
from syncline.store.audits import AuditRecord
from syncline.store.health import Health
from syncline.store.table import Database, number


@dataclass(frozen=True, slots=True)
class Drill:
    """A restore drill that has ended. Times are Unix seconds.

    `share` is the share of the items that it was to restore. `compared` items were equal to the source, `failed` ones
    were not, or could not be restored. `verified` is the start of the latest drill without a failure, 0 if there was none.
    """

    run: str
    started: float
    ended: float
    share: float
    compared: int
    failed: int
    verified: float

    @property
    def succeeded(self) -> bool:
        return drill_succeeded(self.compared, self.failed)


@dataclass(frozen=True, slots=True)
class Proofs:
    """The audits and the latest restore drill of a sync, which verify its copy independently of its runs."""

    audits: AuditRecord = field(default_factory=AuditRecord)
    drill: Drill | None = None

    def has_unequal_audit(self, health: Health) -> bool:
        """Return True if the latest audit found differences, and the sync has not become another one since."""
        return self.audits.equal is False and self.audits.at >= health.expected

    def failed_drill(self, health: Health) -> Drill | None:
        """Return the latest drill if it failed, and the sync has not become another one since."""
        drill = self.drill
        return drill if drill is not None and not drill.succeeded and drill.started >= health.expected else None


NO_PROOFS: Final = Proofs()
"""The audits and drills of a sync that was neither audited nor drilled."""


def is_drill_stale(drill: Drill | None, within: float | None, health: Health, now: float) -> bool:
    """Return True if the latest good drill is longer ago than ``within`` seconds; None sets no limit.

    A paused sync is never stale.
    """
    verified = 0.0 if drill is None else drill.verified
    return within is not None and not health.paused and now - max(verified, health.expected) > within


def drill_request(database: Database, run: Run, counts: Counts, now: float) -> dict[str, Any]:
    """Return the request that notes a drill that ends now."""
    failed = counts.not_restored
    values: dict[str, Any] = {
        "run": run.id,
        "started": number(run.started),
        "ended": number(now),
        "share": number(run.drill or 0),
        "compared": counts.skipped,
        "failed": failed,
    }
    if drill_succeeded(counts.skipped, failed):
        values["verified"] = number(run.started)
    expression = "SET " + ", ".join(f"#{name} = :{name}" for name in values)
    return database.update_request(f"SYNC#{run.sync}", "DRILL", expression, values)


def drill_from(item: Mapping[str, Any] | None) -> Drill | None:
    """Return the drill that an item holds, None without one."""
    if not item:
        return None
    return Drill(
        str(item["run"]),
        float(item["started"]),
        float(item["ended"]),
        float(item["share"]),
        int(item["compared"]),
        int(item["failed"]),
        float(item.get("verified", 0)),
    )
