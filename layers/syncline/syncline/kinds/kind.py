"""The contract of a kind: discover, transfer and verify. Steps call it; it knows neither queues nor the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol, runtime_checkable

from syncline.errors import SynclineError
from syncline.model import Audit, Item, Outcome, Result, Run, Scope, Step

GRACE_SECONDS: Final = 5.0
"""Seconds for which a request may continue after the end of a step's time, so that it can end regularly."""
FOUND_EQUAL: Final = "untouched"
"""Key in the detail of a completed item: discover and transfer found it equal, and nothing was sent for it."""
_FIRST_INTERVAL: Final = 0.03
_LONGEST_INTERVAL: Final = 0.5
_FAILURES: Final = 100
"""Limit of the failures in one page."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a scan: the items that differ, the results that are known already, and the cursor behind it.

    `results` has the items whose outcome is known without a transfer, such as conflicts, and `failures` the groups and
    items that could not be scanned. Items without a result are only counted: `equal` ones, those `left_out` by the
    selection or because the target cannot hold them, and `extra` ones, which only the target has and which are not ours.
    `cursor` resumes a scan behind this page.
    """

    cursor: str
    items: tuple[Item, ...] = ()
    equal: int = 0
    results: tuple[Result, ...] = ()
    failures: tuple[Failure, ...] = ()
    left_out: int = 0
    extra: int = 0


def failure_pages(cursor: str, failures: Iterable[Failure]) -> Iterator[Page]:
    """Yield pages with the failures of a listing's invalid entries: the record of a page must fit an item of the table."""
    waiting = iter(failures)
    while some := tuple(islice(waiting, _FAILURES)):
        yield Page(cursor, failures=some)


@dataclass(frozen=True, slots=True)
class Completed:
    """An item that was transferred or verified. `source` of `item` is the fingerprint that the target has now.

    If verify does not find it at the target, this `item` is transferred again, so its detail holds no progress. `note` is
    a sentence of the verification for the report.
    """

    item: Item
    moved_bytes: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An item for which the time was short; the detail of `item` holds its progress.

    `stuck` means that the kind knows of no progress. `waiting` means that the item was not begun because others were in
    progress; it counts as progress.
    """

    item: Item
    stuck: bool = False
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed. The code of the error decides if the step tries it again, with the `item` given here.

    `scope` is the group of a scope that scans the item again, None for the item's own group. `further` means that the
    attempt made progress which the next one continues, so that it does not count as a failed one; this is also so for a
    group of which a part was scanned. `cursor` then resumes the scan of its scope; None scans all of it again.
    """

    item: Item
    error: SynclineError
    scope: str | None = None
    further: bool = False
    cursor: str | None = None


@dataclass(slots=True)
class StepContext:
    """The remaining time and the conditions of a step.

    `left` returns the remaining seconds of the function's time, less those reserved for recording its work. `halted`
    returns True if the run was cancelled or the lease was lost, and no new work may begin.

    `work` identifies the work. For a transfer it is the same when the same items are tried again or continued. For a scan
    it is the ID of the batch, the same when the message is delivered again. A scan that sends on what it has found
    continues as the next batch, and `work` changes with it: read it when it is needed, not once.

    `joined` is True for each scan but the first of a run: other items of the sync may be in flight. False does not
    exclude that, because further scans may join the run meanwhile. `allow_removals` is the number of removals that the
    operator allowed for this run in place of the sync's limits, None if the limits apply. `run` is the run's ID, and
    `scan` that of the scan, the same for all batches that continue it or try it again; the scan that a run begins with
    has the run's ID. `plan` means that the run only plans: nothing may be written, not even to the table. `removed`
    returns the number of items that a run, by its ID, has removed and verified so far; it reads the table.

    `named` means that a person has named the scope: a part of it that does not exist is a failure, SOURCE_ABSENT.
    `asked` are items, by group and name, for which a scan returns a result even if they are equal, or which it sends on.
    """

    left: Callable[[], float]
    halted: Callable[[], bool] = field(default=lambda: False)
    work: str = ""
    joined: bool = False
    allow_removals: int | None = None
    run: str = ""
    scan: str = ""
    plan: bool = False
    removed: Callable[[str], int] = field(default=lambda _run: 0)
    named: bool = False
    asked: frozenset[tuple[str, str]] = frozenset()

    @property
    def over(self) -> bool:
        """Return True if no new work may begin."""
        return self.left() <= 0 or self.halted()


