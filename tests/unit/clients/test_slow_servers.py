"""Servers that send or take a byte at a time: each request has an end, and each body a lowest rate."""

from __future__ import annotations

import itertools
import socket as sockets
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import pytest
from urllib3 import exceptions as trouble

from syncline.clients import connections
from syncline.clients.bucket import Bucket
from syncline.clients.connections import Connection, Patience
from syncline.clients.http import Endpoint, Http, Policy, Response
from syncline.clients.sigv4 import Keys
from syncline.errors import SynclineError
from tests.standins.certificates import Authority
from tests.standins.made_up import Naps

HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NUMBERS: Final = itertools.count(1)  # of hosts: each has connections of its own
ROUNDS: Final = 100_000  # waits after which a test is held to be endless


@dataclass
class SlowSocket:
    """A socket whose server needs ``pause`` seconds of a made-up clock for each byte behind the first ``fast`` ones.

    ``taken`` is the number of bytes that it takes at once; it needs ``taking`` seconds for each time.
    """

    time: Naps
    sends: Iterator[int]
    fast: int = 0
    pause: float = 1.0
    taking: float = 0.0
    taken: int = 1 << 30
    received: bytearray = field(default_factory=bytearray)
    sent: int = 0
    waits: int = 0
    closed: bool = False
    _timeout: float = 0.0
    _passed: float = 0.0

    def settimeout(self, seconds: float) -> None:
        self._timeout = seconds

    def recv(self, size: int) -> bytes:
        count = min(size, self.fast - self.sent) if self.sent < self.fast else 1
        if self.sent >= self.fast:
            self._wait(self.pause)
        data = bytes(itertools.islice(self.sends, count))
        self.sent += len(data)
        return data

    def recv_into(self, buffer: memoryview) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: memoryview) -> int:
        self._wait(self.taking)
        self.received += data[: self.taken]
        return min(len(data), self.taken)

    def close(self) -> None:
        self.closed = True

    def _wait(self, seconds: float) -> None:
        """Let time pass, at most as much as the timeout allows; what is left of a wait is left for the next one."""
        self.waits += 1
        assert self.waits < ROUNDS, "no end"
        left = seconds - self._passed
        self.time.now += min(left, self._timeout)
        if left > self._timeout:
            self._passed += self._timeout
            raise TimeoutError
        self._passed = 0.0


Connect = Callable[[SlowSocket], str]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, naps: Naps) -> Iterator[Connect]:
    """Put a socket in the place of the next connection, and return an address of its own for it."""
    sockets: list[SlowSocket] = []
    monkeypatch.setattr(connections, "monotonic", naps.clock)
    monkeypatch.setattr(connections, "_connected", lambda *_: sockets[-1])

    def connected(socket: SlowSocket) -> str:
        sockets.append(socket)
        return f"http://slow-{next(NUMBERS)}.example/a"

    yield connected
    assert all(each.closed for each in sockets), "a connection with bytes left is not used again"


@pytest.fixture
def http(naps: Naps) -> Http:
    return Http(Policy(attempts=3, chance=lambda: 1.0, sleep=naps.sleep, clock=naps.clock))


def failed(http: Http, url: str, method: str = "GET", **options: object) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        http.request(method, url, **options)  # type: ignore[arg-type]
    return caught.value


def drained(answer: Response) -> tuple[int, SynclineError]:
    """Read a stream until it fails; return the number of bytes that came before, and the failure."""
    came = 0
    try:
        for _ in range(ROUNDS):
            came += len(answer.read(1 << 20))
    except SynclineError as error:
        return came, error
    raise AssertionError("no end")


def endless(start: bytes, unit: bytes) -> Iterator[int]:
    return itertools.chain(start, itertools.cycle(unit))


@pytest.mark.parametrize(
    ("start", "unit"),
    [(HEAD, b"x"), (CHUNKED, b"1\r\nx\r\n"), (CHUNKED + b"5;", b"e"), (CHUNKED + b"0\r\n", b"A: b\r\n")],
    ids=["body", "chunks", "the frame of a chunk", "trailers"],
)
def test_a_body_that_drips_is_too_slow(http: Http, naps: Naps, connect: Connect, start: bytes, unit: bytes) -> None:
    url, began = connect(SlowSocket(naps, endless(start, unit), fast=len(start))), naps.now
    error = failed(http, url)
    assert error.code.name == "TOO_SLOW"
    assert error.retried
    assert not error.retried_here
    assert "bytes a second in 30 s, below the limit of 1024" in error.what
    assert naps.now - began < 61


