"""Scans of builds: images to send, images known to be present or to fail, and aliases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest

from syncline.clients.github.client import WorkflowRun
from syncline.clients.http.listings import InvalidEntry, OnInvalid
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import OCI_MANIFEST, Manifest
from syncline.errors import CodeName, SynclineError
from syncline.kinds.artifacts.builds import Build, Builds, Destination, UnreadableRun
from syncline.kinds.artifacts.discover import BuildScan, ProjectTarget
from syncline.kinds.artifacts.records import PushRecord, PushRecords
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.kind import Page, StepContext
from syncline.model import EVERYTHING, Outcome, Scope
from tests.unit.kinds.artifacts.test_builds import example

APP: Final = "group/project/app"
SYNC: Final = example().model_copy(update={"aliases": ("latest",), "overwrite": False})
CONTEXT: Final = StepContext(lambda: 60.0)
ABSENT: Final = SynclineError("IMAGE_ABSENT", "no archive")


def run_of(number: int, attempt: int = 1) -> WorkflowRun:
    at = float(number)
    return WorkflowRun(number, attempt, number, "main", "", "push", "completed", "success", "", at, at, at, "")


def build_of(number: int, *tags: str) -> Build:
    """Return a build of one image for each repository and tag."""
    destinations = tuple(Destination("app", *tag.rsplit(":", 1)) for tag in tags or (f"{APP}:v{number}",))
    return Build(run_of(number), {}, f"build-{number}", destinations)


class _Memory(ProcessFacts):
    """Facts of several scans of one run."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, str] = {}

    def take(self, key: str, owner: str, seconds: float) -> bool:
        assert seconds
        return self.taken.setdefault(key, owner) == owner


@dataclass
class World:
    """GitHub and a registry. ``builds`` are listed, youngest first; ``older`` are not. ``tags`` has digests by tag."""

    builds: list[Build | UnreadableRun] = field(default_factory=list)
    older: list[Build] = field(default_factory=list)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    odd: list[InvalidEntry] = field(default_factory=list)
    odd_tags: list[InvalidEntry] = field(default_factory=list)
    errors: dict[int, SynclineError] = field(default_factory=dict)
    memory: _Memory = field(default_factory=_Memory)
    sync: Any = SYNC
    host: str = "registry.example"

    def __post_init__(self) -> None:
        self.pushed = PushRecords(self.memory, self.host)

    # -- GitHub

    def runs(self, now: float, odd: OnInvalid) -> list[WorkflowRun]:
        assert now == 7.0
        for each in self.odd:
            odd(each)
        return [build.run for build in self.builds]

    def run(self, number: int) -> WorkflowRun:
        if number in self.errors:
            raise self.errors[number]
        return next(build.run for build in self.older if build.run.id == number)

    def takes(self, run: WorkflowRun) -> bool:
        return run.attempt == 1

    def since(self, run: WorkflowRun) -> list[WorkflowRun]:
        return [build.run for build in (*self.builds, *self.older) if build.run.created >= run.created]

    def youngest(self, runs: list[WorkflowRun]) -> Iterator[Build | UnreadableRun]:
        known = {build.run.id: build for build in (*self.builds, *self.older)}
        seen: set[str] = set()
        for run in runs:
            build = known[run.id]
            if isinstance(build, UnreadableRun) or build.tag not in seen:
                seen.add("" if isinstance(build, UnreadableRun) else build.tag)
                yield build

    # -- the registry

    def tag_list(self, repository: str, odd: OnInvalid) -> Iterator[str]:
        for each in self.odd_tags:
            odd(each)
        return iter(self.tags.get(repository, {}))

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        return self.tags.get(repository, {}).get(reference)

    def manifest(self, _repository: str, reference: str) -> Manifest:
        return Manifest(reference, OCI_MANIFEST, b'{"schemaVersion": 2, "config": {}, "layers": []}')

    # -- a scan

    def scan(self, *groups: str, cursor: str | None = None, context: StepContext = CONTEXT) -> list[Page]:
        world = self

        class _Registry:
            host = world.host
            tags = staticmethod(world.tag_list)
            manifest_digest = staticmethod(world.manifest_digest)
            manifest = staticmethod(world.manifest)

        target = ProjectTarget(cast("Registry", _Registry()), None)
        build_scan = BuildScan(self.sync, cast("Builds", self), target, self.pushed, self.memory, now=lambda: 7.0)
        return list(build_scan.pages(Scope.of(groups) if groups else EVERYTHING, cursor, context))


def sent(pages: list[Page]) -> list[str]:
    return [str(item) for page in pages for item in page.items]


