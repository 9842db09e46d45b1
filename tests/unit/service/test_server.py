"""The container's server with clients that are slow, impatient or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from syncline.service.api import Answer, Request
from syncline.service.server import Server

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Slow:
    """Answers once it is let; remembers what it was asked and what was given up."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.given_up = asyncio.Event()
        self.begun = asyncio.Event()
        self.let = asyncio.Event()

    async def answer(self, request: Request) -> Answer:
        self.asked.append(f"{request.method} {request.path}")
        self.begun.set()
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        return Answer(200, b"{}", {"content-type": "application/json"})


def played(
    play: Callable[[Server, Slow, Callable[[], Coroutine[Any, Any, Streams]]], Coroutine[Any, Any, None]],
) -> None:
    """Let a play run with a server whose patience is short."""

    async def all_of_it() -> None:
        api = Slow()
        server = Server(api, lambda _: None, patience=0.1)
        port = await server.start("127.0.0.1", 0)
        await asyncio.wait_for(play(server, api, lambda: asyncio.open_connection("127.0.0.1", port)), 20)
        await server.stop(0)

    asyncio.run(all_of_it())


async def _ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def test_who_sends_nothing_or_half_a_head_is_not_waited_for() -> None:
    async def play(_: Server, api: Slow, connect: Any) -> None:
        for sent in (b"", b"GET /v1/synced HTTP/1.1\r\nX-Auth-Tok"):
            reader, writer = await connect()
            writer.write(sent)
            assert await reader.read() == b""
            await _ended(writer)
        assert api.asked == []

    played(play)


def test_bytes_one_by_one_do_not_buy_time() -> None:
    async def play(_: Server, api: Slow, connect: Any) -> None:
        reader, writer = await connect()
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            writer.write(b"G")
            await asyncio.sleep(0.02)
        assert ended.result() == b""
        assert api.asked == []
        await _ended(writer)

    played(play)


def test_a_body_that_nobody_asked_for_is_dropped_and_the_next_request_answered() -> None:
    async def play(_: Server, api: Slow, connect: Any) -> None:
        api.let.set()
        reader, writer = await connect()
        writer.write(b"GET /one HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")
        writer.write(b"56789GET /two HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 2
        assert api.asked == ["GET /one", "GET /two"]
        await _ended(writer)

    played(play)


def test_who_is_gone_is_not_asked_for() -> None:
    async def play(_: Server, api: Slow, connect: Any) -> None:
        _, writer = await connect()
        writer.write(b"GET /v1/synced HTTP/1.1\r\n\r\n")
        await api.begun.wait()
        await _ended(writer)
        await api.given_up.wait()

    played(play)


def test_an_end_lets_the_answer_under_way_be_the_last() -> None:
    async def play(server: Server, api: Slow, connect: Any) -> None:
        reader, writer = await connect()
        idle, idle_writer = await connect()
        writer.write(b"GET /v1/synced HTTP/1.1\r\n\r\n")
        await api.begun.wait()
        stopping = asyncio.ensure_future(server.stop(10))
        assert await idle.read() == b""
        api.let.set()
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer
        await stopping
        await _ended(writer)
        await _ended(idle_writer)

    played(play)
