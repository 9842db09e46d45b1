"""Listings of every client: one invalid entry in a page does not affect the others."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.file_manager.client import FileManager
from syncline.clients.github.client import GitHub
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.listings import MAX_INVALID, InvalidEntry, OnInvalid
from syncline.clients.registry.client import Registry
from syncline.clients.registry.quay import Quay
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer, json_reply
from tests.standins.made_up import Naps

DIGEST: Final = "sha256:" + "ab" * 32
INVALID_JSON: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "-", "A B", " ", "/", "\n", "\0", "\u00fc", "\ud800", "\uffff"]),
    st.lists(st.none(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.none(), max_size=2),
)
"""JSON that is not a valid entry of any listing."""


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def read_one(listing: Callable[[OnInvalid], Any]) -> tuple[list[Any], InvalidEntry]:
    """Return the valid entries of a listing, and its only invalid one."""
    invalid: list[InvalidEntry] = []
    found = list(listing(invalid.append))
    (one,) = invalid
    assert one.error.code.name == "ENTRY_INVALID"
    assert one.location in one.error.what
    assert one.label.isprintable()
    json.dumps(one.label, ensure_ascii=False).encode()
    return found, one


def put_at(entries: list[Any], at: int, junk: Any) -> list[Any]:
    return [junk if place == at else entry for place, entry in enumerate(entries)]


def without(entries: list[str], at: int) -> list[str]:
    return [entry for place, entry in enumerate(entries) if place != at]


def broken(entry: dict[str, Any], fields: list[str]) -> st.SearchStrategy[Any]:
    """Draw an entry with a field of an invalid type, or JSON that is not an entry."""
    changed = st.tuples(st.sampled_from(fields), INVALID_JSON.filter(lambda value: not isinstance(value, int | float)))
    return st.one_of(INVALID_JSON, changed.map(lambda change: {**entry, change[0]: change[1]}))


def registry(server: ScriptedServer) -> Registry:
    return Registry(Endpoint.parse(server.url), lambda: None, Http(Naps().policy()))


NAMES: Final = ["a", "b", "c", "d"]


@given(at=st.integers(0, 3), junk=INVALID_JSON)
def test_the_catalog_of_a_registry_is_read(server: ScriptedServer, at: int, junk: Any) -> None:
    server.on("GET", "/v2/_catalog", json_reply({"repositories": put_at(NAMES, at, junk)}))
    found, invalid = read_one(registry(server).catalog)
    assert found == without(NAMES, at)
    assert invalid.name == (junk if isinstance(junk, str) and junk else None)


@given(at=st.integers(0, 3), junk=INVALID_JSON)
def test_the_tags_of_a_registry_are_read(server: ScriptedServer, at: int, junk: Any) -> None:
    server.on("GET", "/v2/org/app/tags/list", json_reply({"tags": put_at(NAMES, at, junk)}))
    found, _ = read_one(lambda on_invalid: registry(server).tags("org/app", on_invalid))
    assert found == without(NAMES, at)


SUBJECT: Final = "sha256:" + "00" * 32
REFERRER: Final = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": DIGEST, "size": 3}


@given(at=st.integers(0, 3), junk=broken(REFERRER, ["digest", "size"]), by_tag=st.booleans())
def test_the_referrers_of_an_image_are_read(server: ScriptedServer, at: int, junk: Any, by_tag: bool) -> None:
    digests = [f"sha256:{number:064x}" for number in range(1, 5)]
    entries = put_at([{**REFERRER, "digest": digest} for digest in digests], at, junk)
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    api = f"/v2/org/app/referrers/{SUBJECT}"
    server.on("GET", api, Reply(404, b"no such page") if by_tag else json_reply(index))
    server.on("GET", f"/v2/org/app/manifests/{SUBJECT.replace(':', '-')}", json_reply(index))
    found, _ = read_one(lambda on_invalid: registry(server).referrers("org/app", SUBJECT, on_invalid))
    assert [each.digest for each in found] == without(digests, at)


def quay(server: ScriptedServer) -> Quay:
    return Quay(Endpoint.parse(server.url), lambda: None, Http(Naps().policy()))


@given(
    at=st.integers(0, 3),
    junk=broken({"namespace": "org", "name": "x", "state": "NORMAL"}, ["namespace", "name"]),
)
def test_the_repositories_of_quay_are_read(server: ScriptedServer, at: int, junk: Any) -> None:
    entries = [{"namespace": "org", "name": name, "state": "NORMAL"} for name in NAMES]
    server.on("GET", "/api/v1/repository", json_reply({"repositories": put_at(entries, at, junk)}))
    found, _ = read_one(lambda on_invalid: quay(server).repositories("org", on_invalid))
    assert [each.name for each in found] == [f"org/{name}" for name in without(NAMES, at)]


@given(
    at=st.integers(0, 3),
    junk=broken({"name": "-", "manifest_digest": DIGEST, "size": 1}, ["manifest_digest", "name"]),
)
def test_the_tags_of_quay_are_read(server: ScriptedServer, at: int, junk: Any) -> None:
    entries = [{"name": name, "manifest_digest": DIGEST, "size": 1, "is_manifest_list": False} for name in NAMES]
    answer = {"tags": put_at(entries, at, junk), "page": 1, "has_additional": False}
    server.on("GET", "/api/v1/repository/org/app/tag/", json_reply(answer))
    found, _ = read_one(lambda on_invalid: quay(server).tags("org/app", on_invalid))
    assert found == without(NAMES, at)


TIME: Final = "2023-11-14T22:30:00Z"
RUN: Final = {"id": 5, "run_attempt": 1, "created_at": TIME, "updated_at": TIME, "head_branch": "main", "path": "b.yml"}
ARTIFACT: Final = {"id": 5, "name": "images", "size_in_bytes": 1, "expired": False, "digest": None}


def github(server: ScriptedServer) -> GitHub:
    return GitHub(Endpoint.parse(server.url), lambda: None, Http(Naps().policy()))


@given(at=st.integers(0, 3), junk=broken(RUN, ["id", "created_at", "updated_at"]))
def test_the_runs_of_github_are_read(server: ScriptedServer, at: int, junk: Any) -> None:
    entries = [{**RUN, "id": number} for number in range(4)]
    path = "/repos/o/r/actions/workflows/b.yml/runs"
    server.on("GET", path, json_reply({"workflow_runs": put_at(entries, at, junk)}))
    found, _ = read_one(lambda on_invalid: github(server).runs("o/r", "b.yml", on_invalid))
    assert [each.id for each in found] == [number for number in range(4) if number != at]


@given(field=st.sampled_from(sorted(RUN)), value=st.sampled_from(["", "x", -1, [1], {"a": 1}, True, 1.5, "\ud800"]))
def test_a_run_of_github_is_read_or_invalid(server: ScriptedServer, field: str, value: Any) -> None:
    path = "/repos/o/r/actions/workflows/b.yml/runs"
    server.on("GET", path, json_reply({"workflow_runs": [{**RUN, field: value}]}))
    invalid: list[InvalidEntry] = []
    assert len(list(github(server).runs("o/r", "b.yml", invalid.append))) + len(invalid) == 1


@given(at=st.integers(0, 3), junk=broken(ARTIFACT, ["id", "size_in_bytes"]))
def test_the_artifacts_of_github_are_read(server: ScriptedServer, at: int, junk: Any) -> None:
    entries = [{**ARTIFACT, "id": number} for number in range(4)]
    server.on("GET", "/repos/o/r/actions/runs/1/artifacts", json_reply({"artifacts": put_at(entries, at, junk)}))
    found, _ = read_one(lambda on_invalid: github(server).artifacts("o/r", 1, on_invalid))
    assert [each.id for each in found] == [number for number in range(4) if number != at]


def gitlab(server: ScriptedServer) -> GitLab:
    return GitLab(Endpoint.parse(server.url), "g/p", lambda: None, Http(Naps().policy()))


@given(at=st.integers(0, 3), junk=broken({"id": 9, "path": "g/p/x", "name": "x"}, ["id", "path"]))
def test_the_repositories_of_gitlab_are_read(server: ScriptedServer, at: int, junk: Any) -> None:
    entries = [{"id": place, "path": f"g/p/{name}", "name": name} for place, name in enumerate(NAMES)]
    server.on("GET", "/api/v4/projects/g%2Fp/registry/repositories", json_reply(put_at(entries, at, junk)))
    found, _ = read_one(lambda on_invalid: gitlab(server).repositories(on_invalid))
    assert [each.name for each in found] == without(NAMES, at)


@given(at=st.integers(0, 3), junk=broken({"name": "-", "path": "p"}, ["name"]))
def test_the_tags_of_gitlab_are_read(server: ScriptedServer, at: int, junk: Any) -> None:
    entries = [{"name": name} for name in NAMES]
    server.on("GET", "/api/v4/projects/g%2Fp/registry/repositories/1/tags", json_reply(put_at(entries, at, junk)))
    found, _ = read_one(lambda on_invalid: gitlab(server).tags(1, on_invalid))
    assert found == without(NAMES, at)


EVENT: Final = {"event_type": "move", "file_path": "a", "new_path": "b", "metadata": {}, "timestamp": "t"}


@given(at=st.integers(0, 3), junk=broken(EVENT, ["event_type"]))
def test_the_events_of_a_file_manager_are_read(server: ScriptedServer, at: int, junk: Any) -> None:
    entries = put_at([{**EVENT, "file_path": name} for name in NAMES], at, junk)
    server.on("GET", "/pubSubFullList", json_reply({"events": entries, "total_count": 4}))
    manager = FileManager(server.url, lambda: None, Http(Naps().policy()), threading.Lock())
    found, _ = read_one(lambda on_invalid: manager.events(on_invalid=on_invalid))
    assert [each.path for each in found] == without(NAMES, at)


INVALID_OBJECTS: Final = (
    "<Contents/>",
    "<Contents><Key></Key><Size>1</Size></Contents>",
    "<Contents><Key>x%FF</Key><Size>1</Size></Contents>",
    "<Contents><Key>b2</Key></Contents>",
    "<Contents><Key>b2</Key><Size>-1</Size></Contents>",
    "<Contents><Key>b2</Key><Size>1e3</Size></Contents>",
    "<Contents><Key>b2</Key><LastModified>9999999</LastModified><Size>1</Size></Contents>",
    "<Contents><Key>b2</Key><LastModified>0000-00-00T00:00:00Z</LastModified><Size>1</Size></Contents>",
    "<Contents>text</Contents>",
)


@given(at=st.integers(0, 3), junk=st.sampled_from(INVALID_OBJECTS), extra=st.sampled_from(["", "<!-- -->", "<Owner/>"]))
def test_the_keys_of_a_bucket_are_read(server: ScriptedServer, at: int, junk: str, extra: str) -> None:
    entries = [f"<Contents><Key>{name}</Key><Size>7</Size>{extra}</Contents>" for name in NAMES]
    listed = "".join(put_at(entries, at, junk))
    text = (
        f"<ListBucketResult><EncodingType>url</EncodingType>{listed}<IsTruncated>false</IsTruncated></ListBucketResult>"
    )
    server.on("GET", "/shelf/", Reply(200, text.encode()))
    bucket = Bucket(Endpoint.parse(server.url), "shelf", lambda: None, Http(Naps().policy()))
    found, invalid = read_one(lambda on_invalid: bucket.page(on_invalid=on_invalid).objects)
    assert [each.key for each in found] == without(NAMES, at)
    assert invalid.name == ("b2" if "b2" in junk else None)
    assert invalid.near == (invalid.name or without(NAMES, at)[min(at, 2)])


def test_an_endless_listing_of_invalid_entries_is_one_error(server: ScriptedServer) -> None:
    server.on("GET", "/v2/_catalog", json_reply({"repositories": [None] * (MAX_INVALID + 1)}))
    with pytest.raises(SynclineError) as caught:
        list(registry(server).catalog(lambda _: None))
    assert caught.value.code.name == "BAD_ANSWER"


def test_a_long_name_is_cut(server: ScriptedServer) -> None:
    server.on("GET", "/v2/_catalog", Reply(200, json.dumps({"repositories": ["A" * 100_000]}).encode()))
    _, invalid = read_one(registry(server).catalog)
    assert len(invalid.label) < 300
    assert len(invalid.error.what) < 1000
