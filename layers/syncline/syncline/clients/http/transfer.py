"""HTTP/1.1 transfers through libcurl: one request and its response, complete or as a stream.

A :class:`Channel` is a libcurl handle and the multi handle that drives it. It keeps a connection to one server and
serves one thread at a time. libcurl sends and receives only while :meth:`Transfer._advance` runs, so a stream that is
not read holds at most the bytes of one call. A connection is reused only after a complete response.

libcurl connects, speaks TLS and parses responses (RFC 9112), with its own limits for heads. This module adds checks of
addresses before connecting, of header names and values, and of the announced length of a streamed body.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from math import ceil
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import pycurl

from syncline.clients.http import failures
from syncline.clients.http.addresses import Address, Route, is_refused
from syncline.clients.http.authorities import set_authorities
from syncline.clients.http.limits import BodyReader, HttpRequest, TransferLimits
from syncline.errors import SynclineError

CONNECT_TIMEOUT: Final = 5.0
POOL_SIZE: Final = 32  # idle channels kept per server; more may be in use, the surplus is closed afterwards
MAX_POOLS: Final = 64  # servers; the oldest pool is dropped
MAX_CONNECTION_AGE: Final = 300  # seconds; a new connection resolves the name again
POLL_INTERVAL: Final = 1.0  # seconds after which a wait checks for a halt
_RECEIVE_BUFFER: Final = 32 * 1024  # bytes that libcurl reads at once; one call reads up to twenty times as much
_SEND_BUFFER: Final = 256 * 1024  # bytes that libcurl requests from a streamed body at once
_IN_MEMORY: Final = 64 * 1024  # bytes; a body up to this size is sent together with the head
_TARGET: Final = re.compile(r"/[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD: Final = re.compile(rf"(?m)^({_TOKEN.pattern}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)\r?\n")
_LINE_ENDS: Final = (b"\r\n", b"\n")
_SUPPRESS_CONNECT_HEADERS: Final = 265  # which pycurl does not name
_WITH_BODY: Final = frozenset({"PUT", "POST", "PATCH"})

Lines = list[bytes]


class Headers(Mapping[str, str]):
    """Header fields by name, case-insensitive. The values of a repeated field are joined by commas."""

    __slots__ = ("_fields", "_values")

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._fields = fields
        values: dict[str, str] = {}
        for name, value in fields:
            known = values.get(name)
            values[name] = value if known is None else f"{known}, {value}"
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def value(self, name: str) -> str:
        """Return a field's value, or the empty string."""
        return self._values.get(name.lower(), "")

    def starting(self, prefix: str) -> dict[str, str]:
        """Return the fields whose names begin with ``prefix`` (in lower case), by the rest of their names."""
        return {name[len(prefix) :]: value for name, value in self._values.items() if name.startswith(prefix)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def all(self, name: str) -> list[str]:
        """Return every value of a field that may be repeated."""
        lower = name.lower()
        return [value for field, value in self._fields if field == lower]


class Channel:
    """A libcurl handle that keeps a connection to one server. Used by one thread at a time."""

    __slots__ = ("_plain", "_poll", "_ready", "easy", "multi", "refused")

    def __init__(self, scheme: str, route: Route) -> None:
        self.refused = ""  # the resolved address that is_refused() rejected
        self._plain = True
        self._poll = select.poll()  # select(2), which CurlMulti.select() calls, ignores descriptors from 1024
        self._ready: list[tuple[int, int]] = []  # descriptors and what libcurl can do with them
        self.multi = pycurl.CurlMulti()
        self.multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self.easy = easy = pycurl.Curl()
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        easy.setopt(pycurl.PROXY, route.proxy or "")
        easy.setopt(pycurl.NOPROXY, "")
        easy.setopt(_SUPPRESS_CONNECT_HEADERS, 1)
        easy.setopt(pycurl.PATH_AS_IS, 1)
        easy.setopt(pycurl.HTTP_CONTENT_DECODING, 0)
        easy.setopt(pycurl.BUFFERSIZE, _RECEIVE_BUFFER)
        easy.setopt(pycurl.UPLOAD_BUFFERSIZE, _SEND_BUFFER)
        easy.setopt(pycurl.CONNECTTIMEOUT_MS, round(CONNECT_TIMEOUT * 1000))
        easy.setopt(pycurl.MAXLIFETIME_CONN, MAX_CONNECTION_AGE)
        easy.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        if route.proxy and scheme == "http":
            easy.setopt(pycurl.FORBID_REUSE, 1)  # some proxies, such as tinyproxy, close connections without notice
        if scheme == "https":
            set_authorities(easy, route.ca, system=True)

    def start(self, method: str, url: str, fields: list[str], body: bytes | BodyReader | None) -> tuple[Lines, Lines]:
        """Begin a request; return the lists to which libcurl appends the response's header lines and body chunks."""
        easy = self.easy
        lines: Lines = []
        chunks: Lines = []
        easy.setopt(pycurl.HEADERFUNCTION, lines.append)
        easy.setopt(pycurl.WRITEFUNCTION, chunks.append)
        easy.setopt(pycurl.URL, url)
        easy.setopt(pycurl.HTTPHEADER, fields)
        plain = method == "GET" and body is None
        if not (plain and self._plain):
            easy.setopt(pycurl.HTTPGET, 1)
            easy.unsetopt(pycurl.CUSTOMREQUEST)
            if method == "HEAD":
                easy.setopt(pycurl.NOBODY, 1)
            elif not plain:
                easy.setopt(pycurl.CUSTOMREQUEST, method)
            if isinstance(body, bytes):
                easy.setopt(pycurl.POSTFIELDS, body)
            elif body is not None:
                easy.setopt(pycurl.UPLOAD, 1)
                easy.setopt(pycurl.INFILESIZE_LARGE, body.size)
                easy.setopt(pycurl.READFUNCTION, body.give)
        self._plain = plain
        self.refused = ""
        self._ready.clear()
        self.multi.add_handle(easy)
        return lines, chunks

    def perform(self) -> bool:
        """Send and receive what the last wait found ready; return False once the request has ended."""
        ready = self._ready or [(pycurl.SOCKET_TIMEOUT, 0)]
        self._ready = []
        running = 1
        for descriptor, events in ready:
            running = self.multi.socket_action(descriptor, events)[1]
        return bool(running)

    def stop(self) -> None:
        """End the request. The connection is closed unless the response is complete."""
        self.multi.remove_handle(self.easy)
        if not self._plain:
            self.easy.unsetopt(pycurl.READFUNCTION)  # it references the body

    def wait(self, seconds: float) -> float:
        """Wait up to ``seconds`` until libcurl can continue; return the seconds waited."""
        timer = self.multi.timeout()  # in milliseconds; -1 for none
        if timer == 0:
            return 0.0
        began = monotonic()
        seconds = min(seconds, POLL_INTERVAL)
        self.poll(min(seconds * 1000, timer) if timer > 0 else seconds * 1000)
        return monotonic() - began

    def poll(self, milliseconds: float) -> None:
        """Wait until a socket is ready for :meth:`perform`."""
        for descriptor, events in self._poll.poll(ceil(milliseconds)):
            can_send = pycurl.CSELECT_OUT if events & select.POLLOUT else 0
            self._ready.append((descriptor, can_send | (pycurl.CSELECT_IN if events & ~select.POLLOUT else 0)))

    def _watch(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        """Start or stop to watch a socket for libcurl."""
        if what == pycurl.POLL_REMOVE:
            with suppress(KeyError):
                self._poll.unregister(descriptor)
            return
        events = (select.POLLIN if what & pycurl.POLL_IN else 0) | (select.POLLOUT if what & pycurl.POLL_OUT else 0)
        self._poll.register(descriptor, events)

    def _open_socket(self, _purpose: int, address: Any) -> Any:
        """Open a socket for a resolved address, unless the address is refused."""
        family, kind, protocol, peer = address
        if is_refused(peer[0]):
            self.refused = peer[0]
            return pycurl.SOCKET_BAD
        return open_socket(family, kind, protocol, peer[0])


class _Socket(socket.socket):
    """A socket that is closed when collected; libcurl uses a duplicate."""

    def __del__(self) -> None:
        self.close()


def open_socket(family: int, kind: int, protocol: int, peer: str) -> socket.socket:
    """Open a socket for a connection to the address ``peer``."""
    del peer
    return _Socket(family, kind, protocol)


class ChannelPool:
    """The idle channels to one server. The most recently used one is taken first."""

    def __init__(self, scheme: str, route: Route) -> None:
        if route.ca is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=route.ca)
            except (ssl.SSLError, ValueError) as error:
                raise SynclineError("CONFIG_INVALID", "`ca` is not a PEM certificate") from error
        self._scheme = scheme
        self._route = route
        self._idle: deque[Channel] = deque()

    def take(self) -> Channel:
        """Return an idle channel, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            return Channel(self._scheme, self._route)

    def give_back(self, channel: Channel) -> None:
        """Make the channel available to others."""
        if len(self._idle) < POOL_SIZE:
            self._idle.append(channel)


_pools: Final[dict[tuple[str, str, Route], ChannelPool]] = {}
_pools_lock: Final = threading.Lock()


def pool_for(address: Address, route: Route) -> ChannelPool:
    """Return the process's pool for a server. Raises ADDRESS_REFUSED for a host that :func:`is_refused` rejects."""
    key = (address.scheme, address.host, route)
    pool = _pools.get(key)
    if pool is None:
        if is_refused(address.name):
            raise SynclineError("ADDRESS_REFUSED", f"{address.name} is a link-local or metadata address")
        with _pools_lock:
            pool = _pools.get(key)
            if pool is None:
                pool = ChannelPool(address.scheme, route)
                if len(_pools) >= MAX_POOLS:
                    del _pools[next(iter(_pools))]
                _pools[key] = pool
    return pool


class Transfer:
    """A request in progress whose response head has been received. Reading to the end releases its channel.

    ``at_end`` is called once at the end of the response, or when it is closed.

    Raises UNREACHABLE, TLS_FAILED, PROXY_REFUSED, ADDRESS_REFUSED, BAD_ANSWER, SOURCE_CHANGED, TOO_SLOW, TIME_SHORT,
    RUN_CANCELLED, and the exceptions of a streamed body.
    """

    __slots__ = (
        "_at_end",
        "_body",
        "_channel",
        "_chunks",
        "_error",
        "_limits",
        "_lines",
        "_pool",
        "_taken",
        "headers",
        "status",
        "through",
    )

    def __init__(self, request: HttpRequest, limits: TransferLimits, at_end: Callable[[], None] = lambda: None) -> None:
        self._at_end = at_end
        self.through = request.route.through  # the proxy, for errors
        self._limits = limits
        self._error: SynclineError | None = None
        self._body: BodyReader | None = None
        self._taken = 0  # bytes of the body that were sent
        self._pool = pool_for(request.address, request.route)
        self._channel: Channel | None = self._pool.take()
        try:
            self._lines, self._chunks = self._start(self._channel, request)
            self.status, self.headers = self._receive_head()
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> bool:
        """Return True if the complete body of the request was sent."""
        return self._body is None or self._body.ended

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes of the body, none at its end, but possibly fewer at any time."""
        chunks = self._chunks
        while not chunks:
            if self._channel is None:
                if self._error is not None:
                    raise self._error
                return b""
            self._advance(self._channel)
        count = total = 0
        for chunk in chunks:
            total += len(chunk)
            if total > size:
                break
            count += 1
        if count == 0:
            given, chunks[0] = chunks[0][:size], chunks[0][size:]
            return given
        given = chunks[0] if count == 1 else b"".join(chunks[:count])
        del chunks[:count]
        return given

    def read_all(self, limit: int) -> bytes:
        """Return the body, decoded by its ``Content-Encoding``, or more than ``limit`` bytes if it is longer."""
        while self._channel is not None and sum(map(len, self._chunks)) <= limit:
            self._advance(self._channel)
        content = b"".join(self._chunks)
        self._chunks.clear()
        if self._error is not None:
            raise self._error
        coding = self.headers.value("content-encoding").strip().lower()
        if not content or coding not in ("gzip", "x-gzip", "deflate"):
            return content
        try:
            unpacking = zlib.decompressobj(zlib.MAX_WBITS | (16 if "gzip" in coding else 0))
            unpacked = unpacking.decompress(content, limit + 1)
        except zlib.error:
            what = f"the body is not valid {coding}, its Content-Encoding"
            raise self._limits.failed("BAD_ANSWER", what) from None
        if not unpacking.eof and len(unpacked) <= limit:
            raise self._limits.failed("BAD_ANSWER", f"the body is truncated {coding}, its Content-Encoding")
        return unpacked

    def close(self) -> None:
        """Close the connection, unless the response is complete."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.stop()
            self._chunks = []
            self._pool.give_back(channel)
            self._at_end()

    def _start(self, channel: Channel, request: HttpRequest) -> tuple[Lines, Lines]:
        headers, body = request.headers, self._given(request)
        fields = [
            f"{name}: {value}" if value else f"{name};" for name, value in headers.items() if name != "Content-Length"
        ]
        # A name without a value keeps libcurl from adding the field itself.
        if "Accept" not in headers:
            fields.append("Accept:")
        if body is not None:
            fields.append("Expect:")
            if "Content-Type" not in headers:
                fields.append("Content-Type:")
        if request.route.proxy and request.address.scheme == "http" and request.method in ("GET", "HEAD"):
            fields.append("Cache-Control: no-cache")  # a proxy may keep responses
        self._limits.begin(body=self._body is not None)
        target = request.address.target
        if not _TARGET.fullmatch(target):
            target = _sendable(target)
        return channel.start(request.method, f"{request.address.origin}{target}", fields, body)

    def _given(self, request: HttpRequest) -> bytes | BodyReader | None:
        """Return the body in a form for libcurl."""
        body = request.body
        if body is None:
            return b"" if request.method in _WITH_BODY else None
        if not isinstance(body, bytes):
            self._body = BodyReader(body, int(request.headers.get("Content-Length", -1)))
        elif body and (len(body) > _IN_MEMORY or not request.repeatable):
            # libcurl repeats a request if a kept connection breaks before the response, unless a reader has the body.
            self._body = BodyReader((body,), len(body))
        else:
            return body
        return self._body

    def _receive_head(self) -> tuple[int, Headers]:
        head: Lines = []
        while not head:
            if self._channel is None:
                raise self._error or self._limits.failed("UNREACHABLE", "the connection broke within the response head")
            self._advance(self._channel)
            head = self._final_head()
        headers = Headers(self._fields(head[1:]))
        self._limits.begin(body=True)
        return int(head[0][9:12]), headers

    def _final_head(self) -> Lines:
        """Return the lines of the final response head, none until it is complete. Raises BAD_ANSWER for a status 101."""
        lines = self._lines
        begin = 0
        for number, line in enumerate(lines):
            if line in _LINE_ENDS:
                status = lines[begin][9:12]
                if status == b"101":
                    raise self._limits.failed("BAD_ANSWER", "the server switched protocols (101)")
                if status >= b"200":
                    return lines[begin:number]
                begin = number + 1
        return []

    def _fields(self, lines: Lines) -> list[tuple[str, str]]:
        found = _FIELD.findall(b"".join(lines).decode("latin-1"))
        if len(found) != len(lines):
            invalid = next(line for line in lines if not _FIELD.match(line.decode("latin-1")))
            name = invalid.partition(b":")[0].decode("latin-1")
            if is_token(name):
                raise self._limits.failed("BAD_ANSWER", f"the header field {name.lower()} has a control character")
            raise self._limits.failed("BAD_ANSWER", f"invalid header name: {name[:40]!a}")
        return [(name.lower(), value.rstrip(" \t")) for name, value in found]

    def _advance(self, channel: Channel) -> None:
        """Wait until something is ready, then send and receive it. Release the channel at the response's end."""
        limits, body, chunks = self._limits, self._body, len(self._chunks)
        limits.spend(channel.wait(limits.left()))
        running = channel.perform()
        if body is not None and body.error is not None:
            raise body.error
        if len(self._chunks) > chunks:
            limits.count(sum(map(len, self._chunks[chunks:])))
        elif body is not None:
            self._count_sent(channel, body)
        if not running:
            self._finish(channel)

    def _count_sent(self, channel: Channel, body: BodyReader) -> None:
        """Count the sent bytes of a streamed body."""
        taken = int(channel.easy.getinfo(pycurl.SIZE_UPLOAD_T))
        if taken == self._taken:
            return
        self._limits.count(taken - self._taken)
        self._taken = taken
        if body.ended and taken >= body.given:
            self._limits.begin(body=False)

    def _finish(self, channel: Channel) -> None:
        failed = channel.multi.info_read()[2]
        if failed:
            _, number, words = failed[0]
            if channel.refused:
                what = f"the name resolves to {channel.refused}, a link-local or metadata address"
                self._error = self._limits.failed("ADDRESS_REFUSED", what)
            else:
                system_error, proxy_status = map(channel.easy.getinfo, (pycurl.OS_ERRNO, pycurl.HTTP_CONNECTCODE))
                code, why = failures.code_of_libcurl(number, words, system_error, proxy_status)
                self._error = self._limits.failed(code, why)
        channel.stop()
        self._channel = None
        self._pool.give_back(channel)
        self._at_end()


def _sendable(target: str) -> str:
    """Return a path and query with invalid characters percent-encoded."""
    return quote(target if target.startswith("/") else f"/{target}", safe="-._~:/?[]@!$&'()*+,;=%")


@lru_cache(maxsize=1024)  # a few names make up most fields
def is_token(name: str) -> bool:
    """Return True for a valid header name (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(name) is not None
