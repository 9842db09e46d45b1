"""The records of the index of backups, shared by the store and the kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from syncline.errors import CodeName

LeftOutCode = CodeName | Literal[""]
"""The code that an object is left out with, "" if none."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """An object that was read: its ETag and the ID of the blob it became, "" if it was left out.

    `code` is the error code it was left out with, "" for none (`kinds.backups.secrets_filter.Filtered`).
    """

    etag: str
    blob: str
    code: LeftOutCode = ""


@dataclass(frozen=True, slots=True)
class FileCount:
    """The number of files of a cluster, and the ID of the tree in which they were counted."""

    tree: str
    files: int
