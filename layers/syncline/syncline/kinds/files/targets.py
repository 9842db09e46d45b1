"""The interface of targets of files, which are file managers and buckets.

Every write states the file that the target must have for it to be carried out (:class:`PutRequest`), so that a file
that somebody else wrote meanwhile is not overwritten. A bucket that honours conditional requests checks that itself; for
any other target the caller reads the target directly before it writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from syncline.clients.http.listings import OnInvalid, refuse
from syncline.clients.s3.client import Bucket, ObjectStream
from syncline.clients.s3.head import IF_ABSENT, ObjectHead, WriteCondition
from syncline.clients.s3.xml import ListedObject
from syncline.config.values import folded
from syncline.errors import SynclineError
from syncline.kinds.files.records import UNSTATED

CHUNK: Final = 1024 * 1024
"""Bytes read and sent at a time."""


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A file as the target shows it.

    ``version`` changes when the file is replaced. ``etag`` is that of the source's object that the file was made from,
    None if the target does not show it. ``is_marked`` is True if a mark shows that we wrote it under this path. ``run``
    is the ID of the run that wrote it, and ``path`` the path that it was written under, if the target shows them.
    ``headers`` is the fingerprint of its own headers, None if it was not requested or the target has none.
    """

    version: str
    etag: str | None
    size: int | None
    internal_id: str = ""
    is_marked: bool = False
    path: str | None = None
    run: str | None = None
    headers: str | None = None

    def equals(self, etag: str | None, size: int | None) -> bool:
        """Return True if the file's ETag and size show that it was made from this version of an object."""
        return etag is not None and self.etag == etag and size is not None and self.size == size


@dataclass(frozen=True, slots=True)
class PutRequest:
    """A request to write one file.

    ``seen`` is the object as the scan saw it; its present version is written. ``existing`` is the target's file that may
    be replaced, None if there was none. ``guarded`` is False if the sync may overwrite any file. ``run`` is the ID of
    the run. ``left`` gives the seconds left of the function's time.
    """

    path: str
    source: Bucket
    key: str
    seen: ObjectHead | None
    existing: TargetFile | None
    guarded: bool
    left: Callable[[], float]
    run: str = ""

    @property
    def condition(self) -> WriteCondition | None:
        if not self.guarded:
            return None
        return IF_ABSENT if self.existing is None else WriteCondition(self.existing.version)


@dataclass(frozen=True, slots=True)
class PutResult:
    """A file that was written: the object it was made from, the file, and the bytes that this function sent.

    ``headers`` is the fingerprint of the object's headers, "" if it is not known, and ``kept`` that of the headers that
    the target kept, if they differ.
    """

    head: ObjectHead
    file: TargetFile
    sent: int = 0
    headers: str = ""
    kept: str = ""


@dataclass(frozen=True, slots=True)
class UnfinishedPut:
    """An upload that another function continues; ``parts`` of it are done. ``error`` interrupted it, None if time did."""

    parts: int
    error: SynclineError | None = None


class Target(Protocol):
    """A target of files. Paths are the target's own."""

    @property
    def name(self) -> str:
        """The same for all syncs that write there."""
        ...

    @property
    def is_listed(self) -> bool:
        """True if the target supports :meth:`listing`, so that a scan compares all of its files."""
        ...

    def creates_safely(self, size: int | None) -> bool:
        """Return True if the target is known to refuse a new file of this size if the path is taken by then.

        Nothing has to be read before such a write.
        """
        ...

    def refuses(self, path: str, size: int | None) -> str | None:
        """Return the reason why the target cannot have such a file, None if it can."""
        ...

    def leaves_out(self, path: str, size: int | None) -> bool:
        """Return True if the object only stands for a folder and the target needs no file for it."""
        ...

    def listing(self, prefix: str, after: str, odd: OnInvalid = refuse) -> Generator[ListedObject]:
        """Yield all files below ``prefix`` whose paths are greater than ``after``, in the order of their paths."""
        ...

    def stat(self, path: str) -> TargetFile | None: ...

    def listed(self, paths: Sequence[str]) -> Mapping[str, TargetFile]:
        """Return the target's files under the sorted ``paths``, using listings where they need fewer requests than stat.

        A path that is missing from the answer may still exist.
        """
        ...

    def put(self, put: PutRequest) -> PutResult | UnfinishedPut:
        """Write a file.

        Raises FILE_DIFFERS or TARGET_CHANGED if the target has another file than ``put.existing``, and FILE_TOO_SLOW if
        the rest of the file would take longer than the time that is left.
        """
        ...

    def rename(self, path: str, new_path: str, existing: TargetFile) -> str:
        """Rename the file ``existing``, and return its new version.

        Raises NOT_FOUND, FILE_DIFFERS or TARGET_CHANGED if the target has a file under ``new_path``, and NOT_ARRIVED if
        a copy that was made for it is missing; then the file ``existing`` is kept.
        """
        ...

    def remove(self, path: str, existing: TargetFile) -> None:
        """Remove the file ``existing``. Raises TARGET_CHANGED if the target is known to have another one by now."""
        ...

    def open(self, path: str, existing: TargetFile, start: int) -> ObjectStream | None:
        """Open the content of the file ``existing`` from byte ``start``; return None if the target has no reads."""
        ...

    def checksums(self, path: str, existing: TargetFile) -> Mapping[str, str]:
        """Return the checksums that the target states of the file ``existing``, by algorithm, empty for none."""
        ...

    def mode(self, path: str) -> str | None:
        """Return a file's permissions, None if the target has none."""
        ...

    def permit(self, path: str, mode: str) -> str | None:
        """Set a file's permissions, and return them as they are now, None if the target has none."""
        ...


