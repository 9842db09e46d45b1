"""What the kind remembers between runs: which blob an object became. It makes looks fast; losing it makes nothing wrong.

That the object with this key and this ETag is that blob stays true for ever, so what is noted may come in any order,
twice or not at all. Whether the branch has the blob is asked of the branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from syncline.store.backup_records import Count, Known


class Memory(Protocol):
    """See :class:`syncline.store.backup_index.BackupIndex`. ``place`` names what was read, and by which rules."""

    def known(self, place: str, cluster: str) -> dict[str, Known]:
        """What is known of a cluster's objects, by their keys."""
        ...

    def note(self, place: str, cluster: str, part: str, known: Mapping[str, Known]) -> None:
        """Note what was learned; ``part`` names the batch that did, so that doing it twice is doing it once."""
        ...

    def settle(self, place: str, cluster: str, known: Mapping[str, Known]) -> None:
        """All that is known of a cluster from now on, but for what is noted meanwhile."""
        ...

    def counts(self, reference: str) -> dict[str, Count]:
        """How many files each cluster of a branch had."""
        ...

    def keep_counts(self, reference: str, counts: Mapping[str, Count]) -> None: ...
