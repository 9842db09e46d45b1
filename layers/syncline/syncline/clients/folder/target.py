"""A local folder as a target for files, with git blob IDs as fingerprints."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from syncline.clients.folder.directory import Directory
from syncline.clients.git.objects import blob_hash
from syncline.clients.http.listings import InvalidEntry, OnInvalid, refuse
from syncline.errors import CodeName, SynclineError

_CHUNK: Final = 1 << 20


class FolderTarget:
    """Files below `root`, without following links (:class:`syncline.clients.folder.directory.Directory`).

    Only regular files count. Any other entry at a path (a link, a pipe) is replaced if `replaces`, and otherwise kept.
    """

    def __init__(self, root: Path, *, replaces: bool = False) -> None:
        self._directory = Directory(root)
        self._replaces = replaces

    def __str__(self) -> str:
        return str(self._directory.root)

    def write(self, path: str, chunks: Iterable[bytes]) -> str:
        """Write a file atomically and return its fingerprint. Raises the errors of the directory and of the chunks."""
        self._check(path)
        with self._directory.replace(path) as file:
            for chunk in chunks:
                file.write(chunk)
        with self._directory.open(path) as written:
            return _hash(written)

    def mode(self, path: str) -> int | None:
        """Return the `st_mode` of the entry at `path`, None if there is none, or a link or file instead of a folder."""
        try:
            status = self._directory.stat(path)
        except SynclineError as error:
            if not error.is_any("LINK_REFUSED", "PATH_COLLIDES"):
                raise
            return None
        return None if status is None else status.st_mode

    def fingerprint(self, path: str) -> str | None:
        """Read the file at `path` and return its fingerprint, None if it is no regular file."""
        mode = self.mode(path)
        if mode is None or not stat.S_ISREG(mode):
            return None
        try:
            with self._directory.open(path) as file:
                return _hash(file)
        except FileNotFoundError:
            return None

    def before(self, path: str) -> str | None:
        """Return the content ID of the file that a write to `path` replaces: None for no file, "" for no regular file.

        Raises the error that prevents a write.
        """
        status = self._directory.stat(path)
        if status is None:
            return None
        if stat.S_ISDIR(status.st_mode):
            raise SynclineError("PATH_COLLIDES", f"{path!a} in {self} is a folder, not a file")
        return self.content_id(path)

    def content_id(self, path: str) -> str:
        """Return the git blob ID of a file, "" if it is no regular file."""
        return self.fingerprint(path) or ""

    def listing(self, prefix: str, on_invalid: OnInvalid = refuse) -> Iterator[tuple[str, str]]:
        """Yield every file below a folder with its fingerprint.

        Names that are not UTF-8 are left out, since Syncline writes none. An unreadable file is an invalid entry.
        """
        for path, status in self._directory.walk(prefix):
            if not (stat.S_ISREG(status.st_mode) and _is_text(path)):
                continue
            try:
                found = self.fingerprint(path)
            except SynclineError as error:
                if error.code.name != "FILE_REFUSED":
                    raise
                on_invalid(InvalidEntry(str(self), path, error))
                continue
            if found is not None:
                yield path, found

    def top_folders(self) -> list[str]:
        """Return the names of the folders directly below the root."""
        return [name for name in self._directory.folders() if _is_text(name)]

    def remove(self, path: str) -> None:
        """Remove a file and the folders that become empty."""
        self._check(path)
        self._directory.remove(path)

    def _check(self, path: str) -> None:
        """Raise LINK_REFUSED or PATH_COLLIDES if `path` has an entry to keep that is no regular file."""
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
    """Return True if a file name is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
