"""Looking: which objects of the bucket differ from the branch, cluster by cluster.

A full look lists the bucket and asks nothing of single objects. From the memory it takes which blob each listed object
became, and computes the tree that a cluster then has; where the branch has that very tree, the whole cluster is equal.
Only the others are compared file by file. What was hinted at is not looked at here at all: it goes on, and is read.

What is gone is planned over all clusters (:mod:`.planning`), and only then sent on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.clients.bucket import Bucket
from syncline.clients.entries import Odd
from syncline.clients.git_objects import Entry, text_of, tree_id, unfit_branch
from syncline.clients.git_repository import Branch
from syncline.errors import SynclineError
from syncline.kinds.backups.committing import Open, Rules
from syncline.kinds.backups.layout import Layout
from syncline.kinds.backups.memory import Known, Memory
from syncline.kinds.backups.odd import results_of
from syncline.kinds.backups.paths import Names, folded, refusal, shown
from syncline.kinds.backups.planning import Compared, Mark, planned, refused
from syncline.kinds.backups.sealing import staying
from syncline.kinds.kind import Failure, Pace, Page
from syncline.model import Item, Outcome, Result, Scope

AT_ONCE: Final = 4
"""Clusters listed at a time."""
SHARE: Final = 2000
"""Items in one message, and so in one commit, at most."""
SIZE: Final = 150_000
"""Characters of the names in one message: it is kept in an item of the table, too."""
RESULTS: Final = 400


@dataclass(slots=True)
class Listing:
    """A cluster as the bucket lists it: keys with ETag and size (bytes), and entries that cannot be used."""

    cluster: str
    objects: dict[str, tuple[str, int]] = field(default_factory=dict)
    odd: list[Odd] = field(default_factory=list)
    error: SynclineError | None = None


class _Portions:
    """Collects what clusters come to into pages, each as large as one commit may be: so one look is few commits.

    A page's cursor is behind the last cluster all of which is in it or before it.
    """

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._results: list[Result] = []
        self._failures: list[Failure] = []
        self._skipped = 0
        self._left_out = 0

    def add(self, page: Page, mark: Mark) -> Iterator[Page]:
        """Take a page in; pages that are full come out, with ``mark`` as their cursor."""
        self._items += page.items
        while (count := self._full()) is not None:
            yield self._page(mark, count)
        # Only now: a page that goes out with some items only is one that may be come back to.
        self._results += page.results
        self._failures += page.failures
        self._skipped += page.skipped
        self._left_out += page.left_out
        while len(self._results) >= RESULTS:
            yield self._page(mark, 0)

    def rest(self, mark: Mark) -> Iterator[Page]:
        """The last page."""
        yield self._page(mark, len(self._items))

    def _full(self) -> int | None:
        """How many items make a page, None if there are too few."""
        size = 0
        for count, item in enumerate(self._items, 1):
            size += len(item.name) + len(item.group)
            if count == SHARE or size >= SIZE:
                return count
        return None

    def _page(self, mark: Mark, items: int) -> Page:
        page = Page(
            str(mark),
            tuple(self._items[:items]),
            self._skipped,
            tuple(self._results[:RESULTS]),
            tuple(self._failures),
            self._left_out,
        )
        del self._items[:items], self._results[:RESULTS]
        self._failures, self._skipped, self._left_out = [], 0, 0
        return page


class Look:
    """One look of one sync."""

    def __init__(self, rules: Rules, bucket: Bucket, memory: Memory, open_: Open) -> None:
        self._rules = rules
        self._layout: Layout = rules.layout
        self._bucket = bucket
        self._memory = memory
        self._open = open_
        self._is_empty = False

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
        odd = {item.group: error for item in items if (error := unfit_branch(item.group)) is not None}
        results = tuple(refused(item, odd[item.group]) for item in items if item.group in odd)
        portions = _Portions()
        yield from portions.add(Page("", tuple(item for item in items if item.group not in odd), 0, results), Mark())
        yield from portions.rest(Mark())

    # -- a full look ---------------------------------------------------------------------------------------------

    def _clusters(self, only: list[str] | None, mark: Mark, pace: Pace) -> Iterator[Page]:
        listed, loose, unusable = self._listed_clusters()
        portions = _Portions()
        if pace.named and only is not None and not mark.after and not unusable:
            absent = (Failure(Item(f"{name}/", "*"), self._absent(name)) for name in only if name not in listed)
            yield from portions.add(Page("", failures=tuple(absent)), mark)
        if only is None and not mark.after:
            unread = results_of(unusable, self._layout.branch, lambda _: True).values()
            yield from portions.add(Page("", results=(*self._loose(loose), *unread)), mark)
        if self._layout.branch_per_cluster:
            all_ = {*listed, *self._branched(listed, pace)}
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
                if pace.over:
                    return
                if not self._layout.branch_per_cluster or any(map(takes, branches[name])):
                    with self._open(name, pace) as branch:
                        branch.fetch()
                        comparing = _Comparing(self, branch, self._tree_clusters(branch))
                        clusters = self._wanted(branches[name], comparing, only, listed)
                        yield from comparing.pages([c for c in clusters if takes(c)], pace)

        for found in planned(compare, self._rules.caps, mark, pace):
            yield from portions.add(found.page, found.before)
            mark = found.behind
        yield from portions.rest(mark)

    def _wanted(self, listed: list[str], comparing: _Comparing, only: list[str] | None, all_: list[str]) -> list[str]:
        """The clusters to compare: those of the bucket, and those that only the branch still has."""
        if self._layout.branch_per_cluster:
            return listed
        there = self._believed(all_, list(comparing.trees))
        return sorted({*listed, *(c for c in there if only is None or c in only)})

    def _branched(self, listed: list[str], pace: Pace) -> list[str]:
        """The clusters that have a branch of their own: that of one that vanished is looked at, too."""
        with self._open(self._layout.branch, pace) as branch:
            names = branch.heads(self._layout.branch_of("*"))
        found = (self._layout.cluster_of_branch(name) for name in names)
        return self._believed(listed, [cluster for cluster in found if cluster is not None])

    def _believed(self, listed: list[str], there: list[str]) -> list[str]:
        """The sync's clusters among those that the target has; LISTING_INCOMPLETE where the bucket seems to have none."""
        there = [cluster for cluster in there if self._layout.takes_cluster(cluster)]
        if not listed and there:
            what = f"{self._bucket} is listed without a single cluster, while the target has {len(there)}"
            raise SynclineError("LISTING_INCOMPLETE", what)
        if self._is_empty and self._layout.prefix:
            raise SynclineError("SOURCE_ABSENT", f"{self._bucket} has no object below {self._layout.prefix!r}")
        return there

    def _listed_clusters(self) -> tuple[list[str], list[str], list[Odd]]:
        """The clusters that the bucket has objects of, the keys that lie in none, and entries that cannot be used."""
        clusters: list[str] = []
        loose: list[str] = []
        odd: list[Odd] = []
        prefix = self._layout.prefix
        empty = True
        for page in self._bucket.pages(prefix, delimiter="/", odd=odd.append):
            clusters += [p[len(prefix) : -1] for p in page.prefixes]
            loose += [each.key for each in page.objects if not each.key.endswith("/")]
            empty = empty and not page.prefixes and not page.objects
        self._is_empty = empty and not odd
        return sorted(c for c in clusters if c and self._layout.takes_cluster(c)), loose, odd

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

    def listing(self, cluster: str) -> Listing:
        """All objects of a cluster that belong to the sync."""
        found = Listing(cluster)
        try:
            for page in self._bucket.pages(f"{self._layout.prefix}{cluster}/", odd=found.odd.append):
                for each in page.objects:
                    if self._layout.takes(each.key):
                        found.objects[each.key] = (each.etag, each.size)
        except SynclineError as error:
            found.error = error
        return found

    @property
    def rules(self) -> Rules:
        return self._rules

    @property
    def memory(self) -> Memory:
        return self._memory


