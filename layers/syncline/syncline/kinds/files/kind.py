"""Files: every object of a bucket, with its permissions, at a file manager or in another bucket."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from syncline.clients.file_manager.client import FileManager
from syncline.clients.http.client import Http
from syncline.clients.http.listings import InvalidEntry
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.files import state_csv
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.discover import FileScan, FilesState, ScanCursor
from syncline.kinds.files.events import EventScope, groups_of
from syncline.kinds.files.records import PreviousRecord, Record, RemovedRecord, Task
from syncline.kinds.files.targets import Target
from syncline.kinds.files.transfer import FileTransfer, TransferResult
from syncline.kinds.files.verify import PERMISSIONS_SET, FileVerification
from syncline.kinds.kind import (
    GRACE_SECONDS,
    Completed,
    Failure,
    Page,
    StepContext,
    Unfinished,
    poll_intervals,
    would_move,
    would_remove,
)
from syncline.model import Item, Outcome, Result, Run, Scope, Step

FEWEST_THREADS: Final = 8
MOST_THREADS: Final = 32
"""Requests of one function at the target at a time; several functions share those that the sync allows."""
WAITING: Final = 20.0
"""Seconds for which a function waits for a turn at the target."""
REPORTING: Final = 20.0
"""Seconds that the report of a run may take."""

Turn = Callable[[str, int, Callable[[], float]], AbstractContextManager[object] | None]
"""Takes one of a number of turns at a target for the seconds that the function has left; None if all are taken."""


@dataclass(frozen=True, slots=True)
class FilesDependencies:
    """The parts that a sync of files is built from. ``group_of`` gives the group of a name.

    ``manager`` is the file manager whose events are read, ``report_to`` the one that runs are reported to, and
    ``reports`` the bucket that the CSV files of runs are written to.
    """

    state: FilesState
    http: Http
    turn: Turn
    group_of: Callable[[str], str]
    manager: FileManager | None = None
    sleep: Callable[[float], None] = time.sleep
    report_to: FileManager | None = None
    reports: Bucket | None = None


class Files:
    """The kind ``files`` for one sync. A group is a share of the keys, an item a key, a fingerprint an ETag."""

    moves_by = Step.TRANSFER
    share = 1000

    def __init__(self, sync: FilesSync, source: Bucket, target: Target, deps: FilesDependencies) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._deps = deps

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        target_events = EventScope()
        if scope.everything:
            target_events, failures = self._target_events()
            if failures and cursor is None:
                yield Page(ScanCursor().to_text(), failures=failures)
        scan = FileScan(self._sync, self._source, self._target, self._deps.state, self._deps.group_of, target_events)
        yield from scan.pages(scope, cursor, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        turn = self._wait(context)
        if turn is None:
            yield from (Unfinished(item, waiting=True) for item in items)
            return
        with turn:
            records = self._deps.state.records
            transfer = FileTransfer(self._sync, self._source, self._target, records, context, self._threads())
            yield from transfer.items(items)

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:  # noqa: ARG002 - nothing is read
        """Yield WOULD_REMOVE or WOULD_MOVE for each item, and nothing for those that a run would only check again."""
        for item in items:
            task = Task.of(item)
            if task.operation == "remove":
                yield would_remove(item)
            elif task.operation != "confirm":
                yield would_move(item)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        turn = self._wait(context)
        if turn is None:
            yield from (Unfinished(item, waiting=True) for item in items)
            return
        with turn:
            records = self._deps.state.records
            yield from FileVerification(self._sync, self._target, records, context, self._threads()).items(items)

    def reference(self, group: str) -> str:
        return f"{self._target.name}/{self._sync.target.prefix}#{group}"

    def requests(self) -> int:
        return self._deps.http.requests_made

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        """Send the run's statistics to the file manager, and write its changes to the reports bucket."""
        deps = self._deps
        if deps.report_to is None and deps.reports is None:
            return
        ended = list(results)
        if deps.report_to is not None:
            deps.report_to.report(summary(run, ended))
        if deps.reports is not None and self._sync.reports is not None:
            folder = f"{self._sync.reports.prefix}{run.sync}/"
            self._write_changes(deps.reports, f"{folder}{run.id}", ended)
            if self._sync.reports.full and (run.counts.moved or run.counts.removed):
                self._write_state(deps.reports, folder)

    def _write_changes(self, reports: Bucket, name: str, results: Sequence[Result]) -> None:
        """Write the files that a run changed, as they were and as they are, and the differences.

        Raises TIME_SHORT if there are too many for the time.
        """
        pairs = list(self._changed(results, self._deps.state.clock() + REPORTING))
        wanted = {
            "differences": state_csv.differences_written(each for pair in pairs for each in state_csv.change(*pair))
        }
        if pairs:
            wanted["before"] = state_csv.written(old for old, _ in pairs if old is not None and old.size)
            wanted["after"] = state_csv.written(new for _, new in pairs if new is not None)
        for what, lines in wanted.items():
            reports.put_stream(f"{name}-{what}.csv", (line.encode() for line in lines), state_csv.HEAD)

    def _write_state(self, reports: Bucket, folder: str) -> None:
        """Write the state of all files to ``new.csv``, of which the previous version becomes ``old.csv``.

        Raises TIME_SHORT if there are too many for the time; then the previous ``new.csv`` is kept.
        """
        new = f"{folder}new.csv"
        before = reports.head(new)
        if before is not None:
            reports.copy(reports, new, f"{folder}old.csv", before)
        lines = state_csv.written(self._rows(self._deps.state.clock() + REPORTING))
        reports.put_stream(new, (line.encode() for line in lines), state_csv.HEAD)

    def _rows(self, until: float) -> Iterator[state_csv.CsvRow]:
        for number, (name, row) in enumerate(self._deps.state.records.scan()):
            if number % 1000 == 0 and self._deps.state.clock() > until:
                what = f"after {number} files; `syncline state export --reports` writes them all"
                raise SynclineError("TIME_SHORT", f"no time to write the state {what}")
            yield state_csv.row_of(self._sync.target.prefix + name, Record.of_row(row))

    def _changed(
        self, results: Sequence[Result], until: float
    ) -> Iterator[tuple[state_csv.CsvRow | None, state_csv.CsvRow | None]]:
        """Yield each file that a run changed: its row before the run, and its row as it is recorded now."""
        wanted = (Outcome.MOVED, Outcome.REMOVED)
        ends = {self._sync.name_of(each.name): each.outcome for each in results if each.outcome in wanted}
        start, names = self._sync.target.prefix, sorted(ends)
        for at in range(0, len(names), 100):
            if self._deps.state.clock() > until:
                raise SynclineError("TIME_SHORT", f"no time to write what the run changed, after {at} files")
            files, gone = self._deps.state.records.known(names[at : at + 100])
            for name in names[at : at + 100]:
                if name in files:
                    record = Record.of_row(files[name])
                    yield self._row_before(record.previous), state_csv.row_of(start + name, record)
                elif ends[name] is Outcome.REMOVED:
                    previous = RemovedRecord.of_row(gone[name]).previous if name in gone else None
                    yield self._row_before(previous) or state_csv.CsvRow(start + name, "", "", "", "", ""), None

    def _row_before(self, previous: PreviousRecord | None) -> state_csv.CsvRow | None:
        return None if previous is None else state_csv.row_of(self._sync.target.prefix + previous.name, previous.record)

    def _threads(self) -> int:
        return threads_for(self._sync.target.requests)

    def _wait(self, context: StepContext) -> AbstractContextManager[object] | None:
        """Wait for a turn at the target, so that all functions together make no more requests than the sync allows.

        Return None if all turns stay taken.
        """
        turns = max(1, self._sync.target.requests // self._threads())
        for pause in (*poll_intervals(WAITING), None):
            if context.over:
                break
            # The last requests may still be in progress when the step's time is over.
            turn = self._deps.turn(
                self._target.name, turns, lambda: 0.0 if context.halted() else context.left() + GRACE_SECONDS
            )
            if turn is not None or pause is None:
                return turn
            self._deps.sleep(pause)
        return None

    def _target_events(self) -> tuple[EventScope, tuple[Failure, ...]]:
        """Return the scope of the file manager's own events, if they are read, and failures for malformed ones."""
        if self._deps.manager is None:
            return EventScope(), ()
        invalid: list[InvalidEntry] = []
        try:
            events = self._deps.manager.events(on_invalid=invalid.append)
        except SynclineError as error:
            # The scan finds most of their changes without them, so it is not repeated for this error.
            final = SynclineError("BAD_ANSWER", error.what) if error.retried else error
            return EventScope(), (Failure(Item("*", "events"), final),)
        failures = {each.label: Failure(Item("*", each.label), each.error) for each in invalid}
        return EventScope.of(groups_of(self._sync, events, self._deps.state.clock())), tuple(failures.values())


def threads_for(requests: int) -> int:
    """Return the requests at a time of one function, such that three functions make all that are allowed."""
    return min(requests, MOST_THREADS, max(FEWEST_THREADS, requests // 3))


def summary(run: Run, results: Iterable[Result]) -> dict[str, Any]:
    """Return a run's statistics in the form of ``/reportResults``: operations, records, duration, errors by code."""
    counts = run.counts
    ended = list(results)
    errors = Counter(each.code for each in ended if each.code is not None)
    permissions = sum(each.reason == PERMISSIONS_SET for each in ended)
    operations = {
        "saved": counts.moved - permissions,
        "permissions": permissions,
        "deleted": counts.removed,
        "unchanged": counts.skipped,
    }
    return {
        "run": run.id,
        "sync": run.sync,
        "trigger": run.trigger.value,
        "status": run.status.value,
        "started": run.started,
        "duration": round((run.ended or run.started) - run.started, 3),
        "operations": operations,
        "records": counts.moved + counts.skipped,
        "bytes": counts.bytes,
        "failed": counts.failed,
        "conflicts": counts.conflict,
        "errors": dict(sorted(errors.items())),
    }
