"""A real HTTP/1.1 server on loopback that answers as a test scripts it, faults included, and records what it was asked.

    with ScriptedServer() as server:
        server.on("GET", "/v2/", Reply(429, headers={"Retry-After": "0"}), Reply(200, b"{}"))

Each request to a method and path takes the next of its replies; the last one stays. What nobody scripted is answered
with 501 and makes the test fail when the server closes.
"""

from __future__ import annotations

import json
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BufferedIOBase
from typing import Any, Final, Self

from tests.standins.certificates import Authority
from tests.standins.serving import Server

WHOLE: Final = 1 << 60
PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Request:
    """``target`` is path and query as they came; header names are in lower case; ``body`` is what was read of it."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    chunks: tuple[int, ...] = ()  # the sizes of the frames of a chunked body
    whole: bool = True  # False where the client broke off within the body

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and what goes wrong with it.

    ``length`` is the Content-Length said where it is not that of ``body``: one that is larger cuts the body short,
    and the connection closes. ``read`` is how much of the request's body is read before the answer, the rest never.
    ``drop`` closes the connection without an answer. ``delay`` is in seconds, before the answer.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = field(default_factory=dict)
    length: int | None = None
    chunked: bool = False
    close: bool = False
    drop: bool = False
    read: int = WHOLE
    delay: float = 0.0

    @property
    def closes(self) -> bool:
        return self.close or self.drop or self.read != WHOLE or (self.length or 0) > len(self.body)


def json_reply(value: Any, status: int = 200, **headers: str) -> Reply:
    """JSON; underscores in header names stand for dashes."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


def errors_reply(status: int, *codes: str, **headers: str) -> Reply:
    """A refusal in the words of the distribution specification."""
    return json_reply({"errors": [{"code": code, "message": f"said {code}"} for code in codes]}, status, **headers)


Scripted = Reply | Callable[[Request], Reply]


class ScriptedServer:
    """Answers in threads of its own. ``name`` is what its address calls the host: 127.0.0.1 or localhost."""

    def __init__(self, *, tls: Authority | None = None, name: str = "127.0.0.1") -> None:
        self.requests: list[Request] = []
        self.unscripted: list[str] = []
        self.connections = 0
        self._script: dict[tuple[str, str], list[Scripted]] = {}
        self._lock = threading.Lock()
        self._recorded = threading.Condition()
        self._server = _Server(self, tls.server_context() if tls else None)
        self.port = self._server.port
        self.host = f"{name}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"

    def on(self, method: str, path: str, *replies: Scripted) -> Self:
        """Script the replies to a path; one that holds a ``?`` is for that exact query alone."""
        with self._lock:
            self._script[method, path] = list(replies)
        return self

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests that came, in order, to a path or to a target with its query."""
        return [r for r in self.requests if r.method == method and path in (r.path, r.target)]

    def wait_for(self, method: str, path: str, limit: float = 10.0) -> list[Request]:
        """The same, once there is one: a request that the client broke off is recorded a moment after."""
        with self._recorded:
            self._recorded.wait_for(lambda: self.asked(method, path), limit)
        return self.asked(method, path)

    def record(self, request: Request) -> None:
        with self._recorded:
            self.requests.append(request)
            self._recorded.notify_all()

    def reply_to(self, request: Request) -> Reply:
        """The next reply for a request whose body has not been read yet."""
        with self._lock:
            for target in (request.target, request.path):
                replies = self._script.get((request.method, target))
                if replies:
                    reply = replies.pop(0) if len(replies) > 1 else replies[0]
                    break
            else:
                self.unscripted.append(f"{request.method} {request.target}")
                return Reply(501, b"not scripted")
        return reply if isinstance(reply, Reply) else reply(request)

    def close(self) -> None:
        self._server.stop()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if kind is None:
            assert not self.unscripted, f"not scripted: {self.unscripted}"


class _Server(Server):
    def __init__(self, owner: ScriptedServer, tls: ssl.SSLContext | None) -> None:
        self.owner = owner
        self._tls = tls
        super().__init__(_Connection)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is not None:
            try:
                request = self._tls.wrap_socket(request, server_side=True)
            except OSError:
                return  # the client did not like the certificate
        with request:
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver calls it so
        """A mistake in a script is no part of the play."""
        self.owner.unscripted.append(repr(sys.exc_info()[1]))


class _Connection(socketserver.StreamRequestHandler):
    server: _Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        self.server.owner.connections += 1
        while self._answer_one():
            pass

    def _answer_one(self) -> bool:
        line = self.rfile.readline(65536).decode("latin-1").split()
        if len(line) != 3 or not line[2].startswith("HTTP/"):
            return False
        headers: dict[str, str] = {}
        while (text := self.rfile.readline(65536).decode("latin-1").strip()) != "":
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        asked = Request(line[0], line[1], headers, b"")
        owner = self.server.owner
        reply = owner.reply_to(asked)
        body, chunks, whole = _read_body(self.rfile, headers, reply.read)
        owner.record(Request(asked.method, asked.target, headers, body, chunks, whole))
        if not whole:
            return False
        time.sleep(reply.delay)
        if not reply.drop:
            self.wfile.write(_wire(reply, asked.method))
        return not reply.closes


def _read_body(stream: BufferedIOBase, headers: Mapping[str, str], limit: int) -> tuple[bytes, tuple[int, ...], bool]:
    """The body, the sizes of its frames, and whether as much of it came as was wanted."""
    if headers.get("transfer-encoding") != "chunked":
        wanted = min(limit, int(headers.get("content-length", "0")))
        content = stream.read(wanted)
        return content, (), len(content) == wanted
    body, sizes = bytearray(), list[int]()
    while len(body) < limit:
        line = stream.readline(64)
        if not line:
            return bytes(body), tuple(sizes), False
        size = int(line, 16)
        body += stream.read(size)
        stream.readline(64)
        if size == 0:
            break
        sizes.append(size)
    return bytes(body), tuple(sizes), True


def _wire(reply: Reply, method: str) -> bytes:
    pairs = list(reply.headers.items() if isinstance(reply.headers, Mapping) else reply.headers)
    if reply.chunked:
        pairs.append(("Transfer-Encoding", "chunked"))
    elif reply.status != 204:
        pairs.append(("Content-Length", str(len(reply.body) if reply.length is None else reply.length)))
    if reply.closes:
        pairs.append(("Connection", "close"))
    head = [f"HTTP/1.1 {reply.status} {PHRASES.get(reply.status, 'Unknown')}", *(f"{n}: {v}" for n, v in pairs)]
    body = b"" if method == "HEAD" else reply.body
    if reply.chunked and body:
        end = b"" if (reply.length or 0) > len(body) else b"0\r\n\r\n"
        body = b"%x\r\n%b\r\n%b" % (len(body), body, end)
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body
