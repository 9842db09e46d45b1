"""Stores for files other than git: a folder or a bucket, as the target of downloads and restores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from syncline.clients.git.objects import stream_id
from syncline.clients.http.listings import InvalidEntry, OnInvalid, ignore, refuse
from syncline.clients.s3.client import Bucket


class FileStore(Protocol):
    """Files by their paths. The store's own fingerprint of a file changes when the file is written by somebody else."""

    def write(self, path: str, chunks: Iterable[bytes]) -> str:
        """Write a file atomically and return its fingerprint."""
        ...

    def fingerprint(self, path: str) -> str | None:
        """Return the current fingerprint of a file, or None if it does not exist."""
        ...

    def listing(self, prefix: str, odd: OnInvalid = refuse) -> Iterator[tuple[str, str]]:
        """Yield every file below a folder with its fingerprint. `odd` gets invalid entries, with paths as names."""
        ...

    def top_folders(self) -> list[str]:
        """Return the top-level folders."""
        ...

    def remove(self, path: str) -> None: ...

    def content_id(self, path: str) -> str:
        """Return git's ID of a file's content, read now."""
        ...

    def before(self, path: str) -> str | None:
        """Return the content ID of what a write would replace: None for nothing, "" for what is not a file.

        Raises SynclineError if nothing can be written there.
        """
        ...


@dataclass(frozen=True, slots=True)
class BucketStore:
    """A bucket below `prefix`, which ends with a slash or is empty. The fingerprint is the ETag."""

    bucket: Bucket
    prefix: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.prefix}"

    def write(self, path: str, chunks: Iterable[bytes]) -> str:
        return self.bucket.put_stream(self.prefix + path, chunks)

    def fingerprint(self, path: str) -> str | None:
        head = self.bucket.head(self.prefix + path)
        return None if head is None else head.etag

    def listing(self, prefix: str, odd: OnInvalid = refuse) -> Iterator[tuple[str, str]]:
        def by_path(each: InvalidEntry) -> None:
            odd(each if each.name is None else replace(each, name=each.name[len(self.prefix) :]))

        for page in self.bucket.pages(f"{self.prefix}{prefix}/", on_invalid=by_path):
            for each in page.objects:
                yield each.key[len(self.prefix) :], each.etag

    def top_folders(self) -> list[str]:
        pages = self.bucket.pages(self.prefix, delimiter="/", on_invalid=ignore)
        return sorted(prefix[len(self.prefix) : -1] for page in pages for prefix in page.prefixes)

    def remove(self, path: str) -> None:
        self.bucket.delete(self.prefix + path)

    def before(self, path: str) -> str | None:
        return None if self.fingerprint(path) is None else self.content_id(path)

    def content_id(self, path: str) -> str:
        with self.bucket.open(self.prefix + path) as stream:
            return stream_id(stream.head.size, stream.chunks(1 << 18))
