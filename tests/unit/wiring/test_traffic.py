"""Requests are counted by system and status from the client to the totals of a sync."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Final

import pytest

from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.model import NO_TRAFFIC, Traffic
from syncline.wiring.syncs import _system_of, _systems_of
from tests.standins.nginx import free_ports

QUICK = RetryPolicy(attempts=2, sleep=lambda _: None)


class _Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path names; /slow-down as Amazon S3 does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        slow = self.path == "/slow-down"
        body = b"<Error><Code>SlowDown</Code></Error>" if slow else b""
        self.send_response(503 if slow else int(self.path.strip("/")))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


def test_responses_are_counted_by_class(server: str) -> None:
    http = Http(QUICK)
    for status in (200, 204, 404, 401, 301):
        http.request("GET", f"http://{server}/{status}")
    assert http.take_traffic() == {(server, "2xx"): 2, (server, "4xx"): 2, (server, "3xx"): 1}
    assert not http.take_traffic(), "a request is counted once"


@pytest.mark.parametrize(("path", "status"), [("429", "429"), ("slow-down", "5xx")])
def test_responses_that_ask_to_slow_down_are_counted_apart(server: str, path: str, status: str) -> None:
    http = Http(QUICK)
    with pytest.raises(SynclineError):
        http.request("GET", f"http://{server}/{path}")
    counted = http.take_traffic()
    assert (counted[server, status], counted[server, "throttled"]) == (2, 2)


def test_the_time_for_which_requests_are_held_back_is_counted(server: str) -> None:
    http = Http(RetryPolicy(attempts=2, base=0.5, chance=lambda: 1.0, sleep=lambda _: None))
    with pytest.raises(SynclineError):
        http.request("GET", f"http://{server}/429")
    assert 400 <= http.take_traffic()[server, "waited"] <= 500


def test_an_unavailable_server_is_not_throttling(server: str) -> None:
    http = Http(QUICK)
    with pytest.raises(SynclineError):
        http.request("GET", f"http://{server}/503")
    assert http.take_traffic() == {(server, "5xx"): 2}


def test_a_request_without_a_response_is_an_error() -> None:
    host = f"127.0.0.1:{free_ports(1)[0]}"
    http = Http(QUICK)
    with pytest.raises(SynclineError):
        http.request("GET", f"http://{host}/")
    assert http.take_traffic() == {(host, "error"): 2}


IMAGES: Final = {
    "name": "dr",
    "kind": "images",
    "source": {
        "registry": "quay.example:8443",
        "organizations": ["team"],
        "api": {"kind": "quay", "url": "https://api.example", "token": "env:T"},
    },
    "target": {"registry": "dr.example"},
}
FILES: Final = {
    "name": "files",
    "kind": "files",
    "source": {"bucket": "incoming", "region": "eu-central-1"},
    "target": {"bucket": "outgoing", "region": "eu-central-1"},
}


def test_systems_are_named_by_their_role() -> None:
    systems = _systems_of(load_sync(json.dumps(IMAGES)))
    assert systems == {"quay.example:8443": "source", "api.example": "source", "dr.example": "target"}
    assert _system_of("cdn.example", systems) == "other"


def test_buckets_in_host_names_belong_to_their_service() -> None:
    systems = _systems_of(load_sync(json.dumps(FILES)))
    assert systems == {"s3.eu-central-1.amazonaws.com": "both"}
    assert _system_of("incoming.s3.eu-central-1.amazonaws.com", systems) == "both"


def test_counters_of_traffic_are_read_among_others() -> None:
    traffic = Traffic({("source", "2xx"): 3, ("target", "waited"): 0, ("other", "error"): 1})
    assert traffic.counters == {"traffic_source_2xx": 3, "traffic_other_error": 1}
    read = Traffic.from_counters(traffic.counters | {"lag3": 1, "bytes": 9})
    assert Traffic.total([read, read, NO_TRAFFIC]).counts == {("source", "2xx"): 6, ("other", "error"): 2}
