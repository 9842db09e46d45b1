"""Comparing listings with records: what must be true of any two."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.s3_xml import Listed
from syncline.errors import SynclineError
from syncline.kinds.files.comparing import Change, Pass, items_of, renames_among
from syncline.kinds.files.looking import Cursor
from syncline.kinds.files.records import Gone, Record, Task, Was
from syncline.model import Item

KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
RECORDS = st.builds(Record, st.text(max_size=3), st.integers(0), st.integers(0))
WAS = st.builds(Was, KEYS, RECORDS)
OBJECTS = st.dictionaries(KEYS, st.tuples(st.sampled_from(["e", "f", "g"]), st.integers(0, 3)), max_size=12)


def run(
    listing: dict[str, tuple[str, int]], records: dict[str, tuple[str, int]], **more: Any
) -> tuple[Pass, list[Change]]:
    listed = (Listed(key, *listing[key], 7.5) for key in sorted(listing))
    known = ((key, Record(*records[key], 7).to_text()) for key in sorted(records))
    going = Pass(listed, known, more.get("takes", lambda _key: True))
    return going, [change for change in going.changes() if change is not None]


@given(OBJECTS, OBJECTS)
def test_exactly_what_differs_is_told(listing: dict[str, tuple[str, int]], records: dict[str, tuple[str, int]]) -> None:
    going, changes = run(listing, records)
    told = {change.key: (change.listed is not None, change.record is not None) for change in changes}
    assert told == {
        key: (key in listing, key in records)
        for key in listing.keys() | records.keys()
        if listing.get(key) != records.get(key)
    }
    assert [change.key for change in changes] == sorted(told)
    assert (going.tally.listed, going.tally.known) == (len(listing), len(records))
    assert going.tally.gone == len(records.keys() - listing.keys())
    assert going.equal == len(listing) - sum(key in listing for key in told)


@given(OBJECTS, OBJECTS)
def test_what_is_left_out_stays(listing: dict[str, tuple[str, int]], records: dict[str, tuple[str, int]]) -> None:
    going, changes = run(listing, records, takes=lambda _key: False)
    assert changes == []
    assert going.tally.gone == 0


def test_a_listing_out_of_order_is_not_believed() -> None:
    going = Pass(iter([Listed("b", "e", 1, 0), Listed("a", "e", 1, 0)]), iter([]), lambda _key: True)
    with pytest.raises(SynclineError) as error:
        list(going.changes())
    assert error.value.code.name == "LISTING_INCOMPLETE"


@given(OBJECTS, OBJECTS)
def test_renames_are_never_ambiguous(listing: dict[str, tuple[str, int]], records: dict[str, tuple[str, int]]) -> None:
    _, changes = run(listing, records)
    renames = renames_among(changes)
    assert len(set(renames.values())) == len(renames)
    for new, old in renames.items():
        assert listing[new] == records[old]
        assert new not in records
        assert old not in listing
        assert listing[new][1] > 0
        same_new = [k for k, v in listing.items() if v == listing[new] and k not in records]
        same_old = [k for k, v in records.items() if v == records[old] and k not in listing]
        assert (len(same_new), len(same_old)) == (1, 1)


@given(OBJECTS, OBJECTS, st.booleans())
def test_every_change_is_one_item(
    listing: dict[str, tuple[str, int]], records: dict[str, tuple[str, int]], removes: bool
) -> None:
    _, changes = run(listing, records)
    renames = renames_among(changes) if removes else {}
    items = items_of(changes, renames, lambda key: key[:1], removes=removes, tells=removes)
    assert items == sorted(items, key=lambda item: (item.group, item.name))
    done: dict[str, str] = {item.name: Task.of(item).what for item in items}
    assert len(done) == len(items)
    gone = {change.key for change in changes if change.listed is None}
    expected = {change.key for change in changes} - (set(renames.values()) if removes else gone)
    assert done.keys() == expected
    assert {name for name, what in done.items() if what == "remove"} == (
        gone - set(renames.values()) if removes else set()
    )


@given(
    st.builds(
        Cursor,
        gone=st.booleans(),
        after=KEYS,
        upto=st.none() | KEYS,
        sent=st.none() | st.tuples(KEYS, KEYS),
        whole=st.booleans(),
    )
)
def test_a_cursor_travels(cursor: Cursor) -> None:
    assert Cursor.of_text(cursor.to_text()) == cursor


@given(
    st.builds(
        Task,
        what=st.sampled_from(["put", "remove", "rename", "permit"]),
        origin=st.none() | KEYS,
        mode=st.none() | st.just("rw-r--r--"),
        told=st.text(max_size=3),
        internal_id=st.text(max_size=3),
        modified=st.none() | st.integers(0),
        seq=st.text(max_size=3),
        gone=st.text(max_size=3),
        was=st.none() | WAS,
        made=st.none() | st.builds(replace, RECORDS, seq=st.text(max_size=3), was=st.none() | WAS),
    )
)
def test_a_task_travels_in_an_item(task: Task) -> None:
    item = Item.from_json(task.on(Item("g", "n")).to_json())
    assert Task.of(item) == task


@given(st.builds(replace, RECORDS, seq=st.text(max_size=3), was=st.none() | WAS), st.none() | WAS)
def test_what_is_remembered_is_read_again(record: Record, was: Was | None) -> None:
    assert Record.of_text(record.to_text()) == record
    assert Gone.of_text(Gone(record.seq, was).to_text()) == Gone(record.seq, was)


def test_a_record_of_before_is_read() -> None:
    assert Record.of_text('["e",1,2,"text/plain","rw-r--r--","id",""]') == Record(
        "e", 1, 2, "text/plain", "rw-r--r--", "id"
    )
