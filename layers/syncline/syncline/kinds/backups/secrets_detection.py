"""The detection of Kubernetes Secrets in an object by its content, whatever its name, encoding, compression and form.

Compressed data and archives are unpacked (:mod:`.unpacking`), text is decoded, documents are parsed and searched at
every depth (:mod:`.secrets_documents`), and so is text inside them. Memory, bytes, depth and work are bounded; an object
that exceeds a limit is :attr:`Verdict.UNSEEN`.

:func:`may_name_secret` is a cheap test of bytes that runs over everything. It has no false negatives: bytes it rejects
contain no Secret, however the words are escaped. :func:`resembles_secret` judges text that no parser accepts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from typing import Final

from syncline.clients.http.retry import never_halted
from syncline.kinds.backups.secrets_documents import (
    SecretFound,
    comments_of,
    printable,
    search_json,
    search_lines,
    search_yaml,
    split_json,
    split_yaml,
)
from syncline.kinds.backups.unpacking import (
    BLOCK,
    ZIP,
    Stream,
    Unreadable,
    compression_of,
    decompressed,
    is_tar,
    tar_members,
    zip_members,
)

LARGEST: Final = 32 * 1024 * 1024
"""Largest text in bytes that is parsed. A larger one is searched for signs of a Secret, in portions."""
_UNPACKED: Final = 512 * 1024 * 1024  # bytes that an object may unpack to, all its layers together
_FREE: Final = 16 * 1024 * 1024
_RATIO: Final = 200  # largest ratio of unpacked to compressed size, beyond the first `_FREE` bytes
_DEEPEST: Final = 12  # nested layers of compression, archives, base64 and text
_WORK: Final = 400_000_000  # work on one object in units of about 0.1 µs: much less than a function's time
_CLOCK_INTERVAL: Final = 5_000_000  # work between two checks of the time
_CONTENT: Final = 200  # work to begin a content
_ESCAPE: Final = 10  # work for an escape
_UNPARSED: Final = 3  # work for a byte that a second parser reads
_PORTION: Final = 4 * 1024 * 1024  # bytes of a portion of large text
_OVERLAP: Final = 64 * 1024  # bytes that a portion shares with the one before it
_CONTROL: Final = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")  # not in text
_WIDE: Final = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


class Verdict(Enum):
    """The result of an inspection."""

    CLEAN = auto()
    SECRET = auto()
    SUSPECTED = auto()  # cannot be parsed, but has a kind of Secret together with data
    UNSEEN = auto()  # cannot be inspected: too large, too deep, or beyond what decompression may take


class _Suspected(Exception):  # noqa: N818 - not an error
    pass


class OutOfTime(Exception):  # noqa: N818 - not an error
    """The step's time is over. A later step inspects the object again."""


class _Effort:
    """The work on one object. It is counted, not timed, so every machine reaches the same verdict."""

    def __init__(self, over: Callable[[], bool]) -> None:
        self._over = over
        self._done = self._checked = 0

    def spend(self, units: int) -> None:
        """Count work to be done. Raises OutOfTime."""
        self._done += units
        if self._done > _WORK:
            raise Unreadable
        if self._done - self._checked > _CLOCK_INTERVAL:
            self._checked = self._done
            if self._over():
                raise OutOfTime


def is_harmless(data: bytes) -> bool:
    """Return True if a quick test shows that an object contains no Secret; False if it has to be inspected."""
    return not (b"\0" in data or _is_packed(data) or may_name_secret(data) or has_base64(data))


def inspect(chunks: Iterable[bytes], over: Callable[[], bool] = never_halted) -> Verdict:
    """Search an object for Secrets. It is read to the end only if none is found.

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
    except Unreadable:
        return Verdict.UNSEEN
    return Verdict.CLEAN


def without_secrets(data: bytes, over: Callable[[], bool] = never_halted) -> bytes | None:
    """Return a text without those of its documents that are Secrets; None if nothing is left, or it is not safe.

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
    """Return True for compressed data and zip archives. A tar archive is found by its zero bytes."""
    return compression_of(data) is not None or data.startswith(ZIP)


