"""Rules of `verify`: several of them, references to keys, later runs, and images under the names of signatures."""

from __future__ import annotations

import hashlib
import json

import pytest

from syncline.model import Outcome
from tests.rig.signed_images import (
    BY_KEY,
    KEY,
    OTHER_KEY,
    PROVEN,
    Place,
    VerifiedChain,
    attested,
    image,
    signed,
)
from tests.standins.registry import Registry
from tests.standins.sigstore import (
    OCI_INDEX,
    OCI_MANIFEST,
    SIMPLE_SIGNING,
    Json,
    key_layer,
    manifest_of,
    push_referrers,
)


def runnable(place: Place) -> Json:
    """Push another image without a tag, and return its entry for an index."""
    digest = place.registry.push_image(place.repository, "evil", (b"evil",))
    body = manifest_of(place.registry, place.repository, digest)
    place.registry.authorized("DELETE", f"/v2/{place.repository}/manifests/{digest}")
    place.registry.push_manifest(place.repository, digest, body)
    return {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(body)}


def outcomes(chain: VerifiedChain) -> dict[str, Outcome]:
    return {name: each.outcome for (_, name), each in chain.results().items()}


class TestImagesUnderOtherNames:
    """An unsigned image does not get to the target under a name or in a list that belongs to signatures."""

    @pytest.mark.parametrize("ending", [".sig", ".att", ".sbom", ""])
    def test_an_image_under_the_tag_of_a_signature(
        self, open_registries: tuple[Registry, Registry], namespace: str, ending: str
    ) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        signed(place)
        tag = f"sha256-{'0' * 64}{ending}"
        place.registry.push_image(place.repository, tag, (b"evil",))
        chain = VerifiedChain(open_registries, place.repository, BY_KEY)
        chain.run()
        assert outcomes(chain)[tag] is Outcome.UNTRUSTED
        assert tag not in chain.at_target()
        assert "v1" in chain.at_target()

    def test_an_image_in_a_list_of_referrers(self, open_registries: tuple[Registry, Registry], namespace: str) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        tag = f"sha256-{'0' * 64}"
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [runnable(place)]}).encode()
        place.registry.push_manifest(place.repository, tag, body, OCI_INDEX)
        chain = VerifiedChain(open_registries, place.repository, BY_KEY)
        chain.run()
        assert outcomes(chain) == {tag: Outcome.UNTRUSTED, "v1": Outcome.UNTRUSTED}
        assert chain.at_target() == []

    def test_an_image_that_refers_to_a_signed_one(
        self, open_registries: tuple[Registry, Registry], namespace: str
    ) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        signed(place)
        tag = push_referrers(
            open_registries[0], place.repository, place.image, ("application/vnd.oci.image.layer.v1.tar", b"evil", {})
        )
        chain = VerifiedChain(open_registries, place.repository, BY_KEY)
        chain.run()
        assert outcomes(chain)[tag] is outcomes(chain)["v1"] is Outcome.UNTRUSTED
        assert "v1" not in chain.at_target()
        result = chain.results()[place.repository, "v1"]
        assert result.source == place.image
        assert "which refers to it, can be run as an image" in str(result.reason)

    def test_an_sbom_that_refers_to_a_signed_image_is_copied(
        self, open_registries: tuple[Registry, Registry], namespace: str
    ) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        signed(place)
        tag = push_referrers(open_registries[0], place.repository, place.image, ("application/spdx+json", b"{}", {}))
        chain = VerifiedChain(open_registries, place.repository, BY_KEY)
        assert chain.run().counts.untrusted == 0
        assert {"v1", tag} <= set(chain.at_target())


