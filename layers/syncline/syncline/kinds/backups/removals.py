"""Limits on removals: which files that are gone from the source are removed from the target.

A removal counts in a window of time, for its cluster and for the whole sync. A file whose content appears under
another name was renamed, which is no removal. A cluster that vanished as a whole stays.
"""

from __future__ import annotations

import json
import math
import sys
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from syncline.errors import SynclineError
from syncline.kinds.backups.ours import Ledger, Ours, marks_of
from syncline.kinds.kind import Page, StepContext
from syncline.model import Item, Outcome, Result, compact_json
from syncline.ownership import Grant, Limits, RemovalRequest, digest_of

_RUN_WINDOW: Final = 30 * 86_400.0
"""Seconds that the window of a run with removals of its own is kept: longer than any run."""


class Renames:
    """New files by their marks. Each of them explains one older file of the same content that is gone."""

    def __init__(self) -> None:
        self._by_mark: dict[object, list[tuple[float, str]]] = defaultdict(list)  # in the order of their times
        self.used: set[str] = set()
        """The new files that have explained one."""

    def add(self, key: str, marks: Iterable[object], created: float = math.inf) -> None:
        """Add a file that appeared at the target at a time (Unix seconds), or is about to."""
        for mark in marks:
            insort(self._by_mark[mark], (created, key))

    def explain(self, gone: Ours) -> bool:
        """Return True if a file was renamed: a newer one has its content. That one then explains no other."""
        for mark in gone.marks:
            newest = self._by_mark.get(mark, [])
            while newest and newest[-1][1] in self.used:
                newest.pop()
            if newest and newest[-1][0] > gone.created:
                self.used.add(newest.pop()[1])
                return True
        return False


@dataclass(frozen=True, slots=True)
class Gone:
    """The files of a cluster that are gone from the source, by key; all of them are ours and selected.

    ``ours`` is the number of files of the cluster that are, these included. ``vanished`` says that the source has
    nothing of the cluster any more.
    """

    files: Mapping[str, Ours]
    ours: int
    vanished: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """What a decision asks for: the source's clusters, the number of our files in them, and whether a key is there."""

    clusters: Callable[[], Iterable[str]]
    has: Callable[[str], bool]
    total: Callable[[], int] | None = None


