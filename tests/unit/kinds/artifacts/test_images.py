"""Incomplete or contradictory descriptions in archives: the image is pushed completely, or nothing is tagged."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from syncline.errors import SynclineError
from syncline.kinds.artifacts.examine import examine
from syncline.kinds.artifacts.read_archive import WantedImage
from tests.standins import saved
from tests.unit.kinds.artifacts.conftest import Pushing

BASE = saved.layer({"bin/sh": b"a shell " * 300})
TOP = saved.layer({"app": b"the app"})
THIRD = saved.layer({"more": b"something else"})
WANTED = WantedImage("app", "v1")
AMD = saved.Image([BASE, TOP])
ARM = saved.Image([BASE, saved.layer({"app": b"for arm"})], architecture="arm64")

Files = dict[str, bytes]


def edited(archive: bytes, change: Callable[[Files], object]) -> bytes:
    """Return the archive with its files changed, in the same order."""
    files: Files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for member in members:
            content = members.extractfile(member) if member.isfile() else None
            if content is not None:
                files[member.name] = content.read()
    change(files)
    return saved.tar(files.items())


def blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def top(files: Files) -> Any:
    """Return the manifest or index of the first entry of `index.json`."""
    return json.loads(files[blob(json.loads(files["index.json"])["manifests"][0]["digest"])])


def child(files: Files, number: int) -> Any:
    """Return a manifest below that index; images and their attestations alternate."""
    return json.loads(files[blob(top(files)["manifests"][number]["digest"])])


def without(archive: bytes, path: Callable[[Files], str]) -> bytes:
    def change(files: Files) -> None:
        assert files.pop(path(files))

    return edited(archive, change)


def second_layer(files: Files) -> str:
    return blob(child(files, 0)["layers"][1]["digest"])


FLAT = saved.since_25(AMD, saved.Image([THIRD], "other:v1"))
INCOMPLETE: dict[str, bytes] = {
    "a layer of one platform": without(saved.containerd([AMD, ARM]), second_layer),
    "all its layers": without(
        without(saved.containerd([AMD]), second_layer), lambda files: blob(child(files, 0)["layers"][0]["digest"])
    ),
    "a layer beside its attestation": without(saved.containerd([AMD]), second_layer),
    "the config of one platform": without(
        saved.containerd([AMD, ARM]), lambda files: blob(child(files, 0)["config"]["digest"])
    ),
    "the manifest beside its attestation": without(
        saved.containerd([AMD]), lambda files: blob(top(files)["manifests"][0]["digest"])
    ),
    "an attestation's statement": without(
        saved.containerd([AMD]), lambda files: blob(child(files, 1)["layers"][0]["digest"])
    ),
    "a layer of one of two images": without(FLAT, lambda _: f"blobs/sha256/{saved.sha(TOP)}"),
    "the manifest and the config of one of two images": without(
        without(FLAT, lambda files: blob(top(files)["config"]["digest"])),
        lambda files: blob(json.loads(files["index.json"])["manifests"][0]["digest"]),
    ),
    "the config of one of two images": without(FLAT, lambda _: f"blobs/sha256/{AMD.id}"),
    "a layer of one of two images of Docker 24": without(
        saved.until_24(AMD, saved.Image([THIRD], "other:v1")),
        lambda files: next(name for name, content in files.items() if content == TOP),
    ),
}


@pytest.mark.parametrize("what", INCOMPLETE)
def test_incomplete_image_is_refused(pushing: Pushing, what: str) -> None:
    """It is not replaced by another image or by the rest of its index, and the error names the missing part."""
    archive = INCOMPLETE[what]
    with pytest.raises(SynclineError) as error:
        pushing.attempt(archive)
    assert error.value.code.name == "ARCHIVE_INVALID"
    assert "does not have" in error.value.what
    with pytest.raises(SynclineError) as error:
        examine([archive], "archive", WANTED)
    assert error.value.code.name == "ARCHIVE_INVALID"
    assert not pushing.server.asked("PUT", "/manifests/")


@pytest.mark.parametrize("what", ["a layer of one of two images", "a layer of one of two images of Docker 24"])
def test_other_image_of_such_an_archive_is_pushed(pushing: Pushing, what: str) -> None:
    written = pushing.image(INCOMPLETE[what], WantedImage("other", "v1"))
    assert written.fingerprint == f"sha256:{saved.Image([THIRD]).id}"


def test_a_platform_without_config_and_layers_is_left_out(pushing: Pushing) -> None:
    """Containerd writes the manifest without its config and layers."""
    archive = saved.containerd([AMD, ARM])

    def strip(files: Files) -> None:
        for number in (2, 3):
            manifest, kept = child(files, number), child(files, 0)
            for part in (manifest["config"], *manifest["layers"]):
                if part not in kept["layers"]:
                    files.pop(blob(part["digest"]))

    written = pushing.image(edited(archive, strip))
    assert written.fingerprint == f"sha256:{AMD.id}"


def _layers_of_oci(order: Callable[[list[Any]], list[Any]]) -> Callable[[Files], None]:
    """Change the layers in the manifest that `index.json` names."""

    def change(files: Files) -> None:
        index, manifest = json.loads(files["index.json"]), top(files)
        files.pop(blob(index["manifests"][0]["digest"]))
        manifest["layers"] = order(manifest["layers"])
        body = json.dumps(manifest).encode()
        index["manifests"][0] |= {"digest": f"sha256:{saved.sha(body)}", "size": len(body)}
        files[f"blobs/sha256/{saved.sha(body)}"] = body
        files["index.json"] = json.dumps(index).encode()

    return change


def _layers_of_saved(order: Callable[[list[Any]], list[Any]]) -> Callable[[Files], None]:
    """Change the layers in `manifest.json`."""

    def change(files: Files) -> None:
        (entry,) = json.loads(files["manifest.json"])
        files["manifest.json"] = json.dumps([{**entry, "Layers": order(entry["Layers"])}]).encode()

    return change


ORDERS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "without doubled layers, as Docker 25.0.0": lambda layers: [
        layer for at, layer in enumerate(layers) if layer not in layers[:at]
    ],
    "backwards": lambda layers: layers[::-1],
    "shuffled": lambda layers: [layers[1], layers[2], layers[0], *layers[3:]],
    "one too many": lambda layers: [*layers, layers[0]],
    "none": lambda _: [],
}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("changed", [_layers_of_oci, _layers_of_saved])
def test_the_description_that_agrees_with_the_config_is_used(
    pushing: Pushing,
    changed: Callable[[Callable[[list[Any]], list[Any]]], Callable[[Files], None]],
    order: str,
    *,
    known: bool,
) -> None:
    image = saved.Image([BASE, TOP, THIRD, BASE])
    archive = edited(saved.since_25(image), changed(ORDERS[order]))
    if known:
        pushing.image(saved.since_25(image))
    written = pushing.image(archive)
    assert written.fingerprint == f"sha256:{image.id}"
    manifest = json.loads(pushing.manifest().body)
    layers = [pushing.blob(layer["digest"]) for layer in manifest["layers"]]
    assert list(map(gzip.decompress, layers)) == list(image.layers)
    assert examine([archive], "archive", WANTED).layers == tuple(image.diff_ids)


@pytest.mark.parametrize("order", ["backwards", "shuffled", "one too many", "none"])
def test_an_image_is_refused_if_no_description_agrees_with_the_config(pushing: Pushing, order: str) -> None:
    image = saved.Image([BASE, TOP, THIRD])
    archive = edited(
        edited(saved.since_25(image), _layers_of_oci(ORDERS[order])), _layers_of_saved(ORDERS["backwards"])
    )
    with pytest.raises(SynclineError) as error:
        pushing.attempt(archive)
    assert error.value.code.name == "ARCHIVE_INVALID"
    assert not pushing.server.asked("PUT", "/manifests/")


def test_layers_of_several_platforms_out_of_order(pushing: Pushing) -> None:
    """The index and its manifest are rewritten; `manifest.json` has the order."""

    def change(files: Files) -> None:
        index, inner = json.loads(files["index.json"]), top(files)
        manifest = child(files, 0)
        manifest["layers"].reverse()
        for value, entry in ((manifest, inner["manifests"][0]), (inner, index["manifests"][0])):
            body = json.dumps(value).encode()
            entry |= {"digest": f"sha256:{saved.sha(body)}", "size": len(body)}
            files[f"blobs/sha256/{saved.sha(body)}"] = body
        files["index.json"] = json.dumps(index).encode()

    written = pushing.image(edited(saved.containerd([AMD, ARM]), change))
    assert written.manifest.is_index
    amd = json.loads(pushing.manifest(written.manifest.children()[0].digest).body)
    assert [gzip.decompress(pushing.blob(layer["digest"])) for layer in amd["layers"]] == list(AMD.layers)
