"""Files: every object of a bucket, with its permissions, at a file manager or in another bucket."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from syncline.clients.bucket import Bucket
from syncline.clients.file_manager import FileManager
from syncline.clients.http import Http
from syncline.config.files import FilesSync
from syncline.errors import SynclineError
from syncline.kinds.files import sheets
from syncline.kinds.files.hints import Hints, groups_in, groups_of, hints_of
from syncline.kinds.files.looking import Cursor, Look
from syncline.kinds.files.moving import Answer, Moving
from syncline.kinds.files.places import Place
from syncline.kinds.files.proving import Proving
from syncline.kinds.files.records import Gone, Record, Records, Was
from syncline.kinds.kind import Arrived, Failure, Later, Pace, Page, glances
from syncline.model import Item, Outcome, Result, Run, Scope, Step

FEWEST_THREADS: Final = 16
MOST_THREADS: Final = 32
"""Requests at the target at a time in one function; several functions share what the sync allows."""
LAST_WORDS: Final = 5.0
"""Seconds for which a request may still be under way when the time is over."""
WAITING: Final = 20.0
"""Seconds for which a function waits for its turn at the target."""

TELLING: Final = 20.0
"""Seconds that telling of a run may take."""

Turn = Callable[[str, int, float], AbstractContextManager[object] | None]
"""Takes one of so many turns at a place for so many seconds; None if all are taken."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the kind works with: ``shard`` gives the group of a key, ``manager`` the API whose events are asked for.

    ``told`` is the API that is told how runs ended, ``reports`` the bucket that their changes are written to.
    """

    records: Records
    http: Http
    turn: Turn
    shard: Callable[[str], str]
    manager: FileManager | None = None
    sleep: Callable[[float], None] = time.sleep
    told: FileManager | None = None
    reports: Bucket | None = None
    clock: Callable[[], float] = time.monotonic


class Files:
    """The kind ``files`` for one sync. A group is a share of the keys, an item a key, a fingerprint an ETag."""

    moves_by = Step.TRANSFER
    share = 1000

    def __init__(self, sync: FilesSync, source: Bucket, place: Place, means: Means) -> None:
        self._sync = sync
        self._source = source
        self._place = place
        self._means = means

    def discover(self, scope: Scope, cursor: str | None, pace: Pace) -> Iterator[Page]:
        self._means.http.end_within(pace.left() + LAST_WORDS)
        told = Hints()
        if scope.everything and cursor is None:
            told, page = self._told()
            if page is not None:
                yield page
        yield from Look(self._sync, self._source, self._place, self._means.records, self._means.shard).pages(
            scope, cursor, pace, told
        )

    def transfer(self, items: Sequence[Item], pace: Pace) -> Iterator[Answer]:
        self._means.http.end_within(pace.left() + LAST_WORDS)
        turn = self._wait(pace)
        if turn is None:
            yield from (Later(item, waiting=True) for item in items)
            return
        with turn:
            yield from Moving(self._sync, self._source, self._place, pace, self._threads()).items(items)

    def verify(self, items: Sequence[Item], pace: Pace) -> Iterator[Arrived | Later | Failure]:
        self._means.http.end_within(pace.left() + LAST_WORDS)
        turn = self._wait(pace)
        if turn is None:
            yield from (Later(item, waiting=True) for item in items)
            return
        with turn:
            yield from Proving(self._sync, self._place, self._means.records, pace, self._threads()).items(items)

    def reference(self, group: str) -> str:
        return f"{self._place.name}/{self._sync.target.prefix}#{group}"

    def hints(self, event: object) -> tuple[str, ...]:
        return groups_in(self._sync, event)

    def requests(self) -> int:
        return self._means.http.requests_made

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        """Send the run's statistics to the file manager, and write what it changed into the reports bucket."""
        means = self._means
        if means.told is None and means.reports is None:
            return
        means.http.end_within(TELLING)
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
        pairs = list(self._changed(results, self._means.clock() + TELLING))
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
        lines = sheets.written(self._rows(self._means.clock() + TELLING))
        reports.put_stream(new, (line.encode() for line in lines), sheets.HEAD)

    def _rows(self, until: float) -> Iterator[sheets.Row]:
        for number, (key, text) in enumerate(self._means.records.behind("")):
            if number % 1000 == 0 and self._means.clock() > until:
                what = f"after {number} files; `syncline state export --reports` writes them all"
                raise SynclineError("TIME_SHORT", f"no time to write the state {what}")
            yield sheets.row_of(self._sync.path_of(key), Record.of_text(text))

    def _changed(
        self, results: Sequence[Result], until: float
    ) -> Iterator[tuple[sheets.Row | None, sheets.Row | None]]:
        """What a run changed, each file before and after; after is as it is remembered now."""
        ends = {each.name: each.outcome for each in results if each.outcome in (Outcome.MOVED, Outcome.REMOVED)}
        keys = sorted(ends)
        for at in range(0, len(keys), 100):
            if self._means.clock() > until:
                raise SynclineError("TIME_SHORT", f"no time to write what the run changed, after {at} files")
            files, gone = self._means.records.known(keys[at : at + 100])
            for key in keys[at : at + 100]:
                if key in files:
                    record = Record.of_text(files[key])
                    yield self._row_before(record.was), sheets.row_of(self._sync.path_of(key), record)
                elif ends[key] is Outcome.REMOVED:
                    was = Gone.of_text(gone[key]).was if key in gone else None
                    yield self._row_before(was) or sheets.Row(self._sync.path_of(key), "", "", "", "", ""), None

    def _row_before(self, was: Was | None) -> sheets.Row | None:
        return None if was is None else sheets.row_of(self._sync.path_of(was.key), was.record)

    def _threads(self) -> int:
        return threads_for(self._sync.target.requests)

    def _wait(self, pace: Pace) -> AbstractContextManager[object] | None:
        """A turn at the target, so that all functions together make no more requests than the sync allows."""
        turns = max(1, self._sync.target.requests // self._threads())
        for pause in (*glances(WAITING), None):
            if pace.over:
                break
            # The turn outlives the function, so that nobody takes it from one that is still at work.
            turn = self._means.turn(self._place.name, turns, pace.left() + 30)
            if turn is not None or pause is None:
                return turn
            self._means.sleep(pause)
        return None

    def _told(self) -> tuple[Hints, Page | None]:
        """What the file manager's own events speak of, if they are asked for; malformed ones as failures."""
        if self._means.manager is None:
            return Hints(), None
        try:
            events, malformed = self._means.manager.events()
        except SynclineError as error:
            # The look itself finds whatever they would have told.
            return Hints(), Page(Cursor().to_text(), failures=(Failure(Item("*", "events"), _told_off(error)),))
        failures = tuple(Failure(Item("*", f"event {n}"), error) for n, error in enumerate(malformed))
        page = Page(Cursor().to_text(), failures=failures) if failures else None
        return hints_of(groups_of(self._sync, events)), page


def threads_for(requests: int) -> int:
    """How many of the requests at a time one function makes: so many that three of them make use of all."""
    return min(requests, MOST_THREADS, max(FEWEST_THREADS, requests // 3))


def _told_off(error: SynclineError) -> SynclineError:
    return SynclineError("BAD_ANSWER", error.what) if error.retried else error


def summary(run: Run, results: Iterable[Result]) -> dict[str, Any]:
    """A run's statistics, as ``/reportResults`` takes them: operations, records, duration, errors by reason."""
    counts = run.counts
    errors = Counter(each.code for each in results if each.code is not None)
    return {
        "run": run.id,
        "sync": run.sync,
        "trigger": run.trigger.value,
        "status": run.status.value,
        "started": run.started,
        "duration": round((run.ended or run.started) - run.started, 3),
        "operations": {"saved": counts.moved, "deleted": counts.removed, "unchanged": counts.skipped},
        "records": counts.moved + counts.skipped,
        "bytes": counts.bytes,
        "failed": counts.failed,
        "conflicts": counts.conflict,
        "errors": dict(sorted(errors.items())),
    }
