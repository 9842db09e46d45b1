"""Scans of two registries find the tags to copy, failures and conflicts."""

from __future__ import annotations

import threading
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.http.listings import InvalidEntry
from syncline.clients.registry.manifest import OCI_MANIFEST, Descriptor, referrers_tag
from syncline.errors import CodeName, SynclineError
from syncline.kinds.images.listing import PAGE_TAGS
from syncline.kinds.kind import StepContext
from syncline.model import EVERYTHING, Item, Outcome, Scope
from tests.unit.kinds.images.world import RegistryPair, found


def test_a_push_lists_only_its_own_organization() -> None:
    content = {"team/a": {"1": "d1"}, "other/b": {"1": "d2"}}
    pair = RegistryPair(content, content, api=True, source={"organizations": ["team", "other", "third"]})
    assert pair.source_api is not None
    assert pair.target_api is not None
    pair.scan(Scope.of(["team/a"]))
    assert (pair.source_api.listed, pair.target_api.listed) == ([], ["team"])


def test_only_differing_tags_are_found() -> None:
    pair = RegistryPair(
        {"team/a": {"new": "d1", "same": "d2", "other": "d3"}, "team/b": {"new": "d4"}},
        {"team/a": {"same": "d2", "other": "d9", "only here": "d5"}},
    )
    first, second = pair.scan()
    assert (first.cursor, second.cursor) == ("team/a", "team/b")
    assert first.items == (Item("team/a", "new", detail={"signed": False}),)
    assert first.equal == 1
    (conflict,) = first.results
    assert (conflict.outcome, conflict.code, conflict.source, conflict.target) == (
        Outcome.CONFLICT,
        "TAG_DIFFERS",
        "d3",
        "d9",
    )
    assert found([second]) == [("team/b", "new")]


def test_a_differing_tag_is_sent_if_the_sync_may_overwrite() -> None:
    pair = RegistryPair({"team/a": {"1": "d1"}}, {"team/a": {"1": "d9"}}, overwrite=True)
    (page,) = pair.scan()
    assert page.items == (Item("team/a", "1", "d1", "d9", detail={"signed": False}),)
    assert page.results == ()


def test_digests_of_listings_are_not_requested_again() -> None:
    content = {f"team/{n}": {str(m): f"d{m}" for m in range(5)} for n in range(8)}
    pair = RegistryPair(content, {**content, "team/0": {}}, api=True)
    pages = pair.scan()
    assert sum(page.equal for page in pages) == 35
    assert len(found(pages)) == 5
    assert pair.source.asked == pair.target.asked == []


def test_plain_registries_are_asked_only_for_tags_that_both_have() -> None:
    pair = RegistryPair({"team/a": {"1": "d1", "2": "d2"}}, {"team/a": {"2": "d2"}})
    pair.scan()
    assert [each for each in pair.source.asked if each.startswith("digest")] == ["digest team/a:2"]
    assert [each for each in pair.target.asked if each.startswith("digest")] == ["digest team/a:2"]


def test_a_repository_that_the_target_lacks_is_marked_as_fresh() -> None:
    pair = RegistryPair({"team/a": {"1": "d1"}, "team/b": {"1": "d1"}}, {"team/b": {"2": "d2"}})
    first, second = pair.scan()
    assert [item.detail for item in first.items] == [{"fresh": True, "signed": False}]
    assert [item.detail for item in second.items] == [{"signed": False}]


@pytest.mark.parametrize(("referrers", "scheduled", "named"), [("with-images", 0, 2), ("always", 2, 2), ("none", 0, 0)])
def test_a_scheduled_scan_requests_no_referrers_of_equal_images(referrers: str, scheduled: int, named: int) -> None:
    content = {"team/a": {"1": "d1", "latest": "d1", "2": "d2"}}
    for scope, wanted in ((EVERYTHING, scheduled), (Scope.of(["team/a"]), named)):
        pair = RegistryPair(content, content, referrers=referrers)
        assert sum(page.equal for page in pair.scan(scope)) == 3
        assert len([each for each in pair.source.asked if each.startswith("referrers")]) == wanted
        assert not [each for each in pair.target.asked if each.startswith("referrers")], "the source has none"


