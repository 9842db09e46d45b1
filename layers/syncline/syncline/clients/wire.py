"""HTTP/1.1 over a connection: a request goes out, its answer comes in, whole or as a stream.

Our own, since a request through urllib3 and http.client takes 0.3 ms of a processor, most of it for objects that
nobody looks at; here it takes a tenth of that, and requests are most of what Syncline does. RFC 9112: interim answers
(1xx) come before the final one; a body has the length that ``Content-Length`` says, or is chunked, or lasts until the
connection closes. A connection is used again only after an answer that came to its end in order.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NoReturn
from urllib.parse import quote

from urllib3 import exceptions as trouble

from syncline.clients.connections import Connection, Patience, Pool, StoppedError

LARGEST_HEAD: Final = 64 * 1024  # bytes of status line and header fields together
JOINED: Final = 64 * 1024  # bytes of a body up to which it is sent together with its head
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: |\r|\n|\Z)")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_TARGET: Final = re.compile(r"/[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LINE_ENDS: Final = (b"\r\n", b"\n")
_NONE: Final[frozenset[str]] = frozenset()
_LARGEST_INTERIM: Final = 8  # interim answers before the final one
_LONGEST_LINE: Final = 8 * 1024  # bytes of a chunk's frame or of a trailer
_BODILESS: Final = frozenset({204, 304})
_WITH_BODY: Final = frozenset({"PUT", "POST", "PATCH"})


class Headers(Mapping[str, str]):
    """Header fields by name, in any case; the values of one that comes more than once stand with commas between."""

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
        """A field's value, or the empty string."""
        return self._values.get(name.lower(), "")

    def starting(self, prefix: str) -> dict[str, str]:
        """The fields whose names begin with ``prefix`` (in lower case), by the rest of their names."""
        return {name[len(prefix) :]: value for name, value in self._values.items() if name.startswith(prefix)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def all(self, name: str) -> list[str]:
        """Every value of a field that may come more than once."""
        lower = name.lower()
        return [value for field, value in self._fields if field == lower]


class Incoming:
    """An answer whose body is yet to be read. Read to its end, it gives its connection back by itself."""

    __slots__ = ("_chunked", "_connection", "_keeps", "_left", "_patience", "_pool", "_within", "headers", "status")

    def __init__(self, pool: Pool, connection: Connection, patience: Patience, method: str) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self._patience = patience
        patience.begin(body=False)
        self.status, fields, keeps = _head(connection, patience)
        patience.begin(body=True)
        self.headers = Headers(fields)
        self._chunked = False
        self._within = False  # a chunk has begun, so a line end comes before the next one
        self._left = -1  # bytes of the body, or of the chunk, that are to come; -1: until the connection closes
        self._keeps = keeps
        self._frame(method)

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as they come over the wire, none at the end of the body.

        They are fewer at the end of the body or of a chunk, and where they come slowly or are many.
        """
        connection = self._connection
        if connection is None or size <= 0:
            return b""
        if self._chunked and self._left == 0 and not self._next_chunk(connection):
            return b""
        most = size if self._left < 0 else min(size, self._left)
        held, connection.buffer = connection.buffer[:most], connection.buffer[most:]
        if len(held) < most:
            came = b"" if held and self._left < 0 else connection.fill_up(most - len(held), self._patience)
            if not (held or came):
                self.close()
                if self._left >= 0:
                    raise trouble.ProtocolError(f"the answer ends {self._left} bytes too soon")
            held = held + came if held else came
        self._patience.count(len(held))
        if self._left >= 0:
            self._left -= len(held)
            if self._left == 0 and not self._chunked:
                self._end()
        return held

    def whole(self, limit: int) -> bytes:
        """The body as its ``Content-Encoding`` tells, or more than ``limit`` bytes of it; ``DecodeError`` if it is not."""
        coding = self.headers.get("Content-Encoding", "").strip().lower()
        if coding not in ("gzip", "x-gzip", "deflate"):
            content = self.read(limit + 1)
            if self._connection is None:  # it was whole
                return content
            pieces = bytearray(content)
            while len(pieces) <= limit and (more := self.read(limit + 1 - len(pieces))):
                pieces += more
            return bytes(pieces)
        return _unpacked(self, limit, zlib.MAX_WBITS | (16 if "gzip" in coding else 0))

    def spoil(self) -> None:
        """Let the connection not be used again."""
        self._keeps = False

    def close(self) -> None:
        """Close the connection, unless it was given back already."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _end(self) -> None:
        """The answer came to its end: the connection may carry another request."""
        connection = self._connection
        if connection is not None and self._keeps and self._left >= 0 and not connection.buffer:
            self._connection = None
            self._pool.give_back(connection)
        else:
            self.close()

    def _frame(self, method: str) -> None:
        """Find out where the body ends."""
        coding, length = self.headers.get("transfer-encoding"), self.headers.get("content-length")
        if method == "HEAD" or self.status in _BODILESS:
            self._left = 0
        elif coding is not None:
            if coding.strip().lower() != "chunked":
                self._broken(f"its Transfer-Encoding is {coding!r}, not chunked")
            self._chunked, self._left = True, 0
            self._keeps = self._keeps and length is None  # two lengths: what request smuggling is made of
            return
        elif length is not None:
            values = {each.strip() for each in length.split(",")}
            if len(values) != 1 or not _LENGTH.fullmatch(text := values.pop()):
                self._broken(f"its Content-Length is {length!r}")
            self._left = int(text)
        if self._left == 0:
            self._end()

    def _next_chunk(self, connection: Connection) -> bool:
        """Read the frame of the next chunk; False at the end, behind the trailer."""
        if self._within and self._line(connection) not in _LINE_ENDS:
            self._broken("no line end follows a chunk")
        line = self._line(connection)
        match = _CHUNK.fullmatch(line)
        if match is None:
            self._broken(f"a chunk begins with {line[:40].rstrip()!r}, which is no size")
        self._left, self._within = int(match[1], 16), True
        if self._left:
            return True
        trailers = 0
        while (line := self._line(connection)) not in _LINE_ENDS:
            trailers += len(line)
            if trailers > LARGEST_HEAD:
                self._broken(f"its trailers are longer than {LARGEST_HEAD} bytes")
        self._end()
        return False

    def _line(self, connection: Connection) -> bytes:
        while (end := connection.buffer.find(b"\n")) < 0:
            if len(connection.buffer) >= _LONGEST_LINE:
                self._broken(f"a line of its chunks is longer than {_LONGEST_LINE} bytes")
            data = connection.fill(self._patience)
            if not data:
                self.close()
                raise trouble.ProtocolError("the answer ends within a chunk")
            connection.buffer += data
        line, connection.buffer = connection.buffer[: end + 1], connection.buffer[end + 1 :]
        return line

    def _broken(self, why: str) -> NoReturn:
        self.close()
        raise StoppedError("BAD_ANSWER", why)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request. A body that is a stream is sent as it yields: with the ``Content-Length`` of ``headers``, or in chunks."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | Iterable[bytes] | None


def ask(pool: Pool, request: Outgoing, patience: Patience) -> Incoming:
    """Send a request and hear the head of its answer; raises urllib3's exceptions, and what the body's stream raises."""
    connection = pool.take()
    try:
        try:
            _send(connection, request, patience)
        except (BrokenPipeError, ConnectionResetError):
            # The server may have answered and then closed: what it said is still to be read.
            answer = Incoming(pool, connection, patience, request.method)
            answer.spoil()
            return answer
        return Incoming(pool, connection, patience, request.method)
    except BaseException:
        connection.close()
        raise


def _send(connection: Connection, request: Outgoing, patience: Patience) -> None:
    method, target, body = request.method, request.target, request.body
    patience.begin(body=True)
    lines = [f"{method} {target if _TARGET.fullmatch(target) else _sendable(target)} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if body is None or isinstance(body, bytes):
        if (body is not None or method in _WITH_BODY) and "Content-Length" not in request.headers:
            lines.append(f"Content-Length: {len(body or b'')}")
        head = "\r\n".join((*lines, "", "")).encode("latin-1")
        if body and len(body) <= JOINED:
            connection.send(head + body, patience)
            return
        connection.send(head, patience)
        if body:
            connection.send(body, patience)
        return
    announced = request.headers.get("Content-Length")
    if announced is None:
        lines.append("Transfer-Encoding: chunked")
    connection.send("\r\n".join((*lines, "", "")).encode("latin-1"), patience)
    if announced is not None:
        _send_announced(connection, body, int(announced), patience)
        return
    line_end = b""
    for chunk in body:
        if chunk:
            connection.send(b"%b%x\r\n" % (line_end, len(chunk)), patience)
            line_end = b"\r\n"
            connection.send(chunk, patience)  # as it is: a large one is not copied into its frame
    connection.send(line_end + b"0\r\n\r\n", patience)


def _send_announced(connection: Connection, body: Iterable[bytes], size: int, patience: Patience) -> None:
    """Send a streamed body of ``size`` bytes; StoppedError if it has more or fewer, of which the server gets no more."""
    left = size
    for chunk in body:
        if len(chunk) > left:
            raise StoppedError("SOURCE_CHANGED", f"the content to send has more than the {size} bytes announced")
        if chunk:
            connection.send(chunk, patience)
            left -= len(chunk)
    if left:
        raise StoppedError(
            "SOURCE_CHANGED", f"the content to send has only {size - left} of the {size} bytes announced"
        )


def _sendable(target: str) -> str:
    """A path and query without what no request line can carry."""
    return quote(target if target.startswith("/") else f"/{target}", safe="-._~:/?[]@!$&'()*+,;=%")


def _head(connection: Connection, patience: Patience) -> tuple[int, list[tuple[str, str]], bool]:
    """The final answer's status, its fields with names in lower case, and whether the connection may be kept."""
    for _ in range(_LARGEST_INTERIM):
        head = _head_bytes(connection, patience)
        match = _STATUS.match(head)
        if match is None:
            raise StoppedError("BAD_ANSWER", "it is not HTTP")
        status = int(match[2])
        if status >= 200:
            fields = _fields(head)
            said = [value for name, value in fields if name == "connection"]
            options = {option.strip().lower() for value in said for option in value.split(",")} if said else _NONE
            keeps = "close" not in options and (match[1] != b"0" or "keep-alive" in options)
            return status, fields, keeps
        if status == 101:
            break
    raise StoppedError("BAD_ANSWER", "no final answer follows its interim ones")


def _head_bytes(connection: Connection, patience: Patience) -> bytes:
    data = connection.buffer
    while True:
        end, gap = data.find(b"\r\n\r\n"), 4
        if end < 0 or 0 <= data.find(b"\n\n", 0, end) < end:
            end, gap = data.find(b"\n\n"), 2
        if end >= 0:
            connection.buffer = data[end + gap :]
            return data[:end]
        if len(data) > LARGEST_HEAD:
            raise StoppedError("BAD_ANSWER", f"its head is longer than {LARGEST_HEAD} bytes")
        more = connection.fill(patience)
        if not more:
            raise trouble.ProtocolError("the server closed the connection without an answer")
        data += more


def _fields(head: bytes) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for line in head.decode("latin-1").split("\n")[1:]:
        name, colon, value = line.partition(":")
        if line[:1] in (" ", "\t") and fields:  # a field that goes on, as was allowed once
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {line.strip()}")
        elif not colon:
            raise StoppedError("BAD_ANSWER", f"a header field is {line[:40].strip()!a}, without a colon")
        elif not is_token(name):
            raise StoppedError("BAD_ANSWER", f"a header field is named {name[:40]!a}, which no field can be")
        else:
            fields.append((name.lower(), value.strip(" \t\r")))
    for name, value in fields:
        if not value.isprintable() and _CONTROL.search(value):
            raise StoppedError("BAD_ANSWER", f"the header field {name} has a control character")
    return fields


@lru_cache(maxsize=1024)  # a few names make up most fields
def is_token(name: str) -> bool:
    """Return True if a header field can have this name (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(name) is not None


def _unpacked(answer: Incoming, limit: int, bits: int) -> bytes:
    content = bytearray()
    unpacking = zlib.decompressobj(bits)
    packed = answer.read(JOINED)
    begun = bool(packed)
    try:
        while packed and not unpacking.eof and len(content) <= limit:
            content += unpacking.decompress(packed, limit + 1 - len(content))
            packed = unpacking.unconsumed_tail or answer.read(JOINED)
    except zlib.error as error:
        raise trouble.DecodeError("the body is not what its Content-Encoding says", error) from error
    if begun and not unpacking.eof and len(content) <= limit:
        raise trouble.DecodeError("the body ends before its Content-Encoding does")
    return bytes(content)
