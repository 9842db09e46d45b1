"""Metadata blocks in the logs of builds: `Key: value` lines, told from everything that only looks like them.

A log has a time before each line, colours, and a byte order mark at its start. A step's output follows its script, which
stands between `##[group]Run` and `##[endgroup]`: the block's own words, with variables for values. The same block may be
there twice, once in the job's log and once in the step's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from syncline.config.artifacts import Metadata
from syncline.errors import SynclineError

_TIME: Final = re.compile(r"\ufeff?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z ?")
_COLOURS: Final = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_VARIABLE: Final = re.compile(r"\$[({A-Za-z_]|\$\d|`")
_REPLACED: Final = re.compile(r"[^a-z0-9_.]+")
_LONGEST_LINE: Final = 64 * 1024
_BETWEEN: Final = re.compile(r"$|\++ |[A-Za-z][\w .()/-]{0,79}:( |$)")
"""Lines that may stand between two of a block: empty ones, a shell's trace (`set -x`), and unknown keys."""
_MOST_BETWEEN: Final = 10
_LONGEST_RUN: Final = 1000
"""Lines of blocks that may follow one another."""
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
    """Yield the blocks of one log, in order: those that have all the keys they need.

    A block's lines follow one another within one step. Empty lines, a shell's trace and keys that the rules do not name
    may stand between them; any other output ends the block.
    """
    keys = {key.lower(): key for key in rules.keys}
    run: list[_Line] = []
    others, echoed = 0, False
    for number, line in enumerate(lines):
        if line.startswith("##["):
            echoed = line.startswith("##[group]Run ")
            yield from _blocks_of(run, rules)
            run = []
        if echoed:
            continue
        name, _, value = (part.strip() for part in line.partition(":"))
        key = keys.get(name.lower())
        if key is None or not value:
            others += 1
            is_apart = not _BETWEEN.match(line.strip()) or others > _MOST_BETWEEN
        else:
            is_apart = _VARIABLE.search(value) is not None
        if run and not is_apart and (run[-1].key, run[-1].value) == (key, value):
            continue  # printed twice
        if is_apart or len(run) >= _LONGEST_RUN:
            yield from _blocks_of(run, rules)
            run = []
        if key is not None and value and not is_apart:
            run.append(_Line(number, key, value))
            others = 0
    yield from _blocks_of(run, rules)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a block: its place in the log, its key and its value."""

    number: int
    key: str
    value: str


def _blocks_of(run: list[_Line], rules: Metadata) -> Iterator[dict[str, str]]:
    """Yield the blocks in lines that follow one another.

    A key that comes twice begins another block, or is a stray line. Read from the start, a stray line in front takes the
    place of the block's own line; read from the end, one behind the block does. The reading with more lines in blocks
    counts; of two such, the one with fewer lines between them. Both count if that does not tell them apart.
    """
    needed = set(rules.needed)
    forward = _cut(run)
    backward = [block[::-1] for block in _cut(run[::-1])][::-1]
    readings = [[block for block in blocks if needed <= {line.key for line in block}] for blocks in (forward, backward)]
    ranks = [(sum(map(len, blocks)), -sum(b[-1].number - b[0].number for b in blocks)) for blocks in readings]
    best = [blocks for blocks, rank in zip(readings, ranks, strict=True) if rank == max(ranks)]
    for block in best[0] + [block for blocks in best[1:] for block in blocks if block not in best[0]]:
        yield {line.key: line.value for line in block}


def _cut(run: list[_Line]) -> list[list[_Line]]:
    """Return the lines in parts, each of which has a key only once."""
    parts: list[list[_Line]] = []
    for line in run:
        if not parts or any(each.key == line.key for each in parts[-1]):
            parts.append([])
        parts[-1].append(line)
    return parts


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
            if _plain(rules.check.fill(block)) != _plain(block[rules.tag]):
                return False
        except KeyError:
            return False
    if rules.time is None or rules.time not in block:
        return rules.time is None
    at = _seconds(block[rules.time])
    return at is not None and began - _SLACK <= at <= ended + _SLACK


def _plain(tag: str) -> str:
    """Return a tag in lower case, with one `-` for all that builds replace when they make a tag of a ref."""
    return _REPLACED.sub("-", tag.lower())


def _seconds(text: str) -> float | None:
    try:
        at = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _invalid(where: str, what: str) -> SynclineError:
    return SynclineError("METADATA_INVALID", f"the {where} {what}")
