"""Restores: a cluster or namespace as of any commit, into a folder or a bucket.

First everything is planned and nothing is written: the files of the commit are listed, the bytes of each are checked
against its ID, and the files of the target are read. Then each file is written beside the old one, swapped in, and read
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.clients.git.objects import TreeEntry, blob_hash, blob_id, decode_name
from syncline.clients.git.repository import BlobContent, RemoteBranch
from syncline.errors import CodeName, SynclineError
from syncline.kinds.backups.paths import Layout, path_problem, shown
from syncline.kinds.backups.secrets_detection import LARGEST
from syncline.kinds.backups.secrets_filter import MAGIC, decrypt
from syncline.kinds.backups.stores import FileStore

_PORTION: Final = 500  # blobs fetched in one request
SEARCHED: Final = 100
"""Commits searched for the newest signed, or unsigned, one."""
_AT_ONCE: Final = 8  # files of the target read at a time
_MODES: Final = {b"100644", b"100755", b"100664"}  # modes of files; old versions of git wrote the last one
_OF_ONE_FILE: Final[tuple[CodeName, ...]] = (
    "DIGEST_MISMATCH",
    "FILE_REFUSED",
    "FORBIDDEN",
    "LINK_REFUSED",
    "PATH_COLLIDES",
    "PATH_REFUSED",
    "REFUSED",
    "TARGET_CHANGED",
    "TOO_LARGE",
)
"""Codes of failures that concern one file and not the next."""


@dataclass(frozen=True, slots=True, order=True)
class NotRestored:
    """A file that is not restored, by its path at the target."""

    path: str
    code: CodeName
    reason: str

    @classmethod
    def by(cls, path: str, error: SynclineError) -> NotRestored:
        return cls(path, error.code.name, error.what)


@dataclass(frozen=True, slots=True)
class RestoreFile:
    """A file to restore: its path in the tree and at the target, its blob, and content IDs of it and of what it replaces."""

    path: str
    target_path: str
    oid: str
    content: str = ""
    encrypted: bool = False
    before: str | None = None


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """The files to write, the number of files that are at the target already, and files that cannot be restored."""

    commit: str
    files: tuple[RestoreFile, ...]
    unchanged: int
    refused: tuple[NotRestored, ...]
    signed: bool | None = None
    """True if the commit has a valid signature, None if no key is configured."""
    unsigned_ancestor: str | None = None
    """The newest of the commits searched below a signed one that has no valid signature."""

    @property
    def overwritten(self) -> list[str]:
        """The paths at the target of files with other content."""
        return [file.target_path for file in self.files if file.before is not None]


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """The numbers of files and bytes written, and of files that were decrypted or replaced others."""

    commit: str
    files: int
    bytes: int
    decrypted: int
    overwritten: int
    unchanged: int
    refused: tuple[NotRestored, ...]


@dataclass(frozen=True, slots=True)
class Restorer:
    """Restores files from one branch to one target, None to only examine them. `key` decrypts encrypted files.

    `signers` are the public keys of which the commit must have a signature; without any, none is needed. `unsigned`
    accepts a commit without one.
    """

    branch: RemoteBranch
    layout: Layout
    target: FileStore | None
    key: str | None = field(default=None, repr=False)
    signers: tuple[str, ...] = ()
    unsigned: bool = False

    def plan(self, part: str, at: str | None = None) -> RestorePlan:
        """Return the plan for restoring `part` (``<cluster>`` or ``<cluster>/<namespace>``) without writing anything.

        `at` is a commit's ID or its first digits; None for the branch's last commit. Raises NOT_FOUND if the commit or
        the part does not exist, COMMIT_UNSIGNED if the commit lacks a signature, and the errors of branch and target.
        """
        tip = self.branch.fetch() if at is None else self.branch.fetch_commit(at)
        if tip is None:
            raise SynclineError("NOT_FOUND", f"the repository has no branch {self.branch.name}")
        signed = self._check_signature(tip.oid)
        unsigned = self.branch.newest_unsigned(self.signers, SEARCHED) if signed else None
        files, refused = self.examine(self._entries(part))
        if not files and not refused:
            raise SynclineError("NOT_FOUND", f"{tip.oid} on {self.branch.name} has no files of {part}")
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="restore") as pool:
            compared = list(pool.map(self._with_before, files))
        refused += [each for each in compared if isinstance(each, NotRestored)]
        found = [each for each in compared if isinstance(each, RestoreFile)]
        wanted = tuple(file for file in found if file.before != file.content)
        return RestorePlan(tip.oid, wanted, len(found) - len(wanted), tuple(sorted(refused)), signed, unsigned)

    def examine(self, entries: Iterable[tuple[bytes, TreeEntry]]) -> tuple[list[RestoreFile], list[NotRestored]]:
        """Read all bytes of entries of the tree; return the files that can be restored, and the others."""
        refused: list[NotRestored] = []
        files = list(self._restorable(entries, refused))
        return list(self._examined(files, refused)), refused

    def _check_signature(self, commit: str) -> bool | None:
        """Return True if the fetched commit is signed, None if no key is configured. Raises COMMIT_UNSIGNED."""
        if not self.signers:
            return None
        signed = self.branch.is_signed(self.signers)
        if signed or self.unsigned:
            return signed
        newest = self.branch.newest_signed(self.signers, SEARCHED)
        hint = f"none of its last {SEARCHED} commits is" if newest is None else f"the newest signed one is {newest}"
        what = f"{commit} on {self.branch.name} has no valid signature of a configured key; {hint}"
        raise SynclineError("COMMIT_UNSIGNED", what)

    def _entries(self, part: str) -> Iterator[tuple[bytes, TreeEntry]]:
        cluster = part.partition("/")[0]
        root = self.layout.folder.encode()
        entry = self.branch.folders([root])[root].get(cluster.encode())
        if entry is None or not entry.is_folder:
            return
        above = f"{self.layout.path_of(self.layout.prefix + part)}/".encode()
        for path, each in self.branch.files(self.layout.cluster_path(cluster).encode(), entry.oid):
            if path.startswith(above):
                yield path, each

    def _restorable(
        self, entries: Iterable[tuple[bytes, TreeEntry]], refused: list[NotRestored]
    ) -> Iterator[RestoreFile]:
        """Yield the entries that can be files. Others may have committed what this sync would not."""
        skip = len(self.layout.folder.encode()) + 1 if self.layout.folder else 0
        for raw, entry in entries:
            path, target_path = decode_name(raw), raw[skip:].decode("utf-8", "backslashreplace")
            if path is None:
                refused.append(NotRestored(target_path, "PATH_REFUSED", f"{shown(target_path)} is not UTF-8"))
            elif (problem := path_problem(target_path)) is not None:
                refused.append(NotRestored(target_path, "PATH_REFUSED", f"{shown(target_path)} {problem}"))
            elif entry.mode not in _MODES:
                kind = {b"160000": "a submodule", b"120000": "a symbolic link"}.get(entry.mode, "not a file")
                refused.append(NotRestored(target_path, "ENTRY_UNSUPPORTED", f"{shown(target_path)} is {kind}"))
            else:
                yield RestoreFile(path, target_path, entry.oid)

    def _examined(self, files: Sequence[RestoreFile], refused: list[NotRestored]) -> Iterator[RestoreFile]:
        """Read every blob to check its bytes and that an encrypted one can be decrypted."""
        for file, blob in self._blobs(files):
            try:
                yield self._with_content(file, blob)
            except SynclineError as error:
                if not error.is_any("DIGEST_MISMATCH", "SECRET_SEALED"):
                    raise
                refused.append(NotRestored.by(file.target_path, error))

    def _with_content(self, file: RestoreFile, blob: BlobContent) -> RestoreFile:
        chunks = _checked(blob, file)
        first = next(chunks, b"")
        if not first.startswith(MAGIC):
            for _ in chunks:
                pass
            return replace(file, content=file.oid)
        if self.key is None or blob.size > 2 * LARGEST:
            raise SynclineError("SECRET_SEALED", f"{shown(file.target_path)} is encrypted, and there is no key for it")
        data = decrypt(self.key, file.path, b"".join((first, *chunks)))
        return replace(file, content=blob_id(data), encrypted=True)

    def _with_before(self, file: RestoreFile) -> RestoreFile | NotRestored:
        assert self.target is not None
        try:
            return replace(file, before=self.target.before(file.target_path))
        except SynclineError as error:
            if error.code.name not in _OF_ONE_FILE:
                raise
            return NotRestored.by(file.target_path, error)

    def write(self, plan: RestorePlan) -> RestoreResult:
        """Write the planned files. A file that fails is reported, and the others are written.

        If the target itself fails (it is full, unreachable or gone), the remaining files are reported and not tried.
        """
        refused = list(plan.refused)
        written: list[tuple[RestoreFile, int]] = []
        for number, (file, blob) in enumerate(self._blobs(plan.files), 1):
            try:
                self._write(file, blob)
                written.append((file, blob.size))
            except SynclineError as error:
                refused.append(NotRestored.by(file.target_path, error))
                if error.code.name not in _OF_ONE_FILE:
                    reason = f"not tried: {error.what}"
                    refused += [NotRestored(rest.target_path, error.code.name, reason) for rest in plan.files[number:]]
                    break
        return RestoreResult(
            plan.commit,
            len(written),
            sum(size for _, size in written),
            sum(file.encrypted for file, _ in written),
            sum(file.before is not None for file, _ in written),
            plan.unchanged,
            tuple(sorted(refused)),
        )

    def _write(self, file: RestoreFile, blob: BlobContent) -> None:
        assert self.target is not None
        where = f"{shown(file.target_path)} at {self.target}"
        if self.target.before(file.target_path) != file.before:
            raise SynclineError(
                "TARGET_CHANGED", f"{where} was changed by another writer during the restore, and is not overwritten"
            )
        chunks = _checked(blob, file)
        if file.encrypted:
            assert self.key is not None
            chunks = iter([decrypt(self.key, file.path, b"".join(chunks))])
        self.target.write(file.target_path, chunks)
        if self.target.content_id(file.target_path) != file.content:
            raise SynclineError("DIGEST_MISMATCH", f"{where} differs from {file.oid}")

    def _blobs(self, files: Sequence[RestoreFile]) -> Iterator[tuple[RestoreFile, BlobContent]]:
        for at in range(0, len(files), _PORTION):
            portion = files[at : at + _PORTION]
            with self.branch.blobs([file.oid for file in portion]) as blobs:
                for file, blob in zip(portion, blobs, strict=True):
                    yield file, blob
                    for _ in blob.chunks:  # read the rest, or the next blob would begin there
                        pass


def _checked(blob: BlobContent, file: RestoreFile) -> Iterator[bytes]:
    """Yield the chunks, hashed as they pass. Raises DIGEST_MISMATCH at the end."""
    digest = blob_hash(blob.size)
    for chunk in blob.chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != file.oid:
        raise SynclineError("DIGEST_MISMATCH", f"the bytes of {shown(file.path)} do not match {file.oid}")
