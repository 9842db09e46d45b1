"""YAML as a tree of nodes with their positions in the file.

Only the values of JSON are allowed: mappings with text keys, lists, text, numbers, true, false and null, by the core
schema of YAML 1.2 (so ``no`` and ``12:30`` are text, as in editors). Anchors, aliases and ``<<`` merges of mappings are
supported. Tags are errors, as are aliases that multiply the size of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import yaml

from syncline.config.values import KeyPath

_DEEPEST: Final = 20  # levels
_MOST_NODES: Final = 100_000  # with aliases expanded
_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER: Final = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Position(NamedTuple):
    """Line and column in the file, from 1; columns in characters."""

    line: int
    column: int


class YamlProblem(Exception):  # noqa: N818 - collected as often as raised
    """A problem at a position of the text. The message repeats nothing of the text except keys."""

    def __init__(self, position: Position, message: str, path: KeyPath = ()) -> None:
        super().__init__(message)
        self.position = position
        self.path = path


Value: TypeAlias = "dict[str, Node] | list[Node] | str | int | float | bool | None"


@dataclass(slots=True)
class Node:
    """A value and its position, with the positions of a mapping's keys. `size` is the number of nodes in it."""

    position: Position
    value: Value
    keys: dict[str, Position] = field(default_factory=dict)
    size: int = 1

    def plain(self) -> Any:
        """Return the value as plain JSON types."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def position_of(self, path: KeyPath, *, key: bool = False) -> Position:
        """Return the position of the value at `path`, or of the innermost part of the path that exists.

        The position of a value of several lines or an empty one, and with `key` of any value, is that of its key.
        """
        node, position = self, self.position
        for part in path:
            inner = _child(node, part)
            if inner is None:
                return position
            at_key = key or inner.value is None or isinstance(inner.value, dict | list)
            position = node.keys[part] if isinstance(part, str) and at_key else inner.position
            node = inner
        return position


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict) and isinstance(part, str):
        return node.value.get(part)
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def compose(text: str) -> tuple[Node, list[YamlProblem]]:
    """Return the root of the document, and the problems after which parsing could continue.

    Raises YamlProblem if parsing cannot continue: invalid syntax, no document, two documents, too deep, too large.
    """
    composer = _Composer(text)
    try:
        return composer.document(), composer.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlProblem(_position(mark), _syntax_message(error, text)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position].split("\n")
        position = Position(len(before), len(before[-1]) + 1)
        raise YamlProblem(position, "has a character that YAML does not allow; remove it") from None


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)


def _syntax_message(error: yaml.MarkedYAMLError, text: str) -> str:
    """Return a message for a syntax error. The parser's own message may repeat the text, which may be a secret."""
    position = _position(error.problem_mark)
    lines = text.splitlines()
    before = lines[position.line - 1][: position.column] if position.line <= len(lines) else ""
    if "\t" in before:
        return "has a tab; indent with spaces"
    if len(before) == position.column and before.endswith(("@", "`", "%")):
        return f"begins with {before[-1]}, which YAML reserves; write the value in quotes"
    known = {
        "mapping values are not allowed": 'has a ": " inside a value, or wrong indentation; write the value in quotes or check the indentation',
        "could not find expected ':'": "has no colon after a key; write key: value",
        "expected <block end>": "is indented differently from its siblings, or a bracket or quote before it is not closed",
        "expected ',' or": "is not closed; write , between values and ] or } at the end",
        "undefined alias": "refers to an anchor that does not exist; write the value in quotes if it begins with *",
        "unexpected end of stream": "is not closed; write the closing quote",
        "found unexpected document": "is not closed; write the closing quote",
        "unknown escape": "has an invalid escape; write text with backslashes in single quotes",
        "found undefined tag": "has a YAML tag; write the plain value",
    }
    for words, message in known.items():
        if words in (error.problem or ""):
            return message
    return "is not valid YAML; check indentation, quotes and brackets here and in the line before"


class _Composer:
    """Builds nodes from the parser's events, within limits of depth and size."""

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
                    raise YamlProblem(_position(event.start_mark), "the file has a second document; remove the ---")
                root = self._node(next(self._events), ())
        if root is None or root.value is None:
            raise YamlProblem(Position(1, 1), "the file is empty; begin it with syncs: and put each sync's name below")
        return root

    def _node(self, event: Any, path: KeyPath) -> Node:
        position = _position(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), position)
        if len(path) > _DEEPEST:
            raise YamlProblem(position, f"the file is nested deeper than {_DEEPEST} levels")
        if event.tag is not None and not (isinstance(event, yaml.ScalarEvent) and event.tag == "!"):
            self._note(position, path, "has a YAML tag, which is not allowed; write the plain value")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = Node(position, _scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(position, path)
        else:
            node = self._mapping(position, path)
        self._grow(1, position)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _note(self, position: Position, path: KeyPath, message: str) -> None:
        self.problems.append(YamlProblem(position, message, path))

    def _alias(self, anchor: str, position: Position) -> Node:
        if anchor not in self._anchors:
            message = "refers to an anchor that does not exist; write the value in quotes if it begins with *"
            raise YamlProblem(position, message)
        node = self._anchors[anchor]
        if node is None:
            raise YamlProblem(position, "refers to an anchor that contains it")
        self._grow(node.size, position)
        return node

    def _grow(self, nodes: int, position: Position) -> None:
        self._nodes += nodes
        if self._nodes > _MOST_NODES:
            raise YamlProblem(position, f"the file has more than {_MOST_NODES} values, counting each use of an alias")

    def _list(self, position: Position, path: KeyPath) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return Node(position, items, size=1 + sum(item.size for item in items))

    def _mapping(self, position: Position, path: KeyPath) -> Node:
        node = Node(position, {})
        values: dict[str, Node] = {}
        merged: list[Node] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_position = _position(event.start_mark)
            key = self._key(event, path)
            value = self._node(next(self._events), (*path, "?" if key is None else key))
            node.size += 1 + value.size
            if key == "<<":
                merged += self._merged(value, key_position, path)
            elif key in values:
                first = node.keys[key].line
                self._note(key_position, (*path, key), f"is repeated (first in line {first}); keep one")
            elif key is not None:
                values[key] = value
                node.keys[key] = key_position
        for other in merged:
            assert isinstance(other.value, dict)
            values = {**other.value, **values}
            node.keys = {**other.keys, **node.keys}
        node.value = values
        return node

    def _key(self, event: Any, path: KeyPath) -> str | None:
        """Return the key's text; None, and record a problem, for a key that is not plain text."""
        key = self._node(event, (*path, "?"))
        if isinstance(event, yaml.ScalarEvent):
            return str(event.value)
        self._note(key.position, path, "has a list or mapping as a key; write plain text before the colon")
        return None

    def _merged(self, value: Node, position: Position, path: KeyPath) -> list[Node]:
        nodes = value.value if isinstance(value.value, list) else [value]
        if not all(isinstance(node.value, dict) for node in nodes):
            self._note(position, path, "has << without a mapping or a list of mappings; write <<: *name")
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
