"""Buckets beyond rclone's folders: keys that are not file names, versions, parts, and a misbehaving service."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.server import ThreadedMotoServer

from syncline.clients.s3.upload import PART_SIZE
from tests.rig.files import FilesChain, FilesWorld, record
from tests.rig.server import Reply, Request, ScriptedServer

NAMES = [
    "a b",
    "a+b",
    "a%20b",
    "a%2Fb",
    "deep",
    "deep/er",
    "deep/er/still",
    "deeper",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "..hidden",
    "long/" + "ä" * 509 + "!",
    "empty",
]
REFUSED = ["..", "../up", "a/../../b", "a//b", "line\nbreak", "bell\x07", "./a"]


class Service:
    """An S3 service by its address, as the source of a chain."""

    def __init__(self, url: str) -> None:
        self.url = url


@contextmanager
def chain_from(url: str) -> Iterator[FilesChain]:
    service: Any = Service(url)
    with FilesWorld(service).chain() as chain:
        yield chain


@pytest.fixture
def chain() -> Iterator[FilesChain]:
    """Yield a chain from moto's server, which accepts any key and has versions."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    with mock_aws():
        server.start()
        try:
            host, port = server.get_host_and_port()
            with chain_from(f"http://{host}:{port}") as chain:
                yield chain
        finally:
            server.stop()


def test_keys_with_special_characters(chain: FilesChain) -> None:
    chain.configure(removals={})
    assert max(len(name.encode()) for name in NAMES) == 1024
    for name in NAMES:
        chain.upload(name, b"" if name == "empty" else name.encode() * 2)
    run = chain.run()
    chain.check()
    assert (run.counts.moved, run.counts.failed) == (len(NAMES), 0)
    assert chain.run().counts.skipped == len(NAMES)
    for name in NAMES:
        chain.upload(name, b"by event")
    chain.run_events(*(record(chain.name, name) for name in NAMES))
    chain.check()
    chain.bucket.delete("deep")
    chain.run_events(record(chain.name, "deep", "ObjectRemoved:Delete"))
    chain.check()
    assert "/data/deep/er" in chain.manager.files


def test_dangerous_keys_fail_alone(chain: FilesChain) -> None:
    chain.configure()
    s3 = boto3.client("s3")
    for name in [*REFUSED, *NAMES]:
        s3.put_object(Bucket=chain.name, Key=name, Body=b"x")
    run = chain.run()
    results = chain.results(run)
    assert {name: results[name].code for name in REFUSED} == dict.fromkeys(REFUSED, "PATH_REFUSED")
    assert (run.counts.moved, run.counts.failed) == (len(NAMES), len(REFUSED))
    assert set(chain.manager.files) == {f"/data/{name}" for name in NAMES}


def test_versions_and_their_markers(chain: FilesChain) -> None:
    s3 = boto3.client("s3")
    s3.put_bucket_versioning(Bucket=chain.name, VersioningConfiguration={"Status": "Enabled"})
    chain.configure(source={**chain.endpoint(chain.name), "sequencers": True}, removals={})
    chain.upload("a", b"the first")
    chain.run_events(record(chain.name, "a", sequencer="0A"))
    chain.check()
    marker = s3.delete_object(Bucket=chain.name, Key="a")["VersionId"]
    gone = chain.run_events(record(chain.name, "a", "ObjectRemoved:DeleteMarkerCreated", "0B"))
    chain.check()
    assert gone.counts.removed == 1
    assert chain.run_events(record(chain.name, "a", sequencer="0A")).counts.requests == 0
    s3.delete_object(Bucket=chain.name, Key="a", VersionId=marker)
    chain.run_events(record(chain.name, "a", "ObjectRemoved:Delete", "0C"))
    chain.check()
    assert chain.manager.files["/data/a"].content == b"the first"


