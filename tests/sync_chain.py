"""The chain of steps of one sync: the product's workers and wiring, with the tests' table, queues, clock and faults."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping
from typing import Any

import boto3

from syncline.config.sync import Sync, load_sync
from syncline.messages import Queues, Start
from syncline.model import EVERYTHING, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.secrets import Secrets
from syncline.steps.engine import StepEngine
from syncline.steps.worker import Worker
from syncline.store.events import EventStore
from syncline.store.state import State
from syncline.store.table import Database
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.functions import STEPS, gatherer
from syncline.wiring.syncs import Kinds, Syncs
from tests.pump import Clock, Mail, Manners, MortalHttp, Pump, Reaper, guard
from tests.stack import EVENTS, dead_url, table_of_test, url


class Chain:
    """The steps of the sync named `sync`; `secrets` is the environment that `env:` refers to."""

    def __init__(self, sync: str, secrets: Mapping[str, str], seed: int = 1) -> None:
        self.sync, self.secrets, self.seed = sync, secrets, seed
        self.clock, self.reaper, self.table = Clock(), Reaper(), table_of_test()
        self.mail = Mail(self.clock)
        sqs, lock = boto3.client("sqs"), threading.Lock()
        self.mail.connect(sqs)
        for client in (self.table.meta.client, sqs):
            guard(client, self.reaper, lock)
        self.queues = Queues(sqs, {step: url(step) for step in Step}, {step: dead_url(step) for step in Step}, EVENTS)
        self.state = State(self.table, self.clock.time, self.clock.every)
        self.event_store = EventStore(Database(self.table), self.clock.time)
        self.pump = Pump(self.mail, self.clock, self.reaper, self.new_worker, Manners(random.Random(seed)))

    def apply(self, config: Mapping[str, Any]) -> Sync:
        """Apply the configuration of a sync, as `syncline apply` does; its name is the chain's by default."""
        sync = load_sync(json.dumps({"name": self.sync, **config}))
        self.state.put_sync(sync.name, sync.model_dump_json())
        self.event_store.subscribe(sync.name, sync.event_sources())
        return sync

    def new_worker(self, step: Step) -> Worker:
        """Return the worker of a step as a fresh process has it."""
        clock, http = self.clock, MortalHttp(self.reaper, self.clock)
        secrets = Secrets(_no_client, _no_client, self.secrets)
        state = State(self.table, clock.time, clock.every)
        syncs = Syncs(state, Kinds(Dependencies(secrets, http, state, Database(self.table), clock.time)))
        rng, bind = random.Random(self.seed), syncs.bind(http)
        engine = StepEngine(
            state, self.queues, syncs.kind_of, clock.time, rng, clock.sleep, every=clock.every, bind=bind
        )
        return Worker(step, STEPS[step], engine, gatherer(syncs, self.event_store, engine))

    def run(self, *groups: str) -> Run:
        """Carry out a run to its end."""
        self.clock.sleep(1)  # the IDs of runs sort by seconds
        self.queues.start(Start(self.sync, Trigger.MANUAL, Scope.of(groups) if groups else EVERYTHING))
        self.pump.run()
        return max(self.state.runs(self.sync, 20), key=lambda run: run.number)

    def results(self, run: Run) -> dict[tuple[str, str], Result]:
        """Return the results of a run by group and name. Fail where an item has two."""
        found: dict[tuple[str, str], Result] = {}
        for result in self.state.results(run.id):
            assert (result.group, result.name) not in found, f"{result} and {found[result.group, result.name]}"
            found[result.group, result.name] = result
        return found

    def check_ended(self) -> Run:
        """Check that the latest run is done and settled and that no message is left; return the run."""
        run = max(self.state.runs(self.sync, 20), key=lambda run: run.number)
        assert run.status is RunStatus.DONE, run
        assert self.state.current_run(self.sync) is None
        progress = self.state.progress(run.id)
        assert progress.settled
        assert progress.counts == run.counts
        assert not self.mail.waiting()
        return run


def _no_client() -> Any:
    raise AssertionError("no secret is in AWS")
