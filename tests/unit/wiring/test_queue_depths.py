"""The console measures all queues, with its own role, and leaves out those that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from syncline.messages import QueueDepth
from syncline.secrets import Secrets
from syncline.store.state import State
from syncline.store.table import Database
from syncline.wiring.console import console_of
from syncline.wiring.environments import QUEUES, ConsoleEnvironment
from syncline.wiring.queue_depths import QueueDepths
from tests.rig.stack import new_table

pytestmark = pytest.mark.moto


@pytest.fixture
def urls() -> Iterator[dict[tuple[str, bool], str]]:
    with mock_aws():
        sqs, names = boto3.client("sqs"), {"": False, "-dead": True}
        yield {
            (queue, dead): _create(sqs, f"syncline-{queue}{ending}", fifo=queue == "commit")
            for queue in QUEUES
            for ending, dead in names.items()
        }


def _create(sqs: Any, name: str, *, fifo: bool) -> str:
    ending, attributes = (".fifo", {"FifoQueue": "true"}) if fifo else ("", {})
    return str(sqs.create_queue(QueueName=f"{name}{ending}", Attributes=attributes)["QueueUrl"])


def test_messages_are_counted_by_state(urls: dict[tuple[str, bool], str]) -> None:
    sqs, url = boto3.client("sqs"), urls["transfer", False]
    for _ in range(3):
        sqs.send_message(QueueUrl=url, MessageBody="{}")
    sqs.send_message(QueueUrl=url, MessageBody="{}", DelaySeconds=60)
    sqs.receive_message(QueueUrl=url)
    sqs.send_message(QueueUrl=urls["verify", True], MessageBody="{}")
    found = {(depth.queue, depth.dead): depth for depth in QueueDepths(urls)()}
    assert found.keys() == urls.keys()
    assert found["transfer", False] == QueueDepth("transfer", dead=False, visible=2, in_flight=1, delayed=1)
    assert found["verify", True] == QueueDepth("verify", dead=True, visible=1, in_flight=0, delayed=0)


def test_a_queue_that_cannot_be_read_has_no_depth(urls: dict[tuple[str, bool], str]) -> None:
    boto3.client("sqs").delete_queue(QueueUrl=urls["commit", False])
    found = {(depth.queue, depth.dead) for depth in QueueDepths(urls)()}
    assert found == urls.keys() - {("commit", False)}


def test_metrics_have_the_depths(urls: dict[tuple[str, bool], str]) -> None:
    """The rig checks the calls against the console's role."""
    boto3.client("sqs").send_message(QueueUrl=urls["discover", True], MessageBody="{}")
    with new_table() as table:
        console = console_of(State(table), Database(table), Secrets(_never, _never), "", QueueDepths(urls))
        page = console.handle({"rawPath": "/metrics", "requestContext": {"http": {"method": "GET"}}})["body"]
    assert 'syncline_dead_letters{queue="discover"} 1.0' in page
    assert 'syncline_queue_messages{queue="events",state="in_flight"} 0.0' in page


def _never() -> Any:
    raise AssertionError("no secret may be fetched")


def test_the_environment_names_every_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    for queue in QUEUES:
        for ending in ("QUEUE", "DLQ"):
            monkeypatch.setenv(f"SYNCLINE_{queue.upper()}_{ending}", f"https://sqs.example/{queue}-{ending}")
    monkeypatch.setenv("SYNCLINE_TABLE", "table")
    environment = ConsoleEnvironment.read("console")
    assert environment.queues["events", True] == "https://sqs.example/events-DLQ"
    assert len(environment.queues) == 2 * len(QUEUES)
