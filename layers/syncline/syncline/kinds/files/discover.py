"""Discover: a whole bucket against the target and our records, or just the keys that events have named.

A full scan reads the source's listing, the target's listing (if it has one) and the records in one pass. Changes are
gathered up to a window, so that renames are recognised and messages are full; each window is sent on in pages. Whatever
is gone is known only at the end of the listing, and is removed only within the sync's limits: at once if all changes fit
into one window, else by a second pass. Where a function's time ends, the cursor says how far the scan has come.

A scan of named keys reads each key at the source and at the target.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Final, TypeVar

from syncline.clients.http.listings import ignore
from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.xml import Listed
from syncline.errors import SynclineError
from syncline.kinds.files.compare import (
    Change,
    Pass,
    Tally,
    TargetListing,
    Turns,
    renames_among,
    with_renames,
)
from syncline.kinds.files.config import KEY, PREFIX, FilesSync
from syncline.kinds.files.events import Hints, hints_of
from syncline.kinds.files.items import Items, place_of, portions
from syncline.kinds.files.listing import OddOnes, behind, chunks, listed_ahead
from syncline.kinds.files.parallel import in_parallel
from syncline.kinds.files.records import Gone, Record, Records, Row, Task
from syncline.kinds.files.single import GONE, LEFT_OUT, Reader, Unequal, adopted_by
from syncline.kinds.files.targets import Facts, Target
from syncline.kinds.kind import Failure, Page, StepContext
from syncline.model import Item, Outcome, Result, Scope, compact_json
from syncline.ownership import Action, Limits, RemovalRequest, Windows, digest_of

T = TypeVar("T")

WINDOW: Final = 20_000
"""Changes gathered before they are sent on."""
CHECKS: Final = 1_000
"""Files that have to be read, gathered before they are."""
ADOPTED: Final = 5_000
"""Records gathered before they are written."""
FAILURES: Final = 100
"""Failures in a page: its record must fit an item of the table."""
AT_ONCE: Final = 16
"""Keys read at a time."""
_ALWAYS: Final = 10 * 365 * 86_400.0
"""Seconds for which the time of the last full scan is kept."""
_RUN_WINDOW: Final = 30 * 86_400.0
"""Seconds that the window of a run with removals of its own is kept: longer than any run."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place of a scan: in the pass ``removing`` or the first one, behind the name ``after``.

    A window that was being sent on reaches to ``upto`` (None: to the end of the listing), and its pages are out as far
    as ``sent`` (group and key). ``whole`` says that this window is all there was. ``began`` is the time of the scan's
    start, ``since`` that of the last full one before it (Unix seconds). ``granted`` removals may be sent on. A scan of
    named keys has ``removing`` where its removals were granted, and ``ended`` where all of it is out.
    """

    removing: bool = False
    after: str = ""
    tally: Tally = field(default_factory=Tally)
    upto: str | None = None
    sent: tuple[str, str] | None = None
    whole: bool = False
    began: float = 0.0
    since: float | None = None
    granted: int = 0
    ended: bool = False

    def to_text(self) -> str:
        return compact_json({name: value for name, value in asdict(self).items() if value is not None})

    @classmethod
    def of_text(cls, text: str | None) -> Cursor:
        if text is None:
            return cls()
        value = json.loads(text)
        value["tally"] = Tally(**value["tally"])
        sent = value.get("sent")
        return cls(**value | {"sent": None if sent is None else (sent[0], sent[1])})


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a sync: records, facts, and windows of removals. ``clock`` gives Unix seconds."""

    records: Records
    facts: Facts
    removals: Windows
    clock: Callable[[], float]


