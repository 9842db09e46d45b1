"""Discovery of files: a full scan of a bucket against the target and the records, or a scan of named keys.

A full scan reads the source's listing, the target's listing (if it has one) and the records in one pass. Changes are
gathered up to a window, so that renames are recognised and messages are full; each window is sent on in pages. Removals
are known only at the end of the listing, and are sent on only within the sync's limits: at once if all changes fit into
one window, else by a second pass. When a function's time ends, the cursor has the position of the scan.

A scan of named keys reads each key at the source and at the target.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Final, TypeVar

from syncline.clients.http.listings import ignore
from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.facts import FactStore
from syncline.kinds.files.compare import (
    FileChange,
    ListingComparison,
    RecheckShare,
    Tally,
    TargetListing,
    renames_among,
    with_renames,
)
from syncline.kinds.files.config import KEY, PREFIX, FilesSync
from syncline.kinds.files.events import EventScope
from syncline.kinds.files.items import FileItems, NoItem, item_pages, sort_key
from syncline.kinds.files.listing import InvalidEntries, chunks, listed_ahead
from syncline.kinds.files.parallel import in_parallel
from syncline.kinds.files.records import Record, Records, RemovedRecord, Row, Task
from syncline.kinds.files.removals import RemovalLimits, capped, removals_among
from syncline.kinds.files.targets import Target
from syncline.kinds.kind import Failure, Page, StepContext
from syncline.model import Item, Outcome, Result, Scope, compact_json
from syncline.ownership import Action, Windows, digest_of
from syncline.schedule import seconds_of

T = TypeVar("T")

WINDOW: Final = 20_000
"""Changes gathered before they are sent on."""
CHECKS: Final = 1_000
"""Files gathered that have to be read, before they are read."""
ADOPTED: Final = 5_000
"""Records gathered before they are written."""
FAILURES: Final = 100
"""Failures in a page: its record must fit an item of the table."""
AT_ONCE: Final = 16
"""Keys read at a time."""
_ALWAYS: Final = 10 * 365 * 86_400.0
"""Seconds for which the time of the last full scan is kept."""


@dataclass(frozen=True, slots=True)
class ScanCursor:
    """The position of a scan: in the pass ``removing`` or the first one, behind the name ``after``.

    A window that is being sent on ends at ``upto`` (None: at the end of the listing), and its items up to ``sent`` (group
    and key) are out. ``whole`` says that this window is the complete scan. ``began`` is the time of the scan's start,
    ``since`` that of the last full one before it (Unix seconds). ``granted`` removals may be sent on. A scan of named
    keys has ``removing`` if its removals were granted, and ``ended`` if all of it is out.
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
    def of_text(cls, text: str | None) -> ScanCursor:
        if text is None:
            return cls()
        value = json.loads(text)
        sent = value.get("sent")
        return cls(**value | {"tally": Tally(**value["tally"]), "sent": None if sent is None else tuple(sent)})


@dataclass(frozen=True, slots=True)
class FilesState:
    """The stored state of a sync: records, facts, and windows of removals. ``clock`` gives Unix seconds."""

    records: Records
    facts: FactStore
    removals: Windows
    clock: Callable[[], float]


