"""Sending a large blob in pieces, over as many functions as it takes, and through broken connections.

After each piece the upload's state is known to be good: its session at the target, and the hash of what went before.
Where a connection breaks within a piece, the target is asked how far it got, and the source is read from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.registry.client import BlobStream, Registry
from syncline.clients.registry.manifest import Descriptor
from syncline.clients.registry.reference import hasher, same
from syncline.clients.registry.upload import Upload
from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import StepContext
from syncline.running_hash import RunningHash

CHUNK: Final = 1024 * 1024
"""Bytes read and sent at a time."""
_MARK: Final = 64 * CHUNK
"""Bytes after which the hash under way is noted, so that a broken piece is not hashed again from the start."""
STARTS_AGAIN: Final[frozenset[CodeName]] = frozenset({"UPLOAD_LOST", "DIGEST_MISMATCH", "SIZE_DIFFERS"})
"""After these nothing is left of an upload that could be taken up again."""
_BREAKS: Final = 5
"""How many broken connections one call bears, as long as each piece gets further."""


class InterruptedUploadError(Exception):
    """Another function continues with a blob: time was short for it, or a request failed with ``error``.

    ``state`` takes the upload up again, None if none was begun; ``sent`` bytes were confirmed.
    """

    def __init__(
        self, digest: str, state: dict[str, Any] | None, sent: int, error: SynclineError | None = None
    ) -> None:
        super().__init__(digest)
        self.digest = digest
        self.state = state
        self.sent = sent
        self.error = error


@dataclass(frozen=True, slots=True)
class CopyRoute:
    """Where a blob comes from and where it goes."""

    source: Registry
    source_repository: str
    target: Registry
    target_repository: str


def send_in_pieces(way: CopyRoute, blob: Descriptor, stored: dict[str, Any] | None, context: StepContext) -> int:
    """Send a blob, going on where ``stored`` left it, and return the number of bytes sent.

    Raises :class:`InterruptedUploadError` where the time ends first or a request fails that may be tried again,
    UPLOAD_LOST, SIZE_DIFFERS or DIGEST_MISMATCH where the source's bytes are not the blob's, and what else the
    registries answer.
    """
    upload, begun, marks = _opened(way, stored)
    sending = _Sending(way, blob, upload, context, marks)
    try:
        reached = sending.through_breaks(begun)
        if reached < blob.size and context.over:
            raise InterruptedUploadError(blob.digest, sending.state(), reached - begun)
        sending.finish()
    except SynclineError as error:
        if error.is_any("DIGEST_MISMATCH", "SIZE_DIFFERS"):
            upload.cancel()
        if not error.retried or error.code.name in STARTS_AGAIN:
            raise
        # What the registry has confirmed stays there, and the next function asks for more.
        raise InterruptedUploadError(blob.digest, sending.state(), upload.offset - begun, error) from error
    return reached - begun


def _opened(way: CopyRoute, stored: dict[str, Any] | None) -> tuple[Upload, int, list[Any]]:
    """Return the upload that was ``stored``, or a new one, with its offset and its marks."""
    if stored is not None:
        upload = way.target.resume_upload(way.target_repository, stored["upload"])
        try:
            return upload, upload.status(), list(stored["marks"])
        except SynclineError as error:
            # Where nothing was confirmed, nothing is lost with the session.
            if error.code.name != "UPLOAD_LOST" or stored["upload"]["offset"]:
                raise
    return way.target.begin_upload(way.target_repository), 0, []


class _Sending:
    """An upload under way. ``marks`` are hashes under way, as :class:`RunningHash` stores them.

    Where none can be stored, what went before is read and hashed once more, before the first byte is sent.
    """

    def __init__(
        self, way: CopyRoute, blob: Descriptor, upload: Upload, context: StepContext, marks: list[Any]
    ) -> None:
        self._way = way
        self._blob = blob
        self._upload = upload
        self._context = context
        self._marks = marks
        self._algorithm, _, self._expected = blob.digest.partition(":")
        self._digest = RunningHash(self._algorithm)

    def through_breaks(self, at: int) -> int:
        """Send from offset ``at`` for as long as the time allows, through broken connections; the offset reached."""
        for _ in range(_BREAKS):
            try:
                return self._piece(at)
            except SynclineError as error:
                if not error.retried_here or error.code.name == "DIGEST_MISMATCH" or self._context.over:
                    raise
                reached = self._upload.status()
                if reached <= at:
                    raise
                at = reached
        return self._piece(at)

    def state(self) -> dict[str, Any]:
        """What takes the upload up again, as JSON values."""
        return {"upload": self._upload.state(), "marks": self._marks[-1:]}

    def finish(self) -> None:
        """Close the upload, if the bytes were the blob's."""
        if self._digest.offset != self._blob.size:
            raise other_size(self._way, self._blob, self._digest.offset)
        if self._digest.hexdigest() != self._expected:
            raise other_digest(self._way, self._blob)
        self._upload.finish(self._blob.digest)

    def _piece(self, at: int) -> int:
        latest = max((mark for mark in self._marks if mark[0] <= at), key=lambda mark: int(mark[0]), default=None)
        self._digest = RunningHash.resume(self._algorithm, latest)
        way, blob = self._way, self._blob
        with way.source.open_blob(way.source_repository, blob.digest, self._digest.offset) as stream:
            if stream.size not in (None, blob.size):
                raise other_size(way, blob, stream.size)
            with read_ahead(self._chunks(chunks_of(stream), at)) as chunks:
                reached = self._upload.write(chunks, blob.size)
        self._mark()
        return reached

    def _chunks(self, chunks: Iterator[bytes], at: int) -> Iterator[bytes]:
        """The chunks from ``at`` on while there is time; those before it are only hashed, however long that takes."""
        for chunk in chunks:
            before = self._digest.offset
            self._digest.update(chunk)
            if self._digest.offset // _MARK != before // _MARK:
                self._mark()
            if self._digest.offset > self._blob.size:
                raise other_size(self._way, self._blob, self._digest.offset)
            if self._digest.offset > at:
                yield chunk[max(0, at - before) :]
                if self._context.over:
                    return

    def _mark(self) -> None:
        state = self._digest.state()
        if state is not None:
            self._marks.append(state)
            del self._marks[:-4]