def test_names_at_the_target_have_its_prefix() -> None:
    pair = RegistryPair({"team/a": {"1": "d1"}}, {"mirror/team/a": {"1": "d1"}}, target={"prefix": "mirror"})
    (page,) = pair.scan()
    assert (page.equal, page.items) == (1, ())
    (page,) = pair.scan(Scope.of(["mirror/team/a", "elsewhere/team/a", "mirror/team/gone"]))[:1]
    assert (page.cursor, page.equal) == ("team/a", 1)


def test_a_scope_is_scanned_without_listing_everything() -> None:
    pair = RegistryPair({"team/a": {"1": "d1"}, "team/b": {"1": "d1"}}, {}, source={"catalog": True})
    pair.source.catalog_pages = lambda _invalid, _start: pytest.fail("all repositories were listed")  # type: ignore[method-assign,assignment]
    assert found(pair.scan(Scope.of(["team/b"]))) == [("team/b", "1")]


def test_an_event_of_an_unselected_repository_has_no_effect() -> None:
    pair = RegistryPair(
        {"team/a": {"1": "d1"}, "x/b": {"1": "d"}}, {}, select={"repositories": {"include": ["team/*"]}}
    )
    assert found(pair.scan(Scope.of(["x/b"]))) == []
    assert found(pair.scan()) == [("team/a", "1")]


def test_tags_are_selected_and_signatures_follow() -> None:
    signature = f"sha256-{'0' * 64}.sig"
    pair = RegistryPair({"team/a": {"v1": "1", "dev": "2", signature: "3"}}, {}, select={"tags": {"include": ["v*"]}})
    (page,) = pair.scan()
    assert found([page]) == [("team/a", signature), ("team/a", "v1")]
    assert [item.detail["signed"] for item in page.items] == [True, True]


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    page_tags=st.integers(1, 4),
    at=st.integers(0, 30),
)
def test_a_scan_resumes_after_any_page(sizes: list[int], page_tags: int, at: int) -> None:
    content = {f"team/{n}": {f"t{m}": f"d{n}{m}" for m in range(size)} for n, size in enumerate(sizes)}
    with patch("syncline.kinds.images.compare.PAGE_TAGS", page_tags):
        pair = RegistryPair(content, {})
        pages = pair.scan()
        everything = [(name, tag) for name, tags in content.items() for tag in tags]
        assert found(pages) == everything
        assert all(len(page.items) <= page_tags for page in pages)
        cursor = pages[at % len(pages)].cursor
        assert found(pages[: at % len(pages) + 1]) + found(pair.scan(cursor=cursor)) == everything


def test_a_scan_stops_when_the_time_is_over() -> None:
    content = {f"team/{n:02}": {"1": "d"} for n in range(60)}
    pair = RegistryPair(content, {})
    left, number = [1.0] * 5, 0
    for number, page in enumerate(pair.pages(EVERYTHING, None, StepContext(lambda: sum(left)))):
        assert page.cursor == f"team/{number:02}"
        left.pop()
    assert number == 4
    assert len(pair.source.asked) < 60


def test_a_scan_without_time_stops_between_two_pages_of_tags() -> None:
    tags = {f"t{n:04}": f"d{n}" for n in range(PAGE_TAGS * 3)}
    pair = RegistryPair({"team/a": tags, "team/b": {"1": "d"}}, {"team/a": tags})

    def asked() -> int:
        return sum(each.startswith("digest") for each in pair.source.asked)

    cursor, skipped, functions = None, 0, []
    while cursor != "team/b":
        pair.source.asked.clear()
        for page in pair.pages(EVERYTHING, cursor, StepContext(lambda: 60.0 if asked() <= PAGE_TAGS else 0.0)):
            cursor, skipped = page.cursor, skipped + page.equal
        functions.append(asked())
    assert skipped == len(tags)
    assert functions == [PAGE_TAGS * 2, PAGE_TAGS]


