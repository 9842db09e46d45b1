"""Slow servers, in both directions: each request ends, and each body has a minimum rate."""

from __future__ import annotations

import contextlib
import itertools
import socket as sockets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pycurl
import pytest

from syncline.clients.http import transfer
from syncline.clients.http.addresses import DIRECT, Endpoint
from syncline.clients.http.client import Http, Response
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.errors import SynclineError
from tests.standins.made_up import Naps

HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NUMBERS: Final = itertools.count(1)  # of hosts, so that each test has its own connections
ROUNDS: Final = 100_000  # waits after which a test counts as endless


@dataclass
class SlowServer:
    """A server that takes ``pause`` seconds of a fake clock for each byte after the first ``fast`` ones.

    It reads ``taken`` bytes of a request at once, and takes ``taking`` seconds each time.
    """

    time: Naps
    sends: Iterator[int]
    fast: int = 0
    pause: float = 1.0
    taking: float = 0.0
    taken: int = 1 << 16
    sent: int = 0
    waits: int = 0
    closed: bool = False
    _passed: float = 0.0
    _pending: bytes = b""

    def __post_init__(self) -> None:
        self.client, self._server = sockets.socketpair()
        self.client.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 1)  # as small as the system allows
        self._server.setblocking(False)
        self._send_fast()

    def wait(self, seconds: float) -> float:
        """Advance the clock by up to ``seconds``, until the server has done something, and return the seconds."""
        self.waits += 1
        assert self.waits < ROUNDS, "the test does not end"
        if self._send_fast():
            return 0.0
        if self.taking and (left := self._pass(self.taking, seconds)) is not None:
            if not self._passed:
                self._take()
            return left
        self._take()
        left = self._pass(self.pause, seconds)
        if not self._passed:
            data = bytes(itertools.islice(self.sends, 1))
            self.sent += len(data)
            self._server.sendall(data)
        return left

    def _pass(self, whole: float, seconds: float) -> float:
        """Advance the clock by up to ``seconds`` of ``whole``. The next wait continues with the rest."""
        left = min(whole - self._passed, seconds)
        self._passed = 0.0 if left == whole - self._passed else self._passed + left
        self.time.now += left
        return left

    def _send_fast(self) -> bool:
        """Send fast bytes while the connection accepts them, and return True if it accepted some."""
        sent = 0
        while self.sent < self.fast:
            data = self._pending or bytes(itertools.islice(self.sends, min(1 << 16, self.fast - self.sent)))
            try:
                count = self._server.send(data)
            except BlockingIOError:
                self._pending = data
                break
            self._pending = data[count:]
            self.sent += count
            sent += count
        return sent > 0

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._server.recv(self.taken)

    def close(self) -> None:
        self._server.close()
        self.client.close()


class SlowChannel(transfer.Channel):
    """A channel to a slow server that waits by the fake clock."""

    __slots__ = ("_slow",)

    def __init__(self, slow: SlowServer) -> None:
        super().__init__("http", DIRECT)
        self._slow = slow
        self.easy.setopt(pycurl.SOCKOPTFUNCTION, lambda *_: pycurl.SOCKOPT_ALREADY_CONNECTED)
        self.easy.setopt(pycurl.OPENSOCKETFUNCTION, lambda *_: slow.client)

    def wait(self, seconds: float) -> float:
        self.poll(0)
        if self._ready or self.multi.timeout() == 0:
            return 0.0
        waited = self._slow.wait(min(seconds, transfer.POLL_INTERVAL))
        self.poll(0)
        return waited


