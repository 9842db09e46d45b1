"""Fixtures: a scripted server, and clients whose pauses take no time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.client import Registry
from tests.rig.server import ScriptedServer
from tests.standins.made_up import Naps, Person


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def http(naps: Naps) -> Http:
    return Http(naps.policy())


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def other_server() -> Iterator[ScriptedServer]:
    """Run a server whose host has another name than that of ``server``."""
    with ScriptedServer(name="localhost") as running:
        yield running


@pytest.fixture
def person() -> Person:
    return Person()


@pytest.fixture
def registry(server: ScriptedServer, person: Person, http: Http) -> Registry:
    return Registry(Endpoint.parse(server.url), person, http)
