"""The records of the backup index, as the kind that fills it knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from syncline.errors import CodeName

LeftOutCode = CodeName | Literal[""]
"""The code that an object is left out with, "" if none."""


@dataclass(frozen=True, slots=True)
class Known:
    """An object that was read: its ETag, and the id of the blob it became, "" where it is left out of git.

    `code` is the one it is left out with, "" where there is none (:class:`.sealing.Sealed`).
    """

    etag: str
    blob: str
    code: LeftOutCode = ""


@dataclass(frozen=True, slots=True)
class Count:
    """How many files a cluster had, with the id of its tree that they were counted in."""

    tree: str
    files: int
