"""A client that sends one HTTP/1.1 request to many replicas of a service at once, over kept connections.

An asyncio event loop drives one libcurl multi handle. The sockets are in a separate epoll that the loop watches, so one
call processes all responses received so far, and kept connections stay in the epoll between requests. All functions
must be called in the loop's thread.

A request is answered by the status once the response head is complete. libcurl then reads the body, within limits, so
that the connection can be reused. libcurl repeats a request if a kept connection was closed before the first byte of
the response.
"""

from __future__ import annotations

import asyncio
import enum
import math
import os
import re
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import pycurl

from syncline.clients.http import failures
from syncline.clients.http.authorities import set_authorities
from syncline.clients.replicas.instances import is_probed

MAX_CONNECTIONS: Final = 32
"""Maximum concurrent connections to one replica; further requests wait."""
MAX_IDLE: Final = 30
"""Seconds after which an idle connection is not reused: the network may have dropped it."""
MAX_HEAD: Final = 16 * 1024  # bytes of all status lines and header fields together
MAX_BODY: Final = 64 * 1024  # bytes; a connection with a longer body is closed
_LINGER: Final = 2.0  # seconds that the rest of a response may take
_SWEEP: Final = 30.0  # seconds without a request after which all connections are closed
_TICK: Final = 1e-6  # seconds that the loop may wake early
_MAX_KEPT: Final = 1 << 16  # connections in total; libcurl's default depends on the number of running requests
_MAX_HANDLES: Final = 1024  # kept for further requests
_MAX_INTERIM: Final = 8  # interim answers before the final one
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
_FIELDS: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r?\n)*\r?\n")
_LENGTHS: Final = re.compile(rb"(?m)^(content-length|transfer-encoding):")
_LINE_ENDS: Final = (b"\r\n", b"\n")
_ABORT: Final = 0  # bytes taken, returned by a libcurl callback to end the transfer

Address = tuple[str, int]


class FailureReason(enum.Enum):
    """Reasons for a missing status. The values are shown to users."""

    UNREACHABLE = "unreachable"
    TLS_FAILED = "tls_failed"
    CUT_SHORT = "cut_short"
    GARBAGE = "garbage"
    REFUSED_ADDRESS = "refused_address"
    CLOSED_UNUSED = "closed"
    """The connection was closed before the first line of the response."""


_REASONS: Final = {
    "TLS_FAILED": FailureReason.TLS_FAILED,
    "BAD_ANSWER": FailureReason.GARBAGE,
    "UNREACHABLE": FailureReason.UNREACHABLE,
}
_BROKEN: Final = frozenset(
    {pycurl.E_OK, pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_PARTIAL_FILE}
)


class ReplicaResponse(NamedTuple):
    """The result of one request: a status, or the reason for its absence with details. ``body`` only if it was requested."""

    status: int | None
    reason: FailureReason | None = None
    detail: str = ""
    body: bytes = b""

    @property
    def text(self) -> str:
        """The status, or the reason and the details, for a report."""
        if self.status is not None:
            return f"answered {self.status}"
        return ": ".join(filter(None, (self.reason and self.reason.value, self.detail)))


class ReplicaRequest:
    """A running request. :attr:`done` is called once with the response, unless :meth:`cancel` is called first."""

    __slots__ = ("address", "body", "cancelled", "done", "linger", "request")

    def __init__(
        self, address: Address, request: bytes, done: Callable[[ReplicaResponse], None], body: bytearray | None = None
    ) -> None:
        self.address = address
        self.body = body  # where the body is collected, None if it is dropped
        self.request = request
        self.done = done
        self.cancelled = False
        self.linger: Callable[[], None] | None = None

    def collect(self, data: bytes) -> int | None:
        """Add a part of the body; libcurl's callback."""
        assert self.body is not None
        self.body += data
        return _ABORT if len(self.body) > MAX_BODY else None

    def cancel(self) -> None:
        """Cancel the request. Its connection is kept if the response is complete soon."""
        self.cancelled = True
        if self.linger is not None:
            self.linger()


