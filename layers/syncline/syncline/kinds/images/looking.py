"""Looking: which tags differ between source and target, compared in bulk, one repository at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from syncline.clients.entries import Odd, OnOdd, ignore
from syncline.clients.oci import Registry
from syncline.clients.oci_manifest import is_same
from syncline.clients.quay import Quay
from syncline.config.images import ImagesSync
from syncline.errors import SynclineError
from syncline.kinds.images.attached import Attached, is_list
from syncline.kinds.images.copying import conflict
from syncline.kinds.images.notes import Notes
from syncline.kinds.images.proving import Origin, Proof
from syncline.kinds.images.referrers import Compared, Referrers
from syncline.kinds.kind import Arrived, Failure, Pace, Page, odd_pages
from syncline.model import Item, Result, Scope
from syncline.select import is_signature_tag

AT_ONCE: Final = 16
"""Repositories compared at a time."""
PAGE_TAGS: Final = 100
"""Tags in a page at most: the share of one transfer, and what is asked for between two looks at the time left."""
_NORMAL: Final = "NORMAL"
_BEFORE_TAGS: Final = " "
"""Sorts before every tag: a look that goes on behind it does not report a repository's odd entries again."""


@dataclass(frozen=True, slots=True)
class Side:
    """A registry and, where it has one, its own API, which lists tags with their digests."""

    registry: Registry
    api: Quay | None


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag as a listing shows it; plain registries list neither digest nor size (bytes)."""

    digest: str | None = None
    size: int | None = None


@dataclass(slots=True)
class _Listed:
    """The tags of a repository on one side, and the entries of the listing that cannot be used."""

    tags: dict[str, Tag]
    odd: list[Odd]

    def there(self, tag: str) -> Tag | None:
        """Return what is known of a tag; one that an entry without a name may stand for is asked for later."""
        listed = self.tags.get(tag)
        return Tag() if listed is None and any(odd.name is None for odd in self.odd) else listed

    @property
    def is_empty(self) -> bool:
        return not self.tags and not self.odd


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

    def pages(self, scope: Scope, cursor: str | None, pace: Pace) -> Iterator[Page]:
        """Pages in the order of repositories and tags, behind the one that ``cursor`` names.

        A cursor is the name of a repository that was looked at, or ``name:tag`` within one.
        """
        self._with_referrers |= scope.groups is not None and self._sync.referrers == "with-images"
        odd: list[Odd] = []
        odd_at_target: list[Odd] = []
        self._named, self._asked = pace.named, pace.asked
        if pace.named and cursor is None:
            yield Page("", failures=tuple(self._not_taken(scope)))
        last, _, tag = (cursor or "").partition(":")
        ahead: deque[Future[list[Page]]] = deque()
        # Repositories wait for digests and digests wait for nobody, so the two pools cannot block one another.
        with self._asking, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
            # One side lists its repositories while the other does.
            states = pool.submit(self._target_states, scope, odd_at_target.append)
            names = [name for name in self._repositories(scope, odd.append) if name > last or (tag and name == last)]
            self._states = states.result()
            if cursor is None and scope.groups is None:
                yield from odd_pages("", [*self._odd_repositories(odd), *self._odd_at_target(odd_at_target)])
            waiting = iter(names)
            try:
                while not pace.over:
                    while len(ahead) < 2 * AT_ONCE and (name := next(waiting, None)) is not None:
                        ahead.append(pool.submit(self._pages_of, name, tag if name == last else "", pace))
                    if not ahead:
                        return
                    yield from ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _repositories(self, scope: Scope, odd: OnOdd) -> list[str]:
        """The source's repositories that belong to the sync and the scope, sorted."""
        sync = self._sync
        if scope.groups is not None:
            # A hint names repositories; they are asked for by name, and what is not there shows in the answer.
            sources = (sync.source_repository(group) for group in scope.groups)
            names: Iterable[str] = (name for name in sources if name is not None)
        elif sync.source.repositories is not None:
            names = sync.source.repositories
        elif sync.source.organizations is not None:
            names = self._organizations(sync.source.organizations, odd)
        else:
            found: list[Odd] = []
            names = list(self._source.registry.catalog(found.append))
            for each in found:
                odd(each)
            if not names and not found:
                what = f"the catalog of {self._source.registry.host} is listed without a single repository"
                raise SynclineError("LISTING_INCOMPLETE", what)
        return sorted({name for name in names if sync.takes_repository(name)})

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

    def _organizations(self, organizations: Sequence[str], odd: OnOdd) -> Iterator[str]:
        """Yield the repositories of organizations; one that has none is odd, and an error where all have none."""
        assert self._source.api is not None, "the configuration asks for an API with organizations"
        without: list[str] = []
        for organization in organizations:
            found: list[Odd] = []
            empty = True
            for repository in self._source.api.repositories(organization, found.append):
                empty = False
                yield repository.name
            for each in found:
                odd(each)
            if empty and not found:
                without.append(organization)
        host = self._source.registry.host
        if len(without) == len(organizations):
            raise SynclineError("LISTING_INCOMPLETE", f"{without[0]} at {host} is listed without a single repository")
        for organization in without:
            what = f"{host} lists no repository of {organization}: no such organization, or its repositories are hidden"
            odd(Odd(organization, None, SynclineError("SOURCE_ABSENT", what)))

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

    def _target_states(self, scope: Scope, odd: OnOdd) -> dict[str, dict[str, str]]:
        """Which target repositories exist and take pushes, where one listing for each organization tells.

        After an odd entry it does not tell which ones exist, so the namespace is not among the complete ones.
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
                listed = self._target.api.repositories(namespace, found.append)
                states[namespace] = {repository.name: repository.state for repository in listed}
                if states[namespace] and not found:
                    self._complete.add(namespace)
                for each in found:
                    odd(each)
            except SynclineError as error:
                # A namespace that is not there yet is no failure: its repositories are asked for one by one.
                if error.code.name not in ("NOT_FOUND", "FORBIDDEN", "UNAUTHORIZED"):
                    raise
        return states

    def _pages_of(self, name: str, behind: str, pace: Pace) -> list[Page]:
        """Return the pages of one repository's tags behind the tag ``behind``, or one that says why there are none.

        Fewer pages where the time ends: a repository may have more tags than one function can ask for.
        """
        group = self._sync.target_repository(name)
        pages: list[Page] = []
        try:
            for page in self._compare(name, group, behind, pace):
                pages.append(page)
                if pace.over:
                    break
        except SynclineError as error:
            return [Page(name, failures=(Failure(Item(group, "*"), error),))]
        return pages

    def _compare(self, name: str, group: str, behind: str, pace: Pace) -> Iterator[Page]:
        found = self._source_tags(name)
        if not found.tags and not found.odd:
            self._check_named(name)
        takes = self._sync.takes_tag
        present = _Listed({}, [])
        if any(map(takes, found.tags)):
            present = self._target_tags(group)
        odd_names = {odd.name for odd in (*found.odd, *present.odd)}
        wanted = sorted(tag for tag in found.tags if tag > behind and takes(tag) and tag not in odd_names)
        if not behind:
            odd = (each for each in (*found.odd, *present.odd) if each.name is None or takes(each.name))
            failures = {each.label: Failure(Item(group, each.label), each.error) for each in odd}
            yield from odd_pages(f"{name}:{_BEFORE_TAGS}", failures.values())
        detail = ({"fresh": True} if present.is_empty else {}) | (
            {"signed": True} if any(map(is_signature_tag, found.tags)) else {}
        )
        # Where something was put and not verified, equal tags are no proof of whole images.
        suspect = bool(present.tags) and self._notes.has_unverified(group)
        whole = suspect and not behind
        for at in range(0, max(len(wanted), 1), PAGE_TAGS):
            tags = wanted[at : at + PAGE_TAGS]
            cursor = name if at + PAGE_TAGS >= len(wanted) else f"{name}:{tags[-1]}"
            both = {tag: (found.tags[tag], present.there(tag)) for tag in tags}
            compared = self._with_digests(name, group, both)
            broken = self._broken(name, compared, pace) if suspect else set()
            whole &= not broken
            page = self._page(name, group, cursor, compared, broken)
            yield replace(page, items=tuple(replace(item, detail=detail) for item in page.items))
        if whole and not pace.over and not pace.plan:
            self._notes.forget_unverified(group)

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

    def _broken(self, name: str, items: Sequence[Item], pace: Pace) -> set[str]:
        """Return the tags, equal on both sides, of images that are not whole at the target."""
        equal = [item for item in items if item.source is not None and item.source == item.target]
        proof = Proof(self._target.registry, Origin(self._source.registry, lambda _: name, referrers=False))
        return {answer.item.name for answer in proof.of(equal, pace) if not isinstance(answer, Arrived)}

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
                return error.code.name not in ("MANIFEST_UNSUPPORTED", "MANIFEST_INVALID", "NOT_FOUND"), []
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

    def _source_tags(self, name: str) -> _Listed:
        """The source's tags; an empty list is believed only when the registry itself confirms it."""
        listed = self._tags(self._source, name)
        if (
            listed.is_empty
            and self._source.api is not None
            and any(True for _ in self._source.registry.tags(name, ignore))
        ):
            what = f"the API of {self._source.registry.host} lists no tags of {name}, but its registry does"
            raise SynclineError("LISTING_INCOMPLETE", what)
        return listed

    def _target_tags(self, group: str) -> _Listed:
        namespace = group.partition("/")[0]
        if namespace in self._complete and group not in self._states[namespace]:
            return _Listed({}, [])
        return self._tags(self._target, group)

    def _tags(self, side: Side, repository: str) -> _Listed:
        odd: list[Odd] = []
        if side.api is not None:
            try:
                listed = side.api.tags(repository, odd.append)
            except SynclineError as error:
                # Not there, or not to be seen with this token: the registry's own answer decides.
                if error.code.name not in ("NOT_FOUND", "FORBIDDEN", "UNAUTHORIZED"):
                    raise
                odd.clear()
            else:
                return _Listed({name: Tag(tag.digest, tag.size) for name, tag in listed.items()}, odd)
        return _Listed({tag: Tag() for tag in side.registry.tags(repository, odd.append)}, odd)

    def _state(self, group: str) -> str | None:
        return self._states.get(group.partition("/")[0], {}).get(group)

    def _with_digests(self, name: str, group: str, tags: dict[str, tuple[Tag, Tag | None]]) -> list[Item]:
        """The tags as items, with both digests where the target has the tag: asked for if the listings show none.

        A digest of another algorithm for the same bytes is shown as the source's, so that equal tags have equal ones.
        """
        both = [tag for tag, (_, here) in tags.items() if here is not None]
        there = self._digests(self._source.registry, name, {tag: tags[tag][0] for tag in both})
        here = self._digests(self._target.registry, group, {tag: tags[tag][1] or Tag() for tag in both})
        items = [
            Item(group, tag, there.get(tag, listed.digest), here.get(tag), listed.size)
            for tag, (listed, _) in tags.items()
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
