"""Attestations of builds travel to the registry with the image, and are verified there without GitHub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Manifest
from syncline.clients.sigstore.evidence import BUNDLE, Evidence, evidence_in_layer
from syncline.clients.sigstore.keys import RejectedError
from syncline.kinds.artifacts import verify
from syncline.kinds.artifacts.attestations import SUBJECT
from syncline.model import Outcome
from tests.rig.artifacts import PROJECT, ArtifactsChain, ArtifactsWorld, build
from tests.rig.attestations import TrustRoot
from tests.standins.sigstore import (
    PROVENANCE,
)

TAG: Final = "presto-1-linux-amd64"
REPOSITORY: Final = f"{PROJECT}/x86/presto-coordinator"
AT: Final = "presto-1"
ISSUER: Final = "https://token.actions.githubusercontent.com"
SIGNER: Final = "https://github.com/rapidsai/velox-testing/.github/workflows/presto-build-images.yml@refs/heads/main"
OTHER: Final = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def trusted() -> TrustRoot:
    return TrustRoot()


def registry_of(chain: ArtifactsChain) -> Registry:
    return Registry(Endpoint.parse(chain.target.url), lambda: None, Http(RetryPolicy(attempts=1)))


def zip_digest(chain: ArtifactsChain) -> str:
    content = chain.github.runs[0].artifacts[0].content
    assert isinstance(content, bytes)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def attached(chain: ArtifactsChain) -> Iterator[tuple[Manifest, Evidence]]:
    """Yield the referrers of the image at the target, each with its bundle."""
    registry = registry_of(chain)
    image = registry.manifest(REPOSITORY, AT)
    for each in registry.referrers(REPOSITORY, image.digest):
        referrer = registry.manifest(REPOSITORY, each.digest)
        assert referrer.subject is not None
        assert referrer.subject.digest == image.digest
        (layer,) = referrer.layers()
        with registry.open_blob(REPOSITORY, layer.digest) as stream:
            content = b"".join(stream)
        assert json.loads(referrer.body)["artifactType"] == layer.media_type
        assert layer.media_type.startswith(BUNDLE)
        yield referrer, evidence_in_layer(layer.media_type, {}, content, b"")


def attested_chain(builds: ArtifactsWorld, trusted: TrustRoot, count: int = 1) -> ArtifactsChain:
    chain = builds.chain([build(1, TAG)], attestations=True, aliases=[])
    digest = zip_digest(chain)
    builds.github.attestations = {digest: [trusted.bundle(digest) for _ in range(count)]}
    return chain


@pytest.mark.moto
@pytest.mark.parametrize("has_api", [True, False])
def test_the_provenance_of_the_zip_is_verified_at_the_target(
    builds: ArtifactsWorld, trusted: TrustRoot, has_api: bool
) -> None:
    chain = attested_chain(builds, trusted)
    builds.target.lists_referrers = has_api
    run = chain.run()
    assert {result.outcome for result in chain.results(run).values()} == {Outcome.MOVED}
    ((referrer, evidence),) = attached(chain)
    assert trusted.check(evidence, zip_digest(chain)) == PROVENANCE
    assert referrer.annotations[SUBJECT] == zip_digest(chain)
    with pytest.raises(RejectedError):
        trusted.check(evidence, OTHER)
    with pytest.raises(RejectedError):
        TrustRoot().check(evidence, zip_digest(chain))
    assert not builds.target.store.broken()


@pytest.mark.moto
def test_a_second_run_asks_for_no_attestation_and_writes_nothing(builds: ArtifactsWorld, trusted: TrustRoot) -> None:
    chain = attested_chain(builds, trusted)
    chain.run()
    builds.github.requests.clear()
    builds.target.requests.clear()
    assert chain.run().counts.moved == 0
    assert not [target for _, target in builds.github.requests if "/attestations/" in target]
    assert not [each for each in builds.target.requests if each.method not in ("GET", "HEAD")]


@pytest.mark.moto
def test_an_attestation_of_the_image_itself_is_attached(builds: ArtifactsWorld, trusted: TrustRoot) -> None:
    chain = builds.chain([build(1, TAG)])
    chain.run()
    image = registry_of(chain).manifest(REPOSITORY, AT)
    again = builds.chain([build(1, TAG)], attestations=True, aliases=[])
    builds.github.attestations = {image.digest: [trusted.bundle(image.digest)]}
    again.run()
    ((_, evidence),) = attached(again)
    assert trusted.check(evidence, image.digest) == PROVENANCE


@pytest.mark.moto
def test_images_without_attestations_are_copied(builds: ArtifactsWorld) -> None:
    chain = builds.chain([build(1, TAG)], attestations=True)
    run = chain.run()
    assert {result.outcome for result in chain.results(run).values()} == {Outcome.MOVED}
    assert not list(attached(chain))


@pytest.mark.moto
def test_by_default_github_is_not_asked(builds: ArtifactsWorld, trusted: TrustRoot) -> None:
    attested_chain(builds, trusted)
    found = dict(builds.github.attestations)
    chain = builds.chain([build(1, TAG)])
    builds.github.attestations = found
    chain.run()
    assert not [target for _, target in builds.github.requests if "/attestations/" in target]
    assert not list(attached(chain))


@pytest.mark.moto
def test_an_attestation_about_something_else_stops_the_tag(builds: ArtifactsWorld, trusted: TrustRoot) -> None:
    chain = attested_chain(builds, trusted)
    builds.github.attestations = {zip_digest(chain): [trusted.bundle(OTHER)]}
    run = chain.run()
    results = chain.results(run)
    assert {(each.outcome, each.code) for each in results.values()} == {(Outcome.FAILED, "BAD_ANSWER")}
    assert not chain.target.store.tags()


@pytest.mark.moto
def test_an_attestation_that_is_lost_before_the_verification_is_attached_again(
    builds: ArtifactsWorld, trusted: TrustRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = attested_chain(builds, trusted)
    check, lost = verify.check_attestations, list[str]()

    def lose_first(registry: Registry, repository: str, image: Manifest, referrers: Sequence[str]) -> None:
        if referrers and not lost:
            lost.extend(referrers)
            assert registry.delete(repository, referrers[0])
        check(registry, repository, image, referrers)

    monkeypatch.setattr(verify, "check_attestations", lose_first)
    run = chain.run()
    assert {result.outcome for result in chain.results(run).values()} == {Outcome.MOVED}
    ((referrer, evidence),) = attached(chain)
    assert [referrer.digest] == lost
    assert trusted.check(evidence, zip_digest(chain)) == PROVENANCE
