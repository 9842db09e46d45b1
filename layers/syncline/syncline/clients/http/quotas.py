"""Quotas that servers state in response headers: how many requests are left, and until when.

=================================================  =====================================================================
headers                                            sent by
=================================================  =====================================================================
``RateLimit-Limit: 100;w=21600``, ``-Remaining``   Docker Hub, for pulls: a GET of a manifest counts, a HEAD does not
``X-RateLimit-Remaining``, ``-Reset`` (Unix time)  GitHub, GHCR, Docker Hub's API; GitLab without ``X-``
``RateLimit-Remaining``, ``-Reset`` (seconds)      drafts 3 to 7 of the IETF's RateLimit header fields
``RateLimit: limit=, remaining=, reset=``          draft 7 of the same
``RateLimit: "name";r=;t=``, ``RateLimit-Policy``  the later drafts
=================================================  =====================================================================

When less than a tenth is left, requests are spread over the time until the quota is renewed, so that others who share it
keep some. When nothing is left, none is sent before that time. ECR sends no such headers: its 429 is handled like any
other (:mod:`syncline.clients.http.retry`).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from syncline.clients.http.retry import LONG_PAUSE, RetryPolicy, utc_time_in
from syncline.errors import SynclineError

LOW_SHARE: Final = 0.1
"""Share of a quota below which requests are spread."""
ASK_AGAIN: Final = 900.0
"""Seconds after which a quota without a time of renewal is tried again: its window may be a rolling one."""
LONGEST: Final = 24 * 3600.0
QUOTA_HEADERS: Final = ("RateLimit", "RateLimit-Remaining", "X-RateLimit-Remaining")
"""Headers of which a response with a quota has at least one."""
_MAX_QUOTAS: Final = 200
_UNIX: Final = 1_000_000_000
"""Numbers from here on are Unix times, smaller ones are seconds."""
_NUMBER: Final = re.compile(r"\s*([0-9]{1,12})(?:\.[0-9]+)?\s*")
_WINDOW: Final = re.compile(r";\s*w=([0-9]{1,9})")
_PAIR: Final = re.compile(r"(?:^|[;,\s])(limit|remaining|reset|r|t|q|w)=([0-9]{1,12})")


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota as a response states it. ``reset`` is in seconds from now, None if it is not stated.

    ``window`` is the length of its window in seconds, None if unknown.
    """

    remaining: int
    limit: int | None = None
    reset: float | None = None
    window: float | None = None


def quotas_in(headers: Mapping[str, str], now: float) -> Iterator[Quota]:
    """Yield the quotas that a response states; ``now`` is the Unix time. Values that cannot be read are ignored."""
    value = headers.get("RateLimit", "")
    policies = headers.get("RateLimit-Policy", "")
    for entry in value.split(",") if "remaining=" not in value else [value]:
        stated = dict(_PAIR.findall(entry))
        left, reset = stated.get("remaining", stated.get("r")), stated.get("reset", stated.get("t"))
        if left is None:
            continue
        name = entry.partition(";")[0].strip()
        policy = next((each for each in policies.split(",") if each.partition(";")[0].strip() == name), policies)
        rule = dict(_PAIR.findall(policy))
        limit = stated.get("limit", rule.get("q"))
        yield Quota(
            int(left),
            None if limit is None else int(limit),
            None if reset is None else float(reset),
            float(rule["w"]) if "w" in rule else None,
        )
    for prefix in ("RateLimit-", "X-RateLimit-"):
        left, limit = _first(headers, f"{prefix}Remaining"), _first(headers, f"{prefix}Limit")
        if left is None:
            continue
        reset_text = _first(headers, f"{prefix}Reset")
        seconds = None if reset_text is None else float(reset_text - now + 1 if reset_text >= _UNIX else reset_text)
        window = _WINDOW.search(headers.get(f"{prefix}Limit", "")) or _WINDOW.search(
            headers.get(f"{prefix}Remaining", "")
        )
        yield Quota(left, limit, seconds, None if window is None else float(window[1]))


def _first(headers: Mapping[str, str], name: str) -> int | None:
    match = _NUMBER.match(headers.get(name, ""))
    return None if match is None else int(match[1])


@dataclass(slots=True)
class _State:
    limit: int | None
    left: int
    renewed_at: float  # of the clock: when it is renewed at the latest
    exact: bool  # the server states that time
    pulls: bool  # counts only the GETs of manifests
    in_flight: int = 0
    next_at: float = 0.0


