"""Signatures and attestations of an image, as cosign and other clients of Sigstore store them in a registry.

1. Under the tag ``sha256-<digest>.sig``, or as a referrer: a manifest with a layer for each signature. The layer is the
   payload (*simple signing*), which names the digest of the image; annotations have the signature over its bytes, and
   for a keyless one the certificate, its chain and the log's entry.
2. Under ``sha256-<digest>.att``, or as a referrer: each layer is a DSSE envelope with a statement of in-toto, which names
   the digest of the image as a subject, and a predicate.
3. As a referrer: a layer that is a *bundle* (https://github.com/sigstore/protobuf-specs), which holds an envelope, or a
   signature over the bytes of the image's manifest.

All of it is written by whoever can push to the source, and nothing is relied on before the signature is verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from syncline.clients.sigstore.certificates import (
    LONGEST_CHAIN,
    check_chain,
    issuer_of,
    load_certificates,
    load_der_certificate,
    subjects_of,
)
from syncline.clients.sigstore.keys import (
    RejectedError,
    allowed_key,
    decode_base64,
    is_signed,
    key_bytes,
    parse_json,
    parse_public_key,
    part,
)
from syncline.clients.sigstore.log import LogEntry

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from syncline.clients.sigstore.keys import PublicKey

SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE: Final = "application/vnd.dsse.envelope.v1+json"
BUNDLE: Final = "application/vnd.dev.sigstore.bundle"
"""The beginning of a bundle's type, before its version."""
SIGN_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
"""The predicate of a statement that is a signature of an image."""
LONGEST_ANNOTATION: Final = 256 * 1024
MOST_SIGNATURES: Final = 10
"""Signatures of one envelope."""
_SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
_CHAIN: Final = "dev.sigstore.cosign/chain"
_LOG_ENTRY: Final = "dev.sigstore.cosign/bundle"
_IN_TOTO: Final = "application/vnd.in-toto+json"
_STATEMENTS: Final = ("https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1")
_PAYLOAD_TYPES: Final = ("cosign container image signature", SIGN_PREDICATE)


@dataclass(frozen=True, slots=True)
class Identity:
    """A signer without a key of its own: the authorities that certify it, the keys of the logs, and its names.

    `is_subject` returns True for a name that is accepted.
    """

    issuer: str
    is_subject: Callable[[str], bool]
    authorities: Sequence[Certificate]
    log_keys: Sequence[PublicKey]


