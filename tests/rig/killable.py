"""Clients of the tests that a :class:`tests.rig.pump.Reaper` can kill: the HTTP client of a step, and boto3's."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from syncline.clients.http.client import Http, Response
from syncline.clients.http.limits import Body, HttpRequest, TransferLimits
from syncline.clients.http.retry import RetryPolicy
from tests.rig.grants import outside
from tests.rig.pump import Clock, KilledError, KillPoint, Reaper

_EFFECTS: Final = frozenset(
    {
        "TransactWriteItems",
        "BatchWriteItem",
        "UpdateItem",
        "PutItem",
        "DeleteItem",
        "SendMessage",
        "SendMessageBatch",
        "ChangeMessageVisibilityBatch",
    }
)
_WRITING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class KillableHttp(Http):
    """HTTP client of a step that can be killed; it waits by the pump's clock.

    Requests that write below a path with one of the prefixes ``effects`` count as calls with an effect.
    """

    def __init__(self, reaper: Reaper, clock: Clock, effects: tuple[str, ...] = ("/v2/",)) -> None:
        self._effects = effects
        super().__init__(RetryPolicy(chance=lambda: 0.5, sleep=clock.sleep, clock=clock.time))
        self._reaper = reaper

    def _send(self, request: HttpRequest, limits: TransferLimits, *, stream: bool) -> Response:
        streamed = request.body is not None and not isinstance(request.body, bytes)
        self._reaper.check_alive()
        outside(self._reaper.on_call)
        number = 0
        if request.method in _WRITING and request.address.target.startswith(self._effects):
            number = self._reaper.count(f"{request.method} {request.address.target}", streamed=streamed)
        self._reaper.kill_if_planned(number, KillPoint.BEFORE)
        if streamed:
            request = replace(request, body=self._killable_body(request.body, number))
        response = super()._send(request, limits, stream=stream)
        try:
            self._reaper.kill_if_planned(number, KillPoint.AFTER)
        except KilledError:
            response.close()
            raise
        return response

    def _killable_body(self, body: Body, number: int) -> Iterator[bytes]:
        assert body is not None
        assert not isinstance(body, bytes)
        for chunk in body:
            yield chunk
            self._reaper.kill_if_planned(number, KillPoint.WITHIN)


def check_expressions(arguments: Any) -> None:
    """Refuse requests that DynamoDB refuses and moto accepts: empty, unused or undefined placeholders."""
    if isinstance(arguments, list):
        for each in arguments:
            check_expressions(each)
    if not isinstance(arguments, dict):
        return
    for name in ("Put", "Update", "TransactItems"):
        check_expressions(arguments.get(name))
    given: set[str] = set()
    for kind in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
        assert arguments.get(kind) != {}, f"{kind} must not be empty"
        given |= set(arguments.get(kind, ()))
    texts = [text for name, text in arguments.items() if name.endswith("Expression") and isinstance(text, str)]
    used = set(re.findall(r"[#:]\w+", " ".join(texts)))
    assert given == used, f"placeholders {given} for {used}"


def guard(client: Any, reaper: Reaper, lock: threading.Lock) -> None:
    """Let a client's calls be killed, and run them one at a time: moto's transactions are not thread-safe."""
    call_it = client._make_api_call

    def call(operation: str, arguments: Any) -> Any:
        check_expressions(arguments)
        with reaper.call(operation, effect=operation in _EFFECTS), lock:
            return call_it(operation, arguments)

    client._make_api_call = call
