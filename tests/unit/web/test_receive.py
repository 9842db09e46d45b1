from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore.exceptions import ClientError

from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.images.events import repositories_in
from syncline.messages import Start, decode
from syncline.model import Scope, Trigger
from syncline.secrets import Secrets
from syncline.web.receive import LARGEST_BODY, Receiver
from tests.rig.made_up import Steps

SECRET = "the hook's secret"
BODY = {"repository": "team/app", "updated_tags": ["1.0"]}


def config(name: str, *, webhook: bool = True, enabled: bool = True) -> Sync:
    values: dict[str, Any] = {"name": name, "kind": "images", "enabled": enabled}
    values |= {"source": {"registry": "prod.example", "catalog": True}, "target": {"registry": "dr.example"}}
    values |= {"webhook": {"secret": "env:HOOK"}} if webhook else {}
    return load_sync(json.dumps(values))


SYNCS = {
    "images": config("images"),
    "closed": config("closed", webhook=False),
    "disabled": config("disabled", enabled=False),
}


def find(name: str) -> Sync:
    if name not in SYNCS:
        raise SynclineError("NO_SUCH_SYNC", f"there is no sync named {name!r}")
    return SYNCS[name]


@pytest.fixture
def receiver(steps: Steps) -> Receiver:
    secrets = Secrets(
        lambda: pytest.fail("no secret may be fetched"),
        lambda: pytest.fail("no secret may be fetched"),
        {"HOOK": SECRET},
    )
    return Receiver(find, lambda _sync, event: repositories_in(event), secrets, steps.queues)


def event(body: Any = BODY, path: str = f"/hooks/images/{SECRET}", method: str = "POST", **more: Any) -> dict[str, Any]:
    """Return an event of a function URL, in payload format 2.0."""
    text = body if isinstance(body, str) else json.dumps(body)
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json"},
        "requestContext": {"http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}},
        "body": text,
        "isBase64Encoded": False,
        **more,
    }


def ask(receiver: Receiver, **more: Any) -> tuple[int, dict[str, Any]]:
    answer = receiver.handle(event(**more))
    return answer["statusCode"], json.loads(answer["body"])


UNAUTHORIZED = (401, {"error": "no such webhook, or wrong secret or signature"})
"""The response to a request without the secret. It is the same for existing and unknown hooks."""


def queued(steps: Steps) -> list[Any]:
    """Return the queued starts without the IDs of their runs, after checking that each has one."""
    starts = [decode(letter.body) for letter in steps.mail.waiting()]
    assert all(isinstance(start, Start) and start.id for start in starts)
    return [replace(start, id=None) for start in starts if isinstance(start, Start)]


def test_a_notification_queues_a_scan_of_its_repository(steps: Steps, receiver: Receiver) -> None:
    assert ask(receiver) == (202, {"sync": "images", "queued": ["team/app"]})
    assert queued(steps) == [Start("images", Trigger.WEBHOOK, Scope.of(["team/app"]))]


def test_a_body_in_base64_is_decoded(steps: Steps, receiver: Receiver) -> None:
    body = base64.b64encode(json.dumps(BODY).encode()).decode()
    assert ask(receiver, body=body, isBase64Encoded=True)[0] == 202
    assert len(queued(steps)) == 1


def test_a_notification_that_names_nothing_queues_nothing(steps: Steps, receiver: Receiver) -> None:
    assert ask(receiver, body={"events": []}) == (202, {"sync": "images", "queued": []})
    assert queued(steps) == []


def test_a_disabled_sync_queues_no_scan(steps: Steps, receiver: Receiver) -> None:
    status, answer = ask(receiver, path=f"/hooks/disabled/{SECRET}")
    assert (status, answer["queued"]) == (202, [])
    assert queued(steps) == []


@pytest.mark.parametrize(
    "path",
    [
        "/hooks/images",
        "/hooks/images/",
        "/hooks/images/wrong",
        f"/hooks/images/{SECRET}x",
        f"/hooks/images/{SECRET[:-1]}",
        f"/hooks/unknown/{SECRET}",
        f"/hooks/closed/{SECRET}",
        "/hooks/images/ünïcode",
        "/hooks/images/\ud800",
    ],
)
def test_a_request_without_the_secret_learns_nothing(steps: Steps, receiver: Receiver, path: str) -> None:
    for method in ("POST", "GET"):
        assert ask(receiver, path=path, method=method) == UNAUTHORIZED
    assert queued(steps) == []


@pytest.mark.parametrize("path", ["", "/", "/hooks", f"/hooks/images/{SECRET}/more", f"/other/images/{SECRET}"])
def test_an_unknown_path_is_answered_with_the_path_of_hooks(steps: Steps, receiver: Receiver, path: str) -> None:
    assert ask(receiver, path=path) == (404, {"error": "notifications go to /hooks/SYNC or /hooks/SYNC/SECRET"})
    assert queued(steps) == []


def signature(body: bytes, secret: str = SECRET) -> str:
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


