"""Notes of events and their claims: kept in order, claimed by one function at a time, and deleted after their scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from syncline.model import LARGEST_SCOPE
from syncline.store.events import KEPT, Claim, EventStore, Note
from syncline.store.table import LONGEST_KEY, Database
from tests.rig.pump import Clock

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SHOP = "shop"


@pytest.fixture
def event_store(table: Table, clock: Clock) -> EventStore:
    return EventStore(Database(table), clock.time)


def claimed(event_store: EventStore, seconds: float = 60) -> Claim:
    claim = event_store.claim(SHOP, event_store.notes(SHOP), seconds)
    assert claim is not None
    return claim


def test_a_subscription_replaces_the_previous_one(event_store: EventStore, table: Table) -> None:
    event_store.subscribe(SHOP, ["bucket:one", "bucket:two"])
    event_store.subscribe("another", ["bucket:two"])
    event_store.subscribe(SHOP, ["bucket:two", "bucket:three"])
    sources = ("bucket:one", "bucket:two", "bucket:three", "bucket:four")
    assert {source: event_store.subscribers(source) for source in sources} == {
        "bucket:one": [],
        "bucket:two": ["another", SHOP],
        "bucket:three": [SHOP],
        "bucket:four": [],
    }
    event_store.subscribe(SHOP, [])
    assert event_store.subscribers("bucket:two") == ["another"]
    event_store.subscribe("another", [])
    assert {item["sk"] for item in table.scan()["Items"]} == {"HEARS"}


@pytest.mark.parametrize("source", ["", "bucket:\ud83d", "b" * (LONGEST_KEY + 1)])
def test_a_name_that_no_source_has_has_no_subscribers(event_store: EventStore, source: str) -> None:
    assert event_store.subscribers(source) == []


def test_notes_are_ordered_by_the_time_of_their_event(event_store: EventStore, clock: Clock) -> None:
    first = event_store.add_note(SHOP, "b", ["y", "x", "y"])
    clock.sleep(1.0004)
    assert event_store.add_note(SHOP, "c", ["z"]) == round(clock.now, 3)
    assert event_store.add_note(SHOP, "a", ["w"]) == round(clock.now, 3)
    now = round(clock.now, 3)
    assert event_store.notes(SHOP) == [
        Note("b", first, ("x", "y")),
        Note("a", now, ("w",)),
        Note("c", now, ("z",)),
    ]
    assert event_store.notes("another") == []


def test_a_repeated_delivery_makes_no_second_note(event_store: EventStore, clock: Clock) -> None:
    event_store.add_note(SHOP, "one", ["a"])
    clock.sleep(1)
    event_store.add_note(SHOP, "one", ["a"])
    assert event_store.notes(SHOP) == [Note("one", clock.now, ("a",))]


def test_groups_beyond_one_scope_become_several_notes(event_store: EventStore) -> None:
    names = [f"{number:04}{'n' * 996}" for number in range(LARGEST_SCOPE * 2 // 1000)]
    event_store.add_note(SHOP, "one", names)
    notes = event_store.notes(SHOP)
    assert [note.id for note in notes] == ["one", "one-1", "one-2"]
    assert [name for note in notes for name in note.groups] == names


def test_a_claim_takes_the_notes_that_fit_one_scope(event_store: EventStore, clock: Clock) -> None:
    largest = "n" * (LARGEST_SCOPE - 100)
    for number, groups in enumerate((["a"], [largest], ["a", largest], ["b" * 100], ["c"])):
        event_store.add_note(SHOP, f"{number}", groups)
        clock.sleep(1)
    claim = claimed(event_store)
    assert (claim.notes, claim.groups) == (("0", "1", "2"), ("a", largest))
    event_store.finish(SHOP, claim)
    assert claimed(event_store).notes == ("3", "4")


def test_a_note_that_fills_a_scope_is_claimed_alone(event_store: EventStore) -> None:
    event_store.add_note(SHOP, "1", ["n" * (LARGEST_SCOPE + 1)])
    event_store.add_note(SHOP, "2", ["a"])
    assert claimed(event_store).notes == ("1",)


def test_a_stored_claim_equals_the_returned_one(event_store: EventStore, clock: Clock) -> None:
    assert event_store.current_claim(SHOP) is None
    event_store.add_note(SHOP, "1", ["b"])
    event_store.add_note(SHOP, "2", ["a"])
    clock.sleep(5)
    claim = claimed(event_store, 60)
    assert event_store.current_claim(SHOP) == claim
    assert (claim.at, claim.until, claim.groups, claim.notes) == (clock.now, clock.now + 60, ("a", "b"), ("1", "2"))


def test_the_id_of_a_claim_depends_on_its_notes(event_store: EventStore, clock: Clock) -> None:
    """The run of a scan has the name of its claim, so a repeated scan of the same notes belongs to the same run."""
    event_store.add_note(SHOP, "1", ["a"])
    note = event_store.notes(SHOP)
    first = claimed(event_store)
    event_store.finish(SHOP, first)
    clock.sleep(1)
    again = event_store.claim(SHOP, note, 60)
    assert again is not None
    assert again.id == first.id
    event_store.finish(SHOP, again)
    event_store.add_note(SHOP, "2", ["a"])
    assert claimed(event_store).id != first.id


def test_a_claim_is_held_by_one_function_at_a_time(event_store: EventStore, clock: Clock) -> None:
    event_store.add_note(SHOP, "1", ["a"])
    first = claimed(event_store)
    assert event_store.claim(SHOP, event_store.notes(SHOP), 60) is None
    clock.sleep(59)
    assert event_store.resume(SHOP, first, 60) is None
    clock.sleep(1)
    second = event_store.resume(SHOP, first, 60)
    assert second is not None
    assert (second.until, second.id, second.notes) == (clock.now + 60, first.id, first.notes)
    assert event_store.resume(SHOP, first, 60) is None
    event_store.release(SHOP, first)
    assert event_store.resume(SHOP, first, 60) is None, "a lost claim cannot be released"
    event_store.release(SHOP, second)
    assert event_store.resume(SHOP, first, 60) is not None


def test_a_claim_whose_scan_is_done_cannot_be_resumed(event_store: EventStore, clock: Clock) -> None:
    event_store.add_note(SHOP, "1", ["a"])
    first = claimed(event_store)
    event_store.add_note(SHOP, "2", ["b"])
    event_store.finish(SHOP, first)
    assert [note.id for note in event_store.notes(SHOP)] == ["2"]
    clock.sleep(61)
    assert event_store.resume(SHOP, first, 60) is None
    second = claimed(event_store)
    assert event_store.resume(SHOP, first, 60) is None, "the previous claim does not replace the next one"
    assert event_store.current_claim(SHOP) == second


def test_notes_without_a_scan_expire(event_store: EventStore, table: Table, clock: Clock) -> None:
    event_store.add_note(SHOP, "1", ["a"])
    claimed(event_store)
    assert [item["expires"] for item in table.scan()["Items"]] == [int(clock.now) + KEPT] * 2
