"""Limits of listings, and a reader that isolates invalid entries.

A server may list without end or start over in the middle. :class:`ListingGuard` counts the entries and ends a listing
at its limits. It keeps only a few names, so its memory does not grow with the listing.

Every client function that lists something takes ``on_invalid``, which is called with each entry that violates the
protocol; the others are returned. The default raises the error (:func:`refuse`), so no entry is skipped silently.
Removals must not follow a listing with an invalid entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from syncline.errors import CodeName, SynclineError

T = TypeVar("T")

MAX_INVALID: Final = 300
"""Invalid entries that one listing may have. More of them mean that the listing has another form."""
_ENTRY_ERRORS: Final[frozenset[CodeName]] = frozenset({"REFERENCE_INVALID", "MANIFEST_INVALID", "MESSAGE_INVALID"})
"""Errors of parsers that concern a single entry."""
_MAX_EMPTY_PAGES: Final = 1_000  # pages in a row
_MAX_SHOWN: Final = 200  # characters of a name that are shown
_TYPE_NAMES: Final[dict[type, str]] = {str: "text", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class InvalidEntry:
    """An entry that cannot be used. ``location`` names its listing and position; ``name`` is None if it has no name.

    In a sorted listing, ``near`` is its own name or that of a neighbour, "" if there is none.
    """

    location: str
    name: str | None
    error: SynclineError
    near: str = ""

    @property
    def label(self) -> str:
        """The entry's name in a report, printable and short, or else its location."""
        return self.location if self.name is None else printable(self.name)


OnInvalid: TypeAlias = Callable[[InvalidEntry], None]


def refuse(entry: InvalidEntry) -> None:
    """Raise the error of an invalid entry, for callers that need every entry."""
    raise entry.error


def ignore(entry: InvalidEntry) -> None:
    """Skip an invalid entry, for callers that can do without it."""


@dataclass(frozen=True, slots=True)
class ListingLimits:
    """Maximum size of one listing: entries, pages, and ``size`` in bytes of its responses."""

    entries: int
    pages: int = 20_000
    size: int = 1024**3


TAG_LIMITS: Final = ListingLimits(entries=1_100_000)
"""For the tags of a repository."""
REPOSITORY_LIMITS: Final = ListingLimits(entries=200_000)
"""For the repositories of a registry or of a namespace."""
KEY_LIMITS: Final = ListingLimits(entries=5_000_000)
"""For the keys of a bucket with one prefix."""
PAGED_LIMITS: Final = ListingLimits(entries=10**12, pages=10**9, size=10**15)
"""For listings that are compared page by page and can continue after a key: only their empty pages are limited."""
IN_MEMORY_LIMITS: Final = ListingLimits(entries=20_000)
"""For listings held in memory: more would not fit into a function's memory, and no known server has that many."""


@dataclass(frozen=True, slots=True)
class ListingPosition:
    """A position between two pages of a listing: the token of the next page ("" for the first) and the counts so far."""

    token: str = ""
    entries: int = 0
    pages: int = 0
    size: int = 0

    def to_json(self) -> list[Any]:
        return list(astuple(self))

    @classmethod
    def of_json(cls, value: Sequence[Any]) -> ListingPosition:
        token, entries, pages, size = value
        return cls(str(token), int(entries), int(pages), int(size))


LISTING_START: Final = ListingPosition()


class ListingPage(NamedTuple, Generic[T]):
    """The entries of a page, and the position of the next one, None at the end."""

    entries: T
    next_position: ListingPosition | None


