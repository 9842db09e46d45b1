"""Only images with the signatures that `verify` requires are copied: signatures of all forms, through docker-registry."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from syncline.kinds.images import signatures
from syncline.model import Outcome
from tests.rig.signed_images import (
    BY_KEY,
    FULCIO,
    IDENTITY,
    ISSUER,
    KEY,
    KEYLESS,
    KEYS,
    NOW,
    OTHER_FULCIO,
    OTHER_KEY,
    OTHER_REKOR,
    PROVEN,
    REKOR,
    SIGNED_AT,
    SUBJECT,
    Place,
    Signing,
    VerifiedChain,
    attested,
    image,
    keyless,
    keyless_attested,
    keyless_bundle,
    keyless_message,
    of_another,
    signed,
)
from tests.standins.registry import Registry
from tests.standins.sigstore import (
    OCI_INDEX,
    OCI_MANIFEST,
    PROVENANCE,
    SIGN,
    SIMPLE_SIGNING,
    Json,
    Layer,
    Leaf,
    attestation_layer,
    bundle_layer,
    compact,
    envelope,
    hashedrekord,
    key_layer,
    keyless_notes,
    manifest_of,
    message_signature,
    pem,
    public_pem,
    sign,
    simple_payload,
    statement,
)

TRUSTED: Final[dict[str, tuple[Json, Signing]]] = {
    "a key, by tag": (BY_KEY, signed),
    "a key, as a referrer": (BY_KEY, lambda place: place.refer(key_layer(place.payload, KEY))),
    "P-384": ({"public_key": public_pem(KEYS["p384"])}, lambda p: p.tag(key_layer(p.payload, KEYS["p384"]))),
    "RSA": ({"public_key": public_pem(KEYS["rsa"])}, lambda p: p.tag(key_layer(p.payload, KEYS["rsa"]))),
    "Ed25519": ({"public_key": public_pem(KEYS["ed25519"])}, lambda p: p.tag(key_layer(p.payload, KEYS["ed25519"]))),
    "one of two keys": ({"public_key": public_pem(OTHER_KEY) + public_pem(KEY)}, signed),
    "a foreign signature beside ours": (
        BY_KEY,
        lambda p: p.tag(key_layer(p.payload, OTHER_KEY), key_layer(p.payload, KEY)),
    ),
    "a bundle with a key": (
        BY_KEY,
        lambda p: p.refer(bundle_layer({"dsseEnvelope": envelope(statement(p.image, SIGN), KEY)})),
    ),
    "a bundle that signs the manifest": (BY_KEY, lambda p: p.refer(bundle_layer(message_signature(p.manifest, KEY)))),
    "keyless": (KEYLESS, keyless),
    "keyless, by a pattern": (
        {"identity": IDENTITY | {"subject": "https://github.com/acme/*/.github/workflows/release.yml@refs/heads/*"}},
        keyless,
    ),
    "keyless, by an address": (
        {"identity": IDENTITY | {"subject": "re:[a-z]+@acme\\.example"}},
        lambda place: keyless(place, subject="ann@acme.example"),
    ),
    "keyless, with the root alone": ({"identity": IDENTITY | {"ca": pem(FULCIO.root)}}, keyless),
    "a keyless bundle": (KEYLESS, keyless_bundle),
    "a keyless bundle that signs the manifest": (KEYLESS, keyless_message),
    "an attestation": (BY_KEY | PROVEN, attested),
    "a keyless attestation": (KEYLESS | PROVEN, keyless_attested),
    "a keyless attestation, logged by its envelope": (
        KEYLESS | PROVEN,
        lambda place: keyless_attested(place, with_payload_hash=False),
    ),
    "an attestation in a keyless bundle": (KEYLESS | PROVEN, lambda place: keyless_bundle(place, PROVENANCE)),
    "a signature with the name of the image": (BY_KEY | {"reference": "registry.example/team/*"}, signed),
}


def changed_note(name: str, value: Any) -> Callable[[Layer], Layer]:
    return lambda layer: (layer[0], layer[1], {**layer[2], name: value})


def without_note(name: str) -> Callable[[Layer], Layer]:
    return lambda layer: (layer[0], layer[1], {key: value for key, value in layer[2].items() if key != name})


def replayed(place: Place) -> None:
    """Put the signature of another image, by the right key, under the tag of this one."""
    place.tag(key_layer(simple_payload(of_another(place).image), KEY))


def log_of_another(place: Place) -> None:
    """Sign with a stolen, expired key, with the log's entry of an honest signature."""
    key, chain = FULCIO.issue(SUBJECT, ISSUER, SIGNED_AT)
    honest = simple_payload(of_another(place).image)
    entry = REKOR.add(hashedrekord(honest, sign(key, honest), pem(chain[0])), SIGNED_AT + 60)
    kind, payload, notes = key_layer(place.payload, key)
    place.tag((kind, payload, notes | keyless_notes(chain, entry)))


