"""One result for each item of a run that further scans have joined.

A scan that joins a run finds again what the run has in flight, and sends it on. Its transfer finds the item equal, but so
does one that is delivered again after its function died; only the results tell them apart. So each result is taken by
the scan that its work came from, the same however often the work is tried, and what another scan has taken is dropped.

A run that nobody has joined takes nothing: whoever joins it later finds equal what was verified before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from syncline.messages import Batch
from syncline.model import Outcome, Result
from syncline.state import State

_TAKEN_BY_ONE: Final = (Outcome.MOVED, Outcome.REMOVED, Outcome.CONFLICT, Outcome.FAILED)
_DROPPED_IF_JOINED: Final = (Outcome.SKIPPED, Outcome.LEFT_OUT, Outcome.EXTRA, Outcome.CANCELLED)
"""Outcomes of items that nothing was done about: the scan that the run began with counts them."""
_MET_AGAIN: Final = (Outcome.CONFLICT, Outcome.FAILED)
"""Outcomes that a scan has again for an item that had it before. An item that was moved or removed is equal then."""
_KEPT: Final = 7 * 24 * 3600.0
"""Seconds for which a result stays taken: longer than a run."""
_AT_ONCE: Final = 16


def told_once(state: State, batch: Batch, results: Sequence[Result]) -> list[Result]:
    """Return the results of a batch without those that another scan of its run has told."""
    if batch.plan or not results or (batch.scan is None and not state.is_joined(batch.sync, batch.run)):
        return list(results)
    if batch.scan is not None:
        results = [each for each in results if each.outcome not in _DROPPED_IF_JOINED]
    ours = _taken(state, batch, results)
    if batch.scan is None or not any(each.outcome in _MET_AGAIN for each in ours):
        return ours
    counts = state.progress(batch.run).counts
    if not counts.conflict and not counts.failed:
        return ours
    # Before a scan had joined the run, nothing was taken.
    before = {_key(each) for each in state.results(batch.run) if each.outcome in _MET_AGAIN}
    return [each for each in ours if _key(each) not in before]


def _taken(state: State, batch: Batch, results: Iterable[Result]) -> list[Result]:
    """Return the results that the batch's scan has taken, now or in an earlier try."""
    scan = batch.scan or batch.run

    def ours(result: Result) -> Result | None:
        if result.outcome not in _TAKEN_BY_ONE:
            return result
        digest = hashlib.blake2b("\0".join(_key(result)).encode(errors="surrogatepass"), digest_size=16).hexdigest()
        return result if state.facts.take(f"told@{batch.run}@{digest}", scan, _KEPT) else None

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="take") as pool:
        return [each for each in pool.map(ours, results) if each is not None]


def _key(result: Result) -> tuple[str, ...]:
    return (result.group, result.name, result.outcome.value, result.code or "", result.source or "")
