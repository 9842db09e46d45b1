"""Full-object checksums of the S3 protocol: CRC64NVME and SHA-256.

An ETag depends on the sizes of an upload's parts. A full-object checksum depends on the bytes alone, so it compares
objects that were uploaded with different part sizes. A service states it if the request has ``x-amz-checksum-mode``; AWS
computes a CRC64NVME for every object that was uploaded without another checksum. A composite checksum (the checksum of
the parts' checksums) depends on the parts again, and is ignored.

CRC64NVME of a whole is computed from those of its parts. Its values are in base64, as the protocol has them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from syncline.clients.http.client import Response
from syncline.errors import SynclineError

if TYPE_CHECKING:
    from syncline.clients.s3.head import ObjectHead

CRC64NVME: Final = "crc64nvme"
SHA256: Final = "sha256"
ASKED: Final[Mapping[str, str]] = {"x-amz-checksum-mode": "ENABLED"}
"""The header of a read whose answer shall state checksums."""
FULL_OBJECT: Final[Mapping[str, str]] = {"x-amz-checksum-type": "FULL_OBJECT"}
ALGORITHM: Final[Mapping[str, str]] = {"x-amz-checksum-algorithm": "CRC64NVME"}

_SIZES: Final = {CRC64NVME: 8, SHA256: 32}


def stated(response: Response) -> dict[str, str]:
    """Return the full-object checksums in an answer, by algorithm; those of an unknown form are left out."""
    kind = response.header("x-amz-checksum-type").upper()
    if kind not in ("", "FULL_OBJECT"):
        return {}
    # Services that are older than the type state SHA-256; a composite one ends in the number of parts.
    names = _SIZES if kind else (SHA256,)
    values = {name: response.header(f"x-amz-checksum-{name}") for name in names}
    return {name: value for name, value in values.items() if is_valid(name, value)}


def crc64nvme(content: bytes) -> str:
    """Return the CRC64NVME of bytes. It takes 0.07 ms per MiB."""
    return _encoded(_model().calc(content))


def combined(parts: Iterable[tuple[str, int]]) -> str:
    """Return the CRC64NVME of a whole from the checksum and the size in bytes of each part, in order."""
    total = 0
    for text, size in parts:
        total = _model().combine(total, int.from_bytes(base64.b64decode(text)), size)
    return _encoded(total)


def equal(one: Mapping[str, str], other: Mapping[str, str]) -> bool | None:
    """Return True if two objects have equal checksums, None if they have none of the same algorithm."""
    shared = one.keys() & other.keys()
    return all(one[name] == other[name] for name in shared) if shared else None


def check_content(content: bytes, head: ObjectHead, where: str) -> None:
    """Raise DIGEST_MISMATCH if the complete ``content`` of an object does not have the checksums of its head."""
    for name, value in head.checksums.items():
        sha256 = base64.b64encode(hashlib.sha256(content).digest()).decode() if name == SHA256 else ""
        found = sha256 or crc64nvme(content)
        if found != value:
            what = f"the bytes received of {where} have the {name} {found}, and the service states {value}"
            raise SynclineError("DIGEST_MISMATCH", what)


def is_valid(name: str, value: str) -> bool:
    """Return True if a value has the form of a checksum of the algorithm ``name``."""
    try:
        return len(base64.b64decode(value, validate=True)) == _SIZES[name]
    except ValueError:
        return False


def _encoded(value: int) -> str:
    return base64.b64encode(value.to_bytes(8)).decode()


@cache
def _model() -> Any:  # anycrc has no types
    import anycrc  # noqa: PLC0415 - many functions compute no checksum

    return anycrc.Model("CRC64-NVME")
