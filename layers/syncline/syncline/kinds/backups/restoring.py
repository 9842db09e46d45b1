"""Restoring: a cluster or namespace as it was at any commit, into a folder or a bucket, and the proof that it is there.

Each file's bytes are hashed as they come from git and compared with the blob's id; then the place is read again, all of
it, and what is there is hashed once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from syncline.clients.git_objects import blob_hash, blob_id
from syncline.clients.git_repository import Blob, Branch
from syncline.errors import SynclineError
from syncline.kinds.backups.layout import Layout
from syncline.kinds.backups.paths import problem_of, shown
from syncline.kinds.backups.sealing import LARGEST, MAGIC, unseal

_PORTION: Final = 500
"""Blobs fetched in one request."""


class Place(Protocol):
    """Where files are restored to."""

    def write(self, path: str, chunks: Iterator[bytes]) -> str: ...

    def content_id(self, path: str) -> str:
        """The id that git gives what is there now, read again."""
        ...


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored: files and bytes, from which commit; ``decrypted`` of them had been encrypted."""

    commit: str
    files: int
    bytes: int
    decrypted: int


def restore(  # noqa: PLR0913 - each is a part of the question
    branch: Branch, layout: Layout, part: str, place: Place, *, at: str | None = None, key: str | None = None
) -> Restored:
    """Write ``part`` (``<cluster>`` or ``<cluster>/<namespace>``) as of the commit ``at``, or the branch's last.

    ``key`` decrypts what was encrypted. Raises NOT_FOUND where the commit or the part is not there, DIGEST_MISMATCH
    where what arrived is not what git has, and what branch and place raise.
    """
    tip = branch.fetch() if at is None else branch.fetch_commit(at)
    if tip is None:
        raise SynclineError("NOT_FOUND", f"the repository has no branch {branch.name}")
    cluster = part.partition("/")[0]
    root = layout.folder.encode()
    entry = branch.folders([root])[root].get(cluster.encode())
    above = layout.path_of(layout.prefix + part)
    files = [] if entry is None else list(branch.files(layout.cluster_path(cluster).encode(), entry.oid))
    wanted = [(path.decode(), each.oid) for path, each in files if path.startswith(f"{above}/".encode())]
    if not wanted:
        raise SynclineError("NOT_FOUND", f"{tip.oid} on {branch.name} has nothing of {part}")
    copy = _Copy(layout, place, key)
    for at_ in range(0, len(wanted), _PORTION):
        portion = wanted[at_ : at_ + _PORTION]
        with branch.blobs([oid for _, oid in portion]) as blobs:
            for (path, oid), blob in zip(portion, blobs, strict=True):
                copy.one(path, oid, blob)
    return Restored(tip.oid, len(wanted), copy.bytes, copy.decrypted)


class _Copy:
    def __init__(self, layout: Layout, place: Place, key: str | None) -> None:
        self._layout = layout
        self._place = place
        self._key = key
        self.bytes = 0
        self.decrypted = 0

    def one(self, path: str, oid: str, blob: Blob) -> None:
        inner = self._layout.key_of(path).removeprefix(self._layout.prefix)
        # Somebody else may have put into the branch what we would not.
        problem = problem_of(inner)
        if problem is not None:
            raise SynclineError("PATH_REFUSED", f"{shown(inner)} {problem}")
        expected, chunks = oid, _proved(blob, oid, path)
        if self._key is not None and blob.size <= 2 * LARGEST:
            data = b"".join(chunks)
            if data.startswith(MAGIC):
                data = unseal(self._key, path, data)
                self.decrypted += 1
            expected, chunks = blob_id(data), iter([data])
        self._place.write(inner, chunks)
        if self._place.content_id(inner) != expected:
            raise SynclineError("DIGEST_MISMATCH", f"{shown(inner)} at {self._place} is not what {oid} is")
        self.bytes += blob.size


def _proved(blob: Blob, oid: str, path: str) -> Iterator[bytes]:
    """The chunks, hashed as they pass."""
    digest = blob_hash(blob.size)
    for chunk in blob.chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != oid:
        raise SynclineError("DIGEST_MISMATCH", f"the bytes of {shown(path)} are not those of {oid}")
