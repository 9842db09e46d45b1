"""Location of an image in the artifacts of a run: a file of its own in the zip, a shared archive, or the download."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from syncline.clients.github.client import Artifact
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.decompress import compression_of
from syncline.kinds.artifacts.archive.streams import Mark, MarkedStream, Source, ranged
from syncline.kinds.artifacts.archive.tar import BLOCK, is_header
from syncline.kinds.artifacts.archive.zip import EMPTY, MAGIC, ZipArchive
from syncline.kinds.artifacts.config import Build

_ENDINGS: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd")


@dataclass(frozen=True, slots=True)
class ImageArchive:
    """An archive that can be opened from its start or a mark. ``version`` tells archives in the same ``source`` apart.

    It is in the source's bytes from ``start`` to before ``end``. ``starts`` are the offsets of all members of the source.
    """

    where: str
    source: Source
    version: str
    open: Callable[[Mark | None], MarkedStream[bytes]]
    start: int
    end: int
    starts: tuple[int, ...] = ()


def candidate_artifacts(artifacts: Sequence[Artifact], rules: Build, where: str) -> list[Artifact]:
    """Return the artifacts that may hold images, the youngest first. Raises ARTIFACT_EXPIRED, IMAGE_ABSENT."""
    fitting = _fitting(artifacts, rules)
    if not fitting:
        names = ", ".join(sorted(artifact.name for artifact in artifacts))[:300] or "none"
        raise SynclineError("IMAGE_ABSENT", f"{where} has no artifact that matches {rules.artifact!r}; it has {names}")
    available = [artifact for artifact in fitting if not artifact.expired]
    if not available:
        raise SynclineError("ARTIFACT_EXPIRED", f"{where}: its artifact {fitting[-1].name} has expired")
    return available


def absence_reason(artifacts: Sequence[Artifact], rules: Build, where: str, absent: SynclineError) -> SynclineError:
    """Return the error for an ``absent`` image: ARTIFACT_EXPIRED if an artifact that may have held it has expired."""
    expired = [artifact.name for artifact in _fitting(artifacts, rules) if artifact.expired]
    if absent.code.name != "IMAGE_ABSENT" or not expired:
        return absent
    return SynclineError("ARTIFACT_EXPIRED", f"{where}: its artifact {expired[0]} has expired, and {absent.what}")


def _fitting(artifacts: Sequence[Artifact], rules: Build) -> list[Artifact]:
    """Return the artifacts that the rules name, the youngest first, of each name only the latest."""
    youngest = sorted(artifacts, key=lambda artifact: (artifact.created, artifact.id), reverse=True)
    latest: dict[str, Artifact] = {}
    for artifact in youngest:
        if fnmatchcase(artifact.name, rules.artifact):
            latest.setdefault(artifact.name, artifact)
    return list(latest.values())


def find_archive(sources: Iterable[Source], rules: Build, image: str, tag: str) -> ImageArchive:
    """Return the archive that has an image of a build. Raises IMAGE_ABSENT, and the errors of reading the downloads.

    The contents of a download that is not a zip are unknown. Unless it is named like the image, others have priority.
    """
    seen: list[str] = []
    plain: ImageArchive | None = None
    # Downloads named like the image come first, as each costs a few requests.
    for source in sorted(sources, key=lambda source: image not in source.name):
        found = _in(source, rules, image, tag, seen)
        if found is None:
            continue
        if found.where != source.name or image in source.name:
            return found
        plain = plain or found
    if plain is not None:
        return plain
    what = ", ".join(seen)[:400] or "nothing"
    raise SynclineError("IMAGE_ABSENT", f"no artifact has an archive of {image}; they have {what}")


def _in(source: Source, rules: Build, image: str, tag: str, seen: list[str]) -> ImageArchive | None:
    """Return the archive of an image in one download; add the names in it to ``seen``."""
    if not is_zip(source):
        seen.append(source.name)
        if not _is_archive(source):
            return None
        size = source.size
        return ImageArchive(source.name, source, str(size), partial(ranged, source, 0, size), 0, size)
    archive = ZipArchive(source)
    entries = [entry for entry in archive.entries if not entry.name.endswith("/")]
    seen += [entry.name for entry in entries]
    own = [entry for entry in entries if rules.is_archive(entry.name, image, tag)]
    others = [entry for entry in entries if entry.name.lower().endswith(_ENDINGS)]
    # Its own file, or else the only archive that is not another image's.
    shared = [e for e in others if not any(rules.is_archive(e.name, rule.name, tag) for rule in rules.images)]
    if not own and len(shared) != 1:
        return None
    entry = (own or shared)[0]
    where = f"{source.name}, {entry.name}"
    starts = tuple(each.at for each in archive.entries)
    version = f"{source.size} {entry}"
    return ImageArchive(where, source, version, partial(archive.open, entry), entry.at, entry.at + entry.packed, starts)


def is_zip(source: Source) -> bool:
    """Return True if a download is a zip, by its first bytes. GitHub can also serve newer artifacts unzipped."""
    return _start(source, len(MAGIC)) in (MAGIC, EMPTY)


def _is_archive(source: Source) -> bool:
    """Return True if a download may be an archive of images, by its first bytes: gzip, zstd or tar."""
    start = _start(source, BLOCK)
    return bool(compression_of(start)) or is_header(start)


def _start(source: Source, size: int) -> bytes:
    """Return the first bytes of a download, fewer if it is smaller."""
    if not source.size:
        return b""
    with source.open(0, min(source.size, size)) as chunks:
        return b"".join(chunks)
