"""Transfer of the images of builds to a repository, and of aliases to the youngest of them.

An archive is read once. Layers are sent as they are read, manifests once all layers are known. No tag refers to any of it
before the manifest is complete, and a registry removes blobs without a manifest after some time.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from syncline.clients.github.client import Artifact, GitHub
from syncline.clients.http.listings import InvalidEntry
from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.registry.client import Registry, TagTakenError
from syncline.clients.registry.manifest import Manifest
from syncline.errors import CodeName, SynclineError
from syncline.kinds.artifacts.archive.images import choose_image, list_images
from syncline.kinds.artifacts.archive.streams import LIMITS, ArchiveLimits, Mark, MarkedStream
from syncline.kinds.artifacts.attestations import attach_attestations, read_attestations
from syncline.kinds.artifacts.builds import Build, Builds, Destination
from syncline.kinds.artifacts.checkpoints import Checkpoint, Checkpoints
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.digest import HashedSource
from syncline.kinds.artifacts.discover import RUN, conflict, youngest_present
from syncline.kinds.artifacts.find_archive import ImageArchive, absence_reason, candidate_artifacts, find_archive
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.manifests import UploadedImage, upload_manifests
from syncline.kinds.artifacts.read_archive import ArchivePass, ImageProgress, WantedImage
from syncline.kinds.artifacts.records import PushRecord, PushRecords, age_of
from syncline.kinds.artifacts.upload import LayerUploader
from syncline.kinds.artifacts.verify import ATTACHED, check_parts, fingerprint_of, is_complete
from syncline.kinds.facts import FactStore
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result

TransferOutcome = Completed | Unfinished | Result | Failure
_PERMANENT: Final[frozenset[CodeName]] = frozenset(
    {"ARTIFACT_EXPIRED", "IMAGE_ABSENT", "ARCHIVE_INVALID", "ARCHIVE_REFUSED"}
)
"""Errors after which the item is not tried again until somebody names it, as the result would be the same."""
TRIMMED_AFTER: Final = 64  # chunks of an archive after which freed memory is returned to the system
_ARCHIVE_ERRORS: Final[frozenset[CodeName]] = frozenset({"ARCHIVE_INVALID", "ARCHIVE_REFUSED", "IMAGE_ABSENT"})


@dataclass(frozen=True, slots=True)
class ArtifactTransfer:
    """Transfers the items of one repository, for which its caller holds the lease. ``now`` gives Unix seconds."""

    sync: ArtifactsSync
    github: GitHub
    registry: Registry
    builds: Builds
    known: KnownLayers
    pushed: PushRecords
    memory: FactStore
    now: Callable[[], float]

    def items(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferOutcome]:
        """Yield the outcome of each item, in their order."""
        for item in items:
            if context.over:
                yield Unfinished(item)
            elif item.detail.get("alias"):
                yield self._alias(item)
            else:
                yield from self._image(item, context)

    def _image(self, item: Item, context: StepContext) -> Iterator[TransferOutcome]:
        progress = ImageProgress.of(dict(item.detail))
        reached = progress.reached
        push = ImagePusher(self.registry, item.group, self.known, context)
        try:
            yield self._transfer(item, push, progress, context)
        except SynclineError as error:
            if error.code.name in _PERMANENT:
                self.pushed.note_unavailable(str(item.detail["run"]), item.group, item.name, error)
            rest, further = progress, progress.reached > reached
            if error.is_any("NOT_ARRIVED", "DIGEST_MISMATCH"):
                # The target no longer has a part that it had, or the parts are of an altered artifact: the next attempt
                # reads everything again.
                rest, further = ImageProgress(), False
                Checkpoints(self.memory, self._reference(item)).forget()
            yield Failure(_with(item, rest, push), error, further=further)

    def _transfer(
        self, item: Item, push: ImagePusher, progress: ImageProgress, context: StepContext
    ) -> TransferOutcome:
        run = str(item.detail["run"])
        present = self.registry.manifest_digest(item.group, item.name)
        noted = self.pushed.of(item.group, item.name)
        is_noted = noted is not None and noted.manifest == present
        if noted is not None and is_noted and (settled := self._settled(item, noted, push)) is not None:
            return settled
        # A tag of an older build that was never verified is still ours to repair.
        ours = noted is not None and is_noted and (noted.run == run or not noted.verified)
        image, tag = str(item.detail["image"]), str(item.detail["tag"])
        found, source, version = self._find(run, image, tag)
        wanted = WantedImage(image, tag, lambda name: self.sync.build.is_archive(name, image, tag))
        checkpoints = Checkpoints(self.memory, self._reference(item), version)
        uploaded = self._checked(
            found, source, progress, context, lambda: push.push(found.open, found.where, wanted, progress, checkpoints)
        )
        if uploaded is None or context.halted():
            return Unfinished(_with(item, progress, push), progress.is_stuck)
        if present is not None and not ours:
            # The same image may have differently compressed layers.
            if self._is_same(item, uploaded.fingerprint):
                self.pushed.note(item.group, item.name, PushRecord(run, present, uploaded.fingerprint))
                self._follow(item)
                return Result(item.group, item.name, Outcome.EQUAL, uploaded.fingerprint, uploaded.fingerprint)
            if not self.sync.overwrite:
                return self._conflict(item, uploaded, present)
        check_parts(self.registry, item.group, uploaded.manifest)
        if self.sync.attestations and source.stated is not None:
            self.memory.remember(self._zip_key(item, uploaded.manifest.digest), source.stated)
        attached = self._attach(item, uploaded.manifest)  # before the tag, so that a tag is never without them
        # Recorded before the tag is put, so that whoever finds the tag afterwards knows that it is ours.
        self.pushed.note(
            item.group, item.name, PushRecord(run, uploaded.manifest.digest, uploaded.fingerprint, verified=False)
        )
        try:
            self.registry.put_tag(item.group, item.name, uploaded.manifest, present, overwrite=self.sync.overwrite)
        except TagTakenError as taken:
            return self._conflict(item, uploaded, taken.digest)
        checkpoints.forget()
        return self._completed(item, uploaded.fingerprint, push, attached)

    def _checked(
        self,
        found: ImageArchive,
        source: HashedSource,
        progress: ImageProgress,
        context: StepContext,
        push: Callable[[], UploadedImage | None],
    ) -> UploadedImage | None:
        """Push an image and check the digest of the artifact; return None if time ran out. Raises DIGEST_MISMATCH."""
        source.begin(progress.hash, found.start, found.starts)
        begun = source.offset
        # After the member, the rest is hashed first: otherwise every function might only read the member again.
        wanted = found.start if source.offset < found.end else source.size
        try:
            if source.read_to(wanted, context):
                uploaded = push()
                if uploaded is None:
                    return None
                if source.read_to(source.size, context):
                    source.check()
                    return uploaded
            progress.count_function(0, has_layers=False)
        finally:
            progress.hash = source.state()
            if source.offset > begun:
                progress.reached = progress.functions
        return None

    def _settled(self, item: Item, noted: PushRecord, push: ImagePusher) -> TransferOutcome | None:
        """Return the outcome for an item whose tag is as recorded; None if the tag must be put or replaced."""
        run = str(item.detail["run"])
        is_older = noted.run != run
        if is_older and age_of(noted.run) > age_of(run):
            # A younger build was transferred after the scan.
            return Result(item.group, item.name, Outcome.EQUAL, noted.fingerprint, noted.fingerprint)
        if (is_older and self.sync.overwrite) or not is_complete(self.registry, item.group, item.name):
            return None
        if not is_older:
            attached = None
            if self.sync.attestations:
                attached = self._attach(item, self.registry.manifest(item.group, noted.manifest))
            return self._completed(item, noted.fingerprint, push, attached)
        # It was put after the scan, and is kept like one that was present before it.
        self.pushed.note_verified(item.group, item.name, noted.fingerprint)
        self._follow(item)
        return Result(item.group, item.name, Outcome.EQUAL, noted.fingerprint, noted.fingerprint)

    def _conflict(self, item: Item, uploaded: UploadedImage, other: str) -> Result:
        """Return the conflict with a tag that somebody else put, and record it for later runs."""
        run = str(item.detail["run"])
        push = PushRecord(run, uploaded.manifest.digest, uploaded.fingerprint, verified=False, other=other)
        self.pushed.note(item.group, item.name, push)
        return conflict(item, push)

    def _is_same(self, item: Item, fingerprint: str) -> bool:
        """Return True if the tag at the target is that image, and complete."""
        is_same = fingerprint_of(self.registry.manifest(item.group, item.name)) == fingerprint
        return is_same and is_complete(self.registry, item.group, item.name)

    def _reference(self, item: Item) -> str:
        return f"{self.registry.host}/{item.group}:{item.name}"

    def _find(self, run: str, image: str, tag: str) -> tuple[ImageArchive, HashedSource, str]:
        """Return the archive of an image, the download that has it, and the archive's version."""
        number = int(run.partition(".")[0])
        odd: list[InvalidEntry] = []
        artifacts = self.github.artifacts(self.sync.source.repository, number, odd.append)
        try:
            fitting = candidate_artifacts(artifacts, self.sync.build, f"run {number}")
            sources = [self._hashed(artifact) for artifact in fitting]
            found = find_archive(sources, self.sync.build, image, tag)
            artifact, source = next(each for each in zip(fitting, sources, strict=True) if each[1] is found.source)
        except SynclineError as error:
            if not error.is_any("IMAGE_ABSENT", "ARTIFACT_EXPIRED"):
                raise
            if odd:
                raise odd[0].error from error  # the invalid entry may be the artifact that has it
            raise absence_reason(artifacts, self.sync.build, f"run {number}", error) from None
        # Artifacts do not name their attempt. Reading the run afterwards shows that there was no later attempt.
        now = self.builds.run(number)
        if now.mark != run or not self.builds.takes(now):
            raise SynclineError("SOURCE_CHANGED", f"run {number} was started again since it was scanned")
        return found, source, f"{artifact.id} {artifact.digest} {found.version}"

    def _hashed(self, artifact: Artifact) -> HashedSource:
        repository = self.sync.source.repository
        key = f"{self.github.endpoint.host}/{repository}/{artifact.id}"
        return HashedSource(self.github.content(repository, artifact), artifact.digest, self.memory, key)

    def _attach(self, item: Item, manifest: Manifest) -> list[str] | None:
        """Attach the attestations of an image, and return the referrers' digests; None if the sync does not want them."""
        if not self.sync.attestations:
            return None
        zip_digest = self.memory.recall(self._zip_key(item, manifest.digest))
        subjects = [manifest.digest] if zip_digest is None else [zip_digest, manifest.digest]
        found = read_attestations(self.github, self.sync.source.repository, subjects)
        return attach_attestations(self.registry, item.group, manifest, found)

    def _zip_key(self, item: Item, digest: str) -> str:
        """Return the key of the digest of the zip that an image was read from."""
        return f"attested-zip@{self.registry.host}/{item.group}@{digest}"

    def _completed(
        self, item: Item, fingerprint: str, push: ImagePusher, attached: list[str] | None
    ) -> TransferOutcome:
        """Return the outcome for an image that is complete at the target, after updating its aliases."""
        self._follow(item)
        attestations = {} if attached is None else {ATTACHED: attached}
        moved = replace(item, source=fingerprint, detail={**_build_of(item), **attestations})
        return Completed(moved, push.sent + int(item.detail.get("bytes", 0)))

    def _follow(self, item: Item) -> None:
        """Point the aliases at an image that is at the target, if it is the youngest there."""
        found = self._youngest(item.group) if self.sync.aliases else None
        if found is not None and found[0].tag == item.name:
            self._point(*found)

    def _alias(self, item: Item) -> TransferOutcome:
        """Point an alias at the youngest build as of now, which may have changed since the scan."""
        try:
            found = self._youngest(item.group)
            if found is None:
                return Result(item.group, item.name, Outcome.EQUAL, target=item.target)
            fingerprint = self._point(*found, item.name)
        except SynclineError as error:
            return Failure(item, error)
        return Completed(replace(item, source=fingerprint))

    def _point(self, destination: Destination, digest: str, *aliases: str) -> str:
        """Put the manifest with `digest` under the aliases, and return its image's fingerprint."""
        manifest = self.registry.manifest(destination.repository, digest)  # the tag may have been replaced meanwhile
        for alias in aliases or self.sync.aliases:
            if self.registry.manifest_digest(destination.repository, alias) != manifest.digest:
                self.registry.put_manifest(destination.repository, alias, manifest)
        return fingerprint_of(manifest)

    def _youngest(self, repository: str) -> tuple[Destination, str] | None:
        """Return the result of :func:`youngest_present`; None if an invalid entry of a list may stand for a younger one."""
        odd: list[InvalidEntry] = []
        present = set(self.registry.tags(repository, odd.append))
        runs = self.builds.runs(self.now(), odd.append)
        if odd:
            return None
        return youngest_present(
            self.registry,
            self.pushed,
            (
                (build, destination)
                for build in self.builds.youngest(runs)
                if isinstance(build, Build)
                for destination in build.destinations
                if destination.repository == repository and destination.tag in present
            ),
        )