def test_a_stream_that_drips_gives_what_it_has_and_is_too_slow_then(http: Http, naps: Naps, connect: Connect) -> None:
    url = connect(SlowSocket(naps, endless(HEAD, b"x"), fast=len(HEAD)))
    with http.request("GET", url, stream=True) as answer:
        came, error = drained(answer)
    assert came == 29
    assert error.code.name == "TOO_SLOW"
    assert " 1 bytes a second" in error.what


def test_a_body_that_is_slow_and_goes_on_is_told_of(http: Http, naps: Naps, connect: Connect) -> None:
    told: list[tuple[float, str]] = []
    url, began = connect(SlowSocket(naps, endless(HEAD, b"x"), fast=len(HEAD), pause=0.0625)), naps.now
    http.end_within(70.0, slowest=10, slow=lambda what: told.append((naps.now - began, what)))
    assert failed(http, url).code.name == "TIME_SHORT"
    assert [round(at) for at, _ in told] == [30, 60]
    assert told[1][1] == f"{url.split('/')[2]} is slow: 0.0156 KiB/s in the last 30 s of waiting"


def test_a_body_that_is_not_slow_is_not_told_of(http: Http, naps: Naps, connect: Connect) -> None:
    told: list[str] = []
    head, size = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n", 6_000_000
    url = connect(SlowSocket(naps, endless(head, b"x"), fast=len(head) + size, pause=25.0))
    http.end_within(70.0, slow=told.append)
    with http.request("GET", url, stream=True) as answer:
        assert size < drained(answer)[0]
    assert told == []