class _Inspection:
    """The inspection of one object. Its methods return if there is no Secret."""

    def __init__(self, effort: _Effort) -> None:
        self._spend = effort.spend
        self._unpacked = 0

    def content(self, stream: Stream, depth: int) -> None:
        """Inspect bytes of any form."""
        if depth > _DEEPEST:
            raise Unreadable
        self._spend(_CONTENT)
        head = stream.peek(BLOCK)
        form = compression_of(head)
        if form is not None:
            self.content(Stream(self._measured(decompressed(stream, form, self._spend), stream)), depth + 1)
            if compression_of(stream.peek(BLOCK)) == form:  # damaged, or not compressed at all
                self._plain(stream, depth)
            elif stream.peek(1):
                self.content(stream, depth + 1)
        elif is_tar(head):
            for member in tar_members(stream):
                self.content(Stream(member), depth + 1)
            self._plain(stream, depth)
        elif head.startswith(ZIP):
            data = stream.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise Unreadable
            for member in zip_members(data, self._spend):
                self.content(Stream(self._measured(member, stream)), depth + 1)
            self._text(data, depth)
        else:
            self._plain(stream, depth)

    def _measured(self, chunks: Iterator[bytes], stream: Stream) -> Iterator[bytes]:
        """Count the bytes unpacked from a stream."""
        given = 0
        for chunk in chunks:
            given += len(chunk)
            self._spend(len(chunk) // 2)
            self._unpacked += len(chunk)
            if self._unpacked > _UNPACKED or given > _FREE + _RATIO * stream.taken:
                raise Unreadable
            yield chunk

    def _plain(self, stream: Stream, depth: int) -> None:
        """Inspect the rest of a stream as data that is neither compressed nor an archive."""
        if len(stream.peek(LARGEST + 1)) <= LARGEST:
            self._text(stream.read(LARGEST), depth)
            return
        before = b""
        while chunk := stream.read(_PORTION):
            self._portion((before + chunk).replace(b"\0", b""), depth)
            before = chunk[-_OVERLAP:]

    def _portion(self, data: bytes, depth: int) -> None:
        """Inspect a portion of data too large to be parsed."""
        if may_name_secret(data) and (_CONTROL.search(data) is None or _PROTOBUF in data or resembles_secret(data)):
            raise Unreadable
        self._base64(data, depth)

    def _text(self, data: bytes, depth: int) -> None:
        """Inspect text in any encoding, or other bytes."""
        if b"\0" not in data:
            self._documents(data, depth)
            return
        # In UTF-16 and UTF-32, ASCII letters are padded with zeros.
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
            raise Unreadable
        escapes = data.count(b"\\") * _ESCAPE
        self._spend(len(data) // 2 + escapes)
        self._base64(data, depth)
        if not may_name_secret(data):
            return
        if depth > _DEEPEST:
            raise Unreadable
        if _PROTOBUF in data:
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


# -- signs of a Secret in bytes ----------------------------------------------------------------------------------------

_ESCAPES: Final = 8  # nested levels of escapes that are resolved; text with more is parsed
_MOST_ESCAPES: Final = 3_000_000
"""Most backslashes of a text that is inspected: resolving an escape takes about 90 bytes of memory."""
_BASE64: Final = 40  # length of the shortest piece of base64 that is decoded: a Secret with a value takes no less

# All patterns are for text in lower case.
_WORD: Final = re.compile(rb"secret(s|list)?(?![\w.-])")
_COLON: Final = re.compile(rb"\\{0,64}[\"']?[ \t]*:")
_KEY_OF_LIST: Final = b"v1/"  # in Velero's lists of resources, v1/Secret is a key
_BEFORE: Final = re.compile(rb"(?:^|[^\w./-]|\\(?:[a-z0_]|x[0-9a-f]{2}|u[0-9a-f]{4}|u[0-9a-f]{8}))\Z")
_LONGEST_ESCAPE: Final = 10
_ESCAPED: Final = re.compile(rb"(?<!\\)\\+(?:x|u00|u000000)([2-7][0-9a-f])")  # several backslashes: JSON inside JSON
_HIDING: Final = re.compile(rb"\\(?:(?:x|u00|u000000)(?!22|27|3[ce])[2-7][0-9a-f]|\r?\n|u0000|x00|0)|\\\\\\(?:r\\+)?n")
"""An escape that may hide a letter. Those of quotes and of < and > are excluded: they are common in Go's JSON."""
_AROUND: Final = 160  # bytes on either side of an escape that can belong to the word
_FOLDED: Final = re.compile(rb"(?<!\\)(?:\\+\r?\n|\\{3,}(?:r\\+)?n)[ \t]*")
"""A line break that is ignored inside double quotes, also as written in JSON."""
_ZERO: Final = re.compile(rb"(?<!\\)\\+(?:u0000|x00|0)")  # a zero, as between the letters of UTF-16 inside JSON
_TAG: Final = re.compile(rb"![\w#;/?:@&=+$,.!~*'()<>\[\]%-]*+")
_OF_BINARY: Final = re.compile(rb"binary|%[0-9a-f]{2}")
_KIND: Final = re.compile(
    rb"kind[\s\"'\\]{0,200}[:=][\s\"'\\|>+-]{0,200}(?:[!&]\S{0,200}\s+){0,3}[\"'\\]{0,8}"
    rb"secret(?:list)?\s{0,200}(?:$|[,}\])\"'\\#<\r\n])",
    re.MULTILINE,
)
_DATA: Final = re.compile(rb"data[\s\"'\\]{0,200}[:=\]]")  # in TOML, a table has brackets
_STRING: Final = b"string"
_PROTOBUF: Final = b"\x02v1\x12\x06Secret"  # apiVersion and kind as stored in etcd, in runtime.Unknown's type

_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_CLASSES: Final = bytes(0x41 if byte in _ALPHABET else 0x20 for byte in range(256))
_LONG: Final = b"A" * _BASE64
_DIGEST: Final = re.compile(rb"sha256:[0-9a-f]{64}(?![A-Za-z0-9+/_-])")
_RUN: Final = re.compile(rb"[A-Za-z0-9+/_-]{%d,}(?:[\s\\]+[A-Za-z0-9+/_-]{4,})*" % _BASE64)


def may_name_secret(data: bytes) -> bool:
    """Return False if no document in this text (ASCII, UTF-8) can be a Secret, except in base64."""
    if _PROTOBUF in data or has_too_many_escapes(data):
        return True
    low = data.lower()
    forms = {low}
    if b"\\" in low and _HIDING.search(low):
        hidden = _unescaped(_around_escapes(low))
        if hidden is None:
            return True
        forms |= _forms(hidden)
    if any(b"data" in form for form in forms) and any(map(_has_word, forms)):
        return True
    return _has_binary_tag(low)  # base64 may hide the kind and the data


def _has_binary_tag(low: bytes) -> bool:
    """Return True if the text may have a tag of binary text."""
    if b"!" not in low or not (b"binary" in low or b"%" in low):
        return False
    return any(_OF_BINARY.search(match[0]) for match in _TAG.finditer(low))


def has_too_many_escapes(data: bytes) -> bool:
    """Return True if resolving the escapes in a text would take too much memory."""
    return data.count(b"\\") > _MOST_ESCAPES


def resembles_secret(data: bytes) -> bool:
    """Return True if text that cannot be parsed has a kind of Secret together with data or stringData."""
    low = data.lower()
    texts = {low, *_forms(_unescaped(low) or low)}
    return any(_has_key(_KIND, text) and _has_key(_DATA, text) for text in texts)


def has_base64(data: bytes) -> bool:
    """Return True if the data has a run of base64 long enough for a Secret."""
    if b"\\/" in data:
        data = data.replace(b"\\/", b"/")
    return _LONG in data.translate(_CLASSES) and _LONG in _DIGEST.sub(b" ", data).translate(_CLASSES)


def base64_in(data: bytes) -> Iterator[bytes]:
    """Yield the decoded long runs of base64. A run may be wrapped, or escaped as in JSON."""
    import binascii  # noqa: PLC0415 - only where there is any

    if b"\\" in data:  # escapes of slashes and line breaks, as JSON and YAML write them
        data = re.sub(rb"\\[nr\r\n]", b"\n", data).replace(b"\\/", b"/")
    for match in _RUN.finditer(data):
        run = b"".join(match[0].replace(b"\\", b"").split()).replace(b"-", b"+").replace(b"_", b"/")
        run = run[: len(run) - (len(run) % 4 == 1)]
        yield binascii.a2b_base64(run + b"=" * (-len(run) % 4))


def _has_word(low: bytes) -> bool:
    """Return True if the word is where it can be a kind, or a key of Velero's lists."""
    if b"secret" not in low:
        return False
    keys_count = b"&" in low and b"*" in low  # an alias may be a key
    for match in _WORD.finditer(low):
        start, end = match.span()
        if low.endswith(_KEY_OF_LIST, 0, start):
            return True
        if match[1] == b"s" or (not keys_count and _COLON.match(low, end)):
            continue
        if _BEFORE.search(low[max(0, start - _LONGEST_ESCAPE) : start]):
            return True
    return False


def _has_key(pattern: re.Pattern[bytes], low: bytes) -> bool:
    """Return True if the pattern matches where a key can begin."""
    for match in pattern.finditer(low):
        before = low[max(0, match.start() - _LONGEST_ESCAPE - len(_STRING)) : match.start()]
        if _BEFORE.search(before.removesuffix(_STRING)):
            return True
    return False


def _around_escapes(low: bytes) -> bytes:
    """Return the parts of the text in which escapes may hide a word."""
    parts = []
    start = end = 0
    for match in _HIDING.finditer(low):
        if match.start() - _AROUND > end:
            parts.append(low[start:end])
            start = match.start() - _AROUND
        end = match.end() + _AROUND
    return b" ".join([*parts, low[start:end]])


def _forms(plain: bytes) -> set[bytes]:
    """Return the text unchanged, and without what may separate the letters of a word."""
    narrow = _ZERO.sub(b"", plain)
    return {plain, narrow, _FOLDED.sub(b"", plain), _FOLDED.sub(b"", narrow)}


def _unescaped(low: bytes) -> bytes | None:
    """Resolve hexadecimal escapes, also nested ones; return None if there are too many levels."""
    for _ in range(_ESCAPES):
        plain = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), low).lower()
        if plain == low:
            return plain
        low = plain
    return None
