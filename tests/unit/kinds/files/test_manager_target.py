"""A file manager as a target of files: marks, and files that are too slow to send."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Self

import pytest

from syncline.clients.file_manager.client import FileContent, FileManager, SavedFile
from syncline.clients.http.client import Http
from syncline.clients.s3.head import ObjectHead
from syncline.errors import SynclineError
from syncline.kinds.files.manager_target import BUFFERED, FileManagerTarget
from syncline.kinds.files.targets import CHUNK, PutRequest, PutResult, TargetFile, UnfinishedPut
from tests.standins.file_manager import FileManagerServer
from tests.standins.file_manager_wire import json_answer
from tests.standins.s3 import S3Server
from tests.standins.s3_store import md5
from tests.unit.kinds.files.services import QUICK, bucket_of, failed

ROOT: Final = "/data/"
NAME: Final = "https://files.example/api"


@dataclass
class Files:
    """A source bucket and a file manager."""

    s3: S3Server
    server: FileManagerServer

    def target(self, name: str = NAME) -> FileManagerTarget:
        client = FileManager(self.server.url, lambda: None, Http(QUICK), nullcontext())
        return FileManagerTarget(client, name, None, None)

    def written(self, key: str, content: bytes, existing: TargetFile | None = None) -> PutResult:
        """Write an object to the file manager."""
        self.s3.put("source", key, content)
        put = PutRequest(ROOT + key, bucket_of(self.s3, "source"), key, None, existing, True, lambda: 60.0, "run-1")
        done = self.target().put(put)
        assert isinstance(done, PutResult)
        return done

    def stat(self, path: str, name: str = NAME) -> TargetFile:
        existing = self.target(name).stat(path)
        assert existing is not None
        return existing


@pytest.fixture
def files() -> Iterator[Files]:
    with S3Server("source") as s3, FileManagerServer() as server:
        yield Files(s3, server)


class TestMark:
    """The mark in a file's metadata depends on path, size, ETag and address."""

    def test_a_file_that_we_wrote_is_marked(self, files: Files) -> None:
        done = files.written("a", b"content")
        existing = files.stat(f"{ROOT}a")
        assert existing == done.file
        assert existing.is_marked
        assert (existing.etag, existing.size, existing.path, existing.run) == (md5(b"content"), 7, f"{ROOT}a", "run-1")
        assert existing.equals(md5(b"content"), 7)

    def test_a_file_that_is_kept_short_has_the_version_of_its_own_size(self, files: Files) -> None:
        """It is ours and is written again, although its mark is not valid."""
        answer = {"operation": "create", "file_path": f"{ROOT}a", "internal_id": "id-1", "size": 6}
        files.server.misbehave("create", json_answer(answer))
        done = files.written("a", b"content")
        whole = files.written("a", b"content")
        files.server.put(f"{ROOT}a", b"conten", files.server.files[f"{ROOT}a"].metadata)
        assert files.stat(f"{ROOT}a") == done.file != whole.file
        assert (done.file.size, done.file.etag, done.file.is_marked) == (6, None, False)

    def test_a_file_too_large_to_be_buffered_is_marked(self, files: Files) -> None:
        content = bytes(BUFFERED + 1)
        done = files.written("a", content)
        assert done.sent == len(content)
        assert files.stat(f"{ROOT}a") == done.file
        assert done.file.is_marked

    def test_a_large_file_whose_object_was_replaced_meanwhile_is_an_error(self, files: Files) -> None:
        """The file manager may have bytes of both objects, but the mark would claim those of one."""

        def replaced(_path: str) -> None:
            files.s3.put("source", "a", b"later")

        files.server.on_save = replaced
        assert failed(lambda: files.written("a", bytes(BUFFERED + 1))) == "SOURCE_CHANGED"

    def test_the_metadata_have_the_checksum_of_a_buffered_file(self, files: Files) -> None:
        files.written("a", b"content")
        metadata = json.loads(files.server.files[f"{ROOT}a"].metadata)
        assert metadata["sha256"] == hashlib.sha256(b"content").hexdigest()

    def test_a_renamed_file_equals_but_is_not_written_there(self, files: Files) -> None:
        done = files.written("a", b"content")
        version = files.target().rename(f"{ROOT}a", f"{ROOT}b", done.file)
        existing = files.stat(f"{ROOT}b")
        assert existing.version == version
        assert (existing.is_marked, existing.path) == (False, f"{ROOT}a")
        assert existing.equals(md5(b"content"), 7)

    def test_a_copy_is_another_file(self, files: Files) -> None:
        done = files.written("a", b"content")
        ours = files.server.files[f"{ROOT}a"]
        files.server.put(f"{ROOT}b", b"content", ours.metadata)
        existing = files.stat(f"{ROOT}b")
        assert not existing.is_marked
        assert existing.version != done.file.version

    @pytest.mark.parametrize("content", [b"content and more", b""])
    def test_the_metadata_of_a_file_of_another_size_are_ignored(self, files: Files, content: bytes) -> None:
        done = files.written("a", b"content")
        files.server.put(f"{ROOT}a", content, files.server.files[f"{ROOT}a"].metadata)
        existing = files.stat(f"{ROOT}a")
        assert (existing.is_marked, existing.etag, existing.path, existing.run) == (False, None, None, None)
        assert existing.version != done.file.version

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
    def test_forged_metadata_are_ignored(self, files: Files, forged: str) -> None:
        files.server.put(f"{ROOT}a", b"content", forged.replace("%s", md5(b"content")))
        existing = files.stat(f"{ROOT}a")
        assert not existing.is_marked
        assert not existing.equals(md5(b"content"), 7)

    def test_the_mark_of_one_etag_is_invalid_for_another(self, files: Files) -> None:
        files.written("a", b"content")
        ours = files.server.files[f"{ROOT}a"].metadata
        files.server.put(f"{ROOT}a", b"CONTENT", ours.replace(md5(b"content"), md5(b"CONTENT")))
        assert not files.stat(f"{ROOT}a").equals(md5(b"CONTENT"), 7)

    def test_the_mark_of_another_file_manager_is_invalid(self, files: Files) -> None:
        files.written("a", b"content")
        existing = files.stat(f"{ROOT}a", "https://other.example/api")
        assert (existing.is_marked, existing.etag) == (False, None)

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
    """An object that is read in chunks; ``tick`` is called before each."""

    def __init__(self, head: ObjectHead, tick: Callable[[], None]) -> None:
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
    """A bucket with one object. Reading a chunk advances the clock ``now`` by ``seconds``, the first by ``first``."""

    def __init__(self, size: int, seconds: float, *, first: float | None = None) -> None:
        self.now = 1000.0
        self.opened = 0
        self._object = ObjectHead("etag", size)
        self._seconds = seconds
        self._next = seconds if first is None else first

    def _tick(self) -> None:
        self.now += self._next
        self._next = self._seconds

    def open(self, key: str, *, etag: str | None = None) -> _Stream:  # noqa: ARG002 - it has one object
        self.opened += 1
        return _Stream(self._object, self._tick)

    def head(self, key: str) -> ObjectHead:  # noqa: ARG002 - it has one object
        return self._object


