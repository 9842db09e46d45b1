"""Damaged, contradictory or hostile archives: one error with its code, and nothing is tagged."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.decompress import decompressed
from syncline.kinds.artifacts.archive.streams import ArchiveLimits, ChunkReader, WindowedSource
from syncline.kinds.artifacts.archive.tar import TarReader
from syncline.kinds.artifacts.archive.zip import ZipArchive
from syncline.kinds.artifacts.examine import examine
from syncline.kinds.artifacts.read_archive import WantedImage
from tests.standins import saved
from tests.unit.kinds.artifacts.conftest import InMemorySource, Pushing

IMAGE = saved.Image([saved.layer({"a": b"one" * 1000}), saved.layer({"b": b"two"})])
WANTED = WantedImage("app", "v1")
LARGE = random.Random(5).randbytes(9 << 20)
SMALL = ArchiveLimits(members=50, size=1 << 22, text=1 << 16, ratio=100, free=1 << 20)


def code_of(raises: Callable[[], object]) -> str:
    with pytest.raises(SynclineError) as error:
        raises()
    assert len(str(error.value)) < 700
    return error.value.code.name


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def read(data: bytes, limits: ArchiveLimits = SMALL) -> dict[str, bytes]:
    archive = ZipArchive(InMemorySource(data), limits)
    return {entry.name: b"".join(archive.open(entry)) for entry in archive.entries}


FILES = {"a.tar": b"one" * 10_000, "empty": b"", "ä.tar": b"two"}


def result_of(read_: Callable[[], object]) -> tuple[object, str]:
    """Return the result of reading, or the code of its error."""
    try:
        return read_(), ""
    except SynclineError as error:
        return None, error.code.name


@dataclass(frozen=True)
class RecordingSource(InMemorySource):
    """A source that records the requested ranges."""

    asked: list[tuple[int, int]] = field(default_factory=list)

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        self.asked.append((start, end))
        with InMemorySource.open(self, start, end) as chunks:
            yield chunks


class TestWindows:
    def test_small_files_are_read_together(self) -> None:
        files = {f"build/{number}_Step.txt": b"a step's log\n" * 20 for number in range(200)}
        source = RecordingSource(zipped(files))
        archive = ZipArchive(WindowedSource(source))
        assert {entry.name: b"".join(archive.open(entry)) for entry in archive.entries} == files
        assert source.asked == [(0, source.size)]

    @given(ranges=st.lists(st.tuples(st.integers(0, 9 << 20), st.integers(0, 9 << 20)), max_size=6))
    def test_any_ranges_of_a_large_source(self, ranges: list[tuple[int, int]]) -> None:
        source = RecordingSource(LARGE)
        windowed = WindowedSource(source)
        for start, end in map(sorted, ranges):
            with windowed.open(start, end) as chunks:
                assert b"".join(chunks) == LARGE[start:end]
        assert all(end - start <= 4 << 20 for start, end in source.asked)

    def test_source_shorter_than_its_size(self) -> None:
        class Short(InMemorySource):
            size = 100

            @contextmanager
            def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
                yield iter([self.data[start:end]])

        assert code_of(lambda: ZipArchive(WindowedSource(Short(b"PK")))) == "ARCHIVE_INVALID"


class TestZip:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_content(self, method: int) -> None:
        assert read(zipped(FILES, method)) == FILES

    def test_zip_written_as_a_stream(self) -> None:
        """As written by upload-artifact: sizes and checksum follow each member."""

        class Unseekable(io.BytesIO):
            def seekable(self) -> bool:
                return False

            def seek(self, *_: object) -> int:
                raise io.UnsupportedOperation

        buffer = Unseekable()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in FILES.items():
                archive.writestr(name, content)
        assert read(buffer.getvalue()) == FILES

    def test_zip64(self) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive, archive.open("a.tar", "w", force_zip64=True) as member:
            member.write(b"one")
        assert read(buffer.getvalue()) == {"a.tar": b"one"}

    def test_zip64_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
        files = {f"{number}.tar": b"x" * 300 for number in range(3)}
        data = zipped(files, zipfile.ZIP_STORED)
        assert b"PK\x06\x06" in data
        assert read(data) == files

    def test_comment_that_looks_like_an_end_record(self) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.tar", b"one")
            archive.comment = b"PK\x05\x06" + bytes(30)
        assert read(buffer.getvalue()) == {"a.tar": b"one"}

    @pytest.mark.parametrize("cut", [1, 10, 22, 60, 200])
    def test_truncated(self, cut: int) -> None:
        data = zipped(FILES)
        assert code_of(lambda: read(data[:-cut])) == "ARCHIVE_INVALID"

    @pytest.mark.parametrize("name", ["../a.tar", "/a.tar", "a/../../b", "..\\a", "C:\\a", "C:a"])
    def test_names_outside_the_archive(self, name: str) -> None:
        assert code_of(lambda: read(zipped({name: b"one"}))) == "ARCHIVE_REFUSED"

    def test_duplicate_members(self) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.tar", b"one")
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("a.tar", b"two")
        assert code_of(lambda: read(buffer.getvalue())) == "ARCHIVE_REFUSED"

    def test_overlapping_members(self) -> None:
        """A small file whose directory lists the same bytes many times: a bomb without recursion."""
        data = bytearray(zipped({"a.tar": b"x" * 1000, "b.tar": b"y" * 1000}, zipfile.ZIP_STORED))
        second = data.rfind(b"PK\x01\x02")
        data[second + 42 : second + 46] = (5).to_bytes(4, "little")
        assert code_of(lambda: read(bytes(data))) == "ARCHIVE_REFUSED"

    @pytest.mark.parametrize(
        ("at", "value"),
        [
            (20, struct.pack("<L", 5)),  # the packed size
            (24, struct.pack("<L", 10**6)),  # the size
            (16, b"\0\0\0\0"),  # the checksum
            (42, struct.pack("<L", 77)),  # the offset of the member
            (42, struct.pack("<L", 0xFFFFFF00)),
            (10, struct.pack("<H", 0)),  # the method
            (20, struct.pack("<L", 0xFFFFFFF0)),
        ],
    )
    def test_wrong_directory(self, at: int, value: bytes) -> None:
        data = bytearray(zipped({"a.tar": bytes(range(256)) * 40}))
        start = data.rfind(b"PK\x01\x02")
        data[start + at : start + at + len(value)] = value
        assert code_of(lambda: read(bytes(data))) in ("ARCHIVE_INVALID", "ARCHIVE_REFUSED")

    def test_unsupported_methods(self) -> None:
        assert code_of(lambda: read(zipped({"a": b"one" * 100}, zipfile.ZIP_BZIP2))) == "ARCHIVE_REFUSED"

    def test_encrypted(self) -> None:
        data = bytearray(zipped({"a": b"one"}))
        data[data.rfind(b"PK\x01\x02") + 8] |= 1
        assert code_of(lambda: read(bytes(data))) == "ARCHIVE_REFUSED"

    def test_bomb_takes_neither_memory_nor_time(self) -> None:
        data = zipped({"a.tar": bytes(1 << 26)})
        tracemalloc.start()
        assert code_of(lambda: read(data, replace(SMALL, size=1 << 40))) == "ARCHIVE_REFUSED"
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()

    def test_bomb_with_small_sizes_in_the_directory(self) -> None:
        data = bytearray(zipped({"a.tar": bytes(1 << 26)}))
        start = data.rfind(b"PK\x01\x02")
        data[start + 24 : start + 28] = struct.pack("<L", 1000)
        local = data.find(b"PK\x03\x04")
        data[local + 22 : local + 26] = struct.pack("<L", 1000)
        assert code_of(lambda: read(bytes(data), replace(SMALL, size=1 << 40))) == "ARCHIVE_INVALID"

    def test_too_many_members(self) -> None:
        assert code_of(lambda: read(zipped({str(n): b"" for n in range(60)}))) == "ARCHIVE_REFUSED"

    @given(data=st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        assert code_of(lambda: read(data)) == "ARCHIVE_INVALID"

    @given(at=st.integers(0, 10**6), value=st.integers(0, 255))
    @settings(max_examples=300)
    def test_any_changed_byte_is_detected_or_harmless(self, at: int, value: int) -> None:
        data = bytearray(zipped({"a.tar": b"content " * 20}))
        data[at % len(data)] = value
        found, code = result_of(lambda: list(read(bytes(data)).values()))
        assert found in ([b"content " * 20], []) if not code else code in ("ARCHIVE_INVALID", "ARCHIVE_REFUSED")


def members(data: bytes, limits: ArchiveLimits = SMALL) -> dict[str, bytes]:
    archive = TarReader([data], "archive", limits)
    return {member.name: b"".join(archive.content()) or member.link.encode() for member in archive}


class TestTar:
    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_forms(self, form: int) -> None:
        name = "a/" * 60 + "name" if form == tarfile.USTAR_FORMAT else "ä/" * 200 + "name"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            info = tarfile.TarInfo(name)
            info.size = 1000
            archive.addfile(info, io.BytesIO(b"x" * 1000))
            info = saved.link("other")
            info.name = "b/link"
            archive.addfile(info)
        assert members(buffer.getvalue()) == {name: b"x" * 1000, "b/link": b"b/other"}

    @given(sizes=st.lists(st.integers(0, 2000), max_size=8), chunk=st.integers(1, 3000))
    def test_any_sizes_in_any_chunks(self, sizes: list[int], chunk: int) -> None:
        files = {f"{number}": bytes([number]) * size for number, size in enumerate(sizes)}
        data = saved.tar(files.items())
        archive = TarReader((data[at : at + chunk] for at in range(0, len(data), chunk)), "archive")
        assert {member.name: b"".join(archive.content()) for member in archive} == files

    @pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "a/../b", "a\\b"])
    def test_names_outside_the_archive(self, name: str) -> None:
        assert code_of(lambda: members(saved.tar([(name, b"x")]))) == "ARCHIVE_REFUSED"

    @pytest.mark.parametrize("target", ["../../a", "/etc/passwd", "../.."])
    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
    def test_links_outside_the_archive(self, target: str, kind: bytes) -> None:
        assert code_of(lambda: members(saved.tar([("a/b", saved.link(target, kind))]))) == "ARCHIVE_REFUSED"

    @pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])
    def test_special_files(self, kind: bytes) -> None:
        assert code_of(lambda: members(saved.tar([("a", saved.link("", kind))]))) == "ARCHIVE_REFUSED"

    @pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000000001\0", b"9" * 11 + b"\0"])
    def test_invalid_sizes(self, size: bytes) -> None:
        """One of them is negative, which makes Python's tarfile loop forever."""
        data = bytearray(saved.tar([("a", b"x")]))
        data[124:136] = size
        data[148:156] = b"%06o\0 " % (sum(data[:148]) + 256 + sum(data[156:512]))
        assert code_of(lambda: members(bytes(data))) in ("ARCHIVE_INVALID", "ARCHIVE_REFUSED")

    @pytest.mark.parametrize("record", [b"20 size=-1\n", b"12 size=x1y\n", b"999 size=1\n", b"x", b"5 a=b", b"0 \n"])
    def test_invalid_pax_headers(self, record: bytes) -> None:
        info = tarfile.TarInfo("pax")
        info.type = tarfile.XHDTYPE
        info.size = len(record)
        header = info.tobuf(tarfile.USTAR_FORMAT)
        data = header + record.ljust(512, b"\0") + saved.tar([("a", b"x")])
        assert code_of(lambda: members(data)) == "ARCHIVE_INVALID"

    def test_large_header_takes_bounded_memory(self) -> None:
        info = tarfile.TarInfo("././@LongLink")
        info.type = tarfile.GNUTYPE_LONGNAME
        info.size = 1 << 33
        assert (
            code_of(lambda: members(info.tobuf(tarfile.GNU_FORMAT), replace(SMALL, size=1 << 40))) == "ARCHIVE_REFUSED"
        )

    def test_number_of_members_is_limited(self) -> None:
        one = tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT)
        read_ = 0

        def chunks() -> Iterator[bytes]:
            nonlocal read_
            for _ in range(10_000_000):
                read_ += 1
                yield one

        assert code_of(lambda: [member.name for member in TarReader(chunks(), "archive")]) == "ARCHIVE_REFUSED"
        assert read_ <= 20_002

    @pytest.mark.parametrize("cut", [1, 511, 512, 1024, 1025, 3000])
    def test_truncated(self, cut: int) -> None:
        data = saved.tar([("a", b"x" * 3000)])
        data = data[: data.rstrip(b"\0").__len__() // 512 * 512 + 512]
        assert code_of(lambda: members(data[:-cut])) == "ARCHIVE_INVALID"

    @given(data=st.binary(min_size=1, max_size=2000))
    def test_any_bytes(self, data: bytes) -> None:
        _, code = result_of(lambda: members(data))
        assert not any(data[:512]) if not code else code in ("ARCHIVE_INVALID", "ARCHIVE_REFUSED")


class TestUnpacking:
    def test_truncated_gzip(self) -> None:
        data = gzip.compress(b"content " * 10_000)
        for cut in (1, 4, 8, 9, len(data) // 2):
            assert code_of(lambda cut=cut: list(decompressed([data[:-cut]], "it"))) == "ARCHIVE_INVALID"  # type: ignore[misc]

    def test_gzip_with_a_wrong_checksum_or_trailing_data(self) -> None:
        data = bytearray(gzip.compress(b"content " * 10_000))
        assert code_of(lambda: list(decompressed([bytes(data) + b"more"], "it"))) == "ARCHIVE_INVALID"
        data[-6] ^= 1
        assert code_of(lambda: list(decompressed([bytes(data)], "it"))) == "ARCHIVE_INVALID"

    def test_damaged_zstd(self) -> None:
        data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(bytes(range(256)) * 100))
        data[-1] ^= 255
        assert code_of(lambda: list(decompressed([bytes(data)], "it"))) == "ARCHIVE_INVALID"

    @pytest.mark.parametrize("packed", [gzip.compress(bytes(1 << 28)), zstandard.compress(bytes(1 << 28))])
    def test_bombs(self, packed: bytes) -> None:
        tracemalloc.start()
        assert code_of(lambda: [None for _ in decompressed([packed], "it", SMALL)]) == "ARCHIVE_REFUSED"
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()

    def test_chunk_reader_reads_sizes(self) -> None:
        feed = ChunkReader([b"abc", b"", b"defgh"], "cut")
        assert (feed.peek(4), feed.read_exactly(2), bytes(feed.read_some(2)), feed.read_exactly(3), feed.at) == (
            b"abcd",
            b"ab",
            b"cd",
            b"efg",
            7,
        )
        feed.skip(1)
        assert not feed.read_some(1)
        assert code_of(lambda: feed.read_exactly(1)) == "ARCHIVE_INVALID"


def broken(change: Callable[[dict[str, bytes]], object]) -> bytes:
    """Return a saved image whose members are changed."""
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(saved.until_24(IMAGE))) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                files[member.name] = content.read()
    change(files)
    return saved.tar(files.items())


