"""One question to many instances, each asked until it has the token, it fails, or the time is over.

200 means that an instance has the token, 401 that it does not have it yet: it is asked again after a delay with jitter,
until the retries end. Any other response gets one retry, as a connection may break at any time; after that it is unknown
whether the instance has the token.

The origin is asked as a control: two responses with 401 mean that the token itself is invalid, whatever the others
respond. The verdict waits for the origin, so that it does not depend on the order of responses. If several instances have
the origin's name, each of them is asked and counted like the others, and the token is invalid if all of them refuse it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from syncline.clients.replicas.client import ReplicaClient, ReplicaRequest, ReplicaResponse
from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens.verdict import (
    InstanceResult,
    ProbeResult,
    Quorum,
    Reason,
    TokenState,
    Verdict,
    judge,
    needed_of,
)

_INTERVALS: Final = 2.5
_GRACE: Final = 0.5  # seconds between the last retry and the hard deadline, for slow responses
_FIRST_DELAY: Final = 0.05  # share of the interval
_LONGEST_DELAY: Final = 0.25  # share of the interval
_GROWTH: Final = 1.6
_SHORTEST_DELAY: Final = 0.02  # seconds; nobody who waits for a login notices a shorter one
_ASKS_PER_SECOND: Final = 2000.0  # what one process can send to all instances together without delays
_JITTER: Final = 0.25  # share by which a delay varies, so that requests are spread
_ATTEMPTS_WITH_FAILURES: Final = 2
_REFUSALS_OF_ORIGIN: Final = 2
_BEST_FIRST: Final = (TokenState.YES, TokenState.PENDING, TokenState.FAILED, TokenState.NO)


@dataclass(frozen=True, slots=True)
class AskSchedule:
    """The times of requests to one instance, in seconds. A refusal after ``retry_for`` is final; ``deadline`` is hard."""

    retry_for: float
    deadline: float
    first_delay: float
    longest_delay: float

    @classmethod
    def of(cls, interval: float, retry_for: float | None = None, deadline: float | None = None) -> AskSchedule:
        """Return the schedule for a store that synchronizes every ``interval`` seconds."""
        lasts = interval * _INTERVALS if retry_for is None else retry_for
        return cls(
            lasts,
            lasts + _GRACE if deadline is None else deadline,
            max(0.01, interval * _FIRST_DELAY),
            max(0.02, interval * _LONGEST_DELAY),
        )

    def delay(self, attempt: int, elapsed: float, jitter: float, load: int | None = None) -> float | None:
        """Return the seconds to wait after ``attempt`` requests (from 1); None after the last retry.

        ``jitter`` is between 0 and 1. ``load`` is the number of instances that all questions are asking; the fewer they
        are, the shorter the delay. The last request is sent when ``retry_for`` ends, so that a late token still counts.
        """
        if elapsed >= self.retry_for:
            return None
        longest = self.longest_delay
        if load is not None:
            longest = min(longest, max(_SHORTEST_DELAY, load / _ASKS_PER_SECOND))
        # The exponent is bounded; the longest delay is reached much earlier.
        wanted = min(self.first_delay * _GROWTH ** min(attempt - 1, 30), longest)
        return min(wanted * (1 + _JITTER * (2 * jitter - 1)), self.retry_for - elapsed)


@dataclass(frozen=True, slots=True)
class Question:
    """A request to many instances: `others` are counted, `controls` only confirm that the token is valid.

    Either the origin is the only control, or its name is shared. Then it is one of the controls or of `shared`, which are
    also among the others.
    """

    request: bytes
    others: Sequence[Instance]
    controls: Sequence[Instance]
    shared: Sequence[Instance]
    quorum: Quorum
    schedule: AskSchedule

    @property
    def needed(self) -> int:
        """Return the number of others that must have the token. An origin among them has it and does not count."""
        own = 1 if self.shared else 0
        return needed_of(self.quorum, len(self.others) - own) + own


@dataclass(slots=True)
class AskLoad:
    """The number of instances that all questions together are asking at present."""

    asked: int = 0


class OngoingQuestion:
    """A question in progress, in the loop's thread. ``rng`` is for the jitter."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        replicas: ReplicaClient,
        question: Question,
        rng: random.Random,
        load: AskLoad,
    ) -> None:
        self.loop, self.replicas, self.question = loop, replicas, question
        self._rng, self._load = rng, load
        self._began = loop.time()
        self._needed = question.needed
        self._yes = 0
        self._pending = len(question.others)
        # The order is random, so that no instance is always asked first or last.
        order = list(question.others)
        rng.shuffle(order)
        self._asked = [_AskedInstance(self, instance) for instance in order]
        refusals = _REFUSALS_OF_ORIGIN if len(question.controls) == 1 and not question.shared else None
        self._controls = [_AskedInstance(self, one, refusals) for one in question.controls]
        self._origins = [*self._controls, *(one for one in self._asked if one.instance in question.shared)]
        self._result: asyncio.Future[ProbeResult] = loop.create_future()

    async def run(self) -> ProbeResult:
        """Ask and return the verdict, at the latest in the loop's first iteration after the hard deadline."""
        everybody = [*self._controls, *self._asked]  # the origin first, so that it is seldom the last to respond
        timer = self.loop.call_later(self.question.schedule.deadline, partial(self._decide, over=True))
        self._load.asked += self._pending
        try:
            for one in everybody:
                one.ask()
            self._decide(over=False)
            return await self._result
        finally:
            timer.cancel()
            self._load.asked -= self._pending
            for one in everybody:
                one.stop()

    @property
    def elapsed(self) -> float:
        """Return the seconds since the question began."""
        return self.loop.time() - self._began

    def delay(self, attempt: int) -> float | None:
        return self.question.schedule.delay(attempt, self.elapsed, self._rng.random(), self._load.asked)

    def record(self, one: _AskedInstance) -> None:
        """Count the final result of one instance."""
        if one not in self._controls:
            self._pending -= 1
            self._load.asked -= 1
            self._yes += one.result.state is TokenState.YES
        self._decide(over=False)

    def _decide(self, *, over: bool) -> None:
        """End if the verdict is certain."""
        if self._result.done():
            return
        origin = self._origin_state()
        if origin is TokenState.NO:
            self._end(Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES)
            return
        enough = bool(self._asked) and self._yes >= self._needed
        if over or ((enough or self._pending == 0) and origin is not TokenState.PENDING):
            results = [one.result for one in self._asked]
            listed = bool(self._origins)
            self._end(*judge(results, self._needed, over=over, origin_listed=listed, origin=self._only_origin()))

    def _origin_state(self) -> TokenState | None:
        """Return the best state of the instances that may be the origin; NO only if all of them refuse the token."""
        return min((one.result.state for one in self._origins), key=_BEST_FIRST.index, default=None)

    def _only_origin(self) -> InstanceResult | None:
        return self._origins[0].result if len(self._origins) == 1 else None

    def _end(self, verdict: Verdict, reason: Reason) -> None:
        results = tuple(sorted((one.result for one in self._asked), key=lambda one: (one.name, one.address)))
        elapsed = self.elapsed * 1000
        self._result.set_result(ProbeResult(verdict, reason, results, self._only_origin(), self._needed, elapsed))


