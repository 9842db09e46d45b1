"""Referrers of a scripted registry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    add_referrers,
    referrers_tag,
)
from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer, errors_reply, json_reply

SUBJECT = digest_of(b"an image")
API = f"/v2/org/app/referrers/{SUBJECT}"
TAG = f"/v2/org/app/manifests/{referrers_tag(SUBJECT)}"


def entry(name: str) -> dict[str, Any]:
    return {"mediaType": OCI_MANIFEST, "digest": digest_of(name.encode()), "size": 3}


def index(*names: str) -> bytes:
    entries = [entry(name) for name in names]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def page(*names: str, following: str | None = None) -> Reply:
    link = {"Link": f'<{following}>; rel="next"'} if following else {}
    return Reply(200, index(*names), {"Content-Type": OCI_INDEX, **link})


def found(registry: Registry) -> list[str]:
    return [each.digest for each in registry.referrers("org/app", SUBJECT)]


def digests(*names: str) -> list[str]:
    return [digest_of(name.encode()) for name in names]


def test_all_pages_of_the_api_are_listed(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", API, page("a", "b", following=f"{API}?at=2"))
    server.on("GET", f"{API}?at=2", page(following=f"{server.url}{API}?at=3"))
    server.on("GET", f"{API}?at=3", page("b", "c"))
    assert found(registry) == digests("a", "b", "c")
    assert [each.headers["accept"] for each in server.requests] == [OCI_INDEX] * 3


@pytest.mark.parametrize("answer", [Reply(404, b"404 page not found\n"), Reply(405), errors_reply(400, "UNSUPPORTED")])
def test_without_the_api_referrers_are_read_from_the_tag(
    server: ScriptedServer, registry: Registry, answer: Reply
) -> None:
    server.on("GET", API, answer)
    server.on("GET", TAG, page("a"))
    assert found(registry) == digests("a")


def test_the_absence_of_the_api_is_remembered(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", API, Reply(404, b"404 page not found\n"))
    server.on("GET", TAG, Reply(404))
    assert [found(registry) for _ in range(3)] == [[], [], []]
    assert len([each for each in server.requests if "/referrers/" in each.target]) == 1


def test_an_absent_repository_does_not_mean_an_absent_api(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", API, errors_reply(404, "NAME_UNKNOWN"), page("a"))
    server.on("GET", TAG, errors_reply(404, "NAME_UNKNOWN"))
    assert [found(registry), found(registry)] == [[], digests("a")]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Reply(200, b"<html>a portal</html>"), "BAD_ANSWER"),
        (json_reply({"manifests": [{"digest": "sha256:short"}]}), "ENTRY_INVALID"),
        (json_reply({"manifests": {}}), "BAD_ANSWER"),
        (page("a", following=API), "LISTING_INCOMPLETE"),
        (errors_reply(403, "DENIED"), "FORBIDDEN"),
    ],
)
def test_an_invalid_list_is_not_an_empty_list(
    server: ScriptedServer, registry: Registry, answer: Reply, code: str
) -> None:
    server.on("GET", API, answer)
    with pytest.raises(SynclineError) as caught:
        found(registry)
    assert caught.value.code.name == code


def test_a_missing_page_is_an_error(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", API, page("a", following=f"{API}?at=1"))
    server.on("GET", f"{API}?at=1", Reply(404))
    with pytest.raises(SynclineError) as caught:
        found(registry)
    assert caught.value.code.name == "NOT_FOUND"


@pytest.mark.parametrize(
    ("headers", "lists"), [({}, False), ({"OCI-Subject": SUBJECT}, True), ({"OCI-Subject": "x"}, False)]
)
def test_a_push_reports_if_the_registry_lists_it(
    server: ScriptedServer, registry: Registry, *, headers: Any, lists: bool
) -> None:
    subject = {"mediaType": OCI_MANIFEST, "digest": SUBJECT, "size": 8}
    body = json.dumps({"schemaVersion": 2, "config": entry("c"), "layers": [], "subject": subject}).encode()
    manifest = Manifest(digest_of(body), OCI_MANIFEST, body)
    server.on("PUT", f"/v2/org/app/manifests/{manifest.digest}", Reply(201, headers=headers))
    assert registry.put_manifest("org/app", manifest.digest, manifest) is lists


def test_the_tag_of_a_list_is_derived_from_the_digest() -> None:
    assert referrers_tag(f"sha256:{'a' * 64}") == f"sha256-{'a' * 64}"
    assert referrers_tag(f"sha512:{'a' * 128}") == f"sha512-{'a' * 64}"


def test_a_referrer_is_added_to_the_list() -> None:
    first = add_referrers(None, [entry("a")])
    assert json.loads(first.body) == json.loads(index("a"))
    more = b'{"manifests": [], "schemaVersion": 2, "annotations": {"of": "somebody"}}'
    grown = add_referrers(Manifest(digest_of(more), OCI_INDEX, more), [entry("b")])
    assert json.loads(grown.body) == {**json.loads(more), "manifests": [entry("b")]}
    assert add_referrers(grown, [entry("b")]) is grown
    assert [each.digest for each in add_referrers(grown, [entry("b"), entry("c")]).children()] == digests("b", "c")


CONFIG = {"mediaType": "application/vnd.example.config"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"config": CONFIG}, {"artifactType": CONFIG["mediaType"]}),
        ({"config": CONFIG, "artifactType": "application/x"}, {"artifactType": "application/x"}),
        ({"manifests": []}, {}),
    ],
)
def test_an_entry_has_the_fields_of_its_manifest(fields: dict[str, Any], expected: dict[str, str]) -> None:
    body = json.dumps({**fields, "annotations": {"a": "b"}}).encode()
    wanted = {"mediaType": DOCKER_MANIFEST, "digest": digest_of(body), "size": len(body), "annotations": {"a": "b"}}
    assert Manifest(digest_of(body), DOCKER_MANIFEST, body).as_entry() == {**wanted, **expected}
