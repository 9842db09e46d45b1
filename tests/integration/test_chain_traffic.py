"""A run counts the requests to its systems exactly once, with the batches that made them."""

from __future__ import annotations

import pytest

from syncline.model import Lags, Traffic
from tests.rig.images import SYNC, ImagesChain, ImagesWorld, small
from tests.rig.totals import read_totals
from tests.standins.oci import throttled

pytestmark = pytest.mark.moto


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    chain = registries.chain()
    chain.configure()
    return chain


def by_system(traffic: Traffic) -> dict[str, int]:
    """Return the number of responses of each system."""
    found: dict[str, int] = {}
    for (system, what), count in traffic.counts.items():
        if what not in ("throttled", "waited"):
            found[system] = found.get(system, 0) + count
    return found


def test_the_totals_have_every_request_of_a_run(chain: ImagesChain) -> None:
    small(chain)
    run = chain.run()
    chain.check()
    traffic = read_totals(chain.database, SYNC).traffic
    assert by_system(traffic) == {"source": len(chain.source.requests), "target": len(chain.target.requests)}
    assert traffic.counts["target", "4xx"] > 0, "blobs that the target does not have"
    assert chain.state.run(SYNC, run.id).traffic == traffic


def test_throttled_requests_are_counted(chain: ImagesChain) -> None:
    small(chain)
    chain.target.fault("PUT", "/manifests/", throttled(0), times=2)
    chain.run()
    chain.check()
    traffic = read_totals(chain.database, SYNC).traffic
    assert traffic.counts["target", "429"] == traffic.counts["target", "throttled"] == 2


def test_totals_grow_with_each_run(chain: ImagesChain) -> None:
    small(chain)
    chain.run()
    before = read_totals(chain.database, SYNC).traffic
    chain.source.requests.clear()
    chain.run()
    after = read_totals(chain.database, SYNC).traffic
    assert by_system(after)["source"] == by_system(before)["source"] + len(chain.source.requests)


def test_an_earlier_version_reads_the_row_of_lags(chain: ImagesChain) -> None:
    """It reads the counters of lags alone, by their names."""
    small(chain)
    run = chain.run()
    rows = [
        item
        for shard in range(8)
        for item in chain.database.query(f"RUN#{run.id}#{shard}", "LAGS")
        if Traffic.from_counters(item).counts
    ]
    assert rows
    assert Lags.total(map(Lags.from_counters, rows)).count <= run.counts.moved
