"""Streams of bytes that can be continued from a mark, and the limits that every archive is held to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from syncline.errors import SynclineError

CHUNK: Final = 1024 * 1024  # bytes of one chunk, at most
_WINDOW: Final = 4 * CHUNK
_REMEMBERED: Final = 1024  # bytes by which a mark may lie before the current chunk

Mark = dict[str, Any]
"""A position in a stream, of JSON values and bytes. ``under`` is the mark of the stream that this one is read from."""
DataT = TypeVar("DataT", bound=bytes | memoryview)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Limits of an archive: ``members`` of one listing, ``size`` in bytes decompressed, ``text`` bytes of one JSON file.

    ``ratio`` is the largest ratio of decompressed to compressed size. It is checked once ``free`` bytes have been
    decompressed, as long runs of zeros are common in small amounts.
    """

    members: int = 20_000
    size: int = 1 << 40
    text: int = 8 * 1024 * 1024
    ratio: int = 200
    free: int = 1 << 30


LIMITS: Final = ArchiveLimits()


class Source(Protocol):
    """``size`` bytes that can be read from any offset. ``name`` is for messages."""

    @property
    def size(self) -> int: ...

    @property
    def name(self) -> str: ...

    def open(self, start: int, end: int) -> AbstractContextManager[Iterator[bytes]]:
        """Open the bytes from ``start`` up to ``end``, in chunks. Raises UNREACHABLE if the connection breaks."""
        ...


class WindowedSource:
    """A source that is read in windows of 4 MiB, keeping the latest one, for small reads that lie close together.

    The logs of a run are a zip of about a hundred small files, each of which would take three requests.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name = source.name
        self._number = -1
        self._data = b""

    @property
    def size(self) -> int:
        return self._source.size

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        yield self._pieces(start, end)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            number, at = divmod(start, _WINDOW)
            piece = self._window(number)[at : at + end - start]
            if not piece:
                raise invalid(f"{self.name} is truncated")
            start += len(piece)
            yield piece

    def _window(self, number: int) -> bytes:
        if number != self._number:
            start = number * _WINDOW
            with self._source.open(start, min(start + _WINDOW, self.size)) as chunks:
                self._data, self._number = b"".join(chunks), number
        return self._data


def invalid(what: str) -> SynclineError:
    """Return the error of an archive that is damaged or contradicts itself."""
    return SynclineError("ARCHIVE_INVALID", what)


def refused(what: str) -> SynclineError:
    """Return the error of an archive with content that no image needs."""
    return SynclineError("ARCHIVE_REFUSED", what)


class MarkedStream(Generic[DataT]):
    """Chunks of bytes. `mark` is where the next chunk begins; None if the stream cannot be continued from there.

    The function that made a stream makes one of the rest of it when it is given the mark.
    """

    def __init__(self, marked: Iterable[tuple[DataT, Mark | None]], mark: Mark | None) -> None:
        self._marked = iter(marked)
        self.mark = mark

    def __iter__(self) -> Iterator[DataT]:
        return self

    def __next__(self) -> DataT:
        chunk, self.mark = next(self._marked)
        return chunk


def ranged(source: Source, start: int, end: int, mark: Mark | None = None) -> MarkedStream[bytes]:
    """Return the bytes of a source from `start` up to `end`, or those after a mark."""

    def chunks(at: int) -> Iterator[tuple[bytes, Mark]]:
        with source.open(at, end) as opened:
            for chunk in opened:
                at += len(chunk)
                yield chunk, {"at": at}

    mark = mark or {"at": start}
    return MarkedStream(chunks(mark["at"]), mark)


class ChunkReader:
    """Reads chunks in any sizes. ``at`` counts the bytes read. Raises ARCHIVE_INVALID if the stream ``name`` ends early.

    With a mark of another reader, ``chunks`` are those after its ``under``, and reading continues at the mark.
    """

    def __init__(self, chunks: Iterable[bytes | memoryview], name: str, mark: Mark | None = None) -> None:
        self._chunks = (
            chunks if isinstance(chunks, MarkedStream) else MarkedStream(((chunk, None) for chunk in chunks), None)
        )
        self._name = name
        self._held: bytes | memoryview = b""
        self._starts: deque[tuple[int, Mark | None]] = deque()
        self.at = 0
        if mark is not None:
            self.at = mark["given"] - mark["skip"]
            self.skip(mark["skip"])

    def __iter__(self) -> Iterator[bytes | memoryview]:
        while piece := self.read_some(CHUNK):
            yield piece

    def mark(self, back: int = 0) -> Mark | None:
        """Return the mark of the position, or of ``back`` bytes before it; None if it is unknown.

        Known are the positions within the current chunk, and at least within the last ``_REMEMBERED`` bytes.
        """
        at = self.at - back
        start, under = next(
            (each for each in reversed(self._starts) if each[0] <= at),
            (self.at, None if self._starts else self._chunks.mark),
        )
        return None if under is None else {"under": under, "skip": at - start, "given": at}

    def read_some(self, most: int) -> bytes | memoryview:
        """Return up to ``most`` bytes, none only at the end."""
        while not self._held:
            under = self._chunks.mark
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            if under is not None:
                while len(self._starts) > 1 and self._starts[1][0] <= self.at - _REMEMBERED:
                    self._starts.popleft()
                self._starts.append((self.at, under))
            self._held = chunk
        if len(self._held) <= most:
            given, self._held = self._held, b""
        else:
            view = memoryview(self._held)
            given, self._held = view[:most], view[most:]
        self.at += len(given)
        return given

    def peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes without consuming them; fewer at the end."""
        parts: list[bytes | memoryview] = []
        missing = size
        while missing > 0 and (part := self.read_some(missing)):
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        self.unread(data)
        return data

    def unread(self, data: bytes) -> None:
        """Put back the bytes that were read last."""
        if data:
            self.at -= len(data)
            self._held = b"".join((data, self._held)) if self._held else data

    def read_exactly(self, size: int) -> bytes:
        """Return exactly ``size`` bytes."""
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes | memoryview]:
        """Yield exactly ``size`` bytes in the pieces in which they come."""
        while size:
            piece = self.read_some(size)
            if not piece:
                raise invalid(f"{self._name} is truncated")
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        for _ in self.pieces(size):
            pass
