"""The contents of compressed data and archives, recognized by their first bytes and never by a name, within limits."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO, Any, Final, cast

CHUNK: Final = 256 * 1024
BLOCK: Final = 512  # bytes of a block of a tar archive
_WINDOW: Final = 64 * 1024 * 1024  # bytes of memory that a decompressor may take
_GZIP: Final = b"\x1f\x8b\x08"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # zstd's skippable frames (RFC 8878, 3.1.2)
_BZIP2: Final = re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)")
_XZ: Final = b"\xfd7zXZ\0"
_ZLIB: Final = re.compile(rb"\x78[\x01\x5e\x9c\xda]")
ZIP: Final = b"PK\x03\x04"
_FIRST: Final = frozenset(bytes([byte]) for byte in b"\x1f\x28\xfdBx" + bytes(range(0x50, 0x60)))
_OF_NEXT: Final = frozenset(b"xgLK")  # types of tar members that describe the next one
_MEMBER: Final = 1500
"""Work to begin and end one member of compressed data or of a zip archive, in units of about 0.1 µs."""
_PAX_SIZE: Final = re.compile(rb"(?:^|\n)\d+ size=(\d{1,15})\n")


class Unreadable(Exception):  # noqa: N818 - not an error: the content is unknown
    """The data cannot be decompressed or searched within the limits; it may be undamaged."""


class Stream:
    """Bytes from an iterator, with look-ahead. `taken` is the number of bytes read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._ahead = b""
        self._at = 0  # bytes before it were read: a large chunk is not copied at each read
        self.taken = 0

    def peek(self, size: int) -> bytes:
        """Return the next bytes without reading them; fewer at the end."""
        length = len(self._ahead) - self._at
        if length < size:
            parts = [self._ahead[self._at :]]
            while length < size and (chunk := next(self._chunks, None)) is not None:
                parts.append(chunk)
                length += len(chunk)
            self._ahead, self._at = b"".join(parts), 0
        return self._ahead[self._at : self._at + size]

    def read(self, size: int) -> bytes:
        """Read bytes; fewer at the end."""
        found = self.peek(size)
        self._at += len(found)
        self.taken += len(found)
        return found

    def some(self) -> bytes:
        """Read a chunk; empty at the end."""
        return self.read(min(len(self._ahead) - self._at, CHUNK) or CHUNK)

    def give_back(self, data: bytes) -> None:
        """Put back the bytes that were read last."""
        if self._at >= len(data):
            self._at -= len(data)
        else:
            self._ahead, self._at = data + self._ahead[self._at :], 0
        self.taken -= len(data)

    def take(self, size: int) -> Iterator[bytes]:
        """Read exactly `size` bytes in chunks; fewer at the end."""
        while size > 0 and (chunk := self.read(min(size, CHUNK))):
            size -= len(chunk)
            yield chunk


def compression_of(head: bytes) -> str | None:
    """Return the name of the compression of data with these first bytes, or None."""
    if head[:1] not in _FIRST:
        return None
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or _SKIPPABLE.match(head):
        return "zstd"
    if _BZIP2.match(head):
        return "bzip2"
    if head.startswith(_XZ):
        return "xz"
    return "zlib" if _ZLIB.match(head) else None


