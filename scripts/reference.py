"""The generated parts of the reference: the schema of ``syncs.yaml``, the tables of its page, errors, the output's schemas, and the probe's API.

``python -m scripts.reference`` writes them. The page of ``syncs.yaml`` is edited manually, except for its tables of keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from scripts.openapi import document
from scripts.output_schemas import schemas
from syncline.config.model import Model
from syncline.config.sync import Gathering, Sync, model_of
from syncline.config.values import NAME_PATTERN
from syncline.errors import CODES, Code
from syncline.kinds.table import KINDS

ROOT: Final = Path(__file__).parents[1]
SCHEMA_FILE: Final = "schema/syncs.schema.json"
PAGE_FILE: Final = "docs/reference/syncs.yaml.md"
OPENAPI_FILE: Final = "layers/syncline/syncline/web/static/openapi.json"
_TABLE: Final = re.compile(
    r"^(?P<comment><!-- keys of (?P<module>[\w.]+)\.(?P<model>\w+) -->)\n(?:\|.*\n)*", re.MULTILINE
)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the file."""
    definitions: dict[str, Any] = {}
    for model in map(model_of, KINDS):
        own = model.model_json_schema()
        definitions |= own.pop("$defs", {})
        own["properties"].pop("name")
        own["required"].remove("name")
        definitions[model.__name__] = own
    kinds = [{"$ref": f"#/$defs/{kind.model}"} for kind in KINDS.values()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Syncline's syncs.yaml",
        "type": "object",
        "additionalProperties": False,
        "required": ["syncs"],
        "properties": {
            "syncs": {
                "description": "The syncs by name.",
                "type": "object",
                "propertyNames": {"pattern": NAME_PATTERN},
                "additionalProperties": {"oneOf": kinds},
            },
            "notify": {
                "description": "The notifications of all syncs with runs that have no `notify` of their own.",
                "$ref": "#/$defs/Notify",
            },
        },
        "$defs": {name: _tidy(value) for name, value in sorted(definitions.items())},
    }


def _tidy(value: Any) -> Any:
    """Return a schema without pydantic's titles, which only repeat the keys."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _tidy(item) for key, item in value.items() if not (key == "title" and isinstance(item, str))}


def page(text: str) -> str:
    """Return the text of the page with the present tables: one below each comment that names a model."""
    return _TABLE.sub(lambda found: "".join(f"{line}\n" for line in _table(found)), text)


def _table(found: re.Match[str]) -> Iterator[str]:
    model = getattr(import_module(found["module"]), found["model"])
    yield found["comment"]
    yield "| Key | Description | Default | Example |"
    yield "|---|---|---|---|"
    yield from _rows(model)


def _rows(model: type[Model]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        # A sync's name is the key above it, and the section of each kind describes `kind`.
        if name not in model.__annotations__ or (model is Sync and name in {"name", "kind"}):
            continue
        value = None if info.default_factory else info.get_default()
        default = "required" if info.is_required() else "by kind" if model is Gathering else _default(value)
        example = f"`{_plain(info.examples[0])}`" if info.examples else ""
        yield f"| `{info.alias or name}` | {_one_line(info.description or '')} | {default} | {example} |"


def _default(value: Any) -> str:
    if isinstance(value, Model):
        plain = ((name, each) for name, each in value if isinstance(each, str | int | float) and each != "")
        value = ", ".join(f"{name}: {_plain(each)}" for name, each in plain)
    return "none" if value in (None, (), "") else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def errors_page() -> str:
    """Return the page of errors: the table of codes."""
    lines = [
        "# Errors by code",
        "",
        "Each failure in a report, a log line or a message of the command carries one of these codes.",
        "*Retried* means that Syncline itself tries again, with growing pauses, before it gives the item up.",
        "",
        "| code | meaning | retried | action |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{c.name}` | {c.meaning} | {'yes' if c.retried else 'no'} | {_actions(c)} |" for c in CODES.values()]
    return "\n".join(lines) + "\n"


def _actions(code: Code) -> str:
    own = [f"*{kind}*: {action}" for kind, action in sorted(code.by_kind.items())]
    return "<br>".join([code.action, *own])


def files() -> dict[str, str]:
    """Return the text of each generated file by its path in the repository."""
    return {
        SCHEMA_FILE: json.dumps(schema(), indent=2) + "\n",
        PAGE_FILE: page((ROOT / PAGE_FILE).read_text(encoding="utf-8")),
        "docs/reference/errors.md": errors_page(),
        **{name: json.dumps(value, indent=2) + "\n" for name, value in schemas().items()},
        OPENAPI_FILE: json.dumps(document(), indent=2) + "\n",
    }


if __name__ == "__main__":
    for name, text in files().items():
        (ROOT / name).write_text(text, encoding="utf-8")
