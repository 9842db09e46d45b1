"""Compressed streams as what is in them: gzip, zstd or neither, told by the first bytes, never by a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, cast

from syncline.kinds.artifacts.archive.feed import CHUNK, LIMITS, Feed, Limits, Mark, Stream, invalid, refused
from syncline.kinds.artifacts.archive.inflating import DEFLATE, GZIP, DamagedError, Inflater

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = range(0x184D2A50, 0x184D2A60)  # zstd's frames for others' notes (RFC 8878, 3.1.2)
_ZSTD_WINDOW: Final = 128 * 1024 * 1024  # bytes; what `zstd --long` writes, and no more memory than that


def form_of(start: bytes) -> str:
    """``gzip``, ``zstd`` or the empty string."""
    if start.startswith(GZIP_MAGIC):
        return "gzip"
    if start.startswith(ZSTD) or (len(start) >= 4 and int.from_bytes(start[:4], "little") in _SKIPPABLE):
        return "zstd"
    return ""


def unpacked(
    chunks: Iterable[bytes | memoryview], name: str, limits: Limits = LIMITS, mark: Mark | None = None
) -> Stream[bytes]:
    """Return what a stream holds, one layer of compression taken off if there is one.

    With a mark of the stream returned, ``chunks`` are those behind its ``under``. What zstd packed has no marks.
    Raises ARCHIVE_INVALID for a stream that is damaged or cut short, ARCHIVE_REFUSED for one that unpacks to more
    than the limits allow.
    """
    feed = Feed(chunks, lambda: invalid(f"{name} is cut short"), mark)
    form = form_of(feed.peek(4)) if mark is None else mark["form"]
    if form == "gzip":
        return _watched(_gunzip(feed, name, mark), feed, name, limits, mark)
    if form == "zstd":
        return _watched(Stream(_unzstd(feed, name), None), feed, name, limits, None)
    return Stream(_plain(feed), _with(feed.mark(), form=""))


def inflated(
    chunks: Iterable[bytes | memoryview], name: str, limits: Limits = LIMITS, mark: Mark | None = None
) -> Stream[bytes]:
    """Return what a raw deflate stream (RFC 1951) holds, as in a zip; what is behind its end is not looked at.

    With a mark of the stream returned, ``chunks`` are those behind its ``under``.
    """
    feed = Feed(chunks, lambda: invalid(f"{name} is cut short"), mark)
    inflater = _inflater(DEFLATE, mark)
    return _watched(Stream(_inflate(feed, name, inflater), _mark(feed, inflater)), feed, name, limits, mark)


def _plain(feed: Feed) -> Iterator[tuple[bytes, Mark | None]]:
    while piece := feed.some(CHUNK):
        yield bytes(piece), _with(feed.mark(), form="")


def _with(mark: Mark | None, **more: Any) -> Mark | None:
    return None if mark is None else {**mark, **more}


def _watched(chunks: Stream[bytes], feed: Feed, name: str, limits: Limits, mark: Mark | None) -> Stream[bytes]:
    size = 0 if mark is None else int(mark["unpacked"])

    def watched(size: int) -> Iterator[tuple[bytes, Mark | None]]:
        for chunk in chunks:
            size += len(chunk)
            if size > limits.size:
                raise refused(f"{name} unpacks to more than {limits.size} bytes")
            if size > limits.free and size > limits.ratio * feed.at:
                raise refused(f"{name} unpacks to more than {limits.ratio} times its size")
            yield chunk, _with(chunks.mark, unpacked=size)

    return Stream(watched(size), _with(chunks.mark, unpacked=size))


def _inflater(kind: int, mark: Mark | None) -> Inflater | None:
    """Return the inflater that a mark tells of; None where its stream was at its end."""
    if mark is None:
        return Inflater(kind)
    return None if mark["state"] is None else Inflater(kind, mark["state"])


def _mark(feed: Feed, inflater: Inflater | None) -> Mark | None:
    if inflater is None or inflater.is_finished:
        return _with(feed.mark(), form="gzip", state=None)
    mark = feed.mark(inflater.waiting)
    return None if mark is None else {**mark, "form": "gzip", "state": inflater.state()}


def _inflate(feed: Feed, name: str, inflater: Inflater | None) -> Iterator[tuple[bytes, Mark | None]]:
    """Yield what one deflate or gzip stream holds; ``feed`` then stands behind it."""
    while inflater is not None and not inflater.is_finished:
        given = b"" if inflater.waiting else bytes(feed.some(CHUNK))
        is_last = not given and not inflater.waiting
        try:
            chunk = inflater.inflate(given)
        except DamagedError as error:
            raise invalid(f"{name} is damaged ({error})") from None
        if inflater.is_finished:
            feed.give_back(inflater.rest)
        elif is_last and not chunk:
            raise invalid(f"{name} is cut short")
        yield chunk, _mark(feed, inflater)


def _gunzip(feed: Feed, name: str, mark: Mark | None) -> Stream[bytes]:
    """Return what all members of a gzip stream (RFC 1952, 2.2) hold; zeros that fill a block behind them are no member."""
    first = _inflater(GZIP, mark)

    def members() -> Iterator[tuple[bytes, Mark | None]]:
        yield from _inflate(feed, name, first)
        while feed.peek(2) == GZIP_MAGIC:
            yield from _inflate(feed, name, Inflater(GZIP))
        for piece in feed:
            if any(piece):
                raise invalid(f"{name} has other bytes behind its end")

    return Stream(members(), _mark(feed, first))


def _unzstd(feed: Feed, name: str) -> Iterator[tuple[bytes, None]]:
    import zstandard  # noqa: PLC0415 - only where there is such an archive

    factory = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    # A stream cut between two blocks ends like a whole one here; whoever reads the tar in it notices.
    reader = factory.stream_reader(
        cast("IO[bytes]", _Raw(feed)), read_across_frames=True, read_size=CHUNK, closefd=False
    )
    while True:
        try:
            chunk = reader.read(CHUNK)
        except zstandard.ZstdError as error:
            raise invalid(f"{name} is damaged ({error})") from None
        if not chunk:
            return
        yield chunk, None


class _Raw:
    """A feed as the file that zstandard reads from."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def read(self, size: int) -> bytes:
        return bytes(self._feed.some(size))
