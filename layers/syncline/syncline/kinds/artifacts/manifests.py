"""Manifests for images out of archives: their own bytes wherever they still fit, else the least that must differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from syncline.clients.registry.manifest import DOCKER_MANIFEST, OCI_MANIFEST, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.kinds.artifacts.archive.feed import invalid
from syncline.kinds.artifacts.archive.images import DOCKER_CONFIG, DOCKER_LAYER, Contents, SavedImage
from syncline.kinds.artifacts.archive.legacy import with_layers
from syncline.kinds.artifacts.layers import Layer
from syncline.kinds.artifacts.sending import Sender
from syncline.kinds.artifacts.verify import check_parts

_OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_DOCKER_LAYER_KIND: Final = "application/vnd.docker.image.rootfs."


@dataclass(frozen=True, slots=True)
class Written:
    """An image that has all its parts in the repository; ``manifest`` is what a tag is to point at.

    ``fingerprint`` is the digest of its config, which is the one in the archive; of an index, its own digest. That one
    was ``saved`` with another digest if the archive lacks some of its images, or has them unpacked.
    """

    manifest: Manifest
    fingerprint: str
    saved: str


def written(image: SavedImage, layers: Mapping[str, Layer], contents: Contents, sender: Sender) -> Written:
    """Send what the layers are named by: configs, and the manifests below an index. Raises ARCHIVE_INVALID."""
    if image.is_index:
        manifest = _index(image, layers, contents, sender)
        assert image.manifest is not None
        return Written(manifest, manifest.digest, image.manifest.digest)
    config = image.config
    found = [_layer(path, layers, contents, sender) for path in image.layers]
    if image.legacy:
        config = with_layers(config, [layer.diff_id for layer in found])
    sender.put(config)
    manifest = _docker(config, found) if image.manifest is None else _with_layers(image.manifest, image.layers, found)
    return Written(manifest, digest_of(config), digest_of(config))


def _layer(path: str, layers: Mapping[str, Layer], contents: Contents, sender: Sender) -> Layer:
    """A layer that was sent, or is small text (an attestation) and is sent now."""
    if path in layers:
        return layers[path]
    text = contents.texts.get(path)
    if text is None:
        raise invalid(f"{contents.name}: {path[:120]!r} is no layer")
    digest = sender.put(text)
    return Layer(digest, digest, len(text))


def _docker(config: bytes, layers: list[Layer]) -> Manifest:
    """The manifest that `docker push` would make, but for its white space."""
    value = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": DOCKER_CONFIG, "size": len(config), "digest": digest_of(config)},
        "layers": [{"mediaType": DOCKER_LAYER, "size": layer.size, "digest": layer.digest} for layer in layers],
    }
    return _manifest(DOCKER_MANIFEST, value)


def _with_layers(manifest: Manifest, paths: Sequence[str], layers: list[Layer]) -> Manifest:
    """Return the manifest with its layers as the registry has them; itself where they are the archive's.

    ``paths`` name them in the archive. The manifest may have them in another order, or not each of them.
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


def _index(image: SavedImage, layers: Mapping[str, Layer], contents: Contents, sender: Sender) -> Manifest:
    """An index with those images that the archive has; itself where that is all and none had to be packed."""
    assert image.manifest is not None
    value = json.loads(image.manifest.body)
    now: dict[str, Manifest] = {}
    for child in image.children:
        assert child.manifest is not None
        manifest = written(child, layers, contents, sender).manifest
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
    """A child's entry with its new digest; an attestation names the image it is about by digest, too."""
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
