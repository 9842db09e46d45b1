"""``syncline state``: what is remembered of a sync's files, as CSV: out, in, and compared."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from syncline.cli.commands_run import config_of
from syncline.cli.context import Answer, Context
from syncline.cli.show import many
from syncline.clients.http import Http
from syncline.config import load_sync
from syncline.config.files import FilesSync
from syncline.errors import SynclineError
from syncline.kinds.files import sheets
from syncline.kinds.files.records import Record
from syncline.secrets import Secrets
from syncline.stores.files import FileRecords
from syncline.table import Database
from syncline.wiring.buckets import bucket_at
from syncline.wiring.parts import Parts

ACTIONS: Final = ("export", "diff", "import")
_PORTION: Final = 500
"""Records written at a time."""


def state(  # noqa: PLR0913 - what the command takes
    context: Context, action: str, name: str, file: Path | None, other: Path | None, *, reports: bool
) -> Answer:
    """Carry out one action on a sync's state.

    Raises NO_SUCH_SYNC, USAGE for a sync that is not of files or for an action without its file, what the buckets
    answer, and what keeps a file from being read or written.
    """
    if action not in ACTIONS:
        raise SynclineError("USAGE", f"{action} is none of {', '.join(ACTIONS)}")
    sync = load_sync(config_of(context.target.state, name))
    if not isinstance(sync, FilesSync):
        raise SynclineError("USAGE", f"{name} is a sync of {sync.kind}; only one of files has such a state")
    own = _State(context, sync)
    match action:
        case "export":
            return own.export(file, reports=reports)
        case "diff":
            return own.diff(_given(file, action), other, reports=reports)
    return own.take_in(_given(file, action))


def _given(file: Path | None, action: str) -> Path:
    if file is None:
        raise SynclineError("USAGE", f"`syncline state {action}` needs a file")
    return file


class _State:
    """The state of one sync."""

    def __init__(self, context: Context, sync: FilesSync) -> None:
        self._context = context
        self._sync = sync
        target = context.target
        database = Database(target.table)
        self._records = FileRecords(database, sync.name, context.now)
        # References to variables are those of the functions, not of this person's shell.
        secrets = Secrets(lambda: target.client("secretsmanager"), lambda: target.client("ssm"), target.environ or {})
        self._parts = Parts(secrets, Http(), target.state, database)

    def export(self, file: Path | None, *, reports: bool) -> Answer:
        """Write the state as it is now."""
        counted = _Counted(self._rows())
        where = self._write("new", sheets.written(counted), file, reports=reports)
        self._context.out.line(f"{many(counted.count, 'file')} of {self._sync.name} written to {where}")
        return Answer({"files": counted.count, "written": where})

    def diff(self, old: Path, new: Path | None, *, reports: bool) -> Answer:
        """Write what happened between an older sheet and a newer one, or the state as it is now."""
        before = {row.file_path: row for row in _read(old)}
        rows = self._rows() if new is None else _read(new)
        counts: dict[str, int] = {}

        def counted() -> Iterator[tuple[str, sheets.Row]]:
            for operation, row in sheets.differences(before, rows):
                counts[operation] = counts.get(operation, 0) + 1
                yield operation, row

        target = old.with_name(f"{old.stem}-differences.csv")
        where = self._write("differences", sheets.differences_written(counted()), target, reports=reports)
        told = ", ".join(f"{count} {operation}" for operation, count in sorted(counts.items())) or "no differences"
        self._context.out.line(f"{told}: written to {where}")
        return Answer({"differences": counts, "written": where})

    def take_in(self, file: Path) -> Answer:
        """Remember what the replaced service had sent, as far as the objects are still the same."""
        rows = {key: row for row in _read(file) if (key := self._sync.key_of(row.file_path)) is not None}
        bucket = bucket_at(self._sync.source, self._parts)
        taken = other = 0
        waiting: dict[str, str | None] = {}
        for listed in chain.from_iterable(page.objects for page in bucket.pages(self._sync.source.prefix)):
            row = rows.pop(listed.key, None)
            record = None if row is None else sheets.record_of(row, listed)
            if record is None:
                other += row is not None
                continue
            waiting[listed.key] = record.to_text()
            taken += 1
            if len(waiting) >= _PORTION:
                self._records.write(waiting)
                waiting = {}
        self._records.write(waiting)
        out = self._context.out
        out.line(f"{many(taken, 'file')} of {self._sync.name} taken in; they are not sent again")
        if other or rows:
            out.line(
                f"{other} changed since, {len(rows)} no longer at the source: the next run looks at them", "yellow"
            )
        return Answer({"taken": taken, "changed": other, "gone": len(rows)})

    def _rows(self) -> Iterator[sheets.Row]:
        for key, text in self._records.behind(""):
            yield sheets.row_of(self._sync.path_of(key), Record.of_text(text))

    def _write(self, what: str, lines: Iterator[str], file: Path | None, *, reports: bool) -> str:
        """Write lines to a file or the reports bucket; where they are."""
        if reports:
            place = self._sync.reports
            if place is None:
                raise SynclineError("USAGE", f"{self._sync.name} has no `reports` in syncs.yaml")
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._context.now()))
            key = f"{place.prefix}{self._sync.name}/{stamp}-{what}.csv"
            bucket_at(place, self._parts).put_stream(key, (line.encode() for line in lines), sheets.HEAD)
            return f"s3://{place.bucket}/{key}"
        path = file or Path(f"{self._sync.name}.csv")
        try:
            with path.open("w", encoding="utf-8", newline="") as out:
                out.writelines(lines)
        except OSError as error:
            raise SynclineError("USAGE", f"{path} cannot be written: {error.strerror}") from None
        return str(path)


class _Counted:
    """Rows, counted as they pass."""

    def __init__(self, rows: Iterable[sheets.Row]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[sheets.Row]:
        for row in self._rows:
            self.count += 1
            yield row


def _read(file: Path) -> Iterator[sheets.Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield from sheets.read(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise SynclineError("USAGE", f"{file} cannot be read: {error}") from None
