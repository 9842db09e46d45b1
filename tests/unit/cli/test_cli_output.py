"""Formatting of numbers, texts and tables."""

from __future__ import annotations

import json

import pytest

from syncline import text as words
from syncline.cli import output
from syncline.cli.error_output import print_error
from syncline.cli.output import Cell, Output
from syncline.cli.summary import item_lines, item_name
from syncline.errors import SynclineError
from syncline.escaping import escape
from syncline.model import Outcome, Result


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**2 * 1023.9, "1,023.9 MiB"),
        (1024**3, "1.0 GiB"),
        (1024**4 * 5, "5.0 TiB"),
        (1024**5 * 2, "2,048.0 TiB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3599.7, "1 h"),
        (7500, "2 h 5 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (3 * 86_400 + 4 * 3600, "3 d 4 h"),
        (40 * 86_400, "40 d"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3569, "59 min"),
        (3599, "1 h"),
        (47 * 3600, "47 h"),
        (200_000, "2 d"),
    ],
)
def test_rough_duration(seconds: float, text: str) -> None:
    assert words.rough_duration(seconds) == text


def test_relative_time() -> None:
    assert words.relative_time(1000.0, 1000.4) == "just now"
    assert words.relative_time(1000.0, 1180.0) == "3 min ago"
    assert words.relative_time(8200.0, 1000.0) == "in 2 h"


def test_numbers() -> None:
    assert [words.number(n) for n in (0, 0.25, 9.94, 9.96, 12.4, 12345)] == ["0", "0.2", "9.9", "10", "12", "12,345"]
    assert [words.plural(n, "item") for n in (0, 1, 2000)] == ["0 items", "1 item", "2,000 items"]
    assert words.plural(2, "repository", "repositories") == "2 repositories"


def test_digests_are_short_by_default() -> None:
    digest = "sha256:" + "ab" * 32
    assert words.digest(digest) == "abababababab"
    assert words.digest("0123456789abcdef0123456789abcdef01234567") == "0123456789ab"
    assert words.digest("run:7.1") == "run:7.1"
    assert words.digest(digest, full=True) == digest
    assert words.digest(None) == "-"


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ("a", Cell("1", right=True), "x"),
        "  a line of its own, as long as it likes",
        ("long", Cell("22", right=True)),
    ]
    Output().table(rows, head=("NAME", "N"))
    assert capsys.readouterr().out.splitlines() == [
        "NAME  N",
        "a      1  x",
        "  a line of its own, as long as it likes",
        "long  22",
    ]


def test_an_empty_table_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table([], head=("NAME",))
    assert capsys.readouterr().out == ""


def test_with_json_only_the_object_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=True)
    out.line("words")
    out.table([("a", "b")])
    out.hint("syncline status", "shows")
    out.json({"name": "prüfung"})
    assert json.loads(capsys.readouterr().out) == {"name": "prüfung"}


class Terminal:
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "styled"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_only_terminals_get_colours(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *, styled: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    text = output.styled("x", "red", Terminal())  # type: ignore[arg-type]
    assert text == ("\x1b[31mx\x1b[0m" if styled else "x")


def test_control_characters_in_names_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result("07", "x\x1b[31mred\nmoved  07:y\u2028", Outcome.MOVED, "e", "e")
    out = Output()
    out.table(item_lines([result]))
    out.line(f"  {item_name(result)}: {result.outcome}")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2
    assert "07:x\\x1b[31mred\\x0amoved  07:y\\u2028" in shown


HIDDEN = "a\x1b[31mb\nc\x9bd\u202ee\u200bf\u2066g\ufeffh\ud800i"
SHOWN = r"a\x1b[31mb\x0ac\x9bd\u202ee\u200bf\u2066g\ufeffh\ud800i"


def test_invisible_and_bidirectional_characters_are_escaped() -> None:
    assert escape(HIDDEN) == SHOWN
    assert escape("zürich/日本語-1.0") == "zürich/日本語-1.0"


def test_an_error_with_a_forged_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(SynclineError("NOT_FOUND", f"there is no {HIDDEN}"), as_json=False)
    first, action = capsys.readouterr().err.splitlines()
    assert first == f"error NOT_FOUND: there is no {SHOWN}"
    assert action.startswith("→ ")
