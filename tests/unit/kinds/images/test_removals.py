"""Removal of tags: nothing that the source has, nothing foreign, and only after the delay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from syncline.clients.registry.client import Registry
from syncline.clients.registry.quay import Quay
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.records import ImageRecord
from syncline.kinds.images.removals import TagRemoval, TagRemovals, is_removal
from syncline.kinds.kind import Completed, StepContext
from syncline.model import EVERYTHING, Item
from syncline.ownership import Grant, RemovalRequest, allowance
from tests.unit.kinds.images.world import RegistryPair

APP = "team/app"


class Window:
    """One window that never ends."""

    def __init__(self) -> None:
        self.used = 0

    def reserve(
        self, request: RemovalRequest, total: Callable[[], int], removed: Callable[[str], int] | None = None
    ) -> Grant:
        del removed
        count = total()
        allowed = request.count <= allowance(request.limits, count, self.used)
        grant = Grant(allowed, self.used, count, 0.0, allowance(request.limits, count, 0))
        self.used += request.count if allowed and request.keep else 0
        return grant


class Pair(RegistryPair):
    """Two registries whose tags are removed; ``now`` is the time in Unix seconds."""

    def __init__(
        self, source: dict[str, dict[str, str]], target: dict[str, dict[str, str]], **removals: object
    ) -> None:
        super().__init__(source, target, removals={"share": 1, **removals}, source={"catalog": True})
        self.now = 1_000_000.0
        self.windows = Window()

    def found(self, *, plan: bool = False, left: Callable[[], float] = lambda: 60.0) -> list[Item]:
        """Return the tags that a scan removes."""
        sides = [RegistryClients(cast("Registry", each), None) for each in (self.source, self.target)]
        removals = TagRemovals(self.sync, self.records, self.windows, lambda: self.now)
        scan = ImageScan(self.sync, sides[0], sides[1], self.notes, self.records, removals)
        self.pages_found = list(scan.pages(EVERYTHING, None, StepContext(left, plan=plan)))
        return [item for page in self.pages_found for item in page.items if is_removal(item)]

    def removed(self) -> list[str]:
        return [item.name for item in self.found()]


def test_a_tag_is_removed_after_the_delay_only() -> None:
    content = {APP: {"1": "d1", "2": "d2"}}
    pair = Pair(content, {APP: dict(content[APP])}, after="7d")
    assert pair.removed() == []
    del pair.source.content[APP]["2"]  # type: ignore[attr-defined]
    assert pair.removed() == []
    pair.now += 6 * 86_400
    assert pair.removed() == []
    pair.now += 86_400
    assert pair.removed() == ["2"]


def test_a_tag_that_came_back_begins_its_delay_again() -> None:
    pair = Pair({APP: {"1": "d1", "2": "d2"}}, {APP: {"1": "d1", "2": "d2"}}, after="7d")
    pair.found()
    tags = cast("dict[str, str]", pair.source.content[APP])
    del tags["2"]
    pair.found()
    tags["2"] = "d2"
    pair.now += 8 * 86_400
    assert pair.removed() == []
    assert pair.records.rows[APP, "2"] == ["d2"]
    del tags["2"]
    assert pair.removed() == []


def test_a_plan_shows_the_removals_and_writes_nothing() -> None:
    pair = Pair({APP: {"1": "d1"}}, {APP: {"1": "d1", "2": "d2"}})
    pair.records.rows = {(APP, "1"): ["d1"], (APP, "2"): ["d2"]}
    assert [item.name for item in pair.found(plan=True)] == ["2"]
    assert not pair.records.written
    assert pair.windows.used == 0


def test_the_record_of_a_tag_that_both_lack_is_deleted() -> None:
    pair = Pair({APP: {"1": "d1"}}, {APP: {"1": "d1"}})
    pair.records.rows = {(APP, "1"): ["d1"], (APP, "2"): ["d2"]}
    assert pair.removed() == []
    assert pair.records.rows == {(APP, "1"): ["d1"]}


def test_a_repository_that_the_sync_does_not_select_is_left_alone() -> None:
    pair = Pair({APP: {"1": "d1"}}, {APP: {"1": "d1"}, "other/app": {"1": "d1"}})
    pair.records.rows = {("other/app", "1"): ImageRecord("d1", 1).to_row()}
    pair.sync = pair.sync.model_copy(
        update={
            "select": pair.sync.select.model_copy(
                update={"repositories": type(pair.sync.select.repositories)(include=("team/*",))}
            )
        }
    )
    assert pair.removed() == []


class Deleting:
    """A registry in memory that deletes tags."""

    def __init__(self, content: dict[str, str]) -> None:
        self.host = "dr.example"
        self.content = content

    def manifest_digest(self, _repository: str, reference: str) -> str | None:
        return self.content.get(reference)

    def delete_tag(self, _repository: str, tag: str) -> None:
        del self.content[tag]


_TAGS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["d1", "d2"]), min_size=1)
_EXTRA: st.SearchStrategy[dict[str, str]] = st.one_of(st.just({}), _TAGS)


@example([({"a": "d1", "b": "d2"}, {"a": "d1", "b": "d2"}, {"b": "d2"}, 0), *[({"b": "d2"}, {}, {"b": "d2"}, 9)] * 2])
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_TAGS, _EXTRA, _EXTRA, st.integers(0, 9)), min_size=3, max_size=8))
def test_nothing_that_the_source_has_and_nothing_foreign_is_removed(
    rounds: list[tuple[dict[str, str], dict[str, str], dict[str, str], int]],
) -> None:
    """In each round the source changes, strangers push to the target, and the source changes again after the scan."""
    pair = Pair({APP: {}}, {APP: {}}, after="5d")
    seen: dict[str, str] = {}  # what the sync has seen equal at both, or written
    for source, pushed, later, days in rounds:
        pair.source.content = {APP: source}
        target = {**pair.target.content[APP], **pushed}
        pair.target.content = {APP: target}
        pair.now += days * 86_400
        items = pair.found()
        seen |= {tag: digest for tag, digest in source.items() if target.get(tag) == digest}
        pair.source.content = {APP: later}
        before = dict(target)
        api = RegistryClients(cast("Registry", Deleting(target)), cast("Quay", Deleting(target)))
        removal = TagRemoval(RegistryClients(cast("Registry", Deleting(later)), None), APP, api, APP)
        answers = list(removal.answers(items, StepContext(lambda: 60.0)))
        for tag in before.keys() - target.keys():
            assert tag not in source
            assert tag not in later
            assert seen.get(tag) == before[tag]
        for answer in answers:
            if isinstance(answer, Completed):
                event("removed")
                pair.records.write({(APP, answer.item.name): None})


def test_a_scan_that_ends_early_removes_nothing() -> None:
    pair = Pair({APP: {"1": "d1"}}, {APP: {"1": "d1", "2": "d2"}})
    pair.records.rows = {(APP, "1"): ["d1"], (APP, "2"): replace(ImageRecord("d2"), absent_since=1).to_row()}
    assert pair.found(left=lambda: 0.0) == []
