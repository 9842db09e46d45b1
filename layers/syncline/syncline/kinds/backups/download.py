"""Downloads: the kind `backups` for a sync that keeps a folder or a second bucket in sync instead of a repository."""

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
from syncline.clients.http.listings import InvalidEntry
from syncline.clients.s3.client import ObjectStream
from syncline.clients.s3.head import ObjectHead
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import SyncSettings, TransferResult
from syncline.kinds.backups.compare import Comparison, invalid_entry_results
from syncline.kinds.backups.index import Index
from syncline.kinds.backups.ownership import EXTRAS, OwnedFile, OwnedFiles, check_listing, foreign
from syncline.kinds.backups.paths import TakenPaths, path_error, shown
from syncline.kinds.backups.removals import ComparedCluster, GoneFiles, Limiter, ScanCursor, SourceView, plan_removals
from syncline.kinds.backups.report import log_run
from syncline.kinds.backups.secrets_detection import LARGEST, OutOfTime
from syncline.kinds.backups.secrets_filter import CERTAIN, left_out
from syncline.kinds.backups.source import SMALL, ClusterListing, Reader, failed_result, list_clusters, list_objects
from syncline.kinds.backups.stores import FileStore
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.model import Item, Outcome, Result, Run, Scope, Step
from syncline.store.backup_records import FileCount, IndexEntry, LeftOutCode

SHARE: Final = 200
"""Most items in one message."""
AT_ONCE: Final = 8
"""Objects requested or copied at a time."""
_CHUNK: Final = 1 << 18


