from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryAuth, RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.errors import SynclineError
from tests.rig.server import Reply, Request, ScriptedServer, errors_reply, json_reply
from tests.standins.made_up import Naps, Person

DIGEST = "sha256:" + "a" * 64
FOUND = Reply(200, headers={"Docker-Content-Digest": DIGEST})
ANN = RegistryCredentials("ann", "s3cret")
BASIC = "Basic " + base64.b64encode(b"ann:s3cret").decode()


def jwt(**claims: Any) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(claims)}.c2ln"


def bearer(realm: str, more: str = "") -> Reply:
    """Return a 401 with the address of a token server."""
    return errors_reply(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{realm}",service="the registry"{more}')


class Tokens:
    """A registry that requires tokens, and its token server, on one scripted server."""

    def __init__(self, server: ScriptedServer, realm: str | None = None) -> None:
        self.server = server
        self.realm = realm or f"{server.url}/token"
        self.good: set[str] = set()
        self.more: dict[str, Any] = {}
        self.made = 0
        server.on("GET", "/token", self.give)
        server.on("HEAD", "/v2/org/app/manifests/v1", self.ask)

    def give(self, _: Request) -> Reply:
        self.made += 1
        token = f"token-{self.made}"
        self.good.add(f"Bearer {token}")
        return json_reply({"token": token, **self.more})

    def ask(self, request: Request) -> Reply:
        return FOUND if request.headers.get("authorization") in self.good else bearer(self.realm)

    @property
    def asked(self) -> list[Request]:
        return self.server.asked("GET", "/token")


def refused(registry: Registry) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        registry.manifest_digest("org/app", "v1")
    assert "s3cret" not in str(caught.value)
    return caught.value


def test_an_open_registry_gets_no_credentials(server: ScriptedServer, registry: Registry, person: Person) -> None:
    person.credentials = ANN
    server.on("HEAD", "/v2/org/app/manifests/v1", FOUND)
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert "authorization" not in server.requests[0].headers
    assert person.asked == 0


def test_basic_credentials_are_sent_after_a_challenge(
    server: ScriptedServer, registry: Registry, person: Person
) -> None:
    person.credentials = ANN
    challenge = errors_reply(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="here"')
    server.on(
        "HEAD", "/v2/org/app/manifests/v1", lambda r: FOUND if r.headers.get("authorization") == BASIC else challenge
    )
    for _ in range(3):
        assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert len(server.requests) == 4, "only the first request is sent without credentials"


def test_a_renewed_basic_password_is_used(server: ScriptedServer, registry: Registry, person: Person) -> None:
    challenge = errors_reply(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="here"')
    good = ANN
    server.on(
        "HEAD",
        "/v2/org/app/manifests/v1",
        lambda r: FOUND if r.headers.get("authorization") == good.basic else challenge,
    )
    person.credentials = ANN
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    good = person.credentials = RegistryCredentials("ann", "another s3cret")
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    good = RegistryCredentials("ann", "not ours")
    error = refused(registry)
    assert error.code.name == "UNAUTHORIZED"
    assert "as ann" in error.what


def test_a_basic_challenge_without_credentials_is_an_error(server: ScriptedServer, registry: Registry) -> None:
    server.on("HEAD", "/v2/org/app/manifests/v1", Reply(401, headers={"WWW-Authenticate": "Basic"}))
    error = refused(registry)
    assert error.code.name == "UNAUTHORIZED"
    assert "without credentials" in error.what
    assert len(server.requests) == 1


@pytest.mark.parametrize("offered", [None, "Negotiate", 'Digest realm="x"', ",,"])
def test_an_unsupported_challenge_is_an_error(server: ScriptedServer, registry: Registry, offered: str | None) -> None:
    headers = {} if offered is None else {"WWW-Authenticate": offered}
    server.on("HEAD", "/v2/org/app/manifests/v1", Reply(401, headers=headers))
    assert refused(registry).code.name == "UNAUTHORIZED"


def test_a_token_is_fetched_once_and_used(server: ScriptedServer, registry: Registry, person: Person) -> None:
    person.credentials = ANN
    tokens = Tokens(server)
    for _ in range(3):
        assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert len(tokens.asked) == 1
    query = parse_qs(urlsplit(tokens.asked[0].target).query)
    assert query == {"service": ["the registry"], "scope": ["repository:org/app:pull"], "account": ["ann"]}
    assert tokens.asked[0].headers["authorization"] == BASIC
    assert all(r.headers.get("authorization") != BASIC for r in server.requests if r.path != "/token")


def test_an_anonymous_token_is_fetched_without_credentials(server: ScriptedServer, registry: Registry) -> None:
    tokens = Tokens(server)
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert "authorization" not in tokens.asked[0].headers
    assert "account" not in tokens.asked[0].target


def test_the_query_of_a_realm_is_kept(server: ScriptedServer, registry: Registry) -> None:
    tokens = Tokens(server, f"{server.url}/token?tenant=a%26b")
    tokens.server.on(
        "HEAD",
        "/v2/org/app/manifests/v1",
        Reply(401, headers={"WWW-Authenticate": f"Bearer realm={tokens.realm}"}),
        FOUND,
    )
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert parse_qs(urlsplit(tokens.asked[0].target).query) == {"tenant": ["a&b"], "scope": ["repository:org/app:pull"]}


def test_the_scope_of_the_challenge_is_requested_too(server: ScriptedServer, registry: Registry) -> None:
    tokens = Tokens(server)
    answer = bearer(tokens.realm, ',scope="repository:other:pull repository:org/app:pull"')
    server.on("HEAD", "/v2/org/app/manifests/v1", answer, FOUND)
    registry.manifest_digest("org/app", "v1")
    scopes = parse_qs(urlsplit(tokens.asked[0].target).query)["scope"]
    assert scopes == ["repository:org/app:pull", "repository:other:pull"]


def test_a_push_token_is_used_for_a_pull(server: ScriptedServer, registry: Registry) -> None:
    tokens = Tokens(server)
    server.on("POST", "/v2/org/app/blobs/uploads/", lambda r: _upload_or(r, tokens))
    registry.begin_upload("org/app")
    registry.manifest_digest("org/app", "v1")
    assert [parse_qs(urlsplit(r.target).query)["scope"] for r in tokens.asked] == [["repository:org/app:pull,push"]]


def test_an_expired_push_token_is_replaced_for_a_pull(server: ScriptedServer, registry: Registry) -> None:
    tokens = Tokens(server)
    server.on("POST", "/v2/org/app/blobs/uploads/", lambda r: _upload_or(r, tokens))
    registry.begin_upload("org/app")
    tokens.good.clear()
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert len(tokens.asked) == 2


def _upload_or(request: Request, tokens: Tokens) -> Reply:
    if request.headers.get("authorization") in tokens.good:
        return Reply(202, headers={"Location": "/upload"})
    return bearer(tokens.realm)


def test_a_refused_token_is_replaced(server: ScriptedServer, registry: Registry) -> None:
    tokens = Tokens(server)
    registry.manifest_digest("org/app", "v1")
    tokens.good.clear()
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert len(tokens.asked) == 2


@pytest.mark.parametrize(
    ("more", "life"),
    [
        ({"expires_in": 300}, 280.0),
        ({"expires_in": 40}, 30.0),
        ({}, 45.0),
        ({"expires_in": None}, 45.0),
        ({"expires_in": 0}, 45.0),
        ({"token": jwt(exp=5000, iat=4000)}, 980.0),
        ({"token": jwt(exp=5000, nbf=4900)}, 80.0),
        ({"token": jwt(exp="soon")}, 45.0),
        ({"token": "a.b.c"}, 45.0),
        ({"token": "a.WzFd.c"}, 45.0),
        ({"token": None, "access_token": jwt(exp=5000, iat=4000), "expires_in": 100}, 80.0),
    ],
)
def test_a_token_is_renewed_shortly_before_its_end(
    server: ScriptedServer, http: Http, more: dict[str, Any], life: float
) -> None:
    naps = Naps()
    auth = RegistryAuth(Endpoint.parse(server.url), lambda: None, http, clock=naps.clock)
    server.on("GET", "/token", json_reply({"token": "plain", **more}))
    server.on("GET", "/", bearer(f"{server.url}/token"))
    assert auth.header(("s",)) is None
    assert auth.renew(http.request("GET", server.url), None, ("s",))
    auth.header(("s",))
    naps.now += life - 0.1
    auth.header(("s",))
    assert len(server.asked("GET", "/token")) == 1
    naps.now += 0.2
    auth.header(("s",))
    assert len(server.asked("GET", "/token")) == 2


def test_the_end_of_a_jwt_without_a_start_is_compared_with_the_clock(
    server: ScriptedServer, registry: Registry
) -> None:
    tokens = Tokens(server)
    tokens.more = {"token": jwt(exp=time.time() - 10)}
    server.on("HEAD", "/v2/org/app/manifests/v1", bearer(tokens.realm), FOUND)
    registry.manifest_digest("org/app", "v1")
    registry.manifest_digest("org/app", "v1")
    assert len(tokens.asked) == 2, "an expired token is not cached"


@pytest.mark.parametrize(
    "answer",
    [json_reply({}), json_reply([]), json_reply({"token": 1}), json_reply({"token": "a\nb"}), Reply(200, b"<html>")],
)
def test_an_invalid_response_of_the_token_server_is_an_error(
    server: ScriptedServer, registry: Registry, answer: Reply
) -> None:
    Tokens(server)
    server.on("GET", "/token", answer)
    assert refused(registry).code.name == "BAD_ANSWER"


@pytest.mark.parametrize(("status", "code"), [(401, "UNAUTHORIZED"), (403, "FORBIDDEN"), (400, "REFUSED")])
def test_a_refusal_of_the_token_server_has_a_code(
    server: ScriptedServer, registry: Registry, person: Person, status: int, code: str
) -> None:
    person.credentials = ANN
    Tokens(server)
    server.on("GET", "/token", json_reply({"details": "wrong password"}, status))
    error = refused(registry)
    assert error.code.name == code
    assert "no token for" in error.what
    assert "wrong password" in error.what


def test_an_insufficient_scope_is_forbidden(server: ScriptedServer, registry: Registry) -> None:
    tokens = Tokens(server)
    server.on(
        "HEAD", "/v2/org/app/manifests/v1", bearer(tokens.realm), bearer(tokens.realm, ',error="insufficient_scope"')
    )
    error = refused(registry)
    assert error.code.name == "FORBIDDEN"
    assert "repository:org/app:pull" in error.what
    assert len(tokens.asked) == 1


def test_a_token_that_is_always_refused_is_unauthorized(server: ScriptedServer, registry: Registry) -> None:
    tokens = Tokens(server)
    server.on("HEAD", "/v2/org/app/manifests/v1", bearer(tokens.realm))
    assert refused(registry).code.name == "UNAUTHORIZED"
    assert len(server.asked("HEAD", "/v2/org/app/manifests/v1")) == 3, "without a token, and with two tokens"


def test_a_realm_on_another_host_gets_no_credentials(
    server: ScriptedServer, other_server: ScriptedServer, registry: Registry, person: Person
) -> None:
    """CVE-2026-48978: an altered response of the registry could send the password to any host."""
    person.credentials = ANN
    Tokens(server, f"{other_server.url}/token")
    error = refused(registry)
    assert error.code.name == "UNAUTHORIZED"
    assert other_server.host in error.what
    assert "auth_realms" in error.what
    person.credentials = RegistryCredentials(identity_token="s3cret")
    assert refused(registry).code.name == "UNAUTHORIZED"
    assert other_server.requests == []


def test_a_listed_realm_on_another_host_gets_credentials(
    server: ScriptedServer, other_server: ScriptedServer, person: Person, http: Http
) -> None:
    person.credentials = ANN
    tokens = Tokens(server, f"{other_server.url}/token")
    other_server.on("GET", "/token", tokens.give)
    registry = Registry(Endpoint.parse(server.url, auth_realms=("localhost",)), person, http)
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert other_server.requests[0].headers["authorization"] == BASIC


def test_without_credentials_any_realm_is_used(
    server: ScriptedServer, other_server: ScriptedServer, registry: Registry
) -> None:
    tokens = Tokens(server, f"{other_server.url}/token")
    other_server.on("GET", "/token", tokens.give)
    assert registry.manifest_digest("org/app", "v1") == DIGEST


@pytest.mark.parametrize(
    ("realm", "code"),
    [
        ("", "UNAUTHORIZED"),
        ("/token", "UNAUTHORIZED"),
        ("file:///etc/passwd", "UNAUTHORIZED"),
        ("http://169.254.169.254/latest/", "ADDRESS_REFUSED"),
    ],
)
def test_an_invalid_realm_is_refused(server: ScriptedServer, registry: Registry, realm: str, code: str) -> None:
    tokens = Tokens(server)
    tokens.realm = realm
    assert refused(registry).code.name == code


def test_an_identity_token_is_exchanged(server: ScriptedServer, registry: Registry, person: Person) -> None:
    person.credentials = RegistryCredentials(identity_token="s3cret refresh")
    tokens = Tokens(server)
    server.on("POST", "/token", tokens.give)
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    (request,) = server.asked("POST", "/token")
    assert parse_qs(request.body.decode()) == {
        "service": ["the registry"],
        "client_id": ["syncline"],
        "grant_type": ["refresh_token"],
        "scope": ["repository:org/app:pull"],
        "refresh_token": ["s3cret refresh"],
    }
    assert "s3cret" not in request.target


def test_a_given_token_is_sent_unchanged(server: ScriptedServer, registry: Registry, person: Person) -> None:
    person.credentials = RegistryCredentials(registry_token="mine")
    tokens = Tokens(server)
    tokens.good.add("Bearer mine")
    assert registry.manifest_digest("org/app", "v1") == DIGEST
    assert tokens.asked == []


def test_threads_share_one_token_request(server: ScriptedServer, registry: Registry) -> None:
    tokens = Tokens(server)
    server.on("GET", "/token", lambda _: Reply(200, b'{"token": "one"}', delay=0.05))
    tokens.good.add("Bearer one")
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda _: registry.manifest_digest("org/app", "v1"), range(64)))
    assert set(found) == {DIGEST}
    assert len(tokens.asked) == 1


def test_secrets_are_not_in_reprs() -> None:
    credentials = RegistryCredentials("ann", "s3cret", "s3cret", "s3cret")
    assert "s3cret" not in repr(credentials)
