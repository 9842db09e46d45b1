"""The server of the container, with clients that are slow, disconnect, or send invalid HTTP."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import pytest

from syncline.web.contract import PATH
from syncline.web.function_url import HttpRequest, HttpResponse
from syncline.web.server import LARGEST_HEAD, Server

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


HEAD: Final = b"GET /v1/synced HTTP/1.1\r\n"


class SlowApi:
    """An API that answers after `released` is set. It records requests and cancellations."""

    def __init__(self) -> None:
        self.body = b"{}"
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.released = asyncio.Event()

    async def answer(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(f"{request.method} {request.path}")
        self.headers.append(dict(request.headers))
        self.started.set()
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return HttpResponse(200, self.body, {"content-type": "application/json"})


def run_with_server(
    play: Callable[[Server, SlowApi, Callable[[], Coroutine[Any, Any, Streams]]], Coroutine[Any, Any, None]],
    head_timeout: float = 15,
) -> None:
    """Run `play` with a server that waits `head_timeout` seconds for a head."""
    errors: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        api = SlowApi()
        server = Server(api.answer, head_timeout=head_timeout)
        port = await server.start("127.0.0.1", 0)
        await asyncio.wait_for(play(server, api, lambda: asyncio.open_connection("127.0.0.1", port)), 20)
        await server.stop(0)

    asyncio.run(run())
    assert errors == []


async def _ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def test_an_incomplete_head_times_out() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        for sent in (b"", b"GET /v1/synced HTTP/1.1\r\nX-Auth-Tok"):
            reader, writer = await connect()
            writer.write(sent)
            assert await reader.read() == b""
            await _ended(writer)
        assert api.requests == []

    run_with_server(play, head_timeout=0.1)


def test_single_bytes_do_not_extend_the_timeout() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        reader, writer = await connect()
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            writer.write(b"G")
            await asyncio.sleep(0.02)
        with suppress(ConnectionResetError):  # the kernel's answer to a byte that came after the end
            assert ended.result() == b""
        assert api.requests == []
        writer.transport.abort()

    run_with_server(play, head_timeout=0.1)


def test_a_body_is_discarded_and_the_next_request_answered() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        api.released.set()
        reader, writer = await connect()
        writer.write(b"GET /one HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")
        writer.write(b"56789GET /two HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 2
        assert api.requests == ["GET /one", "GET /two"]
        await _ended(writer)

    run_with_server(play)


def test_the_request_of_a_disconnected_client_is_cancelled() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        _, writer = await connect()
        writer.write(b"GET /v1/synced HTTP/1.1\r\n\r\n")
        await api.started.wait()
        await _ended(writer)
        await api.cancelled.wait()

    run_with_server(play)


def test_a_reset_connection_gets_no_response() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        _, writer = await connect()
        writer.write(HEAD + b"\r\n")
        await api.started.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await api.cancelled.wait()

    run_with_server(play)


def test_stop_finishes_the_response_in_progress() -> None:
    async def play(server: Server, api: SlowApi, connect: Any) -> None:
        reader, writer = await connect()
        idle, idle_writer = await connect()
        writer.write(b"GET /v1/synced HTTP/1.1\r\n\r\n")
        await api.started.wait()
        stopping = asyncio.ensure_future(server.stop(10))
        assert await idle.read() == b""
        api.released.set()
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer
        await stopping
        await _ended(writer)
        await _ended(idle_writer)

    run_with_server(play)


def test_an_incomplete_second_head_times_out() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        api.released.set()
        reader, writer = await connect()
        writer.write(b"GET /one HTTP/1.1\r\n\r\nGET /two HTT")
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 1
        assert api.requests == ["GET /one"]
        await _ended(writer)

    run_with_server(play, head_timeout=0.1)


def test_a_client_that_does_not_read_gets_no_more_responses() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        api.body = bytes(1 << 20)
        api.released.set()
        _, writer = await connect()
        writer.transport.pause_reading()
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
        await api.started.wait()
        assert len(api.requests) < 50
        writer.transport.abort()

    run_with_server(play)


def test_a_response_in_progress_is_completed_before_the_stop() -> None:
    async def play(server: Server, api: SlowApi, connect: Any) -> None:
        api.body = bytes(1 << 24)
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await api.started.wait()
        (connection,) = server._open
        connection.writer.transport.set_write_buffer_limits(1 << 30)  # so that the task does not wait for the client
        stopping = asyncio.ensure_future(server.stop(10))
        api.released.set()
        assert len((await reader.read()).partition(b"\r\n\r\n")[2]) == len(api.body)
        await stopping
        await _ended(writer)

    run_with_server(play)


def test_headers_of_one_name_are_joined() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        api.released.set()
        reader, writer = await connect()
        writer.write(HEAD + b"X-A: 1\r\nConnection: close\r\nx-a:\t2 \r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        assert api.headers == [{"x-a": "1, 2", "connection": "close"}]
        await _ended(writer)

    run_with_server(play)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b" HTTP/1.1\r\n", True),
        (b" HTTP/1.1\r\nConnection: close\r\n", False),
        (b" HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n", True),
        (b" HTTP/1.0\r\n", False),
        (b" HTTP/1.0\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_the_connection_is_kept_as_requested(sent: bytes, kept: bool) -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        api.released.set()
        reader, writer = await connect()
        writer.write(b"GET /one" + sent + b"\r\nGET /two HTTP/1.1\r\nConnection: close\r\n\r\n")
        answers = (await reader.read()).split(b"HTTP/1.1 ")[1:]
        assert (len(answers), b"connection: close" in answers[0]) == (1 + kept, not kept)
        assert api.requests == ["GET /one", "GET /two"][: 1 + kept]
        await _ended(writer)

    run_with_server(play)


@pytest.mark.parametrize(
    ("sent", "status", "verdict"),
    [
        (b"GET /v1/synced HTTP/2.0\r\n\r\n", b"400", False),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400", False),
        (b"GET http://elsewhere/v1/synced HTTP/1.1\r\n\r\n", b"400", False),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\n\r\n", b"400", False),
        (HEAD + b"X-A: 1\r\n folded\r\nX-B: \0\r\n\r\n", b"400", True),
        (HEAD + b"X-A: 1\nX-B: 2\r\n\r\n", b"400", True),
        (HEAD + b"Content-Length: -1\r\n\r\n", b"400", True),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400", True),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411", False),
        (HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000), b"413", False),
        (HEAD + b"X-A: " + b"a" * LARGEST_HEAD + b"\r\n\r\n", b"431", True),
        (HEAD + b"X-A: " + b"a" * 10 * LARGEST_HEAD, b"431", True),
    ],
)
def test_a_refusal_is_sent_and_later_requests_are_ignored(sent: bytes, status: bytes, verdict: bool) -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        api.released.set()
        reader, writer = await connect()
        writer.write(b"GET /one HTTP/1.1\r\n\r\n" + sent + b"GET /two HTTP/1.1\r\n\r\n")
        first, second = (await reader.read()).split(b"HTTP/1.1 ")[1:]
        assert (first[:3], second[:3]) == (b"200", status)
        assert (b'"verdict":"Unknown"' in second, b"X-Token-Status: NotSynced" in second) == (verdict, verdict)
        assert api.requests == ["GET /one"]
        await _ended(writer)

    run_with_server(play)


def test_a_refusal_is_received_while_a_body_is_being_sent() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        reader, writer = await connect()
        writer.transport.pause_reading()
        writer.transport.set_write_buffer_limits(0)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n" + bytes(10_000_000))
        await writer.drain()
        writer.transport.resume_reading()
        assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
        assert api.requests == []
        await _ended(writer)

    run_with_server(play)


def test_a_head_at_the_size_limit_is_accepted() -> None:
    async def play(_: Server, api: SlowApi, connect: Any) -> None:
        api.released.set()
        reader, writer = await connect()
        start = b"GET " + PATH.encode() + b" HTTP/1.1\r\nConnection: close\r\nX-A: "
        writer.write(start + b"a" * (LARGEST_HEAD - len(start)) + b"\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        await _ended(writer)

    run_with_server(play)
