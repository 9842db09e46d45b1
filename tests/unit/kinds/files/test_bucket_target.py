"""A bucket as a target of files: conditions, uploads that continue, renames and removals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import pytest

from syncline.clients.http.client import Http
from syncline.clients.s3.head import IF_ABSENT, ObjectHead
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.files import bucket_target
from syncline.kinds.files.bucket_target import PART_SECONDS, BucketTarget
from syncline.kinds.files.records import UNSTATED
from syncline.kinds.files.targets import PutRequest, PutResult, TargetFile, UnfinishedPut, file_of
from tests.standins.s3 import Answer, Asked, S3Server
from tests.standins.s3_store import crc64nvme, md5
from tests.unit.kinds.files.services import QUICK, bucket_of, failed

SMALL: Final = 1024
"""Bytes of a part in tests with uploads."""
SEVERAL: Final = bytes(range(256)) * 20
"""An object of five parts of SMALL bytes."""
EACH_WRITE: Final = pytest.mark.parametrize("near", [False, True], ids=["sent", "copied"])


@dataclass
class Facts(ProcessFacts):
    """Facts in memory. ``remembered`` lists them in order."""

    values: dict[str, str] = field(default_factory=dict)
    remembered: list[tuple[str, str]] = field(default_factory=list)

    def recall(self, key: str) -> str | None:
        return self.values.get(key)

    def remember(self, key: str, value: str, seconds: float = 0.0) -> None:  # noqa: ARG002 - nothing expires here
        self.values[key] = value
        self.remembered.append((key, value))

    def forget(self, key: str) -> None:
        self.values.pop(key, None)


@dataclass
class Buckets:
    """A source and a target bucket of one server, and the facts that functions share."""

    server: S3Server
    facts: Facts = field(default_factory=Facts)

    def target(self, *, near: bool, http: Http | None = None) -> BucketTarget:
        """Return the target for another function, which shares only facts."""
        return BucketTarget(bucket_of(self.server, "target", http), near=near, facts=self.facts)

    def put(
        self,
        key: str,
        *,
        existing: TargetFile | None = None,
        guarded: bool = True,
        left: Callable[[], float] = lambda: 60.0,
    ) -> PutRequest:
        return PutRequest(key, bucket_of(self.server, "source"), key, None, existing, guarded, left)

    @property
    def objects(self) -> dict[str, bytes]:
        """The contents of the target's objects."""
        return {key: stored.content for key, stored in self.server.objects["target"].items()}

    def writes(self) -> list[Asked]:
        """Return the requests that wrote whole objects to the target."""
        wanted = {"PutObject", "CopyObject", "CompleteMultipartUpload"}
        return [each for each in self.server.requests if each.operation in wanted]

    def refuse_conditions(self, status: int = 501, *, of: tuple[str, ...] = ("PUT", "POST", "DELETE")) -> None:
        """Answer NotImplemented to every write with a condition."""

        def hook(method: str, _bucket: str, _key: str, _query: Mapping[str, str]) -> Answer | None:
            if method not in of or not is_conditional(self.server.requests[-1]):
                return None
            return status, {"Content-Type": "application/xml"}, b"<Error><Code>NotImplemented</Code></Error>"

        self.server.hook = hook


def is_conditional(asked: Asked) -> bool:
    return bool({"if-match", "if-none-match"} & set(asked.headers))


@pytest.fixture
def buckets() -> Iterator[Buckets]:
    with S3Server("source", "target") as server:
        yield Buckets(server)


