"""Referrers: what names an image as its subject and has no tag, found at the source and listed at the target."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from syncline.clients.http.listings import OnOdd
from syncline.clients.registry.client import Descriptor, Manifest, Registry, TagTakenError
from syncline.clients.registry.manifest import INDEX_TYPES
from syncline.clients.registry.referrers import list_tag, with_entries
from syncline.errors import SynclineError
from syncline.kinds.images.attached import Attached

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
