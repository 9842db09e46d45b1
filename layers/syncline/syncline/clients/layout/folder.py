"""An OCI layout in a folder that images are written to.

Each file is written under a temporary name, its bytes are hashed as they pass, and it is renamed when they are right. An
interrupted copy leaves complete blobs only, and the next one continues with them. ``index.json`` names an image once all
its parts are there.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

from syncline.clients.folder.directory import Directory
from syncline.clients.layout.contents import (
    INDEX,
    MARKER,
    REF_NAME,
    VERSION,
    Contents,
    FolderFiles,
    IndexEntry,
    Name,
    StoredBlob,
    blob_path,
    read_file,
)
from syncline.clients.layout.reader import CHUNK, LayoutReader
from syncline.clients.layout.tar import TarWriter, damaged
from syncline.clients.registry.client import TagTakenError
from syncline.clients.registry.manifest import Manifest
from syncline.clients.registry.reference import hash_matches, hasher
from syncline.clients.registry.store import BlobWriter
from syncline.errors import SynclineError

UPLOADS: Final = ".syncline-uploads"
"""Folder with blobs that are written in pieces."""
SUMS: Final = "sha256sums"
LOCK: Final = ".syncline-lock"
_INTERVAL: Final = 2.0
"""Seconds between two writes of the index while images are added."""


class LayoutFolder(LayoutReader):
    """A layout in a folder, which is created if it does not exist. Safe for concurrent use by threads of one process.

    Call :meth:`flush` at the end: the index is written from time to time only.
    """

    own_files: ClassVar[frozenset[str]] = frozenset({LOCK})
    """Files that a new layout may have already."""

    def __init__(self, path: Path, name: str) -> None:
        """Raises ARCHIVE_INVALID if there is something other than a layout, and the errors of the folder."""
        self.directory = Directory(path)
        self._files = FolderFiles(self.directory)
        self._lock = threading.RLock()
        self._written = 0.0
        self._is_changed = False
        contents = Contents()
        # The index first, which is written last: a marker without it is that of a layout that is being begun.
        if self._files.find(INDEX) is not None:
            contents = Contents.parse(read_file(self._files, MARKER, name), read_file(self._files, INDEX, name), name)
        elif (
            self._files.find(MARKER) is None
            and any(path not in self.own_files for path, _ in self.directory.walk())
            and self._files.find(MARKER) is None  # another process may have written it meanwhile
        ):
            raise damaged(f"{name} is not empty and no OCI layout; name another folder")
        super().__init__(name, contents)

    def find(self, digest: str) -> StoredBlob | None:
        return self._files.find(blob_path(digest))

    def begin_upload(self, repository: str) -> BlobWriter:  # noqa: ARG002 - blobs belong to all repositories
        if self._files.find(INDEX) is None:
            self.save()  # so that what an interrupted copy leaves is a layout
        return _FolderUpload(self.directory, f"{UPLOADS}/{secrets.token_hex(8)}", 0)

    def resume_upload(self, repository: str, state: Mapping[str, Any]) -> BlobWriter:  # noqa: ARG002
        return _FolderUpload(self.directory, str(state["target"]), int(state["offset"]))

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> bool:
        if self.find(manifest.digest) is None:
            with self.directory.replace(blob_path(manifest.digest)) as file:
                file.write(manifest.body)
        if ":" not in reference:
            self._set(Name(repository, reference), manifest)
        elif manifest.subject is not None:
            with self._lock:
                if manifest.digest not in self._by_subject().get(manifest.subject.digest, {}):
                    self._append(manifest, {})
                    self._note_subject(manifest)
        return True

    def put_tag(
        self, repository: str, tag: str, manifest: Manifest, expected: str | Manifest | None, *, overwrite: bool = False
    ) -> str | None:
        with self._lock:
            before = self.manifest_digest(repository, tag)
            if before is not None and manifest.has_digest(before):
                return None
            known = expected.digest if isinstance(expected, Manifest) else expected
            if before is not None and not overwrite and known != before:
                what = f"{self.host}: {Name(repository, tag)} changed to {before} while {manifest.digest} was copied"
                raise TagTakenError(before, what)
            self.put_manifest(repository, tag, manifest)
            return before

    def flush(self) -> None:
        """Write the index if it changed, and remove unfinished uploads."""
        self.save()
        self.directory.remove_tree(UPLOADS)

    def save(self) -> None:
        """Write the index if it changed."""
        with self._lock:
            if self._is_changed or self._files.find(INDEX) is None:
                self._write()

    def _set(self, name: Name, manifest: Manifest) -> None:
        """Point a name at a manifest, in place of another one."""
        with self._lock:
            if (old := self._tags.pop(name, None)) is not None:
                self._contents.entries.remove(old)
            self._tags[name] = self._append(manifest, {"annotations": {REF_NAME: str(name)}})

    def _append(self, manifest: Manifest, more: Mapping[str, Any]) -> IndexEntry:
        value = {"mediaType": manifest.media_type, "digest": manifest.digest, "size": len(manifest.body), **more}
        entry = IndexEntry.parse(value, self.host)
        self._contents.entries.append(entry)
        self._is_changed = True
        if time.monotonic() - self._written > _INTERVAL:
            self._write()
        return entry

    def _write(self) -> None:
        self.directory.remove(SUMS)  # it would be wrong
        with self.directory.replace(MARKER) as file:
            file.write(json.dumps({"imageLayoutVersion": VERSION}).encode())
        with self.directory.replace(INDEX) as file:
            file.write(self._contents.to_json())
        self._written, self._is_changed = time.monotonic(), False


class _FolderUpload:
    """A blob that is written to a layout, at once or in pieces."""

    def __init__(self, directory: Directory, target: str, offset: int) -> None:
        self._directory = directory
        self._target = target
        self.offset = offset

    def put(self, digest: str, content: bytes | Iterable[bytes], size: int) -> None:
        hash_, written = hasher(digest), 0
        with self._directory.replace(blob_path(digest)) as file:
            for chunk in (content,) if isinstance(content, bytes) else content:
                hash_.update(chunk)
                written += len(chunk)
                file.write(chunk)
            if written != size or not hash_matches(digest, hash_):
                raise SynclineError("DIGEST_MISMATCH", f"the {written} bytes for {digest} have another digest")

    def write(self, chunks: Iterable[bytes], total: int | None = None) -> int:
        del total
        with self._directory.append(self._target) as file:
            file.truncate(self.offset)
            for chunk in chunks:
                file.write(chunk)
                self.offset += len(chunk)
        return self.offset

    def status(self) -> int:
        found = self._directory.stat(self._target)
        if self.offset and (found is None or found.st_size < self.offset):
            raise SynclineError("UPLOAD_LOST", f"{self._directory.root} no longer has an unfinished blob")
        return self.offset

    def finish(self, digest: str) -> None:
        hash_ = hasher(digest)
        with self._directory.append(self._target) as file:
            file.seek(0)
            while data := file.read(CHUNK):
                hash_.update(data)
        if not hash_matches(digest, hash_):
            self.cancel()
            raise SynclineError("DIGEST_MISMATCH", f"the bytes written for {digest} have another digest")
        self._directory.rename(self._target, blob_path(digest))

    def cancel(self) -> None:
        self._directory.remove(self._target)

    def state(self) -> dict[str, Any]:
        return {"target": self._target, "offset": self.offset}


def sums_of(directory: Directory) -> Iterator[tuple[str, str]]:
    """Yield path and sha256 of each file of a layout, sorted, without the file of the sums. Blobs have theirs in their names."""
    for path, _ in sorted(directory.walk()):
        folder, _, name = path.rpartition("/")
        if folder == "blobs/sha256":
            yield path, name
        elif not path.startswith(UPLOADS) and path not in (SUMS, LOCK):
            hash_ = hashlib.sha256()
            with directory.open(path) as file:
                while data := file.read(CHUNK):
                    hash_.update(data)
            yield path, hash_.hexdigest()


def write_sums(directory: Directory) -> None:
    """Write the sums of all files of a layout, in the form that ``sha256sum --check`` reads."""
    with directory.replace(SUMS) as file:
        for path, digest in sums_of(directory):
            file.write(f"{digest}  {path}\n".encode())


def pack(directory: Directory, file: BinaryIO) -> None:
    """Write a layout as a tar file, the small files first."""
    writer = TarWriter(file)
    paths = sorted(
        (path.startswith("blobs/"), path) for path, _ in directory.walk() if not path.startswith((UPLOADS, LOCK))
    )
    for _, path in paths:
        with directory.open(path) as content:
            writer.add_file(path, content)
    writer.finish()