def results_of(pages: list[Page]) -> list[tuple[str, Outcome, str | None]]:
    return [(f"{each.group}:{each.name}", each.outcome, each.code) for page in pages for each in page.results]


def failures_of(pages: list[Page]) -> list[tuple[str, str]]:
    return [(str(each.item), each.error.code.name) for page in pages for each in page.failures]


def test_missing_images_are_sent_by_repository() -> None:
    other = "group/project/other"
    builds = [build_of(3, f"{APP}:v3", f"{other}:v3"), build_of(2), build_of(1)]
    world = World([*builds], tags={APP: {"v2": "d2", "latest": "d2"}})
    pages = world.scan()
    assert sent(pages) == [f"{APP}:v3", f"{APP}:v1", f"{other}:v3"]
    assert [page.cursor for page in pages] == ["", APP, other]
    assert sum(page.equal for page in pages) == 1
    item = pages[1].items[0]
    assert (item.source, item.detail) == ("run:3.1", {"run": "3.1", "image": "app", "tag": "build-3"})
    assert sent(world.scan(cursor=APP)) == [f"{other}:v3"]
    assert [page.cursor for page in world.scan(cursor=APP)] == [other]


@pytest.mark.parametrize("scope", ["run:3", "build-3", APP, f"{APP}:v3"])
def test_scope_names_a_run_an_image_tag_a_repository_or_an_image(scope: str) -> None:
    other = "group/project/other"
    world = World([build_of(3, f"{APP}:v3", f"{other}:v4"), build_of(2, f"{other}:v2")])
    assert sent(world.scan(scope)) == [f"{APP}:v3", *([] if APP in scope else [f"{other}:v4"])]


def test_no_builds() -> None:
    assert [(page.items, page.failures) for page in World().scan()] == [((), ())]


def test_an_unknown_name_is_a_failure_in_a_manual_run() -> None:
    world = World([build_of(3)])
    named = StepContext(lambda: 60.0, named=True, asked=frozenset({(APP, "v9")}))
    names = ("run:3", "build-3", APP, f"{APP}:v3", f"{APP}:v9", "build-4")
    assert failures_of(world.scan(*names, context=named)) == [("build-4:*", "SOURCE_ABSENT")]
    assert failures_of(world.scan(*names)) == []
    assert failures_of(world.scan(*names, context=named, cursor="a")) == [], "it was reported before"


class TestOlderRuns:
    """A run named by a user may be older than the runs that the sync covers."""

    def test_a_named_run_is_read_with_all_younger_runs(self) -> None:
        newer = Build(run_of(2), {}, "build-1", (Destination("app", APP, "v1"),))
        world = World([build_of(3)], [build_of(1), newer])
        assert sent(world.scan("run:1")) == [], "a younger one made the same tag"
        world = World([build_of(3)], [build_of(1), build_of(2)])
        assert sent(world.scan("run:1")) == [f"{APP}:v1"]
        assert sent(World([], [build_of(1)]).scan("run:1")) == [f"{APP}:v1"]

    @pytest.mark.parametrize(("code", "failures"), [("NOT_FOUND", []), ("BAD_ANSWER", [("run:1:*", "BAD_ANSWER")])])
    def test_unknown_run(self, code: CodeName, failures: list[tuple[str, str]]) -> None:
        world = World([build_of(3)], errors={1: SynclineError(code, "no")})
        assert failures_of(world.scan("run:1", "run:x", "run:3")) == failures
        assert sent(world.scan("run:1", "run:3")) == [f"{APP}:v3"]

    def test_absent_run_hides_no_other(self) -> None:
        world = World([build_of(3)], [build_of(1)], errors={2: SynclineError("NOT_FOUND", "no")})
        assert sent(world.scan("run:1", "run:2")) == [f"{APP}:v1"]

    def test_error_of_github_ends_the_scan(self) -> None:
        world = World([build_of(3)], errors={1: SynclineError("SERVER_ERROR", "no")})
        with pytest.raises(SynclineError, match="SERVER_ERROR"):
            world.scan("run:1")

    def test_run_of_another_workflow(self) -> None:
        other = Build(run_of(1, attempt=2), {}, "build-1", (Destination("app", APP, "v1"),))
        assert sent(World([build_of(3)], [other]).scan("run:1")) == []


def test_tag_with_an_invalid_entry_is_a_failure_and_not_sent() -> None:
    world = World([build_of(3), build_of(2), build_of(1)])
    world.odd_tags = [
        InvalidEntry("entry 1", name, SynclineError("ENTRY_INVALID", "no size")) for name in ("v3", "v2", "x")
    ]
    odd = [(f"{APP}:{name}", "ENTRY_INVALID") for name in ("v3", "v2", "x")]
    pages = world.scan()
    assert (sent(pages), failures_of(pages)) == ([f"{APP}:v1"], odd)
    pages = world.scan("run:2", "run:1")
    assert (sent(pages), failures_of(pages)) == ([f"{APP}:v1"], odd[1:2])


