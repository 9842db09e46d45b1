"""``up`` and ``down``, after clean and unclean stops of the engine."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from syncline.cli import commands_engine
from syncline.cli.context import Context
from syncline.cli.local_engine import Engine
from syncline.cli.local_engine import _free_port as free_port
from syncline.cli.main import app
from syncline.cli.output import Output
from syncline.errors import SynclineError
from syncline.model import Trigger
from syncline.run_text import TRIGGERS
from tests.unit.cli.cli_stack import SYNCS, Stack

Start = Callable[..., None]
TWO_SYNCS = (
    SYNCS
    + SYNCS.removeprefix("syncs:\n").replace("  prod:", "  dev:").replace("mirror", "dev")
    + "    enabled: false\n"
)


@pytest.fixture
def starts(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Make ``up`` find the test's stack, after a clean or unclean stop."""

    def prepare(*, unclean: bool) -> None:
        def start(home: Path, project: Path, *, port: int | None, say: Callable[[str], None]) -> Engine:
            assert home == stack.home
            assert (project / "template.yaml").is_file()
            assert port is None
            say("starting the engine")
            return Engine(int(str(stack.target.endpoint).rpartition(":")[2]), stack.target.outputs, "key", unclean)

        monkeypatch.setattr(commands_engine, "start", start)

    return prepare


def lose_state(stack: Stack) -> None:
    """Remove the syncs and their schedules, as if an unclean stop had lost them."""
    for name in stack.target.state.sync_names():
        stack.target.state.remove_sync(name)
        stack.target.scheduler.delete_schedule(Name=name, GroupName="syncline")


def test_the_first_up_starts_the_engine(stack: Stack, starts: Start) -> None:
    starts(unclean=False)
    result = stack.run("up")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "starting the engine"
    assert lines[1] == f"the engine is up at {stack.target.endpoint}; its state is in {stack.home}"
    assert lines[2] == f"the status page: {stack.target.outputs['ConsoleUrl']}"
    assert lines[3].startswith("→ syncline apply")


def test_up_after_a_clean_stop_starts_no_scan(stack: Stack, starts: Start) -> None:
    stack.apply()
    starts(unclean=False)
    value = stack.json("up")
    assert value == {
        "endpoint": stack.target.endpoint,
        "home": str(stack.home),
        "console": stack.target.outputs["ConsoleUrl"],
        "unclean": False,
        "restored": [],
        "runs": [],
        "warnings": [],
    }
    assert stack.started() == []


