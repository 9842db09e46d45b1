"""Copy of images from one repository to another, byte for byte: their parts, their referrers, then their tags.

The parts of an image are its blobs and, of an index, its child manifests. A registry shows an image once its manifest is
put, which comes last, so an interrupted copy leaves no incomplete image. Parts are checked with their sizes even where
the tag is right already: a registry may have lost some.

An image that is replaced may be kept at the target under another tag, put before the new image gets its tag.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial

from syncline.clients.http.listings import InvalidEntry, ignore
from syncline.clients.registry.client import TagTakenError
from syncline.clients.registry.manifest import Manifest, is_same_manifest
from syncline.clients.registry.reference import is_digest
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.config_rules import LONGEST_TAG, Keeping, short_digest
from syncline.kinds.images.details import ASK, INDEX, KEPT, kept_detail
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.parts import ImageProgress, PartsCopy
from syncline.kinds.images.pieces import CopyRoute
from syncline.kinds.images.referrers import AttachedTags, Referrers, attached_tags_of, compare_referrers, lists_of
from syncline.kinds.images.removals import placeholder
from syncline.kinds.images.selection import for_platforms, none_selected
from syncline.kinds.images.signatures import Trust, UntrustedError, untrusted
from syncline.kinds.kind import FOUND_EQUAL, Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result
from syncline.patterns import is_signature_tag

TransferResult = Completed | Unfinished | Result | Failure


class RepositoryCopy:
    """Copy of images from one repository to another, each part once."""

    def __init__(  # noqa: PLR0913 - the facts and rules of one sync
        self,
        route: CopyRoute,
        locations: BlobLocations,
        context: StepContext,
        sync: ImagesSync,
        notes: TargetNotes,
        *,
        trust: Trust,
    ) -> None:
        self._source, self._from = route.source, route.source_repository
        self._target, self._to = route.target, route.target_repository
        self._parts = PartsCopy(route, locations, context, sync.concurrency, notes)
        self._context = context
        self._sync = sync
        self._notes = notes
        self._trust = trust.of(self._source, self._from)
        self._attached = AttachedTags(self._source, self._from)
        self._kept: KeptImages | None = None
        if sync.keeping is not None:
            self._kept = KeptImages(sync.keeping, self._source, self._from, self._target, self._to, context.run)
        self._invalid: dict[str, InvalidEntry] = {}
        self._attached_names: frozenset[str] | None = None
        self._copied_tags: set[str] = set()
        self._lock = threading.Lock()

    def images(self, items: Sequence[Item]) -> Iterator[TransferResult]:
        """Copy the items, several at a time; yield an answer for each as it ends, and one for each invalid referrer."""
        self._parts.resume_uploads(items)
        with ThreadPoolExecutor(self._sync.concurrency, thread_name_prefix="image") as images, self._parts.pool:
            for attached in (True, False):
                some = [item for item in items if is_signature_tag(item.name) is attached]
                for each in as_completed([images.submit(self._answer, item) for item in some]):
                    yield each.result()
        for label, invalid in self._invalid.items():
            error = invalid.error
            yield Result(self._to, label, Outcome.FAILED, code=error.code.name, reason=error.what)

    def _answer(self, item: Item) -> TransferResult:
        progress = ImageProgress(item)
        if self._context.over:
            return Unfinished(progress.saved_in(item))
        before = progress.sent
        try:
            return self._copy(item, progress)
        except UntrustedError as error:
            return untrusted(item, error)
        except SynclineError as error:
            if error.code.name == "TIME_SHORT" and progress.sent > before:
                return Unfinished(progress.saved_in(item), not progress.further)  # bytes were sent: no failed attempt
            return Failure(progress.saved_in(item), error, further=progress.continued)

    def _copy(self, item: Item, progress: ImageProgress) -> TransferResult:
        # By name: the tag may have moved since the scan, and an old digest must not undo a newer one.
        whole = self._source.manifest(self._from, item.name)
        selected = self._selected(item, whole)
        if isinstance(selected, Result):
            return selected
        attached = is_signature_tag(item.name)
        # Before anything is sent. A signature is that of the source's image, also if only some platforms are copied.
        (self._trust.check_attached if attached else self._trust.check)(whole)
        # In a repository that had no tags during the scan, only `put_tag` asks for the tag.
        fresh = bool(item.detail.get("fresh"))
        item, manifest = selected
        present = None if fresh else self._target.manifest_digest(self._to, item.name)
        equal = present is not None and manifest.has_digest(present)
        differing, may_put = replace(item, target=present), present is None or equal or self._sync.overwrites
        if not may_put and not self._may_replace(differing, manifest):
            return conflict(differing)
        done = self._parts.copy(manifest, progress)
        # Referrers and attached tags come before the tag: whoever waits for the tag finds the signature.
        done = done and (attached or self._copy_attached(item, manifest, progress))
        if not done or not self._copy_referrers(item, manifest, progress) or self._context.halted():
            return Unfinished(progress.saved_in(item), not progress.further)
        if equal:
            if KEPT in item.detail and self._kept is not None:
                self._kept.keep(item.name, item.detail["replaced"])  # its verification failed
            progress.further |= self._parts.mend(manifest, listed_by=item.name)
            if present == item.target and not progress.sent and not progress.further:
                # The scan passed it on to have its parts checked, for example if its referrers could not be listed.
                item = replace(item, detail={**item.detail, FOUND_EQUAL: True})
            return Completed(item, progress.sent)
        return self._put(item, manifest, present, progress)

    def _put(self, item: Item, manifest: Manifest, present: str | None, progress: ImageProgress) -> Completed | Result:
        """Put an image, whose parts are at the target, under its tag or digest."""
        if manifest.subject is not None or is_digest(item.name):
            self._parts.put(manifest, listed_by=item.name)
        if is_digest(item.name):
            return Completed(item, progress.sent)
        kept: dict[str, str] = {}
        try:
            if is_signature_tag(item.name) and not self._sync.overwrites:
                replaced = self._parts.attached.follow(item.name, manifest, self._attached)
            elif self._kept is not None and self._is_image(item, present):
                kept = {KEPT: self._kept.keep(item.name, str(present))}
                # Only what was kept is replaced: if the tag moved on meanwhile, it is a conflict until the next run.
                replaced = self._target.put_tag(self._to, item.name, manifest, present)
            else:
                replaced = self._target.put_tag(self._to, item.name, manifest, present, overwrite=self._sync.overwrites)
        except TagTakenError as taken:
            return conflict(replace(item, target=taken.digest), taken.what)
        except SynclineError as error:
            raise self._parts.explained(manifest, error) from error
        if replaced is not None:
            item = replace(item, detail={**item.detail, "replaced": replaced, **kept})
        return Completed(item, progress.sent)

    def _is_image(self, item: Item, present: str | None) -> bool:
        """Return True if the target has an image under a tag: no signature, and no removal that was interrupted."""
        alone = placeholder(self._to, item.name).digest
        return present not in (None, alone) and not is_signature_tag(item.name)

    def _may_replace(self, differing: Item, manifest: Manifest) -> bool:
        return is_replaceable(differing, self._target, self._attached, self._notes, manifest) or adds_platforms(
            differing, self._target, manifest
        )

    def _selected(self, item: Item, whole: Manifest) -> tuple[Item, Manifest] | Result:
        """Return an item and its manifest with the selected platforms only, or the result of one that is left out."""
        select, detail = self._sync.select, kept_detail(item)
        if not _is_tag(item):
            return replace(item, source=whole.digest, detail=detail), whole
        if select.older_than is not None and whole.digest != item.detail.get(INDEX, item.source):
            reason = "the tag moved on after its age was checked; the next run checks it again"
            return Result(item.group, item.name, Outcome.LEFT_OUT, whole.digest, item.target, reason=reason)
        manifest = for_platforms(whole, select)
        if manifest is None:
            return none_selected(item.group, item.name, whole.digest)
        detail.pop(INDEX, None)
        if manifest.digest != whole.digest:
            detail[INDEX] = whole.digest
        return replace(item, source=manifest.digest, detail=detail), manifest

    def _copy_attached(self, item: Item, manifest: Manifest, progress: ImageProgress) -> bool:
        """Copy the tags attached to an image, and return False if time was short.

        One that cannot be copied is reported as an item by itself and does not delay the image.
        """
        if not item.detail.get("signed"):
            return True
        for tag in attached_tags_of(manifest):
            if tag in self._copied_tags or not self._is_at_source(tag, item):
                continue
            try:
                answer = self._copy(Item(item.group, tag), progress)
            except SynclineError as error:
                if error.retried:
                    raise
                continue
            if isinstance(answer, Unfinished):
                return False
            self._copied_tags.add(tag)
        return True

    def _is_at_source(self, tag: str, item: Item) -> bool:
        """Return True if the source has an attached tag."""
        if item.detail["signed"] == ASK:
            return self._source.manifest_digest(self._from, tag) is not None
        with self._lock:
            if self._attached_names is None:
                self._attached_names = frozenset(filter(is_signature_tag, self._source.tags(self._from, ignore)))
            return tag in self._attached_names

    def _check_referrer(self, manifest: Manifest, referrer: Manifest) -> None:
        """Check a referrer of an image. Raises UntrustedError for the image, since its referrers belong to it."""
        try:
            self._trust.check_attached(referrer)
        except UntrustedError as error:
            what = f"{referrer.digest}, which refers to it, can be run as an image: {error.what}"
            raise UntrustedError(manifest.digest, what) from None

    def _copy_referrers(self, item: Item, manifest: Manifest, progress: ImageProgress) -> bool:
        """Copy the referrers of an image that the target does not list, and return False if time was short."""
        if self._sync.referrers == "none":
            return True
        invalid: list[InvalidEntry] = []
        source = Referrers(self._source, self._from, invalid.append, lists_of(item))
        target = Referrers(self._target, self._to, invalid.append)
        for _, referrer, listed in compare_referrers(source, target, manifest):
            if listed and not self._parts.asked:
                continue
            self._check_referrer(manifest, referrer)
            if self._context.over or not self._parts.copy(referrer, progress):
                return False
            if listed:
                progress.further |= self._parts.mend(referrer)
                continue
            try:
                self._parts.put(referrer)
            except SynclineError as error:
                if error.code.name != "MANIFEST_UNSUPPORTED":
                    raise
                continue  # verify reports what the target refuses, and the image is copied without it
            progress.further = True
        with self._lock:
            self._invalid |= {each.label: each for each in invalid}
        return True


class KeptImages:
    """The replaced images of one repository of the target. ``run`` is the ID of the run that replaces them."""

    def __init__(  # noqa: PLR0913, PLR0917 - both repositories, the rule and the run
        self, rule: Keeping, source: ImageStore, name: str, target: ImageStore, group: str, run: str
    ) -> None:
        self._rule, self._run = rule, run
        self._source, self._name = source, name
        self._target, self._group = target, group

    def keep(self, tag: str, digest: str) -> str:
        """Put the image with a digest under its other tag, and return that tag.

        A tag that the source has, or that has another image, is never used; then the image's digest is appended. Raises
        TagTakenError if that does not help, and the errors of reading the image: what cannot be kept is not replaced.
        """
        old = self._target.manifest(self._group, digest)
        first = self._rule.name(tag, digest, self._run)
        end = f"-{short_digest(digest)}"
        taken = digest
        for name in (first, f"{first[: LONGEST_TAG - len(end)]}{end}"):
            present = self._target.manifest_digest(self._group, name)
            if present is not None and old.has_digest(present):
                return name
            if present is None and self._source.manifest_digest(self._name, name) is None:
                try:
                    self._target.put_tag(self._group, name, old, None)
                except TagTakenError as other:
                    present = other.digest
                else:
                    return name
            taken = present or taken
        what = f"{digest} cannot be kept: {first} and {name} are other images; nothing is overwritten"
        raise TagTakenError(taken, what)


def conflict(item: Item, reason: str = "") -> Result:
    """Return the result for a tag under which the target has another image, which is not overwritten."""
    theirs = f"the source {item.source}"
    if INDEX in item.detail:
        theirs = f"and the selected platforms of the source's index {item.detail[INDEX]} are {item.source}"
    reason = reason or f"the target has {item.target} under this tag, {theirs}; nothing is overwritten"
    return Result(item.group, item.name, Outcome.CONFLICT, item.source, item.target, 0, "TAG_DIFFERS", reason)


def _is_tag(item: Item) -> bool:
    """Return True if an item is a tag of an image, which the selection may leave out."""
    return not is_signature_tag(item.name) and not is_digest(item.name)


def is_replaceable(
    item: Item, target: ImageStore, source: AttachedTags, notes: TargetNotes, new: Manifest | None = None
) -> bool:
    """Return True if a tag that differs may be replaced even if the sync does not overwrite.

    These are attached tags that only grew, tags that moved on at the source while we copied them, and tags whose removal
    was interrupted before the source had them again.
    """
    if item.target == placeholder(item.group, item.name).digest:
        return True
    at_target = partial(target.manifest, item.group, item.name)
    noted = notes.outdated(item.group, item.name)
    if noted and is_same_manifest(noted, str(item.target), at_target):
        return True
    return is_signature_tag(item.name) and source.grew(item.name, new or source.manifest(item.name), at_target())


def adds_platforms(item: Item, target: ImageStore, chosen: Manifest | None) -> bool:
    """Return True if the selection of platforms only adds images to the index that the target has under a tag."""
    if INDEX not in item.detail or chosen is None:
        return False
    children = {child.digest for child in target.manifest(item.group, item.name).children()}
    return bool(children) and children <= {child.digest for child in chosen.children()}
