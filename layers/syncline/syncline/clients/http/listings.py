"""Listings: their limits, and their entries, read one by one, so that an odd one costs itself alone.

A server may list without an end, or begin again in the middle. :class:`Extent` counts what a listing has brought and
ends it at its limits. It keeps a few names of it only, so its memory does not grow with the listing.

Every function of a client that lists something takes ``odd``, which is called with each entry that is not what the
protocol promises. The others come through. A caller that passes nothing gets the error raised (:func:`refuse`), so no
entry is ever missing in silence. Who removes what a listing lacks must not do so after an odd entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, TypeAlias, TypeVar

from syncline.errors import CodeName, SynclineError

T = TypeVar("T")

MOST_ODD: Final = 300
"""Odd entries that one listing may have; with more of them its whole shape is wrong."""
_OF_ENTRIES: Final[frozenset[CodeName]] = frozenset({"REFERENCE_INVALID", "MANIFEST_INVALID", "MESSAGE_INVALID"})
"""The errors of parsers that concern the entry alone."""
_MOST_EMPTY: Final = 1_000  # pages in a row
_LONGEST: Final = 200  # characters of a name that are shown
_WORDS: Final[dict[type, str]] = {str: "text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Odd:
    """An entry that cannot be used. ``place`` says where it is in which listing; ``name`` is None if it has none.

    In a listing that is in order, ``at`` is its own name or that of an entry beside it, "" if there is none.
    """

    place: str
    name: str | None
    error: SynclineError
    at: str = ""

    @property
    def label(self) -> str:
        """The entry's name in a report: its own one, printable and short, or else its place."""
        return self.place if self.name is None else shown(self.name)


OnOdd: TypeAlias = Callable[[Odd], None]


def refuse(odd: Odd) -> None:
    """Raise the error of an odd entry, for callers that need every entry."""
    raise odd.error


def ignore(odd: Odd) -> None:
    """Do nothing about an odd entry, for callers that a missing one cannot mislead."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one listing may have. ``size`` is in bytes of its answers."""

    entries: int
    pages: int = 20_000
    size: int = 1024**3


TAGS: Final = Limits(entries=1_100_000)
"""For the tags of a repository."""
REPOSITORIES: Final = Limits(entries=200_000)
"""For the repositories of a registry or of a namespace."""
KEYS: Final = Limits(entries=5_000_000)
"""For the keys of a bucket below one prefix."""
OBJECTS: Final = Limits(entries=10**12, pages=10**9, size=10**15)
"""For listings that are compared page by page and continue behind a key: only their empty pages are limited."""
FEW: Final = Limits(entries=20_000)
"""For listings that are held whole: more would not fit into a function's memory, and no known server has as many."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two pages of a listing: the token of the next page, "" for the first, and what came before."""

    token: str = ""
    entries: int = 0
    pages: int = 0
    size: int = 0

    def to_json(self) -> list[Any]:
        return list(astuple(self))

    @classmethod
    def of_json(cls, value: Sequence[Any]) -> Position:
        token, entries, pages, size = value
        return cls(str(token), int(entries), int(pages), int(size))


BEGINNING: Final = Position()


class Extent:
    """Counts what a listing has brought, from ``start`` on.

    A repetition is found by comparing each page and its token with those of the first page, of the page before, and of
    one that is chosen anew after 1, 2, 4, 8… pages (Brent's algorithm): the last finds a cycle of any length.
    """

    def __init__(self, listing: str, limits: Limits, start: Position = BEGINNING) -> None:
        self._listing = listing
        self._limits = limits
        self._entries, self._pages, self._size = start.entries, start.pages, start.size
        self._first: str | None = None
        self._before: frozenset[str] = frozenset()
        self._chosen: tuple[str, ...] = ()
        self._tokens: tuple[str, str] = (start.token, start.token)
        self._read = 0
        self._empty = 0

    def count(self, names: Sequence[str], entries: int, size: int = 0) -> frozenset[str]:
        """Count a page with its names, number of entries and bytes; return the names that the page before had, too.

        Raises LISTING_TOO_LONG, and LISTING_INCOMPLETE if the listing repeats itself.
        """
        self._entries += entries
        self._pages += 1
        self._read += 1
        self._size += size
        limits = self._limits
        for count, limit, what in (
            (self._entries, limits.entries, "entries"),
            (self._pages, limits.pages, "pages"),
            (self._size, limits.size, "bytes"),
        ):
            if count > limit:
                raise SynclineError("LISTING_TOO_LONG", f"{self._listing}: over {limit:,} {what}, and no end")
        self._empty = 0 if entries else self._empty + 1
        if self._empty > _MOST_EMPTY:
            raise SynclineError("LISTING_TOO_LONG", f"{self._listing}: over {_MOST_EMPTY} empty pages in a row")
        return self._compare(tuple(names)) if names else frozenset()

    def _compare(self, names: tuple[str, ...]) -> frozenset[str]:
        if names[0] == self._first or names == self._chosen or self._before.issuperset(names):
            raise SynclineError("LISTING_INCOMPLETE", f"{self._listing} repeats itself: {shown(names[0])!r} came twice")
        if self._first is None:
            self._first = names[0]
        shared = self._before.intersection(names)
        self._before = frozenset(names)
        if self._is_turn:
            self._chosen = names
        return shared

    @property
    def _is_turn(self) -> bool:
        """Return True after 1, 2, 4, 8… pages."""
        return self._read & (self._read - 1) == 0

    def at(self, token: str) -> Position:
        """Return the position behind what was counted; ``token`` is that of the next page.

        Raises LISTING_INCOMPLETE if that page came before.
        """
        if token in self._tokens:
            raise SynclineError("LISTING_INCOMPLETE", f"{self._listing} leads back to a page that came before")
        self._tokens = (token, token if self._is_turn else self._tokens[1])
        return Position(token, self._entries, self._pages, self._size)


