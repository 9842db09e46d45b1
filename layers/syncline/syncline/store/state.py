"""Runs of syncs in the table: how they begin, are joined and end, and the transactions that end batches and runs.

=====================  ====================  =================================================================
pk                     sk                    content
=====================  ====================  =================================================================
``SYNC#<name>``        ``CURRENT``           the run in progress, if any, and the number of the latest one
``SYNC#<name>``        ``RUN#<id>``          a run; IDs sort by time
``SYNC#<name>``        ``PLAN#<id>``         a plan that may not be over
=====================  ====================  =================================================================

A batch ends in one transaction: its record is put, if there is none yet, and its counts are added. So counts are right
however often a message is delivered. The batches that follow from it are stored in the record before they are sent:
a function that finds the record sends them again, so none is lost if another dies between the two.

:mod:`syncline.store.batches` explains how the end of a run is recognized.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from syncline.errors import SynclineError
from syncline.messages import Batch
from syncline.model import NO_TRAFFIC, Audit, Counts, Run, RunStatus, Scope, Step, Traffic, Trigger
from syncline.store.audits import AuditRecord, audit_request, read_audit
from syncline.store.batches import Batches, BatchRecord, Progress
from syncline.store.drills import Drill, Proofs, drill_from, drill_request
from syncline.store.facts import Facts
from syncline.store.failures import Failures, Key
from syncline.store.health import Health, health_request, pause_request, read_health, resume_request
from syncline.store.leases import Every, Lease, Leases, every
from syncline.store.runs import RETENTION, next_waiting, run_from, run_item, waiting_item
from syncline.store.syncs import Configurations
from syncline.store.table import Database, number
from syncline.store.totals import totals_update

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

LOST_AFTER: Final = 2 * 3600
"""Seconds without a commit after which a run counts as lost: longer than any message stays invisible."""
JOINED_FOR: Final = 15 * 60
"""Seconds after the last commit of a run's own work for which scans join it: no function works for longer."""
CANCELLED_AFTER: Final = 10.0
"""Seconds for which a cancelled run waits for the functions that are working on it."""
REPORTS: Final = 4
"""Number of attempts to report the end of a run."""
_TRIES: Final = 12
_OPEN: Final = {":running": RunStatus.RUNNING.value, ":cancelling": RunStatus.CANCELLING.value}
_IS_OPEN: Final = "#status IN (:running, :cancelling)"
_IS_RUNNING: Final = "#status = :running"
_RUNNING: Final = {":running": RunStatus.RUNNING.value}


