"""Bodies of the HTTP client: bytes and streams, sent and received."""

from __future__ import annotations

import contextlib
import gzip
import itertools
from collections.abc import Iterator

import pytest

from syncline.clients.http.client import BODY_LIMIT, Http
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer, json_reply
from tests.unit.clients.http_requests import OK, failed


def test_a_put_of_bytes_is_retried_but_not_a_post(server: ScriptedServer, http: Http) -> None:
    for method in ("PUT", "POST"):
        server.on(method, "/a", Reply(500), Reply(201))
    assert http.request("PUT", f"{server.url}/a", body=b"x").status == 201
    assert [r.body for r in server.requests] == [b"x", b"x"]
    assert failed(http, "POST", f"{server.url}/a", body=b"x").code.name == "SERVER_ERROR"
    server.on("POST", "/a", Reply(500), Reply(201))
    assert http.request("POST", f"{server.url}/a", body=b"x", repeatable=True).status == 201
    server.on("POST", "/a", Reply(429), Reply(201))  # not carried out, so it may be retried
    assert http.request("POST", f"{server.url}/a", body=b"x").status == 201


def test_a_stream_is_sent_once_as_it_comes(server: ScriptedServer, http: Http) -> None:
    server.on("PUT", "/a", Reply(500))
    assert failed(http, "PUT", f"{server.url}/a", body=iter([b"one", b"", b"three"])).code.name == "SERVER_ERROR"
    assert [(r.body, r.chunks) for r in server.requests] == [(b"onethree", (3, 5))]
    server.on("PUT", "/b", Reply(201))
    http.request("PUT", f"{server.url}/b", {"Content-Length": "5"}, iter([b"ab", b"cde"]))
    assert server.requests[-1].body == b"abcde"
    assert server.requests[-1].chunks == ()
    http.request("PUT", f"{server.url}/b", body=iter([]))
    assert server.requests[-1].headers["transfer-encoding"] == "chunked"
    assert server.connections == 1


def test_an_error_of_a_stream_aborts_the_request(server: ScriptedServer, http: Http) -> None:
    server.on("PUT", "/a", Reply(201))
    server.on("GET", "/a", OK)

    def stream() -> Iterator[bytes]:
        yield b"some"
        raise SynclineError("DIGEST_MISMATCH", "not these bytes")

    assert failed(http, "PUT", f"{server.url}/a", body=stream()).code.name == "DIGEST_MISMATCH"
    assert http.request("GET", f"{server.url}/a").body == b"fine"
    assert [(r.body, r.whole) for r in server.wait_for("PUT", "/a")] == [(b"some", False)]


@pytest.mark.parametrize("reply", [Reply(413, read=10), Reply(401, read=0)])
def test_an_early_refusal_of_a_stream_is_read(server: ScriptedServer, http: Http, reply: Reply) -> None:
    server.on("PUT", "/a", reply)
    taken = itertools.count()
    large = (bytes(1 << 20) for _ in range(1000) if next(taken) >= 0)
    with contextlib.suppress(SynclineError):  # the reset may arrive before the response
        assert http.request("PUT", f"{server.url}/a", body=large).status == reply.status
    assert next(taken) < 100, "the rest was not sent"


def test_an_early_success_is_an_error(server: ScriptedServer, http: Http) -> None:
    server.on("PUT", "/a", Reply(201, read=10))
    endless = (bytes(1 << 20) for _ in range(1000))
    assert failed(http, "PUT", f"{server.url}/a", body=endless).code.name in ("BAD_ANSWER", "UNREACHABLE")


def test_a_body_has_a_limit(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/large", Reply(200, bytes(BODY_LIMIT + 1)))
    server.on("GET", "/fits", Reply(200, bytes(BODY_LIMIT)))
    bomb = gzip.compress(bytes(BODY_LIMIT + 1))
    server.on("GET", "/bomb", Reply(200, bomb, {"Content-Encoding": "gzip"}))
    assert len(http.request("GET", f"{server.url}/fits").body) == BODY_LIMIT
    for path in ("/large", "/bomb"):
        error = failed(http, "GET", server.url + path, retry=http.policy)
        assert error.code.name == "BAD_ANSWER"
        assert "larger than" in error.what


def test_bodies_with_every_framing_are_read(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/chunked", Reply(200, b"abc", chunked=True))
    server.on("GET", "/gzip", Reply(200, gzip.compress(b"abc"), {"Content-Encoding": "gzip"}))
    server.on("GET", "/close", Reply(200, b"abc", close=True))
    for path in ("/chunked", "/gzip", "/close"):
        assert http.request("GET", server.url + path).body == b"abc"
    server.on("GET", "/wrong", Reply(200, b"abc", {"Content-Encoding": "gzip"}))
    assert failed(http, "GET", f"{server.url}/wrong").code.name == "BAD_ANSWER"


def test_invalid_json_is_reported(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(200, b"<html>"), json_reply({"a": 1}))
    with pytest.raises(SynclineError, match="not JSON"):
        http.request("GET", f"{server.url}/a").json()
    assert http.request("GET", f"{server.url}/a").json() == {"a": 1}


def test_a_stream_is_read_in_pieces_and_its_connection_kept(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(200, b"abcdefg"))
    for _ in range(2):
        with http.request("GET", f"{server.url}/a", stream=True) as answer:
            assert [answer.read(3), answer.read(3), answer.read(3), answer.read(3)] == [b"abc", b"def", b"g", b""]
    assert server.connections == 1
    server.on("GET", "/large", Reply(200, bytes(BODY_LIMIT)))
    with http.request("GET", f"{server.url}/large", stream=True) as answer:
        answer.read(1)
    http.request("GET", f"{server.url}/a")
    assert server.connections == 2, "a partly read stream closes its connection"


@pytest.mark.parametrize("chunked", [True, False])
def test_a_stream_cut_short_is_unreachable(server: ScriptedServer, http: Http, chunked: bool) -> None:
    server.on("GET", "/a", Reply(200, b"abc", length=100, chunked=chunked))
    with http.request("GET", f"{server.url}/a", stream=True) as answer:
        assert answer.read(2) == b"ab"
        with pytest.raises(SynclineError) as caught:
            list(iter(lambda: answer.read(2), b""))
    assert caught.value.code.name == "UNREACHABLE"
