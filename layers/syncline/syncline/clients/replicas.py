"""Asks many replicas of one service at once, over connections that are kept: what a probe's speed rests on.

urllib3 needs a thread for each request under way, and asyncio's own TLS copies every byte through two buffers in
Python. Here an event loop watches plain non-blocking TLS sockets: OpenSSL reads and writes them itself, and a request
costs one write and one read. Everything happens in the loop's thread; nothing here may be called from another.

An answer is known once its head is whole; what is left of it is read afterwards, within bounds, so that the
connection can be used again. A connection that was kept may have been closed by the other side just when a request
went out: if not a byte came back, the request is sent again over a new one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from syncline.clients.instances import is_probed
from syncline.clients.replica_connection import Connection, Trouble

LARGEST_POOL: Final = 32
"""Connections to one replica at a time; further requests wait for one of them."""
LONGEST_IDLE: Final = 30.0
"""Seconds after which a kept connection is not trusted any more: a network between may have forgotten it."""
_LINGER: Final = 2.0  # seconds that the rest of an answer nobody waits for may take
_SWEEP: Final = 10.0  # seconds between two looks for connections that are too old

Address = tuple[str, int]


class Answer(NamedTuple):
    """What came of one request: a status, or the trouble with a word on it."""

    status: int | None
    trouble: Trouble | None = None
    words: str = ""


class Exchange:
    """One request under way; :attr:`done` is called with its answer, once, unless :meth:`cancel` comes first."""

    __slots__ = ("address", "cancelled", "connection", "done", "request")

    def __init__(self, address: Address, request: bytes, done: Callable[[Answer], None]) -> None:
        self.address = address
        self.request = request
        self.done = done
        self.cancelled = False
        self.connection: Connection | None = None

    def cancel(self) -> None:
        """Nobody waits for the answer any more; a connection that is about to give it soon may still be kept."""
        self.cancelled = True
        if self.connection is not None:
            self.connection.linger(_LINGER)


@dataclass(slots=True)
class _Pool:
    """The connections to one replica."""

    idle: deque[Connection] = field(default_factory=deque)  # the most recently used last
    waiting: deque[Exchange] = field(default_factory=deque)
    open: set[Connection] = field(default_factory=set)


class Replicas:
    """Connections to the replicas of one service.

    ``tls`` is None for plain HTTP. ``server_name`` is the name that certificates must be for, since replicas are
    reached by address; without one it is the address itself. ``connect_timeout`` is in seconds and covers TLS.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLContext | None,
        server_name: str | None = None,
        connect_timeout: float = 1.0,
    ) -> None:
        self._loop = loop
        self._tls = tls
        self._server_name = server_name
        self._connect_timeout = connect_timeout
        self._pools: dict[Address, _Pool] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def ask(self, address: Address, request: bytes, done: Callable[[Answer], None]) -> Exchange:
        """Send ``request`` to a replica. ``done`` may be called before this returns."""
        exchange = Exchange(address, request, done)
        if not is_probed(address[0]):
            done(Answer(None, Trouble.REFUSED_ADDRESS, "not the address of an instance"))
            return exchange
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = _Pool()
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
        self._start(pool, exchange)
        return exchange

    @property
    def connections(self) -> int:
        """How many are open now."""
        return sum(len(pool.open) for pool in self._pools.values())

    @property
    def busy(self) -> int:
        """How many of them have a request under way."""
        return sum(not connection.resting for pool in self._pools.values() for connection in pool.open)

    def close(self) -> None:
        """Close every connection; of requests that are still under way nobody hears any more."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for pool in self._pools.values():
            for connection in pool.open:
                connection.close()
        self._pools = {}

    def _start(self, pool: _Pool, exchange: Exchange) -> None:
        now = self._loop.time()
        while pool.idle:
            connection = pool.idle.pop()
            if now - connection.idle_since <= LONGEST_IDLE:
                self._send(pool, connection, exchange, reused=True)
                return
            self._drop(pool, connection)
        if len(pool.open) >= LARGEST_POOL:
            pool.waiting.append(exchange)
            return
        self._connect(pool, exchange)

    def _connect(self, pool: _Pool, exchange: Exchange) -> None:
        connection = Connection(self._loop, exchange.address, self._tls, self._server_name)
        pool.open.add(connection)
        connection.open(self._connect_timeout)
        self._send(pool, connection, exchange, reused=False)

    def _send(self, pool: _Pool, connection: Connection, exchange: Exchange, *, reused: bool) -> None:
        exchange.connection = connection

        def answered(status: int | None, trouble: Trouble | None, words: str) -> None:
            if trouble is Trouble.CLOSED_UNUSED and reused and not exchange.cancelled:
                exchange.connection = None
                self._connect(pool, exchange)
                return
            exchange.connection = None
            if not exchange.cancelled:
                exchange.done(Answer(status, trouble, words))
            if status is not None and not connection.resting:
                connection.linger(_LINGER)

        def rested(usable: bool) -> None:  # noqa: FBT001 - a callback's only word
            if usable:
                connection.idle_since = self._loop.time()
                connection.when_lost(lambda: self._lost(pool, connection))
                pool.idle.append(connection)
            else:
                pool.open.discard(connection)
            self._next(pool)

        connection.exchange(exchange.request, answered, rested)

    def _next(self, pool: _Pool) -> None:
        while pool.waiting and (pool.idle or len(pool.open) < LARGEST_POOL):
            exchange = pool.waiting.popleft()
            if not exchange.cancelled:
                self._start(pool, exchange)

    def _lost(self, pool: _Pool, connection: Connection) -> None:
        """A connection that rested was closed by the other side."""
        pool.idle.remove(connection)
        pool.open.discard(connection)

    def _drop(self, pool: _Pool, connection: Connection) -> None:
        connection.when_lost(None)
        connection.close()
        pool.open.discard(connection)

    def _sweep(self) -> None:
        oldest = self._loop.time() - LONGEST_IDLE
        for pool in self._pools.values():
            while pool.idle and pool.idle[0].idle_since < oldest:
                self._drop(pool, pool.idle.popleft())
        self._pools = {address: pool for address, pool in self._pools.items() if pool.open or pool.waiting}
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep) if self._pools else None
