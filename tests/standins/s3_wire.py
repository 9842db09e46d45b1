"""Requests to the S3 stand-in and its responses on the wire, and refusals that do not depend on its buckets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from tests.standins import s3_store as store

ACCESS: Final = "accesskeyofthetests"
SECRET: Final = "secretkeyofthetests"

Answer = tuple[int, Mapping[str, str], bytes]

_OPERATIONS: Final[dict[tuple[str, bool, frozenset[str]], str]] = {
    ("GET", False, frozenset({"list-type"})): "ListObjectsV2",
    ("HEAD", False, frozenset()): "HeadBucket",
    ("PUT", False, frozenset()): "CreateBucket",
    ("GET", True, frozenset()): "GetObject",
    ("GET", True, frozenset({"acl"})): "GetObjectAcl",
    ("HEAD", True, frozenset()): "HeadObject",
    ("PUT", True, frozenset()): "PutObject",
    ("DELETE", True, frozenset()): "DeleteObject",
    ("POST", True, frozenset({"uploads"})): "CreateMultipartUpload",
    ("PUT", True, frozenset({"partNumber", "uploadId"})): "UploadPart",
    ("GET", True, frozenset({"uploadId"})): "ListParts",
    ("POST", True, frozenset({"uploadId"})): "CompleteMultipartUpload",
    ("DELETE", True, frozenset({"uploadId"})): "AbortMultipartUpload",
}
_OPTIONAL: Final = {
    "ListObjectsV2": {
        "prefix",
        "delimiter",
        "max-keys",
        "start-after",
        "continuation-token",
        "encoding-type",
        "fetch-owner",
    },
    "ListParts": {"part-number-marker", "max-parts"},
}
CHECKSUM_HEADERS: Final = frozenset(
    {"x-amz-checksum-mode", "x-amz-checksum-crc64nvme", "x-amz-checksum-algorithm", "x-amz-checksum-type"}
)
_AMZ_HEADERS: Final = frozenset(
    {
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-acl",
        "x-amz-website-redirect-location",
        "x-amz-copy-source",
        "x-amz-copy-source-if-match",
        "x-amz-copy-source-range",
        "x-amz-metadata-directive",
        *CHECKSUM_HEADERS,
    }
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as received. ``target`` is path and query on the wire; header names are in lower case."""

    operation: str
    method: str
    target: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class RefusalError(Exception):
    """An S3 error in response to a request."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


def operation_of(method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """Return the name of a request's operation."""
    optional = {name for names in _OPTIONAL.values() for name in names}
    name = _OPERATIONS.get((method, key != "", frozenset(query) - optional))
    if name is None or not set(query) & optional <= _OPTIONAL.get(name, set()):
        raise RefusalError(501, "NotImplemented", f"{method} with the query {sorted(query)}")
    if "x-amz-copy-source" in headers:
        copies = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}
        if name not in copies:
            raise RefusalError(400, "InvalidRequest", "a copy source where nothing is copied")
        return copies[name]
    return name


def check(asked: Asked) -> None:
    """Refuse an invalid request: with a wrong signature or unknown headers."""
    headers = asked.headers
    form = r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/[^/]+/s3/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}"
    signed = re.fullmatch(form, headers.get("authorization", ""))
    if signed is None:
        raise RefusalError(403, "AccessDenied", "the request is not signed")
    if signed[1] != ACCESS:
        raise RefusalError(403, "InvalidAccessKeyId")
    amz = {name for name in headers if name.startswith("x-amz-")}
    unsigned = ({"host", *amz} | ({"if-match", "if-none-match"} & set(headers))) - set(signed[2].split(";"))
    if unsigned:
        raise RefusalError(403, "AccessDenied", f"not signed: {sorted(unsigned)}")
    unknown = {name for name in amz - _AMZ_HEADERS if not name.startswith(store.META)}
    if unknown:
        raise RefusalError(501, "NotImplemented", f"{sorted(unknown)}")
    if headers.get("x-amz-content-sha256") != hashlib.sha256(asked.body).hexdigest():
        raise RefusalError(400, "XAmzContentSHA256Mismatch")
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        raise RefusalError(400, "InvalidRequest", "a header that is not ASCII")
    if len(asked.key.encode()) > 1024:
        raise RefusalError(400, "KeyTooLongError")


def byte_range(text: str, size: int) -> tuple[int, int]:
    """Return the first byte of a range and the one after its last."""
    found = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", text)
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        raise RefusalError(400, "InvalidArgument", f"Range: {text}")
    if int(found[1]) >= size:
        raise RefusalError(416, "InvalidRange", f"{text} of {size} bytes")
    return int(found[1]), min(size, int(found[2]) + 1) if found[2] else size


def acl_of(asked: Asked) -> str:
    acl = asked.headers.get(store.ACL_HEADER, "private")
    if acl not in ("private", "public-read"):
        raise RefusalError(501, "NotImplemented", f"x-amz-acl: {acl}")
    return acl


def parsed(body: bytes, root: str) -> ET.Element:
    try:
        top = ET.fromstring(body)
    except ET.ParseError:
        raise RefusalError(400, "MalformedXML") from None
    for each in top.iter():
        each.tag = each.tag.rpartition("}")[2]
    if top.tag != root:
        raise RefusalError(400, "MalformedXML", top.tag)
    return top


def xml(body: bytes) -> Answer:
    return 200, {"Content-Type": "application/xml"}, body


def refusal(refused: RefusalError, method: str) -> Answer:
    if method == "HEAD" or refused.status == 304:
        return refused.status, {}, b""
    inner = f"<Code>{refused.code}</Code><Message>{escape(refused.message)}</Message>"
    return refused.status, {"Content-Type": "application/xml"}, f"<Error>{inner}</Error>".encode()
