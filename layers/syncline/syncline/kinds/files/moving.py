"""Moving: files are brought to the target, renamed or removed there, whatever the truth at the source is by then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from syncline.clients.bucket import Bucket, Head
from syncline.config.files import FilesSync
from syncline.errors import SynclineError
from syncline.kinds.files.places import Place, There
from syncline.kinds.files.records import Record, Task, mode_of_grants, mode_of_metadata
from syncline.kinds.files.side_by_side import side_by_side
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item, Outcome, Result

Answer = Arrived | Later | Result | Failure
_GONE: Final = "it is no longer at the source"


class Moving:
    """Carries out the items of one transfer, ``threads`` at a time."""

    def __init__(self, sync: FilesSync, source: Bucket, place: Place, pace: Pace, threads: int) -> None:
        self._sync = sync
        self._source = source
        self._place = place
        self._pace = pace
        self._threads = threads

    def items(self, items: Sequence[Item]) -> Iterator[Answer]:
        """An answer for each item, in no order."""
        yield from side_by_side(self._answer, items, self._threads)

    def _answer(self, item: Item) -> Answer:
        if self._pace.over:
            return Later(item)
        try:
            return self._carry_out(item, Task.of(item))
        except SynclineError as error:
            return Failure(item, error)

    def _carry_out(self, item: Item, task: Task) -> Answer:
        match task.what:
            case "remove":
                return self._remove(item, task)
            case "rename":
                return self._rename(item, task)
            case "permit":
                return self._permit(item, task)
        return self._put(item, task)

    # -- one of each ---------------------------------------------------------------------------------------------

    def _put(self, item: Item, task: Task) -> Answer:
        """Bring the object's bytes, unless they are there."""
        path = self._sync.path_of(item.name)
        there = None
        if not self._sync.overwrite or item.target is not None:
            there = self._place.stat(path)
        if there is not None and there.etag is not None and there.etag == item.source and there.size == item.size:
            head = self._source.head(item.name)
            if head is None:
                return _skipped(item)
            if head.etag == there.etag:
                return self._arrived(item, task, head, there.internal_id, 0)
        ours = there is not None and (
            there.etag is not None or (task.internal_id and task.internal_id == there.internal_id)
        )
        if there is not None and not ours and not self._sync.overwrite:
            return conflict(item, there.etag)
        try:
            head, now, sent = self._sent(item, path, _seen(item, task), replaces=there is not None)
        except SynclineError as error:
            if error.code.name == "NOT_FOUND" and self._source.head(item.name) is None:
                return _skipped(item)
            raise
        return self._arrived(item, task, head, now.internal_id, sent)

    def _sent(self, item: Item, path: str, seen: Head | None, *, replaces: bool) -> tuple[Head, There, int]:
        """The object's bytes sent; where the sync may overwrite, whether a file was there is learnt by trying."""
        try:
            return self._place.put(path, self._source, item.name, seen, replaces=replaces)
        except SynclineError as error:
            if error.code.name != "FILE_DIFFERS" or not self._sync.overwrite:
                raise
        return self._place.put(path, self._source, item.name, seen, replaces=True)

    def _rename(self, item: Item, task: Task) -> Answer:
        """Rename at the target what was copied and deleted at the source; where that is not so any more, send it."""
        assert task.origin is not None
        head = self._source.head(item.name)
        if head is None:
            return _skipped(item)
        path, old = self._sync.path_of(item.name), self._sync.path_of(task.origin)
        if head.etag == item.source and self._source.head(task.origin) is None:
            there = self._place.stat(old)
            if there is not None and there.etag == head.etag and there.size == head.size:
                try:
                    self._place.rename(old, path)
                except SynclineError as error:
                    if error.code.name not in ("NOT_FOUND", "FILE_DIFFERS"):
                        raise
                else:
                    return self._arrived(item, task, head, there.internal_id, 0)
        now = self._place.stat(path)
        same = now is not None and now.etag == head.etag and now.size == head.size
        if now is not None and same and self._place.stat(old) is None:  # renamed by a try that died
            return self._arrived(item, task, head, now.internal_id, 0)
        # What is at the old path is not forgotten: it is still there, and a later look removes it or finds it equal.
        return self._put(item, replace(task, origin=None, gone="", was=None))

    def _remove(self, item: Item, task: Task) -> Answer:
        """Remove at the target what is gone from the source, if it is what came from there."""
        if self._source.head(item.name) is not None:
            return self._put(replace(item, source=None), replace(task, what="put"))
        path = self._sync.path_of(item.name)
        there = self._place.stat(path)
        if there is not None:
            same_id = bool(task.internal_id) and task.internal_id == there.internal_id
            if there.etag != item.target and not same_id and not self._sync.overwrite:
                return conflict(item, there.etag)
            self._place.remove(path)
        return Arrived(Task("remove", seq=task.seq, was=task.was).on(replace(item, source=None)))

    def _permit(self, item: Item, task: Task) -> Answer:
        """Set the permissions that an event told."""
        assert task.mode is not None
        path = self._sync.path_of(item.name)
        try:
            mode = self._place.permit(path, task.mode)
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                return self._put(item, replace(task, what="put"))
            raise
        assert task.made is not None
        made = replace(task.made, mode=mode, told=task.told, seq=task.seq, was=task.was)
        return Arrived(Task("permit", made=made).on(item))

    # -- parts ---------------------------------------------------------------------------------------------------

    def _arrived(self, item: Item, task: Task, head: Head, internal_id: str, sent: int) -> Arrived:
        """Set the permissions that the source tells; what the file is then."""
        mode = wanted_mode(self._sync, self._source, item.name, head)
        set_mode = self._place.permit(self._sync.path_of(item.name), mode)
        about = (head.etag, head.size, int(head.modified), head.content_type, set_mode, internal_id)
        made = Record(*about, seq=task.seq, was=task.was)
        done = Task(what="put", origin=task.origin, gone=task.gone, made=made)
        return Arrived(done.on(replace(item, source=head.etag, size=head.size)), sent)


def wanted_mode(sync: FilesSync, source: Bucket, key: str, head: Head) -> str:
    """A file's permissions by its source. Raises what keeps its access list from being read."""
    rule = sync.permissions
    match rule.source:
        case "metadata":
            return mode_of_metadata(head.metadata) or rule.default
        case "acl":
            return mode_of_grants(source.grants(key))
    return rule.default


def conflict(item: Item, etag: str | None) -> Result:
    """The target has another file, and the sync may not overwrite it."""
    what = "the target has another file under this path, and overwrite is not set"
    return Result(item.group, item.name, Outcome.CONFLICT, item.source, etag, code="FILE_DIFFERS", reason=what)


def _seen(item: Item, task: Task) -> Head | None:
    """The object as the look saw it, None if it is not known."""
    if not item.source or item.size is None or task.modified is None:
        return None
    return Head(item.source, item.size, modified=float(task.modified))


def _skipped(item: Item) -> Result:
    return Result(item.group, item.name, Outcome.SKIPPED, item.source, item.target, reason=_GONE)