class Downloads:
    """The kind `backups` for a sync without a repository. A group is a cluster, a fingerprint the store's own.

    The index has for each object the fingerprint that the store gave its file, "" if it was left out. `reader` reads
    from the source, `store` is the target.
    """

    moves_by = Step.TRANSFER
    share = SHARE

    def __init__(  # noqa: PLR0913, PLR0917 - each is a part of the kind
        self, settings: SyncSettings, reader: Reader, store: FileStore, index: Index, owned: OwnedFiles, http: Http
    ) -> None:
        self._settings = settings
        self._layout = settings.layout
        self._reader = reader
        self._bucket = reader.bucket
        self._store = store
        self._index = index
        self._owned = owned
        self._http = http

    # -- discover ------------------------------------------------------------------------------------------------

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        source = list_clusters(self._bucket, self._layout)
        listed, wanted = source.names, self._wanted(scope, source, context)
        if cursor is None:
            invalid = tuple(invalid_entry_results(source.invalid, "", lambda _: True).values())
            absent = () if source.invalid or not context.named else tuple(self._absent(scope, listed))
            yield Page(str(ScanCursor()), results=invalid, failures=absent)

        def compare(takes: Callable[[str], bool]) -> Iterator[ComparedCluster]:
            for cluster in sorted(filter(takes, wanted)):
                if context.over:
                    return
                keys, vanished = wanted[cluster], cluster not in listed
                if keys is None:
                    yield self._compare(cluster, context, vanished=vanished)
                else:
                    yield self._compare_keys(cluster, keys, vanished=vanished)

        total = None if scope.groups is None else lambda: self._owned.count({*listed, *wanted})
        view = SourceView(lambda: listed, self._has, total)
        for part in plan_removals(compare, self._limiter(context), view, ScanCursor.parse(cursor)):
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
        return Limiter(self._settings.sync, self._settings.limits, self._owned, context)

    def _wanted(self, scope: Scope, source: ClusterListing, context: StepContext) -> dict[str, list[str] | None]:
        """Return the clusters to scan, each with the keys to scan, or None for all keys."""
        if scope.groups is None:
            return dict.fromkeys(self._clusters(source, context))
        wanted: dict[str, list[str] | None] = {}
        for key in filter(self._layout.takes, scope.groups):
            keys = wanted.setdefault(self._layout.cluster_of(key) or "", [])
            assert keys is not None
            keys.append(key)
        return wanted | dict.fromkeys(g.partition("/")[0] for g in scope.groups if g.endswith("/"))

    def _clusters(self, source: ClusterListing, context: StepContext) -> list[str]:
        """Return the clusters of source and target."""
        at_target = [cluster for cluster in self._store.top_folders() if self._layout.takes_cluster(cluster)]
        check_listing(self._bucket, self._layout, source, at_target, self._owned)
        if not context.plan:
            # For the metrics, which need only the number of clusters.
            counts = {cluster: FileCount("", 0) for cluster in source.names}
            self._index.save_file_counts(f"{self._settings.sync}#", counts)
        return [*{*source.names, *at_target}]

    def _compare(self, cluster: str, context: StepContext, *, vanished: bool) -> ComparedCluster:
        layout = self._layout
        listing = list_objects(self._bucket, layout, cluster, listed=not vanished)
        if listing.error is not None:
            return ComparedCluster(cluster, Page("", failures=(Failure(Item(f"{cluster}/", "*"), listing.error),)))
        objects = listing.objects
        entries, rows = self._index.entries(self._settings.source_id, cluster), self._owned.of(cluster)
        current = {key: each for key, each in entries.items() if key in objects and each.etag == objects[key][0]}
        unread: list[InvalidEntry] = []
        try:
            at_target = {layout.key_of(path): mark for path, mark in self._store.listing(cluster, unread.append)}
        except SynclineError as error:
            if vanished and not rows:
                extra = Result(cluster, f"{cluster}/", Outcome.EXTRA, reason=f"cannot be listed: {error.what}")
                return ComparedCluster(cluster, Page("", results=(extra,)))
            return ComparedCluster(cluster, Page("", failures=(Failure(Item(f"{cluster}/", "*"), error),)))
        by_key = [each if each.name is None else replace(each, name=layout.key_of(each.name)) for each in unread]
        foreign_keys = {each.name for each in by_key if each.name is not None} - objects.keys() - rows.keys()
        extras = [each for each in by_key if each.name in foreign_keys and layout.takes(each.name or "")]
        invalid_entries = (*listing.invalid, *(each for each in by_key if each.name not in foreign_keys))
        invalid = invalid_entry_results(invalid_entries, cluster, layout.takes)
        written = cache(lambda: self._written(cluster))

        def evidence(key: str, fingerprint: str) -> bool:
            return _is_ours(key, fingerprint, {}, written())

        comparison = Comparison(layout, cluster, objects, current, rows, evidence, invalid, context.asked)
        page = _with_unread(comparison.compared(at_target), cluster, extras)
        if comparison.learned and not context.plan:
            self._owned.write(comparison.learned)
        return ComparedCluster(cluster, page, comparison.ours, comparison.gone, vanished)

    def _compare_keys(self, cluster: str, keys: Sequence[str], *, vanished: bool) -> ComparedCluster:
        """Compare some keys of a cluster: objects of the bucket are sent on and read, the others are gone."""
        errors = {
            key: error for key in keys if (error := path_error(self._layout.path_of(key), TakenPaths())) is not None
        }
        valid = [key for key in keys if key not in errors]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scan") as pool:
            heads = dict(zip(valid, pool.map(self._bucket.head, valid), strict=True))
        rows = self._owned.get(valid)
        items, gone, skipped = [], dict[str, tuple[Item, OwnedFile]](), 0
        results = [failed_result(Item(cluster, key), error) for key, error in errors.items()]
        written = cache(lambda: self._written(cluster))
        for key, head in heads.items():
            row = rows.get(key)
            if head is not None:
                items.append(Item(cluster, key, head.etag, None if row is None else row.fingerprint, head.size))
                continue
            fingerprint = self._store.fingerprint(self._layout.path_of(key))
            if fingerprint is None:
                skipped += 1
            elif _is_ours(key, fingerprint, rows, written()):
                item = Item(cluster, key, None, fingerprint, None, {"remove": True})
                gone[key] = (item, row or OwnedFile(fingerprint))
            else:
                results.append(foreign(cluster, key, None, fingerprint))
        count = self._owned.count([cluster]) if gone else 0
        return ComparedCluster(cluster, Page("", tuple(items), skipped, tuple(results)), count, gone, vanished)

    def _written(self, cluster: str) -> dict[str, IndexEntry]:
        """Return the index entries of files as they were written, also by a version that kept no records of them."""
        source_ids = (self._settings.first_source_id, self._settings.source_id)
        found = (self._index.entries(source_id, cluster) for source_id in dict.fromkeys(source_ids) if source_id)
        return {key: entry for entries in found for key, entry in entries.items() if entry.blob}

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:
        return self._reader.plan(items, context)

    # -- transfer ------------------------------------------------------------------------------------------------

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        learned: dict[str, IndexEntry] = {}
        rows = self._owned.get(item.name for item in items)
        written = self._written(items[0].group)
        copying = _Copying(self._reader, self._store, self._owned, self._removal_check(context), context)

        def copy(item: Item) -> tuple[TransferResult, IndexEntry | None]:
            if context.over:
                return Unfinished(item), None
            try:
                return _ItemCopy(copying, item, rows, written).run()
            except OutOfTime:
                return Unfinished(item), None
            except SynclineError as error:
                return Failure(item, error), None

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            for result, entry in pool.map(copy, items):
                if entry is not None:
                    learned[result.name if isinstance(result, Result) else result.item.name] = entry
                yield result
        if learned:
            part = f"{context.work}-{items[0].name}"[:200]
            self._index.add(self._settings.source_id, items[0].group, part, learned)

    def _removal_check(self, context: StepContext) -> Callable[[str, OwnedFile], SynclineError | None]:
        """Return a function that returns an error if a file that is left out at the source may not be removed.

        It is for one batch: files are counted once, and after an error no further files of the cluster are checked.
        """
        lock, refused = threading.Lock(), dict[str, SynclineError]()
        count = cache(lambda cluster: self._owned.count([cluster]))

        def clusters() -> list[str]:
            return list_clusters(self._bucket, self._layout).names

        def check(key: str, file: OwnedFile) -> SynclineError | None:
            cluster = self._layout.cluster_of(key) or ""
            with lock:  # one at a time: each is counted before the next is checked
                if cluster not in refused:
                    gone = {cluster: GoneFiles({key: file}, count(cluster))}
                    view = SourceView(clusters, self._has, lambda: self._owned.count(clusters()))
                    errors = self._limiter(context).refused(gone, view)
                    if key in errors:
                        refused[cluster] = errors[key]
                return refused.get(cluster)

        return check

    # -- verify --------------------------------------------------------------------------------------------------

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        verified = [Unfinished(item) if context.over else self._verified(item) for item in items]
        learned = {each.item.name: _record(each.item) for each in verified if isinstance(each, Completed)}
        if learned:
            self._owned.write(learned)
        yield from verified

    def _verified(self, item: Item) -> Completed | Failure:
        try:
            now = self._store.fingerprint(self._layout.path_of(item.name))
        except SynclineError as error:
            return Failure(item, error)
        if now == item.source:
            return Completed(item)
        what = f"{shown(item.name)} at {self._store} is {now or 'absent'}, expected {item.source or 'none'}"
        return Failure(item, SynclineError("NOT_ARRIVED", what))

    # -- runs ----------------------------------------------------------------------------------------------------

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        log_run(self._settings.log, self._layout, self._bucket, run, results)

    def reference(self, group: str) -> str:
        return f"{self._store}#{group}"

    def requests(self) -> int:
        return self._http.requests_made


