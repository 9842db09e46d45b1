"""Verification of images: the target is asked again for each tag, for all parts of its image, and for its referrers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Final

from syncline.clients.http.listings import ignore
from syncline.clients.registry.manifest import Descriptor, Manifest, is_same_manifest
from syncline.clients.registry.reference import is_digest
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.kinds.images.config_select import ImagesSelect
from syncline.kinds.images.details import INDEX, KEPT
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.parts import child_at, described
from syncline.kinds.images.referrers import Referrers, compare_referrers, is_list, lists_of, manifest_or_none
from syncline.kinds.images.removals import is_removal, placeholder
from syncline.kinds.images.selection import for_platforms
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item

AT_ONCE: Final = 8
"""Images verified at a time. Of the blobs of all of them, twice as many are requested at a time."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The registry that images were copied from. ``repository`` returns its name for a repository of the target.

    ``referrers`` says that the referrers of an image belong to it. With ``notes`` the source is asked whether tags have
    moved on, and repositories whose verification failed are noted. ``select`` tells which images of an index are copied.
    """

    registry: ImageStore
    repository: Callable[[str], str]
    referrers: bool = True
    notes: TargetNotes | None = None
    select: ImagesSelect | None = None


class ImageVerification:
    """Verification of images at one target registry, in one thread. Each part of a repository is requested once."""

    def __init__(
        self, target: ImageStore, origin: Origin | None = None, met: Callable[[Manifest], None] = lambda _: None
    ) -> None:
        """``origin`` is asked for the referrers of the images, and for children that the target lacks.

        ``met`` is called with each manifest whose parts are verified.
        """
        self._target = target
        self._origin = origin
        self._met = met
        self._found: set[tuple[str, str, int]] = set()
        self._sizes: ThreadPoolExecutor
        self._requested: dict[tuple[str, str], Future[int | None]] = {}
        self._lock = threading.Lock()

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        """Yield an answer for each item: completed only if the tag has the source's digest and no part is missing."""
        self._requested.clear()
        # Images wait for the sizes of blobs, and these wait for nothing.
        with (
            ThreadPoolExecutor(2 * AT_ONCE, thread_name_prefix="size") as self._sizes,
            ThreadPoolExecutor(AT_ONCE, thread_name_prefix="verify") as pool,
        ):
            for each in as_completed([pool.submit(self._answer, item, context) for item in items]):
                yield each.result()

    def _answer(self, item: Item, context: StepContext) -> Completed | Unfinished | Failure:
        if context.over:
            return Unfinished(item)
        absent: list[Descriptor] = []
        try:
            if is_removal(item):
                return self._removed(item)
            manifest = self._verify(item.group, item.name, str(item.source), absent)
            notes = self._verify_referrers(item, manifest, absent)
            notes += self._moved_on(item)
        except SynclineError as error:
            if error.code.name != "TIME_SHORT" and self._origin is not None and self._origin.notes is not None:
                self._origin.notes.note_unverified(item.group)
            return Failure(item, error)
        if absent:
            notes.append(f"the source lacks {described(absent)}, and so does the target")
        if INDEX in item.detail:
            notes.append(
                f"only the selected platforms of the source's index {item.detail[INDEX]}, so the digests differ"
            )
        if "replaced" in item.detail:
            notes.append(f"it replaced {item.detail['replaced']}{self._kept(item)}")
        return Completed(item, note="; ".join(notes))

    def _kept(self, item: Item) -> str:
        """Return the end of a sentence about a replaced image that is kept, after asking the target for it."""
        if KEPT not in item.detail:
            return ""
        old, tag = item.detail["replaced"], item.detail[KEPT]
        if self._target.manifest_digest(item.group, tag) != old:
            raise _missing(f"{item.group}:{tag} at {self._target.host} is not {old}, which {item.name} had before")
        return f", which is kept as {tag}"

    def _removed(self, item: Item) -> Completed:
        present = self._target.manifest_digest(item.group, item.name)
        if present is not None and present in (item.target, placeholder(item.group, item.name).digest):
            raise _missing(f"{item.group}:{item.name} is still {present} at {self._target.host}")
        return Completed(item, note="" if present is None else f"somebody else pushed {present} under this tag since")

    def _verify(self, repository: str, reference: str, digest: str, absent: list[Descriptor]) -> Manifest:
        # The manifest's bytes are hashed; the digest in the header is not relied on.
        manifest = manifest_or_none(self._target, repository, reference)
        if manifest is None:
            raise _missing(f"{repository}:{reference} is not at {self._target.host}")
        if not manifest.has_digest(digest):
            raise _missing(f"{repository}:{reference} at {self._target.host} is {manifest.digest}, not {digest}")
        select = None if self._origin is None else self._origin.select
        if select is not None and select.sparse and not is_digest(reference):
            manifest = for_platforms(manifest, select) or manifest
        self._verify_parts(repository, manifest, absent)
        return manifest

    def _verify_parts(self, repository: str, manifest: Manifest, absent: list[Descriptor]) -> None:
        self._met(manifest)
        for child in manifest.needed():
            if self._is_new(repository, child.digest):
                self._verify_child(repository, manifest, child, absent)
        # A foreign layer is kept elsewhere by design; a registry may or may not have it.
        blobs = [b for b in manifest.blobs() if not b.foreign and self._is_new(repository, b.digest, b.size)]
        for blob, size in zip(blobs, [self._size(repository, blob) for blob in blobs], strict=True):
            self._verify_size(repository, manifest, blob, size.result())

    def _size(self, repository: str, blob: Descriptor) -> Future[int | None]:
        """Return the size of a blob, requested for the first image that has it."""
        with self._lock:
            running = self._requested.get((repository, blob.digest))
            if running is None:
                running = self._sizes.submit(self._target.blob_size, repository, blob)
                self._requested[repository, blob.digest] = running
            return running

    def _verify_child(self, repository: str, manifest: Manifest, child: Descriptor, absent: list[Descriptor]) -> None:
        found = child_at(self._target, repository, child)
        if isinstance(found, Manifest):
            self._verify_parts(repository, found, absent)
            self._found.add((repository, child.digest, -1))
        elif found is None and self._is_absent_at_origin(repository, child):
            absent.append(child)
        else:
            self._verify_size(repository, manifest, child, found)

    def _verify_size(self, repository: str, manifest: Manifest, part: Descriptor, size: int | None) -> None:
        named = f"{repository}@{part.digest}, a part of {manifest.digest},"
        if size is None:
            raise _missing(f"{named} is not at {self._target.host}")
        if size != part.size:
            raise _missing(f"{named} has {size} bytes at {self._target.host} instead of {part.size}")
        self._found.add((repository, part.digest, size))

    def _is_absent_at_origin(self, repository: str, child: Descriptor) -> bool:
        origin = self._origin
        return origin is not None and child_at(origin.registry, origin.repository(repository), child) is None

    def _is_new(self, repository: str, digest: str, size: int = -1) -> bool:
        return (repository, digest, size) not in self._found

    def _verify_referrers(self, item: Item, manifest: Manifest, absent: list[Descriptor]) -> list[str]:
        """Verify the referrers of an image, and return notes about those of types that a registry may refuse."""
        notes: list[str] = []
        if self._origin is None or not self._origin.referrers or is_list(item.name):
            return notes
        source = Referrers(self._origin.registry, self._origin.repository(item.group), ignore, lists_of(item))
        target = Referrers(self._target, item.group, ignore)
        for subject, referrer, listed in compare_referrers(source, target, manifest):
            what = f"{item.group}@{referrer.digest}, which refers to {subject}, is not listed at {self._target.host}"
            if not listed and not referrer.is_known:
                notes.append(f"{what} ({referrer.media_type}, a type that registries may refuse)")
            elif not listed:
                raise _missing(what)
            elif self._is_new(item.group, referrer.digest):
                self._verify(item.group, referrer.digest, referrer.digest, absent)
                self._found.add((item.group, referrer.digest, -1))
        return notes

    def _moved_on(self, item: Item) -> list[str]:
        """Note a tag that has another digest at the source by now, and return a sentence about it."""
        if self._origin is None or self._origin.notes is None:
            return []
        registry, name = self._origin.registry, self._origin.repository(item.group)
        copied, now = str(item.detail.get(INDEX, item.source)), registry.manifest_digest(name, item.name)
        if now is None or is_same_manifest(copied, now, lambda: registry.manifest(name, item.name)):
            return []
        self._origin.notes.note_outdated(item.group, item.name, str(item.source))
        return [f"{copied} was copied; the source now has {now}, which the next run copies"]


def _missing(what: str) -> SynclineError:
    return SynclineError("NOT_ARRIVED", what)
