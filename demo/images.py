"""Images of a configuration and layers: OCI, Docker schema 2, and multi-architecture indexes.

Formats: https://github.com/opencontainers/image-spec and
https://distribution.github.io/distribution/spec/manifest-v2-2/
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from demo.layers import LIBRARY, PREFIX, Layer
from syncline.clients.registry.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Manifest
from syncline.clients.registry.reference import digest_of

CREATED: Final = "2026-01-01T00:00:00Z"  # constant, so that the same content has the same digest
SOURCE: Final = "syncline sample"


@dataclass(frozen=True, slots=True)
class MediaTypes:
    """The media types of an image format."""

    manifest: str
    config: str
    layer: str


OCI: Final = MediaTypes(
    OCI_MANIFEST,
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)
DOCKER: Final = MediaTypes(
    DOCKER_MANIFEST,
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The data of an image's configuration; ``entry`` is the path of the Python program that a container runs."""

    name: str
    version: str
    architecture: str
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with its content. ``blobs`` maps digests to bytes; ``children`` are the images of an index."""

    manifest: Manifest
    blobs: Mapping[str, bytes] = field(repr=False)
    children: tuple[Image, ...] = ()

    @property
    def digest(self) -> str:
        return self.manifest.digest


def image(info: ImageInfo, layers: Sequence[Layer], media_types: MediaTypes = OCI) -> Image:
    """Return an image with these layers."""
    config = _encoded(_config(info, layers))
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.manifest,
        "config": descriptor(media_types.config, config),
        "layers": [descriptor(media_types.layer, each.data) for each in layers],
    }
    blobs = {digest_of(config): config, **{each.digest: each.data for each in layers}}
    return Image(manifest_of(media_types.manifest, manifest), blobs)


def index(images: Mapping[str, Image]) -> Image:
    """Return an index with an image per architecture."""
    entries = []
    for architecture, each in images.items():
        entry = descriptor(each.manifest.media_type, each.manifest.body)
        entries.append({**entry, "platform": {"architecture": architecture, "os": "linux"}})
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return Image(manifest_of(OCI_INDEX, value), {}, tuple(images.values()))


def manifest_of(media_type: str, value: Mapping[str, Any]) -> Manifest:
    """Return a manifest with its digest."""
    body = _encoded(value)
    return Manifest(digest_of(body), media_type, body)


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    """Return the descriptor of ``data``."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _config(info: ImageInfo, layers: Sequence[Layer]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "Labels": {
            "org.opencontainers.image.title": info.name,
            "org.opencontainers.image.version": info.version,
            "org.opencontainers.image.vendor": SOURCE,
        }
    }
    if info.entry is not None:
        settings |= {
            "Env": [
                f"PATH=/{PREFIX}/bin:/usr/bin:/bin",
                f"PYTHONHOME=/{PREFIX}",
                f"PYTHONPATH=/{LIBRARY}/site-packages",
                f"LD_LIBRARY_PATH=/{PREFIX}/lib",
            ],
            "Entrypoint": ["python3", f"/{info.entry}"],
            "User": "nobody",
        }
    return {
        "architecture": info.architecture,
        "os": "linux",
        "created": CREATED,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
        "history": [{"created": CREATED, "created_by": f"{SOURCE}: {each.description}"} for each in layers],
    }


def _encoded(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
