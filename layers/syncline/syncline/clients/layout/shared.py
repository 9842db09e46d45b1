"""Layouts and archives that several processes use at the same time, as the functions of an engine do.

A reader notices when another process has changed the index, and reads it again. A writer changes the index under a lock of
the folder, so that no entry of another process is lost; blobs need none, since their names are their digests.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from syncline.clients.http.listings import LISTING_START, InvalidEntry, ListingPage, ListingPosition, OnInvalid, refuse
from syncline.clients.layout.contents import INDEX
from syncline.clients.layout.docker import DockerArchive
from syncline.clients.layout.folder import LOCK, LayoutFolder
from syncline.clients.layout.reader import Layout, LayoutReader
from syncline.clients.registry.manifest import Manifest
from syncline.clients.registry.reference import parse_repository
from syncline.clients.registry.store import BlobWriter, ImageStore
from syncline.errors import SynclineError


class SharedReader:
    """A layout or archive as it is now: it is read again when its file has changed."""

    def __init__(self, read: Callable[[], LayoutReader], index: Path) -> None:
        self._read = read
        self._index = index
        self._state: tuple[tuple[int, ...], LayoutReader] | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)

    @property
    def current(self) -> LayoutReader:
        """The content as it is now. Raises the errors of reading it."""
        with self._lock:
            stamp = self._stamp()
            if self._state is None or self._state[0] != stamp:
                self._state = (stamp, self._read())
            return self._state[1]

    def catalog_pages(
        self, on_invalid: OnInvalid = refuse, start: ListingPosition = LISTING_START
    ) -> Iterator[ListingPage[list[str]]]:
        """Yield the repositories; one that no registry can have is an invalid entry, such as that of a name without one."""
        for names, position in self.current.catalog_pages(on_invalid, start):
            found: list[str] = []
            for name in names:
                try:
                    found.append(parse_repository(name))
                except SynclineError as error:
                    where = f"repository {name!r}" if name else "the images without a repository in their names"
                    what = f"{where} of {self.current.host} cannot be synced, only copied with `syncline copy`"
                    invalid = SynclineError("REFERENCE_INVALID", f"{what} ({error.what})" if name else what)
                    on_invalid(InvalidEntry(where, None, invalid))
            yield ListingPage(found, position)

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self._index.stat()
        except OSError:
            return ()
        return (found.st_ino, found.st_size, found.st_mtime_ns)


class SharedFolder(SharedReader):
    """A layout in a folder that several processes write."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(lambda: LayoutFolder(path, name), path / INDEX)
        self._path = path
        self._name = name

    def begin_upload(self, repository: str) -> BlobWriter:
        if not (self._path / INDEX).exists():
            with self._changed():
                pass  # the index is written
        return self.current.begin_upload(repository)

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> bool:
        with self._changed() as folder:
            return folder.put_manifest(repository, reference, manifest)

    def put_tag(
        self, repository: str, tag: str, manifest: Manifest, expected: str | Manifest | None, *, overwrite: bool = False
    ) -> str | None:
        with self._changed() as folder:
            return folder.put_tag(repository, tag, manifest, expected, overwrite=overwrite)

    @contextmanager
    def _changed(self) -> Iterator[LayoutFolder]:
        """Yield the layout as it is now, and write its index when the block ends."""
        lock = LayoutFolder(self._path, self._name).directory.append(LOCK)
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            folder = LayoutFolder(self._path, self._name)
            folder.save()  # a new layout gets its marker first: without one, others would refuse the folder
            yield folder
            folder.save()


def shared_reader(transport: str, path: Path, name: str) -> ImageStore:
    """Return a store for a layout in a folder (``oci``) or file (``oci-archive``), or a ``docker-archive``."""
    if transport == "docker-archive":
        return cast("ImageStore", SharedReader(lambda: DockerArchive(path, name), path))
    index = path / INDEX if transport == "oci" else path
    return cast("ImageStore", SharedReader(lambda: Layout.at(path, name), index))


def shared_folder(path: Path, name: str) -> ImageStore:
    """Return a store for a layout in a folder, which is created if it does not exist."""
    return cast("ImageStore", SharedFolder(path, name))
