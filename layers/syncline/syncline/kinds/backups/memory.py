"""What the kind remembers between runs: which blob an object became. It makes looks fast; losing it makes nothing wrong.

That the object with this key and this ETag is that blob stays true for ever, so what is noted may come in any order,
twice or not at all. Whether the branch has the blob is asked of the branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Known:
    """An object that was read: its ETag, and the id of the blob it became, "" where it is left out of git.

    `code` is the one it is left out with, "" where there is none (:class:`.sealing.Sealed`).
    """

    etag: str
    blob: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    """How many files a cluster had, with the id of its tree that they were counted in."""

    tree: str
    files: int


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


class Nothing:
    """A memory that keeps nothing: every look then reads what it has to compare."""

    def known(self, place: str, cluster: str) -> dict[str, Known]:
        del place, cluster
        return {}

    def note(self, place: str, cluster: str, part: str, known: Mapping[str, Known]) -> None: ...

    def settle(self, place: str, cluster: str, known: Mapping[str, Known]) -> None: ...

    def counts(self, reference: str) -> dict[str, Count]:
        del reference
        return {}

    def keep_counts(self, reference: str, counts: Mapping[str, Count]) -> None: ...
