"""Canaries: a key is written through one instance, and the others are watched until they agree, or until it is lost.

Three checks, one after another: a write must reach every instance and stay there; a deletion is watched the same way,
although some stores never tell their peers of one; and a value that is too long for the store's messages shows
whether it is lost in silence. What a canary wrote it takes away again, at every instance.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from syncline import __version__
from syncline.clients.instances import Instance
from syncline.clients.replicas import Answer, Replicas
from syncline.kinds.tokens.patience import Patience

KEY_PREFIX: Final = "syncline-canary-"
_STABLE: Final = 2.0  # intervals for which a key that arrived must stay
_GONE: Final = (401, 404)


class Check(enum.Enum):
    """What a canary looks at."""

    WRITE = "write"
    DELETE = "delete"
    LONG = "long"


class Outcome(enum.Enum):
    """How it went at one instance."""

    ARRIVED = "arrived"
    LOST = "lost"
    NEVER = "never"
    GONE = "gone"
    KEPT = "kept"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Call:
    """A request by its parts; ``{key}`` and ``{value}`` in path and body stand for the canary's own."""

    method: str
    path: str
    body: str = ""

    def bytes(self, host: str, headers: Mapping[str, str], key: str, value: str) -> bytes:
        """The request as it goes over the wire."""
        path = self.path.replace("{key}", quote(key, safe="")).replace("{value}", quote(value, safe=""))
        body = self.body.replace("{key}", key).replace("{value}", value).encode()
        fields = {"Host": host, "User-Agent": f"syncline/{__version__}", "Accept": "*/*", **headers}
        if body or self.method not in ("GET", "DELETE"):
            fields["Content-Length"] = str(len(body))
        lines = [f"{self.method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class CanaryRules:
    """The three calls, and how long the long value is (bytes; 0 leaves that check out)."""

    write: Call
    read: Call
    delete: Call
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    long_value: int = 0
    watch_deletes: bool = True


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one check came to at one instance; ``seconds`` until it did, None if it never did."""

    check: Check
    instance: str
    outcome: Outcome
    seconds: float | None = None
    reason: str = ""

    @property
    def bad(self) -> bool:
        """Whether somebody is to be told: what a deletion or a long value comes to is the store's way, a write's not."""
        return self.outcome is Outcome.FAILED or (
            self.check is Check.WRITE and self.outcome in (Outcome.LOST, Outcome.NEVER)
        )


class Canary:
    """Makes rounds for one sync, on the loop that ``replicas`` lives on."""

    def __init__(self, rules: CanaryRules, host: str, interval: float, patience: Patience, replicas: Replicas) -> None:
        self._rules = rules
        self._host = host
        self._interval = interval
        self._patience = patience
        self._replicas = replicas
        self._turn = 0

    async def round(self, instances: Sequence[Instance]) -> list[Sighting]:
        """One round over the instances that serve; each in turn is the one written through."""
        serving = sorted((one for one in instances if one.serves), key=lambda one: one.name)
        if not serving:
            return []
        writer = serving[self._turn % len(serving)]
        self._turn += 1
        key = KEY_PREFIX + secrets.token_hex(8)
        found: list[Sighting] = []
        try:
            found += await self._written(Check.WRITE, writer, serving, key, "1")
            if self._rules.watch_deletes and not any(one.outcome is Outcome.FAILED for one in found):
                found += await self._deleted(writer, serving, key)
        finally:
            await self._cleared(serving, key)
        if self._rules.long_value:
            key = KEY_PREFIX + secrets.token_hex(8)
            try:
                found += await self._written(Check.LONG, writer, serving, key, "x" * self._rules.long_value)
            finally:
                await self._cleared(serving, key)
        return found

    async def _written(
        self, check: Check, writer: Instance, serving: Sequence[Instance], key: str, value: str
    ) -> list[Sighting]:
        answer = await self._ask(writer, self._rules.write, key, value)
        if answer.status is None or not 200 <= answer.status < 300:
            refused = check is Check.LONG and answer.status is not None
            outcome = Outcome.NEVER if refused else Outcome.FAILED
            return [Sighting(check, writer.name, outcome, None, f"the write failed: {_words(answer)}")]
        began = self._now()
        others = [one for one in serving if one is not writer]
        return list(await asyncio.gather(*(self._arrives(check, one, key, value, began) for one in others)))

    async def _arrives(self, check: Check, instance: Instance, key: str, value: str, began: float) -> Sighting:
        """Watch one instance until it has the key, and then whether it keeps it."""
        has, seconds, words = await self._watch(instance, key, value, began, wanted=True)
        if not has:
            failed = words and not words.endswith(tuple(str(status) for status in _GONE))
            return Sighting(check, instance.name, Outcome.FAILED if failed else Outcome.NEVER, None, words)
        await asyncio.sleep(_STABLE * self._interval)
        answer = await self._ask(instance, self._rules.read, key, value)
        if answer.status in _GONE:
            return Sighting(check, instance.name, Outcome.LOST, seconds, "it was there, and is not any more")
        return Sighting(check, instance.name, Outcome.ARRIVED, seconds)

    async def _deleted(self, writer: Instance, serving: Sequence[Instance], key: str) -> list[Sighting]:
        answer = await self._ask(writer, self._rules.delete, key, "")
        if answer.status is None or not 200 <= answer.status < 300:
            return [Sighting(Check.DELETE, writer.name, Outcome.FAILED, None, f"the deletion failed: {_words(answer)}")]
        began = self._now()

        async def goes(instance: Instance) -> Sighting:
            gone, seconds, words = await self._watch(instance, key, "", began, wanted=False)
            return Sighting(Check.DELETE, instance.name, Outcome.GONE if gone else Outcome.KEPT, seconds, words)

        return list(await asyncio.gather(*(goes(one) for one in serving if one is not writer)))

    async def _watch(
        self, instance: Instance, key: str, value: str, began: float, *, wanted: bool
    ) -> tuple[bool, float | None, str]:
        """Ask until an instance has the key (or has it no more), or patience ends; whether, after how long, and words."""
        attempt = 0
        while True:
            attempt += 1
            answer = await self._ask(instance, self._rules.read, key, value)
            elapsed = self._now() - began
            if (answer.status == 200 and wanted) or (answer.status in _GONE and not wanted):
                return True, elapsed, ""
            # The middle of the delays, for canaries come alone.
            delay = self._patience.delay(attempt, elapsed, 0.5)
            if delay is None:
                return False, None, _words(answer)
            await asyncio.sleep(delay)

    async def _cleared(self, serving: Sequence[Instance], key: str) -> None:
        """Take the key away everywhere, since a deletion may not travel."""
        await asyncio.gather(*(self._ask(one, self._rules.delete, key, "") for one in serving))

    async def _ask(self, instance: Instance, call: Call, key: str, value: str) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(answer: Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        request = call.bytes(self._host, self._rules.headers, key, value)
        exchange = self._replicas.ask((instance.address, instance.port), request, done)
        try:
            async with asyncio.timeout(self._patience.deadline):
                return await answered
        except TimeoutError:
            return Answer(None, None, "no answer in time")
        finally:
            exchange.cancel()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _words(answer: Answer) -> str:
    if answer.status is not None:
        return f"answered {answer.status}"
    trouble = "" if answer.trouble is None else f"{answer.trouble.value}: "
    return f"{trouble}{answer.words}"
