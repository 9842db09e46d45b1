"""Canaries: keys written through one instance and watched at the others until they have it or the time is over.

A round has four checks. A key that nobody wrote must not be found anywhere: an instance that has it gives no usable
responses and is left out. A write must reach every instance and stay there. A deletion is watched in the same way, although
some stores do not replicate deletions. A value that is too long for the store's messages shows whether it is lost without
an error. At the end the canary deletes its keys at every instance.

The instances take turns as the writer. A key that the writer does not keep, or that no other instance gets, is the
writer's fault. If there is only one other instance, either of the two may be at fault, and the path between them is named.

A fault is confirmed when the same instance fails twice in the same role, with no success in that role in between. Roles
are counted separately, as an instance that fails only as the writer fails in one round of N.
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
from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.config import Request, TokensSync

CONFIRMED: Final = 2
"""Failures in one role that confirm a fault. A single one may be a restart or a lost packet."""
KEY_PREFIX: Final = "syncline-canary-"
LONGEST_ROUND: Final = 200.0
"""Seconds after which a round is abandoned; less than the timeout of the function `canary`."""
_LONGEST_ANSWER: Final = 10.0  # seconds
_STABLE: Final = 2.0  # intervals for which a replicated key must stay
_GONE: Final = (401, 404)
_REFUSED: Final = 401  # the only response that a probe counts as a refusal of a token
_JUDGES: Final = 2  # instances without the key that make the writer at fault


class CanaryCheck(enum.Enum):
    """A part of a round."""

    ROUND = "round"
    ABSENT = "absent"
    WRITE = "write"
    DELETE = "delete"
    LONG = "long"


class CheckOutcome(enum.Enum):
    """The outcome of a check at one instance."""

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


class CanaryRole(enum.Enum):
    """The role of an instance in a check. PATH is between two instances, either at fault; ROUND is the complete round."""

    ROUND = "round"
    ANSWER = "answer"
    WRITER = "writer"
    READER = "reader"
    PATH = "path"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check at one instance. ``where`` is its address; ``seconds`` is None if it never agreed."""

    check: CanaryCheck
    instance: str
    outcome: CheckOutcome
    seconds: float | None = None
    reason: str = ""
    role: CanaryRole = CanaryRole.READER
    where: str = ""

    @property
    def bad(self) -> bool:
        """Return True if it is a fault. Deletions and long values need not replicate, as zone_sync does not."""
        return self.outcome in (CheckOutcome.FAILED, CheckOutcome.INVENTED) or (
            self.check is CanaryCheck.WRITE
            and self.outcome in (CheckOutcome.LOST, CheckOutcome.NEVER, CheckOutcome.UNSENT)
        )

    @property
    def good(self) -> bool:
        """Return True if it shows that the instance works in its role."""
        return self.outcome is CheckOutcome.ABSENT or (
            self.check is CanaryCheck.WRITE and self.outcome in (CheckOutcome.SENT, CheckOutcome.ARRIVED)
        )

    @property
    def fault(self) -> str:
        """Return the role and the instance in one text, which identifies the fault."""
        return f"{self.role.value} {self.where}".strip()


def failed_round(why: str) -> CheckResult:
    """Return the fault of a round that could not begin or end, for example if the list of instances is empty."""
    return CheckResult(CanaryCheck.ROUND, "(all)", CheckOutcome.FAILED, None, why, CanaryRole.ROUND)


