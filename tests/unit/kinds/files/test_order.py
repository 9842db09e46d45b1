"""The order of events: late, repeated and unordered events lead to a correct target and correct records."""

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
def test_late_repeated_and_unordered_events_lead_to_the_state_of_the_source(
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
def test_a_repeated_event_causes_no_requests_and_no_changes(
    changes: list[tuple[str, bool, int]], data: st.DataObject
) -> None:
    world, sync = World(), sync_of()
    for key, removes, _ in changes:
        world.change(key, removes=removes)
    world.apply(sync, *world.notifications)
    recorded = dict(world.files)
    for body in data.draw(st.permutations(world.notifications)):
        key = body["Records"][0]["s3"]["object"]["key"]
        # The deletion of an object that was never copied leaves no record.
        assert world.apply(sync, body) == (0 if key in recorded else 1)
    assert world.files == recorded
    assert world.is_true()


def test_a_creation_after_a_recorded_deletion_costs_no_request_while_the_deletion_is_recorded() -> None:
    world, sync = World(), sync_of()
    world.change("a", removes=False)
    world.apply(sync, *world.notifications)
    world.change("a", removes=True)
    world.apply(sync, world.notifications[1])
    assert RemovedRecord.of_row(world.gone["a"]).seq
    assert world.apply(sync, world.notifications[0]) == 0
    world.gone.clear()  # its record expired
    assert world.apply(sync, world.notifications[0]) == 1
    assert world.is_true()
    assert not world.files


def test_an_object_newer_than_the_event_is_read_again_for_its_own_event() -> None:
    world, sync = World(), sync_of()
    world.change("a", removes=False)
    world.change("a", removes=False)
    assert world.apply(sync, world.notifications[0]) == 1
    assert world.is_true(), "the object was already that of the second event"
    assert world.apply(sync, world.notifications[1]) == 1, "but the records do not show that"
    assert world.apply(sync, world.notifications[0]) == 0


def test_a_version_restored_after_a_delete_marker_is_copied_again() -> None:
    world, sync = World(), sync_of()
    world.change("a", removes=False)
    world.apply(sync, world.notifications[0])
    kept = world.objects["a"]
    world.change("a", removes=True)
    world.notifications[1]["Records"][0]["eventName"] = "ObjectRemoved:DeleteMarkerCreated"
    world.apply(sync, world.notifications[1])
    assert world.is_true()
    world.change("a", removes=True)  # the marker is deleted, so the previous version is current again
    world.objects["a"] = kept
    assert world.apply(sync, world.notifications[0]) == 0
    assert world.apply(sync, world.notifications[2]) == 1
    assert world.is_true()


class TestHighSequencers:
    """A forged high sequencer does not hide later events of a key forever."""

    HIGH = "F" * 18

    def with_high_sequencer(self) -> tuple[World, FilesSync]:
        """Return a world that received a sequencer higher than that of any later event."""
        world, sync = World(), sync_of()
        world.change("a", removes=False)
        world.apply(sync, event("a", sequencer=self.HIGH))
        world.change("a", removes=False)
        assert world.apply(sync, world.notifications[-1]) == 0
        assert not world.is_true()
        return world, sync

    def test_a_full_scan_finds_the_difference_and_forgets_the_number(self) -> None:
        world, sync = self.with_high_sequencer()
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
        world, sync = self.with_high_sequencer()
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
def test_a_scope_can_carry_events(sequencers: list[str], key: str) -> None:
    event_scope = EventScope.of(f"event:{each}:{key}" for each in sequencers)
    assert event_scope.events == {key: sequencers}
    assert event_scope.newest_sequencer(key) in sequencers


def test_a_resumed_scan_of_keys_sends_each_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function's time may end after any page, even the last."""
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
