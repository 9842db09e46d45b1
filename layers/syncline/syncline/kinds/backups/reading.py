"""Reading changed objects of the bucket, many at a time, and what each of them becomes in git."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from syncline.clients.bucket import Bucket, ObjectStream
from syncline.clients.git_objects import blob_id
from syncline.clients.git_repository import Blob
from syncline.errors import SynclineError
from syncline.kinds.backups.memory import Known
from syncline.kinds.backups.paths import shown
from syncline.kinds.backups.sealing import LARGEST, Sealer
from syncline.model import Item

SMALL: Final = 2 * 1024 * 1024
"""Bytes of an object up to which it is held in memory; a larger one is streamed."""
_CHUNK: Final = 256 * 1024
_CHANGED: Final = 3  # times an object is read again because it changed meanwhile
_OUR_OWN: Final = ("DISK_FULL", "GIT_ABSENT", "GIT_FAILED", "TIME_SHORT")  # no fault of the object's


class LargeStore(Protocol):
    """Keeps a large blob without holding it: :meth:`syncline.clients.git_repository.Branch.store_stream`."""

    def __call__(self, blob: Blob) -> str: ...


@dataclass(frozen=True, slots=True)
class Content:
    """What an object became: ``blob`` is its id, None where it is gone or left out. ``data`` where it is held.

    ``known`` is for the memory. ``error`` says why it could not be read.
    """

    item: Item
    blob: str | None = None
    data: bytes | None = None
    known: Known | None = None
    size: int = 0
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
        ahead: deque[Future[Content | _Large]] = deque()
        waiting = iter(items)
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="read") as pool:
            try:
                while True:
                    while len(ahead) < 2 * self.at_once and not over() and (item := next(waiting, None)) is not None:
                        ahead.append(pool.submit(self._one, item))
                    if not ahead:
                        return
                    answer = ahead.popleft().result()
                    yield self._stored(answer.item, store) if isinstance(answer, _Large) else answer
            finally:
                for future in ahead:
                    future.cancel()

    def _one(self, item: Item) -> Content | _Large:
        try:
            return self._look(item)
        except SynclineError as error:
            return Content(item, error=error)

    def _look(self, item: Item) -> Content | _Large:
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
            return _Large(item) if head.size > SMALL else self._held(stream, item)

    def _held(self, stream: ObjectStream, item: Item) -> Content:
        whole = b"".join(stream.chunks(_CHUNK))
        head = stream.head
        if len(whole) != head.size:
            raise SynclineError("SOURCE_CHANGED", f"{shown(item.name)} gave {len(whole)} bytes of {head.size}")
        data = self.sealer.sealed(self.path_of(item.name), whole)
        blob = None if data is None else blob_id(data)
        return Content(item, blob, data, Known(head.etag, blob or ""), head.size)

    def _stored(self, item: Item, store: LargeStore) -> Content:
        for left in reversed(range(_CHANGED)):
            try:
                with self.bucket.open(item.name) as stream:
                    return self._large(stream, item, store)
            except SynclineError as error:
                if error.code.name in _OUR_OWN:
                    raise
                if error.code.name not in ("SOURCE_CHANGED", "UNREACHABLE") or not left:
                    return Content(item, error=error)
        raise AssertionError  # the loop has no other end

    def _large(self, stream: ObjectStream, item: Item, store: LargeStore) -> Content:
        """One large object, in the caller's thread: no two are held or streamed at a time."""
        head = stream.head
        if not self.sealer.looks_into(self.path_of(item.name)):
            blob = store(Blob(head.size, stream.chunks(_CHUNK)))
            return Content(item, blob, None, Known(head.etag, blob), head.size)
        if head.size > LARGEST:
            what = f"{shown(item.name)} has {head.size} bytes, too many to be searched for Secrets"
            raise SynclineError("SECRETS_UNSEEN", what)
        return self._held(stream, item)


@dataclass(frozen=True, slots=True)
class _Large:
    """An object to be stored as a stream."""

    item: Item