class Scan:
    """One scan of a sync's bucket.

    ``group_of`` gives the group of a name. ``told`` comes from the target's own events: a full scan reads the keys that
    it names at the target, too.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the kind
        self,
        sync: FilesSync,
        source: Bucket,
        target: Target,
        memory: Memory,
        group_of: Callable[[str], str],
        told: Hints,
    ) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._memory = memory
        self._records = memory.records
        self._items = Items(sync, source, target, group_of)
        self._reader = Reader(sync, source, target, self._items)
        self._told = told
        self._told_names = frozenset(sync.name_of(key) for key in told.keys)
        self._asked: dict[str, list[tuple[str, str]]] = {}

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield pages of what differs."""
        for group, key in context.asked:
            if self._sync.takes(key):
                self._asked.setdefault(self._sync.name_of(key), []).append((group, key))
        # They are read on both sides, however equal they look.
        self._told_names |= self._asked.keys()
        if scope.groups is None:
            if cursor is None and not context.plan:
                self._records.compact()
            yield from self._full("", Cursor.of_text(cursor), context, whole=True)
            return
        hints = hints_of(scope.groups)
        at = json.loads(cursor) if cursor else {}
        if "prefix" not in at:
            yield from self._named(hints, Cursor.of_text(cursor), context)
        for prefix in hints.prefixes:
            if prefix < at.get("prefix", ""):
                continue
            inner = Cursor.of_text(at["at"]) if at.get("prefix") == prefix else Cursor()
            for page in self._full(self._sync.name_of(prefix), inner, context, whole=False):
                yield replace(page, cursor=compact_json({"prefix": prefix, "at": page.cursor}))

    # -- everything ----------------------------------------------------------------------------------------------

    def _full(self, prefix: str, cursor: Cursor, context: StepContext, *, whole: bool) -> Iterator[Page]:
        """Scan all names that begin with ``prefix``; ``whole`` says that these are all names of the sync."""
        cursor = cursor if cursor.began else self._begun(cursor, whole=whole)
        while not context.over:
            window = self._window(prefix, cursor, context)
            ended, reached = window.ended, window.at
            if cursor.upto is None and not ended and window.is_empty and reached == cursor.after:
                return  # time was over before anything was met
            at_once = cursor.whole or (cursor.after == "" and not cursor.removing and ended)
            renames = {} if cursor.removing or window.tally.odd else self._renames(window.changes)
            tally = with_renames(window.tally, window.changes, renames)
            granted, capped = self._granted(cursor, tally, context, prefix, whole=whole) if ended else (0, None)
            removing = cursor.removing or at_once
            budget = cursor.granted if cursor.removing and not ended and not tally.odd else granted
            here = replace(cursor, upto=None if ended else reached, whole=at_once, granted=budget if removing else 0)
            if ended and not cursor.removing and capped is None:
                capped = self._absent(tally, prefix, context, whole=whole)
            first = window.page(() if capped is None else (capped,))
            # The second pass is for removals alone: all else was sent on by the first one.
            changes = [c for c in window.changes if c.action is Action.REMOVE or not cursor.removing]
            found = [*self._items.found(changes, renames), *window.checked.items]
            here = yield from self._sent_on(found, here, Page("") if cursor.removing else first)
            if not ended:
                cursor = replace(here, after=reached, tally=tally, upto=None, sent=None, whole=False)
            elif removing or not granted:
                if whole and not context.plan:
                    self._memory.facts.remember(self._fact, str(cursor.began), _ALWAYS)
                return
            else:
                cursor = Cursor(True, began=cursor.began, since=cursor.since, tally=tally, granted=granted)
            yield Page(cursor.to_text())

    def _begun(self, cursor: Cursor, *, whole: bool) -> Cursor:
        """Return the cursor of a scan that begins now."""
        began = self._memory.clock()
        if not whole:
            return replace(cursor, began=began)
        last = self._memory.facts.recall(self._fact)
        # Before the first full scan events may have brought files: nothing says when they were read, so all are.
        return replace(cursor, began=began, since=began - self._sync.recheck_seconds if last is None else float(last))

    @property
    def _fact(self) -> str:
        return f"files-scan:{self._sync.name}:{self._sync.target_id()}"

    def _window(self, prefix: str, cursor: Cursor, context: StepContext) -> _Window:
        """Return the changes behind the cursor, up to a window's end or the listing's own."""
        sync, starts = self._sync, (self._sync.source.prefix, self._sync.target.prefix)
        turns = None
        if cursor.since is not None and not cursor.removing:
            turns = Turns(cursor.since, cursor.began, sync.recheck_seconds)
        with ExitStack() as stack:
            # All three are read at the same time, each by a thread of its own.
            def ahead(items: Iterator[T]) -> Iterator[T]:
                return chain.from_iterable(stack.enter_context(read_ahead(chunks(items))))

            def opened(after: str) -> Iterator[Listed]:
                return ahead(self._target.listing(starts[1] + prefix, behind(starts[1], after), odd.at_target.append))

            odd, start = OddOnes(sync, self._items.failed), behind(starts[0], cursor.after)
            source = ahead(listed_ahead(self._source, starts[0] + prefix, start, odd.at_source.append))
            listed = self._target.is_listed
            other = TargetListing(opened, starts[1], cursor.after, odd.at_target) if listed else None
            records = ahead(self._recorded(cursor.after, prefix))
            going = Pass(
                source,
                other,
                records,
                starts,
                sync.takes if sync.selects else None,
                lambda name, size: self._target.leaves_out(starts[1] + name, size),
                turns,
                self._told_names,
                sync.overwrite,
                cursor.upto,
                replace(cursor.tally),
                cursor.after,
            )
            window = _Window(going)
            for change in going.changes():
                if change is not None:
                    window.changes.append(change)
                if len(going.checks) >= CHECKS or len(going.adopted) >= ADOPTED:
                    self._settle(window, cursor, context)
                if len(window.changes) >= WINDOW or (change is None and context.over):
                    break
            else:
                window.ended = cursor.upto is None
                going.at = going.at if cursor.upto is None else cursor.upto
        self._settle(window, cursor, context)
        failures = odd.failures(cursor.after, None if window.ended else window.at)
        window.odd += failures.values()
        window.changes = [change for change in window.changes if change.key not in failures]
        going.tally.odd += len(failures)
        return window

    def _settle(self, window: _Window, cursor: Cursor, context: StepContext) -> None:
        """Read the files that have to be read so far, and write the records that are right now."""
        going, checked = window.going, window.checked
        if not cursor.removing:
            checked.answers += self._answers(name for name, row in going.adopted.items() if row is not None)
            for name, answer in in_parallel(lambda check: self._reader.check(check, self._told), going.checks, AT_ONCE):
                if isinstance(answer, Item):
                    checked.items.append(answer)
                elif isinstance(answer, Failure):
                    checked.failures.append(answer)
                elif not isinstance(answer, Unequal):
                    checked.answers += self._answers([name])
                    if answer is not None:
                        going.adopted[name] = answer
            if going.adopted and not context.plan:
                self._records.write(going.adopted)
        going.checks.clear()
        going.adopted.clear()

    def _answers(self, names: Iterable[str]) -> list[Result]:
        """Return a result for each of the items, among those that are equal, that the scan is asked for."""
        return [Result(*key, Outcome.SKIPPED) for name in names for key in self._asked.get(name, ())]

    def _absent(self, tally: Tally, prefix: str, context: StepContext, *, whole: bool) -> Failure | None:
        """Return a failure if a prefix that a person has named has no objects; it may have some that are left out."""
        start = self._sync.source.prefix
        if tally.listed or tally.odd or not (start if whole else context.named):
            return None
        item = Item("*", "*") if whole else Item(f"{PREFIX}{start}{prefix}", "*")
        return Failure(item, SynclineError("SOURCE_ABSENT", f"{self._source} has no object below {start + prefix!r}"))

    def _recorded(self, after: str, prefix: str) -> Iterator[tuple[str, Row]]:
        """Yield the records behind ``after``; the object whose key is the source's prefix itself has an empty name."""
        if not after and not prefix and self._sync.source.prefix:
            yield from self._records.known([""])[0].items()
        yield from self._records.scan(after, prefix)

    def _granted(
        self, cursor: Cursor, tally: Tally, context: StepContext, prefix: str, *, whole: bool
    ) -> tuple[int, Failure | None]:
        """Return the removals that may be sent on at the listing's end, and a failure where the limits forbid them."""
        if tally.odd:
            return 0, None
        empty = not tally.listed and (whole or not self._source.page(limit=1, odd=ignore).objects)
        if cursor.removing or cursor.whole:  # they were granted before
            return (0 if empty else cursor.granted), None
        if self._sync.removals is None or not tally.gone:
            return 0, None
        if empty:
            what = f"{self._source} is listed without a single object, and the target has {tally.ours} of its files"
            return 0, _capped(f"{what}; nothing is removed after an empty listing")
        if tally.renamed and cursor.after:
            # Renames of this scan are still under way, and their old names look gone: the next scan knows.
            return 0, None
        return self._reserved(tally.gone, tally.ours if whole else None, context, f"{prefix}/{tally.digest}")

    def _reserved(self, gone: int, ours: int | None, context: StepContext, name: str) -> tuple[int, Failure | None]:
        """Reserve all of ``gone`` removals or none of them. ``ours`` is our number of files, None if it is to be counted."""
        rule = self._sync.removals
        assert rule is not None
        own = context.allow_removals
        limits = rule.limits if own is None else Limits(1.0, own, _RUN_WINDOW)
        request = RemovalRequest(limits, gone, name, context.run, own is not None, keep=not context.plan)
        if own is not None:
            ours = sys.maxsize

        def removed(run: str) -> int:
            # A full scan counts while files are being removed, so those that its run has removed may be among its files.
            return 0 if run == context.run and ours is not None else context.removed(run)

        grant = self._memory.removals.reserve(request, self._total if ours is None else lambda: ours, removed)
        if grant.allowed:
            return gone, None
        limit = f"the limit is {grant.most} of {grant.total} per {rule.per}"
        allowed = f"{limit if own is None else f'this run may remove {own}'}, and {grant.used} were reserved"
        what = f"files gone from {self._source}: {gone}; {allowed}, so none is removed now"
        return 0, _capped(f"{what}. If they are meant: syncline run {self._sync.name} --allow-removals {gone}")

    def _sent_on(self, items: Sequence[Item], here: Cursor, first: Page) -> Generator[Page, None, Cursor]:
        """Yield items in pages, and return the cursor behind them; the first page carries the counts of ``first``.

        No more removals are sent on than the cursor grants. Behind the counts ``sent`` is before all items, so that a
        scan that goes on there does not count again.
        """
        waiting = [item for item in sorted(items, key=place_of) if here.sent is None or place_of(item) > here.sent]
        if here.sent is None and first != Page(""):
            for at in range(0, len(first.failures), FAILURES):
                failures = first.failures[at : at + FAILURES]
                yield Page(here.to_text(), failures=failures)
            for at in range(0, len(first.results), FAILURES):
                yield Page(here.to_text(), results=first.results[at : at + FAILURES])
            here = replace(here, sent=("", ""))
            yield Page(here.to_text(), skipped=first.skipped, left_out=first.left_out)
        for portion in portions(waiting):
            sent: list[Item] = []
            for item in portion:
                if Task.of(item).what != "remove":
                    sent.append(item)
                elif here.granted:
                    here = replace(here, granted=here.granted - 1)
                    sent.append(item)
            good, refused = self._refused(sent)
            here = replace(here, sent=place_of(portion[-1]))
            yield Page(here.to_text(), tuple(good), failures=tuple(refused))
        return here

    def _refused(self, items: Sequence[Item]) -> tuple[list[Item], list[Failure]]:
        """Part items from those whose paths the target cannot have."""
        good: list[Item] = []
        refused: list[Failure] = []
        for item in items:
            why = self._target.refuses(self._sync.path_of(item.name), item.size)
            if why is None or Task.of(item).what == "remove":
                good.append(item)
            else:
                error = SynclineError("PATH_REFUSED", f"the key {item.name!r} makes a path that {why}")
                refused.append(Failure(item, error, f"{KEY}{item.name}"))
        return good, refused

    # -- named keys ----------------------------------------------------------------------------------------------

    def _named(self, hints: Hints, cursor: Cursor, context: StepContext) -> Iterator[Page]:
        """Read keys one by one at source and target, and compare both with their records.

        Left aside is a key of which events alone tell that certainly came before what is recorded of it. A scan that
        goes on reads all keys again, since renames are pairs, and sends on only what it has not.
        """
        if cursor.ended:
            return
        keys = sorted(key for key in hints.all_keys() if self._sync.takes(key))
        if not keys:
            return
        names = {key: self._sync.name_of(key) for key in keys}
        rows, gone = self._records.known(names.values())
        records = {key: Record.of_row(rows[name]) for key, name in names.items() if name in rows}
        seqs = {key: record.seq for key, record in records.items()}
        seqs |= {key: Gone.of_row(gone[name]).seq for key, name in names.items() if name in gone}
        asked = [key for key in keys if not hints.are_known(key, seqs.get(key, ""))]
        answers = in_parallel(
            lambda key: (key, self._reader.read(key, records.get(key), hints, context)), asked, AT_ONCE
        )
        read = [answer for _, answer in answers]
        failures = [each for each in read if isinstance(each, Failure)]
        equal = [*set(keys).difference(asked), *(key for key, answer in answers if answer is None)]
        gone_keys = [key for key, answer in answers if answer is GONE]
        if context.named:
            failures += map(self._items.absent, gone_keys)
        changes = sorted((each for each in read if isinstance(each, Change)), key=lambda change: change.key)
        adopted = {change.name: record.to_row() for change in changes if (record := adopted_by(change)) is not None}
        if not context.plan:
            self._records.write(adopted)
        renames = self._renames(changes)
        goes_on = cursor.sent is not None
        decided = self._decided(changes, renames, context, failures, granted=cursor.removing if goes_on else None)
        found = [*(each for each in read if isinstance(each, Item)), *self._items.found(decided, renames)]
        results = self._answers([*(names[key] for key in equal), *adopted])
        count = len(equal) + len(adopted) - len(results) + (0 if context.named else len(gone_keys))
        first = Page("", skipped=count, results=tuple(results), failures=tuple(failures), left_out=read.count(LEFT_OUT))
        # What may not be removed was taken out before.
        removals = sum(Task.of(item).what == "remove" for item in found)
        here = cursor if goes_on else Cursor(_counted(decided, renames) != [], granted=removals)
        pages = list(self._sent_on(found, here, first))
        for page in pages[:-1]:
            yield page
        for page in pages[-1:]:
            yield replace(page, cursor=replace(Cursor.of_text(page.cursor), ended=True).to_text())

    def _decided(
        self,
        changes: Sequence[Change],
        renames: Mapping[str, str],
        context: StepContext,
        failures: list[Failure],
        *,
        granted: bool | None,
    ) -> list[Change]:
        """Return the changes to carry out: removals only within the limits, as they were ``granted`` before if they were."""
        removed = _counted(changes, renames)
        keeps = set() if granted else {id(change) for change in removed}
        if granted is None and removed and self._sync.removals is not None:
            name = digest_of([change.removal for change in removed])
            count, capped = self._reserved(len(removed), None, context, name)
            if count:
                keeps = set()
            elif capped is not None:
                # Scanned again by a retry are the keys that were not removed, and no others.
                failures += [self._items.failed(c.key, capped.error, _etag(c)) for c in removed]
        return [c for c in changes if c.action is not Action.ADOPT and id(c) not in keeps]

    def _total(self) -> int:
        """Return the number of files that are ours and selected."""
        if not self._sync.selects:
            return self._records.count()
        return sum(self._sync.takes(self._sync.source.prefix + name) for name, _ in self._records.scan())

    def _renames(self, changes: Sequence[Change]) -> dict[str, str]:
        """Return the renames among changes. None leads to a path that is taken or that the target cannot have.

        The origin of such a pair is removed like any other file.
        """
        if self._sync.removals is None:
            return {}
        sync, target = self._sync, self._target
        renames = {
            new: old for new, old in renames_among(changes).items() if not target.refuses(sync.path_of(new), None)
        }
        if self._target.is_listed:
            return renames

        def free(pair: tuple[str, str]) -> tuple[str, str] | None:
            try:
                return pair if self._target.stat(self._sync.path_of(pair[0])) is None else None
            except SynclineError:
                return None  # its transfer gives the reason

        return dict(filter(None, in_parallel(free, list(renames.items()), AT_ONCE)))


