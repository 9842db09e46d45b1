"""The JSON Schemas of what `report`, `history`, `status` and `audit` print with ``--json``, made from the types of the package."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter

from syncline.cli.commands_report import FAILURE_KEYS
from syncline.cli.summary import OUTPUT_VERSION
from syncline.kinds.table import KINDS
from syncline.model import EVERYTHING, Audit, Counts, Result, Run, Step, Trigger, Waiting
from syncline.store.drills import Drill
from syncline.store.failures import KnownFailure

FILES: Final = {name: f"docs/reference/{name}.schema.json" for name in ("report", "history", "status", "audit")}
_CODE: Final = {"type": "string", "pattern": "^[A-Z_]+$", "description": "A code of errors.md."}
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_TIME: Final = {"type": "number", "description": "Unix seconds."}
_LAG: Final = "Upper bound in seconds; null without items, or if there is no bound."


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each output by the path of its file."""
    objects = {"report": _report(), "history": _history(), "status": _status(), "audit": _audit()}
    return {FILES[name]: _document(name, value) for name, value in objects.items()}


def _document(name: str, value: dict[str, Any]) -> dict[str, Any]:
    version = {"const": OUTPUT_VERSION, "description": "Grows when a key is removed or changes; keys may be added."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"The output of `syncline {name} --json`, version {OUTPUT_VERSION}",
        **value,
        "required": ["version", *value["required"]],
        "properties": {"version": version} | value["properties"],
        "$defs": {
            "run": _run(),
            "counts": _of(Counts),
            "waiting": _of(Waiting, code=_CODE),
            "item": _of(Result, code=_nullable(_CODE), action=_nullable(_TEXT)),
            "failure": _of(KnownFailure, FAILURE_KEYS, code=_CODE),
            "lag": _object({name: {"type": ["number", "null"], "description": _LAG} for name in ("p50", "p95", "p99")}),
        },
    }


def _report() -> dict[str, Any]:
    return _object(
        {
            "run": _ref("run"),
            "items": _list(_ref("item")),
            "known": _list(_ref("failure")),
            "actions": {"type": "object", "propertyNames": _CODE, "additionalProperties": _TEXT},
        }
    )


def _history() -> dict[str, Any]:
    return _object({"name": _TEXT, "runs": _list(_ref("run"))})


def _status() -> dict[str, Any]:
    sync = _object(
        {
            "name": _TEXT,
            "kind": {"enum": list(KINDS)},
            "enabled": {"type": "boolean"},
            "schedule": _nullable(_TEXT),
            "timezone": _nullable(_TEXT),
            "next": _nullable(_TIME),
            "in_sync": {"type": ["boolean", "null"]},
            "in_sync_since": _nullable(_TIME),
            "verified": _nullable(_TIME),
            "fresh_within": _nullable(_TEXT),
            "stale": {"type": "boolean"},
            "audit": _nullable(_audited()),
            "drill": _nullable(_of(Drill, succeeded={"type": "boolean"})),
            "paused": _nullable(_TIME),
            "lag": _ref("lag"),
            "known": _COUNT,
            "acknowledged": _COUNT,
            "current": _nullable(_ref("run")),
            "last": _nullable(_ref("run")),
        },
        # Only for a kind without runs:
        {
            "instances": _COUNT,
            "listed": _nullable(_TIME),
            "scrape_failed": _nullable(_TEXT),
            "scrape_reason": _nullable(_TEXT),
        },
    )
    return _object(
        {
            "engine": _TEXT,
            "console": _nullable(_TEXT),
            "syncs": _list(sync),
            "dead_letters": _object({step.value: _COUNT for step in Step}),
        },
        # For all syncs the first, for one sync the second:
        {
            "dead_letters_of_others": {"type": "object", "additionalProperties": _COUNT},
            "runs": _list(_ref("run")),
        },
    )


def _audited() -> dict[str, Any]:
    """Return the schema of what `status` tells of a sync's audits."""
    share = {"type": "number", "description": "Share of the target that audits have read within 31 days, from 0 to 1."}
    return _object(
        {
            "run": _nullable(_TEXT),
            "started": _nullable(_TIME),
            "equal": {"type": ["boolean", "null"]},
            "equal_at": _nullable(_TIME),
            "read": _nullable(share),
            "within": _nullable(_TEXT),
            "stale": {"type": "boolean"},
        }
    )


def _audit() -> dict[str, Any]:
    """Return the schema of an audit's report."""
    return _object(
        {
            "sync": _TEXT,
            "kind": {"enum": list(KINDS)},
            "endpoints": _TEXT,
            "equal": {"type": "boolean", "description": "True if the audit ended and source and target are equal."},
            "complete": {"type": "boolean", "description": "True if the audit ended and covered everything."},
            "run": _ref("run"),
            "items": _list(_of(Result, code=_nullable(_CODE))),
            "written_by": _TEXT,
        },
        {"written": _list(_TEXT), "repair": _nullable(_ref("run"))},
    )


def _run() -> dict[str, Any]:
    names = tuple(Run("", "", 0, Trigger.MANUAL, EVERYTHING, 0.0).as_dict())
    scope = _nullable(_list(_TEXT)) | {"description": "The groups that the run covers, null for everything."}
    return _of(
        Run,
        names,
        scope=scope,
        counts=_ref("counts"),
        waiting=_nullable(_ref("waiting")),
        over={"type": "boolean"},
        seconds=_nullable({"type": "number"}),
        lag=_ref("lag"),
        audit=_nullable(_of(Audit)),
    )


def _of(model: type, names: tuple[str, ...] = (), **given: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a dataclass: its fields, or those of the `names`, with the types in `given` for some."""
    hints = get_type_hints(model)
    properties = {
        name: given.get(name) or _schema_of(hints[name]) for name in names or [each.name for each in fields(model)]
    }
    return _object(properties | given)


def _schema_of(hint: Any) -> dict[str, Any]:
    found = TypeAdapter(hint).json_schema(mode="serialization")
    return {"enum": found["enum"]} if "enum" in found else found


def _object(properties: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties | (optional or {})}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _nullable(value: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [value, {"type": "null"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}
