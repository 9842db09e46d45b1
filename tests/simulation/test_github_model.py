"""The model of GitHub against the stand-in behind the real client: the same questions, the same answers."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from syncline.clients.github.client import Artifact, GitHub, RemoteFile, WorkflowRun
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.listings import refuse
from syncline.errors import SynclineError
from tests.simulation.machine import EPOCH, Machine, Process
from tests.simulation.models.builds import Format, artifact_of, image_of
from tests.simulation.models.github import GitHubServer as Model
from tests.simulation.models.github import SimGitHub
from tests.simulation.network import Calls, Faults, Network
from tests.standins.github import TOKEN, GitHubServer, Run, Stored
from tests.standins.made_up import Naps

REPOSITORY = "team/builds"
WORKFLOW = "build.yml"
TAG = "presto-92865fb-velox-65797d5-linux-amd64"
IMAGES = {"presto-coordinator": [b"base", b"coordinator"], "presto-native-worker-cpu": [b"base", b"worker"]}


class World:
    """A model of GitHub and a client: one of the model, or the real one at a stand-in that shows what the model has."""

    def __init__(self, standin: GitHubServer | None) -> None:
        self.machine = Machine(1)
        self.server = Model(self.machine)
        self.naps = Naps(now=self.machine.now)
        self.http = Http(self.naps.policy(attempts=1))
        self.standin = standin
        self.github: GitHub
        if standin is None:
            calls = Calls(self.machine, Process(self.machine, "test"), Faults(off=True))
            self.github = SimGitHub(self.server, Network(calls, self.http))
        else:
            self.github = GitHub(Endpoint.parse(standin.url), lambda: TOKEN, self.http)

    def add(self, **more: Any) -> int:
        run = self.server.add_build(REPOSITORY, WORKFLOW, **{"tag": TAG, "images": IMAGES, **more})
        self.show()
        return run

    def show(self) -> None:
        """Let the stand-in show what the model has."""
        if self.standin is not None:
            self.standin.runs = [self._shown(build) for build in self.server._builds.values()]

    def _shown(self, build: Any) -> Run:
        run: WorkflowRun = build.run
        contents = self.server._contents
        logs = contents.get(("logs", run.id, run.attempt))
        artifacts = [
            Stored(a.id, a.name, contents["artifact", a.id, 0], a.expired, not self.server.digest_null)
            for a in build.artifacts
        ]
        return Run(
            run.id,
            logs or b"",
            artifacts,
            workflow=build.workflow,
            branch=run.branch,
            event=run.event,
            status=run.status,
            conclusion=run.conclusion or None,
            created=run.created,
            updated=run.updated,
            attempt=run.attempt,
            sha=run.sha,
            logs_gone=logs is None,
            number=run.number,
            started=run.started,
            earlier_logs={
                n: contents["logs", run.id, n] for n in range(1, run.attempt) if ("logs", run.id, n) in contents
            },
        )

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.machine.now += seconds
        self.naps.now += seconds
        if self.standin is not None:
            self.standin.skew += seconds

    def put_ahead(self, seconds: float, file: RemoteFile) -> None:
        """Put the server's clock ahead; the client takes its address for good for as long as before."""
        self.sleep(seconds)
        file._expires += seconds

    def artifact(self, run: int) -> Artifact:
        return self.github.artifacts(REPOSITORY, run)[-1]

    def content(self, artifact: Artifact) -> RemoteFile:
        return self.github.content(REPOSITORY, artifact)

    def runs(self, **filters: str | None) -> list[WorkflowRun]:
        return list(self.github.runs(REPOSITORY, WORKFLOW, refuse, **filters))


