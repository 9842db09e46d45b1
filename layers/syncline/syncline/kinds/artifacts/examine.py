"""Examination of an archive without a registry: hash every layer and compare the descriptions with the hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from syncline.clients.registry.reference import digest_of
from syncline.kinds.artifacts.archive.decompress import decompressed
from syncline.kinds.artifacts.archive.images import choose_image, list_images, with_layers
from syncline.kinds.artifacts.archive.streams import ChunkReader, invalid
from syncline.kinds.artifacts.layers import Layer
from syncline.kinds.artifacts.read_archive import ArchivePass, EmptyLayerIndex, ImageProgress, WantedImage
from syncline.kinds.artifacts.upload import LayerState, SentLayer
from syncline.kinds.kind import StepContext

_UNLIMITED = StepContext(lambda: 1.0)


@dataclass(frozen=True, slots=True)
class ExaminedImage:
    """An image in an archive: the digest of its config (of an index, its own), its layers' diff_ids, and its names."""

    fingerprint: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


def examine(archive: Iterable[bytes], where: str, wanted: WantedImage) -> ExaminedImage:
    """Examine an image in an archive. Raises ARCHIVE_INVALID, ARCHIVE_REFUSED, IMAGE_ABSENT, and the archive's errors."""
    progress = ImageProgress()
    contents = ArchivePass(_Hasher(), EmptyLayerIndex(), "", _UNLIMITED, wanted, progress, where).over(archive)
    assert contents is not None, "there is no time limit"
    image = progress.resolve_layers(choose_image(list_images(contents), wanted.image, wanted.tag, where), contents)
    layers = tuple(progress.done[path].diff_id for path in image.layers if path in progress.done)
    if image.is_index:
        assert image.manifest is not None
        return ExaminedImage(image.manifest.digest, layers, image.names)
    config = with_layers(image.config, layers) if image.legacy else image.config
    return ExaminedImage(digest_of(config), layers, image.names)


class _Hasher:
    """Receives layers as an uploader does, and only hashes them."""

    def holds(self, stored: dict[str, Any]) -> bool:
        raise AssertionError(f"an examination does not continue from a checkpoint: {stored}")

    def send(
        self, content: ChunkReader, digest: str | None, stored: LayerState, inside: LayerState, *, packed: bool
    ) -> SentLayer:
        del stored, inside
        compressed = hashlib.sha256()

        def passing() -> Iterator[bytes]:
            for piece in content:
                compressed.update(piece)
                yield bytes(piece)

        if packed:
            diff_id = _hashed(decompressed(passing(), f"the blob {digest}"))
            for piece in content:
                compressed.update(piece)
            if f"sha256:{compressed.hexdigest()}" != digest:
                raise invalid(f"the blob that the archive calls {digest} has another digest")
        else:
            diff_id = _hashed(content)
            if digest not in (None, diff_id):
                raise invalid(f"a layer that the archive calls {digest} has the content {diff_id}")
        future: SentLayer = Future()
        future.set_result(Layer(diff_id, digest or diff_id, 0))
        return future


def _hashed(content: Iterable[bytes | memoryview]) -> str:
    hash_ = hashlib.sha256()
    for piece in content:
        hash_.update(piece)
    return f"sha256:{hash_.hexdigest()}"
