"""What is remembered of every file that is at a target.

=========================  =========  =====================================================================
pk                         sk         what
=========================  =========  =====================================================================
``FILES#<sync>#<shard>``   the key    one file (``v``), or what is kept of one that is gone (``gone``), each as
                                      a JSON text of the kind's own
=========================  =========  =====================================================================

A bucket of any size is spread over 16 partitions by a hash of the key: together they take 16,000 writes a second. The
sort key is the object's key itself, which may be as long as DynamoDB allows for one (1,024 bytes), so the records of
all partitions merged come in the order of a bucket's listing.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from syncline.table import Database

SHARDS: Final = 16
KEPT: Final = 14 * 24 * 3600
"""Seconds for which something is kept of a file that is gone: no queue holds an event about it for longer."""
_PORTION: Final = 400
"""Records read of a partition at a time: few are held when all are merged."""


def shard_of(key: str) -> int:
    """The partition of a key."""
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=2).digest()[0] % SHARDS


class FileRecords:
    """The records of one sync: values by key, each a text. ``clock`` gives Unix seconds."""

    def __init__(self, database: Database, sync: str, clock: Callable[[], float] = time.time) -> None:
        self._db = database
        self._sync = sync
        self._clock = clock

    def get(self, keys: Iterable[str]) -> dict[str, str]:
        """The values of the keys that have one; a call for each 100."""
        return self.known(keys)[0]

    def known(self, keys: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
        """The values of keys, and what is kept of those that are gone; a call for each 100."""
        wanted = [(self._pk(shard_of(key)), key) for key in keys]
        found: dict[str, str] = {}
        gone: dict[str, str] = {}
        for at in range(0, len(wanted), 100):
            for item in self._db.batch_get(wanted[at : at + 100]):
                if "v" in item:
                    found[str(item["sk"])] = str(item["v"])
                else:
                    gone[str(item["sk"])] = str(item["gone"])
        return found, gone

    def behind(self, after: str, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Keys behind ``after`` that begin with ``prefix``, with their values, in the order of their bytes."""
        streams = (self._partition(shard, after, prefix) for shard in range(SHARDS))
        for _, key, value in heapq.merge(*streams):
            yield key, value

    def write(self, changes: Mapping[str, str | None], gone: Mapping[str, str] | None = None) -> None:
        """Put values, and delete those that are None; 25 in a call. ``gone`` is kept of others in place of a value."""
        gone = gone or {}
        changes = {key: value for key, value in changes.items() if key not in gone}
        expires = int(self._clock()) + KEPT
        values: dict[str, dict[str, Any]] = {key: {"v": value} for key, value in changes.items() if value is not None}
        values |= {key: {"gone": text, "expires": expires} for key, text in gone.items()}
        puts = [{"pk": self._pk(shard_of(key)), "sk": key, **value} for key, value in values.items()]
        deletes = [(self._pk(shard_of(key)), key) for key, value in changes.items() if value is None]
        self._db.batch_write(puts, deletes)

    def _partition(self, shard: int, after: str, prefix: str) -> Iterator[tuple[bytes, str, str]]:
        for item in self._db.query_behind(self._pk(shard), max(after, _just_before(prefix)), _PORTION):
            key = str(item["sk"])
            if "v" not in item:
                continue
            if not key.startswith(prefix):
                if key < prefix:
                    continue
                return
            yield key.encode(), key, str(item["v"])

    def _pk(self, shard: int) -> str:
        return f"FILES#{self._sync}#{shard:02}"


def _just_before(prefix: str) -> str:
    """A text before all that begin with ``prefix`` and behind all else before it, near enough: what it lets in is skipped."""
    return prefix[:-1] + chr(ord(prefix[-1]) - 1) + "\U0010ffff" if prefix and ord(prefix[-1]) > 1 else ""
