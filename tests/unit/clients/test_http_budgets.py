"""Requests of endpoints with limits: they wait their turn, and end with LIMIT_REACHED, TIME_SHORT or RUN_CANCELLED."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syncline.clients.http.addresses import Route
from syncline.clients.http.budgets import LONGEST_WAIT, Allowed, Budget, Ledger, LocalLedger
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer
from tests.standins.made_up import Naps
from tests.unit.clients.http_requests import OK, failed


def route(http: Http, ledger: Ledger | None = None, **allowed: float) -> Route:
    """Return a route whose limits are kept in ``ledger``."""
    limits = Allowed(
        allowed.get("requests"),
        int(allowed["concurrent"]) if "concurrent" in allowed else None,
        int(allowed["bytes"]) if "bytes" in allowed else None,
    )
    return Route(budget=Budget("registry.example", limits, ledger or LocalLedger(), http.policy.clock))


class FullLedger(LocalLedger):
    """A ledger of which other functions take everything."""

    def grant(self, *_: object) -> bool:
        return False

    def current(self, name: str) -> tuple[int, int] | None:  # noqa: ARG002
        return 7, 10**9

    def open(self, *_: object) -> int | None:
        return None

    def slots(self, *_: object) -> tuple[int, int, bool]:
        return 0, 1, True


def test_requests_keep_the_limit_per_second(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", OK)
    limited, began = route(http, requests=10), naps.now
    for _ in range(50):
        http.request("GET", f"{server.url}/a", route=limited)
    assert 4 <= naps.now - began <= 6
    waited = http.take_traffic()[server.host, "waited"]
    assert waited == pytest.approx((naps.now - began) * 1000, rel=0.01)


def test_bytes_of_responses_and_of_requests_keep_the_limit(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(200, b"x" * 1_000_000))
    server.on("PUT", "/a", Reply(201))
    limited, began = route(http, bytes=1_000_000), naps.now
    for _ in range(3):
        assert len(http.request("GET", f"{server.url}/a", route=limited).body) == 1_000_000
    got = naps.now - began
    assert 2 <= got <= 4
    chunks = [b"y" * 100_000] * 30
    http.request("PUT", f"{server.url}/a", {"Content-Length": "3000000"}, iter(chunks), route=limited)
    for _ in range(20):
        http.request("PUT", f"{server.url}/a", {}, b"z" * 50_000, route=limited)
    assert 3 <= naps.now - began - got <= 6


@pytest.mark.parametrize("unit", ["requests", "concurrent", "bytes"])
def test_what_others_use_up_is_left_to_the_caller(server: ScriptedServer, http: Http, naps: Naps, unit: str) -> None:
    server.on("GET", "/a", Reply(200, b"x" * 100))
    error = failed(http, "GET", f"{server.url}/a", route=route(http, FullLedger(), **{unit: 64}))
    assert error.code.name == "LIMIT_REACHED"
    assert (error.retried, error.retried_here, error.counts) == (True, False, False)
    assert error.retry_after is not None
    assert LONGEST_WAIT <= sum(naps.slept) < LONGEST_WAIT + 5
    assert "other functions use the limit of 64" in error.what


def test_waiting_ends_at_the_deadline(server: ScriptedServer, naps: Naps) -> None:
    http = Http(naps.policy(within=12))
    error = failed(http, "GET", f"{server.url}/a", route=route(http, FullLedger(), requests=5))
    assert error.code.name == "TIME_SHORT"
    assert sum(naps.slept) == pytest.approx(12, abs=0.1)
    assert server.requests == []


def test_waiting_ends_with_the_run(server: ScriptedServer, naps: Naps) -> None:
    http = Http(naps.policy())
    http.policy = replace(http.policy, halted=lambda: naps.now > 1005)
    error = failed(http, "GET", f"{server.url}/a", route=route(http, FullLedger(), concurrent=5))
    assert error.code.name == "RUN_CANCELLED"


def test_a_stream_keeps_its_slot_until_it_is_closed(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(200, b"x" * 3_000_000))
    limited = route(http, concurrent=2)
    assert limited.budget is not None
    with http.request("GET", f"{server.url}/a", route=limited, stream=True) as stream:
        assert len(limited.budget._used) == 1
        stream.read(10)
    assert len(limited.budget._used) == 0
    with http.request("GET", f"{server.url}/a", route=limited, stream=True) as stream:
        while stream.read(65_536):
            pass
        assert len(limited.budget._used) == 0


def test_a_failed_request_returns_its_slot(http: Http) -> None:
    limited = route(http, concurrent=2)
    assert limited.budget is not None
    for _ in range(5):
        with pytest.raises(SynclineError):
            http.request("GET", "http://127.0.0.1:1/a", route=limited)
    assert len(limited.budget._used) == 0


def test_a_step_that_ends_returns_its_slots(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", OK)
    budget = http.budgets.of("registry.example", Allowed(concurrent=4), http.policy.clock)
    http.request("GET", f"{server.url}/a", route=Route(budget=budget))
    assert budget._held == 1
    http.budgets.give_back()
    assert budget._held == 0


def test_an_endpoint_has_one_budget_for_the_same_limits(http: Http) -> None:
    first, again, other = (
        http.budgets.of("registry.example", Allowed(requests=limit), http.policy.clock) for limit in (5, 5, 6)
    )
    assert first is again
    assert first is not other
