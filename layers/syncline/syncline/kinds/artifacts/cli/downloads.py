"""The folder of downloads for an image tag, with metadata and upload plan, for the step-by-step commands."""

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
class DownloadFolder:
    """The folder of one image tag below the folder of downloads. Links in it are never followed."""

    directory: Directory
    tag: str

    @classmethod
    def of(cls, downloads: Path, tag: str) -> DownloadFolder:
        """Return the folder of a tag; raises REFERENCE_INVALID for an invalid tag, which could lead outside."""
        return cls(Directory(downloads), parse_tag(tag))

    def __str__(self) -> str:
        return str(self.directory.root / self.tag)

    def path(self, name: str) -> str:
        return f"{self.tag}/{name}"

    def read(self, name: str, made_by: str) -> dict[str, Any]:
        """Return the content of a JSON file. Raises USAGE if the previous command has not written it."""
        try:
            with self.directory.open(self.path(name)) as file:
                return dict(json.load(file))
        except FileNotFoundError:
            raise SynclineError("USAGE", f"{self}/{name} does not exist; run `{made_by}` first") from None
        except (ValueError, TypeError):
            raise SynclineError("USAGE", f"{self}/{name} is not a JSON object; run `{made_by}` again") from None

    def write(self, name: str, value: dict[str, Any]) -> None:
        with self.directory.replace(self.path(name)) as file:
            file.write(json.dumps(value, indent=2).encode() + b"\n")

    def digest(self, name: str) -> str | None:
        """Return the digest of a file, None if it does not exist."""
        with suppress(FileNotFoundError), self.directory.open(self.path(name)) as file:
            return f"sha256:{_hashed(file).hexdigest()}"
        return None

    def remove_plan(self) -> None:
        self.directory.remove(self.path(PLAN))

    def remove(self) -> bool:
        """Remove the folder; return False if it does not exist."""
        return self.directory.remove_tree(self.tag)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A downloaded file, with the interface of a remote file."""

    folder: DownloadFolder
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


def download_file(
    content: RemoteFile, folder: DownloadFolder, name: str, digest: str | None, *, anew: bool
) -> tuple[int, str]:
    """Download a file, resuming a partial download, and rename it when it is complete.

    With `anew`, or if GitHub reports no digest to check it against, a partial download is discarded. Return the bytes
    received now and the file's digest. Raises DIGEST_MISMATCH if the digest differs from GitHub's.
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
        raise SynclineError("DIGEST_MISMATCH", f"{content.name} has the digest {found}, GitHub reports {digest}")
    directory.rename(part, folder.path(name))
    return content.size - begun, found


def _hashed(file: BinaryIO) -> Any:
    hash_ = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        hash_.update(chunk)
    return hash_
