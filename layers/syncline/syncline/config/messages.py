"""What pydantic found wrong, in words for whoever edits the file: what is wrong, and what is allowed.

No message repeats the value itself, but for numbers: it may be a secret that was written in the wrong place.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, Final, get_args

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from syncline.config.registry import BasicAuth, TokenAuth
from syncline.config.sync import Model
from syncline.config.values import KeyPath

_FORMS: Final[dict[str, type[Model]]] = {"<basic>": BasicAuth, "<token>": TokenAuth}


def inner_path(loc: KeyPath) -> KeyPath:
    """The path of keys, without the marks by which pydantic names the forms of a union."""
    return tuple(part for part in loc if not (isinstance(part, str) and part.startswith("<")))


def resembles(text: str, known: Iterable[str]) -> str | None:
    """The word of ``known`` that ``text`` was probably meant to be."""
    found = difflib.get_close_matches(text.lower().replace("_", "").replace("-", ""), known, n=1, cutoff=0.6)
    return found[0] if found else next(iter(difflib.get_close_matches(text, known, n=1, cutoff=0.6)), None)


def near(text: str, known: Iterable[str]) -> str:
    word = resembles(text, known)
    return f"did you mean {word}? " if word else ""


def keys_at(model: type[Model], loc: KeyPath) -> list[str]:
    """The keys that the mapping at ``loc`` may have."""
    inner = _model_at(model, loc)
    return [key for key in inner.model_fields if key != "name"] if inner else []


def without_echoes(errors: list[ErrorDetails], model: type[Model]) -> list[ErrorDetails]:
    """Without each "is missing" of a key that is there under a name much like it, which is told already."""
    meant = set()
    for details in errors:
        if details["type"] == "extra_forbidden":
            parent = details["loc"][:-1]
            meant.add((*parent, resembles(str(details["loc"][-1]), keys_at(model, parent))))
    return [details for details in errors if details["type"] != "missing" or details["loc"] not in meant]


def message_for(details: ErrorDetails, model: type[Model]) -> str:
    """One sentence: what is wrong; what is allowed."""
    given, loc = details["input"], details["loc"]
    words = {
        "value_error": "{error}",
        "auth_form": "{message}",
        "missing": "is missing; {allowed}",
        "model_type": "is {what}, not a mapping; put below it: {keys}",
        "model_attributes_type": "is {what}, not a mapping; put below it: {keys}",
        "tuple_type": "is {what}, not a list; {allowed}",
        "string_type": "is {what}, not text; {quotes}{allowed}",
        "bool_type": "is {what}; write true or false",
        "int_type": "is {what}, not a whole number; {allowed}",
        "greater_than_equal": "is {number}, which is too small; {allowed}",
        "less_than_equal": "is {number}, which is too large; {allowed}",
        "literal_error": "is not one of the words allowed: {expected}",
    }.get(details["type"], "is not understood; {allowed}")
    number = isinstance(given, int | float)
    return words.format_map(
        {
            **details.get("ctx", {}),
            "message": details["msg"],
            "allowed": _allowed(model, loc),
            "keys": ", ".join(keys_at(model, loc)),
            "what": _what(given),
            "number": given if number else "a number",
            "quotes": "write it in quotes; " if number else "",
        }
    )


def _what(value: Any) -> str:
    if value is None:
        return "empty"
    words = {bool: "true or false", int: "a number", float: "a number", str: "text", dict: "a mapping", list: "a list"}
    return words.get(type(value), "something else")


def _allowed(model: type[Model], loc: KeyPath) -> str:
    """What the field at ``loc`` is, from its description, and an example."""
    names = [part for part in loc if isinstance(part, str) and not part.startswith("<")]
    parent = _model_at(model, loc[: _last_index(loc, names[-1])]) if names else None
    info = parent.model_fields.get(names[-1]) if parent else None
    if info is None:
        return "see docs/reference/syncs.yaml.md"
    text = (info.description or "").split(". ")[0].rstrip(".")
    example = f", such as {_example(info)}" if info.examples else ""
    return f"{text[:1].lower()}{text[1:]}{example}"


def _last_index(loc: KeyPath, name: str) -> int:
    return max(index for index, part in enumerate(loc) if part == name)


def _example(info: FieldInfo) -> str:
    example = (info.examples or [""])[0]
    return f"[{', '.join(example)}]" if isinstance(example, list) else str(example)


def _model_at(model: type[Model], loc: KeyPath) -> type[Model] | None:
    """The model of the mapping at ``loc``."""
    current: type[Model] | None = model
    forms: list[type[Model]] = []
    for part in loc:
        if isinstance(part, int):
            continue
        if part.startswith("<"):
            current = _FORMS.get(part)
            continue
        info = current.model_fields.get(part) if current else None
        forms = list(_models_in(info.annotation)) if info else []
        current = forms[0] if forms else None
    return current


def _models_in(annotation: object) -> Iterator[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