class TestRules:
    def test_all_rules_of_a_repository_apply(self, open_registries: tuple[Registry, Registry], namespace: str) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        signed(place)
        chain = VerifiedChain(open_registries, place.repository, BY_KEY, BY_KEY | PROVEN)
        chain.run()
        reason = chain.results()[place.repository, "v1"].reason
        assert "an attestation https://slsa.dev/provenance/v1 by the public key (rule 2 of `verify`)" in str(reason)
        attested(place)
        assert chain.run().counts.untrusted == 0
        assert "v1" in chain.at_target()

    @pytest.mark.parametrize("other", [{"include": ["other/*"]}, {"exclude": ["re:.*/app"]}])
    def test_a_rule_applies_to_its_repositories(
        self, open_registries: tuple[Registry, Registry], namespace: str, other: Json
    ) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        chain = VerifiedChain(open_registries, place.repository, BY_KEY | {"repositories": other})
        assert chain.run().counts.moved == 1
        assert chain.at_target() == ["v1"]

    def test_a_key_by_reference(self, open_registries: tuple[Registry, Registry], namespace: str) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        signed(place)
        chain = VerifiedChain(open_registries, place.repository, {"public_key": "env:KEY"})
        assert chain.run().counts.moved == 2

    @pytest.mark.parametrize(("key", "code"), [("", "SECRET_MISSING"), ("no key", "CONFIG_INVALID")])
    def test_nothing_is_copied_without_a_valid_key(
        self, open_registries: tuple[Registry, Registry], namespace: str, key: str, code: str
    ) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        signed(place)
        chain = VerifiedChain(open_registries, place.repository, {"public_key": "env:KEY"})
        chain.secrets = {"KEY": key}
        chain.run()
        result = chain.results()[place.repository, "v1"]
        assert (result.outcome, result.code) == (Outcome.FAILED, code)
        assert "v1" not in chain.at_target()
        assert VerifiedChain(open_registries, place.repository, {"public_key": "env:KEY"}).run().counts.failed == 0
        assert "v1" in chain.at_target()


class TestLaterRuns:
    def test_an_image_that_is_signed_later_is_copied_then(
        self, open_registries: tuple[Registry, Registry], namespace: str
    ) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        chain = VerifiedChain(open_registries, place.repository, BY_KEY)
        assert chain.run().counts.untrusted == 1
        signed(place)
        counts = chain.run().counts
        assert (counts.moved, counts.untrusted) == (2, 0)
        assert chain.state.health("prod-to-dr").in_sync

    def test_a_tag_is_not_replaced_by_an_unsigned_image(
        self, open_registries: tuple[Registry, Registry], namespace: str
    ) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        signed(place)
        chain = VerifiedChain(open_registries, place.repository, BY_KEY, overwrite=True)
        chain.run()
        evil = open_registries[0].push_image(place.repository, "v1", (b"evil",))
        chain.run()
        result = chain.results()[place.repository, "v1"]
        assert (result.outcome, result.source, result.target) == (Outcome.UNTRUSTED, evil, place.image)
        assert manifest_of(open_registries[1], place.repository, "v1") == place.manifest

    def test_an_idle_run_reads_no_signatures(self, open_registries: tuple[Registry, Registry], namespace: str) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        signed(place)
        with_rules = VerifiedChain(open_registries, place.repository, BY_KEY)
        with_rules.run()
        idle = with_rules.run().counts
        assert (idle.skipped, idle.queued) == (2, 0)
        without = VerifiedChain(open_registries, place.repository)
        without.run()
        assert without.run().counts.requests == idle.requests


class TestDamage:
    def test_an_unreadable_signature_is_passed_over(
        self, open_registries: tuple[Registry, Registry], namespace: str
    ) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        broken = (SIMPLE_SIGNING, place.payload, {"dev.cosignproject.cosign/signature": "not base64"})
        place.tag(broken, key_layer(place.payload + b" ", OTHER_KEY), key_layer(place.payload, KEY))
        chain = VerifiedChain(open_registries, place.repository, BY_KEY)
        assert chain.run().counts.untrusted == 0
        assert "v1" in chain.at_target()

    def test_a_signature_whose_bytes_are_gone(self, open_registries: tuple[Registry, Registry], namespace: str) -> None:
        place = image(open_registries[0], f"{namespace}/app")
        signed(place)
        digest = f"sha256:{hashlib.sha256(place.payload).hexdigest()}"
        open_registries[0].authorized("DELETE", f"/v2/{place.repository}/blobs/{digest}")
        chain = VerifiedChain(open_registries, place.repository, BY_KEY)
        chain.run()
        result = chain.results()[place.repository, "v1"]
        assert result.outcome is Outcome.UNTRUSTED
        assert f"the source lacks {digest}" in str(result.reason)
