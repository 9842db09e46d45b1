"""Comparison of listings with records, for any three of them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.files.compare import (
    FileChange,
    ListingComparison,
    RecheckShare,
    Tally,
    TargetListing,
    renames_among,
    with_renames,
)
from syncline.kinds.files.discover import ScanCursor
from syncline.kinds.files.records import PreviousRecord, Record, RemovedRecord, Task
from syncline.model import Item
from syncline.ownership import Action

KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
VERSIONS = st.tuples(st.sampled_from(["e", "f", "g"]), st.integers(0, 3))
OBJECTS = st.dictionaries(KEYS, VERSIONS, max_size=12)
RECORDED = st.dictionaries(KEYS, st.tuples(VERSIONS, st.sampled_from(["e", "f", "x"]), st.booleans()), max_size=12)
RECORDS = st.builds(
    Record,
    st.text(max_size=3),
    st.integers(0),
    st.integers(0),
    st.text(min_size=1, max_size=3),
    verified=st.booleans(),
    headers=st.text(max_size=2),
    mode=st.none() | st.just("rw-r--r--"),
    mode_time=st.none() | st.floats(0, 1e9),
    internal_id=st.text(max_size=2),
)
PREVIOUS_RECORDS = st.builds(PreviousRecord, KEYS, RECORDS.map(lambda record: replace(record, previous=None)))
Objects = dict[str, tuple[str, int]]
Recorded = dict[str, tuple[tuple[str, int], str, bool]]


def listing(files: list[ListedObject], start: str = "") -> TargetListing:
    """Return a target's listing, which can be opened after any name."""

    def opened(after: str) -> Generator[ListedObject]:
        yield from (each for each in files if not after or each.key > start + after)

    return TargetListing(opened, start, "")


def run(
    source: Objects, target: Objects | None, records: Recorded, **more: Any
) -> tuple[ListingComparison, list[FileChange]]:
    known = (
        (name, Record(*records[name][0], 7, records[name][1], verified=records[name][2]).to_row())
        for name in sorted(records)
    )
    comparison = ListingComparison(
        (ListedObject(f"s/{name}", *source[name], 7.5) for name in sorted(source)),
        None
        if target is None
        else listing([ListedObject(f"t/{name}", *target[name], 1.0) for name in sorted(target)], "t/"),
        known,
        ("s/", "t/"),
        more.get("takes"),
        more.get("leaves_out", lambda _name, _size: False),
        more.get("turns"),
        more.get("reread", frozenset()),
        more.get("overwrite", False),
    )
    return comparison, [change for change in comparison.changes() if change is not None]


def action_for(source: Objects, target: Objects, records: Recorded, name: str) -> Action:
    """Return the action according to the rules, written independently of the code."""
    current, existing, known = source.get(name), target.get(name), records.get(name)
    ours = existing is not None and known is not None and known[1] == existing[0]
    if current is None:
        if known is None or existing is None:
            return Action.NOTHING
        return Action.REMOVE if ours else Action.CONFLICT
    if existing is None:
        return Action.CREATE
    if ours and known is not None and known[0] == current and existing[1] == current[1]:
        return Action.EQUAL
    if existing == current:
        return Action.ADOPT
    return Action.REPLACE if ours else Action.CONFLICT


