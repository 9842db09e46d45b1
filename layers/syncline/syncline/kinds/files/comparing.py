"""Comparing: what differs between a bucket's listing and the records of what the target has, in one pass over both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from syncline.clients.s3_xml import Listed
from syncline.errors import SynclineError
from syncline.kinds.files.records import Record, Task, Was
from syncline.model import Item


@dataclass(frozen=True, slots=True)
class Change:
    """A key whose object and record differ: new without ``record``, gone without ``listed``.

    ``seq`` is the sequencer of the latest event before it was looked at, "" where none is known.
    """

    key: str
    listed: Listed | None
    record: Record | None
    seq: str = ""

    @property
    def was(self) -> Was | None:
        """What was known of it."""
        return None if self.record is None else Was(self.key, self.record)


@dataclass(slots=True)
class Tally:
    """Objects that were listed, records that were met, and records of what is gone, as far as a pass has come."""

    listed: int = 0
    known: int = 0
    gone: int = 0

    def to_json(self) -> list[int]:
        return [self.listed, self.known, self.gone]


@dataclass(slots=True)
class Pass:
    """One pass over listing and records, both in the order of keys; ``at`` is the key it has come to."""

    listing: Iterator[Listed]
    records: Iterator[tuple[str, str]]
    takes: Callable[[str], bool]
    tally: Tally = field(default_factory=Tally)
    at: str = ""
    equal: int = 0

    def changes(self) -> Iterator[Change | None]:
        """What differs, in order, and now and then None, so that the caller can look at the time.

        Raises LISTING_INCOMPLETE where the listing is not in order: what is missing could not be told from what is
        yet to come.
        """
        listed, known = next(self.listing, None), next(self.records, None)
        while listed is not None or known is not None:
            if listed is not None and (known is None or listed.key <= known[0]):
                key, pair = listed.key, known is not None and known[0] == listed.key
                if key <= self.at and self.at:
                    raise SynclineError("LISTING_INCOMPLETE", f"the bucket lists {key!r} behind {self.at!r}")
                record = Record.of_text(known[1]) if pair and known is not None else None
                change = self._met(listed, record)
                listed = next(self.listing, None)
                known = next(self.records, None) if pair else known
            else:
                assert known is not None
                key = known[0]
                change = self._missed(key, Record.of_text(known[1]))
                known = next(self.records, None)
            self.at = key
            if change is not None:
                yield change
            elif (self.tally.listed + self.tally.known) % 1000 == 0:
                yield None

    def _met(self, listed: Listed, record: Record | None) -> Change | None:
        self.tally.listed += 1
        self.tally.known += record is not None
        if not self.takes(listed.key):
            return None
        if record is not None and record.is_of(listed):
            self.equal += 1
            return None
        return Change(listed.key, listed, record)

    def _missed(self, key: str, record: Record) -> Change | None:
        self.tally.known += 1
        if not self.takes(key):
            return None  # it was left out of the sync since, and stays where it is
        self.tally.gone += 1
        return Change(key, None, record)


def renames_among(changes: Sequence[Change]) -> dict[str, str]:
    """New keys that are old ones by another name: to each the key it was under.

    A copy and a deletion of equal ETag and size, and no other of either: what is ambiguous is created and deleted.
    Empty objects are all alike, so they never are.
    """
    new: dict[tuple[str, int], list[str]] = {}
    gone: dict[tuple[str, int], list[str]] = {}
    for change in changes:
        if change.record is None and change.listed is not None:
            new.setdefault((change.listed.etag, change.listed.size), []).append(change.key)
        elif change.listed is None and change.record is not None:
            gone.setdefault((change.record.etag, change.record.size), []).append(change.key)
    return {
        new[what][0]: keys[0]
        for what, keys in gone.items()
        if what[0] and what[1] and len(keys) == 1 and len(new.get(what, ())) == 1
    }


def items_of(
    changes: Sequence[Change], renames: Mapping[str, str], shard: Callable[[str], str], *, removes: bool, tells: bool
) -> list[Item]:
    """What is to be done about changes; removals only if ``removes``. In the order of groups and keys.

    Where the sync ``tells`` what it changed, an item carries what was known before.
    """
    origins = set(renames.values())
    old = {change.key: change for change in changes if change.key in origins}
    items: list[Item] = []
    for change in changes:
        group, record, listed = shard(change.key), change.record, change.listed
        known = record.etag if record is not None else None
        was = change.was if tells else None
        if listed is None:
            assert record is not None
            if removes and change.key not in origins:
                item = Item(group, change.key, None, known, record.size)
                items.append(Task("remove", internal_id=record.internal_id, seq=change.seq, was=was).on(item))
            continue
        item = Item(group, change.key, listed.etag, known, listed.size)
        if change.key in renames:
            origin = old[renames[change.key]]
            was = origin.was if tells else None
            items.append(Task("rename", origin=origin.key, seq=change.seq, gone=origin.seq, was=was).on(item))
        else:
            number = record.internal_id if record is not None else ""
            task = Task(internal_id=number, modified=int(listed.modified), seq=change.seq, was=was)
            items.append(task.on(item))
    return sorted(items, key=lambda item: (item.group, item.name))
