"""What backups remember: which blob each object became, and how many files each cluster has.

==========================  ================  =====================================================================
pk                          sk                what
==========================  ================  =====================================================================
``KNOWN#<place>#<cluster>``  ``BASE#<number>``  objects of a cluster, as the last look put them together
``KNOWN#<place>#<cluster>``  ``PART#<batch>``   objects that one commit read since
``FILES#<repository>``       ``BRANCH#<name>``  each cluster's tree and how many files it has
==========================  ================  =====================================================================

A commit writes one small item for each cluster it touches, whatever the size of the cluster. A look reads them all, and
puts them together when there are many. That an object with a key and an ETag is a blob never becomes wrong, so it does
not matter in which order parts are read, and a part that is written twice is written once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from syncline.store.backup_records import Count, Known
from syncline.store.table import Database, pack, unpack

KEPT: Final = 90 * 24 * 3600
"""Seconds for which something is remembered that no look has asked for."""
PARTS: Final = 24
"""Parts of a cluster from which on a look puts them together."""
_SIZE: Final = 300_000
"""Bytes of names, ETags and ids in one item: one of the table holds 400 KB, and these hardly compress."""


class BackupIndex:
    """The table's part about backups. ``clock`` gives Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock

    def known(self, place: str, cluster: str) -> dict[str, Known]:
        """What is known of a cluster's objects, by their keys."""
        pk = _pk(place, cluster)
        found: dict[str, Known] = {}
        parts: list[str] = []
        oldest = float("inf")
        for item in self._db.query(pk):  # BASE comes before PART
            found |= {key: Known(*known) for key, *known in unpack(item["objects"])}
            oldest = min(oldest, float(item["expires"]))
            parts.append(str(item["sk"]))
        scattered = sum(name.startswith("PART#") for name in parts) >= PARTS
        if scattered or oldest < self._clock() + KEPT / 2:
            self._put_together(pk, found, parts)
        return found

    def note(self, place: str, cluster: str, part: str, known: Mapping[str, Known]) -> None:
        """Note what the batch ``part`` learned."""
        pk = _pk(place, cluster)
        for number, chunk in enumerate(_chunks(known)):
            self._put(pk, f"PART#{part}#{number}", chunk)

    def settle(self, place: str, cluster: str, known: Mapping[str, Known]) -> None:
        """All that is known of a cluster from now on, but for what is noted meanwhile."""
        pk = _pk(place, cluster)
        self._put_together(pk, known, [str(item["sk"]) for item in self._db.query(pk)])

    def _put_together(self, pk: str, known: Mapping[str, Known], before: list[str]) -> None:
        """Write all as a new base. What was there before goes last: dying in between forgets nothing."""
        names = set()
        for number, chunk in enumerate(_chunks(known)):
            names.add(f"BASE#{number:06}")
            self._put(pk, f"BASE#{number:06}", chunk)
        for name in before:
            if name not in names:
                self._db.delete(pk, name)

    def _put(self, pk: str, sk: str, objects: list[Any]) -> None:
        self._db.put({"pk": pk, "sk": sk, "objects": pack(objects), "expires": int(self._clock()) + KEPT})

    def counts(self, reference: str) -> dict[str, Count]:
        """How many files each cluster of a branch had."""
        item = self._db.get(*_branch(reference))
        return {} if item is None else {name: Count(tree, files) for name, tree, files in unpack(item["clusters"])}

    def keep_counts(self, reference: str, counts: Mapping[str, Count]) -> None:
        """Remember them; those that one item does not hold are counted again another time."""
        rows, size = [], 0
        for name, count in counts.items():
            size += len(name.encode()) + 60
            if size > _SIZE:
                break
            rows.append([name, count.tree, count.files])
        pk, sk = _branch(reference)
        self._db.put({"pk": pk, "sk": sk, "clusters": pack(rows), "expires": int(self._clock()) + KEPT})

    def clusters_of(self, repository: str) -> int:
        """How many clusters a repository has, in all branches that were committed to; or a sync without one."""
        items = self._db.query(f"FILES#{_short(repository)}")
        return len({name for item in items for name, _, _ in unpack(item["clusters"])})


def _branch(reference: str) -> tuple[str, str]:
    """The keys of a branch, given as ``repository#branch``."""
    repository, _, name = reference.rpartition("#")
    return f"FILES#{_short(repository)}", f"BRANCH#{name}"


def _pk(place: str, cluster: str) -> str:
    return f"KNOWN#{_short(place)}#{cluster}"


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _chunks(known: Mapping[str, Known]) -> Iterator[list[Any]]:
    """Rows in portions that one item holds."""
    rows: list[Any] = []
    size = 0
    for key, was in known.items():
        length = len(key.encode()) + len(was.etag.encode()) + len(was.blob) + len(was.code) + 12
        if rows and size + length > _SIZE:
            yield rows
            rows, size = [], 0
        rows.append([key, was.etag, was.blob, was.code] if was.code else [key, was.etag, was.blob])
        size += length
    if rows:
        yield rows
