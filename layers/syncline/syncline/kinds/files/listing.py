"""A bucket's listing, read ahead: while one page is compared, the next ones are fetched."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from syncline.clients.http.listings import OBJECTS, Extent, Odd, OnOdd, refuse
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.xml import Listed, ListPage
from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.kind import Failure
from syncline.model import Item

# Odd entries of the listings that a scan reads: each is a failure of its own, and nothing is removed after one.


@dataclass(frozen=True, slots=True)
class OddOnes:
    """The odd entries that the listings of a window have met. Pages are read ahead, so some may lie behind the window.

    ``failed`` makes the failure of a key.
    """

    sync: FilesSync
    failed: Callable[[str, SynclineError], Failure]
    at_source: list[Odd] = field(default_factory=list)
    at_target: list[Odd] = field(default_factory=list)

    def failures(self, after: str, upto: str | None) -> dict[str, Failure]:
        """Return the failures of the entries behind the name ``after`` and up to ``upto`` (None: to the end).

        They are by key, or by the entry's place if it has no name. Keys that the sync does not take are left out.
        """
        found: dict[str, Failure] = {}
        for name, odd, key in self._keys():
            if name and (name <= after or (upto is not None and name > upto)):
                continue
            if odd.name is None:
                found[odd.label] = Failure(Item("*", odd.label), odd.error)
            elif key is not None:
                found[key] = self.failed(key, odd.error)
        return found

    def _keys(self) -> Iterator[tuple[str, Odd, str | None]]:
        """Yield each entry with the name that it sorts by, and its key if that is one of the sync's."""
        for odd in self.at_source:
            yield self.sync.name_of(odd.at), odd, odd.name if odd.name and self.sync.takes(odd.name) else None
        for odd in self.at_target:
            yield odd.at.removeprefix(self.sync.target.prefix), odd, self.sync.key_of(odd.name) if odd.name else None


SHARDS: Final = 6
"""Parts of a bucket that are listed at a time, where folders part it."""
_PAGES: Final = 3
"""Pages that are fetched ahead of a part."""
_WORTH: Final = 2
"""Folders from which on it is worth listing them side by side."""
_CHUNK: Final = 1_000
"""Names read ahead at a time."""

T = TypeVar("T")


def chunks(items: Iterator[T]) -> Iterator[list[T]]:
    """Yield the items in lists, so that handing them from thread to thread costs little."""
    while chunk := list(islice(items, _CHUNK)):
        yield chunk


def listed_ahead(bucket: Bucket, prefix: str, after: str, odd: OnOdd = refuse) -> Generator[Listed]:
    """All objects below ``prefix`` and behind ``after``, in order.

    ``odd`` is called by the threads that fetch pages, for entries of all pages that are fetched.

    A bucket that fits into one page costs one request. A larger one is split by its folders, of which several are
    listed at a time; if it has none, or too many, its pages come one after another, one ahead.
    """
    held: list[Odd] = []
    first = bucket.page(prefix, after=after, odd=held.append)
    if first.token is None:
        for each in held:
            odd(each)
        yield from first.objects
        return
    # Asked for from the start: services differ in which folders lie behind a key within one of them.
    hidden: list[Odd] = []
    tops = bucket.page(prefix, delimiter="/", odd=hidden.append)
    with ThreadPoolExecutor(SHARDS, thread_name_prefix="list") as pool:
        if tops.token is not None or len(tops.prefixes) < _WORTH or hidden:
            for each in held:
                odd(each)
            yield from _one_after_another(bucket, prefix, first, pool, odd)
        else:
            yield from _side_by_side(bucket, tops, after, pool, odd)


def _one_after_another(
    bucket: Bucket, prefix: str, first: ListPage, pool: ThreadPoolExecutor, odd: OnOdd
) -> Generator[Listed]:
    page, extent = first, Extent(f"the listing of {bucket}", OBJECTS)
    while page.token is not None:
        extent.count((), len(page.objects))
        extent.at(page.token)
        following = pool.submit(bucket.page, prefix, token=page.token, odd=odd)
        yield from page.objects
        page = following.result()
    yield from page.objects


def _side_by_side(
    bucket: Bucket, tops: ListPage, after: str, pool: ThreadPoolExecutor, odd: OnOdd
) -> Generator[Listed]:
    """Objects at the top and the contents of folders, as they sort."""
    parts: list[tuple[str, Listed | None]] = [(each.key, each) for each in tops.objects if each.key > after]
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
            pages, extent = future.result(), Extent(f"the listing of {bucket}", OBJECTS)
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


def _some_pages(bucket: Bucket, prefix: str, after: str, token: str | None, odd: OnOdd) -> list[ListPage]:
    """A few pages of a part of the listing."""
    pages = [bucket.page(prefix, after=after, token=token, odd=odd)]
    while pages[-1].token is not None and len(pages) < _PAGES:
        pages.append(bucket.page(prefix, token=pages[-1].token, odd=odd))
    return pages


def behind(start: str, after: str) -> str:
    """Return the key or path that a listing goes on after, "" for its beginning."""
    return start + after if after else ""
