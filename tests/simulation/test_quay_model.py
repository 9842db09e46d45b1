"""The Quay model against the real client with the stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import get_args

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.listings import ListingPosition
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.quay import Quay, QuayRepository, QuayTag
from syncline.errors import SynclineError
from tests.simulation.machine import Machine, Process
from tests.simulation.models import quay as model
from tests.simulation.models.registry import RegistryServer, SimRegistry
from tests.simulation.network import Calls, Faults, Network
from tests.standins import quay as standin
from tests.standins.quay_store import Tag


class System:
    """A Quay with 100 entries a page. The stand-in, if it is one, shows the content of ``registry``."""

    def __init__(self, registry: RegistryServer, standin: standin.QuayServer | None) -> None:
        self.registry = registry
        self.standin = standin
        self.http = Http(RetryPolicy(attempts=1))
        self.model = model.QuayServer(registry)
        self.model.page_size = 100

    def quay(self, token: str | None = model.TOKEN) -> Quay:
        if self.standin is not None:
            return Quay(Endpoint.parse(self.standin.url), lambda: token, self.http)
        return model.SimQuay(self.model, network(self.registry.machine, self.http), lambda: token)

    def push(self, repository: str, tag: str, seed: int = 1) -> str:
        digest = self.registry.push_image(repository, tag, seed)
        self.show_tag(repository, tag)
        return digest

    def show_tag(self, repository: str, tag: str) -> None:
        """Make the stand-in show a tag of the registry."""
        if self.standin is not None:
            found = self.registry.repositories[repository]
            size = found.manifests[found.tags[tag]].size
            self.standin.put(repository, {tag: Tag(found.tags[tag], size, size is None)})

    def remove(self, repository: str, tag: str) -> None:
        self.registry.delete_tag(repository, tag)
        if self.standin is not None:
            self.standin.remove(repository, tag)

    def set_state(self, repository: str, state: model.State) -> None:
        self.model.set_state(repository, state)
        if self.standin is not None:
            self.standin.set(repository, state=state)

    def publish(self, repository: str) -> None:
        self.model.public.add(repository)
        if self.standin is not None:
            self.standin.set(repository, public=True)

    def expire_pages(self) -> None:
        self.model.expire_pages()
        if self.standin is not None:
            self.standin.expire_page_tokens()

    def fill(self, count: int) -> list[str]:
        """Create repositories without tags, and return their names by age."""
        names = [f"team/app{number}" for number in reversed(range(count))]
        for name in names:
            self.set_state(name, "NORMAL")
        return names


def network(machine: Machine, http: Http) -> Network:
    return Network(Calls(machine, Process(machine, "test"), Faults(off=True)), http)


@pytest.fixture(params=["model", "standin"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    registry = RegistryServer("quay.example", Machine(1))
    if request.param == "model":
        yield System(registry, None)
        return
    with standin.QuayServer(tokens={"of-others": frozenset({"others"})}) as server:
        yield System(registry, server)


def code_of(function: Callable[[], object]) -> str:
    """Return the code of the error that a call raises."""
    with pytest.raises(SynclineError) as error:
        function()
    return error.value.code.name


def after_json(position: ListingPosition | None) -> ListingPosition:
    """Return a position as it is after it was stored as JSON."""
    assert position is not None
    return ListingPosition.of_json(json.loads(json.dumps(position.to_json())))


class TestConformance:
    def test_repositories_of_a_namespace_are_listed_by_age(self, system: System) -> None:
        system.push("team/web", "v1")
        system.push("other/app", "v1")
        system.push("team/app", "v1")
        system.push("teams/app", "v1")
        found = [QuayRepository(name, "NORMAL") for name in ("team/web", "team/app")]
        assert list(system.quay().repositories("team")) == found
        assert list(system.quay().repositories("nobody")) == []

    @pytest.mark.parametrize("state", get_args(model.State))
    def test_a_repository_has_its_state(self, system: System, state: model.State) -> None:
        system.push("team/app", "v1")
        system.set_state("team/app", state)
        (found,) = system.quay().repositories("team")
        assert found.state == state

    @pytest.mark.parametrize(("count", "requests"), [(0, 2), (1, 1), (100, 1), (101, 2), (201, 3)])
    def test_repositories_are_listed_in_pages(self, system: System, count: int, requests: int) -> None:
        names = system.fill(count)
        assert [each.name for each in system.quay().repositories("team")] == names
        assert system.http.requests_made == requests  # the client checks its token after an empty list

    def test_a_listing_of_repositories_continues_at_a_position(self, system: System) -> None:
        names = system.fill(150)
        first = next(system.quay().repository_pages("team"))
        (second,) = system.quay().repository_pages("team", start=after_json(first.next_position))
        assert [each.name for each in (*first.entries, *second.entries)] == names
        assert second.next_position is None

    def test_a_stale_page_token_returns_page_one(self, system: System) -> None:
        names = system.fill(150)
        pages = system.quay().repository_pages("team")
        position = after_json(next(pages).next_position)
        system.expire_pages()
        assert code_of(lambda: list(pages)) == "LISTING_INCOMPLETE"
        later = next(system.quay().repository_pages("team", start=position))
        assert [each.name for each in later.entries] == names[:100]

    def test_tags_are_listed_with_their_digests(self, system: System) -> None:
        image = system.push("team/app", "v1", 3)
        size = sum(layer for _, layer in system.registry.repositories["team/app"].manifests[image].blobs[1:])
        index = system.registry.push_index("team/app", "all", [1, 2])
        system.show_tag("team/app", "all")
        assert system.quay().tags("team/app") == {
            "all": QuayTag(index, None, is_list=True),
            "v1": QuayTag(image, size, is_list=False),
        }

    def test_the_newest_tag_is_listed_first(self, system: System) -> None:
        for number, tag in enumerate(("b", "c", "a")):
            system.push("team/app", tag, number)
        assert list(system.quay().tags("team/app")) == ["a", "c", "b"]
        system.push("team/app", "b", 9)
        assert list(system.quay().tags("team/app")) == ["b", "a", "c"]
        system.remove("team/app", "a")
        assert list(system.quay().tags("team/app")) == ["b", "c"]

    @pytest.mark.parametrize(("count", "requests"), [(0, 1), (100, 1), (101, 2)])
    def test_tags_are_listed_in_pages(self, system: System, count: int, requests: int) -> None:
        system.fill(1)
        for number in range(count):
            system.push("team/app0", f"v{number}")
        assert list(system.quay().tags("team/app0")) == [f"v{number}" for number in reversed(range(count))]
        assert system.http.requests_made == requests

    def test_a_change_of_tags_between_pages_is_detected(self, system: System) -> None:
        for number in range(150):
            system.push("team/app", f"v{number}")
        pages = system.quay().tag_pages("team/app")
        position = after_json(next(pages).next_position)
        system.push("team/app", "new")
        assert code_of(lambda: list(pages)) == "LISTING_INCOMPLETE"
        (rest,) = system.quay().tag_pages("team/app", start=position)
        assert (len(rest.entries), next(iter(rest.entries))) == (51, "v50")

    def test_an_empty_announced_page_is_detected(self, system: System) -> None:
        for number in range(101):
            system.push("team/app", f"v{number}")
        pages = system.quay().tag_pages("team/app")
        next(pages)
        system.remove("team/app", "v5")
        assert code_of(lambda: list(pages)) == "LISTING_INCOMPLETE"

    def test_an_absent_repository_is_not_found(self, system: System) -> None:
        system.push("team/app", "v1")
        assert code_of(lambda: system.quay().tags("team/other")) == "NOT_FOUND"

    def test_a_wrong_token_is_unauthorized(self, system: System) -> None:
        system.push("team/app", "v1")
        assert code_of(lambda: list(system.quay("wrong").repositories("team"))) == "UNAUTHORIZED"
        assert code_of(lambda: system.quay("wrong").tags("team/app")) == "UNAUTHORIZED"

    def test_without_a_token_only_public_repositories_are_readable(self, system: System) -> None:
        system.push("team/app", "v1")
        assert list(system.quay(None).repositories("team")) == []
        assert code_of(lambda: system.quay(None).tags("team/app")) == "UNAUTHORIZED"
        system.publish("team/app")
        assert [each.name for each in system.quay(None).repositories("team")] == ["team/app"]
        assert list(system.quay(None).tags("team/app")) == ["v1"]
        assert code_of(lambda: list(system.quay("wrong").repositories("team"))) == "UNAUTHORIZED"

    def test_a_token_without_access_is_forbidden(self, system: System) -> None:
        system.push("team/app", "v1")
        token = "of-others"
        if system.standin is None:
            token, system.model.members = model.TOKEN, {"others"}
        assert list(system.quay(token).repositories("team")) == []
        assert code_of(lambda: system.quay(token).tags("team/app")) == "FORBIDDEN"


class TestFaults:
    @pytest.fixture
    def server(self) -> model.QuayServer:
        registry = RegistryServer("quay.example", Machine(1))
        for number in range(5):
            registry.push_image(f"team/app{number}", "v1", number)
            registry.push_image("team/app0", f"tag{number}", number)
        return model.QuayServer(registry)

    @pytest.fixture
    def quay(self, server: model.QuayServer) -> model.SimQuay:
        return model.SimQuay(server, network(server.registry.machine, Http()))

    def test_a_repeated_page_is_detected(self, server: model.QuayServer, quay: model.SimQuay) -> None:
        assert len(list(quay.repositories("team"))) == 5
        server.repeats_page = True
        assert code_of(lambda: list(quay.repositories("team"))) == "LISTING_INCOMPLETE"
        server.behave()
        assert len(list(quay.repositories("team"))) == 5

    def test_lists_may_be_cut_or_empty(self, server: model.QuayServer, quay: model.SimQuay) -> None:
        server.listing_cut = 2
        assert list(quay.tags("team/app0")) == ["tag4", "tag3"]
        server.empty_listing = True
        assert list(quay.repositories("team")) == []
        assert quay.tags("team/app0") == {}

    def test_a_mirror_refuses_pushes(self, server: model.QuayServer, quay: model.SimQuay) -> None:
        client = SimRegistry(server.registry, quay.network)
        image = client.manifest("team/app0", "v1")
        server.set_state("team/app0", "MIRROR")
        assert code_of(lambda: client.put_manifest("team/app0", "v2", image)) == "READ_ONLY"
        server.registry.push_image("team/app0", "v2", 9)  # by the mirror itself
        server.set_state("team/app0", "NORMAL")
        assert client.put_manifest("team/app0", "v3", image)
