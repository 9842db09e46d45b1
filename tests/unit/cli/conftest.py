"""Fixtures: one moto server for the session, and a stack in it for each test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tests.unit.cli.cli_stack import Stack, made_stack


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # werkzeug logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture(autouse=True)
def skip_server_checks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the check of servers in `apply`, except in its own tests."""
    if "checks_servers" not in request.fixturenames:
        monkeypatch.setattr("syncline.cli.commands_apply.unreachable", lambda *_: [])


@pytest.fixture
def checks_servers() -> None:
    """Enable the check of servers in `apply`."""


@pytest.fixture
def stack(moto_port: int, tmp_path: Path) -> Iterator[Stack]:
    with made_stack(moto_port, tmp_path) as made:
        yield made


@pytest.fixture
def applied(stack: Stack) -> Stack:
    """A stack with the sync of :data:`SYNCS` applied."""
    assert stack.apply().exit_code == 0
    return stack
