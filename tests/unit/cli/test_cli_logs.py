"""Tests of `logs`: the lines of one sync from the engine's log file, and from CloudWatch Logs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from syncline.cli import commands_logs
from syncline.cli.engine_log import rotate
from tests.unit.cli.cli_stack import Stack

ENGINE = "2026-12-01 10:52:17 INFO [lambda] ESM: Lambda syncline-discover output:\n"


def line(message: str, *, sync: str = "prod", age: float = 5.0, level: str = "info", **fields: Any) -> str:
    """Return a line as the functions write it, `age` seconds ago."""
    moment = time.time() - age
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment)) + f",{int(moment % 1 * 1000):03}+0000"
    value = {"operation": "discover", "level": level, "location": "log_batch_end:128", "message": message}
    value |= {"timestamp": stamp, "service": "discover", "function_name": "syncline-discover", "sync": sync}
    return json.dumps(value | fields) + "\n"


def metrics(sync: str) -> str:
    return json.dumps({"_aws": {"Timestamp": 1}, "sync": sync, "ItemsMoved": [1.0]}) + "\n"


def write(stack: Stack, *texts: str, name: str = "engine.log") -> Path:
    path = stack.home / name
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(texts))
    return path


def test_the_lines_of_one_sync_are_printed(applied: Stack) -> None:
    write(applied, line("oldest", age=30), name="engine.log.1")
    write(applied, ENGINE, line("run ended", run="20261201-105217-fa56efca21", moved=3), line("other", sync="dev"))
    write(applied, metrics("prod"), '{"operation": broken\n', line("item not moved", level="error", why="no access"))
    lines = applied.run("logs", "prod").stdout.splitlines()
    assert [each.split("  ")[1:] for each in lines] == [
        ["discover", "oldest"],
        ["discover", "run ended", "run=20261201-105217-fa56efca21", "moved=3"],
        ["discover", "item not moved", "why=no access"],
    ]
    assert [each["message"] for each in applied.json("logs", "prod")["lines"]] == [
        "oldest",
        "run ended",
        "item not moved",
    ]


def test_an_engine_without_a_log_has_no_lines(applied: Stack) -> None:
    assert applied.json("logs", "prod") == {"name": "prod", "lines": []}


def test_old_lines_are_left_out(applied: Stack) -> None:
    write(applied, line("old", age=7200), line("new", age=60))
    assert [each["message"] for each in applied.json("logs", "prod")["lines"]] == ["new"]
    assert [each["message"] for each in applied.json("logs", "prod", "--since", "1d")["lines"]] == ["old", "new"]


def test_new_lines_are_followed_across_a_restart(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(applied, line("first"))
    half = line("third")

    def add_second(_: float) -> None:
        write(applied, line("second"), half[:30])

    def complete_third_and_restart(_: float) -> None:
        write(applied, half[30:])
        path.rename(applied.home / "engine.log.1")
        write(applied, line("fourth"))

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    steps = iter([add_second, complete_third_and_restart, lambda _: None, stop])

    def sleep(seconds: float) -> None:
        next(steps)(seconds)

    monkeypatch.setattr("syncline.cli.commands_logs.time.sleep", sleep)
    result = applied.run("logs", "prod", "--follow")
    assert [each.split("  ")[2] for each in result.stdout.splitlines() if "  " in each] == [
        "first",
        "second",
        "third",
        "fourth",
    ]


def test_lines_are_followed_across_rotations(applied: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    write(applied, line("first"))

    def rotate_twice(_: float) -> None:
        write(applied, line("second"))
        assert rotate(applied.home, most=1)
        write(applied, line("third"))
        assert rotate(applied.home, most=1)
        write(applied, line("fourth"))

    def rotate_without_lines(_: float) -> None:
        for _each in range(12):
            write(applied, ENGINE)
            assert rotate(applied.home, most=1)
        write(applied, line("fifth"))

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    steps = iter([rotate_twice, lambda _: None, rotate_without_lines, stop])

    def sleep(seconds: float) -> None:
        next(steps)(seconds)

    monkeypatch.setattr("syncline.cli.commands_logs.time.sleep", sleep)
    result = applied.run("logs", "prod", "--follow")
    assert [each.split("  ")[2] for each in result.stdout.splitlines() if "  " in each] == [
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("logs", "prod", "--since", "soon"), "'soon' is not a duration"),
        (("logs", "prod", "--follow", "--json"), ""),
        (("logs", "nobody"), "there is no sync named 'nobody'"),
    ],
)
def test_usage_errors(applied: Stack, arguments: tuple[str, ...], text: str) -> None:
    write(applied, line("first"))
    result = applied.run(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr


def test_lines_come_from_cloudwatch_for_a_stack(applied: Stack) -> None:
    client = applied.target.client("logs")
    now = time.time()
    for number, function in enumerate(("verify", "discover")):
        group = f"/aws/lambda/syncline-{function}"
        client.create_log_group(logGroupName=group)
        client.create_log_stream(logGroupName=group, logStreamName="one")
        events = [
            {
                "timestamp": int((now - 50 + 10 * at - number) * 1000),
                "message": line(f"{function} {at}", age=50 - 10 * at + number),
            }
            for at in range(3)
        ]
        events.append({"timestamp": int(now * 1000), "message": "REPORT RequestId: 1 Duration: 5 ms"})
        client.put_log_events(logGroupName=group, logStreamName="one", logEvents=events)
    source = commands_logs._of_cloudwatch(applied.target, "syncline", "prod", now - 3600)
    assert [each["message"] for each in next(source)] == [
        "discover 0",
        "verify 0",
        "discover 1",
        "verify 1",
        "discover 2",
        "verify 2",
    ]
    assert next(source) == []