RAW = json.dumps(BODY).encode()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Hub-Signature-256": signature(RAW)},
        {"x-hub-signature-256": signature(RAW), "authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {SECRET}"},
        {"authorization": f"bearer {SECRET}"},
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_a_signature_or_bearer_token_replaces_the_secret_in_the_path(
    steps: Steps, receiver: Receiver, headers: dict[str, str], encoded: bool
) -> None:
    body = base64.b64encode(RAW).decode() if encoded else RAW.decode()
    assert ask(receiver, body=body, isBase64Encoded=encoded, path="/hooks/images", headers=headers)[0] == 202
    assert queued(steps) == [Start("images", Trigger.WEBHOOK, Scope.of(["team/app"]))]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/hooks/images", {}),
        ("/hooks/images", {"authorization": "Bearer wrong"}),
        ("/hooks/images", {"authorization": SECRET}),
        ("/hooks/images", {"x-hub-signature-256": signature(RAW, "wrong")}),
        ("/hooks/images", {"x-hub-signature-256": signature(RAW + b" ")}),
        ("/hooks/images", {"x-hub-signature-256": signature(RAW).upper()}),
        ("/hooks/images", {"x-hub-signature-256": "", "authorization": f"Bearer {SECRET}"}),
        (f"/hooks/images/{SECRET}", {"x-hub-signature-256": "sha256=forged"}),
        ("/hooks/closed", {"authorization": f"Bearer {SECRET}"}),
    ],
)
def test_a_forged_notification_is_refused_without_a_reason(
    steps: Steps, receiver: Receiver, path: str, headers: dict[str, str]
) -> None:
    assert ask(receiver, path=path, headers=headers) == UNAUTHORIZED
    assert queued(steps) == []


FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("encoded", [False, True])
def test_a_webhook_sent_as_a_form_is_read(steps: Steps, receiver: Receiver, *, encoded: bool) -> None:
    """GitHub sends forms if `application/json` is not chosen. The signature covers the form."""
    raw = urlencode({"payload": json.dumps(BODY)}).encode()
    headers = {**FORM, "x-hub-signature-256": signature(raw)}
    body = base64.b64encode(raw).decode() if encoded else raw.decode()
    assert ask(receiver, body=body, isBase64Encoded=encoded, path="/hooks/images", headers=headers)[0] == 202
    assert queued(steps) == [Start("images", Trigger.WEBHOOK, Scope.of(["team/app"]))]


def test_json_with_the_content_type_of_a_form_is_read(steps: Steps, receiver: Receiver) -> None:
    """``curl --data`` and other clients declare each body as a form."""
    assert ask(receiver, headers=FORM)[0] == 202
    assert queued(steps) == [Start("images", Trigger.WEBHOOK, Scope.of(["team/app"]))]


@pytest.mark.parametrize("body", ["", "a=b", "payload=no+json", "payload=%7B%7D&payload=%7B%7D"])
def test_an_invalid_form_is_refused_with_the_content_type_to_choose(
    steps: Steps, receiver: Receiver, body: str
) -> None:
    status, answer = ask(receiver, body=body, headers={"Content-Type": f"{FORM['content-type']}; charset=utf-8"})
    assert status == 400
    assert "choose the content type `application/json`" in answer["error"]
    assert queued(steps) == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_notifications_require_post(steps: Steps, receiver: Receiver, method: str) -> None:
    assert ask(receiver, method=method)[0] == 405
    assert queued(steps) == []


@pytest.mark.parametrize(
    "more",
    [
        {"body": ""},
        {"body": "no json"},
        {"body": "[" * 100_000},
        {"body": "{}"},
        {"body": '{"repository": "../../x"}'},
        {"body": "not base64", "isBase64Encoded": True},
        {"body": base64.b64encode(b"\xff\xfe\xfd").decode(), "isBase64Encoded": True},
    ],
    ids=lambda more: str(more)[:40],
)
def test_an_invalid_notification_is_refused(steps: Steps, receiver: Receiver, more: dict[str, Any]) -> None:
    assert ask(receiver, **more)[0] == 400
    assert queued(steps) == []


def test_thousands_of_repositories_become_scans_that_fit_messages(steps: Steps, receiver: Receiver) -> None:
    names = [f"team/{'service-' * 8}{number:05}" for number in range(4000)]
    media_type = "application/vnd.oci.image.manifest.v1+json"
    events = [{"action": "push", "target": {"mediaType": media_type, "repository": name}} for name in names]
    assert ask(receiver, body={"events": events})[0] == 202
    starts = queued(steps)
    assert [group for start in starts for group in start.scope.groups] == names
    assert all(start.scope.fits for start in starts)
    assert max(len(letter.body.encode()) for letter in steps.mail.waiting()) < 256 * 1024
    assert len(starts) < 10


@pytest.mark.parametrize("encoded", [False, True])
def test_the_size_is_checked_first(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, encoded: bool) -> None:
    monkeypatch.setattr("syncline.web.receive.json.loads", lambda _: pytest.fail("the body was parsed"))
    monkeypatch.setattr(
        "syncline.web.function_url.base64.b64decode", lambda *_, **__: pytest.fail("the body was decoded")
    )
    size = LARGEST_BODY * 4 // 3 + 10 if encoded else LARGEST_BODY + 1
    answer = receiver.handle(event(body="A" * size, isBase64Encoded=encoded))
    assert answer["statusCode"] == 413


def test_the_size_is_in_bytes(receiver: Receiver) -> None:
    assert receiver.handle(event(body="\U0001f600" * (LARGEST_BODY // 4 + 1)))["statusCode"] == 413


def _aws_fails(*_: object) -> Any:
    raise ClientError({"Error": {"Code": "InternalServerError", "Message": "secret words"}}, "GetItem")


def _secret_is_missing(*_: object) -> Any:
    raise SynclineError("SECRET_MISSING", "env:HOOK is not set")


@pytest.mark.parametrize("failing", [_aws_fails, _secret_is_missing])
def test_after_an_internal_failure_the_notification_may_be_sent_again(
    steps: Steps, receiver: Receiver, failing: Any
) -> None:
    broken = Receiver(failing, receiver.changed_groups, receiver.secrets, receiver.queues)
    assert ask(broken) == (503, {"error": "not accepted now; send it again"})
    broken = Receiver(receiver.config, failing, receiver.secrets, receiver.queues)
    assert ask(broken) == (503, {"error": "not accepted now; send it again"})
    assert queued(steps) == []
