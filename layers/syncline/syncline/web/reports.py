"""Reports of runs in memory: compact, sorted, and searched without reading the table again."""

from __future__ import annotations

import marshal
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from syncline.model import Counts, Outcome, Result
from syncline.run_text import OUTCOME_WORDS, report_order

MOST_ITEMS: Final = 250_000
"""Items of a report that the page shows; `syncline report` shows any number."""
_MOST_BYTES: Final = 48 << 20
"""Bytes of the items and of their searched text. A report takes about four times as much while it is made."""
_CACHE_BYTES: Final = 48 << 20
_MOST_REPORTS: Final = 32
_QUERIES: Final = 8
"""Latest searches whose results are kept for each report: the pages of a search do not repeat it."""


class TooManyItemsError(Exception):
    """A report has too many items, or too long ones, for the memory of the function."""


def check_size(counts: Counts) -> None:
    """Raise TooManyItemsError if a run with these counts has more results than a report may have."""
    if counts.moved + counts.removed + counts.conflict + counts.untrusted + counts.failed > MOST_ITEMS:
        raise TooManyItemsError


@dataclass(slots=True)
class Report:
    """The items of a run in the order of a report, each packed, and as a line of searched text."""

    _items: bytes
    _item_ends: array[int]
    _text: bytes
    _text_ends: array[int]
    ranges: dict[Outcome, range]
    """The positions of the items of each outcome."""
    _searches: OrderedDict[tuple[str, Outcome | None], Sequence[int]] = field(default_factory=OrderedDict)

    @classmethod
    def of(cls, results: Iterable[Result]) -> Report:
        """Return the report with these results; raises TooManyItemsError."""
        lines: list[tuple[tuple[int, str, str], bytes, bytes, Outcome]] = []
        size = 0
        for result in results:
            packed = marshal.dumps((*result.to_json(), result.lag))  # takes a fifth of the time of JSON
            text = _searched(result)
            size += len(packed) + len(text)
            if len(lines) == MOST_ITEMS or size > _MOST_BYTES:
                raise TooManyItemsError
            lines.append((report_order(result), packed, text, result.outcome))
        lines.sort(key=lambda line: line[0])
        ranges: dict[Outcome, range] = {}
        for position, line in enumerate(lines):
            ranges[line[3]] = range(ranges[line[3]].start if line[3] in ranges else position, position + 1)
        item_ends, text_ends = array("Q"), array("Q")
        items = _joined([line[1] for line in lines], item_ends)
        text = _joined([line[2] for line in lines], text_ends)
        return cls(items, item_ends, text, text_ends, ranges)

    def __len__(self) -> int:
        return len(self._item_ends)

    @property
    def size(self) -> int:
        """The bytes that the report takes."""
        return len(self._items) + len(self._text) + 16 * len(self)

    def search(self, text: str, outcome: Outcome | None) -> Sequence[int]:
        """Return the positions of the items that have the text in a name, a digest, the code or the reason.

        Upper and lower case are the same.
        """
        positions = range(len(self)) if outcome is None else self.ranges.get(outcome, range(0))
        if not text or not positions:
            return positions
        key = (text, outcome)
        if key not in self._searches:
            self._searches[key] = self._find(_folded(text), positions)
            if len(self._searches) > _QUERIES:
                self._searches.popitem(last=False)
        return self._searches[key]

    def results(self, positions: Sequence[int]) -> list[Result]:
        """Return the items at positions."""
        return [self._result(position) for position in positions]

    def _find(self, wanted: bytes, positions: range) -> array[int]:
        found, ends, text = array("L"), self._text_ends, self._text
        at = ends[positions.start - 1] if positions.start else 0
        last = ends[positions.stop - 1]
        while (at := text.find(wanted, at, last)) >= 0:
            position = bisect_right(ends, at)
            found.append(position)
            at = ends[position]
        return found

    def _result(self, position: int) -> Result:
        start = self._item_ends[position - 1] if position else 0
        # Never data from outside: this process has packed it.
        *values, lag = marshal.loads(self._items[start : self._item_ends[position]])  # noqa: S302
        group, name, outcome, source, target, moved_bytes, code, reason = values
        return Result(group, name, Outcome(outcome), source, target, moved_bytes, code, reason, lag)


class Reports:
    """The reports that were read last: the latest one, and others up to a number of bytes."""

    def __init__(self, limit: int = _CACHE_BYTES) -> None:
        self._limit = limit
        self._reports: OrderedDict[str, tuple[object, Report]] = OrderedDict()

    def get(self, run_id: str, version: object, read: Callable[[], Iterable[Result]]) -> Report:
        """Return the report of a run. `version` changes if there is more to read; raises TooManyItemsError."""
        found = self._reports.pop(run_id, None)
        if found is not None and found[0] == version:
            report = found[1]
        else:
            self._make_room()
            report = Report.of(read())
        self._reports[run_id] = (version, report)
        return report

    def _make_room(self) -> None:
        """Drop the reports that were used least recently, until the others are within the limit."""
        while self._reports and (
            len(self._reports) >= _MOST_REPORTS or sum(each.size for _, each in self._reports.values()) > self._limit
        ):
            self._reports.popitem(last=False)


def _searched(result: Result) -> bytes:
    words = (f"{result.group}:{result.name}", result.source, result.target, result.code, result.reason)
    return _folded(" ".join(filter(None, (*words, OUTCOME_WORDS[result.outcome]))))


def _folded(text: str) -> bytes:
    """Return a text in lower case on one line."""
    return text.lower().replace("\n", " ").encode(errors="surrogatepass")


def _joined(lines: list[bytes], ends: array[int]) -> bytes:
    """Join lines, and add the end of each to `ends`."""
    ends.extend(accumulate(len(line) + 1 for line in lines))
    return b"\n".join([*lines, b""])
