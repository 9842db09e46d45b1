"""Bodies of notifications: JSON, base64 and forms, their sizes, and their authentication."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlencode

import pytest

from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.messages import Queues, Start
from syncline.model import LARGEST_SCOPE, Scope, Trigger
from syncline.secrets import Secrets
from syncline.web.receive import LARGEST_BODY, Receiver
from tests.rig.run_ids import made_run_id

SECRET = "secret-of-the-hook"
SYNC: dict[str, Any] = {"name": "images", "kind": "images", "webhook": {"secret": "env:HOOK"}}
SYNC |= {"source": {"registry": "prod.example", "catalog": True}, "target": {"registry": "dr.example"}}
FORM = {"content-type": "application/x-www-form-urlencoded"}


def find(name: str) -> Sync:
    if name == "unknown":
        raise SynclineError("NO_SUCH_SYNC", name)
    if name == "broken":
        raise SynclineError("CONFIG_INVALID", name)
    more: dict[str, dict[str, Any]] = {"off": {"enabled": False}, "closed": {"webhook": None}}
    return load_sync(json.dumps(SYNC | {"name": name} | more.get(name, {})))


class FakeQueues:
    """Queues that record the queued starts."""

    def __init__(self) -> None:
        self.starts: list[Start] = []

    def start(self, start: Start) -> None:
        self.starts.append(start)


def groups_in(body: object) -> tuple[str, ...]:
    """Return the groups of a fake notification: ``{"groups": [NAME, ...]}``."""
    if not isinstance(body, dict) or "groups" not in body:
        raise SynclineError("MESSAGE_INVALID", "no groups")
    return tuple(body["groups"])


@pytest.fixture
def sent() -> FakeQueues:
    return FakeQueues()


@pytest.fixture
def ask(sent: FakeQueues) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Return a function that posts a body and returns the status and the response."""
    secrets = Secrets(
        lambda: pytest.fail("no secret may be fetched"),
        lambda: pytest.fail("no secret may be fetched"),
        {"HOOK": SECRET},
    )
    receiver = Receiver(
        find,
        lambda _sync, body: groups_in(body),
        secrets,
        cast("Queues", sent),
        lambda: 1_790_000_000.0,
    )

    def post(body: str | None, **more: Any) -> tuple[int, dict[str, Any]]:
        http = {"method": "POST"}
        event = {"rawPath": f"/hooks/images/{SECRET}", "requestContext": {"http": http}, "body": body, **more}
        answer = receiver.handle(event)
        return answer["statusCode"], json.loads(answer["body"])

    return post


Ask = Callable[..., tuple[int, dict[str, Any]]]


def padded(size: int) -> bytes:
    """Return a notification of `size` bytes."""
    body = json.dumps({"groups": ["a"]}).encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize(("size", "status"), [(LARGEST_BODY, 202), (LARGEST_BODY + 1, 413)])
@pytest.mark.parametrize("encoded", [False, True])
def test_a_body_has_a_maximum_size(ask: Ask, sent: FakeQueues, size: int, status: int, *, encoded: bool) -> None:
    body = base64.b64encode(padded(size)).decode() if encoded else padded(size).decode()
    assert ask(body, isBase64Encoded=encoded)[0] == status
    assert len(sent.starts) == (status == 202)


def test_the_size_is_in_bytes(ask: Ask) -> None:
    name = "é" * (LARGEST_BODY // 2)
    assert ask(json.dumps({"groups": [], "name": name}, ensure_ascii=False))[0] == 413


@pytest.mark.parametrize("body", ["eyJncm91cHMiOiBbXX0!", "=", "é"])
def test_invalid_base64_is_refused(ask: Ask, body: str) -> None:
    assert ask(body, isBase64Encoded=True) == (400, {"error": "the body is not valid base64"})


@pytest.mark.parametrize("body", [None, "", "{", "\ud83d"])
def test_invalid_json_is_refused(ask: Ask, body: str | None) -> None:
    assert ask(body)[0] == 400


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("payload", '{"groups": ["a"]}')], 202),
        ([("other", "x"), ("payload", '{"groups": ["a"]}')], 202),
        ([("payload", '{"groups": ["a"]}')] + [("a", "b")] * 99, 202),
        ([("payload", '{"groups": ["a"]}')] + [("a", "b")] * 100, 400),
        ([("payload", '{"groups": ["a"]}')] * 2, 400),
        ([("payload", "{")], 400),
        ([("payload", '{"what": 1}')], 400),
        ([("other", "x")], 400),
        ([], 400),
    ],
)
@pytest.mark.parametrize("headers", [FORM, {"Content-Type": "Application/X-WWW-Form-URLencoded; charset=utf-8"}])
def test_a_form_must_have_one_payload(
    ask: Ask, sent: FakeQueues, fields: list[tuple[str, str]], status: int, headers: dict[str, str]
) -> None:
    assert ask(urlencode(fields), headers=headers)[0] == status
    assert [start.scope for start in sent.starts] == ([Scope.of(["a"])] if status == 202 else [])


