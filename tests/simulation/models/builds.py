"""The files of a build at GitHub: a zip with archives of real images, and logs with a metadata block."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal

from tests.standins import saved

Format = Literal["legacy", "oci"]
"""The format of ``docker save``: that of Docker 1.10 to 24, or that of 25 and later."""
DAMAGED: Final = b"damaged "
"""The first bytes of the top layer of a damaged image."""
_FLAGS: Final = {
    "Build native CPU": "presto-native-worker-cpu",
    "Build native GPU": "presto-native-worker-gpu",
    "Build Java worker": "presto-java-worker",
}
_TAG: Final = re.compile(r"presto-(.+?)-velox-(.+)-linux-\w+")
_BOLD, _SCRIPT, _PLAIN = "\x1b[1m", "\x1b[36;1m", "\x1b[0m"


def image_of(name: str, tag: str, layers: Iterable[bytes]) -> saved.Image:
    """Return the image that a build saves. Each layer is a tar of one file. ``id`` is the digest of its config in hex."""
    contents = list(layers)
    form = DamagedImage if contents[-1].startswith(DAMAGED) else saved.Image
    return form(
        [_layer(content) for content in contents], f"{name}:{tag}", "arm64" if tag.endswith("arm64") else "amd64"
    )


class DamagedImage(saved.Image):
    """An image whose top layer differs from the digest in its config."""

    @property
    def diff_ids(self) -> list[str]:
        return [*super().diff_ids[:-1], f"sha256:{saved.sha(DAMAGED)}"]


@lru_cache(maxsize=4096)
def _layer(content: bytes) -> bytes:
    return saved.layer({f"file-{saved.sha(content)[:8]}": content})


@lru_cache(maxsize=4096)
def artifact_of(images: tuple[tuple[str, tuple[bytes, ...]], ...], tag: str, form: Format) -> bytes:
    """Return the zip of a build: ``<image>-<tag>.tar.gz`` for each image, as ``docker save | gzip`` writes it."""
    save = saved.since_25 if form == "oci" else saved.until_24
    packed = {f"{name}-{tag}.tar.gz": gzip.compress(save(image_of(name, tag, of)), 1, mtime=0) for name, of in images}
    return zip_of(packed)


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """Return a zip that was written to a stream: sizes follow the content, in data descriptors."""
    stream = _UnseekableBytes()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            about = zipfile.ZipInfo(name, (2026, 1, 6, 16, 49, 50))
            archive.writestr(about, content, zipfile.ZIP_DEFLATED, 1)
    return stream.getvalue()


class _UnseekableBytes(io.BytesIO):
    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation


def metadata_block(tag: str, images: Iterable[str], generated: float) -> dict[str, str]:
    """Return the metadata block of a build of these images."""
    found, names = _TAG.fullmatch(tag), set(images)
    presto, velox = found.groups() if found else ("92865fb", "65797d5")
    return {
        "Presto repository": "prestodb/presto",
        "Presto ref": presto,
        "Velox repository": "facebookincubator/velox",
        "Velox ref": velox,
        "Target platform": "linux/arm64" if tag.endswith("arm64") else "linux/amd64",
        "Worker bundle mode": "all_native",
        **{key: str(name in names).lower() for key, name in _FLAGS.items()},
        "Image tag": tag,
        "Registry push": "false",
        "Generated at": iso(generated),
    }


def logs_of(values: Mapping[str, str], at: float) -> bytes:
    """Return the zip of a run's logs. They contain the metadata block, and before it the script that prints it."""
    script = [f'{_SCRIPT}echo "{key}: ${{{key.upper().replace(" ", "_")}}}"{_PLAIN}' for key in values]
    env = [f"  {key.upper().replace(' ', '_')}: {value}" for key, value in values.items()]
    group = ["##[group]Run echo the metadata", *script, f"shell: {_SCRIPT}/usr/bin/bash -e {{0}}{_PLAIN}"]
    printed = ["Image build metadata", *(f"{key}: {_BOLD}{value}{_PLAIN}" for key, value in values.items()), "Done"]
    text = _log([*group, "env:", *env, "##[endgroup]", *printed], at)
    other = _log(["##[group]Run actions/checkout@v4", "##[endgroup]"], at)
    return zip_of({"0_build.txt": text, "build/3_Print metadata.txt": text, "1_other.txt": other})


def _log(lines: Iterable[str], at: float) -> bytes:
    stamp = iso(at).replace("Z", ".1234567Z")
    return ("\ufeff" + "".join(f"{stamp} {line}\n" for line in lines)).encode()


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