def test_an_object_of_several_parts(chain: FilesChain) -> None:
    chain.configure()
    etag = chain.bucket.put_stream("large", iter([b"0123456789abcdef" * (PART_SIZE // 16), b"and the rest"]))
    assert "-" in etag
    chain.run()
    chain.check()
    assert chain.run().counts.skipped == 1


class TestAServiceThatMisbehaves:
    @pytest.fixture
    def server(self) -> Iterator[ScriptedServer]:
        with ScriptedServer() as server:
            server.on("PUT", "/source00001", Reply()).on("PUT", "/source00001/", Reply())
            yield server

    @pytest.fixture
    def chain(self, server: ScriptedServer) -> Iterator[FilesChain]:
        with mock_aws(), chain_from(server.url) as chain:
            yield chain

    def offer(self, server: ScriptedServer, *keys: str) -> None:
        """Script the bucket with these objects and their listing."""
        server.on("GET", "/source00001/", Reply(200, listing(keys)))
        for key in keys:
            reply = Reply(200, key.encode(), {"ETag": f'"{key}"', "Last-Modified": "Thu, 01 Jan 1970 00:01:40 GMT"})
            server.on("GET", f"/source00001/{key}", reply)

    def test_an_unreadable_access_list(self, server: ScriptedServer, chain: FilesChain) -> None:
        chain.configure(permissions={"source": "acl"})
        self.offer(server, "open", "shut")

        def answer(request: Request) -> Reply:
            if "acl" not in request.target.partition("?")[2]:
                return Reply(200, b"shut", {"ETag": '"shut"', "Last-Modified": "Thu, 01 Jan 1970 00:01:40 GMT"})
            return Reply(403, b"<Error><Code>AccessDenied</Code></Error>")

        owner = "<Owner><ID>me</ID></Owner>"
        grant = "<Grant><Grantee><ID>me</ID></Grantee><Permission>FULL_CONTROL</Permission></Grant>"
        acl = f"<AccessControlPolicy>{owner}<AccessControlList>{grant}</AccessControlList></AccessControlPolicy>"
        server.on("GET", "/source00001/open?acl=", Reply(200, acl.encode()))
        server.on("GET", "/source00001/shut", answer)
        run = chain.run()
        assert chain.results(run)["shut"].code == "FORBIDDEN"
        assert (run.counts.moved, run.counts.failed) == (1, 1)
        assert chain.manager.files["/data/open"].permissions == "rw-------"

    @pytest.mark.parametrize(
        ("second", "code"),
        [
            (Reply(200, b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>"), "BAD_ANSWER"),
            (Reply(200, b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"), "LISTING_INCOMPLETE"),
            (Reply(200, b"<html>portal</html>"), "BAD_ANSWER"),
            (Reply(503, b"<Error><Code>SlowDown</Code></Error>"), "SERVER_ERROR"),
        ],
    )
    def test_a_truncated_listing_removes_nothing(
        self, server: ScriptedServer, chain: FilesChain, second: Reply, code: str
    ) -> None:
        chain.configure(removals={"share": 1.0})
        self.offer(server, "a", "b", "c")
        assert chain.run().counts.moved == 3

        def pages(request: Request) -> Reply:
            if "continuation-token" in request.target:
                return second
            return Reply(200, listing(["a"], more="<NextContinuationToken>t</NextContinuationToken>"))

        server.on("GET", "/source00001/", pages)
        run = chain.run()
        assert chain.results(run)["*"].code == code
        assert run.counts.removed == 0
        assert set(chain.manager.files) == {"/data/a", "/data/b", "/data/c"}
        assert [dead.code for dead in chain.dead()] == [code]


def listing(keys: Sequence[str], more: str = "") -> bytes:
    shown = "".join(
        f"<Contents><Key>{key}</Key><ETag>&quot;{key}&quot;</ETag><Size>{len(key)}</Size>"
        "<LastModified>1970-01-01T00:01:40.000Z</LastModified></Contents>"
        for key in keys
    )
    truncated = "true" if more else "false"
    return f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{shown}</ListBucketResult>".encode()


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/../../b", "."])
def test_a_forged_event_starts_no_run(chain: FilesChain, key: str) -> None:
    chain.configure()
    chain.upload("a.txt", b"a")
    chain.post(record(chain.name, key), record("bucket-of-nobody", "a.txt"), {"Records": [{"forged": True}]})
    chain.pump.run()
    assert chain.state.runs(chain.sync) == []
    assert chain.mail.dead() == []
    run = chain.run_events(record(chain.name, key), record(chain.name, "a.txt"))
    assert (run.counts.moved, run.counts.failed) == (1, 0)
    chain.check()
