"""Looking: which tags differ between source and target, compared in bulk, one repository at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from syncline.clients.http.listings import Odd, OnOdd, ignore
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import is_same
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.listing import (
    HELD_REPOSITORIES,
    ListedTags,
    Place,
    Side,
    Tag,
    counting,
    held_tags,
    repository_pages,
    tag_pages,
)
from syncline.kinds.images.memory import Notes
from syncline.kinds.images.referrers import Attached, Compared, Referrers, is_list
from syncline.kinds.images.transfer import ASK, conflict
from syncline.kinds.images.verify import Origin, Proof
from syncline.kinds.kind import Completed, Failure, Page, StepContext, failure_pages
from syncline.model import Item, Result, Scope
from syncline.patterns import is_signature_tag

AT_ONCE: Final = 16
"""Repositories compared at a time."""
PAGE_TAGS: Final = 100
"""Tags in a page at most: the share of one transfer, and what is asked for between two looks at the time left."""
_NORMAL: Final = "NORMAL"
_LONG: Final = "?"
"""Between a repository and the place in its long listing, in a cursor."""
_BEFORE_TAGS: Final = " "
"""Sorts before every tag: a look that goes on behind it does not report a repository's odd entries again."""


@dataclass(frozen=True, slots=True)
class _Long:
    """A repository with more tags than are held, and where in their listing to go on."""

    name: str
    group: str
    place: Place


@dataclass(frozen=True, slots=True)
class _Compared:
    """The tags of a repository on both sides. With ``suspect``, equal tags are no proof of whole images.

    ``detail`` is for all items.
    """

    name: str
    group: str
    found: ListedTags
    present: ListedTags
    suspect: bool
    detail: dict[str, Any]


