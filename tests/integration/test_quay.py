"""Quay's API in front of a real registry, and checks of the servers that the tests use."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.quay import Quay, QuayTag
from syncline.errors import SynclineError
from tests.rig.server import Reply, Request, Server, reply
from tests.standins.pairs import TOKEN_USERS, USERS, RegistryPair, TokenRegistryPair
from tests.standins.programs import needs
from tests.standins.quay import TOKEN, QuayServer
from tests.standins.quay_process import QuayProcess
from tests.standins.registry import OCI_MANIFEST, Htpasswd, Registry, basic
from tests.standins.token_server import TokenServer

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ACCEPT = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}
Skopeo = Callable[..., bytes]
ANN = f"ann:{USERS['ann']}"


def client(url: str) -> Quay:
    return Quay(Endpoint.parse(url), lambda: TOKEN, Http())


def until(condition: Callable[[], Any], limit: float = 10.0) -> None:
    """Wait until a condition holds, at most ``limit`` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.01)


def push_index(registry: Registry, repository: str, tag: str) -> str:
    manifests = []
    for platform in ("amd64", "arm64"):
        digest = registry.push_image(repository, f"{tag}-{platform}", [platform.encode()])
        body = registry.authorized("GET", f"/v2/{repository}/manifests/{digest}", headers=ACCEPT).body
        manifests.append({"mediaType": json.loads(body)["mediaType"], "digest": digest, "size": len(body)})
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode()
    return registry.push_manifest(repository, tag, index, OCI_INDEX)


class TestQuayInFrontOfARegistry:
    def test_it_lists_the_content_of_the_registry(
        self, registry_pair: RegistryPair, quay_before: Callable[[Registry], QuayServer], namespace: str
    ) -> None:
        image = registry_pair.prod.push_image(f"{namespace}/app", "v1", [b"one", b"three"])
        index = push_index(registry_pair.prod, f"{namespace}/nested/app", "v1")
        quay = client(quay_before(registry_pair.prod).url)
        assert {r.name for r in quay.repositories(namespace)} == {f"{namespace}/app", f"{namespace}/nested/app"}
        assert quay.tags(f"{namespace}/app") == {"v1": QuayTag(image, 8, is_list=False)}
        assert quay.tags(f"{namespace}/nested/app")["v1"] == QuayTag(index, None, is_list=True)

    def test_refresh_finds_moved_and_removed_tags(
        self, registry_pair: RegistryPair, quay_before: Callable[[Registry], QuayServer], namespace: str
    ) -> None:
        repository = f"{namespace}/app"
        gone = registry_pair.prod.push_image(repository, "v1", [b"old"])
        registry_pair.prod.push_image(repository, "v2", [b"other"])
        server = quay_before(registry_pair.prod)
        moved = registry_pair.prod.push_image(repository, "v2", [b"new"])
        registry_pair.prod.authorized("DELETE", f"/v2/{repository}/manifests/{gone}")
        server.refresh()
        assert client(server.url).tags(repository) == {"v2": QuayTag(moved, 3, is_list=False)}

    def test_a_tag_is_deleted_by_name_and_no_other_tag_of_its_digest(
        self, registry_pair: RegistryPair, quay_before: Callable[[Registry], QuayServer], namespace: str
    ) -> None:
        repository = f"{namespace}/app"
        registry_pair.prod.push_image(repository, "v1", [b"same"])
        registry_pair.prod.push_image(repository, "v2", [b"same"])
        server = quay_before(registry_pair.prod)
        quay = client(server.url)
        quay.delete_tag(repository, "v1")
        assert list(quay.tags(repository)) == ["v2"]
        quay.delete_tag(repository, "v1")  # it is deleted already
        server.without_write.add(TOKEN)
        with pytest.raises(SynclineError) as refused:
            quay.delete_tag(repository, "v2")
        assert refused.value.code.name == "FORBIDDEN"
        assert list(quay.tags(repository)) == ["v2"]

    def test_it_runs_as_a_process(self, registry_pair: RegistryPair, namespace: str) -> None:
        digest = registry_pair.prod.push_image(f"{namespace}/app", "v1")
        with QuayProcess(registry_pair.prod.url, user=ANN) as server:
            assert client(server.url).tags(f"{namespace}/app")["v1"].digest == digest
            assert server.counts(reset=True) == {"tags": 1}
            registry_pair.prod.push_image(f"{namespace}/app", "v2")
            assert server.refresh() >= 2
            assert client(server.url).tags(f"{namespace}/app").keys() == {"v1", "v2"}
            assert server.counts() == {"tags": 1}

    def test_pushes_are_applied_and_forwarded_at_once(self, namespace: str) -> None:
        needs("docker-registry")
        received: list[dict[str, Any]] = []

        def take(request: Request) -> Reply:
            received.append(json.loads(request.read()))
            return reply(200, b"{}")

        receiver = Server(take)
        receiver.start()
        repository = f"{namespace}/app"
        hook = f"http://127.0.0.1:{receiver.port}/hook?secret=in-the-path"
        with QuayServer(webhook=hook) as server, Registry(notify=server.events_url) as registry:
            digest = registry.push_image(repository, "v1", [b"12345"])
            until(lambda: received and server.deliveries)
            assert client(server.url).tags(repository) == {"v1": QuayTag(digest, 5, is_list=False)}
            registry.authorized("DELETE", f"/v2/{repository}/manifests/{digest}")
            until(lambda: client(server.url).tags(repository) == {})
        receiver.stop()
        assert server.deliveries == [(repository, ("v1",), 200)]
        assert received == [
            {
                "repository": repository,
                "namespace": namespace,
                "name": "app",
                "docker_url": f"{server.host}/{repository}",
                "homepage": f"http://{server.host}/repository/{repository}",
                "updated_tags": ["v1"],
            }
        ]


