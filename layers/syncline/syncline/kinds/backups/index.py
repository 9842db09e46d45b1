"""The index of objects read in earlier runs: the blob that each became. It makes scans fast; a lost index is rebuilt.

That an object with this key and this ETag is this blob never changes, so entries may be added in any order, twice or
not at all. Whether the branch has the blob is read from the branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from syncline.store.backup_records import FileCount, IndexEntry


class Index(Protocol):
    """See :class:`syncline.store.backup_index.BackupIndex`. `source_id` names the bucket and the policy for Secrets."""

    def entries(self, source_id: str, cluster: str) -> dict[str, IndexEntry]:
        """Return the entries of a cluster by key."""
        ...

    def add(self, source_id: str, cluster: str, part: str, entries: Mapping[str, IndexEntry]) -> None:
        """Add entries. `part` names the batch that read the objects; adding a part twice has the effect of once."""
        ...

    def replace(self, source_id: str, cluster: str, entries: Mapping[str, IndexEntry]) -> None:
        """Replace all entries of a cluster, except those that are added meanwhile."""
        ...

    def file_counts(self, reference: str) -> dict[str, FileCount]:
        """Return the file counts of a branch by cluster."""
        ...

    def save_file_counts(self, reference: str, counts: Mapping[str, FileCount]) -> None: ...
