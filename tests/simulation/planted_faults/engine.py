"""Planted faults in the engine: messages, counters, runs, scans, leases and failures of items."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from syncline.messages import Queues
from syncline.model import Lags, Outcome, Step
from syncline.steps import discover, engine, transfer, worker
from syncline.store import failures, leases, runs, state
from syncline.store.health import Health
from syncline.store.table import Database
from syncline.wiring import syncs
from tests.simulation.planted_faults.registry import planted_fault, replaced

WORLDS: Final = ("images",)
"""The quickest world. The engine is the same in all of them."""


# -- messages and counters ---------------------------------------------------------------------------------------------


@planted_fault
def drop_the_outbox() -> Iterator[None]:
    """Do not resend the follow-up messages of a batch that had already ended."""

    def run_of(self: Any, batch: Any) -> Any:
        run, record = self.state.open_batch(batch)
        return None if run is None or run.over or record is not None else run

    with patch.object(engine.StepEngine, "run_of", run_of):
        yield


@planted_fault
def count_a_redelivered_batch_again() -> Iterator[None]:
    """Write the record and the counts of a batch again when its message is redelivered."""

    def put_request(old: Any) -> Any:
        def changed(self: Any, item: dict[str, Any], condition: str) -> Any:
            return old(self, item, "attribute_exists(pk) OR attribute_not_exists(pk)" if _is_batch(item) else condition)

        return changed

    def run_of(old: Any) -> Any:
        def changed(self: Any, batch: Any) -> Any:
            run, record = self.state.open_batch(batch)
            return run if run is not None and not run.over and record is not None else old(self, batch)

        return changed

    with replaced(Database, "put_request", put_request), replaced(engine.StepEngine, "run_of", run_of):
        yield


def _is_batch(item: Mapping[str, Any]) -> bool:
    return str(item["sk"]).startswith("BATCH#")


@planted_fault
def drop_unfinished_items() -> Iterator[None]:
    """Send no continuation for items that need more time."""

    def carry_out(old: Any) -> Any:
        def changed(work: Any, kind: Any, context: Any, run_engine: Any) -> None:
            old(work, kind, context, run_engine)
            work.outgoing = [each for each in work.outgoing if each.batch.step is Step.VERIFY or each.delay]

        return changed

    with replaced(transfer, "_carry_out", carry_out):
        yield


@planted_fault
def never_retry_failed_items() -> Iterator[None]:
    """Drop items that failed temporarily instead of retrying them."""

    def fail(old: Any) -> Any:
        def changed(self: Any, failed: Any, rng: Any, **changes: Any) -> None:
            if self.batch.attempt > 1:
                old(self, failed, rng, **changes)

        return changed

    with replaced(engine.BatchWork, "fail", fail):
        yield


@planted_fault
def drop_dead_letters() -> Iterator[None]:
    """Write no dead letter for an item that failed for good."""

    def send_dead_letters(_self: Any, _step: Any, _bodies: Any) -> list[Any]:
        return []

    with patch.object(Queues, "send_dead_letters", send_dead_letters):
        yield


@planted_fault
def end_a_run_before_its_last_batch() -> Iterator[None]:
    """End a run while a batch of it is still open."""

    def progress(old: Any) -> Any:
        def changed(self: Any, run_id: str) -> Any:
            return replace(old(self, run_id), settled=True)

        return changed

    with replaced(state.State, "progress", progress):
        yield


@planted_fault
def skip_the_end_of_some_runs() -> Iterator[None]:
    """End no run in one of ten invocations that end a last batch."""

    def finish_runs(old: Any) -> Any:
        def changed(self: Any, left: Any) -> None:
            if self.rng.random() < 0.9:
                old(self, left)
            self.maybe_over.clear()

        return changed

    with replaced(engine.StepEngine, "finish_runs", finish_runs):
        yield


@planted_fault
def end_a_run_before_a_joined_scan() -> Iterator[None]:
    """End a run although a scan has joined it since its counters were read."""

    def end_run(old: Any) -> Any:
        def changed(self: Any, run: Any, status: Any, counts: Any, *, joins: Any) -> Any:
            del joins
            return old(self, run, status, counts, joins=None)

        return changed

    with replaced(state.State, "_end_run", end_run):
        yield


# -- runs and scans ----------------------------------------------------------------------------------------------------


@planted_fault
def start_overlapping_runs() -> Iterator[None]:
    """Start a run while another run of the same sync is open."""

    def make_way(self: Any, sync: str, run_id: str) -> None:
        self._db.apply(self._free_sync(sync, run_id))

    with patch.object(state.State, "_make_way", make_way):
        yield


@planted_fault
def use_random_run_ids() -> Iterator[None]:
    """Start two runs for a start message that is delivered twice."""
    with patch.object(worker, "_run_id", lambda _at, _cause: runs.new_run_id(time.time)):
        yield


@planted_fault
def join_a_run_uncounted() -> Iterator[None]:
    """Leave a scan that joins a run out of the run's open batches."""

    def announcement(old: Any) -> Any:
        def changed(self: Any, run_id: str, batch_id: str) -> Any:
            if batch_id.endswith("-look"):
                return self._count("none", batch_id, {"balance": 0, "requests": 1})
            return old(self, run_id, batch_id)

        return changed

    with replaced(state.State, "_announcement", announcement):
        yield


