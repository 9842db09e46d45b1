"""Parsers for repositories, tags and digests of the distribution specification, with the reason if one is invalid.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests and
https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from syncline.errors import SynclineError

if TYPE_CHECKING:
    from hashlib import _Hash

MAX_REPOSITORY: Final = 255
MAX_TAG: Final = 128

_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_HEX_LENGTHS: Final = {"sha256": 64, "sha512": 128}


def parse_repository(text: str) -> str:
    """Return ``text`` if it is the name of a repository, such as ``org/app``. Raises REFERENCE_INVALID with the reason."""
    if not text:
        raise _invalid("repository", text, "it is empty")
    if len(text) > MAX_REPOSITORY:
        raise _invalid("repository", text[:40] + "…", f"it is longer than {MAX_REPOSITORY} characters")
    for component in text.split("/"):
        if not component:
            raise _invalid("repository", text, "a part between slashes is empty")
        if component != component.lower():
            raise _invalid("repository", text, f"{component!r} has upper case letters")
        if _COMPONENT.fullmatch(component) is None:
            raise _invalid(
                "repository",
                text,
                f"{component!r} must be lower case letters and digits, separated by single '.', '_', '__' or dashes",
            )
    return text


def parse_tag(text: str) -> str:
    """Return ``text`` if it is a tag. Raises REFERENCE_INVALID with the reason."""
    if not text:
        raise _invalid("tag", text, "it is empty")
    if len(text) > MAX_TAG:
        raise _invalid("tag", text[:40] + "…", f"it is longer than {MAX_TAG} characters")
    if text[0] in ".-":
        raise _invalid("tag", text, f"it begins with {text[0]!r}")
    if _TAG.fullmatch(text) is None:
        raise _invalid("tag", text, "it has characters other than letters, digits, '_', '.' and '-'")
    return text


def parse_digest(text: str) -> str:
    """Return ``text`` if it is a sha256 or sha512 digest. Raises REFERENCE_INVALID with the reason."""
    if _DIGEST.fullmatch(text) is not None:
        return text
    algorithm, colon, digits = text.partition(":")
    shown = text[:140]
    if not colon:
        raise _invalid("digest", shown, "it has no algorithm before a ':'")
    if algorithm not in _HEX_LENGTHS:
        raise _invalid("digest", shown, "its algorithm is neither sha256 nor sha512")
    if len(digits) != _HEX_LENGTHS[algorithm]:
        raise _invalid("digest", shown, f"{algorithm} has {_HEX_LENGTHS[algorithm]} digits, not {len(digits)}")
    raise _invalid("digest", shown, "its digits are not 0-9 and a-f")


def is_digest(text: str) -> bool:
    """Return True if :func:`parse_digest` accepts ``text``."""
    return _DIGEST.fullmatch(text) is not None


def parse_reference(text: str) -> str:
    """Return ``text`` if it is a tag or a digest. Raises REFERENCE_INVALID with the reason."""
    return parse_digest(text) if ":" in text else parse_tag(text)


def digest_of(data: bytes) -> str:
    """Return the sha256 digest of ``data``, as ``sha256:<hex>``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def hasher(digest: str) -> _Hash:
    """Return a new hash object for the algorithm of ``digest``; compare it with :func:`hash_matches`."""
    return hashlib.new(parse_digest(digest).partition(":")[0])


def digest_matches(digest: str, data: bytes) -> bool:
    """Return True if ``data`` has the digest."""
    hash_ = hasher(digest)
    hash_.update(data)
    return hash_matches(digest, hash_)


def hash_matches(digest: str, hash_: _Hash) -> bool:
    """Return True if a hash object that was fed all bytes has ``digest``."""
    return digest == f"{hash_.name}:{hash_.hexdigest()}"


def _invalid(kind: str, text: str, why: str) -> SynclineError:
    return SynclineError("REFERENCE_INVALID", f"{text!r} is not a {kind}: {why}")
