"""Upload of layers while they are read from an archive: compressed, hashed and sent at the same time.

The thread that reads the archive cuts each layer into segments. Several processors compress segments at the same time.
One thread per layer takes the segments in order, hashes them before and after compression, and uploads pieces of a few
MiB. A piece stays in memory until the registry has it, so a broken connection or an expired token costs that piece. After
each piece the state of the layer can be stored, and another function can continue from it. Memory is bounded by a dozen
segments and a few pieces, whatever the sizes of the layers.
"""

from __future__ import annotations

import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from isal import isal_zlib

from syncline.clients.registry.client import Registry
from syncline.clients.registry.reference import digest_of
from syncline.clients.registry.upload import BlobUpload
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.decompress import decompressed
from syncline.kinds.artifacts.archive.streams import CHUNK, ChunkReader, Mark, MarkedStream, invalid
from syncline.kinds.artifacts.layers import HEADER, SEGMENT, Layer, has_blob, packed_segment, trailer
from syncline.kinds.kind import StepContext
from syncline.running_hash import RunningHash

PIECE: Final = 8 * 1024 * 1024  # minimum size of a request in bytes, except for the last one of a layer
UPLOADS: Final = 3  # layers of one image that are uploaded at the same time
_RETRIES: Final = 4  # retries of one piece
_SEGMENTS: Final = 8  # segments in memory, in addition to one for each processor


@dataclass(frozen=True, slots=True)
class InterruptedLayer:
    """A layer that was interrupted. ``state`` (JSON values) continues the upload; None if it must start again.

    ``inside`` has the position in the archive that matches the upload, and the hashes of the content before it. It is
    None if the layer must be read again from its start.
    """

    state: dict[str, Any] | None
    inside: LayerState = None


LayerState = dict[str, Any] | None
"""State of an interrupted layer in JSON values: of its upload (``stored``), or of reading it (``inside``)."""
SentLayer = Future[Layer | InterruptedLayer]  # the result of sending a layer


class LayerReadError(Exception):
    """A layer's content could not be read because of ``error``; ``sent`` is the result of its interrupted upload."""

    def __init__(self, error: SynclineError, sent: SentLayer) -> None:
        super().__init__("the content of a layer could not be read")
        self.error = error
        self.sent = sent


class LayerUploader(AbstractContextManager["LayerUploader"]):
    """Uploads layers to one repository. ``sent`` counts the bytes sent."""

    def __init__(
        self, registry: Registry, repository: str, context: StepContext, processors: int | None = None
    ) -> None:
        self.registry = registry
        self.repository = repository
        self.context = context
        self.sent = 0
        processors = processors or os.cpu_count() or 1
        self.room = threading.BoundedSemaphore(processors + _SEGMENTS)
        self.compressors = ThreadPoolExecutor(processors, thread_name_prefix="pack")
        self._uploads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="layer")
        self._failed = threading.Event()
        self._lock = threading.Lock()

    def __exit__(self, *_: object) -> None:
        self._failed.set()
        self._uploads.shutdown()
        self.compressors.shutdown()

    def count(self, size: int) -> None:
        with self._lock:
            self.sent += size

    def holds(self, stored: dict[str, Any]) -> bool:
        """Return True if the registry has exactly the part of an interrupted layer that ``stored`` describes."""
        return self.resumed(stored, cancel=False) is not None

    def resumed(self, stored: dict[str, Any], *, cancel: bool = True) -> BlobUpload | None:
        """Return the upload of an interrupted layer; None if the registry has not exactly the part before it.

        ``cancel`` ends an upload at the registry that has another part.
        """
        try:
            upload = self.registry.resume_upload(self.repository, stored["upload"])
            if upload.status() == int(stored["size"]):
                return upload
        except SynclineError as error:
            if error.code.name != "UPLOAD_LOST":
                raise
        else:
            if cancel:
                upload.cancel()
        return None

    def put(self, content: bytes, digest: str = "") -> str:
        """Send a small blob and return its digest."""
        digest = digest or digest_of(content)
        if not has_blob(self.registry, self.repository, digest, len(content)):
            self.registry.begin_upload(self.repository).put(digest, content, len(content))
            self.count(len(content))
        return digest

    def send(
        self, content: ChunkReader, digest: str | None, stored: LayerState, inside: LayerState, *, packed: bool
    ) -> SentLayer:
        """Send a layer, continuing at ``stored``; return once ``content`` has been read.

        A ``packed`` layer is sent unchanged, another one is compressed. ``digest`` is the digest of the content by the
        archive, if known; another one is ARCHIVE_INVALID. With ``inside`` of an interrupted layer, ``content`` is the
        rest after its mark. Raises UPLOAD_LOST if there is an ``inside`` and the registry does not have the content
        before it, and LayerReadError.
        """
        upload: _LayerUpload
        if packed:
            assert digest is not None, "only blobs are sent unchanged"
            upload = _VerbatimUpload(self, digest, stored, inside)
        else:
            upload = _CompressedUpload(self, digest, stored, inside)
        done = self._uploads.submit(self._guarded, upload)
        complete = False
        try:
            for segment, mark in _segments(content):
                if done.done() or self._failed.is_set() or self.context.over:
                    break
                self.room.acquire()
                upload.give(segment, mark)
            else:
                complete = True
        except SynclineError as error:
            raise LayerReadError(error, done) from error
        finally:
            upload.end(complete=complete)
        return done

    def _guarded(self, upload: _LayerUpload) -> Layer | InterruptedLayer:
        try:
            return upload.run()
        finally:
            upload.drain()


