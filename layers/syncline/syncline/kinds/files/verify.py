"""Verify files: the target is read again for each, its version, its size and its permissions.

A target that lists files in bulk is asked so, where a listing shows all that has to be verified; the rest is read one by
one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.parallel import in_parallel
from syncline.kinds.files.records import UNSTATED, Gone, Records, Row, Task
from syncline.kinds.files.targets import Target, TargetFile, folded, other_name
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item

PERMISSIONS_SET: Final = "only its permissions were changed"
"""The note of a file that was not written."""
Verified = Completed | Unfinished | Failure


class Verify:
    """Reads the items of one batch, ``threads`` at a time, and records what was verified."""

    def __init__(self, sync: FilesSync, target: Target, records: Records, context: StepContext, threads: int) -> None:
        self._sync = sync
        self._target = target
        self._records = records
        self._context = context
        self._threads = threads
        self._alike: dict[str, list[str]] = {}

    def items(self, items: Sequence[Item]) -> list[Verified]:
        """Return one answer for each item. What was verified is recorded before it is answered."""
        asked = [_Asked(item, Task.of(item)) for item in items]
        alike = defaultdict(list)
        for each in asked:
            if each.task.what != "remove":
                alike[folded(each.item.name)].append(each.item.name)
        self._alike = {name: keys for name, keys in alike.items() if len(keys) > 1}
        answered = self._from_listing(asked)
        names = {each.item.name for each, _ in answered}
        rest = [each for each in asked if each.item.name not in names]
        answered += in_parallel(self._answer, rest, self._threads)
        self._record(answered)
        return [answer for _, answer in answered]

    def _from_listing(self, asked: Sequence[_Asked]) -> list[tuple[_Asked, Verified]]:
        """Return the files that the target's listing verifies; it refutes none."""
        shown = {self._sync.path_of(each.item.name): each for each in asked if each.is_shown_by_listing}
        if self._context.over:
            return []
        try:
            there = self._target.listed(sorted(shown))
        except SynclineError:
            return []  # read one by one, each gives its reason
        return [
            (each, _arrived(each, there[path]))
            for path, each in shown.items()
            if folded(each.item.name) not in self._alike and path in there and each.is_made_as(there[path])
        ]

    def _answer(self, asked: _Asked) -> tuple[_Asked, Verified]:
        item, task = asked.item, asked.task
        if self._context.over:
            return asked, Unfinished(item)
        try:
            return asked, _arrived(asked, self._read(item, task, asked))
        except SynclineError as error:
            return asked, Failure(item, error)

    def _read(self, item: Item, task: Task, asked: _Asked) -> TargetFile | None:
        """Return the target's file if it is as it has to be; raises NOT_ARRIVED or PATH_COLLIDES."""
        path = self._sync.path_of(item.name)
        there = self._target.stat(path)
        if task.what == "remove":
            if there is not None:
                raise self._absent(item, there, f"{path!r} is still at {self._target.name}")
            return None
        made = task.made
        assert made is not None, "a transfer says what it made"
        if there is None:
            raise self._absent(item, there, f"{path!r} is not at {self._target.name}")
        if not asked.is_made_as(there):
            found = f"{there.etag or there.version} of {there.size} bytes"
            raise self._absent(item, there, f"{path!r} at {self._target.name} is {found}, not {made.etag}")
        if made.mode is not None and (mode := self._target.mode(path)) != made.mode:
            raise self._absent(item, there, f"{path!r} at {self._target.name} has permissions {mode}, not {made.mode}")
        is_alike = folded(item.name) in self._alike and task.what != "rename"  # a renamed file states its old path
        if is_alike and other_name(self._target, path, there) is not None:
            # The bytes of both may be the same: then only the target's own name for the file shows that there is one.
            raise self._absent(item, there, f"{path!r} is not listed at {self._target.name}")
        return there

    def _absent(self, item: Item, there: TargetFile | None, what: str) -> SynclineError:
        """Return NOT_ARRIVED, or PATH_COLLIDES where the target keeps two keys under one path."""
        other = next((key for key in self._alike.get(folded(item.name), ()) if key != item.name), None)
        if other is None and there is not None:
            other = other_name(self._target, self._sync.path_of(item.name), there)
        if other is None:
            return SynclineError("NOT_ARRIVED", what)
        return SynclineError(
            "PATH_COLLIDES", f"{item.name!r} and {other!r} are one path at {self._target.name}: {what}"
        )

    def _record(self, answered: Sequence[tuple[_Asked, Verified]]) -> None:
        changes: dict[str, Row | None] = {}
        gone: dict[str, Row] = {}
        written = 0
        for each, answer in answered:
            if isinstance(answer, Completed):
                self._remember(each, Task.of(answer.item), changes, gone)
                written = max(written, each.task.written)
        if changes or gone:
            self._records.write(changes, gone, after=written)

    def _remember(self, asked: _Asked, task: Task, changes: dict[str, Row | None], gone: dict[str, Row]) -> None:
        """Add the record of a file, or what is kept of one that is gone, if anything is."""
        name = self._sync.name_of(asked.item.name)
        if task.what != "remove":
            assert task.made is not None
            changes[name] = task.made.to_row()
        if task.what == "remove":
            removed, kept = name, Gone(task.seq, task.was)
        elif task.origin is not None:
            removed, kept = self._sync.name_of(task.origin), Gone(task.gone)
        else:
            return
        if kept.seq or kept.was:
            gone[removed] = kept.to_row()
        else:
            changes[removed] = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """An item with its task."""

    item: Item
    task: Task

    @property
    def is_shown_by_listing(self) -> bool:
        """True if a listing shows all that has to be verified: no permissions, and no absence."""
        return self.task.what == "put" and self.task.made is not None and self.task.made.mode is None

    def is_made_as(self, there: TargetFile) -> bool:
        """Return True if the target's file is the one that the transfer made."""
        made = self.task.made
        if made is None or there.size not in (None, made.size):
            return False
        # Some services give no ETag in answer to a write.
        return made.target in (UNSTATED, there.version)


def _arrived(asked: _Asked, there: TargetFile | None) -> Completed:
    """Return the answer for a verified file; its record has the version that the target shows."""
    task = asked.task
    note = PERMISSIONS_SET if task.what == "permit" else ""
    if task.made is None or there is None:
        return Completed(asked.item, note=note)
    made = replace(task.made, target=there.version, internal_id=there.internal_id or task.made.internal_id)
    return Completed(replace(asked.item, detail={**asked.item.detail, "made": made.to_row()}), note=note)
