"""Comparison of one repository's tags at source and target: in bulk, page by page, from listings, records and requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
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
    PAGE_TAGS,
    ListedTags,
    RegistryClients,
    ScanPosition,
    Tag,
    TargetRepositories,
    count_listing,
    held_tags,
    tag_pages,
)
from syncline.kinds.images.records import ImageRecord, RepositoryRecords, RereadShare, ScanRecords
from syncline.kinds.images.referrers import AttachedTags, Referrers, compare_referrers, is_list
from syncline.kinds.images.removals import ScanRemovals
from syncline.kinds.images.scan_selection import RepositoryEnds, RepositorySelection, left_out_by_selection
from syncline.kinds.images.selection import for_platforms
from syncline.kinds.images.transfer import adds_platforms, conflict, is_replaceable
from syncline.kinds.images.verify import ImageVerification, Origin
from syncline.kinds.kind import Completed, Failure, Page, StepContext, failure_pages
from syncline.model import Item, Result
from syncline.patterns import is_signature_tag

_NORMAL: Final = "NORMAL"
LONG: Final = "?"
"""Separates, in a cursor, a repository from the position in its long listing."""
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


@dataclass(slots=True)
class TagComparison:
    """Comparison of the tags of repositories in one scan.

    ``share`` has the tags whose digest at the target is requested although they have a record; ``requests`` runs requests
    for digests and manifests; ``at_target`` is empty until the target's repositories are listed.
    """

    sync: ImagesSync
    source: RegistryClients
    target: RegistryClients
    notes: TargetNotes
    has_unverified: Callable[[str], bool]
    records: ScanRecords
    removals: ScanRemovals | None
    share: RereadShare
    with_referrers: bool
    context: StepContext
    clock: Callable[[], float]
    requests: Executor
    at_target: TargetRepositories = field(default_factory=TargetRepositories)

    def pages(self, name: str, behind: str, records: RepositoryRecords) -> list[Page] | ScanPosition:
        """Return the pages of one repository's tags behind the tag ``behind``, as many as the time allows.

        A repository that cannot be scanned has one page, with its failure. One with more tags than are held has the
        position behind these.
        """
        group = self.sync.target_repository(name)
        pages: list[Page] = []
        try:
            listed = held_tags(self.source, name, self.context)
            if listed.next_position is not None:
                return ScanPosition(listed.next_position, after=behind)
            self._check_listed(name, listed)
            listed.tags = {**listed.tags, **self._named_digests(name)}
            for page in self._compare(name, records, listed, behind):
                pages.append(page)
                if self.context.over:
                    break
        except SynclineError as error:
            return [Page(name, failures=(Failure(Item(group, "*"), error),))]
        return pages

    def _compare(self, name: str, records: RepositoryRecords, source: ListedTags, behind: str) -> Iterator[Page]:
        """Yield the pages of a repository all of whose tags are held."""
        group = records.repository
        target = ListedTags({}, [])
        if any(map(self._takes, source.tags)) or (self.removals is not None and records.held != {}):
            target = self._target_tags(group)
        if not behind:
            failures = self._invalid_tags(group, (*source.invalid, *target.invalid))
            yield from failure_pages(f"{name}:{_BEFORE_TAGS}", failures)
            for page in () if self.removals is None else self.removals.mark(name, records, source, target):
                yield replace(page, cursor=f"{name}:{_BEFORE_TAGS}")
        # After a copy that was not verified, an image may be incomplete although its tag is equal.
        selection = self._selection_of(name, group)
        unverified = bool(target.tags) and self.has_unverified(group)
        suspect = unverified or (bool(target.tags) and selection.platforms_changed())
        detail = {"signed": True} if any(map(is_signature_tag, source.tags)) else {} if source.invalid else UNSIGNED
        both = _TagListings(name, group, source, target, records, suspect, detail, selection)
        for page in self._differences(both, behind):
            yield replace(page, cursor=f"{name}:{page.cursor}" if page.cursor else name)
        selection.save(self.context)
        if suspect and both.complete and not behind and not self.context.over and not self.context.plan:
            selection.note_platforms()
            if unverified:
                self.notes.forget_unverified(group)

    def _differences(self, both: _TagListings, behind: str) -> Iterator[Page]:
        """Yield the pages of the listed tags behind ``behind``, until the time is over.

        The cursor of a page is its last tag, and "" for the last page.
        """
        name, group = both.name, both.group
        invalid = {each.name for each in (*both.source.invalid, *both.target.invalid)}
        taken = {tag: each for tag, each in both.source.tags.items() if self._takes(tag) and tag not in invalid}
        left_out = both.selection.left_out(taken)
        wanted = sorted(tag for tag in taken if tag > behind and tag not in left_out)
        detail = {**both.detail, **({"fresh": True} if both.target.is_empty else {})}
        if self.sync.needs_listing:
            detail[FROM] = name
        for at in range(0, max(len(wanted), 1), PAGE_TAGS):
            tags = wanted[at : at + PAGE_TAGS]
            is_last = at + PAGE_TAGS >= len(wanted)
            # Listings have no digests without a tag: the target is asked for each.
            listed = {tag: (taken[tag], Tag() if is_digest(tag) else both.target.get(tag)) for tag in tags}
            compared = self._with_digests(name, group, *self._with_recorded(both, listed))
            found = both.selection.judge(compared, self.context.asked)
            compared = found.items
            incomplete = self._incomplete(name, compared) if both.suspect else set()
            both.complete &= not incomplete
            self._learn(both.records, compared, incomplete)
            page = self._page(both, "" if is_last else tags[-1], compared, incomplete)
            asked = [
                left_out_by_selection(group, tag) for tag in left_out if is_last and (group, tag) in self.context.asked
            ]
            page = replace(
                page,
                results=(*page.results, *found.results, *asked),
                failures=(*page.failures, *found.failures),
                left_out=found.left_out + (len(left_out) - len(asked) if is_last else 0),
            )
            details = {
                item.name: detail | ASKED if (group, item.name) in self.context.asked else detail for item in page.items
            }
            items = (replace(item, detail={**details[item.name], **item.detail}) for item in page.items)
            yield replace(page, items=tuple(items))
            if self.context.over:
                return

    def _takes(self, name: str) -> bool:
        """Return True if a tag belongs to the sync by its name, and for a named digest."""
        return is_digest(name) or self.sync.takes_tag(name)

    def _named_digests(self, name: str) -> dict[str, Tag]:
        return {digest: Tag(digest) for digest in self.sync.source.digests_by_repository.get(name, ())}

    def _selection_of(self, name: str, group: str) -> RepositorySelection:
        ends = RepositoryEnds(self.source.registry, name, self.target.registry, group)
        return RepositorySelection(self.sync.select, ends, self.notes, self.requests, self.clock())

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
        self.records.learn(records.repository, changes)

    def _invalid_tags(self, group: str, invalid: Iterable[InvalidEntry]) -> Iterable[Failure]:
        """Return the failures of invalid entries that the sync may take."""
        taken = (each for each in invalid if each.name is None or self.sync.takes_tag(each.name))
        return {each.label: Failure(Item(group, each.label), each.error) for each in taken}.values()

    def long_pages(self, name: str, position: ScanPosition) -> Iterator[Page]:
        """Yield the pages of a repository with more tags than are held; a failure concerns the rest behind the last one."""
        group = self.sync.target_repository(name)
        begun = at = None if position == ScanPosition() else f"{name}{LONG}{position}"
        try:
            for page in self._long_pages(name, group, position):
                at = page.cursor
                yield page
        except SynclineError as error:
            yield Page(name, failures=(Failure(Item(group, "*"), error, further=at != begun, cursor=at),))

    def _long_pages(self, name: str, group: str, position: ScanPosition) -> Iterator[Page]:
        """Yield the pages of a repository with more tags than are held; they are counted first."""

        def cursor(at: ScanPosition) -> str:
            return f"{name}{LONG}{at}"

        if not position.counted:
            pages = tag_pages(self.source, name, [], position.position)
            for position in count_listing(pages, position, self.context):  # noqa: PLR1704, B020 - the last one counts
                yield Page(cursor(position))
        if self.context.over or not position.counted:
            return
        target, records = self._target_tags(group), RepositoryRecords(group, None, self.records.records)
        if position == ScanPosition(counted=True):
            yield from failure_pages(cursor(position), self._invalid_tags(group, target.invalid))
        suspect = not target.is_empty and self.has_unverified(group)
        selection = self._selection_of(name, group)
        invalid: list[InvalidEntry] = []
        for listed in self._tag_pages(name, invalid, position):
            if not position.behind:
                yield from failure_pages(cursor(position), self._invalid_tags(group, invalid))
            next_position = None if listed.next_position is None else position.page(listed.next_position)
            end = name if next_position is None else cursor(next_position)
            both = _TagListings(name, group, listed, target, records, suspect, {"signed": ASK}, selection)
            for page in self._differences(both, position.done):
                yield replace(page, cursor=cursor(replace(position, behind=page.cursor)) if page.cursor else end)
            selection.save(self.context)
            invalid.clear()
            if self.context.over or next_position is None:
                return
            position = next_position

    def _tag_pages(self, name: str, invalid: list[InvalidEntry], position: ScanPosition) -> Iterator[ListedTags]:
        """Yield the pages of a repository's tags, at least one. Raises what :meth:`_check_listed` raises."""
        pages = tag_pages(self.source, name, invalid, position.position)
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
        if listed.next_position is not None and self.sync.select.newest is not None:
            what = f"{name} has more than {HELD_TAGS} tags, of which `newest` cannot be found in one scan"
            raise SynclineError("LISTING_TOO_LONG", what)
        if not listed.is_empty:
            return
        registry = self.source.registry
        if self.source.api is not None and any(True for _ in registry.tags(name, ignore)):
            what = f"the API of {registry.host} lists no tags of {name}, but its registry does"
            raise SynclineError("LISTING_INCOMPLETE", what)
        if self._named_digests(name):
            return
        if (self.context.named or self.sync.source.repositories is not None) and not registry.has_repository(name):
            raise SynclineError("SOURCE_ABSENT", f"{registry.host} has no repository {name}")

    def listed_again(self, name: str, group: str) -> ListedTags:
        """Return the tags that the source lists now. Raises READ_ONLY and what :meth:`_check_listed` raises."""
        self._check_state(group)
        listed = held_tags(self.source, name, self.context)
        self._check_listed(name, listed)
        return listed

    def _target_tags(self, group: str) -> ListedTags:
        return ListedTags({}, []) if self.at_target.lacks(group) else held_tags(self.target, group, self.context)

    def _page(self, both: _TagListings, cursor: str, compared: Sequence[Item], incomplete: set[str]) -> Page:
        name, group = both.name, both.group
        items: list[Item] = []
        results: list[Result] = []
        skipped = 0
        complete = [item for item in compared if item.name not in incomplete]
        lacking, failures = self._lacking_referrers(both, complete)
        to_transfer = incomplete | lacking
        replaceable = set() if self.sync.overwrites else self._replaceable(name, compared)
        for item in compared:
            equal = item.target is not None and item.target == item.source
            asked = (group, item.name) in self.context.asked  # its transfer checks all parts
            if equal and item.name not in to_transfer and not asked:
                skipped += 1
            elif equal or item.target is None or self.sync.overwrites or item.name in replaceable:
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
        state = self.at_target.states.get(group)
        if state not in (None, _NORMAL):
            raise SynclineError("READ_ONLY", f"{group} is {state} at {self.target.registry.host}")

    def _with_recorded(
        self, both: _TagListings, tags: dict[str, tuple[Tag, Tag | None]]
    ) -> tuple[dict[str, tuple[Tag, Tag | None]], set[str]]:
        """Return the tags with the recorded digests of those that the target lists, and the names of these.

        A share of them is re-read in each scan. Immutable tags are not, and have the recorded digest at the source, too.
        """
        listed = {tag: present for tag in tags if (present := both.target.tags.get(tag)) is not None}
        fixed = {tag for tag in listed if self.sync.is_immutable(tag)}
        unread = {tag for tag, present in listed.items() if present.digest is None and not self._is_reread(both, tag)}
        records = both.records.known(fixed | unread) if fixed or unread else {}
        known = {tag: record for tag, record in records.items() if not record.absent_since}
        found = dict(tags)
        for tag, record in known.items():
            at_source = replace(tags[tag][0], digest=tags[tag][0].digest or (record.digest if tag in fixed else None))
            found[tag] = at_source, replace(listed[tag], digest=listed[tag].digest or record.digest)
        return found, known.keys() - fixed

    def _is_reread(self, both: _TagListings, tag: str) -> bool:
        return both.suspect or (both.group, tag) in self.context.asked or self.share.has(both.group, tag)

    def _incomplete(self, name: str, items: Sequence[Item]) -> set[str]:
        """Return the tags, equal at both registries, of images that the target does not have completely."""
        equal = [item for item in items if item.source is not None and item.source == item.target]
        origin = Origin(self.source.registry, lambda _: name, referrers=False, select=self.sync.select)
        answers = ImageVerification(self.target.registry, origin).verify(equal, self.context)
        return {answer.item.name for answer in answers if not isinstance(answer, Completed)}

    def _lacking_referrers(self, both: _TagListings, items: Sequence[Item]) -> tuple[set[str], tuple[Failure, ...]]:
        """Return the tags of images, equal at both registries, whose referrers the target does not all list.

        Also return failures for invalid entries in the lists of the other images; those of a lacking image are reported
        by its transfer. Both are empty if the scan does not compare referrers. Where only tags list referrers, the
        listing of the source tells which images have some, and no other is requested.
        """
        if not self.with_referrers:
            return set(), ()
        name, group, source = both.name, both.group, self.source.registry
        complete = both.detail.get("signed") != ASK and not both.source.invalid
        has_tag = both.source.tags.__contains__ if complete else None

        whole = {item.source: item.detail.get(INDEX, item.source) for item in items}

        def lacks(digest: str) -> tuple[bool, list[InvalidEntry]]:
            if has_tag is not None and source.lists_referrers_by_tag and not any(map(is_list, both.source.tags)):
                return False, []
            invalid: list[InvalidEntry] = []
            ends = (
                Referrers(source, name, invalid.append, has_tag),
                Referrers(self.target.registry, group, invalid.append),
            )
            try:
                manifest = source.manifest(name, whole[digest])
                compared = compare_referrers(*ends, for_platforms(manifest, self.sync.select) or manifest)
                lacking = not all(listed for _, referrer, listed in compared if referrer.is_known)
            except SynclineError as error:
                # A tag that is no image has no referrers to copy. The transfer reports other errors, for its image.
                return not error.is_any("MANIFEST_UNSUPPORTED", "MANIFEST_INVALID", "NOT_FOUND"), []
            return lacking, [] if lacking else invalid

        equal = {
            i.name: i.source for i in items if i.source is not None and i.source == i.target and not is_list(i.name)
        }
        digests = set(equal.values())
        found = dict(zip(digests, self.requests.map(lacks, digests), strict=True))
        invalid = {each.label: each for digest in sorted(digests) for each in found[digest][1]}
        failures = tuple(Failure(Item(group, label), each.error) for label, each in invalid.items())
        return {tag for tag, digest in equal.items() if found[digest][0]}, failures

    def _replaceable(self, name: str, items: Sequence[Item]) -> set[str]:
        """Return the tags that differ and may be replaced even if the sync does not overwrite."""
        attached = AttachedTags(self.source.registry, name)
        differing = [item for item in items if item.source and item.target and item.source != item.target]
        target, select = self.target.registry, self.sync.select

        def may_replace(item: Item) -> bool:
            if is_replaceable(item, target, attached, self.notes):
                return True
            whole = item.detail.get(INDEX)
            chosen = whole and for_platforms(self.source.registry.manifest(name, whole), select)
            return adds_platforms(item, target, chosen or None)

        allowed = self.requests.map(_false_if_refused(may_replace), differing)
        return {item.name for item, yes in zip(differing, allowed, strict=True) if yes}

    def _with_digests(
        self, name: str, group: str, tags: dict[str, tuple[Tag, Tag | None]], recorded: set[str]
    ) -> list[Item]:
        """Return the tags as items, with both digests where the target has the tag; unlisted digests are requested.

        The target's digests of the tags ``recorded`` are from records: where one differs from the source's, it is
        requested, so that only what the target says now leads to a transfer or a conflict. A target digest of another
        algorithm for the same bytes is replaced by the source's, so that equal tags have equal digests.
        """
        listed = {tag: present for tag, (_, present) in tags.items() if present is not None}
        at_target = self._digests(self.target.registry, group, listed)
        both = {tag: tags[tag][0] for tag, digest in at_target.items() if digest is not None}
        at_source = self._digests(self.source.registry, name, both)
        items = [
            Item(group, tag, at_source.get(tag, found.digest), at_target.get(tag), found.size, changed=found.changed)
            for tag, (found, _) in tags.items()
            if tag not in at_source or at_source[tag] is not None  # else removed at the source since it was listed
        ]
        doubtful = {item.name: Tag() for item in items if item.name in recorded and item.source != item.target}
        now = self._digests(self.target.registry, group, doubtful)
        items = [replace(item, target=now[item.name]) if item.name in now else item for item in items]

        def same_bytes(item: Item) -> bool:
            source, target = str(item.source), str(item.target)
            return is_same_manifest(source, target, lambda: self.source.registry.manifest(name, item.name))

        # If the manifest cannot be read, the transfer reports why.
        differing = [item for item in items if item.source != item.target and item.source and item.target]
        same = self.requests.map(_false_if_refused(same_bytes), differing)
        equal = {item.name for item, yes in zip(differing, same, strict=True) if yes}
        return [replace(item, target=item.source) if item.name in equal else item for item in items]

    def _digests(self, registry: ImageStore, repository: str, tags: dict[str, Tag]) -> dict[str, str | None]:
        """Return the digest of each tag, None if it no longer exists; several are requested at a time."""
        unknown = [tag for tag, listed in tags.items() if listed.digest is None]
        digests = self.requests.map(partial(registry.manifest_digest, repository), unknown)
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
