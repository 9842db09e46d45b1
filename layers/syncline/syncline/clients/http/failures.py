"""Error codes for failed requests, by libcurl's error or by status, with an excerpt of the server's message."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import pycurl

from syncline.clients.http.addresses import Address, redacted
from syncline.clients.http.retry import LONG_PAUSE, utc_time_in
from syncline.errors import CodeName, SynclineError
from syncline.secrets import redact

MAX_RETRY_AFTER: Final = 3600.0
_EXCERPT: Final = 200  # characters of the server's message
_CODES: Final[Mapping[int, CodeName]] = {
    401: "UNAUTHORIZED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    407: "PROXY_REFUSED",
    408: "SERVER_ERROR",  # the server gave up waiting for the request
    410: "NOT_FOUND",
    413: "TOO_LARGE",
}
_UNREACHABLE: Final = {
    pycurl.E_COULDNT_RESOLVE_PROXY: "the proxy's name cannot be resolved",
    pycurl.E_COULDNT_RESOLVE_HOST: "the host name cannot be resolved",
    pycurl.E_COULDNT_CONNECT: "connection refused, or no route to the host",
    pycurl.E_OPERATION_TIMEDOUT: "no connection within the time limit",
    pycurl.E_SEND_FAIL_REWIND: "the connection broke before the response",
}
_TOO_LARGE: Final = 100  # CURLE_TOO_LARGE, which pycurl does not name
_NOT_HTTP: Final = frozenset(
    {pycurl.E_FTP_WEIRD_SERVER_REPLY, pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_BAD_CONTENT_ENCODING, _TOO_LARGE}
)
_VERIFY: Final = "SSL certificate OpenSSL verify result: "
_NO_TLS: Final = re.compile(r"error:0A(00010B|00009C|000410|0000F7):", re.IGNORECASE)  # wrong version, plain HTTP
_CLOSED: Final = re.compile(r"error:0A000126:|SSL_ERROR_SYSCALL", re.IGNORECASE)  # the server closed the connection
_SECRET_HEADER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}")
_INSUFFICIENT_STORAGE: Final = 507
_FULL: Final = re.compile(
    r"(?i)no space left|quota (has been )?exceeded|quotaexceeded|storagefull|exceed the configured upper limit"
    r'|"Err": ?(28|122)\b'  # docker-registry gives the system's error number alone: ENOSPC, EDQUOT
)
_TITLE: Final = re.compile(r"(?is)<title[^>]*>(.*?)</title>")
_XML_MESSAGE: Final = re.compile(r"(?s)<(Code|Message)>(.*?)</\1>")

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
NOT_IMPLEMENTED: Final = 501
"""A refusal, unlike the other 5xx: the server does not support the request, and will not after a retry."""


def error_of_status(  # noqa: PLR0913, PLR0917 - the parts of a request and its response
    method: str, url: str, status: int, headers: Mapping[str, str], body: bytes, through: str = ""
) -> SynclineError:
    """Return the error for a response: a code by status and body, and an excerpt of the server's message.

    ``through`` names the proxy of the request.
    """
    message = excerpt(body)
    what = f"{method} {redacted(url)}{through} answered {status}" + (f": {message}" if message else "")
    if status == _INSUFFICIENT_STORAGE or (
        method not in ("GET", "HEAD") and status >= 400 and status != 429 and _is_full(body)
    ):
        return SynclineError("TARGET_FULL", what)
    if status in REDIRECTS:
        target = Address.parse_at(url, headers.get("Location", ""))
        location = redacted(target.url) if target else "no valid address"
        return SynclineError("REDIRECTED", f"{what}; it redirects to {location}")
    asked = retry_after(headers)
    if is_throttled(status, headers):
        return SynclineError("THROTTLED", f"{what}{_until(asked)}", retry_after=asked)
    if status >= 500 and status != NOT_IMPLEMENTED:
        code: CodeName = "SERVER_ERROR"
    elif status >= 400:
        code = _CODES.get(status, "REFUSED")
    else:
        code = "BAD_ANSWER"
    return SynclineError(code, what, retry_after=asked)


def is_temporary(status: int, headers: Mapping[str, str]) -> bool:
    """Return True for a response that means a temporary failure."""
    return status == 408 or (status >= 500 and status != NOT_IMPLEMENTED) or is_throttled(status, headers)


def is_throttled(status: int, headers: Mapping[str, str]) -> bool:
    """Return True for a response that asks to slow down: 429, or GitHub's 403 with a time to wait."""
    return status == 429 or (status == 403 and retry_after(headers) is not None)


