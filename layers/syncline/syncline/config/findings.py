"""What can be wrong with syncs although each of their keys is right, and where a sync writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    keeps two syncs apart that would write the same there.
    """

    sync: str
    place: Place
    areas: tuple[Area, ...]
    path: KeyPath
    at: str
    advice: str
    writes: Callable[[str], bool] | None = None

    def common_with(self, other: Reach) -> str | None:
        """A name, or the beginning of many, that both can write; None if there is none."""
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
