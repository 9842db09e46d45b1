"""Planning removals: what is gone is counted over a whole look, checked against the caps, and only then sent on.

A look that goes on in another function, because time was short or the first one died, knows by its mark what was
counted, and compares those clusters once more that had something to remove.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from syncline.errors import SynclineError
from syncline.kinds.kind import Pace, Page
from syncline.model import Item, Outcome, Result, compact_json


class Caps(Protocol):
    """Limits on removals: :class:`syncline.config.base.Removals`."""

    def allows(self, removals: int, total: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class _OfRun:
    """Limits that an operator set for one run in place of the sync's: up to ``most`` removals."""

    most: int

    def allows(self, removals: int, total: int) -> bool:  # noqa: ARG002 - only the number counts
        return removals <= self.most


def caps_of(pace: Pace, caps: Caps) -> Caps:
    """Return the limits of a run: its own, or those of its sync."""
    return caps if pace.allow_removals is None else _OfRun(pace.allow_removals)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a look goes on: behind the cluster ``after``.

    Up to there the target had ``total`` files. ``gone`` of them may be removed, as far as their own clusters are
    concerned; they lie in the clusters ``pending``, of which nothing was sent on yet.
    """

    after: str = ""
    gone: int = 0
    total: int = 0
    pending: tuple[str, ...] = ()

    @classmethod
    def parse(cls, cursor: str | None) -> Mark:
        if cursor is None:
            return cls()
        after, gone, total, pending = json.loads(cursor)
        return cls(after, gone, total, tuple(pending))

    def __str__(self) -> str:
        return compact_json(list(asdict(self).values()))


@dataclass(frozen=True, slots=True)
class Compared:
    """A cluster: what it comes to but for removals, how many files of it the target has, and which of them are gone."""

    cluster: str
    page: Page
    files: int = 0
    gone: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A part of a look. Who has not sent on all of it goes on at ``before``, else at ``behind``."""

    page: Page
    before: Mark
    behind: Mark


Compare = Callable[[Callable[[str], bool]], Iterator[Compared]]
"""Compares those clusters that its argument takes, in order, for as long as there is time."""


def planned(compare: Compare, caps: Caps, mark: Mark, pace: Pace) -> Iterator[Found]:
    """What clusters come to, and behind the last of them what may be removed."""
    start, known = mark, dict[str, tuple[Item, ...]]()
    caps = caps_of(pace, caps)
    for each in compare(lambda cluster: cluster > start.after):
        allowed, results = _of_cluster(each, caps)
        pending = (*mark.pending, each.cluster) if allowed else mark.pending
        behind = Mark(each.cluster, mark.gone + len(allowed), mark.total + each.files, pending)
        yield Found(replace(each.page, results=(*each.page.results, *results)), mark, behind)
        known |= {each.cluster: allowed} if allowed else {}
        mark = behind
    if pace.over:
        return
    within = caps.allows(mark.gone, mark.total)
    for cluster, allowed, results in _removals(compare, caps, mark, known):
        behind = replace(mark, pending=tuple(name for name in mark.pending if name != cluster))
        if within:
            yield Found(Page("", allowed, results=results), mark, behind)
        else:
            over = _capped(allowed, f"{mark.gone} of {mark.total} files")
            yield Found(Page("", results=(*results, *over)), mark, behind)
        mark = behind


def _removals(
    compare: Compare, caps: Caps, mark: Mark, known: dict[str, tuple[Item, ...]]
) -> Iterator[tuple[str, tuple[Item, ...], tuple[Result, ...]]]:
    for cluster, items in known.items():
        yield cluster, items, ()
    forgotten = set(mark.pending) - known.keys()
    if forgotten:
        for each in compare(forgotten.__contains__):
            yield each.cluster, *_of_cluster(each, caps)


def _of_cluster(each: Compared, caps: Caps) -> tuple[tuple[Item, ...], tuple[Result, ...]]:
    """What may be removed of a cluster, and the results of what may not."""
    if caps.allows(len(each.gone), each.files):
        return each.gone, ()
    return (), tuple(_capped(each.gone, f"{len(each.gone)} of the {each.files} files of {each.cluster}"))


def _capped(items: Sequence[Item], how_many: str) -> Iterator[Result]:
    error = too_many(how_many)
    return (refused(item, error) for item in items)


def too_many(how_many: str) -> SynclineError:
    return SynclineError("REMOVALS_CAPPED", f"{how_many} would be removed, more than the sync allows")


def refused(item: Item, error: SynclineError) -> Result:
    """The result of an item that is not to be tried."""
    return Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, error.code.name, error.what)
