"""The JSON Schema of ``syncs.yaml`` for editors, and its reference page, both written from the models.

``python -m syncline.config.schema FOLDER`` writes ``schema/syncs.schema.json`` and ``docs/reference/syncs.yaml.md`` below FOLDER.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from syncline.config.registry import BasicAuth, RegistryEndpoint, TokenAuth
from syncline.config.sync import Gathering, Model, Patterns, Removals, Sync, Webhook, model_of
from syncline.config.values import NAME_PATTERN
from syncline.kinds.table import KINDS

SCHEMA_FILE: Final = "schema/syncs.schema.json"
PAGE_FILE: Final = "docs/reference/syncs.yaml.md"


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the whole file."""
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
                "description": "What is kept true: each sync by its name.",
                "type": "object",
                "propertyNames": {"pattern": NAME_PATTERN},
                "additionalProperties": kinds[0] if len(kinds) == 1 else {"oneOf": kinds},
            }
        },
        "$defs": {name: _tidy(value) for name, value in sorted(definitions.items())},
    }


def _tidy(value: Any) -> Any:
    """Without pydantic's titles, which only repeat the keys."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _tidy(item) for key, item in value.items() if not (key == "title" and isinstance(item, str))}


_HEAD: Final = """\
# syncs.yaml

What Syncline keeps true. `syncline apply` reads the file, checks all of it, and changes nothing while anything in it is
wrong; each message names line, column and key, says what is wrong and what is allowed. This page is written from the
program by `python -m syncline.config.schema .`; so is the JSON Schema, which editors use with this first line:

```yaml
# yaml-language-server: $schema=schema/syncs.schema.json
```

Files to start from: [images-quay-to-dr.yaml](../../examples/images-quay-to-dr.yaml),
[images-explicit.yaml](../../examples/images-explicit.yaml),
[files-bucket-to-manager.yaml](../../examples/files-bucket-to-manager.yaml) and
[files-mirror.yaml](../../examples/files-mirror.yaml). A file has one key, `syncs`; below it stands each sync by its
name (1 to 63 of `a-z 0-9 -`, beginning with a letter or digit):

```yaml
syncs:
  prod-to-dr:
    kind: images
    schedule: rate(1 hour)
    source:
      registry: quay.prod.example:8443
      organizations: [payments, web]
      api: {kind: quay, token: secret:syncline/quay-prod#api}
      auth: {username: secret:syncline/quay-prod#username, password: secret:syncline/quay-prod#password}
    target:
      registry: quay.dr.example:8443
      auth: {username: secret:syncline/quay-dr#username, password: secret:syncline/quay-dr#password}
```

The file is UTF-8, at most 1 MiB. Anchors, aliases and `<<` merges work, so that two syncs can share a registry; tags
(`!!…`) do not. Words such as `yes` and `no` are text: truth is `true` or `false`.
"""

_TAIL: Final = """\
## References

A secret never stands in the file, only where it is. It is fetched when it is needed, kept for five minutes in memory,
and fetched again when a server refuses it.

| form | what it refers to |
|---|---|
| `secret:NAME#KEY` | the value of KEY in the secret NAME of Secrets Manager, which holds a JSON object |
| `secret:NAME` | the secret NAME of Secrets Manager, as it is |
| `ssm:/PATH` | the parameter of that name in Parameter Store, decrypted |
| `env:NAME` | the environment variable NAME of the functions |

Line ends at the end of a value are left out. On AWS the functions may read only secrets below the stack's
`SecretPrefix`.

## Patterns

A pattern matches the whole name, never a part of it.

| in a glob | matches |
|---|---|
| `*` | any characters but `/`, also none |
| `**` | any characters, `/` too |
| `**/` at the start or after a `/` | any number of leading path parts, also none: `**/app` matches `app` and `a/b/app` |
| `?` | one character but `/` |
| `[a-c0-9]`, `[!a-c]` | one character of the set, or not of it |

`re:` and a regular expression of Python is the other form: `re:v[0-9]+\\.[0-9]+`. So that no name can keep a pattern
busy for long, a pattern has at most 200 characters and twice `**`. A regular expression has no repetition or choice
inside a repetition (`(a+)+`, `(a|bc)*`) and does not refer back to its groups; and at most two of its repetitions and
choices may end in several places, as `.*` does before a `-` and `[^-]*` does not.

## Schedules

`rate(VALUE UNIT)` with a whole number and `minutes`, `hours` or `days`; the singular for 1: `rate(1 hour)`,
`rate(15 minutes)`. `cron(…)` has six fields with one space between:

| field | values | also |
|---|---|---|
| minutes | 0-59 | `, - * /` |
| hours | 0-23 | `, - * /` |
| day of month | 1-31 | `, - * / ? L`, `15W` (the weekday nearest the 15th) |
| month | 1-12 or JAN-DEC | `, - * /` |
| day of week | 1-7 or SUN-SAT | `, - * ? L`, `6L` (the last Friday), `2#1` (the first Monday) |
| year | 1970-2199 | `, - * /` |

One of day of month and day of week is `?`, the other is not: `cron(0 3 * * ? *)` is every day at three,
`cron(30 22 ? * MON-FRI *)` on weekdays at half past ten in the evening, in the sync's `timezone`.

"""

_SHARED: Final[tuple[tuple[str, type[Model], str], ...]] = (
    ("Parts of every kind: `webhook`", Webhook, ""),
    ("Parts of several kinds: names by pattern", Patterns, ""),
    ("Parts of several kinds: a registry", RegistryEndpoint, ""),
    (
        "`auth` with a user name",
        BasicAuth,
        "Besides these two forms `auth` can be the word `docker-config` or `anonymous`.",
    ),
    ("`auth` with a token", TokenAuth, ""),
    ("Parts of several kinds: `removals`", Removals, ""),
    ("Parts of several kinds: `events`", Gathering, ""),
)


def page() -> str:
    """The reference page: every key of every model, each where it is declared."""
    parts = [_HEAD, _section("What every sync has", Sync, "")]
    for kind in KINDS:
        module = import_module(f"syncline.kinds.{kind}.config")
        parts += [_section(*part) for part in module.PAGE]
        parts.append(f"### What is checked beyond single keys\n\n{module.CHECKS}")
        parts += [module.NOTES] if hasattr(module, "NOTES") else []
    return "\n".join([*parts, *(_section(*part) for part in _SHARED), _TAIL])


def _section(title: str, model: type[Model], note: str) -> str:
    lines = [f"## {title}", "", _one_line(model.__doc__ or ""), *([note] if note else []), ""]
    lines += ["| key | what it says | when absent | example |", "|---|---|---|---|", *_rows(model)]
    return "\n".join([*lines, ""])


def _rows(model: type[Model]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        # `kind` is told by each kind in its own words.
        if name == "name" or name not in model.__annotations__ or (name == "kind" and model is Sync):
            continue
        absent = "an error" if info.is_required() else _default(info.get_default())
        example = f"`{_plain(info.examples[0])}`" if info.examples else ""
        yield f"| `{name}` | {_one_line(info.description or '')} | {absent} | {example} |"


def _default(value: Any) -> str:
    if value is None or value == () or isinstance(value, Model):
        return "none"
    return f"`{_plain(value)}`" if value != "" else "none"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> None:
    """Write both files below the folder given."""
    root = Path(arguments[0])
    for name, text in ((SCHEMA_FILE, json.dumps(schema(), indent=2) + "\n"), (PAGE_FILE, page())):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
