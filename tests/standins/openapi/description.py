"""Checks of requests and responses against an API description. A violation is recorded and fails the test."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema  # type: ignore[import-untyped]

REFUSALS: Final = frozenset({400, 401, 403, 404, 429})
"""Statuses that any operation may answer; the documentation describes them outside of the operations."""
_FORMATS: Final = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("date-time")  # type: ignore[untyped-decorator]
def _is_time(value: object) -> bool:
    try:
        return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


@dataclass(frozen=True)
class _Operation:
    name: str
    path: re.Pattern[str]
    parameters: list[dict[str, Any]]
    answers: Mapping[str, dict[str, Any]]
    body: dict[str, Any] | None


class Description:
    """An API as its maker describes it. ``refusal`` names the schema of refusals that operations do not describe."""

    def __init__(self, file: str, refusal: str | None = None) -> None:
        self._whole = json.loads((Path(__file__).parent / file).read_text())
        self._refusal = {"$ref": refusal} if refusal is not None else {}
        self._checks: dict[str, jsonschema.Draft202012Validator] = {}
        self._operations: dict[str, list[_Operation]] = {}
        for path, methods in self._whole["paths"].items():
            for method, operation in methods.items():
                self._operations.setdefault(method.upper(), []).append(self._operation(path, operation))

    def request_violations(self, method: str, target: str, body: bytes = b"") -> Iterator[str]:
        """Yield the violations of the description by a request."""
        operation, path_values = self._find(method, target)
        if operation is None:
            yield f"{method} {target}: there is no such operation"
            return
        query = parse_qsl(urlsplit(target).query, keep_blank_values=True)
        known = {(each["in"], each["name"]): each for each in operation.parameters}
        named = [*(("path", name, value) for name, value in path_values.items()), *(("query", *pair) for pair in query)]
        for where, name, value in named:
            parameter = known.get((where, name))
            if parameter is None:
                yield f"{operation.name}: it has no parameter {name!r} in its {where}"
            else:
                # Formats of parameters are not checked: `created` is a date-time by its schema and a range by its text.
                schema = parameter["schema"]
                found = [list(self._wrong(f"{operation.name}, {name}", schema, v, formats=False)) for v in _read(value)]
                yield from min(found, key=len)
        missing = {n for (w, n), each in known.items() if each.get("required")} - {name for _, name, _ in named}
        yield from (f"{operation.name}: the parameter {name!r} is missing" for name in sorted(missing))
        if body and operation.body is None:
            yield f"{operation.name}: it takes no body"
        elif body:
            assert operation.body is not None
            yield from self._wrong(f"{operation.name}, its body", operation.body, json.loads(body))

    def response_violations(
        self, method: str, target: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> Iterator[str]:
        """Yield the violations of the description by a response."""
        operation, _ = self._find(method, target)
        if operation is None:
            return
        where = f"{operation.name}, {status}"
        described = operation.answers.get(str(status))
        if described is None and status not in REFUSALS:
            yield f"{where}: it has no such answer"
            return
        described = described or {}
        for name in described.get("headers", {}):
            if name not in headers and name != "Link":  # the last page has no next one
                yield f"{where}: the header {name} is missing"
        content = described.get("content", {}).get("application/json")
        schema = content["schema"] if content else self._refusal if status >= 400 else None
        if schema is not None:
            yield from self._wrong(where, schema, json.loads(body))
        elif body:
            yield f"{where}: it has no body"

    def minimal(self, name: str) -> Any:
        """Return the smallest object that a schema allows: only the required fields, null where it is allowed."""
        return self._minimal({"$ref": f"#/components/schemas/{name}"})

    def _operation(self, path: str, operation: dict[str, Any]) -> _Operation:
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))
        body = operation.get("requestBody")
        return _Operation(
            operation["operationId"],
            re.compile(pattern),
            [self._resolved(each) for each in operation["parameters"]],
            {status: self._resolved(each) for status, each in operation["responses"].items()},
            body["content"]["application/json"]["schema"] if body else None,
        )

    def _find(self, method: str, target: str) -> tuple[_Operation | None, dict[str, str]]:
        path = urlsplit(target).path
        for operation in self._operations.get(method, ()):
            match = operation.path.fullmatch(path)
            if match is not None:
                return operation, {name: unquote(value) for name, value in match.groupdict().items()}
        return None, {}

    def _resolved(self, value: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in value:
            _, _, section, name = value["$ref"].split("/")
            value = self._whole["components"][section][name]
        return value

    def _wrong(self, where: str, schema: dict[str, Any], value: Any, *, formats: bool = True) -> Iterator[str]:
        key = json.dumps([schema, formats])
        check = self._checks.get(key)
        if check is None:
            whole = {**_strict(schema), "components": _strict(self._whole["components"])}
            checker = _FORMATS if formats else None
            check = self._checks[key] = jsonschema.Draft202012Validator(whole, format_checker=checker)
        for error in check.iter_errors(value):
            yield f"{where}: {error.json_path} {error.message[:300]}"

    def _minimal(self, schema: dict[str, Any]) -> Any:
        schema = self._resolved(schema)
        for key in ("allOf", "anyOf", "oneOf"):
            if key in schema and not schema.get("nullable"):
                return self._minimal(schema[key][0])
        if schema.get("nullable"):
            return None
        if "enum" in schema:
            return schema["enum"][0]
        if schema["type"] == "object":
            return {name: self._minimal(schema["properties"][name]) for name in schema.get("required", ())}
        text = "2026-01-01T00:00:00Z" if schema.get("format") == "date-time" else ""
        return {"array": [], "string": text, "integer": 0, "number": 0, "boolean": False}[schema["type"]]


@dataclass
class ViolationRecorder:
    """Recorder of the violations in a stand-in's requests and responses. Equal responses are checked once."""

    description: Description
    violations: list[str] = field(default_factory=list)
    _seen: set[object] = field(default_factory=set)

    def request(self, method: str, target: str, body: bytes) -> None:
        self.violations += self.description.request_violations(method, target, body)

    def answer(self, method: str, target: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        key = (method, urlsplit(target).path, status, body)
        if key not in self._seen:
            self._seen.add(key)
            self.violations += self.description.response_violations(method, target, status, headers, body)


def _read(text: str) -> Iterator[Any]:
    """Yield the possible values of a parameter: in a URL, numbers and booleans are text."""
    yield text
    if text in ("true", "false"):
        yield text == "true"
    if text.isascii() and text.isdigit():
        yield int(text)


def _strict(schema: Any) -> Any:
    """Return a schema as JSON Schema: null where it is allowed, and no additional properties in objects."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _strict(each) for key, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        kept.setdefault("additionalProperties", False)
    if schema.get("nullable") is True:
        del kept["nullable"]
        return {"anyOf": [kept, {"type": "null"}]}
    return kept
