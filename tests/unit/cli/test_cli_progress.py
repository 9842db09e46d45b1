"""Throughput and remaining time of runs."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from syncline.cli.run_progress import plain_lines, poll_interval, progress_words, silence_words
from syncline.model import Counts
from syncline.progress import (
    WINDOW,
    ProgressHistory,
    Sample,
    Throughput,
    ended_items,
    known_items,
    seconds_left,
    throughput,
)

MIB = 1024 * 1024


def history_of(*samples: tuple[float, Counts]) -> ProgressHistory:
    history = ProgressHistory()
    for at, counts in samples:
        history.add(Sample(at, counts))
    return history


def test_throughput_is_the_difference_of_two_samples() -> None:
    first, last = Sample(10.0, Counts(moved=5, bytes=MIB)), Sample(20.0, Counts(moved=25, failed=5, bytes=11 * MIB))
    assert throughput(first, last) == Throughput(2.5, MIB)


def test_less_than_a_second_has_no_throughput() -> None:
    assert throughput(Sample(10.0, Counts()), Sample(10.9, Counts(moved=5))) == Throughput()


def test_decreasing_counters_have_no_throughput() -> None:
    assert throughput(Sample(0.0, Counts(moved=5, bytes=9)), Sample(5.0, Counts())) == Throughput()


def test_conflicts_are_not_counted_as_ended_items() -> None:
    counts = Counts(queued=10, moved=2, conflict=7)
    assert (ended_items(counts), known_items(counts)) == (2, 10)


def test_more_items_may_end_than_were_queued() -> None:
    assert known_items(Counts(queued=1, failed=3)) == 3


@pytest.mark.parametrize(
    ("counts", "speed", "left"),
    [
        (Counts(), 1.0, None),
        (Counts(queued=10), 0.0, None),
        (Counts(queued=10, moved=10), 5.0, None),
        (Counts(queued=10, moved=4), 2.0, 3.0),
    ],
)
def test_seconds_left(counts: Counts, speed: float, left: float | None) -> None:
    assert seconds_left(counts, speed) == left


def test_throughput_is_that_of_the_last_seconds() -> None:
    slow_then_fast = [(float(s), Counts(queued=900, moved=s if s <= 100 else 100 + 10 * (s - 100))) for s in range(141)]
    assert history_of(*slow_then_fast).throughput.items == pytest.approx(10.0, rel=0.05)


def test_a_stalled_run_has_neither_throughput_nor_remaining_time() -> None:
    stalled = [(float(s), Counts(queued=900, moved=min(s, 40))) for s in range(81)]
    history = history_of(*stalled)
    assert history.throughput == Throughput()
    assert progress_words(history.counts, history.throughput) == ["40 of 900 items"]


def test_an_empty_history_has_no_throughput() -> None:
    assert ProgressHistory().throughput == Throughput()
    assert ProgressHistory().counts == Counts()


@hypothesis.given(st.lists(st.tuples(st.floats(0.01, 5), st.integers(0, 50)), min_size=1, max_size=200))
def test_a_history_keeps_only_its_window(steps: list[tuple[float, int]]) -> None:
    history, at, moved = ProgressHistory(), 0.0, 0
    for seconds, items in steps:
        at, moved = at + seconds, moved + items
        history.add(Sample(at, Counts(queued=moved, moved=moved)))
        kept = [sample.at for sample in history._recent]
        assert len(kept) <= 2 or kept[-1] - kept[1] < WINDOW
        assert history.throughput.items >= 0


@pytest.mark.parametrize(
    ("counts", "speed", "text"),
    [
        (Counts(), Throughput(), "scanning"),
        (Counts(skipped=2310, conflict=1), Throughput(), "scanning, 2,310 equal so far, 1 conflict"),
        (Counts(would_move=12), Throughput(), "scanning, 12 would move"),
        (Counts(skipped=3, left_out=2), Throughput(), "scanning, 3 equal so far, 2 left out"),
        (Counts(queued=1), Throughput(), "0 of 1 item"),
        (
            Counts(queued=120, moved=40, failed=1, conflict=2),
            Throughput(12.34, 4.1 * MIB),
            "41 of 120 items, 12 items/s, 4.1 MiB/s, about 6 s left, 1 failed, 2 conflicts",
        ),
        (Counts(queued=3, moved=2), Throughput(50.0), "2 of 3 items, 50 items/s, about 1 s left"),
    ],
)
def test_progress_words(counts: Counts, speed: Throughput, text: str) -> None:
    assert ", ".join(progress_words(counts, speed)) == text


def test_poll_intervals_grow() -> None:
    assert [poll_interval(elapsed) for elapsed in (0, 0.4, 2, 9, 1000)] == pytest.approx([0.03, 0.04, 0.2, 0.9, 1.0])


def test_a_long_silence_is_reported() -> None:
    assert silence_words(100) == []
    assert "no progress for 5 min" in silence_words(300)[0]


def test_plain_lines_are_printed_less_often_without_changes() -> None:
    now = 0.0
    lines: list[tuple[float, str]] = []
    show = plain_lines(lambda text: lines.append((now, text)), lambda: now)
    history = ProgressHistory()
    for tick in range(1, 901):
        now = tick / 10
        history.add(Sample(now, Counts(queued=50, moved=min(int(now), 20))))
        show(history, ["cancelling"] if tick > 300 else [])
    assert [at for at, _ in lines] == [5.0, 10.0, 15.0, 20.0, 50.0, 80.0]
    assert lines[1][1] == "10 of 50 items, 1 items/s, about 40 s left"
    assert lines[-1][1] == "20 of 50 items, cancelling"
