from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.model import (
    EVERYTHING,
    LAG_BOUNDS,
    LARGEST_SCOPE,
    Audit,
    Counts,
    Item,
    Lags,
    Outcome,
    Result,
    Run,
    RunStatus,
    Scope,
    Trigger,
    compact_json,
    json_bytes,
    portions,
)

HALF = LARGEST_SCOPE // 2
FITS = "a" * (HALF - 3)
"""A name that takes half of a scope: with its quotes and a comma."""


def test_compact_json_escapes_only_what_utf8_or_sqs_refuses() -> None:
    assert compact_json({"b": ["é", "\ud800", "\ufffe"], "a": 1}) == '{"b":["é","\\ud800","\\ufffe"],"a":1}'


@pytest.mark.parametrize(("value", "size"), [("a", 4), ("é", 5), ("\uffff", 9), (12, 3)])
def test_json_bytes_counts_the_comma_after_a_value(value: object, size: int) -> None:
    assert json_bytes(value) == size
    assert json_bytes(FITS) == HALF


def test_portions_are_filled_to_the_largest_scope() -> None:
    def scopes(*names: str) -> list[list[str]]:
        return list(portions(names, json_bytes, LARGEST_SCOPE))

    assert scopes() == []
    assert scopes(FITS, FITS) == [[FITS, FITS]]
    assert scopes(*[FITS] * 5) == [[FITS, FITS], [FITS, FITS], [FITS]]
    assert scopes(FITS, FITS + "b") == [[FITS], [FITS + "b"]]
    third = "a" * (LARGEST_SCOPE // 3 - 3)
    assert scopes(*[third] * 4) == [[third] * 3, [third]]


def test_portions_have_a_maximum_number_of_values() -> None:
    assert list(portions("abcde", len, 100, 2)) == [["a", "b"], ["c", "d"], ["e"]]


def test_a_scope_holds_each_group_once_in_order() -> None:
    assert Scope.of(["b", "a", "b"]) == Scope(("a", "b"))
    assert Scope.of([]).groups == ()
    assert Scope.of(None) == EVERYTHING
    assert (EVERYTHING.everything, Scope.of([]).everything) == (True, False)


def test_a_scope_fits_up_to_the_maximum_size() -> None:
    assert EVERYTHING.fits
    assert Scope((FITS, FITS)).fits
    assert not Scope((FITS, FITS + "b")).fits


def test_a_scope_too_large_for_one_scan_is_split() -> None:
    assert list(EVERYTHING.parts()) == [EVERYTHING]
    assert list(Scope((FITS, FITS)).parts()) == [Scope((FITS, FITS))]
    assert list(Scope((FITS, FITS, FITS)).parts()) == [Scope((FITS, FITS)), Scope((FITS,))]
    assert list(Scope(()).parts()) == []


def test_an_item_is_named_by_its_group_and_name() -> None:
    assert str(Item("team/app", "v1")) == "team/app:v1"


def test_an_item_of_a_cancelled_run_keeps_its_fingerprints() -> None:
    item = Item("team/app", "v1", "sha256:1", "sha256:2", 7)
    assert Result.cancelled(item) == Result("team/app", "v1", Outcome.CANCELLED, "sha256:1", "sha256:2")


def test_a_decoded_result_equals_the_encoded_one() -> None:
    result = Result("team/app", "v1", Outcome.FAILED, "sha256:1", "sha256:2", 5, "FORBIDDEN", "no access")
    assert result.to_json() == ["team/app", "v1", "failed", "sha256:1", "sha256:2", 5, "FORBIDDEN", "no access"]
    assert Result.from_json(result.to_json()) == result


def test_an_item_has_the_six_values_that_earlier_versions_read() -> None:
    item = Item("team/app", "v1", "sha256:1", None, 5, {"fresh": True})
    assert Item.from_json(json.loads(json.dumps(item.to_json()))) == item
    assert len(replace(item, changed=1_767_582_000).to_json()) == 6


LAG = st.integers(0, 200 * 86_400)


@given(st.lists(LAG, min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_of_lags_is_the_bound_of_the_bucket_that_holds_it(values: list[int], share: float) -> None:
    lags = Lags.of([Result("g", str(n), Outcome.MOVED, lag=lag) for n, lag in enumerate(values)])
    exact = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    assert lags.percentile(share) == next((bound for bound in LAG_BOUNDS if exact <= bound), math.inf)
    assert (lags.count, lags.seconds) == (len(values), sum(values))
    for bound in LAG_BOUNDS:
        assert lags.within(bound) == sum(value <= bound for value in values)


@given(st.lists(LAG), st.lists(LAG))
def test_the_counters_of_lags_add_up(some: list[int], others: list[int]) -> None:
    first, second, both = (
        Lags.of([Result("g", "a", Outcome.MOVED, lag=lag) for lag in each]) for each in (some, others, [*some, *others])
    )
    total = Counter(first.counters)
    total.update(second.counters)
    assert Lags.from_counters({"moved": 5, "failed": 1, **total}) == both


def test_results_without_a_lag_are_not_counted() -> None:
    lags = Lags.of([Result("g", "a", Outcome.EQUAL)])
    assert (lags, lags.counters, lags.percentile(0.5)) == (Lags(), {}, None)


def test_the_bounds_of_lags_rise() -> None:
    assert list(LAG_BOUNDS) == sorted(set(LAG_BOUNDS))


def test_a_result_is_reported_with_its_field_names() -> None:
    value = Result("team/app", "v1", Outcome.LEFT_OUT, "sha256:1", moved_bytes=5).as_dict()
    assert type(value["outcome"]) is str
    assert value == {
        "group": "team/app",
        "name": "v1",
        "outcome": "left_out",
        "source": "sha256:1",
        "target": None,
        "moved_bytes": 5,
        "code": None,
        "reason": None,
        "lag": None,
    }


def test_each_outcome_has_a_count_of_its_own() -> None:
    for outcome in Outcome:
        assert Counts.of([Result("g", "a", outcome), Result("g", "b", outcome)]) == Counts(**{outcome.value: 2})


def test_counts_add_up_results_and_items_without_a_result() -> None:
    outcomes = [Outcome.MOVED, Outcome.MOVED, Outcome.EQUAL, Outcome.LEFT_OUT, Outcome.EXTRA]
    results = [Result("g", str(number), outcome, moved_bytes=number) for number, outcome in enumerate(outcomes)]
    assert Counts.of([]) == Counts()
    assert Counts.of(results, equal=10, left_out=20, extra=30, queued=40, requests=50) == Counts(
        moved=2, skipped=11, left_out=21, extra=31, queued=40, bytes=10, requests=50
    )


def test_only_queued_items_with_an_outcome_have_ended() -> None:
    ended = {"moved", "removed", "cancelled", "failed", "known", "conflict", "untrusted"}
    for each in fields(Counts):
        assert Counts(**{each.name: 3}).ended == (3 if each.name in ended else 0), each.name
    assert Counts(moved=1, removed=2, cancelled=4, failed=8, known=16, conflict=32).ended == 63


@pytest.mark.parametrize("status", list(RunStatus))
def test_a_run_is_over_if_it_is_done_cancelled_or_lost(status: RunStatus) -> None:
    run = Run("r", "images", 3, Trigger.MANUAL, EVERYTHING, 1.0, status)
    assert run.over is (status not in (RunStatus.RUNNING, RunStatus.CANCELLING))


def test_a_run_is_reported_with_its_field_names() -> None:
    run = Run("r", "images", 3, Trigger.MANUAL, Scope.of(["team/app"]), 1.0, RunStatus.LOST, ended=2.0)
    value = run.as_dict()
    assert value.keys() == {each.name for each in fields(Run)} - {"lag_start", "lags", "traffic"}
    assert (value["id"], value["sync"], value["number"], value["ended"]) == ("r", "images", 3, 2.0)
    assert (type(value["trigger"]), value["trigger"]) == (str, "hand")
    assert (type(value["status"]), value["status"]) == (str, "lost")
    assert value["scope"] == ("team/app",)
    assert value["counts"]["moved"] == 0


@pytest.mark.parametrize(
    ("counts", "equal"),
    [
        (Counts(), False),
        (Counts(left_out=3), False),
        (Counts(skipped=1, left_out=3), True),
        (Counts(skipped=1, extra=1), False),
        (Counts(skipped=1, missing=1), False),
    ],
)
def test_an_audit_that_compared_nothing_shows_nothing(counts: Counts, *, equal: bool) -> None:
    assert Audit().is_equal(counts) is equal
