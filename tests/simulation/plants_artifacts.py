"""Faults that are planted in the kind ``artifacts``; see :mod:`tests.simulation.plants`, which registers them too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from syncline.kinds.artifacts import find_archive
from syncline.kinds.artifacts import kind as artifacts
from syncline.kinds.artifacts import transfer as moving
from syncline.kinds.artifacts.builds import Builds
from syncline.kinds.artifacts.read_archive import ImageProgress
from syncline.kinds.artifacts.records import PushRecords
from syncline.kinds.artifacts.transfer import ArtifactTransfer
from syncline.kinds.kind import Completed
from tests.simulation.plants import plant


@plant
def replace_a_younger_build() -> Iterator[None]:
    """An image that was scanned before a younger build came replaces that one."""
    with patch.object(moving, "age_of", lambda _run: (0, 0)):
        yield


@plant
def forget_unlisted_runs() -> Iterator[None]:
    """A run that somebody names decides what its tag is, though a younger one that is not listed made it again."""
    with patch.object(Builds, "since", lambda _self, run: [run]):
        yield


@plant
def let_the_oldest_run_win() -> Iterator[None]:
    """Where several runs made the same image tag, the oldest one counts."""
    youngest = Builds.youngest
    with patch.object(Builds, "youngest", lambda self, runs: youngest(self, runs[::-1])):
        yield


@plant
def point_aliases_at_strangers() -> Iterator[None]:
    """An alias follows a tag that somebody else has put."""
    with patch.object(PushRecords, "is_replaced", lambda *_: False):
        yield


@plant
def point_aliases_at_what_arrives() -> Iterator[None]:
    """Each image takes the aliases with it, though a younger build is there."""

    def follow(self: Any, item: Any) -> None:
        if self.sync.aliases:
            self._point(item.group, item.name)

    with patch.object(ArtifactTransfer, "_follow", follow):
        yield


@plant
def believe_the_registry() -> Iterator[None]:
    """What the registry has acknowledged counts as arrived, without another question."""
    with patch.object(artifacts, "verify_items", lambda _registry, items, _context: map(Completed, items)):
        yield


@plant
def ignore_what_layers_hold() -> Iterator[None]:
    """A layer's content need not be what the image's config says."""
    with patch.object(ImageProgress, "_mismatch", lambda *_: None):
        yield


@plant
def fall_back_on_an_earlier_artifact() -> Iterator[None]:
    """Where the artifact of the latest attempt has expired, that of an earlier attempt is taken."""
    fitting = find_archive._fitting

    def alive(found: Any, rules: Any) -> Any:
        return fitting([each for each in found if not each.expired], rules) or fitting(found, rules)

    with patch.object(find_archive, "_fitting", alive):
        yield


@plant
def trust_the_attempt() -> Iterator[None]:
    """A run that was started again while its artifacts were looked at is not noticed."""
    find = ArtifactTransfer._find

    def changed(self: Any, run: str, image: str, tag: str) -> Any:
        builds = SimpleNamespace(run=lambda _: SimpleNamespace(mark=run), takes=lambda _: True)
        return find(replace(self, builds=builds), run, image, tag)

    with patch.object(ArtifactTransfer, "_find", changed):
        yield


@plant
def overwrite_an_image_without_leave() -> Iterator[None]:
    """An image that somebody else put under the tag of a build is replaced."""
    taken = ArtifactTransfer._conflict

    def changed(self: Any, item: Any, written: Any, other: str) -> Any:
        self.registry.put_manifest(item.group, item.name, written.manifest)
        return taken(self, item, written, other)

    with patch.object(ArtifactTransfer, "_conflict", changed):
        yield
