"""Tags that belong to an image: cosign's, and lists of referrers. They may grow, and are moved before the image's tag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import pytest

from syncline.kinds.images import compare
from syncline.model import Outcome, Result
from tests.rig.images import ImagesChain, ImagesWorld
from tests.standins.oci_store import OCI_LAYER, OCI_MANIFEST, Store, descriptor, digest_of

APP: Final = "team/app"
SIGNATURE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
ATTESTATION: Final = "application/vnd.dsse.envelope.v1+json"


@pytest.fixture
def chain(registries: ImagesWorld) -> Iterator[ImagesChain]:
    chain = registries.chain()
    chain.configure()
    yield chain
    chain.target.before = lambda _method, _target: None


def sign(store: Store, image: str, *payloads: bytes, suffix: str = ".sig", kind: str = SIGNATURE) -> str:
    """Put cosign's tag of an image with a layer for each payload and return the tag."""
    tag = image.replace(":", "-") + suffix
    layers = [descriptor(kind, each, annotations={"dev.cosignproject.cosign/signature": "x"}) for each in payloads]
    store.add_image(APP, tag, *payloads, layers=layers)
    return tag


def list_referrers(store: Store, image: str, *contents: bytes) -> str:
    """Put the tag that lists an image's referrers, with a referrer for each of `contents`, and return the tag."""
    subject = descriptor(OCI_MANIFEST, store.repositories[APP].manifests[image].body)
    made = [store.add_image(APP, None, what, subject=subject, artifactType="text/plain") for what in contents]
    tag = image.replace(":", "-")
    store.add_index(APP, tag, *made)
    return tag


def result(chain: ImagesChain, tag: str) -> Result:
    return chain.results(chain.latest())[APP, tag]


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".sig", SIGNATURE), (".att", ATTESTATION), (".sbom", "text/spdx"), (".sig", OCI_LAYER)],
)
def test_a_second_signature_is_moved(chain: ImagesChain, suffix: str, kind: str) -> None:
    image = chain.source.store.add_image(APP, "1.0", b"an image")
    tag = sign(chain.source.store, image, b"signed by ann", suffix=suffix, kind=kind)
    assert chain.run().counts.moved == 2
    sign(chain.source.store, image, b"signed by ann", b"signed by bob", suffix=suffix, kind=kind)
    counts = chain.run().counts
    assert (counts.moved, counts.skipped, counts.conflict) == (1, 1, 0)
    assert chain.target.store.digest(APP, tag) == chain.source.store.digest(APP, tag)
    assert not chain.target.store.broken()


@pytest.mark.parametrize("left", [(), (b"signed by ann",), (b"signed by ann", b"signed by eve")])
def test_a_revoked_signature_remains_and_is_a_conflict(chain: ImagesChain, left: tuple[bytes, ...]) -> None:
    image = chain.source.store.add_image(APP, "1.0", b"an image")
    tag = sign(chain.source.store, image, b"signed by ann", b"signed by bob")
    chain.run()
    signed = chain.target.store.digest(APP, tag)
    sign(chain.source.store, image, *left)
    for _ in range(2):
        chain.run()
        found = result(chain, tag)
        assert (found.outcome, found.code, found.target) == (Outcome.CONFLICT, "TAG_DIFFERS", signed)
        assert chain.target.store.digest(APP, tag) == signed


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_grown_list_of_referrers_is_moved(chain: ImagesChain, algorithm: str) -> None:
    chain.target.store.algorithm = algorithm
    chain.source.lists_referrers = chain.target.lists_referrers = False
    image = chain.source.store.add_image(APP, "1.0", b"an image")
    tag = list_referrers(chain.source.store, image, b"one")
    chain.run()
    list_referrers(chain.source.store, image, b"one", b"two")
    counts = chain.run().counts
    assert (counts.moved, counts.skipped, counts.conflict) == (1, 1, 0)
    assert chain.target.store.digest(APP, tag) == chain.source.store.digest(APP, tag)
    assert not chain.target.store.broken()


def test_a_list_of_referrers_that_shrank_remains_and_is_a_conflict(chain: ImagesChain) -> None:
    chain.source.lists_referrers = chain.target.lists_referrers = False
    image = chain.source.store.add_image(APP, "1.0", b"an image")
    tag = list_referrers(chain.source.store, image, b"one", b"two")
    chain.run()
    listed = chain.target.store.digest(APP, tag)
    list_referrers(chain.source.store, image, b"one")
    for _ in range(2):
        chain.run()
        found = result(chain, tag)
        assert (found.outcome, found.code, found.target) == (Outcome.CONFLICT, "TAG_DIFFERS", listed)
        assert chain.target.store.digest(APP, tag) == listed