class Quotas:
    """The quotas of the hosts and accounts that this process uses. Safe for concurrent use by threads."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._states: dict[tuple[str, str], _State] = {}
        self._lock = threading.Lock()

    def wait(self, host: str, account: str, method: str, target: str, policy: RetryPolicy) -> float:
        """Wait until a request may be sent, and return the seconds. Call :meth:`saw` or :meth:`ended` after it.

        Raises LIMIT_REACHED if the wait is longer than ``policy`` allows.
        """
        if (host, account) not in self._states:  # the usual case costs no lock
            return 0.0
        with self._lock:
            state = self._covering(host, account, method, target, policy.clock())
            if state is None:
                return 0.0
            now = policy.clock()
            pause = self._pause(state, now)
            if not policy.allows(pause):
                raise self._spent(host, state, pause, now)
            state.next_at = now + pause
            state.in_flight += 1
            state.left -= 1
        if pause > LONG_PAUSE:
            policy.on_pause(host, pause)
        policy.wait(pause)
        return pause

    def ended(self, host: str, account: str, method: str, target: str) -> None:
        """Note the end of a request that :meth:`wait` allowed."""
        if (host, account) not in self._states:
            return
        with self._lock:
            state = self._states.get((host, account))
            if state is not None and (not state.pulls or _is_pull(method, target)):
                state.in_flight = max(0, state.in_flight - 1)

    def saw(self, host: str, account: str, target: str, headers: Mapping[str, str], clock: Callable[[], float]) -> None:
        """Take the quotas of a response; of several, the one that ends last among those with the least left counts."""
        found = [each for each in quotas_in(headers, self._wall()) if each.reset is not None or each.window is not None]
        if not found:
            return
        least = min(
            found, key=lambda each: (each.remaining / (each.limit or max(1, each.remaining)), -(each.reset or 0))
        )
        now, exact = clock(), least.reset is not None
        ends = now + min(LONGEST, max(0.0, least.reset if least.reset is not None else least.window or 0.0))
        with self._lock:
            state = self._states.get((host, account))
            if state is None or now >= state.renewed_at:
                if len(self._states) >= _MAX_QUOTAS:
                    del self._states[next(iter(self._states))]
                pulls = not exact and "/manifests/" in target
                state = _State(least.limit, least.remaining, ends, exact, pulls)
                self._states[host, account] = state
                return
            if exact or least.remaining > state.left + state.in_flight:  # a window has begun, or moved on
                state.renewed_at = ends
            state.limit, state.exact = least.limit, exact
            state.left = max(0, least.remaining - state.in_flight)

    def spent(self, host: str, account: str, method: str, target: str, policy: RetryPolicy) -> SynclineError | None:
        """Return LIMIT_REACHED if nothing is left for such a request and ``policy`` does not allow the wait, else None."""
        with self._lock:
            now = policy.clock()
            state = self._covering(host, account, method, target, now)
            if state is None or state.left > 0 or policy.allows(pause := self._pause(state, now)):
                return None
            return self._spent(host, state, pause, now)

    def _covering(self, host: str, account: str, method: str, target: str, now: float) -> _State | None:
        state = self._states.get((host, account))
        if state is None or (state.pulls and not _is_pull(method, target)):
            return None
        if now >= state.renewed_at:
            del self._states[host, account]
            return None
        return state

    @staticmethod
    def _pause(state: _State, now: float) -> float:
        """Return the seconds until the next request."""
        remaining = state.renewed_at - now
        if state.left <= 0:
            return remaining if state.exact else min(remaining, max(state.next_at - now, 0.0) or ASK_AGAIN)
        if state.limit is None or state.left >= state.limit * LOW_SHARE:
            return 0.0
        last = state.next_at or now
        return max(0.0, last + (state.renewed_at - last) / (state.left + 1) - now)

    @staticmethod
    def _spent(host: str, state: _State, pause: float, now: float) -> SynclineError:
        what = "pulls" if state.pulls else "requests"
        left = f"{state.left} of {state.limit} {what}" if state.limit is not None else f"{state.left} {what}"
        if state.left > 0:
            end = utc_time_in(state.renewed_at - now)
            text = f"waits until {utc_time_in(pause)} for {host}: {left} left, spread until {end}"
        else:
            text = f"waits until {utc_time_in(pause)} for {host}: {left} left"
        return SynclineError("LIMIT_REACHED", text, retry_after=pause)


def _is_pull(method: str, target: str) -> bool:
    return method == "GET" and "/manifests/" in target
