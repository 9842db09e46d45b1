"""The progress of a run: its throughput, the time left, and the reason why it waits."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.model import Counts, Run, Waiting
from syncline.store.batches import Progress
from syncline.store.runs import STALLED

WINDOW: Final = 20.0
"""Seconds over which throughput is measured."""


_SHORTEST: Final = 1.0  # seconds between samples below which throughput is unknown


@dataclass(frozen=True, slots=True)
class Sample:
    """A run's counts at a time (seconds of a monotonic clock)."""

    at: float
    counts: Counts


@dataclass(frozen=True, slots=True)
class Throughput:
    """Items ended and bytes sent, each per second."""

    items: float = 0.0
    bytes: float = 0.0


def throughput(first: Sample, last: Sample) -> Throughput:
    """Return the throughput between two samples, zero for less than a second."""
    seconds = last.at - first.at
    if seconds < _SHORTEST:
        return Throughput()
    items = max(ended_items(last.counts) - ended_items(first.counts), 0)
    sent = max(last.counts.bytes - first.counts.bytes, 0)
    return Throughput(items / seconds, sent / seconds)


def ended_items(counts: Counts) -> int:
    """Return the number of queued items that have ended. Conflicts are excluded, as the scan finds most of them."""
    return counts.moved + counts.removed + counts.untrusted + counts.failed + counts.known + counts.cancelled


def known_items(counts: Counts) -> int:
    """Return the number of items queued so far, at least those that have ended."""
    return max(counts.queued, ended_items(counts))


def seconds_left(counts: Counts, items_per_second: float) -> float | None:
    """Return the seconds until all items queued so far have ended; None if unknown."""
    left = known_items(counts) - ended_items(counts)
    if not left or items_per_second <= 0:
        return None
    return left / items_per_second


@dataclass(slots=True)
class ProgressHistory:
    """The latest samples of a run while it is followed."""

    _recent: deque[Sample] = field(default_factory=deque)

    def add(self, sample: Sample) -> None:
        self._recent.append(sample)
        # Keep one sample from before the window, so that the samples span all of it.
        while len(self._recent) > 2 and sample.at - self._recent[1].at >= WINDOW:
            self._recent.popleft()

    @property
    def counts(self) -> Counts:
        return self._recent[-1].counts if self._recent else Counts()

    @property
    def throughput(self) -> Throughput:
        """The throughput of the last :data:`WINDOW` seconds; zero if nothing ended in them."""
        return throughput(self._recent[0], self._recent[-1]) if self._recent else Throughput()


def waiting_reason(run: Run, progress: Progress, now: float) -> Waiting | None:
    """Return the recorded reason why a run waits, if it has made no progress for a minute. ``now`` is in Unix seconds."""
    waiting, advanced = run.waiting, max(progress.advanced, run.started)
    if run.over or waiting is None or waiting.at < advanced or now - advanced < STALLED:
        return None
    return replace(waiting, since=max(waiting.since, advanced))
