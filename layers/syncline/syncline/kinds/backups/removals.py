"""Limits on removals: the files gone from the source that may be removed from the target.

A removal counts in a window of time, for its cluster and for the complete sync. A file whose content appears under
another name was renamed, which is no removal. A cluster that vanished completely stays.

Gone files are collected over a complete scan, checked against the limits, and only then sent on. A scan that another
function continues, because time was short or the first one died, has in its cursor the clusters with gone files and
the decision, and compares those clusters again.
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
from syncline.kinds.backups.ownership import OwnedFile, OwnedFiles, content_marks
from syncline.kinds.backups.source import failed_result
from syncline.kinds.kind import Page, StepContext
from syncline.model import Item, compact_json
from syncline.ownership import Grant, Limits, RemovalRequest, digest_of

_RUN_WINDOW: Final = 30 * 86_400.0
"""Seconds for which the window of a run with its own limit is kept: longer than any run."""


@dataclass(frozen=True, slots=True)
class ScanCursor:
    """The position of a scan: behind the cluster `after`.

    Up to there, `total` selected files of the target are ours. `pending` are the clusters with gone files, each with
    their number, of which nothing was sent on yet. Once `decided`, the numbers are those to be removed; the clusters
    `refused` have files that may not be removed. `hinted` keys of the scope were sent on; clusters come after them.
    """

    after: str = ""
    total: int = 0
    pending: tuple[tuple[str, int], ...] = ()
    decided: bool = False
    refused: tuple[str, ...] = ()
    hinted: int = 0

    @classmethod
    def parse(cls, cursor: str | None) -> ScanCursor:
        if cursor is None:
            return cls()
        after, total, pending, decided, refused, *hinted = json.loads(cursor)
        parsed = tuple((cluster, count) for cluster, count in pending)
        return cls(after, total, parsed, decided, tuple(refused), *hinted)

    def __str__(self) -> str:
        values = list(asdict(self).values())
        return compact_json(values if self.hinted else values[:-1])


@dataclass(frozen=True, slots=True)
class ComparedCluster:
    """A cluster: its page without removals, the number of its selected files that are ours, and the gone ones.

    `gone` has the record of each by the item that removes it. `vanished` is True if the source has no cluster of this
    name.
    """

    cluster: str
    page: Page
    ours: int = 0
    gone: Mapping[str, tuple[Item, OwnedFile]] = field(default_factory=dict)
    vanished: bool = False


@dataclass(frozen=True, slots=True)
class GoneFiles:
    """The files of a cluster that are gone from the source, by key; all of them are ours and selected.

    `ours` is the number of such files in the cluster, these included. `vanished` is True if the source has nothing of
    the cluster any more.
    """

    files: Mapping[str, OwnedFile]
    ours: int
    vanished: bool = False


@dataclass(frozen=True, slots=True)
class SourceView:
    """Queries of a decision: the source's clusters, whether it has a key, and the number of our files in the clusters."""

    clusters: Callable[[], Iterable[str]]
    has: Callable[[str], bool]
    total: Callable[[], int] | None = None


Compare = Callable[[Callable[[str], bool]], Iterator[ComparedCluster]]
"""Compares the clusters that its argument selects, in order, while there is time."""


