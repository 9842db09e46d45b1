"""Problems between keys and between syncs, and the targets that a sync can write."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

from syncline.config.values import KeyPath

Location: TypeAlias = tuple[str | int, ...]
"""The identity of a server or a part of it, equal for all spellings: its type, its name, its port or the like."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem or a warning. `path` begins inside the sync, or at `syncs` for findings about two syncs.

    `rests_on` are paths of other values that the finding depends on.
    """

    path: KeyPath
    message: str
    rests_on: tuple[KeyPath, ...] = ()


@dataclass(frozen=True, slots=True)
class Area:
    """All names that begin with `start`, or with `exact` the one name `start`."""

    start: str
    exact: bool = False

    def meets(self, other: Area) -> bool:
        """Return True if both have a name in common."""
        return self.within(other) is not None

    def within(self, other: Area) -> Area | None:
        """Return the names that both have in common, None if there are none."""
        mine, theirs = (self.exact, len(self.start)), (other.exact, len(other.start))
        small, large = (self, other) if mine >= theirs else (other, self)
        return small if small == large or (not large.exact and small.start.startswith(large.start)) else None


EVERYWHERE: Final = Area("")


@dataclass(frozen=True, slots=True)
class Reach:
    """The names that a sync can write at one target: `areas`, restricted by `writes` if set.

    `path` is the key of the sync that names the target, `at` the target in messages, and `advice` how to separate two
    syncs that would write the same names. `template` names a part of the target, such as a branch, with placeholders in
    braces: two syncs overlap only if a name fits both templates.
    """

    sync: str
    location: Location
    areas: tuple[Area, ...]
    path: KeyPath
    at: str
    advice: str
    writes: Callable[[str], bool] | None = None
    template: str = ""

    def common_with(self, other: Reach) -> str | None:
        """Return a name that both can write, or a prefix with ``*``; None if there is none."""
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
        return frozenset(area.start for area in self.areas if area.exact)

    def _starts(self) -> list[Area]:
        return [area for area in self.areas if not area.exact]

    def _takes(self, name: str) -> bool:
        if self.writes is not None:
            return self.writes(name)
        return any(area.meets(Area(name, exact=True)) for area in self.areas)


_ONE: Final = "one character"
_MORE: Final = "any characters"


def templates_meet(one: str, other: str) -> bool:
    """Return True if a name fits both templates. A placeholder in braces is one or more characters except ``/``."""
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


def _tokens(template: str) -> tuple[str, ...]:
    """Return the characters of a template, with two tokens for each placeholder."""
    parts = re.split(r"\{[^{}]*\}", template)
    tokens = list(parts[0])
    for part in parts[1:]:
        tokens += [_ONE, _MORE, *part]
    return tuple(tokens)


def conflicts_between(reaches: Sequence[Reach]) -> Iterator[Finding]:
    """Yield a finding for each reach that overlaps an earlier one of another sync; its path begins at `syncs`.

    Names known only by a pattern overlap if they begin alike.
    """
    by_location: dict[Location, list[Reach]] = {}
    for later in reaches:
        neighbours = by_location.setdefault(later.location, [])
        for earlier in neighbours:
            common = None if earlier.sync == later.sync else earlier.common_with(later)
            if common is not None:
                what = f"can write {common} at {later.at}, as can the sync {earlier.sync}; {later.advice}"
                yield Finding(("syncs", later.sync, *later.path), what)
        neighbours.append(later)
