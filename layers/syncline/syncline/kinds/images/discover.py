"""Discovery of images: the tags that differ between source and target, compared in bulk, repository by repository."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from syncline.clients.http.listings import LISTING_START, InvalidEntry, ignore
from syncline.clients.registry.manifest import is_same_manifest
from syncline.clients.registry.reference import is_digest
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.details import ASK, ASKED, FROM, INDEX, UNSIGNED
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import (
    HELD_TAGS,
    ListedTags,
    RegistryClients,
    ScanPosition,
    Tag,
    TargetRepositories,
    count_listing,
    held_tags,
    nothing_listed,
    repository_pages,
    tag_pages,
    target_repositories,
)
from syncline.kinds.images.records import (
    ImageRecord,
    ProcessRecords,
    Records,
    RepositoryRecords,
    RereadShare,
    ScanCounter,
    ScanRecords,
)
from syncline.kinds.images.referrers import AttachedTags, Referrers, compare_referrers, is_list
from syncline.kinds.images.removals import GoneTags, Granted, TagRemovals, capped, removal
from syncline.kinds.images.repositories import SelectedRepositories
from syncline.kinds.images.scan_selection import RepositoryEnds, RepositorySelection, left_out_by_selection
from syncline.kinds.images.selection import for_platforms
from syncline.kinds.images.transfer import adds_platforms, conflict, is_replaceable
from syncline.kinds.images.verify import ImageVerification, Origin
from syncline.kinds.kind import Completed, Failure, Page, StepContext, failure_pages
from syncline.model import Item, Outcome, Result, Scope
from syncline.patterns import is_signature_tag
from syncline.text import plural

AT_ONCE: Final = 16
"""Repositories compared at a time."""
PAGE_TAGS: Final = 100
"""Tags in a page at most: one transfer handles as many, and the time left is checked after each page."""
_NORMAL: Final = "NORMAL"
_LONG: Final = "?"
"""Separates, in a cursor, a repository from the position in its long listing."""
_REMOVING: Final = "!"
"""Begins a cursor behind all repositories: ``!granted,time:repository``, with the removals that may still be sent on.

They are those due at the time of the grant, so a scan that is repeated later sends no others."""
_BEFORE_TAGS: Final = " "
"""Sorts before every tag: a scan that resumes behind it does not report a repository's invalid entries again."""


