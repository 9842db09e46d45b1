"""Known failures in a run: told apart from new ones, written down, and counted at the run's end.

A failure is new in the run in which it first has its code and its source. It is known in all later runs in which it
still has them, whether they meet it or not, until the item is verified or a complete full scan meets it no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from syncline.errors import CodeName, stored_code
from syncline.messages import Batch, Dead
from syncline.model import Counts, Item, Outcome, Result, Run, RunStatus, Scope
from syncline.store.failures import LETTER_KEPT, Failures, Key, KnownFailure
from syncline.store.state import BatchRecord, State

WHOLE: Final = "*"
"""Stands for a group or a name in the result of a scan that failed as a whole."""
_FAILING: Final = (Outcome.FAILED, Outcome.KNOWN)
_VERIFIED: Final = (Outcome.MOVED, Outcome.REMOVED, Outcome.SKIPPED)
_EARLIER: Final = ""
"""Stands for a run before any other."""
_LETTER_OLD: Final = LETTER_KEPT - 24 * 3600
_AT_ONCE: Final = 500


def separate_known(
    failures: Failures, batch: Batch, results: Sequence[Result], dead: Sequence[Dead], now: float
) -> tuple[tuple[Result, ...], tuple[Dead, ...]]:
    """Return a batch's results, with those that failed before marked as known, and the dead letters that are needed.

    A failure that the same run has met before is left out: it is told once, by the scan that met it first.
    An item has one letter for as long as it fails: one more is written only when the first is about to expire. An item
    that is retried has one, also if its failure is not known any more.
    """
    failed = {_key(each) for each in results if each.outcome is Outcome.FAILED}
    if not failed:
        return tuple(results), ()
    found = failures.find(batch.sync, failed)
    letters, retried = {each.key: each for each in dead}, failures.asked(batch.sync, batch.run)
    marked: list[Result] = []
    needed: dict[Key, Dead] = {}
    for each in results:
        was = found.get(_key(each))
        if each.outcome is not Outcome.FAILED:
            marked.append(each)
            continue
        known = was is not None and was.is_like(each)
        if known and was is not None and was.seen == batch.run:
            continue
        marked.append(replace(each, outcome=Outcome.KNOWN) if known else each)
        lacks_letter = _key(each) not in retried if was is None else now - was.buried > _LETTER_OLD
        if lacks_letter and not batch.plan:
            needed[_key(each)] = letters.get(_key(each)) or _letter(batch, each)
    return tuple(marked), tuple(needed.values())


def undone(
    failures: Failures, batch: Batch, record: BatchRecord, verified_since: Callable[[set[Key]], set[Key]]
) -> BatchRecord:
    """Return the record of a batch that had ended before, with those failures and letters that may not be written yet.

    A failure is noted after its letter. Where later runs have deleted records, or verified the item, it is not to be
    noted any more; ``verified_since`` returns the items that they have.
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
    """Return the items that runs after a batch's have verified, or, as full scans, have not met as failing."""
    found: set[Key] = set()
    for run in state.runs(batch.sync):
        if run.id > batch.run and not run.plan:
            if run.scope.everything and run.status is RunStatus.DONE:
                return keys
            found |= {_key(each) for each in state.results(run.id) if is_verified(each)}
    return found


