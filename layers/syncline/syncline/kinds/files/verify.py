"""Verification of files: the target is read again for the version, the size and the permissions of each.

If the target can be listed, a listing verifies the files of which it shows everything; the rest is read one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.parallel import in_parallel
from syncline.kinds.files.records import UNSTATED, Records, RemovedRecord, Row, Task
from syncline.kinds.files.targets import Target, TargetFile, alike_names, other_name
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item

PERMISSIONS_SET: Final = "only its permissions were changed"
"""The note about a file that was not written."""

VerifyResult = Completed | Unfinished | Failure


@dataclass
class FileVerification:
    """Verification of the items of one batch, ``threads`` at a time."""

    sync: FilesSync
    target: Target
    records: Records
    context: StepContext
    threads: int
    _alike: Mapping[str, str | None] = field(default_factory=dict)

    def items(self, items: Sequence[Item]) -> list[VerifyResult]:
        """Return one answer for each item. Verified files are recorded first."""
        tasks = [(item, Task.of(item)) for item in items]
        self._alike = alike_names(item.name for item, task in tasks if task.operation != "remove")
        answers = self._from_listing(tasks)
        names = {answer.item.name for answer in answers}
        answers += in_parallel(self._answer, [each for each in tasks if each[0].name not in names], self.threads)
        self._record(answers)
        return answers

    def _from_listing(self, tasks: Sequence[tuple[Item, Task]]) -> list[VerifyResult]:
        """Return the files that the target's listing verifies. A file that it does not show is read later.

        A listing shows neither permissions nor absence.
        """
        shown = {
            self.sync.path_of(item.name): (item, task)
            for item, task in tasks
            if task.operation == "put" and task.record is not None and task.record.mode is None
        }
        if self.context.over:
            return []
        try:
            existing = self.target.listed(sorted(shown))
        except SynclineError:
            return []  # the files are read one by one, so each reports its error
        return [
            _completed(item, task, existing[path])
            for path, (item, task) in shown.items()
            if item.name not in self._alike and path in existing and _is_written(task, existing[path])
        ]

    def _answer(self, each: tuple[Item, Task]) -> VerifyResult:
        item, task = each
        if self.context.over:
            return Unfinished(item)
        try:
            return _completed(item, task, self._read(item, task))
        except SynclineError as error:
            return Failure(item, error)

    def _read(self, item: Item, task: Task) -> TargetFile | None:
        """Return the target's file if it is as it has to be; raises NOT_ARRIVED or PATH_COLLIDES."""
        path = self.sync.path_of(item.name)
        existing = self.target.stat(path)
        if (what := self._problem(item, task, path, existing)) is None:
            return existing
        other = self._alike.get(item.name)
        if other is None and existing is not None:
            other = other_name(self.target, path, existing)
        if other is None:
            raise SynclineError("NOT_ARRIVED", what)
        # The target keeps two keys under one path.
        words = f"{item.name!r} and {other!r} have the same path at {self.target.name}: {what}"
        raise SynclineError("PATH_COLLIDES", words)

    def _problem(self, item: Item, task: Task, path: str, existing: TargetFile | None) -> str | None:
        """Return the reason why the target is not as it has to be, None if it is."""
        record, target = task.record, self.target.name
        if task.operation == "remove":
            return None if existing is None else f"{path!r} is still at {target}"
        assert record is not None, "a transfer sets the record"
        if existing is None:
            return f"{path!r} is not at {target}"
        if not _is_written(task, existing):
            found = f"{existing.etag or existing.version} of {existing.size} bytes"
            return f"{path!r} at {target} is {found}, not {record.etag}"
        if record.mode is not None and (mode := self.target.mode(path)) != record.mode:
            return f"{path!r} at {target} has permissions {mode}, not {record.mode}"
        is_alike = item.name in self._alike and task.operation != "rename"  # a renamed file states its old path
        if is_alike and other_name(self.target, path, existing) is not None:
            # Two keys may have equal bytes: then only the listed name shows that they are one file.
            return f"{path!r} is not listed at {target}"
        return None

    def _record(self, answers: Sequence[VerifyResult]) -> None:
        changes: dict[str, Row | None] = {}
        gone: dict[str, Row] = {}
        written = 0
        for answer in answers:
            if not isinstance(answer, Completed):
                continue
            name, task = self.sync.name_of(answer.item.name), Task.of(answer.item)
            written = max(written, task.written)
            if task.operation == "remove":
                removed, kept = name, RemovedRecord(task.seq, task.previous)
            else:
                assert task.record is not None
                changes[name] = task.record.to_row()
                if task.origin is None:
                    continue
                removed, kept = self.sync.name_of(task.origin), RemovedRecord(task.origin_seq)
            if kept.seq or kept.previous:
                gone[removed] = kept.to_row()
            else:
                changes[removed] = None
        if changes or gone:
            self.records.write(changes, gone, after=written)


def _is_written(task: Task, existing: TargetFile) -> bool:
    """Return True if the target's file is the one that the transfer wrote."""
    record = task.record
    if record is None or existing.size not in (None, record.size):
        return False
    # Some services return no ETag after a write.
    return record.target in (UNSTATED, existing.version)


def _completed(item: Item, task: Task, existing: TargetFile | None) -> Completed:
    """Return the answer for a verified file, whose record gets the version that the target shows."""
    note = PERMISSIONS_SET if task.operation == "permit" else ""
    if task.record is None or existing is None:
        return Completed(item, note=note)
    record = replace(task.record, target=existing.version, internal_id=existing.internal_id or task.record.internal_id)
    return Completed(replace(item, detail={**item.detail, "made": record.to_row()}), note=note)
