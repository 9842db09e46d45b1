"""The normalization of Kubernetes objects: cut the fields that change by themselves from YAML and JSON text.

Only the fields are cut. All other bytes stay, with their order, comments and quotes, and a document without such fields
stays byte for byte. No document is built in memory: the parser's events are reduced to the positions of the members on
the paths that may be cut. Each new text is parsed again and compared with the old one without these fields; text that
would differ in anything else, or that cannot be parsed, stays unchanged.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from syncline.clients.http.retry import never_halted
from syncline.kinds.backups.object_fields import DEFAULT_FIELDS, Path, parse_field
from syncline.kinds.backups.secrets_detection import OutOfTime
from syncline.kinds.backups.secrets_documents import split_yaml

_VERSION: Final = 2  # of the rules: objects that an older one normalized are read again
_DEEPEST: Final = 200  # most levels; libyaml takes time for each level at each bracket
_EVENTS: Final = 20_000  # events between two checks of the time
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_SPACE: Final = re.compile(r"\s*")
_BOM: Final = "\ufeff"

_Part = Literal["{", "}", "[", "]", "scalar"]


class _Event(NamedTuple):
    """An event of a parser: `text` is the value of a scalar, `data` all that two equal events have in common."""

    part: _Part
    start: int
    end: int
    text: str | None
    data: Any
    flow: bool = True


class _Member(NamedTuple):
    """A member of a mapping: its range of the text, and its range of the events."""

    key: str | None
    start: int
    end: int
    events: range


@dataclass(slots=True)
class _Mapping:
    """A mapping at a path of an object: its members, the mappings that matter below it, and its texts."""

    flow: bool
    path: Path
    members: list[_Member] = field(default_factory=list)
    children: dict[str, _Mapping] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Frame:
    """An open mapping or list. `key` is the key whose value comes next; `mapping` is None where nothing is cut."""

    mapping: _Mapping | None
    is_list: bool
    of_objects: bool = False
    key: _Event | None = None
    key_number: int = 0


class _Cut(NamedTuple):
    """A range of the text to replace, and the ranges of events that it drops."""

    start: int
    end: int
    text: str
    events: tuple[range, ...]


@dataclass(frozen=True, slots=True)
class Normalizer:
    """Drops `fields` (see :func:`.object_fields.parse_field`) of Kubernetes objects, also of those in a List."""

    fields: tuple[str, ...] = DEFAULT_FIELDS
    _rules: dict[str, set[Path]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _above: set[Path] = field(default_factory=lambda: {("metadata",)}, init=False, repr=False, compare=False)
    """The paths of mappings with members that may be cut. An object is known by its metadata."""

    def __post_init__(self) -> None:
        for kind, path in map(parse_field, self.fields):
            self._rules.setdefault(kind, set()).add(path)
            self._above.update(path[:length] for length in range(1, len(path)))

    @property
    def name(self) -> str:
        """A name that differs if the rules make something else of the same object."""
        text = "\0".join((str(_VERSION), *sorted(self.fields)))
        return f"normalized-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def apply(self, data: bytes, over: Callable[[], bool] = never_halted) -> bytes:
        """Return the text without the fields. Raises OutOfTime if `over` returns True meanwhile."""
        if not self._may_change(data):
            return data
        documents = _json_documents(data)
        if documents is not None:
            return b"".join(self._document(each, _json_events, over) for each in documents)
        return b"".join(self._document(each, _yaml_events, over) for each in split_yaml(data))

    def _may_change(self, data: bytes) -> bool:
        if b"\0" in data:
            return False
        lasts = {path[-1].encode() for paths in self._rules.values() for path in paths}
        return b"\\" in data or any(last in data for last in lasts)

    def _document(self, data: bytes, parse: _Parser, over: Callable[[], bool]) -> bytes:
        if not self._may_change(data):
            return data
        marks = array("q")  # the events, 8 bytes each
        try:
            text = data.decode()
            cuts = sorted(self._cuts(_watched(parse(text), over), text, marks))
            if not cuts:
                return data
            new = _without(text, cuts)
            dropped = {number for cut in cuts for events in cut.events for number in events}
            left = array("q", (mark for number, mark in enumerate(marks) if number not in dropped))
            if left != array("q", (hash(event.data) for event in _watched(parse(new), over))):
                return data
        except (ValueError, _Unusable):
            return data
        return new.encode()

    def _cuts(self, events: Iterable[_Event], text: str, marks: array[int]) -> Iterator[_Cut]:
        """Yield the cuts of one document; add the hash of each event to `marks`."""
        stack: list[_Frame] = []
        end = 0  # of the last leaf: a block ends only where the next token begins
        for number, event in enumerate(events):
            marks.append(hash(event.data))
            if event.flow:
                end = event.end
            if event.part in ("{", "["):
                if len(stack) == _DEEPEST or _awaits_key(stack):
                    raise _Unusable
                stack.append(self._opened(stack, event))
                continue
            if event.part in ("}", "]"):
                mapping = stack.pop().mapping
                if mapping is not None and not mapping.path:
                    yield from self._object_cuts(mapping, stack, text)
            elif _awaits_key(stack):
                stack[-1].key, stack[-1].key_number = event, number
                continue
            _end_member(stack, event, end, number)

    def _opened(self, stack: Sequence[_Frame], event: _Event) -> _Frame:
        is_list = event.part == "["
        above = stack[-1] if stack else None
        if is_list:
            of_list = len(stack) == 1 and above is not None and above.key is not None and above.key.text == "items"
            of_list = of_list and _texts_of(stack, 0).get("apiVersion") is not None
            return _Frame(None, is_list=True, of_objects=above is None or of_list)
        if above is None or above.of_objects:
            return _Frame(_Mapping(event.flow, ()), is_list=False)
        if above.mapping is None or above.key is None or above.key.text is None:
            return _Frame(None, is_list=False)
        path = (*above.mapping.path, above.key.text)
        if path not in self._above:
            return _Frame(None, is_list=False)
        below = above.mapping.children[above.key.text] = _Mapping(event.flow, path)
        return _Frame(below, is_list=False)

    def _object_cuts(self, root: _Mapping, stack: Sequence[_Frame], text: str) -> Iterator[_Cut]:
        around = _texts_of(stack, 0) if stack else {}
        if "kind" not in root.texts and around.get("kind", "").endswith("List"):  # the items of a PodList have no kind
            root.texts["kind"] = around["kind"].removesuffix("List")
            root.texts.setdefault("apiVersion", around["apiVersion"])
        kind = root.texts.get("kind")
        if "metadata" in root.children and kind is not None and root.texts.get("apiVersion"):
            yield from _cuts_below(root, self._rules.get("", set()) | self._rules.get(kind, set()), text)


def _awaits_key(stack: Sequence[_Frame]) -> bool:
    return bool(stack) and not stack[-1].is_list and stack[-1].key is None


def _texts_of(stack: Sequence[_Frame], at: int) -> dict[str, str]:
    mapping = stack[at].mapping
    return {} if mapping is None else mapping.texts


def _end_member(stack: Sequence[_Frame], event: _Event, end: int, number: int) -> None:
    """Note a member of the open mapping, whose value has ended."""
    if not stack or stack[-1].is_list:
        return
    top = stack[-1]
    key, top.key = top.key, None
    if top.mapping is None or key is None:
        return
    events = range(top.key_number, number + 1)
    top.mapping.members.append(_Member(key.text, key.start, max(end, key.end), events))
    if key.text is not None and event.text is not None:
        top.mapping.texts[key.text] = event.text


class _Unusable(Exception):  # noqa: N818 - not an error
    """The text is too deep or too unusual to be changed."""


def _watched(events: Iterable[_Event], over: Callable[[], bool]) -> Iterator[_Event]:
    for number, event in enumerate(events, 1):
        if not number % _EVENTS and over():
            raise OutOfTime
        yield event


_Parser = Callable[[str], Iterator[_Event]]


def _cuts_below(mapping: _Mapping, paths: set[Path], text: str) -> Iterator[_Cut]:
    """Yield the cuts of a mapping and of those below it."""
    gone = [(*mapping.path, member.key or "") in paths for member in mapping.members]
    if any(gone):
        yield from (_flow_cuts if mapping.flow else _block_cuts)(mapping, gone, text)
    for key, child in mapping.children.items():
        if (*mapping.path, key) not in paths:
            yield from _cuts_below(child, paths, text)


def _flow_cuts(mapping: _Mapping, gone: list[bool], _text: str) -> Iterator[_Cut]:
    """Yield the cuts of a mapping in braces: from the end of the member before, or the brace, to the member's end."""
    members = mapping.members
    kept = [number for number, is_gone in enumerate(gone) if not is_gone]
    first = kept[0] if kept else len(members)
    if first:
        # The members before the first one that stays, with the comma behind them.
        end = members[first].start if kept else members[-1].end
        yield _Cut(members[0].start, end, "", tuple(member.events for member in members[:first]))
    for number in range(first + 1, len(members)):
        if gone[number]:
            yield _Cut(members[number - 1].end, members[number].end, "", (members[number].events,))


