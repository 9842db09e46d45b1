"""The XML of the S3 protocol: listings, refusals, multipart uploads and access lists, read and written."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from syncline.errors import SynclineError

_UNWRITABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ALL_USERS: Final = "http://acs.amazonaws.com/groups/global/AllUsers"


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing shows it: ``etag`` without quotes, ``size`` in bytes, ``modified`` in Unix seconds."""

    key: str
    etag: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a listing: objects and common prefixes in it, and the token of the next one, None at the end."""

    objects: tuple[Listed, ...]
    prefixes: tuple[str, ...] = ()
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Grants:
    """Who may do what by an access list; each of ``READ``, ``WRITE``, ``FULL_CONTROL``, ``READ_ACP``, ``WRITE_ACP``."""

    owner: str
    of_owner: frozenset[str]
    of_known: frozenset[str]
    """What everybody with an account at the service may do, and grantees other than the owner."""
    of_all: frozenset[str]


class NotXmlError(ValueError):
    """The body is not the XML that was expected; the text says how."""


def parse(body: bytes, root: str | None = None) -> ET.Element:
    """The element at the top without namespaces; NotXmlError unless it is called ``root``."""
    try:
        # The HTTP room caps the body at 8 MiB, and expat refuses entities that swell.
        top = ET.fromstring(body)  # noqa: S314
    except ET.ParseError as error:
        raise NotXmlError("the answer is not XML") from error
    for element in top.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root is not None and top.tag != root:
        raise NotXmlError(f"the answer is {top.tag!r}, not {root!r}")
    return top


def list_page(body: bytes) -> ListPage:
    """A page of ListObjectsV2 with ``encoding-type=url``.

    Raises NotXmlError, and LISTING_INCOMPLETE where the page says that it is cut short but not how to go on.
    """
    top = parse(body, "ListBucketResult")
    encoded = top.findtext("EncodingType") == "url"
    try:
        objects = tuple(_listed(each, encoded=encoded) for each in top.iterfind("Contents"))
    except (ValueError, OverflowError) as error:
        raise NotXmlError(f"an object of the listing is not one: {error}") from None
    prefixes = tuple(_name(each.findtext("Prefix") or "", encoded=encoded) for each in top.iterfind("CommonPrefixes"))
    token = top.findtext("NextContinuationToken") or None
    match top.findtext("IsTruncated"):
        case "false":
            return ListPage(objects, prefixes)
        case "true" if token is not None:
            return ListPage(objects, prefixes, token)
        case "true":
            raise SynclineError("LISTING_INCOMPLETE", "the listing is cut short and does not say how to go on")
    raise NotXmlError("the listing does not say whether it is complete")


def _listed(element: ET.Element, *, encoded: bool) -> Listed:
    key, size = element.findtext("Key"), element.findtext("Size")
    if not key or size is None:
        raise ValueError("no key or no size")
    etag = (element.findtext("ETag") or "").strip('"')
    return Listed(_name(key, encoded=encoded), etag, int(size), unix_time(element.findtext("LastModified") or ""))


def _name(text: str, *, encoded: bool) -> str:
    return unquote_plus(text) if encoded else text


def unix_time(text: str) -> float:
    """Unix seconds of an ISO 8601 time, 0 where there is none."""
    if not text:
        return 0.0
    value = dt.datetime.fromisoformat(text)
    return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()


def error_code(body: bytes) -> str:
    """The code of a refusal, the empty string where the body is none."""
    if not body:
        return ""
    try:
        return parse(body, "Error").findtext("Code") or ""
    except NotXmlError:
        return ""


def deletion(keys: Iterable[str]) -> bytes:
    """The body of DeleteObjects."""
    objects = "".join(f"<Object><Key>{escape(key, {chr(13): '&#13;'})}</Key></Object>" for key in keys)
    return f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()


def writable(key: str) -> bool:
    """Whether XML 1.0 can carry a key: it cannot carry most control characters."""
    return _UNWRITABLE.search(key) is None


def not_deleted(body: bytes) -> dict[str, str]:
    """The keys that DeleteObjects left, with the code of each."""
    errors = parse(body, "DeleteResult").iterfind("Error")
    return {each.findtext("Key") or "": each.findtext("Code") or "" for each in errors}


def completion(parts: Iterable[tuple[int, str]]) -> bytes:
    """The body of CompleteMultipartUpload: part numbers and ETags, in order."""
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>" for number, etag in parts
    )
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


def grants(body: bytes) -> Grants:
    """An access list; NotXmlError where it is none."""
    top = parse(body, "AccessControlPolicy")
    owner = top.findtext("Owner/ID") or ""
    found: dict[str, set[str]] = {"owner": set(), "known": set(), "all": set()}
    for who, what in _grants(top):
        found["owner" if who == owner else "all" if who == _ALL_USERS else "known"].add(what)
    return Grants(owner, *(frozenset(found[each]) for each in ("owner", "known", "all")))


def _grants(top: ET.Element) -> Iterator[tuple[str, str]]:
    for grant in top.iterfind("AccessControlList/Grant"):
        names = (grant.findtext(f"Grantee/{each}") for each in ("URI", "ID", "EmailAddress"))
        who = next(filter(None, names), None)
        what = grant.findtext("Permission")
        if not who or not what:
            raise NotXmlError("a grant without a grantee or a permission")
        yield who, what
