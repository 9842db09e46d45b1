"""The part of ``template.yaml`` that tests in one process need: the queues' numbers and the table's keys."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import boto3
import yaml
from moto import mock_aws

from syncline.model import Step
from tests.rig.quick_table import QuickTable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

TEMPLATE: Final = Path(__file__).parents[2] / "template.yaml"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's tags as plain values."""


def _plain(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _plain)


@dataclass(frozen=True, slots=True)
class Queue:
    """Times in seconds; ``receives`` is the number of receives before SQS moves a message to the dead-letter queue."""

    visibility: float
    receives: int
    function_timeout: float
    batch_size: int


def _read() -> tuple[dict[Step, Queue], dict[str, Any]]:
    template = yaml.load(TEMPLATE.read_text(), _Loader)
    resources = template["Resources"]
    queues = {}
    for step in Step:
        name = step.name.capitalize()
        queue, function = resources[f"{name}Queue"]["Properties"], resources[f"{name}Function"]["Properties"]
        receives = queue["RedrivePolicy"]["maxReceiveCount"]
        batch_size = template["Parameters"][f"{name}BatchSize"]["Default"]
        queues[step] = Queue(queue["VisibilityTimeout"], receives, function["Timeout"], batch_size)
    return queues, resources["Table"]["Properties"]


QUEUES, _TABLE = _read()
_HERE: Final = "https://sqs.eu-central-1.amazonaws.com/123456789012/syncline"
_numbers: Final = itertools.count(1)


def url(step: Step) -> str:
    return f"{_HERE}-{step}{_order(step)}"


def dead_url(step: Step) -> str:
    return f"{_HERE}-{step}-dead{_order(step)}"


def _order(step: Step) -> str:
    return ".fifo" if step is Step.COMMIT else ""


EVENTS: Final = f"{_HERE}-events"
"""Queue that sources notify."""


on_moto = False
"""True during a test marked ``moto``, whose table is moto's behind boto3. Other tests use the model."""


@contextmanager
def new_table() -> Iterator[Table]:
    """Provide a block with a separate, empty table."""
    with mock_aws() if on_moto else nullcontext():
        yield table_of_test()


def table_of_test() -> Table:
    """Return an empty table of the type that `on_moto` selects. Moto must be active if it is True."""
    return create_table() if on_moto else cast("Table", QuickTable(f"syncline-{next(_numbers)}"))


def lone_table() -> Table:
    """Return an empty table as `table_of_test`, and delete all others: moto copies every table for each transaction."""
    if on_moto:
        client = boto3.client("dynamodb")
        for name in client.list_tables()["TableNames"]:
            client.delete_table(TableName=name)
    return table_of_test()


def create_table() -> Table:
    """Create a table in moto, which must be active."""
    return boto3.resource("dynamodb").create_table(
        TableName=f"syncline-{next(_numbers)}",
        **{name: _TABLE[name] for name in ("AttributeDefinitions", "KeySchema", "BillingMode")},
    )
