"""Compressed streams as what is in them: gzip, zstd or neither, told by the first bytes, never by a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Final, cast

from isal import igzip_lib

from syncline.kinds.artifacts.archive.feed import CHUNK, LIMITS, Feed, Limits, invalid, refused

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
_DAMAGED: Final = cast("type[Exception]", igzip_lib.error)  # its types call it an instance
_SKIPPABLE: Final = range(0x184D2A50, 0x184D2A60)  # zstd's frames for others' notes (RFC 8878, 3.1.2)
_ZSTD_WINDOW: Final = 128 * 1024 * 1024  # bytes; what `zstd --long` writes, and no more memory than that


def form_of(start: bytes) -> str:
    """``gzip``, ``zstd`` or the empty string."""
    if start.startswith(GZIP):
        return "gzip"
    if start.startswith(ZSTD) or (len(start) >= 4 and int.from_bytes(start[:4], "little") in _SKIPPABLE):
        return "zstd"
    return ""


def unpacked(chunks: Iterable[bytes], name: str, limits: Limits = LIMITS) -> Iterator[bytes]:
    """What a stream holds, one layer of compression taken off if there is one.

    Raises ARCHIVE_INVALID for a stream that is damaged or cut short, ARCHIVE_REFUSED for one that unpacks to more
    than the limits allow.
    """
    feed = Feed(chunks, lambda: invalid(f"{name} is cut short"))
    form = form_of(feed.peek(4))
    if form == "gzip":
        return _watched(_gunzip(feed, name), feed, name, limits)
    if form == "zstd":
        return _watched(_unzstd(feed, name), feed, name, limits)
    return _plain(feed)


def inflated(chunks: Iterable[bytes], name: str, limits: Limits = LIMITS) -> Iterator[bytes]:
    """What a raw deflate stream (RFC 1951) holds, as in a zip; what is behind its end is not looked at."""
    feed = Feed(chunks, lambda: invalid(f"{name} is cut short"))
    return _watched(_inflate(feed, name, igzip_lib.DECOMP_DEFLATE), feed, name, limits)


def _plain(feed: Feed) -> Iterator[bytes]:
    while piece := feed.some(CHUNK):
        yield bytes(piece)


def _watched(chunks: Iterator[bytes], feed: Feed, name: str, limits: Limits) -> Iterator[bytes]:
    given = 0
    for chunk in chunks:
        given += len(chunk)
        if given > limits.size:
            raise refused(f"{name} unpacks to more than {limits.size} bytes")
        if given > limits.free and given > limits.ratio * feed.at:
            raise refused(f"{name} unpacks to more than {limits.ratio} times its size")
        yield chunk


def _inflate(feed: Feed, name: str, kind: int) -> Iterator[bytes]:
    """One deflate or gzip stream; ``feed`` then stands behind it."""
    machine = igzip_lib.IgzipDecompressor(flag=kind)
    while not machine.eof:
        given = bytes(feed.some(CHUNK)) if machine.needs_input else b""
        if machine.needs_input and not given:
            raise invalid(f"{name} is cut short")
        try:
            chunk = machine.decompress(given, CHUNK)
        except _DAMAGED as error:
            raise invalid(f"{name} is damaged ({error})") from None
        if chunk:
            yield chunk
    feed.give_back(machine.unused_data)


def _gunzip(feed: Feed, name: str) -> Iterator[bytes]:
    """All members of a gzip stream (RFC 1952, 2.2); zeros that fill a block behind them are no member."""
    while True:
        yield from _inflate(feed, name, igzip_lib.DECOMP_GZIP)
        behind = feed.peek(2)
        if behind != GZIP:
            break
    while piece := feed.some(CHUNK):
        if any(piece):
            raise invalid(f"{name} has other bytes behind its end")


def _unzstd(feed: Feed, name: str) -> Iterator[bytes]:
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
        yield chunk


class _Raw:
    """A feed as the file that zstandard reads from."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def read(self, size: int) -> bytes:
        return bytes(self._feed.some(size))