@pytest.fixture(params=["model", "standin"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "model":
        yield World(None)
        return
    with GitHubServer(REPOSITORY) as standin:
        yield World(standin)


@pytest.fixture
def model() -> World:
    return World(None)


def code_of(function: Callable[[], object]) -> str:
    with pytest.raises(SynclineError) as error:
        function()
    return error.value.code.name


def read(file: RemoteFile, start: int = 0, end: int | None = None) -> bytes:
    with file.open(start, file.size if end is None else end) as chunks:
        return b"".join(chunks)


class TestRuns:
    def test_a_run_is_what_was_added(self, world: World) -> None:
        number = world.add(branch="other", event="push")
        (run,) = world.runs()
        assert (run.id, run.attempt, run.branch, run.event) == (number, 1, "other", "push")
        assert (run.status, run.conclusion, run.path) == ("completed", "success", ".github/workflows/build.yml")
        assert (run.created, run.started, run.updated) == (EPOCH - 60, EPOCH - 60, EPOCH)
        assert world.github.run(REPOSITORY, number) == run
        assert run == world.server.run(REPOSITORY, number)

    @pytest.mark.parametrize(("count", "requests"), [(1, 1), (100, 1), (101, 2), (270, 3)])
    def test_all_pages_the_youngest_first(self, world: World, count: int, requests: int) -> None:
        added = []
        for _ in range(count):
            added.append(world.server.add_build(REPOSITORY, WORKFLOW, tag=TAG, images={}))
            world.machine.now += 0.5  # two have the same time
        world.show()
        assert [run.id for run in world.runs()] == added[::-1]
        assert world.http.requests_made == requests

    def test_a_run_that_begins_between_two_pages_hides_none_and_doubles_none(self, world: World) -> None:
        added = [world.server.add_build(REPOSITORY, WORKFLOW, tag=TAG, images={}) for _ in range(150)]
        world.show()
        listing = world.github.runs(REPOSITORY, WORKFLOW)
        first = next(listing).id
        world.sleep(1)
        world.add()
        assert [first, *(run.id for run in listing)] == added[::-1]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, "abcdef"),
            ({"status": "success"}, "acde"),
            ({"status": "completed"}, "abcde"),
            ({"status": "in_progress"}, "f"),
            ({"branch": "other"}, "c"),
            ({"event": "push"}, "d"),
            ({"created": ">=2026-09-21T14:00:00+00:00"}, "abcdf"),
            ({"status": "success", "branch": "main", "event": None}, "ade"),
        ],
    )
    def test_filters(self, world: World, filters: dict[str, str | None], expected: str) -> None:
        numbers = {
            "a": world.add(),
            "b": world.add(conclusion="failure"),
            "c": world.add(branch="other"),
            "d": world.add(event="push"),
            "e": world.add(took=86_400.0),
            "f": world.add(conclusion=None),
        }
        assert {run.id for run in world.runs(**filters)} == {numbers[name] for name in expected}

    def test_a_filtered_list_ends_after_1000(self, world: World) -> None:
        for _ in range(1_010):
            world.server.add_build(REPOSITORY, WORKFLOW, tag=TAG, images={})
        world.show()
        assert len(world.runs(status="success")) == 1_000
        assert world.http.requests_made == 10

    def test_a_workflow_by_its_path(self, world: World) -> None:
        number = world.add()
        assert [r.id for r in world.github.runs(REPOSITORY, f".github/workflows/{WORKFLOW}")] == [number]

    def test_a_listing_asks_nothing_before_it_is_read(self, world: World) -> None:
        world.add()
        listing = world.github.runs(REPOSITORY, WORKFLOW)
        assert world.http.requests_made == 0
        assert len(list(listing)) == 1

    def test_what_is_not_there(self, world: World) -> None:
        artifact = Artifact(99, "none", 1, expired=False, digest=None, created="")
        world.add()
        github = world.github
        assert code_of(lambda: list(github.runs(REPOSITORY, "other.yml"))) == "NOT_FOUND"
        assert code_of(lambda: list(github.runs("team/other", WORKFLOW))) == "NOT_FOUND"
        assert code_of(lambda: github.run(REPOSITORY, 99)) == "NOT_FOUND"
        assert code_of(lambda: github.artifacts(REPOSITORY, 99)) == "NOT_FOUND"
        assert code_of(lambda: github.content(REPOSITORY, artifact).size) == "NOT_FOUND"

    def test_a_run_that_is_removed(self, world: World) -> None:
        kept, gone = world.add(), world.add()
        run, artifact = world.github.run(REPOSITORY, gone), world.artifact(gone)
        world.server.remove_build(gone)
        world.show()
        assert [each.id for each in world.runs()] == [kept]
        assert code_of(lambda: world.github.run(REPOSITORY, gone)) == "NOT_FOUND"
        assert code_of(lambda: world.content(artifact).size) == "NOT_FOUND"
        assert code_of(lambda: world.github.logs(REPOSITORY, run).size) == "ARTIFACT_EXPIRED"

    def test_another_attempt(self, world: World) -> None:
        number = world.add()
        before = read(world.github.logs(REPOSITORY, world.github.run(REPOSITORY, number)))
        world.sleep(600)
        world.server.rerun(number)
        world.show()
        (run,) = world.runs()
        assert (run.mark, run.created, run.updated) == (f"{number}.2", EPOCH - 60, EPOCH + 600)
        assert (run.number, run.started) == (1, EPOCH + 540)
        assert world.github.run(REPOSITORY, number) == world.server.run(REPOSITORY, number)
        assert len({each.id for each in world.github.artifacts(REPOSITORY, number)}) == 2
        assert read(world.github.logs(REPOSITORY, run)) != before
        assert read(world.github.logs(REPOSITORY, replace(run, attempt=1))) == before

    def test_runs_are_numbered(self, world: World) -> None:
        numbers = [world.add(), world.add()]
        assert [world.github.run(REPOSITORY, each).number for each in numbers] == [1, 2]

    def test_an_address_outlives_the_run(self, world: World) -> None:
        number = world.add()
        file = world.content(world.artifact(number))
        assert file.size
        world.server.remove_build(number)
        world.show()
        assert code_of(lambda: read(file, 0, 2)) == "NOT_FOUND"

    def test_a_run_that_goes_on(self, world: World) -> None:
        number = world.add(conclusion=None)
        run = world.github.run(REPOSITORY, number)
        assert (run.status, run.conclusion, run.attempt) == ("in_progress", "", 1)
        assert world.github.artifacts(REPOSITORY, number) == []
        assert code_of(lambda: world.github.logs(REPOSITORY, run).size) == "ARTIFACT_EXPIRED"
        world.server.finish(number)
        world.show()
        run = world.github.run(REPOSITORY, number)
        assert (run.status, run.conclusion, run.attempt) == ("completed", "success", 1)
        assert world.github.logs(REPOSITORY, run).size