class State(Configurations, Batches):
    """Runs, batches and configurations of all syncs. `clock` returns Unix seconds; `every` calls the lease renewals."""

    def __init__(self, table: Table, clock: Callable[[], float] = time.time, every: Every = every) -> None:
        super().__init__(Database(table), clock)
        self.leases = Leases(self._db, clock, every)
        self.facts = Facts(self._db, clock)
        self.failures = Failures(self._db, clock)

    # -- runs ----------------------------------------------------------------------------------------------------

    def begin_run(  # noqa: PLR0913 - each is a fact of the run
        self,
        sync: str,
        run_id: str,
        trigger: Trigger,
        scope: Scope,
        *,
        plan: bool = False,
        allow_removals: int | None = None,
        asked: Iterable[Key] = (),
        audit: Audit | None = None,
        drill: float | None = None,
    ) -> tuple[Run, Batch]:
        """Begin a run and announce its first batch. A repeated ID returns the run as it was stored.

        A plan moves nothing, so it may run beside anything; so do audits and drills, which are plans. An audit without
        the number of its share reads the one that is due. `asked` are the items whose dead letters a retry answers
        for. Raises ALREADY_RUNNING.
        """
        if asked:
            self.failures.ask(sync, run_id, asked)
        if plan:
            self._end_lost_plans(sync, run_id)
        if audit is not None and audit.part < 1:
            audit = self.audits(sync).due(audit)
        for _ in range(_TRIES):
            current = self._db.get(f"SYNC#{sync}", "CURRENT") or {}
            if not plan and current.get("run") not in (None, run_id):
                begun = self._find(sync, run_id)
                if begun is not None:  # it is over, and its message was delivered again
                    return begun, first_batch(begun)
                self._make_way(sync, str(current["run"]))
            latest, started = int(current.get("number", 0)), self._clock()
            run = Run(
                run_id,
                sync,
                latest + 1,
                trigger,
                scope,
                started,
                plan=plan,
                allow_removals=allow_removals,
                config=self.applied_digest(sync),
                drill=drill,
                # Of a sync that an earlier version applied nothing is known: its items may have been equal for years.
                lag_start=self.health(sync).lag_start or started,
                audit=audit,
            )
            root = first_batch(run)
            requests = [
                self._db.put_request(run_item(run), "attribute_not_exists(pk)"),
                self._announcement(root.run, root.id),
            ]
            if plan:
                row = {"pk": f"SYNC#{sync}", "sk": f"PLAN#{run_id}", "expires": int(run.started) + RETENTION}
                requests.append(self._db.put_request(row, "attribute_not_exists(pk)"))
            else:
                is_unchanged = "#number = :latest" if current else "attribute_not_exists(#number)"
                requests.append(
                    self._db.update_request(
                        f"SYNC#{sync}",
                        "CURRENT",
                        "SET #run = :run, #number = :number",
                        {"run": run_id, "number": latest + 1},
                        condition=f"attribute_not_exists(#run) AND {is_unchanged}",
                        extra={":latest": latest} if current else {},
                    )
                )
            refused = self._db.transact(requests)
            if not refused:
                return run, root
            if 0 in refused:
                run = self.run(sync, run_id)
                return run, first_batch(run)
        raise SynclineError("ALREADY_RUNNING", f"other runs of {sync} are being started at the same time")

    def _make_way(self, sync: str, run_id: str) -> None:
        """End a run that was cancelled or lost, so that another can begin; raises ALREADY_RUNNING."""
        if self._find(sync, run_id) is None:
            self._db.apply(self._free_sync(sync, run_id))
            return
        self.end_cancelled(sync, run_id)
        run = self.run(sync, run_id)
        if run.status is RunStatus.CANCELLING:
            what = f"run {run_id} of {sync} is being cancelled, which takes {CANCELLED_AFTER:.0f} s at most"
            raise SynclineError("ALREADY_RUNNING", what)
        if not run.over and self._silence(run) < LOST_AFTER:
            started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.started))
            raise SynclineError("ALREADY_RUNNING", f"run {run_id} of {sync} has been in progress since {started}")
        self._end_lost(run)

    def _silence(self, run: Run) -> float:
        """Return the seconds since the latest commit of a run."""
        return self._clock() - max(self.progress(run.id).latest, run.started)

    def _end_lost_plans(self, sync: str, run_id: str) -> None:
        """End the lost plans of a sync: unlike runs, they make way for no other one."""
        for key in list(self._db.sort_keys(f"SYNC#{sync}", "PLAN#")):
            run = self._find(sync, key.removeprefix("PLAN#"))
            if run is None or run.over:  # the function that ended it has died since
                self._db.delete(f"SYNC#{sync}", key)
            elif run.id != run_id and self._silence(run) >= LOST_AFTER:
                self._end_lost(run)

    def _end_lost(self, run: Run) -> None:
        self._close(run.id)
        progress = self.progress(run.id)
        self._end_run(_with_progress(run, progress), RunStatus.LOST, joins=None)

    def join_run(self, sync: str, own: str, scope: Scope) -> Batch | None:
        """Announce a further scan in the run in progress. Return None if there is none, or it is the run `own`.

        `own` is the ID that a separate run of this scan would have; a scan joins a run only once. A run is not joined if
        it began with another configuration than the applied one, which it would use for the scan. Nor is a run of whose
        own work nothing was committed for :data:`JOINED_FOR` seconds: scans that keep joining would keep it open and
        full scans waiting. A scan that has joined before continues, because the run does not end without it.
        """
        for _ in range(_TRIES):
            current = self._db.get(f"SYNC#{sync}", "CURRENT") or {}
            if current.get("run") in (None, own):
                return None
            run_id = str(current["run"])
            run = self._find(sync, run_id)
            if run is None or run.status is RunStatus.CANCELLING:
                return None
            batch_id = f"{own}-{run_id}-look"  # repeated after its run has ended, it joins the next one as other work
            batch = Batch(run_id, sync, Step.DISCOVER, batch_id, scope=scope, scan=batch_id)
            pk, sk = self._record_key(run_id, batch_id, "JOIN")
            old = self._clock() - JOINED_FOR
            is_silent = run.started <= old and self.progress(run_id).own <= old
            if is_silent or run.config != self.applied_digest(sync):
                return batch if self._db.get(pk, sk) is not None else None
            join = {"pk": pk, "sk": sk, "expires": int(self._clock()) + RETENTION}
            refused = self._db.transact(
                [
                    self._db.put_request(join, "attribute_not_exists(pk)"),
                    self._db.update_request(
                        *_run_key(run),
                        "ADD #joins :joins",
                        {"joins": 1},
                        condition=_IS_RUNNING,
                        extra=_RUNNING,
                        names=("status",),
                    ),
                    self._announcement(run_id, batch_id),
                ]
            )
            if not refused or 0 in refused:
                return batch
        return None

    def is_joined(self, sync: str, run_id: str) -> bool:
        """Return True if a further scan has joined a run."""
        return "joins" in (self._db.get(f"SYNC#{sync}", f"RUN#{run_id}") or {})

    def health(self, sync: str) -> Health:
        """Return the health of a sync."""
        return read_health(self._db, sync)

    def audits(self, sync: str) -> AuditRecord:
        """Return what is known of the audits of a sync."""
        return read_audit(self._db, sync)

    def drill(self, sync: str) -> Drill | None:
        """Return the latest restore drill of a sync that has ended, None if there was none."""
        return drill_from(self._db.get(f"SYNC#{sync}", "DRILL"))

    def proofs(self, sync: str) -> Proofs:
        """Return the audits and the latest restore drill of a sync."""
        return Proofs(self.audits(sync), self.drill(sync))

    def pause(self, sync: str) -> None:
        """Let nobody but its operator start runs of a sync."""
        self._db.apply(pause_request(self._db, sync, self._clock()))

    def resume(self, sync: str) -> bool:
        """End the pause of a sync. Return False if it was not paused."""
        return self._db.apply(resume_request(self._db, sync, self._clock())) is not None

    def run(self, sync: str, run_id: str) -> Run:
        """Return a run, with its counts only if it is over; raises NO_SUCH_RUN."""
        run = self._find(sync, run_id)
        if run is None:
            raise SynclineError("NO_SUCH_RUN", f"{sync} has no run {run_id}")
        return run

    def _find(self, sync: str, run_id: str) -> Run | None:
        item = self._db.get(f"SYNC#{sync}", f"RUN#{run_id}")
        return None if item is None else run_from(item)

    def runs(self, sync: str, limit: int = 10) -> list[Run]:
        """Return the latest runs of a sync, newest first."""
        return [run_from(item) for item in self._db.query(f"SYNC#{sync}", "RUN#", newest_first=True, limit=limit)]

    def runs_before(self, sync: str, before: str, limit: int) -> list[Run]:
        """Return the latest runs of a sync that began before the run with the ID `before`, newest first."""
        found = self._db.query_beyond(f"SYNC#{sync}", f"RUN#{before}", limit, newest_first=True)
        return [run_from(item) for item in found if str(item["sk"]).startswith("RUN#")]

    def current_run(self, sync: str) -> Run | None:
        """Return the run in progress, if any."""
        current = self._db.get(f"SYNC#{sync}", "CURRENT") or {}
        return self._find(sync, str(current["run"])) if current.get("run") else None

    def cancel_run(self, sync: str, run_id: str) -> Run:
        """Cancel a run: what is being written is finished, and nothing new begins; see :meth:`end_cancelled`."""
        self._db.update(
            f"SYNC#{sync}",
            f"RUN#{run_id}",
            "SET #status = :status, #cancelled = :cancelled",
            {"status": RunStatus.CANCELLING.value, "cancelled": number(self._clock())},
            condition=_IS_RUNNING,
            extra=_RUNNING,
        )
        run = self.run(sync, run_id)
        if not run.over and self._silence(run) > LOST_AFTER:
            self._end_lost(run)
            run = self.run(sync, run_id)
        return run

    def end_cancelled(
        self, sync: str, run_id: str, settle: Callable[[Run], Counts] = lambda run: run.counts
    ) -> Run | None:
        """End a run that was cancelled :data:`CANCELLED_AFTER` seconds ago; return it to the one caller who ended it.

        No function is needed for that: the items of batches that have not ended are cancelled. Any number of callers may
        do this at once. `settle` is that of :meth:`finish_run`.
        """
        item = self._db.get(f"SYNC#{sync}", f"RUN#{run_id}")
        if item is None:
            return None
        run, since = run_from(item), float(item.get("cancelled", 0))
        if run.status is not RunStatus.CANCELLING or self._clock() - since < CANCELLED_AFTER:
            return None
        self._close(run_id)
        self._cancel_open(run_id)
        progress = self.progress(run_id)
        run = _with_progress(run, progress)
        run = replace(run, counts=settle(run))
        return self.run(sync, run_id) if self._end_run(run, RunStatus.CANCELLED, joins=None) else None

    def finish_run(
        self, sync: str, run_id: str, settle: Callable[[Run], Counts] = lambda run: run.counts
    ) -> Run | None:
        """End a run if every announced batch has ended; return it to the one caller who ended it.

        A run that was cancelled :data:`CANCELLED_AFTER` seconds ago is ended in any case. `settle` is called just before,
        with the run and its counts, and returns the counts that it ends with.
        """
        item = self._db.get(f"SYNC#{sync}", f"RUN#{run_id}")
        if item is None or (run := run_from(item)).over:
            return None
        is_cancelled, progress = run.status is RunStatus.CANCELLING, self.progress(run_id)
        if not progress.settled:
            return self.end_cancelled(sync, run_id, settle) if is_cancelled else None
        status = RunStatus.CANCELLED if is_cancelled else RunStatus.DONE
        run = _with_progress(run, progress)
        run = replace(run, counts=settle(run))
        # A scan that joined after the shards were read has changed `joins`; the run then continues.
        has_ended = self._end_run(run, status, joins=int(item.get("joins", 0)))
        return self.run(sync, run_id) if has_ended else None

    def _end_run(self, run: Run, status: RunStatus, *, joins: int | None) -> bool:
        """End a run with its counts, and free its sync.

        Return False if a scan has joined it meanwhile (`joins`), or it had ended.
        """
        counts, now = run.counts, self._clock()
        condition, extra = _IS_OPEN, dict[str, Any](_OPEN)
        if joins is not None:
            condition += " AND (attribute_not_exists(joins) OR joins = :joins)" if not joins else " AND joins = :joins"
            extra[":joins"] = joins
        requests = [
            self._db.update_request(
                *_run_key(run),
                "SET #status = :status, #ended = :ended, #counts = :counts, #reports = :reports, #lags = :lags, "
                "#traffic = :traffic",
                {
                    "status": status.value,
                    "ended": number(now),
                    "counts": asdict(counts),
                    "reports": REPORTS,
                    "lags": run.lags.counters,
                    "traffic": run.traffic.counters,
                },
                condition=condition,
                extra=extra,
            )
        ]
        if not run.plan:
            is_good = status is RunStatus.DONE and not counts.failed and not counts.known
            requests += [
                self._free_sync(run.sync, run.id),
                totals_update(self._db, run, now, succeeded=is_good),
            ]
        if run.drill is not None and status is RunStatus.DONE and run.scope.everything:
            requests.append(drill_request(self._db, run, counts, now))
        for _ in range(_TRIES):
            health = [] if run.plan else self._health_requests(run, status, now)
            refused = self._db.transact([*requests, *health])
            if not refused:
                break
            if refused != {len(requests)}:
                return False
        else:
            raise SynclineError("AWS_UNAVAILABLE", f"{run.sync} was applied again and again while a run of it ended")
        if run.plan:
            self._db.delete(f"SYNC#{run.sync}", f"PLAN#{run.id}")
        if run.audit is not None and status is RunStatus.DONE and run.scope.everything:
            self._note_audit(replace(run, ended=now))
        return True

    def _note_audit(self, run: Run) -> None:
        """Note a complete audit that has ended, unless a later one was noted before or the sync is another one now."""
        if run.config != self.applied_digest(run.sync):
            return
        for _ in range(_TRIES):
            record = self.audits(run.sync)
            if record.run >= run.id or self._db.apply(audit_request(self._db, run.sync, record, record.after(run))):
                return

    def _health_requests(self, run: Run, status: RunStatus, now: float) -> list[dict[str, Any]]:
        """Return the request that stores the health of a sync after a run; none if the run says nothing about it."""
        health = self.health(run.sync)  # before the configuration, which is changed in one transaction with it
        applied = self.applied_digest(run.sync)
        after = health.after(run, status, run.counts, now)
        if applied is None or run.config not in (None, applied) or after == health:
            return []
        return [health_request(self._db, run.sync, after)]

    def take_report(self, run: Run) -> bool:
        """Take one of the attempts to report the end of a run; False if none is left, or it was reported."""
        taken = self._db.update(
            *_run_key(run),
            "SET #reports = #reports - :one",
            {},
            condition="#reports > :none",
            extra={":one": 1, ":none": 0},
            names=("reports",),
        )
        return taken is not None

    def reported(self, run: Run) -> None:
        """Note that the end of a run was reported."""
        exists = "attribute_exists(#reports)"
        self._db.update(*_run_key(run), "REMOVE #reports", {}, condition=exists, names=("reports",))

    def note_waiting(self, run: Run, error: SynclineError, seconds: float) -> None:
        """Note why work of a run waits, and for how many seconds. A later commit that counts an item makes it void."""
        waiting = next_waiting(run, error, seconds, self._clock())
        if waiting is not None:
            self._db.update(
                *_run_key(run),
                "SET #waiting = :waiting",
                {"waiting": waiting_item(waiting)},
                condition=_IS_OPEN,
                extra=_OPEN,
                names=("status",),
            )

    def _free_sync(self, sync: str, run_id: str) -> dict[str, Any]:
        """Return the request that ends the right of a run to be the only one of its sync."""
        extra = {":run": run_id}
        return self._db.update_request(
            f"SYNC#{sync}", "CURRENT", "REMOVE #run", {}, condition="#run = :run", extra=extra, names=("run",)
        )

    # -- batches -------------------------------------------------------------------------------------------------

    def open_batch(self, batch: Batch) -> tuple[Run | None, BatchRecord | None]:
        """Return the run of a batch, None if it is not recorded, and how the batch ended, None if it has not."""
        run_key = (f"SYNC#{batch.sync}", f"RUN#{batch.run}")
        record_key = self._record_key(batch.run, batch.id)
        found = {(item["pk"], item["sk"]): item for item in self._db.batch_get([run_key, record_key])}
        run, record = found.get(run_key), found.get(record_key)
        return None if run is None else run_from(run), None if record is None else self._record_from(record)

    def end_batch(
        self,
        batch: Batch,
        record: BatchRecord,
        counts: Counts,
        lease: Lease | None = None,
        traffic: Traffic = NO_TRAFFIC,
    ) -> BatchRecord | None:
        """End a batch exactly once: write its record, add its counts and release its lease, in one transaction.

        Return the record that counts: the given one or, if the batch had ended before, the stored one. Return None if
        its run was ended without it. Raises LEASE_LOST if another writer has taken the lease meanwhile.
        """
        requests = self._end(batch, record, counts, traffic)
        if lease is not None:
            requests.append(self.leases.release_request(lease))
        refused = self._db.transact(requests)
        if 0 in refused:
            if lease is not None:
                self.leases.release(lease)
            stored = self.batch_record(batch.run, batch.id)
            assert stored is not None, "the table refused a record that does not exist"
            return stored
        if 1 in refused:
            return None
        if refused:
            raise SynclineError("LEASE_LOST", f"another writer took {lease.reference if lease else 'the lease'}")
        if lease is not None:
            lease.expires = 0.0
        return record


def first_batch(run: Run) -> Batch:
    """Return the batch that a run begins with: a scan of its scope."""
    audit = run.audit is not None
    return Batch(run.id, run.sync, Step.DISCOVER, run.id, scope=run.scope, plan=run.plan, audit=audit)


def _with_progress(run: Run, progress: Progress) -> Run:
    """Return a run that is ending, with its counters."""
    return replace(run, counts=progress.counts, lags=progress.lags, traffic=progress.traffic)


def _run_key(run: Run) -> tuple[str, str]:
    return f"SYNC#{run.sync}", f"RUN#{run.id}"
