"""The tutorial for contributors: its files are written, its commands succeed, and its sync works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/tutorials/a-sixth-kind.md"
PACKAGE: Final = "layers/syncline/syncline/kinds/folders/"
TEST: Final = "tests/integration/test_chain_folders.py"
SYNCS: Final = "syncs.yaml"
REFERENCE: Final = ("docs/reference/syncs.yaml.md", "schema/syncs.schema.json")
COPIED: Final = (
    "docs/reference",
    "functions",
    "layers",
    "schema",
    "scripts",
    "tests",
    "pyproject.toml",
    "template.yaml",
)
LEFT: Final = shutil.ignore_patterns("__pycache__", "corpus", "records", "stories")
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED: Final = re.compile(r"(?:#|---) (\S+)\n")
RUNS: Final = """
import sys
from pathlib import Path
from syncline.cli.summary import ending_line, item_row
from syncline.run_text import with_display_groups
from syncline.config.file import read_syncs
from syncline.kinds.table import kind_info
from tests.rig.chain import Chain

(sync,) = read_syncs(Path(sys.argv[1])).syncs.values()
chain = Chain(sync.name, {})
chain.apply(sync.model_dump(mode="json"))
for _ in range(2):
    run = chain.run()
    for result in with_display_groups(kind_info(sync.kind), chain.results(run).values()):
        print(*(getattr(cell, "text", cell) for cell in item_row(result)))
    print(ending_line(run)[0].rpartition(", in ")[0])
"""


class Tree:
    """A copy of the product in a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, root / name, ignore=LEFT)
            else:
                shutil.copy2(ROOT / name, root / name)
        if (ROOT / ".mypy_cache").is_dir():  # saves half a minute
            shutil.copytree(ROOT / ".mypy_cache", root / ".mypy_cache")
        self._before = self._files()

    def _files(self) -> dict[str, bytes]:
        found = (path for path in self.root.rglob("*") if path.is_file())
        names = {path: str(path.relative_to(self.root)) for path in found}
        return {
            name: path.read_bytes()
            for path, name in names.items()
            if not re.search(r"__pycache__|_cache/|\.hypothesis/", name)
        }

    def touched(self) -> set[str]:
        """Return the names of the files that were written or changed."""
        now = self._files()
        return {name for name in now | self._before if now.get(name) != self._before.get(name)}

    def write(self, language: str, text: str) -> None:
        """Write the file of a block, or apply its diff."""
        named = NAMED.match(text)
        assert named is not None, f"the name of the file is missing in the block:\n{text}"
        path, text = self.root / named[1], text[named.end() :]
        if language == "diff":
            old, new = (
                "".join(line[1:] for line in text.splitlines(keepends=True) if line[0] in s) for s in (" -", " +")
            )
            assert path.read_text().count(old) == 1, f"{named[1]} must contain exactly once:\n{old}"
            path.write_text(path.read_text().replace(old, new))
        else:
            assert not path.exists(), f"{named[1]} is written twice"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run(self, program: str, *arguments: str) -> str:
        """Run a module or a program of the environment in the tree, and return its output."""
        environ = {
            name: value for name, value in os.environ.items() if name.startswith("AWS_") or name in ("HOME", "TMPDIR")
        }
        environ |= {"PYTHONPATH": "layers/syncline:.", "PATH": os.defpath}
        words = [sys.executable, *(() if program == "python" else ("-m", program)), *arguments]
        done = subprocess.run(
            words, cwd=self.root, env=environ, capture_output=True, text=True, check=False, timeout=250
        )
        assert done.returncode == 0, f"{program} {shlex.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout


def _blocks(*, console: bool) -> list[tuple[str, str]]:
    found = [(match[1], match[2]) for match in BLOCK.finditer(PAGE.read_text())]
    return [(language, text) for language, text in found if (language == "console") is console]


def _commands() -> list[tuple[str, list[str]]]:
    """Return the commands of the page, each with lines of its output."""
    parts = [part.splitlines() for _, text in _blocks(console=True) for part in text.split("$ ")[1:]]
    return [(command, expected) for command, *expected in parts]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Return a tree with all files of the page, before its commands."""
    made = Tree(tmp_path_factory.mktemp("tree"))
    for language, text in _blocks(console=False):
        made.write(language, text)
    yield made
    shutil.rmtree(made.root)


def test_at_most_three_files_outside_the_kind_are_touched(tree: Tree) -> None:
    outside = {name for name in tree.touched() if not name.startswith(PACKAGE)} - {SYNCS, *REFERENCE}
    assert outside == {"layers/syncline/syncline/kinds/table.py", "template.yaml", TEST}


@pytest.mark.parametrize(("command", "expected"), _commands(), ids=[command for command, _ in _commands()])
def test_a_command_of_the_page_succeeds(tree: Tree, command: str, expected: list[str]) -> None:
    output = tree.run(*shlex.split(command))
    assert [line for line in expected if line not in output] == [], output


def test_the_first_file_is_moved_and_then_equal(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases/first.txt").write_text("hello\n")
    syncs = tree.root / SYNCS
    syncs.write_text(syncs.read_text().replace("/srv/", f"{tmp_path}/"))
    output = tree.run("python", "-c", RUNS, SYNCS).splitlines()
    shown = [line for line in output if not line.startswith("{")]  # these lines are the log of the functions
    assert len(shown) == 3
    assert "\n".join(shown) in PAGE.read_text()
    assert (tmp_path / "mirror/first.txt").read_text() == "hello\n"
