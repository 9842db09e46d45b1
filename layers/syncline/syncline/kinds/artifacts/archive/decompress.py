"""Decompression of gzip, zstd and deflate streams that can be interrupted. The first bytes decide, never a name.

:mod:`syncline.kinds.backups.unpacking` is separate: it searches any data for secrets, so damaged data ends where the damage
is instead of failing, and its memory limit is half of this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import IO, Final, cast

from syncline.kinds.artifacts.archive.inflate import DEFLATE, GZIP, DamagedError, Inflater
from syncline.kinds.artifacts.archive.streams import (
    CHUNK,
    LIMITS,
    ArchiveLimits,
    ChunkReader,
    Mark,
    MarkedStream,
    invalid,
    refused,
)

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = range(0x184D2A50, 0x184D2A60)  # zstd's skippable frames (RFC 8878, 3.1.2)
_ZSTD_WINDOW: Final = 128 * 1024 * 1024  # bytes of memory; the window of `zstd --long`


def compression_of(start: bytes) -> str:
    """Return ``gzip``, ``zstd`` or the empty string for data with these first bytes."""
    if start.startswith(GZIP_MAGIC):
        return "gzip"
    if start.startswith(ZSTD) or (len(start) >= 4 and int.from_bytes(start[:4], "little") in _SKIPPABLE):
        return "zstd"
    return ""


def decompressed(
    chunks: Iterable[bytes | memoryview], name: str, limits: ArchiveLimits = LIMITS, mark: Mark | None = None
) -> MarkedStream[bytes]:
    """Return the content of a stream, with one layer of compression removed if there is one.

    With a mark of the stream returned, ``chunks`` are those after its ``under``. The content of zstd has no marks.
    Raises ARCHIVE_INVALID for a stream that is damaged or truncated, ARCHIVE_REFUSED for one that decompresses to more
    than the limits allow.
    """
    reader = ChunkReader(chunks, name, mark)
    form = compression_of(reader.peek(4)) if mark is None else mark["form"]
    if form == "gzip":
        return _watched(_inflated(reader, name, GZIP, mark), reader, name, limits, mark)
    if form == "zstd":
        return _watched(MarkedStream(_unzstd(reader, name), None), reader, name, limits, None)
    return MarkedStream(_plain(reader), _with(reader.mark(), {"form": ""}))


def inflated(
    chunks: Iterable[bytes | memoryview], name: str, limits: ArchiveLimits = LIMITS, mark: Mark | None = None
) -> MarkedStream[bytes]:
    """Return the content of a raw deflate stream (RFC 1951), as in a zip; bytes after its end are ignored.

    With a mark of the stream returned, ``chunks`` are those after its ``under``.
    """
    reader = ChunkReader(chunks, name, mark)
    return _watched(_inflated(reader, name, DEFLATE, mark), reader, name, limits, mark)


def _plain(reader: ChunkReader) -> Iterator[tuple[bytes, Mark | None]]:
    while piece := reader.read_some(CHUNK):
        yield bytes(piece), _with(reader.mark(), {"form": ""})


def _with(mark: Mark | None, more: Mark) -> Mark | None:
    return None if mark is None else mark | more


def _watched(
    chunks: MarkedStream[bytes], reader: ChunkReader, name: str, limits: ArchiveLimits, mark: Mark | None
) -> MarkedStream[bytes]:
    size = 0 if mark is None else int(mark["unpacked"])

    def watched() -> Iterator[tuple[bytes, Mark | None]]:
        nonlocal size
        for chunk in chunks:
            size += len(chunk)
            if size > limits.size:
                raise refused(f"{name} unpacks to more than {limits.size} bytes")
            if size > limits.free and size > limits.ratio * reader.at:
                raise refused(f"{name} unpacks to more than {limits.ratio} times its size")
            yield chunk, _with(chunks.mark, {"unpacked": size})

    return MarkedStream(watched(), _with(chunks.mark, {"unpacked": size}))


def _mark(reader: ChunkReader, inflater: Inflater | None) -> Mark | None:
    if inflater is None or inflater.is_finished:
        return _with(reader.mark(), {"form": "gzip", "state": None})
    mark = reader.mark(inflater.waiting)
    return None if mark is None else {**mark, "form": "gzip", "state": inflater.state()}


def _inflate(reader: ChunkReader, name: str, inflater: Inflater | None) -> Iterator[tuple[bytes, Mark | None]]:
    """Yield the content of one deflate or gzip stream; ``reader`` is then positioned after it."""
    while inflater is not None and not inflater.is_finished:
        given = b"" if inflater.waiting else bytes(reader.read_some(CHUNK))
        is_last = not given and not inflater.waiting
        try:
            chunk = inflater.inflate(given)
        except DamagedError as error:
            raise invalid(f"{name} is damaged ({error})") from None
        if inflater.is_finished:
            reader.unread(inflater.rest)
        elif is_last and not chunk:
            raise invalid(f"{name} is truncated")
        yield chunk, _mark(reader, inflater)


def _inflated(reader: ChunkReader, name: str, kind: int, mark: Mark | None) -> MarkedStream[bytes]:
    """Return the content of a stream; of all members of a gzip stream (RFC 1952, 2.2), after which zeros may follow."""
    inflater = None  # the stream had ended at the mark
    if mark is None or mark["state"] is not None:
        inflater = Inflater(kind, None if mark is None else mark["state"])

    def chunks() -> Iterator[tuple[bytes, Mark | None]]:
        yield from _inflate(reader, name, inflater)
        if kind == DEFLATE:
            return
        while reader.peek(2) == GZIP_MAGIC:
            yield from _inflate(reader, name, Inflater(GZIP))
        for piece in reader:
            if any(piece):
                raise invalid(f"{name} has other bytes after its end")

    return MarkedStream(chunks(), _mark(reader, inflater))


def _unzstd(reader: ChunkReader, name: str) -> Iterator[tuple[bytes, None]]:
    import zstandard  # noqa: PLC0415 - few archives need it

    source = SimpleNamespace(read=lambda size: bytes(reader.read_some(size)))
    factory = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    # A stream that is cut between two blocks ends without an error here; reading the tar in it fails.
    decompressor = factory.stream_reader(
        cast("IO[bytes]", source), read_across_frames=True, read_size=CHUNK, closefd=False
    )
    while True:
        try:
            chunk = decompressor.read(CHUNK)
        except zstandard.ZstdError as error:
            raise invalid(f"{name} is damaged ({error})") from None
        if not chunk:
            return
        yield chunk, None
