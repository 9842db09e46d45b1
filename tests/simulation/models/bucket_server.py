"""A bucket of an S3-compatible service in memory.

It behaves as Amazon S3: requests are atomic, a read sees the last write, conditional writes are honoured, listings are in
the order of the keys, and every change is notified.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from time import gmtime, strftime
from typing import Any, Final, NamedTuple
from urllib.parse import quote_plus, unquote

from syncline.clients.s3.client import MAX_COPY
from syncline.clients.s3.head import REDIRECT_HEADER, ObjectHead, WriteCondition, attributes_of
from syncline.clients.s3.xml import AccessGrants, ListedObject, ListPage
from syncline.errors import SynclineError
from tests.simulation.machine import Machine

META: Final = "x-amz-meta-"
_KEPT_HEADERS: Final = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    REDIRECT_HEADER,
)
_ARCHIVED: Final = ("GLACIER", "DEEP_ARCHIVE")
_MAX_PARTS: Final = 10_000
_EVENTS: Final = {"put": "Put", "copy": "Copy", "complete": "CompleteMultipartUpload"}


class Write(NamedTuple):
    """A change of the bucket. ``op`` is ``put``, ``copy``, ``complete`` or ``delete``. ``old`` and ``new`` are ETags."""

    op: str
    key: str
    old: str | None
    new: str | None
    by: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object. ``headers`` are its content type, its other headers and its metadata, with names in lower case."""

    content: bytes
    etag: str
    headers: Mapping[str, str]
    modified: float
    version: str | None = None
    storage_class: str = "STANDARD"
    public: bool = False

    def head(self, size: int | None = None) -> ObjectHead:
        """Return the head of the object, or of ``size`` bytes of it."""
        headers = self.headers
        return ObjectHead(
            self.etag,
            len(self.content) if size is None else size,
            headers.get("content-type") or "application/octet-stream",
            float(int(self.modified)),  # an HTTP date has whole seconds
            self.version,
            {name.removeprefix(META): value for name, value in headers.items() if name.startswith(META)},
            {name: headers[name] for name in _KEPT_HEADERS if headers.get(name)},
        )


