"""Signatures of the real cosign: recorded ones, and where the program is installed those that it makes now."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from syncline.model import Outcome
from tests.rig.signed_images import (
    FULCIO,
    ISSUER,
    REKOR,
    SUBJECT,
    VerifiedChain,
    image,
    keyless,
    keyless_attested,
)
from tests.standins.cosign import ATTESTED, FORMS, Cosign, cosign_path, recorded_key, replay
from tests.standins.programs import wants
from tests.standins.registry import Registry
from tests.standins.sigstore import PROVENANCE, new_key, public_pem

HOW: Final = "program cosign is not installed: go install github.com/sigstore/cosign/v2/cmd/cosign@latest"
FOREIGN: Final = public_pem(new_key())


@pytest.fixture
def cosign(tmp_path: Path) -> Cosign:
    return Cosign(wants(cosign_path(), HOW), tmp_path)


def check(open_registries: tuple[Registry, Registry], repository: str, key: str, form: str) -> None:
    """Check that images with signatures of a form are copied by the right key, and refused by another one."""
    rules = [{"public_key": key}] + ([{"public_key": key, "attestation": PROVENANCE}] if form in ATTESTED else [])
    for rule in rules:
        foreign = VerifiedChain(open_registries, repository, {**rule, "public_key": FOREIGN})
        foreign.run()
        result = foreign.results()[repository, "v1"]
        assert result.outcome is Outcome.UNTRUSTED
        assert "not made with the key" in str(result.reason)
    chain = VerifiedChain(open_registries, repository, *rules)
    counts = chain.run().counts
    assert (counts.untrusted, counts.failed) == (0, 0), chain.results()
    assert "v1" in chain.at_target()


@pytest.mark.parametrize("form", FORMS)
def test_recorded_signatures(open_registries: tuple[Registry, Registry], namespace: str, form: str) -> None:
    replay(open_registries[0], f"{namespace}/app", form)
    check(open_registries, f"{namespace}/app", recorded_key(), form)


@pytest.mark.parametrize("form", FORMS)
def test_signatures_of_the_program(
    open_registries: tuple[Registry, Registry], namespace: str, form: str, cosign: Cosign
) -> None:
    place = image(open_registries[0], f"{namespace}/app")
    cosign.sign(open_registries[0], place.repository, place.image, form)
    check(open_registries, place.repository, cosign.public_key, form)


def test_the_program_accepts_keyless_signatures_of_the_tests(
    open_registries: tuple[Registry, Registry], namespace: str, cosign: Cosign
) -> None:
    place = image(open_registries[0], f"{namespace}/app")
    keyless(place)
    keyless_attested(place)
    (cosign.folder / "ca.pem").write_text(FULCIO.ca)
    (cosign.folder / "rekor.pub").write_text(REKOR.pem)
    identity = ("--certificate-identity", SUBJECT, "--certificate-oidc-issuer", ISSUER)
    trust = ("--ca-roots", "ca.pem", "--insecure-ignore-sct", "--offline", "--allow-insecure-registry")
    name = f"{open_registries[0].host}/{place.repository}@{place.image}"
    log = str(cosign.folder / "rekor.pub")
    cosign.run("verify", *identity, *trust, name, SIGSTORE_REKOR_PUBLIC_KEY=log)
    more = ("--type", PROVENANCE)
    cosign.run("verify-attestation", *identity, *trust, *more, name, SIGSTORE_REKOR_PUBLIC_KEY=log)
