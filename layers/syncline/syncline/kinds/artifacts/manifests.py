"""Manifests of images from archives: unchanged if they are still correct, else with as few changes as possible."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from syncline.clients.registry.manifest import DOCKER_MANIFEST, OCI_MANIFEST, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.kinds.artifacts.archive.images import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    ArchiveContents,
    SavedImage,
    with_layers,
)
from syncline.kinds.artifacts.archive.streams import invalid
from syncline.kinds.artifacts.layers import Layer
from syncline.kinds.artifacts.upload import LayerUploader
from syncline.kinds.artifacts.verify import check_parts

_OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_DOCKER_LAYER_KIND: Final = "application/vnd.docker.image.rootfs."


@dataclass(frozen=True, slots=True)
class UploadedImage:
    """An image with all its parts in the repository; ``manifest`` is the one to tag.

    ``fingerprint`` is the digest of its config, which equals the one in the archive; of an index, its own digest.
    ``saved`` is the digest in the archive. That of an index differs if images are missing or not compressed there.
    """

    manifest: Manifest
    fingerprint: str
    saved: str


def upload_manifests(
    image: SavedImage, layers: Mapping[str, Layer], contents: ArchiveContents, sender: LayerUploader
) -> UploadedImage:
    """Send the config of an image, or the configs and manifests below an index. Raises ARCHIVE_INVALID."""
    if image.is_index:
        manifest = _index(image, layers, contents, sender)
        assert image.manifest is not None
        return UploadedImage(manifest, manifest.digest, image.manifest.digest)
    config = image.config
    found = [_layer(path, layers, contents, sender) for path in image.layers]
    if image.legacy:
        config = with_layers(config, [layer.diff_id for layer in found])
    sender.put(config)
    manifest = _docker(config, found) if image.manifest is None else _with_layers(image.manifest, image.layers, found)
    return UploadedImage(manifest, digest_of(config), digest_of(config))


def _layer(path: str, layers: Mapping[str, Layer], contents: ArchiveContents, sender: LayerUploader) -> Layer:
    """Return a layer that was sent. One that is small text (an attestation) is sent now."""
    if path in layers:
        return layers[path]
    text = contents.texts.get(path)
    if text is None:
        raise invalid(f"{contents.name}: {path[:120]!r} is not a layer")
    digest = sender.put(text)
    return Layer(digest, digest, len(text))


def _docker(config: bytes, layers: list[Layer]) -> Manifest:
    """Return the manifest that `docker push` would make, except for white space."""
    value = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": DOCKER_CONFIG, "size": len(config), "digest": digest_of(config)},
        "layers": [{"mediaType": DOCKER_LAYER, "size": layer.size, "digest": layer.digest} for layer in layers],
    }
    return _manifest(DOCKER_MANIFEST, value)


def _with_layers(manifest: Manifest, paths: Sequence[str], layers: list[Layer]) -> Manifest:
    """Return the manifest with the layers of the registry; unchanged if these are the archive's.

    ``paths`` are their names in the archive. The manifest may list them in another order, or not all of them.
    """
    value = json.loads(manifest.body)
    if [entry["digest"] for entry in value["layers"]] == [layer.digest for layer in layers]:
        return manifest
    entries = {entry["digest"]: entry for entry in value["layers"]}
    named = [path.removeprefix("blobs/").replace("/", ":") for path in paths]
    new = {"mediaType": _OCI_LAYER if manifest.media_type == OCI_MANIFEST else DOCKER_LAYER}
    value["layers"] = [
        _descriptor(entries.get(name, {**new, "digest": name}), layer)
        for name, layer in zip(named, layers, strict=True)
    ]
    return _manifest(manifest.media_type, value)


def _descriptor(entry: Mapping[str, Any], layer: Layer) -> dict[str, Any]:
    if entry["digest"] == layer.digest and "size" in entry:
        return dict(entry)
    kind = str(entry["mediaType"])
    packed = DOCKER_LAYER if kind.startswith(_DOCKER_LAYER_KIND) else f"{kind.partition('+')[0]}+gzip"
    return {**entry, "mediaType": packed, "digest": layer.digest, "size": layer.size}


def _index(
    image: SavedImage, layers: Mapping[str, Layer], contents: ArchiveContents, sender: LayerUploader
) -> Manifest:
    """Return an index of the images that the archive has; unchanged if these are all and none had to be compressed."""
    assert image.manifest is not None
    value = json.loads(image.manifest.body)
    now: dict[str, Manifest] = {}
    for child in image.children:
        assert child.manifest is not None
        manifest = upload_manifests(child, layers, contents, sender).manifest
        check_parts(sender.registry, sender.repository, manifest)
        sender.registry.put_manifest(sender.repository, manifest.digest, manifest)
        now[child.manifest.digest] = manifest
    entries = [entry for entry in value["manifests"] if entry["digest"] in now]
    kept = [entry["digest"] == now[entry["digest"]].digest for entry in entries]
    if len(entries) == len(value["manifests"]) and all(kept):
        return image.manifest
    value["manifests"] = [_moved(entry, now) for entry in entries]
    return _manifest(image.manifest.media_type, value)


def _moved(entry: Mapping[str, Any], now: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return a child's entry with its new digest; an attestation also has the digest of the image it is about."""
    manifest = now[entry["digest"]]
    moved = {**entry, "digest": manifest.digest, "size": len(manifest.body)}
    annotations = dict(entry.get("annotations") or {})
    about = now.get(annotations.get("vnd.docker.reference.digest", ""))
    if about is not None:
        moved["annotations"] = {**annotations, "vnd.docker.reference.digest": about.digest}
    return moved


def _manifest(media_type: str, value: Mapping[str, Any]) -> Manifest:
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return Manifest(digest_of(body), media_type, body)