class Look:
    """One look at a sync's repositories."""

    def __init__(self, sync: ImagesSync, source: Side, target: Side, notes: Notes) -> None:
        self._sync = sync
        self._source = source
        self._target = target
        self._notes = notes
        self._states: dict[str, dict[str, str]] = {}
        self._complete: set[str] = set()
        self._with_referrers = sync.referrers == "always"
        self._named = False
        self._asked: frozenset[tuple[str, str]] = frozenset()
        self._asking = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ask")

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield pages in the order of repositories and tags, behind the one that ``cursor`` names.

        A cursor is the name of a repository that was scanned, ``name:tag`` or ``name?place`` within one, or the
        :class:`Place` in a long listing of repositories.
        """
        self._with_referrers |= scope.groups is not None and self._sync.referrers == "with-images"
        odd: list[Odd] = []
        odd_at_target: list[Odd] = []
        self._named, self._asked = context.named, context.asked
        if context.named and cursor is None:
            yield Page("", failures=tuple(self._not_taken(scope)))
        place = Place.parse(cursor) if cursor is not None and cursor.startswith("[") else None
        # Repositories wait for digests and digests wait for nobody, so the two pools cannot block one another.
        with self._asking, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
            # One side lists its repositories while the other does.
            states = pool.submit(self._target_states, scope, odd_at_target.append, context)
            names = self._repositories(scope, odd.append, context) if place is None else place
            self._states = states.result()
            if cursor is None and scope.groups is None:
                yield from failure_pages("", self._odd_at_target(odd_at_target))
            if isinstance(names, Place):
                begun = names if place is not None else replace(names, after=cursor or "")
                yield from self._long(begun, context, pool)
                return
            if cursor is None and scope.groups is None:
                yield from failure_pages("", self._odd_repositories(odd))
            yield from self._of(names, cursor or "", context, pool)

    def _long(self, place: Place, context: StepContext, pool: ThreadPoolExecutor) -> Iterator[Page]:
        """Yield the pages of a source with more repositories than are held: they are counted first."""
        organizations = self._sync.source.organizations
        if not place.counted:
            for place in counting(repository_pages(self._source, organizations, ignore, place), place, context):  # noqa: PLR1704, B020 - the last one counts
                yield Page(str(place))
        if context.over or not place.counted:
            return
        odd: list[Odd] = []
        for listed in repository_pages(self._source, organizations, odd.append, place):
            if listed.following is None and not (place.position.entries or listed.names or odd):
                raise self._nothing_listed("the catalog")
            if not place.behind:
                yield from failure_pages(str(place), self._odd_repositories(odd))
            odd.clear()
            for page in self._of(self._taken(listed.names), place.done, context, pool):
                yield replace(page, cursor=str(replace(place, behind=page.cursor)))
            if context.over or listed.following is None:
                return
            place = listed.following
            yield Page(str(place))

    def _of(self, names: Sequence[str], cursor: str, context: StepContext, pool: ThreadPoolExecutor) -> Iterator[Page]:
        """Yield the pages of repositories behind a cursor, in the order of their names."""
        last, separator, within = _parted(cursor)
        waiting = iter([name for name in names if name > last or (separator and name == last)])
        ahead: deque[Future[list[Page] | _Long]] = deque()
        try:
            while not context.over:
                while len(ahead) < 2 * AT_ONCE and (name := next(waiting, None)) is not None:
                    group = self._sync.target_repository(name)
                    if name == last and separator == _LONG:
                        ahead.append(Future())
                        ahead[-1].set_result(_Long(name, group, Place.parse(within)))
                    else:
                        ahead.append(pool.submit(self._pages_of, name, group, within if name == last else "", context))
                if not ahead:
                    return
                found = ahead.popleft().result()
                yield from self._tags_of(found, context) if isinstance(found, _Long) else found
        finally:
            for future in ahead:
                future.cancel()

    def _repositories(self, scope: Scope, odd: OnOdd, context: StepContext) -> list[str] | Place:
        """Return the source's repositories that belong to the sync and the scope, sorted.

        If there are too many to hold, or the time was over before all were listed, return how far the listing was read.
        """
        sync = self._sync
        if scope.groups is not None:
            # A hint names repositories; they are asked for by name, and what is not there shows in the answer.
            sources = (sync.source_repository(group) for group in scope.groups)
            return self._taken(name for name in sources if name is not None)
        if sync.source.repositories is not None:
            return self._taken(sync.source.repositories)
        names, found = list[str](), list[Odd]()
        pages = repository_pages(self._source, sync.source.organizations, found.append, Place())
        following: Place | None = Place()
        while following is not None:
            if context.over or len(names) > HELD_REPOSITORIES:
                return following
            page = next(pages)
            names += page.names
            following = page.following
        absent = sum(each.error.code.name == "SOURCE_ABSENT" for each in found)
        if not names and len(found) == absent:
            raise self._nothing_listed(found[0].label if found else "the catalog")
        for each in found:
            odd(each)
        return self._taken(names)

    def _nothing_listed(self, listing: str) -> SynclineError:
        """Return the error of an empty listing, which is not believed."""
        what = f"{listing} at {self._source.registry.host} is listed without a single repository"
        return SynclineError("LISTING_INCOMPLETE", what)

    def _taken(self, names: Iterable[str]) -> list[str]:
        return sorted({name for name in names if self._sync.takes_repository(name)})

    def _not_taken(self, scope: Scope) -> Iterator[Failure]:
        """Yield a failure for each group that a person has named and that is none of the sync's."""
        for group in scope.groups or ():
            name = self._sync.source_repository(group)
            if name is None or not self._sync.takes_repository(name):
                what = f"{group} is not a target repository of the sync as it is configured now"
                yield Failure(Item(group, "*"), SynclineError("SOURCE_ABSENT", what))

    def _check_named(self, name: str) -> None:
        """Raise SOURCE_ABSENT if a person has named a repository, here or in syncs.yaml, and it does not exist."""
        if (self._named or self._sync.source.repositories is not None) and not self._source.registry.knows(name):
            raise SynclineError("SOURCE_ABSENT", f"{self._source.registry.host} has no repository {name}")

    def _odd_repositories(self, odd: Iterable[Odd]) -> Iterator[Failure]:
        """Yield the failures of odd repositories of the source; one that the sync does not take is none."""
        for each in odd:
            if each.name is None:
                yield Failure(Item("*", each.label), each.error)
            elif self._sync.takes_repository(each.name):
                yield Failure(Item(self._sync.target_repository(each.label), "*"), each.error)

    def _odd_at_target(self, odd: Iterable[Odd]) -> Iterator[Failure]:
        """Yield the failures of odd repositories of the target, as far as they may be the sync's."""
        for each in odd:
            source = None if each.name is None else self._sync.source_repository(each.name)
            if each.name is None or (source is not None and self._sync.takes_repository(source)):
                yield Failure(Item("*", each.label), each.error)

    def _target_states(self, scope: Scope, odd: OnOdd, context: StepContext) -> dict[str, dict[str, str]]:
        """Return which target repositories exist and take pushes, where one listing for each organization tells.

        After an odd entry, or if there are too many to hold, it does not tell which ones exist, so the namespace is not
        among the complete ones.
        """
        states: dict[str, dict[str, str]] = {}
        if self._target.api is None or self._sync.source.organizations is None:
            return states
        groups = scope.groups
        if groups is None:
            groups = tuple(self._sync.target_repository(f"{name}/any") for name in self._sync.source.organizations)
        for namespace in {group.partition("/")[0] for group in groups}:
            found: list[Odd] = []
            try:
                held = states[namespace] = {}
                is_whole = True
                for page in self._target.api.repository_pages(namespace, found.append):
                    held |= {repository.name: repository.state for repository in page.repositories}
                    is_whole = page.following is None
                    if context.over or len(held) > HELD_REPOSITORIES:
                        break
                if held and is_whole and not found:
                    self._complete.add(namespace)
                for each in found:
                    odd(each)
            except SynclineError as error:
                # A namespace that is not there yet is no failure: its repositories are asked for one by one.
                if not error.is_any("NOT_FOUND", "FORBIDDEN", "UNAUTHORIZED"):
                    raise
        return states

    def _pages_of(self, name: str, group: str, behind: str, context: StepContext) -> list[Page] | _Long:
        """Return the pages of one repository's tags behind the tag ``behind``, or one that says why there are none.

        Fewer pages where the time ends: a repository may have more tags than one function can ask for. A repository with
        more tags than are held is returned as such.
        """
        pages: list[Page] = []
        try:
            found = held_tags(self._source, name, context)
            if found.following is not None:
                return _Long(name, group, Place(found.following, after=behind))
            self._check_found(name, found)
            for page in self._compare(name, group, found, behind, context):
                pages.append(page)
                if context.over:
                    break
        except SynclineError as error:
            return [Page(name, failures=(Failure(Item(group, "*"), error),))]
        return pages

    def _compare(self, name: str, group: str, found: ListedTags, behind: str, context: StepContext) -> Iterator[Page]:
        """Yield the pages of a repository all of whose tags are held."""
        present = ListedTags({}, [])
        if any(map(self._sync.takes_tag, found.tags)):
            present = self._target_tags(group, context)
        if not behind:
            failures = self._odd_tags(group, (*found.odd, *present.odd))
            yield from failure_pages(f"{name}:{_BEFORE_TAGS}", failures)
        # Where something was put and not verified, equal tags are no proof of whole images.
        suspect = bool(present.tags) and self._notes.has_unverified(group)
        detail = {"signed": True} if any(map(is_signature_tag, found.tags)) else {}
        both = _Compared(name, group, found, present, suspect, detail)
        is_whole = yield from self._differences(both, behind, lambda tag: f"{name}:{tag}" if tag else name, context)
        if suspect and is_whole and not behind and not context.over and not context.plan:
            self._notes.forget_unverified(group)

    def _differences(
        self, both: _Compared, behind: str, cursor: Callable[[str], str], context: StepContext
    ) -> Generator[Page, None, bool]:
        """Yield the pages of the listed tags behind ``behind``, until the time is over; return True if all are whole.

        ``cursor`` returns the cursor behind a tag; that behind all of them for "".
        """
        name, group, takes = both.name, both.group, self._sync.takes_tag
        odd_names = {odd.name for odd in (*both.found.odd, *both.present.odd)}
        wanted = sorted(tag for tag in both.found.tags if tag > behind and takes(tag) and tag not in odd_names)
        detail = ({"fresh": True} if both.present.is_empty else {}) | both.detail
        whole = True
        for at in range(0, max(len(wanted), 1), PAGE_TAGS):
            tags = wanted[at : at + PAGE_TAGS]
            is_last = at + PAGE_TAGS >= len(wanted)
            listed = {tag: (both.found.tags[tag], both.present.there(tag)) for tag in tags}
            compared = self._with_digests(name, group, listed)
            broken = self._broken(name, compared, context) if both.suspect else set()
            whole &= not broken
            page = self._page(name, group, cursor("" if is_last else tags[-1]), compared, broken)
            yield replace(page, items=tuple(replace(item, detail=detail) for item in page.items))
            if context.over:
                return False
        return whole

    def _odd_tags(self, group: str, odd: Iterable[Odd]) -> Iterable[Failure]:
        """Return the failures of odd entries that the sync may take."""
        taken = (each for each in odd if each.name is None or self._sync.takes_tag(each.name))
        return {each.label: Failure(Item(group, each.label), each.error) for each in taken}.values()

    def _tags_of(self, long: _Long, context: StepContext) -> Iterator[Page]:
        """Yield the pages of a repository with more tags than are held; a failure is of what is behind the last one."""
        begun = at = None if long.place == Place() else f"{long.name}{_LONG}{long.place}"
        try:
            for page in self._long_tags(long, context):
                at = page.cursor
                yield page
        except SynclineError as error:
            failure = Failure(Item(long.group, "*"), error, further=at != begun, cursor=at)
            yield Page(long.name, failures=(failure,))

    def _long_tags(self, long: _Long, context: StepContext) -> Iterator[Page]:
        """Yield the pages of a repository with more tags than are held: they are counted first."""
        name, group, place = long.name, long.group, long.place

        def cursor(at: Place) -> str:
            return f"{name}{_LONG}{at}"

        if not place.counted:
            for place in counting(tag_pages(self._source, name, [], place.position), place, context):  # noqa: B020
                yield Page(cursor(place))
        if context.over or not place.counted:
            return
        present = self._target_tags(group, context)
        if place == Place(counted=True):
            yield from failure_pages(cursor(place), self._odd_tags(group, present.odd))
        suspect = not present.is_empty and self._notes.has_unverified(group)
        odd: list[Odd] = []
        for listed in self._listed(name, odd, place):
            if not place.behind:
                yield from failure_pages(cursor(place), self._odd_tags(group, odd))
            following = None if listed.following is None else place.page(listed.following)
            end = name if following is None else cursor(following)
            both = _Compared(name, group, listed, present, suspect, {"signed": ASK})
            yield from self._differences(both, place.done, partial(_within, place, cursor, end), context)
            odd.clear()
            if context.over or following is None:
                return
            place = following

    def _listed(self, name: str, odd: list[Odd], place: Place) -> Iterator[ListedTags]:
        """Yield the pages of a repository's tags, at least one. Raises what :meth:`_check_found` raises."""
        pages = tag_pages(self._source, name, odd, place.position)
        first = next(pages, ListedTags({}, odd))
        if place == Place(counted=True):
            self._check_found(name, first)
        yield first
        yield from pages

    def _page(self, name: str, group: str, cursor: str, compared: Sequence[Item], broken: set[str]) -> Page:
        items: list[Item] = []
        results: list[Result] = []
        skipped = 0
        lacking, odd = self._lacking_referrers(name, group, [item for item in compared if item.name not in broken])
        incomplete = broken | lacking
        replaceable = set() if self._sync.overwrite else self._replaceable(name, group, compared)
        for item in compared:
            equal = item.target is not None and item.target == item.source
            asked = (group, item.name) in self._asked  # its transfer looks closer
            if equal and item.name not in incomplete and not asked:
                skipped += 1
            elif equal or item.target is None or self._sync.overwrite or item.name in replaceable:
                items.append(item)
            else:
                results.append(conflict(item))
        if items and self._state(group) not in (None, _NORMAL):
            error = SynclineError("READ_ONLY", f"{group} is {self._state(group)} at {self._target.registry.host}")
            failures = tuple(Failure(item, error) for item in items)
            return Page(cursor, skipped=skipped, results=tuple(results), failures=(*failures, *odd))
        return Page(cursor, tuple(items), skipped, tuple(results), odd)

    def _broken(self, name: str, items: Sequence[Item], context: StepContext) -> set[str]:
        """Return the tags, equal on both sides, of images that are not whole at the target."""
        equal = [item for item in items if item.source is not None and item.source == item.target]
        proof = Proof(self._target.registry, Origin(self._source.registry, lambda _: name, referrers=False))
        return {answer.item.name for answer in proof.of(equal, context) if not isinstance(answer, Completed)}

    def _lacking_referrers(self, name: str, group: str, items: Iterable[Item]) -> tuple[set[str], tuple[Failure, ...]]:
        """The tags, equal on both sides, of images whose referrers the target does not all list, if that is asked.

        Besides, failures for odd entries in the lists of the other images; of those that lack some, the transfer tells.
        """
        if not self._with_referrers:
            return set(), ()
        source = self._source.registry

        def lacks(digest: str) -> tuple[bool, list[Odd]]:
            odd: list[Odd] = []
            target = Referrers(self._target.registry, group, odd.append)
            compared = Compared(Referrers(source, name, odd.append), target)
            try:
                lacking = not all(
                    listed for _, referrer, listed in compared.of(source.manifest(name, digest)) if referrer.is_known
                )
            except SynclineError as error:
                # What is no image has no referrers that could be copied. Anything else is the transfer's to say, of
                # this image alone.
                return not error.is_any("MANIFEST_UNSUPPORTED", "MANIFEST_INVALID", "NOT_FOUND"), []
            return lacking, [] if lacking else odd

        equal = {
            i.name: i.source for i in items if i.source is not None and i.source == i.target and not is_list(i.name)
        }
        digests = set(equal.values())
        found = dict(zip(digests, self._asking.map(lacks, digests), strict=True))
        odd = {each.label: each for digest in sorted(digests) for each in found[digest][1]}
        failures = tuple(Failure(Item(group, label), each.error) for label, each in odd.items())
        return {tag for tag, digest in equal.items() if found[digest][0]}, failures

    def _replaceable(self, name: str, group: str, items: Sequence[Item]) -> set[str]:
        """Return the tags that differ and may be replaced although nothing is overwritten.

        These are attached tags that only grew, and tags that moved on at the source while we copied them.
        """
        attached = Attached(self._source.registry, name)
        differing = [item for item in items if item.source and item.target and item.source != item.target]

        def may(item: Item) -> bool:
            try:
                noted = self._notes.outdated(group, item.name)
                if noted and is_same(
                    noted, str(item.target), partial(self._target.registry.manifest, group, item.name)
                ):
                    return True
                if not is_signature_tag(item.name):
                    return False
                theirs = self._source.registry.manifest(name, item.name)
                return attached.grew(item.name, theirs, self._target.registry.manifest(group, item.name))
            except SynclineError as error:
                if error.retried:
                    raise
                return False

        return {item.name for item, yes in zip(differing, self._asking.map(may, differing), strict=True) if yes}

    def _check_found(self, name: str, listed: ListedTags) -> None:
        """Raise LISTING_INCOMPLETE if the registry itself does not confirm an empty list.

        Raises SOURCE_ABSENT if a person has named a repository that does not exist.
        """
        if not listed.is_empty:
            return
        if self._source.api is not None and any(True for _ in self._source.registry.tags(name, ignore)):
            what = f"the API of {self._source.registry.host} lists no tags of {name}, but its registry does"
            raise SynclineError("LISTING_INCOMPLETE", what)
        self._check_named(name)

    def _target_tags(self, group: str, context: StepContext) -> ListedTags:
        namespace = group.partition("/")[0]
        if namespace in self._complete and group not in self._states[namespace]:
            return ListedTags({}, [])
        return held_tags(self._target, group, context)

    def _state(self, group: str) -> str | None:
        return self._states.get(group.partition("/")[0], {}).get(group)

    def _with_digests(self, name: str, group: str, tags: dict[str, tuple[Tag, Tag | None]]) -> list[Item]:
        """The tags as items, with both digests where the target has the tag: asked for if the listings show none.

        A digest of another algorithm for the same bytes is shown as the source's, so that equal tags have equal ones.
        """
        listed = {tag: present for tag, (_, present) in tags.items() if present is not None}
        here = self._digests(self._target.registry, group, listed)
        both = {tag: tags[tag][0] for tag, digest in here.items() if digest is not None}
        there = self._digests(self._source.registry, name, both)
        items = [
            Item(group, tag, there.get(tag, found.digest), here.get(tag), found.size)
            for tag, (found, _) in tags.items()
            if tag not in there or there[tag] is not None  # else removed at the source since it was listed
        ]

        def same_bytes(item: Item) -> bool:
            source, target = item.source, item.target
            if source is None or target is None or source == target:
                return False
            try:
                return is_same(source, target, lambda: self._source.registry.manifest(name, item.name))
            except SynclineError as error:
                if error.retried:
                    raise
                return False  # the transfer says why

        equal = zip(items, self._asking.map(same_bytes, items), strict=True)
        return [replace(item, target=item.source) if same else item for item, same in equal]

    def _digests(self, registry: Registry, repository: str, tags: dict[str, Tag]) -> dict[str, str | None]:
        """The digest of each tag, several asked for at a time; None of one that is not there any more."""
        unknown = [tag for tag, listed in tags.items() if listed.digest is None]
        asked = dict(
            zip(unknown, self._asking.map(partial(registry.manifest_digest, repository), unknown), strict=True)
        )
        return {tag: listed.digest or asked[tag] for tag, listed in tags.items()}


def _parted(cursor: str) -> tuple[str, str, str]:
    """Return the repository of a cursor, its separator ("" if the repository was done), and the place within it."""
    name, separator, place = cursor.partition(_LONG)
    return (name, separator, place) if separator else cursor.partition(":")


def _within(place: Place, cursor: Callable[[Place], str], end: str, tag: str) -> str:
    """Return the cursor behind a tag of a page of a long listing; ``end`` behind all of them."""
    return cursor(replace(place, behind=tag)) if tag else end
