"""The scrape: lists the instances of every sync and remembers them with the time at which they were asked for.

Each sync is listed in a thread of its own and with a deadline, so that a cluster that hangs costs its sync alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from syncline.clients.http.listings import InvalidEntry, OnInvalid
from syncline.clients.kubernetes.client import InstanceSource
from syncline.clients.replicas.instances import Instance, distinct
from syncline.errors import CodeName, SynclineError
from syncline.kinds.tokens.isolation import Isolated
from syncline.kinds.tokens.listing import Listings
from syncline.telemetry import logger

DEADLINE: Final = 30.0
"""Seconds for all sources of one sync; less than the function `scrape` has, so that it can still record a failure."""


class Lister(Protocol):
    """A cluster, as far as a scrape needs it."""

    def instances(self, source: InstanceSource, odd: OnInvalid) -> tuple[Instance, ...]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """One source of a sync, and the cluster it is in."""

    cluster: Lister
    source: InstanceSource


@dataclass(frozen=True, slots=True)
class Scraped:
    """Result of a scrape for one sync: how many instances it has, or the code of its failure."""

    sync: str
    instances: int = 0
    serving: int = 0
    failed: CodeName | None = None


class Scraper:
    """Lists syncs. ``clock`` gives Unix seconds; ``deadline`` is in seconds and for each sync."""

    def __init__(self, listings: Listings, clock: Callable[[], float], deadline: float = DEADLINE) -> None:
        self._listings = listings
        self._clock = clock
        self._isolated: Isolated[Scraped] = Isolated("the scrape", deadline)

    def scrape(self, syncs: Mapping[str, Callable[[], Iterable[Place]]]) -> list[Scraped]:
        """List the given syncs at the same time, by functions that return their places or raise.

        One that fails or hangs neither delays nor fails another.
        """
        results = self._isolated.run({sync: partial(self._list, sync, places) for sync, places in syncs.items()})
        return [
            self._not_listed(sync, result) if isinstance(result, SynclineError) else result
            for sync, result in results.items()
        ]

    def _not_listed(self, sync: str, error: SynclineError) -> Scraped:
        logger.error("instances not listed", extra={"sync": sync, "code": error.code.name, "why": error.what})
        self._listings.not_listed(sync, error)
        return Scraped(sync, failed=error.code.name)

    def _list(self, sync: str, places: Callable[[], Iterable[Place]]) -> Scraped:
        seen = self._clock()  # before the first page: the list is as old as its oldest part
        # All or nothing: without one of its sources a list would make agreement of a part look like that of all.
        tell = partial(_tell, sync)
        found = distinct(one for place in places() for one in place.cluster.instances(place.source, tell))
        self._listings.listed(sync, found, seen)
        serving = sum(instance.serves for instance in found)
        logger.info("instances listed", extra={"sync": sync, "instances": len(found), "serving": serving})
        return Scraped(sync, len(found), serving)


def _tell(sync: str, odd: InvalidEntry) -> None:
    """Log an entry of a list that stands for an instance which nobody can ask."""
    extra = {"sync": sync, "code": odd.error.code.name, "why": odd.error.what}
    logger.error("an instance cannot be asked: its entry in the list is invalid", extra=extra)
