"""An HTTP/1.1 answer as it comes in, taken apart no further than a probe needs: its status, and where it ends.

RFC 9112: interim answers (1xx) come before the final one; a body has the length that ``Content-Length`` says, or is
chunked, or lasts until the connection closes. What is not that is garbage, and a connection that sent it is not used
again. Nothing is kept: a body's bytes are counted and dropped.
"""

from __future__ import annotations

import re
from typing import Final

LARGEST_HEAD: Final = 16 * 1024  # bytes of status line and header fields together
LARGEST_BODY: Final = 64 * 1024  # bytes; a connection with more to come is closed instead of read
_LARGEST_INTERIM: Final = 8  # interim answers before the final one

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\Z")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[^\r\n]*)?\r?\Z")
_LONGEST_LINE: Final = 1024  # bytes of a chunk's frame or of a trailer field


class GarbageError(Exception):
    """The bytes are no HTTP answer; the text says in which way."""


class AnswerReader:
    """Takes bytes with :meth:`feed` until :attr:`complete`.

    :attr:`status` is None until the head is whole. :attr:`reusable` says, once complete, whether the connection may
    carry a further request.
    """

    __slots__ = (
        "_buffer",
        "_chunked",
        "_interim",
        "_left",
        "_seen",
        "_trailer",
        "_within",
        "complete",
        "reusable",
        "status",
    )

    def __init__(self) -> None:
        self.status: int | None = None
        self.complete = False
        self.reusable = True
        self._buffer = b""
        self._interim = 0
        self._left = 0  # of the body, or of the chunk; -1: until the connection closes
        self._within = False  # a chunk has begun, and the line end behind it is to come
        self._chunked = False
        self._trailer = False
        self._seen = 0

    @property
    def begun(self) -> bool:
        """Whether any byte has come."""
        return self._seen > 0

    def feed(self, data: bytes) -> None:
        """Take what came; raises GarbageError."""
        self._seen += len(data)
        if self.complete:
            raise GarbageError("bytes after the answer's end")
        data = self._buffer + data if self._buffer else data
        self._buffer = b""
        if self.status is None:
            rest = self._head(data)
            if rest is None:
                return
            data = rest
        if self._chunked:
            self._chunks(data)
        else:
            self._plain(data)
        if not self.complete and self._seen > LARGEST_BODY + LARGEST_HEAD:
            raise GarbageError("the body is too long")

    def ended(self) -> bool:
        """The connection closed: whether that is a proper end."""
        if self.status is not None and not self.complete and self._left < 0:
            self.complete, self.reusable = True, False
        return self.complete

    def _head(self, data: bytes) -> bytes | None:
        """What follows the head of the final answer; None while it is not all there."""
        while True:
            end, gap = data.find(b"\r\n\r\n"), 4
            if end < 0 or 0 <= data.find(b"\n\n", 0, end) < end:
                end, gap = data.find(b"\n\n"), 2
            if end > LARGEST_HEAD or (end < 0 and len(data) > LARGEST_HEAD):
                raise GarbageError("the head is too long")
            if end < 0:
                # What cannot become a status line is told at once, not when the time is over.
                if not data.startswith(b"HTTP/1."[: len(data)]):
                    raise GarbageError("not HTTP")
                self._buffer = data
                return None
            lines = data[:end].split(b"\n")
            match = _STATUS.match(lines[0])
            if match is None:
                raise GarbageError("not HTTP")
            data = data[end + gap :]
            status = int(match[2])
            if status >= 200:
                self._fields(status, match[1] == b"0", lines[1:])
                return data
            self._interim += 1
            if status == 101 or self._interim > _LARGEST_INTERIM:
                raise GarbageError("an interim answer without an end")
            if not data:
                return None

    def _fields(self, status: int, old: bool, lines: list[bytes]) -> None:  # noqa: FBT001 - a fact of the head
        length: int | None = None
        options = set[bytes]()
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not _NAME.fullmatch(name) or _CONTROL.search(value.removesuffix(b"\r")):
                raise GarbageError("a header field that is none")
            lower = name.lower()
            if lower == b"content-length":
                length = _length(value, length)
            elif lower == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise GarbageError("a Transfer-Encoding that nobody asked for")
                self._chunked = True
            elif lower == b"connection":
                options |= {word.strip().lower() for word in value.split(b",")}
        if self._chunked and length is not None:
            raise GarbageError("two lengths")  # RFC 9112, section 6.3: what request smuggling is made of
        if status in (204, 304):
            length, self._chunked = 0, False
        self.status = status
        keeps = b"close" not in options and (not old or b"keep-alive" in options)
        self.reusable = keeps and (self._chunked or length is not None)
        self._left = length if length is not None else 0 if self._chunked else -1
        if self._left > LARGEST_BODY:
            raise GarbageError("the body is too long")

    def _plain(self, data: bytes) -> None:
        if self._left < 0:
            return
        if len(data) > self._left:
            raise GarbageError("bytes after the answer's end")
        self._left -= len(data)
        self.complete = self._left == 0

    def _chunks(self, data: bytes) -> None:
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
                continue
            end = data.find(b"\n")
            if end < 0:
                if len(data) > _LONGEST_LINE:
                    raise GarbageError("a chunk's frame that is none")
                self._buffer = data
                return
            line, data = data[:end], data[end + 1 :]
            self._line(line)
            if self.complete and data:
                raise GarbageError("bytes after the answer's end")

    def _line(self, line: bytes) -> None:
        """Take a line of a chunked body: the end of a chunk, the size of the next one, or a trailer."""
        if self._within:
            if line not in (b"", b"\r"):
                raise GarbageError("no line end follows a chunk")
            self._within = False
        elif self._trailer:
            self.complete = line in (b"", b"\r")
        else:
            match = _CHUNK.match(line)
            if match is None:
                raise GarbageError("a chunk's frame that is none")
            size = int(match[1], 16)
            self._trailer, self._within, self._left = size == 0, size > 0, size


def _length(value: bytes, known: int | None) -> int:
    """What a Content-Length says; twice is once if it says the same."""
    text = value.strip()
    if not text.isdigit() or len(text) > 15 or known not in (None, int(text)):
        raise GarbageError("a Content-Length that is none")
    return int(text)
