"""HTTP/1.1 transfers through libcurl: one request and its answer, whole or as a stream.

A :class:`Channel` is a handle of libcurl and the multi handle that drives it. It keeps a connection to one server and
serves one thread at a time. libcurl sends and receives only while :meth:`Transfer._advance` runs, so a stream that
nobody reads holds at most what one turn brings. A connection is used again only after an answer that came to its end.

libcurl connects, speaks TLS, and takes answers apart (RFC 9112) within its own limits for heads. This module adds others:
addresses that no connection may go to, names and values of header fields, and the length announced for a streamed body.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from time import monotonic, sleep
from typing import Any, Final
from urllib.parse import quote

import pycurl

from syncline.clients.http import failures
from syncline.clients.http.addresses import Address, is_refused
from syncline.clients.http.authorities import trust
from syncline.clients.http.limits import Limits, Request
from syncline.errors import SynclineError

CONNECT_TIMEOUT: Final = 5.0
POOL_SIZE: Final = 32  # channels kept per server; more may be open at once, the surplus is closed after use
MOST_POOLS: Final = 64  # servers; of more, those first spoken to lose their resting connections
LONGEST_LIFE: Final = 300  # seconds after which a connection gets no further request: addresses of names change
GLANCE: Final = 1.0  # seconds after which a wait checks that it is still wanted
_RECEIVED: Final = 64 * 1024  # bytes that libcurl reads at once; one turn reads up to ten times as much
_SENT: Final = 256 * 1024  # bytes that libcurl asks a streamed body for at once
_IN_MEMORY: Final = 64 * 1024  # bytes of a body up to which it is sent together with its head
_NO_SOCKET: Final = 0.002  # seconds; libcurl has nothing to wait for while it resolves a name without a socket
_TARGET: Final = re.compile(r"/[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD: Final = re.compile(rf"(?m)^({_TOKEN.pattern}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)\r?\n")
_LINE_ENDS: Final = (b"\r\n", b"\n")
READ_ABORT: Final = int(pycurl.READFUNC_ABORT)
_WITH_BODY: Final = frozenset({"PUT", "POST", "PATCH"})

Lines = list[bytes]


class Headers(Mapping[str, str]):
    """Header fields by name, in any case; the values of one that comes more than once are joined by commas."""

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

    def said(self, name: str) -> str:
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
        """Return every value of a field that may come more than once."""
        lower = name.lower()
        return [value for field, value in self._fields if field == lower]


class Channel:
    """A handle of libcurl that keeps a connection to one server. One thread uses it at a time."""

    __slots__ = ("_plain", "easy", "multi", "refused")

    def __init__(self, scheme: str, ca: str | None) -> None:
        self.refused = ""  # the address that a connection was refused to
        self._plain = True
        self.multi = pycurl.CurlMulti()
        self.easy = easy = pycurl.Curl()
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        easy.setopt(pycurl.PROXY, "")
        easy.setopt(pycurl.PATH_AS_IS, 1)
        easy.setopt(pycurl.HTTP_CONTENT_DECODING, 0)
        easy.setopt(pycurl.BUFFERSIZE, _RECEIVED)
        easy.setopt(pycurl.UPLOAD_BUFFERSIZE, _SENT)
        easy.setopt(pycurl.CONNECTTIMEOUT_MS, round(CONNECT_TIMEOUT * 1000))
        easy.setopt(pycurl.MAXLIFETIME_CONN, LONGEST_LIFE)
        easy.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        if scheme == "https":
            trust(easy, ca, system=True)

    def start(self, method: str, url: str, fields: list[str], body: bytes | Reader | None) -> tuple[Lines, Lines]:
        """Begin a request; return the lists that take the answer's header lines and the pieces of its body."""
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
        self.multi.add_handle(easy)
        return lines, chunks

    def stop(self) -> None:
        """End the request. Its connection is closed unless the answer came to its end."""
        self.multi.remove_handle(self.easy)
        if not self._plain:
            self.easy.unsetopt(pycurl.READFUNCTION)  # it holds the body

    def wait(self, seconds: float) -> float:
        """Wait up to ``seconds`` until libcurl can go on; return the seconds waited."""
        timer = self.multi.timeout()  # in milliseconds; -1 for none
        if timer == 0:
            return 0.0
        began = monotonic()
        seconds = min(seconds, GLANCE, timer / 1000 if timer > 0 else GLANCE)
        if self.multi.select(seconds) < 0:
            sleep(min(seconds, _NO_SOCKET))
        return monotonic() - began

    def _open_socket(self, _purpose: int, address: Any) -> Any:
        """Open a socket for a resolved address, unless no connection may go there."""
        family, kind, protocol, peer = address
        if is_refused(peer[0]):
            self.refused = peer[0]
            return pycurl.SOCKET_BAD
        return open_socket(family, kind, protocol, peer[0])


