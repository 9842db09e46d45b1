"""A stream of chunks, read by sizes; and what every archive is held to, so that none can take all memory or time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from syncline.errors import SynclineError

CHUNK: Final = 1024 * 1024
"""Bytes that pass at a time."""
_WINDOW: Final = 4 * CHUNK
_REMEMBERED: Final = 1024
"""Bytes that a feed may be asked to go back, if they lie in other chunks than the present one."""

Mark = dict[str, Any]
DataT = TypeVar("DataT", bound=bytes | memoryview)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may be: ``members`` in one listing, ``size`` in bytes unpacked, ``text`` bytes of one JSON file.

    ``ratio`` is how many times its own size an archive may unpack to, looked at once it has given ``free`` bytes: long
    runs of zeros are ordinary in small amounts.
    """

    members: int = 20_000
    size: int = 1 << 40
    text: int = 8 * 1024 * 1024
    ratio: int = 200
    free: int = 1 << 30


LIMITS: Final = Limits()


class Source(Protocol):
    """Bytes that can be read from anywhere; ``size`` of them."""

    @property
    def size(self) -> int: ...

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def open(self, start: int, end: int) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes from ``start`` up to ``end`` in chunks. Raises UNREACHABLE if they break off."""
        ...


class Windowed:
    """A source that is read in windows of 4 MiB, the latest of which is kept, for small reads that lie close together.

    The logs of a run are a zip of about a hundred small files: three requests for each would be hundreds.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._number = -1
        self._data = b""

    @property
    def size(self) -> int:
        return self._source.size

    @property
    def name(self) -> str:
        return self._source.name

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        yield self._pieces(start, end)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            number, at = divmod(start, _WINDOW)
            piece = self._window(number)[at : at + end - start]
            if not piece:
                raise invalid(f"{self.name} is cut short")
            start += len(piece)
            yield piece

    def _window(self, number: int) -> bytes:
        if number != self._number:
            start = number * _WINDOW
            with self._source.open(start, min(start + _WINDOW, self.size)) as chunks:
                self._data, self._number = b"".join(chunks), number
        return self._data


def invalid(what: str) -> SynclineError:
    """The archive is damaged, or contradicts itself."""
    return SynclineError("ARCHIVE_INVALID", what)


def refused(what: str) -> SynclineError:
    """The archive holds what none of ours needs."""
    return SynclineError("ARCHIVE_REFUSED", what)


class Stream(Generic[DataT]):
    """Chunks of bytes. `mark` tells where the next chunk begins; None if the stream cannot be continued from there.

    A mark is made of JSON values and bytes. Whoever made the stream can make one of the rest with it. `under` in a mark
    is the mark of the stream that this one was read from.
    """

    def __init__(self, marked: Iterable[tuple[DataT, Mark | None]], mark: Mark | None) -> None:
        self._marked = iter(marked)
        self.mark = mark

    def __iter__(self) -> Iterator[DataT]:
        return self

    def __next__(self) -> DataT:
        chunk, self.mark = next(self._marked)
        return chunk


def ranged(source: Source, start: int, end: int, mark: Mark | None = None) -> Stream[bytes]:
    """Return the bytes of a source from `start` up to `end`, or those behind a mark."""

    def chunks(at: int) -> Iterator[tuple[bytes, Mark]]:
        with source.open(at, end) as found:
            for chunk in found:
                at += len(chunk)
                yield chunk, {"at": at}

    mark = mark or {"at": start}
    return Stream(chunks(mark["at"]), mark)


class Feed:
    """Chunks read by sizes. ``at`` counts the bytes given so far; ``cut`` makes the error of an early end.

    With a mark of another feed, ``chunks`` are those behind its ``under``, and reading goes on where that one was.
    """

    def __init__(
        self, chunks: Iterable[bytes | memoryview], cut: Callable[[], SynclineError], mark: Mark | None = None
    ) -> None:
        self._chunks = chunks if isinstance(chunks, Stream) else Stream(((chunk, None) for chunk in chunks), None)
        self._cut = cut
        self._held: bytes | memoryview = b""
        self._starts: deque[tuple[int, Mark | None]] = deque()
        self.at = 0
        if mark is not None:
            self.at = mark["given"] - mark["skip"]
            self.skip(mark["skip"])

    def __iter__(self) -> Iterator[bytes | memoryview]:
        while piece := self.some(CHUNK):
            yield piece

    def mark(self, back: int = 0) -> Mark | None:
        """Return where this feed is, or was ``back`` bytes ago; None if it cannot be told.

        A feed remembers the chunk it is in, and at least the last ``_REMEMBERED`` bytes.
        """
        at = self.at - back
        start, under = next(
            (each for each in reversed(self._starts) if each[0] <= at),
            (self.at, None if self._starts else self._chunks.mark),
        )
        return None if under is None else {"under": under, "skip": at - start, "given": at}

    def some(self, most: int) -> bytes | memoryview:
        """Up to ``most`` bytes, none only at the end."""
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
        """The next ``size`` bytes, fewer at the end, which stay where they are."""
        parts: list[bytes | memoryview] = []
        missing = size
        while missing > 0 and (part := self.some(missing)):
            parts.append(part)
            missing -= len(part)
        seen = b"".join(parts)
        self.give_back(seen)
        return seen

    def give_back(self, data: bytes) -> None:
        """Put bytes that were given too many in front again."""
        if data:
            self.at -= len(data)
            self._held = b"".join((data, self._held)) if self._held else data

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        first = self.some(size)
        if len(first) == size:
            return bytes(first)
        parts = [first]
        missing = size - len(first)
        while missing:
            part = self.some(missing)
            if not part:
                raise self._cut()
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def pieces(self, size: int) -> Iterator[bytes | memoryview]:
        """Exactly ``size`` bytes as they come."""
        while size:
            piece = self.some(size)
            if not piece:
                raise self._cut()
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        for _ in self.pieces(size):
            pass