@given(OBJECTS, OBJECTS, RECORDED)
def test_every_name_gets_the_action_of_the_rules(source: Objects, target: Objects, records: Recorded) -> None:
    comparison, changes = run(source, target, records)
    wanted = {name: action_for(source, target, records, name) for name in source.keys() | records.keys()}
    settled = (Action.EQUAL, Action.ADOPT)
    gone = {name for name in records if name not in source and name not in target}
    wanted = {name: action for name, action in wanted.items() if name not in gone}
    assert {change.name: change.action for change in changes} == {n: a for n, a in wanted.items() if a not in settled}
    assert [change.name for change in changes] == sorted(change.name for change in changes)
    assert comparison.equal == sum(action in settled for action in wanted.values())
    adopted = {name for name, action in wanted.items() if action is Action.ADOPT}
    unverified = {name for name, action in wanted.items() if action is Action.EQUAL and not records[name][2]}
    dropped = {name for name in gone if records[name][2]}
    assert comparison.adopted.keys() == adopted | unverified | dropped
    for name, row in comparison.adopted.items():
        if name in dropped:
            assert row is None
            continue
        assert row is not None
        record = Record.of_row(row)
        assert (record.etag, record.size, record.verified) == (*source[name], True)
        assert record.target == target[name][0]
    assert comparison.tally.listed == len(source)
    assert comparison.tally.ours == len(records) - len(gone)
    assert comparison.tally.gone == sum(action is Action.REMOVE for action in wanted.values())


@given(OBJECTS, RECORDED)
def test_a_target_that_is_not_listed_has_the_verified_files(source: Objects, records: Recorded) -> None:
    comparison, changes = run(source, None, records)
    equal = {n for n in source if n in records and records[n][0] == source[n] and records[n][2]}
    gone = records.keys() - source.keys()
    assert comparison.equal == len(equal)
    assert {c.name for c in changes if c.action is Action.CREATE} == source.keys() - equal
    assert {c.name for c in changes if c.action is Action.REMOVE} == gone
    assert not comparison.adopted


@given(OBJECTS, OBJECTS, RECORDED)
def test_unselected_names_stay_as_they_are(source: Objects, target: Objects, records: Recorded) -> None:
    comparison, changes = run(source, target, records, takes=lambda _key: False)
    assert changes == []
    assert comparison.tally.gone == 0
    assert comparison.left_out == len(source)


@given(OBJECTS, OBJECTS)
def test_a_second_pass_over_equal_sides_has_nothing_to_do(source: Objects, target: Objects) -> None:
    target |= source
    comparison, _ = run(source, target, {})
    records = {name: ((r := Record.of_row(row)).etag, r.size) for name, row in comparison.adopted.items() if row}
    assert records == source
    again, changes = run(source, target, {name: (version, version[0], True) for name, version in records.items()})
    assert (changes, again.adopted, again.checks, again.equal) == ([], {}, [], len(source))


def test_another_time_is_checked_but_is_no_difference() -> None:
    record = ("a", Record("e", 1, 6, "e").to_row())
    source, target = [ListedObject("a", "e", 1, 7.0)], [ListedObject("a", "e", 1, 0.0)]
    comparison = ListingComparison(
        iter(source), listing(target), iter([record]), ("", ""), None, lambda *_: False, None, frozenset(), False
    )
    assert [change for change in comparison.changes() if change is not None] == []
    assert [check.name for check in comparison.checks] == ["a"]
    assert comparison.equal == 1


@pytest.mark.parametrize("verified", [True, False])
def test_a_file_of_another_size_is_not_equal_even_if_its_record_is(*, verified: bool) -> None:
    """A service kept only a part of the bytes and states the ETag of the part: verify refused the file."""
    comparison, changes = run({"a": ("e", 3)}, {"a": ("x", 2)}, {"a": (("e", 3), "x", verified)})
    assert [change.action for change in changes] == [Action.REPLACE]
    assert comparison.adopted == {}


def test_a_file_that_was_created_again_is_another_removal() -> None:
    """Its removal counts again, although its name was reserved before."""
    digests = set()
    for etag, modified in (("e", 7), ("e", 8), ("f", 8)):
        change = FileChange("s/a", "a", Action.REMOVE, None, Record(etag, 3, modified, etag))
        digests.add(with_renames(Tally(gone=1), [change], {}).digest)
    assert len(digests) == 3


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("keys", ["bac", "aab"])
def test_an_unsorted_listing_is_an_error(side: str, keys: str) -> None:
    wrong = [ListedObject(key, "e", 1, 0) for key in keys]
    right = [ListedObject(key, "e", 1, 0) for key in sorted(set(keys))]
    source, target = (wrong, right) if side == "source" else (right, wrong)
    comparison = ListingComparison(
        iter(source), listing(target), iter([]), ("", ""), None, lambda *_: False, None, frozenset(), False
    )
    with pytest.raises(SynclineError) as error:
        list(comparison.changes())
    assert error.value.code.name == "LISTING_INCOMPLETE"


