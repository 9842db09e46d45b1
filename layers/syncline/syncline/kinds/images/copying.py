"""Copying images of one repository, byte for byte: all parts first, then what refers to the image, then its tag.

A registry shows an image only once its manifest is put, and that comes last; so an interrupted copy leaves nothing half
there. Parts are checked with their sizes even where the tag is right already: a registry may have lost some.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Final

from syncline.clients.http.listings import Odd, ignore
from syncline.clients.registry.client import Manifest, TagTakenError
from syncline.clients.registry.manifest import is_same
from syncline.config.images import ImagesSync
from syncline.errors import SynclineError
from syncline.kinds.images.attached import Attached, tags_of
from syncline.kinds.images.notes import Notes
from syncline.kinds.images.parts import KEPT, Parts, Share
from syncline.kinds.images.pieces import Way
from syncline.kinds.images.places import BlobPlaces
from syncline.kinds.images.referrers import Compared, Lists, Referrers
from syncline.kinds.kind import UNTOUCHED, Arrived, Failure, Later, Pace
from syncline.model import Item, Outcome, Result
from syncline.patterns import is_signature_tag

Answer = Arrived | Later | Result | Failure


ASK: Final = "ask"
"""The value of ``signed`` in an item's detail if the source has too many tags to list them: each is asked for by name."""


