"""HTTP for all clients: shared keep-alive connections, limits, retries, and failures as codes.

Redirects are not followed here. A client follows them hop by hop, because it knows which of its headers may go to
which host. Proxies and passwords from the environment (``HTTP_PROXY``, ``.netrc``) are ignored; a request's
:class:`Route` may name a proxy.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

from syncline import __version__
from syncline.clients.http import failures
from syncline.clients.http.addresses import DIRECT, Address, Route, redacted
from syncline.clients.http.budgets import Budgets
from syncline.clients.http.limits import Body, HttpRequest, TransferLimits
from syncline.clients.http.quotas import QUOTA_HEADERS, Quotas
from syncline.clients.http.retry import HOST_THROTTLE, MIN_RATE, RetryPolicy, ignore_slow, never_halted
from syncline.clients.http.transfer import Headers, Transfer, is_token
from syncline.errors import SynclineError

READ_TIMEOUT: Final = 30.0
BODY_LIMIT: Final = 8 * 1024 * 1024

_REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_ALWAYS: Final = {"Accept-Encoding": "identity", "User-Agent": f"syncline/{__version__}"}


class OversizeError(SynclineError):
    """BAD_ANSWER for a response larger than :data:`BODY_LIMIT`. It is not retried: the next one would be as large."""

    @property
    def retried_here(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Response:
    """A response. ``body`` is complete, unless the request asked for a stream: then :meth:`read` returns the bytes.

    Use a stream in a ``with`` block, which releases the connection, or closes it if bytes are left.
    """

    method: str
    url: str
    status: int
    headers: Headers
    body: bytes
    raw: Transfer

    def header(self, name: str) -> str:
        """Return a header's value, or the empty string."""
        return self.headers.value(name)

    def all_headers(self, name: str) -> list[str]:
        """Return every value of a header that may be repeated."""
        return self.headers.all(name)

    def error(self) -> SynclineError:
        """Return the error for the response's status."""
        through = self.raw.through
        return failures.error_of_status(self.method, self.url, self.status, self.headers, self.body, through)

    def protocol_error(self, what: str) -> SynclineError:
        """Return BAD_ANSWER for a response that breaks the protocol; ``what`` says how."""
        return SynclineError("BAD_ANSWER", f"{self.method} {redacted(self.url)}: {what}")

    def json(self) -> Any:
        """Return the body parsed as JSON. Raises BAD_ANSWER."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise self.protocol_error("the response is not JSON") from None

    def json_object(self) -> dict[str, Any]:
        """Return the body parsed as a JSON object. Raises BAD_ANSWER."""
        value = self.json()
        if not isinstance(value, dict):
            raise self.protocol_error("the response is not an object")
        return value

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes of a stream, without decoding; none at its end, but possibly fewer at any time.

        Raises UNREACHABLE if the stream is cut short, TOO_SLOW, TIME_SHORT and RUN_CANCELLED.
        """
        return self.raw.read(size)

    def close(self) -> None:
        """Close the connection, unless the stream was read to its end, which has released it."""
        self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Http:
    """Sends requests. Safe for concurrent use by threads.

    ``policy`` applies to requests without a ``retry`` policy. It may be replaced at any time. ``budgets`` has the budgets
    of endpoints with limits.
    """

    def __init__(self, policy: RetryPolicy | None = None, budgets: Budgets | None = None) -> None:
        self.policy = policy or RetryPolicy()
        self.budgets = budgets or Budgets()
        self.quotas = Quotas()
        self._made = 0
        self._traffic = Counter[tuple[str, str]]()
        self._made_lock = threading.Lock()

    @property
    def requests_made(self) -> int:
        """Number of requests sent so far, including retries."""
        return self._made

    def take_traffic(self) -> Mapping[tuple[str, str], int]:
        """Return the counts since the last call, by host and kind of count (:class:`~syncline.model.Traffic`)."""
        with self._made_lock:
            taken, self._traffic = self._traffic, Counter()
        return taken

    def _count(self, host: str, what: str, amount: int = 1) -> None:
        with self._made_lock:
            self._traffic[host, what] += amount

    def set_deadline(
        self,
        seconds: float,
        halted: Callable[[], bool] = never_halted,
        min_rate: int = MIN_RATE,
        on_slow: Callable[[str], None] = ignore_slow,
    ) -> None:
        """End every request with TIME_SHORT after ``seconds`` from now, or with RUN_CANCELLED once ``halted`` returns True.

        A body slower than ``min_rate`` bytes a second fails with TOO_SLOW. ``on_slow`` gets a message about one that is
        slow but continues. The settings hold until the next call.
        """
        deadline = self.policy.clock() + seconds
        self.policy = replace(self.policy, deadline=deadline, halted=halted, min_rate=min_rate, on_slow=on_slow)

    def request(  # noqa: PLR0913 - the parts of a request; all but two have defaults
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        *,
        route: Route = DIRECT,
        stream: bool = False,
        retry: RetryPolicy | None = None,
        timeout: float = READ_TIMEOUT,
        repeatable: bool | None = None,
    ) -> Response:
        """Send a request and return the response, whatever its status, except for temporary failures.

        Temporary failures (408, 5xx except 501, 429, GitHub's 403 with a time to wait) are retried, then raised.

        ``body`` may be bytes or an iterable of chunks. Chunks are streamed, with the ``Content-Length`` of ``headers``
        if present, otherwise in chunked encoding; such a request is sent once. ``repeatable`` says that sending the
        request twice does no harm; it defaults to True for GET, HEAD, PUT and DELETE. Raises UNREACHABLE, TLS_FAILED,
        PROXY_REFUSED, THROTTLED, LIMIT_REACHED, SERVER_ERROR, ADDRESS_REFUSED, REFUSED for an invalid header or address, BAD_ANSWER
        (also for more than 8 MiB without ``stream``), TIME_SHORT after the policy's deadline, RUN_CANCELLED if it is
        halted, TOO_SLOW.
        """
        address = Address.parse(url)
        if address is None:
            raise SynclineError("REFUSED", f"{redacted(url)!r} is not an absolute http(s) URL")
        policy = retry or self.policy
        streamed = body is not None and not isinstance(body, bytes)
        repeatable = not streamed and (method in _REPEATABLE if repeatable is None else repeatable)
        sent = {**_ALWAYS, **(headers or {})}
        _check_headers(sent, address)
        sending = HttpRequest(method, address, sent, body, route, repeatable)
        for attempt in itertools.count(1):
            self._wait(address, policy)
            self._wait_for_quota(sending, policy)
            try:
                limits = TransferLimits(timeout, policy, sending, self.budgets.beat)
                response = self._send(sending, limits, stream=stream)
                if not failures.is_temporary(response.status, response.headers):
                    HOST_THROTTLE.ease(address.host)
                    return response
                error = response.error()
                if error.code.name == "THROTTLED" or failures.is_slow_down(response.status, response.body):
                    self._count(address.host, "throttled")
                error = self._quota_error(sending, policy, error)
            except SynclineError as failure:
                error = _as_time_short(failure, policy)
                if streamed:
                    raise error from None  # the stream itself may have raised it
            throttled = error.code.name == "THROTTLED"
            pause = policy.pause(attempt, error.retry_after)
            if throttled:
                HOST_THROTTLE.slow_down(address.host, pause, policy)
            # A throttled request was not carried out, so any method may be repeated.
            may_repeat = not streamed if throttled else repeatable and error.retried_here
            if not may_repeat or attempt >= policy.attempts or not policy.allows(pause):
                raise error
            if not throttled:  # otherwise HOST_THROTTLE waits
                policy.wait(pause)
        raise AssertionError  # the loop has no other end

    def _wait(self, address: Address, policy: RetryPolicy) -> None:
        """Wait until the host may get the next request. Raises THROTTLED, RUN_CANCELLED or TIME_SHORT."""
        if waited := HOST_THROTTLE.wait(address.host, policy):
            self._count(address.host, "waited", round(waited * 1000))
        if policy.halted():
            raise SynclineError("RUN_CANCELLED", f"no request was sent to {address.host}: the run was cancelled")
        if policy.expired:
            raise SynclineError("TIME_SHORT", f"no request was sent to {address.host}: the function's time is over")

    def _wait_for_quota(self, request: HttpRequest, policy: RetryPolicy) -> None:
        """Wait as the quota that the host has stated requires. Raises LIMIT_REACHED."""
        address, account = request.address, request.route.account
        if waited := self.quotas.wait(address.host, account, request.method, address.target, policy):
            self._count(address.host, "waited", round(waited * 1000))

    def _quota_error(self, request: HttpRequest, policy: RetryPolicy, error: SynclineError) -> SynclineError:
        """Return LIMIT_REACHED for a THROTTLED request if its quota is used up, else ``error``."""
        if error.code.name != "THROTTLED":
            return error
        address, account = request.address, request.route.account
        return self.quotas.spent(address.host, account, request.method, address.target, policy) or error

    def _begin(self, request: HttpRequest, policy: RetryPolicy) -> Callable[[], None]:
        """Wait as the limits of the endpoint require, and return a function to be called at the end of the request."""
        budget, body = request.route.budget, request.body
        if budget is None:
            return no_end
        slot, waited = budget.begin(policy, len(body) if isinstance(body, bytes) else 0)
        if waited:
            self._count(request.address.host, "waited", round(waited * 1000))
        return slot.end

    def _send(self, request: HttpRequest, limits: TransferLimits, *, stream: bool) -> Response:
        """Send a request once and return the response, with its body unless ``stream``."""
        host, account = request.address.host, request.route.account
        at_end = self._begin(request, limits.policy)
        with self._made_lock:
            self._made += 1
        try:
            answer = Transfer(request, limits, at_end)
        except BaseException as error:
            at_end()
            if isinstance(error, SynclineError):
                self._count(host, "error")
            raise
        finally:
            self.quotas.ended(host, account, request.method, request.address.target)
        if any(map(answer.headers.value, QUOTA_HEADERS)):
            self.quotas.saw(host, account, request.address.target, answer.headers, limits.policy.clock)
        self._count(host, _class_of(answer.status))
        method, url = request.method, request.address.url
        if stream and answer.status < 300:
            return Response(method, url, answer.status, answer.headers, b"", answer)
        try:
            content = answer.read_all(BODY_LIMIT)
        except SynclineError:
            if answer.status < 400:
                raise
            content = b""  # the status suffices: docker-registry truncates the body of a 416
        finally:
            answer.close()
        if len(content) > BODY_LIMIT:
            what = f"{method} {redacted(url)}: the response is larger than {BODY_LIMIT} bytes"
            raise OversizeError("BAD_ANSWER", what)
        if not answer.ended and answer.status < 400:
            raise SynclineError("BAD_ANSWER", f"{method} {redacted(url)}: the response came before the body was sent")
        return Response(method, url, answer.status, answer.headers, content, answer)


def no_end() -> None:
    """Do nothing; the end of a request without a budget."""


def _class_of(status: int) -> str:
    """Return the class of a status, one of :data:`syncline.model.STATUSES`."""
    if status == 429:
        return "429"
    return f"{status // 100}xx" if status < 600 else "error"


def _as_time_short(failure: SynclineError, policy: RetryPolicy) -> SynclineError:
    """Return TIME_SHORT if the deadline is why a request ended as UNREACHABLE, otherwise ``failure``."""
    if policy.expired and failure.code.name == "UNREACHABLE":
        return SynclineError("TIME_SHORT", f"{failure.what} (the function's time was over)")
    return failure


def _check_headers(headers: Mapping[str, str], address: Address) -> None:
    """Raise REFUSED for an invalid header. The message omits the value, which may be a password."""
    for name, value in headers.items():
        if not is_token(name):
            raise SynclineError("REFUSED", f"invalid header name for {address.host}: {name!r}")
        if not (value.isascii() and value.isprintable()):
            what = f"the value of the header {name} for {address.host} has a control or non-ASCII character"
            raise SynclineError("REFUSED", what)
