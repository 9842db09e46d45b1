"""Measurements: values of ours and of a peer taken in turns, and the resulting row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class NotMadeError(Exception):
    """A measurement cannot be made here, for the reason in the text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``ours`` and ``peer`` hold a value for each round, in ``unit``; lower is better.

    ``aim`` bounds the ratio of the medians or, without a peer, our median. None means that the
    row is informative only. ``note`` is a remark.
    """

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] | None = None
    aim: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.ours)

    @property
    def peer_median(self) -> float | None:
        return statistics.median(self.peer) if self.peer else None

    @property
    def ratio(self) -> float | None:
        return self.median / self.peer_median if self.peer_median else None

    @property
    def met(self) -> bool | None:
        """True if the aim is met; None without an aim or without a value to compare."""
        value = self.median if self.peer is None else self.ratio
        return None if self.aim is None or value is None else value <= self.aim

    def as_dict(self) -> dict[str, Any]:
        """Return the row for the result files."""
        ratio = None if self.ratio is None else round(self.ratio, 4)
        peer = None if self.peer_median is None else round(self.peer_median, 4)
        ours = round(self.median, 4)
        return {"name": self.name, "ours": ours, "peer": peer, "unit": self.unit, "ratio": ratio, "aim": self.aim}


def in_turns(rounds: int, ours: Callable[[], T], peer: Callable[[], float] | None) -> tuple[list[T], list[float]]:
    """Measure both ``rounds`` times, taking turns to go first, so that neither profits from warm caches."""
    our_values: list[T] = []
    peer_values: list[float] = []
    for number in range(rounds):
        if number % 2 == 0:
            our_values.append(ours())
        if peer is not None:
            peer_values.append(peer())
        if number % 2 == 1:
            our_values.append(ours())
    return our_values, peer_values
