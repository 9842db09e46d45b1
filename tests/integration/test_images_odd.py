"""Unusual indexes and damaged blobs, to and from Debian's docker-registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import DOCKER_MANIFEST
from syncline.config.sync import load_sync
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.kind import Images
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.signatures import Trust
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import EVERYTHING, Item, Result
from tests.standins.oci import OciRegistry
from tests.standins.oci_store import OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Stored, descriptor, digest_of
from tests.standins.pairs import USERS, RegistryPair
from tests.standins.registry import Htpasswd
from tests.standins.registry import Registry as Server

DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
TIME: Final = StepContext(lambda: 60.0)


@pytest.fixture
def lenient() -> Iterator[OciRegistry]:
    """Yield a registry that accepts sparse indexes."""
    with OciRegistry() as registry:
        registry.store.takes_all = True
        yield registry


@pytest.fixture
def fragile() -> Iterator[Server]:
    """Yield a separate docker-registry. It notices changes of its files after a restart."""
    with Server(auth=Htpasswd(USERS)) as server:
        yield server


def restart(server: Server) -> None:
    server.halt()
    server.start()


def side(server: Server | OciRegistry, http: Http) -> RegistryClients:
    ann = RegistryCredentials("ann", USERS["ann"]) if isinstance(server, Server) else None
    return RegistryClients(Registry(Endpoint("http", server.host), lambda: ann, http), None)


class Sync:
    """A sync of one repository between two registries."""

    def __init__(self, source: Server | OciRegistry, target: Server | OciRegistry, repository: str) -> None:
        ends = {
            "source": {"registry": source.host, "plain_http": True, "repositories": [repository]},
            "target": {"registry": target.host, "plain_http": True},
        }
        sync = load_sync(json.dumps({"name": "s", "kind": "images", **ends}))
        assert isinstance(sync, ImagesSync)
        http, memory = Http(RetryPolicy(attempts=2, base=0.02)), ProcessFacts()
        notes = TargetNotes(memory, target.host)
        there, here = side(source, http), side(target, http)
        self.kind = Images(sync, there, here, http, locations=BlobLocations(memory), notes=notes, trust=Trust((), str))

    def discover(self) -> list[Item]:
        pages = list(self.kind.discover(EVERYTHING, None, TIME))
        assert not [each for page in pages for each in (*page.failures, *page.results)]
        return [item for page in pages for item in page.items]

    def transfer(self, item: Item) -> Completed | Unfinished | Result | Failure:
        (answer,) = self.kind.transfer([item], TIME)
        return answer

    def verify(self, item: Item) -> Completed | Unfinished | Failure:
        (answer,) = self.kind.verify([item], TIME)
        return answer

    def copy(self) -> dict[str, str]:
        """Discover, transfer and verify; return the note or the error code of each tag."""
        found: dict[str, str] = {}
        for item in self.discover():
            answer = self.transfer(item)
            if isinstance(answer, Completed):
                answer = self.verify(answer.item)
            assert isinstance(answer, Completed | Failure)
            found[item.name] = answer.note if isinstance(answer, Completed) else answer.error.code.name
        return found


def stored_blob(server: Server, digest: str) -> Path:
    """Return the file in which a docker-registry stores a blob for all repositories."""
    algorithm, _, encoded = digest.partition(":")
    return next(server.folder.rglob(f"blobs/{algorithm}/{encoded[:2]}/{encoded}/data"))


def raw(server: Server, repository: str, reference: str) -> bytes:
    accept = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}
    return server.authorized("GET", f"/v2/{repository}/manifests/{reference}", headers=accept).body


def test_a_cache_of_buildkit_is_moved_byte_for_byte(registry_pair: RegistryPair, namespace: str) -> None:
    name, prod, dr = f"{namespace}/cache", registry_pair.prod, registry_pair.dr
    layers = [b"a layer", b"another layer"]
    for blob in (*layers, b'{"layers": []}'):
        prod.push_blob(name, blob)
    entries = [descriptor(OCI_LAYER, layer) for layer in layers]
    entries.append(descriptor("application/vnd.buildkit.cacheconfig.v0", b'{"layers": []}'))
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    prod.push_manifest(name, "cache", index, OCI_INDEX)
    sync = Sync(prod, dr, name)
    assert sync.copy() == {"cache": ""}
    assert raw(dr, name, "cache") == index
    assert sync.discover() == []


def test_a_sparse_index_that_docker_registry_refuses_is_named_as_the_cause(
    lenient: OciRegistry, registry_pair: RegistryPair, namespace: str
) -> None:
    name, dr = f"{namespace}/sparse", registry_pair.dr
    store = lenient.store
    store.add_image(name, "whole", b"an image")
    entries = []
    for architecture in ("amd64", "arm64"):
        digest = store.add_image(name, None, architecture.encode())
        body = store.repositories[name].manifests[digest].body
        entries.append(descriptor(OCI_MANIFEST, body, platform={"os": "linux", "architecture": architecture}))
    del store.repositories[name].manifests[entries[1]["digest"]]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    store.repositories[name].manifests[digest_of(index)] = Stored(OCI_INDEX, index)
    store.repositories[name].tags["sparse"] = digest_of(index)
    assert Sync(lenient, dr, name).copy() == {"sparse": "INDEX_INCOMPLETE", "whole": ""}


def test_a_foreign_layer_that_docker_registry_forbids_is_named_as_the_cause(
    lenient: OciRegistry, registry_pair: RegistryPair, namespace: str
) -> None:
    """By default, docker-registry refuses a layer with `urls`, with status 500."""
    name, store = f"{namespace}/windows", lenient.store
    store.add_image(name, "linux", b"a layer")
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    foreign = {**descriptor(kind, b"a layer of Windows"), "urls": ["https://files.example.com/layer"]}
    value = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": descriptor(DOCKER_CONFIG, b"{}")}
    body = json.dumps({**value, "layers": [foreign]}).encode()
    store.repositories[name].blobs[digest_of(b"{}")] = b"{}"
    store.repositories[name].manifests[digest_of(body)] = Stored(DOCKER_MANIFEST, body)
    store.repositories[name].tags["windows"] = digest_of(body)
    copied = Sync(lenient, registry_pair.dr, name).copy()
    assert copied == {"linux": "", "windows": "FOREIGN_LAYERS_REFUSED"}


def test_a_layer_that_docker_registry_lost_is_sent_again_for_an_equal_tag(
    registry_pair: RegistryPair, fragile: Server, namespace: str
) -> None:
    name, prod, dr = f"{namespace}/lost", registry_pair.prod, fragile
    layer = f"a layer of {namespace}".encode()
    prod.push_image(name, "1.0", [layer])
    sync = Sync(prod, dr, name)
    (item,) = sync.discover()
    sync.transfer(item)
    stored_blob(dr, digest_of(layer)).unlink()
    restart(dr)
    arrived = sync.verify(Item(name, "1.0", digest_of(raw(prod, name, "1.0"))))
    assert isinstance(arrived, Failure)
    assert arrived.error.code.name == "NOT_ARRIVED"
    assert sync.copy() == {"1.0": ""}, "the next scan did not check the parts of the image"
    assert stored_blob(dr, digest_of(layer)).read_bytes() == layer


def test_a_blob_that_docker_registry_keeps_truncated_is_named_and_nothing_is_tagged(
    registry_pair: RegistryPair, fragile: Server, namespace: str
) -> None:
    name, prod, dr = f"{namespace}/cut", registry_pair.prod, fragile
    layer = f"a layer of {namespace}, to be cut".encode()
    prod.push_image(name, "1.0", [layer])
    dr.push_image(name, "other", [layer, b"another layer"])
    stored_blob(dr, digest_of(layer)).write_bytes(layer[:10])
    restart(dr)
    assert Sync(prod, dr, name).copy() == {"1.0": "BLOB_DAMAGED"}
    with pytest.raises(AssertionError, match="MANIFEST_UNKNOWN"):
        raw(dr, name, "1.0")
