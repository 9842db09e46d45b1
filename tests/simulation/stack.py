"""Syncline as it is deployed: table, queues, functions and the people who operate it, on one machine of the simulation.

Everything above the seam is the product's own: steps, state, kinds, wiring and the command. Below it are models.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, cast

from syncline.cli.context import Context
from syncline.cli.deployment import Deployment
from syncline.cli.output import Output
from syncline.clients.http.client import Http, Response
from syncline.clients.http.limits import HttpRequest, TransferLimits
from syncline.clients.http.retry import RetryPolicy
from syncline.errors import SynclineError
from syncline.messages import Queues
from syncline.model import Run, Step
from syncline.secrets import Secrets
from syncline.steps.engine import StepEngine
from syncline.steps.worker import Worker
from syncline.store.events import EventStore
from syncline.store.state import State
from syncline.store.table import AWS_ERRORS, Database
from syncline.wiring.dependencies import Dependencies
from tests.rig.chain import queues, worker
from tests.rig.stack import EVENTS, QUEUES, dead_url, url
from tests.simulation.functions import Functions
from tests.simulation.functions import Mapping as Source
from tests.simulation.invariants import Leases
from tests.simulation.machine import Machine, Process
from tests.simulation.network import Calls, Client, Faults, Network
from tests.simulation.queues import ModelSqs, Queue
from tests.simulation.table import ModelTable
from tests.simulation.vault import Vault

CONCURRENCY: Final = {Step.DISCOVER: 2, Step.TRANSFER: 3, Step.COMMIT: 2, Step.VERIFY: 2}
"""Functions of each step at a time: fewer than on AWS, enough to meet each other."""


class SimHttp(Http):
    """The HTTP of a process: its deadline, its cancellation and its count. Models make its calls."""

    def __init__(self, calls: Calls) -> None:
        machine = calls.machine
        super().__init__(RetryPolicy(chance=lambda: 0.5, sleep=machine.sleep, clock=calls.machine.time))
        self.network = Network(calls, self)

    def _send(self, request: HttpRequest, limits: TransferLimits, *, stream: bool) -> Response:
        del limits, stream
        raise AssertionError(f"a request that no model makes: {request.method} {request.address.url}")


@dataclass
class Stack:
    """A deployed stack. ``servers`` are the outside systems by their hosts."""

    machine: Machine
    faults: Faults
    seed: int = 0
    servers: dict[str, Any] = field(default_factory=dict)
    skew: float = 0.0
    late: float = 0.0
    doubles: float = 0.0
    hurry: float = 0.0

    def __post_init__(self) -> None:
        self.table = ModelTable()
        self.leases = Leases(self.table)
        self.environ: dict[str, str] = {}
        self.vault = Vault(self.seed, self.environ)
        dead = {step: Queue(dead_url(step)) for step in Step}
        live = {step: Queue(url(step), QUEUES[step].visibility, QUEUES[step].receives, dead[step]) for step in Step}
        discover = QUEUES[Step.DISCOVER]
        events = Queue(EVENTS, discover.visibility, discover.receives, dead[Step.DISCOVER])
        self.dead, self.live, self.events = dead, live, events
        self.sqs = ModelSqs(self.machine, [*dead.values(), *live.values(), events], self.late, self.doubles)
        mappings = [
            Source(live[step], step, QUEUES[step].function_timeout, QUEUES[step].batch_size, CONCURRENCY[step])
            for step in Step
        ]
        mappings.append(Source(events, Step.DISCOVER, discover.function_timeout, 10, 2))
        self.functions = Functions(self.machine, self.sqs, mappings, self.worker, self.skew, self.hurry)

    # -- what a process has

    def calls(self, process: Process) -> Calls:
        return Calls(self.machine, process, self.faults)

    def secrets(self, calls: Calls) -> Secrets:
        """Return the secrets of a process."""
        vault = cast("Any", Client(calls, self.vault))
        return Secrets(lambda: vault, lambda: vault, self.environ, self.machine.time)

    def queues(self, calls: Calls) -> Queues:
        return queues(Client(calls, self.sqs))

    def worker(self, process: Process, step: Step) -> Worker:
        """Return the worker of a step, as :mod:`syncline.wiring.functions` makes it in a fresh process."""
        calls = self.calls(process)
        table = cast("Any", Client(calls, self.table))
        clock = self.machine.time
        state, database, http = State(table, clock), Database(table), SimHttp(calls)
        dependencies = Dependencies(self.secrets(calls), http, state, database, clock)
        rng = random.Random(self.machine.rng.random())

        def slow(engine: StepEngine, run: Run, what: str) -> None:
            engine.note_waiting(run.sync, run.id, SynclineError("TOO_SLOW", what), 0)

        return worker(step, dependencies, self.queues(calls), rng, self.machine.sleep, slow=slow)

    def operator(self, name: str) -> Operator:
        """Return a person with a terminal; each of their commands is a process of its own."""
        return Operator(self, name)


@dataclass
class _Deployment:
    """The deployment that a command works on, as :class:`syncline.cli.deployment.Deployment`."""

    stack: Stack
    process: Process
    name: str = "the stack of the simulation"
    local: bool = False
    home: None = None

    @cached_property
    def _calls(self) -> Calls:
        return self.stack.calls(self.process)

    @cached_property
    def table(self) -> Any:
        return Client(self._calls, self.stack.table)

    @cached_property
    def state(self) -> State:
        return State(self.table, self.stack.machine.time)

    @cached_property
    def event_store(self) -> EventStore:
        return EventStore(Database(self.table), self.stack.machine.time)

    @cached_property
    def queues(self) -> Queues:
        return self.stack.queues(self._calls)


@dataclass
class Operator:
    """Runs commands, one process each. ``errors`` are those of the last command."""

    stack: Stack
    name: str
    commands: int = 0

    def does(self, name: str, command: Callable[[Context], object]) -> Process:
        """Start a command in a process of its own. What it raises is what a person would see."""
        self.commands += 1
        machine = self.stack.machine
        process = Process(machine, f"{self.name}-{self.commands} {name}")
        context = Context(None, None, Output(as_json=True))
        target = _Deployment(self.stack, process)
        context.__dict__["deployment"] = cast("Deployment", target)

        def run() -> None:
            try:
                command(context)
            except SynclineError as error:
                machine.note(f"{process.name}: {error.code.name}")
            except AWS_ERRORS as error:
                machine.note(f"{process.name}: {type(error).__name__}")
            except Exception as error:  # noqa: BLE001 - no command may end so
                self.stack.functions.failures.append(error)
            else:
                machine.note(f"{process.name}: done")

        machine.note(f"{process.name}: begun")
        machine.spawn(process, process.name, run)
        return process