@dataclass
class _Client:
    """A file manager that accepts all bytes. ``ends``, if set, is raised after ``after`` chunks."""

    taken: int = 0
    ends: SynclineError | None = None
    after: int = 0

    def save(self, operation: str, path: str, content: FileContent) -> SavedFile:
        assert operation == "create"
        chunks: Iterable[bytes] = [content.chunks] if isinstance(content.chunks, bytes) else content.chunks
        for number, chunk in enumerate(chunks, 1):
            self.taken += len(chunk)
            if self.ends is not None and number == self.after:
                raise self.ends
        return SavedFile("id-1", path, content.size)


class TestTooSlow:
    """A file that one function cannot send fails as soon as that is certain."""

    def put(
        self, source: _Source, client: Any, ends: float, seen: ObjectHead | None = None
    ) -> PutResult | UnfinishedPut:
        """Put the source's object by a function that ends at the time ``ends``."""
        bucket: Any = source
        target = FileManagerTarget(client, NAME, None, None, lambda: source.now)
        return target.put(PutRequest(f"{ROOT}a", bucket, "a", seen, None, True, lambda: ends - source.now))

    def test_a_much_too_large_file_fails_at_once(self) -> None:
        source, client = _Source(8 * CHUNK, 0.0), _Client()
        with pytest.raises(SynclineError) as caught:
            self.put(source, client, 1900.0, ObjectHead("etag", 2**50))
        assert caught.value.code.name == "FILE_TOO_SLOW"
        assert "over the 900 of a Lambda function" in caught.value.what
        assert (source.opened, client.taken) == (0, 0)

    def test_a_file_that_is_sent_in_time_completes(self) -> None:
        client = _Client()
        done = self.put(_Source(8 * CHUNK, 2.0), client, 1000.0 + 16.0)
        assert isinstance(done, PutResult)
        assert client.taken == done.sent == 8 * CHUNK

    def test_a_file_that_cannot_be_sent_in_time_fails(self) -> None:
        """After 6 seconds, 3 of 8 MiB are read, so 10 more seconds are needed. The advice uses bytes known as sent."""
        client = _Client()
        with pytest.raises(SynclineError) as caught:
            self.put(_Source(8 * CHUNK, 2.0), client, 1000.0 + 15.9)
        assert caught.value.code.name == "FILE_TOO_SLOW"
        assert f"'a' has {8 * CHUNK} bytes and would take about 96 seconds" in caught.value.what
        assert "set the timeout of the transfer function to 180 seconds or more" in caught.value.what
        assert client.taken <= 2 * CHUNK

    def test_nothing_is_estimated_in_the_first_seconds(self) -> None:
        done = self.put(_Source(4 * CHUNK, 1.2), _Client(), 1000.0 + 0.1)
        assert isinstance(done, PutResult), "four chunks in 4.8 seconds"

    def test_nothing_is_estimated_before_a_chunk_is_sent(self) -> None:
        done = self.put(_Source(2 * CHUNK, 1.0, first=6.0), _Client(), 1000.0 + 8.0)
        assert isinstance(done, PutResult), "a slow beginning says nothing about the rest"

    def test_a_file_fails_when_the_time_ends_during_the_upload(self) -> None:
        client = _Client(ends=SynclineError("TIME_SHORT", "over"), after=2)
        assert failed(lambda: self.put(_Source(8 * CHUNK, 0.0), client, 1900.0)) == "FILE_TOO_SLOW"

    def test_other_errors_are_unchanged(self) -> None:
        client = _Client(ends=SynclineError("FORBIDDEN", "no"), after=2)
        assert failed(lambda: self.put(_Source(8 * CHUNK, 0.0), client, 1900.0)) == "FORBIDDEN"
