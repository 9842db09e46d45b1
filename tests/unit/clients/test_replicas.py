"""Requests to replicas over kept connections: valid, invalid, truncated and late responses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from syncline.clients.http import authorities
from syncline.clients.replicas import client as module
from syncline.clients.replicas.client import (
    MAX_BODY,
    MAX_CONNECTIONS,
    MAX_HEAD,
    FailureReason,
    ReplicaClient,
    ReplicaRequest,
    ReplicaResponse,
)
from tests.standins.certificates import Authority

NAME: Final = "gateway.example"
GET: Final = b"GET /check?a=b HTTP/1.1\r\nHost: gateway.example:8443\r\nAccept: */*\r\nCookie: a=b\r\n\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 3\r\n\r\nok\n"
NOT_YET: Final = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
CHUNKED: Final = b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A replica that does with each request what `serve` says; it notes the requests and counts the connections."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.connections = 0
        self.open = 0
        self.requests: list[bytes] = []
        self.address = ("", 0)
        self.changed = asyncio.Condition()
        self.tasks: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.tasks[asyncio.current_task()] = writer
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.requests.append(head + await reader.readexactly(int(length or 0)))
                await self._tell()
                await self.serve(reader, writer)
        writer.close()
        self.open -= 1
        await self._tell()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(is_so)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@contextlib.asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    server = Server(serve)
    listening = await asyncio.start_server(server.accept, host, 0, ssl=tls)
    server.address = listening.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        listening.close()
        for writer in server.tasks.values():
            writer.close()
        await asyncio.gather(*filter(None, server.tasks), return_exceptions=True)


@contextlib.contextmanager
def asking(authorities: str | None = None, timeout: float = 20.0) -> Iterator[ReplicaClient]:
    replicas = ReplicaClient(asyncio.get_running_loop(), authorities, NAME, timeout)
    try:
        yield replicas
    finally:
        replicas.close()


def saying_after(event: asyncio.Event, answer: bytes) -> Serve:
    """Send an answer once ``event`` has happened."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await event.wait()
        writer.write(answer)

    return serve


