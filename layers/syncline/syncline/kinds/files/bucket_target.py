"""A bucket as a target of files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from itertools import groupby
from os.path import commonprefix
from typing import Final, TypeVar

from syncline.clients.http.listings import OnInvalid, ignore, refuse
from syncline.clients.s3.checksums import CRC64NVME, check_content
from syncline.clients.s3.client import MAX_COPY, Bucket, ObjectStream, honours_conditions
from syncline.clients.s3.head import IF_ABSENT, ObjectHead, WriteCondition, fingerprint
from syncline.clients.s3.upload import COPY_PART, PART_SIZE, MultipartUpload, part_size
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.facts import FactStore
from syncline.kinds.files.listing import listed_ahead
from syncline.kinds.files.records import UNSTATED
from syncline.kinds.files.targets import (
    CHUNK,
    PutRequest,
    PutResult,
    TargetFile,
    UnfinishedPut,
    check_unchanged,
    check_written,
    file_of,
    folder_of,
    open_current,
)

T = TypeVar("T")

PART_SECONDS: Final = 10.0
"""Seconds of the function's time that must be left for another part to be begun."""
_WORTH_LISTING: Final = 16
"""Paths of one folder from which on they are listed; some services charge a listing like a dozen other requests."""
_SPARSE: Final = 16
"""A listing ends after a page of which no more than one in so many objects was asked for."""


