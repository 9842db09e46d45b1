"""Downloads: the kind `backups` for a sync that keeps a folder or a second bucket in sync instead of a repository."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

from syncline.clients.git.objects import blob_id, stream_id
from syncline.clients.http.client import Http
from syncline.clients.http.listings import InvalidEntry
from syncline.clients.s3.head import ObjectHead
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import SyncSettings, TransferResult
from syncline.kinds.backups.compare import Comparison, cluster_failure, invalid_entry_results
from syncline.kinds.backups.drill import Drill, open_store
from syncline.kinds.backups.ownership import EXTRAS, OwnedFile, OwnedFiles, check_listing, foreign
from syncline.kinds.backups.paths import invalid_path, shown
from syncline.kinds.backups.removals import ComparedCluster, GoneFiles, Limiter, ScanCursor, SourceView, plan_removals
from syncline.kinds.backups.report import log_run
from syncline.kinds.backups.secrets_detection import LARGEST, OutOfTime
from syncline.kinds.backups.secrets_filter import CERTAIN, left_out
from syncline.kinds.backups.source import (
    SMALL,
    ClusterListing,
    Index,
    Reader,
    failed_result,
    list_clusters,
    list_objects,
)
from syncline.kinds.backups.stores import FileStore
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.model import Audit, Item, Outcome, Result, Run, Scope, Step
from syncline.store.backup_records import FileCount, IndexEntry, LeftOutCode

SHARE: Final = 200  # most items in one message
AT_ONCE: Final = 8  # objects requested or copied at a time
_CHUNK: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Downloads:
    """The kind `backups` for a sync without a repository. A group is a cluster, a fingerprint the store's own.

    The index has for each object the fingerprint that the store gave its file, "" if it was left out. `reader` reads
    from the source, `store` is the target.
    """

    settings: SyncSettings
    reader: Reader
    store: FileStore
    index: Index
    owned: OwnedFiles
    http: Http

    moves_by = Step.TRANSFER
    share = SHARE

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        source = list_clusters(self.reader.bucket, self.settings.layout)
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

        total = None if scope.groups is None else lambda: self.owned.count({*listed, *wanted})
        view = SourceView(lambda: listed, self._has, total)
        for page, _, behind in plan_removals(compare, self._limiter(context), view, ScanCursor.parse(cursor)):
            yield replace(page, cursor=str(behind))

    def _absent(self, scope: Scope, listed: list[str]) -> Iterator[Failure]:
        """Yield a failure for each cluster of a scope that the bucket does not list."""
        clusters = {group.removesuffix("/") for group in scope.groups or () if group.endswith("/")}
        for name in sorted(clusters.difference(listed)):
            yield cluster_failure(name, SynclineError("SOURCE_ABSENT", f"{self.reader.bucket} has no cluster {name}"))

    def _has(self, key: str) -> bool:
        return self.reader.bucket.head(key) is not None

    def _limiter(self, context: StepContext) -> Limiter:
        return Limiter(self.settings.sync, self.settings.limits, self.owned, context)

    def _wanted(self, scope: Scope, source: ClusterListing, context: StepContext) -> dict[str, list[str] | None]:
        """Return the clusters to scan, each with the keys to scan, or None for all keys."""
        if scope.groups is None:
            return dict.fromkeys(self._clusters(source, context))
        wanted: dict[str, list[str] | None] = {}
        for key in filter(self.settings.layout.takes, scope.groups):
            keys = wanted.setdefault(self.settings.layout.cluster_of(key) or "", [])
            assert keys is not None
            keys.append(key)
        return wanted | dict.fromkeys(g.partition("/")[0] for g in scope.groups if g.endswith("/"))

    def _clusters(self, source: ClusterListing, context: StepContext) -> list[str]:
        """Return the clusters of source and target."""
        at_target = [cluster for cluster in self.store.top_folders() if self.settings.layout.takes_cluster(cluster)]
        check_listing(self.reader.bucket, self.settings.layout, source, at_target, self.owned)
        if not context.plan:
            # For the metrics, which need only the number of clusters.
            counts = {cluster: FileCount("", 0) for cluster in source.names}
            self.index.save_file_counts(f"{self.settings.sync}#", counts)
        return [*{*source.names, *at_target}]

    def _compare(self, cluster: str, context: StepContext, *, vanished: bool) -> ComparedCluster:
        layout = self.settings.layout
        listing = list_objects(self.reader.bucket, layout, cluster, listed=not vanished)
        if listing.error is not None:
            return ComparedCluster(cluster, Page("", failures=(cluster_failure(cluster, listing.error),)))
        objects = listing.objects
        entries, rows = self.index.entries(self.settings.source_id, cluster), self.owned.of(cluster)
        current = {key: each for key, each in entries.items() if key in objects and each.etag == objects[key].etag}
        unread: list[InvalidEntry] = []
        try:
            at_target = {layout.key_of(path): mark for path, mark in self.store.listing(cluster, unread.append)}
        except SynclineError as error:
            if vanished and not rows:
                extra = Result(cluster, f"{cluster}/", Outcome.EXTRA, reason=f"cannot be listed: {error.what}")
                return ComparedCluster(cluster, Page("", results=(extra,)))
            return ComparedCluster(cluster, Page("", failures=(cluster_failure(cluster, error),)))
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
            self.owned.write(comparison.learned)
        return ComparedCluster(cluster, page, comparison.ours, comparison.gone, vanished)

    def _compare_keys(self, cluster: str, keys: Sequence[str], *, vanished: bool) -> ComparedCluster:
        """Compare some keys of a cluster: objects of the bucket are sent on and read, the others are gone."""
        errors = {key: error for key in keys if (error := invalid_path(self.settings.layout.path_of(key))) is not None}
        valid = [key for key in keys if key not in errors]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scan") as pool:
            heads = dict(zip(valid, pool.map(self.reader.bucket.head, valid), strict=True))
        rows = self.owned.get(valid)
        items, gone, skipped = [], dict[str, tuple[Item, OwnedFile]](), 0
        results = [failed_result(Item(cluster, key), error) for key, error in errors.items()]
        written = cache(lambda: self._written(cluster))
        for key, head in heads.items():
            row = rows.get(key)
            if head is not None:
                before, changed = None if row is None else row.fingerprint, int(head.modified)
                items.append(Item(cluster, key, head.etag, before, head.size, changed=changed))
                continue
            fingerprint = self.store.fingerprint(self.settings.layout.path_of(key))
            if fingerprint is None:
                skipped += 1
            elif _is_ours(key, fingerprint, rows, written()):
                item = Item(cluster, key, None, fingerprint, None, {"remove": True})
                gone[key] = (item, row or OwnedFile(fingerprint))
            else:
                results.append(foreign(cluster, key, None, fingerprint))
        count = self.owned.count([cluster]) if gone else 0
        return ComparedCluster(cluster, Page("", tuple(items), skipped, tuple(results)), count, gone, vanished)

    def _written(self, cluster: str) -> dict[str, IndexEntry]:
        """Return the index entries of files as they were written, also by a version that kept no records of them."""
        source_ids = (self.settings.first_source_id, self.settings.source_id)
        found = (self.index.entries(source_id, cluster) for source_id in dict.fromkeys(source_ids) if source_id)
        return {key: entry for entries in found for key, entry in entries.items() if entry.blob}

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:
        return self.reader.plan(items, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        rows = self.owned.get(item.name for item in items)
        written = self._written(items[0].group)
        batch = _Batch(self.reader, self.store, self.owned, self._removal_check(context), context, rows, written)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            yield from pool.map(batch.copy, items)
        if batch.learned:
            part = f"{context.work}-{items[0].name}"[:200]
            self.index.add(self.settings.source_id, items[0].group, part, batch.learned)

    def _removal_check(self, context: StepContext) -> Callable[[str, OwnedFile], SynclineError | None]:
        """Return a function that returns an error if a file that is left out at the source may not be removed.

        It is for one batch: files are counted once, and after an error no further files of the cluster are checked.
        """
        lock, refused = threading.Lock(), dict[str, SynclineError]()
        count = cache(lambda cluster: self.owned.count([cluster]))

        def clusters() -> list[str]:
            return list_clusters(self.reader.bucket, self.settings.layout).names

        def check(key: str, file: OwnedFile) -> SynclineError | None:
            cluster = self.settings.layout.cluster_of(key) or ""
            with lock:  # one at a time: each is counted before the next is checked
                if cluster not in refused:
                    gone = {cluster: GoneFiles({key: file}, count(cluster))}
                    view = SourceView(clusters, self._has, lambda: self.owned.count(clusters()))
                    errors = self._limiter(context).refused(gone, view)
                    if key in errors:
                        refused[cluster] = errors[key]
                return refused.get(cluster)

        return check

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        verified = [Unfinished(item) if context.over else self._verified(item) for item in items]
        learned = {each.item.name: _record(each.item) for each in verified if isinstance(each, Completed)}
        if learned:
            self.owned.write(learned)
        yield from verified

    def _verified(self, item: Item) -> Completed | Failure:
        try:
            now = self.store.fingerprint(self.settings.layout.path_of(item.name))
        except SynclineError as error:
            return Failure(item, error)
        if now == item.source:
            return Completed(item)
        what = f"{shown(item.name)} at {self.store} is {now or 'absent'}, expected {item.source or 'none'}"
        return Failure(item, SynclineError("NOT_ARRIVED", what))

    def audit(self, scope: Scope, cursor: str | None, context: StepContext, audit: Audit) -> Iterator[Page]:
        from syncline.kinds.backups.audit import AuditTarget, BackupAudit, StoreFiles  # noqa: PLC0415 - few functions audit

        layout = self.settings.layout
        files = StoreFiles(layout, self.store)

        def opened(_group: str, _context: StepContext) -> AbstractContextManager[AuditTarget]:
            return nullcontext(files)

        clusters = lambda _context: files.clusters()  # noqa: E731 - as short as it can be
        return BackupAudit(self.reader, layout, str, opened, clusters, audit).pages(scope, cursor, context)

    def drill(self, scope: Scope, cursor: str | None, context: StepContext, share: float) -> Iterator[Page]:
        settings, opened = self.settings, open_store(self.settings.layout, self.store)
        drill = Drill(settings, self.reader, self.index, self.owned, lambda cluster: cluster, opened)
        return drill.pages(scope, cursor, context, share)

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        log_run(self.settings.log, self.settings.layout, self.reader.bucket, run, results)

    def reference(self, group: str) -> str:
        return f"{self.store}#{group}"

    def requests(self) -> int:
        return self.http.requests_made


@dataclass(frozen=True, slots=True)
class _Batch:
    """The transfer of one batch: copy objects, adopt files that are equal already, or remove files.

    `rows` are the records of files of ours and `written` their index entries, by key. `removal_error` returns an error
    if a file of ours, whose object is left out now, may not be removed. `learned` are the index entries of the objects.
    """

    reader: Reader
    store: FileStore
    owned: OwnedFiles
    removal_error: Callable[[str, OwnedFile], SynclineError | None]
    context: StepContext
    rows: Mapping[str, OwnedFile]
    written: Mapping[str, IndexEntry]
    learned: dict[str, IndexEntry] = field(default_factory=dict)
    large: threading.Lock = field(default_factory=threading.Lock)
    """Held while a large object is copied: it is in memory while it is inspected."""

    def copy(self, item: Item) -> TransferResult:
        """Transfer one item."""
        if self.context.over:
            return Unfinished(item)
        try:
            return self._transferred(item)
        except OutOfTime:
            return Unfinished(item)
        except SynclineError as error:
            return Failure(item, error)

    def _transferred(self, item: Item) -> TransferResult:
        error = invalid_path(self._path(item))
        if error is not None:
            raise error
        try:
            stream = self.reader.bucket.open(item.name)
        except SynclineError as failed:
            if failed.code.name != "NOT_FOUND" or self.reader.bucket.head(item.name) is not None:
                raise
            if not item.detail.get("remove"):
                # Only a file that was counted with all gone files may be removed.
                reason = "vanished since the scan; the next scan removes it"
                return Result(item.group, item.name, Outcome.EQUAL, reason=reason)
            return self._removed(item)
        with stream:
            head = stream.head
            self.reader.check_size(item.name, head.size)
            if not self.reader.secrets_filter.inspects:
                return self._put(item, head, head.size, stream.chunks(_CHUNK))
            with self.large if head.size > SMALL else nullcontext():
                return self._inspected(item, head, stream.chunks(_CHUNK))

    def _path(self, item: Item) -> str:
        return self.reader.path_of(item.name)

    def _inspected(self, item: Item, head: ObjectHead, chunks: Iterator[bytes]) -> TransferResult:
        """Copy the part of an object that may go to the target.

        An object too large to be held is read twice: it is inspected before any of it is written.
        """
        secrets_filter = self.reader.secrets_filter

        def over() -> bool:
            return self.context.over

        if head.size <= LARGEST:
            filtered = secrets_filter.apply(self._path(item), b"".join(chunks), over)
            if filtered.data is None:
                return self._left_out(item, head, filtered.code or CERTAIN)
            return self._put(item, head, len(filtered.data), iter([filtered.data]), filtered.data)
        code = secrets_filter.reason_to_leave_out(chunks, over)
        if code is not None:
            return self._left_out(item, head, code)
        with self.reader.bucket.open(item.name, etag=head.etag) as again:
            return self._put(item, head, head.size, again.chunks(_CHUNK))

    def _put(
        self, item: Item, head: ObjectHead, size: int, chunks: Iterator[bytes], data: bytes | None = None
    ) -> TransferResult:
        """Write these bytes, adopt the target's file if it has them, or leave a foreign one unchanged.

        `data` are the bytes if they are in memory: then a file of ours that has them is not written again.
        """
        store, path, row = self.store, self._path(item), self.rows.get(item.name)
        before = store.fingerprint(path)
        created = row.created if row is not None else 0
        if before is not None and not self._is_ours(item, before):
            source, target = stream_id(size, chunks), store.content_id(path)
            if source != target:
                return foreign(item.group, item.name, source, target)
            return self._adopted(item, head, OwnedFile(before, head.etag, head.size, created), source)
        normalizes = self.reader.secrets_filter.normalizer is not None
        if before is not None and data is not None and (normalizes or row is None or row.etag in ("", head.etag)):
            # Another version of a normalized object may be equal, or the record does not name another version.
            source = blob_id(data)
            if store.content_id(path) == source:
                return self._adopted(item, head, OwnedFile(before, head.etag, head.size, created), source)
        after = store.write(path, chunks)
        self.learned[item.name] = IndexEntry(head.etag, after)
        detail = {"etag": head.etag, "created": int(self.owned.clock()) if before is None else created}
        return Completed(Item(item.group, item.name, after, before, head.size, detail), head.size)

    def _adopted(self, item: Item, head: ObjectHead, file: OwnedFile, content: str) -> TransferResult:
        self.owned.write({item.name: file})
        self.learned[item.name] = IndexEntry(head.etag, file.fingerprint)
        return Result(item.group, item.name, Outcome.EQUAL, content, content)

    def _is_ours(self, item: Item, fingerprint: str) -> bool:
        return _is_ours(item.name, fingerprint, self.rows, self.written)

    def _left_out(self, item: Item, head: ObjectHead, code: LeftOutCode) -> TransferResult:
        """Leave an object out. Its file is removed if it is ours and the limits allow it."""
        fingerprint, error = self.store.fingerprint(self._path(item)), None
        if fingerprint is not None and self._is_ours(item, fingerprint):
            error = self.removal_error(item.name, self.rows.get(item.name) or OwnedFile(fingerprint))
        result: TransferResult
        if error is not None:
            result = Failure(item, error)
        else:
            result = left_out(item, code) if fingerprint is None else self._removed(item)
        self.learned[item.name] = IndexEntry(head.etag, "", code)
        return result

    def _removed(self, item: Item) -> TransferResult:
        """Remove the item's file if it is ours."""
        fingerprint = self.store.fingerprint(self._path(item))
        if fingerprint is None:
            return Result(item.group, item.name, Outcome.EQUAL)
        if not self._is_ours(item, fingerprint):
            return foreign(item.group, item.name, None, fingerprint)
        self.store.remove(self._path(item))
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
