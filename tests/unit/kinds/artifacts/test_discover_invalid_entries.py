"""Invalid entries in listings of GitHub and GitLab affect only themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, cast

import pytest
import yaml

from syncline.clients.github.client import GitHub, WorkflowRun
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.client import Registry
from syncline.kinds.artifacts.builds import Builds
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.discover import BuildScan, ProjectTarget
from syncline.kinds.artifacts.kind import Artifacts
from syncline.kinds.artifacts.records import PushRecords
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.kind import Failure, Page, StepContext
from syncline.model import Item, Scope
from tests.rig.server import ScriptedServer, errors_reply, json_reply
from tests.standins.made_up import Naps

EXAMPLE: Final = Path(__file__).parents[4] / "examples/artifacts-presto.yaml"
RUNS: Final = "/repos/rapidsai/velox-testing/actions/workflows/presto-build-images.yml/runs"
REPOSITORIES: Final = "/api/v4/projects/group%2Fproject/registry/repositories"
COORDINATOR: Final = "group/project/x86/presto-coordinator"
PATH: Final = ".github/workflows/presto-build-images.yml"
AT: Final = "2023-11-14T22:30:00Z"


class ScriptedBuilds(Builds):
    """Builds without logs: each run made one image, tagged with the run's number."""

    def _block(self, run: WorkflowRun) -> dict[str, str]:
        return {"Image tag": f"{run.id}-linux-amd64"}


def run(number: int, **fields: Any) -> dict[str, Any]:
    times = dict.fromkeys(("created_at", "run_started_at", "updated_at"), AT)
    return {"id": number, "run_attempt": 1, "run_number": number, "conclusion": "success", **times, **fields}


def repository(number: int, path: str) -> dict[str, Any]:
    return {"id": number, "path": path, "name": path.removeprefix("group/project/")}


class World:
    """Scripted servers: GitHub, GitLab's API and its registry."""

    def __init__(self, stack: ExitStack) -> None:
        self.github, self.gitlab, self.registry = (stack.enter_context(ScriptedServer()) for _ in range(3))
        http = self.http = Http(Naps().policy())
        values = yaml.safe_load(EXAMPLE.read_text())["syncs"]["presto-images"]
        self.sync = ArtifactsSync.model_validate({"name": "s", **values})
        self.client = GitHub(Endpoint.parse(self.github.url), lambda: None, http)
        self.target = ProjectTarget(
            Registry(Endpoint.parse(self.registry.url), lambda: None, http),
            GitLab(Endpoint.parse(self.gitlab.url), "group/project", lambda: None, http),
        )

    def runs(self, *entries: Any) -> None:
        self.github.on("GET", RUNS, json_reply({"workflow_runs": entries}))

    def repositories(self, *entries: Any) -> None:
        self.gitlab.on("GET", REPOSITORIES, json_reply(entries))

    def tags(self, number: int, *entries: Any) -> None:
        self.gitlab.on("GET", f"{REPOSITORIES}/{number}/tags", json_reply(entries))

    def scan(self, *groups: str) -> list[Page]:
        builds = ScriptedBuilds(self.sync, self.client, ProcessFacts())
        build_scan = BuildScan(
            self.sync,
            builds,
            self.target,
            PushRecords(ProcessFacts(), "host"),
            ProcessFacts(),
            now=lambda: 1_700_000_000.0,
        )
        return list(build_scan.pages(Scope.of(groups or None), None, StepContext(lambda: 60.0, named=bool(groups))))


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def moves(pages: list[Page]) -> list[str]:
    return [str(item) for page in pages for item in page.items]


def failed(pages: list[Page]) -> Mapping[str, str]:
    return {str(failure.item): failure.error.code.name for page in pages for failure in page.failures}


def test_invalid_runs(world: World) -> None:
    world.runs(None, run(3), run(2, created_at="never"), {**run(9), "id": "9"}, run(1, run_attempt="first"))
    world.repositories()
    pages = world.scan()
    assert moves(pages) == [f"{COORDINATOR}:3"]
    location = f"of the runs of presto-build-images.yml at {world.github.host}"
    names = (f"*:entry 1 {location}", "run:2:*", f"*:entry 4 {location}", "run:1:*")
    assert failed(pages) == dict.fromkeys(names, "ENTRY_INVALID")


def test_named_run_with_an_invalid_response_is_not_absent(world: World) -> None:
    world.runs(run(3))
    world.repositories()
    world.github.on("GET", "/repos/rapidsai/velox-testing/actions/runs/2", json_reply({"id": "two"}))
    (failure,) = [failure for page in world.scan("run:2") for failure in page.failures]
    assert (str(failure.item), failure.error.code.name) == ("run:2:*", "BAD_ANSWER")


