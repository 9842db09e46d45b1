"""The ETag, size, standard headers and metadata of an object, as HTTP headers."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from syncline.clients.http.client import Response
from syncline.clients.s3.checksums import stated

REDIRECT_HEADER: Final = "x-amz-website-redirect-location"
"""The only header of an object that CopyObject does not copy."""

_META: Final = "x-amz-meta-"
_OWN_HEADERS: Final = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    REDIRECT_HEADER,
)
_NO_TYPE: Final = "application/octet-stream"
_DEFAULT_TYPES: Final = frozenset({"", _NO_TYPE, "binary/octet-stream"})
_ENCODED_WORD: Final = re.compile(r"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=")


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """An object without its content.

    ``etag`` is without quotes, ``size`` in bytes, ``modified`` in Unix seconds (0 if not stated). ``headers`` are the
    object's own standard headers beside its content type, and only those it has: Cache-Control, Content-Disposition,
    Content-Encoding, Content-Language, Expires and x-amz-website-redirect-location, names in lower case. ``checksums`` are
    those that the answer states of the complete object, by algorithm; see :mod:`syncline.clients.s3.checksums`.
    """

    etag: str
    size: int
    content_type: str = _NO_TYPE
    modified: float = 0.0
    version: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class WriteCondition:
    """The state that a write requires of its target: the object with ``etag`` (without quotes), or no object if None.

    A service that honours conditions refuses the write otherwise, raised as TARGET_CHANGED. One that ignores them
    writes: see :func:`syncline.clients.s3.client.honours_conditions`. :class:`Http` repeats a conditional write whose
    response was lost, and the second one may find the object that the first one wrote: TARGET_CHANGED again. So the caller reads the
    target and checks for its own object before it reports a conflict.
    """

    etag: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request with this condition."""
        return {"If-None-Match": "*"} if self.etag is None else {"If-Match": f'"{self.etag}"'}


IF_ABSENT: Final = WriteCondition()
"""No object has the key."""


def etag_of(response: Response) -> str:
    """Return the ETag of an answer, without quotes."""
    return response.header("ETag").strip('"')


def head_of(response: Response) -> ObjectHead:
    """Return the head of the object in an answer to HEAD or GET; BAD_ANSWER if the answer does not state its length."""
    length = response.header("Content-Length")
    if not (length.isascii() and length.isdigit()):
        response.close()
        raise response.protocol_error("the response has no valid Content-Length")
    version = response.header("x-amz-version-id")
    headers = {name: value for name in _OWN_HEADERS if (value := response.header(name))}
    if "content-encoding" in headers:
        headers |= _content_encoding(headers.pop("content-encoding"))
    return ObjectHead(
        etag_of(response),
        int(length),
        response.header("Content-Type") or _NO_TYPE,
        _unix_time(response.header("Last-Modified")),
        None if version in ("", "null") else version,
        response.headers.starting(_META),
        headers,
        stated(response),
    )


def _content_encoding(value: str) -> dict[str, str]:
    """Return the Content-Encoding without ``aws-chunked``, which describes the upload, not the object."""
    kept = [coding for each in value.split(",") if (coding := each.strip()) and coding.lower() != "aws-chunked"]
    return {"content-encoding": ", ".join(kept)} if kept else {}


@lru_cache(maxsize=1024)  # many objects are written within the same second
def _unix_time(text: str) -> float:
    """Return the Unix seconds of an HTTP date, 0 if it is invalid."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def attributes_of(like: ObjectHead | None) -> dict[str, str]:
    """Return the headers that give a new object the type, own headers and metadata of ``like``."""
    if like is None:
        return {}
    own = {name: _sendable(value) for name, value in like.headers.items()}
    metadata = {f"{_META}{name}": _sendable(value) for name, value in like.metadata.items()}
    return {"Content-Type": _sendable(like.content_type), **own, **metadata}


def fingerprint(head: ObjectHead) -> str:
    """Return 12 hex characters that are equal for objects with the same type, own headers and metadata.

    Values are compared decoded, so RFC 2047 and raw UTF-8 are equal. The content types that servers give to an object
    without one are all equal.
    """
    content_type = "" if head.content_type in _DEFAULT_TYPES else head.content_type
    named = {"content-type": content_type, **head.headers}
    named |= {f"{_META}{name.lower()}": value for name, value in head.metadata.items()}
    lines = sorted(f"{name}\0{_text(value)}\0" for name, value in named.items())
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _sendable(value: str) -> str:
    """Return a header value that is not printable ASCII in the form that S3 itself uses (RFC 2047)."""
    if value.isascii() and value.isprintable():
        return value
    return f"=?UTF-8?B?{base64.b64encode(_raw_text(value).encode()).decode()}?="


def _raw_text(value: str) -> str:
    """Return the text of a value that was decoded as Latin-1; servers send UTF-8 or Latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _text(value: str) -> str:
    """Return the decoded text of a header value."""
    if not value.isascii():
        return _raw_text(value)
    if "=?" not in value or _ENCODED_WORD.search(value) is None:
        return value
    try:
        words = [
            word if isinstance(word, str) else word.decode(charset or "latin-1")
            for word, charset in decode_header(value)
        ]
    except (HeaderParseError, UnicodeError, LookupError, ValueError):
        return value
    return "".join(words)
