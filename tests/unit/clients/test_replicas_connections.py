"""Connections to replicas: kept, reused, limited in number and time, and closed."""

from __future__ import annotations

import asyncio
import socket

import pytest

from syncline.clients.replicas import client as module
from syncline.clients.replicas.client import (
    MAX_CONNECTIONS,
    FailureReason,
    ReplicaClient,
    ReplicaResponse,
)
from tests.unit.clients.replica_server import (
    GET,
    NAME,
    OK,
    answering,
    answering_after,
    ask,
    begin,
    client_of_replicas,
    end,
    serving,
)


@pytest.mark.parametrize("data", [b"", OK[:10], OK[:-3]])
def test_a_cancelled_or_reported_request_has_a_time_limit(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(module, "_LINGER", 0.05)

    async def run() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(data)
            assert await reader.read() == b""
            writer.close()

        async with serving(serve) as server:
            with client_of_replicas() as replicas:
                exchange, answer = begin(replicas, server.address)
                await server.until(lambda: len(server.requests) == 1)
                if data != OK[:-3]:
                    exchange.cancel()
                await server.until(lambda: server.open == 0)
                assert answer.done() == (data == OK[:-3])

    asyncio.run(run())


def test_a_cancelled_request_is_not_answered_and_its_connection_is_kept() -> None:
    async def run() -> None:
        released = asyncio.Event()

        async with serving(answering_after(released, OK)) as server:
            with client_of_replicas() as replicas:
                exchange, answer = begin(replicas, server.address)
                exchange.cancel()
                await server.until(lambda: len(server.requests) == 1)
                released.set()
                await end(replicas)
                assert not answer.done()
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                assert server.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize("request_", [GET, b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nvalue"])
def test_a_request_is_sent_again_if_a_kept_connection_was_closed(request_: bytes) -> None:
    """The server closes the connection at the second request, as after an idle timeout."""

    async def run() -> None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(server.requests) != 2:
                writer.write(OK)
            else:
                writer.close()

        async with serving(serve) as server:
            with client_of_replicas() as replicas:
                assert await ask(replicas, server.address, request_) == ReplicaResponse(200)
                assert await ask(replicas, server.address, request_) == ReplicaResponse(200)
                assert (server.connections, len(server.requests)) == (2, 3)

    asyncio.run(run())


def test_a_closed_kept_connection_is_neither_watched_nor_reused() -> None:
    async def run() -> None:
        async with serving(answering(OK)) as server:
            writers: list[asyncio.StreamWriter] = []

            async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writers.append(writer)
                writer.write(OK)

            server.serve = serve
            with client_of_replicas() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                writers[0].close()
                await server.until(lambda: server.open == 0)
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                assert (server.connections, len(server.requests)) == (2, 2)
                writers[1].close()
                await server.until(lambda: server.open == 0)
                while replicas._epoll.poll(0):  # noqa: ASYNC110 - a watched connection would keep the loop busy
                    await asyncio.sleep(0)

    asyncio.run(run())


def test_a_reused_handle_is_not_released_with_its_previous_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting requests begin in the same turn of the loop in which others end."""
    monkeypatch.setattr(module, "_LINGER", 0.05)
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)

    async def run() -> None:
        later = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(server.requests) == 2:
                asyncio.get_running_loop().call_later(0.1, later.set)  # longer than `_LINGER`
                await later.wait()
            writer.write(OK)

        async with serving(serve) as server:
            with client_of_replicas() as replicas:
                answers = [begin(replicas, server.address)[1] for _ in range(3)]
                async with asyncio.timeout(20):
                    assert await asyncio.gather(*answers) == [ReplicaResponse(200)] * 3
                assert server.connections == 1

    asyncio.run(run())


def test_a_waiting_request_that_is_cancelled_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)

    async def run() -> None:
        async with serving(answering(OK)) as server:
            with client_of_replicas() as replicas:
                first, second, third = (begin(replicas, server.address) for _ in range(3))
                second[0].cancel()
                assert set(await asyncio.wait_for(asyncio.gather(first[1], third[1]), 20)) == {ReplicaResponse(200)}
                assert (len(server.requests), second[1].done()) == (2, False)

    asyncio.run(run())


def test_further_requests_wait_for_a_connection_without_a_limit() -> None:
    async def run() -> None:
        released = asyncio.Event()

        async with serving(answering_after(released, OK)) as server:
            with client_of_replicas(timeout=0.5) as replicas:
                answers = [begin(replicas, server.address)[1] for _ in range(MAX_CONNECTIONS + 8)]
                await server.until(lambda: len(server.requests) == MAX_CONNECTIONS)
                asyncio.get_running_loop().call_later(1.0, released.set)  # longer than a connection may take
                async with asyncio.timeout(20):
                    assert set(await asyncio.gather(*answers)) == {ReplicaResponse(200)}
                assert server.connections == MAX_CONNECTIONS

    asyncio.run(run())


def test_a_refused_connection_is_unreachable() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            with client_of_replicas() as replicas:
                answer = await ask(replicas, taken.getsockname())
        assert answer == ReplicaResponse(None, FailureReason.UNREACHABLE, "Connection refused")

    asyncio.run(run())


def test_a_connection_with_tls_has_a_time_limit() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent, client_of_replicas("", 0.1) as replicas:
            answer = await ask(replicas, silent.getsockname())
        assert answer == ReplicaResponse(None, FailureReason.UNREACHABLE, "no connection within the time limit")

    asyncio.run(run())


@pytest.mark.parametrize("host", ["named.example", "localhost", "169.254.169.254", "224.0.0.1", "0.0.0.0"])
def test_nothing_is_sent_to_an_address_that_is_not_an_instance(host: str) -> None:
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
        async with serving(answering(OK)) as server:
            with client_of_replicas() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)

    asyncio.run(run())


def test_an_ipv6_address_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_probed", lambda _: True)  # loopback is reserved

    async def run() -> None:
        async with serving(answering(OK), host="::1") as server:
            with client_of_replicas() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    asyncio.run(run())


def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEP", 0.05)

    async def run() -> None:
        async with serving(answering(OK)) as server:
            with client_of_replicas() as replicas:
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                await server.until(lambda: server.open == 0)
                assert await ask(replicas, server.address) == ReplicaResponse(200)
                assert server.connections == 2

    asyncio.run(run())


def test_close_cancels_requests_and_closes_connections() -> None:
    async def run() -> None:
        async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            assert await reader.read() == b""

        async with serving(serve) as server:
            with client_of_replicas() as replicas:
                exchange, answer = begin(replicas, server.address)
                await server.until(lambda: len(server.requests) == 1)
                replicas.close()
                exchange.cancel()
                await server.until(lambda: server.open == 0)
                assert not answer.done()

    asyncio.run(run())
