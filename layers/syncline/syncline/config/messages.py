"""Messages for errors that pydantic finds: the problem, and the expected value.

No message repeats a value other than a number: it may be a secret written in the wrong place.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, Final, get_args

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from syncline.config.model import Model
from syncline.config.registry import BasicAuth, TokenAuth
from syncline.config.values import KeyPath

_FORMS: Final[dict[str, type[Model]]] = {"<basic>": BasicAuth, "<token>": TokenAuth}


def inner_path(loc: KeyPath) -> KeyPath:
    """Return the path of keys without the tags by which pydantic names the forms of a union."""
    return tuple(part for part in loc if not (isinstance(part, str) and part.startswith("<")))


def closest(text: str, known: Iterable[str]) -> str | None:
    """Return the word of `known` that is closest to `text`, or None."""
    found = difflib.get_close_matches(text.lower().replace("_", "").replace("-", ""), known, n=1, cutoff=0.6)
    return found[0] if found else next(iter(difflib.get_close_matches(text, known, n=1, cutoff=0.6)), None)


def suggestion(text: str, known: Iterable[str]) -> str:
    """Return "did you mean WORD? ", or "" if no known word is close."""
    word = closest(text, known)
    return f"did you mean {word}? " if word else ""


def keys_at(model: type[Model], loc: KeyPath) -> list[str]:
    """Return the keys allowed in the mapping at `loc`."""
    inner = _model_at(model, loc)
    return [key for key in _fields(inner) if key != "name"] if inner else []


def without_echoes(errors: list[ErrorDetails], model: type[Model]) -> list[ErrorDetails]:
    """Return the errors without "is missing" for keys that exist misspelled, which have an error already."""
    meant = set()
    for details in errors:
        if details["type"] == "extra_forbidden":
            parent = details["loc"][:-1]
            meant.add((*parent, closest(str(details["loc"][-1]), keys_at(model, parent))))
    return [details for details in errors if details["type"] != "missing" or details["loc"] not in meant]


def message_for(details: ErrorDetails, model: type[Model]) -> str:
    """Return the message for an error: the problem; the expected value."""
    given, loc = details["input"], details["loc"]
    words = {
        "value_error": "{error}",
        "auth_form": "{message}",
        "missing": "is missing; expected: {expected_value}",
        "model_type": "is {type}, not a mapping; allowed keys: {keys}",
        "model_attributes_type": "is {type}, not a mapping; allowed keys: {keys}",
        "tuple_type": "is {type}, not a list; expected: {expected_value}",
        "string_type": "is {type}, not text; {quotes}expected: {expected_value}",
        "bool_type": "is {type}; write true or false",
        "int_type": "is {type}, not a whole number; expected: {expected_value}",
        "number_type": "is {type}, not a number; expected: {expected_value}",
        "greater_than_equal": "is {number}, which is too small; expected: {expected_value}",
        "less_than_equal": "is {number}, which is too large; expected: {expected_value}",
        "literal_error": "is not an allowed word; allowed: {expected}",
    }.get(details["type"], "is not a valid value; expected: {expected_value}")
    number = isinstance(given, int | float)
    return words.format_map(
        {
            **details.get("ctx", {}),
            "message": details["msg"],
            "expected_value": _expected(model, loc),
            "keys": ", ".join(keys_at(model, loc)),
            "type": _type_name(given),
            "number": given if number else "a number",
            "quotes": "write it in quotes; " if number else "",
        }
    )


def _type_name(value: Any) -> str:
    if value is None:
        return "empty"
    words = {bool: "true or false", int: "a number", float: "a number", str: "text", dict: "a mapping", list: "a list"}
    return words.get(type(value), "another type")


def _expected(model: type[Model], loc: KeyPath) -> str:
    """Return the description of the field at `loc`, with an example."""
    keys = [n for n, part in enumerate(loc) if isinstance(part, str) and not part.startswith("<")]
    parent = _model_at(model, loc[: keys[-1]]) if keys else None
    info = _fields(parent).get(str(loc[keys[-1]])) if parent else None
    if info is None:
        return "see docs/reference/syncs.yaml.md"
    text = (info.description or "").split(". ")[0].rstrip(".")
    example = f", such as {_example(info)}" if info.examples else ""
    return f"{text[:1].lower()}{text[1:]}{example}"


def _example(info: FieldInfo) -> str:
    example = (info.examples or [""])[0]
    return f"[{', '.join(example)}]" if isinstance(example, list) else str(example)


def _model_at(model: type[Model], loc: KeyPath) -> type[Model] | None:
    """Return the model of the mapping at `loc`."""
    current: type[Model] | None = model
    for part in loc:
        if isinstance(part, int):
            continue
        if part.startswith("<"):
            current = _FORMS.get(part)
        else:
            info = _fields(current).get(part) if current else None
            current = next(_models_in(info.annotation), None) if info else None
    return current


def _fields(model: type[Model]) -> dict[str, FieldInfo]:
    """Return the fields of a model by their keys in the file: one may be a word that Python reserves."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _models_in(annotation: object) -> Iterator[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
