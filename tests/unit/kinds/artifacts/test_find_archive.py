"""Selection of the artifact, and of the archive in it, for an image of a build."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from syncline.clients.github.client import Artifact
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.zip import EMPTY, MAGIC
from syncline.kinds.artifacts.config import Build
from syncline.kinds.artifacts.find_archive import absence_reason, candidate_artifacts, find_archive, is_zip
from tests.standins.github import zipped
from tests.unit.kinds.artifacts.conftest import InMemorySource
from tests.unit.kinds.artifacts.test_builds import example

BUILD = example().build
IMAGE, OTHER, TAG = "presto-coordinator", "presto-java-worker", "t1"


def rules(artifact: str = "*") -> Build:
    return BUILD.model_copy(update={"artifact": artifact})


def artifact(number: int, name: str = "images", *, gone: bool = False, created: str = "2026-01-01") -> Artifact:
    return Artifact(number, name, 10, gone, None, created)


def failure(work: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(SynclineError) as caught:
        work()
    return caught.value.code.name, caught.value.what


def tar_of(content: bytes = b"content") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class TestCandidates:
    def test_youngest_first_and_each_name_once(self) -> None:
        found = candidate_artifacts(
            [
                artifact(1, "a", created="2026-01-03"),
                artifact(5, "b", created="2026-01-01"),
                artifact(6, "b", created="2026-01-01"),
                artifact(2, "a", created="2026-01-04"),
                artifact(9, "logs", created="2026-01-09"),
            ],
            rules("[ab]"),
            "run 7",
        )
        assert [each.id for each in found] == [2, 6]

    def test_expired_artifacts_are_left_out(self) -> None:
        alive = [artifact(1, "a"), artifact(2, "b", gone=True)]
        assert [each.id for each in candidate_artifacts(alive, rules(), "run 7")] == [1]
        code, what = failure(lambda: candidate_artifacts(alive[1:], rules(), "run 7"))
        assert (code, "b" in what, "run 7" in what) == ("ARTIFACT_EXPIRED", True, True)

    @pytest.mark.parametrize(("left", "shown"), [([artifact(1, "logs")], "logs"), ([], "none")])
    def test_error_lists_the_other_artifacts(self, left: list[Artifact], shown: str) -> None:
        code, what = failure(lambda: candidate_artifacts(left, rules("images-*"), "run 7"))
        assert (code, shown in what, "images-*" in what) == ("IMAGE_ABSENT", True, True)

    def test_expired_artifact_explains_an_absent_image(self) -> None:
        absent, other = SynclineError("IMAGE_ABSENT", "no app"), SynclineError("SERVER_ERROR", "it failed")
        left = [artifact(1, "a", gone=True), artifact(2, "b")]
        found = absence_reason(left, rules(), "run 7", absent)
        assert (found.code.name, "a has expired" in found.what, "no app" in found.what) == (
            "ARTIFACT_EXPIRED",
            True,
            True,
        )
        assert absence_reason(left, rules(), "run 7", other) is other
        assert absence_reason(left[1:], rules(), "run 7", absent) is absent
        assert absence_reason(left, rules("b"), "run 7", absent) is absent


class TestFindArchive:
    """The archive is found by its name and its first bytes."""

    @staticmethod
    def found(*sources: InMemorySource) -> tuple[str, bytes]:
        """Return the location of the archive, and its content."""
        archive = find_archive(sources, rules(), IMAGE, TAG)
        with archive.source.open(0, 0):
            pass
        return archive.where, b"".join(archive.open(None))

    def test_separate_file(self) -> None:
        files = {f"out/{IMAGE}-{TAG}.tar.gz": b"own", f"{OTHER}-{TAG}.tar.gz": b"other", "all.tar": b"all", "x/": b""}
        assert self.found(InMemorySource(zipped(files), "images")) == (f"images, out/{IMAGE}-{TAG}.tar.gz", b"own")

    @pytest.mark.parametrize("name", ["all.tar", "all.TAR.GZ", "all.tgz", "all.tar.zst", "all.tar.zstd"])
    def test_shared_archive(self, name: str) -> None:
        files = {name: b"all", f"{OTHER}-{TAG}.tar.gz": b"other", "readme.txt": b"text"}
        assert self.found(InMemorySource(zipped(files), "images")) == (f"images, {name}", b"all")

    @pytest.mark.parametrize(
        "files",
        [
            {"a.tar": b"1", "b.tar": b"2"},
            {f"{OTHER}-{TAG}.tar.gz": b"other"},
            {"readme.txt": b"text"},
            {f"{IMAGE}-other.zip": b"x"},
            {},
        ],
    )
    def test_no_archive_of_the_image(self, files: dict[str, bytes]) -> None:
        code, what = failure(lambda: self.found(InMemorySource(zipped(files), "images")))
        assert code == "IMAGE_ABSENT"
        assert all(name in what for name in files)

    def test_download_is_the_archive(self) -> None:
        for data in (tar_of(), gzip.compress(tar_of(), mtime=0)):
            assert self.found(InMemorySource(data, "whatever")) == ("whatever", data)

    @pytest.mark.parametrize(
        "data", [b"", b"PK", b"text" * 200, bytes(1024), tar_of()[:511], b"\x00" * 148 + b"9" * 400]
    )
    def test_download_is_not_an_archive(self, data: bytes) -> None:
        code, what = failure(lambda: self.found(InMemorySource(data, "whatever")))
        assert (code, "whatever" in what) == ("IMAGE_ABSENT", True)

    def test_download_named_like_the_image_has_priority(self) -> None:
        plain, named = InMemorySource(tar_of(b"plain"), "all"), InMemorySource(tar_of(b"named"), f"{IMAGE}.tar")
        own = InMemorySource(zipped({f"{IMAGE}-{TAG}.tar": b"own"}), "images")
        assert self.found(plain, named) == (named.name, named.data)
        assert self.found(plain, own) == (f"images, {IMAGE}-{TAG}.tar", b"own")
        assert self.found(plain, InMemorySource(tar_of(b"second"), "more")) == (plain.name, plain.data)

    def test_other_downloads_are_not_read_first(self) -> None:
        """Reading a download costs a few requests."""

        class Unread(InMemorySource):
            def open(self, start: int, end: int) -> Any:
                raise AssertionError(f"bytes {start} to {end} must not be read")

        own = InMemorySource(zipped({f"{IMAGE}-{TAG}.tar": b"own"}), f"{IMAGE}.zip")
        assert self.found(Unread(b"text" * 9, "logs"), own) == (f"{IMAGE}.zip, {IMAGE}-{TAG}.tar", b"own")

    def test_downloads_are_read_until_one_has_the_image(self) -> None:
        others = [InMemorySource(b"text" * 200, "text"), InMemorySource(zipped({"readme": b""}), "logs")]
        own = InMemorySource(zipped({f"{IMAGE}-{TAG}.tar": b"own"}), "images")
        assert self.found(*others, own) == (f"images, {IMAGE}-{TAG}.tar", b"own")
        code, what = failure(lambda: self.found(*others))
        assert (code, "text, readme" in what) == ("IMAGE_ABSENT", True)
        assert "nothing" in failure(self.found)[1]

    def test_archives_in_one_download_have_different_versions(self) -> None:
        files = {f"{IMAGE}-{TAG}.tar": b"1" * 9, f"{OTHER}-{TAG}.tar": b"2" * 9}
        source = InMemorySource(zipped(files), "images")
        one, same, other = (find_archive([source], rules(), image, TAG) for image in (IMAGE, IMAGE, OTHER))
        assert one.version == same.version != other.version
        assert find_archive([InMemorySource(tar_of(), "a")], rules(), IMAGE, TAG).version == str(len(tar_of()))


@pytest.mark.parametrize(
    ("data", "expected"),
    [(zipped({"a": b""}), True), (EMPTY + bytes(18), True), (b"PK\x03", False), (tar_of(), False), (MAGIC, True)],
)
def test_zip_by_its_first_bytes(data: bytes, *, expected: bool) -> None:
    assert is_zip(InMemorySource(data, chunk=3)) == expected