@dataclass(frozen=True, slots=True)
class Claim:
    """The content of a verified signature: the image's digest, a predicate or None for a plain signature, and its names."""

    predicate: str | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Material:
    """The certificate of a keyless signature, those between it and an authority, and the log's entries."""

    certificate: Certificate | None = None
    chain: tuple[Certificate, ...] = ()
    entries: tuple[LogEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One signature as it was found, not verified. `message` was signed, `content` is its payload.

    `envelope` are the bytes of a DSSE envelope, empty if only its parts are known, None for other signatures. `statement` is True if the content is a
    statement of in-toto, False if it is a payload of simple signing, and None if it is the image's manifest itself.
    """

    message: bytes
    content: bytes
    signatures: tuple[bytes, ...]
    statement: bool | None
    envelope: bytes | None = None
    material: Material = field(default=Material())

    def check_key(self, keys: Sequence[PublicKey]) -> None:
        """Check that one of the keys made the signature. Raises RejectedError."""
        if self._signed_by(keys) is None:
            raise RejectedError("it was not made with the key")

    def check_identity(self, identity: Identity, now: float) -> None:
        """Check that the identity made the signature: certificate, time of signing by the log, names. Raises RejectedError."""
        certificate, entries = self.material.certificate, self.material.entries
        if certificate is None:
            raise RejectedError("it has no certificate, and was made with a key")
        if not entries:
            raise RejectedError("it has no log entry, so its time is not known")
        signature = self._signed_by([allowed_key(certificate.public_key())])
        if signature is None:
            raise RejectedError("it was not made with the key of its certificate")
        problems: list[RejectedError] = []
        for entry in entries:
            try:
                entry.check(identity.log_keys, now)
                self._check_logged(entry, signature, certificate)
                check_chain(certificate, self.material.chain, identity.authorities, entry.time)
                break
            except RejectedError as error:
                problems.append(error)
        else:
            raise problems[0]
        issuer, subjects = issuer_of(certificate), subjects_of(certificate)
        if issuer != identity.issuer:
            raise RejectedError(f"its identity was issued by {_shown(issuer)}")
        if not any(map(identity.is_subject, subjects)):
            raise RejectedError(f"it was made by {_shown(', '.join(subjects))}")

    def claim(self, digest: str, manifest: bytes) -> Claim:
        """Return the content of a signature that names an image by its digest. Raises RejectedError for another image."""
        if self.statement is None:
            if self.content != manifest:
                raise RejectedError("it is for another image")
            return Claim(None, ())
        value = parse_json(self.content, "the signed payload")
        if not self.statement:
            if part(value, "critical", "type") not in _PAYLOAD_TYPES:
                raise RejectedError("its payload is not that of an image's signature")
            if part(value, "critical", "image", "docker-manifest-digest") != digest:
                raise RejectedError("it is for another image")
            name = part(value, "critical", "identity", "docker-reference")
            return Claim(None, (name,) if isinstance(name, str) else ())
        predicate, subjects = value.get("predicateType"), value.get("subject")
        if value.get("_type") not in _STATEMENTS or not isinstance(predicate, str) or not isinstance(subjects, list):
            raise RejectedError("its payload is not a statement of in-toto")
        algorithm, _, encoded = digest.partition(":")
        ours = [each for each in subjects if part(each, "digest", algorithm) == encoded]
        if not ours:
            raise RejectedError("it is for another image")
        names = tuple(name for each in ours if isinstance(name := part(each, "name"), str))
        return Claim(None if predicate == SIGN_PREDICATE else predicate, names)

    def _signed_by(self, keys: Sequence[PublicKey]) -> bytes | None:
        """Return the signature that one of the keys made, None if none did."""
        pairs = ((key, each) for key in keys for each in self.signatures)
        return next((each for key, each in pairs if is_signed(key, each, self.message)), None)

    def _check_logged(self, entry: LogEntry, signature: bytes, certificate: Certificate) -> None:
        """Check that a log's entry is about this signature, key and payload. Raises RejectedError."""
        value = parse_json(entry.body, "the body of the log entry")
        kind, version, spec = value.get("kind"), value.get("apiVersion"), value.get("spec")
        signers: list[tuple[Any, Any]]  # signature and key, in base64; a signature of None is not logged
        match kind, version:
            case "hashedrekord", "0.0.1":
                matches = _is_hash(part(spec, "data", "hash"), self.message)
                logged = part(spec, "signature")
                signers = [(part(logged, "content"), part(logged, "publicKey", "content"))]
            case "dsse", "0.0.1":
                matches = _is_hash(part(spec, "payloadHash"), self.content)
                logged = part(spec, "signatures")
                signers = [(part(each, "signature"), part(each, "verifier")) for each in _some(logged)]
            case "intoto", "0.0.1":
                payload_hash = part(spec, "content", "payloadHash")
                envelope_hash = part(spec, "content", "hash")
                if payload_hash is not None:
                    matches = _is_hash(payload_hash, self.content)
                else:
                    matches = bool(self.envelope) and _is_hash(envelope_hash, self.envelope or b"")
                signers = [(None, part(spec, "publicKey"))]
            case "intoto", "0.0.2":
                matches = _is_hash(part(spec, "content", "payloadHash"), self.content)
                logged = part(spec, "content", "envelope", "signatures")
                signers = [(_twice(part(each, "sig")), part(each, "publicKey")) for each in _some(logged)]
            case _:
                raise RejectedError(f"its log entry is of the unknown type {_shown(f'{kind} {version}')}")
        if not matches:
            raise RejectedError("its log entry is about another payload")
        if kind != "hashedrekord" and self.envelope is None:
            raise RejectedError("its log entry is about an envelope, and it is none")
        for text, key in signers:
            made = None if text is None else decode_base64(text, "the signature in the log entry")
            if made in (None, signature) and _is_certificate(key, certificate):
                return
        raise RejectedError("its log entry is about another signature or certificate")


def evidence_in_layer(media_type: str, annotations: Mapping[str, Any], content: bytes, manifest: bytes) -> Evidence:
    """Return the signature in a layer; `manifest` is that of the image. Raises RejectedError if it is malformed."""
    if media_type.startswith(BUNDLE):
        return _of_bundle(parse_json(content, "the bundle"), manifest)
    certificate = _annotation(annotations, _CERTIFICATE)
    chain, entry = _annotation(annotations, _CHAIN), _annotation(annotations, _LOG_ENTRY)
    certificates = load_certificates(certificate.encode()) if certificate else ()
    others = load_certificates(chain.encode()) if chain else ()
    material = Material(
        certificates[0] if certificates else None,
        (*certificates[1:], *others)[:LONGEST_CHAIN],
        (LogEntry.of_cosign(entry),) if entry else (),
    )
    if media_type == DSSE:
        return _of_envelope(parse_json(content, "the envelope"), content, material)
    signature = decode_base64(_annotation(annotations, _SIGNATURE), "the signature")
    return Evidence(content, content, (signature,), statement=False, material=material)


def _annotation(annotations: Mapping[str, Any], name: str) -> str:
    value = annotations.get(name) or ""
    if not isinstance(value, str) or len(value) > LONGEST_ANNOTATION:
        raise RejectedError(f"the annotation {name} is no text, or too long")
    return value


def _of_envelope(value: Mapping[str, Any], raw: bytes, material: Material) -> Evidence:
    """Return the signature in a DSSE envelope (https://github.com/secure-systems-lab/dsse)."""
    payload_type, content = value.get("payloadType"), decode_base64(value.get("payload"), "the payload of the envelope")
    if payload_type != _IN_TOTO:
        raise RejectedError(f"its envelope holds {_shown(payload_type)}, not a statement of in-toto")
    signatures = _some(value.get("signatures"))
    if not signatures:
        raise RejectedError("its envelope has no signature")
    made = tuple(decode_base64(part(each, "sig"), "the signature of the envelope") for each in signatures)
    message = b"DSSEv1 %d %s %d %s" % (len(_IN_TOTO), _IN_TOTO.encode(), len(content), content)
    return Evidence(message, content, made, statement=True, envelope=raw, material=material)


def _of_bundle(value: Mapping[str, Any], manifest: bytes) -> Evidence:
    if not str(value.get("mediaType")).startswith(BUNDLE):
        raise RejectedError("it is not a bundle of Sigstore")
    material = value.get("verificationMaterial")
    listed = _some(part(material, "x509CertificateChain", "certificates"))
    single = part(material, "certificate")
    raw = [part(each, "rawBytes") for each in ([single] if single is not None else listed)]
    certificates = [load_der_certificate(decode_base64(each, "a certificate")) for each in raw[: LONGEST_CHAIN + 1]]
    entries = _some(part(material, "tlogEntries"))
    found = Material(
        certificates[0] if certificates else None, tuple(certificates[1:]), tuple(map(LogEntry.of_bundle, entries))
    )
    envelope, message = value.get("dsseEnvelope"), value.get("messageSignature")
    if (envelope is None) == (message is None):
        raise RejectedError("the bundle has neither an envelope nor a signature, or both")
    if isinstance(envelope, dict):
        return _of_envelope(envelope, b"", found)
    if part(message, "messageDigest", "algorithm") not in (None, "SHA2_256"):
        raise RejectedError("the bundle names another digest than SHA-256")
    stated = part(message, "messageDigest", "digest")
    if stated is not None and decode_base64(stated, "the digest in the bundle") != hashlib.sha256(manifest).digest():
        raise RejectedError("it is for another image")
    signature = decode_base64(part(message, "signature"), "the signature")
    return Evidence(manifest, manifest, (signature,), statement=None, material=found)


def _some(value: Any) -> list[Any]:
    """Return a list of JSON, empty for None. Raises RejectedError if it is none or too long."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MOST_SIGNATURES:
        raise RejectedError("a list in it is malformed or too long")
    return value


def _is_hash(value: Any, data: bytes) -> bool:
    """Return True if a hash with its algorithm, as logs write it, is that of the data."""
    algorithm, digest = part(value, "algorithm"), part(value, "value")
    return algorithm in ("sha256", "sha384", "sha512") and hashlib.new(algorithm, data).hexdigest() == digest


def _twice(value: Any) -> str:
    """Return the base64 text that is itself in base64. Raises RejectedError."""
    return decode_base64(value, "the signature in the log entry").decode("ascii", "replace")


def _is_certificate(encoded: Any, certificate: Certificate) -> bool:
    """Return True if a log's entry names this certificate, or its key, as the one that made the signature."""
    pem = decode_base64(encoded, "the key in the log entry")
    if b"BEGIN CERTIFICATE" in pem:
        return load_certificates(pem)[0] == certificate
    named = parse_public_key(pem.decode("ascii", "replace"))
    return key_bytes(named) == key_bytes(allowed_key(certificate.public_key()))


def _shown(value: object) -> str:
    """Return a foreign value for a message, shortened."""
    text = str(value)
    return ascii(text if len(text) <= 200 else f"{text[:200]}…")