def is_slow_down(status: int, body: bytes) -> bool:
    """Return True for the response with which an S3 service asks to slow down."""
    return status == 503 and b"<Code>SlowDown" in body[:4096]


def _until(pause: float | None) -> str:
    return f"; it asks to wait until {utc_time_in(pause)}" if pause is not None and pause > LONG_PAUSE else ""


def _is_full(body: bytes) -> bool:
    """Return True if the body of a refused write reports a full disk or an exceeded quota."""
    return _FULL.search(body[:4096].decode("utf-8", "replace")) is not None


def code_of_libcurl(number: int, words: str, system_error: int, proxy_status: int = 0) -> tuple[CodeName, str]:
    """Return the code and the reason for a transfer that libcurl ended with error ``number`` and message ``words``.

    ``proxy_status`` is the status of a proxy's response to CONNECT, 0 without one.
    """
    if proxy_status >= 300:
        code: CodeName = "THROTTLED" if proxy_status == 429 else "PROXY_REFUSED"
        if proxy_status >= 500 or proxy_status == 408:
            code = "UNREACHABLE"
        return code, f"the proxy answered {proxy_status} to CONNECT"
    words = words or ("the header is too long" if number == _TOO_LARGE else f"error {number}")
    if number == pycurl.E_PEER_FAILED_VERIFICATION:
        return "TLS_FAILED", f"the certificate could not be verified ({words.removeprefix(_VERIFY)})"
    if number == pycurl.E_SSL_CONNECT_ERROR and not _CLOSED.search(words):
        if _NO_TLS.search(words):
            plain = (
                "the server does not speak TLS on this port; if that is intended, set `plain_http: true` in the sync"
            )
            return "TLS_FAILED", plain
        return "TLS_FAILED", f"no TLS connection ({words})"
    if number in _NOT_HTTP or (number == pycurl.E_RECV_ERROR and not system_error):
        return "BAD_ANSWER", f"the response is not valid HTTP ({words})"
    return "UNREACHABLE", _UNREACHABLE.get(number) or f"the connection broke ({words})"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait, at most an hour; None if it does not ask.

    Reads ``Retry-After`` (seconds or a date) and, as GitHub sends it once the limit is used up, ``X-RateLimit-Reset``
    (Unix time).
    """
    text = headers.get("Retry-After", "").strip()
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if not text and headers.get("X-RateLimit-Remaining", "").strip() == "0" and reset.isascii() and reset.isdigit():
        seconds = float(reset[:12]) - time.time() + 1
    elif text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def error_codes(body: bytes) -> tuple[str, ...]:
    """Return the codes of a distribution error body, ``{"errors": [{"code": ...}]}``."""
    return tuple(code for code, _ in _errors(_json(body)) if code)


def is_distribution_error(body: bytes) -> bool:
    """Return True for an error body of a registry, False for one of a proxy or login portal in front of it."""
    return bool(_errors(_json(body)))


def excerpt(body: bytes) -> str:
    """Return the server's message in one line, without secrets, from JSON, XML, a page title or plain text."""
    value = _json(body)
    if value is not None:
        errors = "; ".join(": ".join(filter(None, pair)) for pair in _errors(value))
        return _clean(errors or _message(value))
    text = body[:4096].decode("utf-8", "replace")
    if text.lstrip()[:1] != "<":
        return _clean(text)
    found = _XML_MESSAGE.findall(text)
    if found:
        return _clean(": ".join(value for _, value in found))
    title = _TITLE.search(text)
    return _clean(f"{title[1].strip()} (an HTML page)" if title else "an HTML page")


def _json(body: bytes) -> Any:
    if body.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _errors(value: Any) -> list[tuple[str, str]]:
    listed = value.get("errors") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        return []
    return [(str(e.get("code") or ""), str(e.get("message") or "")) for e in listed if isinstance(e, dict)]


def _message(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    for key in ("error_description", "error_message", "message", "detail", "details", "error"):
        if isinstance(value.get(key), str):
            return str(value[key])
    return ""


def _clean(text: str) -> str:
    line = "".join(c for c in " ".join(html.unescape(text).split()) if c.isprintable())
    line = redact(
        _SECRET_HEADER.sub(r"\1 …", redacted(line))
    )  # before cutting: part of a secret would not be recognised
    return line if len(line) <= _EXCERPT else line[:_EXCERPT] + "…"
