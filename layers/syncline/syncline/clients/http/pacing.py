"""Patience: how often and when a request is tried again, and the gap kept to a host that asked for it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from syncline.errors import SynclineError

FIRST_GAP: Final = 0.05  # seconds between requests to a host after its first 429; doubled by each further one
LARGEST_GAP: Final = 2.0
FORGOTTEN_GAP: Final = 0.01  # a gap eased below this is no gap


SLOWEST: Final = 1024  # bytes a second: a body that comes or is taken at less is not waited for
SLOW: Final = 100 * 1024  # bytes a second: a body at less goes on, and whoever waits is told
LONG_PAUSE: Final = 60.0  # seconds: a longer pause is told with its end
_NAP: Final = 2.0  # seconds of a pause after which it is checked whether the pause is still wanted


def never() -> bool:
    """Return False: nothing halts the requests."""
    return False


def unheard(_what: str) -> None:
    """Ignore that a body is slow."""


def untold(host: str, seconds: float) -> None:
    """Tell nobody of a pause."""


def clock_in(seconds: float) -> str:
    """Return the time of day in ``seconds`` from now, in UTC."""
    return time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + seconds))


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient to be. Times are in seconds; ``deadline`` is one of ``clock``, None for no end.

    No request goes on once ``halted`` returns True. ``slowest`` is the lowest rate of a body in bytes a second.
    ``slow`` is told of a body at less than :data:`SLOW`, every half minute of waiting.

    A pause that would be longer than ``cap``, or reach past the deadline, is not slept through: the failure goes to
    the caller with ``retry_after``, who has better places to wait. Before a longer pause than :data:`LONG_PAUSE` for a
    host, ``told`` is called with the host and the seconds.
    """

    attempts: int = 4
    base: float = 0.25
    cap: float = 10.0
    deadline: float | None = None
    chance: Callable[[], float] = random.random
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    halted: Callable[[], bool] = never
    slowest: int = SLOWEST
    slow: Callable[[str], None] = unheard
    told: Callable[[str, float], None] = untold

    def pause(self, attempt: int, retry_after: float | None = None) -> float:
        """Seconds to wait after failure number ``attempt`` (from 1): what the server says, else doubling with jitter."""
        if retry_after is not None:
            return retry_after
        # Between half and the whole, so that threads that failed together do not come back together.
        return min(self.cap, self.base * 2.0 ** (attempt - 1)) * (0.5 + self.chance() / 2)

    @property
    def over(self) -> bool:
        """Whether the deadline is past."""
        return self.deadline is not None and self.clock() >= self.deadline

    def bears(self, pause: float) -> bool:
        """Whether there is patience and time for a pause."""
        return pause <= self.cap and (self.deadline is None or self.clock() + pause < self.deadline)

    def rest(self, seconds: float) -> None:
        """Sleep for ``seconds``, or until the policy is halted."""
        rest(seconds, self.sleep, self.halted)


def rest(seconds: float, sleep: Callable[[float], None], halted: Callable[[], bool]) -> None:
    """Sleep for ``seconds``, or until ``halted`` returns True."""
    while seconds > 0 and not halted():
        sleep(min(seconds, _NAP))
        seconds -= _NAP


@dataclass(slots=True)
class _Host:
    start: float  # the earliest time for the next request
    gap: float


class Pace:
    """When the next request to each throttling host may start; shared by all threads of the process."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def wait(self, name: str, policy: Policy) -> None:
        """Wait for this host's turn; THROTTLED at once if that is further away than ``policy`` bears."""
        if name not in self._hosts:  # the usual case costs no lock
            return
        with self._lock:
            host = self._hosts.get(name)
            if host is None:
                return
            now = policy.clock()
            pause = max(0.0, host.start - now)
            if not policy.bears(pause):
                until = f"; it asks to wait until {clock_in(pause)}"
                what = f"{name} asked to slow down{until if pause > LONG_PAUSE else ''}"
                raise SynclineError("THROTTLED", what, retry_after=pause)
            host.start = max(host.start, now) + host.gap
        if pause > LONG_PAUSE:
            policy.told(name, pause)
        policy.rest(pause)

    def slow_down(self, name: str, pause: float, policy: Policy) -> None:
        """After a 429: nothing for ``pause`` seconds, then with a gap between requests."""
        with self._lock:
            now = policy.clock()
            host = self._hosts.get(name)
            if host is None:
                self._hosts[name] = _Host(now + pause, FIRST_GAP)
                return
            if now >= host.start:  # else it answers a request sent before the pause, and tells nothing new
                host.gap = min(LARGEST_GAP, host.gap * 2)
            host.start = max(host.start, now + pause)

    def ease(self, name: str) -> None:
        """After a success: a smaller gap, in the end none."""
        if name not in self._hosts:
            return
        with self._lock:
            host = self._hosts.get(name)
            if host is not None:
                host.gap *= 0.9
                if host.gap < FORGOTTEN_GAP:
                    del self._hosts[name]


PACE: Final = Pace()
