"""How things look on a terminal and off it: sizes, times, digests, aligned columns, colours.

Nothing here knows of AWS. Colours and control characters go to terminals only; ``NO_COLOR`` and ``TERM=dumb`` are
honoured.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Final, Literal

from syncline.visible import visible

Style = Literal["", "bold", "dim", "red", "green", "yellow", "cyan"]

_ANSI: Final[dict[Style, str]] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_SHORT_DIGEST: Final = 12  # hex digits; as many as git and docker show
_LONGEST_WHOLE: Final = 20  # characters of a fingerprint that is not shortened


@dataclass(frozen=True, slots=True)
class Cell:
    """A text in a table with its style; ``right`` sets it to the right of its column."""

    text: str
    style: Style = ""
    right: bool = False


Row = Sequence[Cell | str]


def is_terminal(stream: IO[str]) -> bool:
    """Whether control characters may be sent to ``stream``."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Out:
    """Where a command writes. With ``as_json`` nothing is written but the one object at the end."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    @property
    def live(self) -> bool:
        """Whether a line may be written again and again in one place."""
        return not self.as_json and is_terminal(sys.stdout)

    @property
    def asks(self) -> bool:
        """Return True if somebody is there to answer a question."""
        return not self.as_json and sys.stdin.isatty() and sys.stderr.isatty()

    def agrees(self, question: str) -> bool:
        """Ask a question on stderr and return True for yes. An empty answer is no, and so is the end of the input."""
        while True:
            sys.stderr.write(f"{question} [y/N]: ")
            sys.stderr.flush()
            line = sys.stdin.readline()
            if not line:
                write("", sys.stderr)
            answer = line.strip().lower()
            if answer in ("", "n", "no", "y", "yes"):
                return answer in ("y", "yes")

    def line(self, text: str = "", style: Style = "") -> None:
        """Write a line for people."""
        if not self.as_json:
            write(painted(visible(text), style, sys.stdout))

    def table(
        self, rows: Iterable[Row | str], *, indent: int = 0, head: Sequence[str] = (), fold: int | None = None
    ) -> None:
        """Write rows with their columns aligned, under a head if there are rows; a string is a line of its own.

        A row that is wider than the terminal goes on, from its cell ``fold``, on a second line.
        """
        if self.as_json:
            return
        lines = [visible(row) if isinstance(row, str) else [_cell(each) for each in row] for row in rows]
        if head and lines:
            lines.insert(0, [Cell(word, "dim") for word in head])
        widths = _widths(line for line in lines if not isinstance(line, str))
        if fold is not None:
            lines = _folded(lines, widths, fold)
        shown = (line if isinstance(line, str) else _row(line, widths, sys.stdout) for line in lines)
        # One write for the whole table: a report may have many thousand rows.
        if lines:
            write("\n".join(" " * indent + line for line in shown))

    def follow_up(self, command: str, why: str) -> None:
        """The next command worth typing."""
        self.line(f"→ {command}  {why}", "dim")

    def value(self, value: dict[str, Any]) -> None:
        """The one JSON object."""
        if self.as_json:
            write_json(value)


def write(text: str, stream: IO[str] | None = None) -> None:
    """A line, or several, to ``stream``: stdout when None."""
    stream = stream or sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def write_json(value: dict[str, Any]) -> None:
    """An object on stdout."""
    write(json.dumps(value, indent=2, ensure_ascii=False))


def _cell(value: Cell | str) -> Cell:
    return replace(value, text=visible(value.text)) if isinstance(value, Cell) else Cell(visible(value))


def _folded(lines: Sequence[str | list[Cell]], widths: list[int], fold: int) -> list[str | list[Cell]]:
    """Part rows that are wider than the terminal, and set the column before ``fold`` to the width of those that are not."""
    columns = shutil.get_terminal_size().columns
    indent = sum(widths[: fold - 1]) + 2 * (fold - 1)
    room = columns - indent - sum(widths[fold:]) - 2 * (len(widths) - fold)
    folded: list[str | list[Cell]] = []
    widest = 0
    for line in lines:
        if isinstance(line, str) or len(line[fold - 1].text) <= room:
            widest = widest if isinstance(line, str) else max(widest, len(line[fold - 1].text))
            folded.append(line)
            continue
        folded.append(_row(line[:fold], widths, sys.stdout))
        if any(cell.text for cell in line[fold:]):
            folded.append(" " * indent + "  ".join(cell.text for cell in line[fold:] if cell.text))
    if widths:
        widths[fold - 1] = widest
    return folded


def _widths(rows: Iterable[Sequence[Cell]]) -> list[int]:
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        for n, cell in enumerate(row):
            widths[n] = max(widths[n], len(cell.text))
    return widths


def _row(row: Sequence[Cell], widths: Sequence[int], stream: IO[str]) -> str:
    parts = []
    for cell, width in zip(row, widths, strict=False):
        padding = " " * (width - len(cell.text))
        text = painted(cell.text, cell.style, stream)
        parts.append(padding + text if cell.right else text + padding)
    return "  ".join(parts).rstrip()


def painted(text: str, style: Style, stream: IO[str]) -> str:
    """``text`` in a style, where ``stream`` shows styles."""
    if not text or not style or not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_ANSI[style]}m{text}\x1b[0m"


def size(count: float) -> str:
    """Bytes for people: ``0 B``, ``12.3 KiB``, ``4.0 GiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        # 1023.96 would round up to 1024.0 of a unit that has the next one.
        if value < 1023.95 or unit == "TiB":
            break
    return f"{value:,.1f} {unit}"


def duration(seconds: float) -> str:
    """A span of time, two units at most: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for large, small, large_seconds, small_seconds in _UNITS:
        if whole < large_seconds * _LIMITS[large]:
            rest = whole % large_seconds // small_seconds
            return f"{whole // large_seconds} {large}" + (f" {rest} {small}" if rest else "")
    return f"{whole // 86_400} d"


_UNITS: Final = (("min", "s", 60, 1), ("h", "min", 3600, 60), ("d", "h", 86_400, 3600))
_LIMITS: Final = {"min": 60, "h": 24, "d": 10}


def about(seconds: float) -> str:
    """A span of time in one unit, for what is near enough: ``12 s``, ``3 min``, ``2 h``, ``5 d``."""
    for unit, unit_seconds, most in (("s", 1, 59), ("min", 60, 59), ("h", 3600, 47)):
        if round(seconds / unit_seconds) <= most:
            return f"{max(round(seconds / unit_seconds), 0)} {unit}"
    return f"{round(seconds / 86_400)} d"


def ago(then: float, now: float) -> str:
    """A time gone by, or to come: ``just now``, ``3 min ago``, ``in 2 h``."""
    if abs(now - then) < 1:
        return "just now"
    return f"{about(now - then)} ago" if then < now else f"in {about(then - now)}"


def number(count: float) -> str:
    """A count with its thousands apart: ``12,345``; one decimal below ten where it is not whole."""
    return f"{count:.1f}" if count < 9.95 and round(count, 1) != round(count) else f"{count:,.0f}"


def many(count: int, one: str, more: str = "") -> str:
    """A count with its word: ``1 item``, ``2 items``."""
    return f"{number(count)} {one if count == 1 else more or one + 's'}"


def digest(value: str | None, *, full: bool = False) -> str:
    """Return a fingerprint, short unless ``full``; ``-`` if there is none."""
    if value is None:
        return "-"
    digits = value.removeprefix("sha256:").removeprefix("sha512:")
    return value if full or len(digits) <= _LONGEST_WHOLE else digits[:_SHORT_DIGEST]
