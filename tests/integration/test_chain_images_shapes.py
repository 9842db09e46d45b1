"""Manifests other than plain images: indexes of blobs, indexes with absent children, and unknown types."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from syncline.model import Outcome, Result
from tests.rig.images import ImagesChain, ImagesWorld
from tests.standins.oci_store import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Repository,
    Stored,
    descriptor,
    digest_of,
)

APP: Final = "team/app"
CACHE_CONFIG: Final = "application/vnd.buildkit.cacheconfig.v0"
ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    chain = registries.chain()
    chain.configure()
    chain.source.store.takes_all = chain.target.store.takes_all = True
    return chain


def put(chain: ImagesChain, tag: str | None, media_type: str, manifest: dict[str, Any], *blobs: bytes) -> str:
    """Put a manifest of any form, with its blobs, directly into the source and return its digest."""
    repository = chain.source.store.repositories.setdefault(APP, Repository())
    repository.blobs |= {digest_of(blob): blob for blob in blobs}
    body = json.dumps(manifest, indent=1).encode()
    repository.manifests[digest_of(body)] = Stored(media_type, body)
    if tag is not None:
        repository.tags[tag] = digest_of(body)
    return digest_of(body)


def result(chain: ImagesChain, tag: str) -> Result:
    return chain.results(chain.latest())[APP, tag]


def check_copied(chain: ImagesChain, tag: str, *blobs: bytes) -> None:
    """Check that a tag moved byte for byte, with these blobs, and that the next run finds nothing to do."""
    there, here = (side.store.repositories[APP] for side in (chain.source, chain.target))
    assert result(chain, tag).outcome is Outcome.MOVED, result(chain, tag)
    assert here.manifests[here.tags[tag]] == there.manifests[there.tags[tag]]
    for blob in blobs:
        assert here.blobs[digest_of(blob)] == blob
    counts = chain.run().counts
    assert (counts.queued, counts.failed, counts.conflict) == (0, 0, 0)


def cache_index(*blobs: bytes) -> dict[str, Any]:
    """Return an index in the format of BuildKit's registry cache: its entries are layers and one config."""
    *layers, config = blobs
    entries = [descriptor(OCI_LAYER, layer) for layer in layers]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, descriptor(CACHE_CONFIG, config)]}


def test_an_index_whose_entries_are_blobs(chain: ImagesChain) -> None:
    blobs = (b"a layer", b"another layer", b'{"layers": []}')
    put(chain, "cache", OCI_INDEX, cache_index(*blobs), *blobs)
    chain.source.store.add_image(APP, "1.0", b"an image")
    chain.run()
    assert result(chain, "1.0").outcome is Outcome.MOVED
    check_copied(chain, "cache", *blobs)


def test_a_blob_lost_from_an_index_of_blobs_is_detected(chain: ImagesChain) -> None:
    blobs = (b"a layer", b"another layer", b'{"layers": []}')
    put(chain, "cache", OCI_INDEX, cache_index(*blobs), *blobs)
    lost: list[str] = []

    def lose(method: str, target: str) -> None:
        if method == "GET" and target.endswith("/manifests/cache") and not lost:
            lost.append(target)
            del chain.target.store.repositories[APP].blobs[digest_of(b"a layer")]

    chain.target.before = lose
    try:
        chain.run()
    finally:
        chain.target.before = lambda _method, _target: None
    assert lost
    check_copied(chain, "cache", *blobs)


def sparse(chain: ImagesChain) -> tuple[str, list[str]]:
    """Tag an index of three platforms, of which the source has one; return its digest and those of the absent ones."""
    store = chain.source.store
    entries, absent = [], []
    for architecture, variant in (("amd64", None), ("arm", "v7"), ("s390x", None)):
        digest = store.add_image(APP, None, architecture.encode())
        stored = store.repositories[APP].manifests[digest]
        named = {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}
        entries.append(descriptor(OCI_MANIFEST, stored.body, platform=named))
        if architecture != "amd64":
            absent.append(digest)
            del store.repositories[APP].manifests[digest]
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return put(chain, "sparse", OCI_INDEX, value), absent


def test_a_sparse_index_keeps_its_digest_and_its_absent_platforms_are_named(chain: ImagesChain) -> None:
    sparse(chain)
    chain.run()
    reason = result(chain, "sparse").reason or ""
    assert "linux/arm/v7" in reason
    assert "linux/s390x" in reason
    assert "amd64" not in reason
    check_copied(chain, "sparse", b"amd64")


def test_a_child_that_exists_at_the_source_is_not_treated_as_absent(chain: ImagesChain) -> None:
    sparse(chain)
    lost: list[str] = []

    def lose(method: str, target: str) -> None:
        here = chain.target.store.repositories.get(APP)
        if method == "GET" and target.endswith("/manifests/sparse") and here and not lost:
            lost.append(target)
            here.manifests = {digest: each for digest, each in here.manifests.items() if digest in here.tags.values()}

    chain.target.before = lose
    try:
        chain.run()
    finally:
        chain.target.before = lambda _method, _target: None
    assert lost
    assert result(chain, "sparse").outcome is Outcome.MOVED
    assert len(chain.target.store.repositories[APP].manifests) == 2


