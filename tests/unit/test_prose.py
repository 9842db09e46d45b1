"""The wording of docstrings: a first line that is an imperative or names the thing, in the project's own vocabulary."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "layers/syncline/syncline"
OPENING: Final = re.compile(
    r"(what|whether|how|who|whose|whoever|where|which|why|when|as far as|that)\b", re.IGNORECASE
)
"""Openings of a riddle: the reader learns at the end of the sentence what it is about."""
WORDS: Final = re.compile(
    r"\b(looks?|looked|looking) (at|again|for by)|\bproo?ve[ds]?\b|\bproving\b|\bhearing\b|\btelling\b|\brooms?\b|\bcomes? to (its|an) end\b"
    r"|\bhas arrived\b|\bkept true\b|\bgiven up for good\b|\bat hand\b|\bby hand\b",
    re.IGNORECASE,
)
"""Words for which the vocabulary has another one: scan, verify, event, package, end, completed, in sync, manual."""


def _files() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "functions").rglob("*.py")])


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


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_say_what_a_thing_is(path: Path) -> None:
    wrong = [
        f"{path.name}:{line}: {text.strip().splitlines()[0]}" for line, text in _docstrings(path) if OPENING.match(text)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_use_the_vocabulary(path: Path) -> None:
    wrong = [f"{path.name}:{line}: {found[0]}" for line, text in _docstrings(path) for found in WORDS.finditer(text)]
    assert wrong == []
