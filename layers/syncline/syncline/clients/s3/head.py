"""An object's ETag, size, own headers and metadata, read from the headers of an answer and written to a request."""

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

REDIRECT: Final = "x-amz-website-redirect-location"
"""The one header of an object that CopyObject does not copy by itself."""

_META: Final = "x-amz-meta-"
_OWN_HEADERS: Final = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    REDIRECT,
)
_NO_TYPE: Final = "application/octet-stream"
_DEFAULT_TYPES: Final = frozenset({"", _NO_TYPE, "binary/octet-stream"})
_ENCODED_WORD: Final = re.compile(r"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=")


@dataclass(frozen=True, slots=True)
class Head:
    """An object without its content.

    ``etag`` is without quotes, ``size`` in bytes, ``modified`` in Unix seconds (0 if not stated). ``headers`` are the
    object's own standard headers beside its content type, and only those it has: Cache-Control, Content-Disposition,
    Content-Encoding, Content-Language, Expires and x-amz-website-redirect-location, names in lower case.
    """

    etag: str
    size: int
    content_type: str = _NO_TYPE
    modified: float = 0.0
    version: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Condition:
    """The state that a write requires of its target: the object with ``etag`` (without quotes), or no object if None.

    A service that honours conditions refuses the write otherwise, with TARGET_CHANGED here. One that does not honour
    them writes: see :meth:`Bucket.put_again_is_refused`. The HTTP room repeats a conditional write whose answer was
    lost, as it repeats any write, and the repeated one may meet the object that the lost one wrote: TARGET_CHANGED
    again. So a caller that gets it reads the target, before it reports a conflict, and recognises its own object.
    """

    etag: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request with this condition."""
        return {"If-None-Match": "*"} if self.etag is None else {"If-Match": f'"{self.etag}"'}


ABSENT: Final = Condition()
"""There is no object under the key."""


def etag_of(response: Response) -> str:
    """Return the ETag of an answer, without quotes."""
    return response.header("ETag").strip('"')


def head_of(response: Response) -> Head:
    """Return the head of the object in an answer to HEAD or GET; BAD_ANSWER if the answer does not state its length."""
    length = response.header("Content-Length")
    if not (length.isascii() and length.isdigit()):
        response.close()
        raise response.bad("an object without a length")
    version = response.header("x-amz-version-id")
    headers = {name: value for name in _OWN_HEADERS if (value := response.header(name))}
    if "content-encoding" in headers:
        headers |= _content_encoding(headers.pop("content-encoding"))
    return Head(
        etag_of(response),
        int(length),
        response.header("Content-Type") or _NO_TYPE,
        _unix_time(response.header("Last-Modified")),
        None if version in ("", "null") else version,
        response.headers.starting(_META),
        headers,
    )


def _content_encoding(value: str) -> dict[str, str]:
    """Return the Content-Encoding without ``aws-chunked``, which is how an upload was sent and not part of the object."""
    kept = [coding for each in value.split(",") if (coding := each.strip()) and coding.lower() != "aws-chunked"]
    return {"content-encoding": ", ".join(kept)} if kept else {}


@lru_cache(maxsize=1024)  # many objects are of the same second
def _unix_time(text: str) -> float:
    """Return the Unix seconds of an HTTP date, 0 if it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def attributes_of(like: Head | None) -> dict[str, str]:
    """Return the headers that give a new object the type, own headers and metadata of ``like``."""
    if like is None:
        return {}
    own = {name: _sendable(value) for name, value in like.headers.items()}
    metadata = {f"{_META}{name}": _sendable(value) for name, value in like.metadata.items()}
    return {"Content-Type": _sendable(like.content_type), **own, **metadata}


def fingerprint(head: Head) -> str:
    """Return 12 hex characters that are equal for objects with the same type, own headers and metadata.

    A value counts as the text that it stands for: the same in RFC 2047 and in raw UTF-8. The content types that
    servers give to an object without one are all the same.
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
    """Return the text of a value that was decoded from the wire as Latin-1; servers send UTF-8 or really Latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _text(value: str) -> str:
    """Return the text that a header value stands for."""
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
