"""The deployed functions sync a bucket to a file manager, driven by the bucket's notifications and the command."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import pytest

from syncline.cli import local_engine as engine
from syncline.cli.deploy import client_arguments
from syncline.cli.local_engine import Engine
from syncline.clients.http.client import Http
from tests.standins.file_manager import FileManagerServer

TOP: Final = Path(__file__).parents[2]
TOKEN: Final = "token-of-the-tests"
HOOK: Final = "hook-of-the-tests"
BUCKET: Final = "shop-files"
_SECONDS: Final = 90


@dataclass(frozen=True)
class Deployed:
    """The stack on a separate engine, the command, and a client of its S3."""

    home: Path
    engine: Engine
    s3: Any

    def syncline(self, *arguments: str, exits: int = 0) -> Any:
        """Run the command; return its JSON output. Fail if its exit code is not ``exits``."""
        command = [sys.executable, "-m", "syncline.cli.main", *arguments, "--home", str(self.home), "--json"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
        assert done.returncode == exits, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    home = tmp_path_factory.mktemp("home")
    running = engine.up(home, TOP, port=0, say=print)
    arguments = client_arguments(running.endpoint)
    secrets = boto3.client("secretsmanager", **arguments)  # type: ignore[call-overload]
    keys = {"access": arguments["aws_access_key_id"], "secret": arguments["aws_secret_access_key"]}
    secrets.create_secret(Name="syncline/files", SecretString=json.dumps({**keys, "token": TOKEN, "hook": HOOK}))
    yield Deployed(home, running, boto3.client("s3", **arguments))  # type: ignore[call-overload]
    engine.down(home)


@pytest.fixture
def manager() -> Iterator[FileManagerServer]:
    with FileManagerServer(token=TOKEN) as server:
        yield server


def wait(what: Callable[[], bool]) -> None:
    """Wait for a condition; fail after a time limit."""
    deadline = time.monotonic() + _SECONDS
    while not what():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.1)


def listen(deployed: Deployed) -> None:
    """Let the bucket notify the events queue, as described on the setup page."""
    deployed.s3.create_bucket(Bucket=BUCKET)
    deployed.s3.create_bucket(Bucket="reports")
    queue = {
        "QueueArn": deployed.engine.outputs["EventsQueueArn"],
        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
    }
    deployed.s3.put_bucket_notification_configuration(
        Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": [queue]}
    )


def endpoint(deployed: Deployed, bucket: str) -> dict[str, Any]:
    url = deployed.engine.endpoint
    auth = {"access_key": "secret:syncline/files#access", "secret_key": "secret:syncline/files#secret"}
    return {"bucket": bucket, "endpoint": url, "auth": auth}


def test_from_notifications_to_files(deployed: Deployed, manager: FileManagerServer, tmp_path: Path) -> None:
    listen(deployed)
    target = {"file_manager": manager.url, "token": "secret:syncline/files#token", "prefix": "/data/", "requests": 16}
    sync = {
        "kind": "files",
        "source": {**endpoint(deployed, BUCKET), "sequencers": True},
        "target": target,
        "removals": {},
        "events": {"quiet": 3, "longest": 20},  # on a busy machine, seconds may pass between a copy and its deletion
        "reports": {**endpoint(deployed, "reports"), "full": True},
    }
    file = tmp_path / "syncs.yaml"
    file.write_text(json.dumps({"syncs": {"shop": sync}}))  # JSON is YAML
    deployed.syncline("apply", str(file), "--prune")

    found = deployed.syncline("doctor", "shop")
    assert found["failed"] == 0
    assert {each["part"] for each in found["checks"] if each["verdict"] == "ok"} >= {"source", "target", "reports"}

    contents = {f"d{n % 3}/file {n}+ä.txt": b"%d" % n * n for n in range(40)}
    for key, content in contents.items():
        deployed.s3.put_object(Bucket=BUCKET, Key=key, Body=content, Metadata={"permissions": "rw-r-----"})

    def is_synced() -> bool:
        found = {path: (each.content, each.permissions) for path, each in manager.files.items()}
        return found == {f"/data/{key}": (content, "rw-r-----") for key, content in contents.items()}

    wait(is_synced)  # through events only
    wait(lambda: deployed.syncline("status", "shop")["syncs"][0]["current"] is None)

    received = manager.received
    ran = deployed.syncline("run", "shop", "--wait")
    assert (ran["run"]["counts"]["skipped"], ran["run"]["counts"]["queued"]) == (40, 0)

    sheet = tmp_path / "state.csv"
    assert deployed.syncline("state", "export", "shop", str(sheet))["files"] == 40
    with sheet.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["file_path"] for row in rows} == set(manager.files)
    assert {row["internal_id"] for row in rows} == {each.internal_id for each in manager.files.values()}

    old, new = "d1/file 1+ä.txt", "elsewhere/1.txt"
    deployed.s3.copy_object(Bucket=BUCKET, Key=new, CopySource={"Bucket": BUCKET, "Key": old})
    deployed.s3.delete_object(Bucket=BUCKET, Key=old)
    contents[new] = contents.pop(old)
    wait(is_synced)
    assert manager.received == received, "a rename sent bytes again"
    wait(lambda: deployed.syncline("status", "shop")["syncs"][0]["current"] is None)

    found = deployed.syncline("state", "diff", "shop", str(sheet), "--reports")
    assert found["differences"] == {"create": 1, "delete": 1}
    listed = [each["Key"] for each in deployed.s3.list_objects_v2(Bucket="reports")["Contents"]]
    assert sum(found["written"] == f"s3://reports/{key}" for key in listed) == 1
    assert sum(key.endswith("-differences.csv") for key in listed) > 1, "a run wrote no list of its changes"
    renamed = max(key for key in listed if key.endswith("-before.csv")).removesuffix("-before.csv")
    for what, paths in (("before", [f"/data/{old}"]), ("after", [f"/data/{new}"])):
        text = deployed.s3.get_object(Bucket="reports", Key=f"{renamed}-{what}.csv")["Body"].read().decode()
        assert [row["file_path"] for row in csv.DictReader(text.splitlines())] == paths
    assert {"shop/old.csv", "shop/new.csv"} <= set(listed)
    state = deployed.s3.get_object(Bucket="reports", Key="shop/new.csv")["Body"].read().decode()
    assert {row["file_path"] for row in csv.DictReader(state.splitlines())} == set(manager.files)


def test_events_of_minio_and_eventbridge_with_access_lists(
    deployed: Deployed, manager: FileManagerServer, tmp_path: Path
) -> None:
    """The bucket notifies no queue. MinIO posts to the webhook, EventBridge sends its format to the events queue."""
    deployed.s3.create_bucket(Bucket="notified", ObjectOwnership="ObjectWriter")
    sync = {
        "kind": "files",
        "source": endpoint(deployed, "notified"),
        "target": {"file_manager": manager.url, "token": "secret:syncline/files#token", "prefix": "/data/"},
        "permissions": {"source": "acl"},
        "webhook": {"secret": "secret:syncline/files#hook"},
        "events": {"quiet": 1, "longest": 5},
    }
    file = tmp_path / "syncs.yaml"
    file.write_text(json.dumps({"syncs": {"notified": sync}}))
    deployed.syncline("apply", str(file), "--prune")
    sqs = boto3.client("sqs", **client_arguments(deployed.engine.endpoint))  # type: ignore[call-overload]
    events = sqs.get_queue_url(QueueName=deployed.engine.outputs["EventsQueueArn"].rpartition(":")[2])["QueueUrl"]

    def synced_files() -> dict[str, tuple[bytes | None, str]]:
        return {path: (each.content, each.permissions) for path, each in manager.files.items()}

    def by_minio(secret: str) -> int:
        about = {"bucket": {"name": "notified"}, "object": {"key": "by+minio%2B1", "sequencer": "1887A0B3F4B4E9C1"}}
        record = {"eventVersion": "2.0", "eventSource": "minio:s3", "eventName": "s3:ObjectCreated:Put", "s3": about}
        hook = f"{deployed.engine.outputs['ReceiveUrl']}hooks/notified"
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        return Http().request("POST", hook, headers, json.dumps({"Records": [record]}).encode()).status

    def by_eventbridge(kind: str, reason: str) -> None:
        detail = {"bucket": {"name": "notified"}, "object": {"key": "by bus"}, "reason": reason}
        body = {"version": "0", "detail-type": kind, "source": "aws.s3", "detail": detail}
        sqs.send_message(QueueUrl=events, MessageBody=json.dumps(body))

    deployed.s3.put_object(Bucket="notified", Key="by minio+1", Body=b"one", ACL="private")
    deployed.s3.put_object(Bucket="notified", Key="by bus", Body=b"two", ACL="public-read")
    assert by_minio("another") == 401
    assert by_minio(HOOK) == 202
    wait(lambda: synced_files() == {"/data/by minio+1": (b"one", "rw-------")})
    by_eventbridge("Object Created", "PutObject")
    wait(lambda: synced_files().get("/data/by bus") == (b"two", "rw-r--r--"))

    received = manager.received
    deployed.s3.put_object_acl(Bucket="notified", Key="by bus", ACL="private")
    wait(lambda: deployed.syncline("status", "notified")["syncs"][0]["current"] is None)
    by_eventbridge("Object ACL Updated", "")
    wait(lambda: synced_files()["/data/by bus"] == (b"two", "rw-------"))
    assert manager.received == received, "new permissions sent bytes again"


def test_migration_from_the_replaced_service_uploads_nothing_again(
    deployed: Deployed, manager: FileManagerServer, tmp_path: Path
) -> None:
    """The files that the replaced service had sent are imported from its CSV file."""
    deployed.s3.create_bucket(Bucket="before")
    rows = ["file_path,permissions,size,file_type,last_modified,internal_id"]
    for number in range(5):
        content = b"%d" % number * 9
        deployed.s3.put_object(Bucket="before", Key=f"{number}.txt", Body=content)
        stored = manager.put(f"{number}.txt", content)
        rows.append(f"{number}.txt,rw-r--r--,{len(content)},text/plain,2099-01-01T00:00:00Z,{stored.internal_id}")
    sheet = tmp_path / "seed.csv"
    sheet.write_text("\n".join(rows) + "\n")
    target = {"file_manager": manager.url, "token": "secret:syncline/files#token"}
    sync = {"kind": "files", "source": endpoint(deployed, "before"), "target": target}
    file = tmp_path / "syncs.yaml"
    file.write_text(json.dumps({"syncs": {"moved-over": sync}}))
    deployed.syncline("apply", str(file), "--prune")

    assert deployed.syncline("state", "import", "moved-over", str(sheet)) == {
        "taken": 5,
        "absent": 0,
        "changed": 0,
        "gone": 0,
        "outside": 0,
        "invalid": [],
    }
    ran = deployed.syncline("run", "moved-over", "--wait")
    assert ran["run"]["counts"]["skipped"] == 5
    assert manager.received == 0

    deployed.s3.put_object(Bucket="before", Key="3.txt", Body=b"changed since")
    ran = deployed.syncline("run", "moved-over", "--wait")
    assert (ran["run"]["counts"]["moved"], ran["run"]["counts"]["conflict"]) == (1, 0)
    assert manager.files["3.txt"].content == b"changed since"
