"""Aliases point at the image of the youngest build in the repository."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from syncline.clients.github.client import WorkflowRun
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import OCI_MANIFEST, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.kinds.artifacts.builds import Build, Destination
from syncline.kinds.artifacts.discover import youngest_present
from syncline.kinds.artifacts.records import PushRecord, PushRecords
from syncline.kinds.artifacts.transfer import ArtifactTransfer
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.kind import Completed, StepContext
from syncline.model import Item

REPOSITORY = "group/project/x86/app"


@dataclass
class Tags:
    """A registry's tags with their digests. ``asked`` has the tags whose digests were read."""

    digests: dict[str, str]
    asked: list[str] = field(default_factory=list)

    def manifest_digest(self, _repository: str, tag: str) -> str | None:
        self.asked.append(tag)
        return self.digests.get(tag)


def build(number: int, tag: str) -> tuple[Build, Destination]:
    destination = Destination("app", REPOSITORY, tag)
    run = WorkflowRun(number, 1, number, "", "", "push", "completed", "success", "build.yml", 0.0, 0.0, 0.0, "")
    return Build(run, {}, tag, (destination,)), destination


def youngest(registry: Tags, pushed: PushRecords, *builds: tuple[Build, Destination]) -> str | None:
    found = youngest_present(cast("Registry", registry), pushed, builds)
    return None if found is None else found[0].tag


def pushed_for(**runs: str) -> PushRecords:
    """Return records of tags pushed for these runs; the digest of each tag is its name."""
    pushed = PushRecords(ProcessFacts(), "host")
    for tag, run in runs.items():
        pushed.note(REPOSITORY, tag, PushRecord(run, tag, tag))
    return pushed


def test_a_tag_has_the_age_of_its_run_that_is_not_listed() -> None:
    """Run 3 made `a` again; its second attempt failed."""
    registry = Tags({"a": "a", "b": "b"})
    assert youngest(registry, pushed_for(a="3.1", b="2.1"), build(2, "b"), build(1, "a")) == "a"
    assert registry.asked == ["a"], "older tags are not read"


def test_a_kept_tag_has_the_age_of_the_older_run() -> None:
    assert youngest(Tags({"a": "a", "b": "b"}), pushed_for(a="1.1", b="2.1"), build(3, "a"), build(2, "b")) == "b"


def test_a_deleted_tag_does_not_count() -> None:
    assert youngest(Tags({"b": "b"}), pushed_for(a="3.1", b="2.1"), build(3, "a"), build(2, "b")) == "b"


def test_a_tag_without_a_record_has_the_age_of_its_build() -> None:
    assert youngest(Tags({"a": "a", "b": "b"}), pushed_for(b="2.1"), build(3, "a"), build(2, "b")) == "a"


class ChangingTags(Tags):
    """A registry whose tags are replaced by others after each read of their digests."""

    def tags(self, _repository: str, _odd: object) -> list[str]:
        return sorted(self.digests)

    def manifest_digest(self, repository: str, tag: str) -> str | None:
        digest = super().manifest_digest(repository, tag)
        if tag != "latest":
            self.digests[tag] = "theirs"
        return digest

    def manifest(self, _repository: str, reference: str) -> Manifest:
        digest = self.digests.get(reference, reference)
        return Manifest(digest, OCI_MANIFEST, json.dumps({"config": {"digest": digest_of(digest.encode())}}).encode())

    def put_manifest(self, _repository: str, tag: str, manifest: Manifest) -> None:
        self.digests[tag] = manifest.digest


def test_an_alias_ignores_a_tag_replaced_during_the_transfer() -> None:
    registry = ChangingTags({"a": "ours"})
    own_build = build(1, "a")[0]
    builds = SimpleNamespace(runs=lambda *_: [own_build.run], youngest=lambda _: [own_build])
    pushed = pushed_for()
    pushed.note(REPOSITORY, "a", PushRecord("1.1", "ours", digest_of(b"ours")))
    sync = SimpleNamespace(aliases=("latest",))
    moving = ArtifactTransfer(*cast("Any", (sync, None, registry, builds, None, pushed, None, lambda: 0.0)))
    (answer,) = moving.items([Item(REPOSITORY, "latest", detail={"alias": True})], StepContext(lambda: 60.0))
    assert isinstance(answer, Completed)
    assert registry.digests == {"a": "theirs", "latest": "ours"}
