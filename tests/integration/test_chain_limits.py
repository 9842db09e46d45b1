"""Runs at endpoints with limits and quotas: they wait, tell why, lose no attempt, and end well."""

from __future__ import annotations

import pytest

from syncline.steps.engine import MAX_ATTEMPTS
from syncline.store.budgets import LimitLedger
from tests.rig.images import SYNC, ImagesChain, ImagesWorld, small
from tests.standins.oci import Fault

pytestmark = pytest.mark.moto

EXHAUSTED = {
    "RateLimit-Limit": "100;w=21600",
    "RateLimit-Remaining": "0;w=21600",
    "Docker-RateLimit-Source": "192.0.2.1",
}
BODY = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    return registries.chain()


def limited(chain: ImagesChain, **limits: object) -> None:
    source = {"registry": chain.source.host, "plain_http": True, "catalog": True, "limits": limits}
    small(chain, source=source)


def rows(chain: ImagesChain) -> list[str]:
    """Return the keys of the rows of limits in the table."""
    return sorted(
        {f"{item['pk']!s} {item['sk']!s}" for item in chain.table.scan()["Items"] if "LIMIT#" in str(item["pk"])}
    )


def test_a_run_keeps_the_limit_over_all_functions(chain: ImagesChain) -> None:
    limited(chain, requests_per_second=5, bytes_per_second="64kB", concurrent=2)
    times: list[float] = []
    chain.source.before = lambda _method, _target: times.append(chain.clock.now)
    began = chain.clock.now
    chain.run()
    chain.check()
    chain.source.before = lambda _method, _target: None
    assert len(chain.https) > 1, "several processes take part"
    for at in times:
        assert len([each for each in times if at <= each < at + 2]) <= 5 * 2 + 5
    assert chain.clock.now - began >= len(times) / 5 - 2
    host = chain.source.host
    assert rows(chain) == [
        f"LIMIT#{host}#bytes:64000 WINDOW",
        f"LIMIT#{host}#concurrent:2 SLOTS",
        f"LIMIT#{host}#requests:5 WINDOW",
    ]
    (slots,) = [item for item in chain.table.scan()["Items"] if item["sk"] == "SLOTS"]
    assert slots["holders"] == {}, "each step has returned its slots"


def test_without_limits_the_table_is_not_called_for_them(chain: ImagesChain) -> None:
    small(chain)
    chain.run()
    chain.check()
    assert rows(chain) == []


def test_a_used_up_quota_is_waited_for_without_losing_an_attempt(chain: ImagesChain) -> None:
    """Docker Hub's pulls are used up for longer than all attempts of an item together would take."""
    assert MAX_ATTEMPTS * 900 < 2 * 3600
    small(chain)
    hours = 2  # an item is given up after five attempts, which take at most 15 minutes each
    chain.source.fault("GET", "/manifests/", Fault(429, EXHAUSTED, BODY), times=None)
    began = chain.clock.now
    notes: list[str] = []

    def heal(_method: str, _target: str) -> None:
        if (waiting := chain.latest().waiting) is not None:
            notes.append(waiting.what)
        if chain.clock.now - began > hours * 3600:
            chain.source.heal()

    chain.source.before = heal
    chain.run()
    chain.source.before = lambda _method, _target: None
    chain.check()
    assert chain.clock.now - began > hours * 3600
    assert any("0 of 100 pulls left" in each and f"for {chain.source.host}" in each for each in notes)
    heads = [each for each in chain.source.asked("HEAD", "/manifests/") if each.status == 200]
    assert heads, "what the quota does not count goes on"
    # Every fifteen minutes a function of each group asks again, and no more.
    refused = [each for each in chain.source.asked("GET", "/manifests/") if each.status == 429]
    assert len(refused) <= hours * 4 * 20


def test_a_scan_that_others_keep_from_its_limit_goes_on_later(chain: ImagesChain) -> None:
    limited(chain, concurrent=2)
    ledger = LimitLedger(chain.database, chain.clock.time)
    name = f"{chain.source.host}#concurrent:2"
    began = chain.clock.now
    ledger.slots(name, "another function", 2, 2, 2)

    def hold() -> None:
        if chain.clock.now - began < 300:
            ledger.slots(name, "another function", 2, 2, 2)
        else:
            ledger.slots(name, "another function", 0, 0, 2)

    sleep = chain.clock.sleep

    def sleep_and_hold(seconds: float) -> None:
        sleep(seconds)
        hold()

    chain.clock.sleep = sleep_and_hold  # type: ignore[method-assign]
    chain.run()
    chain.check()
    assert chain.clock.now - began > 300
    assert chain.state.runs(SYNC, 5)
