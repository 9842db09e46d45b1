"""The filter of objects before anything is hashed: drop fields that change by themselves, leave Secrets out or encrypt them.

Objects are judged by their content (:mod:`.secrets_detection`). Encryption is AES-SIV (RFC 5297): the same content at
the same path under the same key gives the same bytes, so unchanged content is not committed again, and without the key
nobody learns more than that it has not changed. It needs no randomness, so a poor source of it does no harm.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from syncline.clients.http.retry import never_halted
from syncline.errors import CodeName, SynclineError
from syncline.kinds.backups.normalize import Normalizer
from syncline.kinds.backups.paths import shown
from syncline.kinds.backups.secrets_detection import Verdict, inspect, is_harmless, without_secrets
from syncline.model import Item, Outcome, Result
from syncline.store.backup_records import LeftOutCode

MAGIC: Final = b"syncline-sealed:aes-siv:1\n"  # the first line of an encrypted file
CERTAIN: Final[LeftOutCode] = ""  # the code of an object that is or contains a Secret for certain
_KEY_BYTES: Final = (32, 48, 64)
_LINE_LENGTH: Final = 76
_DETECTION: Final = 2  # the version of the detection: objects that an older one accepted are read again
_UNSEEN: Final[CodeName] = "SECRETS_UNSEEN"
_CODES: Final[Mapping[Verdict, LeftOutCode]] = {
    Verdict.SECRET: CERTAIN,
    Verdict.SUSPECTED: "SECRET_SUSPECTED",
    Verdict.UNSEEN: _UNSEEN,
}
_REASONS: Final[Mapping[LeftOutCode, str]] = {
    CERTAIN: "is or contains a Kubernetes Secret",
    "SECRET_SUSPECTED": "cannot be parsed, but has a kind of Secret together with data or stringData",
    _UNSEEN: "cannot be searched for Secrets or encrypted: it is too large, unpacks to too much, or is damaged",
}


class SecretsPolicy(StrEnum):
    """The treatment of Kubernetes Secrets."""

    LEAVE_OUT = "leave-out"
    ENCRYPT = "encrypt"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Filtered:
    """The bytes of an object that go to the target, None if it is left out.

    `code` is then CERTAIN or a code of the error table.
    """

    data: bytes | None
    code: LeftOutCode | None = None


def left_out(item: Item, code: LeftOutCode) -> Result:
    """Return the result of an item that is left out with this code of :class:`Filtered`."""
    reason = f"{shown(item.name)} {_REASONS.get(code, _REASONS[CERTAIN])}"
    return Result(item.group, item.name, Outcome.LEFT_OUT, None, item.target, 0, code or None, reason)


@dataclass(frozen=True, slots=True)
class SecretsFilter:
    """Applies a policy to objects. `key` is the encryption key, base64 of 32, 48 or 64 bytes.

    `normalizer` is applied first, to objects that can be held in memory.
    """

    policy: SecretsPolicy
    key: str | None = field(default=None, repr=False)
    normalizer: Normalizer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    """Held while an object is inspected: one may unpack to a lot of memory."""

    @property
    def name(self) -> str:
        """A name that differs if the filter makes something else of the same object."""
        name = self._name(f"-{_DETECTION}")
        return name if self.normalizer is None else f"{name}-{self.normalizer.name}"

    @property
    def first_name(self) -> str:
        """The name that the filter had before its detection had a version."""
        return self._name("")

    def _name(self, version: str) -> str:
        if self.policy is SecretsPolicy.KEEP:
            return self.policy.value
        if self.policy is SecretsPolicy.LEAVE_OUT:
            return f"{self.policy.value}{version}"
        import hashlib  # noqa: PLC0415 - only where there is a key

        return f"encrypt{version}-{hashlib.sha256(_key_bytes(self.key)).hexdigest()[:8]}"

    @property
    def inspects(self) -> bool:
        """True if objects are searched for Secrets or normalized."""
        return self.policy is not SecretsPolicy.KEEP or self.normalizer is not None

    def apply(self, path: str, data: bytes, over: Callable[[], bool] = never_halted) -> Filtered:
        """Return the part of an object that goes to the target: all, some documents, its encrypted form, or nothing.

        Raises :exc:`.secrets_detection.OutOfTime` if `over` returns True meanwhile.
        """
        if self.normalizer is not None:
            data = self.normalizer.apply(data, over)
        if self.policy is SecretsPolicy.KEEP or is_harmless(data):
            return Filtered(data)
        with self._lock:
            verdict = inspect([data], over)
            if verdict is Verdict.CLEAN:
                return Filtered(data)
            if self.policy is SecretsPolicy.ENCRYPT:
                return Filtered(encrypt(_key_bytes(self.key), path, data))
            kept = without_secrets(data, over) if verdict is Verdict.SECRET else None
        return Filtered(None, _CODES[verdict]) if kept is None else Filtered(kept)

    def reason_to_leave_out(
        self, chunks: Iterable[bytes], over: Callable[[], bool] = never_halted
    ) -> LeftOutCode | None:
        """Inspect an object too large to be held in memory. Return its code if it is left out, else None.

        Raises :exc:`.secrets_detection.OutOfTime` if `over` returns True meanwhile.
        """
        if self.policy is SecretsPolicy.KEEP:
            return None
        with self._lock:
            verdict = inspect(chunks, over)
        # An object that is not held cannot be encrypted either.
        return _UNSEEN if self.policy is SecretsPolicy.ENCRYPT and verdict is not Verdict.CLEAN else _CODES.get(verdict)


def encrypt(key: bytes, path: str, data: bytes) -> bytes:
    """Encrypt `data` for `path`, as lines of base64."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415 - only where there are Secrets

    # This library does not encrypt an empty message, so one byte precedes every message.
    text = base64.b64encode(AESSIV(key).encrypt(b"\0" + data, [path.encode()]))
    return MAGIC + b"".join(text[at : at + _LINE_LENGTH] + b"\n" for at in range(0, len(text), _LINE_LENGTH))


def decrypt(key: str, path: str, data: bytes) -> bytes:
    """Return the data that :func:`encrypt` encrypted. Raises SECRET_SEALED if key, path or content do not match."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415

    try:
        raw = base64.b64decode(data.removeprefix(MAGIC).replace(b"\n", b""), validate=True)
        return AESSIV(_key_bytes(key)).decrypt(raw, [path.encode()])[1:]
    except (InvalidTag, binascii.Error):
        what = f"{path} cannot be decrypted: it was encrypted with another key, or changed since"
        raise SynclineError("SECRET_SEALED", what) from None


def _key_bytes(text: str | None) -> bytes:
    try:
        key = base64.b64decode(text or "", validate=True)
    except binascii.Error:
        key = b""
    if len(key) not in _KEY_BYTES:
        raise SynclineError("CONFIG_INVALID", "the encryption key for Secrets is not base64 of 32, 48 or 64 bytes")
    return key
