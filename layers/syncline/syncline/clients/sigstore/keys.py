"""Public keys, and the signatures that they verify.

The type of the key alone decides the algorithm, never a name that comes with the signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from syncline.errors import SynclineError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey: TypeAlias = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey

LONGEST_SIGNATURE: Final = 2048
"""Bytes of a signature: one of a 16,384 bit RSA key."""
SMALLEST_RSA: Final = 2048
_PEM_KEY: Final = re.compile("-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class RejectedError(Exception):
    """A signature, certificate or log entry is invalid; the text is the reason."""


def load_public_keys(pem: str, where: str) -> tuple[PublicKey, ...]:
    """Return the public keys in a PEM text. Raises CONFIG_INVALID; `where` names the text in the message."""
    blocks = _PEM_KEY.findall(pem)
    try:
        keys = tuple(parse_public_key(each) for each in blocks)
    except RejectedError as error:
        raise SynclineError("CONFIG_INVALID", f"{where}: {error}") from None
    if not keys:
        raise SynclineError("CONFIG_INVALID", f"{where} has no public key in PEM form (-----BEGIN PUBLIC KEY-----)")
    return keys


def parse_public_key(pem: str) -> PublicKey:
    """Return a public key of an allowed type: ECDSA P-256, P-384 or P-521, RSA, or Ed25519. Raises RejectedError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - slow to import, for signatures only
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise RejectedError("a public key cannot be read") from None
    return allowed_key(key)


def allowed_key(key: object) -> PublicKey:
    """Return a key if its type and size are allowed. Raises RejectedError."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < SMALLEST_RSA:
            raise RejectedError(f"an RSA key of {key.key_size} bits is too short; {SMALLEST_RSA} is the minimum")
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
        return key
    raise RejectedError("a key is neither ECDSA (P-256, P-384, P-521), RSA nor Ed25519")


def is_signed(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Return True if the signature of a message was made with the key.

    For larger curves than P-256, cosign uses SHA-256 in some versions and the hash of the curve's size in others.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding  # noqa: PLC0415

    attempts: list[Callable[[], None]]
    if not signature or len(signature) > LONGEST_SIGNATURE:
        attempts = []
    elif isinstance(key, ed25519.Ed25519PublicKey):
        attempts = [partial(key.verify, signature, message)]
    elif isinstance(key, ec.EllipticCurvePublicKey):
        larger: dict[int, hashes.HashAlgorithm] = {384: hashes.SHA384(), 521: hashes.SHA512()}
        algorithms = filter(None, (larger.get(key.curve.key_size), hashes.SHA256()))
        attempts = [partial(key.verify, signature, message, ec.ECDSA(each)) for each in algorithms]
    else:
        attempts = [partial(key.verify, signature, message, padding.PKCS1v15(), hashes.SHA256())]
    for attempt in attempts:
        try:
            attempt()
        except InvalidSignature:
            continue
        return True
    return False


def key_bytes(key: PublicKey) -> bytes:
    """Return a key in DER form (SubjectPublicKeyInfo)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: PublicKey) -> bytes:
    """Return the ID of a log's key: the SHA-256 of its DER form."""
    return hashlib.sha256(key_bytes(key)).digest()


def decode_base64(value: object, what: str) -> bytes:
    """Return the bytes of a base64 text. Raises RejectedError; `what` names the text."""
    if isinstance(value, str) and value:
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise RejectedError(f"{what} is not base64")


def parse_json(data: bytes | str, what: str) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises RejectedError, also for a key that occurs twice.

    Parsers differ in which of two equal keys counts, so that another tool could see another image.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise RejectedError(f"{what} has a key twice")
        return found

    def refuse(_constant: str) -> None:
        raise RejectedError(f"{what} has a number that is not JSON")

    try:
        value = json.loads(data, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise RejectedError(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise RejectedError(f"{what} is not a JSON object")
    return value


def part(value: object, *path: str) -> Any:
    """Return the value at a path of keys in JSON values, None if there is none."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
