"""Reports in memory: their order, their search and their limits, compared with a plain search."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.model import Outcome, Result
from syncline.run_text import OUTCOME_WORDS, report_order
from syncline.web import reports
from syncline.web.charts import chart
from syncline.web.reports import Report, Reports, TooManyItemsError

TEXTS = st.text(st.sampled_from("abAB\n é'\ud800"), max_size=4)
RESULTS = st.builds(
    Result,
    TEXTS,
    TEXTS,
    st.sampled_from(Outcome),
    st.none() | TEXTS,
    st.none() | TEXTS,
    st.integers(0, 9),
    st.sampled_from([None, "UNREACHABLE"]),
    st.none() | TEXTS,
    st.none() | st.integers(0, 9),
)


def plain(result: Result) -> str:
    words = (f"{result.group}:{result.name}", result.source, result.target, result.code, result.reason)
    text = " ".join([*filter(None, words), OUTCOME_WORDS[result.outcome]])
    return text.lower().replace("\n", " ")


@given(st.lists(RESULTS, max_size=20), TEXTS, st.none() | st.sampled_from(Outcome))
def test_a_search_finds_what_a_plain_search_finds(items: list[Result], text: str, outcome: Outcome | None) -> None:
    report = Report.of(items)
    positions = report.search(text, outcome)
    wanted = text.lower().replace("\n", " ")
    expected = [
        each
        for each in sorted(items, key=report_order)
        if outcome in (None, each.outcome) and (not text or wanted in plain(each))
    ]
    found = report.results(positions)
    assert [report_order(each) for each in found] == [report_order(each) for each in expected]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
    assert report.results(report.search(text, outcome)) == found, "from the kept searches"
    assert len(report) == len(items)


def test_only_the_latest_searches_are_kept() -> None:
    report = Report.of(Result("a", f"v{n}", Outcome.MOVED) for n in range(50))
    for number in range(50):
        assert len(report.search(f"v{number}", None)) == len([n for n in range(50) if f"{n}".startswith(f"{number}")])
    assert len(report._searches) == reports._QUERIES


def test_the_reports_read_last_are_kept() -> None:
    reads: list[str] = []

    def read(name: str) -> Iterable[Result]:
        reads.append(name)
        return [Result("a", "v" * 1000, Outcome.MOVED)]

    kept = Reports(3000)
    for name in ("one", "two", "one", "three", "two", "one"):
        kept.get(name, 1.0, lambda name=name: read(name))  # type: ignore[misc]
    assert reads == ["one", "two", "three", "two", "one"]
    kept.get("one", 2.0, lambda: read("one, later"))
    assert reads[-1] == "one, later"


def test_a_report_larger_than_the_limit_is_kept_alone() -> None:
    kept = Reports(10)
    for name in ("one", "two"):
        kept.get(name, 1.0, lambda: [Result("a", "v", Outcome.MOVED)])
    assert list(kept._reports) == ["two"]


def test_too_many_items_are_refused_before_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_ITEMS", 3)
    assert len(Report.of([Result("a", "v", Outcome.MOVED)] * 3)) == 3
    with pytest.raises(TooManyItemsError):
        Report.of([Result("a", "v", Outcome.MOVED)] * 4)


def test_a_report_of_too_many_bytes_is_refused_before_all_is_read() -> None:
    """Names have up to 1,024 bytes: the function has 512 MB of memory."""
    results = (
        Result("g", f"{number}" + "x" * 900, Outcome.FAILED, code="FORBIDDEN", reason="y" * 300)
        for number in range(100_000)
    )
    with pytest.raises(TooManyItemsError):
        Report.of(results)
    assert next(results, None) is not None


def test_others_are_dropped_before_a_report_is_read() -> None:
    kept = Reports(100_000)
    kept.get("one", 1.0, lambda: [Result("g", "x" * 60_000, Outcome.MOVED)])

    def read() -> list[Result]:
        assert list(kept._reports) == []
        return [Result("g", "x" * 60_000, Outcome.MOVED)]

    kept.get("two", 1.0, read)
    assert list(kept._reports) == ["two"]


def test_reports_without_items_do_not_accumulate() -> None:
    kept = Reports()
    for number in range(1000):
        kept.get(str(number), 1.0, list)
    assert len(kept._reports) < 100


@given(st.lists(st.none() | st.floats(0, 1e9) | st.just(float("inf")), min_size=1, max_size=20), st.booleans())
def test_every_point_of_a_plot_is_inside(values: list[float | None], logarithmic: bool) -> None:
    drawn = chart([("now", {"p50": value}) for value in values], str, logarithmic=logarithmic)
    if drawn is None:
        assert not any(value and value != float("inf") for value in values)
        return
    for series in drawn.series:
        for point in series.points:
            assert 0 <= point.x <= drawn.width
            assert 0 <= point.y <= drawn.base
    assert all(0 <= y <= drawn.base for y, _ in drawn.marks)
    assert 1 <= len(drawn.marks) <= 7