def _segments(content: ChunkReader) -> Iterator[tuple[bytes, Mark | None]]:
    """Yield the content in segments, each with the mark of its end."""
    while True:
        parts: list[bytes | memoryview] = []
        size = 0
        while size < SEGMENT and (piece := content.read_some(SEGMENT - size)):
            parts.append(piece)
            size += len(piece)
        if not size:
            return
        yield b"".join(parts), content.mark()


class _Segment(NamedTuple):
    """A part of a layer: its bytes, their compressed form if any, and the mark of its end."""

    data: bytes
    packed: Future[bytes] | None
    mark: Mark | None


class _LayerUpload(ABC):
    """The upload of one layer: the reading thread puts segments into a queue, and a separate thread sends them.

    ``raw`` counts the bytes taken, the first ``confirmed`` of which the registry has from an earlier attempt.
    """

    def __init__(self, sender: LayerUploader, stored: LayerState, inside: LayerState) -> None:
        self.sender = sender
        self._queue: queue.SimpleQueue[_Segment | bool] = queue.SimpleQueue()
        self.complete: bool | None = None  # None until the end
        self._upload: BlobUpload | None = None
        self._pieces: list[bytes] = []
        self._pending_size = 0
        self.size = 0
        self.hash = RunningHash("sha256")
        self.raw = 0
        self.confirmed = 0
        self.diff = RunningHash("sha256")
        self.mark: Mark | None = None
        self._upload_state: dict[str, Any] | None = None
        self._inside = inside
        # Done before the first segment, so that none is compressed that the registry has.
        if stored is not None and self._resume(stored):
            self.confirmed = int(stored["raw"])
        if inside is not None:
            self.raw = int(inside["raw"])
            self.diff = RunningHash.resume("sha256", inside["diff"])
            if self.confirmed < self.raw or self.diff.offset != inside["diff"][0]:
                raise SynclineError("UPLOAD_LOST", "the registry no longer has the first part of a layer")

    def give(self, data: bytes, mark: Mark | None) -> None:
        self._queue.put(_Segment(data, self.compress_later(data), mark))

    def end(self, *, complete: bool) -> None:
        self._queue.put(complete)

    def drain(self) -> None:
        """Discard the remaining segments until the end."""
        while self.complete is None:
            self._next()

    def compress_later(self, _segment: bytes) -> Future[bytes] | None:
        """Start compressing a segment; return None if it is sent unchanged."""
        return None

    @abstractmethod
    def run(self) -> Layer | InterruptedLayer:
        """Send all segments and return the result."""

    @abstractmethod
    def inside(self) -> dict[str, Any] | None:
        """Return the reading state after the bytes taken so far; None if reading cannot continue there."""

    def taken(self) -> Iterator[_Segment]:
        while (given := self._next()) is not None:
            self.mark = given.mark
            yield given

    def _next(self) -> _Segment | None:
        given = self._queue.get()
        if isinstance(given, bool):
            self.complete = given
            return None
        self.sender.room.release()
        return given

    def add(self, data: bytes) -> None:
        """Add bytes to be sent, sending a piece once there are enough."""
        self.hash.update(data)
        self.size += len(data)
        self._pieces.append(data)
        self._pending_size += len(data)
        if self._pending_size >= PIECE:
            self._send_piece()
            self._save_state()

    def finish(self) -> str:
        """Finish the blob and return its digest."""
        digest = f"sha256:{self.hash.hexdigest()}"
        if self._upload is None:
            return self.sender.put(b"".join(self._pieces), digest)
        if self._pending_size:
            self._send_piece()
        self._upload.finish(digest)
        return digest

    def interrupted(self) -> InterruptedLayer:
        """Return the state from which another function continues, up to the last piece that the registry has."""
        if self._upload_state is None:
            self.cancel()
        return InterruptedLayer(self._upload_state, self._inside)

    def note_position(self) -> None:
        """Save the reading position if it is within the part that the registry already has."""
        if self._upload_state is not None and self.mark is not None and self.raw <= self.confirmed:
            self._inside = self.inside()

    def _resume(self, stored: dict[str, Any]) -> bool:
        """Continue an upload if the registry has exactly the part before it."""
        running, resumed = RunningHash.resume("sha256", stored["hash"]), self.sender.resumed(stored)
        if resumed is None:
            return False
        if running.offset != resumed.offset:
            resumed.cancel()
            return False
        self._upload, self.hash, self.size = resumed, running, running.offset
        self._upload_state = {**stored, "upload": resumed.state()}
        return True

    def _save_state(self) -> None:
        """Save the state after a piece, unless the hash cannot be stored."""
        hash_state = self.hash.state()
        if self._upload is not None and hash_state is not None:
            self._upload_state = {
                "upload": self._upload.state(),
                "hash": hash_state,
                "size": self.size,
                "raw": self.raw,
            }
            self._inside = None if self.mark is None else self.inside()

    def cancel(self) -> None:
        if self._upload is not None:
            self._upload.cancel()

    def _send_piece(self) -> None:
        parts, size = self._pieces, self._pending_size
        self._pieces, self._pending_size = [], 0
        if self._upload is None:
            self._upload = self.sender.registry.begin_upload(self.sender.repository)
        start = self._upload.offset
        for tries_left in range(_RETRIES, -1, -1):
            at = self._upload.offset - start
            try:
                self._upload.write([b"".join(parts)[at:]] if at else parts, start + size, size - at)
            except SynclineError as error:
                # A session whose token expired also fails with UPLOAD_LOST; the status request uses a new token.
                if not error.retried_here or not tries_left or self.sender.context.over:
                    raise
                reached = self._upload.status()
                if not start <= reached <= start + size:
                    raise SynclineError("UPLOAD_LOST", "the registry has less of a layer than it confirmed") from error
                if reached == start + size:
                    break
            else:
                break
        self.sender.count(size)


