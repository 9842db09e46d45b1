"""The commit's message: when, which clusters, how many files and changes, and whose work it was. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from syncline.visible import visible

SYNC: Final = "Syncline-Sync"
"""The trailer that names the sync: what such a commit put is the sync's own, whatever the table has forgotten."""
BATCH: Final = "Syncline-Batch"
"""The trailer that says which batch a commit was made for: one whose push was answered by nobody is known by it."""


@dataclass(frozen=True, slots=True)
class Change:
    """How a path changes: the ids of its blob before and after, None where there is none."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Tally:
    """How many paths are new, modified and deleted."""

    new: int = 0
    modified: int = 0
    deleted: int = 0

    @classmethod
    def of(cls, changes: Iterable[Change]) -> Tally:
        new = modified = deleted = 0
        for change in changes:
            new += change.before is None
            deleted += change.after is None
            modified += change.before is not None and change.after is not None
        return cls(new, modified, deleted)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.new + other.new, self.modified + other.modified, self.deleted + other.deleted)

    @property
    def grown(self) -> int:
        """By how many files the tree grows."""
        return self.new - self.deleted

    def __str__(self) -> str:
        return f"{self.new} new, {self.modified} modified, {self.deleted} deleted"


def message_of(sync: str, batch: str, seconds: float, files: Mapping[str, int], changes: Mapping[str, Tally]) -> str:
    """The message. ``files`` gives the files that each cluster has now, ``changes`` what changed in some of them."""
    lines = [f"Automated backup sync - {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))} UTC", ""]
    lines += [f"Clusters processed: {len(changes)}"]
    lines += [f"- {visible(cluster)}: {files[cluster]} files" for cluster in sorted(changes)]
    lines += ["", f"Total files: {sum(files.values())}", f"Changes: {sum(changes.values(), Tally())}", ""]
    lines += [f"{SYNC}: {sync}", f"{BATCH}: {batch}", ""]
    return "\n".join(lines)
