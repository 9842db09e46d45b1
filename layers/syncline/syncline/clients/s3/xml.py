"""Parsers and writers for the XML of the S3 protocol: listings, errors, multipart uploads and access lists."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from syncline.clients.http.listings import MAX_INVALID, InvalidEntry, OnInvalid, invalid_entry, printable, refuse
from syncline.errors import SynclineError

_ALL_USERS: Final = "http://acs.amazonaws.com/groups/global/AllUsers"

_UTF_8: Final = re.compile(
    rb"""(?:<\?xml\ version=(["'])1\.0\1(?:\ encoding=(["'])[Uu][Tt][Ff]-8\2)?\s*\?>)?\s*<[A-Za-z]""", re.VERBOSE
)
_TEXT: Final = r"[ -%'-;=-~]*+"  # printable ASCII but < and &
_QUOTE: Final = '(?:"|&quot;|&#34;)?'
_CONTENTS: Final = re.compile(
    rf"<Contents>\s*<Key>({_TEXT})</Key>\s*<LastModified>({_TEXT})</LastModified>"
    rf"\s*<ETag>{_QUOTE}([\w-]*){_QUOTE}</ETag>(?:\s*<(Checksum\w+)>\w*</\4>)*\s*<Size>([0-9]+)</Size>"
    rf"(?>\s*<Owner>(?:\s*<(\w+)>{_TEXT}</\6>)*+\s*</Owner>|\s*<(\w+)>{_TEXT}</\7>)*+\s*</Contents>\s*",
    re.ASCII,
)
_CONTENTS_END: Final = b"</Contents>"


class ListedObject(NamedTuple):
    """An object in a listing: ``etag`` without quotes, ``size`` in bytes, ``modified`` in Unix seconds.

    A named tuple, because a frozen dataclass takes three times as long to create and a page has 1,000 of them.
    """

    key: str
    etag: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a listing: its objects and common prefixes, and the token of the next page, None at the end."""

    objects: tuple[ListedObject, ...]
    prefixes: tuple[str, ...] = ()
    token: str | None = None


@dataclass(frozen=True, slots=True)
class AccessGrants:
    """The rights that an access list gives; each of ``READ``, ``WRITE``, ``FULL_CONTROL``, ``READ_ACP``, ``WRITE_ACP``."""

    owner: str
    of_owner: frozenset[str]
    of_known: frozenset[str]
    """The rights of all users with an account at the service, and of grantees other than the owner."""
    of_all: frozenset[str]


class NotXmlError(ValueError):
    """The body is not the expected XML; the message has the reason."""


def parse(body: bytes, *roots: str) -> ET.Element:
    """Return the root element with all namespaces removed; NotXmlError unless its name is one of ``roots``, if any."""
    try:
        # Http limits the body to 8 MiB, and expat limits the expansion of entities. Long operations send spaces first.
        top = ET.fromstring(body.lstrip())  # noqa: S314
    except (ET.ParseError, LookupError, ValueError) as error:  # the last two for an unsupported encoding
        raise NotXmlError("the response is not XML") from error
    for element in top.iter():
        element.tag = element.tag.rpartition("}")[2]
    if roots and top.tag not in roots:
        raise NotXmlError(f"the root element is {top.tag!r}, not {roots[0]!r}")
    return top


def list_page(body: bytes, on_invalid: OnInvalid = refuse, listing: str = "the listing") -> ListPage:
    """Return the page of ListObjectsV2 in ``body``, whose names may be URL-encoded (``encoding-type=url``).

    ``listing`` is the name of the listing in messages. Raises NotXmlError, and LISTING_INCOMPLETE if the page is
    truncated and has no token to continue with.
    """
    top, objects = _plain_page(body) or _page(body, on_invalid, listing)
    prefixes = tuple(_prefixes(top, on_invalid, listing))
    token = top.findtext("NextContinuationToken") or None
    match top.findtext("IsTruncated"):
        case "false":
            return ListPage(objects, prefixes)
        case "true" if token is not None:
            return ListPage(objects, prefixes, token)
        case "true":
            raise SynclineError("LISTING_INCOMPLETE", "the listing is truncated and has no continuation token")
    raise NotXmlError("the listing has no valid IsTruncated")


def _prefixes(top: ET.Element, on_invalid: OnInvalid, listing: str) -> Iterator[str]:
    encoded = _encoded(top)
    for number, each in enumerate(top.iterfind("CommonPrefixes"), 1):
        name = _text_of(each, "Prefix", encoded=encoded)
        if name:
            yield name
        else:
            on_invalid(invalid_entry(f"folder {number} of {listing}", None, "it has no UTF-8 name"))


def _page(
    body: bytes, on_invalid: OnInvalid = refuse, listing: str = "the listing"
) -> tuple[ET.Element, tuple[ListedObject, ...]]:
    """Return the root and the objects of a page."""
    top = parse(body, "ListBucketResult")
    encoded = _encoded(top)
    objects: list[ListedObject] = []
    invalid: list[InvalidEntry] = []
    pending: list[tuple[str | None, str]] = []  # name and reason of invalid entries after the last valid one
    for each in top.iterfind("Contents"):
        try:
            objects.append(_listed(each, encoded=encoded))
        except ValueError as error:
            pending.append((_text_of(each, "Key", encoded=encoded), str(error)))
            continue
        invalid += _invalid_entries(pending, listing, "before", objects[-1].key)
        pending.clear()
    invalid += _invalid_entries(pending, listing, "behind", objects[-1].key if objects else "")
    if len(invalid) > MAX_INVALID:
        raise NotXmlError(f"more than {MAX_INVALID} entries of one page are invalid; {invalid[0].error.what}")
    for entry in invalid:
        on_invalid(entry)
    return top, tuple(objects)


def _invalid_entries(
    entries: Iterable[tuple[str | None, str]], listing: str, side: str, key: str
) -> Iterator[InvalidEntry]:
    """Yield the consecutive invalid entries on one side of a key, "" if the page has no key."""
    for number, (name, why) in enumerate(entries, 1):
        which = "the entry" if number == 1 else f"entry {number}"
        where = f"{which} {side} {printable(key)!r} in {listing}" if key else f"entry {number} of a page of {listing}"
        yield invalid_entry(where, name, why, key)


def _listed(element: ET.Element, *, encoded: bool) -> ListedObject:
    key, size, time = element.findtext("Key"), element.findtext("Size"), element.findtext("LastModified") or ""
    if not key:
        raise ValueError("it has no key")
    if size is None or not (size.isascii() and size.isdigit()):
        raise ValueError("it has no size" if size is None else f"its size is {size[:40]!r}, not a number of bytes")
    etag = (element.findtext("ETag") or "").strip('"')
    try:
        modified = unix_time(time)
    except (ValueError, OverflowError):
        raise ValueError(f"its time is {time[:40]!r}, not a time") from None
    return ListedObject(_name(key, encoded=encoded), etag, int(size), modified)


def _text_of(element: ET.Element, tag: str, *, encoded: bool) -> str | None:
    """Return the name in an element, None if it is missing or not UTF-8."""
    try:
        return _name(element.findtext(tag) or "", encoded=encoded) or None
    except ValueError:
        return None


def _plain_page(body: bytes) -> tuple[ET.Element, tuple[ListedObject, ...]] | None:
    """Return the same as :func:`_page`, without its objects in the tree; None for a page that only :func:`_page` reads.

    Building the tree takes most of the time of a page. The usual page is in UTF-8 and has consecutive ``Contents``
    without entities, comments or attributes. A regular expression reads exactly that, to the last byte, and the tree is
    built from the text before and after.
    """
    first, end = body.find(b"<Contents>"), body.rfind(_CONTENTS_END) + len(_CONTENTS_END)
    if not 0 <= first < end or (b"!" in body and b"<!" in body) or not _UTF_8.match(body):
        return None
    try:
        top = parse(body[:first] + b"<Contents/>" + body[end:], "ListBucketResult")
        encoded = _encoded(top)
        text = body[first:end].decode()
        at = 0
        objects: list[ListedObject] = []
        append, new = objects.append, tuple.__new__
        for each in _CONTENTS.finditer(text):
            key, modified, etag, size = each.group(1, 2, 3, 5)
            if each.start() != at or not key:
                return None
            at = each.end()
            if encoded and ("%" in key or "+" in key):
                key = unquote_plus(key, errors="strict")
            append(new(ListedObject, (key, etag, int(size), unix_time(modified))))
    except (ValueError, OverflowError):  # NotXmlError, too
        return None
    return (top, tuple(objects)) if at == len(text) and top.find("Contents") is not None else None


def _encoded(top: ET.Element) -> bool:
    return top.findtext("EncodingType") == "url"


def _name(text: str, *, encoded: bool) -> str:
    """Return a name, decoded if ``encoded``. Raises ValueError if it is not UTF-8."""
    return unquote_plus(text, errors="strict") if encoded else text


@lru_cache(maxsize=4096)  # many objects are written within the same second
def unix_time(text: str) -> float:
    """Return the Unix seconds of an ISO 8601 time, 0 for the empty string."""
    if not text:
        return 0.0
    value = dt.datetime.fromisoformat(text)
    return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()


def error_code(body: bytes) -> str:
    """Return the code of an ``Error`` document, the empty string for any other body."""
    if not body:
        return ""
    try:
        return parse(body, "Error").findtext("Code") or ""
    except NotXmlError:
        return ""


def completion(parts: Iterable[tuple[int, str, str]]) -> bytes:
    """Return the body of a CompleteMultipartUpload request for part numbers, ETags and CRC64NVMEs ("" for none), in order."""
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag>"
        f"{f'<ChecksumCRC64NVME>{escape(checksum)}</ChecksumCRC64NVME>' if checksum else ''}</Part>"
        for number, etag, checksum in parts
    )
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


def grants(body: bytes) -> AccessGrants:
    """Return the access list in ``body``. Raises NotXmlError."""
    top = parse(body, "AccessControlPolicy")
    owner = top.findtext("Owner/ID") or ""
    found: dict[str, set[str]] = {"owner": set(), "known": set(), "all": set()}
    for who, what in _grants(top):
        found["owner" if who == owner else "all" if who == _ALL_USERS else "known"].add(what)
    return AccessGrants(owner, *(frozenset(found[each]) for each in ("owner", "known", "all")))


def _grants(top: ET.Element) -> Iterator[tuple[str, str]]:
    for grant in top.iterfind("AccessControlList/Grant"):
        names = (grant.findtext(f"Grantee/{each}") for each in ("URI", "ID", "EmailAddress"))
        who = next(filter(None, names), None)
        what = grant.findtext("Permission")
        if not who or not what:
            raise NotXmlError("a grant without a grantee or a permission")
        yield who, what
