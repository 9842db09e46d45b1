"""Semantic versions of tags, and ranges of them as npm writes them.

A tag is a version if it has one to three numbers, with or without a ``v`` before them, and possibly a prerelease
(``1.2.3-rc.1``) and a build (``1.2.3+5``, in tags also ``1.2.3_5``). Absent numbers count as 0.

A range has alternatives separated by ``||``. An alternative is a list of comparators, all of which must hold:

- ``1.2.3``, ``=1.2.3``, ``<2``, ``<=2.1``, ``>1``, ``>=1.2``: a comparison. ``1.2``, ``1.2.x`` and ``*`` are all
  versions that begin so.
- ``^1.2.3``: up to the next change of the first number that is not 0. ``~1.2.3``: up to the next minor version.
- ``1.2 - 1.4``: both ends and all between.

A prerelease is in a range only if a comparator of the alternative names a prerelease of the same three numbers, since
``>=1.2`` asks for releases. https://semver.org/#spec-item-11 and https://github.com/npm/node-semver#ranges
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache, total_ordering
from typing import Final

LONGEST_RANGE: Final = 200  # characters
_LONGEST_NUMBER: Final = 18  # digits; a date with a time has 14
_NUMBER: Final = rf"(?:0|[1-9][0-9]{{0,{_LONGEST_NUMBER - 1}}})"
_MORE: Final = r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:[+_][0-9A-Za-z.-]+)?"
_VERSION: Final = re.compile(rf"v?(?P<one>{_NUMBER})(?:\.(?P<two>{_NUMBER}))?(?:\.(?P<three>{_NUMBER}))?{_MORE}")
_ANY: Final = rf"(?:{_NUMBER}|[xX*])"
_COMPARATOR: Final = re.compile(
    rf"(?P<operator>\^|~|>=|<=|>|<|=)?v?(?P<one>{_ANY})(?:\.(?P<two>{_ANY}))?(?:\.(?P<three>{_ANY}))?{_MORE}"
)
_SPACED: Final = re.compile(r"(\^|~|>=|<=|>|<|=)\s+")
_HYPHEN: Final = re.compile(r"(\S+)\s+-\s+(\S+)")
Numbers = tuple[int, int, int]


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A version. ``prerelease`` has its parts, none for a release; the build is ignored, as in comparisons."""

    numbers: Numbers
    prerelease: tuple[str, ...] = ()

    @property
    def _key(self) -> tuple[Numbers, bool, tuple[tuple[bool, int, str], ...]]:
        # A release follows its prereleases. Numbers compare as numbers and precede words.
        parts = ((not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in self.prerelease)
        return self.numbers, not self.prerelease, tuple(parts)

    def __lt__(self, other: Version) -> bool:
        return self._key < other._key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def version_of(tag: str) -> Version | None:
    """Return the version that a tag is, None if it is none."""
    match = _VERSION.fullmatch(tag)
    if match is None:
        return None
    numbers = (int(match["one"]), int(match["two"] or 0), int(match["three"] or 0))
    return Version(numbers, _prerelease(match["pre"]))


def _prerelease(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()


@dataclass(frozen=True, slots=True)
class _Bounds:
    """One alternative: ``low <= version < high``; ``named`` are the numbers of the prereleases that it names."""

    low: Version
    high: Version | None
    named: frozenset[Numbers] = field(default=frozenset())

    def contains(self, version: Version, *, prereleases: bool) -> bool:
        if version < self.low or (self.high is not None and version >= self.high):
            return False
        return prereleases or not version.prerelease or version.numbers in self.named


@dataclass(frozen=True, slots=True)
class Range:
    """A range of versions."""

    alternatives: tuple[_Bounds, ...]

    def contains(self, version: Version, *, prereleases: bool = False) -> bool:
        """Return True if a version is in the range; with ``prereleases`` they are compared like releases."""
        return any(each.contains(version, prereleases=prereleases) for each in self.alternatives)


_ZERO: Final = Version((0, 0, 0), ("0",))
"""The lowest version: a prerelease."""


@lru_cache(maxsize=256)
def parse_range(text: str) -> Range:
    """Return a range. Raises ValueError stating the fault of the text."""
    if not text.strip():
        raise ValueError('is empty; write a range such as ">=1.2 <2" or "^1.2"')
    if len(text) > LONGEST_RANGE:
        raise ValueError(f"is longer than {LONGEST_RANGE} characters")
    return Range(tuple(_alternative(each.strip()) for each in text.split("||")))


def _alternative(text: str) -> _Bounds:
    hyphen = _HYPHEN.fullmatch(text)
    if hyphen is not None:
        parts = [f">={hyphen[1]}", f"<={hyphen[2]}"]
        if not all(part[:1].isdigit() or part[:1] == "v" for part in hyphen.groups()):
            raise ValueError(f"has {text!r}; write two versions around the dash, such as 1.2 - 1.4")
    else:
        parts = _SPACED.sub(r"\1", text).replace(",", " ").split()
    if not parts:
        raise ValueError("has an empty alternative beside ||; remove it, or write * for all versions")
    bounds = [_comparator(part) for part in parts]
    highs = [each.high for each in bounds if each.high is not None]
    named = frozenset().union(*(each.named for each in bounds))
    return _Bounds(max(each.low for each in bounds), min(highs) if highs else None, named)


def _comparator(text: str) -> _Bounds:
    match = _COMPARATOR.fullmatch(text)
    if match is None:
        raise ValueError(
            f'has {text!r}, which is no comparison of versions; write a range such as ">=1.2 <2" or "^1.2"'
        )
    given: list[int] = []
    for part in (match["one"], match["two"], match["three"]):
        if part is None or not part.isdecimal():
            break
        given.append(int(part))
    prerelease = _prerelease(match["pre"])
    if prerelease and len(given) < len(Version((0, 0, 0)).numbers):
        raise ValueError(f"has {text!r}; a prerelease needs all three numbers, such as 1.2.0-rc.1")
    named = frozenset([_numbers(given)] if prerelease else ())
    low, high = _ends(match["operator"] or "=", given, prerelease)
    return _Bounds(low, high, named)


def _ends(operator: str, given: list[int], prerelease: tuple[str, ...]) -> tuple[Version, Version | None]:
    """Return the lowest version of a comparator, and the one above its highest, None if there is none."""
    first = Version(_numbers(given), prerelease)
    # All prereleases of a named beginning belong to it when they are asked for, as 1.2.0-rc.1 belongs to 1.2.
    begin = first if len(given) == len(first.numbers) else Version(_numbers(given), ("0",))
    above = _above(given, first) if given else None
    match operator:
        case ">=":
            return begin, None
        case ">":
            return above or _NEVER, None
        case "<" | "<=":
            return _ZERO, begin if operator == "<" else above
        case "^" | "~":
            significant = next((at for at, number in enumerate(given) if number), len(given) - 1)
            return begin, _next(given, significant if operator == "^" else min(1, len(given) - 1))
        case _:
            return begin, above


def _above(given: list[int], first: Version) -> Version | None:
    """Return the lowest version above all that begin with the given numbers."""
    if first.prerelease:
        return Version(first.numbers, (*first.prerelease, "0"))  # nothing is between the two
    return _next(given, len(given) - 1)


_NEVER: Final = Version((10**_LONGEST_NUMBER, 0, 0))


def _next(given: list[int], at: int) -> Version | None:
    """Return the lowest version with the number at a position raised by one, None if there is no such position."""
    if not given:
        return None
    return Version(_numbers([*given[:at], given[at] + 1]), ("0",))


def _numbers(given: list[int]) -> Numbers:
    one, two, three = [*given, 0, 0, 0][:3]
    return one, two, three