class TestUnreadableRuns:
    """An unreadable run fails when it is read first, and is known to fail from then on."""

    @pytest.mark.parametrize("fresh", [False, True])
    def test_reported_once_per_scan(self, *, fresh: bool) -> None:
        world = World([UnreadableRun(run_of(3), SynclineError("METADATA_INVALID", "no block"), fresh), build_of(2)])
        pages = world.scan()
        assert sent(pages) == [f"{APP}:v2"]
        assert failures_of(pages) == ([("run:3:log", "METADATA_INVALID")] if fresh else [])
        assert results_of(pages) == ([] if fresh else [("run:3:log", Outcome.FAILED, "METADATA_INVALID")])
        assert [page.cursor for page in world.scan(cursor="a")] == [APP]
        assert not [page for page in world.scan("run:2") if page.failures or page.results]
        named = world.scan("run:3", context=StepContext(lambda: 60.0, named=True))
        assert [len(page.failures) + len(page.results) for page in named] == [1, 0]
        world.builds.append(UnreadableRun(run_of(1), SynclineError("METADATA_INVALID", "no block"), fresh))
        assert [len(page.failures) + len(page.results) for page in world.scan()] == [2, 0]


class TestRecords:
    """Records of pushed tags and of unavailable images."""

    @pytest.mark.parametrize(("code", "named"), [("IMAGE_ABSENT", [f"{APP}:v3"]), ("ARTIFACT_EXPIRED", [])])
    def test_unavailable_image_is_tried_again_only_by_name(self, code: CodeName, named: list[str]) -> None:
        world = World([build_of(3)])
        world.pushed.note_unavailable("3.1", APP, "v3", SynclineError(code, "it is gone"))
        pages = world.scan()
        assert (sent(pages), results_of(pages)) == ([], [(f"{APP}:v3", Outcome.FAILED, code)])
        assert [each.reason for page in pages for each in page.results] == ["it is gone"]
        assert sent(world.scan("run:3")) == named
        world.tags = {APP: {"v3": "d3"}}
        assert results_of(world.scan()) == [], "the image is present"

    def test_unverified_image_is_sent_again(self) -> None:
        world = World([build_of(3), build_of(2)], tags={APP: {"v3": "d3", "v2": "d2", "latest": "d3"}})
        world.pushed.note(APP, "v3", PushRecord("3.1", "d3", "f3", verified=False))
        assert sent(world.scan()) == [f"{APP}:v3"]
        assert world.pushed.may_have_unverified(APP)
        world.pushed.note_verified(APP, "v3", "f3")
        assert sent(world.scan("run:3")) == []
        assert sent(world.scan(context=StepContext(lambda: 60.0, plan=True))) == []
        assert world.pushed.may_have_unverified(APP), "a partial scan and a plan do not change it"
        assert sent(world.scan()) == []
        assert not world.pushed.may_have_unverified(APP)

    @pytest.mark.parametrize("change", ["nothing", "overwrite", "another run", "changed since", "not replaced"])
    def test_a_foreign_tag_is_a_conflict(self, change: str) -> None:
        world = World([build_of(3)], tags={APP: {"v3": "theirs", "latest": "theirs"}})
        run, other = ("2.1" if change == "another run" else "3.1"), ("" if change == "not replaced" else "theirs")
        world.pushed.note(APP, "v3", PushRecord(run, "d3", "f3", verified=False, other=other))
        if change == "overwrite":
            world.sync = SYNC.model_copy(update={"overwrite": True})
        elif change == "changed since":
            world.tags[APP]["v3"] = "again another"
        pages = world.scan("run:3")
        if change == "nothing":
            assert (sent(pages), results_of(pages)) == ([], [(f"{APP}:v3", Outcome.CONFLICT, "TAG_DIFFERS")])
            (result,) = [each for page in pages for each in page.results]
            assert (result.source, result.target, result.moved_bytes) == ("f3", "theirs", 0)
        else:
            assert (sent(pages), results_of(pages)) == ([f"{APP}:v3"], [])

    @pytest.mark.parametrize(("pushed_for", "replaced"), [("2.1", True), ("3.1", False), ("4.1", False), (None, True)])
    def test_image_of_an_older_run_is_replaced_if_allowed(self, pushed_for: str | None, *, replaced: bool) -> None:
        world = World([build_of(3)], tags={APP: {"v3": "d", "latest": "d"}})
        if pushed_for is not None:
            world.pushed.note(APP, "v3", PushRecord(pushed_for, "d", "f"))
        assert sent(world.scan()) == []
        world.sync = SYNC.model_copy(update={"overwrite": True})
        assert sent(world.scan()) == ([f"{APP}:v3"] if replaced else [])

    def test_retry_sends_present_items(self) -> None:
        world = World([build_of(3), build_of(2)], tags={APP: {"v3": "d3", "v2": "d2", "latest": "d3"}})
        assert sent(world.scan(context=StepContext(lambda: 60.0, asked=frozenset({(APP, "v2")})))) == [f"{APP}:v2"]

    def test_two_scans_of_one_run_send_an_item_once(self) -> None:
        world = World([build_of(3)])
        first, second = (StepContext(lambda: 60.0, run="run-1", scan=scan) for scan in ("scan-1", "scan-2"))
        assert sent(world.scan(context=first)) == [f"{APP}:v3"]
        assert sent(world.scan(context=second)) == []
        assert sent(world.scan(context=first)) == [f"{APP}:v3"], "the same scan may be repeated"
        assert sent(world.scan(context=StepContext(lambda: 60.0, run="run-1", scan="scan-2", plan=True))) == [
            f"{APP}:v3"
        ]
        assert sent(world.scan(context=StepContext(lambda: 60.0, run="run-2", scan="scan-3"))) == [f"{APP}:v3"]
        world.builds.append(build_of(2))
        assert sent(world.scan(context=second)) == [f"{APP}:v2"]


