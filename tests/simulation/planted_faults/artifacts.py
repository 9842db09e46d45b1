"""Planted faults in the kind ``artifacts``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from syncline.kinds.artifacts import find_archive, transfer
from syncline.kinds.artifacts import kind as artifacts
from syncline.kinds.artifacts.builds import Builds
from syncline.kinds.artifacts.read_archive import ImageProgress
from syncline.kinds.artifacts.records import PushRecords
from syncline.kinds.artifacts.transfer import ArtifactTransfer
from syncline.kinds.kind import Completed
from tests.simulation.planted_faults.registry import planted_fault

WORLDS: Final = ("artifacts",)


@planted_fault
def replace_a_newer_build() -> Iterator[None]:
    """Replace the image of a newer build by one that was scanned before it."""
    with patch.object(transfer, "age_of", lambda _run: (0, 0)):
        yield


@planted_fault
def ignore_unlisted_workflow_runs() -> Iterator[None]:
    """Assign a tag to the named workflow run even if a newer run outside the list made it again."""
    with patch.object(Builds, "since", lambda _self, run: [run]):
        yield


@planted_fault
def prefer_the_oldest_workflow_run() -> Iterator[None]:
    """Use the oldest of several workflow runs that made the same image tag."""
    youngest = Builds.youngest
    with patch.object(Builds, "youngest", lambda self, runs: youngest(self, runs[::-1])):
        yield


@planted_fault
def point_aliases_at_foreign_images() -> Iterator[None]:
    """Point an alias to a tag that a foreign writer replaced."""
    with patch.object(PushRecords, "is_replaced", lambda *_: False):
        yield


@planted_fault
def point_aliases_at_every_image() -> Iterator[None]:
    """Point the aliases to each pushed image, even if a newer build exists."""

    def follow(self: Any, item: Any) -> None:
        digest = self.registry.manifest_digest(item.group, item.name)
        if digest is not None:
            self._point(SimpleNamespace(repository=item.group), digest)

    with patch.object(ArtifactTransfer, "_follow", follow):
        yield


@planted_fault
def skip_artifact_verification() -> Iterator[None]:
    """Report images of builds as verified without asking the registry."""
    with patch.object(artifacts, "verify_items", lambda _registry, items, _context: map(Completed, items)):
        yield


@planted_fault
def skip_layer_content_check() -> Iterator[None]:
    """Accept a layer whose content does not match the config of its image."""
    with patch.object(ImageProgress, "_mismatch", lambda *_: None):
        yield


@planted_fault
def use_an_artifact_of_an_earlier_attempt() -> Iterator[None]:
    """Use the artifact of an earlier attempt where that of the latest one has expired."""
    fitting = find_archive._fitting

    def latest_or_earlier(found: Any, rules: Any) -> Any:
        return fitting([each for each in found if not each.expired], rules) or fitting(found, rules)

    with patch.object(find_archive, "_fitting", latest_or_earlier):
        yield


@planted_fault
def ignore_a_restarted_workflow_run() -> Iterator[None]:
    """Ignore that a workflow run was restarted while its artifacts were read."""
    find = ArtifactTransfer._find

    def changed(self: Any, run: str, image: str, tag: str) -> Any:
        builds = SimpleNamespace(run=lambda _: SimpleNamespace(mark=run), takes=lambda _: True)
        return find(replace(self, builds=builds), run, image, tag)

    with patch.object(ArtifactTransfer, "_find", changed):
        yield


@planted_fault
def overwrite_foreign_artifact_images() -> Iterator[None]:
    """Replace a foreign image under the tag of a build."""
    original = ArtifactTransfer._conflict

    def changed(self: Any, item: Any, written: Any, other: str) -> Any:
        self.registry.put_manifest(item.group, item.name, written.manifest)
        return original(self, item, written, other)

    with patch.object(ArtifactTransfer, "_conflict", changed):
        yield
