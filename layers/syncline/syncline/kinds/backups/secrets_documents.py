"""The search for Kubernetes Secrets in JSON and YAML documents, at every depth.

No document is built in memory: each mapping is reduced to the few facts that decide (:class:`_Facts`) as soon as it
ends, so memory depends on depth, not on size. All occurrences of a key count. Text inside a document is passed to the
caller, who judges it as separate content.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from syncline.kinds.backups.unpacking import Unreadable

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BINARY: Final = "tag:yaml.org,2002:binary"
_SHORTEST: Final = 20  # length of the shortest text that can be a document with a Secret
_MARKER: Final = re.compile(rb"(?m)^---(?=[ \t\r\n]|\Z)|(?<=\n)\.\.\.(?:[ \t][^\n]*|\r)?\n")
_DEEPEST: Final = 1000  # most levels of a YAML document; libyaml takes time for each level at each bracket
_BRACES: Final = 8  # braces of a line at which parsing as JSON is tried
_ATTEMPT: Final = 50  # work to try one brace
_EVENT: Final = 30  # work for one event of the YAML parser
_COMMENT: Final = re.compile(r"(?:^|[ \t])#+")
_SPACE: Final = re.compile(r"\s*")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")

_KIND, _LIST, _DATA, _V1, _METADATA, _ITEMS, _FILLED = (1 << bit for bit in range(7))
_KINDS: Final = {"secret": _KIND, "secretlist": _LIST}


class SecretFound(Exception):  # noqa: N818 - not an error
    """A document is a Secret."""


class _Facts(int):
    """The facts about a mapping that decide: a set of bits."""


class _Sequence(int):
    """The facts about a list: the bits of all mappings in it, and _FILLED if it is not empty."""


class _Judged(str):
    """Text with an anchor: it was judged where it is defined, and is not judged again at each alias."""

    __slots__ = ()


Inner = Callable[[str], None]
"""Judges text inside a document; raises SecretFound."""
Spend = Callable[[int], None]
"""Counts work in units of about 0.1 µs; raises an exception to end the search."""


def printable(data: bytes) -> bytes:
    """Return UTF-8 that parsers accept: without byte order marks and control characters, invalid bytes replaced."""
    text = data.decode("utf-8", "replace")
    return _UNPRINTABLE.sub(" ", text.replace("\ufeff", "")).encode("utf-8", "replace")


def search_json(text: str, inner: Inner) -> bool:
    """Search JSON documents, with or without line breaks between them; return False if the text is not JSON.

    Raises SecretFound.
    """
    read = _json_reader(inner)
    at = _skipped(text, 0)
    if text[at : at + 1] not in ("{", "["):
        return False
    try:
        while at < len(text):
            value, at = read(text, at)
            _reduced(value, inner)
            at = _skipped(text, at)
    except (ValueError, RecursionError):
        return False
    return True


def search_lines(text: str, inner: Inner, spend: Spend) -> None:
    """Search JSON inside the lines of other text, such as a log. Raises SecretFound."""
    read = _json_reader(inner)
    for line in text.split("\n"):
        at = line.find("{")
        for _ in range(_BRACES):
            if at < 0:
                break
            start = at
            try:
                _, at = read(line, at)
                end = at
            except (ValueError, RecursionError) as error:
                end = error.pos if isinstance(error, json.JSONDecodeError) else len(line)
                at += 1
            spend(_ATTEMPT + max(0, end - start))
            at = line.find("{", at)


def search_yaml(data: bytes, inner: Inner, spend: Spend) -> bool:
    """Search YAML documents; return False if they cannot be parsed or are plain text.

    Raises SecretFound and Unreadable.
    """
    import yaml  # noqa: PLC0415 - only where there may be a Secret

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    search = _YamlSearch(inner)
    try:
        for event in yaml.parse(data, Loader=loader):
            spend(_EVENT)
            search.take(event, yaml)
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    return search.structured


def split_yaml(data: bytes) -> list[bytes]:
    """Split a YAML file into its documents. Joined, they are the file."""
    if b"---" not in data and b"..." not in data:
        return [data]
    starts = {0, len(data)}
    for match in _MARKER.finditer(data):
        starts.add(match.start() if match[0] == b"---" else match.end())
    return [data[a:b] for a, b in itertools.pairwise(sorted(starts))]


def split_json(data: bytes) -> list[bytes]:
    """Split a file into its JSON documents. Joined, they are the file. A file that is not JSON is returned as one."""
    text, decoder, starts = data.decode("utf-8", "surrogateescape"), json.JSONDecoder(strict=False), [0]
    at = _skipped(text, 0)
    try:
        while at < len(text):
            _, at = decoder.raw_decode(text, at)
            at = _skipped(text, at)
            starts.append(at)
    except (ValueError, RecursionError):
        return [data]
    return [text[a:b].encode("utf-8", "surrogateescape") for a, b in itertools.pairwise(starts)] or [data]


def _skipped(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _json_reader(inner: Inner) -> Callable[[str, int], tuple[Any, int]]:
    def nothing(_text: str) -> None:
        return None

    decoder = json.JSONDecoder(
        object_pairs_hook=lambda pairs: _facts(pairs, inner),
        parse_int=nothing,
        parse_float=nothing,
        parse_constant=nothing,
        strict=False,
    )
    # Numbers become None: no Secret has a number as data.
    return decoder.raw_decode


def _facts(pairs: Iterable[tuple[Any, Any]], inner: Inner) -> _Facts:
    """Reduce a mapping to its facts. Raises SecretFound if it is a Secret."""
    facts = 0
    for key, value in pairs:
        if isinstance(_reduced(key, inner), str):
            facts |= _facts_of(key.strip().casefold(), _reduced(value, inner))
    is_secret = facts & _KIND and (facts & _DATA or (facts & _V1 and facts & _METADATA))
    if is_secret or (facts & _LIST and facts & _ITEMS):
        raise SecretFound
    return _Facts(facts)


def _facts_of(key: str, value: Any) -> int:
    facts = 0
    match key:
        case "kind" if isinstance(value, str):
            facts = _KINDS.get(value.strip().casefold(), 0)
        case "data" | "stringdata" if value is not None:
            facts = _DATA
        case "apiversion" if isinstance(value, str) and value.strip() == "v1":
            facts = _V1
        case "metadata" if isinstance(value, _Facts):
            facts = _METADATA
        case "items" if isinstance(value, _Sequence) and value & _FILLED:
            facts = _ITEMS
        case "<<" if isinstance(value, _Facts | _Sequence):
            facts = int(value)
        case "v1/secret" | "v1/secrets" if isinstance(value, _Facts | _Sequence) and value & _DATA:
            raise SecretFound  # in Velero's lists of resources, where objects have no kind
    return facts


def _reduced(value: Any, inner: Inner) -> Any:
    """Judge a text, or the texts of a list, and reduce a list to its facts. Mappings are already reduced."""
    if not isinstance(value, list):
        if type(value) is str and len(value) >= _SHORTEST:
            inner(value)
        return value
    facts, waiting = _FILLED if value else 0, list(value)
    for each in value:
        facts |= each if isinstance(each, _Facts) else 0
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        else:
            _reduced(each, inner)
    return _Sequence(facts)


class _YamlSearch:
    """Reduces the events of a YAML parser. Tags are ignored, except that of binary text."""

    def __init__(self, inner: Inner) -> None:
        self.structured = True
        self._inner = inner
        self._open: list[tuple[str | None, list[Any]]] = []
        self._anchors: dict[str, Any] = {}

    def take(self, event: Any, yaml: Any) -> None:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self.structured &= bool(self._open or event.style)  # plain text is not a document
            self._add(event.anchor, _scalar(event))
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            if len(self._open) == _DEEPEST:
                raise Unreadable
            self._open.append((event.anchor, []))
        elif kind is yaml.MappingEndEvent:
            anchor, values = self._open.pop()
            pairs = zip(values[::2], values[1::2], strict=True)
            self._add(anchor, _facts(pairs, self._inner))
        elif kind is yaml.SequenceEndEvent:
            anchor, values = self._open.pop()
            self._add(anchor, _reduced(values, self._inner))
        elif kind is yaml.AliasEvent:
            self._add(None, self._anchors.get(event.anchor))
        elif kind is yaml.DocumentStartEvent:
            self._anchors = {}

    def _add(self, anchor: str | None, value: Any) -> None:
        if self._open:
            self._open[-1][1].append(value)
        elif self.structured:
            _reduced(value, self._inner)
        if anchor is not None:
            self._anchors[anchor] = _Judged(value) if isinstance(value, str) else value


def _scalar(event: Any) -> str | None:
    value: str = event.value
    if event.tag == _BINARY:
        try:
            return base64.b64decode(value).decode("utf-8", "replace")
        except binascii.Error:
            return value
    return None if event.implicit[0] and value in _NULLS else value


def comments_of(text: str) -> str:
    """Return the comments of YAML, without their marks."""
    found = ((line, _COMMENT.search(line)) for line in text.split("\n"))
    return "\n".join(line[mark.end() :].removeprefix(" ") for line, mark in found if mark)
