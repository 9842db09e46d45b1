"""Targets of archives: tar files, compressed streams, zip files, saved images and their descriptions."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import zstandard

from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.decompress import decompressed
from syncline.kinds.artifacts.archive.images import ArchiveContents, choose_image, list_images
from syncline.kinds.artifacts.archive.streams import ArchiveLimits, Mark, MarkedStream, ranged
from syncline.kinds.artifacts.archive.tar import BLOCK, TarReader
from syncline.kinds.artifacts.archive.zip import ZipArchive
from syncline.kinds.artifacts.examine import examine
from syncline.kinds.artifacts.read_archive import WantedImage
from tests.fuzz.target import Target, must, refusals
from tests.rig.secret_documents import packed
from tests.standins import saved

_SMALL: Final = ArchiveLimits(members=50, size=1 << 22, text=1 << 16, ratio=100, free=1 << 20)
_MAX_MARKS: Final = 12
"""Number of marks from which one stream is read again."""
_REFERENCE: Final = re.compile(rb"@([0-9])")
_PIECE: Final = 64


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A source that yields its bytes in small chunks."""

    data: bytes
    name: str = "the input"

    @property
    def size(self) -> int:
        return len(self.data)

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        yield (self.data[at : min(at + _PIECE, end)] for at in range(start, end, _PIECE))


def _repaired(data: bytes) -> bytes:
    """Return the input with correct checksums in everything that looks like a tar header. Mutation would never find them."""
    out = bytearray(data)
    for at in range(0, len(out) - BLOCK + 1, BLOCK):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + BLOCK])
    return bytes(out)


def _tar(data: bytes) -> None:
    """Read a tar file, then again from each of its marks. The members that follow must be the same."""
    data = _repaired(data)
    members, marks, failure = _read_tar(data, None)
    for member in members:
        name = member[0]
        must(
            not name.startswith("/") and ".." not in name.split("/"), f"the path of member {name!r} leaves the archive"
        )
    for at, mark in marks[:_MAX_MARKS]:
        rest, _, other = _read_tar(data, mark)
        must(
            (rest, other) == (members[at:], failure), f"read from its mark at member {at}, a tar file has other members"
        )


def _read_tar(data: bytes, mark: Mark | None) -> tuple[list[tuple[str, str, str, bytes]], list[tuple[int, Mark]], str]:
    members: list[tuple[str, str, str, bytes]] = []
    marks: list[tuple[int, Mark]] = []
    source = ranged(_Bytes(data), 0, len(data), None if mark is None else mark["under"])
    try:
        tar = TarReader(source, "the input", _SMALL, mark)
        for member in tar:
            members.append((member.name, member.kind, member.link, b"".join(tar.content())))
            here = tar.mark()
            if here is not None:
                marks.append((len(members), here))
    except SynclineError as error:
        return members, marks, error.code.name
    return members, marks, ""


def _compressed(data: bytes) -> None:
    """Unpack a stream, then again from each of its marks. What zlib accepts must unpack to the same bytes."""
    content, marks, failure = _unpacked(data, None)
    for at, mark in marks[:_MAX_MARKS]:
        rest, _, other = _unpacked(data, mark)
        must((rest, other) == (content[at:], failure), f"unpacked from its mark at byte {at}, a stream has other bytes")
    if not failure and data.startswith(b"\x1f\x8b"):
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            first = inflater.decompress(data, len(content) + 1)
        except zlib.error as error:
            # ISA-L ignores the flags that RFC 1952 reserves, like Go, which writes and reads these archives.
            must("unknown header flags" in str(error), f"zlib refuses what was unpacked: {error}")
            return
        must(content.startswith(first), "zlib unpacks other bytes")


def _unpacked(data: bytes, mark: Mark | None) -> tuple[bytes, list[tuple[int, Mark]], str]:
    content, marks = bytearray(), list[tuple[int, Mark]]()
    source = ranged(_Bytes(data), 0, len(data), None if mark is None else mark["under"])
    try:
        stream: MarkedStream[bytes] = decompressed(source, "the input", _SMALL, mark)
        for chunk in stream:
            content += chunk
            if stream.mark is not None:
                marks.append((len(content), stream.mark))
    except SynclineError as error:
        return bytes(content), marks, error.code.name
    return bytes(content), marks, ""


