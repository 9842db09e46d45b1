"""Every event in ``events/``, passed to `sam local invoke` in the Lambda image, with a check of its effect.

Run it explicitly (``pytest tests/sam``): it needs a Docker engine, and takes minutes the first time.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import pytest
import yaml

from scripts.openapi import document
from syncline.clients.git.objects import blob_id
from syncline.config.sync import Sync, load_sync
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.tokens.config import TokensSync
from syncline.messages import Batch, Outgoing, Start, decode
from syncline.model import EVERYTHING, Counts, Outcome, RunStatus, Scope, Step, Trigger
from syncline.store.alerts import Alerts
from syncline.store.batches import BatchRecord
from syncline.store.events import EventStore
from syncline.store.table import Database, number
from syncline.store.tokens import InstanceLists
from tests.rig.container import CANARY, GRANTS, TOKEN, slices_of, sync_of
from tests.sam.events import (
    BACKUP,
    BUILDS,
    BY_WEBHOOK,
    CLUSTERS,
    COMMIT,
    COMMIT_SCAN,
    CONFIG,
    DIGEST,
    FILES,
    FILES_BUCKET,
    FILES_KEY,
    FOLDER,
    GATEWAY,
    LAYER,
    MANIFEST,
    REPOSITORY,
    RUN,
    SCAN,
    SECRET,
    SESSION,
    SYNC,
    TAG,
    TRANSFER,
    VERIFY,
    WORKFLOW_RUN,
)
from tests.sam.stack import session
from tests.sam.world import TOP, World
from tests.standins.git_http import git_http
from tests.standins.git_places import make_bare
from tests.standins.kubernetes import KubernetesApi
from tests.standins.nginx import Gateway
from tests.standins.programs import needs
from tests.standins.registry import OCI_MANIFEST, Registry

# The first test builds the functions and, if the image cannot be pulled, makes it.
pytestmark = pytest.mark.timeout(1200)

WEBHOOK_SECRET: Final = f"secret:syncline/hooks#{SYNC}"
NOTHING_FAILED: Final[dict[str, list[str]]] = {"batchItemFailures": []}


def apply(world: World) -> None:
    """Apply the sync of the events, with its secret and an image at its source."""
    sync = {
        "name": SYNC,
        "kind": "images",
        "source": {"registry": world.source.host, "plain_http": True, "repositories": [REPOSITORY]},
        "target": {"registry": world.target.host, "plain_http": True},
        "webhook": {"secret": WEBHOOK_SECRET},
    }
    world.state.put_sync(SYNC, ImagesSync.model_validate(sync).model_dump_json())
    secrets = session().client("secretsmanager", endpoint_url=world.stack.endpoint)
    secrets.create_secret(Name="syncline/hooks", SecretString=f'{{"{SYNC}": "{SECRET}"}}')
    push(world.source)


def push(registry: Registry) -> None:
    for blob in (CONFIG, LAYER):
        registry.push_blob(REPOSITORY, blob)
    assert registry.push_manifest(REPOSITORY, TAG, MANIFEST) == DIGEST


def waiting(world: World, step: Step) -> list[Start | Batch]:
    """Return the messages of a step's queue. Start messages lose the random ID of their run."""
    answer = world.queues.sqs.receive_message(QueueUrl=world.queues.urls[step], MaxNumberOfMessages=10)
    messages = [decode(message["Body"]) for message in answer.get("Messages", ())]
    starts = [replace(message, id=None) for message in messages if isinstance(message, Start)]
    return [*starts, *(message for message in messages if isinstance(message, Batch))]


def follow(world: World, batch: Batch, following: Batch) -> None:
    """Record the end of a batch that led to the batch ``following``."""
    world.state.end_batch(batch, BatchRecord((), (Outgoing(following),)), Counts())


def a_push_is_queued(world: World, event: str) -> None:
    answer = world.invoke(event)
    assert (answer["statusCode"], waiting(world, Step.DISCOVER)) == (202, [BY_WEBHOOK])