def test_digests_of_one_repository_are_requested_concurrently() -> None:
    tags = {f"t{n}": f"d{n}" for n in range(8)}
    pair = RegistryPair({"team/a": tags}, {"team/a": tags})
    together = threading.Barrier(8, timeout=10)

    def manifest_digest(_repository: str, reference: str) -> str:
        together.wait()
        return tags[reference]

    pair.source.manifest_digest = manifest_digest  # type: ignore[method-assign,assignment]
    (page,) = pair.scan()
    assert page.equal == 8


def test_one_repository_that_cannot_be_read_does_not_stop_the_scan() -> None:
    pair = RegistryPair({"team/a": {"1": "d"}, "team/b": {"1": "d"}, "team/c": {"1": "d"}}, {})
    pair.source.broken["team/b"] = SynclineError("FORBIDDEN", "no")
    pages = pair.scan()
    assert found(pages) == [("team/a", "1"), ("team/c", "1")]
    (failure,) = pages[1].failures
    assert (failure.item.group, failure.item.name, failure.error.code.name) == ("team/b", "*", "FORBIDDEN")


def test_a_tag_removed_at_the_source_since_it_was_listed_is_no_item() -> None:
    pair = RegistryPair({"team/a": {"1": "d1", "2": "d2"}}, {"team/a": {"1": "d9", "2": "d2"}})
    pair.source.manifest_digest = lambda _name, tag: None if tag == "1" else "d2"  # type: ignore[method-assign,assignment]
    (page,) = pair.scan()
    assert (page.items, page.results, page.equal) == ((), (), 1)


def test_a_tag_removed_at_the_target_since_it_was_listed_is_sent() -> None:
    pair = RegistryPair({"team/a": {"1": "d1"}}, {"team/a": {"1": "d9"}})
    pair.target.manifest_digest = lambda _name, _tag: None  # type: ignore[method-assign,assignment]
    assert found(pair.scan()) == [("team/a", "1")]


@pytest.mark.parametrize("api", [True, False])
def test_an_empty_list_of_all_repositories_is_an_error(api: bool) -> None:
    with pytest.raises(SynclineError, match="LISTING_INCOMPLETE"):
        RegistryPair({}, {}, api=api).scan()


def test_an_empty_organization_does_not_affect_others() -> None:
    pair = RegistryPair({"team/a": {"1": "d"}}, {}, api=True, source={"organizations": ["gone", "team"]})
    pages = pair.scan()
    assert found(pages) == [("team/a", "1")]
    (failure,) = (each for page in pages for each in page.failures)
    assert (failure.item, failure.error.code.name) == (Item("*", "gone"), "SOURCE_ABSENT")


def test_an_empty_list_of_tags_must_be_confirmed_by_the_registry() -> None:
    pair = RegistryPair({"team/a": {"1": "d"}, "team/b": {}}, {}, api=True)
    assert pair.source_api is not None
    pair.source_api.content = {"team/a": {}, "team/b": {}}
    first, second = pair.scan()
    assert [failure.error.code.name for failure in first.failures] == ["LISTING_INCOMPLETE"]
    assert (second.items, second.failures) == ((), ())


def test_the_registry_decides_if_the_api_has_no_answer() -> None:
    pair = RegistryPair({"team/a": {"1": "d1"}}, {"team/a": {"1": "d1"}}, api=True)
    assert pair.target_api is not None
    pair.target_api.content = {}
    (page,) = pair.scan()
    assert page.equal == 1
    assert pair.target.asked == ["tags team/a", "digest team/a:1"]


@pytest.mark.parametrize("state", ["READ_ONLY", "MIRROR"])
def test_each_item_of_a_repository_that_accepts_no_pushes_fails(state: str) -> None:
    pair = RegistryPair({"team/a": {"1": "d1", "2": "d2", "3": "d3"}}, {"team/a": {"1": "d1", "2": "d9"}}, api=True)
    assert pair.target_api is not None
    pair.target_api.states = {"team/a": state}
    (page,) = pair.scan()
    assert (page.items, page.equal, len(page.results)) == ((), 1, 1)
    assert [(f.item.name, f.error.code.name) for f in page.failures] == [("3", "READ_ONLY")]


