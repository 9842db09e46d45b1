"""Looking: which objects of the bucket differ from the branch, cluster by cluster.

A full look lists the bucket and asks nothing of single objects. From the memory it takes which blob each listed object
became, and computes the tree that a cluster then has; where the branch has that very tree, the whole cluster is equal.
Only the others are compared file by file. What was hinted at is not looked at here at all: it goes on, and is read.

Removals are planned over all clusters, checked against the caps, and only then sent on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from syncline.clients.bucket import Bucket
from syncline.clients.git_objects import Entry, tree_id
from syncline.clients.git_repository import Branch
from syncline.errors import SynclineError
from syncline.kinds.backups.committing import Open, Rules
from syncline.kinds.backups.layout import Layout
from syncline.kinds.backups.memory import Known, Memory
from syncline.kinds.backups.paths import Names, folded, refusal, shown
from syncline.kinds.kind import Failure, Pace, Page
from syncline.model import Item, Outcome, Result, Scope

AT_ONCE: Final = 4
"""Clusters listed at a time."""
PAGE_ITEMS: Final = 500


@dataclass(slots=True)
class Listing:
    """A cluster as the bucket lists it: keys with ETag and size (bytes), and what cannot be a path."""

    cluster: str
    objects: dict[str, tuple[str, int]] = field(default_factory=dict)
    error: SynclineError | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a look goes on: behind a cluster, with what was removed and seen up to there, for the caps."""

    after: str = ""
    removed: int = 0
    total: int = 0

    @classmethod
    def parse(cls, cursor: str | None) -> Mark:
        return cls() if cursor is None else cls(*json.loads(cursor))

    def __str__(self) -> str:
        return json.dumps([self.after, self.removed, self.total])


