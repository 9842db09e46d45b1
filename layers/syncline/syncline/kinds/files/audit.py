"""Audit of files: every object of the source with every file of the target, in the order of their names.

Both listings are read in one pass, page by page. Files of equal ETag and size are equal. If the ETags of two files of one
size differ, as after an upload in other parts, full-object checksums decide if both sides state one; otherwise the bytes
of both are read and hashed (:mod:`.audit_bytes`). With ``deep`` the bytes of all files of one share are read, by a hash of
their names. A file manager has no listing and returns no bytes: it is asked for each file, which states the object that it
was made from, and files that only it has stay unknown.

No records are read. In memory are some pages of the listings, and one page of results.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, Final

from syncline.clients.http.listings import OnInvalid
from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.s3.checksums import equal
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.files.audit_bytes import ByteComparison, Reading
from syncline.kinds.files.config import PREFIX, FilesSync
from syncline.kinds.files.events import EventScope
from syncline.kinds.files.items import FileItems
from syncline.kinds.files.listing import InvalidEntries, chunks, listed_ahead
from syncline.kinds.files.targets import Target, TargetFile, file_of
from syncline.kinds.kind import Failure, Page, StepContext, failure_pages
from syncline.model import Audit, Item, Outcome, Result, Scope, compact_json

AT_ONCE: Final = 16
"""Files asked for at a time."""
READERS: Final = 4
"""Files whose bytes are read at a time."""
WINDOW: Final = 64
"""Files behind the first one that is not finished."""
PAGE_RESULTS: Final = 400
_PAGE_LEFT_OUT: Final = 5_000
_PAGE_FAILURES: Final = 50
_PAGE_CHARACTERS: Final = 100_000
"""Characters of the names in a page, whose record must fit an item of the table."""


@dataclass(frozen=True, slots=True)
class FilePair:
    """An object of the source and the file of the same name at the target, None where there is none."""

    key: str
    name: str
    source: ListedObject | None
    target: TargetFile | None


Entry = FilePair | Failure | str
"""A pair, a failure, or the name of an object that is left out. A failure belongs before the next name."""


@dataclass(slots=True)
class _Position:
    """The position of an audit: behind the name ``after`` of a stage, None at its beginning.

    The keys of a scope are its first stage, and each prefix is a further one. ``kept`` has the readings behind ``after``.
    """

    stage: int = 0
    after: str | None = None
    kept: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def of_text(cls, text: str | None) -> _Position:
        return cls() if text is None else cls(*json.loads(text))

    def to_text(self) -> str:
        return compact_json([self.stage, self.after, self.kept])


class Unread:
    """The answer for a file for which the time was short."""


Answer = Result | Failure | Unread


@dataclass(slots=True)
class _Waiting:
    """The result of an entry, which may be a reading in progress; None for an object that is left out.

    ``name`` is None for a failure, which does not move the position. ``reading`` is that of its bytes, if they are read.
    """

    name: str | None
    result: Future[Answer] | Result | Failure | None
    reading: Reading | None = None


class FileAudit:
    """One audit of a sync's files."""

    def __init__(
        self, sync: FilesSync, source: Bucket, target: Target, group_of: Callable[[str], str], audit: Audit
    ) -> None:
        """``group_of`` gives the group of a name."""
        self._sync = sync
        self._source = source
        self._target = target
        self._group_of = group_of
        self._audit = audit
        self._items = FileItems(sync, source, target, group_of)

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield the pages behind a cursor."""
        begun = _Position.of_text(cursor)
        if scope.groups is None:
            if cursor is None and not self._target.is_listed:
                yield Page(begun.to_text(), results=(self._unlisted(),))
            yield from self._stage(begun, context, partial(self._listed, "", context=context, whole=True))
            return
        wanted = EventScope.of(scope.groups)
        keys = sorted(key for key in {*wanted.keys, *wanted.events, *wanted.modes} if self._sync.takes(key))
        for stage, prefix in enumerate((None, *wanted.prefixes)):
            if stage < begun.stage or context.over:
                continue
            at = begun if stage == begun.stage else _Position(stage)
            if prefix is None:
                yield from self._stage(at, context, partial(self._named, keys, context=context))
            else:
                listed = partial(self._listed, self._sync.name_of(prefix), context=context, whole=False)
                yield from self._stage(at, context, listed)

    def _unlisted(self) -> Result:
        """Return the result that states what the audit of a target without listings cannot find."""
        what = f"extra files at {self._target.name} are unknown, since it lists none"
        read = "; its files are compared by what they state, since it returns no bytes"
        return Result("*", "*", Outcome.LEFT_OUT, reason=what + (read if self._audit.deep else ""))

    # -- results -------------------------------------------------------------------------------------------------

    def _stage(
        self, at: _Position, context: StepContext, opened: Callable[[str | None], Generator[Entry]]
    ) -> Iterator[Page]:
        """Yield the pages of one stage, with the results of its entries in their order.

        At the end of the time, the readings that are not finished go into the cursor.
        """
        comparison = ByteComparison(self._sync, self._source, self._target, context)
        waiting: deque[_Waiting] = deque()
        page = _Results(at.after)
        threads = READERS if self._target.is_listed else AT_ONCE
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="audit") as pool,
            comparison.stopped_at_end(),
            closing(opened(at.after)) as entries,
        ):
            judged = self._judged(entries, at.kept, comparison, pool)
            while True:
                if not context.over:
                    waiting.extend(islice(judged, WINDOW - len(waiting)))
                if not waiting:
                    yield from page.taken(_Position(at.stage, page.after))
                    return
                name, result = waiting[0].name, waiting[0].result
                if name is not None and page.is_full:
                    yield from page.taken(_Position(at.stage, page.after))
                found = result.result() if isinstance(result, Future) else result
                if isinstance(found, Unread):
                    kept = _kept(waiting)
                    if page.after != at.after or kept != at.kept or not page.is_empty:
                        yield from page.taken(_Position(at.stage, page.after, kept), always=True)
                    return
                waiting.popleft()
                page.add(name, found)

    def _judged(
        self, entries: Iterator[Entry], kept: dict[str, list[Any]], comparison: ByteComparison, pool: ThreadPoolExecutor
    ) -> Iterator[_Waiting]:
        """Yield the entries with their results, and begin the readings that these take."""
        for entry in entries:
            if isinstance(entry, Failure):
                yield _Waiting(None, entry)
            elif isinstance(entry, str):
                yield _Waiting(entry, None)
            elif entry.source is not None and not self._target.is_listed and entry.target is None:
                yield _Waiting(entry.name, pool.submit(self._asked, entry, comparison))
            elif (result := self._by_listing(entry)) is not None:
                yield _Waiting(entry.name, result)
            else:
                assert entry.source is not None
                assert entry.target is not None
                reading = Reading.resumed(entry.source, entry.target, kept.get(entry.name))
                yield _Waiting(entry.name, pool.submit(self._read, entry, reading, comparison), reading)

    def _by_listing(self, pair: FilePair) -> Result | None:
        """Return the result of a pair as its two fingerprints show it, None if the bytes have to be read."""
        source, target = pair.source, pair.target
        if source is None or target is None or source.size != target.size:
            return self._differing(pair)
        if source.etag and target.etag == source.etag and not self._is_deep(pair):
            return self._result(pair, Outcome.EQUAL)
        return None

    def _differing(self, pair: FilePair) -> Result:
        """Return the result of a pair that is not complete, or whose sizes differ."""
        source, target = pair.source, pair.target
        if target is None:
            path = self._sync.path_of(pair.key)
            refused = self._target.refuses(path, None if source is None else source.size)
            if refused is not None:
                reason = f"the key makes a path that {refused}, so the target cannot have it"
                return replace(self._result(pair, Outcome.MISSING, reason), code="PATH_REFUSED")
            return self._result(pair, Outcome.MISSING, f"{self._target.name} does not have it")
        if source is None:
            return self._result(pair, Outcome.EXTRA)
        return self._result(
            pair, Outcome.DIFFERENT, f"it has {source.size} bytes at the source and {target.size} at the target"
        )

    def _asked(self, pair: FilePair, comparison: ByteComparison) -> Answer:
        """Return the result of a file that a target without listings is asked for."""
        if comparison.over:
            return Unread()
        source = pair.source
        assert source is not None
        try:
            pair = replace(pair, target=self._target.stat(self._sync.path_of(pair.key)))
        except SynclineError as error:
            return self._failure(pair, error)
        target = pair.target
        if target is None or target.size not in (None, source.size):
            return self._differing(pair)
        if target.etag is None:
            what = f"{self._target.name} does not state the object that the file was made from, and returns no bytes"
            return self._result(pair, Outcome.LEFT_OUT, f"{what}, so it cannot be compared")
        if target.equals(source.etag, source.size):
            return self._result(pair, Outcome.EQUAL)
        return self._result(pair, Outcome.DIFFERENT, "the file was made from another version of the object")

    def _read(self, pair: FilePair, reading: Reading, comparison: ByteComparison) -> Answer:
        try:
            same = None if self._is_deep(pair) else self._by_checksums(reading)
            if same is not None:
                what = f"the ETags differ, and the full-object checksums {'are equal' if same else 'differ'}"
                return self._result(pair, Outcome.EQUAL if same else Outcome.DIFFERENT, what)
            if not comparison.read(pair.key, reading):
                return Unread()
        except SynclineError as error:
            return self._failure(pair, error)
        source, target = reading.digests()
        same_etag = reading.source.etag and reading.source.etag == reading.target.etag
        if source == target:
            reason = None if same_etag else f"the ETags differ, but the bytes of both are sha256:{source}"
            result = self._result(pair, Outcome.EQUAL, reason)
        else:
            what = f"the bytes differ: sha256:{source} at the source, sha256:{target} at the target"
            result = self._result(pair, Outcome.DIFFERENT, what)
        return replace(result, moved_bytes=reading.source.size)

    def _is_deep(self, pair: FilePair) -> bool:
        return self._audit.deep and self._audit.covers(pair.name)

    def _by_checksums(self, reading: Reading) -> bool | None:
        """Return True if both sides state equal checksums of the whole content, None if they do not state the same ones."""
        key, target = reading.source.key, reading.target
        theirs = {} if target.etag is None else self._target.checksums(self._sync.path_of(key), target)
        return (
            equal(theirs, self._source.checksums(key, reading.source.etag)) if theirs and reading.source.etag else None
        )

    def _result(self, pair: FilePair, outcome: Outcome, reason: str | None = None) -> Result:
        source = None if pair.source is None else pair.source.etag
        target = None if pair.target is None else pair.target.etag or pair.target.version
        return Result(self._group_of(pair.name), pair.key, outcome, source, target, reason=reason)

    def _failure(self, pair: FilePair, error: SynclineError) -> Failure:
        """Return the failure of one file, which is audited again where its error is retried."""
        failure = self._items.failed(pair.key, error, None if pair.target is None else pair.target.etag)
        return replace(failure, item=replace(failure.item, source=None if pair.source is None else pair.source.etag))

    # -- pairs ---------------------------------------------------------------------------------------------------

    def _named(self, keys: Iterable[str], after: str | None, context: StepContext) -> Generator[Entry]:
        """Yield the pairs of keys, which are read one by one at source and target."""

        def pair(key: str) -> Entry:
            name = self._sync.name_of(key)
            try:
                head = self._source.head(key)
                listed = None if head is None else ListedObject(key, head.etag, head.size, head.modified)
                # A target without listings is asked for the file by a thread of the audit.
                asked = listed is None or self._target.is_listed
                found = FilePair(key, name, listed, self._target.stat(self._sync.path_of(key)) if asked else None)
            except SynclineError as error:
                return self._items.failed(key, error)
            if found.source is None and found.target is None:
                return self._items.absent(key) if context.named else name
            return name if self._is_left_out(found) else found

        waiting = [key for key in keys if after is None or self._sync.name_of(key) > after]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pair") as pool:
            for at in range(0, len(waiting), AT_ONCE):
                if context.over:
                    return
                yield from pool.map(pair, waiting[at : at + AT_ONCE])

    def _is_left_out(self, pair: FilePair) -> bool:
        size = pair.source.size if pair.source is not None else None if pair.target is None else pair.target.size
        return self._target.leaves_out(self._sync.path_of(pair.key), size)

    def _listed(self, prefix: str, after: str | None, context: StepContext, *, whole: bool) -> Generator[Entry]:
        """Yield the pairs of the names that begin with ``prefix``, in the order of names."""
        sync, invalid = self._sync, InvalidEntries(self._sync, self._items.failed)
        starts = [sync.source.prefix, sync.target.prefix]
        count = 0
        with ExitStack() as stack:
            source, target = (
                chain.from_iterable(stack.enter_context(read_ahead(chunks(listing))))
                for listing in (
                    listed_ahead(self._source, starts[0] + prefix, _behind(starts[0], after), invalid.at_source.append),
                    self._at_target(starts[1] + prefix, _behind(starts[1], after), invalid.at_target.append),
                )
            )
            seen: set[str] = set()
            for name, listed, found in _merged(source, target, (len(starts[0]), len(starts[1]))):
                count += listed is not None
                failures: dict[str, Failure] = {}
                if invalid.at_source or invalid.at_target:
                    failures = {k: f for k, f in invalid.failures(after or "", name).items() if k not in seen}
                    seen |= failures.keys()
                pair = FilePair(
                    starts[0] + name, name, listed, None if found is None else file_of(found.etag, found.size)
                )
                if sync.takes(pair.key) and pair.key not in seen and not self._is_left_out(pair):
                    yield pair
                elif listed is not None and pair.key not in seen:
                    yield name
                yield from failures.values()
            rest = [each for key, each in invalid.failures(after or "", None).items() if key not in seen]
            yield from rest
        if not count and after is None and not seen and not rest and (starts[0] if whole else context.named):
            where = starts[0] + prefix
            item = Item("*", "*") if whole else Item(f"{PREFIX}{where}", "*")
            yield Failure(item, SynclineError("SOURCE_ABSENT", f"{self._source} has no object below {where!r}"))

    def _at_target(self, prefix: str, after: str, odd: OnInvalid) -> Generator[ListedObject]:
        if self._target.is_listed:
            yield from self._target.listing(prefix, after, odd)


def _behind(start: str, after: str | None) -> str:
    """Return the key behind which a listing begins."""
    return "" if after is None else start + after


def _merged(
    source: Iterator[ListedObject], target: Iterator[ListedObject], cuts: tuple[int, int]
) -> Iterator[tuple[str, ListedObject | None, ListedObject | None]]:
    """Yield each name with the objects of both listings. Raises LISTING_INCOMPLETE if one is not sorted."""
    ours, theirs = _sorted(source, cuts[0], "source"), _sorted(target, cuts[1], "target")
    one, other = next(ours, None), next(theirs, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield one[0], one[1], None
            one = next(ours, None)
        elif one is None or other[0] < one[0]:
            yield other[0], None, other[1]
            other = next(theirs, None)
        else:
            yield one[0], one[1], other[1]
            one, other = next(ours, None), next(theirs, None)


def _sorted(listing: Iterator[ListedObject], cut: int, side: str) -> Iterator[tuple[str, ListedObject]]:
    before: str | None = None
    for each in listing:
        name = each.key[cut:]
        if before is not None and name <= before:
            what = f"the {side}'s listing is not sorted: {name!r} follows {before!r}"
            raise SynclineError("LISTING_INCOMPLETE", what)
        before = name
        yield name, each


def _kept(waiting: Iterable[_Waiting]) -> dict[str, list[Any]]:
    """Return the readings that were begun or finished, by name; at the end of the time their threads stop."""
    kept: dict[str, list[Any]] = {}
    for each in waiting:
        if each.name is not None and each.reading is not None and isinstance(each.result, Future):
            answer = each.result.result()
            if not isinstance(answer, Failure) and (state := each.reading.state()) is not None:
                kept[each.name] = state
    return kept


@dataclass(slots=True)
class _Results:
    """The results of a page, up to the name ``after``."""

    after: str | None
    results: list[Result] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left_out: int = 0
    characters: int = 0

    def add(self, name: str | None, result: Result | Failure | None) -> None:
        """Add the result of an entry; one without a name does not move the position."""
        if name is not None:
            self.after = name
        if isinstance(result, Failure):
            self.failures.append(result)
        elif result is None:
            self.left_out += 1
        else:
            self.results.append(result)
            self.characters += len(result.name) + len(result.reason or "")

    @property
    def is_empty(self) -> bool:
        return not (self.results or self.failures or self.left_out)

    @property
    def is_full(self) -> bool:
        many = len(self.results) >= PAGE_RESULTS or self.left_out >= _PAGE_LEFT_OUT
        return many or len(self.failures) >= _PAGE_FAILURES or self.characters >= _PAGE_CHARACTERS

    def taken(self, position: _Position, *, always: bool = False) -> Iterator[Page]:
        """Yield the page, before it one with its failures, and begin the next one; an empty page only if ``always``."""
        if self.is_empty and not always:
            return
        cursor = position.to_text()
        yield from failure_pages(cursor, self.failures)
        yield Page(cursor, results=tuple(self.results), left_out=self.left_out)
        self.results, self.failures, self.left_out, self.characters = [], [], 0, 0
