"""Tags that belong to an image: cosign's, and those that list its referrers. They follow the source while they grow.

A tag's name only makes it a candidate. All that a list of referrers names has the image as its subject. Layers of cosign's
are no file systems; where they are, the image that the tag is named after has to be there. Anything else under such a name
is an ordinary image, protected like any other.
"""

from __future__ import annotations

from typing import Final

from syncline.clients.registry.client import Descriptor, Manifest, Registry
from syncline.clients.registry.manifest import OCI_INDEX
from syncline.clients.registry.reference import is_digest
from syncline.clients.registry.referrers import list_tag
from syncline.errors import SynclineError
from syncline.patterns import is_signature_tag, signature_subject

ENDINGS: Final = ("", ".sig", ".att", ".sbom")
"""Endings of the tags that belong to an image; without one it is the tag that lists its referrers."""
_FILE_SYSTEMS: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")


def is_list(tag: str) -> bool:
    """Return True if a tag's name is one that lists referrers where a registry has no API for them."""
    return is_signature_tag(tag) and "." not in tag


def tags_of(manifest: Manifest) -> list[str]:
    """Return the tags that may belong to an image and to the children of an index."""
    digests = [manifest.digest, *(child.digest for child in manifest.children())]
    return [f"{list_tag(digest)}{ending}" for digest in digests for ending in ENDINGS]


class Attached:
    """The attached tags of one repository."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self._registry = registry
        self._repository = repository
        self._referrers: set[tuple[str, str]] = set()

    def grew(self, tag: str, theirs: Manifest, ours: Manifest) -> bool:
        """Return True if `theirs`, in this repository, is all of `ours` and perhaps more, both under an attached tag."""
        if not is_signature_tag(tag):
            return False
        if is_list(tag):
            return (
                ours.media_type == OCI_INDEX
                and _digests(ours.children()) <= _digests(theirs.children())
                and self.is_referrer_list(tag, theirs)
            )
        layers = _digests(ours.layers())
        if not layers or not layers <= _digests(theirs.layers()):
            return False
        return _has_no_file_system(theirs) or self._has_subject(tag)

    def is_referrer_list(self, tag: str, index: Manifest) -> bool:
        """Return True if an index in this repository lists only referrers of the image that the tag is named after."""
        if index.media_type != OCI_INDEX:
            return False
        pairs = zip(index.children(), index.entries(), strict=True)
        return all(self._refers(tag, child, typed="artifactType" in entry) for child, entry in pairs)

    def _has_subject(self, tag: str) -> bool:
        subject = signature_subject(tag) or ""
        return is_digest(subject) and self._registry.manifest_digest(self._repository, subject) is not None

    def _refers(self, tag: str, entry: Descriptor, *, typed: bool) -> bool:
        if (tag, entry.digest) in self._referrers:
            return True
        try:
            subject = self._registry.manifest(self._repository, entry.digest, entry.media_type).subject
        except SynclineError as error:
            if error.retried:
                raise
            # Lists keep entries of referrers that were removed; only their form tells what they were.
            return error.code.name == "NOT_FOUND" and typed and not entry.platform
        refers = subject is not None and list_tag(subject.digest) == tag
        if refers:
            self._referrers.add((tag, entry.digest))
        return refers


def _has_no_file_system(manifest: Manifest) -> bool:
    return not any(layer.media_type.startswith(_FILE_SYSTEMS) for layer in manifest.layers())


def _digests(descriptors: tuple[Descriptor, ...]) -> set[str]:
    return {each.digest for each in descriptors}