def _block_cuts(mapping: _Mapping, gone: list[bool], text: str) -> Iterator[_Cut]:
    """Yield the cuts of a mapping in lines: complete lines, or up to the next key behind a dash."""
    members = mapping.members
    if all(gone):
        end = members[-1].end
        empty = "{}\n" if text[end - 1] == "\n" else "{}"  # a block scalar ends behind its last line
        yield _Cut(members[0].start, end, empty, tuple(member.events for member in members))
        return
    number = 0
    while number < len(members):
        member = members[number]
        if not gone[number]:
            number += 1
            continue
        line = text.rfind("\n", 0, member.start) + 1
        if text[line : member.start].strip(" "):  # the first key behind a dash or a mark
            end = gone.index(False, number)
            yield _Cut(member.start, members[end].start, "", tuple(each.events for each in members[number:end]))
            number = end
            continue
        yield _Cut(line, _line_end(text, member.end), "", (member.events,))
        number += 1


def _line_end(text: str, at: int) -> int:
    """Return the position behind the line in which a value ends."""
    if at and text[at - 1] == "\n":
        return at
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def _without(text: str, cuts: list[_Cut]) -> str:
    parts, at = [], 0
    for cut in cuts:
        if cut.start < at:
            raise _Unusable
        parts += [text[at : cut.start], cut.text]
        at = cut.end
    return "".join((*parts, text[at:]))


