"""Bundles that GitHub lists are attached to an image at the registry, once each, and checked there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from syncline.clients.github.client import GitHub
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.manifest import referrers_tag
from syncline.clients.sigstore.evidence import BUNDLE
from syncline.errors import SynclineError
from syncline.kinds.artifacts.attestations import LONGEST, MOST, attach_attestations, read_attestations
from syncline.kinds.artifacts.verify import check_attestations
from tests.rig.attestations import ISSUER, SIGNER, TrustRoot
from tests.rig.server import json_reply
from tests.standins import saved
from tests.standins.cosign import Cosign, cosign_path
from tests.standins.github import TOKEN, GitHubServer
from tests.standins.programs import wants
from tests.unit.kinds.artifacts.conftest import REPOSITORY, Pushing

ZIP: Final = "sha256:" + "5" * 64
OTHER: Final = "sha256:" + "0" * 64


@dataclass
class Place:
    """GitHub with attestations of a zip, and an image at a registry."""

    github: GitHubServer
    pushing: Pushing

    def attach(self, *bundles: dict[str, Any]) -> list[str]:
        self.github.attestations = {ZIP: list(bundles)}
        client = GitHub(Endpoint.parse(self.github.url), lambda: TOKEN, Http(RetryPolicy(attempts=1)))
        found = read_attestations(client, self.github.repository, [ZIP, OTHER])
        return attach_attestations(self.pushing.registry, REPOSITORY, self.pushing.manifest(), found)

    def listed(self) -> list[str]:
        found = self.pushing.registry.referrers(REPOSITORY, self.pushing.manifest().digest)
        return [each.digest for each in found]

    def check(self, referrers: list[str]) -> None:
        check_attestations(self.pushing.registry, REPOSITORY, self.pushing.manifest(), referrers)

    def refused(self) -> str:
        """Attach nothing, as GitHub's answer is refused, and return the code."""
        with pytest.raises(SynclineError) as error:
            self.attach()
        assert not self.listed()
        return error.value.code.name


@pytest.fixture
def place(pushing: Pushing) -> Iterator[Place]:
    pushing.image(saved.since_25(saved.Image([saved.layer({"app": b"the app"})])))
    with GitHubServer() as github:
        yield Place(github, pushing)


@pytest.fixture(scope="module")
def trusted() -> TrustRoot:
    return TrustRoot()


@pytest.mark.parametrize("has_api", [True, False])
def test_several_pages_are_attached_once(place: Place, trusted: TrustRoot, has_api: bool) -> None:
    place.pushing.server.lists_referrers = has_api
    bundles = [trusted.bundle(ZIP) for _ in range(MOST)]
    first = place.attach(*bundles)
    assert len(set(first)) == MOST
    place.pushing.server.requests.clear()
    assert place.attach(*bundles) == first
    assert not [each for each in place.pushing.server.requests if each.method in ("POST", "PATCH")]
    assert sorted(place.listed()) == sorted(first)
    place.check(first)


def test_too_many_are_an_error(place: Place, trusted: TrustRoot) -> None:
    with pytest.raises(SynclineError) as error:
        place.attach(*[trusted.bundle(ZIP) for _ in range(MOST + 1)])
    assert error.value.code.name == "LISTING_TOO_LONG"
    assert not place.listed()


def test_none_are_no_error(place: Place) -> None:
    assert place.attach() == []
    assert not [each for each in place.pushing.server.requests if "/referrers/" in each.target]


@pytest.mark.parametrize(
    ("bundle", "code"),
    [
        (None, "ENTRY_INVALID"),
        ("text", "ENTRY_INVALID"),
        ({}, "BAD_ANSWER"),
        ({"mediaType": "text/plain"}, "BAD_ANSWER"),
        ({"mediaType": BUNDLE, "x": "y" * LONGEST}, "BAD_ANSWER"),
    ],
)
def test_a_malformed_bundle_is_an_error(place: Place, bundle: Any, code: str) -> None:
    place.github.before = lambda _method, _target: json_reply({"attestations": [{"bundle": bundle}]})
    assert place.refused() == code


def test_a_bundle_about_another_digest_is_an_error(place: Place, trusted: TrustRoot) -> None:
    other = trusted.bundle(OTHER)
    place.github.before = lambda _method, _target: json_reply({"attestations": [{"bundle": other}]})
    assert place.refused() == "BAD_ANSWER"


def test_an_attestation_that_is_no_longer_listed_has_not_arrived(place: Place, trusted: TrustRoot) -> None:
    place.pushing.server.lists_referrers = False
    referrers = place.attach(trusted.bundle(ZIP))
    place.check(referrers)
    place.pushing.registry.delete(REPOSITORY, referrers_tag(place.pushing.manifest().digest))
    with pytest.raises(SynclineError, match="does not list the attestation") as error:
        place.check(referrers)
    assert error.value.code.name == "NOT_ARRIVED"
    assert place.attach(*place.github.attestations[ZIP]) == referrers
    place.check(referrers)


def test_an_attestation_that_is_listed_and_gone_has_not_arrived(place: Place, trusted: TrustRoot) -> None:
    place.pushing.server.lists_referrers = False
    referrers = place.attach(trusted.bundle(ZIP))
    place.pushing.registry.delete(REPOSITORY, referrers[0])
    with pytest.raises(SynclineError, match="does not have the attestation") as error:
        place.check(referrers)
    assert error.value.code.name == "NOT_ARRIVED"


def test_cosign_verifies_a_bundle_from_the_registry(place: Place, trusted: TrustRoot, tmp_path: Path) -> None:
    cosign = Cosign(wants(cosign_path(), "program cosign is not installed"), tmp_path)
    (referrer,) = place.attach(trusted.bundle(ZIP))
    (layer,) = place.pushing.manifest(referrer).layers()
    (tmp_path / "bundle.json").write_bytes(place.pushing.blob(layer.digest))
    (tmp_path / "root.json").write_text(trusted.document())
    trust = ("--new-bundle-format", "--bundle", "bundle.json", "--trusted-root", "root.json", "--insecure-ignore-sct")
    signer = ("--certificate-identity", SIGNER, "--certificate-oidc-issuer", ISSUER, "--type", "slsaprovenance1")
    command = ("verify-blob-attestation", *trust, *signer, "--digestAlg", "sha256", "--digest")
    cosign.run(*command, ZIP.removeprefix("sha256:"))
    with pytest.raises(AssertionError, match="digest"):
        cosign.run(*command, OTHER.removeprefix("sha256:"))
