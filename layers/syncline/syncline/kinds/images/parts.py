"""The parts of images: their blobs and, of an index, its child manifests. They are copied, and read and hashed at one place.

Nothing is written to disk, and of a blob a few chunks are in memory at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from syncline.clients.layout.reader import blob_chunks
from syncline.clients.registry.manifest import Descriptor, Manifest, referrers_tag
from syncline.clients.registry.reference import hash_matches, hasher
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.kinds.images.details import kept_detail
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.pieces import (
    STARTS_AGAIN,
    CopyRoute,
    InterruptedUploadError,
    other_size,
    send_in_pieces,
    verified_chunks,
)
from syncline.kinds.images.referrers import DEEPEST, AttachedTags, manifest_or_none
from syncline.kinds.kind import StepContext
from syncline.model import Item

BUFFERED: Final = 4 * 1024 * 1024
"""Bytes up to which a blob is held in memory, so that it can be sent again without being read again."""
SINGLE_REQUEST: Final = 32 * 1024 * 1024
"""Bytes up to which a blob is sent in one request; a larger one is sent in pieces that can be resumed."""
ASSUMED_RATE: Final = 1024 * 1024
"""Bytes per second assumed when deciding whether a blob can be sent in one request before the time ends."""
_AT_ONCE: Final = 4
"""Blobs read and hashed at a time."""


def child_at(registry: ImageStore, repository: str, child: Descriptor) -> Manifest | int | None:
    """Return an index's entry as a registry has it: the manifest, the size of the blob, or None if it is absent.

    Some registries fail when a blob is requested as a manifest, so an entry that does not look like a manifest is
    requested as a blob first.
    """
    if not child.names_manifest:
        size = registry.blob_size(repository, child)
        return size if size is not None else manifest_or_none(registry, repository, child.digest, child.media_type)
    manifest = manifest_or_none(registry, repository, child.digest, child.media_type)
    return manifest if manifest is not None else registry.blob_size(repository, child)


def described(children: Sequence[Descriptor]) -> str:
    """Return a list of children for a message: their platforms if an index states them, and their digests."""
    return ", ".join(f"{child.platform} ({child.digest})" if child.platform else child.digest for child in children)


class PartsCopy:
    """Copy of the parts of images from one repository to another, each blob and child manifest once.

    ``pool`` copies blobs. Images wait for blobs, and blobs wait for nothing. ``asked`` says that a retry or a repair asked for
    the images: then the bytes of manifests that the target has are read, and damaged ones are sent again.
    """

    def __init__(
        self, route: CopyRoute, locations: BlobLocations, context: StepContext, at_once: int, notes: TargetNotes
    ) -> None:
        self.pool = ThreadPoolExecutor(at_once, thread_name_prefix="blob")
        self.attached = AttachedTags(route.target, route.target_repository)
        self._route = route
        self._source, self._from = route.source, route.source_repository
        self._target, self._to = route.target, route.target_repository
        self._locations = locations
        self._context = context
        self._notes = notes
        self._fresh = self.asked = False
        self._blobs: dict[str, Future[int]] = {}
        self._uploads: dict[str, dict[str, Any]] = {}
        self._complete: set[str] = set()
        self._absent: dict[str, tuple[Descriptor, ...]] = {}
        self._lock = threading.Lock()

    def resume_uploads(self, items: Sequence[Item]) -> None:
        """Resume the uploads that earlier attempts of the items began."""
        self._fresh = all(item.detail.get("fresh") for item in items)
        self.asked = any(item.detail.get("asked") for item in items)
        # Items that share a layer may have different states of its upload; the furthest one counts.
        for digest, upload in (each for item in items for each in item.detail.get("uploads", {}).items()):
            if _offset(upload) >= _offset(self._uploads.get(digest)):
                self._uploads[digest] = upload

    def copy(self, manifest: Manifest, progress: ImageProgress, depth: int = 0) -> bool:
        """Copy all parts of a manifest that the source has, and return False if time was short."""
        if depth > DEEPEST:
            raise SynclineError("MANIFEST_INVALID", f"{manifest.digest}: indexes are nested deeper than {DEEPEST}")
        absent: list[Descriptor] = []
        blobs = list(manifest.blobs())
        for child in manifest.needed():
            if self._context.over:
                return False
            if child.digest in self._complete:
                continue
            found = child_at(self._source, self._from, child)
            if found is None:
                absent.append(child)
            elif not isinstance(found, Manifest):
                blobs.append(child)
            elif not self._copy_child(found, progress, depth + 1):
                return False
        self._absent[manifest.digest] = tuple(absent)
        copies = [self._blob(blob) for blob in blobs]
        # All are awaited before an error of one is raised, so that no upload outlives the answer.
        errors = [
            progress.settle(blob.digest, copy, mine=mine) for blob, (copy, mine) in zip(blobs, copies, strict=True)
        ]
        for error in filter(None, errors):
            raise error
        return not progress.late

    def put(self, manifest: Manifest, *, listed_by: str = "") -> None:
        """Store a manifest under its digest, and add it to its subject's list if the target does not list referrers itself.

        ``listed_by`` is the tag that the manifest is to get: a list is not added to itself.
        """
        try:
            lists = self._target.put_manifest(self._to, manifest.digest, manifest)
        except SynclineError as error:
            raise self.explained(manifest, error) from error
        subject = manifest.subject
        if subject is not None and not lists and referrers_tag(subject.digest) != listed_by:
            self.attached.add(subject.digest, manifest)

    def mend(self, manifest: Manifest, *, listed_by: str = "") -> bool:
        """Send a manifest again, and return True, if ``asked`` and the target has lost it or has other bytes under its digest.

        Raises BLOB_DAMAGED if the target keeps these: some registries do not write what they believe to have.
        """
        if not self.asked or self._has(manifest):
            return False
        self.put(manifest, listed_by=listed_by)
        if not self._has(manifest):
            where = f"the manifest {self._target.host}/{self._to}@{manifest.digest}"
            raise SynclineError("BLOB_DAMAGED", f"{where} is damaged, even after the right bytes were sent")
        return True

    def _has(self, manifest: Manifest) -> bool:
        try:
            found = manifest_or_none(self._target, self._to, manifest.digest, manifest.media_type)
        except SynclineError as error:
            if error.is_any("DIGEST_MISMATCH", "MANIFEST_INVALID", "MANIFEST_UNSUPPORTED"):
                return False
            raise
        return found is not None and manifest.has_digest(found.digest)

    def explained(self, manifest: Manifest, error: SynclineError) -> SynclineError:
        """Return the reason why the target refuses a manifest if the manifest shows one, else the error itself."""
        if not error.is_any("REFUSED", "NOT_FOUND", "SERVER_ERROR"):
            return error
        if not manifest.is_known and error.code.name == "REFUSED":
            return SynclineError("MANIFEST_UNSUPPORTED", f"the target refuses {manifest.media_type}: {error.what}")
        if manifest.skipped and error.code.name != "SERVER_ERROR":
            what = f"the target accepts no index with absent images; remove `sparse` from the selection: {error.what}"
            return SynclineError("INDEX_INCOMPLETE", what)
        absent = self._absent.get(manifest.digest, ())
        if absent and error.code.name != "SERVER_ERROR":
            return SynclineError("INDEX_INCOMPLETE", f"the source lacks {described(absent)}: {error.what}")
        foreign = [blob.digest for blob in manifest.blobs() if blob.foreign]
        if foreign:
            what = f"the content of the foreign layers {', '.join(foreign)} is only at their `urls`: {error.what}"
            return SynclineError("FOREIGN_LAYERS_REFUSED", what)
        return error

    def _copy_child(self, manifest: Manifest, progress: ImageProgress, depth: int) -> bool:
        if not self.copy(manifest, progress, depth):
            return False
        if self._target.manifest_digest(self._to, manifest.digest) != manifest.digest:
            self.put(manifest)
            progress.further = True
        progress.further |= self.mend(manifest)
        self._complete.add(manifest.digest)
        return True

    def _blob(self, blob: Descriptor) -> tuple[Future[int], bool]:
        """Return the copy of a blob, begun by the first caller, and True if that is this caller."""
        with self._lock:
            running = self._blobs.get(blob.digest)
            if running is not None:
                error = running.exception() if running.done() else None
                # A failed copy is begun again for the next image that needs the blob, unless time was short.
                if isinstance(error, InterruptedUploadError) and error.error is not None and error.state is not None:
                    self._uploads[blob.digest] = error.state
                elif not isinstance(error, SynclineError):
                    return running, False
                elif error.code.name in STARTS_AGAIN:
                    self._uploads.pop(blob.digest, None)
            mine = self._blobs[blob.digest] = self.pool.submit(self._copy_blob, blob, self._uploads.get(blob.digest))
            return mine, True

    def _copy_blob(self, blob: Descriptor, upload: Any) -> int:
        """Bring a blob to the target, and return the bytes sent: 0 if the target had it or mounted it."""
        if self._context.over:
            raise InterruptedUploadError(upload, 0)
        host = self._target.host
        damaged = False
        noted = self.asked and self._notes.is_damaged(self._to, blob.digest)
        if upload is None:
            # A repository that had no tags during the scan is not asked for the blob.
            size = None if self._fresh else self._target.blob_size(self._to, blob)
            if size is None:
                size = self._mounted_size(blob)
            if size == blob.size and not noted:
                self._locations.note(host, blob, self._to, sent=False)
                return 0
            damaged = size is not None
        if blob.foreign and upload is None and not self._source.has_blob(self._from, blob.digest):
            return 0  # it is kept elsewhere by design, and clients download it from there
        if upload is None and blob.size <= min(SINGLE_REQUEST, max(BUFFERED, int(self._context.left() * ASSUMED_RATE))):
            sent = self._send_at_once(blob)
        else:
            sent = send_in_pieces(self._route, blob, upload, self._context)
        # Some registries keep the bytes that they have under a digest, even if they are damaged.
        if damaged and (size := self._target.blob_size(self._to, blob)) != blob.size:
            what = f"{host}/{self._to}@{blob.digest} has {size} of {blob.size} bytes, even after all of them were sent"
            raise SynclineError("BLOB_DAMAGED", what)
        if noted:
            self._check_repaired(blob)
        self._locations.note(host, blob, self._to, sent=True)
        return sent

    def _check_repaired(self, blob: Descriptor) -> None:
        """Read a blob that was damaged and sent again; raise BLOB_DAMAGED if the target kept other bytes.

        If the time is short the note of its damage stays, and it is sent once more by the next repair.
        """
        hash_ = hasher(blob.digest)
        with self._target.open_blob(self._to, blob.digest) as stream:
            for chunk in stream:
                if self._context.over:
                    return
                hash_.update(chunk)
        if not hash_matches(blob.digest, hash_):
            where = f"{self._target.host}/{self._to}@{blob.digest}"
            raise SynclineError("BLOB_DAMAGED", f"{where} has damaged bytes, even after the right ones were sent")
        self._notes.forget_damaged(self._to, blob.digest)

    def _mounted_size(self, blob: Descriptor) -> int | None:
        """Mount a blob from another repository of the target that has it, and return its size; None if none has it."""
        host = self._target.host
        repository = self._locations.find(host, blob, lambda: self._context.over)
        if repository is None or repository == self._to:
            return None
        if self._target.mount_blob(self._to, blob.digest, repository):
            # The size is asked here only where an old copy may be damaged; `verify` asks for it in any case.
            return blob.size if self._fresh else self._target.blob_size(self._to, blob)
        self._locations.forget(host, blob)
        return None

    def _send_at_once(self, blob: Descriptor) -> int:
        with self._source.open_blob(self._from, blob.digest) as stream:
            if stream.size not in (None, blob.size):
                raise other_size(self._route, blob, stream.size)
            chunks = verified_chunks(stream, self._route, blob)
            if blob.size > BUFFERED:
                self._target.begin_upload(self._to).put(blob.digest, chunks, blob.size)
                return blob.size
            content = b"".join(chunks)
        self._target.begin_upload(self._to).put(blob.digest, content, blob.size)
        return blob.size


class ImageProgress:
    """The progress of one image: the bytes sent for it, and the states of unfinished uploads by digest.

    ``late`` if time was short for a part of it; ``further`` if more of it is at the target than before; ``continued`` if
    an upload advanced, was then interrupted by an error, and can be resumed.
    """

    def __init__(self, item: Item) -> None:
        self.late = False
        self.further = False
        self.continued = False
        self.sent = int(item.detail.get("bytes", 0))
        self.uploads: dict[str, Any] = dict(item.detail.get("uploads", {}))

    def saved_in(self, item: Item) -> Item:
        """Return the item with this progress as its detail, for the next attempt."""
        uploads = {"uploads": self.uploads} if self.uploads else {}
        return replace(item, detail={**kept_detail(item), **uploads, "bytes": self.sent})

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
    """Return the bytes of a blob that the target has, by the state of its upload."""
    return 0 if upload is None else int(upload["upload"]["offset"])


def blobs_of(store: ImageStore, repository: str, manifest: Manifest, depth: int = 0) -> Iterator[Descriptor]:
    """Yield the blobs of an image, and those of the children of an index that the store has. Foreign layers are left out."""
    if depth > DEEPEST:
        raise SynclineError("MANIFEST_INVALID", f"{manifest.digest}: indexes are nested deeper than {DEEPEST}")
    yield from (blob for blob in manifest.blobs() if not blob.foreign)
    for child in manifest.children():
        found = child_at(store, repository, child)
        if isinstance(found, Manifest):
            yield from blobs_of(store, repository, found, depth + 1)
        elif found is not None:
            yield child


def check_parts(store: ImageStore, repository: str, manifest: Manifest) -> int:
    """Read all blobs of an image and return the number of bytes; see :func:`check_blobs`."""
    return check_blobs(store, {blob.digest: (repository, blob) for blob in blobs_of(store, repository, manifest)})


def check_blobs(store: ImageStore, blobs: Mapping[str, tuple[str, Descriptor]]) -> int:
    """Read and hash blobs, each in its repository, and return the number of bytes.

    Raises DIGEST_MISMATCH, SIZE_DIFFERS, NOT_FOUND and the errors of the store.
    """

    def check(named: tuple[str, Descriptor]) -> int:
        return sum(map(len, blob_chunks(store, *named)))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="check") as pool:
        return sum(pool.map(check, blobs.values()))
