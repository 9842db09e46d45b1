"""The HTTP/1.1 server on loopback behind all stand-ins, and a server with scripted replies.

    with ScriptedServer() as server:
        server.on("GET", "/v2/", Reply(429, headers={"Retry-After": "0"}), Reply(200, b"{}"))

`Server` has a thread for each connection and calls a handler for each request. A handler may read
the body, and returns a `Reply` with the faults on the wire: delays, lost responses, truncated bodies.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from tests.standins.certificates import Authority

ALL: Final = 1 << 60
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_LONGEST_LINE: Final = 64 * 1024
_PIECE: Final = 1 << 20


@dataclass(slots=True)
class Request:
    """A request: `target` is path and query as they came, header names are in lower case.

    `body` has the bytes read so far, `chunks` the sizes of the frames of a chunked body. `whole` is False if the
    client closed the connection within the body; `rest` is True while a part of the body has not been read.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    chunks: tuple[int, ...] = ()
    whole: bool = True
    rest: bool = False
    status: int = 0
    """Status of the response, if a stand-in records it."""
    stream: BufferedIOBase | None = field(default=None, repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")

    def query(self, name: str) -> str:
        """Return the first value of a parameter, empty if it is not given."""
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True).get(name, [""])[0]

    def read(self, limit: int = ALL) -> bytes:
        """Read and return up to `limit` bytes of the body, more if the last frame of a chunked one has more."""
        assert self.stream is not None
        if self.headers.get("transfer-encoding") == "chunked":
            self._read_frames(limit)
        else:
            length = int(self.headers.get("content-length", "0"))
            self.body = self.stream.read(min(limit, length))
            self.whole = len(self.body) == min(limit, length)
            self.rest = len(self.body) < length
        return self.body

    def _read_frames(self, limit: int) -> None:
        assert self.stream is not None
        body, sizes, self.rest = bytearray(), list[int](), True
        while len(body) < limit:
            line = self.stream.readline(64)
            size = int(line, 16) if line else 0
            frame = self.stream.read(size)
            body += frame
            if not line or len(frame) < size or self.stream.readline(64) != b"\r\n":
                self.whole = False
                break
            if size == 0:
                self.rest = False
                break
            sizes.append(size)
        self.body, self.chunks = bytes(body), tuple(sizes)


@dataclass(frozen=True)
class FilePart:
    """Bytes of a file from `start` up to `end`, sent at `rate` bytes a second at most.

    `sent` is called with the number of bytes of each piece that was sent.
    """

    file: Path
    start: int
    end: int
    rate: float | None = None
    sent: Callable[[int], None] = lambda _: None

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Reply:
    """A response and its faults.

    `length` replaces the Content-Length; one larger than `body` truncates the body and closes the connection. `cut`
    closes the connection after that many bytes of the body. `drop` closes it without a response. `delay` is in seconds,
    before the response. `read` is the number of bytes of the request's body that a scripted server reads first.
    """

    status: int = 200
    body: bytes | FilePart = b""
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = field(default_factory=dict)
    length: int | None = None
    chunked: bool = False
    close: bool = False
    drop: bool = False
    read: int = ALL
    delay: float = 0.0
    cut: int | None = None

    @property
    def closes(self) -> bool:
        return self.close or self.drop or self.read != ALL or (self.length or 0) > len(self.body)


class RefusalError(Exception):
    """Ends a request with a response other than the requested one."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


def reply(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> Reply:
    """Return a reply with a content type; underscores in header names become dashes."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(status, body, {"Content-Type": content_type, **named})


def json_reply(value: Any, status: int = 200, **headers: str) -> Reply:
    """Return a reply of JSON; underscores in header names become dashes."""
    return reply(status, json.dumps(value).encode(), **headers)


def errors_reply(status: int, *codes: str, **headers: str) -> Reply:
    """Return a refusal as the OCI distribution specification defines it."""
    return json_reply({"errors": [{"code": code, "message": f"said {code}"} for code in codes]}, status, **headers)


Handler = Callable[[Request], Reply | None]
"""Answers a request; None closes the connection. It may raise RefusalError."""


