"""Entries of a transparency log such as Rekor, which confirm that a signature was logged at a time.

1. The log signs ``{"body", "integratedTime", "logID", "logIndex"}`` in canonical JSON, the *signed entry timestamp*. Nothing
   else confirms the time.
2. An inclusion proof leads from the entry's hash to the root of a Merkle tree (RFC 6962), and a *checkpoint* is the root
   signed by the log (https://github.com/transparency-dev/formats/blob/main/log/README.md).
3. The body names the hash of what was signed, the signature and the key. They must be those of the signature that is
   checked, or the entry belongs to another one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from syncline.clients.sigstore.keys import RejectedError, decode_base64, is_signed, key_id, parse_json, part

if TYPE_CHECKING:
    from syncline.clients.sigstore.keys import PublicKey

CLOCK_SKEW: Final = 300.0
"""Seconds by which the clock of a log may be ahead."""
MOST_HASHES: Final = 64
LARGEST_CHECKPOINT: Final = 16 * 1024
_SEPARATOR: Final = "— "


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """A path in a log's tree of `size` entries, from the entry `index` to the `root`, and the signed checkpoint."""

    index: int
    size: int
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of a log. `time` is in Unix seconds, `promise` the signed entry timestamp."""

    body: bytes
    time: int
    log_id: bytes
    index: int
    promise: bytes | None
    proof: InclusionProof | None = None

    @classmethod
    def of_cosign(cls, text: str) -> LogEntry:
        """Return the entry in the annotation ``dev.sigstore.cosign/bundle``. Raises RejectedError."""
        value = parse_json(text, "the annotation of the log entry")
        payload = part(value, "Payload")
        try:
            log_id = bytes.fromhex(part(payload, "logID"))
        except (ValueError, TypeError):
            raise RejectedError("the log entry has no ID of a log") from None
        return cls(
            decode_base64(part(payload, "body"), "the body of the log entry"),
            _number(part(payload, "integratedTime"), "time"),
            log_id,
            _number(part(payload, "logIndex"), "index"),
            decode_base64(part(value, "SignedEntryTimestamp"), "the signed entry timestamp"),
        )

    @classmethod
    def of_bundle(cls, value: Any) -> LogEntry:
        """Return the entry in a bundle (``TransparencyLogEntry``). Raises RejectedError."""
        promise = part(value, "inclusionPromise", "signedEntryTimestamp")
        return cls(
            decode_base64(part(value, "canonicalizedBody"), "the body of the log entry"),
            _number(part(value, "integratedTime") or 0, "time"),
            decode_base64(part(value, "logId", "keyId"), "the ID of the log"),
            _number(part(value, "logIndex") or 0, "index"),
            None if promise is None else decode_base64(promise, "the signed entry timestamp"),
            _proof(part(value, "inclusionProof")),
        )

    def check(self, log_keys: Sequence[PublicKey], now: float) -> None:
        """Check that one of the logs has accepted the entry at its time. Raises RejectedError."""
        key = next((each for each in log_keys if key_id(each) == self.log_id), None)
        if key is None:
            raise RejectedError("its log entry is from a log whose key is not in `log_key`")
        if self.promise is None or not self.time:
            raise RejectedError("its log entry has no signed entry timestamp, which alone confirms the time of signing")
        signed = {
            "body": base64.b64encode(self.body).decode(),
            "integratedTime": self.time,
            "logID": self.log_id.hex(),
            "logIndex": self.index,
        }
        if not is_signed(key, self.promise, json.dumps(signed, separators=(",", ":"), sort_keys=True).encode()):
            raise RejectedError("the signed entry timestamp is not signed by the log")
        if self.time > now + CLOCK_SKEW:
            raise RejectedError("its log entry is from the future")
        if self.proof is not None:
            check_inclusion(self.proof, self.body)
            _check_checkpoint(self.proof, key)


def _number(value: Any, what: str) -> int:
    """Return a number, which JSON of protocol buffers has as text. Raises RejectedError."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise RejectedError(f"the {what} of the log entry is not a number")


def _proof(value: Any) -> InclusionProof | None:
    if value is None:
        return None
    hashes = part(value, "hashes") or []
    if not isinstance(hashes, list) or len(hashes) > MOST_HASHES:
        raise RejectedError("the inclusion proof has no list of hashes, or too many")
    checkpoint = part(value, "checkpoint", "envelope")
    if not isinstance(checkpoint, str) or len(checkpoint) > LARGEST_CHECKPOINT:
        raise RejectedError("the inclusion proof has no checkpoint")
    return InclusionProof(
        _number(part(value, "logIndex") or 0, "proof"),
        _number(part(value, "treeSize") or 0, "proof"),
        decode_base64(part(value, "rootHash"), "the root hash of the inclusion proof"),
        tuple(decode_base64(each, "a hash of the inclusion proof") for each in hashes),
        checkpoint,
    )


def check_inclusion(proof: InclusionProof, body: bytes) -> None:
    """Check that the hashes lead from an entry to the root (RFC 9162, 2.1.3.2). Raises RejectedError."""
    if proof.index >= proof.size:
        raise RejectedError("the inclusion proof is for an entry outside the tree")
    at, last = proof.index, proof.size - 1
    found = hashlib.sha256(b"\0" + body).digest()
    for each in proof.hashes:
        if last == 0:
            raise RejectedError("the inclusion proof is too long")
        if at & 1 or at == last:
            found = hashlib.sha256(b"\1" + each + found).digest()
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\1" + found + each).digest()
        at, last = at >> 1, last >> 1
    if last != 0 or found != proof.root:
        raise RejectedError("the inclusion proof does not lead to the root of the log's tree")


def _check_checkpoint(proof: InclusionProof, key: PublicKey) -> None:
    """Check that the log signed the proof's root and size. Raises RejectedError."""
    text, separator, signatures = proof.checkpoint.partition("\n\n")
    lines = text.split("\n")
    if not separator or len(lines) < 3:
        raise RejectedError("the checkpoint of the log is malformed")
    root = decode_base64(lines[2], "the root hash of the checkpoint")
    if lines[1] != str(proof.size) or root != proof.root:
        raise RejectedError("the checkpoint of the log is that of another tree")
    message = f"{text}\n".encode()
    for line in signatures.splitlines()[:8]:
        if not line.startswith(_SEPARATOR):
            continue
        _, _, encoded = line.removeprefix(_SEPARATOR).rpartition(" ")
        # The first four bytes are a hint to the key, which is known here.
        if is_signed(key, decode_base64(encoded, "a signature of the checkpoint")[4:], message):
            return
    raise RejectedError("the checkpoint is not signed by the log")
