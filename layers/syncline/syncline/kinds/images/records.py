"""Records of the images that were verified at the target, by repository and tag.

A tag at the target is ours if it has a record with its digest: we verified it there after a copy, or found it equal to
the source. A record also has the time since which complete listings of the source lack the tag.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

from syncline.kinds.facts import FactStore

Row = list[Any]
MOST_HELD: Final = 20_000
"""Records of one repository that a scan holds; those of a larger one are read a page at a time."""
_BUFFERED: Final = 2_000
"""Changes gathered by a scan before they are written."""

SHARES: Final = 16
"""Complete scans in which the digest of each tag of a target is requested once, if its listing has no digests."""


class Records(Protocol):
    """The records of a sync's images; see :class:`syncline.store.image_records.ImageRecords`."""

    def scan(self, first: str = "") -> Iterator[tuple[str, str, Row]]: ...

    def of(self, repository: str) -> Iterator[tuple[str, Row]]: ...

    def known(self, repository: str, tags: Iterable[str]) -> dict[str, Row]: ...

    def write(self, changes: Mapping[tuple[str, str], Row | None]) -> None: ...


class ProcessRecords:
    """Records of one process, for commands that have no table."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}

    def scan(self, first: str = "") -> Iterator[tuple[str, str, Row]]:
        return ((*key, row) for key, row in sorted(self.rows.items()) if key[0] >= first)

    def of(self, repository: str) -> Iterator[tuple[str, Row]]:
        return ((key[1], row) for key, row in sorted(self.rows.items()) if key[0] == repository)

    def known(self, repository: str, tags: Iterable[str]) -> dict[str, Row]:
        return {tag: self.rows[repository, tag] for tag in tags if (repository, tag) in self.rows}

    def write(self, changes: Mapping[tuple[str, str], Row | None]) -> None:
        for key, row in changes.items():
            self.rows.pop(key, None)
            if row is not None:
                self.rows[key] = row


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """The digest that was verified under a tag of the target.

    ``absent_since`` is the time (Unix seconds) since which each complete listing of the source lacked the tag, 0 if the
    latest one had it.
    """

    digest: str
    absent_since: int = 0

    def to_row(self) -> Row:
        return [self.digest, self.absent_since] if self.absent_since else [self.digest]

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> ImageRecord:
        """Return the record of a row. Values that a later version has appended are ignored."""
        return cls(*row[:2])


@dataclass(frozen=True, slots=True)
class RereadShare:
    """The tags whose digests one scan requests from the target although they have a record; all if ``number`` is None."""

    number: int | None = None

    def has(self, repository: str, tag: str) -> bool:
        if self.number is None:
            return True
        return zlib.crc32(f"{repository}:{tag}".encode()) % SHARES == self.number % SHARES


@dataclass(frozen=True, slots=True)
class ScanCounter:
    """The number of complete scans of a sync, which decides the share that the next one re-reads.

    If it is unknown, the scan reads everything.
    """

    facts: FactStore
    key: str

    def share(self) -> RereadShare:
        """Return the share of a complete scan."""
        return RereadShare(self._number())

    def ended(self) -> None:
        """Count a complete scan."""
        self.facts.remember(self.key, str((self._number() or 0) + 1))

    def _number(self) -> int | None:
        number = self.facts.recall(self.key)
        return int(number) if number is not None and number.isdecimal() else None


@dataclass(frozen=True, slots=True)
class RepositoryRecords:
    """The records of one repository of the target: all of them, or None if there are too many to hold."""

    repository: str
    held: dict[str, Row] | None
    records: Records

    def known(self, tags: Iterable[str]) -> dict[str, ImageRecord]:
        """Return the records of those tags that have one."""
        if self.held is None:
            rows = self.records.known(self.repository, tags)
        else:
            rows = {tag: row for tag in tags if (row := self.held.get(tag)) is not None}
        return {tag: ImageRecord.of_row(row) for tag, row in rows.items()}

    def all(self) -> Iterator[tuple[str, ImageRecord]]:
        """Yield all tags that have a record, in ascending order, with their records."""
        rows = self.records.of(self.repository) if self.held is None else self.held.items()
        return ((tag, ImageRecord.of_row(row)) for tag, row in rows)


class ScanRecords:
    """The records that one scan reads and writes.

    ``full`` says that the scan visits most repositories: then it reads all records in one pass, in the order of names,
    and a repository that is not asked for in this order costs a read of its own. With ``writes`` False nothing is
    written. :meth:`learn` may be called by any thread, the other methods by one.
    """

    def __init__(self, records: Records, *, full: bool, writes: bool) -> None:
        self.records = records
        self._full = full
        self._writes = writes
        self._pass: Iterator[tuple[str, str, Row]] | None = None
        self._next: tuple[str, str, Row] | None = None
        self._passed = ""
        self._changes: dict[tuple[str, str], Row | None] = {}
        self._lock = threading.Lock()

    def of(self, repository: str) -> RepositoryRecords:
        """Return the records of a repository."""
        rows = self._passing(repository) if self._full and repository > self._passed else self.records.of(repository)
        held = dict(islice(rows, MOST_HELD + 1))
        return RepositoryRecords(repository, held if len(held) <= MOST_HELD else None, self.records)

    def _passing(self, repository: str) -> Iterator[tuple[str, Row]]:
        """Yield the records of a repository behind the last one, from the pass over all records."""
        if self._pass is None:
            self._pass = self.records.scan(repository)
            self._next = next(self._pass, None)
        self._passed = repository
        while self._next is not None and self._next[0] < repository:
            self._next = next(self._pass, None)
        while self._next is not None and self._next[0] == repository:
            yield self._next[1], self._next[2]
            self._next = next(self._pass, None)

    def learn(self, repository: str, changes: Mapping[str, ImageRecord | None]) -> None:
        """Note records of a repository to be written; None deletes one."""
        with self._lock:
            for tag, record in changes.items():
                self._changes[repository, tag] = None if record is None else record.to_row()

    def write(self, *, least: int = _BUFFERED) -> None:
        """Write the records noted so far if there are at least ``least`` of them."""
        with self._lock:
            changes = self._changes
            if len(changes) < least or not changes:
                return
            self._changes = {}
        if self._writes:
            self.records.write(changes)
