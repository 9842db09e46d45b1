"""Invariants of every kind: leases, runs, known failures and dead letters; and the texts to search for secrets."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from boto3.dynamodb.types import Binary

from syncline.messages import Batch, DeadLetter, Start, decode
from syncline.model import Lags, Outcome, Result, Run, RunStatus, Trigger
from syncline.store.health import Health
from syncline.store.leases import Lease, _key
from syncline.store.state import State, first_batch
from tests.simulation.expressions import Item
from tests.simulation.machine import Process, current_process
from tests.simulation.queues import ModelSqs
from tests.simulation.table import ModelTable

_IN_FLIGHT: Final = 20.0
"""Maximum seconds for which a request is under way after its lease has ended."""
_SKEW: Final = 10.0
"""Maximum difference between the clocks of two processes, in seconds."""


@dataclass(slots=True)
class _Holding:
    """A lease held by a process: the call that took it, and the time at which it ends or ended."""

    call: str
    process: Process
    end: float


class LeaseMonitor:
    """Checks from the rows of the table that each lease has one holder, and that only holders write.

    ``violations`` are collected when they occur.
    """

    def __init__(self, table: ModelTable) -> None:
        self._now: dict[str, _Holding] = {}
        self._ended: dict[tuple[str, Process], float] = {}
        self._scans: dict[str, dict[Process, str]] = {}
        self.violations: list[str] = []
        table.on_store = self._stored

    def _stored(self, key: tuple[str, str], item: Item) -> None:
        """Record that a process has taken, renewed or released a lease."""
        process = current_process()
        if not key[0].startswith("LEASE#") or process is None:
            return
        now, call = process.machine.now, str(item["call"])
        held = self._now.get(key[0])
        if held is None or held.call != call:
            if held is not None:
                if held.end > now + _SKEW:
                    left = held.end - now
                    self.violations.append(
                        f"{key[0]} was taken {left:.0f} s before the lease of {held.process.name} ends"
                    )
                self._ended[key[0], held.process] = min(now, held.end)
            held = self._now[key[0]] = _Holding(call, process, now)
        held.end = float(item["until"]) or now

    @contextmanager
    def scanning(self, lease: Lease, origin: str) -> Iterator[None]:
        """Check, while the block runs, that no other process with a valid lease works on the same scan."""
        process, key = current_process(), _key(lease.reference, lease.part)[0]
        assert process is not None
        scanning = self._scans.setdefault(origin, {})
        for other, reference in scanning.items():
            held = self._now.get(reference)
            if other.dead or held is None or held.process is not other:
                continue
            if held.end > process.machine.now + _SKEW:
                self.violations.append(f"{process.name} and {other.name} work on the scan {origin}")
        scanning[process] = key
        try:
            yield
        finally:
            scanning.pop(process, None)

    def check_writer(self, process: Process, reference: str, now: float, what: str) -> None:
        """Check that a process that writes to a reference holds its lease, or held it a moment ago."""
        key = _key(reference, "LEASE")[0]
        held = self._now.get(key)
        if held is None:
            self.violations.append(f"{what} without a lease on {reference}")
        elif held.process is process:
            if now > held.end + _IN_FLIGHT:
                self.violations.append(f"{what} by {process.name}, whose lease on {reference} has ended")
        elif now > self._ended.get((key, process), 0.0) + _IN_FLIGHT:
            self.violations.append(f"{what} by {process.name}, while {held.process.name} holds {reference}")


def dead_letters(sqs: ModelSqs) -> dict[tuple[str, str], list[DeadLetter]]:
    """Return the valid dead letters by sync and item, ``group:name``."""
    found: dict[tuple[str, str], list[DeadLetter]] = {}
    for queue, message in sqs.messages():
        if "-dead" in queue.name:
            dead = decode(message.body)
            if isinstance(dead, DeadLetter):
                found.setdefault((dead.batch.sync, ":".join(dead.key)), []).append(dead)
    return found


def missing_dead_letters(run: Run, results: list[Result], sqs: ModelSqs) -> Iterator[str]:
    """Yield the failures of a run without a code, a reason or a dead letter."""
    letters = dead_letters(sqs)
    for each in results:
        if each.outcome not in (Outcome.FAILED, Outcome.KNOWN):
            continue
        if not each.code or not each.reason:
            yield f"{each.group}:{each.name} failed without a code or a reason"
        if (run.sync, f"{each.group}:{each.name}") not in letters:
            yield f"{each.group}:{each.name} failed with {each.code} and has no dead letter"


def unfinished_work(run: Run, state: State, sqs: ModelSqs) -> Iterator[str]:
    """Yield the reason why a run should not have ended: it has open work, or is lost without a cause.

    A run may be lost if its command was killed before it sent the first message, or if a message became a dead letter:
    one of the run, or the start message from outside, which names no run.
    """
    if run.status is RunStatus.DONE and not state.progress(run.id).settled:
        yield "it is done, but has open work"
    first = state.batch_record(run.id, first_batch(run).id)
    # A command that cannot send its message ends the first batch, and may be killed before it ends the run.
    given_up = first is not None and run.trigger is Trigger.MANUAL and not first.results and not first.outgoing
    if run.status is RunStatus.LOST and first is not None and not given_up:
        messages = [decode(each.body) for queue, each in sqs.messages() if "-dead" in queue.name]
        started = any(isinstance(each, Start) and each.run is None and each.sync == run.sync for each in messages)
        if not started and not any(isinstance(each, Batch | Start) and each.run == run.id for each in messages):
            yield "it was lost after its first batch had ended"


class KnownFailures:
    """Checks the counts of known failures against the results of the runs of a sync, oldest first.

    The real order of runs may differ from that of their times, because clocks differ.
    """

    def __init__(self, runs: list[tuple[Run, list[Result]]]) -> None:
        self._failed = [(run.started, _failing(results)) for run, results in runs]
        self._failing: set[tuple[str, str]] = set()
        self._solved: list[tuple[float, set[tuple[str, str]]]] = []
        self._latest = 0.0

    def exceeded(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield an error if a run counts more known failures than this and earlier runs can have left."""
        failing = _failing(results)
        verified = {(e.group, e.name) for e in results if e.outcome is Outcome.MOVED and e.code is None}
        # A failure that another run solved may still have been open for a run that started earlier by its clock.
        lately = [solved for started, solved in self._solved if started >= run.started - _SKEW]
        if not run.plan and run.started > self._latest + _SKEW:  # else an earlier run may have written later
            self._solved.append((run.started, self._failing & (verified - failing)))
            self._failing -= verified - failing
        self._failing |= failing
        self._latest = max(self._latest, run.ended or run.started)
        meanwhile = (failed for started, failed in self._failed if run.started < started <= run.started + _SKEW)
        possible = self._failing.union(*meanwhile, *lately)
        if not run.plan and run.counts.known > len(possible):
            yield f"{run.counts.known} failures are known, but only {len(possible)} items have an unsolved failure"


