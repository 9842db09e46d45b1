"""``WWW-Authenticate``: the ways a server offers to authenticate (RFC 9110 section 11.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

LONGEST_HEADER: Final = 8192

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN68: Final = r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))"  # what Negotiate sends in place of parameters
_SCHEME: Final = re.compile(rf"({_WORD})(?:[ \t]+(?:{_TOKEN68})?|(?=,)|$)")
_GAP: Final = re.compile(r"[ \t,]*")
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. ``scheme`` and the names of ``parameters`` are lower case; of two the first counts."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges of all ``WWW-Authenticate`` headers in order; what cannot be read is left out, never an error."""
    found: list[Challenge] = []
    for value in values:
        found += _parse(value[:LONGEST_HEADER])
    return found


def _parse(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    at = _end(_GAP.match(text, 0))
    while at < len(text):
        # A parameter is tried first: "realm = x" could else pass for the scheme "realm".
        parameter = _PARAMETER.match(text, at)
        if parameter is not None and found:
            name, quoted, plain = parameter.groups()
            parameters.setdefault(name.lower(), plain if quoted is None else _ESCAPED.sub(r"\1", quoted))
            at = parameter.end()
        elif (scheme := _SCHEME.match(text, at)) is not None:
            parameters = {}
            found.append(Challenge(scheme[1].lower(), parameters))
            at = scheme.end()
        else:
            comma = text.find(",", at)
            at = len(text) if comma < 0 else comma
        at = _end(_GAP.match(text, at))
    return found


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # the pattern matches the empty text
    return match.end()
