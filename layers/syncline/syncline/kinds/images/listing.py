"""Listings of registries that may be longer than a function's memory or time.

Up to :data:`HELD_TAGS` tags of a repository, and :data:`HELD_REPOSITORIES` repositories, are held and compared in order.
A longer listing is read twice, page by page in the registry's own order: first it is only counted, so that an endless
listing leads to no transfers; then each page is compared. Both continue in the next function, at a
:class:`ScanPosition`. The tags of a target beyond the held ones are requested by name, since registries promise no
order to merge by.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.clients.http.listings import LISTING_START, InvalidEntry, ListingPosition, OnInvalid
from syncline.clients.registry.quay import Quay
from syncline.clients.registry.store import ImageStore
from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import StepContext
from syncline.model import compact_json

PAGE_TAGS: Final = 100
"""Tags in a page at most: one transfer handles as many, and the time left is checked after each page."""
HELD_TAGS: Final = 10_000
HELD_REPOSITORIES: Final = 20_000
_NOT_SEEN: Final[tuple[CodeName, ...]] = ("NOT_FOUND", "FORBIDDEN", "UNAUTHORIZED")
"""Errors of an API after which the registry itself is asked: absent, or not visible with this token."""


@dataclass(frozen=True, slots=True)
class RegistryClients:
    """The clients of a registry and, where it has one, of its own API, which lists tags with their digests."""

    registry: ImageStore
    api: Quay | None


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag as a listing shows it. Plain registries list only names: no digest, size (bytes) or time (Unix seconds)."""

    digest: str | None = None
    size: int | None = None
    changed: int | None = None


@dataclass(slots=True)
class ListedTags:
    """The tags of a repository at one registry, and the invalid entries of the listing.

    ``next_position`` is the position at which the listing continues, None if these are all.
    """

    tags: Mapping[str, Tag]
    invalid: list[InvalidEntry]
    next_position: ListingPosition | None = None

    def get(self, tag: str) -> Tag | None:
        """Return the known facts about a tag, None if it does not exist.

        A tag behind the listed ones, or one that a nameless invalid entry may stand for, is requested later.
        """
        listed = self.tags.get(tag)
        unread = self.next_position is not None or any(each.name is None for each in self.invalid)
        return Tag() if listed is None and unread else listed

    @property
    def is_empty(self) -> bool:
        return not self.tags and not self.invalid and self.next_position is None


@dataclass(frozen=True, slots=True)
class ListedRepositories:
    """A page of the source's repositories, and the position of the next page, None at the end."""

    names: list[str]
    next_position: ScanPosition | None


@dataclass(frozen=True, slots=True)
class ScanPosition:
    """The position of a scan in a long listing, stored in a cursor. ``counted`` is False while it is only counted.

    ``part`` is the number of the listing where there are several. ``behind`` is the last tag, or the cursor of the last
    repository, that was scanned on the page at ``position``. ``after`` is the same for the names in sorted order that
    were scanned while the listing was still held.
    """

    position: ListingPosition = LISTING_START
    counted: bool = False
    part: int = 0
    behind: str = ""
    after: str = ""

    @property
    def done(self) -> str:
        """The last name of the page, in sorted order, that was scanned."""
        return self.behind or self.after

    def page(self, position: ListingPosition, part: int = 0) -> ScanPosition:
        """Return the position of another page."""
        return replace(self, position=position, part=part, behind="")

    def __str__(self) -> str:
        return compact_json([self.position.to_json(), self.counted, self.part, self.behind, self.after])

    @classmethod
    def parse(cls, text: str) -> ScanPosition:
        position, counted, part, behind, *after = json.loads(text)
        return cls(ListingPosition.of_json(position), bool(counted), int(part), str(behind), "".join(after))


def tag_pages(
    clients: RegistryClients, repository: str, invalid: list[InvalidEntry], start: ListingPosition | None = None
) -> Iterator[ListedTags]:
    """Yield the tags of a repository page by page, from the API where it has them; invalid entries go to ``invalid``.

    With ``start``, tags that others push meanwhile are no error; see :meth:`Quay.tag_pages`.
    """
    # A page of the registry is named by its path, one of the API by its number.
    token = (start or LISTING_START).token
    if clients.api is not None and not token.startswith("/"):
        try:
            for page in clients.api.tag_pages(repository, invalid.append, start):
                yield ListedTags(
                    {n: Tag(tag.digest, tag.size, tag.changed) for n, tag in page.entries.items()},
                    invalid,
                    page.next_position,
                )
        except SynclineError as error:
            if error.code.name not in _NOT_SEEN or token:  # a position of the API is meaningless to the registry
                raise
            invalid.clear()
        else:
            return
    for names, next_position in clients.registry.tag_pages(repository, invalid.append, start or LISTING_START):
        yield ListedTags(dict.fromkeys(names, Tag()), invalid, next_position)


