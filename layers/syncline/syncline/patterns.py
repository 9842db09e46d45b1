"""Patterns that include and exclude names: globs and regular expressions.

A pattern is a *glob*, or a regular expression if it begins with ``re:``; both must match the complete name.

- ``*`` matches any characters except ``/``, ``?`` one such character, ``[a-c]`` and ``[!a-c]`` one of a set;
- ``**`` also matches ``/``; as a complete path part, ``**/`` matches any number of leading parts, or none.

Names come from foreign registries, so no name may make a match take exponential time: globs are translated to
expressions with bounded work, and regular expressions with nested repetitions are refused.
"""

from __future__ import annotations

import importlib
import re
import string
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final

# Python's parser of expressions. It is private, but no public function shows the repetitions of an expression; a test
# checks the parts that are used here.
_sre: Final = importlib.import_module("re._constants")
_sre_parser: Final = importlib.import_module("re._parser")

LONGEST_PATTERN: Final = 200  # characters
_WIDE: Final = ("*", "**", "**/")
_TOKEN: Final = re.compile(r"\*\*\*|(?<![^/])\*\*/|\*\*|\[[^]]*\]|.", re.DOTALL)
_MOST_DOUBLE_STARS: Final = 2
_MOST_OPEN: Final = 2
_LETTERS: Final = frozenset(string.ascii_lowercase + string.digits + "._/-")  # of names, regardless of case
_SIGNATURE_TAG: Final = re.compile(r"(sha256|sha512)-([0-9a-f]{64})(\.sig|\.att|\.sbom)?")


def is_signature_tag(tag: str) -> bool:
    """Return True if a tag belongs to an image and is synced with it.

    That is cosign's older ``sha256-<hex>.sig|.att|.sbom``, or the tag ``sha256-<hex>`` that lists the referrers of an
    image in a registry without the referrers API.
    """
    return _SIGNATURE_TAG.fullmatch(tag) is not None


def signature_subject(tag: str) -> str | None:
    """Return the digest of the image that a signature tag belongs to (``sha256:<hex>``), None for any other tag.

    The digest in a ``sha512-`` tag is truncated to 64 characters by the distribution specification, and returned so.
    """
    match = _SIGNATURE_TAG.fullmatch(tag)
    return f"{match[1]}:{match[2]}" if match else None


