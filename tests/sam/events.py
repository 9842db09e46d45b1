"""The events in ``events/``: one for each trigger of each function, with the messages of the product.

``python -m tests.sam.events`` writes them. Most belong to one sequence: an image is pushed, the registry's notification
reaches `receive`, and each function sends the message of the next event. The others are notifications of buckets and the
batch of a commit.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

from syncline.messages import Batch, Hint, Start, encode
from syncline.model import Item, Scope, Step, Trigger, compact_json
from tests.standins.registry import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, sha256

FOLDER: Final = Path(__file__).parents[2] / "events"

SYNC: Final = "prod-to-dr"
SECRET: Final = "open-sesame"
REPOSITORY: Final = "team/app"
TAG: Final = "v1"
RUN: Final = "20260105-030000-3f9c2a7b01"
GATEWAY: Final = "gateway"
SESSION: Final = "a-session-token"
ORIGIN: Final = "gateway-000"
_SENT: Final = 1767582000000  # milliseconds; 2026-01-05 03:00:00 UTC
_ACCOUNT: Final = "123456789012"
_REGION: Final = "us-east-1"

LAYER: Final = b"a layer"
CONFIG: Final = compact_json(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(LAYER)]}}
).encode()
MANIFEST: Final = compact_json(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": sha256(CONFIG), "size": len(CONFIG)},
        "layers": [{"mediaType": OCI_LAYER, "digest": sha256(LAYER), "size": len(LAYER)}],
    }
).encode()
DIGEST: Final = sha256(MANIFEST)

BY_SCHEDULE: Final = Start(SYNC, Trigger.SCHEDULE)
BY_WEBHOOK: Final = Start(SYNC, Trigger.WEBHOOK, Scope.of([REPOSITORY]))
BY_HAND: Final = Start(SYNC, Trigger.MANUAL, run=RUN)
SCAN: Final = Batch(RUN, SYNC, Step.DISCOVER, RUN)
"""The first batch of the manual run. It leads to TRANSFER, and that to VERIFY."""
TRANSFER: Final = SCAN.child(
    0, step=Step.TRANSFER, items=(Item(REPOSITORY, TAG, detail={"signed": False, "fresh": True}),)
)
VERIFY: Final = TRANSFER.child(
    0,
    step=Step.VERIFY,
    items=(Item(REPOSITORY, TAG, DIGEST, detail={"signed": False, "bytes": len(CONFIG) + len(LAYER)}),),
)

HINT: Final = Hint(SYNC)

BUILDS: Final = "presto-images"
WORKFLOW_RUN: Final[dict[str, Any]] = {
    "action": "completed",
    "workflow_run": {
        "id": 20918273645,
        "run_attempt": 1,
        "event": "workflow_dispatch",
        "status": "completed",
        "conclusion": "success",
        "path": ".github/workflows/presto-build-images.yml",
        "head_branch": "main",
        "head_sha": "92865fbce0d2a056af5334a0afecc1f36853b657",
    },
    "workflow": {"path": ".github/workflows/presto-build-images.yml"},
    "repository": {"full_name": "rapidsai/velox-testing"},
}

FILES: Final = "shop-files"
FILES_BUCKET: Final = "shop"
FILES_KEY: Final = "orders/2026 01/1+1 ä.pdf"
_ETAG: Final = "d41d8cd98f00b204e9800998ecf8427e"
_S3: Final = {
    "s3SchemaVersion": "1.0",
    "configurationId": "syncline",
    "bucket": {
        "name": FILES_BUCKET,
        "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
        "arn": f"arn:aws:s3:::{FILES_BUCKET}",
    },
    "object": {"key": quote_plus(FILES_KEY), "size": 0, "eTag": _ETAG, "sequencer": "0055AED6DCD90281E5"},
}
_S3_NOTIFICATION: Final = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": _REGION,
            "eventTime": "2026-01-05T03:00:00.000Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "AWS:AIDAIENQZJOLO23YVJ4VO"},
            "requestParameters": {"sourceIPAddress": "203.0.113.12"},
            "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810"},
            "s3": _S3,
        }
    ]
}
_EVENTBRIDGE_EVENT: Final = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "Object Created",
    "source": "aws.s3",
    "account": _ACCOUNT,
    "time": "2026-01-05T03:00:00Z",
    "region": _REGION,
    "resources": [f"arn:aws:s3:::{FILES_BUCKET}"],
    "detail": {
        "version": "0",
        "bucket": {"name": FILES_BUCKET},
        "object": {"key": FILES_KEY, "size": 0, "etag": _ETAG, "sequencer": "55aed6dcd90281e5"},
        "request-id": "C3D13FE58DE4C810",
        "requester": _ACCOUNT,
        "source-ip-address": "203.0.113.12",
        "reason": "PutObject",
    },
}
_MINIO_NOTIFICATION: Final = {
    "EventName": "s3:ObjectCreated:Put",
    "Key": f"{FILES_BUCKET}/{FILES_KEY}",
    "Records": [
        {
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": "2026-01-05T03:00:00.000Z",
            "eventName": "s3:ObjectCreated:Put",
            "userIdentity": {"principalId": "shop"},
            "requestParameters": {"principalId": "shop", "region": "", "sourceIPAddress": "203.0.113.12"},
            "responseElements": {"x-amz-request-id": "1887A0B3F4B4E9C1", "x-minio-origin-endpoint": "https://minio"},
            "s3": _S3,
            "source": {"host": "203.0.113.12", "port": "", "userAgent": "MinIO (linux; amd64) minio-go/v7.0.66"},
        }
    ],
}

CLUSTERS: Final = "cluster-backups"
BACKUP: Final = "production-east/default/app.yaml"
COMMIT_SCAN: Final = Batch(RUN, CLUSTERS, Step.DISCOVER, RUN)
COMMIT: Final = COMMIT_SCAN.child(0, step=Step.COMMIT, items=(Item("main", BACKUP),))

_QUAY: Final = {
    "repository": REPOSITORY,
    "namespace": REPOSITORY.partition("/")[0],
    "name": REPOSITORY.partition("/")[2],
    "docker_url": f"quay.prod.example/{REPOSITORY}",
    "homepage": f"https://quay.prod.example/repository/{REPOSITORY}",
    "updated_tags": [TAG],
}
_DISTRIBUTION: Final = {
    "events": [
        {
            "id": "320678d8-ca14-430f-8bb6-4ca139cd83f7",
            "timestamp": "2026-01-05T03:00:00.402973972Z",
            "action": "push",
            "target": {
                "mediaType": OCI_MANIFEST,
                "size": len(MANIFEST),
                "digest": DIGEST,
                "length": len(MANIFEST),
                "repository": REPOSITORY,
                "url": f"https://registry.prod.example/v2/{REPOSITORY}/manifests/{DIGEST}",
                "tag": TAG,
            },
            "request": {
                "id": "6df24a34-0959-4923-81ca-14f09767db19",
                "addr": "203.0.113.11:42961",
                "host": "registry.prod.example",
                "method": "PUT",
                "useragent": "skopeo/1.9.3",
            },
            "actor": {"name": "ci"},
            "source": {"addr": "registry-7d9:5000", "instanceID": "a53db899-3b4b-4a62-a067-8dd013beaca4"},
        }
    ]
}


def events() -> dict[str, Any]:
    """Return each event by its path in ``events/``: the folder is the function, the file the trigger."""
    distribution = {
        "content-type": "application/vnd.docker.distribution.events.v1+json",
        "user-agent": "Go-http-client",
    }
    quay = {"content-type": "application/json", "user-agent": "python-requests/2.32.3"}
    signed = hmac.new(SECRET.encode(), compact_json(WORKFLOW_RUN).encode(), hashlib.sha256).hexdigest()
    github = {
        "content-type": "application/json",
        "user-agent": "GitHub-Hookshot/044aadd",
        "x-github-event": "workflow_run",
        "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "x-hub-signature-256": f"sha256={signed}",
    }
    minio = {
        "content-type": "application/json",
        "user-agent": "MinIO (linux; amd64) MinIO/DEVELOPMENT.2025-04-22T22-12-26Z",
        "authorization": f"Bearer {SECRET}",
    }
    return {
        "receive/quay-push.json": _request(SECRET, _QUAY, quay),
        "receive/distribution-push.json": _request(SECRET, _DISTRIBUTION, distribution),
        "receive/wrong-secret.json": _request("wrong", _QUAY, quay),
        "receive/github-workflow-run.json": _request(None, WORKFLOW_RUN, github, BUILDS),
        "receive/minio.json": _request(None, _MINIO_NOTIFICATION, minio, FILES),
        "discover/schedule.json": _queue_event("discover", BY_SCHEDULE),
        "discover/webhook.json": _queue_event("discover", BY_WEBHOOK),
        "discover/by-hand.json": _queue_event("discover", BY_HAND),
        "discover/bucket.json": _queue_event("events", _S3_NOTIFICATION),
        "discover/bucket-eventbridge.json": _queue_event("events", _EVENTBRIDGE_EVENT),
        "transfer/queue.json": _queue_event("transfer", TRANSFER),
        "verify/queue.json": _queue_event("verify", VERIFY),
        "commit/queue.json": _fifo_event("commit.fifo", COMMIT),
        "console/health.json": _get_request("/health", {}),
        "console/metrics.json": _get_request("/metrics", {}),
        "probe/synced.json": _get_request("/v1/synced", {"x-auth-token": SESSION, "x-nginx-origin": ORIGIN}),
        "probe/no-headers.json": _get_request("/v1/synced", {}),
        "probe/openapi.json": _get_request("/openapi.json", {}),
        "scrape/schedule.json": _schedule_event("scrape"),
        "canary/schedule.json": _schedule_event("canary"),
        "watch/schedule.json": _schedule_event("watch"),
        "notify/queue.json": _queue_event("notify", HINT),
    }


def written(event: Any) -> str:
    """Return the content of the file of an event."""
    return json.dumps(event, indent=2) + "\n"


def _schedule_event(function: str) -> dict[str, Any]:
    """Return the default event of EventBridge Scheduler, for a schedule without input."""
    return {
        "version": "0",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, function)),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": _ACCOUNT,
        "time": "2026-01-05T03:00:00Z",
        "region": _REGION,
        "resources": [f"arn:aws:scheduler:{_REGION}:{_ACCOUNT}:schedule/default/syncline-{function}"],
        "detail": "{}",
    }


def _get_request(path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Return a GET request to a function URL, payload format 2.0."""
    event = _request("", "", {"content-type": "application/json", "user-agent": "nginx"})
    event["rawPath"] = event["requestContext"]["http"]["path"] = path
    event["requestContext"]["http"]["method"] = "GET"
    kept = {name: value for name, value in event["headers"].items() if not name.startswith("content-")}
    event["headers"] = {**kept, **headers}
    del event["body"]
    return event


