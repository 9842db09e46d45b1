"""The error of a failed program shows the end of its output, without secrets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from syncline.cli import commands_engine, programs
from syncline.cli import local_engine as engine
from syncline.cli.local_engine import Engine
from syncline.cli.main import app
from syncline.cli.programs import ProgramError
from syncline.secrets import register


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return a log that contains the output of an earlier program."""
    file = tmp_path / "sam.log"
    file.write_text("$ earlier\nthe earlier program printed this\n")
    return file


def failure(code: str, log: Path) -> ProgramError:
    """Run Python code that fails; return the error."""
    with pytest.raises(ProgramError) as caught:
        programs.run([sys.executable, "-c", code], log.parent, log)
    return caught.value


def printing(text: str, status: int = 3) -> str:
    return f"import sys; sys.stdout.write({text!r}); sys.exit({status})"


def test_the_error_has_the_last_five_lines_of_output(log: Path) -> None:
    error = failure(printing("".join(f"line {n}\n\n" for n in range(9))), log)
    assert error.code.name == "ENGINE_FAILED"
    assert error.what == f"`{Path(sys.executable).name}` failed (exit status 3); its output is in {log}"
    assert error.output == ("line 4", "line 5", "line 6", "line 7", "line 8")
    assert str(error).splitlines() == [f"ENGINE_FAILED: {error.what}", *(f"  {line}" for line in error.output)]
    assert log.read_text().startswith("$ earlier\n")
    assert "line 0\n" in log.read_text()


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_the_error_shows_no_output_of_an_earlier_program(log: Path, text: str) -> None:
    error = failure(printing(text), log)
    assert error.output == ()
    assert str(error) == f"ENGINE_FAILED: {error.what}"


def test_the_error_has_all_lines_if_there_are_fewer_than_five(log: Path) -> None:
    assert failure(printing("one\ntwo without an end"), log).output == ("one", "two without an end")


def test_a_program_that_succeeds_raises_nothing(log: Path) -> None:
    programs.run([sys.executable, "-c", printing("fine\n", 0)], log.parent, log)
    assert log.read_text().endswith("\nfine\n")


def test_control_sequences_are_removed_from_output(log: Path) -> None:
    error = failure(printing("\x1b[31mERROR: no\x1b[0m\n\t10%\r 20%\r100%\na\x07b\n"), log)
    assert error.output == ("ERROR: no", "  10%", " 20%", "100%", "a\\x07b")


def test_long_output_is_cut(log: Path) -> None:
    error = failure("import sys; print('x' * 300_000); print('y' * 240); print('z' * 241); sys.exit(1)", log)
    assert error.output == ("x" * 240 + "…", "y" * 240, "z" * 240 + "…")


def test_no_part_of_a_secret_is_shown(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the end of long output is read, which may begin within a secret."""
    monkeypatch.setenv("A_TOKEN", "first-half-second-half")
    text = "first-half-second-half"
    code = f"import sys; sys.stdout.write({text!r} + 'x' * ((1 << 20) - 12) + chr(10)); sys.exit(1)"
    assert failure(code, log).output == ()


def test_invalid_utf8_is_replaced(log: Path) -> None:
    error = failure(r"import sys; sys.stdout.buffer.write(b'caf\xe9\n'); sys.exit(1)", log)
    assert error.output == ("caf\N{REPLACEMENT CHARACTER}",)


def test_no_secret_is_shown(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-0123456789")
    monkeypatch.setenv("registry_password", "correct horse")
    register("fetched-before")
    text = "".join(
        f"{line}\n"
        for line in (
            "Looking in indexes: https://me:hunter22@packages.example/simple?token=t0psecret",
            "x" * 230 + " glpat-0123456789",
            "login with correct horse",
            "Authorization: Basic " + "dXNlcjpmZXRjaGVkLWJlZm9yZQ==",
        )
    )
    shown = str(failure(printing(text), log))
    for part in ("hunter22", "me:", "t0psecret", "glpat", "correct horse", "dXNlcjp"):
        assert part not in shown
    assert "https://…@packages.example/simple?token=…" in shown
    assert "Authorization: Basic ***" in shown


def test_values_of_other_variables_are_shown(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENS_FOLDER", "tokens")
    monkeypatch.setenv("PLACE", "on this machine")
    assert failure(printing("the tokens on this machine"), log).output == ("the tokens on this machine",)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/x/bin/python3", "-m", "samcli", "build", "--template-file", "t"], "python3 -m samcli build"),
        (["/usr/bin/sam", "deploy", "--stack", "s"], "sam deploy"),
        (["/x/bin/python3", "/y/engine_process.py", "/home"], "python3 /y/engine_process.py /home"),
    ],
)
def test_the_program_is_named_without_its_options(log: Path, command: list[str], name: str) -> None:
    with pytest.raises(ProgramError) as caught:
        programs.run(command, log.parent, log)
    assert caught.value.what.startswith(f"`{name}` failed ([Errno 2] No such file or directory: ")


def test_a_program_that_does_not_end_is_stopped(log: Path) -> None:
    with pytest.raises(ProgramError) as caught:
        programs.run(["sh", "-c", "echo waiting; exec sleep 60"], log.parent, log, seconds=2)
    assert "`sh` failed (timed out after 2 s)" in caught.value.what
    assert caught.value.output == ("waiting",)


@pytest.mark.parametrize(
    ("status", "what"), [(1, "the engine did not start (exit status 1); its"), (0, "the engine did not start; its")]
)
def test_the_error_of_a_failed_start_has_the_output_of_the_engine(tmp_path: Path, status: int, what: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho ministack is absent >&2\nexit {status}\n")
    python.chmod(0o755)
    log = tmp_path / "engine.log"
    log.write_text("an earlier start\n")
    with pytest.raises(ProgramError) as caught:
        engine._start(tmp_path, python, 0, lambda _: None)
    assert caught.value.what == f"{what} output is in {log}"
    assert caught.value.output == ("ministack is absent",)


def test_the_command_shows_the_output(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Engine:
        raise failure(printing("Build Failed\nError: no functions/absent\n"), log)

    monkeypatch.setattr(commands_engine, "start", fails)
    result = CliRunner().invoke(app, ["up", "--home", str(log.parent)])
    assert result.exit_code == 2
    first, *lines, action = result.stderr.splitlines()
    assert first.endswith(f"failed (exit status 3); its output is in {log}")
    assert lines == ["  Build Failed", "  Error: no functions/absent"]
    assert action.startswith("→ ")
    result = CliRunner().invoke(app, ["up", "--json", "--home", str(log.parent)])
    value = json.loads(result.stdout)["error"]
    assert value["output"] == ["Build Failed", "Error: no functions/absent"]
    assert value["what"] == first.partition(": ")[2]
