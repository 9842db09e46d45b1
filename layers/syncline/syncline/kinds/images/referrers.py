"""Referrers of images: untagged ones, the tags that list them, and the tags that signing tools attach.

A referrer is a manifest that names an image as its ``subject``. A registry lists the referrers of a digest through its
API; where it has none, the tag ``sha256-<digest>`` lists them (``OCI distribution specification 1.1, referrers tag
schema``). cosign attaches tags of the same form with an ending. Attached tags follow the source while they only grow.

The name of a tag only makes it a candidate. In a list of referrers all entries have the image as their subject. The
layers of a cosign tag are no file systems; where they are, the image that the tag is named after must exist. Anything
else under such a name is an ordinary image, protected like any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from syncline.clients.http.listings import OnInvalid
from syncline.clients.registry.client import TagTakenError
from syncline.clients.registry.manifest import (
    INDEX_TYPES,
    OCI_INDEX,
    Descriptor,
    Manifest,
    add_referrers,
    referrers_tag,
)
from syncline.clients.registry.reference import is_digest
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.model import Item
from syncline.patterns import is_signature_tag, signature_subject

DEEPEST: Final = 8
"""Most levels of referrers that refer to one another, and of indexes that contain one another."""
ENDINGS: Final = ("", ".sig", ".att", ".sbom")
"""Endings of attached tags; the tag without an ending lists referrers."""
FILE_SYSTEMS: Final = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
"""The beginnings of the types of layers that are file systems."""


def manifest_or_none(registry: ImageStore, repository: str, reference: str, media_type: str = "") -> Manifest | None:
    """Return a manifest by tag or digest, None if the repository does not have it."""
    try:
        return registry.manifest(repository, reference, media_type)
    except SynclineError as error:
        if error.code.name == "NOT_FOUND":
            return None
        raise


class Referrers:
    """The referrers of the manifests of one repository. ``odd`` is called with unreadable entries of their lists.

    ``has_tag`` tells if the repository's listing has a tag. A registry that lists referrers by tag is not asked for lists
    that are not there.
    """

    def __init__(
        self, registry: ImageStore, repository: str, odd: OnInvalid, has_tag: Callable[[str], bool] | None = None
    ) -> None:
        self._has_tag = has_tag
        self._registry = registry
        self._repository = repository
        self._odd = odd

    def of(self, manifest: Manifest, depth: int = 0) -> Iterator[tuple[str, Manifest]]:
        """Yield the referrers of a manifest, of its children and of those referrers, each with its subject's digest.

        A listed entry that no longer exists, has another subject or is no manifest is skipped.
        Raises MANIFEST_INVALID if they are nested too deep.
        """
        if depth > DEEPEST:
            raise SynclineError("MANIFEST_INVALID", f"{manifest.digest}: referrers are nested deeper than {DEEPEST}")
        for subject in self._subjects(manifest):
            if self._is_unlisted(subject):
                continue
            for each in self._registry.referrers(self._repository, subject, self._odd):
                referrer = self._manifest(each)
                if referrer is not None and referrer.subject is not None and referrer.subject.digest == subject:
                    yield subject, referrer
                    yield from self.of(referrer, depth + 1)

    def digests(self, subject: str) -> set[str]:
        """Return the digests that are listed as referrers of a manifest."""
        return {each.digest for each in self._registry.referrers(self._repository, subject, self._odd)}

    def _is_unlisted(self, subject: str) -> bool:
        if self._has_tag is None or not self._registry.lists_referrers_by_tag:
            return False
        return not self._has_tag(referrers_tag(subject))

    def _subjects(self, manifest: Manifest, depth: int = 0) -> Iterator[str]:
        yield manifest.digest
        if depth >= DEEPEST:
            return
        for child in manifest.children():
            if child.media_type not in INDEX_TYPES:
                if child.names_manifest:
                    yield child.digest
            elif (inner := self._manifest(child)) is not None:
                yield from self._subjects(inner, depth + 1)

    def _manifest(self, descriptor: Descriptor) -> Manifest | None:
        if not descriptor.names_manifest:
            return None
        return manifest_or_none(self._registry, self._repository, descriptor.digest, descriptor.media_type)


def compare_referrers(source: Referrers, target: Referrers, manifest: Manifest) -> Iterator[tuple[str, Manifest, bool]]:
    """Yield the source's referrers of an image: the subject's digest, the referrer, and True if the target lists it.

    The target is asked only about manifests that have referrers at the source.
    """
    at_target: dict[str, set[str]] = {}
    for subject, referrer in source.of(manifest):
        if subject not in at_target:
            at_target[subject] = target.digests(subject)
        yield subject, referrer, referrer.digest in at_target[subject]


def lists_of(item: Item) -> Callable[[str], bool] | None:
    """Return a function that is False for tags that the source's listing lacked, None if the scan did not tell that."""
    return _no_tag if item.detail.get("signed") is False else None


