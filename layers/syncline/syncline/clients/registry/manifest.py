"""Manifests and referrers of the OCI image specification. The bytes of a manifest are kept unchanged.

A referrer is a signature, attestation or SBOM that names a manifest as its ``subject`` and has no tag of its own:

1. ``GET /v2/<repository>/referrers/<digest>`` answers an index of them, paged by ``Link``.
2. A registry without that API answers 404 (some 400 or 405). Then clients maintain the index under the tag that
   :func:`referrers_tag` returns: whoever pushes a manifest with a subject adds it there, if the registry's response to
   the push has no ``OCI-Subject``.
3. A manifest may be pushed before its subject.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-referrers
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.clients.http.listings import EntryReader, describe
from syncline.clients.registry.reference import digest_matches, digest_of, is_digest, parse_digest
from syncline.errors import SynclineError

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST_TYPES: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
ARTIFACT_TYPES: Final = (
    "application/vnd.oci.artifact.manifest.v1+json",
    "application/vnd.cncf.oras.artifact.manifest.v1+json",
)
"""Types of manifests beside images that are accepted in every request."""
NO_REFERRERS_API: Final = frozenset({400, 404, 405})
"""Statuses of registries without the referrers API."""
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
_TYPE: Final = re.compile(r"application/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_GENERIC_TYPES: Final = frozenset({"application/json", "application/octet-stream"})
"""Content types that do not identify the type of a manifest."""
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+"
_FOREIGN: Final = ("application/vnd.docker.image.rootfs.foreign.", "application/vnd.oci.image.layer.nondistributable.")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference from a manifest to other content; ``size`` in bytes.

    ``foreign`` marks a layer that is fetched from another server, so a registry may lack it. ``platform`` is that of a
    child of an index, such as ``linux/arm/v7``, empty if the index states none. ``typed`` means that it has an
    ``artifactType``.
    """

    digest: str
    size: int
    media_type: str
    foreign: bool = False
    platform: str = ""
    typed: bool = field(default=False, compare=False)

    @property
    def names_manifest(self) -> bool:
        """Return True if the media type is that of a manifest, by its name, or missing, which an index may have."""
        return not self.media_type or any(word in self.media_type for word in ("manifest", "index"))


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest with the exact bytes from its registry; ``digest`` is that of ``body``.

    ``skipped`` are digests of an index's entries that are no children here, since they are not to be copied.
    """

    digest: str
    media_type: str
    body: bytes = field(repr=False)
    skipped: frozenset[str] = frozenset()

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    def has_digest(self, digest: str) -> bool:
        """Return True if the bytes have the digest, of any algorithm."""
        return digest == self.digest or (is_digest(digest) and digest_matches(digest, self.body))

    @property
    def is_known(self) -> bool:
        """Return True for an image or an index. Other manifests are copied without interpretation."""
        return self.media_type in MANIFEST_TYPES

    def children(self) -> tuple[Descriptor, ...]:
        """Return the entries of an index: manifests, or blobs of a BuildKit cache. Raises MANIFEST_INVALID if malformed."""
        if self.is_known and not self.is_index:
            return ()
        found = tuple(self._descriptor(entry) for entry in self._list("manifests"))
        return tuple(each for each in found if each.digest not in self.skipped) if self.skipped else found

    @property
    def annotations(self) -> dict[str, Any]:
        """The annotations of the manifest, empty if it has none."""
        value = self._parsed().get("annotations")
        return value if isinstance(value, dict) else {}

    def needed(self) -> tuple[Descriptor, ...]:
        """Return the children, and for a manifest of unknown type also its subject. Raises MANIFEST_INVALID if malformed.

        A signature may be pushed before its image, but the subject of an unknown type may be required.
        """
        subject = None if self.is_known else self.subject
        return self.children() if subject is None else (*self.children(), subject)

    def listed(self, entries: EntryReader) -> tuple[Descriptor, ...]:
        """Return the entries of an index, read by ``entries``. Raises MANIFEST_INVALID if it has no list."""
        return tuple(entries.read(self._list("manifests"), self._descriptor))

    def layers(self) -> tuple[Descriptor, ...]:
        """Return the layers in order, none for an index. Raises MANIFEST_INVALID if malformed."""
        return () if self.is_index else tuple(self._descriptor(entry) for entry in self._list("layers"))

    def blobs(self) -> tuple[Descriptor, ...]:
        """Return all blobs in order, the config first, each digest once; none for an index. Raises MANIFEST_INVALID."""
        if self.is_index:
            return ()
        config = self._parsed().get("config")
        found = [] if config is None and not self.is_known else [self._descriptor(config)]
        found += self.layers()
        if not self.is_known:
            found += [self._descriptor(entry) for entry in self._list("blobs")]
        return tuple({blob.digest: blob for blob in found}.values())

    @property
    def subject(self) -> Descriptor | None:
        """The manifest that this one refers to (the image of a signature), if any."""
        value = self._parsed().get("subject")
        return None if value is None else self._descriptor(value)

    def as_entry(self) -> dict[str, Any]:
        """Return this manifest's entry for an index of referrers."""
        value = self._parsed()
        config = value.get("config")
        kind = value.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
        more = {"artifactType": kind, "annotations": value.get("annotations")}
        entry = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}
        return {**entry, **{name: value for name, value in more.items() if value}}

    def _parsed(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise self._invalid("it is not JSON") from None
        if not isinstance(value, dict):
            raise self._invalid("it is not a JSON object")
        return value

    def _list(self, key: str) -> list[Any]:
        value = self._parsed().get(key)
        if value is None and not self.is_known:
            return []
        if not isinstance(value, list):
            raise self._invalid(f"it has no list of {key}")
        return value

    def _descriptor(self, value: Any) -> Descriptor:
        if not isinstance(value, dict):
            raise self._invalid("a descriptor is missing")
        digest, size, media_type = value.get("digest"), value.get("size"), value.get("mediaType")
        if not isinstance(digest, str):
            raise self._invalid(f"a descriptor has the digest {describe(digest)}")
        try:
            parse_digest(digest)
        except SynclineError as error:
            raise self._invalid(error.what) from None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise self._invalid(f"{digest} has an invalid size: {describe(size)}")
        media_type = media_type if isinstance(media_type, str) else ""
        foreign = bool(value.get("urls")) or media_type.startswith(_FOREIGN)
        return Descriptor(digest, size, media_type, foreign, _platform(value.get("platform")), "artifactType" in value)

    def _invalid(self, why: str) -> SynclineError:
        return SynclineError("MANIFEST_INVALID", f"manifest {self.digest}: {why}")


def is_same_manifest(one: str, other: str, manifest: Callable[[], Manifest]) -> bool:
    """Return True if two digests are of the same bytes. ``manifest`` fetches these if the algorithms differ."""
    if one == other or one.partition(":")[0] == other.partition(":")[0]:
        return one == other
    bytes_of_one = manifest()
    return bytes_of_one.has_digest(one) and bytes_of_one.has_digest(other)


def is_manifest_type(text: str) -> bool:
    """Return True if a text is a valid media type that identifies a manifest."""
    return _TYPE.fullmatch(text) is not None and text not in _GENERIC_TYPES


def _platform(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    parts = [value.get(key) for key in ("os", "architecture", "variant")]
    return "/".join(part for part in parts if isinstance(part, str) and part)


def detect_media_type(content_type: str, body: bytes, where: str) -> str:
    """Return the media type of a manifest from its header and body, which must not contradict each other.

    ``where`` names the manifest in messages. Raises MANIFEST_UNSUPPORTED for schema 1 and without any type,
    MANIFEST_INVALID for a body of two types at once (CVE-2021-41190) or of another type than the header.
    """
    header = content_type.partition(";")[0].strip().lower()
    if header.startswith(_SCHEMA_1):
        raise SynclineError("MANIFEST_UNSUPPORTED", f"{where} is a manifest of schema 1")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping):
        raise SynclineError("MANIFEST_INVALID", f"{where} is not a JSON object")
    if value.get("schemaVersion") == 1:
        raise SynclineError("MANIFEST_UNSUPPORTED", f"{where} is a manifest of schema 1")
    own = value.get("mediaType")
    if header in MANIFEST_TYPES and own in MANIFEST_TYPES and header != own:
        raise SynclineError("MANIFEST_INVALID", f"{where} has the Content-Type {header} but the mediaType {own}")
    if header not in MANIFEST_TYPES and own not in MANIFEST_TYPES:
        for candidate in (header, own):
            if isinstance(candidate, str) and is_manifest_type(candidate):
                return candidate
        raise SynclineError("MANIFEST_UNSUPPORTED", f"{where} is of type {str(own or header)[:100]!r}")
    media_type = header if header in MANIFEST_TYPES else str(own)
    if ("manifests" in value) != (media_type in INDEX_TYPES) or ("layers" in value) == ("manifests" in value):
        raise SynclineError("MANIFEST_INVALID", f"{where} does not have the fields of {media_type}")
    return media_type


def referrers_tag(digest: str) -> str:
    """Return the tag of the index of a manifest's referrers, for registries without the API. Raises REFERENCE_INVALID."""
    algorithm, _, encoded = parse_digest(digest).partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


def add_referrers(index: Manifest | None, entries: Iterable[dict[str, Any]]) -> Manifest:
    """Return the index with the missing ones of ``entries`` added, otherwise unchanged; a new index for None."""
    empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    value: dict[str, Any] = empty if index is None else json.loads(index.body)
    listed = {entry["digest"] for entry in value["manifests"]}
    added = [entry for entry in entries if entry["digest"] not in listed]
    if index is not None and not added:
        return index
    body = json.dumps({**value, "manifests": [*value["manifests"], *added]}, separators=(",", ":")).encode()
    return Manifest(digest_of(body), OCI_INDEX if index is None else index.media_type, body)