class _Head:
    """The head of a response, line by line. Appends itself to ``known`` when it is complete."""

    __slots__ = ("_interim", "_known", "_lines", "easy", "exchange", "garbage", "plain", "size", "status", "timer")

    def __init__(self, easy: Any, exchange: ReplicaRequest, known: list[_Head], *, plain: bool) -> None:
        self.easy = easy
        self.exchange = exchange
        self.status: int | None = None
        self.garbage = ""  # the reason why the response is invalid
        self.plain = plain  # the handle can be reused
        self.size = 0
        self.timer: asyncio.TimerHandle | None = None
        self._interim = 0
        self._known = known
        self._lines: list[bytes] = []

    def take(self, line: bytes) -> int | None:
        """Process a line of a head, or a trailer field; libcurl's callback."""
        self.size += len(line)
        self._lines.append(line)
        if self.size > MAX_HEAD:
            self.garbage = "the head is too long"
        elif line in _LINE_ENDS and self.status is None:
            self._end()
        return _ABORT if self.garbage else None

    def _end(self) -> None:
        match = _STATUS.fullmatch(self._lines[0])
        fields = b"".join(self._lines[1:])
        self._lines.clear()
        if match is None:
            self.garbage = "not HTTP"
        elif not _FIELDS.fullmatch(fields):
            self.garbage = "invalid header field"
        elif _has_two_lengths(fields.lower()):
            self.garbage = "two lengths"  # RFC 9112, section 6.3: may be request smuggling
        elif match[1] >= b"200":
            self.status = int(match[1])
            self._known.append(self)
        else:
            self._interim += 1
            if self._interim > _MAX_INTERIM or match[1] == b"101":
                self.garbage = "no final answer"


