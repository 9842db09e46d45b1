"""Git over smart HTTP as hosts serve it: ``git http-backend`` behind a web server with basic authentication.

Faults are scripted: a response that is lost after the push was executed, or an error status. All bytes are counted as
they pass.
"""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig.server import Reply, Request, Server
from tests.standins.programs import program


@dataclass
class GitHttp:
    """A server for the bare repositories below ``root``. ``users`` maps names to passwords; empty requires none."""

    root: Path
    users: dict[str, str] = field(default_factory=dict)
    received: int = 0
    sent: int = 0
    seconds: float = 0.0  # processing time of git on this server
    requests: list[str] = field(default_factory=list)
    lose_pushes: int = 0  # number of next pushes whose response is lost
    before_push: list[Callable[[], object]] = field(
        default_factory=list
    )  # each is called once, before the POST of a push
    answer_with: int | None = None  # status of the response to every request
    url: str = ""

    def authorised(self, header: str) -> bool:
        if not self.users:
            return True
        word, _, code = header.partition(" ")
        name, _, password = base64.b64decode(code).decode().partition(":") if word == "Basic" else ("", "", "")
        return bool(password) and self.users.get(name) == password

    def handle(self, request: Request) -> Reply | None:
        body = request.read()
        self.requests.append(f"{request.method} {request.target}")
        self.received += len(body)
        if self.answer_with is not None:
            return Reply(self.answer_with)
        if not self.authorised(request.authorization):
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        push = request.method == "POST" and request.target.endswith("/git-receive-pack")
        if push and self.before_push:
            self.before_push.pop(0)()
        head, _, content = self._backend(request).partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        # The client's probe is also a POST of a push, with a body of four bytes.
        if push and self.lose_pushes and len(body) > 4:
            self.lose_pushes -= 1
            return None
        self.sent += len(content)
        return Reply(int(headers.pop("Status", "200").split()[0]), content, headers)

    def _backend(self, request: Request) -> bytes:
        path, _, query = request.target.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "REMOTE_USER": "someone",
            "REMOTE_ADDR": "127.0.0.1",
            "REQUEST_METHOD": request.method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(request.body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
        }
        command = [program("git"), "http-backend"]
        began = time.perf_counter()
        done = subprocess.run(
            command, input=request.body, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
        self.seconds += time.perf_counter() - began
        return done.stdout


@contextmanager
def git_http(
    root: Path, users: dict[str, str] | None = None, host: str = "127.0.0.1", port: int = 0
) -> Iterator[GitHttp]:
    """Serve the repositories below `root` on `port` of `host`, a free port if it is 0, until the block ends."""
    state = GitHttp(root, users or {})
    with Server(state.handle, host, port) as server:
        state.url = f"http://{host}:{server.port}"
        yield state
