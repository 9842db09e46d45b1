"""Odd entries of the listings that a scan reads: each is a failure of its own, and nothing is removed after one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from syncline.clients.http.listings import Odd
from syncline.config.files import FilesSync
from syncline.errors import SynclineError
from syncline.kinds.kind import Failure
from syncline.model import Item


@dataclass(frozen=True, slots=True)
class OddOnes:
    """The odd entries that the listings of a window have met. Pages are read ahead, so some may lie behind the window.

    ``failed`` makes the failure of a key.
    """

    sync: FilesSync
    failed: Callable[[str, SynclineError], Failure]
    at_source: list[Odd] = field(default_factory=list)
    at_target: list[Odd] = field(default_factory=list)

    def failures(self, after: str, upto: str | None) -> dict[str, Failure]:
        """Return the failures of the entries behind the name ``after`` and up to ``upto`` (None: to the end).

        They are by key, or by the entry's place if it has no name. Keys that the sync does not take are left out.
        """
        found: dict[str, Failure] = {}
        for name, odd, key in self._keys():
            if name and (name <= after or (upto is not None and name > upto)):
                continue
            if odd.name is None:
                found[odd.label] = Failure(Item("*", odd.label), odd.error)
            elif key is not None:
                found[key] = self.failed(key, odd.error)
        return found

    def _keys(self) -> Iterator[tuple[str, Odd, str | None]]:
        """Yield each entry with the name that it sorts by, and its key if that is one of the sync's."""
        for odd in self.at_source:
            yield self.sync.name_of(odd.at), odd, odd.name if odd.name and self.sync.takes(odd.name) else None
        for odd in self.at_target:
            yield odd.at.removeprefix(self.sync.target.prefix), odd, self.sync.key_of(odd.name) if odd.name else None
