"""Responses of replicas: valid, invalid, truncated and late ones."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from syncline.clients.replicas.client import (
    MAX_BODY,
    MAX_HEAD,
    FailureReason,
    ReplicaResponse,
)
from tests.unit.clients.replica_server import (
    GET,
    OK,
    answering,
    ask,
    client_of_replicas,
    end,
    serving,
)

NOT_YET: Final = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
CHUNKED: Final = b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"


def test_a_request_is_sent_unchanged() -> None:
    put = b"PUT /keys/a%20b HTTP/1.1\r\nHost: gateway.example\r\nX-Empty: \r\nContent-Length: 5\r\n\r\nvalue"
    requests = [
        GET,
        put,
        b"DELETE /keys/a HTTP/1.1\r\nHost: gateway.example\r\nAccept: */*\r\n\r\n",
        b"POST /../a#b HTTP/1.1\r\nHost: gateway.example\r\nContent-Type: a/b\r\nContent-Length: 0\r\n\r\n",
        b"GET /body HTTP/1.1\r\nHost: gateway.example\r\nAccept: */*\r\nContent-Length: 5\r\n\r\nvalue",
        b"HEAD /check HTTP/1.1\r\nHost: gateway.example\r\nAccept: */*\r\n\r\n",
        GET,
    ]

    async def run() -> None:
        async with serving(answering(NOT_YET)) as server:
            with client_of_replicas() as replicas:
                for request in requests:
                    assert await ask(replicas, server.address, request) == ReplicaResponse(401)
            assert [_lines(each) for each in server.requests] == [_lines(each) for each in requests]
            assert server.connections == 1

    asyncio.run(run())


def _lines(request: bytes) -> tuple[bytes, set[bytes], bytes]:
    """Return the request line, the fields in any order and the body."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    return first, {field.rstrip() for field in fields}, body


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("data", "status", "reusable"),
    [
        (OK, 200, True),
        (CHUNKED, 401, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, True),
        (b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n", 302, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 200, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", 200, True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 200, True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, True),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, True),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", 200, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nVary: Content-Length:\r\n\r\n0\r\n\r\n", 200, True),
        (OK + b"more", 200, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), 200, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 200, False),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1), 200, False),
    ],
)
def test_a_response_is_its_status_and_its_connection_is_reused_if_possible(
    data: bytes,
    status: int,
    reusable: bool,
    cut: bool,
) -> None:
    pieces = [data[:90][place : place + 1] for place in range(len(data[:90]))] + [data[90:]] if cut else [data]

    async def run() -> None:
        async with serving(answering(*pieces)) as server:
            with client_of_replicas() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(status)
                await end(replicas)
                assert await ask(replicas, server.address) == ReplicaResponse(status)
                assert server.connections == (1 if reusable else 2)

    asyncio.run(run())


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x01\x00\x02",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno name: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: chunked\r\nCONTENT-LENGTH: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x01b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD + b"\r\n\r\n",
    ],
)
def test_an_invalid_response_is_garbage_and_its_connection_is_closed(data: bytes) -> None:
    async def run() -> None:
        async with serving(answering(data)) as server:
            with client_of_replicas() as replicas:
                answer = await ask(replicas, server.address)
                assert (answer.status, answer.reason) == (None, FailureReason.GARBAGE)
                assert answer.detail
                await server.until(lambda: server.open == 0)
                assert server.connections == 1

    asyncio.run(run())


def test_a_response_is_reported_with_its_head_and_its_body_is_read_later() -> None:
    async def run() -> None:
        reported = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OK[:-3])
            await reported.wait()
            writer.write(OK[-3:])

        async with serving(serve) as server:
            with client_of_replicas() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                reported.set()
                await end(replicas)
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                assert server.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", ReplicaResponse(None, FailureReason.CLOSED_UNUSED, "closed without a response")),
        (b"HTTP/1.1 20", ReplicaResponse(None, FailureReason.CLOSED_UNUSED, "closed without a response")),
        (OK[:30], ReplicaResponse(None, FailureReason.CUT_SHORT, "closed within the response")),
        (OK[:-1], ReplicaResponse(200)),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", ReplicaResponse(200)),
    ],
)
def test_a_truncated_response_is_reported(data: bytes, answer: ReplicaResponse) -> None:
    async def run() -> None:
        async with serving(answering(data, close=True)) as server:
            with client_of_replicas() as replicas:
                assert await ask(replicas, server.address) == answer

    asyncio.run(run())