def _failing(results: list[Result]) -> set[tuple[str, str]]:
    return {(each.group, each.name) for each in results if each.outcome in (Outcome.FAILED, Outcome.KNOWN)}


def wrong_lags(run: Run, results: list[Result]) -> Iterator[str]:
    """Yield the errors in the lags of an ended run: one for each item moved or removed, and none for the others."""
    longest = (run.ended or run.started) - run.lag_start + 2 * _SKEW
    for each in results:
        changed = each.outcome in (Outcome.MOVED, Outcome.REMOVED)
        if changed != (each.lag is not None):
            yield f"{each.group}:{each.name} is {each.outcome} with a lag of {each.lag} s"
        elif each.lag is not None and not 0 <= each.lag <= max(0.0, longest):
            yield f"{each.group}:{each.name} has a lag of {each.lag} s, but no difference is older than {longest:.0f} s"
    if run.lags != Lags.of(results):
        yield f"its lags are counted as {run.lags}, but its results have {Lags.of(results)}"


def wrong_health(run: Run, health: Health, lags: Lags, runs: list[Run]) -> Iterator[str]:
    """Yield the errors in the health of a sync whose latest run was a complete scan, and in the lags of all its runs."""
    counts = run.counts
    verified = not (counts.failed or counts.known or counts.conflict or counts.untrusted)
    if health.in_sync is not (verified and not counts.acknowledged):
        yield f"the sync counts as {'' if health.in_sync else 'not '}in sync: {counts}"
    if (health.verified == run.started) is not verified:
        yield f"the sync counts as verified at {health.verified}, and the run began at {run.started}: {counts}"
    if health.since > (run.ended or 0.0) + _SKEW:
        yield f"the health counts since {health.since}, after the run"
    total = Lags.total(each.lags for each in runs if not each.plan)
    if lags != total:
        yield f"the totals have the lags {lags}, and the runs {total}"


def written_texts(table: ModelTable, sqs: ModelSqs, printed: str) -> Iterator[tuple[str, str]]:
    """Yield everything that the product has written, as pairs of place and text: rows, messages and printed lines."""
    for item in table.items():
        yield f"the row {item['pk']} {item['sk']}", json.dumps(item, default=_readable, ensure_ascii=False)
    for body, queue in sqs.sent.items():
        yield f"a message of {queue}", body
    for line in printed.splitlines():
        yield f"the output: {line[:200]}", line


def _readable(value: Any) -> Any:
    """Return a value of the table as text, decompressed if necessary."""
    if isinstance(value, Binary | bytes):
        content = bytes(cast("bytes", value))
        try:
            return zlib.decompress(content).decode(errors="replace")
        except zlib.error:
            return content.decode(errors="replace")
    return str(value)
