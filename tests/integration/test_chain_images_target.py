"""Tags and parts that change at the target or at the source while images are moved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from syncline.kinds.images import parts
from syncline.model import Outcome, Result
from tests.rig.images import ImagesChain, ImagesWorld
from tests.standins.oci import Fault
from tests.standins.oci_store import Repository, digest_of

APP: Final = "team/app"


@pytest.fixture
def chain(registries: ImagesWorld) -> Iterator[ImagesChain]:
    chain = registries.chain()
    chain.configure()
    yield chain
    chain.target.before = chain.source.before = lambda _method, _target: None


def result(chain: ImagesChain, tag: str = "1.0") -> Result:
    """Return the result of a tag in the latest run."""
    return chain.results(chain.latest())[APP, tag]


def both_named(found: Result, ours: str, theirs: str) -> bool:
    """Return True if a conflict names our digest and the existing one, in its fields and in its reason."""
    words = found.reason or ""
    return (found.source, found.target) == (ours, theirs) and ours in words and theirs in words


# -- foreign tags during the transfer


@pytest.mark.parametrize("had", [False, True], ids=["absent", "replaced"])
def test_a_foreign_tag_during_the_transfer_is_a_conflict(chain: ImagesChain, *, had: bool) -> None:
    ours = chain.source.store.add_image(APP, "1.0", b"ours")
    if had:
        chain.configure(overwrite=True)
        chain.target.store.add_image(APP, "1.0", b"what the scan saw")
    theirs: list[str] = []

    def push(method: str, target: str) -> None:
        if method == "PUT" and "/blobs/uploads/" in target and not theirs:
            theirs.append(chain.target.store.add_image(APP, "1.0", b"a stranger's"))

    chain.target.before = push
    chain.run()
    found = result(chain)
    if had:
        assert found.outcome is Outcome.MOVED
        assert theirs[0] in (found.reason or ""), "the reason does not name the overwritten digest"
        assert chain.target.store.digest(APP, "1.0") == ours
    else:
        assert (found.outcome, found.code) == (Outcome.CONFLICT, "TAG_DIFFERS")
        assert both_named(found, ours, theirs[0])
        assert chain.target.store.digest(APP, "1.0") == theirs[0]


def test_a_foreign_tag_immediately_after_ours_is_a_conflict(chain: ImagesChain) -> None:
    ours = chain.source.store.add_image(APP, "1.0", b"ours")
    theirs: list[str] = []
    put: list[str] = []

    def push(method: str, target: str) -> None:
        if target.endswith("/manifests/1.0"):
            if put and not theirs:
                theirs.append(chain.target.store.add_image(APP, "1.0", b"a stranger's"))
            if method == "PUT":
                put.append(target)

    chain.target.before = push
    chain.run()
    found = result(chain)
    assert (found.outcome, found.code) == (Outcome.CONFLICT, "TAG_DIFFERS")
    assert both_named(found, ours, theirs[0])
    assert len(put) == 1
    assert chain.target.store.digest(APP, "1.0") == theirs[0]


# -- parts that the target lacks


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_missing_layer_of_an_existing_child_is_sent(chain: ImagesChain, *, overwrite: bool) -> None:
    chain.configure(overwrite=overwrite)
    child = chain.source.store.add_image(APP, None, b"a layer", b"another layer")
    digest = chain.source.store.add_index(APP, "1.0", child)
    chain.target.store.add_image(APP, None, b"a layer", b"another layer")
    del chain.target.store.repositories[APP].blobs[digest_of(b"a layer")]
    tagged_broken: list[bool] = []

    def look(method: str, target: str) -> None:
        if method == "PUT" and target.endswith("/manifests/1.0"):
            tagged_broken.append(digest_of(b"a layer") not in chain.target.store.repositories[APP].blobs)

    chain.target.before = look
    chain.run()
    assert tagged_broken == [False]
    assert result(chain).outcome is Outcome.MOVED
    assert chain.target.store.digest(APP, "1.0") == digest
    assert not chain.target.store.broken()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("lost", ["layer", "truncated", "child"])
def test_a_part_lost_after_the_put_is_restored_by_the_next_run(
    chain: ImagesChain, lost: str, *, overwrite: bool
) -> None:
    """It is lost again and again during the run, so that the image fails; the next run repairs it."""
    chain.configure(overwrite=overwrite)
    child = chain.source.store.add_image(APP, None, b"a layer of an image")
    chain.source.store.add_index(APP, "1.0", child)
    chain.source.store.add_image(APP, "2.0", b"another image")

    def lose(method: str, target: str) -> None:
        if method == "GET" and target.endswith("/manifests/1.0"):
            here = chain.target.store.repositories[APP]
            if lost == "layer":
                here.blobs.pop(digest_of(b"a layer of an image"), None)
            elif lost == "truncated":
                here.blobs[digest_of(b"a layer of an image")] = b"a layer"
            else:
                here.manifests.pop(child, None)

    chain.target.before = lose
    chain.run()
    assert (result(chain).outcome, result(chain).code) == (Outcome.FAILED, "NOT_ARRIVED")
    chain.target.before = lambda _method, _target: None
    counts = chain.run().counts
    assert (counts.moved, counts.skipped, counts.failed) == (1, 1, 0)
    assert not chain.target.store.broken()
    asked = len(chain.target.asked("GET", "/manifests/"))
    counts = chain.run().counts
    assert counts.skipped == 2
    chain.run()
    assert len(chain.target.asked("GET", "/manifests/")) <= asked + 3, (
        "the image was checked more often than once again"
    )


def test_a_part_lost_once_is_sent_again_in_the_same_run(chain: ImagesChain) -> None:
    chain.source.store.add_image(APP, "1.0", b"a layer")
    lost: list[str] = []

    def lose(method: str, target: str) -> None:
        if method == "GET" and target.endswith("/manifests/1.0") and not lost:
            lost.append(target)
            del chain.target.store.repositories[APP].blobs[digest_of(b"a layer")]

    chain.target.before = lose
    chain.run()
    assert lost
    assert result(chain).outcome is Outcome.MOVED
    assert not chain.target.store.broken()


def test_an_unverified_image_is_verified_by_the_next_run(chain: ImagesChain) -> None:
    chain.source.store.add_image(APP, "1.0", b"a layer")
    chain.target.fault("GET", "/manifests/1.0", Fault(500), times=None)
    chain.run()
    assert (result(chain).outcome, result(chain).code) == (Outcome.FAILED, "SERVER_ERROR")
    assert chain.target.store.digest(APP, "1.0") is not None
    del chain.target.store.repositories[APP].blobs[digest_of(b"a layer")]
    chain.target.heal()
    assert chain.run(APP).counts.moved == 1, "the retry did not scan the repository"
    assert not chain.target.store.broken()


def test_a_blob_that_the_target_has_truncated_is_sent_again(chain: ImagesChain) -> None:
    layer = b"a layer of more than ten bytes" * 3
    chain.source.store.add_image(APP, "1.0", layer)
    chain.target.store.repositories[APP] = Repository(blobs={digest_of(layer): layer[:10]})
    chain.target.store.add_image(APP, "other", b"the repository is not a new one")
    chain.run()
    assert result(chain).outcome is Outcome.MOVED
    assert not chain.target.store.broken()


def test_a_blob_that_the_target_always_truncates_is_named_and_nothing_is_tagged(chain: ImagesChain) -> None:
    layer = b"a layer of more than ten bytes" * 3
    chain.source.store.add_image(APP, "1.0", layer)
    chain.target.store.keeps_blobs = True
    chain.target.store.add_image(APP, "other", b"the repository is not a new one")
    chain.target.store.repositories[APP].blobs[digest_of(layer)] = layer[:10]
    before = chain.clock.now
    chain.run()
    found = result(chain)
    assert (found.outcome, found.code) == (Outcome.FAILED, "BLOB_DAMAGED")
    assert digest_of(layer) in (found.reason or "")
    assert "10" in (found.reason or "")
    assert str(len(layer)) in (found.reason or "")
    assert chain.target.store.digest(APP, "1.0") is None
    assert chain.clock.now - before < 10, "it was retried"


@pytest.mark.parametrize("sizeless", [False, True])
@pytest.mark.parametrize("small", [True, False])
def test_a_blob_with_another_size_than_in_its_manifest_is_refused_once(
    chain: ImagesChain, monkeypatch: pytest.MonkeyPatch, *, sizeless: bool, small: bool
) -> None:
    """This holds with and without a Content-Length of the source, and for every method of sending the blob."""
    if not small:
        monkeypatch.setattr(parts, "BUFFERED", 0)
    chain.source.store.add_image(APP, "1.0", b"a layer")
    repository = chain.source.store.repositories[APP]
    repository.blobs[digest_of(b"a layer")] = b"a layer and more"
    chain.source.fault("GET", f"/blobs/{digest_of(b'a layer')}", Fault(sizeless=sizeless), times=None)
    before = chain.clock.now
    chain.run()
    found = result(chain)
    assert (found.outcome, found.code) == (Outcome.FAILED, "SIZE_DIFFERS")
    assert "7" in (found.reason or "")
    assert "16" in (found.reason or "")
    assert chain.clock.now - before < 10, "it was retried"


# -- a tag that moves at the source


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_tag_that_moves_during_its_transfer_is_reported_and_moved_again(chain: ImagesChain, algorithm: str) -> None:
    chain.target.store.algorithm = algorithm
    old = chain.source.store.add_image(APP, "latest", b"the old one")
    moved: list[str] = []

    def move(method: str, target: str) -> None:
        if method == "PUT" and target.endswith("/manifests/latest") and not moved:
            moved.append(chain.source.store.add_image(APP, "latest", b"the new one"))

    chain.target.before = move
    chain.run()
    found = result(chain, "latest")
    assert (found.outcome, found.source) == (Outcome.MOVED, old)
    assert old in (found.reason or "")
    assert moved[0] in (found.reason or "")
    chain.run()
    found = result(chain, "latest")
    assert (found.outcome, found.source, found.code) == (Outcome.MOVED, moved[0], None)
    assert chain.target.store.digest(APP, "latest") == moved[0]
    assert chain.run().counts.skipped == 1


def test_a_tag_that_moved_does_not_replace_a_foreign_one(chain: ImagesChain) -> None:
    chain.source.store.add_image(APP, "latest", b"the old one")
    moved: list[str] = []

    def move(method: str, target: str) -> None:
        if method == "PUT" and target.endswith("/manifests/latest") and not moved:
            moved.append(chain.source.store.add_image(APP, "latest", b"the new one"))

    chain.target.before = move
    chain.run()
    theirs = chain.target.store.add_image(APP, "latest", b"a stranger's")
    chain.run()
    found = result(chain, "latest")
    assert (found.outcome, found.code) == (Outcome.CONFLICT, "TAG_DIFFERS")
    assert chain.target.store.digest(APP, "latest") == theirs


def test_a_tag_that_moves_after_its_transfer_is_a_conflict(chain: ImagesChain) -> None:
    chain.source.store.add_image(APP, "latest", b"the old one")
    chain.run()
    chain.source.store.add_image(APP, "latest", b"the new one")
    chain.run()
    assert result(chain, "latest").code == "TAG_DIFFERS"


# -- digests of other algorithms


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("side", ["source", "target"])
def test_digests_of_two_algorithms_are_equal_for_equal_bytes(chain: ImagesChain, side: str, *, overwrite: bool) -> None:
    chain.configure(overwrite=overwrite)
    getattr(chain, side).store.algorithm = "sha512"
    chain.source.store.add_image(APP, "1.0", b"a layer")
    assert chain.run().counts.moved == 1
    puts = len(chain.target.asked("PUT"))
    counts = chain.run().counts
    assert (counts.skipped, counts.queued, counts.conflict) == (1, 0, 0)
    assert len(chain.target.asked("PUT")) == puts


def test_digests_of_two_algorithms_differ_for_different_bytes(chain: ImagesChain) -> None:
    chain.target.store.algorithm = "sha512"
    chain.source.store.add_image(APP, "1.0", b"a layer")
    chain.target.store.add_image(APP, "1.0", b"another")
    chain.run()
    assert result(chain).code == "TAG_DIFFERS"
