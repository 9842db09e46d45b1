"""Retry policy of requests, and the spacing of requests to hosts that asked to slow down."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from syncline.errors import SynclineError

FIRST_INTERVAL: Final = 0.05  # seconds between requests to a host after its first 429; doubled by each further one
MAX_INTERVAL: Final = 2.0  # seconds
MIN_INTERVAL: Final = 0.01  # seconds; a shorter interval is dropped
MIN_RATE: Final = 1024  # bytes a second; a slower body ends the request
SLOW_RATE: Final = 100 * 1024  # bytes a second; a slower body is reported
LONG_PAUSE: Final = 60.0  # seconds; a longer pause is reported with its end
_POLL_INTERVAL: Final = 2.0  # seconds between checks for a halt during a pause


def never_halted() -> bool:
    """Return False; the default of ``halted``."""
    return False


def ignore_slow(_what: str) -> None:
    """Do nothing; the default of ``on_slow``."""


def ignore_pause(host: str, seconds: float) -> None:
    """Do nothing; the default of ``on_pause``."""


def utc_time_in(seconds: float) -> str:
    """Return the time of day in ``seconds`` from now, in UTC."""
    return time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + seconds))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retry policy: up to ``attempts`` requests, ``base`` seconds before the second, doubling with jitter after that.

    ``deadline`` is a time of ``clock`` in seconds, None for no deadline. Requests end once ``halted`` returns True.
    ``min_rate`` is the minimum rate of a body in bytes a second. ``on_slow`` gets a message about each body slower than
    :data:`SLOW_RATE`, every 30 seconds of waiting.

    A pause longer than ``cap`` seconds, or past the deadline, is not waited for: the error is raised with
    ``retry_after``, so that the caller can queue a continuation instead. ``on_pause`` is called with the host and the
    seconds before a pause longer than :data:`LONG_PAUSE`.
    """

    attempts: int = 4
    base: float = 0.25
    cap: float = 10.0
    deadline: float | None = None
    chance: Callable[[], float] = random.random
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    halted: Callable[[], bool] = never_halted
    min_rate: int = MIN_RATE
    on_slow: Callable[[str], None] = ignore_slow
    on_pause: Callable[[str, float], None] = ignore_pause

    def pause(self, attempt: int, retry_after: float | None = None) -> float:
        """Return the seconds to wait after failure ``attempt`` (from 1): ``retry_after``, else doubling with jitter."""
        if retry_after is not None:
            return retry_after
        # Between half and all of it, so that threads that failed together do not retry together.
        return min(self.cap, self.base * 2.0 ** (attempt - 1)) * (0.5 + self.chance() / 2)

    @property
    def expired(self) -> bool:
        """Return True after the deadline."""
        return self.deadline is not None and self.clock() >= self.deadline

    def allows(self, pause: float) -> bool:
        """Return True if a pause of ``pause`` seconds is neither too long nor past the deadline."""
        return pause <= self.cap and (self.deadline is None or self.clock() + pause < self.deadline)

    def wait(self, seconds: float) -> None:
        """Sleep for ``seconds``, or until the policy is halted."""
        sleep_unless_halted(seconds, self.sleep, self.halted)


def sleep_unless_halted(seconds: float, sleep: Callable[[float], None], halted: Callable[[], bool]) -> None:
    """Sleep for ``seconds``, or until ``halted`` returns True."""
    while seconds > 0 and not halted():
        sleep(min(seconds, _POLL_INTERVAL))
        seconds -= _POLL_INTERVAL


@dataclass(slots=True)
class _Host:
    start: float  # the earliest time of the next request
    interval: float


class HostThrottle:
    """Spaces the requests to each host that answered 429. Shared by all threads of the process."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def wait(self, name: str, policy: RetryPolicy) -> float:
        """Wait until the host may get the next request, and return the seconds.

        Raises THROTTLED at once if ``policy`` does not allow the pause.
        """
        if name not in self._hosts:  # the usual case costs no lock
            return 0.0
        with self._lock:
            host = self._hosts.get(name)
            if host is None:
                return 0.0
            now = policy.clock()
            pause = max(0.0, host.start - now)
            if not policy.allows(pause):
                until = f"; it asks to wait until {utc_time_in(pause)}"
                what = f"{name} asked to slow down{until if pause > LONG_PAUSE else ''}"
                raise SynclineError("THROTTLED", what, retry_after=pause)
            host.start = max(host.start, now) + host.interval
        if pause > LONG_PAUSE:
            policy.on_pause(name, pause)
        policy.wait(pause)
        return pause

    def slow_down(self, name: str, pause: float, policy: RetryPolicy) -> None:
        """After a 429, send nothing for ``pause`` seconds, then space the requests."""
        with self._lock:
            now = policy.clock()
            host = self._hosts.get(name)
            if host is None:
                self._hosts[name] = _Host(now + pause, FIRST_INTERVAL)
                return
            if now >= host.start:  # otherwise the 429 answers a request sent before the pause
                host.interval = min(MAX_INTERVAL, host.interval * 2)
            host.start = max(host.start, now + pause)

    def ease(self, name: str) -> None:
        """After a success, reduce the interval, and drop it below :data:`MIN_INTERVAL`."""
        if name not in self._hosts:
            return
        with self._lock:
            host = self._hosts.get(name)
            if host is not None:
                host.interval *= 0.9
                if host.interval < MIN_INTERVAL:
                    del self._hosts[name]


HOST_THROTTLE: Final = HostThrottle()
