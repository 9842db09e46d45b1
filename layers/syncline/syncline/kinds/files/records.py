"""What is remembered of a file at the target, and what its permissions are by its source."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from syncline.clients.s3_xml import Grants, Listed
from syncline.model import Item, compact_json

_MODE: Final = re.compile(r"[r-][w-][xsS-][r-][w-][xsS-][r-][w-][xtT-]")
_BITS: Final = "rwxrwxrwx"
_FILE_TYPE_BITS: Final = 0o7777


class Records(Protocol):
    """What a kind of files remembers: texts by key; see :class:`syncline.stores.files.FileRecords`."""

    def get(self, keys: Iterable[str]) -> dict[str, str]: ...

    def behind(self, after: str, prefix: str = "") -> Iterator[tuple[str, str]]: ...

    def write(self, changes: Mapping[str, str | None]) -> None: ...


@dataclass(frozen=True, slots=True)
class Record:
    """A file that was proved to be at the target.

    ``etag``, ``size`` (bytes) and ``modified`` (whole Unix seconds) are those of the object it was made from; an
    imported record has the ETag that was listed when it was imported. ``mode`` is None where the target knows no
    permissions; ``told`` is the time of the latest event that changed them, as its service writes it.
    """

    etag: str
    size: int
    modified: int
    file_type: str = "application/octet-stream"
    mode: str | None = None
    internal_id: str = ""
    told: str = ""

    def to_json(self) -> list[Any]:
        return [self.etag, self.size, self.modified, self.file_type, self.mode, self.internal_id, self.told]

    def to_text(self) -> str:
        return compact_json(self.to_json())

    @classmethod
    def of_text(cls, text: str) -> Record:
        return cls(*json.loads(text))

    def is_of(self, listed: Listed) -> bool:
        """Whether the file is the object as it is listed now."""
        return (self.etag, self.size, self.modified) == (listed.etag, listed.size, int(listed.modified))


@dataclass(frozen=True, slots=True)
class Task:
    """What an item's ``detail`` says is to be done.

    ``what`` is ``put``, ``remove``, ``rename`` (from the key ``origin``) or ``permit`` (to ``mode``, as an event of
    the time ``told`` says). ``internal_id`` is what the target is known to have, ``modified`` (Unix
    seconds) what the object was when it was looked at. After a transfer ``made`` is the
    record of it.
    """

    what: str = "put"
    origin: str | None = None
    mode: str | None = None
    told: str = ""
    internal_id: str = ""
    modified: int | None = None
    made: Record | None = None

    @classmethod
    def of(cls, item: Item) -> Task:
        detail = item.detail
        made = detail.get("made")
        return cls(
            detail.get("do", "put"),
            detail.get("from"),
            detail.get("mode"),
            detail.get("told", ""),
            detail.get("id", ""),
            detail.get("at"),
            None if made is None else Record(*made),
        )

    def on(self, item: Item) -> Item:
        """The item with this as its detail; what has its default is left out."""
        detail: dict[str, Any] = {} if self.what == "put" else {"do": self.what}
        detail |= {"from": self.origin} if self.origin is not None else {}
        detail |= {"mode": self.mode} if self.mode is not None else {}
        detail |= {"told": self.told} if self.told else {}
        detail |= {"id": self.internal_id} if self.internal_id else {}
        detail |= {"at": self.modified} if self.modified is not None else {}
        detail |= {"made": self.made.to_json()} if self.made is not None else {}
        return replace(item, detail=detail)


def mode_of_grants(grants: Grants) -> str:
    """An access list as a file's permissions: the owner, whoever else has an account, everybody.

    What everybody may do the others may, too: of a file's three, only the first that fits somebody counts.
    """

    def bits(may: frozenset[str]) -> str:
        read = bool(may & {"READ", "FULL_CONTROL"})
        write = bool(may & {"WRITE", "FULL_CONTROL"})
        return f"{'r' if read else '-'}{'w' if write else '-'}-"

    of_all = grants.of_all
    return bits(grants.of_owner | of_all) + bits(grants.of_known | of_all) + bits(of_all)


def mode_of_metadata(metadata: Mapping[str, str]) -> str | None:
    """What an object's metadata tells of permissions, None if nothing.

    ``permissions`` in nine characters, or ``mode`` as a number: octal as rclone writes it, or decimal as s3fs does.
    """
    text = metadata.get("permissions", "")
    if _MODE.fullmatch(text):
        return text
    text = metadata.get("mode", "")
    if not (text.isascii() and text.isdigit()) or len(text) > 7:
        return None
    octal = set(text) <= set("01234567") and (text.startswith(("0", "100")) or len(text) <= 4)
    number = int(text, 8 if octal else 10) & _FILE_TYPE_BITS
    return "".join(bit if number >> (8 - place) & 1 else "-" for place, bit in enumerate(_BITS))


def path_problem(path: str) -> str | None:
    """Why a path could do harm where paths lead to files, None if it could not."""
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        return "has a control character"
    parts = path.removeprefix("/").split("/")
    if ".." in parts or "." in parts:
        return "has a part that is . or .."
    if "" in parts:
        return "has an empty part"
    return None
