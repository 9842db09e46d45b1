"""Refused credentials are sent once for any number of items, because repetitions could lock the account."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from syncline.clients.file_manager.client import FileManager
from syncline.clients.github.auth import AppTokens
from syncline.clients.github.client import GitHub
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.listings import ignore
from syncline.clients.http.rejections import LIFE, REJECTIONS, Rejections
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.clients.registry.quay import Quay
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.errors import SynclineError
from tests.rig.server import Reply, Request, ScriptedServer, errors_reply, json_reply
from tests.standins.made_up import Naps

ITEMS = 30
DIGEST = "sha256:" + "a" * 64
GOOD = "the-good-secret"
BAD = "the-bad-secret"


@dataclass
class Secret:
    """A secret: its cached value, and the value in its store."""

    known: str = BAD
    kept: str = BAD

    def renewed(self) -> str:
        self.known = self.kept
        return self.known


@dataclass
class System:
    """A server that accepts only the good credentials, and a request of its client for one of many items."""

    server: ScriptedServer
    secret: Secret
    ask: Callable[[int], object]
    with_credentials: Callable[[Request], bool]

    def tries(self) -> int:
        """Return the number of requests with credentials."""
        return sum(map(self.with_credentials, self.server.requests))

    def failures(self, threads: int = 8) -> list[SynclineError]:
        def ask(number: int) -> SynclineError | None:
            try:
                self.ask(number)
            except SynclineError as error:
                return error
            return None

        with ThreadPoolExecutor(threads) as pool:
            return [error for error in pool.map(ask, range(ITEMS)) if error is not None]


def authorized(request: Request) -> bool:
    return "authorization" in request.headers


def guard(good: str, found: Reply, refused: Reply) -> Callable[[Request], Reply]:
    """Return an answer to requests: ``found`` if their headers contain ``good``, else ``refused``."""
    return lambda request: found if good in str(request.headers) else refused


def basic_registry(server: ScriptedServer, http: Http, secret: Secret) -> System:
    def credentials_of(word: str) -> RegistryCredentials:
        return RegistryCredentials("ann", word)

    found = Reply(200, headers={"Docker-Content-Digest": DIGEST})
    challenge = errors_reply(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="here"')
    server.reply_to = guard(credentials_of(GOOD).basic, found, challenge)  # type: ignore[method-assign, assignment]
    registry = Registry(
        Endpoint.parse(server.url),
        lambda: credentials_of(secret.known),
        http,
        renewed=lambda: credentials_of(secret.renewed()),
    )
    return System(server, secret, lambda n: registry.manifest_digest(f"org/app-{n}", "v1"), authorized)


def token_server(server: ScriptedServer, http: Http, secret: Secret) -> System:
    def credentials_of(word: str) -> RegistryCredentials:
        return RegistryCredentials("ann", word)

    def answer(request: Request) -> Reply:
        if request.path == "/token":
            good = request.headers.get("authorization") == credentials_of(GOOD).basic
            return (
                json_reply({"token": "made-for-ann", "expires_in": 300}) if good else errors_reply(401, "UNAUTHORIZED")
            )
        if request.headers.get("authorization") == "Bearer made-for-ann":
            return Reply(200, headers={"Docker-Content-Digest": DIGEST})
        challenge = f'Bearer realm="{server.url}/token",service="s"'
        return errors_reply(401, "UNAUTHORIZED", WWW_Authenticate=challenge)

    server.reply_to = answer  # type: ignore[method-assign]
    registry = Registry(
        Endpoint.parse(server.url),
        lambda: credentials_of(secret.known),
        http,
        renewed=lambda: credentials_of(secret.renewed()),
    )
    asked = lambda request: request.path == "/token"  # noqa: E731
    return System(server, secret, lambda n: registry.manifest_digest(f"org/app-{n}", "v1"), asked)


def given_token(server: ScriptedServer, http: Http, secret: Secret) -> System:
    def credentials_of(word: str) -> RegistryCredentials:
        return RegistryCredentials(registry_token=word)

    challenge = errors_reply(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{server.url}/token",service="s"')
    found = Reply(200, headers={"Docker-Content-Digest": DIGEST})
    server.reply_to = guard(GOOD, found, challenge)  # type: ignore[method-assign, assignment]
    registry = Registry(
        Endpoint.parse(server.url),
        lambda: credentials_of(secret.known),
        http,
        renewed=lambda: credentials_of(secret.renewed()),
    )
    return System(server, secret, lambda n: registry.manifest_digest(f"org/app-{n}", "v1"), authorized)


def quay(server: ScriptedServer, http: Http, secret: Secret) -> System:
    found = json_reply({"tags": [], "page": 1, "has_additional": False})
    server.reply_to = guard(GOOD, found, json_reply({"error": "invalid"}, 401))  # type: ignore[method-assign, assignment]
    client = Quay(Endpoint.parse(server.url), lambda: secret.known, http, secret.renewed)
    return System(server, secret, lambda n: client.tags(f"org/app-{n}"), authorized)


def gitlab(server: ScriptedServer, http: Http, secret: Secret) -> System:
    server.reply_to = guard(GOOD, json_reply([]), json_reply({"message": "401"}, 401))  # type: ignore[method-assign, assignment]
    client = GitLab(Endpoint.parse(server.url), "g/p", lambda: secret.known, http, renewed=secret.renewed)
    return System(
        server, secret, lambda _: list(client.repositories()), lambda request: "private-token" in request.headers
    )


def github(server: ScriptedServer, http: Http, secret: Secret) -> System:
    found = json_reply({"artifacts": []})
    server.reply_to = guard(GOOD, found, json_reply({"message": "Bad credentials"}, 401))  # type: ignore[method-assign, assignment]
    client = GitHub(Endpoint.parse(server.url), lambda: secret.known, http, renewed=secret.renewed)
    return System(server, secret, lambda n: client.artifacts("o/r", n), authorized)


def private_key() -> str:
    """Return an RSA key in PEM form."""
    key = rsa.generate_private_key(65537, 2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def github_app(server: ScriptedServer, http: Http, secret: Secret) -> System:
    keys = {word: private_key() for word in (GOOD, BAD)}

    def answer(request: Request) -> Reply:
        if request.method == "GET":
            return json_reply({"artifacts": []})
        if secret.known == GOOD:
            return json_reply({"token": "of-the-app", "expires_at": "2099-01-01T00:00:00Z"}, 201)
        return json_reply({"message": "A JSON web token could not be decoded"}, 401)

    server.reply_to = answer  # type: ignore[method-assign]
    endpoint = Endpoint.parse(server.url)
    known, renewed = lambda: keys[secret.known], lambda: keys[secret.renewed()]
    tokens = AppTokens(endpoint, http, "app", known, renewed, "o/r", 7)
    client = GitHub(endpoint, tokens.token, http, renewed=tokens.renewed)
    return System(server, secret, lambda n: client.artifacts("o/r", n), lambda request: request.method == "POST")


def s3(server: ScriptedServer, http: Http, secret: Secret) -> System:
    def answer(request: Request) -> Reply:
        if f"Credential={GOOD}/" in request.headers.get("authorization", ""):
            return Reply(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        return Reply(403, b"<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>")

    server.reply_to = answer  # type: ignore[method-assign]
    bucket = Bucket(
        Endpoint.parse(server.url),
        "bucket",
        lambda: AccessKeys(secret.known, "x"),
        http,
        renewed=lambda: AccessKeys(secret.renewed(), "x"),
    )
    return System(server, secret, lambda n: bucket.page(f"{n}/", on_invalid=ignore), authorized)


def file_manager(server: ScriptedServer, http: Http, secret: Secret) -> System:
    server.reply_to = guard(GOOD, json_reply({}), json_reply({"error": "no"}, 401))  # type: ignore[method-assign, assignment]
    client = FileManager(server.url, lambda: secret.known, http, threading.BoundedSemaphore(8), renewed=secret.renewed)
    return System(server, secret, lambda _: client.check(), authorized)


SYSTEMS = [basic_registry, token_server, given_token, quay, gitlab, github, github_app, s3, file_manager]


@pytest.fixture(params=SYSTEMS, ids=lambda made: made.__name__)
def system(request: pytest.FixtureRequest, server: ScriptedServer, http: Http) -> System:
    made: System = request.param(server, http, Secret())
    return made


def test_all_items_fail_with_the_reason_of_one_request(system: System) -> None:
    failures = system.failures()
    assert len(failures) == ITEMS
    assert system.tries() == 1
    assert {str(error) for error in failures} == {str(failures[0])}
    assert failures[0].code.name == "UNAUTHORIZED"
    assert BAD not in str(failures[0])


def test_a_renewed_secret_is_tried_at_once(system: System) -> None:
    assert len(system.failures()) == ITEMS
    system.secret.kept = GOOD
    assert system.failures() == []


def test_refused_credentials_are_tried_again_after_a_minute(
    system: System, naps: Naps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(REJECTIONS, "_clock", naps.clock)
    system.failures()
    naps.now += LIFE - 1
    system.failures()
    assert system.tries() == 1
    naps.now += 1
    system.failures()
    assert system.tries() == 2


def registry_with_refused_repositories(server: ScriptedServer, http: Http) -> Callable[[str], object]:
    """Return a request to a registry that answers 401 for repositories whose name contains "odd"."""
    challenge = errors_reply(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="here"')
    found = Reply(200, headers={"Docker-Content-Digest": DIGEST})
    server.reply_to = lambda request: challenge if "odd" in request.path or not authorized(request) else found  # type: ignore[method-assign]
    registry = Registry(Endpoint.parse(server.url), lambda: RegistryCredentials("ann", GOOD), http)
    return lambda name: registry.manifest_digest(name, "v1")


def bucket_with_refused_keys(server: ScriptedServer, http: Http) -> Callable[[str], object]:
    """Return a request to a bucket behind a proxy that changes some keys, so that their signatures do not match."""
    refused = Reply(403, b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>")
    good = Reply(200, b"x", {"ETag": '"a"', "Last-Modified": "Sun, 29 Nov 2026 10:00:00 GMT"})
    server.reply_to = lambda request: refused if "odd" in request.path else good  # type: ignore[method-assign]
    bucket = Bucket(Endpoint.parse(server.url), "bucket", lambda: AccessKeys(GOOD, "x"), http)

    def ask(name: str) -> object:
        with bucket.open(name) as stream:
            return stream.head

    return ask


@pytest.mark.parametrize("system", [registry_with_refused_repositories, bucket_with_refused_keys])
def test_an_item_refused_alone_does_not_affect_others(
    server: ScriptedServer, http: Http, system: Callable[[ScriptedServer, Http], Callable[[str], object]]
) -> None:
    ask = system(server, http)
    ask("a")
    for number in range(10):
        with pytest.raises(SynclineError) as caught:
            ask(f"odd{number}")
        assert caught.value.code.name == "UNAUTHORIZED"
        assert f"odd{number}" in caught.value.what, "each item has its own reason"
    ask("b")


class TestRejections:
    def test_accepted_credentials_are_checked_before_a_refusal_is_kept(self, naps: Naps) -> None:
        kept, credentials, answers = Rejections(naps.clock), AccessKeys("access", "secret"), [False, True, True]
        failure = SynclineError("UNAUTHORIZED", "GET answered 401")
        kept.accepted("host", credentials)
        for _ in range(4):
            kept.refused("host", credentials, failure, answers.pop)
            kept.check("host", credentials)
        for _ in range(2):
            kept.refused("host", credentials, failure, answers.pop)
        assert answers == []
        assert kept.is_kept("host", credentials)
        kept.refused("host", AccessKeys("access", "new"), failure, answers.pop)
        assert kept.is_kept("host", AccessKeys("access", "new")), "these credentials were never accepted"

    def test_a_second_refusal_of_accepted_credentials_is_kept(self, naps: Naps) -> None:
        kept, credentials = Rejections(naps.clock), AccessKeys("access", "secret")
        failure = SynclineError("UNAUTHORIZED", "GET answered 401")
        kept.accepted("host", credentials)
        kept.refused("host", credentials, failure)
        kept.check("host", credentials)
        kept.refused("host", credentials, failure)
        with pytest.raises(SynclineError, match="GET answered 401"):
            kept.check("host", credentials)

    def test_identities_differ_by_host_and_by_every_field(self, naps: Naps) -> None:
        kept = Rejections(naps.clock)
        kept.refused("host", AccessKeys("access", "secret"), SynclineError("UNAUTHORIZED", "no"))
        for host, credentials in (
            ("other", AccessKeys("access", "secret")),
            ("host", AccessKeys("access", "new")),
            ("host", None),
        ):
            assert not kept.is_kept(host, credentials)
        assert kept.is_kept("host", AccessKeys("access", "secret"))
        assert "secret" not in repr(vars(kept))
