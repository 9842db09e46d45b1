"""Keeping Kubernetes Secrets out of the target: left out, or encrypted, before anything is hashed.

Objects are judged by their content (:mod:`.detecting`). Encryption is AES-SIV (RFC 5297): the same content at the same
path under the same key gives the same bytes, so that what has not changed is not committed again, and nobody without
the key learns more than that it has not changed. It needs no randomness and cannot be misused by giving it none.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from syncline.errors import CodeName, SynclineError
from syncline.kinds.backups.paths import shown
from syncline.kinds.backups.secrets import Verdict, inspect, is_harmless, never, without_secrets
from syncline.kinds.kind import Page, split_equal
from syncline.model import Item, Outcome, Result
from syncline.store.backup_records import Known, LeftOutCode

MAGIC: Final = b"syncline-sealed:aes-siv:1\n"
_KEY_BYTES: Final = (32, 48, 64)
_WIDTH: Final = 76
_DETECTION: Final = 2
"""The version of the detection: what an older one let pass is read again."""


class Rule(StrEnum):
    """What happens to Kubernetes Secrets."""

    LEAVE_OUT = "leave-out"
    ENCRYPT = "encrypt"
    KEEP = "keep"


CERTAIN: Final[LeftOutCode] = ""
_UNSEEN: Final[CodeName] = "SECRETS_UNSEEN"
_CODES: Final[Mapping[Verdict, LeftOutCode]] = {
    Verdict.SECRET: CERTAIN,
    Verdict.SUSPECTED: "SECRET_SUSPECTED",
    Verdict.UNSEEN: _UNSEEN,
}
_REASONS: Final[Mapping[LeftOutCode, str]] = {
    CERTAIN: "is or holds a Kubernetes Secret",
    "SECRET_SUSPECTED": "cannot be parsed, but has a kind of Secret together with data or stringData",
    _UNSEEN: "cannot be searched for Secrets, or not be encrypted: it is or unpacks to too much, or is damaged",
}


@dataclass(frozen=True, slots=True)
class Sealed:
    """The bytes of an object that go to the target, None if it is left out.

    `code` says why it is left out: it is CERTAIN that it is a Secret, or one of the error table.
    """

    data: bytes | None
    code: LeftOutCode | None = None


def left_out(item: Item, code: LeftOutCode) -> Result:
    """Return the result of an item that is left out with this code of :class:`Sealed`."""
    reason = f"{shown(item.name)} {_REASONS.get(code, _REASONS[CERTAIN])}"
    return Result(item.group, item.name, Outcome.LEFT_OUT, None, item.target, 0, code or None, reason)


def staying(group: str, known: Mapping[str, Known], asked: frozenset[tuple[str, str]]) -> Page:
    """Return the page of objects that have not changed since they were committed or left out.

    It has results of those that were left out with a code, and of those equal that a retry has asked for.
    """
    left = {key: was.code for key, was in known.items() if not was.blob}
    named = tuple(left_out(Item(group, key), code) for key, code in left.items() if code)
    skipped, answers = split_equal(((group, key) for key in known if key not in left), asked)
    return Page("", equal=skipped, results=(*named, *answers), left_out=len(left) - len(named))


@dataclass(frozen=True, slots=True)
class Sealer:
    """Applies the rule. `key` is the encryption key, base64 of 32, 48 or 64 bytes."""

    rule: Rule
    key: str | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    """Objects are inspected one at a time: one may unpack to a lot of memory."""

    @property
    def name(self) -> str:
        """A name that differs if the sealer makes something else of the same object."""
        return self._name(f"-{_DETECTION}")

    @property
    def first_name(self) -> str:
        """The name that the sealer had before its detection had a version."""
        return self._name("")

    def _name(self, version: str) -> str:
        if self.rule is Rule.KEEP:
            return self.rule.value
        if self.rule is Rule.LEAVE_OUT:
            return f"{self.rule.value}{version}"
        import hashlib  # noqa: PLC0415 - where a key is

        return f"encrypt{version}-{hashlib.sha256(_key(self.key)).hexdigest()[:8]}"

    @property
    def inspects(self) -> bool:
        """Return True if objects are searched for Secrets."""
        return self.rule is not Rule.KEEP

    def sealed(self, path: str, data: bytes, over: Callable[[], bool] = never) -> Sealed:
        """Return the part of an object that goes to the target: all of it, some documents, its encrypted form, or nothing.

        Raises :exc:`.detecting.OutOfTime` if `over` returns True meanwhile.
        """
        if not self.inspects or is_harmless(data):
            return Sealed(data)
        with self._turn:
            verdict = inspect([data], over)
            if verdict is Verdict.CLEAN:
                return Sealed(data)
            if self.rule is Rule.ENCRYPT:
                return Sealed(seal(_key(self.key), path, data))
            kept = without_secrets(data, over) if verdict is Verdict.SECRET else None
        return Sealed(None, _CODES[verdict]) if kept is None else Sealed(kept)

    def refusal(self, chunks: Iterable[bytes], over: Callable[[], bool] = never) -> LeftOutCode | None:
        """Inspect an object too large to be held; return the code it is left out with, None if it goes to the target.

        Raises :exc:`.detecting.OutOfTime` if `over` returns True meanwhile.
        """
        with self._turn:
            verdict = inspect(chunks, over)
        # What is not held cannot be encrypted either.
        return _UNSEEN if self.rule is Rule.ENCRYPT and verdict is not Verdict.CLEAN else _CODES.get(verdict)


def seal(key: bytes, path: str, data: bytes) -> bytes:
    """Encrypt `data` for `path`, as lines of base64."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415 - only where there are Secrets

    # The empty message has no form of its own in this library; one byte before all others gives it one.
    text = base64.b64encode(AESSIV(key).encrypt(b"\0" + data, [path.encode()]))
    return MAGIC + b"".join(text[at : at + _WIDTH] + b"\n" for at in range(0, len(text), _WIDTH))


def unseal(key: str, path: str, data: bytes) -> bytes:
    """Return the data that :func:`seal` encrypted. Raises SECRET_SEALED if the key, the path or the content is another."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415

    try:
        raw = base64.b64decode(data.removeprefix(MAGIC).replace(b"\n", b""), validate=True)
        return AESSIV(_key(key)).decrypt(raw, [path.encode()])[1:]
    except (InvalidTag, binascii.Error):
        what = f"{path} cannot be decrypted: it was encrypted by another key, or changed since"
        raise SynclineError("SECRET_SEALED", what) from None


def _key(text: str | None) -> bytes:
    try:
        key = base64.b64decode(text or "", validate=True)
    except binascii.Error:
        key = b""
    if len(key) not in _KEY_BYTES:
        raise SynclineError("CONFIG_INVALID", "the key for Secrets is not base64 of 32, 48 or 64 bytes")
    return key
