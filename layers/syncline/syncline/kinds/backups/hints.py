"""Signs of a Kubernetes Secret in bytes, found without parsing them.

:func:`may_name_secret` is a cheap test that runs over everything. It may be wrong in one direction only: what it denies
holds no Secret, however the words are escaped. :func:`resembles_secret` judges text that no parser takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_ESCAPES: Final = 8
"""Levels of escapes inside each other that are resolved. What has more of them is parsed."""
_MOST_ESCAPES: Final = 3_000_000
"""Backslashes of a text that is looked at: resolving an escape takes about 90 bytes of memory."""
_BASE64: Final = 40
"""Characters of the shortest piece of base64 that is decoded: a Secret with a value takes no less."""

# All patterns are for text in lower case.
_WORD: Final = re.compile(rb"secret(s|list)?(?![\w.-])")
_COLON: Final = re.compile(rb"\\{0,64}[\"']?[ \t]*:")
_KEY_OF_LIST: Final = b"v1/"  # in Velero's lists of resources, v1/Secret is a key
_BEFORE: Final = re.compile(rb"(?:^|[^\w./-]|\\(?:[a-z0_]|x[0-9a-f]{2}|u[0-9a-f]{4}|u[0-9a-f]{8}))\Z")
_LONGEST_ESCAPE: Final = 10
_ESCAPED: Final = re.compile(rb"(?<!\\)\\+(?:x|u00|u000000)([2-7][0-9a-f])")  # several: in JSON inside of JSON
_HIDING: Final = re.compile(rb"\\(?:(?:x|u00|u000000)(?!22|27|3[ce])[2-7][0-9a-f]|\r?\n|u0000|x00|0)|\\\\\\(?:r\\+)?n")
"""An escape that may hide a letter. Not those of quotes and of < and >, which are common in Go's JSON."""
_AROUND: Final = 160
"""Bytes on either side of an escape that can be the rest of the word."""
_FOLDED: Final = re.compile(rb"(?<!\\)(?:\\+\r?\n|\\{3,}(?:r\\+)?n)[ \t]*")
"""A line's end that does not count inside double quotes, also in the form it has in JSON."""
_ZERO: Final = re.compile(rb"(?<!\\)\\+(?:u0000|x00|0)")
"""A zero, as between the letters of UTF-16 inside of JSON."""
_TAG: Final = re.compile(rb"![\w#;/?:@&=+$,.!~*'()<>\[\]%-]*+")
_OF_BINARY: Final = re.compile(rb"binary|%[0-9a-f]{2}")
_KIND: Final = re.compile(
    rb"kind[\s\"'\\]{0,200}[:=][\s\"'\\|>+-]{0,200}(?:[!&]\S{0,200}\s+){0,3}[\"'\\]{0,8}"
    rb"secret(?:list)?\s{0,200}(?:$|[,}\])\"'\\#<\r\n])",
    re.MULTILINE,
)
_DATA: Final = re.compile(rb"data[\s\"'\\]{0,200}[:=\]]")  # in TOML, a key of its own has brackets
_STRING: Final = b"string"
_PROTOBUF: Final = b"\x02v1\x12\x06Secret"  # apiVersion and kind as etcd has them, in runtime.Unknown's type

_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_CLASSES: Final = bytes(0x41 if byte in _ALPHABET else 0x20 for byte in range(256))
_LONG: Final = b"A" * _BASE64
_DIGEST: Final = re.compile(rb"sha256:[0-9a-f]{64}(?![A-Za-z0-9+/_-])")
_RUN: Final = re.compile(rb"[A-Za-z0-9+/_-]{%d,}(?:[\s\\]+[A-Za-z0-9+/_-]{4,})*" % _BASE64)


def may_name_secret(data: bytes) -> bool:
    """Return False if no document in this text (ASCII, UTF-8) can be a Secret, apart from base64 in it."""
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
    return _has_binary_tag(low)  # the kind and the data may hide in base64


def _has_binary_tag(low: bytes) -> bool:
    """Return True if a tag may be that of binary text."""
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


def has_protobuf(data: bytes) -> bool:
    """Return True if there is a Secret as etcd has it: this is how an object begins."""
    return _PROTOBUF in data


def has_base64(data: bytes) -> bool:
    """Return True if there is a run of base64 that is long enough to hold a Secret."""
    if b"\\/" in data:
        data = data.replace(b"\\/", b"/")
    return _LONG in data.translate(_CLASSES) and _LONG in _DIGEST.sub(b" ", data).translate(_CLASSES)


def base64_in(data: bytes) -> Iterator[bytes]:
    """Yield what the long runs of base64 decode to; a run may be wrapped, or escaped as in JSON."""
    import binascii  # noqa: PLC0415 - only where there is any

    for match in _RUN.finditer(_joined(data)):
        run = b"".join(match[0].replace(b"\\", b"").split()).replace(b"-", b"+").replace(b"_", b"/")
        run = run[: len(run) - (len(run) % 4 == 1)]
        yield binascii.a2b_base64(run + b"=" * (-len(run) % 4))


def _joined(data: bytes) -> bytes:
    """Return the text without what JSON and YAML write for a slash and a line's end inside quotes."""
    if b"\\" not in data:
        return data
    return re.sub(rb"\\[nr\r\n]", b"\n", data).replace(b"\\/", b"/")


def _has_word(low: bytes) -> bool:
    """Return True if the word stands where it can be a kind, or a key of Velero's."""
    if b"secret" not in low:
        return False
    keys_count = b"&" in low and b"*" in low  # an alias may stand for a key
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
    """Return the text as it is, and without what may stand between the letters of a word."""
    narrow = _ZERO.sub(b"", plain)
    return {plain, narrow, _FOLDED.sub(b"", plain), _FOLDED.sub(b"", narrow)}


def _unescaped(low: bytes) -> bytes | None:
    """Resolve hexadecimal escapes, also those made of escapes; None if there are too many levels."""
    for _ in range(_ESCAPES):
        plain = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), low).lower()
        if plain == low:
            return plain
        low = plain
    return None
