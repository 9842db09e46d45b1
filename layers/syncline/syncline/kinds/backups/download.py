"""Download only: the bucket's objects in a folder or a second bucket, for those who have no repository (yet)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

from syncline.clients.git.objects import blob_hash, blob_id
from syncline.clients.http.client import Http
from syncline.clients.http.listings import Odd
from syncline.clients.s3.client import Bucket, ObjectStream
from syncline.clients.s3.head import Head
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import Answer, Rules
from syncline.kinds.backups.compare import Comparison
from syncline.kinds.backups.memory import Memory
from syncline.kinds.backups.odd import results_of
from syncline.kinds.backups.ours import EXTRAS, Ledger, Ours, check_listing, foreign
from syncline.kinds.backups.paths import Layout, Names, refusal, shown
from syncline.kinds.backups.plan import foreseen
from syncline.kinds.backups.reading import SMALL, Clusters, Reader, clusters_in, listing_of
from syncline.kinds.backups.removals import Compared, Gone, Limiter, Mark, Source, planned, refused
from syncline.kinds.backups.run_log import tell
from syncline.kinds.backups.sealing import CERTAIN, Sealer, left_out
from syncline.kinds.backups.secrets import LARGEST, OutOfTime
from syncline.kinds.backups.stores import Store
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.model import Item, Outcome, Result, Run, Scope, Step
from syncline.store.backup_records import Count, Known, LeftOutCode

# Copying one item of a sync without a repository: written, adopted, removed, or left as it is.

_CHUNK: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Between:
    """What copies go between, and by which rules. ``largest`` is in bytes.

    ``refused`` returns why a file of ours, whose object is left out now, may not be removed; None if it may. ``over``
    says that the step's time is over.
    """

    bucket: Bucket
    store: Store
    layout: Layout
    sealer: Sealer
    ledger: Ledger
    largest: int
    refused: Callable[[str, Ours], SynclineError | None]
    over: Callable[[], bool]
    large: threading.Lock = field(default_factory=threading.Lock)
    """Large objects are copied one at a time: each is held in memory while it is inspected."""


class Copy:
    """The transfer of one item: to copy it, to adopt what is equal already, or to remove what the source has not."""

    def __init__(self, between: Between, item: Item, rows: Mapping[str, Ours], known: Mapping[str, Known]) -> None:
        self._between = between
        self._item = item
        self._rows = rows
        self._known = known
        self._path = between.layout.path_of(item.name)

    def made(self) -> tuple[Answer, Known | None]:
        """Carry it out; the second value is what was learned of the source's object.

        Raises :exc:`.detecting.OutOfTime`.
        """
        item, bucket = self._item, self._between.bucket
        problem = refusal(self._path, Names())
        if problem is not None:
            raise problem
        try:
            stream = bucket.open(item.name)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND" or bucket.head(item.name) is not None:
                raise
            if not item.detail.get("remove"):
                # Only what was counted with all that is gone may be removed.
                why = "went since it was looked at; another look removes it"
                return Result(item.group, item.name, Outcome.EQUAL, reason=why), None
            return self._removed(), None
        with stream:
            return self._copied(stream)

    def _copied(self, stream: ObjectStream) -> tuple[Answer, Known | None]:
        head, between = stream.head, self._between
        if head.size > between.largest:
            what = f"{shown(self._item.name)} has {head.size} bytes, over {between.largest}"
            raise SynclineError("OVER_LIMIT", what)
        if not between.sealer.inspects:
            return self._put(head, head.size, stream.chunks(_CHUNK))
        with between.large if head.size > SMALL else nullcontext():
            return self._inspected(stream)

    def _inspected(self, stream: ObjectStream) -> tuple[Answer, Known | None]:
        """Copy the part of an object that may go to the target.

        An object that is too large to be held is read twice: it is inspected before any of it is written.
        """
        head, sealer, chunks, over = stream.head, self._between.sealer, stream.chunks(_CHUNK), self._between.over
        if head.size <= LARGEST:
            sealed = sealer.sealed(self._path, b"".join(chunks), over)
            if sealed.data is None:
                return self._left_out(head, sealed.code or CERTAIN)
            return self._put(head, len(sealed.data), iter([sealed.data]), sealed.data)
        code = sealer.refusal(chunks, over)
        if code is not None:
            return self._left_out(head, code)
        with self._between.bucket.open(self._item.name, etag=head.etag) as again:
            return self._put(head, head.size, again.chunks(_CHUNK))

    def _put(
        self, head: Head, size: int, chunks: Iterator[bytes], data: bytes | None = None
    ) -> tuple[Answer, Known | None]:
        """Write these bytes, adopt the target's file if it has them, or leave a foreign one as it is.

        ``data`` are the bytes if they are held: then a file of ours that has them is not written again.
        """
        item, store = self._item, self._between.store
        here = store.fingerprint(self._path)
        if here is not None and not self._is_ours(here):
            digest = blob_hash(size)
            for chunk in chunks:
                digest.update(chunk)
            source, target = digest.hexdigest(), store.content_id(self._path)
            if source != target:
                return foreign(item.group, item.name, source, target), None
            return self._adopted(head, here, source)
        if here is not None and data is not None and self._may_have(head):
            source = blob_id(data)
            if store.content_id(self._path) == source:
                return self._adopted(head, here, source)
        mark = store.write(self._path, chunks)
        made = Item(item.group, item.name, mark, here, head.size, {"etag": head.etag, "created": self._created(here)})
        return Completed(made, head.size), Known(head.etag, mark)

    def _may_have(self, head: Head) -> bool:
        """Return True unless the record says that our file was made from another version of the object."""
        row = self._rows.get(self._item.name)
        return row is None or row.etag in ("", head.etag)

    def _adopted(self, head: Head, here: str, content: str) -> tuple[Answer, Known | None]:
        item = self._item
        self._between.ledger.write({item.name: Ours(here, head.etag, head.size, self._created(here))})
        return Result(item.group, item.name, Outcome.EQUAL, content, content), Known(head.etag, here)

    def _created(self, here: str | None) -> int:
        row = self._rows.get(self._item.name)
        if here is None:
            return int(self._between.ledger.clock())
        return row.created if row is not None else 0

    def _is_ours(self, here: str) -> bool:
        return is_ours(self._item.name, here, self._rows, self._known)

    def _left_out(self, head: Head, code: LeftOutCode) -> tuple[Answer, Known | None]:
        """Leave an object out: its file is removed if it is ours, within the limits."""
        here, item = self._between.store.fingerprint(self._path), self._item
        known = Known(head.etag, "", code)
        if here is None:
            return left_out(item, code), known
        if self._is_ours(here):
            error = self._between.refused(item.name, self._rows.get(item.name) or Ours(here))
            if error is not None:
                return Failure(item, error), known
        return self._removed(), known

    def _removed(self) -> Answer:
        """Remove the item's file if it is ours; verify asks whether it is gone."""
        here, item = self._between.store.fingerprint(self._path), self._item
        if here is None:
            return Result(item.group, item.name, Outcome.EQUAL)
        if not self._is_ours(here):
            return foreign(item.group, item.name, None, here)
        self._between.store.remove(self._path)
        return Completed(Item(item.group, item.name, None, here, 0))


