"""Quotas in response headers: requests slow down before nothing is left, and then wait with a clear message."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.http.addresses import Route
from syncline.clients.http.client import Http
from syncline.clients.http.quotas import ASK_AGAIN, Quota, quotas_in
from syncline.clients.http.transfer import Headers
from tests.rig.server import Reply, ScriptedServer
from tests.standins.made_up import Naps
from tests.unit.clients.http_requests import failed

NAMES = [
    f"{prefix}{name}" for prefix in ("RateLimit-", "X-RateLimit-") for name in ("Limit", "Remaining", "Reset", "Policy")
] + ["RateLimit"]
NOW = 1_800_000_000.0
PULL = "/v2/library/redis/manifests/7"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}, [Quota(76, 100, None, 21600)]),
        (
            {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000059"},
            [Quota(0, 5000, 60)],
        ),
        (
            {"ratelimit-limit": "2000", "ratelimit-remaining": "12", "ratelimit-reset": "1800000029"},
            [Quota(12, 2000, 30)],
        ),
        ({"ratelimit-limit": "10", "ratelimit-remaining": "9", "ratelimit-reset": "50"}, [Quota(9, 10, 50)]),
        (
            {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "9", "ratelimit-reset": "7"},
            [Quota(9, 100, 7, 60)],
        ),
        ({"ratelimit": "limit=100, remaining=50, reset=5"}, [Quota(50, 100, 5)]),
        ({"ratelimit": "limit=100, remaining=50, reset=5", "ratelimit-policy": "100;w=60"}, [Quota(50, 100, 5, 60)]),
        (
            {"ratelimit": '"b";r=1;t=2, "d";r=40;t=9', "ratelimit-policy": '"b";q=10;w=10,"d";q=50;w=3600'},
            [Quota(1, 10, 2, 10), Quota(40, 50, 9, 3600)],
        ),
        ({"ratelimit": '"default";r=3'}, [Quota(3)]),
        ({"x-ratelimit-remaining": "many", "ratelimit": "?!", "ratelimit-limit": "-1"}, []),
        ({"date": "today"}, []),
    ],
)
def test_the_headers_of_all_servers_are_read(headers: dict[str, str], expected: list[Quota]) -> None:
    assert list(quotas_in(Headers(list(headers.items())), NOW)) == expected


@given(st.dictionaries(st.sampled_from(NAMES), st.text('0123456789;,=wqrtlimeanxgs"- \u00b2.', max_size=30)))
def test_any_headers_are_read_without_an_error(headers: dict[str, str]) -> None:
    for quota in quotas_in(Headers([(name.lower(), value) for name, value in headers.items()]), NOW):
        assert quota.remaining >= 0


def docker_hub(left: int, status: int = 200) -> Reply:
    headers = {
        "RateLimit-Limit": "100;w=21600",
        "RateLimit-Remaining": f"{left};w=21600",
        "Docker-RateLimit-Source": "192.0.2.1",
    }
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'
    return Reply(status, body if status == 429 else b"{}", headers)


def test_pulls_of_docker_hub_end_with_a_clear_message(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", PULL, docker_hub(0, 429))
    before = time.time()
    error = failed(http, "GET", f"{server.url}{PULL}")
    assert error.code.name == "LIMIT_REACHED"
    assert not error.counts
    assert error.retry_after == pytest.approx(ASK_AGAIN, abs=1)
    ends = [time.strftime("%H:%M:%S UTC", time.gmtime(before + ASK_AGAIN + second)) for second in range(-1, 3)]
    assert error.what in [f"waits until {end} for {server.host}: 0 of 100 pulls left" for end in ends]
    assert naps.slept == []


def test_what_docker_hub_does_not_count_is_not_held_up(server: ScriptedServer, http: Http) -> None:
    server.on("GET", PULL, docker_hub(0))
    server.on("HEAD", PULL, docker_hub(0))
    server.on("GET", "/v2/library/redis/blobs/sha256:1", Reply(200, b"layer"))
    assert http.request("GET", f"{server.url}{PULL}").status == 200  # the last one
    assert failed(http, "GET", f"{server.url}{PULL}").code.name == "LIMIT_REACHED"
    assert http.request("HEAD", f"{server.url}{PULL}").status == 200
    assert http.request("GET", f"{server.url}/v2/library/redis/blobs/sha256:1").body == b"layer"
    assert [each.method for each in server.requests] == ["GET", "HEAD", "GET"]


def test_a_head_shows_that_pulls_are_left_again(server: ScriptedServer, http: Http) -> None:
    server.on("GET", PULL, docker_hub(0), docker_hub(89))
    server.on("HEAD", PULL, docker_hub(90))
    http.request("GET", f"{server.url}{PULL}")
    failed(http, "GET", f"{server.url}{PULL}")
    http.request("HEAD", f"{server.url}{PULL}")
    assert http.request("GET", f"{server.url}{PULL}").status == 200


def test_the_last_tenth_is_spread_over_the_time_until_the_reset(server: ScriptedServer, http: Http, naps: Naps) -> None:
    replies = [
        Reply(200, b"", {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": reset})
        for left in (4, 3, 2)
        for reset in [str(int(time.time()) + 30)]
    ]
    server.on("GET", "/a", *replies)
    for _ in range(3):
        http.request("GET", f"{server.url}/a")
    assert sum(naps.slept) > 8, "two of the last four requests take their part of 30 seconds"


def test_with_much_left_nothing_waits(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(200, b"", {"RateLimit": '"default";r=40;t=60', "RateLimit-Policy": '"default";q=50'}))
    for _ in range(20):
        http.request("GET", f"{server.url}/a")
    assert naps.slept == []


def test_a_quota_ends_at_its_reset(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(200, b"", {"RateLimit": "limit=10, remaining=0, reset=60"}), Reply(200, b"fine"))
    http.request("GET", f"{server.url}/a")
    error = failed(http, "GET", f"{server.url}/a")
    assert error.retry_after is not None
    naps.now += error.retry_after
    assert http.request("GET", f"{server.url}/a").body == b"fine"


def test_another_account_has_a_quota_of_its_own(server: ScriptedServer, http: Http) -> None:
    server.on("GET", PULL, docker_hub(0))
    http.request("GET", f"{server.url}{PULL}", route=Route(account="one"))
    assert http.request("GET", f"{server.url}{PULL}", route=Route(account="other")).status == 200
