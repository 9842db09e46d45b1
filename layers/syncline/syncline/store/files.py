"""Records of the files at a target, in partitions of sorted segments.

=======================================  =============  ===========================================================
pk                                       sk             ``data``
=======================================  =============  ===========================================================
``FILES#<sync>#<target>#<partition>``    ``C#<id>``     change: the records of one write
``FILES#<sync>#<target>#<partition>``    ``D``          directory: the segments in order, and the changes merged
``FILES#<sync>#<target>#<partition>``    ``I#<id>``     intent of a compaction: the segments that it may replace
``FILES#<sync>#<target>#<partition>``    ``S#<id>#<n>`` segment: a range of records, never modified
=======================================  =============  ===========================================================

:mod:`syncline.store.files_encoding` states the format of ``data``. The directory also has a ``version``, which each
replacement changes. The id of a segment is that of the intent of the compaction that wrote it.

The files are spread over 16 partitions by a hash of their names, unless the caller divides them otherwise. A reader
queries a partition from its start to the directory, gets the segments it needs in batches, and overlays the changes, the
later id winning. The id of a change begins with the time. Every process makes its ids later than those of all unmerged
changes that it has read or was passed, so a writer overrides them even if its clock is behind.

A compaction merges the changes of a partition into new segments. It replaces only the segments that changes or expired
rows fall into, and the next one where too few records are left:

1. It reads the changes, the directory and the intents, and puts its own intent.
2. It writes the new segments.
3. It replaces the directory, on condition that the directory still has the version read in step 1. The new directory
   names the new segments and the changes merged into them.
4. It deletes the merged changes and the replaced segments, then the intent.

A crash at any point is harmless. Before step 3 nothing refers to the new segments. After it, readers ignore the merged
changes, because the directory lists them. The intent leads a later compaction to the abandoned segments: it replaces
the directory first, so that the condition of the dead compaction can only fail, and then deletes them. A reader
that misses a segment was overtaken by a compaction and reads the partition again. It reads the changes before the
directory, so a change that it does not find has been merged into a segment that the directory names.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import secrets
import threading
import time
import zlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from unicodedata import normalize

from syncline.errors import SynclineError
from syncline.store.files_encoding import SEGMENT_ROWS, Contents, Entry, Gone, Piece, Row, is_file, pack, pieces, unpack
from syncline.store.table import Database, number

SHARDS: Final = 16
KEPT: Final = 14 * 24 * 3600
"""Seconds for which a row is kept for a file that is gone: no queue holds an event about it for longer."""
_SMALL: Final = 0.25
"""A rewritten segment below this weight is merged with the next one."""
_AHEAD: Final = 4
"""Segments read in one call. Each is unpacked only when it is needed."""
_TIDY_EVERY: Final = 16
_TIDY_BYTES: Final = 1_000_000
_TRIES: Final = 10
_ABANDONED: Final = 3600
"""Seconds after which a compaction is known to be dead: no function runs for as long."""
_REMEMBERED: Final = 64
"""Changes named as merged after they are gone, in case the call that wrote one is repeated late."""
_CHANGE: Final = "C#"
_DIRECTORY: Final = "D"
_INTENT: Final = "I#"
_SEGMENT: Final = "S#"
_BEFORE_SEGMENTS: Final = "J"
_MICROSECONDS: Final = 16


def shard_of(name: str) -> int:
    """Return the partition of a name. Names that differ only in case or Unicode form share one."""
    folded = name.lower() if name.isascii() else normalize("NFC", normalize("NFD", name).casefold())
    return hashlib.blake2b(folded.encode(errors="surrogatepass"), digest_size=2).digest()[0] % SHARDS


class _Segment(NamedTuple):
    """A segment as the directory names it.

    `low` is its lowest name, `files` its number of files. `weight` is the part of the limits that it uses. `until` is
    the time of the last row kept for a file that is gone, 0 without one.
    """

    sk: str
    low: str
    files: int
    weight: float
    until: int


@dataclass(frozen=True, slots=True)
class _Intent:
    """A compaction that began at a time (Unix seconds) and may replace the segments `replaced`."""

    id: str
    begun: float
    replaced: list[str]

    @property
    def sk(self) -> str:
        return _INTENT + self.id

    @property
    def prefix(self) -> str:
        """The beginning of the sort keys of the segments it writes."""
        return f"{_SEGMENT}{self.id}#"

    def item(self, pk: str) -> dict[str, Any]:
        return {"pk": pk, "sk": self.sk, "begun": number(self.begun), "data": pack(self.replaced)}

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> _Intent:
        return cls(str(item["sk"]).removeprefix(_INTENT), float(item["begun"]), unpack(item["data"]))


class _ReplacedError(Exception):
    """A segment is absent: a compaction has replaced it since the directory was read."""


class _Ids:
    """Source of the ids of changes. Each is later than all that this process has made or read."""

    def __init__(self) -> None:
        self._latest = 0
        self._lock = threading.Lock()

    def next(self, now: float) -> str:
        with self._lock:
            self._latest = max(self._latest + 1, int(now * 1_000_000))
            return f"{self._latest:0{_MICROSECONDS}}{secrets.token_hex(4)}"

    def note(self, latest: int) -> None:
        """Make all further ids later than a time (Unix microseconds)."""
        with self._lock:
            self._latest = max(self._latest, latest)


_IDS: Final = _Ids()


@dataclass(slots=True)
class _Partition:
    """A partition as one query shows it, without its segments.

    `overlay` has the entries of the changes that are not merged yet, None for a name that was removed. `pending` and
    `merged` are the ids of the changes that are there, `recent` those that the directory lists as merged. `size` is in
    bytes, of the pending changes.
    """

    shard: int
    pk: str
    overlay: dict[str, Entry | None] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    recent: list[str] = field(default_factory=list)
    size: int = 0
    version: str | None = None
    segments: list[_Segment] = field(default_factory=list)
    intents: list[_Intent] = field(default_factory=list)
    lows: list[str] = field(default_factory=list)

    def segment_of(self, name: str) -> int:
        """Return the index of the segment whose range holds the name. The first one's range has no lower end."""
        return max(0, bisect_right(self.lows, name) - 1)

    def by_segment(self) -> dict[int, dict[str, Entry | None]]:
        """Return the overlay, divided into the ranges of the segments."""
        changes: dict[int, dict[str, Entry | None]] = defaultdict(dict)
        for name, entry in self.overlay.items():
            changes[self.segment_of(name)][name] = entry
        return changes


