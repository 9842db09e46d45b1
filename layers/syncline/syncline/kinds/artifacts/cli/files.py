"""The folder of downloads and plans of an image tag, for the commands that work step by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from syncline.clients.folder.directory import Directory
from syncline.clients.github.client import RemoteFile
from syncline.clients.registry.reference import parse_tag
from syncline.errors import SynclineError

METADATA: Final = "metadata.json"
PLAN: Final = "upload-plan.json"
_CHUNK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one image tag, below that of all downloads. Links in it are not followed."""

    directory: Directory
    tag: str

    @classmethod
    def of(cls, downloads: Path, tag: str) -> Folder:
        """Raise REFERENCE_INVALID for an invalid tag, so that no name leads out of the folder."""
        return cls(Directory(downloads), parse_tag(tag))

    def __str__(self) -> str:
        return str(self.directory.root / self.tag)

    def path(self, name: str) -> str:
        return f"{self.tag}/{name}"

    def read(self, name: str, made_by: str) -> dict[str, Any]:
        """Return a JSON file of the folder. Raises USAGE if the command that writes it was not run."""
        try:
            with self.directory.open(self.path(name)) as file:
                return dict(json.load(file))
        except FileNotFoundError:
            raise SynclineError("USAGE", f"{self}/{name} does not exist: `{made_by}` makes it") from None
        except (ValueError, TypeError):
            raise SynclineError("USAGE", f"{self}/{name} is not a JSON object; `{made_by}` makes it anew") from None

    def write(self, name: str, value: dict[str, Any]) -> None:
        with self.directory.replace(self.path(name)) as file:
            file.write(json.dumps(value, indent=2).encode() + b"\n")

    def digest(self, name: str) -> str | None:
        """Return the digest of a file in the folder, None if there is none."""
        with suppress(FileNotFoundError), self.directory.open(self.path(name)) as file:
            return f"sha256:{_hashed(file).hexdigest()}"
        return None

    def forget_plan(self) -> None:
        self.directory.remove(self.path(PLAN))

    def remove(self) -> bool:
        """Remove the folder; return False if it does not exist."""
        return self.directory.remove_tree(self.tag)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A downloaded file, as a source of bytes."""

    folder: Folder
    name: str

    @property
    def size(self) -> int:
        status = self.folder.directory.stat(self.folder.path(self.name))
        if status is None:
            what = (
                f"{self.folder}/{self.name} does not exist; `syncline artifacts download {self.folder.tag}` fetches it"
            )
            raise SynclineError("USAGE", what)
        return status.st_size

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        with self.folder.directory.open(self.folder.path(self.name)) as file:
            file.seek(start)
            yield self._chunks(file, end - start)

    def _chunks(self, file: BinaryIO, left: int) -> Iterator[bytes]:
        while left and (chunk := file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A downloaded file: the bytes received now, its size and its digest."""

    came: int
    size: int
    digest: str


def download(content: RemoteFile, folder: Folder, name: str, digest: str | None, *, anew: bool) -> Downloaded:
    """Download a file, continuing a part on disk, and rename it when it is complete.

    With `anew`, or if GitHub gives no digest to check a part against, the download begins at the first byte. Raises
    DIGEST_MISMATCH if the content differs from GitHub's.
    """
    part, directory = folder.path(f"{name}.part"), folder.directory
    if anew or digest is None:
        directory.remove(part)
    with directory.append(part) as file:
        file.seek(0)
        hash_ = _hashed(file)
        begun = file.tell()
        if begun > content.size:
            file.truncate(0)
            hash_, begun = hashlib.sha256(), 0
        with content.open(begun, content.size) as chunks:
            for chunk in chunks:
                hash_.update(chunk)
                file.write(chunk)
    found = f"sha256:{hash_.hexdigest()}"
    if digest not in (None, found):
        directory.remove(part)
        raise SynclineError("DIGEST_MISMATCH", f"{content.name} has the digest {found}, and GitHub says {digest}")
    directory.rename(part, folder.path(name))
    return Downloaded(content.size - begun, content.size, found)


def _hashed(file: BinaryIO) -> Any:
    hash_ = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        hash_.update(chunk)
    return hash_