def other_size(way: CopyRoute, blob: Descriptor, size: int) -> SynclineError:
    """Return the error of a blob of which the source gives ``size`` bytes, at least, where its manifest states others."""
    named = f"{way.source_repository}@{blob.digest}"
    what = f"{named} has {size} bytes at {way.source.host}, its manifest states {blob.size}"
    return SynclineError("SIZE_DIFFERS", what)


def other_digest(way: CopyRoute, blob: Descriptor) -> SynclineError:
    """Return the error of a blob whose bytes at the source are as many as stated, but do not have its digest."""
    named = f"{way.source_repository}@{blob.digest}"
    what = f"the {blob.size} bytes that {way.source.host} gives for {named} have another digest"
    return SynclineError("DIGEST_MISMATCH", what)


def chunks_of(stream: BlobStream, limit: int | None = None) -> Iterator[bytes]:
    """A blob's bytes, a chunk at a time; no more than the chunk in which ``limit`` bytes are passed."""
    passed = 0
    while (limit is None or passed <= limit) and (chunk := stream.read(CHUNK)):
        passed += len(chunk)
        yield chunk


def proved(chunks: Iterator[bytes], way: CopyRoute, blob: Descriptor) -> Iterator[bytes]:
    """Yield the chunks, hashed and counted as they pass.

    Raises SIZE_DIFFERS or DIGEST_MISMATCH in place of the last one if they are not the blob.
    """
    hash_, passed, held = hasher(blob.digest), 0, b""
    for chunk in chunks:
        hash_.update(chunk)
        passed += len(chunk)
        if held:
            yield held
        held = chunk
    if passed != blob.size:
        raise other_size(way, blob, passed)
    if not same(blob.digest, hash_):
        raise other_digest(way, blob)
    yield held
