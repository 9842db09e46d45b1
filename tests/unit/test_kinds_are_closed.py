"""No module outside ``kinds/`` names a kind: other modules use the descriptions in ``kinds/table.py``."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from syncline.config.sync import model_of
from syncline.kinds.table import KINDS, KindInfo, kind_info

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "layers/syncline/syncline"
EXCEPTIONS: Final = {
    "errors.py": "the advice of all kinds stands beside the code, in the one table of errors",
    "clients/github/client.py": "`artifacts` is a key of GitHub's API",
    "cli/engine_state.py": "`backups` are those of a table of DynamoDB",
    "web/contract.py": "the probe is the web side of tokens",
    "web/probe.py": "the probe is the web side of tokens",
    "web/server.py": "the probe is the web side of tokens",
    "functions/canary/app.py": "a function of tokens",
    "functions/probe/app.py": "a function of tokens",
    "functions/scrape/app.py": "a function of tokens",
}
"""Files that may name a kind, with the reason."""
_ANY: Final = "|".join(KINDS)
MENTION: Final = re.compile(
    rf"(?:{_ANY})|.*(?:\b(?:syncs?|kinds?|commands?) (?:of|for|about) (?:{_ANY})\b|`(?:{_ANY})`|\bkinds\.(?:{_ANY})\b).*",
    re.DOTALL,
)
"""A string that is the name of a kind, or a message about a kind."""


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT))


def _outside() -> list[Path]:
    found = [*PACKAGE.rglob("*.py"), *(ROOT / "functions").rglob("*.py")]
    return sorted(path for path in found if not _name(path).startswith("kinds/"))


def _mentions(path: Path) -> Iterator[str]:
    """Yield imports from a kind in a file, and strings that name a kind. Docstrings are exempt."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (
                each
                for each in (f"{node.module}.{alias.name}" for alias in node.names)
                if re.match(rf"syncline\.kinds\.(?:{_ANY})\b", each)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from [node.value] if MENTION.fullmatch(node.value) else []


@pytest.mark.parametrize("path", _outside(), ids=_name)
def test_modules_outside_kinds_name_no_kind(path: Path) -> None:
    if _name(path) not in EXCEPTIONS:
        assert list(_mentions(path)) == []


def test_every_exception_is_needed() -> None:
    by_name = {_name(path): path for path in _outside()}
    assert [name for name in EXCEPTIONS if not list(_mentions(by_name[name]))] == []


def test_each_kind_has_a_package_and_a_description() -> None:
    packages = {path.name for path in (PACKAGE / "kinds").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert packages == set(KINDS)


@pytest.mark.parametrize("info", KINDS.values(), ids=KINDS)
def test_a_description_agrees_with_the_package(info: KindInfo) -> None:
    folder = PACKAGE / "kinds" / info.name
    model = model_of(info.name)
    assert model.__name__ == info.model
    for key in (*info.source, *info.target):
        side, _, _ = key.partition(".")
        assert side in model.model_fields
    assert (folder / "cli/main.py").exists() is bool(info.commands)
    assert (folder / "wiring_console.py").exists() is info.has_metrics
    events = folder / "events.py"
    assert (events.exists() and "def sources_in(" in events.read_text()) is info.has_events
    assert ("class Builder" in (folder / "wiring.py").read_text()) is info.has_runs


def test_an_unknown_kind_has_a_default_description() -> None:
    assert kind_info("letters").name == "letters"
    assert kind_info("letters").has_runs


def test_help_and_commands_for_all_kinds_import_only_declarations_of_kinds() -> None:
    code = "import contextlib, sys\nfrom syncline.cli.main import app\n"
    code += "with contextlib.suppress(SystemExit): app(sys.argv[1:])\n"
    code += "print(*(name for name in sys.modules if name.startswith('syncline.kinds.')))"

    def imported(*words: str) -> set[str]:
        environ = {"PYTHONPATH": str(PACKAGE.parent)}
        done = subprocess.run([sys.executable, "-c", code, *words], env=environ, capture_output=True, check=True)
        names = set(done.stdout.decode().splitlines()[-1].split())
        return {name for name in names if not re.fullmatch(rf"syncline\.kinds\.(?:{_ANY})(?:\.cli)?", name)}

    declared = {f"syncline.kinds.{kind.name}.cli.main" for kind in KINDS.values() if kind.commands}
    assert imported("--help") == {"syncline.kinds.table", *declared}
    assert imported("status", "--help") == {"syncline.kinds.table"}
    assert imported("restore", "--help") == {"syncline.kinds.table", "syncline.kinds.backups.cli.main"}
