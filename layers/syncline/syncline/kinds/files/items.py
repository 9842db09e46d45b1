"""Items of a scan: those that changes lead to, and the reading of single files at source and target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Final

from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import fingerprint
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.files.compare import FileChange, FileCheck
from syncline.kinds.files.config import KEY, FilesSync
from syncline.kinds.files.events import EventScope
from syncline.kinds.files.records import Record, Row, Task, mode_of_grants
from syncline.kinds.files.targets import Target, TargetFile, collides, other_name
from syncline.kinds.kind import Failure, StepContext
from syncline.model import Item
from syncline.ownership import Action, decide

PAGE_BYTES: Final = 200_000
"""Bytes of keys and fingerprints in a page, which must fit an item of the table and a message."""


class ItemBuilder:
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
        """Return the failure of a key that a user has named and that the source does not have."""
        what = f"{self._source} has no object {key!r}, and nothing of it is to be removed"
        return self.failed(key, SynclineError("SOURCE_ABSENT", what))

    def permission(self, key: str, record: Record, events: EventScope) -> Item | None:
        """Return the item that sets a file's permissions, None if the target has them.

        They are those of an event, or of the access list as it is now, or those that are recorded.
        """
        name = self._sync.name_of(key)
        item = Item(self._group_of(name), key, record.etag, record.etag, record.size)
        previous = (
            FileChange(key, name, Action.EQUAL, None, record).previous if self._sync.reports is not None else None
        )
        task = Task("permit", seq=events.newest_sequencer(key) or record.seq, previous=previous, record=record)
        if key in events.modes:
            mode, time = events.modes[key]
            late = record.mode_time is not None and time is not None and time <= record.mode_time
            if not late and (mode != record.mode or time is not None):
                return replace(task, mode=mode, mode_time=time or 0.0).on(item)
        if self._sync.permissions.source == "acl" and record.mode is not None and record.mode_time is None:
            # An access list changes without the object, so it is read again when an event names the key.
            mode = mode_of_grants(self._source.grants(key))
            if mode != record.mode:
                return replace(task, mode=mode).on(item)
        if record.mode is not None and self._target.mode(self._sync.path_of(key)) != record.mode:
            return replace(task, mode=record.mode, mode_time=record.mode_time).on(item)
        return None

    def found(self, changes: Sequence[FileChange], renames: Mapping[str, str]) -> Iterator[Item]:
        """Yield the items that changes lead to; the origin of a rename has no item."""
        old = {change.key: change for change in changes}
        origins = set(renames.values())
        for change in changes:
            if change.key in origins:
                continue
            if change.action is Action.CONFLICT and change.listed is None:
                if self._sync.removals is not None:
                    yield replace(Task.of(self.of(change)), operation="confirm").on(self.of(change))
            elif change.key in renames:
                yield self._renamed(change, old[renames[change.key]])
            else:
                yield self.of(change)

    def of(self, change: FileChange) -> Item:
        record, listed, group = change.record, change.listed, self._group_of(change.name)
        etag = None if record is None else record.etag
        task = Task(seq=change.seq, previous=change.previous if self._sync.reports is not None else None)
        if record is not None:
            task = replace(task, ours=record.target)
            if record.mode_time is not None:
                task = replace(task, mode=record.mode, mode_time=record.mode_time)
        if listed is None:
            size = None if record is None else record.size
            return replace(task, operation="remove").on(Item(group, change.key, None, etag, size))
        if change.existing is not None:
            etag = change.existing.etag
        elif self._target.is_listed:
            etag = None
        return replace(task, modified=int(listed.modified)).on(Item(group, change.key, listed.etag, etag, listed.size))

    def _renamed(self, change: FileChange, origin: FileChange) -> Item:
        assert change.listed is not None
        assert origin.record is not None
        task = replace(
            Task.of(self.of(change)),
            operation="rename",
            origin=origin.key,
            origin_ours=origin.record.target,
            origin_seq=origin.seq,
            mode=origin.record.mode if origin.record.mode_time is not None else None,
            mode_time=origin.record.mode_time,
            previous=origin.previous if self._sync.reports is not None else None,
        )
        listed = change.listed
        return task.on(Item(self._group_of(change.name), change.key, listed.etag, None, listed.size))


def sort_key(item: Item) -> tuple[str, str]:
    """Return the key by which items are sorted before they are sent on."""
    return item.group, item.name


def item_pages(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield items in their order, as many at a time as one record of the table holds."""
    page: list[Item] = []
    size = 0
    for item in items:
        page.append(item)
        name = len(item.name.encode(errors="surrogatepass"))
        size += name + 60 + (name + 200 if "was" in item.detail else 0)
        if size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


class NoItem(Enum):
    """The reason that a key needs no item although it is not equal."""

    LEFT_OUT = "left out"
    GONE = "gone"
    CHANGED = "changed since it was listed"


LEFT_OUT: Final = NoItem.LEFT_OUT
"""The target needs no file for the key."""
GONE: Final = NoItem.GONE
"""The source does not have the key, and there is nothing to remove."""
CHANGED: Final = NoItem.CHANGED


