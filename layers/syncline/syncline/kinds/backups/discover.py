"""The step discover: find the objects of the bucket that differ from the branch, cluster by cluster.

A full scan lists the bucket and requests no single objects. From the index it takes the blob that each listed object
became, and computes the tree that the cluster then has; if the branch has that tree, the complete cluster is equal. Only
other clusters are compared file by file (:mod:`.compare`). Keys that an event named are not compared here: they are
sent on, and read by the commit.

Gone files are collected over all clusters (:mod:`.removals`), and only then sent on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from syncline.clients.git.objects import branch_name_error, decode_name, tree_id
from syncline.clients.git.repository import RemoteBranch
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import OpenBranch, SyncSettings, cluster_trees
from syncline.kinds.backups.compare import Comparison, cluster_failure, invalid_entry_results
from syncline.kinds.backups.ownership import BranchEvidence, OwnedFile, OwnedFiles, check_listing
from syncline.kinds.backups.paths import Layout, folded, shown
from syncline.kinds.backups.removals import ComparedCluster, Limiter, ScanCursor, SourceView, plan_removals
from syncline.kinds.backups.source import (
    ClusterListing,
    Index,
    ObjectListing,
    failed_result,
    list_clusters,
    list_objects,
    map_ahead,
)
from syncline.kinds.kind import Page, StepContext
from syncline.model import Item, Result, Scope
from syncline.store.backup_records import IndexEntry

AT_ONCE: Final = 4  # clusters listed at a time
SHARE: Final = 2000  # most items in one message, and so in one commit
MESSAGE_SIZE: Final = 150_000  # most characters of names in one message, which is also stored in an item of the table
RESULTS: Final = 400  # most results in one page


@dataclass(frozen=True, slots=True)
class BackupScan:
    """Scans of one sync."""

    settings: SyncSettings
    bucket: Bucket
    index: Index
    owned: OwnedFiles
    open_branch: OpenBranch

    @property
    def layout(self) -> Layout:
        return self.settings.layout

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield the differences. `cursor` is a :class:`ScanCursor` as text."""
        at = ScanCursor.parse(cursor)
        if scope.groups is None:
            yield from self._clusters(None, at, context)
            return
        keys = [group for group in scope.groups if not group.endswith("/")]
        yield from self._keys(keys, at)
        prefixes = [group for group in scope.groups if group.endswith("/")]
        if prefixes:
            for page in self._clusters(sorted({p.partition("/")[0] for p in prefixes}), at, context):
                yield replace(page, cursor=str(replace(ScanCursor.parse(page.cursor), hinted=len(keys))))

    def _keys(self, keys: Sequence[str], at: ScanCursor) -> Iterator[Page]:
        """Yield the items of keys, then failed results of keys whose branch name is invalid, behind the cursor."""
        items = [
            Item(self.layout.branch_of(cluster), key)
            for key in keys
            if self.layout.takes(key) and (cluster := self.layout.cluster_of(key)) is not None
        ]
        items.sort(key=lambda item: (item.group, item.name))
        errors = {item.group: error for item in items if (error := branch_name_error(item.group)) is not None}
        valid = [item for item in items if item.group not in errors]
        failed = [failed_result(item, errors[item.group]) for item in items if item.group in errors]
        sent, pages = at.hinted, _PageBuilder()
        left = failed[max(0, sent - len(valid)) :]
        parts = (Page("", results=tuple(left[n : n + RESULTS])) for n in range(0, len(left), RESULTS))
        for page in chain(pages.add(Page("", tuple(valid[sent:])), at), pages.rest(at), parts):
            sent += len(page.items) + len(page.results)
            yield replace(page, cursor=str(replace(at, hinted=sent)))

    def _clusters(self, only: list[str] | None, at: ScanCursor, context: StepContext) -> Iterator[Page]:
        """Scan all clusters, or `only` these."""
        source = list_clusters(self.bucket, self.layout)
        pages = _PageBuilder()
        if not at.after:
            yield from pages.add(self._listing_page(source, only, context), at)
        if self.layout.branch_per_cluster:
            every = {*source.names, *self._clusters_with_branch(source, context)}
            branches = {
                self.layout.branch_of(name): [name] for name in sorted(every if only is None else every & {*only})
            }
            errors = {name: error for name in branches if (error := branch_name_error(name)) is not None}
            failed = tuple(
                failed_result(Item(name, f"{branches.pop(name)[0]}/"), error) for name, error in errors.items()
            )
            if not at.after:
                yield from pages.add(Page("", results=failed), at)
        else:
            branches = {self.layout.branch: source.names if only is None else only}

        def compare(takes: Callable[[str], bool]) -> Iterator[ComparedCluster]:
            for name in sorted(branches, key=lambda name: branches[name][:1]):
                if context.over:
                    return
                if not self.layout.branch_per_cluster or any(map(takes, branches[name])):
                    with self.open_branch(name, context) as branch:
                        scan = _BranchScan(self, branch, source, context)
                        clusters = self._with_clusters_of_branch(branches[name], scan, only, source)
                        yield from scan.compare([cluster for cluster in clusters if takes(cluster)])

        limiter = Limiter(self.settings.sync, self.settings.limits, self.owned, context)
        total = None if only is None else lambda: self.owned.count({*source.names, *only})
        view = SourceView(lambda: source.names, lambda key: self.bucket.head(key) is not None, total)
        for page, before, behind in plan_removals(compare, limiter, view, at):
            yield from pages.add(page, before)
            at = behind
        yield from pages.rest(at)

    def _listing_page(self, source: ClusterListing, only: list[str] | None, context: StepContext) -> Page:
        """Return the page of what the list of clusters shows: missing named clusters, stray keys, invalid entries."""
        if only is None:
            what = "is not in the folder of a cluster"
            errors = ((key, SynclineError("PATH_REFUSED", f"{shown(key)} {what}")) for key in source.stray)
            stray = (failed_result(Item(self.layout.branch, key), error) for key, error in errors)
            invalid = invalid_entry_results(source.invalid, self.layout.branch, lambda _: True)
            return Page("", results=(*stray, *invalid.values()))
        missing = [name for name in only if name not in source.names] if context.named and not source.invalid else []
        where = f"{self.bucket}, below {self.layout.prefix!r}," if self.layout.prefix else str(self.bucket)
        errors = ((name, SynclineError("SOURCE_ABSENT", f"{where} has no cluster {shown(name)}")) for name in missing)
        return Page("", failures=tuple(cluster_failure(name, error) for name, error in errors))

    def _with_clusters_of_branch(
        self, listed: list[str], scan: _BranchScan, only: list[str] | None, source: ClusterListing
    ) -> list[str]:
        """Return the listed clusters and those that only the branch has."""
        if self.layout.branch_per_cluster:
            return listed
        at_target = self._checked(source, list(scan.trees))
        return sorted({*listed, *(cluster for cluster in at_target if only is None or cluster in only)})

    def _clusters_with_branch(self, source: ClusterListing, context: StepContext) -> list[str]:
        """Return the clusters that have their own branch, also those that vanished from the source."""
        with self.open_branch(self.layout.branch, context) as branch:
            names = branch.heads(self.layout.branch_of("*"))
        clusters = (self.layout.cluster_of_branch(name) for name in names)
        return self._checked(source, [cluster for cluster in clusters if cluster is not None])

    def _checked(self, source: ClusterListing, at_target: list[str]) -> list[str]:
        """Return the clusters of the target that the sync selects; see :func:`check_listing`."""
        at_target = [cluster for cluster in at_target if self.layout.takes_cluster(cluster)]
        check_listing(self.bucket, self.layout, source, at_target, self.owned)
        return at_target


