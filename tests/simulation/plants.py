"""Faults that are planted in the product one at a time: the simulation has to find each of them.

A plant changes one rule that the product keeps: it drops a condition, forgets a call, believes an answer. What no seed
finds shows what the simulation lacks.

Plants of a kind are in a module of their own, ``plants_<kind>``. Each plant has the worlds in which it is looked for:
those that ``@plant(worlds=...)`` names, else the constant ``WORLDS`` of its module, else the kind in the module's name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, overload
from unittest.mock import patch

from syncline.clients.registry import client as oci
from syncline.errors import SynclineError
from syncline.kinds.images import discover as looking
from syncline.kinds.images import transfer as copying
from syncline.kinds.images import verify as proving
from syncline.kinds.kind import Completed
from syncline.messages import Queues
from syncline.model import Outcome, Step
from syncline.steps import discover, engine, transfer, worker
from syncline.store import failures, leases, runs, state
from syncline.store.table import Database
from syncline.wiring import syncs
from tests.simulation import plants_backups

WORLDS: Final = ("images",)
"""Where plants of the engine are looked for: the quickest world."""
Function = Callable[[], Iterator[None]]
Plant = Callable[[], AbstractContextManager[None]]
PLANTS: Final[dict[str, Plant]] = {}
PLACES: Final[dict[str, tuple[str, ...]]] = {}
"""The worlds in which each plant is looked for; none for all."""


@overload
def plant(function: Function) -> Function: ...
@overload
def plant(*, worlds: tuple[str, ...]) -> Callable[[Function], Function]: ...
def plant(
    function: Function | None = None, *, worlds: tuple[str, ...] = ()
) -> Function | Callable[[Function], Function]:
    """Register a plant under the name of its function; a decorator with and without arguments."""

    def register(planted: Function) -> Function:
        module = planted.__module__.rpartition("plants_")[2] if "plants_" in planted.__module__ else ""
        PLANTS[planted.__name__] = contextmanager(planted)
        PLACES[planted.__name__] = worlds or planted.__globals__.get("WORLDS", (module,) if module else ())
        return planted

    return register if function is None else register(function)


def all_plants() -> Mapping[str, Plant]:
    """Return the plants of this module and of all ``plants_<kind>``."""
    for path in sorted(Path(__file__).parent.glob("plants_*.py")):
        import_module(f"{__package__}.{path.stem}")
    return PLANTS


def _replaced(owner: Any, name: str, new: Callable[[Any], Any]) -> Any:
    """Return a patch of an attribute by what ``new`` makes of the old one."""
    return patch.object(owner, name, new(getattr(owner, name)))


# -- the outbox and the counters ---------------------------------------------------------------------------------------


@plant
def drop_the_outbox() -> Iterator[None]:
    """A batch that had ended before does not send again what follows from it."""

    def run_of(self: Any, batch: Any) -> Any:
        run, record = self.state.open_batch(batch)
        return None if run is None or run.over or record is not None else run

    with patch.object(engine.StepEngine, "run_of", run_of):
        yield


@plant
def count_twice() -> Iterator[None]:
    """The record of a batch is written again whenever its message comes again."""

    def put_request(old: Any) -> Any:
        def changed(self: Any, item: dict[str, Any], condition: str) -> Any:
            return old(self, item, "attribute_exists(pk) OR attribute_not_exists(pk)" if _is_batch(item) else condition)

        return changed

    def run_of(old: Any) -> Any:
        def changed(self: Any, batch: Any) -> Any:
            run, record = self.state.open_batch(batch)
            return run if run is not None and not run.over and record is not None else old(self, batch)

        return changed

    with _replaced(Database, "put_request", put_request), _replaced(engine.StepEngine, "run_of", run_of):
        yield


def _is_batch(item: Mapping[str, Any]) -> bool:
    return str(item["sk"]).startswith("BATCH#")


@plant
def forget_what_needs_more_time() -> Iterator[None]:
    """Items that were not finished do not go on."""

    def carry_out(old: Any) -> Any:
        def changed(work: Any, kind: Any, context: Any, run_engine: Any) -> None:
            old(work, kind, context, run_engine)
            work.outgoing = [each for each in work.outgoing if each.batch.step is Step.VERIFY or each.delay]

        return changed

    with _replaced(transfer, "_carry_out", carry_out):
        yield


@plant
def forget_to_try_again() -> Iterator[None]:
    """Items that failed for a while are dropped."""

    def fail(old: Any) -> Any:
        def changed(self: Any, failed: Any, rng: Any, **changes: Any) -> None:
            if self.batch.attempt > 1:
                old(self, failed, rng, **changes)

        return changed

    with _replaced(engine.BatchWork, "fail", fail):
        yield


@plant
def give_up_without_a_letter() -> Iterator[None]:
    """What failed for good leaves no dead letter."""

    def bury(_self: Any, _step: Any, _bodies: Any) -> list[Any]:
        return []

    with patch.object(Queues, "send_dead_letters", bury):
        yield


@plant
def end_before_the_last_batch() -> Iterator[None]:
    """A run ends although a batch is under way."""

    def progress(old: Any) -> Any:
        def changed(self: Any, run_id: str) -> Any:
            return replace(old(self, run_id), settled=True)

        return changed

    with _replaced(state.State, "progress", progress):
        yield


@plant
def never_end_a_run() -> Iterator[None]:
    """A function that ends the last batch of a run does not end the run, if the message came twice."""

    def finish_runs(old: Any) -> Any:
        def changed(self: Any, left: Any) -> None:
            if self.rng.random() < 0.9:
                old(self, left)
            self.leaves.clear()

        return changed

    with _replaced(engine.StepEngine, "finish_runs", finish_runs):
        yield


@plant
def end_before_a_joined_scan() -> Iterator[None]:
    """A run ends although a scan has joined it since its counters were read."""

    def end_run(old: Any) -> Any:
        def changed(self: Any, run: Any, status: Any, counts: Any, *, joins: Any) -> Any:
            del joins
            return old(self, run, status, counts, joins=None)

        return changed

    with _replaced(state.State, "_end_run", end_run):
        yield


# -- runs and scans ----------------------------------------------------------------------------------------------------


@plant
def begin_a_run_beside_another() -> Iterator[None]:
    """A run begins although one is under way."""

    def make_way(self: Any, sync: str, run_id: str) -> None:
        self._db.apply(self._free_sync(sync, run_id))

    with patch.object(state.State, "_make_way", make_way):
        yield


@plant
def name_runs_by_chance() -> Iterator[None]:
    """A start message that comes twice begins two runs."""
    with patch.object(worker, "_run_id", lambda _at, _cause: runs.new_run_id(time.time)):
        yield


@plant
def join_without_an_announcement() -> Iterator[None]:
    """A scan that joins a run is not counted among its batches."""

    def announcement(old: Any) -> Any:
        def changed(self: Any, run_id: str, batch_id: str) -> Any:
            if batch_id.endswith("-look"):
                return self._count("none", 0, {"balance": 0, "requests": 1})
            return old(self, run_id, batch_id)

        return changed

    with _replaced(state.State, "_announcement", announcement):
        yield


@plant
def scan_without_a_lease() -> Iterator[None]:
    """Two functions work on one scan."""

    def take(old: Any) -> Any:
        def changed(self: Any, reference: str, owner: str, seconds: float) -> Any:
            name = f"{reference}@{self._clock()}" if reference.startswith("scan@") else reference
            return old(self, name, owner, seconds)

        return changed

    with _replaced(leases.Leases, "take", take):
        yield


@plant
def use_the_latest_configuration() -> Iterator[None]:
    """A run goes on with a configuration that was applied after it began."""
    with patch.object(syncs.Syncs, "kind_of", lambda self, run: self.kind(run.sync)):
        yield


@plant
def ignore_cancel() -> Iterator[None]:
    """A run that is to end goes on."""
    with patch.object(state.State, "cancel_run", lambda self, sync, run_id: self.run(sync, run_id)):
        yield


@plant
def leave_cancelled_items_out() -> Iterator[None]:
    """Items that a cancelled run had not begun have no result."""
    with patch.object(state.State, "_cancel_open", lambda *_: None):
        yield


@plant
def let_a_closed_run_count() -> Iterator[None]:
    """Batches that end after a cancelled run was ended still count."""
    with patch.object(state.State, "_close", lambda *_: None):
        yield


@plant
def let_a_plan_write() -> Iterator[None]:
    """A plan sends on what it finds."""

    def add(old: Any) -> Any:
        def changed(work: Any, page: Any, kind: Any, context: Any) -> Any:
            work.batch = replace(work.batch, plan=False)
            return old(work, page, kind, context)

        return changed

    with _replaced(discover, "_add", add):
        yield


@plant
def count_joined_scans() -> Iterator[None]:
    """Scans that join a run count what is equal once more."""

    def add(old: Any) -> Any:
        def changed(work: Any, page: Any, kind: Any, context: Any) -> Any:
            if work.batch.scan is not None:
                work.skipped += page.equal
            return old(work, page, kind, context)

        return changed

    with _replaced(discover, "_add", add):
        yield


@plant
def tell_twice() -> Iterator[None]:
    """An item that two scans of a run have found has two results."""
    with patch.object(engine, "first_results", lambda _state, _batch, results: list(results)):
        yield


@plant
def forget_results() -> Iterator[None]:
    """Results of scans that joined a run are dropped."""

    def told(old: Any) -> Any:
        def changed(run_state: Any, batch: Any, results: Any) -> Any:
            return [] if batch.scan is not None else old(run_state, batch, results)

        return changed

    with _replaced(engine, "first_results", told):
        yield


@plant
def leave_lost_plans_open() -> Iterator[None]:
    """A plan whose command was killed before it sent its message stays open."""
    with patch.object(state.State, "_end_lost_plans", lambda *_: None):
        yield


# -- leases ------------------------------------------------------------------------------------------------------------


@plant
def steal_leases() -> Iterator[None]:
    """A lease that another function holds is taken."""

    def update(old: Any) -> Any:
        def changed(self: Any, pk: str, sk: str, *args: Any, **more: Any) -> Any:
            if pk.startswith("LEASE#") and str(more.get("condition", "")).startswith("attribute_not_exists(pk) OR"):
                more["condition"] = more["condition"] + " OR attribute_exists(pk)"
            return old(self, pk, sk, *args, **more)

        return changed

    with _replaced(Database, "update_request", update):
        yield


@plant
def write_without_a_lease() -> Iterator[None]:
    """A lease counts as taken whoever has it."""

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

    with _replaced(leases.Leases, "take", take), _replaced(state.State, "end_batch", end_batch):
        yield


# -- failures ----------------------------------------------------------------------------------------------------------


@plant
def keep_solved_failures() -> Iterator[None]:
    """What was verified since still counts as failed."""
    with (
        patch.object(failures.Failures, "solve", lambda *_: None),
        patch.object(failures.Failures, "clear", lambda *_: None),
    ):
        yield


@plant
def forget_failures() -> Iterator[None]:
    """A failure is told as verified."""

    def ended(old: Any) -> Any:
        def changed(self: Any, batch: Any, record: Any, counts: Any, lease: Any = None) -> Any:
            results = tuple(each for each in record.results if each.outcome is not Outcome.FAILED)
            return old(self, batch, replace(record, results=results), counts, lease)

        return changed

    with _replaced(state.State, "end_batch", ended):
        yield


@plant
def call_failures_equal() -> Iterator[None]:
    """An item that could not be transferred is counted as equal."""

    def fail_all(self: Any, batch: Any, _error: Any, requests: int = 0) -> None:
        work = engine.BatchWork(batch, requests=requests)
        work.equal = len(batch.items)
        self.end(work)

    with patch.object(engine.StepEngine, "fail_all", fail_all):
        yield


# -- images ------------------------------------------------------------------------------------------------------------


@plant
def believe_a_201() -> Iterator[None]:
    """Verify does not ask the target again."""

    def of(_self: Any, items: Any, _context: Any) -> Any:
        return [Completed(item) for item in items]

    with patch.object(proving.ImageVerification, "verify", of):
        yield


@plant
def call_untouched_tags_moved() -> Iterator[None]:
    """A tag that was sent on to be sure, and was equal, counts as moved."""
    with patch.object(copying, "FOUND_EQUAL", "nothing"):
        yield


@plant
def overwrite_a_tag() -> Iterator[None]:
    """A tag that changed between the check and the put is replaced."""

    def put_tag(old: Any) -> Any:
        def changed(self: Any, repository: str, tag: str, manifest: Any, seen: Any, *, overwrite: bool = False) -> Any:
            del overwrite
            return old(self, repository, tag, manifest, seen, overwrite=True)

        return changed

    with _replaced(oci.Registry, "put_tag", put_tag):
        yield


@plant
def replace_foreign_images() -> Iterator[None]:
    """Another image under a tag is replaced without leave."""
    with (
        patch.object(copying, "is_replaceable", lambda *_, **__: True),
        patch.object(looking, "is_replaceable", lambda *_, **__: True),
    ):
        yield


@plant
def call_any_tag_equal() -> Iterator[None]:
    """A tag that is at the target counts as equal, whatever it points to."""

    def page(old: Any) -> Any:
        def changed(self: Any, name: str, group: str, cursor: str, compared: Any, broken: Any) -> Any:
            equal = [
                replace(i, target=i.source) if i.target is not None and i.source is not None else i for i in compared
            ]
            return old(self, name, group, cursor, equal, broken)

        return changed

    with _replaced(looking.ImageScan, "_page", page):
        yield


@plant
def accept_an_empty_listing() -> Iterator[None]:
    """A catalog without a single repository is believed."""

    def repositories(old: Any) -> Any:
        def changed(self: Any, scope: Any, odd: Any, context: Any) -> Any:
            try:
                return old(self, scope, odd, context)
            except SynclineError as error:
                if error.code.name != "LISTING_INCOMPLETE":
                    raise
                return []

        return changed

    with _replaced(looking.ImageScan, "_repositories", repositories):
        yield


@plant
def accept_an_unknown_repository() -> Iterator[None]:
    """A repository that a person has named and that does not exist is equal."""
    with patch.object(looking.ImageScan, "_check_listed", lambda *_: None):
        yield


@plant
def copy_what_was_found() -> Iterator[None]:
    """A conflict is reported as moved."""

    def conflict(item: Any, reason: str = "") -> Any:
        from syncline.model import Result  # noqa: PLC0415

        return Result(item.group, item.name, Outcome.MOVED, item.source, item.source, 0, reason=reason or None)

    with patch.object(copying, "conflict", conflict), patch.object(looking, "conflict", conflict):
        yield


# -- backups -----------------------------------------------------------------------------------------------------------

for _each in plants_backups.ALL:
    plant(_each)
