"""Endless listings: each client stops at its limits, with a code that is not retried."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from itertools import cycle as repeated
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from syncline.clients.github.client import GitHub
from syncline.clients.gitlab import client as gitlab_module
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http import client as http_module
from syncline.clients.http import listings as entries
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.listings import (
    LISTING_START,
    TAG_LIMITS,
    EntryReader,
    ListingGuard,
    ListingLimits,
    ListingPosition,
    refuse,
)
from syncline.clients.registry import quay as quay_module
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import OCI_MANIFEST
from syncline.clients.registry.quay import Quay
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.files.listing import listed_ahead
from tests.rig.server import Reply, Request, ScriptedServer, json_reply
from tests.standins.made_up import Naps

DIGEST = "sha256:" + "ab" * 32
PAGE = 20_000
"""Number of entries in a page of the endless servers, so that limits are reached in few requests."""
STOP = 300
"""Number of requests after which an endless server fails, so that a client without a limit fails."""

Entry = Callable[[int], Any]
Wrap = Callable[[list[Any], int], Any]


def number_of(request: Request) -> int:
    return int(parse_qs(urlsplit(request.target).query).get("at", ["0"])[0])


class Endless:
    """A server that lists ``entry(n)`` for all n. ``wrap`` makes a page of entries and the number of the next page."""

    def __init__(self, server: ScriptedServer, path: str, entry: Entry, wrap: Wrap, page: int = PAGE) -> None:
        self.asked = 0

        def answer(request: Request) -> Reply:
            self.asked += 1
            if self.asked > STOP:
                return Reply(400, b"{}")
            at = number_of(request)
            listed = [entry(at * page + n) for n in range(page)]
            link = f'<{path}?at={at + 1}>; rel="next"'
            return Reply(200, json.dumps(wrap(listed, at + 1)).encode(), {"Link": link})

        server.on("GET", path, answer)


def error_of(listing: Callable[[], Iterable[Any]]) -> SynclineError:
    """Read a listing, discard its entries, and return the error at its end."""
    with pytest.raises(SynclineError) as caught:
        for _ in listing():
            pass
    return caught.value


def check_too_long(error: SynclineError, *words: str) -> None:
    assert error.code.name == "LISTING_TOO_LONG", error
    assert not error.retried
    assert all(word in error.what for word in words), error.what


@pytest.mark.parametrize(
    ("path", "key", "name", "limit"),
    [("/v2/org/app/tags/list", "tags", "v{}", "1,100,000"), ("/v2/_catalog", "repositories", "org/app{}", "200,000")],
)
def test_names_of_a_registry_are_limited(
    server: ScriptedServer, registry: Registry, path: str, key: str, name: str, limit: str
) -> None:
    endless = Endless(server, path, name.format, lambda names, _: {key: names})
    error = error_of(lambda: registry.tags("org/app") if key == "tags" else registry.catalog())
    check_too_long(error, f"more than {limit} entries", registry.host)
    assert endless.asked == int(limit.replace(",", "")) // PAGE + 1


def test_referrers_are_limited(server: ScriptedServer, registry: Registry) -> None:
    def descriptor(number: int) -> dict[str, Any]:
        return {"mediaType": OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 1}

    path = f"/v2/org/app/referrers/{DIGEST}"
    Endless(server, path, descriptor, lambda listed, _: {"schemaVersion": 2, "manifests": listed}, page=1000)
    check_too_long(error_of(lambda: registry.referrers("org/app", DIGEST)), "more than 20,000 entries", "the referrers")


def test_repositories_and_tags_of_quay_are_limited(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quay_module, "TAG_LIMITS", ListingLimits(entries=45_000))
    monkeypatch.setattr(quay_module, "REPOSITORY_LIMITS", ListingLimits(entries=30_000))
    quay = Quay(Endpoint.parse(server.url), lambda: None, Http(Naps().policy()))

    def repositories(request: Request) -> Reply:
        at = int(parse_qs(urlsplit(request.target).query).get("next_page", ["0"])[0])
        listed = [{"namespace": "org", "name": f"app{at * PAGE + n}", "state": "NORMAL"} for n in range(PAGE)]
        return json_reply({"repositories": listed, "next_page": str(at + 1)})

    def tags(request: Request) -> Reply:
        at = int(parse_qs(urlsplit(request.target).query)["page"][0])
        listed = [{"name": f"v{at * PAGE + n}", "manifest_digest": DIGEST} for n in range(PAGE)]
        return json_reply({"tags": listed, "page": at, "has_additional": at < STOP})

    server.on("GET", "/api/v1/repository", repositories)
    server.on("GET", "/api/v1/repository/org/app/tag/", tags)
    check_too_long(error_of(lambda: quay.repositories("org")), "more than 30,000 entries", "'org'")
    check_too_long(error_of(lambda: quay.tag_pages("org/app")), "more than 45,000 entries", "'org/app'")


def test_repositories_and_tags_of_gitlab_are_limited(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gitlab_module, "TAG_LIMITS", ListingLimits(entries=45_000))
    gitlab = GitLab(Endpoint.parse(server.url), "org/app", lambda: None, Http(Naps().policy()))
    base = "/api/v4/projects/org%2Fapp/registry/repositories"
    Endless(server, base, lambda n: {"id": n, "name": "", "path": f"org/app/{n}"}, lambda listed, _: listed)
    Endless(server, f"{base}/7/tags", lambda n: {"name": f"v{n}"}, lambda listed, _: listed)
    check_too_long(error_of(gitlab.repositories), "more than 20,000 entries", "org/app")
    check_too_long(error_of(lambda: gitlab.tags(7)), "more than 45,000 entries", "repository 7")


def test_runs_and_artifacts_of_github_are_limited(server: ScriptedServer) -> None:
    github = GitHub(Endpoint.parse(server.url), lambda: None, Http(Naps().policy()))

    def run(number: int) -> dict[str, Any]:
        moment = "2026-01-01T00:00:00Z"
        return {"id": number, "created_at": moment, "updated_at": moment}

    def artifact(number: int) -> dict[str, Any]:
        return {"id": number, "name": "images", "size_in_bytes": 1, "expired": False}

    base = "/repos/org/app/actions"
    Endless(server, f"{base}/workflows/build.yml/runs", run, lambda listed, _: {"workflow_runs": listed}, page=1000)
    Endless(server, f"{base}/runs/7/artifacts", artifact, lambda listed, _: {"artifacts": listed}, page=1000)
    check_too_long(error_of(lambda: github.runs("org/app", "build.yml")), "more than 20,000 entries", "build.yml")
    check_too_long(error_of(lambda: github.artifacts("org/app", 7)), "more than 20,000 entries", "run 7")


def test_keys_of_a_bucket_are_limited(server: ScriptedServer) -> None:
    bucket = Bucket(Endpoint.parse(server.url), "backups", lambda: None, Http(Naps().policy()))

    def keys(request: Request) -> Reply:
        at = int(parse_qs(urlsplit(request.target).query).get("continuation-token", ["0"])[0])
        listed = "".join(
            f"<Contents><Key>k{at:06}-{n:06}</Key><ETag>e</ETag><Size>1</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for n in range(10)
        )
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{at + 1}</NextContinuationToken>"
        return Reply(200, f"<ListBucketResult>{listed}{more}</ListBucketResult>".encode())

    server.on("GET", "/backups/", keys)
    check_too_long(
        error_of(lambda: bucket.pages(limits=ListingLimits(entries=500))), "more than 500 entries", "backups"
    )
    assert len(server.requests) == 51


@pytest.mark.parametrize("folders", [0, 3])
def test_pages_without_keys_are_limited(server: ScriptedServer, folders: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of files would follow tokens without finding a key."""
    monkeypatch.setattr(entries, "_MAX_EMPTY_PAGES", 20)
    bucket = Bucket(Endpoint.parse(server.url), "files", lambda: None, Http(Naps().policy()))

    def keys(request: Request) -> Reply:
        query = parse_qs(urlsplit(request.target).query)
        if "delimiter" in query:
            tops = "".join(f"<CommonPrefixes><Prefix>{n}/</Prefix></CommonPrefixes>" for n in range(folders))
            return Reply(200, f"<ListBucketResult>{tops}<IsTruncated>false</IsTruncated></ListBucketResult>".encode())
        at = int(query.get("continuation-token", ["0"])[0])
        if at > STOP:
            return Reply(400, b"")
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{at + 1}</NextContinuationToken>"
        return Reply(200, f"<ListBucketResult>{more}</ListBucketResult>".encode())

    server.on("GET", "/files/", keys)
    check_too_long(error_of(lambda: listed_ahead(bucket, "", "")), "more than 20 empty pages in a row")