@dataclass(frozen=True, slots=True)
class CanaryMemory:
    """The memory of one sync's canaries: the last writer, and the consecutive failures of each fault."""

    last_writer: str | None = None
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[str, ...]:
        """Return the confirmed faults, which remain until a success in the same role."""
        return tuple(sorted(fault for fault, times in self.failures.items() if times >= CONFIRMED))

    def writer(self, usable: Sequence[Instance]) -> Instance | None:
        """Return the next writer: the instance after the last writer, a random one if there was none."""
        if not usable:
            return None
        if self.last_writer is None:
            return secrets.choice(usable)  # a container that restarts often must not always choose the same
        order = sorted(usable, key=lambda one: one.where)
        return next((one for one in order if one.where > self.last_writer), order[0])

    def after(
        self, results: Iterable[CheckResult], writer: Instance | None, listed: Iterable[Instance]
    ) -> CanaryMemory:
        """Return the memory after a round, without instances that no longer serve."""
        found = list(results)
        bad = {one.fault for one in found if one.bad}
        good = {one.fault for one in found if one.good} - bad
        completed = not any(one.role is CanaryRole.ROUND for one in found)
        serving = {one.where for one in listed if one.serves}
        sent = {one.where for one in found if one.outcome is CheckOutcome.SENT}
        failures = {}
        for fault, times in self.failures.items():
            role, _, where = fault.partition(" ")
            begins = where.partition(" to ")[0]
            settled = fault in good or (role == CanaryRole.PATH.value and begins in sent)
            gone = completed and not serving.issuperset(where.split(" to "))
            if not settled and not gone:
                failures[fault] = times
        failures |= {fault: self.failures.get(fault, 0) + 1 for fault in bad}
        return CanaryMemory(self.last_writer if writer is None else writer.where, failures)


class CanaryMemories(Protocol):
    """A store of memories by the names of their syncs; a new sync has an empty one."""

    def recall(self, sync: str) -> CanaryMemory: ...

    def remember(self, sync: str, memory: CanaryMemory) -> None: ...


class ProcessMemories:
    """Memories of one process, for the container."""

    def __init__(self) -> None:
        self._all: dict[str, CanaryMemory] = {}

    def recall(self, sync: str) -> CanaryMemory:
        return self._all.get(sync, CanaryMemory())

    def remember(self, sync: str, memory: CanaryMemory) -> None:
        self._all[sync] = memory