def _no_tag(_tag: str) -> bool:
    return False


def is_list(tag: str) -> bool:
    """Return True if a tag's name is one that lists referrers where a registry has no API for them."""
    return is_signature_tag(tag) and "." not in tag


def attached_tags_of(manifest: Manifest) -> list[str]:
    """Return the names of all tags that may be attached to an image and to the children of an index."""
    digests = [manifest.digest, *(child.digest for child in manifest.children())]
    return [f"{referrers_tag(digest)}{ending}" for digest in digests for ending in ENDINGS]


class AttachedTags:
    """The attached tags of one repository. Whoever changes them holds the repository's lease."""

    def __init__(self, registry: ImageStore, repository: str) -> None:
        self.manifest = partial(registry.manifest, repository)
        self._registry = registry
        self._repository = repository
        self._referrers: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def grew(self, tag: str, new: Manifest, old: Manifest) -> bool:
        """Return True if ``new``, in this repository, contains all of ``old``, both under one attached tag."""
        if not is_signature_tag(tag):
            return False
        if is_list(tag):
            return (
                old.media_type == OCI_INDEX
                and _digests(old.children()) <= _digests(new.children())
                and self.is_referrer_list(tag, new)
            )
        layers = _digests(old.layers())
        if not layers or not layers <= _digests(new.layers()):
            return False
        has_file_system = any(layer.media_type.startswith(FILE_SYSTEMS) for layer in new.layers())
        return not has_file_system or self._has_subject(tag)

    def is_referrer_list(self, tag: str, index: Manifest) -> bool:
        """Return True if an index in this repository lists only referrers of the image that the tag is named after."""
        return index.media_type == OCI_INDEX and all(self._refers(tag, child) for child in index.children())

    def _has_subject(self, tag: str) -> bool:
        subject = signature_subject(tag) or ""
        return is_digest(subject) and self._registry.manifest_digest(self._repository, subject) is not None

    def _refers(self, tag: str, entry: Descriptor) -> bool:
        if (tag, entry.digest) in self._referrers:
            return True
        try:
            subject = self.manifest(entry.digest, entry.media_type).subject
        except SynclineError as error:
            if error.retried:
                raise
            # Lists keep entries of deleted referrers; then the form of the entry decides.
            return error.code.name == "NOT_FOUND" and entry.typed and not entry.platform
        refers = subject is not None and referrers_tag(subject.digest) == tag
        if refers:
            self._referrers.add((tag, entry.digest))
        return refers

    def add(self, subject: str, referrer: Manifest) -> None:
        """Add a manifest to the list of those that refer to ``subject``. Raises TAG_DIFFERS if the tag is no list."""
        tag = referrers_tag(subject)
        with self._lock:
            ours = manifest_or_none(self._registry, self._repository, tag)
            if ours is not None and not self.is_referrer_list(tag, ours):
                where = f"{self._registry.host}/{self._repository}:{tag}"
                what = (
                    f"{where} is {ours.digest}, which lists no referrers, so {referrer.digest} cannot be listed there"
                )
                raise SynclineError("TAG_DIFFERS", what)
            grown = add_referrers(ours, [referrer.as_entry()])
            if grown is not ours:
                self._registry.put_tag(self._repository, tag, grown, ours)

    def follow(self, tag: str, theirs: Manifest, source: AttachedTags) -> str | None:
        """Copy an attached tag of the source that is new or grew, and return the digest it replaced.

        Raises TagTakenError if the target has something else under the tag.
        """
        with self._lock:
            ours = manifest_or_none(self._registry, self._repository, tag)
            if ours is not None and ours.digest != theirs.digest and not source.grew(tag, theirs, ours):
                what = f"{self._repository}:{tag} at {self._registry.host} is now {ours.digest}, not {theirs.digest}"
                raise TagTakenError(ours.digest, what)
            return self._registry.put_tag(self._repository, tag, theirs, ours)


def _digests(descriptors: tuple[Descriptor, ...]) -> set[str]:
    return {each.digest for each in descriptors}
