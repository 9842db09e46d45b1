"""Referrers: signatures, attestations and SBOMs that name a manifest as their ``subject`` and have no tag of their own.

1. ``GET /v2/<repository>/referrers/<digest>`` answers an index of them, in pages by ``Link``.
2. A registry without that API answers 404 (some 400 or 405). Its clients keep the index themselves, under the tag that
   :func:`list_tag` gives: whoever pushes a manifest with a subject adds it there, if the registry's answer to the push
   has no ``OCI-Subject``.
3. A manifest may be pushed before its subject is there.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-referrers
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from syncline.clients.http.listings import Entries
from syncline.clients.registry.manifest import OCI_INDEX, Descriptor, Manifest
from syncline.clients.registry.reference import digest_of, parse_digest

ABSENT: Final = frozenset({400, 404, 405})
"""What registries without the API answer."""
_EMPTY: Final[dict[str, Any]] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def list_tag(digest: str) -> str:
    """The tag that lists what refers to a manifest where there is no API. Raises REFERENCE_INVALID."""
    algorithm, _, encoded = parse_digest(digest).partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


def listed(body: bytes, entries: Entries) -> tuple[Descriptor, ...]:
    """What a page of the API lists. Raises MANIFEST_INVALID if it is no index."""
    return Manifest(digest_of(body), OCI_INDEX, body).listed(entries)


def with_entries(index: Manifest | None, entries: Iterable[dict[str, Any]]) -> Manifest:
    """The index with those entries added that it does not have; nothing else of it changes."""
    value: dict[str, Any] = _EMPTY if index is None else json.loads(index.body)
    there = {entry["digest"] for entry in value["manifests"]}
    added = [entry for entry in entries if entry["digest"] not in there]
    if index is not None and not added:
        return index
    body = json.dumps({**value, "manifests": [*value["manifests"], *added]}, separators=(",", ":")).encode()
    return Manifest(digest_of(body), OCI_INDEX if index is None else index.media_type, body)
