"""Referrers: what names an image as its subject and has no tag, found at the source and listed at the target."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from syncline.clients.oci import MANIFEST_TYPES, Descriptor, Manifest, Registry
from syncline.clients.oci_manifest import INDEX_TYPES
from syncline.clients.oci_referrers import list_tag, with_entries
from syncline.errors import SynclineError
from syncline.select import is_signature_tag

DEEPEST: Final = 8
"""How many referrers may refer to one another, and how many indexes may be nested in one another."""


def is_list(tag: str) -> bool:
    """Whether a tag's name is one that lists referrers where a registry has no API for them."""
    return is_signature_tag(tag) and "." not in tag


def grows(theirs: Manifest, ours: Manifest) -> bool | None:
    """Whether a list at the target is to become another one: not if it has all that the source's has, and more.

    None if one of them is no list. One that has the same entries in other bytes takes the source's bytes.
    """
    if not (theirs.is_index and ours.is_index):
        return None
    return not {each.digest for each in theirs.children()} < {each.digest for each in ours.children()}


class Referrers:
    """What refers to the manifests of one repository."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self._registry = registry
        self._repository = repository

    def of(self, manifest: Manifest, depth: int = 0) -> Iterator[tuple[str, Manifest]]:
        """All that refers to a manifest, to its children, and to what refers to those: the subject's digest, and what.

        What is listed but not there any more, has another subject or is of a type that is no image's is left out.
        Raises MANIFEST_INVALID where they are nested too deep.
        """
        if depth > DEEPEST:
            raise SynclineError("MANIFEST_INVALID", f"{manifest.digest}: referrers are nested deeper than {DEEPEST}")
        for subject in self._subjects(manifest):
            for each in self._registry.referrers(self._repository, subject):
                referrer = self._manifest(each)
                if referrer is not None and referrer.subject is not None and referrer.subject.digest == subject:
                    yield subject, referrer
                    yield from self.of(referrer, depth + 1)

    def digests(self, subject: str) -> set[str]:
        """What is listed as referring to a manifest."""
        return {each.digest for each in self._registry.referrers(self._repository, subject)}

    def _subjects(self, manifest: Manifest, depth: int = 0) -> Iterator[str]:
        yield manifest.digest
        if depth >= DEEPEST:
            return
        for child in manifest.children():
            if child.media_type not in INDEX_TYPES:
                yield child.digest
            elif (inner := self._manifest(child)) is not None:
                yield from self._subjects(inner, depth + 1)

    def _manifest(self, descriptor: Descriptor) -> Manifest | None:
        if descriptor.media_type not in MANIFEST_TYPES:
            return None
        try:
            return self._registry.manifest(self._repository, descriptor.digest)
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
    """The tags of a target repository that list referrers. They only grow; the caller holds the repository's lease."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self._registry = registry
        self._repository = repository
        self._lock = threading.Lock()

    def add(self, subject: str, referrer: Manifest) -> None:
        """Add a manifest to the list of those that refer to ``subject``; what is no list stays as it is."""
        tag = list_tag(subject)
        with self._lock:
            ours = self._at(tag)
            if ours is None or ours.is_index:
                grown = with_entries(ours, [referrer.as_entry()])
                if grown is not ours:
                    self._registry.put_manifest(self._repository, tag, grown)

    def merge(self, tag: str, theirs: Manifest) -> str | None:
        """Bring all entries of the source's list under the target's tag; the digest it has then.

        The source's own bytes, unless the target's list has more. None, with nothing done, where the target has
        something under the tag that is no list.
        """
        with self._lock:
            ours = self._at(tag)
            if ours is not None and not ours.is_index:
                return None
            more = (
                set() if ours is None else {e.digest for e in ours.children()} - {e.digest for e in theirs.children()}
            )
            grown = with_entries(ours, theirs.entries()) if more else theirs
            if ours is None or grown.digest != ours.digest:
                self._registry.put_manifest(self._repository, tag, grown)
            return grown.digest

    def _at(self, tag: str) -> Manifest | None:
        try:
            return self._registry.manifest(self._repository, tag)
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                return None
            raise
