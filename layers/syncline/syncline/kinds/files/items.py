"""Items of a scan: those that changes lead to, and the reading of single files at source and target."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import fingerprint
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.files.compare import FileChange
from syncline.kinds.files.config import KEY, FilesSync
from syncline.kinds.files.events import EventScope
from syncline.kinds.files.records import PreviousRecord, Record, Row, Task, mode_of_grants
from syncline.kinds.files.targets import Target, TargetFile, check_distinct
from syncline.kinds.kind import Failure, StepContext
from syncline.model import Item
from syncline.ownership import Action, decide

PAGE_BYTES: Final = 200_000
"""Bytes of keys and fingerprints in a page, which must fit an item of the table and a message."""


class NoItem(Enum):
    """The reason that a key needs no item although it is not equal."""

    LEFT_OUT = "it is a marker of an empty folder, which the target does not need"
    GONE = "it is not at the source, and the target has no file of ours to remove"
    CHANGED = "it changed since it was listed"


@dataclass(frozen=True, slots=True)
class FileItems:
    """The items of one sync, and the files that are read for them one by one. Safe for concurrent use by threads.

    ``group_of`` gives the group of a name. The names ``asked`` are of files that a retry asked for: where the target can
    be read, their transfer compares the bytes, even if the fingerprints are equal.
    """

    sync: FilesSync
    source: Bucket
    target: Target
    group_of: Callable[[str], str]
    asked: Collection[str] = ()

    def _is_checked(self, name: str) -> bool:
        return self.target.is_listed and name in self.asked

    def _checked(self, name: str, action: Action) -> Action:
        """Return REPLACE in place of an action that sends nothing, if the bytes of a name are to be compared."""
        return Action.REPLACE if action in (Action.EQUAL, Action.ADOPT) and self._is_checked(name) else action

    def failed(self, key: str, error: SynclineError, target: str | None = None) -> Failure:
        """Return the failure of a key in a scan; the key alone is scanned again."""
        return Failure(Item(self.group_of(self.sync.name_of(key)), key, target=target), error, f"{KEY}{key}")

    def absent(self, key: str) -> Failure:
        """Return the failure of a key that a user has named and that the source does not have."""
        what = f"{self.source} has no object {key!r}, and the target has no file of ours to remove"
        return self.failed(key, SynclineError("SOURCE_ABSENT", what))

    # -- items ---------------------------------------------------------------------------------------------------

    def found(self, changes: Sequence[FileChange], renames: Mapping[str, str]) -> Iterator[Item]:
        """Yield the items that changes lead to; the origin of a rename has no item."""
        old = {change.key: change for change in changes}
        origins = set(renames.values())
        for change in changes:
            is_foreign = change.action is Action.CONFLICT and change.listed is None
            if change.key not in origins and not (is_foreign and self.sync.removals is None):
                yield self.of(change, old[renames[change.key]] if change.key in renames else None)

    def of(self, change: FileChange, origin: FileChange | None = None) -> Item:
        """Return the item of a change, which is a rename of the gone file ``origin`` if there is one."""
        record, listed, group = change.record, change.listed, self.group_of(change.name)
        before = change if origin is None else origin
        task = Task(seq=change.seq, previous=self._previous(before.name, before.record))
        if before.record is not None and before.record.mode_time is not None:
            task = replace(task, mode=before.record.mode, mode_time=before.record.mode_time)
        if record is not None:
            task = replace(task, ours=record.target)
        etag = None if record is None else record.etag
        if listed is None:
            operation = "confirm" if change.action is Action.CONFLICT else "remove"
            size = None if record is None else record.size
            return replace(task, operation=operation).on(Item(group, change.key, None, etag, size))
        if origin is not None:
            assert origin.record is not None
            ours = origin.record.target
            task = replace(task, operation="rename", origin=origin.key, origin_ours=ours, origin_seq=origin.seq)
        if change.existing is not None:
            etag = change.existing.etag
        elif self.target.is_listed:
            etag = None
        modified = int(listed.modified)
        item = Item(group, change.key, listed.etag, etag, listed.size, changed=modified)
        return replace(task, modified=modified, checked=self._is_checked(change.name)).on(item)

    def _previous(self, name: str, record: Record | None) -> PreviousRecord | None:
        """Return the record before a change if runs report their changes."""
        return None if record is None or self.sync.reports is None else PreviousRecord(name, record)

    def _permission(self, key: str, record: Record, events: EventScope) -> Item | None:
        """Return the item that sets a file's permissions, None if the target has them.

        They are those of an event, or of the access list as it is now, or those that are recorded.
        """
        name = self.sync.name_of(key)
        item = Item(self.group_of(name), key, record.etag, record.etag, record.size)
        seq = events.newest_sequencer(key) or record.seq
        task = Task("permit", seq=seq, previous=self._previous(name, record), record=record)
        if key in events.modes:
            mode, time = events.modes[key]
            late = record.mode_time is not None and time is not None and time <= record.mode_time
            if not late and (mode != record.mode or time is not None):
                return replace(task, mode=mode, mode_time=time or 0.0).on(item)
        if self.sync.permissions.source == "acl" and record.mode is not None and record.mode_time is None:
            # An access list changes without the object, so it is read again when an event names the key.
            mode = mode_of_grants(self.source.grants(key))
            if mode != record.mode:
                return replace(task, mode=mode).on(item)
        if record.mode is not None and self.target.mode(self.sync.path_of(key)) != record.mode:
            return replace(task, mode=record.mode, mode_time=record.mode_time).on(item)
        return None

    # -- reading -------------------------------------------------------------------------------------------------

    def check(self, check: FileChange, events: EventScope) -> tuple[str, Item | Failure | Row | NoItem | None]:
        """Read a file that is equal by the listings, and return its name with the answer.

        The answer is the item that transfers the file again, the record that is right now, the failure, CHANGED, or
        None if nothing changed. ``events`` are the target's own.
        """
        try:
            return check.name, self._check(check, events)
        except SynclineError as error:
            return check.name, self.failed(check.key, error)

    def _check(self, check: FileChange, events: EventScope) -> Item | Row | NoItem | None:
        record, listed = check.record, check.listed
        assert record is not None
        assert listed is not None
        head = self.source.head(check.key)
        if head is None or head.etag != listed.etag:
            return NoItem.CHANGED  # the next scan compares it
        headers = fingerprint(head)
        existing = self.target.stat(self.sync.path_of(check.key))
        if existing is None:
            return self.of(replace(check, action=Action.CREATE))
        if (
            existing.version != record.target
            or _headers_changed(record, headers, existing, listed.modified)
            or existing.headers not in (None, headers, record.kept)
        ):
            return self.of(replace(check, action=Action.REPLACE))
        if (item := self._permission(check.key, record, events)) is not None:
            return item
        if self._is_checked(check.name):
            return self.of(replace(check, action=Action.REPLACE, existing=_as_listed(check.key, existing)))
        now = replace(record, headers=headers, modified=int(listed.modified)).to_row()
        return None if now == record.to_row() else now

    def read(
        self, key: str, record: Record | None, events: EventScope, context: StepContext
    ) -> FileChange | Item | Failure | NoItem | None:
        """Return the change of one key, the item that sets its permissions, its failure, or None if it is equal.

        LEFT_OUT or GONE is returned if it is not equal and there is nothing to do.
        """
        name, path, seq = self.sync.name_of(key), self.sync.path_of(key), events.newest_sequencer(key)
        try:
            head = self.source.head(key)
            # The transfer that removes a recorded file reads the target itself.
            known_gone = head is None and record is not None
            existing = None if known_gone else self.target.stat(path)
            if head is None:
                gone = FileChange(key, name, Action.REMOVE, None, record, None, seq)
                return self._read_gone(gone, existing, context) or NoItem.GONE
            if self.target.leaves_out(path, head.size):
                return NoItem.LEFT_OUT
            headers = fingerprint(head)
            known = "" if record is None else record.target
            ours = existing is not None and (existing.is_marked or existing.version == known)
            action = decide(
                at_source=True,
                at_target=existing is not None,
                ours=ours,
                current=record is not None and record.verified and record.is_of(head.etag, head.size),
                same=existing is not None and existing.equals(head.etag, head.size),
                overwrite=self.sync.overwrite,
            )
            action = self._checked(name, action)
            kept = "" if record is None else record.kept
            if existing is not None and action in (Action.EQUAL, Action.ADOPT):
                if existing.headers not in (None, headers, kept):
                    action = Action.REPLACE if ours or self.sync.overwrite else Action.CONFLICT
                elif action is Action.EQUAL and record is not None:
                    if not _headers_changed(record, headers, existing, head.modified):
                        return self._permission(key, record, events)
                    action = Action.REPLACE
            if existing is not None and action is Action.CONFLICT:
                check_distinct(self.target, path, existing)
            if action is Action.ADOPT and not self.target.is_listed:
                action = Action.CREATE  # a file manager's file gets its permissions as well, by a transfer
            listed = ListedObject(key, head.etag, head.size, head.modified)
            return FileChange(key, name, action, listed, record, _as_listed(key, existing), seq)
        except SynclineError as error:
            return self.failed(key, error)

    def _read_gone(self, change: FileChange, existing: TargetFile | None, context: StepContext) -> FileChange | None:
        """Return the change of a key that is gone from the source, None if there is nothing to do about it.

        While other items of the sync are in flight, the target may get the file at any moment. A transfer, which comes
        after them, then reads the target and decides.
        """
        record = change.record
        if self.sync.removals is None or (record is None and not context.joined):
            return None
        return replace(change, existing=_as_listed(change.key, existing))


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
