"""The scrape: lists the instances of every sync and stores them with the time of the request.

Each sync is listed in a separate thread and with a deadline, so that a cluster that hangs affects its sync only.
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
from syncline.kinds.tokens.listing import ListingStore
from syncline.telemetry import logger

DEADLINE: Final = 30.0
"""Seconds for all sources of one sync; less than the function `scrape` has, so that it can still store a failure."""


class InstanceLister(Protocol):
    """A cluster that lists instances."""

    def instances(self, source: InstanceSource, odd: OnInvalid) -> tuple[Instance, ...]: ...


@dataclass(frozen=True, slots=True)
class ScrapeSource:
    """One source of a sync, and the cluster it is in."""

    cluster: InstanceLister
    source: InstanceSource


@dataclass(frozen=True, slots=True)
class ScrapeResult:
    """The result of a scrape for one sync: the number of its instances, or the code of its failure."""

    sync: str
    instances: int = 0
    serving: int = 0
    failed: CodeName | None = None


class Scraper:
    """Lists syncs. ``clock`` gives Unix seconds; ``deadline`` is in seconds and for each sync."""

    def __init__(self, listings: ListingStore, clock: Callable[[], float], deadline: float = DEADLINE) -> None:
        self._listings = listings
        self._clock = clock
        self._isolated: Isolated[ScrapeResult] = Isolated("the scrape", deadline)

    def scrape(self, syncs: Mapping[str, Callable[[], Iterable[ScrapeSource]]]) -> list[ScrapeResult]:
        """List the given syncs at the same time, by functions that return their sources or raise.

        One that fails or hangs neither delays nor fails another.
        """
        results = self._isolated.run({sync: partial(self._list, sync, sources) for sync, sources in syncs.items()})
        return [
            self._not_listed(sync, result) if isinstance(result, SynclineError) else result
            for sync, result in results.items()
        ]

    def _not_listed(self, sync: str, error: SynclineError) -> ScrapeResult:
        logger.error("instances not listed", extra={"sync": sync, "code": error.code.name, "why": error.what})
        self._listings.not_listed(sync, error)
        return ScrapeResult(sync, failed=error.code.name)

    def _list(self, sync: str, sources: Callable[[], Iterable[ScrapeSource]]) -> ScrapeResult:
        seen = self._clock()  # before the first page, as the list is as old as its oldest part
        # All or nothing: without one source, agreement of some instances would look like that of all.
        report = partial(_report, sync)
        found = distinct(one for source in sources() for one in source.cluster.instances(source.source, report))
        self._listings.listed(sync, found, seen)
        serving = sum(instance.serves for instance in found)
        logger.info("instances listed", extra={"sync": sync, "instances": len(found), "serving": serving})
        return ScrapeResult(sync, len(found), serving)


def _report(sync: str, odd: InvalidEntry) -> None:
    """Log an invalid entry of a list, whose instance cannot be asked."""
    extra = {"sync": sync, "code": odd.error.code.name, "why": odd.error.what}
    logger.error("an instance cannot be asked: its entry in the list is invalid", extra=extra)
