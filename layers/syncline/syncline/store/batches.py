"""Batches of runs in the table: how each ended, what follows from it, and the counters of their runs.

=====================  ====================  =================================================================
pk                     sk                    content
=====================  ====================  =================================================================
``RUN#<id>#<shard>``   ``COUNTS``            a share of the run's counters
``RUN#<id>#<shard>``   ``LAGS``              a share of the lags of its items, and of its requests
``RUN#<id>#<shard>``   ``BATCH#<id>``        a batch that has ended: its results, and what follows from it
``RUN#<id>#<shard>``   ``PART#<digest>#``    a part of a record that is too large for one item
``RUN#<id>#<shard>``   ``JOIN#<id>``         a scan that joined the run
=====================  ====================  =================================================================

A run is over when every announced batch has ended. That is known without a central counter: each shard carries a
``balance``. Announcing a batch adds a hash of its ID, and ending it subtracts the same. The sum over all shards is zero
only if the two sets of batches are equal, in whatever order the shards are read.

A run that was cancelled or lost ends without that. Its shards are marked ``closed``, and the transactions that end
batches require the mark to be absent: from then on nothing is added, and a batch without a record was not done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import starmap
from typing import Any, Final

from syncline.messages import Batch, DeadLetter, Outgoing, from_json, to_json
from syncline.model import Counts, Lags, Result, Traffic, portions
from syncline.store.runs import RETENTION
from syncline.store.table import Store, number, pack, unpack

SHARDS: Final = 8
"""Number of partitions over which a run's records are spread; one partition takes 1,000 writes a second."""
_CANCELLED_AT_ONCE: Final = 400
"""Limit of the items of a cancelled run in one record."""
_ITEM_BYTES: Final = 350_000
"""Limit of the packed content of one item, below DynamoDB's 400 KB."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """The end of a batch: its results, the batches that follow from it, and the dead letters of what was given up."""

    results: tuple[Result, ...]
    outgoing: tuple[Outgoing, ...] = ()
    dead: tuple[DeadLetter, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """The present counters of a run. Times are Unix seconds, 0 if there was none.

    `settled` is True if no batch is in progress. `latest` is the time of the latest commit, `advanced` that of the latest
    one that counted an item, and `own` that of the latest one of the run's first scan and of what followed from it.
    `lags` are those of the items verified so far, and `traffic` counts the requests of the batches that have ended.
    """

    counts: Counts
    settled: bool
    latest: float
    advanced: float = 0.0
    own: float = 0.0
    lags: Lags = field(default_factory=Lags)
    traffic: Traffic = field(default_factory=Traffic)


class Batches(Store):
    """The batches of all runs."""

    def progress(self, run_id: str) -> Progress:
        """Return a run's counters, read from all shards."""
        return progress_of(self._db.batch_get(progress_keys(run_id)))

    def batch_record(self, run_id: str, batch_id: str) -> BatchRecord | None:
        """Return how a batch ended, None if it has not."""
        item = self._db.get(*self._record_key(run_id, batch_id))
        return None if item is None else self._record_from(item)

    def results(self, run_id: str, *, at_once: bool = False) -> Iterator[Result]:
        """Yield every result of a run, in no order. Items found equal have none.

        With ``at_once`` all shards are read at the same time and kept in memory, about 80 bytes for each result.
        """
        for item in self._records_at_once(run_id) if at_once else self._records(run_id):
            yield from self._results_of(item)

    def add_results(self, run_id: str, name: str, results: Iterable[Result], *, queued: int = 0) -> Counts:
        """Add results that belong to no batch, once under each name, and `queued`; return the counts of the run."""
        record = BatchRecord(tuple(results))
        batch_id = f"{run_id}-{name}"
        self._db.transact(
            [
                self._db.put_request(self._record_item(run_id, batch_id, record), "attribute_not_exists(pk)"),
                self._count(run_id, batch_id, asdict(Counts.of(record.results, queued=queued))),
            ]
        )
        return self.progress(run_id).counts

    def _announcement(self, run_id: str, batch_id: str) -> dict[str, Any]:
        """Return the part of a transaction that announces a batch."""
        return self._count(run_id, batch_id, {"balance": _hash(batch_id)})

    def _end(self, batch: Batch, record: BatchRecord, counts: Counts, traffic: Traffic) -> list[dict[str, Any]]:
        """Return the parts of a transaction that end a batch: they put its record and add its counts.

        The first is refused if the batch has ended before, the second if its run is closed.
        """
        item = self._record_item(batch.run, batch.id, record)
        balance = sum(_hash(each.batch.id) for each in record.outgoing) - _hash(batch.id)
        amounts = asdict(counts) | {"balance": balance}
        requests = [
            self._db.put_request(item, "attribute_not_exists(pk)"),
            self._count(batch.run, batch.id, amounts, unless_closed=True, own=batch.scan is None),
        ]
        if more := Lags.of(record.results).counters | traffic.counters:
            # A row of their own: earlier versions ignore it, or what they do not know of it.
            adds = ", ".join(f"#{name} :{name}" for name in more)
            values = {"expires": self._expiry(RETENTION), **more}
            shard = _shard_key(batch.run, _shard_of(batch.id))
            requests.append(self._db.update_request(shard, "LAGS", f"SET #expires = :expires ADD {adds}", values))
        return requests

    def _count(
        self, run_id: str, batch_id: str, amounts: dict[str, int], *, unless_closed: bool = False, own: bool = False
    ) -> dict[str, Any]:
        """Return the part of a transaction that adds amounts to the counters in the shard of a batch."""
        amounts = {name: value for name, value in amounts.items() if value}
        now = self._clock()
        times = {"at": number(now), "expires": int(now) + RETENTION}
        if amounts.keys() - {"balance", "requests"}:
            times["advanced"] = number(now)
        if own:
            times["own"] = number(now)
        sets = ", ".join(f"#{name} = :{name}" for name in times)
        adds = ", ".join(f"#{name} :{name}" for name in amounts)
        return self._db.update_request(
            _shard_key(run_id, _shard_of(batch_id)),
            "COUNTS",
            f"SET {sets} ADD {adds}",
            {**times, **amounts},
            condition="attribute_not_exists(#closed)" if unless_closed else None,
            names=("closed",) if unless_closed else (),
        )

    def _close(self, run_id: str) -> None:
        """Refuse the end of every further batch of a run."""
        values = {"closed": True, "expires": self._expiry(RETENTION)}
        for shard in range(SHARDS):
            self._db.update(_shard_key(run_id, shard), "COUNTS", "SET #closed = :closed, #expires = :expires", values)

    def _cancel_open(self, run_id: str) -> None:
        """Add the results of items whose batches have not ended in a closed run; a repeated call adds nothing.

        Items that a joined scan had sent on have no results, as in :mod:`syncline.steps.results`.
        """
        ended = {key for shard in range(SHARDS) for key in self._db.sort_keys(_shard_key(run_id, shard), "BATCH#")}
        batches = (
            Outgoing.from_json(each).batch
            for record in self._records(run_id)
            for each in unpack(self._content(record, "following"))
        )
        left = (batch for batch in batches if batch.items and f"BATCH#{batch.id}" not in ended)
        for part, some in enumerate(portions(left, lambda batch: len(batch.items), _CANCELLED_AT_ONCE)):
            results = [Result.cancelled(item) for batch in some if batch.scan is None for item in batch.items]
            rejoined = sum(len(batch.items) for batch in some if batch.scan is not None)
            self.add_results(run_id, f"cancelled-{part}", results, queued=-rejoined)

    def _records(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Yield the records of a run's batches, in a fixed order."""
        for shard in range(SHARDS):
            yield from self._db.query(_shard_key(run_id, shard), "BATCH#")

    def _records_at_once(self, run_id: str) -> Iterator[dict[str, Any]]:
        def read(shard: int) -> list[dict[str, Any]]:
            return list(self._db.query(_shard_key(run_id, shard), "BATCH#"))

        with ThreadPoolExecutor(SHARDS) as pool:
            for records in pool.map(read, range(SHARDS)):
                yield from records

    def _record_item(self, run_id: str, batch_id: str, record: BatchRecord) -> dict[str, Any]:
        """Return the item of a record. Content that is too large for it is written here already, in parts."""
        pk, sk = self._record_key(run_id, batch_id)
        expires = self._expiry(RETENTION)
        item, free = {"pk": pk, "sk": sk, "expires": expires}, _ITEM_BYTES
        packed = {
            "dead": pack([to_json(each) for each in record.dead]),
            "results": pack([result.to_json() for result in record.results]),
            "following": pack([each.to_json() for each in record.outgoing]),
        }
        if any(each.lag is not None for each in record.results):
            packed["lags"] = pack([each.lag for each in record.results])  # apart, where earlier versions ignore them
        for name, content in packed.items():
            if len(content) <= free:
                item[name], free = content, free - len(content)
                continue
            # Named by its content: of two functions that end a batch neither changes what the other refers to.
            key = f"PART#{hashlib.blake2b(content, digest_size=16).hexdigest()}#"
            for part, at in enumerate(range(0, len(content), _ITEM_BYTES)):
                chunk = content[at : at + _ITEM_BYTES]
                self._db.put({"pk": pk, "expires": expires, "sk": f"{key}{part:04}", "content": chunk})
            item[name] = key
        return item

    def _content(self, item: dict[str, Any], name: str) -> bytes:
        """Return an attribute of a record, joined if it is stored in parts."""
        content = item[name]
        if isinstance(content, str):
            return b"".join(bytes(part["content"]) for part in self._db.query(item["pk"], content))
        return bytes(content)

    def _record_from(self, item: dict[str, Any]) -> BatchRecord:
        outgoing, dead = (unpack(self._content(item, name)) for name in ("following", "dead"))
        letters = (each for each in map(from_json, dead) if isinstance(each, DeadLetter))
        return BatchRecord(tuple(self._results_of(item)), tuple(map(Outgoing.from_json, outgoing)), tuple(letters))

    def _results_of(self, item: dict[str, Any]) -> Iterator[Result]:
        """Return the results in a record, with their lags."""
        results = unpack(self._content(item, "results"))
        if "lags" not in item:
            return map(Result.from_json, results)
        return starmap(Result.from_json, zip(results, unpack(self._content(item, "lags")), strict=True))

    @staticmethod
    def _record_key(run_id: str, batch_id: str, prefix: str = "BATCH") -> tuple[str, str]:
        return _shard_key(run_id, _shard_of(batch_id)), f"{prefix}#{batch_id}"


def progress_keys(run_id: str) -> list[tuple[str, str]]:
    """Return the keys of the items with the counters of a run."""
    return [(_shard_key(run_id, shard), name) for shard in range(SHARDS) for name in ("COUNTS", "LAGS")]


def progress_of(items: Iterable[dict[str, Any]]) -> Progress:
    """Return the sum of the counters in the items of a run's shards."""
    totals: dict[str, int] = {}
    lags: list[Lags] = []
    traffic: list[Traffic] = []
    times = {"at": 0.0, "advanced": 0.0, "own": 0.0}
    for item in items:
        if item["sk"] == "LAGS":
            lags.append(Lags.from_counters(item))
            traffic.append(Traffic.from_counters(item))
            continue
        for name, value in item.items():
            if name in times:
                times[name] = max(times[name], float(value))
            elif name not in ("pk", "sk", "expires", "closed"):
                totals[name] = totals.get(name, 0) + int(value)
    balance = totals.pop("balance", 0)
    by_time = (times["at"], times["advanced"], times["own"])
    return Progress(Counts(**totals), balance == 0, *by_time, Lags.total(lags), Traffic.total(traffic))


def _shard_key(run_id: str, shard: int) -> str:
    return f"RUN#{run_id}#{shard}"


def _hash(batch_id: str) -> int:
    """Return 60 bits of a batch's ID: the sum of a billion of them still fits a DynamoDB number (38 digits)."""
    return int.from_bytes(hashlib.blake2b(batch_id.encode(), digest_size=8).digest()) >> 4


def _shard_of(batch_id: str) -> int:
    return _hash(batch_id) % SHARDS
