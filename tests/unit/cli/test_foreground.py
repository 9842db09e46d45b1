"""The engine in the foreground, without an engine; `tests/integration/test_foreground.py` has one."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from syncline.cli import foreground, local_engine
from syncline.errors import SynclineError


def test_a_second_command_in_the_foreground_is_refused(tmp_path: Path) -> None:
    """It would stop the engine of the first, whose service would then end without an error and stay down."""
    home, started = tmp_path / "home", list[str]()
    home.mkdir()
    with (home / "foreground.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SynclineError, match="another `syncline up --foreground`"):
            foreground.run(home, lambda: started.append("engine"), say=lambda _: None)
    assert not started


def test_an_engine_whose_process_id_is_half_written_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])  # as the engine does, it waits
    (tmp_path / "pid").touch()  # opened, not written
    monkeypatch.setattr(local_engine, "_is_running", lambda _: process.poll() is None)
    monkeypatch.setattr(
        "syncline.cli.local_engine.time.sleep", lambda _: (tmp_path / "pid").write_text(str(process.pid))
    )
    local_engine._stop(tmp_path, lambda _: None)
    assert process.wait(30) == -signal.SIGTERM
