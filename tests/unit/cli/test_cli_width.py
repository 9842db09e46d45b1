"""Output fits 80 and 60 columns, with long names and wide characters, and loses nothing."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

import pytest

from syncline.cli.layout import display_width, wrap
from syncline.cli.output import Cell, Output, Row
from syncline.errors import CODES
from syncline.model import Outcome, Result, Trigger
from tests.unit.cli.cli_stack import SYNCS, Stack, conflict, failed, moved
from tests.unit.cli.test_cli_known import finish
from tests.unit.cli.test_cli_logs import line, write

LONG: Final = "a-sync-with-a-name-that-is-much-longer-than-others"
WIDE: Final = "画像/日本語のとても長い名前のリポジトリ"
WIDTHS: Final = pytest.mark.parametrize("width", [80, 60])


@pytest.fixture
def busy(stack: Stack) -> Stack:
    """A stack with two syncs, runs of all triggers, failures, and names of all widths."""
    text = SYNCS + SYNCS.removeprefix("syncs:\n").replace("prod:", f"{LONG}:").replace("mirror", "other")
    assert stack.apply(text).exit_code == 0
    finish(stack, failed(WIDE, "1.0"), failed(f"mirror/{LONG}/{LONG}", "2.0"))
    finish(stack, failed(WIDE, "1.0"), conflict(WIDE), moved(WIDE), moved(), failed(name="n" * 90))
    for trigger in Trigger:
        counts = {"skipped": 12_345, "left_out": 4_567, "extra": 890}
        stack.finish(stack.begin(LONG, trigger=trigger), moved(), conflict(), failed(), **counts)
    return stack


def shown(stack: Stack, width: int, *arguments: str) -> str:
    """Return the output of a command at a width, after a check that it fits."""
    result = stack.run(*arguments, env={"COLUMNS": str(width)})
    assert result.exit_code in (0, 1), result.output
    for each in result.stdout.splitlines():
        # A command to copy is not divided, nor is a word.
        text = each.strip()
        divisible = " " in text and not text.startswith(("→ syncline", "--home"))
        assert display_width(each) <= width or not divisible, each
    return result.stdout


def words(text: str) -> Counter[str]:
    """Count the words of a text without the ages in it, which grow."""
    return Counter(re.sub(r"just now|[\d.]+ (?:s|min)(?: ago)?\b", "", " ".join(text.split())).split())


@WIDTHS
@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "prod"),
        ("status", LONG),
        ("history", LONG),
        ("report", "prod"),
        ("report", "prod", "--full"),
    ],
)
def test_tables_fit_and_lose_nothing(busy: Stack, width: int, arguments: tuple[str, ...]) -> None:
    narrow, unlimited = shown(busy, width, *arguments), busy.run(*arguments).stdout
    assert words(narrow) == words(unlimited)


@WIDTHS
def test_a_report_keeps_codes_and_advice(busy: Stack, width: int) -> None:
    text = " ".join(shown(busy, width, "report", "prod").split())
    for code in ("UNAUTHORIZED", "TAG_DIFFERS"):
        assert f"{code} (" in text
        assert f"→ {CODES[code].advice('images')}" in text


@WIDTHS
def test_explanations_fit(stack: Stack, width: int) -> None:
    for code, row in CODES.items():
        text = shown(stack, width, "explain", code)
        assert text.split()[0] == f"{code}:"
        assert f"→ {row.advice()}" in " ".join(text.split())


@WIDTHS
def test_log_lines_fit(busy: Stack, width: int) -> None:
    write(busy, line("item not moved", level="error", item=f"{WIDE}:1.0", why="the target " * 12, run="r" * 30))
    text = " ".join(shown(busy, width, "logs", "prod").split())
    assert ("the target " * 12).strip() in text
    assert f"item={WIDE}:1.0" in text


def test_a_row_that_fits_is_one_line_and_others_continue(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows: list[Row] = [
        ("short", "yes", Cell("7", right=True)),
        ("日本語", "no", Cell("12", right=True)),
        ("a name of thirty-five characters too", "yes", "and the end"),
        ("x", "many words that are longer than the complete line is", Cell("3", right=True)),
    ]
    Output().table(rows, head=("NAME", "OK", "COUNT"))
    assert capsys.readouterr().out.splitlines() == [
        "NAME    OK   COUNT",
        "short   yes            7",
        "日本語  no            12",
        "a name of thirty-five characters too",
        "    yes  and the end",
        "x",
        "    many words that are longer than the",
        "      complete line is  3",
    ]


def test_lines_into_a_pipe_have_any_length(capsys: pytest.CaptureFixture[str]) -> None:
    Output().line("word " * 60)
    Output().table([("a" * 90, "b" * 90)])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_wrapped_lines_are_indented_below_the_first() -> None:
    assert wrap("  CODE: one two three four", 16) == ["  CODE: one two", "    three four"]
    assert wrap("one", 20) == ["one"]
    assert wrap("o" * 30, 20) == ["o" * 30]


def test_the_width_of_characters() -> None:
    assert display_width("abc") == 3
    assert display_width("日本") == 4
    assert display_width("e\u0301") == 1


def test_results_of_all_outcomes_fit(stack: Stack) -> None:
    assert stack.apply().exit_code == 0
    results = [
        Result(WIDE, each.value, each, "sha256:" + "a" * 64, "sha256:" + "b" * 64, 5 << 20, "NOT_FOUND", "gone " * 40)
        for each in Outcome
    ]
    run = stack.finish(stack.begin(), *results)
    for width in (80, 60):
        shown(stack, width, "report", run.id, "--full")