class TestDownloads:
    def test_artifacts(self, world: World) -> None:
        number = world.add(artifacts_before={"reports": b"no zip at all"})
        found = world.github.artifacts(REPOSITORY, number)
        assert [(each.name, each.expired) for each in found] == [("reports", False), (f"images-{TAG}", False)]
        listed, _ = world.server.artifacts(REPOSITORY, number)
        assert [replace(each, created="") for each in found] == [replace(each, created="") for each in listed]

    @pytest.mark.parametrize("count", [100, 101])
    def test_artifacts_of_all_pages(self, world: World, count: int) -> None:
        number = world.add(images={}, artifacts_before={f"a{at:03}": b"content" for at in range(count)})
        assert [each.name for each in world.github.artifacts(REPOSITORY, number)] == [f"a{n:03}" for n in range(count)]
        assert world.http.requests_made == -(-count // 100)

    def test_ranges(self, world: World) -> None:
        artifact = world.artifact(world.add())
        whole = artifact_of(tuple((name, tuple(layers)) for name, layers in IMAGES.items()), TAG, "oci")
        file, before = world.content(artifact), world.http.requests_made
        assert file.size == artifact.size == len(whole)
        assert world.http.requests_made == before + 2
        for start, end in [(0, len(whole)), (5, 6), (1_000, len(whole)), (9, 9)]:
            assert read(file, start, end) == whole[start:end]
        assert world.http.requests_made == before + 5

    def test_a_range_beyond_the_end(self, world: World) -> None:
        file = world.content(world.artifact(world.add()))
        size = file.size
        assert code_of(lambda: read(file, size, size + 5)) == "REFUSED"
        assert code_of(lambda: read(file, size - 5, size + 5)) == "REFUSED"

    def test_an_address_is_renewed_before_its_minute_is_over(self, world: World) -> None:
        file = world.content(world.artifact(world.add()))
        assert file.size
        before = world.http.requests_made
        for pause, requests in [(49.0, 1), (2.0, 2), (1.0, 1)]:
            world.sleep(pause)
            read(file, 0, 2)
            before += requests
            assert world.http.requests_made == before

    def test_an_address_that_the_store_rejects_is_renewed(self, world: World) -> None:
        file = world.content(world.artifact(world.add()))
        assert file.size
        before = world.http.requests_made
        world.put_ahead(61, file)
        assert read(file, 0, 2) == b"PK"
        assert world.http.requests_made == before + 3

    def test_a_store_that_rejects_every_address(self, world: World) -> None:
        file = world.content(world.artifact(world.add()))
        world.server.url_lives = -1.0
        if world.standin is not None:
            world.standin.rejects = 100
        before = world.http.requests_made
        assert code_of(lambda: file._stream(0, 2)) == "SERVER_ERROR"
        assert world.http.requests_made == before + 6

    def test_an_expired_artifact(self, world: World) -> None:
        number = world.add()
        artifact = world.artifact(number)
        file = world.content(artifact)
        assert file.size
        world.server.expire(artifact.id)
        world.show()
        assert read(file, 0, 2) == b"PK"  # its address is still good
        world.sleep(61)
        assert code_of(lambda: read(file, 0, 2)) == "ARTIFACT_EXPIRED"
        assert world.artifact(number).expired

    def test_logs(self, world: World) -> None:
        run = world.github.run(REPOSITORY, world.add())
        with zipfile.ZipFile(io.BytesIO(read(world.github.logs(REPOSITORY, run)))) as archive:
            assert archive.namelist() == ["0_build.txt", "build/3_Print metadata.txt", "1_other.txt"]
        assert code_of(lambda: world.github.logs(REPOSITORY, replace(run, attempt=2)).size) == "ARTIFACT_EXPIRED"


class TestBuilds:
    @pytest.mark.parametrize("form", ["oci", "legacy"])
    def test_the_artifact_has_the_images(self, form: Format) -> None:
        given = tuple((name, tuple(layers)) for name, layers in IMAGES.items())
        content = artifact_of(given, TAG, form)
        assert len(content) < 8_000
        assert artifact_of(given, TAG, form) is content
        artifact_of.cache_clear()
        assert artifact_of(given, TAG, form) == content
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name, layers in IMAGES.items():
                saved = io.BytesIO(gzip.decompress(archive.read(f"{name}-{TAG}.tar.gz")))
                with tarfile.open(fileobj=saved) as tar:
                    manifest = tar.extractfile("manifest.json")
                    assert manifest is not None
                    (entry,) = json.load(manifest)
                    assert image_of(name, TAG, layers).id in entry["Config"]
                    assert entry["RepoTags"] == [f"{name}:{TAG}"]
                    assert ("oci-layout" in tar.getnames()) == (form == "oci")

    def test_the_block(self, model: World) -> None:
        number = model.add(metadata={"Velox repository": "mine", "Registry push": None})
        run = model.github.run(REPOSITORY, number)
        with zipfile.ZipFile(io.BytesIO(read(model.github.logs(REPOSITORY, run)))) as archive:
            text = archive.read("0_build.txt").decode()
        assert text.startswith("\ufeff2026-09-21T14:12:50.1234567Z ")
        assert text.count("Image tag: ") == 2
        printed = re.sub(r"(?m)\x1b\[[\d;]*m|^\ufeff?\S+Z ", "", text).partition("Image build metadata\n")[2]
        values = dict(line.split(": ", 1) for line in printed.splitlines()[:-1])
        assert values == {
            "Presto repository": "prestodb/presto",
            "Presto ref": "92865fb",
            "Velox repository": "mine",
            "Velox ref": "65797d5",
            "Target platform": "linux/amd64",
            "Worker bundle mode": "all_native",
            "Build native CPU": "true",
            "Build native GPU": "false",
            "Build Java worker": "false",
            "Image tag": TAG,
            "Generated at": "2026-09-21T14:12:50Z",
        }


class TestSwitches:
    def test_listings_that_are_cut_or_empty(self, model: World) -> None:
        numbers = [model.add() for _ in range(3)]
        model.server.listing_cut = 2
        assert [run.id for run in model.runs()] == numbers[:0:-1]
        model.server.empty_listing = True
        assert not model.runs()

    def test_endless_runs(self, model: World) -> None:
        number = model.add()
        model.server.endless = True
        listing = model.github.runs(REPOSITORY, WORKFLOW, status="success")
        first = [next(listing) for _ in range(500)]
        assert first[0].id == number
        assert len({run.id for run in first}) == 500
        assert [run.created for run in first] == sorted((run.created for run in first), reverse=True)
        assert code_of(lambda: sum(1 for _ in listing)) == "LISTING_TOO_LONG"

    def test_no_digests(self, world: World) -> None:
        world.server.digest_null = True
        assert world.artifact(world.add()).digest is None

    def test_wrong_bytes(self, model: World) -> None:
        artifact = model.artifact(model.add())
        file = model.content(artifact)
        good = read(file)
        model.server.wrong_bytes = True
        bad = read(file)
        assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1
        at = next(at for at, byte in enumerate(good) if byte != bad[at])
        assert read(file, at, at + 1) == bad[at : at + 1]

    def test_addresses_of_a_second(self, model: World) -> None:
        file = model.content(model.artifact(model.add()))
        model.server.url_lives = 1.0
        assert file.size
        before = model.http.requests_made
        model.sleep(2)
        read(file, 0, 2)
        assert model.http.requests_made == before + 3

    def test_faults_of_the_network(self) -> None:
        machine = Machine(1)
        server = Model(machine)
        server.add_build(REPOSITORY, WORKFLOW, tag=TAG, images=IMAGES)
        faults = Faults(broken=1.0)
        github = SimGitHub(server, Network(Calls(machine, Process(machine, "test"), faults), Http()))
        assert code_of(lambda: list(github.runs(REPOSITORY, WORKFLOW))) in ("UNREACHABLE", "SERVER_ERROR")
        assert faults.points["GET runs"] == 1
