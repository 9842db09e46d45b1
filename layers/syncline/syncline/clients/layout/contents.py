"""The contents of an OCI image layout (https://github.com/opencontainers/image-spec/blob/main/image-layout.md).

``oci-layout`` has the version, ``index.json`` lists the images, and ``blobs/<algorithm>/<digest>`` has everything else. An
image's name is the annotation ``org.opencontainers.image.ref.name``: a tag, or a full reference such as ``team/app:v1``.
Images that Docker and containerd saved have their full name in another annotation. A layout is a folder or a tar file.
"""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

from syncline.clients.folder.directory import Directory
from syncline.clients.layout.tar import TarArchive, damaged
from syncline.clients.registry.manifest import Descriptor
from syncline.clients.registry.reference import parse_digest
from syncline.errors import SynclineError

INDEX: Final = "index.json"
MARKER: Final = "oci-layout"
VERSION: Final = "1.0.0"
REF_NAME: Final = "org.opencontainers.image.ref.name"
CONTAINERD_NAME: Final = "io.containerd.image.name"
_CHUNK: Final = 1 << 16
LARGEST_JSON: Final = 64 * 1024 * 1024
"""Bytes of an ``index.json`` at most."""


class Name(NamedTuple):
    """The name of an image: a repository, empty if the name is a tag only, and a tag."""

    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Name:
        """Return the parts of a name; a colon before a slash belongs to a host."""
        repository, colon, tag = text.rpartition(":")
        return cls(repository, tag) if colon and "/" not in tag else cls("", text)

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.repository else self.tag


class StoredBlob(Protocol):
    """A blob in a layout or an archive."""

    @property
    def size(self) -> int: ...

    def open(self) -> BinaryIO: ...


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """An entry of an index of images, as it is written there."""

    value: Mapping[str, Any]
    descriptor: Descriptor

    @classmethod
    def parse(cls, value: Any, where: str) -> IndexEntry:
        """Return an entry. Raises ARCHIVE_INVALID."""
        try:
            digest, size = parse_digest(value["digest"]), value["size"]
            media_type, annotations = str(value.get("mediaType") or ""), value.get("annotations") or {}
            if not isinstance(size, int) or size < 0 or not isinstance(annotations, dict):
                raise TypeError  # noqa: TRY301 - reported below
        except (KeyError, TypeError, AttributeError):
            raise damaged(f"{where}: an entry of {INDEX} is not a descriptor") from None
        except SynclineError as error:
            raise damaged(f"{where}: an entry of {INDEX} has an invalid digest ({error.what})") from None
        return cls(value, Descriptor(digest, size, media_type))

    @property
    def names(self) -> list[Name]:
        """The names of the image, the full one first."""
        annotations = self.value.get("annotations") or {}
        texts = [annotations.get(key) for key in (CONTAINERD_NAME, REF_NAME)]
        return [Name.parse(text) for text in texts if isinstance(text, str) and text]


@dataclass(slots=True)
class Contents:
    """The index of a layout, without its blobs."""

    entries: list[IndexEntry] = field(default_factory=list)

    @classmethod
    def parse(cls, marker: bytes, index: bytes, where: str) -> Contents:
        """Return the contents. Raises ARCHIVE_INVALID."""
        version = _object(marker, where, MARKER).get("imageLayoutVersion")
        if version != VERSION:
            raise damaged(f"{where} is a layout of the version {str(version)[:40]!r}; only {VERSION} is known")
        entries = _object(index, where, INDEX).get("manifests")
        if not isinstance(entries, list):
            raise damaged(f"{where}: {INDEX} has no list of manifests")
        return cls([IndexEntry.parse(entry, where) for entry in entries])

    def to_json(self) -> bytes:
        """Return the content of ``index.json``."""
        value = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [each.value for each in self.entries],
        }
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _object(text: bytes, where: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise damaged(f"{where}: {name} is not a JSON object")
    return value


def blob_path(digest: str) -> str:
    """Return the path of a blob in a layout. Raises REFERENCE_INVALID."""
    return f"blobs/{parse_digest(digest).replace(':', '/')}"


class LayoutFiles(Protocol):
    """The files of a layout."""

    def find(self, path: str) -> StoredBlob | None: ...

    def names(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class _FolderFile:
    directory: Directory
    path: str
    size: int

    def open(self) -> BinaryIO:
        return self.directory.open(self.path)


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """The files of a folder. Symbolic links are refused."""

    directory: Directory

    def find(self, path: str) -> StoredBlob | None:
        status = self.directory.stat(path)
        if status is None:
            return None
        if stat.S_ISLNK(status.st_mode):
            raise SynclineError("LINK_REFUSED", f"{self.directory.root}/{path} is a symbolic link")
        if not stat.S_ISREG(status.st_mode):
            raise SynclineError("FILE_REFUSED", f"{self.directory.root}/{path} is not a regular file")
        return _FolderFile(self.directory, path, status.st_size)

    def names(self) -> list[str]:
        return [path for path, _ in self.directory.walk()]


@dataclass(frozen=True, slots=True)
class _TarFile:
    archive: TarArchive
    name: str
    size: int

    def open(self) -> BinaryIO:
        member = self.archive.find(self.name)
        assert member is not None
        return self.archive.open(member)


@dataclass(frozen=True, slots=True)
class TarFiles:
    """The files of a tar file."""

    archive: TarArchive

    def find(self, path: str) -> StoredBlob | None:
        member = self.archive.find(path)
        return None if member is None else _TarFile(self.archive, path, member.size)

    def names(self) -> list[str]:
        return [*self.archive.members, *self.archive.links]


def files_at(path: Path) -> LayoutFiles:
    """Return the files of a folder or of a tar file. Raises SOURCE_ABSENT and the errors of :meth:`TarArchive.read`."""
    if path.is_dir():
        return FolderFiles(Directory(path))
    return TarFiles(TarArchive.read(path))


def read_file(files: LayoutFiles, path: str, where: str, limit: int = LARGEST_JSON) -> bytes:
    """Return the content of a small file. Raises ARCHIVE_INVALID if it is absent or larger than ``limit``."""
    found = files.find(path)
    if found is None:
        raise damaged(f"{where} has no {path}")
    if found.size > limit:
        raise damaged(f"{where}: {path} has {found.size} bytes, more than the {limit} that are read")
    content = bytearray()
    with found.open() as file:
        # To its end: another process may have replaced the file by a longer one since its size was read.
        while len(content) <= limit and (data := file.read(_CHUNK)):
            content += data
    if len(content) > limit:
        raise damaged(f"{where}: {path} has more than the {limit} bytes that are read")
    return bytes(content)


@dataclass(frozen=True, slots=True)
class MemoryBlob:
    """A blob in memory."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def open(self) -> BinaryIO:
        return io.BytesIO(self.content)