def _with(item: Item, progress: ImageProgress, push: ImagePusher) -> Item:
    """Return the item with its progress."""
    sent = push.sent + int(item.detail.get("bytes", 0))
    detail = {**_build_of(item), **progress.to_json(), "bytes": sent}
    return replace(item, source=f"{RUN}{item.detail['run']}", detail=detail)


def _build_of(item: Item) -> dict[str, Any]:
    """Return the part of an item's detail that identifies the image and the build."""
    return {key: item.detail[key] for key in ("run", "image", "tag")}


@dataclass(slots=True)
class ImagePusher:
    """Pushes images to one repository. ``sent`` counts the bytes sent."""

    registry: Registry
    repository: str
    known: KnownLayers
    context: StepContext
    processors: int | None = None
    limits: ArchiveLimits = LIMITS
    sent: int = 0

    def push(
        self,
        archive: Callable[[Mark | None], Iterable[bytes]],
        where: str,
        wanted: WantedImage,
        progress: ImageProgress,
        checkpoints: Checkpoints | None = None,
    ) -> UploadedImage | None:
        """Bring an image without its tag to the repository; return None if time ran out.

        ``archive`` opens the archive, from its start or a mark. If time ran out, or after an error that is retried, the
        position is stored in ``checkpoints``, and ``progress`` has the parts that need not be sent again. Raises
        ARCHIVE_INVALID, ARCHIVE_REFUSED, IMAGE_ABSENT, and the errors of the archive and the registry.
        """
        checkpoint = checkpoints.load() if checkpoints else None
        layers = len(progress.done)
        trust = True
        while True:
            with LayerUploader(self.registry, self.repository, self.context, self.processors) as sender:
                passed = ArchivePass(
                    sender, self.known, self.repository, self.context, wanted, progress, where, self.limits, trust
                )
                try:
                    mark = None if checkpoint is None else passed.resume(checkpoint)
                    with _read_ahead(archive(mark)) as chunks:
                        contents = passed.over(chunks)
                    if contents is not None and not passed.mismatched:
                        image = choose_image(list_images(contents), wanted.image, wanted.tag, where)
                        return upload_manifests(
                            progress.resolve_layers(image, contents), progress.done, contents, sender
                        )
                except SynclineError as error:
                    if error.code.name not in _ARCHIVE_ERRORS:
                        read = _keep(passed.checkpoint(), checkpoints)
                        progress.count_function(read, has_layers=len(progress.done) > layers)
                        raise
                    if checkpoint is None:
                        raise
                    # The checkpoint may be wrong.
                    checkpoint = None
                    progress.done.clear()
                    progress.open.clear()
                    continue
                finally:
                    self.sent += sender.sent
            checkpoint = passed.checkpoint()
            if contents is None:
                progress.count_function(_keep(checkpoint, checkpoints), has_layers=len(progress.done) > layers)
                return None
            trust = False


