"""A request, and the time limits of its waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from syncline.clients.http.addresses import Address, redacted
from syncline.clients.http.pacing import SLOW, Policy
from syncline.errors import CodeName, SynclineError

SHORTEST_WAIT: Final = 0.1  # seconds that a server is given however little time is left
RATE_WINDOW: Final = 30.0  # seconds of waiting over which the rate of a body is measured
_ROUNDING: Final = 0.001

Body = bytes | Iterable[bytes] | None


@dataclass(slots=True)
class Request:
    """A request. A body that is not in memory is sent as it yields, with the ``Content-Length`` of ``headers`` or in chunks.

    ``ca`` is PEM text of authorities trusted beside the system's. ``repeatable`` says that sending the request twice
    does no harm.
    """

    method: str
    address: Address
    headers: Mapping[str, str]
    body: Body
    ca: str | None
    repeatable: bool


class Limits:
    """Time limits of one request.

    A wait for bytes of a body takes ``most`` seconds at most, as do all waits for a head together. None goes past the
    policy's deadline, or on when the policy is halted. A body has to come, or to be taken, at the policy's rate: bytes
    are counted by the seconds spent waiting for the server, so a slow reader of ours makes no server slow.
    """

    __slots__ = ("_body", "_bytes", "_idle", "_limit", "_most", "_policy", "_request", "_window")

    def __init__(self, most: float, policy: Policy, request: Request) -> None:
        self._most = most
        self._policy = policy
        self._request = request
        self.begin(body=False)

    def begin(self, *, body: bool) -> None:
        """Begin with the waits for a head, or with those for a body."""
        self._body = body
        self._idle = 0.0  # seconds of the present wait
        self._limit = 0.0  # seconds that it may take
        self._window = 0.0  # seconds waited in the present window
        self._bytes = 0  # of the body, in the present window

    def count(self, size: int) -> None:
        """Count bytes of the body that came or were taken, which ends the present wait."""
        self._idle = 0.0
        self._bytes += size

    def left(self) -> float:
        """Return the seconds that the present wait may still take; raise UNREACHABLE, TIME_SHORT or RUN_CANCELLED."""
        policy = self._policy
        if policy.halted():
            raise self.failed("RUN_CANCELLED", "the run was cancelled, or may not write any more")
        if not self._idle:
            self._limit = self._most
            if policy.deadline is not None:
                time = policy.deadline - policy.clock()
                self._limit = min(self._most, max(time, SHORTEST_WAIT)) if time > 0 else 0.0
        left = self._limit - self._idle
        if left > _ROUNDING:
            return left
        if self._limit < self._most:
            raise self.failed("TIME_SHORT", "the function's time was over")
        raise self.failed("UNREACHABLE", "no answer in time")

    def spend(self, seconds: float) -> None:
        """Count seconds of waiting; raise TOO_SLOW if the body is too slow."""
        self._idle += seconds
        self._window += seconds
        if not self._body or self._window < RATE_WINDOW:
            return
        rate, slowest = self._bytes / self._window, self._policy.slowest
        if rate < slowest:
            why = f"{rate:.0f} bytes a second in {self._window:.0f} s, below the limit of {slowest}"
            raise self.failed("TOO_SLOW", why)
        if rate < SLOW:
            seconds = self._window
            what = (
                f"{self._request.address.host} is slow: {rate / 1024:.3g} KiB/s in the last {seconds:.0f} s of waiting"
            )
            self._policy.slow(what)
        self._window, self._bytes = 0.0, 0

    def failed(self, code: CodeName, why: str) -> SynclineError:
        """Return a failure that names the request."""
        request = self._request
        return SynclineError(code, f"{request.method} {redacted(request.address.url)}: {why}")
