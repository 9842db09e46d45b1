"""Limits of endpoints that all functions keep together: requests and bytes per second, and requests at a time.

A :class:`Ledger` divides each limit among the functions of all processes; :class:`Budget` spends the share of this process
at one endpoint. No two clocks are compared for the rates:

- Time is divided into windows of about half a second, and the ledger counts what was granted of the current one. A
  process opens the next window once it has itself seen the current one for its full length, by its own clock. So a
  window is never too short, whatever the clocks say.
- The first process that gets nothing of a window has a share of the next one reserved, so none starves.
- A grant is a quarter of a window, and is spent within the length of a window or lost. So what was granted in one
  window is spent within two, and any period has at most one second's worth more than the limit allows.
- Slots for requests are held for a few seconds and renewed while they are used. If others wait, each process keeps its
  fair share, and one that keeps a slot for long returns it.

A process that dies loses its grants, and its slots expire. Without limits nothing here is called.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import floor
from typing import Final, Protocol

from syncline.clients.http.retry import RetryPolicy
from syncline.errors import SynclineError

LONGEST_WAIT: Final = 30.0
"""Seconds without a grant to this process after which its work is queued again."""
RETURN_AFTER: Final = 5.0
"""Seconds after which a process returns its slots while others wait."""
RENEW_AFTER: Final = 5.0
"""Seconds after which slots are renewed."""
_PARTS: Final = 4
_LONGEST_PAUSE: Final = 2.0
_DELAY: Final = 5.0


@dataclass(frozen=True, slots=True)
class Allowed:
    """The limits of an endpoint: requests and bytes a second, and requests at a time; None for no limit."""

    requests: float | None = None
    concurrent: int | None = None
    bytes: int | None = None


Slots = tuple[int, int, bool]
"""The slots that a process holds, the fair share of each process, and True if others wait for some."""


@dataclass(frozen=True, slots=True)
class WindowRule:
    """The amount of a window, and the share of it that is reserved for an owner that asked for it."""

    most: int
    share: int


class Ledger(Protocol):
    """The counts of all processes. The methods raise AWS_UNAVAILABLE if it cannot be reached."""

    def current(self, name: str) -> tuple[int, int] | None:
        """Return the number of the current window of a rate and the amount granted of it, None before the first one."""

    def grant(self, name: str, owner: str, window: int, amount: int, rule: WindowRule) -> bool:
        """Grant an amount of a window. Return False if the window is over or has too little left."""

    def open(self, name: str, owner: str, after: int | None, amount: int, rule: WindowRule) -> int | None:
        """Open the window after another one; return the amount granted of it, None if that is not the current one.

        It is 0 if what is left is reserved for the owner that asked first.
        """

    def ask(self, name: str, owner: str, window: int) -> bool:
        """Reserve a share of the next window, unless another owner has."""

    def slots(self, name: str, owner: str, in_use: int, wanted: int, limit: int) -> Slots:
        """Set the number of slots that a process holds, as far as some are free. With 0 wanted it returns all."""


class _Rate:
    """The share of this process in a limit per second. Used under the lock of its budget."""

    def __init__(self, name: str, owner: str, limit: float, ledger: Ledger, clock: Callable[[], float]) -> None:
        # The limit is a part of the name: with another one, windows have another length.
        self._name, self._owner, self._ledger, self._clock = f"{name}:{limit:g}", owner, ledger, clock
        most = max(1, floor(limit / 2))
        self._rule = WindowRule(most, max(1, most // _PARTS))
        self._length = most / limit
        self._window: int | None = None
        self._seen = 0.0  # when this process had seen the window for the first time
        self._left = 0
        self._until = 0.0  # the end of the grant
        self._next = 0.0  # when the next unit of the grant is spent
        self.last_grant: float | None = None

    def spend(self, amount: int, *, spaced: bool) -> float:
        """Spend an amount and return 0, or return the seconds after which to try again.

        ``spaced`` units are spread over the length of a window. Other amounts may be owed: then it returns 0 once all is
        paid.
        """
        now = self._clock()
        if self._left > 0 and now >= self._until:
            self._left = 0
        if not spaced:
            self._left -= amount
            while self._left < 0:
                if pause := self._refill(self._clock(), -self._left):
                    return pause
            return 0.0
        if self._left < amount and (pause := self._refill(now, amount)):
            return pause
        now = self._clock()
        if now < self._next < self._until:
            return self._next - now
        self._left -= amount
        self._next = now + self._length / self._rule.most * amount
        return 0.0

    def _refill(self, now: float, needed: int) -> float:
        """Get a grant and return 0, or return the seconds after which to try again."""
        name, owner, rule = self._name, self._owner, self._rule
        amount = min(rule.most, max(rule.share, needed))
        if self._window is None:
            self._read()
        for _ in range(3):
            if self._window is not None:
                if self._ledger.grant(name, owner, self._window, amount, rule):
                    return self._granted(amount, now)
                before, used = self._window, self._read()
                if self._window != before:
                    continue
                if 0 < rule.most - used < amount and amount > rule.share:
                    amount = max(rule.share, rule.most - used)
                    continue
                assert self._window is not None
                over = self._seen + self._length - self._clock()
                if over > 0:
                    return self._refused(self._window, over)
            now = self._clock()
            opened = self._ledger.open(name, owner, self._window, amount, rule)
            if opened is None:
                self._read()
                continue
            self._window, self._seen = 0 if self._window is None else self._window + 1, self._clock()
            return self._granted(opened, now) if opened else self._length
        return self._length / _PARTS

    def _read(self) -> int:
        """Read the current window and return what was granted of it; 0 if there is none."""
        current = self._ledger.current(self._name)
        if current is None:
            self._window = None
            return 0
        if current[0] != self._window:
            self._window, self._seen = current[0], self._clock()
        return current[1]

    def _granted(self, amount: int, asked: float) -> float:
        """Note a grant that was requested at a time: it is spent within the length of a window from then."""
        if self._left <= 0:
            self._until = asked + self._length
        self._left += amount
        self.last_grant = self._clock()
        return 0.0

    def _refused(self, window: int, over: float) -> float:
        """Return a pause after a refusal: short for the process that asked first, random for the others."""
        if self._ledger.ask(self._name, self._owner, window):
            return min(over, self._length / _PARTS)
        return over + _LONGEST_PAUSE * (0.25 + secrets.randbelow(1000) / 1000)


@dataclass(slots=True)
class Slot:
    """The right to one open request. Ended once, however often :meth:`end` is called."""

    _end: Callable[[], None] | None

    def end(self) -> None:
        """Return the slot."""
        end, self._end = self._end, None
        if end is not None:
            end()


class Budget:
    """The share of this process in the limits of one endpoint. Safe for concurrent use by threads."""

    def __init__(self, endpoint: str, allowed: Allowed, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self._allowed = allowed
        self._ledger = ledger
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._requests = self._rate("requests", allowed.requests)
        self._bytes = self._rate("bytes", allowed.bytes)
        self._held = 0
        self._used: Counter[int] = Counter()  # open requests by thread; those of one thread share a slot
        self._fair = 1
        self._waited_for = False
        self._since: float | None = None  # when the slots were taken
        self._renewed = 0.0
        self._rests_until = 0.0
        self._registered = False  # in the ledger

    def _rate(self, unit: str, limit: float | None) -> _Rate | None:
        return (
            None if limit is None else _Rate(f"{self.endpoint}#{unit}", self._owner, limit, self._ledger, self._clock)
        )

    def begin(self, policy: RetryPolicy, size: int = 0) -> tuple[Slot, float]:
        """Wait until a request with ``size`` bytes may begin; return its slot, and the seconds waited.

        Raises LIMIT_REACHED if others use up the limit, RUN_CANCELLED, and TIME_SHORT at the policy's deadline.
        """
        waited, slot = 0.0, Slot(None)
        if self._allowed.concurrent is not None:
            waited += self._wait(policy, self._take_slot, "requests at a time", self._allowed.concurrent)
            slot = Slot(partial(self._return_slot, threading.get_ident()))
        try:
            if self._requests is not None:
                rate, limit = self._requests, self._allowed.requests
                waited += self._wait(policy, lambda: rate.spend(1, spaced=True), "requests per second", limit, rate)
            waited += self.count(policy, size)
        except BaseException:
            slot.end()
            raise
        return slot, waited

    def count(self, policy: RetryPolicy, size: int) -> float:
        """Count bytes that were sent or received, and wait until the limit allows more. Raises as :meth:`begin`."""
        rate = self._bytes
        if rate is None or not size:
            return 0.0
        sizes = iter((size,))
        return self._wait(
            policy, lambda: rate.spend(next(sizes, 0), spaced=False), "bytes per second", self._allowed.bytes, rate
        )

    def _wait(
        self,
        policy: RetryPolicy,
        attempt: Callable[[], float],
        unit: str,
        limit: float | None,
        rate: _Rate | None = None,
    ) -> float:
        """Call ``attempt`` until it returns 0, with the pauses that it returns; return the seconds waited."""
        begun: float | None = None
        while True:
            with self._lock:
                pause = attempt()
                now = self._clock()
                # Other threads of this process may get what this one waits for.
                granted = rate.last_grant if rate is not None else now if self._used else None
            if pause <= 0:
                return 0.0 if begun is None else now - begun
            begun = now if begun is None else begun
            if policy.halted():
                raise SynclineError("RUN_CANCELLED", f"the run was cancelled while it waited for {self.endpoint}")
            if policy.expired:
                what = f"the function's time was over while it waited for the limit of {self.endpoint}"
                raise SynclineError("TIME_SHORT", what)
            if now - max(begun, begun if granted is None else granted) > LONGEST_WAIT:
                delay = _DELAY * (1 + policy.chance())
                what = f"other functions use the limit of {limit:g} {unit} at {self.endpoint}"
                raise SynclineError("LIMIT_REACHED", what, retry_after=delay)
            if policy.deadline is not None:
                pause = min(pause, max(0.0, policy.deadline - policy.clock()) + 0.001)
            policy.wait(pause)
            self.beat()

    # -- slots ---------------------------------------------------------------------------------------------------

    def _take_slot(self) -> float:
        """Take a slot and return 0, or return the seconds after which to try again."""
        thread, now = threading.get_ident(), self._clock()
        in_use = len(self._used)
        if not self._used[thread]:  # otherwise a request needs another one, and must not wait for itself
            if now < self._rests_until:
                return self._rests_until - now
            if self._waited_for and not in_use and self._since is not None and now - self._since > RETURN_AFTER:
                self._write(0)
                self._rests_until = now + 0.5 + secrets.randbelow(1000) / 1000
                return self._rests_until - now
            if in_use >= self._usable or now - self._renewed >= RENEW_AFTER:
                self._write(in_use + 1)
            if in_use >= self._usable:
                return 0.5 + secrets.randbelow(1000) / 1000
        self._used[thread] += 1
        return 0.0

    @property
    def _usable(self) -> int:
        return min(self._held, self._fair) if self._waited_for else self._held

    def _return_slot(self, thread: int) -> None:
        with self._lock:
            self._used[thread] -= 1
            if self._used[thread] <= 0:
                del self._used[thread]

    def _write(self, wanted: int) -> None:
        limit = self._allowed.concurrent
        assert limit is not None
        name = f"{self.endpoint}#concurrent:{limit}"
        self._held, self._fair, self._waited_for = self._ledger.slots(name, self._owner, len(self._used), wanted, limit)
        self._renewed, self._registered = self._clock(), wanted > 0
        if not self._held:
            self._since = None
        elif self._since is None:
            self._since = self._renewed

    def beat(self) -> None:
        """Renew the slots of open requests if it is time. A failure is ignored: the next call tries again."""
        if self._registered and self._clock() - self._renewed >= RENEW_AFTER and self._lock.acquire(blocking=False):
            try:
                self._write(len(self._used))
            except SynclineError:
                self._renewed = self._clock()
            finally:
                self._lock.release()

    def give_back(self) -> None:
        """Return the slots that are not used now. A failure is ignored: they expire."""
        with self._lock:
            if self._registered and len(self._used) < max(1, self._held):
                with suppress(SynclineError):
                    self._write(len(self._used))


@dataclass(slots=True)
class Budgets:
    """The budgets of a process, one for each endpoint and its limits. Without a ledger the limits hold for this process."""

    ledger: Ledger | None = None
    _budgets: dict[tuple[str, Allowed], Budget] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, endpoint: str, allowed: Allowed, clock: Callable[[], float]) -> Budget:
        """Return the budget of an endpoint."""
        with self._lock:
            budget = self._budgets.get((endpoint, allowed))
            if budget is None:
                if self.ledger is None:
                    self.ledger = LocalLedger()
                budget = self._budgets[endpoint, allowed] = Budget(endpoint, allowed, self.ledger, clock)
            return budget

    def beat(self) -> None:
        """Renew the slots of all open requests if it is time."""
        for budget in tuple(self._budgets.values()):
            budget.beat()

    def give_back(self) -> None:
        """Return the slots that are not used now."""
        for budget in tuple(self._budgets.values()):
            budget.give_back()


class LocalLedger:
    """The ledger of one process."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[int, int]] = {}

    def current(self, name: str) -> tuple[int, int] | None:
        """Return the current window of a rate; see :class:`Ledger`."""
        return self._windows.get(name)

    def grant(self, name: str, owner: str, window: int, amount: int, rule: WindowRule) -> bool:  # noqa: ARG002 - one owner
        """Grant an amount of a window."""
        number, used = self._windows.get(name, (-1, 0))
        if number != window or used + amount > rule.most:
            return False
        self._windows[name] = (number, used + amount)
        return True

    def open(self, name: str, owner: str, after: int | None, amount: int, rule: WindowRule) -> int | None:  # noqa: ARG002
        """Open the window after another one."""
        if self._windows.get(name, (None,))[0] != after:
            return None
        self._windows[name] = (0 if after is None else after + 1, amount)
        return amount

    def ask(self, name: str, owner: str, window: int) -> bool:  # noqa: ARG002
        """Return True: no other owner asks."""
        return True

    def slots(self, name: str, owner: str, in_use: int, wanted: int, limit: int) -> Slots:  # noqa: ARG002 - one owner
        """Set the slots of the process."""
        return min(wanted, limit), limit, False
