"""The container's HTTP server: HTTP/1.1 on one port, on the event loop that also asks the instances.

httptools parses the heads of requests; asyncio's streams do the rest. GET and HEAD are answered, and bodies are dropped.
TLS is left to a proxy in front. What a client may send, hold and wait for is bounded. An invalid request to the
contract's path gets a verdict as well.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from syncline.kinds.tokens.verdict import Finding, Known, Reason
from syncline.model import compact_json
from syncline.web.contract import PATH, REASON_HEADER, STATUS_HEADER, body_of
from syncline.web.function_url import Answer, Request

LARGEST_HEAD: Final = 32 * 1024
"""Bytes of a request's line and fields: twice the longest token."""
MOST_OPEN: Final = 512
"""Open connections. A further one closes the oldest that waits for a request, or is closed itself if none waits."""
_LARGEST_BODY: Final = 64 * 1024
_HEAD_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 75.0
_LINGER_SECONDS: Final = 1.0
_END: Final = b"\r\n\r\n"


class Api(Protocol):
    """A service whose `answer` never raises."""

    async def answer(self, request: Request) -> Answer: ...


More = Callable[[Request], Answer | None]
"""A function that returns what the API does not have, or None."""


class Server:
    """HTTP server of `more` and, where that returns None, of `api`.

    `head_timeout` is in seconds, from the connection or from the head's first byte; `most_open` bounds the connections.
    """

    def __init__(self, api: Api, more: More, head_timeout: float = _HEAD_SECONDS, most_open: int = MOST_OPEN) -> None:
        self.head_timeout: Final = head_timeout
        self.stopping = False
        self._most_open = most_open
        self._api = api
        self._more = more
        self._server: asyncio.Server | None = None
        self._open: dict[_Connection, None] = {}  # oldest first

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), host, port, backlog=1024
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, seconds: float) -> None:
        """Accept no more connections, let answers in progress end within `seconds`, and close every connection."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in [each for each in self._open if not each.answering]:
            connection.writer.close()
        if self._open:
            await asyncio.wait([each.task for each in self._open], timeout=seconds)
        for connection in list(self._open):
            connection.writer.transport.abort()

    async def answer(self, request: Request) -> Answer:
        """Return the answer to a request."""
        return self._more(request) or await self._api.answer(request)

    def opened(self, connection: _Connection) -> None:
        """Add a connection, and close one if there are too many."""
        self._open[connection] = None
        if len(self._open) > self._most_open:
            waiting = (each for each in self._open if not each.answering and each is not connection)
            next(waiting, connection).writer.transport.abort()

    def closed(self, connection: _Connection) -> None:
        """Remove a connection."""
        self._open.pop(connection, None)


class _RefusedError(Exception):
    """A request that the API cannot be asked. Under the contract's path, its answer is a verdict with `reason`."""

    def __init__(self, status: int, reason: Reason | None = None, path: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.reason = reason
        self.path = path

    def answer(self) -> Answer:
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        if self.reason is None or not (self.path == PATH or self.path.startswith(f"{PATH}/")):
            return Answer(self.status, b'{"error":"invalid request"}', headers)
        finding = Finding(Known.UNKNOWN, self.reason)
        headers |= {STATUS_HEADER: finding.verdict.header.value, REASON_HEADER: self.reason.value}
        return Answer(self.status, compact_json(body_of(None, None, finding, None)).encode(), headers)


class _Connection(asyncio.StreamReaderProtocol):
    """One client. Its requests are answered one after another."""

    task: asyncio.Task[None]
    writer: asyncio.StreamWriter

    def __init__(self, server: Server) -> None:
        self._reader = asyncio.StreamReader(limit=LARGEST_HEAD)
        super().__init__(self._reader, self._begin)
        self.answering = False
        self._server = server

    def eof_received(self) -> bool:
        """Close the connection: no instance is asked for a client that is gone."""
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the answer in progress."""
        super().connection_lost(exc)
        self._timer.cancel()
        self.task.cancel()
        self._server.closed(self)

    def _begin(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._timer = self._after(self._server.head_timeout)
        self.task = asyncio.get_running_loop().create_task(self._run())
        self._server.opened(self)

    async def _run(self) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, OSError):  # the client is gone
                try:
                    await self._answer_all()
                except asyncio.LimitOverrunError:
                    await self._refuse(_RefusedError(431, Reason.TOKEN_TOO_LONG, _path(await self._reader.read(1024))))
                except _RefusedError as refused:
                    await self._refuse(refused)
                self.writer.close()
                await self.writer.wait_closed()
        finally:
            self.writer.transport.abort()

    async def _answer_all(self) -> None:
        first = b""
        while True:
            request, keeps, length = _read(first + await self._reader.readuntil(_END))
            self._timer.cancel()
            self.answering = True
            answer = await self._server.answer(request)
            self.answering = False
            keeps = keeps and not self._server.stopping
            self.writer.write(_wire(answer, request, keeps=keeps))
            self._close_after(_IDLE_SECONDS)
            await self.writer.drain()
            if not keeps:
                return
            # The body is dropped, and a head that has begun has to end soon.
            first = (await self._reader.readexactly(length + 1))[-1:]
            self._close_after(self._server.head_timeout)

    async def _refuse(self, refused: _RefusedError) -> None:
        self.writer.write(_wire(refused.answer(), None, keeps=False))
        self.writer.write_eof()
        # A connection that is closed with bytes unread is reset, and the client may lose the answer.
        self._close_after(_LINGER_SECONDS)
        while await self._reader.read(LARGEST_HEAD):
            pass

    def _close_after(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._after(seconds)

    def _after(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self.writer.transport.abort)


class _Head:
    """A request's line and fields. `version` is empty if the data has no head."""

    def __init__(self, data: bytes) -> None:
        """Parse `data`; raises HttpParserError."""
        self.method = self.version = ""
        self.url = b""
        self.keeps = False
        self.fields: dict[str, str] = {}
        self._parser = HttpRequestParser(self)
        try:
            with suppress(HttpParserUpgrade):  # no other protocol is spoken: it is answered like any request
                self._parser.feed_data(data)
        finally:
            del self._parser  # which refers to this object: a cycle for each request would be work for the collector

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.strip(b" \t").decode("latin-1")
        self.fields[key] = f"{self.fields[key]}, {text}" if key in self.fields else text

    def on_headers_complete(self) -> None:
        self.method = self._parser.get_method().decode()
        self.version = self._parser.get_http_version()
        self.keeps = self._parser.should_keep_alive()


def _read(data: bytes) -> tuple[Request, bool, int]:
    """Return the request, whether its connection is kept, and the length of its body; raises _RefusedError."""
    try:
        head = _Head(data)
    except HttpParserError:
        raise _RefusedError(400, Reason.TOKEN_INVALID, _path(data)) from None
    if head.version not in ("1.1", "1.0") or not head.url.startswith(b"/"):
        raise _RefusedError(400)
    if "transfer-encoding" in head.fields:
        raise _RefusedError(411)
    length = int(head.fields.get("content-length", "0"))
    if length > _LARGEST_BODY:
        raise _RefusedError(413)
    return Request(head.method, head.url.decode("latin-1").partition("?")[0], head.fields), head.keeps, length


def _path(head: bytes) -> str:
    """Return the path in the first bytes of a head that cannot be parsed."""
    parts = head[:1024].split(b" ", 2)
    return parts[1].decode("latin-1").partition("?")[0] if len(parts) == 3 else ""


def _wire(answer: Answer, request: Request | None, *, keeps: bool) -> bytes:
    body, headers = answer.body, dict(answer.headers)
    if answer.packed and request is not None and "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
    elif answer.packed:
        body = gzip.decompress(body)
    headers["content-length"] = str(len(body))
    if not keeps:
        headers["connection"] = "close"
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        *(f"{name}: {headers[name]}" for name in headers),
    ]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if request is not None and request.method == "HEAD" else head + body
