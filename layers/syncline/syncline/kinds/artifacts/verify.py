"""Verification: read the image and all its parts from the registry; its config must be that of the archive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Manifest
from syncline.clients.registry.reference import parse_digest
from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item

ATTACHED: Final = "attached"
"""The key of an item's detail with the digests of the attestations that are attached to its image."""


def fingerprint_of(manifest: Manifest) -> str:
    """Return the digest of an image's config, which is independent of compression; of an index, its own digest."""
    if manifest.is_index:
        return manifest.digest
    try:
        return parse_digest(str(json.loads(manifest.body)["config"]["digest"]))
    except (ValueError, KeyError, TypeError):
        raise SynclineError("MANIFEST_INVALID", f"manifest {manifest.digest} has no config") from None


def check_parts(registry: Registry, repository: str, manifest: Manifest) -> None:
    """Check that a repository has all parts of a manifest, each blob with its size. Raises NOT_ARRIVED."""
    for child in manifest.children():
        try:
            below = registry.manifest(repository, child.digest)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            raise _absent(registry, repository, f"the manifest {child.digest}", manifest) from None
        check_parts(registry, repository, below)
    for blob in manifest.blobs():
        size = blob.size if blob.foreign else registry.blob_size(repository, blob)
        if size != blob.size:
            sizes = "" if size is None else f" with {blob.size} bytes (it has {size})"
            raise _absent(registry, repository, f"the blob {blob.digest}{sizes}", manifest)


def _absent(registry: Registry, repository: str, part: str, manifest: Manifest) -> SynclineError:
    what = f"{registry.host}/{repository} does not have {part}, a part of {manifest.digest}"
    return SynclineError("NOT_ARRIVED", what)


def is_complete(registry: Registry, repository: str, tag: str) -> bool:
    """Return True if a repository has all parts of a tag's manifest."""
    try:
        check_parts(registry, repository, registry.manifest(repository, tag))
    except SynclineError as error:
        if error.code.name != "NOT_ARRIVED":
            raise
        return False
    return True


def check_attestations(registry: Registry, repository: str, image: Manifest, attached: Sequence[str]) -> None:
    """Check that a repository lists these referrers of an image and has all their parts. Raises NOT_ARRIVED."""
    listed = {each.digest for each in registry.referrers(repository, image.digest)} if attached else set()
    for digest in attached:
        if digest not in listed:
            what = f"{registry.host}/{repository} does not list the attestation {digest} of {image.digest}"
            raise SynclineError("NOT_ARRIVED", what)
        try:
            referrer = registry.manifest(repository, digest)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            raise _absent(registry, repository, f"the attestation {digest}", image) from None
        check_parts(registry, repository, referrer)


def verify_items(
    registry: Registry, items: Sequence[Item], context: StepContext
) -> Iterator[Completed | Unfinished | Failure]:
    """Yield the outcome of each item: completed if the tag has its fingerprint, and no part or attestation is absent."""
    for item in items:
        if context.over:
            yield Unfinished(item)
            continue
        try:
            manifest = _manifest(registry, item)
            check_parts(registry, item.group, manifest)
            attached = item.detail.get(ATTACHED)
            check_attestations(registry, item.group, manifest, attached or ())
        except SynclineError as error:
            yield Failure(item, error)
        else:
            yield Completed(item, note="" if attached is None else f"attestations attached: {len(attached)}")


def _manifest(registry: Registry, item: Item) -> Manifest:
    try:
        manifest = registry.manifest(item.group, item.name)
    except SynclineError as error:
        if error.code.name == "NOT_FOUND":
            raise SynclineError("NOT_ARRIVED", f"{item} is not at {registry.host}") from None
        raise
    fingerprint = fingerprint_of(manifest)
    if fingerprint != item.source:
        raise SynclineError("NOT_ARRIVED", f"{item} at {registry.host} is the image {fingerprint}, not {item.source}")
    return manifest
