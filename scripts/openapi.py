"""The OpenAPI document of the probe, generated from the dataclasses here and the words and statuses of the contract.

``python -m scripts.reference`` writes it. The types of the dataclasses are annotated with descriptions.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Final

from syncline import __version__
from syncline.kinds.tokens.probe import LONGEST_ORIGIN, LONGEST_TOKEN
from syncline.kinds.tokens.verdict import Reason, TokenState, Verdict
from syncline.web.contract import ORIGIN_HEADER, PATH, REASON_HEADER, STATUS_HEADER, STATUSES, TOKEN_HEADER

_PLAIN: Final[dict[Any, str]] = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True, slots=True)
class InstanceBody:
    """One instance and its response."""

    name: Annotated[str, "The instance's name: that of its pod."]
    address: Annotated[str, "Its address and port."]
    verdict: Annotated[TokenState, "The state of the token at it."]
    attempts: Annotated[int, "The number of requests to it."]
    first_yes_ms: Annotated[float | None, "Milliseconds until it first had the token."]
    last_status: Annotated[int | None, "The HTTP status of its last response."]
    reason: Annotated[str, "The reason why it does not count as having the token; empty if it has it."]


@dataclass(frozen=True, slots=True)
class ListBody:
    """The list of instances on which the verdict is based."""

    instances: Annotated[int, "The number of instances in the list."]
    serving: Annotated[int, "The number of them that receive requests now: ready, and not terminating."]
    seen: Annotated[str | None, "The time of the last complete list of the cluster (RFC 3339)."]
    failed: Annotated[str | None, "The code of the failure, if the latest scrape of the cluster failed."]


@dataclass(frozen=True, slots=True)
class Body:
    """A verdict and its evidence."""

    verdict: Annotated[Verdict, "The verdict; `Unknown` if there is no evidence for another one."]
    reason: Annotated[Reason, "The reason for the verdict."]
    sync: Annotated[str | None, "The sync that the origin belongs to."]
    token: Annotated[str | None, "The first 8 hex digits of the token's SHA-256."]
    origin: Annotated[
        InstanceBody | None, "The origin, asked as a control; null if it is not listed, or if several have its name."
    ]
    asked: Annotated[int, "The number of instances asked, without the origin."]
    needed: Annotated[int, "The number of them that must have the token."]
    synced: Annotated[int, "The number of them that have it."]
    unknown: Annotated[int, "The number of them without a usable response."]
    ms: Annotated[float, "Milliseconds until the verdict."]
    causes: Annotated[tuple[str, ...], "The causes that nginx's counters of zone_sync name, if they are read."]
    list: Annotated[ListBody | None, "The list of instances on which the verdict is based."]
    instances: Annotated[tuple[InstanceBody, ...], "Each instance that was asked."]


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