class Entries:
    """Reads the entries of one listing, page by page, and counts them against its limits.

    ``listing`` is the listing's name in messages, with the server. ``name_of`` finds the name of an entry, whatever the
    entry is; ``key_of`` finds what no two entries share, where that is not the name. The first page read is the one at
    ``start``. With ``strict``, LISTING_INCOMPLETE is raised even if a page begins with the end of the one before: the
    list changed meanwhile, and an entry may have moved to a page that was read already.
    """

    def __init__(  # noqa: PLR0913 - each is a fact of the listing
        self,
        listing: str,
        odd: OnOdd,
        name_of: Callable[[Any], Any] = lambda value: value,
        *,
        key_of: Callable[[Any], Any] | None = None,
        limits: Limits,
        start: Position = BEGINNING,
        strict: bool = False,
    ) -> None:
        self.listing = listing
        self._odd = odd
        self._name_of = name_of
        self._key_of = key_of or name_of
        self._count = start.entries
        self._odd_ones = 0
        self._strict = strict
        self._extent = Extent(listing, limits, start)

    def at(self, token: str) -> Position:
        """Return the position behind the pages that were read; see :meth:`Extent.at`."""
        return self._extent.at(token)

    def read(self, page: Sequence[Any], parse: Callable[[Any], T], size: int = 0) -> Iterator[T]:
        """Yield the entries of a page of ``size`` bytes that ``parse`` takes, except those that the page before had.

        ``parse`` raises ValueError, or an error about a name, for an odd entry. Raises BAD_ANSWER after
        :data:`MOST_ODD` odd entries, and what :meth:`Extent.count` raises.
        """
        keys = [self._key_of(value) for value in page]
        shared = self._extent.count([key for key in keys if isinstance(key, str)], len(page), size)
        if shared and self._strict:
            raise SynclineError("LISTING_INCOMPLETE", f"{self.listing} changed: {shown(min(shared))!r} came twice")
        for key, value in zip(keys, page, strict=True):
            self._count += 1
            if shared and isinstance(key, str) and key in shared:
                continue  # entries move to the next page when others are added
            try:
                entry = parse(value)
            except ValueError as error:
                self._refuse(value, str(error))
            except SynclineError as error:
                if error.code.name not in _OF_ENTRIES:
                    raise
                self._refuse(value, error.what)
            else:
                yield entry

    def _refuse(self, value: Any, why: str) -> None:
        found = self._name_of(value)
        name = found if isinstance(found, str) and found else None
        odd = odd_entry(f"entry {self._count} of {self.listing}", name, why)
        self._odd_ones += 1
        if self._odd_ones > MOST_ODD:
            raise SynclineError("BAD_ANSWER", f"{self.listing}: over {MOST_ODD} invalid entries; {odd.error.what}")
        self._odd(odd)


def odd_entry(place: str, name: str | None, why: str, at: str = "") -> Odd:
    """Return the odd entry at a place, with ENTRY_INVALID as its error."""
    called = "" if name is None else f" ({shown(name)})"
    return Odd(place, name, SynclineError("ENTRY_INVALID", f"{place}{called}: {why}"), name or at)


def shown(name: str) -> str:
    """Return a name as it can be kept and printed: escaped where it must be, and cut if it is long."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError for anything else."""
    if not isinstance(value, dict):
        raise ValueError(f"it is {described(value)}, not an object")  # noqa: TRY004 - every odd value is a ValueError
    return value


def text(value: Any, field: str) -> str:
    """Return the text of a field, which must not be empty. Raises ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"its {field} is {described(value)}, not text")
    return value


def whole(value: Any, field: str) -> int:
    """Return the number of a field, whole and not negative. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its {field} is {described(value)}, not a whole number from 0 on")
    return value


def optional(value: Any, kind: type[T], field: str) -> T | None:
    """Return a field that may be absent. Raises ValueError if it is there and of another type."""
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ValueError(f"its {field} is {described(value)}, not {_WORDS[kind]}")
    return value


def described(value: Any) -> str:
    """Return a JSON value in a few characters."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    written = json.dumps(value)
    return written if len(written) <= 60 else f"{written[:60]}…"
