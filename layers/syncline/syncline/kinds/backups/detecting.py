"""Finding Kubernetes Secrets in an object by its content, whatever its name, encoding, compression and form.

Compressed data and archives are opened, text is decoded, documents are parsed and searched at every depth, and so is
text inside of them. Memory, bytes, depth and work are bounded; what lies beyond is :attr:`Verdict.UNSEEN`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from typing import Final

from syncline.kinds.backups.documents import (
    SecretFound,
    TooDeep,
    comments_of,
    printable,
    search_json,
    search_lines,
    search_yaml,
    split_json,
    split_yaml,
)
from syncline.kinds.backups.hints import (
    base64_in,
    has_base64,
    has_protobuf,
    has_too_many_escapes,
    may_name_secret,
    resembles_secret,
)
from syncline.kinds.backups.unpacking import (
    BLOCK,
    Stream,
    Unreadable,
    compression_of,
    decompressed,
    is_tar,
    is_zip,
    tar_members,
    zip_members,
)

LARGEST: Final = 32 * 1024 * 1024
"""Bytes of one text that is parsed. A larger one is searched for signs of a Secret, in portions."""
_UNPACKED: Final = 512 * 1024 * 1024
"""Bytes that an object may unpack to, all layers of it together."""
_FREE: Final = 16 * 1024 * 1024
_RATIO: Final = 200
"""Times its size that compressed data may unpack to, beyond the first `_FREE` bytes."""
_DEEPEST: Final = 12
"""Layers of compression, archives, base64 and text inside each other."""
_WORK: Final = 400_000_000
"""Work on one object, in units of about 0.1 µs: it takes much less time than a function has."""
_LOOK: Final = 5_000_000
"""Work between two looks at the time."""
_CONTENT: Final = 200
_ESCAPE: Final = 10
_UNPARSED: Final = 3
_PORTION: Final = 4 * 1024 * 1024
_OVERLAP: Final = 64 * 1024
_CONTROL: Final = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")  # what text does not have
_WIDE: Final = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


class Verdict(Enum):
    """What inspecting an object came to."""

    CLEAN = auto()
    SECRET = auto()
    SUSPECTED = auto()  # cannot be parsed, but has a kind of Secret together with data
    UNSEEN = auto()  # cannot be inspected: too large, too deep, or beyond what decompression may take


class _Suspected(Exception):  # noqa: N818 - not an error
    pass


class _Unseen(Exception):  # noqa: N818 - not an error
    pass


class OutOfTime(Exception):  # noqa: N818 - not an error
    """The step's time is over. A step that has time inspects the object again."""


class _Effort:
    """The work on one object. It is counted, not timed, so that every machine comes to the same verdict."""

    def __init__(self, over: Callable[[], bool]) -> None:
        self._over = over
        self._done = self._looked = 0

    def spend(self, units: int) -> None:
        """Count work that is about to be done. Raises OutOfTime."""
        self._done += units
        if self._done > _WORK:
            raise _Unseen
        if self._done - self._looked > _LOOK:
            self._looked = self._done
            if self._over():
                raise OutOfTime


def never() -> bool:
    """Return False, for callers whose time has no end."""
    return False


def is_harmless(data: bytes) -> bool:
    """Return True if a glance shows that an object holds no Secret; False if it has to be inspected."""
    return not (b"\0" in data or _is_packed(data) or may_name_secret(data) or has_base64(data))


def inspect(chunks: Iterable[bytes], over: Callable[[], bool] = never) -> Verdict:
    """Search an object for Secrets. It is read to its end only if none is found.

    Raises :exc:`OutOfTime` if `over` returns True meanwhile.
    """
    return _verdict(chunks, _Effort(over))


def _verdict(chunks: Iterable[bytes], effort: _Effort) -> Verdict:
    try:
        _Inspection(effort).content(Stream(chunks), 0)
    except SecretFound:
        return Verdict.SECRET
    except _Suspected:
        return Verdict.SUSPECTED
    except (_Unseen, TooDeep, Unreadable):
        return Verdict.UNSEEN
    return Verdict.CLEAN


def without_secrets(data: bytes, over: Callable[[], bool] = never) -> bytes | None:
    """Return a text of several documents without those that are Secrets; None if that leaves nothing, or is not safe.

    Raises :exc:`OutOfTime` if `over` returns True meanwhile.
    """
    if b"\0" in data or _is_packed(data):
        return None
    parts = split_yaml(data)
    effort = _Effort(over)
    verdicts = [(part, _verdict([part], effort)) for part in (parts if len(parts) > 1 else split_json(data))]
    if not {verdict for _, verdict in verdicts} <= {Verdict.CLEAN, Verdict.SECRET}:
        return None
    kept = b"".join(part for part, verdict in verdicts if verdict is Verdict.CLEAN)
    if not kept.translate(None, b"-. \t\r\n\xef\xbb\xbf") or _verdict([kept], effort) is not Verdict.CLEAN:
        return None
    return kept