@pytest.mark.parametrize("grown", [False, True], ids=["others", "more"])
@pytest.mark.parametrize("suffix", ["", ".sig"])
@pytest.mark.parametrize("shape", ["index", "image"])
def test_an_ordinary_image_under_such_a_tag_is_protected(
    chain: ImagesChain, shape: str, suffix: str, *, grown: bool
) -> None:
    tag = "sha256-" + "5" * 64 + suffix
    parts = {chain.source: (b"a", b"b") if grown else (b"a",), chain.target: (b"a",) if grown else (b"z",)}
    for side, layers in parts.items():
        if shape == "image":
            side.store.add_image(APP, tag, *layers)
        else:
            side.store.add_index(APP, tag, *(side.store.add_image(APP, None, layer) for layer in layers))
    theirs = chain.target.store.digest(APP, tag)
    chain.run()
    found = result(chain, tag)
    assert (found.outcome, found.code) == (Outcome.CONFLICT, "TAG_DIFFERS")
    assert chain.target.store.digest(APP, tag) == theirs
    assert chain.latest().counts.moved == 0


def test_a_referrer_is_not_added_to_an_ordinary_image(chain: ImagesChain) -> None:
    """The target has no referrers API, and an ordinary index under the tag for the list."""
    chain.target.lists_referrers = False
    store = chain.source.store
    image = store.add_image(APP, "1.0", b"an image")
    subject = descriptor(OCI_MANIFEST, store.repositories[APP].manifests[image].body)
    store.add_image(APP, None, b"a signature", subject=subject)
    tag = image.replace(":", "-")
    chain.target.store.add_index(APP, tag, chain.target.store.add_image(APP, None, b"a stranger's"))
    theirs = chain.target.store.digest(APP, tag)
    chain.run()
    assert chain.target.store.digest(APP, tag) == theirs
    found = result(chain, "1.0")
    assert (found.outcome, found.code) == (Outcome.FAILED, "TAG_DIFFERS")
    assert tag in (found.reason or "")


@pytest.mark.parametrize("page_tags", [1, 100])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_signatures_are_moved_before_the_tags_that_they_sign(
    chain: ImagesChain, monkeypatch: pytest.MonkeyPatch, page_tags: int, concurrency: int
) -> None:
    monkeypatch.setattr(compare, "PAGE_TAGS", page_tags)
    chain.configure(concurrency=concurrency)
    store = chain.source.store
    child = store.add_image(APP, None, b"for one processor")
    index = store.add_index(APP, "latest", child)
    store.repositories[APP].tags["1.0"] = index
    wanted = {sign(store, index, b"a"), sign(store, child, b"b"), sign(store, index, b"c", suffix=".att")}
    lacking: list[set[str]] = []

    def look(method: str, target: str) -> None:
        if method == "PUT" and target.endswith(("/manifests/latest", "/manifests/1.0")):
            lacking.append(wanted - chain.target.store.repositories[APP].tags.keys())

    chain.target.before = look
    chain.run()
    assert lacking == [set(), set()]
    chain.check()


def test_a_conflicting_signature_does_not_block_its_image(chain: ImagesChain) -> None:
    store = chain.source.store
    image = store.add_image(APP, "1.0", b"an image")
    tag = sign(store, image, b"signed by ann")
    theirs = chain.target.store.add_image(APP, tag, b"a stranger's")
    chain.run()
    assert result(chain, "1.0").outcome is Outcome.MOVED
    assert (result(chain, tag).outcome, result(chain, tag).target) == (Outcome.CONFLICT, theirs)


def test_a_failed_signature_does_not_block_its_image(chain: ImagesChain) -> None:
    store = chain.source.store
    image = store.add_image(APP, "1.0", b"an image")
    tag = sign(store, image, b"signed by ann")
    del store.repositories[APP].blobs[digest_of(b"signed by ann")]
    chain.run()
    assert result(chain, "1.0").outcome is Outcome.MOVED
    assert (result(chain, tag).outcome, result(chain, tag).code) == (Outcome.FAILED, "NOT_FOUND")


def test_a_list_with_equal_entries_but_other_bytes_is_replaced(chain: ImagesChain) -> None:
    chain.source.lists_referrers = chain.target.lists_referrers = False
    image = chain.source.store.add_image(APP, "1.0", b"an image")
    tag = list_referrers(chain.source.store, image, b"one")
    chain.run()
    here = chain.target.store.repositories[APP]
    stored = here.manifests[here.tags[tag]]
    compact = json.dumps(json.loads(stored.body)).encode()
    here.manifests[digest_of(compact)] = type(stored)(stored.media_type, compact)
    here.tags[tag] = digest_of(compact)
    assert chain.run(APP).counts.moved == 1  # the scan of a named repository reads all digests
    assert chain.target.store.digest(APP, tag) == chain.source.store.digest(APP, tag)
