"""Unusual and invalid HTTP responses, byte by byte."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import resource
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline.clients.http import transfer
from syncline.clients.http.addresses import DIRECT, Address
from syncline.clients.http.client import Http
from syncline.clients.http.transfer import MAX_POOLS, ChannelPool, pool_for
from syncline.errors import SynclineError

BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


class _Raw:
    """A server that answers each request with the next scripted bytes, and counts its connections."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.heads: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def serve(self) -> None:
        while self.answers:
            connection, _ = self._listening.accept()
            self.connections += 1
            with connection:
                while self.answers:
                    head = b""
                    while b"\r\n\r\n" not in head and (data := connection.recv(4096)):
                        head += data
                    if not head:
                        break
                    self.heads.append(head)
                    answer = self.answers.pop(0)
                    connection.sendall(answer)
                    if b"close" in answer or b"HTTP/1.0" in answer or b"cut" in answer:
                        break

    def close(self) -> None:
        self._listening.close()


@contextmanager
def raw(*answers: bytes) -> Iterator[_Raw]:
    server = _Raw(*answers)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
        thread.join(10)
        assert not thread.is_alive(), f"answers that were not requested: {server.answers}"
    finally:
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nfi\r\n2\r\nne\r\n0\r\nTrailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 4\n\nfine",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + BODY,
        b"HTTP/1.1 200\r\nContent-Length: 4, 4\r\nX: a\r\n b\r\n\r\nfine",
    ],
)
def test_unusual_but_valid_responses_are_read(http: Http, answer: bytes) -> None:
    with raw(answer, BODY) as server:
        assert http.request("GET", f"{server.url}/a").body == b"fine"
        assert http.request("GET", f"{server.url}/a").body == b"fine"
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        BODY + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfine",
        b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        b"HTTP/1.0 200 OK\r\n\r\nfine",
    ],
)
def test_the_connection_is_not_reused_after_these_responses(http: Http, answer: bytes) -> None:
    with raw(answer, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood") as server:
        assert http.request("GET", f"{server.url}/a").body == b"fine"
        assert http.request("GET", f"{server.url}/a").body == b"good"
    assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"cut",
        b"SSH-2.0-OpenSSH_9 cut\r\n\r\n",
        b"HTTP/2 200 cut\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field cut\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\ncut",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ncut",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b" cut",
    ],
)
def test_invalid_responses_are_retried(http: Http, answer: bytes) -> None:
    with raw(answer, BODY) as server:
        assert http.request("GET", f"{server.url}/a").body == b"fine"
    assert server.connections == 2


def test_a_truncated_compressed_body_is_refused(http: Http) -> None:
    half = gzip.compress(b"fine" * 100)[:-6]
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(half), half)
    with raw(*[answer] * 4) as server, pytest.raises(SynclineError) as caught:
        http.request("GET", f"{server.url}/a")
    assert caught.value.code.name == "BAD_ANSWER"


def test_header_fields_are_joined_and_case_insensitive(http: Http) -> None:
    with raw(b"HTTP/1.1 204 No\r\nx-a: 1\r\nX-A:2\r\nX-Amz-Meta-Mode: 0644\r\n\r\n") as server:
        answer = http.request("GET", f"{server.url}/a")
    assert answer.header("X-a") == "1, 2"
    assert answer.all_headers("x-A") == ["1", "2"]
    assert dict(answer.headers) == {"x-a": "1, 2", "x-amz-meta-mode": "0644"}
    assert answer.headers.starting("x-amz-meta-") == {"mode": "0644"}


def test_unsafe_characters_in_a_target_are_escaped(http: Http) -> None:
    with raw(BODY, BODY) as server:
        http.request("GET", f"{server.url}/a b\u00e9%2Fc?d=<e>")
        http.request("GET", f"{server.url}?x=1")
    assert [head.split(b"\r\n")[0] for head in server.heads] == [
        b"GET /a%20b%C3%A9%2Fc?d=%3Ce%3E HTTP/1.1",
        b"GET /?x=1 HTTP/1.1",
    ]


def test_many_hosts_take_little_memory() -> None:
    """A registry may redirect each download to another host."""

    def pool(number: int) -> ChannelPool:
        return pool_for(Address("https", f"number-{number}.example", "/"), DIRECT)

    first = [pool(number) for number in range(3)]
    known = weakref.ref(first.pop(0))
    assert pool(1) is first[0]
    first.clear()
    for number in range(3, 3 + MAX_POOLS):
        pool(number)
    gc.collect()
    assert known() is None, "the first pool is deleted"


def test_a_descriptor_beyond_the_limit_of_select_works(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait ends when a response arrives on a descriptor of 1024 or more, which ``select(2)`` does not accept."""
    monkeypatch.setattr(transfer, "POLL_INTERVAL", 3600.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"this machine allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    channel = transfer.Channel("http", DIRECT)  # libcurl's own descriptors are small
    monkeypatch.setattr(transfer, "Channel", lambda *_: channel)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while stack.enter_context(Path(os.devnull).open()).fileno() < 1024:
            pass
        server = stack.enter_context(raw(BODY))
        assert http.request("GET", f"{server.url}/a", timeout=3.0).body == b"fine"