def request_bytes(request: Request, headers: Mapping[str, str], host: str, key: str, value: str) -> bytes:
    """Return a request as sent over HTTP/1.1, with ``{key}`` and ``{value}`` replaced by the canary's."""
    path = request.path.replace("{key}", quote(key, safe=""))
    if "{value}" in path:
        path = path.replace("{value}", quote(value, safe=""))
    body = request.body.replace("{key}", key).replace("{value}", value).encode()
    fields = {"Host": host, "User-Agent": f"syncline/{__version__}", "Accept": "*/*"}
    fields |= {name: text.replace("{key}", key) for name, text in headers.items()}
    if body or request.method not in ("GET", "DELETE"):
        fields["Content-Length"] = str(len(body))
    lines = [f"{request.method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Canary:
    """Runs rounds for a sync that has a canary, on the loop of ``replicas``. ``headers`` are resolved."""

    def __init__(
        self, sync: TokensSync, headers: Mapping[str, str], schedule: AskSchedule, replicas: ReplicaClient
    ) -> None:
        assert sync.canary is not None
        self._rules = sync.canary
        self._check = Request(method="GET", path=sync.check.path)  # as a probe asks, with the key as the token
        self._headers = headers
        self._cookie = {"Cookie": f"{sync.check.cookie}={{key}}"}
        self._host = sync.check.host
        self._interval = sync.sync_interval
        self._patience = schedule
        self._replicas = replicas

    async def round(
        self, instances: Sequence[Instance], memory: CanaryMemory, longest: float = LONGEST_ROUND
    ) -> tuple[list[CheckResult], Instance | None]:
        """Run one round over the instances that serve; return the results and the writer, None if there was none.

        A round that takes longer than `longest` seconds is abandoned. It still counts as the turn of its writer.
        """
        serving = sorted((one for one in instances if one.serves), key=lambda one: one.where)
        if not serving:
            return [failed_round("no instance serves")], None
        state = _RoundState(serving, memory)
        try:
            async with asyncio.timeout(longest):
                await self._run_checks(state)
        except TimeoutError:
            state.results.append(failed_round(f"the round took longer than {longest:g} seconds"))
        return state.results, state.writer

    async def _run_checks(self, state: _RoundState) -> None:
        """Run all checks of a round, adding to its results."""
        state.results += await asyncio.gather(*(self._check_absent(state, one) for one in state.serving))
        writer = state.choose_writer()
        if writer is None:
            return
        key = _Key(CanaryCheck.WRITE, "1")
        try:
            written = await self._check_write(state, writer, key)
            state.results += written
            travels = not any(
                one.outcome is CheckOutcome.FAILED or (one.bad and one.role is CanaryRole.WRITER) for one in written
            )
            if self._rules.watch_deletes and travels:
                state.results += await self._check_delete(state, writer, key)
        finally:
            await self._delete_everywhere(state.serving, key)
        if self._rules.long_value:
            key = _Key(CanaryCheck.LONG, "x" * self._rules.long_value)
            try:
                state.results += await self._check_write(state, writer, key)
            finally:
                await self._delete_everywhere(state.serving, key)

    async def _check_absent(self, state: _RoundState, instance: Instance) -> CheckResult:
        """Read a key, and check a token, that nobody wrote."""
        key = _Key(CanaryCheck.ABSENT)
        read, asked = await asyncio.gather(
            self._ask(instance, self._rules.read, key), self._ask(instance, self._check, key)
        )
        outcome, reason = CheckOutcome.FAILED, ""
        if read.status == 200 or asked.status == 200:
            outcome, reason = (
                CheckOutcome.INVENTED,
                f"it has a {'key' if read.status == 200 else 'token'} that nobody wrote",
            )
        elif read.status not in _GONE:
            reason = read.text
        elif asked.status != _REFUSED:
            reason = f"the token check failed: {asked.text}"
        else:
            outcome = CheckOutcome.ABSENT
        return state.result(key.check, instance, outcome, None, reason, CanaryRole.ANSWER)

    async def _fails(
        self, state: _RoundState, writer: Instance, check: CanaryCheck, call: Request, key: _Key
    ) -> list[CheckResult]:
        """Send a request to the writer; return its result if it fails, none if it succeeds."""
        answer = await self._ask(writer, call, key)
        if answer.status is not None and 200 <= answer.status < 300:
            return []
        refused = check is CanaryCheck.LONG and answer.status is not None
        outcome = CheckOutcome.NEVER if refused else CheckOutcome.FAILED
        reason = f"the {'deletion' if call is self._rules.delete else 'write'} failed: {answer.text}"
        return [state.result(check, writer, outcome, None, reason, CanaryRole.WRITER)]

    async def _check_write(self, state: _RoundState, writer: Instance, key: _Key) -> list[CheckResult]:
        if failed := await self._fails(state, writer, key.check, self._rules.write, key):
            return failed
        began = self._now()
        watched = state.readers if key.check is CanaryCheck.LONG else [writer, *state.readers]
        results = list(await asyncio.gather(*(self._watch_write(state, one, key, began) for one in watched)))
        return results if key.check is CanaryCheck.LONG else state.judged(results[0], results[1:])

    async def _watch_write(self, state: _RoundState, instance: Instance, key: _Key, began: float) -> CheckResult:
        """Watch one instance until it has the key, and check that it keeps it."""
        has, seconds, words = await self._watch(instance, key, began, wanted=True)
        if not has:
            failed = words and not words.endswith(tuple(str(status) for status in _GONE))
            return state.result(key.check, instance, CheckOutcome.FAILED if failed else CheckOutcome.NEVER, None, words)
        await asyncio.sleep(_STABLE * self._interval)
        answer = await self._ask(instance, self._rules.read, key)
        if answer.status != 200 and answer.status not in _GONE:
            answer = await self._ask(instance, self._rules.read, key)  # a connection may break at any time
        if answer.status in _GONE:
            return state.result(key.check, instance, CheckOutcome.LOST, seconds, "it had the key and lost it")
        if answer.status != 200:
            reason = f"it had the key; the second read failed: {answer.text}"
            return state.result(key.check, instance, CheckOutcome.FAILED, seconds, reason)
        return state.result(key.check, instance, CheckOutcome.ARRIVED, seconds)

    async def _check_delete(self, state: _RoundState, writer: Instance, key: _Key) -> list[CheckResult]:
        if failed := await self._fails(state, writer, CanaryCheck.DELETE, self._rules.delete, key):
            return failed
        began = self._now()

        async def goes(instance: Instance) -> CheckResult:
            gone, seconds, words = await self._watch(instance, key, began, wanted=False)
            outcome = CheckOutcome.GONE if gone else CheckOutcome.KEPT
            return state.result(CanaryCheck.DELETE, instance, outcome, seconds, words)

        return list(await asyncio.gather(*(goes(one) for one in state.readers)))

    async def _watch(
        self, instance: Instance, key: _Key, began: float, *, wanted: bool
    ) -> tuple[bool, float | None, str]:
        """Ask until the instance has the key, or no longer has it; return the success, the seconds, and the failure."""
        attempt = 0
        while True:
            attempt += 1
            answer = await self._ask(instance, self._rules.read, key)
            elapsed = self._now() - began
            if (answer.status == 200 and wanted) or (answer.status in _GONE and not wanted):
                return True, elapsed, ""
            # No jitter, as only one canary asks.
            delay = self._patience.delay(attempt, elapsed, 0.5)
            if delay is None:
                return False, None, answer.text
            await asyncio.sleep(delay)

    async def _delete_everywhere(self, serving: Sequence[Instance], key: _Key) -> None:
        """Delete the key at every instance, as deletions may not replicate."""
        await asyncio.gather(*(self._ask(one, self._rules.delete, key) for one in serving))

    async def _ask(self, instance: Instance, call: Request, key: _Key) -> ReplicaResponse:
        answered: asyncio.Future[ReplicaResponse] = asyncio.get_running_loop().create_future()

        def done(answer: ReplicaResponse) -> None:
            if not answered.done():
                answered.set_result(answer)

        headers = self._cookie if call is self._check else self._headers
        request = request_bytes(call, headers, self._host, key.name, key.value)
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
    """A new key for one check, and the value to write."""

    check: CanaryCheck
    value: str = ""
    name: str = field(default_factory=lambda: KEY_PREFIX + secrets.token_hex(8))


class _RoundState:
    """The state of one round: the instances, the writer, and the results so far."""

    def __init__(self, serving: Sequence[Instance], memory: CanaryMemory) -> None:
        self.serving = serving
        self.memory = memory
        self.writer: Instance | None = None
        self.readers: list[Instance] = []
        self.results: list[CheckResult] = []
        names = [one.name for one in serving]
        self._labels = {one: one.name if names.count(one.name) == 1 else f"{one.name} {one.where}" for one in serving}

    def choose_writer(self) -> Instance | None:
        """Choose the writer and the readers among the instances with usable responses; None if there are none."""
        broken = {one.where for one in self.results if one.bad}
        usable = [one for one in self.serving if one.where not in broken]
        self.writer = self.memory.writer(usable)
        self.readers = [one for one in usable if one != self.writer]
        return self.writer

    def result(  # noqa: PLR0913, PLR0917 - the fields of a result
        self,
        check: CanaryCheck,
        instance: Instance,
        outcome: CheckOutcome,
        seconds: float | None = None,
        reason: str = "",
        role: CanaryRole = CanaryRole.READER,
    ) -> CheckResult:
        """Return a result under the name of the instance, with the address if several instances have that name."""
        return CheckResult(check, self._labels[instance], outcome, seconds, reason, role, instance.where)

    def judged(self, own: CheckResult, others: list[CheckResult]) -> list[CheckResult]:
        """Return the results of a write, given the writer's `own` one and those of the `others`."""
        own = replace(own, role=CanaryRole.WRITER)
        if own.bad:
            return [replace(own, reason=f"after it confirmed the write: {own.reason}")]
        own = replace(own, seconds=None)
        if not others:
            return [own]
        if any(one.seconds is not None for one in others):  # it got the key, even if it lost it later
            return [replace(own, outcome=CheckOutcome.SENT), *others]
        # No reader has it. Readers with a known fault, or that failed before, do not show a fault of this writer.
        never = [one for one in others if one.outcome is CheckOutcome.NEVER]
        judges = [one for one in never if one.fault not in self.memory.faults]
        trusted = [one for one in judges if one.fault not in self.memory.failures]
        if trusted and len(judges) >= _JUDGES:
            others = [one for one in others if one not in judges]
            return [replace(own, outcome=CheckOutcome.UNSENT, reason="no other instance got the key"), *others]
        suspects = never if len(self.readers) == 1 else trusted
        if suspects:
            reader = suspects[0]
            others = [one for one in others if one is not reader]
            path = CheckResult(
                CanaryCheck.WRITE,
                f"{own.instance} to {reader.instance}",
                CheckOutcome.NEVER,
                None,
                "the key did not arrive; either of the two may be at fault",
                CanaryRole.PATH,
                f"{own.where} to {reader.where}",
            )
            return [path, *others]
        return others