@given(OBJECTS, st.none() | OBJECTS, RECORDED)
def test_renames_are_the_pairs_that_are_not_ambiguous(
    source: Objects, target: Objects | None, records: Recorded
) -> None:
    comparison, changes = run(source, target, records)
    new = [k for k, v in source.items() if v[1] and k not in records and (target is None or k not in target)]
    old = [change.name for change in changes if change.action is Action.REMOVE]
    alike_new = {version: [k for k in new if source[k] == version] for version in source.values()}
    alike_old = {version: [k for k in old if records[k][0] == version] for version in source.values()}
    pairs = {
        f"s/{alike_new[version][0]}": f"s/{alike_old[version][0]}"
        for version in source.values()
        if len(alike_new[version]) == len(alike_old[version]) == 1
    }
    renames = renames_among(changes)
    assert renames == pairs
    tally = with_renames(comparison.tally, changes, renames)
    assert (tally.gone, tally.renamed) == (len(old) - len(pairs), len(pairs))
    removed = [change for change in changes if change.key not in pairs.values()]
    assert tally.digest == with_renames(comparison.tally, removed, {}).digest


@pytest.mark.parametrize("etag", ["", "e"])
def test_files_without_etags_are_no_renames(etag: str) -> None:
    """Some services list no ETags; equal sizes are not enough."""
    gone = FileChange("s/old", "old", Action.REMOVE, None, Record(etag, 3, 7, "v"))
    new = FileChange("s/new", "new", Action.CREATE, ListedObject("s/new", etag, 3, 7.0), None)
    assert renames_among([gone, new]) == ({"s/new": "s/old"} if etag else {})


def test_renames_of_two_windows_are_added() -> None:
    gone = FileChange("s/old", "old", Action.REMOVE, None, Record("e", 3, 7, "e"))
    tally = with_renames(Tally(gone=2, renamed=4), [gone], {"s/new": "s/old"})
    assert tally == Tally(gone=1, renamed=5)


class TestRechecks:
    NAMES: Final = [f"photos/{number:05}.jpg" for number in range(300)]

    @settings(max_examples=30)
    @given(st.lists(st.floats(0.05, 0.6), min_size=1, max_size=12), st.floats(0, 1e9))
    def test_every_name_is_due_once_in_a_period(self, steps: list[float], begin: float) -> None:
        """For any times of the scans, no name is skipped, and none is read twice in a period."""
        period, now, reads = 1000.0, begin, dict.fromkeys(self.NAMES, 0)
        while now < begin + period:
            for step in steps:
                following = min(now + step * period, begin + period)
                turns = RecheckShare(now, following, period)
                for name in self.NAMES:
                    reads[name] += turns.includes(name)
                now = following
        # Rounding may assign a name at the boundary of two scans to both or to neither.
        assert sum(count != 1 for count in reads.values()) <= len(steps) * 2

    def test_the_share_grows_with_the_time_since_the_last_scan(self) -> None:
        hourly = RecheckShare(0.0, 3600.0, 7 * 86400.0)
        assert sum(map(hourly.includes, self.NAMES)) <= 6  # 300 / 168 is 2
        assert sum(map(RecheckShare(0.0, 1e7, 7 * 86400.0).includes, self.NAMES)) == len(self.NAMES)
        assert sum(map(RecheckShare(5.0, 5.0, 100.0).includes, self.NAMES)) == 0


