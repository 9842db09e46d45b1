"""A folder of this machine as a place for files: written whole or not at all, and never outside of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from syncline.clients.git_failures import disk_full
from syncline.clients.git_objects import blob_hash

_CHUNK: Final = 1 << 20
_TEMPORARY: Final = ".syncline-"


class Folder:
    """Files below ``root``, by paths that have been checked. A fingerprint is the id that git gives the content."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def write(self, path: str, chunks: Iterable[bytes]) -> str:
        """Put a file; its fingerprint. Links on the way are not followed. Raises DISK_FULL, what the chunks raise."""
        target = self._root / path
        with disk_full():
            self._make(target.parent)
            number, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=target.parent)
            try:
                with os.fdopen(number, "wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                    size = file.tell()
                os.replace(name, target)  # noqa: PTH105 - as it is called everywhere
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        return _hash(target, size)

    def _make(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.resolve().is_relative_to(self._root.resolve()):
            raise OSError(f"{folder} leads out of {self._root}")

    def fingerprint(self, path: str) -> str | None:
        """What a file holds now; None if it is not there."""
        target = self._root / path
        if target.is_symlink() or not target.is_file():
            return None
        return _hash(target, target.stat().st_size)

    def content_id(self, path: str) -> str:
        """The id that git gives what a file holds, read once more; "" if it is not there."""
        return self.fingerprint(path) or ""

    def listing(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Every file below a folder with its fingerprint."""
        for place, folders, names in os.walk(self._root / prefix):
            folders.sort()
            for name in sorted(names):
                path = Path(place) / name
                found = None if name.startswith(_TEMPORARY) else self.fingerprint(str(path.relative_to(self._root)))
                if found is not None:
                    yield path.relative_to(self._root).as_posix(), found

    def tops(self) -> list[str]:
        """The folders that lie directly in it."""
        return sorted(each.name for each in self._root.iterdir() if each.is_dir()) if self._root.is_dir() else []

    def remove(self, path: str) -> None:
        """Remove a file, and the folders that are empty then."""
        target = self._root / path
        target.unlink(missing_ok=True)
        for folder in target.parents:
            if folder == self._root or not folder.is_dir() or any(folder.iterdir()):
                return
            folder.rmdir()


def _hash(path: Path, size: int) -> str:
    digest = blob_hash(size)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
