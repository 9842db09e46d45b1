"""HTTP for every client: connections kept and shared, limits, patience, and failures as codes.

Redirects are never followed here: a client follows them hop by hop, because it knows which of its headers may go
where. Proxies and passwords from the environment (``HTTP_PROXY``, ``.netrc``) are not looked at.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

from syncline import __version__
from syncline.clients.http import failures
from syncline.clients.http.addresses import Address, redacted
from syncline.clients.http.limits import Body, Limits, Request
from syncline.clients.http.pacing import PACE, SLOWEST, Policy, never, unheard
from syncline.clients.http.transfer import Headers, Transfer, is_token
from syncline.errors import SynclineError

READ_TIMEOUT: Final = 30.0
BODY_LIMIT: Final = 8 * 1024 * 1024

_REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_ALWAYS: Final = {"Accept-Encoding": "identity", "User-Agent": f"syncline/{__version__}"}


class OversizeError(SynclineError):
    """BAD_ANSWER: the answer is larger than :data:`BODY_LIMIT`, and would be so again."""

    @property
    def retried_here(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. ``body`` is whole, unless the request asked for a stream: then :meth:`read` gives the bytes.

    A stream belongs in a ``with`` block: leaving it gives the connection back, or closes it if bytes are left.
    """

    method: str
    url: str
    status: int
    headers: Headers
    body: bytes
    raw: Transfer

    def header(self, name: str) -> str:
        """A header's value, or the empty string."""
        return self.headers.said(name)

    def all_headers(self, name: str) -> list[str]:
        """Every value of a header that may come more than once."""
        return self.headers.all(name)

    def error(self) -> SynclineError:
        """What this answer means as a failure."""
        return failures.of_status(self.method, self.url, self.status, self.headers, self.body)

    def bad(self, what: str) -> SynclineError:
        """BAD_ANSWER: the answer breaks the protocol in the way ``what`` says."""
        return SynclineError("BAD_ANSWER", f"{self.method} {redacted(self.url)}: {what}")

    def json(self) -> Any:
        """The body as JSON, or BAD_ANSWER."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise self.bad("the answer is not JSON") from None

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes of a stream as they come over the wire, none at its end; UNREACHABLE if cut short.

        They may be fewer anywhere in the stream. Raises TOO_SLOW, TIME_SHORT and RUN_CANCELLED too.
        """
        return self.raw.read(size)

    def close(self) -> None:
        """Close the connection, unless the stream was read to its end: then it was given back."""
        self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Http:
    """Sends requests; safe to use from any number of threads.

    ``policy`` is the patience of requests that do not bring their own; it may be replaced at any time.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self._made = 0
        self._made_lock = threading.Lock()

    @property
    def requests_made(self) -> int:
        """Requests sent so far, each try counted."""
        return self._made

    def end_within(
        self,
        seconds: float,
        halted: Callable[[], bool] = never,
        slowest: int = SLOWEST,
        slow: Callable[[str], None] = unheard,
    ) -> None:
        """End every request within ``seconds`` from now with TIME_SHORT, or with RUN_CANCELLED once it is ``halted``.

        A body at less than ``slowest`` bytes a second ends with TOO_SLOW; ``slow`` is told of one that is slow and goes
        on. All this holds until the next call.
        """
        deadline = self.policy.clock() + seconds
        self.policy = replace(self.policy, deadline=deadline, halted=halted, slowest=slowest, slow=slow)

    def request(  # noqa: PLR0913 - each is a fact of the request, and all but two have defaults
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        *,
        ca: str | None = None,
        stream: bool = False,
        retry: Policy | None = None,
        timeout: float = READ_TIMEOUT,
        repeatable: bool | None = None,
    ) -> Response:
        """Return the answer to a request, whatever its status, but for failures that may pass.

        Those (408, 5xx but 501, and what asks to slow down: 429, GitHub's 403) are tried again, then raised.

        ``body`` may be bytes, or an iterable of chunks, sent as it yields: with the ``Content-Length`` of ``headers``
        if there is one, else in chunked encoding. Such a request is sent once. ``repeatable`` says that doing it twice
        does no harm; by default so for GET, HEAD, PUT and DELETE. Raises UNREACHABLE, TLS_FAILED, THROTTLED,
        SERVER_ERROR, ADDRESS_REFUSED, REFUSED for a header that cannot be sent, BAD_ANSWER (over 8 MiB where no stream
        was asked for), TIME_SHORT where the policy's deadline is past, RUN_CANCELLED where it is halted, TOO_SLOW.
        """
        address = Address.parse(url)
        if address is None:
            raise SynclineError("REFUSED", f"{redacted(url)!r} is not an address to send a request to")
        policy = retry or self.policy
        streamed = body is not None and not isinstance(body, bytes)
        repeatable = not streamed and (method in _REPEATABLE if repeatable is None else repeatable)
        sent = {**_ALWAYS, **(headers or {})}
        _check(sent, address)
        sending = Request(method, address, sent, body, ca, repeatable)
        for attempt in itertools.count(1):
            self._wait(address, policy)
            try:
                response = self._send(sending, Limits(timeout, policy, sending), stream=stream)
                if not failures.passes(response.status, response.headers):
                    PACE.ease(address.host)
                    return response
                error = response.error()
            except SynclineError as failure:
                error = _late(failure, policy)
                if streamed:
                    raise error from None  # it may be the stream's own
            throttled = error.code.name == "THROTTLED"
            pause = policy.pause(attempt, error.retry_after)
            if throttled:
                PACE.slow_down(address.host, pause, policy)
            # What was throttled was not carried out, so it may be sent again whatever it was.
            may_repeat = not streamed if throttled else repeatable and error.retried_here
            if not may_repeat or attempt >= policy.attempts or not policy.bears(pause):
                raise error
            if not throttled:  # else PACE waits
                policy.rest(pause)
        raise AssertionError  # the loop has no other end

    def _wait(self, address: Address, policy: Policy) -> None:
        """Wait for the host's turn; THROTTLED or TIME_SHORT where that is not to be waited for."""
        PACE.wait(address.host, policy)
        if policy.halted():
            raise SynclineError("RUN_CANCELLED", f"nothing more was asked of {address.host}: the run was cancelled")
        if policy.over:
            raise SynclineError("TIME_SHORT", f"nothing more was asked of {address.host}: the function's time is over")

    def _send(self, request: Request, limits: Limits, *, stream: bool) -> Response:
        """Send a request once; return its answer, with its body unless that is wanted as a stream."""
        with self._made_lock:
            self._made += 1
        answer = Transfer(request, limits)
        method, url = request.method, request.address.url
        if stream and answer.status < 300:
            return Response(method, url, answer.status, answer.headers, b"", answer)
        try:
            content = answer.whole(BODY_LIMIT)
        except SynclineError:
            if answer.status < 400:
                raise
            content = b""  # a refusal is one without its words, too: docker-registry cuts those of a 416 short
        finally:
            answer.close()
        if len(content) > BODY_LIMIT:
            what = f"{method} {redacted(url)}: the answer is larger than {BODY_LIMIT} bytes"
            raise OversizeError("BAD_ANSWER", what)
        if not answer.ended and answer.status < 400:
            raise SynclineError("BAD_ANSWER", f"{method} {redacted(url)} was answered before all was sent")
        return Response(method, url, answer.status, answer.headers, content, answer)


def _late(failure: SynclineError, policy: Policy) -> SynclineError:
    """The failure, or that the time was over, where that is why a server was not waited for any longer."""
    if policy.over and failure.code.name == "UNREACHABLE":
        return SynclineError("TIME_SHORT", f"{failure.what} (the function's time was over)")
    return failure


def _check(headers: Mapping[str, str], address: Address) -> None:
    """Raise REFUSED for what no header can carry; a value, which may be a password, is not shown."""
    for name, value in headers.items():
        if not is_token(name):
            what = f"the header name {name!r} for {address.host} has a character that none can have, or no character"
            raise SynclineError("REFUSED", what)
        if not (value.isascii() and value.isprintable()):
            what = f"the header {name} for {address.host} has a character that none can carry, such as a line break"
            raise SynclineError("REFUSED", what)