def _is_packed(data: bytes) -> bool:
    """Return True for compressed data and zip archives; a tar archive has zeros anyway."""
    return compression_of(data) is not None or is_zip(data)


class _Inspection:
    """The inspection of one object. Its methods return if there is no Secret."""

    def __init__(self, effort: _Effort) -> None:
        self._spend = effort.spend
        self._unpacked = 0

    def content(self, stream: Stream, depth: int) -> None:
        """Inspect bytes of any form."""
        if depth > _DEEPEST:
            raise _Unseen
        self._spend(_CONTENT)
        head = stream.peek(BLOCK)
        form = compression_of(head)
        if form is not None:
            self.content(Stream(self._measured(decompressed(stream, form, self._spend), stream)), depth + 1)
            if compression_of(stream.peek(BLOCK)) == form:  # damaged, or never what it seemed to be
                self._plain(stream, depth)
            elif stream.peek(1):
                self.content(stream, depth + 1)
        elif is_tar(head):
            for member in tar_members(stream):
                self.content(Stream(member), depth + 1)
            self._plain(stream, depth)
        elif is_zip(head):
            data = stream.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise _Unseen
            for member in zip_members(data, self._spend):
                self.content(Stream(self._measured(member, stream)), depth + 1)
            self._text(data, depth)
        else:
            self._plain(stream, depth)

    def _measured(self, chunks: Iterator[bytes], stream: Stream) -> Iterator[bytes]:
        """Count what is unpacked from a stream."""
        given = 0
        for chunk in chunks:
            given += len(chunk)
            self._spend(len(chunk) // 2)
            self._unpacked += len(chunk)
            if self._unpacked > _UNPACKED or given > _FREE + _RATIO * stream.taken:
                raise _Unseen
            yield chunk

    def _plain(self, stream: Stream, depth: int) -> None:
        """Inspect what is neither compressed nor an archive, to the end of the stream."""
        if len(stream.peek(LARGEST + 1)) <= LARGEST:
            self._text(stream.read(LARGEST), depth)
            return
        before = b""
        while chunk := stream.read(_PORTION):
            self._portion((before + chunk).replace(b"\0", b""), depth)
            before = chunk[-_OVERLAP:]

    def _portion(self, data: bytes, depth: int) -> None:
        """Inspect a portion of what is too large to be parsed."""
        if may_name_secret(data) and (_CONTROL.search(data) is None or has_protobuf(data) or resembles_secret(data)):
            raise _Unseen
        self._base64(data, depth)

    def _text(self, data: bytes, depth: int) -> None:
        """Inspect text in any encoding, or bytes that are none."""
        if b"\0" not in data:
            self._documents(data, depth)
            return
        # Letters of UTF-16 and UTF-32 are those of ASCII, and zeros.
        plain = data.replace(b"\0", b"")
        if may_name_secret(plain) or has_base64(plain):
            for encoding in _WIDE:
                wide = data.decode(encoding, "replace").encode("utf-8", "replace")
                if may_name_secret(wide) or has_base64(wide):
                    self._documents(wide, depth)
            self._documents(plain, depth)

    def _documents(self, data: bytes, depth: int) -> None:
        """Inspect text in UTF-8, and the base64 in it."""
        if has_too_many_escapes(data):
            raise _Unseen
        escapes = data.count(b"\\") * _ESCAPE
        self._spend(len(data) // 2 + escapes)
        self._base64(data, depth)
        if not may_name_secret(data):
            return
        if depth > _DEEPEST:
            raise _Unseen
        if has_protobuf(data):
            raise SecretFound
        clean = printable(data)
        text = clean.decode()

        def inner(each: str) -> None:
            self.content(Stream([each.encode("utf-8", "replace")]), depth + 1)

        if search_json(text, inner):
            return
        self._spend(_UNPARSED * (len(data) + escapes))
        parts = [part for part in split_yaml(clean) if may_name_secret(part)]
        suspicious = [part for part in parts if not search_yaml(part, inner, self._spend)]
        if "#" in text:
            self._documents(comments_of(text).encode(), depth + 1)
        for part in suspicious:
            search_lines(part.decode(), inner, self._spend)
            if resembles_secret(part):
                raise _Suspected

    def _base64(self, data: bytes, depth: int) -> None:
        if has_base64(data):
            for inner in base64_in(data):
                self.content(Stream([inner]), depth + 1)
