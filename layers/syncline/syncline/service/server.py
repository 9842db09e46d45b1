"""The container's HTTP server: HTTP/1.1 on one port, in the very loop that asks the instances.

It takes GET and HEAD without bodies and refuses the rest; in front of it stands whatever speaks TLS. What a client
sends is bounded in size and time, and whatever it sends to the contract's path is answered in the contract's words.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Protocol

from syncline.kinds.tokens.verdict import Finding, Known, Reason
from syncline.model import compact_json
from syncline.service.api import Answer, Request
from syncline.service.contract import PATH, REASON_HEADER, STATUS_HEADER, body_of

LARGEST_HEAD: Final = 32 * 1024
"""Bytes of a request's line and fields: twice the longest token."""
MOST_OPEN: Final = 512
"""Connections. Of more, the one that was opened first and asks nothing makes room; if all ask, the new one is closed."""
_LARGEST_BODY: Final = 64 * 1024  # bytes that are read and dropped so that a refusal reaches whoever sends them
_HEAD_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 75.0
_LINE: Final = re.compile(rb"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.([01])\r?\Z")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\r?\Z", re.DOTALL)
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


class Api(Protocol):
    """Whoever answers requests; never raises."""

    async def answer(self, request: Request) -> Answer: ...


More = Callable[[Request], Answer | None]
"""What else is served besides the API: a page, or None."""


