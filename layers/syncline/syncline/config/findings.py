"""What can be wrong with syncs although each of their keys is right, and where a sync writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

from syncline.config.values import KeyPath

Place: TypeAlias = tuple[str | int, ...]
"""A target server, equal for two spellings of the same one: what it is, its name, its port or the like."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``path`` is the path of keys inside the sync, or from ``syncs`` on where two are compared.

    ``rests_on`` names further places whose values the finding depends on.
    """

    path: KeyPath
    message: str
    rests_on: tuple[KeyPath, ...] = ()


@dataclass(frozen=True, slots=True)
class Area:
    """Names by how they begin, or one name ``whole``."""

    start: str
    whole: bool = False

    def meets(self, other: Area) -> bool:
        if self.whole and other.whole:
            return self.start == other.start
        if self.whole:
            return self.start.startswith(other.start)
        return other.start.startswith(self.start) or (not other.whole and self.start.startswith(other.start))

    def within(self, other: Area) -> Area | None:
        """What both have in common."""
        if not self.meets(other):
            return None
        return self if self.whole or (not other.whole and len(self.start) >= len(other.start)) else other


EVERYWHERE: Final = Area("")


@dataclass(frozen=True, slots=True)
class Reach:
    """What a sync can write at one target: ``areas`` of names, of which ``writes`` tells, if given, whether it takes one.

    ``path`` is the key of the sync that names the target, ``at`` how messages call the target, and ``advice`` what
    keeps two syncs apart that would write the same there. ``template`` names a part of the target, such as a branch,
    with placeholders in braces: two syncs meet only if a name fits both of their templates.
    """

    sync: str
    place: Place
    areas: tuple[Area, ...]
    path: KeyPath
    at: str
    advice: str
    writes: Callable[[str], bool] | None = None
    template: str = ""

    def common_with(self, other: Reach) -> str | None:
        """A name, or the beginning of many, that both can write; None if there is none."""
        if not templates_meet(self.template, other.template):
            return None
        mine, theirs = self._names(), other._names()
        starts, others = self._starts(), other._starts()
        names = mine & theirs | (mine if others else frozenset()) | (theirs if starts else frozenset())
        for name in sorted(names):
            if self._takes(name) and other._takes(name):
                return name
        meetings = (one.within(two) for one in starts for two in others)
        return next((f"{common.start}*" for common in meetings if common), None)

    def _names(self) -> frozenset[str]:
        return frozenset(area.start for area in self.areas if area.whole)

    def _starts(self) -> list[Area]:
        return [area for area in self.areas if not area.whole]

    def _takes(self, name: str) -> bool:
        if self.writes is not None:
            return self.writes(name)
        return any(area.meets(Area(name, whole=True)) for area in self.areas)


def templates_meet(one: str, other: str) -> bool:
    """Return True if a name fits both templates; a placeholder in braces stands for one or more characters but ``/``."""
    left, right = _tokens(one), _tokens(other)

    @cache
    def meet(i: int, j: int) -> bool:
        if i == len(left) or j == len(right):
            rest = (*left[i:], *right[j:])
            return all(token is _MORE for token in rest)
        a, b = left[i], right[j]
        if a is _MORE:
            return meet(i + 1, j) or (b != "/" and meet(i, j + 1))
        if b is _MORE:
            return meet(i, j + 1) or (a != "/" and meet(i + 1, j))
        fits = a == b or (a is _ONE and b != "/") or (b is _ONE and a != "/")
        return fits and meet(i + 1, j + 1)

    return meet(0, 0)


_ONE: Final = "one character"
_MORE: Final = "any characters"


def _tokens(template: str) -> tuple[str, ...]:
    """Return the characters of a template, with two tokens for each placeholder."""
    parts = re.split(r"\{[^{}]*\}", template)
    tokens = list(parts[0])
    for part in parts[1:]:
        tokens += [_ONE, _MORE, *part]
    return tuple(tokens)


def conflicts_between(reaches: Sequence[Reach]) -> Iterator[Finding]:
    """Each reach that has something in common with an earlier one of another sync, its path beginning at ``syncs``.

    Where names are known only as patterns, whatever begins alike counts as the same place.
    """
    by_place: dict[Place, list[Reach]] = {}
    for later in reaches:
        neighbours = by_place.setdefault(later.place, [])
        for earlier in neighbours:
            common = None if earlier.sync == later.sync else earlier.common_with(later)
            if common is not None:
                what = f"can write {common} at {later.at}, and so can the sync {earlier.sync}; {later.advice}"
                yield Finding(("syncs", later.sync, *later.path), what)
        neighbours.append(later)
