"""Watch: measure whether each sync is in sync and fresh, independently of its runs.

The audits and the restore drills of a sync become stale in the same way. A schedule that was deleted, disabled or never started causes no run and no failure. The only sign is that the latest
verification grows older than the sync's `fresh_within`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.store.drills import Proofs, is_drill_stale
from syncline.store.health import Health
from syncline.store.table import AWS_ERRORS
from syncline.telemetry import log_audit_stale, log_drill_stale, log_stale, logger, record_health, record_sync_health


@dataclass(frozen=True, slots=True)
class Watch:
    """Measures the health of syncs. ``clock`` returns Unix seconds.

    ``syncs`` yields the applied ones, and adds the names of those that this version cannot read to ``unread``. Nothing
    is known of these, so they count as stale. ``hint`` is called for each sync of which a notification may be due.
    """

    syncs: Callable[[], Iterable[tuple[Sync, Health, Proofs]]]
    unread: list[str]
    clock: Callable[[], float]
    is_due: Callable[[Sync, Health, Proofs, float], bool] = lambda _sync, _health, _proofs, _now: False
    hint: Callable[[str], None] = lambda _: None

    def measure(self) -> list[str]:
        """Record the metrics of all syncs, and log the stale ones; return their names."""
        now, stale, out_of_sync, notified = self.clock(), list[str](), 0, list[tuple[Sync, Health, Proofs]]()
        self.unread.clear()
        for sync, health, proofs in self.syncs():
            age = now - health.lag_start
            out_of_sync += health.in_sync is False
            if health.is_stale(sync.fresh_seconds, now):
                stale.append(sync.name)
                log_stale(sync.name, str(sync.fresh_within), age, health.verified)
            if sync.audit is not None and proofs.audits.is_stale(sync.audit_seconds, health, now):
                stale.append(sync.name)
                log_audit_stale(sync.name, str(sync.audit.within), proofs.audits.equal_at)
            if sync.drills is not None and is_drill_stale(proofs.drill, sync.drill_seconds, health, now):
                stale.append(sync.name)
                log_drill_stale(
                    sync.name, str(sync.drills.within), 0.0 if proofs.drill is None else proofs.drill.verified
                )
            record_sync_health(sync.name, health.in_sync, age if health.lag_start else None)
            if sync.notifies:
                notified.append((sync, health, proofs))
        stale = [*dict.fromkeys(stale), *self.unread]
        record_health(len(stale), out_of_sync)
        for sync, health, proofs in notified:
            self._hint(sync, health, proofs, now)
        return stale

    def _hint(self, sync: Sync, health: Health, proofs: Proofs, now: float) -> None:
        """Send a hint if one is due. An error is logged: the next round tries again, and other syncs have theirs."""
        try:
            if self.is_due(sync, health, proofs, now):
                self.hint(sync.name)
        except (*AWS_ERRORS, SynclineError) as error:
            logger.warning("hint not sent", extra={"sync": sync.name, "why": str(error)})
