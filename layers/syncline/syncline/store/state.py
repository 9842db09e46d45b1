"""Runs in the DynamoDB table: their batches, counts and results, and the transactions that end them.

=====================  ====================  =================================================================
pk                     sk                    what
=====================  ====================  =================================================================
``SYNC#<name>``        ``CURRENT``           the run under way, if any, and the number of the latest one
``SYNC#<name>``        ``RUN#<id>``          one run; ids sort by time
``SYNC#<name>``        ``PLAN#<id>``         a plan that may not be over
``RUN#<id>#<shard>``   ``COUNTS``            a share of the run's counters
``RUN#<id>#<shard>``   ``BATCH#<id>``        one batch that came to its end: its results, and what follows from it
``RUN#<id>#<shard>``   ``PART#<digest>#``    a part of what a record of a batch has no room for
``RUN#<id>#<shard>``   ``JOIN#<id>``         a look that joined the run
=====================  ====================  =================================================================

A batch ends in one transaction: its record is put, if it is not there yet, and its counts are added. So counts are
right however often a message is delivered. What follows from a batch is stored in its record before it is sent:
whoever finds the record sends it again, and nothing is lost between the two.

A run is over when every batch that was announced has ended. That is known without a central counter: each shard
carries a ``balance``, to which announcing a batch adds a hash of its id and ending it subtracts the same; the sum is
zero only when the two sets are equal, whatever order the shards are read in.

A run that was cancelled or lost is over without that. Its shards are marked ``closed``, which the transactions that end
batches look for: from then on nothing is added, and what has no record was not done.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from syncline.errors import SynclineError
from syncline.messages import Batch, Dead, Outgoing, from_json, to_json
from syncline.model import Counts, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.store.facts import Facts
from syncline.store.failures import Failures, Key
from syncline.store.leases import Every, Lease, Leases, every
from syncline.store.run_items import RETENTION, next_waiting, run_item, run_of, waiting_item
from syncline.store.syncs import Configurations
from syncline.store.table import Database, number, pack, unpack
from syncline.store.totals import addition

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SHARDS: Final = 8
"""Into how many partitions a run's records are spread; one partition takes 1,000 writes a second."""
LOST_AFTER: Final = 2 * 3600
"""Seconds without a sign of life after which a run may be taken for lost: longer than any message stays unseen."""
JOINED_FOR: Final = 15 * 60
"""Seconds after the last sign of a run's own work for which scans join it: no function works for longer."""
CANCELLED_AFTER: Final = 10.0
"""Seconds for which a cancelled run waits for its functions to end what they are at."""
REPORTS: Final = 4
"""How often the report of a run's end is attempted."""
_TRIES: Final = 12
_RUN_ID: Final = re.compile(r"\d{8}-\d{6}-[0-9a-f]{10}")
_CANCELLED_AT_ONCE: Final = 400
"""Items after which those of a cancelled run begin another record."""
_ROOM: Final = 350_000
"""Bytes of packed content that an item of the table has room for: DynamoDB takes 400 KB."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """How a batch ended: its results, the batches that follow from it, and the work given up for good."""

    results: tuple[Result, ...]
    following: tuple[Outgoing, ...] = ()
    dead: tuple[Dead, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """A run's counters as they stand. ``settled`` when no batch is under way; ``heard`` is the latest commit's time.

    ``advanced`` is the time of the latest commit that counted an item, ``own`` that of the latest one of the run's first
    scan and of what followed from it.
    """

    counts: Counts
    settled: bool
    heard: float
    advanced: float = 0.0
    own: float = 0.0


class State(Configurations):
    """The table. `clock` gives Unix seconds; `every` calls the renewals of leases."""

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
    ) -> tuple[Run, Batch]:
        """Begin a run and announce its first batch; the same id again returns the run as it was stored.

        A plan moves nothing, so it may run beside anything. ``asked`` are the items of the dead letters that a retry
        answers for. Raises ALREADY_RUNNING.
        """
        if asked:
            self.failures.ask(sync, run_id, asked)
        if plan:
            self._end_lost_plans(sync, run_id)
        for _ in range(_TRIES):
            current = self._db.get(f"SYNC#{sync}", "CURRENT") or {}
            if not plan and current.get("run") not in (None, run_id):
                begun = self._known(sync, run_id)
                if begun is not None:  # it is over, and its message has come again
                    return begun, first_batch(begun)
                self._make_way(sync, str(current["run"]))
            latest = int(current.get("number", 0))
            run = Run(
                run_id,
                sync,
                latest + 1,
                trigger,
                scope,
                self._clock(),
                plan=plan,
                allow_removals=allow_removals,
                config=self.applied_digest(sync),
            )
            root = first_batch(run)
            writes = [
                self._db.put_if(run_item(run), "attribute_not_exists(pk)"),
                self._announcement(root.run, root.id),
            ]
            if plan:
                row = {"pk": f"SYNC#{sync}", "sk": f"PLAN#{run_id}", "expires": int(run.started) + RETENTION}
                writes.append(self._db.put_if(row, "attribute_not_exists(pk)"))
            else:
                writes.append(
                    self._db.update(
                        f"SYNC#{sync}",
                        "CURRENT",
                        "SET #run = :run, #number = :number",
                        {"run": run_id, "number": latest + 1},
                        condition="attribute_not_exists(#run) AND "
                        + ("#number = :before" if current else "attribute_not_exists(#number)"),
                        extra={":before": latest} if current else {},
                    )
                )
            refused = self._db.transact(writes)
            if not refused:
                return run, root
            if 0 in refused:
                run = self.run(sync, run_id)
                return run, first_batch(run)
        raise SynclineError("ALREADY_RUNNING", f"{sync} is being started by many at once")

    def _make_way(self, sync: str, run_id: str) -> None:
        """End a run that was cancelled or lost, so that another can begin; raises ALREADY_RUNNING."""
        if self._known(sync, run_id) is None:
            self._db.update_if(self._free_sync(sync, run_id))
            return
        self.end_cancelled(sync, run_id)
        run = self.run(sync, run_id)
        if run.status is RunStatus.CANCELLING:
            what = f"run {run_id} of {sync} is being cancelled, which takes {CANCELLED_AFTER:.0f} s at most"
            raise SynclineError("ALREADY_RUNNING", what)
        heard = max(self.progress(run_id).heard, run.started)
        if not run.over and self._clock() - heard < LOST_AFTER:
            started = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.started))
            raise SynclineError("ALREADY_RUNNING", f"{sync} has run {run_id} under way since {started}")
        self._end_lost(run)

    def _end_lost_plans(self, sync: str, run_id: str) -> None:
        """End plans of a sync of which nothing was heard for long: no run makes way for another one there."""
        for key in list(self._db.sort_keys(f"SYNC#{sync}", "PLAN#")):
            run = self._known(sync, key.removeprefix("PLAN#"))
            if run is None or run.over:  # whoever ended it has died since
                self._db.delete(f"SYNC#{sync}", key)
            elif run.id != run_id and self._clock() - max(self.progress(run.id).heard, run.started) >= LOST_AFTER:
                self._end_lost(run)

    def _end_lost(self, run: Run) -> None:
        self._close(run.id)
        self._end_run(run, RunStatus.LOST, self.progress(run.id).counts, joins=None)

    def join_run(self, sync: str, own: str, scope: Scope) -> Batch | None:
        """Announce a further look in the run under way; None if none is, or it is the one that ``own`` names.

        ``own`` is the id that a run of this look's own would have; the same joins a run only once. No look joins a run
        that began with another configuration than the applied one: it would be made by that one. Nor one of whose own
        work nothing was heard for :data:`JOINED_FOR`: looks that keep joining would keep it open, and full scans away. A
        look that has joined before goes on, for the run does not end without it.
        """
        for _ in range(_TRIES):
            current = self._db.get(f"SYNC#{sync}", "CURRENT") or {}
            if current.get("run") in (None, own):
                return None
            run_id = str(current["run"])
            run = self._known(sync, run_id)
            if run is None or run.status is RunStatus.CANCELLING:
                return None
            batch_id = f"{own}-{run_id}-look"  # one that comes again after its run joins the next one as other work
            batch = Batch(run_id, sync, Step.DISCOVER, batch_id, scope=scope, scan=batch_id)
            join = self._record(run_id, batch_id, "JOIN")
            old = self._clock() - JOINED_FOR
            is_silent = run.started <= old and self.progress(run_id).own <= old
            if is_silent or run.config != self.applied_digest(sync):
                return batch if self._db.get(join["pk"], join["sk"]) is not None else None
            refused = self._db.transact(
                [
                    self._db.put_if(join, "attribute_not_exists(pk)"),
                    self._db.update(
                        f"SYNC#{sync}",
                        f"RUN#{run_id}",
                        "ADD #joins :joins",
                        {"joins": 1},
                        condition="#status = :running",
                        extra={":running": RunStatus.RUNNING.value},
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
        item = self._db.get(f"SYNC#{sync}", f"RUN#{run_id}") or {}
        return "joins" in item

    def run(self, sync: str, run_id: str) -> Run:
        """A run as it stands, its counts only once it is over; raises NO_SUCH_RUN."""
        run = self._known(sync, run_id)
        if run is None:
            raise SynclineError("NO_SUCH_RUN", f"{sync} has no run {run_id}")
        return run

    def _known(self, sync: str, run_id: str) -> Run | None:
        item = self._db.get(f"SYNC#{sync}", f"RUN#{run_id}")
        return None if item is None else run_of(item)

    def runs(self, sync: str, limit: int = 10) -> list[Run]:
        """The latest runs of a sync, newest first."""
        items = self._db.query(f"SYNC#{sync}", "RUN#", newest_first=True, limit=limit)
        return [run_of(item) for item in items]

    def current_run(self, sync: str) -> Run | None:
        """The run under way, if any."""
        current = self._db.get(f"SYNC#{sync}", "CURRENT") or {}
        return self._known(sync, str(current["run"])) if current.get("run") else None

    def cancel_run(self, sync: str, run_id: str) -> Run:
        """Ask a run to end: what is being written is finished, nothing new is begun; see :meth:`end_cancelled`."""
        self._db.update_if(
            self._db.update(
                f"SYNC#{sync}",
                f"RUN#{run_id}",
                "SET #status = :status, #cancelled = :cancelled",
                {"status": RunStatus.CANCELLING.value, "cancelled": number(self._clock())},
                condition="#status = :running",
                extra={":running": RunStatus.RUNNING.value},
            )
        )
        run = self.run(sync, run_id)
        if not run.over and self._clock() - max(self.progress(run_id).heard, run.started) > LOST_AFTER:
            self._end_lost(run)
            run = self.run(sync, run_id)
        return run

    def end_cancelled(
        self, sync: str, run_id: str, settle: Callable[[Run], Counts] = lambda run: run.counts
    ) -> Run | None:
        """End a run that was cancelled :data:`CANCELLED_AFTER` seconds ago; return it to the one caller who ended it.

        That needs no function: the items of batches that have not ended are cancelled. Whoever looks at the run may call
        this, any number at once. ``settle`` is that of :meth:`finish_run`.
        """
        item = self._db.get(f"SYNC#{sync}", f"RUN#{run_id}")
        if item is None:
            return None
        run, since = run_of(item), float(item.get("cancelled", 0))
        if run.status is not RunStatus.CANCELLING or self._clock() - since < CANCELLED_AFTER:
            return None
        self._close(run_id)
        self._cancel_open(run_id)
        counts = settle(replace(run, counts=self.progress(run_id).counts))
        return self.run(sync, run_id) if self._end_run(run, RunStatus.CANCELLED, counts, joins=None) else None

    def _close(self, run_id: str) -> None:
        """Let no batch of a run end from now on, so that its records and counts stay as they are."""
        for shard in range(SHARDS):
            values = {"closed": True, "expires": int(self._clock()) + RETENTION}
            update = self._db.update(
                _shard_key(run_id, shard), "COUNTS", "SET #closed = :closed, #expires = :expires", values
            )
            self._db.update_if(update)

    def _cancel_open(self, run_id: str) -> None:
        """Add the results of items whose batches have not ended in a closed run; done again it adds nothing.

        What a scan that joined the run had sent on has no results of its own, as in :mod:`syncline.steps.once`.
        """
        ended = {key for shard in range(SHARDS) for key in self._db.sort_keys(_shard_key(run_id, shard), "BATCH#")}
        chunk, again, chunks = list[Result](), 0, 0

        def add() -> None:
            nonlocal chunk, again, chunks
            self.add_results(run_id, f"cancelled-{chunks}", chunk, queued=-again)
            chunk, again, chunks = [], 0, chunks + 1

        for batch in self._following(run_id):
            if f"BATCH#{batch.id}" in ended:
                continue
            if batch.scan is None:
                chunk += [Result.cancelled(item) for item in batch.items]
            else:
                again += len(batch.items)
            if len(chunk) >= _CANCELLED_AT_ONCE:
                add()
        if chunk or again:
            add()

    def _following(self, run_id: str) -> Iterator[Batch]:
        """Yield the batches that were announced in records of a run, in a fixed order."""
        for shard in range(SHARDS):
            for item in self._db.query(_shard_key(run_id, shard), "BATCH#"):
                yield from (Outgoing.from_json(each).batch for each in unpack(self._whole(item, "following")))

    def finish_run(
        self, sync: str, run_id: str, settle: Callable[[Run], Counts] = lambda run: run.counts
    ) -> Run | None:
        """End the run if every batch that was announced has ended; the run for the one caller who ended it.

        A run that was cancelled :data:`CANCELLED_AFTER` seconds ago is ended in any case.

        ``settle`` is called just before, with the run and its counts, and returns the counts that it ends with.
        """
        item = self._db.get(f"SYNC#{sync}", f"RUN#{run_id}")
        if item is None:
            return None
        run = run_of(item)
        if run.over:
            return None
        cancelled = run.status is RunStatus.CANCELLING
        progress = self.progress(run_id)
        if not progress.settled:
            return self.end_cancelled(sync, run_id, settle) if cancelled else None
        status = RunStatus.CANCELLED if cancelled else RunStatus.DONE
        # A look that joined after the shards were read shows in ``joins``; the run then goes on.
        counts = settle(replace(run, counts=progress.counts))
        if not self._end_run(run, status, counts, joins=int(item.get("joins", 0))):
            return None
        return self.run(sync, run_id)

    def _end_run(self, run: Run, status: RunStatus, counts: Counts, *, joins: int | None) -> bool:
        """Close a run and free its sync; False if it changed meanwhile (``joins`` differs) or was closed already."""
        condition = "#status IN (:running, :cancelling)"
        extra: dict[str, Any] = {":running": RunStatus.RUNNING.value, ":cancelling": RunStatus.CANCELLING.value}
        if joins is not None:
            condition += " AND (attribute_not_exists(joins) OR joins = :joins)" if not joins else " AND joins = :joins"
            extra[":joins"] = joins
        writes = [
            self._db.update(
                f"SYNC#{run.sync}",
                f"RUN#{run.id}",
                "SET #status = :status, #ended = :ended, #counts = :counts, #reports = :reports",
                {"status": status.value, "ended": number(self._clock()), "counts": asdict(counts), "reports": REPORTS},
                condition=condition,
                extra=extra,
            )
        ]
        if not run.plan:
            writes.append(self._free_sync(run.sync, run.id))
            now, good = self._clock(), status is RunStatus.DONE and not counts.failed and not counts.known
            writes.append(addition(self._db, run.sync, now - run.started, asdict(counts), now if good else None))
        if self._db.transact(writes):
            return False
        if run.plan:
            self._db.delete(f"SYNC#{run.sync}", f"PLAN#{run.id}")
        return True

    def take_report(self, run: Run) -> bool:
        """Take one of the attempts to report the end of a run; False if none is left, or it was reported."""
        return self._set_reports(run, "SET #reports = #reports - :one", "#reports > :none", {":one": 1, ":none": 0})

    def reported(self, run: Run) -> None:
        """Note that the end of a run was reported."""
        self._set_reports(run, "REMOVE #reports", "attribute_exists(#reports)", {})

    def _set_reports(self, run: Run, expression: str, condition: str, values: dict[str, int]) -> bool:
        pk, sk = f"SYNC#{run.sync}", f"RUN#{run.id}"
        update = self._db.update(pk, sk, expression, {}, condition=condition, extra=values, names=("reports",))
        return self._db.update_if(update) is not None

    def _free_sync(self, sync: str, run_id: str) -> dict[str, Any]:
        return self._db.update(
            f"SYNC#{sync}",
            "CURRENT",
            "REMOVE #run",
            {},
            condition="#run = :run",
            extra={":run": run_id},
            names=("run",),
        )

    def progress(self, run_id: str) -> Progress:
        """A run's counters, read from all shards."""
        keys = [(_shard_key(run_id, shard), "COUNTS") for shard in range(SHARDS)]
        totals: dict[str, int] = {}
        heard = advanced = own = 0.0
        for item in self._db.batch_get(keys):
            heard = max(heard, float(item.get("at", 0)))
            advanced = max(advanced, float(item.get("advanced", 0)))
            own = max(own, float(item.get("own", 0)))
            for name, value in item.items():
                if name not in ("pk", "sk", "at", "advanced", "own", "expires", "closed"):
                    totals[name] = totals.get(name, 0) + int(value)
        balance = totals.pop("balance", 0)
        return Progress(Counts(**totals), balance == 0, heard, advanced, own)

    def note_waiting(self, run: Run, error: SynclineError, seconds: float) -> None:
        """Note why work of a run waits, and for how many seconds. A later commit that counts an item makes it void."""
        waiting = next_waiting(run, error, seconds, self._clock())
        if waiting is None:
            return
        self._db.update_if(
            self._db.update(
                f"SYNC#{run.sync}",
                f"RUN#{run.id}",
                "SET #waiting = :waiting",
                {"waiting": waiting_item(waiting)},
                condition="#status IN (:running, :cancelling)",
                extra={":running": RunStatus.RUNNING.value, ":cancelling": RunStatus.CANCELLING.value},
                names=("status",),
            )
        )

    # -- batches -------------------------------------------------------------------------------------------------

    def open_batch(self, batch: Batch) -> tuple[Run | None, BatchRecord | None]:
        """The run a batch belongs to, None if it is forgotten, and how the batch ended, None if it has not."""
        run_key = (f"SYNC#{batch.sync}", f"RUN#{batch.run}")
        record_key = (_shard_key(batch.run, _shard_of(batch.id)), f"BATCH#{batch.id}")
        found = {(item["pk"], item["sk"]): item for item in self._db.batch_get([run_key, record_key])}
        run, record = found.get(run_key), found.get(record_key)
        return None if run is None else run_of(run), None if record is None else self._record_of(record)

    def batch_record(self, run_id: str, batch_id: str) -> BatchRecord | None:
        """How a batch ended, None if it has not."""
        item = self._db.get(_shard_key(run_id, _shard_of(batch_id)), f"BATCH#{batch_id}")
        return None if item is None else self._record_of(item)

    def end_batch(
        self, batch: Batch, record: BatchRecord, counts: Counts, lease: Lease | None = None
    ) -> BatchRecord | None:
        """End a batch, exactly once: its record, its counts and its lease, in one transaction.

        Return what counts from now on: the record given or, if the batch had ended before, that one. Return None if the
        run was ended without it.
        Raises LEASE_LOST if the lease went to another writer meanwhile.
        """
        shard = _shard_of(batch.id)
        item = self._batch_item(batch.run, batch.id, record)
        balance = sum(_hash(each.batch.id) for each in record.following) - _hash(batch.id)
        writes = [
            self._db.put_if(item, "attribute_not_exists(pk)"),
            self._count(
                batch.run, shard, asdict(counts) | {"balance": balance}, unless_closed=True, own=batch.scan is None
            ),
        ]
        if lease is not None:
            writes.append(self.leases.freed(lease))
        refused = self._db.transact(writes)
        if 0 in refused:
            if lease is not None:
                self.leases.give_back(lease)
            stored = self.batch_record(batch.run, batch.id)
            assert stored is not None, "the table refused a record that is not there"
            return stored
        if 1 in refused:
            return None
        if refused:
            raise SynclineError("LEASE_LOST", f"another writer took {lease.reference if lease else 'the lease'}")
        if lease is not None:
            lease.expires = 0.0
        return record

    def add_results(self, run_id: str, name: str, results: Iterable[Result], *, queued: int = 0) -> Counts:
        """Add results that no batch has, once under each name, and to the items found to differ; the run's counts then."""
        record = BatchRecord(tuple(results))
        batch_id = f"{run_id}-{name}"
        self._db.transact(
            [
                self._db.put_if(self._batch_item(run_id, batch_id, record), "attribute_not_exists(pk)"),
                self._count(run_id, _shard_of(batch_id), asdict(Counts.of(record.results, queued=queued))),
            ]
        )
        return self.progress(run_id).counts

    def results(self, run_id: str) -> Iterator[Result]:
        """Every result of a run that has one of its own (items found equal have none), in no order."""
        for shard in range(SHARDS):
            for item in self._db.query(_shard_key(run_id, shard), "BATCH#"):
                yield from (Result.from_json(each) for each in unpack(self._whole(item, "results")))

    # -- parts of transactions -----------------------------------------------------------------------------------

    def _announcement(self, run_id: str, batch_id: str) -> dict[str, Any]:
        return self._count(run_id, _shard_of(batch_id), {"balance": _hash(batch_id)})

    def _count(
        self, run_id: str, shard: int, amounts: dict[str, int], *, unless_closed: bool = False, own: bool = False
    ) -> dict[str, Any]:
        """Add amounts to a shard's counters; those that are zero are not sent."""
        amounts = {name: value for name, value in amounts.items() if value}
        now = self._clock()
        times = {"at": number(now), "expires": int(now) + RETENTION}
        if amounts.keys() - {"balance", "requests"}:
            times["advanced"] = number(now)
        if own:
            times["own"] = number(now)
        sets = ", ".join(f"#{name} = :{name}" for name in times)
        adds = ", ".join(f"#{name} :{name}" for name in amounts)
        return self._db.update(
            _shard_key(run_id, shard),
            "COUNTS",
            f"SET {sets} ADD {adds}",
            {**times, **amounts},
            condition="attribute_not_exists(#closed)" if unless_closed else None,
            names=("closed",) if unless_closed else (),
        )

    def _batch_item(self, run_id: str, batch_id: str, record: BatchRecord) -> dict[str, Any]:
        """Return the item of a record; what it has no room for is written here already, in parts."""
        item, room = self._record(run_id, batch_id, "BATCH"), _ROOM
        packed = {
            "dead": pack([to_json(each) for each in record.dead]),
            "results": pack([result.to_json() for result in record.results]),
            "following": pack([each.to_json() for each in record.following]),
        }
        for name, content in packed.items():
            if len(content) <= room:
                item[name], room = content, room - len(content)
                continue
            # Named by its content: of two functions that end a batch neither changes what the other refers to.
            key = f"PART#{hashlib.blake2b(content, digest_size=16).hexdigest()}#"
            parts = [content[at : at + _ROOM] for at in range(0, len(content), _ROOM)]
            common = {"pk": item["pk"], "expires": item["expires"]}
            for part_number, part in enumerate(parts):
                self._db.put({**common, "sk": f"{key}{part_number:04}", "content": part})
            item[name] = key
        return item

    def _whole(self, item: dict[str, Any], name: str) -> bytes:
        """Return an attribute of a record, put together where it is in parts."""
        content = item[name]
        if isinstance(content, str):
            return b"".join(bytes(part["content"]) for part in self._db.query(item["pk"], content))
        return bytes(content)

    def _record_of(self, item: dict[str, Any]) -> BatchRecord:
        results, following, dead = (unpack(self._whole(item, name)) for name in ("results", "following", "dead"))
        return BatchRecord(
            tuple(Result.from_json(each) for each in results),
            tuple(Outgoing.from_json(each) for each in following),
            tuple(each for each in map(from_json, dead) if isinstance(each, Dead)),
        )

    def _record(self, run_id: str, batch_id: str, what: str) -> dict[str, Any]:
        key = _shard_key(run_id, _shard_of(batch_id))
        return {"pk": key, "sk": f"{what}#{batch_id}", "expires": int(self._clock()) + RETENTION}


def new_run_id(clock: Callable[[], float] = time.time) -> str:
    """An id for a run that sorts by time and reads as one: ``20261121-101522-3f9c2a7b01``."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(clock()))
    return f"{stamp}-{random.randbytes(5).hex()}"  # noqa: S311 - an id is no secret


def is_run_id(text: str) -> bool:
    """Return True if a text has the form of a run ID."""
    return _RUN_ID.fullmatch(text) is not None


def first_batch(run: Run) -> Batch:
    """The batch a run begins with: a look at its scope."""
    return Batch(run.id, run.sync, Step.DISCOVER, run.id, scope=run.scope, plan=run.plan)


def _shard_key(run_id: str, shard: int) -> str:
    return f"RUN#{run_id}#{shard}"


def _hash(batch_id: str) -> int:
    """60 bits of a batch's id: the sum of a billion of them still fits a DynamoDB number (38 digits)."""
    return int.from_bytes(hashlib.blake2b(batch_id.encode(), digest_size=8).digest()) >> 4


def _shard_of(batch_id: str) -> int:
    return _hash(batch_id) % SHARDS
