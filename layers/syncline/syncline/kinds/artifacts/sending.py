"""Sending layers as they come out of an archive: read, packed, hashed and uploaded at the same time.

The thread that reads the archive cuts each layer into segments and goes on; processors pack segments side by side;
a thread for each layer takes them in their order, hashes what went in and what came out, and uploads pieces of a few
MiB. A piece is kept until the registry has it, so a broken connection or a token that ended costs that piece; after
each piece the layer's state can be put away and taken up again by another function. The whole takes the memory of a
dozen segments and a few pieces, whatever the sizes of layers.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Self

from syncline.clients.oci import Registry, Upload
from syncline.clients.reference import digest_of
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.feed import CHUNK
from syncline.kinds.artifacts.archive.unpacking import unpacked
from syncline.kinds.artifacts.layers import Layer, has_whole
from syncline.kinds.artifacts.packing import HEADER, SEGMENT, checksum, packed_segment, trailer
from syncline.kinds.kind import Pace
from syncline.running_hash import RunningHash

PIECE: Final = 8 * 1024 * 1024
"""Bytes sent in one request, at least, unless they are a layer's last."""
UPLOADS: Final = 3
"""Layers of one image that are uploaded at a time."""
_BREAKS: Final = 4
"""How many failures one piece bears."""
_SEGMENTS: Final = 8
"""Segments in memory beside one for each processor."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Time was short within a layer; ``state`` (JSON values) takes it up again, None where it starts anew."""

    state: dict[str, Any] | None


class Sender(AbstractContextManager["Sender"]):
    """Sends layers to one repository. ``sent`` counts the bytes that went out."""

    def __init__(self, registry: Registry, repository: str, pace: Pace, processors: int | None = None) -> None:
        self.registry = registry
        self.repository = repository
        self.pace = pace
        self.sent = 0
        processors = processors or os.cpu_count() or 1
        self.room = threading.BoundedSemaphore(processors + _SEGMENTS)
        self.packers = ThreadPoolExecutor(processors, thread_name_prefix="pack")
        self._uploads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="layer")
        self._failed = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._failed.set()
        self._uploads.shutdown()
        self.packers.shutdown()

    def count(self, size: int) -> None:
        with self._lock:
            self.sent += size

    def layer(
        self, content: Iterable[bytes | memoryview], diff_id: str | None, stored: dict[str, Any] | None
    ) -> Future[Layer | Interrupted]:
        """Pack and send a layer, going on where ``stored`` left it; returns once ``content`` has been read.

        ``diff_id`` is what the archive promises it to be, if it does: another one is ARCHIVE_INVALID.
        """
        return self._send(_Packed(self, diff_id, stored), content)

    def blob(
        self, content: Iterable[bytes | memoryview], digest: str, stored: dict[str, Any] | None
    ) -> Future[Layer | Interrupted]:
        """Send a blob as it is, going on where ``stored`` left it; its ``diff_id`` is the digest of what is packed in it."""
        return self._send(_AsItIs(self, digest, stored), content)

    def put(self, content: bytes) -> str:
        """Send a small blob; its digest."""
        digest = digest_of(content)
        if not has_whole(self.registry, self.repository, digest, len(content)):
            self.registry.begin_upload(self.repository).put(digest, content, len(content))
            self.count(len(content))
        return digest

    def _send(self, transfer: _Transfer, content: Iterable[bytes | memoryview]) -> Future[Layer | Interrupted]:
        done = self._uploads.submit(self._guarded, transfer)
        whole = False
        try:
            for segment in _segments(content):
                if done.done() or self._failed.is_set() or self.pace.over:
                    break
                self.room.acquire()
                transfer.give(segment)
            else:
                whole = True
        finally:
            transfer.end(whole=whole)
        return done

    def _guarded(self, transfer: _Transfer) -> Layer | Interrupted:
        try:
            return transfer.run()
        finally:
            transfer.drain()


