"""The deployed functions commit objects of a bucket; independent clients check the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from prometheus_client.parser import text_string_to_metric_families

from syncline.cli import local_engine as engine
from syncline.cli.deploy import client_arguments
from syncline.clients.http.client import Http
from tests.integration.test_deployed_images import Deployed
from tests.standins.git_http import GitHttp, git_http
from tests.standins.git_places import Bare, make_bare

TOP: Final = Path(__file__).parents[2]
TOKEN: Final = "a-token-of-the-deployed"
BUCKET: Final = "cluster-backups"
FILES: Final = {f"{c}/n/f{f}.yaml": f"{c} {f}\n".encode() for c in ("east", "west") for f in range(5)}
_LONGEST: Final = 60.0


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    home = tmp_path_factory.mktemp("home")
    stack = Deployed(home, engine.up(home, TOP, port=0, say=print))
    stack.keep_secret("syncline/git", {"token": TOKEN})
    stack.keep_secret("syncline/minio", {"secret": "local"})
    yield stack
    engine.down(home)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return make_bare(tmp_path_factory.mktemp("srv") / "r.git")


@pytest.fixture(scope="module")
def http(bare: Bare) -> Iterator[GitHttp]:
    with git_http(bare.path.parent, {"x-access-token": TOKEN}) as server:
        yield server


@pytest.fixture(scope="module")
def s3(deployed: Deployed) -> Any:
    """Return a client of the engine's S3, with a bucket without notifications."""
    client = boto3.client("s3", **client_arguments(deployed.engine.endpoint))  # type: ignore[call-overload]
    client.create_bucket(Bucket=BUCKET)
    return client


def notify(deployed: Deployed, s3: Any) -> None:
    """Let the bucket notify the events queue of later changes."""
    queue = {
        "QueueArn": deployed.engine.outputs["EventsQueueArn"],
        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
    }
    s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": [queue]})


def until(what: Callable[[], bool], words: str) -> None:
    end = time.monotonic() + _LONGEST
    while not what():
        assert time.monotonic() < end, words
        time.sleep(0.1)


def test_objects_become_commits_and_come_back(
    deployed: Deployed, s3: Any, bare: Bare, http: GitHttp, tmp_path: Path
) -> None:
    for key, data in FILES.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=data)
    keys = {"access_key": "local", "secret_key": "secret:syncline/minio#secret"}
    deployed.apply(
        tmp_path,
        clusters={
            "kind": "backups",
            "source": {"bucket": BUCKET, "endpoint": deployed.engine.endpoint, "auth": keys},
            "target": {"repository": f"{http.url}/r.git", "auth": {"token": "secret:syncline/git#token"}},
            "commit": {"author": {"name": "Backup Bot", "email": "backup@example.com"}},
            "events": {"quiet": 1, "longest": 5},
        },
    )
    counts = deployed.syncline("run", "clusters", "--wait")["run"]["counts"]
    # The bucket sends no notifications yet, so no event joins the run and counts an object again.
    assert (counts["moved"], counts["skipped"], counts["failed"], counts["conflict"]) == (len(FILES), 0, 0, 0)
    assert bare.files() == FILES
    before = len(bare.commits())

    # Changes that only events report.
    notify(deployed, s3)
    s3.put_object(Bucket=BUCKET, Key="east/n/f0.yaml", Body=b"changed")
    s3.put_object(Bucket=BUCKET, Key="north/n/new.yaml", Body=b"new")
    s3.delete_object(Bucket=BUCKET, Key="west/n/f4.yaml")
    after = FILES | {"east/n/f0.yaml": b"changed", "north/n/new.yaml": b"new"}
    del after["west/n/f4.yaml"]
    until(lambda: bare.files() == after, "the events did not become commits")
    assert before < len(bare.commits()) <= before + 3
    bare.check()
    until(lambda: deployed.syncline("status", "clusters")["syncs"][0]["current"] is None, "the looks did not end")
    again = deployed.syncline("run", "clusters", "--wait")["run"]["counts"]
    assert (again["skipped"], again["queued"]) == (len(after), 0)

    # The console reports success.
    url = deployed.engine.outputs["ConsoleUrl"]
    health = Http().request("GET", f"{url}health")
    assert (health.status, health.json().get("status")) == (200, "ok"), health.body
    families = text_string_to_metric_families(Http().request("GET", f"{url}metrics").body.decode())
    samples = {each.name: each.value for family in families for each in family.samples}
    assert samples["git_sync_clusters_backed_up"] == 3
    assert samples["git_sync_files_processed_total"] >= len(FILES)
    assert samples["git_sync_errors_total"] == 0

    # The backup can be restored.
    restored = deployed.syncline("restore", "clusters", "east", "--to", str(tmp_path / "back"))["restored"]
    assert restored["files"] == 5
    assert (tmp_path / "back/east/n/f0.yaml").read_bytes() == b"changed"
    deployed.syncline("restore", "clusters", "nowhere", "--to", str(tmp_path / "none"), exits=2)
