"""The comparison of a cluster, file by file: items to send, results, gone files, and records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from syncline.clients.s3.xml import ListedObject
from syncline.kinds.backups.compare import Comparison, unchanged_page
from syncline.kinds.backups.ownership import EXTRAS, OwnedFile
from syncline.kinds.backups.paths import Layout
from syncline.kinds.kind import Page
from syncline.model import Item, Outcome, Result
from syncline.store.backup_records import IndexEntry, LeftOutCode

A, B = "east/shop/a", "east/shop/b"
OBJECT = ("etag", 7)
EQUAL = IndexEntry("etag", "blob")
TIME = 1_767_582_000
ROW = OwnedFile("blob", "etag", 7, 5)


def comparison(
    objects: Mapping[str, tuple[str, int]],
    current: Mapping[str, IndexEntry],
    rows: Mapping[str, OwnedFile],
    *,
    written: frozenset[str] = frozenset(),
    **more: Any,
) -> Comparison:
    """Return a comparison; ``written`` are fingerprints that are ours by evidence."""
    return Comparison(
        more.get("layout", Layout(objects=((), ("*/*/*.tmp",)))),
        "main",
        {key: ListedObject(key, etag, size, TIME) for key, (etag, size) in objects.items()},
        current,
        rows,
        lambda _key, mark: mark in written,
        more.get("invalid", {}),
        more.get("asked", frozenset()),
    )


def result_rows(page: Page) -> list[tuple[str, Outcome, str | None, str | None]]:
    return [(each.name, each.outcome, each.source, each.target) for each in page.results]


@pytest.mark.parametrize(
    ("row", "learned"),
    [
        (ROW, None),
        (None, OwnedFile("blob", "etag", 7)),
        (OwnedFile("blob"), OwnedFile("blob", "etag", 7)),
        (OwnedFile("blob", "before", 7, 5), ROW),
        (OwnedFile("blob", "etag", 8, 5), ROW),
        (OwnedFile("another", "etag", 7, 5), OwnedFile("blob", "etag", 7)),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_an_equal_file_is_ours(row: OwnedFile | None, learned: OwnedFile | None, *, at_once: bool) -> None:
    case = comparison({A: OBJECT}, {A: EQUAL}, {} if row is None else {A: row})
    page = case.all_equal() if at_once else case.compared({A: "blob"})
    assert (page.items, page.results, page.equal, page.extra) == ((), (), 1, 0)
    assert (case.ours, case.gone) == (1, {})
    assert case.learned == ({} if learned is None else {A: learned})


@pytest.mark.parametrize(
    ("current", "indexed", "row", "written", "ours"),
    [
        (None, None, None, "", 0),
        (None, EQUAL, None, "", 0),
        (None, EQUAL, ROW, "", 0),
        ("old", EQUAL, OwnedFile("old"), "", 1),
        ("old", EQUAL, OwnedFile("other"), "old", 1),
        ("old", None, None, "", 0),
        ("old", None, OwnedFile("old"), "", 1),
    ],
)
def test_a_different_file_is_sent_if_it_is_ours_or_may_be_equal(
    current: str | None, indexed: IndexEntry | None, row: OwnedFile | None, written: str, ours: int
) -> None:
    case = comparison(
        {A: OBJECT}, {A: indexed} if indexed else {}, {A: row} if row else {}, written=frozenset({written})
    )
    page = case.compared({} if current is None else {A: current})
    assert page.items == (Item("main", A, "etag", current, 7, changed=TIME),)
    assert (page.results, page.equal, page.extra) == ((), 0, 0)
    assert (case.ours, case.gone, case.learned) == (ours, {}, {})


def test_a_file_that_is_ours_by_evidence_is_recorded() -> None:
    case = comparison({A: OBJECT}, {A: EQUAL}, {}, written=frozenset({"old", "gone"}))
    page = case.compared({A: "old", B: "gone"})
    assert page.items == (Item("main", A, "etag", "old", 7, changed=TIME),)
    assert case.learned == {A: OwnedFile("old"), B: OwnedFile("gone")}
    assert case.gone == {B: (Item("main", B, None, "gone", None, {"remove": True}), OwnedFile("gone"))}
    assert case.ours == 2


def test_a_foreign_file_stays() -> None:
    case = comparison({A: OBJECT}, {A: EQUAL}, {A: OwnedFile("other"), B: OwnedFile("other")})
    page = case.compared({A: "theirs", B: "theirs"})
    assert result_rows(page) == [(A, Outcome.CONFLICT, "blob", "theirs"), (B, Outcome.EXTRA, None, "theirs")]
    assert (page.items, page.equal, page.extra) == ((), 0, 0)
    assert (case.ours, case.gone, case.learned) == (0, {}, {})


def test_all_files_of_ours_are_counted() -> None:
    names = [f"east/shop/{letter}" for letter in "abcdefgh"]
    objects = dict.fromkeys(names[:6], OBJECT)
    current = dict.fromkeys(names[:4], EQUAL)
    case = comparison(objects, current, dict.fromkeys(names, ROW))
    page = case.compared({**dict.fromkeys(names[:2], "blob"), **dict.fromkeys(names[2:], "blob")})
    assert page.equal == 4
    assert [item.name for item in page.items] == names[4:6]
    assert list(case.gone) == names[6:]
    assert case.ours == 8


def test_files_that_are_not_selected_do_not_collide() -> None:
    case = comparison({}, {}, {B: ROW, "east/shop/c": ROW})
    page = case.compared({"east/shop/a.tmp": "blob", B: "blob", "east/shop/c": "blob", "east/shop/d": "theirs"})
    assert list(case.gone) == [B, "east/shop/c"]
    assert [each.name for each in page.results] == ["east/shop/d"]


def test_some_of_many_extras_have_results_and_all_are_counted() -> None:
    extras = {f"east/shop/{number:04}": "theirs" for number in range(EXTRAS + 7)}
    page = comparison({}, {}, {}).compared(extras)
    assert (len(page.results), page.extra) == (EXTRAS, 7)


def test_a_file_of_ours_that_the_source_lacks_is_gone() -> None:
    case = comparison({}, {}, {A: ROW, B: OwnedFile("before")})
    page = case.compared({A: "blob", B: "blob", "east/shop/c.tmp": "blob"})
    assert result_rows(page) == [(B, Outcome.EXTRA, None, "blob")], "a file that is not selected is ignored"
    assert case.gone == {A: (Item("main", A, None, "blob", None, {"remove": True}), ROW)}
    assert (case.ours, case.learned) == (1, {})


@pytest.mark.parametrize("at_once", [False, True])
def test_the_record_of_a_file_that_neither_side_has_is_deleted(*, at_once: bool) -> None:
    rows = {A: ROW, B: ROW, "east/shop/c.tmp": ROW}
    case = comparison({A: OBJECT}, {A: EQUAL}, rows)
    case.all_equal() if at_once else case.compared({A: "blob"})
    assert case.learned == {B: None}


def test_nothing_is_gone_or_forgotten_after_an_invalid_entry() -> None:
    invalid = {"east/shop/x": Result("main", "east/shop/x", Outcome.FAILED)}
    case = comparison(
        {A: OBJECT, "east/shop/x": OBJECT}, {A: EQUAL}, {A: ROW, B: ROW, "east/shop/c": ROW}, invalid=invalid
    )
    page = case.compared({A: "blob", B: "blob", "east/shop/x": "theirs"})
    assert page.results == tuple(invalid.values())
    assert (page.items, page.equal, page.extra) == ((), 1, 0)
    assert (case.ours, case.gone, case.learned) == (2, {}, {})
    assert case.all_equal().results == tuple(invalid.values())


@pytest.mark.parametrize("code", ["", "SECRET_SUSPECTED"])
@pytest.mark.parametrize("here", [None, "blob", "theirs"])
def test_an_object_that_is_left_out_is_not_at_the_target(code: LeftOutCode, here: str | None) -> None:
    case = comparison({A: OBJECT}, {A: IndexEntry("etag", "", code)}, {A: ROW})
    page = case.compared({} if here is None else {A: here})
    if here == "blob":
        assert page.items == (Item("main", A, "etag", "blob", 7, changed=TIME),), "our file of it is removed"
    elif here == "theirs":
        assert result_rows(page) == [(A, Outcome.EXTRA, None, "theirs")]
    else:
        assert [each.code for each in page.results] == ([code] if code else [])
        assert page.left_out == (0 if code else 1)
        assert case.ours == 0


def test_keys_that_collide_fail_without_a_transfer() -> None:
    case = comparison({"east/shop/.git/a": OBJECT, "east/shop/A": OBJECT, A: OBJECT}, {}, {})
    page = case.compared({A: "blob"})
    assert [item.name for item in page.items] == [A]
    assert sorted(each.name for each in page.results if each.outcome is Outcome.FAILED) == [
        "east/shop/.git/a",
        "east/shop/A",
    ]


def test_equal_files_that_a_retry_asks_for_have_results() -> None:
    case = comparison({A: OBJECT, B: OBJECT}, {A: EQUAL, B: EQUAL}, {}, asked=frozenset({("main", A)}))
    page = case.compared({A: "blob", B: "blob"})
    assert [(each.name, each.outcome) for each in page.results] == [(A, Outcome.EQUAL)]
    assert page.equal == 1


def test_unchanged_objects_that_are_left_out_have_results_if_they_have_a_code() -> None:
    known = {"a": IndexEntry("1", "blob"), "b": IndexEntry("2", ""), "c": IndexEntry("3", "", "SECRET_SUSPECTED")}
    page = unchanged_page("main", known, frozenset())
    assert (page.cursor, page.equal, page.left_out) == ("", 1, 1)
    assert [(each.name, each.outcome, each.code, each.source, each.moved_bytes) for each in page.results] == [
        ("c", Outcome.LEFT_OUT, "SECRET_SUSPECTED", None, 0)
    ]