@dataclass(slots=True)
class _TagListings:
    """The tags of a repository at both registries, and its records. ``detail`` is for all items.

    With ``suspect``, images with equal tags may be incomplete; ``complete`` turns False if one is.
    """

    name: str
    group: str
    source: ListedTags
    target: ListedTags
    records: RepositoryRecords
    suspect: bool
    detail: dict[str, Any]
    selection: RepositorySelection
    complete: bool = True


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
        self._planned: dict[str, GoneTags] = {}
        self._listed: Sequence[str] | None = None
        self._sync = sync
        self._clock = clock
        self._source = source
        self._target = target
        self._notes = notes
        self._all_records = ProcessRecords() if records is None else records
        self._records = ScanRecords(self._all_records, full=False, writes=False)
        self._counter = ScanCounter(notes.facts, f"images-scan:{sync.name}:{sync.target_id()}")
        self._share = RereadShare()
        self._has_unverified = notes.unverified()
        self._at_target = TargetRepositories()
        self._with_referrers = sync.referrers == "always"
        self._named = False
        self._repositories = SelectedRepositories(sync, source)
        self._asked: frozenset[tuple[str, str]] = frozenset()
        self._requests = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="request")

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield pages in the order of repositories and tags, behind the one that ``cursor`` names.

        A cursor is the name of a repository that was scanned, ``name:tag`` or ``name?position`` within one, or the
        :class:`ScanPosition` in a long listing of repositories.
        """
        self._with_referrers |= scope.groups is not None and self._sync.referrers == "with-images"
        self._named, self._asked = context.named, context.asked
        self._share = self._reread_share(scope, context)
        self._records = ScanRecords(self._all_records, full=scope.groups is None, writes=not context.plan)
        try:
            yield from self._pages(scope, cursor, context)
        finally:
            self._records.write(least=1)

    def _pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        invalid: list[InvalidEntry] = []
        invalid_at_target: list[InvalidEntry] = []
        self._named, self._asked = context.named, context.asked
        if context.named and cursor is None and not self._sync.needs_listing:
            yield Page("", failures=tuple(self._repositories.not_taken(scope)))
        if cursor is not None and cursor.startswith(_REMOVING):
            yield from self._removal_pages(scope, cursor, context)
            return
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
            self._at_target = at_target.result()
            if cursor is None and scope.groups is None:
                yield from failure_pages("", self._repositories.invalid_at_target(invalid_at_target))
            if isinstance(names, ScanPosition):
                begun = names if position is not None else replace(names, after=cursor or "")
                yield from self._long_catalog(begun, context, pool)
            else:
                if cursor is None and scope.groups is None:
                    yield from failure_pages("", self._repositories.invalid_at_source(invalid))
                self._listed = names
                yield from self._of(names, cursor or "", context, pool)
        if not context.over:
            yield from self._behind_all(scope, context)

    def _behind_all(self, scope: Scope, context: StepContext) -> Iterator[Page]:
        """Count the scan, and yield the pages behind those of all repositories."""
        if scope.everything and not context.plan:
            self._counter.ended()
        if self._removals is not None:
            yield from self._removal_pages(scope, None, context)

    def _reread_share(self, scope: Scope, context: StepContext) -> RereadShare:
        """Return the share of the target's tags that this scan re-reads: all for a person who compares or names a scope."""
        if context.plan or context.named:
            return RereadShare()
        # Any share will do for a scan of some repositories; complete scans take all shares in turn.
        return self._counter.share() if scope.everything else RereadShare(zlib.crc32(context.run.encode()))

    def _removal_pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield the tags to be removed, after all repositories of the scope were compared."""
        if self._removals is None:
            return  # the sync was configured otherwise when the scan began
        if cursor is None:
            self._records.write(least=1)
            found = self._removals.granted(scope, context, self._planned)
            if found.failure is not None:
                yield Page(f"{_REMOVING}0,{found.at}", failures=(found.failure,))
            cursor = f"{_REMOVING}{found.count},{found.at}"
            yield from self._vanished(found, scope, cursor)
        left, _, behind = cursor.removeprefix(_REMOVING).partition(":")
        granted, at = map(int, left.split(","))
        if context.plan or not granted:
            return
        yield Page(cursor)
        for gone in self._removals.gone(scope, at, behind):
            if context.over or not granted:
                return
            if not gone.due:
                continue
            failures = tuple[Failure, ...]()
            items = list[Item]()
            try:
                items = self._still_gone(gone, context)[:granted]
            except SynclineError as error:
                failures = (Failure(Item(gone.group, "*"), error),)
            while items:
                some, items = items[:PAGE_TAGS], items[PAGE_TAGS:]
                granted -= len(some)
                # A scan that resumes in a repository sends its tags again: a removed one has no record, or is completed.
                yield Page(f"{_REMOVING}{granted},{at}:{behind if items else gone.group}", tuple(some))
            behind = gone.group
            yield Page(f"{_REMOVING}{granted},{at}:{behind}", failures=failures)

    def _vanished(self, found: Granted, scope: Scope, cursor: str) -> Iterator[Page]:
        """Yield results for repositories of ours that the source no longer lists; they keep their images."""
        if self._listed is None or not scope.everything:
            return
        listed = set(map(self._sync.target_repository, self._listed))
        host = self._source.registry.host
        what = "the source {} no longer lists this repository; {} of this sync stay at the target"
        results = [
            Result(group, "*", Outcome.EXTRA, reason=what.format(host, plural(count, "tag")))
            for group, count in found.groups.items()
            if count and group not in listed
        ]
        for at in range(0, len(results), PAGE_TAGS):
            yield Page(cursor, results=tuple(results[at : at + PAGE_TAGS]))

    def _still_gone(self, gone: GoneTags, context: StepContext) -> list[Item]:
        """Return the removals of the tags that a second listing of their repository lacks, too."""
        self._check_state(gone.group)
        name = self._sync.source_repository(gone.group) or ""
        listed = held_tags(self._source, name, context)
        self._check_listed(name, listed)
        if not listed.tags or listed.invalid or listed.next_position is not None:
            return []
        return [removal(gone.group, tag, digest) for tag, digest in gone.due.items() if tag not in listed.tags]

    def _long_catalog(self, position: ScanPosition, context: StepContext, pool: ThreadPoolExecutor) -> Iterator[Page]:
        """Yield the pages of a source with more repositories than are held; they are counted first."""
        organizations = self._sync.source.organizations
        if not position.counted:
            pages = repository_pages(self._source, organizations, ignore, position)
            for position in count_listing(pages, position, context):  # noqa: PLR1704, B020 - the last one counts
                yield Page(str(position))
        if context.over or not position.counted:
            return
        invalid: list[InvalidEntry] = []
        for listed in repository_pages(self._source, organizations, invalid.append, position):
            if listed.next_position is None and not (position.position.entries or listed.names or invalid):
                raise nothing_listed(self._source.registry, "the catalog")
            if not position.behind:
                yield from failure_pages(str(position), self._repositories.invalid_at_source(invalid))
            invalid.clear()
            for page in self._of(self._repositories.taken(listed.names), position.done, context, pool):
                yield replace(page, cursor=str(replace(position, behind=page.cursor)))
            if context.over or listed.next_position is None:
                return
            position = listed.next_position
            yield Page(str(position))

    def _of(self, names: Sequence[str], cursor: str, context: StepContext, pool: ThreadPoolExecutor) -> Iterator[Page]:
        """Yield the pages of repositories behind a cursor, in the order of their names."""
        last, separator, within = _split_cursor(cursor)
        waiting = iter([name for name in names if name > last or (separator and name == last)])
        ahead: deque[tuple[str, Future[list[Page] | ScanPosition]]] = deque()
        try:
            while not context.over:
                while len(ahead) < 2 * AT_ONCE and (name := next(waiting, None)) is not None:
                    if name == last and separator == _LONG:
                        ahead.append((name, Future()))
                        ahead[-1][1].set_result(ScanPosition.parse(within))
                    else:
                        behind = within if name == last else ""
                        records = self._records.of(self._sync.target_repository(name))
                        ahead.append((name, pool.submit(self._pages_of, name, behind, records, context)))
                if not ahead:
                    return
                name, future = ahead.popleft()
                found = future.result()
                yield from self._long_repository(name, found, context) if isinstance(found, ScanPosition) else found
                self._records.write()
        finally:
            for _, future in ahead:
                future.cancel()

    def _pages_of(
        self, name: str, behind: str, records: RepositoryRecords, context: StepContext
    ) -> list[Page] | ScanPosition:
        """Return the pages of one repository's tags behind the tag ``behind``, as many as the time allows.

        A repository that cannot be scanned has one page, with its failure. One with more tags than are held has the
        position behind these.
        """
        group = self._sync.target_repository(name)
        pages: list[Page] = []
        try:
            listed = held_tags(self._source, name, context)
            if listed.next_position is not None:
                return ScanPosition(listed.next_position, after=behind)
            self._check_listed(name, listed)
            listed.tags = {**listed.tags, **self._named_digests(name)}
            for page in self._compare(name, records, listed, behind, context):
                pages.append(page)
                if context.over:
                    break
        except SynclineError as error:
            return [Page(name, failures=(Failure(Item(group, "*"), error),))]
        return pages

    def _compare(
        self, name: str, records: RepositoryRecords, source: ListedTags, behind: str, context: StepContext
    ) -> Iterator[Page]:
        """Yield the pages of a repository all of whose tags are held."""
        group = records.repository
        target = ListedTags({}, [])
        if any(map(self._takes, source.tags)) or (self._removals is not None and records.held != {}):
            target = self._target_tags(group, context)
        if not behind:
            failures = self._invalid_tags(group, (*source.invalid, *target.invalid))
            yield from failure_pages(f"{name}:{_BEFORE_TAGS}", failures)
            yield from self._absent(name, records, source, target, context)
        # After a copy that was not verified, an image may be incomplete although its tag is equal.
        selection = self._selection_of(name, group)
        unverified = bool(target.tags) and self._has_unverified(group)
        suspect = unverified or (bool(target.tags) and selection.platforms_changed())
        detail = {"signed": True} if any(map(is_signature_tag, source.tags)) else {} if source.invalid else UNSIGNED
        both = _TagListings(name, group, source, target, records, suspect, detail, selection)
        for page in self._differences(both, behind, context):
            yield replace(page, cursor=f"{name}:{page.cursor}" if page.cursor else name)
        selection.save(context)
        if suspect and both.complete and not behind and not context.over and not context.plan:
            selection.note_platforms()
            if unverified:
                self._notes.forget_unverified(group)

    def _differences(self, both: _TagListings, behind: str, context: StepContext) -> Iterator[Page]:
        """Yield the pages of the listed tags behind ``behind``, until the time is over.

        The cursor of a page is its last tag, and "" for the last page.
        """
        name, group = both.name, both.group
        invalid = {each.name for each in (*both.source.invalid, *both.target.invalid)}
        taken = {tag: each for tag, each in both.source.tags.items() if self._takes(tag) and tag not in invalid}
        left_out = both.selection.left_out(taken)
        wanted = sorted(tag for tag in taken if tag > behind and tag not in left_out)
        detail = {**both.detail, **({"fresh": True} if both.target.is_empty else {})}
        if self._sync.needs_listing:
            detail[FROM] = name
        for at in range(0, max(len(wanted), 1), PAGE_TAGS):
            tags = wanted[at : at + PAGE_TAGS]
            is_last = at + PAGE_TAGS >= len(wanted)
            # Listings have no digests without a tag: the target is asked for each.
            listed = {tag: (taken[tag], Tag() if is_digest(tag) else both.target.get(tag)) for tag in tags}
            compared = self._with_digests(name, group, *self._with_recorded(both, listed))
            found = both.selection.judge(compared, self._asked)
            compared = found.items
            incomplete = self._incomplete(name, compared, context) if both.suspect else set()
            both.complete &= not incomplete
            self._learn(both.records, compared, incomplete)
            page = self._page(both, "" if is_last else tags[-1], compared, incomplete)
            asked = [left_out_by_selection(group, tag) for tag in left_out if is_last and (group, tag) in self._asked]
            page = replace(
                page,
                results=(*page.results, *found.results, *asked),
                failures=(*page.failures, *found.failures),
                left_out=found.left_out + (len(left_out) - len(asked) if is_last else 0),
            )
            details = {
                item.name: detail | ASKED if (group, item.name) in self._asked else detail for item in page.items
            }
            items = (replace(item, detail={**details[item.name], **item.detail}) for item in page.items)
            yield replace(page, items=tuple(items))
            if context.over:
                return

    def _takes(self, name: str) -> bool:
        """Return True if a tag belongs to the sync by its name, and for a named digest."""
        return is_digest(name) or self._sync.takes_tag(name)

    def _named_digests(self, name: str) -> dict[str, Tag]:
        return {digest: Tag(digest) for digest in self._sync.source.digests_by_repository.get(name, ())}

    def _selection_of(self, name: str, group: str) -> RepositorySelection:
        ends = RepositoryEnds(self._source.registry, name, self._target.registry, group)
        return RepositorySelection(self._sync.select, ends, self._notes, self._requests, self._clock())

    def _absent(
        self, name: str, records: RepositoryRecords, source: ListedTags, target: ListedTags, context: StepContext
    ) -> Iterator[Page]:
        """Mark the records of tags that only the target has. A plan yields those that would be removed."""
        complete = not (source.invalid or target.invalid or target.next_position)
        if self._removals is None or not complete or records.held is None:
            return
        current = dict(records.all())
        changes: dict[str, ImageRecord | None] = {}
        now = int(self._removals.clock())
        listed = not all(map(is_digest, source.tags))  # the digests are those that the sync names
        for tag, record in current.items():
            if tag in source.tags:
                # If the target still has the image, it is recorded again: an interrupted removal may have replaced it.
                changes |= {tag: None} if record.absent_since else {}
            elif tag not in target.tags:
                changes[tag] = None
            elif self._sync.takes_tag(tag) and target.tags[tag].digest in (None, record.digest):
                marked = replace(record, absent_since=record.absent_since or now)
                changes |= {tag: marked} if marked != record else {}
        left = ((tag, changes.get(tag, record)) for tag, record in current.items())
        gone = self._removals.of(records.repository, now, ((tag, each) for tag, each in left if each is not None))
        absent = gone.due
        if not listed and absent:
            host = self._source.registry.host
            what = f"{host} lists no tags of {name}, but the target has {len(absent)} of ours; nothing is removed"
            failure = capped(
                f"{what} after an empty listing. If that is intended, delete them at the target", records.repository
            )
            yield Page(f"{name}:{_BEFORE_TAGS}", failures=(failure,))
            return
        if listed:
            self._records.learn(records.repository, changes)
        if context.plan:
            self._planned[records.repository] = gone
            for at in range(0, len(absent), PAGE_TAGS):
                items = (removal(records.repository, *each) for each in [*absent.items()][at : at + PAGE_TAGS])
                yield Page(f"{name}:{_BEFORE_TAGS}", tuple(items))

    def _learn(self, records: RepositoryRecords, compared: Sequence[Item], incomplete: set[str]) -> None:
        """Record the images that are equal at both registries; with that they are ours.

        Delete the records of those that somebody else has changed at the target.
        """
        known = records.known(item.name for item in compared)
        equal = (item for item in compared if item.source is not None and item.source == item.target)
        found = {item.name: ImageRecord(str(item.source)) for item in equal if item.name not in incomplete}
        changes: dict[str, ImageRecord | None] = {
            tag: record for tag, record in found.items() if known.get(tag) != record
        }
        for item in compared:
            record = known.get(item.name)
            if record is not None and item.target not in (None, item.source, record.digest):
                changes[item.name] = None
        self._records.learn(records.repository, changes)

    def _invalid_tags(self, group: str, invalid: Iterable[InvalidEntry]) -> Iterable[Failure]:
        """Return the failures of invalid entries that the sync may take."""
        taken = (each for each in invalid if each.name is None or self._sync.takes_tag(each.name))
        return {each.label: Failure(Item(group, each.label), each.error) for each in taken}.values()

    def _long_repository(self, name: str, position: ScanPosition, context: StepContext) -> Iterator[Page]:
        """Yield the pages of a repository with more tags than are held; a failure concerns the rest behind the last one."""
        group = self._sync.target_repository(name)
        begun = at = None if position == ScanPosition() else f"{name}{_LONG}{position}"
        try:
            for page in self._long_pages(name, group, position, context):
                at = page.cursor
                yield page
        except SynclineError as error:
            yield Page(name, failures=(Failure(Item(group, "*"), error, further=at != begun, cursor=at),))

    def _long_pages(self, name: str, group: str, position: ScanPosition, context: StepContext) -> Iterator[Page]:
        """Yield the pages of a repository with more tags than are held; they are counted first."""

        def cursor(at: ScanPosition) -> str:
            return f"{name}{_LONG}{at}"

        if not position.counted:
            pages = tag_pages(self._source, name, [], position.position)
            for position in count_listing(pages, position, context):  # noqa: PLR1704, B020 - the last one counts
                yield Page(cursor(position))
        if context.over or not position.counted:
            return
        target, records = self._target_tags(group, context), RepositoryRecords(group, None, self._all_records)
        if position == ScanPosition(counted=True):
            yield from failure_pages(cursor(position), self._invalid_tags(group, target.invalid))
        suspect = not target.is_empty and self._has_unverified(group)
        selection = self._selection_of(name, group)
        invalid: list[InvalidEntry] = []
        for listed in self._tag_pages(name, invalid, position):
            if not position.behind:
                yield from failure_pages(cursor(position), self._invalid_tags(group, invalid))
            next_position = None if listed.next_position is None else position.page(listed.next_position)
            end = name if next_position is None else cursor(next_position)
            both = _TagListings(name, group, listed, target, records, suspect, {"signed": ASK}, selection)
            for page in self._differences(both, position.done, context):
                yield replace(page, cursor=cursor(replace(position, behind=page.cursor)) if page.cursor else end)
            selection.save(context)
            invalid.clear()
            if context.over or next_position is None:
                return
            position = next_position

    def _tag_pages(self, name: str, invalid: list[InvalidEntry], position: ScanPosition) -> Iterator[ListedTags]:
        """Yield the pages of a repository's tags, at least one. Raises what :meth:`_check_listed` raises."""
        pages = tag_pages(self._source, name, invalid, position.position)
        first = next(pages, ListedTags({}, invalid))
        if position == ScanPosition(counted=True):
            self._check_listed(name, first)
        if position.position == LISTING_START:
            first.tags = {**first.tags, **self._named_digests(name)}
        yield first
        yield from pages

    def _check_listed(self, name: str, listed: ListedTags) -> None:
        """Check a list of tags that is empty, or too long for `newest`.

        Raises LISTING_TOO_LONG, LISTING_INCOMPLETE if the registry itself lists tags, and SOURCE_ABSENT if a user has named the
        repository, in the command or in syncs.yaml, and it does not exist.
        """
        if listed.next_position is not None and self._sync.select.newest is not None:
            what = f"{name} has more than {HELD_TAGS} tags, of which `newest` cannot be found in one scan"
            raise SynclineError("LISTING_TOO_LONG", what)
        if not listed.is_empty:
            return
        registry = self._source.registry
        if self._source.api is not None and any(True for _ in registry.tags(name, ignore)):
            what = f"the API of {registry.host} lists no tags of {name}, but its registry does"
            raise SynclineError("LISTING_INCOMPLETE", what)
        if self._named_digests(name):
            return
        if (self._named or self._sync.source.repositories is not None) and not registry.has_repository(name):
            raise SynclineError("SOURCE_ABSENT", f"{registry.host} has no repository {name}")

    def _target_tags(self, group: str, context: StepContext) -> ListedTags:
        return ListedTags({}, []) if self._at_target.lacks(group) else held_tags(self._target, group, context)

    def _page(self, both: _TagListings, cursor: str, compared: Sequence[Item], incomplete: set[str]) -> Page:
        name, group = both.name, both.group
        items: list[Item] = []
        results: list[Result] = []
        skipped = 0
        complete = [item for item in compared if item.name not in incomplete]
        lacking, failures = self._lacking_referrers(both, complete)
        to_transfer = incomplete | lacking
        replaceable = set() if self._sync.overwrites else self._replaceable(name, compared)
        for item in compared:
            equal = item.target is not None and item.target == item.source
            asked = (group, item.name) in self._asked  # its transfer checks all parts
            if equal and item.name not in to_transfer and not asked:
                skipped += 1
            elif equal or item.target is None or self._sync.overwrites or item.name in replaceable:
                items.append(item)
            else:
                results.append(conflict(item))
        if items:
            try:
                self._check_state(group)
            except SynclineError as error:
                failures = (*(Failure(item, error) for item in items), *failures)
                items = []
        return Page(cursor, tuple(items), skipped, tuple(results), failures)

    def _check_state(self, group: str) -> None:
        """Raise READ_ONLY for a repository that is known not to accept changes."""
        state = self._at_target.states.get(group)
        if state not in (None, _NORMAL):
            raise SynclineError("READ_ONLY", f"{group} is {state} at {self._target.registry.host}")

    def _with_recorded(
        self, both: _TagListings, tags: dict[str, tuple[Tag, Tag | None]]
    ) -> tuple[dict[str, tuple[Tag, Tag | None]], set[str]]:
        """Return the tags with the recorded digests of those that the target lists, and the names of these.

        A share of them is re-read in each scan. Immutable tags are not, and have the recorded digest at the source, too.
        """
        listed = {tag: present for tag in tags if (present := both.target.tags.get(tag)) is not None}
        fixed = {tag for tag in listed if self._sync.is_immutable(tag)}
        unread = {tag for tag, present in listed.items() if present.digest is None and not self._is_reread(both, tag)}
        records = both.records.known(fixed | unread) if fixed or unread else {}
        known = {tag: record for tag, record in records.items() if not record.absent_since}
        found = dict(tags)
        for tag, record in known.items():
            at_source = replace(tags[tag][0], digest=tags[tag][0].digest or (record.digest if tag in fixed else None))
            found[tag] = at_source, replace(listed[tag], digest=listed[tag].digest or record.digest)
        return found, known.keys() - fixed

    def _is_reread(self, both: _TagListings, tag: str) -> bool:
        return both.suspect or (both.group, tag) in self._asked or self._share.has(both.group, tag)

    def _incomplete(self, name: str, items: Sequence[Item], context: StepContext) -> set[str]:
        """Return the tags, equal at both registries, of images that the target does not have completely."""
        equal = [item for item in items if item.source is not None and item.source == item.target]
        origin = Origin(self._source.registry, lambda _: name, referrers=False, select=self._sync.select)
        answers = ImageVerification(self._target.registry, origin).verify(equal, context)
        return {answer.item.name for answer in answers if not isinstance(answer, Completed)}

    def _lacking_referrers(self, both: _TagListings, items: Sequence[Item]) -> tuple[set[str], tuple[Failure, ...]]:
        """Return the tags of images, equal at both registries, whose referrers the target does not all list.

        Also return failures for invalid entries in the lists of the other images; those of a lacking image are reported
        by its transfer. Both are empty if the scan does not compare referrers. Where only tags list referrers, the
        listing of the source tells which images have some, and no other is requested.
        """
        if not self._with_referrers:
            return set(), ()
        name, group, source = both.name, both.group, self._source.registry
        complete = both.detail.get("signed") != ASK and not both.source.invalid
        has_tag = both.source.tags.__contains__ if complete else None

        whole = {item.source: item.detail.get(INDEX, item.source) for item in items}

        def lacks(digest: str) -> tuple[bool, list[InvalidEntry]]:
            if has_tag is not None and source.lists_referrers_by_tag and not any(map(is_list, both.source.tags)):
                return False, []
            invalid: list[InvalidEntry] = []
            ends = (
                Referrers(source, name, invalid.append, has_tag),
                Referrers(self._target.registry, group, invalid.append),
            )
            try:
                manifest = source.manifest(name, whole[digest])
                compared = compare_referrers(*ends, for_platforms(manifest, self._sync.select) or manifest)
                lacking = not all(listed for _, referrer, listed in compared if referrer.is_known)
            except SynclineError as error:
                # A tag that is no image has no referrers to copy. The transfer reports other errors, for its image.
                return not error.is_any("MANIFEST_UNSUPPORTED", "MANIFEST_INVALID", "NOT_FOUND"), []
            return lacking, [] if lacking else invalid

        equal = {
            i.name: i.source for i in items if i.source is not None and i.source == i.target and not is_list(i.name)
        }
        digests = set(equal.values())
        found = dict(zip(digests, self._requests.map(lacks, digests), strict=True))
        invalid = {each.label: each for digest in sorted(digests) for each in found[digest][1]}
        failures = tuple(Failure(Item(group, label), each.error) for label, each in invalid.items())
        return {tag for tag, digest in equal.items() if found[digest][0]}, failures

    def _replaceable(self, name: str, items: Sequence[Item]) -> set[str]:
        """Return the tags that differ and may be replaced even if the sync does not overwrite."""
        attached = AttachedTags(self._source.registry, name)
        differing = [item for item in items if item.source and item.target and item.source != item.target]
        target, select = self._target.registry, self._sync.select

        def may_replace(item: Item) -> bool:
            if is_replaceable(item, target, attached, self._notes):
                return True
            whole = item.detail.get(INDEX)
            chosen = whole and for_platforms(self._source.registry.manifest(name, whole), select)
            return adds_platforms(item, target, chosen or None)

        allowed = self._requests.map(_false_if_refused(may_replace), differing)
        return {item.name for item, yes in zip(differing, allowed, strict=True) if yes}

    def _with_digests(
        self, name: str, group: str, tags: dict[str, tuple[Tag, Tag | None]], recorded: set[str]
    ) -> list[Item]:
        """Return the tags as items, with both digests where the target has the tag; unlisted digests are requested.

        The target's digests of the tags ``recorded`` are from records: where one differs from the source's, it is
        requested, so that only what the target says now leads to a transfer or a conflict. A target digest of another algorithm for the same bytes is replaced by the source's, so that equal tags have
        equal digests.
        """
        listed = {tag: present for tag, (_, present) in tags.items() if present is not None}
        at_target = self._digests(self._target.registry, group, listed)
        both = {tag: tags[tag][0] for tag, digest in at_target.items() if digest is not None}
        at_source = self._digests(self._source.registry, name, both)
        items = [
            Item(group, tag, at_source.get(tag, found.digest), at_target.get(tag), found.size, changed=found.changed)
            for tag, (found, _) in tags.items()
            if tag not in at_source or at_source[tag] is not None  # else removed at the source since it was listed
        ]
        doubtful = {item.name: Tag() for item in items if item.name in recorded and item.source != item.target}
        now = self._digests(self._target.registry, group, doubtful)
        items = [replace(item, target=now[item.name]) if item.name in now else item for item in items]

        def same_bytes(item: Item) -> bool:
            source, target = str(item.source), str(item.target)
            return is_same_manifest(source, target, lambda: self._source.registry.manifest(name, item.name))

        # If the manifest cannot be read, the transfer reports why.
        differing = [item for item in items if item.source != item.target and item.source and item.target]
        same = self._requests.map(_false_if_refused(same_bytes), differing)
        equal = {item.name for item, yes in zip(differing, same, strict=True) if yes}
        return [replace(item, target=item.source) if item.name in equal else item for item in items]

    def _digests(self, registry: ImageStore, repository: str, tags: dict[str, Tag]) -> dict[str, str | None]:
        """Return the digest of each tag, None if it no longer exists; several are requested at a time."""
        unknown = [tag for tag, listed in tags.items() if listed.digest is None]
        digests = self._requests.map(partial(registry.manifest_digest, repository), unknown)
        requested = dict(zip(unknown, digests, strict=True))
        return {tag: listed.digest or requested[tag] for tag, listed in tags.items()}


def _false_if_refused(check: Callable[[Item], bool]) -> Callable[[Item], bool]:
    """Return a check that is False where ``check`` raises an error that is not retried."""

    def checked(item: Item) -> bool:
        try:
            return check(item)
        except SynclineError as error:
            if error.retried:
                raise
            return False

    return checked


def _split_cursor(cursor: str) -> tuple[str, str, str]:
    """Return the repository of a cursor, its separator ("" if the repository was done), and the position within it."""
    name, separator, position = cursor.partition(_LONG)
    return (name, separator, position) if separator else cursor.partition(":")