@pytest.mark.parametrize("body", ['{"groups": ["a"]}', ' \n {"groups": ["a"]}'])
def test_json_is_read_with_every_content_type(ask: Ask, body: str) -> None:
    for headers in (FORM, {"content-type": "text/plain"}, None):
        assert ask(body, headers=headers) == (202, {"sync": "images", "queued": ["a"]})


def test_a_list_with_the_content_type_of_a_form_is_json(ask: Ask) -> None:
    assert ask("[]", headers=FORM) == (400, {"error": "no groups"})


def test_a_queued_scan_has_the_id_of_its_run(ask: Ask, sent: FakeQueues) -> None:
    ask('{"groups": ["a", "b"]}')
    (start,) = sent.starts
    assert (start.sync, start.trigger, start.scope) == ("images", Trigger.WEBHOOK, Scope.of(["a", "b"]))
    assert start.id is not None
    assert len(start.id) == len(made_run_id())
    assert start.id.startswith("20260921-")


def test_groups_beyond_one_scope_become_several_scans(ask: Ask, sent: FakeQueues) -> None:
    names = [f"{number:04}{'n' * 996}" for number in range(150)]
    assert ask(json.dumps({"groups": names})) == (202, {"sync": "images", "queued": names})
    assert [group for start in sent.starts for group in start.scope.groups or ()] == names
    assert len(sent.starts) == 2
    assert len({start.id for start in sent.starts}) == 2


@pytest.mark.parametrize(("size", "status"), [(LARGEST_SCOPE - 3, 202), (LARGEST_SCOPE - 2, 400)])
def test_a_name_has_a_maximum_size(ask: Ask, sent: FakeQueues, size: int, status: int) -> None:
    assert ask(json.dumps({"groups": ["n" * size]}))[0] == status
    assert len(sent.starts) == (status == 202)


def test_a_disabled_sync_queues_no_scan(ask: Ask, sent: FakeQueues) -> None:
    status, answer = ask('{"groups": ["a"]}', rawPath=f"/hooks/off/{SECRET}")
    assert (status, answer) == (202, {"sync": "off", "queued": [], "why": "the sync is not enabled"})
    assert sent.starts == []


@pytest.mark.parametrize("name", ["unknown", "closed"])
def test_unknown_hooks_are_refused_like_a_wrong_secret(ask: Ask, name: str) -> None:
    assert ask('{"groups": ["a"]}', rawPath=f"/hooks/{name}/{SECRET}") == ask("{}", rawPath="/hooks/images/another")
    assert ask('{"groups": ["a"]}', rawPath=f"/hooks/{name}/{SECRET}")[0] == 401


def test_an_internal_failure_is_not_described(ask: Ask) -> None:
    answer = ask('{"groups": ["a"]}', rawPath=f"/hooks/broken/{SECRET}")
    assert answer == (503, {"error": "not accepted now; send it again"})


class TestAuthentication:
    path = "/hooks/images"
    body = '{"groups": ["a"]}'

    def signed(self, secret: str = SECRET) -> str:
        return f"sha256={hmac.new(secret.encode(), self.body.encode(), hashlib.sha256).hexdigest()}"

    @pytest.mark.parametrize("name", ["x-hub-signature-256", "X-Hub-Signature-256"])
    def test_a_signature_with_the_secret_is_accepted(self, ask: Ask, name: str) -> None:
        assert ask(self.body, rawPath=self.path, headers={name: self.signed()})[0] == 202
        assert ask(self.body, rawPath=self.path, headers={name: self.signed("another")})[0] == 401

    @pytest.mark.parametrize(
        ("given", "status"),
        [
            (f"Bearer {SECRET}", 202),
            (f"bearer {SECRET}", 202),
            (f"Basic: {SECRET}", 401),
            (f"Bearer  {SECRET}", 401),
            ("Bearer another", 401),
            ("", 401),
        ],
    )
    def test_the_secret_as_a_bearer_token_is_accepted(self, ask: Ask, given: str, status: int) -> None:
        assert ask(self.body, rawPath=self.path, headers={"Authorization": given})[0] == status

    def test_an_invalid_signature_is_refused_even_with_the_secret(self, ask: Ask) -> None:
        assert ask(self.body, headers={"x-hub-signature-256": self.signed("another")})[0] == 401
        headers = {"x-hub-signature-256": self.signed("another"), "authorization": f"Bearer {SECRET}"}
        assert ask(self.body, rawPath=self.path, headers=headers)[0] == 401

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            (f"/hooks/images/{SECRET}/", 202),
            (f"hooks/images/{SECRET}", 202),
            ("/hooks/images/another", 401),
            ("/hooks/images/", 401),
            ("/hooks", 404),
            (f"/hook/images/{SECRET}", 404),
            (f"/hooks/images/{SECRET}/more", 404),
        ],
    )
    def test_the_secret_in_the_path_is_accepted(self, ask: Ask, path: str, status: int) -> None:
        assert ask(self.body, rawPath=path)[0] == status

    @pytest.mark.parametrize(("path", "status"), [(f"/hooks/images/{SECRET}", 405), ("/hooks/images", 401)])
    def test_another_method_is_refused_after_authentication(self, ask: Ask, path: str, status: int) -> None:
        assert ask(self.body, rawPath=path, requestContext={"http": {"method": "GET"}})[0] == status