class BucketTarget:
    """Another bucket. One of the same service (``near``) copies objects itself; for another one they are read and sent."""

    is_listed = True

    def __init__(self, bucket: Bucket, *, near: bool, facts: FactStore) -> None:
        self._bucket = bucket
        self._near = near
        self._facts = facts
        self._conditional: bool | None = None
        self._checksums: bool | None = None
        self.name = f"s3://{bucket}"

    def creates_safely(self, size: int | None) -> bool:
        largest = MAX_COPY if self._near else PART_SIZE  # of one request
        return self._honours_conditions() is True and size is not None and size <= largest

    def _honours_conditions(self) -> bool | None:
        """Return True or False as a write has shown, None if none has yet."""
        if self._conditional is None:
            known = self._facts.recall(self._fact)
            self._conditional = None if known is None else known == "yes"
        return self._conditional

    @property
    def _fact(self) -> str:
        return f"conditions:{'copy' if self._near else 'put'}:{self.name}"

    def _learn(self, honours: Callable[[], bool]) -> None:
        """Test once whether the service honours conditions, with an object that was written just now."""
        if self._honours_conditions() is None:
            self._conditional = honours()
            self._facts.remember(self._fact, "yes" if self._conditional else "no")

    def _on(
        self, condition: WriteCondition | None, write: Callable[[WriteCondition | None], T], *, checked: bool = False
    ) -> T:
        """Write on a condition, or without one if the service does not support conditions.

        ``checked`` says that the caller has just checked the condition. A refusal then says nothing about other
        requests: some services support conditions of a put, but not of a deletion.
        """
        if condition is None or self._honours_conditions() is False:
            return write(None)
        try:
            return write(condition)
        except SynclineError as error:
            if error.code.name != "REFUSED" or (self._honours_conditions() is not None and not checked):
                raise
        done = write(None)
        if not checked:
            self._learn(lambda: False)
        return done

    def _with_checksum(self, write: Callable[[bool], T]) -> T:
        """Write with a checksum (True), or without one if the service refuses it."""
        fact = f"checksums:{self.name}"
        if self._checksums is None:
            self._checksums = self._facts.recall(fact) != "no"
        if not self._checksums:
            return write(False)
        try:
            return write(True)
        except SynclineError as error:
            if error.code.name != "REFUSED":
                raise
        done = write(False)
        self._checksums = False
        self._facts.remember(fact, "no")
        return done

    def refuses(self, path: str, size: int | None) -> str | None:  # noqa: ARG002 - a path alone decides
        if not path:
            return "is empty"
        return None if len(path.encode(errors="surrogatepass")) <= 1024 else "is longer than 1,024 bytes"

    def leaves_out(self, path: str, size: int | None) -> bool:
        return not path and not size  # a bucket holds any other key

    def listing(self, prefix: str, after: str, odd: OnInvalid = refuse) -> Generator[ListedObject]:
        return listed_ahead(self._bucket, prefix, after, odd)

    def stat(self, path: str) -> TargetFile | None:
        head = self._bucket.head(path, confirm=False)
        return None if head is None else file_of(head.etag, head.size, fingerprint(head))

    def listed(self, paths: Sequence[str]) -> Mapping[str, TargetFile]:
        found: dict[str, TargetFile] = {}
        for _, folder in groupby(paths, key=folder_of):
            members = list(folder)
            if len(members) >= _WORTH_LISTING:
                found |= self._listed(members)
        return found

    def _listed(self, paths: Sequence[str]) -> dict[str, TargetFile]:
        """List the paths of one folder page by page, as long as they are close together."""
        prefix = commonprefix([paths[0], paths[-1]])  # noqa: RUF071 - of keys, by character
        after, found = paths[0][:-1], dict[str, TargetFile]()
        wanted, at = set(paths), 0
        while at < len(paths):
            page = self._bucket.page(prefix, after=after, on_invalid=ignore)
            shown = {each.key: file_of(each.etag, each.size) for each in page.objects if each.key in wanted}
            found |= shown
            if page.token is None or len(shown) * _SPARSE <= len(page.objects):
                break
            at = bisect_right(paths, page.objects[-1].key)
            after = paths[at - 1]
        return found

    def put(self, put: PutRequest) -> PutResult | UnfinishedPut:
        if self._near:
            return self._copied(put)
        with open_current(put.source, put.key, put.seen) as stream:
            head = stream.head
            if head.size <= PART_SIZE:
                content = b"".join(stream.chunks(CHUNK))
                check_content(content, head, f"{put.key!r} in {put.source}")
                # Before the write: a file that is written and not recorded is foreign once its object is deleted.
                check_unchanged(put.source, put.key, head)

                def write(at: WriteCondition | None) -> str:
                    put_object = partial(self._bucket.put, put.path, content, head, condition=at)
                    # An ETag of parts never equals that of one request, so later comparisons need the checksum.
                    if "-" not in head.etag and not head.checksums:
                        return put_object()
                    return self._with_checksum(lambda checksum: put_object(checksum=checksum))

                etag = self._written(put, write)
                return PutResult(head, file_of(etag, head.size), head.size, fingerprint(head))
        return self._in_parts(put, head)

    def _written(self, put: PutRequest, write: Callable[[WriteCondition | None], str]) -> str:
        """Write a file in one request, and return its ETag."""
        etag = self._on(put.condition, write)
        if put.guarded:
            self._learn(lambda: honours_conditions(write))
        return etag

    def _in_parts(self, put: PutRequest, head: ObjectHead) -> PutResult | UnfinishedPut:
        """Send or copy an object part by part, as long as there is time; completed parts are not sent again."""
        size = part_size(head.size, COPY_PART if self._near else PART_SIZE)
        upload, done = self._upload(put, head, size)
        sent = 0
        try:
            for number, start in enumerate(range(0, head.size, size), 1):
                if number in done:
                    continue
                if put.left() < PART_SECONDS:
                    return UnfinishedPut(len(done))
                end = min(start + size, head.size)
                if self._near:
                    done[number] = upload.copy(number, put.source.copy_source(put.key, head), start, end)
                    continue
                with put.source.open(put.key, etag=head.etag, start=start, end=end) as stream:
                    done[number] = upload.put(number, b"".join(stream.chunks(CHUNK)))
                sent += end - start
            check_unchanged(put.source, put.key, head)
            expected = head.checksums.get(CRC64NVME)
            etag = self._on(put.condition, lambda at: upload.complete(done, condition=at, expected=expected))
        except SynclineError as error:
            if error.code.name == "TIME_SHORT":
                return UnfinishedPut(len(done))
            if not error.retried or error.is_any("SOURCE_CHANGED", "UPLOAD_LOST", "DIGEST_MISMATCH"):
                upload.abort()
                self._facts.forget(self._upload_fact(put.path))
                raise
            return UnfinishedPut(len(done), error)
        self._facts.forget(self._upload_fact(put.path))
        return PutResult(head, file_of(etag, head.size), sent, fingerprint(head))

    def _upload(self, put: PutRequest, head: ObjectHead, size: int) -> tuple[MultipartUpload, dict[int, str]]:
        """Return the unfinished upload with the ETags of its parts of ``size`` bytes, or a new one.

        Its number is a fact, so that it is resumed even if the function that began it was killed. Parts of another
        length were sent under an earlier configuration of the sync, and do not count.
        """
        fact = self._upload_fact(put.path)
        number, etag, checksum = (*(self._facts.recall(fact) or "").split(" "), "", "")[:3]
        if number:
            upload = self._bucket.resume_upload(put.path, number, checksum=checksum != "")
            try:
                if etag == head.etag:
                    return upload, {
                        part: each
                        for part, (each, length) in upload.parts().items()
                        if length == min(size, head.size - (part - 1) * size)
                    }
                upload.abort()  # the object was replaced meanwhile
            except SynclineError as error:
                if error.code.name != "UPLOAD_LOST":
                    raise
        begin = partial(self._bucket.begin_upload, put.path, head)
        # The parts of a copy are not read here, and the service may compute their checksums itself.
        upload = begin() if self._near else self._with_checksum(lambda checksum: begin(checksum=checksum))
        noted = f"{upload.upload_id} {head.etag}"
        self._facts.remember(fact, f"{noted} {CRC64NVME}" if upload.checksum else noted)
        return upload, {}

    def _upload_fact(self, path: str) -> str:
        return f"upload:{self.name}/{path}"

    def _copied(self, put: PutRequest) -> PutResult | UnfinishedPut:
        """Let the service copy the object as it was seen, or its present version."""
        if put.seen is not None and put.seen.size <= MAX_COPY:
            try:
                return self._copied_as(put, put.seen)
            except SynclineError as error:
                if error.code.name != "SOURCE_CHANGED":
                    raise
        head = put.source.head(put.key)
        if head is None:
            raise SynclineError("NOT_FOUND", f"{put.key!r} is not in {put.source}")
        return self._in_parts(put, head) if head.size > MAX_COPY else self._copied_as(put, head)

    def _copied_as(self, put: PutRequest, head: ObjectHead) -> PutResult:
        """Let the service copy the object in one request, if it still has the ETag of ``head``."""
        copy = self._bucket.copy
        etag = self._written(put, lambda at: copy(put.source, put.key, put.path, head, condition=at))
        return PutResult(head, file_of(etag, head.size))

    def rename(self, path: str, new_path: str, existing: TargetFile) -> str:
        head = self._bucket.head(path)
        if head is None:
            raise SynclineError("NOT_FOUND", f"{path!r} is not in {self._bucket}")
        if file_of(head.etag, head.size).version != existing.version or head.size > MAX_COPY:
            what = "was replaced" if head.size <= MAX_COPY else "is too large to be copied in one request"
            raise SynclineError("TARGET_CHANGED", f"{path!r} in {self._bucket} {what}, so it is not renamed")
        copy = partial(self._bucket.copy, self._bucket, path, new_path, head)
        etag = self._on(IF_ABSENT, lambda at: copy(condition=at), checked=True)
        check_written(self, new_path, file_of(etag, head.size))
        self.remove(path, existing)
        return etag

    def remove(self, path: str, existing: TargetFile) -> None:
        self._on(WriteCondition(existing.version), lambda at: self._bucket.delete(path, condition=at), checked=True)

    def open(self, path: str, existing: TargetFile, start: int) -> ObjectStream | None:
        version = None if existing.version == UNSTATED else existing.version
        return self._bucket.open(path, etag=version, start=start)

    def checksums(self, path: str, existing: TargetFile) -> Mapping[str, str]:
        return self._bucket.checksums(path, existing.version)

    def mode(self, path: str) -> str | None:  # noqa: ARG002 - buckets have no permissions
        return None

    def permit(self, path: str, mode: str) -> str | None:  # noqa: ARG002 - buckets have no permissions
        return None
