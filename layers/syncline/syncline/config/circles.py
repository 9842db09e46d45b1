"""Circles of syncs: one sync's copies are the source of another, whose copies are the source of the first.

Each sync copies names from one location to another and changes their prefix. Names are followed from a sync through all
syncs that have them at their source. If they reach the first sync again and are copied again, the syncs copy forever,
and names grow with each round if a prefix is added.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from syncline.config.findings import Area, Finding, Location
from syncline.config.values import KeyPath

_STEPS: Final = 500
"""Most steps that names are followed; beyond that they count as a circle."""
_DOUBLE_STAR: Final = "**"


@dataclass(frozen=True, slots=True)
class Flow:
    """The names that a sync selects at its source, and their names at its target.

    `moved` returns the areas of the target for an area of the source. `excludes` returns True if the sync excludes a
    complete area of the source. `path` is the key of the sync that names the target, and `at` the target in messages.
    """

    sync: str
    source: Location
    target: Location
    areas: tuple[Area, ...]
    moved: Callable[[Area], tuple[Area, ...]]
    excludes: Callable[[Area], bool]
    path: KeyPath
    at: str

    def takes(self, area: Area) -> Iterator[Area]:
        """Yield the parts of an area of the source that the sync selects."""
        for each in self.areas:
            common = each.within(area)
            if common is not None and not self.excludes(common):
                yield common


def circles_between(flows: Sequence[Flow]) -> Iterator[Finding]:
    """Yield a finding for each circle, at the last of its syncs in the order of `flows`."""
    seen: set[frozenset[str]] = set()
    by_source: dict[Location, list[Flow]] = {}
    for flow in flows:
        by_source.setdefault(flow.source, []).append(flow)
    order = {flow.sync: number for number, flow in enumerate(flows)}
    for flow in flows:
        circle = _circle_from(flow, by_source)
        names = [each.sync for each, _ in circle or ()]
        if circle is None or frozenset(names) in seen:
            continue
        seen.add(frozenset(names))
        last, back = max(circle, key=lambda step: order[step[0].sync])
        what = (
            f"closes a circle: {' → '.join([*names, names[0]])}; its copies {_shown(back)} at {last.at} would be copied "
            f"again without end. Exclude them in `select` of the sync that reads them, or remove one of the syncs"
        )
        yield Finding(("syncs", last.sync, *last.path), what)


def _circle_from(start: Flow, by_source: dict[Location, list[Flow]]) -> list[tuple[Flow, Area]] | None:
    """Return the shortest circle through a sync, each of its syncs with the area it writes; None if there is none."""
    waiting = deque(([(start, out)], 0) for area in start.areas for out in start.moved(area))
    visited: set[tuple[str, Area, int]] = set()
    steps = 0
    while waiting:
        path, rounds = waiting.popleft()
        flow, out = path[-1]
        for following in by_source.get(flow.target, ()):
            if following is flow:
                continue  # a sync that is its own source has another finding
            back = following is start
            if not back and any(each is following for each, _ in path):
                continue  # a circle without the start is found from its own syncs
            for common in following.takes(out):
                steps += 1
                if back and (rounds or steps > _STEPS):
                    return path
                if (following.sync, common, rounds) not in visited:
                    visited.add((following.sync, common, rounds))
                    steps_on = [(following, moved) for moved in following.moved(common)]
                    waiting += [([step], rounds + 1) if back else ([*path, step], rounds) for step in steps_on]
    return None


def excluding(patterns: Sequence[str], prefix: str = "") -> Callable[[Area], bool]:
    """Return a function that returns True if globs such as ``m/**`` exclude an area; names begin with `prefix`."""
    starts = tuple(
        prefix + text.removesuffix(_DOUBLE_STAR)
        for text in patterns
        if text.endswith(_DOUBLE_STAR) and not text.startswith("re:") and not set("*?[") & set(text[:-2])
    )
    return lambda area: area.start.startswith(starts) if starts else False


def _shown(area: Area) -> str:
    return area.start if area.exact else f"{area.start}*"
