from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import background

SERVE = "import pathlib, signal; pathlib.Path('{place}/up').touch(); signal.pause()"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "server"
    yield folder
    if folder.exists():
        background.stop(folder)


def start(place: Path, program: str = SERVE) -> None:
    command = [sys.executable, "-c", program.format(place=place)]
    background.start(place, command, dict(os.environ), (place / "up").exists)


def test_it_runs_in_a_session_of_its_own_until_it_is_stopped(place: Path) -> None:
    start(place)
    pid = background.running(place)
    assert pid is not None
    assert os.getsid(pid) == pid
    assert background.stop(place)
    assert background.running(place) is None
    assert not background.stop(place)


def test_what_ended_by_itself_does_not_run(place: Path) -> None:
    start(place)
    pid = background.running(place)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert background.running(place) is None


def test_another_process_with_the_id_is_not_taken_for_it(place: Path) -> None:
    start(place)
    remembered = (place / "pid").read_text()
    pid, started = remembered.split()
    (place / "pid").write_text(f"{pid} {int(started) - 1}\n")
    assert background.running(place) is None
    (place / "pid").write_text(remembered)


@pytest.mark.parametrize("text", ["", "\n", "4194305 1\n", "17\n"])
def test_nothing_runs_where_nothing_sensible_is_remembered(place: Path, text: str) -> None:
    place.mkdir()
    (place / "pid").write_text(text)
    assert background.running(place) is None
    assert not background.stop(place)


def test_one_that_does_not_start_says_why(place: Path) -> None:
    with pytest.raises(RuntimeError, match=r"server did not start; .*/log ends with: no port") as raised:
        start(place, "raise SystemExit('no port')")
    assert str(place / "log") in str(raised.value)
    assert background.running(place) is None


def test_one_that_does_not_end_is_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "STOP_LIMIT", 0.1)
    start(place, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVE + "; signal.pause()")
    assert background.stop(place)
    assert background.running(place) is None
