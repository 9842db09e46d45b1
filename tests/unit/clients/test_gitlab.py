"""The client of the registry API of GitLab, with its stand-in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncline.clients.gitlab.client import GitLab, GitLabRepository, GitLabTag, TokenKind
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.errors import SynclineError
from tests.rig.server import Reply, json_reply
from tests.standins.gitlab import JOB_TOKEN, PROJECT_ID, TOKEN, GitLabServer

PROJECT = "group/project"
DIGEST = "sha256:" + "ab" * 32
TAGS: dict[str, dict[str, str]] = {}


@pytest.fixture
def server() -> Iterator[GitLabServer]:
    TAGS.clear()
    with GitLabServer(lambda: TAGS, PROJECT) as server:
        yield server


def client(server: GitLabServer, token: str | None = TOKEN, project: str = PROJECT) -> GitLab:
    kind: TokenKind = "job" if token == JOB_TOKEN else "personal"
    return GitLab(Endpoint.parse(server.url), project, lambda: token, Http(RetryPolicy(attempts=1)), kind)


def test_270_repositories_are_listed_in_three_requests(server: GitLabServer) -> None:
    TAGS.update({f"{PROJECT}/x86/app-{number:03}": {} for number in range(270)})
    found = list(client(server).repositories())
    assert [r.path for r in found] == sorted(TAGS)
    assert found[0] == GitLabRepository(found[0].id, "x86/app-000", f"{PROJECT}/x86/app-000")
    assert len(server.requests) == 3


@pytest.mark.parametrize("count", [0, 1, 100, 101, 350])
def test_tags_of_all_pages_are_listed(server: GitLabServer, count: int) -> None:
    TAGS[f"{PROJECT}/app"] = {f"v{number:03}": DIGEST for number in range(count)}
    gitlab = client(server)
    (repository,) = gitlab.repositories()
    assert list(gitlab.tags(repository.id)) == sorted(TAGS[f"{PROJECT}/app"])


def test_one_tag_is_read(server: GitLabServer) -> None:
    TAGS[f"{PROJECT}/app"] = {"v1": DIGEST}
    gitlab = client(server)
    (repository,) = gitlab.repositories()
    details = gitlab.tag(repository.id, "v1")
    assert details == GitLabTag(DIGEST, 350224384, "2026-01-06T16:49:51.272+00:00")


def test_a_project_is_found_by_its_number_with_a_job_token(server: GitLabServer) -> None:
    TAGS[PROJECT] = {}
    assert [r.path for r in client(server, JOB_TOKEN, str(PROJECT_ID)).repositories()] == [PROJECT]


@pytest.mark.parametrize(("token", "kind"), [(TOKEN, "personal"), (TOKEN, "oauth"), (JOB_TOKEN, "job")])
def test_each_kind_of_token_has_its_own_header(server: GitLabServer, token: str, kind: TokenKind) -> None:
    TAGS[PROJECT] = {}
    gitlab = GitLab(Endpoint.parse(server.url), PROJECT, lambda: token, Http(RetryPolicy(attempts=1)), kind)
    assert [r.path for r in gitlab.repositories()] == [PROJECT]


@pytest.mark.parametrize(("token", "code"), [("wrong-token", "UNAUTHORIZED"), (None, "NOT_FOUND")])
def test_a_request_without_access_has_a_code(server: GitLabServer, token: str | None, code: str) -> None:
    with pytest.raises(SynclineError) as error:
        list(client(server, token).repositories())
    assert error.value.code.name == code
    assert "wrong-token" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Reply(200, b"<html>"), "BAD_ANSWER"),
        (json_reply({}), "BAD_ANSWER"),
        (json_reply([{"id": 1}]), "ENTRY_INVALID"),
        (json_reply([1]), "ENTRY_INVALID"),
        (json_reply({}, 429, Retry_After="30"), "THROTTLED"),
        (Reply(502, b"<html>bad gateway</html>"), "SERVER_ERROR"),
    ],
)
def test_invalid_responses_have_a_code(server: GitLabServer, answer: Reply, code: str) -> None:
    server.before = lambda _method, _target: answer
    with pytest.raises(SynclineError) as error:
        list(client(server).repositories())
    assert error.value.code.name == code


def test_a_repeated_page_is_an_incomplete_listing(server: GitLabServer) -> None:
    target = "/api/v4/projects/group%2Fproject/registry/repositories?per_page=100"
    server.before = lambda _method, _target: json_reply([], Link=f'<{server.url}{target}>; rel="next"')
    with pytest.raises(SynclineError) as error:
        list(client(server).repositories())
    assert error.value.code.name == "LISTING_INCOMPLETE"
