"""Wrong calls of `syncline artifacts`, and builds, archives and images that fail or have unusual forms."""

from __future__ import annotations

import gzip

import pytest

from syncline.cli.output import Output
from syncline.kinds.artifacts.cli import daemon
from syncline.kinds.artifacts.cli.main import Options
from syncline.kinds.artifacts.cli.setup import Setup
from tests.integration.artifacts.command import COORDINATOR, IMAGE, TAG, Command, images
from tests.rig.artifacts import block, build, expected, image
from tests.standins import saved
from tests.standins.github import TOKEN, GitHubServer, Stored, zipped
from tests.standins.gitlab import TOKEN as GITLAB_TOKEN


def test_steps_in_the_wrong_order_are_refused(command: Command) -> None:
    assert command("prepare", TAG, code=2)["error"]["code"] == "USAGE"
    assert command("push", TAG, "--yes", code=2)["error"]["code"] == "USAGE"


def test_a_tag_without_a_run_is_not_found(command: Command) -> None:
    assert command("download", "other", code=2)["error"]["code"] == "NOT_FOUND"


@pytest.mark.parametrize("tag", ["../../etc", "a/b", ""])
def test_an_invalid_tag_is_refused(command: Command, tag: str) -> None:
    assert command("clean", tag, "--yes", code=2)["error"]["code"] == "REFERENCE_INVALID"


def test_an_index_loses_the_images_that_the_archive_lacks(command: Command, github: GitHubServer) -> None:
    """The archive has two images of three. The pushed index names only these, and equals the prepared one."""
    made = [saved.Image(IMAGE.layers, IMAGE.name, each) for each in ("amd64", "arm64", "riscv64")]
    files = {f"presto-coordinator-{TAG}.tar": saved.containerd(made, absent=["riscv64"])}
    files |= {f"{n}-{TAG}.tar": saved.since_25(image(n, TAG)) for n in expected(block(TAG, java=True))[1:]}
    github.runs[0].artifacts = [Stored(5, "images", zipped(files))]
    command("download", TAG)
    command("prepare", TAG)
    for outcome in ("moved", "skipped"):
        assert {each["outcome"] for each in command("push", TAG, "--yes")["images"]} == {outcome}


def test_an_image_that_fails_is_counted_in_every_round(
    command: Command,
    github: GitHubServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    github.runs[0].artifacts = [
        Stored(5, "images", zipped({f"{n}-{TAG}.tar": saved.since_25(image(n, TAG)) for n in expected(block(TAG))}))
    ]
    environ = command.environ
    options = Options(
        config=command.folder / "syncs.yaml",
        gh_token=TOKEN,
        gitlab_token=GITLAB_TOKEN,
        registry_username=environ["GITLAB_REGISTRY_USERNAME"],
        registry_password=environ["CI_REGISTRY_PASSWORD"],
    )
    rounds: list[float] = []

    def sleep(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        daemon.daemon(Setup(options), Output(as_json=False), 60, once=False, sleep=sleep)
    lines = capsys.readouterr().out.splitlines()
    counts = [line.partition("  ")[2] for line in lines if " moved, " in line]
    assert counts == [
        "2 moved, 1 failed, 0 known failures, 0 conflicts",
        *["0 moved, 0 failed, 1 known failures, 0 conflicts"] * 2,
    ]
    assert sum("presto-java-worker" in line for line in lines) == 1, "the failure must be reported in full exactly once"


def test_a_tag_of_another_image_is_a_conflict(command: Command, github: GitHubServer) -> None:
    command("daemon", "--once")
    command("download", TAG)
    command("prepare", TAG)
    assert {each["outcome"] for each in command("push", TAG, "--yes")["images"]} == {"skipped"}
    other = [image(name, TAG, saved.layer({name: b"built again"})) for name in expected(block(TAG, java=True))]
    github.runs.append(build(2, TAG, other, java=True))
    command("download", TAG)
    command("prepare", TAG)
    pushed = command("push", TAG, "--yes", code=1)["images"]
    assert {(each["outcome"], each["code"]) for each in pushed} == {("conflict", "TAG_DIFFERS")}
    assert all(each["reason"].count("sha256:") == 2 for each in pushed)
    assert command.config_digest(COORDINATOR, "presto-1") == f"sha256:{IMAGE.id}"


def test_an_absent_configuration_file_is_named(command: Command) -> None:
    error = command("gh-list", "--config", "other.yaml", code=2)["error"]
    assert (error["code"], "other.yaml" in error["what"]) == ("USAGE", True)


def test_without_a_file_the_registry_is_required(command: Command, github: GitHubServer) -> None:
    (command.folder / "syncs.yaml").unlink()
    error = command("xref", "--gh-url", github.url, code=2)["error"]
    assert error["code"] == "USAGE"
    assert "--registry HOST and --gitlab-project PATH" in error["what"]


def test_a_wrong_gitlab_token_is_reported_before_any_request_to_github(command: Command, github: GitHubServer) -> None:
    command.environ["GITLAB_TOKEN"] = "not-the-secret"
    github.requests.clear()
    error = command("xref", code=2)["error"]
    assert error["code"] == "UNAUTHORIZED"
    assert github.requests == []


def test_an_artifact_may_be_an_archive_instead_of_a_zip(command: Command, github: GitHubServer) -> None:
    """GitHub stores an artifact without zip as it is: here one archive with all images."""
    names = expected(block(TAG, java=True))
    archive = saved.since_25(*(image(name, TAG) for name in names))
    github.runs[0].artifacts = [Stored(5, "all", gzip.compress(archive))]
    assert {r["outcome"] for r in command("daemon", "--once")["results"]} == {"moved"}
    for repository, digest in images(java=True).items():
        assert command.config_digest(repository, "presto-1") == digest


def test_images_may_be_in_several_artifacts(command: Command, github: GitHubServer) -> None:
    names = expected(block(TAG, java=True))
    github.runs[0].artifacts = [
        Stored(n, f"one-{name}", zipped({f"{name}-{TAG}.tar": saved.until_24(image(name, TAG))}))
        for n, name in enumerate(names)
    ]
    assert {r["outcome"] for r in command("daemon", "--once")["results"]} == {"moved"}


def test_a_failed_image_does_not_stop_the_others(command: Command, github: GitHubServer) -> None:
    bad = image("presto-coordinator", TAG)
    files = {f"presto-coordinator-{TAG}.tar.gz": gzip.compress(saved.since_25(bad))[:-20]}
    files |= {
        f"{n}-{TAG}.tar.gz": gzip.compress(saved.since_25(image(n, TAG))) for n in expected(block(TAG, java=True))[1:]
    }
    github.runs[0].artifacts = [Stored(5, "images", zipped(files))]
    results = command("daemon", "--once", code=1)["results"]
    assert sorted(r["outcome"] for r in results) == ["failed", "moved", "moved"]
    assert command.config_digest(COORDINATOR, "presto-1") is None