class ReplicaClient:
    """Connections to the replicas of one service.

    ``authorities`` are the trusted certificates in PEM form, empty for the system's, None for plain HTTP. Replicas are
    reached by address, so ``server_name`` is the name in their certificates; without one, certificates must be for the
    address. ``connect_timeout`` is in seconds and includes TLS.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        authorities: str | None,
        server_name: str | None = None,
        connect_timeout: float = 1.0,
    ) -> None:
        self._loop = loop
        self._authorities = authorities
        self._server_name = server_name
        self._connect_timeout = connect_timeout
        self._url_of = lru_cache(maxsize=4096)(self._url)
        self._multi: Any = None
        self._epoll: Any = None
        self._watched: set[int] = set()  # sockets of running requests
        self._armed: dict[int, int] = {}  # events that the epoll waits for, by socket
        self._running: dict[Any, _Head] = {}  # by handle
        self._busy: dict[Address, int] = {}  # number of running requests
        self._waiting: dict[Address, deque[ReplicaRequest]] = {}
        self._idle: deque[Any] = deque(maxlen=_MAX_HANDLES)
        self._known: list[_Head] = []  # completed in this call
        self._due = math.inf  # the time at which libcurl wants to be called
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._used = False  # since the last sweep

    def send(
        self, address: Address, request: bytes, done: Callable[[ReplicaResponse], None], *, with_body: bool = False
    ) -> ReplicaRequest:
        """Send ``request`` to a replica. ``done`` may be called before this returns.

        ``with_body`` reports the response only when its body is complete.
        """
        exchange = ReplicaRequest(address, request, done, bytearray() if with_body else None)
        if self._url_of(address) is None:
            done(ReplicaResponse(None, FailureReason.REFUSED_ADDRESS, "not the address of an instance"))
            return exchange
        if self._busy.get(address, 0) < MAX_CONNECTIONS:
            self._start(exchange)
        else:
            self._waiting.setdefault(address, deque()).append(exchange)
        return exchange

    def close(self) -> None:
        """Close every connection. Running requests get no response."""
        if self._multi is None:
            return
        self._waiting.clear()
        for head in list(self._running.values()):
            self._release(head)
        self._multi.close()
        self._multi = None
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        for timer in filter(None, (self._timer, self._sweeper)):
            timer.cancel()
        self._timer, self._due = None, math.inf
        self._idle.clear()
        self._watched.clear()
        self._armed.clear()

    def _start(self, exchange: ReplicaRequest) -> None:
        if self._multi is None:
            self._open()
        self._used = True
        easy = self._idle.pop() if self._idle else self._handle()
        plain = self._prepare(easy, exchange.address, exchange.request) and exchange.body is None
        if exchange.body is not None:
            easy.setopt(pycurl.WRITEFUNCTION, exchange.collect)
        head = self._running[easy] = _Head(easy, exchange, self._known, plain=plain)
        easy.setopt(pycurl.HEADERFUNCTION, head.take)
        self._busy[exchange.address] = self._busy.get(exchange.address, 0) + 1
        exchange.linger = partial(self._linger, head)
        self._multi.add_handle(easy)

    def _open(self) -> None:
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._transfer)
        self._multi = multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._wake)
        multi.setopt(pycurl.M_MAXCONNECTS, _MAX_KEPT)
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def _handle(self) -> Any:
        """Return a new libcurl handle."""
        easy = pycurl.Curl()
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.SOCKOPTFUNCTION, self._forget)
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        easy.setopt(pycurl.PROXY, "")
        easy.setopt(pycurl.HTTP_CONTENT_DECODING, 0)
        easy.setopt(pycurl.CONNECTTIMEOUT_MS, round(self._connect_timeout * 1000))
        easy.setopt(pycurl.MAXAGE_CONN, MAX_IDLE)
        easy.setopt(pycurl.MAXFILESIZE, MAX_BODY)
        easy.setopt(pycurl.WRITEFUNCTION, len)  # drop the body
        if self._authorities is not None:
            easy.setopt(pycurl.SSL_SESSIONID_CACHE, 0)  # replicas share a name, but not their sessions
            set_authorities(easy, self._authorities or None, system=not self._authorities)
        return easy

    def _url(self, address: Address) -> tuple[str, list[str]] | None:
        """Return the URL of a replica and its address for CONNECT_TO, None for an address that must not be probed."""
        host, port = address
        if not is_probed(host):
            return None
        scheme = "http" if self._authorities is None else "https"
        return f"{scheme}://{_in_url(self._server_name or host)}:{port}/", [f"::{_in_url(host)}:{port}"]

    def _prepare(self, easy: Any, address: Address, request: bytes) -> bool:
        """Set the options of a request; return True if the next request overwrites all of them."""
        url = self._url_of(address)
        assert url is not None
        method, target, fields, body = _parts(request)
        easy.setopt(pycurl.URL, url[0])
        easy.setopt(pycurl.CONNECT_TO, url[1])
        easy.setopt(pycurl.REQUEST_TARGET, target)
        easy.setopt(pycurl.HTTPHEADER, fields)
        if method == "GET" and body is None:
            return True
        if method == "HEAD":
            easy.setopt(pycurl.NOBODY, 1)
        else:
            easy.setopt(pycurl.CUSTOMREQUEST, method)
        if body is not None:
            easy.setopt(pycurl.POSTFIELDS, body)
        return False

    # -- libcurl's callbacks and the event loop

    def _watch(self, what: int, fd: int, _multi: Any, _data: Any) -> None:
        """Start or stop to watch a socket for libcurl."""
        if what == pycurl.POLL_REMOVE:
            self._watched.discard(fd)
            return
        self._watched.add(fd)
        if self._armed.get(fd) == what:
            return  # a kept connection stays in the epoll, which saves two system calls
        self._armed[fd] = what
        events = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        try:
            self._epoll.modify(fd, events)
        except FileNotFoundError:
            self._epoll.register(fd, events)

    def _forget(self, fd: int, _purpose: int) -> int:
        """Forget the closed socket that had the same number; libcurl's callback for a new socket."""
        self._armed.pop(fd, None)
        return int(pycurl.SOCKOPT_OK)

    def _wake(self, milliseconds: int) -> None:
        """Call libcurl after a time, -1 for never."""
        self._due = math.inf if milliseconds < 0 else self._loop.time() + milliseconds / 1000
        self._set_timer()

    def _set_timer(self) -> None:
        """Set the timer, unless the current one is due earlier: an early call costs less than a new timer."""
        if self._due == math.inf or (self._timer is not None and self._timer.when() <= self._due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._due, self._timeout)

    def _timeout(self) -> None:
        self._timer = None
        if self._due > self._loop.time() + _TICK:
            self._set_timer()
            return
        self._due = math.inf
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._settle()

    def _transfer(self) -> None:
        """Send and receive on all sockets that are ready."""
        for fd, events in self._epoll.poll(0):
            if fd in self._watched:
                out = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
                self._multi.socket_action(fd, out | (pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0))
            else:  # a kept connection was closed; libcurl notices before it reuses it
                self._armed.pop(fd, None)
                with suppress(OSError):
                    self._epoll.unregister(fd)
        self._settle()

    def _settle(self) -> None:
        """Report the responses of this call, and release the handles of finished transfers."""
        answers: list[tuple[_Head, ReplicaResponse]] = []
        queued = 1
        while queued:
            queued, good, bad = self._multi.info_read()
            for easy, number, words in [*((easy, 0, "") for easy in good), *bad]:
                head = self._running[easy]
                body = head.exchange.body
                if head.status is None or (body is not None and number):
                    answers.append((head, _failure(head, number, words)))
                elif body is not None:
                    answers.append((head, ReplicaResponse(head.status, body=bytes(body))))
                self._release(head)
        for head in self._known:
            if head.exchange.body is None:
                answers.append((head, ReplicaResponse(head.status)))
            self._linger(head)
        self._known.clear()
        for head, answer in answers:
            if not head.exchange.cancelled:
                head.exchange.done(answer)

    def _linger(self, head: _Head) -> None:
        """Limit the remaining time of a transfer whose status is known or not needed."""
        if self._running.get(head.easy) is head and head.timer is None:
            head.timer = self._loop.call_later(_LINGER, self._release, head)

    def _release(self, head: _Head) -> None:
        """Release a handle. Its connection is closed unless the response is complete."""
        del self._running[head.easy]
        head.exchange.linger = None
        if head.timer is not None:
            head.timer.cancel()
        self._multi.remove_handle(head.easy)
        if head.plain:
            self._idle.append(head.easy)
        address = head.exchange.address
        self._busy[address] -= 1
        waiting = self._waiting.get(address)
        while waiting and self._busy[address] < MAX_CONNECTIONS:
            exchange = waiting.popleft()
            if not exchange.cancelled:
                self._start(exchange)

    def _sweep(self) -> None:
        """Close all connections if no request was sent since the last sweep."""
        self._busy = {address: count for address, count in self._busy.items() if count}
        self._waiting = {address: waiting for address, waiting in self._waiting.items() if waiting}
        if self._used or self._running:
            self._used = False
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
        else:
            self.close()


