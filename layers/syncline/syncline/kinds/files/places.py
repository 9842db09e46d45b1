"""Where files go: a file manager, or another bucket. What both can do is what :class:`Place` says."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, takewhile
from typing import Final, Protocol

from syncline.clients.bucket import PART, Bucket, Head, ObjectStream
from syncline.clients.file_manager import Content, FileManager, Permissions
from syncline.clients.read_ahead import read_ahead
from syncline.errors import SynclineError
from syncline.kinds.files.records import path_problem

CHUNK: Final = 1024 * 1024
"""Bytes read and sent at a time."""
HELD: Final = 1024 * 1024
"""Bytes up to which a file is held, so that it can be sent again without being read again."""
_WORTH_LISTING: Final = 16
"""Paths of one folder from which on they are listed; to some services a listing costs as much as a dozen questions."""
_SPARSE: Final = 16
"""A page of a listing of which no more than one in so many objects was asked for is the last one."""
_MARK: Final = "syncline-etag"
"""Metadata of a copy whose own ETag cannot be that of its source."""


@dataclass(frozen=True, slots=True)
class There:
    """What the target has: ``etag`` is that of the object it was made from, None if it does not come from here."""

    etag: str | None
    size: int | None
    internal_id: str = ""


class Place(Protocol):
    """A target of files. Paths are as the target has them."""

    @property
    def name(self) -> str:
        """What is the same for all syncs that write there."""
        ...

    def refuses(self, path: str) -> str | None:
        """Why the target can have no such path, None if it can."""
        ...

    def stat(self, path: str) -> There | None: ...

    def listed(self, paths: Sequence[str]) -> Mapping[str, There]:
        """What is there under paths that are in order, as far as listings tell in fewer requests than :meth:`stat`.

        A path that is missing from it may be there all the same.
        """
        ...

    def put(self, path: str, source: Bucket, key: str, seen: Head | None, *, replaces: bool) -> tuple[Head, There, int]:
        """Bring an object there: what it was, what is there now, and the bytes sent through here.

        ``seen`` is what a look saw of it; what it is now counts.
        """
        ...

    def rename(self, path: str, new_path: str) -> None:
        """Raises NOT_FOUND or FILE_DIFFERS where it cannot be done."""
        ...

    def remove(self, path: str) -> None: ...

    def mode(self, path: str) -> str | None:
        """A file's permissions, None where the target knows none."""
        ...

    def permit(self, path: str, mode: str) -> str | None:
        """Set a file's permissions; what they are now, None where the target knows none."""
        ...

    def check(self) -> None:
        """Raises where the target does not answer."""
        ...


class FileManagerPlace:
    """A file manager. What a file was made from stands in its metadata there."""

    def __init__(self, client: FileManager, name: str, owner: str | None, group: str | None) -> None:
        self._client = client
        self._owner = owner
        self._group = group
        self.name = name

    def refuses(self, path: str) -> str | None:
        return path_problem(path)

    def stat(self, path: str) -> There | None:
        saved = self._client.get(path)
        if saved is None:
            return None
        etag = saved.metadata.get("etag")
        return There(etag if isinstance(etag, str) else None, saved.size, saved.internal_id)

    def listed(self, paths: Sequence[str]) -> Mapping[str, There]:  # noqa: ARG002 - it lists nothing
        return {}

    def put(self, path: str, source: Bucket, key: str, seen: Head | None, *, replaces: bool) -> tuple[Head, There, int]:
        operation = "update" if replaces else "create"
        with opened(source, key, seen) as stream:
            head = stream.head
            about = {"etag": head.etag, "key": key, "modified": int(head.modified), "version": head.version}
            if head.size <= HELD:
                content = b"".join(stream.chunks(HELD + 1))
                about["sha256"] = hashlib.sha256(content).hexdigest()
                saved = self._client.save(operation, path, Content(content, head.size, head.content_type, about))
            else:
                with read_ahead(_through(stream)) as chunks:
                    saved = self._client.save(operation, path, Content(chunks, head.size, head.content_type, about))
        if head.size > HELD:
            unchanged(source, key, head)
        return head, There(head.etag, head.size, saved.internal_id), head.size

    def rename(self, path: str, new_path: str) -> None:
        self._client.rename(path, new_path)

    def remove(self, path: str) -> None:
        self._client.delete(path)

    def mode(self, path: str) -> str | None:
        found = self._client.permissions(path)
        if found is None:
            raise SynclineError("NOT_ARRIVED", f"{path!r} is not at {self.name}")
        return found.mode or ""

    def permit(self, path: str, mode: str) -> str | None:
        return self._client.set_permissions(path, Permissions(mode, self._owner, self._group)).mode

    def check(self) -> None:
        self._client.check()


