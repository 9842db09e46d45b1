"""One question to many instances: each is asked until it has the token, is given up, or the time is over.

200 means that an instance has the token, 401 that it does not have it yet: it is asked again after a delay with jitter,
until the retries are over. Anything else gets one more try, because a connection may break at any time; then it is
unknown whether the instance has the token.

The origin is asked too, as a control: 401 there, twice, means that the token itself is bad, whatever the others say.
The verdict waits for its answer, so that it does not depend on who answers first. Several instances may have the
origin's name. Then each of them is asked and counted like the others, and the token is bad if all of them refuse it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from syncline.clients.replicas.client import ReplicaClient, ReplicaRequest, ReplicaResponse
from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens.verdict import Finding, Known, Quorum, Reason, Seen, State, judge

# How long a question is asked, and how often: derived from how often the store tells its peers.

FEWEST_INTERVALS: Final = 2.0
"""A change may just miss one round and travel with the next, so less than two intervals prove nothing."""
_INTERVALS: Final = 2.5
_GRACE: Final = 0.5  # seconds between the last retry and the hard deadline: an instance may be slow to answer
_FIRST_DELAY: Final = 0.05  # share of the interval
_LONGEST_DELAY: Final = 0.25  # share of the interval
_GROWTH: Final = 1.6
_SHORTEST_DELAY: Final = 0.02  # seconds; more often would tell nothing that somebody waiting for a login notices
_ASKS_PER_SECOND: Final = 2000.0  # about what one process may ask of all instances together and still answer at once
_JITTER: Final = 0.25  # a delay is this share shorter or longer, so that questions do not come in waves


@dataclass(frozen=True, slots=True)
class Patience:
    """All in seconds. After ``retry_for`` an instance that still says no is taken at its word; ``deadline`` is hard."""

    retry_for: float
    deadline: float
    first_delay: float
    longest_delay: float

    @classmethod
    def of(cls, interval: float, retry_for: float | None = None, deadline: float | None = None) -> Patience:
        """For a store that synchronizes every ``interval`` seconds."""
        lasts = interval * _INTERVALS if retry_for is None else retry_for
        return cls(
            lasts,
            lasts + _GRACE if deadline is None else deadline,
            max(0.01, interval * _FIRST_DELAY),
            max(0.02, interval * _LONGEST_DELAY),
        )

    def delay(self, attempt: int, elapsed: float, chance: float, crowd: int | None = None) -> float | None:
        """Seconds to wait after ``attempt`` questions (from 1); None when the retries are over.

        ``chance`` is between 0 and 1. ``crowd`` is how many instances are being asked just now, by whomever: the
        fewer, the more often each. The last question comes when ``retry_for`` ends, not before: what arrives late is
        still seen.
        """
        if elapsed >= self.retry_for:
            return None
        longest = self.longest_delay
        if crowd is not None:
            longest = min(longest, max(_SHORTEST_DELAY, crowd / _ASKS_PER_SECOND))
        # The exponent is bounded: long before that the longest delay is reached.
        wanted = min(self.first_delay * _GROWTH ** min(attempt - 1, 30), longest)
        return min(wanted * (1 + _JITTER * (2 * chance - 1)), self.retry_for - elapsed)


_TRIES_AFTER_TROUBLE: Final = 2
_REFUSALS_OF_ORIGIN: Final = 2


@dataclass(frozen=True, slots=True)
class Question:
    """A request to many instances: `others` are counted, `controls` only confirm that the token is good.

    Either the origin is the only control, or its name is shared: then it is one of the controls or of `shared`, which
    are among the others.
    """

    request: bytes
    others: Sequence[Instance]
    controls: Sequence[Instance]
    shared: Sequence[Instance]
    quorum: Quorum
    patience: Patience

    @property
    def needed(self) -> int:
        """Return how many of the others must have the token. An origin among them has it and does not count."""
        own = 1 if self.shared else 0
        return self.quorum.needed(len(self.others) - own) + own


@dataclass(slots=True)
class Crowd:
    """Number of instances that all questions together are asking at present."""

    asked: int = 0


class Asking:
    """A question under way, in the loop's thread. ``chance`` is for the jitter."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        replicas: ReplicaClient,
        question: Question,
        chance: random.Random,
        crowd: Crowd,
    ) -> None:
        self._crowd = crowd
        self._loop = loop
        self._replicas = replicas
        self._question = question
        self._chance = chance
        self._began = 0.0
        self._needed = question.needed
        self._yes = 0
        self._pending = len(question.others)
        self._asked: list[_Asked] = []
        self._controls: list[_Asked] = []
        self._origins: list[_Asked] = []
        self._finding: asyncio.Future[Finding] = loop.create_future()

    async def finding(self) -> Finding:
        """Ask and return the verdict, at the latest in the loop's first turn after the hard deadline."""
        self._began = self._loop.time()
        question = self._question
        # The order is random, so that no instance is always asked first or last.
        order = list(question.others)
        self._chance.shuffle(order)
        self._asked = [_Asked(self, instance) for instance in order]
        refusals = _REFUSALS_OF_ORIGIN if len(question.controls) == 1 and not question.shared else None
        self._controls = [_Asked(self, one, refusals) for one in question.controls]
        self._origins = [*self._controls, *(one for one in self._asked if one.instance in question.shared)]
        timer = self._loop.call_later(question.patience.deadline, self._over)
        self._crowd.asked += self._pending
        try:
            for one in self._everybody():
                one.ask()
            self._look(over=False)
            return await self._finding
        finally:
            timer.cancel()
            self._crowd.asked -= self._pending
            for one in self._everybody():
                one.stop()

    @property
    def elapsed(self) -> float:
        """Return the seconds since the question began."""
        return self._loop.time() - self._began

    @property
    def patience(self) -> Patience:
        return self._question.patience

    def delay(self, attempt: int) -> float | None:
        return self.patience.delay(attempt, self.elapsed, self._chance.random(), self._crowd.asked)

    def send(self, one: _Asked) -> ReplicaRequest:
        address = (one.instance.address, one.instance.port)
        return self._replicas.send(address, self._question.request, one.answered)

    def later(self, seconds: float, one: _Asked) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, one.ask)

    def settled(self, one: _Asked) -> None:
        """Take note of the last answer of one instance."""
        if one not in self._controls:
            self._pending -= 1
            self._crowd.asked -= 1
            self._yes += one.seen.state is State.YES
        self._look(over=False)

    def _look(self, *, over: bool) -> None:
        """End if the verdict is certain."""
        if self._finding.done():
            return
        origin = self._origin_state()
        if origin is State.NO:
            self._end(Known.NOT_SYNCED, Reason.ORIGIN_REFUSES)
            return
        enough = bool(self._asked) and self._yes >= self._needed
        if over or ((enough or self._pending == 0) and origin is not State.PENDING):
            seen = [one.seen for one in self._asked]
            listed = bool(self._origins)
            self._end(*judge(seen, self._needed, over=over, origin_listed=listed, origin=self._only_origin()))

    def _origin_state(self) -> State | None:
        """Return the best state of the instances that may be the origin; NO only if all of them refuse the token."""
        states = {one.seen.state for one in self._origins}
        return next((state for state in (State.YES, State.PENDING, State.FAILED, State.NO) if state in states), None)

    def _only_origin(self) -> Seen | None:
        return self._origins[0].seen if len(self._origins) == 1 else None

    def _end(self, verdict: Known, reason: Reason) -> None:
        seen = tuple(sorted((one.seen for one in self._asked), key=lambda one: (one.name, one.address)))
        elapsed = self.elapsed * 1000
        self._finding.set_result(Finding(verdict, reason, seen, self._only_origin(), self._needed, elapsed))

    def _over(self) -> None:
        self._look(over=True)

    def _everybody(self) -> list[_Asked]:
        """Return the origin before the others, so that it is seldom the last to answer."""
        return [*self._controls, *self._asked]


