"""Tar files that are read at any position, and written in the order of their members.

A file is read once, header by header, before anything of it is used. Only regular files, folders and symbolic links
between members are accepted, as no tool that saves images writes anything else. The headers are parsed by the standard
library; names that do not fit a header are read here, within limits.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import stat
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from syncline.errors import SynclineError

BLOCK: Final = 512
MOST_MEMBERS: Final = 1_000_000
LONGEST_NAME: Final = 64 * 1024
"""Bytes of a member that has the name of the next one."""
_CHUNK: Final = 1024 * 1024
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_FILES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


def damaged(what: str) -> SynclineError:
    """Return the error for an archive or layout whose content is damaged or contradicts itself."""
    return SynclineError("ARCHIVE_INVALID", what)


def refused(what: str) -> SynclineError:
    """Return the error for an archive with unsafe content."""
    return SynclineError("ARCHIVE_REFUSED", what)


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar file: the position of its content, and its size in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TarArchive:
    """The members of a tar file, by their names without a leading ``./``."""

    path: Path
    members: dict[str, TarMember] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> TarArchive:
        """Read the headers of a file.

        Raises SOURCE_ABSENT, FILE_REFUSED, ARCHIVE_INVALID if it is damaged or truncated, and ARCHIVE_REFUSED if it has
        unsafe members.
        """
        archive = cls(path)
        with _opened(path) as file:
            _Headers(file, archive).read()
        return archive

    def find(self, name: str) -> TarMember | None:
        """Return a member, following links between members; None if there is none."""
        for _ in range(8):
            if name not in self.links:
                return self.members.get(name)
            name = self.links[name]
        raise refused(f"{self.path}: the links from {name!a} have no end")

    def open(self, member: TarMember) -> BinaryIO:
        """Open the content of a member."""
        return io.BufferedReader(_Part(_opened(self.path), member))

    def content(self, name: str, limit: int) -> bytes:
        """Return the content of a small member. Raises ARCHIVE_INVALID if it is absent or larger than ``limit``."""
        member = self.find(name)
        if member is None:
            raise damaged(f"{self.path} has no {name}")
        if member.size > limit:
            raise damaged(f"{self.path}: {name} has {member.size} bytes, more than the {limit} that are read")
        with self.open(member) as file:
            return file.read()


def _opened(path: Path) -> BinaryIO:
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        raise SynclineError("SOURCE_ABSENT", f"there is no file {path}") from None
    except OSError as error:
        raise SynclineError("FILE_REFUSED", f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise SynclineError("FILE_REFUSED", f"{path} is not a regular file")
    return file


class _Headers:
    def __init__(self, file: BinaryIO, archive: TarArchive) -> None:
        self._file = file
        self._archive = archive
        self._name = str(archive.path)
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0

    def read(self) -> None:
        self._refuse_compression()
        long_name: str | None = None
        long_link: str | None = None
        long_size: int | None = None
        count = 0
        while (header := self._header()) is not None:
            count += 1
            if count > MOST_MEMBERS:
                raise refused(f"{self._name} has more than {MOST_MEMBERS} members")
            at, size = self._at, header.size
            if size < 0:
                raise damaged(f"{self._name} is damaged: {header.name[:200]!a} has the size {size}")
            if header.type == tarfile.XHDTYPE:
                records = self._pax(size)
                long_name, long_link = records.get("path", long_name), records.get("linkpath", long_link)
                long_size = self._number(records["size"]) if "size" in records else None
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                long_name = self._text(size).rstrip(b"\0").decode(errors="surrogateescape")
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                long_link = self._text(size).rstrip(b"\0").decode(errors="surrogateescape")
            elif header.type != tarfile.XGLTYPE:
                size = size if long_size is None else long_size
                self._add(header, long_name or header.name, long_link or header.linkname, TarMember(at, size))
                long_name = long_link = long_size = None
            content = 0 if header.type in (tarfile.SYMTYPE, tarfile.DIRTYPE) else size
            self._at = at + -(-content // BLOCK) * BLOCK
            if at + content > self._size:
                raise damaged(f"{self._name} is truncated: {header.name!a} ends behind the end of the file")
        if not count:
            raise damaged(f"{self._name} is an empty archive")

    def _refuse_compression(self) -> None:
        start = self._file.read(8)
        for magic, kind in _COMPRESSED.items():
            if start.startswith(magic):
                raise damaged(f"{self._name} is compressed with {kind}; unpack it first")

    def _header(self) -> tarfile.TarInfo | None:
        """Return the next header, None at the end."""
        self._file.seek(self._at)
        block = self._file.read(BLOCK)
        if not any(block):
            return None
        self._at += len(block)
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError):
            at = self._at - len(block)
            what = "is not a tar file" if not at else f"is damaged: there is no header at byte {at}"
            raise damaged(f"{self._name} {what}") from None

    def _text(self, size: int) -> bytes:
        if size > LONGEST_NAME:
            raise refused(f"{self._name} has a name of {size} bytes")
        return self._file.read(size)

    def _pax(self, size: int) -> dict[str, str]:
        """Return the records of a pax header; each is ``<length> <key>=<value>`` and a line feed."""
        text, found, at = self._text(size), dict[str, str](), 0
        while at < len(text):
            digits, _, _ = text[at : at + 8].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            key, equals, value = text[at + len(digits) + 1 : at + length - 1].partition(b"=")
            if not length or not equals:
                raise damaged(f"{self._name} has an invalid pax header")
            if key.startswith(b"GNU.sparse"):
                raise refused(f"{self._name} has a sparse member")
            found[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
            at += length
        return found

    def _number(self, text: str) -> int:
        if re.fullmatch("[0-9]{1,20}", text) is None:
            raise damaged(f"{self._name} has an invalid pax header: the size {text[:40]!a}")
        return int(text)

    def _add(self, header: tarfile.TarInfo, name: str, link: str, member: TarMember) -> None:
        safe = posixpath.normpath(name)
        if name.startswith("/") or safe == ".." or safe.startswith("../") or "\0" in name:
            raise refused(f"{self._name}: the path {name[:200]!a} leads outside the archive")
        archive = self._archive
        if header.type == tarfile.DIRTYPE:
            return
        if safe in archive.members or safe in archive.links:
            raise damaged(f"{self._name} has {name[:200]!a} twice")
        if header.type in _FILES:
            archive.members[safe] = member
        elif header.type == tarfile.SYMTYPE:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(safe), link))
            if link.startswith("/") or target == ".." or target.startswith("../"):
                raise refused(f"{self._name}: the link {name[:200]!a} leads outside the archive")
            archive.links[safe] = target
        else:
            raise refused(f"{self._name}: {name[:200]!a} is a hard link, a device, a pipe or a sparse file")


class _Part(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, file: BinaryIO, member: TarMember) -> None:
        self._file = file
        self._member = member
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._member.size}[whence]
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        left = min(len(view), self._member.size - self._at)
        if left <= 0:
            return 0
        self._file.seek(self._member.offset + self._at)
        data = self._file.read(left)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class TarWriter:
    """A tar file in the making. Equal members in equal order give equal bytes: there are no times and no owners."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write a member. Raises ARCHIVE_INVALID if the chunks do not have ``size`` bytes."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = size, 0o644
        # The GNU format has no limit of 8 GiB.
        self._file.write(header.tobuf(tarfile.GNU_FORMAT))
        written = 0
        for chunk in chunks:
            written += len(chunk)
            if written > size:
                break
            self._file.write(chunk)
        if written != size:
            raise damaged(f"{name} does not have {size} bytes")
        self._file.write(b"\0" * (-size % BLOCK))

    def add_bytes(self, name: str, content: bytes) -> None:
        self.add(name, len(content), [content])

    def add_file(self, name: str, file: BinaryIO) -> None:
        """Write a member with the content of an open file."""
        self.add(name, os.fstat(file.fileno()).st_size, iter(lambda: file.read(_CHUNK), b""))

    def finish(self) -> None:
        self._file.write(b"\0" * (2 * BLOCK))
