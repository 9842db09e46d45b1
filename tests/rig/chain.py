"""The rig of all step chains: table, queues, the pump that delivers messages, clock, faults, and the product's workers.

`Rig` holds the parts of every chain; its subclasses provide the worker of a step. `Chain` builds workers with the
product's wiring. The modules of the kinds (`images`, `files`, `artifacts`, `backups`) add a source and a target each.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import boto3

from syncline.clients.http.budgets import Budgets
from syncline.clients.http.retry import HOST_THROTTLE
from syncline.config.sync import Sync, load_sync
from syncline.errors import CODES
from syncline.messages import Batch, DeadLetter, Queues, Start, decode, encode
from syncline.model import EVERYTHING, Audit, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.secrets import Secrets
from syncline.steps.engine import StepEngine
from syncline.steps.worker import Worker
from syncline.store.budgets import LimitLedger
from syncline.store.events import EventStore
from syncline.store.leases import Every, every
from syncline.store.state import State
from syncline.store.table import Database
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.functions import STEPS, gatherer
from syncline.wiring.syncs import Syncs, kind_builder
from tests.rig.killable import KillableHttp, guard
from tests.rig.pump import Clock, Delivery, Letter, Mail, Pump, Reaper
from tests.rig.stack import EVENTS, dead_url, lone_table, url

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table


def queues(sqs: Any) -> Queues:
    """Return the product's queues with the test URLs."""
    return Queues(sqs, {step: url(step) for step in Step}, {step: dead_url(step) for step in Step}, EVENTS)


def connected_sqs(mail: Mail) -> Any:
    """Return an SQS client whose calls `mail` answers."""
    sqs = boto3.client("sqs")
    mail.connect(sqs)
    return sqs


def worker(
    step: Step,
    dependencies: Dependencies,
    queues: Queues,
    rng: random.Random,
    sleep: Callable[[float], None],
    *,
    every: Every = every,
    slow: Callable[[StepEngine, Run, str], None] = lambda _engine, _run, _what: None,
) -> Worker:
    """Return the worker of a step as :mod:`syncline.wiring.functions` makes it in a fresh process.

    `slow` is called when a server of a run is slow.
    """
    syncs = Syncs(dependencies.state, kind_builder(dependencies))
    bind = syncs.bind(dependencies.http, lambda run, what: slow(engine, run, what))
    engine = StepEngine(
        dependencies.state,
        queues,
        syncs.kind_of,
        dependencies.clock,
        rng,
        sleep,
        every=every,
        bind=bind,
        traffic=syncs.traffic(dependencies.http),
    )
    return Worker(
        step, STEPS[step], engine, gatherer(syncs, EventStore(dependencies.database, dependencies.clock), engine)
    )


