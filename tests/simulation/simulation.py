"""One simulation: a seed chooses a world, what goes wrong in it and what people do, and invariants judge the rest.

A simulation has three parts. In the first everything happens at once: runs, events, cancels, retries, changes at
source and target, faults of every kind. Then the faults end and all that was begun comes to its end. In the last part
a full run, and another one, must find and leave everything as they report it.
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
from syncline.cli.run_progress import start_run
from syncline.clients.http.rejections import REJECTIONS
from syncline.config.sync import load_sync
from syncline.messages import Batch, Start
from syncline.model import EVERYTHING, Outcome, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.steps import discover
from syncline.steps.engine import StepEngine
from syncline.store import files
from syncline.store.batches import SHARDS
from syncline.store.leases import Lease
from syncline.store.state import State
from tests.simulation import bounds
from tests.simulation.expressions import Item
from tests.simulation.invariants import Known, unended, unreported, written
from tests.simulation.machine import EndlessError, Machine, PerProcess, installed
from tests.simulation.network import Faults
from tests.simulation.plan import Plan
from tests.simulation.printing import printing
from tests.simulation.stack import Operator, Stack
from tests.simulation.vault import secrets_of_processes
from tests.simulation.worlds.artifacts import ArtifactsWorld
from tests.simulation.worlds.backups import BackupsWorld
from tests.simulation.worlds.files import FilesWorld
from tests.simulation.worlds.images import ImagesWorld
from tests.simulation.worlds.world import World

CALM: Final = 5 * 3600.0
"""Seconds after which everything that was begun must have come to its end."""
SETTLED: Final = 2.5 * 3600.0
"""Seconds after which a command that is given in calm has come to its end.