Connect = Callable[[SlowServer], str]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Return a function that connects the next channel to a server, and returns a unique address."""
    servers: list[SlowServer] = []
    monkeypatch.setattr(transfer, "Channel", lambda *_: SlowChannel(servers[-1]))

    def connected(server: SlowServer) -> str:
        servers.append(server)
        return f"http://192.0.2.{next(NUMBERS)}/a"

    yield connected
    for server in servers:
        server.close()


@pytest.fixture
def http(naps: Naps) -> Http:
    return Http(RetryPolicy(attempts=3, chance=lambda: 1.0, sleep=naps.sleep, clock=naps.clock))


def failed(http: Http, url: str, method: str = "GET", **options: object) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        http.request(method, url, **options)  # type: ignore[arg-type]
    return caught.value


def drained(answer: Response) -> tuple[int, SynclineError]:
    """Read a stream until it fails, and return the number of bytes read and the error."""
    received = 0
    try:
        for _ in range(ROUNDS):
            received += len(answer.read(1 << 20))
    except SynclineError as error:
        return received, error
    raise AssertionError("the stream did not fail")


def endless(start: bytes, unit: bytes) -> Iterator[int]:
    return itertools.chain(start, itertools.cycle(unit))


@pytest.mark.parametrize(
    ("start", "unit"),
    [(HEAD, b"x"), (CHUNKED, b"1\r\nx\r\n"), (CHUNKED + b"5;", b"e"), (CHUNKED + b"0\r\n", b"A: b\r\n")],
    ids=["body", "chunks", "chunk extension", "trailers"],
)
def test_a_body_below_the_minimum_rate_is_an_error(
    http: Http, naps: Naps, connect: Connect, start: bytes, unit: bytes
) -> None:
    url, began = connect(SlowServer(naps, endless(start, unit), fast=len(start))), naps.now
    error = failed(http, url)
    assert error.code.name == "TOO_SLOW"
    assert error.retried
    assert not error.retried_here
    assert "bytes a second in 30 s, below the limit of 1024" in error.what
    assert naps.now - began < 61


def test_a_stream_below_the_minimum_rate_yields_its_bytes_before_the_error(
    http: Http, naps: Naps, connect: Connect
) -> None:
    url = connect(SlowServer(naps, endless(HEAD, b"x"), fast=len(HEAD)))
    with http.request("GET", url, stream=True) as answer:
        received, error = drained(answer)
    assert received == 29
    assert error.code.name == "TOO_SLOW"
    assert " 1 bytes a second" in error.what


def test_a_slow_body_is_reported(http: Http, naps: Naps, connect: Connect) -> None:
    reported: list[tuple[float, str]] = []
    url, began = connect(SlowServer(naps, endless(HEAD, b"x"), fast=len(HEAD), pause=0.0625)), naps.now
    http.set_deadline(70.0, min_rate=10, on_slow=lambda what: reported.append((naps.now - began, what)))
    assert failed(http, url).code.name == "TIME_SHORT"
    assert [round(at) for at, _ in reported] == [30, 60]
    assert reported[1][1] == f"{url.split('/')[2]} is slow: 0.0156 KiB/s in the last 30 s of waiting"


def test_a_fast_body_is_not_reported(http: Http, naps: Naps, connect: Connect) -> None:
    reported: list[str] = []
    head, size = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n", 6_000_000
    url = connect(SlowServer(naps, endless(head, b"x"), fast=len(head) + size, pause=25.0))
    http.set_deadline(70.0, on_slow=reported.append)
    with http.request("GET", url, stream=True) as answer:
        assert size < drained(answer)[0]
    assert reported == []


def test_a_slow_head_has_a_total_time_limit(http: Http, naps: Naps, connect: Connect) -> None:
    url, began = connect(SlowServer(naps, endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"))), naps.now
    error = failed(http, url, retry=naps.policy(attempts=1))
    assert (error.code.name, naps.now - began) == ("UNREACHABLE", 30)
    assert "no response within" in error.what


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n", HEAD], ids=["head", "body"])
def test_a_slow_response_ends_at_the_deadline(http: Http, naps: Naps, connect: Connect, start: bytes) -> None:
    url, began = connect(SlowServer(naps, endless(start, b"X: y\r\n"), fast=len(start))), naps.now
    http.set_deadline(10.0)
    error = failed(http, url)
    assert (error.code.name, naps.now - began) == ("TIME_SHORT", 10)


def test_a_server_that_reads_single_bytes_is_too_slow(http: Http, naps: Naps, connect: Connect) -> None:
    socket = SlowServer(naps, iter(b""), taking=1.0, taken=1)
    for body in (bytes(100_000), iter([bytes(100_000)])):
        began, url = naps.now, connect(socket)
        error = failed(http, url, "PUT", body=body)
        assert error.code.name == "TOO_SLOW"
        assert "PUT http://192.0.2." in error.what
        assert naps.now - began < 61


def test_a_server_that_reads_nothing_is_too_slow(http: Http, naps: Naps, connect: Connect) -> None:
    url, began = connect(SlowServer(naps, iter(b""), taking=1e9)), naps.now
    error = failed(http, url, "PUT", body=bytes(100_000), timeout=4000.0)
    assert (error.code.name, naps.now - began) == ("TOO_SLOW", 30)
    assert "below the limit of 1024" in error.what


def test_the_completion_of_an_upload_may_be_slow(http: Http, naps: Naps, connect: Connect) -> None:
    """S3 sends the head at once, then occasional spaces until the object is complete."""
    result = b'<?xml version="1.0" encoding="UTF-8"?>\n'
    result += b"<CompleteMultipartUploadResult><ETag>&quot;abc-2&quot;</ETag></CompleteMultipartUploadResult>"
    body = CHUNKED + b"1\r\n \r\n" * 20 + b"%x\r\n%b\r\n0\r\n\r\n" % (len(result), result)
    socket = SlowServer(naps, iter(body), fast=len(CHUNKED))
    endpoint = Endpoint.parse(connect(socket).removesuffix("/a"))
    upload = Bucket(endpoint, "bucket", lambda: AccessKeys("id", "secret"), http).resume_upload("key", "1")
    assert upload.complete({1: "a", 2: "b"}) == "abc-2"
    assert naps.now - 1000 > 60
    socket.close()


def test_the_minimum_rate_can_be_set(http: Http, naps: Naps, connect: Connect) -> None:
    head = HEAD.replace(b"1000000", b"100")
    socket = SlowServer(naps, endless(head, b"x"), fast=len(head), pause=0.5)
    http.set_deadline(1000.0, min_rate=1)
    try:
        assert http.request("GET", connect(socket)).body == b"x" * 100
    finally:
        socket.close()


def test_pauses_of_the_reader_do_not_count_as_slowness(http: Http, naps: Naps, connect: Connect) -> None:
    head = HEAD.replace(b"1000000", b"100")
    socket = SlowServer(naps, endless(head, b"x"), fast=len(head) + 50, pause=0.5)
    with http.request("GET", connect(socket), stream=True) as answer:
        assert answer.read(50) == b"x" * 50
        naps.now += 10_000
        assert sum(map(len, iter(lambda: answer.read(50), b""))) == 50
    socket.close()


@pytest.mark.parametrize(
    "socket",
    [
        lambda time: SlowServer(time, iter(b""), pause=1e9),
        lambda time: SlowServer(time, endless(HEAD, b"x"), fast=len(HEAD)),
        lambda time: SlowServer(time, iter(b""), taking=1e9),
    ],
    ids=["no head", "a slow body", "nothing read"],
)
def test_a_request_ends_when_its_run_is_cancelled(
    http: Http, naps: Naps, connect: Connect, socket: Callable[[Naps], SlowServer]
) -> None:
    url, began, asked = connect(socket(naps)), naps.now, itertools.count()
    http.set_deadline(300.0, lambda: naps.now >= began + 3 or next(asked) > 1000, min_rate=0)
    error = failed(http, url, "PUT", body=bytes(100_000))
    assert error.code.name == "RUN_CANCELLED"
    assert naps.now - began <= 4
    assert failed(http, url).code.name == "RUN_CANCELLED", "no request begins after a cancellation"


def test_a_fast_stream_ends_when_the_run_is_cancelled(http: Http, naps: Naps, connect: Connect) -> None:
    head = HEAD.replace(b"1000000", b"1000000000000")
    chunks = itertools.count()
    url = connect(SlowServer(naps, endless(head, b"x"), fast=1 << 50))
    with http.request("GET", url, stream=True) as answer:
        assert answer.read(1 << 20)
    url = connect(SlowServer(naps, endless(head, b"x"), fast=1 << 50))
    http.set_deadline(300.0, lambda: next(chunks) > 6)
    with http.request("GET", url, stream=True) as answer:
        assert drained(answer)[1].code.name == "RUN_CANCELLED"


def test_a_pause_ends_when_the_run_is_cancelled(http: Http, naps: Naps, connect: Connect) -> None:
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n"
    socket = SlowServer(naps, iter(answer), fast=len(answer))
    url, began = connect(socket), naps.now
    http.set_deadline(300.0, lambda: naps.now >= began + 1)
    assert failed(http, url).code.name == "RUN_CANCELLED"
    assert naps.now - began <= 3
    socket.close()
