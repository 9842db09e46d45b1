"""The model of Quay against the stand-in behind the real client: the same questions, the same answers."""

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


class World:
    """A Quay with 100 entries a page. ``registry`` is that of the model, which the stand-in is told of."""

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
        self.tell(repository, tag)
        return digest

    def tell(self, repository: str, tag: str) -> None:
        """Tell the stand-in of a tag."""
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
        """Make repositories without tags; return their names by age."""
        names = [f"team/app{number}" for number in reversed(range(count))]
        for name in names:
            self.set_state(name, "NORMAL")
        return names


def network(machine: Machine, http: Http) -> Network:
    return Network(Calls(machine, Process(machine, "test"), Faults(off=True)), http)


@pytest.fixture(params=["model", "standin"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    registry = RegistryServer("quay.example", Machine(1))
    if request.param == "model":
        yield World(registry, None)
        return
    with standin.QuayServer(tokens={"of-others": frozenset({"others"})}) as server:
        yield World(registry, server)


def code_of(function: Callable[[], object]) -> str:
    with pytest.raises(SynclineError) as error:
        function()
    return error.value.code.name


def again(position: ListingPosition | None) -> ListingPosition:
    assert position is not None
    return ListingPosition.of_json(json.loads(json.dumps(position.to_json())))


class TestConformance:
    def test_repositories_of_a_namespace_by_age(self, world: World) -> None:
        world.push("team/web", "v1")
        world.push("other/app", "v1")
        world.push("team/app", "v1")
        world.push("teams/app", "v1")
        found = [QuayRepository(name, "NORMAL") for name in ("team/web", "team/app")]
        assert list(world.quay().repositories("team")) == found
        assert list(world.quay().repositories("nobody")) == []

    @pytest.mark.parametrize("state", get_args(model.State))
    def test_states(self, world: World, state: model.State) -> None:
        world.push("team/app", "v1")
        world.set_state("team/app", state)
        (found,) = world.quay().repositories("team")
        assert found.state == state

    @pytest.mark.parametrize(("count", "requests"), [(0, 2), (1, 1), (100, 1), (101, 2), (201, 3)])
    def test_pages_of_repositories(self, world: World, count: int, requests: int) -> None:
        names = world.fill(count)
        assert [each.name for each in world.quay().repositories("team")] == names
        assert world.http.requests_made == requests  # an empty list has the token checked

    def test_repositories_go_on_from_a_position(self, world: World) -> None:
        names = world.fill(150)
        first = next(world.quay().repository_pages("team"))
        (second,) = world.quay().repository_pages("team", start=again(first.next_position))
        assert [each.name for each in (*first.entries, *second.entries)] == names
        assert second.next_position is None

    def test_a_stale_page_is_page_one(self, world: World) -> None:
        names = world.fill(150)
        pages = world.quay().repository_pages("team")
        position = again(next(pages).next_position)
        world.expire_pages()
        assert code_of(lambda: list(pages)) == "LISTING_INCOMPLETE"
        later = next(world.quay().repository_pages("team", start=position))
        assert [each.name for each in later.entries] == names[:100]

    def test_tags_with_their_digests(self, world: World) -> None:
        image = world.push("team/app", "v1", 3)
        size = sum(layer for _, layer in world.registry.repositories["team/app"].manifests[image].blobs[1:])
        index = world.registry.push_index("team/app", "all", [1, 2])
        world.tell("team/app", "all")
        assert world.quay().tags("team/app") == {
            "all": QuayTag(index, None, is_list=True),
            "v1": QuayTag(image, size, is_list=False),
        }

    def test_the_youngest_tag_comes_first(self, world: World) -> None:
        for number, tag in enumerate(("b", "c", "a")):
            world.push("team/app", tag, number)
        assert list(world.quay().tags("team/app")) == ["a", "c", "b"]
        world.push("team/app", "b", 9)
        assert list(world.quay().tags("team/app")) == ["b", "a", "c"]
        world.remove("team/app", "a")
        assert list(world.quay().tags("team/app")) == ["b", "c"]

    @pytest.mark.parametrize(("count", "requests"), [(0, 1), (100, 1), (101, 2)])
    def test_pages_of_tags(self, world: World, count: int, requests: int) -> None:
        world.fill(1)
        for number in range(count):
            world.push("team/app0", f"v{number}")
        assert list(world.quay().tags("team/app0")) == [f"v{number}" for number in reversed(range(count))]
        assert world.http.requests_made == requests

    def test_tags_that_change_between_pages(self, world: World) -> None:
        for number in range(150):
            world.push("team/app", f"v{number}")
        pages = world.quay().tag_pages("team/app")
        position = again(next(pages).next_position)
        world.push("team/app", "new")
        assert code_of(lambda: list(pages)) == "LISTING_INCOMPLETE"
        (rest,) = world.quay().tag_pages("team/app", start=position)
        assert (len(rest.entries), next(iter(rest.entries))) == (51, "v50")

    def test_an_announced_page_that_is_empty(self, world: World) -> None:
        for number in range(101):
            world.push("team/app", f"v{number}")
        pages = world.quay().tag_pages("team/app")
        next(pages)
        world.remove("team/app", "v5")
        assert code_of(lambda: list(pages)) == "LISTING_INCOMPLETE"

    def test_a_repository_that_is_not_there(self, world: World) -> None:
        world.push("team/app", "v1")
        assert code_of(lambda: world.quay().tags("team/other")) == "NOT_FOUND"

    def test_a_wrong_token(self, world: World) -> None:
        world.push("team/app", "v1")
        assert code_of(lambda: list(world.quay("wrong").repositories("team"))) == "UNAUTHORIZED"
        assert code_of(lambda: world.quay("wrong").tags("team/app")) == "UNAUTHORIZED"

    def test_no_token(self, world: World) -> None:
        world.push("team/app", "v1")
        assert list(world.quay(None).repositories("team")) == []
        assert code_of(lambda: world.quay(None).tags("team/app")) == "UNAUTHORIZED"
        world.publish("team/app")
        assert [each.name for each in world.quay(None).repositories("team")] == ["team/app"]
        assert list(world.quay(None).tags("team/app")) == ["v1"]
        assert code_of(lambda: list(world.quay("wrong").repositories("team"))) == "UNAUTHORIZED"

    def test_a_token_of_others(self, world: World) -> None:
        world.push("team/app", "v1")
        token = "of-others"
        if world.standin is None:
            token, world.model.members = model.TOKEN, {"others"}
        assert list(world.quay(token).repositories("team")) == []
        assert code_of(lambda: world.quay(token).tags("team/app")) == "FORBIDDEN"


class TestSwitches:
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

    def test_a_page_that_repeats(self, server: model.QuayServer, quay: model.SimQuay) -> None:
        assert len(list(quay.repositories("team"))) == 5
        server.repeats_page = True
        assert code_of(lambda: list(quay.repositories("team"))) == "LISTING_INCOMPLETE"
        server.behave()
        assert len(list(quay.repositories("team"))) == 5

    def test_lists_that_are_empty_or_cut(self, server: model.QuayServer, quay: model.SimQuay) -> None:
        server.listing_cut = 2
        assert list(quay.tags("team/app0")) == ["tag4", "tag3"]
        server.empty_listing = True
        assert list(quay.repositories("team")) == []
        assert quay.tags("team/app0") == {}

    def test_a_mirror_takes_no_pushes(self, server: model.QuayServer, quay: model.SimQuay) -> None:
        client = SimRegistry(server.registry, quay.network)
        image = client.manifest("team/app0", "v1")
        server.set_state("team/app0", "MIRROR")
        assert code_of(lambda: client.put_manifest("team/app0", "v2", image)) == "READ_ONLY"
        server.registry.push_image("team/app0", "v2", 9)  # the mirror itself writes
        server.set_state("team/app0", "NORMAL")
        assert client.put_manifest("team/app0", "v3", image)
