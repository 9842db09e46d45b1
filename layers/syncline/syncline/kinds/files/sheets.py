"""The state of files as CSV, in the columns of the service that Syncline replaces: written, read and compared."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from syncline.clients.file_manager.client import checked_mode
from syncline.clients.s3.head import Head
from syncline.clients.s3.xml import Listed
from syncline.errors import SynclineError
from syncline.kinds.files.records import Record
from syncline.kinds.files.targets import TargetFile

COLUMNS: Final = ("file_path", "permissions", "size", "file_type", "last_modified", "internal_id")
DIFFERENCES: Final = ("operation", *COLUMNS)
HEAD: Final = Head("", 0, "text/csv; charset=utf-8")
"""The type of a sheet in a bucket."""
_FORMULA: Final = re.compile(r"'*[=+@\t\r-]")
"""The beginning of a cell that a spreadsheet takes for a formula, and of one that was protected from that.

Such a cell is written with an apostrophe before it, which spreadsheets do not show and :func:`read` takes away.
"""
_MODE: Final = re.compile(r"[-rwxstST]{9}")
"""Permissions; they may begin with `-`, but are no formula."""
_LONGEST_SIZE: Final = 20
"""Digits of a size in bytes, at most."""
_QUOTED: Final = 100
"""Characters of a wrong value that a message quotes, at most."""
_LATER: Final = 1.0
"""Seconds by which times of two origins may differ for the same object."""


@dataclass(frozen=True, slots=True)
class Row:
    """One file, as the sheet has it: all texts."""

    file_path: str
    permissions: str
    size: str
    file_type: str
    last_modified: str
    internal_id: str

    def cells(self) -> tuple[str, ...]:
        return (
            self.file_path,
            self.permissions,
            self.size,
            self.file_type,
            self.last_modified,
            self.internal_id,
        )


def row_of(path: str, record: Record) -> Row:
    """Return a record as a row."""
    when = dt.datetime.fromtimestamp(record.modified, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Row(path, record.mode or "", str(record.size), record.file_type, when, record.internal_id)


def written(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a sheet line by line, its head first."""
    yield _line(COLUMNS)
    for row in rows:
        yield _line(row.cells())


def read(lines: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of a sheet; raises USAGE with the line of a row that is not a file, or one that has been before."""
    reader = csv.reader(lines)
    paths: set[str] = set()
    try:
        head = next(reader, None)
        if head is None or tuple(cell.strip() for cell in head) != COLUMNS:
            found = "missing" if head is None else _shortened(",".join(head))
            what = f"the first line of the sheet must be {','.join(COLUMNS)}; it is {found}"
            raise SynclineError("USAGE", what)
        for line in reader:
            if not line:
                continue
            cells = [cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for cell in line]
            if (wrong := _wrong(cells)) is not None:
                raise SynclineError("USAGE", f"line {reader.line_num} of the sheet{wrong}")
            if cells[0] in paths:
                raise SynclineError("USAGE", f"line {reader.line_num} of the sheet names {cells[0]!r} again")
            paths.add(cells[0])
            yield Row(*cells)
    except csv.Error as error:
        raise SynclineError("USAGE", f"line {reader.line_num} of the sheet cannot be read: {error}") from None


def _wrong(cells: Sequence[str]) -> str | None:
    """Return what keeps cells from being a row, as the end of a sentence that begins with the line; None if they are one."""
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


def differences(old: Mapping[str, Row], new: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Yield the differences between two sheets: ``create``, ``update``, ``change_permission`` and ``delete``, with the row."""
    left = dict(old)
    for row in new:
        before = left.pop(row.file_path, None)
        if before is None:
            yield "create", row
        elif (what := _between(before, row)) is not None:
            yield what, row
    for row in left.values():
        yield "delete", row


def change(old: Row | None, new: Row | None) -> Iterator[tuple[str, Row]]:
    """Yield the differences of one file that was surely touched; under another path it is two."""
    if new is not None:
        same = old is not None and old.file_path == new.file_path
        yield (_between(old, new) or "update") if old is not None and same else "create", new
    if old is not None and (new is None or old.file_path != new.file_path):
        yield "delete", old


def _between(old: Row, new: Row) -> str | None:
    """Return the difference of a file that stayed at its path, None if its rows are the same."""
    if (old.size, old.last_modified, old.internal_id) != (new.size, new.last_modified, new.internal_id):
        return "update"
    return "change_permission" if old.permissions != new.permissions else None


def differences_written(found: Iterable[tuple[str, Row]]) -> Iterator[str]:
    """Yield differences as a sheet line by line, its head first."""
    yield _line(DIFFERENCES)
    for operation, row in found:
        yield _line((operation, *row.cells()))


def record_of(row: Row, listed: Listed, there: TargetFile) -> Record | None:
    """Return the record that a row of the replaced service's state leads to, None if either side has another file now.

    That service knew no ETags: an object of the same size that has not changed since is the one that it sent, and a file
    of that size, and of that internal ID where the row has one, is the one that it wrote.
    """
    if int(row.size) != listed.size or there.size != listed.size:
        return None
    if there.etag is not None and there.etag != listed.etag:
        return None  # the next run compares the bytes
    if row.internal_id and there.internal_id and row.internal_id != there.internal_id:
        return None
    if row.last_modified:
        try:
            when = dt.datetime.fromisoformat(row.last_modified)
        except ValueError:
            return None
        when = when if when.tzinfo else when.replace(tzinfo=dt.UTC)
        if listed.modified > when.timestamp() + _LATER:
            return None
    return Record(
        listed.etag,
        listed.size,
        int(listed.modified),
        there.version,
        file_type=row.file_type,
        mode=checked_mode(row.permissions),
        internal_id=there.internal_id,
    )


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(
        f"'{cell}" if _FORMULA.match(cell) and not _MODE.fullmatch(cell) else cell for cell in cells
    )
    return text.getvalue()
