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
from syncline.clients.http.listings import Odd
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.files import sheets
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.discover import Cursor, Memory, Scan
from syncline.kinds.files.events import Hints, groups_in, groups_of, hints_of
from syncline.kinds.files.records import Gone, PreviousRecord, Record, Task
from syncline.kinds.files.targets import Target
from syncline.kinds.files.transfer import Answer, Transfer
from syncline.kinds.files.verify import PERMISSIONS_SET, Verify
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
"""Requests at the target at a time in one function; several functions share what the sync allows."""
WAITING: Final = 20.0
"""Seconds for which a function waits for its turn at the target."""
REPORTING: Final = 20.0
"""Seconds that the report of a run may take."""

Turn = Callable[[str, int, Callable[[], float]], AbstractContextManager[object] | None]
"""Takes one of so many turns at a target, for as long as the function has seconds left; None if all are taken."""


@dataclass(frozen=True, slots=True)
class Means:
    """The parts of the kind: ``group_of`` gives the group of a name, ``manager`` the API whose events are asked for.

    ``told`` is the API that is told how runs ended, ``reports`` the bucket that their changes are written to.
    """

    memory: Memory
    http: Http
    turn: Turn
    group_of: Callable[[str], str]
    manager: FileManager | None = None
    sleep: Callable[[float], None] = time.sleep
    told: FileManager | None = None
    reports: Bucket | None = None


