"""One simulation: carry out a plan, then check the invariants.

A simulation has three phases. In the fault phase, the actions of the plan overlap and every kind of fault occurs: runs,
events, cancels, retries, changes at source and target. In the quiescence phase, faults end, and all work that was
started must end. Then two full runs of each sync follow without faults: the final state of source and target must agree
with their reports.
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast
from unittest.mock import patch

from syncline.cli import commands_retry
from syncline.cli.applied_syncs import _put
from syncline.clients.http.rejections import REJECTIONS
from syncline.config.sync import load_sync
from syncline.messages import Batch, Start
from syncline.model import EVERYTHING, Outcome, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.operations import start_run
from syncline.steps import discover
from syncline.steps.engine import StepEngine
from syncline.store import files
from syncline.store.batches import SHARDS
from syncline.store.health import read_health
from syncline.store.leases import Lease
from syncline.store.state import State
from syncline.store.table import Database
from tests.rig.totals import read_totals
from tests.simulation import resource_limits
from tests.simulation.captured_output import captured_output
from tests.simulation.expressions import Item
from tests.simulation.installation import installed
from tests.simulation.invariants import (
    KnownFailures,
    missing_dead_letters,
    unfinished_work,
    written_texts,
    wrong_health,
    wrong_lags,
)
from tests.simulation.machine import EndlessError, Machine, PerProcess
from tests.simulation.network import Faults
from tests.simulation.plan import Plan
from tests.simulation.secret_store import secrets_per_process
from tests.simulation.stack import Operator, Stack
from tests.simulation.worlds.artifacts import ArtifactsWorld
from tests.simulation.worlds.backups import BackupsWorld
from tests.simulation.worlds.files import FilesWorld
from tests.simulation.worlds.images import ImagesWorld
from tests.simulation.worlds.world import World

QUIESCENCE: Final = 5 * 3600.0
"""Seconds after the last fault within which all work must end."""
FULL_RUN: Final = 2.5 * 3600.0
"""Seconds within which a run without faults must end.