A simulation of two syncs is so shorter than the window of 24 hours that removals are counted in.
"""
ECHOES: Final = 4
"""Events at most that come when a run has ended its last batch."""
STALL: Final = (8.0, 18.0)
"""Seconds for which a function stands still: less than a lease has left that is renewed in time."""
SLOWEST_CANCEL: Final = 120.0
"""Seconds that a cancel may take: ten, and what the faults of its own calls cost."""
WORLDS: Final[Mapping[str, Callable[[Stack, str, random.Random], World]]] = {
    "files": FilesWorld,
    "backups": BackupsWorld,
    "images": ImagesWorld,
    "artifacts": ArtifactsWorld,
}


@dataclass(slots=True)
class Verdict:
    """How a simulation ended: what was violated, and the trace."""

    plan: Plan
    violations: list[str]
    trace: list[str]
    faults: Faults
    steps: int = 0
    invocations: int = 0


LOGGED: Final = 8
"""Of so many seeds one has its log lines searched for secrets. To write them takes longer than all else does."""


def simulate(plan: Plan, *, logged: bool = False) -> Verdict:
    """Carry out a plan. ``logged`` if the log lines are searched for secrets; they are in every LOGGED-th seed.

    Messages, items of the table, metrics and what commands print are searched in every seed.
    """
    with (
        printing(logged=logged or plan.seed % LOGGED == 0) as printed,
        installed(Machine(plan.seed)) as machine,
        _fresh(),
        secrets_of_processes(),
    ):
        return Simulation(machine, plan, printed).run()


@contextmanager
def _fresh() -> Iterator[None]:
    """Let each simulated process begin with modules that remember nothing of other processes and simulations."""
    REJECTIONS.forget()
    with patch.object(files, "_IDS", PerProcess(files._Ids)):
        yield


class Simulation:
    """The course of one simulation."""

    def __init__(self, machine: Machine, plan: Plan, printed: io.StringIO) -> None:
        self.machine = machine
        self.printed = printed
        self.plan = plan
        self.rng = machine.rng
        self.violations: list[str] = []
        weather: dict[str, Any] = dict(plan.weather)
        queues = {name: weather.pop(name, 0.0) for name in ("skew", "late", "doubles", "hurry")}
        self._echoes, self._echoes_left = weather.pop("echoes", 0.0), ECHOES
        self._cancels, self._stalls = weather.pop("cancels", 0.0), weather.pop("stalls", 0.0)
        self.faults = Faults(**weather)
        self.stack = Stack(machine, self.faults, plan.seed, **queues)
        self.worlds: list[World] = []
        for number, name in enumerate(plan.worlds):
            self.worlds.append(WORLDS[name](self.stack, f"sync-{number}", random.Random(f"{plan.seed} {number}")))
        self._watched_by, self.stack.table.on_store = self.stack.table.on_store, self._stored
        self.starts: Counter[str] = Counter()
        self.operators = [self.stack.operator(name) for name in ("ann", "bob")]

    @property
    def state(self) -> State:
        """The state as it is, read without a network."""
        return State(cast("Any", self.stack.table), lambda: self.machine.now)

    def run(self) -> Verdict:
        with ExitStack() as stack:
            for world in self.worlds:
                stack.enter_context(world.wired())
            stack.enter_context(self._watched())
            self.stack.functions.begin()
            try:
                self._prologue()
                self._storm()
                self._calm()
                self._judge()
            except EndlessError as error:
                self.violations.append(f"endless: {error}")
        for world in self.worlds:
            self.violations += world.violations
        self.violations += self.stack.leases.violations
        self.violations += [f"uncaught: {each!r}" for each in self.stack.functions.failures]
        self.violations += self.stack.vault.leaks(written(self.stack.table, self.stack.sqs, self.printed.getvalue()))
        return Verdict(
            self.plan,
            self.violations,
            self.machine.trace,
            self.faults,
            self.machine.steps,
            self.stack.functions.invocations,
        )

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Let the judge see who works on a scan while the block runs."""
        scan = discover._scan

        def watched(engine: StepEngine, batch: Batch, run: Run, left: Callable[[], float], lease: Lease) -> None:
            with self.stack.leases.scanning(lease, batch.origin):
                scan(engine, batch, run, left, lease)

        with patch.object(discover, "_scan", watched):
            yield

    # -- before

    def _prologue(self) -> None:
        """Deploy the stack and apply the syncs, in calm."""
        self.faults.off = True
        for world in self.worlds:
            self._apply(world, world.config())
        self.machine.run(self.machine.now + 5)
        self.faults.off = False

    def _apply(self, world: World, config: dict[str, Any]) -> None:
        sync = load_sync(json.dumps(config))
        self.operators[0].does(f"apply {world.name}", lambda context: _put(context.deployment, sync, None))

    # -- the storm

    def _storm(self) -> None:
        """Let happen what was planned."""
        for act in self.plan.acts:
            world = self.worlds[act.world]
            self.rng.seed(act.seed)
            world.rng.seed(act.seed)
            self.machine.note(f"act {act.name} {world.name}")
            getattr(self, f"_{act.name}")(world)
            self.machine.run(self.machine.now + act.pause)

    def _operator(self) -> Operator:
        return self.rng.choice(self.operators)

    def _start(self, world: World) -> None:
        self._operator().does(
            "run", lambda context: start_run(context.deployment, world.name, Trigger.MANUAL, EVERYTHING)
        )

    def _start_some(self, world: World) -> None:
        scope = Scope.of([self.rng.choice(world.groups())])
        self._operator().does(
            "run some", lambda context: start_run(context.deployment, world.name, Trigger.MANUAL, scope)
        )

    def _plan(self, world: World) -> None:
        self._operator().does(
            "plan", lambda context: start_run(context.deployment, world.name, Trigger.MANUAL, EVERYTHING, plan=True)
        )

    def _cancel(self, world: World) -> None:
        begun = self.machine.now

        def cancel(context: Any) -> None:
            commands_retry.cancel(context, world.name)
            took = self.machine.now - begun
            if took > SLOWEST_CANCEL:
                self.violations.append(f"{world.name}: a cancel took {took:.0f} s")

        self._operator().does("cancel", cancel)

    def _retry(self, world: World) -> None:
        self._operator().does("retry", lambda context: commands_retry.retry(context, world.name, wait=False))

    def _reconfigure(self, world: World) -> None:
        config = world.reconfigure()
        if config is not None:
            self._apply(world, config)

    def _schedule(self, world: World) -> None:
        """Send what the schedule sends."""
        start = Start(world.name, Trigger.SCHEDULE)
        self._send(start)

    def _hint(self, world: World) -> None:
        """Change something at the source, and send what its webhook leads to."""
        groups = tuple(world.change_source())
        self._send(Start(world.name, Trigger.WEBHOOK, Scope.of(groups)))

    def _stored(self, key: tuple[str, str], item: Item) -> None:
        """Let things happen by chance at the moments that matter: a batch begins or ends, or a run is cancelled."""
        self._watched_by(key, item)
        if self.faults.off:
            return
        if self._echoes and key[1] == "COUNTS":
            self._echo(key[0].removeprefix("RUN#").rpartition("#")[0])
        writes = key[0].startswith("LEASE#") and "#scan@" not in key[0] and item["until"]
        if self._cancels and writes and self.rng.random() < self._cancels:
            self._cancels = 0.0  # one is enough
            cancel = partial(self._cancel, self.rng.choice(self.worlds))
            self.machine.at(self.machine.now + self.rng.uniform(0, 0.3), cancel)
        if self._stalls and key[1].startswith("RUN#") and item.get("status") == RunStatus.CANCELLING:
            self._stall()

    def _echo(self, run_id: str) -> None:
        """Send an event if the last batch of a run has ended: its scan joins while the run is being ended, or is late."""
        rows = self.stack.table.partitions
        shards = (rows.get(f"RUN#{run_id}#{shard}", {}).get("COUNTS", {}) for shard in range(SHARDS))
        balance = sum(int(shard.get("balance", 0)) for shard in shards)
        if not self._echoes_left or balance:
            return
        for world in self.worlds:
            current = rows.get(f"SYNC#{world.name}", {}).get("CURRENT", {})
            if current.get("run") == run_id and self.rng.random() < self._echoes:
                self._echoes_left -= 1
                self.machine.at(self.machine.now + self.rng.uniform(0, 0.1), partial(self._hint, world))

    def _stall(self) -> None:
        """Let functions at work stand still for a while, as on a network that hangs."""
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

    def _spoil(self, world: World) -> None:
        world.inject_fault()

    def _heal(self, world: World) -> None:
        world.clear_faults()

    # -- the calm

    def _calm(self) -> None:
        """End all faults, and let everything that was begun come to its end."""
        self.machine.note("calm")
        self.faults.off = True
        self.stack.sqs.late = self.stack.sqs.doubles = self.stack.functions.hurry = 0.0
        for world in self.worlds:
            world.clear_faults()
        self.machine.run(self.machine.now + CALM)
        waiting = [
            f"{queue.name}: {m.body[:200]}" for queue, m in self.stack.sqs.messages() if "-dead" not in queue.name
        ]
        if waiting:
            self.violations.append(f"messages are left: {waiting[:3]}")

    # -- the judgement

    def _judge(self) -> None:
        for world in self.worlds:
            first = self._full_run(world)
            if first is None:
                continue
            deferred = world.deferred
            second = self._full_run(world)
            # Files that the first run put let the second one remove more of those that went beyond the limits; and a
            # rename whose old file was not as recorded is a put, so that the second run forgets or removes the old one.
            if second is not None and (
                second.counts.moved > deferred or (second.counts.removed and not first.counts.moved)
            ):
                self.violations.append(f"{world.name}: a second run moved again: {second.counts}")
            self._check_all_runs(world)
        self._check_rest()

    def _full_run(self, world: World) -> Run | None:
        found: list[Run] = []

        def command(context: Any) -> None:
            found.append(start_run(context.deployment, world.name, Trigger.MANUAL, EVERYTHING))

        self.machine.run(self.machine.now + 1.5)
        before, size = self._tally(), world.size()
        self.operators[0].does("full run", command)
        self.machine.run(self.machine.now + SETTLED)
        done = self._tally().since(before)
        if not found:
            self.violations.append(f"{world.name}: no run could be begun in calm")
            return None
        run = self.state.run(world.name, found[0].id)
        if run.status is not RunStatus.DONE:
            self.violations.append(f"{world.name}: a run in calm ended as {run.status}")
            return None
        results = list(self.state.results(run.id))
        wrong = [*world.check_full_run(run, results), *unreported(run, results, self.stack.sqs)]
        counts = run.counts
        work = counts.moved + counts.removed + counts.conflict + counts.failed + counts.known
        kind = self.plan.worlds[self.worlds.index(world)]
        wrong += bounds.exceeded(kind, max(size, world.size()), work, done)
        self.violations += [f"{world.name}: run {run.id}: {each}" for each in wrong]
        return run

    def _tally(self) -> bounds.Tally:
        return bounds.tally(self.faults, self.stack.functions.invocations, self.stack.sqs)

    def _check_rest(self) -> None:
        """Judge what is left in the table and the queues."""
        size = sum(world.size() for world in self.worlds)
        runs = sum(len(self.state.runs(world.name, 100)) for world in self.worlds)
        table, sqs = self.stack.table, self.stack.sqs
        self.violations += bounds.left(table, sqs, size, runs, len(self.worlds), self.machine.now)

    def _check_all_runs(self, world: World) -> None:
        # A person who was cut off while they began a plan leaves it open; their next one ends it.
        self.operators[0].does(
            "plan", lambda context: start_run(context.deployment, world.name, Trigger.MANUAL, EVERYTHING, plan=True)
        )
        self.machine.run(self.machine.now + SETTLED)
        runs = self.state.runs(world.name, 100)
        sent = [run for run in runs if run.trigger in (Trigger.SCHEDULE, Trigger.WEBHOOK)]
        if len(sent) > self.starts[world.name]:
            self.violations.append(f"{world.name}: {self.starts[world.name]} messages began {len(sent)} runs")
        self.violations += [f"{world.name}: run {run.id} is {run.status}" for run in runs if not run.over]
        over = sorted((run for run in runs if run.over), key=lambda each: each.started)
        told = [(run, list(self.state.results(run.id))) for run in over]
        known = Known(told)
        for run, results in told:
            wrong = [*_miscounted(run, results, world), *world.check_report(run, results)]
            wrong += [*unended(run, self.state, self.stack.sqs), *known.exceeded(run, results)]
            self.violations += [f"{world.name}: run {run.id}: {each}" for each in wrong]


