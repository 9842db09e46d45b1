"""What must be true of every kind: leases, runs, dead letters and secrets, whatever is synced."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from boto3.dynamodb.types import Binary

from syncline.messages import Dead, decode
from syncline.model import Outcome, Result, Run
from tests.simulation.machine import Process
from tests.simulation.queues import ModelSqs
from tests.simulation.table import ModelTable

_IN_FLIGHT: Final = 20.0
"""Seconds for which a request may be under way after the lease that it was made under has ended."""


class Leases:
    """Watches who holds which lease, by the table's own records.

    ``violations`` are collected at the moment at which they happen.
    """

    def __init__(self, table: ModelTable) -> None:
        self._table = table
        self._holders: dict[tuple[str, str], tuple[str, Process]] = {}
        self.violations: list[str] = []

    def observe(self, process: Process, update: Mapping[str, Any]) -> None:
        """Note that a process has updated a record, if that took a lease."""
        pk = update.get("Key", {}).get("pk", "")
        if pk.startswith(("LEASE#", "SLOT#")) and ":call" in update.get("ExpressionAttributeValues", {}):
            key = (pk, update["Key"]["sk"])
            call = str(update["ExpressionAttributeValues"][":call"])
            item = self._table.partitions.get(key[0], {}).get(key[1], {})
            if item.get("call") == call and ":owner" in update["ExpressionAttributeValues"]:
                self._holders[key] = (call, process)

    def check_writer(self, process: Process, reference: str, now: float, what: str) -> None:
        """Judge a write to a reference by a process: it must hold the lease, or have held it a moment ago."""
        key = (f"LEASE#{reference}", "LEASE")
        call, holder = self._holders.get(key, ("", None))
        item = self._table.partitions.get(key[0], {}).get(key[1])
        if item is None or holder is None:
            self.violations.append(f"{what} without a lease on {reference}")
        elif holder is not process and holder.dead is False and now > float(item.get("until", 0)) + _IN_FLIGHT:
            self.violations.append(f"{what} by {process.name}, while {holder.name} holds {reference} ({call})")
        elif holder is not process and float(item.get("until", 0)) > now and not holder.dead:
            self.violations.append(f"{what} by {process.name}, while {holder.name} holds {reference}")


def dead_letters(sqs: ModelSqs) -> dict[tuple[str, str], list[Dead]]:
    """Return the readable dead letters by sync and item, ``group:name``."""
    found: dict[tuple[str, str], list[Dead]] = {}
    for queue, message in sqs.messages():
        if "-dead" in queue.name:
            dead = decode(message.body)
            if isinstance(dead, Dead):
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


def leaks(secrets: Mapping[str, str], table: ModelTable, sqs: ModelSqs, lines: str) -> Iterator[str]:
    """Yield where a planted secret was written: the table, a message or a line of the logs."""
    planted = sorted(secrets.values())

    def held(text: str) -> Iterator[str]:
        yield from (value for value in planted if value in text)

    for item in table.items():
        for value in held(json.dumps(item, default=_readable)):
            yield f"{value} is in the table, in {item['pk']} {item['sk']}"
    for queue, message in sqs.messages():
        for value in held(message.body):
            yield f"{value} is in a message of {queue.name}"
    for value in held(lines):
        yield f"{value} is in a line of the logs"


def _readable(value: Any) -> Any:
    """Return a value of the table as JSON can show it; what is compressed is unpacked."""
    if isinstance(value, Binary | bytes):
        content = bytes(cast("bytes", value))
        try:
            return zlib.decompress(content).decode(errors="replace")
        except zlib.error:
            return content.decode(errors="replace")
    return str(value)
