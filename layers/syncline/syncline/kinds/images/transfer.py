"""Copying images of one repository, byte for byte: all parts first, then what refers to the image, then its tag.

A registry shows an image only once its manifest is put, and that comes last; so an interrupted copy leaves nothing half
there. Parts are checked with their sizes even where the tag is right already: a registry may have lost some.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any, Final

from syncline.clients.http.listings import Odd, ignore
from syncline.clients.registry.client import Registry, TagTakenError
from syncline.clients.registry.manifest import Descriptor, Manifest, is_same
from syncline.clients.registry.referrers import list_tag
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.memory import BlobPlaces, Notes
from syncline.kinds.images.pieces import (
    STARTS_AGAIN,
    CopyRoute,
    InterruptedUploadError,
    chunks_of,
    other_size,
    proved,
    send_in_pieces,
)
from syncline.kinds.images.referrers import DEEPEST, Attached, Compared, Lists, Referrers, tags_of
from syncline.kinds.kind import UNTOUCHED, Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result
from syncline.patterns import is_signature_tag

# The parts of images, copied byte for byte: blobs first, then child manifests, each once.
#
# Nothing is written to disk, and of a blob a few chunks are in memory at a time.

SMALL: Final = 4 * 1024 * 1024
"""Bytes up to which a blob is held in memory, so that it can be sent again without being read again."""
WHOLE: Final = 32 * 1024 * 1024
"""Bytes up to which a blob is sent in one request; a larger one goes in pieces that can be taken up later."""
SLOWEST: Final = 1024 * 1024
"""Bytes a second that are counted on when a blob is to be sent in one request before the time ends."""
KEPT: Final = ("replaced", "signed")
"""Parts of an item's detail that stay when it is tried again."""


class Share:
    """The progress of one image: the bytes sent for it, and by digest the uploads to be taken up again.

    ``late`` if time was short for a part of it; ``further`` if more of it is at the target than before. ``continued`` if
    an upload got further that was then broken off by an error, and is continued.
    """

    def __init__(self, item: Item) -> None:
        self.late = False
        self.further = False
        self.continued = False
        self.sent = int(item.detail.get("bytes", 0))
        self.uploads: dict[str, Any] = dict(item.detail.get("uploads", {}))

    def on(self, item: Item) -> Item:
        """Return the item with this as its detail, for the next try."""
        kept = {key: item.detail[key] for key in KEPT if key in item.detail}
        uploads = {"uploads": self.uploads} if self.uploads else {}
        return replace(item, detail={**kept, **uploads, "bytes": self.sent})

    def settle(self, digest: str, copy: Future[int], *, mine: bool) -> SynclineError | None:
        """Wait for the copy of a blob and return its error. Bytes count for the image that began it (``mine``)."""
        error: SynclineError | None = None
        try:
            sent = copy.result()
        except InterruptedUploadError as interrupted:
            self.late, sent, error = True, interrupted.sent, interrupted.error
            if interrupted.state is not None:
                further = _offset(interrupted.state) > _offset(self.uploads.get(digest))
                self.further |= further
                self.continued |= further and error is not None
                self.uploads[digest] = interrupted.state
        except SynclineError as failed:
            if failed.code.name in STARTS_AGAIN:
                self.uploads.pop(digest, None)
            return failed
        else:
            self.uploads.pop(digest, None)
            self.further |= sent > 0
        self.sent += sent if mine else 0
        return error


def _offset(upload: dict[str, Any] | None) -> int:
    """Return how many bytes of a blob the target has, by the state of its upload."""
    return 0 if upload is None else int(upload["upload"]["offset"])


def child_at(registry: Registry, repository: str, child: Descriptor) -> Manifest | int | None:
    """Return an index's entry as a registry has it: the manifest, the size of the blob, or None if it is absent.

    Some registries fail when a blob is asked for as a manifest, so what does not look like a manifest is asked for as a
    blob first.
    """
    if not child.names_manifest:
        size = registry.blob_size(repository, child)
        if size is not None:
            return size
    try:
        return registry.manifest(repository, child.digest, child.media_type)
    except SynclineError as error:
        if error.code.name != "NOT_FOUND":
            raise
    return registry.blob_size(repository, child) if child.names_manifest else None


