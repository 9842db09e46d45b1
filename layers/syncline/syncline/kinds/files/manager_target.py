"""A file manager as a target of files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Final

from syncline.clients.file_manager.client import Content, FileManager, Permissions, Saved
from syncline.clients.http.listings import OnOdd, refuse
from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.s3.client import ObjectStream
from syncline.clients.s3.head import fingerprint
from syncline.clients.s3.xml import Listed
from syncline.errors import SynclineError
from syncline.kinds.files.records import path_problem
from syncline.kinds.files.targets import CHUNK, PartlyWritten, Put, TargetFile, Written, opened, unchanged

HELD: Final = 1024 * 1024
"""Bytes up to which a file is held, so that it can be sent again without being read again."""
_FASTEST: Final = 1024**3
"""Bytes a second that no file manager is expected to exceed."""
_LONGEST_FUNCTION: Final = 900
"""Seconds that a Lambda function may take."""
_ON_THE_WAY: Final = 4 * CHUNK
"""Bytes that buffers between us and the file manager may hold."""
_ESTIMATE_AFTER: Final = 5.0
"""Seconds of sending after which the time that the rest takes is estimated."""


class FileManagerTarget:
    """A file manager. A file's metadata there states the object it was made from, with a mark bound to its path."""

    is_listed = False

    def __init__(
        self,
        client: FileManager,
        name: str,
        owner: str | None,
        group: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._owner = owner
        self._group = group
        self._clock = clock
        self.name = name

    def refuses(self, path: str, size: int | None) -> str | None:  # noqa: ARG002 - a path alone decides
        return path_problem(path)

    def leaves_out(self, path: str, size: int | None) -> bool:
        return (not path or path.endswith("/")) and not size

    def creates_safely(self, size: int | None) -> bool:  # noqa: ARG002 - the API has no conditions
        return False

    def listing(self, prefix: str, after: str, odd: OnOdd = refuse) -> Generator[Listed]:  # noqa: ARG002 - as declared
        raise SynclineError("REFUSED", f"{self.name} cannot be listed below {prefix!r} behind {after!r}")

    def stat(self, path: str) -> TargetFile | None:
        saved = self._client.get(path)
        return None if saved is None else self._file(path, saved, saved.metadata)

    def _file(self, path: str, saved: Saved, metadata: Mapping[str, object]) -> TargetFile:
        etag, mark, path_then = (metadata.get(each) for each in ("etag", "mark", "path"))
        size = saved.size if saved.size is not None else metadata.get("size")
        size = size if isinstance(size, int) else None
        version = f"{saved.internal_id}|{'' if size is None else size}|{etag or ''}|{mark or ''}"
        if not isinstance(etag, str) or not isinstance(path_then, str) or mark != self._mark(path_then, etag, size):
            # Whatever the metadata says, it tells nothing about the bytes.
            return TargetFile(version, None, size, saved.internal_id)
        run = metadata.get("run")
        by = run if isinstance(run, str) else None
        return TargetFile(version, etag, size, saved.internal_id, path_then == path, path_then, by)

    def _mark(self, path: str, etag: str, size: int | None) -> str:
        return hashlib.blake2b(
            f"{self.name}\n{path}\n{etag}\n{size}".encode(errors="surrogatepass"), digest_size=8
        ).hexdigest()

    def listed(self, paths: Sequence[str]) -> Mapping[str, TargetFile]:  # noqa: ARG002 - it lists nothing
        return {}

    def put(self, put: Put) -> Written | PartlyWritten:
        operation = "create" if put.there is None else "update"
        if put.seen is not None and put.seen.size > _FASTEST * _LONGEST_FUNCTION:
            raise too_slow(put.key, put.seen.size, put.seen.size / _FASTEST)
        with opened(put.source, put.key, put.seen) as stream:
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
            if head.size <= HELD:
                content = b"".join(stream.chunks(HELD + 1))
                about["sha256"] = hashlib.sha256(content).hexdigest()
                saved = self._client.save(operation, put.path, Content(content, head.size, head.content_type, about))
            else:
                sending = _Sending(put, head.size, self._clock)
                try:
                    with read_ahead(sending.chunks(stream)) as chunks:
                        content_of = Content(chunks, head.size, head.content_type, about)
                        saved = self._client.save(operation, put.path, content_of)
                except SynclineError as error:
                    if error.code.name != "TIME_SHORT":
                        raise
                    raise sending.too_slow() from None
        if head.size > HELD:
            unchanged(put.source, put.key, head)
        # A file that was kept short has the version of its own size: it is ours, and verify refuses it.
        kept = head.size if saved.size is None else saved.size
        there = self._file(put.path, Saved(saved.internal_id, put.path, kept), about)
        return Written(head, there, head.size, fingerprint(head))

    def rename(self, path: str, new_path: str, there: TargetFile) -> str:
        self._client.rename(path, new_path)
        return there.version  # it still carries the mark of its old path: the record says that it is ours

    def remove(self, path: str, there: TargetFile) -> None:  # noqa: ARG002 - the API has no conditions
        self._client.delete(path)

    def open(self, path: str, there: TargetFile, start: int) -> ObjectStream | None:  # noqa: ARG002 - the API gives no bytes
        return None

    def mode(self, path: str) -> str | None:
        found = self._client.permissions(path)
        if found is None:
            raise SynclineError("NOT_ARRIVED", f"{path!r} is not at {self.name}")
        return found.mode or ""

    def permit(self, path: str, mode: str) -> str | None:
        return self._client.set_permissions(path, Permissions(mode, self._owner, self._group)).mode


class _Sending:
    """A file on its way in one request, which no other function could continue.

    Its chunks end with FILE_TOO_SLOW as soon as the rest will certainly not be sent in the time that is left.
    """

    def __init__(self, put: Put, size: int, clock: Callable[[], float]) -> None:
        self._put = put
        self._size = size
        self._clock = clock
        self._began = clock()
        self._sent = 0

    def chunks(self, stream: ObjectStream) -> Iterator[bytes]:
        for chunk in stream.chunks(CHUNK):
            passed = self._clock() - self._began
            # The chunk in hand counts as sent, and nothing is known of the rate before one is.
            if self._sent and passed >= _ESTIMATE_AFTER:
                needed = self._needed(self._sent + len(chunk))
                if needed - passed > self._put.left():
                    raise self.too_slow()
            yield chunk
            self._sent += len(chunk)

    def _needed(self, sent: int) -> float:
        """Return the seconds that the whole file takes if ``sent`` bytes have arrived so far."""
        return (self._clock() - self._began) * self._size / max(sent, 1)

    def too_slow(self) -> SynclineError:
        # Bytes that were sent may still lie in buffers on the way; the advice is for the slower rate.
        return too_slow(self._put.key, self._size, self._needed(max(self._sent - _ON_THE_WAY, self._sent // 4)))


def too_slow(key: str, size: int, seconds: float) -> SynclineError:
    """Return the error for a file that one function cannot send in its time."""
    timeout = -(-int(seconds * 1.25 + 30) // 60) * 60
    if timeout <= _LONGEST_FUNCTION:
        advice = f"set the timeout of the transfer function to {timeout} seconds or more"
    else:
        over = f"that would take a timeout of {timeout} seconds, over the {_LONGEST_FUNCTION} of a Lambda function"
        advice = f"{over}: exclude the file, or bring it there by other means"
    what = f"{key!r} has {size} bytes and would take about {int(seconds)} seconds to send in one request; {advice}"
    return SynclineError("FILE_TOO_SLOW", what)