class Server(socketserver.ThreadingTCPServer):
    """Listens on `port` of `host`, a free port if it is 0. Tracebacks of its handler go to `errors`.

    A connection that the client closes early is not an error.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(
        self,
        handler: Handler,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        errors: list[str] | None = None,
    ) -> None:
        self.handler = handler
        self.errors: list[str] = [] if errors is None else errors
        self.connections = 0
        self._tls = tls
        self._open: set[Any] = set()
        super().__init__((host, port), _Connection)
        self.port: int = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started, and every connection."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is not None:
            try:
                request = self._tls.wrap_socket(request, server_side=True)
            except OSError:
                return  # the client refused the certificate
        self._open.add(request)
        try:
            with request, contextlib.suppress(OSError):
                super().finish_request(request, client_address)
        finally:
            self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver calls it so
        self.errors.append(traceback.format_exc())


class _Connection(socketserver.StreamRequestHandler):
    server: Server
    disable_nagle_algorithm = True
    rbufsize = 256 * 1024

    def handle(self) -> None:
        self.server.connections += 1
        while self._answer_one():
            pass

    def _answer_one(self) -> bool:
        """Answer a request; return True if another may follow on this connection."""
        line = self.rfile.readline(_LONGEST_LINE).decode("latin-1").split()
        if len(line) != 3 or not line[2].startswith("HTTP/1."):
            return False
        headers: dict[str, str] = {}
        while (text := self.rfile.readline(_LONGEST_LINE).decode("latin-1").strip()) != "":
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        rest = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        request = Request(line[0], line[1], headers, rest=rest, stream=self.rfile)
        try:
            reply = self.server.handler(request)
        except RefusalError as refused:
            reply = refused.reply
        if reply is None:
            return False
        time.sleep(reply.delay)
        if reply.drop or not self._send(request.method, reply):
            return False
        return not reply.closes and not request.rest and headers.get("connection", "").lower() != "close"

    def _send(self, method: str, reply: Reply) -> bool:
        """Send a response; return False if its body is cut."""
        body, size = reply.body, 0 if method == "HEAD" else len(reply.body)
        pairs = list(reply.headers.items() if isinstance(reply.headers, Mapping) else reply.headers)
        if reply.chunked:
            assert isinstance(body, bytes)
            pairs.append(("Transfer-Encoding", "chunked"))
            if size:
                end = b"" if (reply.length or 0) > size else b"0\r\n\r\n"
                body = b"%x\r\n%b\r\n%b" % (size, body, end)
                size = len(body)
        elif reply.status not in (204, 304) and not any(name.lower() == "content-length" for name, _ in pairs):
            pairs.append(("Content-Length", str(len(body) if reply.length is None else reply.length)))
        if reply.closes:
            pairs.append(("Connection", "close"))
        head = [f"HTTP/1.1 {reply.status} {_PHRASES.get(reply.status, 'Unknown')}", *(f"{n}: {v}" for n, v in pairs)]
        sent = size if reply.cut is None else min(size, reply.cut)
        data = "\r\n".join([*head, "", ""]).encode("latin-1")
        self.wfile.write(data + body[:sent] if isinstance(body, bytes) else data)
        if isinstance(body, FilePart):
            self._send_part(body, sent)
        return sent == size

    def _send_part(self, part: FilePart, size: int) -> None:
        began = time.monotonic()
        with part.file.open("rb") as file:
            for at in range(0, size, _PIECE):
                part.sent(self.connection.sendfile(file, part.start + at, min(_PIECE, size - at)))
                if part.rate is not None:
                    time.sleep(max(0.0, began + at / part.rate - time.monotonic()))


Scripted = Reply | Callable[[Request], Reply]


class ScriptedServer:
    """Answers each request to a method and path with the next of its replies; the last one stays.

    A request without a script gets 501, and fails the test when the server closes. `name` is the host in
    its address: 127.0.0.1 or localhost.
    """

    def __init__(self, *, tls: Authority | None = None, name: str = "127.0.0.1") -> None:
        self.requests: list[Request] = []
        self.unscripted: list[str] = []
        self._script: dict[tuple[str, str], list[Scripted]] = {}
        self._lock = threading.Lock()
        self._recorded = threading.Condition()
        self._server = Server(self._handle, tls=tls.server_context() if tls else None, errors=self.unscripted)
        self.port = self._server.port
        self.host = f"{name}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"

    @property
    def connections(self) -> int:
        return self._server.connections

    def on(self, method: str, path: str, *replies: Scripted) -> Self:
        """Script the replies to a path; a path with a ``?`` matches that exact query only."""
        with self._lock:
            self._script[method, path] = list(replies)
        return self

    def asked(self, method: str, path: str) -> list[Request]:
        """Return the requests so far, in order, to a path or to a target with its query."""
        return [r for r in self.requests if r.method == method and path in (r.path, r.target)]

    def wait_for(self, method: str, path: str, limit: float = 10.0) -> list[Request]:
        """Return the same, but wait for the first: a request that the client aborted is recorded a moment later."""
        with self._recorded:
            self._recorded.wait_for(lambda: self.asked(method, path), limit)
        return self.asked(method, path)

    def _handle(self, request: Request) -> Reply | None:
        reply = self.reply_to(request)
        request.read(reply.read)
        with self._recorded:
            self.requests.append(request)
            self._recorded.notify_all()
        return reply if request.whole else None

    def reply_to(self, request: Request) -> Reply:
        """Return the next reply for a request whose body has not been read yet."""
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