class Parts:
    """Copies the parts of images from one repository to another, each blob and child manifest once.

    ``blobs`` is the pool that copies blobs. Images wait for blobs and blobs wait for nobody.
    """

    def __init__(
        self, way: CopyRoute, places: BlobPlaces, context: StepContext, lists: Lists, blobs: ThreadPoolExecutor
    ) -> None:
        self._way = way
        self._source, self._from = way.source, way.source_repository
        self._target, self._to = way.target, way.target_repository
        self._places = places
        self._context = context
        self._lists = lists
        self._pool = blobs
        self._fresh = False
        self._blobs: dict[str, Future[int]] = {}
        self._uploads: dict[str, dict[str, Any]] = {}
        self._whole: set[str] = set()
        self._absent: dict[str, tuple[Descriptor, ...]] = {}
        self._lock = threading.Lock()

    def take_up(self, items: Sequence[Item]) -> None:
        """Take up the uploads that earlier tries of the items began."""
        self._fresh = all(item.detail.get("fresh") for item in items)
        # An image whose turn never came does not know how far another one has brought a layer of both.
        for digest, upload in (each for item in items for each in item.detail.get("uploads", {}).items()):
            if _offset(upload) >= _offset(self._uploads.get(digest)):
                self._uploads[digest] = upload

    def copy(self, manifest: Manifest, share: Share, depth: int = 0) -> bool:
        """Bring all that a manifest names, and that the source has, to the target; return False if time was short."""
        if depth > DEEPEST:
            raise SynclineError("MANIFEST_INVALID", f"{manifest.digest}: indexes are nested deeper than {DEEPEST}")
        absent: list[Descriptor] = []
        parts = list(manifest.blobs())
        for child in manifest.needed():
            if self._context.over:
                return False
            if child.digest in self._whole:
                continue
            found = child_at(self._source, self._from, child)
            if found is None:
                absent.append(child)
            elif not isinstance(found, Manifest):
                parts.append(child)
            elif not self._copy_child(found, share, depth + 1):
                return False
        self._absent[manifest.digest] = tuple(absent)
        waiting = [self._blob(blob) for blob in parts]
        # All are waited for before an error of one is raised: no upload goes on behind the answer.
        errors = [share.settle(part.digest, copy, mine=mine) for part, (copy, mine) in zip(parts, waiting, strict=True)]
        for error in filter(None, errors):
            raise error
        return not share.late

    def put(self, manifest: Manifest, *, listed_by: str = "") -> None:
        """Store a manifest under its digest, and list it at its subject where the target does not do that itself.

        ``listed_by`` is the tag that it is to get: what is that tag itself is not listed there.
        """
        try:
            lists = self._target.put_manifest(self._to, manifest.digest, manifest)
        except SynclineError as error:
            raise self.explained(manifest, error) from error
        subject = manifest.subject
        if subject is not None and not lists and list_tag(subject.digest) != listed_by:
            self._lists.add(subject.digest, manifest)

    def explained(self, manifest: Manifest, error: SynclineError) -> SynclineError:
        """Return why the target refuses a manifest, as far as its own form tells; else the error itself."""
        if not error.is_any("REFUSED", "NOT_FOUND", "SERVER_ERROR"):
            return error
        if not manifest.is_known and error.code.name == "REFUSED":
            return SynclineError("MANIFEST_UNSUPPORTED", f"the target refuses {manifest.media_type}: {error.what}")
        absent = self._absent.get(manifest.digest, ())
        if absent and error.code.name != "SERVER_ERROR":
            return SynclineError("INDEX_INCOMPLETE", f"the source lacks {names(absent)}: {error.what}")
        foreign = [blob.digest for blob in manifest.blobs() if blob.foreign]
        if foreign:
            what = f"the foreign layers {', '.join(foreign)} are named by `urls`: {error.what}"
            return SynclineError("FOREIGN_LAYERS_REFUSED", what)
        return error

    def _copy_child(self, manifest: Manifest, share: Share, depth: int) -> bool:
        if not self.copy(manifest, share, depth):
            return False
        if self._target.manifest_digest(self._to, manifest.digest) != manifest.digest:
            self.put(manifest)
            share.further = True
        self._whole.add(manifest.digest)
        return True

    def _blob(self, blob: Descriptor) -> tuple[Future[int], bool]:
        """Return the copy of a blob, begun by whoever asks first; the flag tells whether that is the caller."""
        with self._lock:
            running = self._blobs.get(blob.digest)
            if running is not None:
                error = running.exception() if running.done() else None
                # One that failed is begun again for the next image that needs it; one for which time was short is not.
                if isinstance(error, InterruptedUploadError) and error.error is not None and error.state is not None:
                    self._uploads[blob.digest] = error.state
                elif not isinstance(error, SynclineError):
                    return running, False
                elif error.code.name in STARTS_AGAIN:
                    self._uploads.pop(blob.digest, None)
            mine = self._blobs[blob.digest] = self._pool.submit(self._copy_blob, blob, self._uploads.get(blob.digest))
            return mine, True

    def _copy_blob(self, blob: Descriptor, upload: Any) -> int:
        """Bring a blob to the target; return the bytes sent, none if it was there or could be mounted."""
        if self._context.over:
            raise InterruptedUploadError(blob.digest, upload, 0)
        host = self._target.host
        damaged = False
        if upload is None:
            # In a repository that had no tag a moment ago there is nothing to ask for.
            size = None if self._fresh else self._target.blob_size(self._to, blob)
            if size is None:
                size = self._mounted_size(blob)
            if size == blob.size:
                self._places.note(host, blob, self._to, sent=False)
                return 0
            damaged = size is not None
        if blob.foreign and upload is None and not self._source.has_blob(self._from, blob.digest):
            return 0  # it lies elsewhere by design, and clients fetch it from there
        if upload is None and blob.size <= min(WHOLE, max(SMALL, int(self._context.left() * SLOWEST))):
            sent = self._send_whole(blob)
        else:
            sent = send_in_pieces(self._way, blob, upload, self._context)
        # Some registries keep what they have under a digest, whatever its bytes.
        if damaged and (size := self._target.blob_size(self._to, blob)) != blob.size:
            what = f"{host}/{self._to}@{blob.digest} has {size} bytes of {blob.size}, also after all of them were sent"
            raise SynclineError("BLOB_DAMAGED", what)
        self._places.note(host, blob, self._to, sent=True)
        return sent

    def _mounted_size(self, blob: Descriptor) -> int | None:
        """Mount a blob from another repository of the target that has it, and return its size; None if none has it."""
        host = self._target.host
        place = self._places.find(host, blob, lambda: self._context.over)
        if place is None or place == self._to:
            return None
        if self._target.mount_blob(self._to, blob.digest, place):
            return self._target.blob_size(self._to, blob)
        self._places.forget(host, blob)
        return None

    def _send_whole(self, blob: Descriptor) -> int:
        with self._source.open_blob(self._from, blob.digest) as stream:
            if stream.size not in (None, blob.size):
                raise other_size(self._way, blob, stream.size)
            chunks = proved(chunks_of(stream, blob.size), self._way, blob)
            if blob.size > SMALL:
                self._target.begin_upload(self._to).put(blob.digest, chunks, blob.size)
                return blob.size
            content = b"".join(chunks)
        self._target.begin_upload(self._to).put(blob.digest, content, blob.size)
        return blob.size