def test_a_head_that_drips_has_one_time_in_all(http: Http, naps: Naps, connect: Connect) -> None:
    url, began = connect(SlowSocket(naps, endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"))), naps.now
    error = failed(http, url, retry=naps.policy(attempts=1))
    assert (error.code.name, naps.now - began) == ("UNREACHABLE", 30)
    assert "no answer in time" in error.what


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n", HEAD], ids=["head", "body"])
def test_what_drips_ends_at_the_deadline(http: Http, naps: Naps, connect: Connect, start: bytes) -> None:
    url, began = connect(SlowSocket(naps, endless(start, b"X: y\r\n"), fast=len(start))), naps.now
    http.end_within(10.0)
    error = failed(http, url)
    assert (error.code.name, naps.now - began) == ("TIME_SHORT", 10)


def test_a_server_that_takes_a_byte_at_a_time_is_too_slow(http: Http, naps: Naps, connect: Connect) -> None:
    socket = SlowSocket(naps, iter(b""), taking=1.0, taken=1)
    for body in (bytes(100_000), iter([bytes(100_000)])):
        began, url = naps.now, connect(socket)
        error = failed(http, url, "PUT", body=body)
        assert error.code.name == "TOO_SLOW"
        assert "PUT http://slow-" in error.what
        assert naps.now - began < 61


def test_a_server_that_takes_nothing_is_too_slow(http: Http, naps: Naps, connect: Connect) -> None:
    url, began = connect(SlowSocket(naps, iter(b""), taking=1e9)), naps.now
    error = failed(http, url, "PUT", body=bytes(100_000), timeout=4000.0)
    assert (error.code.name, naps.now - began) == ("TOO_SLOW", 30)
    assert " 0 bytes a second" in error.what


def test_what_a_server_takes_over_tls_is_counted_before_it_has_taken_all(
    naps: Naps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GLANCE", 0.05)
    authority, (ours, theirs) = Authority(), sockets.socketpair()
    with ThreadPoolExecutor(1) as handshake:
        server = handshake.submit(authority.server_context().wrap_socket, theirs, server_side=True)
        context = ssl.create_default_context(cadata=authority.pem)
        connection = Connection(context.wrap_socket(ours, server_hostname="127.0.0.1"))
    patience = Patience(0.2, naps.policy())
    patience.begin(body=True)
    counted: list[int] = []
    monkeypatch.setattr(Patience, "count", lambda _, size: counted.append(size))
    with server.result(), pytest.raises(trouble.TimeoutError):
        connection.send(bytes(8 * 1024 * 1024), patience)  # the server reads nothing
    connection.close()
    assert sum(counted) > 0, "the system has taken some of it"


def test_a_service_that_joins_parts_may_take_its_time(http: Http, naps: Naps, connect: Connect) -> None:
    """S3 sends the head at once, and then a space now and then until the object is complete."""
    result = b'<?xml version="1.0" encoding="UTF-8"?>\n'
    result += b"<CompleteMultipartUploadResult><ETag>&quot;abc-2&quot;</ETag></CompleteMultipartUploadResult>"
    body = CHUNKED + b"1\r\n \r\n" * 20 + b"%x\r\n%b\r\n0\r\n\r\n" % (len(result), result)
    socket = SlowSocket(naps, iter(body), fast=len(CHUNKED))
    endpoint = Endpoint.parse(connect(socket).removesuffix("/a"))
    upload = Bucket(endpoint, "bucket", lambda: Keys("id", "secret"), http).resume_upload("key", "1")
    assert upload.complete({1: "a", 2: "b"}) == "abc-2"
    assert naps.now - 1000 > 60
    socket.close()


def test_the_lowest_rate_can_be_set(http: Http, naps: Naps, connect: Connect) -> None:
    head = HEAD.replace(b"1000000", b"100")
    socket = SlowSocket(naps, endless(head, b"x"), fast=len(head), pause=0.5)
    http.end_within(1000.0, slowest=1)
    try:
        assert http.request("GET", connect(socket)).body == b"x" * 100
    finally:
        socket.close()


def test_our_own_pauses_make_no_server_slow(http: Http, naps: Naps, connect: Connect) -> None:
    head = HEAD.replace(b"1000000", b"100")
    socket = SlowSocket(naps, endless(head, b"x"), fast=len(head) + 50, pause=0.5)
    with http.request("GET", connect(socket), stream=True) as answer:
        assert answer.read(50) == b"x" * 50
        naps.now += 10_000
        assert sum(len(answer.read(50)) for _ in range(25)) == 50
    socket.close()


@pytest.mark.parametrize(
    "socket",
    [
        lambda time: SlowSocket(time, iter(b""), pause=1e9),
        lambda time: SlowSocket(time, endless(HEAD, b"x"), fast=len(HEAD)),
        lambda time: SlowSocket(time, iter(b""), taking=1e9),
    ],
    ids=["no head", "a body that drips", "nothing taken"],
)
def test_a_request_ends_when_its_run_is_cancelled(
    http: Http, naps: Naps, connect: Connect, socket: Callable[[Naps], SlowSocket]
) -> None:
    url, began, asked = connect(socket(naps)), naps.now, itertools.count()
    http.end_within(300.0, lambda: naps.now >= began + 3 or next(asked) > 1000, slowest=0)
    error = failed(http, url, "PUT", body=bytes(100_000))
    assert error.code.name == "RUN_CANCELLED"
    assert naps.now - began <= 4
    assert failed(http, url).code.name == "RUN_CANCELLED", "no request begins after that"


def test_a_fast_stream_ends_when_the_run_is_cancelled(http: Http, naps: Naps, connect: Connect) -> None:
    head = HEAD.replace(b"1000000", b"1000000000000")
    chunks = itertools.count()
    url = connect(SlowSocket(naps, endless(head, b"x"), fast=1 << 50))
    with http.request("GET", url, stream=True) as answer:
        assert answer.read(1 << 20)
    url = connect(SlowSocket(naps, endless(head, b"x"), fast=1 << 50))
    http.end_within(300.0, lambda: next(chunks) > 6)
    with http.request("GET", url, stream=True) as answer:
        assert drained(answer)[1].code.name == "RUN_CANCELLED"


def test_a_pause_ends_when_the_run_is_cancelled(http: Http, naps: Naps, connect: Connect) -> None:
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n"
    socket = SlowSocket(naps, iter(answer), fast=len(answer))
    url, began = connect(socket), naps.now
    http.end_within(300.0, lambda: naps.now >= began + 1)
    assert failed(http, url).code.name == "RUN_CANCELLED"
    assert naps.now - began <= 3
    socket.close()
