"""Requests to many replicas of one service at once, over connections that libcurl keeps.

An event loop drives one multi handle of libcurl. The sockets are in an epoll of their own, which the loop watches: one
turn of the loop takes all answers that have come, and kept connections stay in the epoll between requests. Everything
happens in the loop's thread; nothing here may be called from another.

An answer is known once its head is whole. libcurl then reads the rest, within limits, so that the connection can be
used again. libcurl repeats a request if a kept connection was closed before a byte of the answer came.
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
from syncline.clients.http.authorities import trust
from syncline.clients.replicas.instances import is_probed

LARGEST_POOL: Final = 32
"""Connections to one replica at a time; further requests wait for one of them."""
LONGEST_IDLE: Final = 30
"""Seconds after which a kept connection is not trusted any more: a network between may have forgotten it."""
LARGEST_HEAD: Final = 16 * 1024  # bytes of all status lines and header fields together
LARGEST_BODY: Final = 64 * 1024  # bytes; a connection with more to come is closed instead of read
_LINGER: Final = 2.0  # seconds that the rest of an answer nobody waits for may take
_SWEEP: Final = 30.0  # seconds after which all connections are closed if nothing was asked
_TICK: Final = 1e-6  # seconds that the loop may wake early
_MOST_KEPT: Final = 1 << 16  # connections in all; libcurl's own limit depends on how many requests are under way
_MOST_HANDLES: Final = 1024  # kept for further requests
_MOST_INTERIM: Final = 8  # interim answers before the final one
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
_FIELDS: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r?\n)*\r?\n")
_LENGTHS: Final = re.compile(rb"(?m)^(content-length|transfer-encoding):")
_LINE_ENDS: Final = (b"\r\n", b"\n")
_REFUSED: Final = 0  # bytes taken by a callback of libcurl, which ends the transfer

Address = tuple[str, int]


class Trouble(enum.Enum):
    """Why there is no status. The values are what people read."""

    UNREACHABLE = "unreachable"
    TLS_FAILED = "tls_failed"
    CUT_SHORT = "cut_short"
    GARBAGE = "garbage"
    REFUSED_ADDRESS = "refused_address"
    CLOSED_UNUSED = "closed"
    """The connection was closed before a line of the answer came."""


_TROUBLES: Final = {
    "TLS_FAILED": Trouble.TLS_FAILED,
    "BAD_ANSWER": Trouble.GARBAGE,
    "UNREACHABLE": Trouble.UNREACHABLE,
}
_BROKEN: Final = frozenset(
    {pycurl.E_OK, pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_PARTIAL_FILE}
)


class Answer(NamedTuple):
    """The result of one request: a status, or the trouble and a few words on it."""

    status: int | None
    trouble: Trouble | None = None
    words: str = ""


class Exchange:
    """One request under way; :attr:`done` is called with its answer, once, unless :meth:`cancel` comes first."""

    __slots__ = ("address", "cancelled", "done", "linger", "request")

    def __init__(self, address: Address, request: bytes, done: Callable[[Answer], None]) -> None:
        self.address = address
        self.request = request
        self.done = done
        self.cancelled = False
        self.linger: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Wait no more; a connection that is about to give the answer may still be kept."""
        self.cancelled = True
        if self.linger is not None:
            self.linger()


class _Head:
    """The head of an answer, line by line. It adds itself to ``known`` when it is whole."""

    __slots__ = ("_interim", "_known", "_lines", "easy", "exchange", "garbage", "plain", "size", "status", "timer")

    def __init__(self, easy: Any, exchange: Exchange, known: list[_Head], *, plain: bool) -> None:
        self.easy = easy
        self.exchange = exchange
        self.status: int | None = None
        self.garbage = ""  # the reason why this is no answer
        self.plain = plain  # the handle can be used again
        self.size = 0
        self.timer: asyncio.TimerHandle | None = None
        self._interim = 0
        self._known = known
        self._lines: list[bytes] = []

    def take(self, line: bytes) -> int | None:
        """Take a line of a head or a trailer field; libcurl's callback."""
        self.size += len(line)
        self._lines.append(line)
        if self.size > LARGEST_HEAD:
            self.garbage = "the head is too long"
        elif line in _LINE_ENDS and self.status is None:
            self._end()
        return _REFUSED if self.garbage else None

    def _end(self) -> None:
        match = _STATUS.fullmatch(self._lines[0])
        fields = b"".join(self._lines[1:])
        self._lines.clear()
        if match is None:
            self.garbage = "not HTTP"
        elif not _FIELDS.fullmatch(fields):
            self.garbage = "invalid header field"
        elif _has_two_lengths(fields.lower()):
            self.garbage = "two lengths"  # RFC 9112, section 6.3: a sign of request smuggling
        elif match[1] >= b"200":
            self.status = int(match[1])
            self._known.append(self)
        else:
            self._interim += 1
            if self._interim > _MOST_INTERIM or match[1] == b"101":
                self.garbage = "no final answer"