class _Socket(socket.socket):
    """A socket that libcurl duplicates."""

    def __del__(self) -> None:
        self.close()


def open_socket(family: int, kind: int, protocol: int, peer: str) -> socket.socket:
    """Open a socket for a connection to the address ``peer``."""
    del peer
    return _Socket(family, kind, protocol)


class Reader:
    """Gives libcurl a streamed body of ``size`` bytes, or of any size for -1. ``given`` counts the bytes."""

    __slots__ = ("_chunks", "_last", "_piece", "ended", "error", "given", "size")

    def __init__(self, chunks: Iterable[bytes], size: int) -> None:
        self._chunks = iter(chunks)
        self._piece: bytes | memoryview = b""
        self._last = False  # no chunk follows
        self.size = size
        self.given = 0
        self.ended = False
        self.error: BaseException | None = None

    def give(self, most: int) -> bytes | int:
        """Return up to ``most`` bytes, none at the end; an exception of the stream ends the request."""
        try:
            piece = self._piece or self._chunk()
        except BaseException as error:  # noqa: BLE001 - raised again where the request was made
            self.error = error
            return READ_ABORT
        self._piece = b""
        if len(piece) > most:
            piece = memoryview(piece)
            piece, self._piece = bytes(piece[:most]), piece[most:]
        self.given += len(piece)
        self.ended = self._last and not self._piece
        return piece if isinstance(piece, bytes) else bytes(piece)

    def _chunk(self) -> bytes:
        """Return the next chunk, empty at the end.

        The last chunk of an announced length is given when the stream has ended: so a server never has the whole body
        of a stream that goes on or fails.
        """
        chunk = next(filter(None, self._chunks), b"")
        left = self.size - self.given - len(chunk)
        if self.size < 0:
            self._last = not chunk
        elif left < 0 or (left == 0 and chunk and next(filter(None, self._chunks), b"")):
            what = f"the content to send has more than the {self.size} bytes announced"
            raise SynclineError("SOURCE_CHANGED", what)
        elif left == 0:
            self._last = True
        elif not chunk:
            what = f"the content to send has only {self.given} of the {self.size} bytes announced"
            raise SynclineError("SOURCE_CHANGED", what)
        return chunk


class Pool:
    """The channels to one server. The one that rested last is taken first."""

    def __init__(self, scheme: str, ca: str | None) -> None:
        if ca is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=ca)
            except (ssl.SSLError, ValueError) as error:
                raise SynclineError("CONFIG_INVALID", "`ca` is not a certificate in PEM form") from error
        self._scheme = scheme
        self._ca = ca
        self._resting: deque[Channel] = deque()

    def take(self) -> Channel:
        """Return a channel that nobody else uses."""
        try:
            return self._resting.pop()
        except IndexError:
            return Channel(self._scheme, self._ca)

    def give_back(self, channel: Channel) -> None:
        """Let others use the channel."""
        if len(self._resting) < POOL_SIZE:
            self._resting.append(channel)