def test_a_variable_missing_in_this_shell_is_a_warning(
    stack: Stack, starts: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.cli.local_engine.environment_of", lambda _: {"HOOK": "s3cr3t"})
    assert stack.apply(SYNCS + "    webhook: {secret: 'env:HOOK'}\n").exit_code == 0
    monkeypatch.setattr("syncline.cli.local_engine.environment_of", lambda _: {})
    starts(unclean=False)
    result = stack.run("up")
    assert result.exit_code == 0
    assert "warning: prod.webhook.secret: env:HOOK is not set; set it" in result.stdout


@pytest.mark.parametrize("unclean", [True, False])
def test_lost_syncs_are_applied_again(stack: Stack, starts: Start, *, unclean: bool) -> None:
    """After a clean stop they are lost if an earlier ``up`` was interrupted before it had applied them."""
    assert stack.apply(TWO_SYNCS).exit_code == 0
    lose_state(stack)
    starts(unclean=unclean)
    result = stack.run("up")
    assert result.exit_code == 0, result.output
    assert "2 syncs applied again: dev, prod" in result.stdout
    assert "1 scan started, because events may have been lost: prod" in result.stdout
    assert "→ syncline status" in result.stdout
    assert stack.target.state.sync_names() == ["dev", "prod"]
    assert len(stack.target.scheduler.list_schedules(GroupName="syncline")["Schedules"]) == 2
    [start] = stack.started()
    assert (start.sync, start.trigger, start.scope.everything) == ("prod", Trigger.START, True)


def test_after_an_unclean_stop_syncs_with_a_schedule_are_scanned(stack: Stack, starts: Start) -> None:
    without = TWO_SYNCS.replace("    schedule: rate(1 hour)\n", "", 1).replace("    enabled: false\n", "")
    assert stack.apply(without).exit_code == 0
    starts(unclean=True)
    value = stack.json("up")
    assert value["restored"] == []
    assert [(run["sync"], run["trigger"]) for run in value["runs"]] == [("dev", "start")]
    assert TRIGGERS.keys() == set(Trigger)
    assert [start.sync for start in stack.started()] == ["dev"]


def test_a_surviving_run_is_kept(stack: Stack, starts: Start) -> None:
    stack.apply()
    run = stack.begin()
    starts(unclean=True)
    assert stack.json("up")["runs"] == []
    assert stack.target.state.current_run("prod") == stack.target.state.run("prod", run.id)


def test_a_damaged_list_of_applied_syncs_is_an_error(stack: Stack, starts: Start) -> None:
    (stack.home / "applied.json").write_text("{")
    starts(unclean=True)
    result = stack.run("up")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error CONFIG_INVALID: {stack.home / 'applied.json'} is damaged")


def test_a_failed_start_is_an_error(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Engine:
        raise SynclineError("ENGINE_FAILED", "the engine did not start; see /x/engine.log")

    monkeypatch.setattr(commands_engine, "start", fails)
    result = stack.run("up")
    assert result.exit_code == 2
    assert result.stderr.startswith("error ENGINE_FAILED: the engine did not start; see /x/engine.log\n→ ")


@pytest.mark.parametrize(
    ("folder", "why"),
    [("/proc/x", "No such file or directory"), ("{file}", "File exists"), ("{file}/x", "Not a directory")],
)
def test_a_home_that_cannot_be_used_is_one_clear_error(tmp_path: Path, folder: str, why: str) -> None:
    file = tmp_path / "file"
    file.touch()
    home = folder.format(file=file)
    result = CliRunner().invoke(app, ["up", "--home", home])
    assert result.exit_code == 2
    first, action = result.stderr.splitlines()
    assert (
        first == f"error ENGINE_FAILED: cannot keep the engine's state in {home}: {why}; choose another one with --home"
    )
    assert action.startswith("→ Do what the message says")
    for command in ("status", "down"):
        result = CliRunner().invoke(app, [command, "--home", home])
        assert "INTERNAL" not in result.stderr, result.stderr
        assert f"no engine runs in {home}" in result.output


def test_a_taken_port_is_an_error_without_a_log() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SynclineError) as caught:
            free_port(port)
    assert caught.value.what == f"cannot listen on port {port}: Address already in use; choose another one with --port"
    assert "log" not in caught.value.what
    assert "If it names a log file" in caught.value.code.action


def test_a_suggested_command_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "my engine's home"
    context = Context(None, home, Output())
    assert shlex.split(context.command("up")) == ["syncline", "up", "--home", str(home)]
    monkeypatch.setenv("SYNCLINE_HOME", str(home))
    assert context.command("up") == "syncline up"
    monkeypatch.setenv("SYNCLINE_HOME", "/another")
    assert shlex.split(context.command("up")) == ["syncline", "up", "--home", str(home)]


@pytest.mark.parametrize("stopped", [True, False])
def test_down(stack: Stack, monkeypatch: pytest.MonkeyPatch, *, stopped: bool) -> None:
    monkeypatch.setattr(commands_engine, "stop", lambda home, say: stopped and home == stack.home and say is not None)
    result = stack.run("down")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == (
        "the engine is down; its state is kept" if stopped else f"no engine runs in {stack.home}"
    )
    assert stack.json("down") == {"stopped": stopped, "home": str(stack.home)}
