"""Requests and answers of a Lambda function URL (payload format 2.0), as the API takes and gives them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """A request; ``headers`` has lower-case names; a value may hold any character that came."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; ``packed`` says that the body is compressed with gzip."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    packed: bool = False


def request_of(event: dict[str, Any]) -> Request:
    """The request in a function URL's event."""
    http = event["requestContext"]["http"]
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    return Request(str(http["method"]).upper(), str(event["rawPath"]), headers)


def response_of(answer: Answer) -> dict[str, Any]:
    """What Lambda is to answer."""
    response: dict[str, Any] = {"statusCode": answer.status, "headers": dict(answer.headers)}
    if answer.packed:
        response["headers"]["content-encoding"] = "gzip"
        return response | {"body": base64.b64encode(answer.body).decode(), "isBase64Encoded": True}
    return response | {"body": answer.body.decode()}