def a_build_is_queued(world: World, event: str) -> None:
    """GitHub signs the body with the secret instead of sending it."""
    values = yaml.safe_load((TOP / "examples/artifacts-presto.yaml").read_text())["syncs"][BUILDS]
    values |= {"name": BUILDS, "webhook": {"secret": WEBHOOK_SECRET}}
    world.state.put_sync(BUILDS, load_sync(json.dumps(values)).model_dump_json())
    answer = world.invoke(event)
    start = Start(BUILDS, Trigger.WEBHOOK, Scope.of([f"run:{WORKFLOW_RUN['workflow_run']['id']}"]))
    assert (answer["statusCode"], waiting(world, Step.DISCOVER)) == (202, [start])


def _files(world: World) -> Sync:
    """Apply and return a sync of files without a quiet time, so that its messages are visible at once."""
    values = {
        "name": FILES,
        "kind": "files",
        "source": {"bucket": FILES_BUCKET, "endpoint": world.stack.endpoint, "auth": "role"},
        "target": {"file_manager": f"http://{world.target.host}"},
        "webhook": {"secret": WEBHOOK_SECRET},
        "events": {"quiet": 0},
    }
    sync = load_sync(json.dumps(values))
    world.state.put_sync(FILES, sync.model_dump_json())
    return sync


def a_scan_of_a_file_is_queued(world: World, event: str) -> None:
    """MinIO sends the secret as a bearer token."""
    _files(world)
    answer = world.invoke(event)
    start = Start(FILES, Trigger.WEBHOOK, Scope.of([f"key:{FILES_KEY}"]))
    assert (answer["statusCode"], waiting(world, Step.DISCOVER)) == (202, [start])


def an_event_of_a_bucket_starts_a_run(world: World, event: str) -> None:
    event_store = EventStore(_database(world), time.time)
    event_store.subscribe(FILES, _files(world).event_sources())
    assert world.invoke(event) == NOTHING_FAILED
    (note,) = event_store.notes(FILES)
    assert note.groups == (f"key:{FILES_KEY}",)
    (start,) = waiting(world, Step.DISCOVER)
    assert isinstance(start, Start)
    assert (start.sync, start.trigger, start.gathered, start.noted) == (FILES, Trigger.EVENT, True, note.at)


def a_wrong_secret_is_refused(world: World, event: str) -> None:
    answer = world.invoke(event)
    assert (answer["statusCode"], waiting(world, Step.DISCOVER)) == (401, [])


def a_schedule_begins_a_run(world: World, event: str) -> None:
    _a_run_begins(world, event, Trigger.SCHEDULE, EVERYTHING)


def a_webhook_begins_a_run(world: World, event: str) -> None:
    _a_run_begins(world, event, Trigger.WEBHOOK, Scope.of([REPOSITORY]))


def _a_run_begins(world: World, event: str, trigger: Trigger, scope: Scope) -> None:
    assert world.invoke(event) == NOTHING_FAILED
    run = world.state.current_run(SYNC)
    assert run is not None
    assert (run.trigger, run.scope) == (trigger, scope)
    (transfer,) = waiting(world, Step.TRANSFER)
    assert isinstance(transfer, Batch)
    assert (transfer.run, transfer.items) == (run.id, TRANSFER.items)


def a_manual_run_continues(world: World, event: str) -> None:
    world.state.begin_run(SYNC, RUN, Trigger.MANUAL, EVERYTHING)
    assert world.invoke(event) == NOTHING_FAILED
    assert waiting(world, Step.TRANSFER) == [TRANSFER]


def an_image_is_transferred(world: World, event: str) -> None:
    world.state.begin_run(SYNC, RUN, Trigger.MANUAL, EVERYTHING)
    follow(world, SCAN, TRANSFER)
    assert world.invoke(event) == NOTHING_FAILED
    written = world.target.request("GET", f"/v2/{REPOSITORY}/manifests/{TAG}", headers={"Accept": OCI_MANIFEST})
    assert written.body == MANIFEST
    assert waiting(world, Step.VERIFY) == [VERIFY]


