"""The table of codes: a type with its names, and advice that fits kinds and commands."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from syncline.errors import _ROWS, CODES, CodeName, SynclineError, stored_code
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.backups.config import BackupsSync
from syncline.kinds.files.config import FilesSync
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.tokens.config import TokensSync

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "layers/syncline/syncline"
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


MISSPELT: Final = """
from typing import Final
from syncline.errors import CodeName, SynclineError
from syncline.model import Result

CONSTANT: Final[frozenset[CodeName]] = frozenset({"NOT_FUOND"})

def compare(error: SynclineError, result: Result) -> bool:
    return (
        error.code.name == "NOT_FUOND"
        or result.code == "NOT_FUOND"
        or error.is_any("FORBIDDEN", "NOT_FUOND")
    )

def fail() -> None:
    raise SynclineError("NOT_FUOND", "no")
"""


def test_the_type_has_the_names_of_the_table() -> None:
    assert [row.name for row in _ROWS] == list(get_args(CodeName))


def test_mypy_finds_a_misspelt_code(tmp_path: Path) -> None:
    snippet = tmp_path / "misspelt.py"
    snippet.write_text(MISSPELT)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(snippet)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    wrong = {number for number, line in enumerate(MISSPELT.splitlines(), 1) if "NOT_FUOND" in line}
    assert {int(line.split(":")[1]) for line in found.stdout.splitlines()} == wrong, found.stdout + found.stderr


def test_a_code_of_another_version_has_advice() -> None:
    error = SynclineError(stored_code("OF_LATER"), "no")
    assert (str(error), error.retried) == ("OF_LATER: no", False)
    assert "version" in error.code.advice()


def unchecked_comparisons(path: Path) -> Iterator[str]:
    """Yield the comparisons of codes that mypy does not check: those with ``in`` and an untyped container."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            left, right = ast.unparse(node.left), node.comparators[0]
            if isinstance(right, ast.Name) and right.id.isupper():
                wrong = re.search(r"\.code(\.name)?$", left) and right.id not in typed_constants()
            else:  # codes of AWS and S3 are strings too, so only our own literals count
                wrong = any(isinstance(each, ast.Constant) and each.value in CODES for each in ast.walk(right))
            if wrong:
                yield f"{path.name}:{node.lineno}: {ast.unparse(node)}"


@cache
def typed_constants() -> frozenset[str]:
    found = (
        re.findall(r"^(\w+): Final\[.*\bCodeName\b", path.read_text(), re.MULTILINE) for path in PACKAGE.rglob("*.py")
    )
    return frozenset(name for names in found for name in names)


def test_mypy_checks_every_comparison_of_a_code() -> None:
    assert [each for path in PACKAGE.rglob("*.py") for each in unchecked_comparisons(path)] == []


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
    """Return the modules of a kind and those that they import, without the modules of other kinds."""
    found: set[Path] = set()
    waiting = list((PACKAGE / "kinds" / kind).rglob("*.py"))
    packages = (PACKAGE / "clients", PACKAGE / "kinds" / kind, *((PACKAGE / "web",) if kind == "tokens" else ()))
    first = frozenset(waiting)
    while waiting:
        path = waiting.pop()
        if path in found or not (
            path in first or path == PACKAGE / "secrets.py" or any(package in path.parents for package in packages)
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
    """Return the codes that occur in the modules of a kind, in a raise or in a table of codes."""
    nodes = (node for path in modules(kind) for node in ast.walk(ast.parse(path.read_text())))
    return frozenset(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)) & CODES.keys()


PAIRS: Final = [(code, kind) for kind in MODELS for code in sorted(raised(kind))]


def test_every_kind_raises_the_codes_of_its_systems() -> None:
    assert {"TARGET_FULL", "THROTTLED", "FORBIDDEN"} <= raised("images") & raised("artifacts") & raised("files")
    assert "OBJECT_ARCHIVED" in raised("files") & raised("backups")
    assert "OBJECT_ARCHIVED" not in raised("images")
    assert "FOREIGN_LAYERS_REFUSED" in raised("images")


@pytest.mark.parametrize(("code", "kind"), PAIRS)
def test_advice_names_only_keys_that_the_kind_has(code: CodeName, kind: str) -> None:
    every = frozenset().union(*map(keys, MODELS))
    named = set(re.findall(r"`([a-z_.]+)[`:]", CODES[code].advice(kind)))
    parts = {part for name in named for part in name.split(".")}
    assert not (parts & every) - keys(kind)


@pytest.mark.parametrize("code", sorted(raised("artifacts")))
def test_advice_without_an_engine_does_not_mention_it(code: CodeName) -> None:
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


@pytest.mark.parametrize(("code", "kind", "present", "absent"), ADVICE)
def test_advice_fits_the_kind(code: CodeName, kind: str, present: str, absent: str) -> None:
    advice = CODES[code].advice(kind)
    assert present in advice
    assert not absent or absent not in advice


def test_a_kind_has_advice_only_for_codes_that_it_raises() -> None:
    assert not [(code.name, kind) for code in CODES.values() for kind in code.by_kind if code.name not in raised(kind)]
