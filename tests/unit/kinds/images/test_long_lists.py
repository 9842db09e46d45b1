"""Listings of repositories and tags that are too long for memory or endless."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.listings import InvalidEntry, ListingLimits, ListingPage, ListingPosition
from syncline.clients.registry import client as oci
from syncline.clients.registry.client import Registry
from syncline.clients.registry.quay import QuayTag
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images import compare, listing
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import RegistryClients, ScanPosition
from syncline.kinds.kind import Page, StepContext
from syncline.model import EVERYTHING, Item, Scope
from tests.rig.server import Reply, Request, ScriptedServer, errors_reply, json_reply
from tests.standins.made_up import Naps
from tests.unit.kinds.images.world import RegistryPair, found

PAGE_TAGS: Final = 40
TAGS = {f"t{n:03}": f"d{n}" for n in range(730)}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "HELD_TAGS", 250)
    monkeypatch.setattr(listing, "HELD_REPOSITORIES", 250)
    monkeypatch.setattr(compare, "PAGE_TAGS", PAGE_TAGS)


def shuffled(names: list[Any]) -> list[Any]:
    return random.Random(7).sample(names, len(names))


def long_tags(*, api: bool = False) -> RegistryPair:
    """Return a long unordered repository between two short ones; the target has a part of it, with one difference."""
    at_source = {"team/a": {"1": "d"}, "team/b": TAGS, "team/c": {"1": "d"}}
    at_target = {"team/b": {tag: digest for tag, digest in TAGS.items() if int(tag[1:]) % 2} | {"t301": "other"}}
    pair = RegistryPair(at_source, at_target, api=api)
    pair.source.unordered = pair.target.unordered = shuffled
    return pair


def functions(pair: RegistryPair, pages_each: int) -> list[list[Page]]:
    """Scan by functions that have time for ``pages_each`` pages each."""
    made: list[list[Page]] = []
    cursor = None
    while not made or made[-1]:
        pages: list[Page] = []
        context = StepContext(lambda pages=pages: pages_each - len(pages))  # type: ignore[misc]
        for page in pair.pages(EVERYTHING, cursor, context):
            pages.append(page)
            cursor = page.cursor
        made.append(pages)
    return made


@pytest.mark.parametrize("api", [False, True])
def test_a_long_repository_is_compared_page_by_page(api: bool) -> None:
    pair = long_tags(api=api)
    pages = pair.scan()
    even = {("team/b", tag) for tag in TAGS if not int(tag[1:]) % 2}
    assert found(pages)[0] == ("team/a", "1")
    assert found(pages)[-1] == ("team/c", "1")
    assert sorted(found(pages)[1:-1]) == sorted(even)
    assert sum(page.equal for page in pages) == len(TAGS) - len(even) - 1
    assert [each.name for page in pages for each in page.results] == ["t301"]
    assert max(len(page.items) for page in pages) <= PAGE_TAGS
    assert {item.detail.get("signed") for page in pages for item in page.items if item.group == "team/b"} == {"ask"}


def test_images_of_a_long_repository_that_are_incomplete_are_sent_again() -> None:
    pair = long_tags()
    pair.notes.note_unverified("team/b")
    pair.target.cut = {"team/b"}
    tags = {tag for group, tag in found(pair.scan()) if group == "team/b"}
    assert tags == set(TAGS) - {"t301"}


def test_tags_in_the_first_page_of_the_target_are_not_requested() -> None:
    pair = long_tags()
    pair.target.content = {"team/b": dict(list(TAGS.items())[:200])}
    pair.scan()
    asked = [each for each in pair.target.asked if each.startswith("digest")]
    assert len(asked) == 200, "the target's list is in memory and shows the missing tags"


@pytest.mark.parametrize("pages_each", [1, 2, 3, 7])
def test_the_next_function_continues_a_long_repository(pages_each: int) -> None:
    pair = long_tags()
    made = functions(pair, pages_each)
    pages = [page for each in made for page in each]
    assert len(made) > 20 / pages_each
    assert sorted(set(found(pages))) == sorted(found(long_tags().scan()))
    assert len(found(pages)) == len(set(found(pages))), "each is sent once"
    assert sum(page.equal for page in pages) == 364


@pytest.mark.parametrize("pages_each", [1, 3, 1000])
@pytest.mark.parametrize("side", ["source", "target"])
def test_an_invalid_tag_of_a_long_repository_is_a_failure_once(pages_each: int, side: str) -> None:
    pair = long_tags()
    invalid = InvalidEntry("entry 3", "t 3", SynclineError("REFERENCE_INVALID", "no tag"))
    getattr(pair, side).invalid_tags = {"team/b": [invalid]}
    pages = [page for each in functions(pair, pages_each) for page in each]
    assert [each.item for page in pages for each in page.failures] == [Item("team/b", "t 3")]
    assert sorted(found(pages)) == sorted(found(long_tags().scan()))


@pytest.mark.parametrize("api", [False, True])
def test_repositories_scanned_from_a_list_in_memory_are_not_scanned_again(api: bool) -> None:
    """The next function has no time to read the list into memory; it reads pages in the registry's order."""
    content = {f"team/{n:03}": {"1": "d"} for n in shuffled(list(range(230)))}
    pair = RegistryPair(content, {name: content[name] for name in sorted(content)[::2]}, api=api)
    pages = list(islice(pair.pages(EVERYTHING, None, StepContext(lambda: 60.0)), 100))
    assert 0 < len(found(pages)) < 115
    times = iter([1.0])
    pages += pair.pages(EVERYTHING, pages[-1].cursor, StepContext(lambda: next(times, -1.0)))
    assert ScanPosition.parse(pages[-1].cursor).after, "the list was too long for the function"
    pages += pair.scan(cursor=pages[-1].cursor)
    assert sorted(found(pages)) == [(name, "1") for name in sorted(content)[1::2]]
    assert sum(page.equal for page in pages) == 115