class Replicas:
    """Connections to the replicas of one service.

    ``authorities`` are the certificates to trust in PEM form, empty for the system's, None for plain HTTP.
    ``server_name`` is the name that certificates must be for, since replicas are reached by address; without one it is
    the address itself. ``connect_timeout`` is in seconds and covers TLS.
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
        self._place = lru_cache(maxsize=4096)(self._placed)
        self._multi: Any = None
        self._epoll: Any = None
        self._watched: set[int] = set()  # the sockets of requests under way
        self._armed: dict[int, int] = {}  # what the epoll waits for, by socket
        self._running: dict[Any, _Head] = {}  # by handle
        self._busy: dict[Address, int] = {}  # requests under way
        self._waiting: dict[Address, deque[Exchange]] = {}
        self._resting: deque[Any] = deque(maxlen=_MOST_HANDLES)
        self._known: list[_Head] = []  # those that became whole in this turn
        self._due = math.inf  # the time at which libcurl asked to be woken
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._asked = False  # since the last sweep

    def ask(self, address: Address, request: bytes, done: Callable[[Answer], None]) -> Exchange:
        """Send ``request`` to a replica. ``done`` may be called before this returns."""
        exchange = Exchange(address, request, done)
        if self._place(address) is None:
            done(Answer(None, Trouble.REFUSED_ADDRESS, "not the address of an instance"))
            return exchange
        if self._busy.get(address, 0) < LARGEST_POOL:
            self._start(exchange)
        else:
            self._waiting.setdefault(address, deque()).append(exchange)
        return exchange

    def close(self) -> None:
        """Close every connection. Requests under way get no answer."""
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
        self._resting.clear()
        self._watched.clear()
        self._armed.clear()

    def _start(self, exchange: Exchange) -> None:
        if self._multi is None:
            self._open()
        self._asked = True
        easy = self._resting.pop() if self._resting else self._handle()
        plain = self._prepare(easy, exchange.address, exchange.request)
        head = self._running[easy] = _Head(easy, exchange, self._known, plain=plain)
        easy.setopt(pycurl.HEADERFUNCTION, head.take)
        self._busy[exchange.address] = self._busy.get(exchange.address, 0) + 1
        exchange.linger = partial(self._linger, head)
        self._multi.add_handle(easy)

    def _open(self) -> None:
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._turn)
        self._multi = multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._wake)
        multi.setopt(pycurl.M_MAXCONNECTS, _MOST_KEPT)
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def _handle(self) -> Any:
        """Return a new handle of libcurl."""
        easy = pycurl.Curl()
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.SOCKOPTFUNCTION, self._forget)
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        easy.setopt(pycurl.PROXY, "")
        easy.setopt(pycurl.HTTP_CONTENT_DECODING, 0)
        easy.setopt(pycurl.CONNECTTIMEOUT_MS, round(self._connect_timeout * 1000))
        easy.setopt(pycurl.MAXAGE_CONN, LONGEST_IDLE)
        easy.setopt(pycurl.MAXFILESIZE, LARGEST_BODY)
        easy.setopt(pycurl.WRITEFUNCTION, len)  # a body's bytes are counted and dropped
        if self._authorities is not None:
            easy.setopt(pycurl.SSL_SESSIONID_CACHE, 0)  # all replicas have one name, and no session of each other's
            trust(easy, self._authorities or None, system=not self._authorities)
        return easy

    def _placed(self, address: Address) -> tuple[str, list[str]] | None:
        """Return URL and true address of a replica as libcurl takes them, None for what is no replica's address."""
        host, port = address
        if not is_probed(host):
            return None
        scheme = "http" if self._authorities is None else "https"
        return f"{scheme}://{_in_url(self._server_name or host)}:{port}/", [f"::{_in_url(host)}:{port}"]

    def _prepare(self, easy: Any, address: Address, request: bytes) -> bool:
        """Set what a request is; return True if the next one may replace all of it."""
        place = self._place(address)
        assert place is not None
        method, target, fields, body = _parts(request)
        easy.setopt(pycurl.URL, place[0])
        easy.setopt(pycurl.CONNECT_TO, place[1])
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

    # -- the loop

    def _watch(self, what: int, fd: int, _multi: Any, _data: Any) -> None:
        """Watch a socket for libcurl, or no more."""
        if what == pycurl.POLL_REMOVE:
            self._watched.discard(fd)
            return
        self._watched.add(fd)
        if self._armed.get(fd) == what:
            return  # a connection that was kept stays in the epoll, which saves two system calls
        self._armed[fd] = what
        events = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        try:
            self._epoll.modify(fd, events)
        except FileNotFoundError:
            self._epoll.register(fd, events)

    def _forget(self, fd: int, _purpose: int) -> int:
        """Forget a socket of the same number that was closed; libcurl's callback for a new one."""
        self._armed.pop(fd, None)
        return int(pycurl.SOCKOPT_OK)

    def _wake(self, milliseconds: int) -> None:
        """Wake libcurl after a time; -1 for never."""
        self._due = math.inf if milliseconds < 0 else self._loop.time() + milliseconds / 1000
        self._set_timer()

    def _set_timer(self) -> None:
        """Set the timer, unless there is one that is due earlier: to wake in vain costs less than a timer."""
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

    def _turn(self) -> None:
        """Send and receive whatever can be at once."""
        for fd, events in self._epoll.poll(0):
            if fd in self._watched:
                out = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
                self._multi.socket_action(fd, out | (pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0))
            else:  # a kept connection was closed; libcurl finds out when it would use it
                self._armed.pop(fd, None)
                with suppress(OSError):
                    self._epoll.unregister(fd)
        self._settle()

    def _settle(self) -> None:
        """Tell what came in this turn, and take handles back whose transfers are over."""
        answers: list[tuple[_Head, Answer]] = []
        queued = 1
        while queued:
            queued, good, bad = self._multi.info_read()
            for easy, number, words in [*((easy, 0, "") for easy in good), *bad]:
                head = self._running[easy]
                if head.status is None:
                    answers.append((head, _failure(head, number, words)))
                self._release(head)
        for head in self._known:
            answers.append((head, Answer(head.status)))
            self._linger(head)
        self._known.clear()
        for head, answer in answers:
            if not head.exchange.cancelled:
                head.exchange.done(answer)

    def _linger(self, head: _Head) -> None:
        """Give a transfer that nobody waits for a little time, if it is still under way."""
        if self._running.get(head.easy) is head and head.timer is None:
            head.timer = self._loop.call_later(_LINGER, self._release, head)

    def _release(self, head: _Head) -> None:
        """Take a handle back. Its connection is closed unless the answer came to its end."""
        del self._running[head.easy]
        head.exchange.linger = None
        if head.timer is not None:
            head.timer.cancel()
        self._multi.remove_handle(head.easy)
        if head.plain:
            self._resting.append(head.easy)
        address = head.exchange.address
        self._busy[address] -= 1
        waiting = self._waiting.get(address)
        while waiting and self._busy[address] < LARGEST_POOL:
            exchange = waiting.popleft()
            if not exchange.cancelled:
                self._start(exchange)

    def _sweep(self) -> None:
        """Close all connections if nothing was asked since the last time."""
        self._busy = {address: count for address, count in self._busy.items() if count}
        self._waiting = {address: waiting for address, waiting in self._waiting.items() if waiting}
        if self._asked or self._running:
            self._asked = False
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
        else:
            self.close()


