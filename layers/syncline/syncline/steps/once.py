"""One result for each item of a run that further scans join.

A scan that joins a run finds again what the run has in flight, and sends it on. Its transfer finds the item equal, but so
does one that is delivered again after its function died; only the results tell them apart. So each result is taken by
the scan that its work came from, the same however often the work is tried, and what another scan has taken is dropped.

Conflicts and failures are taken whether anybody has joined the run or not: a scan that joins it later meets them again.
What was moved or removed is taken only in a run that has been joined: a later scan finds equal what was verified before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from syncline.messages import Batch
from syncline.model import Outcome, Result
from syncline.store.state import State

_CHANGED: Final = (Outcome.MOVED, Outcome.REMOVED)
_MET_AGAIN: Final = (Outcome.CONFLICT, Outcome.FAILED)
_DROPPED_IF_JOINED: Final = (Outcome.SKIPPED, Outcome.LEFT_OUT, Outcome.EXTRA, Outcome.CANCELLED)
"""Outcomes of items that nothing was done about: the scan that the run began with counts them."""
_KEPT: Final = 7 * 24 * 3600.0
"""Seconds for which a result stays taken: longer than a run."""
_AT_ONCE: Final = 16


def first_results(state: State, batch: Batch, results: Sequence[Result]) -> list[Result]:
    """Return the results of a batch without those that another scan of its run has told."""
    if batch.plan:
        return list(results)
    if batch.scan is not None:
        results = [each for each in results if each.outcome not in _DROPPED_IF_JOINED]
    changed = any(each.outcome in _CHANGED for each in results)
    joined = changed and (batch.scan is not None or state.is_joined(batch.sync, batch.run))
    taken = (*_MET_AGAIN, *_CHANGED) if joined else _MET_AGAIN
    scan = batch.scan or batch.run

    def is_ours(result: Result) -> bool:
        digest = hashlib.blake2b("\0".join(_key(result)).encode(errors="surrogatepass"), digest_size=16).hexdigest()
        return state.facts.take(f"told@{batch.run}@{digest}", scan, _KEPT)

    asked = [each for each in results if each.outcome in taken]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="take") as pool:
        ours = pool.map(is_ours, asked)
        return [each for each in results if each.outcome not in taken or next(ours)]


def _key(result: Result) -> tuple[str, ...]:
    return (result.group, result.name, result.outcome.value, result.code or "", result.source or "")
