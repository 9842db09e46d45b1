"""Circles of syncs: what one copies is found by another one as its source, and comes back to the first.

Each sync moves names from one place to another and changes how they begin. Names are followed from a sync through all
syncs that find them at their source. If they come back to it and go out again, the syncs copy for ever, and where a
prefix is put before them, they grow with each round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from syncline.config.findings import Area, Finding, Place
from syncline.config.values import KeyPath

_STEPS: Final = 500
"""Steps after which names that are still on their way count as a circle."""
_DOUBLE_STAR: Final = "**"


@dataclass(frozen=True, slots=True)
class Flow:
    """The names that a sync takes at one place, and what they are called at another.

    ``moved`` gives what an area of the source becomes at the target. ``excludes`` tells whether the sync leaves an area
    of the source out as a whole. ``path`` is the key of the sync that names the target, and ``at`` the target's name in
    messages.
    """

    sync: str
    source: Place
    target: Place
    areas: tuple[Area, ...]
    moved: Callable[[Area], Area]
    excludes: Callable[[Area], bool]
    path: KeyPath
    at: str

    def takes(self, area: Area) -> Iterator[Area]:
        """Yield what the sync takes of an area at its source."""
        for each in self.areas:
            common = each.within(area)
            if common is not None and not self.excludes(common):
                yield common


def circles_between(flows: Sequence[Flow]) -> Iterator[Finding]:
    """Yield a finding for each circle, at the last of its syncs in the order of ``flows``."""
    seen: set[frozenset[str]] = set()
    by_source: dict[Place, list[Flow]] = {}
    for flow in flows:
        by_source.setdefault(flow.source, []).append(flow)
    order = {flow.sync: number for number, flow in enumerate(flows)}
    for flow in flows:
        circle = _circle_from(flow, by_source)
        if circle is None or frozenset(each.sync for each, _ in circle) in seen:
            continue
        seen.add(frozenset(each.sync for each, _ in circle))
        last, back = max(circle, key=lambda step: order[step[0].sync])
        names = [each.sync for each, _ in circle]
        what = (
            f"closes a circle: {' → '.join([*names, names[0]])}; what it writes as {_shown(back)} at {last.at} is found "
            f"and copied again and again. Exclude it in `select` of the sync that reads it, or take one of them out"
        )
        yield Finding(("syncs", last.sync, *last.path), what)


def _circle_from(start: Flow, by_source: dict[Place, list[Flow]]) -> list[tuple[Flow, Area]] | None:
    """Return the shortest circle through a sync, each of its syncs with what it writes; None if there is none."""
    _Path = list[tuple[Flow, Area]]  # noqa: N806 - a type
    waiting: deque[tuple[_Path, int]] = deque()
    waiting.extend(([(start, start.moved(area))], 0) for area in start.areas)
    visited: set[tuple[str, Area, int]] = set()
    steps = 0
    while waiting:
        way, rounds = waiting.popleft()
        flow, out = way[-1]
        for following in by_source.get(flow.target, ()):
            if following is flow:
                continue  # a sync that feeds on itself is told of by itself
            back = following is start
            if not back and any(each is following for each, _ in way):
                continue  # a circle without the start, which is found from its own syncs
            for common in following.takes(out):
                steps += 1
                if back and (rounds or steps > _STEPS):
                    return way
                if (following.sync, common, rounds) not in visited:
                    visited.add((following.sync, common, rounds))
                    step = (following, following.moved(common))
                    waiting.append(([step], rounds + 1) if back else ([*way, step], rounds))
    return None


def excluding(patterns: Sequence[str], prefix: str = "") -> Callable[[Area], bool]:
    """Return a function that tells whether globs such as ``m/**`` exclude an area whose names begin with ``prefix``."""
    starts = tuple(
        prefix + text.removesuffix(_DOUBLE_STAR)
        for text in patterns
        if text.endswith(_DOUBLE_STAR) and not text.startswith("re:") and not set("*?[") & set(text[:-2])
    )
    return lambda area: area.start.startswith(starts) if starts else False


def _shown(area: Area) -> str:
    return area.start if area.whole else f"{area.start}*"
