"""Archives of every version of Docker as images, and archives that Docker, skopeo and crane read."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline.clients.layout.docker import DockerArchive, NamedImage, write_docker_archive
from syncline.clients.layout.folder import LayoutFolder
from syncline.clients.layout.reader import Layout, LayoutReader, blob_chunks
from syncline.clients.registry.manifest import OCI_INDEX, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from tests.standins import saved

BASE, APP = saved.layer({"base": b"base" * 900}), saved.layer({"app": b"app"})
IMAGE = saved.Image([BASE, APP, BASE], "app:v1")


def contents(reader: LayoutReader, repository: str, tag: str) -> list[bytes]:
    """Return the config and the layers of an image, whose digests are checked."""
    manifest = reader.manifest(repository, tag)
    return [b"".join(blob_chunks(reader, repository, part)) for part in (manifest.blobs()[0], *manifest.layers())]


def read(path: Path, content: bytes) -> DockerArchive:
    path.write_bytes(content)
    return DockerArchive(path, "archive")


@pytest.mark.parametrize("make", [saved.until_24, saved.since_25])
def test_images_of_docker_are_read(tmp_path: Path, make: Callable[..., bytes]) -> None:
    other = saved.Image([BASE], "team/other:v2")
    archive = read(tmp_path / "a.tar", make(IMAGE, other))
    assert contents(archive, "app", "v1") == [IMAGE.config, *IMAGE.layers]
    assert contents(archive, "team/other", "v2") == [other.config, BASE]


def test_an_image_keeps_the_manifest_of_its_archive(tmp_path: Path) -> None:
    content = saved.since_25(IMAGE)
    digest = read(tmp_path / "a.tar", content).manifest_digest("app", "v1")
    layout = Layout.at(tmp_path / "a.tar", "layout")
    assert digest == layout.entries[0].descriptor.digest
    name = layout.resolve("app:v1")
    assert name is not None
    assert str(name) == "docker.io/library/app:v1"
    assert layout.resolve("v1") == layout.resolve(None) == name


def test_an_image_in_an_index_of_containerd_keeps_its_manifest(tmp_path: Path) -> None:
    archive = read(
        tmp_path / "a.tar", saved.containerd([IMAGE, saved.Image([APP], "app:v1", "arm64")], absent=["arm64"])
    )
    assert contents(archive, "app", "v1") == [IMAGE.config, *(gzip.compress(each, 6, mtime=0) for each in IMAGE.layers)]
    [entry] = Layout.at(tmp_path / "a.tar", "layout").entries
    index = Layout.at(tmp_path / "a.tar", "layout").manifest("", entry.descriptor.digest)
    assert archive.manifest_digest("app", "v1") in [child.digest for child in index.children()]


def test_repeated_layers_that_a_manifest_leaves_out_are_kept(tmp_path: Path) -> None:
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": saved.OCI_MANIFEST,
            "config": {"mediaType": saved.OCI_CONFIG, "digest": digest_of(IMAGE.config), "size": len(IMAGE.config)},
            "layers": [
                {"mediaType": saved.OCI_LAYER, "digest": digest_of(each), "size": len(each)} for each in (BASE, APP)
            ],
        }
    ).encode()
    blobs = {saved.sha(each): each for each in (BASE, APP, IMAGE.config, manifest)}
    described = [
        {
            "Config": f"blobs/sha256/{IMAGE.id}",
            "RepoTags": ["app:v1"],
            "Layers": [f"blobs/sha256/{saved.sha(each)}" for each in IMAGE.layers],
        }
    ]
    entry = {"mediaType": saved.OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
    content = saved.layout(blobs, [entry], {"manifest.json": json.dumps(described).encode()})
    assert contents(read(tmp_path / "a.tar", content), "app", "v1") == [IMAGE.config, *IMAGE.layers]


def test_an_archive_before_docker_1_10_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SynclineError, match="ARCHIVE_INVALID"):
        read(tmp_path / "a.tar", saved.before_1_10(IMAGE))


def test_a_manifest_that_is_made_is_always_the_same(tmp_path: Path) -> None:
    one = read(tmp_path / "a.tar", saved.until_24(IMAGE)).manifest("app", "v1")
    two = read(tmp_path / "b.tar", saved.until_24(IMAGE, saved.Image([APP], "b:v1"))).manifest("app", "v1")
    assert one == two


def test_a_written_archive_has_each_layer_once_and_is_read_again(tmp_path: Path) -> None:
    source = read(tmp_path / "a.tar", saved.until_24(IMAGE))
    manifest = source.manifest("app", "v1")
    file = io.BytesIO()
    write_docker_archive(file, source, "app", [NamedImage("x/y:1", manifest), NamedImage("x/y:2", manifest)])
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as archive:
        assert len(archive.getnames()) == len({BASE, APP, IMAGE.config}) + 1
    back = read(tmp_path / "b.tar", file.getvalue())
    assert contents(back, "x/y", "1") == contents(back, "x/y", "2") == [IMAGE.config, *IMAGE.layers]


def test_an_index_does_not_fit_an_archive_for_docker(tmp_path: Path) -> None:
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    index = NamedImage("app:v1", Manifest(digest_of(body), OCI_INDEX, body))
    with pytest.raises(SynclineError, match="one platform"):
        write_docker_archive(io.BytesIO(), LayoutFolder(tmp_path / "x", "x"), "", [index])


def test_names_of_images_are_found_in_their_short_forms(tmp_path: Path) -> None:
    archive = read(tmp_path / "a.tar", saved.until_24(IMAGE, saved.Image([APP], "docker.io/team/app:v2")))
    assert archive.resolve("team/app:v2") == ("docker.io/team/app", "v2")
    assert archive.resolve("app:v1") == ("app", "v1")
    with pytest.raises(SynclineError, match=r"SOURCE_ABSENT.*it has app:v1"):
        archive.resolve("app:v3")
    with pytest.raises(SynclineError, match="USAGE"):
        archive.resolve(None)
