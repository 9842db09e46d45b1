"""Restoring: a cluster or namespace as it was at any commit, into a folder or a bucket.

First everything is looked at and nothing is written: what the commit has, each file's bytes against its ID, and what
stands at the place already. Then each file is written beside the old one and swapped in, and read once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Protocol

from syncline.clients.git.objects import Entry, blob_hash, blob_id, text_of
from syncline.clients.git.repository import Blob, Branch
from syncline.errors import CodeName, SynclineError
from syncline.kinds.backups.paths import Layout, problem_of, shown
from syncline.kinds.backups.sealing import MAGIC, unseal
from syncline.kinds.backups.secrets import LARGEST

_PORTION: Final = 500
"""Blobs fetched in one request."""
_AT_ONCE: Final = 8
"""Files of the place that are looked at together."""
_MODES: Final = {b"100644", b"100755", b"100664"}
"""Modes of files. Git has written the last one long ago."""
_OF_ONE_FILE: Final[frozenset[CodeName]] = frozenset(
    [
        "DIGEST_MISMATCH",
        "FILE_REFUSED",
        "FORBIDDEN",
        "LINK_REFUSED",
        "PATH_COLLIDES",
        "PATH_REFUSED",
        "REFUSED",
        "TARGET_CHANGED",
        "TOO_LARGE",
    ]
)
"""Codes of failures that say nothing about the next file."""


class Place(Protocol):
    """A folder or bucket that files are restored to."""

    def write(self, path: str, chunks: Iterable[bytes]) -> str: ...

    def content_id(self, path: str) -> str:
        """Return the ID that git gives what is there now, read again."""
        ...

    def before(self, path: str) -> str | None:
        """Return the content ID of what a write would replace: None for nothing, "" for what is not a file.

        Raises why nothing can be written there.
        """
        ...


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is not restored, with its path at the place."""

    path: str
    code: CodeName
    reason: str

    @classmethod
    def by(cls, path: str, error: SynclineError) -> Refused:
        return cls(path, error.code.name, error.what)


@dataclass(frozen=True, slots=True)
class File:
    """A file to restore: its blob, the ID of its content, and the content ID of what it replaces."""

    path: str
    inner: str
    oid: str
    content: str = ""
    sealed: bool = False
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of looking: what is to be written, how many files are there already, and what cannot be restored."""

    commit: str
    files: tuple[File, ...]
    unchanged: int
    refused: tuple[Refused, ...]

    @property
    def overwritten(self) -> list[str]:
        """The paths at the place where a file has other content now."""
        return [file.inner for file in self.files if file.before is not None]


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore: files and bytes written, how many of them replaced others or had been encrypted."""

    commit: str
    files: int
    bytes: int
    decrypted: int
    overwritten: int
    unchanged: int
    refused: tuple[Refused, ...]


