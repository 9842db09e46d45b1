"""Proving: the server is asked for the branch again, by a fetch of its own, and what it has is compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from syncline.errors import SynclineError
from syncline.kinds.backups.commit import Open
from syncline.kinds.backups.paths import Layout, shown
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item


class Proof:
    """Asks for branches, each once for all items of a call."""

    def __init__(self, layout: Layout, open_: Open) -> None:
        self._layout = layout
        self._open = open_

    def of(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        """Completed if the branch has the item's blob, or none for one that was removed; else NOT_ARRIVED."""
        for group, members in groupby(sorted(items, key=lambda item: item.group), key=lambda item: item.group):
            mine = list(members)
            if context.over:
                yield from (Unfinished(item) for item in mine)
                continue
            try:
                found = self._blobs(group, mine, context)
            except SynclineError as error:
                yield from (Failure(item, error) for item in mine)
                continue
            for item in mine:
                if found[item.name] == item.source:
                    yield Completed(item)
                else:
                    what = f"{shown(item.name)} is {found[item.name] or 'absent'} on {group}, not {item.source or 'absent'}"
                    yield Failure(item, SynclineError("NOT_ARRIVED", what))

    def _blobs(self, group: str, items: Sequence[Item], context: StepContext) -> dict[str, str | None]:
        with self._open(group, context) as branch:
            branch.fetch()
            paths = {item.name: self._layout.path_of(item.name).encode() for item in items}
            folders = branch.folders(path.rpartition(b"/")[0] for path in paths.values())
            found: dict[str, str | None] = {}
            for name, path in paths.items():
                folder, _, last = path.rpartition(b"/")
                entry = folders[folder].get(last)
                found[name] = None if entry is None else entry.fingerprint
            return found
