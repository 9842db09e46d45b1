"""An HTTP proxy: it tunnels CONNECT, and forwards a request with an absolute target.

Like tinyproxy, it closes the connection after a forwarded request, and does not announce that in the response.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit


@dataclass
class Proxy:
    """The state of a proxy. ``heads`` has the heads of requests. ``refuse`` is a status line that answers all requests."""

    url: str = ""
    heads: list[str] = field(default_factory=list)
    refuse: str = ""

    @property
    def requests(self) -> list[str]:
        """Method and target of each request."""
        return [head.partition(" HTTP/")[0] for head in self.heads]


class _Connection(socketserver.StreamRequestHandler):
    rbufsize = 0  # the bytes after the head belong to the server

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        state = cast("_Server", self.server).state
        state.heads.append(head.decode())
        if state.refuse:
            self.wfile.write(f"HTTP/1.1 {state.refuse}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        method, target, _ = head.decode().split(" ", 2)
        tunnel = method == "CONNECT"
        parts = urlsplit(f"//{target}" if tunnel else target)
        try:
            server = socket.create_connection((parts.hostname, parts.port or 80))
        except OSError:
            self.wfile.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            return
        with server, contextlib.suppress(OSError):
            if tunnel:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\nX-Proxy: tunnel\r\n\r\n")
            else:
                origin = target.partition(parts.netloc)[2]
                fields = [line for line in head.split(b"\r\n")[1:-2] if not line.lower().startswith(b"proxy-")]
                first = f"{method} {origin} HTTP/1.1".encode()
                server.sendall(b"\r\n".join([first, *fields, b"Connection: close", b"", b""]))
            self._relay(server)

    def _relay(self, server: socket.socket) -> None:
        """Copy bytes in both directions until one side closes."""
        with selectors.DefaultSelector() as selector:  # select.select takes no descriptor above 1023
            selector.register(self.connection, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, self.connection)
            while True:
                for key, _ in selector.select():
                    chunk = cast("socket.socket", key.fileobj).recv(65536)
                    if not chunk:
                        return
                    key.data.sendall(chunk)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    state: Proxy


@contextlib.contextmanager
def http_proxy() -> Iterator[Proxy]:
    """Run a proxy on a free port of loopback until the block ends."""
    with _Server(("127.0.0.1", 0), _Connection) as server:
        server.state = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.state
        finally:
            server.shutdown()