def plan_removals(
    compare: Compare, limiter: Limiter, source: SourceView, cursor: ScanCursor
) -> Iterator[tuple[Page, ScanCursor, ScanCursor]]:
    """Yield the page of each cluster and, after the last one, the removals that are allowed.

    Each page has the cursors before it, where a scan continues that sent on only a part of it, and behind it. If
    `source` does not count our files, the scan must cover all of them.
    """
    context = limiter.context
    start, known = cursor, dict[str, ComparedCluster]()
    if not cursor.decided:
        for each in compare(lambda cluster: cluster > start.after):
            for item in each.page.items:
                if item.target is None:
                    limiter.renames.add(item.name, content_marks(None, item.source, item.size))
            pending = (*cursor.pending, (each.cluster, len(each.gone))) if each.gone else cursor.pending
            behind = ScanCursor(each.cluster, cursor.total + each.ours, pending)
            yield each.page, cursor, behind
            known |= {each.cluster: each} if each.gone else {}
            cursor = behind
    waiting = {cluster for cluster, _ in cursor.pending}
    if waiting - known.keys() and not context.over:
        known |= {each.cluster: each for each in compare((waiting - known.keys()).__contains__)}
    if context.over:
        return
    errors: dict[str, SynclineError] = {}
    if not cursor.decided:
        counted = cursor.total
        source = source if source.total is not None else replace(source, total=lambda: counted)
        gone = {
            cluster: GoneFiles({key: file for key, (_, file) in each.gone.items()}, each.ours, each.vanished)
            for cluster, each in known.items()
            if each.gone
        }
        errors = limiter.refused(gone, source)
        pending = tuple((cluster, len(each.files.keys() - errors.keys())) for cluster, each in sorted(gone.items()))
        clusters = tuple(cluster for cluster, each in gone.items() if not errors.keys().isdisjoint(each.files))
        cursor = replace(cursor, pending=pending, decided=True, refused=clusters)
    for cluster, count in cursor.pending:
        behind = replace(cursor, pending=cursor.pending[1:])
        items = [item for item, _ in known[cluster].gone.values()] if cluster in known else []
        if start.decided and cluster in cursor.refused:
            what = f"more files of {cluster} are gone than the sync may remove"
            errors = {item.name: SynclineError("REMOVALS_CAPPED", what) for item in items}
        # Files that vanished after the decision are not part of it.
        allowed = tuple(item for item in items if item.name not in errors)[:count]
        refused = tuple(failed_result(item, errors[item.name]) for item in items if item.name in errors)
        yield Page("", allowed, results=refused), cursor, behind
        cursor = behind


class Renames:
    """New files by their content marks. Each of them explains one older file of the same content that is gone."""

    def __init__(self) -> None:
        self._by_mark: dict[object, list[tuple[float, str]]] = defaultdict(list)  # in the order of their times
        self.used: set[str] = set()
        """The new files that have explained one."""

    def add(self, key: str, marks: Iterable[object], created: float = math.inf) -> None:
        """Add a file that appeared at the target at a time (Unix seconds), or is about to."""
        for mark in marks:
            insort(self._by_mark[mark], (created, key))

    def explain(self, gone: OwnedFile) -> bool:
        """Return True if a file was renamed: a newer one has its content. That one then explains no other."""
        for mark in gone.marks:
            newest = self._by_mark.get(mark, [])
            while newest and newest[-1][1] in self.used:
                newest.pop()
            if newest and newest[-1][0] > gone.created:
                self.used.add(newest.pop()[1])
                return True
        return False


