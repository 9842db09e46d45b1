"""How fast a run goes and how long it will take: pure functions of what its counters showed when."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from syncline.cli.show import about, many, number, size
from syncline.model import Counts

WINDOW: Final = 20.0
"""Seconds over which the rate is taken: long enough to be steady, short enough to be true."""
_SHORTEST: Final = 1.0  # seconds between two samples that say something about a rate


@dataclass(frozen=True, slots=True)
class Sample:
    """A run's counters at a time (seconds of any clock that does not go back)."""

    at: float
    counts: Counts


@dataclass(frozen=True, slots=True)
class Rate:
    """Items ended and bytes sent, each per second."""

    items: float = 0.0
    bytes: float = 0.0


def rate(first: Sample, last: Sample) -> Rate:
    """What happened between two samples; nothing is said of less than a second."""
    seconds = last.at - first.at
    if seconds < _SHORTEST:
        return Rate()
    items = max(done(last.counts) - done(first.counts), 0)
    sent = max(last.counts.bytes - first.counts.bytes, 0)
    return Rate(items / seconds, sent / seconds)


def done(counts: Counts) -> int:
    """How many of the items on their way have come to an end. Conflicts are not among them: the scan finds most."""
    return counts.moved + counts.removed + counts.failed + counts.known + counts.cancelled


def total(counts: Counts) -> int:
    """How many items were sent on their way so far; never fewer than have ended."""
    return max(counts.queued, done(counts))


def seconds_left(counts: Counts, items_per_second: float) -> float | None:
    """Seconds until all that was found so far has ended; None where nothing is known."""
    left = total(counts) - done(counts)
    if not left or items_per_second <= 0:
        return None
    return left / items_per_second


@dataclass(slots=True)
class Course:
    """The samples of a run while it is followed."""

    _recent: deque[Sample] = field(default_factory=deque)

    def add(self, sample: Sample) -> None:
        self._recent.append(sample)
        # One sample from before the window stays, so that a rate spans the whole of it.
        while len(self._recent) > 2 and sample.at - self._recent[1].at >= WINDOW:
            self._recent.popleft()

    @property
    def counts(self) -> Counts:
        return self._recent[-1].counts if self._recent else Counts()

    @property
    def rate(self) -> Rate:
        """Return the rate of the last seconds: where nothing ended in them, none is known, nor when the run ends."""
        return rate(self._recent[0], self._recent[-1]) if self._recent else Rate()


def words(counts: Counts, speed: Rate) -> list[str]:
    """A run's progress in pieces of text, the most telling first."""
    said = _moving(counts, speed) if total(counts) else _scanning(counts)
    if counts.failed:
        said.append(f"{number(counts.failed)} failed")
    if counts.known:
        said.append(many(counts.known, "known failure"))
    if counts.conflict:
        said.append(many(counts.conflict, "conflict"))
    return said


def _scanning(counts: Counts) -> list[str]:
    said = ["scanning"]
    if counts.would_move:
        said.append(f"{number(counts.would_move)} would move")
    if counts.skipped:
        said.append(f"{number(counts.skipped)} equal so far")
    if counts.left_out:
        said.append(f"{number(counts.left_out)} left out")
    if counts.extra:
        said.append(f"{number(counts.extra)} extra")
    return said


def _moving(counts: Counts, speed: Rate) -> list[str]:
    said = [f"{number(done(counts))} of {many(total(counts), 'item')}"]
    if speed.items:
        said.append(f"{number(speed.items)} items/s")
    if speed.bytes:
        said.append(f"{size(speed.bytes)}/s")
    left = seconds_left(counts, speed.items)
    if left is not None:
        said.append(f"about {about(max(left, 1.0))} left")
    return said
