"""Certificates of keyless signatures: the chain to an authority at the time of signing, and the identity.

An authority such as Fulcio certifies a key for some minutes, with the identity of the signer as the alternative name of
the subject, and the issuer of the identity's token in an extension:
https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from syncline.clients.sigstore.keys import RejectedError, allowed_key
from syncline.errors import SynclineError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, ExtensionType

    _T = TypeVar("_T", bound=ExtensionType)

LONGEST_CHAIN: Final = 6
"""Certificates between a signer's and an authority's."""
_ISSUER_V1: Final = "1.3.6.1.4.1.57264.1.1"
_ISSUER_V2: Final = "1.3.6.1.4.1.57264.1.8"
_OTHER_NAME: Final = "1.3.6.1.4.1.57264.1.7"
_HASHES: Final = frozenset({"sha256", "sha384", "sha512", None})  # None: Ed25519
_UTF8_STRING: Final = 0x0C


def load_authorities(pem: str, where: str) -> tuple[Certificate, ...]:
    """Return the certificates in a PEM text, which are all trusted. Raises CONFIG_INVALID; `where` names the text."""
    try:
        return load_certificates(pem.encode())
    except RejectedError:
        raise SynclineError("CONFIG_INVALID", f"{where} has no certificate in PEM form that can be read") from None


def load_certificates(pem: bytes) -> tuple[Certificate, ...]:
    """Return the certificates in a PEM text, at least one. Raises RejectedError."""
    from cryptography import x509  # noqa: PLC0415 - slow to import, for signatures only

    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise RejectedError("a certificate cannot be read") from None


def load_der_certificate(der: bytes) -> Certificate:
    """Return a certificate in DER form. Raises RejectedError."""
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        raise RejectedError("a certificate cannot be read") from None


def check_chain(
    leaf: Certificate, others: Sequence[Certificate], authorities: Sequence[Certificate], at: float
) -> None:
    """Check that a certificate may sign, and that an authority issued it, all valid at a time in Unix seconds.

    `others` may have the certificates in between. Raises RejectedError.
    """
    from cryptography import x509  # noqa: PLC0415

    moment = dt.datetime.fromtimestamp(at, dt.UTC)
    try:
        _check_leaf(leaf)
        _check_period(leaf, moment)
        if not _is_issued(leaf, others, authorities, moment, 0):
            raise RejectedError("its certificate was not issued by the authority in `ca`")
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise RejectedError("its certificate is malformed") from None


def _is_issued(
    certificate: Certificate,
    others: Sequence[Certificate],
    authorities: Sequence[Certificate],
    moment: dt.datetime,
    between: int,
) -> bool:
    """Return True if a chain leads to an authority; `between` is the number of authorities below the next one."""
    for authority in authorities:
        if _may_issue(authority, certificate, between):
            _check_period(authority, moment)
            return True
    if between >= LONGEST_CHAIN:
        return False
    return any(
        _may_issue(each, certificate, between)
        and _is_valid(each, moment)
        and _is_issued(each, [other for other in others if other != each], authorities, moment, between + 1)
        for each in others
    )


def _may_issue(issuer: Certificate, certificate: Certificate, between: int) -> bool:
    """Return True if the issuer signed the certificate, and is an authority that may sign signers' certificates."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.x509 import BasicConstraints, ExtendedKeyUsage, KeyUsage  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    if issuer.subject != certificate.issuer or not _has_strong_hash(certificate):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    constraints, usage = _extension(issuer, BasicConstraints), _extension(issuer, KeyUsage)
    purposes = _extension(issuer, ExtendedKeyUsage)
    allowed = {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    return (
        constraints is not None
        and constraints.ca
        and (constraints.path_length is None or between <= constraints.path_length)
        and (usage is None or usage.key_cert_sign)
        and (purposes is None or not allowed.isdisjoint(purposes))
        and not _unknown_critical(issuer)
    )


def _check_leaf(leaf: Certificate) -> None:
    from cryptography.x509 import BasicConstraints, ExtendedKeyUsage, KeyUsage  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    constraints, usage = _extension(leaf, BasicConstraints), _extension(leaf, KeyUsage)
    purposes = _extension(leaf, ExtendedKeyUsage)
    if constraints is not None and constraints.ca:
        raise RejectedError("its certificate is that of an authority")
    if purposes is None or ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise RejectedError("its certificate is not for code signing")
    if usage is not None and not usage.digital_signature:
        raise RejectedError("its certificate is not for signatures")
    if unknown := _unknown_critical(leaf):
        raise RejectedError(f"its certificate has the unknown critical extension {unknown}")
    allowed_key(leaf.public_key())


def _unknown_critical(certificate: Certificate) -> str:
    """Return the OID of a critical extension that is not interpreted here, empty if there is none."""
    from cryptography.x509.oid import ExtensionOID  # noqa: PLC0415

    known = {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
    found = (each.oid.dotted_string for each in certificate.extensions if each.critical and each.oid not in known)
    return next(found, "")


def _has_strong_hash(certificate: Certificate) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415

    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return False
    return (None if algorithm is None else algorithm.name) in _HASHES


def _is_valid(certificate: Certificate, moment: dt.datetime) -> bool:
    return certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc


def _check_period(certificate: Certificate, moment: dt.datetime) -> None:
    if not _is_valid(certificate, moment):
        valid = f"from {certificate.not_valid_before_utc:%F %T} to {certificate.not_valid_after_utc:%F %T} UTC"
        raise RejectedError(f"a certificate is valid {valid}, and the signature was logged at {moment:%F %T} UTC")


def _extension(certificate: Certificate, kind: type[_T]) -> _T | None:
    from cryptography.x509 import ExtensionNotFound  # noqa: PLC0415

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except ExtensionNotFound:
        return None


def subjects_of(leaf: Certificate) -> tuple[str, ...]:
    """Return the identities that a certificate names: URIs, addresses of mail, and names of machines."""
    from cryptography import x509  # noqa: PLC0415

    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is None:
        return ()
    found: list[str] = [
        *names.get_values_for_type(x509.UniformResourceIdentifier),
        *names.get_values_for_type(x509.RFC822Name),
    ]
    others = names.get_values_for_type(x509.OtherName)
    found += [_utf8_string(each.value) for each in others if each.type_id.dotted_string == _OTHER_NAME]
    return tuple(filter(None, found))


def issuer_of(leaf: Certificate) -> str | None:
    """Return the issuer of the identity. Raises RejectedError if a certificate names two different ones."""
    from cryptography.x509 import UnrecognizedExtension  # noqa: PLC0415

    values: set[str] = set()
    for each in leaf.extensions:
        oid = each.oid.dotted_string
        if oid in (_ISSUER_V1, _ISSUER_V2) and isinstance(each.value, UnrecognizedExtension):
            raw = each.value.value
            values.add(_utf8_string(raw) if oid == _ISSUER_V2 else raw.decode("utf-8", "replace"))
    if len(values) > 1:
        raise RejectedError("its certificate names two issuers")
    return next(iter(values), None)


def _utf8_string(der: bytes) -> str:
    """Return the text of a DER UTF8String, empty for anything else."""
    if len(der) < 2 or der[0] != _UTF8_STRING:
        return ""
    size, start = der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start])
    return der[start:].decode("utf-8", "replace") if len(der) - start == size else ""
