"""Layers at a registry: their compressed form, and an index of those that the registry already has.

Layers are compressed with gzip, the same bytes for the same content every time. A layer is cut into segments of 4 MiB.
Each segment is deflated separately and ends on a byte boundary (an empty stored block, RFC 1951, 3.2.4), so that the
segments in order are one deflate stream, in one gzip member without name and time. Several processors can work on one
layer, and an interrupted layer continues at a segment. ISA-L's level 1 is ten to twenty times as fast as zlib's default
level, for about as many bytes.

A layer's digest depends on its compression, so it is not in the archive. The index maps the digest of the content
(diff_id) to the digest at the registry; a layer that it has costs one request. One function claims a missing layer and
sends it while the others wait for it for a limited time. A wrong entry costs one request; losing all of them costs time
only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from isal import isal_zlib

from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Descriptor
from syncline.clients.registry.reference import is_digest
from syncline.kinds.facts import FactStore

T = TypeVar("T")

SEGMENT: Final = 4 * 1024 * 1024  # bytes of a layer that are compressed together; another value makes other digests
LEVEL: Final = 1
_START: Final = 16
"""Bytes of a segment that are flushed on their own; another value makes other digests.

The assembly code of ISA-L (2.32, ``.write_first_byte`` in igzip_icf_body_h1_gr_bt.asm) enters the third position of a
stream into its hash table under the hash of the stream's address, so the result depends on that address. Code without
this fault begins the stream if no more than 16 bytes are flushed, and enters a position if there are at least 4.
"""
HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Header of a gzip member: deflate, no name, no time, no system."""
_LAST_BLOCK: Final = b"\x03\x00"
_SLOWEST: Final = 20 * 1024 * 1024
"""Bytes per second at which waiting for another function's upload is still worthwhile."""
_LONGEST_WAIT: Final = 120.0
_WORTH_CLAIMING: Final = 1024 * 1024


def packed_segment(data: bytes) -> bytes:
    """Return the deflate blocks of a segment, none of them marked as the last."""
    compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, -15)
    view = memoryview(data)
    parts = [view[:_START], view[_START:]] if len(view) > _START else [view]
    return b"".join(
        packed for part in parts for packed in (compressor.compress(part), compressor.flush(isal_zlib.Z_SYNC_FLUSH))
    )


def trailer(crc: int, size: int) -> bytes:
    """Return the end of the gzip member: the last block, and the checksum and size of the uncompressed content."""
    return _LAST_BLOCK + crc.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")


class Layer(NamedTuple):
    """A layer at a registry: the digest of its content, and the digest and size in bytes of its compressed form."""

    diff_id: str
    digest: str
    size: int


def has_blob(registry: Registry, repository: str, digest: str, size: int) -> bool:
    """Return True if a repository has a blob of that size."""
    return registry.blob_size(repository, Descriptor(digest, size, "")) == size


class KnownLayers:
    """The known layers of one registry. Thread-safe."""

    def __init__(self, facts: FactStore, registry: Registry, sleep: Callable[[float], None] = time.sleep) -> None:
        self._facts = facts
        self._registry = registry
        self._sleep = sleep

    def find(self, repository: str, key: str, size: int, over: Callable[[], bool]) -> Layer | None:
        """Return the layer if ``repository`` has it or it could be mounted there; None if the caller must send it.

        ``key`` is its diff_id or, if the archive has it compressed, the digest of that blob; ``size`` is in bytes. Waits
        for another function that is sending it, unless ``over``.
        """
        return self._awaited(self._key(key), size, lambda: self.get(repository, key), over)

    def get(self, repository: str, key: str) -> Layer | None:
        """Return the layer if ``repository`` has it now or it could be mounted there."""
        match (self._facts.recall(self._key(key)) or "").split(" "):
            case [digest, size, origin, diff_id] if is_digest(digest) and is_digest(diff_id) and size.isdigit():
                layer = Layer(diff_id, digest, int(size))
                if self._is_present(repository, layer, origin):
                    return layer
                self._facts.forget(self._key(key))
        return None

    def note(self, repository: str, key: str, layer: Layer) -> None:
        """Record that the layer that archives call ``key`` is in ``repository``."""
        self._facts.remember(self._key(key), f"{layer.digest} {layer.size} {repository} {layer.diff_id}")

    def guess(self, path: str, size: int, over: Callable[[], bool]) -> str | None:
        """Return the diff_id that the latest archive member of that name and size had, None if unknown.

        Docker gives equal layers of equal parents the same name in all archives. Waits for another function that is
        reading such a member, unless ``over``.
        """
        key = self._path_key(path, size)

        def noted() -> str | None:
            found = self._facts.recall(key)
            return found if found is not None and is_digest(found) else None

        return self._awaited(key, size, noted, over)

    def _awaited(self, key: str, size: int, read: Callable[[], T | None], over: Callable[[], bool]) -> T | None:
        """Return the result of ``read``, waiting for another function to record it; None if the caller claimed the key."""
        longest = min(_LONGEST_WAIT, 1 + size / _SLOWEST)
        waited = 0.0
        while (found := read()) is None:
            if size < _WORTH_CLAIMING or self._facts.claim(key, longest) or waited >= longest or over():
                return None
            pause = random.uniform(0.05, 0.15)  # noqa: S311 - jitter needs no secure source
            self._sleep(pause)
            waited += pause
        return found

    def note_guess(self, path: str, size: int, diff_id: str | None) -> None:
        """Record the diff_id of a member; None if the guess was wrong."""
        if diff_id is None:
            self._facts.forget(self._path_key(path, size))
        else:
            self._facts.remember(self._path_key(path, size), diff_id)

    def _is_present(self, repository: str, layer: Layer, origin: str) -> bool:
        """Return True if the repository has a layer, or it could be mounted from the repository ``origin``."""
        if has_blob(self._registry, repository, layer.digest, layer.size):
            return True
        if origin == repository or not self._registry.mount_blob(repository, layer.digest, origin):
            return False
        return has_blob(self._registry, repository, layer.digest, layer.size)

    def _key(self, key: str) -> str:
        return f"layer@{self._registry.host}@{key}"

    def _path_key(self, path: str, size: int) -> str:
        return f"member@{size}@{path}"