@given(
    st.builds(
        ScanCursor,
        removing=st.booleans(),
        after=KEYS,
        tally=st.builds(Tally, st.integers(0), st.integers(0), st.integers(0), st.integers(0), st.text(max_size=3)),
        upto=st.none() | KEYS,
        sent=st.none() | st.tuples(KEYS, KEYS),
        whole=st.booleans(),
        began=st.floats(0, 1e10),
        since=st.none() | st.floats(0, 1e10),
        granted=st.integers(0),
        ended=st.booleans(),
    )
)
def test_a_cursor_survives_its_message(cursor: ScanCursor) -> None:
    assert ScanCursor.of_text(cursor.to_text()) == cursor


@given(
    st.builds(
        Task,
        operation=st.sampled_from(["put", "remove", "rename", "permit"]),
        origin=st.none() | KEYS,
        ours=st.text(max_size=3),
        origin_ours=st.text(max_size=3),
        mode=st.none() | st.just("rw-r--r--"),
        mode_time=st.none() | st.floats(0, 1e9),
        modified=st.none() | st.integers(0),
        seq=st.text(max_size=3),
        origin_seq=st.text(max_size=3),
        previous=st.none() | PREVIOUS_RECORDS,
        record=st.none() | st.builds(replace, RECORDS, seq=st.text(max_size=3), previous=st.none() | PREVIOUS_RECORDS),
        parts=st.integers(0),
        alone=st.booleans(),
        compared=st.integers(0),
    )
)
def test_a_task_survives_its_item(task: Task) -> None:
    item = Item.from_json(task.on(Item("g", "n")).to_json())
    assert Task.of(item) == task


@given(
    st.builds(replace, RECORDS, seq=st.text(max_size=3), previous=st.none() | PREVIOUS_RECORDS),
    st.none() | PREVIOUS_RECORDS,
)
def test_records_survive_their_rows(record: Record, previous: PreviousRecord | None) -> None:
    read = Record.of_row(record.to_row())
    assert read == record
    assert RemovedRecord.of_row(RemovedRecord(record.seq, previous).to_row()) == RemovedRecord(record.seq, previous)


class TestFilesOfOthers:
    """After many foreign files, the target's listing is opened again; a few are skipped one by one."""

    @staticmethod
    def found(names: list[str], asked: list[str]) -> tuple[list[str | None], list[str], int]:
        """Return the names found, the names after which the listing was opened, and the number of files read."""
        read, opened = 0, list[str]()

        def open_after(after: str) -> Generator[ListedObject]:
            nonlocal read
            opened.append(after.encode().decode())  # as in a request
            for name in names:
                if name > after:
                    read += 1
                    yield ListedObject(name, "e", 1, 0.0)

        existing = TargetListing(open_after, "", "")
        found = [existing.find(name) for name in asked]
        return [None if each is None else each.key for each in found], opened, read

    @pytest.mark.parametrize("name", ["b", "b\x00", "b\ue000"])
    def test_many_foreign_files_are_skipped_by_a_new_listing(self, name: str) -> None:
        others = [f"a~{number:06}" for number in range(9000)]
        found, opened, read = self.found(sorted([*others, name, "c"]), [name, f"{name}b"])
        assert found == [name, None]
        assert len(opened) <= 2
        assert read <= 2003

    def test_few_foreign_files_are_skipped_one_by_one(self) -> None:
        _, opened, read = self.found([*(f"a~{number:04}" for number in range(1900)), "b"], ["b"])
        assert (opened, read) == ([""], 1901)

    @given(
        st.lists(st.text("\x00\x01ab\ud7ff\ue000\U0010ffff", min_size=1, max_size=3), unique=True, max_size=12).map(
            sorted
        ),
        st.sets(st.text("\x00\x01ab\ud7ff\ue000\U0010ffff", max_size=3), max_size=6).map(sorted),
    )
    def test_every_name_is_found_wherever_it_is_opened(self, names: list[str], asked: list[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("syncline.kinds.files.compare._MOST_SKIPPED", 1)
            found, _, _ = self.found(names, asked)
        assert found == [name if name in names else None for name in asked]
