"""What a build says of itself in its log: a block of ``Key: value`` lines, told from all that only looks like it.

A log has a time before each line, colours, and a mark of its encoding at its start. Before a step's output stands the
script that makes it, between ``##[group]Run`` and ``##[endgroup]``: the block's own words, with variables for values.
The same block may be there twice, once in the job's log and once in the step's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from syncline.config.artifacts import Metadata
from syncline.errors import SynclineError

_TIME: Final = re.compile(r"\ufeff?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z ?")
_COLOURS: Final = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_VARIABLE: Final = re.compile(r"\$[({A-Za-z_]|\$\d|`")
_LONGEST_LINE: Final = 64 * 1024
_GAP: Final = 10
"""Other lines that may stand between two of a block."""
_SLACK: Final = 3600.0
"""Seconds by which a block's time may lie outside its run: clocks differ."""


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """A log's lines without times and colours; of a very long one its beginning."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from map(_clean, lines)
        rest = rest[:_LONGEST_LINE]
    if rest:
        yield _clean(rest)


def _clean(line: bytes) -> str:
    text = line[:_LONGEST_LINE].decode("utf-8", "replace").removeprefix("\ufeff")
    return _COLOURS.sub("", _TIME.sub("", text, count=1)).rstrip()


def blocks_in(lines: Iterable[str], rules: Metadata) -> Iterator[dict[str, str]]:
    """The blocks in one log, in their order: those that have all the keys they need."""
    keys = {key.lower(): key for key in rules.keys}
    block: dict[str, str] = {}
    gap, echoed = 0, False
    for line in lines:
        if line.startswith("##[group]Run "):
            echoed = True
        elif line.startswith("##[endgroup]"):
            echoed = False
        if echoed:
            continue
        name, colon, value = line.partition(":")
        key = keys.get(name.strip().lower()) if colon else None
        value = value.strip()
        if key is None or not value or _VARIABLE.search(value):
            gap += 1
            if gap <= _GAP:
                continue
        if block and (key is None or key in block or gap > _GAP):
            yield from _whole(block, rules)
            block = {}
        if key is not None and value and not _VARIABLE.search(value):
            block[key], gap = value, 0
    yield from _whole(block, rules)


def _whole(block: dict[str, str], rules: Metadata) -> Iterator[dict[str, str]]:
    if block and all(key in block for key in rules.needed):
        yield block


def block_of(
    found: Iterable[Mapping[str, str]], rules: Metadata, began: float, ended: float, where: str
) -> dict[str, str]:
    """The one block of a run that lasted from ``began`` to ``ended`` (Unix seconds).

    Raises METADATA_INVALID where there is none, none of this run, or several that differ.
    """
    distinct = {tuple(sorted(block.items())): dict(block) for block in found}
    if not distinct:
        raise _invalid(where, f"have no block with {', '.join(rules.needed)}")
    own = [block for block in distinct.values() if _is_own(block, rules, began, ended)]
    if not own:
        raise _invalid(where, f"have a block of another build: {next(iter(distinct.values()))[rules.tag][:120]!r}")
    if len(own) > 1:
        tags = sorted({block[rules.tag] for block in own})
        raise _invalid(where, f"have {len(own)} blocks that differ, with {', '.join(tags)[:300]}")
    return own[0]


def _is_own(block: Mapping[str, str], rules: Metadata, began: float, ended: float) -> bool:
    if rules.check is not None:
        try:
            if rules.check.fill(block) != block[rules.tag]:
                return False
        except KeyError:
            return False
    if rules.time is None or rules.time not in block:
        return rules.time is None
    at = _seconds(block[rules.time])
    return at is not None and began - _SLACK <= at <= ended + _SLACK


def _seconds(text: str) -> float | None:
    try:
        at = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _invalid(where: str, what: str) -> SynclineError:
    return SynclineError("METADATA_INVALID", f"the {where} {what}")
