"""Options and variables of `syncline artifacts`. Integration tests run the commands with servers."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import yaml
from typer.testing import CliRunner

from syncline.cli.context import CommandResult
from syncline.cli.main import app
from syncline.cli.output import Output
from syncline.config.registry import BasicAuth
from syncline.errors import CodeName, SynclineError
from syncline.kinds.artifacts.cli import daemon, listing
from syncline.kinds.artifacts.cli.downloads import DownloadFolder
from syncline.kinds.artifacts.cli.main import Options
from syncline.kinds.artifacts.cli.setup import Setup
from syncline.kinds.artifacts.config import GitHubToken
from syncline.kinds.artifacts.kind import Artifacts
from syncline.model import Outcome, Result
from tests.rig.server import ScriptedServer, json_reply
from tests.standins.made_up import Naps

EXAMPLE = Path(__file__).parents[3] / "examples/artifacts-presto.yaml"
VARIABLES = (
    *("GH_TOKEN", "GITHUB_TOKEN", "GITLAB_TOKEN"),
    *("GITLAB_REGISTRY_USERNAME", "GITLAB_REGISTRY_PASSWORD", "CI_REGISTRY_USER", "CI_REGISTRY_PASSWORD"),
)


def setup_of(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environ: str) -> Setup:
    """Return the setup of a command called with these arguments."""
    found: list[Setup] = []

    def gh_list(setup: Setup, _out: Output) -> CommandResult:
        found.append(setup)
        assert setup.sync
        return CommandResult()

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(listing, "gh_list", gh_list)
    done = CliRunner().invoke(app, ["artifacts", "gh-list", "--json", "--config", str(EXAMPLE), *arguments])
    assert done.exit_code == 0, done.output
    return found[0]


def secrets(setup: Setup) -> dict[str, str]:
    """Return the secrets from options and environment by their receiver."""
    found: dict[str, str] = {}
    source, target = setup.sync.source, setup.sync.target
    resolve = setup.secrets.resolve
    if isinstance(source.auth, GitHubToken) and str(source.auth.token).startswith("env:"):
        found["github"] = resolve(source.auth.token)
    if target.api is not None and str(target.api.token).startswith("env:"):
        found["gitlab"] = resolve(target.api.token)
    if isinstance(target.auth, BasicAuth) and str(target.auth.password).startswith("env:"):
        name = target.auth.username
        found["registry"] = f"{name if isinstance(name, str) else resolve(name)}:{resolve(target.auth.password)}"
    return found


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        ((), "source.repository", "rapidsai/velox-testing"),
        (("--repo", "other/builds"), "source.repository", "other/builds"),
        (("--workflow", ".github/workflows/nightly.yml"), "source.workflow", ".github/workflows/nightly.yml"),
        (("--workflow", "nightly.yml"), "source.workflow", "nightly.yml"),
        (("--branch", "feature/x"), "source.branch", "feature/x"),
        (("--limit", "7"), "source.limit", 7),
        (("--gitlab-host", "gitlab.other"), "target.api.url", "https://gitlab.other"),
        (("--gitlab-host", "http://127.0.0.1:8080"), "target.api.url", "http://127.0.0.1:8080"),
        (("--gitlab-project", "a/b"), "target.project", "a/b"),
        (("--registry-project", "a/b"), "target.project", "a/b"),
        (("--registry", "registry.other:5005"), "target.registry", "registry.other:5005"),
    ],
)
def test_an_option_overrides_the_file(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], path: str, value: object
) -> None:
    found: Any = setup_of(monkeypatch, *arguments).sync.model_dump(mode="json")
    for key in path.split("."):
        found = found[key]
    assert found == value


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ((), {}, {}),
        (("--gh-token", "one"), {"GH_TOKEN": "two"}, {"github": "one"}),
        ((), {"GH_TOKEN": "two", "GITHUB_TOKEN": "three"}, {"github": "two"}),
        ((), {"GITHUB_TOKEN": "three"}, {"github": "three"}),
        (("--gitlab-token", "one"), {"GITLAB_TOKEN": "two"}, {"gitlab": "one", "registry": "gitlab-ci-token:one"}),
        ((), {"GITLAB_TOKEN": "two"}, {"gitlab": "two", "registry": "gitlab-ci-token:two"}),
        (
            ("--registry-username", "ann", "--registry-password", "one"),
            {"GITLAB_REGISTRY_USERNAME": "bob", "GITLAB_REGISTRY_PASSWORD": "two"},
            {"registry": "ann:one"},
        ),
        (
            (),
            {
                "GITLAB_REGISTRY_USERNAME": "bob",
                "CI_REGISTRY_USER": "job",
                "GITLAB_REGISTRY_PASSWORD": "two",
                "CI_REGISTRY_PASSWORD": "three",
            },
            {"registry": "bob:two"},
        ),
        ((), {"CI_REGISTRY_USER": "job", "CI_REGISTRY_PASSWORD": "three"}, {"registry": "job:three"}),
        (
            (),
            {"GITLAB_TOKEN": "two", "CI_REGISTRY_USER": "job", "CI_REGISTRY_PASSWORD": "three"},
            {"gitlab": "two", "registry": "job:three"},
        ),
        (("--registry-username", "ann"), {"GITLAB_TOKEN": "two"}, {"gitlab": "two", "registry": "ann:two"}),
    ],
)
def test_secrets_come_from_options_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], environ: dict[str, str], expected: dict[str, str]
) -> None:
    assert secrets(setup_of(monkeypatch, *arguments, **environ)) == expected


class TestConfigFile:
    @pytest.fixture
    def two_syncs(self, tmp_path: Path) -> Path:
        values = json.loads(json.dumps(yaml.safe_load(EXAMPLE.read_text())))
        other = json.loads(json.dumps(values["syncs"]["presto-images"]))
        other["target"]["project"] = "group/other"
        values["syncs"]["other-images"] = other
        file = tmp_path / "two.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    def test_sync_selects_one_of_several(self, monkeypatch: pytest.MonkeyPatch, two_syncs: Path) -> None:
        setup = setup_of(monkeypatch, "--config", str(two_syncs), "--sync", "other-images")
        assert setup.sync.target.project == "group/other"

    @pytest.mark.parametrize("name", [None, "third"])
    def test_sync_is_required_if_there_are_several(self, two_syncs: Path, name: str | None) -> None:
        with pytest.raises(SynclineError, match=r"presto-images, other-images|other-images, presto-images") as error:
            _ = Setup(Options(config=two_syncs, sync=name)).sync
        assert error.value.code.name == "USAGE"


@pytest.mark.parametrize(
    ("arguments", "path"),
    [(("--repo", "no slash"), "source.repository"), (("--gitlab-host", "ftp://host"), "target.api.url")],
)
def test_an_invalid_value_of_an_option_is_a_usage_error(arguments: tuple[str, ...], path: str) -> None:
    done = CliRunner().invoke(app, ["artifacts", "gh-list", "--json", "--config", str(EXAMPLE), *arguments])
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert (error["code"], path in error["what"], arguments[1] in error["what"]) == ("USAGE", True, True)


@pytest.mark.parametrize("arguments", [("--limit", "0"), ("--limit", "many"), ("--repo",), ("--quiet",)])
def test_unknown_and_malformed_options_are_usage_errors(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, ["artifacts", "gh-list", *arguments]).exit_code == 2


@pytest.mark.parametrize("command", [("clean",), ("push",)])
def test_a_command_without_an_image_tag_is_a_usage_error(command: tuple[str, ...]) -> None:
    assert CliRunner().invoke(app, ["artifacts", *command, "--yes"]).exit_code == 2


class _StopDaemonError(Exception):
    """Ends the endless loop of the daemon."""


def test_the_daemon_scans_every_interval_after_success_and_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes: Iterator[CodeName | Literal[""]] = iter(["UNREACHABLE", "", "THROTTLED"])
    naps: list[float] = []

    def scan(_kind: Artifacts) -> list[Any]:
        code = next(outcomes, None)
        if code is None:
            raise _StopDaemonError
        if code:
            raise SynclineError(code, "nobody is there")
        return []

    monkeypatch.setattr(daemon, "sync_once", scan)
    with pytest.raises(_StopDaemonError):
        daemon.daemon(Setup(Options(config=EXAMPLE)), Output(as_json=True), 900, once=False, sleep=naps.append)
    assert naps == [900, 900, 900]


def test_a_failed_scan_does_not_make_known_failures_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Result("group/app", "1", Outcome.FAILED, "run:1.1", code="IMAGE_ABSENT", reason="no such archive")
    outcomes = iter([[bad], None, [bad]])

    def scan(_kind: Artifacts) -> list[Result]:
        found = next(outcomes, [])
        if found is None:
            raise SynclineError("UNREACHABLE", "nobody is there")
        if not found:
            raise _StopDaemonError
        return found

    monkeypatch.setattr(daemon, "sync_once", scan)
    with pytest.raises(_StopDaemonError):
        daemon.daemon(Setup(Options(config=EXAMPLE)), Output(as_json=False), 900, once=False, sleep=lambda _: None)
    output = capsys.readouterr().out
    assert output.count("no such archive") == 1
    assert [line[10:] for line in output.splitlines() if " moved" in line] == [
        "0 moved, 1 failed, 0 known failures, 0 conflicts",
        "0 moved, 0 failed, 1 known failures, 0 conflicts",
    ]


def test_the_daemon_ends_on_a_permanent_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(_kind: Artifacts) -> list[Any]:
        raise SynclineError("UNAUTHORIZED", "the token is wrong")

    monkeypatch.setattr(daemon, "sync_once", scan)
    with pytest.raises(SynclineError, match="the token is wrong"):
        daemon.daemon(Setup(Options(config=EXAMPLE)), Output(as_json=True), 900, once=False, sleep=lambda _: None)


def test_an_invalid_entry_of_a_list_is_reported_and_the_rest_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repositories = "/api/v4/projects/group%2Fproject/registry/repositories"
    repository = {"id": 7, "path": "group/project/app", "name": "app"}
    with ScriptedServer() as gitlab:
        gitlab.on("GET", repositories, json_reply([None, repository]))
        gitlab.on("GET", f"{repositories}/7/tags", json_reply([{"name": "v1"}, {"name": "-"}]))
        gitlab.on("GET", f"{repositories}/7/tags/v1", json_reply({"digest": None}))
        values = json.loads(json.dumps(yaml.safe_load(EXAMPLE.read_text())))
        target = values["syncs"]["presto-images"]["target"]
        target["api"] = {"url": gitlab.url, "token": "env:GITLAB_TOKEN"}
        target["auth"] = "anonymous"
        (tmp_path / "syncs.yaml").write_text(yaml.safe_dump(values))
        monkeypatch.setenv("GITLAB_TOKEN", "a-token")
        config = str(tmp_path / "syncs.yaml")
        done = CliRunner().invoke(app, ["artifacts", "gitlab-list", "--json", "--config", config])
    assert done.exit_code == 1, done.output
    shown = json.loads(done.stdout)
    assert [(each["repository"], [tag["tag"] for tag in each["tags"]]) for each in shown["repositories"]] == [
        ("group/project/app", ["v1"])
    ]
    assert [reason.partition(" at ")[0] for reason in shown["invalid"]] == [
        "entry 1 of the repositories of group/project",
        "entry 2 of the tags of repository 7",
    ]


@pytest.mark.parametrize(("answer", "removed"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
@pytest.mark.parametrize("command", ["clean", "push"])
def test_clean_and_push_do_nothing_without_confirmation(
    command: str, answer: str, monkeypatch: pytest.MonkeyPatch, *, removed: bool
) -> None:
    folder = SimpleNamespace(read=lambda *_: {"images": []}, remove=lambda: True)
    monkeypatch.setattr(DownloadFolder, "of", lambda *_: folder)
    done = CliRunner().invoke(app, ["artifacts", command, "1.0", "--config", str(EXAMPLE)], input=answer)
    assert done.exit_code == (0 if removed else 2), done.output
    assert "[y/N]: " in done.stderr
    assert "INTERNAL" not in done.output
    assert (f"nothing was {'removed' if command == 'clean' else 'pushed'}" in done.stdout) is not removed


@pytest.fixture
def limited() -> Iterator[tuple[Setup, ScriptedServer, Naps]]:
    """Return a command that uses GitHub, the scripted GitHub server, and the pauses that the command makes."""
    naps = Naps()
    with ScriptedServer() as server:
        setup = Setup(Options(config=EXAMPLE, gh_url=server.url, gh_token="the token"))
        policy = setup.http.policy
        setup.http.policy = replace(policy, sleep=naps.sleep, clock=naps.clock)
        yield setup, server, naps


def test_the_command_waits_for_a_rate_limit_and_reports_it(
    limited: tuple[Setup, ScriptedServer, Naps], capsys: pytest.CaptureFixture[str]
) -> None:
    setup, server, naps = limited
    reset = int(time.time()) + 3000
    over = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)}
    runs = "/repos/rapidsai/velox-testing/actions/runs/1"
    server.on("GET", runs, json_reply({"message": "API rate limit exceeded"}, 403, **over), json_reply({}))
    with pytest.raises(SynclineError, match="BAD_ANSWER"):
        setup.github.run("rapidsai/velox-testing", 1)
    assert len(server.requests) == 2
    assert sum(naps.slept) == pytest.approx(3001, abs=5)
    printed = capsys.readouterr()
    assert printed.out == ""
    host = server.url.partition("://")[2]
    (line,) = printed.err.splitlines()
    assert re.fullmatch(rf"{re.escape(host)} asked to slow down; waiting until \d\d:\d\d:\d\d UTC", line)
    ends = {time.strftime("%H:%M:%S", time.gmtime(reset + after)) for after in range(-9, 10)}
    assert any(end in line for end in ends)


def test_an_interrupt_ends_the_waits_of_all_threads(limited: tuple[Setup, ScriptedServer, Naps]) -> None:
    setup, server, _ = limited
    server.on("GET", "/repos/a/b/actions/runs/1", json_reply({}, 429, **{"Retry-After": "3000"}))
    with pytest.raises(KeyboardInterrupt), setup.interruptible():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(SynclineError, match="RUN_CANCELLED"):
        setup.github.run("a/b", 1)


def test_the_error_for_a_missing_variable_mentions_neither_functions_nor_retry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["artifacts", "gh-list"])
    assert done.exit_code == 2
    assert "in the environment of this command" in done.stderr
    assert "by an option of the command" in done.stderr
    assert not re.search(r"functions|syncline retry", done.stderr)
