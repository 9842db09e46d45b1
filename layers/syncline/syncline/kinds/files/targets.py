"""Targets of files: a file manager, or another bucket. :class:`Target` says what both can do.

Every write says what the target must have for it to be carried out (:class:`Put`), so that nothing is overwritten that
somebody else put there meanwhile. A bucket that honours conditional requests checks that itself; for any other target
the caller reads the target directly before it writes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from syncline.clients.http.listings import OnOdd, refuse
from syncline.clients.s3.client import Bucket, ObjectStream
from syncline.clients.s3.head import ABSENT, Condition, Head
from syncline.clients.s3.xml import Listed
from syncline.errors import SynclineError
from syncline.kinds.files.records import UNSTATED

CHUNK: Final = 1024 * 1024
"""Bytes read and sent at a time."""


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A file as the target shows it.

    ``version`` differs when somebody replaced the file. ``etag`` is that of the source's object that the file was made
    from, as far as the target tells, else None. ``written`` is True if a mark shows that we wrote it under this path.
    ``run`` is the ID of the run that wrote it, and ``path`` the path that it was written under, where the target tells.
    ``headers`` is the fingerprint of its own headers, None if it was not asked for or the target has none.
    """

    version: str
    etag: str | None
    size: int | None
    internal_id: str = ""
    written: bool = False
    path: str | None = None
    run: str | None = None
    headers: str | None = None

    def equals(self, etag: str | None, size: int | None) -> bool:
        """Return True if the file shows that it was made from this version of an object."""
        return etag is not None and self.etag == etag and size is not None and self.size == size


@dataclass(frozen=True, slots=True)
class Put:
    """One file to bring to the target.

    ``seen`` is the object as a scan saw it; the object as it is now counts. ``there`` is what the target was found to
    have and may be replaced, None if it had nothing. ``guarded`` is False where the sync may overwrite anything.
    ``run`` is the ID of the run. ``left`` gives the seconds left of the function's time.
    """

    path: str
    source: Bucket
    key: str
    seen: Head | None
    there: TargetFile | None
    guarded: bool
    left: Callable[[], float]
    run: str = ""

    @property
    def condition(self) -> Condition | None:
        if not self.guarded:
            return None
        return ABSENT if self.there is None else Condition(self.there.version)


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written: the object it was made from, the file, and the bytes that passed through here.

    ``headers`` is the fingerprint of the object's headers, "" if it is not known, and ``kept`` that of the headers which
    the target kept, where these are others.
    """

    head: Head
    file: TargetFile
    sent: int = 0
    headers: str = ""
    kept: str = ""


@dataclass(frozen=True, slots=True)
class PartlyWritten:
    """An upload that goes on in another function; ``parts`` of it are done. ``error`` is what broke it off, if not time."""

    parts: int
    error: SynclineError | None = None


class Target(Protocol):
    """A target of files. Paths are as the target has them."""

    @property
    def name(self) -> str:
        """The same for all syncs that write there."""
        ...

    @property
    def is_listed(self) -> bool:
        """True if :meth:`listing` gives the target's files, so that a scan compares every one of them."""
        ...

    def creates_safely(self, size: int | None) -> bool:
        """Return True if the target is known to refuse a new file of this size where it has one by then.

        Nothing has to be read before such a write.
        """
        ...

    def refuses(self, path: str, size: int | None) -> str | None:
        """Return the reason why the target cannot have such a file, None if it can."""
        ...

    def leaves_out(self, path: str, size: int | None) -> bool:
        """Return True for what only stands for a folder, where the target needs no such thing."""
        ...

    def listing(self, prefix: str, after: str, odd: OnOdd = refuse) -> Generator[Listed]:
        """Yield all files below ``prefix`` whose paths are greater than ``after``, in the order of their paths."""
        ...

    def stat(self, path: str) -> TargetFile | None: ...

    def listed(self, paths: Sequence[str]) -> Mapping[str, TargetFile]:
        """Return the target's files under the sorted ``paths``, using listings where they need fewer requests than stat.

        A path that is missing from the answer may be there all the same.
        """
        ...

    def put(self, put: Put) -> Written | PartlyWritten:
        """Bring an object there.

        Raises FILE_DIFFERS or TARGET_CHANGED if the target has something else than ``put.there``, and FILE_TOO_SLOW if
        the rest of the file would take longer than the time that is left.
        """
        ...

    def rename(self, path: str, new_path: str, there: TargetFile) -> str:
        """Rename the file ``there``, and return its new version.

        Raises NOT_FOUND, FILE_DIFFERS or TARGET_CHANGED where the target has a file under ``new_path``, and NOT_ARRIVED if
        a copy that was made for it is not there: the file ``there`` stays then.
        """
        ...

    def remove(self, path: str, there: TargetFile) -> None:
        """Remove the file ``there``; raises TARGET_CHANGED if the target is known to have another one by now."""
        ...

    def open(self, path: str, there: TargetFile, start: int) -> ObjectStream | None:
        """Open the bytes of the file ``there`` from byte ``start``, None where the target does not give them."""
        ...

    def mode(self, path: str) -> str | None:
        """Return a file's permissions, None where the target knows none."""
        ...

    def permit(self, path: str, mode: str) -> str | None:
        """Set a file's permissions, and return them as they are now; None where the target knows none."""
        ...


