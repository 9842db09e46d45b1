"""A tar archive as a stream of members, read in one pass with nothing written anywhere.

Known are the forms that image tools write: ustar, pax (``x`` and ``g`` headers) and GNU's long names and base-256
numbers. https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html and
https://www.gnu.org/software/tar/manual/html_node/Standard.html. Python's own reader is not used because a negative
size makes it loop for ever in versions still in use (CVE-2025-8194), and because limits must hold before memory is
taken.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from syncline.kinds.artifacts.archive.feed import LIMITS, Feed, Limits, Mark, Stream, invalid, refused

BLOCK: Final = 512
_LONGEST_HEADER: Final = 1024 * 1024
"""Bytes of a pax header or long name."""
_FILES: Final = frozenset(b"0\x007")
_SYMLINK: Final = ord("2")
_LINKS: Final = {ord("1"): "hardlink", _SYMLINK: "symlink"}
_SPECIAL: Final = {ord("3"): "a character device", ord("4"): "a block device", ord("6"): "a pipe"}
_LOCAL, _GLOBAL, _LONG_NAME, _LONG_LINK, _FOLDER = (ord(c) for c in "xgLK5")


@dataclass(frozen=True, slots=True)
class Member:
    """One member: ``kind`` is ``file``, ``hardlink``, ``symlink`` or ``folder``; ``size`` in bytes, of files alone.

    ``name`` and ``link`` are relative to the archive's root and lead nowhere else.
    """

    name: str
    kind: str
    size: int = 0
    link: str = ""


class Tar:
    """Iterating gives the members in order; of each file, :meth:`content` before the next one is asked for, or never.

    With a mark of another tar, ``chunks`` are those behind its ``under``: :meth:`content` is the rest of the file that
    was being read, and iterating gives the members behind it.

    Raises ARCHIVE_INVALID for what is damaged, ARCHIVE_REFUSED for what leads out of the archive or is no file.
    """

    def __init__(
        self, chunks: Iterable[bytes | memoryview], name: str, limits: Limits = LIMITS, mark: Mark | None = None
    ) -> None:
        self._name = name
        self._feed = Feed(chunks, lambda: invalid(f"{name} is cut short"), mark)
        self._limits = limits
        mark = mark or {"left": 0, "padding": 0, "members": 0, "common": {}}
        self._left: int = mark["left"]
        self._padding: int = mark["padding"]
        self._members: int = mark["members"]
        self._common: dict[str, str] = dict(mark["common"])

    @property
    def left(self) -> int:
        """Bytes of the file's content that were not read yet."""
        return self._left

    def mark(self) -> Mark | None:
        """Return where reading is: at a file or within it; None if it cannot be continued from there."""
        mark = self._feed.mark()
        if mark is None:
            return None
        here = {"left": self._left, "padding": self._padding, "members": self._members, "common": dict(self._common)}
        return {**mark, **here}

    def __iter__(self) -> Iterator[Member]:
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
        """Skip what is left of the member."""
        self._feed.skip(self._left + self._padding)
        self._left = self._padding = 0

    def content(self) -> Stream[bytes | memoryview]:
        """Return the bytes of the file that iteration stands at; what is not read is skipped. Its marks are the tar's."""

        def pieces() -> Iterator[tuple[bytes | memoryview, Mark | None]]:
            while self._left:
                piece = self._feed.some(self._left)
                if not piece:
                    raise invalid(f"{self._name} is cut short")
                self._left -= len(piece)
                yield piece, self.mark()

        return Stream(pieces(), self.mark())

    def peek(self, size: int) -> bytes:
        """The first bytes of that file, which stay there."""
        return self._feed.peek(min(size, self._left))

    def read(self) -> bytes:
        """That file's bytes whole: for small ones. Raises ARCHIVE_REFUSED for one above ``limits.text``."""
        if self._left > self._limits.text:
            raise refused(f"{self._name} has a description of {self._left} bytes")
        return b"".join(self.content())

    def _header(self) -> bytes | None:
        """The next header; None at the end: two blocks of zeros, or one and nothing behind it."""
        block = self._feed.take(BLOCK) if self._feed.peek(1) else b""
        if not block:
            raise invalid(f"{self._name} is cut short")
        if not any(block):
            return None
        said = _octal(block[148:156])
        if said is None or said not in _sums(block):
            raise invalid(f"{self._name} is not a tar archive, or is damaged (a header's checksum is wrong)")
        return block

    def _size(self, header: bytes, own: dict[str, str]) -> int:
        size = _number(header[124:136])
        said = own.get("size")
        if said is not None:
            size = int(said) if said.isascii() and said.isdigit() and len(said) < 20 else None
        if size is not None and size > self._limits.size:
            raise refused(f"{self._name} has a member of {size} bytes")
        if size is None:
            raise invalid(f"{self._name} has a member whose size is no size")
        return size

    def _extension(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise refused(f"{self._name} has a header of {size} bytes")
        text = self._feed.take(size)
        self._feed.skip(-size % BLOCK)
        return text

    def _pax(self, text: bytes) -> dict[str, str]:
        found: dict[str, str] = {}
        while text:
            length, _, _ = text.partition(b" ")
            end = int(length) if length.isdigit() and len(length) < 8 else 0
            record = text[len(length) + 1 : end - 1]
            key, equals, value = record.partition(b"=")
            if not end or end > len(text) or not equals or text[end - 1 : end] != b"\n":
                raise invalid(f"{self._name} has a pax header that is none")
            if key.startswith(b"GNU.sparse."):
                raise refused(f"{self._name} has a sparse file")
            found[_text(key)] = _text(value)
            text = text[end:]
        return found

    def _member(self, header: bytes, pax: dict[str, str], kind: int, size: int) -> Member | None:
        name = _field(header[:100])
        if header[257:263] == b"ustar\0" and header[345]:
            name = f"{_field(header[345:500])}/{name}"
        raw = pax.get("path", name)
        link = pax.get("linkpath", _field(header[157:257]))
        if kind in _SPECIAL:
            raise refused(f"{self._name} has {_SPECIAL[kind]}: {raw[:80]!r}")
        name = self._inside(raw)
        if kind == _FOLDER or (kind in _FILES and raw.endswith("/")):
            self._left, self._padding = size, -size % BLOCK
            return Member(name, "folder") if name else None
        if not name:
            raise refused(f"{self._name} has a member without a name")
        if kind in _LINKS:
            # A link has no content, whatever size its header says: some tools give it its file's.
            folder = posixpath.dirname(name) if kind == _SYMLINK else ""
            return Member(name, _LINKS[kind], link=self._inside(link, folder))
        if kind not in _FILES:
            raise refused(f"{self._name} has a member of the unknown type {chr(kind)!r}")
        self._left, self._padding = size, -size % BLOCK
        return Member(name, "file", size)

    def _inside(self, path: str, folder: str | None = None) -> str:
        """``path`` in its shortest form; that of a link starts at ``folder``.

        Raises ARCHIVE_REFUSED where it leads out of the archive, or (a member's own) up and down in it.
        """
        normal = posixpath.normpath(posixpath.join(folder or "", path))
        climbs = normal == ".." or normal.startswith(("/", "../")) or (folder is None and ".." in path.split("/"))
        if climbs or "\0" in path or "\\" in path:
            raise refused(f"{self._name} has a member that leads out of it: {path[:160]!r}")
        return "" if normal == "." else normal


def is_header(block: bytes) -> bool:
    """Whether a file that begins like this is a tar archive."""
    return len(block) >= BLOCK and any(block[:BLOCK]) and _octal(block[148:156]) in _sums(block[:BLOCK])


def _field(raw: bytes) -> str:
    return _text(raw.partition(b"\0")[0])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _number(raw: bytes) -> int | None:
    """A header's number, None if it is none or negative: octal digits, or base 256 where the first bit is set."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    return None if raw[0] > 0x80 else _octal(raw)


def _octal(raw: bytes) -> int | None:
    digits = raw.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if all(0x30 <= d <= 0x37 for d in digits) else None


def _sums(block: bytes) -> tuple[int, int]:
    """A header's checksum, of its bytes taken as unsigned and, as old tools did, as signed."""
    unsigned = sum(block[:148]) + 8 * 0x20 + sum(block[156:])
    high = sum(1 for byte in (*block[:148], *block[156:]) if byte > 127)
    return unsigned, unsigned - 256 * high