def held_tags(clients: RegistryClients, repository: str, context: StepContext) -> ListedTags:
    """Return the tags of a repository, or the first of them if there are too many or the time is over."""
    held: dict[str, Tag] = {}
    invalid: list[InvalidEntry] = []
    pages = tag_pages(clients, repository, invalid)
    next_position: ListingPosition | None = LISTING_START
    while next_position is not None and len(held) <= HELD_TAGS and not context.over:
        page = next(pages, ListedTags({}, invalid))
        held |= page.tags
        next_position = page.next_position
    return ListedTags(held, invalid, next_position)


def repository_pages(
    clients: RegistryClients, organizations: tuple[str, ...] | None, invalid: OnInvalid, start: ScanPosition
) -> Iterator[ListedRepositories]:
    """Yield the repositories of organizations, or of the whole catalog, page by page from ``start`` on.

    An organization without any repository counts as an invalid entry.
    """
    if organizations is None:
        for names, next_position in clients.registry.catalog_pages(invalid, start.position):
            yield ListedRepositories(names, None if next_position is None else start.page(next_position))
        return
    assert clients.api is not None, "the configuration requires an API for organizations"
    for number in range(start.part, len(organizations)):
        name, found = organizations[number], list[InvalidEntry]()
        position = start.position if number == start.part else LISTING_START
        # Without a position the client treats a change between two pages as an error, which held listings rely on.
        begun = position if start.counted or position.entries else None
        empty = not position.entries
        for repositories, next_position in clients.api.repository_pages(name, found.append, begun):
            empty = empty and not repositories and not found
            for each in found:
                invalid(each)
            found.clear()
            names = [repository.name for repository in repositories]
            if empty and next_position is None:
                host = clients.registry.host
                what = f"{host} lists no repository of {name}: no such organization, or its repositories are hidden"
                invalid(InvalidEntry(name, None, SynclineError("SOURCE_ABSENT", what)))
            if next_position is not None:
                yield ListedRepositories(names, start.page(next_position, number))
            elif number + 1 < len(organizations):
                yield ListedRepositories(names, start.page(LISTING_START, number + 1))
            else:
                yield ListedRepositories(names, None)


def held_repositories(
    clients: RegistryClients, organizations: tuple[str, ...] | None, invalid: OnInvalid, context: StepContext
) -> list[str] | ScanPosition:
    """Return all repositories, or the position reached if there are too many to hold or the time is over.

    Raises LISTING_INCOMPLETE if the listing is empty.
    """
    names, found = list[str](), list[InvalidEntry]()
    pages = repository_pages(clients, organizations, found.append, ScanPosition())
    next_position: ScanPosition | None = ScanPosition()
    while next_position is not None:
        if context.over or len(names) > HELD_REPOSITORIES:
            return next_position
        page = next(pages)
        names += page.names
        next_position = page.next_position
    absent = sum(each.error.code.name == "SOURCE_ABSENT" for each in found)
    if not names and len(found) == absent:
        raise nothing_listed(clients.registry, found[0].label if found else "the catalog")
    for each in found:
        invalid(each)
    return names


@dataclass(frozen=True, slots=True)
class TargetRepositories:
    """The known states of a target's repositories, and the namespaces of which all repositories are known."""

    states: dict[str, str] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)

    def lacks(self, group: str) -> bool:
        """Return True if the repository is known not to exist."""
        return group.partition("/")[0] in self.complete and group not in self.states


def target_repositories(
    clients: RegistryClients, namespaces: Iterable[str], invalid: OnInvalid, context: StepContext
) -> TargetRepositories:
    """Return the repositories of namespaces, as far as the registry's API lists them.

    After an invalid entry, or if there are too many to hold, a namespace is not complete.
    """
    found = TargetRepositories()
    if clients.api is None:
        return found
    for namespace in namespaces:
        met: list[InvalidEntry] = []
        count, complete = 0, True
        try:
            for repositories, next_position in clients.api.repository_pages(namespace, met.append):
                found.states.update((repository.name, repository.state) for repository in repositories)
                count += len(repositories)
                complete = next_position is None
                if context.over or count > HELD_REPOSITORIES:
                    break
            if count and complete and not met:
                found.complete.add(namespace)
            for each in met:
                invalid(each)
        except SynclineError as error:
            # A namespace that does not exist yet is no failure: its repositories are requested one by one.
            if error.code.name not in _NOT_SEEN:
                raise
    return found


def nothing_listed(registry: ImageStore, listing: str) -> SynclineError:
    """Return the error for an empty listing, which may be a fault of the registry."""
    return SynclineError("LISTING_INCOMPLETE", f"the listing of {listing} at {registry.host} is empty")


def count_listing(
    pages: Iterator[ListedTags | ListedRepositories], start: ScanPosition, context: StepContext
) -> Iterator[ScanPosition]:
    """Read a long listing from ``start`` without comparing it; yield the positions reached until the time is over.

    At the end of the listing, the last position is its beginning, from which it is compared.
    """
    if context.over:
        yield start
    while not context.over:
        page = next(pages, None)
        if page is None or page.next_position is None:
            yield replace(start.page(LISTING_START), counted=True)
            return
        yield page.next_position if isinstance(page.next_position, ScanPosition) else start.page(page.next_position)
