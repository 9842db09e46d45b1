"""The audits of syncs in the table: the latest one, and the shares of the target whose bytes were read, with their times.

There is one item for each sync, ``SYNC#<name>`` / ``AUDIT``. A complete audit that ends updates it. It does not expire.
Losing it makes nothing wrong: the shares are read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from syncline.model import Audit, Counts, Run
from syncline.store.health import Health
from syncline.store.table import Database, number

PERIOD: Final = 31 * 86_400
"""Seconds for which status and metrics state the share of the target that audits have read."""
_LEVELS: Final = ("fingerprints", "parts", "deep")
"""The depths of audits, of each of which the latest cost is kept."""


@dataclass(frozen=True, slots=True)
class AuditCost:
    """The cost of an audit: its requests, and the bytes that it read."""

    requests: int
    bytes: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """The audits of a sync. Times are Unix seconds, 0 if there was none.

    ``run`` is the ID of the latest audit, "" without one, ``at`` its start and ``ended`` its end. ``equal`` is its verdict,
    and ``equal_at`` the start of the latest audit that found source and target equal. ``audit`` has its options, and
    ``counts`` what it found.

    The target is read in ``of`` shares. ``read`` has the time at which the reading of each began, by its number, and
    ``last`` is the number of the latest.
    """

    run: str = ""
    at: float = 0.0
    ended: float = 0.0
    equal: bool | None = None
    equal_at: float = 0.0
    audit: Audit = field(default_factory=Audit)
    counts: Counts = field(default_factory=Counts)
    of: int = 1
    read: Mapping[int, float] = field(default_factory=dict)
    last: int = 0
    costs: Mapping[str, AuditCost] = field(default_factory=dict)

    def due(self, audit: Audit) -> Audit:
        """Return an audit with the number of the share that is due: one after another, from 1 on if their number changed."""
        last = self.last if self.of == audit.of else 0
        return replace(audit, part=last % audit.of + 1)

    def read_since(self, moment: float) -> float:
        """Return the share of the target, from 0 to 1, whose bytes were read since a time."""
        return sum(at >= moment for at in self.read.values()) / self.of

    def is_stale(self, within: float | None, health: Health, now: float) -> bool:
        """Return True if the latest audit that found source and target equal is longer ago than ``within`` seconds.

        None sets no limit. A paused sync is never stale.
        """
        return within is not None and not health.paused and now - max(self.equal_at, health.expected) > within

    def cost(self, audit: Audit) -> AuditCost | None:
        """Return the cost of the latest audit of the same depth, scaled to the share to be read; None without one."""
        known = self.costs.get(_level(audit))
        if known is None or not audit.deep:
            return known
        return replace(known, bytes=round(known.bytes / audit.of))

    def after(self, run: Run) -> AuditRecord:
        """Return the record after a complete audit."""
        audit, counts = run.audit or Audit(), run.counts
        equal = audit.is_equal(counts)
        # The bytes are those of the complete target, so that the cost of any share follows from them.
        cost = AuditCost(counts.requests, counts.bytes * (audit.of if audit.deep else 1))
        record = replace(
            self,
            run=run.id,
            at=run.started,
            ended=run.ended or run.started,
            equal=equal,
            equal_at=run.started if equal else self.equal_at,
            audit=audit,
            counts=counts,
            costs={**self.costs, _level(audit): cost},
        )
        if not audit.deep:
            return record
        if audit.of == 1 and self.of > 1 and not counts.unreadable:  # all shares at once; the next one stays due
            return replace(record, read=dict.fromkeys(range(1, self.of + 1), run.started))
        read = dict(self.read) if self.of == audit.of else self._read_completely(audit.of)
        if not counts.unreadable:
            read[audit.part] = run.started
        return replace(record, of=audit.of, read=read, last=audit.part)

    def _read_completely(self, shares: int) -> dict[int, float]:
        """Return the times at which each of another number of shares was read: that of the oldest, if all were read."""
        return dict.fromkeys(range(1, shares + 1), min(self.read.values())) if len(self.read) == self.of else {}


def _level(audit: Audit) -> str:
    return _LEVELS[2 if audit.deep else int(audit.parts)]


def read_audit(database: Database, sync: str) -> AuditRecord:
    """Return the audits of a sync."""
    return audit_from(database.get(f"SYNC#{sync}", "AUDIT") or {})


def audit_from(item: Mapping[str, Any]) -> AuditRecord:
    """Return the audits that an item holds; for an empty item those of a sync that was not audited."""
    if not item:
        return AuditRecord()
    known = asdict(Counts()).keys()
    return AuditRecord(
        str(item["run"]),
        float(item["at"]),
        float(item["ended"]),
        bool(item["equal"]),
        float(item["equalAt"]),
        Audit.from_json(item["audit"]),
        Counts(**{name: int(value) for name, value in item["counts"].items() if name in known}),
        int(item["of"]),
        {int(part): float(at) for part, at in item["read"].items()},
        int(item["last"]),
        {level: AuditCost(int(cost["requests"]), int(cost["bytes"])) for level, cost in item["costs"].items()},
    )


def audit_request(database: Database, sync: str, before: AuditRecord, record: AuditRecord) -> dict[str, Any]:
    """Return the request that stores the audits of a sync; it is refused if they are no longer those of ``before``."""
    values = {
        "run": record.run,
        "at": number(record.at),
        "ended": number(record.ended),
        "equal": bool(record.equal),
        "equalAt": number(record.equal_at),
        "audit": record.audit.to_json(),
        "counts": {name: value for name, value in asdict(record.counts).items() if value},
        "of": record.of,
        "read": {str(part): number(at) for part, at in record.read.items()},
        "last": record.last,
        "costs": {level: asdict(cost) for level, cost in record.costs.items()},
    }
    unchanged = "#run = :before" if before.run else "attribute_not_exists(#run)"
    return database.update_request(
        f"SYNC#{sync}",
        "AUDIT",
        "SET " + ", ".join(f"#{name} = :{name}" for name in values),
        values,
        condition=unchanged,
        extra={":before": before.run} if before.run else {},
    )