def test_a_target_that_refuses_a_sparse_index_is_named_as_the_cause(chain: ImagesChain) -> None:
    chain.target.store.takes_all = False
    _, absent = sparse(chain)
    chain.source.store.add_image(APP, "1.0", b"an image")
    before = chain.clock.now
    chain.run()
    found = result(chain, "sparse")
    assert (found.outcome, found.code) == (Outcome.FAILED, "INDEX_INCOMPLETE")
    assert "linux/arm/v7" in (found.reason or "")
    assert result(chain, "1.0").outcome is Outcome.MOVED
    assert chain.clock.now - before < 10, "it was retried"
    assert absent


def test_a_manifest_of_an_unknown_type_is_moved_with_everything_it_references(chain: ImagesChain) -> None:
    store = chain.source.store
    inner = store.add_image(APP, None, b"a layer of the inner image")
    subject = store.add_image(APP, None, b"a layer of the subject")
    manifests = store.repositories[APP].manifests
    value = {
        "mediaType": ARTIFACT,
        "artifactType": "application/vnd.example.model",
        "config": descriptor("application/vnd.example.config", b"a config"),
        "layers": [descriptor("application/vnd.example.layer", b"one layer")],
        "blobs": [descriptor("application/vnd.example.weights", b"weights")],
        "manifests": [descriptor(OCI_MANIFEST, manifests[inner].body)],
        "subject": descriptor(OCI_MANIFEST, manifests[subject].body),
    }
    put(chain, "model", ARTIFACT, value, b"a config", b"one layer", b"weights")
    chain.run()
    here = chain.target.store.repositories[APP].manifests
    assert inner in here
    assert subject in here
    check_copied(
        chain, "model", b"a config", b"one layer", b"weights", b"a layer of the inner image", b"a layer of the subject"
    )


def test_an_unknown_type_below_an_index(chain: ImagesChain) -> None:
    value = {"mediaType": ARTIFACT, "blobs": [descriptor("application/vnd.example.weights", b"weights")]}
    child = put(chain, None, ARTIFACT, value, b"weights")
    stored = chain.source.store.repositories[APP].manifests[child]
    odd = {"mediaType": "application/vnd.example.thing", "blobs": [descriptor("text/plain", b"thing")]}
    thing = put(chain, None, "application/vnd.example.thing", odd, b"thing")
    other = chain.source.store.repositories[APP].manifests[thing]
    entries = [descriptor(each.media_type, each.body) for each in (stored, other)]
    put(chain, "all", OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    chain.run()
    assert chain.target.store.repositories[APP].manifests[child] == stored
    assert chain.target.store.repositories[APP].manifests[thing] == other
    check_copied(chain, "all", b"weights", b"thing")


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "refused"])
def test_a_referrer_of_an_unknown_type_is_moved_if_the_target_accepts_it(chain: ImagesChain, *, taken: bool) -> None:
    chain.target.store.takes_all = taken
    image = chain.source.store.add_image(APP, "1.0", b"an image")
    subject = descriptor(OCI_MANIFEST, chain.source.store.repositories[APP].manifests[image].body)
    blob = descriptor("text/plain", b"a report")
    referrer = put(chain, None, ARTIFACT, {"mediaType": ARTIFACT, "blobs": [blob], "subject": subject}, b"a report")
    chain.run()
    found = result(chain, "1.0")
    assert found.outcome is Outcome.MOVED
    assert (referrer in (found.reason or "")) != taken, "the reason must name exactly a refused referrer"
    assert (referrer in chain.target.store.repositories[APP].manifests) == taken
    for groups in ((), (APP,)):
        chain.run(*groups)
        assert chain.latest().counts.skipped == 1


def test_a_target_that_refuses_an_unknown_type_is_named_as_the_cause(chain: ImagesChain) -> None:
    chain.target.store.takes_all = False
    put(chain, "model", ARTIFACT, {"mediaType": ARTIFACT, "blobs": []})
    chain.run()
    found = result(chain, "model")
    assert (found.outcome, found.code) == (Outcome.FAILED, "MANIFEST_UNSUPPORTED")
    assert ARTIFACT in (found.reason or "")


def test_a_target_that_refuses_foreign_layers_is_named_as_the_cause(chain: ImagesChain) -> None:
    foreign = descriptor(OCI_LAYER, b"a layer of Windows", urls=["https://files.example.com/layer"])
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, b"{}"),
        "layers": [foreign],
    }
    put(chain, "windows", OCI_MANIFEST, value, b"{}")
    chain.run()
    found = result(chain, "windows")
    assert (found.outcome, found.code) == (Outcome.FAILED, "FOREIGN_LAYERS_REFUSED")
    assert foreign["digest"] in (found.reason or "")
