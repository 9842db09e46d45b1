"""Text output: sizes, times, digests, aligned columns, colours.

Colours and control characters go to terminals only; ``NO_COLOR`` and ``TERM=dumb`` are honoured.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Final, Literal

from syncline.cli import layout
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
        """Write a line of text, wrapped to the terminal."""
        if not self.as_json:
            lines = layout.wrap(escape(text), layout.columns())
            write("\n".join(styled(each, style, sys.stdout) for each in lines))

    def table(self, rows: Iterable[Row | str], *, indent: int = 0, head: Sequence[str] = ()) -> None:
        """Write rows with aligned columns, below a head if there are any; a string is a separate line.

        What does not fit the terminal continues on further lines (:mod:`syncline.cli.layout`).
        """
        if self.as_json:
            return
        lines = [escape(row) if isinstance(row, str) else [_cell(each) for each in row] for row in rows]
        if head and lines:
            lines.insert(0, [Cell(word, "dim") for word in head])
        columns = layout.columns()
        limit = None if columns is None else columns - indent
        widths = layout.column_widths([line for line in lines if not isinstance(line, str)], limit)
        shown = [
            text
            for line in lines
            for text in (layout.wrap(line, limit) if isinstance(line, str) else _row(line, widths, limit))
        ]
        # One write for the complete table: a report may have thousands of rows.
        if shown:
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
        """Suggest the next command to type; it is not divided, so that it can be copied."""
        if not self.as_json:
            whole, limit = escape(f"→ {command}  {why}"), layout.columns()
            fits = limit is None or layout.display_width(whole) <= limit
            for each in [whole] if fits else [escape(f"→ {command}"), *layout.wrap(f"  {escape(why)}", limit)]:
                write(styled(each, "dim", sys.stdout))

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


def _row(row: Sequence[Cell], widths: Sequence[int], limit: int | None) -> Iterator[str]:
    for line in layout.row_lines(row, widths, limit):
        yield "".join(" " * before + styled(cell.text, cell.style, sys.stdout) for before, cell in line)


def styled(text: str, style: Style, stream: IO[str]) -> str:
    """Return ``text`` in a style if ``stream`` supports styles."""
    if not text or not style or not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_ANSI[style]}m{text}\x1b[0m"
