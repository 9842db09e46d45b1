"""Planning removals: what is gone is gathered over a whole scan, checked against the limits, and only then sent on.

A scan that goes on in another function, because time was short or the first one died, knows by its mark which clusters
have something to remove and what was decided, and compares those clusters once more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

from syncline.errors import SynclineError
from syncline.kinds.backups.ours import Ours, marks_of
from syncline.kinds.backups.removing import Gone, Limiter, Source
from syncline.kinds.kind import Page
from syncline.model import Item, Outcome, Result, compact_json


@dataclass(frozen=True, slots=True)
class Mark:
    """The place at which a scan goes on: behind the cluster ``after``.

    Up to there ``total`` selected files of the target are ours. The clusters ``pending`` have files that are gone, so
    many each, of which nothing was sent on yet. Once ``decided``, so many are removed; in the clusters ``refused`` not all,
    and none where another function goes on. ``hinted`` keys of the scope were sent on, those of clusters come after them.
    """

    after: str = ""
    total: int = 0
    pending: tuple[tuple[str, int], ...] = ()
    decided: bool = False
    refused: tuple[str, ...] = ()
    hinted: int = 0

    @classmethod
    def parse(cls, cursor: str | None) -> Mark:
        if cursor is None:
            return cls()
        after, total, pending, decided, refused, *hinted = json.loads(cursor)
        parsed = tuple((cluster, count) for cluster, count in pending)
        return cls(after, total, parsed, decided, tuple(refused), *hinted)

    def __str__(self) -> str:
        values = list(asdict(self).values())
        return compact_json(values if self.hinted else values[:-1])


@dataclass(frozen=True, slots=True)
class Compared:
    """A cluster: its page without removals, its files that are ours and selected, and those of them that are gone.

    ``gone`` has the record of each by the item that removes it. ``vanished`` says that the source has no cluster of
    this name.
    """

    cluster: str
    page: Page
    ours: int = 0
    gone: Mapping[str, tuple[Item, Ours]] = field(default_factory=dict)
    vanished: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A part of a scan. Who has not sent on all of it goes on at ``before``, else at ``behind``."""

    page: Page
    before: Mark
    behind: Mark


Compare = Callable[[Callable[[str], bool]], Iterator[Compared]]
"""Compares those clusters that its argument takes, in order, for as long as there is time."""


def planned(compare: Compare, limiter: Limiter, source: Source, mark: Mark) -> Iterator[Found]:
    """Yield what clusters come to and, behind the last of them, what may be removed.

    Where ``source`` does not count our files, the scan covers all of them.
    """
    pace = limiter.pace
    start, known = mark, dict[str, Compared]()
    if not mark.decided:
        for each in compare(lambda cluster: cluster > start.after):
            for item in each.page.items:
                if item.target is None:
                    limiter.renames.add(item.name, marks_of(None, item.source, item.size))
            pending = (*mark.pending, (each.cluster, len(each.gone))) if each.gone else mark.pending
            behind = Mark(each.cluster, mark.total + each.ours, pending)
            yield Found(each.page, mark, behind)
            known |= {each.cluster: each} if each.gone else {}
            mark = behind
    waiting = {cluster for cluster, _ in mark.pending}
    if waiting - known.keys() and not pace.over:
        known |= {each.cluster: each for each in compare((waiting - known.keys()).__contains__)}
    if pace.over:
        return
    errors: dict[str, SynclineError] = {}
    if not mark.decided:
        counted = mark.total
        source = source if source.total is not None else replace(source, total=lambda: counted)
        gone = {cluster: _gone(each) for cluster, each in known.items() if each.gone}
        errors = limiter.refused(gone, source)
        pending = tuple((cluster, len(each.files.keys() - errors.keys())) for cluster, each in sorted(gone.items()))
        clusters = tuple(cluster for cluster, each in gone.items() if not errors.keys().isdisjoint(each.files))
        mark = replace(mark, pending=pending, decided=True, refused=clusters)
    for cluster, count in mark.pending:
        behind = replace(mark, pending=mark.pending[1:])
        items = [item for item, _ in known[cluster].gone.values()] if cluster in known else []
        if start.decided and cluster in mark.refused:
            what = f"of the files of {cluster} that are gone, more would be removed than the sync allows"
            errors = {item.name: SynclineError("REMOVALS_CAPPED", what) for item in items}
        # What went since the decision is not a part of it.
        allowed = tuple(item for item in items if item.name not in errors)[:count]
        over = tuple(refused(item, errors[item.name]) for item in items if item.name in errors)
        yield Found(Page("", allowed, results=over), mark, behind)
        mark = behind


def _gone(each: Compared) -> Gone:
    return Gone({key: ours for key, (_, ours) in each.gone.items()}, each.ours, each.vanished)


def refused(item: Item, error: SynclineError) -> Result:
    """The result of an item that is not to be tried."""
    return Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, error.code.name, error.what)
