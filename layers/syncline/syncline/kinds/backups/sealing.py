"""Keeping Kubernetes Secrets out of git: left out, or encrypted, before anything is hashed.

An object is looked into where it is YAML or JSON. Documents of kind ``Secret`` are found among several of one file and
in a ``List``; a file that only names the word is left as it is. Encryption is AES-SIV (RFC 5297): the same content at
the same path under the same key gives the same bytes, so that what has not changed is not committed again, and nobody
without the key learns more than that it has not changed. It needs no randomness and cannot be misused by giving it none.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from syncline.errors import SynclineError

MAGIC: Final = b"syncline-sealed:aes-siv:1\n"
LARGEST: Final = 32 * 1024 * 1024
"""Bytes of an object up to which it is looked into."""
_NAMES: Final = (".yaml", ".yml", ".json")
_KEY_BYTES: Final = (32, 48, 64)
_WIDTH: Final = 76
_SECRET: Final = re.compile(rb"\bSecret(?:List)?\b")
_DOCUMENT: Final = re.compile(rb"(?m)^---(?:[ \t].*)?$\n?")


class Rule(StrEnum):
    """What happens to Kubernetes Secrets."""

    LEAVE_OUT = "leave-out"
    ENCRYPT = "encrypt"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Sealer:
    """Applies the rule. ``key`` is the encryption key, base64 of 32, 48 or 64 bytes."""

    rule: Rule
    key: str | None = None

    @property
    def name(self) -> str:
        """What tells what this makes of an object from what another rule or key makes of it."""
        if self.rule is not Rule.ENCRYPT:
            return self.rule.value
        import hashlib  # noqa: PLC0415 - where a key is

        return f"encrypt-{hashlib.sha256(_key(self.key)).hexdigest()[:8]}"

    def looks_into(self, path: str) -> bool:
        """Whether an object has to be held as a whole because there may be Secrets in it."""
        return self.rule is not Rule.KEEP and path.lower().endswith(_NAMES)

    def sealed(self, path: str, data: bytes) -> bytes | None:
        """What of an object goes into git: all, a part, its encrypted form, or None for nothing of it."""
        if not self.looks_into(path) or not _SECRET.search(data):
            return data
        parts = _parts(data)
        secret = [_is_secret(part) for part in parts]
        if not any(secret):
            return data
        if self.rule is Rule.ENCRYPT:
            return seal(_key(self.key), path, data)
        kept = b"".join(part for part, out in zip(parts, secret, strict=True) if not out)
        # What is left of several documents begins as a file of its own does.
        return kept if kept.replace(b"---", b"").strip() else None


def seal(key: bytes, path: str, data: bytes) -> bytes:
    """``data`` encrypted for ``path``, as lines of base64."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415 - only where there are Secrets

    # The empty message has no form of its own in this library; one byte before all others gives it one.
    text = base64.b64encode(AESSIV(key).encrypt(b"\0" + data, [path.encode()]))
    return MAGIC + b"".join(text[at : at + _WIDTH] + b"\n" for at in range(0, len(text), _WIDTH))


def unseal(key: str, path: str, data: bytes) -> bytes:
    """What :func:`seal` encrypted; UNAUTHORIZED where the key, the path or the content is another."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415

    try:
        raw = base64.b64decode(data.removeprefix(MAGIC).replace(b"\n", b""), validate=True)
        return AESSIV(_key(key)).decrypt(raw, [path.encode()])[1:]
    except (InvalidTag, binascii.Error):
        what = f"{path} cannot be decrypted: it was encrypted by another key, or changed since"
        raise SynclineError("UNAUTHORIZED", what) from None


def _key(text: str | None) -> bytes:
    try:
        key = base64.b64decode(text or "", validate=True)
    except binascii.Error:
        key = b""
    if len(key) not in _KEY_BYTES:
        raise SynclineError("CONFIG_INVALID", "the key for Secrets is not base64 of 32, 48 or 64 bytes")
    return key


def _parts(data: bytes) -> list[bytes]:
    """The documents of a YAML file with the line that begins each; a JSON file is one."""
    if data.lstrip()[:1] in (b"{", b"["):
        return [data]
    starts = [match.start() for match in _DOCUMENT.finditer(data)]
    edges = sorted({0, *starts, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def _is_secret(part: bytes) -> bool:
    """Whether a document is a Secret or a list that holds one. What cannot be read but names one is taken for one."""
    if not _SECRET.search(part):
        return False
    return any(_holds_secret(value) for value in _values(part))


def _values(part: bytes) -> Iterator[Any]:
    if part.lstrip()[:1] in (b"{", b"["):
        try:
            yield json.loads(part)
        except (ValueError, RecursionError):
            yield {"kind": "Secret"}
        return
    import yaml  # noqa: PLC0415 - only where the word stands

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from yaml.load_all(part, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        # Not YAML, or with tags of its own: a line that says so decides.
        yield {"kind": "Secret"} if re.search(rb"(?m)^\s*-?\s*[\"']?kind[\"']?\s*:\s*[\"']?Secret", part) else None


def _holds_secret(value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_secret(each) for each in value)
    if not isinstance(value, dict):
        return False
    if value.get("kind") in ("Secret", "SecretList"):
        return True
    return isinstance(value.get("items"), list) and any(_holds_secret(each) for each in value["items"])
