"""Listings of registries that may be longer than a function's memory or time.

Up to :data:`HELD_TAGS` tags of a repository, and :data:`HELD_REPOSITORIES` repositories, are held and compared in order.
A longer listing is read twice, page by page in the registry's own order: first it is only counted, so that nothing of a
listing without an end is sent on; then each page is compared. Both go on in the next function, at a :class:`Place`.
The tags of a target beyond the held ones are asked for by name, since registries promise no order to merge by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from syncline.clients.http.listings import BEGINNING, Odd, OnOdd, Position
from syncline.clients.registry.client import Registry
from syncline.clients.registry.quay import Quay
from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import StepContext
from syncline.model import compact_json

HELD_TAGS: Final = 10_000
HELD_REPOSITORIES: Final = 20_000
_NOT_SEEN: Final[tuple[CodeName, ...]] = ("NOT_FOUND", "FORBIDDEN", "UNAUTHORIZED")
"""Errors of an API after which the registry's own answer decides: not there, or not to be seen with this token."""


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
class ListedTags:
    """The tags of a repository on one side, and the entries of the listing that cannot be used.

    ``following`` is where the listing goes on behind them, None if these are all.
    """

    tags: Mapping[str, Tag]
    odd: list[Odd]
    following: Position | None = None

    def there(self, tag: str) -> Tag | None:
        """Return what is known of a tag.

        One that was not read, or that an entry without a name may stand for, is asked for later.
        """
        listed = self.tags.get(tag)
        unread = self.following is not None or any(odd.name is None for odd in self.odd)
        return Tag() if listed is None and unread else listed

    @property
    def is_empty(self) -> bool:
        return not self.tags and not self.odd and self.following is None


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a long listing, kept in a cursor. ``counted`` is False while the listing is only counted.

    ``part`` is the number of the listing where there are several. ``behind`` is what was done of the page at
    ``position``: a tag, or the cursor of a repository. ``after`` is the same for what was done of all names, in their
    order, while the listing was held.
    """

    position: Position = BEGINNING
    counted: bool = False
    part: int = 0
    behind: str = ""
    after: str = ""

    @property
    def done(self) -> str:
        """What was done of the names of the page, in their order."""
        return self.behind or self.after

    def page(self, position: Position, part: int = 0) -> Place:
        """Return the place of another page."""
        return replace(self, position=position, part=part, behind="")

    def __str__(self) -> str:
        return compact_json([self.position.to_json(), self.counted, self.part, self.behind, self.after])

    @classmethod
    def parse(cls, text: str) -> Place:
        position, counted, part, behind, *after = json.loads(text)
        return cls(Position.of_json(position), bool(counted), int(part), str(behind), "".join(after))


def tag_pages(side: Side, repository: str, odd: list[Odd], start: Position | None = None) -> Iterator[ListedTags]:
    """Yield the tags of a repository page by page, from the API where that knows it; odd entries are added to ``odd``.

    With ``start``, tags that others push meanwhile are no error; see :meth:`Quay.tag_pages`.
    """
    # A page of the registry is named by its path, one of the API by its number.
    token = (start or BEGINNING).token
    if side.api is not None and not token.startswith("/"):
        try:
            for page in side.api.tag_pages(repository, odd.append, start):
                yield ListedTags({n: Tag(tag.digest, tag.size) for n, tag in page.tags.items()}, odd, page.following)
        except SynclineError as error:
            if error.code.name not in _NOT_SEEN or token:  # what is a place in the API is none in the registry
                raise
            odd.clear()
        else:
            return
    for names in side.registry.tag_pages(repository, odd.append, start or BEGINNING):
        yield ListedTags(dict.fromkeys(names.names, Tag()), odd, names.following)


def held_tags(side: Side, repository: str, context: StepContext) -> ListedTags:
    """Return the tags of a repository, or the first of them if there are too many or the time is over."""
    held: dict[str, Tag] = {}
    odd: list[Odd] = []
    pages = tag_pages(side, repository, odd)
    following: Position | None = BEGINNING
    while following is not None and len(held) <= HELD_TAGS and not context.over:
        page = next(pages, None)
        if page is None:
            following = None
        else:
            held |= page.tags
            following = page.following
    return ListedTags(held, odd, following)


@dataclass(frozen=True, slots=True)
class ListedNames:
    """A page of the source's repositories, and the place of the next page, None at the end."""

    names: list[str]
    following: Place | None


def repository_pages(
    side: Side, organizations: tuple[str, ...] | None, odd: OnOdd, start: Place
) -> Iterator[ListedNames]:
    """Yield the repositories of organizations, or of the whole catalog, page by page from ``start`` on.

    An organization without any is odd.
    """
    if organizations is None:
        for page in side.registry.catalog_pages(odd, start.position):
            following = page.following
            yield ListedNames(page.names, None if following is None else start.page(following))
        return
    assert side.api is not None, "the configuration asks for an API with organizations"
    for number in range(start.part, len(organizations)):
        name, found = organizations[number], list[Odd]()
        position = start.position if number == start.part else BEGINNING
        # Held listings begin without a position: there, a change between two pages is an error.
        begun = position if start.counted or position.entries else None
        empty = not position.entries
        for listed in side.api.repository_pages(name, found.append, begun):
            empty = empty and not listed.repositories and not found
            for each in found:
                odd(each)
            found.clear()
            names = [repository.name for repository in listed.repositories]
            if empty and listed.following is None:
                host = side.registry.host
                what = f"{host} lists no repository of {name}: no such organization, or its repositories are hidden"
                odd(Odd(name, None, SynclineError("SOURCE_ABSENT", what)))
            if listed.following is not None:
                yield ListedNames(names, start.page(listed.following, number))
            elif number + 1 < len(organizations):
                yield ListedNames(names, start.page(BEGINNING, number + 1))
            else:
                yield ListedNames(names, None)


def counting(pages: Iterator[ListedTags | ListedNames], place: Place, context: StepContext) -> Iterator[Place]:
    """Read a long listing behind ``place`` without comparing it, and yield the places reached until the time is over.

    The last place of a listing that ends is its beginning, as a place to compare from.
    """
    if context.over:
        yield place
    while not context.over:
        page = next(pages, None)
        if page is None or page.following is None:
            yield replace(place.page(BEGINNING), counted=True)
            return
        yield page.following if isinstance(page.following, Place) else place.page(page.following)
