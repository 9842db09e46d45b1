"""Connections: one pool per server for the whole process, shared by threads and by one warm call after another."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import BinaryIO, Final

from urllib3 import exceptions as trouble
from urllib3.connection import HTTPConnection, HTTPSConnection

from syncline.clients.addresses import DEFAULT_PORTS, host_name, is_refused
from syncline.errors import SynclineError

CONNECT_TIMEOUT: Final = 5.0
SHORTEST_WAIT: Final = 0.1  # seconds that a server is given however little time is left
POOL_SIZE: Final = 32  # connections kept per server; more may be open at once, the surplus is closed after use
_READ: Final = 64 * 1024


class Patience:
    """How long one wait for a server may take: ``most`` seconds, and not past ``deadline`` (of ``clock``).

    It is asked anew for each wait: sending a body may take long, and what is left is less then.
    """

    __slots__ = ("_clock", "_deadline", "_most")

    def __init__(self, most: float, deadline: float | None, clock: Callable[[], float]) -> None:
        self._most = most
        self._deadline = deadline
        self._clock = clock

    @property
    def seconds(self) -> float:
        """For how long to wait now."""
        if self._deadline is None:
            return self._most
        return max(SHORTEST_WAIT, min(self._most, self._deadline - self._clock()))


class Connection:
    """A connection to a server, and what came over it that nobody has read yet.

    What goes wrong is raised in urllib3's exceptions, which makes the connection as well.
    """

    __slots__ = ("_file", "_socket", "buffer")

    def __init__(self, made: socket.socket) -> None:
        self._socket = made
        self._file: BinaryIO | None = None
        self.buffer = b""

    def send(self, data: bytes, patience: Patience) -> None:
        """Send all of it; ``BrokenPipeError`` or ``ConnectionResetError`` where the server takes no more."""
        try:
            self._socket.settimeout(patience.seconds)
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except OSError as error:
            raise _named(error) from error

    def fill(self, patience: Patience) -> bytes:
        """Wait for bytes; empty where the server has closed the connection."""
        try:
            self._socket.settimeout(patience.seconds)
            return self._socket.recv(_READ)
        except OSError as error:
            raise _named(error) from error

    def fill_up(self, size: int, patience: Patience) -> bytes:
        """Wait for ``size`` bytes; fewer where the server has closed the connection before."""
        try:
            self._socket.settimeout(patience.seconds)
            # Unbuffered but for what is asked for: the bytes are copied once, from the system.
            self._file = self._file or self._socket.makefile("rb", 1)
            return self._file.read(size)
        except OSError as error:
            raise _named(error) from error

    @property
    def is_open(self) -> bool:
        """Whether it can carry a request: what rests is silent, and readable only where the server has closed it."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()  # else the socket would stay open for it
        self._socket.close()


def _named(error: OSError) -> trouble.HTTPError:
    """A failure of a socket as urllib3 calls it."""
    if isinstance(error, TimeoutError):
        return trouble.TimeoutError(str(error))
    if isinstance(error, ssl.SSLError):
        return trouble.SSLError(error)
    return trouble.ProtocolError("the connection broke", error)


class Pool:
    """The connections to one server. A resting one is taken by one thread at a time, the latest first."""

    def __init__(self, make: Callable[[], socket.socket]) -> None:
        self._make = make
        self._resting: deque[Connection] = deque()
        weakref.finalize(self, _close_all, self._resting)  # at the end of the process, too

    def take(self) -> Connection:
        """A connection that is open; raises urllib3's exceptions, and ADDRESS_REFUSED."""
        while self._resting:
            try:
                connection = self._resting.pop()
            except IndexError:  # another thread was faster
                break
            if connection.is_open:
                return connection
            connection.close()
        return Connection(self._make())

    def give_back(self, connection: Connection) -> None:
        if len(self._resting) < POOL_SIZE:
            self._resting.append(connection)
        else:
            connection.close()


def _close_all(resting: deque[Connection]) -> None:
    while resting:
        resting.pop().close()


_pools: Final[dict[tuple[str, str, str | None], Pool]] = {}
_pools_lock: Final = threading.Lock()


def pool_for(scheme: str, host: str, ca: str | None) -> Pool:
    """The process's pool of connections to ``host``; ADDRESS_REFUSED for a metadata service by name or address."""
    key = (scheme, host, ca)
    pool = _pools.get(key)
    if pool is None:
        with _pools_lock:
            pool = _pools.get(key)
            if pool is None:
                pool = _pools[key] = _new_pool(scheme, host, ca)
    return pool


def _new_pool(scheme: str, host: str, ca: str | None) -> Pool:
    name = host_name(host)
    if is_refused(name):
        raise SynclineError("ADDRESS_REFUSED", f"{name} is a link-local or metadata address")
    port_text = host.rpartition(":")[2] if not host.endswith("]") and ":" in host else ""
    port = int(port_text) if port_text else DEFAULT_PORTS[scheme]
    context = None if scheme == "http" else _tls_context(ca)
    return Pool(lambda: _connected(name, port, context))


def _connected(name: str, port: int, context: ssl.SSLContext | None) -> socket.socket:
    """A new connection, its address checked before a byte is sent: only now is it known what the name resolves to."""
    made = _Plain(name, port) if context is None else _Tls(name, port, context)
    try:
        made.connect()
    except ssl.SSLError as error:
        made.close()
        raise trouble.SSLError(error) from error
    except OSError as error:
        made.close()
        raise _named(error) from error
    assert made.sock is not None
    connected: socket.socket = made.sock
    return connected


class _Careful(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        peer = connection.getpeername()[0]
        if is_refused(peer):
            connection.close()
            raise SynclineError("ADDRESS_REFUSED", f"{self.host} resolves to {peer}, where no copy has business")
        return connection


class _Plain(_Careful):
    def __init__(self, name: str, port: int) -> None:
        super().__init__(name, port, timeout=CONNECT_TIMEOUT)


class _Tls(_Careful, HTTPSConnection):
    def __init__(self, name: str, port: int, context: ssl.SSLContext) -> None:
        HTTPSConnection.__init__(self, name, port, timeout=CONNECT_TIMEOUT, ssl_context=context)


def _tls_context(ca: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise SynclineError("CONFIG_INVALID", "`ca` is not a certificate in PEM form") from error
    return context
