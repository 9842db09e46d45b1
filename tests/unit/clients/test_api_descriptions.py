"""Clients and stand-ins against the OpenAPI descriptions of GitHub and GitLab."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from syncline.clients.github.auth import AppTokens
from syncline.clients.github.client import GitHub
from syncline.clients.gitlab.client import GitLab, GitLabTag
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from tests.rig.server import json_reply
from tests.standins import github, gitlab
from tests.standins.github import AppKey, GitHubServer
from tests.standins.gitlab import GitLabServer
from tests.standins.openapi.description import Description

REPOSITORY = "team/builds"
RUNS = f"/repos/{REPOSITORY}/actions/workflows/build.yml/runs"
RUN = f"/repos/{REPOSITORY}/actions/runs/7"
ZIP = f"/repos/{REPOSITORY}/actions/artifacts/1/zip"
TAGS = "/api/v4/projects/group%2Fproject/registry/repositories/3/tags"
LEAST = github.DESCRIPTION.minimal("workflow-run")


class TestRequiredFieldsOnly:
    @pytest.fixture
    def server(self) -> Iterator[GitHubServer]:
        with GitHubServer(REPOSITORY) as server:
            yield server

    def client(self, server: GitHubServer) -> GitHub:
        return GitHub(Endpoint.parse(server.url), lambda: None, Http())

    def test_a_run_is_read(self, server: GitHubServer) -> None:
        server.before = lambda _method, _target: json_reply(LEAST)
        run = self.client(server).run(REPOSITORY, 7)
        assert (run.attempt, run.branch, run.conclusion, run.started) == (1, "", "", run.created)

    def test_artifacts_are_read(self, server: GitHubServer) -> None:
        value = {"total_count": 1, "artifacts": [{**github.DESCRIPTION.minimal("artifact"), "name": "image"}]}
        server.before = lambda _method, _target: json_reply(value)
        (artifact,) = self.client(server).artifacts(REPOSITORY, 7)
        assert (artifact.digest, artifact.created) == (None, "")

    def test_a_token_is_read(self, server: GitHubServer) -> None:
        value = {**github.DESCRIPTION.minimal("installation-token"), "expires_at": "2026-01-01T00:00:00Z"}
        server.before = lambda _method, _target: json_reply(value, 201)
        app = AppKey.make()
        tokens = AppTokens(Endpoint.parse(server.url), Http(), app.id, lambda: app.pem, lambda: app.pem, REPOSITORY, 42)
        assert tokens.token() == value["token"]

    def test_a_tag_is_read_by_its_name(self) -> None:
        """The description of GitLab requires no field. Every field of a tag may be missing except its name."""
        with GitLabServer(dict) as server:
            client = GitLab(Endpoint.parse(server.url), "group/project", lambda: None, Http())
            server.before = lambda _method, _target: json_reply({})
            assert client.tag(3, "v1") == GitLabTag(None, None, None)
            server.before = lambda _method, _target: json_reply([{}])
            with pytest.raises(SynclineError) as error:
                list(client.tags(3))
            assert error.value.code.name == "ENTRY_INVALID"


@pytest.mark.parametrize(
    ("description", "method", "target", "body", "words"),
    [
        (github.DESCRIPTION, "GET", f"{RUNS}?status=success&per_page=100&created=%3E%3D2026-01-01", b"", ""),
        (github.DESCRIPTION, "GET", f"{RUNS}?since=yesterday", b"", "no parameter 'since'"),
        (github.DESCRIPTION, "GET", f"{RUNS}?status=good", b"", "'good' is not one of"),
        (github.DESCRIPTION, "GET", f"{RUNS}?per_page=all", b"", "'all' is not of type 'integer'"),
        (github.DESCRIPTION, "DELETE", RUN, b"", "no such operation"),
        (github.DESCRIPTION, "GET", f"{RUN}/artefacts", b"", "no such operation"),
        (github.DESCRIPTION, "GET", RUN, b"{}", "takes no body"),
        (
            github.DESCRIPTION,
            "POST",
            "/app/installations/4/access_tokens",
            b'{"repositories": 1}',
            "not of type 'array'",
        ),
        (gitlab.DESCRIPTION, "GET", f"{TAGS}?per_page=100&page=2", b"", ""),
        (gitlab.DESCRIPTION, "GET", f"{TAGS}?size=100", b"", "no parameter 'size'"),
        (gitlab.DESCRIPTION, "GET", f"{TAGS.replace('/3/', '/three/')}", b"", "'three' is not of type 'integer'"),
    ],
)
def test_requests_are_checked_against_the_description(
    description: Description, method: str, target: str, body: bytes, words: str
) -> None:
    violations = list(description.request_violations(method, target, body))
    assert (len(violations) == 1 and words in violations[0]) if words else not violations, violations


@pytest.mark.parametrize(
    ("target", "status", "headers", "value", "words"),
    [
        (RUN, 200, {}, LEAST, ""),
        (RUN, 200, {}, {**LEAST, "id": "7"}, "'7' is not of type 'integer'"),
        (RUN, 200, {}, {**LEAST, "created_at": "yesterday"}, "is not a 'date-time'"),
        (RUN, 200, {}, {**LEAST, "made_up": 1}, "'made_up' was unexpected"),
        (RUN, 200, {}, {key: LEAST[key] for key in LEAST if key != "event"}, "'event' is a required property"),
        (RUN, 204, {}, {}, "no such answer"),
        (RUN, 404, {}, {"message": "Not Found"}, ""),
        (RUN, 404, {}, {"message": ["Not Found"]}, "is not of type 'string'"),
        (ZIP, 302, {"Location": "https://there"}, None, ""),
        (ZIP, 302, {}, None, "the header Location is missing"),
        (ZIP, 302, {"Location": "https://there"}, {}, "it has no body"),
        (TAGS, 200, {}, [{"name": "v1", "digest": "sha256:0"}], "'digest' was unexpected"),
    ],
)
def test_responses_are_checked_against_the_description(
    target: str, status: int, headers: Mapping[str, str], value: Any, words: str
) -> None:
    description = gitlab.DESCRIPTION if target == TAGS else github.DESCRIPTION
    body = b"" if value is None else json.dumps(value).encode()
    violations = list(description.response_violations("GET", target, status, headers, body))
    assert (len(violations) == 1 and words in violations[0]) if words else not violations, violations


def test_an_undescribed_request_fails_its_test() -> None:
    def send_request() -> None:
        with GitHubServer(REPOSITORY) as server:
            server.before = lambda _method, _target: json_reply({})
            urllib.request.urlopen(f"{server.url}{RUNS}?since=yesterday").close()

    with pytest.raises(AssertionError, match="no parameter 'since'"):
        send_request()
