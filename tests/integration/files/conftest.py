"""Fixtures of the tests of files: real and strict S3 servers, and a separate chain for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws

from tests.integration.files.targets import COPIED, TARGET, TARGETS, Pair
from tests.rig.files import FilesChain, FilesWorld
from tests.standins.rclone import Rclone
from tests.standins.s3 import S3Server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilesWorld]:
    with mock_aws(), Rclone(tmp_path_factory.mktemp("files") / "root") as rclone:
        yield FilesWorld(rclone)


@pytest.fixture
def chain(world: FilesWorld) -> Iterator[FilesChain]:
    with world.chain() as chain:
        yield chain


@pytest.fixture(params=TARGETS)
def pair(request: pytest.FixtureRequest, world: FilesWorld) -> Iterator[Pair]:
    """Yield a chain from a strict S3 server, for each sort of target."""
    with S3Server() as here, S3Server(TARGET) as other, world.chain(service=here.url) as chain:
        there = here if request.param == COPIED else other
        here.objects.setdefault(TARGET, {})
        here.clock = other.clock = chain.clock.time
        yield Pair(chain, request.param, here, there)


@pytest.fixture(scope="module")
def strict_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def strict(strict_server: S3Server) -> Iterator[FilesChain]:
    """Yield a chain from the strict S3 server in this process, where tests put objects without requests."""
    with mock_aws(), FilesWorld(strict_server).chain() as chain:
        strict_server.objects[chain.name] = {}
        strict_server.clock = chain.clock.time
        strict_server.hook = lambda _method, _bucket, _key, _query: None
        yield chain
