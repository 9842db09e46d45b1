"""Retries of the HTTP client: throttling, failures of servers, and deadlines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from tests.rig.server import Reply, ScriptedServer, errors_reply
from tests.standins.made_up import Naps
from tests.unit.clients.http_requests import OK, failed


def test_a_429_without_a_time_waits_longer_each_time(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429), Reply(429), OK)
    assert http.request("GET", f"{server.url}/a").body == b"fine"
    assert naps.slept == [0.25, 0.5]


def test_a_429_waits_for_the_time_of_the_server(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429, headers={"Retry-After": "7"}), OK)
    assert http.request("GET", f"{server.url}/a").status == 200
    assert sum(naps.slept) == 7.0


def test_a_429_with_a_past_date_is_retried_at_once(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429, headers={"Retry-After": formatdate(0, usegmt=True)}), OK)
    assert http.request("GET", f"{server.url}/a").status == 200
    assert naps.slept == []


def test_a_pause_beyond_the_limit_is_left_to_the_caller(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429, headers={"Retry-After": "3000"}))
    error = failed(http, "GET", f"{server.url}/a")
    assert (error.code.name, error.retry_after, naps.slept) == ("THROTTLED", 3000.0, [])
    # The next request of any thread is not sent.
    error = failed(http, "GET", f"{server.url}/b")
    assert error.code.name == "THROTTLED"
    assert error.retry_after is not None
    assert error.retry_after > 2990
    assert len(server.requests) == 1


LIMITS = ["primary 403", "primary 429", "secondary 403"]


def limited(limit: str, seconds: int) -> Reply:
    """Return GitHub's response to too many requests. A primary limit contains the Unix time of its end."""
    name, status = limit.split()
    if name == "secondary":
        return Reply(int(status), headers={"Retry-After": str(seconds)})
    reset = str(int(time.time()) + seconds)
    return Reply(int(status), headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_end_of_a_rate_limit_is_awaited(
    server: ScriptedServer, http: Http, naps: Naps, limit: str, method: str
) -> None:
    server.on(method, "/a", limited(limit, 5), OK)
    assert http.request(method, f"{server.url}/a").body == b"fine"
    assert 4 < sum(naps.slept) < 7


@pytest.mark.parametrize("limit", LIMITS)
def test_a_long_wait_is_reported_with_its_end(server: ScriptedServer, http: Http, naps: Naps, limit: str) -> None:
    server.on("GET", "/a", limited(limit, 600))
    for path in ("/a", "/b"):
        before = time.time()
        error = failed(http, "GET", f"{server.url}{path}")
        ends = {time.strftime("until %H:%M:%S UTC", time.gmtime(before + after)) for after in range(590, 610)}
        assert error.code.name == ("THROTTLED" if limit.startswith("secondary") else "LIMIT_REACHED")
        assert any(end in error.what for end in ends), error.what
    assert len(server.requests) == 1
    assert naps.slept == []


@pytest.mark.parametrize("headers", [{}, {"X-RateLimit-Remaining": "4000", "X-RateLimit-Reset": "1795971258"}])
def test_a_403_without_a_limit_is_returned_at_once(
    server: ScriptedServer, http: Http, naps: Naps, headers: dict[str, str]
) -> None:
    server.on("GET", "/a", Reply(403, headers=headers))
    answer = http.request("GET", f"{server.url}/a")
    assert (answer.status, answer.error().code.name, naps.slept) == (403, "FORBIDDEN", [])


def test_after_a_429_requests_keep_a_shrinking_interval(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429, headers={"Retry-After": "0"}), OK)
    for _ in range(40):
        http.request("GET", f"{server.url}/a")
    gaps = naps.slept
    assert max(gaps) == 0.05
    assert gaps == sorted(gaps, reverse=True)
    assert len(gaps) < 20, "the interval ends"


def test_the_last_429_is_raised(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", errors_reply(429, "TOOMANYREQUESTS"))
    error = failed(http, "GET", f"{server.url}/a")
    assert error.code.name == "THROTTLED"
    assert "said TOOMANYREQUESTS" in error.what
    assert len(server.requests) == 4


def test_a_500_is_retried_with_growing_pauses(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(500), Reply(503), OK)
    assert http.request("GET", f"{server.url}/a").status == 200
    assert naps.slept == [0.25, 0.5]
    assert http.requests_made == 3


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_raised_after_the_last_attempt(server: ScriptedServer, http: Http, status: int) -> None:
    server.on("GET", "/a", Reply(status))
    assert failed(http, "GET", f"{server.url}/a").code.name == "SERVER_ERROR"
    assert len(server.requests) == 4


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_a_501_is_a_refusal_and_is_not_retried(server: ScriptedServer, http: Http, naps: Naps, method: str) -> None:
    server.on(method, "/a", Reply(501, b"<Error><Code>NotImplemented</Code><Message>A header</Message></Error>"), OK)
    answer = http.request(method, f"{server.url}/a", body=None if method == "GET" else b"x", repeatable=True)
    assert answer.status == 501
    assert (len(server.requests), naps.slept) == (1, [])
    assert answer.error().code.name == "REFUSED"
    assert answer.error().what == f"{method} {server.url}/a answered 501: NotImplemented: A header"


def test_a_connection_closed_without_a_response_is_retried(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(drop=True), Reply(200, b"short", length=100), OK)
    assert http.request("GET", f"{server.url}/a").body == b"fine"


def test_there_are_no_retries_beyond_the_deadline(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(500))
    failed(http, "GET", f"{server.url}/a", retry=naps.policy(attempts=100, within=2.0))
    assert naps.slept == [0.25, 0.5, 1.0]
    http.policy = naps.policy(within=0.1)
    failed(http, "GET", f"{server.url}/a")
    assert naps.slept == [0.25, 0.5, 1.0]


def test_after_the_deadline_nothing_is_sent(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", OK)
    http.policy = naps.policy()
    http.set_deadline(5.0)
    assert http.request("GET", f"{server.url}/a").status == 200
    naps.now += 5.0
    assert failed(http, "GET", f"{server.url}/a").code.name == "TIME_SHORT"
    assert len(server.requests) == 1
    http.set_deadline(5.0)
    assert http.request("GET", f"{server.url}/a").status == 200


@pytest.mark.parametrize("body", [None, b"x", [b"one", b"two"]])
def test_a_request_is_not_awaited_beyond_the_deadline(server: ScriptedServer, body: bytes | list[bytes] | None) -> None:
    """This includes a deadline that approaches while a body is sent."""
    now = [1000.0]

    def chunks() -> Iterator[bytes]:
        for chunk in body or ():
            now[0] += 30.0
            yield bytes(chunk)

    http = Http(RetryPolicy(clock=lambda: now[0]))
    http.set_deadline(60.05 if isinstance(body, list) else 0.05)
    server.on("PUT", "/a", Reply(201, delay=1.0))
    error = failed(http, "PUT", f"{server.url}/a", body=chunks() if isinstance(body, list) else body, timeout=60.0)
    assert error.code.name == "TIME_SHORT"


def test_a_request_ended_by_the_deadline_is_time_short(server: ScriptedServer) -> None:
    http = Http()
    http.set_deadline(0.05)
    server.on("GET", "/a", Reply(200, delay=1.0))
    assert failed(http, "GET", f"{server.url}/a").code.name == "TIME_SHORT"