def remember(failures: Failures, batch: Batch, record: BatchRecord, now: float, *, again: bool = False) -> None:
    """Write down which items of an ended batch fail, and which were verified; ``again`` if that may have been done.

    Then the record is that of :func:`undone`, and what later runs have written stays.
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
    """Return True if the target is known to have what the source has."""
    return result.outcome in _VERIFIED and result.code is None


def settled(failures: Failures, run: Run, results: Iterable[Result]) -> Counts:
    """Return a run's counts as its end shows them, with the known failures of the sync.

    A plan counts only those that it has met, by its results. A full scan has met everything that still fails: what it
    has not met is equal by now, excluded, or gone, unless it belongs to what the scan could not see.
    """
    counts = run.counts
    if run.plan:
        met = [_key(each) for each in results if each.outcome is Outcome.KNOWN] if counts.known else []
        accepted = sum(each.acknowledged for each in failures.find(run.sync, met).values())
        return replace(counts, known=counts.known - accepted, acknowledged=accepted)
    if not (counts.known or counts.failed or failures.any(run.sync)):
        return counts
    writes = failures.writes(run.sync)
    unseen = _unseen_by(failures, run)
    # Whoever ended the batch of a verified item may not have noted yet that its failure is solved.
    verified = {_key(each) for each in results if is_verified(each)} if unseen.everything else set()
    known = acknowledged = left = 0
    gone: list[Key] = []
    for failure in failures.all(run.sync):
        if failure.seen != run.id and not unseen.has(failure.key):
            gone.append(failure.key)
            continue
        left += 1
        if failure.seen == run.id or failure.key not in verified:
            known += failure.run != run.id and not failure.acknowledged
            acknowledged += failure.acknowledged
    for at in range(0, len(gone), _AT_ONCE):
        failures.forget(run.sync, gone[at : at + _AT_ONCE], run.id)
    if not left:
        failures.clear(run.sync, writes)
    return replace(counts, known=known, acknowledged=acknowledged)


def _unseen_by(failures: Failures, run: Run) -> _Unseen:
    """Return the parts of the source that a run has not seen: everything, unless it was a full scan that ended."""
    unseen = _Unseen()
    unseen.everything = not run.scope.everything or run.status is not RunStatus.RUNNING
    if not unseen.everything:
        for failure in failures.all(run.sync):
            if failure.seen == run.id:
                unseen.add(failure.key, failure.code)
    return unseen


def answered(failures: Failures, run: Run, results: Iterable[Result]) -> list[Result]:
    """Note which dead letters of a retry may go, and return a failure for each whose item the run has not met.

    A letter goes when its item was verified. Of a group that could not be scanned, that is when it was.
    """
    asked = failures.asked(run.sync, run.id)
    if not asked:
        return []
    met, verified, failing, unseen = set[Key](), set[Key](), set[Key](), _Unseen()
    for each in results:
        key = _key(each)
        met.add(key)
        if each.outcome in _FAILING:
            failing.add(key)
            unseen.add(key, each.code)
        elif is_verified(each):
            verified.add(key)
    absent = {key for key in asked - met if not unseen.has(key)}
    found = failures.find(run.sync, asked)
    # What is not an item: a part of the source, or an odd entry of a listing. It is in order if the scan has not met it.
    odd = {key for key in absent if key in found and found[key].code == "ENTRY_INVALID"}
    verified |= {key for key in asked if key[1] == WHOLE} | {key for key in absent if key[0] == WHOLE} | odd
    verified = (verified & asked) - failing
    found = {key: failure for key, failure in found.items() if key in verified}
    nothing = [KnownFailure(*key, stored_code(""), None, "", run.id, run.id, 0.0) for key in verified - found.keys()]
    failures.solve(run.sync, [*found.values(), *nothing], run.id)
    gone = absent - verified
    what = (
        "the scan did not find it: its source is gone, or the sync does not select it any more; its dead letter stays"
    )
    return [Result(*key, Outcome.FAILED, code="ITEM_GONE", reason=what) for key in sorted(gone)]


def _key(result: Result) -> Key:
    return (result.group, result.name)


def _letter(batch: Batch, result: Result) -> Dead:
    """Return the dead letter of an item that a scan knew to fail without trying."""
    item = Item(result.group, result.name, result.source, result.target)
    work = replace(batch, items=(item,), scope=Scope.of((result.group,)))
    return Dead(work, result.code or "INTERNAL", result.reason or "", _key(result))


def _is_met(failure: KnownFailure, run: str) -> bool:
    """Return True if a run, or a later one, has written a record."""
    return max(failure.run, failure.seen, failure.solved or "") >= run


def _met(result: Result, was: KnownFailure | None, run: str, now: float, has_letter: bool) -> KnownFailure:  # noqa: FBT001
    """Return the record of an item that has failed in a run."""
    buried = now if was is None or has_letter else was.buried
    if was is not None and was.is_like(result):
        return replace(was, seen=run, buried=buried, source=result.source or was.source)
    first = run if result.outcome is Outcome.FAILED else _EARLIER
    return replace(KnownFailure.of(result, first, buried), seen=run)


class _Unseen:
    """The parts of a source that a scan could not see, by the failures that say so. `everything` may be among them."""

    def __init__(self) -> None:
        self.everything = False
        self._groups: set[str] = set()

    def add(self, key: Key, code: CodeName | None) -> None:
        """Take in a failure. A scan whose removals are capped has seen everything."""
        group, name = key
        if name == WHOLE and code != "REMOVALS_CAPPED":
            self._groups.add(group)
            self.everything = self.everything or group == WHOLE

    def has(self, key: Key) -> bool:
        """Return True if an item belongs to one of the parts: to its group, or to a folder that its name lies in."""
        group, name = key
        if self.everything or group in self._groups:
            return True
        return any(part.endswith("/") and f"/{part}" in f"/{name}" for part in self._groups)
