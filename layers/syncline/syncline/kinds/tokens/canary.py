"""Canaries: a key is written through one instance, and the others are watched until they have it or the time is over.

A round has four checks. A key that nobody wrote must not be found anywhere: an instance that says yes to it says nothing
by its other answers and is left out. A write must reach every instance and stay there. A deletion is watched the same way,
although some stores never tell their peers of one. A value that is too long for the store's messages shows whether it
is lost in silence. In the end the canary deletes what it wrote, at every instance.

Each instance in turn is the writer. A key that the writer itself does not keep, or that nobody else gets, is the writer's
fault. If there is only one other instance to judge by, either of the two may be at fault, and the path between them is named.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol
from urllib.parse import quote

from syncline import __version__
from syncline.clients.replicas.client import ReplicaClient, ReplicaResponse
from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens.ask import Patience

# What canaries see in one round, and what is remembered of it for the next.
#
# A fault is confirmed when the same instance fails twice in the same role, with no success in that role in between. Roles
# are counted apart because an instance that fails only as the writer fails in one round of N.

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


KEY_PREFIX: Final = "syncline-canary-"
LONGEST_ROUND: Final = 200.0
"""Seconds after which a round is given up; less than the function `canary` has."""
_LONGEST_ANSWER: Final = 10.0  # seconds
_STABLE: Final = 2.0  # intervals for which a key that arrived must stay
_GONE: Final = (401, 404)
_REFUSED: Final = 401  # of a token: the one answer that a probe takes for a no
_JUDGES: Final = 2  # instances without the key that make it the writer's fault


@dataclass(frozen=True, slots=True)
class Call:
    """A request by its parts; ``{key}`` and ``{value}`` in path, body and headers stand for the canary's own."""

    method: str
    path: str
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def bytes(self, host: str, key: str, value: str) -> bytes:
        """Return the request as it goes over the wire."""
        path = self.path.replace("{key}", quote(key, safe=""))
        if "{value}" in path:
            path = path.replace("{value}", quote(value, safe=""))
        body = self.body.replace("{key}", key).replace("{value}", value).encode()
        fields = {"Host": host, "User-Agent": f"syncline/{__version__}", "Accept": "*/*"}
        fields |= {name: text.replace("{key}", key) for name, text in self.headers.items()}
        if body or self.method not in ("GET", "DELETE"):
            fields["Content-Length"] = str(len(body))
        lines = [f"{self.method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class CanaryRules:
    """The calls, and the length of the long value (bytes; 0 leaves that check out).

    ``check`` is the question that verdicts rest on, with the key as the token.
    """

    write: Call
    read: Call
    delete: Call
    check: Call
    long_value: int = 0
    watch_deletes: bool = True


class Canary:
    """Flies rounds for one sync, on the loop that ``replicas`` lives on."""

    def __init__(
        self, rules: CanaryRules, host: str, interval: float, patience: Patience, replicas: ReplicaClient
    ) -> None:
        self._rules = rules
        self._host = host
        self._interval = interval
        self._patience = patience
        self._replicas = replicas

    async def round(
        self, instances: Sequence[Instance], memory: CanaryMemory, longest: float = LONGEST_ROUND
    ) -> tuple[list[Sighting], Instance | None]:
        """Fly one round over the instances that serve; return what was seen and the writer, None if there was none.

        A round that takes longer than `longest` seconds is given up. It still counts as the turn of its writer.
        """
        serving = sorted((one for one in instances if one.serves), key=lambda one: one.where)
        if not serving:
            return [failed_round("no instance serves")], None
        flight = _Flight(serving, memory)
        try:
            async with asyncio.timeout(longest):
                await self._fly(flight)
        except TimeoutError:
            flight.found.append(failed_round(f"it was not done after {longest:g} seconds"))
        return flight.found, flight.writer

    async def _fly(self, flight: _Flight) -> None:
        """Make all checks of a round, adding to what was found."""
        flight.found += await asyncio.gather(*(self._invents(flight, one) for one in flight.serving))
        flight.choose_writer()
        if flight.writer is None:
            return
        key = _Key(Check.WRITE, "1")
        try:
            written = await self._written(flight, key)
            flight.found += written
            travels = not any(one.outcome is Outcome.FAILED or (one.bad and one.role is Role.WRITER) for one in written)
            if self._rules.watch_deletes and travels:
                flight.found += await self._deleted(flight, key)
        finally:
            await self._cleared(flight.serving, key)
        if self._rules.long_value:
            key = _Key(Check.LONG, "x" * self._rules.long_value)
            try:
                flight.found += await self._written(flight, key)
            finally:
                await self._cleared(flight.serving, key)

    async def _invents(self, flight: _Flight, instance: Instance) -> Sighting:
        """Read a key, and ask about a token, that nobody wrote."""
        key = _Key(Check.ABSENT)
        read, asked = await asyncio.gather(
            self._ask(instance, self._rules.read, key), self._ask(instance, self._rules.check, key)
        )
        if read.status == 200 or asked.status == 200:
            what = "key" if read.status == 200 else "token"
            found = flight.sighting(key.check, instance, Outcome.INVENTED, None, f"it has a {what} that nobody wrote")
        elif read.status not in _GONE:
            found = flight.sighting(key.check, instance, Outcome.FAILED, None, _words(read))
        elif asked.status != _REFUSED:
            reason = f"asked about a token, it {_words(asked)}" if asked.status else f"about a token: {_words(asked)}"
            found = flight.sighting(key.check, instance, Outcome.FAILED, None, reason)
        else:
            found = flight.sighting(key.check, instance, Outcome.ABSENT)
        return replace(found, role=Role.ANSWER)

    async def _written(self, flight: _Flight, key: _Key) -> list[Sighting]:
        writer = flight.writer
        assert writer is not None
        answer = await self._ask(writer, self._rules.write, key)
        if answer.status is None or not 200 <= answer.status < 300:
            refused = key.check is Check.LONG and answer.status is not None
            outcome = Outcome.NEVER if refused else Outcome.FAILED
            failed = flight.sighting(key.check, writer, outcome, None, f"the write failed: {_words(answer)}")
            return [replace(failed, role=Role.WRITER)]
        began = self._now()
        watched = flight.readers if key.check is Check.LONG else [writer, *flight.readers]
        seen = list(await asyncio.gather(*(self._arrives(flight, one, key, began) for one in watched)))
        return seen if key.check is Check.LONG else flight.judged(seen[0], seen[1:])

    async def _arrives(self, flight: _Flight, instance: Instance, key: _Key, began: float) -> Sighting:
        """Watch one instance until it has the key, and then that it keeps it."""
        has, seconds, words = await self._watch(instance, key, began, wanted=True)
        if not has:
            failed = words and not words.endswith(tuple(str(status) for status in _GONE))
            return flight.sighting(key.check, instance, Outcome.FAILED if failed else Outcome.NEVER, None, words)
        await asyncio.sleep(_STABLE * self._interval)
        answer = await self._ask(instance, self._rules.read, key)
        if answer.status != 200 and answer.status not in _GONE:
            answer = await self._ask(instance, self._rules.read, key)  # a connection may break at any time
        if answer.status in _GONE:
            return flight.sighting(key.check, instance, Outcome.LOST, seconds, "it had the key and lost it")
        if answer.status != 200:
            reason = f"it had the key; asked whether it kept it: {_words(answer)}"
            return flight.sighting(key.check, instance, Outcome.FAILED, seconds, reason)
        return flight.sighting(key.check, instance, Outcome.ARRIVED, seconds)

    async def _deleted(self, flight: _Flight, key: _Key) -> list[Sighting]:
        writer = flight.writer
        assert writer is not None
        answer = await self._ask(writer, self._rules.delete, key)
        if answer.status is None or not 200 <= answer.status < 300:
            reason = f"the deletion failed: {_words(answer)}"
            return [replace(flight.sighting(Check.DELETE, writer, Outcome.FAILED, None, reason), role=Role.WRITER)]
        began = self._now()

        async def goes(instance: Instance) -> Sighting:
            gone, seconds, words = await self._watch(instance, key, began, wanted=False)
            return flight.sighting(Check.DELETE, instance, Outcome.GONE if gone else Outcome.KEPT, seconds, words)

        return list(await asyncio.gather(*(goes(one) for one in flight.readers)))

    async def _watch(
        self, instance: Instance, key: _Key, began: float, *, wanted: bool
    ) -> tuple[bool, float | None, str]:
        """Ask until the instance has the key, or no longer has it; return whether, after how many seconds, and why not."""
        attempt = 0
        while True:
            attempt += 1
            answer = await self._ask(instance, self._rules.read, key)
            elapsed = self._now() - began
            if (answer.status == 200 and wanted) or (answer.status in _GONE and not wanted):
                return True, elapsed, ""
            # The middle of the delays, for canaries come alone.
            delay = self._patience.delay(attempt, elapsed, 0.5)
            if delay is None:
                return False, None, _words(answer)
            await asyncio.sleep(delay)

    async def _cleared(self, serving: Sequence[Instance], key: _Key) -> None:
        """Delete the key everywhere, since a deletion may not travel."""
        await asyncio.gather(*(self._ask(one, self._rules.delete, key) for one in serving))

    async def _ask(self, instance: Instance, call: Call, key: _Key) -> ReplicaResponse:
        answered: asyncio.Future[ReplicaResponse] = asyncio.get_running_loop().create_future()

        def done(answer: ReplicaResponse) -> None:
            if not answered.done():
                answered.set_result(answer)

        request = call.bytes(self._host, key.name, key.value)
        exchange = self._replicas.send((instance.address, instance.port), request, done)
        try:
            async with asyncio.timeout(min(self._patience.deadline, _LONGEST_ANSWER)):
                return await answered
        except TimeoutError:
            return ReplicaResponse(None, None, "no answer in time")
        finally:
            exchange.cancel()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of its own for one check, and the value to be written."""

    check: Check
    value: str = ""
    name: str = field(default_factory=lambda: KEY_PREFIX + secrets.token_hex(8))


class _Flight:
    """One round under way: the instances, the writer, and what was found so far."""

    def __init__(self, serving: Sequence[Instance], memory: CanaryMemory) -> None:
        self.serving = serving
        self.memory = memory
        self.writer: Instance | None = None
        self.readers: list[Instance] = []
        self.found: list[Sighting] = []
        names = [one.name for one in serving]
        self._labels = {one: one.name if names.count(one.name) == 1 else f"{one.name} {one.where}" for one in serving}

    def choose_writer(self) -> None:
        """Choose the writer and the readers among those whose answers can be believed."""
        broken = {one.where for one in self.found if one.bad}
        usable = [one for one in self.serving if one.where not in broken]
        self.writer = self.memory.writer(usable)
        self.readers = [one for one in usable if one != self.writer]

    def sighting(
        self, check: Check, instance: Instance, outcome: Outcome, seconds: float | None = None, reason: str = ""
    ) -> Sighting:
        """Return a sighting of a reader under its name, or name and address if several instances have that name."""
        return Sighting(check, self._labels[instance], outcome, seconds, reason, Role.READER, instance.where)

    def judged(self, own: Sighting, others: list[Sighting]) -> list[Sighting]:
        """Return what the answers to a write show: `own` is the writer's, `others` are the readers'."""
        own = replace(own, role=Role.WRITER)
        if own.bad:
            return [replace(own, reason=f"after it confirmed the write: {own.reason}")]
        own = replace(own, seconds=None)
        if not others:
            return [own]
        if any(one.seconds is not None for one in others):  # it came there, whatever became of it
            return [replace(own, outcome=Outcome.SENT), *others]
        # Nobody has it. Readers that are known to be at fault, or that all failed before, say nothing about this writer.
        never = [one for one in others if one.outcome is Outcome.NEVER]
        judges = [one for one in never if one.fault not in self.memory.faults]
        trusted = [one for one in judges if one.fault not in self.memory.failures]
        if trusted and len(judges) >= _JUDGES:
            others = [one for one in others if one not in judges]
            return [replace(own, outcome=Outcome.UNSENT, reason="no other instance got the key"), *others]
        suspects = never if len(self.readers) == 1 else trusted
        if suspects:
            reader = suspects[0]
            others = [one for one in others if one is not reader]
            path = Sighting(
                Check.WRITE,
                f"{own.instance} to {reader.instance}",
                Outcome.NEVER,
                None,
                "the key did not arrive; either of the two may be at fault",
                Role.PATH,
                f"{own.where} to {reader.where}",
            )
            return [path, *others]
        return others


def _words(answer: ReplicaResponse) -> str:
    if answer.status is not None:
        return f"answered {answer.status}"
    trouble = "" if answer.reason is None else f"{answer.reason.value}: "
    return f"{trouble}{answer.detail}"