def _keep(checkpoint: Checkpoint | None, checkpoints: Checkpoints | None) -> int:
    """Store a checkpoint, that of the layer's start if the one within it is too large. Return its position, 0 if none."""
    if checkpoint is None or checkpoints is None:
        return 0
    for each in (checkpoint, replace(checkpoint, inside=None)):
        if checkpoints.save(each):
            return each.read
    return 0


@contextlib.contextmanager
def _read_ahead(chunks: Iterable[bytes]) -> Iterator[MarkedStream[bytes]]:
    """Download and decompress the zip in a separate thread, and yield the same chunks with their marks.

    Freed memory is returned to the system from time to time. Buffers of many sizes and ages fragment glibc's heaps: an
    image of 5 GiB took 300 to 490 MiB without this, of which 150 were in use. The cost is not measurable.
    """
    stream = chunks if isinstance(chunks, MarkedStream) else MarkedStream(((chunk, None) for chunk in chunks), None)
    first = stream.mark

    def marked() -> Iterator[tuple[bytes, Mark | None]]:
        for number, chunk in enumerate(stream):
            if number % TRIMMED_AFTER == 0:
                trim()
            yield chunk, stream.mark

    with read_ahead(marked()) as ahead:
        yield MarkedStream(ahead, first)


def trim() -> None:
    """Return freed memory to the system, if the C library can."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
