"""Transfer of files: written, renamed or removed at the target, as the source is by then.

An item is only a hint. Each is carried out by what source and target have now: the target is read directly before it is
written, or the write itself is conditional. Every file that was written is recorded before the group's lease is given
back, so that whoever writes there next knows that it is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import Head, fingerprint
from syncline.errors import CodeName, SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.parallel import in_parallel
from syncline.kinds.files.records import COLLIDES, Record, Records, Row, Task, mode_of_grants, mode_of_metadata
from syncline.kinds.files.targets import (
    CHUNK,
    NotArrivedError,
    PartlyWritten,
    Put,
    Target,
    TargetFile,
    Written,
    check_arrived,
    collides,
    folded,
    other_name,
)
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result
from syncline.ownership import Action, decide

Answer = Completed | Unfinished | Result | Failure
_CHANGED: Final[tuple[CodeName, ...]] = ("FILE_DIFFERS", "TARGET_CHANGED")
_GONE: Final = "it is no longer at the source"
_REPLACED: Final = (
    "the file was replaced at the target and its object is gone from the source: it stays, and is not ours"
)
_FOREIGN: Final = "the target has another file under this path, which did not come from here, and overwrite is not set"


class Transfer:
    """Carries out the items of one transfer, ``threads`` at a time."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the kind
        self, sync: FilesSync, source: Bucket, target: Target, records: Records, context: StepContext, threads: int
    ) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._records = records
        self._context = context
        self._threads = threads
        self._rows: dict[str, Row | None] = {}
        self._alike: set[str] = set()
        self._shared = False
        self._by_task = {
            "put": self._put,
            "remove": self._remove,
            "confirm": self._remove,
            "rename": self._rename,
            "permit": self._permit,
        }

    def items(self, items: Sequence[Item]) -> Iterator[Answer]:
        """Yield one answer for each item, in no order."""
        tasks = [(item, Task.of(item)) for item in items]
        alone = [each for each in tasks if each[1].alone]
        waiting = [item for item, _ in (tasks if alone else []) if item is not alone[0][0]]
        self._shared = len(tasks) > 1
        counts = Counter(folded(item.name) for item, _ in tasks)
        self._alike = {item.name for item, _ in tasks if counts[folded(item.name)] > 1}
        together = [each for each in alone[:1] or tasks if each[0].name not in self._alike]
        answers: list[Answer] = in_parallel(self._answer, together, self._threads)
        # Names that the target may take for one come one after another, so that each meets the file of the other.
        answers += [self._answer(each) for each in alone[:1] or tasks if each[0].name in self._alike]
        yield from self._recorded(answers)
        # A file that needs a function to itself is not to share its time.
        yield from (Unfinished(item, waiting=True) for item in waiting)

    def _recorded(self, answers: Sequence[Answer]) -> Iterator[Answer]:
        """Record the files that were written or adopted; the written ones count as verified only after verify.

        Yield the answers. What has arrived says when it was recorded, so that its verification is recorded after it.
        """
        made = {each.item.name: Task.of(each.item).made for each in answers if isinstance(each, Completed)}
        rows: dict[str, Row | None] = {
            self._sync.name_of(key): replace(record, verified=False).to_row()
            for key, record in made.items()
            if record is not None
        }
        rows |= self._rows
        at = self._records.write(rows) if rows else 0
        for each in answers:
            if at and isinstance(each, Completed):
                yield replace(each, item=replace(Task.of(each.item), written=at).on(each.item))
            else:
                yield each

    def _answer(self, each: tuple[Item, Task]) -> Answer:
        item, task = each
        if self._context.over:
            return Unfinished(item)
        try:
            return self._by_task[task.what](item, task)
        except SynclineError as error:
            if error.code.name == "FILE_TOO_SLOW" and self._shared and not task.alone:
                return Unfinished(replace(task, alone=True).on(item), waiting=True)
            if error.code.name == "PATH_COLLIDES":
                # So a later scan knows, even if the sync may overwrite, that this path is not to be written.
                self._rows[self._sync.name_of(item.name)] = Record("", 0, 0, COLLIDES, verified=False).to_row()
            return Failure(item, error)

    # -- one of each ---------------------------------------------------------------------------------------------

    def _put(self, item: Item, task: Task) -> Answer:
        """Bring the object to the target, unless it is there or the target has a foreign file."""
        there, answer = self._expected(item, task)
        if answer is not None:
            return answer
        done = self._tried(item, task, there)
        if done is not None:
            return done
        # The target has something else than was expected: a file of somebody else, or our own if an answer was lost.
        there = self._target.stat(self._sync.path_of(item.name))
        if there is not None and (answer := self._met(item, task, there, own=True)) is not None:
            return answer
        return self._tried(item, task, there) or conflict(item, there)

    def _tried(self, item: Item, task: Task, there: TargetFile | None) -> Answer | None:
        """Write the object, and return None if the target has something else than ``there``."""
        try:
            return self._written(item, task, there)
        except SynclineError as error:
            if error.code.name == "NOT_FOUND" and self._source.head(item.name) is None:
                return self._gone(item, task)
            # A file manager does not find the file either, if somebody removed it since it was read.
            if error.code.name not in _CHANGED and (error.code.name != "NOT_FOUND" or there is None):
                raise
        return None

    def _expected(self, item: Item, task: Task) -> tuple[TargetFile | None, Answer | None]:
        """Return the target's file before the write, or the answer that makes a write needless.

        Nothing is read for a new file that may be overwritten, or that the target itself refuses if it has one by then.
        """
        path, alike = self._sync.path_of(item.name), item.name in self._alike
        new = item.target is None and not task.ours and not task.compared and not alike
        if new and (self._sync.overwrite or self._target.creates_safely(item.size)):
            return None, None
        there = self._target.stat(path)
        if there is None:
            return None, None
        odd = alike or item.target is None or task.ours == COLLIDES
        # A file that was renamed to this path states its old one.
        if odd and not self._is_recorded(item, there) and (other := other_name(self._target, path, there)) is not None:
            raise collides(self._target, path, other)
        return there, self._met(item, task, there)

    def _met(self, item: Item, task: Task, there: TargetFile, *, own: bool = False) -> Answer | None:
        """Return the answer for an item whose path is taken; None if the file there may be replaced.

        ``own`` says that the file may be the work of a request whose answer was lost.
        """
        head = self._source.head(item.name) if item.size is None or there.size == item.size else None
        same = head is not None and there.equals(head.etag, head.size)
        ours = self._is_ours(item, task, there)
        action = decide(at_source=True, at_target=True, ours=ours, same=same, overwrite=self._sync.overwrite)
        if action is Action.ADOPT:
            assert head is not None
            if _headers_differ(head, there):
                return None if ours or self._sync.overwrite else conflict(item, there)
            known = self._target.is_listed or item.target is not None
            since = own or there.run == self._context.run or (known and item.target != there.etag)
            return self._arrived(item, task, Written(head, there)) if since else self._adopt(item, task, head, there)
        if action is not Action.CONFLICT:
            return None
        path = self._sync.path_of(item.name)
        if (other := other_name(self._target, path, there)) is not None:
            raise collides(self._target, path, other)
        return self._compared(item, task, head, there)

    def _adopt(self, item: Item, task: Task, head: Head, there: TargetFile) -> Answer:
        """Record a file that was found equal; only its permissions are set, if they differ."""
        mode = self._target.mode(self._sync.path_of(item.name))
        if mode is not None:
            wanted = task.mode if task.told is not None else None
            if mode != (wanted or wanted_mode(self._sync, self._source, item.name, head)):
                return self._arrived(item, task, Written(head, there))
        arrived = self._arrived(item, task, Written(head, there), mode=mode)
        made = Task.of(arrived.item).made
        assert made is not None
        self._rows[self._sync.name_of(item.name)] = made.to_row()
        return Result(item.group, item.name, Outcome.SKIPPED, head.etag, there.etag or there.version)

    def _is_ours(self, item: Item, task: Task, there: TargetFile) -> bool:
        """Return True if the file is the one that we wrote last.

        The item says what was ours when it was discovered; another item may have written since. A file that has the
        ETag which this very item was to bring was brought by it, by a function that died.
        """
        if there.written or there.version == task.ours or there.equals(item.source, item.size):
            return True
        return self._is_recorded(item, there)

    def _is_recorded(self, item: Item, there: TargetFile) -> bool:
        """Return True if the record of an item's name is about this very file."""
        name = self._sync.name_of(item.name)
        row = self._records.known([name])[0].get(name)
        return row is not None and Record.of_row(row).target == there.version

    def _compared(self, item: Item, task: Task, head: Head | None, there: TargetFile) -> Answer:
        """Compare the bytes of a file that may be equal although its ETag differs, as those of multipart uploads do."""
        if head is None or there.size != head.size:
            return conflict(item, there)
        versions = (head.etag, there.version)
        begun = at = task.compared if task.versions == versions else 0
        try:
            for at in self._equal(item.name, head, there, begun):
                if self._context.over and at < head.size:
                    return Unfinished(replace(task, compared=at, versions=versions).on(item))
        except SynclineError as error:
            if at == begun:
                raise
            return Failure(replace(task, compared=at, versions=versions).on(item), error, further=True)
        if at < head.size or _headers_differ(head, there):
            return conflict(item, there)
        return self._adopt(item, task, head, there)

    def _equal(self, key: str, head: Head, there: TargetFile, at: int) -> Iterator[int]:
        """Yield how many bytes are equal, after each chunk behind ``at``, and end where some differ or cannot be read."""
        with self._source.open(key, etag=head.etag, start=at) as ours:
            other = self._target.open(self._sync.path_of(key), there, at)
            if other is None:
                return
            with other as theirs:
                while (chunk := _whole(ours.read, CHUNK)) and _whole(theirs.read, len(chunk)) == chunk:
                    at += len(chunk)
                    yield at

    def _to_put(self, item: Item, task: Task, there: TargetFile | None) -> Put:
        # The headers of an object that is written for their sake have to be known: the scan has not seen them.
        for_headers = there is not None and there.headers is not None and there.equals(item.source, item.size)
        return Put(
            self._sync.path_of(item.name),
            self._source,
            item.name,
            None if for_headers else _seen(item, task),
            there,
            not self._sync.overwrite,
            self._context.left,
            self._context.run,
        )

    def _written(self, item: Item, task: Task, there: TargetFile | None) -> Answer:
        put = self._to_put(item, task, there)
        done = self._target.put(put)
        if isinstance(done, PartlyWritten):
            return _continued(item, task, done)
        if there is not None and there.headers is not None and there.equals(done.head.etag, done.head.size):
            done = self._with_kept(put.path, done)
        return self._arrived(item, task, done)

    def _with_kept(self, path: str, done: Written) -> Written:
        """Read the headers of a file that was written for their sake: some services do not keep all of them."""
        there, wanted = self._target.stat(path), fingerprint(done.head)
        kept = "" if there is None or there.headers in (None, wanted) else there.headers or ""
        return replace(done, headers=wanted, kept=kept)

    def _rename(self, item: Item, task: Task) -> Answer:
        """Rename at the target what was renamed at the source; where that is not so any more, send the object."""
        assert task.origin is not None
        head = self._source.head(item.name)
        if head is None:
            return self._gone(item, task)
        path, old = self._sync.path_of(item.name), self._sync.path_of(task.origin)
        there = self._target.stat(path)
        if there is None and head.etag == item.source and self._source.head(task.origin) is None:
            before = self._target.stat(old)
            if before is not None and before.version == task.origin_ours and before.size in (None, head.size):
                try:
                    if _headers_differ(head, before):
                        return self._rewritten(item, task, old, before)
                    version = self._target.rename(old, path, before)
                except NotArrivedError as error:
                    # Recorded as ours, or it would be foreign to the next try.
                    self._note_made(item, task, error.made)
                    raise
                except SynclineError as error:
                    if not error.is_any("NOT_FOUND", *_CHANGED):
                        raise
                else:
                    return self._arrived(item, task, Written(head, replace(before, version=version)))
        elif (
            there is not None
            and there.version == task.origin_ours
            and there.size in (None, head.size)
            and not _headers_differ(head, there)
            and self._target.stat(old) is None
        ):
            return self._arrived(item, task, Written(head, there))  # renamed by a try whose answer was lost
        # The file at the old path is not forgotten: a later scan removes it or finds it equal.
        return self._put(item, replace(task, what="put", origin=None, was=None))

    def _rewritten(self, item: Item, task: Task, old: str, before: TargetFile) -> Answer:
        """Rename a file whose headers are others at the source: bring the object, and then remove the old file."""
        done = self._target.put(self._to_put(item, task, None))
        if isinstance(done, PartlyWritten):
            return _continued(item, task, done)
        check_arrived(self._target, self._sync.path_of(item.name), done.file)
        self._target.remove(old, before)
        return self._arrived(item, task, done)

    def _gone(self, item: Item, task: Task) -> Answer:
        """Leave an item whose object is gone.

        A file that an earlier try wrote and did not record is recorded, so that a scan removes it.
        """
        there, name = self._target.stat(self._sync.path_of(item.name)), self._sync.name_of(item.name)
        if there is not None and (there.written or there.equals(item.source, item.size)):
            row = self._records.known([name])[0].get(name)
            if row is None or Record.of_row(row).target != there.version:
                self._note_made(item, task, there)
        return _left(item)

    def _note_made(self, item: Item, task: Task, there: TargetFile) -> None:
        """Record a file as written by us and not verified, whatever its object is by now."""
        etag, size = there.etag or item.source or "", there.size or item.size or 0
        made = Record(etag, size, 0, there.version, verified=False, internal_id=there.internal_id, seq=task.seq)
        self._rows[self._sync.name_of(item.name)] = made.to_row()

    def _remove(self, item: Item, task: Task) -> Answer:
        """Remove at the target what is gone from the source, if it is ours."""
        if self._source.head(item.name) is not None:
            return self._put(replace(item, source=None), replace(task, what="put"))
        path, name = self._sync.path_of(item.name), self._sync.name_of(item.name)
        there = self._target.stat(path)
        if there is not None:
            row = self._records.known([name])[0].get(name)
            record = None if row is None else Record.of_row(row)
            if record is not None and record.target == COLLIDES:
                self._rows[name] = None
                record = None
            if record is None and not there.written and not there.equals(item.target, item.size):
                return Result(item.group, item.name, Outcome.SKIPPED, None, there.version, reason="it is not ours")
            if record is not None and there.version != record.target and not there.written:
                self._rows[name] = None  # it is foreign from now on, which is said once
                return replace(conflict(item, there), reason=_REPLACED)
            if task.what == "confirm":  # it is ours after all, but no removal was granted: the next scan asks for one
                return _left(item)
            try:
                self._target.remove(path, there)
            except SynclineError as error:
                if error.code.name != "TARGET_CHANGED":
                    raise
                return conflict(item, there)
        return Completed(replace(task, what="remove", made=None).on(replace(item, source=None)))

    def _permit(self, item: Item, task: Task) -> Answer:
        """Set the permissions that an event or an access list states."""
        assert task.mode is not None
        assert task.made is not None
        try:
            mode = self._target.permit(self._sync.path_of(item.name), task.mode)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            return self._put(item, replace(task, what="put", made=None))
        made = replace(task.made, mode=mode, told=task.told, seq=task.seq, was=task.was)
        return Completed(replace(task, made=made).on(item))

    # -- parts ---------------------------------------------------------------------------------------------------

    def _arrived(self, item: Item, task: Task, done: Written, *, mode: str | None = None) -> Completed:
        """Set the file's permissions, unless it has the right ones (``mode``), and return its new record."""
        head, there = done.head, done.file
        if mode is None:
            mode = task.mode if task.told is not None else None
            if mode is None:
                mode = wanted_mode(self._sync, self._source, item.name, head)
            mode = self._target.permit(self._sync.path_of(item.name), mode)
        modified = int(head.modified) if task.modified is None or item.source != head.etag else task.modified
        made = Record(
            head.etag,
            head.size,
            modified,
            there.version,
            headers=done.headers,
            kept=done.kept,
            file_type=head.content_type,
            mode=mode,
            internal_id=there.internal_id,
            told=task.told,
            seq=task.seq,
            was=task.was,
        )
        what = "rename" if task.origin is not None else "put"
        after = replace(task, what=what, made=made, parts=0, compared=0, versions=None, alone=False)
        return Completed(after.on(replace(item, source=head.etag, size=head.size)), done.sent)


