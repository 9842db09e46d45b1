"""Moving images of builds into one repository, and pointing aliases at the youngest that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from syncline.clients.entries import Odd
from syncline.clients.github import GitHub
from syncline.clients.oci import Registry
from syncline.config.artifacts import ArtifactsSync
from syncline.errors import SynclineError
from syncline.kinds.artifacts.builds import Build, Builds
from syncline.kinds.artifacts.finding import Found, candidates, find
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.passing import Progress, Wanted
from syncline.kinds.artifacts.proving import fingerprint_of, proved
from syncline.kinds.artifacts.pushed import Push as PushNote
from syncline.kinds.artifacts.pushed import Pushed
from syncline.kinds.artifacts.pushing import Push
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item, Outcome, Result

Answer = Arrived | Later | Result | Failure
_UNTIL_NAMED = frozenset({"ARTIFACT_EXPIRED", "IMAGE_ABSENT", "ARCHIVE_INVALID", "ARCHIVE_REFUSED"})
"""After these another look would come to the same: it is not tried again until somebody names it."""


@dataclass(frozen=True, slots=True)
class Moving:
    """Moves items of one repository; its caller holds the right to write there. ``now`` gives Unix seconds."""

    sync: ArtifactsSync
    github: GitHub
    registry: Registry
    builds: Builds
    known: KnownLayers
    pushed: Pushed
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
        push = Push(self.registry, item.group, self.known, pace)
        try:
            yield self._moved(item, push, progress, pace)
        except SynclineError as error:
            if error.code.name in _UNTIL_NAMED:
                self.pushed.note_gone(str(item.detail["run"]), item.group, item.name, error)
            yield Failure(_with(item, progress, push), error)

    def _moved(self, item: Item, push: Push, progress: Progress, pace: Pace) -> Answer:
        run = str(item.detail["run"])
        present = self.registry.manifest_digest(item.group, item.name)
        noted = self.pushed.of(item.group, item.name)
        if present is not None and noted is not None and (noted.run, noted.manifest) == (run, present):
            return self._arrived(item, noted.fingerprint, push)  # an earlier try got this far, unheard
        if present is not None and not self.sync.overwrite:
            return Result(item.group, item.name, Outcome.SKIPPED, target=present)
        image, tag = str(item.detail["image"]), str(item.detail["tag"])
        found = self._find(run, image, tag)
        wanted = Wanted(image, tag, lambda name: self.sync.build.is_archive(name, image, tag))
        written = push.image(found.open, found.where, wanted, progress)
        if written is None or pace.halted():
            return Later(_with(item, progress, push))
        digest = written.manifest.digest
        if present is not None and self._is(item, written.fingerprint):
            digest = present  # the same image, its layers packed otherwise
        # Noted before it is done: whoever finds the tag there afterwards knows whose it is.
        self.pushed.note(item.group, item.name, PushNote(run, digest, written.fingerprint))
        if digest != present:
            self.registry.put_manifest(item.group, item.name, written.manifest)
        return self._arrived(item, written.fingerprint, push)

    def _is(self, item: Item, fingerprint: str) -> bool:
        return fingerprint_of(self.registry.manifest(item.group, item.name)) == fingerprint

    def _find(self, run: str, image: str, tag: str) -> Found:
        number = int(run.partition(".")[0])
        odd: list[Odd] = []
        artifacts = self.github.artifacts(self.sync.source.repository, number, odd.append)
        try:
            fitting = candidates(artifacts, self.sync.build, f"run {number}")
            sources = [self.github.content(self.sync.source.repository, artifact) for artifact in fitting]
            return find(sources, self.sync.build, image, tag)
        except SynclineError as error:
            if not odd or error.code.name not in ("IMAGE_ABSENT", "ARTIFACT_EXPIRED"):
                raise
            raise odd[0].error from error  # the odd entry may be the artifact that has it

    def _arrived(self, item: Item, fingerprint: str, push: Push) -> Answer:
        moved = replace(item, source=fingerprint, detail=_build_of(item))
        if self.sync.aliases:
            # Nothing is to point at what is not wholly there, so it is proved before, as it will be after.
            for answer in proved(self.registry, [moved], Pace(lambda: 1.0)):
                if isinstance(answer, Failure):
                    return answer
            if self._youngest(item.group) == item.name:
                self._point(item.group, item.name)
        return Arrived(moved, push.sent + int(item.detail.get("bytes", 0)))

    def _alias(self, item: Item) -> Answer:
        """Point an alias at the youngest build as it is now, whatever was so when it was looked at."""
        try:
            tag = self._youngest(item.group)
            if tag is None:
                return Result(item.group, item.name, Outcome.SKIPPED, target=item.target)
            fingerprint = self._point(item.group, tag, item.name)
        except SynclineError as error:
            return Failure(item, error)
        return Arrived(replace(item, source=fingerprint))

    def _point(self, repository: str, tag: str, *aliases: str) -> str:
        """Put a tag's very manifest under the aliases: no layer moves. Its image's fingerprint."""
        manifest = self.registry.manifest(repository, tag)
        for alias in aliases or self.sync.aliases:
            if self.registry.manifest_digest(repository, alias) != manifest.digest:
                self.registry.put_manifest(repository, alias, manifest)
        return fingerprint_of(manifest)

    def _youngest(self, repository: str) -> str | None:
        """The tag of the youngest build that the repository has; None where an odd entry may stand for a younger one."""
        odd: list[Odd] = []
        there = set(self.registry.tags(repository, odd.append))
        runs = self.builds.runs(self.now(), odd.append)
        if odd:
            return None
        for build in self.builds.youngest(runs):
            if isinstance(build, Build):
                for place in build.places:
                    if place.repository == repository and place.tag in there:
                        return place.tag
        return None


def _with(item: Item, progress: Progress, push: Push) -> Item:
    """The item with where it stands."""
    sent = push.sent + int(item.detail.get("bytes", 0))
    return replace(item, detail={**_build_of(item), **progress.to_json(), "bytes": sent})


def _build_of(item: Item) -> dict[str, Any]:
    """Return the part of an item's detail that says which image of which build it is."""
    return {key: item.detail[key] for key in ("run", "image", "tag")}
