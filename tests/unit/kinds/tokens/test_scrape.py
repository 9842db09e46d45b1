"""Scrapes of several syncs: a hanging or failing one does not affect the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Final, cast

import pytest

from syncline.clients.http.listings import OnInvalid
from syncline.clients.replicas.instances import Instance
from syncline.errors import CodeName, SynclineError
from syncline.kinds.tokens import wiring_scrape
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.listing import ProcessListings
from syncline.kinds.tokens.metrics import PrometheusMetrics
from syncline.kinds.tokens.wiring_scrape import ScrapeResult, Scraping
from syncline.secrets import Secrets

ONE: Final = Instance("one", "10.0.0.1", 8443)
SHORT: Final = 0.2  # seconds


class Lists:
    """A cluster that lists at once, lists after `gate` opens, or raises an error."""

    def __init__(
        self, *listed: Instance, gate: threading.Event | None = None, error: BaseException | None = None
    ) -> None:
        self.calls = 0
        self._listed = listed
        self._gate = gate
        self._error = error

    def instances(self, _odd: OnInvalid) -> tuple[Instance, ...]:
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


class Scraper(Scraping):
    """A scrape of the clusters given for each sync."""

    def __init__(self, listings: ProcessListings, clusters: Mapping[str, Sequence[Lists]]) -> None:
        syncs = {name: cast("TokensSync", SimpleNamespace(name=name)) for name in clusters}
        super().__init__(lambda: syncs, listings, cast("Secrets", None), time.time, PrometheusMetrics())
        self._clusters = clusters

    def _sources(self, sync: TokensSync) -> Iterable[Callable[[OnInvalid], tuple[Instance, ...]]]:
        return [cluster.instances for cluster in self._clusters[sync.name]]


def _wait_until_listed(listings: ProcessListings, sync: str) -> None:
    end = time.monotonic() + 5
    while (listing := listings.all().get(sync)) is None or listing.instances != (ONE,):
        assert time.monotonic() < end, f"{sync} is not listed"
        time.sleep(0.01)


def test_hanging_syncs_do_not_delay_others(gate: threading.Event) -> None:
    listings = ProcessListings()
    clusters = {f"hangs-{number:02d}": [Lists(gate=gate)] for number in range(20)} | {"healthy": [Lists(ONE)]}
    threading.Thread(target=Scraper(listings, clusters).scrape, daemon=True).start()
    _wait_until_listed(listings, "healthy")


def test_hanging_sync_fails_at_its_deadline_and_is_not_started_twice(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring_scrape, "DEADLINE", SHORT)
    listings = ProcessListings()
    hangs, healthy = Lists(ONE, gate=gate), Lists(ONE)
    scraper = Scraper(listings, {"hangs": [hangs], "healthy": [healthy]})
    for _ in range(2):
        assert scraper.scrape() == [
            ScrapeResult("hangs", failed="UNREACHABLE"),
            ScrapeResult("healthy", 1, 1),
        ]
        assert listings.all()["hangs"].failed == "UNREACHABLE"
    assert (hangs.calls, healthy.calls) == (1, 2)
    gate.set()
    _wait_until_listed(listings, "hangs")
    assert scraper.scrape()[0] == ScrapeResult("hangs", 1, 1)
    assert listings.all()["hangs"].failed is None


@pytest.mark.parametrize(
    ("error", "code"), [(SynclineError("FORBIDDEN", "no"), "FORBIDDEN"), (RuntimeError("defect"), "INTERNAL")]
)
def test_failing_sync_does_not_affect_others(error: Exception, code: CodeName) -> None:
    listings = ProcessListings()
    found = Scraper(listings, {"breaks": [Lists(error=error)], "healthy": [Lists(ONE)]}).scrape()
    assert found == [ScrapeResult("breaks", failed=code), ScrapeResult("healthy", 1, 1)]
    assert listings.all()["breaks"].failed == code


def test_instance_in_two_sources_serves_if_it_serves_in_either() -> None:
    listings = ProcessListings()
    starting = Lists(Instance("one", "10.0.0.1", 8443, ready=False))
    found = Scraper(listings, {"both": [Lists(ONE), starting]}).scrape()
    assert found == [ScrapeResult("both", 1, 1)]


def test_late_list_does_not_replace_a_newer_one() -> None:
    listings = ProcessListings()
    listings.listed("gateway", [ONE], 2000.0)
    listings.listed("gateway", [], 1999.0)
    assert listings.all()["gateway"].instances == (ONE,)