def wanted_mode(sync: FilesSync, source: Bucket, key: str, head: Head) -> str:
    """Return a file's permissions by its source. Raises the reason why its access list cannot be read."""
    rule = sync.permissions
    match rule.source:
        case "metadata":
            return mode_of_metadata(head.metadata) or rule.default
        case "acl":
            return mode_of_grants(source.grants(key))
    return rule.default


def _continued(item: Item, task: Task, done: PartlyWritten) -> Unfinished | Failure:
    """Return the answer for an item whose upload goes on in another function."""
    after = replace(task, parts=done.parts).on(item)
    return Unfinished(after) if done.error is None else Failure(after, done.error, further=done.parts > task.parts)


def conflict(item: Item, there: TargetFile | None) -> Result:
    """Return the result for an item whose path has a foreign file."""
    version = None if there is None else there.etag or there.version
    return Result(item.group, item.name, Outcome.CONFLICT, item.source, version, code="FILE_DIFFERS", reason=_FOREIGN)


def _seen(item: Item, task: Task) -> Head | None:
    """Return the object as the scan saw it, None if that is not known."""
    if not item.source or item.size is None or task.modified is None:
        return None
    return Head(item.source, item.size, modified=float(task.modified))


def _headers_differ(head: Head, there: TargetFile) -> bool:
    """Return True if the file's own headers are known not to be those of the object."""
    return there.headers is not None and there.headers != fingerprint(head)


def _left(item: Item) -> Result:
    return Result(item.group, item.name, Outcome.SKIPPED, item.source, item.target, reason=_GONE)


def _whole(read: Callable[[int], bytes], size: int) -> bytes:
    """Read ``size`` bytes, fewer only at the end."""
    parts, missing = [], size
    while missing and (part := read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
