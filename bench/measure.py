"""Rows of measurements, and rounds in which Syncline and a peer take turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class MeasurementError(Exception):
    """A measurement failed or is impossible on this machine; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``ours`` and ``peer`` hold a value for each round, in ``unit``; lower is better.

    ``aim`` is the upper bound of the ratio of the medians or, without a peer, of our median; None if the row has no
    bound. ``note`` is printed below the table.
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
        """Return the row as stored in result files."""
        ratio = None if self.ratio is None else round(self.ratio, 4)
        peer = None if self.peer_median is None else round(self.peer_median, 4)
        ours = round(self.median, 4)
        return {"name": self.name, "ours": ours, "peer": peer, "unit": self.unit, "ratio": ratio, "aim": self.aim}


def in_turns(rounds: int, ours: Callable[[], T], peer: Callable[[], float] | None) -> tuple[list[T], list[float]]:
    """Measure both ``rounds`` times; they take turns to go first, so that neither always profits from warm caches."""
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