def _segments(content: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    parts: list[bytes | memoryview] = []
    size = 0
    for piece in content:
        while size + len(piece) >= SEGMENT:
            split = SEGMENT - size
            yield b"".join((*parts, piece[:split]))
            piece, parts, size = piece[split:], [], 0  # noqa: PLW2901 - the rest of it
        if piece:
            parts.append(piece)
            size += len(piece)
    if size:
        yield b"".join(parts)


class _Transfer(ABC):
    """One layer on its way: segments go in at one end, and a thread of its own takes them at the other.

    ``raw`` counts the bytes taken, the first ``behind`` of which the registry has from an earlier try.
    """

    def __init__(self, sender: Sender, stored: dict[str, Any] | None) -> None:
        self.sender = sender
        self._queue: queue.SimpleQueue[tuple[bytes, Future[bytes] | None] | bool] = queue.SimpleQueue()
        self._ended: bool | None = None
        self._upload: Upload | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self.size = 0
        self.hash = RunningHash("sha256")
        self.raw = 0
        self.behind = 0
        self._kept: dict[str, Any] | None = None
        # Known before the first segment comes, so that none is packed that the registry has.
        if stored is not None and self._taken_up(stored):
            self.behind = int(stored["raw"])

    def give(self, segment: bytes) -> None:
        self._queue.put((segment, self.packing(segment)))

    def end(self, *, whole: bool) -> None:
        self._queue.put(whole)

    def drain(self) -> None:
        """Let go of what nobody will take any more, until the end comes."""
        while self._ended is None:
            self._next()

    @abstractmethod
    def packing(self, segment: bytes) -> Future[bytes] | None:
        """The segment as it will be sent, if not as it is."""

    @abstractmethod
    def run(self) -> Layer | Interrupted:
        """Take all segments; what became of them."""

    def taken(self) -> Iterator[tuple[bytes, Future[bytes] | None]]:
        while (given := self._next()) is not None:
            yield given

    @property
    def whole(self) -> bool:
        """Whether all segments came."""
        return self._ended is True

    def _next(self) -> tuple[bytes, Future[bytes] | None] | None:
        given = self._queue.get()
        if isinstance(given, bool):
            self._ended = given
            return None
        self.sender.room.release()
        return given

    def add(self, data: bytes) -> None:
        """Take bytes to be sent: what became of all that was taken so far."""
        self.hash.update(data)
        self.size += len(data)
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= PIECE:
            self._send_piece()
            self._keep()

    def finish(self, check: Callable[[], None]) -> str:
        """End the blob, if ``check`` does not raise; its digest."""
        digest = f"sha256:{self.hash.hexdigest()}"
        check()
        registry, repository = self.sender.registry, self.sender.repository
        if self._upload is None:
            content = b"".join(self._pieces)
            if not has_whole(registry, repository, digest, len(content)):
                registry.begin_upload(repository).put(digest, content, len(content))
                self.sender.count(len(content))
            return digest
        if self._held:
            self._send_piece()
        self._upload.finish(digest)
        return digest

    def interrupted(self) -> Interrupted:
        """Time was short: what takes the upload up again, as far as the registry has it."""
        if self._kept is None:
            self.cancel()
        return Interrupted(self._kept)

    def _taken_up(self, stored: dict[str, Any]) -> bool:
        """Go on with an upload, if the registry has exactly what went before."""
        running, size = RunningHash.resume("sha256", stored["hash"]), int(stored["size"])
        resumed = self.sender.registry.resume_upload(self.sender.repository, stored["upload"])
        try:
            reached = resumed.status()
        except SynclineError as error:
            if error.code.name != "UPLOAD_LOST":
                raise
            return False
        if running.offset != size or reached != size:
            resumed.cancel()
            return False
        self._upload, self.hash, self.size = resumed, running, size
        self._kept = {**stored, "upload": resumed.state()}
        return True

    def _keep(self) -> None:
        """Note where the registry is after a piece, unless the hash cannot be put away."""
        hash_state = self.hash.state()
        if self._upload is not None and hash_state is not None:
            self._kept = {"upload": self._upload.state(), "hash": hash_state, "size": self.size, "raw": self.raw}

    def cancel(self) -> None:
        if self._upload is not None:
            self._upload.cancel()

    def _send_piece(self) -> None:
        parts, size = self._pieces, self._held
        self._pieces, self._held = [], 0
        if self._upload is None:
            self._upload = self.sender.registry.begin_upload(self.sender.repository)
        start = self._upload.offset
        for tries_left in range(_BREAKS, -1, -1):
            at = self._upload.offset - start
            try:
                self._upload.write([b"".join(parts)[at:]] if at else parts, start + size, size - at)
            except SynclineError as error:
                # A session whose token ended in the middle says UPLOAD_LOST too, and is asked with a new one.
                if not error.retried_here or not tries_left or self.sender.pace.over:
                    raise
                reached = self._upload.status()
                if not start <= reached <= start + size:
                    raise SynclineError("UPLOAD_LOST", "the registry has less of a layer than it confirmed") from error
                if reached == start + size:
                    break
            else:
                break
        self.sender.count(size)


class _Packed(_Transfer):
    """A layer that is packed on the way."""

    def __init__(self, sender: Sender, diff_id: str | None, stored: dict[str, Any] | None) -> None:
        super().__init__(sender, stored)
        self._expected = diff_id
        self._given = 0
        self._crc = 0
        self._diff = hashlib.sha256()

    def packing(self, segment: bytes) -> Future[bytes] | None:
        self._given += len(segment)
        if self._given <= self.behind:
            return None
        return self.sender.packers.submit(packed_segment, segment)

    def run(self) -> Layer | Interrupted:
        if not self.behind:
            self.add(HEADER)
        for segment, packed in self.taken():
            self._diff.update(segment)
            self._crc = checksum(segment, self._crc)
            self.raw += len(segment)
            if packed is not None:
                self.add(packed.result())
        if not self.whole:
            return self.interrupted()
        self.add(trailer(self._crc, self.raw))
        digest = self.finish(self._check)
        return Layer(self._diff_id, digest, self.size)

    @property
    def _diff_id(self) -> str:
        return f"sha256:{self._diff.hexdigest()}"

    def _check(self) -> None:
        if self._expected is not None and self._expected != self._diff_id:
            self.cancel()
            what = f"a layer that the archive calls {self._expected} has the content {self._diff_id}"
            raise SynclineError("ARCHIVE_INVALID", what)


class _AsItIs(_Transfer):
    """A blob that is packed already; beside being sent it is unpacked, to learn what it holds."""

    def __init__(self, sender: Sender, digest: str, stored: dict[str, Any] | None) -> None:
        super().__init__(sender, stored)
        self._digest = digest
        self._diff = hashlib.sha256()

    def packing(self, segment: bytes) -> Future[bytes] | None:
        del segment
        return None

    def run(self) -> Layer | Interrupted:
        waiting: queue.Queue[bytes | None] = queue.Queue(2)
        with ThreadPoolExecutor(1, thread_name_prefix="unpack") as unpacking:
            unpacked_hash = unpacking.submit(self._unpack, waiting)
            try:
                for segment, _ in self.taken():
                    waiting.put(segment)
                    self.raw += len(segment)
                    if self.raw > self.behind:
                        self.add(segment)
            finally:
                waiting.put(None)
            if not self.whole:
                return self.interrupted()
            diff_id = unpacked_hash.result()
        digest = self.finish(self._check)
        return Layer(diff_id, digest, self.size)

    def _unpack(self, waiting: queue.Queue[bytes | None]) -> str:
        chunks = iter(waiting.get, None)
        try:
            for chunk in unpacked(chunks, f"the blob {self._digest}"):
                self._diff.update(chunk)
        finally:
            for _ in chunks:  # whoever gives them is not to wait for a place
                pass
        return f"sha256:{self._diff.hexdigest()}"

    def _check(self) -> None:
        if f"sha256:{self.hash.hexdigest()}" != self._digest:
            self.cancel()
            raise SynclineError("ARCHIVE_INVALID", f"the blob that the archive calls {self._digest} is another")


assert SEGMENT % CHUNK == 0, "segments are made of whole chunks"