@dataclass(slots=True)
class Limiter:
    """Decides about the removals of one scan or batch."""

    sync: str
    limits: Limits
    ledger: Ledger
    context: StepContext
    renames: Renames = field(default_factory=Renames)

    def refused(self, gone: Mapping[str, Gone], source: Source) -> dict[str, SynclineError]:
        """Return why files may not be removed, by key. What may be removed is reserved; renamed files always may."""
        counted = {cluster: self._without_renames(each, self.renames) for cluster, each in gone.items()}
        refused = self._decide(counted, source)
        if refused and (explained := self._explained({cluster: counted[cluster] for cluster in refused}, source)):
            counted |= explained
            refused = self._decide(explained, source)
        return {key: error for cluster, error in refused.items() for key in counted[cluster].files}

    def _explained(self, gone: Mapping[str, Gone], source: Source) -> dict[str, Gone]:
        """Return what is gone without the files that were renamed lately; nothing if none was."""
        files = self._recent(gone.values(), source)
        recent = Renames()
        for key, ours in files.items():
            recent.add(key, ours.marks, ours.created)
        explained = {cluster: self._without_renames(each, recent) for cluster, each in gone.items()}
        if not self.context.plan:
            self.ledger.write({key: replace(files[key], created=0) for key in recent.used})
        return explained if recent.used else {}

    def _without_renames(self, gone: Gone, renames: Renames) -> Gone:
        return replace(gone, files={key: ours for key, ours in gone.files.items() if not renames.explain(ours)})

    def _recent(self, gone: Iterable[Gone], source: Source) -> dict[str, Ours]:
        """Return files that came to the target since the length of a window, with content of files that are gone."""
        since = self.ledger.clock() - self.limits.per
        files = {key: ours for each in gone for key, ours in each.files.items()}
        marks = {mark for ours in files.values() for mark in ours.marks}
        rows = (row for cluster in source.clusters() for row in self.ledger.of(cluster).items())
        return {
            key: ours
            for key, ours in rows
            if ours.created >= since and key not in files and not marks.isdisjoint(ours.marks) and source.has(key)
        }

    def _decide(self, gone: Mapping[str, Gone], source: Source) -> dict[str, SynclineError]:
        gone = {cluster: each for cluster, each in gone.items() if each.files}
        files = {key: ours for each in gone.values() for key, ours in each.files.items()}
        if not files:
            return {}
        if any(each.vanished for each in gone.values()) and not list(source.clusters()):
            return dict.fromkeys(gone, _capped(f"the source lists no cluster, and {len(files)} files would be removed"))
        own = self.context.allow_removals
        if own is not None:
            asked = RemovalRequest(Limits(1.0, own, _RUN_WINDOW), len(files), _name(files), self.context.run, own=True)
            grant = self._reserve("", asked, lambda: sys.maxsize)
            what = f"{len(files)} files would be removed; this run may remove {own}, and {grant.used} were reserved"
            return {} if grant.allowed else dict.fromkeys(gone, self._too_many(what, len(files)))
        refused = {cluster: error for cluster, each in gone.items() if (error := self._of_cluster(cluster, each))}
        rest = {key: o for cluster, each in gone.items() if cluster not in refused for key, o in each.files.items()}
        if rest:
            grant = self._reserve("", self._request(rest), source.total or (lambda: len(rest)))
            if not grant.allowed:
                error = self._too_many(_words(len(rest), grant, "files of the sync"), len(rest))
                return {cluster: refused.get(cluster, error) for cluster in gone}
            for cluster, each in gone.items():
                if cluster not in refused:
                    self._reserve(cluster, self._request(each.files), lambda ours=each.ours: ours)  # type: ignore[misc]
        return refused

    def _of_cluster(self, cluster: str, gone: Gone) -> SynclineError | None:
        count = len(gone.files)
        if gone.vanished and self.limits.share < 1:
            what = f"the cluster {cluster} vanished from the source, and its {count} files stay at the target"
            return self._too_many(what, count)
        request = replace(self._request(gone.files), keep=False)
        grant = self._reserve(cluster, request, lambda: gone.ours)
        return None if grant.allowed else self._too_many(_words(count, grant, f"files of {cluster}"), count)

    def _request(self, files: Mapping[str, Ours]) -> RemovalRequest:
        return RemovalRequest(self.limits, len(files), _name(files), self.context.run)

    def _reserve(self, part: str, request: RemovalRequest, total: Callable[[], int]) -> Grant:
        if self.context.plan:
            request = replace(request, keep=False)

        def removed(run: str) -> int:
            # A scan counts while files are being removed, so those that its run has removed may be among its files.
            return 0 if run == self.context.run else self.context.removed(run)

        return self.ledger.windows(part).reserve(request, total, removed)

    def _too_many(self, what: str, count: int) -> SynclineError:
        return _capped(f"{what}. If they are meant: syncline run {self.sync} --allow-removals {count}")


def _capped(what: str) -> SynclineError:
    return SynclineError("REMOVALS_CAPPED", what)


def _words(count: int, grant: Grant, of: str) -> str:
    limit = f"the limit is {grant.most} of the {grant.total} {of} in a window of time"
    return f"{count} {of} would be removed; {limit}, and {grant.used} were removed in it before"


def _name(files: Mapping[str, Ours]) -> str:
    """Return a short text that stands for the removals of files: asked for again, they are reserved once.

    A file that came again since is another one.
    """
    return digest_of(f"{key}\0{ours.fingerprint}\0{ours.etag}\0{ours.created}" for key, ours in sorted(files.items()))


# Planning removals: what is gone is gathered over a whole scan, checked against the limits, and only then sent on.
#
# A scan that goes on in another function, because time was short or the first one died, knows by its mark which clusters
# have something to remove and what was decided, and compares those clusters once more.


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
    context = limiter.context
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
    if waiting - known.keys() and not context.over:
        known |= {each.cluster: each for each in compare((waiting - known.keys()).__contains__)}
    if context.over:
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