class Facts(Protocol):
    """Facts that functions share; see :class:`syncline.store.facts.Facts`."""

    def recall(self, key: str) -> str | None: ...

    def remember(self, key: str, value: str, seconds: float = ...) -> None: ...

    def forget(self, key: str) -> None: ...


def file_of(etag: str, size: int, headers: str | None = None) -> TargetFile:
    """Return an object of a bucket as a file: its ETag is its version, and shows its bytes."""
    return TargetFile(etag or UNSTATED, etag or None, size, headers=headers)


class NotArrivedError(SynclineError):
    """NOT_ARRIVED: the target does not have a file as it was written; `made` is what the target answered to the write."""

    def __init__(self, made: TargetFile, what: str) -> None:
        super().__init__("NOT_ARRIVED", what)
        self.made = made


def check_arrived(target: Target, path: str, made: TargetFile) -> None:
    """Ask the target again for a file that takes the place of another one.

    Raises :class:`NotArrivedError` if it is not as ``made``.
    """
    there = target.stat(path)
    if there is None or there.size != made.size or made.version not in (UNSTATED, there.version):
        found = "is absent" if there is None else f"is {there.version} of {there.size} bytes"
        raise NotArrivedError(made, f"{path!r} at {target.name} {found}, not {made.version} of {made.size} bytes")


def other_name(target: Target, path: str, there: TargetFile) -> str | None:
    """Return the path that a target really keeps the file ``there`` under, where it takes two paths for one.

    Such targets tell no upper from lower case, or one Unicode form from another. None if the file has its own path.
    """
    if there.path is not None and there.path != path and folded(there.path) == folded(path):
        return there.path
    if target.is_listed:
        shown = next(target.listing(path, ""), None)
        if shown is None or shown.key != path:
            return f"another form of {path}"
    return None


def collides(target: Target, path: str, other: str) -> SynclineError:
    """Return the error for a path that the target takes for another one."""
    return SynclineError("PATH_COLLIDES", f"{path!r} and {other!r} are one path at {target.name}")


def folded(text: str) -> str:
    """Return a name as systems see it that tell neither case nor Unicode forms apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def folder_of(path: str) -> str:
    """Return the folder that a path is in, with its slash."""
    return path[: path.rfind("/") + 1]


def opened(source: Bucket, key: str, seen: Head | None) -> ObjectStream:
    """Open an object as it is now; most likely it is the one that was seen, so that one is asked for first."""
    try:
        return source.open(key, etag=None if seen is None else seen.etag)
    except SynclineError as error:
        if seen is None or error.code.name != "SOURCE_CHANGED":
            raise
    return source.open(key)


def unchanged(source: Bucket, key: str, head: Head) -> None:
    """Raise SOURCE_CHANGED if an object was replaced while it was read: some services then give bytes of both."""
    now = source.head(key)
    if now is None or now.etag != head.etag:
        raise SynclineError("SOURCE_CHANGED", f"{key!r} in {source} was replaced while it was read")
