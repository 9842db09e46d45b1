"""What must be true of every kind: leases, runs, dead letters and secrets, whatever is synced."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from boto3.dynamodb.types import Binary

from syncline.messages import Batch, DeadLetter, Start, decode
from syncline.model import Outcome, Result, Run, RunStatus, Trigger
from syncline.store.leases import Lease, _key
from syncline.store.state import State, first_batch
from tests.simulation.expressions import Item
from tests.simulation.machine import Process, writer
from tests.simulation.queues import ModelSqs
from tests.simulation.table import ModelTable

_IN_FLIGHT: Final = 20.0
"""Seconds for which a request may be under way after the lease that it was made under has ended."""
_SKEW: Final = 10.0
"""Seconds by which the clocks of two processes differ at most."""


@dataclass(slots=True)
class _Holding:
    """A lease as one process holds it: the call that took it, and when it ends or ended."""

    call: str
    process: Process
    end: float


class Leases:
    """Watches who holds which lease, by the table's own records.

    ``violations`` are collected at the moment at which they happen.
    """

    def __init__(self, table: ModelTable) -> None:
        self._now: dict[str, _Holding] = {}
        self._ended: dict[tuple[str, Process], float] = {}
        self._scans: dict[str, dict[Process, str]] = {}
        self.violations: list[str] = []
        table.on_store = self._stored

    def _stored(self, key: tuple[str, str], item: Item) -> None:
        """Note that a process has taken, renewed or given back a lease."""
        process = writer()
        if not key[0].startswith("LEASE#") or process is None:
            return
        now, call = process.machine.now, str(item["call"])
        held = self._now.get(key[0])
        if held is None or held.call != call:
            if held is not None:
                if held.end > now + _SKEW:
                    left = held.end - now
                    self.violations.append(f"{key[0]} was taken {left:.0f} s before {held.process.name} has to end")
                self._ended[key[0], held.process] = min(now, held.end)
            held = self._now[key[0]] = _Holding(call, process, now)
        held.end = float(item["until"]) or now

    @contextmanager
    def scanning(self, lease: Lease, origin: str) -> Iterator[None]:
        """Judge a scan while the block carries it out: no other process may hold a lease and work on it meanwhile."""
        process, key = writer(), _key(lease.reference, lease.part)[0]
        assert process is not None
        at_work = self._scans.setdefault(origin, {})
        for other, reference in at_work.items():
            held = self._now.get(reference)
            if other.dead or held is None or held.process is not other:
                continue
            if held.end > process.machine.now + _SKEW:
                self.violations.append(f"{process.name} and {other.name} work on the scan {origin}")
        at_work[process] = key
        try:
            yield
        finally:
            at_work.pop(process, None)

    def check_writer(self, process: Process, reference: str, now: float, what: str) -> None:
        """Judge a write to a reference by a process: it must hold the lease, or have held it a moment ago."""
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
    """Return the readable dead letters by sync and item, ``group:name``."""
    found: dict[tuple[str, str], list[DeadLetter]] = {}
    for queue, message in sqs.messages():
        if "-dead" in queue.name:
            dead = decode(message.body)
            if isinstance(dead, DeadLetter):
                found.setdefault((dead.batch.sync, ":".join(dead.key)), []).append(dead)
    return found


def unreported(run: Run, results: list[Result], sqs: ModelSqs) -> Iterator[str]:
    """Yield failures of a run that have no dead letter with their reason."""
    letters = dead_letters(sqs)
    for each in results:
        if each.outcome not in (Outcome.FAILED, Outcome.KNOWN):
            continue
        if not each.code or not each.reason:
            yield f"{each.group}:{each.name} failed without a code or a reason"
        if (run.sync, f"{each.group}:{each.name}") not in letters:
            yield f"{each.group}:{each.name} failed with {each.code} and has no dead letter"


def unended(run: Run, state: State, sqs: ModelSqs) -> Iterator[str]:
    """Yield why a run that is over may not be: work of it is left, or it was lost after its first batch had ended.

    A run is lost if whoever began it was cut off before its first message, or a message was received too often: one of
    its own, or one from outside that began it, which names no run.
    """
    if run.status is RunStatus.DONE and not state.progress(run.id).settled:
        yield "it is done, and work of it was announced that has not ended"
    first = state.batch_record(run.id, first_batch(run).id)
    # A command that cannot send its message ends the first batch, and may be cut off before it ends the run.
    given_up = first is not None and run.trigger is Trigger.MANUAL and not first.results and not first.outgoing
    if run.status is RunStatus.LOST and first is not None and not given_up:
        messages = [decode(each.body) for queue, each in sqs.messages() if "-dead" in queue.name]
        begun = any(isinstance(each, Start) and each.run is None and each.sync == run.sync for each in messages)
        if not begun and not any(isinstance(each, Batch | Start) and each.run == run.id for each in messages):
            yield "it was lost after its first batch had ended"


class Known:
    """What may be known to fail, by the results of a sync's runs, which are judged oldest first.

    Runs may be in another order than their times say: the clocks that gave them differ.
    """

    def __init__(self, runs: list[tuple[Run, list[Result]]]) -> None:
        self._failed = [(run.started, _failing(results)) for run, results in runs]
        self._failing: set[tuple[str, str]] = set()
        self._solved: list[tuple[float, set[tuple[str, str]]]] = []
        self._latest = 0.0

    def exceeded(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield a count of known failures that is more than those which the run and earlier ones explain."""
        failing = _failing(results)
        verified = {(e.group, e.name) for e in results if e.outcome is Outcome.MOVED and e.code is None}
        # What a run has solved may have failed still when one ended that began after it by another clock.
        lately = [solved for started, solved in self._solved if started >= run.started - _SKEW]
        if not run.plan and run.started > self._latest + _SKEW:  # else an earlier run may have written since
            self._solved.append((run.started, self._failing & (verified - failing)))
            self._failing -= verified - failing
        self._failing |= failing
        self._latest = max(self._latest, run.ended or run.started)
        meanwhile = (failed for started, failed in self._failed if run.started < started <= run.started + _SKEW)
        possible = self._failing.union(*meanwhile, *lately)
        if not run.plan and run.counts.known > len(possible):
            yield f"{run.counts.known} failures are known, and {len(possible)} items have failed and not been solved"


def _failing(results: list[Result]) -> set[tuple[str, str]]:
    return {(each.group, each.name) for each in results if each.outcome in (Outcome.FAILED, Outcome.KNOWN)}


def written(table: ModelTable, sqs: ModelSqs, printed: str) -> Iterator[tuple[str, str]]:
    """Yield the texts that the product has written, with the names of their places: items, messages and lines."""
    for item in table.items():
        yield f"the table, in {item['pk']} {item['sk']}", json.dumps(item, default=_readable, ensure_ascii=False)
    for body, queue in sqs.sent.items():
        yield f"a message of {queue}", body
    for line in printed.splitlines():
        yield f"what was printed: {line[:200]}", line


def _readable(value: Any) -> Any:
    """Return a value of the table as JSON can show it; what is compressed is unpacked."""
    if isinstance(value, Binary | bytes):
        content = bytes(cast("bytes", value))
        try:
            return zlib.decompress(content).decode(errors="replace")
        except zlib.error:
            return content.decode(errors="replace")
    return str(value)
