"""Images: a configuration and layers, put together as OCI, Docker schema 2 or a multi-architecture index.

https://github.com/opencontainers/image-spec and
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

CREATED: Final = "2026-01-01T00:00:00Z"  # the same for all, so that the same content is the same image
SOURCE: Final = "syncline sample"


@dataclass(frozen=True, slots=True)
class Form:
    """The media types of an image format."""

    manifest: str
    config: str
    layer: str


OCI: Final = Form(
    OCI_MANIFEST,
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)
DOCKER: Final = Form(
    DOCKER_MANIFEST,
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


@dataclass(frozen=True, slots=True)
class About:
    """The data of an image's configuration; ``entry`` is the Python program that a container runs."""

    name: str
    version: str
    architecture: str
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with its content: ``blobs`` by digest, ``children`` are the images of an index."""

    manifest: Manifest
    blobs: Mapping[str, bytes] = field(repr=False)
    children: tuple[Image, ...] = ()

    @property
    def digest(self) -> str:
        return self.manifest.digest


def image(about: About, layers: Sequence[Layer], form: Form = OCI) -> Image:
    """Return an image of layers."""
    config = _encoded(_config(about, layers))
    manifest = {
        "schemaVersion": 2,
        "mediaType": form.manifest,
        "config": descriptor(form.config, config),
        "layers": [descriptor(form.layer, each.data) for each in layers],
    }
    blobs = {digest_of(config): config, **{each.digest: each.data for each in layers}}
    return Image(manifest_of(form.manifest, manifest), blobs)


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


def _config(about: About, layers: Sequence[Layer]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "Labels": {
            "org.opencontainers.image.title": about.name,
            "org.opencontainers.image.version": about.version,
            "org.opencontainers.image.vendor": SOURCE,
        }
    }
    if about.entry is not None:
        settings |= {
            "Env": [
                f"PATH=/{PREFIX}/bin:/usr/bin:/bin",
                f"PYTHONHOME=/{PREFIX}",
                f"PYTHONPATH=/{LIBRARY}/site-packages",
                f"LD_LIBRARY_PATH=/{PREFIX}/lib",
            ],
            "Entrypoint": ["python3", f"/{about.entry}"],
            "User": "nobody",
        }
    return {
        "architecture": about.architecture,
        "os": "linux",
        "created": CREATED,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
        "history": [{"created": CREATED, "created_by": f"{SOURCE}: {each.what}"} for each in layers],
    }


def _encoded(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
