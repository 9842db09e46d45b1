"""`syncline artifacts` from GitHub's and GitLab's stand-ins to a real registry that wants tokens, step by step and at once."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner

from syncline.cli.main import app
from syncline.cli.output import Output
from syncline.clients.registry.manifest import MANIFEST_TYPES
from syncline.kinds.artifacts.cli import daemon
from syncline.kinds.artifacts.cli.main import Options
from syncline.kinds.artifacts.cli.setup import Setup
from tests.rig.artifacts import EXAMPLE, block, build, expected, image, log
from tests.standins import saved
from tests.standins.github import TOKEN, GitHubServer, Stored, zipped
from tests.standins.gitlab import TOKEN as GITLAB_TOKEN
from tests.standins.gitlab import GitLabServer, behind
from tests.standins.pairs import TOKEN_USERS, TokenRegistryPair
from tests.standins.registry import Registry

TAG = "presto-1-linux-amd64"
COORDINATOR = "x86/presto-coordinator"
IMAGE = image("presto-coordinator", TAG)


@dataclass
class Command:
    """The command with its options for the servers here; ``environ`` is what a person has set."""

    folder: Path
    project: str
    registry: Registry
    environ: dict[str, str]

    def __call__(self, *arguments: str, code: int = 0, given: str | None = None) -> dict[str, Any]:
        """Run it; the object it printed. ``given`` answers questions, and then nothing is read."""
        as_json = ["--json"] if given is None else []
        done = CliRunner().invoke(app, ["artifacts", *arguments, *as_json], env=self.environ, input=given)
        assert done.exit_code == code, (done.output, done.exception)
        assert TOKEN not in done.output
        return dict(json.loads(done.stdout)) if given is None and done.stdout else {}

    def config_digest(self, repository: str, tag: str) -> str | None:
        path = f"/v2/{self.project}/{repository}/manifests/{tag}"
        accept = {"Accept": ", ".join(MANIFEST_TYPES)}
        rights = (
            self.registry.auth.authorization(f"repository:{self.project}/{repository}:pull")
            if self.registry.auth
            else ""
        )
        answer = self.registry.request("GET", path, None, {**accept, "Authorization": rights})
        return str(json.loads(answer.body)["config"]["digest"]) if answer.status == 200 else None


@pytest.fixture
def github() -> Iterator[GitHubServer]:
    with GitHubServer("rapidsai/velox-testing") as server:
        server.runs = [build(1, TAG, java=True)]
        yield server


@pytest.fixture
def command(
    github: GitHubServer,
    token_registry_pair: TokenRegistryPair,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Command]:
    monkeypatch.chdir(tmp_path)
    project, registry = f"{namespace}/images", token_registry_pair.dr
    # By way of JSON: another test may have brought in SAM, which makes YAML give ordered mappings for good.
    values = json.loads(json.dumps(yaml.safe_load(EXAMPLE.read_text())))
    sync = values["syncs"]["presto-images"]
    sync.pop("aliases")
    sync["build"]["metadata"].pop("check")  # the tags here are shorter
    with GitLabServer(behind(registry, project), project) as gitlab:
        sync["source"] |= {"url": github.url}
        sync["target"] |= {"registry": registry.host, "plain_http": True, "project": project}
        sync["target"]["api"]["url"] = gitlab.url
        (tmp_path / "syncs.yaml").write_text(yaml.safe_dump(values))
        environ = {
            "GITHUB_TOKEN": TOKEN,
            "GITLAB_TOKEN": GITLAB_TOKEN,
            "GITLAB_REGISTRY_USERNAME": "writer",
            "CI_REGISTRY_PASSWORD": TOKEN_USERS["writer"].password,
        }
        yield Command(tmp_path, project, registry, environ)


def images(**flags: bool) -> Mapping[str, str]:
    """The config digests of the build's images by their repositories."""
    return {f"x86/{name}": f"sha256:{image(name, TAG).id}" for name in expected(block(TAG, **flags))}


def test_step_by_step(command: Command) -> None:
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
    assert command.config_digest(COORDINATOR, "presto-1") is None, "nothing was pushed so far"
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
    command("clean", TAG, "--downloads-dir", "kept", given="y\n")
    assert not (command.folder / "kept" / TAG).exists()


class TestWithoutAFile:
    """Every flag of the documented commands, with tags as the workflow makes them."""

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

    def test_every_command(self, command: Command, flags: tuple[str, ...]) -> None:
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

    def test_retag_from_the_environment(self, command: Command, flags: tuple[str, ...]) -> None:
        command("daemon", "--once", *flags)
        command.environ |= {"GITLAB_TOKEN": GITLAB_TOKEN, "GITLAB_REGISTRY_USERNAME": "writer"}
        command.environ |= {"GITLAB_REGISTRY_PASSWORD": TOKEN_USERS["writer"].password}
        places = ("--registry", f"http://{command.registry.host}", "--registry-project", command.project)
        command("retag", f"{COORDINATOR}:{self.SHORT}", f"{COORDINATOR}:latest", *places)
        assert command.config_digest(COORDINATOR, "latest") == command.config_digest(COORDINATOR, self.SHORT)


