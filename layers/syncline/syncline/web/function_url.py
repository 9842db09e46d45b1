"""HTTP requests and responses, and their conversion from and to those of a Lambda function URL (payload format 2.0)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class HttpError(Exception):
    """An error response with ``status`` and a message."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request. The names in ``headers`` are in lower case; values are unchecked. ``text`` is the body, maybe as base64.

    ``query`` is the query string as it was sent, and ``cookies`` are the cookies, each as ``name=value``.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    text: str = ""
    is_base64: bool = False
    query: str = ""
    cookies: Sequence[str] = ()

    def body(self, limit: int) -> bytes:
        """Return the body. Raises HttpError if it has more than ``limit`` bytes, which is checked before decoding."""
        text = self.text
        try:
            size = len(text) // 4 * 3 - text[-2:].count("=") if self.is_base64 else len(text.encode())
            if size > limit:
                raise HttpError(413, f"the body has more than {limit} bytes")
            return base64.b64decode(text, validate=True) if self.is_base64 else text.encode()
        except ValueError:
            raise HttpError(400, "the body is not valid base64") from None


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response; ``is_gzip`` is True if the body is compressed with gzip. ``cookies`` are values of Set-Cookie."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    is_gzip: bool = False
    cookies: Sequence[str] = ()


def json_response(status: int, value: object, **headers: str) -> HttpResponse:
    """Return a response with a JSON body."""
    return HttpResponse(status, json.dumps(value).encode(), {"content-type": "application/json", **headers})


def respond(event: dict[str, Any], answer: Callable[[HttpRequest], HttpResponse]) -> dict[str, Any]:
    """Return ``answer``'s response to the event of a function URL; an HttpError becomes a JSON body."""
    try:
        response = answer(request_of(event))
    except HttpError as error:
        response = json_response(error.status, {"error": str(error)})
    return response_of(response)


def request_of(event: dict[str, Any]) -> HttpRequest:
    """Return the request of a function URL's event."""
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    method = str(event["requestContext"]["http"]["method"]).upper()
    # Lambda takes the cookies out of the headers.
    cookies = event.get("cookies") or headers.get("cookie", "").split(";")
    return HttpRequest(
        method,
        str(event["rawPath"]),
        headers,
        event.get("body") or "",
        bool(event.get("isBase64Encoded")),
        str(event.get("rawQueryString") or ""),
        tuple(str(each).strip() for each in cookies),
    )


def response_of(response: HttpResponse) -> dict[str, Any]:
    """Return the response in the form that Lambda expects."""
    result: dict[str, Any] = {"statusCode": response.status, "headers": dict(response.headers)}
    if response.cookies:
        result["cookies"] = list(response.cookies)
    if response.is_gzip:
        result["headers"]["content-encoding"] = "gzip"
        return result | {"body": base64.b64encode(response.body).decode(), "isBase64Encoded": True}
    return result | {"body": response.body.decode()}