@planted_fault
def scan_without_a_lease() -> Iterator[None]:
    """Let two functions work on one scan."""

    def take(old: Any) -> Any:
        def changed(self: Any, reference: str, owner: str, seconds: float) -> Any:
            name = f"{reference}@{self._clock()}" if reference.startswith("scan@") else reference
            return old(self, name, owner, seconds)

        return changed

    with replaced(leases.Leases, "take", take):
        yield


@planted_fault
def use_the_latest_configuration() -> Iterator[None]:
    """Continue a run with a configuration that was applied after its start."""
    with patch.object(syncs.Syncs, "kind_of", lambda self, run: self.kind(run.sync)):
        yield


@planted_fault
def ignore_cancel() -> Iterator[None]:
    """Ignore the cancellation of a run."""
    with patch.object(state.State, "cancel_run", lambda self, sync, run_id: self.run(sync, run_id)):
        yield


@planted_fault
def omit_cancelled_items() -> Iterator[None]:
    """Write no result for items that a cancelled run had not started."""
    with patch.object(state.State, "_cancel_open", lambda *_: None):
        yield


@planted_fault
def count_batches_after_the_end() -> Iterator[None]:
    """Count batches that end after their cancelled run has ended."""
    with patch.object(state.State, "_close", lambda *_: None):
        yield


@planted_fault
def let_a_plan_write() -> Iterator[None]:
    """Transfer the differences that a plan finds."""

    def add(old: Any) -> Any:
        def changed(work: Any, page: Any, kind: Any, context: Any) -> Any:
            work.batch = replace(work.batch, plan=False)
            return old(work, page, kind, context)

        return changed

    with replaced(discover, "_add", add):
        yield


@planted_fault
def count_equal_items_of_joined_scans() -> Iterator[None]:
    """Count equal items again in each scan that joins a run."""

    def add(old: Any) -> Any:
        def changed(work: Any, page: Any, kind: Any, context: Any) -> Any:
            if work.batch.scan is not None:
                work.equal += page.equal
            return old(work, page, kind, context)

        return changed

    with replaced(discover, "_add", add):
        yield


@planted_fault
def report_items_twice() -> Iterator[None]:
    """Report an item that two scans of a run found twice."""
    with patch.object(engine, "first_results", lambda _state, _batch, results: list(results)):
        yield


@planted_fault
def drop_results_of_joined_scans() -> Iterator[None]:
    """Drop the results of scans that joined a run."""

    def first_results(old: Any) -> Any:
        def changed(run_state: Any, batch: Any, results: Any) -> Any:
            return [] if batch.scan is not None else old(run_state, batch, results)

        return changed

    with replaced(engine, "first_results", first_results):
        yield


