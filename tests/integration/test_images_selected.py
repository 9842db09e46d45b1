"""Smaller indexes, images without a tag and renamed repositories, to and from Debian's docker-registry."""

from __future__ import annotations

import json
from typing import Any, Final

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.config.sync import load_sync
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.kind import Images
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.signatures import NO_RULES
from syncline.kinds.kind import Completed, Failure, StepContext
from syncline.model import EVERYTHING, Item
from tests.standins.oci_store import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor, digest_of
from tests.standins.pairs import USERS, RegistryPair
from tests.standins.registry import Registry as Server

TIME: Final = StepContext(lambda: 60.0)
NOW: Final = 1_790_000_000.0  # 2026-09-21


def kind(pair: RegistryPair, **more: Any) -> Images:
    ends = {
        "source": {"registry": pair.prod.host, "plain_http": True, **more.pop("source")},
        "target": {"registry": pair.dr.host, "plain_http": True, **more.pop("target", {})},
    }
    sync = load_sync(json.dumps({"name": "s", "kind": "images", **ends, **more}))
    assert isinstance(sync, ImagesSync)
    http, facts = Http(), ProcessFacts()
    ann = RegistryCredentials("ann", USERS["ann"])

    def clients(server: Server) -> RegistryClients:
        return RegistryClients(Registry(Endpoint("http", server.host), lambda: ann, http), None)

    notes, locations = TargetNotes(facts, pair.dr.host), BlobLocations(facts)
    return Images(sync, clients(pair.prod), clients(pair.dr), http, locations, notes, NO_RULES, clock=lambda: NOW)


def differing(images: Images) -> list[Item]:
    pages = list(images.discover(EVERYTHING, None, TIME))
    assert not [failure for page in pages for failure in page.failures]
    return [item for page in pages for item in page.items]


def copy(images: Images) -> dict[str, str]:
    """Discover, transfer and verify; return the note or the reason of failure of each item."""
    notes: dict[str, str] = {}
    for item in differing(images):
        (answer,) = images.transfer([item], TIME)
        assert isinstance(answer, Completed | Failure), answer
        if isinstance(answer, Completed):
            (verified,) = images.verify([answer.item], TIME)
            assert isinstance(verified, Completed), verified
            notes[item.name] = verified.note
        else:
            notes[item.name] = str(answer.error)
    return notes


def push(server: Server, name: str, tag: str, created: str = "2026-09-01T00:00:00Z") -> dict[str, Any]:
    """Push an image by its digest, and return its descriptor."""
    config, layer = json.dumps({"os": "linux", "created": created}).encode(), f"layer of {tag}".encode()
    for blob in (config, layer):
        server.push_blob(name, blob)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": [descriptor(OCI_LAYER, layer)],
    }
    body = json.dumps(manifest).encode()
    server.push_manifest(name, digest_of(body), body)
    return descriptor(OCI_MANIFEST, body)


def push_index(server: Server, name: str, tag: str, *architectures: str) -> str:
    entries = [
        {**push(server, name, each), "platform": {"os": "linux", "architecture": each}} for each in architectures
    ]
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, indent=2).encode()
    server.push_manifest(name, tag, body, OCI_INDEX)
    return digest_of(body)


def read(server: Server, name: str, reference: str) -> dict[str, Any]:
    accept = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}
    found = server.authorized("GET", f"/v2/{name}/manifests/{reference}", headers=accept)
    value: dict[str, Any] = json.loads(found.body)
    return value


def test_a_smaller_index_is_accepted_and_found_equal(registry_pair: RegistryPair, namespace: str) -> None:
    name = f"{namespace}/app"
    index = push_index(registry_pair.prod, name, "all", "amd64", "arm64", "s390x")
    images = kind(registry_pair, source={"repositories": [name]}, select={"platforms": ["linux/amd64", "linux/s390x"]})
    assert index in copy(images)["all"]
    copied = read(registry_pair.dr, name, "all")["manifests"]
    assert [each["platform"]["architecture"] for each in copied] == ["amd64", "s390x"]
    assert differing(images) == []
    without_memory = kind(
        registry_pair, source={"repositories": [name]}, select={"platforms": ["linux/amd64", "linux/s390x"]}
    )
    assert differing(without_memory) == []


def test_a_sparse_index_is_refused_by_docker_registry(registry_pair: RegistryPair, namespace: str) -> None:
    name = f"{namespace}/app"
    push_index(registry_pair.prod, name, "all", "amd64", "arm64")
    images = kind(registry_pair, source={"repositories": [name]}, select={"platforms": ["linux/amd64"], "sparse": True})
    note = copy(images)["all"]
    assert note.startswith("INDEX_INCOMPLETE: the target accepts no index with absent images")


def test_an_image_without_a_tag_is_copied(registry_pair: RegistryPair, namespace: str) -> None:
    name = f"{namespace}/app"
    digest = push(registry_pair.prod, name, "untagged")["digest"]
    images = kind(registry_pair, source={"repositories": [name], "digests": [f"{name}@{digest}"]})
    assert copy(images) == {digest: ""}
    assert read(registry_pair.dr, name, digest)["mediaType"] == OCI_MANIFEST
    assert differing(images) == []


def test_young_images_wait_and_repositories_are_renamed(registry_pair: RegistryPair, namespace: str) -> None:
    name = f"{namespace}/team-a/app"
    for tag, created in (("old", "2026-08-01T10:00:00.123456789Z"), ("young", "2026-09-20T10:00:00+02:00")):
        entry = push(registry_pair.prod, name, tag, created)
        body = json.dumps(read(registry_pair.prod, name, entry["digest"])).encode()
        registry_pair.prod.push_manifest(name, tag, body)
    rules = [{"from": f"{namespace}/team-(.*)/(.*)", "to": f"{namespace}/dr/\\1/\\2"}]
    source = {"catalog": True}
    only = {"include": [f"{namespace}/**"]}
    images = kind(registry_pair, source=source, rename=rules, select={"repositories": only, "older_than": "7d"})
    assert copy(images) == {"old": ""}
    assert read(registry_pair.dr, f"{namespace}/dr/a/app", "old")["mediaType"] == OCI_MANIFEST
    (result,) = (result for page in images.discover(EVERYTHING, None, TIME) for result in page.results)
    assert (result.group, result.name) == (f"{namespace}/dr/a/app", "young")
    assert "is copied when it is 7d old" in str(result.reason)