def a_verified_image_ends_the_run(world: World, event: str) -> None:
    world.state.begin_run(SYNC, RUN, Trigger.MANUAL, EVERYTHING)
    follow(world, SCAN, TRANSFER)
    follow(world, TRANSFER, VERIFY)
    push(world.target)
    assert world.invoke(event) == NOTHING_FAILED
    run = world.state.run(SYNC, RUN)
    assert (run.status, run.counts.moved, run.counts.bytes) == (RunStatus.DONE, 1, len(CONFIG) + len(LAYER))
    record = world.state.batch_record(RUN, VERIFY.id)
    assert record is not None
    (result,) = record.results
    assert (result.outcome, result.source, result.target) == (Outcome.MOVED, DIGEST, DIGEST)


@contextmanager
def a_gateway(world: World) -> Iterator[tuple[Gateway, KubernetesApi]]:
    """Yield a gateway of one instance and its cluster, both reachable by containers, after applying their sync."""
    needs("nginx")
    host = world.source.host.partition(":")[0]
    with Gateway(1, address=host) as gateway, KubernetesApi(GRANTS, host=host) as api:
        api.put("endpointslices", "gateway", slices_of(gateway.listed, gateway.port))
        sync = sync_of(gateway, api, canary=CANARY)
        sync["sources"]["prod"]["auth"] = {"token": "secret:syncline/gateway#cluster-token"}
        world.state.put_sync(GATEWAY, TokensSync.model_validate({"name": GATEWAY, **sync}).model_dump_json())
        secrets = session().client("secretsmanager", endpoint_url=world.stack.endpoint)
        secrets.create_secret(Name="syncline/gateway", SecretString=f'{{"cluster-token": "{TOKEN}"}}')
        gateway.put(0, SESSION)
        yield gateway, api


def instances_are_listed(world: World, event: str) -> None:
    with a_gateway(world) as (gateway, _):
        assert world.invoke(event) == {GATEWAY: 1}
        record = _lists(world).all()[GATEWAY]
        assert [each["name"] for each in record.instances] == [each.name for each in gateway.listed]
        assert (record.seen is not None, record.failed) == (True, None)


def a_verdict_is_given(world: World, event: str) -> None:
    with a_gateway(world) as (gateway, _):
        _lists(world).put(GATEWAY, [each.as_json() for each in gateway.listed], time.time())
        answer = world.invoke(event)
        assert (answer["statusCode"], answer["headers"]["X-Token-Status"]) == (200, "Synced")
        assert json.loads(answer["body"])["reason"] == "only_instance"


def absent_headers_are_refused(world: World, event: str) -> None:
    answer = world.invoke(event)
    assert (answer["statusCode"], answer["headers"]["X-Token-Reason"]) == (400, "token_missing")


def the_api_document_is_returned(world: World, event: str) -> None:
    answer = world.invoke(event)
    assert json.loads(gzip.decompress(base64.b64decode(answer["body"]))) == document()


def canaries_are_checked(world: World, event: str) -> None:
    with a_gateway(world) as (gateway, _):
        _lists(world).put(GATEWAY, [each.as_json() for each in gateway.listed], time.time())
        # With one instance there is no replication to check: only that it refuses unknown keys and keeps its own.
        assert world.invoke(event) == {GATEWAY: {"seen": 2, "bad": 0, "faults": []}}


def _database(world: World) -> Database:
    tables = session().resource("dynamodb", endpoint_url=world.stack.endpoint)
    return Database(tables.Table(world.stack.all_variables["SYNCLINE_TABLE"]))


def _lists(world: World) -> InstanceLists:
    return InstanceLists(_database(world), time.time)


def an_object_is_committed(world: World, event: str) -> None:
    """The layer provides the git program; the image has none."""
    s3 = session().client("s3", endpoint_url=world.stack.endpoint)
    s3.create_bucket(Bucket=CLUSTERS)
    s3.put_object(Bucket=CLUSTERS, Key=BACKUP, Body=b"kind: Deployment\n")
    bare = make_bare(world.variables.parent / "srv" / "r.git")
    host = world.source.host.partition(":")[0]
    secrets = session().client("secretsmanager", endpoint_url=world.stack.endpoint)
    secrets.create_secret(Name="syncline/git", SecretString='{"token": "a-git-token", "key": "a-secret-key"}')
    with git_http(bare.path.parent, {"x-access-token": "a-git-token"}, host) as server:
        keys = {"access_key": "AKIDOFTHETESTS", "secret_key": "secret:syncline/git#key"}
        sync = {
            "name": CLUSTERS,
            "kind": "backups",
            "source": {"bucket": CLUSTERS, "endpoint": world.stack.endpoint, "auth": keys},
            "target": {"repository": f"{server.url}/r.git", "auth": {"token": "secret:syncline/git#token"}},
        }
        world.state.put_sync(CLUSTERS, load_sync(json.dumps(sync)).model_dump_json())
        world.state.begin_run(CLUSTERS, RUN, Trigger.EVENT, Scope.of([BACKUP]))
        follow(world, COMMIT_SCAN, COMMIT)
        assert world.invoke(event) == NOTHING_FAILED
    assert bare.files() == {BACKUP: b"kind: Deployment\n"}
    (verify,) = waiting(world, Step.VERIFY)
    assert isinstance(verify, Batch)
    assert verify.items[0].source == blob_id(b"kind: Deployment\n")


