"""Copying images of one repository, byte for byte: blobs first, then child manifests, then the manifest under its tag.

Nothing is written to disk, and of a blob a few chunks are in memory at a time. A registry shows an image only once
its manifest is put, and that comes last; so an interrupted copy leaves nothing half there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any, Final

from syncline.clients.oci import Descriptor, Manifest
from syncline.config.images import ImagesSync
from syncline.errors import SynclineError
from syncline.kinds.images.pieces import InterruptedUploadError, Way, chunks_of, proved, send_in_pieces
from syncline.kinds.images.places import BlobPlaces
from syncline.kinds.images.referrers import DEEPEST, Compared, Lists, Referrers, is_list
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item, Outcome, Result

Answer = Arrived | Later | Result | Failure

SMALL: Final = 4 * 1024 * 1024
"""Bytes up to which a blob is held in memory, so that it can be sent again without being read again."""
WHOLE: Final = 32 * 1024 * 1024
"""Bytes up to which a blob is sent in one request; a larger one goes in pieces that can be taken up later."""
SLOWEST: Final = 1024 * 1024
"""Bytes a second that are counted on when a blob is to be sent in one request before the time ends."""
_STARTS_AGAIN: Final = frozenset({"UPLOAD_LOST", "DIGEST_MISMATCH"})
"""After these nothing is left of an upload that could be taken up again."""


class _Share:
    """What copying one image has come to: the bytes sent for it, and by digest the uploads to be taken up again.

    ``late`` if time was short for a part of it; ``further`` if more of it is at the target than before.
    """

    def __init__(self, item: Item) -> None:
        self.late = False
        self.further = False
        self.sent = int(item.detail.get("bytes", 0))
        self.uploads: dict[str, Any] = dict(item.detail.get("uploads", {}))

    def on(self, item: Item) -> Item:
        """The item with this as its detail, for the next try."""
        uploads = {"uploads": self.uploads} if self.uploads else {}
        return replace(item, detail={**uploads, "bytes": self.sent})

    def settle(self, digest: str, copy: Future[int], *, mine: bool) -> SynclineError | None:
        """Wait for the copy of a blob; its failure, if any. Bytes count for the image that began it (``mine``)."""
        try:
            sent = copy.result()
        except InterruptedUploadError as interrupted:
            self.late, sent = True, interrupted.sent
            if interrupted.state is not None:
                self.further |= _offset(interrupted.state) > _offset(self.uploads.get(digest))
                self.uploads[digest] = interrupted.state
        except SynclineError as error:
            if error.code.name in _STARTS_AGAIN:
                self.uploads.pop(digest, None)
            return error
        else:
            self.uploads.pop(digest, None)
            self.further |= sent > 0
        self.sent += sent if mine else 0
        return None


def _offset(upload: dict[str, Any] | None) -> int:
    """How many bytes of a blob the target has, by the state of its upload."""
    return 0 if upload is None else int(upload["upload"]["offset"])


class RepositoryCopy:
    """Copies images from one repository to another, each blob and child manifest once."""

    def __init__(self, way: Way, places: BlobPlaces, pace: Pace, sync: ImagesSync) -> None:
        self._way = way
        self._source, self._from = way.source, way.source_repository
        self._target, self._to = way.target, way.target_repository
        self._places = places
        self._pace = pace
        self._overwrite = sync.overwrite
        self._concurrency = sync.concurrency
        self._lists = Lists(self._target, self._to)
        self._referrers: Compared | None = None
        if sync.referrers != "none":
            self._referrers = Compared(Referrers(self._source, self._from), Referrers(self._target, self._to))
        self._fresh = False
        self._blobs: dict[str, Future[int]] = {}
        self._uploads: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def images(self, items: Sequence[Item]) -> Iterator[Answer]:
        """Copy the items, several at a time, and yield an answer for each as it ends."""
        self._fresh = all(item.detail.get("fresh") for item in items)
        # An image whose turn never came does not know how far another one has brought a layer of both.
        for digest, upload in (each for item in items for each in item.detail.get("uploads", {}).items()):
            if _offset(upload) >= _offset(self._uploads.get(digest)):
                self._uploads[digest] = upload
        # Images wait for blobs and blobs wait for nobody, so the two pools cannot block one another.
        with (
            ThreadPoolExecutor(self._concurrency, thread_name_prefix="image") as images,
            ThreadPoolExecutor(self._concurrency, thread_name_prefix="blob") as blobs,
        ):
            running = [images.submit(self._answer, item, blobs) for item in items]
            for each in as_completed(running):
                yield each.result()

    def _answer(self, item: Item, blobs: ThreadPoolExecutor) -> Answer:
        share = _Share(item)
        if self._pace.over:
            return Later(share.on(item))
        before = share.sent
        try:
            return self._copy(item, share, blobs)
        except SynclineError as error:
            if error.code.name == "TIME_SHORT" and share.sent > before:
                return Later(share.on(item), not share.further)  # bytes went out, so it is no try that failed
            return Failure(share.on(item), error)

    def _copy(self, item: Item, share: _Share, blobs: ThreadPoolExecutor) -> Answer:
        # By its name: the tag may have moved since it was looked at, and an old digest must not undo a newer one.
        manifest = self._source.manifest(self._from, item.name)
        item = replace(item, source=manifest.digest, detail={})
        present = self._target.manifest_digest(self._to, item.name)
        if is_list(item.name) and manifest.is_index:
            listed = self._copy_list(item, manifest, share, blobs)
            if listed is not None:
                return listed
        if present not in (None, manifest.digest) and not self._overwrite:
            return conflict(replace(item, target=present))
        there = present == manifest.digest or self._copy_parts(manifest, share, blobs, depth=0)
        # What refers to an image comes before its tag: who waits for the tag finds the signature.
        if not there or not self._copy_referrers(manifest, share, blobs) or self._pace.halted():
            return Later(share.on(item), not share.further)
        if present != manifest.digest:
            self._put(item.name, manifest)
        return Arrived(item, share.sent)

    def _copy_list(self, item: Item, manifest: Manifest, share: _Share, blobs: ThreadPoolExecutor) -> Answer | None:
        """Bring a tag that lists referrers, and these; None where the target has something else under that name."""
        if not self._copy_parts(manifest, share, blobs, depth=0) or self._pace.halted():
            return Later(share.on(item), not share.further)
        digest = self._lists.merge(item.name, manifest)
        return None if digest is None else Arrived(replace(item, source=digest), share.sent)

    def _copy_referrers(self, manifest: Manifest, share: _Share, blobs: ThreadPoolExecutor) -> bool:
        """Bring all that refers to an image and that the target does not list; False where time was short."""
        if self._referrers is None:
            return True
        for _, referrer, listed in self._referrers.of(manifest):
            if listed:
                continue
            if self._pace.over or not self._copy_parts(referrer, share, blobs, depth=0):
                return False
            self._put(referrer.digest, referrer)
            share.further = True
        return True

    def _put(self, reference: str, manifest: Manifest) -> None:
        """Store a manifest, and list it at its subject where the target does not do that itself."""
        subject = manifest.subject
        if subject is not None and not self._target.put_manifest(self._to, manifest.digest, manifest):
            self._lists.add(subject.digest, manifest)
        # Under its tag at last: one who finds it there must find it listed too.
        if subject is None or reference != manifest.digest:
            self._target.put_manifest(self._to, reference, manifest)

    def _copy_parts(self, manifest: Manifest, share: _Share, blobs: ThreadPoolExecutor, depth: int) -> bool:
        """Bring all that a manifest names to the target; False where time was short."""
        if depth > DEEPEST:
            raise SynclineError("MANIFEST_INVALID", f"{manifest.digest}: indexes are nested deeper than {DEEPEST}")
        for child in manifest.children():
            if self._pace.over or not self._copy_child(child, share, blobs, depth + 1):
                return False
        parts = manifest.blobs()
        waiting = [self._blob(blob, blobs) for blob in parts]
        # All are waited for before an error of one is raised: no upload goes on behind the answer.
        errors = [share.settle(part.digest, copy, mine=mine) for part, (copy, mine) in zip(parts, waiting, strict=True)]
        for error in filter(None, errors):
            raise error
        return not share.late

    def _copy_child(self, child: Descriptor, share: _Share, blobs: ThreadPoolExecutor, depth: int) -> bool:
        if self._target.manifest_digest(self._to, child.digest) == child.digest:
            return True
        manifest = self._source.manifest(self._from, child.digest)
        if not self._copy_parts(manifest, share, blobs, depth):
            return False
        self._put(child.digest, manifest)
        share.further = True
        return True

    def _blob(self, blob: Descriptor, blobs: ThreadPoolExecutor) -> tuple[Future[int], bool]:
        """The copy of a blob, begun by whoever asks first; the flag tells whether that is the caller."""
        with self._lock:
            running = self._blobs.get(blob.digest)
            if running is not None:
                error = running.exception() if running.done() else None
                # One that failed is begun again for the next image that needs it; one for which time was short is not.
                if not isinstance(error, SynclineError):
                    return running, False
                if error.code.name in _STARTS_AGAIN:
                    self._uploads.pop(blob.digest, None)
            mine = self._blobs[blob.digest] = blobs.submit(self._copy_blob, blob, self._uploads.get(blob.digest))
            return mine, True

    def _copy_blob(self, blob: Descriptor, upload: Any) -> int:
        """Bring a blob to the target; the bytes sent, none if it was there or could be mounted."""
        if self._pace.over:
            raise InterruptedUploadError(blob.digest, upload, 0)
        host = self._target.host
        if upload is None:
            # In a repository that had no tag a moment ago there is nothing to ask for.
            if not self._fresh and self._target.has_blob(self._to, blob.digest):
                self._places.note(host, blob, self._to, sent=False)
                return 0
            place = self._places.find(host, blob, lambda: self._pace.over)
            if place is not None and place != self._to:
                if self._target.mount_blob(self._to, blob.digest, place):
                    return 0
                self._places.forget(host, blob)
        if blob.foreign and upload is None and not self._source.has_blob(self._from, blob.digest):
            return 0  # it lies elsewhere by design, and clients fetch it from there
        if upload is None and blob.size <= min(WHOLE, max(SMALL, int(self._pace.left() * SLOWEST))):
            sent = self._send_whole(blob)
        else:
            sent = send_in_pieces(self._way, blob, upload, self._pace)
        self._places.note(host, blob, self._to, sent=True)
        return sent

    def _send_whole(self, blob: Descriptor) -> int:
        other = SynclineError("DIGEST_MISMATCH", f"the bytes of {self._from}@{blob.digest} have another digest or size")
        with self._source.open_blob(self._from, blob.digest) as stream:
            if stream.size not in (None, blob.size):
                raise other
            chunks = proved(chunks_of(stream, blob.size), blob.digest, other)
            if blob.size > SMALL:
                self._target.begin_upload(self._to).put(blob.digest, chunks, blob.size)
                return blob.size
            content = b"".join(chunks)
        self._target.begin_upload(self._to).put(blob.digest, content, blob.size)
        return blob.size


def conflict(item: Item) -> Result:
    """The target has another image under the tag, and it stays as it is."""
    reason = "the target has another image under this tag and is not overwritten"
    return Result(item.group, item.name, Outcome.CONFLICT, item.source, item.target, 0, "TAG_DIFFERS", reason)