def _request(secret: str | None, body: Any, headers: dict[str, str], sync: str = SYNC) -> dict[str, Any]:
    """Return a POST request to a function URL, payload format 2.0. Bodies other than text and plain JSON are in base64.

    Without a secret in the path, the headers authenticate the sender.
    """
    url = "kq5ncyiunxrz3hbjzd6xqvyoze0abcde"
    domain = f"{url}.lambda-url.{_REGION}.on.aws"
    path = f"/hooks/{sync}" if secret is None else f"/hooks/{sync}/{secret}"
    encoded = headers["content-type"] != "application/json"
    text = compact_json(body)
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {
            "accept": "*/*",
            "content-length": str(len(text.encode())),
            "host": domain,
            "x-forwarded-for": "203.0.113.10",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
            **headers,
        },
        "requestContext": {
            "accountId": "anonymous",
            "apiId": url,
            "domainName": domain,
            "domainPrefix": url,
            "http": {
                "method": "POST",
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.10",
                "userAgent": headers["user-agent"],
            },
            "requestId": "e1506fd5-9e7b-434f-bd42-4f8fa224b599",
            "routeKey": "$default",
            "stage": "$default",
            "time": "05/Jan/2026:03:00:00 +0000",
            "timeEpoch": _SENT,
        },
        "body": base64.b64encode(text.encode()).decode() if encoded else text,
        "isBase64Encoded": encoded,
    }


def _fifo_event(queue: str, batch: Batch) -> dict[str, Any]:
    """Return an SQS event with one message of a FIFO queue."""
    event = _queue_event(queue, batch)
    marks = {"SequenceNumber": "18849496460467696128", "MessageGroupId": f"{batch.sync}/{batch.group}"}
    event["Records"][0]["attributes"] |= marks | {"MessageDeduplicationId": batch.id}
    return event


def _queue_event(queue: str, message: Start | Batch | Hint | dict[str, Any]) -> dict[str, Any]:
    """Return an SQS event with one message."""
    body = compact_json(message) if isinstance(message, dict) else encode(message)
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, body))
    return {
        "Records": [
            {
                "messageId": identity,
                "receiptHandle": base64.b64encode(identity.encode()).decode(),
                "body": body,
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": str(_SENT),
                    "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                    "ApproximateFirstReceiveTimestamp": str(_SENT + 4),
                },
                "messageAttributes": {},
                "md5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{_REGION}:{_ACCOUNT}:syncline-{queue}",
                "awsRegion": _REGION,
            }
        ]
    }


if __name__ == "__main__":
    for name, event in events().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written(event))