class _AskedInstance:
    """One instance and its responses so far.

    The instance lacks the token after that many `refusals`; with None, if it still refuses the token after the last retry.
    """

    __slots__ = ("_asking", "_exchange", "_refusals", "_stopped", "_timer", "_troubles", "instance", "result")

    def __init__(self, asking: OngoingQuestion, instance: Instance, refusals: int | None = None) -> None:
        self.instance = instance
        self.result = InstanceResult(instance.name, instance.where)
        self._asking = asking
        self._refusals = refusals
        self._exchange: ReplicaRequest | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._troubles = 0
        self._stopped = False

    def ask(self) -> None:
        self._timer = None
        self.result.attempts += 1
        where = (self.instance.address, self.instance.port)
        exchange = self._asking.replicas.send(where, self._asking.question.request, self.answered)
        # The response may have come already, and another request may have been scheduled.
        if self.result.state is TokenState.PENDING and self._timer is None and not self._stopped:
            self._exchange = exchange

    def answered(self, answer: ReplicaResponse) -> None:
        self._exchange = None
        result = self.result
        result.last_status = answer.status if answer.status is not None else result.last_status
        if answer.status == 200:
            result.first_yes, result.reason = round(self._asking.elapsed * 1000, 3), ""
            self._settle(TokenState.YES)
            return
        if answer.status == 401:
            result.reason = "refused the token (401)"
            delay = self._asking.delay(result.attempts)
            if self._refusals is not None:
                self._refusals -= 1
                delay = (delay or 0.0) if self._refusals else None
            if delay is None:
                self._settle(TokenState.NO)
            else:
                self._timer = self._asking.loop.call_later(delay, self.ask)
            return
        result.reason = answer.text
        self._troubles += 1
        delay = self._asking.delay(self._troubles)
        if delay is None or self._troubles >= _ATTEMPTS_WITH_FAILURES:
            self._settle(TokenState.FAILED)
        else:
            self._timer = self._asking.loop.call_later(delay, self.ask)

    def stop(self) -> None:
        """Stop asking."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    def _settle(self, state: TokenState) -> None:
        self.result.state = state
        self._asking.record(self)
