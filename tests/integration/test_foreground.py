"""`syncline up --foreground`, with the real engine: what systemd and Docker start, watch and stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from syncline.cli import local_engine
from tests.standins.programs import needs

TOP: Final = Path(__file__).parents[2]
COMMAND: Final = [sys.executable, "-m", "syncline.cli.main"]
SECONDS: Final = 120


class Service:
    """The command in the foreground, with a socket where it reports its state, as systemd starts it."""

    def __init__(self, home: Path, folder: Path) -> None:
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.settimeout(SECONDS)
        address = folder / "notify"
        address.unlink(missing_ok=True)
        self._channel.bind(str(address))
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--foreground", "--home", str(home)],
                cwd=TOP,
                env=environment(NOTIFY_SOCKET=str(address)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def state(self) -> str:
        """Wait for the next state that the command reports, and return it."""
        return self._channel.recv(100).decode()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    @property
    def output(self) -> str:
        return self._output.read_text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop()
        self._channel.close()


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SYNCLINE_", "AWS_"))}
    return kept | {"PYTHONPATH": str(TOP / "layers" / "syncline")} | more


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the home of a deployed engine that is stopped."""
    needs("make")
    folder = tmp_path_factory.mktemp("foreground") / "home"
    local_engine.up(folder, TOP, port=0, say=print)
    local_engine.down(folder)
    yield folder
    local_engine.down(folder)


@contextmanager
def service(home: Path, folder: Path) -> Iterator[Service]:
    running = Service(home, folder)
    try:
        yield running
    finally:
        running.close()


def pid_of(home: Path) -> int:
    return int((home / "pid").read_text())


def test_it_is_ready_when_the_engine_answers_and_stops_it_cleanly_at_sigterm(home: Path, tmp_path: Path) -> None:
    with service(home, tmp_path) as running:
        assert running.state() == "READY=1", running.output
        engine = local_engine.describe(home)
        assert engine is not None
        assert f"the engine is up at {engine.endpoint}" in running.output
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid_of(home)}/environ").read_bytes()
        assert running.stop() == 0
        assert running.state() == "STOPPING=1"
    assert local_engine.describe(home) is None
    assert not (home / "unsaved").exists()
    lines = running.output.splitlines()
    assert lines[-1] == "the engine is down; its state is kept"
    log = (home / "engine.log").read_text().splitlines()
    copied = [line for line in lines if line in log]
    assert copied
    assert log[-len(copied) :] == copied


def test_it_fails_when_the_engine_is_killed_and_resumes_at_the_next_start(home: Path, tmp_path: Path) -> None:
    with service(home, tmp_path) as running:
        assert running.state() == "READY=1", running.output
        os.kill(pid_of(home), signal.SIGKILL)
        assert running.process.wait(SECONDS) == 2
        assert "error ENGINE_FAILED: the engine was killed" in running.output
    with service(home, tmp_path) as again:
        assert again.state() == "READY=1", again.output
        assert again.output.startswith("the engine was killed; resuming from its last save")


def test_it_ends_with_code_0_after_down(home: Path, tmp_path: Path) -> None:
    with service(home, tmp_path) as running:
        assert running.state() == "READY=1", running.output
        down = [*COMMAND, "down", "--home", str(home)]
        subprocess.run(down, cwd=TOP, env=environment(), check=True, capture_output=True, timeout=SECONDS)
        assert running.process.wait(SECONDS) == 0


def test_a_restart_by_another_command_does_not_end_it(home: Path, tmp_path: Path) -> None:
    """`syncline up` of a new version stops the engine, deploys and starts it again, under one lock."""
    with service(home, tmp_path) as running:
        assert running.state() == "READY=1", running.output
        before = pid_of(home)
        with local_engine._locked(home / "up.lock"):
            local_engine._stop(home, print)
            local_engine._start(home, TOP / ".venv-engine" / "bin" / "python", None, print)
        assert pid_of(home) != before
        assert running.stop() == 0
    assert local_engine.describe(home) is None


def test_sigterm_while_it_starts_leaves_no_engine(home: Path, tmp_path: Path) -> None:
    with service(home, tmp_path) as running:
        while "starting the engine" not in running.output:
            assert running.process.poll() is None, running.output
        assert running.stop() == 0
    assert local_engine.describe(home) is None
