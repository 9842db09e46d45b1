"""Rows of measurements: medians, ratios, aims, and result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report
from bench.measure import Row, in_turns


def test_medians_are_compared() -> None:
    row = Row("images.cold", "s", [4.0, 1.0, 2.0], [9.0, 4.0, 3.0], aim=0.5)
    assert (row.median, row.peer_median, row.ratio, row.met) == (2.0, 4.0, 0.5, True)


def test_an_aim_without_a_peer_bounds_the_value_itself() -> None:
    assert Row("images.layer.memory", "MiB", [119.0], None, aim=120).met is True
    assert Row("images.layer.memory", "MiB", [121.0], None, aim=120).met is False


def test_a_row_without_a_peer_has_no_ratio() -> None:
    row = Row("images.cold", "s", [2.0], [], aim=0.6)
    assert (row.ratio, row.met) == (None, None)
    assert "absent" in report.table([row])


@pytest.mark.parametrize(("rounds", "order"), [(1, "op"), (2, "oppo"), (3, "oppoop")])
def test_ours_and_peer_take_turns_to_begin_a_round(rounds: int, order: str) -> None:
    done: list[str] = []

    def once(letter: str) -> float:
        done.append(letter)
        return float(len(done))

    ours, peer = in_turns(rounds, lambda: once("o"), lambda: once("p"))
    assert "".join(done) == order
    assert len(ours) == len(peer) == rounds


def test_result_files_have_the_documented_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    rows = [Row("images.cold", "s", [1.0], [2.0], 0.6), Row("images.cold.requests", "requests", [1592])]
    path = report.write("images.cold", rows)
    assert path.name == "images.cold.json"
    assert json.loads(path.read_text()) == [
        {"name": "images.cold", "ours": 1.0, "peer": 2.0, "unit": "s", "ratio": 0.5, "aim": 0.6},
        {"name": "images.cold.requests", "ours": 1592, "peer": None, "unit": "requests", "ratio": None, "aim": None},
    ]
