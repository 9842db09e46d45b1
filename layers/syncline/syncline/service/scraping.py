"""The scrape: lists the instances of every sync and remembers them with the time at which they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from syncline.clients.cluster import Source
from syncline.clients.instances import Instance, distinct
from syncline.errors import SynclineError
from syncline.kinds.tokens.listing import Listings
from syncline.telemetry import logger

_AT_ONCE: Final = 8  # lists read at a time


class Lister(Protocol):
    """A cluster, as far as a scrape needs it."""

    def instances(self, source: Source) -> tuple[Instance, ...]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """One source of a sync, and the cluster it is in."""

    cluster: Lister
    source: Source


@dataclass(frozen=True, slots=True)
class Scraped:
    """What a scrape came to for one sync: how many instances it has, or the code of its failure."""

    sync: str
    instances: int = 0
    serving: int = 0
    failed: str | None = None


class Scraper:
    """``places`` gives each sync's sources, or raises why they cannot be had. ``clock`` gives Unix seconds."""

    def __init__(self, listings: Listings, clock: Callable[[], float]) -> None:
        self._listings = listings
        self._clock = clock

    def scrape(self, syncs: Mapping[str, Callable[[], Iterable[Place]]]) -> list[Scraped]:
        """List every sync; one that fails does not keep another from being listed."""
        if not syncs:
            return []
        with ThreadPoolExecutor(min(_AT_ONCE, len(syncs)), "scrape") as pool:
            return list(pool.map(self._one, syncs, syncs.values()))

    def _one(self, sync: str, places: Callable[[], Iterable[Place]]) -> Scraped:
        seen = self._clock()  # before the first page: the list is as old as its oldest part
        try:
            # All or nothing: without one of its sources a list would make agreement of a part look like that of all.
            found = distinct(one for place in places() for one in place.cluster.instances(place.source))
        except SynclineError as error:
            logger.error("instances not listed", extra={"sync": sync, "code": error.code.name, "why": error.what})
            self._listings.not_listed(sync, error.code.name)
            return Scraped(sync, failed=error.code.name)
        self._listings.listed(sync, found, seen)
        serving = sum(instance.serves for instance in found)
        logger.info("instances listed", extra={"sync": sync, "instances": len(found), "serving": serving})
        return Scraped(sync, len(found), serving)
