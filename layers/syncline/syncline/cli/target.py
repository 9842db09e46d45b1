"""Which engine a command speaks to: the one on this machine, or a stack on AWS, and what of it the command needs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from syncline.cli.aws_errors import as_syncline_error
from syncline.cli.local_aws import LOCAL_CONFIG, local_session
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
    from syncline.secrets import Secrets

_CONFIG: Final = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=20)


@dataclass(frozen=True)
class Target:
    """A deployed stack. ``where`` is how messages call it, ``outputs`` and ``parameters`` are the stack's own.

    ``home`` is the folder of the engine on this machine, None for a stack on AWS. ``endpoint`` is None for AWS's own.
    """

    where: str
    outputs: Mapping[str, str]
    session: boto3.Session
    parameters: Mapping[str, str] = field(default_factory=dict)
    endpoint: str | None = None
    home: Path | None = None

    @property
    def local(self) -> bool:
        """Whether it is the engine on this machine."""
        return self.home is not None

    def output(self, name: str) -> str:
        """One of the stack's outputs; raises ENGINE_ABSENT where the stack is another's."""
        try:
            return self.outputs[name]
        except KeyError:
            what = f"{self.where} has no output {name}: it is not Syncline's, or of another version"
            raise SynclineError("ENGINE_ABSENT", what) from None

    def client(self, service: str) -> Any:
        """A client of boto3, made anew."""
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
        """The environment of the functions, by which ``env:`` references are resolved; None where it may not be read."""
        if self.home is not None:
            from syncline.cli.local_engine import environment_of  # noqa: PLC0415 - only `apply` asks

            return environment_of(self.home)
        try:
            # All functions that resolve references are configured alike.
            name = self.output("DiscoverQueueArn").rpartition(":")[2]
            configuration = self.client("lambda").get_function_configuration(FunctionName=name)
        except ClientError as error:
            if as_syncline_error(error, self.where, local=False).code.name == "AWS_DENIED":
                return None
            raise
        variables: dict[str, str] = configuration.get("Environment", {}).get("Variables", {})
        return variables

    @cached_property
    def secrets(self) -> Secrets:
        """The values of references, read with this person's rights."""
        from syncline.secrets import Secrets  # noqa: PLC0415 - only `apply` looks at secrets

        return Secrets(lambda: self.client("secretsmanager"), lambda: self.client("ssm"), local=self.local)


@contextlib.contextmanager
def _errors_told(where: str) -> Iterator[None]:
    """Give boto's errors their codes."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise as_syncline_error(error, where, local=False) from None


def on_aws(stack: str) -> Target:
    """A stack in the account and region that boto3 finds; ``AWS_ENDPOINT_URL`` is honoured.

    Raises ENGINE_ABSENT, AWS_DENIED or AWS_UNAVAILABLE.
    """
    with _errors_told(f"the stack {stack}"):
        session = boto3.Session()
    where = f"the stack {stack} in {session.region_name}" if session.region_name else f"the stack {stack}"
    with _errors_told(where):
        cloudformation = session.client("cloudformation", config=_CONFIG)
        try:
            found = cloudformation.describe_stacks(StackName=stack)["Stacks"]
        except ClientError as error:
            # CloudFormation has no code of its own for a stack that is not there.
            if error.response.get("Error", {}).get("Code") == "ValidationError":
                raise SynclineError("ENGINE_ABSENT", f"{where} does not exist") from None
            raise
    outputs = {each["OutputKey"]: each["OutputValue"] for each in found[0].get("Outputs", [])}
    parameters = {each["ParameterKey"]: each.get("ParameterValue", "") for each in found[0].get("Parameters", [])}
    return Target(where, outputs, session, parameters)


def on_this_machine(home: Path) -> Target:
    """The engine that ``syncline up`` started in ``home``; raises ENGINE_ABSENT."""
    from syncline.cli.local_engine import describe  # noqa: PLC0415 - a stack on AWS does without it

    engine = describe(home)
    if engine is None:
        raise SynclineError("ENGINE_ABSENT", f"no engine runs in {home}")
    return of_engine(engine, home)


def of_engine(engine: Engine, home: Path) -> Target:
    """A running engine of this machine."""
    if not engine.outputs:
        raise SynclineError("ENGINE_ABSENT", f"the engine in {home} runs, but nothing is deployed to it yet")
    arguments = engine.client_arguments()
    endpoint = arguments.pop("endpoint_url")
    session = local_session(**arguments)
    return Target(f"the engine at {endpoint}", engine.outputs, session, endpoint=endpoint, home=home)
