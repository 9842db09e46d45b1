"""Upload of a large blob in pieces, over as many functions as it takes, and through broken connections.

After each piece the state of the upload is stored: its session at the target, and the hash of the bytes so far. If a
connection breaks within a piece, the target is asked for the offset that it has reached, and the source is read from
there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.registry.manifest import Descriptor
from syncline.clients.registry.reference import hash_matches, hasher
from syncline.clients.registry.store import BlobWriter, ImageStore
from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import StepContext
from syncline.running_hash import RunningHash

_MARK: Final = 64 * 1024 * 1024
"""Bytes after which the hash state is saved, so that a broken piece is not hashed again from the start."""
STARTS_AGAIN: Final[frozenset[CodeName]] = frozenset({"UPLOAD_LOST", "DIGEST_MISMATCH", "SIZE_DIFFERS"})
"""Codes of errors after which the upload cannot be resumed."""
_BREAKS: Final = 5
"""Broken connections that one call tolerates, as long as each piece advances."""


class InterruptedUploadError(Exception):
    """The upload of a blob ended early, because time was short or a request failed with ``error``.

    Another function resumes it from ``state``, which is None if it was not begun; ``sent`` bytes were confirmed.
    """

    def __init__(self, state: dict[str, Any] | None, sent: int, error: SynclineError | None = None) -> None:
        super().__init__(error)
        self.state = state
        self.sent = sent
        self.error = error


@dataclass(frozen=True, slots=True)
class CopyRoute:
    """The repository that blobs are copied from, and the one that they are copied to."""

    source: ImageStore
    source_repository: str
    target: ImageStore
    target_repository: str


def send_in_pieces(route: CopyRoute, blob: Descriptor, stored: dict[str, Any] | None, context: StepContext) -> int:
    """Send a blob, continuing from the ``stored`` state if there is one, and return the number of bytes sent.

    Raises :class:`InterruptedUploadError` if the time ends first or a request fails that may be retried, UPLOAD_LOST,
    SIZE_DIFFERS or DIGEST_MISMATCH if the source's bytes are not the blob's, and other errors of the registries.
    """
    upload, begun, marks = _opened(route, stored)
    sending = _Sending(route, blob, upload, context, marks)
    try:
        reached = sending.send(begun)
        if reached < blob.size and context.over:
            raise InterruptedUploadError(sending.state(), reached - begun)
        sending.finish()
    except SynclineError as error:
        if error.is_any("DIGEST_MISMATCH", "SIZE_DIFFERS"):
            upload.cancel()
        if not error.retried or error.code.name in STARTS_AGAIN:
            raise
        # The registry keeps what it has confirmed, and the next function continues from there.
        raise InterruptedUploadError(sending.state(), upload.offset - begun, error) from error
    return reached - begun


def _opened(route: CopyRoute, stored: dict[str, Any] | None) -> tuple[BlobWriter, int, list[Any]]:
    """Return the ``stored`` upload, or a new one, with its offset and its marks."""
    if stored is not None:
        upload = route.target.resume_upload(route.target_repository, stored["upload"])
        try:
            return upload, upload.status(), list(stored["marks"])
        except SynclineError as error:
            # If nothing was confirmed, nothing is lost with the session.
            if error.code.name != "UPLOAD_LOST" or stored["upload"]["offset"]:
                raise
    return route.target.begin_upload(route.target_repository), 0, []


@dataclass
class _Sending:
    """An upload in progress. ``marks`` are saved hash states, in the form that :class:`RunningHash` stores.

    If a hash state cannot be saved, the bytes before the offset are read and hashed again before the first one is sent.
    """

    route: CopyRoute
    blob: Descriptor
    upload: BlobWriter
    context: StepContext
    marks: list[Any]

    def __post_init__(self) -> None:
        self._algorithm, _, self._expected = self.blob.digest.partition(":")
        self._hash = RunningHash(self._algorithm)

    def send(self, at: int) -> int:
        """Send from offset ``at`` until the time is over, through broken connections, and return the offset reached."""
        for _ in range(_BREAKS):
            try:
                return self._send_piece(at)
            except SynclineError as error:
                if not error.retried_here or error.code.name == "DIGEST_MISMATCH" or self.context.over:
                    raise
                reached = self.upload.status()
                if reached <= at:
                    raise
                at = reached
        return self._send_piece(at)

    def state(self) -> dict[str, Any]:
        """Return the state from which the upload is resumed, as JSON values."""
        # The latest mark may be of bytes that were read but did not reach the target.
        return {"upload": self.upload.state(), "marks": self.marks[-2:]}

    def finish(self) -> None:
        """Close the upload. Raises SIZE_DIFFERS or DIGEST_MISMATCH if the bytes were not the blob's."""
        if self._hash.offset != self.blob.size:
            raise other_size(self.route, self.blob, self._hash.offset)
        if self._hash.hexdigest() != self._expected:
            raise other_digest(self.route, self.blob)
        self.upload.finish(self.blob.digest)

    def _send_piece(self, at: int) -> int:
        latest = max((mark for mark in self.marks if mark[0] <= at), key=lambda mark: int(mark[0]), default=None)
        self._hash = RunningHash.resume(self._algorithm, latest)
        route, blob = self.route, self.blob
        with route.source.open_blob(route.source_repository, blob.digest, self._hash.offset) as stream:
            if stream.size not in (None, blob.size):
                raise other_size(route, blob, stream.size)
            with read_ahead(self._chunks(stream, at)) as chunks:
                reached = self.upload.write(chunks, blob.size)
        self._mark()
        return reached

    def _chunks(self, chunks: Iterable[bytes], at: int) -> Iterator[bytes]:
        """Yield the chunks from ``at`` on until the time is over; those before it are only hashed, in any case."""
        for chunk in chunks:
            before = self._hash.offset
            self._hash.update(chunk)
            if self._hash.offset // _MARK != before // _MARK:
                self._mark()
            if self._hash.offset > self.blob.size:
                raise other_size(self.route, self.blob, self._hash.offset)
            if self._hash.offset > at:
                yield chunk[max(0, at - before) :]
                if self.context.over:
                    return

    def _mark(self) -> None:
        state = self._hash.state()
        if state is not None:
            self.marks.append(state)
            del self.marks[:-4]


