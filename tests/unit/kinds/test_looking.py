from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import SynclineError
from syncline.kinds.images import looking
from syncline.kinds.kind import Pace
from syncline.model import EVERYTHING, Item, Outcome, Scope
from tests.unit.kinds.images_world import Bench, found


def test_a_push_has_no_other_organization_listed_than_its_own() -> None:
    content = {"team/a": {"1": "d1"}, "other/b": {"1": "d2"}}
    bench = Bench(content, content, api=True, source={"organizations": ["team", "other", "third"]})
    assert bench.source_api is not None
    assert bench.target_api is not None
    bench.look(Scope.of(["team/a"]))
    assert (bench.source_api.listed, bench.target_api.listed) == ([], ["team"])


def test_only_what_differs_is_found() -> None:
    bench = Bench(
        {"team/a": {"new": "d1", "same": "d2", "other": "d3"}, "team/b": {"new": "d4"}},
        {"team/a": {"same": "d2", "other": "d9", "only here": "d5"}},
    )
    first, second = bench.look()
    assert (first.cursor, second.cursor) == ("team/a", "team/b")
    assert first.items == (Item("team/a", "new"),)
    assert first.skipped == 1
    (conflict,) = first.results
    assert (conflict.outcome, conflict.code, conflict.source, conflict.target) == (
        Outcome.CONFLICT,
        "TAG_DIFFERS",
        "d3",
        "d9",
    )
    assert found([second]) == [("team/b", "new")]


def test_where_a_sync_may_overwrite_what_differs_moves() -> None:
    bench = Bench({"team/a": {"1": "d1"}}, {"team/a": {"1": "d9"}}, overwrite=True)
    (page,) = bench.look()
    assert page.items == (Item("team/a", "1", "d1", "d9"),)
    assert page.results == ()


def test_digests_of_listings_are_not_asked_for_again() -> None:
    content = {f"team/{n}": {str(m): f"d{m}" for m in range(5)} for n in range(8)}
    bench = Bench(content, {**content, "team/0": {}}, api=True)
    pages = bench.look()
    assert sum(page.skipped for page in pages) == 35
    assert len(found(pages)) == 5
    assert bench.source.asked == bench.target.asked == []


def test_plain_registries_are_asked_only_for_tags_that_both_have() -> None:
    bench = Bench({"team/a": {"1": "d1", "2": "d2"}}, {"team/a": {"2": "d2"}})
    bench.look()
    assert [each for each in bench.source.asked if each.startswith("digest")] == ["digest team/a:2"]
    assert [each for each in bench.target.asked if each.startswith("digest")] == ["digest team/a:2"]


def test_a_repository_that_the_target_lacks_is_marked_as_fresh() -> None:
    bench = Bench({"team/a": {"1": "d1"}, "team/b": {"1": "d1"}}, {"team/b": {"2": "d2"}})
    first, second = bench.look()
    assert [item.detail for item in first.items] == [{"fresh": True}]
    assert [item.detail for item in second.items] == [{}]


@pytest.mark.parametrize(("referrers", "scheduled", "named"), [("with-images", 0, 2), ("always", 2, 2), ("none", 0, 0)])
def test_a_scheduled_look_asks_for_no_referrers_of_what_is_equal(referrers: str, scheduled: int, named: int) -> None:
    content = {"team/a": {"1": "d1", "latest": "d1", "2": "d2"}}
    for scope, wanted in ((EVERYTHING, scheduled), (Scope.of(["team/a"]), named)):
        bench = Bench(content, content, referrers=referrers)
        assert sum(page.skipped for page in bench.look(scope)) == 3
        assert len([each for each in bench.source.asked if each.startswith("referrers")]) == wanted
        assert not [each for each in bench.target.asked if each.startswith("referrers")], "the source has none"


def test_names_at_the_target_have_its_prefix() -> None:
    bench = Bench({"team/a": {"1": "d1"}}, {"mirror/team/a": {"1": "d1"}}, target={"prefix": "mirror"})
    (page,) = bench.look()
    assert (page.skipped, page.items) == (1, ())
    (page,) = bench.look(Scope.of(["mirror/team/a", "elsewhere/team/a", "mirror/team/gone"]))[:1]
    assert (page.cursor, page.skipped) == ("team/a", 1)


