"""``syncline state``: export, import and compare the records of a sync's files, as CSV."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from syncline.cli.commands_run import config_of
from syncline.cli.context import SOME_FAILED, CommandResult, Context
from syncline.cli.output import plural
from syncline.clients.http.client import Http
from syncline.clients.http.listings import InvalidEntry, OnInvalid
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.xml import ListedObject
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.files import state_csv
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.kind import threads_for
from syncline.kinds.files.parallel import in_parallel
from syncline.kinds.files.records import Record
from syncline.kinds.files.targets import Target, TargetFile
from syncline.kinds.files.wiring import records_of, target_at
from syncline.secrets import Secrets
from syncline.store.table import Database
from syncline.visible import visible
from syncline.wiring.buckets import bucket_at
from syncline.wiring.dependencies import Dependencies

ACTIONS: Final = ("export", "diff", "import")
_NAMED: Final = 5
"""Most paths that a message names."""
_PORTION: Final = 500
"""Records written at a time."""


def state(  # noqa: PLR0913 - what the command takes
    context: Context, action: str, name: str, file: Path | None, other: Path | None, *, reports: bool
) -> CommandResult:
    """Carry out one action on a sync's state.

    Raises NO_SUCH_SYNC, errors of the buckets, and USAGE for a sync of another kind, a missing file argument, or a file
    that cannot be read or written.
    """
    if action not in ACTIONS:
        raise SynclineError("USAGE", f"unknown action {action!r}; there are {', '.join(ACTIONS)}")
    sync = load_sync(config_of(context.deployment.state, name))
    if not isinstance(sync, FilesSync):
        raise SynclineError("USAGE", f"{name} is a sync of {sync.kind}; only one of files has such a state")
    actions = _State(context, sync)
    match action:
        case "export":
            return actions.export(file, reports=reports)
        case "diff":
            return actions.diff(_given(file, action), other, reports=reports)
    return actions.import_(_given(file, action))


def _given(file: Path | None, action: str) -> Path:
    if file is None:
        raise SynclineError("USAGE", f"`syncline state {action}` needs a file: `syncline state {action} NAME FILE`")
    return file


class _State:
    """The state of one sync."""

    def __init__(self, context: Context, sync: FilesSync) -> None:
        self._context = context
        self._sync = sync
        deployment = context.deployment
        database = Database(deployment.table)
        # References to variables mean those of the functions, not of the user's shell.
        clients = (lambda: deployment.client("secretsmanager"), lambda: deployment.client("ssm"))
        secrets = Secrets(*clients, deployment.environ or {}, local=deployment.local)
        self._parts = Dependencies(secrets, Http(), deployment.state, database, context.now)
        self._records = records_of(sync, self._parts)

    def export(self, file: Path | None, *, reports: bool) -> CommandResult:
        """Write the present state."""
        counted = _Counted(self._rows())
        where = self._write("new", state_csv.written(counted), file, reports=reports)
        self._context.out.line(f"{plural(counted.count, 'file')} of {self._sync.name} written to {where}")
        return CommandResult({"files": counted.count, "written": where})

    def diff(self, old: Path, new: Path | None, *, reports: bool) -> CommandResult:
        """Write the differences between an older CSV file and a newer one, or the present state."""
        before = {row.file_path: row for row in _read(old)}
        rows = self._rows() if new is None else _read(new)
        counts: dict[str, int] = {}

        def counted() -> Iterator[tuple[str, state_csv.CsvRow]]:
            for operation, row in state_csv.differences(before, rows):
                counts[operation] = counts.get(operation, 0) + 1
                yield operation, row

        target = old.with_name(f"{old.stem}-differences.csv")
        where = self._write("differences", state_csv.differences_written(counted()), target, reports=reports)
        summary = ", ".join(f"{count} {operation}" for operation, count in sorted(counts.items())) or "no differences"
        self._context.out.line(f"{summary}: written to {where}")
        return CommandResult({"differences": counts, "written": where})

    def import_(self, file: Path) -> CommandResult:
        """Record the files that the replaced service sent, if source and target still have them.

        Every row is compared with the object and with the target's file, since a row alone is no evidence.
        """
        rows: dict[str, state_csv.CsvRow] = {}
        outside: list[str] = []
        for each in _read(file):
            key = self._sync.key_of(each.file_path)
            if key is None:
                outside.append(each.file_path)
            else:
                rows[key] = each
        bucket = bucket_at(self._sync.source, self._parts)
        read = _Target(self._sync, target_at(self._sync, self._parts))
        taken = changed = absent = 0
        invalid: list[InvalidEntry] = []
        for portion in self._portions(rows, bucket, invalid.append):
            found: dict[str, list[Any] | None] = {}
            for row, listed, existing in read.files(portion):
                record = None if existing is None else state_csv.record_of(row, listed, existing)
                if record is not None and record.mode is None:
                    record = replace(record, mode=read.target.mode(self._sync.path_of(listed.key)))
                if record is not None:
                    found[self._sync.name_of(listed.key)] = record.to_row()
                absent += existing is None
                changed += existing is not None and record is None
            self._records.write(found)
            taken += len(found)
        out, target = self._context.out, read.target.name
        out.line(f"{plural(taken, 'file')} of {self._sync.name} imported; they are not sent again")
        if absent or changed or rows:
            words = f"{absent} not at {target}, {changed} changed on either side, {len(rows)} no longer at the source"
            out.line(f"{words}: the next run compares them", "yellow")
        if outside:
            are = "row is not a file" if len(outside) == 1 else "rows are not files"
            below = f"{self._sync.name} below {self._sync.target.prefix or '/'}"
            more = f" and {plural(len(outside) - _NAMED, 'other')}" if len(outside) > _NAMED else ""
            named = ", ".join(visible(path) for path in outside[:_NAMED])
            out.line(f"{len(outside)} {are} of {below}, left out: {named}{more}", "yellow")
        for entry in invalid:
            out.line(str(entry.error), "red")
        value = {"taken": taken, "absent": absent, "changed": changed, "gone": len(rows), "outside": len(outside)}
        return CommandResult({**value, "invalid": [each.error.what for each in invalid]}, SOME_FAILED if invalid else 0)

    def _portions(
        self, rows: dict[str, state_csv.CsvRow], bucket: Bucket, odd: OnInvalid
    ) -> Iterator[list[tuple[state_csv.CsvRow, ListedObject]]]:
        """Yield rows with their objects, and remove them from ``rows``."""
        portion: list[tuple[state_csv.CsvRow, ListedObject]] = []
        for listed in chain.from_iterable(
            page.objects for page in bucket.pages(self._sync.source.prefix, on_invalid=odd)
        ):
            row = rows.pop(listed.key, None)
            if row is not None:
                portion.append((row, listed))
            if len(portion) >= _PORTION:
                yield portion
                portion = []
        yield portion

    def _rows(self) -> Iterator[state_csv.CsvRow]:
        for name, row in self._records.scan():
            yield state_csv.row_of(self._sync.target.prefix + name, Record.of_row(row))

    def _write(self, what: str, lines: Iterator[str], file: Path | None, *, reports: bool) -> str:
        """Write lines to a file or the reports bucket, and return its path or address."""
        if reports:
            bucket = self._sync.reports
            if bucket is None:
                raise SynclineError("USAGE", f"{self._sync.name} has no `reports` in syncs.yaml")
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._context.now()))
            key = f"{bucket.prefix}{self._sync.name}/{stamp}-{what}.csv"
            bucket_at(bucket, self._parts).put_stream(key, (line.encode() for line in lines), state_csv.HEAD)
            return f"s3://{bucket.bucket}/{key}"
        path = file or Path(f"{self._sync.name}.csv")
        try:
            with path.open("w", encoding="utf-8", newline="") as out:
                out.writelines(lines)
        except OSError as error:
            raise SynclineError("USAGE", f"{path} cannot be written: {error.strerror}") from None
        return str(path)


@dataclass(frozen=True, slots=True)
class _Target:
    """The target of a sync, read for several files at a time."""

    sync: FilesSync
    target: Target

    def files(
        self, portion: Sequence[tuple[state_csv.CsvRow, ListedObject]]
    ) -> list[tuple[state_csv.CsvRow, ListedObject, TargetFile | None]]:
        """Return rows and objects with the target's files, read in bulk if the target can be listed."""
        paths = {listed.key: self.sync.path_of(listed.key) for _, listed in portion}
        shown = self.target.listed(sorted(paths.values()))

        def read(
            each: tuple[state_csv.CsvRow, ListedObject],
        ) -> tuple[state_csv.CsvRow, ListedObject, TargetFile | None]:
            path = paths[each[1].key]
            return (*each, shown.get(path) or self.target.stat(path))

        return in_parallel(read, portion, threads_for(self.sync.target.requests))


class _Counted:
    """An iterable that counts the rows it yields."""

    def __init__(self, rows: Iterable[state_csv.CsvRow]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[state_csv.CsvRow]:
        for row in self._rows:
            self.count += 1
            yield row


def _read(file: Path) -> Iterator[state_csv.CsvRow]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield from state_csv.read(lines)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SynclineError("USAGE", f"{file} cannot be read: {reason}") from None
