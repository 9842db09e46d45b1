"""A folder of this machine as a target for files, with the IDs that git gives their content as fingerprints."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from syncline.clients.folder.directory import Directory
from syncline.clients.git.objects import blob_hash
from syncline.clients.http.listings import Odd, OnOdd, refuse
from syncline.errors import CodeName, SynclineError

_CHUNK: Final = 1 << 20


class Folder:
    """Files below `root`. No link below it is followed: see :class:`syncline.clients.folder.directory.Directory`.

    Only regular files count as files. What stands in the place of one (a link, a pipe) is left as it is, unless
    `replaces` is set: then it is replaced itself.
    """

    def __init__(self, root: Path, *, replaces: bool = False) -> None:
        self._directory = Directory(root)
        self._replaces = replaces

    def __str__(self) -> str:
        return str(self._directory.root)

    def write(self, path: str, chunks: Iterable[bytes]) -> str:
        """Write a file, whole or not at all, and return its fingerprint. Raises what the directory and the chunks raise."""
        self._check(path)
        with self._directory.replace(path) as file:
            for chunk in chunks:
                file.write(chunk)
        with self._directory.open(path) as written:
            return _hash(written)

    def mode(self, path: str) -> int | None:
        """Return the kind and mode (`st_mode`) of what is at `path`, or None if nothing is.

        Nothing is at a path that has a link or a file in the place of a folder.
        """
        try:
            status = self._directory.stat(path)
        except SynclineError as error:
            if not error.is_any("LINK_REFUSED", "PATH_COLLIDES"):
                raise
            return None
        return None if status is None else status.st_mode

    def fingerprint(self, path: str) -> str | None:
        """Return the fingerprint of the file at `path`, read once more, or None if no regular file is there."""
        mode = self.mode(path)
        if mode is None or not stat.S_ISREG(mode):
            return None
        try:
            with self._directory.open(path) as file:
                return _hash(file)
        except FileNotFoundError:
            return None

    def before(self, path: str) -> str | None:
        """Return the content ID of what a write to `path` would replace: None for nothing, "" for what is not a file.

        Raises why nothing can be written there.
        """
        status = self._directory.stat(path)
        if status is None:
            return None
        if stat.S_ISDIR(status.st_mode):
            raise SynclineError("PATH_COLLIDES", f"{path!a} in {self} is a folder, not a file")
        return self.content_id(path)

    def content_id(self, path: str) -> str:
        """Return the ID that git gives what a file holds, or "" if no regular file is there."""
        return self.fingerprint(path) or ""

    def listing(self, prefix: str, odd: OnOdd = refuse) -> Iterator[tuple[str, str]]:
        """Yield every file below a folder with its fingerprint. Names that are not UTF-8 are left out: none is ours.

        A file that the system does not let us read is an odd entry.
        """
        for path, status in self._directory.walk(prefix):
            if not (stat.S_ISREG(status.st_mode) and _is_text(path)):
                continue
            try:
                found = self.fingerprint(path)
            except SynclineError as error:
                if error.code.name != "FILE_REFUSED":
                    raise
                odd(Odd(str(self), path, error))
                continue
            if found is not None:
                yield path, found

    def tops(self) -> list[str]:
        """Return the names of the folders that lie directly in it."""
        return [name for name in self._directory.folders() if _is_text(name)]

    def remove(self, path: str) -> None:
        """Remove a file, and the folders that are empty then."""
        self._check(path)
        self._directory.remove(path)

    def _check(self, path: str) -> None:
        """Raise LINK_REFUSED or PATH_COLLIDES if something at `path` is to stay that is no regular file."""
        mode = None if self._replaces else self.mode(path)
        if mode is not None and not stat.S_ISREG(mode):
            code: CodeName = "LINK_REFUSED" if stat.S_ISLNK(mode) else "PATH_COLLIDES"
            raise SynclineError(code, f"{path!a} in {self} is not a regular file")


def _hash(file: BinaryIO) -> str:
    digest = blob_hash(file.seek(0, 2))
    file.seek(0)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _is_text(name: str) -> bool:
    """Return True if a name of this machine is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
