"""The bytes of images, read and hashed at one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from syncline.clients.layout.reader import blob_chunks
from syncline.clients.registry.manifest import Descriptor, Manifest
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.kinds.images.referrers import DEEPEST
from syncline.kinds.images.transfer import child_at

_AT_ONCE: Final = 4


def blobs_of(store: ImageStore, repository: str, manifest: Manifest, depth: int = 0) -> Iterator[Descriptor]:
    """Yield the blobs of an image, and those of the children of an index that the store has. Foreign layers are left out."""
    if depth > DEEPEST:
        raise SynclineError("MANIFEST_INVALID", f"{manifest.digest}: indexes are nested deeper than {DEEPEST}")
    yield from (blob for blob in manifest.blobs() if not blob.foreign)
    for child in manifest.children():
        found = child_at(store, repository, child)
        if isinstance(found, Manifest):
            yield from blobs_of(store, repository, found, depth + 1)
        elif found is not None:
            yield child


def check_parts(store: ImageStore, repository: str, manifest: Manifest) -> int:
    """Read all blobs of an image and return the number of bytes; see :func:`check_blobs`."""
    return check_blobs(store, {blob.digest: (repository, blob) for blob in blobs_of(store, repository, manifest)})


def check_blobs(store: ImageStore, blobs: Mapping[str, tuple[str, Descriptor]]) -> int:
    """Read and hash blobs, each in its repository, and return the number of bytes.

    Raises DIGEST_MISMATCH, SIZE_DIFFERS, NOT_FOUND and the errors of the store.
    """

    def check(named: tuple[str, Descriptor]) -> int:
        return sum(map(len, blob_chunks(store, *named)))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="check") as pool:
        return sum(pool.map(check, blobs.values()))
