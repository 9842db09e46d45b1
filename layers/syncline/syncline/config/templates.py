"""Templates for names, such as ``x86/{image}:{tag}``: filling in values, and reading them back.

A placeholder in braces stands for a value, ``{Presto ref:.12}`` for its first twelve characters. A ``/`` in a value
becomes ``-``, because values are used in tags. There is no other syntax.
"""

from __future__ import annotations

import re
from collections.abc import KeysView, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, TypeAlias

from pydantic import PlainSerializer, PlainValidator

from syncline.config.values import text_schema

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z][A-Za-z0-9 _-]*)(?::\.([0-9]{1,3}))?\}")
_LONGEST: Final = 300


@dataclass(frozen=True)
class Template:
    """A text with placeholders. Raises ValueError if the text is invalid."""

    text: str

    def __post_init__(self) -> None:
        rest = _PLACEHOLDER.sub("", self.text)
        if not self.text or len(self.text) > _LONGEST:
            raise ValueError(f"is empty or longer than {_LONGEST} characters")
        if "{" in rest or "}" in rest:
            raise ValueError("has a brace without a name; write {image}, {tag} or {Some key:.12}")

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text with the placeholders filled in. Raises KeyError for a missing value."""

        def value(match: re.Match[str]) -> str:
            text = values[match[1]].replace("/", "-")
            return text[: int(match[2])] if match[2] else text

        return _PLACEHOLDER.sub(value, self.text)

    def match(self, text: str) -> dict[str, str] | None:
        """Return the values that make this text, or None. A value has no ``/``, ``:`` or white space."""
        found = self._pattern.fullmatch(text)
        if found is None:
            return None
        values = dict(zip(self.names, found.groups(), strict=True))
        return values if self.fill(values) == text else None

    @cached_property
    def names(self) -> KeysView[str]:
        """The names of the placeholders, in their order."""
        return dict.fromkeys(match[1] for match in _PLACEHOLDER.finditer(self.text)).keys()

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts = _PLACEHOLDER.split(self.text)  # text, name, length, text …
        expression, seen = re.escape(parts[0]), list[str]()
        for name, literal in zip(parts[1::3], parts[3::3], strict=True):
            if name in seen:
                expression += f"(?:\\{seen.index(name) + 1})"
            else:
                seen.append(name)
                expression += r"([^/:\s]+)"
            expression += re.escape(literal)
        return re.compile(expression)

    def __str__(self) -> str:
        return self.text


def _parsed(value: Any) -> Template:
    if isinstance(value, Template):
        return value
    if not isinstance(value, str):
        raise ValueError("is not text with placeholders such as {image}")  # noqa: TRY004 - pydantic
    return Template(value)


TemplateText: TypeAlias = Annotated[
    Template,
    PlainValidator(_parsed),
    PlainSerializer(str, return_type=str),
    text_schema(minLength=1, maxLength=_LONGEST),
]
