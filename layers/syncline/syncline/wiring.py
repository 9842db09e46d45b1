"""Where everything is put together: the AWS clients, the table, the queues, and each sync's kind with its clients.

Made once for a process, on first use; what a function does not use it does not pay for.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config

from syncline.clients.addresses import Endpoint
from syncline.clients.http import Http
from syncline.clients.oci import Registry
from syncline.clients.oci_auth import Credentials
from syncline.clients.quay import Quay
from syncline.config import BasicAuth, ImagesSync, RegistryEndpoint, Sync, TokenAuth, load_sync
from syncline.kinds.images import BlobPlaces, Images, Side
from syncline.kinds.images.places import Memory
from syncline.kinds.kind import Kind
from syncline.messages import Queues
from syncline.model import Step
from syncline.secrets import Reference, Secrets
from syncline.state import State
from syncline.steps.discover import discover
from syncline.steps.engine import Engine
from syncline.steps.receive import Receiver
from syncline.steps.transfer import transfer
from syncline.steps.verify import verify
from syncline.steps.worker import StepFunction, Worker

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

STEPS: Final[Mapping[Step, StepFunction]] = {
    Step.DISCOVER: discover,
    Step.TRANSFER: transfer,
    Step.VERIFY: verify,
}
AWS_CONFIG: Final = Config(retries={"mode": "standard", "max_attempts": 6}, connect_timeout=5, read_timeout=20)


class Syncs:
    """The applied syncs as they are now, and their kinds, each made once for a configuration."""

    def __init__(self, state: State, build: Callable[[Sync], Kind]) -> None:
        self._state = state
        self._build = build
        self._kinds: dict[str, tuple[str, Kind]] = {}

    def config(self, name: str) -> Sync:
        """A sync's configuration; raises NO_SUCH_SYNC."""
        return load_sync(self._state.sync_config(name))

    def kind(self, name: str) -> Kind:
        """A sync's kind; raises NO_SUCH_SYNC, or why a secret cannot be had."""
        # Read each time: a run right after `apply` must not go by what was applied before.
        text = self._state.sync_config(name)
        made = self._kinds.get(name)
        if made is None or made[0] != text:
            made = self._kinds[name] = (text, self._build(load_sync(text)))
        return made[1]


class Builder:
    """Makes the kind of a sync with its clients. All of a process's kinds share connections and known blobs."""

    def __init__(self, secrets: Secrets, memory: Memory) -> None:
        self._secrets = secrets
        self._http = Http()
        self._places = BlobPlaces(memory)

    def __call__(self, sync: Sync) -> Kind:
        return self._images(sync)

    def _images(self, sync: ImagesSync) -> Images:
        return Images(sync, self._side(sync.source), self._side(sync.target), self._http, self._places)

    def _side(self, place: RegistryEndpoint) -> Side:
        ca = None if place.ca is None else self._secrets.text(place.ca)
        scheme = "http" if place.plain_http else "https"
        endpoint = Endpoint.parse(f"{scheme}://{place.registry}", ca=ca, auth_realms=place.auth_realms)
        registry = Registry(
            endpoint,
            lambda: _credentials(place, self._secrets.resolve),
            self._http,
            renewed=lambda: _credentials(place, self._secrets.refresh),
        )
        return Side(registry, self._api(place, ca))

    def _api(self, place: RegistryEndpoint, ca: str | None) -> Quay | None:
        if place.api is None or place.api_url is None:
            return None
        token = place.api.token
        endpoint = Endpoint.parse(place.api_url, ca=ca)
        return Quay(endpoint, lambda: None if token is None else self._secrets.resolve(token), self._http)


def _credentials(place: RegistryEndpoint, value_of: Callable[[Reference], str]) -> Credentials | None:
    """Who we are at a registry; ``value_of`` gives the value of a reference."""
    match place.auth:
        case "anonymous":
            return None
        case "docker-config":
            from syncline.clients.docker_credentials import credentials_for  # noqa: PLC0415 - the SDK is slow to import

            return credentials_for(place.registry)
        case BasicAuth(username=username, password=password):
            return Credentials(username if isinstance(username, str) else value_of(username), value_of(password))
        case TokenAuth(token=token):
            return Credentials(registry_token=value_of(token))


def queues_from(environ: Mapping[str, str], sqs: SQSClient) -> Queues:
    """The queues whose URLs the template puts into a function's environment."""
    urls = {step: environ[name] for step in Step if (name := f"SYNCLINE_{step.name}_QUEUE") in environ}
    dead_urls = {step: environ[name] for step in Step if (name := f"SYNCLINE_{step.name}_DLQ") in environ}
    return Queues(sqs, urls, dead_urls)


@cache
def _secrets() -> Secrets:
    return Secrets(
        lambda: boto3.client("secretsmanager", config=AWS_CONFIG), lambda: boto3.client("ssm", config=AWS_CONFIG)
    )


@cache
def _state() -> State:
    return State(boto3.resource("dynamodb", config=AWS_CONFIG).Table(os.environ["SYNCLINE_TABLE"]))


@cache
def _queues() -> Queues:
    return queues_from(os.environ, boto3.client("sqs", config=AWS_CONFIG))


@cache
def _syncs() -> Syncs:
    return Syncs(_state(), Builder(_secrets(), _state()))


@cache
def worker(step: Step) -> Worker:
    """The worker of a function that is fed by a queue."""
    engine = Engine(_state(), _queues(), _syncs().kind, time.time, random.Random())  # noqa: S311 - for jitter
    return Worker(step, STEPS[step], engine)


@cache
def receiver() -> Receiver:
    """What the function behind the function URL does."""
    return Receiver(_syncs().config, _syncs().kind, _secrets(), _queues())