@pytest.mark.parametrize("code", ["NOT_FOUND", "FORBIDDEN", "UNAUTHORIZED"])
def test_a_namespace_that_the_target_does_not_have_yet_is_no_failure(code: CodeName) -> None:
    pair = RegistryPair({"team/a": {"1": "d1"}}, {}, api=True)
    assert pair.target_api is not None
    pair.target_api.broken["team"] = SynclineError(code, "no such namespace")
    assert found(pair.scan()) == [("team/a", "1")]


def test_a_target_whose_api_does_not_answer_fails_the_scan() -> None:
    pair = RegistryPair({"team/a": {"1": "d1"}}, {}, api=True)
    assert pair.target_api is not None
    pair.target_api.broken["team"] = SynclineError("SERVER_ERROR", "it failed")
    with pytest.raises(SynclineError, match="SERVER_ERROR"):
        pair.scan()


def test_a_repository_that_the_target_does_not_list_is_not_requested() -> None:
    tags = {"1": "d1"}
    pair = RegistryPair({"team/a": tags, "team/b": tags, "team/b/c": tags}, {"team/b": tags}, api=True)
    assert pair.target_api is not None
    assert found(pair.scan()) == [("team/a", "1"), ("team/b/c", "1")]
    assert pair.target_api.asked == ["team/b"]
    pair.target_api.invalid = [InvalidEntry("entry 2", "team/x", SynclineError("REFERENCE_INVALID", "no name"))]
    pair.scan()
    assert "team/a" in pair.target_api.asked, "a listing with an invalid entry may be incomplete"


@pytest.mark.parametrize(("name", "label"), [("team/x", "team/x"), (None, "entry 2"), ("other/x", None)])
def test_an_invalid_repository_of_the_target_is_a_failure_if_it_may_be_one_of_the_sync(
    name: str | None, label: str | None
) -> None:
    content = {"team/a": {"1": "d1"}}
    pair = RegistryPair(content, content, api=True, select={"repositories": {"include": ["team/*"]}})
    assert pair.target_api is not None
    pair.target_api.invalid = [InvalidEntry("entry 2", name, SynclineError("REFERENCE_INVALID", "no name"))]
    pages = pair.scan()
    assert [each.item for page in pages for each in page.failures] == ([] if label is None else [Item("*", label)])
    assert not [each for page in pair.scan(Scope.of(["team/a"])) for each in page.failures]
    assert not [each for page in pair.scan(cursor="team/0") for each in page.failures], "it was reported before"


def test_a_scan_resumes_after_the_failures_of_invalid_repositories() -> None:
    pair = RegistryPair({f"team/{letter}": {"1": "d1"} for letter in "abc"}, {}, api=True)
    for number, api in enumerate((pair.source_api, pair.target_api)):
        assert api is not None
        api.invalid = [InvalidEntry(f"entry {number}", None, SynclineError("REFERENCE_INVALID", "no name"))]
    pages = pair.scan()
    assert [each.item.name for page in pages for each in page.failures] == ["entry 1", "entry 0"]
    for at, page in enumerate(pages):
        rest = pair.scan(cursor=page.cursor)
        assert found(pages[: at + 1]) + found(rest) == found(pages)
        assert not [each for each in rest if each.failures]


class TestNamed:
    """Repositories and tags that a user names must exist."""

    @staticmethod
    def failures(pair: RegistryPair, scope: Scope, *, named: bool, cursor: str | None = None) -> list[tuple[str, str]]:
        pages = pair.pages(scope, cursor, StepContext(lambda: 60.0, named=named))
        return [(each.item.group, each.error.code.name) for page in pages for each in page.failures]

    @pytest.mark.parametrize("named", [False, True])
    def test_a_repository_of_the_scope(self, named: bool) -> None:
        pair = RegistryPair({"team/a": {"1": "d"}}, {}, select={"repositories": {"include": ["team/*"]}})
        absent = [("other/b", "SOURCE_ABSENT"), ("team/gone", "SOURCE_ABSENT")] if named else []
        scope = Scope.of(["team/a", "team/gone", "other/b"])
        assert self.failures(pair, scope, named=named) == absent
        assert self.failures(pair, scope, named=named, cursor="team/a") == absent[1:], "the other was reported before"
        pages = list(pair.pages(scope, None, StepContext(lambda: 60.0, named=named)))
        for at, page in enumerate(pages):
            assert found(pages[: at + 1]) + found(pair.scan(scope, page.cursor)) == [("team/a", "1")]

    def test_a_repository_of_the_configuration(self) -> None:
        pair = RegistryPair(
            {"team/a": {"1": "d"}}, {}, source={"catalog": False, "repositories": ["team/a", "team/gone"]}
        )
        assert self.failures(pair, EVERYTHING, named=False) == [("team/gone", "SOURCE_ABSENT")]


