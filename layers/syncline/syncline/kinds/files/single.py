"""Comparison of single files: each is read at the source and at the target, and compared with its record."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Final

from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import fingerprint
from syncline.clients.s3.xml import Listed
from syncline.errors import SynclineError
from syncline.kinds.files.compare import Change, Check
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.events import Hints
from syncline.kinds.files.items import Items
from syncline.kinds.files.records import Record, Row
from syncline.kinds.files.targets import Target, TargetFile, collides, other_name
from syncline.kinds.kind import Failure, StepContext
from syncline.model import Item
from syncline.ownership import Action, decide


class Unequal(Enum):
    """The answer for a key that there is nothing to do about, although it is not equal."""

    LEFT_OUT = "left out"
    GONE = "gone"
    CHANGED = "changed since it was listed"


LEFT_OUT: Final = Unequal.LEFT_OUT
"""The target needs no file for the key."""
GONE: Final = Unequal.GONE
"""The source does not have the key, and there is nothing to remove."""
CHANGED: Final = Unequal.CHANGED
Read = Change | Item | Failure | Unequal | None


class Reader:
    """Reads the files of one sync. Safe to use from any number of threads."""

    def __init__(self, sync: FilesSync, source: Bucket, target: Target, items: Items) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._items = items

    def check(self, check: Check, told: Hints) -> tuple[str, Item | Failure | Row | Unequal | None]:
        """Read a file that is equal as far as listings tell, and return its name with the answer.

        The answer is the item that brings the file over again, the record that is right now, the failure, CHANGED, or
        None if nothing changed. ``told`` comes from the target's own events.
        """
        try:
            return check.name, self._check(check, told)
        except SynclineError as error:
            return check.name, self._items.failed(check.key, error)

    def _check(self, check: Check, told: Hints) -> Item | Row | Unequal | None:
        record, listed = check.record, check.listed
        head = self._source.head(check.key)
        if head is None or head.etag != listed.etag:
            return CHANGED  # the next scan compares it
        headers = fingerprint(head)
        there = self._target.stat(self._sync.path_of(check.key))
        if there is None or there.version != record.target:
            action = Action.CREATE if there is None else Action.REPLACE
            return self._items.of(Change(check.key, check.name, action, listed, record))
        differs = _headers_changed(record, headers, there, listed.modified)
        if differs or there.headers not in (None, headers, record.kept):
            return self._items.of(Change(check.key, check.name, Action.REPLACE, listed, record))
        if (item := self._items.permission(check.key, record, told)) is not None:
            return item
        now = replace(record, headers=headers, modified=int(listed.modified)).to_row()
        return None if now == record.to_row() else now

    def read(self, key: str, record: Record | None, hints: Hints, context: StepContext) -> Read:
        """Return the change of one key, the item that sets its permissions, its failure, or None if it is equal.

        LEFT_OUT and GONE say that there is nothing to do although it is not.
        """
        name, seq = self._sync.name_of(key), hints.latest(key)
        try:
            head = self._source.head(key)
            # The transfer that removes a recorded file reads the target itself.
            known_gone = head is None and record is not None
            there = None if known_gone else self._target.stat(self._sync.path_of(key))
            if head is None:
                return (
                    self._read_gone(Change(key, name, Action.REMOVE, None, record, None, seq), there, context) or GONE
                )
            listed = Listed(key, head.etag, head.size, head.modified)
            if self._target.leaves_out(self._sync.path_of(key), head.size):
                return LEFT_OUT
            change = Change(key, name, Action.CREATE, listed, record, _as_listed(key, there), seq)
            headers = fingerprint(head)
            known = "" if record is None else record.target
            ours = there is not None and (there.written or there.version == known)
            same = there is not None and there.equals(head.etag, head.size)
            action = decide(
                at_source=True,
                at_target=there is not None,
                ours=ours,
                current=record is not None and record.verified and record.is_of(head.etag, head.size),
                same=same,
                overwrite=self._sync.overwrite,
            )
            kept = "" if record is None else record.kept
            if (
                action in (Action.EQUAL, Action.ADOPT)
                and there is not None
                and there.headers not in (None, headers, kept)
            ):
                action = Action.REPLACE if ours or self._sync.overwrite else Action.CONFLICT
            if action is Action.EQUAL and record is not None and there is not None:
                action = Action.REPLACE if _headers_changed(record, headers, there, head.modified) else action
            if action is Action.EQUAL and record is not None:
                return self._items.permission(key, record, hints)
            if action is Action.CONFLICT and there is not None:
                self._check_name(key, there)
            if action is Action.ADOPT and self._target.is_listed:
                return replace(change, action=action)
            # A file manager's file gets its permissions as well, by a transfer.
            return replace(change, action=Action.CREATE if action is Action.ADOPT else action)
        except SynclineError as error:
            return self._items.failed(key, error)

    def _check_name(self, key: str, there: TargetFile) -> None:
        """Raise PATH_COLLIDES if the target's file is that of another key."""
        path = self._sync.path_of(key)
        if (other := other_name(self._target, path, there)) is not None:
            raise collides(self._target, path, other)

    def _read_gone(self, change: Change, there: TargetFile | None, context: StepContext) -> Change | None:
        """Return the change of a key that is gone from the source, None if there is nothing to do about it.

        While other items of the sync are under way, the target may get the file any moment: a transfer, which comes
        after them, then decides by what is there.
        """
        record = change.record
        if self._sync.removals is None or (record is None and not context.joined):
            return None
        return replace(change, there=_as_listed(change.key, there))


def _headers_changed(record: Record, headers: str, there: TargetFile, modified: float) -> bool:
    """Return True if the object's headers are others than those of the record.

    Where neither the record nor the target has any, the object's time says that they may be: permissions come from them.
    """
    if record.headers:
        return record.headers != headers
    return there.headers is None and record.modified != int(modified)


def _as_listed(key: str, there: TargetFile | None) -> Listed | None:
    """Return the target's file in the form of a listing."""
    return None if there is None else Listed(key, there.etag or there.version, there.size or 0, 0.0)


def adopted_by(change: Change) -> Record | None:
    """Return the record of a file that was found equal at the target without being ours."""
    listed, there = change.listed, change.there
    if change.action is not Action.ADOPT or listed is None or there is None:
        return None
    return Record(listed.etag, listed.size, int(listed.modified), there.etag, seq=change.seq)
