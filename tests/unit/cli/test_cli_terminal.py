"""The command as a process: with and without a terminal, interrupted, and the modules that it imports."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from syncline.messages import Outgoing
from syncline.model import Counts, Item, Outcome, Result, Run, RunStatus
from syncline.store.batches import BatchRecord
from syncline.store.state import first_batch
from tests.unit.cli.cli_stack import GOOD, ROOT, Stack, moved

TERMINAL = {"TERM": "xterm-256color", "COLUMNS": "100"}


def started_run(stack: Stack) -> Run:
    """Return the run that the command starts."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        started = stack.started()
        if started:
            assert started[0].run is not None
            return stack.target.state.run("prod", started[0].run)
    raise AssertionError("the command began no run")


class Terminal:
    """A terminal that records its output."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        self._text = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self._text += data

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self._text.decode(errors="replace"):
            assert time.monotonic() < deadline, self._text
            time.sleep(0.02)

    def end(self) -> str:
        os.close(self.slave)
        self._thread.join(10)
        os.close(self._master)
        return self._text.decode()


def move_one_of_two(stack: Stack, run: Run) -> Callable[[], Run]:
    """Move one of two items; return a function that moves the other and ends the run."""
    state, root = stack.target.state, first_batch(run)
    items = tuple(Item("mirror/team/app", name, GOOD) for name in ("1.0", "2.0"))
    children = [root.child(n, items=(item,)) for n, item in enumerate(items)]
    state.end_batch(root, BatchRecord((), tuple(Outgoing(each) for each in children)), Counts(queued=2, skipped=5))
    first = moved(name="1.0")
    state.end_batch(children[0], BatchRecord((first,)), Counts.of([first]))

    def finish() -> Run:
        second = moved(name="2.0")
        state.end_batch(children[1], BatchRecord((second,)), Counts.of([second]))
        ended = state.finish_run(run.sync, run.id)
        assert ended is not None
        return ended

    return finish


def test_a_terminal_shows_one_live_line_and_then_the_summary(applied: Stack) -> None:
    terminal = Terminal()
    process = applied.process("run", "prod", "--wait", stdout=terminal.slave, env=TERMINAL)
    finish = move_one_of_two(applied, started_run(applied))
    terminal.wait_for("1 of 2 items")
    finish()
    code, _, err = process.end()
    shown = terminal.end()
    assert (code, err) == (0, "")
    assert "\x1b[2K" in shown  # the line is rewritten, and cleared at the end
    assert "✓ prod: 2 moved (6.0 MiB), 5 equal, in " in shown.split("\x1b[2K")[-1]
    assert "\x1b[32m" in shown
    assert shown.endswith("\x1b[0m\r\n")


def test_without_a_terminal_only_plain_lines_are_printed(applied: Stack) -> None:
    process = applied.process("run", "prod", "--wait", env={"TERM": "xterm-256color"})
    finish = move_one_of_two(applied, started_run(applied))
    assert process.popen.stdout is not None
    before = [process.popen.stdout.readline() for _ in range(2)]
    finish()
    code, after, err = process.end()
    out = "".join([*before, after])
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "\r" not in out
    lines = out.splitlines()
    assert lines[0].endswith(" of prod started")
    assert lines[1].startswith("1 of 2 items")
    assert lines[-2].startswith("✓ prod: 2 moved (6.0 MiB), 5 equal, in ")


def test_a_dumb_terminal_gets_plain_lines(applied: Stack) -> None:
    terminal = Terminal()
    process = applied.process("run", "prod", "--wait", stdout=terminal.slave, env={"TERM": "dumb"})
    applied.finish(started_run(applied), moved())
    assert process.end()[0] == 0
    assert "\x1b" not in terminal.end()


def test_json_on_a_terminal_is_json_only(applied: Stack) -> None:
    terminal = Terminal()
    process = applied.process("run", "prod", "--wait", "--json", stdout=terminal.slave, env=TERMINAL)
    applied.finish(started_run(applied), moved())
    assert process.end()[0] == 0
    assert json.loads(terminal.end())["run"]["counts"]["moved"] == 1


def test_ctrl_c_keeps_the_run_and_shows_how_to_follow_it(applied: Stack) -> None:
    process = applied.process("run", "prod", "--wait")
    assert process.popen.stdout is not None
    process.popen.stdout.readline()
    process.popen.send_signal(signal.SIGINT)
    code, out, err = process.end()
    [run] = applied.target.state.runs("prod")
    assert code == 130
    assert "Traceback" not in out + err
    assert err.splitlines()[0] == f"interrupted: run {run.id} of prod continues"
    assert "syncline status prod --wait" in err.splitlines()[1]
    assert "syncline cancel prod" in err.splitlines()[2]
    assert run.status is RunStatus.RUNNING


def test_ctrl_c_restores_the_terminal(applied: Stack) -> None:
    terminal = Terminal()
    process = applied.process("run", "prod", "--wait", stdout=terminal.slave, env=TERMINAL)
    terminal.wait_for("scanning")
    process.popen.send_signal(signal.SIGINT)
    assert process.end()[0] == 130
    shown = terminal.end()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is shown again


def test_a_closed_pipe_ends_the_command_silently(applied: Stack) -> None:
    """As in ``syncline report | head -1``."""
    results = [Result("mirror/team/app", f"1.{n}", Outcome.MOVED, GOOD, GOOD, 10) for n in range(3000)]
    applied.finish(applied.begin(), *results)
    process = applied.process("report", "prod")
    assert process.popen.stdout is not None
    process.popen.stdout.readline()
    process.popen.stdout.close()
    assert process.popen.stderr is not None
    err = process.popen.stderr.read()
    assert process.popen.wait(30) == 141
    process.popen.stderr.close()
    assert err == ""


def test_characters_outside_the_locale_are_replaced(applied: Stack) -> None:
    process = applied.process("status", env={"PYTHONIOENCODING": "ascii"})
    code, out, err = process.end()
    assert (code, err) == (0, "")
    assert "? syncline plan prod" in out


def slow_imports(code: str, *args: str) -> set[str]:
    """Return the slow modules that a piece of code imports."""
    slow = {"boto3", "pydantic", "rich", "yaml", "syncline.config", "syncline.secrets"}
    show = f"import sys; print(*{slow} & set(sys.modules))"
    environ = os.environ | {"PYTHONPATH": str(ROOT / "layers" / "syncline")}
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}", *args], env=environ, capture_output=True, text=True, check=True
    ).stdout
    return set(out.splitlines()[-1].split())


def test_help_imports_no_slow_modules() -> None:
    code = "import contextlib\nfrom syncline.cli.main import app\nwith contextlib.suppress(SystemExit): app(['--help'])"
    assert slow_imports(code) == set()


def test_status_imports_few_slow_modules(applied: Stack) -> None:
    code = "import contextlib, sys\nfrom syncline.cli.main import app\n"
    code += "with contextlib.suppress(SystemExit): app(['status', '--home', sys.argv[1]])"
    assert slow_imports(code, str(applied.home)) == {"boto3", "pydantic"}  # typer uses pydantic
