"""What a kind is: how it discovers, transfers and verifies. Steps drive it; it knows nothing of queues or tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol, runtime_checkable

from syncline.errors import SynclineError
from syncline.model import Item, Outcome, Result, Run, Scope, Step

GRACE_SECONDS: Final = 5.0
"""Seconds for which a request may go on when a step's time is over: it ends in order if it can, and never outlives the function."""
UNTOUCHED: Final = "untouched"
"""In the detail of an item that arrived: discover and transfer found it equal, and nothing was sent for it."""
_FIRST_GLANCE: Final = 0.03
_LONGEST_GLANCE: Final = 0.5
_FAILURES: Final = 100
"""Failures in one page of odd entries."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a look: what differs, what is settled already, and where to go on.

    ``skipped`` counts items found equal, ``left_out`` those that the selection excludes or that the target cannot hold;
    ``extra`` counts items that the target alone has and that are not ours, beyond those among ``results``. None of these
    has a result of its own. ``results`` holds items whose outcome is known without a transfer, such as
    conflicts. ``failures`` holds what could not be scanned, by target reference. ``cursor`` resumes a scan behind this
    page.
    """

    cursor: str
    items: tuple[Item, ...] = ()
    skipped: int = 0
    results: tuple[Result, ...] = ()
    failures: tuple[Failure, ...] = ()
    left_out: int = 0
    extra: int = 0


def failure_pages(cursor: str, failures: Iterable[Failure]) -> Iterator[Page]:
    """Yield pages with the failures of a listing's odd entries: the record of a page must fit an item of the table."""
    waiting = iter(failures)
    while some := tuple(islice(waiting, _FAILURES)):
        yield Page(cursor, failures=some)


@dataclass(frozen=True, slots=True)
class Completed:
    """The item is at the target, as far as the transfer knows; ``item`` carries its fingerprint as ``source``.

    If verify does not find it there, the item is transferred again as it is here, so its detail holds no progress.
    ``note`` is a sentence of the verification's for the report.
    """

    item: Item
    moved_bytes: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Time was short: ``item`` carries where it stands. ``stuck`` if that is no further than before, by the kind's word.

    ``waiting`` if it was not begun, as others had all the turns: they get further.
    """

    item: Item
    stuck: bool = False
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """The item could not be done; the step decides by the error's code whether to try again, with the item as it is here.

    ``scope`` is the group of a scope that scans the item again, None if that is the item's own group. ``further`` says
    that the try brought more of the item to the target, where the next one goes on: it does not count as a failed one.
    So it is for a group of which a part was scanned; ``cursor`` resumes the scan of its scope, None scans all of it again.
    """

    item: Item
    error: SynclineError
    scope: str | None = None
    further: bool = False
    cursor: str | None = None


@dataclass(slots=True)
class StepContext:
    """How long a step may go on, and under which conditions.

    ``left`` gives the seconds left of the function's time, less what ending takes. ``halted`` tells whether the run
    was cancelled or the right to write was lost, and nothing new may begin. ``allow_removals`` is the number of
    removals that the operator allowed for this run in place of the sync's limits, None where the limits hold. ``run`` is
    the run's ID, and ``plan`` says that the run only plans: nothing may be written, not even to the table. ``removed``
    returns the number of items that a run has removed so far, each of them verified; it reads the table.

    ``work`` names the work. For a transfer it is the same when the same items are tried again or continued. For a scan
    it is the ID of the batch being worked on, the same when the message is delivered again. A scan that sends on what
    it has found continues as the next batch, and ``work`` changes with it: read it when it is needed, not once.

    ``scan`` is the ID of the scan, the same for all batches that carry it on or try it again. That of the scan that a run
    begins with is the run's own ID; others have joined the run.

    ``named`` says that a person has named the scan's scope: what of it does not exist is a failure, SOURCE_ABSENT, of the
    name. ``asked`` are items, by group and name, of which each scan that finds one equal says so in a result of its own,
    or sends it on to be transferred.

    ``joined`` is set for each scan but the first of a run: other items of the sync may be in flight. It is no promise
    the other way round, as further scans may join the run while the first one goes on.
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
        """Whether nothing new may begin."""
        return self.left() <= 0 or self.halted()


def split_equal(equal: Iterable[tuple[str, str]], asked: frozenset[tuple[str, str]]) -> tuple[int, tuple[Result, ...]]:
    """Part items that are equal, by group and name: the number of those to count only, and results of those asked for."""
    count, results = 0, list[Result]()
    for group, name in equal:
        if (group, name) in asked:
            results.append(Result(group, name, Outcome.SKIPPED))
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
    """Pauses between looks at whether something has become free: short ones first, ``seconds`` together."""
    pause = _FIRST_GLANCE
    while seconds > 0:
        yield min(pause, seconds)
        seconds -= pause
        pause = min(_LONGEST_GLANCE, pause * 1.5)


class Kind(Protocol):
    """One kind, bound to one sync and its clients."""

    @property
    def moves_by(self) -> Step:
        """The step that brings its items to the target: TRANSFER, or COMMIT for one after another in order."""
        ...

    @property
    def share(self) -> int:
        """The most items of one group in one message: what one function is to move."""
        ...

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Look at source and target behind ``cursor`` and yield what differs, page by page, in a fixed order.

        Raises SynclineError where the look as a whole cannot be made. Stops early when ``context`` is over.
        """
        ...

    def transfer(
        self, items: Sequence[Item], context: StepContext
    ) -> Iterable[Completed | Unfinished | Result | Failure]:
        """Bring items of one group to the target and yield exactly one answer for each, in any order."""
        ...

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterable[Completed | Unfinished | Failure]:
        """Ask the target, independently of the transfer, and yield exactly one answer for each item."""
        ...

    def reference(self, group: str) -> str:
        """The full name of the target reference a group stands for: it has one writer at a time, whatever the sync."""
        ...

    def changed_groups(self, event: object) -> tuple[str, ...]:
        """What to look at by a notification's or an event's decoded body, as groups of a scope.

        Raises MESSAGE_INVALID if it is none.
        """
        ...

    def requests(self) -> int:
        """How many requests have been made to source and target so far."""
        ...


@runtime_checkable
class Planning(Protocol):
    """A kind whose items may end otherwise than as moved."""

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterable[Result]:
        """Yield for each item how a run would end for it, without writing anything.

        That is WOULD_MOVE, WOULD_REMOVE, LEFT_OUT, SKIPPED or FAILED. An item that there is no time for is WOULD_MOVE.
        """
        ...


@runtime_checkable
class RunObserver(Protocol):
    """A kind that tells others how its runs ended."""

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        """Report a run that is over; ``results`` are those of items that have one of their own.

        Called until it returns, a few times at most, so one run may be reported twice. A failure does not change the
        run; an error of ours that is not retried ends the attempts.
        """
        ...
