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
from typing import Final, NoReturn
from urllib.parse import quote

from urllib3 import exceptions as trouble

from syncline.clients.connections import Connection, Patience, Pool

LARGEST_HEAD: Final = 64 * 1024  # bytes of status line and header fields together
JOINED: Final = 64 * 1024  # bytes of a body up to which it is sent together with its head
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: |\r|\n|\Z)")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_TARGET: Final = re.compile(r"/[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]*")
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

    __slots__ = ("_chunked", "_connection", "_keeps", "_left", "_patience", "_pool", "headers", "status")

    def __init__(self, pool: Pool, connection: Connection, patience: Patience, method: str) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self._patience = patience
        patience.begin(body=False)
        self.status, fields, keeps = _head(connection, patience)
        patience.begin(body=True)
        self.headers = Headers(fields)
        self._chunked = False
        self._left = -1  # bytes of the body, or of the chunk, that are to come; -1: until the connection closes
        self._keeps = keeps
        self._frame(method)

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as they come over the wire, none at the end of the body.

        They are fewer at the end of the body or of a chunk, and where they come slowly: then what came within a second.
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
            while len(content) <= limit and (more := self.read(limit + 1 - len(content))):
                content += more
            return content
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
                self._broken("a Transfer-Encoding that nobody asked for")
            self._chunked, self._left = True, 0
            self._keeps = self._keeps and length is None  # two lengths: what request smuggling is made of
            return
        elif length is not None:
            values = {each.strip() for each in length.split(",")}
            if len(values) != 1 or not _LENGTH.fullmatch(text := values.pop()):
                self._broken("a Content-Length that is none")
            self._left = int(text)
        if self._left == 0:
            self._end()

    def _next_chunk(self, connection: Connection) -> bool:
        """Read the frame of the next chunk; False at the end, behind the trailer."""
        line = self._line(connection)
        if line in (b"\r\n", b"\n"):  # what ends the chunk before
            line = self._line(connection)
        match = _CHUNK.fullmatch(line)
        if match is None:
            self._broken("a chunk's frame that is none")
        self._left = int(match[1], 16)
        if self._left:
            return True
        while self._line(connection) not in (b"\r\n", b"\n"):
            continue
        self._end()
        return False

    def _line(self, connection: Connection) -> bytes:
        while (end := connection.buffer.find(b"\n")) < 0:
            data = connection.fill(self._patience) if len(connection.buffer) < _LONGEST_LINE else b""
            if not data:
                self._broken("a chunk without an end")
            connection.buffer += data
        line, connection.buffer = connection.buffer[: end + 1], connection.buffer[end + 1 :]
        return line

    def _broken(self, what: str) -> NoReturn:
        self.close()
        raise trouble.ProtocolError(what)


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
    framed = "Content-Length" not in request.headers
    if framed:
        lines.append("Transfer-Encoding: chunked")
    connection.send("\r\n".join((*lines, "", "")).encode("latin-1"), patience)
    line_end = b""
    for chunk in body:
        if chunk:
            if framed:
                connection.send(b"%b%x\r\n" % (line_end, len(chunk)), patience)
                line_end = b"\r\n"
            connection.send(chunk, patience)  # as it is: a large one is not copied into its frame
    if framed:
        connection.send(line_end + b"0\r\n\r\n", patience)


def _sendable(target: str) -> str:
    """A path and query without what no request line can carry."""
    return quote(target if target.startswith("/") else f"/{target}", safe="-._~:/?[]@!$&'()*+,;=%")


def _head(connection: Connection, patience: Patience) -> tuple[int, list[tuple[str, str]], bool]:
    """The final answer's status, its fields with names in lower case, and whether the connection may be kept."""
    for _ in range(_LARGEST_INTERIM):
        head = _head_bytes(connection, patience)
        match = _STATUS.match(head)
        if match is None:
            raise trouble.ProtocolError("the answer is not HTTP")
        status = int(match[2])
        if status >= 200:
            fields = _fields(head)
            says = next((value.lower() for name, value in fields if name == "connection"), "")
            return status, fields, "keep-alive" in says if match[1] == b"0" else "close" not in says
        if status == 101:
            break
    raise trouble.ProtocolError("an interim answer without an end")


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
            raise trouble.ProtocolError("the head of the answer is too long")
        more = connection.fill(patience)
        if not more:
            raise trouble.ProtocolError("the server closed the connection without an answer")
        data += more


def _fields(head: bytes) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for line in head.decode("latin-1").split("\n")[1:]:
        name, colon, value = line.partition(":")
        if colon and not name[:1].isspace():
            fields.append((name.rstrip().lower(), value.strip()))
        elif fields and line[:1] in (" ", "\t"):  # a field that goes on, as was allowed once
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {line.strip()}")
        else:
            raise trouble.ProtocolError("a header field that is none")
    return fields


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
