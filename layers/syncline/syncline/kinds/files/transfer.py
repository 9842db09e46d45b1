"""Transfer of files: each is written, renamed or removed at the target.

An item is only a hint, and is carried out by the present state of source and target: the target is read directly before
it is written, or the write itself is conditional. Every file that was written is recorded before the group's lease is
released, so that the next writer knows that it is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.clients.s3.checksums import equal
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import ObjectHead, fingerprint
from syncline.errors import CodeName, SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.parallel import in_parallel
from syncline.kinds.files.records import (
    COLLIDES,
    Record,
    Records,
    Row,
    Task,
    mode_of_grants,
    mode_of_metadata,
    recorded,
)
from syncline.kinds.files.targets import (
    CHUNK,
    NotArrivedError,
    PutRequest,
    PutResult,
    Target,
    TargetFile,
    UnfinishedPut,
    alike_names,
    check_distinct,
    check_written,
)
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result
from syncline.ownership import Action, decide

TransferResult = Completed | Unfinished | Result | Failure
_CHANGED: Final[tuple[CodeName, ...]] = ("FILE_DIFFERS", "TARGET_CHANGED")
_GONE: Final = "it is no longer at the source"
_REPLACED: Final = (
    "another writer replaced the file at the target, and its object is gone from the source; the file is kept"
)
_FOREIGN: Final = "the target has another file at this path, which this sync did not write; nothing is overwritten"


@dataclass
class FileTransfer:
    """Carries out the items of one transfer, ``threads`` at a time."""

    sync: FilesSync
    source: Bucket
    target: Target
    records: Records
    context: StepContext
    threads: int
    _rows: dict[str, Row | None] = field(default_factory=dict)
    _alike: Collection[str] = ()
    _shared: bool = False

    def items(self, items: Sequence[Item]) -> Iterator[TransferResult]:
        """Yield one answer for each item, in no order."""
        tasks = [(item, Task.of(item)) for item in items]
        self._shared = len(tasks) > 1
        self._alike = alike_names(item.name for item, _ in tasks)
        alone = [each for each in tasks if each[1].alone][:1]
        together = [each for each in alone or tasks if each[0].name not in self._alike]
        answers: list[TransferResult] = in_parallel(self._answer, together, self.threads)
        # Names that the target may not distinguish are handled one by one, so that the second finds the first's file.
        answers += [self._answer(each) for each in alone or tasks if each[0].name in self._alike]
        yield from self._recorded(answers)
        # A file that needs a function to itself does not share its time.
        yield from (Unfinished(item, waiting=True) for item, _ in tasks if alone and item is not alone[0][0])

    def _recorded(self, answers: Sequence[TransferResult]) -> Iterator[TransferResult]:
        """Record the files that were written, as not yet verified, and those that were adopted, and yield the answers.

        A completed item carries the time of this write, so that its verification is recorded after it.
        """
        rows: dict[str, Row | None] = {
            self.sync.name_of(each.item.name): replace(record, verified=False).to_row()
            for each in answers
            if isinstance(each, Completed) and (record := Task.of(each.item).record) is not None
        }
        rows |= self._rows
        at = self.records.write(rows) if rows else 0
        for each in answers:
            if at and isinstance(each, Completed):
                yield replace(each, item=replace(Task.of(each.item), written=at).on(each.item))
            else:
                yield each

    def _answer(self, each: tuple[Item, Task]) -> TransferResult:
        item, task = each
        if self.context.over:
            return Unfinished(item)
        removes = dict.fromkeys(("remove", "confirm"), self._remove)
        operations = {"put": self._put, "rename": self._rename, "permit": self._permit, **removes}
        try:
            return operations[task.operation](item, task)
        except SynclineError as error:
            if error.code.name == "FILE_TOO_SLOW" and self._shared and not task.alone:
                return Unfinished(replace(task, alone=True).on(item), waiting=True)
            if error.code.name == "PATH_COLLIDES":
                # Even if the sync may overwrite, later scans must not write this path.
                self._rows[self.sync.name_of(item.name)] = Record("", 0, 0, COLLIDES, verified=False).to_row()
            return Failure(item, error)

    # -- operations ----------------------------------------------------------------------------------------------

    def _put(self, item: Item, task: Task) -> TransferResult:
        """Write the object to the target, unless the target has it or a foreign file."""
        existing, answer = self._existing(item, task)
        if answer is not None:
            return answer
        if task.checked and existing is not None and existing.equals(item.source, item.size):
            # The file does not have the bytes that its fingerprint states.
            item = replace(item, target=None)
        done = self._try_to_write(item, task, existing)
        if done is not None:
            return done
        # The target has another file than expected: a foreign one, or ours if the response to a write was lost.
        existing = self.target.stat(self.sync.path_of(item.name))
        if existing is not None and (answer := self._answer_for(item, task, existing, own=True)) is not None:
            return answer
        return self._try_to_write(item, task, existing) or conflict(item, existing)

    def _try_to_write(self, item: Item, task: Task, existing: TargetFile | None) -> TransferResult | None:
        """Write the object, and return None if the target has another file than ``existing``."""
        try:
            return self._written(item, task, existing)
        except SynclineError as error:
            if error.code.name == "NOT_FOUND" and self.source.head(item.name) is None:
                return self._gone(item, task)
            # A file manager also returns NOT_FOUND if somebody removed the file since it was read.
            if error.code.name not in _CHANGED and (error.code.name != "NOT_FOUND" or existing is None):
                raise
        return None

    def _existing(self, item: Item, task: Task) -> tuple[TargetFile | None, TransferResult | None]:
        """Return the target's file before the write, and the answer if no write is needed.

        Nothing is read for a new file if the sync overwrites, or if the target refuses it when the path is taken.
        """
        alike = item.name in self._alike
        new = item.target is None and not task.ours and not task.compared and not alike
        if new and (self.sync.overwrite or self.target.creates_safely(item.size)):
            return None, None
        path = self.sync.path_of(item.name)
        existing = self.target.stat(path)
        if existing is None:
            return None, None
        # A file that was renamed to this path states its old one.
        if (alike or item.target is None or task.ours == COLLIDES) and not self._is_recorded(item, existing):
            check_distinct(self.target, path, existing)
        return existing, self._answer_for(item, task, existing)

    def _answer_for(self, item: Item, task: Task, existing: TargetFile, *, own: bool = False) -> TransferResult | None:
        """Return the answer for an item whose path is taken, None if the existing file may be replaced.

        ``own`` says that a write of this item, whose response was lost, may have created the file.
        """
        head = self.source.head(item.name) if item.size is None or existing.size == item.size else None
        same = head is not None and existing.equals(head.etag, head.size)
        ours = self._is_ours(item, task, existing)
        action = decide(at_source=True, at_target=True, ours=ours, same=same, overwrite=self.sync.overwrite)
        if action is Action.ADOPT:
            assert head is not None
            if _headers_differ(head, existing):
                return None if ours or self.sync.overwrite else conflict(item, existing)
            if task.checked and head.size and self.target.is_listed:
                answer = self._compared(item, task, head, existing)
                differs = isinstance(answer, Result) and answer.outcome is Outcome.CONFLICT
                return None if differs and (ours or self.sync.overwrite) else answer
            known = self.target.is_listed or item.target is not None
            if own or existing.run == self.context.run or (known and item.target != existing.etag):
                return self._completed(item, task, PutResult(head, existing))
            return self._adopt(item, task, head, existing)
        if action is not Action.CONFLICT:
            return None
        check_distinct(self.target, self.sync.path_of(item.name), existing)
        return self._compared(item, task, head, existing)

    def _adopt(self, item: Item, task: Task, head: ObjectHead, existing: TargetFile) -> TransferResult:
        """Record a file that was found equal, and set its permissions if they differ."""
        mode = self.target.mode(self.sync.path_of(item.name))
        if mode is not None and mode != self._wanted_mode(item.name, task, head):
            return self._completed(item, task, PutResult(head, existing))
        arrived = self._completed(item, task, PutResult(head, existing), mode=mode)
        record = Task.of(arrived.item).record
        assert record is not None
        self._rows[self.sync.name_of(item.name)] = record.to_row()
        return Result(item.group, item.name, Outcome.EQUAL, head.etag, existing.etag or existing.version)

    def _is_ours(self, item: Item, task: Task, existing: TargetFile) -> bool:
        """Return True if the file is the one that we wrote last.

        The item has the version that was ours when it was discovered; another item may have written since. A file with
        the ETag of this item was written for it, by a function that died.
        """
        written = existing.is_marked or existing.version == task.ours or existing.equals(item.source, item.size)
        return written or self._is_recorded(item, existing)

    def _is_recorded(self, item: Item, existing: TargetFile) -> bool:
        """Return True if the record of the item's name has the version of this file."""
        record = recorded(self.records, self.sync.name_of(item.name))
        return record is not None and record.target == existing.version

    def _compared(self, item: Item, task: Task, head: ObjectHead | None, existing: TargetFile) -> TransferResult:
        """Compare a file that may be equal although its ETag differs, as after a multipart upload.

        Full-object checksums decide if both sides state one, and the bytes otherwise; always the bytes if a retry asked.
        """
        if head is None or existing.size != head.size:
            return conflict(item, existing)
        theirs = {} if task.checked else self.target.checksums(self.sync.path_of(item.name), existing)
        same = equal(theirs, self.source.checksums(item.name, head.etag)) if theirs else None
        if same is not None:
            wanted = same and not _headers_differ(head, existing)
            return self._adopt(item, task, head, existing) if wanted else conflict(item, existing)
        versions = (head.etag, existing.version)
        begun = at = task.compared if task.versions == versions else 0
        try:
            for at in self._equal(item.name, head, existing, begun):
                if self.context.over and at < head.size:
                    return Unfinished(replace(task, compared=at, versions=versions).on(item))
        except SynclineError as error:
            if at == begun:
                raise
            return Failure(replace(task, compared=at, versions=versions).on(item), error, further=True)
        if at < head.size or _headers_differ(head, existing):
            return conflict(item, existing)
        return self._adopt(item, task, head, existing)

    def _equal(self, key: str, head: ObjectHead, existing: TargetFile, at: int) -> Iterator[int]:
        """Yield the number of equal bytes after each chunk behind ``at``; end if bytes differ or cannot be read."""
        with self.source.open(key, etag=head.etag, start=at) as ours:
            other = self.target.open(self.sync.path_of(key), existing, at)
            if other is None:
                return
            with other as theirs:
                while (chunk := _read_fully(ours.read, CHUNK)) and _read_fully(theirs.read, len(chunk)) == chunk:
                    at += len(chunk)
                    yield at

    def _to_put(self, item: Item, task: Task, existing: TargetFile | None) -> PutRequest:
        # If only headers differ, the object is read again, since the scan does not know its headers.
        for_headers = existing is not None and existing.headers is not None and existing.equals(item.source, item.size)
        return PutRequest(
            self.sync.path_of(item.name),
            self.source,
            item.name,
            None if for_headers else _seen(item, task),
            existing,
            not self.sync.overwrite,
            self.context.left,
            self.context.run,
        )

    def _written(self, item: Item, task: Task, existing: TargetFile | None) -> TransferResult:
        put = self._to_put(item, task, existing)
        done = self.target.put(put)
        if isinstance(done, UnfinishedPut):
            return _continued(item, task, done)
        if existing is not None and existing.headers is not None and existing.equals(done.head.etag, done.head.size):
            # It was written because its headers differ. They are read back, as some services do not keep all.
            now, wanted = self.target.stat(put.path), fingerprint(done.head)
            kept = "" if now is None or now.headers in (None, wanted) else now.headers
            done = replace(done, headers=wanted, kept=kept or "")
        return self._completed(item, task, done)

    def _rename(self, item: Item, task: Task) -> TransferResult:
        """Rename a file at the target; if source or target no longer have the files of the rename, write the object."""
        assert task.origin is not None
        head = self.source.head(item.name)
        if head is None:
            return self._gone(item, task)
        path, old = self.sync.path_of(item.name), self.sync.path_of(task.origin)
        existing = self.target.stat(path)
        if existing is None and head.etag == item.source and self.source.head(task.origin) is None:
            before = self.target.stat(old)
            if before is not None and before.version == task.origin_ours and before.size in (None, head.size):
                try:
                    if _headers_differ(head, before):
                        return self._rewritten(item, task, old, before)
                    version = self.target.rename(old, path, before)
                except NotArrivedError as error:
                    # Recorded as ours, or it would be foreign to the next attempt.
                    self._record_unverified(item, task, error.file)
                    raise
                except SynclineError as error:
                    if not error.is_any("NOT_FOUND", *_CHANGED):
                        raise
                else:
                    return self._completed(item, task, PutResult(head, replace(before, version=version)))
        elif (
            existing is not None
            and existing.version == task.origin_ours
            and existing.size in (None, head.size)
            and not _headers_differ(head, existing)
            and self.target.stat(old) is None
        ):
            # An attempt whose response was lost has renamed it.
            return self._completed(item, task, PutResult(head, existing))
        # The file at the old path keeps its record: a later scan removes it or finds it equal.
        return self._put(item, replace(task, operation="put", origin=None, previous=None))

    def _rewritten(self, item: Item, task: Task, old: str, before: TargetFile) -> TransferResult:
        """Rename a file whose headers differ at the source: write the object, and then remove the old file."""
        done = self.target.put(self._to_put(item, task, None))
        if isinstance(done, UnfinishedPut):
            return _continued(item, task, done)
        check_written(self.target, self.sync.path_of(item.name), done.file)
        self.target.remove(old, before)
        return self._completed(item, task, done)

    def _gone(self, item: Item, task: Task) -> TransferResult:
        """Skip an item whose object is gone.

        A file that an earlier attempt wrote and did not record is recorded, so that a scan removes it.
        """
        existing = self.target.stat(self.sync.path_of(item.name))
        written = existing is not None and (existing.is_marked or existing.equals(item.source, item.size))
        if existing is not None and written and not self._is_recorded(item, existing):
            self._record_unverified(item, task, existing)
        return _gone(item)

    def _record_unverified(self, item: Item, task: Task, file: TargetFile) -> None:
        """Record a file as written by us and not verified, even if its object has changed since."""
        etag, size = file.etag or item.source or "", file.size or item.size or 0
        record = Record(etag, size, 0, file.version, verified=False, internal_id=file.internal_id, seq=task.seq)
        self._rows[self.sync.name_of(item.name)] = record.to_row()

    def _remove(self, item: Item, task: Task) -> TransferResult:
        """Remove a file that is gone from the source, if it is ours."""
        if self.source.head(item.name) is not None:
            return self._put(replace(item, source=None), replace(task, operation="put"))
        path, name = self.sync.path_of(item.name), self.sync.name_of(item.name)
        existing = self.target.stat(path)
        if existing is not None:
            record = recorded(self.records, name)
            if record is not None and record.target == COLLIDES:
                self._rows[name] = None
                record = None
            if record is None and not existing.is_marked and not existing.equals(item.target, item.size):
                return Result(
                    item.group,
                    item.name,
                    Outcome.EQUAL,
                    None,
                    existing.version,
                    reason="this sync did not write the file, so it is kept",
                )
            if record is not None and existing.version != record.target and not existing.is_marked:
                self._rows[name] = None  # it is foreign from now on, which is reported once
                return replace(conflict(item, existing), reason=_REPLACED)
            if task.operation == "confirm":  # it is ours, but no removal was granted: the next scan asks for one
                return _gone(item)
            try:
                self.target.remove(path, existing)
            except SynclineError as error:
                if error.code.name != "TARGET_CHANGED":
                    raise
                return conflict(item, existing)
        return Completed(replace(task, operation="remove", record=None).on(replace(item, source=None)))

    def _permit(self, item: Item, task: Task) -> TransferResult:
        """Set permissions from an event or an access list."""
        assert task.mode is not None
        assert task.record is not None
        try:
            mode = self.target.permit(self.sync.path_of(item.name), task.mode)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            return self._put(item, replace(task, operation="put", record=None))
        record = replace(task.record, mode=mode, mode_time=task.mode_time, seq=task.seq, previous=task.previous)
        return Completed(replace(task, record=record).on(item))

    def _completed(self, item: Item, task: Task, done: PutResult, *, mode: str | None = None) -> Completed:
        """Set the file's permissions, unless ``mode`` states that it has them, and return the item with its new record."""
        head, existing = done.head, done.file
        if mode is None:
            mode = self.target.permit(self.sync.path_of(item.name), self._wanted_mode(item.name, task, head))
        modified = int(head.modified) if task.modified is None or item.source != head.etag else task.modified
        record = Record(
            head.etag,
            head.size,
            modified,
            existing.version,
            headers=done.headers,
            kept=done.kept,
            file_type=head.content_type,
            mode=mode,
            internal_id=existing.internal_id,
            mode_time=task.mode_time,
            seq=task.seq,
            previous=task.previous,
        )
        operation = "rename" if task.origin is not None else "put"
        after = replace(task, operation=operation, record=record, parts=0, compared=0, versions=None, alone=False)
        return Completed(after.on(replace(item, source=head.etag, size=head.size)), done.sent)

    def _wanted_mode(self, key: str, task: Task, head: ObjectHead) -> str:
        """Return the permissions that an event has set or the source states. Raises errors of reading the access list."""
        rule = self.sync.permissions
        if task.mode is not None and task.mode_time is not None:
            return task.mode
        if rule.source == "acl":
            return mode_of_grants(self.source.grants(key))
        return (mode_of_metadata(head.metadata) if rule.source == "metadata" else None) or rule.default


