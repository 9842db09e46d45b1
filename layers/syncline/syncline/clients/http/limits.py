"""A request, its body as libcurl reads it, and its time limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import pycurl

from syncline.clients.http.addresses import Address, Route, redacted
from syncline.clients.http.retry import SLOW_RATE, RetryPolicy
from syncline.errors import CodeName, SynclineError

MIN_WAIT: Final = 0.1  # seconds that a server gets even if less time is left
RATE_WINDOW: Final = 30.0  # seconds of waiting over which the rate of a body is measured
_ROUNDING: Final = 0.001
READ_ABORT: Final = int(pycurl.READFUNC_ABORT)

Body = bytes | Iterable[bytes] | None


@dataclass(slots=True)
class HttpRequest:
    """A request. A body that is not bytes is streamed, with the ``Content-Length`` of ``headers`` or in chunked encoding.

    ``repeatable`` says that sending the request twice does no harm.
    """

    method: str
    address: Address
    headers: Mapping[str, str]
    body: Body
    route: Route
    repeatable: bool


class BodyReader:
    """Gives libcurl a streamed body of ``size`` bytes, -1 for any size. ``given`` counts the bytes handed over."""

    __slots__ = ("_chunks", "_last", "_piece", "ended", "error", "given", "size")

    def __init__(self, chunks: Iterable[bytes], size: int) -> None:
        self._chunks = iter(chunks)
        self._piece: bytes | memoryview = b""
        self._last = False  # no further chunk
        self.size = size
        self.given = 0
        self.ended = False
        self.error: BaseException | None = None

    def give(self, most: int) -> bytes | int:
        """Return up to ``most`` bytes, none at the end. An exception of the stream ends the request."""
        try:
            piece = self._piece or self._chunk()
        except BaseException as error:  # noqa: BLE001 - raised again in Transfer._advance
            self.error = error
            return READ_ABORT
        self._piece = b""
        if len(piece) > most:
            piece = memoryview(piece)
            piece, self._piece = bytes(piece[:most]), piece[most:]
        self.given += len(piece)
        self.ended = self._last and not self._piece
        return piece if isinstance(piece, bytes) else bytes(piece)

    def _chunk(self) -> bytes:
        """Return the next chunk, empty at the end.

        The last chunk of an announced length is returned only after the stream has ended, so that a server never gets
        the complete body of a stream that is too long or fails.
        """
        chunk = next(filter(None, self._chunks), b"")
        left = self.size - self.given - len(chunk)
        if self.size < 0:
            self._last = not chunk
        elif left < 0 or (left == 0 and chunk and next(filter(None, self._chunks), b"")):
            what = f"the content to send has more than the announced {self.size} bytes"
            raise SynclineError("SOURCE_CHANGED", what)
        elif left == 0:
            self._last = True
        elif not chunk:
            what = f"the content to send has only {self.given} of the announced {self.size} bytes"
            raise SynclineError("SOURCE_CHANGED", what)
        return chunk


class TransferLimits:
    """Time limits of one request.

    Each wait for bytes of a body takes at most ``timeout`` seconds, and so do all waits for a head together. A wait
    ends at the policy's deadline, and once the policy is halted. ``beat`` is called at least every second of waiting. A body must be sent or received at the policy's
    minimum rate, which only counts seconds spent waiting for the server: a slow reader here does not make it slow.
    """

    __slots__ = ("_beat", "_body", "_bytes", "_idle", "_limit", "_request", "_timeout", "_window", "policy")

    def __init__(
        self, timeout: float, policy: RetryPolicy, request: HttpRequest, beat: Callable[[], None] = lambda: None
    ) -> None:
        self._timeout = timeout
        self.policy = policy
        self._request = request
        self._beat = beat
        self.begin(body=False)

    def begin(self, *, body: bool) -> None:
        """Start waiting for a head, or for a body."""
        self._body = body
        self._idle = 0.0  # seconds of the current wait
        self._limit = 0.0  # seconds that it may take
        self._window = 0.0  # seconds waited in the current window
        self._bytes = 0  # of the body, in the current window

    def count(self, size: int) -> None:
        """Count bytes of the body that were received or sent, which ends the current wait.

        If the endpoint has a limit of bytes per second, wait until it allows more.
        """
        self._idle = 0.0
        self._bytes += size
        if (budget := self._request.route.budget) is not None:
            budget.count(self.policy, size)

    def left(self) -> float:
        """Return the seconds that the current wait may still take. Raises UNREACHABLE, TIME_SHORT or RUN_CANCELLED."""
        policy = self.policy
        self._beat()
        if policy.halted():
            raise self.failed("RUN_CANCELLED", "the run was cancelled or lost its lease")
        if not self._idle:
            self._limit = self._timeout
            if policy.deadline is not None:
                time = policy.deadline - policy.clock()
                self._limit = min(self._timeout, max(time, MIN_WAIT)) if time > 0 else 0.0
        left = self._limit - self._idle
        if left > _ROUNDING:
            return left
        if self._limit < self._timeout:
            raise self.failed("TIME_SHORT", "the function's time was over")
        raise self.failed("UNREACHABLE", f"no response within {self._timeout:g} s")

    def spend(self, seconds: float) -> None:
        """Count seconds of waiting. Raises TOO_SLOW if the body is too slow."""
        self._idle += seconds
        self._window += seconds
        if not self._body or self._window < RATE_WINDOW:
            return
        rate, min_rate = self._bytes / self._window, self.policy.min_rate
        if rate < min_rate:
            why = f"{rate:.0f} bytes a second in {self._window:.0f} s, below the limit of {min_rate}"
            raise self.failed("TOO_SLOW", why)
        if rate < SLOW_RATE:
            window = f"the last {self._window:.0f} s of waiting"
            self.policy.on_slow(f"{self._request.address.host} is slow: {rate / 1024:.3g} KiB/s in {window}")
        self._window, self._bytes = 0.0, 0

    def failed(self, code: CodeName, why: str) -> SynclineError:
        """Return an error that names the request, and the proxy if it has one."""
        request = self._request
        url = redacted(request.address.url)
        return SynclineError(code, f"{request.method} {url}{request.route.through}: {why}")