class Server:
    """``more`` is asked before the API; both run in the loop. ``patience`` is for a request's head, in seconds.

    ``most_open`` is how many connections are open at a time.
    """

    def __init__(self, api: Api, more: More, patience: float = _HEAD_SECONDS, most_open: int = MOST_OPEN) -> None:
        self.patience = patience
        self._most_open = most_open
        self._api = api
        self._more = more
        self._server: asyncio.Server | None = None
        self._open: dict[_Connection, None] = {}  # in the order in which they were opened
        self._emptied: asyncio.Event | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, seconds: float) -> None:
        """Take no more connections, let what is under way end within so many seconds, then close."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.last()
        if self._open:
            self._emptied = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)
        for connection in list(self._open):
            connection.abort()

    async def answer(self, request: Request) -> Answer:
        return self._more(request) or await self._api.answer(request)

    def opened(self, connection: _Connection) -> None:
        self._open[connection] = None
        if len(self._open) > self._most_open:
            next((each for each in self._open if each.is_idle and each is not connection), connection).abort()

    def closed(self, connection: _Connection) -> None:
        self._open.pop(connection, None)
        if not self._open and self._emptied is not None:
            self._emptied.set()


class _Connection(asyncio.Protocol):
    """One client; its requests are answered one after another."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._drop = 0  # bytes of a body still to come, which nobody wants
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.opened(self)
        self._wait(self._server.patience)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._server.closed(self)
        self._wait(None)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._drop:
            dropped = min(self._drop, len(data))
            self._drop -= dropped
            data = data[dropped:]
        self._buffer += data
        if self._task is None:
            self._next()
        elif len(self._buffer) > LARGEST_HEAD:
            self._transport.pause_reading()  # whoever sends ahead waits for the answer under way

    @property
    def is_idle(self) -> bool:
        """Return True if no answer is under way."""
        return self._task is None and not self._transport.is_closing()

    def last(self) -> None:
        """The answer under way is the last."""
        self._closing = True
        if self._task is None:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _next(self) -> None:
        end, gap = self._buffer.find(b"\r\n\r\n"), 4
        if end < 0 or 0 <= self._buffer.find(b"\n\n", 0, end) < end:
            end, gap = self._buffer.find(b"\n\n"), 2
        if end > LARGEST_HEAD or (end < 0 and len(self._buffer) > LARGEST_HEAD):
            self._refuse(431, Reason.TOKEN_TOO_LONG, _path_of(self._buffer))
            return
        if end < 0:
            if self._buffer:
                self._wait(self._server.patience, again=False)
            return
        head, self._buffer = self._buffer[:end], self._buffer[end + gap :]
        lines = head.split(b"\n")
        line = _LINE.match(lines[0])
        if line is None:
            self._refuse(400, None, "")
            return
        target = line[2].decode()
        path = target.partition("?")[0]
        fields = _fields(lines[1:])
        if fields is None:
            self._refuse(400, Reason.TOKEN_INVALID, path)
            return
        length = fields.get("content-length", "0")
        if "transfer-encoding" in fields or not (length.isascii() and length.isdigit()) or len(length) > 9:
            self._refuse(411, None, "")
            return
        if int(length) > _LARGEST_BODY:
            self._refuse(413, None, "")
            return
        rest = int(length)
        dropped = min(rest, len(self._buffer))
        self._buffer, self._drop = self._buffer[dropped:], rest - dropped
        connection = fields.get("connection", "").lower()
        keeps = "close" not in connection and (line[3] == b"1" or "keep-alive" in connection)
        request = Request(line[1].decode(), path, fields)
        self._wait(None)
        self._task = self._loop.create_task(self._answer(request, keeps=keeps))

    async def _answer(self, request: Request, *, keeps: bool) -> None:
        answer = await self._server.answer(request)
        if self._transport.is_closing():
            return
        accepts = "gzip" in request.headers.get("accept-encoding", "")
        keeps = keeps and not self._closing
        self._transport.write(_wire(answer, head=request.method == "HEAD", accepts=accepts, keeps=keeps))
        self._task = None
        if not keeps:
            self._closing = True
            self._transport.close()
            return
        self._transport.resume_reading()
        self._wait(_IDLE_SECONDS)
        if self._buffer:
            self._next()

    def _refuse(self, status: int, reason: Reason | None, path: str) -> None:
        """An answer to what is no request; in the contract's words where it was meant for the contract's path."""
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        body = b'{"error":"not a request that is understood here"}'
        if reason is not None and (path == PATH or path.startswith(f"{PATH}/")):
            finding = Finding(Known.UNKNOWN, reason)
            body = compact_json(body_of(None, None, finding, None)).encode()
            headers |= {STATUS_HEADER: finding.verdict.header.value, REASON_HEADER: reason.value}
        self._closing = True
        self._transport.write(_wire(Answer(status, body, headers), head=False, accepts=False, keeps=False))
        # What is still on its way is let in for a moment: closing on it would take the answer from the client.
        self._transport.write_eof() if self._transport.can_write_eof() else None
        self._wait(1.0)

    def _wait(self, seconds: float | None, *, again: bool = True) -> None:
        """Close after so many seconds; ``again`` lets them begin anew."""
        if self._timer is not None:
            if not again and not self._timer.cancelled() and seconds is not None:
                left = self._timer.when() - self._loop.time()
                if left <= seconds:
                    return
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._transport.close)


def _path_of(data: bytes) -> str:
    """The path in the first bytes of a request whose head is too long."""
    parts = data[:1024].split(b" ", 2)
    return parts[1].decode("latin-1").partition("?")[0] if len(parts) == 3 else ""


def _fields(lines: list[bytes]) -> dict[str, str] | None:
    """The header fields by their lower-case names; None if one is none. One that comes twice is joined, as HTTP has it."""
    found: dict[str, str] = {}
    for line in lines:
        match = _FIELD.match(line)
        if match is None or b"\0" in match[2] or b"\r" in match[2]:
            return None
        name, value = match[1].decode().lower(), match[2].decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _wire(answer: Answer, *, head: bool, accepts: bool, keeps: bool) -> bytes:
    body, headers = answer.body, dict(answer.headers)
    if answer.packed and accepts:
        headers["content-encoding"] = "gzip"
    elif answer.packed:
        body = gzip.decompress(body)
    lines = [
        f"HTTP/1.1 {answer.status} {_PHRASES.get(answer.status, 'Unknown')}",
        *_lines(headers),
        f"content-length: {len(body)}",
        *([] if keeps else ["connection: close"]),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else body)


def _lines(headers: Mapping[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]