def _miscounted(run: Run, results: list[Result], world: World) -> Iterator[str]:
    """Yield what is wrong with the counts of a run that is over."""
    counts = run.counts
    seen: set[tuple[str, ...]] = set()
    for each in results:
        # What changed at the source while the run was at work may end twice, each time as what it was then.
        key = (each.group, each.name, each.outcome, each.source or "", each.code or "")
        if key in seen and not world.may_repeat(each):
            yield f"{each.group}:{each.name} has the same result twice: {each}"
        seen.add(key)
    tally = {outcome: sum(each.outcome is outcome for each in results) for outcome in Outcome}
    for outcome in (Outcome.MOVED, Outcome.REMOVED, Outcome.CONFLICT, Outcome.FAILED, Outcome.CANCELLED):
        if getattr(counts, outcome.value) != tally[outcome]:
            yield f"{getattr(counts, outcome.value)} counted as {outcome}, {tally[outcome]} have that result"
    # A known failure that was solved in the same run counts as none at its end.
    ended = counts.ended - counts.known + max(counts.known, tally[Outcome.KNOWN])
    if run.plan and (counts.moved or counts.removed or counts.queued):
        yield f"a plan that wrote: {counts}"
    if run.status in (RunStatus.DONE, RunStatus.CANCELLED) and not run.plan and counts.queued > ended:
        yield f"{counts.queued} items were queued, {ended} came to an end: {counts}"
