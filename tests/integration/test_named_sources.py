"""Named sources that do not exist are failures for every kind; patterns without a match are not.

A retry gets a result for each requested item.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from syncline.clients.git.access import TokenCredentials
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.errors import SynclineError
from syncline.kinds.backups.paths import Layout
from syncline.kinds.files.wiring import group_of
from syncline.kinds.kind import StepContext
from syncline.messages import Start
from syncline.model import EVERYTHING, Outcome, Run, Scope, Trigger
from syncline.store.runs import new_run_id
from tests.rig.artifacts import ArtifactsChain, ArtifactsWorld, build, config
from tests.rig.backups import World as BackupsWorld
from tests.rig.backups import make_bucket, s3_server
from tests.rig.chain import Chain
from tests.rig.files import FilesChain, FilesWorld
from tests.rig.images import SYNC, ImagesChain, ImagesWorld
from tests.standins.git_http import GitHttp, git_http
from tests.standins.git_places import make_bare
from tests.standins.s3 import S3Server

TAG = "presto-1-linux-amd64"


def failed(chain: Chain, run: Run) -> set[tuple[str, str, str | None]]:
    return {(each.group, each.name, each.code) for each in chain.state.results(run.id) if each.code}


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(registries: ImagesWorld) -> ImagesChain:
    chain = registries.chain()
    chain.source.store.add_image("team/app", "1.0", b"app")
    return chain


def source(chain: ImagesChain, **which: object) -> dict[str, object]:
    return {"registry": chain.source.host, "plain_http": True, **which}


def test_an_absent_repository_in_the_configuration_fails(images: ImagesChain) -> None:
    images.configure(source=source(images, repositories=["team/app", "team/typo"]))
    run = images.run()
    assert failed(images, run) == {("team/typo", "*", "SOURCE_ABSENT")}
    assert (run.counts.moved, run.counts.failed) == (1, 1)
    assert images.run().counts.known == 1


@pytest.mark.parametrize("trigger", [Trigger.MANUAL, Trigger.WEBHOOK])
def test_an_absent_repository_on_the_command_line_fails(images: ImagesChain, trigger: Trigger) -> None:
    """A notification is only a hint: the repository that it names may have been deleted."""
    images.configure()
    images.start("team/typo", trigger=trigger)
    images.pump.run()
    wanted = {("team/typo", "*", "SOURCE_ABSENT")} if trigger is Trigger.MANUAL else set()
    assert failed(images, images.latest()) == wanted


def test_a_repository_without_tags_is_not_absent(images: ImagesChain) -> None:
    images.source.store.repositories["team/app"].tags.clear()
    images.configure(source=source(images, repositories=["team/app"]))
    assert failed(images, images.run()) == set()


def test_patterns_without_a_match_are_no_failure(images: ImagesChain) -> None:
    images.configure(select={"repositories": {"include": ["other/*"]}, "tags": {"include": ["v*"]}})
    assert failed(images, images.run()) == set()


# -- artifacts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def artifacts(builds: ArtifactsWorld) -> ArtifactsChain:
    return builds.chain([build(1, TAG)])


@pytest.mark.parametrize(
    ("key", "name"),
    [("repository", "team/typo"), ("workflow", "typo.yml"), ("branch", "typo"), ("event", "workflow_dispath")],
)
def test_an_absent_name_in_the_source_of_builds_fails(artifacts: ArtifactsChain, key: str, name: str) -> None:
    values = config(artifacts.github, artifacts.target.host)
    values["source"] |= {key: name}
    artifacts.apply(values)
    run = artifacts.run()
    assert failed(artifacts, run) == {("*", "*", "SOURCE_ABSENT")}
    (reason,) = (each.reason for each in artifacts.state.results(run.id))
    assert name in (reason or "")


@pytest.mark.parametrize("key", ["branch", "event"])
def test_a_branch_or_event_without_a_successful_run_is_reported(artifacts: ArtifactsChain, key: str) -> None:
    values = config(artifacts.github, artifacts.target.host)
    values["source"] |= {key: {"branch": "main", "event": "workflow_dispatch"}[key]}
    artifacts.github.runs[0].conclusion = "failure"
    artifacts.apply(values)
    assert failed(artifacts, artifacts.run()) == set()


@pytest.mark.parametrize("name", ["run:99", "presto-9-linux-amd64", "group/project/x86/typo"])
def test_an_absent_build_on_the_command_line_fails(artifacts: ArtifactsChain, name: str) -> None:
    assert failed(artifacts, artifacts.run(name)) == {(name, "*", "SOURCE_ABSENT")}
    artifacts.clock.sleep(1)
    artifacts.start(name, trigger=Trigger.WEBHOOK)
    artifacts.pump.run()
    assert failed(artifacts, artifacts.latest()) == set()


def test_an_existing_build_is_found(artifacts: ArtifactsChain) -> None:
    assert failed(artifacts, artifacts.run("run:1")) == set()
    assert failed(artifacts, artifacts.run(TAG)) == set()


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as made:
        yield made


@pytest.fixture
def files(server: S3Server) -> Iterator[FilesChain]:
    with mock_aws(), FilesWorld(server).chain() as chain:
        server.objects[chain.name] = {}
        server.clock = chain.clock.time
        chain.upload("docs/a.txt", b"a")
        chain.configure()
        yield chain


@pytest.mark.parametrize("name", ["key:docs/typo.txt", "prefix:typo/"])
def test_an_absent_key_or_prefix_on_the_command_line_fails(files: FilesChain, name: str) -> None:
    ((_, _, code),) = failed(files, files.run(name, "key:docs/a.txt"))
    assert code == "SOURCE_ABSENT"
    files.clock.sleep(1)
    files.start(name, trigger=Trigger.EVENT)
    files.pump.run()
    assert failed(files, files.latest()) == set()


def test_an_absent_prefix_in_the_configuration_fails(files: FilesChain) -> None:
    files.configure(source={**files.endpoint(files.name), "prefix": "dcos/"})
    ((_, _, code),) = failed(files, files.run())
    assert code == "SOURCE_ABSENT"
    files.configure(source={**files.endpoint(files.name), "prefix": "docs/"})
    assert failed(files, files.run()) == set()


def test_an_absent_bucket_in_the_configuration_fails(files: FilesChain) -> None:
    files.configure(source={**files.endpoint("typo"), "prefix": "docs/"})
    assert failed(files, files.run()) == {("*", "*", "BUCKET_ABSENT")}


def test_an_empty_bucket_and_patterns_without_a_match_are_no_failure(files: FilesChain) -> None:
    files.configure(select={"include": ["*.pdf"]})
    assert failed(files, files.run()) == set()
    files.bucket.delete("docs/a.txt")
    files.configure()
    assert failed(files, files.run()) == set()


# -- backups -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def server_of_git(tmp_path: Path) -> Iterator[GitHttp]:
    with git_http(tmp_path / "srv", {"x-access-token": "token"}) as made:
        yield made


@pytest.fixture
def backups(s3: str, server_of_git: GitHttp, tmp_path: Path) -> BackupsWorld:
    http = Http()
    bare = make_bare(tmp_path / "srv" / "r.git")
    bucket = make_bucket(s3, f"{tmp_path.name.replace('_', '-')[:50].lower()}-n", http)
    made = BackupsWorld(bucket, bare, f"{server_of_git.url}/r.git", TokenCredentials("token"), http)
    made.put({"east/n/a.yaml": b"a"})
    return made


def codes(world: BackupsWorld, *groups: str, named: bool = True) -> set[tuple[str, str]]:
    scope = Scope.of(groups) if groups else EVERYTHING
    pages = world.kind().discover(scope, None, StepContext(lambda: 100.0, named=named and bool(groups)))
    return {(each.item.group, each.error.code.name) for page in pages for each in page.failures}


@pytest.mark.parametrize("branch", ["main", "bk/{cluster}"])
def test_an_absent_cluster_on_the_command_line_fails(backups: BackupsWorld, branch: str) -> None:
    backups.layout = Layout(branch=branch)
    assert codes(backups, "east/", "typo/") == {("typo/", "SOURCE_ABSENT")}
    assert codes(backups, "east/", "typo/", named=False) == set()
    assert codes(backups, "east/") == set()


def test_an_absent_bucket_of_clusters_in_the_configuration_fails(backups: BackupsWorld, s3: str) -> None:
    keys = AccessKeys("AKIDOFTHETESTS", "secret-of-the-tests")
    backups.bucket = Bucket(Endpoint.parse(s3), "typo", lambda: keys, backups.http)
    with pytest.raises(SynclineError) as caught:
        codes(backups)
    assert caught.value.code.name == "BUCKET_ABSENT"


def test_an_absent_prefix_of_clusters_in_the_configuration_fails(backups: BackupsWorld) -> None:
    backups.layout = Layout(prefix="backpus/")
    with pytest.raises(SynclineError) as caught:
        codes(backups)
    assert caught.value.code.name == "SOURCE_ABSENT"
    backups.delete("east/n/a.yaml")
    backups.layout = Layout()
    assert codes(backups) == set()


# -- results of a retry ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [(), ("key:docs/a.txt", "key:docs/gone.txt")])
def test_a_retry_has_a_result_for_each_file(files: FilesChain, groups: tuple[str, ...]) -> None:
    files.upload("docs/b.txt", b"b")
    files.run()
    asked = [(group_of(name), name) for name in ("docs/a.txt", "docs/gone.txt")]
    files.clock.sleep(1)
    scope = Scope.of(groups) if groups else EVERYTHING
    run, _ = files.state.begin_run(files.sync, new_run_id(files.clock.time), Trigger.RETRY, scope, asked=asked)
    files.queues.start(Start(files.sync, Trigger.RETRY, scope, run=run.id))
    files.pump.run()
    run = files.state.run(files.sync, run.id)
    results = {each.name: each for each in files.state.results(run.id)}
    assert results["docs/a.txt"].outcome is Outcome.EQUAL
    assert results["docs/gone.txt"].code == ("SOURCE_ABSENT" if groups else "ITEM_GONE")
    assert (run.counts.skipped, run.counts.failed) == (1 if groups else 2, 1)
    assert {key for key, each in files.state.failures.find(files.sync, asked).items() if each.solved} == {asked[0]}


def test_a_key_that_failed_in_a_scan_is_resolved_by_its_transfer(files: FilesChain) -> None:
    """A failure in the scan has the same key as the result of the transfer."""
    files.upload("docs/b\x01.txt", b"odd")
    run = files.run()
    (bad,) = [each for each in files.state.results(run.id) if each.code]
    assert bad.group == group_of(bad.name)
    (dead,) = files.dead()
    assert dead.batch.scope.groups == ("key:docs/b\x01.txt",)
    assert (files.run().counts.failed, files.latest().counts.known) == (0, 1)


@pytest.mark.parametrize("branch", ["main", "bk/{cluster}"])
def test_a_retry_of_backups_has_results_for_equal_objects(backups: BackupsWorld, branch: str) -> None:
    backups.layout = Layout(branch=branch)
    backups.put({"east/n/b.yaml": b"b"})
    assert set(backups.codes(backups.run()).values()) == {"moved"}
    asked = frozenset({(branch.replace("{cluster}", "east"), "east/n/a.yaml")})
    pages = list(backups.kind().discover(EVERYTHING, None, StepContext(lambda: 100.0, asked=asked)))
    assert [(each.name, each.outcome) for page in pages for each in page.results] == [("east/n/a.yaml", Outcome.EQUAL)]
    assert sum(page.equal for page in pages) == 1


def test_a_retry_of_artifacts_transfers_the_requested_images(artifacts: ArtifactsChain) -> None:
    first = artifacts.run()
    key = next(each for each in artifacts.results(first) if each[1] != "latest")
    artifacts.clock.sleep(1)
    run, _ = artifacts.state.begin_run(SYNC, new_run_id(artifacts.clock.time), Trigger.RETRY, EVERYTHING, asked=[key])
    artifacts.queues.start(Start(SYNC, Trigger.RETRY, run=run.id))
    artifacts.pump.run()
    assert artifacts.state.failures.find(SYNC, [key])[key].solved == run.id
    assert artifacts.state.run(SYNC, run.id).counts.failed == 0
