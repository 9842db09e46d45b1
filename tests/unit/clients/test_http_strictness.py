"""Violations of HTTP in requests and responses are refused with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import ObjectHead
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer
from tests.standins.made_up import Naps
from tests.unit.clients.test_http_transfer import BODY, raw

OK = Reply(200, b"fine")
START = b"HTTP/1.1 200 OK\r\n"


def failed(http: Http, url: str, method: str = "GET", **options: object) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        http.request(method, url, **options)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9 cut\r\n\r\n", "not valid HTTP (Received HTTP/0.9"),
        (START + b"no field cut\r\n\r\n", "Header without colon"),
        (START + b"X y: 1\r\nContent-Length: 4\r\n\r\nfine cut", "invalid header name: 'X y'"),
        (START + b"X\r: 1\r\nContent-Length: 4\r\n\r\nfine cut", "Carriage return found in header"),
        (START + b": 1\r\nContent-Length: 4\r\n\r\nfine cut", "invalid header name: ''"),
        (START + b"X-\xe9: 1\r\nContent-Length: 4\r\n\r\nfine cut", "invalid header name: 'X-\\xe9'"),
        (START + b"X : 1\r\nContent-Length: 4\r\n\r\nfine cut", "invalid header name: 'X '"),
        (START + b"X: a\0b\r\nContent-Length: 4\r\n\r\nfine cut", "NUL byte in header"),
        (START + b"X: a\x08b\r\nContent-Length: 4\r\n\r\nfine cut", "the header field x has a control character"),
        (START + b"Content-Length: four\r\n\r\ncut", "Invalid Content-Length"),
        (START + b"Transfer-Encoding: gzip, chunked\r\n\r\ncut", "Unsolicited Transfer-Encoding (gzip)"),
        (START + b"Transfer-Encoding: chunked\r\n\r\nzz\r\ncut", "char not a hex digit: 0x7a"),
        (
            START + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfine0\r\n\r\ncut",
            "Malformed encoding found in chunked-encoding",
        ),
        (
            START + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfine4\r\nmore\r\n0\r\n\r\ncut",
            "Malformed encoding found in chunked-encoding",
        ),
        (START + b"X: " + b"y" * 110_000 + b" cut", "too long"),
        (
            START + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 20_000 + b"cut",
            "Too many response headers",
        ),
    ],
)
def test_an_invalid_response_is_refused_with_the_reason(http: Http, naps: Naps, answer: bytes, reason: str) -> None:
    with raw(answer) as server:
        error = failed(http, f"{server.url}/a", retry=naps.policy(attempts=1))
    assert error.code.name == "BAD_ANSWER"
    assert reason in error.what


@pytest.mark.parametrize(
    "fields",
    [
        b"Connection: keep-alive\r\nConnection: close\r\n",
        b"Connection: close\r\nConnection: keep-alive\r\n",
        b"Connection: keep-alive, Close\r\n",
    ],
)
def test_connection_close_is_recognized_in_every_position(http: Http, fields: bytes) -> None:
    answer = START + fields + b"Content-Length: 4\r\n\r\nfine close"
    with raw(answer, BODY) as server:
        for _ in range(2):
            assert http.request("GET", f"{server.url}/a").body == b"fine"
    assert server.connections == 2


@pytest.mark.parametrize("name", ["X\rY: 1\r\nX", "X\r", "X Y", "X:", "", "X\u00e9", "(X)", "X\0"])
def test_an_invalid_header_name_is_not_sent(server: ScriptedServer, http: Http, name: str) -> None:
    error = failed(http, f"{server.url}/a", headers={name: "value"})
    assert error.code.name == "REFUSED"
    assert repr(name) in error.what
    assert server.requests == []


def test_metadata_of_an_object_cannot_add_a_header(server: ScriptedServer, http: Http) -> None:
    bucket = Bucket(Endpoint.parse(server.url), "bucket", lambda: None, http)
    head = ObjectHead("", 4, "text/plain", metadata={"a\rx-amz-acl: public-read\r\nb": "value"})
    with pytest.raises(SynclineError, match=r"REFUSED: invalid header name for .*'x-amz-meta-a"):
        bucket.put("key", b"fine", head)
    assert server.requests == []


@pytest.mark.parametrize("chunks", [[b"ab", b"cd"], [b"abcd"], [b"ab", b"c", b"d" * 100_000], [b"abcde"]])
def test_a_stream_longer_than_announced_is_refused(server: ScriptedServer, http: Http, chunks: list[bytes]) -> None:
    server.on("PUT", "/a", Reply(201))
    server.on("GET", "/a", OK)
    error = failed(http, f"{server.url}/a", "PUT", headers={"Content-Length": "3"}, body=iter(chunks))
    assert error.code.name == "SOURCE_CHANGED"
    assert "more than the announced 3 bytes" in error.what
    assert http.request("GET", f"{server.url}/a").body == b"fine"
    assert server.connections == 2
    assert all(len(request.body) <= 3 for request in server.requests)


def test_a_stream_shorter_than_announced_is_refused(server: ScriptedServer, http: Http) -> None:
    server.on("PUT", "/a", Reply(201))
    server.on("GET", "/a", OK)

    def chunks() -> Iterator[bytes]:
        yield b"ab"

    error = failed(http, f"{server.url}/a", "PUT", headers={"Content-Length": "3"}, body=chunks())
    assert error.code.name == "SOURCE_CHANGED"
    assert "2 of the announced 3 bytes" in error.what
    assert http.request("GET", f"{server.url}/a").body == b"fine"
    assert server.connections == 2
