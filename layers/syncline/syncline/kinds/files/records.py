"""Records of the files at the target, the tasks of items, and the permissions that a source states."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, Final, Protocol

from syncline.clients.file_manager.client import parse_mode
from syncline.clients.s3.xml import AccessGrants, ListedObject
from syncline.model import Item

Row = list[Any]
ETAG, SIZE, MODIFIED, TARGET, VERIFIED, HEADERS = range(6)
"""Positions in a row that a scan reads without building a :class:`Record`."""
_PREVIOUS: Final = 11
COLLIDES: Final = "/"
"""The version recorded for a key whose path the target takes for that of another key."""
UNSTATED: Final = "?"
"""The version of a file after a write that the target answered without stating one."""


class Records(Protocol):
    """The records of a sync's files by name (the key without the source's prefix).

    See :class:`syncline.store.files.FileRecords`.
    """

    def known(self, names: Iterable[str]) -> tuple[dict[str, Row], dict[str, Row]]: ...

    def scan(self, after: str = "", prefix: str = "") -> Iterator[tuple[str, Row]]: ...

    def write(
        self, changes: Mapping[str, Row | None], gone: Mapping[str, Row] | None = None, *, after: int = 0
    ) -> int: ...

    def compact(self) -> int: ...

    def count(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Record:
    """A file that we wrote to the target or found equal there.

    ``etag``, ``size`` (bytes) and ``modified`` (whole Unix seconds, as the listing states it) are those of the source's
    object. ``target`` is the version of the target's file: while the target still has that version, the file is ours.
    ``verified`` is False between a transfer and its verification. ``headers`` is the fingerprint of the object's own
    headers, "" if it is not known. ``mode`` is None if the target has no permissions; ``mode_time`` is the time (Unix
    seconds) of the event that set them, 0 if that event stated none, and None if no event did.

    ``seq`` is the sequencer of the latest event before the object was read: events that are certainly older need no
    scan. ``previous`` is the record before this one, kept where runs report their changes. ``kept`` is the fingerprint
    of the headers that the target kept, where it does not keep all of them.
    """

    etag: str
    size: int
    modified: int
    target: str
    verified: bool = True
    headers: str = ""
    file_type: str = "application/octet-stream"
    mode: str | None = None
    internal_id: str = ""
    mode_time: float | None = None
    seq: str = ""
    previous: PreviousRecord | None = None
    kept: str = ""

    def to_row(self) -> Row:
        """Return the record as a row; trailing fields that have their default are left out."""
        row: Row = [*_values(self)]
        row[TARGET] = "" if self.target == self.etag else self.target
        row[VERIFIED] = int(self.verified)
        row[_PREVIOUS] = None if self.previous is None else self.previous.to_json()
        while len(row) > HEADERS and row[-1] == _DEFAULTS[len(row) - 1]:
            row.pop()
        return row

    @classmethod
    def of_listed(cls, listed: ListedObject, target: str, **about: Any) -> Record:
        """Return the record of an object as it was listed, and of the version of its file at the target."""
        return cls(listed.etag, listed.size, int(listed.modified), target, **about)

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Record:
        """Return the record of a row."""
        values: Row = [*row, *_DEFAULTS[len(row) :]]
        values[TARGET] = values[TARGET] or values[ETAG]
        values[VERIFIED] = bool(values[VERIFIED])
        values[_PREVIOUS] = PreviousRecord.of_json(values[_PREVIOUS])
        return cls(*values)

    def is_of(self, etag: str, size: int) -> bool:
        """Return True if the file was made from this version of the object."""
        return (self.etag, self.size) == (etag, size)


_values: Final = attrgetter(*(each.name for each in fields(Record)))
_DEFAULTS: Final = [each.default for each in fields(Record)]
"""The default of each field, in the order of a row. The first five are in every row."""


@dataclass(frozen=True, slots=True)
class PreviousRecord:
    """A record before a run changed it, and the name that it had."""

    name: str
    record: Record

    def to_json(self) -> list[Any]:
        return [self.name, replace(self.record, seq="", previous=None).to_row()]

    @classmethod
    def of_json(cls, value: Sequence[Any] | None) -> PreviousRecord | None:
        return None if value is None else cls(value[0], Record.of_row(value[1]))


@dataclass(frozen=True, slots=True)
class RemovedRecord:
    """The record of a file that was removed: ``seq`` and ``previous`` as in :class:`Record`."""

    seq: str = ""
    previous: PreviousRecord | None = None

    def to_row(self) -> Row:
        return [self.seq, None if self.previous is None else self.previous.to_json()]

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> RemovedRecord:
        seq, previous = row
        return cls(seq, PreviousRecord.of_json(previous))


@dataclass(frozen=True, slots=True)
class Task:
    """The ``detail`` of an item: the operation, and its progress.

    ``operation`` is ``put``, ``remove``, ``confirm`` (a conflict with a file whose object is gone), ``rename`` (from the
    key ``origin``) or ``permit``. ``ours`` is the version of the target's file that is ours, "" for none; ``origin_ours``
    is the same for the origin of a rename. ``mode`` and ``mode_time`` are permissions that an event set. ``modified``
    (Unix seconds) is the object's time as the scan saw it. ``seq`` and ``previous`` go into the new record,
    ``origin_seq`` into that of the origin of a rename.

    After a transfer, ``record`` is the new record, and ``written`` the time of the write that stored it (Unix
    microseconds). ``parts`` counts the completed parts of a multipart upload. ``alone`` is True for a file that needs a
    function to itself. ``compared`` counts the bytes found equal so far, in the versions (source, target) ``versions``.
    ``checked`` is True if the bytes are compared although the fingerprints are equal, because a retry asked for the file.
    """

    operation: str = "put"
    origin: str | None = None
    ours: str = ""
    origin_ours: str = ""
    mode: str | None = None
    mode_time: float | None = None
    modified: int | None = None
    seq: str = ""
    origin_seq: str = ""
    previous: PreviousRecord | None = None
    record: Record | None = None
    written: int = 0
    parts: int = 0
    alone: bool = False
    compared: int = 0
    versions: tuple[str, str] | None = None
    checked: bool = False

    @classmethod
    def of(cls, item: Item) -> Task:
        """Return the task of an item."""
        values = {name: item.detail[key] for name, key in _DETAIL_KEYS.items() if key in item.detail}
        if "previous" in values:
            values["previous"] = PreviousRecord.of_json(values["previous"])
        if "record" in values:
            values["record"] = Record.of_row(values["record"])
        if "versions" in values:
            values["versions"] = tuple(values["versions"])
        return cls(**values)

    def on(self, item: Item) -> Item:
        """Return the item with this task as its detail; fields that have their default are left out."""
        detail = {key: value for name, key in _DETAIL_KEYS.items() if (value := getattr(self, name)) != _UNSET[name]}
        if self.previous is not None:
            detail["was"] = self.previous.to_json()
        if self.record is not None:
            detail["made"] = self.record.to_row()
        if self.versions is not None:
            detail["versions"] = list(self.versions)
        return replace(item, detail=detail)


_UNSET: Final = {each.name: each.default for each in fields(Task)}
_DETAIL_KEYS: Final = {name: name for name in _UNSET} | {
    "operation": "do",
    "origin": "from",
    "mode_time": "told",
    "modified": "at",
    "origin_seq": "gone",
    "previous": "was",
    "record": "made",
}
"""The key of each field of a task in the detail of an item."""


def recorded(records: Records, name: str) -> Record | None:
    """Return the record of a name, None if it has none."""
    row = records.known([name])[0].get(name)
    return None if row is None else Record.of_row(row)


def mode_of_grants(grants: AccessGrants) -> str:
    """Return an access list as a file's permissions: for the owner, everybody with an account, and everybody.

    Permissions for everybody are added to the other two, since a system applies only the first of the three that fits.
    """

    def bits(may: frozenset[str]) -> str:
        read = bool(may & {"READ", "FULL_CONTROL"})
        write = bool(may & {"WRITE", "FULL_CONTROL"})
        return f"{'r' if read else '-'}{'w' if write else '-'}-"

    of_all = grants.of_all
    return bits(grants.of_owner | of_all) + bits(grants.of_known | of_all) + bits(of_all)


def mode_of_metadata(metadata: Mapping[str, str]) -> str | None:
    """Return the permissions that an object's metadata states, None if it states none.

    ``permissions`` has nine characters; ``mode`` is a number, octal as rclone writes it or decimal as s3fs does.
    """
    mode = parse_mode(metadata.get("permissions", ""))
    if mode is not None:
        return mode
    text = metadata.get("mode", "")
    if not (text.isascii() and text.isdigit()) or len(text) > 7:
        return None
    octal = set(text) <= set("01234567") and (text.startswith(("0", "10")) or len(text) <= 4)
    return stat.filemode(int(text, 8 if octal else 10) & 0o777)[1:]


def path_problem(path: str) -> str | None:
    """Return the reason why a path is unsafe in a file system, None if it is safe."""
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        return "has a control character"
    parts = path.removeprefix("/").split("/")
    if ".." in parts or "." in parts:
        return "has a part that is . or .."
    if "" in parts:
        return "has an empty part"
    return None
