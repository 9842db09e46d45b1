"""Tar archives as a stream of members, read in one pass without a disk.

Supported are the forms that image tools write: ustar, pax (``x`` and ``g`` headers) and GNU's long names and base-256
numbers. https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html and
https://www.gnu.org/software/tar/manual/html_node/Standard.html. Python's tarfile is not used because a negative size
makes it loop forever in versions still in use (CVE-2025-8194), and because limits must hold before memory is allocated.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from syncline.kinds.artifacts.archive.streams import (
    LIMITS,
    ArchiveLimits,
    ChunkReader,
    Mark,
    MarkedStream,
    invalid,
    refused,
)

BLOCK: Final = 512
_LONGEST_HEADER: Final = 1024 * 1024  # largest size of a pax header or long name, in bytes
_FILES: Final = frozenset(b"0\x007")
_SYMLINK: Final = ord("2")
_LINKS: Final = {ord("1"): "hardlink", _SYMLINK: "symlink"}
_SPECIAL: Final = {ord("3"): "a character device", ord("4"): "a block device", ord("6"): "a pipe"}
_LOCAL, _GLOBAL, _LONG_NAME, _LONG_LINK, _FOLDER = (ord(c) for c in "xgLK5")


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member: ``kind`` is ``file``, ``hardlink``, ``symlink`` or ``folder``; ``size``, in bytes, is that of a file.

    ``name`` and ``link`` are relative to the archive's root and stay within it.
    """

    name: str
    kind: str
    size: int = 0
    link: str = ""


