"""Scratch locations of restore drills: what a drill restores is written there, read back, and removed.

The name of a scratch folder has the time from which it is left over. A function that was killed removes nothing; the one that
gets its message again removes what is left over, or the next drill of the sync. Nothing else below the location is touched.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from syncline.clients.folder.target import FolderTarget
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.backups.config import scratch_start
from syncline.kinds.backups.stores import BucketStore, FileStore

LIFETIME: Final = 1200
"""Seconds after which a scratch folder is left over: no function works for longer than 900, and clocks differ.

It is shorter than the time after which the message of a killed function comes again, so the same drill removes it.
"""


class ScratchLocation(Protocol):
    """A place below which each drill has a folder of its own."""

    def names(self) -> list[str]:
        """Return the names of the folders that are there."""
        ...

    def open(self, name: str) -> FileStore:
        """Return the store of a folder."""
        ...

    def remove(self, name: str) -> None:
        """Remove a folder with all its files."""
        ...


@contextlib.contextmanager
def scratch_store(location: ScratchLocation, sync: str, work: str, clock: Callable[[], float]) -> Iterator[FileStore]:
    """Yield the store of a new scratch folder, which is removed at the end; remove those that are left over first."""
    start = scratch_start(sync)
    pattern = re.compile(rf"{re.escape(start)}(\d{{12}})-[A-Za-z0-9-]+", re.ASCII)
    for name in location.names():
        found = pattern.fullmatch(name)
        if found is not None and int(found[1]) < clock():
            location.remove(name)
    own = f"{start}{int(clock()) + LIFETIME:012d}-{re.sub('[^A-Za-z0-9]', '-', work)}"
    try:
        yield location.open(own)
    finally:
        location.remove(own)


@dataclass(frozen=True, slots=True)
class ScratchFolder:
    """Scratch folders in a folder of the machine."""

    folder: Path

    def names(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir()) if self.folder.is_dir() else []

    def open(self, name: str) -> FileStore:
        return FolderTarget(self.folder / name, replaces=True)

    def remove(self, name: str) -> None:
        try:
            shutil.rmtree(self.folder / name)
        except FileNotFoundError:
            return
        except OSError as error:
            what = f"the scratch folder {self.folder / name} cannot be removed: {error.strerror}"
            raise SynclineError("REFUSED", what) from None


@dataclass(frozen=True, slots=True)
class ScratchBucket:
    """Scratch folders in a bucket below `prefix`, which ends with a slash or is empty."""

    bucket: Bucket
    prefix: str

    def names(self) -> list[str]:
        return BucketStore(self.bucket, self.prefix).top_folders()

    def open(self, name: str) -> FileStore:
        return BucketStore(self.bucket, f"{self.prefix}{name}/")

    def remove(self, name: str) -> None:
        keys = [each.key for page in self.bucket.pages(f"{self.prefix}{name}/") for each in page.objects]
        for key in keys:
            self.bucket.delete(key)