@dataclass(frozen=True, slots=True)
class FileRecords:
    """The records of the files that one sync has at one target: rows by name.

    `target` identifies the target by a short hexadecimal text; each target has separate records. `clock` returns
    Unix seconds, and `shard` the partition of a name, of which there are `shards`. `segment_rows` limits the records of
    an item.
    """

    database: Database
    sync: str
    target: str
    clock: Callable[[], float] = time.time
    shard: Callable[[str], int] = shard_of
    segment_rows: int = SEGMENT_ROWS
    shards: int = SHARDS

    def known(self, names: Iterable[str]) -> tuple[dict[str, Row], dict[str, Row]]:
        """Return the rows of the names that have one, and the rows kept for those that are gone."""
        now, entries = self.clock(), self._entries(set(names))
        files = {name: entry for name, entry in entries.items() if is_file(entry)}
        gone = {name: entry.row for name, entry in entries.items() if isinstance(entry, Gone) and entry.until > now}
        return files, gone

    def _entries(self, names: set[str]) -> dict[str, Entry | None]:
        """Return the entries of names. A name without an entry has None or is absent."""
        entries: dict[str, Entry | None] = {}
        for _ in range(_TRIES):
            in_segments = self._enter_changes(names, entries)
            keys = list(in_segments)
            for at in range(0, len(keys), 100):
                for item in self.database.batch_get(keys[at : at + 100]):
                    contents = Contents.of(item["data"])
                    for name in in_segments.pop((str(item["pk"]), str(item["sk"]))):
                        entries[name] = contents.find(name)
            if not in_segments:
                return entries
            names = {name for absent in in_segments.values() for name in absent}
        raise self._damaged(min(in_segments)[0])

    def _enter_changes(self, names: set[str], entries: dict[str, Entry | None]) -> dict[tuple[str, str], list[str]]:
        """Add the entries that are in changes to `entries`. Return the other names by the key of their segment."""
        shards: dict[int, list[str]] = defaultdict(list)
        for name in names:
            shards[self.shard(name)].append(name)
        in_segments: dict[tuple[str, str], list[str]] = defaultdict(list)
        for shard, group in shards.items():
            partition = self._read(shard)
            for name in group:
                if name in partition.overlay:
                    entries[name] = partition.overlay[name]
                elif partition.segments:
                    segment = partition.segments[partition.segment_of(name)]
                    in_segments[partition.pk, segment.sk].append(name)
        return in_segments

    def scan(self, after: str = "", prefix: str = "", shard: int | None = None) -> Iterator[tuple[str, Row]]:
        """Yield the files whose names are greater than `after` and begin with `prefix`, with their rows.

        `shard` is their partition, None for all of them. They come in the order of their names' code points, which is that of their UTF-8 bytes. Rows that are written
        during the scan may be yielded or not.
        """
        # No name is in two partitions, so two rows are never compared.
        shards = range(self.shards) if shard is None else (shard,)
        return heapq.merge(*(self._scan(each, after, prefix) for each in shards))

    def _scan(self, shard: int, after: str, prefix: str) -> Iterator[tuple[str, Row]]:
        tries = _TRIES
        while tries:
            partition = self._read(shard)
            changes = partition.by_segment()
            start, end = _bounds(partition.lows, after, prefix)
            # The segment before the first lowest name can hold such names too.
            wanted = range(max(0, start - 1), max(1, end))
            try:
                for index, contents in zip(wanted, self._contents(partition, wanted), strict=True):
                    names, rows = contents.files(changes.get(index, {}))
                    first, last = _bounds(names, after, prefix)
                    if first < last:
                        yield from zip(names[first:last], rows[first:last], strict=True)
                        after = names[last - 1]
                        tries = _TRIES
            except _ReplacedError:
                tries -= 1
            else:
                return
        raise self._damaged(self._pk(shard))

    def write(self, changes: Mapping[str, Row | None], gone: Mapping[str, Row] | None = None, *, after: int = 0) -> int:
        """Record the rows of files. None removes a name; `gone` does so too, and keeps a row for it for 14 days.

        The rows of one partition are written together, unless they exceed the size of an item. Return the time of the
        write (Unix microseconds). It overrides the write whose time is `after`, whatever the clocks of the two say.
        """
        _IDS.note(after)
        written, until = 0, int(self.clock()) + KEPT
        kept = {name: Gone(until, row) for name, row in (gone or {}).items()}
        shards: dict[int, dict[str, Entry | None]] = defaultdict(dict)
        for name, entry in {**changes, **kept}.items():
            shards[self.shard(name)][name] = entry
        puts, tidy = [], set()
        for shard, group in sorted(shards.items()):
            pk = self._pk(shard)
            for piece in pieces(group, self.segment_rows):
                change = _IDS.next(self.clock())
                written = int(change[:_MICROSECONDS])
                puts.append({"pk": pk, "sk": _CHANGE + change, "data": piece.pack()})
                if zlib.crc32(f"{pk}{change[:_MICROSECONDS]}".encode()) % _TIDY_EVERY == 0:
                    tidy.add(shard)
        self.database.batch_write(puts, [])
        for shard in sorted(tidy):
            partition = self._read(shard, _BEFORE_SEGMENTS)
            # Changes scattered over many segments rewrite them all, so more of them are collected first.
            many = len(partition.pending) >= len(partition.segments) or partition.size > _TIDY_BYTES
            if len(partition.pending) > _TIDY_EVERY and many:
                self._compact(partition)  # another process that overtakes it does the same work
        return written

    def compact(self) -> int:
        """Merge all changes into segments. Return the number of files recorded."""
        return sum(map(self._compact_shard, range(self.shards)))

    def _compact_shard(self, shard: int) -> int:
        for _ in range(_TRIES):
            files = self._compact(self._read(shard, _BEFORE_SEGMENTS))
            if files is not None:
                return files
        return self._count(shard)  # other processes keep compacting it

    def count(self) -> int:
        """Return the number of files recorded. Segments are read only where changes fall into them."""
        return sum(self._count(shard) for shard in range(self.shards))

    def _count(self, shard: int) -> int:
        for _ in range(_TRIES):
            partition = self._read(shard)
            count = sum(segment.files for segment in partition.segments)
            changes = partition.by_segment()
            try:
                for index, contents in zip(changes, self._contents(partition, list(changes)), strict=True):
                    for name, entry in changes[index].items():
                        count += is_file(entry) - is_file(contents.find(name))
            except _ReplacedError:
                continue
            return count
        raise self._damaged(self._pk(shard))

    def _read(self, shard: int, last: str = _DIRECTORY) -> _Partition:
        """Read a partition up to its directory, or including the intents after it."""
        partition = _Partition(shard, self._pk(shard))
        changes: dict[str, Any] = {}
        for item in self.database.query_until(partition.pk, last):
            sk = str(item["sk"])
            if sk.startswith(_CHANGE):
                changes[sk.removeprefix(_CHANGE)] = item
            elif sk == _DIRECTORY:
                segments, partition.recent = unpack(item["data"])
                partition.segments = [_Segment(*segment) for segment in segments]
                partition.lows = [segment.low for segment in partition.segments]
                partition.version = str(item["version"])
            else:
                partition.intents.append(_Intent.of(item))
        merged = set(partition.recent)
        for change, item in changes.items():
            if change in merged:
                partition.merged.append(change)
                continue
            _IDS.note(int(change[:_MICROSECONDS]))
            contents = Contents.of(item["data"])
            partition.pending.append(change)
            partition.size += len(bytes(item["data"]))
            partition.overlay.update({**contents.entries(), **dict.fromkeys(contents.removed)})
        return partition

    def _contents(self, partition: _Partition, wanted: Sequence[int]) -> Iterator[Contents]:
        """Yield the contents of segments by index, a few in a call. A partition without segments has an empty one."""
        if not partition.segments:
            yield from (Contents([], [], {}, []) for _ in wanted)
            return
        for at in range(0, len(wanted), _AHEAD):
            keys = [(partition.pk, partition.segments[index].sk) for index in wanted[at : at + _AHEAD]]
            items = {str(item["sk"]): item for item in self.database.batch_get(keys)}
            for _, sk in keys:
                if sk not in items:
                    raise _ReplacedError
                yield Contents.of(items.pop(sk)["data"])

    def _compact(self, partition: _Partition) -> int | None:
        """Merge the changes of a partition. Return its number of files, None if another compaction came first."""
        pk, now = partition.pk, self.clock()
        seen = dict.fromkeys([*partition.merged, *partition.pending])
        changes = [_CHANGE + change for change in seen]
        dead = [intent for intent in partition.intents if intent.begun < now - _ABANDONED]
        expired = {n for n, segment in enumerate(partition.segments) if 0 < segment.until <= now}
        if not partition.pending and not dead and not expired:
            self._delete(pk, changes)
            return sum(segment.files for segment in partition.segments)
        intent = _Intent(secrets.token_hex(8), now, [segment.sk for segment in partition.segments])
        self.database.put(intent.item(pk))
        segments: list[_Segment] = []
        try:
            self._rewrite(partition, expired, intent, segments)
            recent = [change for change in partition.recent if change not in seen][-_REMEMBERED:]
            won = self.database.replace(_directory(pk, segments, [*recent, *seen]), partition.version)
        except _ReplacedError:
            won = False
        garbage = {*intent.replaced, *(segment.sk for segment in segments)}
        if not won:
            # boto3 repeats a call whose response was lost. The repeated call fails even if the first one succeeded, so
            # the current directory may name the new segments. If it does not, no directory ever will.
            segments = self._read(partition.shard).segments
            changes, dead = [], []
        for other in dead:
            garbage.update(other.replaced, self.database.sort_keys(pk, other.prefix))
        self._delete(pk, [*changes, *sorted(garbage - {segment.sk for segment in segments})])
        self._delete(pk, [other.sk for other in (*dead, intent)])
        return sum(segment.files for segment in segments) if won else None

    def _rewrite(self, partition: _Partition, expired: set[int], intent: _Intent, segments: list[_Segment]) -> None:
        """Write new segments for changes and `expired` rows. Add the segments of the new directory to `segments`."""
        items: list[dict[str, Any]] = []
        numbers = itertools.count()
        for part in self._merged(partition, expired):
            if isinstance(part, _Segment):
                segments.append(part)
                continue
            sk = f"{intent.prefix}{next(numbers):05}"
            segments.append(_Segment(sk, part.low, len(part.names), round(part.weight, 4), part.until))
            items.append({"pk": partition.pk, "sk": sk, "data": part.pack()})
            if len(items) == _AHEAD:
                self.database.batch_write(items, [])
                items = []
        self.database.batch_write(items, [])

    def _merged(self, partition: _Partition, expired: set[int]) -> Iterator[_Segment | Piece]:
        """Yield the segments that stay as they are, and the contents of new ones between them, in order."""
        now = self.clock()
        changes = partition.by_segment()
        touched = changes.keys() | expired
        ahead = self._contents(partition, sorted(touched))
        small: dict[str, Entry] = {}
        for index in range(max(len(partition.segments), len(touched))):
            if index in touched:
                contents = next(ahead)
            elif small:
                contents = next(self._contents(partition, [index]))
            else:
                yield partition.segments[index]
                continue
            entries = {**small, **contents.entries(), **changes.get(index, {})}
            left = {
                name: entry
                for name, entry in entries.items()
                if entry is not None and not (isinstance(entry, Gone) and entry.until <= now)
            }
            new = pieces(left, self.segment_rows)
            small = {}
            if new and new[-1].weight < _SMALL:
                low = new.pop().low
                small = {name: entry for name, entry in left.items() if name >= low}
            yield from new
        yield from pieces(small, self.segment_rows)

    def _delete(self, pk: str, sort_keys: Iterable[str]) -> None:
        self.database.batch_write([], [(pk, sk) for sk in sort_keys])

    def _pk(self, shard: int) -> str:
        return f"FILES#{self.sync}#{self.target}#{shard:02}"

    def _damaged(self, pk: str) -> SynclineError:
        return SynclineError(
            "INTERNAL",
            f"the records of sync {self.sync} are damaged: the directory of {pk} names segments that are absent; "
            "delete the items of this partition, and the next full scan records its files again",
        )


def _directory(pk: str, segments: Sequence[_Segment], merged: Sequence[str]) -> dict[str, Any]:
    """Return the item of a directory, with a new version."""
    return {"pk": pk, "sk": _DIRECTORY, "version": secrets.token_hex(8), "data": pack([segments, merged])}


def _bounds(names: Sequence[str], after: str, prefix: str) -> tuple[int, int]:
    """Return the bounds of the sorted names that are greater than `after` and begin with `prefix`."""
    first = bisect_right(names, after) if after >= prefix else bisect_left(names, prefix)
    # From `first` on, the names that begin with the prefix come before all others.
    return first, bisect_left(names, True, first, key=lambda name: not name.startswith(prefix))
