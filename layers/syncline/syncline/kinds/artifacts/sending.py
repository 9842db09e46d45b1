"""Sending layers as they come out of an archive: read, packed, hashed and uploaded at the same time.

The thread that reads the archive cuts each layer into segments and goes on; processors pack segments side by side;
a thread for each layer takes them in their order, hashes what went in and what came out, and uploads pieces of a few
MiB. A piece is kept until the registry has it, so a broken connection or a token that ended costs that piece; after
each piece the layer's state can be put away and taken up again by another function. The whole takes the memory of a
dozen segments and a few pieces, whatever the sizes of layers.
"""

from __future__ import annotations

import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Self

from syncline.clients.registry.client import Registry
from syncline.clients.registry.reference import digest_of
from syncline.clients.registry.upload import BlobUpload
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.feed import CHUNK, Feed, Mark, Stream
from syncline.kinds.artifacts.archive.unpacking import unpacked
from syncline.kinds.artifacts.layers import HEADER, SEGMENT, Layer, checksum, has_whole, packed_segment, trailer
from syncline.kinds.kind import StepContext
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
    """Time was short within a layer; ``state`` (JSON values) takes it up again, None where it starts anew.

    ``inside`` tells where in the archive the upload stands, and has the hashes of what came before, so that the layer
    need not be read again from its start. It is None if it must be.
    """

    state: dict[str, Any] | None
    inside: dict[str, Any] | None = None


class BrokenOffError(Exception):
    """A layer's content could not be read to its end because of ``error``; ``sent`` tells how far it was sent."""

    def __init__(self, error: SynclineError, sent: Future[Layer | Interrupted]) -> None:
        super().__init__("the content of a layer broke off")
        self.error = error
        self.sent = sent


class Sender(AbstractContextManager["Sender"]):
    """Sends layers to one repository. ``sent`` counts the bytes that went out."""

    def __init__(
        self, registry: Registry, repository: str, context: StepContext, processors: int | None = None
    ) -> None:
        self.registry = registry
        self.repository = repository
        self.context = context
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

    def holds(self, stored: dict[str, Any]) -> bool:
        """Return True if the registry has of an interrupted layer exactly what ``stored`` says."""
        try:
            upload = self.registry.resume_upload(self.repository, stored["upload"])
            return upload.status() == int(stored["size"])
        except SynclineError as error:
            if error.code.name != "UPLOAD_LOST":
                raise
            return False

    def layer(
        self,
        content: Feed,
        diff_id: str | None,
        stored: dict[str, Any] | None,
        inside: dict[str, Any] | None = None,
    ) -> Future[Layer | Interrupted]:
        """Pack and send a layer, going on where ``stored`` left it; returns once ``content`` has been read.

        With ``inside`` of an interrupted layer, ``content`` is what follows its mark. ``diff_id`` is what the archive
        promises the layer to be, if it does: another one is ARCHIVE_INVALID. Raises UPLOAD_LOST if there is an
        ``inside`` and the registry does not have what came before, and BrokenOffError.
        """
        return self._send(_Packed(self, diff_id, stored, inside), content)

    def blob(
        self,
        content: Feed,
        digest: str,
        stored: dict[str, Any] | None,
        inside: dict[str, Any] | None = None,
    ) -> Future[Layer | Interrupted]:
        """Send a blob as it is, as :meth:`layer` does; its ``diff_id`` is the digest of what is packed in it."""
        return self._send(_AsItIs(self, digest, stored, inside), content)

    def put(self, content: bytes) -> str:
        """Send a small blob; its digest."""
        digest = digest_of(content)
        if not has_whole(self.registry, self.repository, digest, len(content)):
            self.registry.begin_upload(self.repository).put(digest, content, len(content))
            self.count(len(content))
        return digest

    def _send(self, transfer: _Transfer, content: Feed) -> Future[Layer | Interrupted]:
        done = self._uploads.submit(self._guarded, transfer)
        whole = False
        try:
            for segment, mark in _segments(content):
                if done.done() or self._failed.is_set() or self.context.over:
                    break
                self.room.acquire()
                transfer.give(segment, mark)
            else:
                whole = True
        except SynclineError as error:
            raise BrokenOffError(error, done) from error
        finally:
            transfer.end(whole=whole)
        return done

    def _guarded(self, transfer: _Transfer) -> Layer | Interrupted:
        try:
            return transfer.run()
        finally:
            transfer.drain()