@dataclass(slots=True)
class Limiter:
    """Decides about the removals of one scan or batch."""

    sync: str
    limits: Limits
    owned: OwnedFiles
    context: StepContext
    renames: Renames = field(default_factory=Renames)

    def refused(self, gone: Mapping[str, GoneFiles], source: SourceView) -> dict[str, SynclineError]:
        """Return an error for each file, by key, that may not be removed. Allowed removals are reserved.

        Renamed files may always be removed.
        """
        counted = {cluster: self._without_renames(each, self.renames) for cluster, each in gone.items()}
        refused = self._decide(counted, source)
        if refused and (explained := self._explained({cluster: counted[cluster] for cluster in refused}, source)):
            counted |= explained
            refused = self._decide(explained, source)
        return {key: error for cluster, error in refused.items() for key in counted[cluster].files}

    def _explained(self, gone: Mapping[str, GoneFiles], source: SourceView) -> dict[str, GoneFiles]:
        """Return the gone files without recently renamed ones, or an empty dict if none was renamed."""
        files = self._recent(gone.values(), source)
        recent = Renames()
        for key, file in files.items():
            recent.add(key, file.marks, file.created)
        explained = {cluster: self._without_renames(each, recent) for cluster, each in gone.items()}
        if not self.context.plan:
            self.owned.write({key: replace(files[key], created=0) for key in recent.used})
        return explained if recent.used else {}

    def _without_renames(self, gone: GoneFiles, renames: Renames) -> GoneFiles:
        return replace(gone, files={key: file for key, file in gone.files.items() if not renames.explain(file)})

    def _recent(self, gone: Iterable[GoneFiles], source: SourceView) -> dict[str, OwnedFile]:
        """Return files that appeared at the target within a window's length and have content of gone files."""
        since = self.owned.clock() - self.limits.per
        files = {key: file for each in gone for key, file in each.files.items()}
        marks = {mark for file in files.values() for mark in file.marks}
        rows = (row for cluster in source.clusters() for row in self.owned.of(cluster).items())
        return {
            key: file
            for key, file in rows
            if file.created >= since and key not in files and not marks.isdisjoint(file.marks) and source.has(key)
        }

    def _decide(self, gone: Mapping[str, GoneFiles], source: SourceView) -> dict[str, SynclineError]:
        """Return an error for each cluster whose files may not be removed."""
        gone = {cluster: each for cluster, each in gone.items() if each.files}
        files = {key: file for each in gone.values() for key, file in each.files.items()}
        if not files:
            return {}
        if any(each.vanished for each in gone.values()) and not list(source.clusters()):
            what = f"the source lists no cluster, and {len(files)} files would be removed"
            return dict.fromkeys(gone, SynclineError("REMOVALS_CAPPED", what))
        own = self.context.allow_removals
        if own is not None:
            request = replace(self._request(files), limits=Limits(1.0, own, _RUN_WINDOW), own=True)
            grant = self._reserve("", request, lambda: sys.maxsize)
            what = f"{len(files)} files would be removed; this run may remove {own}, of which {grant.used} are used"
            return {} if grant.allowed else dict.fromkeys(gone, self._too_many(what, len(files)))
        refused = {cluster: error for cluster, each in gone.items() if (error := self._cluster_error(cluster, each))}
        rest = {key: f for cluster, each in gone.items() if cluster not in refused for key, f in each.files.items()}
        if rest:
            grant = self._reserve("", self._request(rest), source.total or (lambda: len(rest)))
            if not grant.allowed:
                error = self._too_many(_over_limit(len(rest), grant, "files of the sync"), len(rest))
                return {cluster: refused.get(cluster, error) for cluster in gone}
            for cluster, each in gone.items():
                if cluster not in refused:
                    self._reserve(cluster, self._request(each.files), lambda ours=each.ours: ours)  # type: ignore[misc]
        return refused

    def _cluster_error(self, cluster: str, gone: GoneFiles) -> SynclineError | None:
        count = len(gone.files)
        if gone.vanished and self.limits.share < 1:
            what = f"the cluster {cluster} vanished from the source, and its {count} files stay at the target"
            return self._too_many(what, count)
        request = replace(self._request(gone.files), keep=False)
        grant = self._reserve(cluster, request, lambda: gone.ours)
        return None if grant.allowed else self._too_many(_over_limit(count, grant, f"files of {cluster}"), count)

    def _request(self, files: Mapping[str, OwnedFile]) -> RemovalRequest:
        """Return the request to remove files. The same files have the same name, which reserves them once.

        A file that appeared again since counts as another file.
        """
        name = digest_of(
            f"{key}\0{file.fingerprint}\0{file.etag}\0{file.created}" for key, file in sorted(files.items())
        )
        return RemovalRequest(self.limits, len(files), name, self.context.run, keep=not self.context.plan)

    def _reserve(self, cluster: str, request: RemovalRequest, total: Callable[[], int]) -> Grant:
        def removed(run: str) -> int:
            # A scan may count while its run removes files, so the run's own removals may be among its files.
            return 0 if run == self.context.run else self.context.removed(run)

        return self.owned.windows(cluster).reserve(request, total, removed)

    def _too_many(self, what: str, count: int) -> SynclineError:
        advice = f"To remove them: syncline run {self.sync} --allow-removals {count}"
        return SynclineError("REMOVALS_CAPPED", f"{what}. {advice}")


def _over_limit(count: int, grant: Grant, of: str) -> str:
    limit = f"the limit is {grant.most} of the {grant.total} {of} per window"
    return f"{count} {of} would be removed; {limit}, of which {grant.used} are used"