def test_tags_scanned_from_a_list_in_memory_are_not_scanned_again() -> None:
    tags = dict(list(TAGS.items())[:230])
    pair = RegistryPair({"team/b": tags}, {"team/b": dict(list(tags.items())[::2])})
    pair.source.unordered = pair.target.unordered = shuffled
    pages = list(islice(pair.pages(EVERYTHING, f"team/b:{min(tags)}", StepContext(lambda: 60.0)), 1))
    assert 0 < len(found(pages)) < 115
    times = iter([1.0] * 3)
    pages += pair.pages(EVERYTHING, pages[-1].cursor, StepContext(lambda: next(times, -1.0)))
    assert "?" in pages[-1].cursor, "the list was too long for the function"
    pages += pair.scan(cursor=pages[-1].cursor)
    assert sorted(found(pages)) == [("team/b", tag) for tag in list(tags)[1::2]]
    assert sum(page.equal for page in pages) == 114


@pytest.mark.parametrize("breaks", [1, 2, 4, 6, 9, 12])
def test_an_interrupted_listing_of_a_long_repository_is_continued(breaks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is interrupted after ``breaks`` pages; no tag is sent or counted twice."""
    pair, asked = long_tags(), 0
    tag_pages = pair.source.tag_pages

    def breaking(repository: str, *where: Any) -> Iterator[Any]:
        nonlocal asked
        for page in tag_pages(repository, *where):
            asked += repository == "team/b"
            if asked == breaks and repository == "team/b":
                asked += 1
                raise SynclineError("UNREACHABLE", "it broke off")
            yield page

    monkeypatch.setattr(pair.source, "tag_pages", breaking)
    pages = pair.scan()
    (failure,) = (each for page in pages for each in page.failures)
    assert (str(failure.item), failure.error.code.name) == ("team/b:*", "UNREACHABLE")
    assert (failure.cursor is not None) == (breaks > 3), "listings in memory are read from their beginning"
    assert failure.further == (breaks > 4)
    pages += pair.scan(Scope.of(["team/b"]), failure.cursor)
    assert sorted(found(pages)) == sorted(found(long_tags().scan()))
    assert sum(page.equal for page in pages) == 364


@pytest.mark.parametrize("api", [False, True])
@pytest.mark.parametrize("pages_each", [3, 1000])
def test_the_next_function_continues_a_long_list_of_repositories(pages_each: int, api: bool) -> None:
    content = {f"team/{n:03}": {"1": "d"} for n in range(730)}
    pair = RegistryPair(content, {name: content[name] for name in list(content)[::2]}, api=api)
    made = functions(pair, pages_each)
    pages = [page for each in made for page in each]
    assert sorted(found(pages)) == [(name, "1") for name in list(content)[1::2]]
    assert sum(page.equal for page in pages) == 365
    assert all(len(each) <= pages_each for each in made)


@pytest.mark.parametrize(("left", "read"), [(60.0, 3), (0.0, 1)])
def test_a_target_with_too_many_repositories_is_not_listed_to_its_end(left: float, read: int) -> None:
    pair = RegistryPair({"team/a": {"1": "d"}}, {f"team/{n:03}": {"1": "d"} for n in range(730)}, api=True)
    list(pair.pages(EVERYTHING, None, StepContext(lambda: left)))
    assert pair.target_api is not None
    assert pair.target_api.pages == read


@pytest.mark.parametrize("listed", [{}, {"team/b": {}}], ids=["absent", "empty"])
def test_a_list_begun_without_time_may_be_empty(listed: dict[str, dict[str, str]]) -> None:
    pair = RegistryPair(listed, {}, source={"catalog": False, "repositories": ["team/b"]})
    at_once = pair.scan(cursor=f"team/b?{ScanPosition()}")
    assert [page.cursor for page in at_once][-1] == "team/b", "the next function does not start it again"
    failures = [each.error.code.name for page in at_once for each in page.failures]
    assert failures == ([] if listed else ["SOURCE_ABSENT"])
    assert failures == [each.error.code.name for page in pair.scan() for each in page.failures]


@pytest.mark.parametrize("counted", [False, True])
def test_an_empty_catalog_begun_without_time_is_an_error(counted: bool) -> None:
    with pytest.raises(SynclineError, match="LISTING_INCOMPLETE"):
        RegistryPair({}, {}).scan(cursor=str(ScanPosition(counted=counted)))


@pytest.mark.parametrize("counted", [False, True])
def test_an_api_that_refuses_in_the_middle_of_a_list_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    def tag_pages(*_: object) -> Iterator[ListingPage[dict[str, QuayTag]]]:
        raise SynclineError("FORBIDDEN", "the token was withdrawn")

    pair = long_tags(api=True)
    monkeypatch.setattr(pair.source_api, "tag_pages", tag_pages)
    position = ScanPosition(ListingPosition("300", 300, 3), counted)
    pages = pair.scan(cursor=f"team/b?{position}")
    (failure,) = (each for page in pages for each in page.failures)
    assert (str(failure.item), failure.error.code.name) == ("team/b:*", "FORBIDDEN")
    assert not [each for each in pair.source.asked if each.startswith("tags team/b")], "it has other positions"


class EndlessRegistries:
    """A source with an endless listing, and a target without any repository."""

    def __init__(self, stack: ExitStack, endless: str, key: str) -> None:
        self.source = stack.enter_context(ScriptedServer())
        self.target = stack.enter_context(ScriptedServer())
        self.requests = 0

        def answer(request: Request) -> Reply:
            self.requests += 1
            at = int(parse_qs(urlsplit(request.target).query).get("last", ["0"])[0])
            names = [f"x{number:06}" for number in range(at, at + 100)]
            return json_reply({key: names}, Link=f'<{endless}?n=100&last={at + 100}>; rel="next"')

        self.source.on("GET", endless, answer)

    def functions(self, pages_each: int, source: dict[str, Any]) -> Iterator[list[Page]]:
        cursor: str | None = None
        for _ in range(1000):
            before = self.requests
            pages: list[Page] = []
            for page in self.scan(source, cursor, lambda before=before: before + pages_each - self.requests):  # type: ignore[misc]
                pages.append(page)
                cursor = page.cursor
            yield pages
            assert self.requests <= before + pages_each + 1
            if self.requests < before + pages_each:
                return

    def scan(self, source: dict[str, Any], cursor: str | None, left: Callable[[], float]) -> Iterator[Page]:
        places = {
            "source": {"registry": self.source.host, "plain_http": True, **source},
            "target": {"registry": self.target.host, "plain_http": True},
        }
        sync = load_sync(json.dumps({"name": "s", "kind": "images", **places}))
        assert isinstance(sync, ImagesSync)
        scan = ImageScan(sync, side(self.source), side(self.target), TargetNotes(ProcessFacts(), "dr.example"))
        yield from scan.pages(EVERYTHING, cursor, StepContext(left))


def side(server: ScriptedServer) -> RegistryClients:
    return RegistryClients(Registry(Endpoint.parse(server.url), lambda: None, Http(Naps().policy())), None)


def test_an_endless_list_of_tags_fails_only_its_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "TAG_LIMITS", ListingLimits(entries=5_000))
    with ExitStack() as stack:
        world = EndlessRegistries(stack, "/v2/team/a/tags/list", "tags")
        world.source.on("GET", "/v2/team/b/tags/list", json_reply({"tags": ["v1"]}))
        world.target.on("GET", "/v2/team/b/tags/list", errors_reply(404, "NAME_UNKNOWN"))
        # Requested if the time of a function is over before the target's tags are listed.
        world.target.on("HEAD", "/v2/team/b/manifests/v1", errors_reply(404, "MANIFEST_UNKNOWN"))
        made = list(world.functions(10, {"repositories": ["team/a", "team/b"]}))
    pages = [page for each in made for page in each]
    assert found(pages) == [("team/b", "v1")], "no tag of an endless listing is sent"
    (failure,) = (each for page in pages for each in page.failures)
    assert (str(failure.item), failure.error.code.name, failure.error.retried) == (
        "team/a:*",
        "LISTING_TOO_LONG",
        False,
    )
    assert world.requests == 51
    assert len(made) >= 5


def test_an_endless_catalog_ends_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "REPOSITORY_LIMITS", ListingLimits(entries=5_000))
    with ExitStack() as stack:
        world = EndlessRegistries(stack, "/v2/_catalog", "repositories")
        with pytest.raises(Exception, match="more than 5,000 entries") as caught:
            for _ in world.functions(10, {"catalog": True}):
                pass
    assert "LISTING_TOO_LONG" in str(caught.value)
    assert world.requests == 51
    assert {request.path for request in world.source.requests} == {"/v2/_catalog"}
