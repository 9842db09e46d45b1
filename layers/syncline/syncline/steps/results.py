"""Results of a batch as they are recorded: one for each item of a run, with known failures apart from new ones.

A scan that joins a run finds again what the run has in flight, and sends it on. Its transfer finds the item equal, but so
does a message that is delivered again after its function died; only the results distinguish the two. So each result is taken
by the scan that its work came from, the same however often the work is tried, and results of other scans are dropped.
Conflicts and failures are taken whether a scan has joined the run or not, because one that joins later meets them again.
Moves and removals are taken only in a run that a scan has joined: a later scan finds equal what was verified before.

A failure is new in the run in which it first has its code and its source. It is known in all later runs in which it
still has them, whether they meet it or not, until the item is verified or a complete full scan no longer meets it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from syncline.errors import CodeName, stored_code
from syncline.messages import Batch, DeadLetter
from syncline.model import Counts, Item, Outcome, Result, Run, RunStatus, Scope
from syncline.store.batches import BatchRecord
from syncline.store.failures import LETTER_KEPT, Failures, Key, KnownFailure
from syncline.store.state import State

ALL: Final = "*"
"""The group or the name in the result of a scan that failed completely."""
_FAILING: Final = (Outcome.FAILED, Outcome.KNOWN)
_VERIFIED: Final = (Outcome.MOVED, Outcome.REMOVED, Outcome.EQUAL)
_CHANGED: Final = (Outcome.MOVED, Outcome.REMOVED)
_MET_AGAIN: Final = (Outcome.CONFLICT, Outcome.UNTRUSTED, Outcome.FAILED)
_NO_ITEMS: Final[frozenset[CodeName]] = frozenset({"ENTRY_INVALID", "RENAME_REFUSED"})
"""Codes of failures of entries of a listing."""
_DROPPED_IF_JOINED: Final = (Outcome.EQUAL, Outcome.LEFT_OUT, Outcome.EXTRA, Outcome.CANCELLED)
"""Outcomes of items that needed no action: the scan that the run began with counts them."""
_TAKEN_FOR: Final = 7 * 24 * 3600.0
"""Seconds for which a result stays taken: longer than a run."""
_TAKEN_AT_ONCE: Final = 16
_EARLIER: Final = ""
"""The ID of a run before all others."""
_LETTER_OLD: Final = LETTER_KEPT - 24 * 3600


def first_results(state: State, batch: Batch, results: Sequence[Result]) -> list[Result]:
    """Return the results of a batch without those that another scan of its run has taken."""
    if batch.plan:
        return list(results)
    if batch.scan is not None:
        results = [each for each in results if each.outcome not in _DROPPED_IF_JOINED]
    changed = any(each.outcome in _CHANGED for each in results)
    joined = changed and (batch.scan is not None or state.is_joined(batch.sync, batch.run))
    taken = (*_MET_AGAIN, *_CHANGED) if joined else _MET_AGAIN
    scan = batch.scan or batch.run

    def take(result: Result) -> bool:
        identity = (*_key(result), result.outcome.value, result.code or "", result.source or "")
        digest = hashlib.blake2b("\0".join(identity).encode(errors="surrogatepass"), digest_size=16).hexdigest()
        return state.facts.take(f"told@{batch.run}@{digest}", scan, _TAKEN_FOR)

    asked = [each for each in results if each.outcome in taken]
    with ThreadPoolExecutor(_TAKEN_AT_ONCE, thread_name_prefix="take") as pool:
        ours = pool.map(take, asked)
        return [each for each in results if each.outcome not in taken or next(ours)]


def mark_known(
    failures: Failures, batch: Batch, results: Sequence[Result], dead: Sequence[DeadLetter], now: float
) -> tuple[tuple[Result, ...], tuple[DeadLetter, ...]]:
    """Return a batch's results, with those that failed before marked as known, and the dead letters to be written.

    A failure that the same run has met before is dropped: only the scan that met it first reports it. An item has one
    letter for as long as it fails; another one is written only when the first is about to expire. An item that is
    retried has a letter even if its failure is no longer known.
    """
    failed = {_key(each) for each in results if each.outcome is Outcome.FAILED}
    if not failed:
        return tuple(results), ()
    found = failures.find(batch.sync, failed)
    letters, retried = {each.key: each for each in dead}, failures.asked(batch.sync, batch.run)
    marked: list[Result] = []
    needed: dict[Key, DeadLetter] = {}
    for each in results:
        if each.outcome is not Outcome.FAILED:
            marked.append(each)
            continue
        previous = found.get(_key(each))
        known = previous is not None and previous.is_like(each)
        if known and previous is not None and previous.seen == batch.run:
            continue
        marked.append(replace(each, outcome=Outcome.KNOWN) if known else each)
        lacks_letter = _key(each) not in retried if previous is None else now - previous.buried > _LETTER_OLD
        if lacks_letter and not batch.plan:
            needed[_key(each)] = letters.get(_key(each)) or _letter(batch, each)
    return tuple(marked), tuple(needed.values())


def unwritten(
    failures: Failures, batch: Batch, record: BatchRecord, verified_since: Callable[[set[Key]], set[Key]]
) -> BatchRecord:
    """Return the record of a batch that had ended before, with the failures and letters that may not be written yet.

    A failure is noted after its letter. It must not be noted if later runs have deleted records or verified the item;
    `verified_since` returns those of the given items that later runs have verified.
    """
    failing = {_key(each) for each in record.results if each.outcome in _FAILING}
    if not failing:
        return record
    found = failures.find(batch.sync, failing)
    left = {key for key in failing if key not in found or not _is_met(found[key], batch.run)}
    if absent := left - found.keys():
        left -= absent if failures.forgotten(batch.sync) > batch.run else verified_since(absent)
    results = tuple(each for each in record.results if each.outcome not in _FAILING or _key(each) in left)
    return replace(record, results=results, dead=tuple(each for each in record.dead if each.key in left))


def verified_since(state: State, batch: Batch, keys: set[Key]) -> set[Key]:
    """Return those of `keys` that later runs than a batch's have verified: all of them after a full scan."""
    found: set[Key] = set()
    for run in state.runs(batch.sync):
        if run.id > batch.run and not run.plan:
            if run.scope.everything and run.status is RunStatus.DONE:
                return keys
            found |= {_key(each) for each in state.results(run.id) if is_verified(each)}
    return found


