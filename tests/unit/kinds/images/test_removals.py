"""Removal of tags: nothing that the source has, nothing foreign, and only after the delay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Descriptor, Manifest
from syncline.clients.registry.quay import Quay
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.records import ImageRecord
from syncline.kinds.images.removals import TagRemoval, TagRemovals, is_removal
from syncline.kinds.kind import Completed, StepContext
from syncline.model import EVERYTHING, Item, Scope
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

    def found(
        self, scope: Scope = EVERYTHING, *, plan: bool = False, left: Callable[[], float] = lambda: 60.0
    ) -> list[Item]:
        """Return the tags that a scan removes."""
        sides = [RegistryClients(cast("Registry", each), None) for each in (self.source, self.target)]
        removals = TagRemovals(self.sync, self.records, self.windows, lambda: self.now)
        scan = ImageScan(self.sync, sides[0], sides[1], self.notes, self.records, removals)
        self.pages_found = list(scan.pages(scope, None, StepContext(left, plan=plan)))
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


class KilledError(Exception):
    """The function ended between two calls."""


class Deleting:
    """A registry in memory that deletes a tag, only digests, or all tags of a tag's digest; ``calls`` until it is killed."""

    def __init__(self, content: dict[str, str], deletes: str = "tags", calls: int = 99) -> None:
        self.host = "dr.example"
        self.content = content
        self.deletes = deletes
        self.calls = calls

    def _count(self) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise KilledError

    def manifest_digest(self, _repository: str, reference: str) -> str | None:
        self._count()
        return self.content.get(reference)

    def delete_tag(self, _repository: str, tag: str) -> None:
        self._count()
        self.content.pop(tag, None)

    def blob_size(self, _repository: str, blob: Descriptor) -> int:
        return blob.size

    def put_manifest(self, _repository: str, reference: str, manifest: Manifest) -> None:
        self._count()
        self.content[reference] = manifest.digest

    def put_tag(self, repository: str, tag: str, manifest: Manifest, expected: str) -> str | None:
        return Registry.put_tag(cast("Registry", self), repository, tag, manifest, expected)

    def delete(self, _repository: str, reference: str) -> bool:
        self._count()
        is_tag = ":" not in reference
        if is_tag and self.deletes == "digests":
            return False
        digest = self.content.get(reference) if is_tag else reference
        for tag in [tag for tag, has in self.content.items() if has == digest]:
            if not is_tag or tag == reference or self.deletes == "images":
                del self.content[tag]
        return True


_TAGS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["d1", "d2"]), min_size=1)
_EXTRA: st.SearchStrategy[dict[str, str]] = st.one_of(st.just({}), _TAGS)
_SHORT = st.sampled_from([9, 9, 9, 2, 1, 0])


@dataclass(frozen=True)
class Round:
    """A scan and its removals. ``later`` is the source's content once the scan is over.

    ``listed`` and ``listed_at_target`` are the lengths to which listings are cut. The first function is killed after some
    ``calls`` to the target, and the next one continues. ``only`` scans the repository alone, and ``lost`` loses the table
    before.
    """

    source: dict[str, str]
    pushed: dict[str, str]
    later: dict[str, str]
    days: int = 0
    listed: int = 9
    listed_at_target: int = 9
    deletes: str = "tags"
    calls: int = 99
    only: bool = False
    lost: bool = False


_DELETES = st.sampled_from(["api", "tags", "digests", "images"])
_CALLS = st.sampled_from([99, *range(12)])
_ROUND = st.builds(
    Round,
    source=_TAGS,
    pushed=_EXTRA,
    later=_EXTRA,
    days=st.sampled_from([0, 3, 5, 9]),
    listed=_SHORT,
    listed_at_target=_SHORT,
    deletes=_DELETES,
    calls=_CALLS,
    only=st.booleans(),
    lost=st.sampled_from([False, False, False, True]),
)
_BOTH, _ONE = {"a": "d1", "b": "d2", "c": "d2"}, {"b": "d2"}


def _removing(**more: Any) -> list[Round]:
    return [Round(_BOTH, dict(_BOTH), _BOTH), *[Round(_ONE, {}, _ONE, 9, **more)] * 2]


_REACHING = st.builds(_removing, deletes=_DELETES, calls=_CALLS)


@example(_removing())
@example(_removing(deletes="images", calls=3))
@example(_removing(deletes="digests", calls=5))
@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.lists(_ROUND, min_size=3, max_size=8), st.builds(list.__add__, _REACHING, st.lists(_ROUND, max_size=3))
    )
)
def test_nothing_that_the_source_has_and_nothing_foreign_is_removed(rounds: list[Round]) -> None:
    """In each round the source changes, strangers push to the target, and the source changes again after the scan."""
    pair = Pair({APP: {}}, {APP: {}}, after="5d", share=0.7)
    seen: dict[str, str] = {}  # what the sync has seen equal at both
    for each in rounds:
        pair.source.content = {APP: each.source}
        target = {**pair.target.content[APP], **each.pushed}
        pair.target.content = {APP: target}
        pair.source.unordered = lambda names, each=each: names[: each.listed]  # type: ignore[misc]
        pair.target.unordered = lambda names, each=each: names[: each.listed_at_target]  # type: ignore[misc]
        pair.now += each.days * 86_400
        pair.windows.used = 0
        if each.lost:
            pair.records.rows.clear()
        ours = len(pair.records.rows) + len(each.source)
        items = pair.found(Scope.of([APP]) if each.only else EVERYTHING)
        assert len(items) <= max(1, ours * 7 // 10)
        seen |= {tag: digest for tag, digest in each.source.items() if target.get(tag) == digest}
        pair.source.content = {APP: each.later}
        before = dict(target)
        done = set[str]()
        for calls in (each.calls, 99):
            at_target = Deleting(target, each.deletes, calls)
            api = cast("Quay", at_target) if each.deletes == "api" else None
            clients = RegistryClients(cast("Registry", at_target), api)
            source = RegistryClients(cast("Registry", Deleting(each.later)), None)
            try:
                answers = list(TagRemoval(source, APP, clients, APP).answers(items, StepContext(lambda: 60.0)))
            except KilledError:
                event("killed")
                continue
            done |= {answer.item.name for answer in answers if isinstance(answer, Completed)}
        for tag in before.keys() - target.keys():
            event(f"removed by {each.deletes}")
            assert tag not in each.later
            assert tag not in each.source or each.listed < len(each.source)
            assert seen.get(tag) == before[tag]
            assert tag in done
        for tag, digest in before.items():
            assert tag not in target or target[tag] == digest
        pair.records.write(dict.fromkeys([(APP, tag) for tag in done], None))


def test_a_scan_that_ends_early_removes_nothing() -> None:
    pair = Pair({APP: {"1": "d1"}}, {APP: {"1": "d1", "2": "d2"}})
    pair.records.rows = {(APP, "1"): ["d1"], (APP, "2"): replace(ImageRecord("d2"), absent_since=1).to_row()}
    assert pair.found(left=lambda: 0.0) == []
