"""The wire of the file manager's stand-in: HTTP/1.1 in one thread, streamed forms, only checksums of large files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from tests.standins.file_manager import FileManagerServer

_LARGEST_HEAD: Final = 64 * 1024
_LARGEST_FORM: Final = 256 * 1024  # without the file
_KEPT: Final = 16 * 1024 * 1024


class Refusal(Exception):  # noqa: N818 - a response, not an error
    """The request is answered with ``status``."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """``cut`` sends only so many bytes of the body and closes; ``hang`` never answers; ``drop`` closes at once."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None
    hang: bool = False
    drop: bool = False


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode())


@dataclass(slots=True)
class Form:
    """The fields of a form, and the streamed bytes of its file."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    size: int = 0
    content: bytearray = field(default_factory=bytearray)
    sum: str = ""

    def one(self, name: str) -> str:
        values = self.fields.get(name, [])
        if len(values) != 1 or values[0] == "":
            raise Refusal(422, f"the field {name} is needed once")
        return values[0]

    def only(self, may: set[str], must: set[str]) -> None:
        """Refuse a form with fields beyond ``may`` or without those of ``must``."""
        if beyond := self.fields.keys() - may:
            raise Refusal(422, f"fields that do not belong here: {sorted(beyond)}")
        if lacking := must - self.fields.keys():
            raise Refusal(422, f"fields that are needed: {sorted(lacking)}")


@lru_cache(maxsize=1024)  # the same for every file
def _names_in(head: bytes) -> dict[str, str]:
    """Return the names in the head of a part."""
    return dict(re.findall(r'(\w+)="([^"]*)"', head.decode()))


class _Multipart:
    """A streamed multipart form. The file must be its last part, so that it need not be buffered."""

    def __init__(self, boundary: bytes, length: int) -> None:
        self._delimiter = b"--" + boundary
        self._tail = b"\r\n--" + boundary + b"--\r\n"
        self._left = length
        self._buffer = bytearray()
        self._in_file = False
        self._sum = hashlib.sha256()
        self.form = Form()

    def feed(self, data: bytes | memoryview) -> None:
        self._left -= len(data)
        if self._in_file:
            self._file(data)
            return
        self._buffer += data
        while not self._in_file and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            if not head.startswith(self._delimiter + b"\r\n"):
                raise Refusal(400, "no part begins here")
            names = _names_in(head[len(self._delimiter) :])
            if "filename" in names:
                if names.get("name") != "file":
                    raise Refusal(422, "a file of another name")
                self.form.fields["file"] = [names["filename"]]
                self._in_file = True
                rest = bytes(self._buffer[end + 4 :])
                self._buffer.clear()
                self._file(rest)
                return
            stop = self._buffer.find(b"\r\n" + self._delimiter, end + 4)
            if stop < 0:
                break
            value = self._buffer[end + 4 : stop].decode()
            self.form.fields.setdefault(names["name"], []).append(value)
            del self._buffer[: stop + 2]
        if len(self._buffer) > _LARGEST_FORM:
            raise Refusal(413, "a form too large")

    def end(self) -> Form:
        if not self._in_file or bytes(self._buffer) != self._tail:
            raise Refusal(400, "the form does not end as it should")
        self.form.sum = self._sum.hexdigest()
        return self.form

    def _file(self, data: bytes | memoryview) -> None:
        """Process bytes of the file, except the last ones, which may be the form's end."""
        held = bytes(self._buffer) + bytes(data) if self._buffer else data
        # ``_left`` bytes of the form's end are missing.
        split = max(0, len(held) - max(0, len(self._tail) - self._left))
        content = held[:split]
        self._buffer[:] = held[split:]
        self._sum.update(content)
        self.form.size += len(content)
        if self.form.size <= _KEPT:
            self.form.content += content


class Connection(asyncio.Protocol):
    """A connection that answers one request after another."""

    def __init__(self, server: FileManagerServer) -> None:
        self._server = server
        self._server.connections.add(self)
        self._made: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._request: tuple[str, str, dict[str, str]] | None = None
        self._left = 0
        self._multipart: _Multipart | None = None
        self._refusal: Refusal | None = None
        self._answering = False

    def abort(self) -> None:
        if self._made is not None:
            self._made.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._made = self._transport = transport
        self._loop = asyncio.get_running_loop()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._server.connections.discard(self)
        if self._request is not None:
            self._request = None
            self._server.ended()

    def data_received(self, data: bytes) -> None:
        if self._request is not None and self._multipart is not None and not self._buffer:
            self._feed(data)  # most of a large file passes without a copy
        else:
            self._buffer += data
        self._process_buffer()

    def _process_buffer(self) -> None:
        while not self._answering and not self._transport.is_closing():
            if self._request is None and not self._begin():
                return
            if self._multipart is not None and self._buffer:
                take = bytes(self._buffer[: self._left])
                del self._buffer[: len(take)]
                self._feed(take)
            if self._multipart is not None and self._left:
                return
            if self._multipart is None and len(self._buffer) < self._left:
                return
            self._finish()

    def _begin(self) -> bool:
        """Read the head of the next request; return False if it is incomplete."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LARGEST_HEAD:
                self._transport.abort()
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        method, target, version = lines[0].split(" ")
        assert version == "HTTP/1.1"
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self._request = (method, target, headers)
        self._server.began()
        self._refusal = self._multipart = None
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdigit():
            self._refusal, length = Refusal(411, "a length is needed"), "0"
        self._left = int(length)
        if not self._server.authorized(headers.get("authorization", "")):
            self._refusal = Refusal(401, "who are you?")
        kind = headers.get("content-type", "")
        boundary = re.fullmatch(r"multipart/form-data; boundary=([\w'()+,./:=?-]{1,70})", kind)
        if boundary:
            self._multipart = _Multipart(boundary[1].encode(), self._left)
        return True

    def _feed(self, data: bytes) -> None:
        """Pass bytes to the form; the bytes after it belong to the next request."""
        assert self._multipart is not None
        mine = memoryview(data)[: self._left]
        self._buffer += data[len(mine) :]
        self._left -= len(mine)
        try:
            self._server.on_received(len(mine))
        except ConnectionAbortedError:
            self._transport.abort()
            return
        if self._refusal is None:
            try:
                self._multipart.feed(mine)
            except Refusal as refusal:
                self._refusal = refusal

    def _finish(self) -> None:
        assert self._request is not None
        method, target, headers = self._request
        body = b""
        form: Form | None = None
        if self._multipart is None:
            body = bytes(self._buffer[: self._left])
            del self._buffer[: self._left]
            self._left = 0
        try:
            if self._refusal is not None:
                raise self._refusal
            if self._multipart is not None:
                form = self._multipart.end()
            elif headers.get("content-type") == "application/x-www-form-urlencoded":
                form = Form()
                for name, value in parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True):
                    form.fields.setdefault(name, []).append(value)
            answer = self._server.answer(method, target, form, body)
        except Refusal as refusal:
            answer = json_answer({"error": str(refusal)}, refusal.status)
        except ValueError as error:
            answer = json_answer({"error": f"malformed: {error}"}, 400)
        self._answering = True
        if answer.hang:
            return
        if self._server.delay:
            self._loop.call_later(self._server.delay, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        self._answering = False
        if self._request is None:
            return  # the client has gone
        self._request = None
        self._multipart = None
        self._server.ended()
        if answer.drop:
            self._transport.abort()
            return
        lines = [
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self._transport.write(head + answer.body[: answer.cut])
        if answer.cut is not None:
            self._transport.close()
            return
        self._process_buffer()
