"""The GitLab model against the real client with the stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from syncline.clients.gitlab.client import GitLab, GitLabRepository
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.listings import ListingLimits
from syncline.clients.http.retry import RetryPolicy
from syncline.errors import SynclineError
from tests.simulation.machine import Machine, Process
from tests.simulation.models import gitlab as model
from tests.simulation.network import Calls, Faults, Network
from tests.standins.gitlab import TOKEN, GitLabServer

PROJECT = "group/project"
DIGEST = "sha256:" + "ab" * 32


class FakeRegistry:
    """The tags of a registry."""

    def __init__(self) -> None:
        self.content: dict[tuple[str, str], str] = {}

    def tags(self) -> dict[tuple[str, str], str]:
        return dict(self.content)


class System:
    """A registry with a GitLab in front of it. ``client`` returns a client for a project."""

    def __init__(self, registry: FakeRegistry, client: Callable[[str, Http], GitLab]) -> None:
        self.registry = registry
        self.http = Http(RetryPolicy(attempts=1))
        self._client = client

    def put(self, *names: str, repository: str = f"{PROJECT}/app") -> None:
        self.registry.content.update(dict.fromkeys(((repository, name) for name in names), DIGEST))

    def gitlab(self, project: str = PROJECT) -> GitLab:
        return self._client(project, self.http)


def sim(server: model.GitLabServer, http: Http, project: str = PROJECT) -> GitLab:
    machine = Machine(1)
    calls = Calls(machine, Process(machine, "test"), Faults(off=True))
    return model.SimGitLab(server, Network(calls, http), project)


@pytest.fixture(params=["model", "standin"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    registry = FakeRegistry()
    if request.param == "model":
        server = model.GitLabServer(registry, PROJECT)
        yield System(registry, lambda project, http: sim(server, http, project))
        return

    def content() -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for (path, tag), digest in registry.content.items():
            if path.startswith(PROJECT):
                found.setdefault(path, {})[tag] = digest
        return found

    with GitLabServer(content, PROJECT) as standin:
        yield System(registry, lambda project, http: GitLab(Endpoint.parse(standin.url), project, lambda: TOKEN, http))


def code_of(function: Callable[[], object]) -> str:
    """Return the code of the error that a call raises."""
    with pytest.raises(SynclineError) as error:
        function()
    return error.value.code.name


@pytest.mark.parametrize(("count", "requests"), [(0, 1), (1, 1), (100, 1), (101, 2), (270, 3)])
def test_repositories_are_listed_in_pages(system: System, count: int, requests: int) -> None:
    paths = [f"{PROJECT}/x86/app-{number:03}" for number in range(count)]
    for path in reversed(paths):
        system.put("v1", repository=path)
    found = list(system.gitlab().repositories())
    expected = [
        GitLabRepository(number, path.removeprefix(f"{PROJECT}/"), path) for number, path in enumerate(paths, 1)
    ]
    assert found == expected
    assert system.http.requests_made == requests


@pytest.mark.parametrize("count", [1, 100, 101, 350])
def test_tags_are_listed_in_pages_by_name(system: System, count: int) -> None:
    names = [f"v{number:03}" for number in range(count)]
    system.put(*reversed(names))
    gitlab = system.gitlab()
    (repository,) = gitlab.repositories()
    assert list(gitlab.tags(repository.id)) == names
    assert system.http.requests_made == 1 + -(-count // 100)


def test_a_repository_named_like_the_project_has_no_name(system: System) -> None:
    system.put("v1", repository=PROJECT)
    assert list(system.gitlab().repositories()) == [GitLabRepository(1, "", PROJECT)]


def test_other_projects_are_not_listed(system: System) -> None:
    system.put("v1")
    system.put("v1", repository="other/project/app")
    assert [each.path for each in system.gitlab().repositories()] == [f"{PROJECT}/app"]


def test_the_details_of_a_tag_are_read(system: System) -> None:
    system.put("v1")
    gitlab = system.gitlab()
    (repository,) = gitlab.repositories()
    details = gitlab.tag(repository.id, "v1")
    assert (details.digest, details.size, details.created) == (DIGEST, model.SIZE, model.CREATED)
    assert system.http.requests_made == 2


def test_a_repository_keeps_its_id(system: System) -> None:
    system.put("v1", repository=f"{PROJECT}/b")
    gitlab = system.gitlab()
    before = list(gitlab.repositories())
    system.put("v1", repository=f"{PROJECT}/a")
    assert [(each.id, each.name) for each in gitlab.repositories()] == [(2, "a"), (before[0].id, "b")]


def test_absent_tags_repositories_and_projects_are_not_found(system: System) -> None:
    system.put("v1")
    gitlab = system.gitlab()
    (repository,) = gitlab.repositories()
    assert code_of(lambda: gitlab.tag(repository.id, "v2")) == "NOT_FOUND"
    assert code_of(lambda: list(gitlab.tags(99))) == "NOT_FOUND"
    assert code_of(lambda: gitlab.tag(99, "v1")) == "NOT_FOUND"
    other = system.gitlab("group/other")
    assert code_of(lambda: list(other.repositories())) == "NOT_FOUND"


def test_a_repository_without_tags_is_not_found(system: System) -> None:
    system.put("v1")
    gitlab = system.gitlab()
    (repository,) = gitlab.repositories()
    system.registry.content.clear()
    assert code_of(lambda: list(gitlab.tags(repository.id))) == "NOT_FOUND"


def test_a_listing_makes_no_request_before_it_is_read(system: System) -> None:
    listing = system.gitlab().repositories()
    assert system.http.requests_made == 0
    assert list(listing) == []


def test_a_tag_added_between_two_pages_neither_hides_nor_repeats_others(system: System) -> None:
    names = [f"v{number:03}" for number in range(150)]
    system.put(*names)
    gitlab = system.gitlab()
    (repository,) = gitlab.repositories()
    listing = gitlab.tags(repository.id)
    first = next(listing)
    system.put("a")
    assert [first, *listing] == names


class TestFaults:
    @pytest.fixture
    def registry(self) -> FakeRegistry:
        registry = FakeRegistry()
        registry.content.update({(f"{PROJECT}/app", f"v{number:03}"): DIGEST for number in range(150)})
        return registry

    @pytest.fixture
    def server(self, registry: FakeRegistry) -> model.GitLabServer:
        return model.GitLabServer(registry, PROJECT)

    @pytest.fixture
    def gitlab(self, server: model.GitLabServer) -> GitLab:
        gitlab = sim(server, Http())
        assert [each.id for each in gitlab.repositories()] == [1]
        return gitlab

    def test_a_listing_may_be_cut(self, server: model.GitLabServer, gitlab: GitLab) -> None:
        server.listing_cut = 120
        assert list(gitlab.tags(1)) == [f"v{number:03}" for number in range(120)]

    def test_listings_may_be_empty(self, server: model.GitLabServer, gitlab: GitLab) -> None:
        server.empty_listing = True
        assert not list(gitlab.repositories())
        assert not list(gitlab.tags(1))
        assert gitlab.tag(1, "v000").digest == DIGEST

    def test_a_list_of_tags_may_be_endless(
        self, server: model.GitLabServer, gitlab: GitLab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model, "TAG_LIMITS", ListingLimits(entries=10_000))
        server.endless = True
        assert code_of(lambda: sum(1 for _ in gitlab.tags(1))) == "LISTING_TOO_LONG"

    def test_a_tag_may_have_no_digest(self, server: model.GitLabServer, gitlab: GitLab) -> None:
        server.digest_null = True
        assert gitlab.tag(1, "v000").digest is None
