"""Ownership of files at the target: the records of our files, and the evidence in the history of a branch.

A file is ours while the target has the fingerprint that is recorded for it: we wrote it, or found it equal to the
source. Every other file at the target is foreign: it is never changed, and the report shows it. Records are kept by
cluster.

If the table has no record of a file, because the table was lost or a function died after its push, the commits of a
branch count: the file is ours if a commit with our trailer put it. The table stores up to which commit the history was
read, so a scan reads only newer commits, and our commits since then. If the branch no longer has one of those, it was
reset, and the records are of files that no longer exist; the complete history is then read again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from syncline.clients.git.objects import TreeEntry
from syncline.clients.git.repository import RemoteBranch
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.backups.paths import Layout, shown
from syncline.kinds.backups.report import SYNC
from syncline.kinds.backups.source import ClusterListing
from syncline.kinds.facts import FactStore
from syncline.kinds.kind import StepContext
from syncline.model import Outcome, Result
from syncline.ownership import Windows

EXTRAS: Final = 100  # extras of a cluster that have a result in a run; further ones are only counted
_RETENTION: Final = 10 * 365 * 86_400.0  # seconds for which the position in the history is stored
_MOST_PUSHED: Final = 8
"""Commits of ours remembered since the history was read; beyond that, the complete history is read next time."""


@dataclass(frozen=True, slots=True)
class OwnedFile:
    """A file of ours: its fingerprint at the target, and the ETag and the size in bytes of its object.

    `etag` is "" and `size` -1 if unknown. `created` is the time (Unix seconds) at which the file appeared at the
    target; 0 if it existed before, or has explained a rename.
    """

    fingerprint: str
    etag: str = ""
    size: int = -1
    created: int = 0

    def is_at(self, fingerprint: str) -> bool:
        """Return True if a file at the target with this fingerprint is the recorded one."""
        return self.fingerprint in (fingerprint, without_mode(fingerprint))

    @property
    def marks(self) -> tuple[object, ...]:
        """See :func:`content_marks`."""
        return content_marks(self.fingerprint, self.etag, self.size)


def without_mode(fingerprint: str) -> str:
    """Return a fingerprint without the mode that git's client puts before that of an executable file or a link.

    A file of ours stays ours if somebody changes its mode.
    """
    return re.sub(r"^1[0-7]{5}:", "", fingerprint)


def content_marks(fingerprint: str | None, etag: str | None, size: int | None) -> tuple[object, ...]:
    """Return values that files of equal content share: the fingerprint, and ETag with size, each if known."""
    marks: list[object] = [fingerprint] if fingerprint else []
    return (*marks, (etag, size)) if etag and size is not None and size >= 0 else tuple(marks)


def foreign(group: str, key: str, source: str | None, target: str) -> Result:
    """Return the result of a foreign file: a conflict if the source has another file under its name, else an extra."""
    if source is None:
        return Result(group, key, Outcome.EXTRA, None, target)
    what = f"{shown(key)} was not written by this sync, and differs from the source"
    return Result(group, key, Outcome.CONFLICT, source, target, 0, "FILE_DIFFERS", what)


class ClusterRecords(Protocol):
    """The records of one cluster: see :class:`syncline.store.files.FileRecords`."""

    def known(self, names: Iterable[str]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]: ...

    def scan(self) -> Iterator[tuple[str, list[Any]]]: ...

    def count(self) -> int: ...

    def write(self, changes: Mapping[str, list[Any] | None]) -> object: ...


@dataclass(frozen=True, slots=True)
class OwnedFiles:
    """The records of a sync's files at the target.

    `records` returns the records of a cluster, `windows` the removals of a cluster ("" for all clusters). `clock`
    returns Unix seconds.
    """

    layout: Layout
    records: Callable[[str], ClusterRecords]
    windows: Callable[[str], Windows]
    facts: FactStore
    clock: Callable[[], float]

    def of(self, cluster: str) -> dict[str, OwnedFile]:
        """Return the records of a cluster by key."""
        prefix = self.layout.prefix
        return {prefix + name: OwnedFile(*row) for name, row in self.records(cluster).scan()}

    def has(self, cluster: str) -> bool:
        """Return True if any file of a cluster is ours."""
        return self.records(cluster).count() > 0

    def get(self, keys: Iterable[str]) -> dict[str, OwnedFile]:
        """Return the records of those keys that have one."""
        found: dict[str, OwnedFile] = {}
        for cluster, names in self._by_cluster(dict.fromkeys(keys)).items():
            rows, _ = self.records(cluster).known(names)
            found |= {self.layout.prefix + name: OwnedFile(*row) for name, row in rows.items()}
        return found

    def write(self, changes: Mapping[str, OwnedFile | None]) -> None:
        """Write records by key; None deletes a record."""
        for cluster, named in self._by_cluster(changes).items():
            rows = {n: None if f is None else [f.fingerprint, f.etag, f.size, f.created] for n, f in named.items()}
            self.records(cluster).write(rows)

    def count(self, clusters: Iterable[str]) -> int:
        """Return the number of selected files of these clusters that are ours."""
        return sum(self.layout.takes(key) for cluster in clusters for key in self.of(cluster))

    def _by_cluster(self, keys: Mapping[str, OwnedFile | None]) -> dict[str, dict[str, OwnedFile | None]]:
        found: dict[str, dict[str, OwnedFile | None]] = defaultdict(dict)
        for key, file in keys.items():
            cluster = self.layout.cluster_of(key)
            if cluster is not None:
                found[cluster][key.removeprefix(self.layout.prefix)] = file
        return found


def check_listing(
    bucket: Bucket, layout: Layout, found: ClusterListing, at_target: Collection[str], owned: OwnedFiles
) -> None:
    """Check a bucket's list of clusters against the clusters of the target.

    Raises LISTING_INCOMPLETE if the bucket lists none although clusters at the target have files of ours, and
    SOURCE_ABSENT if the bucket has no object below the source's prefix.
    """
    if found.names:
        return
    ours = [cluster for cluster in at_target if owned.has(cluster)]
    if ours:
        what = f"{bucket} lists no cluster, but the target has {len(ours)}"
        raise SynclineError("LISTING_INCOMPLETE", what)
    if found.is_empty and layout.prefix:
        raise SynclineError("SOURCE_ABSENT", f"{bucket} has no object below {layout.prefix!r}")


def entries_of(branch: RemoteBranch, layout: Layout, keys: Iterable[str]) -> dict[str, TreeEntry | None]:
    """Return the entry of each key in the tree of a branch's tip, None if it has none."""
    paths = {key: layout.path_of(key).encode(errors="surrogateescape").rpartition(b"/") for key in keys}
    folders = branch.folders({folder for folder, _, _ in paths.values()})
    return {key: folders[folder].get(name) for key, (folder, _, name) in paths.items()}


