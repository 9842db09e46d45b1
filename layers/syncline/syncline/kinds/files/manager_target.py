"""A file manager as a target of files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.clients.file_manager.client import FileContent, FileManager, FilePermissions, SavedFile
from syncline.clients.http.listings import OnInvalid, refuse
from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.s3.client import ObjectStream
from syncline.clients.s3.head import fingerprint
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.files.records import path_problem
from syncline.kinds.files.targets import (
    CHUNK,
    PutRequest,
    PutResult,
    TargetFile,
    UnfinishedPut,
    check_unchanged,
    open_current,
)

BUFFERED: Final = 1024 * 1024
"""Bytes up to which a file is held in memory, so that it can be sent again without being read again."""
_FASTEST: Final = 1024**3
"""Bytes per second that no file manager is expected to exceed."""
_LONGEST_FUNCTION: Final = 900
"""The longest timeout of a Lambda function, in seconds."""
_IN_BUFFERS: Final = 6 * CHUNK
"""Bytes that buffers on the way to the file manager may hold: up to 4 MiB in the kernel, the rest in this process."""
_ESTIMATE_AFTER: Final = 5.0
"""Seconds of sending after which the remaining time is estimated."""


@dataclass(frozen=True, slots=True)
class FileManagerTarget:
    """A file manager. A file's metadata states the object it was made from, with a mark bound to its path."""

    is_listed = False

    _client: FileManager
    name: str
    _owner: str | None
    _group: str | None
    _clock: Callable[[], float] = time.monotonic

    def refuses(self, path: str, size: int | None) -> str | None:  # noqa: ARG002 - a path alone decides
        return path_problem(path)

    def leaves_out(self, path: str, size: int | None) -> bool:
        return (not path or path.endswith("/")) and not size

    def creates_safely(self, size: int | None) -> bool:  # noqa: ARG002 - the API has no conditions
        return False

    def listing(self, prefix: str, after: str, odd: OnInvalid = refuse) -> Generator[ListedObject]:  # noqa: ARG002 - as declared
        raise SynclineError("REFUSED", f"{self.name} cannot list files (below {prefix!r}, after {after!r})")

    def stat(self, path: str) -> TargetFile | None:
        saved = self._client.get(path)
        return None if saved is None else self._file(path, saved)

    def _file(self, path: str, saved: SavedFile) -> TargetFile:
        etag, mark, marked_path, run = (saved.metadata.get(each) for each in ("etag", "mark", "path", "run"))
        size = saved.size if saved.size is not None else saved.metadata.get("size")
        size = size if isinstance(size, int) else None
        version = f"{saved.internal_id}|{'' if size is None else size}|{etag or ''}|{mark or ''}"
        if not isinstance(etag, str) or not isinstance(marked_path, str) or mark != self._mark(marked_path, etag, size):
            # Without our mark the metadata may not describe the bytes.
            return TargetFile(version, None, size, saved.internal_id)
        by = run if isinstance(run, str) else None
        return TargetFile(version, etag, size, saved.internal_id, marked_path == path, marked_path, by)

    def _mark(self, path: str, etag: str, size: int | None) -> str:
        text = f"{self.name}\n{path}\n{etag}\n{size}"
        return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()

    def listed(self, paths: Sequence[str]) -> Mapping[str, TargetFile]:  # noqa: ARG002 - the API has no listing
        return {}

    def put(self, put: PutRequest) -> PutResult | UnfinishedPut:
        operation = "create" if put.existing is None else "update"
        if put.seen is not None and put.seen.size > _FASTEST * _LONGEST_FUNCTION:
            raise too_slow(put.key, put.seen.size, put.seen.size / _FASTEST)
        with open_current(put.source, put.key, put.seen) as stream:
            head = stream.head
            about = {
                "etag": head.etag,
                "key": put.key,
                "path": put.path,
                "size": head.size,
                "modified": int(head.modified),
                "version": head.version,
                "run": put.run,
                "mark": self._mark(put.path, head.etag, head.size),
            }
            if head.size <= BUFFERED:
                content = b"".join(stream.chunks(BUFFERED + 1))
                about["sha256"] = hashlib.sha256(content).hexdigest()
                whole = FileContent(content, head.size, head.content_type, about)
                saved = self._client.save(operation, put.path, whole)
            else:
                sending = _Sending(put, head.size, self._clock)
                try:
                    with read_ahead(sending.chunks(stream)) as chunks:
                        streamed = FileContent(chunks, head.size, head.content_type, about)
                        saved = self._client.save(operation, put.path, streamed)
                except SynclineError as error:
                    if error.code.name != "TIME_SHORT":
                        raise
                    raise sending.too_slow() from None
        if head.size > BUFFERED:
            check_unchanged(put.source, put.key, head)
        # A file that was stored incompletely has the version of its actual size: it is ours, and verify refuses it.
        kept = head.size if saved.size is None else saved.size
        existing = self._file(put.path, replace(saved, size=kept, metadata=about))
        return PutResult(head, existing, head.size, fingerprint(head))

    def rename(self, path: str, new_path: str, existing: TargetFile) -> str:
        self._client.rename(path, new_path)
        return existing.version  # it keeps the mark of its old path, so only the record shows that it is ours

    def remove(self, path: str, existing: TargetFile) -> None:  # noqa: ARG002 - the API has no conditions
        self._client.delete(path)

    def open(self, path: str, existing: TargetFile, start: int) -> ObjectStream | None:  # noqa: ARG002 - the API has no reads
        return None

    def checksums(self, path: str, existing: TargetFile) -> Mapping[str, str]:  # noqa: ARG002 - the API has none
        return {}

    def mode(self, path: str) -> str | None:
        found = self._client.permissions(path)
        if found is None:
            raise SynclineError("NOT_ARRIVED", f"{path!r} is not at {self.name}")
        return found.mode or ""

    def permit(self, path: str, mode: str) -> str | None:
        return self._client.set_permissions(path, FilePermissions(mode, self._owner, self._group)).mode