class _CompressedUpload(_LayerUpload):
    """The upload of a layer that is compressed here."""

    def __init__(self, sender: LayerUploader, diff_id: str | None, stored: LayerState, inside: LayerState) -> None:
        super().__init__(sender, stored, inside)
        self._expected = diff_id
        self._given = self.raw
        self._crc = 0 if inside is None else int(inside["crc"])

    def compress_later(self, segment: bytes) -> Future[bytes] | None:
        self._given += len(segment)
        if self._given <= self.confirmed:
            return None
        return self.sender.compressors.submit(packed_segment, segment)

    def inside(self) -> dict[str, Any] | None:
        diff = self.diff.state()
        return None if diff is None else {"mark": self.mark, "raw": self.raw, "diff": diff, "crc": self._crc}

    def run(self) -> Layer | InterruptedLayer:
        if not self.confirmed:
            self.add(HEADER)
        for segment in self.taken():
            self.diff.update(segment.data)
            self._crc = isal_zlib.crc32(segment.data, self._crc)
            self.raw += len(segment.data)
            if segment.packed is not None:
                self.add(segment.packed.result())
        if not self.complete:
            self.note_position()
            return self.interrupted()
        self.add(trailer(self._crc, self.raw))
        diff_id = f"sha256:{self.diff.hexdigest()}"
        if self._expected not in (None, diff_id):
            self.cancel()
            raise invalid(f"a layer that the archive calls {self._expected} has the content {diff_id}")
        return Layer(diff_id, self.finish(), self.size)