class Files:
    """The kind ``files`` for one sync. A group is a share of the keys, an item a key, a fingerprint an ETag."""

    moves_by = Step.TRANSFER
    share = 1000

    def __init__(self, sync: FilesSync, source: Bucket, target: Target, means: Means) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._means = means

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        told = Hints()
        if scope.everything:
            told, failures = self._told()
            if failures and cursor is None:
                yield Page(Cursor().to_text(), failures=failures)
        scan = Scan(self._sync, self._source, self._target, self._means.memory, self._means.group_of, told)
        yield from scan.pages(scope, cursor, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[Answer]:
        turn = self._wait(context)
        if turn is None:
            yield from (Unfinished(item, waiting=True) for item in items)
            return
        with turn:
            records = self._means.memory.records
            transfer = Transfer(self._sync, self._source, self._target, records, context, self._threads())
            yield from transfer.items(items)

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:  # noqa: ARG002 - nothing is read
        """Tell removals from files that would be moved, and leave out those that a run would only look at again."""
        for item in items:
            task = Task.of(item)
            if task.what == "remove":
                yield would_remove(item)
            elif task.what != "confirm":
                yield would_move(item)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        turn = self._wait(context)
        if turn is None:
            yield from (Unfinished(item, waiting=True) for item in items)
            return
        with turn:
            records = self._means.memory.records
            yield from Verify(self._sync, self._target, records, context, self._threads()).items(items)

    def reference(self, group: str) -> str:
        return f"{self._target.name}/{self._sync.target.prefix}#{group}"

    def changed_groups(self, event: object) -> tuple[str, ...]:
        return groups_in(self._sync, event, self._means.memory.clock())

    def requests(self) -> int:
        return self._means.http.requests_made

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        """Send the run's statistics to the file manager, and write what it changed into the reports bucket."""
        means = self._means
        if means.told is None and means.reports is None:
            return
        told = list(results)
        if means.told is not None:
            means.told.report(summary(run, told))
        if means.reports is not None and self._sync.reports is not None:
            folder = f"{self._sync.reports.prefix}{run.sync}/"
            self._write_changes(means.reports, f"{folder}{run.id}", told)
            if self._sync.reports.full and (run.counts.moved or run.counts.removed):
                self._write_state(means.reports, folder)

    def _write_changes(self, reports: Bucket, name: str, results: Sequence[Result]) -> None:
        """Write what a run changed: the files it touched as they were and as they are, and the differences.

        Raises TIME_SHORT where there are too many for the time.
        """
        pairs = list(self._changed(results, self._means.memory.clock() + REPORTING))
        wanted = {"differences": sheets.differences_written(each for pair in pairs for each in sheets.change(*pair))}
        if pairs:
            wanted["before"] = sheets.written(old for old, _ in pairs if old is not None and old.size)
            wanted["after"] = sheets.written(new for _, new in pairs if new is not None)
        for what, lines in wanted.items():
            reports.put_stream(f"{name}-{what}.csv", (line.encode() for line in lines), sheets.HEAD)

    def _write_state(self, reports: Bucket, folder: str) -> None:
        """Write the state of all files as ``new.csv``; what that was before becomes ``old.csv``.

        Raises TIME_SHORT where there are too many for the time; then the sheet of before stays.
        """
        new = f"{folder}new.csv"
        before = reports.head(new)
        if before is not None:
            reports.copy(reports, new, f"{folder}old.csv", before)
        lines = sheets.written(self._rows(self._means.memory.clock() + REPORTING))
        reports.put_stream(new, (line.encode() for line in lines), sheets.HEAD)

    def _rows(self, until: float) -> Iterator[sheets.Row]:
        for number, (name, row) in enumerate(self._means.memory.records.scan()):
            if number % 1000 == 0 and self._means.memory.clock() > until:
                what = f"after {number} files; `syncline state export --reports` writes them all"
                raise SynclineError("TIME_SHORT", f"no time to write the state {what}")
            yield sheets.row_of(self._sync.target.prefix + name, Record.of_row(row))

    def _changed(
        self, results: Sequence[Result], until: float
    ) -> Iterator[tuple[sheets.Row | None, sheets.Row | None]]:
        """Yield each file that a run changed, before and after; after is as it is recorded now."""
        wanted = (Outcome.MOVED, Outcome.REMOVED)
        ends = {self._sync.name_of(each.name): each.outcome for each in results if each.outcome in wanted}
        start, names = self._sync.target.prefix, sorted(ends)
        for at in range(0, len(names), 100):
            if self._means.memory.clock() > until:
                raise SynclineError("TIME_SHORT", f"no time to write what the run changed, after {at} files")
            files, gone = self._means.memory.records.known(names[at : at + 100])
            for name in names[at : at + 100]:
                if name in files:
                    record = Record.of_row(files[name])
                    yield self._row_before(record.was), sheets.row_of(start + name, record)
                elif ends[name] is Outcome.REMOVED:
                    was = Gone.of_row(gone[name]).was if name in gone else None
                    yield self._row_before(was) or sheets.Row(start + name, "", "", "", "", ""), None

    def _row_before(self, was: PreviousRecord | None) -> sheets.Row | None:
        return None if was is None else sheets.row_of(self._sync.target.prefix + was.name, was.record)

    def _threads(self) -> int:
        return threads_for(self._sync.target.requests)

    def _wait(self, context: StepContext) -> AbstractContextManager[object] | None:
        """A turn at the target, so that all functions together make no more requests than the sync allows."""
        turns = max(1, self._sync.target.requests // self._threads())
        for pause in (*poll_intervals(WAITING), None):
            if context.over:
                break
            # The last requests may be under way when the step's time is over.
            turn = self._means.turn(
                self._target.name, turns, lambda: 0.0 if context.halted() else context.left() + GRACE_SECONDS
            )
            if turn is not None or pause is None:
                return turn
            self._means.sleep(pause)
        return None

    def _told(self) -> tuple[Hints, tuple[Failure, ...]]:
        """Return what the file manager's own events name, if they are asked for, and failures for malformed ones."""
        if self._means.manager is None:
            return Hints(), ()
        odd: list[Odd] = []
        try:
            events = self._means.manager.events(odd=odd.append)
        except SynclineError as error:
            # The scan finds most of what they would have told.
            return Hints(), (Failure(Item("*", "events"), _final(error)),)
        failures = {each.label: Failure(Item("*", each.label), each.error) for each in odd}
        return hints_of(groups_of(self._sync, events, self._means.memory.clock())), tuple(failures.values())


def threads_for(requests: int) -> int:
    """Return the requests at a time of one function: so many that three functions make use of all that are allowed."""
    return min(requests, MOST_THREADS, max(FEWEST_THREADS, requests // 3))


def _final(error: SynclineError) -> SynclineError:
    """Return the error as one for which the scan is not repeated."""
    return SynclineError("BAD_ANSWER", error.what) if error.retried else error


def summary(run: Run, results: Iterable[Result]) -> dict[str, Any]:
    """A run's statistics, as ``/reportResults`` takes them: operations, records, duration, errors by reason."""
    counts = run.counts
    told = list(results)
    errors = Counter(each.code for each in told if each.code is not None)
    permissions = sum(each.reason == PERMISSIONS_SET for each in told)
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