@dataclass
class _Sending:
    """The sending of a file in one request, which no other function can continue.

    ``chunks`` raises FILE_TOO_SLOW as soon as the rest cannot be sent in the time that is left.
    """

    _put: PutRequest
    _size: int
    _clock: Callable[[], float]
    _began: float = field(init=False)
    _sent: int = 0

    def __post_init__(self) -> None:
        self._began = self._clock()

    def chunks(self, stream: ObjectStream) -> Iterator[bytes]:
        for chunk in stream.chunks(CHUNK):
            passed = self._clock() - self._began
            # The present chunk counts as sent, and the rate is unknown before the first one is.
            if self._sent and passed >= _ESTIMATE_AFTER:
                needed = self._needed(self._sent + len(chunk))
                if needed - passed > self._put.left():
                    raise self.too_slow()
            yield chunk
            self._sent += len(chunk)

    def _needed(self, sent: int) -> float:
        """Return the seconds that the complete file takes if ``sent`` bytes were sent so far."""
        return (self._clock() - self._began) * self._size / max(sent, 1)

    def too_slow(self) -> SynclineError:
        # Some of the sent bytes may still be in buffers; the advice is for the slower rate.
        return too_slow(self._put.key, self._size, self._needed(max(self._sent - _IN_BUFFERS, self._sent // 4)))


def too_slow(key: str, size: int, seconds: float) -> SynclineError:
    """Return the error for a file that a function cannot send within its timeout."""
    timeout = -(-int(seconds * 1.25 + 30) // 60) * 60
    if timeout <= _LONGEST_FUNCTION:
        advice = f"set the timeout of the transfer function to {timeout} seconds or more"
    else:
        over = f"that would take a timeout of {timeout} seconds, over the {_LONGEST_FUNCTION} of a Lambda function"
        advice = f"{over}: exclude the file, or copy it by other means"
    what = f"{key!r} has {size} bytes and would take about {int(seconds)} seconds to send in one request; {advice}"
    return SynclineError("FILE_TOO_SLOW", what)