class Look:
    """One look of one sync."""

    def __init__(self, rules: Rules, bucket: Bucket, memory: Memory, open_: Open) -> None:
        self._rules = rules
        self._layout: Layout = rules.layout
        self._bucket = bucket
        self._memory = memory
        self._open = open_
        self._removals: list[tuple[str, int, list[Item]]] = []  # cluster, its files at the target, what is gone
        self._total = 0

    def pages(self, scope: Scope, cursor: str | None, pace: Pace) -> Iterator[Page]:
        """What differs; a cursor is a :class:`Mark`."""
        if scope.groups is not None:
            keys = [group for group in scope.groups if not group.endswith("/")]
            yield from self._hinted(keys)
            prefixes = [group for group in scope.groups if group.endswith("/")]
            if prefixes:
                yield from self._clusters(sorted({p.partition("/")[0] for p in prefixes}), Mark.parse(cursor), pace)
            return
        yield from self._clusters(None, Mark.parse(cursor), pace)

    def _hinted(self, keys: Sequence[str]) -> Iterator[Page]:
        items = [
            Item(self._layout.branch_of(cluster), key)
            for key in keys
            if self._layout.takes(key) and (cluster := self._layout.cluster_of(key)) is not None
        ]
        items.sort(key=lambda item: (item.group, item.name))
        for at in range(0, len(items), PAGE_ITEMS):
            yield Page(str(Mark()), tuple(items[at : at + PAGE_ITEMS]))

    # -- a full look ---------------------------------------------------------------------------------------------

    def _clusters(self, only: list[str] | None, mark: Mark, pace: Pace) -> Iterator[Page]:
        listed, loose = self._listed_clusters()
        if only is None and not mark.after:
            yield from self._loose(loose)
        if self._layout.branch_per_cluster:
            found = listed if only is None else [c for c in only if c in listed]
            branches = {self._layout.branch_of(cluster): [cluster] for cluster in found}
        else:
            branches = {self._layout.branch: listed if only is None else only}
        self._total = mark.total
        for name in sorted(branches):
            if pace.over:
                break
            with self._open(name, pace) as branch:
                branch.fetch()
                comparing = _Comparing(self, branch, self._tree_clusters(branch), mark.after)
                clusters = self._wanted(branches[name], comparing, only, listed)
                for page, files in comparing.pages([c for c in clusters if c > mark.after], pace):
                    self._total += files
                    mark = Mark(json.loads(page.cursor)[0], mark.removed, self._total)
                    yield Page(str(mark), page.items, page.skipped, page.results, page.failures)
        yield from self._removal_pages(mark)

    def _wanted(self, listed: list[str], comparing: _Comparing, only: list[str] | None, all_: list[str]) -> list[str]:
        """The clusters to compare: those of the bucket, and those that only the branch still has."""
        if self._layout.branch_per_cluster:
            return listed
        there = [c for c in comparing.trees if self._layout.takes_cluster(c)]
        if not all_ and there:
            what = f"{self._bucket} is listed without a single cluster, while the branch has {len(there)}"
            raise SynclineError("LISTING_INCOMPLETE", what)
        return sorted({*listed, *(c for c in there if only is None or c in only)})

    def _listed_clusters(self) -> tuple[list[str], list[str]]:
        """The clusters that the bucket has objects of, and the keys that lie in none."""
        clusters: list[str] = []
        loose: list[str] = []
        prefix = self._layout.prefix
        for page in self._bucket.pages(prefix, delimiter="/"):
            clusters += [p[len(prefix) : -1] for p in page.prefixes]
            loose += [each.key for each in page.objects if not each.key.endswith("/")]
        return sorted(c for c in clusters if c and self._layout.takes_cluster(c)), loose

    def _loose(self, keys: Sequence[str]) -> Iterator[Page]:
        results = [
            _refused(
                Item(self._layout.branch, key),
                SynclineError("PATH_REFUSED", f"{shown(key)} does not lie in the folder of a cluster"),
            )
            for key in keys
        ]
        for at in range(0, len(results), PAGE_ITEMS):
            yield Page(str(Mark()), results=tuple(results[at : at + PAGE_ITEMS]))

    def _tree_clusters(self, branch: Branch) -> dict[str, Entry]:
        root = self._layout.folder.encode()
        entries = branch.folders([root])[root]
        return {name.decode("utf-8", "replace"): e for name, e in entries.items() if e.is_folder}

    def listing(self, cluster: str) -> Listing:
        """All objects of a cluster that belong to the sync."""
        found = Listing(cluster)
        try:
            for page in self._bucket.pages(f"{self._layout.prefix}{cluster}/"):
                for each in page.objects:
                    if self._layout.takes(each.key):
                        found.objects[each.key] = (each.etag, each.size)
        except SynclineError as error:
            found.error = error
        return found

    def plan_removals(self, cluster: str, files: int, items: list[Item]) -> None:
        """Note what is gone from a cluster that has ``files`` files at the target; it is sent on at the end."""
        self._removals.append((cluster, files, items))

    def _removal_pages(self, mark: Mark) -> Iterator[Page]:
        caps = self._rules.caps
        allowed: list[Item] = []
        results: list[Result] = []
        for cluster, files, items in self._removals:
            if caps.allows(len(items), files):
                allowed += items
            else:
                results += _capped(items, f"{len(items)} of the {files} files of {cluster}")
        if not caps.allows(mark.removed + len(allowed), self._total):
            results += _capped(allowed, f"{mark.removed + len(allowed)} of {self._total} files")
            allowed = []
        mark = Mark(mark.after, mark.removed + len(allowed), self._total)
        allowed.sort(key=lambda item: item.group)
        for at in range(0, len(results), PAGE_ITEMS):
            yield Page(str(mark), results=tuple(results[at : at + PAGE_ITEMS]))
        for at in range(0, len(allowed), PAGE_ITEMS):
            yield Page(str(mark), tuple(allowed[at : at + PAGE_ITEMS]))

    @property
    def rules(self) -> Rules:
        return self._rules

    @property
    def memory(self) -> Memory:
        return self._memory