def test_a_scope_is_looked_at_without_listing_everything() -> None:
    bench = Bench({"team/a": {"1": "d1"}, "team/b": {"1": "d1"}}, {}, source={"catalog": True})
    bench.source.catalog_pages = lambda _odd, _start: pytest.fail("everything is listed")  # type: ignore[method-assign,assignment]
    assert found(bench.look(Scope.of(["team/b"]))) == [("team/b", "1")]


def test_a_hint_for_what_the_sync_does_not_take_comes_to_nothing() -> None:
    bench = Bench({"team/a": {"1": "d1"}, "x/b": {"1": "d"}}, {}, select={"repositories": {"include": ["team/*"]}})
    assert found(bench.look(Scope.of(["x/b"]))) == []
    assert found(bench.look()) == [("team/a", "1")]


def test_tags_are_selected_and_signatures_follow() -> None:
    signature = f"sha256-{'0' * 64}.sig"
    bench = Bench({"team/a": {"v1": "1", "dev": "2", signature: "3"}}, {}, select={"tags": {"include": ["v*"]}})
    assert found(bench.look()) == [("team/a", signature), ("team/a", "v1")]


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    page_tags=st.integers(1, 4),
    at=st.integers(0, 30),
)
def test_a_look_can_be_taken_up_behind_any_page(sizes: list[int], page_tags: int, at: int) -> None:
    content = {f"team/{n}": {f"t{m}": f"d{n}{m}" for m in range(size)} for n, size in enumerate(sizes)}
    before, looking.PAGE_TAGS = looking.PAGE_TAGS, page_tags  # type: ignore[misc]
    try:
        bench = Bench(content, {})
        pages = bench.look()
        everything = [(name, tag) for name, tags in content.items() for tag in tags]
        assert found(pages) == everything
        assert all(len(page.items) <= page_tags for page in pages)
        cursor = pages[at % len(pages)].cursor
        assert found(pages[: at % len(pages) + 1]) + found(bench.look(cursor=cursor)) == everything
    finally:
        looking.PAGE_TAGS = before  # type: ignore[misc]


def test_a_look_stops_when_the_time_is_over() -> None:
    content = {f"team/{n:02}": {"1": "d"} for n in range(60)}
    bench = Bench(content, {})
    left, number = [1.0] * 5, 0
    for number, page in enumerate(bench.pages(EVERYTHING, None, Pace(lambda: sum(left)))):
        assert page.cursor == f"team/{number:02}"
        left.pop()
    assert number == 4
    assert len(bench.source.asked) < 60


def test_a_repository_with_more_tags_than_a_function_has_time_for_is_left_between_two_pages() -> None:
    tags = {f"t{n:04}": f"d{n}" for n in range(looking.PAGE_TAGS * 3)}
    bench = Bench({"team/a": tags, "team/b": {"1": "d"}}, {"team/a": tags})

    def asked() -> int:
        return sum(each.startswith("digest") for each in bench.source.asked)

    cursor, skipped, functions = None, 0, []
    while cursor != "team/b":
        bench.source.asked.clear()
        for page in bench.pages(EVERYTHING, cursor, Pace(lambda: 60.0 if asked() <= looking.PAGE_TAGS else 0.0)):
            cursor, skipped = page.cursor, skipped + page.skipped
        functions.append(asked())
    assert skipped == len(tags)
    assert functions == [looking.PAGE_TAGS * 2, looking.PAGE_TAGS]


def test_digests_of_one_repository_are_asked_for_side_by_side() -> None:
    tags = {f"t{n}": f"d{n}" for n in range(8)}
    bench = Bench({"team/a": tags}, {"team/a": tags})
    together = threading.Barrier(8, timeout=10)

    def manifest_digest(_repository: str, reference: str) -> str:
        together.wait()
        return tags[reference]

    bench.source.manifest_digest = manifest_digest  # type: ignore[method-assign,assignment]
    (page,) = bench.look()
    assert page.skipped == 8


