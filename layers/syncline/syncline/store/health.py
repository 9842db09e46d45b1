"""The health of syncs in the table: in sync or not, since when, and when that was last verified.

There is one item for each sync, ``SYNC#<name>`` / ``HEALTH``. The transaction that ends a run updates it. Applying a sync
notes the time from which a verification is expected. The item does not expire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from syncline.model import Counts, Run, RunStatus
from syncline.store.table import Database, number


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a sync. Times are Unix seconds, 0 if unknown.

    ``in_sync`` is None before the first complete scan, and ``since`` is the time when it became what it is. ``verified``
    is the start of the latest complete scan after which everything that it found was verified: at that time the target
    had all of the source, except for acknowledged failures. ``expected`` is the time when the sync was first applied,
    enabled, or given another source, target or selection. ``paused`` is the time when an operator paused the sync, 0 if
    it is not paused. ``scanned`` is the start of the latest complete scan of which nothing is left but known failures:
    once a later run has solved these, everything that the scan found is verified. It is 0 if there is none.
    """

    in_sync: bool | None = None
    since: float = 0.0
    verified: float = 0.0
    expected: float = 0.0
    paused: float = 0.0
    scanned: float = 0.0

    @property
    def lag_start(self) -> float:
        """The time since which a difference can exist: one from before counts from here.

        A pause does not change it: changes meanwhile are late.
        """
        return self.verified or self.expected

    def is_stale(self, fresh_within: float | None, now: float) -> bool:
        """Return True if the latest verification is more than ``fresh_within`` seconds ago; None sets no limit.

        A paused sync is never stale.
        """
        return fresh_within is not None and not self.paused and now - max(self.verified, self.expected) > fresh_within

    def after(self, run: Run, status: RunStatus, counts: Counts, now: float) -> Health:
        """Return the health after a run that ends now with these counts."""
        lost = status is RunStatus.LOST and counts.queued > counts.ended
        scanned = self.scanned
        if counts.conflict or counts.untrusted or counts.cancelled or lost:
            scanned = 0.0
        elif status is RunStatus.DONE and run.scope.everything:
            scanned = run.started
        health = replace(self, scanned=scanned)
        refused = counts.conflict or counts.untrusted
        if counts.failed or counts.known or refused or counts.cancelled or lost:
            return health if self.in_sync is False else replace(health, in_sync=False, since=now)
        if status is not RunStatus.DONE or not scanned:
            return self
        verified = replace(health, verified=max(self.verified, scanned))
        in_sync = not counts.acknowledged
        if in_sync is self.in_sync:
            return verified
        return replace(verified, in_sync=in_sync, since=now if counts.moved or counts.removed else run.started)


def read_health(database: Database, sync: str) -> Health:
    """Return the health of a sync."""
    return health_from(database.get(f"SYNC#{sync}", "HEALTH") or {})


def health_from(item: Mapping[str, Any]) -> Health:
    """Return the health that an item holds; that of a sync of which nothing is known for an empty item."""
    in_sync = item.get("inSync")
    times = (float(item.get(name, 0)) for name in ("since", "verified", "expected", "paused", "scanned"))
    return Health(None if in_sync is None else bool(in_sync), *times)


def health_request(database: Database, sync: str, health: Health) -> dict[str, Any]:
    """Return the request that stores the health of a sync after a run.

    It leaves ``expected`` as it is, and is refused if that has changed: the sync was removed, or is another one now.
    """
    values: dict[str, Any] = {"verified": number(health.verified), "scanned": number(health.scanned)}
    if health.in_sync is not None:
        values |= {"inSync": health.in_sync, "since": number(health.since)}
    is_expected = "#expected = :expected" if health.expected else "attribute_not_exists(#expected)"
    return database.update_request(
        f"SYNC#{sync}",
        "HEALTH",
        "SET " + ", ".join(f"#{name} = :{name}" for name in values),
        values,
        condition=is_expected,
        extra={":expected": number(health.expected)} if health.expected else {},
        names=("expected",),
    )


def expectation_request(database: Database, sync: str, now: float, *, forget: bool) -> dict[str, Any]:
    """Return the request that notes that a sync is expected to be verified from now on, unless that was noted before.

    With ``forget`` it is noted in any case, and what is known of earlier scans is forgotten.
    """
    names = ("inSync", "since", "verified", "scanned") if forget else ()
    if forget:
        expression = "SET #expected = :expected REMOVE " + ", ".join(f"#{name}" for name in names)
    else:
        expression = "SET #expected = if_not_exists(#expected, :expected)"
    return database.update_request(f"SYNC#{sync}", "HEALTH", expression, {"expected": number(now)}, names=names)


def pause_request(database: Database, sync: str, now: float) -> dict[str, Any]:
    """Return the request that notes that a sync is paused, unless it was before."""
    expression = "SET #paused = if_not_exists(#paused, :paused)"
    return database.update_request(f"SYNC#{sync}", "HEALTH", expression, {"paused": number(now)})


def resume_request(database: Database, sync: str, now: float) -> dict[str, Any]:
    """Return the request that ends a pause, with a verification expected from now on. It is refused without a pause."""
    expression, values = "SET #expected = :expected REMOVE #paused", {"expected": number(now)}
    condition = "attribute_exists(#paused)"
    return database.update_request(f"SYNC#{sync}", "HEALTH", expression, values, condition=condition, names=("paused",))
