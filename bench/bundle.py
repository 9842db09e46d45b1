"""A bundle of images as a build publishes it: a zip of four archives of `docker save | gzip`.

The images share half of their layers.
"""

from __future__ import annotations

import gzip
import json
import random
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isal import igzip

from bench.content import MIB
from tests.standins import saved

NAMES: Final = ("presto-coordinator", "presto-java-worker", "presto-native-worker-cpu", "presto-native-worker-gpu")
TAG: Final = "presto-1-linux-amd64"
LAYERS: Final = 4  # in each image, two of them shared by all images
LAYER: Final = 128 * MIB
_BLOCK: Final = 64 * 1024
_RANDOM: Final = 0.25  # share of incompressible blocks, as in images with compressed files


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk: its zip, and each archive by the name of its image. Sizes are in bytes."""

    folder: Path
    zip: Path
    archives: dict[str, Path]
    unpacked: int
    packed: int


def make(folder: Path) -> Bundle:
    """Write a bundle of 2 GiB uncompressed; return it."""
    folder.mkdir()
    pool = _pool()
    shared = [_layer(f"common-{number}", pool) for number in range(LAYERS // 2)]
    archives: dict[str, Path] = {}
    unpacked = 0
    for name in NAMES:
        layers = [*shared, *(_layer(f"{name}-{number}", pool) for number in range(LAYERS // 2))]
        path = folder / f"{name}-{TAG}.tar.gz"
        archive = saved.until_24(saved.Image(layers, f"{name}:{TAG}"))
        unpacked += sum(map(len, layers))
        with igzip.open(path, "wb", compresslevel=2) as file:  # type: ignore[no-untyped-call]
            file.write(archive)
        archives[name] = path
    bundle = folder / "images.zip"
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for path in archives.values():
            file.write(path, path.name)
    return Bundle(folder, bundle, archives, unpacked, bundle.stat().st_size)


def block() -> dict[str, str]:
    """Return the metadata that the build's log contains."""
    flags = dict.fromkeys(("Build native CPU", "Build native GPU", "Build Java worker"), "true")
    return {"Presto ref": "1", "Velox ref": "1", "Target platform": "linux/amd64", "Image tag": TAG, **flags}


def sample(size: int) -> bytes:
    """Return the first ``size`` bytes of a layer."""
    return _layer("sample", _pool())[:size]


def _pool() -> list[bytes]:
    """Return blocks of source files, compiled modules and libraries of this Python and its packages."""
    root = Path(json.__file__).parents[1]
    blocks: list[bytes] = []
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.so"), *root.rglob("*.pyc")]):
        data = path.read_bytes()
        blocks += [data[at : at + _BLOCK] for at in range(0, len(data) - _BLOCK, _BLOCK)]
        if len(blocks) >= 1024:
            break
    return blocks or [gzip.compress(bytes(_BLOCK))]


def _layer(name: str, pool: Sequence[bytes]) -> bytes:
    numbers = random.Random(name)
    parts: list[bytes] = []
    size = 0
    while size < LAYER:
        part = numbers.randbytes(_BLOCK) if numbers.random() < _RANDOM else numbers.choice(pool)
        parts.append(part)
        size += len(part)
    return saved.layer({f"opt/{name}": b"".join(parts)[:LAYER]})
