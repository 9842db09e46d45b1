"""The entries of the backup index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from syncline.errors import CodeName

LeftOutCode = CodeName | Literal[""]
"""The code that an object is left out with, "" if none."""


@dataclass(frozen=True, slots=True)
class Known:
    """An object that was read: its ETag and the ID of its blob, "" if it is left out of git.

    `code` is the reason for leaving it out, "" if there is none (:class:`.sealing.Sealed`).
    """

    etag: str
    blob: str
    code: LeftOutCode = ""


@dataclass(frozen=True, slots=True)
class Count:
    """The number of files of a cluster in the tree with the ID `tree`."""

    tree: str
    files: int
