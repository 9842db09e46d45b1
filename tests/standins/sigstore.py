"""Signatures of images as cosign and Sigstore make them: keys, a certificate authority like Fulcio, a log like Rekor.

    fulcio, rekor = Fulcio(), Rekor()
    key, chain = fulcio.issue("https://github.com/acme/app", "https://token.example", at)
    kind, payload, notes = key_layer(simple_payload(digest), key)
    entry = rekor.add(hashedrekord(payload, sign(key, payload), pem(chain[0])), at)
    push_tag(registry, "team/app", digest, ".sig", [(kind, payload, notes | keyless_notes(chain, entry))])

Real cosign accepts what is made here; a test where the program is installed checks that.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.standins.registry import Registry

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE: Final = "application/vnd.dsse.envelope.v1+json"
BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO: Final = "application/vnd.in-toto+json"
PROVENANCE: Final = "https://slsa.dev/provenance/v1"
SIGN: Final = "https://sigstore.dev/cosign/sign/v1"
ORIGIN: Final = "rekor.example - 1193050959916656506"

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
Json: TypeAlias = dict[str, Any]
Layer: TypeAlias = tuple[str, bytes, Json]
"""A layer of a manifest: its type, content and annotations."""


def new_key(kind: str = "p256") -> PrivateKey:
    """Return a new private key: p256, p384, ed25519 or rsa."""
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
    raise AssertionError(kind)


def public_pem(key: PrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def pem(*certificates: x509.Certificate) -> str:
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in certificates)


def sign(key: PrivateKey, message: bytes) -> bytes:
    """Return the signature of a message as cosign makes it, with SHA-256."""
    match key:
        case ed25519.Ed25519PrivateKey():
            return key.sign(message)
        case rsa.RSAPrivateKey():
            return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        case _:
            return key.sign(message, ec.ECDSA(hashes.SHA256()))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def compact(value: Any) -> bytes:
    """Return canonical JSON: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


# -- the authority


@dataclass(frozen=True)
class Leaf:
    """The properties of a signer's certificate that tests vary."""

    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING
    seconds: int = 600
    authority: bool = False
    other_issuer: str = ""


class Fulcio:
    """A root and an authority below it that certifies identities."""

    def __init__(self, name: str = "sigstore.example") -> None:
        self._root_key, self._key = new_key("p384"), new_key("p384")
        begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        self._since, self._until = begin, begin + dt.timedelta(days=36_500)
        self.root = self._authority(f"{name} root", self._root_key, None, 1)
        self.intermediate = self._authority(f"{name} intermediate", self._key, self.root, 0)

    @property
    def ca(self) -> str:
        """The root and the authority below it, as trust anchors."""
        return pem(self.root, self.intermediate)

    def issue(
        self, subject: str, issuer: str, at: float, leaf: Leaf | None = None
    ) -> tuple[PrivateKey, list[x509.Certificate]]:
        """Return a key, and its certificate for ten minutes with the one that issued it."""
        key, leaf = new_key(), leaf or Leaf()
        begin = dt.datetime.fromtimestamp(at, dt.UTC)
        name: x509.GeneralName = (
            x509.RFC822Name(subject)
            if "@" in subject and "://" not in subject
            else (x509.UniformResourceIdentifier(subject))
        )
        text = issuer.encode()
        der = b"\x0c" + (bytes([len(text)]) if len(text) < 128 else b"\x81" + bytes([len(text)])) + text
        first = (leaf.other_issuer or issuer).encode()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.intermediate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + dt.timedelta(seconds=leaf.seconds))
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([leaf.purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(_other("1.3.6.1.4.1.57264.1.1", first), critical=False)
            .add_extension(_other("1.3.6.1.4.1.57264.1.8", der), critical=False)
        )
        if leaf.authority:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        return key, [builder.sign(self._key, hashes.SHA384()), self.intermediate]

    def _authority(self, name: str, key: PrivateKey, parent: x509.Certificate | None, below: int) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        assert isinstance(self._root_key, ec.EllipticCurvePrivateKey)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if parent is None else parent.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._since)
            .not_valid_after(self._until)
            .add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .sign(self._root_key, hashes.SHA384())
        )


def _usage(*, signs: bool) -> x509.KeyUsage:
    rest = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=signs, key_cert_sign=not signs, crl_sign=not signs, **rest)


