"""Examining an archive without sending anything: every layer unpacked and hashed, every description held against them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from syncline.clients.registry.reference import digest_of
from syncline.kinds.artifacts.archive.feed import Feed, invalid
from syncline.kinds.artifacts.archive.images import chosen, images_in
from syncline.kinds.artifacts.archive.legacy import with_layers
from syncline.kinds.artifacts.archive.unpacking import unpacked
from syncline.kinds.artifacts.layers import Layer
from syncline.kinds.artifacts.reading import NothingKnown, Pass, Progress, Wanted
from syncline.kinds.artifacts.sending import Interrupted
from syncline.kinds.kind import StepContext

_FOR_EVER = StepContext(lambda: 1.0)


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
        raise AssertionError(f"an examination has no checkpoint to go on from: {stored}")

    def layer(
        self, content: Feed, diff_id: str | None, stored: dict[str, Any] | None, inside: dict[str, Any] | None = None
    ) -> Future[Layer | Interrupted]:
        del stored, inside
        digest = _hashed(content)
        if diff_id not in (None, digest):
            raise invalid(f"a layer that the archive calls {diff_id} has the content {digest}")
        return _done(digest, digest)

    def blob(
        self, content: Feed, digest: str, stored: dict[str, Any] | None, inside: dict[str, Any] | None = None
    ) -> Future[Layer | Interrupted]:
        del stored, inside
        packed = hashlib.sha256()

        def passing() -> Iterator[bytes]:
            for piece in content:
                packed.update(piece)
                yield bytes(piece)

        diff_id = _hashed(unpacked(passing(), f"the blob {digest}"))
        for piece in content:
            packed.update(piece)
        if f"sha256:{packed.hexdigest()}" != digest:
            raise invalid(f"the blob that the archive calls {digest} is another")
        return _done(diff_id, digest)


def _done(diff_id: str, digest: str) -> Future[Layer | Interrupted]:
    """Return a layer of which no registry keeps anything."""
    future: Future[Layer | Interrupted] = Future()
    future.set_result(Layer(diff_id, digest, 0))
    return future


def _hashed(content: Iterable[bytes | memoryview]) -> str:
    hash_ = hashlib.sha256()
    for piece in content:
        hash_.update(piece)
    return f"sha256:{hash_.hexdigest()}"
