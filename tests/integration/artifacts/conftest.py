"""GitHub, GitLab, a registry that requires tokens, and the `syncline artifacts` command between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.artifacts.command import TAG, Command
from tests.rig.artifacts import EXAMPLE, build
from tests.standins.github import TOKEN, GitHubServer
from tests.standins.gitlab import TOKEN as GITLAB_TOKEN
from tests.standins.gitlab import GitLabServer, behind
from tests.standins.pairs import TOKEN_USERS, TokenRegistryPair


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
    # Through JSON, because SAM makes YAML return ordered mappings for the rest of the process.
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
