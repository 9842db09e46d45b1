"""Where an artifact has an image: a file of its own in the zip, one archive for all, or the download itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from syncline.clients.github.client import Artifact
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.feed import Mark, Source, Stream, ranged
from syncline.kinds.artifacts.archive.unpacking import form_of
from syncline.kinds.artifacts.archive.zips import EMPTY, MAGIC, Zip
from syncline.kinds.artifacts.config import Build

_HEADER: Final = 512  # bytes of the header of a tar's member
_ENDINGS: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd")


@dataclass(frozen=True, slots=True)
class Found:
    """An archive that can be opened as often as need be, from its start or a mark.

    ``size`` is that of what is read, in bytes. ``version`` is another one for another archive in the same ``source``.
    """

    where: str
    size: int
    source: Source
    version: str
    open: Callable[[Mark | None], Stream[bytes]]


def candidates(artifacts: Sequence[Artifact], rules: Build, where: str) -> list[Artifact]:
    """The artifacts that may hold images, the youngest first. Raises ARTIFACT_EXPIRED, IMAGE_ABSENT."""
    fitting = _fitting(artifacts, rules)
    if not fitting:
        names = ", ".join(sorted(artifact.name for artifact in artifacts))[:300] or "none at all"
        raise SynclineError("IMAGE_ABSENT", f"{where} left no artifact {rules.artifact!r}; it left {names}")
    alive = [artifact for artifact in fitting if not artifact.expired]
    if not alive:
        raise SynclineError("ARTIFACT_EXPIRED", f"{where}: its artifact {fitting[-1].name} has expired")
    return alive


def expired(artifacts: Sequence[Artifact], rules: Build, where: str, absent: SynclineError) -> SynclineError:
    """Return why an image is ``absent``: if an artifact that may have held it has expired, that is the reason."""
    gone = [artifact.name for artifact in _fitting(artifacts, rules) if artifact.expired]
    if absent.code.name != "IMAGE_ABSENT" or not gone:
        return absent
    return SynclineError("ARTIFACT_EXPIRED", f"{where}: its artifact {gone[0]} has expired, and {absent.what}")


def _fitting(artifacts: Sequence[Artifact], rules: Build) -> list[Artifact]:
    """Return the artifacts that the rules name, the youngest first. One that a later attempt left again is no more."""
    youngest = sorted(artifacts, key=lambda artifact: (artifact.created, artifact.id), reverse=True)
    latest: dict[str, Artifact] = {}
    for artifact in youngest:
        if fnmatchcase(artifact.name, rules.artifact):
            latest.setdefault(artifact.name, artifact)
    return list(latest.values())


def find(sources: Iterable[Source], rules: Build, image: str, tag: str) -> Found:
    """The archive that has an image of a build. Raises IMAGE_ABSENT, and what reading the downloads raises.

    A download that is no zip says nothing of what it holds. If it is not named like the image, the others count first.
    """
    seen: list[str] = []
    plain: Found | None = None
    # One that is named like the image is looked into first: each costs a few requests.
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
    raise SynclineError("IMAGE_ABSENT", f"no artifact has an archive for {image}; they have {what}")


def _in(source: Source, rules: Build, image: str, tag: str, seen: list[str]) -> Found | None:
    """The archive of an image in one download; the names that are there are added to ``seen``."""
    if not is_zip(source):
        seen.append(source.name)
        if not _is_archive(source):
            return None
        return Found(source.name, source.size, source, str(source.size), partial(ranged, source, 0, source.size))
    archive = Zip(source)
    entries = [entry for entry in archive.entries if not entry.name.endswith("/")]
    seen += [entry.name for entry in entries]
    own = [entry for entry in entries if rules.is_archive(entry.name, image, tag)]
    others = [entry for entry in entries if entry.name.lower().endswith(_ENDINGS)]
    # Its own file; or else one that is not another image's, and alone.
    shared = [e for e in others if not any(rules.is_archive(e.name, rule.name, tag) for rule in rules.images)]
    for entry in (*own[:1], *(shared if len(shared) == 1 else ())):
        where = f"{source.name}, {entry.name}"
        return Found(where, entry.packed, source, f"{source.size} {entry}", partial(archive.open, entry))
    return None


def is_zip(source: Source) -> bool:
    """Whether a download is a zip, by its first bytes: GitHub gives newer artifacts as they are, if told to."""
    if source.size < len(MAGIC):
        return False
    with source.open(0, len(MAGIC)) as chunks:
        return b"".join(chunks) in (MAGIC, EMPTY)


def _is_archive(source: Source) -> bool:
    """Return True if a download may be an archive of images: packed by gzip or zstd, or a tar, by its first bytes."""
    if not source.size:
        return False
    with source.open(0, min(source.size, _HEADER)) as chunks:
        start = b"".join(chunks)
    return bool(form_of(start)) or _is_tar(start)


def _is_tar(start: bytes) -> bool:
    """Return True if bytes begin with the header of a tar's member, which holds the sum of its own bytes."""
    said = start[148:156].strip(b" \0")
    if len(start) < _HEADER or not said.isdigit():
        return False
    try:
        return int(said, 8) == sum(start[:148]) + 8 * ord(" ") + sum(start[156:_HEADER])
    except ValueError:
        return False
