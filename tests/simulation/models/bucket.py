"""The client of a bucket in memory in one process. Its requests go to a :class:`BucketServer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar, cast

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Response
from syncline.clients.http.listings import OnInvalid, ignore, refuse
from syncline.clients.s3.checksums import CRC64NVME, crc64nvme
from syncline.clients.s3.client import Bucket, ObjectStream
from syncline.clients.s3.head import REDIRECT_HEADER, ObjectHead, WriteCondition
from syncline.clients.s3.requests import BucketRequests
from syncline.clients.s3.upload import MultipartUpload
from syncline.clients.s3.xml import AccessGrants, ListPage
from syncline.errors import SynclineError
from tests.simulation.models.bucket_server import BucketServer, attributes, no_such_key, precondition_failed
from tests.simulation.network import Network

T = TypeVar("T")


class SimBucket(Bucket):
    """The client of one process. It replaces the requests of :class:`Bucket`."""

    def __init__(self, server: BucketServer, network: Network) -> None:
        self.name = server.name
        self.endpoint = Endpoint.parse(f"https://{server.host}")
        self.server = server
        self.network = network

    def __str__(self) -> str:
        return f"{self.server.host}/{self.name}"

    def call(self, name: str, function: Callable[[], T]) -> T:
        """Make one request that reads."""
        return self.network.call(self.server.host, name, function)

    def write(self, name: str, function: Callable[[], T], *, repeatable: bool = True) -> T:
        """Make one request that writes."""
        return self.network.call(self.server.host, name, function, writes=True, repeatable=repeatable)

    def page(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        after: str = "",
        token: str | None = None,
        limit: int = 1000,
        on_invalid: OnInvalid = refuse,  # noqa: ARG002 - no entry is invalid
    ) -> ListPage:
        page = self.call("GET list", lambda: self.server.page(prefix, delimiter, after, token, limit))
        if page.token is not None and page.token == token:
            raise SynclineError("LISTING_INCOMPLETE", f"the listing of {self} repeats itself")
        return page

    def head(self, key: str, *, version: str | None = None, confirm: bool = True) -> ObjectHead | None:
        head = self.call("HEAD object", lambda: self.server.head(key, version))
        unconfirmed = head is None and version is None and confirm
        if unconfirmed and any(each.key == key for each in self.page(key, limit=1, on_invalid=ignore).objects):
            raise SynclineError("BAD_ANSWER", f"{key!r} in {self} is listed, but not found")
        return head

    def checksums(self, key: str, etag: str) -> Mapping[str, str]:
        stored = self.call("HEAD checksums", lambda: self.server.stored(key))
        return {CRC64NVME: crc64nvme(stored.content)} if stored is not None and stored.etag == etag else {}

    def open(
        self,
        key: str,
        *,
        etag: str | None = None,
        version: str | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> ObjectStream:
        head, content = self.call("GET object", lambda: self.server.get(key, etag, version, start, end))
        return ObjectStream(head, cast("Response", _Body(self, content)))

    def grants(self, key: str) -> AccessGrants:
        return self.call("GET acl", lambda: self.server.grants(key))

    def put(
        self,
        key: str,
        content: bytes,
        like: ObjectHead | None = None,
        *,
        condition: WriteCondition | None = None,
        checksum: bool = False,  # noqa: ARG002 - the server computes each
    ) -> str:
        return self.write("PUT object", lambda: self.server.put(key, content, attributes(like), condition))

    def begin_upload(self, key: str, like: ObjectHead | None = None, *, checksum: bool = False) -> MultipartUpload:
        number = self.write("POST upload", lambda: self.server.begin(key, attributes(like)), repeatable=False)
        return self.resume_upload(key, number, checksum=checksum)

    def resume_upload(self, key: str, upload_id: str, *, checksum: bool = False) -> MultipartUpload:
        return SimUpload(cast("BucketRequests", self), key, upload_id, checksum)

    def copy(
        self, source: Bucket, source_key: str, key: str, head: ObjectHead, *, condition: WriteCondition | None = None
    ) -> str:
        headers = source.copy_source(source_key, head)
        headers |= {REDIRECT_HEADER: attributes(head)[REDIRECT_HEADER]} if REDIRECT_HEADER in head.headers else {}
        try:
            return self.write("PUT copy", lambda: self.server.copy(headers, key, condition))
        except SynclineError as error:
            if error.code.name != "TARGET_CHANGED":
                raise
            there = source.head(source_key, version=head.version)
            if there is None:
                raise no_such_key(source_key, None) from None
            if there.etag != head.etag:
                raise precondition_failed(source_key, None) from None
            raise

    def delete(self, key: str, *, condition: WriteCondition | None = None) -> None:
        self.write("DELETE object", lambda: self.server.delete(key, condition))


class SimUpload(MultipartUpload):
    """A multipart upload of a :class:`SimBucket`, which takes the place of :class:`BucketRequests`."""

    __slots__ = ()

    @property
    def _bucket(self) -> SimBucket:
        return cast("SimBucket", self._requests)

    def put(self, part: int, content: bytes) -> str:
        server = self._bucket.server
        return self._bucket.write("PUT part", lambda: server.put_part(self.key, self.upload_id, part, content))

    def copy(self, part: int, source: Mapping[str, str], start: int, end: int) -> str:
        server = self._bucket.server
        return self._bucket.write(
            "PUT part copy", lambda: server.copy_part(self.key, self.upload_id, part, source, (start, end))
        )

    def parts(self) -> dict[int, tuple[str, int]]:
        server = self._bucket.server
        found: dict[int, tuple[str, int]] = {}
        while True:
            request = partial(server.parts, self.key, self.upload_id, max(found, default=0))
            page, more = self._bucket.call("GET parts", request)
            found |= page
            if not more:
                return found

    def complete(
        self,
        etags: Mapping[int, str] | None = None,
        *,
        condition: WriteCondition | None = None,
        expected: str | None = None,  # noqa: ARG002 - no head has checksums
    ) -> str:
        server = self._bucket.server
        if etags is None:
            etags = {number: etag for number, (etag, _) in self.parts().items()}
        named = dict(etags)
        return self._bucket.write(
            "POST complete", lambda: server.complete(self.key, self.upload_id, named, condition), repeatable=False
        )

    def abort(self) -> None:
        server = self._bucket.server
        try:
            self._bucket.write("DELETE upload", lambda: server.abort(self.key, self.upload_id))
        except SynclineError:
            return


class _Body:
    """The body of an answer, in place of :class:`Response`. Later changes of the object do not change it."""

    def __init__(self, bucket: SimBucket, content: bytes) -> None:
        self._bucket = bucket
        self._content = content
        self._at = 0
        self._broken = False

    def read(self, size: int) -> bytes:
        if self._broken:
            raise SynclineError("UNREACHABLE", f"the connection to {self._bucket} is closed")
        if self._at >= len(self._content):
            return b""
        try:
            network, host = self._bucket.network, self._bucket.server.host
            return network.call(host, "GET object chunk", lambda: self._next(size), counted=False)
        except SynclineError as error:
            self._broken = True
            if error.code.name in ("SERVER_ERROR", "THROTTLED"):  # a body in progress has no status
                raise SynclineError("UNREACHABLE", f"the connection to {self._bucket} broke: {error.what}") from None
            raise

    def _next(self, size: int) -> bytes:
        if self._bucket.server.short_reads:
            size = self._bucket.server.machine.rng.randint(1, max(1, size))
        chunk = self._content[self._at : self._at + size]
        self._at += len(chunk)
        return chunk

    def close(self) -> None:
        self._broken = True
