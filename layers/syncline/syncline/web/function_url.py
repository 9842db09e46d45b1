"""HTTP requests and responses, and their conversion from and to those of a Lambda function URL (payload format 2.0)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request. The names in ``headers`` are in lower case; values are unchecked."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response; ``is_gzip`` is True if the body is compressed with gzip."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    is_gzip: bool = False


def request_of(event: dict[str, Any]) -> HttpRequest:
    """Return the request of a function URL's event."""
    http = event["requestContext"]["http"]
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    return HttpRequest(str(http["method"]).upper(), str(event["rawPath"]), headers)


def response_of(response: HttpResponse) -> dict[str, Any]:
    """Return the response in the form that Lambda expects."""
    result: dict[str, Any] = {"statusCode": response.status, "headers": dict(response.headers)}
    if response.is_gzip:
        result["headers"]["content-encoding"] = "gzip"
        return result | {"body": base64.b64encode(response.body).decode(), "isBase64Encoded": True}
    return result | {"body": response.body.decode()}