def other_size(route: CopyRoute, blob: Descriptor, size: int) -> SynclineError:
    """Return the error for a blob of which the source has at least ``size`` bytes, unlike its manifest states."""
    named = f"{route.source_repository}@{blob.digest}"
    what = f"{named} has {size} bytes at {route.source.host}, its manifest states {blob.size}"
    return SynclineError("SIZE_DIFFERS", what)


def other_digest(route: CopyRoute, blob: Descriptor) -> SynclineError:
    """Return the error for a blob whose bytes at the source have the stated size but another digest."""
    named = f"{route.source_repository}@{blob.digest}"
    what = f"the {blob.size} bytes that {route.source.host} gives for {named} have another digest"
    return SynclineError("DIGEST_MISMATCH", what)


def verified_chunks(chunks: Iterable[bytes], route: CopyRoute, blob: Descriptor) -> Iterator[bytes]:
    """Yield the chunks, hashed and counted as they pass.

    Raises SIZE_DIFFERS or DIGEST_MISMATCH in place of the last one if they are not the blob.
    """
    hash_, passed, held = hasher(blob.digest), 0, b""
    for chunk in chunks:
        hash_.update(chunk)
        passed += len(chunk)
        if passed > blob.size:
            break
        if held:
            yield held
        held = chunk
    if passed != blob.size:
        raise other_size(route, blob, passed)
    if not hash_matches(blob.digest, hash_):
        raise other_digest(route, blob)
    yield held