@dataclass(frozen=True, slots=True)
class _Copying:
    """Source, target and state of the transfer of one batch.

    `removal_error` returns an error if a file of ours, whose object is left out now, may not be removed.
    """

    reader: Reader
    store: FileStore
    owned: OwnedFiles
    removal_error: Callable[[str, OwnedFile], SynclineError | None]
    context: StepContext
    large: threading.Lock = field(default_factory=threading.Lock)
    """Held while a large object is copied: it is in memory while it is inspected."""


class _ItemCopy:
    """The transfer of one item: copy its object, adopt a file that is equal already, or remove the file."""

    def __init__(
        self, copying: _Copying, item: Item, rows: Mapping[str, OwnedFile], written: Mapping[str, IndexEntry]
    ) -> None:
        self._copying = copying
        self._reader = copying.reader
        self._store = copying.store
        self._item = item
        self._rows = rows
        self._written = written
        self._path = copying.reader.path_of(item.name)

    def run(self) -> tuple[TransferResult, IndexEntry | None]:
        """Transfer the item; return its result and the index entry of its object. Raises OutOfTime."""
        item, bucket = self._item, self._reader.bucket
        error = path_error(self._path, TakenPaths())
        if error is not None:
            raise error
        try:
            stream = bucket.open(item.name)
        except SynclineError as failed:
            if failed.code.name != "NOT_FOUND" or bucket.head(item.name) is not None:
                raise
            if not item.detail.get("remove"):
                # Only a file that was counted with all gone files may be removed.
                reason = "vanished since the scan; the next scan removes it"
                return Result(item.group, item.name, Outcome.EQUAL, reason=reason), None
            return self._removed(), None
        with stream:
            return self._copied(stream)

    def _copied(self, stream: ObjectStream) -> tuple[TransferResult, IndexEntry | None]:
        head, reader = stream.head, self._reader
        if head.size > reader.largest:
            what = f"{shown(self._item.name)} has {head.size} bytes, the sync allows {reader.largest}"
            raise SynclineError("OVER_LIMIT", what)
        if not reader.secrets_filter.inspects:
            return self._put(head, head.size, stream.chunks(_CHUNK))
        with self._copying.large if head.size > SMALL else nullcontext():
            return self._inspected(stream)

    def _inspected(self, stream: ObjectStream) -> tuple[TransferResult, IndexEntry | None]:
        """Copy the part of an object that may go to the target.

        An object too large to be held is read twice: it is inspected before any of it is written.
        """
        head, secrets_filter, chunks = stream.head, self._reader.secrets_filter, stream.chunks(_CHUNK)

        def over() -> bool:
            return self._copying.context.over

        if head.size <= LARGEST:
            filtered = secrets_filter.apply(self._path, b"".join(chunks), over)
            if filtered.data is None:
                return self._left_out(head, filtered.code or CERTAIN)
            return self._put(head, len(filtered.data), iter([filtered.data]), filtered.data)
        code = secrets_filter.reason_to_leave_out(chunks, over)
        if code is not None:
            return self._left_out(head, code)
        with self._reader.bucket.open(self._item.name, etag=head.etag) as again:
            return self._put(head, head.size, again.chunks(_CHUNK))

    def _put(
        self, head: ObjectHead, size: int, chunks: Iterator[bytes], data: bytes | None = None
    ) -> tuple[TransferResult, IndexEntry | None]:
        """Write these bytes, adopt the target's file if it has them, or leave a foreign one unchanged.

        `data` are the bytes if they are in memory: then a file of ours that has them is not written again.
        """
        item, store = self._item, self._store
        before = store.fingerprint(self._path)
        if before is not None and not self._is_ours(before):
            digest = blob_hash(size)
            for chunk in chunks:
                digest.update(chunk)
            source, target = digest.hexdigest(), store.content_id(self._path)
            if source != target:
                return foreign(item.group, item.name, source, target), None
            return self._adopted(head, before, source)
        if before is not None and data is not None and self._may_be_current(head):
            source = blob_id(data)
            if store.content_id(self._path) == source:
                return self._adopted(head, before, source)
        after = store.write(self._path, chunks)
        detail = {"etag": head.etag, "created": self._created(before)}
        written = Item(item.group, item.name, after, before, head.size, detail)
        return Completed(written, head.size), IndexEntry(head.etag, after)

    def _may_be_current(self, head: ObjectHead) -> bool:
        """Return False if the record says that our file was made from another version of the object."""
        row = self._rows.get(self._item.name)
        return row is None or row.etag in ("", head.etag)

    def _adopted(self, head: ObjectHead, fingerprint: str, content: str) -> tuple[TransferResult, IndexEntry | None]:
        item = self._item
        file = OwnedFile(fingerprint, head.etag, head.size, self._created(fingerprint))
        self._copying.owned.write({item.name: file})
        return Result(item.group, item.name, Outcome.EQUAL, content, content), IndexEntry(head.etag, fingerprint)

    def _created(self, before: str | None) -> int:
        row = self._rows.get(self._item.name)
        if before is None:
            return int(self._copying.owned.clock())
        return row.created if row is not None else 0

    def _is_ours(self, fingerprint: str) -> bool:
        return _is_ours(self._item.name, fingerprint, self._rows, self._written)

    def _left_out(self, head: ObjectHead, code: LeftOutCode) -> tuple[TransferResult, IndexEntry | None]:
        """Leave an object out. Its file is removed if it is ours and the limits allow it."""
        fingerprint, item = self._store.fingerprint(self._path), self._item
        entry = IndexEntry(head.etag, "", code)
        if fingerprint is None:
            return left_out(item, code), entry
        if self._is_ours(fingerprint):
            error = self._copying.removal_error(item.name, self._rows.get(item.name) or OwnedFile(fingerprint))
            if error is not None:
                return Failure(item, error), entry
        return self._removed(), entry

    def _removed(self) -> TransferResult:
        """Remove the item's file if it is ours."""
        fingerprint, item = self._store.fingerprint(self._path), self._item
        if fingerprint is None:
            return Result(item.group, item.name, Outcome.EQUAL)
        if not self._is_ours(fingerprint):
            return foreign(item.group, item.name, None, fingerprint)
        self._store.remove(self._path)
        return Completed(Item(item.group, item.name, None, fingerprint, 0))


def _is_ours(key: str, fingerprint: str, rows: Mapping[str, OwnedFile], written: Mapping[str, IndexEntry]) -> bool:
    """Return True if a file is as we wrote it, by its record or by the index entry of its write."""
    row, entry = rows.get(key), written.get(key)
    return (row is not None and row.fingerprint == fingerprint) or (entry is not None and entry.blob == fingerprint)


def _record(item: Item) -> OwnedFile | None:
    """Return the record of an item that completed, None if it was removed."""
    if item.source is None:
        return None
    size = -1 if item.size is None else item.size
    return OwnedFile(item.source, str(item.detail.get("etag", "")), size, int(item.detail.get("created", 0)))


def _with_unread(page: Page, cluster: str, extras: Sequence[InvalidEntry]) -> Page:
    """Return a page with the foreign files added that cannot be read."""
    listed = (Result(cluster, each.label, Outcome.EXTRA, reason=each.error.what) for each in extras[:EXTRAS])
    return replace(page, results=(*page.results, *listed), extra=page.extra + max(0, len(extras) - EXTRAS))
