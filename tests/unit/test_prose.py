"""The wording of docstrings: the first line is an imperative or names the thing, in the vocabulary of the project."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CHECKED: Final = (
    "bench/**/*.py",
    "demo/**/*.py",
    "functions/**/*.py",
    "layers/syncline/syncline/**/*.py",
    "scripts/**/*",
    "tests/fuzz/**/*.py",
    "tests/mutation/**/*.py",
    "tests/rig/**/*.py",
    "tests/standins/*.py",
    "tests/unit/*.py",
    "tests/unit/bench/**/*.py",
    "tests/unit/clients/**/*.py",
    "tests/unit/config/**/*.py",
    "tests/unit/demo/**/*.py",
    "tests/unit/kinds/artifacts/**/*.py",
    "tests/unit/kinds/backups/**/*.py",
    "tests/unit/kinds/files/**/*.py",
    "tests/unit/store/**/*.py",
    "tests/unit/web/**/*.py",
    "tests/unit/wiring/**/*.py",
)
"""Files that are checked. Extend the list when another folder is clean."""
OPENING: Final = re.compile(
    r"(what|whether|how|who|whose|whoever|where|which|why|when|as far as|that)\b", re.IGNORECASE
)
"""First words that hide the subject until the end of the sentence."""
WORDS: Final = re.compile(
    r"\b(looks?|looked|looking) (at|again|for by)|\bproo?ve[ds]?\b|\bproving\b|\bhearing\b|\btelling\b|\brooms?\b|\bcomes? to (its|an) end\b"
    r"|\bhas arrived\b|\bkept true\b|\bgiven up for good\b|\bat hand\b|\bby hand\b",
    re.IGNORECASE,
)
"""Words for which the vocabulary has another one: scan, verify, event, package, end, completed, in sync, manual."""


def _files() -> list[Path]:
    found = {path for pattern in CHECKED for path in ROOT.glob(pattern)}
    return sorted(path for path in found if path.suffix == ".py" or _is_script(path))


def _is_script(path: Path) -> bool:
    """Return True for a Python program without the suffix ``.py``."""
    return path.is_file() and not path.suffix and path.read_bytes().startswith(b"#!/usr/bin/env python3")


def _docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a module, of its classes and functions, and of its constants, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        for field in ("body", "orelse"):
            for each in getattr(node, field, []) if isinstance(getattr(node, field, None), list) else []:
                if (
                    isinstance(each, ast.Expr)
                    and isinstance(each.value, ast.Constant)
                    and isinstance(each.value.value, str)
                ):
                    yield each.lineno, each.value.value


def test_every_pattern_has_files() -> None:
    assert [pattern for pattern in CHECKED if not any(ROOT.glob(pattern))] == []


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_the_subject(path: Path) -> None:
    wrong = [
        f"{path.name}:{line}: {text.strip().splitlines()[0]}" for line, text in _docstrings(path) if OPENING.match(text)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_use_the_vocabulary(path: Path) -> None:
    wrong = [f"{path.name}:{line}: {found[0]}" for line, text in _docstrings(path) for found in WORDS.finditer(text)]
    assert wrong == []
