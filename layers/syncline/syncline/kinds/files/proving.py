"""Proving: the target is asked again for every file, its size, what it was made from and its permissions.

What a target lists in bulk is proved so, where that shows all that is to be proved; the rest is asked for one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from syncline.config.files import FilesSync
from syncline.errors import SynclineError
from syncline.kinds.files.places import Place, There
from syncline.kinds.files.records import Gone, Records, Task
from syncline.kinds.files.side_by_side import side_by_side
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item


class Proving:
    """Asks for the items of one verify, ``threads`` at a time, and remembers what was proved."""

    def __init__(self, sync: FilesSync, place: Place, records: Records, pace: Pace, threads: int) -> None:
        self._sync = sync
        self._place = place
        self._records = records
        self._pace = pace
        self._threads = threads

    def items(self, items: Sequence[Item]) -> Iterator[Arrived | Later | Failure]:
        """An answer for each item. What is proved is remembered before it is answered."""
        asked = [_Asked(item, Task.of(item)) for item in items]
        proved, rest = self._listed(asked)
        answers: list[Arrived | Later | Failure] = [Arrived(each.item) for each in proved]
        changes: dict[str, str | None] = {}
        gone: dict[str, str] = {}
        for each, answer in side_by_side(self._answer, rest, self._threads):
            answers.append(answer)
            if isinstance(answer, Arrived):
                proved.append(each)
        for each in proved:
            each.remember(changes, gone)
        self._records.write(changes, gone)
        yield from answers

    def _listed(self, asked: Sequence[_Asked]) -> tuple[list[_Asked], list[_Asked]]:
        """Which files the target's own listing proves, and which it does not: nothing is refuted by it."""
        shown = {self._sync.path_of(each.item.name): each for each in asked if each.is_shown_by_listing}
        if self._pace.over:
            return [], list(asked)
        try:
            there = self._place.listed(sorted(shown))
        except SynclineError:
            return [], list(asked)  # asked one by one, each says why
        proved = [each for path, each in shown.items() if path in there and each.is_made_as(there[path])]
        names = {each.item.name for each in proved}
        return proved, [each for each in asked if each.item.name not in names]

    def _answer(self, asked: _Asked) -> tuple[_Asked, Arrived | Later | Failure]:
        item = asked.item
        if self._pace.over:
            return asked, Later(item)
        try:
            self._prove(item, asked.task)
        except SynclineError as error:
            return asked, Failure(item, error)
        return asked, Arrived(item)

    def _prove(self, item: Item, task: Task) -> None:
        path = self._sync.path_of(item.name)
        there = self._place.stat(path)
        if task.what == "remove":
            if there is not None:
                raise _absent(f"{path!r} is still at {self._place.name}")
            return
        made = task.made
        assert made is not None, "a transfer says what it made"
        if there is None:
            raise _absent(f"{path!r} is not at {self._place.name}")
        if task.what != "permit" and (there.etag != made.etag or there.size != made.size):
            raise _absent(f"{path!r} at {self._place.name} is {there.etag} of {there.size} bytes, not {made.etag}")
        if made.mode is not None and (mode := self._place.mode(path)) != made.mode:
            raise _absent(f"{path!r} at {self._place.name} has permissions {mode}, not {made.mode}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """An item, with its detail taken apart."""

    item: Item
    task: Task

    @property
    def is_shown_by_listing(self) -> bool:
        """Whether a listing shows all that is to be proved: no permissions, and no absence."""
        return self.task.what == "put" and self.task.made is not None and self.task.made.mode is None

    def is_made_as(self, there: There) -> bool:
        made = self.task.made
        return made is not None and (there.etag, there.size) == (made.etag, made.size)

    def remember(self, changes: dict[str, str | None], gone: dict[str, str]) -> None:
        """Add what is to be written: its record, or what is kept of a file that is gone, if anything is."""
        name, task = self.item.name, self.task
        removed, kept = (name, Gone(task.seq, task.was)) if task.what == "remove" else (task.origin, Gone(task.gone))
        if task.what != "remove":
            assert task.made is not None
            changes[name] = task.made.to_text()
        if removed is not None and (kept.seq or kept.was):
            gone[removed] = kept.to_text()
        elif removed is not None:
            changes[removed] = None


def _absent(what: str) -> SynclineError:
    return SynclineError("NOT_ARRIVED", what)
