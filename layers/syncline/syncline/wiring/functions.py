"""Where everything is put together: the AWS clients, the table, the queues, and each sync's kind with its clients.

Made once for a process, on first use; what a function does not use it does not pay for. How a kind is put together is
in the module of its name.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config

from syncline.clients.http.client import Http
from syncline.clients.s3.events import events_in, is_notification
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.messages import Queues
from syncline.model import Step
from syncline.secrets import Secrets
from syncline.steps.discover import discover
from syncline.steps.engine import Engine
from syncline.steps.gather import Gatherer
from syncline.steps.transfer import transfer
from syncline.steps.verify import verify
from syncline.steps.worker import StepFunction, Worker
from syncline.store.events import EventStore
from syncline.store.state import State
from syncline.store.table import Database
from syncline.web.receive import Receiver
from syncline.wiring.parts import Parts
from syncline.wiring.syncs import Kinds, Syncs, changed_groups_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table
    from mypy_boto3_sqs import SQSClient

STEPS: Final[Mapping[Step, StepFunction]] = {
    Step.DISCOVER: discover,
    Step.TRANSFER: transfer,
    Step.COMMIT: transfer,  # the same, one after another: the queue sees to that
    Step.VERIFY: verify,
}
AWS_CONFIG: Final = Config(
    retries={"mode": "standard", "max_attempts": 6},
    connect_timeout=5,
    read_timeout=20,
    parameter_validation=False,  # AWS does it, too, and mypy before: here it would take a tenth of each call's time
)


def queues_from(environ: Mapping[str, str], sqs: SQSClient) -> Queues:
    """The queues whose URLs the template puts into a function's environment."""
    urls = {step: environ[name] for step in Step if (name := f"SYNCLINE_{step.name}_QUEUE") in environ}
    dead_urls = {step: environ[name] for step in Step if (name := f"SYNCLINE_{step.name}_DLQ") in environ}
    return Queues(sqs, urls, dead_urls, environ.get("SYNCLINE_EVENTS_QUEUE"))


@cache
def secrets() -> Secrets:
    """The values of references."""
    return Secrets(
        lambda: boto3.client("secretsmanager", config=AWS_CONFIG), lambda: boto3.client("ssm", config=AWS_CONFIG)
    )


@cache
def _table() -> Table:
    return boto3.resource("dynamodb", config=AWS_CONFIG).Table(os.environ["SYNCLINE_TABLE"])


@cache
def state() -> State:
    """The table, as far as it is of runs."""
    return State(_table())


@cache
def database() -> Database:
    """The table, for what is not of runs."""
    return Database(_table())


@cache
def _queues() -> Queues:
    return queues_from(os.environ, boto3.client("sqs", config=AWS_CONFIG))


@cache
def _http() -> Http:
    return Http()


@cache
def _syncs() -> Syncs:
    return Syncs(state(), Kinds(Parts(secrets(), _http(), state(), Database(_table()))))


@cache
def worker(step: Step) -> Worker:
    """The worker of a function that is fed by a queue."""
    syncs = _syncs()
    chance = random.Random()  # noqa: S311 - for jitter
    bind = syncs.bind(_http(), lambda run, what: engine.waits(run.sync, run.id, SynclineError("TOO_SLOW", what), 0))
    engine = Engine(state(), _queues(), syncs.kind_of, time.time, chance, bind=bind)
    return Worker(step, STEPS[step], engine, gatherer(syncs, EventStore(Database(_table()), time.time), engine))


def gatherer(syncs: Syncs, event_store: EventStore, engine: Engine) -> Gatherer:
    """What takes in the events of sources."""
    return Gatherer(event_store, _sources, syncs.config, syncs.kind, engine.queues, engine.clock)


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
    """What the function behind the function URL does."""
    return Receiver(
        _syncs().config, lambda sync, event: changed_groups_of(sync, event, time.time()), secrets(), _queues()
    )