class TarReader:
    """Iterates over the members in order. :meth:`content` of a file is available until the next member.

    ``left`` bytes of it were not read yet. With a mark of another reader, ``chunks`` are those after its ``under``:
    :meth:`content` is the rest of the file at the mark, and iterating gives the members after it. Raises ARCHIVE_INVALID
    for damaged data, ARCHIVE_REFUSED for a path out of the archive or a special file.
    """

    def __init__(
        self, chunks: Iterable[bytes | memoryview], name: str, limits: ArchiveLimits = LIMITS, mark: Mark | None = None
    ) -> None:
        self._name = name
        self._reader = ChunkReader(chunks, name, mark)
        self._limits = limits
        mark = mark or {"left": 0, "padding": 0, "members": 0, "common": {}}
        self.left: int = mark["left"]
        self._padding: int = mark["padding"]
        self._members: int = mark["members"]
        self._common: dict[str, str] = dict(mark["common"])

    def mark(self) -> Mark | None:
        """Return the mark of the position, at a file or within it; None if reading cannot continue there."""
        mark = self._reader.mark()
        if mark is None:
            return None
        position = {"left": self.left, "padding": self._padding, "members": self._members}
        return {**mark, **position, "common": dict(self._common)}

    def __iter__(self) -> Iterator[TarMember]:
        own: dict[str, str] = {}
        self._skip()
        while (header := self._header()) is not None:
            self._members += 1
            if self._members > self._limits.members:
                raise refused(f"{self._name} has more than {self._limits.members} members")
            kind, size = header[156], self._size(header, own)
            if kind in (_LOCAL, _GLOBAL, _LONG_NAME, _LONG_LINK):
                text = self._extension(size)
                if kind == _GLOBAL:
                    self._common |= self._pax(text)
                elif kind == _LOCAL:
                    own |= self._pax(text)
                else:
                    own["path" if kind == _LONG_NAME else "linkpath"] = _text(text.partition(b"\0")[0])
                continue
            member = self._member(header, {**self._common, **own}, kind, size)
            own = {}
            if member is not None:
                yield member
            self._skip()

    def _skip(self) -> None:
        """Skip the rest of the member."""
        self._reader.skip(self.left + self._padding)
        self.left = self._padding = 0

    def content(self) -> MarkedStream[bytes | memoryview]:
        """Return the content of the current file; the unread rest is skipped. Its marks are those of this reader."""

        def pieces() -> Iterator[tuple[bytes | memoryview, Mark | None]]:
            while self.left:
                piece = self._reader.read_some(self.left)
                if not piece:
                    raise invalid(f"{self._name} is truncated")
                self.left -= len(piece)
                yield piece, self.mark()

        return MarkedStream(pieces(), self.mark())

    def peek(self, size: int) -> bytes:
        """Return the next bytes of that file without consuming them."""
        return self._reader.peek(min(size, self.left))

    def read(self) -> bytes:
        """Return the complete content of a small file. Raises ARCHIVE_REFUSED for one larger than ``limits.text``."""
        if self.left > self._limits.text:
            raise refused(
                f"{self._name} has a JSON description of {self.left} bytes, over the limit of {self._limits.text}"
            )
        return b"".join(self.content())

    def _header(self) -> bytes | None:
        """Return the next header; None at the end: two blocks of zeros, or one and nothing after it."""
        block = self._reader.read_exactly(BLOCK) if self._reader.peek(1) else b""
        if not block:
            raise invalid(f"{self._name} is truncated")
        if not any(block):
            return None
        checksum = _octal(block[148:156])
        if checksum is None or checksum not in _checksums(block):
            raise invalid(f"{self._name} is not a tar archive, or is damaged (a header's checksum is wrong)")
        return block

    def _size(self, header: bytes, own: dict[str, str]) -> int:
        size = _number(header[124:136])
        text = own.get("size")
        if text is not None:
            size = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
        if size is not None and size > self._limits.size:
            raise refused(f"{self._name} has a member of {size} bytes, over the limit of {self._limits.size}")
        if size is None:
            raise invalid(f"{self._name} has a member with an invalid size")
        return size

    def _extension(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise refused(f"{self._name} has a header of {size} bytes, over the limit of {_LONGEST_HEADER}")
        text = self._reader.read_exactly(size)
        self._reader.skip(-size % BLOCK)
        return text

    def _pax(self, text: bytes) -> dict[str, str]:
        found: dict[str, str] = {}
        while text:
            length, _, _ = text.partition(b" ")
            end = int(length) if length.isdigit() and len(length) < 8 else 0
            record = text[len(length) + 1 : end - 1]
            key, equals, value = record.partition(b"=")
            if not end or end > len(text) or not equals or text[end - 1 : end] != b"\n":
                raise invalid(f"{self._name} has an invalid pax header")
            if key.startswith(b"GNU.sparse."):
                raise refused(f"{self._name} has a sparse file")
            found[_text(key)] = _text(value)
            text = text[end:]
        return found

    def _member(self, header: bytes, pax: dict[str, str], kind: int, size: int) -> TarMember | None:
        name = _field(header[:100])
        if header[257:263] == b"ustar\0" and header[345]:
            name = f"{_field(header[345:500])}/{name}"
        raw = pax.get("path", name)
        link = pax.get("linkpath", _field(header[157:257]))
        if kind in _SPECIAL:
            raise refused(f"{self._name} has {_SPECIAL[kind]}: {raw[:80]!r}")
        name = self._inside(raw)
        if kind == _FOLDER or (kind in _FILES and raw.endswith("/")):
            self.left, self._padding = size, -size % BLOCK
            return TarMember(name, "folder") if name else None
        if not name:
            raise refused(f"{self._name} has a member without a name")
        if kind in _LINKS:
            # A link has no content, whatever size its header says: some tools give it its file's.
            folder = posixpath.dirname(name) if kind == _SYMLINK else ""
            return TarMember(name, _LINKS[kind], link=self._inside(link, folder))
        if kind not in _FILES:
            raise refused(f"{self._name} has a member of the unknown type {chr(kind)!r}")
        self.left, self._padding = size, -size % BLOCK
        return TarMember(name, "file", size)

    def _inside(self, path: str, folder: str | None = None) -> str:
        """Return ``path`` normalized; that of a link is relative to ``folder``.

        Raises ARCHIVE_REFUSED if it leads out of the archive, or if a member's own path has ``..`` in it.
        """
        normal = posixpath.normpath(posixpath.join(folder or "", path))
        climbs = normal == ".." or normal.startswith(("/", "../")) or (folder is None and ".." in path.split("/"))
        if climbs or "\0" in path or "\\" in path:
            raise refused(f"{self._name} has a member whose path leads outside the archive: {path[:160]!r}")
        return "" if normal == "." else normal


def is_header(block: bytes) -> bool:
    """Return True if a file that begins with this block is a tar archive: the checksum of its header is right."""
    return len(block) >= BLOCK and any(block[:BLOCK]) and _octal(block[148:156]) in _checksums(block[:BLOCK])


def _field(raw: bytes) -> str:
    return _text(raw.partition(b"\0")[0])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _number(raw: bytes) -> int | None:
    """Return a number of a header: octal digits, or base 256 if the first bit is set. None if invalid or negative."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    return None if raw[0] > 0x80 else _octal(raw)


def _octal(raw: bytes) -> int | None:
    digits = raw.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if all(0x30 <= d <= 0x37 for d in digits) else None


def _checksums(block: bytes) -> tuple[int, int]:
    """Return the checksum of a header over unsigned bytes and, as old tools computed it, over signed ones."""
    unsigned = sum(block[:148]) + 8 * 0x20 + sum(block[156:])
    high = sum(1 for byte in (*block[:148], *block[156:]) if byte > 127)
    return unsigned, unsigned - 256 * high
