"""Damaged and hostile archives and layouts: one clear error with a code for each, and never anything else."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.clients.layout import tar
from syncline.clients.layout.docker import DockerArchive
from syncline.clients.layout.folder import LayoutFolder
from syncline.clients.layout.reader import Layout, blob_chunks
from syncline.clients.layout.tar import TarArchive, TarWriter
from syncline.clients.registry.manifest import Descriptor
from syncline.clients.registry.reference import digest_of
from syncline.errors import CodeName, SynclineError
from tests.standins import saved

LAYER = b"layer" * 3000
CONFIG = b'{"rootfs": {"type": "layers", "diff_ids": ["sha256:' + saved.sha(LAYER).encode() + b'"]}}'
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": saved.OCI_MANIFEST,
        "config": {"mediaType": saved.OCI_CONFIG, "digest": digest_of(CONFIG), "size": len(CONFIG)},
        "layers": [{"mediaType": saved.OCI_LAYER, "digest": digest_of(LAYER), "size": len(LAYER)}],
    }
).encode()
ENTRY = {"mediaType": saved.OCI_MANIFEST, "digest": digest_of(MANIFEST), "size": len(MANIFEST)}
MARKER = b'{"imageLayoutVersion": "1.0.0"}'


def blob(content: bytes) -> tuple[str, bytes]:
    return f"blobs/sha256/{saved.sha(content)}", content


def index(*entries: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": list(entries)}).encode()


def named(name: str, entry: dict[str, Any] = ENTRY) -> dict[str, Any]:
    return {**entry, "annotations": {"org.opencontainers.image.ref.name": name}}


GOOD: list[saved.Entry] = [
    ("oci-layout", MARKER),
    ("index.json", index(named("v1"))),
    blob(MANIFEST),
    blob(CONFIG),
    blob(LAYER),
]
SAVED: list[saved.Entry] = [
    (f"{saved.sha(CONFIG)}.json", CONFIG),
    ("one/layer.tar", LAYER),
    (
        "manifest.json",
        json.dumps(
            [{"Config": f"{saved.sha(CONFIG)}.json", "RepoTags": ["app:v1"], "Layers": ["one/layer.tar"]}]
        ).encode(),
    ),
]


def without(entries: list[saved.Entry], name: str) -> list[saved.Entry]:
    return [entry for entry in entries if not entry[0].endswith(name)]


def changed(entries: list[saved.Entry], name: str, content: bytes | tarfile.TarInfo) -> list[saved.Entry]:
    return [(path, content if path.endswith(name) else own) for path, own in entries]


def member(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type = kind
    return info


def read_all(path: Path, *, docker: bool) -> None:
    """Read everything of an archive, as a copy does."""
    reader = DockerArchive(path, "archive") if docker else Layout.at(path, "archive")
    for entry in reader.entries:
        manifest = reader.manifest("", entry.descriptor.digest)
        for part in manifest.blobs():
            for _ in blob_chunks(reader, "", part):
                pass


def code_of(path: Path, *, docker: bool = False) -> CodeName:
    with pytest.raises(SynclineError) as caught:
        read_all(path, docker=docker)
    return caught.value.code.name


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_good_archives_are_read(tmp_path: Path) -> None:
    read_all(written(tmp_path / "a.tar", saved.tar(GOOD)), docker=False)
    read_all(written(tmp_path / "b.tar", saved.tar(SAVED)), docker=True)
    read_all(written(tmp_path / "c.tar", saved.tar([("./blobs", saved.folder()), *GOOD])), docker=False)


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([("../x", b""), *GOOD], "ARCHIVE_REFUSED"),
        ([("/etc/x", b""), *GOOD], "ARCHIVE_REFUSED"),
        ([("a/../../x", b""), *GOOD], "ARCHIVE_REFUSED"),
        ([("link", saved.link("/etc/passwd")), *GOOD], "ARCHIVE_REFUSED"),
        ([("link", saved.link("../outside")), *GOOD], "ARCHIVE_REFUSED"),
        ([("link", saved.link("oci-layout", tarfile.LNKTYPE)), *GOOD], "ARCHIVE_REFUSED"),
        ([("device", member(tarfile.CHRTYPE)), *GOOD], "ARCHIVE_REFUSED"),
        ([("device", member(tarfile.BLKTYPE)), *GOOD], "ARCHIVE_REFUSED"),
        ([("pipe", member(tarfile.FIFOTYPE)), *GOOD], "ARCHIVE_REFUSED"),
        ([("sparse", member(tarfile.GNUTYPE_SPARSE)), *GOOD], "ARCHIVE_REFUSED"),
        ([*GOOD, GOOD[1]], "ARCHIVE_INVALID"),
        ([*GOOD, ("./index.json", index())], "ARCHIVE_INVALID"),
        (without(GOOD, "oci-layout"), "ARCHIVE_INVALID"),
        (without(GOOD, "index.json"), "ARCHIVE_INVALID"),
        (without(GOOD, saved.sha(MANIFEST)), "NOT_FOUND"),
        (without(GOOD, saved.sha(CONFIG)), "NOT_FOUND"),
        (without(GOOD, saved.sha(LAYER)), "NOT_FOUND"),
        (changed(GOOD, saved.sha(LAYER), LAYER[:-1] + b"x"), "DIGEST_MISMATCH"),
        (changed(GOOD, saved.sha(LAYER), LAYER[:-1]), "SIZE_DIFFERS"),
        (changed(GOOD, saved.sha(LAYER), LAYER + b"x"), "SIZE_DIFFERS"),
        (changed(GOOD, saved.sha(MANIFEST), MANIFEST + b" "), "DIGEST_MISMATCH"),
        (changed(GOOD, "oci-layout", b'{"imageLayoutVersion": "2.0.0"}'), "ARCHIVE_INVALID"),
        (changed(GOOD, "oci-layout", b"[]"), "ARCHIVE_INVALID"),
        (changed(GOOD, "index.json", b"{"), "ARCHIVE_INVALID"),
        (changed(GOOD, "index.json", b"[" * 100_000), "ARCHIVE_INVALID"),
        (changed(GOOD, "index.json", b'{"manifests": {}}'), "ARCHIVE_INVALID"),
        (changed(GOOD, "index.json", index(None)), "ARCHIVE_INVALID"),
        (changed(GOOD, "index.json", index({**ENTRY, "digest": "sha256:../../x"})), "ARCHIVE_INVALID"),
        (changed(GOOD, "index.json", index({**ENTRY, "size": "1"})), "ARCHIVE_INVALID"),
        (
            changed(GOOD, "index.json", index(named("v1"), named("v1", {**ENTRY, "digest": digest_of(CONFIG)}))),
            "ARCHIVE_INVALID",
        ),
    ],
)
def test_a_bad_layout_is_refused(tmp_path: Path, entries: list[saved.Entry], code: CodeName) -> None:
    assert code_of(written(tmp_path / "a.tar", saved.tar(entries))) == code


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        (without(SAVED, "manifest.json"), "ARCHIVE_INVALID"),
        (without(SAVED, ".json"), "ARCHIVE_INVALID"),
        (without(SAVED, "layer.tar"), "ARCHIVE_INVALID"),
        (changed(SAVED, "layer.tar", LAYER + b"x"), "DIGEST_MISMATCH"),
        (changed(SAVED, "layer.tar", saved.link("../../x")), "ARCHIVE_REFUSED"),
        (changed(SAVED, "layer.tar", saved.link("layer.tar")), "ARCHIVE_REFUSED"),
        (changed(SAVED, "layer.tar", saved.link("absent")), "ARCHIVE_INVALID"),
        (changed(SAVED, f"{saved.sha(CONFIG)}.json", CONFIG + b" "), "ARCHIVE_INVALID"),
        (changed(SAVED, "manifest.json", b"{}"), "ARCHIVE_INVALID"),
        (changed(SAVED, "manifest.json", b"[]"), "ARCHIVE_INVALID"),
        (changed(SAVED, "manifest.json", b"[{}]"), "ARCHIVE_INVALID"),
        (changed(SAVED, "manifest.json", b'[{"Config": 1, "Layers": 2}]'), "ARCHIVE_INVALID"),
    ],
)
def test_a_bad_docker_archive_is_refused(tmp_path: Path, entries: list[saved.Entry], code: CodeName) -> None:
    assert code_of(written(tmp_path / "a.tar", saved.tar(entries)), docker=True) == code


def test_a_truncated_archive_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = saved.tar(GOOD)
    end = len(whole.rstrip(b"\0"))
    for size in range(0, end, 700):
        assert code_of(written(tmp_path / "a.tar", whole[:size])) in {"ARCHIVE_INVALID", "NOT_FOUND"}, size


@pytest.mark.parametrize("start", [b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\x00"])
def test_a_compressed_archive_is_named_as_such(tmp_path: Path, start: bytes) -> None:
    with pytest.raises(SynclineError, match="compressed with"):
        TarArchive.read(written(tmp_path / "a.tar", start + bytes(600)))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert code_of(tmp_path / "pipe") == "FILE_REFUSED"
    assert code_of(Path("/dev/zero")) == "FILE_REFUSED"
    assert code_of(tmp_path / "absent") == "SOURCE_ABSENT"
    assert code_of(written(tmp_path / "text", b"hello, this is a text" * 100)) == "ARCHIVE_INVALID"
    assert code_of(written(tmp_path / "empty", b"")) == "ARCHIVE_INVALID"


def header(kind: bytes, size: int) -> bytes:
    info = member(kind)
    info.name, info.size = "x", size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_an_endless_name_is_not_read(tmp_path: Path, kind: bytes) -> None:
    path = written(tmp_path / "a.tar", header(kind, 1 << 40))
    os.truncate(path, 1 << 41)  # a sparse file
    assert code_of(path) == "ARCHIVE_REFUSED"


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_member_of_a_negative_size_is_refused(tmp_path: Path, kind: bytes) -> None:
    """Its end is before its beginning, so that reading would go round in a circle."""
    assert code_of(written(tmp_path / "a.tar", header(kind, -512) + saved.tar(GOOD))) == "ARCHIVE_INVALID"


@pytest.mark.parametrize("size", ["²", "9" * 5000, "-1", "", "1e3"])
def test_a_pax_size_that_is_no_number_is_refused(tmp_path: Path, size: str) -> None:
    record = f" size={size}\n".encode()
    length = next(n for n in range(len(record), len(record) + 9) if len(str(n)) + len(record) == n)
    content = str(length).encode() + record
    member_ = header(tarfile.XHDTYPE, len(content)) + content + bytes(-len(content) % 512)
    assert code_of(written(tmp_path / "a.tar", member_ + saved.tar(GOOD))) == "ARCHIVE_INVALID"


def test_an_archive_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MOST_MEMBERS", 50)
    many: list[saved.Entry] = [(f"f{number}", b"") for number in range(60)]
    assert code_of(written(tmp_path / "a.tar", saved.tar(many))) == "ARCHIVE_REFUSED"


def test_a_large_index_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", b"")
    with path.open("wb") as file:
        writer = TarWriter(file)
        writer.add_bytes("oci-layout", MARKER)
        file.write(tarfile_header("index.json", 1 << 33))
    os.truncate(path, 1 << 34)
    assert code_of(path) == "ARCHIVE_INVALID"


def tarfile_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_8_gib_and_long_names_are_found(tmp_path: Path, form: Literal[1, 2]) -> None:
    name, size = "n" * 300, (1 << 33) + 5
    info = tarfile.TarInfo(name)
    info.size = size
    path = written(tmp_path / "a.tar", info.tobuf(form))
    end = path.stat().st_size + size + 507
    os.truncate(path, end)
    with path.open("ab") as file:
        file.write(saved.tar([("last", b"content")]))
    archive = TarArchive.read(path)
    assert archive.members[name].size == size
    assert archive.content("last", 10) == b"content"


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda layer: layer.unlink(), "NOT_FOUND"),
        (lambda layer: layer.write_bytes(b"short"), "SIZE_DIFFERS"),
        (lambda layer: layer.write_bytes(b"x" * len(LAYER)), "DIGEST_MISMATCH"),
        (lambda layer: (layer.unlink(), layer.symlink_to("/etc/hostname")), "LINK_REFUSED"),
        (lambda layer: (layer.unlink(), layer.mkdir()), "FILE_REFUSED"),
        (pipe, "FILE_REFUSED"),
    ],
)
def test_a_bad_folder_is_refused(tmp_path: Path, make: Callable[[Path], object], code: CodeName) -> None:
    for name, content in GOOD:
        assert isinstance(content, bytes)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    read_all(tmp_path, docker=False)
    make(tmp_path / "blobs/sha256" / saved.sha(LAYER))
    assert code_of(tmp_path) == code


def test_a_folder_with_other_files_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(SynclineError, match="no OCI layout"):
        LayoutFolder(tmp_path, "layout")


def test_wrong_bytes_never_become_a_blob(tmp_path: Path) -> None:
    layout = LayoutFolder(tmp_path, "layout")
    for content in (b"wrong", [b"wro", b"ng"]):
        with pytest.raises(SynclineError, match="DIGEST_MISMATCH"):
            layout.begin_upload("").put(digest_of(b"right"), content, 5)
    upload = layout.begin_upload("")
    upload.write([b"wrong"])
    with pytest.raises(SynclineError, match="DIGEST_MISMATCH"):
        upload.finish(digest_of(b"right"))
    layout.flush()
    assert layout.blob_size("", Descriptor(digest_of(b"right"), 5, "")) is None
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["index.json", "oci-layout"]


@settings(max_examples=300)
@given(st.data())
def test_no_damage_leads_to_another_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    docker = data.draw(st.booleans())
    content = bytearray(saved.tar(SAVED if docker else GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.getbasetemp() / "damaged.tar", bytes(content))
    try:
        read_all(path, docker=docker)
    except SynclineError as error:
        assert error.what  # noqa: PT017 - any code, but no other exception


def test_a_written_archive_is_always_the_same() -> None:
    def made() -> bytes:
        file = io.BytesIO()
        writer = TarWriter(file)
        writer.add_bytes("a" * 200, b"content")
        writer.finish()
        return file.getvalue()

    assert made() == made()
    with tarfile.open(fileobj=io.BytesIO(made())) as archive:
        assert archive.getnames() == ["a" * 200]