class _Comparing:
    """Compares clusters of one branch with their listings."""

    def __init__(self, look: Look, branch: Branch, trees: dict[str, Entry]) -> None:
        self._look = look
        self._layout = look.rules.layout
        self._branch = branch
        self._asked: frozenset[tuple[str, str]] = frozenset()
        self.trees = trees

    def pages(self, clusters: Sequence[str], pace: Pace) -> Iterator[Compared]:
        """What each cluster comes to, in order."""
        self._asked = pace.asked
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
                        yield Compared(listing.cluster, self._refuse_all(listing, other))
                    else:
                        yield self._compare(listing, known)
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
        return Page("", results=tuple(refused(Item(group, k), error) for k in listing.objects))

    def _compare(self, listing: Listing, known: dict[str, Known]) -> Compared:
        cluster = listing.cluster
        group = self._layout.branch_of(cluster)
        if listing.error is not None:
            return Compared(cluster, Page("", failures=(Failure(Item(f"{cluster}/", "*"), listing.error),)))
        current = {
            key: was for key, (etag, _) in listing.objects.items() if (was := known.get(key)) and was.etag == etag
        }
        if len(current) != len(known):
            self._look.memory.settle(self._look.rules.place, cluster, current)
        odd = tuple(results_of(listing.odd, group, self._layout.takes).values())
        tree = self.trees.get(cluster)
        if len(current) == len(listing.objects) and tree is not None and self._tree_of(cluster, current) == tree.oid:
            stays = staying(group, current, self._asked)
            files = sum(bool(was.blob) for was in current.values())
            return Compared(cluster, replace(stays, results=(*stays.results, *odd)), files)
        there = self._files(cluster, tree)
        found = self._by_file(listing, current, there)
        gone = tuple(
            Item(group, self._layout.key_of(path), None, blob, None, {"remove": True})
            for path, blob in there.items()
            if self._layout.takes(self._layout.key_of(path))
        )
        answered = sum(each.outcome is Outcome.SKIPPED for each in found.results)
        files = found.skipped + answered + len(gone) + sum(item.target is not None for item in found.items)
        found = replace(found, results=(*found.results, *odd))
        # What seems gone may be what an odd entry stands for.
        return Compared(cluster, found, files, () if odd else gone)

    def _by_file(self, listing: Listing, current: dict[str, Known], there: dict[str, str]) -> Page:
        """A cluster file by file; what the listing has leaves ``there``."""
        group = self._layout.branch_of(listing.cluster)
        names = Names()
        for path in there:
            if self._layout.key_of(path) in listing.objects:
                names.add(path)
        items: list[Item] = []
        settled: dict[str, Known] = {}
        results: list[Result] = []
        for key in sorted(listing.objects, key=str.encode):
            etag, size = listing.objects[key]
            path = self._layout.path_of(key)
            here, was = there.pop(path, None), current.get(key)
            error = refusal(path, names)
            if error is not None:
                results.append(refused(Item(group, key, etag, here, size), error))
            elif was is not None and was.blob == (here or ""):
                settled[key] = was
            else:
                items.append(Item(group, key, etag, here, size))
        stays = staying(group, settled, self._asked)
        return replace(stays, items=tuple(items), results=(*results, *stays.results))

    def _tree_of(self, cluster: str, current: dict[str, Known]) -> str:
        """The id of the tree that these objects make."""
        skip = len(self._layout.prefix) + len(cluster) + 1
        return tree_id((key[skip:].encode(), was.blob) for key, was in current.items() if was.blob)

    def _files(self, cluster: str, tree: Entry | None) -> dict[str, str]:
        """The files that the branch has of a cluster, with their fingerprints. Names that are not UTF-8 are nobody's."""
        if tree is None:
            return {}
        path = self._layout.cluster_path(cluster).encode()
        named = ((text_of(path), entry.fingerprint) for path, entry in self._branch.files(path, tree.oid))
        return {path: mark for path, mark in named if path is not None and mark is not None}