class BucketPlace:
    """Another bucket; of the same service (``near``) it copies by itself, else objects go through here."""

    def __init__(self, bucket: Bucket, *, near: bool) -> None:
        self._bucket = bucket
        self._near = near
        self.name = f"s3://{bucket}"

    def refuses(self, path: str) -> str | None:
        return None if len(path.encode(errors="surrogatepass")) <= 1024 else "is longer than 1,024 bytes"

    def stat(self, path: str) -> There | None:
        head = self._bucket.head(path, surely=False)
        return None if head is None else There(head.metadata.get(_MARK, head.etag), head.size)

    def listed(self, paths: Sequence[str]) -> Mapping[str, There]:
        found: dict[str, There] = {}
        for _, folder in groupby(paths, key=folder_of):
            members = list(folder)
            if len(members) >= _WORTH_LISTING:
                found |= self._listed(members)
        return found

    def _listed(self, paths: Sequence[str]) -> dict[str, There]:
        """What is there under paths of one folder, page by page as long as they stand close together."""
        prefix, after, found = _common(paths[0], paths[-1]), paths[0][:-1], dict[str, There]()
        wanted, at = set(paths), 0
        while at < len(paths):
            page = self._bucket.page(prefix, after=after)
            shown = {each.key: There(each.etag, each.size) for each in page.objects if each.key in wanted}
            found |= shown
            if page.token is None or len(shown) * _SPARSE <= len(page.objects):
                break
            at = bisect_right(paths, page.objects[-1].key)
            after = paths[at - 1]
        return found

    def put(self, path: str, source: Bucket, key: str, seen: Head | None, *, replaces: bool) -> tuple[Head, There, int]:  # noqa: ARG002 - a bucket does not tell the two apart
        if self._near:
            head = self._copied(path, source, key, seen)
            return head, There(head.etag, head.size), 0
        with opened(source, key, seen) as stream:
            head = stream.head
            like = _marked(head)
            if head.size <= PART:
                self._bucket.put(path, b"".join(stream.chunks(CHUNK)), like)
            else:
                with read_ahead(stream.chunks(CHUNK)) as chunks:
                    self._bucket.put_stream(path, chunks, like)
        unchanged(source, key, head)
        return head, There(head.etag, head.size), head.size

    def _copied(self, path: str, source: Bucket, key: str, seen: Head | None) -> Head:
        """Let the service copy: what was seen, if it is still that, else what is there now."""
        # Copies of objects that were uploaded in parts have an ETag of their own, so theirs is noted.
        if seen is not None and "-" not in seen.etag:
            try:
                self._bucket.copy(source, key, path, seen)
            except SynclineError as error:
                if error.code.name != "SOURCE_CHANGED":
                    raise
            else:
                return seen
        head = source.head(key)
        if head is None:
            raise SynclineError("NOT_FOUND", f"{key!r} is not in {source}")
        self._bucket.copy(source, key, path, head, _marked(head) if "-" in head.etag else None)
        return head

    def rename(self, path: str, new_path: str) -> None:
        head = self._bucket.head(path)
        if head is None:
            raise SynclineError("NOT_FOUND", f"{path!r} is not in {self._bucket}")
        self._bucket.copy(self._bucket, path, new_path, head, head if _MARK in head.metadata else None)
        self._bucket.delete(path)

    def remove(self, path: str) -> None:
        self._bucket.delete(path)

    def mode(self, path: str) -> str | None:  # noqa: ARG002 - it knows none
        return None

    def permit(self, path: str, mode: str) -> str | None:  # noqa: ARG002 - it knows none
        return None

    def check(self) -> None:
        self._bucket.page(limit=1)


def folder_of(path: str) -> str:
    """The folder that a path is in, with its slash."""
    return path[: path.rfind("/") + 1]


def _common(one: str, other: str) -> str:
    """What both begin with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(mine for mine, _ in same)


def opened(source: Bucket, key: str, seen: Head | None) -> ObjectStream:
    """An object as it is now, most likely the one that was seen: that is asked for first."""
    try:
        return source.open(key, etag=None if seen is None else seen.etag)
    except SynclineError as error:
        if seen is None or error.code.name != "SOURCE_CHANGED":
            raise
    return source.open(key)


def unchanged(source: Bucket, key: str, head: Head) -> None:
    """SOURCE_CHANGED if an object was replaced while it was read: some services then give bytes of both."""
    now = source.head(key)
    if now is None or now.etag != head.etag:
        raise SynclineError("SOURCE_CHANGED", f"{key!r} in {source} was replaced while it was read")


def _marked(head: Head) -> Head:
    return replace(head, metadata={**head.metadata, _MARK: head.etag})


def _through(stream: ObjectStream) -> Iterator[bytes]:
    yield from stream.chunks(CHUNK)
