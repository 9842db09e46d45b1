"""Known failures: the items of a sync that failed and are not solved, with the reason and the first run.

=========================  ============  ==========================================================================
pk                         sk            content
=========================  ============  ==========================================================================
``FAILED#<sync>#<shard>``  ``<hash>``    an item that failed, or was verified since (``solved``)
``SYNC#<sync>``            ``FAILURES``  ``failing`` if there may be records, and the number of times they were
                                         written (``writes``); ``solved`` if dead letters of solved items may be left;
                                         ``forgotten``, the latest run that deleted records
``SYNC#<sync>``            ``ASKED#``    ``ASKED#<run>``: the items of the dead letters that a retry answers for
=========================  ============  ==========================================================================

A sync without known failures has no ``failing``, so its runs read nothing else here. The record of a solved item is kept
for as long as a dead letter stays in its queue: it means that the letter can be deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from syncline.errors import CodeName, stored_code
from syncline.model import Result
from syncline.store.table import Store, number, pack, unpack

Key = tuple[str, str]
"""The group and the name of an item."""

SHARDS: Final = 8
LETTER_KEPT: Final = 14 * 24 * 3600
"""Seconds for which a dead letter stays in its queue, as in template.yaml."""
_PAGE_READS: Final = 3 * SHARDS
"""Reads for one page: solved records in between are passed over."""
_KEPT: Final = 90 * 24 * 3600
"""Seconds after which a failure is deleted that no run has met again."""


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """An item that failed. `source` is its fingerprint at that time, None if unknown.

    `run` is the run in which it first failed like this, `seen` the latest one in which it did. `buried` is the time of
    its dead letter in Unix seconds. `solved` is the run that verified the item, None if none has.
    """

    group: str
    name: str
    code: CodeName
    source: str | None
    reason: str
    run: str
    seen: str
    buried: float
    acknowledged: bool = False
    solved: str | None = None

    @classmethod
    def of(cls, result: Result, run: str, buried: float) -> KnownFailure:
        """Return the record of a result that failed in a run."""
        code, reason = result.code or "INTERNAL", result.reason or ""
        return cls(result.group, result.name, code, result.source, reason, run, run, buried)

    @property
    def key(self) -> Key:
        return (self.group, self.name)

    def is_like(self, result: Result) -> bool:
        """Return True if the item still fails with the same code and, if both are known, the same source."""
        same = self.source == result.source or None in (self.source, result.source)
        return self.solved is None and self.code == result.code and same


class Failures(Store):
    """The known failures of all syncs."""

    def any(self, sync: str) -> bool:
        """Return True if a sync may have known failures."""
        return bool(self._head(sync).get("failing"))

    def has_solved(self, sync: str) -> bool:
        """Return True if dead letters of solved items may be left."""
        return bool(self._head(sync).get("solved"))

    def find(self, sync: str, keys: Iterable[Key]) -> dict[Key, KnownFailure]:
        """Return the records of items, including solved ones."""
        wanted = sorted({_record_key(sync, key) for key in keys})
        return {failure.key: failure for failure in map(_failure_from, self._db.batch_get(wanted))}

    def all(self, sync: str) -> Iterator[KnownFailure]:
        """Yield every failure that is not solved, in no order."""
        for shard in range(SHARDS):
            for item in self._db.query(f"FAILED#{sync}#{shard}"):
                if "solved" not in item:
                    yield _failure_from(item)

    def open(self, sync: str) -> Iterator[KnownFailure]:
        """Yield every failure that is neither solved nor acknowledged, in no order. The table reads the others alone."""
        for shard in range(SHARDS):
            for item in self._db.query_without(f"FAILED#{sync}#{shard}", absent="solved", untrue="acknowledged"):
                yield _failure_from(item)

    def page(self, sync: str, after: str, limit: int) -> tuple[list[KnownFailure], str | None]:
        """Return some failures that are not solved, and the position after them, None at the end.

        `after` is such a position, "" for the beginning. The order is fixed, but means nothing.
        """
        shard_text, _, last = after.partition("-")
        shard, found = int(shard_text or 0), list[KnownFailure]()
        for _ in range(_PAGE_READS):
            if shard >= SHARDS:
                return found, None
            items = list(self._db.query_beyond(f"FAILED#{sync}#{shard}", last or "0", limit + 1))
            for item in items:
                if "solved" not in item:
                    if len(found) == limit:
                        return found, f"{shard}-{last}"
                    found.append(_failure_from(item))
                last = str(item["sk"])
            shard, last = (shard, last) if len(items) > limit else (shard + 1, "")
        return found, f"{shard}-{last}" if shard < SHARDS else None

    def write(self, sync: str, failures: Iterable[KnownFailure]) -> None:
        """Write records, replacing those of the same items."""
        records = list(failures)
        if not records:
            return
        # First the mark: a record without it would not be found.
        values = {"failing": True, "writes": 1}
        self._db.update(f"SYNC#{sync}", "FAILURES", "SET #failing = :failing ADD #writes :writes", values)
        self._put(sync, records, _KEPT)

    def solve(self, sync: str, failures: Iterable[KnownFailure], run: str) -> None:
        """Note that a run has verified items, so that their dead letters may go."""
        records = [replace(failure, solved=run) for failure in failures]
        if records:
            self._put(sync, records, LETTER_KEPT)
            self._db.update(f"SYNC#{sync}", "FAILURES", "SET #solved = :solved", {"solved": True})

    def forget(self, sync: str, keys: Iterable[Key], run: str) -> None:
        """Delete the records of items that `run` has verified, left out, or no longer met."""
        records = [_record_key(sync, key) for key in keys]
        if not records:
            return
        # First the mark: without it an earlier run's batch that is delivered again would write the record again.
        condition = "attribute_not_exists(#forgotten) OR #forgotten < :forgotten"
        values = {"forgotten": run}
        self._db.update(f"SYNC#{sync}", "FAILURES", "SET #forgotten = :forgotten", values, condition=condition)
        self._db.batch_write([], records)

    def forgotten(self, sync: str) -> str:
        """Return the latest run that deleted records, "" if none has."""
        return str(self._head(sync).get("forgotten", ""))

    def acknowledge(self, sync: str, failure: KnownFailure, *, acknowledged: bool) -> bool:
        """Acknowledge a failure or revoke that; return False if the failure has changed meanwhile."""
        updated = self._db.update(
            *_record_key(sync, failure.key),
            "SET #acknowledged = :acknowledged",
            {"acknowledged": acknowledged},
            condition="#code = :code AND #run = :run AND attribute_not_exists(solved)",
            extra={":code": failure.code, ":run": failure.run},
            names=("code", "run"),
        )
        return updated is not None

    def writes(self, sync: str) -> int:
        """Return the number of times that records of a sync were written, for :meth:`clear`."""
        return int(self._head(sync).get("writes", 0))

    def clear(self, sync: str, writes: int) -> None:
        """Note that a sync has no known failures, unless one was written since `writes` was read."""
        self._db.update(
            f"SYNC#{sync}",
            "FAILURES",
            "REMOVE #failing",
            {},
            condition="#writes = :writes",
            extra={":writes": writes},
            names=("failing", "writes"),
        )

    def clear_solved(self, sync: str) -> None:
        """Note that no dead letters of solved items are left."""
        self._db.update(f"SYNC#{sync}", "FAILURES", "REMOVE #solved", {}, names=("solved",))

    def ask(self, sync: str, run: str, keys: Iterable[Key]) -> None:
        """Store the items whose dead letters a retry answers for."""
        item = {"pk": f"SYNC#{sync}", "sk": f"ASKED#{run}", "items": pack(sorted(set(keys)))}
        self._db.put(item | {"expires": self._expiry(LETTER_KEPT)})

    def asked(self, sync: str, run: str) -> frozenset[Key]:
        """Return the items whose dead letters a run answers for; none unless it is a retry."""
        item = self._db.get(f"SYNC#{sync}", f"ASKED#{run}")
        return frozenset() if item is None else frozenset((group, name) for group, name in unpack(item["items"]))

    def _head(self, sync: str) -> dict[str, Any]:
        return self._db.get(f"SYNC#{sync}", "FAILURES") or {}

    def _put(self, sync: str, records: list[KnownFailure], kept: float) -> None:
        expires = self._expiry(kept)
        items = {_record_key(sync, each.key): _item_of(each) for each in records}
        self._db.batch_write([{"pk": pk, "sk": sk, "expires": expires, **each} for (pk, sk), each in items.items()], [])


def _record_key(sync: str, key: Key) -> tuple[str, str]:
    """Return the key of an item's record, with a digest of the name, which may be longer than a key."""
    digest = hashlib.blake2b("\0".join(key).encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"FAILED#{sync}#{int(digest[:2], 16) % SHARDS}", digest


def _item_of(failure: KnownFailure) -> dict[str, Any]:
    values = asdict(failure) | {"buried": number(failure.buried)}
    return {name: _stored(value) for name, value in values.items() if value is not None}


def _stored(value: Any) -> Any:
    """Return a value to be stored: a text as bytes if it has a lone surrogate, which UTF-8 cannot encode."""
    if not isinstance(value, str):
        return value
    encoded = value.encode(errors="surrogatepass")
    return encoded if encoded != value.encode(errors="replace") else value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode(errors="surrogatepass")


def _failure_from(item: dict[str, Any]) -> KnownFailure:
    return KnownFailure(
        _text(item["group"]),
        _text(item["name"]),
        stored_code(item["code"]),
        None if item.get("source") is None else _text(item["source"]),
        _text(item["reason"]),
        str(item["run"]),
        str(item["seen"]),
        float(item["buried"]),
        bool(item["acknowledged"]),
        item.get("solved"),
    )