With two syncs, a simulation stays shorter than the window of 24 hours in which removals are counted.
"""
MAX_LATE_EVENTS: Final = 4
"""Maximum number of events that arrive when a run has ended its last batch."""
STALL: Final = (8.0, 18.0)
"""Seconds for which a function stalls: less than the remaining time of a lease that is renewed in time."""
SLOWEST_CANCEL: Final = 120.0
"""Maximum seconds of a cancel: ten, plus the time lost to faults of its calls."""
WORLDS: Final[Mapping[str, Callable[[Stack, str, random.Random], World]]] = {
    "files": FilesWorld,
    "backups": BackupsWorld,
    "images": ImagesWorld,
    "artifacts": ArtifactsWorld,
}


@dataclass(slots=True)
class SimulationResult:
    """The result of a simulation: its violations, its trace and its counts."""

    plan: Plan
    violations: list[str]
    trace: list[str]
    faults: Faults
    steps: int = 0
    invocations: int = 0


LOGGED: Final = 8
"""One of this many seeds writes log lines, which are searched for secrets. Writing them takes most of its time."""


def simulate(plan: Plan, *, logged: bool = False) -> SimulationResult:
    """Simulate a plan. Log lines are searched for secrets with ``logged`` and in every ``LOGGED``-th seed.

    Messages, items of the table, metrics and the output of commands are searched in every seed.
    """
    with (
        captured_output(logged=logged or plan.seed % LOGGED == 0) as output,
        installed(Machine(plan.seed)) as machine,
        _module_state_per_process(),
        secrets_per_process(),
    ):
        return Simulation(machine, plan, output).run()


@contextmanager
def _module_state_per_process() -> Iterator[None]:
    """Give each simulated process its own module state, without state of other simulations."""
    REJECTIONS.forget()
    with patch.object(files, "_IDS", PerProcess(files._Ids)):
        yield


class Simulation:
    """One simulation of a plan."""

    def __init__(self, machine: Machine, plan: Plan, output: io.StringIO) -> None:
        self.machine = machine
        self.output = output
        self.plan = plan
        self.rng = machine.rng
        self.violations: list[str] = []
        rates: dict[str, Any] = dict(plan.fault_rates)
        stack_rates = {name: rates.pop(name, 0.0) for name in ("skew", "late", "duplicates", "short_time")}
        self._late_events, self._late_events_left = rates.pop("late_events", 0.0), MAX_LATE_EVENTS
        self._racing_cancels, self._stalls = rates.pop("racing_cancels", 0.0), rates.pop("stalls", 0.0)
        self.faults = Faults(**rates)
        self.stack = Stack(machine, self.faults, plan.seed, **stack_rates)
        self.worlds: list[World] = []
        for number, name in enumerate(plan.worlds):
            self.worlds.append(WORLDS[name](self.stack, f"sync-{number}", random.Random(f"{plan.seed} {number}")))
        self._watch_leases, self.stack.table.on_store = self.stack.table.on_store, self._stored
        self.starts: Counter[str] = Counter()
        self.operators = [self.stack.operator(name) for name in ("ann", "bob")]

    @property
    def state(self) -> State:
        """The product's state, read directly from the table."""
        return State(cast("Any", self.stack.table), lambda: self.machine.now)

    def run(self) -> SimulationResult:
        with ExitStack() as stack:
            for world in self.worlds:
                stack.enter_context(world.wired())
            stack.enter_context(self._watched_scans())
            self.stack.functions.begin()
            try:
                self._deploy()
                self._fault_phase()
                self._quiesce()
                self._check_final_runs()
            except EndlessError as error:
                self.violations.append(f"endless: {error}")
        for world in self.worlds:
            self.violations += world.violations
        self.violations += self.stack.leases.violations
        self.violations += [f"uncaught: {each!r}" for each in self.stack.functions.failures]
        self.violations += self.stack.secret_store.leaks(
            written_texts(self.stack.table, self.stack.sqs, self.output.getvalue())
        )
        return SimulationResult(
            self.plan,
            self.violations,
            self.machine.trace,
            self.faults,
            self.machine.steps,
            self.stack.functions.invocations,
        )

    @contextmanager
    def _watched_scans(self) -> Iterator[None]:
        """Check, while the block runs, that only one process works on a scan."""
        scan = discover._scan

        def watched(engine: StepEngine, batch: Batch, run: Run, left: Callable[[], float], lease: Lease) -> None:
            with self.stack.leases.scanning(lease, batch.origin):
                scan(engine, batch, run, left, lease)

        with patch.object(discover, "_scan", watched):
            yield

    # -- deployment

    def _deploy(self) -> None:
        """Apply the syncs, without faults."""
        self.faults.off = True
        for world in self.worlds:
            self._apply(world, world.config())
        self.machine.run(self.machine.now + 5)
        self.faults.off = False

    def _apply(self, world: World, config: dict[str, Any]) -> None:
        sync = load_sync(json.dumps(config))
        self.operators[0].run_command(f"apply {world.name}", lambda context: _put(context.deployment, sync, None))

    # -- fault phase

    def _fault_phase(self) -> None:
        """Carry out the actions of the plan."""
        for action in self.plan.actions:
            world = self.worlds[action.world]
            self.rng.seed(action.seed)
            world.rng.seed(action.seed)
            self.machine.note(f"action {action.name} {world.name}")
            getattr(self, f"_{action.name}")(world)
            self.machine.run(self.machine.now + action.pause)

    def _operator(self) -> Operator:
        return self.rng.choice(self.operators)

    def _start_run(self, world: World) -> None:
        self._operator().run_command(
            "run", lambda context: start_run(context.deployment, world.name, Trigger.MANUAL, EVERYTHING)
        )

    def _start_partial_run(self, world: World) -> None:
        scope = Scope.of([self.rng.choice(world.groups())])
        self._operator().run_command(
            "run some", lambda context: start_run(context.deployment, world.name, Trigger.MANUAL, scope)
        )

    def _start_plan(self, world: World) -> None:
        self._operator().run_command(
            "plan", lambda context: start_run(context.deployment, world.name, Trigger.MANUAL, EVERYTHING, plan=True)
        )

    def _cancel(self, world: World) -> None:
        started = self.machine.now

        def cancel(context: Any) -> None:
            commands_retry.cancel(context, world.name)
            took = self.machine.now - started
            if took > SLOWEST_CANCEL:
                self.violations.append(f"{world.name}: a cancel took {took:.0f} s")

        self._operator().run_command("cancel", cancel)

    def _retry(self, world: World) -> None:
        self._operator().run_command("retry", lambda context: commands_retry.retry(context, world.name, wait=False))

    def _reconfigure(self, world: World) -> None:
        config = world.reconfigure()
        if config is not None:
            self._apply(world, config)

    def _schedule(self, world: World) -> None:
        """Send the start message of a schedule."""
        start = Start(world.name, Trigger.SCHEDULE)
        self._send(start)

    def _webhook(self, world: World) -> None:
        """Change the source, and send the start message of its webhook."""
        groups = tuple(world.change_source())
        self._send(Start(world.name, Trigger.WEBHOOK, Scope.of(groups)))

    def _stored(self, key: tuple[str, str], item: Item) -> None:
        """Provoke races at critical writes: the end of a batch, the start of a write, or the cancellation of a run."""
        self._watch_leases(key, item)
        if self.faults.off:
            return
        if self._late_events and key[1] == "COUNTS":
            self._send_late_event(key[0].removeprefix("RUN#").rpartition("#")[0])
        writes = key[0].startswith("LEASE#") and "#scan@" not in key[0] and item["until"]
        if self._racing_cancels and writes and self.rng.random() < self._racing_cancels:
            self._racing_cancels = 0.0  # one is enough
            cancel = partial(self._cancel, self.rng.choice(self.worlds))
            self.machine.at(self.machine.now + self.rng.uniform(0, 0.3), cancel)
        if self._stalls and key[1].startswith("RUN#") and item.get("status") == RunStatus.CANCELLING:
            self._stall()

    def _send_late_event(self, run_id: str) -> None:
        """Send an event if the last batch of a run has ended: its scan joins while the run ends, or comes too late."""
        rows = self.stack.table.partitions
        shards = (rows.get(f"RUN#{run_id}#{shard}", {}).get("COUNTS", {}) for shard in range(SHARDS))
        balance = sum(int(shard.get("balance", 0)) for shard in shards)
        if not self._late_events_left or balance:
            return
        for world in self.worlds:
            current = rows.get(f"SYNC#{world.name}", {}).get("CURRENT", {})
            if current.get("run") == run_id and self.rng.random() < self._late_events:
                self._late_events_left -= 1
                self.machine.at(self.machine.now + self.rng.uniform(0, 0.1), partial(self._webhook, world))

    def _stall(self) -> None:
        """Freeze some running functions for a while, as a network that hangs does."""
        for process in self.stack.functions.alive():
            if self.rng.random() < self._stalls:
                process.freeze()
                self.machine.at(self.machine.now + self.rng.uniform(*STALL), process.thaw)

    def _send(self, start: Start) -> None:
        self.starts[start.sync] += 1
        from syncline.messages import encode  # noqa: PLC0415

        self.stack.sqs.put(self.stack.live[Step.DISCOVER], encode(start), 0.0)

    def _change_source(self, world: World) -> None:
        world.change_source()

    def _change_target(self, world: World) -> None:
        world.change_target()

    def _break_servers(self, world: World) -> None:
        world.inject_fault()

    def _repair_servers(self, world: World) -> None:
        world.clear_faults()

    # -- quiescence

    def _quiesce(self) -> None:
        """End all faults, and check that all work ends."""
        self.machine.note("quiescence")
        self.faults.off = True
        self.stack.sqs.late = self.stack.sqs.duplicates = self.stack.functions.short_time = 0.0
        for world in self.worlds:
            world.clear_faults()
        self.machine.run(self.machine.now + QUIESCENCE)
        waiting = [
            f"{queue.name}: {m.body[:200]}" for queue, m in self.stack.sqs.messages() if "-dead" not in queue.name
        ]
        if waiting:
            self.violations.append(f"messages are left: {waiting[:3]}")

    # -- final checks

    def _check_final_runs(self) -> None:
        """Start two full runs of each sync, and check their reports against source and target."""
        for world in self.worlds:
            self._check_failures(world)
            first = self._full_run(world)
            if first is None:
                continue
            deferred = world.deferred
            second = self._full_run(world)
            # The second run may remove more files: those that the first one added raise the limit of removals, and a
            # rename whose old file had changed is a put, so that the second run forgets or removes the old file.
            if second is not None and (
                second.counts.moved > deferred or (second.counts.removed and not first.counts.moved)
            ):
                self.violations.append(f"{world.name}: the second run moved items again: {second.counts}")
            if second is not None:
                self._check_health(world, second)
            self._check_all_runs(world)
        self._check_leftovers()

    def _full_run(self, world: World) -> Run | None:
        found: list[Run] = []

        def command(context: Any) -> None:
            found.append(start_run(context.deployment, world.name, Trigger.MANUAL, EVERYTHING))

        self.machine.run(self.machine.now + 1.5)
        before, size = self._usage(), world.size()
        self.operators[0].run_command("full run", command)
        self.machine.run(self.machine.now + FULL_RUN)
        used = self._usage().since(before)
        if not found:
            self.violations.append(f"{world.name}: no run could be started without faults")
            return None
        run = self.state.run(world.name, found[0].id)
        if run.status is not RunStatus.DONE:
            self.violations.append(f"{world.name}: a run without faults ended as {run.status}")
            return None
        results = list(self.state.results(run.id))
        wrong = [*world.check_full_run(run, results), *missing_dead_letters(run, results, self.stack.sqs)]
        counts = run.counts
        work = counts.moved + counts.removed + counts.conflict + counts.untrusted + counts.failed + counts.known
        kind = self.plan.worlds[self.worlds.index(world)]
        wrong += resource_limits.exceeded(kind, max(size, world.size()), work, used)
        self.violations += [f"{world.name}: run {run.id}: {each}" for each in wrong]
        return run

    def _check_health(self, world: World, run: Run) -> None:
        """Check the health of a sync after its latest run."""
        database = Database(cast("Any", self.stack.table))
        health, lags = read_health(database, world.name), read_totals(database, world.name).lags
        wrong = wrong_health(run, health, lags, self.state.runs(world.name, 100))
        self.violations += [f"{world.name}: run {run.id}: {each}" for each in wrong]

    def _check_failures(self, world: World) -> None:
        """Check that a sync with items that are known to fail does not count as in sync, whatever run was the latest."""
        failing = [each.key for each in self.state.failures.all(world.name)]
        if failing and self.state.health(world.name).in_sync:
            self.violations.append(f"{world.name}: counts as in sync, but {failing[:3]} are known to fail")

    def _usage(self) -> resource_limits.Usage:
        return resource_limits.usage(self.faults, self.stack.functions.invocations, self.stack.sqs)

    def _check_leftovers(self) -> None:
        """Check what is left in the table and in the queues."""
        size = sum(world.size() for world in self.worlds)
        runs = sum(len(self.state.runs(world.name, 100)) for world in self.worlds)
        table, sqs = self.stack.table, self.stack.sqs
        self.violations += resource_limits.leftovers(table, sqs, size, runs, len(self.worlds), self.machine.now)

    def _check_all_runs(self, world: World) -> None:
        # A killed command leaves its plan open. The next plan ends it.
        self.operators[0].run_command(
            "plan", lambda context: start_run(context.deployment, world.name, Trigger.MANUAL, EVERYTHING, plan=True)
        )
        self.machine.run(self.machine.now + FULL_RUN)
        runs = self.state.runs(world.name, 100)
        sent = [run for run in runs if run.trigger in (Trigger.SCHEDULE, Trigger.WEBHOOK)]
        if len(sent) > self.starts[world.name]:
            self.violations.append(f"{world.name}: {self.starts[world.name]} messages started {len(sent)} runs")
        self.violations += [f"{world.name}: run {run.id} is {run.status}" for run in runs if not run.over]
        over = sorted((run for run in runs if run.over), key=lambda each: each.started)
        reports = [(run, list(self.state.results(run.id))) for run in over]
        known = KnownFailures(reports)
        for run, results in reports:
            wrong = [*_miscounted(run, results, world), *world.check_report(run, results)]
            wrong += [*unfinished_work(run, self.state, self.stack.sqs), *known.exceeded(run, results)]
            wrong += wrong_lags(run, results)
            self.violations += [f"{world.name}: run {run.id}: {each}" for each in wrong]


