"""The state of files as CSV: written, read again, and compared."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.s3.xml import AccessGrants, ListedObject
from syncline.errors import SynclineError
from syncline.kinds.files import state_csv
from syncline.kinds.files.records import Record, mode_of_grants, mode_of_metadata, path_problem
from syncline.kinds.files.state_csv import CsvRow
from syncline.kinds.files.targets import TargetFile

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)
ROWS = st.builds(
    CsvRow,
    file_path=TEXT,
    permissions=st.sampled_from(["rw-r--r--", ""]),
    size=st.integers(0, 1 << 50).map(str),
    file_type=st.just("text/plain"),
    last_modified=st.just("2026-11-25T01:02:03Z"),
    internal_id=TEXT,
)
SHEETS = st.lists(ROWS, unique_by=lambda row: row.file_path)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "'=x", "''+x", "'x", "a=b"])
def test_no_name_becomes_a_formula(name: str) -> None:
    """Spreadsheets treat a cell with a leading apostrophe as text; reading the file returns the name itself."""
    row = CsvRow(name, "-w-r--r--", "1", "@type", "2026-11-25T01:02:03Z", "-7")
    text = "".join(state_csv.written([row]))
    _, cells = csv.reader(io.StringIO(text, newline=""))
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in cells)
    assert not cells[0].startswith("-")
    assert (cells[1], cells[-1]) == ("-w-r--r--", "'-7")
    assert list(state_csv.read(io.StringIO(text, newline=""))) == [row]
    (_, difference) = csv.reader(io.StringIO("".join(state_csv.differences_written([("create", row)])), newline=""))
    assert difference[1:] == cells


@given(SHEETS)
def test_written_rows_are_read_unchanged(rows: list[CsvRow]) -> None:
    assert list(state_csv.read(io.StringIO("".join(state_csv.written(rows)), newline=""))) == rows


@given(SHEETS, SHEETS)
def test_differences_turn_one_state_into_the_other(old: list[CsvRow], new: list[CsvRow]) -> None:
    state = {row.file_path: row for row in old}
    for operation, row in state_csv.differences(dict(state), new):
        assert (operation == "create") == (row.file_path not in state)
        if operation == "delete":
            del state[row.file_path]
        else:
            state[row.file_path] = row
    assert state == {row.file_path: row for row in new}


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n", ",".join(state_csv.COLUMNS) + "\na,b\n", ",".join(state_csv.COLUMNS) + "\na,rw-r--r--,many,t,m,i\n"],
)
def test_a_file_in_another_format_is_an_error(text: str) -> None:
    with pytest.raises(SynclineError) as error:
        list(state_csv.read(text.splitlines(keepends=True)))
    assert error.value.code.name == "USAGE"


def test_other_columns_are_an_error_that_names_the_right_ones() -> None:
    with pytest.raises(SynclineError) as error:
        list(state_csv.read(["path,size\n"]))
    assert error.value.what == f"the first line of the CSV file must be {','.join(state_csv.COLUMNS)}; it is path,size"


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (
            ["/data/a,rw-r--r--,1,t,m,i", "/data/b,rw-r--r--," + "9" * 5000 + ",t,m,i"],
            "line 3 of the CSV file: the size is '" + "9" * 100 + "…', not a number of at most ",
        ),
        (["/data/a,rw-r--r--,-1,t,m,i"], "line 2 of the CSV file: the size is '-1', not a number of at most "),
        ([",rw-r--r--,1,t,m,i"], "line 2 of the CSV file: file_path is empty"),
        (["/data/a,rw-r--r--,1"], "line 2 of the CSV file has 3 cells; a file has 6: file_path,permissions,"),
        (
            ["/data/a,rw-r--r--,1,t,m,i", "/data/" + "b" * 200_000 + ",rw-r--r--,1,t,m,i"],
            "line 3 of the CSV file cannot be read",
        ),
        (
            ["/data/a,rw-r--r--,1,t,m,i", "/data/b,,1,t,m,i", "/data/a,,2,t,m,i"],
            "line 4 of the CSV file names '/data/a' again",
        ),
    ],
)
def test_an_invalid_row_is_refused_with_its_line(lines: list[str], what: str) -> None:
    with pytest.raises(SynclineError) as error:
        list(state_csv.read(line + "\n" for line in [",".join(state_csv.COLUMNS), *lines]))
    assert error.value.code.name == "USAGE"
    assert error.value.what.startswith(what)


def test_a_row_counts_only_if_source_and_target_confirm_it() -> None:
    row = CsvRow("/a", "rw-r--r--", "5", "text/plain", "1970-01-01T00:01:40Z", "id-7")
    existing = TargetFile("id-7|5||", None, 5, "id-7")
    record = Record("e", 5, 100, "id-7|5||", file_type="text/plain", mode="rw-r--r--", internal_id="id-7")
    assert state_csv.record_of(row, ListedObject("a", "e", 5, 100.5), existing) == record
    assert state_csv.row_of("/a", record) == row
    assert state_csv.record_of(row, ListedObject("a", "e", 6, 100.0), existing) is None
    assert state_csv.record_of(row, ListedObject("a", "e", 5, 200.0), existing) is None
    assert state_csv.record_of(row, ListedObject("a", "e", 5, 100.0), TargetFile("id-7|6||", None, 6, "id-7")) is None
    assert state_csv.record_of(row, ListedObject("a", "e", 5, 100.0), TargetFile("id-8|5||", None, 5, "id-8")) is None
    assert (
        state_csv.record_of(CsvRow("/a", "", "5", "", "never", "id-7"), ListedObject("a", "e", 5, 1.0), existing)
        is None
    )


@pytest.mark.parametrize(
    ("metadata", "mode"),
    [
        ({"permissions": "rw-r-----"}, "rw-r-----"),
        ({"mode": "0640"}, "rw-r-----"),
        ({"mode": "100755"}, "rwxr-xr-x"),
        ({"mode": "33188"}, "rw-r--r--"),
        ({"mode": "755"}, "rwxr-xr-x"),
        ({"mode": "rwx"}, None),
        ({"mode": "99999999"}, None),
        ({"permissions": "everything"}, None),
        ({"permissions": "<script>"}, None),
        ({"permissions": "rwsr-Sr-t"}, "rwxr--r-x"),
        ({"mode": "104755"}, "rwxr-xr-x"),
        ({}, None),
    ],
)
def test_permissions_by_metadata(metadata: dict[str, str], mode: str | None) -> None:
    assert mode_of_metadata(metadata) == mode


def test_permissions_by_an_access_list() -> None:
    grants = AccessGrants("me", frozenset({"FULL_CONTROL"}), frozenset({"READ", "WRITE"}), frozenset({"READ"}))
    assert mode_of_grants(grants) == "rw-rw-r--"
    assert (
        mode_of_grants(AccessGrants("me", frozenset({"FULL_CONTROL"}), frozenset(), frozenset({"READ"}))) == "rw-r--r--"
    )
    assert mode_of_grants(AccessGrants("me", frozenset(), frozenset(), frozenset({"READ_ACP"}))) == "---------"


@pytest.mark.parametrize("path", ["../up", "a/../b", "a/./b", "a//b", "a\tb", "a\nb", "a\x7fb", "."])
def test_unsafe_paths(path: str) -> None:
    assert path_problem(path) is not None


@pytest.mark.parametrize("path", ["/data/a b", "a..b", "..a", "ä/a\u0308", "日本"])
def test_safe_paths(path: str) -> None:
    assert path_problem(path) is None
