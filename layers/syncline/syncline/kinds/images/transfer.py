"""Copy of images from one repository to another, byte for byte: their parts, their referrers, then their tags.

The parts of an image are its blobs and, of an index, its child manifests. A registry shows an image once its manifest is
put, which comes last, so an interrupted copy leaves no incomplete image. Parts are checked with their sizes even where
the tag is right already: a registry may have lost some.

Nothing is written to disk, and of a blob a few chunks are in memory at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from typing import Any, Final

from syncline.clients.http.listings import InvalidEntry, ignore
from syncline.clients.registry.client import TagTakenError
from syncline.clients.registry.manifest import Descriptor, Manifest, is_same_manifest, referrers_tag
from syncline.clients.registry.reference import hash_matches, hasher, is_digest
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.keeping import KEPT, KeptImages
from syncline.kinds.images.pieces import (
    STARTS_AGAIN,
    CopyRoute,
    InterruptedUploadError,
    other_size,
    send_in_pieces,
    verified_chunks,
)
from syncline.kinds.images.referrers import (
    DEEPEST,
    AttachedTags,
    Referrers,
    attached_tags_of,
    compare_referrers,
    lists_of,
    manifest_or_none,
)
from syncline.kinds.images.removals import placeholder
from syncline.kinds.images.selection import INDEX, for_platforms, none_selected
from syncline.kinds.images.signatures import Trust, UntrustedError, untrusted
from syncline.kinds.kind import FOUND_EQUAL, Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result
from syncline.patterns import is_signature_tag

BUFFERED: Final = 4 * 1024 * 1024
"""Bytes up to which a blob is held in memory, so that it can be sent again without being read again."""
SINGLE_REQUEST: Final = 32 * 1024 * 1024
"""Bytes up to which a blob is sent in one request; a larger one is sent in pieces that can be resumed."""
ASSUMED_RATE: Final = 1024 * 1024
"""Bytes per second assumed when deciding whether a blob can be sent in one request before the time ends."""
FROM: Final = "from"
"""Key in an item's detail: the name of its repository at the source, if only a listing told it."""
KEPT_DETAIL: Final = ("replaced", KEPT, "signed", "asked", FROM, INDEX)
"""Keys of an item's detail that are kept when it is tried again."""
ASKED: Final = {"asked": True}
"""The detail of items that a retry or a repair answers for: blobs that an audit found damaged are sent again."""
ASK: Final = "ask"
"""The value of ``signed`` in an item's detail if the source has too many tags to list: each is requested by name."""
UNSIGNED: Final = {"signed": False}
"""The detail of items if the source's complete list of tags has none that are attached."""

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
        select, detail = self._sync.select, _kept_detail(item)
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
        return replace(item, detail={**_kept_detail(item), **uploads, "bytes": self.sent})

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


def _kept_detail(item: Item) -> dict[str, Any]:
    return {key: item.detail[key] for key in KEPT_DETAIL if key in item.detail}


def _offset(upload: dict[str, Any] | None) -> int:
    """Return the bytes of a blob that the target has, by the state of its upload."""
    return 0 if upload is None else int(upload["upload"]["offset"])


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
