"""A bundle as large as the replaced script's bundles (11 GiB), assembled from segments that are compressed once.

Byte-aligned deflate streams can be concatenated. The gzip of the archives and the deflate of the zip are therefore
assembled from compressed segments, in a different order for each layer. Reading such a bundle costs as much as reading
any other; writing it costs little more than the disk access.
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

LAYERS: Final = 8  # in each image, half of them shared by all images
SEGMENTS: Final = 160  # in each layer: 640 MiB, compressed to about 350
_POOL: Final = 32
_LAST_BLOCK: Final = b"\x03\x00"


@dataclass(frozen=True, slots=True)
class _Segment:
    """Bytes of an archive: raw, deflated for the gzip, and deflated again for the zip."""

    raw: bytes
    packed: bytes
    zipped: bytes

    @classmethod
    def of(cls, raw: bytes) -> _Segment:
        packed = packed_segment(raw)
        return cls(raw, packed, packed_segment(packed))


@dataclass(frozen=True, slots=True)
class _Layer:
    diff_id: str
    segments: list[_Segment]

    @property
    def size(self) -> int:
        return sum(len(segment.raw) for segment in self.segments)


def make(folder: Path, names: Sequence[str] = bundle.NAMES, layers: int = LAYERS) -> bundle.Bundle:
    """Write a bundle; by default four images of eight layers, 20 GiB uncompressed and 11 GiB compressed."""
    folder.mkdir()
    data = bundle.sample(_POOL * SEGMENT)
    pool = [_Segment.of(data[at : at + SEGMENT]) for at in range(0, len(data), SEGMENT)]
    common = [_layer(f"common-{number}", pool) for number in range(layers // 2)]
    path = folder / "images.zip"
    unpacked = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as file:
        for name in names:
            own = [_layer(f"{name}-{number}", pool) for number in range(layers // 2)]
            unpacked += sum(layer.size for layer in (*common, *own))
            with file.open(f"{name}-{bundle.TAG}.tar.gz", "w", force_zip64=True) as member:
                compressor = _NullCompressor()
                member._compressor = compressor  # type: ignore[attr-defined]  # noqa: SLF001 - already deflated
                for packed, compressor.zipped in _gzip([*common, *own], f"{name}:{bundle.TAG}"):
                    member.write(packed)
    return bundle.Bundle(folder, path, {}, unpacked, path.stat().st_size)


def _layer(name: str, pool: list[_Segment]) -> _Layer:
    """Return a layer with one file, made of segments of the pool in an order that depends on ``name``."""
    segments = random.Random(name).choices(pool, k=SEGMENTS)
    segments = [_Segment.of(_header(f"opt/{name}", SEGMENTS * SEGMENT)), *segments, _Segment.of(bytes(1024))]
    digest = hashlib.sha256()
    for segment in segments:
        digest.update(segment.raw)
    return _Layer(digest.hexdigest(), segments)


def _gzip(layers: list[_Layer], name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield an archive in the format of Docker 1.10 to 24: pairs of gzipped bytes and their deflate for the zip."""
    yield HEADER, packed_segment(HEADER)
    crc = size = 0
    for segment in _archive(layers, name):
        crc, size = isal_zlib.crc32(segment.raw, crc), size + len(segment.raw)
        yield segment.packed, segment.zipped
    end = trailer(crc, size)
    yield end, packed_segment(end)


def _archive(layers: list[_Layer], name: str) -> Iterator[_Segment]:
    for layer in layers:
        yield _Segment.of(_header(f"{layer.diff_id}/layer.tar", layer.size))
        yield from layer.segments  # a whole number of tar blocks, so no padding is needed
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
    yield _Segment.of(buffer.getvalue())


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


class _NullCompressor:
    """A compressor for zipfile that returns bytes deflated beforehand."""

    zipped = b""

    def compress(self, _data: Any) -> bytes:
        return self.zipped

    def flush(self) -> bytes:
        return _LAST_BLOCK
