"""What the stand-ins with a thread for each connection share: running, ending, and an API's requests and answers."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final, Self

from tests.standins.openapi.description import Description, Witness

_PIECE: Final = 1 << 20


class Server(socketserver.ThreadingTCPServer):
    """On ``port`` of ``host``, a free one if it is 0; a connection that the client breaks off is part of the play."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, handler: type[socketserver.BaseRequestHandler], host: str = "127.0.0.1", port: int = 0) -> None:
        self._open: set[Any] = set()
        super().__init__((host, port), handler)
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

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        try:
            with contextlib.suppress(OSError):
                super().finish_request(request, client_address)
        finally:
            self._open.discard(request)


@dataclass(frozen=True)
class Part:
    """Bytes of a file from ``start`` up to ``end``, sent at ``rate`` bytes a second at most.

    ``sent`` is called with the number of bytes of each piece that was sent.
    """

    file: Path
    start: int
    end: int
    rate: float | None = None
    sent: Callable[[int], None] = lambda _: None

    def __len__(self) -> int:
        return self.end - self.start


@dataclass
class Answer:
    """``cut`` is after how many bytes of its body the connection breaks, if it does."""

    status: int
    body: bytes | Part = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


class RefusalError(Exception):
    """An answer other than the one hoped for."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


def refusal(status: int, message: str) -> RefusalError:
    return RefusalError(json_answer(status, {"message": message}))


def json_answer(status: int, value: Any, **headers: str) -> Answer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8", **named})


class ApiServer(ABC):
    """An API that its maker describes: a request or an answer that the description does not know fails the test.

    ``requests`` has method and target of every request. ``before`` is called with each of them and may give an answer of
    its own, which is a test's own affair.
    """

    def __init__(self, description: Description, port: int = 0) -> None:
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], Answer | None] = lambda _method, _target: None
        self.witness = Witness(description)
        self._server = _ApiServer(self, port)
        self.port = self._server.port
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._server.stop()
        assert kind is not None or not self.witness.told, self.witness.told

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.requests.append((method, target))
        self.witness.request(method, target, body)
        scripted = self.before(method, target)
        if scripted is not None:
            return scripted
        try:
            answer = self.own_answer(method, target, headers)
        except RefusalError as refused:
            answer = refused.answer
        assert isinstance(answer.body, bytes)
        self.witness.answer(method, target, answer.status, answer.headers, answer.body)
        return answer

    @abstractmethod
    def own_answer(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        """What the API answers. Raises RefusalError."""


class _ApiServer(Server):
    def __init__(self, owner: ApiServer, port: int = 0) -> None:
        self.owner = owner
        super().__init__(_ApiHandler, port=port)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver calls it so
        """What the stand-in itself cannot do fails the test, too."""
        self.owner.witness.told.append(repr(sys.exc_info()[1]))


class _ApiHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _ApiServer
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        answer = self.server.owner.answer(self.command, self.path, dict(self.headers.items()), body)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        size = len(answer.body) if answer.cut is None else min(answer.cut, len(answer.body))
        if isinstance(answer.body, bytes):
            self.wfile.write(answer.body[:size])
        elif size:
            self._send_part(answer.body, size)
        if answer.cut is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send_part(self, part: Part, size: int) -> None:
        began = time.monotonic()
        with part.file.open("rb") as file:
            for at in range(0, size, _PIECE):
                part.sent(self.connection.sendfile(file, part.start + at, min(_PIECE, size - at)))
                if part.rate is not None:
                    time.sleep(max(0.0, began + at / part.rate - time.monotonic()))

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Nothing is logged."""
