"""What an object is, read from the headers of an answer and written into those of a request."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from syncline.clients.http import Response

_META: Final = "x-amz-meta-"


@dataclass(frozen=True, slots=True)
class Head:
    """What an object is. ``etag`` without quotes, ``size`` in bytes, ``modified`` in Unix seconds (0 if not said)."""

    etag: str
    size: int
    content_type: str = "application/octet-stream"
    modified: float = 0.0
    version: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def etag_of(response: Response) -> str:
    """The ETag of an answer, without quotes."""
    return response.header("ETag").strip('"')


def head_of(response: Response) -> Head:
    """What an answer to HEAD or GET says of its object; BAD_ANSWER if it does not say how long it is."""
    length = response.header("Content-Length")
    if not (length.isascii() and length.isdigit()):
        response.close()
        raise response.bad("an object without a length")
    version = response.header("x-amz-version-id")
    return Head(
        etag_of(response),
        int(length),
        response.header("Content-Type") or "application/octet-stream",
        _unix_time(response.header("Last-Modified")),
        None if version in ("", "null") else version,
        response.headers.starting(_META),
    )


@lru_cache(maxsize=1024)  # many objects are of the same second
def _unix_time(text: str) -> float:
    """Unix seconds of an HTTP date, 0 where it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def attributes_of(like: Head | None) -> dict[str, str]:
    """The headers that give an object the type and metadata of another."""
    if like is None:
        return {}
    metadata = {f"{_META}{name}": _sendable(value) for name, value in like.metadata.items()}
    return {"Content-Type": _sendable(like.content_type), **metadata}


def _sendable(value: str) -> str:
    """A header's value as S3 itself gives one that is not ASCII (RFC 2047)."""
    if value.isascii() and value.isprintable():
        return value
    raw = value.encode("latin-1", "replace")  # as it was read from the wire
    return f"=?UTF-8?B?{base64.b64encode(raw).decode()}?="
