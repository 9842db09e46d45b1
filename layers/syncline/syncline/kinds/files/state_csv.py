"""CSV files of the state of a sync, in the columns of the service that Syncline replaces: write, read and compare."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from typing import Final

from syncline.clients.file_manager.client import parse_mode
from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.xml import ListedObject, unix_time
from syncline.errors import SynclineError
from syncline.kinds.files.records import Record
from syncline.kinds.files.targets import TargetFile

COLUMNS: Final = ("file_path", "permissions", "size", "file_type", "last_modified", "internal_id")
DIFFERENCES: Final = ("operation", *COLUMNS)
HEAD: Final = ObjectHead("", 0, "text/csv; charset=utf-8")
"""The content type of a CSV file in a bucket."""
_FORMULA: Final = re.compile(r"'*[=+@\t\r-]")
"""The beginning of a cell that a spreadsheet treats as a formula, and of one that was protected from that.

Such a cell is written with an apostrophe before it, which spreadsheets hide and :func:`read` removes.
"""
_MODE: Final = re.compile(r"[-rwxstST]{9}")
"""Permissions, which may begin with `-` and are no formula."""
_LONGEST_SIZE: Final = 20
"""Most digits of a size in bytes."""
_QUOTED: Final = 100
"""Most characters of an invalid value that a message quotes."""
_CLOCK_DIFFERENCE: Final = 1.0
"""Seconds by which the times of two systems may differ for the same object."""


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One file; all cells are texts."""

    file_path: str
    permissions: str
    size: str
    file_type: str
    last_modified: str
    internal_id: str


def row_of(path: str, record: Record) -> CsvRow:
    """Return a record as a row."""
    when = dt.datetime.fromtimestamp(record.modified, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return CsvRow(path, record.mode or "", str(record.size), record.file_type, when, record.internal_id)


def written(rows: Iterable[CsvRow]) -> Iterator[str]:
    """Yield a CSV file line by line, its head first."""
    return map(_line, chain([COLUMNS], map(astuple, rows)))


def read(lines: Iterable[str]) -> Iterator[CsvRow]:
    """Yield the rows of a CSV file. Raises USAGE with the line number of an invalid row, or of a repeated path."""
    reader = csv.reader(lines)
    paths: set[str] = set()
    try:
        head = next(reader, None)
        if head is None or tuple(cell.strip() for cell in head) != COLUMNS:
            found = "missing" if head is None else _shortened(",".join(head))
            what = f"the first line of the CSV file must be {','.join(COLUMNS)}; it is {found}"
            raise SynclineError("USAGE", what)
        for line in reader:
            if not line:
                continue
            cells = [cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for cell in line]
            if (problem := _problem(cells)) is not None:
                raise SynclineError("USAGE", f"line {reader.line_num} of the CSV file{problem}")
            if cells[0] in paths:
                raise SynclineError("USAGE", f"line {reader.line_num} of the CSV file names {cells[0]!r} again")
            paths.add(cells[0])
            yield CsvRow(*cells)
    except csv.Error as error:
        raise SynclineError("USAGE", f"line {reader.line_num} of the CSV file cannot be read: {error}") from None


def _problem(cells: Sequence[str]) -> str | None:
    """Return the reason why cells are no row, as the end of a sentence that begins with the line, None if they are one."""
    if len(cells) != len(COLUMNS):
        return f" has {len(cells)} cells; a file has {len(COLUMNS)}: {','.join(COLUMNS)}"
    if not cells[0]:
        return ": file_path is empty"
    size = cells[2]
    if not (size.isascii() and size.isdigit() and len(size) <= _LONGEST_SIZE):
        return f": the size is {_shortened(size)!r}, not a number of at most {_LONGEST_SIZE} digits"
    return None


def _shortened(text: str) -> str:
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


def differences(old: Mapping[str, CsvRow], new: Iterable[CsvRow]) -> Iterator[tuple[str, CsvRow]]:
    """Yield the differences between two states: ``create``, ``update``, ``change_permission`` or ``delete``, with the row."""
    left = dict(old)
    for row in new:
        before = left.pop(row.file_path, None)
        if before is None:
            yield "create", row
        elif (what := _difference(before, row)) is not None:
            yield what, row
    for row in left.values():
        yield "delete", row


def change(old: CsvRow | None, new: CsvRow | None) -> Iterator[tuple[str, CsvRow]]:
    """Yield the differences of one file that a run changed: one, or two if its path changed."""
    if new is not None:
        same = old is not None and old.file_path == new.file_path
        yield (_difference(old, new) or "update") if old is not None and same else "create", new
    if old is not None and (new is None or old.file_path != new.file_path):
        yield "delete", old


def _difference(old: CsvRow, new: CsvRow) -> str | None:
    """Return the difference of a file that kept its path, None if its rows are equal."""
    if (old.size, old.last_modified, old.internal_id) != (new.size, new.last_modified, new.internal_id):
        return "update"
    return "change_permission" if old.permissions != new.permissions else None


def differences_written(found: Iterable[tuple[str, CsvRow]]) -> Iterator[str]:
    """Yield a CSV file of differences line by line, its head first."""
    return map(_line, chain([DIFFERENCES], ((operation, *astuple(row)) for operation, row in found)))


def record_of(row: CsvRow, listed: ListedObject, existing: TargetFile) -> Record | None:
    """Return the record for a row of the replaced service's state, None if source or target has another file now.

    That service did not record ETags: an object of the same size that has not changed since is the one that it sent, and
    a file of that size, and of that internal ID if the row has one, is the one that it wrote.
    """
    if int(row.size) != listed.size or existing.size != listed.size:
        return None
    if existing.etag is not None and existing.etag != listed.etag:
        return None  # the next run compares the bytes
    if row.internal_id and existing.internal_id and row.internal_id != existing.internal_id:
        return None
    try:
        if row.last_modified and listed.modified > unix_time(row.last_modified) + _CLOCK_DIFFERENCE:
            return None
    except (ValueError, OverflowError):
        return None
    mode, number = parse_mode(row.permissions), existing.internal_id
    return Record.of_listed(listed, existing.version, file_type=row.file_type, mode=mode, internal_id=number)


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(
        f"'{cell}" if _FORMULA.match(cell) and not _MODE.fullmatch(cell) else cell for cell in cells
    )
    return text.getvalue()
