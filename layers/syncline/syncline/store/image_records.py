"""Records of the images that one sync has verified at its target: a row for each tag of each repository.

They are stored like the records of files (:mod:`syncline.store.files`), under the name ``<repository> <tag>``: neither
part can have a space, so all tags of a repository are adjacent, and repositories are in the order of their names. All
tags of a repository are in one partition. A segment has up to 2,000 tags, so a full scan of many small repositories reads
a few items of the table, and a scan of one repository reads one partition's directory and its segments.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from syncline.store.files import FileRecords
from syncline.store.files_encoding import Row
from syncline.store.table import Database

PARTITIONS: Final = 4
"""Few, since a full scan queries each of them even if it has nothing to do."""
_BETWEEN: Final = " "


@dataclass(frozen=True, slots=True)
class ImageRecords:
    """The records of the tags that one sync has verified at one target. `clock` returns Unix seconds.

    `target` identifies the target by a short hexadecimal text. A repository is one of the target.
    """

    database: Database
    sync: str
    target: str
    clock: Callable[[], float]

    def scan(self, first: str = "") -> Iterator[tuple[str, str, Row]]:
        """Yield the repository, the tag and the row of each record, in this order, from the repository `first` on."""
        for name, row in self._rows.scan(after=first):
            repository, _, tag = name.partition(_BETWEEN)
            yield repository, tag, row

    def of(self, repository: str) -> Iterator[tuple[str, Row]]:
        """Yield the tags of a repository that have a row, in ascending order, with their rows."""
        start = repository + _BETWEEN
        for name, row in self._rows.scan(prefix=start, shard=_partition_of(start)):
            yield name.removeprefix(start), row

    def known(self, repository: str, tags: Iterable[str]) -> dict[str, Row]:
        """Return the rows of those tags of a repository that have one."""
        start = repository + _BETWEEN
        rows, _ = self._rows.known(start + tag for tag in tags)
        return {name.removeprefix(start): row for name, row in rows.items()}

    def write(self, changes: Mapping[tuple[str, str], Row | None]) -> None:
        """Write the rows of tags, by repository and tag; None deletes one. The rows of one partition are one write."""
        if changes:
            self._rows.write({f"{repository}{_BETWEEN}{tag}": row for (repository, tag), row in changes.items()})

    @property
    def _rows(self) -> FileRecords:
        return FileRecords(self.database, self.sync, self.target, self.clock, shard=_partition_of, shards=PARTITIONS)


def _partition_of(name: str) -> int:
    repository, _, _ = name.partition(_BETWEEN)
    return zlib.crc32(repository.encode()) % PARTITIONS
