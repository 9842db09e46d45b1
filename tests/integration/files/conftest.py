"""What the tests of files' chain share: a real S3 server for a module, and a chain of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws

from tests.integration.files_chain import FilesChain, FilesWorld
from tests.standins.rclone import Rclone


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilesWorld]:
    with mock_aws(), Rclone(tmp_path_factory.mktemp("files") / "root") as rclone:
        yield FilesWorld(rclone)


@pytest.fixture
def chain(world: FilesWorld) -> Iterator[FilesChain]:
    with world.chain() as chain:
        yield chain
