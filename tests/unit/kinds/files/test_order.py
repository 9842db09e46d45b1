"""The order of events: late, repeated and unordered events lead to the right target and records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.events import EventScope, groups_in
from syncline.kinds.files.records import Record, RemovedRecord
from syncline.model import Scope
from tests.unit.kinds.files.world import World, event, sync_of

KEYS = "abc"
CHANGES = st.lists(st.tuples(st.sampled_from(KEYS), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12)


@given(CHANGES, st.data())
def test_late_repeated_and_unordered_events_lead_to_the_truth(
    changes: list[tuple[str, bool, int]], data: st.DataObject
) -> None:
    world, sync = World(), sync_of()
    for key, removes, form in changes:
        world.change(key, removes=removes, form=form)
        delivered = data.draw(st.lists(st.sampled_from(world.notifications), max_size=4))
        world.apply(sync, *delivered, everything=data.draw(st.integers(0, 5)) == 0)
    rest = data.draw(st.permutations(world.notifications))
    at = data.draw(st.integers(0, len(rest)))
    world.apply(sync, *rest[:at])
    world.apply(sync, *rest[at:])
    assert world.is_true()


@given(CHANGES, st.data())
def test_a_repeated_event_costs_nothing_and_does_nothing(
    changes: list[tuple[str, bool, int]], data: st.DataObject
) -> None:
    world, sync = World(), sync_of()
    for key, removes, _ in changes:
        world.change(key, removes=removes)
    world.apply(sync, *world.notifications)
    remembered = dict(world.files)
    for body in data.draw(st.permutations(world.notifications)):
        key = body["Records"][0]["s3"]["object"]["key"]
        # A deletion of what had never been taken over leaves nothing to remember.
        assert world.apply(sync, body) == (0 if key in remembered else 1)
    assert world.files == remembered
    assert world.is_true()


def test_a_creation_after_a_recorded_deletion_costs_no_request_while_the_deletion_is_recorded() -> None:
    world, sync = World(), sync_of()
    world.change("a", removes=False)
    world.apply(sync, *world.notifications)
    world.change("a", removes=True)
    world.apply(sync, world.notifications[1])
    assert RemovedRecord.of_row(world.gone["a"]).seq
    assert world.apply(sync, world.notifications[0]) == 0
    world.gone.clear()  # its time was over
    assert world.apply(sync, world.notifications[0]) == 1
    assert world.is_true()
    assert not world.files


def test_an_object_newer_than_the_event_is_read_again_for_its_own_event() -> None:
    world, sync = World(), sync_of()
    world.change("a", removes=False)
    world.change("a", removes=False)
    assert world.apply(sync, world.notifications[0]) == 1
    assert world.is_true(), "the object was as the second event tells"
    assert world.apply(sync, world.notifications[1]) == 1, "but nobody could know"
    assert world.apply(sync, world.notifications[0]) == 0


def test_a_deletion_by_a_marker_and_a_version_that_comes_back() -> None:
    world, sync = World(), sync_of()
    world.change("a", removes=False)
    world.apply(sync, world.notifications[0])
    kept = world.objects["a"]
    world.change("a", removes=True)
    world.notifications[1]["Records"][0]["eventName"] = "ObjectRemoved:DeleteMarkerCreated"
    world.apply(sync, world.notifications[1])
    assert world.is_true()
    world.change("a", removes=True)  # of the marker: the version below is there again, unchanged
    world.objects["a"] = kept
    assert world.apply(sync, world.notifications[0]) == 0
    assert world.apply(sync, world.notifications[2]) == 1
    assert world.is_true()


class TestDeafness:
    """No sequencer keeps a key from being scanned forever."""

    HIGH = "F" * 18

    def deaf(self) -> tuple[World, FilesSync]:
        """A world in which somebody sent a number that no event will ever reach."""
        world, sync = World(), sync_of()
        world.change("a", removes=False)
        world.apply(sync, event("a", sequencer=self.HIGH))
        world.change("a", removes=False)
        assert world.apply(sync, world.notifications[-1]) == 0
        assert not world.is_true()
        return world, sync

    def test_a_full_scan_finds_the_difference_and_forgets_the_number(self) -> None:
        world, sync = self.deaf()
        world.apply(sync, everything=True)
        assert world.is_true()
        assert Record.of_row(world.files["a"]).seq == ""
        world.change("a", removes=False)
        assert world.apply(sync, world.notifications[-1]) == 1
        assert world.is_true()

    def test_a_full_scan_forgets_a_recorded_deletion(self) -> None:
        world, sync = World(), sync_of()
        world.change("a", removes=False)
        world.change("b", removes=False)
        world.apply(sync, *world.notifications)
        world.change("a", removes=True)
        world.apply(sync, event("a", "ObjectRemoved:Delete", self.HIGH))
        world.change("a", removes=False)
        assert world.apply(sync, world.notifications[-1]) == 0
        world.apply(sync, everything=True)
        assert world.is_true()
        assert not world.gone

    def test_a_manual_scan_always_reads(self) -> None:
        world, sync = self.deaf()
        pages = world.scan_pages(sync, Scope.of(sync.groups_of(["a"])))
        assert [item.name for page in pages for item in page.items] == ["a"]


@pytest.mark.parametrize("sequencer", [None, "", "xyz", "12 34", "F" * 33])
def test_an_invalid_sequencer_is_read_and_not_recorded(sequencer: str | None) -> None:
    assert groups_in(sync_of(), event("a", sequencer=sequencer), 0.0) == ("key:a",)


@pytest.mark.parametrize("name", ["ObjectAcl:Put", "ObjectTagging:Put", "LifecycleExpiration:Delete", "ObjectMelted"])
def test_only_creations_and_removals_are_ordered(name: str) -> None:
    assert groups_in(sync_of(), event("a", name, "01"), 0.0) == ("key:a",)


def test_sequencers_count_only_for_services_that_order_by_them() -> None:
    elsewhere = {"endpoint": "https://minio.example:9000", "auth": "anonymous"}
    assert groups_in(sync_of(), event("a:b", sequencer="0A"), 0.0) == ("event:0A:a:b",)
    assert groups_in(sync_of(sequencers=False), event("a", sequencer="0A"), 0.0) == ("key:a",)
    assert groups_in(sync_of(**elsewhere), event("a", sequencer="0A"), 0.0) == ("key:a",)
    assert groups_in(sync_of(**elsewhere, sequencers=True), event("a", sequencer="0A"), 0.0) == ("event:0A:a",)


@given(
    st.lists(st.text("0123456789abcdefABCDEF", min_size=1, max_size=20), min_size=1, max_size=5), st.text(min_size=1)
)
def test_events_travel_in_a_scope(sequencers: list[str], key: str) -> None:
    event_scope = EventScope.of(f"event:{each}:{key}" for each in sequencers)
    assert event_scope.events == {key: sequencers}
    assert event_scope.newest_sequencer(key) in sequencers


def test_a_resumed_scan_of_keys_sends_each_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function's time may end behind any page, also behind the last one."""
    monkeypatch.setattr("syncline.kinds.files.items.PAGE_BYTES", 1)
    world, sync = World(), sync_of()
    for key in "abc":
        world.change(key, removes=False)
    world.apply(sync, everything=True)
    world.change("a", removes=True)
    world.change("b", removes=False)
    world.change("c", removes=True)
    scope = Scope.of(sync.groups_of(["a", "b", "c"]))
    pages = world.scan_pages(sync, scope)
    for number, page in enumerate(pages):
        rest = world.scan_pages(sync, scope, page.cursor)
        sent = [item.name for each in pages[: number + 1] for item in each.items]
        assert sent + [item.name for each in rest for item in each.items] == ["a", "b", "c"], page.cursor
