"""The source bucket: list its clusters and their objects, read changed objects, and plan what a run would do with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from syncline.clients.git.objects import blob_id, stream_id
from syncline.clients.git.repository import BlobContent
from syncline.clients.http.listings import InvalidEntry
from syncline.clients.s3.client import Bucket, ObjectStream
from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.xml import ListedObject
from syncline.errors import CodeName, SynclineError
from syncline.kinds.backups.paths import Layout, shown
from syncline.kinds.backups.secrets_detection import LARGEST, OutOfTime
from syncline.kinds.backups.secrets_filter import CERTAIN, SecretsFilter, left_out
from syncline.kinds.kind import StepContext, would_move, would_remove
from syncline.model import Item, Outcome, Result
from syncline.store.backup_records import FileCount, IndexEntry, LeftOutCode

T = TypeVar("T")
R = TypeVar("R")
SMALL: Final = 2 * 1024 * 1024  # largest object in bytes that is held in memory; larger ones are streamed
_CHUNK: Final = 256 * 1024
_READS: Final = 3  # times a large object is read if it changes while it is read
_LOCAL_ERRORS: Final[tuple[CodeName, ...]] = ("DISK_FULL", "GIT_ABSENT", "GIT_FAILED", "TIME_SHORT")
"""Codes of errors on this machine, which fail the batch and not the object."""
_NOT_SEARCHED: Final = "not inspected because time was short: a run may find it equal or leave it out"


@dataclass(slots=True)
class ClusterListing:
    """The selected clusters of a bucket, the keys outside any cluster, and invalid entries of the listing.

    `is_empty` is True if the bucket lists nothing at all below the source's prefix.
    """

    names: list[str]
    stray: list[str]
    invalid: list[InvalidEntry]
    is_empty: bool


def list_clusters(bucket: Bucket, layout: Layout) -> ClusterListing:
    names: list[str] = []
    stray: list[str] = []
    invalid: list[InvalidEntry] = []
    for page in bucket.pages(layout.prefix, delimiter="/", on_invalid=invalid.append):
        names += [each[len(layout.prefix) : -1] for each in page.prefixes]
        stray += [each.key for each in page.objects]
    selected = sorted(name for name in names if name and layout.takes_cluster(name))
    files = [key for key in stray if not key.endswith("/")]
    return ClusterListing(selected, files, invalid, not (names or stray or invalid))


@dataclass(slots=True)
class ObjectListing:
    """The selected objects of a cluster by key, and invalid entries of the listing.

    `error` is set if the cluster could not be listed.
    """

    cluster: str
    objects: dict[str, ListedObject] = field(default_factory=dict)
    invalid: list[InvalidEntry] = field(default_factory=list)
    error: SynclineError | None = None


def list_objects(bucket: Bucket, layout: Layout, cluster: str, *, listed: bool) -> ObjectListing:
    """List a cluster. If the bucket has `listed` its name, an empty listing is an error (LISTING_INCOMPLETE)."""
    found = ObjectListing(cluster)
    empty = True
    try:
        for page in bucket.pages(f"{layout.prefix}{cluster}/", on_invalid=found.invalid.append):
            for each in page.objects:
                empty = False
                if layout.takes(each.key):
                    found.objects[each.key] = each
    except SynclineError as error:
        found.error = error
    if empty and listed and not found.invalid and found.error is None:
        what = f"{bucket} lists the cluster {cluster}, but none of its objects"
        found.error = SynclineError("LISTING_INCOMPLETE", what)
    return found


class Index(Protocol):
    """The index of objects read in earlier runs: see :class:`syncline.store.backup_index.BackupIndex`.

    `source_id` names the bucket and the policy for Secrets. That an object with this key and this ETag is this blob
    never changes, so entries may be added in any order, twice or not at all. Whether the branch has the blob is read
    from the branch. The index makes scans fast; a lost one is rebuilt.
    """

    def entries(self, source_id: str, cluster: str) -> dict[str, IndexEntry]: ...

    def add(self, source_id: str, cluster: str, part: str, entries: Mapping[str, IndexEntry]) -> None: ...

    def replace(self, source_id: str, cluster: str, entries: Mapping[str, IndexEntry]) -> None: ...

    def file_counts(self, reference: str) -> dict[str, FileCount]: ...

    def save_file_counts(self, reference: str, counts: Mapping[str, FileCount]) -> None: ...


LargeStore = Callable[[BlobContent], str]
"""Stores a large blob as a stream: :meth:`syncline.clients.git.repository.RemoteBranch.store_stream`."""


def map_ahead(
    function: Callable[[T], R], values: Iterable[T], threads: int, most: int, over: Callable[[], bool]
) -> Iterator[R]:
    """Yield the results of a function in order; threads compute up to `most` of them ahead until `over` returns True."""
    ahead: deque[Future[R]] = deque()
    waiting = iter(values)
    with ThreadPoolExecutor(threads, "ahead") as pool:
        try:
            while True:
                while len(ahead) < most and not over() and (value := next(waiting, None)) is not None:
                    ahead.append(pool.submit(function, value))
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


@dataclass(frozen=True, slots=True)
class ObjectContent:
    """The blob that an object became: its ID, None if the object is gone or left out; `data` if it is held in memory.

    `entry` is for the index. `left_out` is the code of an object that is left out. `error` is set if the object could
    not be read.
    """

    item: Item
    blob: str | None = None
    data: bytes | None = None
    entry: IndexEntry | None = None
    size: int = 0
    left_out: LeftOutCode | None = None
    error: SynclineError | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads objects of a sync, `at_once` at a time. `largest` is in bytes."""

    bucket: Bucket
    secrets_filter: SecretsFilter
    largest: int
    at_once: int
    path_of: Callable[[str], str]

    def read(self, items: Sequence[Item], store: LargeStore, over: Callable[[], bool]) -> Iterator[ObjectContent]:
        """Yield the content of each item in order; stop early when `over` returns True.

        Threads read small objects ahead; the caller's thread stores large ones.
        """
        for content in map_ahead(lambda item: self._read(item, over), items, self.at_once, 2 * self.at_once, over):
            found = self._stored(content, store, over) if isinstance(content, Item) else content
            if found is None:
                return
            yield found

    def plan(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:
        """Yield for each item how a run would end for it. Objects are read only if the filter inspects them."""
        yield from (would_remove(item) for item in items if item.detail.get("remove"))
        others = [item for item in items if not item.detail.get("remove")]
        if not self.secrets_filter.inspects:
            yield from map(would_move, others)
            return
        read = 0
        for content in self.read(others, lambda blob: stream_id(blob.size, blob.chunks), lambda: context.over):
            read += 1
            yield _planned_result(content)
        for item in others[read:]:
            yield would_move(item, _NOT_SEARCHED)

    def check_size(self, name: str, size: int) -> None:
        """Raise OVER_LIMIT for an object that is larger than the sync allows."""
        if size > self.largest:
            raise SynclineError("OVER_LIMIT", f"{shown(name)} has {size} bytes; the sync allows {self.largest}")

    def _read(self, item: Item, over: Callable[[], bool]) -> ObjectContent | Item | None:
        """Read one object; return None if the time is over while it is inspected, and the item if it is large."""
        try:
            return self._opened(item, over)
        except SynclineError as error:
            return ObjectContent(item, error=error)
        except OutOfTime:
            return None

    def _opened(self, item: Item, over: Callable[[], bool]) -> ObjectContent | Item:
        try:
            stream = self.bucket.open(item.name)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            if self.bucket.head(item.name) is None:
                return ObjectContent(item)
            raise SynclineError(
                "SOURCE_CHANGED", f"{shown(item.name)} was created or removed while it was read"
            ) from None
        with stream:
            self.check_size(item.name, stream.head.size)
            return item if stream.head.size > SMALL else self._held(stream, item, over)

    def _held(self, stream: ObjectStream, item: Item, over: Callable[[], bool]) -> ObjectContent:
        """Read an object into memory."""
        data = b"".join(stream.chunks(_CHUNK))
        head = stream.head
        if len(data) != head.size:
            raise SynclineError("SOURCE_CHANGED", f"{shown(item.name)} ended after {len(data)} of {head.size} bytes")
        filtered = self.secrets_filter.apply(self.path_of(item.name), data, over)
        if filtered.data is None:
            return _left_out(item, head, filtered.code)
        blob = blob_id(filtered.data)
        return ObjectContent(_as_read(item, head), blob, filtered.data, IndexEntry(head.etag, blob), head.size)

    def _stored(self, item: Item, store: LargeStore, over: Callable[[], bool]) -> ObjectContent | None:
        """Store a large object, again if it changes meanwhile; return None if the time is over."""
        for left in reversed(range(_READS)):
            try:
                return self._store(item, store, over)
            except OutOfTime:
                return None
            except SynclineError as error:
                if error.code.name in _LOCAL_ERRORS:
                    raise
                if not error.is_any("SOURCE_CHANGED", "UNREACHABLE") or not left:
                    return ObjectContent(item, error=error)
        raise AssertionError  # the loop always returns or raises

    def _store(self, item: Item, store: LargeStore, over: Callable[[], bool]) -> ObjectContent:
        """Store a large object, in the caller's thread so that only one is held or streamed at a time.

        An object too large to be held is read twice: it is inspected before any of it is stored.
        """
        etag = None
        if self.secrets_filter.inspects:
            with self.bucket.open(item.name) as stream:
                if stream.head.size <= LARGEST:
                    return self._held(stream, item, over)
                code = self.secrets_filter.reason_to_leave_out(stream.chunks(_CHUNK), over)
                if code is not None:
                    return _left_out(item, stream.head, code)
                etag = stream.head.etag
        with self.bucket.open(item.name, etag=etag) as stream:
            head = stream.head
            blob = store(BlobContent(head.size, stream.chunks(_CHUNK)))
            return ObjectContent(_as_read(item, head), blob, None, IndexEntry(head.etag, blob), head.size)


def failed_result(item: Item, error: SynclineError) -> Result:
    """Return the result of an item that fails without a transfer."""
    return Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, error.code.name, error.what)


def _left_out(item: Item, head: ObjectHead, code: LeftOutCode | None) -> ObjectContent:
    entry = IndexEntry(head.etag, "", code or CERTAIN)
    return ObjectContent(_as_read(item, head), None, None, entry, head.size, code or CERTAIN)


def _as_read(item: Item, head: ObjectHead) -> Item:
    """Return an item with the time of its object, which an event does not state."""
    return replace(item, changed=int(head.modified) or item.changed)


def _planned_result(content: ObjectContent) -> Result:
    item, error = content.item, content.error
    if error is not None:
        return failed_result(item, error)
    if content.left_out is not None:
        return left_out(item, content.left_out)
    if content.blob is None:  # it vanished meanwhile, or an event named an object that is gone
        return Result(item.group, item.name, Outcome.EQUAL) if item.target is None else would_remove(item)
    if content.blob == item.target:
        return Result(item.group, item.name, Outcome.EQUAL)
    return would_move(item)
