"""The backup index: the blob that each object of a backup became, and the number of files of each cluster.

============================  ==================  ==========================================================
pk                            sk                  content
============================  ==================  ==========================================================
``KNOWN#<source>#<cluster>``  ``BASE#<number>``   objects of a cluster, as the last scan merged them
``KNOWN#<source>#<cluster>``  ``PART#<batch>``    objects that one commit has read since
``FILES#<repository>``        ``BRANCH#<name>``   the tree of each cluster and its number of files
============================  ==================  ==========================================================

A commit writes one small item for each cluster that it touches, whatever the size of the cluster. A scan reads them all,
and merges them when there are many. An object with a key and an ETag always becomes the same blob. So the order in which
parts are read does not matter, and neither does a part that is written twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from syncline.model import portions
from syncline.store.backup_records import FileCount, IndexEntry
from syncline.store.table import Store, pack, unpack

KEPT: Final = 90 * 24 * 3600  # seconds after which an entry is deleted that no scan has read
PARTS: Final = 24  # number of parts of a cluster from which a scan merges them
_SIZE: Final = 300_000
"""Limit in bytes of names, ETags and blob IDs in one item, below DynamoDB's 400 KB: they hardly compress."""


class BackupIndex(Store):
    """The backup index in the table."""

    def entries(self, place: str, cluster: str) -> dict[str, IndexEntry]:
        """Return the known objects of a cluster, by key."""
        pk = _pk(place, cluster)
        found: dict[str, IndexEntry] = {}
        parts: list[str] = []
        oldest = float("inf")
        for item in self._db.query(pk):  # BASE comes before PART
            found |= {key: IndexEntry(*known) for key, *known in unpack(item["objects"])}
            oldest = min(oldest, float(item["expires"]))
            parts.append(str(item["sk"]))
        scattered = sum(name.startswith("PART#") for name in parts) >= PARTS
        if scattered or oldest < self._clock() + KEPT / 2:
            self._merge(pk, found, parts)
        return found

    def add(self, place: str, cluster: str, part: str, known: Mapping[str, IndexEntry]) -> None:
        """Add objects that the batch `part` has read."""
        pk = _pk(place, cluster)
        for number, chunk in enumerate(_chunks(known)):
            self._put(pk, f"PART#{part}#{number}", chunk)

    def replace(self, place: str, cluster: str, known: Mapping[str, IndexEntry]) -> None:
        """Replace the known objects of a cluster, except those that are added meanwhile."""
        pk = _pk(place, cluster)
        self._merge(pk, known, [str(item["sk"]) for item in self._db.query(pk)])

    def _merge(self, pk: str, known: Mapping[str, IndexEntry], previous: list[str]) -> None:
        """Write objects as a new base, then delete the previous items, so that nothing is lost in between."""
        names = set()
        for number, chunk in enumerate(_chunks(known)):
            names.add(f"BASE#{number:06}")
            self._put(pk, f"BASE#{number:06}", chunk)
        for name in previous:
            if name not in names:
                self._db.delete(pk, name)

    def _put(self, pk: str, sk: str, objects: list[Any]) -> None:
        self._db.put({"pk": pk, "sk": sk, "objects": pack(objects), "expires": self._expiry(KEPT)})

    def file_counts(self, reference: str) -> dict[str, FileCount]:
        """Return the trees and the numbers of files of the clusters of a branch, by cluster."""
        item = self._db.get(*_branch(reference))
        return {} if item is None else {name: FileCount(tree, files) for name, tree, files in unpack(item["clusters"])}

    def save_file_counts(self, reference: str, counts: Mapping[str, FileCount]) -> None:
        """Store counts of clusters. Those that exceed one item are left out, and counted again later."""
        rows, size = [], 0
        for name, count in counts.items():
            size += len(name.encode()) + 60
            if size > _SIZE:
                break
            rows.append([name, count.tree, count.files])
        pk, sk = _branch(reference)
        self._db.put({"pk": pk, "sk": sk, "clusters": pack(rows), "expires": self._expiry(KEPT)})

    def clusters_of(self, repository: str) -> int:
        """Return the number of clusters in all branches of a repository, or of a sync without one."""
        items = self._db.query(f"FILES#{_short(repository)}")
        return len({name for item in items for name, _, _ in unpack(item["clusters"])})


def _branch(reference: str) -> tuple[str, str]:
    """Return the key of a branch, given as ``repository#branch``."""
    repository, _, name = reference.rpartition("#")
    return f"FILES#{_short(repository)}", f"BRANCH#{name}"


def _pk(place: str, cluster: str) -> str:
    return f"KNOWN#{_short(place)}#{cluster}"


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _chunks(known: Mapping[str, IndexEntry]) -> Iterator[list[Any]]:
    """Yield rows in portions that fit one item."""
    rows = ([key, each.etag, each.blob, *([each.code] if each.code else [])] for key, each in known.items())
    return portions(rows, lambda row: sum(len(text.encode()) for text in row) + 12, _SIZE)
