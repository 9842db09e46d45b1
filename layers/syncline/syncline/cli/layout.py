"""Fit lines and tables to the width of a terminal, without cutting anything.

Into a pipe or a file lines have any length, so that `grep` finds a row as a whole, unless COLUMNS is set.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from syncline.cli.output import Cell

_NARROWEST: Final = 20
_INDENT: Final = 4
"""Spaces before the cells of a row that continue on a further line."""
_GAP: Final = 2
"""Spaces between two cells."""


Piece: TypeAlias = "tuple[int, Cell]"
"""A cell, or a part of one, and the number of spaces before it."""


def columns() -> int | None:
    """Return the width to fit lines to: COLUMNS, or that of the terminal; None if stdout is none."""
    if os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty():
        return max(shutil.get_terminal_size().columns, _NARROWEST)
    return None


def display_width(text: str) -> int:
    """Return the number of columns that a text takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def wrap(text: str, limit: int | None) -> list[str]:
    """Return the lines of a text of at most `limit` columns. Words are not divided; further lines are indented."""
    if limit is None or display_width(text) <= limit:
        return [text]
    hanging = " " * min(len(text) - len(text.lstrip(" ")) + 2, limit // 2)
    lines = [""]
    for word in re.findall(r" *[^ ]+", text):
        if lines[-1].strip() and display_width(lines[-1]) + display_width(word) > limit:
            lines.append(hanging + word.lstrip(" "))
        else:
            lines[-1] += word
    return lines


def column_widths(rows: Sequence[Sequence[Cell]], limit: int | None) -> list[int]:
    """Return the widths of the columns. If they exceed the limit, cells of more than half of it do not widen theirs."""
    sizes = [[display_width(cell.text) for cell in column if cell] for column in zip_longest(*rows)]
    natural = [max(each) for each in sizes]
    if limit is None or sum(natural) + _GAP * (len(natural) - 1) <= limit:
        return natural
    return [max((size for size in each if size <= limit // 2), default=0) for each in sizes]


def row_lines(row: Sequence[Cell], widths: Sequence[int], limit: int | None) -> list[list[Piece]]:
    """Return the lines of a row. A cell that does not fit continues on a further line, one of many words on several."""
    lines: list[list[Piece]] = [[]]
    at = skipped = 0
    for index, (cell, width) in enumerate(zip(row, widths, strict=False)):
        size = display_width(cell.text)
        before = (skipped + _GAP if index else 0) + (max(width - size, 0) if cell.right and len(lines) == 1 else 0)
        if not size:
            skipped += width + (_GAP if index else 0)
            continue
        if limit is not None and at + before + size > limit:
            if at:
                lines.append([])
            before = _INDENT if len(lines) > 1 else 0
            first, *more = wrap(cell.text, limit - _INDENT)
            lines[-1].append((before, replace(cell, text=first)))
            lines += [[(_INDENT, replace(cell, text=each))] for each in more]
            at, skipped = (before if not more else _INDENT) + display_width([first, *more][-1]), 0
            continue
        lines[-1].append((before, cell))
        at += before + size
        skipped = max(width - size, 0) if len(lines) == 1 and not cell.right else 0
    return lines