_StateRequest = Future[dict[str, Any] | None]


class _VerbatimUpload(_LayerUpload):
    """The upload of a compressed blob. It is also decompressed, to compute its diff_id."""

    def __init__(self, sender: LayerUploader, digest: str, stored: LayerState, inside: LayerState) -> None:
        super().__init__(sender, stored, inside)
        self._digest = digest
        self._waiting: queue.Queue[bytes | _StateRequest | None] = queue.Queue(2)
        self._unpacked_from = None if inside is None else inside["unpacked"]

    def inside(self) -> dict[str, Any] | None:
        """Wait until all bytes taken are decompressed, and return the reading state."""
        request: _StateRequest = Future()
        self._waiting.put(request)
        state = request.result()
        return None if state is None else {"mark": self.mark, "raw": self.raw, **state}

    def run(self) -> Layer | InterruptedLayer:
        with ThreadPoolExecutor(1, thread_name_prefix="unpack") as unpacking:
            unpacked_hash = unpacking.submit(self._unpack)
            try:
                for segment in self.taken():
                    self._waiting.put(segment.data)
                    self.raw += len(segment.data)
                    if self.raw > self.confirmed:
                        self.add(segment.data)
                if not self.complete:
                    self.note_position()
            finally:
                self._waiting.put(None)
            if not self.complete:
                return self.interrupted()
            diff_id = unpacked_hash.result()
        if f"sha256:{self.hash.hexdigest()}" != self._digest:
            self.cancel()
            raise invalid(f"the blob that the archive calls {self._digest} has another digest")
        return Layer(diff_id, self.finish(), self.size)

    def _unpack(self) -> str:
        given: Iterator[bytes | _StateRequest] = iter(self._waiting.get, None)
        size = 0 if self._unpacked_from is None else int(self._unpacked_from["given"])

        def segments() -> Iterator[tuple[bytes, Mark]]:
            nonlocal size
            for each in given:
                if isinstance(each, bytes):
                    size += len(each)
                    yield each, {}
                else:
                    each.set_result(self._reading_state(content.mark, size))

        try:
            mark = self._unpacked_from
            content = decompressed(MarkedStream(segments(), {}), f"the blob {self._digest}", mark=mark)
            for chunk in content:
                self.diff.update(chunk)
        finally:
            for each in given:  # the sending thread must not block on a full queue
                if not isinstance(each, bytes):
                    each.set_result(None)
        return f"sha256:{self.diff.hexdigest()}"

    def _reading_state(self, mark: Mark | None, size: int) -> dict[str, Any] | None:
        """Return the state of decompression after ``size`` bytes; None if it is unknown or elsewhere."""
        diff = self.diff.state()
        if mark is None or diff is None or mark["given"] != size:
            return None
        return {"diff": diff, "unpacked": {**mark, "skip": 0}}


assert SEGMENT % CHUNK == 0, "a segment consists of complete chunks"
