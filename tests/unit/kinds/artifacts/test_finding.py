"""The artifact and the archive in it that an image of a build is taken from."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from syncline.clients.github.client import Artifact
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.zips import EMPTY, MAGIC
from syncline.kinds.artifacts.config import Build
from syncline.kinds.artifacts.finding import candidates, expired, find, is_zip
from tests.standins.github import zipped
from tests.unit.kinds.artifacts.conftest import Held
from tests.unit.kinds.artifacts.test_rules import example

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
    def test_the_youngest_come_first_and_each_name_once(self) -> None:
        found = candidates(
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

    def test_those_that_have_expired_are_left_out(self) -> None:
        alive = [artifact(1, "a"), artifact(2, "b", gone=True)]
        assert [each.id for each in candidates(alive, rules(), "run 7")] == [1]
        code, what = failure(lambda: candidates(alive[1:], rules(), "run 7"))
        assert (code, "b" in what, "run 7" in what) == ("ARTIFACT_EXPIRED", True, True)

    @pytest.mark.parametrize(("left", "shown"), [([artifact(1, "logs")], "logs"), ([], "none at all")])
    def test_where_none_has_the_name_the_others_are_named(self, left: list[Artifact], shown: str) -> None:
        code, what = failure(lambda: candidates(left, rules("images-*"), "run 7"))
        assert (code, shown in what, "images-*" in what) == ("IMAGE_ABSENT", True, True)

    def test_an_image_may_be_absent_because_an_artifact_has_expired(self) -> None:
        absent, other = SynclineError("IMAGE_ABSENT", "no app"), SynclineError("SERVER_ERROR", "it failed")
        left = [artifact(1, "a", gone=True), artifact(2, "b")]
        found = expired(left, rules(), "run 7", absent)
        assert (found.code.name, "a has expired" in found.what, "no app" in found.what) == (
            "ARTIFACT_EXPIRED",
            True,
            True,
        )
        assert expired(left, rules(), "run 7", other) is other
        assert expired(left[1:], rules(), "run 7", absent) is absent
        assert expired(left, rules("b"), "run 7", absent) is absent


class TestFind:
    """Which archive it is shows in the names, and in the first bytes."""

    @staticmethod
    def found(*sources: Held) -> tuple[str, bytes]:
        """Return where the archive is, and its content."""
        archive = find(sources, rules(), IMAGE, TAG)
        with archive.source.open(0, 0):
            pass
        return archive.where, b"".join(archive.open(None))

    def test_a_file_of_its_own(self) -> None:
        files = {f"out/{IMAGE}-{TAG}.tar.gz": b"own", f"{OTHER}-{TAG}.tar.gz": b"other", "all.tar": b"all", "x/": b""}
        assert self.found(Held(zipped(files), "images")) == (f"images, out/{IMAGE}-{TAG}.tar.gz", b"own")

    @pytest.mark.parametrize("name", ["all.tar", "all.TAR.GZ", "all.tgz", "all.tar.zst", "all.tar.zstd"])
    def test_one_archive_for_all(self, name: str) -> None:
        files = {name: b"all", f"{OTHER}-{TAG}.tar.gz": b"other", "readme.txt": b"text"}
        assert self.found(Held(zipped(files), "images")) == (f"images, {name}", b"all")

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
    def test_nothing_that_can_be_told_to_be_it(self, files: dict[str, bytes]) -> None:
        code, what = failure(lambda: self.found(Held(zipped(files), "images")))
        assert code == "IMAGE_ABSENT"
        assert all(name in what for name in files)

    def test_the_download_itself(self) -> None:
        for data in (tar_of(), gzip.compress(tar_of(), mtime=0)):
            assert self.found(Held(data, "whatever")) == ("whatever", data)

    @pytest.mark.parametrize(
        "data", [b"", b"PK", b"text" * 200, bytes(1024), tar_of()[:511], b"\x00" * 148 + b"9" * 400]
    )
    def test_a_download_that_is_no_archive(self, data: bytes) -> None:
        code, what = failure(lambda: self.found(Held(data, "whatever")))
        assert (code, "whatever" in what) == ("IMAGE_ABSENT", True)

    def test_a_download_named_like_the_image_counts_first(self) -> None:
        plain, named = Held(tar_of(b"plain"), "all"), Held(tar_of(b"named"), f"{IMAGE}.tar")
        own = Held(zipped({f"{IMAGE}-{TAG}.tar": b"own"}), "images")
        assert self.found(plain, named) == (named.name, named.data)
        assert self.found(plain, own) == (f"images, {IMAGE}-{TAG}.tar", b"own")
        assert self.found(plain, Held(tar_of(b"second"), "more")) == (plain.name, plain.data)

    def test_the_others_are_not_looked_into_before(self) -> None:
        """Each costs a few requests."""

        class Unread(Held):
            def open(self, start: int, end: int) -> Any:
                raise AssertionError(f"nobody has to read {start} to {end}")

        own = Held(zipped({f"{IMAGE}-{TAG}.tar": b"own"}), f"{IMAGE}.zip")
        assert self.found(Unread(b"text" * 9, "logs"), own) == (f"{IMAGE}.zip, {IMAGE}-{TAG}.tar", b"own")

    def test_all_are_looked_into_until_one_has_it(self) -> None:
        others = [Held(b"text" * 200, "text"), Held(zipped({"readme": b""}), "logs")]
        own = Held(zipped({f"{IMAGE}-{TAG}.tar": b"own"}), "images")
        assert self.found(*others, own) == (f"images, {IMAGE}-{TAG}.tar", b"own")
        code, what = failure(lambda: self.found(*others))
        assert (code, "text, readme" in what) == ("IMAGE_ABSENT", True)
        assert "nothing" in failure(self.found)[1]

    def test_another_archive_in_one_download_has_another_version(self) -> None:
        files = {f"{IMAGE}-{TAG}.tar": b"1" * 9, f"{OTHER}-{TAG}.tar": b"2" * 9}
        source = Held(zipped(files), "images")
        one, same, other = (find([source], rules(), image, TAG) for image in (IMAGE, IMAGE, OTHER))
        assert one.version == same.version != other.version
        assert find([Held(tar_of(), "a")], rules(), IMAGE, TAG).version == str(len(tar_of()))


@pytest.mark.parametrize(
    ("data", "is_one"),
    [(zipped({"a": b""}), True), (EMPTY + bytes(18), True), (b"PK\x03", False), (tar_of(), False), (MAGIC, True)],
)
def test_a_zip_shows_in_its_first_bytes(data: bytes, *, is_one: bool) -> None:
    assert is_zip(Held(data, chunk=3)) == is_one