def test_one_repository_that_cannot_be_read_does_not_stop_the_look() -> None:
    bench = Bench({"team/a": {"1": "d"}, "team/b": {"1": "d"}, "team/c": {"1": "d"}}, {})
    bench.source.broken["team/b"] = SynclineError("FORBIDDEN", "no")
    pages = bench.look()
    assert found(pages) == [("team/a", "1"), ("team/c", "1")]
    (failure,) = pages[1].failures
    assert (failure.item.group, failure.item.name, failure.error.code.name) == ("team/b", "*", "FORBIDDEN")


def test_a_tag_removed_at_the_source_since_it_was_listed_is_no_item() -> None:
    bench = Bench({"team/a": {"1": "d1", "2": "d2"}}, {"team/a": {"1": "d9", "2": "d2"}})
    bench.source.manifest_digest = lambda _name, tag: None if tag == "1" else "d2"  # type: ignore[method-assign,assignment]
    (page,) = bench.look()
    assert (page.items, page.results, page.skipped) == ((), (), 1)


def test_a_tag_removed_at_the_target_since_it_was_listed_moves() -> None:
    bench = Bench({"team/a": {"1": "d1"}}, {"team/a": {"1": "d9"}})
    bench.target.manifest_digest = lambda _name, _tag: None  # type: ignore[method-assign,assignment]
    assert found(bench.look()) == [("team/a", "1")]


@pytest.mark.parametrize("api", [True, False])
def test_an_empty_list_of_everything_is_never_nothing_to_do(api: bool) -> None:
    with pytest.raises(SynclineError, match="LISTING_INCOMPLETE"):
        Bench({}, {}, api=api).look()


def test_one_empty_organization_among_others_costs_itself_alone() -> None:
    bench = Bench({"team/a": {"1": "d"}}, {}, api=True, source={"organizations": ["gone", "team"]})
    pages = bench.look()
    assert found(pages) == [("team/a", "1")]
    (failure,) = (each for page in pages for each in page.failures)
    assert (failure.item, failure.error.code.name) == (Item("*", "gone"), "SOURCE_ABSENT")


def test_an_empty_list_of_tags_must_be_confirmed_by_the_registry() -> None:
    bench = Bench({"team/a": {"1": "d"}, "team/b": {}}, {}, api=True)
    assert bench.source_api is not None
    bench.source_api.content = {"team/a": {}, "team/b": {}}
    first, second = bench.look()
    assert [failure.error.code.name for failure in first.failures] == ["LISTING_INCOMPLETE"]
    assert (second.items, second.failures) == ((), ())


def test_where_the_api_knows_nothing_the_registry_decides() -> None:
    bench = Bench({"team/a": {"1": "d1"}}, {"team/a": {"1": "d1"}}, api=True)
    assert bench.target_api is not None
    bench.target_api.content = {}
    (page,) = bench.look()
    assert page.skipped == 1
    assert bench.target.asked == ["tags team/a", "digest team/a:1"]


@pytest.mark.parametrize("state", ["READ_ONLY", "MIRROR"])
def test_a_repository_that_takes_no_pushes_fails_item_by_item(state: str) -> None:
    bench = Bench({"team/a": {"1": "d1", "2": "d2", "3": "d3"}}, {"team/a": {"1": "d1", "2": "d9"}}, api=True)
    assert bench.target_api is not None
    bench.target_api.states = {"team/a": state}
    (page,) = bench.look()
    assert (page.items, page.skipped, len(page.results)) == ((), 1, 1)
    assert [(f.item.name, f.error.code.name) for f in page.failures] == [("3", "READ_ONLY")]


@pytest.mark.parametrize("code", ["NOT_FOUND", "FORBIDDEN", "UNAUTHORIZED"])
def test_a_namespace_that_the_target_does_not_have_yet_is_no_failure(code: str) -> None:
    bench = Bench({"team/a": {"1": "d1"}}, {}, api=True)
    assert bench.target_api is not None
    bench.target_api.broken["team"] = SynclineError(code, "no such namespace")
    assert found(bench.look()) == [("team/a", "1")]


def test_a_target_whose_api_does_not_answer_fails_the_look() -> None:
    bench = Bench({"team/a": {"1": "d1"}}, {}, api=True)
    assert bench.target_api is not None
    bench.target_api.broken["team"] = SynclineError("SERVER_ERROR", "it failed")
    with pytest.raises(SynclineError, match="SERVER_ERROR"):
        bench.look()
