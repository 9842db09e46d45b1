"""Tests of the rotation of the engine's log."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from syncline.cli import engine_log
from syncline.cli.engine_log import open_files, rotate

PROCESS = """
import os, sys
from pathlib import Path
import engine_log
home = Path(sys.argv[1])
for number in range(30):
    print("stdout", number, flush=True)
    os.write(2, b"stderr %d\\n" % number)
    assert engine_log.rotate(home, most=10, redirect=True)
print("the end", flush=True)
"""


def test_a_small_log_is_kept(tmp_path: Path) -> None:
    assert not rotate(tmp_path)
    (tmp_path / "engine.log").write_text("small")
    assert not rotate(tmp_path, most=6)
    assert [each.name for each in tmp_path.iterdir()] == ["engine.log"]


def test_a_process_continues_in_the_new_file_and_old_files_are_removed(tmp_path: Path) -> None:
    with (tmp_path / "engine.log").open("a") as output:
        subprocess.run(
            [sys.executable, "-c", PROCESS, str(tmp_path)],
            cwd=Path(engine_log.__file__).parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=60,
        )
    assert (tmp_path / "engine.log").read_text() == "the end\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "engine.log",
        *(f"engine.log.{n}" for n in range(1, 10)),
    ]
    for number in range(1, 10):
        text = (tmp_path / f"engine.log.{number}").read_text()
        assert text == f"stdout {30 - number}\nstderr {30 - number}\n"


def test_files_are_opened_oldest_first(tmp_path: Path) -> None:
    for text in ("one", "two", "three"):
        (tmp_path / "engine.log").write_text(text)
        assert rotate(tmp_path, most=1)
    with ExitStack() as stack:
        assert [file.read() for file in open_files(tmp_path, stack)] == ["one", "two", "three", ""]


def test_a_rotation_that_was_interrupted_is_completed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "engine.log").write_text("before")
    (tmp_path / "engine.log.new").write_text("already redirected\n")
    assert rotate(tmp_path, most=1)
    assert (tmp_path / "engine.log").read_text() == "already redirected\n"
    assert (tmp_path / "engine.log.1").read_text() == "before"