@lru_cache(maxsize=64)  # all replicas get the same request
def _parts(request: bytes) -> tuple[str, str, list[bytes], bytes | None]:
    """Return method, target, header fields and body of a request, as libcurl takes them."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.decode().split(" ")
    names = [line.partition(b":")[0].lower() for line in lines]
    # A field without a value ends in a semicolon for libcurl.
    fields = [line if line.partition(b":")[2].strip() else line.rstrip(b": \t") + b";" for line in lines]
    has_body = b"content-length" in names
    # With a colon alone, libcurl does not add a field of its own.
    own = (b"Accept", b"User-Agent", *((b"Content-Type", b"Expect") if has_body else ()))
    given = [field for name, field in zip(names, fields, strict=True) if name != b"content-length"]
    given += [name + b":" for name in own if name.lower() not in names]
    return method, target, given, body if has_body else None


def _has_two_lengths(fields: bytes) -> bool:
    """Return True if header fields in lower case have both ways to say a length."""
    both = b"transfer-encoding:" in fields and b"content-length:" in fields
    return both and len(set(_LENGTHS.findall(fields))) > 1


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _failure(head: _Head, number: int, words: str) -> Answer:
    """Return why there is no status."""
    if head.garbage:
        return Answer(None, Trouble.GARBAGE, head.garbage)
    if number in _BROKEN:  # pycurl.E_OK: libcurl takes the end of a connection for the end of a head
        if head.size:
            return Answer(None, Trouble.CUT_SHORT, "closed within the answer")
        return Answer(None, Trouble.CLOSED_UNUSED, "closed without an answer")
    system_error = head.easy.getinfo(pycurl.OS_ERRNO)
    if number == pycurl.E_COULDNT_CONNECT and system_error:
        return Answer(None, Trouble.UNREACHABLE, os.strerror(system_error))
    if number == pycurl.E_SSL_CACERT_BADFILE:
        return Answer(None, Trouble.TLS_FAILED, "the authorities to trust are not certificates in PEM form")
    code, why = failures.of_libcurl(number, words, system_error)
    return Answer(None, _TROUBLES[code], why)
