"""A bundle of the replaced script's size, made from segments that are compressed once and repeated.

Byte-aligned deflate streams can be concatenated, so the gzip of the archives and the deflate of the zip around them are
assembled from compressed segments, in a different order for each layer. Reading costs the same as for any other bundle;
writing costs little more than disk access.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isal import isal_zlib

from bench import bundle
from syncline.kinds.artifacts.layers import HEADER, SEGMENT, packed_segment, trailer

LAYERS: Final = 8  # of each image, half of them common to all
SEGMENTS: Final = 160  # of each layer: 640 MiB, of which some 350 are left when packed
_POOL: Final = 32
_LAST_BLOCK: Final = b"\x03\x00"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of an archive, as deflate, and that once more for the zip."""

    raw: bytes
    packed: bytes
    zipped: bytes

    @classmethod
    def of(cls, raw: bytes) -> _Piece:
        packed = packed_segment(raw)
        return cls(raw, packed, packed_segment(packed))


@dataclass(frozen=True, slots=True)
class _Layer:
    diff_id: str
    pieces: list[_Piece]

    @property
    def size(self) -> int:
        return sum(len(piece.raw) for piece in self.pieces)


def make(folder: Path, names: Sequence[str] = bundle.NAMES, layers: int = LAYERS) -> bundle.Bundle:
    """Write the zip of the images' archives: four with eight layers each, 20 GiB unpacked and 11 compressed."""
    folder.mkdir()
    data = bundle.sample(_POOL * SEGMENT)
    pool = [_Piece.of(data[at : at + SEGMENT]) for at in range(0, len(data), SEGMENT)]
    common = [_layer(f"common-{number}", pool) for number in range(layers // 2)]
    path = folder / "images.zip"
    unpacked = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as file:
        for name in names:
            own = [_layer(f"{name}-{number}", pool) for number in range(layers // 2)]
            unpacked += sum(layer.size for layer in (*common, *own))
            with file.open(f"{name}-{bundle.TAG}.tar.gz", "w", force_zip64=True) as member:
                ready = _Ready()
                member._compressor = ready  # type: ignore[attr-defined]  # noqa: SLF001 - deflated already
                for packed, ready.zipped in _gzip([*common, *own], f"{name}:{bundle.TAG}"):
                    member.write(packed)
    return bundle.Bundle(folder, path, {}, unpacked, path.stat().st_size)


def _layer(name: str, pool: list[_Piece]) -> _Layer:
    """Return a layer with one file, made of segments of the pool in a unique order."""
    pieces = random.Random(name).choices(pool, k=SEGMENTS)
    pieces = [_Piece.of(_header(f"opt/{name}", SEGMENTS * SEGMENT)), *pieces, _Piece.of(bytes(1024))]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.raw)
    return _Layer(digest.hexdigest(), pieces)


def _gzip(layers: list[_Layer], name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield a gzipped archive in the format of Docker 1.10 to 24: pieces, each with its deflate in the zip."""
    yield HEADER, packed_segment(HEADER)
    crc = size = 0
    for piece in _archive(layers, name):
        crc, size = isal_zlib.crc32(piece.raw, crc), size + len(piece.raw)
        yield piece.packed, piece.zipped
    end = trailer(crc, size)
    yield end, packed_segment(end)


def _archive(layers: list[_Layer], name: str) -> Iterator[_Piece]:
    for layer in layers:
        yield _Piece.of(_header(f"{layer.diff_id}/layer.tar", layer.size))
        yield from layer.pieces  # a whole number of blocks, so nothing is to be filled up
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        }
    ).encode()
    file = f"{hashlib.sha256(config).hexdigest()}.json"
    paths = [f"{layer.diff_id}/layer.tar" for layer in layers]
    manifest = json.dumps([{"Config": file, "RepoTags": [name], "Layers": paths}]).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in ((file, config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    yield _Piece.of(buffer.getvalue())


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


class _Ready:
    """Compressor for a zip whose input is already deflated."""

    zipped = b""

    def compress(self, _data: Any) -> bytes:
        return self.zipped

    def flush(self) -> bytes:
        return _LAST_BLOCK
