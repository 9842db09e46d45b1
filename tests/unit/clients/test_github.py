"""The client of the GitHub API, with its stand-in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from syncline.clients.github.auth import AppTokens, app_jwt
from syncline.clients.github.client import GitHub, WorkflowRun
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.listings import refuse
from syncline.errors import SynclineError
from tests.rig.server import Reply, json_reply
from tests.standins.github import TOKEN, AppKey, GitHubServer, Run, Stored
from tests.standins.made_up import Naps

REPOSITORY = "team/builds"
CONTENT = bytes(range(256)) * 20_000


@pytest.fixture(scope="module")
def app() -> AppKey:
    return AppKey.make()


@pytest.fixture
def server(app: AppKey) -> Iterator[GitHubServer]:
    with GitHubServer(REPOSITORY, app=app) as server:
        yield server


def client(server: GitHubServer, token: str | None = TOKEN, naps: Naps | None = None) -> GitHub:
    http = Http((naps or Naps()).policy(attempts=2))
    return GitHub(Endpoint.parse(server.url), lambda: token, http)


def app_tokens(
    endpoint: Endpoint, http: Http, app: AppKey, installation: int | None = 42, clock: Callable[[], float] = time.time
) -> AppTokens:
    key = lambda: app.pem  # noqa: E731 - used twice
    return AppTokens(endpoint, http, app.id, key, key, REPOSITORY, installation, clock=clock)


def runs(github: GitHub, workflow: str = "build.yml", **filters: str | None) -> list[WorkflowRun]:
    return list(github.runs(REPOSITORY, workflow, refuse, **filters))


def code_of(error: pytest.ExceptionInfo[SynclineError]) -> str:
    return error.value.code.name


class TestListings:
    def test_270_runs_are_listed_in_three_requests_the_newest_first(self, server: GitHubServer) -> None:
        server.runs = [Run(number, {}, created=1.7e9 + number) for number in range(1, 271)]
        found = runs(client(server))
        assert [run.id for run in found] == list(range(270, 0, -1))
        assert len(server.requests) == 3

    def test_a_new_run_between_two_pages_hides_and_repeats_none(self, server: GitHubServer) -> None:
        server.runs = [Run(number, {}, created=1.7e9 + number) for number in range(1, 251)]
        listing = client(server).runs(REPOSITORY, "build.yml")
        first = next(listing).id
        server.runs.append(Run(999, {}, created=1.8e9))
        assert [first, *(run.id for run in listing)] == list(range(250, 0, -1))

    def test_filters_are_applied_by_the_server(self, server: GitHubServer) -> None:
        server.runs = [
            Run(1, {}),
            Run(2, {}, conclusion="failure"),
            Run(3, {}, branch="other"),
            Run(4, {}, event="push"),
            Run(5, {}, created=1.6e9),
            Run(6, {}, status="in_progress", conclusion=None),
        ]
        wanted = {
            "status": "success",
            "branch": "main",
            "event": "workflow_dispatch",
            "created": ">=2023-01-01T00:00:00+00:00",
        }
        assert [run.id for run in runs(client(server), **wanted)] == [1]

    def test_a_workflow_is_found_by_its_path(self, server: GitHubServer) -> None:
        server.runs = [Run(1, {})]
        assert [run.path for run in runs(client(server), ".github/workflows/build.yml")] == [
            ".github/workflows/build.yml"
        ]

    def test_an_unknown_workflow_is_not_found(self, server: GitHubServer) -> None:
        with pytest.raises(SynclineError) as error:
            runs(client(server), "other.yml")
        assert code_of(error) == "NOT_FOUND"

    def test_artifacts_of_all_pages_are_listed(self, server: GitHubServer) -> None:
        kept = [Stored(number, f"images-{number}", b"zip", expired=number % 2 == 0) for number in range(130)]
        server.runs = [Run(1, {}, kept)]
        found = client(server).artifacts(REPOSITORY, 1)
        assert [(each.id, each.expired) for each in found] == [(each.id, each.expired) for each in kept]

    @pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"workflow_runs": {}}'])
    def test_invalid_responses_are_refused(self, server: GitHubServer, answer: bytes) -> None:
        server.before = lambda _method, _target: Reply(200, answer)
        with pytest.raises(SynclineError) as error:
            runs(client(server))
        assert code_of(error) == "BAD_ANSWER"

    def test_a_repeated_page_is_an_incomplete_listing(self, server: GitHubServer) -> None:
        url = f"{server.url}/repos/{REPOSITORY}/actions/workflows/build.yml/runs?per_page=100"
        answer = json_reply({"workflow_runs": []}, Link=f'<{url}>; rel="next"')
        server.before = lambda _method, _target: answer
        with pytest.raises(SynclineError) as error:
            runs(client(server))
        assert code_of(error) == "LISTING_INCOMPLETE"


class TestDownloads:
    @pytest.fixture(autouse=True)
    def artifact(self, server: GitHubServer) -> Stored:
        artifact = Stored(7, "images", CONTENT)
        server.runs = [Run(1, {"1_build.txt": "a line"}, [artifact])]
        return artifact

    def read(self, github: GitHub, start: int = 0, end: int = len(CONTENT)) -> bytes:
        content = github.content(REPOSITORY, github.artifacts(REPOSITORY, 1)[0])
        assert content.size == len(CONTENT)
        with content.open(start, end) as chunks:
            return b"".join(chunks)

    @pytest.mark.parametrize(("start", "end"), [(0, len(CONTENT)), (5, 6), (1_000_000, len(CONTENT)), (9, 9)])
    def test_a_range_is_downloaded(self, server: GitHubServer, start: int, end: int) -> None:
        assert self.read(client(server), start, end) == CONTENT[start:end]

    def test_a_range_is_cut_from_a_complete_download(self, server: GitHubServer) -> None:
        server.does_ranges = False
        assert self.read(client(server), 1_000_000, 1_000_010) == CONTENT[1_000_000:1_000_010]

    def test_a_broken_download_is_resumed(self, server: GitHubServer) -> None:
        server.cut = [1, 1_000_000, 2_500_000]
        assert self.read(client(server)) == CONTENT
        starts = [start for _, start, _ in server.ranges]
        assert starts == sorted(starts)
        assert len(starts) == 4

    def test_a_download_without_progress_is_unreachable(self, server: GitHubServer) -> None:
        server.cut = [1] + [0] * 20
        with pytest.raises(SynclineError) as error:
            self.read(client(server))
        assert code_of(error) == "UNREACHABLE"

    def test_an_expired_download_url_is_renewed(self, server: GitHubServer) -> None:
        naps = Naps()
        github = client(server, naps=naps)
        content = github.content(REPOSITORY, github.artifacts(REPOSITORY, 1)[0])
        for at in range(4):
            with content.open(at, at + 2) as chunks:
                assert b"".join(chunks) == CONTENT[at : at + 2]
            server.skew += 61
            naps.now += 61
        targets = [target for _, target in server.requests if target.endswith("/zip")]
        assert len(targets) == 4

    def test_a_download_url_that_the_store_refuses_is_renewed(self, server: GitHubServer) -> None:
        """Clocks differ, so a URL may expire earlier than expected."""
        github = client(server)
        content = github.content(REPOSITORY, github.artifacts(REPOSITORY, 1)[0])
        assert content.size == len(CONTENT)
        server.skew += 61
        with content.open(0, 10) as chunks:
            assert b"".join(chunks) == CONTENT[:10]

    def test_a_new_download_url_that_the_store_refuses_is_renewed(self, server: GitHubServer) -> None:
        server.rejects = 1
        assert self.read(client(server)) == CONTENT

    def test_a_download_url_that_expires_during_a_transfer_is_renewed(self, server: GitHubServer) -> None:
        github = client(server)
        content = github.content(REPOSITORY, github.artifacts(REPOSITORY, 1)[0])
        assert content.size == len(CONTENT)
        server.cut = [2_000_000]
        with content.open(0, len(CONTENT)) as chunks:
            first = next(chunks)
            server.skew += 61
            server.rejects = 1
            assert first + b"".join(chunks) == CONTENT

    def test_a_store_that_refuses_every_url_is_a_server_error(self, server: GitHubServer) -> None:
        server.rejects = 100
        with pytest.raises(SynclineError, match=r"rejects each download URL for artifact images") as error:
            self.read(client(server))
        assert code_of(error) == "SERVER_ERROR"
        assert server.rejects == 97

    def test_the_store_gets_no_authorization(self, server: GitHubServer) -> None:
        assert self.read(client(server), 0, 1) == CONTENT[:1]  # the store refuses authorization

    def test_an_expired_artifact_has_a_code(self, server: GitHubServer, artifact: Stored) -> None:
        artifact.expired = True
        with pytest.raises(SynclineError, match="images") as error:
            self.read(client(server))
        assert code_of(error) == "ARTIFACT_EXPIRED"

    def test_an_artifact_that_expires_during_a_download_has_a_code(
        self, server: GitHubServer, artifact: Stored
    ) -> None:
        naps = Naps()
        github = client(server, naps=naps)
        content = github.content(REPOSITORY, github.artifacts(REPOSITORY, 1)[0])
        assert content.size
        artifact.expired = True
        naps.now += 61
        with pytest.raises(SynclineError) as error, content.open(0, 5) as chunks:
            list(chunks)
        assert code_of(error) == "ARTIFACT_EXPIRED"

    def test_a_changed_size_is_a_bad_response(self, server: GitHubServer, artifact: Stored) -> None:
        github = client(server)
        content = github.content(REPOSITORY, github.artifacts(REPOSITORY, 1)[0])
        assert content.size
        artifact.content = CONTENT + b"more"
        with pytest.raises(SynclineError) as error, content.open(0, 5) as chunks:
            list(chunks)
        assert code_of(error) == "BAD_ANSWER"

    def test_logs_are_downloaded(self, server: GitHubServer) -> None:
        github = client(server)
        logs = github.logs(REPOSITORY, github.run(REPOSITORY, 1))
        with logs.open(0, 2) as chunks:
            assert b"".join(chunks) == b"PK"

    @pytest.mark.parametrize("status", [404, 410])
    def test_expired_logs_have_a_code(self, server: GitHubServer, status: int) -> None:
        github = client(server)
        logs = github.logs(REPOSITORY, github.run(REPOSITORY, 1))
        server.runs[0].logs_gone = True
        if status != 404:
            server.before = lambda _method, _target: json_reply({"message": "Server Error"}, status)
        with pytest.raises(SynclineError, match="logs of run 1") as error:
            assert logs.size
        assert code_of(error) == "ARTIFACT_EXPIRED"

    def test_errors_contain_no_signature_of_a_url(self, server: GitHubServer) -> None:
        github = client(server)
        content = github.content(REPOSITORY, github.artifacts(REPOSITORY, 1)[0])
        with pytest.raises(SynclineError) as error, content.open(len(CONTENT) + 5, len(CONTENT) + 9) as chunks:
            list(chunks)
        assert "416" in error.value.what
        assert "sig=…" in error.value.what


class TestRateLimits:
    def test_a_secondary_limit_has_its_time(self, server: GitHubServer) -> None:
        server.before = lambda _m, _t: json_reply({"message": "secondary rate limit"}, 403, Retry_After="77")
        with pytest.raises(SynclineError) as error:
            runs(client(server))
        assert (code_of(error), error.value.retry_after) == ("THROTTLED", 77)

    @pytest.mark.parametrize("status", [403, 429])
    def test_a_primary_limit_lasts_until_its_reset(self, server: GitHubServer, status: int) -> None:
        reset = str(int(time.time()) + 600)
        answer = json_reply({"message": "limit"}, status, X_RateLimit_Remaining="0", X_RateLimit_Reset=reset)
        server.before = lambda _m, _t: answer
        with pytest.raises(SynclineError) as error:
            runs(client(server))
        assert code_of(error) == "LIMIT_REACHED"
        assert error.value.retry_after == pytest.approx(600, abs=5)

    def test_a_403_without_a_limit_is_forbidden(self, server: GitHubServer) -> None:
        server.before = lambda _m, _t: json_reply({"message": "no"}, 403, X_RateLimit_Remaining="4000")
        with pytest.raises(SynclineError) as error:
            runs(client(server))
        assert code_of(error) == "FORBIDDEN"


class TestAuthentication:
    def test_a_wrong_token_is_unauthorized(self, server: GitHubServer) -> None:
        with pytest.raises(SynclineError) as error:
            runs(client(server, "very-wrong-token"))
        assert code_of(error) == "UNAUTHORIZED"
        assert "very-wrong" not in str(error.value)

    def test_a_renewed_token_is_used(self, server: GitHubServer) -> None:
        server.runs = [Run(1, {})]
        github = GitHub(Endpoint.parse(server.url), lambda: "old", Http(), renewed=lambda: TOKEN)
        assert len(runs(github)) == 1

    @pytest.mark.parametrize("installation", [None, 42])
    def test_an_app_gets_one_token(self, server: GitHubServer, app: AppKey, installation: int | None) -> None:
        server.runs = [Run(1, {})]
        endpoint, http = Endpoint.parse(server.url), Http()
        tokens = app_tokens(endpoint, http, app, installation)
        github = GitHub(endpoint, tokens.token, http, renewed=tokens.renewed)
        assert len(runs(github)) == len(runs(github)) == 1
        targets = [target for method, target in server.requests if method == "POST"]
        assert targets == ["/app/installations/42/access_tokens"]

    def test_the_token_of_an_app_is_renewed_before_its_end_and_when_refused(
        self, server: GitHubServer, app: AppKey
    ) -> None:
        server.runs = [Run(1, {})]
        naps = Naps(now=time.time())
        endpoint, http = Endpoint.parse(server.url), Http()
        tokens = app_tokens(endpoint, http, app, clock=naps.clock)
        github = GitHub(endpoint, tokens.token, http, renewed=tokens.renewed)
        runs(github)
        naps.now += 3500
        server.skew += 3500
        runs(github)
        server.tokens.clear()
        runs(github)
        assert len([1 for method, _ in server.requests if method == "POST"]) == 3

    def test_the_key_of_another_app_is_unauthorized(self, server: GitHubServer) -> None:
        other = AppKey.make()
        tokens = app_tokens(Endpoint.parse(server.url), Http(), other)
        with pytest.raises(SynclineError) as error:
            tokens.token()
        assert code_of(error) == "UNAUTHORIZED"

    @pytest.mark.parametrize("key", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
    def test_an_invalid_key_is_reported(self, key: str) -> None:
        with pytest.raises(SynclineError) as error:
            app_jwt("1", key, 0)
        assert code_of(error) == "SECRET_MISSING"


def test_the_api_of_an_enterprise_server_is_below_a_path() -> None:
    with GitHubServer(REPOSITORY, prefix="/api/v3") as server:
        server.runs = [Run(1, {}, [Stored(number, f"images-{number}", CONTENT) for number in range(101)])]
        github = GitHub(Endpoint.parse(server.url), lambda: TOKEN, Http(), "/api/v3")
        artifacts = github.artifacts(REPOSITORY, 1)
        assert len(artifacts) == 101
        with github.content(REPOSITORY, artifacts[100]).open(0, 5) as chunks:
            assert b"".join(chunks) == CONTENT[:5]