@pytest.mark.parametrize("markers", [("7", "3"), ("20000", "20001"), ("x", "y")])
def test_a_listing_of_parts_must_advance(server: ScriptedServer, markers: tuple[str, str]) -> None:
    upload = Bucket(Endpoint.parse(server.url), "files", lambda: None, Http(Naps().policy())).resume_upload("a", "1")
    pages = [
        Reply(200, f"<ListPartsResult>{more}</ListPartsResult>".encode())
        for more in (
            f"<IsTruncated>true</IsTruncated><NextPartNumberMarker>{m}</NextPartNumberMarker>" for m in markers
        )
    ]
    server.on("GET", "/files/a", *pages, *pages, Reply(400, b""))
    with pytest.raises(SynclineError, match="continues at") as caught:
        upload.parts()
    assert caught.value.code.name == "LISTING_INCOMPLETE"


def count_all(pages: Iterable[Sequence[str]], extent: ListingGuard, tokens: Callable[[int], str] = str) -> None:
    for number, names in enumerate(pages):
        extent.count(names, len(names))
        extent.at(tokens(number))


def test_pages_without_entries_are_limited(server: ScriptedServer, registry: Registry) -> None:
    Endless(server, "/v2/org/app/tags/list", str, lambda _, at: {"tags": ["v1"] if at == 1 else []}, page=0)
    pages = registry.tag_pages("org/app")
    assert [next(pages).entries for _ in range(STOP)] == [["v1"], *([[]] * (STOP - 1))]
    with pytest.raises(SynclineError, match="more than 1000 empty pages in a row") as caught:
        count_all([[]] * 2000, ListingGuard("the list", TAG_LIMITS))
    check_too_long(caught.value)


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (ListingLimits(entries=25), "25 entries"),
        (ListingLimits(entries=99, pages=2), "2 pages"),
        (ListingLimits(entries=99, size=250), "250 bytes"),
    ],
)
def test_each_limit_counts_over_continuations(limits: ListingLimits, limit: str) -> None:
    def read(page: int, start: ListingPosition) -> ListingPosition:
        """Read a page as a separate function does."""
        reading = EntryReader("the list", refuse, limits=limits, start=start)
        assert len(list(reading.read([f"{page}-{n}" for n in range(10)], str, 100))) == 10
        return ListingPosition.of_json(json.loads(json.dumps(reading.at(str(page)).to_json())))

    position = read(2, read(1, LISTING_START))
    assert (position.entries, position.pages, position.size) == (20, 2, 200)
    with pytest.raises(SynclineError, match=f"more than {limit}") as caught:
        read(3, position)
    check_too_long(caught.value)


