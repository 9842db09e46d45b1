"""A local directory whose symbolic links are never followed.

Every path is opened one component at a time, relative to the descriptor of its parent and with ``O_NOFOLLOW``. So a
folder that is replaced by a link between two calls is refused. Only the root, which the operator named, may be a link.
Files are written to a temporary file in the same folder and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from syncline.errors import SynclineError

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TEMPORARY: Final = re.compile(r"\.syncline-[0-9a-f]{16}")
_MODE: Final = 0o666  # reduced by the process's umask


@dataclass(frozen=True, slots=True)
class Directory:
    """Files below `root`, by relative paths separated by `/`.

    Every method raises PATH_REFUSED for a path with an empty name, `.` or `..`, LINK_REFUSED for a link instead of a
    folder or file, PATH_COLLIDES for a file instead of a folder or the reverse, TARGET_FULL, and FILE_REFUSED with the
    system's reason for any other failure except a missing file.
    """

    root: Path

    def stat(self, path: str) -> os.stat_result | None:
        """Return the status of the entry at `path` without following a link, None if there is none."""
        with contextlib.suppress(FileNotFoundError), self._coded(path), self._parent(path) as (parent, name):
            return os.stat(name, dir_fd=parent, follow_symlinks=False)
        return None

    def open(self, path: str) -> BinaryIO:
        """Open a regular file for reading. Raises FileNotFoundError."""
        with self._coded(path), self._parent(path) as (parent, name):
            # Without O_NONBLOCK, opening a pipe would wait for a writer.
            return self._file(parent, name, os.O_RDONLY | os.O_NONBLOCK, "rb", path)

    def append(self, path: str) -> BinaryIO:
        """Open a regular file for reading and appending. A missing file is created."""
        with self._coded(path), self._parent(path, make=True) as (parent, name):
            return self._file(parent, name, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, "a+b", path)

    @contextlib.contextmanager
    def replace(self, path: str) -> Iterator[BinaryIO]:
        """Yield a temporary file for writing, and replace the file or link at `path` with it when the block ends.

        Missing folders are created. The file gets the permissions of the regular file that it replaces. If the block
        raises, `path` is unchanged.
        """
        with self._coded(path), self._parent(path, make=True) as (parent, name):
            temporary = f".syncline-{secrets.token_hex(8)}"
            number = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE, dir_fd=parent)
            try:
                with os.fdopen(number, "w+b") as file:
                    with contextlib.suppress(FileNotFoundError):
                        before = os.stat(name, dir_fd=parent, follow_symlinks=False)
                        if stat.S_ISREG(before.st_mode):
                            os.fchmod(number, stat.S_IMODE(before.st_mode) & 0o777)
                    yield file
                self._rename(parent, temporary, parent, name, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=parent)
                raise

    def rename(self, old: str, new: str) -> None:
        """Rename the file `old`, replacing the file or link `new`. Missing folders are created."""
        with (
            self._coded(new),
            self._parent(old) as (parent, name),
            self._parent(new, make=True) as (other, new_name),
        ):
            self._rename(parent, name, other, new_name, new)

    def remove(self, path: str) -> bool:
        """Remove a file or link, and the folders above it that become empty. Return False if it does not exist."""
        names = _names(path)
        try:
            with self._coded(path), self._parent(path) as (parent, name):
                try:
                    os.unlink(name, dir_fd=parent)
                except (IsADirectoryError, PermissionError):
                    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                        raise
                    raise SynclineError("PATH_COLLIDES", f"{self._shown(path)} is a folder, not a file") from None
        except FileNotFoundError:
            return False
        for count in range(len(names) - 1, 0, -1):
            try:
                with self._parent("/".join(names[:count])) as (parent, name):
                    os.rmdir(name, dir_fd=parent)
            except (OSError, SynclineError):
                break  # it is not empty, or was changed by others
        return True

    def remove_tree(self, path: str) -> bool:
        """Remove a folder recursively without following links. Return False if it does not exist."""
        try:
            with self._coded(path), self._parent(path) as (parent, name):
                os.close(self._folder(parent, name, path))
                shutil.rmtree(name, dir_fd=parent)
        except FileNotFoundError:
            return False
        return True

    def remove_temporary(self, path: str = "") -> None:
        """Remove what killed calls of :meth:`replace` left below a folder. No other process may write there meanwhile."""
        pending = [path]
        while pending:
            folder = pending.pop()
            for name, status in self._entries(folder):
                inner = f"{folder}/{name}" if folder else name
                if stat.S_ISDIR(status.st_mode):
                    pending.append(inner)
                elif _TEMPORARY.fullmatch(name):
                    self.remove(inner)

    def walk(self, path: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Yield path and status of everything below the folder `path` except folders, without following links.

        Yields nothing if the folder does not exist. Temporary files of :meth:`replace` are left out.
        """
        pending = [path]
        while pending:
            folder = pending.pop()
            below: list[str] = []
            for name, status in self._entries(folder):
                inner = f"{folder}/{name}" if folder else name
                if stat.S_ISDIR(status.st_mode):
                    below.append(inner)
                elif not _TEMPORARY.fullmatch(name):
                    yield inner, status
            pending += reversed(below)

    def folders(self) -> list[str]:
        """Return the names of the folders directly below the root."""
        return [name for name, status in self._entries("") if stat.S_ISDIR(status.st_mode)]

    # -- descriptors ---------------------------------------------------------------------------------------------

    def _entries(self, path: str) -> list[tuple[str, os.stat_result]]:
        """Return the sorted names of a folder with their statuses; nothing if it does not exist."""
        found: list[tuple[str, os.stat_result]] = []
        names = _names(path) if path else []
        with contextlib.suppress(FileNotFoundError), self._coded(path), self._opened(names, path) as folder:
            for name in sorted(os.listdir(folder)):  # noqa: PTH208 - pathlib takes no descriptor
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
        return found

    @contextlib.contextmanager
    def _coded(self, path: str) -> Iterator[None]:
        """Convert an OSError of the block to a SynclineError, except FileNotFoundError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            what = f"{self._shown(path)}: {error.strerror or error}"
            raise SynclineError("TARGET_FULL" if full else "FILE_REFUSED", what) from error

    @contextlib.contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder of `path`; yield its descriptor and the last name of the path."""
        *names, last = _names(path)
        with self._opened(names, path, make=make) as folder:
            yield folder, last

    @contextlib.contextmanager
    def _opened(self, names: list[str], path: str, *, make: bool = False) -> Iterator[int]:
        folder = self._make_root() if make else os.open(self.root, _FOLDER)
        try:
            for name in names:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=folder)
                below = self._folder(folder, name, path)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    def _make_root(self) -> int:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return os.open(self.root, _FOLDER)
        except FileNotFoundError as error:  # from file systems without mkdir, such as /proc
            raise SynclineError("FILE_REFUSED", f"{self.root} cannot be created: {error.strerror}") from None

    def _folder(self, parent: int, name: str, path: str) -> int:
        try:
            return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if _is_link(parent, name):
                raise self._refused(path, name) from None
            raise SynclineError("PATH_COLLIDES", f"{self._shown(path)}: {name!r} is a file, not a folder") from None

    def _file(self, parent: int, name: str, flags: int, kind: str, path: str) -> BinaryIO:
        try:
            number = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._refused(path, name) from None
            if error.errno in (errno.EISDIR, errno.ENXIO):
                raise SynclineError("PATH_COLLIDES", f"{self._shown(path)} is not a regular file") from None
            raise
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise SynclineError("PATH_COLLIDES", f"{self._shown(path)} is not a regular file")
        return os.fdopen(number, kind)  # type: ignore[return-value]

    def _rename(self, parent: int, name: str, other: int, new_name: str, path: str) -> None:
        try:
            os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=other)
        except (IsADirectoryError, NotADirectoryError, FileExistsError):
            raise SynclineError("PATH_COLLIDES", f"{self._shown(path)} is a folder, not a file") from None

    def _refused(self, path: str, name: str) -> SynclineError:
        return SynclineError("LINK_REFUSED", f"{self._shown(path)}: {name!r} is a symbolic link")

    def _shown(self, path: str) -> str:
        return f"{path!a} in {self.root}"


def _names(path: str) -> list[str]:
    names = path.split("/")
    if any(name in ("", ".", "..") or "\0" in name for name in names):
        raise SynclineError("PATH_REFUSED", f"{path!a} has an empty name, '.' or '..'")
    return names


def _is_link(parent: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
