"""Builds what the functions call: AWS clients, table, queues, and each sync's kind with its clients.

Everything is built once for a process, on first use, from the environment that the function is started with. The modules
of the kinds build what is particular to a kind.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config

from syncline.clients.http.budgets import Budgets
from syncline.clients.http.client import Http
from syncline.clients.s3.events import events_in, is_notification
from syncline.config.sync import Sync
from syncline.environment import FunctionEnvironment
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.messages import Queues
from syncline.model import Step
from syncline.secrets import Secrets
from syncline.steps.discover import discover
from syncline.steps.engine import StepEngine
from syncline.steps.events import EventGatherer
from syncline.steps.transfer import transfer
from syncline.steps.verify import verify
from syncline.steps.worker import StepFunction, Worker
from syncline.store.budgets import LimitLedger
from syncline.store.events import EventStore
from syncline.store.state import State
from syncline.store.table import AWS_ERRORS, Database
from syncline.telemetry import logger
from syncline.web.receive import Receiver
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.environments import ENVIRONMENTS
from syncline.wiring.syncs import Syncs, changed_groups_of, kind_builder

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

STEPS: Final[Mapping[Step, StepFunction]] = {
    Step.DISCOVER: discover,
    Step.TRANSFER: transfer,
    Step.COMMIT: transfer,  # the same; the FIFO queue serializes it
    Step.VERIFY: verify,
}
AWS_CONFIG: Final = Config(
    retries={"mode": "standard", "max_attempts": 6},
    connect_timeout=5,
    read_timeout=20,
    parameter_validation=False,  # AWS and mypy validate; here it would take a tenth of the time of each call
)


def queues_of(environment: FunctionEnvironment, sqs: SQSClient) -> Queues:
    """Return the queues that a function's environment names."""
    values = asdict(environment)
    urls = {step: values[name] for step in Step if (name := f"{step.value}_queue") in values}
    dead_urls = {step: values[name] for step in Step if (name := f"{step.value}_dlq") in values}
    return Queues(sqs, urls, dead_urls, values.get("events_queue"), values.get("notify_queue"))


@cache
def dependencies_of(environment: FunctionEnvironment) -> Dependencies:
    """Return the secrets, the HTTP client and the table of a process."""
    table = boto3.resource("dynamodb", config=AWS_CONFIG).Table(environment.table)
    secrets = Secrets(
        lambda: boto3.client("secretsmanager", config=AWS_CONFIG), lambda: boto3.client("ssm", config=AWS_CONFIG)
    )
    database = Database(table)
    return Dependencies(secrets, Http(budgets=Budgets(LimitLedger(database, time.time))), State(table), database)


@cache
def worker(step: Step) -> Worker:
    """Return the worker of a function that is fed by a queue. Raises CONFIG_INVALID if a variable is missing."""
    environment = ENVIRONMENTS[step.value].read(step.value)
    dependencies = dependencies_of(environment)
    syncs = Syncs(dependencies.state, kind_builder(dependencies))
    chance = random.Random()  # noqa: S311 - for jitter
    bind = syncs.bind(
        dependencies.http, lambda run, what: engine.note_waiting(run.sync, run.id, SynclineError("TOO_SLOW", what), 0)
    )
    queues = queues_of(environment, boto3.client("sqs", config=AWS_CONFIG))
    engine = StepEngine(
        dependencies.state,
        queues,
        syncs.kind_of,
        time.time,
        chance,
        bind=bind,
        traffic=syncs.traffic(dependencies.http),
        changed=hinting(syncs.config, queues.hint),
    )
    return Worker(step, STEPS[step], engine, gatherer(syncs, EventStore(dependencies.database, time.time), engine))


def hinting(config: Callable[[str], Sync], hint: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that sends a hint for a sync, if it has notifications or a heartbeat.

    A hint that cannot be sent does not stop the step: the function `watch` sends another one.
    """

    def changed(sync: str) -> None:
        try:
            if config(sync).notifies:
                hint(sync)
        except (*AWS_ERRORS, SynclineError) as error:
            logger.warning("hint not sent", extra={"sync": sync, "why": str(error)})

    return changed


def gatherer(syncs: Syncs, event_store: EventStore, engine: StepEngine) -> EventGatherer:
    """Return the reader of the events that sources send."""

    def reader(sync: Sync) -> Callable[[object], tuple[str, ...]]:
        syncs.kind(sync.name)  # events are put off while a secret of the sync is missing
        return lambda event: changed_groups_of(sync, event, engine.clock())

    return EventGatherer(event_store, _sources, syncs.config, reader, engine.queues, engine.clock)


def _sources(body: object) -> tuple[str, ...]:
    """Return the sources that an event's body names: buckets, or a source that some kind knows.

    Raises MESSAGE_INVALID if the body is no event.
    """
    if not is_notification(body):
        for kind in (each for each in KINDS.values() if each.has_events):
            names: tuple[str, ...] = import_module(f"syncline.kinds.{kind.name}.events").sources_in(body)
            if names:
                return names
    return tuple(sorted({f"bucket:{event.bucket}" for event in events_in(body)}))


@cache
def receiver() -> Receiver:
    """Return the receiver of webhooks. Raises CONFIG_INVALID if a variable is missing."""
    environment = ENVIRONMENTS["receive"].read("receive")
    dependencies = dependencies_of(environment)
    return Receiver(
        Syncs(dependencies.state, kind_builder(dependencies)).config,
        lambda sync, event: changed_groups_of(sync, event, time.time()),
        dependencies.secrets,
        queues_of(environment, boto3.client("sqs", config=AWS_CONFIG)),
    )
