"""Changed credentials: after a refusal, they are fetched again without a restart."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.secrets import redact
from tests.rig.server import Reply, Request, ScriptedServer, errors_reply, json_reply

DIGEST = "sha256:" + "a" * 64
FOUND = Reply(200, headers={"Docker-Content-Digest": DIGEST})
OLD = RegistryCredentials("ann", "the old password")
NEW = RegistryCredentials("ann", "the new password")


def basic(credentials: RegistryCredentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


@pytest.fixture
def registry_with(server: ScriptedServer, http: Http) -> Callable[[RegistryCredentials, RegistryCredentials], Registry]:
    def make(first: RegistryCredentials, second: RegistryCredentials) -> Registry:
        return Registry(Endpoint.parse(server.url), lambda: first, http, renewed=lambda: second)

    return make


def guard(server: ScriptedServer, good: str, challenge: str) -> None:
    """Serve a manifest only to requests with the authorization ``good``."""
    challenged = errors_reply(401, "UNAUTHORIZED", WWW_Authenticate=challenge)

    def answer(request: Request) -> Reply:
        return FOUND if request.headers.get("authorization") == good else challenged

    server.on("HEAD", "/v2/org/app/manifests/v1", answer)


def test_a_changed_password_of_the_registry_is_used(
    server: ScriptedServer, registry_with: Callable[[RegistryCredentials, RegistryCredentials], Registry]
) -> None:
    guard(server, basic(NEW), 'Basic realm="here"')
    assert registry_with(OLD, NEW).manifest_digest("org/app", "v1") == DIGEST
    assert len(server.requests) == 3, "without credentials, then with the old and the new ones"


def test_a_changed_password_of_the_token_server_is_used(
    server: ScriptedServer, registry_with: Callable[[RegistryCredentials, RegistryCredentials], Registry]
) -> None:
    def give(request: Request) -> Reply:
        return json_reply({"token": "good-token"}) if request.headers.get("authorization") == basic(NEW) else Reply(401)

    server.on("GET", "/token", give)
    guard(server, "Bearer good-token", f'Bearer realm="{server.url}/token",service="s"')
    assert registry_with(OLD, NEW).manifest_digest("org/app", "v1") == DIGEST
    assert redact("the log says good-token") == "the log says ***", "tokens are redacted"


def test_a_changed_token_is_used(
    server: ScriptedServer, registry_with: Callable[[RegistryCredentials, RegistryCredentials], Registry]
) -> None:
    guard(server, "Bearer new-token", f'Bearer realm="{server.url}/token",service="s"')
    registry = registry_with(
        RegistryCredentials(registry_token="old-token"), RegistryCredentials(registry_token="new-token")
    )
    assert registry.manifest_digest("org/app", "v1") == DIGEST
