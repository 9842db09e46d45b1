"""Changes of the sources, in one thread for each kind, with separate random numbers from the seed.

A change that fails because its server is down is not repeated. Events and webhooks are sent in the format of the sources:
some are lost, some are sent twice, and those during a downtime of the engine are not sent again.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import pickle
import random
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from botocore.exceptions import BotoCoreError, ClientError

from tests.rig.artifacts import build
from tests.soak.deployment import KINDS, REPOSITORIES, WORKFLOW, Deployment
from tests.soak.s3_client import S3Client
from tests.soak.serve import BUCKETS, REPOSITORY
from tests.soak.servers import Servers
from tests.standins.github import Run
from tests.standins.registry import OCI_MANIFEST

INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOWN_ERRORS: Final = (OSError, http.client.HTTPException, AssertionError, ClientError, BotoCoreError)
"""Exceptions of requests to a killed server or engine. Clients of the stand-ins raise AssertionError."""
_PAUSES: Final = {"images": 4.0, "files": 0.7, "backups": 0.7, "artifacts": 25.0, "tokens": 3.0}
_TAGS: Final = 6
_KEYS: Final = 60
_MODES: Final = ("rw-r--r--", "rw-r-----", "rwxr-xr-x")


def marker(seed: int) -> str:
    """Return the prefix of every session."""
    return f"session-{random.Random(f'{seed} sessions').getrandbits(128):032x}-"


@dataclass
class Work:
    """State that the writers share. ``false_verdicts`` has the verdicts ``Synced`` for a token that an instance lacked."""

    deployment: Deployment
    servers: Servers
    secrets: dict[str, str]
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    hints: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    false_verdicts: list[str] = field(default_factory=list)
    builds: list[Run] = field(default_factory=list)
    sessions: int = 0

    @property
    def s3(self) -> S3Client:
        return S3Client(self.servers.s3.port)

    def run(self, kind: str, ended: threading.Event) -> None:
        """Make changes of a kind until ``ended``."""
        rng = random.Random(f"{self.seed} {kind}")
        change: Callable[[random.Random], None] = getattr(self, f"change_{kind}")
        while not ended.wait(rng.uniform(0.5, 1.5) * _PAUSES[kind]):
            try:
                change(rng)
            except DOWN_ERRORS:
                self.refused[kind] += 1
            else:
                self.done[kind] += 1

    # -- images ------------------------------------------------------------------------------------------------------

    def change_images(self, rng: random.Random) -> None:
        """Push an image or an index under a tag that often exists. The registry sends a notification."""
        prod = self.servers.prod.registry
        repository = rng.choice(REPOSITORIES)
        tag = f"v{rng.randrange(_TAGS)}"
        base = random.Random(rng.randrange(5)).randbytes(200_000)
        layers = [base, rng.randbytes(rng.randrange(1_000, 400_000))]
        if rng.random() < 0.8:
            prod.push_image(repository, tag, layers)
            return
        children = []
        for architecture in ("amd64", "arm64"):
            digest = prod.push_image(repository, f"{tag}-{architecture}", [*layers, architecture.encode()])
            path = f"/v2/{repository}/manifests/{digest}"
            size = len(prod.authorized("GET", path, headers={"Accept": OCI_MANIFEST}).body)
            platform = {"os": "linux", "architecture": architecture}
            children.append({"mediaType": OCI_MANIFEST, "digest": digest, "size": size, "platform": platform})
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
        prod.push_manifest(repository, tag, index, INDEX)

    # -- files and backups -------------------------------------------------------------------------------------------

    def change_files(self, rng: random.Random) -> None:
        """Put, delete or rename an object with permissions, and send MinIO's webhook."""
        bucket = BUCKETS[0]
        key = f"d{rng.randrange(4)}/file {rng.randrange(_KEYS // 4)}+ä.txt"
        metadata = {"permissions": rng.choice(_MODES)}
        match rng.random():
            case share if share < 0.65:
                self.s3.put(bucket, key, rng.randbytes(rng.randrange(1, 200_000)), metadata)
                events = [("s3:ObjectCreated:Put", key)]
            case share if share < 0.85:
                self.s3.delete(bucket, key)
                events = [("s3:ObjectRemoved:Delete", key)]
            case _:
                content, headers = self.s3.get(bucket, key)
                new = f"moved/{rng.randrange(_KEYS // 4)}.txt"
                self.s3.put(bucket, new, content, {"permissions": headers["x-amz-meta-permissions"]})
                self.s3.delete(bucket, key)
                events = [("s3:ObjectCreated:Copy", new), ("s3:ObjectRemoved:Delete", key)]
        for name, changed in events:
            about = {"bucket": {"name": bucket}, "object": {"key": quote(changed)}}
            record = {"eventVersion": "2.0", "eventSource": "minio:s3", "eventName": name, "s3": about}
            body = json.dumps({"Records": [record]}).encode()
            headers = {"Authorization": f"Bearer {self.secrets['hook_files']}"}
            self._send_event("files", rng, lambda: self.deployment.post("files", body, headers))  # noqa: B023 - called here

    def change_backups(self, rng: random.Random) -> None:
        """Put or delete an object of a cluster, and send EventBridge's event to the queue for events."""
        bucket = BUCKETS[1]
        cluster = rng.choice(("east", "west", "north"))
        key = f"{cluster}/ns{rng.randrange(3)}/f{rng.randrange(_KEYS // 9)}.yaml"
        removed = rng.random() < 0.25
        if removed:
            self.s3.delete(bucket, key)
        else:
            value = rng.randbytes(rng.randrange(10, 5_000)).hex()
            self.s3.put(bucket, key, f"kind: ConfigMap\ndata:\n  value: {value}\n".encode(), {})
        kind, reason = ("Object Deleted", "DeleteObject") if removed else ("Object Created", "PutObject")
        detail = {"bucket": {"name": bucket}, "object": {"key": key}, "reason": reason}
        body = json.dumps({"version": "0", "detail-type": kind, "source": "aws.s3", "detail": detail})
        arn = self.deployment.outputs["EventsQueueArn"]

        def send() -> bool:
            sqs = self.deployment.client("sqs")
            url = sqs.get_queue_url(QueueName=arn.rpartition(":")[2])["QueueUrl"]
            sqs.send_message(QueueUrl=url, MessageBody=body)
            return True

        self._send_event("backups", rng, send)

    # -- artifacts ---------------------------------------------------------------------------------------------------

    def change_artifacts(self, rng: random.Random) -> None:
        """Finish a build, and send GitHub's signed webhook."""
        number = len(self.builds) + 1
        made = build(number, f"presto-{number}-linux-{rng.choice(('amd64', 'arm64'))}", java=rng.random() < 0.5)
        file = self.servers.github.folder / f"{number:05}.run"
        temporary = file.with_suffix(".new")
        temporary.write_bytes(pickle.dumps(made))
        temporary.replace(file)
        self.builds.append(made)
        path = f".github/workflows/{WORKFLOW}"
        run = {"id": number, "path": path, "conclusion": "success"}
        body = json.dumps(
            {"action": "completed", "workflow_run": run, "repository": {"full_name": REPOSITORY}}
        ).encode()
        signature = hmac.new(self.secrets["hook_artifacts"].encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-Hub-Signature-256": f"sha256={signature}"}
        self._send_event("artifacts", rng, lambda: self.deployment.post("artifacts", body, headers))

    def _send_event(self, kind: str, rng: random.Random, send: Callable[[], bool]) -> None:
        """Send an event once, twice or not at all."""
        for _ in range(rng.choices((0, 1, 2), (1, 8, 1))[0]):
            with contextlib.suppress(*DOWN_ERRORS):
                self.hints[kind] += send()

    # -- tokens ------------------------------------------------------------------------------------------------------

    def change_tokens(self, rng: random.Random) -> None:
        """Put a session into an instance, and probe it. A third of the sessions is not replicated."""
        origin = rng.randrange(len(self.servers.instances))
        self.probe(origin, everywhere=rng.random() < 0.67)

    def probe(self, origin: int, *, everywhere: bool) -> str:
        """Put a session and return the verdict of the probe. Record a false ``Synced`` in ``false_verdicts``."""
        gateway, instances = self.servers.gateway, self.servers.instances
        self.sessions += 1
        token = f"{marker(self.seed)}{self.sessions:06}"
        before = [each.lives for each in instances]
        gateway.put(origin, token, visible=None if everywhere else 0)
        headers = {"X-Auth-Token": token, "X-Nginx-Origin": gateway.instances[origin].name}
        request = urllib.request.Request(
            f"{self.deployment.outputs['ProbeUrl'].rstrip('/')}/v1/synced", headers=headers
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            verdict = str(answer.headers["X-Token-Status"])
        self.verdicts[verdict] += 1
        for number, lives in enumerate(before):
            if verdict != "Synced" or instances[number].lives != lives:
                continue  # an instance that was killed or started during the probe may have had it
            if lives % 2 == 0 or not self._has(number, token):
                self.false_verdicts.append(f"Synced, and gateway-{number:03d} lacks the token")
        return verdict

    def _has(self, number: int, token: str) -> bool:
        try:
            return self.servers.gateway.has(number, token)
        except DOWN_ERRORS:
            return True  # the instance was killed: the truth is unknown


def first_content(work: Work) -> None:
    """Fill each source before the first run."""
    for kind, count in zip(KINDS, (4, 40, 40, 1, 0), strict=True):
        rng = random.Random(f"{work.seed} first {kind}")
        for _ in range(count):
            try:
                getattr(work, f"change_{kind}")(rng)
            except DOWN_ERRORS as error:
                if "NoSuchKey" not in str(error):
                    raise
                continue  # a rename of an absent file
            work.done[kind] += 1
