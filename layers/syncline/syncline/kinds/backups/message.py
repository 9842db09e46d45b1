"""The commit's message: when, which clusters, how many files and changes, and whose work it was. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

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

    @property
    def grown(self) -> int:
        """By how many files the tree grows."""
        return self.new - self.deleted

    def __str__(self) -> str:
        return f"{self.new} new, {self.modified} modified, {self.deleted} deleted"


def message_of(
    *, sync: str, batch: str, seconds: float, changed: Mapping[str, int], total: int, changes: Iterable[Change]
) -> str:
    """The message. ``changed`` gives the files that each changed cluster has now, ``total`` those of all clusters."""
    lines = [f"Automated backup sync - {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))} UTC", ""]
    lines += [f"Clusters processed: {len(changed)}"]
    lines += [f"- {cluster}: {files} files" for cluster, files in sorted(changed.items())]
    lines += ["", f"Total files: {total}", f"Changes: {Tally.of(changes)}", ""]
    lines += [f"Syncline-Sync: {sync}", f"{BATCH}: {batch}", ""]
    return "\n".join(lines)