def _other(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


# -- the log


@dataclass
class Rekor:
    """A log: entries with the signed time, and their inclusion in a Merkle tree with a signed checkpoint."""

    key: PrivateKey = field(default_factory=new_key)
    bodies: list[bytes] = field(default_factory=lambda: [b"an older entry", b"another"])

    @property
    def pem(self) -> str:
        return public_pem(self.key)

    @property
    def id(self) -> bytes:
        der = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(der).digest()

    def add(self, body: bytes, at: float) -> Json:
        """Add an entry, and return it as a bundle has it."""
        self.bodies.append(body)
        index, size = len(self.bodies) - 1, len(self.bodies)
        leaves = [hashlib.sha256(b"\0" + each).digest() for each in self.bodies]
        root = _root(leaves)
        text = f"{ORIGIN}\n{size}\n{b64(root)}\n"
        line = b64(self.id[:4] + sign(self.key, text.encode()))
        signed = {"body": b64(body), "integratedTime": int(at), "logID": self.id.hex(), "logIndex": index}
        return {
            "logIndex": str(index),
            "logId": {"keyId": b64(self.id)},
            "kindVersion": {"kind": json.loads(body)["kind"], "version": json.loads(body)["apiVersion"]},
            "integratedTime": str(int(at)),
            "inclusionPromise": {"signedEntryTimestamp": b64(sign(self.key, compact(signed)))},
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": b64(root),
                "treeSize": str(size),
                "hashes": [b64(each) for each in _path(index, leaves)],
                "checkpoint": {"envelope": f"{text}\n— rekor.example {line}\n"},
            },
            "canonicalizedBody": b64(body),
        }


def _root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of a Merkle tree (RFC 6962, 2.1)."""
    if len(leaves) == 1:
        return leaves[0]
    half = _split(len(leaves))
    return hashlib.sha256(b"\1" + _root(leaves[:half]) + _root(leaves[half:])).digest()


def _path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the hashes from a leaf to the root (RFC 6962, 2.1.1)."""
    if len(leaves) == 1:
        return []
    half = _split(len(leaves))
    if index < half:
        return [*_path(index, leaves[:half]), _root(leaves[half:])]
    return [*_path(index - half, leaves[half:]), _root(leaves[:half])]


def _split(size: int) -> int:
    """Return the largest power of two below `size`."""
    return int(2 ** ((size - 1).bit_length() - 1))


def hashedrekord(message: bytes, signature: bytes, signer: str) -> bytes:
    """Return the body of an entry for a signature; `signer` is a certificate or a public key in PEM form."""
    data = {"hash": {"algorithm": "sha256", "value": hashlib.sha256(message).hexdigest()}}
    logged = {"content": b64(signature), "publicKey": {"content": b64(signer.encode())}}
    return compact({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {"data": data, "signature": logged}})


def dsse_entry(envelope: Json, signer: str) -> bytes:
    """Return the body of an entry for an envelope."""
    payload = base64.b64decode(envelope["payload"])
    spec = {
        "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(compact(envelope)).hexdigest()},
        "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
        "signatures": [{"signature": each["sig"], "verifier": b64(signer.encode())} for each in envelope["signatures"]],
    }
    return compact({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})


def intoto_entry(envelope: Json, signer: str, *, with_payload_hash: bool = True) -> bytes:
    """Return the body of an older entry for an envelope, as cosign logs an attestation."""
    payload = base64.b64decode(envelope["payload"])
    content = {"hash": {"algorithm": "sha256", "value": hashlib.sha256(compact(envelope)).hexdigest()}}
    if with_payload_hash:
        content["payloadHash"] = {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}
    spec = {"content": content, "publicKey": b64(signer.encode())}
    return compact({"apiVersion": "0.0.1", "kind": "intoto", "spec": spec})


# -- signatures


def simple_payload(digest: str, reference: str = "registry.example/team/app") -> bytes:
    """Return the payload that cosign signs for an image."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def statement(digest: str, predicate: str = PROVENANCE, name: str = "registry.example/team/app") -> bytes:
    """Return a statement of in-toto about an image."""
    subject = {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
    value = {"_type": "https://in-toto.io/Statement/v1", "subject": [subject], "predicateType": predicate}
    return json.dumps({**value, "predicate": {"buildDefinition": {}}}).encode()


def envelope(payload: bytes, *keys: PrivateKey) -> Json:
    """Return a DSSE envelope of a statement."""
    message = b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)
    signatures = [{"keyid": "", "sig": b64(sign(key, message))} for key in keys]
    return {"payloadType": IN_TOTO, "payload": b64(payload), "signatures": signatures}


def key_layer(payload: bytes, key: PrivateKey) -> Layer:
    """Return the layer of a signature with a key, in cosign's form."""
    return SIMPLE_SIGNING, payload, {"dev.cosignproject.cosign/signature": b64(sign(key, payload))}


