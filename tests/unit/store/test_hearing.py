"""Notes of events and their claims: kept in order, claimed by one function at a time, and deleted after their scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from syncline.model import LARGEST_SCOPE
from syncline.store.events import KEPT, Claim, Hearing, Note
from syncline.store.table import LONGEST_KEY, Database
from tests.pump import Clock

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SHOP = "shop"


@pytest.fixture
def hearing(table: Table, clock: Clock) -> Hearing:
    return Hearing(Database(table), clock.time)


def claimed(hearing: Hearing, seconds: float = 60) -> Claim:
    claim = hearing.claim(SHOP, hearing.notes(SHOP), seconds)
    assert claim is not None
    return claim


def test_syncs_hear_of_just_the_sources_of_the_last_time(hearing: Hearing, table: Table) -> None:
    hearing.subscribe(SHOP, ["bucket:one", "bucket:two"])
    hearing.subscribe("another", ["bucket:two"])
    hearing.subscribe(SHOP, ["bucket:two", "bucket:three"])
    sources = ("bucket:one", "bucket:two", "bucket:three", "bucket:four")
    assert {source: hearing.subscribers(source) for source in sources} == {
        "bucket:one": [],
        "bucket:two": ["another", SHOP],
        "bucket:three": [SHOP],
        "bucket:four": [],
    }
    hearing.subscribe(SHOP, [])
    assert hearing.subscribers("bucket:two") == ["another"]
    hearing.subscribe("another", [])
    assert {item["sk"] for item in table.scan()["Items"]} == {"HEARS"}


@pytest.mark.parametrize("source", ["", "bucket:\ud83d", "b" * (LONGEST_KEY + 1)])
def test_nobody_hears_of_a_name_that_no_source_has(hearing: Hearing, source: str) -> None:
    assert hearing.subscribers(source) == []


def test_notes_come_in_the_order_in_which_they_were_heard(hearing: Hearing, clock: Clock) -> None:
    first = hearing.note(SHOP, "b", ["y", "x", "y"])
    clock.sleep(1.0004)
    assert hearing.note(SHOP, "c", ["z"]) == round(clock.now, 3)
    assert hearing.note(SHOP, "a", ["w"]) == round(clock.now, 3)
    now = round(clock.now, 3)
    assert hearing.notes(SHOP) == [
        Note("b", first, ("x", "y")),
        Note("a", now, ("w",)),
        Note("c", now, ("z",)),
    ]
    assert hearing.notes("another") == []


def test_a_delivery_that_comes_again_is_the_same_note(hearing: Hearing, clock: Clock) -> None:
    hearing.note(SHOP, "one", ["a"])
    clock.sleep(1)
    hearing.note(SHOP, "one", ["a"])
    assert hearing.notes(SHOP) == [Note("one", clock.now, ("a",))]


def test_more_than_one_scan_may_cover_becomes_several_notes(hearing: Hearing) -> None:
    names = [f"{number:04}{'n' * 996}" for number in range(LARGEST_SCOPE * 2 // 1000)]
    hearing.note(SHOP, "one", names)
    notes = hearing.notes(SHOP)
    assert [note.id for note in notes] == ["one", "one-1", "one-2"]
    assert [name for note in notes for name in note.groups] == names


def test_a_claim_takes_as_many_notes_as_one_scan_may_cover(hearing: Hearing, clock: Clock) -> None:
    largest = "n" * (LARGEST_SCOPE - 100)
    for number, groups in enumerate((["a"], [largest], ["a", largest], ["b" * 100], ["c"])):
        hearing.note(SHOP, f"{number}", groups)
        clock.sleep(1)
    claim = claimed(hearing)
    assert (claim.notes, claim.groups) == (("0", "1", "2"), ("a", largest))
    hearing.settle(SHOP, claim)
    assert claimed(hearing).notes == ("3", "4")


def test_a_note_that_fills_a_scan_is_claimed_alone(hearing: Hearing) -> None:
    hearing.note(SHOP, "1", ["n" * (LARGEST_SCOPE + 1)])
    hearing.note(SHOP, "2", ["a"])
    assert claimed(hearing).notes == ("1",)


def test_a_claim_is_read_as_it_was_made(hearing: Hearing, clock: Clock) -> None:
    assert hearing.claimed(SHOP) is None
    hearing.note(SHOP, "1", ["b"])
    hearing.note(SHOP, "2", ["a"])
    clock.sleep(5)
    claim = claimed(hearing, 60)
    assert hearing.claimed(SHOP) == claim
    assert (claim.at, claim.until, claim.groups, claim.notes) == (clock.now, clock.now + 60, ("a", "b"), ("1", "2"))


def test_other_notes_make_a_claim_of_another_name(hearing: Hearing, clock: Clock) -> None:
    """The run of a scan has the name of its claim: done again for the same notes it is the same run."""
    hearing.note(SHOP, "1", ["a"])
    note = hearing.notes(SHOP)
    first = claimed(hearing)
    hearing.settle(SHOP, first)
    clock.sleep(1)
    again = hearing.claim(SHOP, note, 60)
    assert again is not None
    assert again.id == first.id
    hearing.settle(SHOP, again)
    hearing.note(SHOP, "2", ["a"])
    assert claimed(hearing).id != first.id


def test_a_claim_is_held_by_one_function_at_a_time(hearing: Hearing, clock: Clock) -> None:
    hearing.note(SHOP, "1", ["a"])
    first = claimed(hearing)
    assert hearing.claim(SHOP, hearing.notes(SHOP), 60) is None
    clock.sleep(59)
    assert hearing.take_up(SHOP, first, 60) is None
    clock.sleep(1)
    second = hearing.take_up(SHOP, first, 60)
    assert second is not None
    assert (second.until, second.id, second.notes) == (clock.now + 60, first.id, first.notes)
    assert hearing.take_up(SHOP, first, 60) is None
    hearing.release(SHOP, first)
    assert hearing.take_up(SHOP, first, 60) is None, "who has lost a claim cannot release it"
    hearing.release(SHOP, second)
    assert hearing.take_up(SHOP, first, 60) is not None


def test_a_claim_whose_scan_was_made_cannot_be_taken_up(hearing: Hearing, clock: Clock) -> None:
    hearing.note(SHOP, "1", ["a"])
    first = claimed(hearing)
    hearing.note(SHOP, "2", ["b"])
    hearing.settle(SHOP, first)
    assert [note.id for note in hearing.notes(SHOP)] == ["2"]
    clock.sleep(61)
    assert hearing.take_up(SHOP, first, 60) is None
    second = claimed(hearing)
    assert hearing.take_up(SHOP, first, 60) is None, "nor in place of the next one"
    assert hearing.claimed(SHOP) == second


def test_what_nobody_scans_expires(hearing: Hearing, table: Table, clock: Clock) -> None:
    hearing.note(SHOP, "1", ["a"])
    claimed(hearing)
    assert [item["expires"] for item in table.scan()["Items"]] == [int(clock.now) + KEPT] * 2
