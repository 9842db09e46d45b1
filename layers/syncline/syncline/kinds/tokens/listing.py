"""Lists of the instances of a sync, and their stores."""

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
    """The instances of a sync. ``seen`` is the time of the list (Unix seconds); None if it was never read completely.

    ``failed`` is the error code of the latest scrape if it failed; ``instances`` are then older.
    """

    instances: tuple[Instance, ...] = ()
    seen: float | None = None
    failed: CodeName | None = None

    def problem(self, now: float, oldest: float) -> Reason | None:
        """Return the reason why this list cannot be used, None if it can. It may be `oldest` seconds old."""
        if self.seen is None:
            return Reason.LIST_MISSING if self.failed is None else Reason.LIST_FAILED
        # After a clock was set back, a list may be from the future, which is no better than an old one.
        if not -oldest <= now - self.seen <= oldest:
            return Reason.LIST_STALE if self.failed is None else Reason.LIST_FAILED
        return None if any(instance.serves for instance in self.instances) else Reason.LIST_EMPTY

    def called(self, origin: str) -> tuple[Instance, ...]:
        """Return the instances of which `origin` is the name, the address, or address and port; not all of them serve."""
        return tuple(
            instance for instance in self.instances if origin in (instance.name, instance.address, instance.where)
        )


class ListingStore(Protocol):
    """A store of the latest listing of each sync. After a failed scrape the previous list stays, with its age."""

    def all(self) -> Mapping[str, Listing]: ...

    def listed(self, sync: str, instances: Sequence[Instance], seen: float) -> None:
        """Store a complete list, requested at ``seen`` (Unix seconds)."""

    def not_listed(self, sync: str, error: SynclineError) -> None: ...


class ProcessListings:
    """Listings of one process, for the container. Thread-safe."""

    def __init__(self) -> None:
        self._all: dict[str, Listing] = {}
        self._lock = threading.Lock()

    def all(self) -> Mapping[str, Listing]:
        return self._all

    def listed(self, sync: str, instances: Sequence[Instance], seen: float) -> None:
        with self._lock:
            known = self._all.get(sync, Listing()).seen
            if known is None or known <= seen:  # a slow one may end after a newer one
                self._all = {**self._all, sync: Listing(tuple(instances), seen)}

    def not_listed(self, sync: str, error: SynclineError) -> None:
        with self._lock:
            before = self._all.get(sync, Listing())
            self._all = {**self._all, sync: replace(before, failed=error.code.name)}
