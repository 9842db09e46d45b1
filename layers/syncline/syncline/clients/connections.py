"""Connections: one pool per server for the whole process, shared by threads and by one warm call after another."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import Final, TypeVar

from urllib3 import exceptions as trouble
from urllib3.connection import HTTPConnection, HTTPSConnection

from syncline.clients.addresses import DEFAULT_PORTS, host_name, is_refused
from syncline.clients.pacing import SLOW, Policy
from syncline.errors import SynclineError

CONNECT_TIMEOUT: Final = 5.0
SHORTEST_WAIT: Final = 0.1  # seconds that a server is given however little time is left
POOL_SIZE: Final = 32  # connections kept per server; more may be open at once, the surplus is closed after use
MOST_POOLS: Final = 64  # servers; of more, those first spoken to lose their resting connections
LONGEST_LIFE: Final = 300.0  # seconds after which a connection gets no further request: addresses of names change
GLANCE: Final = 1.0  # seconds after which a wait looks whether it is still wanted
RATE_WINDOW: Final = 30.0  # seconds of waiting over which the rate of a body is measured
_READ: Final = 64 * 1024
_LARGEST_FILL: Final = 256 * 1024
_TLS_RECORD: Final = 16 * 1024
_ROUNDING: Final = 0.001
_TIME_OVER: Final = "the function's time was over"
_Given = TypeVar("_Given")
_Done = TypeVar("_Done")


class StoppedError(trouble.HTTPError):
    """A request that was ended before its answer was whole, for a reason that has a ``code``."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class Patience:
    """The time that one request may take, asked anew for each wait.

    A wait for bytes of a body takes ``most`` seconds at most, as do all waits for a head together. None goes past the
    policy's deadline, or on when the policy is halted. A body has to come, or to be taken, at the policy's rate: bytes
    are counted by the seconds spent waiting for the server, so a slow reader of ours makes no server slow.
    """

    __slots__ = ("_body", "_bytes", "_host", "_most", "_policy", "_spent")

    def __init__(self, most: float, policy: Policy, host: str = "the server") -> None:
        self._most = most
        self._policy = policy
        self._host = host
        self._body = False
        self._spent = 0.0  # seconds waited for the head, or in the present window of the body
        self._bytes = 0  # of the body, in the present window

    def begin(self, *, body: bool) -> None:
        """Begin with the waits for a head, or with those for a body."""
        self._body, self._spent, self._bytes = body, 0.0, 0

    def count(self, size: int) -> None:
        """Count bytes of the body that came or were taken."""
        self._bytes += size

    def limit(self) -> float:
        """Return the seconds that the wait that begins now may take; raise StoppedError if there are none."""
        most = self._most if self._body else self._most - self._spent
        if self._policy.deadline is not None:
            left = self._policy.deadline - self._policy.clock()
            if left <= 0:
                raise StoppedError("TIME_SHORT", _TIME_OVER)
            most = min(most, max(left, SHORTEST_WAIT))
        self._stop_if_halted()
        if most <= 0:
            raise trouble.TimeoutError
        return most

    def spend(self, seconds: float) -> None:
        """Count seconds of waiting; raise StoppedError if the body is too slow."""
        self._spent += seconds
        if self._body and self._spent >= RATE_WINDOW:
            if self._bytes < self._policy.slowest * self._spent:
                raise self._too_slow()
            if self._bytes < SLOW * self._spent:
                rate = self._bytes / self._spent / 1024
                self._policy.slow(f"{self._host} is slow: {rate:.3g} KiB/s in the last {self._spent:.0f} s of waiting")
            self._spent, self._bytes = 0.0, 0

    def check(self, waited: float, limit: float) -> None:
        """Raise the failure of a wait of ``waited`` seconds: its run is halted, or it took as long as it may."""
        self._stop_if_halted()
        if waited < limit:
            return
        least = self._most - _ROUNDING
        late = waited < least if self._body else self._spent < least
        raise StoppedError("TIME_SHORT", _TIME_OVER) if late else trouble.TimeoutError()

    def _stop_if_halted(self) -> None:
        if self._policy.halted():
            raise StoppedError("RUN_CANCELLED", "the run was cancelled, or may not write any more")

    def _too_slow(self) -> StoppedError:
        rate = self._bytes / self._spent
        why = f"{rate:.0f} bytes a second in {self._spent:.0f} s, below the limit of {self._policy.slowest}"
        return StoppedError("TOO_SLOW", why)


class Connection:
    """A connection to a server, and the bytes that came over it and that nobody has read yet.

    Failures are raised as exceptions of urllib3, which also makes the connection.
    """

    __slots__ = ("_made", "_socket", "_space", "_timeout", "buffer")

    def __init__(self, made: socket.socket) -> None:
        self._made = monotonic()
        self._socket = made
        self._space = memoryview(
            b""
        )  # used again: memory that is new to the process costs more than the copy out of it
        self._timeout: float | None = None
        self.buffer = b""

    def send(self, data: bytes, patience: Patience) -> None:
        """Send ``data``; ``BrokenPipeError`` or ``ConnectionResetError`` if the server takes no more."""
        left = memoryview(data)
        # TLS tells that bytes were taken only when all that it was given were.
        most = _TLS_RECORD if isinstance(self._socket, ssl.SSLSocket) else len(left)
        while left:
            sent = self._wait(self._socket.send, left[:most], patience)
            patience.count(sent)
            left = left[sent:]

    def fill(self, patience: Patience) -> bytes:
        """Wait for bytes; return none if the server has closed the connection."""
        try:
            return self._wait(self._socket.recv, _READ, patience)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _named(error) from error

    def fill_up(self, size: int, patience: Patience) -> bytes:
        """Wait for ``size`` bytes; return fewer if more would take long or are many, none at the end of the connection."""
        size = min(size, _LARGEST_FILL)
        if size > len(self._space):
            self._space = memoryview(bytearray(size))
        free = self._space
        began, filled = monotonic(), 0
        try:
            while filled < size and (came := self._wait(self._socket.recv_into, free[filled:size], patience)):
                filled += came
                if monotonic() - began >= GLANCE:
                    break
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _named(error) from error
        return bytes(free[:filled])

    def _wait(self, action: Callable[[_Given], _Done], given: _Given, patience: Patience) -> _Done:
        """Carry out an action of the socket, waiting in short parts, so that the run's end ends the wait too."""
        limit, waited = patience.limit(), 0.0
        while True:
            seconds = min(GLANCE, limit - waited)
            began = monotonic()
            try:
                if seconds != self._timeout:
                    self._socket.settimeout(seconds)
                    self._timeout = seconds
                done = action(given)
            except TimeoutError:
                waited += seconds
                patience.spend(seconds)
                patience.check(waited, limit)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except OSError as error:
                raise _named(error) from error
            else:
                patience.spend(monotonic() - began)
                return done

    @property
    def is_open(self) -> bool:
        """Return True if it can carry a request: it is not too old, and the server has neither closed it nor sent anything."""
        if monotonic() - self._made > LONGEST_LIFE:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
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
                pool = _new_pool(scheme, host, ca)
                if len(_pools) >= MOST_POOLS:
                    del _pools[next(iter(_pools))]
                _pools[key] = pool
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


@lru_cache(maxsize=16)  # it takes 800 KiB, and 17 ms to make
def _tls_context(ca: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise SynclineError("CONFIG_INVALID", "`ca` is not a certificate in PEM form") from error
    return context
