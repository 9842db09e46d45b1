"""Extract the operations used here from GitHub's description. README.md explains the use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_ACTIONS: Final = "/repos/{owner}/{repo}/actions"
OPERATIONS: Final = (
    ("get", f"{_ACTIONS}/workflows/{{workflow_id}}/runs"),
    ("get", f"{_ACTIONS}/runs/{{run_id}}"),
    ("get", f"{_ACTIONS}/runs/{{run_id}}/artifacts"),
    ("get", f"{_ACTIONS}/runs/{{run_id}}/attempts/{{attempt_number}}/logs"),
    ("get", f"{_ACTIONS}/artifacts/{{artifact_id}}/{{archive_format}}"),
    ("get", "/repos/{owner}/{repo}/attestations/{subject_digest}"),
    ("get", "/repos/{owner}/{repo}/installation"),
    ("post", "/app/installations/{installation_id}/access_tokens"),
)
ERROR: Final = "#/components/schemas/basic-error"
"""Schema of every refusal, even if the operation does not name it."""

_PROSE: Final = ("description", "summary", "title", "example", "examples", "tags", "externalDocs")
"""Keys with text for people, which are left out. A property may have one of these names."""
_UNUSED: Final = (("schemas", "installation-token", "repositories"),)
"""Large properties that no client here reads."""


def cut(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the operations and everything that they refer to, without text for people."""
    for section, name, unused in _UNUSED:
        del whole["components"][section][name]["properties"][unused]
    paths: dict[str, Any] = {}
    for method, path in OPERATIONS:
        paths.setdefault(path, {})[method] = _without_prose(whole["paths"][path][method])
    parts: dict[str, dict[str, Any]] = {}
    wanted = [ERROR, *_references(paths)]
    while wanted:
        _, _, section, name = wanted.pop().split("/")
        if name not in parts.setdefault(section, {}):
            part = parts[section][name] = _without_prose(whole["components"][section][name])
            wanted += _references(part)
    return {"openapi": whole["openapi"], "paths": paths, "components": parts}


def _without_prose(value: Any, *, names: bool = False) -> Any:
    """Return ``value`` without text for people; with ``names``, its keys are the names of properties."""
    if isinstance(value, list):
        return [_without_prose(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {key: each for key, each in value.items() if names or (key not in _PROSE and not key.startswith("x-"))}
    return {key: _without_prose(each, names=key == "properties" and not names) for key, each in kept.items()}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _references(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref" and isinstance(each, str):
                yield each
            else:
                yield from _references(each)


if __name__ == "__main__":
    published = json.loads(Path(sys.argv[1]).read_text())
    (Path(__file__).parent / "github.json").write_text(json.dumps(cut(published), indent=1, sort_keys=True) + "\n")