@dataclass(slots=True)
class StoredUpload:
    """A multipart upload in progress."""

    key: str
    headers: Mapping[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


class BucketServer:
    """A bucket that all processes share. Objects can be copied to and from ``same_service``, another bucket.

    Settings: ``page_size`` and ``parts_page`` limit one answer. ``smallest_part`` and ``largest_copy`` are in bytes. With
    ``versioned``, every version is kept. Faults and variants, off by default:

    - ``absent``: the bucket does not exist.
    - ``ignores_conditions``: conditional writes happen unconditionally.
    - ``put_and_forget``: writes are acknowledged and discarded.
    - ``wrong_bytes``: writes store other bytes of the same number. ``lost_bytes``: they lose one byte. The ETag fits these.
    - ``listing_cut``: listings end after so many keys as if these were all. ``empty_listing``: they are empty.
    - ``endless``: listings start again at their end.
    - ``stale_listing``: listings lack the changes of the last so many seconds.
    - ``exact_listing``: listings have fractions of seconds, which HEAD cannot have.
    - ``short_reads``: reads return fewer bytes than requested, by chance.
    - ``no_grants``: the service has no access lists.

    ``on_write`` is called for each change, with the object before and after it. ``on_event`` is called for each
    notification.
    """

    def __init__(
        self, machine: Machine, name: str = "bucket", *, host: str = "s3.sim", same_service: BucketServer | None = None
    ) -> None:
        self.machine, self.name = machine, name
        self.host: str = host if same_service is None else same_service.host
        self.service: dict[str, BucketServer] = {} if same_service is None else same_service.service
        self.service[name] = self
        self.page_size, self.parts_page = 4, 1000
        self.smallest_part, self.largest_copy = 5 * 1024 * 1024, MAX_COPY
        self.versioned = self.absent = self.ignores_conditions = self.put_and_forget = False
        self.wrong_bytes = self.lost_bytes = self.short_reads = self.no_grants = False
        self.empty_listing = self.endless = self.exact_listing = False
        self.listing_cut = 0
        self.stale_listing = 0.0
        self.on_event: Callable[[dict[str, Any]], None] | None = None
        self.on_write: Callable[[Write, StoredObject | None, StoredObject | None], None] | None = None
        self.writes: list[Write] = []
        self.uploads: dict[str, StoredUpload] = {}
        self._objects: dict[str, StoredObject] = {}
        self._keys: list[str] = []
        self._log: list[tuple[float, str, StoredObject | None]] = []
        self._versions: dict[tuple[str, str], StoredObject] = {}
        self._numbers = count(1)

    # -- foreign writers

    @property
    def hides(self) -> bool:
        """True while listings leave objects out."""
        return bool(self.listing_cut or self.empty_listing or self.stale_listing)

    def set(
        self,
        key: str,
        content: bytes,
        like: ObjectHead | None = None,
        *,
        storage_class: str = "STANDARD",
        public: bool = False,
    ) -> str:
        """Put an object as a foreign writer, and return its ETag."""
        stored = StoredObject(
            content, md5(content), attributes(like), self.machine.now, self._version(), storage_class, public
        )
        self._change("put", key, stored, "outside")
        return stored.etag

    def remove(self, key: str) -> None:
        """Delete an object as a foreign writer."""
        self._change("delete", key, None, "outside")

    def stored(self, key: str) -> StoredObject | None:
        """Return an object, None if there is none."""
        return self._objects.get(key)

    def objects(self) -> dict[str, tuple[str, bytes]]:
        """Return the ETag and the content of each object, in the order of the keys."""
        return {key: (self._objects[key].etag, self._objects[key].content) for key in self._keys}

    # -- reading

    def page(self, prefix: str, delimiter: str, after: str, token: str | None, limit: int) -> ListPage:
        """Return a page of the listing, as ListObjectsV2 does."""
        self._check_bucket()
        if limit < 1 or (token is not None and ":" not in token):
            raise SynclineError("REFUSED", f"400 InvalidArgument: max-keys={limit}, continuation-token={token}")
        if token is not None:
            after = token.partition(":")[2]
        objects = self._listed()
        keys = self._keys if objects is self._objects else sorted(objects)
        first = bisect_left(keys, prefix)
        rows: list[ListedObject] = []
        groups: list[str] = []
        last = ""
        following: str | None = f"again-{next(self._numbers)}:" if self.endless else None
        for index in range(max(first, bisect_right(keys, after)), len(keys)):
            key = keys[index]
            if not key.startswith(prefix) or (self.listing_cut and index - first >= self.listing_cut):
                break
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            group = key[: at + len(delimiter)] if at >= 0 else ""
            if group and group in (last, after):
                continue
            if len(rows) + len(groups) == min(limit, self.page_size):
                following = f"after:{last}"
                break
            last = group or key
            if group:
                groups.append(group)
            else:
                each = objects[key]
                modified = each.modified if self.exact_listing else float(int(each.modified))
                rows.append(ListedObject(key, each.etag, len(each.content), modified))
        return ListPage(tuple(rows), tuple(groups), following)

    def _listed(self) -> Mapping[str, StoredObject]:
        """Return the objects that listings contain."""
        if self.empty_listing:
            return {}
        if not self.stale_listing:
            return self._objects
        known: dict[str, StoredObject] = {}
        for when, key, stored in self._log:
            if when > self.machine.now - self.stale_listing:
                break
            if stored is None:
                known.pop(key, None)
            else:
                known[key] = stored
        return known

    def head(self, key: str, version: str | None) -> ObjectHead | None:
        """Return the head of an object, None for the 404 of HEAD, which has no body."""
        stored = None if self.absent else self._find(key, version)
        return None if stored is None else stored.head()

    def get(
        self, key: str, etag: str | None, version: str | None, start: int, end: int | None
    ) -> tuple[ObjectHead, bytes]:
        """Return an object, or a range of it, if its ETag is ``etag``."""
        stored = self._existing(key, version)
        if etag is not None and stored.etag != etag:
            raise precondition_failed(key, None)
        if start > 0 or end is not None:
            if start >= len(stored.content) or (end is not None and end <= start):
                raise SynclineError("REFUSED", f"416 InvalidRange: {start} to {end} of {key!r}")
            content = stored.content[start:end]
            return stored.head(len(content)), content
        return stored.head(), stored.content

    def grants(self, key: str) -> AccessGrants:
        """Return the access list of an object."""
        stored = self._existing(key, None, readable=False)
        if self.no_grants:
            raise SynclineError("REFUSED", "501 NotImplemented: the service has no access lists")
        return AccessGrants(
            "owner", frozenset({"FULL_CONTROL"}), frozenset(), frozenset({"READ"} if stored.public else ())
        )

    # -- writing

    def put(self, key: str, content: bytes, headers: Mapping[str, str], condition: WriteCondition | None) -> str:
        """Put an object, and return its ETag."""
        self._check(key, condition)
        return self._keep("put", key, content, _checked(key, headers), md5(content))

    def copy(self, source: Mapping[str, str], key: str, condition: WriteCondition | None) -> str:
        """Copy the object that the headers ``source`` name, and return the ETag of the copy."""
        self._check(key, condition)
        stored = self._source(source, condition)
        if len(stored.content) > self.largest_copy:
            raise SynclineError("REFUSED", f"400 InvalidRequest: {key!r} is too large for one copy")
        if stored is self._objects.get(key):
            raise SynclineError("REFUSED", f"400 InvalidRequest: a copy of {key!r} onto itself that changes nothing")
        headers = {name: value for name, value in stored.headers.items() if name != REDIRECT_HEADER}
        headers |= {REDIRECT_HEADER: source[REDIRECT_HEADER]} if REDIRECT_HEADER in source else {}
        return self._keep("copy", key, stored.content, headers, md5(stored.content))

    def delete(self, key: str, condition: WriteCondition | None) -> None:
        """Delete an object if it exists."""
        if condition is not None and condition.etag is None:
            raise SynclineError("REFUSED", "501 NotImplemented: If-None-Match of a deletion")
        self._check_bucket()
        if key in self._objects:
            self._check(key, condition)
            self._change("delete", key, None, "client")

    def begin(self, key: str, headers: Mapping[str, str]) -> str:
        """Begin a multipart upload, and return its ID."""
        self._check(key, None)
        number = f"upload-{next(self._numbers)}"
        self.uploads[number] = StoredUpload(key, _checked(key, headers))
        return number

    def put_part(self, key: str, number: str, part: int, content: bytes) -> str:
        """Store a part of an upload, and return its ETag."""
        upload = self._upload(key, number)
        if not 1 <= part <= _MAX_PARTS:
            raise SynclineError("REFUSED", f"400 InvalidArgument: partNumber={part}")
        upload.parts[part] = content
        return md5(content)

    def copy_part(self, key: str, number: str, part: int, source: Mapping[str, str], span: tuple[int, int]) -> str:
        """Copy bytes of the object that the headers ``source`` name as a part, and return its ETag."""
        self._upload(key, number)
        content, (start, end) = self._source(source, None).content, span
        if not 0 <= start < end <= len(content):
            raise SynclineError("REFUSED", f"400 InvalidArgument: {start} to {end} of {len(content)} bytes")
        return self.put_part(key, number, part, content[start:end])

    def parts(self, key: str, number: str, marker: int) -> tuple[dict[int, tuple[str, int]], bool]:
        """Return one page of the parts after number ``marker``, and True if there are more."""
        stored = self._upload(key, number).parts
        after = sorted(part for part in stored if part > marker)
        page = {part: (md5(stored[part]), len(stored[part])) for part in after[: self.parts_page]}
        return page, len(after) > self.parts_page

    def complete(self, key: str, number: str, etags: Mapping[int, str], condition: WriteCondition | None) -> str:
        """Assemble an object from the parts in ``etags``, and return its ETag."""
        self._check(key, condition)
        upload = self._upload(key, number)
        contents = [upload.parts.get(part, b"") for part in sorted(etags)]
        wrong = [part for part, etag in etags.items() if part not in upload.parts or md5(upload.parts[part]) != etag]
        if wrong or not etags:
            raise SynclineError("REFUSED", f"400 InvalidPart: {wrong}" if wrong else "400 MalformedXML: no parts")
        if any(len(content) < self.smallest_part for content in contents[:-1]):
            raise SynclineError("REFUSED", f"400 EntityTooSmall: a part of {key!r}")
        del self.uploads[number]
        sums = b"".join(hashlib.md5(content, usedforsecurity=False).digest() for content in contents)
        return self._keep("complete", key, b"".join(contents), upload.headers, f"{md5(sums)}-{len(contents)}")

    def abort(self, key: str, number: str) -> None:
        """Delete an upload and its parts."""
        self._upload(key, number)
        del self.uploads[number]

    # -- checks

    def _check_bucket(self) -> None:
        if self.absent:
            raise SynclineError("BUCKET_ABSENT", f"404 NoSuchBucket: {self.name}")

    def _check(self, key: str, condition: WriteCondition | None) -> None:
        """Raise an error if the condition of a write does not hold."""
        self._check_bucket()
        if condition is None or self.ignores_conditions:
            return
        there = self._objects.get(key)
        if condition.etag is not None and there is None:
            raise no_such_key(key, condition)
        if there is not None and there.etag != condition.etag:
            raise precondition_failed(key, condition)

    def _find(self, key: str, version: str | None) -> StoredObject | None:
        return self._objects.get(key) if version is None else self._versions.get((key, version))

    def _existing(self, key: str, version: str | None, *, readable: bool = True) -> StoredObject:
        self._check_bucket()
        stored = self._find(key, version)
        if stored is None:
            raise no_such_key(key, None)
        if readable and stored.storage_class in _ARCHIVED:
            raise SynclineError("OBJECT_ARCHIVED", f"403 InvalidObjectState: {key!r} is in {stored.storage_class}")
        return stored

    def _source(self, source: Mapping[str, str], condition: WriteCondition | None) -> StoredObject:
        """Return the object to copy. Its ETag must be that of the headers."""
        where, _, version = source["x-amz-copy-source"].partition("?versionId=")
        name, _, key = where.removeprefix("/").partition("/")
        bucket, key = self.service.get(unquote(name)), unquote(key)
        if bucket is None:
            raise SynclineError("BUCKET_ABSENT", f"404 NoSuchBucket: {unquote(name)}")
        bucket._check_bucket()
        if bucket._find(key, unquote(version) or None) is None:
            raise no_such_key(key, condition)
        stored = bucket._existing(key, unquote(version) or None)
        if source["x-amz-copy-source-if-match"] != f'"{stored.etag}"':
            raise precondition_failed(key, condition)
        return stored

    def _upload(self, key: str, number: str) -> StoredUpload:
        self._check_bucket()
        upload = self.uploads.get(number)
        if upload is None or upload.key != key:
            raise SynclineError("UPLOAD_LOST", f"404 NoSuchUpload: {number} of {key!r}")
        return upload

    # -- changes

    def _version(self) -> str | None:
        return f"v{next(self._numbers)}" if self.versioned else None

    def _keep(self, op: str, key: str, content: bytes, headers: Mapping[str, str], etag: str) -> str:
        """Store what a client wrote, and return the ETag for the answer."""
        if self.put_and_forget:
            return etag
        if self.wrong_bytes or self.lost_bytes:
            end = bytes([content[-1] ^ 1]) if content and self.wrong_bytes else b""
            content = content[:-1] + end if content else b"?"
            etag = md5(content)
        self._change(op, key, StoredObject(content, etag, headers, self.machine.now, self._version()), "client")
        return etag

    def _change(self, op: str, key: str, stored: StoredObject | None, by: str) -> None:
        """Carry out a change, record it and notify of it."""
        old = self._objects.get(key)
        if stored is not None:
            if old is None:
                insort(self._keys, key)
            self._objects[key] = stored
            if stored.version is not None:
                self._versions[key, stored.version] = stored
        elif old is not None:
            del self._objects[key]
            del self._keys[bisect_left(self._keys, key)]
        else:
            return
        self._log.append((self.machine.now, key, stored))
        write = Write(op, key, None if old is None else old.etag, None if stored is None else stored.etag, by)
        self.writes.append(write)
        self.machine.note(f"{self.name}: {by} {op} {key!r} {write.old} -> {write.new}")
        if self.on_write is not None:
            self.on_write(write, old, stored)
        if self.on_event is not None:
            self.on_event(self._notification(op, key, stored))

    def _notification(self, op: str, key: str, stored: StoredObject | None) -> dict[str, Any]:
        """Return the body of the notification that S3 sends for a change."""
        name = f"ObjectCreated:{_EVENTS[op]}" if stored else "ObjectRemoved:Delete"
        about: dict[str, Any] = {"key": quote_plus(key, safe="/")}
        if stored is not None:
            about |= {"size": len(stored.content), "eTag": stored.etag}
            about |= {} if stored.version is None else {"versionId": stored.version}
        elif self.versioned:
            name = "ObjectRemoved:DeleteMarkerCreated"
            about |= {"eTag": md5(b""), "versionId": self._version()}
        about["sequencer"] = f"{0x0065_0000_0000_0000_00 + len(self._log):018X}"
        whole = int(self.machine.now)
        record = {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "us-east-1",
            "eventTime": strftime("%Y-%m-%dT%H:%M:%S", gmtime(whole))
            + f".{int((self.machine.now - whole) * 1000):03d}Z",
            "eventName": name,
            "userIdentity": {"principalId": "AWS:sim"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": f"{len(self._log):016X}", "x-amz-id-2": "sim"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "syncline",
                "bucket": {
                    "name": self.name,
                    "ownerIdentity": {"principalId": "owner"},
                    "arn": f"arn:aws:s3:::{self.name}",
                },
                "object": about,
            },
        }
        return {"Records": [record]}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def attributes(like: ObjectHead | None) -> dict[str, str]:
    """Return the headers of a new object as the service stores them."""
    sent = {name.lower(): value for name, value in attributes_of(like).items()}
    return {"content-type": "binary/octet-stream", **sent}


def _checked(key: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    if len(key.encode()) > 1024:
        raise SynclineError("REFUSED", f"400 KeyTooLongError: {key[:40]!r}…")
    if sum(len(name) + len(value) for name, value in headers.items() if name.startswith(META)) > 2048:
        raise SynclineError("REFUSED", f"400 MetadataTooLarge: {key!r}")
    return headers


def no_such_key(key: str, condition: WriteCondition | None) -> SynclineError:
    changed = condition is not None and condition.etag is not None
    return SynclineError("TARGET_CHANGED" if changed else "NOT_FOUND", f"404 NoSuchKey: {key!r}")


def precondition_failed(key: str, condition: WriteCondition | None) -> SynclineError:
    return SynclineError(
        "SOURCE_CHANGED" if condition is None else "TARGET_CHANGED", f"412 PreconditionFailed: {key!r}"
    )
