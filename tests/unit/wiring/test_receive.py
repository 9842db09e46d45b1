"""The function `receive` as it is built: the secrets that it reads, and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import boto3
import pytest
from moto import mock_aws

from syncline.config.file import read_syncs
from syncline.config.sync import load_sync
from syncline.store.state import State
from syncline.web.receive import LARGEST_BODY
from syncline.wiring import functions as wiring
from tests.rig.grants import TEMPLATE, translated
from tests.rig.stack import create_table

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

CA: Final = "secret:syncline/ca"
OTHER: Final = "secret:syncline/other"
BUCKET: Final = {"endpoint": "https://s3.example", "bucket": "things", "auth": "anonymous", "ca": CA, "proxy": OTHER}
RECORD: Final = {"eventSource": "aws:s3", "eventVersion": "2.1", "eventName": "ObjectCreated:Put"}
RECORDS: Final = {"Records": [RECORD | {"s3": {"bucket": {"name": "things"}, "object": {"key": "prod/default/a"}}}]}
RUN: Final = {
    "action": "completed",
    "repository": {"full_name": "rapidsai/velox-testing"},
    "workflow_run": {"id": 7, "path": ".github/workflows/presto-build-images.yml", "conclusion": "success"},
}
SYNCS: Final[dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]]] = {
    "images": (
        {
            "source": {"registry": "prod.example", "catalog": True, "ca": CA},
            "target": {"registry": "dr.example", "ca": CA, "auth": {"username": OTHER, "password": OTHER}},
        },
        {"repository": "team/app", "updated_tags": ["1"]},
        ["team/app"],
    ),
    "files": (
        {"source": BUCKET, "target": {"file_manager": "https://files.example", "token": OTHER, "ca": CA}},
        RECORDS,
        ["key:prod/default/a"],
    ),
    "backups": (
        {
            "source": BUCKET,
            "target": {"repository": "https://git.example/a.git", "auth": {"token": OTHER}, "ca": CA},
            "secrets": {"encrypt": OTHER},
        },
        RECORDS,
        ["prod/default/a"],
    ),
    "artifacts": ({}, RUN, ["run:7"]),  # the sync of the example
}


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> Iterator[SQSClient]:
    caches = (wiring.receiver, wiring.dependencies_of)
    with mock_aws():
        table, sqs = create_table(), boto3.client("sqs")
        queue = sqs.create_queue(QueueName="syncline-discover")["QueueUrl"]
        boto3.client("secretsmanager").create_secret(Name="syncline/hooks", SecretString='{"all": "s3cr3t-hook"}')
        monkeypatch.setenv("SYNCLINE_TABLE", table.name)
        monkeypatch.setenv("SYNCLINE_DISCOVER_QUEUE", queue)
        for each in caches:
            each.cache_clear()
        for kind, (values, _, _) in SYNCS.items():
            sync = _example() if kind == "artifacts" else values
            sync = {**sync, "name": kind, "kind": kind, "webhook": {"secret": "secret:syncline/hooks#all"}}
            State(table).put_sync(kind, load_sync(json.dumps(sync)).model_dump_json())
        yield sqs
    for each in caches:
        each.cache_clear()


def _example() -> dict[str, Any]:
    (sync,) = read_syncs(TEMPLATE.parent / "examples/artifacts-presto.yaml").syncs.values()
    values = sync.model_dump(mode="json")
    return {**values, "source": values["source"] | {"ca": CA}, "target": values["target"] | {"ca": CA}}


def event(sync: str, body: str) -> dict[str, Any]:
    http = {"method": "POST", "path": f"/hooks/{sync}/s3cr3t-hook"}
    return {"rawPath": http["path"], "headers": {}, "requestContext": {"http": http}, "body": body}


@pytest.mark.usefixtures("sqs")
def test_a_kind_without_events_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("syncline.kinds.images.wiring.changed_groups")
    answer = wiring.receiver().handle(event("images", json.dumps({"repository": "team/app"})))
    assert answer["statusCode"] == 400
    assert json.loads(answer["body"]) == {"error": "a sync of images accepts no webhooks or events"}


@pytest.mark.parametrize("kind", SYNCS)
def test_only_the_secret_of_the_webhook_is_read(sqs: SQSClient, kind: str) -> None:
    """The account has no other secrets, so reading one would cause status 503."""
    _, body, groups = SYNCS[kind]
    answer = wiring.receiver().handle(event(kind, json.dumps(body)))
    assert (answer["statusCode"], json.loads(answer["body"])) == (202, {"sync": kind, "queued": groups})
    (message,) = sqs.receive_message(QueueUrl=os.environ["SYNCLINE_DISCOVER_QUEUE"])["Messages"]
    assert groups[0] in message["Body"]


PROGRAM: Final = """
import json, sys
from syncline.config.sync import load_sync
from syncline.config.file import read_syncs
from syncline.secrets import Secrets
from syncline.web.receive import Receiver
from syncline.wiring import functions as wiring

lists, size = int(sys.argv[1]), int(sys.argv[2])
wiring.receiver().secrets._secretsmanager()  # the clients that the function has
values = {"registry": "prod.example", "catalog": True}, {"registry": "dr.example"}
sync = {"name": "a", "kind": "images", "source": values[0], "target": values[1], "webhook": {"secret": "env:HOOK"}}
sync = load_sync(json.dumps(sync))
groups = lambda sync, event: wiring.changed_groups_of(sync, event, 0.0)
receiver = Receiver(lambda _: sync, groups, Secrets(None, None, {"HOOK": "hook"}), None)
body = "[" + ",".join(["[[[[]]]]"] * lists) + "]"
event = {"rawPath": "/hooks/a/hook", "headers": {}, "requestContext": {"http": {"method": "POST"}}}
event = json.loads(json.dumps(event | {"body": body + " " * (size - len(body))}))
status = receiver.handle(event)["statusCode"]
# The kernel's figure for this program. That of getrusage includes the memory of the parent process.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(status, int(peak.split()[1]) // 1024)
"""


@pytest.mark.parametrize(
    ("lists", "size", "status"), [(LARGEST_BODY // 9, LARGEST_BODY, 400), (6_000_000 // 9, 6_000_000, 413)]
)
def test_the_largest_bodies_take_at_most_half_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, lists: int, size: int, status: int
) -> None:
    """Nested lists take the most memory per byte of JSON. 6 MB is the maximum of Lambda."""
    monkeypatch.setenv("SYNCLINE_TABLE", "table")
    monkeypatch.setenv("SYNCLINE_DISCOVER_QUEUE", "https://sqs.example/queue")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    command = [sys.executable, "-c", PROGRAM, str(lists), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    answered, megabytes = map(int, done.stdout.split())
    assert answered == status
    assert megabytes < translated()["Resources"]["ReceiveFunction"]["Properties"]["MemorySize"] / 2
