"""The deployment that a command works on: the engine on this machine, or a stack on AWS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from syncline.cli.aws import LOCAL_CONFIG, as_syncline_error, local_session
from syncline.errors import SynclineError
from syncline.messages import Queues
from syncline.model import Step
from syncline.store.events import EventStore
from syncline.store.state import State
from syncline.store.table import Database

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table
    from mypy_boto3_scheduler import EventBridgeSchedulerClient

    from syncline.cli.local_engine import Engine
    from syncline.clients.http.client import Http
    from syncline.secrets import Secrets
    from syncline.wiring.dependencies import Dependencies

_CONFIG: Final = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=20)

_MAKING: Final = threading.Lock()
"""Botocore makes clients in one thread at a time."""


@dataclass(frozen=True)
class Deployment:
    """A deployed stack: its name in messages, its outputs and parameters.

    ``home`` is the folder of the engine on this machine, None for a stack on AWS. ``endpoint`` is None for AWS itself.
    """

    name: str
    outputs: Mapping[str, str]
    session: boto3.Session
    parameters: Mapping[str, str] = field(default_factory=dict)
    endpoint: str | None = None
    home: Path | None = None

    @property
    def local(self) -> bool:
        """True for the engine on this machine."""
        return self.home is not None

    def output(self, name: str) -> str:
        """Return an output of the stack; raises ENGINE_ABSENT if it is not a Syncline stack."""
        try:
            return self.outputs[name]
        except KeyError:
            what = f"{self.name} has no output {name}: it is not a Syncline stack, or of another version"
            raise SynclineError("ENGINE_ABSENT", what) from None

    def client(self, service: str) -> Any:
        """Return a new boto3 client."""
        with _MAKING:
            return self.session.client(service, **self._arguments)  # type: ignore[call-overload]

    @property
    def _arguments(self) -> dict[str, Any]:
        return {"endpoint_url": self.endpoint, "config": LOCAL_CONFIG if self.local else _CONFIG}

    @cached_property
    def table(self) -> Table:
        table: Table = self.session.resource("dynamodb", **self._arguments).Table(self.output("TableName"))
        return table

    @cached_property
    def state(self) -> State:
        return State(self.table)

    @cached_property
    def event_store(self) -> EventStore:
        return EventStore(Database(self.table), time.time)

    @cached_property
    def queues(self) -> Queues:
        urls = {step: self.output(f"{step.name.capitalize()}QueueUrl") for step in Step}
        dead_urls = {step: self.output(f"{step.name.capitalize()}DeadLetterQueueUrl") for step in Step}
        return Queues(self.client("sqs"), urls, dead_urls)

    @cached_property
    def scheduler(self) -> EventBridgeSchedulerClient:
        client: EventBridgeSchedulerClient = self.client("scheduler")
        return client

    @cached_property
    def environ(self) -> Mapping[str, str] | None:
        """The environment of the functions, for ``env:`` references; None if this person may not read it."""
        if self.home is not None:
            from syncline.cli.local_engine import environment_of  # noqa: PLC0415 - only `apply` asks

            return environment_of(self.home)
        try:
            # All functions that resolve references have the same environment.
            name = self.output("DiscoverQueueArn").rpartition(":")[2]
            configuration = self.client("lambda").get_function_configuration(FunctionName=name)
        except ClientError as error:
            if as_syncline_error(error, self.name, local=False).code.name == "AWS_DENIED":
                return None
            raise
        variables: dict[str, str] = configuration.get("Environment", {}).get("Variables", {})
        return variables

    @cached_property
    def secrets(self) -> Secrets:
        """Resolves references with this person's permissions."""
        from syncline.secrets import Secrets  # noqa: PLC0415 - only `apply` needs secrets

        return Secrets(lambda: self.client("secretsmanager"), lambda: self.client("ssm"), local=self.local)

    def dependencies(self, http: Http, clock: Callable[[], float]) -> Dependencies:
        """Return what kinds are built from. References to variables mean those of the functions."""
        from syncline.secrets import Secrets  # noqa: PLC0415 - only few commands need secrets
        from syncline.wiring.dependencies import Dependencies  # noqa: PLC0415

        clients = (lambda: self.client("secretsmanager"), lambda: self.client("ssm"))
        secrets = Secrets(*clients, self.environ or {}, local=self.local)
        return Dependencies(secrets, http, self.state, Database(self.table), clock)


def stack_deployment(stack: str) -> Deployment:
    """Return a stack in the account and region that boto3 finds; ``AWS_ENDPOINT_URL`` is honoured.

    Raises ENGINE_ABSENT, AWS_DENIED or AWS_UNAVAILABLE.
    """
    where = f"the stack {stack}"
    try:
        session = boto3.Session()
        where += f" in {session.region_name}" if session.region_name else ""
        (found,) = session.client("cloudformation", config=_CONFIG).describe_stacks(StackName=stack)["Stacks"]
    except (BotoCoreError, ClientError) as error:
        # CloudFormation has no separate code for a stack that does not exist.
        if isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") == "ValidationError":
            raise SynclineError("ENGINE_ABSENT", f"{where} does not exist") from None
        raise as_syncline_error(error, where, local=False) from None
    outputs = {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])}
    parameters = {each["ParameterKey"]: each.get("ParameterValue", "") for each in found.get("Parameters", [])}
    return Deployment(where, outputs, session, parameters)


def local_deployment(home: Path) -> Deployment:
    """Return the engine that ``syncline up`` started in ``home``; raises ENGINE_ABSENT."""
    from syncline.cli import engine_log  # noqa: PLC0415 - not needed for a stack on AWS
    from syncline.cli.local_engine import describe  # noqa: PLC0415 - not needed for a stack on AWS

    engine = describe(home)
    if engine is None:
        log = home / engine_log.NAME
        raise SynclineError(
            "ENGINE_ABSENT", f"no engine runs in {home}" + (f"; its log is {log}" if log.exists() else "")
        )
    return deployment_of(engine, home)


def deployment_of(engine: Engine, home: Path) -> Deployment:
    """Return the stack of a running engine; raises ENGINE_ABSENT if nothing is deployed to it."""
    if not engine.outputs:
        raise SynclineError("ENGINE_ABSENT", f"the engine in {home} runs, but nothing is deployed to it yet")
    name = f"the engine at {engine.endpoint}"
    return Deployment(name, engine.outputs, local_session(), endpoint=engine.endpoint, home=home)