def _segments(content: Feed) -> Iterator[tuple[bytes, Mark | None]]:
    """Yield the content in segments, with the mark of what follows each."""
    while True:
        parts: list[bytes | memoryview] = []
        size = 0
        while size < SEGMENT and (piece := content.some(SEGMENT - size)):
            parts.append(piece)
            size += len(piece)
        if not size:
            return
        yield b"".join(parts), content.mark()


@dataclass(frozen=True, slots=True)
class _Segment:
    """Bytes of a layer, those packed of them if they are to be packed, and the mark of what follows them."""

    data: bytes
    packed: Future[bytes] | None
    mark: Mark | None


class _Transfer(ABC):
    """One layer on its way: segments go in at one end, and a thread of its own takes them at the other.

    ``raw`` counts the bytes taken, the first ``behind`` of which the registry has from an earlier try.
    """

    def __init__(self, sender: Sender, stored: dict[str, Any] | None, inside: dict[str, Any] | None) -> None:
        self.sender = sender
        self._queue: queue.SimpleQueue[_Segment | bool] = queue.SimpleQueue()
        self._ended: bool | None = None
        self._upload: BlobUpload | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self.size = 0
        self.hash = RunningHash("sha256")
        self.raw = 0
        self.behind = 0
        self.diff = RunningHash("sha256")
        self.mark: Mark | None = None
        self._kept: dict[str, Any] | None = None
        self._inside = inside
        # Known before the first segment comes, so that none is packed that the registry has.
        if stored is not None and self._taken_up(stored):
            self.behind = int(stored["raw"])
        if inside is not None:
            self.raw = int(inside["raw"])
            self.diff = RunningHash.resume("sha256", inside["diff"])
            if self.behind < self.raw or self.diff.offset != inside["diff"][0]:
                raise SynclineError("UPLOAD_LOST", "the registry no longer has the first part of a layer")

    def give(self, data: bytes, mark: Mark | None) -> None:
        self._queue.put(_Segment(data, self.packing(data), mark))

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

    @abstractmethod
    def inside(self) -> dict[str, Any] | None:
        """Return what continues the layer behind the bytes taken so far, if anything can."""

    def taken(self) -> Iterator[_Segment]:
        while (given := self._next()) is not None:
            self.mark = given.mark
            yield given

    @property
    def whole(self) -> bool:
        """Whether all segments came."""
        return self._ended is True

    def _next(self) -> _Segment | None:
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
        return Interrupted(self._kept, self._inside)

    def note_reading(self) -> None:
        """Note how far reading got, if that is not yet the part that the registry lacks."""
        if self._kept is not None and self.mark is not None and self.raw <= self.behind:
            self._inside = self.inside()

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
            self._inside = None if self.mark is None else self.inside()

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


