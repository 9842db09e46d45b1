"""Backups of a source with incomplete listings, truncated objects or concurrent deletions: nothing is removed wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from syncline.clients.folder.target import FolderTarget
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.kinds.kind import Failure, Page, StepContext
from syncline.model import EVERYTHING
from tests.rig.backups import Caps, Download, World
from tests.standins.git_places import make_bare
from tests.standins.s3 import ACCESS, SECRET, Answer, S3Server

FILES = {f"{c}/n/f{f}.yaml": f"{c} {f}\n".encode() for c in ("east", "west") for f in range(4)}
CHANGED = "east/n/f0.yaml"
NOTHING = b"<ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType></ListBucketResult>"
ANY = Caps(share=1.0)


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server("source") as server:
        yield server


@pytest.fixture
def world(server: S3Server, tmp_path: Path) -> World:
    http = Http()
    bucket = Bucket(Endpoint.parse(server.url), "source", lambda: AccessKeys(ACCESS, SECRET), http)
    bare = make_bare(tmp_path / "r.git")
    world = World(bucket, bare, f"file://{bare.path}", None, http, caps=ANY)
    world.put(FILES)
    world.run()
    return world


def failed(pages: list[Page]) -> dict[str, str]:
    assert not [item for page in pages for item in page.items if item.detail]
    return {failure.item.group: failure.error.code.name for page in pages for failure in page.failures}


def test_an_empty_listing_of_a_cluster_is_treated_as_an_error(world: World, server: S3Server, tmp_path: Path) -> None:
    download = Download(world, FolderTarget(tmp_path / "download"), ANY)
    download.run()

    def empty(method: str, _bucket: str, key: str, query: Mapping[str, str]) -> Answer | None:
        east = method == "GET" and not key and query.get("prefix") == "east/"
        return (200, {"Content-Type": "application/xml"}, NOTHING) if east else None

    server.hook = empty
    assert failed(world.scan()) == {"east/": "LISTING_INCOMPLETE"}
    pages = list(download.kind.discover(EVERYTHING, None, StepContext(lambda: 60.0)))
    assert failed(pages) == {"east/": "LISTING_INCOMPLETE"}


def test_no_part_of_a_truncated_object_is_committed(world: World, server: S3Server) -> None:
    world.put({CHANGED: b"a newer version", "west/n/f0.yaml": b"newer"})
    before = world.bare.files()

    def cut(method: str, _bucket: str, key: str, _query: Mapping[str, str]) -> Answer | None:
        if (method, key) != ("GET", CHANGED):
            return None
        etag = server.objects["source"][CHANGED].etag
        headers = {"Content-Length": "15", "ETag": f'"{etag}"', "Connection": "close"}
        return 200, {**headers, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, b"a newer"

    server.hook = cut
    assert world.codes(world.run()) == {CHANGED: "UNREACHABLE", "west/n/f0.yaml": "moved"}
    assert world.bare.files() == before | {"west/n/f0.yaml": b"newer"}


@pytest.mark.parametrize("folder", [False, True], ids=["git", "folder"])
def test_an_object_deleted_between_listing_and_reading_is_not_written(
    world: World, server: S3Server, tmp_path: Path, *, folder: bool
) -> None:
    download = Download(world, FolderTarget(tmp_path / "download"), ANY)
    download.run()
    world.put({CHANGED: b"a newer version"})

    def gone(method: str, _bucket: str, key: str, _query: Mapping[str, str]) -> Answer | None:
        if (method, key) == ("GET", CHANGED):
            server.objects["source"].pop(CHANGED, None)
        return None

    server.hook = gone
    if folder:
        assert download.run() == {CHANGED: "skipped"}, "the removal was not left to the next scan"
        assert download.run() == {CHANGED: "removed"}
    else:
        assert world.codes(world.run()) == {CHANGED: "removed"}
        assert world.codes(world.run()) == {}


def test_an_object_deleted_after_its_listing_counts_as_a_removal(world: World, server: S3Server) -> None:
    here = world.but(caps=Caps(count=0))
    here.put({CHANGED: b"a newer version"})

    def gone(method: str, _bucket: str, key: str, _query: Mapping[str, str]) -> Answer | None:
        if (method, key) == ("GET", CHANGED):
            server.objects["source"].pop(CHANGED, None)
        return None

    server.hook = gone
    pages = here.scan()
    (answer,) = here.commit([item for page in pages for item in page.items])
    assert isinstance(answer, Failure)
    assert answer.error.code.name == "REMOVALS_CAPPED"
    assert here.bare.files() == FILES
