from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from demo import layers
from demo.catalog import REPOSITORIES, shared_layer
from demo.layers import Files, Layer, layer
from syncline.clients.registry.reference import digest_of

FILES: Files = {
    PurePosixPath("usr/bin/tool"): b"#!/bin/sh\n",
    PurePosixPath("etc/name"): b"a name\n",
    PurePosixPath("usr/lib/libc.so.6"): b"\x7fELF",
}


def entries(made_layer: Layer) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(made_layer.data))) as archive:
        return archive.getmembers()


def test_the_digest_is_of_the_compressed_bytes_and_the_diff_id_of_the_tar() -> None:
    made_layer = layer("test", FILES)
    assert made_layer.digest == digest_of(made_layer.data)
    assert made_layer.diff_id == digest_of(gzip.decompress(made_layer.data))


def test_layers_do_not_depend_on_the_order_and_times_of_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"a name\n")
    second.write_bytes(b"a name\n")
    second.chmod(0o755)
    reordered = {path: FILES[path] for path in reversed(list(FILES))} | {PurePosixPath("etc/name"): second}
    assert layer("test", {**FILES, PurePosixPath("etc/name"): first}) == layer("test", reordered)


def test_folders_precede_their_files_and_everything_belongs_to_root() -> None:
    found = entries(layer("test", FILES))
    names = [entry.name for entry in found]
    assert names[:4] == ["etc", "usr", "usr/bin", "usr/lib"]
    assert sorted(names[4:]) == ["etc/name", "usr/bin/tool", "usr/lib/libc.so.6"]
    assert {(entry.uid, entry.gid, entry.mtime) for entry in found} == {(0, 0, 0)}


def test_programs_and_libraries_are_executable() -> None:
    modes = {entry.name: entry.mode for entry in entries(layer("test", FILES)) if entry.isfile()}
    assert modes == {"usr/bin/tool": 0o755, "etc/name": 0o644, "usr/lib/libc.so.6": 0o755}


def test_packages_contain_no_compiled_files() -> None:
    names = [PurePosixPath(entry.name) for entry in entries(layers.packages("markupsafe"))]
    assert layers.LIBRARY / "site-packages" / "markupsafe" / "__init__.py" in names
    assert any(name.name == "METADATA" for name in names)
    assert not [name for name in names if name.suffix == ".pyc" or name.name == "__pycache__"]


def test_the_interpreter_layer_has_the_program_and_its_libraries() -> None:
    names = {PurePosixPath(entry.name).name for entry in entries(layers.interpreter())}
    assert {"python3", "passwd", "os-release"} <= names
    assert any(name.startswith("libc.so") for name in names)
    assert any(name.startswith("ld-") for name in names)


def test_every_layer_of_the_catalog_can_be_made_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_LEVEL", 0)  # compression takes most of the time
    shared_layer.cache_clear()
    try:
        found = {name: shared_layer(name) for name in {name for each in REPOSITORIES for name in each.layers}}
    finally:
        shared_layer.cache_clear()
    assert all(entries(each) for each in found.values())
    assert len({each.digest for each in found.values()}) == len(found)
