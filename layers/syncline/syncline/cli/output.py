"""Text output: sizes, times, digests, aligned columns, colours.

Colours and control characters go to terminals only; ``NO_COLOR`` and ``TERM=dumb`` are honoured.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import IO, Any, Final, Literal

from syncline.escaping import escape

Style = Literal["", "bold", "dim", "red", "green", "yellow", "cyan"]

_ANSI: Final[dict[Style, str]] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A text in a table with its style; ``right`` aligns it to the right."""

    text: str
    style: Style = ""
    right: bool = False


Row = Sequence[Cell | str]


def is_terminal(stream: IO[str]) -> bool:
    """Return True if ``stream`` accepts control characters."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Output:
    """The output of a command. With ``as_json`` it is one JSON object at the end and nothing else."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    @property
    def live(self) -> bool:
        """True if a line can be updated in place."""
        return not self.as_json and is_terminal(sys.stdout)

    @property
    def interactive(self) -> bool:
        """True if a person can answer a question."""
        return not self.as_json and sys.stdin.isatty() and sys.stderr.isatty()

    def confirm(self, question: str) -> bool:
        """Ask a question on stderr and return True for yes. An empty answer and the end of the input mean no."""
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
        """Write a line of text."""
        if not self.as_json:
            write(styled(escape(text), style, sys.stdout))

    def table(
        self, rows: Iterable[Row | str], *, indent: int = 0, head: Sequence[str] = (), fold: int | None = None
    ) -> None:
        """Write rows with aligned columns, below a head if there are any; a string is a separate line.

        A row wider than the terminal continues on a second line from its cell ``fold``.
        """
        if self.as_json:
            return
        lines = [escape(row) if isinstance(row, str) else [_cell(each) for each in row] for row in rows]
        if head and lines:
            lines.insert(0, [Cell(word, "dim") for word in head])
        widths = _widths(line for line in lines if not isinstance(line, str))
        if fold is not None:
            lines = _folded(lines, widths, fold)
        shown = (line if isinstance(line, str) else _row(line, widths, sys.stdout) for line in lines)
        # One write for the complete table: a report may have thousands of rows.
        if lines:
            write("\n".join(" " * indent + line for line in shown))

    def clear(self) -> None:
        """Clear the terminal, or write an empty line elsewhere."""
        write("\x1b[H\x1b[2J\x1b[3J" if is_terminal(sys.stdout) else "")

    def lines(self, lines: Iterable[str]) -> None:
        """Write lines as they are: the content of a file, without styles."""
        if not self.as_json:
            for line in lines:
                sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    def hint(self, command: str, why: str) -> None:
        """Suggest the next command to type."""
        self.line(f"→ {command}  {why}", "dim")

    def json(self, value: dict[str, Any]) -> None:
        """Write the JSON object if ``as_json``."""
        if self.as_json:
            write_json(value)


def write(text: str, stream: IO[str] | None = None) -> None:
    """Write one or more lines to ``stream``, by default stdout."""
    stream = stream or sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def write_json(value: dict[str, Any]) -> None:
    """Write an object to stdout as JSON."""
    write(json.dumps(value, indent=2, ensure_ascii=False))


def _cell(value: Cell | str) -> Cell:
    return replace(value, text=escape(value.text)) if isinstance(value, Cell) else Cell(escape(value))


def _folded(lines: Sequence[str | list[Cell]], widths: list[int], fold: int) -> list[str | list[Cell]]:
    """Split rows that are wider than the terminal; the column before ``fold`` gets the width that the others need."""
    columns = shutil.get_terminal_size().columns
    indent = sum(widths[: fold - 1]) + 2 * (fold - 1)
    available = columns - indent - sum(widths[fold:]) - 2 * (len(widths) - fold)
    folded: list[str | list[Cell]] = []
    widest = 0
    for line in lines:
        if isinstance(line, str) or len(line[fold - 1].text) <= available:
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
    return [max(len(cell.text) for cell in column if cell) for column in zip_longest(*rows)]


def _row(row: Sequence[Cell], widths: Sequence[int], stream: IO[str]) -> str:
    parts = []
    for cell, width in zip(row, widths, strict=False):
        padding = " " * (width - len(cell.text))
        text = styled(cell.text, cell.style, stream)
        parts.append(padding + text if cell.right else text + padding)
    return "  ".join(parts).rstrip()


def styled(text: str, style: Style, stream: IO[str]) -> str:
    """Return ``text`` in a style if ``stream`` supports styles."""
    if not text or not style or not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_ANSI[style]}m{text}\x1b[0m"