class ListingGuard:
    """Counts the entries of a listing from ``start`` on, and detects repetitions.

    Each page and its token are compared with those of the first page, of the previous page, and of a page that is
    chosen anew after 1, 2, 4, 8… pages, which finds a cycle of any length (Brent's algorithm).
    """

    def __init__(self, listing: str, limits: ListingLimits, start: ListingPosition = LISTING_START) -> None:
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
        """Count a page by its names, number of entries and bytes; return the names that the previous page had, too.

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
                raise SynclineError("LISTING_TOO_LONG", f"{self._listing}: more than {limit:,} {what}")
        self._empty = 0 if entries else self._empty + 1
        if self._empty > _MAX_EMPTY_PAGES:
            raise SynclineError(
                "LISTING_TOO_LONG", f"{self._listing}: more than {_MAX_EMPTY_PAGES} empty pages in a row"
            )
        return self._compare(tuple(names)) if names else frozenset()

    def _compare(self, names: tuple[str, ...]) -> frozenset[str]:
        if names[0] == self._first or names == self._chosen or self._before.issuperset(names):
            raise SynclineError(
                "LISTING_INCOMPLETE", f"{self._listing} repeats itself: {printable(names[0])!r} came twice"
            )
        if self._first is None:
            self._first = names[0]
        shared = self._before.intersection(names)
        self._before = frozenset(names)
        if self._chooses_anew:
            self._chosen = names
        return shared

    @property
    def _chooses_anew(self) -> bool:
        """True after 1, 2, 4, 8… pages."""
        return self._read & (self._read - 1) == 0

    def at(self, token: str) -> ListingPosition:
        """Return the position after the counted pages; ``token`` is that of the next page.

        Raises LISTING_INCOMPLETE if that page was read before.
        """
        if token in self._tokens:
            raise SynclineError("LISTING_INCOMPLETE", f"{self._listing} leads back to an earlier page")
        self._tokens = (token, token if self._chooses_anew else self._tokens[1])
        return ListingPosition(token, self._entries, self._pages, self._size)


class EntryReader:
    """Reads the entries of one listing, page by page, and counts them against its limits.

    ``listing`` names the listing and its server in messages. ``name_of`` returns the name of an entry of any form;
    ``key_of`` returns its unique key, if that is not the name. Reading begins at ``start``. With ``strict``,
    LISTING_INCOMPLETE is raised even if a page only begins with the end of the previous one: the list changed, and an
    entry may have moved to a page that was already read.
    """

    def __init__(  # noqa: PLR0913 - the properties of a listing
        self,
        listing: str,
        on_invalid: OnInvalid,
        name_of: Callable[[Any], Any] = lambda value: value,
        *,
        key_of: Callable[[Any], Any] | None = None,
        limits: ListingLimits,
        start: ListingPosition = LISTING_START,
        strict: bool = False,
    ) -> None:
        self.listing = listing
        self._on_invalid = on_invalid
        self._name_of = name_of
        self._key_of = key_of or name_of
        self._count = start.entries
        self._invalid = 0
        self._strict = strict
        self._extent = ListingGuard(listing, limits, start)

    def at(self, token: str) -> ListingPosition:
        """Return the position after the pages that were read; see :meth:`ListingGuard.at`."""
        return self._extent.at(token)

    def read(self, page: Sequence[Any], parse: Callable[[Any], T], size: int = 0) -> Iterator[T]:
        """Yield the parsed entries of a page of ``size`` bytes, except those that the previous page had.

        ``parse`` raises ValueError, or an error about a name, for an invalid entry. Raises BAD_ANSWER after
        :data:`MAX_INVALID` invalid entries, and what :meth:`ListingGuard.count` raises.
        """
        keys = [self._key_of(value) for value in page]
        shared = self._extent.count([key for key in keys if isinstance(key, str)], len(page), size)
        if shared and self._strict:
            raise SynclineError("LISTING_INCOMPLETE", f"{self.listing} changed: {printable(min(shared))!r} came twice")
        for key, value in zip(keys, page, strict=True):
            self._count += 1
            if shared and isinstance(key, str) and key in shared:
                continue  # it moved to this page when others were added
            try:
                entry = parse(value)
            except ValueError as error:
                self._refuse(value, str(error))
            except SynclineError as error:
                if error.code.name not in _ENTRY_ERRORS:
                    raise
                self._refuse(value, error.what)
            else:
                yield entry

    def _refuse(self, value: Any, why: str) -> None:
        found = self._name_of(value)
        name = found if isinstance(found, str) and found else None
        entry = invalid_entry(f"entry {self._count} of {self.listing}", name, why)
        self._invalid += 1
        if self._invalid > MAX_INVALID:
            what = f"{self.listing}: more than {MAX_INVALID} invalid entries; {entry.error.what}"
            raise SynclineError("BAD_ANSWER", what)
        self._on_invalid(entry)


def invalid_entry(location: str, name: str | None, why: str, near: str = "") -> InvalidEntry:
    """Return an invalid entry with ENTRY_INVALID as its error."""
    called = "" if name is None else f" ({printable(name)})"
    return InvalidEntry(location, name, SynclineError("ENTRY_INVALID", f"{location}{called}: {why}"), name or near)


def printable(name: str) -> str:
    """Return a name that can be stored and printed: escaped if necessary, and cut if it is long."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def field_of(entry: Any, field: str) -> Any:
    """Return a field of an entry of any form, None if it is no object or lacks the field."""
    return entry.get(field) if isinstance(entry, dict) else None


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError for anything else."""
    if not isinstance(value, dict):
        raise ValueError(f"it is {describe(value)}, not an object")  # noqa: TRY004 - invalid values are ValueErrors
    return value


def text(value: Any, field: str) -> str:
    """Return a field that must be a string, not empty. Raises ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"its {field} is {describe(value)}, not text")
    return value


def non_negative(value: Any, field: str) -> int:
    """Return a field that must be an integer from 0 on. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its {field} is {describe(value)}, not a whole number from 0 on")
    return value


def optional(value: Any, kind: type[T], field: str) -> T | None:
    """Return a field that may be absent. Raises ValueError if it has another type."""
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ValueError(f"its {field} is {describe(value)}, not {_TYPE_NAMES[kind]}")
    return value


def describe(value: Any) -> str:
    """Return a JSON value in at most 60 characters, or its type."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    written = json.dumps(value)
    return written if len(written) <= 60 else f"{written[:60]}…"