def attestation_layer(made: Json, chain: Sequence[x509.Certificate] = (), entry: Json | None = None) -> Layer:
    """Return the layer of an attestation, in cosign's form."""
    notes: Json = {"dev.cosignproject.cosign/signature": "", "predicateType": PROVENANCE}
    return DSSE, compact(made), notes | (keyless_notes(chain, entry) if entry else {})


def bundle_layer(content: Json, chain: Sequence[x509.Certificate] = (), *entries: Json) -> Layer:
    """Return the layer of a bundle; `content` has ``dsseEnvelope`` or ``messageSignature``."""
    signer: Json = {"publicKey": {"hint": ""}}
    if chain:
        signer = {"certificate": {"rawBytes": b64(chain[0].public_bytes(serialization.Encoding.DER))}}
    value = {"mediaType": BUNDLE, "verificationMaterial": {**signer, "tlogEntries": list(entries)}, **content}
    return BUNDLE, json.dumps(value).encode(), {}


def message_signature(manifest: bytes, key: PrivateKey) -> Json:
    """Return the content of a bundle that signs the bytes of an image's manifest."""
    digest = {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(manifest).digest())}
    return {"messageSignature": {"messageDigest": digest, "signature": b64(sign(key, manifest))}}


def log_annotation(entry: Json) -> str:
    """Return a log's entry as the annotation of cosign."""
    payload = {
        "body": entry["canonicalizedBody"],
        "integratedTime": int(entry["integratedTime"]),
        "logIndex": int(entry["logIndex"]),
        "logID": base64.b64decode(entry["logId"]["keyId"]).hex(),
    }
    return json.dumps({"SignedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"], "Payload": payload})


def keyless_notes(chain: Sequence[x509.Certificate], entry: Json) -> Json:
    """Return the annotations of a keyless signature or attestation: certificates and the log's entry."""
    return {
        "dev.sigstore.cosign/certificate": pem(chain[0]),
        "dev.sigstore.cosign/chain": pem(*chain[1:]),
        "dev.sigstore.cosign/bundle": log_annotation(entry),
    }


# -- in a registry


def push_layers(registry: Registry, repository: str, layers: Sequence[Layer], **more: Any) -> tuple[str, Json]:
    """Push a manifest of layers by its digest; return the digest and its entry for an index. `more` adds fields."""
    config = b"{}"
    described = [
        {
            "mediaType": kind,
            "digest": registry.push_blob(repository, content),
            "size": len(content),
            "annotations": notes,
        }
        for kind, content, notes in layers
    ]
    first = {"mediaType": OCI_CONFIG, "digest": registry.push_blob(repository, config), "size": len(config)}
    value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": first, "layers": described, **more}
    body = json.dumps(value).encode()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    registry.push_manifest(repository, digest, body)
    return digest, {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(body)}


def push_tag(registry: Registry, repository: str, image: str, ending: str, layers: Sequence[Layer]) -> str:
    """Push cosign's tag of an image, and return the tag."""
    tag = image.replace(":", "-") + ending
    digest, _ = push_layers(registry, repository, layers)
    registry.push_manifest(repository, tag, manifest_of(registry, repository, digest))
    return tag


def push_referrers(registry: Registry, repository: str, image: str, *layers: Layer, **more: Any) -> str:
    """Push a referrer for each layer, and the tag that lists them, for a registry without the API; return the tag."""
    size = len(manifest_of(registry, repository, image))
    subject = {"mediaType": OCI_MANIFEST, "digest": image, "size": size}
    entries = [
        push_layers(registry, repository, [each], artifactType=each[0], subject=subject, **more)[1] for each in layers
    ]
    tag = image.replace(":", "-")
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    registry.push_manifest(repository, tag, body, OCI_INDEX)
    return tag


def manifest_of(registry: Registry, repository: str, reference: str) -> bytes:
    accept = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}
    return registry.authorized("GET", f"/v2/{repository}/manifests/{reference}", headers=accept).body