def test_tags_of_no_build(command: Command, github: GitHubServer) -> None:
    command("daemon", "--once")
    github.runs = [build(2, "presto-2-linux-amd64")]
    found = command("xref", "--list-extra")
    assert f"{command.project}/{COORDINATOR}:presto-1" in found["extra"]
    assert len(found["missing"]) == 2


def test_at_once(command: Command) -> None:
    first = command("daemon", "--once", "--retag-as-latest", "--interval", "900")
    assert {result["outcome"] for result in first["results"]} == {"moved"}
    for repository, digest in images(java=True).items():
        assert command.config_digest(repository, "presto-1") == command.config_digest(repository, "latest") == digest
    assert command("daemon", "--once", "--retag-as-latest")["results"] == []


@pytest.mark.parametrize("at_once", [True, False])
def test_a_tag_that_was_built_again_is_replaced_where_that_is_wanted(
    command: Command, github: GitHubServer, at_once: bool
) -> None:
    """Nothing is remembered from one command to the next: whose the tags are that are there, the image tells."""
    command("daemon", "--once")
    other = [image(name, TAG, saved.layer({name: b"built again"})) for name in expected(block(TAG, java=True))]
    github.runs.append(build(2, TAG, other, java=True))
    assert command("daemon", "--once")["results"] == []
    if at_once:
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


def test_tokens_that_end_while_layers_are_sent(
    command: Command, github: GitHubServer, token_registry_pair: TokenRegistryPair
) -> None:
    """A layer of several pieces, and tokens that are good for a moment: each piece may find its token over."""
    large = saved.layer({"large": random.Random(3).randbytes(40 << 20)})
    each = image("presto-coordinator", TAG, large)
    github.runs = [build(1, TAG, [each, image("presto-native-worker-cpu", TAG)])]
    token_registry_pair.dr_tokens.lifetime, token_registry_pair.dr_tokens.exact_expiry = 1, True
    done = command("daemon", "--once")
    assert {result["outcome"] for result in done["results"]} == {"moved"}
    token_registry_pair.dr_tokens.lifetime = 300
    assert command.config_digest(COORDINATOR, "presto-1") == f"sha256:{each.id}"


@pytest.mark.parametrize("wrong", ["CI_REGISTRY_PASSWORD", "GITHUB_TOKEN"])
def test_a_wrong_password_is_told_and_leaves_nothing(command: Command, wrong: str) -> None:
    command.environ[wrong] = "not-the-secret"
    code = 1 if wrong == "CI_REGISTRY_PASSWORD" else 2
    told = json.dumps(command("daemon", "--once", code=code))
    assert "UNAUTHORIZED" in told
    assert "not-the-secret" not in told


