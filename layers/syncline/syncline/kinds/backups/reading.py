"""Reading changed objects of the bucket, many at a time, and what each of them becomes in git."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol

from syncline.clients.git.objects import blob_id
from syncline.clients.git.repository import Blob
from syncline.clients.http.listings import Odd
from syncline.clients.s3.client import Bucket, ObjectStream
from syncline.clients.s3.head import Head
from syncline.errors import CodeName, SynclineError
from syncline.kinds.backups.paths import Layout, shown
from syncline.kinds.backups.sealing import CERTAIN, Sealer
from syncline.kinds.backups.secrets import LARGEST, OutOfTime
from syncline.model import Item
from syncline.store.backup_records import Known, LeftOutCode

SMALL: Final = 2 * 1024 * 1024
"""Bytes of an object up to which it is held in memory; a larger one is streamed."""
_CHUNK: Final = 256 * 1024
_CHANGED: Final = 3  # times an object is read again because it changed meanwhile
_OUR_OWN: Final[tuple[CodeName, ...]] = (
    "DISK_FULL",
    "GIT_ABSENT",
    "GIT_FAILED",
    "TIME_SHORT",
)  # no fault of the object's


@dataclass(slots=True)
class Clusters:
    """The selected clusters that a bucket lists, the keys that lie in none, and entries that cannot be used.

    ``is_empty`` says that the bucket lists nothing at all below the source's prefix.
    """

    names: list[str]
    loose: list[str]
    odd: list[Odd]
    is_empty: bool


def clusters_in(bucket: Bucket, layout: Layout) -> Clusters:
    """List the clusters of a bucket."""
    names: list[str] = []
    loose: list[str] = []
    odd: list[Odd] = []
    for page in bucket.pages(layout.prefix, delimiter="/", odd=odd.append):
        names += [each[len(layout.prefix) : -1] for each in page.prefixes]
        loose += [each.key for each in page.objects]
    selected = sorted(name for name in names if name and layout.takes_cluster(name))
    files = [key for key in loose if not key.endswith("/")]
    return Clusters(selected, files, odd, not (names or loose or odd))


@dataclass(slots=True)
class Listing:
    """The selected objects of a cluster by key, with ETag and size (bytes), or why they could not be listed.

    ``odd`` are entries that cannot be used.
    """

    cluster: str
    objects: dict[str, tuple[str, int]] = field(default_factory=dict)
    odd: list[Odd] = field(default_factory=list)
    error: SynclineError | None = None


def listing_of(bucket: Bucket, layout: Layout, cluster: str, *, listed: bool) -> Listing:
    """List a cluster. Where the bucket has ``listed`` its name, a listing without any entry is not believed."""
    found = Listing(cluster)
    empty = True
    try:
        for page in bucket.pages(f"{layout.prefix}{cluster}/", odd=found.odd.append):
            for each in page.objects:
                empty = False
                if layout.takes(each.key):
                    found.objects[each.key] = (each.etag, each.size)
    except SynclineError as error:
        found.error = error
    if empty and listed and not found.odd and found.error is None:
        what = f"{bucket} lists the cluster {cluster}, and then none of its objects"
        found.error = SynclineError("LISTING_INCOMPLETE", what)
    return found


class LargeStore(Protocol):
    """Keeps a large blob without holding it: :meth:`syncline.clients.git.repository.Branch.store_stream`."""

    def __call__(self, blob: Blob) -> str: ...


@dataclass(frozen=True, slots=True)
class Content:
    """The blob that an object became: its id, None where the object is gone or left out. ``data`` where it is held.

    ``known`` is for the memory. ``left_out`` is the code of an object that is left out, ``error`` says why one could not
    be read.
    """

    item: Item
    blob: str | None = None
    data: bytes | None = None
    known: Known | None = None
    size: int = 0
    left_out: LeftOutCode | None = None
    error: SynclineError | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads objects by the rules of a sync. ``largest`` is in bytes; ``at_once`` objects are read at a time."""

    bucket: Bucket
    sealer: Sealer
    largest: int
    at_once: int
    path_of: Callable[[str], str]

    def read(self, items: Sequence[Item], store: LargeStore, over: Callable[[], bool]) -> Iterator[Content]:
        """An answer for each item, in order; those after the time was over are left out.

        Small objects are read by threads, a window of them ahead; large ones are stored by the caller's thread.
        """
        ahead: deque[Future[Content | _Large | None]] = deque()
        waiting = iter(items)
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="read") as pool:
            try:
                while True:
                    while len(ahead) < 2 * self.at_once and not over() and (item := next(waiting, None)) is not None:
                        ahead.append(pool.submit(self._one, item, over))
                    if not ahead:
                        return
                    answer = ahead.popleft().result()
                    if isinstance(answer, _Large):
                        answer = self._stored(answer.item, store, over)
                    if answer is None:
                        return
                    yield answer
            finally:
                for future in ahead:
                    future.cancel()

    def _one(self, item: Item, over: Callable[[], bool]) -> Content | _Large | None:
        """Return None if the time was over while the object was inspected."""
        try:
            return self._look(item, over)
        except SynclineError as error:
            return Content(item, error=error)
        except OutOfTime:
            return None

    def _look(self, item: Item, over: Callable[[], bool]) -> Content | _Large:
        try:
            stream = self.bucket.open(item.name)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            if self.bucket.head(item.name) is None:
                return Content(item)
            raise SynclineError("SOURCE_CHANGED", f"{shown(item.name)} came and went while it was read") from None
        with stream:
            head = stream.head
            if head.size > self.largest:
                what = f"{shown(item.name)} has {head.size} bytes, over the sync's {self.largest}"
                raise SynclineError("OVER_LIMIT", what)
            return _Large(item) if head.size > SMALL else self._held(stream, item, over)

    def _held(self, stream: ObjectStream, item: Item, over: Callable[[], bool]) -> Content:
        whole = b"".join(stream.chunks(_CHUNK))
        head = stream.head
        if len(whole) != head.size:
            raise SynclineError("SOURCE_CHANGED", f"{shown(item.name)} gave {len(whole)} bytes of {head.size}")
        sealed = self.sealer.sealed(self.path_of(item.name), whole, over)
        if sealed.data is None:
            return _left_out(item, head, sealed.code)
        blob = blob_id(sealed.data)
        return Content(item, blob, sealed.data, Known(head.etag, blob), head.size)

    def _stored(self, item: Item, store: LargeStore, over: Callable[[], bool]) -> Content | None:
        for left in reversed(range(_CHANGED)):
            try:
                return self._large(item, store, over)
            except OutOfTime:
                return None
            except SynclineError as error:
                if error.code.name in _OUR_OWN:
                    raise
                if not error.is_any("SOURCE_CHANGED", "UNREACHABLE") or not left:
                    return Content(item, error=error)
        raise AssertionError  # the loop has no other end

    def _large(self, item: Item, store: LargeStore, over: Callable[[], bool]) -> Content:
        """Store one large object, in the caller's thread: no two are held or streamed at a time.

        One that is too large to be held is read twice: it is inspected before any of it is stored.
        """
        etag = None
        if self.sealer.inspects:
            with self.bucket.open(item.name) as stream:
                if stream.head.size <= LARGEST:
                    return self._held(stream, item, over)
                code = self.sealer.refusal(stream.chunks(_CHUNK), over)
                if code is not None:
                    return _left_out(item, stream.head, code)
                etag = stream.head.etag
        with self.bucket.open(item.name, etag=etag) as stream:
            head = stream.head
            blob = store(Blob(head.size, stream.chunks(_CHUNK)))
            return Content(item, blob, None, Known(head.etag, blob), head.size)


def _left_out(item: Item, head: Head, code: LeftOutCode | None) -> Content:
    return Content(item, None, None, Known(head.etag, "", code or CERTAIN), head.size, code or CERTAIN)


@dataclass(frozen=True, slots=True)
class _Large:
    """An object to be stored as a stream."""

    item: Item
