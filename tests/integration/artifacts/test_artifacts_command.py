"""`syncline artifacts` from GitHub to a registry, step by step and with the daemon."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Final

import pytest

from tests.integration.artifacts.command import COORDINATOR, TAG, Command, images
from tests.rig.artifacts import block, build, expected, image, log
from tests.standins import saved
from tests.standins.github import TOKEN, GitHubServer
from tests.standins.gitlab import TOKEN as GITLAB_TOKEN
from tests.standins.gitlab import GitLabServer, behind
from tests.standins.pairs import TOKEN_USERS, TokenRegistryPair


def test_the_steps_move_a_build_to_the_registry(command: Command) -> None:
    wanted = images(java=True)
    listed = command("gh-list", "--limit", "10")
    assert [run["metadata"]["Image tag"] for run in listed["runs"]] == [TAG]
    assert command("gitlab-list") == {"repositories": []}
    missing = command("xref")["missing"]
    assert [each["target"] for each in missing] == [f"{command.project}/{name}:presto-1" for name in wanted]
    about = command("download", TAG, "--output-dir", "kept")
    assert (command.folder / "kept" / TAG / about["artifacts"][0]["file"]).is_file()
    plan = command("prepare", TAG, "--downloads-dir", "kept")
    assert {f"x86/{each['image']}": each["config"] for each in plan["images"]} == wanted
    assert command.config_digest(COORDINATOR, "presto-1") is None, "an image was pushed before `push`"
    pushed = command("push", TAG, "--downloads-dir", "kept", "--yes", "--retag-as-latest", "--skip-login", "--verbose")
    assert {each["outcome"] for each in pushed["images"]} == {"moved"}
    for repository, digest in wanted.items():
        assert command.config_digest(repository, "presto-1") == digest
        assert command.config_digest(repository, "latest") == digest
    again = command("push", TAG, "--downloads-dir", "kept", "--yes")
    assert {each["outcome"] for each in again["images"]} == {"skipped"}
    forced = command("push", TAG, "--downloads-dir", "kept", "--yes", "--force")
    assert {each["outcome"] for each in forced["images"]} == {"moved"}
    assert command("xref") == {"missing": [], "flawed": []}
    command("clean", TAG, "--downloads-dir", "kept", answers="y\n")
    assert not (command.folder / "kept" / TAG).exists()


class TestWithoutConfigurationFile:
    """All flags of the documented commands, with tags in the format of the workflow."""

    REFS: Final = {"Presto ref": "92865fbce0d2a056af53", "Velox ref": "65797d572e0a297fa898"}
    SHORT: Final = "presto-92865fbce0d2-velox-65797d572e0a"
    IMAGE_TAG: Final = f"{SHORT}-linux-amd64"

    @pytest.fixture
    def flags(self, command: Command, github: GitHubServer) -> Iterator[tuple[str, ...]]:
        run = build(1, self.IMAGE_TAG)
        run.logs = {"0_build.txt": log(block(self.IMAGE_TAG) | self.REFS)}
        github.runs = [run]
        (command.folder / "syncs.yaml").unlink()
        command.environ.clear()
        with GitLabServer(behind(command.registry, command.project), command.project) as gitlab:
            yield (
                *("--repo", "rapidsai/velox-testing", "--workflow", ".github/workflows/presto-build-images.yml"),
                *("--branch", "main", "--limit", "10", "--gh-url", github.url, "--gh-token", TOKEN),
                *("--gitlab-host", gitlab.url, "--gitlab-project", command.project, "--gitlab-token", GITLAB_TOKEN),
                *("--registry", f"http://{command.registry.host}", "--registry-username", "writer"),
                *("--registry-password", TOKEN_USERS["writer"].password),
            )

    def test_every_command_accepts_its_flags(self, command: Command, flags: tuple[str, ...]) -> None:
        listed = command("gh-list", *flags)
        assert [run["metadata"]["Image tag"] for run in listed["runs"]] == [self.IMAGE_TAG]
        missing = command("xref", "--list-extra", *flags)["missing"]
        names = expected(block(self.IMAGE_TAG))
        assert [each["target"] for each in missing] == [f"{command.project}/x86/{name}:{self.SHORT}" for name in names]
        command("download", self.IMAGE_TAG, "--output-dir", "kept", "--force", *flags)
        command("prepare", self.IMAGE_TAG, "--downloads-dir", "kept", "--clean", *flags)
        options = ("--downloads-dir", "kept", "--skip-login", "--force", "--yes", "--verbose", "--retag-as-latest")
        pushed = command("push", self.IMAGE_TAG, *options, *flags)
        assert {each["outcome"] for each in pushed["images"]} == {"moved"}
        source, copy = f"{COORDINATOR}:{self.SHORT}", f"{COORDINATOR}:stable"
        command("retag", source, copy, *flags)
        (names_and_tags,) = [
            {each["tag"] for each in listed["tags"]}
            for listed in command("gitlab-list", *flags)["repositories"]
            if listed["repository"].endswith(COORDINATOR)
        ]
        assert names_and_tags == {self.SHORT, "latest", "stable"}
        daemon = ("--downloads-dir", "kept", "--once", "--interval", "900", "--skip-login", "--force-push")
        results = command("daemon", *daemon, "--verbose", "--retag-as-latest", *flags)["results"]
        assert not {each["outcome"] for each in results} & {"failed", "conflict"}
        assert command("clean", self.IMAGE_TAG, "--downloads-dir", "kept", "--yes", *flags)["removed"]

    def test_retag_reads_credentials_from_the_environment(self, command: Command, flags: tuple[str, ...]) -> None:
        command("daemon", "--once", *flags)
        command.environ |= {"GITLAB_TOKEN": GITLAB_TOKEN, "GITLAB_REGISTRY_USERNAME": "writer"}
        command.environ |= {"GITLAB_REGISTRY_PASSWORD": TOKEN_USERS["writer"].password}
        target = ("--registry", f"http://{command.registry.host}", "--registry-project", command.project)
        command("retag", f"{COORDINATOR}:{self.SHORT}", f"{COORDINATOR}:latest", *target)
        assert command.config_digest(COORDINATOR, "latest") == command.config_digest(COORDINATOR, self.SHORT)


def test_xref_lists_tags_without_a_build(command: Command, github: GitHubServer) -> None:
    command("daemon", "--once")
    github.runs = [build(2, "presto-2-linux-amd64")]
    found = command("xref", "--list-extra")
    assert f"{command.project}/{COORDINATOR}:presto-1" in found["extra"]
    assert len(found["missing"]) == 2


def test_the_daemon_moves_everything_in_one_round(command: Command) -> None:
    first = command("daemon", "--once", "--retag-as-latest", "--interval", "900")
    assert {result["outcome"] for result in first["results"]} == {"moved"}
    for repository, digest in images(java=True).items():
        assert command.config_digest(repository, "presto-1") == command.config_digest(repository, "latest") == digest
    assert command("daemon", "--once", "--retag-as-latest")["results"] == []


@pytest.mark.parametrize("daemon", [True, False])
def test_a_rebuilt_tag_is_replaced_only_with_force(command: Command, github: GitHubServer, daemon: bool) -> None:
    """The commands keep no state. The image itself shows that the tag is ours."""
    command("daemon", "--once")
    other = [image(name, TAG, saved.layer({name: b"built again"})) for name in expected(block(TAG, java=True))]
    github.runs.append(build(2, TAG, other, java=True))
    assert command("daemon", "--once")["results"] == []
    if daemon:
        assert {r["outcome"] for r in command("daemon", "--once", "--force-push")["results"]} == {"moved"}
    else:
        command("download", TAG)
        command("prepare", TAG)
        command("push", TAG, "--yes", "--force")
    assert command.config_digest(COORDINATOR, "presto-1") == f"sha256:{other[0].id}"


def test_retag_moves_no_layer(command: Command) -> None:
    command("daemon", "--once")
    done = command("retag", f"{COORDINATOR}:presto-1", f"{command.project}/{COORDINATOR}:stable")
    assert command.config_digest(COORDINATOR, "stable") == done["config"]
    error = command("retag", f"{COORDINATOR}:presto-1", "x86/presto-java-worker:stable", code=2)["error"]
    assert error["code"] == "USAGE"


def test_tokens_may_expire_while_layers_are_sent(
    command: Command, github: GitHubServer, token_registry_pair: TokenRegistryPair
) -> None:
    """Send a layer in several pieces with tokens that live for one second, so that each piece may need a new token."""
    large = saved.layer({"large": random.Random(3).randbytes(40 << 20)})
    each = image("presto-coordinator", TAG, large)
    github.runs = [build(1, TAG, [each, image("presto-native-worker-cpu", TAG)])]
    token_registry_pair.dr_tokens.lifetime, token_registry_pair.dr_tokens.exact_expiry = 1, True
    done = command("daemon", "--once")
    assert {result["outcome"] for result in done["results"]} == {"moved"}
    token_registry_pair.dr_tokens.lifetime = 300
    assert command.config_digest(COORDINATOR, "presto-1") == f"sha256:{each.id}"


@pytest.mark.parametrize("wrong", ["CI_REGISTRY_PASSWORD", "GITHUB_TOKEN"])
def test_a_wrong_credential_is_reported_but_not_printed(command: Command, wrong: str) -> None:
    command.environ[wrong] = "not-the-secret"
    code = 1 if wrong == "CI_REGISTRY_PASSWORD" else 2
    output = json.dumps(command("daemon", "--once", code=code))
    assert "UNAUTHORIZED" in output
    assert "not-the-secret" not in output


def test_a_run_without_metadata_is_reported(command: Command, github: GitHubServer) -> None:
    github.runs.append(build(2, "presto-2-linux-amd64"))
    github.runs[1].logs = {"0_build.txt": log({"Other": "key"})}
    found = command("xref", code=1)
    assert [each["code"] for each in found["flawed"]] == ["METADATA_INVALID"]


def test_nothing_is_pushed_without_confirmation(command: Command) -> None:
    command("download", TAG)
    command("prepare", TAG)
    command("push", TAG, answers="n\n", code=2)
    assert command.config_digest(COORDINATOR, "presto-1") is None
