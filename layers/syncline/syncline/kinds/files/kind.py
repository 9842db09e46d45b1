"""Files: every object of a bucket, with its permissions, at a file manager or in another bucket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

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
from syncline.kinds.files.verify import PERMISSIONS_SET, FileVerification, VerifyResult
from syncline.kinds.kind import (
    GRACE_SECONDS,
    Failure,
    Page,
    StepContext,
    Unfinished,
    poll_intervals,
    would_move,
    would_remove,
)
from syncline.model import Audit, Item, Outcome, Result, Run, Scope, Step

FEWEST_THREADS: Final = 8
MOST_THREADS: Final = 32
"""Requests of one function at the target at a time; several functions share those that the sync allows."""
WAITING: Final = 20.0
"""Seconds for which a function waits for a turn at the target."""
REPORTING: Final = 20.0
"""Seconds that the report of a run may take."""

T = TypeVar("T")
Turn = Callable[[str, int, Callable[[], float]], AbstractContextManager[object] | None]
"""Takes one of a number of turns at a target for the seconds that the function has left; None if all are taken."""

_FOREIGN: Final = "the target has a file that this sync did not write: a conflict, unless its bytes are equal"


@dataclass(frozen=True, slots=True)
class Files:
    """The kind ``files`` for one sync. A group is a share of the keys, an item a key, a fingerprint an ETag.

    ``group_of`` gives the group of a name. ``manager`` is the file manager whose events are read, ``report_to`` the one
    that runs are reported to, and ``reports`` the bucket that the CSV files of runs are written to.
    """

    moves_by = Step.TRANSFER
    share = 1000

    sync: FilesSync
    source: Bucket
    target: Target
    state: FilesState
    http: Http
    turn: Turn
    group_of: Callable[[str], str]
    manager: FileManager | None
    report_to: FileManager | None
    reports: Bucket | None

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        target_events = EventScope()
        if scope.everything:
            target_events, failures = self._target_events()
            if failures and cursor is None:
                yield Page(ScanCursor().to_text(), failures=failures)
        scan = FileScan(self.sync, self.source, self.target, self.state, self.group_of, target_events)
        yield from scan.pages(scope, cursor, context)

    def audit(self, scope: Scope, cursor: str | None, context: StepContext, audit: Audit) -> Iterator[Page]:
        from syncline.kinds.files.audit import FileAudit  # noqa: PLC0415 - few functions audit

        return FileAudit(self.sync, self.source, self.target, self.group_of, audit).pages(scope, cursor, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        transfer = FileTransfer(self.sync, self.source, self.target, self.state.records, context, self._threads)
        return self._in_turn(transfer.items, items, context)

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:  # noqa: ARG002 - nothing is read
        """Yield WOULD_REMOVE or WOULD_MOVE for each item, and nothing for those that a run would only check again.

        A plan reads no bytes, so it cannot tell a conflict from a file that is equal and adopted; its reason says so.
        """
        for item in items:
            task = Task.of(item)
            if task.operation == "remove":
                yield would_remove(item)
            elif task.operation != "confirm":
                listed = self.target.is_listed and task.operation == "put" and bool(item.target)
                foreign = listed and item.target != task.ours and not self.sync.overwrite
                yield would_move(item, _FOREIGN if foreign else None)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[VerifyResult]:
        verification = FileVerification(self.sync, self.target, self.state.records, context, self._threads)
        return self._in_turn(verification.items, items, context)

    def reference(self, group: str) -> str:
        return f"{self.target.name}/{self.sync.target.prefix}#{group}"

    def requests(self) -> int:
        return self.http.requests_made

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        """Send the run's statistics to the file manager, and write its changes to the reports bucket."""
        if self.report_to is None and self.reports is None:
            return
        ended = list(results)
        if self.report_to is not None:
            self.report_to.report(summary(run, ended))
        if self.reports is not None and self.sync.reports is not None:
            folder = f"{self.sync.reports.prefix}{run.sync}/"
            self._write_changes(self.reports, f"{folder}{run.id}", ended)
            if self.sync.reports.full and (run.counts.moved or run.counts.removed):
                self._write_state(self.reports, folder)

    def _write_changes(self, reports: Bucket, name: str, results: Sequence[Result]) -> None:
        """Write the files that a run changed, as they were and as they are, and the differences.

        Raises TIME_SHORT if there are too many for the time.
        """
        pairs = list(self._changed(results, self.state.clock() + REPORTING))
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
        lines = state_csv.written(self._rows(self.state.clock() + REPORTING))
        reports.put_stream(new, (line.encode() for line in lines), state_csv.HEAD)

    def _rows(self, until: float) -> Iterator[state_csv.CsvRow]:
        for number, (name, row) in enumerate(self.state.records.scan()):
            if number % 1000 == 0 and self.state.clock() > until:
                what = f"after {number} files; `syncline state export --reports` writes them all"
                raise SynclineError("TIME_SHORT", f"no time to write the state {what}")
            yield self._row(name, Record.of_row(row))

    def _changed(
        self, results: Sequence[Result], until: float
    ) -> Iterator[tuple[state_csv.CsvRow | None, state_csv.CsvRow | None]]:
        """Yield each file that a run changed: its row before the run, and its row as it is recorded now."""
        wanted = (Outcome.MOVED, Outcome.REMOVED)
        ends = {self.sync.name_of(each.name): each.outcome for each in results if each.outcome in wanted}
        names = sorted(ends)
        for at in range(0, len(names), 100):
            if self.state.clock() > until:
                raise SynclineError("TIME_SHORT", f"no time to write what the run changed, after {at} files")
            files, gone = self.state.records.known(names[at : at + 100])
            for name in names[at : at + 100]:
                if name in files:
                    record = Record.of_row(files[name])
                    yield self._row_before(record.previous), self._row(name, record)
                elif ends[name] is Outcome.REMOVED:
                    previous = RemovedRecord.of_row(gone[name]).previous if name in gone else None
                    path = self.sync.target.prefix + name
                    yield self._row_before(previous) or state_csv.CsvRow(path, "", "", "", "", ""), None

    def _row_before(self, previous: PreviousRecord | None) -> state_csv.CsvRow | None:
        return None if previous is None else self._row(previous.name, previous.record)

    def _row(self, name: str, record: Record) -> state_csv.CsvRow:
        return state_csv.row_of(self.sync.target.prefix + name, record)

    @property
    def _threads(self) -> int:
        return threads_for(self.sync.target.requests)

    def _in_turn(
        self, work: Callable[[Sequence[Item]], Iterable[T]], items: Sequence[Item], context: StepContext
    ) -> Iterator[T | Unfinished]:
        """Do the work with a turn at the target; without one, all items wait."""
        turn = self._wait(context)
        if turn is None:
            yield from (Unfinished(item, waiting=True) for item in items)
            return
        with turn:
            yield from work(items)

    def _wait(self, context: StepContext) -> AbstractContextManager[object] | None:
        """Wait for a turn at the target, so that all functions together make no more requests than the sync allows.

        Return None if all turns stay taken.
        """
        turns = max(1, self.sync.target.requests // self._threads)
        for pause in (*poll_intervals(WAITING), None):
            if context.over:
                break
            # The last requests may still be in progress when the step's time is over.
            turn = self.turn(
                self.target.name, turns, lambda: 0.0 if context.halted() else context.left() + GRACE_SECONDS
            )
            if turn is not None or pause is None:
                return turn
            self.http.policy.sleep(pause)
        return None

    def _target_events(self) -> tuple[EventScope, tuple[Failure, ...]]:
        """Return the scope of the file manager's own events, if they are read, and failures for malformed ones."""
        if self.manager is None:
            return EventScope(), ()
        invalid: list[InvalidEntry] = []
        try:
            events = self.manager.events(on_invalid=invalid.append)
        except SynclineError as error:
            # The scan finds most of their changes without them, so it is not repeated for this error.
            final = SynclineError("BAD_ANSWER", error.what) if error.retried else error
            return EventScope(), (Failure(Item("*", "events"), final),)
        failures = {each.label: Failure(Item("*", each.label), each.error) for each in invalid}
        return EventScope.of(groups_of(self.sync, events, self.state.clock())), tuple(failures.values())


def threads_for(requests: int) -> int:
    """Return the requests at a time of one function, such that three functions make all that are allowed."""
    return min(requests, MOST_THREADS, max(FEWEST_THREADS, requests // 3))


def summary(run: Run, results: Sequence[Result]) -> dict[str, Any]:
    """Return a run's statistics in the form of ``/reportResults``: operations, records, duration, errors by code."""
    counts = run.counts
    errors = Counter(each.code for each in results if each.code is not None)
    permissions = sum(each.reason == PERMISSIONS_SET for each in results)
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