_ClusterState = tuple[ObjectListing, dict[str, IndexEntry], dict[str, OwnedFile]]
"""A cluster as the bucket lists it, the index entries of its objects, and the records of its files."""


class _BranchScan:
    """Fetches one branch and compares its clusters with their listings."""

    def __init__(self, scan: BackupScan, branch: RemoteBranch, source: ClusterListing, context: StepContext) -> None:
        settings = scan.settings
        self._scan = scan
        self._layout = settings.layout
        self._context = context
        self._branch = branch
        reference = settings.reference(branch.name)
        self._evidence = BranchEvidence(settings.sync, reference, self._layout, scan.owned, branch, context)
        branch.fetch()
        self.trees = cluster_trees(branch, self._layout)
        self._listed = frozenset(source.names)
        self._alike: dict[str, set[str]] = defaultdict(set)
        for cluster in source.names:
            self._alike[folded(cluster)].add(cluster)

    def compare(self, clusters: Sequence[str]) -> Iterator[ComparedCluster]:
        """Compare clusters in order, while there is time."""
        taken = {folded(cluster): cluster for cluster in self.trees if self._is_taken(cluster)}
        for state in map_ahead(self._load, clusters, AT_ONCE, AT_ONCE, lambda: self._context.over):
            cluster = state[0].cluster
            other = taken.setdefault(folded(cluster), cluster) if cluster in self._listed else cluster
            if other != cluster:
                yield ComparedCluster(cluster, self._collision_page(state[0], other))
            else:
                yield self._compare(*state)
            if self._context.over:
                return

    def _is_taken(self, cluster: str) -> bool:
        """Return False if a folder of the tree is foreign, so that it blocks no cluster of a similar name."""
        alike = self._alike[folded(cluster)]
        return alike <= {cluster} or cluster in self._listed or self._scan.owned.has(cluster)

    def _load(self, cluster: str) -> _ClusterState:
        scan = self._scan
        listing = list_objects(scan.bucket, self._layout, cluster, listed=cluster in self._listed)
        if listing.error is not None:
            return listing, {}, {}
        return listing, scan.index.entries(scan.settings.source_id, cluster), scan.owned.of(cluster)

    def _collision_page(self, listing: ObjectListing, other: str) -> Page:
        what = f"the cluster {listing.cluster!r} is the same as {other!r} on some file systems"
        error = SynclineError("PATH_COLLIDES", what)
        group = self._layout.branch_of(listing.cluster)
        return Page("", results=tuple(failed_result(Item(group, key), error) for key in listing.objects))

    def _compare(
        self, listing: ObjectListing, entries: dict[str, IndexEntry], rows: dict[str, OwnedFile]
    ) -> ComparedCluster:
        scan, context = self._scan, self._context
        cluster, objects = listing.cluster, listing.objects
        if listing.error is not None:
            return ComparedCluster(cluster, Page("", failures=(cluster_failure(cluster, listing.error),)))
        current = {
            key: entry
            for key, listed in objects.items()
            if (entry := entries.get(key)) is not None and entry.etag == listed.etag
        }
        if len(current) != len(entries) and not context.plan:
            scan.index.replace(scan.settings.source_id, cluster, current)
        tree = self.trees.get(cluster)
        group = self._layout.branch_of(cluster)
        invalid = invalid_entry_results(listing.invalid, group, self._layout.takes)
        comparison = Comparison(self._layout, group, objects, current, rows, self._evidence.has, invalid, context.asked)
        if len(current) == len(objects) and tree is not None and self._tree_id(cluster, current) == tree:
            page = comparison.all_equal()
        else:
            page = comparison.compared(self._files(cluster, tree))
        if comparison.learned and not context.plan:
            scan.owned.write(comparison.learned)
        return ComparedCluster(cluster, page, comparison.ours, comparison.gone, cluster not in self._listed)

    def _tree_id(self, cluster: str, entries: dict[str, IndexEntry]) -> str:
        """Return the ID of the tree that these objects make."""
        skip = len(self._layout.prefix) + len(cluster) + 1
        return tree_id((key[skip:].encode(), entry.blob) for key, entry in entries.items() if entry.blob)

    def _files(self, cluster: str, tree: str | None) -> dict[str, str]:
        """Return the fingerprints of a cluster's files on the branch by key, without names that are not UTF-8."""
        if tree is None:
            return {}
        path = self._layout.cluster_path(cluster).encode()
        named = ((decode_name(path), entry.fingerprint) for path, entry in self._branch.files(path, tree))
        return {self._layout.key_of(path): mark for path, mark in named if path is not None and mark is not None}


