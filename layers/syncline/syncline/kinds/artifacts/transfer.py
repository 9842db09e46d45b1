"""Moving images of builds into one repository, and pointing aliases at the youngest that is there."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from syncline.clients.github.client import GitHub
from syncline.clients.http.listings import InvalidEntry
from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.registry.client import Registry, TagTakenError
from syncline.errors import CodeName, SynclineError
from syncline.kinds.artifacts.archive.feed import LIMITS, Limits, Mark, Stream
from syncline.kinds.artifacts.archive.images import chosen, images_in
from syncline.kinds.artifacts.builds import Build, Builds, Place
from syncline.kinds.artifacts.checkpoints import Checkpoint, Checkpoints
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.discover import RUN, conflict, youngest_there
from syncline.kinds.artifacts.finding import Found, candidates, expired, find
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.manifests import Written, written
from syncline.kinds.artifacts.memory import Facts, Pushed, age_of
from syncline.kinds.artifacts.memory import Push as PushNote
from syncline.kinds.artifacts.reading import Pass, Progress, Wanted
from syncline.kinds.artifacts.sending import Sender
from syncline.kinds.artifacts.verify import check_parts, fingerprint_of, is_whole
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result

# From an archive to a registry in one pass: layers go out as they are met, manifests once all is known.
#
# Some archives name their layers only at their end. So each layer is sent when it comes, under the digest of what it
# became; what the archive says of it is held against that afterwards. Until its manifest is put no tag shows any of it,
# and a registry removes in time what no manifest names.

TRIMMED_AFTER: Final = 64
"""Chunks of an archive after which what was freed is given back to the system."""
_ABOUT_ARCHIVE: Final[frozenset[CodeName]] = frozenset({"ARCHIVE_INVALID", "ARCHIVE_REFUSED", "IMAGE_ABSENT"})


class Push:
    """Brings images to one repository. ``sent`` counts the bytes that went out."""

    def __init__(  # noqa: PLR0913 - each is handed in, and all but four have defaults
        self,
        registry: Registry,
        repository: str,
        known: KnownLayers,
        context: StepContext,
        *,
        processors: int | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._known = known
        self._context = context
        self._processors = processors
        self._limits = limits
        self.sent = 0

    def image(
        self,
        archive: Callable[[Mark | None], Iterable[bytes]],
        where: str,
        wanted: Wanted,
        progress: Progress,
        checkpoints: Checkpoints | None = None,
    ) -> Written | None:
        """Bring all of an image but its tag to the repository; None where time was short, ``progress`` being the rest.

        ``archive`` opens the archive anew each time, from its start or a mark. Where time was short, or something failed
        that is tried again, the place is kept in ``checkpoints``. Raises ARCHIVE_INVALID, ARCHIVE_REFUSED, IMAGE_ABSENT,
        and what reading it and the registry raise; ``progress`` then tells what need not be done again.
        """
        checkpoint = checkpoints.load() if checkpoints else None
        layers = len(progress.done)
        trust = True
        while True:
            with Sender(self._registry, self._repository, self._context, self._processors) as sender:
                passed = Pass(
                    sender,
                    self._known,
                    self._repository,
                    self._context,
                    wanted,
                    progress,
                    where,
                    self._limits,
                    trust,
                )
                try:
                    mark = None if checkpoint is None else passed.resume(checkpoint)
                    with _ahead(archive(mark)) as chunks:
                        contents = passed.over(chunks)
                    if contents is not None and not passed.misled:
                        image = chosen(images_in(contents), wanted.image, wanted.tag, where)
                        return written(progress.settled(image, contents), progress.done, contents, sender)
                except SynclineError as error:
                    if error.code.name not in _ABOUT_ARCHIVE:
                        read = _keep(passed.checkpoint(), checkpoints)
                        progress.count_function(read, has_layers=len(progress.done) > layers)
                        raise
                    if checkpoint is None:
                        raise
                    # It may be the checkpoint that is wrong.
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
    """Keep a checkpoint, of a layer's start if the one within the layer is too large; how far it is, 0 if none is kept."""
    if checkpoint is None or checkpoints is None:
        return 0
    for each in (checkpoint, replace(checkpoint, inside=None)):
        if checkpoints.save(each):
            return each.read
    return 0


@contextlib.contextmanager
def _ahead(chunks: Iterable[bytes]) -> Iterator[Stream[bytes]]:
    """The same chunks with their marks: downloading and taking the zip apart is a thread's work of its own.

    Freed memory is given back to the system now and then. Buffers of many sizes and ages leave glibc's heaps full of
    gaps: an image of 5 GiB took 300 to 490 MiB without this, of which 150 were in use. Done rarely, it costs nothing that
    could be measured.
    """
    stream = chunks if isinstance(chunks, Stream) else Stream(((chunk, None) for chunk in chunks), None)
    first = stream.mark

    def marked() -> Iterator[tuple[bytes, Mark | None]]:
        for number, chunk in enumerate(stream):
            if number % TRIMMED_AFTER == 0:
                trim()
            yield chunk, stream.mark

    with read_ahead(marked()) as ahead:
        yield Stream(ahead, first)


