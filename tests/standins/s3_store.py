"""The objects of the S3 stand-in, and the XML of its responses."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

import anycrc

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
ACL_HEADER: Final = "x-amz-acl"
META: Final = "x-amz-meta-"
KEPT: Final = (
    "content-type",
    "content-encoding",
    "cache-control",
    "content-disposition",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
)
"""The headers that belong to an object, beside its metadata."""
DEFAULT_TYPE: Final = "binary/octet-stream"


@dataclass
class StoredObject:
    """An object. ``headers`` are those of :data:`KEPT`; all names are in lower case; ``etag`` has no quotes."""

    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    etag: str = ""
    modified: float = field(default_factory=time.time)
    acl: str = "private"  # or public-read
    checksum: str = ""  # the CRC64NVME of the content, "" if none is stored

    def __post_init__(self) -> None:
        self.etag = self.etag or md5(self.content)

    def answer_headers(self) -> dict[str, str]:
        return {
            "ETag": f'"{self.etag}"',
            "Last-Modified": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(self.modified)),
            "Accept-Ranges": "bytes",
            **self.headers,
            **{f"{META}{name}": value for name, value in self.metadata.items()},
        }


@dataclass
class StoredUpload:
    """A multipart upload in progress; ``parts`` has the content of each by its number."""

    bucket: str
    key: str
    headers: dict[str, str]
    metadata: dict[str, str]
    acl: str = "private"
    parts: dict[int, bytes] = field(default_factory=dict)
    checked: bool = False  # begun with a checksum algorithm

    def completed(self, numbers: Iterable[int], modified: float) -> StoredObject:
        """Return the object made of the parts, with an ETag as S3 computes it: the MD5 of the parts' MD5s."""
        contents = [self.parts[number] for number in numbers]
        sums = b"".join(hashlib.md5(each, usedforsecurity=False).digest() for each in contents)
        etag = f"{md5(sums)}-{len(contents)}"
        return StoredObject(b"".join(contents), self.headers, self.metadata, etag, modified, self.acl)


def crc64nvme(content: bytes) -> str:
    return base64.b64encode(anycrc.Model("CRC64-NVME").calc(content).to_bytes(8)).decode()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def listing(
    objects: Mapping[str, StoredObject], bucket: str, query: Mapping[str, str], skew: float, largest_page: int
) -> bytes | None:
    """Return the response of ListObjectsV2; None if a parameter is invalid."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    limit = query.get("max-keys", "1000")
    coding = query.get("encoding-type")
    if not re.fullmatch("[1-9][0-9]{0,6}", limit) or coding not in (None, "url"):
        return None
    after = query.get("start-after", "")
    if token := query.get("continuation-token", ""):
        try:
            after = base64.b64decode(token, validate=True).decode()
        except ValueError:
            return None
    name: Callable[[str], str] = _encoded if coding else _escaped
    rows, prefixes, last = _page(objects, (prefix, delimiter, after), min(int(limit), largest_page))
    text = [
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="{NAMESPACE}"><Name>{bucket}</Name>',
        f"<Prefix>{name(prefix)}</Prefix><KeyCount>{len(rows) + len(prefixes)}</KeyCount><MaxKeys>{limit}</MaxKeys>",
        f"<Delimiter>{name(delimiter)}</Delimiter>" if delimiter else "",
        f"<EncodingType>{coding}</EncodingType>" if coding else "",
        f"<IsTruncated>{'false' if last is None else 'true'}</IsTruncated>",
    ]
    if last is not None:
        text.append(f"<NextContinuationToken>{base64.b64encode(last.encode()).decode()}</NextContinuationToken>")
    text += (
        f"<Contents><Key>{name(key)}</Key><LastModified>{iso_time(item.modified + skew)}</LastModified>"
        f"<ETag>&quot;{item.etag}&quot;</ETag><Size>{len(item.content)}</Size><StorageClass>STANDARD</StorageClass>"
        "</Contents>"
        for key, item in rows
    )
    text += (f"<CommonPrefixes><Prefix>{name(each)}</Prefix></CommonPrefixes>" for each in prefixes)
    return "".join((*text, "</ListBucketResult>")).encode()


def _page(
    objects: Mapping[str, StoredObject], wanted: tuple[str, str, str], limit: int
) -> tuple[list[tuple[str, StoredObject]], list[str], str | None]:
    """Return objects and prefixes of one page, and the name to continue after, None at the end."""
    prefix, delimiter, after = wanted
    rows: list[tuple[str, StoredObject]] = []
    prefixes: list[str] = []
    last = ""
    for key in sorted(objects):
        if key <= after or not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        group = key[: at + len(delimiter)] if at >= 0 else ""
        if group and group in (last, after):
            continue
        if len(rows) + len(prefixes) == limit:
            return rows, prefixes, last
        last = group or key
        if group:
            prefixes.append(group)
        else:
            rows.append((key, objects[key]))
    return rows, prefixes, None


def parts_page(upload: StoredUpload, number: str, marker: int, limit: int, modified: float) -> bytes:
    """Return the response of ListParts."""
    numbers = [each for each in sorted(upload.parts) if each > marker]
    shown, more = numbers[:limit], len(numbers) > limit
    rows = "".join(
        f"<Part><PartNumber>{each}</PartNumber><LastModified>{iso_time(modified)}</LastModified>"
        f"<ETag>&quot;{md5(upload.parts[each])}&quot;</ETag><Size>{len(upload.parts[each])}</Size>"
        f"{f'<ChecksumCRC64NVME>{crc64nvme(upload.parts[each])}</ChecksumCRC64NVME>' if upload.checked else ''}</Part>"
        for each in shown
    )
    following = f"<NextPartNumberMarker>{shown[-1]}</NextPartNumberMarker>" if more else ""
    return answer(
        "ListPartsResult",
        f"<Bucket>{upload.bucket}</Bucket><Key>{_escaped(upload.key)}</Key><UploadId>{number}</UploadId>"
        f"<PartNumberMarker>{marker}</PartNumberMarker>{following}<MaxParts>{limit}</MaxParts>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{rows}",
    )


def access_list(acl: str) -> bytes:
    """Return the response of GetObjectAcl for a canned access list."""
    grantees = [("<ID>owner</ID>", "FULL_CONTROL")]
    if acl == "public-read":
        grantees.append(("<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI>", "READ"))
    rows = "".join(f"<Grant><Grantee>{who}</Grantee><Permission>{what}</Permission></Grant>" for who, what in grantees)
    return answer("AccessControlPolicy", f"<Owner><ID>owner</ID></Owner><AccessControlList>{rows}</AccessControlList>")


def answer(root: str, inner: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{NAMESPACE}">{inner}</{root}>'.encode()


def iso_time(seconds: float) -> str:
    whole, thousandths = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{thousandths:03d}Z"


def _encoded(name: str) -> str:
    return quote(name, safe="/-._*").replace("%20", "+")


def _escaped(name: str) -> str:
    return escape(name, {chr(code): f"&#{code};" for code in (*range(1, 9), 11, 12, 13, *range(14, 32))})