def names(absent: Sequence[Descriptor]) -> str:
    """Return the names of absent children: their platforms, or their digests where an index names none."""
    return ", ".join(f"{child.platform} ({child.digest})" if child.platform else child.digest for child in absent)


Answer = Completed | Unfinished | Result | Failure


ASK: Final = "ask"
"""The value of ``signed`` in an item's detail if the source has too many tags to list them: each is asked for by name."""


class RepositoryCopy:
    """Copies images from one repository to another, each part once."""

    def __init__(
        self, way: CopyRoute, places: BlobPlaces, context: StepContext, sync: ImagesSync, notes: Notes
    ) -> None:
        self._way = way
        self._source, self._from = way.source, way.source_repository
        self._target, self._to = way.target, way.target_repository
        self._places = places
        self._context = context
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
            parts = Parts(self._way, self._places, self._context, self._lists, blobs)
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
        if self._context.over:
            return Unfinished(share.on(item))
        before = share.sent
        try:
            return self._copy(item, parts, share)
        except SynclineError as error:
            if error.code.name == "TIME_SHORT" and share.sent > before:
                return Unfinished(share.on(item), not share.further)  # bytes went out, so it is no try that failed
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
        if not there or not self._copy_referrers(manifest, parts, share) or self._context.halted():
            return Unfinished(share.on(item), not share.further)
        if equal:
            if present == item.target and not share.sent and not share.further:
                # It was sent here for a closer look, as when its referrers could not be listed.
                item = replace(item, detail={**item.detail, UNTOUCHED: True})
            return Completed(item, share.sent)
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
        return Completed(item, share.sent)

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
            if isinstance(answer, Unfinished):
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
            if self._context.over or not parts.copy(referrer, share):
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
