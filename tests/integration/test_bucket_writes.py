"""The client of buckets: headers, conditional writes and uploads that another process continues."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.s3.client import Bucket, honours_conditions
from syncline.clients.s3.head import IF_ABSENT, ObjectHead, WriteCondition, fingerprint
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.clients.s3.upload import COPY_PART, PART_SIZE, part_size
from syncline.errors import SynclineError
from tests.standins.rclone import Rclone
from tests.standins.s3 import ACCESS, SECRET, S3Server
from tests.standins.s3_store import md5

HEADERS = {
    "cache-control": "max-age=60",
    "content-disposition": 'attachment; filename="a.txt"',
    "content-encoding": "gzip",
    "content-language": "de",
    "expires": "Thu, 01 Dec 2033 16:00:00 GMT",
}
LIKE = ObjectHead("", 7, "text/plain", metadata={"owner": "me", "note": "=?UTF-8?Q?f=C3=BCr?="}, headers=HEADERS)
QUICK = RetryPolicy(attempts=3, sleep=lambda _seconds: None)


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server("one", "two") as running:
        yield running


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
        config=Config(s3={"addressing_style": "path"}),
    )
    for name in ("one", "two"):
        client.create_bucket(Bucket=name)
    client.close()
    yield url
    running.stop()


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Rclone(tmp_path_factory.mktemp("s3") / "root", "one", "two") as running:
        yield running.url


def at(url: str, name: str, policy: RetryPolicy | None = None) -> Bucket:
    return Bucket(
        Endpoint.parse(url), name, lambda: AccessKeys(ACCESS, SECRET), Http(policy or RetryPolicy(attempts=1))
    )


def head_of(bucket: Bucket, key: str) -> ObjectHead:
    head = bucket.head(key)
    assert head is not None
    return head


class TestHeaders:
    def test_every_kind_of_write_keeps_them(self, server: S3Server) -> None:
        one, two = at(server.url, "one"), at(server.url, "two")
        server.smallest_part = 1
        one.put("put", b"content", LIKE)
        one.put_stream("streamed", [bytes(PART_SIZE), b"end"], LIKE)
        source = head_of(one, "put")
        two.copy(one, "put", "copied", source)
        upload = two.begin_upload("uploaded", source)
        upload.complete({1: upload.copy(1, one.copy_source("put", source), 0, 7)})
        written = [source, head_of(one, "streamed"), *(head_of(two, k) for k in ("copied", "uploaded"))]
        for head in written:
            assert (head.content_type, head.headers, head.metadata) == ("text/plain", LIKE.headers, LIKE.metadata)
            assert fingerprint(head) == fingerprint(LIKE)

    def test_a_redirect_that_the_service_does_not_copy(self, server: S3Server) -> None:
        one, two = at(server.url, "one"), at(server.url, "two")
        one.put("key", b"", ObjectHead("", 0, headers={"x-amz-website-redirect-location": "/there"}))
        two.copy(one, "key", "key", head_of(one, "key"))
        assert server.objects["two"]["key"].headers["x-amz-website-redirect-location"] == "/there"

    def test_an_object_without_a_type(self, server: S3Server) -> None:
        server.default_type = None
        server.put("one", "key", b"")
        server.default_type = "binary/octet-stream"
        source = head_of(at(server.url, "one"), "key")
        at(server.url, "two").put("key", b"", source)
        server.put("two", "other", b"", {"content-type": "binary/octet-stream"})
        assert (
            len({fingerprint(source), *(fingerprint(head_of(at(server.url, "two"), k)) for k in ("key", "other"))}) == 1
        )

    def test_against_moto(self, moto: str) -> None:
        one, two = at(moto, "one"), at(moto, "two")
        one.put("key", b"content", LIKE)
        source = head_of(one, "key")
        assert fingerprint(source) == fingerprint(LIKE)
        two.copy(one, "key", "copied", source)
        assert fingerprint(head_of(two, "copied")) == fingerprint(source)

    def test_against_rclone(self, rclone: str) -> None:
        one = at(rclone, "one")
        one.put("key", b"content", LIKE)
        source = head_of(one, "key")
        # rclone does not keep Expires.
        assert source.headers == {name: value for name, value in HEADERS.items() if name != "expires"}
        at(rclone, "two").put("key", b"content", source)
        assert fingerprint(head_of(at(rclone, "two"), "key")) == fingerprint(source)


class TestConditions:
    def write(self, how: str, server: S3Server, condition: WriteCondition) -> str | None:
        """Write an object under ``key`` by the operation ``how``, which accepts a condition."""
        one, two = at(server.url, "one"), at(server.url, "two")
        if how == "put":
            return two.put("key", b"new", condition=condition)
        if how == "put_stream":
            return two.put_stream("key", [b"new"], condition=condition)
        if how == "put_stream in parts":
            return two.put_stream("key", [bytes(PART_SIZE), b"new"], condition=condition)
        if how == "copy":
            one.put("key", b"new")
            return two.copy(one, "key", "key", head_of(one, "key"), condition=condition)
        if how == "complete":
            upload = two.begin_upload("key")
            return upload.complete({1: upload.put(1, b"new")}, condition=condition)
        two.delete("key", condition=condition)
        return None

    WRITES = ("put", "put_stream", "put_stream in parts", "copy", "complete")

    @pytest.mark.parametrize("how", WRITES)
    def test_absent(self, server: S3Server, how: str) -> None:
        assert self.write(how, server, IF_ABSENT) == server.objects["two"]["key"].etag
        mine = server.put("two", "key", b"somebody else's")
        with pytest.raises(SynclineError) as error:
            self.write(how, server, IF_ABSENT)
        assert error.value.code.name == "TARGET_CHANGED"
        assert not error.value.retried
        assert server.objects["two"]["key"] is mine

    @pytest.mark.parametrize("how", [*WRITES, "delete"])
    def test_unchanged(self, server: S3Server, how: str) -> None:
        old = server.put("two", "key", b"old")
        etag = self.write(how, server, WriteCondition(old.etag))
        there = server.objects["two"].get("key")
        assert etag == (there.etag if there else None)
        mine = server.put("two", "key", b"somebody else's")
        with pytest.raises(SynclineError) as error:
            self.write(how, server, WriteCondition(old.etag))
        assert error.value.code.name == "TARGET_CHANGED"
        assert server.objects["two"]["key"] is mine

    @pytest.mark.parametrize("how", WRITES)
    def test_a_deleted_object_is_not_replaced(self, server: S3Server, how: str) -> None:
        with pytest.raises(SynclineError) as error:
            self.write(how, server, WriteCondition("0" * 32))
        assert error.value.code.name == "TARGET_CHANGED"
        assert server.objects["two"] == {}

    def test_deleting_a_deleted_object_is_a_failed_condition(self, server: S3Server) -> None:
        at(server.url, "two").delete("key", condition=WriteCondition("0" * 32))

    def test_a_refused_multipart_write_leaves_no_upload(self, server: S3Server) -> None:
        server.put("two", "key", b"")
        with pytest.raises(SynclineError):
            self.write("put_stream in parts", server, IF_ABSENT)
        assert server.uploads == {}

    def test_a_missing_bucket_is_not_reported_as_a_changed_target(self, server: S3Server) -> None:
        with pytest.raises(SynclineError) as error:
            at(server.url, "none").put("key", b"", condition=WriteCondition("0" * 32))
        assert error.value.code.name == "BUCKET_ABSENT"

    def test_a_lost_upload_is_not_reported_as_a_changed_target(self, server: S3Server) -> None:
        server.put("two", "key", b"old")
        with pytest.raises(SynclineError) as error:
            at(server.url, "two").resume_upload("key", "lost").complete({1: "e"}, condition=WriteCondition(md5(b"old")))
        assert error.value.code.name == "UPLOAD_LOST"

    @pytest.mark.parametrize("condition", [IF_ABSENT, WriteCondition("0" * 32), None])
    def test_a_copy_whose_source_changed(self, server: S3Server, condition: WriteCondition | None) -> None:
        one, two = at(server.url, "one"), at(server.url, "two")
        server.put("one", "key", b"old")
        head = head_of(one, "key")
        server.put("one", "key", b"new")
        with pytest.raises(SynclineError) as error:
            two.copy(one, "key", "key", head, condition=condition)
        assert error.value.code.name == "SOURCE_CHANGED"

    @pytest.mark.parametrize("condition", [IF_ABSENT, WriteCondition("0" * 32), None])
    def test_a_copy_whose_source_is_gone(self, server: S3Server, condition: WriteCondition | None) -> None:
        one, two = at(server.url, "one"), at(server.url, "two")
        server.put("one", "key", b"old")
        head = head_of(one, "key")
        del server.objects["one"]["key"]
        with pytest.raises(SynclineError) as error:
            two.copy(one, "key", "key", head, condition=condition)
        assert error.value.code.name == "NOT_FOUND"

    def test_a_copy_that_is_refused_after_200(self, server: S3Server) -> None:
        body = b"<Error><Code>PreconditionFailed</Code></Error>"
        server.put("one", "key", b"old")
        one, two = at(server.url, "one"), at(server.url, "two")
        head = head_of(one, "key")
        server.hook = lambda method, _bucket, _key, _query: (200, {}, body) if method == "PUT" else None
        with pytest.raises(SynclineError) as error:
            two.copy(one, "key", "key", head, condition=IF_ABSENT)
        assert error.value.code.name == "TARGET_CHANGED"

    @pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
    def test_a_conflict_of_two_writes_is_tried_again_later(self, server: S3Server, code: str) -> None:
        server.hook = lambda *_: (409, {}, f"<Error><Code>{code}</Code></Error>".encode())
        with pytest.raises(SynclineError) as error:
            at(server.url, "two").put("key", b"", condition=IF_ABSENT)
        assert error.value.code.name == "SERVER_ERROR"
        assert error.value.retried

    @pytest.mark.parametrize("how", ["put", "copy"])
    def test_a_retry_after_a_lost_response_recognizes_its_own_object(self, server: S3Server, how: str) -> None:
        lost: list[str] = []

        def lose(method: str, bucket: str, _key: str, _query: Mapping[str, str]) -> bool:
            if (method, bucket) == ("PUT", "two") and not lost:
                lost.append(method)
                return True
            return False

        server.lose = lose
        server.put("one", "key", b"new")
        one, two = at(server.url, "one"), at(server.url, "two", QUICK)
        head = head_of(one, "key")
        writes = {
            "put": lambda: two.put("key", b"new", condition=IF_ABSENT),
            "copy": lambda: two.copy(one, "key", "key", head, condition=IF_ABSENT),
        }
        with pytest.raises(SynclineError) as error:
            writes[how]()
        assert error.value.code.name == "TARGET_CHANGED"
        assert head_of(two, "key").etag == md5(b"new")
        assert server.counts["PutObject"] + server.counts["CopyObject"] == 2


class TestSupport:
    def asked(self, url: str) -> tuple[bool, bool]:
        """Return whether a service honours conditions of puts and of copies."""
        one, two = at(url, "one"), at(url, "two")
        one.put("asked", b"content", LIKE)
        put = honours_conditions(lambda at: one.put("asked", b"content", LIKE, condition=at))
        head = head_of(one, "asked")
        two.copy(one, "asked", "asked", head)
        copy = honours_conditions(lambda at: two.copy(one, "asked", "asked", head, condition=at))
        assert two.read("asked", 100)[1] == b"content"
        return put, copy

    def test_a_service_that_honours_conditions(self, server: S3Server) -> None:
        assert self.asked(server.url) == (True, True)

    def test_a_service_that_ignores_them(self, server: S3Server) -> None:
        server.honours_conditions = False
        assert self.asked(server.url) == (False, False)
        assert fingerprint(head_of(at(server.url, "two"), "asked")) == fingerprint(LIKE)

    def test_moto_honours_those_of_puts(self, moto: str) -> None:
        assert self.asked(moto) == (True, False)
        two = at(moto, "two")
        with pytest.raises(SynclineError) as error:
            two.delete("asked", condition=WriteCondition("0" * 32))
        assert error.value.code.name == "TARGET_CHANGED"
        two.delete("asked", condition=WriteCondition(head_of(two, "asked").etag))
        assert two.head("asked") is None
        with pytest.raises(SynclineError) as error:
            two.put("asked", b"", condition=WriteCondition("0" * 32))
        assert error.value.code.name == "TARGET_CHANGED"

    def test_rclone_ignores_them(self, rclone: str) -> None:
        assert self.asked(rclone) == (False, False)

    def test_a_failed_check_of_conditions_is_an_error(self, server: S3Server) -> None:
        server.hook = lambda *_: (403, {}, b"<Error><Code>AccessDenied</Code></Error>")
        with pytest.raises(SynclineError) as error:
            honours_conditions(lambda condition: at(server.url, "one").put("key", b"", condition=condition))
        assert error.value.code.name == "FORBIDDEN"


class TestUploads:
    def test_one_is_continued_by_another_process(self, server: S3Server) -> None:
        content = random.Random(3).randbytes(2 * PART_SIZE + 5)
        length = part_size(len(content))
        server.parts_page = 1
        begun = at(server.url, "two").begin_upload("key", LIKE)
        assert begun.parts() == {}
        begun.put(1, content[:length])
        begun.put(2, content[length : length + 1])  # the part was truncated, and is uploaded again
        upload = at(server.url, "two").resume_upload("key", begun.upload_id)
        stored = upload.parts()
        assert stored == {1: (md5(content[:length]), length), 2: (md5(content[length : length + 1]), 1)}
        etags = {1: stored[1][0]}
        for number in (2, 3):
            etags[number] = upload.put(number, content[(number - 1) * length : number * length])
        upload.complete(etags, condition=IF_ABSENT)
        assert server.objects["two"]["key"].content == content
        assert fingerprint(head_of(at(server.url, "two"), "key")) == fingerprint(LIKE)

    def test_a_copy_is_continued_by_another_process(self, server: S3Server) -> None:
        content = random.Random(4).randbytes(25)
        server.smallest_part = 10
        server.put("one", "key", content, {"content-type": "text/plain"})
        one, two = at(server.url, "one"), at(server.url, "two")
        head = head_of(one, "key")
        number = two.begin_upload("key", head).upload_id
        for part, (start, end) in enumerate([(0, 10), (10, 20), (20, 25)], 1):
            upload = at(server.url, "two").resume_upload("key", number)
            assert list(upload.parts()) == list(range(1, part))
            upload.copy(part, one.copy_source("key", head), start, end)
        upload.complete()
        assert server.objects["two"]["key"].content == content

    def test_a_part_of_a_source_that_changed(self, server: S3Server) -> None:
        server.put("one", "key", b"old")
        one, two = at(server.url, "one"), at(server.url, "two")
        head = head_of(one, "key")
        server.put("one", "key", b"new")
        upload = two.begin_upload("key", head)
        with pytest.raises(SynclineError) as error:
            upload.copy(1, one.copy_source("key", head), 0, 3)
        assert error.value.code.name == "SOURCE_CHANGED"

    @pytest.mark.parametrize("marker", ["", "<NextPartNumberMarker>0</NextPartNumberMarker>"])
    def test_an_incomplete_list_of_parts_is_an_error(self, server: S3Server, marker: str) -> None:
        body = f"<ListPartsResult><IsTruncated>true</IsTruncated>{marker}</ListPartsResult>".encode()
        server.hook = lambda *_: (200, {}, body)
        with pytest.raises(SynclineError) as error:
            at(server.url, "two").resume_upload("key", "u").parts()
        assert error.value.code.name == "LISTING_INCOMPLETE"

    def test_a_forgotten_upload(self, server: S3Server) -> None:
        upload = at(server.url, "two").resume_upload("key", "forgotten")
        for ask in (upload.parts, lambda: upload.put(1, b""), lambda: upload.complete({1: "e"})):
            with pytest.raises(SynclineError) as error:
                ask()
            assert error.value.code.name == "UPLOAD_LOST"
        upload.abort()

    def test_the_size_of_copied_parts_suits_objects_of_any_size(self) -> None:
        for size in (0, 1, 6 * 1024**3, 5 * 1024**4):
            assert part_size(size, COPY_PART) * 10_000 >= size
            assert part_size(size, COPY_PART) <= 5 * 1024**3
