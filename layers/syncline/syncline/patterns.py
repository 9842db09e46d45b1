"""Which names a sync takes: include and exclude, each by glob or by regular expression.

A pattern is a *glob*, or a regular expression when it begins with ``re:``; both must match the whole name.

- ``*`` stands for any characters but ``/``, ``?`` for one such character, ``[a-c]`` and ``[!a-c]`` for one of a set;
- ``**`` also crosses ``/``; as a whole path part, ``**/`` stands for any number of leading parts, none included.

Names come from other people's registries, so a pattern must not be one that a chosen name can keep busy for ever:
globs are translated to expressions whose work is bounded, and regular expressions with nested repetition are refused.
"""

from __future__ import annotations

import importlib
import re
import string
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

# Python's own reading of an expression. The names have an underscore, but nothing public tells what an expression
# repeats; a test holds them to what is needed here.
_sre: Final = importlib.import_module("re._constants")
_sre_parser: Final = importlib.import_module("re._parser")

LONGEST_PATTERN: Final = 200  # characters
_STAR: Final = "*"
_MOST_DOUBLE_STARS: Final = 2
_MOST_OPEN: Final = 2
_LETTERS: Final = frozenset(string.ascii_lowercase + string.digits + "._/-")  # of names; capitals count as small
_SIGNATURE_TAG: Final = re.compile(r"(sha256|sha512)-([0-9a-f]{64})(\.sig|\.att|\.sbom)?")


def is_signature_tag(tag: str) -> bool:
    """Whether ``tag`` holds what belongs to an image and follows it.

    That is cosign's older ``sha256-<hex>.sig|.att|.sbom``, or the tag ``sha256-<hex>`` that lists the referrers of an
    image where a registry has no referrers API.
    """
    return _SIGNATURE_TAG.fullmatch(tag) is not None


def signature_subject(tag: str) -> str | None:
    """The digest of the image that a signature tag belongs to (``sha256:<hex>``), None for any other tag.

    The digest of a ``sha512-`` tag is cut to 64 characters by the distribution specification; it is given as it is.
    """
    match = _SIGNATURE_TAG.fullmatch(tag)
    return f"{match[1]}:{match[2]}" if match else None


def allows(name: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    """Whether ``name`` matches one of ``include`` (or there are none) and none of ``exclude``."""
    return _matcher(include, exclude)(name)


@lru_cache(maxsize=256)
def _matcher(include: tuple[str, ...], exclude: tuple[str, ...]) -> Callable[[str], bool]:
    wanted = [compile_pattern(text).fullmatch for text in include]
    unwanted = [compile_pattern(text).fullmatch for text in exclude]

    def matches(name: str) -> bool:
        return (not wanted or any(match(name) for match in wanted)) and not any(match(name) for match in unwanted)

    return matches


@lru_cache(maxsize=1024)
def compile_pattern(text: str) -> re.Pattern[str]:
    """The expression of a pattern, to be used with ``fullmatch``.

    Raises ValueError saying what is wrong with the pattern.
    """
    if not text:
        raise ValueError("is empty; write a glob such as team/* or re: and a regular expression")
    if len(text) > LONGEST_PATTERN:
        raise ValueError(f"is longer than {LONGEST_PATTERN} characters; split it into several patterns")
    return _compile_regex(text[3:]) if text.startswith("re:") else re.compile(_glob_to_regex(text), re.DOTALL)


def literal_start(text: str) -> str:
    """The characters that every name matched by a glob begins with; of a regular expression none are known."""
    if text.startswith("re:"):
        return ""
    match = re.match(r"[^*?\[]*", text)
    return match[0] if match else ""


def _compile_regex(text: str) -> re.Pattern[str]:
    try:
        tree = _sre_parser.parse(text)
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression of Python: {error}") from None
    if _Reading().sequence(tree, frozenset())[1] > _MOST_OPEN:
        raise ValueError(
            f"can match a name in too many ways; at most {_MOST_OPEN} repetitions or choices may end in several places, "
            "as .* does before a - and [^-]* does not"
        )
    return pattern


class _Reading:
    """How long matching a parsed expression can take, read from its end to its beginning.

    Each method gives the characters with which its part and what follows can begin, and how many of its repetitions
    and choices are *open*: the next character does not tell whether to go on or to end. Matching tries the places
    where open parts may end, in all combinations, so their number is the power of the name's length in the time it
    takes. A repetition or choice inside a repetition would make that time double with each character: it is refused.
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
        first, total = _Reading(inside=self._inside or high > 1).sequence(body, follow)
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
    """What one character of an expression can be; everything where that is not simple to say."""
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
    """A regular expression for a glob.

    Inside one path part the first place where the text after a ``*`` fits is always right, so it is taken for good
    (an atomic group) and the work stays linear; only ``**`` may go back, which is why there are few of them.
    """
    tokens = _glob_tokens(text)
    if sum(token in ("**", "**/") for token in tokens) > _MOST_DOUBLE_STARS:
        raise ValueError(f"has more than {_MOST_DOUBLE_STARS} times **; use fewer")
    expression = ""
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token == _STAR:
            run = _fixed_run(tokens, position)
            position += len(run)
            # At the end of a path part, and before a **, the last fit can be the only right one: stay free to go back.
            free = position == len(tokens) or tokens[position] != "*"
            fixed = "".join(run)
            expression += f"[^/]*{fixed}" if free else f"(?>[^/]*?{fixed})"
        else:
            expression += {"**": ".*", "**/": "(?:.*/)?"}.get(token, token)
    return expression


def _fixed_run(tokens: list[str], start: int) -> list[str]:
    """The tokens from ``start`` that stand for exactly one character each and stay inside the path part."""
    end = start
    while end < len(tokens) and tokens[end] not in ("*", "**", "**/", "/"):
        end += 1
    return tokens[start:end]


def _glob_tokens(text: str) -> list[str]:
    """``*``, ``**``, ``**/``, ``/``, or the expression of one character."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        if text.startswith("**", position):
            if text.startswith("***", position):
                raise ValueError("has three stars in a row; write * or **")
            whole_part = (position == 0 or text[position - 1] == "/") and text.startswith("**/", position)
            tokens.append("**/" if whole_part else "**")
            position += 3 if whole_part else 2
        elif text[position] == "[":
            token, position = _glob_set(text, position)
            tokens.append(token)
        else:
            tokens.append({"*": "*", "?": "[^/]", "/": "/"}.get(text[position]) or re.escape(text[position]))
            position += 1
    return tokens


def _glob_set(text: str, start: int) -> tuple[str, int]:
    """The expression of a set ``[...]`` and the position after it. No set stands for a ``/``."""
    end = text.find("]", start + 1)
    if end < 0:
        raise ValueError("has a [ without a ]")
    body = text[start + 1 : end]
    negated = body.startswith("!")
    body = body.removeprefix("!")
    if not body or "[" in body:
        raise ValueError("has a set that is not understood; write characters and ranges such as [a-c0-9] or [!a-c]")
    parts: list[str] = []
    while body:
        if len(body) > 2 and body[1] == "-":
            if body[0] > body[2]:
                raise ValueError(f"has the range {body[:3]}, which falls; write it the other way round")
            parts.append(f"{re.escape(body[0])}-{re.escape(body[2])}")
            body = body[3:]
        else:
            parts.append(re.escape(body[0]))
            body = body[1:]
    return f"(?!/)[{'^' if negated else ''}{''.join(parts)}]", end + 1
