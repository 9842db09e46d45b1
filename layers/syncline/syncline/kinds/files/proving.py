"""Proving: the target is asked again for every file, its size, what it was made from and its permissions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from syncline.config.files import FilesSync
from syncline.errors import SynclineError
from syncline.kinds.files.places import Place
from syncline.kinds.files.records import Gone, Records, Task
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
        answers: list[Arrived | Later | Failure] = []
        changes: dict[str, str | None] = {}
        gone: dict[str, str] = {}
        with ThreadPoolExecutor(min(self._threads, len(items)), thread_name_prefix="prove") as pool:
            for each in as_completed([pool.submit(self._answer, item) for item in items]):
                answer = each.result()
                answers.append(answer)
                if isinstance(answer, Arrived):
                    _remember(answer.item, changes, gone)
        self._records.write(changes, gone)
        yield from answers

    def _answer(self, item: Item) -> Arrived | Later | Failure:
        if self._pace.over:
            return Later(item)
        try:
            self._prove(item, Task.of(item))
        except SynclineError as error:
            return Failure(item, error)
        return Arrived(item)

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


def _remember(item: Item, changes: dict[str, str | None], gone: dict[str, str]) -> None:
    """Add what is to be written about an item: its record, or what is kept of a file that is gone, if anything is."""
    task = Task.of(item)
    removed, kept = (item.name, Gone(task.seq, task.was)) if task.what == "remove" else (task.origin, Gone(task.gone))
    if task.what != "remove":
        assert task.made is not None
        changes[item.name] = task.made.to_text()
    if removed is not None and (kept.seq or kept.was):
        gone[removed] = kept.to_text()
    elif removed is not None:
        changes[removed] = None


def _absent(what: str) -> SynclineError:
    return SynclineError("NOT_ARRIVED", what)