@pytest.fixture
def small_parts(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce parts to 1 KiB and the largest copy to 2 KiB, so that objects of more than 2 KiB are large."""
    monkeypatch.setattr(bucket_target, "COPY_PART", SMALL)
    monkeypatch.setattr(bucket_target, "PART_SIZE", SMALL)
    monkeypatch.setattr(bucket_target, "MAX_COPY", 2 * SMALL)
    buckets.server.smallest_part = 1


class TestConditions:
    """The first write shows whether a service honours conditions; no other write tests it again."""

    @EACH_WRITE
    @pytest.mark.parametrize("honours", [False, True])
    def test_the_first_write_shows_whether_conditions_are_honoured(
        self, buckets: Buckets, *, near: bool, honours: bool
    ) -> None:
        buckets.server.honours_conditions = honours
        for key in "abc":
            buckets.server.put("source", key, key.encode())
        target = buckets.target(near=near)
        assert not target.creates_safely(1)
        assert isinstance(target.put(buckets.put("a")), PutResult)
        assert target.creates_safely(1) == honours
        assert [is_conditional(each) for each in buckets.writes()] == [True, True], "the write, and the test"
        fact = (f"conditions:{'copy' if near else 'put'}:{target.name}", "yes" if honours else "no")
        assert buckets.facts.remembered == [fact]
        target.put(buckets.put("b"))
        other = buckets.target(near=near)
        assert other.creates_safely(1) == honours
        other.put(buckets.put("c"))
        assert [is_conditional(each) for each in buckets.writes()[2:]] == [honours, honours]
        assert buckets.facts.remembered == [fact]
        assert buckets.objects == {"a": b"a", "b": b"b", "c": b"c"}

    @EACH_WRITE
    def test_a_foreign_object_is_not_overwritten(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", b"mine")
        buckets.server.put("target", "a", b"theirs")
        target = buckets.target(near=near)
        assert failed(lambda: target.put(buckets.put("a"))) == "TARGET_CHANGED"
        seen = target.stat("a")
        buckets.server.put("target", "a", b"theirs, later")
        assert failed(lambda: target.put(buckets.put("a", existing=seen))) == "TARGET_CHANGED"
        assert buckets.objects == {"a": b"theirs, later"}
        target.put(buckets.put("a", existing=target.stat("a")))
        assert buckets.objects == {"a": b"mine"}

    @EACH_WRITE
    def test_a_sync_that_may_overwrite_sets_no_conditions(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", b"mine")
        buckets.server.put("target", "a", b"theirs")
        buckets.target(near=near).put(buckets.put("a", guarded=False))
        assert [is_conditional(each) for each in buckets.writes()] == [False]
        assert buckets.objects == {"a": b"mine"}
        assert buckets.facts.remembered == []

    @EACH_WRITE
    @pytest.mark.parametrize("status", [400, 501])
    def test_a_service_without_conditions_is_written_without_them(
        self, buckets: Buckets, *, near: bool, status: int
    ) -> None:
        buckets.refuse_conditions(status)
        for key in "abc":
            buckets.server.put("source", key, key.encode())
        target = buckets.target(near=near)
        target.put(buckets.put("a"))
        assert not target.creates_safely(1)
        target.put(buckets.put("b"))
        buckets.target(near=near).put(buckets.put("c"))
        refused = [True] if near else [True, True]  # with a checksum and without one
        assert [is_conditional(each) for each in buckets.writes()] == [*refused, False, False, False]
        assert buckets.objects == {"a": b"a", "b": b"b", "c": b"c"}

    @pytest.mark.usefixtures("small_parts")
    @EACH_WRITE
    @pytest.mark.parametrize("size", [2 * SMALL, 5 * SMALL])
    def test_a_first_large_object_is_written_without_conditions(
        self, buckets: Buckets, *, near: bool, size: int
    ) -> None:
        buckets.refuse_conditions()
        for key in "ab":
            buckets.server.put("source", key, SEVERAL[:size])
            assert isinstance(buckets.target(near=near).put(buckets.put(key)), PutResult)
        assert buckets.objects == {"a": SEVERAL[:size], "b": SEVERAL[:size]}
        assert [is_conditional(each) for each in buckets.writes()] == [True, False, False]
        assert not buckets.server.uploads

    @pytest.mark.usefixtures("small_parts")
    @EACH_WRITE
    def test_only_an_object_of_one_request_is_created_safely(self, buckets: Buckets, *, near: bool) -> None:
        """In an upload of parts, only the last request is refused, after all bytes were sent."""
        buckets.server.put("source", "a", b"a")
        target = buckets.target(near=near)
        target.put(buckets.put("a"))
        largest = 2 * SMALL if near else SMALL
        assert [target.creates_safely(size) for size in (largest, largest + 1, None)] == [True, False, False]

    def test_a_refusal_for_another_reason_says_nothing_about_conditions(self, buckets: Buckets) -> None:
        buckets.server.put("source", "a", b"a")
        buckets.server.hook = lambda method, *_: (400, {}, b"no") if method == "PUT" else None
        target = buckets.target(near=False)
        assert failed(lambda: target.put(buckets.put("a"))) == "REFUSED"
        assert buckets.facts.remembered == []
        assert buckets.objects == {}

    def test_conditions_are_kept_after_a_refusal_if_they_were_honoured(self, buckets: Buckets) -> None:
        for key in "ab":
            buckets.server.put("source", key, key.encode())
        target = buckets.target(near=False)
        target.put(buckets.put("a"))
        buckets.refuse_conditions()
        assert failed(lambda: target.put(buckets.put("b"))) == "REFUSED"
        assert buckets.objects == {"a": b"a"}


@pytest.mark.usefixtures("small_parts")
class TestUploads:
    """An upload that one function cannot finish is resumed by another."""

    @staticmethod
    def for_parts(count: int) -> Callable[[], float]:
        """Return a clock whose function has time for ``count`` parts."""
        left = iter([60.0] * count)
        return lambda: next(left, PART_SECONDS / 2)

    def begin_upload(self, buckets: Buckets, *, near: bool, count: int = 2) -> str:
        """Begin the upload of ``a``, for which there is time for ``count`` parts; return its ID."""
        buckets.server.put("source", "a", SEVERAL)
        answer = buckets.target(near=near).put(buckets.put("a", left=self.for_parts(count)))
        assert answer == UnfinishedPut(count)
        (upload_id,) = buckets.server.uploads
        assert buckets.objects == {}
        return upload_id

    @EACH_WRITE
    def test_an_object_that_became_large_since_the_scan_is_sent_in_parts(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", SEVERAL)
        seen = ObjectHead(md5(b"small"), 5)
        put = replace(buckets.put("a", left=self.for_parts(2)), seen=seen)
        assert buckets.target(near=near).put(put) == UnfinishedPut(2)
        assert isinstance(buckets.target(near=near).put(replace(buckets.put("a"), seen=seen)), PutResult)
        assert buckets.objects == {"a": SEVERAL}
        assert len(self.parts(buckets)) == len(set(self.parts(buckets))), "no part was sent twice"

    def parts(self, buckets: Buckets) -> list[tuple[str, str]]:
        """Return the ID of the upload and the number of each part that was sent or copied."""
        asked = [each for each in buckets.server.requests if each.operation in ("UploadPart", "UploadPartCopy")]
        return [(each.query["uploadId"], each.query["partNumber"]) for each in asked]

    @EACH_WRITE
    def test_another_function_resumes_the_upload(self, buckets: Buckets, *, near: bool) -> None:
        upload_id = self.begin_upload(buckets, near=near)
        assert buckets.target(near=near).put(buckets.put("a", left=self.for_parts(1))) == UnfinishedPut(3)
        done = buckets.target(near=near).put(buckets.put("a"))
        assert isinstance(done, PutResult)
        assert done.sent == (0 if near else 2 * SMALL), "bytes are counted by the function that sent them"
        assert self.parts(buckets) == [(upload_id, str(part)) for part in range(1, 6)]
        assert buckets.objects == {"a": SEVERAL}
        assert done.file.version == buckets.server.objects["target"]["a"].etag
        assert not buckets.server.uploads
        assert not [key for key in buckets.facts.values if key.startswith("upload:")]

    @EACH_WRITE
    def test_an_upload_without_time_for_a_part_is_no_failure(self, buckets: Buckets, *, near: bool) -> None:
        upload_id = self.begin_upload(buckets, near=near, count=0)
        assert isinstance(buckets.target(near=near).put(buckets.put("a")), PutResult)
        assert {upload for upload, _ in self.parts(buckets)} == {upload_id}

    @EACH_WRITE
    def test_a_part_without_time_is_no_failure(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", SEVERAL)
        http = Http(QUICK)

        def left() -> float:
            if len(self.parts(buckets)) == 2:
                http.set_deadline(0.0)
            return 60.0

        assert buckets.target(near=near, http=http).put(buckets.put("a", left=left)) == UnfinishedPut(2)
        (upload_id,) = buckets.server.uploads
        assert isinstance(buckets.target(near=near).put(buckets.put("a")), PutResult)
        assert self.parts(buckets) == [(upload_id, str(part)) for part in range(1, 6)]

    @EACH_WRITE
    def test_an_upload_that_fails_temporarily_is_resumed(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", SEVERAL)

        def hook(_method: str, _bucket: str, _key: str, query: Mapping[str, str]) -> Answer | None:
            return (500, {}, b"") if int(query.get("partNumber", 0)) > 2 else None

        buckets.server.hook = hook
        answer = buckets.target(near=near).put(buckets.put("a"))
        assert isinstance(answer, UnfinishedPut)
        assert answer.error is not None
        assert (answer.parts, answer.error.code.name) == (2, "SERVER_ERROR")
        (upload_id,) = buckets.server.uploads
        buckets.server.hook = lambda *_: None
        assert isinstance(buckets.target(near=near).put(buckets.put("a")), PutResult)
        assert {upload for upload, _ in self.parts(buckets)} == {upload_id}
        assert buckets.objects == {"a": SEVERAL}

    @EACH_WRITE
    def test_a_replaced_object_is_sent_from_its_beginning(self, buckets: Buckets, *, near: bool) -> None:
        upload_id = self.begin_upload(buckets, near=near)
        buckets.server.put("source", "a", SEVERAL[::-1])
        assert isinstance(buckets.target(near=near).put(buckets.put("a")), PutResult)
        assert [part for upload, part in self.parts(buckets) if upload != upload_id] == ["1", "2", "3", "4", "5"]
        assert buckets.objects == {"a": SEVERAL[::-1]}
        assert not buckets.server.uploads, "the old one is aborted"

    @EACH_WRITE
    def test_a_lost_upload_is_begun_again(self, buckets: Buckets, *, near: bool) -> None:
        upload_id = self.begin_upload(buckets, near=near)
        buckets.server.uploads.clear()
        assert isinstance(buckets.target(near=near).put(buckets.put("a")), PutResult)
        assert len([part for upload, part in self.parts(buckets) if upload != upload_id]) == 5
        assert buckets.objects == {"a": SEVERAL}

    def test_parts_of_another_length_are_sent_again(self, buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
        """Copied parts are larger than sent parts, and a sync may change from one to the other."""
        monkeypatch.setattr(bucket_target, "COPY_PART", 2 * SMALL)
        self.begin_upload(buckets, near=True)
        assert isinstance(buckets.target(near=False).put(buckets.put("a")), PutResult)
        assert buckets.objects == {"a": SEVERAL}

    @EACH_WRITE
    def test_a_failure_leaves_nothing_behind(self, buckets: Buckets, *, near: bool) -> None:
        self.begin_upload(buckets, near=near)
        buckets.server.hook = lambda _method, _bucket, _key, query: (
            (403, {}, b"") if query.get("partNumber") == "4" else None
        )
        assert failed(lambda: buckets.target(near=near).put(buckets.put("a"))) == "FORBIDDEN"
        assert not buckets.server.uploads
        assert not buckets.facts.values
        assert buckets.objects == {}

    @EACH_WRITE
    def test_an_object_replaced_between_two_parts_is_not_written(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", SEVERAL)

        def left() -> float:
            if len(self.parts(buckets)) == 3:
                buckets.server.put("source", "a", SEVERAL[::-1])
            return 60.0

        code = failed(lambda: buckets.target(near=near).put(buckets.put("a", left=left)))
        assert code == "SOURCE_CHANGED"
        assert not buckets.server.uploads
        assert buckets.objects == {}

    @EACH_WRITE
    def test_a_foreign_object_created_during_the_upload_is_kept(self, buckets: Buckets, *, near: bool) -> None:
        self.begin_upload(buckets, near=near)
        buckets.server.put("target", "a", b"theirs")
        assert failed(lambda: buckets.target(near=near).put(buckets.put("a"))) == "TARGET_CHANGED"
        assert buckets.objects == {"a": b"theirs"}
        assert not buckets.server.uploads


class TestReplaced:
    """Objects that are replaced at the source."""

    @EACH_WRITE
    def test_an_object_replaced_since_the_scan_is_written_in_its_present_version(
        self, buckets: Buckets, *, near: bool
    ) -> None:
        buckets.server.put("source", "a", b"now")
        done = buckets.target(near=near).put(replace(buckets.put("a"), seen=ObjectHead(md5(b"then"), 4)))
        assert isinstance(done, PutResult)
        assert (done.head.etag, done.head.size) == (md5(b"now"), 3)
        assert buckets.objects == {"a": b"now"}

    @EACH_WRITE
    def test_an_object_replaced_while_it_is_read_is_not_written(self, buckets: Buckets, *, near: bool) -> None:
        """Some services give the bytes of both objects to one read; a copy is refused.

        A file written without a record would be foreign if the object was deleted.
        """
        buckets.server.put("source", "a", b"first")

        def hook(method: str, bucket: str, _key: str, _query: Mapping[str, str]) -> None:
            if method == "PUT" if near else (method, bucket) == ("HEAD", "source"):
                buckets.server.put("source", "a", b"second")

        buckets.server.hook = hook
        assert failed(lambda: buckets.target(near=near).put(buckets.put("a"))) == "SOURCE_CHANGED"
        assert buckets.objects == {}


@EACH_WRITE
class TestRenameAndRemove:
    def stat(self, target: BucketTarget, path: str) -> TargetFile:
        existing = target.stat(path)
        assert existing is not None
        return existing

    def test_a_rename_moves_the_object(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("target", "old", b"mine", {"content-type": "text/plain"}, {"by": "me"})
        target = buckets.target(near=near)
        assert target.rename("old", "new", self.stat(target, "old")) == md5(b"mine")
        assert buckets.objects == {"new": b"mine"}
        assert buckets.server.objects["target"]["new"].metadata == {"by": "me"}

    def test_a_rename_replaces_nothing(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("target", "old", b"mine")
        buckets.server.put("target", "new", b"theirs")
        target = buckets.target(near=near)
        assert failed(lambda: target.rename("old", "new", self.stat(target, "old"))) == "TARGET_CHANGED"
        assert buckets.objects == {"old": b"mine", "new": b"theirs"}

    def test_a_rename_leaves_an_object_that_was_replaced(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("target", "old", b"mine")
        target = buckets.target(near=near)
        existing = self.stat(target, "old")
        buckets.server.put("target", "old", b"theirs")
        assert failed(lambda: target.rename("old", "new", existing)) == "TARGET_CHANGED"
        assert buckets.objects == {"old": b"theirs"}, "and no object is copied to the new path"

    def test_a_rename_whose_copy_is_missing_removes_nothing(
        self, buckets: Buckets, monkeypatch: pytest.MonkeyPatch, *, near: bool
    ) -> None:
        buckets.server.put("target", "old", b"mine")
        target = buckets.target(near=near)
        existing = self.stat(target, "old")
        monkeypatch.setattr(target._bucket, "copy", lambda *_args, **_more: existing.version)
        assert failed(lambda: target.rename("old", "new", existing)) == "NOT_ARRIVED"
        assert buckets.objects == {"old": b"mine"}

    def test_a_rename_of_an_absent_object_fails(self, buckets: Buckets, *, near: bool) -> None:
        target = buckets.target(near=near)
        assert failed(lambda: target.rename("old", "new", TargetFile("e", "e", 1))) == "NOT_FOUND"

    def test_a_removal_leaves_an_object_that_was_replaced(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("target", "a", b"mine")
        target = buckets.target(near=near)
        existing = self.stat(target, "a")
        buckets.server.put("target", "a", b"theirs")
        assert failed(lambda: target.remove("a", existing)) == "TARGET_CHANGED"
        assert buckets.objects == {"a": b"theirs"}
        target.remove("a", self.stat(target, "a"))
        assert buckets.objects == {}
        target.remove("a", existing)  # removing an absent object is no failure

    def test_renames_and_removals_work_if_only_puts_support_conditions(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", b"mine")
        target = buckets.target(near=near)
        target.put(buckets.put("a"))
        assert target.creates_safely(1)
        buckets.refuse_conditions(of=("DELETE",))
        target.rename("a", "b", self.stat(target, "a"))
        target.remove("b", self.stat(target, "b"))
        assert buckets.objects == {}
        assert target.creates_safely(1)

    @pytest.mark.parametrize("known", [False, True])
    def test_a_rename_works_if_copies_support_no_conditions(self, buckets: Buckets, *, near: bool, known: bool) -> None:
        """It says nothing about other writes, and works although another write was refused for its condition."""
        buckets.server.put("source", "a", b"mine")
        target = buckets.target(near=near)
        target.put(buckets.put("a", guarded=known))
        remembered = list(buckets.facts.remembered)
        assert len(remembered) == known
        buckets.refuse_conditions(of=("PUT",))
        target.rename("a", "b", self.stat(target, "a"))
        assert buckets.objects == {"b": b"mine"}
        assert buckets.facts.remembered == remembered


def test_a_file_without_an_etag_has_a_version() -> None:
    assert file_of("", 4) == TargetFile(UNSTATED, None, 4)
    assert PutRequest("a", None, "a", None, None, True, lambda: 1.0).condition == IF_ABSENT  # type: ignore[arg-type]


class TestChecksums:
    """Full-object checksums of the source are checked when its bytes are read, and stored at the target."""

    def wrong(self, buckets: Buckets, content: bytes, stated: bytes, *, parts: bool = False) -> None:
        """Put an object at the source that states the checksum of other bytes."""
        stored = buckets.server.put("source", "a", content)
        stored.checksum = crc64nvme(stated)
        stored.etag = f"{stored.etag}-2" if parts else stored.etag

    def test_a_small_object_with_a_flipped_byte_is_not_written(self, buckets: Buckets) -> None:
        self.wrong(buckets, b"flipped", b"Flipped")
        assert failed(lambda: buckets.target(near=False).put(buckets.put("a"))) == "DIGEST_MISMATCH"
        assert buckets.objects == {}

    @pytest.mark.usefixtures("small_parts")
    @pytest.mark.parametrize("functions", [1, 3])
    def test_a_large_object_with_a_flipped_byte_is_not_written(self, buckets: Buckets, functions: int) -> None:
        """The checksum of the whole is computed from those of the parts, whatever function sent them."""
        self.wrong(buckets, SEVERAL, b"x" + SEVERAL[1:], parts=True)
        for _ in range(functions - 1):
            put = buckets.put("a", left=partial(next, iter([60.0, 1.0])))
            assert isinstance(buckets.target(near=False).put(put), UnfinishedPut)
        assert failed(lambda: buckets.target(near=False).put(buckets.put("a"))) == "DIGEST_MISMATCH"
        assert buckets.objects == {}
        assert not buckets.server.uploads, "the next attempt sends every part again"

    @pytest.mark.usefixtures("small_parts")
    def test_an_object_of_other_part_sizes_states_the_same_checksum(self, buckets: Buckets) -> None:
        stored = buckets.server.put("source", "a", SEVERAL)
        stored.etag = "parts-3"
        done = buckets.target(near=False).put(buckets.put("a"))
        assert isinstance(done, PutResult)
        assert done.file.version != "parts-3"
        source = bucket_of(buckets.server, "source").checksums("a", "parts-3")
        assert source == buckets.target(near=False).checksums("a", done.file) == {"crc64nvme": crc64nvme(SEVERAL)}
        (asked,) = buckets.server.asked("CompleteMultipartUpload")
        assert asked.headers["x-amz-checksum-type"] == "FULL_OBJECT"
        assert asked.body.count(b"<ChecksumCRC64NVME>") == 5

    def test_checksums_of_a_replaced_object_are_not_stated(self, buckets: Buckets) -> None:
        stored = buckets.server.put("source", "a", b"new")
        source = bucket_of(buckets.server, "source")
        assert source.checksums("a", stored.etag) == {"crc64nvme": crc64nvme(b"new")}
        assert (source.checksums("a", "old"), source.checksums("absent", "old")) == ({}, {})

    @pytest.mark.usefixtures("small_parts")
    @pytest.mark.parametrize("content", [b"small", SEVERAL], ids=["small", "in parts"])
    def test_a_service_that_refuses_checksums_gets_none(self, buckets: Buckets, content: bytes) -> None:
        buckets.server.checksums = "refused"
        for key in "ab":
            buckets.server.put("source", key, content).checksum = crc64nvme(content)
            assert isinstance(buckets.target(near=False).put(buckets.put(key)), PutResult)
        assert buckets.objects == {"a": content, "b": content}
        written = [each for each in buckets.server.requests if each.method in ("PUT", "POST")]
        with_sum = [each for each in written if any("checksum" in name for name in each.headers)]
        assert len(with_sum) == 1, "it is tried once, and a fact says so to the other functions"

    @pytest.mark.usefixtures("small_parts")
    def test_a_service_that_ignores_checksums_is_sent_parts_as_before(self, buckets: Buckets) -> None:
        buckets.server.checksums = "ignored"
        buckets.server.put("source", "a", SEVERAL)
        assert isinstance(buckets.target(near=False).put(buckets.put("a")), PutResult)
        assert buckets.objects == {"a": SEVERAL}
        assert b"Checksum" not in buckets.server.asked("CompleteMultipartUpload")[0].body