def _zip(data: bytes) -> None:
    """Read the members of a zip file. Python's reader must find the same content under the same names."""
    with refusals():
        archive = ZipArchive(_Bytes(data), _SMALL)
        must(len(archive.entries) <= _SMALL.members, "a zip file has more members than the limit")
        for entry in archive.entries:
            parts = entry.name.replace("\\", "/").split("/")
            must(
                ".." not in parts and not entry.name.startswith("/"),
                f"the path of member {entry.name!r} leaves the archive",
            )
            with refusals():
                content = b"".join(archive.open(entry))
                must(len(content) == entry.size, "the directory has another size for a member")
                other = _read_with_zipfile(data, entry.name)
                must(other in (None, content), f"Python's reader finds other content in {entry.name!r}")


def _read_with_zipfile(data: bytes, name: str) -> bytes | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(name)
    except Exception:  # noqa: BLE001 - it raises many types for invalid input
        return None


def _image(data: bytes) -> None:
    for start in (data, _repaired(data)):
        with refusals():
            examine([start[at : at + 1000] for at in range(0, len(start), 1000)], "the input", WantedImage("app", "v1"))


def _descriptions(data: bytes) -> None:
    """Read the descriptions of an archive, each a name, a line end and a text. ``@3`` is the digest of the fourth text."""
    parts = [each.partition(b"\n") for each in data.split(b"\n--\n")[:10]]
    texts: dict[str, bytes] = {}
    digests: list[str] = [""] * len(parts)
    for number in reversed(range(len(parts))):
        name, _, text = parts[number]
        text = _REFERENCE.sub(lambda match: digests[int(match[1]) % len(parts)].encode(), text)
        digests[number] = digest_of(text)
        called = f"blobs/{digests[number].replace(':', '/')}" if name == b"blob" else name.decode("utf-8", "replace")
        texts[called] = text
    links = {"latest/layer.tar": "1/layer.tar", "a": "b", "b": "a"}
    contents = ArchiveContents("the input", texts, links, frozenset({*texts, "1/layer.tar", "2/layer.tar"}))
    with refusals():
        images = list_images(contents)
        for image in images:
            list(image.leaves())
        with refusals():
            choose_image(images, "app", "v1", "the input")


def _parts(*parts: tuple[str, object]) -> bytes:
    return b"\n--\n".join(f"{name}\n{json.dumps(value, separators=(',', ':'))}".encode() for name, value in parts)


def _gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _zipped(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in (("app-v1.tar", b"a" * 99), ("other/b.txt", b"bytes")):
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6)), data, method)
    return out.getvalue()


_LAYER: Final = saved.tar([("a", b"one")])
_TAR: Final = saved.tar([("a", b"one"), ("b", saved.link("a")), ("c", saved.folder()), ("d", b"x" * 600)])
_LONG: Final = packed({"a/" + "n" * 120: b"one"})
_ONE: Final = saved.Image([_LAYER], "app:v1")
_CONFIG: Final[dict[str, Any]] = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
_OCI: Final = "application/vnd.oci.image.manifest.v1+json"

TARGETS = (
    Target("tar", _tar, (_TAR, _LAYER, _LONG, bytes(1024))),
    Target(
        "compressed",
        _compressed,
        (
            _gz(b"some text " * 50),
            _gz(b"one") + _gz(b"two"),
            _gz(bytes(60_000)),
            zstandard.ZstdCompressor().compress(b"some text " * 50),
            b"plain",
        ),
    ),
    Target("zip", _zip, (_zipped(zipfile.ZIP_STORED), _zipped(zipfile.ZIP_DEFLATED))),
    Target(
        "saved-image",
        _image,
        tuple(
            packed
            for archive in (saved.until_24(_ONE), saved.since_25(_ONE), saved.before_1_10(_ONE))
            for packed in (archive[:4096], _gz(archive))
            if len(packed) <= 4096
        ),
    ),
    Target(
        "descriptions",
        _descriptions,
        (
            _parts(
                ("manifest.json", [{"Config": "c.json", "RepoTags": ["app:v1"], "Layers": ["1/layer.tar"]}]),
                ("c.json", _CONFIG),
            ),
            _parts(("repositories", {"app": {"v1": "1"}}), ("1/json", {"id": "1", "container_config": {"Cmd": ["a"]}})),
            _parts(
                (
                    "index.json",
                    {
                        "manifests": [
                            {
                                "mediaType": _OCI,
                                "digest": "@1",
                                "size": 1,
                                "annotations": {"io.containerd.image.name": "app:v1"},
                            }
                        ]
                    },
                ),
                (
                    "blob",
                    {
                        "mediaType": _OCI,
                        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "@2", "size": 1},
                        "layers": [],
                    },
                ),
                ("blob", _CONFIG),
            ),
        ),
    ),
)
