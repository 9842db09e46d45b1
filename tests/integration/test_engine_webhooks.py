"""Requests to the address of a function on one machine: each gets a response, even if its body never ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from syncline.cli import deploy
from syncline.cli import local_engine as engine
from syncline.cli.local_engine import Engine

TOP: Final = Path(__file__).parents[2]
SECONDS: Final = 10  # about the time that a registry waits for the response to a notification
LIMIT: Final = 6 << 20  # of Lambda


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Yield an engine without a deployed stack, so that no address has a function."""
    home = tmp_path_factory.mktemp("home")
    python = deploy.environment(TOP, home / "sam.log", print)
    yield engine._start(home, python, 0, print)
    engine.down(home)


def status(connection: socket.socket) -> int:
    """Return the status of the response; fail if there is none in time."""
    connection.settimeout(SECONDS)
    line = connection.makefile("rb").readline().split()
    assert line, "the connection was closed without a response"
    return int(line[1])


@contextlib.contextmanager
def request(running: Engine, length: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        head = f"POST /_aws/lambda-url/{'a' * 32}/hooks/sync/secret HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        yield connection


def test_a_body_shorter_than_its_content_length(running: Engine) -> None:
    with request(running, 100) as connection:
        connection.sendall(b"{}")
        assert status(connection) == 408


def test_a_body_that_arrives_byte_by_byte(running: Engine) -> None:
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by the engine, or by the test
            while not ended.wait(0.5):
                connection.sendall(b" ")

    with request(running, 1_000_000) as connection:
        thread = threading.Thread(target=drip, args=(connection,))
        thread.start()
        try:
            assert status(connection) == 408
        finally:
            ended.set()
            thread.join()


def test_a_body_that_is_too_large(running: Engine) -> None:
    with request(running, LIMIT + 1) as connection:
        connection.sendall(b"x" * (LIMIT + 1))
        assert status(connection) == 413
    with request(running, 1 << 40) as connection:  # the body is never sent
        assert status(connection) == 413


def test_a_complete_body_is_passed_on(running: Engine) -> None:
    with request(running, 2) as connection:
        connection.sendall(b"{}")
        assert status(connection) == 404  # ministack's response: no function has this address
    with request(running, 0) as connection:
        assert status(connection) == 404
