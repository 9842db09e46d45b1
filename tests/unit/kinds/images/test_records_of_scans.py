"""Scans that take the target's digests from records, and re-read a share of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from syncline.kinds.images.records import SHARES, ImageRecord, RereadShare
from syncline.kinds.kind import StepContext
from syncline.model import EVERYTHING, Outcome, Scope
from tests.unit.kinds.images.world import RegistryPair, found

REPOSITORY = "team/app"
_OLD, _NEW, _FOREIGN = (f"sha256:{each * 64}" for each in "123")


class Recorded(RegistryPair):
    """Two registries with equal tags, and their records."""

    def __init__(self, tags: int = 64, **config: Any) -> None:
        self.tags = {f"v{number}": _OLD for number in range(tags)}
        super().__init__({REPOSITORY: self.tags}, {REPOSITORY: dict(self.tags)}, **config)
        self.scan()
        self.forget()

    def forget(self) -> None:
        self.source.asked.clear()
        self.target.asked.clear()

    def asked(self) -> tuple[int, int]:
        """Return the digests that were requested from the source and from the target since the last call."""
        counts = [sum(each.startswith("digest ") for each in end.asked) for end in (self.source, self.target)]
        self.forget()
        return counts[0], counts[1]

    def push(self, tag: str, digest: str) -> None:
        """Push an image to the target."""
        content: Mapping[str, Any] = self.target.content
        content[REPOSITORY][tag] = digest


def test_a_scan_asks_the_target_for_a_share_of_the_tags() -> None:
    pair = Recorded()
    pair.scan()
    at_source, at_target = pair.asked()
    assert at_source == 64
    assert at_target == sum(RereadShare(1).has(REPOSITORY, tag) for tag in pair.tags) < 64 / 4


def test_each_tag_is_re_read_in_as_many_scans_as_there_are_shares() -> None:
    pair = Recorded()
    for _ in range(SHARES):
        pair.scan()
    assert sorted(each for each in pair.target.asked if each.startswith("digest ")) == sorted(
        f"digest {REPOSITORY}:{tag}" for tag in pair.tags
    )


@pytest.mark.parametrize("tag", ["v0", "v1", "v17", "v63"])
def test_a_foreign_change_is_found_within_the_shares_and_stays_found(tag: str) -> None:
    pair = Recorded()
    pair.push(tag, _FOREIGN)
    conflicts = [any(result.outcome is Outcome.CONFLICT for page in pair.scan() for result in page.results)
                 for _ in range(2 * SHARES)]  # fmt: skip
    first = conflicts.index(True)
    assert first < SHARES
    assert all(conflicts[first:])


def test_a_foreign_change_is_found_at_once_by_the_api_of_the_target() -> None:
    pair = Recorded(api=True)
    pair.push("v5", _FOREIGN)
    (result,) = [result for page in pair.scan() for result in page.results]
    assert (result.name, result.target) == ("v5", _FOREIGN)


@pytest.mark.parametrize("change", [{"plan": True}, {"named": True}, {"asked": frozenset({(REPOSITORY, "v5")})}])
def test_a_person_who_asks_gets_what_the_target_says_now(change: dict[str, Any]) -> None:
    pair = Recorded()
    pair.push("v5", _FOREIGN)
    scope = Scope((REPOSITORY,)) if "named" in change else EVERYTHING
    pages = list(pair.pages(scope, None, StepContext(lambda: 60.0, **change)))
    assert [result.target for page in pages for result in page.results] == [_FOREIGN]


def test_a_plan_is_no_scan_that_counts() -> None:
    pair = Recorded()
    for _ in range(3):
        list(pair.pages(EVERYTHING, None, StepContext(lambda: 60.0, plan=True)))
    pair.scan()
    pair.scan()
    assert [each for each in pair.target.asked if each == f"digest {REPOSITORY}:v0"] != []
    shares = [tag for tag in pair.tags if RereadShare(1).has(REPOSITORY, tag) or RereadShare(2).has(REPOSITORY, tag)]
    assert pair.asked()[1] == 3 * 64 + len(shares)


def test_a_change_at_the_source_is_compared_with_what_the_target_says_now() -> None:
    pair = Recorded(overwrite=True)
    pair.tags["v5"] = _NEW
    pair.push("v5", _FOREIGN)
    (item,) = [item for page in pair.scan() for item in page.items]
    assert (item.name, item.source, item.target) == ("v5", _NEW, _FOREIGN)


def test_a_copy_that_another_tool_made_of_a_change_is_equal() -> None:
    pair = Recorded()
    pair.tags["v5"] = _NEW
    pair.push("v5", _NEW)
    assert not found(pair.scan())
    assert pair.records.rows[REPOSITORY, "v5"] == ImageRecord(_NEW).to_row()


def test_a_tag_that_the_target_no_longer_lists_is_copied_despite_its_record() -> None:
    pair = Recorded()
    content: Mapping[str, Any] = pair.target.content
    del content[REPOSITORY]["v5"]
    assert found(pair.scan()) == [(REPOSITORY, "v5")]


def test_without_records_everything_is_re_read_once() -> None:
    pair = Recorded()
    pair.records.rows.clear()
    pair.scan()
    assert pair.asked() == (64, 64)
    pair.scan()
    assert pair.asked()[1] < 64 / 4


def test_a_repository_with_an_unverified_copy_is_re_read() -> None:
    pair = Recorded()
    pair.notes.note_unverified(REPOSITORY)
    pair.scan()
    assert pair.asked()[1] >= 64


def test_a_scan_of_a_repository_reads_a_share_by_its_run() -> None:
    pair = Recorded()
    list(pair.pages(Scope((REPOSITORY,)), None, StepContext(lambda: 60.0, run="a run")))
    assert 0 < pair.asked()[1] < 64 / 4
    pair.scan()
    assert pair.asked()[1] == sum(RereadShare(1).has(REPOSITORY, tag) for tag in pair.tags)


def test_a_scan_that_is_continued_keeps_its_share() -> None:
    pair = Recorded(tags=250)
    pages = pair.pages(EVERYTHING, None, StepContext(lambda: 60.0))
    cursor = next(pages).cursor
    pages.close()  # type: ignore[attr-defined]
    pair.forget()
    pair.scan(cursor=cursor)
    behind = [tag for tag in pair.tags if f"{REPOSITORY}:{tag}" > cursor]
    assert pair.asked()[1] == sum(RereadShare(1).has(REPOSITORY, tag) for tag in behind)
