"""Tests of `init`, `validate`, `delete`, `history`, `explain`, `run --all` and `status --watch`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline.cli import commands_run
from syncline.cli.schedules import list_schedules
from syncline.errors import CODES
from syncline.kinds.table import KINDS
from tests.unit.cli.cli_stack import FILES, SYNCS, Stack, failed, in_process, moved

TWO = SYNCS + FILES.removeprefix("syncs:\n")
DISABLED = SYNCS + FILES.removeprefix("syncs:\n").replace("    kind: files\n", "    kind: files\n    enabled: false\n")


def test_a_file_is_validated_without_an_engine(tmp_path: Path) -> None:
    file = tmp_path / "syncs.yaml"
    file.write_text(TWO)
    result = in_process("validate", str(file), "--home", str(tmp_path / "no-engine"))
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines == [
        ["syncs.yaml", "is", "valid:", "2", "syncs"],
        ["prod", "images", "rate(1", "hour)"],
        ["shop-files", "files", "no", "schedule"],
    ]


def test_every_problem_of_an_invalid_file_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "syncs.yaml"
    file.write_text(SYNCS.replace("rate(1 hour)", "rate(1 hours)").replace("prefix: mirror", "prefix: /mirror"))
    result = in_process("validate", str(file), "--home", str(tmp_path))
    assert result.exit_code == 2
    assert "syncs.yaml:4:15: syncs.prod.schedule" in result.stderr
    assert "syncs.yaml:10:15: syncs.prod.target.prefix" in result.stderr


def test_a_sync_is_deleted_with_its_schedule(stack: Stack) -> None:
    assert stack.apply(TWO.replace("    kind: files\n", "    kind: files\n    schedule: rate(1 day)\n")).exit_code == 0
    assert {each["Name"] for each in list_schedules(stack.target)} == {"prod", "shop-files"}
    result = stack.run("delete", "prod", "--yes")
    assert result.exit_code == 0, result.output
    assert "prod is deleted" in result.stdout
    assert {each["Name"] for each in list_schedules(stack.target)} == {"shop-files"}
    assert stack.target.state.sync_names() == ["shop-files"]
    assert stack.json("delete", "shop-files") == {"name": "shop-files", "deleted": True, "cancelled_run": None}
    assert stack.run("delete", "prod").exit_code == 2


def test_the_run_of_a_deleted_sync_is_cancelled(stack: Stack) -> None:
    stack.apply()
    run = stack.begin()
    assert stack.json("delete", "prod", "--yes")["cancelled_run"] == run.id
    assert stack.target.state.run("prod", run.id).over


def test_the_runs_of_a_sync_are_listed(stack: Stack) -> None:
    stack.apply()
    assert "prod has not run yet" in stack.run("history", "prod").stdout
    runs = [stack.finish(stack.begin(), moved()) for _ in range(3)]
    bad = stack.finish(stack.begin(), failed())
    lines = stack.run("history", "prod").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["✗", bad.id], *(["✓", run.id] for run in reversed(runs))]
    assert [each["id"] for each in stack.json("history", "prod", "--limit", "2")["runs"]] == [bad.id, runs[-1].id]
    assert "the latest 2 runs; --limit shows more" in stack.run("history", "prod", "--limit", "2").stdout
    assert stack.run("history", "nobody").exit_code == 2


def test_every_code_is_explained() -> None:
    for code in CODES.values():
        result = in_process("explain", code.name.lower())
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0] == f"{code.name}: {code.meaning}"
        assert lines[1] == ("It is retried automatically." if code.retried else "It is not retried automatically.")
        assert lines[2:] == [f"→ {code.action}", *(f"→ {kind}: {advice}" for kind, advice in code.by_kind.items())]
    value = json.loads(in_process("explain", "TAG_DIFFERS", "--json").stdout)
    assert (value["code"], value["retried"]) == ("TAG_DIFFERS", False)


@pytest.mark.parametrize(
    ("code", "hint"),
    [("TAG_DIFERS", "did you mean TAG_DIFFERS?"), ("xyz", "`syncline report` shows the codes of a run")],
)
def test_an_unknown_code_is_an_error(code: str, hint: str) -> None:
    result = in_process("explain", code)
    assert (result.exit_code, hint in result.stderr) == (2, True), result.output


def test_runs_of_all_syncs_are_started(stack: Stack) -> None:
    stack.apply(TWO)
    started = stack.json("run", "--all")["runs"]
    assert [(each["run"]["sync"], each["started"]) for each in started] == [("prod", True), ("shop-files", True)]
    assert {start.sync for start in stack.started()} == {"prod", "shop-files"}
    again = stack.json("run", "--all")["runs"]
    assert [each["started"] for each in again] == [False, False]


def test_disabled_syncs_are_not_among_all(stack: Stack) -> None:
    stack.apply(DISABLED)
    assert [each["run"]["sync"] for each in stack.json("run", "--all")["runs"]] == ["prod"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("run", "prod", "--all"), "--all starts complete runs of all syncs"),
        (("run", "--all", "--only", "team/app"), "--all starts complete runs of all syncs"),
        (("run",), "name a sync, or start runs of all with --all"),
    ],
)
def test_a_run_of_all_names_no_sync(stack: Stack, arguments: tuple[str, ...], text: str) -> None:
    stack.apply()
    result = stack.run(*arguments)
    assert (result.exit_code, text in result.stderr) == (2, True), result.output
    assert stack.started() == []


def test_the_exit_code_of_a_run_of_all_is_the_worst(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.apply(TWO)
    results = {"prod": failed(), "shop-files": moved()}
    monkeypatch.setattr(commands_run, "follow_run", lambda _context, run: stack.finish(run, results[run.sync]))
    ended = stack.json("run", "--all", "--wait", code=1)["runs"]
    assert [(each["run"]["sync"], each["run"]["counts"]["failed"]) for each in ended] == [
        ("prod", 1),
        ("shop-files", 0),
    ]
    results["prod"] = moved()
    assert len(stack.json("run", "--all", "--wait")["runs"]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_kind_is_a_valid_file(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "syncs.yaml"
    result = in_process("init", kind, str(file), "--json")
    assert result.exit_code == 0, result.output
    examples = json.loads(result.stdout)["examples"]
    assert in_process("validate", str(file)).exit_code == 0
    assert file.read_text().startswith("# ")
    assert "yaml-language-server" not in file.read_text()
    for example in examples:
        other = tmp_path / f"{example}.yaml"
        assert in_process("init", kind, str(other), "--example", example).exit_code == 0
        assert in_process("validate", str(other)).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("init", "picture"), "there is no kind 'picture'; the kinds are images, files"),
        (("init", "images", "no/such/folder.yaml"), "cannot write no/such/folder.yaml: No such file or directory"),
        (
            ("init", "images", "--example", "best"),
            "there is no example 'best' of images; the examples are exact-mirror, explicit",
        ),
    ],
)
def test_an_example_that_cannot_be_written(
    arguments: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = in_process(*arguments)
    assert (result.exit_code, text in result.stderr) == (2, True), result.output
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "syncs.yaml"
    file.write_text("mine")
    assert in_process("init", "images", str(file)).exit_code == 2
    assert file.read_text() == "mine"


def test_the_state_is_shown_again_and_again(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.apply()
    changes: list[Callable[[], object]] = [lambda: stack.finish(stack.begin(), moved()), lambda: None]
    rounds = iter(changes)

    def sleep(_: float) -> None:
        change = next(rounds, None)
        if change is None:
            raise KeyboardInterrupt
        change()

    monkeypatch.setattr("syncline.cli.commands_status.time.sleep", sleep)
    result = stack.run("status", "--watch")
    assert result.exit_code == 130
    shown = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("prod")]
    assert shown == ["idle", "in", "in"]
    assert stack.run("status", "--watch", "--json").exit_code == 2
