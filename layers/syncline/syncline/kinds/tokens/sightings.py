"""What canaries see in one round, and what is remembered of it for the next.

A fault is confirmed when the same instance fails twice in the same role, with no success in that role in between. Roles
are counted apart because an instance that fails only as the writer fails in one round of N.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from syncline.clients.replicas.instances import Instance

CONFIRMED: Final = 2
"""Failures in one role after which a fault is confirmed: one may be a restart or a lost packet."""


class Check(enum.Enum):
    """Part of a round."""

    ROUND = "round"
    ABSENT = "absent"
    WRITE = "write"
    DELETE = "delete"
    LONG = "long"


class Outcome(enum.Enum):
    """Result of a check at one instance."""

    ABSENT = "absent"
    INVENTED = "invented"
    SENT = "sent"
    UNSENT = "unsent"
    ARRIVED = "arrived"
    LOST = "lost"
    NEVER = "never"
    GONE = "gone"
    KEPT = "kept"
    FAILED = "failed"


class Role(enum.Enum):
    """Part that an instance plays in a check. PATH is between two of which either may be at fault, ROUND is all of it."""

    ROUND = "round"
    ANSWER = "answer"
    WRITER = "writer"
    READER = "reader"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class Sighting:
    """Result of one check at one instance. ``where`` identifies the instance; ``seconds`` is None if it never agreed."""

    check: Check
    instance: str
    outcome: Outcome
    seconds: float | None = None
    reason: str = ""
    role: Role = Role.READER
    where: str = ""

    @property
    def bad(self) -> bool:
        """Return True if it is a fault. A deletion or a long value that does not travel is none: zone_sync is so."""
        return self.outcome in (Outcome.FAILED, Outcome.INVENTED) or (
            self.check is Check.WRITE and self.outcome in (Outcome.LOST, Outcome.NEVER, Outcome.UNSENT)
        )

    @property
    def good(self) -> bool:
        """Return True if it shows that the instance does well in its role."""
        return self.outcome is Outcome.ABSENT or (
            self.check is Check.WRITE and self.outcome in (Outcome.SENT, Outcome.ARRIVED)
        )

    @property
    def fault(self) -> str:
        """Return the role and the instance in one text, which identifies the fault."""
        return f"{self.role.value} {self.where}".strip()


def failed_round(why: str) -> Sighting:
    """Return the fault of a round that could not begin or end, for example because the list of instances is empty."""
    return Sighting(Check.ROUND, "(all)", Outcome.FAILED, None, why, Role.ROUND)


@dataclass(frozen=True, slots=True)
class CanaryMemory:
    """What one sync's canaries remember: who wrote last, and how often each fault was seen in a row."""

    last_writer: str | None = None
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[str, ...]:
        """Return the confirmed faults, which stand until a success in the same role."""
        return tuple(sorted(fault for fault, times in self.failures.items() if times >= CONFIRMED))

    def writer(self, usable: Sequence[Instance]) -> Instance | None:
        """Return the instance whose turn it is: the one after the last writer, any if nobody has written yet."""
        if not usable:
            return None
        if self.last_writer is None:
            return secrets.choice(usable)  # a container that starts often must not always begin with the same
        order = sorted(usable, key=lambda one: one.where)
        return next((one for one in order if one.where > self.last_writer), order[0])

    def after(self, sightings: Iterable[Sighting], writer: Instance | None, listed: Iterable[Instance]) -> CanaryMemory:
        """Return the memory after a round. What was seen of instances that no longer serve is forgotten."""
        found = list(sightings)
        bad = {one.fault for one in found if one.bad}
        well = {one.fault for one in found if one.good} - bad
        flown = not any(one.role is Role.ROUND for one in found)
        there = {one.where for one in listed if one.serves}
        sent = {one.where for one in found if one.outcome is Outcome.SENT}
        failures = {}
        for fault, times in self.failures.items():
            role, _, where = fault.partition(" ")
            begins = where.partition(" to ")[0]
            settled = fault in well or (role == Role.PATH.value and begins in sent)
            gone = flown and not there.issuperset(where.split(" to "))
            if not settled and not gone:
                failures[fault] = times
        failures |= {fault: self.failures.get(fault, 0) + 1 for fault in bad}
        return CanaryMemory(self.last_writer if writer is None else writer.where, failures)


class CanaryMemories(Protocol):
    """Where memories are kept, each under the name of its sync."""

    def recall(self, sync: str) -> CanaryMemory:
        """Return the memory of a sync; an empty one if there is none."""
        ...

    def remember(self, sync: str, memory: CanaryMemory) -> None:
        """Keep the memory of a sync."""
        ...


class ProcessMemories:
    """Memories of one process, for the container."""

    def __init__(self) -> None:
        self._all: dict[str, CanaryMemory] = {}

    def recall(self, sync: str) -> CanaryMemory:
        return self._all.get(sync, CanaryMemory())

    def remember(self, sync: str, memory: CanaryMemory) -> None:
        self._all[sync] = memory
