"""Signatures as stored by cosign: an image in the repository of the signed image, with a tag derived from its digest.

Its only layer is the signed payload, which contains the digest; the signature is an annotation of the layer.
https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from demo.images import OCI, Image, descriptor, manifest_of
from syncline.clients.registry.reference import digest_of

LAYER_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION: Final = "dev.cosignproject.cosign/signature"

_DETERMINISTIC: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)  # RFC 6979: the same signature each time
_NEVER: Final = "0001-01-01T00:00:00Z"


def key_pair(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, Path]:
    """Return the signing key in ``folder``, created if needed, and the file of its public key."""
    private, public = folder / "sample-signing.key", folder / "sample-signing.pub"
    if not private.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        private_format = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        private.touch(mode=0o600)
        private.write_bytes(key.private_bytes(*private_format))
    loaded = serialization.load_pem_private_key(private.read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey), private
    public_format = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(loaded.public_key().public_bytes(*public_format))
    return loaded, public


def tag_for(digest: str) -> str:
    """Return the tag of the signature of an image."""
    return f"{digest.replace(':', '-')}.sig"


def sign(image: Image, name: str, key: ec.EllipticCurvePrivateKey) -> Image:
    """Return the signature of ``image`` as an image; ``name`` is its reference in the payload."""
    statement = {
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": image.digest},
            "type": "cosign container image signature",
        },
        "optional": None,
    }
    payload = json.dumps(statement, separators=(",", ":")).encode()
    config = json.dumps(
        {
            "architecture": "",
            "created": _NEVER,
            "history": [{"created": _NEVER}],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(payload)]},
            "config": {},
        },
        separators=(",", ":"),
    ).encode()
    signature = base64.b64encode(key.sign(payload, _DETERMINISTIC)).decode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI.manifest,
        "config": descriptor(OCI.config, config),
        "layers": [{**descriptor(LAYER_TYPE, payload), "annotations": {ANNOTATION: signature}}],
    }
    return Image(manifest_of(OCI.manifest, manifest), {digest_of(config): config, digest_of(payload): payload})


def is_valid(manifest: Mapping[str, Any], payload: bytes, digest: str, public: Path) -> bool:
    """Return True if a signature is valid for the image with that digest and the key in ``public``."""
    key = serialization.load_pem_public_key(public.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey), public
    (layer,) = manifest["layers"]
    if layer["digest"] != digest_of(payload):
        return False
    try:
        key.verify(base64.b64decode(layer["annotations"][ANNOTATION]), payload, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return bool(json.loads(payload)["critical"]["image"]["docker-manifest-digest"] == digest)