class _PageBuilder:
    """Collects the pages of clusters into pages as large as one commit may be, so that a scan makes few commits.

    The items of a branch are adjacent in a page. A page is cut between two branches unless one branch alone exceeds it.
    The cursor of a page is behind the last cluster that is completely in it or before it.
    """

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._results: list[Result] = []
        self._rest = Page("")  # failures and counts

    def add(self, page: Page, cursor: ScanCursor) -> Iterator[Page]:
        """Add a page; yield pages that are full, with `cursor`."""
        self._items += page.items
        while (count := self._full()) is not None:
            yield self._page(cursor, count)
        # Only now: a scan may continue before a page that went out with some of the items, and would count these twice.
        rest = self._rest
        failures, left_out = (*rest.failures, *page.failures), rest.left_out + page.left_out
        self._rest = Page("", (), rest.equal + page.equal, (), failures, left_out, rest.extra + page.extra)
        self._results += page.results
        while len(self._results) >= RESULTS:
            yield self._page(cursor, 0)

    def rest(self, cursor: ScanCursor) -> Iterator[Page]:
        """Yield the last page."""
        yield self._page(cursor, len(self._items))

    def _full(self) -> int | None:
        """Return the number of items that make a page, or None if there are too few."""
        size, cut = 0, 0
        for count, item in enumerate(self._items, 1):
            if count > 1 and item.group != self._items[count - 2].group:
                cut = count - 1
            size += len(item.name) + len(item.group)
            if count == SHARE or size >= MESSAGE_SIZE:
                return cut or count
        return None

    def _page(self, cursor: ScanCursor, items: int) -> Page:
        branches: dict[str, list[Item]] = defaultdict(list)
        for item in self._items[:items]:
            branches[item.group].append(item)
        by_branch, results = tuple(chain.from_iterable(branches.values())), tuple(self._results[:RESULTS])
        page = replace(self._rest, cursor=str(cursor), items=by_branch, results=results)
        del self._items[:items], self._results[:RESULTS]
        self._rest = Page("")
        return page