def file_of(etag: str, size: int, headers: str | None = None) -> TargetFile:
    """Return an object of a bucket as a file, whose version is its ETag."""
    return TargetFile(etag or UNSTATED, etag or None, size, headers=headers)


class NotArrivedError(SynclineError):
    """NOT_ARRIVED: the target does not have a file as it was written; ``file`` is its response to the write."""

    def __init__(self, file: TargetFile, what: str) -> None:
        super().__init__("NOT_ARRIVED", what)
        self.file = file


def check_written(target: Target, path: str, file: TargetFile) -> None:
    """Ask the target again for a file that replaces another one.

    Raises :class:`NotArrivedError` if it is not as it was written.
    """
    existing = target.stat(path)
    if existing is None or existing.size != file.size or file.version not in (UNSTATED, existing.version):
        found = "is absent" if existing is None else f"is {existing.version} of {existing.size} bytes"
        raise NotArrivedError(file, f"{path!r} at {target.name} {found}, not {file.version} of {file.size} bytes")


def other_name(target: Target, path: str, existing: TargetFile) -> str | None:
    """Return the other path under which a target keeps the file ``existing``, None if the file has its own path.

    Some targets do not distinguish upper and lower case, or Unicode forms.
    """
    if existing.path is not None and existing.path != path and folded(existing.path) == folded(path):
        return existing.path
    if target.is_listed:
        shown = next(target.listing(path, ""), None)
        if shown is None or shown.key != path:
            return f"another form of {path}"
    return None


def check_distinct(target: Target, path: str, existing: TargetFile) -> None:
    """Raise PATH_COLLIDES if a target keeps the file ``existing`` under another path, from which it does not tell this."""
    if (other := other_name(target, path, existing)) is not None:
        raise SynclineError("PATH_COLLIDES", f"{path!r} and {other!r} have the same path at {target.name}")


def alike_names(names: Iterable[str]) -> dict[str, str | None]:
    """Return those of the names that some targets do not distinguish, each with another one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[folded(name)].append(name)
    alike = (group for group in groups.values() if len(group) > 1)
    return {name: next((other for other in group if other != name), None) for group in alike for name in group}


def folder_of(path: str) -> str:
    """Return the folder of a path, with its slash."""
    return path[: path.rfind("/") + 1]


def open_current(source: Bucket, key: str, seen: ObjectHead | None) -> ObjectStream:
    """Open the present version of an object. The one that was seen is requested first, as it is probably the same."""
    if seen is not None:
        try:
            return source.open(key, etag=seen.etag)
        except SynclineError as error:
            if error.code.name != "SOURCE_CHANGED":
                raise
    return source.open(key)


def check_unchanged(source: Bucket, key: str, head: ObjectHead) -> None:
    """Raise SOURCE_CHANGED if an object was replaced while it was read: some services then return bytes of both."""
    now = source.head(key)
    if now is None or now.etag != head.etag:
        raise SynclineError("SOURCE_CHANGED", f"{key!r} in {source} was replaced while it was read")
