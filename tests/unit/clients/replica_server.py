"""A scripted replica, and calls of the client of replicas."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

from syncline.clients.replicas.client import (
    ReplicaClient,
    ReplicaRequest,
    ReplicaResponse,
)

NAME: Final = "gateway.example"
GET: Final = b"GET /check?a=b HTTP/1.1\r\nHost: gateway.example:8443\r\nAccept: */*\r\nCookie: a=b\r\n\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 3\r\n\r\nok\n"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A replica that handles each request with `serve`. It records requests and counts connections."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.connections = 0
        self.open = 0
        self.requests: list[bytes] = []
        self.address = ("", 0)
        self.changed = asyncio.Condition()
        self.tasks: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.tasks[asyncio.current_task()] = writer
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.requests.append(head + await reader.readexactly(int(length or 0)))
                await self._notify()
                await self.serve(reader, writer)
        writer.close()
        self.open -= 1
        await self._notify()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@contextlib.asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    server = Server(serve)
    listening = await asyncio.start_server(server.accept, host, 0, ssl=tls)
    server.address = listening.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        listening.close()
        for writer in server.tasks.values():
            writer.close()
        await asyncio.gather(*filter(None, server.tasks), return_exceptions=True)


@contextlib.contextmanager
def client_of_replicas(authorities: str | None = None, timeout: float = 20.0) -> Iterator[ReplicaClient]:
    replicas = ReplicaClient(asyncio.get_running_loop(), authorities, NAME, timeout)
    try:
        yield replicas
    finally:
        replicas.close()


def answering_after(event: asyncio.Event, answer: bytes) -> Serve:
    """Return a handler that sends a response after ``event`` is set."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await event.wait()
        writer.write(answer)

    return serve


def answering(*pieces: bytes, close: bool = False) -> Serve:
    """Return a handler that sends a response in pieces."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return serve


def begin(
    replicas: ReplicaClient, address: tuple[str, int], request: bytes = GET
) -> tuple[ReplicaRequest, asyncio.Future[ReplicaResponse]]:
    answer: asyncio.Future[ReplicaResponse] = asyncio.get_running_loop().create_future()
    return replicas.send(address, request, answer.set_result), answer


async def ask(replicas: ReplicaClient, address: tuple[str, int], request: bytes = GET) -> ReplicaResponse:
    async with asyncio.timeout(20):
        return await begin(replicas, address, request)[1]


async def end(replicas: ReplicaClient) -> None:
    """Wait until every response is complete, which is not reported."""
    async with asyncio.timeout(20):
        while replicas._running:  # noqa: ASYNC110
            await asyncio.sleep(0)
