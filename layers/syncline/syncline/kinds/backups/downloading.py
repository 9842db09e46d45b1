"""Download only: the bucket's objects in a folder or a second bucket, for those who have no repository (yet)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Final

from syncline.clients.bucket import Bucket, ObjectStream
from syncline.clients.bucket_events import events_in
from syncline.clients.entries import Odd, OnOdd, ignore
from syncline.clients.http import Http
from syncline.errors import SynclineError
from syncline.kinds.backups.committing import Rules
from syncline.kinds.backups.detecting import LARGEST
from syncline.kinds.backups.memory import Count, Known, Memory
from syncline.kinds.backups.odd import results_of
from syncline.kinds.backups.paths import Names, refusal, shown
from syncline.kinds.backups.planning import Compared, Mark, planned, refused
from syncline.kinds.backups.reading import SMALL
from syncline.kinds.backups.sealing import CERTAIN, Sealed, Sealer, left_out, staying
from syncline.kinds.backups.stores import Store
from syncline.kinds.backups.telling import tell
from syncline.kinds.kind import Arrived, Failure, Later, Pace, Page
from syncline.model import Item, Outcome, Result, Run, Scope, Step

SHARE: Final = 200
AT_ONCE: Final = 8
"""Objects asked for, or copied, at a time."""
_CHUNK: Final = 1 << 18
_GONE: Final = {"remove": True}

Answer = Arrived | Later | Result | Failure


class Downloads:
    """The kind ``backups`` for a sync without a repository. A group is a cluster, a fingerprint the store's own.

    What the memory keeps of an object is the fingerprint that the store gave it, "" where it was left out.
    """

    moves_by = Step.TRANSFER
    share = SHARE

    def __init__(  # noqa: PLR0913, PLR0917 - each is a part of the kind
        self, rules: Rules, bucket: Bucket, sealer: Sealer, store: Store, memory: Memory, http: Http, largest: int
    ) -> None:
        self._rules = rules
        self._layout = rules.layout
        self._bucket = bucket
        self._sealer = sealer
        self._store = store
        self._memory = memory
        self._http = http
        self._largest = largest
        self._large = threading.Lock()

    # -- looking -------------------------------------------------------------------------------------------------

    def discover(self, scope: Scope, cursor: str | None, pace: Pace) -> Iterator[Page]:
        odd: list[Odd] = []
        named = self._named(scope, odd.append)
        if pace.named and cursor is None:
            clusters = {group.removesuffix("/") for group in scope.groups or () if group.endswith("/")}
            absent = sorted(clusters.difference(self._clusters(odd.append))) if clusters else []
            for name in absent if not odd else ():
                error = SynclineError("SOURCE_ABSENT", f"{self._bucket} has no cluster {name}")
                yield Page("", failures=(Failure(Item(f"{name}/", "*"), error),))
        if cursor is None and odd:
            yield Page(str(Mark()), results=tuple(results_of(odd, "", lambda _: True).values()))

        def compare(takes: Callable[[str], bool]) -> Iterator[Compared]:
            for cluster in sorted(filter(takes, named)):
                if pace.over:
                    return
                keys = named[cluster]
                yield self._compare(cluster, pace.asked) if keys is None else self._look_at(cluster, keys)

        for found in planned(compare, self._rules.caps, Mark.parse(cursor), pace):
            yield replace(found.page, cursor=str(found.behind))

    def _named(self, scope: Scope, odd: OnOdd) -> dict[str, list[str] | None]:
        """The clusters to look at, and in each the keys to look at; None for all."""
        if scope.groups is None:
            return dict.fromkeys(self._clusters(odd))
        named: dict[str, list[str] | None] = {}
        for key in filter(self._layout.takes, scope.groups):
            keys = named.setdefault(self._layout.cluster_of(key) or "", [])
            assert keys is not None
            keys.append(key)
        return named | dict.fromkeys(g.partition("/")[0] for g in scope.groups if g.endswith("/"))

    def _clusters(self, odd: OnOdd) -> list[str]:
        prefix = self._layout.prefix
        unusable: list[Odd] = []
        pages = list(self._bucket.pages(prefix, delimiter="/", odd=unusable.append))
        for each in unusable:
            odd(each)
        listed = [each[len(prefix) : -1] for page in pages for each in page.prefixes]
        there = self._store.tops()
        if prefix and not there and not unusable and not any(page.prefixes or page.objects for page in pages):
            raise SynclineError("SOURCE_ABSENT", f"{self._bucket} has no object below {prefix!r}")
        if there and not listed:
            raise SynclineError("LISTING_INCOMPLETE", f"{self._bucket} is listed without a single cluster")
        takes = self._layout.takes_cluster
        # For the metrics: they ask for no more than how many clusters there are.
        self._memory.keep_counts(f"{self._rules.sync}#", {c: Count("", 0) for c in listed if takes(c)})
        return [cluster for cluster in {*listed, *there} if takes(cluster)]

    def _compare(self, cluster: str, asked: frozenset[tuple[str, str]]) -> Compared:
        layout = self._layout
        at_source, at_target = list[Odd](), list[Odd]()
        listed = {
            each.key: each
            for page in self._bucket.pages(f"{layout.prefix}{cluster}/", odd=at_source.append)
            for each in page.objects
            if layout.takes(each.key)
        }
        try:
            there = dict(self._store.listing(cluster, at_target.append))
        except SynclineError as failed:
            return Compared(cluster, Page("", failures=(Failure(Item(f"{cluster}/", "*"), failed),)))
        known = self._memory.known(self._rules.place, cluster)
        by_key = (each if each.name is None else replace(each, name=layout.key_of(each.name)) for each in at_target)
        odd = results_of((*at_source, *by_key), cluster, layout.takes)
        names, items, results = Names(), [], []
        settled: dict[str, Known] = {}
        for key in sorted(listed.keys() - odd.keys(), key=str.encode):
            path, was = layout.path_of(key), known.get(key)
            here = there.pop(path, None)
            error = refusal(path, names)
            if error is not None:
                results.append(refused(Item(cluster, key), error))
            elif was is not None and was.etag == listed[key].etag and was.blob == (here or ""):
                settled[key] = was
            else:
                items.append(Item(cluster, key, listed[key].etag, here, listed[key].size))
        gone = tuple(each for p, mark in there.items() if layout.takes((each := self._gone(cluster, p, mark)).name))
        files = sum(bool(was.blob) for was in settled.values()) + len(gone)
        files += sum(item.target is not None for item in items)
        stays = staying(cluster, settled, asked)
        page = replace(stays, items=tuple(items), results=(*results, *stays.results, *odd.values()))
        # What seems gone may be what an odd entry stands for.
        return Compared(cluster, page, files, () if odd else gone)

    def _look_at(self, cluster: str, keys: Sequence[str]) -> Compared:
        """Some keys of a cluster: what the bucket has goes on and is read, what it has not is gone."""
        errors = {key: error for key in keys if (error := refusal(self._layout.path_of(key), Names())) is not None}
        good = [key for key in keys if key not in errors]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
            heads = dict(zip(good, pool.map(self._bucket.head, good), strict=True))
        items = tuple(Item(cluster, key, head.etag, None, head.size) for key, head in heads.items() if head is not None)
        absent = [self._layout.path_of(key) for key in good if heads[key] is None]
        there = [(path, mark) for path in absent if (mark := self._store.fingerprint(path)) is not None]
        results = tuple(refused(Item(cluster, key), error) for key, error in errors.items())
        page = Page("", items, len(absent) - len(there), results)
        files = sum(1 for _ in self._store.listing(cluster, ignore)) if there else 0
        return Compared(cluster, page, files, tuple(self._gone(cluster, path, mark) for path, mark in there))

    def _gone(self, cluster: str, path: str, mark: str) -> Item:
        return Item(cluster, self._layout.key_of(path), None, mark, None, _GONE)

    # -- moving --------------------------------------------------------------------------------------------------

    def transfer(self, items: Sequence[Item], pace: Pace) -> Iterator[Answer]:
        learned: dict[str, Known] = {}
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            for answer, known in pool.map(lambda item: self._one(item, pace), items):
                if known is not None:
                    learned[answer.item.name if not isinstance(answer, Result) else answer.name] = known
                yield answer
        if learned:
            self._memory.note(self._rules.place, items[0].group, f"{pace.work}-{items[0].name}"[:200], learned)

    def _one(self, item: Item, pace: Pace) -> tuple[Answer, Known | None]:
        if pace.over:
            return Later(item), None
        try:
            return self._copy(item)
        except SynclineError as error:
            return Failure(item, error), None

    def _copy(self, item: Item) -> tuple[Answer, Known | None]:
        path = self._layout.path_of(item.name)
        problem = refusal(path, Names())
        if problem is not None:
            raise problem
        try:
            stream = self._bucket.open(item.name)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND" or self._bucket.head(item.name) is not None:
                raise
            if item.detail != _GONE:
                # Only what was counted with all that is gone may be removed.
                why = "went since it was looked at; another look removes it"
                return Result(item.group, item.name, Outcome.SKIPPED, reason=why), None
            return self._removed(item, path), None
        with stream:
            head = stream.head
            if head.size > self._largest:
                raise SynclineError("OVER_LIMIT", f"{shown(item.name)} has {head.size} bytes, over {self._largest}")
            if not self._sealer.inspects:
                mark = self._store.write(path, stream.chunks(_CHUNK))
            else:
                with self._large if head.size > SMALL else nullcontext():
                    written = self._inspected(item, path, stream)
                if isinstance(written, Sealed):
                    code = written.code or CERTAIN
                    return self._removed(item, path, code), Known(head.etag, "", code)
                mark = written
        return Arrived(Item(item.group, item.name, mark, item.target, head.size), head.size), Known(head.etag, mark)

    def _inspected(self, item: Item, path: str, stream: ObjectStream) -> str | Sealed:
        """Write what of an object may go to the target, and return its fingerprint; or why it is left out.

        An object that is too large to be held is read twice: it is inspected before any of it is written.
        """
        chunks, head = stream.chunks(_CHUNK), stream.head
        if head.size <= LARGEST:
            sealed = self._sealer.sealed(path, b"".join(chunks))
            return sealed if sealed.data is None else self._store.write(path, iter([sealed.data]))
        code = self._sealer.refusal(chunks)
        if code is not None:
            return Sealed(None, code)
        with self._bucket.open(item.name, etag=head.etag) as again:
            return self._store.write(path, again.chunks(_CHUNK))

    def _removed(self, item: Item, path: str, code: str | None = None) -> Result:
        """Remove what is not at the source, or left out with this code."""
        before = self._store.fingerprint(path)
        if before is None:
            return Result(item.group, item.name, Outcome.SKIPPED) if code is None else left_out(item, code)
        self._store.remove(path)
        return Result(item.group, item.name, Outcome.REMOVED, None, None)

    def verify(self, items: Sequence[Item], pace: Pace) -> Iterator[Arrived | Later | Failure]:
        for item in items:
            if pace.over:
                yield Later(item)
                continue
            try:
                now = self._store.fingerprint(self._layout.path_of(item.name))
            except SynclineError as error:
                yield Failure(item, error)
                continue
            if now == item.source:
                yield Arrived(item)
            else:
                what = f"{shown(item.name)} at {self._store} is {now or 'absent'}, not {item.source}"
                yield Failure(item, SynclineError("NOT_ARRIVED", what))

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        tell(self._rules, run, results)

    def reference(self, group: str) -> str:
        return f"{self._store}#{group}"

    def hints(self, event: object) -> tuple[str, ...]:
        """The keys that a bucket's notification names and that belong to the sync."""
        named = {each.key for each in events_in(event) if each.bucket == self._bucket.name}
        return tuple(sorted(key for key in named if self._layout.takes(key)))

    def requests(self) -> int:
        return self._http.requests_made
