"""``syncline state``: the records of a sync of files as CSV."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

from syncline.cli.commands_run import config_of
from syncline.cli.context import SOME_FAILED, CommandResult, Context
from syncline.clients.http.client import Http
from syncline.clients.http.listings import InvalidEntry, OnInvalid
from syncline.clients.s3.xml import ListedObject
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.escaping import escape
from syncline.kinds.files import state_csv
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.kind import threads_for
from syncline.kinds.files.parallel import in_parallel
from syncline.kinds.files.records import Record, Row
from syncline.kinds.files.targets import Target, TargetFile
from syncline.kinds.files.wiring import records_of, target_at
from syncline.text import plural
from syncline.wiring.buckets import bucket_at
from syncline.wiring.dependencies import Dependencies

ACTIONS: Final = ("export", "diff", "import")
_MAX_NAMED: Final = 5
"""Most paths that a message names."""
_BATCH: Final = 500
"""Records written at a time."""


def state(  # noqa: PLR0913 - what the command takes
    context: Context, action: str, name: str, file: Path | None, newer: Path | None, *, reports: bool
) -> CommandResult:
    """Carry out one action on a sync's state.

    Raises NO_SUCH_SYNC, errors of the buckets, and USAGE for a sync of another kind, a missing file argument, or a file
    that cannot be read or written.
    """
    if action not in ACTIONS:
        raise SynclineError("USAGE", f"unknown action {action!r}; use one of {', '.join(ACTIONS)}")
    sync = _sync_of(context, name)
    commands = _StateCommands(context, sync, context.deployment.dependencies(Http(), context.now))
    if action == "export":
        return commands.export(file, reports=reports)
    if file is None:
        raise SynclineError("USAGE", f"`syncline state {action}` needs a file: `syncline state {action} NAME FILE`")
    return commands.diff(file, newer, reports=reports) if action == "diff" else commands.import_(file)


def _sync_of(context: Context, name: str) -> FilesSync:
    sync = load_sync(config_of(context.deployment.state, name))
    if not isinstance(sync, FilesSync):
        raise SynclineError("USAGE", f"{name} is a sync of {sync.kind}; only syncs of files have such a state")
    return sync


@dataclass(frozen=True, slots=True)
class _StateCommands:
    """The actions on the state of one sync."""

    context: Context
    sync: FilesSync
    parts: Dependencies

    def export(self, file: Path | None, *, reports: bool) -> CommandResult:
        """Write the present state."""
        count = 0

        def counted() -> Iterator[state_csv.CsvRow]:
            nonlocal count
            for count, row in enumerate(self._rows(), 1):  # noqa: B007 - counted
                yield row

        written_to = self._write("new", state_csv.written(counted()), file, reports=reports)
        self.context.out.line(f"{plural(count, 'file')} of {self.sync.name} written to {written_to}")
        return CommandResult({"files": count, "written": written_to})

    def diff(self, old: Path, new: Path | None, *, reports: bool) -> CommandResult:
        """Write the differences between an older CSV file and a newer one, or the present state."""
        before = {row.file_path: row for row in _read(old)}
        rows = self._rows() if new is None else _read(new)
        counts: Counter[str] = Counter()

        def counted() -> Iterator[tuple[str, state_csv.CsvRow]]:
            for operation, row in state_csv.differences(before, rows):
                counts[operation] += 1
                yield operation, row

        file = old.with_name(f"{old.stem}-differences.csv")
        written_to = self._write("differences", state_csv.differences_written(counted()), file, reports=reports)
        summary = ", ".join(f"{count} {operation}" for operation, count in sorted(counts.items())) or "no differences"
        self.context.out.line(f"{summary}: written to {written_to}")
        return CommandResult({"differences": dict(counts), "written": written_to})

    def import_(self, file: Path) -> CommandResult:
        """Record the files that the replaced service sent, if source and target still have them.

        Every row is compared with the object and with the target's file, since a row alone is no evidence.
        """
        rows: dict[str, state_csv.CsvRow] = {}
        outside: list[str] = []
        for each in _read(file):
            key = self.sync.key_of(each.file_path)
            if key is None:
                outside.append(each.file_path)
            else:
                rows[key] = each
        target, records = target_at(self.sync, self.parts), records_of(self.sync, self.parts)
        imported = changed = absent = 0
        invalid: list[InvalidEntry] = []
        for batch in self._batches(rows, invalid.append):
            found: dict[str, Row | None] = {}
            for row, listed, existing in self._with_target_files(batch, target):
                record = None if existing is None else state_csv.record_of(row, listed, existing)
                if record is not None and record.mode is None:
                    record = replace(record, mode=target.mode(self.sync.path_of(listed.key)))
                if record is not None:
                    found[self.sync.name_of(listed.key)] = record.to_row()
                absent += existing is None
                changed += existing is not None and record is None
            records.write(found)
            imported += len(found)
        out = self.context.out
        out.line(f"{plural(imported, 'file')} of {self.sync.name} imported; they are not sent again")
        if absent or changed or rows:
            words = f"{absent} not at {target.name}, {changed} changed on either side"
            out.line(f"{words}, {len(rows)} no longer at the source: the next run compares them", "yellow")
        if outside:
            are = "row is not a file" if len(outside) == 1 else "rows are not files"
            below = f"{self.sync.name} below {self.sync.target.prefix or '/'}"
            more = f" and {plural(len(outside) - _MAX_NAMED, 'other')}" if len(outside) > _MAX_NAMED else ""
            named = ", ".join(escape(path) for path in outside[:_MAX_NAMED])
            out.line(f"{len(outside)} {are} of {below}, left out: {named}{more}", "yellow")
        for entry in invalid:
            out.line(str(entry.error), "red")
        value = {"taken": imported, "absent": absent, "changed": changed, "gone": len(rows), "outside": len(outside)}
        return CommandResult({**value, "invalid": [each.error.what for each in invalid]}, SOME_FAILED if invalid else 0)

    def _batches(
        self, rows: dict[str, state_csv.CsvRow], on_invalid: OnInvalid
    ) -> Iterator[list[tuple[state_csv.CsvRow, ListedObject]]]:
        """Yield rows with their objects, and remove them from ``rows``."""
        batch: list[tuple[state_csv.CsvRow, ListedObject]] = []
        pages = bucket_at(self.sync.source, self.parts).pages(self.sync.source.prefix, on_invalid=on_invalid)
        for listed in chain.from_iterable(page.objects for page in pages):
            row = rows.pop(listed.key, None)
            if row is not None:
                batch.append((row, listed))
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        yield batch

    def _with_target_files(
        self, batch: Sequence[tuple[state_csv.CsvRow, ListedObject]], target: Target
    ) -> list[tuple[state_csv.CsvRow, ListedObject, TargetFile | None]]:
        """Return rows and objects with the target's files, read in bulk if the target can be listed."""
        shown = target.listed(sorted(self.sync.path_of(listed.key) for _, listed in batch))

        def read(
            each: tuple[state_csv.CsvRow, ListedObject],
        ) -> tuple[state_csv.CsvRow, ListedObject, TargetFile | None]:
            path = self.sync.path_of(each[1].key)
            return (*each, shown.get(path) or target.stat(path))

        return in_parallel(read, batch, threads_for(self.sync.target.requests))

    def _rows(self) -> Iterator[state_csv.CsvRow]:
        for name, row in records_of(self.sync, self.parts).scan():
            yield state_csv.row_of(self.sync.target.prefix + name, Record.of_row(row))

    def _write(self, what: str, lines: Iterator[str], file: Path | None, *, reports: bool) -> str:
        """Write lines to a file or the reports bucket, and return its path or address."""
        if reports:
            bucket = self.sync.reports
            if bucket is None:
                raise SynclineError("USAGE", f"{self.sync.name} has no `reports` in syncs.yaml")
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.context.now()))
            key = f"{bucket.prefix}{self.sync.name}/{stamp}-{what}.csv"
            bucket_at(bucket, self.parts).put_stream(key, (line.encode() for line in lines), state_csv.HEAD)
            return f"s3://{bucket.bucket}/{key}"
        path = file or Path(f"{self.sync.name}.csv")
        try:
            with path.open("w", encoding="utf-8", newline="") as out:
                out.writelines(lines)
        except OSError as error:
            raise SynclineError("USAGE", f"{path} cannot be written: {error.strerror}") from None
        return str(path)


def _read(file: Path) -> Iterator[state_csv.CsvRow]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield from state_csv.read(lines)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SynclineError("USAGE", f"{file} cannot be read: {reason}") from None