def decompressed(stream: Stream, form: str, spend: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the content of all members of compressed data; `stream` is then behind them. `spend` counts the work.

    Damaged data ends at the damage, and `stream` is then at or before it. Raises :exc:`Unreadable`.
    """
    if form == "zstd":
        yield from _zstd(stream)
        return
    while compression_of(stream.peek(16)) == form:
        spend(_MEMBER)
        sound = yield from _member(stream, form)
        if not sound:
            return


def _member(stream: Stream, form: str) -> Generator[bytes, None, bool]:
    machine, errors = _machine(form)
    given = b""
    while not machine.eof:
        if machine.needs_input:
            given = stream.some()
            if not given:
                return False
        try:
            chunk = machine.decompress(given if machine.needs_input else b"", CHUNK)
        except errors as error:
            if form == "xz":
                raise Unreadable(str(error)) from None
            stream.give_back(given)
            return False
        if chunk:
            yield chunk
    stream.give_back(machine.unused_data)
    return True


def _machine(form: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return a decompressor with the interface of :class:`bz2.BZ2Decompressor`, and its errors for damaged data."""
    if form == "bzip2":
        import bz2  # noqa: PLC0415 - only where there is any

        return bz2.BZ2Decompressor(), (OSError, ValueError)
    if form == "xz":
        import lzma  # noqa: PLC0415

        return lzma.LZMADecompressor(memlimit=_WINDOW), (lzma.LZMAError,)
    from isal import igzip_lib  # noqa: PLC0415

    flag = igzip_lib.DECOMP_GZIP if form == "gzip" else igzip_lib.DECOMP_ZLIB
    damaged = cast("type[Exception]", igzip_lib.error)  # the type hints declare it as an instance
    return igzip_lib.IgzipDecompressor(flag=flag), (damaged, ValueError)


def _zstd(stream: Stream) -> Iterator[bytes]:
    import zstandard  # noqa: PLC0415

    factory = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    file = cast("IO[bytes]", stream)  # only its `read` is called
    reader = factory.stream_reader(file, read_across_frames=True, read_size=CHUNK, closefd=False)
    while True:
        try:
            chunk = reader.read(CHUNK)
        except zstandard.ZstdError as error:
            raise Unreadable(str(error)) from None
        if not chunk:
            return
        yield chunk


# -- archives ------------------------------------------------------------------------------------------------------


def is_tar(head: bytes) -> bool:
    """Return True if these bytes begin with the header of a tar member (with a correct checksum)."""
    announced = _octal(head[148:156]) if len(head) >= BLOCK and any(head[:100]) else None
    return announced is not None and announced == sum(head[:BLOCK]) - sum(head[148:156]) + 8 * 0x20


def tar_members(stream: Stream) -> Iterator[Iterator[bytes]]:
    """Yield the content of each member, including headers of pax and long names. Read each to its end.

    Stops before the first block that is not a header.
    """
    size_of_next: int | None = None
    while is_tar(stream.peek(BLOCK)):
        header = stream.read(BLOCK)
        size = _size(header) if size_of_next is None or header[156] in _OF_NEXT else size_of_next
        padding = -size % BLOCK
        if header[156:157] == b"x" and size <= CHUNK:
            pax = stream.read(size)
            found = _PAX_SIZE.search(pax)
            size_of_next = int(found[1]) if found else None
            yield iter([pax])
        else:
            if header[156] not in _OF_NEXT:
                size_of_next = None
            yield stream.take(size)
        stream.read(padding)
        while stream.peek(BLOCK) == bytes(BLOCK):  # also between concatenated archives
            stream.read(BLOCK)


def _octal(field: bytes) -> int | None:
    try:
        return int(field.strip(b" \0"), 8)
    except ValueError:
        return None


def _size(header: bytes) -> int:
    field = header[124:136]
    if field[0] == 0x80:  # base 256, for sizes too large for octal digits
        return int.from_bytes(field[1:], "big")
    return _octal(field) or 0


def zip_members(data: bytes, spend: Callable[[int], None]) -> Iterator[Iterator[bytes]]:
    """Yield the content of each member that is neither encrypted nor damaged. `spend` counts the work."""
    import io  # noqa: PLC0415
    import zipfile  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    damaged = (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        struct.error,
        zlib.error,
    )

    def content(name: zipfile.ZipInfo) -> Iterator[bytes]:
        try:
            with archive.open(name) as member:
                while chunk := member.read(CHUNK):
                    yield chunk
        except damaged:
            return

    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except damaged:
        return
    with archive:
        for name in archive.infolist():
            spend(_MEMBER)
            yield content(name)
