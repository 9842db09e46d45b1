"""A strict S3 server in memory that honours conditional writes.

    with S3Server("source", "target") as server:
        bucket = Bucket(Endpoint.parse(server.url), "target", lambda: Keys(ACCESS, SECRET), Http())
        server.put("source", "a/b", b"content", {"cache-control": "no-store"}, {"owner": "me"})
        server.objects["source"]["a/b"].etag

It speaks the requests of :class:`syncline.clients.s3.client.Bucket` (path style) and refuses everything else with 501:
operations, query parameters and ``x-amz-`` headers that it does not know, bodies whose sha256 is not the signed one,
``x-amz-`` headers that are not signed, ranges outside the object, parts out of order. Signatures themselves are not
verified: ``rclone serve s3`` does that.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from typing import Final, Literal, Self
from urllib.parse import parse_qsl, unquote

from tests.rig.server import Reply, Request, Server
from tests.standins import s3_store as store
from tests.standins.s3_store import StoredObject, StoredUpload
from tests.standins.s3_wire import (
    ACCESS,
    CHECKSUM_HEADERS,
    SECRET,
    Answer,
    Asked,
    RefusalError,
    acl_of,
    byte_range,
    check,
    operation_of,
    parsed,
    refusal,
    xml,
)

__all__ = ["ACCESS", "SECRET", "Answer", "Asked", "S3Server", "StoredObject", "StoredUpload"]

Hook = Callable[[str, str, str, Mapping[str, str]], Answer | None]

_CONDITIONAL: Final = frozenset(
    {"PutObject", "CopyObject", "CompleteMultipartUpload", "DeleteObject", "GetObject", "HeadObject"}
)


class S3Server:
    """Serves ``buckets``. Use as a context manager. All attributes may be changed while it runs.

    ``honours_conditions``: False to ignore ``If-Match`` and ``If-None-Match`` of writes, as many servers do.
    ``normalise``: makes one object of all keys with the same normalised form. The first name stays, or the
    normalised form is the name if ``keeps_names`` is False. ``normalised_buckets``: the buckets it applies to, None for
    all.
    ``default_type``: the Content-Type of an object that is put without one; None stores none.
    ``checksums``: "stored" computes and states a CRC64NVME of each object, as AWS does. "ignored" takes the headers and
    does nothing, as rclone does, and "refused" answers a write that has one with 400.
    ``clock``: gives the Unix seconds of new objects. ``listing_skew``: seconds by which a listing states later times
    than HEAD does. ``smallest_part``: bytes of every part but the last. ``largest_page`` and ``parts_page``: entries
    in one response. ``largest_copy``: bytes of the largest object for one CopyObject.

    ``objects[bucket][key]`` and ``uploads[upload_id]`` are the content. ``counts`` has the number of requests by
    operation (``PutObject``, ``ListObjectsV2``, …), ``requests`` each of them in order. ``hook(method, bucket, key,
    query)`` is called before each request and may change objects or return a response. ``lose`` is called with the same
    arguments after a request was processed; True closes the connection without a response.
    """

    def __init__(
        self,
        *buckets: str,
        honours_conditions: bool = True,
        normalise: Callable[[str], str] | None = None,
        keeps_names: bool = True,
        default_type: str | None = store.DEFAULT_TYPE,
        clock: Callable[[], float] = time.time,
        listing_skew: float = 0.0,
        checksums: Literal["stored", "ignored", "refused"] = "stored",
        port: int = 0,
    ) -> None:
        self.objects: dict[str, dict[str, StoredObject]] = {name: {} for name in buckets}
        self.uploads: dict[str, StoredUpload] = {}
        self.counts: Counter[str] = Counter()
        self.requests: list[Asked] = []
        self.honours_conditions = honours_conditions
        self.normalise = normalise
        self.normalised_buckets: set[str] | None = None
        self.keeps_names = keeps_names
        self.default_type = default_type
        self.clock = clock
        self.listing_skew = listing_skew
        self.checksums = checksums
        self.smallest_part = 5 * 1024 * 1024
        self.largest_copy = 5 * 1024**3
        self.largest_page = 1000
        self.parts_page = 1000
        self.hook: Hook = lambda _method, _bucket, _key, _query: None
        self.lose: Callable[[str, str, str, Mapping[str, str]], bool] = lambda _method, _bucket, _key, _query: False
        self.defects: list[str] = []
        self._upload_numbers = count(1)
        self._lock = threading.Lock()
        self._server = Server(self._handle, port=port, errors=self.defects)
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._server.stop()
        assert kind is not None or not self.defects, self.defects

    def put(
        self,
        bucket: str,
        key: str,
        content: bytes,
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        modified: float | None = None,
    ) -> StoredObject:
        """Put an object without a request, as a foreign writer."""
        with self._lock:
            stored = StoredObject(content, dict(headers or {}), dict(metadata or {}))
            stored.modified = self.clock() if modified is None else modified
            self._store(bucket, key, stored)
        return stored

    def asked(self, operation: str) -> list[Asked]:
        """Return the requests of an operation, in order."""
        return [each for each in self.requests if each.operation == operation]

    # -- requests ------------------------------------------------------------------------------------------------

    def _handle(self, request: Request) -> Reply | None:
        if request.method in ("PUT", "POST") and not request.headers.get("content-length", "").isdigit():
            return Reply(411, b"<Error><Code>MissingContentLength</Code></Error>", close=True)
        request.read()
        answer = self.answer(request.method, request.target, request.headers, request.body) if request.whole else None
        if answer is None:
            return None
        status, headers, body = answer
        kept = {name: text for name, text in headers.items() if name != "Connection"}
        return Reply(status, body, kept, close=headers.get("Connection") == "close")

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """Return the answer to a request, None to close the connection."""
        path, _, text = target.partition("?")
        bucket, _, key = path[1:].partition("/")
        bucket, key = unquote(bucket), unquote(key)
        query = dict(parse_qsl(text, keep_blank_values=True))
        try:
            asked = Asked(operation_of(method, key, query, headers), method, target, bucket, key, query, headers, body)
        except RefusalError as refused:
            asked = Asked("", method, target, bucket, key, query, headers, body)
            self._note(asked)
            return refusal(refused, method)
        self._note(asked)
        hooked = self.hook(method, bucket, key, query)
        if hooked is not None:
            return hooked
        try:
            check(asked)
            with self._lock:
                answered = self._answer(asked)
        except RefusalError as refused:
            answered = refusal(refused, method)
        return None if self.lose(method, bucket, key, query) else answered

    def _note(self, asked: Asked) -> None:
        with self._lock:
            self.requests.append(asked)
            self.counts[asked.operation or "Unknown"] += 1

    def _answer(self, asked: Asked) -> Answer:
        if asked.operation == "CreateBucket":
            self.objects.setdefault(asked.bucket, {})
            return 200, {}, b""
        if asked.bucket not in self.objects:
            raise RefusalError(404, "NoSuchBucket")
        self._check_conditions(asked)
        self._check_checksum(asked)
        handlers: dict[str, Callable[[Asked], Answer]] = {
            "ListObjectsV2": self._list,
            "HeadBucket": lambda _: (200, {}, b""),
            "GetObject": self._get,
            "HeadObject": self._get,
            "GetObjectAcl": lambda each: xml(store.access_list(self._existing(each.bucket, each.key).acl)),
            "PutObject": self._put,
            "CopyObject": self._copy,
            "DeleteObject": self._delete,
            "CreateMultipartUpload": self._begin,
            "UploadPart": self._put_part,
            "UploadPartCopy": self._copy_part,
            "ListParts": self._list_parts,
            "CompleteMultipartUpload": self._complete,
            "AbortMultipartUpload": self._abort,
        }
        return handlers[asked.operation](asked)

    def _check_conditions(self, asked: Asked) -> None:
        match, none_match = asked.headers.get("if-match"), asked.headers.get("if-none-match")
        if match is None and none_match is None:
            return
        writes = asked.operation not in ("GetObject", "HeadObject")
        if asked.operation not in _CONDITIONAL or (writes and none_match not in (None, "*")):
            raise RefusalError(501, "NotImplemented", "a condition that this operation does not have")
        if match is not None and (none_match is not None or not re.fullmatch(r'"[^"]+"|\*', match)):
            raise RefusalError(400, "InvalidRequest", f"If-Match: {match}")
        if none_match is not None and asked.operation == "DeleteObject":
            raise RefusalError(501, "NotImplemented", "If-None-Match of a deletion")
        if writes and not self.honours_conditions:
            return
        there = self.objects[asked.bucket].get(self._name(asked.bucket, asked.key))
        if none_match is not None and there is not None and none_match in ("*", f'"{there.etag}"'):
            raise RefusalError(412 if writes else 304, "PreconditionFailed")
        if match is not None and there is None:
            raise RefusalError(404, "NoSuchKey")
        if match is not None and there is not None and match not in ("*", f'"{there.etag}"'):
            raise RefusalError(412, "PreconditionFailed")

    def _check_checksum(self, asked: Asked) -> None:
        """Refuse checksum headers where they are not allowed, and content that does not have its checksum."""
        sent = set(asked.headers) & CHECKSUM_HEADERS
        if not sent or self.checksums == "ignored":
            return
        allowed = {
            "GetObject": {"x-amz-checksum-mode"},
            "HeadObject": {"x-amz-checksum-mode"},
            "PutObject": {"x-amz-checksum-crc64nvme"},
            "UploadPart": {"x-amz-checksum-crc64nvme"},
            "CreateMultipartUpload": {"x-amz-checksum-algorithm", "x-amz-checksum-type"},
            "CompleteMultipartUpload": {"x-amz-checksum-crc64nvme", "x-amz-checksum-type"},
        }.get(asked.operation, set[str]())
        if sent - allowed:
            raise RefusalError(400, "InvalidRequest", f"{sorted(sent - allowed)} of {asked.operation}")
        if self.checksums == "refused" and asked.operation not in ("GetObject", "HeadObject"):
            raise RefusalError(400, "InvalidArgument", f"unsupported header {min(sent)}")
        stated = asked.headers.get("x-amz-checksum-crc64nvme")
        if asked.operation in ("PutObject", "UploadPart") and stated not in (None, store.crc64nvme(asked.body)):
            raise RefusalError(400, "BadDigest", "the CRC64NVME does not match")

    # -- objects -------------------------------------------------------------------------------------------------

    def _name(self, bucket: str, key: str) -> str:
        """Return the name under which a key is stored, or would be."""
        if self.normalise is None or bucket not in (self.normalised_buckets or self.objects):
            return key
        wanted = self.normalise(key)
        there = next((each for each in self.objects[bucket] if self.normalise(each) == wanted), None)
        return there or (key if self.keeps_names else wanted)

    def _store(self, bucket: str, key: str, stored: StoredObject) -> None:
        if self.checksums == "stored" and not stored.checksum:
            stored.checksum = store.crc64nvme(stored.content)
        self.objects[bucket][self._name(bucket, key)] = stored

    def _existing(self, bucket: str, key: str) -> StoredObject:
        if bucket not in self.objects:
            raise RefusalError(404, "NoSuchBucket")
        stored = self.objects[bucket].get(self._name(bucket, key))
        if stored is None:
            raise RefusalError(404, "NoSuchKey")
        return stored

    def _list(self, asked: Asked) -> Answer:
        if asked.query["list-type"] != "2":
            raise RefusalError(501, "NotImplemented", "a listing that is not version 2")
        objects = self.objects[asked.bucket]
        body = store.listing(objects, asked.bucket, asked.query, self.listing_skew, self.largest_page)
        if body is None:
            raise RefusalError(400, "InvalidArgument", "a parameter of the listing")
        return xml(body)

    def _get(self, asked: Asked) -> Answer:
        stored = self._existing(asked.bucket, asked.key)
        content, size = stored.content, len(stored.content)
        headers = stored.answer_headers()
        if stored.checksum and asked.headers.get("x-amz-checksum-mode") == "ENABLED":
            headers |= {"x-amz-checksum-crc64nvme": stored.checksum, "x-amz-checksum-type": "FULL_OBJECT"}
        asked_range = asked.headers.get("range")
        if asked_range is None:
            return 200, headers, content
        start, end = byte_range(asked_range, size)
        return 206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}, content[start:end]

    def _put(self, asked: Asked) -> Answer:
        stored = StoredObject(asked.body, *self._attributes(asked), modified=self.clock(), acl=acl_of(asked))
        self._store(asked.bucket, asked.key, stored)
        return 200, {"ETag": f'"{stored.etag}"'}, b""

    def _attributes(self, asked: Asked) -> tuple[dict[str, str], dict[str, str]]:
        headers = {name: asked.headers[name] for name in store.KEPT if name in asked.headers}
        if self.default_type is not None:
            headers.setdefault("content-type", self.default_type)
        metadata = {
            name.removeprefix(store.META): value for name, value in asked.headers.items() if name.startswith(store.META)
        }
        if sum(len(name) + len(value) for name, value in metadata.items()) > 2048:
            raise RefusalError(400, "MetadataTooLarge")
        return headers, metadata

    def _source(self, asked: Asked) -> StoredObject:
        bucket, _, key = unquote(asked.headers["x-amz-copy-source"].removeprefix("/")).partition("/")
        stored = self._existing(bucket, key)
        match = asked.headers.get("x-amz-copy-source-if-match")
        if match not in (None, f'"{stored.etag}"'):
            raise RefusalError(412, "PreconditionFailed")
        return stored

    def _copy(self, asked: Asked) -> Answer:
        if asked.body:
            raise RefusalError(400, "InvalidRequest", "a copy with a body")
        source = self._source(asked)
        if len(source.content) > self.largest_copy:
            raise RefusalError(400, "InvalidRequest", "the source is too large for one copy")
        directive = asked.headers.get("x-amz-metadata-directive", "COPY")
        if directive not in ("COPY", "REPLACE"):
            raise RefusalError(400, "InvalidArgument", f"x-amz-metadata-directive: {directive}")
        own, metadata = self._attributes(asked)
        if directive == "COPY":
            redirect = "x-amz-website-redirect-location"  # never copied
            own = {name: value for name, value in source.headers.items() if name != redirect}
            own |= {redirect: asked.headers[redirect]} if redirect in asked.headers else {}
            metadata = dict(source.metadata)
            if source is self.objects[asked.bucket].get(self._name(asked.bucket, asked.key)):
                raise RefusalError(400, "InvalidRequest", "a copy onto itself that changes nothing")
        stored = StoredObject(source.content, own, metadata, modified=self.clock(), acl=acl_of(asked))
        self._store(asked.bucket, asked.key, stored)
        return self._copied("CopyObjectResult", stored.etag)

    def _copied(self, root: str, etag: str) -> Answer:
        changed = store.iso_time(self.clock())
        return xml(store.answer(root, f"<ETag>&quot;{etag}&quot;</ETag><LastModified>{changed}</LastModified>"))

    def _delete(self, asked: Asked) -> Answer:
        self.objects[asked.bucket].pop(self._name(asked.bucket, asked.key), None)
        return 204, {}, b""

    # -- multipart uploads ---------------------------------------------------------------------------------------

    def _upload(self, asked: Asked) -> StoredUpload:
        upload = self.uploads.get(asked.query["uploadId"])
        if upload is None or (upload.bucket, upload.key) != (asked.bucket, asked.key):
            raise RefusalError(404, "NoSuchUpload")
        return upload

    def _begin(self, asked: Asked) -> Answer:
        number = f"upload-{next(self._upload_numbers)}"
        upload = StoredUpload(asked.bucket, asked.key, *self._attributes(asked), acl_of(asked))
        if self.checksums == "stored" and "x-amz-checksum-algorithm" in asked.headers:
            wanted = (asked.headers["x-amz-checksum-algorithm"], asked.headers.get("x-amz-checksum-type"))
            if wanted != ("CRC64NVME", "FULL_OBJECT"):
                raise RefusalError(501, "NotImplemented", f"checksums {wanted}")
            upload.checked = True
        self.uploads[number] = upload
        return xml(store.answer("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>"))

    def _add_part(self, asked: Asked, content: bytes) -> str:
        number = asked.query["partNumber"]
        if not re.fullmatch(r"[1-9][0-9]{0,4}", number) or int(number) > 10_000:
            raise RefusalError(400, "InvalidArgument", f"partNumber={number}")
        self._upload(asked).parts[int(number)] = content
        return store.md5(content)

    def _put_part(self, asked: Asked) -> Answer:
        upload = self.uploads.get(asked.query["uploadId"])
        if upload is not None and upload.checked and "x-amz-checksum-crc64nvme" not in asked.headers:
            raise RefusalError(400, "InvalidRequest", "the upload was begun with a checksum, and the part has none")
        return 200, {"ETag": f'"{self._add_part(asked, asked.body)}"'}, b""

    def _copy_part(self, asked: Asked) -> Answer:
        if asked.body:
            raise RefusalError(400, "InvalidRequest", "a copy with a body")
        content = self._source(asked).content
        asked_range = asked.headers.get("x-amz-copy-source-range")
        if asked_range is not None:
            first_last = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", asked_range)
            if first_last is None or not int(first_last[1]) <= int(first_last[2]) < len(content):
                raise RefusalError(400, "InvalidArgument", f"{asked_range} of {len(content)} bytes")
            content = content[int(first_last[1]) : int(first_last[2]) + 1]
        return self._copied("CopyPartResult", self._add_part(asked, content))

    def _list_parts(self, asked: Asked) -> Answer:
        upload = self._upload(asked)
        marker, limit = (asked.query.get(n, d) for n, d in (("part-number-marker", "0"), ("max-parts", "1000")))
        if not (marker.isdigit() and limit.isdigit()):
            raise RefusalError(400, "InvalidArgument", f"part-number-marker={marker}, max-parts={limit}")
        limit_here = min(int(limit), self.parts_page)
        return xml(store.parts_page(upload, asked.query["uploadId"], int(marker), limit_here, self.clock()))

    def _complete(self, asked: Asked) -> Answer:
        upload = self._upload(asked)
        named = [
            (int(each.findtext("PartNumber") or "0"), (each.findtext("ETag") or "").strip('"'))
            for each in parsed(asked.body, "CompleteMultipartUpload").iterfind("Part")
        ]
        numbers = [number for number, _ in named]
        if not named:
            raise RefusalError(400, "MalformedXML", "no parts")
        if numbers != sorted(set(numbers)):
            raise RefusalError(400, "InvalidPartOrder")
        for number, etag in named:
            if number not in upload.parts or store.md5(upload.parts[number]) != etag:
                raise RefusalError(400, "InvalidPart", f"part {number}")
        if any(len(upload.parts[number]) < self.smallest_part for number in numbers[:-1]):
            raise RefusalError(400, "EntityTooSmall")
        stored = upload.completed(numbers, self.clock())
        self._check_completion(asked, upload, stored)
        self._store(asked.bucket, asked.key, stored)
        del self.uploads[asked.query["uploadId"]]
        return xml(store.answer("CompleteMultipartUploadResult", f"<ETag>&quot;{stored.etag}&quot;</ETag>"))

    def _check_completion(self, asked: Asked, upload: StoredUpload, stored: StoredObject) -> None:
        if self.checksums != "stored":
            return
        parts = parsed(asked.body, "CompleteMultipartUpload").iterfind("Part")
        for each in parts:
            number, checksum = int(each.findtext("PartNumber") or "0"), each.findtext("ChecksumCRC64NVME")
            if upload.checked != (checksum is not None):
                raise RefusalError(400, "InvalidRequest", f"the checksum of part {number}")
            if checksum is not None and checksum != store.crc64nvme(upload.parts[number]):
                raise RefusalError(400, "InvalidPart", f"the checksum of part {number}")
        if asked.headers.get("x-amz-checksum-crc64nvme", None) not in (None, store.crc64nvme(stored.content)):
            raise RefusalError(400, "BadDigest", "the CRC64NVME of the object does not match")

    def _abort(self, asked: Asked) -> Answer:
        self._upload(asked)
        del self.uploads[asked.query["uploadId"]]
        return 204, {}, b""