def test_named_run_older_than_the_list(world: World) -> None:
    """A younger run may have made the same image tag, so nothing is transferred."""
    world.runs(run(3, created_at="2023-11-14T22:31:00Z"))
    world.github.on("GET", "/repos/rapidsai/velox-testing/actions/runs/2", json_reply(run(2, path=PATH)))
    world.repositories()
    pages = world.scan("run:2")
    assert (moves(pages), failed(pages)) == ([], {"run:2:*": "LISTING_INCOMPLETE"})


def test_named_run_not_listed_yet(world: World) -> None:
    """GitHub may send an event of a run before it lists the run; no other run is read again."""
    world.runs(run(1, created_at="2023-11-14T22:29:00Z"))
    world.github.on("GET", "/repos/rapidsai/velox-testing/actions/runs/2", json_reply(run(2, path=PATH)))
    world.repositories()
    assert moves(world.scan("run:2")) == [f"{COORDINATOR}:2"]
    assert len(world.github.asked("GET", RUNS)) == 1


def test_alias_is_kept_if_the_youngest_run_may_be_invalid(world: World) -> None:
    world.runs(None, run(3))
    world.repositories(repository(7, COORDINATOR))
    world.tags(7, {"name": "3"})
    assert moves(world.scan()) == []


def test_invalid_repositories(world: World) -> None:
    world.runs(run(3), run(2))
    world.repositories(None, repository(7, COORDINATOR), {"id": 8, "path": 8}, {"id": None, "path": "group/project/B"})
    world.tags(7, {"name": "3"})
    world.registry.on("HEAD", f"/v2/{COORDINATOR}/manifests/3", errors_reply(404, "MANIFEST_UNKNOWN"))
    world.registry.on("HEAD", f"/v2/{COORDINATOR}/manifests/latest", errors_reply(404, "MANIFEST_UNKNOWN"))
    pages = world.scan()
    assert moves(pages) == [f"{COORDINATOR}:2"]
    location = f"of the repositories of group/project at {world.gitlab.host}"
    names = (f"*:entry 1 {location}", f"*:entry 3 {location}", "*:group/project/B")
    assert failed(pages) == dict.fromkeys(names, "ENTRY_INVALID")


def test_tags_are_read_if_an_invalid_entry_may_be_the_repository(world: World) -> None:
    world.runs(run(3), run(2))
    world.repositories({"id": None, "path": COORDINATOR, "name": "x86/presto-coordinator"})
    world.registry.on("GET", f"/v2/{COORDINATOR}/tags/list", json_reply({"tags": ["3"]}))
    world.registry.on("HEAD", f"/v2/{COORDINATOR}/manifests/3", errors_reply(404, "MANIFEST_UNKNOWN"))
    world.registry.on("HEAD", f"/v2/{COORDINATOR}/manifests/latest", errors_reply(404, "MANIFEST_UNKNOWN"))
    pages = world.scan()
    assert moves(pages) == [f"{COORDINATOR}:2"]
    assert failed(pages) == {f"*:{COORDINATOR}": "ENTRY_INVALID"}


def test_invalid_tags(world: World) -> None:
    world.runs(run(3), run(2))
    world.repositories(repository(7, COORDINATOR))
    world.tags(7, None, {"name": "3"}, {"name": "-x"}, "2")
    pages = world.scan()
    assert moves(pages) == [f"{COORDINATOR}:2"]
    location = f"of the tags of repository 7 at {world.gitlab.host}"
    names = (f"entry 1 {location}", "-x", f"entry 4 {location}")
    assert failed(pages) == {f"{COORDINATOR}:{name}": "ENTRY_INVALID" for name in names}


def test_image_is_not_absent_if_an_invalid_artifact_may_have_it(world: World) -> None:
    good = {"id": 2, "name": "images-b", "size_in_bytes": 1, "expired": True, "created_at": AT}
    path = "/repos/rapidsai/velox-testing/actions/runs/3/artifacts"
    world.github.on("GET", path, json_reply({"artifacts": [None, good]}))
    world.registry.on("HEAD", f"/v2/{COORDINATOR}/manifests/3", errors_reply(404, "MANIFEST_UNKNOWN"))
    kind = Artifacts(world.sync, world.client, world.target, world.http, memory=ProcessFacts(), now=lambda: 0.0)
    item = Item(COORDINATOR, "3", detail={"run": "3.1", "image": "presto-coordinator", "tag": "3-linux-amd64"})
    (answer,) = kind.transfer([item], StepContext(lambda: 60.0))
    assert cast("Failure", answer).error.code.name == "ENTRY_INVALID"
