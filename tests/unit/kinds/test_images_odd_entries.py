"""Entries of registries' listings that are not what the protocol promises: each costs itself alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.client import Registry
from syncline.clients.registry.quay import Quay
from syncline.config.sync import load_sync
from syncline.kinds.artifacts.layers import OwnMemory
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.discover import Look
from syncline.kinds.images.listing import Side
from syncline.kinds.images.memory import Notes
from syncline.kinds.kind import Page, StepContext
from syncline.model import EVERYTHING, Scope
from tests.standins.made_up import Naps
from tests.standins.scripted_http import Reply, ScriptedServer, errors_reply, json_reply

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
API = "/api/v1/repository"


class World:
    """Two scripted registries, each with Quay's API if ``api``."""

    def __init__(self, stack: ExitStack) -> None:
        self.there = stack.enter_context(ScriptedServer())
        self.here = stack.enter_context(ScriptedServer())

    def look(self, *, api: bool = False, scope: Scope = EVERYTHING, **config: Any) -> list[Page]:
        what: dict[str, Any] = {"organizations": ["team"], "api": {"kind": "quay"}} if api else {"catalog": True}
        source = {"registry": self.there.host, "plain_http": True, **what}
        target = {"registry": self.here.host, "plain_http": True}
        sync = load_sync(json.dumps({"name": "s", "kind": "images", "source": source, "target": target, **config}))
        assert isinstance(sync, ImagesSync)
        sides = (self._side(self.there, api=api), self._side(self.here, api=api))
        return list(Look(sync, *sides, Notes(OwnMemory(), "dr.example")).pages(scope, None, StepContext(lambda: 60.0)))

    def _side(self, server: ScriptedServer, *, api: bool) -> Side:
        http, endpoint = Http(Naps().policy()), Endpoint.parse(server.url)
        return Side(Registry(endpoint, lambda: None, http), Quay(endpoint, lambda: None, http) if api else None)

    def tags(self, repository: str, there: list[Any], here: list[Any] | None = None) -> None:
        self.there.on("GET", f"/v2/{repository}/tags/list", json_reply({"tags": there}))
        absent = errors_reply(404, "NAME_UNKNOWN")
        self.here.on("GET", f"/v2/{repository}/tags/list", absent if here is None else json_reply({"tags": here}))

    def quay_tags(self, server: ScriptedServer, *tags: Any, repository: str = "team/app") -> None:
        answer = {"tags": list(tags), "page": 1, "has_additional": False}
        server.on("GET", f"{API}/{repository}/tag/", json_reply(answer))


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def moves(pages: list[Page]) -> list[str]:
    return [str(item) for page in pages for item in page.items]


def failed(pages: list[Page]) -> list[tuple[str, str]]:
    return [(str(failure.item), failure.error.code.name) for page in pages for failure in page.failures]


def quay_tag(name: Any, digest: Any = DIGEST) -> dict[str, Any]:
    return {"name": name, "manifest_digest": digest, "size": 1, "is_manifest_list": False}


def test_odd_repositories_of_a_catalog(world: World) -> None:
    world.there.on("GET", "/v2/_catalog", json_reply({"repositories": ["team/a", None, "Team/B", "team/c", 7]}))
    world.tags("team/a", ["v1"])
    world.tags("team/c", ["v1"])
    pages = world.look()
    assert moves(pages) == ["team/a:v1", "team/c:v1"]
    where = f"of the catalog of {world.there.host}"
    names = [f"*:entry 2 {where}", "Team/B:*", f"*:entry 5 {where}"]
    assert failed(pages) == [(name, "ENTRY_INVALID") for name in names]


def test_an_odd_repository_that_the_selection_excludes_is_no_failure(world: World) -> None:
    world.there.on("GET", "/v2/_catalog", json_reply({"repositories": ["Team/B", "team/a"]}))
    world.tags("team/a", ["v1"])
    pages = world.look(select={"repositories": {"exclude": ["Team/*"]}})
    assert (moves(pages), failed(pages)) == (["team/a:v1"], [])


def test_odd_tags_of_the_source(world: World) -> None:
    world.there.on("GET", "/v2/_catalog", json_reply({"repositories": ["team/a", "team/b"]}))
    world.tags("team/a", ["v1", None, "-v2", "v3"])
    world.tags("team/b", ["v1"])
    pages = world.look()
    assert moves(pages) == ["team/a:v1", "team/a:v3", "team/b:v1"]
    names = [f"team/a:entry 2 of the tags of 'team/a' at {world.there.host}", "team/a:-v2"]
    assert failed(pages) == [(name, "ENTRY_INVALID") for name in names]


def test_a_tag_that_the_target_may_have_under_an_odd_entry_is_asked_for(world: World) -> None:
    world.there.on("GET", "/v2/_catalog", json_reply({"repositories": ["team/a"]}))
    world.tags("team/a", ["v1", "v2"], here=[None])
    for tag, answer in (("v1", Reply(200, headers={"Docker-Content-Digest": OTHER})), ("v2", Reply(404))):
        world.there.on("HEAD", f"/v2/team/a/manifests/{tag}", Reply(200, headers={"Docker-Content-Digest": DIGEST}))
        world.here.on("HEAD", f"/v2/team/a/manifests/{tag}", answer)
    pages = world.look()
    assert moves(pages) == ["team/a:v2"]
    assert not any(item.detail.get("fresh") for page in pages for item in page.items)
    assert [(result.name, result.code) for page in pages for result in page.results] == [("v1", "TAG_DIFFERS")]
    place = f"entry 1 of the tags of 'team/a' at {world.here.host}"
    assert failed(pages) == [(f"team/a:{place}", "ENTRY_INVALID")]


def test_odd_repositories_of_an_organization(world: World) -> None:
    good = {"namespace": "team", "name": "app", "state": "NORMAL"}
    listed = [None, good, {**good, "namespace": "other", "name": "b"}, {**good, "name": "App"}, {"namespace": "team"}]
    world.there.on("GET", API, json_reply({"repositories": listed}))
    world.here.on("GET", API, json_reply({"repositories": []}))
    world.quay_tags(world.there, quay_tag("v1"))
    world.quay_tags(world.here)
    pages = world.look(api=True)
    assert moves(pages) == ["team/app:v1"]
    where = f"of the repositories of 'team' at {world.there.host}"
    names = [f"*:entry 1 {where}", f"*:entry 3 {where}", "team/App:*", f"*:entry 5 {where}"]
    assert failed(pages) == [(name, "ENTRY_INVALID") for name in names]


def test_odd_tags_of_quay(world: World) -> None:
    world.there.on("GET", API, json_reply({"repositories": [{"namespace": "team", "name": "app", "state": "NORMAL"}]}))
    world.here.on("GET", API, json_reply({"repositories": []}))
    tags = (None, quay_tag("v1"), quay_tag("v2", "sha256:short"), quay_tag("v3"), quay_tag("v4"))
    world.quay_tags(world.there, *tags)
    world.quay_tags(world.here, quay_tag("v3", None), quay_tag("v4", OTHER))
    pages = world.look(api=True)
    assert moves(pages) == ["team/app:v1"]
    assert [result.name for page in pages for result in page.results] == ["v4"]
    names = [f"team/app:entry 1 of the tags of 'team/app' at {world.there.host}", "team/app:v2", "team/app:v3"]
    assert failed(pages) == [(name, "ENTRY_INVALID") for name in names]
