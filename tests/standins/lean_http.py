"""A small HTTP/1.1 server for stand-ins that must not be what a benchmark measures: one thread, answers as bytes.

It does what clients of an API need: connections kept open, requests one behind another, bodies with a
``Content-Length``. It refuses what it does not know instead of guessing.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

LARGEST_HEAD: Final = 64 * 1024
LARGEST_BODY: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """``target`` is path and query as they came; ``authorization`` is that header's value or empty."""

    method: str
    target: str
    authorization: str
    body: bytes


Handler = Callable[[Request], bytes]


def reply(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> bytes:
    """A whole answer as it goes over the wire; underscores in header names stand for dashes."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status in _PHRASES else 'Unknown'}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def json_reply(status: int, value: Any) -> bytes:
    return reply(status, json.dumps(value, separators=(",", ":")).encode())


_PHRASES: Final = frozenset(int(s) for s in HTTPStatus)


class LeanServer:
    """Serves ``handle`` on a port in a thread of its own. ``handle`` runs in that thread, one call at a time."""

    def __init__(
        self, handle: Handler, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._host = host
        self.port = port
        self._handle = handle
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[asyncio.Transport] = set()

    def start(self) -> None:
        """Listen; :attr:`port` is the port from here on."""
        loop = self._loop = asyncio.new_event_loop()
        starting = loop.create_server(self._connection, self._host, self.port, ssl=self._tls, backlog=512)
        server = loop.run_until_complete(starting)
        self.port = server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(loop, server), name="lean-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every connection and the thread."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()

    def _connection(self) -> asyncio.Protocol:
        return _Connection(self._handle, self._open)

    def _serve(self, loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> None:
        loop.run_forever()
        server.close()
        for transport in tuple(self._open):
            transport.abort()
        loop.run_until_complete(asyncio.sleep(0))  # the transports take their leave in the next turn
        loop.close()


class _Connection(asyncio.Protocol):
    def __init__(self, handle: Handler, connections: set[asyncio.Transport]) -> None:
        self._handle = handle
        self._connections = connections
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._transport.is_closing() and self._take_one():
            pass

    def _take_one(self) -> bool:
        """Answer the first request in the buffer; False if it is not all there."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > LARGEST_HEAD:
                self._refuse(431)
            return False
        head = bytes(buffer[:end])
        length_text = _header(head, b"content-length") or "0"
        if not (length_text.isascii() and length_text.isdigit()) or int(length_text) > LARGEST_BODY:
            return self._refuse(413)
        if _header(head, b"transfer-encoding"):
            return self._refuse(411)
        total = end + 4 + int(length_text)
        if len(buffer) < total:
            return False
        line = head[: head.find(b"\r\n") if b"\r\n" in head else None].decode("latin-1").split(" ")
        if len(line) != 3 or not line[1].startswith("/") or line[2] != "HTTP/1.1" or _header(head, b"host") is None:
            return self._refuse(400)
        request = Request(line[0], line[1], _header(head, b"authorization") or "", bytes(buffer[end + 4 : total]))
        del buffer[:total]
        self._transport.write(self._handle(request))
        if (_header(head, b"connection") or "").lower() == "close":
            self._transport.close()
        return True

    def _refuse(self, status: int) -> bool:
        self._transport.write(reply(status, b"", Connection="close"))
        self._transport.close()
        return False


def _header(head: bytes, name: bytes) -> str | None:
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else None].strip().decode("latin-1")