def allows(name: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    """Return True if a name matches one of `include`, or that is empty, and none of `exclude`."""
    return _matcher(include, exclude)(name)


@lru_cache(maxsize=256)
def _matcher(include: tuple[str, ...], exclude: tuple[str, ...]) -> Callable[[str], bool]:
    wanted, unwanted = ([compile_pattern(text).fullmatch for text in texts] for texts in (include, exclude))

    def matches(name: str) -> bool:
        return (not wanted or any(match(name) for match in wanted)) and not any(match(name) for match in unwanted)

    return matches


@lru_cache(maxsize=1024)
def compile_pattern(text: str) -> re.Pattern[str]:
    """Return the expression of a pattern, for ``fullmatch``. Raises ValueError stating the fault of the pattern."""
    if not text:
        raise ValueError("is empty; write a glob such as team/* or re: and a regular expression")
    if len(text) > LONGEST_PATTERN:
        raise ValueError(f"is longer than {LONGEST_PATTERN} characters; split it into several patterns")
    return _compile_regex(text[3:]) if text.startswith("re:") else re.compile(_glob_to_regex(text), re.DOTALL)


def literal_start(text: str) -> str:
    """Return the literal prefix of a glob, "" for a regular expression."""
    return "" if text.startswith("re:") else re.split(r"[*?\[]", text, maxsplit=1)[0]


def literal_start_of_regex(text: str) -> str:
    """Return a prefix that all names matched by a valid regular expression have."""
    tree = _sre_parser.parse(text)
    if tree.state.flags & (re.IGNORECASE | re.VERBOSE):
        return ""
    return "".join(chr(argument) for _, argument in takewhile(lambda part: part[0] is _sre.LITERAL, tree))


def _compile_regex(text: str) -> re.Pattern[str]:
    try:
        tree = _sre_parser.parse(text)
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression of Python: {error}") from None
    if _Complexity().sequence(tree, frozenset())[1] > _MOST_OPEN:
        raise ValueError(
            f"can match a name in too many ways; at most {_MOST_OPEN} repetitions or choices may end in several places, "
            "as .* does before a - and [^-]* does not"
        )
    return pattern


class _Complexity:
    """The complexity of matching a parsed expression, computed from its end to its beginning.

    Each method returns the characters with which its part and the rest can begin, and the number of its *open*
    repetitions and choices, for which the next character does not decide if they continue or end. Matching tries all
    combinations of the positions where open parts may end, so its time grows with the length of the name to the power of
    their number. A repetition or choice inside a repetition would make it grow exponentially, and is refused.
    """

    def __init__(self, *, inside: bool = False) -> None:
        self._inside = inside

    def sequence(self, tree: Any, follow: frozenset[str]) -> tuple[frozenset[str], int]:
        total = 0
        for operator, argument in reversed(list(tree)):
            follow, more = self._part(operator, argument, follow)
            total += more
        return follow, total

    def _part(self, operator: Any, argument: Any, follow: frozenset[str]) -> tuple[frozenset[str], int]:
        if operator in (_sre.MAX_REPEAT, _sre.MIN_REPEAT, _sre.POSSESSIVE_REPEAT):
            low, high, body = argument
            return self._repetition(low, high, body, follow)
        if operator is _sre.BRANCH:
            return self._choice(argument[1], follow)
        if operator is _sre.SUBPATTERN:
            return self.sequence(argument[3], follow)
        if operator is _sre.ATOMIC_GROUP:
            return self.sequence(argument, follow)
        if operator in (_sre.ASSERT, _sre.ASSERT_NOT):
            return follow, self.sequence(argument[1], _LETTERS)[1]
        if operator in (_sre.GROUPREF, _sre.GROUPREF_EXISTS):
            raise ValueError("refers back to a group, which is not allowed; write two patterns")
        return (follow if operator is _sre.AT else _characters(operator, argument)), 0

    def _repetition(self, low: int, high: int, body: Any, follow: frozenset[str]) -> tuple[frozenset[str], int]:
        if self._inside and low != high:
            raise ValueError("has a repetition inside a repetition, such as (a+)+; write it without the outer one")
        first, total = _Complexity(inside=self._inside or high > 1).sequence(body, follow)
        is_open = low != high and not first.isdisjoint(follow)
        return (first if low else first | follow), total + is_open

    def _choice(self, branches: Any, follow: frozenset[str]) -> tuple[frozenset[str], int]:
        if self._inside:
            raise ValueError("has a choice inside a repetition, such as (a|b)*; write a set [ab] or two patterns")
        read = [self.sequence(branch, follow) for branch in branches]
        begins = frozenset().union(*(first for first, _ in read))
        is_open = sum(len(first) for first, _ in read) > len(begins)
        return begins, sum(total for _, total in read) + is_open


def _characters(operator: Any, argument: Any) -> frozenset[str]:
    """Return the characters that an operator can match, or all characters if that is not simple."""
    if operator is _sre.LITERAL:
        return frozenset(chr(argument).lower())
    if operator is _sre.RANGE:
        return frozenset(
            letter for letter in _LETTERS if any(argument[0] <= ord(c) <= argument[1] for c in letter + letter.upper())
        )
    if operator is _sre.CATEGORY and argument is _sre.CATEGORY_DIGIT:
        return frozenset(string.digits)
    if operator is _sre.IN and argument[0][0] is not _sre.NEGATE:
        return frozenset().union(*(_characters(*item) for item in argument))
    return _LETTERS - {chr(argument)} if operator is _sre.NOT_LITERAL else _LETTERS


def _glob_to_regex(text: str) -> str:
    """Return the regular expression of a glob.

    Inside a path part the first position where the text after a ``*`` matches is always right, so an atomic group takes
    it and the work stays linear. Only ``**`` may backtrack, so the number of them is limited.
    """
    tokens = list(_glob_tokens(text))
    if sum(part in ("**", "**/") for part in tokens) > _MOST_DOUBLE_STARS:
        raise ValueError(f"has more than {_MOST_DOUBLE_STARS} times **; use fewer")
    expression = ""
    position = 0
    while position < len(tokens):
        part = tokens[position]
        position += 1
        if part == "*":
            # The tokens of one character each that follow, up to the end of the path part.
            run = list(takewhile(lambda each: each not in _WIDE and each != "/", tokens[position:]))
            position += len(run)
            # At the end of a path part, and before a **, the last match can be the only right one: allow backtracking.
            free = position == len(tokens) or tokens[position] != "*"
            fixed = "".join(run)
            expression += f"[^/]*{fixed}" if free else f"(?>[^/]*?{fixed})"
        else:
            expression += {"**": ".*", "**/": "(?:.*/)?"}.get(part, part)
    return expression


def _glob_tokens(text: str) -> Iterator[str]:
    """Yield the tokens of a glob: those of `_WIDE`, ``/``, or the expression of one character."""
    for part in _TOKEN.findall(text):
        if part == "***":
            raise ValueError("has three stars in a row; write * or **")
        if part == "[":
            raise ValueError("has a [ without a ]")
        if part.startswith("["):
            yield _glob_set(part[1:-1])
        elif part == "?":
            yield "[^/]"
        else:
            yield part if part in _WIDE else re.escape(part)


def _glob_set(body: str) -> str:
    """Return the expression of a set ``[...]``. No set matches a ``/``."""
    characters = body.removeprefix("!")
    if not characters or "[" in characters:
        raise ValueError("has an invalid set; write characters and ranges such as [a-c0-9] or [!a-c]")
    parts = []
    for low, high, single in re.findall("(.)-(.)|(.)", characters, re.DOTALL):
        if low > high:
            raise ValueError(f"has the descending range {low}-{high}; swap its ends")
        parts.append(f"{re.escape(low)}-{re.escape(high)}" if high else re.escape(single))
    return f"(?!/)[{'^' if body.startswith('!') else ''}{''.join(parts)}]"
