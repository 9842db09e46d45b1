"""Targets of messages, webhooks, events, syncs.yaml and Docker's configuration."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, cast
from unittest import mock

from syncline.clients.registry.docker_credentials import credentials_for
from syncline.clients.s3.events import events_in, has_dot_segment
from syncline.config.file import parse_syncs, read_syncs
from syncline.config.sync import Sync, load_sync
from syncline.kinds.files.events import EventScope
from syncline.messages import Notification, Queues, Start, decode, encode
from syncline.secrets import Secrets
from syncline.web.console import Console
from syncline.web.receive import Receiver
from syncline.wiring.syncs import changed_groups_of
from tests.fuzz.target import PLANTED, Target, must, refusals

_EXAMPLES: Final = Path(__file__).parents[2] / "examples"
_HTTP: Final = {"method": "POST", "path": "/hooks/x"}
_NOW: Final = 1.7e9


@cache
def _syncs() -> dict[str, Sync]:
    """Return one sync with a webhook for each kind that has notifications."""
    found: dict[str, Sync] = {}
    for path in sorted(_EXAMPLES.glob("*.yaml")):
        for sync in read_syncs(path).syncs.values():
            if sync.kind != "tokens":
                values = sync.model_dump(mode="json") | {"webhook": {"secret": "env:HOOK"}, "name": sync.kind}
                found.setdefault(sync.kind, type(sync).model_validate(values))
    return found


@dataclass
class _FakeQueues:
    """Queues that record the start messages and deliver nothing."""

    starts: list[Start] = field(default_factory=list)

    def start(self, start: Start, delay: int = 0) -> None:
        del delay
        must(isinstance(decode(encode(start)), Start), "a start changes when it is encoded and decoded")
        self.starts.append(start)


def _no_client() -> Any:
    raise AssertionError("an AWS client was requested")


def _receive(data: bytes) -> None:
    """Send a body without and with the secret. Without it, nothing is accepted; with it, no request is rejected as forged."""
    secrets = Secrets(_no_client, _no_client, {"HOOK": PLANTED})
    signature = f"sha256={hmac.new(PLANTED.encode(), data, hashlib.sha256).hexdigest()}"
    encoded = {"body": base64.b64encode(data).decode(), "isBase64Encoded": True}
    text = data.decode("utf-8", "replace")
    form = {"content-type": "application/x-www-form-urlencoded"}
    for kind in _syncs():
        queues = _FakeQueues()
        receiver = Receiver(
            lambda name: _syncs()[name],
            lambda sync, body: changed_groups_of(sync, body, _NOW),
            secrets,
            cast("Queues", queues),
        )
        path = f"/hooks/{kind}"
        attempts: tuple[tuple[bool, dict[str, Any]], ...] = (
            (False, {"rawPath": path, "headers": {"X-Hub-Signature-256": text[:100]}, **encoded}),
            (False, {"rawPath": path, "headers": {"Authorization": f"Bearer {text[:100]}"}, **encoded}),
            (False, {"rawPath": f"{path}/{text[:100].replace('/', '')}", "headers": {}, "body": text}),
            (False, {"rawPath": path, "headers": {}, "body": text, "isBase64Encoded": True}),
            (True, {"rawPath": path, "headers": {"X-Hub-Signature-256": signature}, **encoded}),
            (True, {"rawPath": f"{path}/{PLANTED}", "headers": form, "body": text}),
        )
        for is_signed, event in attempts:
            if not is_signed and PLANTED in text:
                continue
            answer = receiver.handle({"requestContext": {"http": _HTTP}, **event})
            status = answer["statusCode"]
            must(status in ((202, 400) if is_signed else (400, 401)), f"{kind} answers {status}: {answer['body']}")
            must(PLANTED not in answer["body"], "the response contains the secret")
            must(is_signed or not queues.starts, "a request without the secret was queued")


def _console(data: bytes) -> None:
    parts = data.decode("utf-8", "replace").split("\n")
    console = Console(list, lambda: PLANTED)
    path, method = f"/{parts[0].lstrip('/')}", parts[1] if len(parts) > 1 else "GET"
    answer = console.handle(
        {
            "rawPath": path,
            "requestContext": {"http": {"method": method}},
            "headers": {"Authorization": "\n".join(parts[2:])},
        }
    )
    must(PLANTED not in answer["body"], "the response contains the secret")
    if path.rstrip("/") == "/metrics" and PLANTED not in "\n".join(parts):
        must(answer["statusCode"] in (401, 405), "metrics are returned without the token")


def _events(data: bytes) -> None:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return
    with refusals():
        for event in events_in(body):
            must(isinstance(event.key, str) and isinstance(event.bucket, str), "an event names no key or bucket")
            must(not has_dot_segment(event.key), "a key contains a dot segment")
            must(event.order is None or len(event.order) <= 32, "a sequencer is too long")
    for kind, sync in _syncs().items():
        with refusals():
            groups = changed_groups_of(sync, body, _NOW)
            must(all(isinstance(group, str) for group in groups), "a group is not a string")
            if kind == "files":
                EventScope.of(groups)


def _messages(data: bytes) -> None:
    with refusals():
        message = decode(data.decode("utf-8", "replace"))
        if not isinstance(message, Notification):
            once = encode(message)
            again = decode(once)
            assert not isinstance(again, Notification)
            must(encode(again) == once, "a message changes when it is decoded and encoded")


def _syncs_yaml(data: bytes) -> None:
    with refusals():
        for name, sync in parse_syncs(data, folder=Path("/nonexistent")).syncs.items():
            must(
                load_sync(sync.model_dump_json()) == sync,
                f"the sync {name} changes when it is written to JSON and read",
            )


def _docker(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(data)
        environment = {"DOCKER_CONFIG": folder, "PATH": folder, "HOME": folder}
        with mock.patch.dict(os.environ, environment, clear=True), refusals():
            credentials_for("registry.example.com")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _config(change: Callable[[str], str] = lambda text: text) -> tuple[bytes, ...]:
    texts = (path.read_text() for path in sorted(_EXAMPLES.glob("*.yaml")))
    plain = ("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")) for text in texts)
    return tuple(change(text).encode() for text in plain if len(text) <= 4096)


_RECORD: Final = {
    "eventSource": "aws:s3",
    "eventVersion": "2.1",
    "eventName": "ObjectCreated:Put",
    "s3": {
        "bucket": {"name": "b"},
        "object": {"key": "a+b", "size": 3, "eTag": "x", "sequencer": "0055AED6DCD90281E5"},
    },
}
_BUS: Final = {
    "source": "aws.s3",
    "detail-type": "Object Created",
    "detail": {"bucket": {"name": "b"}, "object": {"key": "k", "size": 1, "etag": "e"}, "reason": "PutObject"},
}
_HOOKS: Final = (
    _json({"Records": [_RECORD]}),
    _json(_BUS),
    _json({"Type": "Notification", "Message": json.dumps({"Records": [_RECORD]})}),
    _json({"repository": "team/app", "updated_tags": ["v1"]}),
    _json({"events": [{"action": "push", "target": {"mediaType": "x.manifest", "repository": "team/app"}}]}),
    _json(
        {
            "events": [
                {"event_type": "change_permission", "file_path": "/a", "metadata": {"new_permissions": "rw-r--r--"}}
            ]
        }
    ),
    _json(
        {
            "action": "completed",
            "repository": {"full_name": "o/r"},
            "workflow_run": {"id": 1, "path": ".github/workflows/b.yml@main", "conclusion": "success"},
        }
    ),
    b"payload=%7B%22zen%22%3A%22x%22%7D",
)
_BATCH: Final = {
    "v": 1,
    "type": "batch",
    "run": "r",
    "sync": "s",
    "step": "transfer",
    "id": "i",
    "attempt": 1,
    "hop": 0,
    "items": [["g", "n", "f", None, 1, {"at": 1}]],
}

TARGETS = (
    Target("webhooks", _receive, _HOOKS),
    Target("console", _console, (b"metrics\nGET\nBearer x", b"health", b"metrics\nPOST")),
    Target("events", _events, _HOOKS[:-1]),
    Target(
        "messages",
        _messages,
        (
            _json({"v": 1, "type": "start", "sync": "s", "trigger": "manual", "groups": ["a"], "plan": True}),
            _json(_BATCH),
            _json({"v": 1, "type": "dead", "code": "NOT_FOUND", "reason": "r", "batch": _BATCH, "item": ["g", "n"]}),
            _json({"Records": []}),
        ),
    ),
    Target("syncs-yaml", _syncs_yaml, _config()),
    Target(
        "docker-credentials",
        _docker,
        (
            _json({"auths": {"registry.example.com": {"auth": base64.b64encode(b"a:b").decode()}}}),
            _json({"credsStore": "pass", "credHelpers": {"registry.example.com": "x"}}),
            _json({"auths": {"https://registry.example.com/v2/": {"identitytoken": "x"}}}),
        ),
    ),
)
