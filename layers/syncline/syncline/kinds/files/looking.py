"""Looking: a whole bucket against the records of what the target has, or just the keys that events have named.

A look at everything goes through listing and records in one pass. What differs is gathered up to a window, so that
renames are recognised and messages are full; each window is sent on in pages. What is gone is told only when the
listing has come to its end, and is removed only within the limits: at once if all that differs fits into one window,
else by a second pass. Where a function's time ends, the cursor says how far the look has come.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.clients.bucket import Bucket
from syncline.clients.s3_xml import Listed
from syncline.config.files import KEY, FilesSync
from syncline.errors import SynclineError
from syncline.kinds.files.ahead import listed_ahead
from syncline.kinds.files.comparing import Change, Pass, Tally, items_of, renames_among
from syncline.kinds.files.hints import Hints, hints_of
from syncline.kinds.files.places import Place
from syncline.kinds.files.records import Gone, Record, Records, Task, Was, mode_of_grants
from syncline.kinds.kind import Failure, Pace, Page
from syncline.model import Item, Scope, compact_json

WINDOW: Final = 20_000
"""Changes gathered before they are sent on."""
PAGE_BYTES: Final = 200_000
"""Bytes of keys and fingerprints in a page: what follows from it must fit an item of the table, and a message."""
AT_ONCE: Final = 16
"""Keys asked for at a time."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a look stands: in the pass ``gone`` or the first one, behind the key ``after``.

    A window that was being sent on reaches to ``upto`` (None: to the end of the listing), and its pages are out as far
    as the place ``sent`` (group and key). ``whole`` says that this window is all there was.
    """

    gone: bool = False
    after: str = ""
    tally: Tally = field(default_factory=Tally)
    upto: str | None = None
    sent: tuple[str, str] | None = None
    whole: bool = False

    def to_text(self) -> str:
        return compact_json([self.gone, self.after, self.tally.to_json(), self.upto, self.sent, self.whole])

    @classmethod
    def of_text(cls, text: str | None) -> Cursor:
        if text is None:
            return cls()
        gone, after, tally, upto, sent, whole = json.loads(text)
        return cls(gone, after, Tally(*tally), upto, None if sent is None else (sent[0], sent[1]), whole)


class Look:
    """One look at a sync's bucket. ``shard`` gives the group of a key."""

    def __init__(
        self, sync: FilesSync, source: Bucket, place: Place, records: Records, shard: Callable[[str], str]
    ) -> None:
        self._sync = sync
        self._source = source
        self._place = place
        self._records = records
        self._shard = shard

    def pages(self, scope: Scope, cursor: str | None, pace: Pace, told: Hints) -> Iterator[Page]:
        """Pages of what differs. ``told`` are permissions that the target's own events speak of."""
        if scope.groups is None:
            if cursor is None and told.modes:
                yield from self._permitted(told)
            yield from self._scan(self._sync.source.prefix, Cursor.of_text(cursor), pace)
            return
        hints = hints_of(scope.groups)
        at = json.loads(cursor) if cursor else None
        if not isinstance(at, dict):
            yield from self._named(hints, cursor)
        for prefix in hints.prefixes:
            if isinstance(at, dict) and prefix < at["prefix"]:
                continue
            inner = Cursor.of_text(at["at"]) if isinstance(at, dict) and at["prefix"] == prefix else Cursor()
            for page in self._scan(prefix, inner, pace):
                yield replace(page, cursor=compact_json({"prefix": prefix, "at": page.cursor}))

    # -- everything ----------------------------------------------------------------------------------------------

    def _scan(self, prefix: str, cursor: Cursor, pace: Pace) -> Iterator[Page]:
        while not pace.over:
            window, reached, ended = self._window(prefix, cursor, pace)
            if cursor.upto is None and not ended and not window and reached.after == cursor.after:
                return  # time was over before anything was met
            first = cursor.after == "" and not cursor.gone
            whole = cursor.whole or (first and ended and len(window) <= WINDOW)
            removes, failure = self._removals(reached.tally, whole=whole and ended, gone=cursor.gone)
            changes = [c for c in window if c.listed is None] if cursor.gone else window
            renames = renames_among(changes) if self._sync.removals is not None and removes else {}
            items = self._items(changes, renames, removes=removes)
            here = replace(cursor, upto=None if ended else reached.after, whole=whole)
            yield from self._sent_on(items, here, reached, failure if ended else None)
            if not ended:
                cursor = Cursor(cursor.gone, reached.after, reached.tally)
            elif cursor.gone or whole or failure is not None or not reached.tally.gone or self._sync.removals is None:
                return
            else:
                cursor = Cursor(gone=True, tally=reached.tally)
            yield Page(cursor.to_text())

    def _window(self, prefix: str, cursor: Cursor, pace: Pace) -> tuple[list[Change], _Reached, bool]:
        """The changes behind the cursor, up to a window's end, and whether the listing came to its own."""
        tally = Tally(*cursor.tally.to_json())
        listing = listed_ahead(self._source, prefix, cursor.after)
        try:
            going = Pass(listing, self._records.behind(cursor.after, prefix), self._sync.takes, tally, cursor.after)
            changes: list[Change] = []
            for change in going.changes():
                if cursor.upto is not None and going.at > cursor.upto:
                    break
                if change is not None:
                    changes.append(change)
                if going.at == cursor.upto or len(changes) >= WINDOW or (change is None and pace.over):
                    return changes, _Reached(going.at, tally, going.equal), False
            reached = going.at if cursor.upto is None else cursor.upto
            return changes, _Reached(reached, tally, going.equal), cursor.upto is None
        finally:
            listing.close()

    def _removals(self, tally: Tally, *, whole: bool, gone: bool) -> tuple[bool, Failure | None]:
        """Whether removals may be sent on now, and what is to be said where the limits forbid them."""
        limits = self._sync.removals
        if limits is None or not tally.gone:
            return False, None
        if gone:
            return True, None  # the first pass has asked
        if not tally.listed:
            what = f"{self._source} is listed without a single object, and the target has {tally.known}"
            return False, _capped(what)
        if not limits.allows(tally.gone, tally.known):
            what = (
                f"{tally.gone} of {tally.known} files are gone from {self._source}, more than may be removed in one run"
            )
            return False, _capped(what)
        return whole, None

    def _sent_on(
        self, items: Sequence[Item], here: Cursor, reached: _Reached, failure: Failure | None
    ) -> Iterator[Page]:
        """The items of a window in pages; the first one tells what was found equal."""
        waiting = [item for item in items if here.sent is None or (item.group, item.name) > here.sent]
        equal = reached.equal if here.sent is None and not here.gone else 0
        for portion in _portions(waiting):
            good, refused = self._refused(portion)
            last = (portion[-1].group, portion[-1].name)
            yield Page(replace(here, sent=last).to_text(), tuple(good), equal, failures=tuple(refused))
            equal = 0
        if equal or failure is not None:
            yield Page(here.to_text(), skipped=equal, failures=(failure,) if failure is not None else ())

    def _refused(self, items: Sequence[Item]) -> tuple[list[Item], list[Failure]]:
        """Items apart from those whose paths the target cannot have."""
        good: list[Item] = []
        refused: list[Failure] = []
        for item in items:
            why = self._place.refuses(self._sync.path_of(item.name))
            if why is None:
                good.append(item)
            else:
                error = SynclineError("PATH_REFUSED", f"the key {item.name!r} makes a path that {why}")
                refused.append(Failure(replace(item, group=f"{KEY}{item.name}"), error))
        return good, refused

    # -- what events have named ----------------------------------------------------------------------------------

    def _named(self, hints: Hints, cursor: str | None) -> Iterator[Page]:
        """Keys one by one: each is asked for at the source, and compared with its record.

        Not so one of which only events tell that came before what is remembered of it.
        """
        keys = sorted(key for key in hints.all_keys() if self._sync.takes(key))
        if not keys:
            return
        texts, gone = self._records.known(keys)
        records = {key: Record.of_text(text) for key, text in texts.items()}
        seqs = {key: record.seq for key, record in records.items()}
        seqs |= {key: Gone.of_text(text).seq for key, text in gone.items()}
        asked = [key for key in keys if not hints.are_known(key, seqs.get(key, ""))]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
            found = list(pool.map(lambda key: self._asked(key, records.get(key), hints), asked))
        failures = [each for each in found if isinstance(each, Failure)]
        permits = [each for each in found if isinstance(each, Item)]
        changes = [each for each in found if isinstance(each, Change)]
        items = sorted([*permits, *self._decided(changes, failures)], key=lambda item: (item.group, item.name))
        equal = sum(each is None for each in found) + len(keys) - len(asked)
        for portion in _portions(items):
            good, refused = self._refused(portion)
            yield Page(cursor or Cursor().to_text(), tuple(good), failures=tuple(refused))
        yield Page(cursor or Cursor().to_text(), skipped=equal, failures=tuple(failures))

    def _permitted(self, told: Hints) -> Iterator[Page]:
        """The permissions that events told, of files that are there."""
        keys = sorted(told.modes)
        records = {key: Record.of_text(text) for key, text in self._records.get(keys).items()}
        found = [self._permission(key, records[key], told) for key in keys if key in records]
        items = sorted(filter(None, found), key=lambda item: (item.group, item.name))
        for portion in _portions(items):
            yield Page(Cursor().to_text(), tuple(portion))

    def _decided(self, changes: Sequence[Change], failures: list[Failure]) -> list[Item]:
        """What to do about changes of named keys; removals by the limit on their number alone: nothing was counted."""
        limits = self._sync.removals
        renames = renames_among(changes) if limits is not None else {}
        gone = sum(change.listed is None for change in changes) - len(renames)
        removes = limits is not None and gone <= limits.count
        if limits is not None and not removes:
            failures.append(
                _capped(f"{gone} files are said to be gone from {self._source}, more than may be removed at once")
            )
        return self._items(changes, renames, removes=removes)

    def _items(self, changes: Sequence[Change], renames: Mapping[str, str], *, removes: bool) -> list[Item]:
        tells = self._sync.reports is not None
        return items_of(changes, renames, self._shard, removes=removes, tells=tells)

    def _asked(self, key: str, record: Record | None, hints: Hints) -> Change | Item | Failure | None:
        """What the truth about one key comes to: a change, permissions to be set, why it is not known, or nothing."""
        try:
            head = self._source.head(key)
            if head is None:
                return None if record is None else Change(key, None, record, hints.latest(key))
            listed = Listed(key, head.etag, head.size, head.modified)
            if record is None or not record.is_of(listed):
                return Change(key, listed, record, hints.latest(key))
            return self._permission(key, record, hints)
        except SynclineError as error:
            return Failure(Item(f"{KEY}{key}", key), error)

    def _permission(self, key: str, record: Record, hints: Hints) -> Item | None:
        """The item that sets permissions an event told, or that an access list has now; None if they are so."""
        item = Item(self._shard(key), key, record.etag, record.etag, record.size)
        seq, was = hints.latest(key) or record.seq, Was(key, record) if self._sync.reports is not None else None
        if key in hints.modes:
            mode, told = hints.modes[key]
            if mode == record.mode or (record.told and told <= record.told):
                return None
            return Task("permit", mode=mode, told=told, seq=seq, was=was, made=record).on(item)
        if self._sync.permissions.source == "acl" and record.mode is not None and not record.told:
            # An access list changes without the object: it is read again when an event names the key.
            mode = mode_of_grants(self._source.grants(key))
            return None if mode == record.mode else Task("permit", mode=mode, seq=seq, was=was, made=record).on(item)
        return None


@dataclass(frozen=True, slots=True)
class _Reached:
    """Where a window ended: the key, and what was met so far."""

    after: str
    tally: Tally
    equal: int


def _portions(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items in their order, as many at a time as one record of the table holds."""
    portion: list[Item] = []
    size = 0
    for item in items:
        portion.append(item)
        name = len(item.name.encode(errors="surrogatepass"))
        size += name + 60 + (name + 200 if "was" in item.detail else 0)
        if size >= PAGE_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _capped(what: str) -> Failure:
    return Failure(Item("*", "*"), SynclineError("REMOVALS_CAPPED", what))