@planted_fault
def never_end_abandoned_plans() -> Iterator[None]:
    """Leave a plan open whose command was killed before it sent the message."""
    with patch.object(state.State, "_end_lost_plans", lambda *_: None):
        yield


# -- leases ------------------------------------------------------------------------------------------------------------


@planted_fault
def steal_leases() -> Iterator[None]:
    """Take leases that other functions hold."""

    def update(old: Any) -> Any:
        def changed(self: Any, pk: str, sk: str, *args: Any, **more: Any) -> Any:
            if pk.startswith("LEASE#") and str(more.get("condition", "")).startswith("attribute_not_exists(pk) OR"):
                more["condition"] = more["condition"] + " OR attribute_exists(pk)"
            return old(self, pk, sk, *args, **more)

        return changed

    with replaced(Database, "update_request", update):
        yield


@planted_fault
def write_without_a_lease() -> Iterator[None]:
    """Write although another function holds the lease."""

    def take(old: Any) -> Any:
        def changed(self: Any, reference: str, owner: str, seconds: float) -> Any:
            try:
                return old(self, reference, owner, seconds)
            except leases.LeaseHeldError:
                return leases.Lease(reference, "LEASE", owner, "none", 0, self._clock() + 60)

        return changed

    def end_batch(old: Any) -> Any:
        def changed(self: Any, batch: Any, record: Any, counts: Any, lease: Any = None) -> Any:
            return old(self, batch, record, counts, None if lease is not None and lease.call == "none" else lease)

        return changed

    with replaced(leases.Leases, "take", take), replaced(state.State, "end_batch", end_batch):
        yield


# -- failures ----------------------------------------------------------------------------------------------------------


@planted_fault
def keep_solved_failures() -> Iterator[None]:
    """Keep the record of a failure after its item was verified."""
    with (
        patch.object(failures.Failures, "solve", lambda *_: None),
        patch.object(failures.Failures, "forget", lambda *_: None),
        patch.object(failures.Failures, "clear", lambda *_: None),
    ):
        yield


@planted_fault
def drop_failed_results() -> Iterator[None]:
    """Drop the results of failed items from the records of batches."""

    def end_batch(old: Any) -> Any:
        def changed(self: Any, batch: Any, record: Any, counts: Any, lease: Any = None) -> Any:
            results = tuple(each for each in record.results if each.outcome is not Outcome.FAILED)
            return old(self, batch, replace(record, results=results), counts, lease)

        return changed

    with replaced(state.State, "end_batch", end_batch):
        yield


@planted_fault
def count_failed_items_as_equal() -> Iterator[None]:
    """Count items whose transfer failed as equal."""

    def fail_all(self: Any, batch: Any, _error: Any, requests: int = 0) -> None:
        work = engine.BatchWork(batch, requests=requests)
        work.equal = len(batch.items)
        self.end(work)

    with patch.object(engine.StepEngine, "fail_all", fail_all):
        yield


@planted_fault
def verify_despite_failures() -> Iterator[None]:
    """Count a sync as verified and in sync after a scan that left failures and conflicts."""

    def after(old: Any) -> Any:
        def changed(self: Any, run: Any, status: Any, counts: Any, now: float) -> Any:
            return old(self, run, status, replace(counts, failed=0, known=0, conflict=0), now)

        return changed

    with replaced(Health, "after", after):
        yield


@planted_fault
def add_lags_to_the_totals_twice() -> Iterator[None]:
    """Add the lags of a run to the totals of its sync twice."""

    def update(old: Any) -> Any:
        def changed(database: Any, run: Any, ended: float, **more: Any) -> Any:
            return old(database, replace(run, lags=Lags.total([run.lags, run.lags])), ended, **more)

        return changed

    with replaced(state, "totals_update", update):
        yield