def health_is_ok(world: World, event: str) -> None:
    answer = world.invoke(event)
    assert (answer["statusCode"], json.loads(answer["body"])["status"]) == (200, "ok")


def metrics_are_returned(world: World, event: str) -> None:
    answer = world.invoke(event)
    assert answer["statusCode"] == 200
    assert f'syncline_running{{kind="images",sync="{SYNC}"}} 0.0' in answer["body"]


def a_stale_sync_is_found(world: World, event: str) -> None:
    """A sync that was applied two hours ago, and never ran."""
    sync = json.loads(world.state.sync_config(SYNC)) | {"name": "stale", "fresh_within": "1h"}
    world.state.put_sync("stale", json.dumps(sync))
    item = {"pk": "SYNC#stale", "sk": "HEALTH", "expected": number(time.time() - 7200)}
    _database(world).put(item)
    assert world.invoke(event) == {"stale": ["stale"]}


def a_stale_sync_is_notified(world: World, event: str) -> None:
    """A sync that was applied two hours ago, and never ran. The topic accepts the notification."""
    topic = session().client("sns", endpoint_url=world.stack.endpoint).create_topic(Name="syncline-alerts")["TopicArn"]
    sync = json.loads(world.state.sync_config(SYNC)) | {"fresh_within": "1h", "notify": {"sns": topic}}
    world.state.put_sync(SYNC, json.dumps(sync))
    item = {"pk": f"SYNC#{SYNC}", "sk": "HEALTH", "expected": number(time.time() - 7200)}
    _database(world).put(item)
    assert world.invoke(event) == NOTHING_FAILED
    alert = Alerts(_database(world)).get(SYNC)
    assert (alert.told, dict(alert.left)) == ("stale", {})


EFFECTS: Final[dict[str, Callable[[World, str], None]]] = {
    "receive/quay-push.json": a_push_is_queued,
    "receive/distribution-push.json": a_push_is_queued,
    "receive/github-workflow-run.json": a_build_is_queued,
    "receive/minio.json": a_scan_of_a_file_is_queued,
    "receive/wrong-secret.json": a_wrong_secret_is_refused,
    "discover/schedule.json": a_schedule_begins_a_run,
    "discover/webhook.json": a_webhook_begins_a_run,
    "discover/by-hand.json": a_manual_run_continues,
    "discover/bucket.json": an_event_of_a_bucket_starts_a_run,
    "discover/bucket-eventbridge.json": an_event_of_a_bucket_starts_a_run,
    "transfer/queue.json": an_image_is_transferred,
    "verify/queue.json": a_verified_image_ends_the_run,
    "commit/queue.json": an_object_is_committed,
    "console/health.json": health_is_ok,
    "console/metrics.json": metrics_are_returned,
    "probe/synced.json": a_verdict_is_given,
    "probe/no-headers.json": absent_headers_are_refused,
    "probe/openapi.json": the_api_document_is_returned,
    "scrape/schedule.json": instances_are_listed,
    "canary/schedule.json": canaries_are_checked,
    "watch/schedule.json": a_stale_sync_is_found,
    "notify/queue.json": a_stale_sync_is_notified,
}


@pytest.mark.parametrize("event", sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.json")))
def test_the_event_has_its_effect(world: World, event: str) -> None:
    apply(world)
    EFFECTS[event](world, event)
