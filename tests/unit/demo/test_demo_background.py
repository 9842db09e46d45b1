from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import background

SERVE = "import pathlib, signal; pathlib.Path('{folder}/up').touch(); signal.pause()"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "server"
    yield path
    if path.exists():
        background.stop(path)


def start(folder: Path, program: str = SERVE) -> None:
    command = [sys.executable, "-c", program.format(folder=folder)]
    background.start(folder, command, dict(os.environ), (folder / "up").exists)


def test_a_program_runs_in_its_own_session_until_it_is_stopped(folder: Path) -> None:
    start(folder)
    pid = background.running(folder)
    assert pid is not None
    assert os.getsid(pid) == pid
    assert background.stop(folder)
    assert background.running(folder) is None
    assert not background.stop(folder)


def test_an_ended_program_is_not_running(folder: Path) -> None:
    start(folder)
    pid = background.running(folder)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert background.running(folder) is None


def test_another_process_with_the_same_id_does_not_count_as_running(folder: Path) -> None:
    start(folder)
    stored = (folder / "pid").read_text()
    pid, started = stored.split()
    (folder / "pid").write_text(f"{pid} {int(started) - 1}\n")
    assert background.running(folder) is None
    (folder / "pid").write_text(stored)


@pytest.mark.parametrize("text", ["", "\n", "4194305 1\n", "17\n"])
def test_an_invalid_pid_file_means_not_running(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "pid").write_text(text)
    assert background.running(folder) is None
    assert not background.stop(folder)


def test_a_failed_start_is_reported_with_the_log(folder: Path) -> None:
    with pytest.raises(RuntimeError, match=r"server did not start; .*/log ends with: no port") as raised:
        start(folder, "raise SystemExit('no port')")
    assert str(folder / "log") in str(raised.value)
    assert background.running(folder) is None


def test_a_program_that_ignores_sigterm_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "STOP_LIMIT", 0.1)
    start(folder, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVE + "; signal.pause()")
    assert background.stop(folder)
    assert background.running(folder) is None
