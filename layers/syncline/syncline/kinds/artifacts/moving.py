"""Moving images of builds into one repository, and pointing aliases at the youngest that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from syncline.clients.github.client import GitHub
from syncline.clients.http.listings import Odd
from syncline.clients.registry.client import Registry, TagTakenError
from syncline.config.artifacts import ArtifactsSync
from syncline.errors import SynclineError
from syncline.kinds.artifacts.builds import Build, Builds, Place
from syncline.kinds.artifacts.checkpoints import Checkpoints
from syncline.kinds.artifacts.finding import Found, candidates, expired, find
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.looking import RUN, conflict, youngest_there
from syncline.kinds.artifacts.manifests import Written
from syncline.kinds.artifacts.passing import Progress, Wanted
from syncline.kinds.artifacts.proving import check_parts, fingerprint_of, is_whole
from syncline.kinds.artifacts.pushed import Facts, Pushed, age_of
from syncline.kinds.artifacts.pushed import Push as PushNote
from syncline.kinds.artifacts.pushing import Push
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item, Outcome, Result

Answer = Arrived | Later | Result | Failure
_UNTIL_NAMED = frozenset({"ARTIFACT_EXPIRED", "IMAGE_ABSENT", "ARCHIVE_INVALID", "ARCHIVE_REFUSED"})
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

    def items(self, items: Sequence[Item], pace: Pace) -> Iterator[Answer]:
        """An answer for each item, in their order."""
        for item in items:
            if pace.over:
                yield Later(item)
            elif item.detail.get("alias"):
                yield self._alias(item)
            else:
                yield from self._image(item, pace)

    def _image(self, item: Item, pace: Pace) -> Iterator[Answer]:
        progress = Progress.of(dict(item.detail))
        reached = progress.reached
        push = Push(self.registry, item.group, self.known, pace)
        try:
            yield self._moved(item, push, progress, pace)
        except SynclineError as error:
            if error.code.name in _UNTIL_NAMED:
                self.pushed.note_gone(str(item.detail["run"]), item.group, item.name, error)
            rest, further = progress, progress.reached > reached
            if error.code.name == "NOT_ARRIVED":
                # What was at the target is so no longer: the next try asks for each part again.
                rest, further = Progress(), False
                Checkpoints(self.memory, self._reference(item)).forget()
            yield Failure(_with(item, rest, push), error, further=further)

    def _moved(self, item: Item, push: Push, progress: Progress, pace: Pace) -> Answer:
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
        if written is None or pace.halted():
            return Later(_with(item, progress, push), progress.is_stuck)
        if present is not None and not ours:
            # The layers of the same image may be packed otherwise.
            if self._is(item, written.fingerprint):
                self.pushed.note(item.group, item.name, PushNote(run, present, written.fingerprint))
                self._follow(item)
                return Result(item.group, item.name, Outcome.SKIPPED, written.fingerprint, written.fingerprint)
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
            return Result(item.group, item.name, Outcome.SKIPPED, noted.fingerprint, noted.fingerprint)
        if (is_older and self.sync.overwrite) or not is_whole(self.registry, item.group, item.name):
            return None
        if not is_older:
            return self._arrived(item, noted.fingerprint, push)
        # It was put after the scan, and is left alone as one that was there before it.
        self.pushed.note_proved(item.group, item.name, noted.fingerprint)
        self._follow(item)
        return Result(item.group, item.name, Outcome.SKIPPED, noted.fingerprint, noted.fingerprint)

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
        odd: list[Odd] = []
        artifacts = self.github.artifacts(self.sync.source.repository, number, odd.append)
        try:
            fitting = candidates(artifacts, self.sync.build, f"run {number}")
            sources = [self.github.content(self.sync.source.repository, artifact) for artifact in fitting]
            found = find(sources, self.sync.build, image, tag)
            artifact = next(each for each, source in zip(fitting, sources, strict=True) if source is found.source)
        except SynclineError as error:
            if error.code.name not in ("IMAGE_ABSENT", "ARTIFACT_EXPIRED"):
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
        return Arrived(moved, push.sent + int(item.detail.get("bytes", 0)))

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
                return Result(item.group, item.name, Outcome.SKIPPED, target=item.target)
            fingerprint = self._point(*found, item.name)
        except SynclineError as error:
            return Failure(item, error)
        return Arrived(replace(item, source=fingerprint))

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
        odd: list[Odd] = []
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