def log_of_another_key(place: Place) -> None:
    """Sign with a certified key, with the log's entry of a signature of the same payload with another key."""
    key, chain = FULCIO.issue(SUBJECT, ISSUER, SIGNED_AT)
    other, others = FULCIO.issue("mallory@evil.example", ISSUER, SIGNED_AT)
    entry = REKOR.add(hashedrekord(place.payload, sign(other, place.payload), pem(others[0])), SIGNED_AT + 60)
    kind, payload, notes = key_layer(place.payload, key)
    place.tag((kind, payload, notes | keyless_notes(chain, entry)))


def many(place: Place) -> None:
    """Put more signatures than are checked before the right one (CVE-2023-46737)."""
    foreign = [key_layer(place.payload + b" " * n, OTHER_KEY) for n in range(signatures.MOST)]
    place.tag(*foreign, key_layer(place.payload, KEY))


def twice(place: Place) -> None:
    """Sign a payload with two digests, of which parsers see different ones."""
    digest = place.image.encode()
    payload = place.payload.replace(
        b'"docker-manifest-digest"', b'"docker-manifest-digest":"sha256:0","docker-manifest-digest"'
    )
    assert digest in payload
    place.tag(key_layer(payload, KEY))


def child_only(place: Place) -> None:
    """Make the image an index of which only the child is signed."""
    signed(place)
    entry = {
        "mediaType": OCI_MANIFEST,
        "digest": place.image,
        "size": len(place.manifest),
    }
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    place.registry.push_manifest(place.repository, "v1", body, OCI_INDEX)


def changed_hash(entry: Json) -> None:
    entry["inclusionProof"]["hashes"][0] = base64.b64encode(b"0" * 32).decode()


def foreign_checkpoint(entry: Json) -> None:
    other = OTHER_REKOR.add(compact({"kind": "dsse", "apiVersion": "0.0.1"}), SIGNED_AT)
    entry["inclusionProof"]["checkpoint"] = other["inclusionProof"]["checkpoint"]


def without_promise(entry: Json) -> None:
    del entry["inclusionPromise"]


UNTRUSTED: Final[dict[str, tuple[Json, Signing, str]]] = {
    "not signed": (BY_KEY, lambda _place: None, "the source has none"),
    "not signed, keyless": (KEYLESS, lambda _place: None, "the source has none"),
    "a foreign key": (BY_KEY, lambda p: p.tag(key_layer(p.payload, OTHER_KEY)), "not made with the key"),
    "the signature of another image": (BY_KEY, replayed, "for another image"),
    "a signature of a child only": (BY_KEY, child_only, "the source has none"),
    "an altered payload": (
        BY_KEY,
        lambda p: p.tag((*key_layer(p.payload, KEY)[:1], p.payload + b" ", key_layer(p.payload, KEY)[2])),
        "not made with the key",
    ),
    "two digests in the payload": (BY_KEY, twice, "a key twice"),
    "too many signatures": (BY_KEY, many, "only the first 50"),
    "an oversized payload": (
        BY_KEY,
        lambda p: p.tag(key_layer(p.payload + b" " * signatures.LARGEST, KEY)),
        "too large for a signature",
    ),
    "a signature that is no base64": (
        BY_KEY,
        lambda p: p.tag((SIMPLE_SIGNING, p.payload, {})),
        "the signature is not base64",
    ),
    "the name of another image": (BY_KEY | {"reference": "registry.example/other/*"}, signed, "it names the image"),
    "a keyless signature for a key": (BY_KEY, keyless, "not made with the key"),
    "a key for a keyless signature": (KEYLESS, signed, "has no certificate"),
    "another subject": (KEYLESS, lambda p: keyless(p, subject="https://github.com/evil/app"), "was made by"),
    "another issuer": (KEYLESS, lambda p: keyless(p, issuer="https://evil.example"), "was issued by"),
    "two issuers": (KEYLESS, lambda p: keyless(p, leaf=Leaf(other_issuer="https://x.example")), "two issuers"),
    "another authority": (KEYLESS, lambda p: keyless(p, fulcio=OTHER_FULCIO), "not issued by the authority"),
    "another log": (KEYLESS, lambda p: keyless(p, rekor=OTHER_REKOR), "whose key is not in"),
    "no log entry": (
        KEYLESS,
        lambda p: keyless(p, change=without_note("dev.sigstore.cosign/bundle")),
        "its time is not known",
    ),
    "a log entry after the certificate expired": (KEYLESS, lambda p: keyless(p, logged_after=601), "is valid from"),
    "a log entry before the certificate": (KEYLESS, lambda p: keyless(p, logged_after=-1), "is valid from"),
    "a log entry of the future": (KEYLESS, lambda p: keyless(p, at=NOW + 86_400), "from the future"),
    "the log entry of another payload": (KEYLESS, log_of_another, "about another payload"),
    "the log entry of another key": (KEYLESS, log_of_another_key, "another signature or certificate"),
    "an altered time in the log entry": (
        KEYLESS,
        lambda p: keyless(p, change=_later),
        "not signed by the log",
    ),
    "a certificate for a server": (
        KEYLESS,
        lambda p: keyless(p, leaf=Leaf(purpose=ExtendedKeyUsageOID.SERVER_AUTH)),
        "not for code signing",
    ),
    "a certificate of an authority": (KEYLESS, lambda p: keyless(p, leaf=Leaf(authority=True)), "of an authority"),
    "a bundle with an altered proof": (KEYLESS, lambda p: keyless_bundle(p, change=changed_hash), "does not lead to"),
    "a bundle with a foreign checkpoint": (
        KEYLESS,
        lambda p: keyless_bundle(p, change=foreign_checkpoint),
        "that of another tree",
    ),
    "a bundle without a signed time": (
        KEYLESS,
        lambda p: keyless_bundle(p, change=without_promise),
        "no signed entry timestamp",
    ),
    "a signature where an attestation is needed": (BY_KEY | PROVEN, signed, "the source has none"),
    "another predicate": (BY_KEY | PROVEN, lambda p: attested(p, "https://spdx.dev/Document"), "spdx.dev"),
    "an attestation where a signature is needed": (BY_KEY, attested, "the source has none"),
    "an attestation by a foreign key": (BY_KEY | PROVEN, lambda p: attested(p, key=OTHER_KEY), "not made with the key"),
    "an attestation of another image": (
        BY_KEY | PROVEN,
        lambda p: p.tag(attestation_layer(envelope(statement(of_another(p).image), KEY)), ending=".att"),
        "for another image",
    ),
}


