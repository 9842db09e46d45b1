"""The OpenAPI document of the probe, generated from the types of the contract.

``python -m syncline.web.openapi`` prints it, for ``docs/openapi.json``.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types
import typing
from typing import Any, Final

from syncline import __version__
from syncline.kinds.tokens.probe import LONGEST_ORIGIN, LONGEST_TOKEN
from syncline.kinds.tokens.verdict import Reason, Verdict
from syncline.web.contract import ORIGIN_HEADER, PATH, REASON_HEADER, STATUS_HEADER, STATUSES, TOKEN_HEADER, Body

_PLAIN: Final[dict[Any, str]] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def document() -> dict[str, Any]:
    """Return the document (OpenAPI 3.0.3, which Swagger UI and client generators support)."""
    schemas: dict[str, Any] = {}
    _schema(Body, schemas)
    synced = _operation("synced", "Return whether every instance has a token.", ())
    named = _operation("syncedIn", "Return the same for a sync by its name.", (_SYNC,))
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Syncline: tokens",
            "version": __version__,
            "description": "Asks every instance of a replicated gateway whether it has a session token. "
            "A verdict is never better than its evidence.",
        },
        "paths": {PATH: {"get": synced}, f"{PATH}/{{sync}}": {"get": named}},
        "components": {"schemas": schemas},
    }


_SYNC: Final = {
    "name": "sync",
    "in": "path",
    "required": True,
    "description": "The sync's name in syncs.yaml.",
    "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
}


def _operation(name: str, summary: str, parameters: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    statuses = sorted({200, *STATUSES.values()} - (set() if parameters else {404}))
    return {
        "operationId": name,
        "summary": summary,
        "description": "Every instance except the origin is asked until it has the token, its retries end, or the "
        "deadline is reached.",
        "parameters": [
            *parameters,
            _header(TOKEN_HEADER, "The session token: the value of the cookie that instances check.", LONGEST_TOKEN),
            _header(ORIGIN_HEADER, "The instance that wrote the token: its name or its address.", LONGEST_ORIGIN),
        ],
        "responses": {str(status): _response(status) for status in statuses},
    }


def _header(name: str, description: str, longest: int) -> dict[str, Any]:
    # The characters of a cookie's value, and those of a name or address.
    pattern = r"^[!#-+\--:<-\[\]-~]+$" if name == TOKEN_HEADER else r"^[A-Za-z0-9._:\[\]-]+$"
    schema = {"type": "string", "minLength": 1, "maxLength": longest, "pattern": pattern}
    return {"name": name, "in": "header", "required": True, "description": description, "schema": schema}


_DESCRIPTIONS: Final = {
    200: "The verdict.",
    400: "A header is missing or invalid.",
    404: "There is no such sync.",
    431: "The token is too long.",
    500: "A defect in Syncline; the state of the token is unknown.",
}


def _response(status: int) -> dict[str, Any]:
    words = [each.value for each in Verdict if each.header is each] if status == 200 else [Verdict.NOT_SYNCED.value]
    reasons = [r.value for r in Reason if STATUSES.get(r, 200) == status]
    return {
        "description": _DESCRIPTIONS[status],
        "headers": {
            STATUS_HEADER: {
                "description": "The verdict; `NotSynced` if it is unknown.",
                "required": True,
                "schema": {"type": "string", "enum": words},
            },
            REASON_HEADER: {
                "description": "The reason for the verdict.",
                "required": True,
                "schema": {"type": "string", "enum": reasons},
            },
        },
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}},
    }


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a type. Those of dataclasses and enumerations are added to ``schemas`` and referred to."""
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (each for each in arguments if each is not type(None))
        schema = _schema(inner, schemas)
        # OpenAPI 3.0 ignores the siblings of a $ref.
        return {"allOf": [schema], "nullable": True} if "$ref" in schema else {**schema, "nullable": True}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], schemas)}
    if kind.__name__ not in schemas:
        schemas[kind.__name__] = {}  # it may refer to itself
        schemas[kind.__name__] = _enumeration(kind) if issubclass(kind, enum.Enum) else _object(kind, schemas)
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _enumeration(kind: type[enum.Enum]) -> dict[str, Any]:
    return {"type": "string", "description": _summary(kind), "enum": [each.value for each in kind]}


def _object(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    properties = {}
    for each in dataclasses.fields(kind):
        inner, description = typing.get_args(hints[each.name])
        schema = _schema(inner, schemas)
        about = {"description": description}
        properties[each.name] = {"allOf": [schema], **about} if "$ref" in schema else {**schema, **about}
    return {
        "type": "object",
        "description": _summary(kind),
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=2)
    sys.stdout.write("\n")
