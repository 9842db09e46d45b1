"""Referrers: what names an image as its subject and has no tag, found at the source and listed at the target."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from syncline.clients.http.listings import OnOdd
from syncline.clients.registry.client import Registry, TagTakenError
from syncline.clients.registry.manifest import INDEX_TYPES, OCI_INDEX, Descriptor, Manifest
from syncline.clients.registry.reference import is_digest
from syncline.clients.registry.referrers import list_tag, with_entries
from syncline.errors import SynclineError
from syncline.patterns import is_signature_tag, signature_subject

DEEPEST: Final = 8
"""How many referrers may refer to one another, and how many indexes may be nested in one another."""


class Referrers:
    """What refers to the manifests of one repository. ``odd`` is called with the odd entries of its lists."""

    def __init__(self, registry: Registry, repository: str, odd: OnOdd) -> None:
        self._registry = registry
        self._repository = repository
        self._odd = odd

    def of(self, manifest: Manifest, depth: int = 0) -> Iterator[tuple[str, Manifest]]:
        """All that refers to a manifest, to its children, and to what refers to those: the subject's digest, and what.

        What is listed but not there any more, has another subject or is no manifest is left out.
        Raises MANIFEST_INVALID where they are nested too deep.
        """
        if depth > DEEPEST:
            raise SynclineError("MANIFEST_INVALID", f"{manifest.digest}: referrers are nested deeper than {DEEPEST}")
        for subject in self._subjects(manifest):
            for each in self._registry.referrers(self._repository, subject, self._odd):
                referrer = self._manifest(each)
                if referrer is not None and referrer.subject is not None and referrer.subject.digest == subject:
                    yield subject, referrer
                    yield from self.of(referrer, depth + 1)

    def digests(self, subject: str) -> set[str]:
        """What is listed as referring to a manifest."""
        return {each.digest for each in self._registry.referrers(self._repository, subject, self._odd)}

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
        try:
            return self._registry.manifest(self._repository, descriptor.digest, descriptor.media_type)
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                return None
            raise


class Compared:
    """What refers to a source's images, held against what the target lists."""

    def __init__(self, source: Referrers, target: Referrers) -> None:
        self._source = source
        self._target = target

    def of(self, manifest: Manifest) -> Iterator[tuple[str, Manifest, bool]]:
        """All that refers to an image: the subject's digest, what refers to it, whether the target lists it there.

        The target is asked only for what has referrers at the source.
        """
        here: dict[str, set[str]] = {}
        for subject, referrer in self._source.of(manifest):
            if subject not in here:
                here[subject] = self._target.digests(subject)
            yield subject, referrer, referrer.digest in here[subject]


class Lists:
    """The tags of a target repository that list referrers; the caller holds the repository's lease."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self._registry = registry
        self._repository = repository
        self._attached = Attached(registry, repository)
        self._lock = threading.Lock()

    def add(self, subject: str, referrer: Manifest) -> None:
        """Add a manifest to the list of those that refer to ``subject``. Raises TAG_DIFFERS where that is no list."""
        tag = list_tag(subject)
        with self._lock:
            ours = self._at(tag)
            if ours is not None and not self._attached.is_referrer_list(tag, ours):
                where = f"{self._registry.host}/{self._repository}:{tag}"
                what = (
                    f"{where} is {ours.digest}, which lists no referrers, so {referrer.digest} cannot be listed there"
                )
                raise SynclineError("TAG_DIFFERS", what)
            grown = with_entries(ours, [referrer.as_entry()])
            if grown is not ours:
                self._registry.put_tag(self._repository, tag, grown, ours)

    def follow(self, tag: str, theirs: Manifest, source: Attached) -> str | None:
        """Put an attached tag of the source's that is new or grew, and return the digest it replaced.

        Raises TagTakenError where the target's has something else.
        """
        with self._lock:
            ours = self._at(tag)
            if ours is not None and ours.digest != theirs.digest and not source.grew(tag, theirs, ours):
                what = f"{self._repository}:{tag} at {self._registry.host} became {ours.digest}, not {theirs.digest}"
                raise TagTakenError(ours.digest, what)
            return self._registry.put_tag(self._repository, tag, theirs, ours)

    def _at(self, tag: str) -> Manifest | None:
        try:
            return self._registry.manifest(self._repository, tag)
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                return None
            raise


# Tags that belong to an image: cosign's, and those that list its referrers. They follow the source while they grow.
#
# A tag's name only makes it a candidate. All that a list of referrers names has the image as its subject. Layers of cosign's
# are no file systems; where they are, the image that the tag is named after has to be there. Anything else under such a name
# is an ordinary image, protected like any other.

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