def _edit(name: str, text: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda files: files.update({name: text})


CONFIG = f"{IMAGE.id}.json"
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (saved.tar([]), "ARCHIVE_INVALID"),
    "no manifest": (broken(lambda f: (f.pop("manifest.json"), f.pop("repositories"))), "ARCHIVE_INVALID"),
    "a manifest that is no JSON": (broken(_edit("manifest.json", b"[{")), "ARCHIVE_INVALID"),
    "a manifest of another form": (broken(_edit("manifest.json", b'[{"Config": 1}]')), "ARCHIVE_INVALID"),
    "a config of another content": (broken(_edit(CONFIG, IMAGE.config + b" ")), "ARCHIVE_INVALID"),
    "no config": (broken(lambda f: f.pop(CONFIG)), "ARCHIVE_INVALID"),
    "two manifests": (
        saved.tar([("manifest.json", b"[]"), ("./manifest.json", b"[]")]),
        "ARCHIVE_REFUSED",
    ),
    "a layer that is none": (
        broken(lambda f: f.update({n: b"text" for n in f if n.endswith("layer.tar")})),
        "ARCHIVE_INVALID",
    ),
    "a layer of another content": (
        saved.until_24(IMAGE).replace(b"oneone", b"ONEone", 1),
        "ARCHIVE_INVALID",
    ),
    "a blob of another content": (saved.since_25(IMAGE).replace(b"oneone", b"ONEone", 1), "ARCHIVE_INVALID"),
    "fewer layers than the config says": (
        saved.until_24(saved.Image(IMAGE.layers)).replace(
            json.dumps(IMAGE.diff_ids)[1:-1].encode(), json.dumps(IMAGE.diff_ids[:1] * 2)[1:-1].encode()
        ),
        "ARCHIVE_INVALID",
    ),
    "another image": (
        saved.since_25(saved.Image(IMAGE.layers, "a:1"), saved.Image(IMAGE.layers[:1], "b:1")),
        "IMAGE_ABSENT",
    ),
    "an index without its images": (
        saved.layout({}, [{"mediaType": saved.OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 1}]),
        "ARCHIVE_INVALID",
    ),
    "a list of before 1.10 that is no JSON": (saved.tar([("repositories", b"{")]), "ARCHIVE_INVALID"),
    "a layer of before 1.10 that is no JSON": (
        saved.tar([("repositories", b'{"a":{"1":"x"}}'), ("x/json", b'"i":'), ("x/layer.tar", b"")]),
        "ARCHIVE_INVALID",
    ),
    "an index with a digest that is none": (saved.layout({}, [{"digest": "../../etc/passwd"}]), "ARCHIVE_INVALID"),
}