def _json_documents(data: bytes) -> list[bytes] | None:
    """Split a file into its JSON documents, which joined are the file; return None if it is not JSON."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    decoder = json.JSONDecoder(object_pairs_hook=lambda _: None, parse_int=len, parse_float=len, strict=False)
    starts, at = [0], _behind_space(text, len(_BOM) if text.startswith(_BOM) else 0)
    if text[at : at + 1] not in ("{", "["):
        return None
    try:
        while at < len(text):
            at = _behind_space(text, decoder.raw_decode(text, at)[1])
            starts.append(at)
    except (ValueError, RecursionError):
        return None
    return [text[a:b].encode() for a, b in itertools.pairwise(starts)]


def _behind_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _json_events(text: str) -> Iterator[_Event]:
    """Yield the events of text that is known to be JSON."""
    for match in _TOKEN.finditer(text):
        part = match[0]
        if part in "{}[]":
            yield _Event(part, match.start(), match.end(), None, part)  # type: ignore[arg-type]
        elif part not in ":,":
            value = json.loads(part, strict=False) if part[0] == '"' else None
            yield _Event("scalar", match.start(), match.end(), value, part)


def _yaml_events(text: str) -> Iterator[_Event]:
    """Yield the events of one YAML document. Raises ValueError if it cannot be parsed."""
    import yaml  # noqa: PLC0415 - only where there is something to normalize

    try:
        events: Iterator[Any] = yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
        for event in events:
            start, end, kind = event.start_mark.index, event.end_mark.index, type(event)
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            if anchor is not None:
                raise _Unusable  # an alias may need what is cut
            if kind is yaml.ScalarEvent:
                value = event.value
                yield _Event("scalar", start, end, value, (value, tag, event.implicit))
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                part: _Part = "{" if kind is yaml.MappingStartEvent else "["
                yield _Event(part, start, end, None, (part, tag), bool(event.flow_style))
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                part = "}" if kind is yaml.MappingEndEvent else "]"
                yield _Event(part, start, end, None, part, flow=end > start)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
