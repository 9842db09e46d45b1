"""The step-by-step way's folder: what was downloaded for an image tag, and what is to be done with it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from syncline.clients.github import RemoteFile
from syncline.clients.reference import parse_tag
from syncline.errors import SynclineError

METADATA: Final = "metadata.json"
PLAN: Final = "upload-plan.json"
_CHUNK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that was downloaded, read as a download is."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        with self.path.open("rb") as file:
            file.seek(start)
            yield self._chunks(file.read, end - start)

    def _chunks(self, read: Any, left: int) -> Iterator[bytes]:
        while left and (chunk := read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one image tag below that of all downloads."""

    path: Path

    @classmethod
    def of(cls, downloads: Path, tag: str) -> Folder:
        """Raises REFERENCE_INVALID for what is no tag, so that no name leads anywhere else."""
        return cls(downloads / parse_tag(tag))

    def read(self, name: str, made_by: str) -> dict[str, Any]:
        """A JSON file in it. Raises USAGE where the step before has not been taken."""
        try:
            value = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise SynclineError("USAGE", f"{self.path / name} is not there: `{made_by}` makes it") from None
        except ValueError:
            raise SynclineError("USAGE", f"{self.path / name} is no JSON; `{made_by}` makes it anew") from None
        return dict(value)

    def write(self, name: str, value: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(json.dumps(value, indent=2) + "\n")

    def remove(self, name: str = "") -> bool:
        """Remove it, or one file of it; whether there was anything."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
        else:
            return False
        return True


def download(content: RemoteFile, path: Path, digest: str | None) -> int:
    """Bring a download to disk, going on with what is there of it; the bytes that came.

    Raises DIGEST_MISMATCH where they are not those that GitHub has.
    """
    part = path.with_name(f"{path.name}.part")
    begun = part.stat().st_size if part.is_file() else 0
    begun = begun if begun <= content.size else 0
    hash_ = hashlib.sha256()
    if begun:
        with part.open("rb") as file:
            while chunk := file.read(_CHUNK):
                hash_.update(chunk)
    with part.open("ab" if begun else "wb") as file, content.open(begun, content.size) as chunks:
        for chunk in chunks:
            hash_.update(chunk)
            file.write(chunk)
    if digest is not None and digest != f"sha256:{hash_.hexdigest()}":
        part.unlink()
        raise SynclineError("DIGEST_MISMATCH", f"{content.name} does not have the digest that GitHub says")
    part.rename(path)
    return content.size - begun
