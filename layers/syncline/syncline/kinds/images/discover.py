"""Discovery of images: the order in which a scan compares repositories, where it resumes, and what follows behind them."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from syncline.clients.http.listings import InvalidEntry, ignore
from syncline.kinds.images.compare import LONG, TagComparison
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import (
    RegistryClients,
    ScanPosition,
    count_listing,
    nothing_listed,
    repository_pages,
    target_repositories,
)
from syncline.kinds.images.records import ProcessRecords, Records, RereadShare, ScanCounter, ScanRecords
from syncline.kinds.images.removals import REMOVING, ScanRemovals, TagRemovals
from syncline.kinds.images.repositories import SelectedRepositories
from syncline.kinds.kind import Page, StepContext, failure_pages
from syncline.model import Scope

AT_ONCE: Final = 16
"""Repositories compared at a time."""


class ImageScan:
    """One scan of a sync's repositories."""

    def __init__(  # noqa: PLR0913, PLR0917 - the sync, both registries, and the stored state
        self,
        sync: ImagesSync,
        source: RegistryClients,
        target: RegistryClients,
        notes: TargetNotes,
        records: Records | None = None,
        removals: TagRemovals | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without ``records`` the scan has only those of this process, and without ``removals`` nothing is removed."""
        self._removals = removals
        self._sync = sync
        self._clock = clock
        self._source = source
        self._target = target
        self._notes = notes
        self._all_records = ProcessRecords() if records is None else records
        self._counter = ScanCounter(notes.facts, f"images-scan:{sync.name}:{sync.target_id()}")
        self._has_unverified = notes.unverified()
        self._repositories = SelectedRepositories(sync, source)
        self._requests = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="request")

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield pages in the order of repositories and tags, behind the one that ``cursor`` names.

        A cursor is the name of a repository that was scanned, ``name:tag`` or ``name?position`` within one, or the
        :class:`ScanPosition` in a long listing of repositories.
        """
        with_referrers = self._sync.referrers == "always"
        with_referrers |= scope.groups is not None and self._sync.referrers == "with-images"
        records = ScanRecords(self._all_records, full=scope.groups is None, writes=not context.plan)
        removals = None if self._removals is None else ScanRemovals(self._removals, self._source, records, context)
        comparison = TagComparison(
            sync=self._sync,
            source=self._source,
            target=self._target,
            notes=self._notes,
            has_unverified=self._has_unverified,
            records=records,
            removals=removals,
            share=self._reread_share(scope, context),
            with_referrers=with_referrers,
            context=context,
            clock=self._clock,
            requests=self._requests,
        )
        try:
            if cursor is None or not cursor.startswith(REMOVING):
                yield from self._pages(scope, cursor, comparison)
            elif removals is not None:  # else the sync was configured otherwise when the scan began
                yield from removals.pages(scope, cursor, None, comparison.listed_again)
        finally:
            records.write(least=1)

    def _pages(self, scope: Scope, cursor: str | None, comparison: TagComparison) -> Iterator[Page]:
        context = comparison.context
        listed: list[str] | None = None
        invalid: list[InvalidEntry] = []
        invalid_at_target: list[InvalidEntry] = []
        if context.named and cursor is None and not self._sync.needs_listing:
            yield Page("", failures=tuple(self._repositories.not_taken(scope)))
        position = ScanPosition.parse(cursor) if cursor is not None and cursor.startswith("[") else None
        # Repositories wait for digests, and digests wait for nothing, so the two pools cannot block one another.
        with self._requests, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="repository") as pool:
            if self._sync.needs_listing:
                names: list[str] | ScanPosition = self._repositories.renamed(scope, invalid.append, context)
                if cursor is None:
                    yield from failure_pages("", self._repositories.failures(scope, named=context.named))
            # Both registries list their repositories at the same time.
            at_target = pool.submit(
                target_repositories,
                self._target,
                self._repositories.namespaces(scope),
                invalid_at_target.append,
                context,
            )
            if not self._sync.needs_listing:
                names = self._repositories.of(scope, invalid.append, context) if position is None else position
            comparison.at_target = at_target.result()
            if cursor is None and scope.groups is None:
                yield from failure_pages("", self._repositories.invalid_at_target(invalid_at_target))
            if isinstance(names, ScanPosition):
                begun = names if position is not None else replace(names, after=cursor or "")
                yield from self._long_catalog(begun, comparison, pool)
            else:
                if cursor is None and scope.groups is None:
                    yield from failure_pages("", self._repositories.invalid_at_source(invalid))
                listed = names
                yield from self._of(names, cursor or "", comparison, pool)
        if not context.over:
            yield from self._behind_all(scope, listed, comparison)

    def _behind_all(self, scope: Scope, listed: list[str] | None, comparison: TagComparison) -> Iterator[Page]:
        """Count the scan, and yield the pages behind those of all repositories."""
        if scope.everything and not comparison.context.plan:
            self._counter.ended()
        if comparison.removals is not None:
            yield from comparison.removals.pages(scope, None, listed, comparison.listed_again)

    def _reread_share(self, scope: Scope, context: StepContext) -> RereadShare:
        """Return the share of the target's tags that this scan re-reads: all for a person who compares or names a scope."""
        if context.plan or context.named:
            return RereadShare()
        # Any share will do for a scan of some repositories; complete scans take all shares in turn.
        return self._counter.share() if scope.everything else RereadShare(zlib.crc32(context.run.encode()))

    def _long_catalog(
        self, position: ScanPosition, comparison: TagComparison, pool: ThreadPoolExecutor
    ) -> Iterator[Page]:
        """Yield the pages of a source with more repositories than are held; they are counted first."""
        organizations = self._sync.source.organizations
        if not position.counted:
            pages = repository_pages(self._source, organizations, ignore, position)
            for position in count_listing(pages, position, comparison.context):  # noqa: PLR1704, B020 - the last one counts
                yield Page(str(position))
        if comparison.context.over or not position.counted:
            return
        invalid: list[InvalidEntry] = []
        for listed in repository_pages(self._source, organizations, invalid.append, position):
            if listed.next_position is None and not (position.position.entries or listed.names or invalid):
                raise nothing_listed(self._source.registry, "the catalog")
            if not position.behind:
                yield from failure_pages(str(position), self._repositories.invalid_at_source(invalid))
            invalid.clear()
            for page in self._of(self._repositories.taken(listed.names), position.done, comparison, pool):
                yield replace(page, cursor=str(replace(position, behind=page.cursor)))
            if comparison.context.over or listed.next_position is None:
                return
            position = listed.next_position
            yield Page(str(position))

    def _of(
        self, names: Sequence[str], cursor: str, comparison: TagComparison, pool: ThreadPoolExecutor
    ) -> Iterator[Page]:
        """Yield the pages of repositories behind a cursor, in the order of their names."""
        last, separator, within = _split_cursor(cursor)
        waiting = iter([name for name in names if name > last or (separator and name == last)])
        ahead: deque[tuple[str, Future[list[Page] | ScanPosition]]] = deque()
        try:
            while not comparison.context.over:
                while len(ahead) < 2 * AT_ONCE and (name := next(waiting, None)) is not None:
                    if name == last and separator == LONG:
                        ahead.append((name, Future()))
                        ahead[-1][1].set_result(ScanPosition.parse(within))
                    else:
                        behind = within if name == last else ""
                        records = comparison.records.of(self._sync.target_repository(name))
                        ahead.append((name, pool.submit(comparison.pages, name, behind, records)))
                if not ahead:
                    return
                name, future = ahead.popleft()
                found = future.result()
                yield from comparison.long_pages(name, found) if isinstance(found, ScanPosition) else found
                comparison.records.write()
        finally:
            for _, future in ahead:
                future.cancel()


def _split_cursor(cursor: str) -> tuple[str, str, str]:
    """Return the repository of a cursor, its separator ("" if the repository was done), and the position within it."""
    name, separator, position = cursor.partition(LONG)
    return (name, separator, position) if separator else cursor.partition(":")
