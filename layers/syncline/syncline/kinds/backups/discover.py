"""Looking: which objects of the bucket differ from the branch, cluster by cluster.

A full look lists the bucket and asks nothing of single objects. From the memory it takes which blob each listed object
became, and computes the tree that a cluster then has; where the branch has that very tree, the whole cluster is equal.
Only the others are compared file by file. What was hinted at is not looked at here at all: it goes on, and is read.

What is gone is planned over all clusters (:mod:`.planning`), and only then sent on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from syncline.clients.git.objects import Entry, text_of, tree_id, unfit_branch
from syncline.clients.git.repository import Branch
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import Open, Rules
from syncline.kinds.backups.compare import Comparison
from syncline.kinds.backups.memory import Memory
from syncline.kinds.backups.odd import results_of
from syncline.kinds.backups.ours import Evidence, Ledger, Ours, check_listing
from syncline.kinds.backups.paths import Layout, folded, shown
from syncline.kinds.backups.reading import Clusters, Listing, clusters_in, listing_of
from syncline.kinds.backups.removals import Compared, Limiter, Mark, Source, planned, refused
from syncline.kinds.kind import Failure, Page, StepContext
from syncline.model import Item, Result, Scope
from syncline.store.backup_records import Known

AT_ONCE: Final = 4
"""Clusters listed at a time."""
SHARE: Final = 2000
"""Items in one message, and so in one commit, at most."""
SIZE: Final = 150_000
"""Characters of the names in one message: it is kept in an item of the table, too."""
RESULTS: Final = 400


class _Portions:
    """Collects the findings of clusters into pages, each as large as one commit may be, so that a scan makes few commits.

    The items of a branch are adjacent in a page. A page is cut between two branches unless one branch alone exceeds it.
    The cursor of a page is behind the last cluster all of which is in it or before it.
    """

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._results: list[Result] = []
        self._failures: list[Failure] = []
        self._skipped = 0
        self._left_out = 0
        self._extra = 0

    def add(self, page: Page, mark: Mark) -> Iterator[Page]:
        """Take a page in; pages that are full come out, with ``mark`` as their cursor."""
        self._items += page.items
        while (count := self._full()) is not None:
            yield self._page(mark, count)
        # Only now: a page that goes out with some items only is one that may be come back to.
        self._results += page.results
        self._failures += page.failures
        self._skipped += page.equal
        self._left_out += page.left_out
        self._extra += page.extra
        while len(self._results) >= RESULTS:
            yield self._page(mark, 0)

    def rest(self, mark: Mark) -> Iterator[Page]:
        """Yield the last page."""
        yield self._page(mark, len(self._items))

    def _full(self) -> int | None:
        """Return the number of items that make a page, or None if there are too few."""
        size, cut = 0, 0
        for count, item in enumerate(self._items, 1):
            if count > 1 and item.group != self._items[count - 2].group:
                cut = count - 1
            size += len(item.name) + len(item.group)
            if count == SHARE or size >= SIZE:
                return cut or count
        return None

    def _page(self, mark: Mark, items: int) -> Page:
        branches: dict[str, list[Item]] = defaultdict(list)
        for item in self._items[:items]:
            branches[item.group].append(item)
        page = Page(
            str(mark),
            tuple(chain.from_iterable(branches.values())),
            self._skipped,
            tuple(self._results[:RESULTS]),
            tuple(self._failures),
            left_out=self._left_out,
            extra=self._extra,
        )
        del self._items[:items], self._results[:RESULTS]
        self._failures, self._skipped, self._left_out, self._extra = [], 0, 0, 0
        return page


def _told(results: Sequence[Result]) -> Iterator[Page]:
    for at in range(0, len(results), RESULTS):
        yield Page("", results=tuple(results[at : at + RESULTS]))


class Look:
    """One look of one sync."""

    def __init__(self, rules: Rules, bucket: Bucket, memory: Memory, ledger: Ledger, open_: Open) -> None:
        self._rules = rules
        self._ledger = ledger
        self._layout: Layout = rules.layout
        self._bucket = bucket
        self._memory = memory
        self._open = open_

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """What differs; a cursor is a :class:`Mark`."""
        mark = Mark.parse(cursor)
        if scope.groups is None:
            yield from self._clusters(None, mark, context)
            return
        keys = [group for group in scope.groups if not group.endswith("/")]
        yield from self._hinted(keys, mark)
        prefixes = [group for group in scope.groups if group.endswith("/")]
        if prefixes:
            for page in self._clusters(sorted({p.partition("/")[0] for p in prefixes}), mark, context):
                yield replace(page, cursor=str(replace(Mark.parse(page.cursor), hinted=len(keys))))

    def _hinted(self, keys: Sequence[str], mark: Mark) -> Iterator[Page]:
        """Yield the items of keys, then the results of those whose branch cannot be, behind as many as were sent on."""
        items = [
            Item(self._layout.branch_of(cluster), key)
            for key in keys
            if self._layout.takes(key) and (cluster := self._layout.cluster_of(key)) is not None
        ]
        items.sort(key=lambda item: (item.group, item.name))
        odd = {item.group: error for item in items if (error := unfit_branch(item.group)) is not None}
        fit = [item for item in items if item.group not in odd]
        results = [refused(item, odd[item.group]) for item in items if item.group in odd]
        sent, portions = mark.hinted, _Portions()
        left = tuple(results[max(0, sent - len(fit)) :])
        for page in chain(portions.add(Page("", tuple(fit[sent:])), mark), portions.rest(mark), _told(left)):
            sent += len(page.items) + len(page.results)
            yield replace(page, cursor=str(replace(mark, hinted=sent)))

    # -- a full look ---------------------------------------------------------------------------------------------

    def _clusters(self, only: list[str] | None, mark: Mark, context: StepContext) -> Iterator[Page]:
        source_clusters = clusters_in(self._bucket, self._layout)
        listed = source_clusters.names
        portions = _Portions()
        if context.named and only is not None and not mark.after and not source_clusters.odd:
            absent = (Failure(Item(f"{name}/", "*"), self._absent(name)) for name in only if name not in listed)
            yield from portions.add(Page("", failures=tuple(absent)), mark)
        if only is None and not mark.after:
            unread = results_of(source_clusters.odd, self._layout.branch, lambda _: True).values()
            yield from portions.add(Page("", results=(*self._loose(source_clusters.loose), *unread)), mark)
        if self._layout.branch_per_cluster:
            all_ = {*listed, *self._branched(source_clusters, context)}
            wanted = sorted(all_ if only is None else all_ & {*only})
            branches = {self._layout.branch_of(cluster): [cluster] for cluster in wanted}
            odd = {name: error for name in branches if (error := unfit_branch(name)) is not None}
            results = tuple(refused(Item(name, f"{branches.pop(name)[0]}/"), error) for name, error in odd.items())
            if not mark.after:
                yield from portions.add(Page("", results=results), mark)
        else:
            branches = {self._layout.branch: listed if only is None else only}

        def compare(takes: Callable[[str], bool]) -> Iterator[Compared]:
            for name in sorted(branches, key=lambda name: branches[name][:1]):
                if context.over:
                    return
                if not self._layout.branch_per_cluster or any(map(takes, branches[name])):
                    with self._open(name, context) as branch:
                        evidence = self._evidence(branch, context)
                        branch.fetch()
                        comparing = _Comparing(self, branch, self._tree_clusters(branch), evidence, listed)
                        clusters = self._wanted(branches[name], comparing, only, source_clusters)
                        yield from comparing.pages([c for c in clusters if takes(c)], context)

        limiter = Limiter(self._rules.sync, self._rules.limits, self._ledger, context)
        source = Source(
            lambda: listed, self._has, None if only is None else lambda: self._ledger.count({*listed, *only})
        )
        for found in planned(compare, limiter, source, mark):
            yield from portions.add(found.page, found.before)
            mark = found.behind
        yield from portions.rest(mark)

    def _has(self, key: str) -> bool:
        return self._bucket.head(key) is not None

    def _evidence(self, branch: Branch, context: StepContext) -> Evidence:
        rules = self._rules
        return Evidence(rules.sync, rules.reference(branch.name), self._layout, self._ledger, branch, context)

    def _wanted(self, listed: list[str], comparing: _Comparing, only: list[str] | None, all_: Clusters) -> list[str]:
        """The clusters to compare: those of the bucket, and those that only the branch has."""
        if self._layout.branch_per_cluster:
            return listed
        there = self._believed(all_, list(comparing.trees))
        return sorted({*listed, *(c for c in there if only is None or c in only)})

    def _branched(self, found: Clusters, context: StepContext) -> list[str]:
        """The clusters that have a branch of their own: that of one that vanished is looked at, too."""
        with self._open(self._layout.branch, context) as branch:
            names = branch.heads(self._layout.branch_of("*"))
        there = (self._layout.cluster_of_branch(name) for name in names)
        return self._believed(found, [cluster for cluster in there if cluster is not None])

    def _believed(self, found: Clusters, there: list[str]) -> list[str]:
        """Return the clusters of the target that the sync selects; see :func:`check_listing`."""
        there = [cluster for cluster in there if self._layout.takes_cluster(cluster)]
        check_listing(self._bucket, self._layout, found, there, self._ledger)
        return there

    def _absent(self, cluster: str) -> SynclineError:
        where = f"{self._bucket}, below {self._layout.prefix!r}" if self._layout.prefix else str(self._bucket)
        return SynclineError("SOURCE_ABSENT", f"{where} has no cluster {shown(cluster)}")

    def _loose(self, keys: Sequence[str]) -> Iterator[Result]:
        for key in keys:
            error = SynclineError("PATH_REFUSED", f"{shown(key)} does not lie in the folder of a cluster")
            yield refused(Item(self._layout.branch, key), error)

    def _tree_clusters(self, branch: Branch) -> dict[str, Entry]:
        root = self._layout.folder.encode()
        entries = branch.folders([root])[root]
        named = ((text_of(name), entry) for name, entry in entries.items() if entry.is_folder)
        return {name: entry for name, entry in named if name is not None}

    def listing(self, cluster: str, *, listed: bool) -> Listing:
        return listing_of(self._bucket, self._layout, cluster, listed=listed)

    @property
    def rules(self) -> Rules:
        return self._rules

    @property
    def memory(self) -> Memory:
        return self._memory

    @property
    def ledger(self) -> Ledger:
        return self._ledger


@dataclass(frozen=True, slots=True)
class _Gathered:
    """A cluster as the bucket lists it, what is known of its objects, and the records of its files."""

    listing: Listing
    known: dict[str, Known]
    rows: dict[str, Ours]


class _Comparing:
    """Compares clusters of one branch with their listings.

    ``listed`` are all clusters of the source.
    """

    def __init__(
        self, look: Look, branch: Branch, trees: dict[str, Entry], evidence: Evidence, listed: Sequence[str]
    ) -> None:
        self._look = look
        self._layout = look.rules.layout
        self._branch = branch
        self._evidence = evidence
        self._listed = frozenset(listed)
        self._alike: dict[str, set[str]] = defaultdict(set)
        for cluster in listed:
            self._alike[folded(cluster)].add(cluster)
        self.trees = trees

    def pages(self, clusters: Sequence[str], context: StepContext) -> Iterator[Compared]:
        """What each cluster comes to, in order."""
        taken = {folded(cluster): cluster for cluster in self.trees if self._is_taken(cluster)}
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
            ahead: list[Future[_Gathered]] = []
            waiting = iter(clusters)
            try:
                while not context.over:
                    while len(ahead) < AT_ONCE and (cluster := next(waiting, None)) is not None:
                        ahead.append(pool.submit(self._gather, cluster))
                    if not ahead:
                        return
                    gathered = ahead.pop(0).result()
                    cluster = gathered.listing.cluster
                    other = taken.setdefault(folded(cluster), cluster) if cluster in self._listed else cluster
                    if other != cluster:
                        yield Compared(cluster, self._refuse_all(gathered.listing, other))
                    else:
                        yield self._compare(gathered, context)
            finally:
                for future in ahead:
                    future.cancel()

    def _is_taken(self, cluster: str) -> bool:
        """Return False if a folder of the tree is foreign, so that it blocks no cluster of a similar name."""
        alike = self._alike[folded(cluster)]
        return alike <= {cluster} or cluster in self._listed or self._look.ledger.has(cluster)

    def _gather(self, cluster: str) -> _Gathered:
        listing = self._look.listing(cluster, listed=cluster in self._listed)
        if listing.error is not None:
            return _Gathered(listing, {}, {})
        known = self._look.memory.known(self._look.rules.place, cluster)
        return _Gathered(listing, known, self._look.ledger.of(cluster))

    def _refuse_all(self, listing: Listing, other: str) -> Page:
        what = f"the cluster {listing.cluster!r} is the same as {other!r} on some systems"
        error = SynclineError("PATH_COLLIDES", what)
        group = self._layout.branch_of(listing.cluster)
        return Page("", results=tuple(refused(Item(group, k), error) for k in listing.objects))

    def _compare(self, gathered: _Gathered, context: StepContext) -> Compared:
        listing, known, rows = gathered.listing, gathered.known, gathered.rows
        cluster = listing.cluster
        if listing.error is not None:
            return Compared(cluster, Page("", failures=(Failure(Item(f"{cluster}/", "*"), listing.error),)))
        current = {
            key: was for key, (etag, _) in listing.objects.items() if (was := known.get(key)) and was.etag == etag
        }
        if len(current) != len(known) and not context.plan:
            self._look.memory.settle(self._look.rules.place, cluster, current)
        tree = self.trees.get(cluster)
        group = self._layout.branch_of(cluster)
        odd = results_of(listing.odd, group, self._layout.takes)
        side = Comparison(self._layout, group, listing.objects, current, rows, self._evidence.has, odd, context.asked)
        if len(current) == len(listing.objects) and tree is not None and self._tree_of(cluster, current) == tree.oid:
            page = side.all_equal()
        else:
            page = side.compared(self._files(cluster, tree))
        if side.learned and not context.plan:
            self._look.ledger.write(side.learned)
        return Compared(cluster, page, side.ours, side.gone, cluster not in self._listed)

    def _tree_of(self, cluster: str, current: dict[str, Known]) -> str:
        """The id of the tree that these objects make."""
        skip = len(self._layout.prefix) + len(cluster) + 1
        return tree_id((key[skip:].encode(), was.blob) for key, was in current.items() if was.blob)

    def _files(self, cluster: str, tree: Entry | None) -> dict[str, str]:
        """Return the fingerprints of the files that the branch has of a cluster, by key. Names that are not UTF-8 are nobody's."""
        if tree is None:
            return {}
        path = self._layout.cluster_path(cluster).encode()
        named = ((text_of(path), entry.fingerprint) for path, entry in self._branch.files(path, tree.oid))
        return {self._layout.key_of(path): mark for path, mark in named if path is not None and mark is not None}