@pytest.mark.parametrize("cycle", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("lead", [0, 1, 5, 40])
def test_a_cycle_of_any_length_is_found(lead: int, cycle: int) -> None:
    """``lead`` pages occur once, then ``cycle`` pages repeat, each time with a new link."""
    read: list[int] = []

    def pages() -> Iterator[list[str]]:
        for page in chain(range(lead), repeated(range(lead, lead + cycle))):
            read.append(page)
            yield [f"{page}-{n}" for n in range(3)]

    with pytest.raises(SynclineError, match="came twice") as caught:
        count_all(pages(), ListingGuard("the list", TAG_LIMITS))
    assert caught.value.code.name == "LISTING_INCOMPLETE"
    assert len(read) <= 4 * (lead + cycle)


def test_a_repeated_link_is_found_without_names() -> None:
    with pytest.raises(SynclineError, match="leads back") as caught:
        count_all([[]] * 100, ListingGuard("the list", TAG_LIMITS), lambda number: f"page {number % 6}")
    assert caught.value.code.name == "LISTING_INCOMPLETE"


def test_a_list_of_tags_that_is_too_large_for_one_response_is_not_retried(
    server: ScriptedServer, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docker-registry 2.8 lists all tags of a repository in one response, for every page size."""
    monkeypatch.setattr(http_module, "BODY_LIMIT", 100_000)
    server.on("GET", "/v2/a/b/tags/list", json_reply({"name": "a/b", "tags": [f"t{n:08}" for n in range(10_000)]}))
    registry = Registry(Endpoint.parse(server.url), lambda: None, http)
    with pytest.raises(SynclineError) as caught:
        list(registry.tags("a/b"))
    assert (caught.value.code.name, len(server.requests)) == ("LISTING_TOO_LONG", 1)
    assert "the tags of 'a/b' at" in caught.value.what
    assert "the response is larger than 100000 bytes" in caught.value.what
