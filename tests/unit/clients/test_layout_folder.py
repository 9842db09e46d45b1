"""Writing to an OCI layout in a folder: what a killed copy leaves, tags that move, and referrers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from syncline.clients.layout.contents import Name, blob_path
from syncline.clients.layout.folder import UPLOADS, LayoutFolder
from syncline.clients.layout.reader import Layout
from syncline.clients.registry.client import TagTakenError
from syncline.clients.registry.manifest import OCI_MANIFEST, Descriptor, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError

BLOB = b"a layer" * 1000


def image(name: str, subject: Manifest | None = None) -> Manifest:
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "c", "digest": digest_of(b"{}"), "size": 2},
        "layers": [],
        "annotations": {"name": name},
    }
    if subject is not None:
        value["subject"] = {"mediaType": OCI_MANIFEST, "digest": subject.digest, "size": len(subject.body)}
    body = json.dumps(value).encode()
    return Manifest(digest_of(body), OCI_MANIFEST, body)


def test_what_a_killed_copy_leaves_is_continued(tmp_path: Path) -> None:
    killed = LayoutFolder(tmp_path, "layout")
    killed.begin_upload("").put(digest_of(BLOB), BLOB, len(BLOB))
    half = killed.begin_upload("")
    half.write([BLOB[:100]])
    (tmp_path / "blobs/sha256/.syncline-0123456789abcdef").write_bytes(b"part of a blob")
    again = LayoutFolder(tmp_path, "layout")
    assert again.blob_size("", Descriptor(digest_of(BLOB), len(BLOB), "")) == len(BLOB)
    resumed = again.resume_upload("", half.state())
    assert resumed.status() == 100
    resumed.write([BLOB[100:]])
    resumed.finish(digest_of(BLOB))
    again.put_tag("team/app", "v1", image("one"), None)
    again.flush()
    assert not (tmp_path / UPLOADS).exists()
    assert (tmp_path / blob_path(digest_of(BLOB))).read_bytes() == BLOB
    assert Layout.at(tmp_path, "layout").manifest("team/app", "v1") == image("one")


def test_an_upload_that_is_gone_is_lost(tmp_path: Path) -> None:
    folder = LayoutFolder(tmp_path, "layout")
    with pytest.raises(SynclineError, match="UPLOAD_LOST"):
        folder.resume_upload("", {"target": f"{UPLOADS}/0", "offset": 10}).status()


def test_a_tag_is_replaced_only_as_expected(tmp_path: Path) -> None:
    one, two, three = image("one"), image("two"), image("three")
    folder = LayoutFolder(tmp_path, "layout")
    assert folder.put_tag("app", "v1", one, None) is None
    assert folder.put_tag("app", "v1", one, None) is None
    with pytest.raises(TagTakenError):
        folder.put_tag("app", "v1", two, None)
    assert folder.put_tag("app", "v1", two, one) == one.digest
    assert folder.put_tag("app", "v1", three, None, overwrite=True) == two.digest
    folder.flush()
    layout = Layout.at(tmp_path, "layout")
    assert [each.names for each in layout.entries] == [[Name("app", "v1")]]
    assert layout.manifest("app", "v1") == three


def test_referrers_are_listed_once_and_found_again(tmp_path: Path) -> None:
    one = image("one")
    signature = image("signature", one)
    folder = LayoutFolder(tmp_path, "layout")
    folder.put_tag("app", "v1", one, None)
    for _ in range(2):
        assert folder.put_manifest("app", signature.digest, signature)
    folder.flush()
    for reader in (folder, Layout.at(tmp_path, "layout"), LayoutFolder(tmp_path, "layout")):
        assert [each.digest for each in reader.referrers("app", one.digest)] == [signature.digest]
        assert len(reader.entries) == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("v1", Name("", "v1")),
        ("team/app:v1", Name("team/app", "v1")),
        ("localhost:5000/app", Name("", "localhost:5000/app")),
        ("localhost:5000/app:v1", Name("localhost:5000/app", "v1")),
    ],
)
def test_names_in_a_layout_are_tags_or_references(text: str, name: Name) -> None:
    assert Name.parse(text) == name
    assert str(name) == text
