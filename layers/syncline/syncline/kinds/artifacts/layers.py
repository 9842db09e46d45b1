"""Which layers a registry has: by their content (diff_id), so that a layer known there costs one question.

A layer's digest depends on how it was packed, so its name at the registry cannot be told from the archive. Who has
sent one notes under its diff_id what it became; who claims one sends it, the others wait a little for it. A note that
turns out wrong costs one request; losing all of them costs time only.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from isal import isal_zlib

from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Descriptor
from syncline.clients.registry.reference import is_digest
from syncline.kinds.images.facts import SharedFacts

# Layers as registries keep them: gzip, made in pieces side by side, the same bytes for the same content every time.
#
# A layer is cut into segments of 4 MiB; each is deflated by itself and ends on a byte (an empty stored block, RFC 1951,
# 3.2.4), so that all of them behind one another are one deflate stream, in one gzip member with no name and no time. So
# several processors work on one layer, and a layer that was interrupted goes on at a segment. ISA-L's level 1 packs ten
# to twenty times as fast as zlib's usual level, for about as many bytes.

SEGMENT: Final = 4 * 1024 * 1024
"""Bytes of a layer that are packed as one. Another value makes other digests."""
LEVEL: Final = 1
HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Of a gzip member: deflate, no name, no time, no system."""
_LAST_BLOCK: Final = b"\x03\x00"


def packed_segment(data: bytes) -> bytes:
    """A segment's deflate blocks, none of them the last."""
    machine = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, -15)
    return machine.compress(data) + machine.flush(isal_zlib.Z_SYNC_FLUSH)


def trailer(crc: int, size: int) -> bytes:
    """What ends the member: the last block, the checksum and the size of what was packed."""
    return _LAST_BLOCK + crc.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")


def checksum(data: bytes, crc: int) -> int:
    return isal_zlib.crc32(data, crc)


T = TypeVar("T")

_SLOWEST: Final = 20 * 1024 * 1024
"""Bytes of a layer a second at which somebody else's work is worth waiting for."""
_LONGEST_WAIT: Final = 120.0
_WORTH_CLAIMING: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer at a registry: its content's digest, and the digest and size in bytes of what the registry keeps."""

    diff_id: str
    digest: str
    size: int

    def to_json(self) -> list[str | int]:
        return [self.diff_id, self.digest, self.size]


def has_whole(registry: Registry, repository: str, digest: str, size: int) -> bool:
    """Return True if a repository has a blob with all its bytes, as far as its size tells."""
    return registry.blob_size(repository, Descriptor(digest, size, "")) == size


class KnownLayers:
    """The layers of one registry; safe to use from any number of threads."""

    def __init__(self, memory: SharedFacts, registry: Registry, sleep: Callable[[float], None] = time.sleep) -> None:
        self._memory = memory
        self._registry = registry
        self._sleep = sleep

    def find(self, repository: str, key: str, size: int, over: Callable[[], bool]) -> Layer | None:
        """Return the layer if ``repository`` has it or could be given it; None if the caller is to send it.

        ``key`` is its diff_id or, of one that the archive has packed, the digest of that; ``size`` is in bytes. Waits for
        somebody else who is sending it, but not when ``over``.
        """
        return self._awaited(self._key(key), size, lambda: self.get(repository, key), over)

    def get(self, repository: str, key: str) -> Layer | None:
        """Return the layer if ``repository`` has it now, or could be given it."""
        noted = self._recall(key)
        if noted is None:
            return None
        if self._is_there(repository, *noted):
            return noted[0]
        self._memory.forget(self._key(key))
        return None

    def note(self, repository: str, key: str, layer: Layer) -> None:
        """Note that the layer that archives call ``key`` is in ``repository``."""
        self._memory.remember(self._key(key), f"{layer.digest} {layer.size} {repository} {layer.diff_id}")

    def guess(self, path: str, size: int, over: Callable[[], bool]) -> str | None:
        """The diff_id that an archive's member had when one of that name and size was last seen.

        Docker names equal layers of equal parents alike in all its archives. Waits for somebody else who is finding
        out, but not when ``over``.
        """
        key = self._path_key(path, size)

        def noted() -> str | None:
            found = self._memory.recall(key)
            return found if found is not None and is_digest(found) else None

        return self._awaited(key, size, noted, over)

    def _awaited(self, key: str, size: int, look: Callable[[], T | None], over: Callable[[], bool]) -> T | None:
        """What ``look`` finds, now or once somebody else has noted it; None if the caller is the one to find out."""
        longest = min(_LONGEST_WAIT, 1 + size / _SLOWEST)
        waited = 0.0
        while (found := look()) is None:
            if size < _WORTH_CLAIMING or self._memory.claim(key, longest) or waited >= longest or over():
                return None
            pause = random.uniform(0.05, 0.15)  # noqa: S311 - a pause is no secret
            self._sleep(pause)
            waited += pause
        return found

    def note_guess(self, path: str, size: int, diff_id: str | None) -> None:
        """What a member turned out to be; None where a guess was wrong."""
        if diff_id is None:
            self._memory.forget(self._path_key(path, size))
        else:
            self._memory.remember(self._path_key(path, size), diff_id)

    def _is_there(self, repository: str, layer: Layer, place: str) -> bool:
        """Return True if the repository has all of a layer, or has got it from ``place``."""
        if has_whole(self._registry, repository, layer.digest, layer.size):
            return True
        if place == repository or not self._registry.mount_blob(repository, layer.digest, place):
            return False
        return has_whole(self._registry, repository, layer.digest, layer.size)

    def _recall(self, key: str) -> tuple[Layer, str] | None:
        match (self._memory.recall(self._key(key)) or "").split(" "):
            case [digest, size, place, diff_id] if is_digest(digest) and is_digest(diff_id) and size.isdigit():
                return Layer(diff_id, digest, int(size)), place
        return None

    def _key(self, key: str) -> str:
        return f"layer@{self._registry.host}@{key}"

    def _path_key(self, path: str, size: int) -> str:
        return f"member@{size}@{path}"


class OwnMemory:
    """What one process remembers for itself, where there is no table; see :class:`SharedFacts`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._facts: dict[str, str] = {}
        self._claims: dict[str, float] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def recall(self, key: str) -> str | None:
        return self._facts.get(key)

    def remember(self, key: str, value: str, seconds: float = 0.0) -> None:
        del seconds  # the process ends before
        with self._lock:
            self._facts[key] = value
            self._claims.pop(key, None)

    def forget(self, key: str) -> None:
        with self._lock:
            self._facts.pop(key, None)

    def take(self, key: str, owner: str, seconds: float) -> bool:
        """Return True: one process has no scan beside another."""
        del key, owner, seconds
        return True

    def claim(self, key: str, seconds: float) -> bool:
        with self._lock:
            now = self._clock()
            if self._claims.get(key, now) > now:
                return False
            self._claims[key] = now + seconds
            return True
