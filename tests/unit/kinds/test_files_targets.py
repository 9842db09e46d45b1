"""The targets of files: conditions, uploads that continue, and marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Self

import pytest

from syncline.clients import bucket_upload
from syncline.clients.bucket import ABSENT, Bucket, Head, Keys
from syncline.clients.file_manager import Content, FileManager, Saved
from syncline.clients.http import Endpoint, Http, Policy
from syncline.errors import SynclineError
from syncline.kinds.files import bucket_target
from syncline.kinds.files.bucket_target import PART_SECONDS, BucketTarget
from syncline.kinds.files.manager_target import HELD, FileManagerTarget
from syncline.kinds.files.records import UNSTATED
from syncline.kinds.files.targets import CHUNK, Put, TargetFile, Unfinished, Written, file_of
from tests.standins.file_manager import FileManagerServer
from tests.standins.s3 import ACCESS, SECRET, Answer, Asked, S3Server
from tests.standins.s3_store import md5

SMALL: Final = 1024
"""Bytes of a part in tests with uploads."""
SEVERAL: Final = bytes(range(256)) * 20
"""An object of five parts of SMALL bytes."""
SORTS: Final = pytest.mark.parametrize("near", [False, True], ids=["sent", "copied"])
QUICK: Final = Policy(attempts=2, sleep=lambda _seconds: None)
ROOT: Final = "/data/"
NAME: Final = "https://files.example/api"


@dataclass
class Facts:
    """Facts in memory. ``learnt`` lists each that was remembered, in order."""

    values: dict[str, str] = field(default_factory=dict)
    learnt: list[tuple[str, str]] = field(default_factory=list)

    def recall(self, key: str) -> str | None:
        return self.values.get(key)

    def remember(self, key: str, value: str, seconds: float = 0.0) -> None:  # noqa: ARG002 - nothing expires here
        self.values[key] = value
        self.learnt.append((key, value))

    def forget(self, key: str) -> None:
        self.values.pop(key, None)


@dataclass
class Buckets:
    """A source and a target bucket of one server, and what functions share."""

    server: S3Server
    facts: Facts = field(default_factory=Facts)

    def bucket(self, name: str) -> Bucket:
        return Bucket(Endpoint.parse(self.server.url), name, lambda: Keys(ACCESS, SECRET), Http(QUICK))

    def target(self, *, near: bool) -> BucketTarget:
        """Return the target as another function has it: only facts are shared."""
        return BucketTarget(self.bucket("target"), near=near, facts=self.facts)

    def put(
        self,
        key: str,
        *,
        there: TargetFile | None = None,
        guarded: bool = True,
        left: Callable[[], float] = lambda: 60.0,
        seen: Head | None = None,
    ) -> Put:
        return Put(key, self.bucket("source"), key, seen, there, guarded, left)

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


def failed(work: Callable[[], object]) -> str:
    """Return the code of the error that ``work`` raises."""
    with pytest.raises(SynclineError) as caught:
        work()
    return caught.value.code.name


@pytest.fixture
def buckets() -> Iterator[Buckets]:
    with S3Server("source", "target") as server:
        yield Buckets(server)


@pytest.fixture
def small_parts(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make objects of more than 2 KiB large ones, and their parts 1 KiB; one copy takes at most 2 KiB."""
    monkeypatch.setattr(bucket_upload, "PART", SMALL)
    monkeypatch.setattr(bucket_upload, "_COPY_PART", SMALL)
    monkeypatch.setattr(bucket_target, "PART", SMALL)
    monkeypatch.setattr(bucket_target, "LARGEST_COPY", 2 * SMALL)
    buckets.server.smallest_part = 1


