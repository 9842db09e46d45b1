"""Comparison of a source's listing with the target's and with our records, in one pass over all three.

All three come in the order of names. Where the target cannot be listed, a record stands for its file while that is
verified, and a share of the files is read again in each pass (:class:`Turns`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.clients.http.listings import Odd
from syncline.clients.s3.xml import Listed
from syncline.errors import SynclineError
from syncline.kinds.files.records import ETAG, MODIFIED, SIZE, TARGET, VERIFIED, PreviousRecord, Record, Row
from syncline.ownership import Action, decide, digest_of

_EVERY: Final = 1000
"""Names after which a pass yields None, so that its caller can check the time."""
_MOST_SKIPPED: Final = 2000
"""Files of others that are read past before the target's listing is opened anew."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The share of the files whose turn it is to be read again at the target, between two times in Unix seconds.

    Each name has its fixed place on a circle that takes ``period`` seconds. So the file that is read is always the one
    whose last reading is the longest ago, and each is read once in a period, however often scans are made.
    """

    since: float
    now: float
    period: float

    @property
    def share(self) -> float:
        """The share of all files, from 0 to 1."""
        return min(1.0, max(0.0, (self.now - self.since) / self.period))

    def has(self, name: str) -> bool:
        """Return True if it is the turn of a name."""
        place = zlib.crc32(name.encode(errors="surrogatepass")) / 2**32
        begin = self.since / self.period % 1
        return (place - begin) % 1 < self.share


@dataclass(frozen=True, slots=True)
class Change:
    """A file to act on: new without ``record``, gone without ``listed``.

    ``there`` is the target's file as it was listed. ``seq`` is the sequencer of the latest event before it was read at
    the source, "" if there is none.
    """

    key: str
    name: str
    action: Action
    listed: Listed | None
    record: Record | None
    there: Listed | None = None
    seq: str = ""

    @property
    def was(self) -> PreviousRecord | None:
        """The record before the change."""
        return None if self.record is None else PreviousRecord(self.name, self.record)

    @property
    def removal(self) -> str:
        """A text for the removal of this version: a file that came again since is removed once more, and counts again."""
        known = "" if self.record is None else f"{self.record.etag} {self.record.modified}"
        return f"{self.name}\0{known}"


@dataclass(frozen=True, slots=True)
class Check:
    """A file that is equal as far as listings tell, and has to be read: its time differs, or it is its turn."""

    key: str
    name: str
    listed: Listed
    record: Record
    there: Listed | None


@dataclass(slots=True)
class Tally:
    """Objects listed at the source, files that are ours and selected, and those of them that are gone from the source.

    ``renamed`` counts renames, which are not among ``gone``, and ``digest`` stands for the files that are gone. ``odd``
    counts the entries of the listings that cannot be used: nothing is removed after one, as it may be what seems gone.
    """

    listed: int = 0
    ours: int = 0
    gone: int = 0
    renamed: int = 0
    digest: str = ""
    odd: int = 0


class TargetListing:
    """A target's listing, read alongside the source's. ``opened`` lists the files behind a name; ``start`` is cut off.

    ``odd`` has the listing's odd entries that were met so far.
    """

    def __init__(
        self, opened: Callable[[str], Iterator[Listed]], start: str, after: str, odd: Sequence[Odd] = ()
    ) -> None:
        self.odd = odd
        self._opened = opened
        self._cut = len(start)
        self._listing = opened(after)
        self._there: Listed | None = None
        self._path = ""
        self._begun = False

    def find(self, name: str) -> Listed | None:
        """Return the file of a name; names are asked for in their order.

        Raises LISTING_INCOMPLETE if the listing is not in order.
        """
        skipped = 0
        while not self._begun or (self._there is not None and self._path < name):
            self._next()
            skipped += 1
            if skipped == _MOST_SKIPPED and self._there is not None and self._path < name:
                # Files of others, perhaps millions of them: the listing goes on just before the name.
                self._listing, self._begun = self._opened(_just_before(name)), False
        return self._there if self._path == name else None

    def _next(self) -> None:
        before, begun = self._path, self._begun
        self._there, self._begun = next(self._listing, None), True
        if self._there is None:
            return
        self._path = self._there.key[self._cut :]
        if begun and self._path <= before:
            raise SynclineError("LISTING_INCOMPLETE", f"the target lists {self._path!r} behind {before!r}")


@dataclass(slots=True)
class Pass:
    """One pass. ``at`` is the name that it has come to.

    ``starts`` are the prefixes of source and target, which names do not have. ``target`` is None where the target
    cannot be listed. ``takes`` is None where every name is selected. ``leaves_out`` tells of an object's name and size
    whether the target needs no such thing. ``told`` are names that have to be read at the target in any case. The pass
    ends behind ``upto``. ``adopted`` has records to write, None for those to drop.
    """

    source: Iterator[Listed]
    target: TargetListing | None
    records: Iterator[tuple[str, Row]]
    starts: tuple[str, str]
    takes: Callable[[str], bool] | None
    leaves_out: Callable[[str, int], bool]
    turns: Turns | None
    told: frozenset[str]
    overwrite: bool
    upto: str | None = None
    tally: Tally = field(default_factory=Tally)
    at: str = ""
    equal: int = 0
    left_out: int = 0
    adopted: dict[str, Row | None] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    def changes(self) -> Iterator[Change | None]:  # noqa: C901 - one loop over three lists, once for each file
        """Yield the changes in the order of names, and None now and then, so that the caller can check the time.

        Raises LISTING_INCOMPLETE if a listing is not in order, since what is missing could not be told then from what
        is yet to come.
        """
        cut = len(self.starts[0])
        tally, turns, told = self.tally, self.turns, self.told
        source, records, target = self.source, self.records, self.target
        listed, known = next(source, None), next(records, None)
        name = "" if listed is None else listed.key[cut:]
        steps = 0
        while listed is not None or known is not None:
            if listed is not None and (known is None or name <= known[0]):
                at = name
                if at <= self.at and self.at:
                    raise SynclineError("LISTING_INCOMPLETE", f"the source lists {at!r} behind {self.at!r}")
                row = known[1] if known is not None and known[0] == at else None
            else:
                assert known is not None
                at, row = known
            if self.upto is not None and at > self.upto:
                return
            here = None if target is None else target.find(at)
            change: Change | None = None
            if listed is not None and name == at:
                tally.listed += 1
                if (
                    row is not None
                    and row[ETAG] == listed.etag
                    and row[SIZE] == listed.size
                    and row[VERIFIED]
                    and (target is None or (here is not None and here.etag and here.etag == (row[TARGET] or row[ETAG])))
                    and (here is None or here.size == listed.size)
                    and row[MODIFIED] == int(listed.modified)
                    and (turns is None or not turns.has(at))
                    and at not in told
                    and (self.takes is None or self.takes(listed.key))
                ):
                    tally.ours += 1
                    self.equal += 1
                else:
                    change = self._met(at, listed, row, here)
                listed = next(source, None)
                name = "" if listed is None else listed.key[cut:]
            elif row is not None:
                change = self._missed(at, row, here)
            if row is not None:
                known = next(records, None)
            self.at = at
            steps += 1
            if change is not None:
                yield change
            elif steps % _EVERY == 0:
                yield None

    def _met(self, name: str, listed: Listed, row: Row | None, here: Listed | None) -> Change | None:
        """Compare an object of the source that is not plainly equal."""
        if (self.takes is not None and not self.takes(listed.key)) or self.leaves_out(name, listed.size):
            self.left_out += 1
            return None
        record = None if row is None else Record.of_row(row)
        self.tally.ours += record is not None
        current = record is not None and record.is_of(listed.etag, listed.size)
        if self.target is None:
            ours = record is not None and record.verified
            action = Action.EQUAL if ours and current else Action.CREATE
        else:
            # A service that kept fewer bytes than it was sent may list them under the ETag that it answered.
            current = current and here is not None and here.size == listed.size
            # Some services list no ETags: then nothing is known of the bytes.
            ours = record is not None and here is not None and here.etag == record.target != ""
            same = here is not None and (here.etag, here.size) == (listed.etag, listed.size) and listed.etag != ""
            action = decide(
                at_source=True,
                at_target=here is not None,
                ours=ours,
                current=current,
                same=same,
                overwrite=self.overwrite,
            )
        if action is Action.EQUAL and record is not None:
            self.equal += 1
            self._note_equal(name, listed, record, here)
            return None
        if action is Action.ADOPT and here is not None:
            self.equal += 1
            before = record or Record(listed.etag, listed.size, 0, here.etag)
            headers = before.headers if current else ""
            made = Record(listed.etag, listed.size, int(listed.modified), here.etag, headers=headers, seq=before.seq)
            self.adopted[name] = made.to_row()
            return None
        return Change(listed.key, name, action, listed, record, here)

    def _note_equal(self, name: str, listed: Listed, record: Record, here: Listed | None) -> None:
        due = name in self.told or (self.turns is not None and self.turns.has(name))
        if due or record.modified != int(listed.modified):
            self.checks.append(Check(listed.key, name, listed, record, here))
            return
        if not record.verified:
            self.adopted[name] = replace(record, verified=True).to_row()

    def _missed(self, name: str, row: Row, here: Listed | None) -> Change | None:
        """Decide about a record whose object is gone from the source."""
        key = self.starts[0] + name
        if self.takes is not None and not self.takes(key):
            return None  # it was left out of the sync since, and stays where it is
        record = Record.of_row(row)
        if self.target is not None and here is None:
            # Gone at both sides. An unverified record may be that of a file that is on its way, and an odd entry may
            # stand for the file.
            if record.verified and not self.target.odd:
                self.adopted[name] = None
            return None
        self.tally.ours += 1
        if here is not None and here.etag != record.target:
            return Change(key, name, Action.CONFLICT, None, record, here)
        self.tally.gone += 1
        return Change(key, name, Action.REMOVE, None, record, here)


def _just_before(name: str) -> str:
    """Return a text that sorts before the name and after nearly all others that do."""
    if name[-1] in "\0\ue000":  # before these comes no character that UTF-8 has
        return name[:-1]
    return name[:-1] + chr(ord(name[-1]) - 1) + "\U0010ffff"


def renames_among(changes: Sequence[Change]) -> dict[str, str]:
    """Return new keys that are old ones under another name, each with the key that it had.

    A rename is a new and a gone file of equal ETag and size, with no other of either: what is ambiguous is created and
    removed. Empty objects are all alike, so they are never renames.
    """
    new: dict[tuple[str, int], list[str]] = {}
    gone: dict[tuple[str, int], list[str]] = {}
    for change in changes:
        free = change.record is None and change.there is None
        if change.action is Action.CREATE and free and change.listed is not None:
            new.setdefault((change.listed.etag, change.listed.size), []).append(change.key)
        elif change.action is Action.REMOVE and change.record is not None:
            gone.setdefault((change.record.etag, change.record.size), []).append(change.key)
    return {
        new[what][0]: keys[0]
        for what, keys in gone.items()
        if what[0] and what[1] and len(keys) == 1 and len(new.get(what, ())) == 1
    }


def with_renames(tally: Tally, changes: Sequence[Change], renames: Mapping[str, str]) -> Tally:
    """Return a tally with the renames among its last changes counted as such, and not as removals."""
    origins = set(renames.values())
    gone = [change.removal for change in changes if change.action is Action.REMOVE and change.key not in origins]
    digest = digest_of([tally.digest, *gone]) if gone else tally.digest
    count = tally.gone - len(renames)
    return replace(tally, gone=count, renamed=tally.renamed + len(renames), digest=digest)
