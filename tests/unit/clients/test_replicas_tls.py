"""TLS to replicas: trusted authorities, names, and servers without TLS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from syncline.clients.http import authorities
from syncline.clients.replicas.client import (
    FailureReason,
    ReplicaClient,
    ReplicaResponse,
)
from tests.standins.certificates import Authority
from tests.unit.clients.replica_server import (
    NAME,
    OK,
    answering,
    ask,
    client_of_replicas,
    serving,
)


@pytest.mark.parametrize("own", [False, True])
def test_certificates_are_checked_only_with_the_given_authorities(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    own: bool,
) -> None:
    system, given = Authority(), Authority("Another")
    (tmp_path / "system.pem").write_text(system.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    monkeypatch.setattr(
        authorities, "system_authorities", authorities.system_authorities.__wrapped__
    )  # without its cache, which keeps the environment
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*(given if own else system).write_server_files(tmp_path, NAME))

    async def run() -> None:
        async with serving(answering(OK), tls) as server:
            for authorities, trusted in (("", not own), (given.pem, own)):
                with client_of_replicas(authorities) as replicas:
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
        async with serving(answering(OK), tls) as server:
            replicas = ReplicaClient(asyncio.get_running_loop(), authority.pem, name, 20)
            answer = await ask(replicas, server.address)
            replicas.close()
            assert answer.reason is FailureReason.TLS_FAILED
            assert server.requests == []

    asyncio.run(run())


def test_a_server_without_tls_is_reported() -> None:
    async def run() -> None:
        listening = await asyncio.start_server(answering(OK), "127.0.0.1", 0)
        with client_of_replicas("") as replicas:
            answer = await ask(replicas, listening.sockets[0].getsockname())
        listening.close()
        assert answer.reason is FailureReason.TLS_FAILED
        assert "plain_http" in answer.detail

    asyncio.run(run())


def test_invalid_authorities_fail_each_request(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*Authority().write_server_files(tmp_path, NAME))

    async def run() -> None:
        async with serving(answering(OK), tls) as server:
            with client_of_replicas("no certificate") as replicas:
                answer = await ask(replicas, server.address)
            assert answer.reason is FailureReason.TLS_FAILED
            assert "PEM" in answer.detail

    asyncio.run(run())