class TestConditions:
    """The first write shows if a service honours conditions; no other one tries again."""

    @SORTS
    @pytest.mark.parametrize("honours", [False, True])
    def test_the_first_write_shows_whether_conditions_are_honoured(
        self, buckets: Buckets, *, near: bool, honours: bool
    ) -> None:
        buckets.server.honours_conditions = honours
        for key in "abc":
            buckets.server.put("source", key, key.encode())
        target = buckets.target(near=near)
        assert not target.creates_safely(1)
        assert isinstance(target.put(buckets.put("a")), Written)
        assert target.creates_safely(1) == honours
        assert [is_conditional(each) for each in buckets.writes()] == [True, True], "the write, and the trial"
        fact = (f"conditions:{'copy' if near else 'put'}:{target.name}", "yes" if honours else "no")
        assert buckets.facts.learnt == [fact]
        target.put(buckets.put("b"))
        other = buckets.target(near=near)
        assert other.creates_safely(1) == honours
        other.put(buckets.put("c"))
        assert [is_conditional(each) for each in buckets.writes()[2:]] == [honours, honours]
        assert buckets.facts.learnt == [fact]
        assert buckets.objects == {"a": b"a", "b": b"b", "c": b"c"}

    @SORTS
    def test_a_foreign_object_is_not_overwritten(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", b"mine")
        buckets.server.put("target", "a", b"theirs")
        target = buckets.target(near=near)
        assert failed(lambda: target.put(buckets.put("a"))) == "TARGET_CHANGED"
        seen = target.stat("a")
        buckets.server.put("target", "a", b"theirs, later")
        assert failed(lambda: target.put(buckets.put("a", there=seen))) == "TARGET_CHANGED"
        assert buckets.objects == {"a": b"theirs, later"}
        target.put(buckets.put("a", there=target.stat("a")))
        assert buckets.objects == {"a": b"mine"}

    @SORTS
    def test_a_sync_that_may_overwrite_sets_no_conditions(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", b"mine")
        buckets.server.put("target", "a", b"theirs")
        buckets.target(near=near).put(buckets.put("a", guarded=False))
        assert [is_conditional(each) for each in buckets.writes()] == [False]
        assert buckets.objects == {"a": b"mine"}
        assert buckets.facts.learnt == []

    @SORTS
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
        assert [is_conditional(each) for each in buckets.writes()] == [True, False, False, False]
        assert buckets.objects == {"a": b"a", "b": b"b", "c": b"c"}

    @pytest.mark.usefixtures("small_parts")
    @SORTS
    @pytest.mark.parametrize("size", [2 * SMALL, 5 * SMALL])
    def test_so_is_a_large_object_that_comes_first(self, buckets: Buckets, *, near: bool, size: int) -> None:
        buckets.refuse_conditions()
        for key in "ab":
            buckets.server.put("source", key, SEVERAL[:size])
            assert isinstance(buckets.target(near=near).put(buckets.put(key)), Written)
        assert buckets.objects == {"a": SEVERAL[:size], "b": SEVERAL[:size]}
        assert [is_conditional(each) for each in buckets.writes()] == [True, False, False]
        assert not buckets.server.uploads

    def test_a_refusal_for_another_reason_teaches_nothing(self, buckets: Buckets) -> None:
        buckets.server.put("source", "a", b"a")
        buckets.server.hook = lambda method, *_: (400, {}, b"no") if method == "PUT" else None
        target = buckets.target(near=False)
        assert failed(lambda: target.put(buckets.put("a"))) == "REFUSED"
        assert buckets.facts.learnt == []
        assert buckets.objects == {}

    def test_a_refusal_after_conditions_were_honoured_is_no_reason_to_write_without(self, buckets: Buckets) -> None:
        for key in "ab":
            buckets.server.put("source", key, key.encode())
        target = buckets.target(near=False)
        target.put(buckets.put("a"))
        buckets.refuse_conditions()
        assert failed(lambda: target.put(buckets.put("b"))) == "REFUSED"
        assert buckets.objects == {"a": b"a"}


@pytest.mark.usefixtures("small_parts")
class TestUploads:
    """An upload for which a function has no time is continued by another one."""

    @staticmethod
    def for_parts(count: int) -> Callable[[], float]:
        """Return a clock whose function has time for ``count`` parts."""
        left = iter([60.0] * count)
        return lambda: next(left, PART_SECONDS / 2)

    def begun(self, buckets: Buckets, *, near: bool, count: int = 2) -> str:
        """Begin the upload of ``a``, for which there is time for ``count`` parts; return its ID."""
        buckets.server.put("source", "a", SEVERAL)
        answer = buckets.target(near=near).put(buckets.put("a", left=self.for_parts(count)))
        assert answer == Unfinished(count)
        (number,) = buckets.server.uploads
        assert buckets.objects == {}
        return number

    def parts(self, buckets: Buckets) -> list[tuple[str, str]]:
        """Return the ID of the upload and the number of each part that was sent or copied."""
        asked = [each for each in buckets.server.requests if each.operation in ("UploadPart", "UploadPartCopy")]
        return [(each.query["uploadId"], each.query["partNumber"]) for each in asked]

    @SORTS
    def test_a_new_function_goes_on_with_the_same_upload(self, buckets: Buckets, *, near: bool) -> None:
        number = self.begun(buckets, near=near)
        assert buckets.target(near=near).put(buckets.put("a", left=self.for_parts(1))) == Unfinished(3)
        done = buckets.target(near=near).put(buckets.put("a"))
        assert isinstance(done, Written)
        assert done.sent == (0 if near else 2 * SMALL), "bytes are counted by the function that sent them"
        assert self.parts(buckets) == [(number, str(part)) for part in range(1, 6)]
        assert buckets.objects == {"a": SEVERAL}
        assert done.file.version == buckets.server.objects["target"]["a"].etag
        assert not buckets.server.uploads
        assert not [key for key in buckets.facts.values if key.startswith("upload:")]

    @SORTS
    def test_a_function_without_any_time_is_no_failure(self, buckets: Buckets, *, near: bool) -> None:
        number = self.begun(buckets, near=near, count=0)
        assert isinstance(buckets.target(near=near).put(buckets.put("a")), Written)
        assert {upload for upload, _ in self.parts(buckets)} == {number}

    @SORTS
    def test_a_replaced_object_is_sent_from_its_beginning(self, buckets: Buckets, *, near: bool) -> None:
        number = self.begun(buckets, near=near)
        buckets.server.put("source", "a", SEVERAL[::-1])
        assert isinstance(buckets.target(near=near).put(buckets.put("a")), Written)
        assert [part for upload, part in self.parts(buckets) if upload != number] == ["1", "2", "3", "4", "5"]
        assert buckets.objects == {"a": SEVERAL[::-1]}
        assert not buckets.server.uploads, "the old one is aborted"

    @SORTS
    def test_a_lost_upload_is_begun_anew(self, buckets: Buckets, *, near: bool) -> None:
        number = self.begun(buckets, near=near)
        buckets.server.uploads.clear()
        assert isinstance(buckets.target(near=near).put(buckets.put("a")), Written)
        assert len([part for upload, part in self.parts(buckets) if upload != number]) == 5
        assert buckets.objects == {"a": SEVERAL}

    def test_parts_of_another_length_are_sent_again(self, buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
        """Parts that a service copies are larger than those that are sent, and a sync may change from one to the other."""
        monkeypatch.setattr(bucket_upload, "_COPY_PART", 2 * SMALL)
        self.begun(buckets, near=True)
        assert isinstance(buckets.target(near=False).put(buckets.put("a")), Written)
        assert buckets.objects == {"a": SEVERAL}

    @SORTS
    def test_a_failure_leaves_nothing_behind(self, buckets: Buckets, *, near: bool) -> None:
        self.begun(buckets, near=near)
        buckets.server.hook = lambda _method, _bucket, _key, query: (
            (403, {}, b"") if query.get("partNumber") == "4" else None
        )
        assert failed(lambda: buckets.target(near=near).put(buckets.put("a"))) == "FORBIDDEN"
        assert not buckets.server.uploads
        assert not buckets.facts.values
        assert buckets.objects == {}

    @SORTS
    def test_an_object_replaced_between_two_parts_is_not_put_together(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", SEVERAL)

        def left() -> float:
            if len(self.parts(buckets)) == 3:
                buckets.server.put("source", "a", SEVERAL[::-1])
            return 60.0

        code = failed(lambda: buckets.target(near=near).put(buckets.put("a", left=left)))
        assert code == "SOURCE_CHANGED"
        assert not buckets.server.uploads
        assert buckets.objects == {}

    @SORTS
    def test_a_foreign_object_that_came_meanwhile_is_kept(self, buckets: Buckets, *, near: bool) -> None:
        self.begun(buckets, near=near)
        buckets.server.put("target", "a", b"theirs")
        assert failed(lambda: buckets.target(near=near).put(buckets.put("a"))) == "TARGET_CHANGED"
        assert buckets.objects == {"a": b"theirs"}
        assert not buckets.server.uploads


@SORTS
class TestRenameAndRemove:
    def stat(self, target: BucketTarget, path: str) -> TargetFile:
        there = target.stat(path)
        assert there is not None
        return there

    def test_a_rename_takes_the_object_along(self, buckets: Buckets, *, near: bool) -> None:
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
        there = self.stat(target, "old")
        buckets.server.put("target", "old", b"theirs")
        assert failed(lambda: target.rename("old", "new", there)) == "TARGET_CHANGED"
        assert buckets.objects == {"old": b"theirs"}, "and nobody's object is copied to the new path"

    def test_a_rename_of_nothing(self, buckets: Buckets, *, near: bool) -> None:
        target = buckets.target(near=near)
        assert failed(lambda: target.rename("old", "new", TargetFile("e", "e", 1))) == "NOT_FOUND"

    def test_a_removal_leaves_an_object_that_was_replaced(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("target", "a", b"mine")
        target = buckets.target(near=near)
        there = self.stat(target, "a")
        buckets.server.put("target", "a", b"theirs")
        assert failed(lambda: target.remove("a", there)) == "TARGET_CHANGED"
        assert buckets.objects == {"a": b"theirs"}
        target.remove("a", self.stat(target, "a"))
        assert buckets.objects == {}
        target.remove("a", there)  # what is gone is no failure

    def test_both_work_where_only_writes_of_objects_know_conditions(self, buckets: Buckets, *, near: bool) -> None:
        buckets.server.put("source", "a", b"mine")
        target = buckets.target(near=near)
        target.put(buckets.put("a"))
        assert target.creates_safely(1)
        buckets.refuse_conditions(of=("DELETE",))
        target.rename("a", "b", self.stat(target, "a"))
        target.remove("b", self.stat(target, "b"))
        assert buckets.objects == {}
        assert target.creates_safely(1)


def test_a_service_that_states_no_etag_has_a_version_all_the_same() -> None:
    assert file_of("", 4) == TargetFile(UNSTATED, None, 4)
    assert Put("a", None, "a", None, None, True, lambda: 1.0).condition == ABSENT  # type: ignore[arg-type]


# -- a file manager ------------------------------------------------------------------------------------------------


@dataclass
class Files:
    """A source bucket and a file manager."""

    s3: S3Server
    server: FileManagerServer

    def target(self, name: str = NAME) -> FileManagerTarget:
        client = FileManager(self.server.url, lambda: None, Http(QUICK), nullcontext())
        return FileManagerTarget(client, name, None, None)

    def source(self) -> Bucket:
        return Bucket(Endpoint.parse(self.s3.url), "source", lambda: Keys(ACCESS, SECRET), Http(QUICK))

    def written(self, key: str, content: bytes, there: TargetFile | None = None) -> Written:
        """Bring an object to the file manager."""
        self.s3.put("source", key, content)
        put = Put(ROOT + key, self.source(), key, None, there, True, lambda: 60.0, "run-1")
        done = self.target().put(put)
        assert isinstance(done, Written)
        return done

    def stat(self, path: str, name: str = NAME) -> TargetFile:
        there = self.target(name).stat(path)
        assert there is not None
        return there


@pytest.fixture
def files() -> Iterator[Files]:
    with S3Server("source") as s3, FileManagerServer() as server:
        yield Files(s3, server)


class TestMark:
    """The mark in a file's metadata is bound to path, size, ETag and address."""

    def test_a_file_that_we_wrote_shows_it(self, files: Files) -> None:
        done = files.written("a", b"content")
        there = files.stat(f"{ROOT}a")
        assert there == done.file
        assert there.written
        assert (there.etag, there.size, there.path, there.run) == (md5(b"content"), 7, f"{ROOT}a", "run-1")
        assert there.equals(md5(b"content"), 7)

    def test_a_file_too_large_to_be_held_shows_it_too(self, files: Files) -> None:
        content = bytes(HELD + 1)
        done = files.written("a", content)
        assert done.sent == len(content)
        assert files.stat(f"{ROOT}a") == done.file
        assert done.file.written

    def test_a_renamed_file_equals_but_is_not_written_there(self, files: Files) -> None:
        done = files.written("a", b"content")
        version = files.target().rename(f"{ROOT}a", f"{ROOT}b", done.file)
        there = files.stat(f"{ROOT}b")
        assert there.version == version
        assert (there.written, there.path) == (False, f"{ROOT}a")
        assert there.equals(md5(b"content"), 7)

    def test_a_copy_is_another_file(self, files: Files) -> None:
        done = files.written("a", b"content")
        ours = files.server.files[f"{ROOT}a"]
        files.server.put(f"{ROOT}b", b"content", ours.metadata)
        there = files.stat(f"{ROOT}b")
        assert not there.written
        assert there.version != done.file.version

    @pytest.mark.parametrize("content", [b"content and more", b""])
    def test_a_file_of_another_size_tells_nothing(self, files: Files, content: bytes) -> None:
        done = files.written("a", b"content")
        files.server.put(f"{ROOT}a", content, files.server.files[f"{ROOT}a"].metadata)
        there = files.stat(f"{ROOT}a")
        assert (there.written, there.etag, there.path, there.run) == (False, None, None, None)
        assert there.version != done.file.version

    @pytest.mark.parametrize(
        "forged",
        [
            '{"etag": "%s", "path": "/data/a", "size": 7}',
            '{"etag": "%s", "path": "/data/a", "size": 7, "mark": "0123456789abcdef"}',
            '{"etag": "%s", "path": "/data/a", "size": 7, "mark": null}',
            '{"etag": ["%s"], "path": "/data/a", "mark": {}}',
            '{"etag": "%s", "path": 7, "size": true, "mark": true}',
            "{}",
        ],
    )
    def test_a_forged_one_tells_nothing(self, files: Files, forged: str) -> None:
        files.server.put(f"{ROOT}a", b"content", forged.replace("%s", md5(b"content")))
        there = files.stat(f"{ROOT}a")
        assert not there.written
        assert not there.equals(md5(b"content"), 7)

    def test_the_mark_of_one_etag_is_none_of_another(self, files: Files) -> None:
        files.written("a", b"content")
        ours = files.server.files[f"{ROOT}a"].metadata
        files.server.put(f"{ROOT}a", b"CONTENT", ours.replace(md5(b"content"), md5(b"CONTENT")))
        assert not files.stat(f"{ROOT}a").equals(md5(b"CONTENT"), 7)

    def test_the_mark_of_another_file_manager_is_none(self, files: Files) -> None:
        files.written("a", b"content")
        there = files.stat(f"{ROOT}a", "https://other.example/api")
        assert (there.written, there.etag) == (False, None)

    def test_every_replacement_has_another_version(self, files: Files) -> None:
        """The file manager keeps a file's ID when the file is replaced."""
        done = files.written("a", b"content")
        versions = [done.file.version]
        versions.append(files.written("a", b"CONTENT", done.file).file.version)
        for content, metadata in [(b"CONTENT", "{}"), (b"theirs", "{}"), (b"THEIRS!", '{"etag": "x"}')]:
            files.server.put(f"{ROOT}a", content, metadata)
            versions.append(files.stat(f"{ROOT}a").version)
        del files.server.files[f"{ROOT}a"]
        files.server.put(f"{ROOT}a", b"THEIRS!", '{"etag": "x"}')
        versions.append(files.stat(f"{ROOT}a").version)
        assert len(set(versions)) == len(versions)


class _Stream:
    """An object that comes a chunk at a time; ``tick`` is called before each."""

    def __init__(self, head: Head, tick: Callable[[], None]) -> None:
        self.head = head
        self._tick = tick

    def chunks(self, size: int) -> Iterator[bytes]:
        for at in range(0, self.head.size, size):
            self._tick()
            yield bytes(min(size, self.head.size - at))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Source:
    """A bucket with one object; reading a chunk of it takes ``seconds`` of the clock ``now``."""

    def __init__(self, size: int, seconds: float) -> None:
        self.now = 1000.0
        self.opened = 0
        self._object = Head("etag", size)
        self._seconds = seconds

    def _tick(self) -> None:
        self.now += self._seconds

    def open(self, key: str, *, etag: str | None = None) -> _Stream:  # noqa: ARG002 - it has one object
        self.opened += 1
        return _Stream(self._object, self._tick)

    def head(self, key: str) -> Head:  # noqa: ARG002 - it has one object
        return self._object


@dataclass
class _Client:
    """A file manager that takes all bytes. ``ends`` is raised after the first so many chunks, if it is set."""

    taken: int = 0
    ends: SynclineError | None = None
    after: int = 0

    def save(self, operation: str, path: str, content: Content) -> Saved:
        assert operation == "create"
        chunks: Iterable[bytes] = [content.chunks] if isinstance(content.chunks, bytes) else content.chunks
        for number, chunk in enumerate(chunks, 1):
            self.taken += len(chunk)
            if self.ends is not None and number == self.after:
                raise self.ends
        return Saved("id-1", path, content.size)


class TestTooSlow:
    """A file that one function cannot send is given up as soon as that is certain."""

    def put(self, source: _Source, client: Any, ends: float, seen: Head | None = None) -> Written | Unfinished:
        """Put the source's object by a function that ends at the time ``ends``."""
        bucket: Any = source
        target = FileManagerTarget(client, NAME, None, None, lambda: source.now)
        return target.put(Put(f"{ROOT}a", bucket, "a", seen, None, True, lambda: ends - source.now))

    def test_an_absurd_size_at_once(self) -> None:
        source, client = _Source(8 * CHUNK, 0.0), _Client()
        with pytest.raises(SynclineError) as caught:
            self.put(source, client, 1900.0, Head("etag", 2**50))
        assert caught.value.code.name == "FILE_TOO_SLOW"
        assert "over the 900 of a Lambda function" in caught.value.what
        assert (source.opened, client.taken) == (0, 0)

    def test_a_file_that_arrives_in_time(self) -> None:
        client = _Client()
        done = self.put(_Source(8 * CHUNK, 2.0), client, 1000.0 + 16.0)
        assert isinstance(done, Written)
        assert client.taken == done.sent == 8 * CHUNK

    def test_a_file_that_will_not(self) -> None:
        """After 6 seconds 3 of 8 MiB are read, so that 10 more are needed. The advice is for bytes known to be sent."""
        client = _Client()
        with pytest.raises(SynclineError) as caught:
            self.put(_Source(8 * CHUNK, 2.0), client, 1000.0 + 15.9)
        assert caught.value.code.name == "FILE_TOO_SLOW"
        assert f"'a' has {8 * CHUNK} bytes and would take about 96 seconds" in caught.value.what
        assert "set the timeout of the transfer function to 180 seconds or more" in caught.value.what
        assert client.taken <= 2 * CHUNK

    def test_nothing_is_estimated_in_the_first_seconds(self) -> None:
        done = self.put(_Source(4 * CHUNK, 1.2), _Client(), 1000.0 + 0.1)
        assert isinstance(done, Written), "four chunks in 4.8 seconds"

    def test_nothing_is_estimated_before_a_chunk_is_sent(self) -> None:
        done = self.put(_Source(2 * CHUNK, 6.0), _Client(), 1000.0 + 12.0)
        assert isinstance(done, Written), "a slow beginning says nothing about the rest"

    def test_time_that_ends_while_the_file_is_sent(self) -> None:
        client = _Client(ends=SynclineError("TIME_SHORT", "over"), after=2)
        assert failed(lambda: self.put(_Source(8 * CHUNK, 0.0), client, 1900.0)) == "FILE_TOO_SLOW"

    def test_any_other_failure_is_what_it_is(self) -> None:
        client = _Client(ends=SynclineError("FORBIDDEN", "no"), after=2)
        assert failed(lambda: self.put(_Source(8 * CHUNK, 0.0), client, 1900.0)) == "FORBIDDEN"
