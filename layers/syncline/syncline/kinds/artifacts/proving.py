"""Proving: the registry is asked again for the image and all it is made of; its config must be the archive's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from syncline.clients.oci import Manifest, Registry
from syncline.clients.reference import parse_digest
from syncline.errors import SynclineError
from syncline.kinds.images.proving import Proof
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item


def fingerprint_of(manifest: Manifest) -> str:
    """What identifies an image whatever its layers are packed by: its config's digest; of an index, its own."""
    if manifest.is_index:
        return manifest.digest
    try:
        return parse_digest(str(json.loads(manifest.body)["config"]["digest"]))
    except (ValueError, KeyError, TypeError):
        raise SynclineError("MANIFEST_INVALID", f"manifest {manifest.digest} has no config") from None


def proved(registry: Registry, items: Sequence[Item], pace: Pace) -> Iterator[Arrived | Later | Failure]:
    """An answer for each item: arrived only if the tag has the item's fingerprint and every part is there."""
    for item in items:
        if pace.over:
            yield Later(item)
            continue
        try:
            manifest = _manifest(registry, item)
        except SynclineError as error:
            yield Failure(item, error)
            continue
        for answer in Proof(registry).of([replace(item, source=manifest.digest)], pace):
            yield replace(answer, item=item)


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
