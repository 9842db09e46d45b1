"""The GitHub model against the real client with the stand-in."""

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


class System:
    """A model of GitHub with its client, or with the real client of a stand-in that shows the content of the model."""

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
        """Make the stand-in show the content of the model."""
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
        """Advance all clocks."""
        self.machine.now += seconds
        self.naps.now += seconds
        if self.standin is not None:
            self.standin.skew += seconds

    def advance_server_clock(self, seconds: float, file: RemoteFile) -> None:
        """Advance the clock of the server, but not the time at which the client renews its signed URL."""
        self.sleep(seconds)
        file._expires += seconds

    def artifact(self, run: int) -> Artifact:
        return self.github.artifacts(REPOSITORY, run)[-1]

    def content(self, artifact: Artifact) -> RemoteFile:
        return self.github.content(REPOSITORY, artifact)

    def runs(self, **filters: str | None) -> list[WorkflowRun]:
        return list(self.github.runs(REPOSITORY, WORKFLOW, refuse, **filters))


@pytest.fixture(params=["model", "standin"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    if request.param == "model":
        yield System(None)
        return
    with GitHubServer(REPOSITORY) as standin:
        yield System(standin)


@pytest.fixture
def model() -> System:
    return System(None)


def code_of(function: Callable[[], object]) -> str:
    """Return the code of the error that a call raises."""
    with pytest.raises(SynclineError) as error:
        function()
    return error.value.code.name


def read(file: RemoteFile, start: int = 0, end: int | None = None) -> bytes:
    with file.open(start, file.size if end is None else end) as chunks:
        return b"".join(chunks)


class TestRuns:
    def test_a_run_has_the_attributes_of_its_build(self, system: System) -> None:
        number = system.add(branch="other", event="push")
        (run,) = system.runs()
        assert (run.id, run.attempt, run.branch, run.event) == (number, 1, "other", "push")
        assert (run.status, run.conclusion, run.path) == ("completed", "success", ".github/workflows/build.yml")
        assert (run.created, run.started, run.updated) == (EPOCH - 60, EPOCH - 60, EPOCH)
        assert system.github.run(REPOSITORY, number) == run
        assert run == system.server.run(REPOSITORY, number)

    @pytest.mark.parametrize(("count", "requests"), [(1, 1), (100, 1), (101, 2), (270, 3)])
    def test_runs_are_listed_in_pages_newest_first(self, system: System, count: int, requests: int) -> None:
        added = []
        for _ in range(count):
            added.append(system.server.add_build(REPOSITORY, WORKFLOW, tag=TAG, images={}))
            system.machine.now += 0.5  # two runs have the same time
        system.show()
        assert [run.id for run in system.runs()] == added[::-1]
        assert system.http.requests_made == requests

    def test_a_run_added_between_two_pages_neither_hides_nor_repeats_others(self, system: System) -> None:
        added = [system.server.add_build(REPOSITORY, WORKFLOW, tag=TAG, images={}) for _ in range(150)]
        system.show()
        listing = system.github.runs(REPOSITORY, WORKFLOW)
        first = next(listing).id
        system.sleep(1)
        system.add()
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
    def test_runs_are_filtered(self, system: System, filters: dict[str, str | None], expected: str) -> None:
        numbers = {
            "a": system.add(),
            "b": system.add(conclusion="failure"),
            "c": system.add(branch="other"),
            "d": system.add(event="push"),
            "e": system.add(took=86_400.0),
            "f": system.add(conclusion=None),
        }
        assert {run.id for run in system.runs(**filters)} == {numbers[name] for name in expected}

    def test_a_filtered_list_ends_after_1000(self, system: System) -> None:
        for _ in range(1_010):
            system.server.add_build(REPOSITORY, WORKFLOW, tag=TAG, images={})
        system.show()
        assert len(system.runs(status="success")) == 1_000
        assert system.http.requests_made == 10

    def test_a_workflow_may_be_named_by_its_path(self, system: System) -> None:
        number = system.add()
        assert [r.id for r in system.github.runs(REPOSITORY, f".github/workflows/{WORKFLOW}")] == [number]

    def test_a_listing_makes_no_request_before_it_is_read(self, system: System) -> None:
        system.add()
        listing = system.github.runs(REPOSITORY, WORKFLOW)
        assert system.http.requests_made == 0
        assert len(list(listing)) == 1

    def test_absent_workflows_runs_and_artifacts_are_not_found(self, system: System) -> None:
        artifact = Artifact(99, "none", 1, expired=False, digest=None, created="")
        system.add()
        github = system.github
        assert code_of(lambda: list(github.runs(REPOSITORY, "other.yml"))) == "NOT_FOUND"
        assert code_of(lambda: list(github.runs("team/other", WORKFLOW))) == "NOT_FOUND"
        assert code_of(lambda: github.run(REPOSITORY, 99)) == "NOT_FOUND"
        assert code_of(lambda: github.artifacts(REPOSITORY, 99)) == "NOT_FOUND"
        assert code_of(lambda: github.content(REPOSITORY, artifact).size) == "NOT_FOUND"

    def test_a_removed_run_is_not_found(self, system: System) -> None:
        kept, gone = system.add(), system.add()
        run, artifact = system.github.run(REPOSITORY, gone), system.artifact(gone)
        system.server.remove_build(gone)
        system.show()
        assert [each.id for each in system.runs()] == [kept]
        assert code_of(lambda: system.github.run(REPOSITORY, gone)) == "NOT_FOUND"
        assert code_of(lambda: system.content(artifact).size) == "NOT_FOUND"
        assert code_of(lambda: system.github.logs(REPOSITORY, run).size) == "ARTIFACT_EXPIRED"

    def test_another_attempt_adds_artifacts_and_logs(self, system: System) -> None:
        number = system.add()
        before = read(system.github.logs(REPOSITORY, system.github.run(REPOSITORY, number)))
        system.sleep(600)
        system.server.rerun(number)
        system.show()
        (run,) = system.runs()
        assert (run.mark, run.created, run.updated) == (f"{number}.2", EPOCH - 60, EPOCH + 600)
        assert (run.number, run.started) == (1, EPOCH + 540)
        assert system.github.run(REPOSITORY, number) == system.server.run(REPOSITORY, number)
        assert len({each.id for each in system.github.artifacts(REPOSITORY, number)}) == 2
        assert read(system.github.logs(REPOSITORY, run)) != before
        assert read(system.github.logs(REPOSITORY, replace(run, attempt=1))) == before

    def test_runs_are_numbered(self, system: System) -> None:
        numbers = [system.add(), system.add()]
        assert [system.github.run(REPOSITORY, each).number for each in numbers] == [1, 2]

    def test_a_signed_url_of_a_removed_run_is_not_found(self, system: System) -> None:
        number = system.add()
        file = system.content(system.artifact(number))
        assert file.size
        system.server.remove_build(number)
        system.show()
        assert code_of(lambda: read(file, 0, 2)) == "NOT_FOUND"

    def test_a_run_in_progress_has_no_artifacts_or_logs(self, system: System) -> None:
        number = system.add(conclusion=None)
        run = system.github.run(REPOSITORY, number)
        assert (run.status, run.conclusion, run.attempt) == ("in_progress", "", 1)
        assert system.github.artifacts(REPOSITORY, number) == []
        assert code_of(lambda: system.github.logs(REPOSITORY, run).size) == "ARTIFACT_EXPIRED"
        system.server.finish(number)
        system.show()
        run = system.github.run(REPOSITORY, number)
        assert (run.status, run.conclusion, run.attempt) == ("completed", "success", 1)
        assert system.github.logs(REPOSITORY, run).size


class TestDownloads:
    def test_artifacts_are_listed(self, system: System) -> None:
        number = system.add(artifacts_before={"reports": b"no zip at all"})
        found = system.github.artifacts(REPOSITORY, number)
        assert [(each.name, each.expired) for each in found] == [("reports", False), (f"images-{TAG}", False)]
        listed, _ = system.server.artifacts(REPOSITORY, number)
        assert [replace(each, created="") for each in found] == [replace(each, created="") for each in listed]

    @pytest.mark.parametrize("count", [100, 101])
    def test_artifacts_are_listed_in_pages(self, system: System, count: int) -> None:
        number = system.add(images={}, artifacts_before={f"a{at:03}": b"content" for at in range(count)})
        assert [each.name for each in system.github.artifacts(REPOSITORY, number)] == [f"a{n:03}" for n in range(count)]
        assert system.http.requests_made == -(-count // 100)

    def test_ranges_are_read_with_one_request_each(self, system: System) -> None:
        artifact = system.artifact(system.add())
        whole = artifact_of(tuple((name, tuple(layers)) for name, layers in IMAGES.items()), TAG, "oci")
        file, before = system.content(artifact), system.http.requests_made
        assert file.size == artifact.size == len(whole)
        assert system.http.requests_made == before + 2
        for start, end in [(0, len(whole)), (5, 6), (1_000, len(whole)), (9, 9)]:
            assert read(file, start, end) == whole[start:end]
        assert system.http.requests_made == before + 5

    def test_a_range_beyond_the_end_is_refused(self, system: System) -> None:
        file = system.content(system.artifact(system.add()))
        size = file.size
        assert code_of(lambda: read(file, size, size + 5)) == "REFUSED"
        assert code_of(lambda: read(file, size - 5, size + 5)) == "REFUSED"

    def test_a_signed_url_is_renewed_before_it_expires(self, system: System) -> None:
        file = system.content(system.artifact(system.add()))
        assert file.size
        before = system.http.requests_made
        for pause, requests in [(49.0, 1), (2.0, 2), (1.0, 1)]:
            system.sleep(pause)
            read(file, 0, 2)
            before += requests
            assert system.http.requests_made == before

    def test_a_rejected_signed_url_is_renewed(self, system: System) -> None:
        file = system.content(system.artifact(system.add()))
        assert file.size
        before = system.http.requests_made
        system.advance_server_clock(61, file)
        assert read(file, 0, 2) == b"PK"
        assert system.http.requests_made == before + 3

    def test_a_store_that_rejects_every_signed_url_is_an_error(self, system: System) -> None:
        file = system.content(system.artifact(system.add()))
        system.server.url_lives = -1.0
        if system.standin is not None:
            system.standin.rejects = 100
        before = system.http.requests_made
        assert code_of(lambda: file._stream(0, 2)) == "SERVER_ERROR"
        assert system.http.requests_made == before + 6

    def test_an_expired_artifact_is_readable_until_its_signed_url_expires(self, system: System) -> None:
        number = system.add()
        artifact = system.artifact(number)
        file = system.content(artifact)
        assert file.size
        system.server.expire(artifact.id)
        system.show()
        assert read(file, 0, 2) == b"PK"  # the signed URL is still valid
        system.sleep(61)
        assert code_of(lambda: read(file, 0, 2)) == "ARTIFACT_EXPIRED"
        assert system.artifact(number).expired

    def test_the_logs_of_an_attempt_are_read(self, system: System) -> None:
        run = system.github.run(REPOSITORY, system.add())
        with zipfile.ZipFile(io.BytesIO(read(system.github.logs(REPOSITORY, run)))) as archive:
            assert archive.namelist() == ["0_build.txt", "build/3_Print metadata.txt", "1_other.txt"]
        assert code_of(lambda: system.github.logs(REPOSITORY, replace(run, attempt=2)).size) == "ARTIFACT_EXPIRED"


class TestBuilds:
    @pytest.mark.parametrize("form", ["oci", "legacy"])
    def test_the_artifact_contains_the_images(self, form: Format) -> None:
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

    def test_the_logs_contain_the_metadata_block(self, model: System) -> None:
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


class TestFaults:
    def test_listings_may_be_cut_or_empty(self, model: System) -> None:
        numbers = [model.add() for _ in range(3)]
        model.server.listing_cut = 2
        assert [run.id for run in model.runs()] == numbers[:0:-1]
        model.server.empty_listing = True
        assert not model.runs()

    def test_a_list_of_runs_may_be_endless(self, model: System) -> None:
        number = model.add()
        model.server.endless = True
        listing = model.github.runs(REPOSITORY, WORKFLOW, status="success")
        first = [next(listing) for _ in range(500)]
        assert first[0].id == number
        assert len({run.id for run in first}) == 500
        assert [run.created for run in first] == sorted((run.created for run in first), reverse=True)
        assert code_of(lambda: sum(1 for _ in listing)) == "LISTING_TOO_LONG"

    def test_an_artifact_may_have_no_digest(self, system: System) -> None:
        system.server.digest_null = True
        assert system.artifact(system.add()).digest is None

    def test_a_download_may_have_a_wrong_byte(self, model: System) -> None:
        artifact = model.artifact(model.add())
        file = model.content(artifact)
        expected = read(file)
        model.server.wrong_bytes = True
        damaged = read(file)
        assert sum(a != b for a, b in zip(expected, damaged, strict=True)) == 1
        at = next(at for at, byte in enumerate(expected) if byte != damaged[at])
        assert read(file, at, at + 1) == damaged[at : at + 1]

    def test_signed_urls_may_expire_early(self, model: System) -> None:
        file = model.content(model.artifact(model.add()))
        model.server.url_lives = 1.0
        assert file.size
        before = model.http.requests_made
        model.sleep(2)
        read(file, 0, 2)
        assert model.http.requests_made == before + 3

    def test_requests_may_fail_in_the_network(self) -> None:
        machine = Machine(1)
        server = Model(machine)
        server.add_build(REPOSITORY, WORKFLOW, tag=TAG, images=IMAGES)
        faults = Faults(broken=1.0)
        github = SimGitHub(server, Network(Calls(machine, Process(machine, "test"), faults), Http()))
        assert code_of(lambda: list(github.runs(REPOSITORY, WORKFLOW))) in ("UNREACHABLE", "SERVER_ERROR")
        assert faults.points["GET runs"] == 1