def saying(*pieces: bytes, close: bool = False) -> Serve:
    """Send an answer in pieces."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return serve


def begin(
    replicas: ReplicaClient, address: tuple[str, int], request: bytes = GET
) -> tuple[ReplicaRequest, asyncio.Future[ReplicaResponse]]:
    answer: asyncio.Future[ReplicaResponse] = asyncio.get_running_loop().create_future()
    return replicas.send(address, request, answer.set_result), answer


async def ask(replicas: ReplicaClient, address: tuple[str, int], request: bytes = GET) -> ReplicaResponse:
    async with asyncio.timeout(20):
        return await begin(replicas, address, request)[1]


async def end(replicas: ReplicaClient) -> None:
    """Wait until the rest of every answer has come, of which nobody is told."""
    async with asyncio.timeout(20):
        while replicas._running:  # noqa: ASYNC110
            await asyncio.sleep(0)


def test_a_request_goes_out_as_it_is() -> None:
    put = b"PUT /keys/a%20b HTTP/1.1\r\nHost: gateway.example\r\nX-Empty: \r\nContent-Length: 5\r\n\r\nvalue"
    requests = [
        GET,
        put,
        b"DELETE /keys/a HTTP/1.1\r\nHost: gateway.example\r\nAccept: */*\r\n\r\n",
        b"POST /../a#b HTTP/1.1\r\nHost: gateway.example\r\nContent-Type: a/b\r\nContent-Length: 0\r\n\r\n",
        b"GET /body HTTP/1.1\r\nHost: gateway.example\r\nAccept: */*\r\nContent-Length: 5\r\n\r\nvalue",
        b"HEAD /check HTTP/1.1\r\nHost: gateway.example\r\nAccept: */*\r\n\r\n",
        GET,
    ]

    async def run() -> None:
        async with serving(saying(NOT_YET)) as server:
            with asking() as replicas:
                for request in requests:
                    assert await ask(replicas, server.address, request) == ReplicaResponse(401)
            assert [_lines(each) for each in server.requests] == [_lines(each) for each in requests]
            assert server.connections == 1

    asyncio.run(run())


def _lines(request: bytes) -> tuple[bytes, set[bytes], bytes]:
    """Return the request line, the fields in any order and the body."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    return first, {field.rstrip() for field in fields}, body


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("data", "status", "reusable"),
    [
        (OK, 200, True),
        (CHUNKED, 401, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, True),
        (b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n", 302, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 200, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", 200, True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 200, True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, True),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, True),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", 200, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nVary: Content-Length:\r\n\r\n0\r\n\r\n", 200, True),
        (OK + b"more", 200, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), 200, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 200, False),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1), 200, False),
    ],
)
def test_an_answer_is_its_status_and_its_connection_is_used_again_if_it_can_be(
    data: bytes,
    status: int,
    reusable: bool,
    cut: bool,
) -> None:
    pieces = [data[:90][place : place + 1] for place in range(len(data[:90]))] + [data[90:]] if cut else [data]

    async def run() -> None:
        async with serving(saying(*pieces)) as server:
            with asking() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(status)
                await end(replicas)
                assert await ask(replicas, server.address) == ReplicaResponse(status)
                assert server.connections == (1 if reusable else 2)

    asyncio.run(run())


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x01\x00\x02",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno name: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: chunked\r\nCONTENT-LENGTH: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x01b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_HEAD,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD + b"\r\n\r\n",
    ],
)
def test_an_invalid_response_is_garbage_and_its_connection_is_closed(data: bytes) -> None:
    async def run() -> None:
        async with serving(saying(data)) as server:
            with asking() as replicas:
                answer = await ask(replicas, server.address)
                assert (answer.status, answer.reason) == (None, FailureReason.GARBAGE)
                assert answer.detail
                await server.until(lambda: server.open == 0)
                assert server.connections == 1

    asyncio.run(run())


