"""Detached signatures of reports: Ed25519 of the bytes, or ECDSA with SHA-256, which ``openssl`` checks too."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from syncline.errors import SynclineError

SUFFIX: Final = ".sig"
"""Ends the name of a file's signature."""
_LARGEST_KEY: Final = 64 * 1024


def sign(pem: str, files: dict[Path, bytes]) -> dict[Path, bytes]:
    """Return the signature of each file's content by the path of the signature. Raises USAGE for an unsuitable key."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - slow to import
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415

    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unsuitable("the key for signatures is no private key in PEM without a passphrase") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {signature_of(path): key.sign(content) for path, content in files.items()}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {signature_of(path): key.sign(content, ec.ECDSA(hashes.SHA256())) for path, content in files.items()}
    raise _unsuitable(f"the key for signatures is of the type {type(key).__name__}")


def check_signature(report: Path, key_file: Path) -> bool:
    """Return True if the signature beside a report is that of its bytes by a public key. Raises USAGE if a file is unusable."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415 - slow to import
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415

    content, signature, pem = _read(report), _read(signature_of(report)), _read(key_file)
    try:
        key = serialization.load_pem_public_key(pem[:_LARGEST_KEY])
    except (ValueError, UnsupportedAlgorithm):
        raise SynclineError("USAGE", f"{key_file} is no public key in PEM") from None
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, content)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
        else:
            raise _unsuitable(f"{key_file} is a key of the type {type(key).__name__}")
    except InvalidSignature:
        return False
    return True


def signature_of(path: Path) -> Path:
    """Return the path of a file's signature."""
    return path.with_name(path.name + SUFFIX)


def _unsuitable(what: str) -> SynclineError:
    return SynclineError("USAGE", f"{what}; use an Ed25519 or ECDSA key (`openssl genpkey -algorithm ed25519`)")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SynclineError("USAGE", f"cannot read {path}: {error.strerror}") from None