def is_ours(key: str, mark: str, rows: Mapping[str, Ours], known: Mapping[str, Known]) -> bool:
    """Return True if a file is as we wrote it: by its record, or by what was noted when it was written."""
    row, was = rows.get(key), known.get(key)
    return (row is not None and row.fingerprint == mark) or (was is not None and was.blob == mark)


def record_of(item: Item) -> Ours | None:
    """Return the record of an item that arrived; None if it was removed."""
    if item.source is None:
        return None
    detail = item.detail
    size = -1 if item.size is None else item.size
    return Ours(item.source, str(detail.get("etag", "")), size, int(detail.get("created", 0)))


SHARE: Final = 200
AT_ONCE: Final = 8
"""Objects asked for, or copied, at a time."""


class Downloads:
    """The kind ``backups`` for a sync without a repository. A group is a cluster, a fingerprint the store's own.

    What the memory keeps of an object is the fingerprint that the store gave it, "" where it was left out.
    """

    moves_by = Step.TRANSFER
    share = SHARE

    def __init__(  # noqa: PLR0913, PLR0917 - each is a part of the kind
        self,
        rules: Rules,
        bucket: Bucket,
        sealer: Sealer,
        store: Store,
        memory: Memory,
        ledger: Ledger,
        http: Http,
        largest: int,
    ) -> None:
        self._rules = rules
        self._layout = rules.layout
        self._bucket = bucket
        self._sealer = sealer
        self._store = store
        self._memory = memory
        self._ledger = ledger
        self._http = http
        self._largest = largest

    # -- looking -------------------------------------------------------------------------------------------------

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        found = clusters_in(self._bucket, self._layout)
        listed, named = found.names, self._named(scope, found, context)
        if cursor is None:
            odd = tuple(results_of(found.odd, "", lambda _: True).values())
            absent = () if found.odd or not context.named else tuple(self._absent(scope, listed))
            yield Page(str(Mark()), results=odd, failures=absent)

        def compare(takes: Callable[[str], bool]) -> Iterator[Compared]:
            for cluster in sorted(filter(takes, named)):
                if context.over:
                    return
                keys, vanished = named[cluster], cluster not in listed
                if keys is None:
                    yield self._compare(cluster, context, vanished=vanished)
                else:
                    yield self._look_at(cluster, keys, vanished=vanished)

        source = Source(
            lambda: listed, self._has, None if scope.groups is None else lambda: self._ledger.count({*listed, *named})
        )
        for part in planned(compare, self._limiter(context), source, Mark.parse(cursor)):
            yield replace(part.page, cursor=str(part.behind))

    def _absent(self, scope: Scope, listed: list[str]) -> Iterator[Failure]:
        """Yield a failure for each cluster of a scope that the bucket does not list."""
        clusters = {group.removesuffix("/") for group in scope.groups or () if group.endswith("/")}
        for name in sorted(clusters.difference(listed)):
            error = SynclineError("SOURCE_ABSENT", f"{self._bucket} has no cluster {name}")
            yield Failure(Item(f"{name}/", "*"), error)

    def _has(self, key: str) -> bool:
        return self._bucket.head(key) is not None

    def _limiter(self, context: StepContext) -> Limiter:
        return Limiter(self._rules.sync, self._rules.limits, self._ledger, context)

    def _named(self, scope: Scope, found: Clusters, context: StepContext) -> dict[str, list[str] | None]:
        """The clusters to look at, and in each the keys to look at; None for all."""
        if scope.groups is None:
            return dict.fromkeys(self._clusters(found, context))
        named: dict[str, list[str] | None] = {}
        for key in filter(self._layout.takes, scope.groups):
            keys = named.setdefault(self._layout.cluster_of(key) or "", [])
            assert keys is not None
            keys.append(key)
        return named | dict.fromkeys(g.partition("/")[0] for g in scope.groups if g.endswith("/"))

    def _clusters(self, found: Clusters, context: StepContext) -> list[str]:
        there = [cluster for cluster in self._store.tops() if self._layout.takes_cluster(cluster)]
        check_listing(self._bucket, self._layout, found, there, self._ledger)
        if not context.plan:
            # For the metrics: they ask for no more than how many clusters there are.
            self._memory.keep_counts(f"{self._rules.sync}#", {cluster: Count("", 0) for cluster in found.names})
        return [*{*found.names, *there}]

    def _compare(self, cluster: str, context: StepContext, *, vanished: bool) -> Compared:
        layout = self._layout
        listing = listing_of(self._bucket, layout, cluster, listed=not vanished)
        if listing.error is not None:
            return Compared(cluster, Page("", failures=(Failure(Item(f"{cluster}/", "*"), listing.error),)))
        objects = listing.objects
        known, rows = self._memory.known(self._rules.place, cluster), self._ledger.of(cluster)
        current = {key: was for key, was in known.items() if key in objects and was.etag == objects[key][0]}
        at_target: list[Odd] = []
        try:
            there = {layout.key_of(path): mark for path, mark in self._store.listing(cluster, at_target.append)}
        except SynclineError as failed:
            if vanished and not rows:
                unread = Result(cluster, f"{cluster}/", Outcome.EXTRA, reason=f"cannot be listed: {failed.what}")
                return Compared(cluster, Page("", results=(unread,)))
            return Compared(cluster, Page("", failures=(Failure(Item(f"{cluster}/", "*"), failed),)))
        by_key = [each if each.name is None else replace(each, name=layout.key_of(each.name)) for each in at_target]
        strange = {each.name for each in by_key if each.name is not None} - objects.keys() - rows.keys()
        extras = [each for each in by_key if each.name in strange and layout.takes(each.name or "")]
        odd = results_of((*listing.odd, *(each for each in by_key if each.name not in strange)), cluster, layout.takes)

        written = cache(lambda: self._written(cluster))

        def noted(key: str, mark: str) -> bool:
            return is_ours(key, mark, {}, written())

        side = Comparison(layout, cluster, objects, current, rows, noted, odd, context.asked)
        page = _with_unread(side.compared(there), cluster, extras)
        if side.learned and not context.plan:
            self._ledger.write(side.learned)
        return Compared(cluster, page, side.ours, side.gone, vanished)

    def _look_at(self, cluster: str, keys: Sequence[str], *, vanished: bool) -> Compared:
        """Some keys of a cluster: what the bucket has goes on and is read, what it has not is gone."""
        errors = {key: error for key in keys if (error := refusal(self._layout.path_of(key), Names())) is not None}
        good = [key for key in keys if key not in errors]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
            heads = dict(zip(good, pool.map(self._bucket.head, good), strict=True))
        rows = self._ledger.some(good)
        items, gone, skipped = [], dict[str, tuple[Item, Ours]](), 0
        results = [refused(Item(cluster, key), error) for key, error in errors.items()]
        known: dict[str, Known] | None = None
        for key, head in heads.items():
            row = rows.get(key)
            if head is not None:
                items.append(Item(cluster, key, head.etag, None if row is None else row.fingerprint, head.size))
                continue
            mark = self._store.fingerprint(self._layout.path_of(key))
            if mark is None:
                skipped += 1
                continue
            if known is None:
                known = self._written(cluster)
            if is_ours(key, mark, rows, known):
                gone[key] = (Item(cluster, key, None, mark, None, {"remove": True}), row or Ours(mark))
            else:
                results.append(foreign(cluster, key, None, mark))
        count = self._ledger.count([cluster]) if gone else 0
        return Compared(cluster, Page("", tuple(items), skipped, tuple(results)), count, gone, vanished)

    def _written(self, cluster: str) -> dict[str, Known]:
        """Return what was noted of files when they were written, also by a version that kept no records of them."""
        places = dict.fromkeys(place for place in (self._rules.first_place, self._rules.place) if place)
        noted = (self._memory.known(place, cluster) for place in places)
        return {key: was for known in noted for key, was in known.items() if was.blob}

    def _refusals(self, context: StepContext) -> Callable[[str, Ours], SynclineError | None]:
        """Return a function that tells why a file that is left out at the source may not be removed; None if it may.

        It is for one batch: files are counted once, and after a refusal the cluster's others are not asked about.
        """
        lock, refused = threading.Lock(), dict[str, SynclineError]()
        count = cache(lambda cluster: self._ledger.count([cluster]))

        def clusters() -> list[str]:
            return clusters_in(self._bucket, self._layout).names

        def refusal_of(key: str, ours: Ours) -> SynclineError | None:
            cluster = self._layout.cluster_of(key) or ""
            with lock:  # one after another: each is counted before the next is asked about
                if cluster not in refused:
                    gone = {cluster: Gone({key: ours}, count(cluster))}
                    source = Source(clusters, self._has, lambda: self._ledger.count(clusters()))
                    errors = self._limiter(context).refused(gone, source)
                    if key in errors:
                        refused[cluster] = errors[key]
                return refused.get(cluster)

        return refusal_of

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:
        reader = Reader(self._bucket, self._sealer, self._largest, AT_ONCE, self._layout.path_of)
        return foreseen(reader, items, context)

    # -- moving --------------------------------------------------------------------------------------------------

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[Answer]:
        learned: dict[str, Known] = {}
        rows = self._ledger.some(item.name for item in items)
        known = self._written(items[0].group)
        between = Between(
            self._bucket,
            self._store,
            self._layout,
            self._sealer,
            self._ledger,
            self._largest,
            self._refusals(context),
            lambda: context.over,
        )

        def one(item: Item) -> tuple[Answer, Known | None]:
            if context.over:
                return Unfinished(item), None
            try:
                return Copy(between, item, rows, known).made()
            except OutOfTime:
                return Unfinished(item), None
            except SynclineError as error:
                return Failure(item, error), None

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            for answer, note in pool.map(one, items):
                if note is not None:
                    learned[answer.item.name if not isinstance(answer, Result) else answer.name] = note
                yield answer
        if learned:
            self._memory.note(self._rules.place, items[0].group, f"{context.work}-{items[0].name}"[:200], learned)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        answers: list[Completed | Unfinished | Failure] = []
        learned: dict[str, Ours | None] = {}
        for item in items:
            answer = Unfinished(item) if context.over else self._verified(item)
            answers.append(answer)
            if isinstance(answer, Completed):
                learned[item.name] = record_of(item)
        if learned:
            self._ledger.write(learned)
        yield from answers

    def _verified(self, item: Item) -> Completed | Failure:
        try:
            now = self._store.fingerprint(self._layout.path_of(item.name))
        except SynclineError as error:
            return Failure(item, error)
        if now == item.source:
            return Completed(item)
        what = f"{shown(item.name)} at {self._store} is {now or 'absent'}, not {item.source or 'absent'}"
        return Failure(item, SynclineError("NOT_ARRIVED", what))

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        tell(self._rules, self._bucket, run, results)

    def reference(self, group: str) -> str:
        return f"{self._store}#{group}"

    def changed_groups(self, event: object) -> tuple[str, ...]:
        return self._layout.keys_in(event, self._bucket.name)

    def requests(self) -> int:
        return self._http.requests_made


def _with_unread(page: Page, cluster: str, extras: Sequence[Odd]) -> Page:
    """Return a page with foreign files added that cannot be read."""
    listed = (Result(cluster, each.label, Outcome.EXTRA, reason=each.error.what) for each in extras[:EXTRAS])
    return replace(page, results=(*page.results, *listed), extra=page.extra + max(0, len(extras) - EXTRAS))
