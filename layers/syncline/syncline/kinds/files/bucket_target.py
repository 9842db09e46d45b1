"""A bucket as a target of files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import groupby, takewhile
from typing import Final, TypeVar

from syncline.clients.http.listings import OnOdd, ignore, refuse
from syncline.clients.s3.client import LARGEST_COPY, Bucket, ObjectStream
from syncline.clients.s3.head import ABSENT, Condition, Head, fingerprint
from syncline.clients.s3.upload import PART, Upload, copy_part_size, part_size
from syncline.clients.s3.xml import Listed
from syncline.errors import SynclineError
from syncline.kinds.files.listing import listed_ahead
from syncline.kinds.files.targets import (
    CHUNK,
    Facts,
    PartlyWritten,
    Put,
    TargetFile,
    Written,
    check_arrived,
    file_of,
    folder_of,
    opened,
    unchanged,
)

T = TypeVar("T")

PART_SECONDS: Final = 10.0
"""Seconds of the function's time without which no further part is begun."""
_WORTH_LISTING: Final = 16
"""Paths of one folder from which on they are listed; to some services a listing costs as much as a dozen questions."""
_SPARSE: Final = 16
"""A page of a listing of which no more than one in so many objects was asked for is the last one."""


class BucketTarget:
    """Another bucket. If it is of the same service (``near``), the service copies; else objects pass through here."""

    is_listed = True

    def __init__(self, bucket: Bucket, *, near: bool, facts: Facts) -> None:
        self._bucket = bucket
        self._near = near
        self._facts = facts
        self._conditional: bool | None = None
        self.name = f"s3://{bucket}"

    def creates_safely(self, size: int | None) -> bool:
        whole = LARGEST_COPY if self._near else PART
        return self._known() == "yes" and size is not None and size <= whole

    def _known(self) -> str | None:
        """Return "yes" or "no" as a write has shown, None if none has yet."""
        if self._conditional is None:
            told = self._facts.recall(self._fact)
            if told is None:
                return None
            self._conditional = told == "yes"
        return "yes" if self._conditional else "no"

    @property
    def _fact(self) -> str:
        return f"conditions:{'copy' if self._near else 'put'}:{self.name}"

    def _learn(self, honours: Callable[[], bool]) -> None:
        """Find out once whether the service honours conditions, with an object that was written just now."""
        if self._known() is None:
            self._conditional = honours()
            self._facts.remember(self._fact, "yes" if self._conditional else "no")

    def _on(self, condition: Condition | None, write: Callable[[Condition | None], T], *, checked: bool = False) -> T:
        """Write on a condition, or without one where the service does not know conditions.

        ``checked`` says that the caller has just read what the condition requires. A refusal then says nothing about
        other requests: some services know conditions of a put, and none of a deletion.
        """
        if condition is None or self._known() == "no":
            return write(None)
        try:
            return write(condition)
        except SynclineError as error:
            if error.code.name != "REFUSED" or (self._known() is not None and not checked):
                raise
        done = write(None)
        if not checked:
            self._learn(lambda: False)
        return done

    def refuses(self, path: str, size: int | None) -> str | None:  # noqa: ARG002 - a path alone decides
        if not path:
            return "is empty"
        return None if len(path.encode(errors="surrogatepass")) <= 1024 else "is longer than 1,024 bytes"

    def leaves_out(self, path: str, size: int | None) -> bool:
        return not path and not size  # a bucket holds any other key

    def listing(self, prefix: str, after: str, odd: OnOdd = refuse) -> Generator[Listed]:
        return listed_ahead(self._bucket, prefix, after, odd)

    def stat(self, path: str) -> TargetFile | None:
        head = self._bucket.head(path, surely=False)
        return None if head is None else file_of(head.etag, head.size, fingerprint(head))

    def listed(self, paths: Sequence[str]) -> Mapping[str, TargetFile]:
        found: dict[str, TargetFile] = {}
        for _, folder in groupby(paths, key=folder_of):
            members = list(folder)
            if len(members) >= _WORTH_LISTING:
                found |= self._listed(members)
        return found

    def _listed(self, paths: Sequence[str]) -> dict[str, TargetFile]:
        """List the paths of one folder page by page, as long as they stand close together."""
        prefix, after, found = _common(paths[0], paths[-1]), paths[0][:-1], dict[str, TargetFile]()
        wanted, at = set(paths), 0
        while at < len(paths):
            page = self._bucket.page(prefix, after=after, odd=ignore)
            shown = {each.key: file_of(each.etag, each.size) for each in page.objects if each.key in wanted}
            found |= shown
            if page.token is None or len(shown) * _SPARSE <= len(page.objects):
                break
            at = bisect_right(paths, page.objects[-1].key)
            after = paths[at - 1]
        return found

    def put(self, put: Put) -> Written | PartlyWritten:
        if self._near:
            return self._copied(put)
        with opened(put.source, put.key, put.seen) as stream:
            head = stream.head
            if head.size <= PART:
                content = b"".join(stream.chunks(CHUNK))
                # Before the write: a file that is written and not recorded is nobody's once its object is deleted.
                unchanged(put.source, put.key, head)
                etag = self._on(put.condition, lambda at: self._bucket.put(put.path, content, head, condition=at))
                if put.guarded:
                    self._learn(lambda: self._bucket.put_again_is_refused(put.path, content, head))
            else:
                etag = None  # in parts: of those only the last request is repeated if the service knows no conditions
        if etag is None:
            return self._in_parts(put, head)
        return Written(head, file_of(etag, head.size), head.size, fingerprint(head))

    def _in_parts(self, put: Put, head: Head) -> Written | PartlyWritten:
        """Send or copy an object part by part, as long as there is time; what is there already is not sent again."""
        size = copy_part_size(head.size) if self._near else part_size(head.size)
        upload, done = self._upload(put, head, size)
        sent = 0
        try:
            for number, start in enumerate(range(0, head.size, size), 1):
                if number in done:
                    continue
                if put.left() < PART_SECONDS:
                    return PartlyWritten(len(done))
                end = min(start + size, head.size)
                done[number] = self._part(put, head, upload, number, start, end)
                sent += 0 if self._near else end - start
            unchanged(put.source, put.key, head)
            etag = self._on(put.condition, lambda at: upload.complete(done, condition=at))
        except SynclineError as error:
            if error.code.name == "TIME_SHORT":
                return PartlyWritten(len(done))
            if not error.retried or error.is_any("SOURCE_CHANGED", "UPLOAD_LOST"):
                upload.abort()
                self._facts.forget(self._upload_fact(put.path))
                raise
            return PartlyWritten(len(done), error)
        self._facts.forget(self._upload_fact(put.path))
        return Written(head, file_of(etag, head.size), sent, fingerprint(head))

    def _upload(self, put: Put, head: Head, size: int) -> tuple[Upload, dict[int, str]]:
        """Return the upload under way with the ETags of its parts of ``size`` bytes, or a new one.

        It is known by a fact, so that it goes on even if the function that began it was killed. A part of another length
        was made while the sync was configured otherwise, and does not count.
        """
        fact = self._upload_fact(put.path)
        number, _, etag = (self._facts.recall(fact) or "").partition(" ")
        if number:
            upload = self._bucket.resume_upload(put.path, number)
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
        upload = self._bucket.begin_upload(put.path, head)
        self._facts.remember(fact, f"{upload.number} {head.etag}")
        return upload, {}

    def _upload_fact(self, path: str) -> str:
        return f"upload:{self.name}/{path}"

    def _part(self, put: Put, head: Head, upload: Upload, number: int, start: int, end: int) -> str:  # noqa: PLR0913, PLR0917 - a part
        if self._near:
            return upload.copy(number, put.source.copy_source(put.key, head), start, end)
        with put.source.open(put.key, etag=head.etag, start=start, end=end) as stream:
            return upload.put(number, b"".join(stream.chunks(CHUNK)))

    def _copied(self, put: Put) -> Written | PartlyWritten:
        """Let the service copy the object as it was seen, or else as it is now."""
        if put.seen is not None and put.seen.size <= LARGEST_COPY:
            try:
                return self._copied_as(put, put.seen)
            except SynclineError as error:
                if error.code.name != "SOURCE_CHANGED":
                    raise
        head = put.source.head(put.key)
        if head is None:
            raise SynclineError("NOT_FOUND", f"{put.key!r} is not in {put.source}")
        return self._in_parts(put, head) if head.size > LARGEST_COPY else self._copied_as(put, head)

    def _copied_as(self, put: Put, head: Head) -> Written:
        """Let the service copy the object in one request, if it is still the one of ``head``."""
        etag = self._on(put.condition, lambda at: self._bucket.copy(put.source, put.key, put.path, head, condition=at))
        if put.guarded:
            self._learn(lambda: self._bucket.copy_again_is_refused(put.source, put.key, put.path, head))
        return Written(head, file_of(etag, head.size))

    def rename(self, path: str, new_path: str, there: TargetFile) -> str:
        head = self._bucket.head(path)
        if head is None:
            raise SynclineError("NOT_FOUND", f"{path!r} is not in {self._bucket}")
        if file_of(head.etag, head.size).version != there.version or head.size > LARGEST_COPY:
            what = "was replaced" if head.size <= LARGEST_COPY else "is too large to be copied in one request"
            raise SynclineError("TARGET_CHANGED", f"{path!r} in {self._bucket} {what}, so it is not renamed")
        found = head

        def copy(condition: Condition | None) -> str:
            return self._bucket.copy(self._bucket, path, new_path, found, condition=condition)

        etag = self._on(ABSENT, copy, checked=True)
        check_arrived(self, new_path, file_of(etag, head.size))
        self.remove(path, there)
        return etag

    def remove(self, path: str, there: TargetFile) -> None:
        self._on(Condition(there.version), lambda at: self._bucket.delete(path, condition=at), checked=True)

    def open(self, path: str, there: TargetFile, start: int) -> ObjectStream | None:
        return self._bucket.open(path, etag=there.version, start=start)

    def mode(self, path: str) -> str | None:  # noqa: ARG002 - it knows none
        return None

    def permit(self, path: str, mode: str) -> str | None:  # noqa: ARG002 - it knows none
        return None


def _common(one: str, other: str) -> str:
    """Return the longest common beginning of both."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(mine for mine, _ in same)