@lru_cache(maxsize=64)  # all replicas get the same request
def _parts(request: bytes) -> tuple[str, str, list[bytes], bytes | None]:
    """Return method, target, header fields and body of a request in the form of libcurl's options."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.decode().split(" ")
    names = [line.partition(b":")[0].lower() for line in lines]
    # libcurl wants a field without a value to end in a semicolon.
    fields = [line if line.partition(b":")[2].strip() else line.rstrip(b": \t") + b";" for line in lines]
    has_body = b"content-length" in names
    # A name and a colon keep libcurl from adding the field itself.
    own = (b"Accept", b"User-Agent", *((b"Content-Type", b"Expect") if has_body else ()))
    given = [field for name, field in zip(names, fields, strict=True) if name != b"content-length"]
    given += [name + b":" for name in own if name.lower() not in names]
    return method, target, given, body if has_body else None


def _has_two_lengths(fields: bytes) -> bool:
    """Return True if header fields, in lower case, have both Content-Length and Transfer-Encoding."""
    both = b"transfer-encoding:" in fields and b"content-length:" in fields
    return both and len(set(_LENGTHS.findall(fields))) > 1


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _failure(head: _Head, number: int, words: str) -> ReplicaResponse:
    """Return the response for a transfer without a status."""
    if head.garbage:
        return ReplicaResponse(None, FailureReason.GARBAGE, head.garbage)
    if number in _BROKEN:  # E_OK: libcurl treats the end of a connection as the end of a head
        if head.size:
            return ReplicaResponse(None, FailureReason.CUT_SHORT, "closed within the response")
        return ReplicaResponse(None, FailureReason.CLOSED_UNUSED, "closed without a response")
    system_error = head.easy.getinfo(pycurl.OS_ERRNO)
    if number == pycurl.E_COULDNT_CONNECT and system_error:
        return ReplicaResponse(None, FailureReason.UNREACHABLE, os.strerror(system_error))
    if number == pycurl.E_SSL_CACERT_BADFILE:
        return ReplicaResponse(None, FailureReason.TLS_FAILED, "the trusted authorities are not PEM certificates")
    code, why = failures.code_of_libcurl(number, words, system_error)
    return ReplicaResponse(None, _REASONS[code], why)