def _continued(item: Item, task: Task, done: UnfinishedPut) -> Unfinished | Failure:
    """Return the answer for an item whose upload another function continues."""
    after = replace(task, parts=done.parts).on(item)
    return Unfinished(after) if done.error is None else Failure(after, done.error, further=done.parts > task.parts)


def conflict(item: Item, existing: TargetFile | None) -> Result:
    """Return the result for an item whose path has a foreign file."""
    version = None if existing is None else existing.etag or existing.version
    return Result(item.group, item.name, Outcome.CONFLICT, item.source, version, code="FILE_DIFFERS", reason=_FOREIGN)


def _seen(item: Item, task: Task) -> ObjectHead | None:
    """Return the object as the scan saw it, None if that is not known."""
    if not item.source or item.size is None or task.modified is None:
        return None
    return ObjectHead(item.source, item.size, modified=float(task.modified))


def _headers_differ(head: ObjectHead, existing: TargetFile) -> bool:
    """Return True if the file's headers are known to differ from those of the object."""
    return existing.headers is not None and existing.headers != fingerprint(head)


def _gone(item: Item) -> Result:
    return Result(item.group, item.name, Outcome.EQUAL, item.source, item.target, reason=_GONE)


def _read_fully(read: Callable[[int], bytes], size: int) -> bytes:
    """Read ``size`` bytes, or fewer at the end of the content."""
    parts, missing = [], size
    while missing and (part := read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