def trim() -> None:
    """Give freed memory back, where the C library can."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


Answer = Completed | Unfinished | Result | Failure
_UNTIL_NAMED: Final[frozenset[CodeName]] = frozenset(
    {"ARTIFACT_EXPIRED", "IMAGE_ABSENT", "ARCHIVE_INVALID", "ARCHIVE_REFUSED"}
)
"""After these another try would come to the same: there is none until somebody names the item."""


@dataclass(frozen=True, slots=True)
class Moving:
    """Moves items of one repository; its caller holds the right to write there. ``now`` gives Unix seconds."""

    sync: ArtifactsSync
    github: GitHub
    registry: Registry
    builds: Builds
    known: KnownLayers
    pushed: Pushed
    memory: Facts
    now: Callable[[], float]

    def items(self, items: Sequence[Item], context: StepContext) -> Iterator[Answer]:
        """An answer for each item, in their order."""
        for item in items:
            if context.over:
                yield Unfinished(item)
            elif item.detail.get("alias"):
                yield self._alias(item)
            else:
                yield from self._image(item, context)

    def _image(self, item: Item, context: StepContext) -> Iterator[Answer]:
        progress = Progress.of(dict(item.detail))
        reached = progress.reached
        push = Push(self.registry, item.group, self.known, context)
        try:
            yield self._moved(item, push, progress, context)
        except SynclineError as error:
            if error.code.name in _UNTIL_NAMED:
                self.pushed.note_gone(str(item.detail["run"]), item.group, item.name, error)
            rest, further = progress, progress.reached > reached
            if error.code.name == "NOT_ARRIVED":
                # What was at the target is so no longer: the next try asks for each part again.
                rest, further = Progress(), False
                Checkpoints(self.memory, self._reference(item)).forget()
            yield Failure(_with(item, rest, push), error, further=further)

    def _moved(self, item: Item, push: Push, progress: Progress, context: StepContext) -> Answer:
        run = str(item.detail["run"])
        present = self.registry.manifest_digest(item.group, item.name)
        noted = self.pushed.of(item.group, item.name)
        is_noted = noted is not None and noted.manifest == present
        if noted is not None and is_noted and (settled := self._settled(item, noted, push)) is not None:
            return settled
        # One of an older build that was never verified is still ours to mend.
        ours = noted is not None and is_noted and (noted.run == run or not noted.proved)
        image, tag = str(item.detail["image"]), str(item.detail["tag"])
        found, version = self._find(run, image, tag)
        wanted = Wanted(image, tag, lambda name: self.sync.build.is_archive(name, image, tag))
        checkpoints = Checkpoints(self.memory, self._reference(item), version)
        written = push.image(found.open, found.where, wanted, progress, checkpoints)
        if written is None or context.halted():
            return Unfinished(_with(item, progress, push), progress.is_stuck)
        if present is not None and not ours:
            # The layers of the same image may be packed otherwise.
            if self._is(item, written.fingerprint):
                self.pushed.note(item.group, item.name, PushNote(run, present, written.fingerprint))
                self._follow(item)
                return Result(item.group, item.name, Outcome.EQUAL, written.fingerprint, written.fingerprint)
            if not self.sync.overwrite:
                return self._taken(item, written, present)
        check_parts(self.registry, item.group, written.manifest)
        # Noted before it is done: whoever finds the tag there afterwards knows whose it is.
        self.pushed.note(
            item.group, item.name, PushNote(run, written.manifest.digest, written.fingerprint, proved=False)
        )
        try:
            self.registry.put_tag(item.group, item.name, written.manifest, present, overwrite=self.sync.overwrite)
        except TagTakenError as taken:
            return self._taken(item, written, taken.digest)
        checkpoints.forget()
        return self._arrived(item, written.fingerprint, push)

    def _settled(self, item: Item, noted: PushNote, push: Push) -> Answer | None:
        """Return the answer for an item whose tag is as noted, None if it is to be put, or put once more."""
        run = str(item.detail["run"])
        is_older = noted.run != run
        if is_older and age_of(noted.run) > age_of(run):
            # A younger build came after the scan.
            return Result(item.group, item.name, Outcome.EQUAL, noted.fingerprint, noted.fingerprint)
        if (is_older and self.sync.overwrite) or not is_whole(self.registry, item.group, item.name):
            return None
        if not is_older:
            return self._arrived(item, noted.fingerprint, push)
        # It was put after the scan, and is left alone as one that was there before it.
        self.pushed.note_proved(item.group, item.name, noted.fingerprint)
        self._follow(item)
        return Result(item.group, item.name, Outcome.EQUAL, noted.fingerprint, noted.fingerprint)

    def _taken(self, item: Item, written: Written, other: str) -> Result:
        """Return the conflict with a tag that somebody else has put, and note it for later runs."""
        run = str(item.detail["run"])
        push = PushNote(run, written.manifest.digest, written.fingerprint, proved=False, other=other)
        self.pushed.note(item.group, item.name, push)
        return conflict(item, push)

    def _is(self, item: Item, fingerprint: str) -> bool:
        """Return True if the tag that is there is that image, and whole."""
        is_same = fingerprint_of(self.registry.manifest(item.group, item.name)) == fingerprint
        return is_same and is_whole(self.registry, item.group, item.name)

    def _reference(self, item: Item) -> str:
        return f"{self.registry.host}/{item.group}:{item.name}"

    def _find(self, run: str, image: str, tag: str) -> tuple[Found, str]:
        """Return the archive of an image, and what tells it from any other."""
        number = int(run.partition(".")[0])
        odd: list[InvalidEntry] = []
        artifacts = self.github.artifacts(self.sync.source.repository, number, odd.append)
        try:
            fitting = candidates(artifacts, self.sync.build, f"run {number}")
            sources = [self.github.content(self.sync.source.repository, artifact) for artifact in fitting]
            found = find(sources, self.sync.build, image, tag)
            artifact = next(each for each, source in zip(fitting, sources, strict=True) if source is found.source)
        except SynclineError as error:
            if not error.is_any("IMAGE_ABSENT", "ARTIFACT_EXPIRED"):
                raise
            if odd:
                raise odd[0].error from error  # the odd entry may be the artifact that has it
            raise expired(artifacts, self.sync.build, f"run {number}", error) from None
        # Artifacts do not say which attempt left them. Asked for afterwards, the run tells that there was no later one.
        now = self.builds.run(number)
        if now.mark != run or not self.builds.takes(now):
            raise SynclineError("SOURCE_CHANGED", f"run {number} was started again since it was scanned")
        return found, f"{artifact.id} {artifact.digest} {found.version}"

    def _arrived(self, item: Item, fingerprint: str, push: Push) -> Answer:
        """Return the answer for an image whose parts are all there, after its aliases were put where it is the youngest."""
        self._follow(item)
        moved = replace(item, source=fingerprint, detail=_build_of(item))
        return Completed(moved, push.sent + int(item.detail.get("bytes", 0)))

    def _follow(self, item: Item) -> None:
        """Point the aliases at an image that is at the target, if it is the youngest there."""
        found = self._youngest(item.group) if self.sync.aliases else None
        if found is not None and found[0].tag == item.name:
            self._point(*found)

    def _alias(self, item: Item) -> Answer:
        """Point an alias at the youngest build as it is now, whatever was so when it was looked at."""
        try:
            found = self._youngest(item.group)
            if found is None:
                return Result(item.group, item.name, Outcome.EQUAL, target=item.target)
            fingerprint = self._point(*found, item.name)
        except SynclineError as error:
            return Failure(item, error)
        return Completed(replace(item, source=fingerprint))

    def _point(self, place: Place, digest: str, *aliases: str) -> str:
        """Put the manifest that a tag was found with under the aliases, and return its image's fingerprint.

        It is read by its digest: somebody may have put another one under the tag meanwhile.
        """
        manifest = self.registry.manifest(place.repository, digest)
        for alias in aliases or self.sync.aliases:
            if self.registry.manifest_digest(place.repository, alias) != manifest.digest:
                self.registry.put_manifest(place.repository, alias, manifest)
        return fingerprint_of(manifest)

    def _youngest(self, repository: str) -> tuple[Place, str] | None:
        """Return the place and the digest of the youngest build that the repository has, and that nobody else has put.

        None where an odd entry may stand for a younger one.
        """
        odd: list[InvalidEntry] = []
        there = set(self.registry.tags(repository, odd.append))
        runs = self.builds.runs(self.now(), odd.append)
        if odd:
            return None
        return youngest_there(
            self.registry,
            self.pushed,
            (
                (build, place)
                for build in self.builds.youngest(runs)
                if isinstance(build, Build)
                for place in build.places
                if place.repository == repository and place.tag in there
            ),
        )


def _with(item: Item, progress: Progress, push: Push) -> Item:
    """Return the item with its progress."""
    sent = push.sent + int(item.detail.get("bytes", 0))
    detail = {**_build_of(item), **progress.to_json(), "bytes": sent}
    return replace(item, source=f"{RUN}{item.detail['run']}", detail=detail)


def _build_of(item: Item) -> dict[str, Any]:
    """Return the part of an item's detail that says which image of which build it is."""
    return {key: item.detail[key] for key in ("run", "image", "tag")}