class TestAliases:
    """An alias points at the youngest present build."""

    @pytest.mark.parametrize(
        ("latest", "moves"), [("d3", False), ("d2", True), (None, True)], ids=["right", "older", "absent"]
    )
    def test_alias_is_updated(self, latest: str | None, *, moves: bool) -> None:
        tags = {"v3": "d3", "v2": "d2"} | ({} if latest is None else {"latest": latest})
        world = World([build_of(4), build_of(3), build_of(2)], tags={APP: tags})
        items = [item for page in world.scan() for item in page.items]
        assert [item.name for item in items] == ["v4", *(["latest"] if moves else [])]
        if moves:
            assert (items[-1].target, items[-1].detail) == (latest, {"alias": True})
        assert sent(world.scan("run:3")) == [], "a part of the builds does not show the youngest"

    def test_replaced_build_does_not_count(self) -> None:
        world = World([build_of(3), build_of(2)], tags={APP: {"v3": "theirs", "v2": "d2", "latest": "theirs"}})
        world.pushed.note(APP, "v3", PushRecord("3.1", "d3", "f3", other="theirs"))
        assert sent(world.scan()) == [f"{APP}:latest"]
        world.tags[APP]["latest"] = "d2"
        assert sent(world.scan()) == []

    def test_age_of_a_tag_is_that_of_its_image(self) -> None:
        world = World([build_of(4), build_of(3), build_of(2)], tags={APP: {"v4": "d4", "v3": "d3", "v2": "d2"}})
        world.tags[APP]["latest"] = "d3"
        world.pushed.note(APP, "v4", PushRecord("1.1", "d4", "f4"))
        assert sent(world.scan()) == []

    def test_unreadable_run_keeps_aliases(self) -> None:
        world = World([build_of(3)], tags={APP: {"v3": "d3"}})
        world.odd = [InvalidEntry("entry 2", "9", SynclineError("ENTRY_INVALID", "no time"))]
        pages = world.scan()
        assert (sent(pages), failures_of(pages)) == ([], [("run:9:*", "ENTRY_INVALID")])
        assert [page.cursor for page in pages] == ["", "", APP]
        assert failures_of(world.scan("run:3")) == []
        assert failures_of(world.scan(cursor="a")) == []

    def test_no_requests_without_aliases(self) -> None:
        world = World([build_of(3)], tags={APP: {"v3": "d3"}}, sync=SYNC.model_copy(update={"aliases": ()}))
        assert sent(world.scan()) == []


def test_scan_ends_with_its_time() -> None:
    world = World([build_of(2, "group/project/a:v2"), build_of(1, "group/project/b:v1")])
    assert world.scan(context=StepContext(lambda: 0.0)) == []
    left = [0.0, 0.0, 1.0, 1.0, 1.0]
    pages = world.scan(context=StepContext(lambda: left.pop() if left else 0.0))
    assert [page.cursor for page in pages] == ["", "group/project/a"]
    assert sent(world.scan(cursor=pages[-1].cursor)) == ["group/project/b:v1"]