class _Asked:
    """One instance and its answers so far.

    It lacks the token after so many `refusals`, however late they come. With None it lacks the token if it still refuses
    it when the retries are over.
    """

    __slots__ = ("_asking", "_exchange", "_refusals", "_stopped", "_timer", "_troubles", "instance", "seen")

    def __init__(self, asking: Asking, instance: Instance, refusals: int | None = None) -> None:
        self.instance = instance
        self.seen = Seen(instance.name, instance.where)
        self._asking = asking
        self._refusals = refusals
        self._exchange: ReplicaRequest | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._troubles = 0
        self._stopped = False

    def ask(self) -> None:
        self._timer = None
        self.seen.attempts += 1
        exchange = self._asking.send(self)
        # It may have been answered already, and even asked again.
        if self.seen.state is State.PENDING and self._timer is None and not self._stopped:
            self._exchange = exchange

    def answered(self, answer: ReplicaResponse) -> None:
        self._exchange = None
        seen = self.seen
        seen.last_status = answer.status if answer.status is not None else seen.last_status
        if answer.status == 200:
            seen.first_yes, seen.reason = round(self._asking.elapsed * 1000, 3), ""
            self._settle(State.YES)
            return
        if answer.status == 401:
            seen.reason = "asked for a login (401)"
            delay = self._asking.delay(seen.attempts)
            if self._refusals is not None:
                self._refusals -= 1
                delay = (delay or 0.0) if self._refusals else None
            if delay is None:
                self._settle(State.NO)
            else:
                self._timer = self._asking.later(delay, self)
            return
        seen.reason = _trouble(answer)
        self._troubles += 1
        delay = self._asking.delay(self._troubles)
        if delay is None or self._troubles >= _TRIES_AFTER_TROUBLE:
            self._settle(State.FAILED)
        else:
            self._timer = self._asking.later(delay, self)

    def stop(self) -> None:
        """Stop asking."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    def _settle(self, state: State) -> None:
        self.seen.state = state
        self._asking.settled(self)


def _trouble(answer: ReplicaResponse) -> str:
    if answer.reason is None:
        return f"answered {answer.status}"
    return f"{answer.reason.value}: {answer.detail}" if answer.detail else answer.reason.value