class TestQuayIsStrict:
    """Requests that the stand-in refuses like Quay. The tests of the client cover valid requests."""

    @pytest.fixture
    def ask(self, quay: QuayServer) -> Iterator[Callable[..., tuple[int, Any]]]:
        connection = http.client.HTTPConnection(quay.host, timeout=10)

        def ask(path: str, authorization: str = f"Bearer {TOKEN}", **query: str) -> tuple[int, Any]:
            headers = {"Authorization": authorization} if authorization else {}
            connection.request("GET", f"/api/v1/{path}?{urlencode(query)}", headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

        yield ask
        connection.close()

    def test_an_error_has_quays_fields(self, quay: QuayServer, ask: Callable[..., tuple[int, Any]]) -> None:
        assert ask("repository") == (
            400,
            {
                "detail": "namespace, starred or public are required for this API call",
                "error_message": "namespace, starred or public are required for this API call",
                "error_type": "invalid_request",
                "title": "invalid_request",
                "type": f"{quay.url}/api/v1/error/invalid_request",
                "status": 400,
            },
        )

    @pytest.mark.parametrize(
        ("path", "query", "status"),
        [
            ("repository/", {"namespace": "org"}, 404),
            ("repository/org/app/tag", {}, 404),
            ("repository/org/absent/tag/", {}, 404),
            ("repository/org/app/tag/", {"limit": "many"}, 400),
            ("repository/org/app/tag/", {"page": "last"}, 400),
            ("organization/org", {}, 404),
        ],
    )
    def test_refusals(
        self,
        quay: QuayServer,
        ask: Callable[..., tuple[int, Any]],
        path: str,
        query: dict[str, str],
        status: int,
    ) -> None:
        quay.put("org/app", {"v1": "sha256:" + "0" * 64})
        assert ask(path, **query)[0] == status

    @pytest.mark.parametrize("authorization", ["", basic("org+robot", "password"), "Bearer robot", "Bearer"])
    def test_robots_are_anonymous(
        self, quay: QuayServer, ask: Callable[..., tuple[int, Any]], authorization: str
    ) -> None:
        quay.put("org/app", {"v1": "sha256:" + "0" * 64})
        assert ask("repository", authorization, namespace="org") == (200, {"repositories": []})
        assert ask("repository", authorization, starred="true")[0] == 400
        status, error = ask("repository/org/app/tag/", authorization)
        assert (status, error["error_type"]) == (401, "invalid_token")

    def test_a_page_has_at_most_100_tags_and_50_unless_asked(
        self, quay: QuayServer, ask: Callable[..., tuple[int, Any]]
    ) -> None:
        quay.put("org/app", {f"v{n}": f"sha256:{n:064x}" for n in range(120)})
        sizes = [len(ask("repository/org/app/tag/", **query)[1]["tags"]) for query in ({}, {"limit": "1000"})]
        assert sizes == [50, 100]
        assert len(ask("repository/org/app/tag/", limit="100", page="2")[1]["tags"]) == 20
        assert ask("repository/org/app/tag/", limit="100", page="3")[1] == {
            "tags": [],
            "page": 3,
            "has_additional": False,
        }

    def test_history_is_listed_unless_only_active_tags_are_requested(
        self, quay: QuayServer, ask: Callable[..., tuple[int, Any]]
    ) -> None:
        quay.put("org/app", {"v1": "sha256:" + "0" * 64})
        quay.put("org/app", {"v1": "sha256:" + "1" * 64})
        _, answer = ask("repository/org/app/tag/")
        assert [(t["name"], "end_ts" in t) for t in answer["tags"]] == [("v1", False), ("v1", True)]
        _, answer = ask("repository/org/app/tag/", onlyActiveTags="true", specificTag="v1")
        assert [t["manifest_digest"] for t in answer["tags"]] == ["sha256:" + "1" * 64]


class TestRegistries:
    def test_htpasswd_refuses_wrong_passwords(self, registry_pair: RegistryPair) -> None:
        def status(authorization: str) -> int:
            return registry_pair.prod.request("GET", "/v2/", headers={"Authorization": authorization}).status

        assert registry_pair.prod.request("GET", "/v2/").status == 401
        assert [status(basic(name, password)) for name, password in USERS.items()] == [200, 200]
        assert [status(basic("ann", "wrong")), status(basic("eve", "wrong")), status("Basic ###")] == [401, 401, 401]

    def test_skopeo_with_a_password(self, registry_pair: RegistryPair, namespace: str, skopeo: Skopeo) -> None:
        registry_pair.prod.push_image(f"{namespace}/app", "v1")
        place = f"docker://{registry_pair.prod.host}/{namespace}/app:v1"
        raw = skopeo("inspect", "--raw", "--tls-verify=false", "--creds", ANN, place)
        assert raw == registry_pair.prod.authorized("GET", f"/v2/{namespace}/app/manifests/v1", headers=ACCEPT).body
        with pytest.raises(subprocess.CalledProcessError):
            skopeo("inspect", "--raw", "--tls-verify=false", "--creds", "ann:wrong", place)

    def test_tls_with_an_unknown_authority_is_refused(
        self, tls_registry: Registry, namespace: str, skopeo: Skopeo
    ) -> None:
        tls_registry.push_image(f"{namespace}/app", "v1")
        place = f"docker://{tls_registry.host}/{namespace}/app:v1"
        (tls_registry.folder / "trusted").mkdir(exist_ok=True)
        (tls_registry.folder / "trusted" / "ca.crt").write_text(str(tls_registry.ca))
        assert skopeo("inspect", "--raw", "--cert-dir", str(tls_registry.folder / "trusted"), place)
        with pytest.raises(subprocess.CalledProcessError) as error:
            skopeo("inspect", "--raw", place)
        assert b"unknown authority" in error.value.stderr

    def test_a_registry_keeps_port_and_data_over_a_halt(self, namespace: str) -> None:
        needs("docker-registry")
        with Registry(auth=Htpasswd(USERS), relative_urls=True) as registry:
            registry.push_image(f"{namespace}/app", "v1")
            host, folder = registry.host, registry.folder
            registry.halt()
            with pytest.raises(ConnectionRefusedError):
                registry.request("GET", "/v2/")
            assert registry.start().host == host
            tags = registry.authorized("GET", f"/v2/{namespace}/app/tags/list").body
            assert json.loads(tags)["tags"] == ["v1"]
        assert not folder.exists()


class TestTokens:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"aud": "another registry"},
            {"iss": "another issuer"},
            {"exp": 1_000_000_000},
            {"nbf": 4_000_000_000},
            {"sub": "reader", "access": []},
        ],
    )
    def test_the_registry_refuses_a_wrong_token(
        self, token_registry_pair: TokenRegistryPair, namespace: str, wrong: dict[str, Any]
    ) -> None:
        registry, tokens = token_registry_pair.prod, token_registry_pair.prod_tokens
        registry.push_image(f"{namespace}/app", "v1")
        access = [{"type": "repository", "name": f"{namespace}/app", "actions": ["pull"]}]

        def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return registry.request("GET", f"/v2/{namespace}/app/tags/list", headers=headers).status

        assert status(tokens.sign("reader", access)) == 200
        claims = {"access": access, **wrong}
        assert status(tokens.sign("reader", claims.pop("access"), **claims)) == 401

    def test_the_registry_refuses_foreign_and_broken_tokens(
        self, token_registry_pair: TokenRegistryPair, namespace: str
    ) -> None:
        registry, tokens = token_registry_pair.prod, token_registry_pair.prod_tokens
        registry.push_image(f"{namespace}/app", "v1")
        access = [{"type": "repository", "name": f"{namespace}/app", "actions": ["pull"]}]
        good = tokens.sign("reader", access)
        foreign = TokenServer(TOKEN_USERS, service=tokens.service).sign("reader", access)
        header, claims, signature = good.split(".")
        for token in (foreign, f"{header}.{claims}.{signature[::-1]}", f"{header}.{claims}.", "x", ""):
            answer = registry.request(
                "GET", f"/v2/{namespace}/app/tags/list", headers={"Authorization": f"Bearer {token}"}
            )
            assert answer.status == 401
            assert answer.headers["Www-Authenticate"].startswith(f'Bearer realm="{tokens.realm}"')

    def test_a_token_expires_exactly_with_exact_expiry(
        self, token_registry_pair: TokenRegistryPair, namespace: str
    ) -> None:
        registry, tokens = token_registry_pair.prod, token_registry_pair.prod_tokens
        registry.push_image(f"{namespace}/app", "v1")
        tokens.exact_expiry = True
        for lifetime, status in ((60, 200), (-1, 401)):
            tokens.lifetime = lifetime
            headers = {"Authorization": tokens.authorization(f"repository:{namespace}/app:pull")}
            assert registry.request("GET", f"/v2/{namespace}/app/tags/list", headers=headers).status == status

    @pytest.mark.parametrize("field", ["token", "access_token"])
    def test_skopeo_gets_a_token(
        self, token_registry_pair: TokenRegistryPair, namespace: str, skopeo: Skopeo, field: Any
    ) -> None:
        registry, tokens = token_registry_pair.prod, token_registry_pair.prod_tokens
        registry.push_image(f"{namespace}/app", "v1")
        tokens.field, tokens.say_expires_in = field, False
        place = f"docker://{registry.host}/{namespace}/app:v1"
        assert skopeo("inspect", "--tls-verify=false", "--creds", f"reader:{TOKEN_USERS['reader'].password}", place)
        assert {(r.account, r.status) for r in tokens.requests} == {("reader", 200)}
        for name, password in (("nobody", TOKEN_USERS["nobody"].password), ("reader", "wrong")):
            with pytest.raises(subprocess.CalledProcessError):
                skopeo("inspect", "--tls-verify=false", "--creds", f"{name}:{password}", place)

    def test_skopeo_copies_only_with_permission(
        self, token_registry_pair: TokenRegistryPair, namespace: str, skopeo: Skopeo
    ) -> None:
        pair = token_registry_pair
        digest = pair.prod.push_image(f"{namespace}/app", "v1")
        places = [f"docker://{registry.host}/{namespace}/app:v1" for registry in (pair.prod, pair.dr)]
        reader, writer = (f"{name}:{TOKEN_USERS[name].password}" for name in ("reader", "writer"))
        plain = ("--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests")
        copy = ("copy", *plain, "--src-creds", reader, "--dest-creds")
        with pytest.raises(subprocess.CalledProcessError):
            skopeo(*copy, reader, *places)
        skopeo(*copy, writer, *places)
        answer = pair.dr.authorized("HEAD", f"/v2/{namespace}/app/manifests/v1", headers=ACCEPT)
        assert answer.headers["Docker-Content-Digest"] == digest

    @pytest.mark.parametrize(
        ("query", "authorization", "status"),
        [
            ({"service": "prod"}, "", 200),
            ({"service": "prod", "scope": "repository:a/b:pull registry:catalog:*"}, "", 200),
            ({"service": "prod", "scope": "repository(plugin):127.0.0.1:5000/a/b:pull,push"}, "", 200),
            ({}, "", 400),
            ({"service": "dr"}, "", 400),
            ({"service": "prod", "scope": "a/b:pull"}, "", 400),
            ({"service": "prod", "scope": "repository:a/b:"}, "", 400),
            ({"service": "prod"}, basic("reader", "wrong"), 401),
            ({"service": "prod"}, basic("eve", ""), 401),
            ({"service": "prod"}, "Bearer token", 401),
            ({"service": "prod", "account": "writer"}, basic("reader", TOKEN_USERS["reader"].password), 401),
            ({"service": "prod", "account": "reader"}, basic("reader", TOKEN_USERS["reader"].password), 200),
        ],
    )
    def test_the_token_server_is_strict(
        self, token_registry_pair: TokenRegistryPair, query: dict[str, str], authorization: str, status: int
    ) -> None:
        host = token_registry_pair.prod_tokens.realm.removeprefix("http://").removesuffix("/token")
        connection = http.client.HTTPConnection(host, timeout=10)
        headers = {"Authorization": authorization} if authorization else {}
        connection.request("GET", f"/token?{urlencode(query)}", headers=headers)
        response = connection.getresponse()
        body = json.loads(response.read())
        connection.close()
        assert response.status == status
        assert (body.keys() == {"token", "issued_at", "expires_in"}) == (status == 200)
