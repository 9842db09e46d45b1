"""Tests of the figures on the reliability page."""

from __future__ import annotations

from tests.simulation.report import crash_points


def test_crash_points_that_were_passed_but_never_hit_are_returned() -> None:
    totals = {
        "point put_item": 9,
        "point passed before put_item": 9,
        "point passed within put_item": 8,
        "point passed after put_item": 8,
        "point killed before put_item": 1,
        "point killed within put_item": 2,
        "seeds": 3,
    }
    hit, missed = crash_points(totals)
    assert hit == {"before put_item": 1, "within put_item": 2, "after put_item": 0}
    assert missed == ["after put_item"]
