"""Archives of `docker save`: read as images, and written for `docker load`.

``manifest.json`` lists the images: their names, the file with the config, and the files of the layers. Docker 25 and later
write an OCI layout beside it; if that has the manifest of an image, the image keeps its digest. Otherwise a manifest is
made: always the same one for the same archive. Layers are used as they are, compressed or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from syncline.clients.layout.contents import (
    INDEX,
    LARGEST_JSON,
    REF_NAME,
    Contents,
    IndexEntry,
    MemoryBlob,
    StoredBlob,
    TarFiles,
    blob_path,
)
from syncline.clients.layout.reader import LARGEST_MANIFEST, LayoutReader, blob_chunks, digest_of_blob
from syncline.clients.layout.tar import TarArchive, TarWriter, damaged
from syncline.clients.registry.manifest import OCI_MANIFEST, Descriptor, Manifest
from syncline.clients.registry.reference import digest_of, is_digest
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError

CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
MANIFEST: Final = "manifest.json"
_MOST_LAYERS: Final = 1000
_DEEPEST: Final = 4
_PACKED: Final = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}


class DockerArchive(LayoutReader):
    """The images of an archive of `docker save`, or of skopeo and crane in its form."""

    def __init__(self, path: Path, name: str) -> None:
        """Read the descriptions of the images. Raises ARCHIVE_INVALID, and the errors of :meth:`TarArchive.read`."""
        self._archive = TarArchive.read(path)
        self._files = TarFiles(self._archive)
        self._blobs: dict[str, StoredBlob] = {}
        self._names = name
        if self._archive.find(MANIFEST) is None:
            raise damaged(f"{name} is no archive of `docker save`: it has no {MANIFEST}")
        try:
            images = json.loads(self._archive.content(MANIFEST, LARGEST_JSON))
            if not isinstance(images, list) or not images:
                raise TypeError  # noqa: TRY301 - reported below
            entries = [entry for image in images for entry in self._entries(image)]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise damaged(f"{name}: the {MANIFEST} of the archive is invalid") from None
        super().__init__(name, Contents(entries))

    def find(self, digest: str) -> StoredBlob | None:
        return self._blobs.get(digest) or self._files.find(blob_path(digest))

    def _entries(self, image: dict[str, Any]) -> Iterator[IndexEntry]:
        """Yield the entry of an image under each of its names, or one without a name."""
        manifest = self._stored_manifest(image) or self._made_manifest(image)
        self._blobs[manifest.digest] = MemoryBlob(manifest.body)
        value = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": len(manifest.body)}
        names = [{"annotations": {REF_NAME: str(name)}} for name in image.get("RepoTags") or ()]
        for more in names or [{}]:
            yield IndexEntry.parse({**value, **more}, self._names)

    def _stored_manifest(self, image: dict[str, Any]) -> Manifest | None:
        """Return the manifest that the archive has of an image with all its parts, None if there is none."""
        if self._archive.find(INDEX) is None:
            return None
        config = f"sha256:{str(image['Config']).removesuffix('.json').rpartition('/')[2]}"
        for found in self._stored_manifests(json.loads(self._archive.content(INDEX, LARGEST_JSON))):
            parts = found.blobs()
            # Docker 25.0.0 leaves out repeated layers.
            complete = len(found.layers()) == len(image["Layers"]) and all(map(self._has, parts))
            if complete and parts[0].digest == config:
                return found
        return None

    def _stored_manifests(self, index: dict[str, Any], depth: int = 0) -> Iterator[Manifest]:
        """Yield the manifests of an index and of those below it that the archive has."""
        for entry in index["manifests"] if depth <= _DEEPEST else ():
            digest = str(entry["digest"])
            if not is_digest(digest) or self._archive.find(blob_path(digest)) is None:
                continue
            body = self._archive.content(blob_path(digest), LARGEST_MANIFEST)
            value = json.loads(body)
            if digest_of(body) != digest:
                continue
            if "manifests" in value:
                yield from self._stored_manifests(value, depth + 1)
            elif "layers" in value:
                yield Manifest(digest, str(value.get("mediaType") or entry.get("mediaType")), body)

    def _has(self, blob: Descriptor) -> bool:
        member = self._archive.find(blob_path(blob.digest))
        return member is not None and member.size == blob.size

    def _made_manifest(self, image: dict[str, Any]) -> Manifest:
        config = self._archive.content(str(image["Config"]), LARGEST_MANIFEST)
        stated = str(image["Config"]).removesuffix(".json").rpartition("/")[2].removeprefix("sha256:")
        if len(stated) == 64 and digest_of(config) != f"sha256:{stated}":
            raise damaged(f"{self._names}: the config {image['Config']} does not have the digest in its name")
        diff_ids = json.loads(config)["rootfs"]["diff_ids"] or []
        paths = image["Layers"] or []
        if len(diff_ids) != len(paths) or len(paths) > _MOST_LAYERS:
            raise damaged(f"{self._names}: a config lists {len(diff_ids)} layers, the {MANIFEST} {len(paths)}")
        self._blobs[digest_of(config)] = MemoryBlob(config)
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [self._layer(str(path), str(diff_id)) for path, diff_id in zip(paths, diff_ids, strict=True)],
        }
        body = json.dumps(value, separators=(",", ":")).encode()
        return Manifest(digest_of(body), OCI_MANIFEST, body)

    def _layer(self, path: str, diff_id: str) -> dict[str, Any]:
        layer = self._files.find(path)
        if layer is None:
            raise damaged(f"{self._names} has no layer {path[:120]!r}, which its {MANIFEST} names")
        with layer.open() as file:
            packed = _PACKED.get(file.read(2), "")
        # The digest of a layer that is not compressed is the diff_id. Whoever copies the layer verifies it.
        digest = digest_of_blob(layer, diff_id) if packed else diff_id
        self._blobs[digest] = layer
        return {"mediaType": f"{LAYER_TYPE}{packed}", "digest": digest, "size": layer.size}


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image to write to an archive, with its name there."""

    name: str
    manifest: Manifest


def write_docker_archive(file: BinaryIO, source: ImageStore, repository: str, images: Iterable[NamedImage]) -> None:
    """Write images as an archive that `docker load` reads, their layers as they are.

    Raises MANIFEST_UNSUPPORTED for an index or another artifact, since such an archive has images of one platform.
    """
    writer = TarWriter(file)
    described: dict[str, dict[str, Any]] = {}
    written: set[str] = set()

    def add(blob: Descriptor, name: str) -> str:
        if name not in written:
            writer.add(name, blob.size, blob_chunks(source, repository, blob))
            written.add(name)
        return name

    for image in images:
        manifest = image.manifest
        if manifest.is_index or not manifest.is_known:
            what = f"{image.name} is {manifest.media_type}; an archive for Docker has images of one platform"
            raise SynclineError("MANIFEST_UNSUPPORTED", what)
        if manifest.digest not in described:
            config, *_ = manifest.blobs()
            described[manifest.digest] = {
                "Config": add(config, f"{_hex(config)}.json"),
                "RepoTags": [],
                "Layers": [add(layer, f"{_hex(layer)}{_ending(layer)}") for layer in manifest.layers()],
            }
        described[manifest.digest]["RepoTags"].append(image.name)
    writer.add_bytes(MANIFEST, json.dumps(list(described.values()), separators=(",", ":")).encode())
    writer.finish()


def _hex(blob: Descriptor) -> str:
    return blob.digest.partition(":")[2]


def _ending(layer: Descriptor) -> str:
    return ".tar.gz" if layer.media_type.endswith("gzip") else ".tar"
