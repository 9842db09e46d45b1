"""Fixtures of the tests of backups: an S3 server for each file, a new bucket and repository for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.clients.folder.target import FolderTarget
from syncline.clients.http.client import Http
from syncline.kinds.backups.stores import BucketStore
from tests.rig.backups import World, make_bucket, make_world, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def world(s3: str, tmp_path: Path) -> World:
    return make_world(s3, tmp_path)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, s3: str, world: World, tmp_path: Path) -> FolderTarget | BucketStore:
    """Return a target without history: a folder or a bucket."""
    if request.param == "folder":
        return FolderTarget(tmp_path / "download")
    return BucketStore(make_bucket(s3, f"{world.bucket.name}-second", Http()), "copy/")