class Rig(ABC):
    """Table, queues and pump around the workers of one sync, with a clock and a reaper that its tests control."""

    def __init__(self, sync: str, seed: int = 1, table: Table | None = None) -> None:
        self.sync = sync
        self.seed = seed
        HOST_THROTTLE._hosts.clear()  # it holds times of another rig's clock
        self.clock, self.reaper = Clock(), Reaper()
        self.mail = Mail(self.clock)
        self.table = lone_table() if table is None else table
        sqs, lock = connected_sqs(self.mail), threading.Lock()
        for client in (self.table.meta.client, sqs):
            guard(client, self.reaper, lock)
        self.queues = queues(sqs)
        self.database = Database(self.table)
        self.state = State(self.table, self.clock.time, self.clock.every)
        self.event_store = EventStore(self.database, self.clock.time)
        self.pump = Pump(self.mail, self.clock, self.reaper, self.new_worker, Delivery(random.Random(seed)))
        self._numbers = itertools.count(1)

    @abstractmethod
    def new_worker(self, step: Step) -> Worker:
        """Return the worker of a step as a fresh process has it."""

    # -- messages

    def put(self, message: Batch | Start | DeadLetter | str, step: Step | None = None, **more: Any) -> Letter:
        """Put a message into the queue of its step; `more` adds fields to the letter."""
        to = step or (message.step if isinstance(message, Batch) else Step.DISCOVER)
        body = message if isinstance(message, str) else encode(message)
        return self._post(url(to), body, **more)

    def post(self, *events: Any) -> None:
        """Put events of a source into their queue, one in each message."""
        for event in events:
            self._post(EVENTS, json.dumps(event))

    def _post(self, queue: str, body: str, **more: Any) -> Letter:
        letter = Letter(f"letter-{next(self._numbers)}", queue, body, self.clock.now, self.clock.now, **more)
        self.mail.add(letter)
        return letter

    def start(
        self,
        *groups: str,
        trigger: Trigger = Trigger.MANUAL,
        run: str | None = None,
        plan: bool = False,
        drill: float | None = None,
    ) -> Letter:
        """Put a start message into the queue: for everything, or for some groups."""
        self.queues.start(
            Start(
                self.sync,
                trigger,
                Scope.of(groups) if groups else EVERYTHING,
                run,
                plan or drill is not None,
                drill=drill,
            )
        )
        return self.mail.letters[-1]

    # -- runs

    def run(self, *groups: str) -> Run:
        """Execute a run to its end."""
        self.clock.sleep(1)  # the IDs of runs sort by seconds
        self.start(*groups)
        self.pump.run()
        return self.latest()

    def audit(self, *groups: str, **options: Any) -> Run:
        """Execute an audit to its end; `options` are those of :class:`Audit`."""
        self.clock.sleep(1)
        scope = Scope.of(groups) if groups else EVERYTHING
        self.queues.start(Start(self.sync, Trigger.MANUAL, scope, plan=True, audit=Audit(**options)))
        self.pump.run()
        return self.latest()

    def latest(self) -> Run:
        # IDs sort by the second, and two runs may begin in the same one.
        return max(self.state.runs(self.sync, 20), key=lambda run: run.number)

    def results(self, run: Run | None = None) -> dict[Any, Result]:
        """Return the results of a run, by default the latest one, by item. Fail if an item has two."""
        found: dict[Any, Result] = {}
        for result in self.state.results((run or self.latest()).id):
            key = self.key_of(result)
            assert key not in found, f"{key} ended twice: {found[key]} and {result}"
            found[key] = result
        return found

    def key_of(self, result: Result) -> Any:
        """Return the key of a result in `results`."""
        return result.group, result.name

    def dead(self) -> list[DeadLetter]:
        """Return the dead letters. Fail if one has no reason, an unknown code or the queue of another step."""
        found = []
        for step, letter in self.mail.dead():
            dead = decode(letter.body)
            assert isinstance(dead, DeadLetter), f"a dead letter without a reason: {letter.body}"
            assert dead.batch.step is step
            assert dead.code in CODES
            assert dead.reason
            found.append(dead)
        return found

    def check_ended(self) -> Run:
        """Return the latest run. Fail unless it is done and settled and no message is left."""
        run = self.latest()
        assert run.status is RunStatus.DONE, run
        assert self.state.current_run(self.sync) is None
        progress = self.state.progress(run.id)
        assert progress.settled
        assert progress.counts == run.counts
        assert not self.mail.waiting()
        return run


class Chain(Rig):
    """A rig whose workers are made by the product's wiring, with replaced HTTP, clock and secrets."""

    effects: tuple[str, ...] = ("/v2/",)
    """Prefixes of paths: requests that write below them can be killed."""

    def __init__(self, sync: str, secrets: Mapping[str, str], seed: int = 1, table: Table | None = None) -> None:
        super().__init__(sync, seed, table)
        self.secrets = secrets
        self.https: list[KillableHttp] = []

    def apply(self, config: Mapping[str, Any]) -> Sync:
        """Apply the configuration of a sync, as `syncline apply` does; its name is the chain's by default."""
        sync = load_sync(json.dumps({"name": self.sync, **config}))
        self.state.put_sync(sync.name, sync.model_dump_json())
        self.event_store.subscribe(sync.name, sync.event_sources())
        return sync

    def new_worker(self, step: Step) -> Worker:
        clock, http = self.clock, KillableHttp(self.reaper, self.clock, self.effects)
        http.budgets = Budgets(LimitLedger(self.database, clock.time))
        self.https.append(http)
        # Read here, because a test may replace `secrets`.
        secrets = Secrets(_no_client, _no_client, self.secrets)
        state = State(self.table, clock.time, clock.every)
        dependencies = Dependencies(secrets, http, state, self.database, clock.time)
        return worker(step, dependencies, self.queues, random.Random(self.seed), clock.sleep, every=clock.every)


def _no_client() -> Any:
    raise AssertionError("no secret is in AWS")
