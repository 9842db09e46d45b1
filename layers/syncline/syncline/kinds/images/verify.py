"""Verifying images: the target is asked again for each, for everything it is made of, and for what refers to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Final

from syncline.clients.http.listings import ignore
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Descriptor, Manifest, is_same
from syncline.errors import SynclineError
from syncline.kinds.images.memory import Notes
from syncline.kinds.images.referrers import Compared, Referrers, is_list
from syncline.kinds.images.transfer import child_at, names
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item

AT_ONCE: Final = 8
"""Images asked for at a time."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The source that images came from. ``repository`` gives its name for a repository of the target.

    ``referrers`` says that what refers to an image belongs to it. With ``notes`` the source is asked whether tags have moved
    on, and what could not be verified is noted.
    """

    registry: Registry
    repository: Callable[[str], str]
    referrers: bool = True
    notes: Notes | None = None


class Proof:
    """Asks one target registry. What has been found in a repository is not asked for twice."""

    def __init__(self, target: Registry, origin: Origin | None = None) -> None:
        """``origin`` is asked for what refers to the images, and for children that the target lacks."""
        self._target = target
        self._origin = origin
        self._found: set[tuple[str, str, int]] = set()
        self._lock = threading.Lock()

    def of(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        """An answer for each item: arrived only if the tag has the source's digest and every part is there."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="prove") as pool:
            for each in as_completed([pool.submit(self._answer, item, context) for item in items]):
                yield each.result()

    def _answer(self, item: Item, context: StepContext) -> Completed | Unfinished | Failure:
        if context.over:
            return Unfinished(item)
        absent: list[Descriptor] = []
        try:
            manifest = self._prove(item.group, item.name, str(item.source), absent)
            notes = self._prove_referrers(item, manifest, absent)
            notes += self._moved_on(item)
        except SynclineError as error:
            if error.code.name != "TIME_SHORT" and self._origin is not None and self._origin.notes is not None:
                self._origin.notes.note_unverified(item.group)
            return Failure(item, error)
        if absent:
            notes.append(f"the source lacks {names(absent)}, and so does the target")
        if "replaced" in item.detail:
            notes.append(f"it replaced {item.detail['replaced']}")
        return Completed(item, note="; ".join(notes))

    def _moved_on(self, item: Item) -> list[str]:
        """Note a tag that is another one at the source by now, and return that as a sentence."""
        if self._origin is None or self._origin.notes is None:
            return []
        registry, name = self._origin.registry, self._origin.repository(item.group)
        copied, now = str(item.source), registry.manifest_digest(name, item.name)
        if now is None or is_same(copied, now, lambda: registry.manifest(name, item.name)):
            return []
        self._origin.notes.note_outdated(item.group, item.name, copied)
        return [f"{copied} was copied, and the source has {now} by now; the next run copies that"]

    def _prove_referrers(self, item: Item, manifest: Manifest, absent: list[Descriptor]) -> list[str]:
        """Verify what refers to an image, and return notes about what a registry may refuse for its type."""
        notes: list[str] = []
        if self._origin is None or not self._origin.referrers or is_list(item.name):
            return notes
        there = Referrers(self._origin.registry, self._origin.repository(item.group), ignore)
        for subject, referrer, listed in Compared(there, Referrers(self._target, item.group, ignore)).of(manifest):
            what = f"{item.group}@{referrer.digest}, which refers to {subject}, is not listed at {self._target.host}"
            if not listed and not referrer.is_known:
                notes.append(f"{what} ({referrer.media_type}, a type that registries may refuse)")
            elif not listed:
                raise _absent(what)
            elif self._is_new(item.group, referrer.digest):
                self._prove(item.group, referrer.digest, referrer.digest, absent)
                self._remember(item.group, referrer.digest)
        return notes

    def _prove(self, repository: str, reference: str, digest: str, absent: list[Descriptor]) -> Manifest:
        try:
            # The manifest's own bytes are hashed; what a header says of them is not relied on.
            manifest = self._target.manifest(repository, reference)
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                raise _absent(f"{repository}:{reference} is not at {self._target.host}") from None
            raise
        if not manifest.has_digest(digest):
            what = f"{repository}:{reference} at {self._target.host} is {manifest.digest}, not {digest}"
            raise _absent(what)
        self._prove_parts(repository, manifest, absent)
        return manifest

    def _prove_parts(self, repository: str, manifest: Manifest, absent: list[Descriptor]) -> None:
        for child in manifest.needed():
            if self._is_new(repository, child.digest):
                self._prove_child(repository, manifest, child, absent)
        for blob in manifest.blobs():
            # A foreign layer lies elsewhere by design; a registry may or may not have it.
            if not blob.foreign and self._is_new(repository, blob.digest, blob.size):
                self._prove_size(repository, manifest, blob, self._target.blob_size(repository, blob))

    def _prove_child(self, repository: str, manifest: Manifest, child: Descriptor, absent: list[Descriptor]) -> None:
        found = child_at(self._target, repository, child)
        if isinstance(found, Manifest):
            self._prove_parts(repository, found, absent)
            self._remember(repository, child.digest)
        elif found is None and self._is_absent_at_origin(repository, child):
            absent.append(child)
        else:
            self._prove_size(repository, manifest, child, found)

    def _prove_size(self, repository: str, manifest: Manifest, part: Descriptor, size: int | None) -> None:
        named = f"{repository}@{part.digest}, a part of {manifest.digest},"
        if size is None:
            raise _absent(f"{named} is not at {self._target.host}")
        if size != part.size:
            raise _absent(f"{named} has {size} bytes at {self._target.host} instead of {part.size}")
        self._remember(repository, part.digest, size)

    def _is_absent_at_origin(self, repository: str, child: Descriptor) -> bool:
        origin = self._origin
        return origin is not None and child_at(origin.registry, origin.repository(repository), child) is None

    def _is_new(self, repository: str, digest: str, size: int = -1) -> bool:
        return (repository, digest, size) not in self._found

    def _remember(self, repository: str, digest: str, size: int = -1) -> None:
        with self._lock:
            self._found.add((repository, digest, size))


def _absent(what: str) -> SynclineError:
    return SynclineError("NOT_ARRIVED", what)
