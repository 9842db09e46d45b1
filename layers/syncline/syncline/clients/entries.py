"""Entries of a listing, read one by one, so that an odd one costs itself alone.

Every function of a client that lists something takes ``odd``, which is called with each entry that is not what the
protocol promises. The others come through. A caller that passes nothing gets the error raised (:func:`refuse`), so no
entry is ever missing in silence. Who removes what a listing lacks must not do so after an odd entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from syncline.errors import SynclineError

T = TypeVar("T")

MOST_ODD: Final = 300
"""Odd entries that one listing may have; with more of them its whole shape is wrong."""
_OF_ENTRIES: Final = frozenset({"REFERENCE_INVALID", "MANIFEST_INVALID", "MESSAGE_INVALID"})
"""The errors of parsers that concern the entry alone."""
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


class Entries:
    """Reads the entries of one listing, page by page.

    ``listing`` is the listing's name in messages, with the server. ``name_of`` finds the name of an entry, whatever the
    entry is.
    """

    def __init__(self, listing: str, odd: OnOdd, name_of: Callable[[Any], Any] = lambda value: value) -> None:
        self._listing = listing
        self._odd = odd
        self._name_of = name_of
        self._count = 0
        self._odd_ones = 0

    def read(self, page: Iterable[Any], parse: Callable[[Any], T]) -> Iterator[T]:
        """Yield the entries of a page that ``parse`` takes; it raises ValueError, or an error about a name, for the others.

        Raises BAD_ANSWER after :data:`MOST_ODD` odd entries.
        """
        for value in page:
            self._count += 1
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
        odd = odd_entry(f"entry {self._count} of {self._listing}", name, why)
        self._odd_ones += 1
        if self._odd_ones > MOST_ODD:
            raise SynclineError("BAD_ANSWER", f"{self._listing}: over {MOST_ODD} invalid entries; {odd.error.what}")
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
        raise ValueError(f"its {field} is {described(value)}, not a whole number")
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
