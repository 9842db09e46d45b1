"""The client of buckets against ``rclone serve s3``, and against invalid responses."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.clients.s3.upload import PART_SIZE, part_size
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer
from tests.standins.rclone import ACCESS, SECRET, Rclone

NAMES = ["a b", "a+b", "a%20b", "ä", "a\u0308", "日本/🎈", "a'b\"c<d>&e", "x/" + "n" * 200, "a=1&b=2?c#d", "~tilde!*()"]


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    with Rclone(tmp_path_factory.mktemp("s3") / "root", "one", "two", "pages", "names") as server:
        yield server


def bucket(server: Rclone, name: str, *, secret: str = SECRET, attempts: int = 1) -> Bucket:
    return Bucket(
        Endpoint.parse(server.url), name, lambda: AccessKeys(ACCESS, secret), Http(RetryPolicy(attempts=attempts))
    )


def scripted(server: ScriptedServer, *keys: AccessKeys | None) -> Bucket:
    first, *rest = keys or (AccessKeys("AKID", "secret"),)
    return Bucket(
        Endpoint.parse(server.url),
        "b",
        lambda: first,
        Http(RetryPolicy(attempts=1)),
        renewed=lambda: rest[0] if rest else first,
    )


def code_of(error: pytest.ExceptionInfo[SynclineError]) -> str:
    return error.value.code.name


class TestAgainstRclone:
    def test_keys_with_special_characters(self, rclone: Rclone) -> None:
        names = bucket(rclone, "names")
        for name in NAMES:
            names.put(name, name.encode())
        assert [each.key for page in names.pages() for each in page.objects] == sorted(NAMES)
        for name in NAMES:
            head, content = names.read(name, 10_000)
            assert content == name.encode()
            assert head.etag == hashlib.md5(content, usedforsecurity=False).hexdigest()
        for name in NAMES:
            names.delete(name)
        assert [page.objects for page in names.pages()] == [()]

    def test_a_listing_of_many_pages(self, rclone: Rclone) -> None:
        for number in range(2500):
            folder = rclone.root / "pages" / f"d{number % 3}"
            folder.mkdir(exist_ok=True)
            (folder / f"k{number}").write_bytes(b"x")
        pages = bucket(rclone, "pages")
        found = list(pages.pages())
        keys = [each.key for page in found for each in page.objects]
        assert [len(page.objects) for page in found] == [1000, 1000, 500]
        assert len(set(keys)) == 2500
        assert keys == sorted(keys)
        below = [each.key for page in pages.pages("d1/") for each in page.objects]
        assert below == [key for key in keys if key.startswith("d1/")]
        behind = [each.key for page in pages.pages(after="d1/k2000") for each in page.objects]
        assert behind == [key for key in keys if key > "d1/k2000"]
        assert pages.page(delimiter="/").prefixes == ("d0/", "d1/", "d2/")

    def test_an_object_with_its_type_and_metadata(self, rclone: Rclone) -> None:
        one = bucket(rclone, "one")
        etag = one.put("kept", b"content", ObjectHead("", 7, "text/plain", metadata={"permissions": "rw-r-----"}))
        head = one.head("kept")
        assert head is not None
        assert (head.etag, head.size, head.content_type) == (etag, 7, "text/plain")
        assert head.metadata["permissions"] == "rw-r-----"
        assert head.modified > 1_700_000_000

    def test_ranges_and_conditions(self, rclone: Rclone) -> None:
        one = bucket(rclone, "one")
        etag = one.put("ranged", b"0123456789")
        with one.open("ranged", start=2, end=5, etag=etag) as stream:
            assert (stream.head.size, stream.read(100)) == (3, b"234")
        with one.open("ranged", start=7) as stream:
            assert b"".join(stream.chunks(2)) == b"789"
        with pytest.raises(SynclineError) as error:
            one.open("ranged", etag="0" * 32)
        assert code_of(error) == "SOURCE_CHANGED"
        with pytest.raises(SynclineError) as error:
            one.read("ranged", 9)
        assert code_of(error) == "TOO_LARGE"

    def test_absent_objects_and_buckets_have_their_codes(self, rclone: Rclone) -> None:
        one = bucket(rclone, "one")
        assert one.head("absent") is None
        with pytest.raises(SynclineError) as error:
            one.open("absent")
        assert code_of(error) == "NOT_FOUND"
        one.delete("absent")
        absent = bucket(rclone, "absent")
        for ask in (absent.page, lambda: absent.head("x"), lambda: absent.put("x", b"")):
            with pytest.raises(SynclineError) as error:
                ask()
            assert code_of(error) == "BUCKET_ABSENT"

    def test_wrong_keys(self, rclone: Rclone) -> None:
        with pytest.raises(SynclineError) as error:
            bucket(rclone, "one", secret="wrong" * 4).page()
        assert code_of(error) == "UNAUTHORIZED"

    def test_a_large_object_in_parts(self, rclone: Rclone) -> None:
        content = random.Random(1).randbytes(2 * PART_SIZE + 12345)
        two = bucket(rclone, "two")
        chunks = (content[at : at + 1_000_003] for at in range(0, len(content), 1_000_003))
        two.put_stream("large", chunks, ObjectHead("", len(content), "video/mp4", metadata={"a": "b"}))
        with two.open("large") as stream:
            assert b"".join(stream.chunks(65536)) == content
            assert (stream.head.content_type, stream.head.metadata["a"]) == ("video/mp4", "b")

    def test_an_upload_is_continued(self, rclone: Rclone) -> None:
        content = random.Random(2).randbytes(PART_SIZE + 99)
        two = bucket(rclone, "two")
        begun = two.begin_upload("resumed")
        begun.put(1, content[:PART_SIZE])
        again = two.resume_upload("resumed", begun.upload_id)
        assert {number: size for number, (_, size) in again.parts().items()} == {1: PART_SIZE}
        again.put(2, content[PART_SIZE:])
        again.complete()
        assert two.read("resumed", 2 * PART_SIZE)[1] == content

    def test_a_broken_stream_leaves_no_object(self, rclone: Rclone) -> None:
        def chunks() -> Iterator[bytes]:
            yield bytes(2 * PART_SIZE)
            raise SynclineError("UNREACHABLE", "the source went away")

        two = bucket(rclone, "two")
        with pytest.raises(SynclineError, match="went away"):
            two.put_stream("broken", chunks())
        assert two.head("broken") is None

    def test_a_copy_by_the_service(self, rclone: Rclone) -> None:
        one, two = bucket(rclone, "one"), bucket(rclone, "two")
        etag = one.put("a b+c", b"to be copied", ObjectHead("", 12, "text/css", metadata={"k": "v"}))
        head = one.head("a b+c")
        assert head is not None
        assert two.copy(one, "a b+c", "copied", head) == etag
        assert two.read("copied", 100)[1] == b"to be copied"

    def test_threads(self, rclone: Rclone) -> None:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - here alone

        # rclone may answer 500 to requests that create the same folder at the same time.
        (rclone.root / "one" / "t").mkdir()
        one = bucket(rclone, "one", attempts=4)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: one.put(f"t/{n}", bytes([n]) * n), range(200)))
            contents = list(pool.map(lambda n: one.read(f"t/{n}", 300)[1], range(200)))
        assert contents == [bytes([n]) * n for n in range(200)]


EMPTY_LIST = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


class TestInvalidResponses:
    def test_every_refusal_has_its_code(self) -> None:
        with ScriptedServer() as server:
            for status, code, ours in [
                (403, "AccessDenied", "FORBIDDEN"),
                (403, "InvalidObjectState", "OBJECT_ARCHIVED"),
                (403, "QuotaExceeded", "TARGET_FULL"),
                (403, "InvalidAccessKeyId", "UNAUTHORIZED"),
                (400, "ExpiredToken", "UNAUTHORIZED"),
                (404, "NoSuchBucket", "BUCKET_ABSENT"),
                (404, "NoSuchKey", "NOT_FOUND"),
                (412, "PreconditionFailed", "SOURCE_CHANGED"),
                (400, "IncompleteBody", "SERVER_ERROR"),
                (400, "EntityTooLarge", "TOO_LARGE"),
                (400, "InvalidRequest", "REFUSED"),
                (429, "TooManyRequests", "THROTTLED"),
                (503, "SlowDown", "SERVER_ERROR"),
                (507, "XMinioStorageFull", "TARGET_FULL"),
            ]:
                reply = Reply(status, f"<Error><Code>{code}</Code></Error>".encode())
                server.on("PUT", "/b/key", reply)
                with pytest.raises(SynclineError) as error:
                    scripted(server).put("key", b"content")
                REJECTIONS.forget()  # the next code concerns other credentials
                assert (code, code_of(error)) == (code, ours)
                _forget_throttling()
                REJECTIONS.forget()

    def test_another_region_is_named(self) -> None:
        with ScriptedServer() as server:
            reply = Reply(301, b"<Error><Code>PermanentRedirect</Code></Error>", {"x-amz-bucket-region": "eu-west-3"})
            server.on("GET", "/b/", reply)
            with pytest.raises(SynclineError, match="eu-west-3") as error:
                scripted(server).page()
        assert code_of(error) == "REDIRECTED"

    def test_renewed_keys_are_used_at_once(self) -> None:
        refusal = Reply(403, b"<Error><Code>ExpiredToken</Code></Error>")
        with ScriptedServer() as server:
            server.on("GET", "/b/", refusal, Reply(200, EMPTY_LIST))
            scripted(server, AccessKeys("OLD", "x", "old-token"), AccessKeys("NEW", "y", "new-token")).page()
            assert [r.headers["x-amz-security-token"] for r in server.requests] == ["old-token", "new-token"]

    def test_unchanged_keys_are_not_tried_twice(self) -> None:
        with ScriptedServer() as server:
            server.on("GET", "/b/", Reply(403, b"<Error><Code>InvalidAccessKeyId</Code></Error>"))
            with pytest.raises(SynclineError):
                scripted(server).page()
            assert len(server.requests) == 1

    def test_without_keys_nothing_is_signed(self) -> None:
        with ScriptedServer() as server:
            server.on("GET", "/b/", Reply(200, EMPTY_LIST))
            scripted(server, None).page()
            assert "authorization" not in server.requests[0].headers

    def test_a_truncated_object_is_an_error(self) -> None:
        with ScriptedServer() as server:
            server.on("GET", "/b/key", Reply(200, b"half", {"ETag": '"e"'}, length=8))
            with scripted(server).open("key") as stream, pytest.raises(SynclineError) as error:
                list(stream.chunks(100))
        assert code_of(error) == "UNREACHABLE"

    def test_a_service_that_ignores_the_condition_is_detected(self) -> None:
        with ScriptedServer() as server:
            server.on("GET", "/b/key", Reply(200, b"other", {"ETag": '"other"'}))
            with pytest.raises(SynclineError) as error:
                scripted(server).open("key", etag="mine")
        assert code_of(error) == "SOURCE_CHANGED"

    def test_a_service_that_ignores_the_range_is_detected(self) -> None:
        with ScriptedServer() as server:
            server.on("GET", "/b/key", Reply(200, b"whole", {"ETag": '"e"'}))
            with pytest.raises(SynclineError) as error:
                scripted(server).open("key", start=2)
        assert code_of(error) == "BAD_ANSWER"

    def test_an_object_that_is_listed_but_not_found_does_not_count_as_deleted(self) -> None:
        listed = b"<Contents><Key>key</Key><Size>1</Size></Contents>"
        with ScriptedServer() as server:
            server.on("HEAD", "/b/key", Reply(404))
            server.on("GET", "/b/", Reply(200, EMPTY_LIST.replace(b"<IsTr", listed + b"<IsTr")))
            with pytest.raises(SynclineError) as error:
                scripted(server).head("key")
        assert code_of(error) == "BAD_ANSWER"

    def test_a_copy_that_fails_after_200(self) -> None:
        with ScriptedServer() as server:
            server.on("PUT", "/b/key", Reply(200, b"<Error><Code>InternalError</Code></Error>"))
            target = scripted(server)
            with pytest.raises(SynclineError, match="InternalError") as error:
                target.copy(target, "from", "key", ObjectHead("e", 1))
            asked = server.requests[0].headers
            assert (asked["x-amz-copy-source"], asked["x-amz-copy-source-if-match"]) == ("/b/from", '"e"')
        assert code_of(error) == "SERVER_ERROR"

    def test_a_listing_whose_pages_repeat_is_an_error(self) -> None:
        body = b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
        with ScriptedServer() as server:
            server.on("GET", "/b/", Reply(200, body))
            with pytest.raises(SynclineError) as error:
                list(scripted(server).pages())
        assert code_of(error) == "LISTING_INCOMPLETE"

    @pytest.mark.parametrize("body", [b"", b"<html>busy</html>", EMPTY_LIST[:30]])
    def test_an_invalid_listing_is_an_error(self, body: bytes) -> None:
        with ScriptedServer() as server:
            server.on("GET", "/b/", Reply(200, body))
            with pytest.raises(SynclineError) as error:
                scripted(server).page()
        assert code_of(error) == "BAD_ANSWER"


def test_the_size_of_parts_suits_objects_of_any_size() -> None:
    for size in (0, 1, PART_SIZE, 5 * 1024**4):
        assert part_size(size) * 10_000 >= size
        assert part_size(size) >= PART_SIZE


def _forget_throttling() -> None:
    from syncline.clients.http.retry import HOST_THROTTLE  # noqa: PLC0415 - here alone

    HOST_THROTTLE._hosts.clear()
