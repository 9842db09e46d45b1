"""The advice of every code: it fits the kind that raises it, and the commands that have no engine."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from syncline.errors import CODES
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.backups.config import BackupsSync
from syncline.kinds.files.config import FilesSync
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.tokens.config import TokensSync

PACKAGE: Final = Path(__file__).parents[2] / "layers/syncline/syncline"
MODELS: Final[dict[str, Any]] = {
    "artifacts": ArtifactsSync,
    "backups": BackupsSync,
    "files": FilesSync,
    "images": ImagesSync,
    "tokens": TokensSync,
}
ENGINE_WORDS: Final = re.compile(
    r"syncline (retry|apply|status|run|up|cancel)|\bfunctions?\b|\bstack\b|dead.letter|correlation"
)


@cache
def keys(kind: str) -> frozenset[str]:
    """Return the names of all keys that syncs of a kind have."""
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            found.update(value.get("properties", {}))
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(MODELS[kind].model_json_schema())
    return frozenset(found)


@cache
def modules(kind: str) -> frozenset[Path]:
    """Return the modules that a kind consists of, with those that they import but for other kinds."""
    found: set[Path] = set()
    waiting = list((PACKAGE / "kinds" / kind).rglob("*.py"))
    rooms = (PACKAGE / "clients", PACKAGE / "kinds" / kind, *((PACKAGE / "web",) if kind == "tokens" else ()))
    first = frozenset(waiting)
    while waiting:
        path = waiting.pop()
        if path in found or not (
            path in first or path == PACKAGE / "secrets.py" or any(r in path.parents for r in rooms)
        ):
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("syncline."):
                base = PACKAGE.joinpath(*node.module.split(".")[1:])
                named = [base.with_suffix(".py"), *(base / f"{each.name}.py" for each in node.names)]
                waiting += [each for each in named if each.is_file()]
    return frozenset(found)


@cache
def raised(kind: str) -> frozenset[str]:
    """Return the codes that modules of a kind name, in a raise or in a table of codes."""
    nodes = (node for path in modules(kind) for node in ast.walk(ast.parse(path.read_text())))
    return frozenset(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)) & CODES.keys()


PAIRS: Final = [(code, kind) for kind in MODELS for code in sorted(raised(kind))]


def test_every_kind_can_fail_in_the_ways_of_its_systems() -> None:
    assert {"TARGET_FULL", "THROTTLED", "FORBIDDEN"} <= raised("images") & raised("artifacts") & raised("files")
    assert "OBJECT_ARCHIVED" in raised("files") & raised("backups")
    assert "OBJECT_ARCHIVED" not in raised("images")
    assert "FOREIGN_LAYERS_REFUSED" in raised("images")


@pytest.mark.parametrize(("code", "kind"), PAIRS)
def test_advice_names_only_keys_that_the_kind_has(code: str, kind: str) -> None:
    every = frozenset().union(*map(keys, MODELS))
    named = set(re.findall(r"`([a-z_.]+)[`:]", CODES[code].advice(kind)))
    parts = {part for name in named for part in name.split(".")}
    assert not (parts & every) - keys(kind)


@pytest.mark.parametrize("code", sorted(raised("artifacts")))
def test_advice_without_an_engine_names_none(code: str) -> None:
    assert not ENGINE_WORDS.search(CODES[code].advice("artifacts", engine=False))


ADVICE: Final = [
    ("FORBIDDEN", "images", "pull at the source, push at the target", ""),
    ("FORBIDDEN", "files", "`s3:GetObject`", "pull"),
    ("FORBIDDEN", "backups", "`s3:GetObject`", "pull"),
    ("FORBIDDEN", "artifacts", "GitHub", "Grant pull"),
    ("FORBIDDEN", "tokens", "`list`", "pull"),
    ("THROTTLED", "images", "`concurrency`", ""),
    ("THROTTLED", "artifacts", "Nothing", "concurrency"),
    ("THROTTLED", "files", "Nothing", "concurrency"),
    ("LISTING_INCOMPLETE", "images", "Quay", ""),
    ("LISTING_INCOMPLETE", "files", "log", "Quay"),
    ("FILE_DIFFERS", "files", "`overwrite: true`", ""),
    ("FILE_DIFFERS", "backups", "in the repository", "overwrite"),
    ("TARGET_CHANGED", "backups", "`--overwrite`", "overwrite: true"),
    ("OBJECT_ARCHIVED", "files", "restore-object", "Grant"),
    ("OBJECT_ARCHIVED", "backups", "restore-object", "Grant"),
    ("TARGET_FULL", "images", "Free space", "log"),
    ("SIZE_DIFFERS", "images", "fewer bytes", "digest"),
    ("FOREIGN_LAYERS_REFUSED", "images", "validation.manifests.urls.allow", ""),
    ("REDIRECTED", "images", "syncs.yaml", "Renew"),
]


@pytest.mark.parametrize(("code", "kind", "words", "others"), ADVICE)
def test_advice_helps(code: str, kind: str, words: str, others: str) -> None:
    advice = CODES[code].advice(kind)
    assert words in advice
    assert not others or others not in advice


def test_a_code_that_a_kind_has_advice_for_can_be_raised_by_it() -> None:
    assert not [(code.name, kind) for code in CODES.values() for kind in code.by_kind if code.name not in raised(kind)]