class _Comparing:
    """Compares clusters of one branch with their listings."""

    def __init__(self, look: Look, branch: Branch, trees: dict[str, Entry], after: str) -> None:
        self._look = look
        self._layout = look.rules.layout
        self._branch = branch
        self._done = Mark(after)
        self.trees = trees

    def pages(self, clusters: Sequence[str], pace: Pace) -> Iterator[tuple[Page, int]]:
        """Pages in the order of clusters, each with the number of files the target had of what it is about."""
        taken: dict[str, str] = {folded(cluster): cluster for cluster in self.trees}
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
            ahead: list[Future[tuple[Listing, dict[str, Known]]]] = []
            waiting = iter(clusters)
            try:
                while not pace.over:
                    while len(ahead) < AT_ONCE and (cluster := next(waiting, None)) is not None:
                        ahead.append(pool.submit(self._gather, cluster))
                    if not ahead:
                        return
                    listing, known = ahead.pop(0).result()
                    other = taken.setdefault(folded(listing.cluster), listing.cluster)
                    if other != listing.cluster:
                        yield self._refuse_all(listing, other), 0
                    else:
                        yield from self._compare(listing, known)
                    self._done = Mark(listing.cluster)
            finally:
                for future in ahead:
                    future.cancel()

    def _gather(self, cluster: str) -> tuple[Listing, dict[str, Known]]:
        listing = self._look.listing(cluster)
        known = {} if listing.error else self._look.memory.known(self._look.rules.place, cluster)
        return listing, known

    def _refuse_all(self, listing: Listing, other: str) -> Page:
        what = f"the cluster {listing.cluster!r} is the same as {other!r} on some systems"
        error = SynclineError("PATH_COLLIDES", what)
        group = self._layout.branch_of(listing.cluster)
        return Page(str(Mark(listing.cluster)), results=tuple(_refused(Item(group, k), error) for k in listing.objects))

    def _compare(self, listing: Listing, known: dict[str, Known]) -> Iterator[tuple[Page, int]]:
        cluster, mark = listing.cluster, str(Mark(listing.cluster))
        group = self._layout.branch_of(cluster)
        if listing.error is not None:
            yield Page(mark, failures=(Failure(Item(f"{cluster}/", "*"), listing.error),)), 0
            return
        current = {
            key: was for key, (etag, _) in listing.objects.items() if (was := known.get(key)) and was.etag == etag
        }
        if len(current) != len(known):
            self._look.memory.settle(self._look.rules.place, cluster, current)
        tree = self.trees.get(cluster)
        if len(current) == len(listing.objects) and tree is not None and self._tree_of(cluster, current) == tree.oid:
            yield Page(mark, skipped=len(current)), len(current)
            return
        there = self._files(cluster, tree)
        found = self._by_file(listing, current, there)
        gone = [
            Item(group, self._layout.key_of(path), None, blob, None, {"remove": True})
            for path, blob in there.items()
            if self._layout.takes(self._layout.key_of(path))
        ]
        files = found.skipped + len(gone) + sum(item.target is not None for item in found.items)
        if gone:
            self._look.plan_removals(cluster, files, gone)
        # Only the last page is behind the cluster: what goes on from one before it sees the cluster again.
        before = str(self._done)
        for at in range(0, len(found.items), PAGE_ITEMS):
            yield Page(before, found.items[at : at + PAGE_ITEMS]), 0
        for at in range(0, len(found.results), PAGE_ITEMS):
            yield Page(before, results=found.results[at : at + PAGE_ITEMS]), 0
        yield Page(mark, skipped=found.skipped), files

    def _by_file(self, listing: Listing, current: dict[str, Known], there: dict[str, str]) -> Page:
        """A cluster file by file; what the listing has leaves ``there``."""
        group = self._layout.branch_of(listing.cluster)
        names = Names()
        for path in there:
            if self._layout.key_of(path) in listing.objects:
                names.add(path)
        items: list[Item] = []
        results: list[Result] = []
        skipped = 0
        for key in sorted(listing.objects, key=str.encode):
            etag, size = listing.objects[key]
            path = self._layout.path_of(key)
            here, was = there.pop(path, None), current.get(key)
            error = refusal(path, names)
            if error is not None:
                results.append(_refused(Item(group, key, etag, here, size), error))
            elif was is not None and was.blob == (here or ""):
                skipped += 1
            else:
                items.append(Item(group, key, etag, here, size))
        return Page("", tuple(items), skipped, tuple(results))

    def _tree_of(self, cluster: str, current: dict[str, Known]) -> str:
        """The id of the tree that these objects make."""
        skip = len(self._layout.prefix) + len(cluster) + 1
        return tree_id((key[skip:].encode(), was.blob) for key, was in current.items() if was.blob)

    def _files(self, cluster: str, tree: Entry | None) -> dict[str, str]:
        """The files that the branch has of a cluster: paths and blobs."""
        if tree is None:
            return {}
        path = self._layout.cluster_path(cluster).encode()
        found = self._branch.files(path, tree.oid)
        return {path.decode("utf-8", "surrogateescape"): entry.oid for path, entry in found}


def _refused(item: Item, error: SynclineError) -> Result:
    code, why = error.code.name, error.what
    return Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, code, why)


def _capped(items: Sequence[Item], how_many: str) -> list[Result]:
    error = SynclineError("REMOVALS_CAPPED", f"{how_many} would be removed, more than the sync allows")
    return [_refused(item, error) for item in items]