class TestWhatGoesWrong:
    def test_steps_in_the_wrong_order(self, command: Command) -> None:
        assert command("prepare", TAG, code=2)["error"]["code"] == "USAGE"
        assert command("push", TAG, "--yes", code=2)["error"]["code"] == "USAGE"

    def test_a_tag_that_no_run_made(self, command: Command) -> None:
        assert command("download", "other", code=2)["error"]["code"] == "NOT_FOUND"

    @pytest.mark.parametrize("tag", ["../../etc", "a/b", ""])
    def test_a_tag_that_is_none_leads_nowhere(self, command: Command, tag: str) -> None:
        assert command("clean", tag, "--yes", code=2)["error"]["code"] == "REFERENCE_INVALID"

    def test_a_download_that_was_damaged_since(self, command: Command) -> None:
        file = command.folder / "downloads" / TAG / command("download", TAG)["artifacts"][0]["file"]
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 1
        file.write_bytes(data)
        assert command("prepare", TAG, code=2)["error"]["code"] == "ARCHIVE_INVALID"

    def test_a_download_that_broke_off_is_gone_on_with(self, command: Command, github: GitHubServer) -> None:
        (artifact,) = github.runs[0].artifacts
        assert isinstance(artifact.content, bytes)
        folder = command.folder / "downloads" / TAG
        folder.mkdir(parents=True)
        (folder / f"{artifact.id}.zip.part").write_bytes(artifact.content[:1000])
        command("download", TAG)
        assert (folder / f"{artifact.id}.zip").read_bytes() == artifact.content
        assert min(start for kind, start, _ in github.ranges if kind == "artifact" and start) == 1000

    def test_other_bytes_than_github_has(self, command: Command, github: GitHubServer) -> None:
        (artifact,) = github.runs[0].artifacts
        folder = command.folder / "downloads" / TAG
        folder.mkdir(parents=True)
        (folder / f"{artifact.id}.zip.part").write_bytes(b"something else")
        assert command("download", TAG, code=2)["error"]["code"] == "DIGEST_MISMATCH"
        command("download", TAG)

    def test_what_is_there_is_downloaded_and_planned_again_where_that_is_wanted(
        self, command: Command, github: GitHubServer
    ) -> None:
        file = command.folder / "downloads" / TAG / command("download", TAG)["artifacts"][0]["file"]
        plan = command.folder / "downloads" / TAG / "upload-plan.json"
        command("prepare", TAG)
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        assert command("prepare", TAG, "--clean", code=2)["error"]["code"] == "ARCHIVE_INVALID"
        assert not plan.exists(), "no plan of an earlier day is left to be pushed by"
        command("download", TAG, "--force")
        assert file.read_bytes() == whole
        command("prepare", TAG)
        github.ranges.clear()
        command("download", TAG)
        assert plan.exists()
        assert {kind for kind, _, _ in github.ranges} == {"logs"}, "what is there and whole is left alone"
        command("download", TAG, "--force")
        assert "artifact" in {kind for kind, _, _ in github.ranges}
        assert not plan.exists(), "the plan was that of the earlier copy"

    @pytest.mark.parametrize("with_digest", [True, False])
    @pytest.mark.parametrize(
        "damage", [lambda data: data[:-1], lambda data: data[:500] + b"?" + data[501:], lambda _: b""]
    )
    def test_a_file_that_is_not_what_was_downloaded_is_fetched_again(
        self, command: Command, github: GitHubServer, damage: Callable[[bytes], bytes], *, with_digest: bool
    ) -> None:
        github.runs[0].artifacts[0].with_digest = with_digest
        file = command.folder / "downloads" / TAG / command("download", TAG)["artifacts"][0]["file"]
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        command("download", TAG)
        assert file.read_bytes() == whole

    @pytest.mark.parametrize("recorded", [True, False])
    def test_a_file_of_which_nothing_is_known_is_fetched_again(
        self, command: Command, github: GitHubServer, *, recorded: bool
    ) -> None:
        github.runs[0].artifacts[0].with_digest = False
        about = command("download", TAG)
        folder = command.folder / "downloads" / TAG
        if not recorded:
            (folder / "metadata.json").unlink()
        github.ranges.clear()
        assert command("download", TAG) == about
        assert ("artifact" in {kind for kind, _, _ in github.ranges}) is not recorded

    @pytest.mark.parametrize("why", ["expired", "cut", "other bytes"])
    def test_the_good_copy_stays_if_there_is_no_new_one(self, command: Command, github: GitHubServer, why: str) -> None:
        (artifact,) = github.runs[0].artifacts
        folder = command.folder / "downloads" / TAG
        file = folder / command("download", TAG)["artifacts"][0]["file"]
        command("prepare", TAG)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert isinstance(artifact.content, bytes)
        if why == "expired":
            artifact.expired = True
        elif why == "cut":
            logs = [kind for kind, _, _ in github.ranges].count("logs")
            github.cut = [*[10**9] * logs, *[0] * 100]
        else:
            artifact.digest = f"sha256:{saved.sha(artifact.content)}"
            artifact.content = artifact.content[:-1] + b"?"
        codes = {"expired": "ARTIFACT_EXPIRED", "cut": "UNREACHABLE", "other bytes": "DIGEST_MISMATCH"}
        assert command("download", TAG, "--force", code=2)["error"]["code"] == codes[why]
        assert file.read_bytes() == before[file.name]
        after = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".part"}
        assert after == before
        command("prepare", TAG)

    def test_a_copy_of_what_github_has_removed_since(self, command: Command, github: GitHubServer) -> None:
        first = Stored(1, "first", zipped({f"presto-coordinator-{TAG}.tar": saved.until_24(IMAGE)}))
        github.runs[0].artifacts.append(first)
        about = command("download", TAG)
        github.runs[0].artifacts[0].expired = True
        for force in ([], ["--force"]):
            assert {each["id"] for each in command("download", TAG, *force)["artifacts"]} == {1, 10}
        first.expired = True
        assert command("download", TAG) == about
        assert command("download", TAG, "--force", code=2)["error"]["code"] == "ARTIFACT_EXPIRED"

    def test_a_link_in_the_folder_is_not_followed(self, command: Command) -> None:
        folder, elsewhere = command.folder / "downloads" / TAG, command.folder / "elsewhere"
        folder.parent.mkdir()
        elsewhere.mkdir()
        folder.symlink_to(elsewhere)
        assert command("download", TAG, code=2)["error"]["code"] == "LINK_REFUSED"
        assert not list(elsewhere.iterdir())
        assert command("clean", TAG, "--yes", code=2)["error"]["code"] == "LINK_REFUSED"
        folder.unlink()
        folder.mkdir()
        (folder / "metadata.json").symlink_to(elsewhere / "victim")
        (elsewhere / "victim").write_text("{}")
        command("download", TAG)
        assert (elsewhere / "victim").read_text() == "{}"

    def test_an_index_of_which_the_archive_has_two_images_of_three(
        self, command: Command, github: GitHubServer
    ) -> None:
        """It is written anew for what is there, and is what was prepared all the same."""
        made = [saved.Image(IMAGE.layers, IMAGE.name, each) for each in ("amd64", "arm64", "riscv64")]
        files = {f"presto-coordinator-{TAG}.tar": saved.containerd(made, absent=["riscv64"])}
        files |= {f"{n}-{TAG}.tar": saved.since_25(image(n, TAG)) for n in expected(block(TAG, java=True))[1:]}
        github.runs[0].artifacts = [Stored(5, "images", zipped(files))]
        command("download", TAG)
        command("prepare", TAG)
        for outcome in ("moved", "skipped"):
            assert {each["outcome"] for each in command("push", TAG, "--yes")["images"]} == {outcome}

    def test_an_image_that_fails_is_counted_in_every_round(
        self,
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
        assert sum("presto-java-worker" in line for line in lines) == 1, "it is told in full once"

    def test_a_tag_of_another_image_is_no_push_that_was_made(self, command: Command, github: GitHubServer) -> None:
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

    def test_a_file_that_does_not_exist(self, command: Command) -> None:
        error = command("gh-list", "--config", "other.yaml", code=2)["error"]
        assert (error["code"], "other.yaml" in error["what"]) == ("USAGE", True)

    def test_neither_a_file_nor_a_registry(self, command: Command, github: GitHubServer) -> None:
        (command.folder / "syncs.yaml").unlink()
        error = command("xref", "--gh-url", github.url, code=2)["error"]
        assert error["code"] == "USAGE"
        assert "--registry HOST and --gitlab-project PATH" in error["what"]

    def test_a_wrong_gitlab_token_is_named_before_any_log_is_read(self, command: Command, github: GitHubServer) -> None:
        command.environ["GITLAB_TOKEN"] = "not-the-secret"
        github.requests.clear()
        error = command("xref", code=2)["error"]
        assert error["code"] == "UNAUTHORIZED"
        assert github.requests == []

    def test_an_artifact_that_is_no_zip(self, command: Command, github: GitHubServer) -> None:
        """One archive for all images, as GitHub gives it where nothing was zipped."""
        names = expected(block(TAG, java=True))
        archive = saved.since_25(*(image(name, TAG) for name in names))
        github.runs[0].artifacts = [Stored(5, "all", gzip.compress(archive))]
        assert {r["outcome"] for r in command("daemon", "--once")["results"]} == {"moved"}
        for repository, digest in images(java=True).items():
            assert command.config_digest(repository, "presto-1") == digest

    def test_several_artifacts(self, command: Command, github: GitHubServer) -> None:
        names = expected(block(TAG, java=True))
        github.runs[0].artifacts = [
            Stored(n, f"one-{name}", zipped({f"{name}-{TAG}.tar": saved.until_24(image(name, TAG))}))
            for n, name in enumerate(names)
        ]
        assert {r["outcome"] for r in command("daemon", "--once")["results"]} == {"moved"}

    def test_one_image_that_fails_stops_no_other(self, command: Command, github: GitHubServer) -> None:
        bad = image("presto-coordinator", TAG)
        files = {f"presto-coordinator-{TAG}.tar.gz": gzip.compress(saved.since_25(bad))[:-20]}
        files |= {
            f"{n}-{TAG}.tar.gz": gzip.compress(saved.since_25(image(n, TAG)))
            for n in expected(block(TAG, java=True))[1:]
        }
        github.runs[0].artifacts = [Stored(5, "images", zipped(files))]
        results = command("daemon", "--once", code=1)["results"]
        assert sorted(r["outcome"] for r in results) == ["failed", "moved", "moved"]
        assert command.config_digest(COORDINATOR, "presto-1") is None


def test_a_run_that_says_nothing_is_told(command: Command, github: GitHubServer) -> None:
    github.runs.append(build(2, "presto-2-linux-amd64"))
    github.runs[1].logs = {"0_build.txt": log({"Other": "key"})}
    found = command("xref", code=1)
    assert [each["code"] for each in found["flawed"]] == ["METADATA_INVALID"]


def test_nobody_is_pushed_without_being_asked(command: Command) -> None:
    command("download", TAG)
    command("prepare", TAG)
    command("push", TAG, given="n\n", code=2)
    assert command.config_digest(COORDINATOR, "presto-1") is None
