"""The peer of ``tokens``: an asyncio client that sends the same requests and only waits for status 200."""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypeVar

from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens.ask import AskSchedule
from tests.standins.nginx import HOST

T = TypeVar("T")


class PlainClient:
    """A client with one connection per instance. It asks all instances concurrently and repeats requests after 401."""

    def __init__(self, instances: Sequence[Instance], tls: ssl.SSLContext, schedule: AskSchedule) -> None:
        self._instances = instances
        self._tls = tls
        self._schedule = schedule
        self._random = random.Random(11)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._streams = self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def ask(self, token: str) -> None:
        """Return when every instance has answered 200."""
        self._run(self._ask_all(token))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return [
            await asyncio.open_connection(each.address, each.port, ssl=self._tls, server_hostname=HOST)
            for each in self._instances
        ]

    async def _close(self) -> None:
        for _, writer in self._streams:
            writer.close()

    async def _ask_all(self, token: str) -> None:
        request = f"GET /check HTTP/1.1\r\nHost: {HOST}\r\nCookie: auth_token={token}\r\n\r\n".encode()
        await asyncio.gather(*(self._ask(reader, writer, request) for reader, writer in self._streams))

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        began, attempt = self._loop.time(), 0
        while True:
            attempt += 1
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await _body(reader, head)
            if head.startswith(b"HTTP/1.1 200"):
                return
            delay = self._schedule.delay(attempt, self._loop.time() - began, self._random.random(), len(self._streams))
            assert delay is not None
            await asyncio.sleep(delay)


async def _body(reader: asyncio.StreamReader, head: bytes) -> None:
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        while (size := int(await reader.readline(), 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readline()
        return
    start = lower.find(b"content-length:") + 15
    await reader.readexactly(int(lower[start : lower.index(b"\r\n", start)]))