def test_an_answer_is_known_with_its_head_and_the_rest_is_read_later() -> None:
    async def run() -> None:
        known = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OK[:-3])
            await known.wait()
            writer.write(OK[-3:])

        async with serving(serve) as server:
            with asking() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                known.set()
                await end(replicas)
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                assert server.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize("data", [b"", OK[:10], OK[:-3]])
def test_what_nobody_waits_for_may_take_a_little_more_time(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(module, "_LINGER", 0.05)

    async def run() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(data)
            assert await reader.read() == b""
            writer.close()

        async with serving(serve) as server:
            with asking() as replicas:
                exchange, answer = begin(replicas, server.address)
                await server.until(lambda: len(server.requests) == 1)
                if data != OK[:-3]:
                    exchange.cancel()
                await server.until(lambda: server.open == 0)
                assert answer.done() == (data == OK[:-3])

    asyncio.run(run())


def test_a_cancelled_request_is_not_answered_and_its_connection_is_kept() -> None:
    async def run() -> None:
        go_on = asyncio.Event()

        async with serving(saying_after(go_on, OK)) as server:
            with asking() as replicas:
                exchange, answer = begin(replicas, server.address)
                exchange.cancel()
                await server.until(lambda: len(server.requests) == 1)
                go_on.set()
                await end(replicas)
                assert not answer.done()
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                assert server.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize("request_", [GET, b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nvalue"])
def test_a_request_is_sent_again_where_a_kept_connection_was_closed(request_: bytes) -> None:
    """The server closes it at the second request, as one that has just had enough of waiting."""

    async def run() -> None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(server.requests) != 2:
                writer.write(OK)
            else:
                writer.close()

        async with serving(serve) as server:
            with asking() as replicas:
                assert await ask(replicas, server.address, request_) == ReplicaResponse(200)
                assert await ask(replicas, server.address, request_) == ReplicaResponse(200)
                assert (server.connections, len(server.requests)) == (2, 3)

    asyncio.run(run())


def test_a_kept_connection_that_was_closed_is_watched_no_more_and_not_used_again() -> None:
    async def run() -> None:
        async with serving(saying(OK)) as server:
            writers: list[asyncio.StreamWriter] = []

            async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writers.append(writer)
                writer.write(OK)

            server.serve = serve
            with asking() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                writers[0].close()
                await server.until(lambda: server.open == 0)
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                assert (server.connections, len(server.requests)) == (2, 2)
                writers[1].close()
                await server.until(lambda: server.open == 0)
                while replicas._epoll.poll(0):  # noqa: ASYNC110 - else the loop would never rest
                    await asyncio.sleep(0)

    asyncio.run(run())


def test_a_handle_that_serves_the_next_request_is_not_taken_back_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait begin in the turn in which others end."""
    monkeypatch.setattr(module, "_LINGER", 0.05)
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)

    async def run() -> None:
        later = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(server.requests) == 2:
                asyncio.get_running_loop().call_later(0.1, later.set)  # longer than what nobody waits for may take
                await later.wait()
            writer.write(OK)

        async with serving(serve) as server:
            with asking() as replicas:
                answers = [begin(replicas, server.address)[1] for _ in range(3)]
                async with asyncio.timeout(20):
                    assert await asyncio.gather(*answers) == [ReplicaResponse(200)] * 3
                assert server.connections == 1

    asyncio.run(run())


def test_a_cancelled_request_that_waits_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)

    async def run() -> None:
        async with serving(saying(OK)) as server:
            with asking() as replicas:
                first, second, third = (begin(replicas, server.address) for _ in range(3))
                second[0].cancel()
                assert set(await asyncio.wait_for(asyncio.gather(first[1], third[1]), 20)) == {ReplicaResponse(200)}
                assert (len(server.requests), second[1].done()) == (2, False)

    asyncio.run(run())


def test_further_requests_wait_for_one_of_the_connections_however_long() -> None:
    async def run() -> None:
        go_on = asyncio.Event()

        async with serving(saying_after(go_on, OK)) as server:
            with asking(timeout=0.5) as replicas:
                answers = [begin(replicas, server.address)[1] for _ in range(MAX_CONNECTIONS + 8)]
                await server.until(lambda: len(server.requests) == MAX_CONNECTIONS)
                asyncio.get_running_loop().call_later(1.0, go_on.set)  # longer than a connection may take
                async with asyncio.timeout(20):
                    assert set(await asyncio.gather(*answers)) == {ReplicaResponse(200)}
                assert server.connections == MAX_CONNECTIONS

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", ReplicaResponse(None, FailureReason.CLOSED_UNUSED, "closed without a response")),
        (b"HTTP/1.1 20", ReplicaResponse(None, FailureReason.CLOSED_UNUSED, "closed without a response")),
        (OK[:30], ReplicaResponse(None, FailureReason.CUT_SHORT, "closed within the response")),
        (OK[:-1], ReplicaResponse(200)),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", ReplicaResponse(200)),
    ],
)
def test_an_answer_may_be_cut_short(data: bytes, answer: ReplicaResponse) -> None:
    async def run() -> None:
        async with serving(saying(data, close=True)) as server:
            with asking() as replicas:
                assert await ask(replicas, server.address) == answer

    asyncio.run(run())


def test_who_cannot_be_reached_is_unreachable() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            with asking() as replicas:
                answer = await ask(replicas, taken.getsockname())
        assert answer == ReplicaResponse(None, FailureReason.UNREACHABLE, "Connection refused")

    asyncio.run(run())


def test_a_connection_has_to_be_there_in_time_tls_included() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent, asking("", 0.1) as replicas:
            answer = await ask(replicas, silent.getsockname())
        assert answer == ReplicaResponse(None, FailureReason.UNREACHABLE, "no connection within the time limit")

    asyncio.run(run())


@pytest.mark.parametrize("host", ["named.example", "localhost", "169.254.169.254", "224.0.0.1", "0.0.0.0"])
def test_nothing_is_sent_to_an_address_of_no_instance(host: str) -> None:
    loop = asyncio.new_event_loop()
    replicas = ReplicaClient(loop, None, NAME)
    answers: list[ReplicaResponse] = []
    replicas.send((host, 1), GET, answers.append)
    assert answers == [ReplicaResponse(None, FailureReason.REFUSED_ADDRESS, "not the address of an instance")]
    assert replicas._multi is None
    loop.close()


def test_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")

    async def run() -> None:
        async with serving(saying(OK)) as server:
            with asking() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)

    asyncio.run(run())


def test_an_ipv6_address_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_probed", lambda _: True)  # loopback is reserved

    async def run() -> None:
        async with serving(saying(OK), host="::1") as server:
            with asking() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    asyncio.run(run())


def test_connections_nobody_needs_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEP", 0.05)

    async def run() -> None:
        async with serving(saying(OK)) as server:
            with asking() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                await server.until(lambda: server.open == 0)
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                assert server.connections == 2

    asyncio.run(run())


def test_after_close_no_request_is_answered_and_no_connection_is_left() -> None:
    async def run() -> None:
        async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            assert await reader.read() == b""

        async with serving(serve) as server:
            with asking() as replicas:
                exchange, answer = begin(replicas, server.address)
                await server.until(lambda: len(server.requests) == 1)
                replicas.close()
                exchange.cancel()
                await server.until(lambda: server.open == 0)
                assert not answer.done()

    asyncio.run(run())


@pytest.mark.parametrize("own", [False, True])
def test_certificates_are_checked_with_the_given_authorities_alone(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    own: bool,
) -> None:
    system, given = Authority(), Authority("Another")
    (tmp_path / "system.pem").write_text(system.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    monkeypatch.setattr(
        authorities, "system_authorities", authorities.system_authorities.__wrapped__
    )  # it remembers the environment
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*(given if own else system).write_server_files(tmp_path, NAME))

    async def run() -> None:
        async with serving(saying(OK), tls) as server:
            for authorities, trusted in (("", not own), (given.pem, own)):
                with asking(authorities) as replicas:
                    answer = await ask(replicas, server.address)
                    if trusted:
                        assert answer == ReplicaResponse(200)
                    else:
                        assert (answer.status, answer.reason) == (None, FailureReason.TLS_FAILED)
                        assert answer.detail.startswith("the certificate could not be verified")
            assert len(server.requests) == 1

    asyncio.run(run())


@pytest.mark.parametrize("name", ["other.example", None])
def test_a_certificate_must_be_for_the_name(tmp_path: Path, name: str | None) -> None:
    authority = Authority()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.write_server_files(tmp_path, NAME))

    async def run() -> None:
        async with serving(saying(OK), tls) as server:
            replicas = ReplicaClient(asyncio.get_running_loop(), authority.pem, name, 20)
            answer = await ask(replicas, server.address)
            replicas.close()
            assert answer.reason is FailureReason.TLS_FAILED
            assert server.requests == []

    asyncio.run(run())


def test_a_server_without_tls_is_reported() -> None:
    async def run() -> None:
        listening = await asyncio.start_server(saying(OK), "127.0.0.1", 0)
        with asking("") as replicas:
            answer = await ask(replicas, listening.sockets[0].getsockname())
        listening.close()
        assert answer.reason is FailureReason.TLS_FAILED
        assert "plain_http" in answer.detail

    asyncio.run(run())


def test_authorities_that_are_no_certificates_fail_each_request(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*Authority().write_server_files(tmp_path, NAME))

    async def run() -> None:
        async with serving(saying(OK), tls) as server:
            with asking("no certificate") as replicas:
                answer = await ask(replicas, server.address)
            assert answer.reason is FailureReason.TLS_FAILED
            assert "PEM" in answer.detail

    asyncio.run(run())
