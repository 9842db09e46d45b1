"""A deployed stack of Syncline on one simulated machine: table, queues, functions and operators.

Steps, state, kinds, wiring and the command are the product's own code. All outside systems are models.
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
from tests.simulation.functions import EventSourceMapping, Functions
from tests.simulation.invariants import LeaseMonitor
from tests.simulation.machine import Machine, Process
from tests.simulation.network import Calls, Client, Faults, Network
from tests.simulation.queues import ModelSqs, Queue
from tests.simulation.secret_store import SecretStore
from tests.simulation.table import ModelTable

CONCURRENCY: Final = {Step.DISCOVER: 2, Step.TRANSFER: 3, Step.COMMIT: 2, Step.VERIFY: 2}
"""Maximum number of concurrent functions of each step: fewer than on AWS, but enough for races."""


class SimHttp(Http):
    """The HTTP client of a process, with its deadline, cancellation and number of requests. Models answer the calls."""

    def __init__(self, calls: Calls) -> None:
        machine = calls.machine
        super().__init__(RetryPolicy(chance=lambda: 0.5, sleep=machine.sleep, clock=calls.machine.time))
        self.network = Network(calls, self)

    def _send(self, request: HttpRequest, limits: TransferLimits, *, stream: bool) -> Response:
        del limits, stream
        raise AssertionError(f"a request without a model: {request.method} {request.address.url}")


@dataclass
class Stack:
    """A deployed stack. ``servers`` are the outside systems by host."""

    machine: Machine
    faults: Faults
    seed: int = 0
    servers: dict[str, Any] = field(default_factory=dict)
    skew: float = 0.0
    late: float = 0.0
    duplicates: float = 0.0
    short_time: float = 0.0

    def __post_init__(self) -> None:
        self.table = ModelTable()
        self.leases = LeaseMonitor(self.table)
        self.environ: dict[str, str] = {}
        self.secret_store = SecretStore(self.seed, self.environ)
        dead = {step: Queue(dead_url(step)) for step in Step}
        live = {step: Queue(url(step), QUEUES[step].visibility, QUEUES[step].receives, dead[step]) for step in Step}
        discover = QUEUES[Step.DISCOVER]
        events = Queue(EVENTS, discover.visibility, discover.receives, dead[Step.DISCOVER])
        self.dead, self.live, self.events = dead, live, events
        self.sqs = ModelSqs(self.machine, [*dead.values(), *live.values(), events], self.late, self.duplicates)
        mappings = [
            EventSourceMapping(
                live[step], step, QUEUES[step].function_timeout, QUEUES[step].batch_size, CONCURRENCY[step]
            )
            for step in Step
        ]
        mappings.append(EventSourceMapping(events, Step.DISCOVER, discover.function_timeout, 10, 2))
        self.functions = Functions(self.machine, self.sqs, mappings, self.worker, self.skew, self.short_time)

    # -- objects of one process

    def calls(self, process: Process) -> Calls:
        return Calls(self.machine, process, self.faults)

    def secrets(self, calls: Calls) -> Secrets:
        """Return the resolver of secrets of a process."""
        store = cast("Any", Client(calls, self.secret_store))
        return Secrets(lambda: store, lambda: store, self.environ, self.machine.time)

    def queues(self, calls: Calls) -> Queues:
        return queues(Client(calls, self.sqs))

    def worker(self, process: Process, step: Step) -> Worker:
        """Return the worker of a step, as :mod:`syncline.wiring.functions` builds it in a new process."""
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
        """Return an operator. Each of their commands is a separate process."""
        return Operator(self, name)


@dataclass
class _Deployment:
    """Replaces :class:`syncline.cli.deployment.Deployment` for a command."""

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
    """Runs commands, each in a process of its own."""

    stack: Stack
    name: str
    commands: int = 0

    def run_command(self, name: str, command: Callable[[Context], object]) -> Process:
        """Start a command in a new process. Errors that an operator would see are only noted in the trace."""
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
            except Exception as error:  # noqa: BLE001 - no command may raise any other error
                self.stack.functions.failures.append(error)
            else:
                machine.note(f"{process.name}: done")

        machine.note(f"{process.name}: started")
        machine.spawn(process, process.name, run)
        return process
