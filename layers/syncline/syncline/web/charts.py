"""Plots as SVG, drawn here: they need no script, and each point has its value as text.

Colours and sizes come from the style sheet; the page forbids styles elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 180
_LEFT: Final = 72
_RIGHT: Final = 10
_TOP: Final = 10
_BOTTOM: Final = 22
_BASE: Final = HEIGHT - _BOTTOM
_STEPS: Final = (1, 2, 5)
_LEAST: Final = 0.001  # smaller values are drawn like this one


@dataclass(frozen=True, slots=True)
class Point:
    """A value of a series, in the coordinates of the plot, with its text. `bar` is its height above the axis."""

    x: float
    y: float
    bar: float
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """A line or a row of bars, with the name that its style and its legend have."""

    name: str
    points: Sequence[Point]

    @property
    def line(self) -> str:
        """The points of the line, as the attribute `points` of SVG."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot: its series, the marks of its axis as heights with texts, and the width of a bar."""

    series: Sequence[Series]
    marks: Sequence[tuple[float, str]]
    bar_width: float
    first: str
    last: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    base: int = _BASE
    right: int = WIDTH - _RIGHT


def chart(
    columns: Sequence[tuple[str, dict[str, float | None]]], text: Callable[[float], str], *, logarithmic: bool = False
) -> Chart | None:
    """Return the plot of named values by column, oldest first; None if no value is known.

    A column has a label. `text` shows a value. A value of None leaves a gap, and infinity is drawn at the top.
    """
    known = [value for _, values in columns for value in values.values() if value is not None and math.isfinite(value)]
    if not known or max(known) <= 0:
        return None
    top, low = max(*known, _LEAST), max(min(value for value in known if value > 0), _LEAST)
    if logarithmic:
        low, top = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(top * 1.001))
    step = (WIDTH - _LEFT - _RIGHT) / len(columns)

    def height(value: float) -> float:
        if logarithmic:
            share = 0.0 if value <= low else math.log10(min(value, top) / low) / math.log10(top / low)
        else:
            share = min(value, top) / top
        return share * (_BASE - _TOP)

    names = dict.fromkeys(name for _, values in columns for name in values)
    series = [
        Series(
            name,
            [
                Point(
                    _LEFT + step * (position + 0.5),
                    _BASE - height(value),
                    max(height(value), 1.0),
                    f"{label}: {name} {text(value)}",
                )
                for position, (label, values) in enumerate(columns)
                if (value := values.get(name)) is not None
            ],
        )
        for name in names
    ]
    marks = _decades(low, top) if logarithmic else [value for value in _round(top) if value <= top]
    return Chart(
        series,
        [(_BASE - height(value), text(value)) for value in marks],
        max(1.0, step * 0.7),
        columns[0][0],
        columns[-1][0],
    )


def _decades(low: float, top: float) -> list[float]:
    count = round(math.log10(top / low))
    every = max(1, math.ceil(count / 4))
    return [low * 10**power for power in range(0, count + 1, every)]


def _round(top: float) -> list[float]:
    """Return two to five round values from 0 to `top`."""
    unit = 10 ** math.floor(math.log10(top))
    size = next((unit * step for step in (0.2, 0.5, *_STEPS) if top / (unit * step) <= 4), unit)
    return [size * number for number in range(math.floor(top / size) + 1)]
