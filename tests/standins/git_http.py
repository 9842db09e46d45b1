"""Git over smart HTTP as hosts serve it: the program ``git http-backend`` behind a web server with basic authentication.

Faults are scripted: an answer that is lost after the push has landed, a status instead of an answer. All bytes are
counted as they pass.
"""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.standins.programs import program
from tests.standins.serving import Server


@dataclass
class GitHttp:
    """A server for the bare repositories below ``root``. ``users`` maps names to passwords; none are asked for if empty."""

    root: Path
    users: dict[str, str] = field(default_factory=dict)
    received: int = 0
    sent: int = 0
    seconds: float = 0.0  # in which git itself was at work here
    requests: list[str] = field(default_factory=list)
    lose_pushes: int = 0  # how many answers to pushes are lost from now on
    before_push: list[Callable[[], object]] = field(default_factory=list)  # each is called once, before a push's POST
    answer_with: int | None = None  # a status that every request gets
    url: str = ""

    def authorised(self, header: str | None) -> bool:
        if not self.users:
            return True
        word, _, code = (header or "").partition(" ")
        name, _, password = base64.b64decode(code).decode().partition(":") if word == "Basic" else ("", "", "")
        return bool(password) and self.users.get(name) == password


@contextmanager
def git_http(
    root: Path, users: dict[str, str] | None = None, host: str = "127.0.0.1", port: int = 0
) -> Iterator[GitHttp]:
    """The server on ``port``, a free one if it is 0, of the loopback interface where nothing else is said, until the block ends."""
    state = GitHttp(root, users or {})

    class Handler(_Handler):
        server_state = state

    server = Server(Handler, host, port)
    state.url = f"http://{host}:{server.port}"
    server.start()
    try:
        yield state
    finally:
        server.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: GitHttp

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _serve(self, body: bytes) -> None:
        state = self.server_state
        state.requests.append(f"{self.command} {self.path}")
        state.received += len(body)
        if state.answer_with is not None:
            self._answer(state.answer_with, {}, b"")
            return
        if not state.authorised(self.headers.get("Authorization")):
            self._answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
            return
        push = self.command == "POST" and self.path.endswith("/git-receive-pack")
        if push and state.before_push:
            state.before_push.pop(0)()
        head, _, content = self._backend(body).partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        # The client's probe is a push's POST too, with four bytes that say nothing.
        if push and state.lose_pushes and len(body) > 4:
            state.lose_pushes -= 1
            self.close_connection = True
            return
        status = int(headers.pop("Status", "200").split()[0])
        self._answer(status, headers, content)

    def _backend(self, body: bytes) -> bytes:
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server_state.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REMOTE_USER": "someone",
            "REMOTE_ADDR": "127.0.0.1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        command = [program("git"), "http-backend"]
        began = time.perf_counter()
        done = subprocess.run(
            command, input=body, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
        self.server_state.seconds += time.perf_counter() - began
        return done.stdout

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.server_state.sent += len(content)