class TestUnverified:
    """In a repository with unverified writes, equal tags do not prove that the images are complete."""

    @staticmethod
    def pair(*, cut: bool = True) -> RegistryPair:
        content = {"team/a": {f"t{n}": f"d{n}" for n in range(3)}}
        pair = RegistryPair({"team/a": {**content["team/a"], "new": "d9"}}, content)
        pair.notes.note_unverified("team/a")
        if cut:
            pair.target.cut = {"team/a"}
        return pair

    def test_images_that_are_incomplete_are_sent_again(self) -> None:
        pair = self.pair()
        pages = pair.scan()
        assert [tag for _, tag in found(pages)] == ["new", "t0", "t1", "t2"]
        assert pair.notes.unverified()("team/a")

    def test_the_note_is_removed_if_all_images_are_complete(self) -> None:
        pair = self.pair(cut=False)
        assert [tag for _, tag in found(pair.scan())] == ["new"]
        assert not pair.notes.unverified()("team/a")

    @pytest.mark.parametrize(
        "context", [StepContext(lambda: 60.0, plan=True), StepContext(lambda: 60.0)], ids=["plan", "rest"]
    )
    def test_a_plan_and_a_partial_scan_keep_the_note(self, context: StepContext) -> None:
        pair = self.pair(cut=False)
        list(pair.pages(EVERYTHING, None if context.plan else "team/a:new", context))
        assert pair.notes.unverified()("team/a")

    def test_one_broken_image_among_many_keeps_the_note(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("syncline.kinds.images.compare.PAGE_TAGS", 1)
        pair = self.pair(cut=False)
        pair.target.invalid["t0"] = SynclineError("NOT_FOUND", "no such manifest")
        assert [tag for _, tag in found(pair.scan())] == ["new", "t0"]
        assert pair.notes.unverified()("team/a")

    def test_other_repositories_are_not_read(self) -> None:
        pair = self.pair()
        pair.notes.forget_unverified("team/a")
        assert [tag for _, tag in found(pair.scan())] == ["new"]
        assert not [each for each in pair.target.asked if each.startswith("manifest")]


class TestReferrers:
    """If referrers are compared, a tag is equal only if the target lists all referrers of its image."""

    ONE, TWO, SIGNATURE = (f"sha256:{each * 64}" for each in "123")

    def pair(self) -> RegistryPair:
        content = {"team/a": {"1": self.ONE, "2": self.TWO}}
        pair = RegistryPair(content, content, referrers="always")
        pair.source.signed = {self.ONE: (Descriptor(self.SIGNATURE, 2, OCI_MANIFEST),)}
        return pair

    def test_an_image_that_lacks_a_referrer_is_sent_again(self) -> None:
        pair = self.pair()
        assert found(pair.scan()) == [("team/a", "1")]
        pair.target.signed = pair.source.signed
        assert found(pair.scan()) == []

    def test_referrers_are_requested_only_for_equal_images(self) -> None:
        pair = self.pair()
        pair.target.content = {"team/a": {"1": self.ONE}}
        assert found(pair.scan()) == [("team/a", "1"), ("team/a", "2")]
        asked = [each for each in pair.source.asked if each.startswith("referrers")]
        assert asked == [f"referrers team/a@{self.ONE}"]

    @pytest.mark.parametrize(
        ("code", "sent"),
        [("MANIFEST_INVALID", False), ("MANIFEST_UNSUPPORTED", False), ("NOT_FOUND", False), ("FORBIDDEN", True)],
    )
    def test_a_tag_that_is_no_image_has_no_referrers(self, code: CodeName, *, sent: bool) -> None:
        """The transfer reports every other error."""
        pair = self.pair()
        pair.source.invalid[self.TWO] = SynclineError(code, "no")
        assert found(pair.scan()) == [("team/a", "1"), ("team/a", "2")][: 1 + sent]


class TestConflicts:
    """A tag with another digest at the target is not replaced, unless a note shows that the sync wrote it."""

    OURS, THEIRS = "sha256:" + "1" * 64, "sha256:" + "2" * 64

    def scan(self, target: str, *, noted: str = "", error: CodeName | None = None) -> tuple[list[str], list[str]]:
        """Return the tags that are sent on, and the codes of the failures and conflicts."""
        pair = RegistryPair({"team/a": {"1": self.OURS}}, {"team/a": {"1": target}})
        if noted:
            pair.notes.note_outdated("team/a", "1", noted)
        if error:
            pair.source.invalid["1"] = pair.target.invalid["1"] = SynclineError(error, "no")
        pages = pair.scan()
        codes = [each.code for page in pages for each in page.results]
        codes += [each.error.code.name for page in pages for each in page.failures]
        return [tag for _, tag in found(pages)], [code for code in codes if code]

    def test_a_tag_that_we_copied_and_that_changed_at_the_source_is_replaced(self) -> None:
        assert self.scan(self.THEIRS, noted=self.THEIRS) == (["1"], [])
        assert self.scan(self.THEIRS, noted="sha256:" + "3" * 64) == ([], ["TAG_DIFFERS"])
        assert self.scan(self.THEIRS) == ([], ["TAG_DIFFERS"])

    @pytest.mark.parametrize(("error", "code"), [("MANIFEST_INVALID", "TAG_DIFFERS"), ("SERVER_ERROR", "SERVER_ERROR")])
    def test_digests_of_different_algorithms_are_compared_by_content(self, error: CodeName, code: str) -> None:
        """If the content cannot be read, the tag is a conflict or is retried."""
        assert self.scan("sha512:" + "1" * 128, error=error) == ([], [code])


def test_an_equal_tag_is_adopted_once() -> None:
    world = RegistryPair({"team/app": {"1": "d1", "2": "d2", "3": "d3"}}, {"team/app": {"1": "d1", "2": "other"}})
    world.scan()
    assert world.records.rows == {("team/app", "1"): ["d1"]}
    writes = len(world.records.written)
    world.scan()
    assert len(world.records.written) == writes, "nothing changed"


def test_a_plan_adopts_nothing() -> None:
    world = RegistryPair({"team/app": {"1": "d1"}}, {"team/app": {"1": "d1"}})
    list(world.pages(EVERYTHING, None, StepContext(lambda: 60.0, plan=True)))
    assert not world.records.rows


@pytest.mark.parametrize("list_of", [None, "d1", "d2"])
def test_where_tags_list_referrers_the_listing_of_the_source_is_enough(list_of: str | None) -> None:
    digests = {"d1": f"sha256:{'1' * 64}", "d2": f"sha256:{'2' * 64}"}
    content = {"team/a": {"1": digests["d1"], "2": digests["d2"]}}
    if list_of is not None:
        content["team/a"][referrers_tag(digests[list_of])] = "the list"
    pair = RegistryPair(content, content, referrers="always")
    pair.source.lists_referrers_by_tag = True
    pair.scan()
    asked = [each for each in pair.source.asked if each.startswith("referrers ")]
    assert asked == ([] if list_of is None else [f"referrers team/a@{digests[list_of]}"])


def test_invalid_tags_may_be_lists_of_referrers() -> None:
    digest = f"sha256:{'1' * 64}"
    pair = RegistryPair({"team/a": {"1": digest}}, {"team/a": {"1": digest}}, referrers="always")
    pair.source.lists_referrers_by_tag = True
    invalid = InvalidEntry("a tag", None, SynclineError("REFERENCE_INVALID", "unreadable"))
    pair.source.invalid_tags["team/a"] = [invalid]
    pair.scan()
    assert f"referrers team/a@{digest}" in pair.source.asked
