"""Scrapes of several syncs, of which some hang or break: one never delays or fails another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

import pytest

from syncline.clients.http.listings import OnInvalid
from syncline.clients.kubernetes.client import InstanceSource, ServiceSource
from syncline.clients.replicas.instances import Instance
from syncline.errors import CodeName, SynclineError
from syncline.kinds.tokens.listing import ProcessListings
from syncline.kinds.tokens.scrape import Scraper, ScrapeResult, ScrapeSource

ONE: Final = Instance("one", "10.0.0.1", 8443)
SOURCE: Final = ServiceSource("gateway", "nginx")
SHORT: Final = 0.2  # seconds


class Lists:
    """A cluster that lists at once, after `gate` opens, or raises."""

    def __init__(
        self, *listed: Instance, gate: threading.Event | None = None, error: BaseException | None = None
    ) -> None:
        self.calls = 0
        self._listed = listed
        self._gate = gate
        self._error = error

    def instances(self, _: InstanceSource, _odd: OnInvalid) -> tuple[Instance, ...]:
        self.calls += 1
        if self._gate is not None:
            assert self._gate.wait(60)
        if self._error is not None:
            raise self._error
        return self._listed


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def _sources(cluster: Lists) -> list[ScrapeSource]:
    return [ScrapeSource(cluster, SOURCE)]


def _scrape(scraper: Scraper, clusters: Mapping[str, Lists]) -> list[ScrapeResult]:
    return scraper.scrape({name: partial(_sources, cluster) for name, cluster in clusters.items()})


def _wait_until_listed(listings: ProcessListings, sync: str) -> None:
    end = time.monotonic() + 5
    while (listing := listings.all().get(sync)) is None or listing.instances != (ONE,):
        assert time.monotonic() < end, f"{sync} is not listed"
        time.sleep(0.01)


def test_hanging_syncs_do_not_delay_others(gate: threading.Event) -> None:
    listings = ProcessListings()
    clusters = {f"hangs-{number:02d}": Lists(gate=gate) for number in range(20)} | {"healthy": Lists(ONE)}
    scraper = Scraper(listings, time.time)
    threading.Thread(target=_scrape, args=(scraper, clusters), daemon=True).start()
    _wait_until_listed(listings, "healthy")


def test_hanging_sync_fails_at_its_deadline_and_is_not_started_twice(
    gate: threading.Event,
) -> None:
    listings = ProcessListings()
    scraper = Scraper(listings, time.time, SHORT)
    clusters = {"hangs": Lists(ONE, gate=gate), "healthy": Lists(ONE)}
    for _ in range(2):
        assert _scrape(scraper, clusters) == [
            ScrapeResult("hangs", failed="UNREACHABLE"),
            ScrapeResult("healthy", 1, 1),
        ]
        assert listings.all()["hangs"].failed == "UNREACHABLE"
    assert (clusters["hangs"].calls, clusters["healthy"].calls) == (1, 2)
    gate.set()
    _wait_until_listed(listings, "hangs")
    assert _scrape(scraper, clusters)[0] == ScrapeResult("hangs", 1, 1)
    assert listings.all()["hangs"].failed is None


@pytest.mark.parametrize(
    ("error", "code"), [(SynclineError("FORBIDDEN", "no"), "FORBIDDEN"), (RuntimeError("defect"), "INTERNAL")]
)
def test_failing_sync_does_not_affect_others(error: Exception, code: CodeName) -> None:
    listings = ProcessListings()
    found = _scrape(Scraper(listings, time.time), {"breaks": Lists(error=error), "healthy": Lists(ONE)})
    assert found == [ScrapeResult("breaks", failed=code), ScrapeResult("healthy", 1, 1)]
    assert listings.all()["breaks"].failed == code


def test_instance_in_two_sources_serves_if_either_says_so() -> None:
    listings = ProcessListings()
    starting = Lists(Instance("one", "10.0.0.1", 8443, ready=False))
    found = Scraper(listings, time.time).scrape(
        {"both": lambda: [ScrapeSource(Lists(ONE), SOURCE), ScrapeSource(starting, SOURCE)]}
    )
    assert found == [ScrapeResult("both", 1, 1)]


def test_late_list_does_not_replace_a_newer_one() -> None:
    listings = ProcessListings()
    listings.listed("gateway", [ONE], 2000.0)
    listings.listed("gateway", [], 1999.0)
    assert listings.all()["gateway"].instances == (ONE,)
