"""YAML as a tree of nodes that know their places.

Only what JSON can say is taken: mappings with text keys, lists, text, numbers, true, false and null, read by the core
schema of YAML 1.2 (so ``no`` and ``12:30`` are text, as editors see them). Anchors, aliases and ``<<`` merges of
mappings work; tags are refused, as are aliases that would blow the file up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import yaml

from syncline.config.values import KeyPath

_DEEPEST: Final = 20  # levels
_MOST_NODES: Final = 100_000  # after aliases are put in their places
_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER: Final = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Place(NamedTuple):
    """Counted from 1, columns in characters."""

    line: int
    column: int


class YamlProblem(Exception):  # noqa: N818 - gathered as often as raised
    """What is wrong with the text at a place. The message repeats nothing of the text but keys."""

    def __init__(self, place: Place, message: str, path: KeyPath = ()) -> None:
        super().__init__(message)
        self.place = place
        self.path = path


Value: TypeAlias = "dict[str, Node] | list[Node] | str | int | float | bool | None"


@dataclass(slots=True)
class Node:
    """A value and where it begins; of a mapping also where each key stands. ``size`` counts the nodes in it."""

    place: Place
    value: Value
    keys: dict[str, Place] = field(default_factory=dict)
    size: int = 1

    def plain(self) -> Any:
        """The value as JSON has it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def place_of(self, path: KeyPath, *, key: bool = False) -> Place:
        """Where the value at ``path`` stands, or the innermost part of the path that there is.

        A value of several lines, an empty one, and with ``key`` any value, is found by its key.
        """
        node, place = self, self.place
        for part in path:
            inner = _child(node, part)
            if inner is None:
                return place
            at_key = key or inner.value is None or isinstance(inner.value, dict | list)
            place = node.keys[part] if isinstance(part, str) and at_key else inner.place
            node = inner
        return place


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict) and isinstance(part, str):
        return node.value.get(part)
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def compose(text: str) -> tuple[Node, list[YamlProblem]]:
    """The root of the only document, and what is wrong with it that does not hinder reading on.

    Raises YamlProblem where reading ends: broken syntax, nothing there, two documents, too deep, too large.
    """
    composer = _Composer(text)
    try:
        return composer.document(), composer.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlProblem(_place(mark), _syntax_message(error, text)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position].split("\n")
        place = Place(len(before), len(before[-1]) + 1)
        raise YamlProblem(place, "has a character that cannot stand in YAML; remove it") from None


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


def _syntax_message(error: yaml.MarkedYAMLError, text: str) -> str:
    """What the parser did not like, in words of our own: its own may repeat the text, and that may be a secret."""
    place = _place(error.problem_mark)
    lines = text.splitlines()
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    if "\t" in line[: place.column] or line[place.column - 1 : place.column] == "\t":
        return "has a tab; indent with spaces"
    if line[place.column - 1 : place.column] in ("@", "`", "%"):
        return f"begins with {line[place.column - 1]}, which YAML keeps for itself; write the value in quotes"
    known = {
        "mapping values are not allowed": 'has a ": " inside a value, or is indented wrongly; write the value in quotes or check the indent',
        "could not find expected ':'": "has no colon after a key; write key: value",
        "expected <block end>": "is indented differently from its neighbours, or something before it is not closed",
        "expected ',' or": "is not closed; write a , between values and ] or } at the end",
        "undefined alias": "refers to an anchor that is not there; write the value in quotes if it begins with *",
        "unexpected end of stream": "is not closed; write the closing quote",
        "found unexpected document": "is not closed; write the closing quote",
        "unknown escape character": "has a backslash that means nothing; write single quotes around text with backslashes",
        "found unknown escape": "has a backslash that means nothing; write single quotes around text with backslashes",
        "found undefined tag": "has a YAML tag; write the plain value",
    }
    for words, message in known.items():
        if words in (error.problem or ""):
            return message
    return "is not YAML from here on; check the indent, quotes and brackets here and in the line before"


class _Composer:
    """Nodes from the parser's events, with the depth and the size watched while they come."""

    def __init__(self, text: str) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=loader))
        self._anchors: dict[str, Node | None] = {}
        self._nodes = 0
        self.problems: list[YamlProblem] = []

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise YamlProblem(_place(event.start_mark), "the file has a second document; remove the ---")
                root = self._node(next(self._events), ())
        if root is None or root.value is None:
            raise YamlProblem(Place(1, 1), "the file is empty; begin it with syncs: and put each sync's name below")
        return root

    def _node(self, event: Any, path: KeyPath) -> Node:
        place = _place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), place)
        if len(path) > _DEEPEST:
            raise YamlProblem(place, f"the file is nested deeper than {_DEEPEST} levels")
        if event.tag is not None and not (isinstance(event, yaml.ScalarEvent) and event.tag == "!"):
            self._note(place, path, "has a YAML tag, which is not allowed; write the plain value")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(place, _scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(place, path)
        else:
            node = self._mapping(place, path)
        self._grow(1, place)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _note(self, place: Place, path: KeyPath, message: str) -> None:
        self.problems.append(YamlProblem(place, message, path))

    def _alias(self, anchor: str, place: Place) -> Node:
        if anchor not in self._anchors:
            message = "refers to an anchor that is not there; write the value in quotes if it begins with *"
            raise YamlProblem(place, message)
        node = self._anchors[anchor]
        if node is None:
            raise YamlProblem(place, "refers to the anchor it lies in")
        self._grow(node.size, place)
        return node

    def _grow(self, nodes: int, place: Place) -> None:
        self._nodes += nodes
        if self._nodes > _MOST_NODES:
            raise YamlProblem(place, f"the file has more than {_MOST_NODES} values, counting each use of an alias")

    def _list(self, place: Place, path: KeyPath) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return Node(place, items, size=1 + sum(item.size for item in items))

    def _mapping(self, place: Place, path: KeyPath) -> Node:
        node = Node(place, {})
        values: dict[str, Node] = {}
        merged: list[Node] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_place = _place(event.start_mark)
            key = self._key(event, path)
            value = self._node(next(self._events), (*path, "?" if key is None else key))
            node.size += 1 + value.size
            if key == "<<":
                merged += self._merged(value, key_place, path)
            elif key in values:
                first = node.keys[key].line
                self._note(key_place, (*path, key), f"is here twice (first in line {first}); keep one")
            elif key is not None:
                values[key] = value
                node.keys[key] = key_place
        for other in merged:
            assert isinstance(other.value, dict)
            values = {**other.value, **values}
            node.keys = {**other.keys, **node.keys}
        node.value = values
        return node

    def _key(self, event: Any, path: KeyPath) -> str | None:
        """The key's text; None, with the problem noted, for a key that is no plain text."""
        key = self._node(event, (*path, "?"))
        if isinstance(event, yaml.ScalarEvent):
            return str(event.value)
        self._note(key.place, path, "has a list or mapping for a key; write plain text before the colon")
        return None

    def _merged(self, value: Node, place: Place, path: KeyPath) -> list[Node]:
        nodes = value.value if isinstance(value.value, list) else [value]
        if not all(isinstance(node.value, dict) for node in nodes):
            self._note(place, path, "has << without a mapping or a list of them; write <<: *name")
            return []
        return nodes


def _scalar(event: yaml.ScalarEvent) -> str | int | float | bool | None:
    text = str(event.value)
    if event.style in ("'", '"', "|", ">") or event.tag == "!":
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if _NUMBER.fullmatch(text) else text
