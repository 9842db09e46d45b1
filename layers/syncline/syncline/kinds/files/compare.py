"""Comparison of a source's listing with the target's and with our records, in one pass over all three.

All three are sorted by name. If the target cannot be listed, a verified record stands for its file, and a share of the
files is read again in each pass (:class:`RecheckShare`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.clients.http.listings import InvalidEntry
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.files.records import ETAG, MODIFIED, SIZE, TARGET, VERIFIED, Record, Row
from syncline.ownership import Action, decide, digest_of

_EVERY: Final = 1000
"""Names after which a comparison yields None, so that its caller can check the time."""
_MOST_SKIPPED: Final = 2000
"""Foreign files that are skipped one by one before the target's listing is opened again further on."""


@dataclass(frozen=True, slots=True)
class RecheckShare:
    """The share of the files that are due to be read again at the target, between two times in Unix seconds.

    Each name has a fixed phase within ``period`` seconds. So each file is read once in a period, however often scans are
    made, and the files read are those that were not read for the longest time.
    """

    since: float
    now: float
    period: float

    def includes(self, name: str) -> bool:
        """Return True if the file of a name is due."""
        phase = zlib.crc32(name.encode(errors="surrogatepass")) / 2**32
        begin = self.since / self.period % 1
        return (phase - begin) % 1 < (self.now - self.since) / self.period


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that differs: new if it has no ``record``, gone from the source if it is not ``listed`` there.

    ``existing`` is the target's file as it was listed. ``seq`` is the sequencer of the latest event before it was read at
    the source, "" if there is none.
    """

    key: str
    name: str
    action: Action
    listed: ListedObject | None
    record: Record | None
    existing: ListedObject | None = None
    seq: str = ""

    @property
    def removal(self) -> str:
        """A text that identifies the removal of this version: a file that was created again since counts once more."""
        known = "" if self.record is None else f"{self.record.etag} {self.record.modified}"
        return f"{self.name}\0{known}"


@dataclass(slots=True)
class Tally:
    """Counts of a scan: objects ``listed`` at the source, files that are ``ours`` and selected, and those that are gone.

    ``renamed`` counts renames, which are not among ``gone``, and ``digest`` identifies the files that are gone. ``odd``
    counts invalid entries of the listings: nothing is removed after one, since it may be a file that seems gone.
    """

    listed: int = 0
    ours: int = 0
    gone: int = 0
    renamed: int = 0
    digest: str = ""
    odd: int = 0


class TargetListing:
    """A target's listing, read alongside the source's. ``opened`` lists the files behind a name.

    ``prefix`` is removed from paths to give names. ``invalid`` has the invalid entries that were read so far.
    """

    def __init__(
        self,
        opened: Callable[[str], Iterator[ListedObject]],
        prefix: str,
        after: str,
        invalid: Sequence[InvalidEntry] = (),
    ) -> None:
        self.invalid = invalid
        self._opened = opened
        self._cut = len(prefix)
        self._listing = opened(after)
        self._there: ListedObject | None = None
        self._path = ""
        self._begun = False

    def find(self, name: str) -> ListedObject | None:
        """Return the file of a name; the caller asks for names in their order.

        Raises LISTING_INCOMPLETE if the listing is not sorted.
        """
        skipped = 0
        while not self._begun or (self._there is not None and self._path < name):
            self._next()
            skipped += 1
            if skipped == _MOST_SKIPPED and self._there is not None and self._path < name:
                # There may be millions of foreign files: the listing continues just before the name.
                self._listing, self._begun = self._opened(_just_before(name)), False
        return self._there if self._path == name else None

    def _next(self) -> None:
        before, begun = self._path, self._begun
        self._there, self._begun = next(self._listing, None), True
        if self._there is None:
            return
        self._path = self._there.key[self._cut :]
        if begun and self._path <= before:
            raise SynclineError(
                "LISTING_INCOMPLETE", f"the target's listing is not sorted: {self._path!r} follows {before!r}"
            )


@dataclass(slots=True)
class ListingComparison:
    """A comparison in one pass, which has reached the name ``at``.

    ``prefixes`` are those of source and target, which names do not have. ``target`` is None if the target cannot be
    listed. ``takes`` is None if every name is selected. ``leaves_out`` returns True if the target needs no file for an
    object's name and size. ``reread`` are names that have to be read at the target in any case. The pass ends behind
    ``upto``. ``adopted`` has records to write, None for those to delete; ``checks`` has files that are
    equal by the listings and have to be read: their time differs, or they are due.
    """

    source: Iterator[ListedObject]
    target: TargetListing | None
    records: Iterator[tuple[str, Row]]
    prefixes: tuple[str, str]
    takes: Callable[[str], bool] | None
    leaves_out: Callable[[str, int], bool]
    recheck: RecheckShare | None
    reread: frozenset[str]
    overwrite: bool
    upto: str | None = None
    tally: Tally = field(default_factory=Tally)
    at: str = ""
    equal: int = 0
    left_out: int = 0
    adopted: dict[str, Row | None] = field(default_factory=dict)
    checks: list[FileChange] = field(default_factory=list)

    def changes(self) -> Iterator[FileChange | None]:  # noqa: C901 - one loop over three lists, once for each file
        """Yield the changes in the order of names, and None now and then, so that the caller can check the time.

        Raises LISTING_INCOMPLETE if a listing is not sorted, since a missing entry would be indistinguishable from one
        that follows later.
        """
        cut = len(self.prefixes[0])
        tally, recheck, reread = self.tally, self.recheck, self.reread
        source, records, target = self.source, self.records, self.target
        listed, known = next(source, None), next(records, None)
        name = "" if listed is None else listed.key[cut:]
        steps = 0
        while listed is not None or known is not None:
            if listed is not None and (known is None or name <= known[0]):
                at = name
                if at <= self.at and self.at:
                    raise SynclineError(
                        "LISTING_INCOMPLETE", f"the source's listing is not sorted: {at!r} follows {self.at!r}"
                    )
                row = known[1] if known is not None and known[0] == at else None
            else:
                assert known is not None
                at, row = known
            if self.upto is not None and at > self.upto:
                return
            existing = None if target is None else target.find(at)
            change: FileChange | None = None
            if listed is not None and name == at:
                tally.listed += 1
                if (
                    row is not None
                    and row[ETAG] == listed.etag
                    and row[SIZE] == listed.size
                    and row[VERIFIED]
                    and (target is None or (existing is not None and existing.etag == (row[TARGET] or row[ETAG]) != ""))
                    and (existing is None or existing.size == listed.size)
                    and row[MODIFIED] == int(listed.modified)
                    and (recheck is None or not recheck.includes(at))
                    and at not in reread
                    and (self.takes is None or self.takes(listed.key))
                ):
                    tally.ours += 1
                    self.equal += 1
                else:
                    change = self._differing(at, listed, row, existing)
                listed = next(source, None)
                name = "" if listed is None else listed.key[cut:]
            elif row is not None:
                change = self._missing(at, row, existing)
            if row is not None:
                known = next(records, None)
            self.at = at
            steps += 1
            if change is not None:
                yield change
            elif steps % _EVERY == 0:
                yield None

    def _differing(
        self, name: str, listed: ListedObject, row: Row | None, existing: ListedObject | None
    ) -> FileChange | None:
        """Compare an object of the source that differs from the record or the target in some way."""
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
            # A service that stored fewer bytes than it was sent may list them under the ETag that it returned.
            current = current and existing is not None and existing.size == listed.size
            # Some services list no ETags, so nothing is known about the bytes.
            ours = record is not None and existing is not None and existing.etag == record.target != ""
            same = (
                existing is not None
                and (existing.etag, existing.size) == (listed.etag, listed.size)
                and listed.etag != ""
            )
            action = decide(
                at_source=True,
                at_target=existing is not None,
                ours=ours,
                current=current,
                same=same,
                overwrite=self.overwrite,
            )
        if action is Action.EQUAL and record is not None:
            self.equal += 1
            due = name in self.reread or (self.recheck is not None and self.recheck.includes(name))
            if due or record.modified != int(listed.modified):
                self.checks.append(FileChange(listed.key, name, action, listed, record))
            elif not record.verified:
                self.adopted[name] = replace(record, verified=True).to_row()
            return None
        if action is Action.ADOPT and existing is not None:
            self.equal += 1
            headers = record.headers if record is not None and current else ""
            seq = "" if record is None else record.seq
            self.adopted[name] = Record.of_listed(listed, existing.etag, headers=headers, seq=seq).to_row()
            return None
        return FileChange(listed.key, name, action, listed, record, existing)

    def _missing(self, name: str, row: Row, existing: ListedObject | None) -> FileChange | None:
        """Decide about a record whose object is gone from the source."""
        key = self.prefixes[0] + name
        if self.takes is not None and not self.takes(key):
            return None  # it is no longer selected, and is not removed
        record = Record.of_row(row)
        if self.target is not None and existing is None:
            # Gone from both sides, unless a transfer is in flight (an unverified record) or an invalid entry stands for
            # the file.
            if record.verified and not self.target.invalid:
                self.adopted[name] = None
            return None
        self.tally.ours += 1
        if existing is not None and existing.etag != record.target:
            return FileChange(key, name, Action.CONFLICT, None, record, existing)
        self.tally.gone += 1
        return FileChange(key, name, Action.REMOVE, None, record, existing)


def _just_before(name: str) -> str:
    """Return a text that sorts before the name and after nearly all others that do."""
    if name[-1] in "\0\ue000":  # before these comes no character that UTF-8 has
        return name[:-1]
    return name[:-1] + chr(ord(name[-1]) - 1) + "\U0010ffff"


def renames_among(changes: Sequence[FileChange]) -> dict[str, str]:
    """Return the keys of renamed files, each with its previous key.

    A rename is one new and one gone file of equal ETag and size. If there are several of either, they are created and
    removed. Empty objects are all equal, so they are never renames.
    """
    new: dict[tuple[str, int], list[str]] = {}
    gone: dict[tuple[str, int], list[str]] = {}
    for change in changes:
        free = change.record is None and change.existing is None
        if change.action is Action.CREATE and free and change.listed is not None:
            new.setdefault((change.listed.etag, change.listed.size), []).append(change.key)
        elif change.action is Action.REMOVE and change.record is not None:
            gone.setdefault((change.record.etag, change.record.size), []).append(change.key)
    return {
        new[what][0]: keys[0]
        for what, keys in gone.items()
        if what[0] and what[1] and len(keys) == 1 and len(new.get(what, ())) == 1
    }


def with_renames(tally: Tally, changes: Sequence[FileChange], renames: Mapping[str, str]) -> Tally:
    """Return a tally that counts the renames among its last changes as such, and not as removals."""
    origins = set(renames.values())
    gone = [change.removal for change in changes if change.action is Action.REMOVE and change.key not in origins]
    digest = digest_of([tally.digest, *gone]) if gone else tally.digest
    count = tally.gone - len(renames)
    return replace(tally, gone=count, renamed=tally.renamed + len(renames), digest=digest)