def split_equal(equal: Iterable[tuple[str, str]], asked: frozenset[tuple[str, str]]) -> tuple[int, tuple[Result, ...]]:
    """Return the number of equal items, by group and name, that are only counted, and the results of those in `asked`."""
    count, results = 0, list[Result]()
    for group, name in equal:
        if (group, name) in asked:
            results.append(Result(group, name, Outcome.EQUAL))
        else:
            count += 1
    return count, tuple(results)


def would_move(item: Item, reason: str | None = None) -> Result:
    """Return the result of an item that a plan has found to differ."""
    return Result(item.group, item.name, Outcome.WOULD_MOVE, item.source, item.target, item.size or 0, reason=reason)


def would_remove(item: Item) -> Result:
    """Return the result of an item that a run would remove from the target."""
    return Result(item.group, item.name, Outcome.WOULD_REMOVE, None, item.target)


def poll_intervals(seconds: float) -> Iterator[float]:
    """Yield growing intervals in seconds for polling, `seconds` in total."""
    pause = _FIRST_INTERVAL
    while seconds > 0:
        yield min(pause, seconds)
        seconds -= pause
        pause = min(_LONGEST_INTERVAL, pause * 1.5)


class Kind(Protocol):
    """A kind, bound to one sync and its clients."""

    @property
    def moves_by(self) -> Step:
        """The step that writes items to the target: TRANSFER, or COMMIT for one batch after another, in order."""

    @property
    def share(self) -> int:
        """Limit of the items of one group in one message, which one function transfers."""

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Scan source and target behind `cursor` and yield what differs, page by page, in a fixed order.

        Stops early when `context` is over. Raises SynclineError if the scan as a whole fails.
        """

    def transfer(
        self, items: Sequence[Item], context: StepContext
    ) -> Iterable[Completed | Unfinished | Result | Failure]:
        """Transfer items of one group and yield exactly one answer for each, in any order."""

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterable[Completed | Unfinished | Failure]:
        """Read the target, independently of the transfer, and yield exactly one answer for each item."""

    def reference(self, group: str) -> str:
        """Return the full name of the target reference of a group, which has one writer at a time across all syncs."""

    def requests(self) -> int:
        """Return the number of requests made to source and target so far."""


@runtime_checkable
class Planning(Protocol):
    """A kind whose plans show other outcomes than WOULD_MOVE."""

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterable[Result]:
        """Yield the result that a run would have for each item, without writing anything.

        The outcome is WOULD_MOVE, WOULD_REMOVE, LEFT_OUT, EQUAL, UNTRUSTED or FAILED; WOULD_MOVE if the time is short.
        """


@runtime_checkable
class Auditing(Protocol):
    """A kind whose syncs can be audited: a whole source against a whole target, independent of records."""

    def audit(self, scope: Scope, cursor: str | None, context: StepContext, audit: Audit) -> Iterator[Page]:
        """Compare source and target behind `cursor`, page by page in a fixed order, and write nothing to either.

        Each page has one result for every item, also for equal ones, with the fingerprint at both sides: EQUAL, DIFFERENT,
        MISSING, EXTRA, or UNREADABLE with the code of the error. LEFT_OUT states what cannot be audited, with the reason;
        items that the selection excludes are only counted. `moved_bytes` of a result are the bytes of its content that
        were read at the target and hashed. `failures` are groups that could not be read: they are audited again where
        their errors are retried, and are UNREADABLE in the end. Stops early when `context` is over; an audit of any size
        continues in the next function. Raises SynclineError if nothing can be audited.
        """


@runtime_checkable
class Drilling(Protocol):
    """A kind whose items can be restored from the target, to compare them with the source."""

    def drill(self, scope: Scope, cursor: str | None, context: StepContext, share: float) -> Iterator[Page]:
        """Restore a share of the items into a scratch location, compare them with the source, and remove them there.

        Pages count the items that are equal, and have a FAILED result for each that is not, or cannot be restored. They
        have no items. An item that has changed at the source since it was synced is left out. Neither source nor target is
        written. Stops early when `context` is over.
        """


@runtime_checkable
class RunObserver(Protocol):
    """A kind that reports the end of its runs to others."""

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        """Report a run that is over, with its results; equal items have none.

        Called until it returns, a few times at most, so a run may be reported twice. A failure does not change the run; a
        SynclineError that is not retried ends the attempts.
        """
