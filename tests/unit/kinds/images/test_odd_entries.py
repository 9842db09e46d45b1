"""Entries of registries' listings that violate the protocol: each is a failure by itself."""

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
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.kind import Page, StepContext
from syncline.model import EVERYTHING, Scope
from tests.rig.server import Reply, ScriptedServer, errors_reply, json_reply
from tests.standins.made_up import Naps

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
API = "/api/v1/repository"


class World:
    """Two scripted registries; a scan with ``api`` also uses Quay's API of both."""

    def __init__(self, stack: ExitStack) -> None:
        self.at_source = stack.enter_context(ScriptedServer())
        self.at_target = stack.enter_context(ScriptedServer())

    def scan(self, *, api: bool = False, scope: Scope = EVERYTHING, **config: Any) -> list[Page]:
        what: dict[str, Any] = {"organizations": ["team"], "api": {"kind": "quay"}} if api else {"catalog": True}
        source = {"registry": self.at_source.host, "plain_http": True, **what}
        target = {"registry": self.at_target.host, "plain_http": True}
        sync = load_sync(json.dumps({"name": "s", "kind": "images", "source": source, "target": target, **config}))
        assert isinstance(sync, ImagesSync)
        sides = (self._side(self.at_source, api=api), self._side(self.at_target, api=api))
        return list(
            ImageScan(sync, *sides, TargetNotes(ProcessFacts(), "dr.example")).pages(
                scope, None, StepContext(lambda: 60.0)
            )
        )

    def _side(self, server: ScriptedServer, *, api: bool) -> RegistryClients:
        http, endpoint = Http(Naps().policy()), Endpoint.parse(server.url)
        return RegistryClients(
            Registry(endpoint, lambda: None, http), Quay(endpoint, lambda: None, http) if api else None
        )

    def tags(self, repository: str, at_source: list[Any], at_target: list[Any] | None = None) -> None:
        self.at_source.on("GET", f"/v2/{repository}/tags/list", json_reply({"tags": at_source}))
        absent = errors_reply(404, "NAME_UNKNOWN")
        self.at_target.on(
            "GET", f"/v2/{repository}/tags/list", absent if at_target is None else json_reply({"tags": at_target})
        )

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


def test_invalid_repositories_of_a_catalog(world: World) -> None:
    world.at_source.on("GET", "/v2/_catalog", json_reply({"repositories": ["team/a", None, "Team/B", "team/c", 7]}))
    world.tags("team/a", ["v1"])
    world.tags("team/c", ["v1"])
    pages = world.scan()
    assert moves(pages) == ["team/a:v1", "team/c:v1"]
    where = f"of the catalog of {world.at_source.host}"
    names = [f"*:entry 2 {where}", "Team/B:*", f"*:entry 5 {where}"]
    assert failed(pages) == [(name, "ENTRY_INVALID") for name in names]


def test_an_invalid_repository_that_the_selection_excludes_is_no_failure(world: World) -> None:
    world.at_source.on("GET", "/v2/_catalog", json_reply({"repositories": ["Team/B", "team/a"]}))
    world.tags("team/a", ["v1"])
    pages = world.scan(select={"repositories": {"exclude": ["Team/*"]}})
    assert (moves(pages), failed(pages)) == (["team/a:v1"], [])


def test_invalid_tags_of_the_source(world: World) -> None:
    world.at_source.on("GET", "/v2/_catalog", json_reply({"repositories": ["team/a", "team/b"]}))
    world.tags("team/a", ["v1", None, "-v2", "v3"])
    world.tags("team/b", ["v1"])
    pages = world.scan()
    assert moves(pages) == ["team/a:v1", "team/a:v3", "team/b:v1"]
    names = [f"team/a:entry 2 of the tags of 'team/a' at {world.at_source.host}", "team/a:-v2"]
    assert failed(pages) == [(name, "ENTRY_INVALID") for name in names]


def test_a_tag_is_requested_if_an_invalid_entry_of_the_target_may_be_it(world: World) -> None:
    world.at_source.on("GET", "/v2/_catalog", json_reply({"repositories": ["team/a"]}))
    world.tags("team/a", ["v1", "v2"], at_target=[None])
    for tag, answer in (("v1", Reply(200, headers={"Docker-Content-Digest": OTHER})), ("v2", Reply(404))):
        world.at_source.on("HEAD", f"/v2/team/a/manifests/{tag}", Reply(200, headers={"Docker-Content-Digest": DIGEST}))
        world.at_target.on("HEAD", f"/v2/team/a/manifests/{tag}", answer)
    pages = world.scan()
    assert moves(pages) == ["team/a:v2"]
    assert not any(item.detail.get("fresh") for page in pages for item in page.items)
    assert [(result.name, result.code) for page in pages for result in page.results] == [("v1", "TAG_DIFFERS")]
    place = f"entry 1 of the tags of 'team/a' at {world.at_target.host}"
    assert failed(pages) == [(f"team/a:{place}", "ENTRY_INVALID")]


def test_invalid_repositories_of_an_organization(world: World) -> None:
    good = {"namespace": "team", "name": "app", "state": "NORMAL"}
    listed = [None, good, {**good, "namespace": "other", "name": "b"}, {**good, "name": "App"}, {"namespace": "team"}]
    world.at_source.on("GET", API, json_reply({"repositories": listed}))
    world.at_target.on("GET", API, json_reply({"repositories": []}))
    world.quay_tags(world.at_source, quay_tag("v1"))
    world.quay_tags(world.at_target)
    pages = world.scan(api=True)
    assert moves(pages) == ["team/app:v1"]
    where = f"of the repositories of 'team' at {world.at_source.host}"
    names = [f"*:entry 1 {where}", f"*:entry 3 {where}", "team/App:*", f"*:entry 5 {where}"]
    assert failed(pages) == [(name, "ENTRY_INVALID") for name in names]


def test_invalid_tags_of_quay(world: World) -> None:
    world.at_source.on(
        "GET", API, json_reply({"repositories": [{"namespace": "team", "name": "app", "state": "NORMAL"}]})
    )
    world.at_target.on("GET", API, json_reply({"repositories": []}))
    tags = (None, quay_tag("v1"), quay_tag("v2", "sha256:short"), quay_tag("v3"), quay_tag("v4"))
    world.quay_tags(world.at_source, *tags)
    world.quay_tags(world.at_target, quay_tag("v3", None), quay_tag("v4", OTHER))
    pages = world.scan(api=True)
    assert moves(pages) == ["team/app:v1"]
    assert [result.name for page in pages for result in page.results] == ["v4"]
    names = [f"team/app:entry 1 of the tags of 'team/app' at {world.at_source.host}", "team/app:v2", "team/app:v3"]
    assert failed(pages) == [(name, "ENTRY_INVALID") for name in names]
