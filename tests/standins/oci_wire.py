"""The wire under the in-memory registry: requests and answers as they come and go, and how they go wrong."""

from __future__ import annotations

import socketserver
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from tests.standins import serving
from tests.standins.scripted_http import PHRASES

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with a request.

    With ``status`` it is answered so and not carried out. ``take``: only so many bytes of its body are taken, then
    the connection closes without an answer; what was taken of a chunk is kept, as registries do. ``lose_answer``: it
    is carried out, but the connection closes instead of an answer. ``cut``: of the answer's body only so many bytes
    are sent. ``wrong``: the answer's body has other bytes, as many. ``sizeless``: the answer is chunked and so tells
    no size. ``expire_tokens``, ``forget_uploads``: so before it is carried out. ``delay`` in seconds.
    """

    status: int = 0
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    take: int | None = None
    lose_answer: bool = False
    cut: int | None = None
    wrong: bool = False
    sizeless: bool = False
    expire_tokens: bool = False
    forget_uploads: bool = False
    delay: float = 0.0


def throttled(retry_after: float | None = None) -> Fault:
    """429, as Quay says it (with no time) or as others do."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Fault(429, headers, b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}')


def bad_gateway() -> Fault:
    """502 from a proxy that knows no JSON."""
    page = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
    return Fault(502, {"Content-Type": "text/html"}, page)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came; ``whole`` is False where its body broke off."""

    method: str
    target: str
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    whole: bool = True
    status: int = 0

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    def query(self, name: str) -> str:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True).get(name, [""])[0]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Headers = field(default_factory=dict)
    body: bytes = b""


class Site(Protocol):
    """Who answers. A request whose body broke off goes to ``broke_off``, every other one to ``carry_out``."""

    requests: list[Asked]
    before: Callable[[str, str], None]

    def fault_for(self, method: str, target: str) -> Fault: ...

    def carry_out(self, asked: Asked, fault: Fault) -> Answer: ...

    def broke_off(self, asked: Asked) -> None: ...


class Server(serving.Server):
    def __init__(self, site: Site) -> None:
        self.site = site
        super().__init__(_Connection)


class _Connection(socketserver.StreamRequestHandler):
    server: Server
    disable_nagle_algorithm = True
    rbufsize = 256 * 1024

    def handle(self) -> None:
        while self._answer_one():
            pass

    def _answer_one(self) -> bool:
        """Answer a request; whether another may come on this connection."""
        site = self.server.site
        line = self.rfile.readline(65536).decode("latin-1").split()
        if len(line) != 3:
            return False
        headers: dict[str, str] = {}
        while (text := self.rfile.readline(65536).decode("latin-1").strip()) != "":
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        method, target = line[0], line[1]
        site.before(method, target)
        fault = site.fault_for(method, target)
        time.sleep(fault.delay)
        body, whole = self._body(headers, fault.take)
        if not whole:
            asked = Asked(method, target, headers, body, whole=False)
            site.broke_off(asked)
            site.requests.append(asked)
            return False
        asked = Asked(method, target, headers, body)
        answer = site.carry_out(asked, fault)
        site.requests.append(Asked(method, target, headers, body, status=answer.status))
        if fault.lose_answer:
            return False
        return self._send(method, answer, fault)

    def _body(self, headers: Headers, take: int | None) -> tuple[bytes, bool]:
        """The request's body or, of it, ``take`` bytes; and whether it is all there."""
        if headers.get("transfer-encoding") != "chunked":
            length = int(headers.get("content-length", "0"))
            data = self.rfile.read(length if take is None else min(take, length))
            return data, len(data) == length and take is None
        body = bytearray()
        while take is None or len(body) < take:
            line = self.rfile.readline(64)
            if not line:
                return bytes(body), False
            size = int(line, 16)
            frame = self.rfile.read(size)
            body += frame
            if len(frame) < size or self.rfile.readline(64) != b"\r\n":
                return bytes(body), False
            if size == 0:
                return bytes(body), take is None
        return bytes(body[:take]), False

    def _send(self, method: str, answer: Answer, fault: Fault) -> bool:
        body = answer.body
        if fault.wrong:
            body = bytes(255 - byte for byte in body)
        head = [f"HTTP/1.1 {answer.status} {PHRASES.get(answer.status, 'Unknown')}"]
        head += [f"{name}: {value}" for name, value in answer.headers.items()]
        if fault.sizeless and method != "HEAD":
            head.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        elif answer.status != 204:
            head.append(f"Content-Length: {len(body)}")
        sent = b"" if method == "HEAD" else body[: fault.cut]
        self.wfile.write("\r\n".join([*head, "", ""]).encode("latin-1") + sent)
        return method == "HEAD" or len(sent) == len(body)