class RepositoryCopy:
    """Copies images from one repository to another, each part once."""

    def __init__(self, way: Way, places: BlobPlaces, pace: Pace, sync: ImagesSync, notes: Notes) -> None:
        self._way = way
        self._source, self._from = way.source, way.source_repository
        self._target, self._to = way.target, way.target_repository
        self._places = places
        self._pace = pace
        self._overwrite = sync.overwrite
        self._concurrency = sync.concurrency
        self._notes = notes
        self._lists = Lists(self._target, self._to)
        self._attached = Attached(self._source, self._from)
        self._with_referrers = sync.referrers != "none"
        self._odd: dict[str, Odd] = {}
        self._attached_tags: frozenset[str] | None = None
        self._brought: set[str] = set()
        self._lock = threading.Lock()

    def images(self, items: Sequence[Item]) -> Iterator[Answer]:
        """Copy the items, several at a time, and yield an answer for each as it ends, and one for each odd referrer."""
        first = [item for item in items if is_signature_tag(item.name)]
        rest = [item for item in items if not is_signature_tag(item.name)]
        with (
            ThreadPoolExecutor(self._concurrency, thread_name_prefix="image") as images,
            ThreadPoolExecutor(self._concurrency, thread_name_prefix="blob") as blobs,
        ):
            parts = Parts(self._way, self._places, self._pace, self._lists, blobs)
            parts.take_up(items)
            for group in (first, rest):
                running = [images.submit(self._answer, item, parts) for item in group]
                for each in as_completed(running):
                    yield each.result()
        for label, odd in self._odd.items():
            error = odd.error
            yield Result(self._to, label, Outcome.FAILED, code=error.code.name, reason=error.what)

    def _answer(self, item: Item, parts: Parts) -> Answer:
        share = Share(item)
        if self._pace.over:
            return Later(share.on(item))
        before = share.sent
        try:
            return self._copy(item, parts, share)
        except SynclineError as error:
            if error.code.name == "TIME_SHORT" and share.sent > before:
                return Later(share.on(item), not share.further)  # bytes went out, so it is no try that failed
            return Failure(share.on(item), error, further=share.continued)

    def _copy(self, item: Item, parts: Parts, share: Share) -> Answer:
        # By its name: the tag may have moved since it was looked at, and an old digest must not undo a newer one.
        manifest = self._source.manifest(self._from, item.name)
        kept = {key: item.detail[key] for key in KEPT if key in item.detail}
        item = replace(item, source=manifest.digest, detail=kept)
        present = self._target.manifest_digest(self._to, item.name)
        equal = present is not None and manifest.has_digest(present)
        follows = not self._overwrite and is_signature_tag(item.name)
        if present is not None and not equal and not self._may_replace(item, manifest, present):
            return conflict(replace(item, target=present))
        there = parts.copy(manifest, share)
        # What refers to an image comes before its tag: who waits for the tag finds the signature.
        there = there and (is_signature_tag(item.name) or self._bring_attached(item, manifest, parts, share))
        if not there or not self._copy_referrers(manifest, parts, share) or self._pace.halted():
            return Later(share.on(item), not share.further)
        if equal:
            if present == item.target and not share.sent and not share.further:
                # It was sent here for a closer look, as when its referrers could not be listed.
                item = replace(item, detail={**item.detail, UNTOUCHED: True})
            return Arrived(item, share.sent)
        if manifest.subject is not None:
            parts.put(manifest, listed_by=item.name)
        try:
            if follows:
                replaced = self._lists.follow(item.name, manifest, self._attached)
            else:
                replaced = self._target.put_tag(self._to, item.name, manifest, present, overwrite=self._overwrite)
        except TagTakenError as taken:
            return conflict(replace(item, target=taken.digest), taken.what)
        except SynclineError as error:
            raise parts.explained(manifest, error) from error
        if replaced is not None:
            item = replace(item, detail={**item.detail, "replaced": replaced})
        return Arrived(item, share.sent)

    def _may_replace(self, item: Item, manifest: Manifest, present: str) -> bool:
        """Return True if the target's other manifest under a tag may be replaced: by the sync's word or as our own."""
        if self._overwrite:
            return True
        noted = self._notes.outdated(item.group, item.name)
        if noted and is_same(noted, present, lambda: self._target.manifest(self._to, item.name)):
            return True
        return is_signature_tag(item.name) and self._attached.grew(
            item.name, manifest, self._target.manifest(self._to, item.name)
        )

    def _bring_attached(self, item: Item, manifest: Manifest, parts: Parts, share: Share) -> bool:
        """Bring the tags that belong to an image, and return False if time was short.

        One that cannot be brought is reported as an item of its own and holds nobody back.
        """
        if not item.detail.get("signed"):
            return True
        for tag in tags_of(manifest):
            if tag in self._brought or not self._is_at_source(tag, item):
                continue
            try:
                answer = self._copy(Item(item.group, tag), parts, share)
            except SynclineError as error:
                if error.retried:
                    raise
                continue
            if isinstance(answer, Later):
                return False
            self._brought.add(tag)
        return True

    def _is_at_source(self, tag: str, item: Item) -> bool:
        """Return True if the source has an attached tag."""
        if item.detail["signed"] == ASK:
            return self._source.manifest_digest(self._from, tag) is not None
        with self._lock:
            if self._attached_tags is None:
                self._attached_tags = frozenset(filter(is_signature_tag, self._source.tags(self._from, ignore)))
            return tag in self._attached_tags

    def _copy_referrers(self, manifest: Manifest, parts: Parts, share: Share) -> bool:
        """Bring all that refers to an image and that the target does not list; return False if time was short."""
        if not self._with_referrers:
            return True
        odd: list[Odd] = []
        source = Referrers(self._source, self._from, odd.append)
        target = Referrers(self._target, self._to, odd.append)
        for _, referrer, listed in Compared(source, target).of(manifest):
            if listed:
                continue
            if self._pace.over or not parts.copy(referrer, share):
                return False
            try:
                parts.put(referrer)
            except SynclineError as error:
                if error.code.name != "MANIFEST_UNSUPPORTED":
                    raise
                continue  # the verification names what the target refuses, and the image goes without it
            share.further = True
        with self._lock:
            self._odd |= {each.label: each for each in odd}
        return True


def conflict(item: Item, reason: str = "") -> Result:
    """Return the result of a tag under which the target has another image, which stays as it is."""
    reason = reason or f"the target has {item.target} under this tag, the source {item.source}; nothing is overwritten"
    return Result(item.group, item.name, Outcome.CONFLICT, item.source, item.target, 0, "TAG_DIFFERS", reason)