def record_failures(failures: Failures, batch: Batch, record: BatchRecord, now: float, *, again: bool = False) -> None:
    """Record the items of an ended batch that fail, and those that were verified.

    With `again` that may have been done before: the record is that of :func:`unwritten`, and records of later runs stay.
    """
    if batch.plan:
        return
    failing = {_key(each): each for each in record.results if each.outcome in _FAILING}
    if failing:
        found, letters = failures.find(batch.sync, failing), {each.key for each in record.dead}
        failures.write(
            batch.sync, [_met(each, found.get(key), batch.run, now, key in letters) for key, each in failing.items()]
        )
    verified = {_key(each) for each in record.results if is_verified(each)}
    excluded = {_key(each) for each in record.results if each.outcome is Outcome.LEFT_OUT}
    if (verified or excluded) and failures.any(batch.sync):
        found = failures.find(batch.sync, verified | excluded)
        found = {key: f for key, f in found.items() if f.solved is None and not (again and _is_met(f, batch.run))}
        failures.solve(batch.sync, [f for key, f in found.items() if key in verified], batch.run)
        failures.forget(batch.sync, [key for key in found if key in excluded], batch.run)


def is_verified(result: Result) -> bool:
    """Return True if the target is known to equal the source."""
    return result.outcome in _VERIFIED and result.code is None


def final_counts(failures: Failures, run: Run, results: Iterable[Result]) -> Counts:
    """Return the counts that a run ends with, including the known failures of the sync.

    A plan counts only those that it has met, by its results. A full scan has met everything that still fails: an item
    that it has not met is now equal, left out, or gone, unless it is in a part of the source that the scan could not
    read.
    """
    counts = run.counts
    if run.plan:
        met = [_key(each) for each in results if each.outcome is Outcome.KNOWN] if counts.known else []
        accepted = sum(each.acknowledged for each in failures.find(run.sync, met).values())
        return replace(counts, known=counts.known - accepted, acknowledged=accepted)
    if not (counts.known or counts.failed or failures.any(run.sync)):
        return counts
    writes = failures.writes(run.sync)
    unread = _unread_by(failures, run)
    # The function that ended the batch of a verified item may not have noted yet that its failure is solved.
    verified = {_key(each) for each in results if is_verified(each)} if ALL in unread else set()
    known = acknowledged = left = 0
    gone: list[Key] = []
    for failure in failures.all(run.sync):
        if failure.seen != run.id and not _is_unread(failure.key, unread):
            gone.append(failure.key)
            continue
        left += 1
        if failure.seen == run.id or failure.key not in verified:
            known += failure.run != run.id and not failure.acknowledged
            acknowledged += failure.acknowledged
    failures.forget(run.sync, gone, run.id)
    if not left:
        failures.clear(run.sync, writes)
    return replace(counts, known=known, acknowledged=acknowledged)


