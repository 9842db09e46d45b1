"""The container's HTTP server: HTTP/1.1 on one port, on the event loop that also asks the instances.

httptools parses the heads of requests; asyncio's streams do the rest. GET and HEAD are supported, and bodies are discarded.
TLS is left to a proxy. The size of requests, the number of connections and all waits are limited. An invalid request to
the contract's path also gets a verdict.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from syncline.kinds.tokens.verdict import ProbeResult, Reason, Verdict
from syncline.model import compact_json
from syncline.web.contract import PATH, REASON_HEADER, STATUS_HEADER, body_of
from syncline.web.function_url import HttpRequest, HttpResponse

LARGEST_HEAD: Final = 32 * 1024
"""Largest size of a request's line and headers in bytes: twice the longest token."""
MOST_OPEN: Final = 512
"""Largest number of connections. Another one closes the oldest idle one, or is closed itself if none is idle."""
_LARGEST_BODY: Final = 64 * 1024
_HEAD_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 75.0
_LINGER_SECONDS: Final = 1.0
_END: Final = b"\r\n\r\n"


Answer = Callable[[HttpRequest], Coroutine[Any, Any, HttpResponse]]


class Server:
    """HTTP server. `answer` returns the response to a request, and never raises.

    `head_timeout` is in seconds, from the connection or from the head's first byte; `most_open` bounds the connections.
    """

    def __init__(self, answer: Answer, head_timeout: float = _HEAD_SECONDS, most_open: int = MOST_OPEN) -> None:
        self.answer: Final = answer
        self.head_timeout: Final = head_timeout
        self.stopping = False
        self._most_open = most_open
        self._server: asyncio.Server | None = None
        self._open: dict[_Connection, None] = {}  # oldest first

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), host, port, backlog=1024
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, seconds: float) -> None:
        """Accept no more connections, let responses in progress end within `seconds`, and close every connection."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in [each for each in self._open if not each.is_answering]:
            connection.writer.close()
        if self._open:
            await asyncio.wait([each.task for each in self._open], timeout=seconds)
        for connection in list(self._open):
            connection.writer.transport.abort()

    def opened(self, connection: _Connection) -> None:
        """Add a connection, and close one if there are too many."""
        self._open[connection] = None
        if len(self._open) > self._most_open:
            waiting = (each for each in self._open if not each.is_answering and each is not connection)
            next(waiting, connection).writer.transport.abort()

    def closed(self, connection: _Connection) -> None:
        """Remove a connection."""
        self._open.pop(connection, None)


class _RefusedError(Exception):
    """An invalid request. Under the contract's path, the response is a verdict with `reason`."""

    def __init__(self, status: int, reason: Reason | None = None, path: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.reason = reason
        self.path = path

    def answer(self) -> HttpResponse:
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        if self.reason is None or not (self.path == PATH or self.path.startswith(f"{PATH}/")):
            return HttpResponse(self.status, b'{"error":"invalid request"}', headers)
        result = ProbeResult(Verdict.UNKNOWN, self.reason)
        headers |= {STATUS_HEADER: result.verdict.header.value, REASON_HEADER: self.reason.value}
        return HttpResponse(self.status, compact_json(body_of(None, None, result, None)).encode(), headers)


class _Connection(asyncio.StreamReaderProtocol):
    """A connection of a client, whose requests are answered in order."""

    task: asyncio.Task[None]
    writer: asyncio.StreamWriter

    def __init__(self, server: Server) -> None:
        self._reader = asyncio.StreamReader(limit=LARGEST_HEAD)
        super().__init__(self._reader, self._begin)
        self.is_answering = False
        self._server = server

    def eof_received(self) -> bool:
        """Close the connection, as no instance is asked for a disconnected client."""
        super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the response in progress."""
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
            with suppress(asyncio.IncompleteReadError, OSError):  # the client has disconnected
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
            request, keep_alive, length = _read(first + await self._reader.readuntil(_END))
            self._timer.cancel()
            self.is_answering = True
            answer = await self._server.answer(request)
            self.is_answering = False
            keep_alive = keep_alive and not self._server.stopping
            self.writer.write(_wire(answer, request, keep_alive=keep_alive))
            self._close_after(_IDLE_SECONDS)
            await self.writer.drain()
            if not keep_alive:
                return
            # The body is discarded, and a head that has begun must end soon.
            first = (await self._reader.readexactly(length + 1))[-1:]
            self._close_after(self._server.head_timeout)

    async def _refuse(self, refused: _RefusedError) -> None:
        self.writer.write(_wire(refused.answer(), None, keep_alive=False))
        self.writer.write_eof()
        # A connection that is closed with unread bytes is reset, and the client may lose the response.
        self._close_after(_LINGER_SECONDS)
        while await self._reader.read(LARGEST_HEAD):
            pass

    def _close_after(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._after(seconds)

    def _after(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self.writer.transport.abort)


class _Head:
    """The line and headers of a request. `version` is empty if the data has no complete head."""

    def __init__(self, data: bytes) -> None:
        """Parse `data`; raises HttpParserError."""
        self.method = self.version = ""
        self.url = b""
        self.keep_alive = False
        self.fields: dict[str, str] = {}
        self._parser = HttpRequestParser(self)
        try:
            with suppress(HttpParserUpgrade):  # no other protocol is supported; the request is answered as usual
                self._parser.feed_data(data)
        finally:
            del self._parser  # it refers to this object, and a cycle per request would burden the garbage collector

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.strip(b" \t").decode("latin-1")
        self.fields[key] = f"{self.fields[key]}, {text}" if key in self.fields else text

    def on_headers_complete(self) -> None:
        self.method = self._parser.get_method().decode()
        self.version = self._parser.get_http_version()
        self.keep_alive = self._parser.should_keep_alive()


def _read(data: bytes) -> tuple[HttpRequest, bool, int]:
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
    return HttpRequest(head.method, head.url.decode("latin-1").partition("?")[0], head.fields), head.keep_alive, length


def _path(head: bytes) -> str:
    """Return the path in the first bytes of a head that cannot be parsed."""
    parts = head[:1024].split(b" ", 2)
    return parts[1].decode("latin-1").partition("?")[0] if len(parts) == 3 else ""


def _wire(answer: HttpResponse, request: HttpRequest | None, *, keep_alive: bool) -> bytes:
    body, headers = answer.body, dict(answer.headers)
    if answer.is_gzip and request is not None and "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
    elif answer.is_gzip:
        body = gzip.decompress(body)
    headers["content-length"] = str(len(body))
    if not keep_alive:
        headers["connection"] = "close"
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        *(f"{name}: {headers[name]}" for name in headers),
    ]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if request is not None and request.method == "HEAD" else head + body