@pytest.mark.parametrize("what", BAD)
def test_invalid_image_is_refused_and_leaves_no_manifest(pushing: Pushing, what: str) -> None:
    archive, code = BAD[what]
    assert code_of(lambda: pushing.attempt(gzip.compress(archive))) == code
    assert code_of(lambda: examine([archive], "archive", WANTED)) == code
    assert not [asked for asked in pushing.server.requests if asked.method == "PUT" and "/manifests/" in asked.target]


class TestExamine:
    """The fingerprint of an image is known from its archive."""

    @pytest.mark.parametrize("write", [saved.until_24, saved.since_25])
    def test_image_is_identified_by_its_config(self, write: Callable[[saved.Image], bytes]) -> None:
        found = examine([write(IMAGE)], "archive", WANTED)
        assert (found.fingerprint, found.layers) == (f"sha256:{IMAGE.id}", tuple(IMAGE.diff_ids))
        assert "app:v1" in found.names

    def test_image_of_several_platforms_is_identified_by_its_index(self, pushing: Pushing) -> None:
        archive = saved.containerd([IMAGE, saved.Image([saved.layer({"c": b"three"})], architecture="arm64")])
        written = pushing.image(archive)
        assert written.manifest.is_index
        assert examine([archive], "archive", WANTED).fingerprint == written.manifest.digest

    @pytest.mark.parametrize("behind", [b"", b"behind the compressed layer"])
    def test_compressed_layer_has_the_digest_in_its_name(self, behind: bytes) -> None:
        """A blob of other content is refused, even if only its compressed form differs."""
        content = IMAGE.layers[0]
        blob, other = gzip.compress(content, 9, mtime=0), gzip.compress(content, 1, mtime=1)
        config = json.dumps({"rootfs": {"type": "layers", "diff_ids": IMAGE.diff_ids[:1]}}).encode()
        layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": f"sha256:{saved.sha(blob)}"}
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": saved.OCI_MANIFEST,
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": f"sha256:{saved.sha(config)}",
                    "size": len(config),
                },
                "layers": [layer | {"size": len(blob)}],
            }
        ).encode()
        names = {"org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": "app:v1"}
        entry = {
            "mediaType": saved.OCI_MANIFEST,
            "digest": f"sha256:{saved.sha(manifest)}",
            "size": len(manifest),
            "annotations": names,
        }
        blobs = {saved.sha(each): each for each in (config, manifest)}
        whole = saved.layout(blobs | {saved.sha(blob): blob}, [entry])
        assert examine([whole], "archive", WANTED).layers == (IMAGE.diff_ids[0],)
        wrong = saved.layout(blobs | {saved.sha(blob): other + behind}, [entry])
        assert code_of(lambda: examine([wrong], "archive", WANTED)) == "ARCHIVE_INVALID"


def test_bomb_within_an_image(pushing: Pushing) -> None:
    archive = gzip.compress(saved.since_25(saved.Image([saved.layer({"zeros": bytes(1 << 23)})])))
    assert code_of(lambda: pushing.attempt(archive, limits=SMALL)) == "ARCHIVE_REFUSED"


@given(at=st.integers(0, 10**6), value=st.integers(0, 255))
@settings(max_examples=60)
def test_any_changed_byte_in_an_image(at: int, value: int) -> None:
    data = bytearray(saved.since_25(IMAGE))
    data[at % len(data)] = value
    found, code = result_of(lambda: examine([bytes(data)], "archive", WANTED).fingerprint)
    codes = ("ARCHIVE_INVALID", "ARCHIVE_REFUSED", "IMAGE_ABSENT", "MANIFEST_INVALID")
    assert found == f"sha256:{IMAGE.id}" if not code else code in codes