def _unread_by(failures: Failures, run: Run) -> set[str]:
    """Return the parts of the source that a run has not read: everything, unless it was a full scan that ended."""
    if not run.scope.everything or run.status is not RunStatus.RUNNING:
        return {ALL}
    seen = [failure for failure in failures.all(run.sync) if failure.seen == run.id]
    return set().union(*(_unread_part(failure.key, failure.code) for failure in seen))


def answer_retry(failures: Failures, run: Run, results: Iterable[Result]) -> list[Result]:
    """Note which dead letters of a retry can be deleted, and return a failure for each item that the run has not met.

    A letter is deleted when its item was verified; a letter of a group that could not be scanned, when it was scanned.
    """
    asked = failures.asked(run.sync, run.id)
    if not asked:
        return []
    met, verified, failing, unread = set[Key](), set[Key](), set[Key](), set[str]()
    for each in results:
        key = _key(each)
        met.add(key)
        if each.outcome in _FAILING:
            failing.add(key)
            unread |= _unread_part(key, each.code)
        elif is_verified(each):
            verified.add(key)
    absent = {key for key in asked - met if not _is_unread(key, unread)}
    found = failures.find(run.sync, asked)
    # Keys that are no items, a part of the source or an entry of a listing that cannot be used, are solved if the scan has not met them.
    invalid = {key for key in absent if key in found and found[key].code in _NO_ITEMS}
    verified |= {key for key in asked if key[1] == ALL} | {key for key in absent if key[0] == ALL} | invalid
    verified = (verified & asked) - failing
    found = {key: failure for key, failure in found.items() if key in verified}
    unrecorded = [KnownFailure(*key, stored_code(""), None, "", run.id, run.id, 0.0) for key in verified - found.keys()]
    failures.solve(run.sync, [*found.values(), *unrecorded], run.id)
    why = "the scan did not find it: its source is gone, or the sync no longer selects it; its dead letter stays"
    return [Result(*key, Outcome.FAILED, code="ITEM_GONE", reason=why) for key in sorted(absent - verified)]


def _key(result: Result) -> Key:
    return (result.group, result.name)


def _letter(batch: Batch, result: Result) -> DeadLetter:
    """Return the dead letter of an item that failed without a letter from the step."""
    item = Item(result.group, result.name, result.source, result.target)
    work = replace(batch, items=(item,), scope=Scope.of((result.group,)))
    return DeadLetter(work, result.code or "INTERNAL", result.reason or "", _key(result))


def _is_met(failure: KnownFailure, run: str) -> bool:
    """Return True if the run or a later one has written the record."""
    return max(failure.run, failure.seen, failure.solved or "") >= run


def _met(result: Result, previous: KnownFailure | None, run: str, now: float, has_letter: bool) -> KnownFailure:  # noqa: FBT001
    """Return the record of an item that has failed in a run."""
    buried = now if previous is None or has_letter else previous.buried
    if previous is not None and previous.is_like(result):
        return replace(previous, seen=run, buried=buried, source=result.source or previous.source)
    first = run if result.outcome is Outcome.FAILED else _EARLIER
    return replace(KnownFailure.of(result, first, buried), seen=run)


def _unread_part(key: Key, code: CodeName | None) -> set[str]:
    """Return the part of the source that a scan could not read, according to one of its failures; empty if none.

    A part is a group, a folder, or :data:`ALL`. A scan whose removals are capped has read everything.
    """
    group, name = key
    return {group} if name == ALL and code != "REMOVALS_CAPPED" else set()


def _is_unread(key: Key, parts: set[str]) -> bool:
    """Return True if an item is in one of the parts: its group, or a folder of its name."""
    group, name = key
    if ALL in parts or group in parts:
        return True
    return any(part.endswith("/") and f"/{part}" in f"/{name}" for part in parts)
