"""Content of the measured registries: images made of random bytes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Manifest
from syncline.clients.registry.reference import digest_of
from tests.standins.registry import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST

MIB: Final = 1024 * 1024

_THREADS: Final = 8


class Filler:
    """Pushes images to a registry without authentication; the bytes are the same each time."""

    def __init__(self, host: str) -> None:
        self._registry = Registry(Endpoint.parse(f"http://{host}"), lambda: None, Http())

    def images(self, repositories: Sequence[str], tags: Sequence[str], common: int, own: Sequence[int]) -> None:
        """Push an image per repository and tag: a shared layer of ``common`` bytes, and layers of ``own`` sizes."""
        shared = random.Random(common).randbytes(common)
        with ThreadPoolExecutor(_THREADS) as pool:
            running = [pool.submit(self._repository, name, tags, shared, own) for name in repositories]
            for each in running:
                each.result()

    def one_layer(self, repository: str, tag: str, size: int) -> str:
        """Push an image with one streamed layer of ``size`` bytes; return the layer's digest."""
        hashed = hashlib.sha256()
        for chunk in _chunks(size):
            hashed.update(chunk)
        digest = f"sha256:{hashed.hexdigest()}"
        self._registry.begin_upload(repository).put(digest, _chunks(size), size)
        self._image(repository, tag, [{"mediaType": OCI_LAYER, "digest": digest, "size": size}])
        return digest

    def _repository(self, name: str, tags: Sequence[str], shared: bytes, own: Sequence[int]) -> None:
        numbers = random.Random(name)
        common = self._blob(name, OCI_LAYER, shared)
        for tag in tags:
            self._image(name, tag, [common, *(self._blob(name, OCI_LAYER, numbers.randbytes(size)) for size in own)])

    def _image(self, repository: str, tag: str, layers: Sequence[dict[str, Any]]) -> None:
        rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs, "author": f"{repository}:{tag}"}
        config_descriptor = self._blob(repository, OCI_CONFIG, json.dumps(config).encode())
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config_descriptor, "layers": list(layers)}
        body = json.dumps(manifest).encode()
        self._registry.put_manifest(repository, tag, Manifest(digest_of(body), OCI_MANIFEST, body))

    def _blob(self, repository: str, media_type: str, data: bytes) -> dict[str, Any]:
        digest = digest_of(data)
        self._registry.begin_upload(repository).put(digest, data, len(data))
        return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _chunks(size: int) -> Iterator[bytes]:
    numbers = random.Random(size)
    for at in range(0, size, MIB):
        yield numbers.randbytes(min(MIB, size - at))
