"""The instances of a sync as they were last listed, with the age of the list."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from syncline.clients.replicas.instances import Instance
from syncline.errors import CodeName, SynclineError
from syncline.kinds.tokens.verdict import Reason


@dataclass(frozen=True, slots=True)
class Listing:
    """``seen`` is when the list was read whole (Unix seconds); None if it never was.

    ``failed`` is the code of the failure when the latest look did not succeed; ``instances`` are then older.
    """

    instances: tuple[Instance, ...] = ()
    seen: float | None = None
    failed: CodeName | None = None

    def problem(self, now: float, oldest: float) -> Reason | None:
        """Return why no verdict can rest on this list, or None; one older than `oldest` seconds is not believed."""
        if self.seen is None:
            return Reason.LIST_MISSING if self.failed is None else Reason.LIST_FAILED
        # A clock that was set back makes a list look as if it came from the future: that is no better than an old one.
        if not -oldest <= now - self.seen <= oldest:
            return Reason.LIST_STALE if self.failed is None else Reason.LIST_FAILED
        return None if any(instance.serves for instance in self.instances) else Reason.LIST_EMPTY

    def called(self, origin: str) -> tuple[Instance, ...]:
        """Return the instances that `origin` may mean, whether they serve or not."""
        return tuple(instance for instance in self.instances if instance.is_called(origin))


class Listings(Protocol):
    """Where listings are remembered, each under the name of its sync."""

    def all(self) -> Mapping[str, Listing]:
        """The latest of every sync that has one."""
        ...

    def listed(self, sync: str, instances: Sequence[Instance], seen: float) -> None:
        """Remember a list that was read whole, asked for at ``seen`` (Unix seconds)."""
        ...

    def not_listed(self, sync: str, error: SynclineError) -> None:
        """Remember that a look failed; the list from before stays, with its age."""
        ...


class MemoryListings:
    """Listings of one process, for a service that lists and answers in one. Safe to use from several threads."""

    def __init__(self) -> None:
        self._all: dict[str, Listing] = {}
        self._lock = threading.Lock()

    def all(self) -> Mapping[str, Listing]:
        return self._all

    def listed(self, sync: str, instances: Sequence[Instance], seen: float) -> None:
        with self._lock:
            known = self._all.get(sync, Listing()).seen
            if known is None or known <= seen:  # one that hung may come after a newer one
                self._all = {**self._all, sync: Listing(tuple(instances), seen)}

    def not_listed(self, sync: str, error: SynclineError) -> None:
        with self._lock:
            before = self._all.get(sync, Listing())
            self._all = {**self._all, sync: replace(before, failed=error.code.name)}
