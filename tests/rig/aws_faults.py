"""Faults of AWS between boto3 and moto: lost responses and refused requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse


class _Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: object) -> list[bytes]:
        return [self._body]


@dataclass(slots=True)
class Fault:
    """A fault for the next `left` requests of an operation whose body contains a text.

    With `lose_answer` the request is executed and its response is lost; otherwise it is refused with `code`.
    """

    left: int
    holding: bytes
    code: str
    lose_answer: bool

    def __call__(self, request: AWSPreparedRequest, **_: object) -> AWSResponse | None:
        body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
        if not self.left or self.holding not in body:
            return None
        self.left -= 1
        if not self.lose_answer:
            # Moto receives the request anyway, and ignores this address.
            request.url = "https://refused.invalid/"
        answer: dict[str, Any] = {"__type": f"com.amazonaws.dynamodb.v20120810#{self.code}", "message": "a fault"}
        if self.code == "TransactionCanceledException":
            answer["CancellationReasons"] = [{"Code": "None"}, {"Code": "TransactionConflict"}]
        status = 500 if self.code == "InternalServerError" else 400
        headers = {"content-type": "application/x-amz-json-1.0"}
        return AWSResponse(str(request.url), status, headers, _Raw(json.dumps(answer).encode()))  # type: ignore[arg-type]


def disturb(
    client: Any,
    operation: str,
    *,
    holding: str = "",
    times: int = 1,
    code: str = "InternalServerError",
    lose_answer: bool = False,
) -> Fault:
    """Disturb a client's next requests of a DynamoDB operation."""
    fault = Fault(times, holding.encode(), code, lose_answer)
    client.meta.events.register_first(f"before-send.dynamodb.{operation}", fault)
    return fault