def _miscounted(run: Run, results: list[Result], world: World) -> Iterator[str]:
    """Yield the errors in the counts of an ended run."""
    counts = run.counts
    seen: set[tuple[str, ...]] = set()
    for each in results:
        # An item that changed at the source during the run may end once with each version.
        key = (each.group, each.name, each.outcome, each.source or "", each.code or "")
        if key in seen and not world.may_repeat(each):
            yield f"{each.group}:{each.name} has the same result twice: {each}"
        seen.add(key)
    tally = {outcome: sum(each.outcome is outcome for each in results) for outcome in Outcome}
    refused = (Outcome.CONFLICT, Outcome.UNTRUSTED)
    for outcome in (Outcome.MOVED, Outcome.REMOVED, *refused, Outcome.FAILED, Outcome.CANCELLED):
        if getattr(counts, outcome.value) != tally[outcome]:
            yield f"{getattr(counts, outcome.value)} counted as {outcome}, but {tally[outcome]} results have it"
    # A known failure that the same run solved is not counted at its end.
    ended = counts.ended - counts.known + max(counts.known, tally[Outcome.KNOWN])
    if run.plan and (counts.moved or counts.removed or counts.queued):
        yield f"a plan has written: {counts}"
    if run.status in (RunStatus.DONE, RunStatus.CANCELLED) and not run.plan and counts.queued > ended:
        yield f"{counts.queued} items were queued, but {ended} ended: {counts}"