class Restoring:
    """Restores from one branch to one place. `key` decrypts what was encrypted."""

    def __init__(self, branch: Branch, layout: Layout, place: Place, key: str | None = None) -> None:
        self._branch = branch
        self._layout = layout
        self._place = place
        self._key = key

    # -- looking -------------------------------------------------------------------------------------------------

    def look(self, part: str, at: str | None = None) -> Plan:
        """Return what restoring `part` (``<cluster>`` or ``<cluster>/<namespace>``) comes to; write nothing.

        `at` is a commit, by its ID or the first digits of it; the branch's last one when None. Raises NOT_FOUND if the
        commit or the part does not exist, and what branch and place raise.
        """
        tip = self._branch.fetch() if at is None else self._branch.fetch_commit(at)
        if tip is None:
            raise SynclineError("NOT_FOUND", f"the repository has no branch {self._branch.name}")
        refused: list[Refused] = []
        files = list(self._sorted_out(self._entries(part), refused))
        if not files and not refused:
            raise SynclineError("NOT_FOUND", f"{tip.oid} on {self._branch.name} has nothing of {part}")
        files = list(self._examined(files, refused))
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look") as pool:
            looked = list(pool.map(self._standing, files))
        refused += [each for each in looked if isinstance(each, Refused)]
        found = [each for each in looked if isinstance(each, File)]
        wanted = tuple(file for file in found if file.before != file.content)
        return Plan(tip.oid, wanted, len(found) - len(wanted), tuple(sorted(refused, key=lambda each: each.path)))

    def _entries(self, part: str) -> Iterator[tuple[bytes, Entry]]:
        cluster = part.partition("/")[0]
        root = self._layout.folder.encode()
        entry = self._branch.folders([root])[root].get(cluster.encode())
        if entry is None or not entry.is_folder:
            return
        above = f"{self._layout.path_of(self._layout.prefix + part)}/".encode()
        for path, each in self._branch.files(self._layout.cluster_path(cluster).encode(), entry.oid):
            if path.startswith(above):
                yield path, each

    def _sorted_out(self, entries: Iterable[tuple[bytes, Entry]], refused: list[Refused]) -> Iterator[File]:
        """Yield what can be a file. Somebody else may have put into the branch what we would not."""
        skip = len(self._layout.folder.encode()) + 1 if self._layout.folder else 0
        for raw, entry in entries:
            path, inner = text_of(raw), raw[skip:].decode("utf-8", "backslashreplace")
            if path is None:
                refused.append(Refused(inner, "PATH_REFUSED", f"{shown(inner)} is not UTF-8"))
            elif (problem := problem_of(inner)) is not None:
                refused.append(Refused(inner, "PATH_REFUSED", f"{shown(inner)} {problem}"))
            elif entry.mode not in _MODES:
                kind = {b"160000": "a submodule", b"120000": "a symbolic link"}.get(entry.mode, "no file")
                refused.append(Refused(inner, "ENTRY_UNSUPPORTED", f"{shown(inner)} is {kind}"))
            else:
                yield File(path, inner, entry.oid)

    def _examined(self, files: Sequence[File], refused: list[Refused]) -> Iterator[File]:
        """Read every blob once, to check its bytes and, if it is encrypted, that it can be decrypted."""
        for file, blob in self._blobs(files):
            try:
                yield self._with_content(file, blob)
            except SynclineError as error:
                if not error.is_any("DIGEST_MISMATCH", "SECRET_SEALED"):
                    raise
                refused.append(Refused.by(file.inner, error))

    def _with_content(self, file: File, blob: Blob) -> File:
        chunks = _proved(blob, file)
        first = next(chunks, b"")
        if not first.startswith(MAGIC):
            for _ in chunks:
                pass
            return replace(file, content=file.oid)
        if self._key is None or blob.size > 2 * LARGEST:
            raise SynclineError("SECRET_SEALED", f"{shown(file.inner)} is encrypted, and there is no key for it")
        data = unseal(self._key, file.path, b"".join((first, *chunks)))
        return replace(file, content=blob_id(data), sealed=True)

    def _standing(self, file: File) -> File | Refused:
        try:
            return replace(file, before=self._place.before(file.inner))
        except SynclineError as error:
            if error.code.name not in _OF_ONE_FILE:
                raise
            return Refused.by(file.inner, error)

    # -- writing -------------------------------------------------------------------------------------------------

    def write(self, plan: Plan) -> Restored:
        """Write what is planned; what fails is named, and the rest is written.

        If the place itself fails (it is full, does not answer, or is not there), the rest is named and not tried.
        """
        refused = list(plan.refused)
        written: list[tuple[File, int]] = []
        for number, (file, blob) in enumerate(self._blobs(plan.files), 1):
            try:
                self._write(file, blob)
                written.append((file, blob.size))
            except SynclineError as error:
                refused.append(Refused.by(file.inner, error))
                if error.code.name not in _OF_ONE_FILE:
                    why = f"not tried any more: {error.what}"
                    refused += [Refused(rest.inner, error.code.name, why) for rest in plan.files[number:]]
                    break
        return Restored(
            plan.commit,
            len(written),
            sum(size for _, size in written),
            sum(file.sealed for file, _ in written),
            sum(file.before is not None for file, _ in written),
            plan.unchanged,
            tuple(sorted(refused, key=lambda each: each.path)),
        )

    def _write(self, file: File, blob: Blob) -> None:
        if self._place.before(file.inner) != file.before:
            raise SynclineError(
                "TARGET_CHANGED", f"{shown(file.inner)} at {self._place} was changed meanwhile; it stays"
            )
        chunks = _proved(blob, file)
        if file.sealed:
            assert self._key is not None
            chunks = iter([unseal(self._key, file.path, b"".join(chunks))])
        self._place.write(file.inner, chunks)
        if self._place.content_id(file.inner) != file.content:
            raise SynclineError("DIGEST_MISMATCH", f"{shown(file.inner)} at {self._place} is not what {file.oid} is")

    def _blobs(self, files: Sequence[File]) -> Iterator[tuple[File, Blob]]:
        for at in range(0, len(files), _PORTION):
            portion = files[at : at + _PORTION]
            with self._branch.blobs([file.oid for file in portion]) as blobs:
                for file, blob in zip(portion, blobs, strict=True):
                    yield file, blob
                    for _ in blob.chunks:  # what was not read, or the next blob would begin there
                        pass


def _proved(blob: Blob, file: File) -> Iterator[bytes]:
    """Yield the chunks, hashed as they pass. Raises DIGEST_MISMATCH at the end."""
    digest = blob_hash(blob.size)
    for chunk in blob.chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != file.oid:
        raise SynclineError("DIGEST_MISMATCH", f"the bytes of {shown(file.path)} are not those of {file.oid}")
