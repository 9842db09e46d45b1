"""Manifests: their media types and what they point to. The bytes are kept as they came and never written anew."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.clients.http.listings import Entries, described
from syncline.clients.registry.reference import is_digest, matches, parse_digest
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
"""Types of manifests that registries hold beside images; others have to be named to be asked for."""

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
_TYPE: Final = re.compile(r"application/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_UNTOLD: Final = frozenset({"application/json", "application/octet-stream"})
"""Content types that do not tell the type of a manifest."""
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+"
_FOREIGN: Final = (
    "application/vnd.docker.image.rootfs.foreign.",
    "application/vnd.oci.image.layer.nondistributable.",
)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says about something it points to; ``size`` in bytes.

    ``foreign`` marks a layer that registries need not have (it is fetched from elsewhere): its absence is no failure.
    ``platform`` is that of a child of an index, such as ``linux/arm/v7``; empty if the index names none.
    """

    digest: str
    size: int
    media_type: str
    foreign: bool = False
    platform: str = ""

    @property
    def names_manifest(self) -> bool:
        """Return True if the media type is one of manifests, as far as its name tells; an index may leave it out."""
        return not self.media_type or any(word in self.media_type for word in ("manifest", "index"))


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as its registry sent it: ``digest`` is that of ``body``."""

    digest: str
    media_type: str
    body: bytes = field(repr=False)

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    def has_digest(self, digest: str) -> bool:
        """Return True if the bytes have the digest, whatever its algorithm."""
        return digest == self.digest or (is_digest(digest) and matches(digest, self.body))

    @property
    def is_known(self) -> bool:
        """Return True if the manifest is an image or an index; others come along as they are."""
        return self.media_type in MANIFEST_TYPES

    def children(self) -> tuple[Descriptor, ...]:
        """Return the entries of an index. Most are manifests, but an index of BuildKit's cache lists blobs.

        Raises MANIFEST_INVALID if malformed.
        """
        if self.is_known and not self.is_index:
            return ()
        return tuple(self._descriptor(entry) for entry in self._list("manifests"))

    def needed(self) -> tuple[Descriptor, ...]:
        """Return the children, and of a manifest of unknown type its subject too. Raises MANIFEST_INVALID if malformed.

        A signature may come before its image, but nobody knows what a manifest of unknown type means by its subject.
        """
        subject = None if self.is_known else self.subject
        return self.children() if subject is None else (*self.children(), subject)

    def listed(self, entries: Entries) -> tuple[Descriptor, ...]:
        """Return what an index lists, with its odd entries told. Raises MANIFEST_INVALID if it has no list."""
        return tuple(entries.read(self._list("manifests"), self._descriptor))

    def layers(self) -> tuple[Descriptor, ...]:
        """Return the layers, in order; none of an index. Raises MANIFEST_INVALID if malformed."""
        return () if self.is_index else tuple(self._descriptor(entry) for entry in self._list("layers"))

    def blobs(self) -> tuple[Descriptor, ...]:
        """Return config, layers and other blobs, each digest once, in order; none of an index.

        Raises MANIFEST_INVALID if malformed.
        """
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
        """The manifest this one says something about (a signature's image), if any."""
        value = self._parsed().get("subject")
        return None if value is None else self._descriptor(value)

    def entries(self) -> list[dict[str, Any]]:
        """What an index says of each manifest it points to, as it is written there. MANIFEST_INVALID if malformed."""
        self.children()
        return list(self._list("manifests"))

    def as_entry(self) -> dict[str, Any]:
        """What an index of referrers says of this manifest."""
        value = self._parsed()
        config = value.get("config")
        kind = value.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
        more = {"artifactType": kind, "annotations": value.get("annotations")}
        entry = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}
        return {**entry, **{name: said for name, said in more.items() if said}}

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
            raise self._invalid(f"a descriptor has the digest {described(digest)}")
        try:
            parse_digest(digest)
        except SynclineError as error:
            raise self._invalid(error.what) from None
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise self._invalid(f"{digest} has the size {described(size)}, which is no number of bytes")
        media_type = media_type if isinstance(media_type, str) else ""
        foreign = bool(value.get("urls")) or media_type.startswith(_FOREIGN)
        return Descriptor(digest, size, media_type, foreign, _platform(value.get("platform")))

    def _invalid(self, why: str) -> SynclineError:
        return SynclineError("MANIFEST_INVALID", f"manifest {self.digest}: {why}")


def is_same(one: str, other: str, manifest: Callable[[], Manifest]) -> bool:
    """Return True if two digests are of the same bytes; ``manifest`` gets those of one where the algorithms differ."""
    if one == other or one.partition(":")[0] == other.partition(":")[0]:
        return one == other
    bytes_of_one = manifest()
    return bytes_of_one.has_digest(one) and bytes_of_one.has_digest(other)


def is_type(text: str) -> bool:
    """Return True if a text is a media type that a manifest may have, fit for a header."""
    return _TYPE.fullmatch(text) is not None and text not in _UNTOLD


def _platform(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    parts = [value.get(key) for key in ("os", "architecture", "variant")]
    return "/".join(part for part in parts if isinstance(part, str) and part)


def media_type_of(content_type: str, body: bytes, where: str) -> str:
    """Return the media type of a manifest by its header and its own words, which must not contradict each other.

    Raises MANIFEST_UNSUPPORTED for schema 1 and where neither tells a type, MANIFEST_INVALID for a body of two kinds at
    once (the confusion of CVE-2021-41190) or of another kind than the header says.
    """
    said = content_type.partition(";")[0].strip().lower()
    if said.startswith(_SCHEMA_1):
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
    if said in MANIFEST_TYPES and own in MANIFEST_TYPES and said != own:
        raise SynclineError("MANIFEST_INVALID", f"{where} came as {said} but calls itself {own}")
    if said not in MANIFEST_TYPES and own not in MANIFEST_TYPES:
        return _unknown_type(said, own, where)
    media_type = said if said in MANIFEST_TYPES else str(own)
    if ("manifests" in value) != (media_type in INDEX_TYPES) or ("layers" in value) == ("manifests" in value):
        raise SynclineError("MANIFEST_INVALID", f"{where} does not have the fields of {media_type}")
    return media_type


def _unknown_type(said: str, own: object, where: str) -> str:
    for told in (said, own):
        if isinstance(told, str) and is_type(told):
            return told
    raise SynclineError("MANIFEST_UNSUPPORTED", f"{where} is of type {str(own or said)[:100]!r}")