_pools: Final[dict[tuple[str, str, str | None], Pool]] = {}
_pools_lock: Final = threading.Lock()


def pool_for(address: Address, ca: str | None) -> Pool:
    """Return the process's channels to a server; raises ADDRESS_REFUSED for a metadata service by name or address."""
    key = (address.scheme, address.host, ca)
    pool = _pools.get(key)
    if pool is None:
        if is_refused(address.name):
            raise SynclineError("ADDRESS_REFUSED", f"{address.name} is a link-local or metadata address")
        with _pools_lock:
            pool = _pools.get(key)
            if pool is None:
                pool = Pool(address.scheme, ca)
                if len(_pools) >= MOST_POOLS:
                    del _pools[next(iter(_pools))]
                _pools[key] = pool
    return pool


class Transfer:
    """A request that was sent, and its answer, whose head has come. Read to its end, it frees its channel.

    Raises UNREACHABLE, TLS_FAILED, ADDRESS_REFUSED, BAD_ANSWER, SOURCE_CHANGED, TOO_SLOW, TIME_SHORT, RUN_CANCELLED,
    and what the body's stream raises.
    """

    __slots__ = (
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
    )

    def __init__(self, request: Request, limits: Limits) -> None:
        self._limits = limits
        self._error: SynclineError | None = None
        self._body: Reader | None = None
        self._taken = 0  # bytes of the body that the server has taken
        self._pool = pool_for(request.address, request.ca)
        self._channel: Channel | None = self._pool.take()
        try:
            self._lines, self._chunks = self._start(self._channel, request)
            self.status, self.headers = self._receive_head()
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> bool:
        """Return True if the server has got the whole body of the request."""
        return self._body is None or self._body.ended

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes of the body, none at its end. They may be fewer anywhere in the body."""
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

    def whole(self, limit: int) -> bytes:
        """Return the body as its ``Content-Encoding`` tells, or more than ``limit`` bytes of it."""
        while self._channel is not None and sum(map(len, self._chunks)) <= limit:
            self._advance(self._channel)
        content = b"".join(self._chunks)
        self._chunks.clear()
        if self._error is not None:
            raise self._error
        coding = self.headers.said("content-encoding").strip().lower()
        if not content or coding not in ("gzip", "x-gzip", "deflate"):
            return content
        try:
            unpacking = zlib.decompressobj(zlib.MAX_WBITS | (16 if "gzip" in coding else 0))
            unpacked = unpacking.decompress(content, limit + 1)
        except zlib.error:
            what = "the body is not what its Content-Encoding says"
            raise self._limits.failed("BAD_ANSWER", what) from None
        if not unpacking.eof and len(unpacked) <= limit:
            raise self._limits.failed("BAD_ANSWER", "the body ends before its Content-Encoding does")
        return unpacked

    def close(self) -> None:
        """Close the connection, unless the answer came to its end."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.stop()
            self._chunks = []
            self._pool.give_back(channel)

    def _start(self, channel: Channel, request: Request) -> tuple[Lines, Lines]:
        headers, body = request.headers, self._given(request)
        fields = [
            f"{name}: {value}" if value else f"{name};" for name, value in headers.items() if name != "Content-Length"
        ]
        # Without a value: libcurl would add a header field of its own.
        if "Accept" not in headers:
            fields.append("Accept:")
        if body is not None:
            fields.append("Expect:")
            if "Content-Type" not in headers:
                fields.append("Content-Type:")
        self._limits.begin(body=self._body is not None)
        target = request.address.target
        if not _TARGET.fullmatch(target):
            target = _sendable(target)
        return channel.start(request.method, f"{request.address.origin}{target}", fields, body)

    def _given(self, request: Request) -> bytes | Reader | None:
        """Return the body in the form that libcurl takes it."""
        body = request.body
        if body is None:
            return b"" if request.method in _WITH_BODY else None
        if not isinstance(body, bytes):
            self._body = Reader(body, int(request.headers.get("Content-Length", -1)))
        elif body and (len(body) > _IN_MEMORY or not request.repeatable):
            # libcurl repeats a request if a kept connection breaks before the answer, unless a reader has its body.
            self._body = Reader((body,), len(body))
        else:
            return body
        return self._body

    def _receive_head(self) -> tuple[int, Headers]:
        head: Lines = []
        while not head:
            if self._channel is None:
                raise self._error or self._limits.failed("UNREACHABLE", "the connection broke within the answer's head")
            self._advance(self._channel)
            head = self._final_head()
        headers = Headers(self._fields(head[1:]))
        self._limits.begin(body=True)
        return int(head[0][9:12]), headers

    def _final_head(self) -> Lines:
        """Return the lines of the final answer's head, none while it is not whole; raise BAD_ANSWER for another protocol."""
        lines = self._lines
        begin = 0
        for number, line in enumerate(lines):
            if line in _LINE_ENDS:
                status = lines[begin][9:12]
                if status == b"101":
                    raise self._limits.failed("BAD_ANSWER", "no final answer follows an answer 101")
                if status >= b"200":
                    return lines[begin:number]
                begin = number + 1
        return []

    def _fields(self, lines: Lines) -> list[tuple[str, str]]:
        found = _FIELD.findall(b"".join(lines).decode("latin-1"))
        if len(found) != len(lines):
            odd = next(line for line in lines if not _FIELD.match(line.decode("latin-1")))
            name = odd.partition(b":")[0].decode("latin-1")
            if is_token(name):
                raise self._limits.failed("BAD_ANSWER", f"the header field {name.lower()} has a control character")
            raise self._limits.failed("BAD_ANSWER", f"a header field is named {name[:40]!a}, which no field can be")
        return [(name.lower(), value.rstrip(" \t")) for name, value in found]

    def _advance(self, channel: Channel) -> None:
        """Send and receive what can be at once, or wait until something can. Free the channel at the answer's end."""
        limits, body = self._limits, self._body
        seconds = limits.left()
        lines, chunks = len(self._lines), len(self._chunks)
        running = channel.multi.perform()[1]
        if body is not None and body.error is not None:
            raise body.error
        if len(self._chunks) > chunks:
            limits.count(sum(map(len, self._chunks[chunks:])))
        elif not running:
            self._finish(channel)
            return
        elif (body is None or not self._count_sent(channel, body)) and len(self._lines) == lines:
            limits.spend(channel.wait(seconds))
        if not running:
            self._finish(channel)

    def _count_sent(self, channel: Channel, body: Reader) -> bool:
        """Count what the server has taken of a streamed body; return True if it has taken some more."""
        taken = int(channel.easy.getinfo(pycurl.SIZE_UPLOAD_T))
        if taken == self._taken:
            return False
        self._limits.count(taken - self._taken)
        self._taken = taken
        if body.ended and taken >= body.given:
            self._limits.begin(body=False)
        return True

    def _finish(self, channel: Channel) -> None:
        failed = channel.multi.info_read()[2]
        if failed:
            _, number, words = failed[0]
            if channel.refused:
                what = f"the name resolves to {channel.refused}, where no copy has business"
                self._error = self._limits.failed("ADDRESS_REFUSED", what)
            else:
                code, why = failures.of_libcurl(number, words, channel.easy.getinfo(pycurl.OS_ERRNO))
                self._error = self._limits.failed(code, why)
        channel.stop()
        self._channel = None
        self._pool.give_back(channel)


def _sendable(target: str) -> str:
    """Return a path and query without what no request line can carry."""
    return quote(target if target.startswith("/") else f"/{target}", safe="-._~:/?[]@!$&'()*+,;=%")


@lru_cache(maxsize=1024)  # a few names make up most fields
def is_token(name: str) -> bool:
    """Return True if a header field can have this name (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(name) is not None
