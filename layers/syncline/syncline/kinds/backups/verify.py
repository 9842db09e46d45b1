"""The step verify: fetch the branch again, in a separate clone, and compare its files with the items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from syncline.errors import SynclineError
from syncline.kinds.backups.commit import OpenBranch
from syncline.kinds.backups.ownership import entries_of
from syncline.kinds.backups.paths import Layout, shown
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item


@dataclass(frozen=True, slots=True)
class Verifier:
    """Verifies items, with one fetch of each branch per call."""

    layout: Layout
    open_branch: OpenBranch

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        """Yield Completed if the branch has the item's blob, or no file for a removed item; else NOT_ARRIVED."""
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
                blob = found[item.name]
                if blob == item.source:
                    yield Completed(item)
                else:
                    what = f"{shown(item.name)} on {group} is {blob or 'absent'}, expected {item.source or 'none'}"
                    yield Failure(item, SynclineError("NOT_ARRIVED", what))

    def _blobs(self, group: str, items: Sequence[Item], context: StepContext) -> dict[str, str | None]:
        """Return the fingerprints of the items' files on a branch by key, None for no file."""
        with self.open_branch(group, context) as branch:
            branch.fetch()
            entries = entries_of(branch, self.layout, [item.name for item in items])
            return {name: None if entry is None else entry.fingerprint for name, entry in entries.items()}
