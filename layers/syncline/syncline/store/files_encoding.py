"""Encoding of the records of files as the content of items, thousands in one.

The content of an item is JSON, compressed by zlib. The JSON of records is an array of four arrays::

    [names, rows, gone, removed]

``names``
    The names of the files, in ascending order of their code points.
``rows``
    The row of each file, in the order of ``names``.
``gone``
    An array ``[name, until, row]`` for each row that is kept for a file that is gone, in ascending order of names.
    ``until`` is the time in Unix seconds at which the row expires.
``removed``
    The names that were removed and have no row, in ascending order. Only a change has such names.

A name is in one of ``names``, ``gone`` and ``removed``. The text is UTF-8, except that a lone surrogate in a name or
row is three bytes, as UTF-8 would encode its code point. There are no spaces, and no escapes but those that JSON needs.

Records that do not fit one item are divided into pieces. The weight of a piece is the part of an item's limits that it
uses, from 0 to 1.
"""

from __future__ import annotations

import json
import math
import zlib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeGuard

SEGMENT_ROWS: Final = 2000
"""Limit of an item's records."""
_SEGMENT_BYTES: Final = 250_000
"""Limit of an item's JSON. It stays below DynamoDB's 400 KB even if nothing can be compressed."""
_FILL: Final = 0.9
"""Weight of each piece if records need more than one: it leaves space for later records."""
_FULL: Final = 1 + 1e-6  # weights are sums of fractions
_LEVEL: Final = 1
"""The level of compression."""

Row = list[Any]
"""A JSON value that belongs to the kind. This package does not interpret it."""

_dumps: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Gone(NamedTuple):
    """A row kept until a time (Unix seconds) for a file that is gone."""

    until: int
    row: Row


Entry = Row | Gone


def is_file(entry: Entry | None) -> TypeGuard[Row]:
    """Return True if the entry is the row of a file, False if the file is gone or was removed."""
    return entry is not None and not isinstance(entry, Gone)


@dataclass(slots=True)
class Piece:
    """Records to be packed into one item, encoded as JSON. `low` is the lowest name.

    `until` is the latest time of a row in `gone`, 0 if there is none.
    """

    low: str
    names: list[bytes] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)
    removed: list[bytes] = field(default_factory=list)
    weight: float = 0
    until: int = 0

    def add(self, entry: Entry | None, name: bytes, row: bytes, weight: float) -> None:
        """Add a record. `name` and `row` are its JSON."""
        if entry is None:
            self.removed.append(name)
        elif isinstance(entry, Gone):
            self.gone.append(b"[%b,%d,%b]" % (name, entry.until, row))
            self.until = max(self.until, entry.until)
        else:
            self.names.append(name)
            self.rows.append(row)
        self.weight += weight

    def pack(self) -> bytes:
        """Return the content of an item with these records."""
        arrays = [b"[" + b",".join(values) + b"]" for values in (self.names, self.rows, self.gone, self.removed)]
        return zlib.compress(b"[" + b",".join(arrays) + b"]", _LEVEL)


@dataclass(frozen=True, slots=True)
class Contents:
    """The records of one item, decoded: the sorted `names` of files and their `rows`, rows kept, names removed."""

    names: list[str]
    rows: list[Row]
    gone: dict[str, Gone]
    removed: list[str]

    @classmethod
    def of(cls, content: Any) -> Contents:
        """Decode the content of an item that :meth:`Piece.pack` returned."""
        names, rows, gone, removed = unpack(content)
        return cls(names, rows, {name: Gone(until, row) for name, until, row in gone}, removed)

    def find(self, name: str) -> Entry | None:
        """Return the entry of a name, None if it has none."""
        at = bisect_left(self.names, name)
        if at < len(self.names) and self.names[at] == name:
            return self.rows[at]
        return self.gone.get(name)

    def entries(self) -> dict[str, Entry]:
        """Return the rows of files and the rows kept, by name."""
        return {**dict(zip(self.names, self.rows, strict=True)), **self.gone}

    def files(self, changes: Mapping[str, Entry | None]) -> tuple[list[str], list[Row]]:
        """Return the sorted names of files and their rows after `changes`."""
        if not changes:
            return self.names, self.rows
        files = {name: entry for name, entry in {**self.entries(), **changes}.items() if is_file(entry)}
        names = sorted(files)
        return names, [files[name] for name in names]


def pieces(entries: Mapping[str, Entry | None], most: int) -> list[Piece]:
    """Divide records into pieces of at most `most` records that fit an item each.

    None stands for a name that was removed. The pieces are in ascending order of names and have about the same weight.
    """
    records: list[tuple[str, bytes, bytes, float]] = []
    for low in sorted(entries):
        entry = entries[low]
        name, row = _json(low), _json(entry.row if isinstance(entry, Gone) else entry)
        records.append((low, name, row, max(1 / most, (len(name) + len(row)) / _SEGMENT_BYTES)))
    total = sum(weight for *_, weight in records)
    count = 1 if total <= _FULL else math.ceil(total / _FILL)
    found: list[Piece] = []
    passed = 0.0
    for low, name, row, weight in records:
        if not found or found[-1].weight + weight > _FULL or passed * count >= total * len(found):
            found.append(Piece(low))
        found[-1].add(entries[low], name, row, weight)
        passed += weight
    return found


def pack(value: Any) -> bytes:
    """Return a JSON value as the content of an item."""
    return zlib.compress(_json(value), _LEVEL)


def unpack(content: Any) -> Any:
    """Return the JSON value that is the content of an item. `content` is bytes, or boto3's type for them."""
    return json.loads(zlib.decompress(bytes(content)).decode(errors="surrogatepass"))


def _json(value: Any) -> bytes:
    # UTF-8 has no lone surrogates, and JSON's escapes of two in a row would be read as one character.
    return _dumps(value).encode(errors="surrogatepass")