@dataclass(slots=True)
class _Checked:
    """Files that were read: those to bring over again, those that could not be read, and the equal ones asked for."""

    items: list[Item] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    answers: list[Result] = field(default_factory=list)


@dataclass(slots=True)
class _Window:
    """A part of a scan: its changes, and whether the listings came to their ends there."""

    going: Pass
    changes: list[Change] = field(default_factory=list)
    checked: _Checked = field(default_factory=_Checked)
    odd: list[Failure] = field(default_factory=list)
    ended: bool = False

    @property
    def at(self) -> str:
        """The name that the window reaches to."""
        return self.going.at

    @property
    def tally(self) -> Tally:
        return self.going.tally

    @property
    def is_empty(self) -> bool:
        return not self.changes and not self.odd and not self.checked.items and not self.checked.failures

    def page(self, more: tuple[Failure, ...]) -> Page:
        """Return the window's counts and failures as a page."""
        failures = (*self.checked.failures, *self.odd, *more)
        checked = self.checked
        equal = self.going.equal - len(checked.items) - len(checked.failures) - len(checked.answers)
        answers = tuple(checked.answers)
        return Page("", skipped=equal, results=answers, failures=failures, left_out=self.going.left_out)


def _counted(changes: Sequence[Change], renames: Mapping[str, str]) -> list[Change]:
    """Return the removals that count; a key without record or file is that of an item under way: a transfer decides."""
    origins = set(renames.values())
    known = [c for c in changes if c.record is not None or c.there is not None]
    return [c for c in known if c.action is Action.REMOVE and c.key not in origins]


def _etag(change: Change) -> str | None:
    return None if change.record is None else change.record.etag


def _capped(what: str) -> Failure:
    return Failure(Item("*", "*"), SynclineError("REMOVALS_CAPPED", what))