class _Packed(_Transfer):
    """A layer that is packed on the way."""

    def __init__(
        self, sender: Sender, diff_id: str | None, stored: dict[str, Any] | None, inside: dict[str, Any] | None
    ) -> None:
        super().__init__(sender, stored, inside)
        self._expected = diff_id
        self._given = self.raw
        self._crc = 0 if inside is None else int(inside["crc"])

    def packing(self, segment: bytes) -> Future[bytes] | None:
        self._given += len(segment)
        if self._given <= self.behind:
            return None
        return self.sender.packers.submit(packed_segment, segment)

    def inside(self) -> dict[str, Any] | None:
        diff = self.diff.state()
        return None if diff is None else {"mark": self.mark, "raw": self.raw, "diff": diff, "crc": self._crc}

    def run(self) -> Layer | Interrupted:
        if not self.behind:
            self.add(HEADER)
        for segment in self.taken():
            self.diff.update(segment.data)
            self._crc = checksum(segment.data, self._crc)
            self.raw += len(segment.data)
            if segment.packed is not None:
                self.add(segment.packed.result())
        if not self.whole:
            self.note_reading()
            return self.interrupted()
        self.add(trailer(self._crc, self.raw))
        digest = self.finish(self._check)
        return Layer(self._diff_id, digest, self.size)

    @property
    def _diff_id(self) -> str:
        return f"sha256:{self.diff.hexdigest()}"

    def _check(self) -> None:
        if self._expected is not None and self._expected != self._diff_id:
            self.cancel()
            what = f"a layer that the archive calls {self._expected} has the content {self._diff_id}"
            raise SynclineError("ARCHIVE_INVALID", what)


_Asked = Future[dict[str, Any] | None]


class _AsItIs(_Transfer):
    """A blob that is packed already; beside being sent it is unpacked, to learn what it holds."""

    def __init__(
        self, sender: Sender, digest: str, stored: dict[str, Any] | None, inside: dict[str, Any] | None
    ) -> None:
        super().__init__(sender, stored, inside)
        self._digest = digest
        self._waiting: queue.Queue[bytes | _Asked | None] = queue.Queue(2)
        self._unpacked_from = None if inside is None else inside["unpacked"]

    def packing(self, segment: bytes) -> Future[bytes] | None:
        del segment
        return None

    def inside(self) -> dict[str, Any] | None:
        """Wait until all that was taken is unpacked."""
        asked: _Asked = Future()
        self._waiting.put(asked)
        answer = asked.result()
        return None if answer is None else {"mark": self.mark, "raw": self.raw, **answer}

    def run(self) -> Layer | Interrupted:
        with ThreadPoolExecutor(1, thread_name_prefix="unpack") as unpacking:
            unpacked_hash = unpacking.submit(self._unpack)
            try:
                for segment in self.taken():
                    self._waiting.put(segment.data)
                    self.raw += len(segment.data)
                    if self.raw > self.behind:
                        self.add(segment.data)
                if not self.whole:
                    self.note_reading()
            finally:
                self._waiting.put(None)
            if not self.whole:
                return self.interrupted()
            diff_id = unpacked_hash.result()
        digest = self.finish(self._check)
        return Layer(diff_id, digest, self.size)

    def _unpack(self) -> str:
        given: Iterator[bytes | _Asked] = iter(self._waiting.get, None)
        size = 0 if self._unpacked_from is None else int(self._unpacked_from["given"])

        def segments() -> Iterator[tuple[bytes, Mark]]:
            nonlocal size
            for each in given:
                if isinstance(each, bytes):
                    size += len(each)
                    yield each, {}
                else:
                    each.set_result(self._reached(content.mark, size))

        try:
            mark = self._unpacked_from
            content = unpacked(Stream(segments(), {}), f"the blob {self._digest}", mark=mark)
            for chunk in content:
                self.diff.update(chunk)
        finally:
            for each in given:  # whoever gives them is not to wait for a place
                if not isinstance(each, bytes):
                    each.set_result(None)
        return f"sha256:{self.diff.hexdigest()}"

    def _reached(self, mark: Mark | None, size: int) -> dict[str, Any] | None:
        """Return what continues the unpacking behind ``size`` bytes, if it is there."""
        diff = self.diff.state()
        if mark is None or diff is None or mark["given"] != size:
            return None
        return {"diff": diff, "unpacked": {**mark, "skip": 0}}

    def _check(self) -> None:
        if f"sha256:{self.hash.hexdigest()}" != self._digest:
            self.cancel()
            raise SynclineError("ARCHIVE_INVALID", f"the blob that the archive calls {self._digest} is another")


assert SEGMENT % CHUNK == 0, "segments are made of whole chunks"
