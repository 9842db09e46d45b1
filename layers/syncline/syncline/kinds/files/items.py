"""Items that changes of files lead to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.files.compare import Change
from syncline.kinds.files.config import KEY, FilesSync
from syncline.kinds.files.events import Hints
from syncline.kinds.files.records import Record, Task, mode_of_grants
from syncline.kinds.files.targets import Target
from syncline.kinds.kind import Failure
from syncline.model import Item
from syncline.ownership import Action

PAGE_BYTES: Final = 200_000
"""Bytes of keys and fingerprints in a page: what follows from it must fit an item of the table, and a message."""


class Items:
    """Builds the items of one sync. ``group_of`` gives the group of a name."""

    def __init__(self, sync: FilesSync, source: Bucket, target: Target, group_of: Callable[[str], str]) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._group_of = group_of

    def failed(self, key: str, error: SynclineError, target: str | None = None) -> Failure:
        """Return the failure of a key in a scan; the key alone is scanned again."""
        return Failure(Item(self._group_of(self._sync.name_of(key)), key, target=target), error, f"{KEY}{key}")

    def absent(self, key: str) -> Failure:
        """Return the failure of a key that a person has named and that the source does not have."""
        what = f"{self._source} has no object {key!r}, and nothing of it is to be removed"
        return self.failed(key, SynclineError("SOURCE_ABSENT", what))

    def bare(self, key: str, name: str, record: Record) -> Item:
        return Item(self._group_of(name), key, record.etag, record.etag, record.size)

    def permission(self, key: str, record: Record, hints: Hints) -> Item | None:
        """Return the item that sets a file's permissions: as an event told, as an access list has them now, or as before.

        None if the target has them.
        """
        name = self._sync.name_of(key)
        item = self.bare(key, name, record)
        seq = hints.latest(key) or record.seq
        was = Change(key, name, Action.EQUAL, None, record).was if self._sync.reports is not None else None
        if key in hints.modes:
            mode, told = hints.modes[key]
            late = record.told is not None and told is not None and told <= record.told
            if not late and (mode != record.mode or told is not None):
                return Task("permit", mode=mode, told=told or 0.0, seq=seq, was=was, made=record).on(item)
        if self._sync.permissions.source == "acl" and record.mode is not None and record.told is None:
            # An access list changes without the object: it is read again when an event names the key.
            mode = mode_of_grants(self._source.grants(key))
            if mode != record.mode:
                return Task("permit", mode=mode, seq=seq, was=was, made=record).on(item)
        if record.mode is not None and self._target.mode(self._sync.path_of(key)) != record.mode:
            return Task("permit", mode=record.mode, told=record.told, seq=seq, was=was, made=record).on(item)
        return None

    def found(self, changes: Sequence[Change], renames: Mapping[str, str]) -> Iterator[Item]:
        """Yield the items that changes lead to; the origin of a rename has none of its own."""
        old = {change.key: change for change in changes}
        origins = set(renames.values())
        for change in changes:
            if change.key in origins:
                continue
            if change.action is Action.CONFLICT and change.listed is None:
                if self._sync.removals is not None:
                    yield replace(Task.of(self.of(change)), what="confirm").on(self.of(change))
            elif change.key in renames:
                yield self._renamed(change, old[renames[change.key]])
            else:
                yield self.of(change)

    def of(self, change: Change) -> Item:
        record, listed, group = change.record, change.listed, self._group_of(change.name)
        etag = None if record is None else record.etag
        task = Task(seq=change.seq, was=change.was if self._sync.reports is not None else None)
        if record is not None:
            task = replace(task, ours=record.target)
            if record.told is not None:
                task = replace(task, mode=record.mode, told=record.told)
        if listed is None:
            size = None if record is None else record.size
            return replace(task, what="remove").on(Item(group, change.key, None, etag, size))
        modified = int(listed.modified)
        if change.there is not None:
            etag = change.there.etag
        elif self._target.is_listed:
            etag = None
        return replace(task, modified=modified).on(Item(group, change.key, listed.etag, etag, listed.size))

    def _renamed(self, change: Change, origin: Change) -> Item:
        assert change.listed is not None
        assert origin.record is not None
        task = Task.of(self.of(change))
        task = replace(
            task,
            what="rename",
            origin=origin.key,
            origin_ours=origin.record.target,
            gone=origin.seq,
            mode=origin.record.mode if origin.record.told is not None else None,
            told=origin.record.told,
            was=origin.was if self._sync.reports is not None else None,
        )
        listed = change.listed
        return task.on(Item(self._group_of(change.name), change.key, listed.etag, None, listed.size))


def place_of(item: Item) -> tuple[str, str]:
    """Return the place of an item in the order in which items are sent on."""
    return item.group, item.name


def portions(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield items in their order, as many at a time as one record of the table holds."""
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