def _later(layer: Layer) -> Layer:
    name = "dev.sigstore.cosign/bundle"
    value = json.loads(layer[2][name])
    value["Payload"]["integratedTime"] += 60
    return changed_note(name, json.dumps(value))(layer)


@pytest.mark.parametrize("case", TRUSTED)
def test_a_signed_image_is_copied_with_its_signatures(
    open_registries: tuple[Registry, Registry], namespace: str, case: str
) -> None:
    rule, signing = TRUSTED[case]
    place = image(open_registries[0], f"{namespace}/app")
    signing(place)
    chain = VerifiedChain(open_registries, place.repository, rule)
    assert {each.outcome for each in (chain.plan(), chain.results())[1].values()} == {Outcome.WOULD_MOVE}
    counts = chain.run().counts
    assert (counts.untrusted, counts.failed, counts.conflict) == (0, 0, 0), chain.results()
    assert chain.results()[place.repository, "v1"].outcome is Outcome.MOVED
    assert len(chain.at_target()) == 2  # the image and the tag of its signatures
    assert chain.state.health("prod-to-dr").in_sync


@pytest.mark.parametrize("case", UNTRUSTED)
def test_an_image_without_the_signature_is_not_copied(
    open_registries: tuple[Registry, Registry], namespace: str, case: str
) -> None:
    rule, signing, why = UNTRUSTED[case]
    place = image(open_registries[0], f"{namespace}/app")
    signing(place)
    top = f"sha256:{hashlib.sha256(manifest_of(open_registries[0], place.repository, 'v1')).hexdigest()}"
    chain = VerifiedChain(open_registries, place.repository, rule)
    for run in (chain.plan, chain.run, chain.run):
        counts = run().counts
        result = chain.results()[place.repository, "v1"]
        assert (result.outcome, result.code) == (Outcome.UNTRUSTED, "IMAGE_UNTRUSTED"), result
        assert result.reason is not None
        assert why in result.reason
        assert "rule 1 of `verify`" in result.reason
        assert (counts.untrusted, counts.failed) == (1, 0)
    assert "v1" not in chain.at_target()
    for path in (f"manifests/{place.image}", f"manifests/{top}", f"blobs/{_layer(place)}"):
        assert open_registries[1].request("GET", f"/v2/{place.repository}/{path}").status == 404
    assert chain.state.health("prod-to-dr").in_sync is False
    assert not chain.dead()


def _layer(place: Place) -> str:
    digest: str = json.loads(place.manifest)["layers"][0]["digest"]
    return digest
