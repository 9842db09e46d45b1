"""Tests of `report --format csv` and `--format html`."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from syncline.cli.report_files import COLUMNS
from tests.unit.cli.cli_stack import GOOD, OTHER, Stack, conflict, failed, moved

_CELLS = ("td", "th", "dd")
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x>',
    "&amp;",
    "=1+1",
    "a\nb",
    "\x1b[31m",
    "\u202egpj.exe",
    "x" * 1000,
]


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in _CELLS:
            self.cells.append("")
            self.in_cell = True

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in _CELLS


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_csv_report_has_a_row_for_each_item(applied: Stack) -> None:
    run = applied.finish(applied.begin(), replace(moved(), lag=77), conflict(), failed(), skipped=4)
    result = applied.run("report", run.id, "--format", "csv")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == ",".join(COLUMNS)
    found = {each["outcome"]: each for each in rows(result.stdout)}
    assert found.keys() == {"moved", "conflict", "failed"}
    assert (found["moved"]["source"], found["moved"]["target"], found["moved"]["lag"]) == (GOOD, GOOD, "77")
    assert (found["conflict"]["source"], found["conflict"]["target"]) == (GOOD, OTHER)
    assert (found["failed"]["target"], found["failed"]["lag"], found["failed"]["code"]) == ("", "", "UNAUTHORIZED")


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_name_is_no_formula_in_a_spreadsheet(applied: Stack, name: str) -> None:
    applied.finish(applied.begin(), moved(name=name))
    (row,) = rows(applied.run("report", "--format", "csv").stdout)
    assert not row["name"].startswith(("=", "+", "-", "@", "\t"))


def test_an_html_report_is_one_file_with_both_digests(applied: Stack) -> None:
    run = applied.finish(applied.begin(), replace(moved(), lag=77), conflict(), failed())
    text = applied.run("report", run.id, "--format", "html").stdout
    page = Page(text)
    assert f"run {run.id} of prod" in text
    assert {"prod: prod.example → dr.example", "everything", "manually", "done"} <= set(page.cells)
    assert page.cells[page.cells.index("mirror/team/app:1.0") + 1 :][:2] == [GOOD, GOOD]
    assert page.cells[page.cells.index("mirror/team/app:latest") + 1 :][:2] == [GOOD, OTHER]
    assert "UNAUTHORIZED: dr.example does not accept the credentials" in page.cells
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe")]
    assert not [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_do_no_harm(applied: Stack, name: str) -> None:
    applied.finish(applied.begin(), moved(name=name), failed(group=name))
    plain = {tag for tag, _ in Page(applied.run("report", "--format", "html").stdout).tags}
    lists = {"dl", "dt", "dd", "p", "code"}
    assert (
        plain
        == {"html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "thead", "tbody", "tr", "th", "td"}
        | lists
    )
    text = applied.run("report", "--format", "csv").stdout
    assert len(rows(text)) == 2
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_an_unknown_format_is_an_error(applied: Stack) -> None:
    result = applied.run("report", "--format", "pdf")
    assert result.exit_code == 2
    assert "there is no format 'pdf'; use text, csv, html, or --json" in result.stderr
