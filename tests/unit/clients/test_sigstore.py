"""Signatures of Sigstore: real ones of its public instance, Merkle proofs, certificates, keys, and malformed input."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.sigstore.certificates import check_chain, issuer_of, load_authorities, subjects_of
from syncline.clients.sigstore.evidence import (
    BUNDLE,
    DSSE,
    MOST_SIGNATURES,
    SIMPLE_SIGNING,
    Evidence,
    Identity,
    evidence_in_layer,
)
from syncline.clients.sigstore.keys import (
    RejectedError,
    allowed_key,
    is_signed,
    load_public_keys,
    parse_json,
)
from syncline.clients.sigstore.log import LogEntry, check_inclusion
from syncline.errors import SynclineError
from tests.standins.sigstore import (
    Fulcio,
    Rekor,
    bundle_layer,
    compact,
    dsse_entry,
    envelope,
    message_signature,
    new_key,
    pem,
    public_pem,
    statement,
)

FIXTURES: Final = Path(__file__).parents[2] / "fixtures/sigstore"
NOW: Final = 1_790_000_000.0
IMAGE: Final = "sha256:732112270d7e59418a8c080b134b24cabd67d250d0d0147a97ed95ba5c280aa4"
NPM_SIGNER: Final = "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main"
GITHUB: Final = "https://token.actions.githubusercontent.com"


def public_instance(issuer: str, subject: str) -> Identity:
    """Return an identity that the public instance of Sigstore certifies."""
    root = json.loads((FIXTURES / "trusted-root.json").read_text())
    chains = [each["certChain"]["certificates"] for each in root["certificateAuthorities"]]
    authorities = [
        x509.load_der_x509_certificate(base64.b64decode(each["rawBytes"])) for some in chains for each in some
    ]
    keys = [allowed_key(load_der_public_key(base64.b64decode(each["publicKey"]["rawBytes"]))) for each in root["tlogs"]]
    return Identity(issuer, subject.__eq__, authorities, keys)


def real(name: str, change: Callable[[Any], object] = lambda _value: None) -> Evidence:
    """Return a recorded bundle; `change` alters it."""
    value = json.loads((FIXTURES / name).read_text())
    change(value)
    return evidence_in_layer(value["mediaType"], {}, json.dumps(value).encode(), b"")


@pytest.mark.parametrize(
    ("name", "issuer", "subject"),
    [
        ("npm-provenance.json", GITHUB, NPM_SIGNER),
        ("image-attestation.json", "https://github.com/login/oauth", "cody@soyland.com"),
    ],
)
def test_a_real_signature_is_accepted_for_its_signer_only(name: str, issuer: str, subject: str) -> None:
    real(name).check_identity(public_instance(issuer, subject), NOW)
    with pytest.raises(RejectedError, match="was issued by"):
        real(name).check_identity(public_instance("https://evil.example", subject), NOW)
    with pytest.raises(RejectedError, match="was made by"):
        real(name).check_identity(public_instance(issuer, "mallory"), NOW)
    with pytest.raises(RejectedError, match="from the future"):
        real(name).check_identity(public_instance(issuer, subject), 1_600_000_000.0)


def test_a_real_attestation_names_its_image() -> None:
    evidence = real("image-attestation.json")
    assert evidence.claim(IMAGE, b"").predicate == "https://cosign.sigstore.dev/attestation/v1"
    with pytest.raises(RejectedError, match="another image"):
        evidence.claim("sha256:" + "0" * 64, b"")


ENTRY: Final = ("verificationMaterial", "tlogEntries", 0)
ALTERED: Final[dict[str, tuple[tuple[str | int, ...], str]]] = {
    "payload": (("dsseEnvelope", "payload"), "not made with the key of its certificate"),
    "signature": (("dsseEnvelope", "signatures", 0, "sig"), "not made with the key of its certificate"),
    "log ID": ((*ENTRY, "logId", "keyId"), "whose key is not in"),
    "timestamp": ((*ENTRY, "inclusionPromise", "signedEntryTimestamp"), "not signed by the log"),
    "body": ((*ENTRY, "canonicalizedBody"), "not signed by the log"),
    "root hash": ((*ENTRY, "inclusionProof", "rootHash"), "does not lead to the root"),
    "a hash": ((*ENTRY, "inclusionProof", "hashes", 2), "does not lead to the root"),
    "time": ((*ENTRY, "integratedTime"), "not signed by the log"),
    "index": ((*ENTRY, "logIndex"), "not signed by the log"),
    "index in the proof": ((*ENTRY, "inclusionProof", "logIndex"), "outside the tree"),
    "size of the tree": ((*ENTRY, "inclusionProof", "treeSize"), "inclusion proof|another tree"),
    "checkpoint": ((*ENTRY, "inclusionProof", "checkpoint", "envelope"), "checkpoint"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_real_signature_is_refused(what: str) -> None:
    path, why = ALTERED[what]

    def change(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        old = str(value[path[-1]])
        if old.isdigit():
            value[path[-1]] = str(int(old) + 1)
        elif what == "checkpoint":
            value[path[-1]] = old[:-12] + ("A" if old[-12] != "A" else "B") + old[-11:]
        else:
            raw = bytearray(base64.b64decode(old))
            raw[len(raw) // 2] ^= 1
            value[path[-1]] = base64.b64encode(raw).decode()

    evidence = real("image-attestation.json", change)
    with pytest.raises(RejectedError, match=why):
        evidence.check_identity(public_instance("https://github.com/login/oauth", "cody@soyland.com"), NOW)


# -- the log


@pytest.mark.parametrize("size", range(1, 18))
def test_every_entry_of_a_tree_has_a_proof_that_no_other_entry_satisfies(size: int) -> None:
    rekor = Rekor(bodies=[])
    for number in range(size):
        added = rekor.add(compact({"kind": "k", "apiVersion": "1", "number": number}), NOW)
        proof = LogEntry.of_bundle(added).proof
        assert proof is not None
        check_inclusion(proof, rekor.bodies[number])
        for other in range(number):
            with pytest.raises(RejectedError, match="inclusion proof"):
                check_inclusion(proof, rekor.bodies[other])
        with pytest.raises(RejectedError, match="inclusion proof"):
            check_inclusion(proof, b"\1" + rekor.bodies[number])


# -- certificates


def authority(
    subject: str, issuer: str, signer: Any, key: Any, *, below: int | None = 1, ca: bool = True
) -> x509.Certificate:
    begin = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=below if ca else None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .sign(signer, hashes.SHA256())
    )


class TestCertificates:
    root_key, middle_key, leaf_key = new_key(), new_key(), new_key()
    root = authority("root", "root", root_key, root_key, below=0)

    def test_an_authority_too_deep_is_refused(self) -> None:
        middle = authority("middle", "root", self.root_key, self.middle_key, below=None)
        leaf = authority("leaf", "middle", self.middle_key, self.leaf_key, ca=False)
        with pytest.raises(RejectedError, match="not issued by the authority"):
            check_chain(leaf, [middle], [self.root], NOW)
        check_chain(leaf, [middle], [middle], NOW)  # trusted itself

    def test_a_signers_certificate_issues_none(self) -> None:
        signer = authority("signer", "root", self.root_key, self.middle_key, ca=False)
        leaf = authority("leaf", "signer", self.middle_key, self.leaf_key, ca=False)
        check_chain(signer, [], [self.root], NOW)
        with pytest.raises(RejectedError, match="not issued by the authority"):
            check_chain(leaf, [signer], [self.root], NOW)

    def test_the_name_of_an_authority_does_not_suffice(self) -> None:
        leaf = authority("leaf", "root", self.middle_key, self.leaf_key, ca=False)
        with pytest.raises(RejectedError, match="not issued by the authority"):
            check_chain(leaf, [], [self.root], NOW)

    def test_a_circle_of_certificates_ends(self) -> None:
        one = authority("one", "two", self.middle_key, self.leaf_key, below=None)
        two = authority("two", "one", self.leaf_key, self.middle_key, below=None)
        leaf = authority("leaf", "one", self.leaf_key, new_key(), ca=False)
        with pytest.raises(RejectedError, match="not issued by the authority"):
            check_chain(leaf, [one, two, one, two, one, two], [self.root], NOW)

    @pytest.mark.parametrize("at", [1_700_000_000.0, 2_100_000_000.0])
    def test_the_time_of_signing_counts(self, at: float) -> None:
        leaf = authority("leaf", "root", self.root_key, self.leaf_key, ca=False)
        with pytest.raises(RejectedError, match="is valid from 2024-01-01"):
            check_chain(leaf, [], [self.root], at)

    @pytest.mark.parametrize("issuer", ["https://x.example", "https://" + "x" * 190 + ".example"])
    def test_identity_and_issuer_are_read(self, issuer: str) -> None:
        _, (leaf, middle) = Fulcio().issue("ann@acme.example", issuer, NOW)
        assert (issuer_of(leaf), subjects_of(leaf)) == (issuer, ("ann@acme.example",))
        assert (issuer_of(middle), subjects_of(middle)) == (None, ())

    def test_a_text_without_certificates_is_reported(self) -> None:
        with pytest.raises(SynclineError, match="ca of rule 1 has no certificate") as raised:
            load_authorities(public_pem(new_key()), "ca of rule 1")
        assert raised.value.code.name == "CONFIG_INVALID"


# -- keys


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa"])
def test_a_key_verifies_its_own_signatures_only(kind: str) -> None:
    key = new_key(kind)
    (public,) = load_public_keys(public_pem(key), "key")
    content = message_signature(b"manifest", key)["messageSignature"]
    made = base64.b64decode(content["signature"])
    assert is_signed(public, made, b"manifest")
    assert not is_signed(public, made, b"another")
    assert not is_signed(public, made[:-1], b"manifest")
    assert not is_signed(public, b"", b"manifest")
    assert not is_signed(public, made + b"0" * 4096, b"manifest")
    (other,) = load_public_keys(public_pem(new_key(kind)), "key")
    assert not is_signed(other, made, b"manifest")


@pytest.mark.parametrize(("curve", "digest"), [(ec.SECP384R1(), hashes.SHA384()), (ec.SECP521R1(), hashes.SHA512())])
def test_a_larger_curve_may_use_its_own_hash(curve: ec.EllipticCurve, digest: hashes.HashAlgorithm) -> None:
    key = ec.generate_private_key(curve)
    assert is_signed(key.public_key(), key.sign(b"message", ec.ECDSA(digest)), b"message")


def test_weak_and_unknown_keys_are_refused() -> None:
    weak, unknown = rsa.generate_private_key(65537, 1024), ed448.Ed448PrivateKey.generate()
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for key, why in ((weak, "too short"), (unknown, "neither ECDSA")):
        with pytest.raises(SynclineError, match=why):
            load_public_keys(key.public_key().public_bytes(*form).decode(), "key")
    with pytest.raises(SynclineError, match="has no public key"):
        load_public_keys("no PEM", "key")


# -- malformed input


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', "[]", "NaN", '{"a": NaN}', "{", "[" * 100_000, "\xff"]
)
def test_ambiguous_json_is_refused(text: str) -> None:
    with pytest.raises(RejectedError):
        parse_json(text.encode("latin-1"), "it")


def test_an_envelope_with_many_signatures_is_refused() -> None:
    made = envelope(statement(IMAGE), *[new_key()] * (MOST_SIGNATURES + 1))
    with pytest.raises(RejectedError, match="too long"):
        evidence_in_layer(DSSE, {}, compact(made), b"")


def test_an_envelope_of_another_type_is_refused() -> None:
    made = {**envelope(statement(IMAGE), new_key()), "payloadType": "text/plain"}
    with pytest.raises(RejectedError, match="text/plain"):
        evidence_in_layer(DSSE, {}, compact(made), b"")


def test_an_entry_of_an_unknown_type_is_refused() -> None:
    fulcio, rekor = Fulcio(), Rekor()
    key, chain = fulcio.issue(NPM_SIGNER, GITHUB, NOW - 100)
    made = envelope(statement(IMAGE), key)
    body = {**json.loads(dsse_entry(made, pem(chain[0]))), "apiVersion": "9"}
    kind, content, notes = bundle_layer({"dsseEnvelope": made}, chain, rekor.add(compact(body), NOW - 90))
    evidence = evidence_in_layer(kind, notes, content, b"")
    identity = Identity(
        GITHUB, NPM_SIGNER.__eq__, load_authorities(fulcio.ca, "ca"), load_public_keys(rekor.pem, "log_key")
    )
    with pytest.raises(RejectedError, match="unknown type 'dsse 9'"):
        evidence.check_identity(identity, NOW)


VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([IMAGE, "e30=", "dsse", "0.0.1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_any_change_of_a_bundle_is_refused_or_harmless(data: st.DataObject) -> None:
    """Replace any value of a real bundle: it is refused by RejectedError, or nothing that matters has changed."""
    value = json.loads((FIXTURES / "image-attestation.json").read_text())
    path: list[Any] = []
    at: Any = value
    while isinstance(at, dict | list) and at and (not path or data.draw(st.integers(0, 4))):
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        path.append(key)
        parent, at = at, at[key]
    parent[path[-1]] = data.draw(VALUES)
    identity = public_instance("https://github.com/login/oauth", "cody@soyland.com")
    try:
        evidence = evidence_in_layer(BUNDLE, {}, json.dumps(value).encode(), b"")
        evidence.check_identity(identity, NOW)
        claim = evidence.claim(IMAGE, b"")
    except RejectedError:
        return
    assert claim.predicate == "https://cosign.sigstore.dev/attestation/v1"


@given(st.dictionaries(st.sampled_from(["dev.cosignproject.cosign/signature", "dev.sigstore.cosign/certificate",
    "dev.sigstore.cosign/chain", "dev.sigstore.cosign/bundle"]), VALUES | st.just("e30=")), st.binary(max_size=40), VALUES)  # fmt: skip
def test_any_layer_is_read_or_refused(notes: dict[str, Any], content: bytes, value: Any) -> None:
    for kind in (SIMPLE_SIGNING, DSSE, BUNDLE):
        for body in (
            content,
            json.dumps(value).encode(),
            json.dumps({"payload": value, "dsseEnvelope": value}).encode(),
        ):
            try:
                evidence = evidence_in_layer(kind, notes, body, b"")
                evidence.claim(IMAGE, b"")
            except RejectedError:
                continue
