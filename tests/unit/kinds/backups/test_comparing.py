"""A cluster compared file by file: what is sent, what stays, what is gone, and what is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from syncline.kinds.backups.compare import Comparison
from syncline.kinds.backups.ours import EXTRAS, Ours
from syncline.kinds.backups.paths import Layout
from syncline.kinds.kind import Page
from syncline.model import Item, Outcome, Result
from syncline.store.backup_records import Known, LeftOutCode

A, B = "east/shop/a", "east/shop/b"
OBJECT = ("etag", 7)
EQUAL = Known("etag", "blob")
ROW = Ours("blob", "etag", 7, 5)


def comparison(
    objects: Mapping[str, tuple[str, int]],
    current: Mapping[str, Known],
    rows: Mapping[str, Ours],
    *,
    written: frozenset[str] = frozenset(),
    **more: Any,
) -> Comparison:
    """Return a comparison; ``written`` are fingerprints that are ours by evidence."""
    return Comparison(
        more.get("layout", Layout(objects=((), ("*/*/*.tmp",)))),
        "main",
        objects,
        current,
        rows,
        lambda _key, mark: mark in written,
        more.get("odd", {}),
        more.get("asked", frozenset()),
    )


def results_of(page: Page) -> list[tuple[str, Outcome, str | None, str | None]]:
    return [(each.name, each.outcome, each.source, each.target) for each in page.results]


@pytest.mark.parametrize(
    ("row", "learned"),
    [
        (ROW, None),
        (None, Ours("blob", "etag", 7)),
        (Ours("blob"), Ours("blob", "etag", 7)),
        (Ours("blob", "before", 7, 5), ROW),
        (Ours("blob", "etag", 8, 5), ROW),
        (Ours("another", "etag", 7, 5), Ours("blob", "etag", 7)),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_an_equal_file_is_ours(row: Ours | None, learned: Ours | None, *, at_once: bool) -> None:
    case = comparison({A: OBJECT}, {A: EQUAL}, {} if row is None else {A: row})
    page = case.all_equal() if at_once else case.compared({A: "blob"})
    assert (page.items, page.results, page.equal, page.extra) == ((), (), 1, 0)
    assert (case.ours, case.gone) == (1, {})
    assert case.learned == ({} if learned is None else {A: learned})


@pytest.mark.parametrize(
    ("here", "was", "row", "written", "ours"),
    [
        (None, None, None, "", 0),
        (None, EQUAL, None, "", 0),
        (None, EQUAL, ROW, "", 0),
        ("old", EQUAL, Ours("old"), "", 1),
        ("old", EQUAL, Ours("other"), "old", 1),
        ("old", None, None, "", 0),
        ("old", None, Ours("old"), "", 1),
    ],
)
def test_what_differs_is_sent_if_it_is_ours_or_may_be_equal(
    here: str | None, was: Known | None, row: Ours | None, written: str, ours: int
) -> None:
    case = comparison({A: OBJECT}, {A: was} if was else {}, {A: row} if row else {}, written=frozenset({written}))
    page = case.compared({} if here is None else {A: here})
    assert page.items == (Item("main", A, "etag", here, 7),)
    assert (page.results, page.equal, page.extra) == ((), 0, 0)
    assert (case.ours, case.gone, case.learned) == (ours, {}, {})


def test_a_file_that_is_ours_by_evidence_is_recorded() -> None:
    case = comparison({A: OBJECT}, {A: EQUAL}, {}, written=frozenset({"old", "gone"}))
    page = case.compared({A: "old", B: "gone"})
    assert page.items == (Item("main", A, "etag", "old", 7),)
    assert case.learned == {A: Ours("old"), B: Ours("gone")}
    assert case.gone == {B: (Item("main", B, None, "gone", None, {"remove": True}), Ours("gone"))}
    assert case.ours == 2


def test_a_foreign_file_stays() -> None:
    case = comparison({A: OBJECT}, {A: EQUAL}, {A: Ours("other"), B: Ours("other")})
    page = case.compared({A: "theirs", B: "theirs"})
    assert results_of(page) == [(A, Outcome.CONFLICT, "blob", "theirs"), (B, Outcome.EXTRA, None, "theirs")]
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


def test_what_is_not_selected_hides_nothing() -> None:
    case = comparison({}, {}, {B: ROW, "east/shop/c": ROW})
    page = case.compared({"east/shop/a.tmp": "blob", B: "blob", "east/shop/c": "blob", "east/shop/d": "theirs"})
    assert list(case.gone) == [B, "east/shop/c"]
    assert [each.name for each in page.results] == ["east/shop/d"]


def test_of_many_extras_some_are_named_and_all_counted() -> None:
    there = {f"east/shop/{number:04}": "theirs" for number in range(EXTRAS + 7)}
    page = comparison({}, {}, {}).compared(there)
    assert (len(page.results), page.extra) == (EXTRAS, 7)


def test_a_file_of_ours_that_the_source_lacks_is_gone() -> None:
    case = comparison({}, {}, {A: ROW, B: Ours("before")})
    page = case.compared({A: "blob", B: "blob", "east/shop/c.tmp": "blob"})
    assert results_of(page) == [(B, Outcome.EXTRA, None, "blob")], "a file that is not selected is nobody's"
    assert case.gone == {A: (Item("main", A, None, "blob", None, {"remove": True}), ROW)}
    assert (case.ours, case.learned) == (1, {})


@pytest.mark.parametrize("at_once", [False, True])
def test_a_file_that_neither_side_has_is_forgotten(*, at_once: bool) -> None:
    rows = {A: ROW, B: ROW, "east/shop/c.tmp": ROW}
    case = comparison({A: OBJECT}, {A: EQUAL}, rows)
    case.all_equal() if at_once else case.compared({A: "blob"})
    assert case.learned == {B: None}


def test_after_an_odd_entry_nothing_is_gone_or_forgotten() -> None:
    odd = {"east/shop/x": Result("main", "east/shop/x", Outcome.FAILED)}
    case = comparison({A: OBJECT, "east/shop/x": OBJECT}, {A: EQUAL}, {A: ROW, B: ROW, "east/shop/c": ROW}, odd=odd)
    page = case.compared({A: "blob", B: "blob", "east/shop/x": "theirs"})
    assert page.results == tuple(odd.values())
    assert (page.items, page.equal, page.extra) == ((), 1, 0)
    assert (case.ours, case.gone, case.learned) == (2, {}, {})
    assert case.all_equal().results == tuple(odd.values())


@pytest.mark.parametrize("code", ["", "SECRET_SUSPECTED"])
@pytest.mark.parametrize("here", [None, "blob", "theirs"])
def test_an_object_that_is_left_out_is_not_at_the_target(code: LeftOutCode, here: str | None) -> None:
    case = comparison({A: OBJECT}, {A: Known("etag", "", code)}, {A: ROW})
    page = case.compared({} if here is None else {A: here})
    if here == "blob":
        assert page.items == (Item("main", A, "etag", "blob", 7),), "our file of it is removed"
    elif here == "theirs":
        assert results_of(page) == [(A, Outcome.EXTRA, None, "theirs")]
    else:
        assert [each.code for each in page.results] == ([code] if code else [])
        assert page.left_out == (0 if code else 1)
        assert case.ours == 0


def test_names_that_cannot_be_at_one_target_are_failures_without_a_try() -> None:
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