class BranchEvidence:
    """Ownership by the history of one branch. Create it before the branch is fetched: the stored position is older."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of one scan of a branch
        self, sync: str, reference: str, layout: Layout, owned: OwnedFiles, branch: RemoteBranch, context: StepContext
    ) -> None:
        self._sync = sync
        self._layout = layout
        self._owned = owned
        self._branch = branch
        self._context = context
        self._fact = f"backups-history:{sync}:{reference}:{layout.folder}"
        since, *pushed = (owned.facts.recall(self._fact) or "").split(" ")
        self._since, self._pushed = since or None, tuple(pushed)
        self._tip: str | None = None
        self._put: dict[str, str | None] = {}
        self._learned: dict[str, OwnedFile] = {}

    def has(self, key: str, blob: str) -> bool:
        """Return True if our latest commit that changed the key put this blob. Reads the history once for each tip."""
        tip = self._branch.tip.oid if self._branch.tip else None
        if tip is not None and tip != self._tip and (tip != self._since or self._pushed):
            self._read()
            self._tip = tip
        return self._put.get(key) == without_mode(blob)

    def learned(self) -> dict[str, OwnedFile]:
        """Return the records that were written from the history since the last call."""
        learned, self._learned = self._learned, {}
        return learned

    def note(self, before: str | None) -> None:
        """Store that the branch's last commit is ours and follows the commit `before`.

        Call this before its files are recorded, and :meth:`settle` after. If the branch loses the commit, the records
        are ahead of it, and only this note causes the history to be read.
        """
        if self._branch.tip is None:
            return
        tip, pushed = self._branch.tip.oid, self._pushed
        pushed = (*(pushed[:-1] if pushed and before == pushed[-1] else pushed), tip)
        self._remember(*((self._since, pushed) if len(pushed) <= _MOST_PUSHED else (None, (tip,))))

    def settle(self, before: str | None) -> None:
        """Store that everything up to the branch's last commit is recorded, if it directly follows what was read."""
        if self._branch.tip is not None and self._pushed == (self._branch.tip.oid,) and before == self._since:
            self._remember(self._branch.tip.oid)

    def _read(self) -> None:
        layout = self._layout
        trailer, folder = f"{SYNC}: {self._sync}", layout.folder.encode()
        put = self._branch.blobs_with_trailer(self._since, trailer, folder, having=self._pushed)
        # Earlier results are kept: this read may cover newer commits only.
        self._put |= {layout.key_of(path.decode("utf-8", "surrogateescape")): blob for path, blob in put.items()}
        if self._context.plan or self._branch.tip is None:
            return
        recorded = self._owned.get(self._put)
        new = {key: blob for key, blob in self._put.items() if blob and key not in recorded}
        learned = {key: OwnedFile(blob) for key, blob in (new | self._unrecorded(recorded)).items()}
        self._owned.write(learned)
        self._learned |= learned
        self._remember(self._branch.tip.oid)

    def _unrecorded(self, recorded: Mapping[str, OwnedFile]) -> dict[str, str]:
        """Return the blobs, by key, that we put after the record was written and that the branch still has."""
        latest = ((key, self._put[key], file.fingerprint) for key, file in recorded.items())
        put = {key: blob for key, blob, known in latest if blob is not None and blob != known}
        entries = entries_of(self._branch, self._layout, put)
        return {key: blob for key, blob in put.items() if (entry := entries[key]) is not None and entry.oid == blob}

    def _remember(self, since: str | None, pushed: tuple[str, ...] = ()) -> None:
        self._since, self._pushed = since, pushed
        self._owned.facts.remember(self._fact, " ".join((since or "", *pushed)), _RETENTION)
