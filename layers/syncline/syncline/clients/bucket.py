"""One bucket of an S3-compatible service: AWS, MinIO and whoever else speaks the protocol.

Requests are signed with Signature Version 4 and go through the one HTTP room: its pools, patience and limits. A
listing comes by ListObjectsV2, page by page, each page naming the token of the next. An object is read as a stream,
on condition that it is still the one that was looked at (``If-Match``), and its end is known to be its end. Small
objects are put in one request, whose body's sha256 is signed, so that the service refuses damaged bytes; large ones
part by part, each part by itself as often as it takes, and they are there only once all is completed. A copy within
one service moves no bytes through us. Answers of 200 may still hold an error (copy, completion): they are read.

A read of 4 KiB takes 0.38 ms of a core here and 1.13 ms through boto3: 1,700 a second by 16 threads, against 720, with
the server on the same two cores.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from syncline.clients import s3_xml
from syncline.clients.bucket_head import Head, attributes_of, etag_of, head_of
from syncline.clients.http import Body, Endpoint, Http, Response
from syncline.clients.s3_xml import Grants, Listed, ListPage, NotXmlError
from syncline.clients.sigv4 import EMPTY, Keys, Request, Signer
from syncline.errors import SynclineError

__all__ = ["PART", "Bucket", "Grants", "Head", "Keys", "ListPage", "Listed", "ObjectStream", "Upload"]

PART: Final = 8 * 1024 * 1024
"""Bytes of a part of a large object, unless the object is so large that 10,000 of them do not hold it."""
LARGEST_COPY: Final = 5 * 1024**3
"""Bytes up to which one request copies an object; a larger one is copied in parts."""
DELETIONS: Final = 1000
"""Keys in one DeleteObjects."""
LONGEST_KEY: Final = 1024
"""Bytes of a key in UTF-8."""

_MOST_PARTS: Final = 10_000
_COPY_PART: Final = 512 * 1024 * 1024
_SAFE: Final = "-._~"
_CODES: Final = {
    "NoSuchBucket": "BUCKET_ABSENT",
    "NoSuchKey": "NOT_FOUND",
    "NoSuchVersion": "NOT_FOUND",
    "NoSuchUpload": "UPLOAD_LOST",
    "PreconditionFailed": "SOURCE_CHANGED",
    "SignatureDoesNotMatch": "UNAUTHORIZED",
    "InvalidAccessKeyId": "UNAUTHORIZED",
    "ExpiredToken": "UNAUTHORIZED",
    "InvalidToken": "UNAUTHORIZED",
    "RequestTimeTooSkewed": "UNAUTHORIZED",
    "EntityTooLarge": "TOO_LARGE",
    "IncompleteBody": "SERVER_ERROR",
    "RequestTimeout": "SERVER_ERROR",
    "InternalError": "SERVER_ERROR",
    "SlowDown": "THROTTLED",
    "BadDigest": "BAD_ANSWER",
    "XAmzContentSHA256Mismatch": "BAD_ANSWER",
}
"""Codes of the protocol that say more than the status they come with."""


@dataclass(frozen=True, slots=True)
class ObjectStream:
    """An object's bytes as they come; belongs in a ``with`` block. ``head.size`` is that of the range asked for."""

    head: Head
    _response: Response

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, empty at the end; UNREACHABLE where the connection ends before the object does."""
        return self._response.read(size)

    def chunks(self, size: int) -> Iterator[bytes]:
        """The bytes in chunks of up to ``size``."""
        while chunk := self.read(size):
            yield chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._response.close()


class Bucket:
    """One bucket. Safe to use from any number of threads.

    ``keys`` gives who we are, None for requests without a signature; ``renewed`` is asked after a refusal. With
    ``path_style`` the bucket is in the path, else in the host's name.
    """

    def __init__(  # noqa: PLR0913 - each is a fact of the place
        self,
        endpoint: Endpoint,
        name: str,
        keys: Callable[[], Keys | None],
        http: Http,
        *,
        region: str = "us-east-1",
        path_style: bool = True,
        renewed: Callable[[], Keys | None] | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self._host = endpoint.host if path_style else f"{name}.{endpoint.host}"
        self._root = f"/{quote(name, safe=_SAFE)}" if path_style else ""
        self._keys = keys
        self._renewed = renewed or keys
        self._http = http
        self._signer = signer or Signer(region)

    def __str__(self) -> str:
        return f"{self.endpoint.host}/{self.name}"

    # -- looking -------------------------------------------------------------------------------------------------

    def page(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", token: str | None = None, limit: int = 1000
    ) -> ListPage:
        """A page of the listing: keys below ``prefix`` and behind ``after``, or what ``token`` goes on with.

        Raises BUCKET_ABSENT, FORBIDDEN, BAD_ANSWER, LISTING_INCOMPLETE and what :meth:`Http.request` raises.
        """
        query = {"list-type": "2", "encoding-type": "url", "max-keys": str(limit), "prefix": prefix}
        query |= {"delimiter": delimiter} if delimiter else {}
        query |= {"continuation-token": token} if token is not None else {"start-after": after} if after else {}
        response = self._ask("GET", "", query)
        try:
            page = s3_xml.list_page(response.body)
        except NotXmlError as error:
            raise response.bad(str(error)) from None
        if page.token is not None and page.token == token:
            raise SynclineError("LISTING_INCOMPLETE", f"the listing of {self} goes round in a circle")
        return page

    def pages(self, prefix: str = "", *, delimiter: str = "", after: str = "") -> Iterator[ListPage]:
        """All pages of a listing, to its end."""
        page = self.page(prefix, delimiter=delimiter, after=after)
        yield page
        while page.token is not None:
            page = self.page(prefix, delimiter=delimiter, token=page.token)
            yield page

    def head(self, key: str, *, version: str | None = None, surely: bool = True) -> Head | None:
        """What an object is; None where it is not there.

        ``surely`` does not believe a bare 404, since a bucket that is gone answers the same: it is asked once more, by
        a listing, which raises BUCKET_ABSENT then, or BAD_ANSWER where it lists what cannot be read.
        """
        response = self._send("HEAD", key, _version(version))
        if response.status == 404 and version is None and surely:
            if any(each.key == key for each in self.page(key, limit=1).objects):
                raise response.bad("the object is listed, but not found")
            return None
        if response.status == 404:
            return None
        if response.status != 200:
            raise self._error(response)
        return head_of(response)

    def open(
        self,
        key: str,
        *,
        etag: str | None = None,
        version: str | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> ObjectStream:
        """An object as a stream, from byte ``start`` to before ``end``, if it is still the one with ``etag``.

        Raises SOURCE_CHANGED, NOT_FOUND, BAD_ANSWER where the service gives another range or object than asked for.
        """
        headers = {"Accept-Encoding": "identity"}
        headers |= {"If-Match": f'"{etag}"'} if etag is not None else {}
        ranged = start > 0 or end is not None
        if ranged:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        response = self._send("GET", key, _version(version), headers, stream=True)
        if response.status not in (200, 206):
            raise self._error(response)
        head = head_of(response)
        # rclone says 200 to a range, too; what the bytes are is said by Content-Range alone.
        if ranged and not response.header("Content-Range").startswith(f"bytes {start}-"):
            response.close()
            raise response.bad("the service does not give the range asked for")
        if etag is not None and head.etag != etag:  # some take no notice of If-Match
            response.close()
            raise SynclineError("SOURCE_CHANGED", f"{key!r} in {self} was replaced since it was looked at")
        return ObjectStream(head, response)

    def read(self, key: str, limit: int, *, etag: str | None = None) -> tuple[Head, bytes]:
        """A small object whole; TOO_LARGE if it has more than ``limit`` bytes."""
        with self.open(key, etag=etag) as stream:
            if stream.head.size > limit:
                raise SynclineError("TOO_LARGE", f"{key!r} in {self} has {stream.head.size} bytes, over {limit}")
            content = b"".join(stream.chunks(limit + 1))
        return stream.head, content

    def grants(self, key: str) -> Grants:
        """Who may do what with an object; raises FORBIDDEN, NOT_FOUND, or REFUSED where the service has no lists."""
        response = self._ask("GET", key, {"acl": ""})
        try:
            return s3_xml.grants(response.body)
        except NotXmlError as error:
            raise response.bad(str(error)) from None

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, key: str, content: bytes, like: Head | None = None) -> str:
        """Put an object in one request, with the type and metadata of ``like``; its ETag."""
        headers = attributes_of(like)
        response = self._ask("PUT", key, {}, headers, content)
        return etag_of(response)

    def put_stream(self, key: str, chunks: Iterable[bytes], like: Head | None = None) -> str:
        """Put an object of any size from chunks of any size, holding one part at a time; its ETag.

        What goes wrong on the way leaves neither the object nor parts of it.
        """
        parts = _parts(chunks, PART if like is None else part_size(like.size))
        first = next(parts, b"")
        second = next(parts, None)
        if second is None:
            return self.put(key, first, like)
        upload = self.begin_upload(key, like)
        try:
            etags = {number: upload.put(number, part) for number, part in enumerate(_again(first, second, parts), 1)}
            return upload.complete(etags)
        except BaseException:
            upload.abort()
            raise

    def begin_upload(self, key: str, like: Head | None = None) -> Upload:
        """Begin a multipart upload, with the type and metadata of ``like``."""
        response = self._ask("POST", key, {"uploads": ""}, attributes_of(like))
        try:
            number = s3_xml.parse(response.body).findtext("UploadId")
        except NotXmlError as error:
            raise response.bad(str(error)) from None
        if not number:
            raise response.bad("an upload without an id")
        return Upload(self, key, number)

    def resume_upload(self, key: str, number: str) -> Upload:
        """An upload begun before, by its id."""
        return Upload(self, key, number)

    def copy(self, source: Bucket, source_key: str, key: str, head: Head, like: Head | None = None) -> str:
        """Copy an object of the same service, if it is still the one that ``head`` tells of; the copy's ETag.

        Type and metadata are copied, or those of ``like``. Raises SOURCE_CHANGED, NOT_FOUND, FORBIDDEN.
        """
        headers = source.copy_source(source_key, head)
        if like is not None:
            headers |= {"x-amz-metadata-directive": "REPLACE", **attributes_of(like)}
        if head.size > LARGEST_COPY:
            headers = source.copy_source(source_key, head)
            upload = self.begin_upload(key, like or head)
            try:
                etags = {
                    number: upload.copy(number, headers, start, min(start + _COPY_PART, head.size))
                    for number, start in enumerate(range(0, head.size, _COPY_PART), 1)
                }
                return upload.complete(etags)
            except BaseException:
                upload.abort()
                raise
        response = self._ask("PUT", key, {}, headers)
        return self._etag_within(response, "CopyObjectResult")

    def copy_source(self, key: str, head: Head) -> dict[str, str]:
        """The headers that name an object of this bucket as the source of a copy."""
        version = f"?versionId={quote(head.version, safe=_SAFE)}" if head.version else ""
        return {
            "x-amz-copy-source": f"/{quote(self.name, safe=_SAFE)}/{_path(key)}{version}",
            "x-amz-copy-source-if-match": f'"{head.etag}"',
        }

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no failure."""
        response = self._send("DELETE", key)
        if response.status not in (200, 204):
            error = self._error(response)
            if error.code.name != "NOT_FOUND":
                raise error

    def delete_many(self, keys: Sequence[str]) -> dict[str, SynclineError]:
        """Delete objects, 1,000 in a request; those that could not be, each with its reason."""
        failed: dict[str, SynclineError] = {}
        listed = [key for key in keys if s3_xml.writable(key)]
        for at in range(0, len(listed), DELETIONS):
            body = s3_xml.deletion(listed[at : at + DELETIONS])
            sums = {"Content-MD5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}
            response = self._ask("POST", "", {"delete": ""}, sums, body, repeatable=True)
            try:
                left = s3_xml.not_deleted(response.body)
            except NotXmlError as error:
                raise response.bad(str(error)) from None
            failed |= {
                key: SynclineError(_CODES.get(code, "FORBIDDEN" if code == "AccessDenied" else "REFUSED"), code)
                for key, code in left.items()
            }
        for key in keys:
            if not s3_xml.writable(key):
                try:
                    self.delete(key)
                except SynclineError as error:
                    failed[key] = error
        return failed

    # -- requests ------------------------------------------------------------------------------------------------

    def _ask(  # noqa: PLR0913 - as the request has it
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        repeatable: bool | None = None,
    ) -> Response:
        """The answer of 200 to a request; raises what any other means."""
        response = self._send(method, key, query, headers, body, repeatable=repeatable)
        if response.status != 200:
            raise self._error(response)
        return response

    def _send(  # noqa: PLR0913 - as the request has it
        self,
        method: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        stream: bool = False,
        repeatable: bool | None = None,
    ) -> Response:
        path = f"{self._root}/{_path(key)}"
        text = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted((query or {}).items()))
        url = f"{self.endpoint.scheme}://{self._host}{path}{'?' if text else ''}{text}"
        payload = EMPTY if body is None else hashlib.sha256(body).hexdigest()
        asked = Request(method, self._host, path, text)
        sent: Body = body if body is not None or method not in ("PUT", "POST") else b""

        def signed_by(who: Keys | None) -> Response:
            signed = dict(headers or {})
            if who is not None:
                signed = self._signer.headers(who, asked, signed, payload)
            return self._http.request(
                method, url, signed, sent, ca=self.endpoint.ca, stream=stream, repeatable=repeatable
            )

        who = self._keys()
        response = signed_by(who)
        if response.status in (400, 401, 403) and self._error(response).code.name == "UNAUTHORIZED":
            renewed = self._renewed()
            if renewed != who:
                response = signed_by(renewed)
        return response

    def _error(self, response: Response) -> SynclineError:
        """What a refusal means; the protocol's own code says more than the status."""
        error = response.error()
        name = _CODES.get(s3_xml.error_code(response.body))
        if response.status == 412:
            name = "SOURCE_CHANGED"
        elif name is None and response.status in (301, 307, 400) and response.header("x-amz-bucket-region"):
            what = f"the bucket {self} is in the region {response.header('x-amz-bucket-region')}"
            return SynclineError("REFUSED", what)
        return error if name is None else SynclineError(name, error.what, retry_after=error.retry_after)

    def _etag_within(self, response: Response, root: str) -> str:
        """The ETag in an answer of 200 that may be a failure after all."""
        try:
            etag = s3_xml.parse(response.body, root).findtext("ETag")
        except NotXmlError as error:
            name = s3_xml.error_code(response.body)
            if name:
                what = f"{response.method} of {self} failed after it had begun: {name}"
                raise SynclineError(_CODES.get(name, "SERVER_ERROR"), what) from None
            raise response.bad(str(error)) from None
        return (etag or "").strip('"')


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload under way. ``number`` takes it up again in another process."""

    bucket: Bucket
    key: str
    number: str

    def put(self, part: int, content: bytes) -> str:
        """Put part number ``part``, counted from 1, once or again; its ETag."""
        return etag_of(self.bucket._ask("PUT", self.key, self._query(part), None, content))  # noqa: SLF001 - its own

    def copy(self, part: int, source: Mapping[str, str], start: int, end: int) -> str:
        """Copy bytes ``start`` to before ``end`` of a ``source`` (:meth:`Bucket.copy_source`) as a part; its ETag."""
        headers = {**source, "x-amz-copy-source-range": f"bytes={start}-{end - 1}"}
        response = self.bucket._ask("PUT", self.key, self._query(part), headers)  # noqa: SLF001 - its own
        return self.bucket._etag_within(response, "CopyPartResult")  # noqa: SLF001 - its own

    def parts(self) -> dict[int, tuple[str, int]]:
        """The parts that are there: number to ETag and size in bytes; UPLOAD_LOST where the upload is forgotten."""
        found: dict[int, tuple[str, int]] = {}
        marker = "0"
        while True:
            query = {"uploadId": self.number, "part-number-marker": marker}
            response = self.bucket._ask("GET", self.key, query)  # noqa: SLF001 - its own
            try:
                top = s3_xml.parse(response.body, "ListPartsResult")
                for each in top.iterfind("Part"):
                    etag = (each.findtext("ETag") or "").strip('"')
                    found[int(each.findtext("PartNumber") or "")] = (etag, int(each.findtext("Size") or ""))
            except (NotXmlError, ValueError) as error:
                raise response.bad(f"not a list of parts: {error}") from None
            following = top.findtext("NextPartNumberMarker") or ""
            if top.findtext("IsTruncated") != "true" or following in ("", marker):
                return found
            marker = following

    def complete(self, etags: Mapping[int, str] | None = None) -> str:
        """Make the object of its parts, whose ETags are asked for where they are not given; its ETag."""
        if etags is None:
            etags = {number: etag for number, (etag, _) in self.parts().items()}
        body = s3_xml.completion((number, f'"{etags[number]}"') for number in sorted(etags))
        response = self.bucket._ask("POST", self.key, {"uploadId": self.number}, None, body)  # noqa: SLF001 - its own
        return self.bucket._etag_within(response, "CompleteMultipartUploadResult")  # noqa: SLF001 - its own

    def abort(self) -> None:
        """Drop the upload and its parts, as far as that can be done; what stays, the bucket's own rules clean up."""
        try:
            self.bucket._send("DELETE", self.key, {"uploadId": self.number})  # noqa: SLF001 - its own
        except SynclineError:
            return

    def _query(self, part: int) -> dict[str, str]:
        return {"partNumber": str(part), "uploadId": self.number}


def part_size(size: int) -> int:
    """Bytes of each part of an object of ``size`` bytes, so that 10,000 hold it."""
    return max(PART, -(-size // _MOST_PARTS))


def _path(key: str) -> str:
    return quote(key, safe="/-._~")


def _quoted(text: str) -> str:
    return quote(text, safe=_SAFE)


def _version(version: str | None) -> dict[str, str]:
    return {} if version is None else {"versionId": version}


def _parts(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def _again(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest
