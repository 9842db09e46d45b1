"""Verification of files: the target is read again for the version, the size and the permissions of each.

If the target can be listed, a listing verifies the files of which it shows everything; the rest is read one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from syncline.config.values import folded
from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.parallel import in_parallel
from syncline.kinds.files.records import UNSTATED, Records, RemovedRecord, Row, Task
from syncline.kinds.files.targets import Target, TargetFile, other_name
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item

PERMISSIONS_SET: Final = "only its permissions were changed"
"""The note about a file that was not written."""

VerifyResult = Completed | Unfinished | Failure


class FileVerification:
    """Verification of the items of one batch, ``threads`` at a time."""

    def __init__(self, sync: FilesSync, target: Target, records: Records, context: StepContext, threads: int) -> None:
        self._sync = sync
        self._target = target
        self._records = records
        self._context = context
        self._threads = threads
        self._alike: dict[str, list[str]] = {}

    def items(self, items: Sequence[Item]) -> list[VerifyResult]:
        """Return one answer for each item. Verified files are recorded first."""
        pending = [_Pending(item, Task.of(item)) for item in items]
        alike = defaultdict(list)
        for each in pending:
            if each.task.operation != "remove":
                alike[folded(each.item.name)].append(each.item.name)
        self._alike = {name: keys for name, keys in alike.items() if len(keys) > 1}
        answers = self._from_listing(pending)
        names = {each.item.name for each, _ in answers}
        rest = [each for each in pending if each.item.name not in names]
        answers += in_parallel(self._answer, rest, self._threads)
        self._record(answers)
        return [answer for _, answer in answers]

    def _from_listing(self, pending: Sequence[_Pending]) -> list[tuple[_Pending, VerifyResult]]:
        """Return the files that the target's listing verifies. A file that it does not show is read later."""
        shown = {self._sync.path_of(each.item.name): each for each in pending if each.is_shown_by_listing}
        if self._context.over:
            return []
        try:
            existing = self._target.listed(sorted(shown))
        except SynclineError:
            return []  # the files are read one by one, so each reports its error
        return [
            (each, _completed(each, existing[path]))
            for path, each in shown.items()
            if folded(each.item.name) not in self._alike and path in existing and each.matches(existing[path])
        ]

    def _answer(self, pending: _Pending) -> tuple[_Pending, VerifyResult]:
        item, task = pending.item, pending.task
        if self._context.over:
            return pending, Unfinished(item)
        try:
            return pending, _completed(pending, self._read(item, task, pending))
        except SynclineError as error:
            return pending, Failure(item, error)

    def _read(self, item: Item, task: Task, pending: _Pending) -> TargetFile | None:
        """Return the target's file if it is as it has to be; raises NOT_ARRIVED or PATH_COLLIDES."""
        path = self._sync.path_of(item.name)
        existing = self._target.stat(path)
        if task.operation == "remove":
            if existing is not None:
                raise self._absent(item, existing, f"{path!r} is still at {self._target.name}")
            return None
        record = task.record
        assert record is not None, "a transfer sets the record"
        if existing is None:
            raise self._absent(item, existing, f"{path!r} is not at {self._target.name}")
        if not pending.matches(existing):
            found = f"{existing.etag or existing.version} of {existing.size} bytes"
            raise self._absent(item, existing, f"{path!r} at {self._target.name} is {found}, not {record.etag}")
        if record.mode is not None and (mode := self._target.mode(path)) != record.mode:
            raise self._absent(
                item, existing, f"{path!r} at {self._target.name} has permissions {mode}, not {record.mode}"
            )
        is_alike = folded(item.name) in self._alike and task.operation != "rename"  # a renamed file states its old path
        if is_alike and other_name(self._target, path, existing) is not None:
            # Two keys may have equal bytes: then only the listed name shows that they are one file.
            raise self._absent(item, existing, f"{path!r} is not listed at {self._target.name}")
        return existing

    def _absent(self, item: Item, existing: TargetFile | None, what: str) -> SynclineError:
        """Return NOT_ARRIVED, or PATH_COLLIDES if the target keeps two keys under one path."""
        other = next((key for key in self._alike.get(folded(item.name), ()) if key != item.name), None)
        if other is None and existing is not None:
            other = other_name(self._target, self._sync.path_of(item.name), existing)
        if other is None:
            return SynclineError("NOT_ARRIVED", what)
        return SynclineError(
            "PATH_COLLIDES", f"{item.name!r} and {other!r} are one path at {self._target.name}: {what}"
        )

    def _record(self, answers: Sequence[tuple[_Pending, VerifyResult]]) -> None:
        changes: dict[str, Row | None] = {}
        gone: dict[str, Row] = {}
        written = 0
        for each, answer in answers:
            if isinstance(answer, Completed):
                self._remember(each, Task.of(answer.item), changes, gone)
                written = max(written, each.task.written)
        if changes or gone:
            self._records.write(changes, gone, after=written)

    def _remember(self, pending: _Pending, task: Task, changes: dict[str, Row | None], gone: dict[str, Row]) -> None:
        """Add the record of a file or of a removed one to the rows to write."""
        name = self._sync.name_of(pending.item.name)
        if task.operation != "remove":
            assert task.record is not None
            changes[name] = task.record.to_row()
        if task.operation == "remove":
            removed, kept = name, RemovedRecord(task.seq, task.previous)
        elif task.origin is not None:
            removed, kept = self._sync.name_of(task.origin), RemovedRecord(task.origin_seq)
        else:
            return
        if kept.seq or kept.previous:
            gone[removed] = kept.to_row()
        else:
            changes[removed] = None


@dataclass(frozen=True, slots=True)
class _Pending:
    """An item with its task."""

    item: Item
    task: Task

    @property
    def is_shown_by_listing(self) -> bool:
        """True if a listing shows everything to verify: neither permissions nor absence."""
        return self.task.operation == "put" and self.task.record is not None and self.task.record.mode is None

    def matches(self, existing: TargetFile) -> bool:
        """Return True if the target's file is the one that the transfer wrote."""
        record = self.task.record
        if record is None or existing.size not in (None, record.size):
            return False
        # Some services return no ETag after a write.
        return record.target in (UNSTATED, existing.version)


def _completed(pending: _Pending, existing: TargetFile | None) -> Completed:
    """Return the answer for a verified file, whose record gets the version that the target shows."""
    task = pending.task
    note = PERMISSIONS_SET if task.operation == "permit" else ""
    if task.record is None or existing is None:
        return Completed(pending.item, note=note)
    record = replace(task.record, target=existing.version, internal_id=existing.internal_id or task.record.internal_id)
    return Completed(replace(pending.item, detail={**pending.item.detail, "made": record.to_row()}), note=note)
