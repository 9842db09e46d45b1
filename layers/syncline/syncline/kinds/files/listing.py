"""Listings of buckets, read ahead: while one page is compared, the next ones are fetched."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from syncline.clients.http.listings import PAGED_LIMITS, InvalidEntry, ListingGuard, OnInvalid, refuse
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.xml import ListedObject, ListPage
from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.kind import Failure
from syncline.model import Item

SHARDS: Final = 6
"""Folders of a bucket that are listed at a time."""
_PAGES: Final = 3
"""Pages of a folder that are fetched ahead."""
_FEWEST_FOLDERS: Final = 2
"""Folders from which on they are listed in parallel."""
_CHUNK: Final = 1_000
"""Names read ahead at a time."""

T = TypeVar("T")


def chunks(items: Iterator[T]) -> Iterator[list[T]]:
    """Yield the items in lists, so that passing them between threads costs little."""
    while chunk := list(islice(items, _CHUNK)):
        yield chunk


def listed_ahead(bucket: Bucket, prefix: str, after: str, odd: OnInvalid = refuse) -> Generator[ListedObject]:
    """Yield all objects below ``prefix`` and behind ``after``, in order.

    ``odd`` is called by the threads that fetch pages, with the invalid entries of all pages that are fetched.

    A bucket that fits into one page costs one request. A larger one is split by its folders, of which several are
    listed at a time; if it has none, or too many, its pages are listed one after another, one ahead.
    """
    held: list[InvalidEntry] = []
    first = bucket.page(prefix, after=after, on_invalid=held.append)
    if first.token is None:
        for each in held:
            odd(each)
        yield from first.objects
        return
    # Listed from the start: services differ in which folders come behind a key within one of them.
    hidden: list[InvalidEntry] = []
    tops = bucket.page(prefix, delimiter="/", on_invalid=hidden.append)
    with ThreadPoolExecutor(SHARDS, thread_name_prefix="list") as pool:
        if tops.token is not None or len(tops.prefixes) < _FEWEST_FOLDERS or hidden:
            for each in held:
                odd(each)
            yield from _in_sequence(bucket, prefix, first, pool, odd)
        else:
            yield from _in_parallel(bucket, tops, after, pool, odd)


def _in_sequence(
    bucket: Bucket, prefix: str, first: ListPage, pool: ThreadPoolExecutor, odd: OnInvalid
) -> Generator[ListedObject]:
    page, extent = first, ListingGuard(f"the listing of {bucket}", PAGED_LIMITS)
    while page.token is not None:
        extent.count((), len(page.objects))
        extent.at(page.token)
        following = pool.submit(bucket.page, prefix, token=page.token, on_invalid=odd)
        yield from page.objects
        page = following.result()
    yield from page.objects


def _in_parallel(
    bucket: Bucket, tops: ListPage, after: str, pool: ThreadPoolExecutor, odd: OnInvalid
) -> Generator[ListedObject]:
    """Yield the objects at the top and the contents of the folders, in order."""
    parts: list[tuple[str, ListedObject | None]] = [(each.key, each) for each in tops.objects if each.key > after]
    parts += [(each, None) for each in tops.prefixes if each > after or after.startswith(each)]
    parts.sort(key=lambda part: part[0].encode())
    ahead: deque[tuple[str, Future[list[ListPage]]]] = deque()
    waiting = iter([name for name, listed in parts if listed is None])

    def fill() -> None:
        while len(ahead) < SHARDS and (name := next(waiting, None)) is not None:
            start = after if after.startswith(name) else ""
            ahead.append((name, pool.submit(_some_pages, bucket, name, start, None, odd)))

    try:
        for _, listed in parts:
            if listed is not None:
                yield listed
                continue
            fill()
            name, future = ahead.popleft()
            pages, extent = future.result(), ListingGuard(f"the listing of {bucket}", PAGED_LIMITS)
            while pages:
                token = pages[-1].token
                extent.count((), sum(len(page.objects) for page in pages))
                if token is not None:
                    extent.at(token)
                following = pool.submit(_some_pages, bucket, name, "", token, odd) if token is not None else None
                fill()
                for page in pages:
                    yield from page.objects
                pages = following.result() if following is not None else []
    finally:
        for _, future in ahead:
            future.cancel()


def _some_pages(bucket: Bucket, prefix: str, after: str, token: str | None, odd: OnInvalid) -> list[ListPage]:
    """Return a few pages of a folder's listing."""
    pages = [bucket.page(prefix, after=after, token=token, on_invalid=odd)]
    while pages[-1].token is not None and len(pages) < _PAGES:
        pages.append(bucket.page(prefix, token=pages[-1].token, on_invalid=odd))
    return pages


@dataclass(frozen=True, slots=True)
class InvalidEntries:
    """The invalid entries of the listings of a window. Each is a failure, and nothing is removed after one.

    Pages are read ahead, so some may be behind the window. ``failed`` returns the failure of a key.
    """

    sync: FilesSync
    failed: Callable[[str, SynclineError], Failure]
    at_source: list[InvalidEntry] = field(default_factory=list)
    at_target: list[InvalidEntry] = field(default_factory=list)

    def failures(self, after: str, upto: str | None) -> dict[str, Failure]:
        """Return the failures of the entries behind the name ``after`` and up to ``upto`` (None: to the end).

        They are by key, or by the entry's position if it has no name. Keys that the sync does not take are left out.
        """
        found: dict[str, Failure] = {}
        sync, start = self.sync, self.sync.target.prefix
        entries = [
            *(
                (sync.name_of(each.near), each, each.name if each.name and sync.takes(each.name) else None)
                for each in self.at_source
            ),
            *(
                (each.near.removeprefix(start), each, sync.key_of(each.name) if each.name else None)
                for each in self.at_target
            ),
        ]
        for name, entry, key in entries:
            if name and (name <= after or (upto is not None and name > upto)):
                continue
            if entry.name is None:
                found[entry.label] = Failure(Item("*", entry.label), entry.error)
            elif key is not None:
                found[key] = self.failed(key, entry.error)
        return found