class FileReader:
    """Reads the files of one sync one by one. Safe to use from any number of threads."""

    def __init__(self, sync: FilesSync, source: Bucket, target: Target, items: ItemBuilder) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._items = items

    def check(self, check: FileCheck, events: EventScope) -> tuple[str, Item | Failure | Row | NoItem | None]:
        """Read a file that is equal by the listings, and return its name with the answer.

        The answer is the item that transfers the file again, the record that is right now, the failure, CHANGED, or
        None if nothing changed. ``events`` are the target's own.
        """
        try:
            return check.name, self._check(check, events)
        except SynclineError as error:
            return check.name, self._items.failed(check.key, error)

    def _check(self, check: FileCheck, events: EventScope) -> Item | Row | NoItem | None:
        record, listed = check.record, check.listed
        head = self._source.head(check.key)
        if head is None or head.etag != listed.etag:
            return CHANGED  # the next scan compares it
        headers = fingerprint(head)
        existing = self._target.stat(self._sync.path_of(check.key))
        if existing is None or existing.version != record.target:
            action = Action.CREATE if existing is None else Action.REPLACE
            return self._items.of(FileChange(check.key, check.name, action, listed, record))
        differs = _headers_changed(record, headers, existing, listed.modified)
        if differs or existing.headers not in (None, headers, record.kept):
            return self._items.of(FileChange(check.key, check.name, Action.REPLACE, listed, record))
        if (item := self._items.permission(check.key, record, events)) is not None:
            return item
        now = replace(record, headers=headers, modified=int(listed.modified)).to_row()
        return None if now == record.to_row() else now

    def read(
        self, key: str, record: Record | None, events: EventScope, context: StepContext
    ) -> FileChange | Item | Failure | NoItem | None:
        """Return the change of one key, the item that sets its permissions, its failure, or None if it is equal.

        LEFT_OUT or GONE is returned if it is not equal and there is nothing to do.
        """
        name, path, seq = self._sync.name_of(key), self._sync.path_of(key), events.newest_sequencer(key)
        try:
            head = self._source.head(key)
            # The transfer that removes a recorded file reads the target itself.
            known_gone = head is None and record is not None
            existing = None if known_gone else self._target.stat(path)
            if head is None:
                gone = FileChange(key, name, Action.REMOVE, None, record, None, seq)
                return self._read_gone(gone, existing, context) or GONE
            if self._target.leaves_out(path, head.size):
                return LEFT_OUT
            headers = fingerprint(head)
            known = "" if record is None else record.target
            ours = existing is not None and (existing.is_marked or existing.version == known)
            action = decide(
                at_source=True,
                at_target=existing is not None,
                ours=ours,
                current=record is not None and record.verified and record.is_of(head.etag, head.size),
                same=existing is not None and existing.equals(head.etag, head.size),
                overwrite=self._sync.overwrite,
            )
            kept = "" if record is None else record.kept
            if (
                action in (Action.EQUAL, Action.ADOPT)
                and existing is not None
                and existing.headers not in (None, headers, kept)
            ):
                action = Action.REPLACE if ours or self._sync.overwrite else Action.CONFLICT
            if action is Action.EQUAL and record is not None and existing is not None:
                action = Action.REPLACE if _headers_changed(record, headers, existing, head.modified) else action
            if action is Action.EQUAL and record is not None:
                return self._items.permission(key, record, events)
            if (
                action is Action.CONFLICT
                and existing is not None
                and (other := other_name(self._target, path, existing)) is not None
            ):
                raise collides(self._target, path, other)
            if action is Action.ADOPT and not self._target.is_listed:
                action = Action.CREATE  # a file manager's file gets its permissions as well, by a transfer
            listed = ListedObject(key, head.etag, head.size, head.modified)
            return FileChange(key, name, action, listed, record, _as_listed(key, existing), seq)
        except SynclineError as error:
            return self._items.failed(key, error)

    def _read_gone(self, change: FileChange, existing: TargetFile | None, context: StepContext) -> FileChange | None:
        """Return the change of a key that is gone from the source, None if there is nothing to do about it.

        While other items of the sync are in flight, the target may get the file at any moment. A transfer, which comes
        after them, then reads the target and decides.
        """
        record = change.record
        if self._sync.removals is None or (record is None and not context.joined):
            return None
        return replace(change, existing=_as_listed(change.key, existing))


def _headers_changed(record: Record, headers: str, existing: TargetFile, modified: float) -> bool:
    """Return True if the object's headers differ from those of the record.

    If neither the record nor the target has any, they may differ if the object's time does: permissions come from them.
    """
    if record.headers:
        return record.headers != headers
    return existing.headers is None and record.modified != int(modified)


def _as_listed(key: str, existing: TargetFile | None) -> ListedObject | None:
    """Return the target's file in the form of a listing."""
    return None if existing is None else ListedObject(key, existing.etag or existing.version, existing.size or 0, 0.0)


def adopted_by(change: FileChange) -> Record | None:
    """Return the record of a file that was found equal at the target without being ours."""
    listed, existing = change.listed, change.existing
    if change.action is not Action.ADOPT or listed is None or existing is None:
        return None
    return Record(listed.etag, listed.size, int(listed.modified), existing.etag, seq=change.seq)
