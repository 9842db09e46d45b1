"""The client against Debian's docker-registry, with passwords, tokens and TLS."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from syncline.clients.http.addresses import Endpoint, Route
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from tests.standins.pairs import TOKEN_USERS, USERS, RegistryPair, TokenRegistryPair
from tests.standins.programs import needs
from tests.standins.registry import Registry as Server

LAYER = os.urandom(300_000)
DIGEST = digest_of(LAYER)
SECRET = "-never-in-an-error-"


def client(server: Server, user: str | None = "ann", *, page_size: int = 100) -> Registry:
    passwords = {**USERS, **{name: user.password for name, user in TOKEN_USERS.items()}}
    credentials = None if user is None else RegistryCredentials(user, passwords.get(user, SECRET))
    endpoint = Endpoint.parse(server.url, route=Route(server.ca))
    return Registry(endpoint, lambda: credentials, Http(RetryPolicy(attempts=3, base=0.02)), page_size)


def refusal(call: Any, *arguments: Any) -> SynclineError:
    def complete() -> None:
        answer = call(*arguments)
        if isinstance(answer, Iterator):
            list(answer)

    with pytest.raises(SynclineError) as caught:
        complete()
    assert SECRET not in str(caught.value)
    return caught.value


def pieces(data: bytes, size: int = 65_536) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def stored(server: Server, repository: str, digest: str) -> bytes:
    return server.authorized("GET", f"/v2/{repository}/blobs/{digest}").body


class TestReading:
    def test_all_repositories_and_tags_over_many_pages(self, registry_pair: RegistryPair, namespace: str) -> None:
        names = [f"{namespace}/app{number}" for number in range(5)]
        for name in names:
            registry_pair.prod.push_image(name, "v1")
        prod = client(registry_pair.prod, page_size=2)
        assert [name for name in prod.catalog() if name.startswith(namespace)] == names
        registry_pair.prod.push_image(names[0], "v2")
        assert sorted(prod.tags(names[0])) == ["v1", "v2"]
        assert list(prod.tags(f"{namespace}/none")) == []

    def test_a_manifest_by_tag_and_by_digest(self, registry_pair: RegistryPair, namespace: str) -> None:
        digest = registry_pair.prod.push_image(f"{namespace}/app", "v1", [LAYER])
        prod = client(registry_pair.prod)
        manifest = prod.manifest(f"{namespace}/app", "v1")
        assert (manifest.digest, manifest.media_type) == (digest, OCI_MANIFEST)
        assert prod.manifest(f"{namespace}/app", digest) == manifest
        assert prod.manifest_digest(f"{namespace}/app", "v1") == digest
        assert prod.manifest_digest(f"{namespace}/app", digest) == digest
        assert prod.manifest_digest(f"{namespace}/app", "v2") is None
        assert refusal(prod.manifest, f"{namespace}/app", "v2").code.name == "NOT_FOUND"
        assert manifest.blobs()[1].digest == DIGEST

    def test_a_blob_from_any_offset(self, registry_pair: RegistryPair, namespace: str) -> None:
        repository = f"{namespace}/app"
        registry_pair.prod.push_blob(repository, LAYER)
        prod = client(registry_pair.prod)
        for offset in (0, 1, 299_999, 300_000):
            with prod.open_blob(repository, DIGEST, offset) as stream:
                assert stream.size == len(LAYER)
                assert b"".join(stream) == LAYER[offset:]
        assert prod.has_blob(repository, DIGEST)
        assert not prod.has_blob(repository, digest_of(b"none"))
        assert refusal(prod.open_blob, repository, digest_of(b"none")).code.name == "NOT_FOUND"


class TestWriting:
    def test_a_blob_is_uploaded_in_one_put(self, registry_pair: RegistryPair, namespace: str) -> None:
        dr = client(registry_pair.dr)
        dr.begin_upload(f"{namespace}/a").put(DIGEST, LAYER, len(LAYER))
        dr.begin_upload(f"{namespace}/b").put(DIGEST, pieces(LAYER), len(LAYER))
        for name in "ab":
            assert stored(registry_pair.dr, f"{namespace}/{name}", DIGEST) == LAYER

    def test_an_upload_is_continued_by_other_processes(self, registry_pair: RegistryPair, namespace: str) -> None:
        repository = f"{namespace}/app"
        upload = client(registry_pair.dr).begin_upload(repository)
        for end in (1, 100_000, 100_000, 200_000, 300_000):
            state = json.loads(json.dumps(upload.state()))
            upload = client(registry_pair.dr).resume_upload(repository, state)
            assert upload.write(pieces(LAYER[upload.offset : end]), len(LAYER)) == end
        assert upload.status() == len(LAYER)
        upload.finish(DIGEST)
        assert stored(registry_pair.dr, repository, DIGEST) == LAYER

    def test_a_broken_stream_loses_the_upload(self, registry_pair: RegistryPair, namespace: str) -> None:
        """docker-registry discards an upload when it notices the broken connection; a new one succeeds."""
        dr = client(registry_pair.dr)
        upload = dr.begin_upload(f"{namespace}/app")
        upload.write([LAYER[:1000]])

        def broken() -> Iterator[bytes]:
            yield LAYER[1000:200_000]
            raise SynclineError("UNREACHABLE", "the source broke off")

        assert refusal(upload.write, broken()).what == "the source broke off"
        assert upload.offset == 1000
        error = refusal(upload.finish, DIGEST)
        assert error.code.name in ("UPLOAD_LOST", "DIGEST_MISMATCH")
        assert error.retried
        dr.begin_upload(f"{namespace}/app").put(DIGEST, LAYER, len(LAYER))

    def test_bytes_with_another_digest_are_refused(self, registry_pair: RegistryPair, namespace: str) -> None:
        repository = f"{namespace}/app"
        dr = client(registry_pair.dr)
        wrong = LAYER[:-1] + b"?"
        assert refusal(dr.begin_upload(repository).put, DIGEST, wrong, len(wrong)).code.name == "DIGEST_MISMATCH"
        assert (
            refusal(dr.begin_upload(repository).put, DIGEST, pieces(wrong), len(wrong)).code.name == "DIGEST_MISMATCH"
        )
        upload = dr.begin_upload(repository)
        upload.write(pieces(wrong))
        assert refusal(upload.finish, DIGEST).code.name == "DIGEST_MISMATCH"
        assert not dr.has_blob(repository, DIGEST)

    def test_a_cancelled_upload(self, registry_pair: RegistryPair, namespace: str) -> None:
        upload = client(registry_pair.dr).begin_upload(f"{namespace}/app")
        upload.write([b"x"])
        upload.cancel()
        upload.cancel()
        assert refusal(upload.status).code.name == "UPLOAD_LOST"
        assert refusal(upload.finish, DIGEST).code.name == "UPLOAD_LOST"

    def test_a_blob_is_mounted(self, registry_pair: RegistryPair, namespace: str) -> None:
        registry_pair.dr.push_blob(f"{namespace}/from", LAYER)
        dr = client(registry_pair.dr)
        assert dr.mount_blob(f"{namespace}/to", DIGEST, f"{namespace}/from")
        assert stored(registry_pair.dr, f"{namespace}/to", DIGEST) == LAYER
        assert not dr.mount_blob(f"{namespace}/to", digest_of(b"none"), f"{namespace}/from")
        assert not dr.mount_blob(f"{namespace}/to", digest_of(b"none"), f"{namespace}/none")

    def test_blobs_images_and_an_index_are_put_in_this_order(self, registry_pair: RegistryPair, namespace: str) -> None:
        repository = f"{namespace}/app"
        prod, dr = client(registry_pair.prod), client(registry_pair.dr)
        registry_pair.prod.push_image(repository, "v1", [LAYER])
        image = prod.manifest(repository, "v1")
        entry = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(image.body)}
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}, indent=1).encode()
        index = Manifest(digest_of(body), OCI_INDEX, body)

        for too_early, reference in ((index, "all"), (image, image.digest)):
            error = refusal(dr.put_manifest, repository, reference, too_early)
            assert error.code.name == "REFUSED"
            assert "MANIFEST_BLOB_UNKNOWN" in error.what
        for blob in image.blobs():
            with prod.open_blob(repository, blob.digest) as stream:
                dr.begin_upload(repository).put(blob.digest, stream, blob.size)
        dr.put_manifest(repository, image.digest, image)
        dr.put_manifest(repository, "all", index)
        assert dr.manifest(repository, "all") == index
        assert [child.digest for child in index.children()] == [image.digest]
        assert dr.manifest(repository, image.digest) == image
        assert (
            registry_pair.dr.authorized("GET", f"/v2/{repository}/manifests/all", headers={"Accept": OCI_INDEX}).body
            == body
        )

    def test_a_manifest_is_retried_while_its_layer_is_mounted_again(
        self, registry_pair: RegistryPair, namespace: str
    ) -> None:
        """docker-registry refuses a manifest with 400 for a moment while one of its layers is mounted again."""
        repository = f"{namespace}/app"
        registry_pair.dr.push_blob(f"{namespace}/from", LAYER)
        registry_pair.dr.push_image(repository, "v0", [LAYER])
        dr = client(registry_pair.dr)
        first = dr.manifest(repository, "v0")
        over = threading.Event()

        def mount() -> None:
            while not over.is_set():
                dr.mount_blob(repository, DIGEST, f"{namespace}/from")

        mounting = threading.Thread(target=mount)
        mounting.start()
        try:
            for number in range(60):
                body = json.dumps({**json.loads(first.body), "annotations": {"number": str(number)}}).encode()
                dr.put_manifest(repository, f"v{number}", Manifest(digest_of(body), OCI_MANIFEST, body))
        finally:
            over.set()
            mounting.join()
        assert len(list(dr.tags(repository))) == 60

    def test_many_threads_with_one_client(self, registry_pair: RegistryPair, namespace: str) -> None:
        dr = client(registry_pair.dr)
        blobs = [os.urandom(10_000) for _ in range(64)]

        def copy(data: bytes) -> bool:
            repository, digest = f"{namespace}/app{data[0] % 4}", digest_of(data)
            dr.begin_upload(repository).put(digest, data, len(data))
            with dr.open_blob(repository, digest) as stream:
                return b"".join(stream) == data

        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(copy, blobs))


class TestPasswords:
    @pytest.mark.parametrize("user", [None, "eve"])
    def test_wrong_or_no_credentials(self, registry_pair: RegistryPair, namespace: str, user: str | None) -> None:
        dr = client(registry_pair.dr, user)
        for call in (dr.tags, dr.begin_upload):
            assert refusal(call, f"{namespace}/app").code.name == "UNAUTHORIZED"


class TestTokens:
    def test_only_permitted_users_write(self, token_registry_pair: TokenRegistryPair, namespace: str) -> None:
        repository = f"{namespace}/app"
        writer, reader = (client(token_registry_pair.dr, name) for name in ("writer", "reader"))
        writer.begin_upload(repository).put(DIGEST, LAYER, len(LAYER))
        assert reader.has_blob(repository, DIGEST)
        assert refusal(reader.begin_upload, repository).code.name == "FORBIDDEN"
        assert refusal(client(token_registry_pair.dr, "nobody").has_blob, repository, DIGEST).code.name == "FORBIDDEN"
        assert refusal(client(token_registry_pair.dr, "eve").tags, repository).code.name == "UNAUTHORIZED"
        assert refusal(client(token_registry_pair.dr, None).tags, repository).code.name == "FORBIDDEN"

    def test_each_repository_needs_a_token(self, token_registry_pair: TokenRegistryPair, namespace: str) -> None:
        writer = client(token_registry_pair.dr, "writer")
        for number in range(3):
            upload = writer.begin_upload(f"{namespace}/app{number}")
            upload.put(DIGEST, LAYER, len(LAYER))
            assert writer.has_blob(f"{namespace}/app{number}", DIGEST)
        scopes = [request.scopes for request in token_registry_pair.dr_tokens.requests]
        assert scopes == [(f"repository:{namespace}/app{number}:pull,push",) for number in range(3)]

    def test_a_mount_needs_both_repositories(self, token_registry_pair: TokenRegistryPair, namespace: str) -> None:
        writer = client(token_registry_pair.dr, "writer")
        writer.begin_upload(f"{namespace}/from").put(DIGEST, LAYER, len(LAYER))
        assert writer.mount_blob(f"{namespace}/to", DIGEST, f"{namespace}/from")
        token_registry_pair.dr_tokens.users["writer"] = replace(
            TOKEN_USERS["writer"], rights={f"{namespace}/from": "", "*": "pull,push"}
        )
        assert not client(token_registry_pair.dr, "writer").mount_blob(
            f"{namespace}/other", DIGEST, f"{namespace}/from"
        )

    @pytest.mark.parametrize("field", ["access_token", "both"])
    def test_both_fields_of_token_servers_are_read(
        self, token_registry_pair: TokenRegistryPair, namespace: str, field: Any
    ) -> None:
        token_registry_pair.dr_tokens.field = field
        token_registry_pair.dr_tokens.say_expires_in = False
        writer = client(token_registry_pair.dr, "writer")
        for _ in range(3):
            assert list(writer.tags(f"{namespace}/app")) == []
        assert len(token_registry_pair.dr_tokens.requests) == 1

    def test_a_token_that_expires_within_a_layer_is_renewed(
        self, token_registry_pair: TokenRegistryPair, namespace: str
    ) -> None:
        repository = f"{namespace}/app"
        tokens = token_registry_pair.dr_tokens
        writer = client(token_registry_pair.dr, "writer")
        upload = writer.begin_upload(repository)
        upload.write(pieces(LAYER[:100_000]))
        for end in (200_000, 300_000):
            self._expire_tokens(writer, tokens, repository)
            assert upload.write(pieces(LAYER[upload.offset : end])) == end
        self._expire_tokens(writer, tokens, repository)
        upload.finish(DIGEST)
        assert len(tokens.requests) == 4
        assert stored(token_registry_pair.dr, repository, DIGEST) == LAYER

    @staticmethod
    def _expire_tokens(registry: Registry, tokens: Any, repository: str) -> None:
        """Replace the stored tokens by ones that the registry treats as expired."""
        access = [{"type": "repository", "name": repository, "actions": ["pull", "push"]}]
        ended = f"Bearer {tokens.sign('writer', access, exp=1, nbf=0, iat=0)}"
        auth = registry._transport._auth
        auth._tokens = {scopes: replace(token, header=ended) for scopes, token in auth._tokens.items()}

    def test_the_catalog_needs_a_permission(self, token_registry_pair: TokenRegistryPair, namespace: str) -> None:
        client(token_registry_pair.dr, "writer").begin_upload(f"{namespace}/a").put(DIGEST, LAYER, len(LAYER))
        assert list(client(token_registry_pair.dr, "reader").catalog())
        error = refusal(lambda: list(client(token_registry_pair.dr, "nobody").catalog()))
        assert error.code.name == "REFUSED"
        assert "name them in syncs.yaml" in error.what


class TestTls:
    def test_a_trusted_authority_is_accepted(self, tls_registry: Server, namespace: str) -> None:
        registry = client(tls_registry, None)
        registry.begin_upload(f"{namespace}/app").put(DIGEST, pieces(LAYER), len(LAYER))
        upload = registry.begin_upload(f"{namespace}/other")
        upload.write(pieces(LAYER))
        upload.finish(DIGEST)
        with registry.open_blob(f"{namespace}/other", DIGEST) as stream:
            assert b"".join(stream) == LAYER

    def test_an_unknown_authority_is_refused(self, tls_registry: Server) -> None:
        registry = Registry(Endpoint.parse(tls_registry.url), lambda: None, Http(RetryPolicy(attempts=1)))
        assert refusal(registry.tags, "org/app").code.name == "TLS_FAILED"


def test_relative_locations_of_a_registry_are_followed() -> None:
    needs("docker-registry")
    with Server(relative_urls=True) as server:
        registry = client(server, None)
        upload = registry.begin_upload("org/app")
        upload.write(pieces(LAYER[:100_000]))
        upload.write(pieces(LAYER[100_000:]))
        upload.finish(DIGEST)
        assert stored(server, "org/app", DIGEST) == LAYER
