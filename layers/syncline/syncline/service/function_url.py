"""Requests and answers of a Lambda function URL (payload format 2.0), as the API takes and gives them."""

from __future__ import annotations

import base64
from typing import Any

from syncline.service.api import Answer, Request


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
