"""Examining an archive without sending anything: every layer unpacked and hashed, every description held against them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from syncline.clients.reference import digest_of
from syncline.kinds.artifacts.archive.feed import Feed, invalid
from syncline.kinds.artifacts.archive.images import chosen, images_in
from syncline.kinds.artifacts.archive.legacy import with_layers
from syncline.kinds.artifacts.archive.unpacking import unpacked
from syncline.kinds.artifacts.layers import Layer
from syncline.kinds.artifacts.passing import NothingKnown, Pass, Progress, Wanted
from syncline.kinds.artifacts.sending import Interrupted
from syncline.kinds.kind import Pace

_FOR_EVER = Pace(lambda: 1.0)


@dataclass(frozen=True, slots=True)
class Examined:
    """What an archive has of an image: the digest of its config (of an index, its own), its layers' contents, and names."""

    fingerprint: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


def examined(archive: Iterable[bytes], where: str, wanted: Wanted) -> Examined:
    """An image in an archive. Raises ARCHIVE_INVALID, ARCHIVE_REFUSED, IMAGE_ABSENT, and what reading it raises."""
    progress = Progress()
    contents = Pass(_Hasher(), NothingKnown(), "", _FOR_EVER, wanted, progress, where).over(archive)
    assert contents is not None, "there was all the time in the world"
    image = progress.settled(chosen(images_in(contents), wanted.image, wanted.tag, where), contents)
    layers = tuple(progress.done[path].diff_id for path in image.layers if path in progress.done)
    if image.is_index:
        assert image.manifest is not None
        return Examined(image.manifest.digest, layers, image.names)
    config = with_layers(image.config, layers) if image.legacy else image.config
    return Examined(digest_of(config), layers, image.names)


class _Hasher:
    """Takes layers as a sender does, and only hashes them."""

    def holds(self, stored: dict[str, Any]) -> bool:
        """Return False: it sends nothing."""
        del stored
        return False

    def layer(
        self, content: Feed, diff_id: str | None, stored: dict[str, Any] | None, inside: dict[str, Any] | None = None
    ) -> Future[Layer | Interrupted]:
        del stored, inside
        layer = _layer(content)
        if diff_id not in (None, layer.diff_id):
            raise invalid(f"a layer that the archive calls {diff_id} has the content {layer.diff_id}")
        return _done(layer)

    def blob(
        self, content: Feed, digest: str, stored: dict[str, Any] | None, inside: dict[str, Any] | None = None
    ) -> Future[Layer | Interrupted]:
        del stored, inside
        packed = hashlib.sha256()

        def passing() -> Iterator[bytes]:
            for piece in content:
                packed.update(piece)
                yield bytes(piece)

        layer = _layer(unpacked(passing(), f"the blob {digest}"))
        for piece in content:
            packed.update(piece)
        if f"sha256:{packed.hexdigest()}" != digest:
            raise invalid(f"the blob that the archive calls {digest} is another")
        return _done(Layer(layer.diff_id, digest, layer.size))


def _done(layer: Layer) -> Future[Layer | Interrupted]:
    future: Future[Layer | Interrupted] = Future()
    future.set_result(layer)
    return future


def _layer(content: Iterable[bytes | memoryview]) -> Layer:
    hash_, size = hashlib.sha256(), 0
    for piece in content:
        hash_.update(piece)
        size += len(piece)
    digest = f"sha256:{hash_.hexdigest()}"
    return Layer(digest, digest, size)