@dataclass
class FileScan:
    """One scan of a sync's bucket.

    ``group_of`` gives the group of a name. ``target_events`` come from the target: a full scan reads the keys that they
    name at the target, too.
    """

    sync: FilesSync
    source: Bucket
    target: Target
    state: FilesState
    group_of: Callable[[str], str]
    target_events: EventScope

    def __post_init__(self) -> None:
        self._records = self.state.records
        self._removals = RemovalLimits(self.sync, self.source, self.state.records, self.state.removals)
        self._items = FileItems(self.sync, self.source, self.target, self.group_of)
        self._reread = frozenset(map(self.sync.name_of, self.target_events.keys))
        self._asked: dict[str, list[tuple[str, str]]] = {}

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield pages of what differs."""
        for group, key in context.asked:
            if self.sync.takes(key):
                self._asked.setdefault(self.sync.name_of(key), []).append((group, key))
        # They are read at source and target, even if they are equal by the listings.
        self._reread |= self._asked.keys()
        self._items = replace(self._items, asked=frozenset(self._asked))
        if scope.groups is None:
            if cursor is None and not context.plan:
                self._records.compact()
            yield from self._full("", ScanCursor.of_text(cursor), context, whole=True)
            return
        events = EventScope.of(scope.groups)
        at = json.loads(cursor) if cursor else {}
        if "prefix" not in at:
            yield from self._named(events, ScanCursor.of_text(cursor), context)
        for prefix in events.prefixes:
            if prefix < at.get("prefix", ""):
                continue
            inner = ScanCursor.of_text(at["at"]) if at.get("prefix") == prefix else ScanCursor()
            for page in self._full(self.sync.name_of(prefix), inner, context, whole=False):
                yield replace(page, cursor=compact_json({"prefix": prefix, "at": page.cursor}))

    # -- everything ----------------------------------------------------------------------------------------------

    def _full(self, prefix: str, cursor: ScanCursor, context: StepContext, *, whole: bool) -> Iterator[Page]:
        """Scan the names that begin with ``prefix``; ``whole`` says that these are all names of the sync."""
        cursor = cursor if cursor.began else self._begun(cursor, whole=whole)
        while not context.over:
            window = self._window(prefix, cursor, context)
            tally, ended, reached = window.comparison.tally, window.ended, window.comparison.at
            is_empty = not (window.changes or window.invalid or window.items or window.failures)
            if cursor.upto is None and not ended and is_empty and reached == cursor.after:
                return  # the time was over before anything was read
            at_once = cursor.whole or (cursor.after == "" and not cursor.removing and ended)
            renames = {} if cursor.removing or tally.odd else self._renames(window.changes)
            tally = with_renames(tally, window.changes, renames)
            granted, failure = self._granted(cursor, tally, context, prefix, whole=whole) if ended else (0, None)
            removing = cursor.removing or at_once
            budget = cursor.granted if cursor.removing and not ended and not tally.odd else granted
            position = replace(
                cursor, upto=None if ended else reached, whole=at_once, granted=budget if removing else 0
            )
            if ended and not cursor.removing and failure is None:
                failure = self._absent(tally, prefix, context, whole=whole)
            if failure is not None:
                window.invalid.append(failure)
            # The second pass is only for removals; the first one has sent on everything else.
            changes = [c for c in window.changes if c.action is Action.REMOVE or not cursor.removing]
            found = [*self._items.found(changes, renames), *window.items]
            position = yield from self._sent_on(found, position, Page("") if cursor.removing else window.page())
            if not ended:
                cursor = replace(position, after=reached, tally=tally, upto=None, sent=None, whole=False)
            elif removing or not granted:
                if whole and not context.plan:
                    self.state.facts.remember(self._fact, str(cursor.began), _ALWAYS)
                return
            else:
                cursor = ScanCursor(True, began=cursor.began, since=cursor.since, tally=tally, granted=granted)
            yield Page(cursor.to_text())

    def _begun(self, cursor: ScanCursor, *, whole: bool) -> ScanCursor:
        """Return the cursor at the beginning of a scan."""
        began = self.state.clock()
        if not whole:
            return replace(cursor, began=began)
        last = self.state.facts.recall(self._fact)
        # Before the first full scan, events may have led to transfers: all files are read, as none has a known time.
        return replace(
            cursor, began=began, since=began - seconds_of(self.sync.recheck) if last is None else float(last)
        )

    @property
    def _fact(self) -> str:
        return f"files-scan:{self.sync.name}:{self.sync.target_id()}"

    def _window(self, prefix: str, cursor: ScanCursor, context: StepContext) -> _Window:
        """Return the changes behind the cursor, up to the end of a window or of the listing."""
        sync, prefixes = self.sync, (self.sync.source.prefix, self.sync.target.prefix)
        recheck = None
        if cursor.since is not None and not cursor.removing:
            recheck = RecheckShare(cursor.since, cursor.began, seconds_of(sync.recheck))
        with ExitStack() as stack:
            # The three are read at the same time, each by a separate thread.
            def ahead(items: Iterator[T]) -> Iterator[T]:
                return chain.from_iterable(stack.enter_context(read_ahead(chunks(items))))

            def opened(after: str) -> Iterator[ListedObject]:
                start = prefixes[1] + after if after else ""
                return ahead(self.target.listing(prefixes[1] + prefix, start, invalid.at_target.append))

            invalid = InvalidEntries(sync, self._items.failed)
            start = prefixes[0] + cursor.after if cursor.after else ""
            source = ahead(listed_ahead(self.source, prefixes[0] + prefix, start, invalid.at_source.append))
            target = None
            if self.target.is_listed:
                target = TargetListing(opened, prefixes[1], cursor.after, invalid.at_target)
            records = ahead(self._recorded(cursor.after, prefix))
            comparison = ListingComparison(
                source,
                target,
                records,
                prefixes,
                sync.takes if sync.selects else None,
                lambda name, size: self.target.leaves_out(prefixes[1] + name, size),
                recheck,
                self._reread,
                sync.overwrite,
                cursor.upto,
                replace(cursor.tally),
                cursor.after,
            )
            window = _Window(comparison)
            for change in comparison.changes():
                if change is not None:
                    window.changes.append(change)
                if len(comparison.checks) >= CHECKS or len(comparison.adopted) >= ADOPTED:
                    self._settle(window, cursor, context)
                if len(window.changes) >= WINDOW or (change is None and context.over):
                    break
            else:
                window.ended = cursor.upto is None
                comparison.at = comparison.at if cursor.upto is None else cursor.upto
        self._settle(window, cursor, context)
        failures = invalid.failures(cursor.after, None if window.ended else comparison.at)
        window.invalid += failures.values()
        window.changes = [change for change in window.changes if change.key not in failures]
        comparison.tally.odd += len(failures)
        return window

    def _settle(self, window: _Window, cursor: ScanCursor, context: StepContext) -> None:
        """Read the files gathered to be read, and write the records gathered to be written."""
        comparison = window.comparison
        if not cursor.removing:
            window.results += self._answers(name for name, row in comparison.adopted.items() if row is not None)
            for name, answer in in_parallel(
                lambda check: self._items.check(check, self.target_events), comparison.checks, AT_ONCE
            ):
                if isinstance(answer, Item):
                    window.items.append(answer)
                elif isinstance(answer, Failure):
                    window.failures.append(answer)
                elif not isinstance(answer, NoItem):
                    window.results += self._answers([name])
                    if answer is not None:
                        comparison.adopted[name] = answer
            if comparison.adopted and not context.plan:
                self._records.write(comparison.adopted)
        comparison.checks.clear()
        comparison.adopted.clear()

    def _answers(self, names: Iterable[str]) -> list[Result]:
        """Return a result for each of the equal items that the scan was asked for."""
        return [Result(*key, Outcome.EQUAL) for name in names for key in self._asked.get(name, ())]

    def _absent(self, tally: Tally, prefix: str, context: StepContext, *, whole: bool) -> Failure | None:
        """Return a failure if a prefix that a user has named has no objects, not even some that are left out."""
        start = self.sync.source.prefix
        if tally.listed or tally.odd or not (start if whole else context.named):
            return None
        item = Item("*", "*") if whole else Item(f"{PREFIX}{start}{prefix}", "*")
        return Failure(item, SynclineError("SOURCE_ABSENT", f"{self.source} has no object below {start + prefix!r}"))

    def _recorded(self, after: str, prefix: str) -> Iterator[tuple[str, Row]]:
        """Yield the records behind ``after``; the object whose key is the source's prefix itself has an empty name."""
        if not after and not prefix and self.sync.source.prefix:
            yield from self._records.known([""])[0].items()
        yield from self._records.scan(after, prefix)

    def _granted(
        self, cursor: ScanCursor, tally: Tally, context: StepContext, prefix: str, *, whole: bool
    ) -> tuple[int, Failure | None]:
        """Return the removals that may be sent on at the end of the listing, and a failure if the limits forbid them."""
        if tally.odd:
            return 0, None
        empty = not tally.listed and (whole or not self.source.page(limit=1, on_invalid=ignore).objects)
        if cursor.removing or cursor.whole:  # they were granted before
            return (0 if empty else cursor.granted), None
        if self.sync.removals is None or not tally.gone:
            return 0, None
        if empty:
            what = f"the listing of {self.source} is empty, but the target has {tally.ours} files of ours"
            return 0, capped(f"{what}; nothing is removed after an empty listing")
        if tally.renamed and cursor.after:
            # Renames of this scan are still in flight, so their old names seem gone: the next scan decides.
            return 0, None
        return self._removals.reserve(tally.gone, tally.ours if whole else None, context, f"{prefix}/{tally.digest}")

    def _sent_on(self, items: Sequence[Item], position: ScanCursor, first: Page) -> Generator[Page, None, ScanCursor]:
        """Yield items in pages, and return the cursor behind them. The counts of ``first`` come before them.

        At most as many removals are sent on as the cursor grants. Behind the counts, ``sent`` is before all items, so
        that a scan that resumes there does not count again.
        """
        waiting = [
            item for item in sorted(items, key=sort_key) if position.sent is None or sort_key(item) > position.sent
        ]
        if position.sent is None and first != Page(""):
            for at in range(0, len(first.failures), FAILURES):
                yield Page(position.to_text(), failures=first.failures[at : at + FAILURES])
            for at in range(0, len(first.results), FAILURES):
                yield Page(position.to_text(), results=first.results[at : at + FAILURES])
            position = replace(position, sent=("", ""))
            yield Page(position.to_text(), equal=first.equal, left_out=first.left_out)
        for page_items in item_pages(waiting):
            found: list[Item] = []
            refused: list[Failure] = []
            for item in page_items:
                if Task.of(item).operation == "remove":
                    if position.granted:
                        position = replace(position, granted=position.granted - 1)
                        found.append(item)
                elif (why := self.target.refuses(self.sync.path_of(item.name), item.size)) is not None:
                    error = SynclineError("PATH_REFUSED", f"the key {item.name!r} makes a path that {why}")
                    refused.append(Failure(item, error, f"{KEY}{item.name}"))
                else:
                    found.append(item)
            position = replace(position, sent=sort_key(page_items[-1]))
            yield Page(position.to_text(), tuple(found), failures=tuple(refused))
        return position

    # -- named keys ----------------------------------------------------------------------------------------------

    def _named(self, events: EventScope, cursor: ScanCursor, context: StepContext) -> Iterator[Page]:
        """Read keys one by one at source and target, and compare both with their records.

        A key is skipped if all its events are certainly older than its record. A scan that resumes reads all keys
        again, since renames are pairs, and sends on only what it has not sent.
        """
        if cursor.ended:
            return
        keys = sorted(key for key in {*events.keys, *events.events} if self.sync.takes(key))
        if not keys:
            return
        names = {key: self.sync.name_of(key) for key in keys}
        rows, gone = self._records.known(names.values())
        records = {key: Record.of_row(rows[name]) for key, name in names.items() if name in rows}
        seqs = {key: record.seq for key, record in records.items()}
        seqs |= {key: RemovedRecord.of_row(gone[name]).seq for key, name in names.items() if name in gone}
        asked = [key for key in keys if not events.is_known(key, seqs.get(key, ""))]
        answers = in_parallel(
            lambda key: (key, self._items.read(key, records.get(key), events, context)), asked, AT_ONCE
        )
        read = [answer for _, answer in answers]
        left_out = read.count(NoItem.LEFT_OUT)
        failures = [each for each in read if isinstance(each, Failure)]
        equal = [*set(keys).difference(asked), *(key for key, answer in answers if answer is None)]
        gone_keys = [key for key, answer in answers if answer is NoItem.GONE]
        if context.named:
            failures += map(self._items.absent, gone_keys)
        changes = sorted((each for each in read if isinstance(each, FileChange)), key=lambda change: change.key)
        adopted = {
            change.name: Record.of_listed(change.listed, change.existing.etag, seq=change.seq).to_row()
            for change in changes
            if change.action is Action.ADOPT and change.listed is not None and change.existing is not None
        }
        if not context.plan:
            self._records.write(adopted)
        renames = self._renames(changes)
        resumed = cursor.sent is not None
        decided = self._decided(changes, renames, context, failures, granted=cursor.removing if resumed else None)
        found = [*(each for each in read if isinstance(each, Item)), *self._items.found(decided, renames)]
        results = self._answers([*(names[key] for key in equal), *adopted])
        count = len(equal) + len(adopted) - len(results) + (0 if context.named else len(gone_keys))
        first = Page("", equal=count, results=tuple(results), failures=tuple(failures), left_out=left_out)
        # Removals beyond the limits are no longer among the items.
        removals = sum(Task.of(item).operation == "remove" for item in found)
        position = cursor if resumed else ScanCursor(removals_among(decided, renames) != [], granted=removals)
        pages = list(self._sent_on(found, position, first))
        yield from pages[:-1]
        for page in pages[-1:]:
            yield replace(page, cursor=replace(ScanCursor.of_text(page.cursor), ended=True).to_text())

    def _decided(
        self,
        changes: Sequence[FileChange],
        renames: Mapping[str, str],
        context: StepContext,
        failures: list[Failure],
        *,
        granted: bool | None,
    ) -> list[FileChange]:
        """Return the changes to carry out, without removals beyond the limits.

        ``granted`` is the decision that was made before, None if there is none.
        """
        removed = removals_among(changes, renames)
        keeps = set() if granted else {id(change) for change in removed}
        if granted is None and removed and self.sync.removals is not None:
            name = digest_of([change.removal for change in removed])
            count, failure = self._removals.reserve(len(removed), None, context, name)
            if count:
                keeps = set()
            elif failure is not None:
                # A retry scans the keys that were not removed, and no others.
                failures += [
                    self._items.failed(c.key, failure.error, None if c.record is None else c.record.etag)
                    for c in removed
                ]
        return [c for c in changes if c.action is not Action.ADOPT and id(c) not in keeps]

    def _renames(self, changes: Sequence[FileChange]) -> dict[str, str]:
        """Return the renames among changes, except those to a path that is taken or that the target cannot have.

        The origin of such a pair is removed like any other file.
        """
        if self.sync.removals is None:
            return {}
        renames = {
            new: old
            for new, old in renames_among(changes).items()
            if not self.target.refuses(self.sync.path_of(new), None)
        }
        if self.target.is_listed:
            return renames

        def free(pair: tuple[str, str]) -> tuple[str, str] | None:
            try:
                return pair if self.target.stat(self.sync.path_of(pair[0])) is None else None
            except SynclineError:
                return None  # its transfer reports the reason

        return dict(filter(None, in_parallel(free, list(renames.items()), AT_ONCE)))


@dataclass(slots=True)
class _Window:
    """A part of a scan: its changes, and ``ended`` if the listings end there.

    Of the files that were read, ``items`` are to be transferred, and ``results`` those of equal ones that were asked for.
    ``invalid`` has the failures that are not of files.
    """

    comparison: ListingComparison
    changes: list[FileChange] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    invalid: list[Failure] = field(default_factory=list)
    ended: bool = False

    def page(self) -> Page:
        """Return the window's counts, results and failures as a page."""
        equal = self.comparison.equal - len(self.items) - len(self.failures) - len(self.results)
        failures = (*self.failures, *self.invalid)
        return Page("", equal=equal, results=tuple(self.results), failures=failures, left_out=self.comparison.left_out)
