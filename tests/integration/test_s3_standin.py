"""Comparison of the S3 stand-in with moto, and the requests that it refuses."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import product
from urllib.parse import unquote

import pytest
from moto.server import ThreadedMotoServer

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.sigv4 import EMPTY_SHA256, AccessKeys, Signer, SigningRequest
from syncline.clients.s3.upload import PART_SIZE
from syncline.errors import SynclineError
from tests.rig.server import ScriptedServer
from tests.standins.s3 import ACCESS, SECRET, S3Server

NAMES = ["a", "a/", "a/b", "a/c/d", "a b", "a+b%", "b//c", "b/d", "e\x01f", "z<>&'\"", "ä/ü", "日本/🎈", "~*!()"]


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server("bbb") as running:
        yield running


@pytest.fixture(scope="module")
def moto() -> Iterator[Bucket]:
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    bucket = at(f"http://{host}:{port}")
    bucket.put("", b"")  # PUT of the bucket itself
    yield bucket
    running.stop()


def at(url: str) -> Bucket:
    return Bucket(Endpoint.parse(url), "bbb", lambda: AccessKeys(ACCESS, SECRET), Http(RetryPolicy(attempts=1)))


def test_listings_are_those_of_moto(server: S3Server, moto: Bucket) -> None:
    ours = at(server.url)
    for name in NAMES:
        ours.put(name, name.encode())
        moto.put(name, name.encode())
    # A start within a common prefix is not tested: services disagree if the prefix comes after it.
    starts = [("", ""), ("", "a/b"), ("", "b"), ("/", ""), ("/", "a"), ("b", "")]
    for prefix, (delimiter, after) in product(["", "a", "a/", "b/", "none"], starts):
        found = [
            [(each.key, each.etag, each.size) for each in page.objects] + list(page.prefixes)
            for bucket in (ours, moto)
            for page in [bucket.page(prefix, delimiter=delimiter, after=after)]
        ]
        assert found[0] == found[1], (prefix, delimiter, after)


@pytest.mark.parametrize("delimiter", ["", "/"])
def test_a_listing_in_pages_equals_that_in_one(server: S3Server, delimiter: str) -> None:
    bucket = at(server.url)
    for name in NAMES:
        server.put("bbb", name, b"")
    whole = bucket.page(delimiter=delimiter)
    for server.largest_page in range(1, len(NAMES)):
        pages = list(bucket.pages(delimiter=delimiter))
        assert tuple(each for page in pages for each in page.objects) == whole.objects
        assert tuple(each for page in pages for each in page.prefixes) == whole.prefixes
        assert all(len(page.objects) + len(page.prefixes) <= server.largest_page for page in pages)


def test_the_etag_of_an_upload_is_that_of_moto(server: S3Server, moto: Bucket) -> None:
    etags = {bucket.put_stream("large", [bytes(PART_SIZE), b"rest"]) for bucket in (at(server.url), moto)}
    assert len(etags) == 1
    assert etags.pop().endswith("-2")


def test_times_of_listing_and_head(server: S3Server) -> None:
    server.put("bbb", "key", b"", modified=1_700_000_000.25)
    server.listing_skew = 3.5
    head = at(server.url).head("key")
    assert head is not None
    assert head.modified == 1_700_000_000
    assert at(server.url).page().objects[0].modified == 1_700_000_003.75


@pytest.mark.parametrize(("keeps", "names"), [(True, ["Readme", "u\u0308ber"]), (False, ["readme", "\u00fcber"])])
def test_a_service_that_maps_two_keys_to_one(keeps: bool, names: list[str]) -> None:
    def normalise(key: str) -> str:
        return unicodedata.normalize("NFC", key).casefold()

    with S3Server("bbb", normalise=normalise, keeps_names=keeps) as server:
        bucket = at(server.url)
        for name in ("Readme", "README", "u\u0308ber", "\u00dcber"):
            bucket.put(name, name.encode())
        assert [each.key for each in bucket.page().objects] == names
        assert bucket.read("readMe", 100)[1] == b"README"
        bucket.delete("rEADME")
        assert list(server.objects["bbb"]) == names[1:]


def test_counts_hooks_and_lost_answers(server: S3Server) -> None:
    bucket = at(server.url)
    bucket.put("key", b"content", ObjectHead("", 7, metadata={"a": "b"}))
    assert (server.counts["PutObject"], server.counts.total()) == (1, 1)
    assert server.asked("PutObject")[0].headers["x-amz-meta-a"] == "b"
    server.hook = lambda method, _bucket, _key, _query: (503, {}, b"") if method == "GET" else None
    with pytest.raises(SynclineError, match="503"):
        bucket.open("key")
    server.lose = lambda method, _bucket, _key, _query: method == "DELETE"
    with pytest.raises(SynclineError) as error:
        bucket.delete("key")
    assert error.value.code.name == "UNREACHABLE"
    assert server.objects["bbb"] == {}


@pytest.mark.parametrize(
    ("method", "target", "changed", "words"),
    [
        ("GET", "/bbb?list-type=1", {}, "501.*version 2"),
        ("GET", "/bbb?versions=", {}, "501.*versions"),
        ("GET", "/bbb/key?prefix=a", {}, "501.*prefix"),
        ("GET", "/bbb/key", {"Range": "bytes=7-"}, "416"),
        ("GET", "/bbb/key", {"Range": "bytes=3-2"}, "InvalidArgument"),
        ("PUT", "/bbb/key", {"x-amz-unknown": "x"}, "501.*unknown"),
        ("PUT", "/bbb/key", {"If-None-Match": '"e"'}, "501"),
        ("PUT", "/bbb/key?partNumber=0&uploadId=u", {}, "partNumber=0"),
        ("PUT", "/bbb/copy", {"x-amz-copy-source": "/bbb/none"}, "NoSuchKey"),
        ("PUT", "/bbb/key", {"x-amz-copy-source": "/bbb/key"}, "onto itself"),
    ],
)
def test_requests_that_are_refused(
    server: S3Server, method: str, target: str, changed: dict[str, str], words: str
) -> None:
    server.put("bbb", "key", b"content")
    path, _, query = target.partition("?")
    headers = Signer("us-east-1").headers(
        AccessKeys(ACCESS, SECRET),
        SigningRequest(method, f"127.0.0.1:{server.port}", path, query),
        changed,
        EMPTY_SHA256,
    )
    try:
        answer = Http(RetryPolicy(attempts=1)).request(method, server.url + target, headers)
    except SynclineError as error:
        what = str(error)
    else:
        what = f"{answer.status} {answer.body.decode()}"
    assert re.search(words, what), what


def test_bodies_and_headers_must_be_signed(server: S3Server) -> None:
    asked = SigningRequest("PUT", f"127.0.0.1:{server.port}", "/bbb/key")
    headers = Signer("us-east-1").headers(AccessKeys(ACCESS, SECRET), asked, {}, EMPTY_SHA256)
    http = Http(RetryPolicy(attempts=1))
    assert b"XAmzContentSHA256Mismatch" in http.request("PUT", f"{server.url}/bbb/key", headers, b"other").body
    added = {**headers, "If-None-Match": "*"}
    assert b"not signed" in http.request("PUT", f"{server.url}/bbb/key", added, b"").body
    assert http.request("PUT", f"{server.url}/bbb/key", {}, b"").status == 403
    assert server.objects["bbb"] == {}


def test_uploads_are_completed_as_they_were_sent(server: S3Server) -> None:
    upload = at(server.url).begin_upload("key")
    etags = {number: upload.put(number, b"small") for number in (1, 2)}
    for wrong, code in (({1: "0" * 32}, "InvalidPart"), ({3: etags[1]}, "InvalidPart"), (etags, "EntityTooSmall")):
        with pytest.raises(SynclineError, match=code):
            upload.complete(wrong)
    server.smallest_part = 1
    upload.complete(etags)
    assert server.objects["bbb"]["key"].content == b"smallsmall"


@pytest.mark.parametrize("key", ["../up", "a/../b", "./a", "a/./b/..", "...", ".a/b..", "a//../b", "/../x"])
def test_a_key_with_dots_is_sent_encoded_and_signed(server: S3Server, moto: Bucket, key: str) -> None:
    """A server or a proxy would resolve a plain `..`, and answer for another bucket."""
    with ScriptedServer() as scripted:
        with pytest.raises(SynclineError):
            at(scripted.url).read(key, 10)
        (asked,) = scripted.requests
        scripted.unscripted.clear()  # only the request matters
        assert {".", ".."}.isdisjoint(asked.target.split("?")[0].split("/"))
        assert unquote(asked.target.split("?")[0]) == f"/bbb/{key}"
    for bucket in (at(server.url), moto):
        bucket.put(key, b"dots")
        assert bucket.read(key, 10)[1] == b"dots"
        assert [each.key for page in bucket.pages() for each in page.objects if each.key == key] == [key]
        bucket.delete(key)
