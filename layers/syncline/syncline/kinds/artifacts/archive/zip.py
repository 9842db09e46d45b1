"""Zip archives read by ranges: the directory at the end, then the requested members only.

PKWARE's APPNOTE 6.3.10: the end record (4.3.16) points to the directory (4.3.12), or with zip64 its locator (4.3.15)
and record (4.3.14) do; each entry points to a local header (4.3.7) followed by the content. The two headers of a member
must agree, and members must not overlap: overlaps let a small zip decompress to a huge one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from isal import isal_zlib

from syncline.kinds.artifacts.archive.decompress import inflated
from syncline.kinds.artifacts.archive.streams import (
    LIMITS,
    ArchiveLimits,
    Mark,
    MarkedStream,
    Source,
    invalid,
    ranged,
    refused,
)

MAGIC: Final = b"PK\x03\x04"
EMPTY: Final = b"PK\x05\x06"
STORED, DEFLATED = 0, 8

_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_TAIL: Final = _END.size + 65535 + _LOCATOR.size
_LARGEST_DIRECTORY: Final = 16 * 1024 * 1024
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 0x1, 0x8, 0x800


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """A member as listed in the directory; sizes in bytes, ``at`` is the offset of its local header."""

    name: str
    method: int
    flags: int
    crc: int
    packed: int
    size: int
    at: int


class ZipArchive:
    """A zip archive. Raises ARCHIVE_INVALID, ARCHIVE_REFUSED, and the errors of the source."""

    def __init__(self, source: Source, limits: ArchiveLimits = LIMITS) -> None:
        self._source = source
        self._limits = limits
        self.entries = self._directory()

    def open(self, entry: ZipEntry, mark: Mark | None = None) -> MarkedStream[bytes]:
        """Return a member's content, or the rest of it after a mark, checked against its size and checksum."""
        name = f"{self._source.name}, {entry.name}"
        inner = None if mark is None else mark["under"]
        if entry.method == DEFLATED:
            chunks = inflated(self._packed(entry, inner and inner["under"]), name, self._limits, inner)
        else:
            chunks = self._packed(entry, inner)
        return _checked(chunks, entry, name, mark)

    def _read(self, start: int, size: int) -> bytes:
        if start < 0 or start + size > self._source.size:
            raise invalid(f"{self._source.name} refers to bytes outside the file")
        with self._source.open(start, start + size) as chunks:
            return b"".join(chunks)

    def _directory(self) -> tuple[ZipEntry, ...]:
        length = self._source.size
        start = max(0, length - _TAIL)
        tail = self._read(start, length - start)
        at = self._end_record(tail)
        _, disk, first_disk, here, count, size, offset, _ = _END.unpack_from(tail, at)
        end = start + at
        if _FULL16 in (here, count) or _FULL32 in (size, offset):
            found = self._zip64(tail, at)
            if found is not None:
                disk, first_disk, here, count, size, offset, end = found
        if disk or first_disk or here != count:
            raise refused(f"{self._source.name} is one part of a zip file that was split, which is not supported")
        if count > self._limits.members or size > _LARGEST_DIRECTORY:
            raise refused(
                f"{self._source.name} lists {count} members in a directory of {size} bytes, over the limit of {self._limits.members} members or {_LARGEST_DIRECTORY} bytes"
            )
        if offset + size > end:
            raise invalid(f"{self._source.name}: its directory is not before its end record")
        table = tail[offset - start : offset - start + size] if offset >= start else self._read(offset, size)
        return self._without_overlaps(self._entries(table, count, offset), offset)

    def _end_record(self, tail: bytes) -> int:
        """Return the offset of the end record: the last one whose comment ends with the archive."""
        at = tail.rfind(EMPTY)
        while at >= 0:
            if at + _END.size <= len(tail) and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
                return at
            at = tail.rfind(EMPTY, 0, at)
        raise invalid(f"{self._source.name} is not a complete zip: it has no directory at its end")

    def _zip64(self, tail: bytes, at: int) -> tuple[int, int, int, int, int, int, int] | None:
        start = at - _LOCATOR.size
        if start < 0 or tail[start : start + 4] != b"PK\x06\x07":
            return None
        _, disk, record, disks = _LOCATOR.unpack_from(tail, start)
        data = self._read(record, _END64.size)
        if data[:4] != b"PK\x06\x06" or disk or disks > 1:
            raise invalid(f"{self._source.name}: its zip64 locator does not point to a zip64 record")
        _, _, _, _, this, first, here, count, size, offset = _END64.unpack(data)
        return this, first, here, count, size, offset, record

    def _entries(self, table: bytes, count: int, limit: int) -> Iterator[ZipEntry]:
        at = 0
        for _ in range(count):
            if at + _ENTRY.size > len(table) or table[at : at + 4] != b"PK\x01\x02":
                raise invalid(f"{self._source.name}: its directory is damaged")
            row = _ENTRY.unpack_from(table, at)
            flags, method, crc, packed, size = row[3], row[4], row[7], row[8], row[9]
            name_size, extra_size, comment_size, disk, offset = row[10], row[11], row[12], row[13], row[16]
            at += _ENTRY.size
            raw, extra = table[at : at + name_size], table[at + name_size : at + name_size + extra_size]
            at += name_size + extra_size + comment_size
            size, packed, offset = self._wide(extra, size, packed, offset)
            name = raw.decode("utf-8" if flags & _UTF8 else "cp437", "replace")
            self._check_name(name)
            if flags & _ENCRYPTED:
                raise refused(f"{self._source.name}: {name!r} is encrypted")
            if disk not in (0, _FULL16):
                raise refused(f"{self._source.name} is one part of a zip file that was split, which is not supported")
            if offset >= limit or packed > limit or size > self._limits.size:
                raise invalid(f"{self._source.name}: {name!r} does not fit into it")
            if size > self._limits.free and size > self._limits.ratio * packed:
                raise refused(f"{self._source.name}: {name!r} unpacks to more than {self._limits.ratio} times its size")
            yield ZipEntry(name, method, flags, crc, packed, size, offset)
        if at != len(table):
            raise invalid(f"{self._source.name}: its directory has more entries than it declares")

    def _wide(self, extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
        """Return the three numbers, taking those that do not fit their fields from the zip64 extra field (4.5.3)."""
        wide = _extra(extra, 1)
        numbers: list[int] = []
        at = 0
        for value in (size, packed, offset):
            if value == _FULL32 and wide is not None:
                if at + 8 > len(wide):
                    raise invalid(f"{self._source.name}: a zip64 field is too short")
                numbers.append(int.from_bytes(wide[at : at + 8], "little"))
                at += 8
            else:
                numbers.append(value)
        return numbers[0], numbers[1], numbers[2]

    def _check_name(self, name: str) -> None:
        parts = name.replace("\\", "/").split("/")
        if not name or name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
            raise refused(f"{self._source.name} has a member whose path leads outside the archive: {name[:160]!r}")

    def _without_overlaps(self, found: Iterator[ZipEntry], limit: int) -> tuple[ZipEntry, ...]:
        entries = tuple(found)
        names = {entry.name for entry in entries}
        if len(names) != len(entries):
            raise refused(f"{self._source.name} has two members with the same name")
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.at):
            if entry.at < end:
                raise refused(f"{self._source.name}: {entry.name!r} overlaps another member")
            end = entry.at + _LOCAL.size + entry.packed
        if end > limit:
            raise invalid(f"{self._source.name}: a member overlaps the directory")
        return entries

    def _packed(self, entry: ZipEntry, mark: Mark | None) -> MarkedStream[bytes]:
        """Return a member's stored bytes, after checking its local header against the directory."""
        if entry.method not in (STORED, DEFLATED):
            raise refused(
                f"{self._source.name}: {entry.name!r} is compressed with the unsupported method {entry.method}"
            )
        head = self._read(entry.at, _LOCAL.size)
        magic, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack(head)
        rest = self._read(entry.at + _LOCAL.size, name_size + extra_size)
        name = rest[:name_size].decode("utf-8" if flags & _UTF8 else "cp437", "replace")
        if magic != MAGIC or name != entry.name or method != entry.method or flags & _ENCRYPTED:
            raise invalid(f"{self._source.name}: the directory and the member {entry.name!r} contradict each other")
        if not flags & _DESCRIPTOR:
            size, packed, _ = self._wide(rest[name_size:], size, packed, 0)
            if (crc, packed, size) != (entry.crc, entry.packed, entry.size):
                raise invalid(f"{self._source.name}: the directory and the member {entry.name!r} contradict each other")
        start = entry.at + _LOCAL.size + name_size + extra_size
        if start + entry.packed > self._source.size:
            raise invalid(f"{self._source.name}: {entry.name!r} does not fit into it")
        return ranged(self._source, start, start + entry.packed, mark)


def _checked(chunks: MarkedStream[bytes], entry: ZipEntry, name: str, mark: Mark | None) -> MarkedStream[bytes]:
    def checked(crc: int, size: int) -> Iterator[tuple[bytes, Mark]]:
        for chunk in chunks:
            size += len(chunk)
            if size > entry.size:
                raise invalid(f"{name} is larger than the directory lists")
            crc = isal_zlib.crc32(chunk, crc)
            yield chunk, {"crc": crc, "size": size, "under": chunks.mark}
        if (size, crc) != (entry.size, entry.crc):
            raise invalid(f"{name} does not have the size and checksum that the directory lists")

    mark = mark or {"crc": 0, "size": 0, "under": chunks.mark}
    return MarkedStream(checked(mark["crc"], mark["size"]), mark)


def _extra(extra: bytes, wanted: int) -> bytes | None:
    """Return the content of an extra field by its number (4.5.1)."""
    at = 0
    while at + 4 <= len(extra):
        number, size = struct.unpack_from("<HH", extra, at)
        if number == wanted:
            return extra[at + 4 : at + 4 + size]
        at += 4 + size
    return None
